//! Kernel parameters under `/proc/sys`, in the network namespace of the calling thread.
//!
//! Keys are written with slashes (`net/ipv4/ip_forward`), because interface names may contain
//! dots. Per-interface IPv4 parameters are cheaper through
//! [`LinkChange::ipv4_conf`](crate::link::LinkChange::ipv4_conf).

use std::fs;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

use crate::{Cause, Error, Result};

const ROOT: &str = "/proc/sys";

/// In a container that is not privileged `/proc/sys` is read-only. There the node's own is mounted
/// here: network parameters belong to the network namespace, and NET_ADMIN is enough to write
/// them.
const MOUNTED_ROOT: &str = "/host/proc/sys";

/// Reads a parameter, without the line end.
pub fn read(key: &str) -> Result<String> {
    let path = path_of("read sysctl", key)?;
    match fs::read_to_string(path) {
        Ok(text) => Ok(text.trim_end().to_owned()),
        Err(error) => Err(Cause::from(error).during("read sysctl", key)),
    }
}

/// Writes a parameter.
pub fn write(key: &str, value: &str) -> Result<()> {
    let path = path_of("write sysctl", key)?;
    let written = match fs::write(path, value) {
        Err(error) if error.kind() == ErrorKind::ReadOnlyFilesystem => {
            let mounted = Path::new(MOUNTED_ROOT).join(key);
            if mounted.exists() {
                fs::write(mounted, value)
            } else {
                Err(error)
            }
        }
        written => written,
    };
    written.map_err(|error| Cause::from(error).during("write sysctl", key))
}

/// Writes a parameter unless it has that value already; says whether it wrote. So it succeeds on a
/// read-only `/proc/sys` that is set up right.
pub fn ensure(key: &str, value: &str) -> Result<bool> {
    if read(key)? == value {
        return Ok(false);
    }
    write(key, value)?;
    Ok(true)
}

fn path_of(operation: &'static str, key: &str) -> Result<PathBuf> {
    let inside = Path::new(key)
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    if inside && !key.is_empty() {
        Ok(Path::new(ROOT).join(key))
    } else {
        let cause = Cause::Unsuitable("a key is a relative path such as net/ipv4/ip_forward");
        Err(Error::new(operation, format!("{key:?}"), cause))
    }
}
