//! Files and directories where others may write, or could if the umask of the runtime were obeyed.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, Flock, FlockArg, OFlag, openat};
use nix::libc;
use nix::sys::stat::{Mode, fstatat};
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};

/// How files are opened: a name may be a link to another file of the node, or a pipe that would
/// wait for its other end.
pub const CAREFULLY: OFlag = OFlag::O_CLOEXEC
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_NONBLOCK);

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
    let options = options.read(true).custom_flags(libc::O_DIRECTORY);
    let directory = match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        directory => directory?,
    };
    let found = directory.metadata()?;
    let (owner, mode) = (found.uid(), found.mode());
    if !is_trusted(owner) {
        let text = format!("it belongs to user {owner}; give it to root, or remove it");
        return Err(io::Error::other(text));
    }
    if mode & OTHERS_WRITE == 0 {
        return Ok(());
    }
    if mode & libc::S_ISVTX != 0 {
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
    let file = open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    content(file, limit)
}

/// As [`read`], of a file that no one but root and us can have written. `None` where something else
/// has its name, that may be from a time when others could write to the directory: a link, a pipe, a
/// file of another user, or one that others may write.
pub fn read_own(path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match open(path) {
        // A link, and a socket.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ELOOP | libc::ENXIO)) => {
            return Ok(None);
        }
        file => file?,
    };
    match is_own(&file.metadata()?) {
        true => content(file, limit).map(Some),
        false => Ok(None),
    }
}

/// Whether there is a file that [`read_own`] would read.
pub fn has_own(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| is_own(&found))
}

/// Whether what this user made may be believed: it is root, or who we are.
pub fn is_trusted(user: u32) -> bool {
    user == 0 || user == geteuid().as_raw()
}

fn is_own(found: &Metadata) -> bool {
    found.is_file() && is_trusted(found.uid()) && found.mode() & OTHERS_WRITE == 0
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let flags = CAREFULLY.bits();
    options.read(true).custom_flags(flags).open(path)
}

fn content(file: File, limit: u64) -> io::Result<Vec<u8>> {
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

/// Takes the exclusive lock of the file at `path`, which is made if there is none. A path that is not
/// absolute starts at `directory`. The file is opened for reading, so that a directory on a read-only
/// file system can be looked at. Where a socket has that name, which cannot be opened, or a link, which is
/// not followed, the directory above it is locked. So it is where there is no file, and it cannot be made:
/// no process waits for it then.
pub fn lock(directory: impl AsFd, path: &Path, kind: FlockArg) -> Result<Flock<File>, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_CREAT | CAREFULLY;
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    let open_directory = |path: &Path| {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | CAREFULLY;
        openat(&directory, path, flags, Mode::empty())
    };
    let is_missing =
        || fstatat(&directory, path, AtFlags::AT_SYMLINK_NOFOLLOW) == Err(Errno::ENOENT);
    let file = match openat(&directory, path, flags, mode) {
        // A directory of that name can be locked as well.
        Err(Errno::EISDIR) => open_directory(path),
        Err(errno)
            if matches!(errno, Errno::ENXIO | Errno::ELOOP)
                || cannot_be_written(errno) && is_missing() =>
        {
            let above = path.parent().filter(|path| !path.as_os_str().is_empty());
            open_directory(above.unwrap_or(Path::new(".")))
        }
        file => file,
    };
    lock_opened(File::from(file?), kind)
}

/// Whether nothing can be written there now: there is no room, or it is not allowed (`chattr +i`).
pub fn cannot_be_written(errno: Errno) -> bool {
    use Errno::{EACCES, EDQUOT, ENOSPC, EPERM, EROFS};
    matches!(errno, ENOSPC | EDQUOT | EROFS | EPERM | EACCES)
}

fn lock_opened(mut file: File, kind: FlockArg) -> Result<Flock<File>, Errno> {
    loop {
        match Flock::lock(file, kind) {
            Ok(lock) => return Ok(lock),
            Err((again, Errno::EINTR)) => file = again,
            Err((_, errno)) => return Err(errno),
        }
    }
}

/// A path that nothing has, for what is written before it gets its name: `first`, or that with a
/// number. One that is not absolute starts at `directory`. What a call that was killed left there is
/// removed, for the caller holds the lock; a directory is not ours, and the next name is taken.
pub fn temporary(directory: impl AsFd, first: &Path) -> PathBuf {
    let mut path = first.to_owned();
    for number in 1.. {
        // Not being there is how it should be.
        let _ = unlinkat(&directory, &path, UnlinkatFlags::NoRemoveDir);
        if fstatat(&directory, &path, AtFlags::AT_SYMLINK_NOFOLLOW).is_err() {
            break;
        }
        let mut next = first.as_os_str().to_owned();
        next.push(format!(".{number}"));
        path = next.into();
    }
    path
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{chown, symlink};
    use std::os::unix::net::UnixListener;

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

    #[test]
    fn where_the_file_of_a_lock_cannot_be_made_the_directory_above_it_is_locked() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let take = || lock(nix::fcntl::AT_FDCWD, &path, FlockArg::LockExclusiveNonblock);
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        nix::unistd::setfsuid(1000.into());
        let taken = take();
        let again = take();
        nix::unistd::setfsuid(0.into());
        assert!(taken.is_ok() && !path.exists());
        assert_eq!(again.unwrap_err(), Errno::EWOULDBLOCK);
    }

    #[test]
    fn what_others_can_have_written_is_not_taken_for_a_file_of_ours() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let found = || (read_own(&path, 4).unwrap(), has_own(&path));
        let error = read_own(&path, 4).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        fs::write(&path, "content").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert_eq!(found(), (Some(b"cont".to_vec()), true));
        for mode in [0o664, 0o646] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert_eq!(found(), (None, false), "{mode:o}");
        }
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        chown(&path, Some(1000), None).unwrap();
        assert_eq!(found(), (None, false), "of another user");
        fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert_eq!(found(), (None, false), "a pipe");
        fs::remove_file(&path).unwrap();
        symlink("/dev/zero", &path).unwrap();
        assert_eq!(found(), (None, false), "a link");
        fs::remove_file(&path).unwrap();
        let _listener = UnixListener::bind(&path).unwrap();
        assert_eq!(found(), (None, false), "a socket");
    }
}
