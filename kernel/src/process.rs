//! The calling process itself.

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
