//! What a connection through a ClusterIP costs: the first packet, connections, bytes.
//!
//! A lab is a node with the agent and two pods on it: a client, and a server with two addresses
//! that is the endpoint of all Services. The client is pinned to one processor and the server to
//! another, and all sides take turns of a few milliseconds, so that the machine's moods hit all.
//!
//! In one lab the agent leaves Services alone, and one rule translates every connection to the server.
//! That is the least that any proxy costs that leaves the translation to the kernel.

use std::net::{SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use podwire_kernel::nft::{
    Chain, ChainType, Comparison, Family, Field, Hook, NftSocket, Rule, Table, diff, priority,
};

use super::cluster::{Cluster, Endpoints, PORT, TARGET, cluster_ip};
use crate::Options;
use crate::cases::progress;
use crate::report::Report;
use crate::statistics::{Times, ratio};
use crate::talk::{self, CONNECTIONS, Lab, SERVERS, TURN, TURNS, connect, directly, wait_for_end};
use crate::world::World;

/// Services of the small and of the large cluster.
const FEW: u32 = 10;
const MANY: u32 = 30_000;

/// First packets among few and among many Services; connections and bytes beside direct ones.
pub fn traffic(_: &Options, world: &World, report: &mut Report) -> Result<(), String> {
    let few = raise(world, "few", FEW)?;
    let many = raise(world, "many", MANY)?;
    let floor = raise_floor(world)?;
    report.table(
        "Connections from a pod to a pod of the same node",
        &["", "p50", "p90", "p99"],
    );
    first_packets(&few, &many, &floor, report)?;
    report.table(
        &format!("Through a ClusterIP among {MANY} Services, beside direct"),
        &["", "direct", "one rule", "ClusterIP", "any ClusterIP"],
    );
    connections(&many, &floor, report)?;
    throughput(&many, &floor, report)
}

/// The first packet and its answer: among few and among many Services, the same ones again and
/// again or any of them. The last two sides tell what that many destinations cost by themselves.
fn first_packets(few: &Lab, many: &Lab, floor: &Lab, report: &mut Report) -> Result<(), String> {
    progress("first packets");
    let of = |count, all| Targets::Services { count, all };
    let of_few = format!("one of {FEW} Services");
    let same = format!("one of the same {FEW} of {MANY} Services");
    let any = format!("one of {MANY} Services, another each time");
    let mut sides = [
        ("direct, no Service", many, Targets::Direct),
        (&of_few, few, of(FEW, FEW)),
        (&same, many, of(FEW, MANY)),
        (&any, many, of(MANY, MANY)),
        ("one rule, few destinations", floor, of(FEW, MANY)),
        ("one rule, many destinations", floor, of(MANY, MANY)),
    ]
    .map(|(name, lab, targets)| (name, lab, targets, Times::default()));
    let mut random = Random(1);
    for turn in 0..TURNS + 10 {
        for (_, lab, targets, times) in &mut sides {
            let turn_times = lab.in_client(|| {
                let one = |_| {
                    let (stream, time) = connect(targets.draw(&mut random))?;
                    wait_for_end(stream)?;
                    Ok(time)
                };
                (0..CONNECTIONS)
                    .map(one)
                    .collect::<std::io::Result<Vec<_>>>()
            })?;
            // The first turns fill caches.
            if turn >= 10 {
                turn_times.into_iter().for_each(|time| times.add(time));
            }
        }
    }
    let microseconds = |time: Duration| format!("{:.1} us", time.as_secs_f64() * 1e6);
    for (name, _, _, times) in &sides {
        let [p50, p90, p99] = [0.5, 0.9, 0.99].map(|share| microseconds(times.quantile(share)));
        report.row([name, &p50, &p90, &p99]);
    }
    let [_, of_few, same, any, few_destinations, many_destinations] = sides.map(|side| side.3);
    report.at_most(
        "first packet, a Service of 30,000 / of 10, median",
        ratio(&same, &of_few),
        1.05,
    );
    report.at_most(
        "first packet, another of 30,000 each time / of 10, median",
        ratio(&any, &of_few),
        1.05,
    );
    let destinations = ratio(&many_destinations, &few_destinations);
    report.row([
        "  many destinations / few, one rule, p50",
        &format!("{destinations:.3}"),
        "",
        "",
    ]);
    Ok(())
}

/// Where connections go.
#[derive(Debug, Clone, Copy)]
enum Targets {
    /// To the servers, without a Service.
    Direct,
    /// To `count` ClusterIPs, spread evenly over those of `all` Services.
    Services { count: u32, all: u32 },
}

impl Targets {
    fn draw(self, random: &mut Random) -> SocketAddr {
        match self {
            Self::Direct => directly(random.below(2)),
            Self::Services { count, all } => via_service(random.below(count) * (all / count)),
        }
    }
}

fn connections(many: &Lab, floor: &Lab, report: &mut Report) -> Result<(), String> {
    progress("new connections per second");
    let mut random = Random(2);
    let mut one_turn = |side: Side| {
        side.lab(many, floor).in_client(|| {
            let start = Instant::now();
            let mut done = 0u32;
            while start.elapsed() < TURN {
                wait_for_end(connect(side.targets().draw(&mut random))?.0)?;
                done += 1;
            }
            Ok(f64::from(done) / start.elapsed().as_secs_f64())
        })
    };
    let rates = take_turns(&mut one_turn)?;
    compare("new connections per second", &rates, 0, report);
    Ok(())
}

fn throughput(many: &Lab, floor: &Lab, report: &mut Report) -> Result<(), String> {
    progress("throughput");
    let mut random = Random(3);
    let mut one_turn = |side: Side| {
        let target = side.targets().draw(&mut random);
        side.lab(many, floor).in_client(|| talk::throughput(target))
    };
    let rates = take_turns(&mut one_turn)?;
    compare("throughput of one connection, Gbit/s", &rates, 1, report);
    Ok(())
}

/// What the sides did, the ratios, and the target.
fn compare(what: &str, rates: &Rates, digits: usize, report: &mut Report) {
    let [direct, floor, service, any] = rates.medians.map(|rate| format!("{rate:.digits$}"));
    report.row([what, &direct, &floor, &service, &any]);
    let [floor, service, any] = [
        rates.floor_to_direct,
        rates.service_to_direct,
        rates.any_to_direct,
    ]
    .map(|ratio| format!("{ratio:.3}"));
    report.row(["  / direct", "", &floor, &service, &any]);
    let service = format!("{:.3}", rates.service_to_floor);
    report.row(["  / one rule", "", "", &service, ""]);
    report.at_least(
        &format!("{what}, ClusterIP / direct"),
        rates.service_to_direct,
        0.98,
    );
}

/// Who takes turns.
#[derive(Debug, Clone, Copy)]
enum Side {
    Direct,
    Floor,
    /// Two Services.
    Service,
    /// Any of all Services, another each time: as many destinations for the client's kernel to
    /// remember, and as many elements that are in no cache.
    AnyService,
}

impl Side {
    const ALL: [Side; 4] = [Side::Direct, Side::Floor, Side::Service, Side::AnyService];

    fn lab<'a>(self, many: &'a Lab, floor: &'a Lab) -> &'a Lab {
        match self {
            Side::Floor => floor,
            Side::Direct | Side::Service | Side::AnyService => many,
        }
    }

    fn targets(self) -> Targets {
        match self {
            Side::Direct => Targets::Direct,
            // As many destinations as direct.
            Side::Floor | Side::Service => Targets::Services {
                count: 2,
                all: MANY,
            },
            Side::AnyService => Targets::Services {
                count: MANY,
                all: MANY,
            },
        }
    }
}

/// What the sides yield, each after the other in turn: the median, and the median of the ratios
/// to direct and to one rule in the same round, which the machine's moods hardly reach.
fn take_turns(one_turn: &mut dyn FnMut(Side) -> Result<f64, String>) -> Result<Rates, String> {
    let mut rounds: Vec<[f64; 4]> = Vec::with_capacity(TURNS);
    for turn in 0..TURNS {
        let mut round = [0.0; 4];
        // Each side is first, second and last in turn.
        for place in 0..round.len() {
            let side = (turn + place) % round.len();
            round[side] = one_turn(Side::ALL[side])?;
        }
        rounds.push(round);
    }
    let median = |value: &dyn Fn(&[f64; 4]) -> f64| {
        let mut values: Vec<f64> = rounds.iter().map(value).collect();
        values.sort_unstable_by(f64::total_cmp);
        values[values.len() / 2]
    };
    Ok(Rates {
        medians: std::array::from_fn(|side| median(&|round| round[side])),
        floor_to_direct: median(&|[direct, floor, ..]| floor / direct),
        service_to_direct: median(&|[direct, _, service, _]| service / direct),
        service_to_floor: median(&|[_, floor, service, _]| service / floor),
        any_to_direct: median(&|[direct, .., any]| any / direct),
    })
}

/// What [`Side::ALL`] did, and the ratios.
struct Rates {
    medians: [f64; 4],
    floor_to_direct: f64,
    service_to_direct: f64,
    service_to_floor: f64,
    any_to_direct: f64,
}

fn via_service(number: u32) -> SocketAddr {
    SocketAddrV4::new(cluster_ip(number), PORT).into()
}

/// A node with this many Services.
fn raise(world: &World, name: &str, services: u32) -> Result<Lab, String> {
    progress(&format!("a node with {services} Services"));
    let directory = world.directory(&format!("traffic-{name}"))?;
    let cluster = Cluster::write(directory, services, Endpoints::Here(SERVERS))?;
    Lab::with_agent(world, &cluster, &[])
}

/// A node with one rule that translates every connection.
fn raise_floor(world: &World) -> Result<Lab, String> {
    progress("a node with one rule");
    let failed = |error: podwire_kernel::Error| error.to_string();
    let cluster = Cluster::write(
        world.directory("traffic-floor")?,
        0,
        Endpoints::Here(SERVERS),
    )?;
    let lab = Lab::with_agent(world, &cluster, &["--services=false"])?;
    let services = IpNetwork::new(cluster_ip(0).into(), 12).map_err(|e| e.to_string())?;
    let rule = Rule::new()
        .within(Field::IpDaddr, Comparison::Eq, services)
        .l4proto(6)
        .dnat(SERVERS[0].into(), Some(TARGET));
    let nat = |hook, priority| Chain::base(ChainType::Nat, hook, priority);
    let table = Table::new(Family::Ip, "floor")
        .with_chain(
            "prerouting",
            nat(Hook::Prerouting, priority::DSTNAT).with_rule(rule),
        )
        .with_chain("postrouting", nat(Hook::Postrouting, priority::SRCNAT));
    let mut socket = lab
        .node
        .enter(NftSocket::open)
        .map_err(failed)?
        .map_err(failed)?;
    socket
        .commit(&mut diff(None, &table))
        .map_err(|error| error.to_string())?;
    Ok(lab)
}

/// Numbers without a pattern that a cache could learn, the same in each run (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u32) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        (number % u64::from(bound)) as u32
    }
}
