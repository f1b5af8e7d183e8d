//! The lease directory of one network: the system calls on it, under its lock.

use std::ffi::OsString;
use std::fs::File;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, Flock, FlockArg, OFlag, open, openat, readlinkat, renameat};
use nix::sys::stat::{Mode, fstat, fstatat};
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};
use nix::unistd::{UnlinkatFlags, linkat, symlinkat, unlinkat};

use super::file::{self, Found};
use super::{Lease, Owner, StoreError};
use crate::files::{self, CAREFULLY};
use crate::hash::fnv1a;

/// A lease on a file system without `O_TMPFILE` is written under this name first.
const TEMPORARY: &str = ".podwire.new";

/// A lease directory, locked as long as this value lives.
#[derive(Debug)]
pub struct Directory {
    fd: OwnedFd,
    path: PathBuf,
    _lock: Flock<File>,
}

/// What changes when a process changes the names in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    /// Inode number: another directory is not this one, whatever its times.
    pub inode: u64,
    /// Time of the last change, in seconds; unlike the modification time it cannot be set.
    pub seconds: i64,
    /// Its nanoseconds.
    pub nanoseconds: i64,
    /// Size in bytes, which follows the number of names on tmpfs.
    pub size: i64,
    /// Hash of the boot ID where files survive a boot, else 0. After a power cut names may be
    /// there without their content, so everything is looked at once.
    pub boot: u64,
}

impl Directory {
    /// Opens the directory at `path` and waits for its lock; `None` if there is no directory.
    pub fn open(path: &Path) -> Result<Option<Self>, StoreError> {
        Self::lock(path, FlockArg::LockExclusive)
    }

    /// Opens the directory at `path` unless another process has its lock; `None` if so, or if there
    /// is no directory.
    pub fn try_open(path: &Path) -> Result<Option<Self>, StoreError> {
        match Self::lock(path, FlockArg::LockExclusiveNonblock) {
            Err(error) if error.errno == Errno::EWOULDBLOCK => Ok(None),
            locked => locked,
        }
    }

    fn lock(path: &Path, kind: FlockArg) -> Result<Option<Self>, StoreError> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = match open(path, flags, Mode::empty()) {
            Ok(fd) => fd,
            // No directory has a name that is too long, and none is behind a link to itself.
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ENAMETOOLONG | Errno::ELOOP) => {
                return Ok(None);
            }
            Err(errno) => return Err(error("open lease directory", path, errno)),
        };
        let lock = lock(&fd, kind).map_err(|errno| error("lock", &path.join("lock"), errno))?;
        let path = path.to_owned();
        Ok(Some(Self {
            fd,
            path,
            _lock: lock,
        }))
    }

    /// As [`Directory::open`], and makes the directory if there is none.
    pub fn create(path: &Path) -> Result<Self, StoreError> {
        if let Some(directory) = Self::open(path)? {
            return Ok(directory);
        }
        files::create_directory(path).map_err(|failure| match failure.kind() {
            // `create` takes a directory that is there for success.
            ErrorKind::AlreadyExists => error("create lease directory", path, Errno::ENOTDIR),
            _ => StoreError::new("create lease directory", path, &failure),
        })?;
        let opened = Self::open(path)?;
        opened.ok_or_else(|| error("open lease directory", path, Errno::ENOENT))
    }

    /// The path by which the directory was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The stamp of the directory as it is now.
    pub fn stamp(&self) -> Result<Stamp, StoreError> {
        let stat = fstat(&self.fd).map_err(|errno| self.error("inspect", "", errno))?;
        let kind = fstatfs(&self.fd).map(|stat| stat.filesystem_type());
        let boot = if kind == Ok(TMPFS_MAGIC) { 0 } else { boot() };
        Ok(Stamp {
            inode: stat.st_ino,
            seconds: stat.st_ctime,
            nanoseconds: stat.st_ctime_nsec,
            size: stat.st_size,
            boot,
        })
    }

    /// The names in the directory, each handed to `each`, which may remove it.
    pub fn names(&self, mut each: impl FnMut(&str)) -> Result<(), StoreError> {
        let failed = |error| StoreError::new("list", &self.path, &error);
        for entry in std::fs::read_dir(&self.path).map_err(failed)? {
            // A name that is not text is not ours.
            if let Some(name) = entry.map_err(failed)?.file_name().to_str() {
                each(name);
            }
        }
        Ok(())
    }

    /// Writes a lease of `owner` that has no name yet.
    pub fn prepare(&self, owner: &Owner) -> Result<Prepared, StoreError> {
        let failed = |errno| self.error("write a lease in", "", errno);
        let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let (file, name) = match openat(&self.fd, ".", flags | OFlag::O_TMPFILE, mode) {
            Ok(file) => (file, None),
            // No support in the file system, or in a kernel or overlay that is too old to know.
            Err(Errno::EOPNOTSUPP | Errno::EISDIR | Errno::ENOENT | Errno::EINVAL) => {
                let name = self.temporary();
                let flags = flags | OFlag::O_CREAT | OFlag::O_EXCL;
                let file = openat(&self.fd, &name, flags, mode).map_err(failed)?;
                (file, Some(name))
            }
            Err(errno) => return Err(failed(errno)),
        };
        let prepared = Prepared { file, name };
        match write_all(&prepared.file, owner.content().as_bytes()) {
            Ok(()) => Ok(prepared),
            Err(errno) => {
                self.discard(prepared);
                Err(failed(errno))
            }
        }
    }

    fn temporary(&self) -> PathBuf {
        files::temporary(&self.fd, Path::new(TEMPORARY))
    }

    /// Gives a prepared lease the name of `address`; `false` if the address is leased already.
    pub fn publish(&self, prepared: &Prepared, address: IpAddr) -> Result<bool, StoreError> {
        let name = address.to_string();
        let linked = match &prepared.name {
            Some(temporary) => {
                let none = AtFlags::empty();
                linkat(&self.fd, temporary, &self.fd, name.as_str(), none)
            }
            None => {
                let path = format!("/proc/self/fd/{}", prepared.file.as_raw_fd());
                let follow = AtFlags::AT_SYMLINK_FOLLOW;
                linkat(AT_FDCWD, path.as_str(), &self.fd, name.as_str(), follow)
            }
        };
        match linked {
            Ok(()) => Ok(true),
            Err(Errno::EEXIST) => Ok(false),
            Err(errno) => Err(self.error("create lease", &name, errno)),
        }
    }

    /// Drops the temporary name of a prepared lease, if it has one.
    pub fn discard(&self, prepared: Prepared) {
        if let Some(name) = prepared.name {
            // The next lease is prepared in its place.
            let _ = unlinkat(&self.fd, &name, UnlinkatFlags::NoRemoveDir);
        }
    }

    /// What the file of `address` says, if there is one.
    pub fn look(&self, address: IpAddr) -> Result<Option<Found>, StoreError> {
        let name = address.to_string();
        let found = file::look(&self.fd, &name);
        found.map_err(|errno| self.error("read lease", &name, errno))
    }

    /// Gives the file `name` of `address`, which spells it in another way (`FD00:0::2`), the name by
    /// which it is looked for; `false` if there is a file of that name, or it cannot be done.
    pub fn respell(&self, name: &str, address: IpAddr) -> bool {
        let usual = address.to_string();
        let found = fstatat(&self.fd, usual.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW);
        found == Err(Errno::ENOENT) && renameat(&self.fd, name, &self.fd, usual.as_str()).is_ok()
    }

    /// The lease of `address`, if there is one.
    pub fn lease(&self, address: IpAddr) -> Result<Option<Lease>, StoreError> {
        let found = self.look(address)?;
        Ok(found.and_then(|Found { holder, since }| {
            let owner = holder.owner()?;
            Some(Lease {
                address,
                owner,
                since,
            })
        }))
    }

    /// Reads the file `name`, but not more than `limit` bytes.
    pub fn read(&self, name: &str, limit: usize) -> Result<Vec<u8>, Errno> {
        use std::io::Read;
        let flags = OFlag::O_RDONLY | CAREFULLY;
        let file = File::from(openat(&self.fd, name, flags, Mode::empty())?);
        let mut content = Vec::with_capacity(256);
        match file.take(limit as u64).read_to_end(&mut content) {
            Ok(_) => Ok(content),
            Err(error) => Err(error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)),
        }
    }

    /// Opens the file `name` to read and write it, and makes it if there is none.
    pub fn open_file(&self, name: &str) -> Result<File, Errno> {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | CAREFULLY;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        Ok(File::from(openat(&self.fd, name, flags, mode)?))
    }

    /// Writes `content` into the file `name` in place of what was there.
    pub fn write(&self, name: &str, content: &[u8]) -> Result<(), Errno> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | CAREFULLY;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let file = openat(&self.fd, name, flags, mode)?;
        write_all(&file, content)
    }

    /// The target of the symbolic link `name`; of what is no link `EINVAL`.
    pub fn link_target(&self, name: &str) -> Result<OsString, Errno> {
        readlinkat(&self.fd, name)
    }

    /// Makes the symbolic link `name` that points to `target`; `false` if the name is taken.
    pub fn link(&self, target: &str, name: &str) -> Result<bool, StoreError> {
        match symlinkat(target, &self.fd, name) {
            Ok(()) => Ok(true),
            Err(Errno::EEXIST) => Ok(false),
            Err(errno) => Err(self.error("create index entry", name, errno)),
        }
    }

    /// Removes the name `name`; `false` if there is none, or a directory has it, which is not ours.
    pub fn remove(&self, name: &str) -> Result<bool, StoreError> {
        match unlinkat(&self.fd, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) => Ok(true),
            Err(Errno::ENOENT | Errno::EISDIR) => Ok(false),
            Err(errno) => Err(self.error("remove", name, errno)),
        }
    }

    fn error(&self, action: &'static str, name: &str, errno: Errno) -> StoreError {
        error(action, &self.path.join(name), errno)
    }
}

/// A lease that is written but not yet named.
#[derive(Debug)]
pub struct Prepared {
    file: OwnedFd,
    name: Option<PathBuf>,
}

fn error(action: &'static str, path: &Path, errno: Errno) -> StoreError {
    let path = path.to_owned();
    StoreError {
        action,
        path,
        errno,
    }
}

/// Takes the exclusive lock on `lock`, as host-local does.
fn lock(directory: &OwnedFd, kind: FlockArg) -> Result<Flock<File>, Errno> {
    files::lock(directory, Path::new("lock"), kind)
}

fn write_all(file: &OwnedFd, mut content: &[u8]) -> Result<(), Errno> {
    while !content.is_empty() {
        match nix::unistd::write(file, content) {
            Ok(0) => return Err(Errno::ENOSPC),
            Ok(written) => content = &content[written..],
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// A hash of the boot ID, the same for one run of the kernel; never 0.
fn boot() -> u64 {
    let id = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    fnv1a(id) | 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_written_under_a_name_that_nothing_has() {
        let folder = tempfile::tempdir().unwrap();
        let directory = Directory::create(folder.path()).unwrap();
        assert_eq!(directory.temporary(), Path::new(TEMPORARY));
        std::fs::create_dir_all(folder.path().join(TEMPORARY).join("x")).unwrap();
        let next = format!("{TEMPORARY}.1");
        assert_eq!(directory.temporary(), Path::new(&next));
        std::fs::write(folder.path().join(&next), "half a lea").unwrap();
        assert_eq!(directory.temporary(), Path::new(&next));
        assert!(!folder.path().join(next).exists());
    }
}
