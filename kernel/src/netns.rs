//! Network namespaces: opening, entering and making them.

use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::fstat;

use crate::{Cause, Result};

/// Where the kernel shows the network namespace of the calling thread.
const OF_THIS_THREAD: &str = "/proc/thread-self/ns/net";

/// A network namespace, kept alive as long as this value lives.
#[derive(Debug)]
pub struct Netns {
    file: File,
    path: PathBuf,
}

impl Netns {
    /// Opens the namespace at `path`: a bind mount such as `/run/netns/x`, or `/proc/PID/ns/net`.
    ///
    /// Whether the file is a network namespace at all is found out on entering it.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        match File::open(&path) {
            Ok(file) => Ok(Self { file, path }),
            Err(error) => Err(Cause::from(error).during("open network namespace", path.display())),
        }
    }

    /// The namespace of the calling thread.
    pub fn current() -> Result<Self> {
        Self::open(OF_THIS_THREAD)
    }

    /// The namespace of the process or thread with the ID `pid`.
    pub fn of_pid(pid: i32) -> Result<Self> {
        Self::open(format!("/proc/{pid}/ns/net"))
    }

    /// Makes a new, empty namespace that has no name. The calling thread is in it for a moment.
    pub fn create_anonymous() -> Result<Self> {
        let home = Self::current()?;
        unshare_thread()?;
        let _back = ComeBack { home };
        Self::current()
    }

    /// The number that identifies the namespace on this machine, as in `readlink
    /// /proc/self/ns/net`.
    pub fn inode(&self) -> Result<u64> {
        match fstat(&self.file) {
            Ok(stat) => Ok(stat.st_ino),
            Err(errno) => Err(Cause::from(errno).during("inspect", self.path.display())),
        }
    }

    /// The path by which the namespace was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `work` in this namespace on the calling thread and comes back.
    ///
    /// If the thread cannot come back, the process ends: everything it did afterwards would hit
    /// the wrong namespace.
    pub fn enter<T>(&self, work: impl FnOnce() -> T) -> Result<T> {
        let home = Self::current()?;
        self.switch()?;
        let _back = ComeBack { home };
        Ok(work())
    }

    /// Moves the calling thread into this namespace for good.
    pub fn switch(&self) -> Result<()> {
        setns(&self.file, CloneFlags::CLONE_NEWNET).map_err(|errno| {
            let mut cause = Cause::from(errno);
            if errno == nix::Error::EINVAL {
                cause = Cause::Unsuitable("it is not a network namespace");
            }
            cause.during("enter network namespace", self.path.display())
        })
    }

    /// Gives the namespace the name `path` (a file that must not exist yet), by a bind mount as
    /// `ip netns add` makes it. It then lives until [`Netns::unbind`].
    pub fn bind(&self, path: &Path) -> Result<()> {
        let failed = |cause: Cause| cause.during("bind network namespace to", path.display());
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(path)
            .map_err(|error| failed(error.into()))?;
        let source = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let none: Option<&str> = None;
        mount(Some(source.as_str()), path, none, MsFlags::MS_BIND, none).map_err(|errno| {
            // The file is useless without the mount; the mount's error is the one to tell.
            let _ = fs::remove_file(path);
            failed(errno.into())
        })
    }

    /// Takes the name `path` away again. The namespace ends when no process uses it any more.
    pub fn unbind(path: &Path) -> Result<()> {
        let failed = |cause: Cause| cause.during("unbind network namespace", path.display());
        match umount2(path, MntFlags::MNT_DETACH) {
            // EINVAL: not a mount point, only the file is left.
            Ok(()) | Err(nix::Error::EINVAL) => {}
            Err(errno) => return Err(failed(errno.into())),
        }
        fs::remove_file(path).map_err(|error| failed(error.into()))
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Moves the calling thread into a new, empty network namespace.
pub fn unshare_thread() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET)
        .map_err(|errno| Cause::from(errno).during("create", "network namespace"))
}

/// Brings the thread home when the work is done, also after a panic in it.
struct ComeBack {
    home: Netns,
}

impl Drop for ComeBack {
    fn drop(&mut self) {
        if let Err(error) = self.home.switch() {
            eprintln!("cannot go back to the own network namespace, ending: {error}");
            std::process::abort();
        }
    }
}
