//! External IPs that others turn out to have.

use super::*;
use crate::feature::{Event, Feature};
use crate::features::parts::log::Logging;
use crate::features::services::Services;
use crate::snapshot::{Change, Dirty, Node, Object};

#[test]
fn an_external_ip_is_taken_back_once_the_api_server_is_used_there() {
    let mut node = TestNode::apart();
    let mut bench = Bench::new(IpFamily::V4);
    bench.service("web", &format!("{WEB}; external-ip 192.0.2.7"));
    bench.endpoints("web", "10.10.1.3@worker");
    node.snapshot = bench.snapshot;
    let (health_ports, _) = watch::channel(HealthPorts::default());
    let mut services = Services::open(health_ports, Logging::On).unwrap();
    assert!(services.notice(&Event::Resync, &node.world()));
    node.writes(&mut services);
    let is_served = || nft("list ruleset").contains("192.0.2.7");
    assert!(is_served());
    // A name of the server has another address now.
    let used = ["192.0.2.7:6443".parse().unwrap()];
    assert!(node.config.kubernetes.resolved.add(used.into_iter()));
    let dirty = Dirty {
        api_server: true,
        ..Dirty::default()
    };
    assert!(services.notice(&Event::Objects(&dirty), &node.world()));
    node.writes(&mut services);
    assert!(!is_served());
    let warnings = node.warnings();
    let named = |one: &String| one.contains("192.0.2.7` is left out: it is the address of the API");
    assert!(warnings.iter().any(named), "{warnings:?}");
}

#[test]
fn a_node_that_joins_has_those_services_planned_again_whose_addresses_it_takes() {
    let mut node = TestNode::apart();
    let mut bench = Bench::new(IpFamily::V4);
    let balanced = format!("kind LoadBalancer; {WEB}; vip 192.0.2.8");
    bench.service("balanced", &balanced);
    for (name, address) in [("taken", "192.0.2.7"), ("free", "192.0.2.9")] {
        bench.service(name, &format!("{WEB}; external-ip {address}"));
    }
    node.snapshot = bench.snapshot;
    let (health_ports, _) = watch::channel(HealthPorts::default());
    let mut services = Services::open(health_ports, Logging::On).unwrap();
    let mut planned = |node: &TestNode| {
        services.externals_stale = true;
        let mut dirty = BTreeSet::new();
        services.look_at_externals(&node.world(), &mut dirty);
        let names = dirty.into_iter().map(|name| name.name.to_string());
        names.collect::<Vec<_>>()
    };
    planned(&node);
    let joins = Node {
        internal_ips: vec!["192.0.2.7".parse().unwrap()],
        pod_cidrs: vec!["10.10.77.0/24".parse().unwrap()],
        ..Node::named("joins")
    };
    let change = Change::Set(Object::Node(joins));
    node.snapshot.apply(change, &mut Dirty::default());
    assert_eq!(planned(&node), ["taken"]);
}
