//! What a figure cost, beside what it may cost; for the benches that call the agent's parts.

use std::ops::Add;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use podwire_kernel::monitor::Monitor;
use podwire_kernel::nft::NftSocket;

/// How long something took by the clock, and how long this thread worked for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cost {
    /// By the clock.
    pub wall: Duration,
    /// What this thread worked.
    pub processor: Duration,
}

impl Add for Cost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            wall: self.wall + other.wall,
            processor: self.processor + other.processor,
        }
    }
}

/// Does something and takes its cost.
pub fn cost_of<T>(work: impl FnOnce() -> T) -> (T, Cost) {
    let worked = || {
        let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap();
        Duration::new(time.tv_sec() as u64, time.tv_nsec() as u32)
    };
    let (start, before) = (Instant::now(), worked());
    let done = work();
    let cost = Cost {
        wall: start.elapsed(),
        processor: worked() - before,
    };
    (done, cost)
}

/// The cost that a share of all, in percent, does not exceed; each column by itself.
pub fn quantile(costs: &[Cost], percent: usize) -> Cost {
    let at = |of: fn(&Cost) -> Duration| {
        let mut times: Vec<Duration> = costs.iter().map(of).collect();
        times.sort_unstable();
        times[(times.len() - 1) * percent / 100]
    };
    Cost {
        wall: at(|cost| cost.wall),
        processor: at(|cost| cost.processor),
    }
}

/// Prints a figure beside its target; true if it is met.
pub fn figure(what: &str, cost: Cost, limit: Option<Duration>) -> bool {
    let milliseconds = |time: Duration| format!("{:.3} ms", time.as_secs_f64() * 1000.0);
    let met = limit.is_none_or(|limit| cost.wall <= limit);
    let mark = match limit {
        None => " ",
        Some(_) if met => "✓",
        Some(_) => "✗",
    };
    let limit = limit.map_or(String::new(), |limit| {
        format!("at most {}", milliseconds(limit))
    });
    let (wall, processor) = (milliseconds(cost.wall), milliseconds(cost.processor));
    println!("  {mark} {what:<48}{wall:>14}{processor:>14}  {limit}");
    met
}

/// Listens as the agent does, on a thread of its own, until the bench ends.
pub fn listen(socket: &mut NftSocket) -> std::thread::JoinHandle<()> {
    let port = socket.port().unwrap();
    let netns = podwire_kernel::netns::Netns::current().unwrap();
    let (ready, listening) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        netns.switch().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut monitor = Monitor::open().unwrap();
            monitor.ignore(&[port]).unwrap();
            ready.send(()).unwrap();
            while monitor.next().await.is_some() {}
        });
    });
    listening.recv().unwrap();
    thread
}
