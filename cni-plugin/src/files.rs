//! Files and directories where others may write, or could if the umask of the runtime were obeyed.

use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::unistd::geteuid;

/// How files are opened: a name may be a link to another file of the node, or a pipe that would
/// wait for its other end.
pub const CAREFULLY: i32 = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;

/// The right of the group and of all others to write.
const OTHERS_WRITE: u32 = 0o022;

/// Makes a directory, and those above it, if there is none. Whatever the umask of the runtime,
/// others may not write there.
pub fn create_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o755).create(path)
}

/// As [`create_directory`], for one that is ours alone, and [`tighten`].
pub fn create_own_directory(path: &Path) -> io::Result<()> {
    create_directory(path)?;
    tighten(path)
}

/// Takes from others the right to write to a directory of ours that they may have had before, if
/// there is one. One that belongs to another user is refused, for he could take it back.
pub fn tighten(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let options = options.read(true).custom_flags(nix::libc::O_DIRECTORY);
    let directory = match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        directory => directory?,
    };
    let found = directory.metadata()?;
    let (owner, mode) = (found.uid(), found.mode());
    if owner != 0 && owner != geteuid().as_raw() {
        let text = format!("it belongs to user {owner}; give it to root, or remove it");
        return Err(io::Error::other(text));
    }
    if mode & OTHERS_WRITE == 0 {
        return Ok(());
    }
    if mode & nix::libc::S_ISVTX != 0 {
        return Err(io::Error::other(
            "everyone may make files in it, as in /tmp; chmod 0755 it if it is Podwire's alone, or \
             name another one",
        ));
    }
    directory.set_permissions(Permissions::from_mode(mode & 0o7777 & !OTHERS_WRITE))
}

/// What the file at `path` holds, but not more than `limit` bytes. What is no file is refused: of a
/// pipe without a writer it would be nothing.
pub fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut options = OpenOptions::new();
    let file = options.read(true).custom_flags(CAREFULLY).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut content = Vec::new();
    file.take(limit).read_to_end(&mut content)?;
    Ok(content)
}

/// Makes an empty file that root alone reads; fails if its name is taken, be it by a link.
pub fn create(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let new = options.write(true).create_new(true).mode(0o600);
    new.open(path).map(drop)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::chown;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_directory_of_ours_that_others_may_write_is_tightened_and_one_of_another_user_refused() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("run");
        tighten(&path).unwrap();
        assert!(!path.exists());
        for (before, after) in [(0o777, 0o755), (0o770, 0o750), (0o700, 0o700)] {
            create_own_directory(&path).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(before)).unwrap();
            create_own_directory(&path).unwrap();
            assert_eq!(mode(&path), after);
        }
        fs::set_permissions(&path, Permissions::from_mode(0o1777)).unwrap();
        let error = create_own_directory(&path).unwrap_err().to_string();
        assert!(error.contains("everyone"), "{error}");
        assert_eq!(mode(&path), 0o1777);
        chown(&path, Some(1000), None).unwrap();
        let error = create_own_directory(&path).unwrap_err().to_string();
        assert!(error.starts_with("it belongs to user 1000"), "{error}");
    }
}
