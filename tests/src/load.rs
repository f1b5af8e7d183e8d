//! A client that opens new connections one after another and counts what comes of them.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The most requests of one run, whatever was asked for.
const MOST_REQUESTS: u64 = 1_000_000;

/// The longest run, whatever was asked for.
const LONGEST_RUN: Duration = Duration::from_secs(600);

/// After how long it is told how far it is, and how often again.
const SILENCE: Duration = Duration::from_secs(2);

/// What to do.
#[derive(Debug, Clone, clap::Args)]
pub struct Plan {
    /// Where to connect to, for example 10.200.1.63:9000.
    target: SocketAddr,
    /// Send a datagram instead of an HTTP request.
    #[arg(long)]
    udp: bool,
    /// How many requests; without it, until --seconds are over.
    #[arg(long, default_value_t = MOST_REQUESTS)]
    count: u64,
    /// How many seconds at most. Ctrl-C ends it early, with the summary.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// How many clients at a time.
    #[arg(long, default_value_t = 1)]
    parallel: u8,
    /// How many milliseconds to wait between two requests of a client.
    #[arg(long, default_value_t = 0)]
    pause: u64,
    /// After how many milliseconds without an answer a request has failed.
    #[arg(long, default_value_t = 2000)]
    patience: u64,
}

/// What came of the requests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// How many were made.
    pub requests: u64,
    /// How many had no answer.
    pub failed: u64,
    /// Which pod gave how many answers.
    pub answers: BTreeMap<String, u64>,
    /// Why requests failed, and how many for each reason.
    pub errors: BTreeMap<String, u64>,
    /// The slowest answer in milliseconds.
    pub slowest_ms: u64,
}

impl Summary {
    fn add(&mut self, outcome: io::Result<String>, took: Duration) {
        self.requests += 1;
        match outcome {
            Ok(name) => *self.answers.entry(name).or_default() += 1,
            Err(error) => {
                self.failed += 1;
                *self.errors.entry(error.to_string()).or_default() += 1;
            }
        }
        self.slowest_ms = self
            .slowest_ms
            .max(took.as_millis().try_into().unwrap_or(u64::MAX));
    }

    fn merge(&mut self, other: Summary) {
        self.requests += other.requests;
        self.failed += other.failed;
        for (name, count) in other.answers {
            *self.answers.entry(name).or_default() += count;
        }
        for (error, count) in other.errors {
            *self.errors.entry(error).or_default() += count;
        }
        self.slowest_ms = self.slowest_ms.max(other.slowest_ms);
    }
}

/// Says that the first request is under way, for the program that started us in the background.
pub const STARTED: &str = "started";

/// Runs the plan and prints the summary as one line of JSON.
pub fn run(plan: &Plan) -> Result<Summary> {
    static STOP: AtomicBool = AtomicBool::new(false);
    let mut ends = SigSet::empty();
    ends.add(Signal::SIGINT);
    ends.add(Signal::SIGTERM);
    let unable = |source| Error::Namespace {
        action: "watch",
        place: "this process".into(),
        source,
    };
    // Before any thread starts, so that all of them leave the signals to the one that waits.
    ends.thread_block().map_err(unable)?;
    thread::spawn(move || {
        if ends.wait().is_ok() {
            STOP.store(true, Ordering::Relaxed);
        }
    });
    let left = AtomicU64::new(plan.count.min(MOST_REQUESTS));
    let limit = Duration::try_from_secs_f64(plan.seconds)
        .unwrap_or(LONGEST_RUN)
        .min(LONGEST_RUN);
    let deadline = Instant::now() + limit;
    eprintln!("{STARTED}");
    let mut summary = Summary::default();
    let begun = Instant::now();
    let (running, waits) = channel::<()>();
    thread::scope(|scope| {
        let left = &left;
        scope.spawn(move || {
            while waits.recv_timeout(SILENCE) == Err(RecvTimeoutError::Timeout) {
                let made = plan.count.min(MOST_REQUESTS) - left.load(Ordering::Relaxed);
                let seconds = begun.elapsed().as_secs();
                // The summary on standard output is what counts.
                let _ = writeln!(io::stderr(), "{made} requests in {seconds} s ...");
            }
        });
        let clients: Vec<_> = (0..plan.parallel.max(1))
            .map(|_| scope.spawn(|| client(plan, left, deadline, &STOP)))
            .collect();
        for client in clients {
            summary.merge(
                client
                    .join()
                    .unwrap_or_else(|p| std::panic::resume_unwind(p)),
            );
        }
        drop(running);
    });
    Ok(summary)
}

fn client(plan: &Plan, left: &AtomicU64, deadline: Instant, stop: &AtomicBool) -> Summary {
    let mut summary = Summary::default();
    let take = |left: u64| left.checked_sub(1);
    while Instant::now() < deadline
        && !stop.load(Ordering::Relaxed)
        && left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .is_ok()
    {
        let start = Instant::now();
        let patience = Duration::from_millis(plan.patience.max(1));
        let outcome = if plan.udp {
            ask_udp(plan.target, patience)
        } else {
            ask_http(plan.target, patience)
        };
        summary.add(outcome, start.elapsed());
        thread::sleep(Duration::from_millis(plan.pause));
    }
    summary
}

/// Asks an HTTP server once; the name of the pod that answers.
pub fn ask_http(target: SocketAddr, patience: Duration) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&target, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    name_in(answer.split_once("\r\n\r\n").map_or("", |(_, body)| body))
}

fn ask_udp(target: SocketAddr, patience: Duration) -> io::Result<String> {
    let any: IpAddr = match target {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(patience))?;
    socket.connect(target)?;
    socket.send(b"hello")?;
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer)?;
    name_in(&String::from_utf8_lossy(&buffer[..length]))
}

/// The pod's name: the first word of every server's answer.
fn name_in(answer: &str) -> io::Result<String> {
    let name = answer.split_whitespace().next().map(str::to_owned);
    name.ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "an empty answer"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_of_several_clients_add_up() {
        let mut one = Summary::default();
        one.add(Ok("web-1".into()), Duration::from_millis(3));
        let mut two = Summary::default();
        two.add(Ok("web-1".into()), Duration::from_millis(9));
        two.add(
            Err(io::ErrorKind::TimedOut.into()),
            Duration::from_millis(5),
        );
        one.merge(two);
        assert_eq!((one.requests, one.failed, one.slowest_ms), (3, 1, 9));
        assert_eq!(one.answers["web-1"], 2);
    }
}
