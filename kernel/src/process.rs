//! The calling process itself.

use std::fs::File;
use std::os::fd::IntoRawFd;
use std::sync::atomic::{AtomicI32, Ordering};

use nix::fcntl::OFlag;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::pipe2;

use crate::{Cause, Result};

/// Makes a write to a pipe that nobody reads an error (`EPIPE`) instead of the end of the process.
/// Programs that start without the standard library's own preparations call this first. Programs
/// that are started by `std::process` get the default back.
#[allow(unsafe_code)]
pub fn ignore_broken_pipes() {
    // SAFETY: SIG_IGN is a valid disposition, no handler is installed that could be interrupted.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
    }
}

/// The pipe that [`note`] writes into.
static SIGNALS: AtomicI32 = AtomicI32::new(-1);

/// From now on SIGINT and SIGTERM do not end the process: for each, its number comes out of the
/// returned pipe, as one byte. Programs that are started by `std::process` get the default back,
/// which they would not if the signals were blocked. To be called once.
#[allow(unsafe_code)]
pub fn catch_interrupts() -> Result<File> {
    let failed = |errno: nix::Error| Cause::from(errno).during("catch", "signals");
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC).map_err(failed)?;
    SIGNALS.store(writer.into_raw_fd(), Ordering::SeqCst);
    let action = SigAction::new(
        SigHandler::Handler(note),
        SaFlags::SA_RESTART,
        SigSet::empty(),
    );
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        // SAFETY: the handler only does what signal-safety(7) allows: an atomic load and a write.
        unsafe { sigaction(signal, &action) }.map_err(failed)?;
    }
    Ok(File::from(reader))
}

#[allow(unsafe_code)]
extern "C" fn note(signal: libc::c_int) {
    let number = signal as u8;
    // SAFETY: the byte lives until after the call; the descriptor is never closed.
    unsafe {
        libc::write(
            SIGNALS.load(Ordering::SeqCst),
            (&raw const number).cast(),
            1,
        );
    }
}
