//! The Service proxy as its users meet it: the real agent, real manifests, real packets.

pub mod agent;
pub mod cluster;
pub mod notice;
mod traffic;

use std::time::{Duration, Instant};

use podwire_kernel::netns::Netns;
use podwire_kernel::nft::{Batch, Family, Key, KeyBuf, NftSocket};

use crate::Options;
use crate::cases::progress;
use crate::report::Report;
use crate::statistics::Times;
use crate::world::World;
use agent::Agent;
use cluster::{Cluster, Endpoints};
use notice::Notices;
pub use traffic::traffic;

/// The table of the Services.
const TABLE: &str = "podwire-services";

/// Services and endpoints of each in the cases about one large cluster.
const SERVICES: u32 = 10_000;
const ENDPOINTS: u32 = 10;

/// How often one endpoint is changed.
const CHANGES: u32 = 500;

/// Memory of an agent with nothing to do.
pub fn idle(_: &Options, world: &World, report: &mut Report) -> Result<(), String> {
    progress("an agent without Services");
    let cluster = Cluster::write(world.directory("idle")?, 0, Endpoints::Elsewhere(0))?;
    let node = agent::node()?;
    let mut agent = Agent::start(world, &node, &cluster)?;
    agent.await_ready()?;
    agent.await_idle()?;
    let (now, file) = (agent.memory("VmRSS")?, agent.memory("RssFile")?);
    report.table("The agent without Services", &["", "MiB"]);
    report.row(["resident memory", &mebibytes(now)]);
    report.row(["of that the program itself (file)", &mebibytes(file)]);
    report.row(["peak", &mebibytes(agent.memory("VmHWM")?)]);
    report.at_most("agent without Services, memory in MiB", now, 8.0);
    Ok(())
}

/// An agent with 10,000 Services of 10 endpoints: memory, the start, changes, repairs.
pub fn large(_: &Options, world: &World, report: &mut Report) -> Result<(), String> {
    progress(&format!("an agent with {SERVICES} x {ENDPOINTS}"));
    let cluster = Cluster::write(
        world.directory("large")?,
        SERVICES,
        Endpoints::Elsewhere(ENDPOINTS),
    )?;
    cluster.write_single(SERVICES, 0)?;
    let node = agent::node()?;
    let mut agent = Agent::start(world, &node, &cluster)?;
    let read = agent.await_log("read manifests")? - agent.began;
    let ready = agent.await_ready()?;
    agent.await_idle()?;
    report.table(
        &format!("The agent with {SERVICES} Services x {ENDPOINTS} endpoints"),
        &["", ""],
    );
    report.row(["start to all manifests read", &milliseconds(read)]);
    report.row(["start to everything in the kernel", &milliseconds(ready)]);
    let settled = agent.memory("VmRSS")?;
    report.row(["resident memory afterwards, MiB", &mebibytes(settled)]);
    let mut notices = Notices::listen(&node)?;
    let times = changes(&cluster, &mut notices)?;
    for (name, share) in [("median", 0.5), ("p99", 0.99), ("slowest", 1.0)] {
        let name = format!("one endpoint, file renamed in to committed, {name}");
        report.row([&name, &milliseconds(times.quantile(share))]);
    }
    drop(notices);
    let p99 = times.quantile(0.99).as_secs_f64() * 1000.0;
    let peak = agent.memory("VmHWM")?;
    repairs(&node, &agent, report)?;
    agent.await_idle()?;
    let after = agent.memory("VmHWM")?;
    report.row(["peak memory after all repairs, MiB", &mebibytes(after)]);
    report.at_most("agent with 10,000 x 10, peak memory in MiB", peak, 30.0);
    report.at_most(
        "one endpoint of 10,000 x 10, event to commit, p99 in ms",
        p99,
        5.0,
    );
    Ok(())
}

fn changes(cluster: &Cluster, notices: &mut Notices) -> Result<Times, String> {
    let mut times = Times::default();
    for round in 1..=CHANGES {
        notices.forget();
        let before = Instant::now();
        let address = cluster.write_single(SERVICES, round)?;
        times.add(notices.await_address(address)? - before);
    }
    Ok(times)
}

/// What another program does to the table, and how to see that it is whole again.
struct Damage {
    what: &'static str,
    harm: fn(&mut Batch),
    is_whole: fn(&mut NftSocket) -> Result<bool, podwire_kernel::Error>,
}

const DAMAGES: [Damage; 4] = [
    Damage {
        what: "one element deleted",
        harm: |batch| {
            let header = endpoints_header();
            let mut table = batch.table(Family::Ip, TABLE);
            table
                .elements("endpoints", &header)
                .delete(&endpoint_key(4711), None);
        },
        is_whole: |socket| has_endpoint(socket, 4711),
    },
    Damage {
        what: "one chain emptied",
        harm: |batch| {
            batch.table(Family::Ip, TABLE).flush_chain(CHAIN);
        },
        is_whole: |socket| {
            let table = socket.observe_frame(Family::Ip, TABLE)?;
            let chain = table.as_ref().and_then(|table| table.chains.get(CHAIN));
            Ok(chain.is_some_and(|chain| !chain.rules.is_empty()))
        },
    },
    // Services are written in the order of their names, so the last one tells of all.
    Damage {
        what: "one map emptied",
        harm: |batch| {
            batch.table(Family::Ip, TABLE).flush_set("endpoints");
        },
        is_whole: |socket| has_endpoint(socket, SERVICES),
    },
    Damage {
        what: "the table deleted",
        harm: |batch| {
            batch.table(Family::Ip, TABLE).delete();
        },
        is_whole: |socket| has_endpoint(socket, SERVICES),
    },
];

/// The chain of all Services with ten endpoints.
const CHAIN: &str = "pick-10";

fn endpoints_header() -> podwire_kernel::nft::Set {
    use podwire_kernel::nft::{Field, Set};
    let key = [Field::IpDaddr, Field::L4Proto, Field::ThDport, Field::Slot];
    Set::map(&key, &[Field::IpDaddr, Field::ThDport]).with_counters()
}

/// The key of the last endpoint of a Service.
fn endpoint_key(service: u32) -> Key {
    let mut key = KeyBuf::new();
    key.push_address(cluster::cluster_ip(service).into())
        .push_protocol(6)
        .push_port(cluster::PORT)
        .push_number(ENDPOINTS - 1);
    key.into()
}

fn has_endpoint(socket: &mut NftSocket, service: u32) -> Result<bool, podwire_kernel::Error> {
    let (header, key) = (endpoints_header(), endpoint_key(service));
    let found = socket.element(Family::Ip, TABLE, "endpoints", &header, &key)?;
    Ok(found.is_some())
}

/// Breaks the table in several ways and waits until it is whole again.
fn repairs(node: &Netns, agent: &Agent, report: &mut Report) -> Result<(), String> {
    let failed = |error: podwire_kernel::Error| error.to_string();
    let mut socket = node
        .enter(NftSocket::open)
        .map_err(failed)?
        .map_err(failed)?;
    let wanted = elements(&mut socket)?;
    for damage in &DAMAGES {
        let what = damage.what;
        progress(&format!("repairing: {what}"));
        agent.await_idle()?;
        let mut batch = Batch::new();
        (damage.harm)(&mut batch);
        socket
            .commit(&mut batch)
            .map_err(|error| format!("{what}: {error}"))?;
        let broken = Instant::now();
        while !(damage.is_whole)(&mut socket).map_err(failed)? {
            if broken.elapsed() > Duration::from_secs(30) {
                return Err(format!("{what}: it never came back"));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let time = broken.elapsed();
        agent.await_idle()?;
        let found = elements(&mut socket)?;
        if found != wanted {
            return Err(format!("{what}: {found} of {wanted} elements came back"));
        }
        report.row([&format!("{what}, until all is back"), &milliseconds(time)]);
        report.at_most(
            &format!("repair at 10,000 x 10: {what}, in s"),
            time.as_secs_f64(),
            1.0,
        );
    }
    Ok(())
}

/// How many elements the maps of Services and endpoints hold.
fn elements(socket: &mut NftSocket) -> Result<usize, String> {
    let failed = |error: podwire_kernel::Error| error.to_string();
    let headers = socket.set_headers(Family::Ip, TABLE).map_err(failed)?;
    let mut count = 0;
    for (name, header) in headers.iter() {
        socket
            .each_element(Family::Ip, TABLE, name, header, |_, _| count += 1)
            .map_err(failed)?;
    }
    Ok(count)
}

fn milliseconds(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1000.0)
}

fn mebibytes(number: f64) -> String {
    format!("{number:.1}")
}
