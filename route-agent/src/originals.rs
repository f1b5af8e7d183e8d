//! Kernel settings before ours.
//!
//! Every change of a setting goes through here: the value that was found goes into a file in
//! the run directory first, so that `uninstall` can put it back. The file lives as long as the
//! settings do: both are gone after a reboot.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use podwire::files::create_directory;
use podwire_kernel::sysctl;

use crate::files::{self, Durability, FileError};
use crate::ours::Removal;

const FILE: &str = "sysctl.json";

/// A setting could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refuses.
    #[error(transparent)]
    Kernel(#[from] podwire_kernel::Error),
    /// The record of changed settings cannot be read or written.
    #[error(transparent)]
    Record(#[from] FileError),
}

/// Sets a value unless it is set, and keeps the one before; says whether it had to be changed.
pub fn ensure(key: &str, value: &str, run_dir: &Path) -> Result<bool, Error> {
    let before = sysctl::read(key)?;
    if before == value {
        return Ok(false);
    }
    remember(run_dir, key, &before)?;
    sysctl::write(key, value)?;
    tracing::info!(key, value, "kernel setting changed");
    Ok(true)
}

/// The value that a setting had before the first change of ours, or has now if there was none.
pub fn before_us(key: &str, run_dir: &Path) -> Result<String, Error> {
    match read(&run_dir.join(FILE))?.remove(key) {
        Some(before) => Ok(before),
        None => Ok(sysctl::read(key)?),
    }
}

/// Puts everything back and forgets it; returns what, in a few words each.
pub fn restore(run_dir: &Path, how: Removal) -> Result<Vec<String>, Error> {
    let path = run_dir.join(FILE);
    let mut restored = Vec::new();
    for (key, value) in read(&path)? {
        let differs = match how {
            Removal::Act => sysctl::ensure(&key, &value),
            Removal::Look => sysctl::read(&key).map(|now| now != value),
        };
        match differs {
            // An interface that is gone took its settings with it.
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
            Ok(false) => {}
            Ok(true) => restored.push(match how {
                Removal::Act => format!("our value of sysctl {key}: it is {value} again"),
                Removal::Look => format!("our value of sysctl {key}: it was {value} before"),
            }),
        }
    }
    files::uninstall(&path, how)?;
    Ok(restored)
}

/// Puts one setting back and forgets it; says to what, if that changed it. What we never changed
/// stays.
pub fn restore_one(key: &str, run_dir: &Path) -> Result<Option<String>, Error> {
    let mut originals = read(&run_dir.join(FILE))?;
    let Some(before) = originals.remove(key) else {
        return Ok(None);
    };
    let changed = sysctl::ensure(key, &before)?;
    write(run_dir, &originals)?;
    Ok(changed.then_some(before))
}

/// The first value found is the one to keep.
fn remember(run_dir: &Path, key: &str, before: &str) -> Result<(), Error> {
    let mut originals = read(&run_dir.join(FILE))?;
    if originals.contains_key(key) {
        return Ok(());
    }
    originals.insert(key.to_owned(), before.to_owned());
    write(run_dir, &originals)
}

fn write(run_dir: &Path, originals: &BTreeMap<String, String>) -> Result<(), Error> {
    let path = run_dir.join(FILE);
    let text = serde_json::to_vec_pretty(originals)
        .map_err(|error| FileError::of("write", &path)(error.into()))?;
    create_directory(run_dir).map_err(FileError::of("create", run_dir))?;
    // The settings end with the boot, and so may their record.
    Ok(files::replace(&path, &text, 0o644, Durability::UntilBoot)?)
}

fn read(path: &Path) -> Result<BTreeMap<String, String>, Error> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map_err(|error| FileError::of("read", path)(error.into()).into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(error) => Err(FileError::of("read", path)(error).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_found_is_kept_however_often_it_changes() {
        let directory = tempfile::tempdir().unwrap();
        let run_dir = directory.path().join("run");
        remember(&run_dir, "net/a", "1").unwrap();
        remember(&run_dir, "net/b", "2").unwrap();
        remember(&run_dir, "net/a", "3").unwrap();
        let kept = read(&run_dir.join(FILE)).unwrap();
        let pairs: Vec<_> = kept.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(pairs, [("net/a", "1"), ("net/b", "2")]);
    }

    #[test]
    fn a_record_that_cannot_be_read_is_named_and_not_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        fs::write(&path, "[").unwrap();
        let error = remember(directory.path(), "net/a", "1").unwrap_err();
        assert_eq!(error.to_string(), format!("cannot read {}", path.display()));
        assert_eq!(fs::read_to_string(&path).unwrap(), "[");
    }
}
