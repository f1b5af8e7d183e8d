//! The Service proxy from snapshot to kernel, in a network namespace of its own.
//!
//! A part of `make bench`. Kernel notifications are listened to as the agent does, because the
//! kernel makes them only if a program listens. Prints each figure beside its target and fails if one
//! is missed. "Processor" is what the thread worked, its system calls included: on a machine that has
//! nothing else to do, the two are the same. `cargo bench -p podwire-agent --bench services -- [SERVICES ENDPOINTS]`

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a bench stops at the first surprise"
)]

mod figures;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use figures::{Cost, cost_of, figure, listen, quantile};
use podwire_agent::config::services::Config;
use podwire_agent::features::parts::log::Logging;
use podwire_agent::features::services::desired::endpoints::Here;
use podwire_agent::features::services::table::delta;
use podwire_agent::features::services::table::nftables::Nftables;
use podwire_agent::features::services::table::state::{Done, View};
use podwire_agent::features::services::table::sync::FamilyTable;
use podwire_agent::snapshot::{
    Change, Dirty, Endpoint, EndpointPort, EndpointSlice, Few, Object, ObjectName, Protocol,
    Service, ServicePort, Snapshot,
};
use podwire_kernel::IpFamily;
use podwire_kernel::nft::{self, Batch, CommitError, NftSocket};

/// Services, endpoints of each, and the longest time of a first sync.
const CASES: [(u32, u32, Duration); 2] = [
    (10_000, 10, Duration::from_secs(1)),
    (44_000, 2, Duration::from_secs(3)),
];

/// How often one endpoint is changed.
const CHANGES: u32 = 1000;

/// How often the whole is done; the median counts.
const ROUNDS: usize = 5;

fn main() -> ExitCode {
    let numbers: Vec<u32> = std::env::args()
        .skip(1)
        .filter_map(|argument| argument.parse().ok())
        .collect();
    let cases = match numbers[..] {
        [services, endpoints, ..] => vec![(services, endpoints, CASES[0].2)],
        _ => CASES.to_vec(),
    };
    println!("The Service proxy, from snapshot to kernel");
    println!("{:52}{:>14}{:>14}", "", "time", "processor");
    let mut met = true;
    for (services, endpoints, limit) in cases {
        // A thread for each: it stays in its network namespace.
        let thread = std::thread::spawn(move || run(services, endpoints, limit));
        met &= thread.join().unwrap();
    }
    if met {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// The kernel, with the time that it took for what it was given last.
struct Timed {
    socket: NftSocket,
    committing: Cost,
}

impl Nftables for Timed {
    fn frame(&mut self, family: nft::Family) -> podwire_kernel::Result<Option<nft::Table>> {
        self.socket.frame(family)
    }

    fn elements(
        &mut self,
        family: nft::Family,
        set: &str,
        header: &nft::Set,
        each: &mut dyn FnMut(nft::Key, nft::Element),
    ) -> podwire_kernel::Result<()> {
        self.socket.elements(family, set, header, each)
    }

    fn element(
        &mut self,
        family: nft::Family,
        set: &str,
        header: &nft::Set,
        key: &[u8],
    ) -> podwire_kernel::Result<Option<nft::Element>> {
        Nftables::element(&mut self.socket, family, set, header, key)
    }

    fn commit(&mut self, batch: &mut Batch, services: &[delta::Change]) -> Result<(), CommitError> {
        let (outcome, cost) = cost_of(|| Nftables::commit(&mut self.socket, batch, services));
        self.committing.wall += cost.wall;
        self.committing.processor += cost.processor;
        outcome
    }
}

/// A cluster, and its table in the kernel.
struct Bench {
    snapshot: Snapshot,
    dirty: Dirty,
    config: Config,
    table: FamilyTable,
    kernel: Timed,
    services: u32,
    endpoints: u32,
    nodes: Vec<Arc<str>>,
}

impl Bench {
    fn new(services: u32, endpoints: u32) -> Bench {
        let config = Config::default();
        let nodes: Vec<Arc<str>> = (0..100).map(|n| Arc::from(format!("node-{n}"))).collect();
        let mut bench = Bench {
            snapshot: Snapshot::default(),
            dirty: Dirty::default(),
            table: FamilyTable::new(IpFamily::V4, &config),
            config,
            kernel: Timed {
                socket: NftSocket::open().expect("an nftables socket"),
                committing: Cost::default(),
            },
            services,
            endpoints,
            nodes,
        };
        for number in 0..services {
            bench.set(Object::Service(service(number)));
            bench.set_slice(number, endpoints, 0);
        }
        bench.dirty = Dirty::default();
        bench
    }

    fn set(&mut self, object: Object) {
        self.snapshot.apply(Change::Set(object), &mut self.dirty);
    }

    fn set_slice(&mut self, number: u32, endpoints: u32, round: u32) {
        let slice = slice(number, endpoints, round, &self.nodes);
        self.set(Object::EndpointSlice(slice));
    }

    /// Brings the kernel in line; how long it took in all.
    fn sync(&mut self) -> (Done, Cost) {
        let dirty = std::mem::take(&mut self.dirty);
        let names: BTreeSet<ObjectName> = dirty.services.union(&dirty.endpoints).cloned().collect();
        let view = View {
            snapshot: &self.snapshot,
            own: None,
            here: Here {
                node: "node-1",
                ..Here::default()
            },
            config: &self.config,
            logging: Logging::On,
            externals: &Default::default(),
        };
        self.kernel.committing = Cost::default();
        let (table, kernel) = (&mut self.table, &mut self.kernel);
        let (done, cost) = cost_of(|| table.sync(kernel, view, &names, false, Instant::now()));
        (done.expect("a sync"), cost)
    }

    /// A start without anything in the kernel.
    fn cold(&mut self) -> (Done, Cost) {
        let mut batch = Batch::new();
        let family = podwire_kernel::nft::Family::Ip;
        batch.table(family, "podwire-services").destroy();
        // Closing a socket waits until what was deleted is freed.
        let mut socket = NftSocket::open().expect("an nftables socket");
        socket.commit(&mut batch).unwrap();
        drop(socket);
        self.table = FamilyTable::new(IpFamily::V4, &self.config);
        self.sync()
    }

    /// Changes slices of many Services one after the other; costs in all and in commits.
    fn changes(&mut self, mut slice_of: impl FnMut(&mut Bench, u32)) -> [Vec<Cost>; 2] {
        let mut costs = [Vec::new(), Vec::new()];
        for round in 1..=CHANGES {
            slice_of(self, round);
            costs[0].push(self.sync().1);
            costs[1].push(self.kernel.committing);
        }
        costs
    }
}

fn run(services: u32, endpoints: u32, limit: Duration) -> bool {
    podwire_kernel::netns::unshare_thread().expect("this needs root");
    let mut bench = Bench::new(services, endpoints);
    let _listening = listen(&mut bench.kernel.socket);
    println!("  {services} Services x {endpoints} endpoints");
    let (mut colds, mut commits, mut batches) = (Vec::new(), Vec::new(), 0);
    for _ in 0..ROUNDS {
        let (done, cost) = bench.cold();
        batches = done.batches;
        colds.push(cost);
        commits.push(bench.kernel.committing);
    }
    let name = format!("cold sync, median of {ROUNDS} ({batches} batches)");
    let mut met = figure(&name, quantile(&colds, 50), Some(limit));
    figure("of that in the kernel", quantile(&commits, 50), None);
    let at_most = |milliseconds| Some(Duration::from_millis(milliseconds));
    let replaced = bench.changes(|bench, round| {
        bench.set_slice(round * 7 % bench.services, bench.endpoints, round);
    });
    let scaled = bench.changes(|bench, round| {
        // One more, and in the next round one less, of the same Service.
        let number = (round - 1) / 2 * 11 % bench.services;
        bench.set_slice(number, bench.endpoints + round % 2, 0);
    });
    let sides = [
        ("one endpoint replaced", replaced),
        ("one endpoint more or less", scaled),
    ];
    for (what, [all, commits]) in sides {
        figure(&format!("{what}, in all, median"), quantile(&all, 50), None);
        figure(&format!("{what}, in all, p99"), quantile(&all, 99), None);
        let p99 = quantile(&commits, 99);
        met &= figure(&format!("{what}, kernel commit, p99"), p99, at_most(1));
    }
    bench.table = FamilyTable::new(IpFamily::V4, &bench.config);
    let (done, warm) = bench.sync();
    figure("a new start over the right rules", warm, None);
    assert_eq!(
        done.batches, 0,
        "a start over the right rules wrote something"
    );
    met
}

fn name(number: u32) -> ObjectName {
    ObjectName {
        namespace: Arc::from("default"),
        name: Arc::from(format!("service-{number}")),
    }
}

fn service(number: u32) -> Service {
    Service {
        created: Some(1_700_000_000),
        cluster_ips: Box::new([IpAddr::V4(Ipv4Addr::from(0x0a60_0000 + number))]),
        ports: Box::new([ServicePort {
            name: Arc::from("http"),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: None,
        }]),
        ..Service::named(name(number))
    }
}

/// `round` decides the address of the first endpoint.
fn slice(number: u32, endpoints: u32, round: u32, nodes: &[Arc<str>]) -> EndpointSlice {
    let address = |slot: u32| match (slot, round) {
        (0, 1..) => 0x0b00_0000 + round,
        _ => 0x0a80_0000 + number * endpoints + slot,
    };
    let endpoint = |slot| Endpoint {
        address: IpAddr::V4(Ipv4Addr::from(address(slot))),
        ready: true,
        serving: true,
        terminating: false,
        node: Some(nodes[(number + slot) as usize % nodes.len()].clone()),
        hints: None,
    };
    EndpointSlice {
        name: ObjectName {
            name: Arc::from(format!("service-{number}-abcde")),
            ..name(number)
        },
        service: name(number),
        ports: Box::new([EndpointPort {
            name: Arc::from("http"),
            protocol: Protocol::Tcp,
            port: 8080,
        }]),
        endpoints: (0..endpoints).map(endpoint).collect(),
        last_change: None,
        invalid: Few::new(),
    }
}
