//! What is left of Services once they are switched off.

use std::fs;

use podwire_kernel::sysctl;

use super::*;
use crate::feature::{Event, Feature};
use crate::features::parts::log::Logging;
use crate::features::services::Services;
use crate::features::test_node::TestNode;
use crate::originals::ROUTE_LOCALNET;

/// A node of a cluster with a Service.
fn node() -> TestNode {
    let mut node = TestNode::apart();
    let mut bench = Bench::new(IpFamily::V4);
    bench.service("web", WEB);
    bench.endpoints("web", "10.10.1.3@worker 10.10.2.4");
    node.snapshot = bench.snapshot;
    node
}

/// The agent starts on this node, with or without Services; the feature, and how many writes that
/// took.
fn start(node: &mut TestNode, enabled: bool) -> (Services, u64) {
    node.config.services.enabled = enabled;
    let (health_ports, _) = tokio::sync::watch::channel(Default::default());
    let mut services = Services::open(health_ports, Logging::On).unwrap();
    assert!(services.notice(&Event::Resync, &node.world()));
    let writes = node.writes(&mut services);
    (services, writes)
}

#[test]
fn tables_of_a_run_with_services_go_and_nothing_else_does() {
    let mut node = node();
    sysctl::write(ROUTE_LOCALNET, "0").unwrap();
    nft("add table ip foreign");
    let empty = nft("list tables");
    start(&mut node, true);
    assert!(nft("list tables").contains("table ip podwire-services"));
    nft("add table ip6 podwire-services");
    assert_eq!(sysctl::read(ROUTE_LOCALNET).unwrap(), "1");

    let (mut services, writes) = start(&mut node, false);
    assert_eq!(writes, 2);
    assert_eq!(nft("list tables"), empty);
    // The guard of node ports on 127.0.0.1 is gone with its table.
    assert_eq!(sysctl::read(ROUTE_LOCALNET).unwrap(), "0");
    assert_eq!(node.report(&mut services).differences, [""; 0]);
    assert_eq!(start(&mut node, false).1, 0);
}

#[test]
fn localhost_is_routed_only_while_the_table_with_its_guard_is_there() {
    let mut node = TestNode::apart();
    sysctl::write(ROUTE_LOCALNET, "0").unwrap();
    start(&mut node, true);
    assert_eq!(nft("list tables"), "");
    assert_eq!(sysctl::read(ROUTE_LOCALNET).unwrap(), "0");

    let mut bench = Bench::new(IpFamily::V4);
    bench.service("web", WEB);
    node.snapshot = bench.snapshot;
    start(&mut node, true);
    assert!(nft("list table ip podwire-services").contains("guard-localhost"));
    assert_eq!(sysctl::read(ROUTE_LOCALNET).unwrap(), "1");

    // The node starts again, in a cluster without IPv4.
    nft("flush ruleset");
    node.snapshot = Bench::new(IpFamily::V4).snapshot;
    start(&mut node, true);
    assert_eq!(sysctl::read(ROUTE_LOCALNET).unwrap(), "0");
}

#[test]
fn a_setting_that_was_made_before_stays() {
    let mut node = node();
    sysctl::write(ROUTE_LOCALNET, "1").unwrap();
    start(&mut node, true);
    start(&mut node, false);
    assert_eq!(sysctl::read(ROUTE_LOCALNET).unwrap(), "1");
}

#[test]
fn a_table_that_comes_back_is_reported_and_goes_at_the_next_look() {
    let mut node = TestNode::apart();
    let (mut services, writes) = start(&mut node, false);
    assert_eq!(writes, 0);
    nft("add table ip podwire-services");
    assert_eq!(
        node.report(&mut services).differences,
        ["the table ip podwire-services should not be there"]
    );
    assert!(services.notice(&Event::Resync, &node.world()));
    assert_eq!(node.writes(&mut services), 1);
    assert_eq!(nft("list tables"), "");
}

#[test]
fn the_guard_stays_while_what_it_guards_cannot_be_put_back() {
    let mut node = node();
    sysctl::write(ROUTE_LOCALNET, "0").unwrap();
    start(&mut node, true);
    let record = node.config.run_dir.join("sysctl.json");
    let text = format!(r#"{{"{ROUTE_LOCALNET}": ["no number", "1"]}}"#);
    fs::write(&record, text).unwrap();
    assert_eq!(start(&mut node, false).1, 0);
    assert!(nft("list tables").contains("table ip podwire-services"));
    let warnings = node.warnings();
    let text = warnings.first().unwrap();
    assert!(text.contains("stay until it is put back"), "{warnings:?}");
    // Without a record it is taken to be ours.
    fs::write(&record, "[").unwrap();
    assert_eq!(start(&mut node, false).1, 1);
    assert_eq!(nft("list tables"), "");
    assert_eq!(sysctl::read(ROUTE_LOCALNET).unwrap(), "0");
}
