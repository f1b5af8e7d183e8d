//! From the API server to the kernel: the agent and kube-proxy on the same objects.
//!
//! Run by `make bench-api` inside the node of a kind cluster, where a real kube-apiserver and etcd
//! are. Fills the cluster with Services and EndpointSlices, then starts each program in turn and
//! measures the time from process start to its first finished sync, the peak of its memory, and
//! for single endpoint changes the time from the API server's answer to the moment at which the
//! kernel's notification of the new address was read. Prints tables in Markdown; the exit status
//! says whether everything asked for was met.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "a bench stops at the first surprise"
)]

mod cluster;
mod kernel;
mod subject;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tokio::runtime::Runtime;

use cluster::Cluster;
use kernel::Notices;
use subject::Subject;

#[derive(Parser)]
struct Flags {
    /// How many Services, each with one port and one EndpointSlice.
    #[arg(long, default_value_t = 10_000)]
    services: usize,
    /// How many endpoints each.
    #[arg(long, default_value_t = 10)]
    endpoints: usize,
    /// How many single changes are measured on the agent in each run.
    #[arg(long, default_value_t = 200)]
    changes: usize,
    /// How many on kube-proxy, which takes seconds for one.
    #[arg(long, default_value_t = 5)]
    proxy_changes: usize,
    /// How often each program is started.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// The agent.
    #[arg(long)]
    agent: PathBuf,
    /// kube-proxy; left out if not given.
    #[arg(long)]
    kube_proxy: Option<PathBuf>,
    /// Credentials of both programs.
    #[arg(long, default_value = "/etc/kubernetes/admin.conf")]
    kubeconfig: PathBuf,
    /// Credentials for filling: of the one group that the API server never makes wait.
    #[arg(long, default_value = "/etc/kubernetes/super-admin.conf")]
    fill_kubeconfig: PathBuf,
    /// Fill the cluster and end.
    #[arg(long)]
    only_fill: bool,
    /// Passed by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let connect = Cluster::connect(&flags.fill_kubeconfig, flags.services, flags.endpoints);
    let cluster = runtime.block_on(connect);
    runtime.block_on(cluster.fill());
    if flags.only_fill {
        return ExitCode::SUCCESS;
    }
    let mut subjects = vec![Subject::agent(
        &flags.agent,
        &flags.kubeconfig,
        flags.changes,
    )];
    if let Some(path) = &flags.kube_proxy {
        subjects.push(Subject::kube_proxy(
            path,
            &flags.kubeconfig,
            flags.proxy_changes,
        ));
    }
    let mut results: Vec<Vec<Run>> = subjects.iter().map(|_| Vec::new()).collect();
    println!(
        "{} Services x {} endpoints, load {}\n\n\
         | program | start to synced | processor time | peak RSS | one change p50 | p99 | max | since the request, p50 | changes |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        flags.services,
        flags.endpoints,
        load()
    );
    for round in 0..flags.runs {
        for turn in 0..subjects.len() {
            // The side that comes first in one round comes last in the next.
            let which = (round + turn) % subjects.len();
            let run = measure(&subjects[which], &cluster, &runtime, round);
            println!("| {} | {} |", subjects[which].name, run.cells());
            results[which].push(run);
        }
    }
    report(&results)
}

/// What was measured from one start of a program to its end.
struct Run {
    synced: Duration,
    worked: Duration,
    /// In KiB, of the start and all changes.
    peak: u64,
    /// From the API server's answer to the kernel, in ascending order; zero where the kernel was first.
    changes: Vec<Duration>,
    /// The same from the request on.
    requests: Vec<Duration>,
}

impl Run {
    fn cells(&self) -> String {
        format!(
            "{:.2} s | {:.2} s | {:.1} MiB | {} | {} | {} | {} | {}",
            self.synced.as_secs_f64(),
            self.worked.as_secs_f64(),
            self.peak as f64 / 1024.0,
            milliseconds(share(&self.changes, 0.5)),
            milliseconds(share(&self.changes, 0.99)),
            milliseconds(share(&self.changes, 1.0)),
            milliseconds(share(&self.requests, 0.5)),
            self.changes.len()
        )
    }
}

fn measure(subject: &Subject, cluster: &Cluster, runtime: &Runtime, round: usize) -> Run {
    kernel::delete_tables(subject.tables);
    kernel::settle();
    let mut running = subject.start();
    let synced = running.synced();
    let worked = running.processor_time();
    let holds = kernel::endpoints(subject.tables[0]);
    let wanted = cluster.services * cluster.endpoints;
    assert!(
        holds >= wanted,
        "{}: {holds} of {wanted} endpoints are in the kernel",
        subject.name
    );

    let mut notices = Notices::listen();
    let (mut changes, mut requests) = (Vec::new(), Vec::new());
    for number in 0..subject.changes {
        let service = (round * subject.changes + number) * 37 % cluster.services;
        let change = runtime.block_on(cluster.change(service));
        let seen = notices.added(change.address);
        changes.push(seen.saturating_duration_since(change.answered));
        requests.push(seen.saturating_duration_since(change.asked));
    }
    changes.sort_unstable();
    requests.sort_unstable();
    let peak = running.peak_rss();
    drop(running);
    kernel::delete_tables(subject.tables);
    Run {
        synced,
        worked,
        peak,
        changes,
        requests,
    }
}

/// What is asked for beside what was measured.
fn report(results: &[Vec<Run>]) -> ExitCode {
    let synced = |runs: &[Run]| {
        let mut times: Vec<_> = runs.iter().map(|run| run.synced).collect();
        times.sort_unstable();
        share(&times, 0.5)
    };
    let ours = &results[0];
    let mut changes: Vec<_> = ours
        .iter()
        .flat_map(|run| run.changes.iter().copied())
        .collect();
    changes.sort_unstable();
    let change = share(&changes, 0.99);
    let peak = ours.iter().map(|run| run.peak).max().unwrap();
    let mut missed = false;
    let mut line = |what: &str, asked: &str, measured: String, met: bool| {
        missed |= !met;
        let mark = if met { "" } else { "**" };
        println!("| {what} | {asked} | {mark}{measured}{mark} |");
    };
    println!("\n| the agent | asked | measured |\n| --- | --- | --- |");
    if let Some(theirs) = results.get(1) {
        let (ours, theirs) = (synced(ours), synced(theirs));
        let ratio = ours.as_secs_f64() / theirs.as_secs_f64();
        let (ours, theirs) = (ours.as_secs_f64(), theirs.as_secs_f64());
        line(
            "start to synced, by kube-proxy's, medians",
            "at most 0.25",
            format!("{ratio:.2} ({ours:.2} s, {theirs:.2} s)"),
            ratio <= 0.25,
        );
    }
    line(
        "one endpoint, API server's answer to kernel, p99",
        "at most 50 ms",
        format!(
            "{} (n = {}, median {})",
            milliseconds(change),
            changes.len(),
            milliseconds(share(&changes, 0.5))
        ),
        change <= Duration::from_millis(50),
    );
    line(
        "peak of resident memory, changes included",
        "at most 40 MiB",
        format!("{:.1} MiB", peak as f64 / 1024.0),
        peak <= 40 * 1024,
    );
    println!("\nload at the end {}", load());
    if missed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// The value that this share of all is not above; zero if there is none.
fn share(sorted: &[Duration], share: f64) -> Duration {
    let last = sorted.len().saturating_sub(1);
    let at = (last as f64 * share).ceil() as usize;
    sorted.get(at).copied().unwrap_or_default()
}

fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

/// The average of the last minute.
fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap();
    text.split_whitespace()
        .next()
        .unwrap_or_default()
        .to_owned()
}
