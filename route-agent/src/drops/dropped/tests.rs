use std::time::Duration;

use podwire_kernel::nflog::Packet;
use serde_json::json;

use super::*;
use crate::config::test_config;
use crate::drops::policy::{EFFORT, LONGEST, NAMED};
use crate::features::policies::desired::samples::{
    Cluster, cluster_policy, name, namespace, pod, policy,
};
use crate::metrics::Metrics;
use crate::snapshot::Key;

/// `db` is closed but for role=api on 5432; `web` has another role.
fn cluster() -> Cluster {
    let select = |role: &str| json!({"matchLabels": {"role": role}});
    let rule = json!({"from": [{"podSelector": select("api")}], "ports": [{"port": 5432}]});
    Cluster::of(&[
        namespace("shop", ""),
        pod("shop/web-1", "worker2", 9, "role=web"),
        pod("shop/db-0", "worker", 2, "role=db"),
        policy(
            "shop/default-deny",
            &json!({"podSelector": {}, "policyTypes": ["Ingress"]}),
        ),
        policy(
            "shop/db",
            &json!({"podSelector": select("db"), "ingress": [rule]}),
        ),
    ])
}

fn record(prefix: &str, ends: [&str; 2], protocol: u8, ports: Option<(u16, u16)>) -> Record {
    let [source, destination] = ends.map(|end| end.parse().unwrap());
    Record {
        prefix: prefix.into(),
        time: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(86_400)),
        link: None,
        packet: Packet {
            source,
            destination,
            protocol,
            ports,
        },
    }
}

const THERE: [&str; 2] = ["10.10.2.9", "10.10.1.2"];
const BACK: [&str; 2] = ["10.10.1.2", "10.10.2.9"];

pub fn a_drop() -> Dropped {
    let record = record("podwire denied in", THERE, 6, Some((40000, 5432)));
    drops(&[record], &cluster()).remove(0)
}

/// What is said of records, with the pods that have the addresses.
fn drops(records: &[Record], cluster: &Cluster) -> Vec<Dropped> {
    let truth = Truth::of(&cluster.snapshot);
    let owners = addresses(records).into_iter();
    let owners = owners.filter_map(|one| Some((one, truth.pod(one)?.name.clone())));
    let world = World {
        metrics: &Metrics::default(),
        config: &test_config(&["--node-name=worker"]),
        snapshot: &cluster.snapshot,
        uplink: None,
        ready_for_pods: true,
    };
    Dropped::of(records, &world, &owners.collect(), &Place::default())
}

#[test]
fn a_packet_is_named_with_pods_policies_and_the_nearest_rule() {
    let drops = |record| drops(&[record], &cluster());
    let why = "dropped by NetworkPolicy shop/db, shop/default-deny: denied by ingress; nearest \
               rule: shop/db allows tcp 5432 from role=api; the pod has role=web";
    assert_eq!(
        a_drop().to_string(),
        format!(
            "1970-01-02T00:00:00.000Z 10.10.2.9 (shop/web-1) -> 10.10.1.2 (shop/db-0) tcp 5432: {why}"
        ),
    );
    // A reply is named as its connection.
    let reply = drops(record(
        "podwire denied in-reply",
        BACK,
        6,
        Some((5432, 40000)),
    ))
    .remove(0);
    assert!(
        reply.to_string().ends_with(&format!(
            "-> 10.10.1.2 (shop/db-0) tcp 5432 (a reply): {why}"
        )),
        "{reply}"
    );
    let unknown = drops(record(
        "podwire undecided",
        ["10.10.1.77", "192.0.2.1"],
        1,
        None,
    ))
    .remove(0);
    assert!(
        unknown.to_string().ends_with(
            "10.10.1.77 -> 192.0.2.1 icmp: dropped by NetworkPolicies: a pod of this node \
             that is not known yet"
        ),
        "{unknown}"
    );
    assert_eq!(drops(record("another program", THERE, 6, None)), []);
}

#[test]
fn a_protocol_is_named_as_flows_and_filters_name_it() {
    for (number, name) in [(1, "icmp"), (17, "udp"), (47, "47"), (58, "icmpv6")] {
        let record = record("podwire denied in", THERE, number, None);
        assert_eq!(drops(&[record], &cluster())[0].protocol, name);
    }
}

#[test]
fn the_rule_of_a_cluster_network_policy_that_denies_is_named() {
    let mut cluster = cluster();
    let ports = json!([{"tcp": {"destinationPort": {"number": 5432}}}]);
    let rule = json!({"name": "no-sql", "action": "Deny", "from": [{"namespaces": {}}],
        "protocols": ports});
    cluster.set(&[cluster_policy("guard", &json!({"ingress": [rule]}))]);
    let record = record("podwire denied in", THERE, 6, Some((40000, 5432)));
    let one = drops(&[record], &cluster).remove(0);
    assert_eq!(
        one.because,
        "denied by ingress; ClusterNetworkPolicy guard (Admin tier, priority 10), rule no-sql, \
         denies tcp 5432 from all pods of all namespaces"
    );
}

#[test]
fn what_is_allowed_by_now_is_said_to_be() {
    let record = record("podwire denied out", BACK, 6, Some((1, 80)));
    let one = drops(&[record], &cluster()).remove(0);
    assert_eq!(
        one.because,
        "denied by egress; the policies allow it by now"
    );
    assert_eq!(one.local().unwrap().pod.as_deref(), Some("shop/db-0"));
}

/// A selector that takes many words; with the operator `In` it selects none of the pods.
fn verbose_selector(operator: &str) -> serde_json::Value {
    let names: Vec<String> = (0..500)
        .map(|number| format!("role-{number:0>50}"))
        .collect();
    json!({"matchExpressions": [{"key": "role", "operator": operator, "values": names}]})
}

/// As `cluster`, with many policies whose rules are long.
fn verbose_cluster() -> Cluster {
    let mut cluster = cluster();
    let among = verbose_selector("In");
    let spec = json!({"podSelector": {}, "ingress": [{"from": [{"podSelector": among}]}]});
    let many: Vec<_> = (0..30)
        .map(|number| policy(&format!("shop/{number:0>200}"), &spec))
        .collect();
    cluster.set(&many);
    cluster.gone(Key::NetworkPolicy(name("shop/db")));
    cluster
}

#[test]
fn who_writes_much_fills_neither_the_memory_nor_the_screen() {
    let record = record("podwire denied in", THERE, 6, Some((40000, 5432)));
    let one = drops(&[record], &verbose_cluster()).remove(0);
    assert_eq!((one.isolated_by.len(), one.isolated_by_more), (NAMED, 23));
    assert!(one.decided_by.ends_with(" and 23 more"));
    assert!(one.because.contains("; nearest rule: shop/000"));
    let nearest = one.nearest.as_ref().unwrap();
    assert!(nearest.len() < LONGEST + 30 && nearest.ends_with(" bytes more)"));
    assert!(serde_json::to_string(&one).unwrap().len() < 8192);
}

#[test]
fn of_the_rule_that_denies_not_more_is_kept() {
    let mut cluster = cluster();
    let pods = json!({"namespaceSelector": {}, "podSelector": verbose_selector("NotIn")});
    let rule = json!({"action": "Deny", "from": [{"pods": pods}]});
    cluster.set(&[cluster_policy("guard", &json!({"ingress": [rule]}))]);
    let record = record("podwire denied in", THERE, 6, Some((40000, 5432)));
    let one = drops(&[record], &cluster).remove(0);
    let rule = one.denied_by.unwrap();
    assert!(rule.starts_with("ClusterNetworkPolicy guard"), "{rule}");
    assert!(rule.len() < LONGEST + 30 && rule.ends_with(" bytes more)"));
}

#[test]
fn what_is_too_much_to_look_at_is_named_without_its_policies() {
    let mut cluster = cluster();
    let peers: Vec<_> = (0..EFFORT / 2)
        .map(|_| json!({"podSelector": {"matchLabels": {"role": "no one"}}}))
        .collect();
    let spec = json!({"podSelector": {}, "ingress": [{"from": peers}]});
    cluster.set(&[policy("shop/long", &spec)]);
    let to = |port| record("podwire denied in", THERE, 6, Some((40000, port)));
    // The same packet again costs nothing.
    let found = drops(&[to(1), to(1), to(2)], &cluster);
    let named: Vec<_> = found.iter().map(|one| one.isolated_by.len()).collect();
    assert_eq!(named, [3, 3, 0]);
    assert_eq!(found[2].because, "denied by ingress");
    assert_eq!(found[2].source.pod.as_deref(), Some("shop/web-1"));
    // Each peer is looked at with each port.
    let root = 1 + EFFORT.isqrt();
    let ports: Vec<_> = (1..=root).map(|one| json!({"port": 2 * one})).collect();
    let spec = json!({"podSelector": {}, "ingress": [{"from": peers[..root], "ports": ports}]});
    cluster.set(&[policy("shop/long", &spec)]);
    assert_eq!(drops(&[to(1)], &cluster)[0].isolated_by, [""; 0]);
}

#[test]
fn rules_of_cluster_network_policies_are_to_be_looked_at_as_well() {
    let mut cluster = cluster();
    let peers = vec![json!({"namespaces": {"matchLabels": {"team": "no one"}}}); EFFORT / 2];
    let rule = json!({"action": "Accept", "from": peers});
    cluster.set(&[cluster_policy("long", &json!({"ingress": [rule]}))]);
    let to = |port| record("podwire denied in", THERE, 6, Some((40000, port)));
    let found = drops(&[to(1), to(2)], &cluster);
    let named: Vec<_> = found.iter().map(|one| one.isolated_by.len()).collect();
    assert_eq!(named, [2, 0]);
}
