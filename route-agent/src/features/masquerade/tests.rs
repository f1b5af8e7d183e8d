use std::sync::Arc;

use podwire_kernel::nft::NftSocket;

use super::*;
use crate::config::test_config;
use crate::snapshot::Node;
use crate::uplink::test_uplink;

fn config(flags: &[&str]) -> Config {
    test_config(&[&["--node-name=worker"], flags].concat())
}

fn node(name: &str, ips: &[&str], cidrs: &[&str]) -> Node {
    Node {
        internal_ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        pod_cidrs: cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect(),
        ..Node::named(name)
    }
}

fn snapshot() -> Snapshot {
    let nodes = [
        node(
            "worker",
            &["172.18.0.2", "fc00::2"],
            &["10.10.1.0/24", "fd00:10:10:1::/64"],
        ),
        node("worker2", &["172.18.0.4"], &["10.10.2.0/24"]),
    ];
    let mut snapshot = Snapshot::default();
    snapshot
        .nodes
        .extend(nodes.map(|node| (node.name.clone(), node)));
    snapshot
}

fn keys(table: &Table, set: &str) -> Vec<String> {
    let set = table.sets.get(set).unwrap();
    set.elements
        .iter()
        .map(|(key, element)| {
            let end = element.key_end.as_ref().unwrap_or(key);
            let (first, last) = (set.display_key(key), set.display_key(end));
            format!("{first}-{last}")
        })
        .collect()
}

#[test]
fn pods_and_nodes_of_the_cluster_see_the_pods_own_address() {
    let table = desired(
        &snapshot(),
        None,
        &config(&["--non-masquerade-cidrs=192.168.0.0/16"]),
        Logging::On,
    );
    assert_eq!(keys(&table, "pods-v4"), ["10.10.1.0-10.10.1.255"]);
    assert_eq!(
        keys(&table, "cluster-v4"),
        [
            "10.10.1.0-10.10.1.255",
            "10.10.2.0-10.10.2.255",
            "172.18.0.2-172.18.0.2",
            "172.18.0.4-172.18.0.4",
            "192.168.0.0-192.168.255.255",
        ]
    );
    assert_eq!(keys(&table, "cluster-v6").len(), 2);
}

#[test]
fn while_the_own_node_is_gone_its_pods_are_masqueraded_and_guarded_as_before() {
    let mut snapshot = snapshot();
    let (config, own) = (config(&[]), Arc::from("worker"));
    let before = desired(&snapshot, None, &config, Logging::On);
    let cidrs = snapshot.nodes[&own].pod_cidrs.clone();
    snapshot.remember_pod_cidrs(&cidrs);
    let mut check = |now: Option<Node>| {
        snapshot.nodes.remove(&own);
        snapshot
            .nodes
            .extend(now.map(|node| (node.name.clone(), node)));
        let table = desired(&snapshot, None, &config, Logging::On);
        for set in ["pods-v4", "pods-v6"] {
            assert_eq!(keys(&table, set), keys(&before, set));
        }
        for cidr in ["10.10.1.0-10.10.1.255", "10.10.2.0-10.10.2.255"] {
            assert!(keys(&table, "cluster-v4").contains(&cidr.to_owned()));
        }
    };
    check(None);
    // The kubelet makes one, to which podCIDRs come later.
    check(Some(node("worker", &["172.18.0.2"], &[])));
    let other = node("worker", &["172.18.0.2"], &["10.10.9.0/24"]);
    snapshot.nodes.insert(other.name.clone(), other);
    let table = desired(&snapshot, None, &config, Logging::On);
    assert_eq!(keys(&table, "pods-v4"), ["10.10.9.0-10.10.9.255"]);
}

#[test]
fn what_is_left_out_and_addresses_that_no_node_can_have_are_not_of_the_cluster() {
    let mut snapshot = snapshot();
    let own = node("worker", &["192.0.2.2"], &["10.10.1.0/24", "172.18.0.0/16"]);
    let wide = node(
        "wide",
        &["172.18.0.9", "203.0.113.9", "2001:db8::9"],
        &["128.0.0.0/1"],
    );
    let uplink = test_uplink("172.18.0.2/16");
    let in_vain = [("128.0.0.0/1", "wide"), ("172.18.0.0/16", "worker")];
    let in_vain = in_vain.map(|(cidr, node)| ((cidr.parse().unwrap(), node.into()), String::new()));
    snapshot.leave_out(in_vain.into());
    for node in [own, wide] {
        snapshot.nodes.insert(node.name.clone(), node);
    }
    let table = desired(&snapshot, Some(&uplink), &config(&[]), Logging::On);
    assert_eq!(keys(&table, "pods-v4"), ["10.10.1.0-10.10.1.255"]);
    assert_eq!(
        keys(&table, "cluster-v4"),
        [
            "10.10.1.0-10.10.1.255",
            "10.10.2.0-10.10.2.255",
            "172.18.0.4-172.18.0.4",
            "172.18.0.9-172.18.0.9",
            "192.0.2.2-192.0.2.2",
        ]
    );
    // Of a family in which the uplink reaches nothing it is not known what is near.
    let believed = keys(&table, "cluster-v6");
    assert!(
        believed.contains(&"2001:db8::9-2001:db8::9".to_owned()),
        "{believed:?}"
    );
}

#[test]
fn what_lies_within_another_network_is_not_listed_again() {
    let mut snapshot = snapshot();
    let twin = node("twin", &["10.10.2.7"], &["10.10.0.0/16"]);
    snapshot.nodes.insert(twin.name.clone(), twin);
    let table = desired(&snapshot, None, &config(&[]), Logging::On);
    assert_eq!(
        keys(&table, "cluster-v4"),
        [
            "10.10.0.0-10.10.255.255",
            "172.18.0.2-172.18.0.2",
            "172.18.0.4-172.18.0.4"
        ]
    );
}

#[test]
fn each_half_can_be_switched_off() {
    let off = desired(
        &snapshot(),
        None,
        &config(&["--masquerade=false", "--anti-spoof=false"]),
        Logging::On,
    );
    assert!(off.chains.is_empty() && off.sets.is_empty());
    let guard = desired(
        &snapshot(),
        None,
        &config(&["--masquerade=false"]),
        Logging::On,
    );
    assert_eq!(
        guard.chains.keys().collect::<Vec<_>>(),
        [
            "pod-sources",
            "foreign-sources",
            "own-sources",
            "localhost-stays-here",
            "spoofed",
            "spoofed-elsewhere",
            "loopback"
        ]
    );
    assert_eq!(keys(&guard, "pods-v4"), ["10.10.1.0-10.10.1.255"]);
}

#[test]
fn the_kernel_takes_the_table_and_a_second_sync_writes_nothing() {
    podwire_kernel::netns::Netns::create_anonymous()
        .unwrap()
        .enter(|| {
            let wanted = desired(&snapshot(), None, &config(&[]), Logging::On);
            let mut table = KeptTable::open(Family::Inet, TABLE).unwrap();
            assert!(table.keep(&wanted).unwrap() > 0);
            // As after a restart: nothing is known of the kernel.
            table.distrust();
            assert_eq!(table.keep(&wanted).unwrap(), 0);
            assert!(table.differences(&wanted).is_empty());

            let mut other = NftSocket::open().unwrap();
            let mut flush = podwire_kernel::nft::Batch::new();
            flush.table(Family::Inet, TABLE).flush_chain("from-pod-v4");
            other.commit(&mut flush).unwrap();
            assert_eq!(table.differences(&wanted).len(), 1);
            table.distrust();
            assert!(table.keep(&wanted).unwrap() > 0);
            assert!(table.differences(&wanted).is_empty());

            // As after an agent that logged nothing, and whose guard came later.
            let older = desired(&snapshot(), None, &config(&[]), Logging::Off);
            let mut guard = older.chains.get("foreign-sources").unwrap().clone();
            guard.base.as_mut().unwrap().priority = priority::RAW;
            let older = older.with_chain("foreign-sources", guard);
            assert!(table.keep(&older).unwrap() > 0);
            assert!(table.differences(&older).is_empty());
            assert!(!table.differences(&wanted).is_empty());
            table.distrust();
            assert!(table.keep(&wanted).unwrap() > 0);
            assert!(table.differences(&wanted).is_empty());

            assert!(table.remove().unwrap());
            assert!(!table.remove().unwrap());
        })
        .unwrap();
}
