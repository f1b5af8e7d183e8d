//! What it costs to know of connections: nothing while no one looks, little while someone does.
//!
//! Each lab is a node with an agent, a client and a server (`talk`). The rules stay when an agent ends,
//! so a node whose agent was ended shows what connections cost where nothing can listen to them.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use podwire_desk::reach::local::Local;
use podwire_desk::reach::{Node, Reach};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::Options;
use crate::cases::progress;
use crate::report::Report;
use crate::services::agent::Agent;
use crate::services::cluster::{Cluster, Endpoints, NODE, PORT, cluster_ip};
use crate::talk::{Lab, SERVERS, TURN, TURNS, connect, wait_for_end};
use crate::world::World;

/// New connections in a second, and for how long.
const RATE: u32 = 5_000;
const LASTS: Duration = Duration::from_secs(12);
/// They are opened in groups, one each time this is over.
const BEAT: Duration = Duration::from_millis(5);
/// A connection is announced when it begins, and when it is forgotten.
const ANNOUNCED: u32 = 2;
/// After its end a connection is kept for a second, and the kernel goes through its table in its own
/// time: a minute at the most (`GC_SCAN_INTERVAL_MAX`, net/netfilter/nf_conntrack_core.c).
const FORGOTTEN: Duration = Duration::from_secs(90);
/// An agent stops to listen 30 s after the last question.
const PATIENCE: Duration = Duration::from_secs(32);

/// Connections while no one looks, and the agent while someone does.
pub fn flows(_: &Options, world: &World, report: &mut Report) -> Result<(), String> {
    unwatched(world, report)?;
    report.table(
        &format!("The agent at {RATE} new connections a second"),
        &["", "of a core", "MiB more", "flows", "lost"],
    );
    let quiet = lab(world, "flows-quiet", &[])?;
    let none = load(&quiet, "no one looks", false)?;
    report.row(["no one looks", &none.share(), "", "", ""]);
    for (what, followed) in [
        ("a history is kept (--flows)", false),
        ("and someone follows it", true),
    ] {
        let name = format!("flows-on-{followed}");
        let lab = lab(world, &name, &["--flows"])?;
        let cost = load(&lab, what, followed)?;
        let seen = everything(&lab, what, cost.connections)?;
        let more = cost.memory - none.memory;
        report.row([
            what,
            &cost.share(),
            &format!("{more:.1}"),
            &seen.newest.to_string(),
            &seen.lost.to_string(),
        ]);
        report.at_most(&format!("{what}: share of a core"), cost.core, 0.1);
        report.at_most(&format!("{what}: MiB more"), more, 8.0);
        let missing = f64::from(cost.connections * ANNOUNCED) - seen.newest as f64;
        report.at_most(&format!("{what}: flows that are missing"), missing, 0.0);
        report.at_most(&format!("{what}: told losses"), seen.lost as f64, 0.0);
        let rate = f64::from(cost.connections) / cost.took.as_secs_f64();
        let wanted = f64::from(RATE) * 0.95;
        report.at_least(&format!("{what}: connections a second"), rate, wanted);
    }
    Ok(())
}

/// A node with one Service of two endpoints.
fn lab(world: &World, name: &str, flags: &[&str]) -> Result<Lab, String> {
    let cluster = Cluster::write(world.directory(name)?, 1, Endpoints::Here(SERVERS))?;
    Lab::with_agent(world, &cluster, flags)
}

/// New connections per second where no agent is, where no one has asked it, where someone did but no
/// longer does, and where a history is kept.
fn unwatched(world: &World, report: &mut Report) -> Result<(), String> {
    progress("four nodes: without an agent, never asked, asked before, with a history");
    let asked = lab(world, "flows-asked", &[])?;
    let page = page(agent(&asked)?.state(), "/flows")?;
    let since = Instant::now();
    if page.since.is_none() {
        return Err("the agent did not begin to listen when it was asked".into());
    }
    let labs = [
        lab(world, "flows-gone", &[])?.without_agent(),
        lab(world, "flows-never", &[])?,
        asked,
        lab(world, "flows-history", &["--flows"])?,
    ];
    progress("until the agent that was asked stops to listen");
    std::thread::sleep(PATIENCE.saturating_sub(since.elapsed()));
    progress("new connections per second");
    let names = ["no agent", "never asked", "asked before", "--flows"];
    let mut rounds: Vec<[f64; 4]> = Vec::with_capacity(TURNS);
    // The first turns fill caches.
    for turn in 0..TURNS + 10 {
        let mut round = [0.0; 4];
        for place in 0..round.len() {
            let which = (turn + place) % round.len();
            round[which] = rate(&labs[which])?;
        }
        if turn >= 10 {
            rounds.push(round);
        }
    }
    let median = |value: &dyn Fn(&[f64; 4]) -> f64| {
        let mut values: Vec<f64> = rounds.iter().map(value).collect();
        values.sort_unstable_by(f64::total_cmp);
        values[values.len() / 2]
    };
    report.table(
        "New connections per second through a ClusterIP",
        &["", "per second", "/ no agent"],
    );
    for (which, name) in names.iter().enumerate() {
        let rate = median(&|round| round[which]);
        let ratio = median(&|round| round[which] / round[0]);
        report.row([name, &format!("{rate:.0}"), &format!("{ratio:.3}")]);
        if (1..3).contains(&which) {
            report.at_least(
                &format!("new connections per second, {name} / no agent"),
                ratio,
                0.99,
            );
        }
    }
    Ok(())
}

/// As many connections as there can be in a turn.
fn rate(lab: &Lab) -> Result<f64, String> {
    lab.in_client(|| {
        let start = Instant::now();
        let mut done = 0u32;
        while start.elapsed() < TURN {
            wait_for_end(connect((cluster_ip(0), PORT).into())?.0)?;
            done += 1;
        }
        Ok(f64::from(done) / start.elapsed().as_secs_f64())
    })
}

/// What a load did to the agent.
struct Cost {
    /// Connections that were opened.
    connections: u32,
    /// For how long.
    took: Duration,
    /// The share of a processor that it took.
    core: f64,
    /// Its memory afterwards, in MiB.
    memory: f64,
}

impl Cost {
    fn share(&self) -> String {
        format!("{:.1} %", self.core * 100.0)
    }
}

/// Opens connections at [`RATE`]; someone may follow what the agent notices.
fn load(lab: &Lab, what: &str, followed: bool) -> Result<Cost, String> {
    progress(&format!("{RATE} connections a second: {what}"));
    let agent = agent(lab)?;
    let ended = AtomicBool::new(false);
    let state = agent.state();
    let before = agent.processor_time()?;
    let (connections, took) = std::thread::scope(|scope| {
        let follower = followed.then(|| scope.spawn(|| follow(state, &ended)));
        let opened = open(lab);
        ended.store(true, Ordering::Relaxed);
        if let Some(follower) = follower {
            follower
                .join()
                .map_err(|_| "a thread of the bench died")??;
        }
        opened
    })?;
    let used = agent.processor_time()? - before;
    Ok(Cost {
        connections,
        took,
        core: used.as_secs_f64() / took.as_secs_f64(),
        memory: agent.memory("VmRSS")?,
    })
}

/// The number of connections, and the time it took.
fn open(lab: &Lab) -> Result<(u32, Duration), String> {
    let group = (f64::from(RATE) * BEAT.as_secs_f64()).round() as u32;
    lab.in_client(|| {
        let start = Instant::now();
        let mut opened = 0;
        let mut next = start;
        while start.elapsed() < LASTS {
            for _ in 0..group {
                wait_for_end(connect((cluster_ip(0), PORT).into())?.0)?;
            }
            opened += group;
            next += BEAT;
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        Ok((opened, start.elapsed()))
    })
}

/// Reads the flows as they come.
fn follow(state: &Path, ended: &AtomicBool) -> Result<(), String> {
    let mut newest = 0;
    while !ended.load(Ordering::Relaxed) {
        newest = page(state, &format!("/flows?follow=1&after={newest}"))?.newest;
    }
    Ok(())
}

/// Waits until the ends of so many connections are noticed too, or lost; the last answer.
fn everything(lab: &Lab, what: &str, connections: u32) -> Result<Page, String> {
    let state = agent(lab)?.state();
    let start = Instant::now();
    let mut newest = 0;
    loop {
        let page = page(state, &format!("/flows?after={newest}"))?;
        newest = page.newest;
        let all = newest >= u64::from(connections * ANNOUNCED);
        if all || start.elapsed() > FORGOTTEN {
            return Ok(page);
        }
        // An answer holds only so many; the rest is there already.
        if page.flows.is_empty() {
            progress(&format!(
                "{what}: until the kernel has forgotten all, {} s",
                start.elapsed().as_secs()
            ));
            std::thread::sleep(Duration::from_secs(1));
        }
    }
}

/// Of an answer, what is needed here.
#[derive(Debug, Deserialize)]
struct Page {
    since: Option<String>,
    newest: u64,
    lost: u64,
    flows: Vec<IgnoredAny>,
}

fn page(state: &Path, target: &str) -> Result<Page, String> {
    let here = Local::new(state);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let client = here.client(&Node::named(NODE)).await;
        let client = client.map_err(|error| error.to_string())?;
        let reply = client.ask(target).await;
        reply
            .and_then(|reply| reply.value(NODE))
            .map_err(|error| error.to_string())
    })
}

fn agent(lab: &Lab) -> Result<&Agent, String> {
    lab.agent
        .as_ref()
        .ok_or_else(|| "this node has no agent".to_owned())
}
