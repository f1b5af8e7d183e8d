//! Leases: which container has which address.
//!
//! The files are those of host-local, so that a node can move between it and us: a directory per
//! network with one file per leased address, `<dataDir>/<network>/<address>`, that holds
//! `containerID\r\nifname`; `last_reserved_ip.<range set>`; and `lock`, on which everybody who
//! changes something holds an exclusive `flock`. Files that hold a container ID alone are leases
//! of a time before interface names were written; they count and are released like the others.
//!
//! host-local reads all files to find those of one container. We keep an index beside them, in
//! hidden names that host-local ignores ([`index`], [`pool`]), so that the cost of ADD and DEL does
//! not grow with the number of leases. The index is never needed for correctness: it is made
//! again when another process changed the directory ([`state`]), and a DEL of which it knows
//! nothing reads all files, because one may have been written over in place.
//!
//! A lease appears complete or not at all: it is written without a name and then linked. A call
//! that is killed leaves at most an index entry without a lease, or a lease that the next DEL
//! releases.

mod allocation;
mod directory;
mod file;
mod index;
mod listing;
mod pool;
mod state;
mod store;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::errno::Errno;
use nix::unistd::geteuid;

pub use self::allocation::AllocationError;
pub use self::listing::{Unreadable, list, read_all};
pub use self::store::Store;

use crate::hash::fnv1a;

/// The directory that host-local uses if the configuration names none.
pub const DEFAULT_DATA_DIR: &str = "/var/lib/cni/networks";

/// With this begins the container ID in the lease of an address that a pod of an earlier plugin
/// has. The agent writes such leases and ends them; runtimes give their containers no such ID.
pub const ADOPTED: &str = "adopted-";

/// Whose lease it is: one interface of one container.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner {
    /// The container ID.
    pub container_id: String,
    /// The interface in the container; `None` in leases of the old format.
    pub ifname: Option<String>,
}

/// A lease on disk.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Lease {
    /// The leased address.
    pub address: IpAddr,
    /// Whose it is.
    pub owner: Owner,
    /// When it was written.
    pub since: SystemTime,
}

/// Something about the lease directory that did not work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "cannot {action} {}: {}{}",
    path.display(), errno.desc(), advice(*errno, geteuid().is_root())
)]
pub struct StoreError {
    /// What was attempted, as a verb phrase: `create lease`.
    pub action: &'static str,
    /// On which file or directory.
    pub path: PathBuf,
    /// Why it failed.
    pub errno: Errno,
}

/// What came of releasing several leases.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Released<'a> {
    /// Those that were released.
    pub leases: Vec<&'a Lease>,
    /// Why the first one was not that could not be.
    pub failure: Option<StoreError>,
}

/// Releases those of `leases` that still are as [`list`] found them in the directory of a network;
/// goes on after a failure. They are told to `part` before, and no one can get them meanwhile. `None` if
/// another process is at work there: nothing is done then, and no one had to wait.
pub fn try_release<'a>(
    directory: &Path,
    leases: &[&'a Lease],
    part: &mut dyn FnMut(&[&Lease]),
) -> Result<Option<Released<'a>>, StoreError> {
    let Some(mut store) = Store::try_open(directory)? else {
        return Ok(None);
    };
    let mut released = Released::default();
    // Of what cannot be read the release tells.
    let are_there = |lease: &&&Lease| store.is_there(lease).unwrap_or(true);
    let there: Vec<&Lease> = leases.iter().filter(are_there).copied().collect();
    part(&there);
    for lease in leases {
        match store.release_lease(lease) {
            Ok(true) => released.leases.push(*lease),
            Ok(false) => {}
            Err(error) => released.failure = released.failure.or(Some(error)),
        }
    }
    store.finish();
    Ok(Some(released))
}

/// The address that the name of a lease file spells.
fn address_of(name: &str) -> Option<IpAddr> {
    name.parse().ok()
}

impl Owner {
    /// The interface `ifname` of the container `container_id`.
    pub fn new(container_id: &str, ifname: &str) -> Self {
        Self {
            container_id: container_id.to_owned(),
            ifname: Some(ifname.to_owned()),
        }
    }

    /// The same container in leases of the old format.
    pub fn in_old_format(&self) -> Self {
        Self {
            container_id: self.container_id.clone(),
            ifname: None,
        }
    }

    /// The interface in the container: of a lease in the old format, which names none, the one that runtimes
    /// ask for.
    pub fn likely_ifname(&self) -> &str {
        self.ifname.as_deref().unwrap_or("eth0")
    }

    /// Whether a pod of an earlier plugin has the address ([`ADOPTED`]).
    pub fn is_adopted(&self) -> bool {
        self.container_id.starts_with(ADOPTED)
    }

    /// A hash, to remember an owner by.
    fn hash(&self) -> u64 {
        fnv1a(self.content().into_bytes())
    }

    /// What a lease of this owner holds.
    fn content(&self) -> String {
        match &self.ifname {
            Some(ifname) => format!("{}\r\n{ifname}", self.container_id),
            None => self.container_id.clone(),
        }
    }

    /// Whose lease holds `content`; `None` if it names no container. Lines may end as people's
    /// editors end them.
    fn parse(content: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(content).ok()?;
        let mut lines = text.trim().lines().map(str::trim);
        let container_id = lines.next()?;
        let named = !container_id.is_empty() && !text.contains('\0');
        let ifname = lines.next().map(str::to_owned);
        named.then(|| Self {
            container_id: container_id.to_owned(),
            ifname,
        })
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.ifname {
            Some(ifname) => write!(f, "{}/{ifname}", self.container_id),
            None => f.write_str(&self.container_id),
        }
    }
}

impl StoreError {
    fn new(action: &'static str, path: &Path, error: &io::Error) -> Self {
        let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
        Self {
            action,
            path: path.to_owned(),
            errno,
        }
    }
}

/// What to do about an error number; starts with its separator. Root is refused as well what no one
/// may do, such as to remove a file that cannot be changed (chattr(1)).
fn advice(errno: Errno, root: bool) -> &'static str {
    match errno {
        Errno::EROFS => "; make the file system writable, or set ipam.dataDir to one that is",
        Errno::ENOSPC | Errno::EDQUOT => "; free some space there",
        Errno::EACCES | Errno::EPERM if !root => "; run the plugin as root",
        Errno::ENOTDIR | Errno::ENAMETOOLONG | Errno::ELOOP => {
            "; set ipam.dataDir to a directory that can be made"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_owner_writes_names_the_owner() {
        let owner = Owner::new("abc", "eth0");
        assert_eq!(owner.content(), "abc\r\neth0");
        assert_eq!(Owner::parse(b"abc\r\neth0"), Some(owner));
    }

    #[test]
    fn a_file_of_the_old_format_names_a_container_alone() {
        let owner = Owner::parse(b"abc\n").unwrap();
        assert_eq!(owner, Owner::new("abc", "eth0").in_old_format());
        assert_eq!(owner.content(), "abc");
    }

    #[test]
    fn lines_may_end_in_any_way() {
        for content in [
            "abc\neth0",
            "abc\neth0\n",
            "abc\r\neth0\r\n",
            " abc \r\n eth0 \n\n",
        ] {
            let owner = Owner::parse(content.as_bytes());
            assert_eq!(owner, Some(Owner::new("abc", "eth0")), "{content:?}");
        }
        for content in ["abc", "abc\n", "abc\r\n", "abc\n\n"] {
            let owner = Owner::parse(content.as_bytes()).unwrap();
            assert_eq!(owner, Owner::new("abc", "").in_old_format(), "{content:?}");
        }
    }

    #[test]
    fn an_error_says_what_to_do() {
        let error = StoreError {
            action: "create lease",
            path: "/run/x/10.0.0.1".into(),
            errno: Errno::ENOSPC,
        };
        let text = "cannot create lease /run/x/10.0.0.1: No space left on device; free some space \
                    there";
        assert_eq!(error.to_string(), text);
        assert_eq!(advice(Errno::EPERM, false), "; run the plugin as root");
        assert_eq!(advice(Errno::EPERM, true), "");
    }
}
