//! Files that are seen whole or not at all.
//!
//! A file is replaced by writing its new content beside it and renaming that over it. The
//! directories in question may be writable by others than root (a volume, an operator's mistake),
//! so the temporary file is always made by this call: what lies at its name is removed first, be
//! it what a killed run left or a link that someone planted, and never opened. An empty directory
//! gives way as well; one with content is another's, and stays.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::ours::Removal;

/// Something could not be done with a file or directory.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {}", path.display())]
pub struct FileError {
    /// What was attempted, for example `write`.
    pub operation: &'static str,
    /// The file or directory.
    pub path: PathBuf,
    /// Why it failed.
    pub source: io::Error,
}

impl FileError {
    /// Makes an error of one of the standard library, for `map_err`.
    pub fn of(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
        let path = path.to_owned();
        move |source| FileError {
            operation,
            path,
            source,
        }
    }
}

/// How many other names are tried where directories have ours.
const MOST_NAMES: u32 = 100;

/// How long a file must last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// It must outlive a power cut, and so must the rename: file and directory are synced to disk.
    Durable,
    /// It is below `/run`, which ends with the boot: nothing is waited for.
    UntilBoot,
}

/// Puts `content` in place of the file at `path`, with these permissions less the umask. A process
/// that has the old file open keeps it.
pub fn replace(
    path: &Path,
    content: &[u8],
    permissions: u32,
    durability: Durability,
) -> Result<(), FileError> {
    let temporary = free(&temporary(path))?;
    let written = write_new(&temporary, content, permissions, durability)
        .map_err(FileError::of("write", &temporary))
        .and_then(|()| rename(&temporary, path).map_err(FileError::of("replace", path)));
    if let Err(error) = written {
        // Half a file is of no use, and the disk may be full. Failing to remove it adds nothing to that error.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    match (durability, path.parent()) {
        (Durability::Durable, Some(directory)) => File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(FileError::of("sync", directory)),
        _ => Ok(()),
    }
}

/// Gives a file another name, in place of what has it: a file, or an empty directory.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
            remove_entry(to)?;
            fs::rename(from, to)
        }
        done => done,
    }
}

/// This name, or one with a number, that nothing has, or nothing any more: where a directory with
/// content has one, the next is taken.
pub fn free(first: &Path) -> Result<PathBuf, FileError> {
    let mut number = 0;
    loop {
        let name = numbered(first, number);
        match remove_if_there(&name) {
            Ok(_) => return Ok(name),
            Err(error) if number == MOST_NAMES || !name.is_dir() => return Err(error),
            Err(_) => number += 1,
        }
    }
}

fn numbered(first: &Path, number: u32) -> PathBuf {
    let mut name = OsString::from(first);
    if number > 0 {
        name.push(format!(".{number}"));
    }
    PathBuf::from(name)
}

/// Removes a file, and what a killed [`replace`] of it may have left; says which of them were
/// there.
pub fn remove(path: &Path) -> Result<Vec<PathBuf>, FileError> {
    uninstall(path, Removal::Act)
}

/// What [`remove`] would remove, or does.
pub fn uninstall(path: &Path, how: Removal) -> Result<Vec<PathBuf>, FileError> {
    let goes = |path: &Path| match how {
        Removal::Act => remove_if_there(path),
        Removal::Look => Ok(is_there(path)),
    };
    let mut removed = Vec::new();
    if goes(path)? {
        removed.push(path.to_owned());
    }
    for number in 0..=MOST_NAMES {
        let temporary = numbered(&temporary(path), number);
        match goes(&temporary) {
            Ok(true) => removed.push(temporary),
            Ok(false) => break,
            // Not ours: the next was taken instead.
            Err(_) if temporary.is_dir() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(removed)
}

/// Whether a directory is there, which goes with all that is in it.
pub fn uninstall_tree(path: &Path, how: Removal) -> Result<bool, FileError> {
    match how {
        Removal::Act => remove_tree(path),
        Removal::Look => Ok(is_there(path)),
    }
}

/// A link counts, whether it leads anywhere or not.
fn is_there(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// Removes a file, or an empty directory that has its name; says whether it was there.
pub fn remove_if_there(path: &Path) -> Result<bool, FileError> {
    was_there(path, remove_entry(path))
}

fn remove_entry(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => {}
        removed => return removed,
    }
    fs::remove_dir(path).map_err(|error| match error.kind() {
        io::ErrorKind::DirectoryNotEmpty => {
            io::Error::other("it is a directory with content, which may be another's; move it away")
        }
        _ => error,
    })
}

/// Removes a directory with all that is in it, or what else has its name; says whether it was there.
pub fn remove_tree(path: &Path) -> Result<bool, FileError> {
    let removed = match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => fs::remove_file(path),
        removed => removed,
    };
    was_there(path, removed)
}

/// Removes a directory that has the name of a file of ours, with all that is in it. Others may have
/// made it while they could, and nothing else makes room for the file.
pub fn remove_directory(path: &Path) -> Result<(), FileError> {
    match fs::symlink_metadata(path).is_ok_and(|found| found.is_dir()) {
        true => remove_tree(path).map(drop),
        false => Ok(()),
    }
}

fn was_there(path: &Path, removed: io::Result<()>) -> Result<bool, FileError> {
    match removed {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(FileError::of("remove", path)(error)),
    }
}

/// The name under which a file is written before it is renamed: in the same directory, because
/// containerd does not see what is renamed in from elsewhere, hidden, and with an ending that no
/// container runtime reads. Always the same, so that what a killed run left is found again.
fn temporary(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".temp");
    path.with_file_name(name)
}

/// Writes a file that was not there.
fn write_new(
    path: &Path,
    content: &[u8],
    permissions: u32,
    durability: Durability,
) -> io::Result<()> {
    // O_EXCL: fails if someone has put anything there meanwhile, and never follows a link.
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(permissions)
        .open(path)?;
    file.write_all(content)?;
    match durability {
        Durability::Durable => file.sync_all(),
        Durability::UntilBoot => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    const BOTH: [Durability; 2] = [Durability::Durable, Durability::UntilBoot];

    fn directory_with_file() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        (directory, path)
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_as_a_whole_and_nothing_else_is_left() {
        for durability in BOTH {
            let (directory, path) = directory_with_file();
            replace(&path, b"one", 0o600, durability).unwrap();
            let before = File::open(&path).unwrap();
            replace(&path, b"two", 0o600, durability).unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"two");
            assert_eq!(io::read_to_string(before).unwrap(), "one");
            assert_eq!(names(directory.path()), ["file"]);
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn what_a_killed_run_left_does_not_stand_in_the_way() {
        let (directory, path) = directory_with_file();
        fs::write(temporary(&path), "half of somethi").unwrap();
        replace(&path, b"whole", 0o644, Durability::UntilBoot).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(names(directory.path()), ["file"]);
    }

    #[test]
    fn a_link_at_the_temporary_name_is_not_followed() {
        let (directory, path) = directory_with_file();
        let victim = directory.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        let inode = fs::metadata(&victim).unwrap().ino();
        for target in [&victim, &directory.path().join("made")] {
            symlink(target, temporary(&path)).unwrap();
            replace(&path, b"content", 0o644, Durability::Durable).unwrap();
            assert!(fs::symlink_metadata(&path).unwrap().is_file());
        }
        // A hard link is another name of the victim.
        fs::hard_link(&victim, temporary(&path)).unwrap();
        replace(&path, b"content", 0o644, Durability::Durable).unwrap();
        assert_eq!(fs::read(&victim).unwrap(), b"precious");
        assert_eq!(fs::metadata(&victim).unwrap().ino(), inode);
        assert_eq!(names(directory.path()), ["file", "victim"]);
    }

    #[test]
    fn a_link_in_place_of_the_file_is_replaced_and_not_followed() {
        let (directory, path) = directory_with_file();
        let victim = directory.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        symlink(&victim, &path).unwrap();
        replace(&path, b"content", 0o644, Durability::UntilBoot).unwrap();
        assert_eq!(fs::read(&victim).unwrap(), b"precious");
        assert_eq!(fs::read(&path).unwrap(), b"content");
    }

    #[test]
    fn a_failure_names_the_file_and_leaves_nothing_half_done() {
        let (directory, path) = directory_with_file();
        fs::create_dir_all(path.join("another's")).unwrap();
        let error = replace(&path, b"content", 0o644, Durability::Durable).unwrap_err();
        let expected = format!("cannot replace {}", path.display());
        assert_eq!(error.to_string(), expected);
        assert!(error.source.to_string().contains("move it away"));
        let error = remove(&path).unwrap_err();
        assert!(error.source.to_string().contains("move it away"));
        assert_eq!(names(directory.path()), ["file"]);
        let path = directory.path().join("no/such");
        let error = replace(&path, b"content", 0o644, Durability::Durable).unwrap_err();
        assert!(error.to_string().starts_with("cannot write "), "{error}");
    }

    #[test]
    fn directories_in_the_place_of_our_files_do_not_stand_in_the_way() {
        for durability in BOTH {
            let (directory, path) = directory_with_file();
            fs::create_dir(&path).unwrap();
            fs::create_dir(temporary(&path)).unwrap();
            replace(&path, b"content", 0o644, durability).unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"content");
            assert_eq!(names(directory.path()), ["file"]);
            // One with content is another's, and stays.
            fs::create_dir_all(temporary(&path).join("another's")).unwrap();
            fs::write(directory.path().join(".file.temp.1"), "of a killed run").unwrap();
            replace(&path, b"more", 0o644, durability).unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"more");
            assert_eq!(names(directory.path()), [".file.temp", "file"]);
            fs::write(directory.path().join(".file.temp.1"), "of a killed run").unwrap();
            assert_eq!(remove(&path).unwrap().len(), 2);
            assert_eq!(names(directory.path()), [".file.temp"]);
            fs::create_dir(&path).unwrap();
            assert_eq!(remove(&path).unwrap(), [path]);
        }
    }

    #[test]
    fn a_file_is_removed_with_what_a_killed_run_left_of_it() {
        let (directory, path) = directory_with_file();
        assert_eq!(remove(&path).unwrap(), [] as [PathBuf; 0]);
        fs::write(&path, "").unwrap();
        fs::write(temporary(&path), "").unwrap();
        assert_eq!(remove(&path).unwrap().len(), 2);
        assert_eq!(names(directory.path()), [""; 0]);
        assert!(remove_tree(directory.path()).unwrap());
        assert!(!remove_tree(directory.path()).unwrap());
        fs::write(directory.path(), "").unwrap();
        assert!(remove_tree(directory.path()).unwrap());
    }
}
