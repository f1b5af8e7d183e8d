//! The Service proxy from snapshot to kernel: time and memory, in a network namespace of its own.
//!
//! `cargo bench -p podwire-agent --bench services -- [SERVICES ENDPOINTS]`

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kernel::nft::NftSocket;
use podwire_agent::features::services::config::Config;
use podwire_agent::features::services::endpoints::{Family, Here};
use podwire_agent::features::services::table::{FamilyTable, View};
use podwire_agent::snapshot::{
    Change, Dirty, Endpoint, EndpointPort, EndpointSlice, Object, ObjectName, Protocol, Service,
    ServiceKind, ServicePort, Snapshot, TrafficPolicy,
};

fn main() {
    let numbers: Vec<u32> = std::env::args()
        .skip(1)
        .filter_map(|argument| argument.parse().ok())
        .collect();
    let cases = match numbers[..] {
        [services, endpoints, ..] => vec![(services, endpoints)],
        _ => vec![(10_000, 10), (44_000, 2)],
    };
    for (services, endpoints) in cases {
        // A child for each, so that peak memory is that of the case alone.
        let thread = std::thread::spawn(move || run(services, endpoints));
        if thread.join().is_err() {
            std::process::exit(1);
        }
    }
}

fn run(services: u32, endpoints: u32) {
    kernel::netns::unshare_thread().expect("this needs root");
    let nodes: Vec<Arc<str>> = (0..100).map(|n| Arc::from(format!("node-{n}"))).collect();
    let mut snapshot = Snapshot::default();
    let mut dirty = Dirty::default();
    let empty = rss("VmRSS");
    for number in 0..services {
        snapshot.apply(Change::Set(Object::Service(service(number))), &mut dirty);
        let slice = slice(number, endpoints, 0, &nodes);
        snapshot.apply(Change::Set(Object::EndpointSlice(slice)), &mut dirty);
    }
    dirty = Dirty::default();
    let loaded = rss("VmRSS");
    let config = Config::default();
    let mut table = FamilyTable::new(Family::V4, &config);
    let mut socket = NftSocket::open().expect("an nftables socket");
    let sync =
        |table: &mut FamilyTable, snapshot: &Snapshot, socket: &mut NftSocket, dirty: &Dirty| {
            let here = Here {
                node: "node-1",
                zone: None,
            };
            let view = View {
                snapshot,
                own: None,
                here,
                config: &config,
            };
            let names: BTreeSet<ObjectName> =
                dirty.services.union(&dirty.endpoints).cloned().collect();
            let start = Instant::now();
            let done = table
                .sync(socket, view, &names, false, start)
                .expect("a sync");
            (start.elapsed(), done.batches)
        };
    let (cold, batches) = sync(&mut table, &snapshot, &mut socket, &dirty);
    println!(
        "{services} x {endpoints}: cold {cold:.0?} in {batches} batches; RSS {empty} -> {loaded} -> {} KiB, peak {} KiB",
        rss("VmRSS"),
        rss("VmHWM")
    );
    let mut times: Vec<Duration> = Vec::new();
    for round in 1..=1000 {
        let number = round * 7 % services;
        let slice = slice(number, endpoints, round, &nodes);
        snapshot.apply(Change::Set(Object::EndpointSlice(slice)), &mut dirty);
        times.push(
            sync(
                &mut table,
                &snapshot,
                &mut socket,
                &std::mem::take(&mut dirty),
            )
            .0,
        );
    }
    times.sort_unstable();
    println!(
        "  one endpoint replaced: p50 {:.0?}, p99 {:.0?}",
        times[500], times[990]
    );
    let mut fresh = FamilyTable::new(Family::V4, &config);
    let (warm, batches) = sync(&mut fresh, &snapshot, &mut socket, &Dirty::default());
    println!(
        "  restart over the right rules: {warm:.0?}, {batches} batches; peak {} KiB",
        rss("VmHWM")
    );
}

fn name(number: u32) -> ObjectName {
    ObjectName {
        namespace: Arc::from("default"),
        name: Arc::from(format!("service-{number}")),
    }
}

fn service(number: u32) -> Service {
    Service {
        name: name(number),
        created: Some(1_700_000_000),
        kind: ServiceKind::ClusterIp,
        cluster_ips: vec![IpAddr::V4(Ipv4Addr::from(0x0a60_0000 + number))],
        ports: vec![ServicePort {
            name: Arc::from("http"),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: None,
        }],
        external_ips: Vec::new(),
        load_balancer_vips: Vec::new(),
        source_ranges: Vec::new(),
        external_policy: TrafficPolicy::Cluster,
        internal_policy: TrafficPolicy::Cluster,
        affinity: None,
        health_check_node_port: None,
        balancing: None,
        invalid: Vec::new(),
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
        ports: vec![EndpointPort {
            name: Arc::from("http"),
            protocol: Protocol::Tcp,
            port: 8080,
        }],
        endpoints: (0..endpoints).map(endpoint).collect(),
        last_change: None,
        invalid: Vec::new(),
    }
}

/// A line of /proc/self/status, in KiB.
fn rss(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find(|line| line.starts_with(field))
        .unwrap_or_default();
    line.split_whitespace()
        .nth(1)
        .and_then(|number| number.parse().ok())
        .unwrap_or_default()
}
