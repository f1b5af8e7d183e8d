//! PID 1 of a lab: the one process that holds everything.
//!
//! It is started in new PID, mount, network, UTS and IPC namespaces, covers `/proc` and `/run`
//! with its own, and from then on only collects dead children. When it ends, however it ends,
//! the kernel kills every process in the PID namespace, and with the last of them go all mounts
//! and network namespaces. Nothing has to be cleaned up by a program that could fail to run.
//!
//! Its life hangs on standard input: at end of file it ends, so a lab that was raised by a test
//! or a demo cannot outlive it. After the word `stay` it lives on until a signal ends it.

use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{getpid, setsid};

use crate::error::{Error, Result};
use crate::layout;

/// What standard input says to let the lab outlive the process that raised it.
pub const STAY: &[u8] = b"stay\n";

/// What standard output says when the lab can be entered.
pub const READY: &str = "ready";

/// Runs as PID 1 until the lab ends.
pub fn run() -> Result<()> {
    if getpid().as_raw() != 1 {
        return Err(Error::Command {
            command: "podwire-lab init".into(),
            place: "this shell".into(),
            reason: "it is started by `podwire-lab up` and by nothing else".into(),
        });
    }
    let mut signals = SigSet::empty();
    for signal in [
        Signal::SIGCHLD,
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
    ] {
        signals.add(signal);
    }
    let waiting = |source| Error::Namespace {
        action: "make",
        place: "the lab".into(),
        source,
    };
    signals.thread_block().map_err(waiting)?;
    let signal_fd = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(waiting)?;
    // Ctrl-C in the terminal is for the command that raised the lab. That command decides.
    setsid().map_err(waiting)?;
    cover()?;
    println!("{READY}");
    hold(&signal_fd).map_err(waiting)
}

/// Hides the host's `/proc` and `/run` behind the lab's own.
fn cover() -> Result<()> {
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount_on("nothing", None, Path::new("/"), None, private)?;
    mount_on(
        "proc",
        Some("proc"),
        Path::new("/proc"),
        Some("proc"),
        MsFlags::empty(),
    )?;
    mount_on(
        "tmpfs",
        Some("tmpfs"),
        Path::new("/run"),
        Some("tmpfs"),
        MsFlags::MS_NOSUID,
    )?;
    for directory in [layout::MANIFESTS, layout::PROGRAMS, layout::NODES] {
        fs::create_dir_all(directory).map_err(Error::file("create", directory))?;
    }
    fs::write(layout::INSIDE, "").map_err(Error::file("write", layout::INSIDE))
}

pub(crate) fn mount_on(
    what: &'static str,
    source: Option<&str>,
    target: &Path,
    kind: Option<&str>,
    flags: MsFlags,
) -> Result<()> {
    mount(source, target, kind, flags, None::<&str>).map_err(|source| Error::Mount {
        what,
        path: target.into(),
        source,
    })
}

/// Collects children until a signal or the end of standard input says that the lab is over.
fn hold(signals: &SignalFd) -> nix::Result<()> {
    let stdin = std::io::stdin();
    let mut bound = true;
    let mut said = Vec::new();
    loop {
        let mut fds = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        if bound {
            fds.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error),
        }
        let spoken = bound && fds[1].any().unwrap_or(false);
        if spoken {
            let mut buffer = [0; 16];
            match stdin.lock().read(&mut buffer) {
                Ok(0) | Err(_) => return Ok(()),
                Ok(length) => said.extend_from_slice(&buffer[..length]),
            }
            bound = said != STAY;
        }
        while let Some(signal) = signals.read_signal()? {
            if signal.ssi_signo != Signal::SIGCHLD as u32 {
                return Ok(());
            }
        }
        collect();
    }
}

fn collect() {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(_) => return,
            Ok(_) => {}
        }
    }
}
