//! The standard streams, before anything is done: the program starts without the standard
//! library's own preparations, which would put `/dev/null` in the place of one that is closed.
//!
//! The next file that is opened gets the number of a closed stream: an answer would be written into
//! a lease, a message into the lock of the records. And the standard library takes it for success
//! if a stream cannot be written to or read from, so an ADD would be done and not answered.

use std::fmt;
use std::io::Write;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::text::printable;

/// A standard stream that does not work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("standard {stream} {problem}: start the plugin with all three standard streams open")]
pub struct StreamError {
    stream: &'static str,
    problem: &'static str,
}

/// Fails if a standard stream cannot be used: if it is closed, open in the wrong direction, or, the
/// output, a pipe that no process reads.
pub fn check() -> Result<(), StreamError> {
    check_one("input", std::io::stdin(), OFlag::O_WRONLY)?;
    check_one("output", std::io::stdout(), OFlag::O_RDONLY)?;
    check_one("error", std::io::stderr(), OFlag::O_RDONLY)?;
    if has_no_reader(std::io::stdout()) {
        let (stream, problem) = ("output", "is a pipe that no process reads");
        return Err(StreamError { stream, problem });
    }
    Ok(())
}

/// Writes a line for the log of the runtime. That no process reads it, or that there is no room for
/// it, does not end a call halfway: `eprintln!` would panic. A line break in what others wrote would
/// look like a line of the log.
pub fn log(line: fmt::Arguments<'_>) {
    // In one piece, so that lines of calls at the same time do not mix.
    let text = format!("podwire: {}\n", printable(&line.to_string()));
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Checks that a stream is open, and not with the access mode `wrong`.
fn check_one(stream: &'static str, fd: impl AsFd, wrong: OFlag) -> Result<(), StreamError> {
    let problem = match fcntl(fd, FcntlArg::F_GETFL).map(OFlag::from_bits_retain) {
        Ok(flags) if flags.contains(OFlag::O_PATH) => "can be neither read nor written",
        Ok(flags) if flags & OFlag::O_ACCMODE != wrong => return Ok(()),
        Ok(_) if wrong == OFlag::O_WRONLY => "cannot be read",
        Ok(_) => "cannot be written",
        Err(Errno::EBADF) => "is closed",
        Err(_) => "cannot be inspected",
    };
    Err(StreamError { stream, problem })
}

fn has_no_reader(fd: impl AsFd) -> bool {
    let mut asked = [PollFd::new(fd.as_fd(), PollFlags::empty())];
    let failed = |flags: PollFlags| flags.contains(PollFlags::POLLERR);
    poll(&mut asked, PollTimeout::ZERO).is_ok() && asked[0].revents().is_some_and(failed)
}
