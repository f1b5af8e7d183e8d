//! Kernel settings that Services need or that a busy node wants.
//!
//! None of them is fatal: in a container most of /proc/sys cannot be written, and Services work
//! all the same.

use std::path::Path;
use std::time::Duration;

use nix::libc;
use podwire_kernel::sysctl;

use crate::config::services::Config;
use crate::originals::{
    self, BE_LIBERAL, CONNTRACK_MAX, ROUTE_LOCALNET, TIMEOUT_CLOSE_WAIT, TIMEOUT_ESTABLISHED,
};

/// No more connections than this, however many cores there are.
const MAX: u64 = 1_048_576;

/// Sets what the settings ask for; what could not be set and what follows, one sentence each.
pub fn apply(config: &Config, run_dir: &Path) -> Vec<String> {
    let mut texts = Vec::new();
    let wanted = conntrack_max(config, cores());
    if wanted > 0 {
        texts.extend(raise(CONNTRACK_MAX, wanted, run_dir));
    }
    texts.extend(seconds(
        TIMEOUT_ESTABLISHED,
        config.conntrack_tcp_timeout_established,
        run_dir,
    ));
    texts.extend(seconds(
        TIMEOUT_CLOSE_WAIT,
        config.conntrack_tcp_timeout_close_wait,
        run_dir,
    ));
    if config.conntrack_tcp_be_liberal {
        texts.extend(set(BE_LIBERAL, "1", run_dir));
    }
    texts
}

/// Lets node ports answer on 127.0.0.1, or says why that fails and what follows. Only with the
/// table's guard is that safe.
pub fn open_localhost(run_dir: &Path) -> Option<String> {
    let error = originals::ensure(ROUTE_LOCALNET, "1", run_dir).err()?;
    Some(format!("{error}: node ports do not answer on 127.0.0.1"))
}

/// Takes back what must not outlive the tables.
pub fn withdraw(run_dir: &Path) -> Result<(), originals::Error> {
    if let Some(value) = originals::restore_one(ROUTE_LOCALNET, run_dir)? {
        tracing::info!(key = ROUTE_LOCALNET, value, "kernel setting put back");
    }
    Ok(())
}

/// How many connections may be tracked at most; 0 for as many as the kernel likes.
fn conntrack_max(config: &Config, cores: u64) -> u64 {
    match u64::from(config.conntrack_max_per_core) {
        0 => 0,
        per_core => (per_core * cores).max(config.conntrack_min.into()).min(MAX),
    }
}

fn cores() -> u64 {
    std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64)
}

/// Raises a number; a higher one stays, because it was set on purpose.
fn raise(key: &str, wanted: u64, run_dir: &Path) -> Option<String> {
    let now = sysctl::read(key).ok()?.parse::<u64>().ok()?;
    if now >= wanted {
        None
    } else {
        set(key, &wanted.to_string(), run_dir)
    }
}

fn seconds(key: &str, duration: Duration, run_dir: &Path) -> Option<String> {
    if duration.is_zero() {
        None
    } else {
        set(key, &duration.as_secs().to_string(), run_dir)
    }
}

/// Sets a parameter. Not being allowed to is worth a line in the log, not a standing warning:
/// the node's own value is then as the node's owner wants it.
fn set(key: &str, value: &str, run_dir: &Path) -> Option<String> {
    match originals::ensure(key, value, run_dir) {
        Ok(_) => None,
        Err(originals::Error::Kernel(error))
            if matches!(
                error.errno(),
                Some(libc::EACCES | libc::EPERM | libc::EROFS | libc::ENOENT)
            ) =>
        {
            tracing::info!(%error, value, "left as it is");
            None
        }
        Err(error) => Some(format!("{}: left as it is", crate::error::chain(&error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_connections_grows_with_the_cores_within_limits() {
        let config = Config::default();
        assert_eq!(conntrack_max(&config, 1), 131_072);
        assert_eq!(conntrack_max(&config, 8), 262_144);
        assert_eq!(conntrack_max(&config, 1000), 1_048_576);
        let off = Config {
            conntrack_max_per_core: 0,
            ..config
        };
        assert_eq!(conntrack_max(&off, 8), 0);
    }
}
