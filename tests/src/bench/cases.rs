//! The cases and their targets.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use podwire_kernel::RouteSocket;
use podwire_kernel::address::Address;
use podwire_kernel::link::Veth;
use podwire_kernel::route::{Route, RouteChange, RouteFilter};

use crate::Options;
use crate::call::{Attachment, Verb};
use crate::flows;
use crate::policies;
use crate::report::Report;
use crate::services;
use crate::sides::{Programs, Side};
use crate::statistics::{Times, ratio};
use crate::world::World;

/// How many ADDs run at once in the parallel case.
const PARALLEL: usize = 20;

/// This many namespaces are used in turn by the cases that run one at a time.
const PODS: usize = 8;

/// Nodes of the cluster in the case of the routes.
const NODES: u32 = 5000;

/// Largest peak of memory in MB and largest binary in MB (10^6 bytes).
const MEMORY_LIMIT: f64 = 3.0;
const SIZE_LIMIT: f64 = 2.0;

/// Runs the cases that were asked for.
pub fn run(options: &Options, world: &World, report: &mut Report) -> Result<(), String> {
    type Case = fn(&Options, &World, &mut Report) -> Result<(), String>;
    let cases: [(&str, Case); 15] = [
        ("plain", plain),
        ("mapping", mapping),
        ("dual", dual),
        ("leases", leases),
        ("parallel", parallel),
        ("size", size),
        ("routes", routes),
        ("policies-start", policies::start),
        ("policies-memory", policies::memory),
        ("policies-traffic", policies::traffic),
        ("policies-off", policies::off),
        ("services-idle", services::idle),
        ("services-large", services::large),
        ("services-traffic", services::traffic),
        ("flows", flows::flows),
    ];
    for (name, case) in cases {
        if options
            .only
            .as_ref()
            .is_none_or(|only| name.contains(only.as_str()))
        {
            case(options, world, report)?;
        }
    }
    Ok(())
}

fn plain(options: &Options, world: &World, report: &mut Report) -> Result<(), String> {
    report.section("One pod at a time, IPv4, no host port");
    let sides = [
        Side::new(world, "podwire", Programs::Podwire)?,
        Side::new(
            world,
            "reference ptp, host-local, portmap",
            Programs::PtpAndPortmap,
        )?,
        Side::new(world, "reference ptp, host-local", Programs::Ptp)?,
        Side::new(world, "floor", Programs::Floor)?,
    ];
    let [podwire, chain, _, floor] = alternate(options, world, report, &sides)?;
    report.at_least(
        "reference chain / podwire, ADD",
        ratio(&chain, &podwire),
        3.0,
    );
    report.at_most("podwire / floor, ADD", ratio(&podwire, &floor), 1.5);
    Ok(())
}

fn mapping(options: &Options, world: &World, report: &mut Report) -> Result<(), String> {
    report.section("One pod at a time, IPv4, one host port");
    let sides = [
        Side::new(world, "podwire", Programs::Podwire)?.with_mapping(),
        Side::new(
            world,
            "reference ptp, host-local, portmap",
            Programs::PtpAndPortmap,
        )?
        .with_mapping(),
    ];
    let [podwire, chain] = alternate(options, world, report, &sides)?;
    report.at_least(
        "reference chain / podwire, ADD, one host port",
        ratio(&chain, &podwire),
        10.0,
    );
    Ok(())
}

fn dual(options: &Options, world: &World, report: &mut Report) -> Result<(), String> {
    report.section("One pod at a time, IPv4 beside IPv4 and IPv6");
    let sides = [
        Side::new(world, "podwire IPv4", Programs::Podwire)?,
        Side::new(world, "podwire IPv4 and IPv6", Programs::Podwire)?.dual(),
    ];
    let [v4, both] = alternate(options, world, report, &sides)?;
    report.at_most("dual-stack / IPv4, ADD", ratio(&both, &v4), 1.3);
    Ok(())
}

fn leases(options: &Options, world: &World, report: &mut Report) -> Result<(), String> {
    report.section("One pod at a time, IPv4, with leases on disk");
    let sides = [
        Side::new(world, "podwire, no lease", Programs::Podwire)?,
        Side::new(world, "podwire, 250 leases", Programs::Podwire)?,
        Side::new(world, "podwire, 60000 leases", Programs::Podwire)?,
    ];
    fill(&sides[1].leases, 250)?;
    fill(&sides[2].leases, 60_000)?;
    let [none, some, many] = alternate(options, world, report, &sides)?;
    report.at_most("250 leases / none, ADD", ratio(&some, &none), 1.2);
    report.at_most("60,000 leases / none, ADD", ratio(&many, &none), 1.2);
    Ok(())
}

/// Writes `count` leases in the manner of host-local into `directory`.
fn fill(directory: &Path, count: u32) -> Result<(), String> {
    progress(&format!("writing {count} leases"));
    let failed = |error| format!("cannot write leases to {}: {error}", directory.display());
    let address = |number: u32| Ipv4Addr::from(0x0a58_0001 + number);
    for number in 1..=count {
        let lease = format!("lease{number:059}\r\neth0");
        fs::write(directory.join(address(number).to_string()), lease).map_err(failed)?;
    }
    let last = address(count).to_string();
    fs::write(directory.join("last_reserved_ip.0"), last).map_err(failed)
}

fn parallel(options: &Options, world: &World, report: &mut Report) -> Result<(), String> {
    report.section(&format!(
        "{PARALLEL} pods at once, time until the last is done"
    ));
    let podwire = Side::new(world, "podwire parallel", Programs::Podwire)?;
    let chain = Side::new(world, "reference parallel", Programs::PtpAndPortmap)?;
    let pods = world.pods("parallel", PARALLEL)?;
    let mut times = [Times::default(), Times::default()];
    for round in 0..options.rounds {
        progress(&format!(
            "parallel round {} of {}",
            round + 1,
            options.rounds
        ));
        for (side, times) in [&podwire, &chain].into_iter().zip(&mut times) {
            times.add(burst(world, side, &pods)?);
        }
    }
    let [ours, theirs] = times;
    let slower = ratio(&ours, &theirs);
    report.line(&podwire.name, ours, None, None);
    report.line(&chain.name, theirs, None, None);
    report.at_most("podwire / reference chain, 20 ADDs at once", slower, 1.0);
    Ok(())
}

/// Starts one ADD for each pod at once; returns the time until all are done. A thread each stands
/// in for the runtime, which waits for its plugins independently. Then all are deleted.
fn burst(world: &World, side: &Side, pods: &[PathBuf]) -> Result<Duration, String> {
    let attachments: Vec<_> = pods.iter().map(|pod| attachment(pod)).collect();
    let start = Instant::now();
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = attachments
            .iter()
            .map(|at| scope.spawn(|| side.add(world, at)))
            .collect();
        threads.into_iter().map(|thread| thread.join()).collect()
    });
    let time = start.elapsed();
    for (attachment, result) in attachments.iter().zip(results) {
        let result = result.map_err(|_| "a thread of the bench died")??;
        side.del(world, attachment, &result.output)?;
    }
    Ok(time)
}

fn size(_: &Options, world: &World, report: &mut Report) -> Result<(), String> {
    let bytes = fs::metadata(&world.podwire)
        .map_err(|error| format!("cannot read {}: {error}", world.podwire.display()))?
        .len();
    report.at_most("size of the binary in MB", bytes as f64 / 1e6, SIZE_LIMIT);
    let plain = Side::new(world, "podwire memory", Programs::Podwire)?;
    let mapped = Side::new(world, "podwire memory", Programs::Podwire)?
        .with_mapping()
        .dual();
    let pods = world.pods("memory", 1)?;
    for (text, side) in [("IPv4", plain), ("dual-stack, one host port", mapped)] {
        let peak = (0..10)
            .map(|_| memory(world, &side, &pods[0]))
            .collect::<Result<Vec<_>, _>>()?;
        let peak = peak.into_iter().fold(0.0, f64::max);
        report.at_most(
            &format!("peak memory of an ADD in MB, {text}"),
            peak,
            MEMORY_LIMIT,
        );
    }
    Ok(())
}

/// What the agent asks of the kernel when a cluster of 5,000 nodes comes up, and when one changes.
fn routes(options: &Options, _: &World, report: &mut Report) -> Result<(), String> {
    progress("routes to 5000 nodes");
    let failed = |error: podwire_kernel::Error| error.to_string();
    let mut socket = RouteSocket::open().map_err(failed)?;
    let veth = Veth::new("bench0", "bench1").map_err(failed)?;
    let ends = socket.create_veth(&veth).map_err(failed)?;
    let uplink = Ipv4Addr::new(192, 168, 112, 1);
    let on_link = IpNetwork::new(uplink.into(), 24).map_err(|error| error.to_string())?;
    for index in [ends.peer_index, ends.index] {
        socket.set_up(index).map_err(failed)?;
    }
    socket
        .add_address(&Address::new(ends.index, on_link))
        .map_err(failed)?;
    let routes = (0..NODES)
        .map(|node| route_to(node, ends.index))
        .collect::<Result<Vec<_>, _>>()?;
    let (mut all, mut one, mut list) = (Times::default(), Times::default(), Times::default());
    for _ in 0..options.rounds {
        all.add(apply(&mut socket, &routes, RouteChange::Add)?);
        let start = Instant::now();
        let ours = RouteFilter {
            protocol: Some(112),
            ..RouteFilter::default()
        };
        let observed = socket.routes(ours).map_err(failed)?.len();
        list.add(start.elapsed());
        if observed != routes.len() {
            return Err(format!("{observed} of {} routes are there", routes.len()));
        }
        one.add(apply(&mut socket, &routes[..1], RouteChange::Replace)?);
        apply(&mut socket, &routes, RouteChange::Delete)?;
    }
    socket.delete_link(ends.index).map_err(failed)?;
    let milliseconds = |times: &Times| times.median().as_secs_f64() * 1000.0;
    report.at_most("5,000 routes written, in ms", milliseconds(&all), 150.0);
    report.at_most("5,000 routes listed, in ms", milliseconds(&list), 150.0);
    report.at_most(
        "one route changed among 5,000, in ms",
        milliseconds(&one),
        1.0,
    );
    Ok(())
}

/// The route to the pods of a node.
fn route_to(node: u32, link: u32) -> Result<Route, String> {
    let pods = Ipv4Addr::from(0x0a40_0000 + (node << 8));
    let pods = IpNetwork::new(pods.into(), 24).map_err(|error| error.to_string())?;
    Ok(Route {
        gateway: Some(Ipv4Addr::new(192, 168, 112, 2).into()),
        link: Some(link),
        protocol: 112,
        ..Route::to(pods)
    })
}

/// Carries out one change for each route; returns the time, or the first refusal.
fn apply(
    socket: &mut RouteSocket,
    routes: &[Route],
    change: fn(Route) -> RouteChange,
) -> Result<Duration, String> {
    let changes: Vec<_> = routes.iter().cloned().map(change).collect();
    let start = Instant::now();
    let results = socket.apply(&changes).map_err(|error| error.to_string())?;
    let time = start.elapsed();
    let refused = results.into_iter().find_map(Result::err);
    refused.map_or(Ok(time), |error| Err(error.to_string()))
}

/// The peak of the resident memory of one ADD in MB.
fn memory(world: &World, side: &Side, pod: &Path) -> Result<f64, String> {
    let file = world.directory("memory")?.join("peak");
    let attachment = attachment(pod);
    let call = side.first_call(world, Verb::Add, &attachment, None);
    let answer = call.measuring_memory(&world.floor, &file).make()?;
    side.del(world, &attachment, &answer.output)?;
    let kibibytes: f64 = fs::read_to_string(&file)
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .ok_or("the floor program wrote no peak of memory")?;
    Ok(kibibytes * 1024.0 / 1e6)
}

/// Runs all sides in turn, and returns their ADDs.
pub fn alternate<const N: usize>(
    options: &Options,
    world: &World,
    report: &mut Report,
    sides: &[Side; N],
) -> Result<[Times; N], String> {
    let pods = world.pods(&unique("pods"), PODS)?;
    let mut adds = std::array::from_fn(|_| Times::default());
    let mut cpus: [Times; N] = std::array::from_fn(|_| Times::default());
    let mut dels: [Times; N] = std::array::from_fn(|_| Times::default());
    // The first rounds load programs and fill caches.
    let warm_up = options.count.div_ceil(20);
    for round in 0..options.count + warm_up {
        if round % 10 == 0 {
            progress(&format!(
                "{}: {round} of {}",
                sides[0].name,
                options.count + warm_up
            ));
        }
        for turn in 0..N {
            // The side that comes first in one round comes last in the next.
            let which = (round + turn) % N;
            let pod = &pods[(round * N + turn) % PODS];
            let pair = sides[which].cycle(world, &attachment(pod))?;
            if round >= warm_up {
                adds[which].add(pair.add);
                cpus[which].add(pair.cpu);
                dels[which].add(pair.del);
            }
        }
    }
    for (((side, add), cpu), del) in sides.iter().zip(&adds).zip(cpus).zip(dels) {
        report.line(&side.name, add.clone(), Some(cpu), Some(del));
    }
    Ok(adds)
}

/// A new container in the namespace `pod`.
fn attachment(pod: &Path) -> Attachment {
    Attachment {
        id: unique(""),
        netns: pod.to_owned(),
    }
}

/// A name that did not occur before: a container ID of 64 digits, as runtimes make them.
fn unique(prefix: &str) -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(1);
    // Runtimes make random IDs; this spreads the bits likewise.
    let number = NEXT
        .fetch_add(1, Ordering::Relaxed)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    format!("{prefix}{number:064x}")
}

/// Says on the terminal what goes on.
pub fn progress(text: &str) {
    use std::io::IsTerminal;
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K{text}");
    } else {
        eprintln!("{text}");
    }
}
