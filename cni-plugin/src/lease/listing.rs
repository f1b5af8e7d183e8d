//! The leases of a network, and the addresses whose owner cannot be told.

use std::fs::File;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use nix::libc;

use super::file::{Found, Holder, look};
use super::{Lease, StoreError, address_of};

/// An address that counts as taken because what has its name cannot be understood: a directory, a
/// link, a file that cannot be read or names no container.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "cannot tell who has the address {address} by {}: {reason}; it is not leased: remove the file \
     if no container has the address",
    path.display()
)]
pub struct Unreadable {
    /// What has the name.
    pub path: PathBuf,
    /// The address.
    pub address: IpAddr,
    /// Why it cannot be understood.
    pub reason: String,
}

/// All leases of the network whose directory is `directory`; none if there is no such directory.
///
/// Reads without the lock, so the leases are those of about now. What is not a lease is left out.
pub fn list(directory: &Path) -> Result<Vec<Lease>, StoreError> {
    Ok(read_all(directory)?.0)
}

/// As [`list`], and beside the leases the addresses that count as taken by an owner that is not
/// known.
pub fn read_all(directory: &Path) -> Result<(Vec<Lease>, Vec<Unreadable>), StoreError> {
    let (mut leases, mut unreadable) = (Vec::new(), Vec::new());
    let failed = |error| StoreError::new("list leases in", directory, &error);
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        // No directory is behind a link to itself.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ELOOP)) => {
            return Ok((leases, unreadable));
        }
        Err(error) => return Err(failed(error)),
    };
    let opened = File::open(directory).map_err(failed)?;
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        let Some((name, address)) = name
            .to_str()
            .and_then(|name| Some((name, address_of(name)?)))
        else {
            continue;
        };
        let usual = address.to_string();
        if name != usual && directory.join(usual).symlink_metadata().is_ok() {
            // Of two spellings of one address, the usual one says whose it is.
            continue;
        }
        let found = look(&opened, name).map_err(|errno| failed(errno.into()))?;
        let Some(Found { holder, since }) = found else {
            continue;
        };
        let reason = match holder {
            Holder::Owner(owner) => {
                leases.push(Lease {
                    address,
                    owner,
                    since,
                });
                continue;
            }
            Holder::Unknown(reason) => reason,
            Holder::NoOne => "it is empty".to_owned(),
        };
        unreadable.push(Unreadable {
            path: directory.join(name),
            address,
            reason,
        });
    }
    leases.sort_unstable_by_key(|lease| lease.address);
    unreadable.sort_unstable_by_key(|one| one.address);
    Ok((leases, unreadable))
}
