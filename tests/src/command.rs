//! Running programs with a time limit, and catching what they print.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use podwire_kernel::process;

use crate::error::{Error, Result};
use crate::wait;

/// What a finished program left.
#[derive(Debug, Clone)]
pub struct Ran {
    /// The command line, as a person would type it.
    pub command: String,
    /// Where it ran.
    pub place: String,
    /// What it printed.
    pub stdout: String,
    /// What it printed to standard error.
    pub stderr: String,
    /// Its exit status; 128 and the signal's number if a signal ended it.
    pub status: i32,
    /// How long it took.
    pub took: Duration,
}

impl Ran {
    /// Standard output if the program succeeded.
    pub fn success(self) -> Result<String> {
        if self.status == 0 {
            return Ok(self.stdout);
        }
        let said = if self.stderr.trim().is_empty() {
            &self.stdout
        } else {
            &self.stderr
        };
        Err(Error::Command {
            reason: match said.trim() {
                "" => format!("exit status {}", self.status),
                said => format!("exit status {}, {said}", self.status),
            },
            command: self.command,
            place: self.place,
        })
    }
}

/// `PATH` with the system directories that a plain user's `PATH` lacks.
pub fn search_path() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut parts: Vec<&str> = path.split(':').filter(|part| !part.is_empty()).collect();
    for needed in ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"] {
        if !parts.contains(&needed) {
            parts.push(needed);
        }
    }
    parts.join(":")
}

/// Follows a program to its end or to `limit`, feeding it `input`.
pub fn follow(
    mut child: Child,
    line: &str,
    place: &str,
    input: Option<&[u8]>,
    limit: Duration,
) -> Result<Ran> {
    let start = Instant::now();
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let fed = input
        .map(|bytes| (child.stdin.take(), bytes.to_vec()))
        .map(|(pipe, bytes)| {
            // A program may end without reading everything: then the pipe breaks, which is its
            // right. Written from a thread because both sides may fill their pipes.
            thread::spawn(move || pipe.map(|mut pipe| pipe.write_all(&bytes)))
        });
    let status = match end(&mut child, limit) {
        Some(status) => status,
        None => {
            // Killed, and its output abandoned: a grandchild may hold the pipes without end.
            let _ = child.kill();
            let _ = child.wait();
            return Err(Error::TimedOut {
                what: format!("the end of `{line}` in {place}"),
                seconds: limit.as_secs_f64(),
                detail: String::new(),
            });
        }
    };
    drop(fed);
    // A grandchild that lives on may hold the pipes open.
    let collected = || {
        stdout.as_ref().is_none_or(JoinHandle::is_finished)
            && stderr.as_ref().is_none_or(JoinHandle::is_finished)
    };
    wait::until(
        &format!("the end of the output of `{line}` in {place}"),
        limit.saturating_sub(start.elapsed()),
        collected,
    )?;
    Ok(Ran {
        command: line.into(),
        place: place.into(),
        stdout: text(stdout),
        stderr: text(stderr),
        status: code(status),
        took: start.elapsed(),
    })
}

/// Starts a program that has the caller's terminal, and waits for it. Ctrl-C is for the program, not for
/// us; a signal that asks us to end is passed on, because the program would not end with us.
pub fn attend(start: impl FnOnce() -> Result<Child>, line: &str, place: &str) -> Result<i32> {
    const OURS: [Signal; 2] = [Signal::SIGINT, Signal::SIGQUIT];
    const PASSED_ON: [Signal; 2] = [Signal::SIGTERM, Signal::SIGHUP];
    // Before the start, so that none ends us alone.
    let signals = process::catch_unless_ignored(&[OURS, PASSED_ON].concat());
    let signals = signals.map_err(|source| Error::Kernel {
        place: place.into(),
        source,
    })?;
    let mut child = start()?;
    let pid = Pid::from_raw(child.id().cast_signed());
    thread::spawn(move || {
        for number in BufReader::new(signals).bytes().map_while(io::Result::ok) {
            let signal = Signal::try_from(i32::from(number)).ok();
            if let Some(signal) = signal.filter(|signal| PASSED_ON.contains(signal)) {
                let _ = kill(pid, signal);
            }
        }
    });
    let status = child.wait().map_err(|source| Error::Start {
        program: line.into(),
        place: place.into(),
        source,
    })?;
    Ok(code(status))
}

/// Waits for the end of `child` up to `limit`.
fn end(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    wait::until_some(limit, || child.try_wait().ok().flatten())
}

fn code(status: ExitStatus) -> i32 {
    status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(-1)
}

fn collect<R: Read + Send + 'static>(pipe: Option<R>) -> Option<JoinHandle<Vec<u8>>> {
    let mut pipe = pipe?;
    Some(thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came before a read error is still the program's output.
        let _ = pipe.read_to_end(&mut bytes);
        bytes
    }))
}

fn text(reader: Option<JoinHandle<Vec<u8>>>) -> String {
    let bytes = reader
        .and_then(|thread| thread.join().ok())
        .unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A program that watches while other things happen, such as tcpdump.
#[derive(Debug)]
pub struct Capture {
    child: Child,
    line: String,
    place: String,
    output: Receiver<String>,
    errors: Receiver<String>,
    seen: Vec<String>,
}

impl Capture {
    /// Collects what a program prints.
    pub fn of(mut child: Child, line: &str, place: &str) -> Capture {
        Capture {
            output: lines(child.stdout.take()),
            errors: lines(child.stderr.take()),
            child,
            line: line.into(),
            place: place.into(),
            seen: Vec::new(),
        }
    }

    /// Waits until the program has printed a line with `mark` to standard error.
    pub fn when_ready(self, mark: &str) -> Result<Capture> {
        let limit = Duration::from_secs(10);
        let deadline = Instant::now() + limit;
        let mut said = String::new();
        loop {
            match self
                .errors
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(line) if line.contains(mark) => return Ok(self),
                Ok(line) => said = line,
                Err(RecvTimeoutError::Timeout) => {
                    return Err(Error::TimedOut {
                        what: format!("`{}` in {} saying {mark:?}", self.line, self.place),
                        seconds: limit.as_secs_f64(),
                        detail: if said.is_empty() {
                            said
                        } else {
                            format!(": {said}")
                        },
                    });
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::Command {
                        command: self.line.clone(),
                        place: self.place.clone(),
                        reason: said,
                    });
                }
            }
        }
    }

    /// Waits up to `limit` until `enough` accepts the lines printed so far, or the program
    /// ends by itself. Answers whether `enough` did.
    pub fn until(&mut self, limit: Duration, enough: impl Fn(&[String]) -> bool) -> bool {
        let deadline = Instant::now() + limit;
        while !enough(&self.seen) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(line) => self.seen.push(line),
                Err(_) => return false,
            }
        }
        true
    }

    /// Asks the program to end and answers with everything it printed to standard output.
    pub fn finish(mut self) -> Vec<String> {
        self.stop();
        while let Ok(line) = self.output.recv_timeout(Duration::from_secs(2)) {
            self.seen.push(line);
        }
        std::mem::take(&mut self.seen)
    }

    /// SIGINT makes tcpdump and its like print what they hold back; SIGKILL if that is not
    /// enough.
    fn stop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGINT);
        }
        if end(&mut self.child, Duration::from_secs(2)).is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop();
    }
}

fn lines<R: Read + Send + 'static>(pipe: Option<R>) -> Receiver<String> {
    let (sender, receiver) = channel();
    if let Some(pipe) = pipe {
        thread::spawn(move || {
            let mut reader = BufReader::new(pipe);
            let mut bytes = Vec::new();
            while matches!(reader.read_until(b'\n', &mut bytes), Ok(1..)) {
                let line = String::from_utf8_lossy(&bytes).trim_end().to_owned();
                bytes.clear();
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
    }
    receiver
}
