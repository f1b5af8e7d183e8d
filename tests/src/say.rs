//! Printing for people, who may stop reading at any time (`podwire-lab pods | head`).

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::process::exit;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;

/// After how long it is told what is being done, and how often again.
const SILENCE: Duration = Duration::from_secs(2);

/// Prints a line. If no one reads any more, this process ends quietly, as other programs do; if it
/// cannot be written for another reason, it says so and ends.
pub fn say(line: impl Display) {
    match write(line) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::BrokenPipe => exit(0),
        // The terminal is closed, and a signal has come or comes.
        Err(error) if error.raw_os_error() == Some(Errno::EIO as i32) => {}
        Err(error) => {
            eprintln!("podwire-lab: cannot write to standard output: {error}");
            exit(1);
        }
    }
}

/// Prints a line that may as well be missed: what is being done goes on.
pub fn mention(line: impl Display) {
    let _ = write(line);
}

/// Does something, and mentions `what` with the seconds that it took so far, every other second.
pub fn slowly<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let (done, waits) = channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            while waits.recv_timeout(SILENCE) == Err(RecvTimeoutError::Timeout) {
                mention(format_args!("{what} ... {} s", start.elapsed().as_secs()));
            }
        });
        let answer = work();
        drop(done);
        answer
    })
}

fn write(line: impl Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush())
}
