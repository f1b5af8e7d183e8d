//! One test for each row of the semantics in `docs/policies.md`, in both families.
//!
//! The cluster of all of them: in namespace `shop` the pods `web` (app=web), `db` (app=db) and `job`
//! (app=job), in namespace `ops` the pods `probe` (app=probe) and `web` (app=web). `web` and `probe`
//! run on `worker2`, the others on `worker`.

use std::net::IpAddr;

use podwire_kernel::IpFamily;
use podwire_kernel::nft::COMMENT_MAX;
use serde_json::{Value, json};

use crate::features::policies::desired::attachments::Attachments;
use crate::features::policies::desired::samples::{
    Cluster, ICMP, addresses, name, namespace, pod, policy, sctp, tcp, udp,
};
use crate::features::policies::desired::truth::Traffic;
use crate::features::policies::desired::wanted::Place;
use crate::snapshot::Key;

pub(super) const WEB: (&str, u8) = ("worker2", 2);
pub(super) const DB: (&str, u8) = ("worker", 3);
pub(super) const JOB: (&str, u8) = ("worker", 4);
pub(super) const PROBE: (&str, u8) = ("worker2", 5);
pub(super) const OPS_WEB: (&str, u8) = ("worker", 6);

pub(super) fn objects() -> Vec<Value> {
    let on = |at, (node, number): (&str, u8), with| pod(at, node, number, with);
    vec![
        namespace("shop", "team=shop"),
        namespace("ops", "team=ops"),
        on("shop/web", WEB, "app=web"),
        on("shop/db", DB, "app=db"),
        on("shop/job", JOB, "app=job"),
        on("ops/probe", PROBE, "app=probe"),
        on("ops/web", OPS_WEB, "app=web"),
    ]
}

/// The cluster with these policies of namespace `shop`.
pub(super) struct Shop {
    pub(super) cluster: Cluster,
}

/// An end of a connection: a pod, or an address of each family.
#[derive(Clone, Copy)]
pub(super) enum End {
    Pod((&'static str, u8)),
    At(&'static str, &'static str),
}

pub(super) const OUTSIDE: End = End::At("198.51.100.7", "2001:db8::7");
/// The other node, as a program on it speaks.
pub(super) const NODE2: End = End::At("172.18.0.4", "fc00::4");

impl End {
    pub(super) fn addresses(self) -> [IpAddr; 2] {
        match self {
            End::Pod((node, number)) => addresses(node, number),
            End::At(v4, v6) => [v4.parse().unwrap(), v6.parse().unwrap()],
        }
    }
}

impl From<(&'static str, u8)> for End {
    fn from(pod: (&'static str, u8)) -> Self {
        End::Pod(pod)
    }
}

impl Shop {
    pub(super) fn with(policies: &[Value]) -> Self {
        let mut cluster = Cluster::of(&objects());
        for (number, spec) in policies.iter().enumerate() {
            cluster.set(&[policy(&format!("shop/p{number}"), spec)]);
        }
        Self { cluster }
    }

    #[track_caller]
    pub(super) fn says(
        &self,
        allowed: bool,
        from: impl Into<End>,
        to: impl Into<End>,
        traffic: Traffic,
    ) {
        let (from, to) = (from.into().addresses(), to.into().addresses());
        for (from, to) in from.into_iter().zip(to) {
            let found = self.cluster.allows(from, to, traffic);
            assert_eq!(found, allowed, "{from} -> {to} {traffic:?}");
        }
    }

    #[track_caller]
    pub(super) fn allows(&self, from: impl Into<End>, to: impl Into<End>, traffic: Traffic) {
        self.says(true, from, to, traffic);
    }

    #[track_caller]
    pub(super) fn denies(&self, from: impl Into<End>, to: impl Into<End>, traffic: Traffic) {
        self.says(false, from, to, traffic);
    }
}

/// A policy that selects `db` and allows this to it.
pub(super) fn to_db(rules: Value) -> Value {
    json!({"podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Ingress"], "ingress": rules})
}

/// A policy that selects `db` and allows it to go there.
pub(super) fn from_db(rules: Value) -> Value {
    json!({"podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Egress"], "egress": rules})
}

pub(super) fn app(value: &str) -> Value {
    json!({"matchLabels": {"app": value}})
}

#[test]
fn a_pod_that_no_policy_selects_is_open_both_ways() {
    let shop = Shop::with(&[]);
    shop.allows(PROBE, DB, tcp(80));
    let shop = Shop::with(&[to_db(json!([]))]);
    shop.allows(PROBE, WEB, tcp(80));
    shop.allows(OUTSIDE, JOB, udp(53));
    shop.denies(PROBE, DB, tcp(80));
}

#[test]
fn isolation_is_per_direction() {
    let ingress = Shop::with(&[to_db(json!([]))]);
    ingress.denies(WEB, DB, tcp(80));
    ingress.allows(DB, WEB, tcp(80));
    let egress = Shop::with(&[from_db(json!([]))]);
    egress.allows(WEB, DB, tcp(80));
    egress.denies(DB, WEB, tcp(80));
    egress.denies(DB, OUTSIDE, tcp(80));
}

#[test]
fn policy_types_that_are_not_given_follow_from_the_rules() {
    let db = app("db");
    let absent = Shop::with(&[json!({"podSelector": db, "egress": []})]);
    absent.denies(WEB, DB, tcp(80));
    absent.allows(DB, WEB, tcp(80));
    let with_egress =
        Shop::with(&[json!({"podSelector": db, "egress": [{"ports": [{"port": 53}]}]})]);
    with_egress.denies(WEB, DB, tcp(80));
    with_egress.denies(DB, WEB, tcp(80));
    with_egress.allows(DB, WEB, tcp(53));
    let ineffective = json!({"podSelector": db, "policyTypes": ["Ingress"], "egress": [{"ports": [{"port": 53}]}]});
    Shop::with(&[ineffective]).allows(DB, WEB, tcp(80));
}

#[test]
fn no_rule_allows_nothing_and_an_empty_rule_allows_everything() {
    for rules in [json!([]), json!(null)] {
        let shop = Shop::with(&[to_db(rules)]);
        shop.denies(WEB, DB, tcp(80));
        shop.denies(WEB, DB, ICMP);
    }
    let shop = Shop::with(&[to_db(json!([{}]))]);
    for traffic in [tcp(80), udp(1), sctp(9), ICMP] {
        shop.allows(PROBE, DB, traffic);
        shop.allows(OUTSIDE, DB, traffic);
    }
}

#[test]
fn a_policy_selects_pods_of_its_own_namespace_only() {
    let all = Shop::with(&[json!({"podSelector": {}})]);
    for pod in [WEB, DB, JOB] {
        all.denies(PROBE, pod, tcp(80));
    }
    all.allows(DB, PROBE, tcp(80));
    all.allows(DB, OPS_WEB, tcp(80));
}

#[test]
fn a_pod_selector_alone_is_about_the_own_namespace() {
    let shop = Shop::with(&[to_db(json!([{"from": [{"podSelector": app("web")}]}]))]);
    shop.allows(WEB, DB, tcp(80));
    shop.denies(OPS_WEB, DB, tcp(80));
    shop.denies(JOB, DB, tcp(80));
    let all = Shop::with(&[to_db(json!([{"from": [{"podSelector": {}}]}]))]);
    all.allows(JOB, DB, tcp(80));
    all.denies(PROBE, DB, tcp(80));
    all.denies(OUTSIDE, DB, tcp(80));
}

#[test]
fn a_namespace_selector_alone_is_about_all_pods_there() {
    let ops = json!({"matchLabels": {"team": "ops"}});
    let shop = Shop::with(&[to_db(json!([{"from": [{"namespaceSelector": ops}]}]))]);
    shop.allows(PROBE, DB, tcp(80));
    shop.allows(OPS_WEB, DB, tcp(80));
    shop.denies(WEB, DB, tcp(80));
    let all = Shop::with(&[to_db(json!([{"from": [{"namespaceSelector": {}}]}]))]);
    all.allows(PROBE, DB, tcp(80));
    all.allows(WEB, DB, tcp(80));
    all.denies(OUTSIDE, DB, tcp(80));
    let by_name = json!({"matchLabels": {"kubernetes.io/metadata.name": "ops"}});
    let shop = Shop::with(&[to_db(json!([{"from": [{"namespaceSelector": by_name}]}]))]);
    shop.allows(PROBE, DB, tcp(80));
    shop.denies(WEB, DB, tcp(80));
}

#[test]
fn both_selectors_in_one_item_are_and_two_items_are_or() {
    let ops = json!({"matchLabels": {"team": "ops"}});
    let both = json!({"namespaceSelector": ops, "podSelector": app("web")});
    let shop = Shop::with(&[to_db(json!([{"from": [both]}]))]);
    shop.allows(OPS_WEB, DB, tcp(80));
    shop.denies(PROBE, DB, tcp(80));
    shop.denies(WEB, DB, tcp(80));
    let either = json!([{"namespaceSelector": ops}, {"podSelector": app("web")}]);
    let shop = Shop::with(&[to_db(json!([{"from": either}]))]);
    shop.allows(OPS_WEB, DB, tcp(80));
    shop.allows(PROBE, DB, tcp(80));
    shop.allows(WEB, DB, tcp(80));
    shop.denies(JOB, DB, tcp(80));
}

#[test]
fn labels_of_pods_and_namespaces_may_change() {
    let ops = json!({"matchLabels": {"team": "ops"}});
    let rules = json!([{"from": [{"namespaceSelector": ops}, {"podSelector": app("web")}]}]);
    let mut shop = Shop::with(&[to_db(rules)]);
    shop.cluster
        .set(&[namespace("ops", "team=shop"), namespace("shop", "team=ops")]);
    shop.denies(PROBE, DB, tcp(80));
    shop.allows(JOB, DB, tcp(80));
    shop.cluster.set(&[namespace("shop", "team=shop")]);
    shop.denies(JOB, DB, tcp(80));
    shop.cluster
        .set(&[pod("shop/job", JOB.0, JOB.1, "app=web")]);
    shop.allows(JOB, DB, tcp(80));
    shop.cluster.set(&[pod("shop/db", DB.0, DB.1, "app=cache")]);
    shop.allows(PROBE, DB, tcp(80));
    // Of a namespace that is not known nothing is.
    shop.cluster.set(&[
        pod("shop/db", DB.0, DB.1, "app=db"),
        namespace("ops", "team=ops"),
    ]);
    shop.allows(PROBE, DB, tcp(80));
    shop.cluster.gone(Key::Namespace("ops".into()));
    shop.denies(PROBE, DB, tcp(80));
}

#[test]
fn an_ip_block_is_its_network_but_for_the_holes_of_this_very_block() {
    let block = |v4: Value, v6: Value| json!([{"from": [{"ipBlock": v4}, {"ipBlock": v6}]}]);
    let holes = block(
        json!({"cidr": "198.51.100.0/24", "except": ["198.51.100.0/28"]}),
        json!({"cidr": "2001:db8::/32", "except": ["2001:db8::/124"]}),
    );
    let shop = Shop::with(&[to_db(holes.clone())]);
    shop.denies(OUTSIDE, DB, tcp(80));
    shop.allows(End::At("198.51.100.16", "2001:db8::10"), DB, tcp(80));
    shop.denies(End::At("198.51.101.16", "2001:db9::10"), DB, tcp(80));
    shop.denies(WEB, DB, tcp(80));
    // What one cuts out another may allow.
    let exact = block(
        json!({"cidr": "198.51.100.7/32"}),
        json!({"cidr": "2001:db8::7/128"}),
    );
    let shop = Shop::with(&[to_db(holes), to_db(exact)]);
    shop.allows(OUTSIDE, DB, tcp(80));
    shop.denies(End::At("198.51.100.8", "2001:db8::8"), DB, tcp(80));
}

#[test]
fn an_ip_block_may_be_about_pods_as_well() {
    let blocks = json!([{"from": [
        {"ipBlock": {"cidr": "10.10.2.0/24"}}, {"ipBlock": {"cidr": "fd00:10:10:2::/64"}},
        {"podSelector": app("job")}]}]);
    let shop = Shop::with(&[to_db(blocks)]);
    shop.allows(PROBE, DB, tcp(80));
    shop.allows(WEB, DB, tcp(80));
    shop.allows(JOB, DB, tcp(80));
    shop.denies(OPS_WEB, DB, tcp(80));
}

#[test]
fn a_block_that_comes_later_is_about_pods_that_had_a_class_before() {
    let by_label = json!([{"from": [{"podSelector": app("web")}], "ports": [{"port": 80}]}]);
    let mut shop = Shop::with(&[to_db(by_label)]);
    shop.denies(WEB, DB, tcp(81));
    let by_block = json!([{"from": [{"ipBlock": {"cidr": "10.10.2.0/24"}},
        {"ipBlock": {"cidr": "fd00:10:10:2::/64"}}], "ports": [{"port": 81}]}]);
    shop.cluster.set(&[policy("shop/later", &to_db(by_block))]);
    shop.allows(WEB, DB, tcp(81));
    shop.allows(WEB, DB, tcp(80));
    let narrower = json!([{"from": [{"ipBlock": {"cidr": "10.10.2.4/30"}},
        {"ipBlock": {"cidr": "fd00:10:10:2::4/126"}}], "ports": [{"port": 81}]}]);
    shop.cluster.set(&[policy("shop/later", &to_db(narrower))]);
    shop.denies(WEB, DB, tcp(81));
    shop.allows(PROBE, DB, tcp(81));
    shop.cluster.gone(Key::NetworkPolicy(name("shop/later")));
    shop.denies(PROBE, DB, tcp(81));
    shop.allows(WEB, DB, tcp(80));
}

#[test]
fn a_port_is_of_tcp_unless_it_says_so_and_all_of_them_without_a_number() {
    let shop = Shop::with(&[to_db(json!([{"ports": [
        {"port": 80}, {"port": 53, "protocol": "UDP"}, {"protocol": "SCTP"}]}]))]);
    shop.allows(PROBE, DB, tcp(80));
    shop.denies(PROBE, DB, udp(80));
    shop.denies(PROBE, DB, tcp(53));
    shop.allows(PROBE, DB, udp(53));
    shop.allows(OUTSIDE, DB, sctp(1));
    shop.allows(OUTSIDE, DB, sctp(65535));
    shop.denies(PROBE, DB, tcp(81));
}

#[test]
fn peers_and_ports_of_a_rule_must_both_hold() {
    let rules = json!([
        {"from": [{"podSelector": app("web")}], "ports": [{"port": 80}]},
        {"from": [{"podSelector": app("job")}], "ports": [{"port": 81}]}]);
    let shop = Shop::with(&[to_db(rules)]);
    shop.allows(WEB, DB, tcp(80));
    shop.denies(WEB, DB, tcp(81));
    shop.allows(JOB, DB, tcp(81));
    shop.denies(JOB, DB, tcp(80));
}

#[test]
fn a_range_of_ports_has_both_its_ends() {
    for (last, outside) in [(89, 90), (8089, 8090)] {
        let shop = Shop::with(&[to_db(json!([{"ports": [{"port": 80, "endPort": last}]}]))]);
        shop.allows(PROBE, DB, tcp(80));
        shop.allows(PROBE, DB, tcp(last));
        shop.denies(PROBE, DB, tcp(79));
        shop.denies(PROBE, DB, tcp(outside));
        shop.denies(PROBE, DB, udp(80));
    }
}

/// A pod whose port `http` is another.
fn with_port(mut pod: Value, port: u16) -> Value {
    pod["spec"]["containers"][0]["ports"][0]["containerPort"] = json!(port);
    pod
}

#[test]
fn a_named_port_to_a_pod_is_its_own() {
    let mut shop = Shop::with(&[to_db(json!([{"ports": [{"port": "http"}]}]))]);
    shop.allows(PROBE, DB, tcp(80));
    shop.denies(PROBE, DB, tcp(8080));
    shop.cluster
        .set(&[with_port(pod("shop/db", DB.0, DB.1, "app=db"), 8080)]);
    shop.allows(PROBE, DB, tcp(8080));
    shop.denies(PROBE, DB, tcp(80));
    for port in [
        json!({"port": "sql"}),
        json!({"port": "http", "protocol": "UDP"}),
    ] {
        let shop = Shop::with(&[to_db(json!([{"ports": [port]}]))]);
        shop.denies(PROBE, DB, tcp(80));
        shop.denies(PROBE, DB, udp(80));
        shop.denies(PROBE, DB, ICMP);
    }
}

#[test]
fn a_named_port_from_a_pod_is_that_of_each_peer() {
    let rules = json!([{"to": [{"namespaceSelector": {}}], "ports": [{"port": "http"}]}]);
    let mut shop = Shop::with(&[from_db(rules)]);
    shop.cluster
        .set(&[with_port(pod("shop/job", JOB.0, JOB.1, "app=job"), 8080)]);
    shop.allows(DB, WEB, tcp(80));
    shop.denies(DB, WEB, tcp(8080));
    shop.allows(DB, JOB, tcp(8080));
    shop.denies(DB, JOB, tcp(80));
    shop.denies(DB, OUTSIDE, tcp(80));
    // To anyone: everyone who has a port of that name.
    let mut shop = Shop::with(&[from_db(json!([{"ports": [{"port": "http"}, {"port": 9}]}]))]);
    shop.cluster
        .set(&[with_port(pod("shop/job", JOB.0, JOB.1, "app=job"), 8080)]);
    shop.allows(DB, PROBE, tcp(80));
    shop.allows(DB, JOB, tcp(8080));
    shop.denies(DB, JOB, tcp(80));
    shop.denies(DB, OUTSIDE, tcp(80));
    shop.allows(DB, OUTSIDE, tcp(9));
}

#[test]
fn a_named_port_of_an_address_is_none() {
    let blocks = json!([{"to": [{"ipBlock": {"cidr": "10.10.0.0/16"}},
        {"ipBlock": {"cidr": "fd00::/8"}}], "ports": [{"port": "http"}]}]);
    let shop = Shop::with(&[from_db(blocks)]);
    shop.denies(DB, WEB, tcp(80));
    shop.denies(DB, JOB, tcp(80));
}

#[test]
fn a_policy_of_one_protocol_isolates_for_all() {
    let shop = Shop::with(&[to_db(json!([{"ports": [{"protocol": "SCTP", "port": 7}]}]))]);
    shop.allows(PROBE, DB, sctp(7));
    shop.denies(PROBE, DB, sctp(8));
    shop.denies(PROBE, DB, tcp(7));
    shop.denies(PROBE, DB, ICMP);
}

#[test]
fn rules_without_ports_are_about_ping_too_and_rules_with_ports_never() {
    let shop = Shop::with(&[to_db(json!([
        {"from": [{"podSelector": app("web")}]},
        {"from": [{"podSelector": app("job")}], "ports": [{}, {"protocol": "UDP"}]}]))]);
    shop.allows(WEB, DB, ICMP);
    shop.denies(JOB, DB, ICMP);
    shop.allows(JOB, DB, tcp(1));
    shop.denies(PROBE, DB, ICMP);
}

#[test]
fn a_pod_with_its_nodes_network_is_its_node() {
    let mut host = pod("shop/host", "worker", 9, "app=web");
    host["spec"]["hostNetwork"] = json!(true);
    host["status"]["podIPs"] = json!([{"ip": "172.18.0.4"}, {"ip": "fc00::4"}]);
    let mut shop = Shop::with(&[
        to_db(json!([{"from": [{"podSelector": {}}]}])),
        json!({"podSelector": {}}),
    ]);
    shop.cluster.set(&[host]);
    shop.denies(NODE2, DB, tcp(80));
    shop.allows(WEB, DB, tcp(80));
    shop.allows(PROBE, NODE2, tcp(80));
    let block = json!([{"from": [{"ipBlock": {"cidr": "172.18.0.0/16"}}, {"ipBlock": {"cidr": "fc00::/64"}}]}]);
    Shop::with(&[to_db(block)]).allows(NODE2, DB, tcp(80));
}

#[test]
fn another_node_is_not_exempt() {
    let shop = Shop::with(&[to_db(json!([{"from": [{"podSelector": {}}]}]))]);
    shop.denies(NODE2, DB, tcp(80));
}

#[test]
fn a_pod_always_reaches_itself() {
    let shop = Shop::with(&[json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})]);
    for traffic in [tcp(80), udp(53), ICMP] {
        shop.allows(DB, DB, traffic);
        shop.denies(DB, JOB, traffic);
    }
}

#[test]
fn a_pod_that_has_ended_is_neither_subject_nor_peer() {
    let mut shop = Shop::with(&[to_db(json!([{"from": [{"podSelector": app("job")}]}]))]);
    shop.allows(JOB, DB, tcp(80));
    let mut ended = pod("shop/job", JOB.0, JOB.1, "app=job");
    ended["status"]["phase"] = json!("Succeeded");
    shop.cluster.set(&[ended]);
    shop.denies(JOB, DB, tcp(80));
    // Its address is another's.
    shop.cluster.set(&[pod("ops/new", JOB.0, JOB.1, "app=web")]);
    shop.denies(JOB, DB, tcp(80));
}

#[test]
fn of_two_pods_with_one_address_the_one_that_runs_has_it() {
    let mut shop = Shop::with(&[to_db(json!([{"from": [{"podSelector": app("job")}]}]))]);
    let mut old = pod("shop/aa", JOB.0, JOB.1, "app=web");
    old["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    shop.cluster.set(&[old.clone()]);
    shop.allows(JOB, DB, tcp(80));
    old["metadata"]["name"] = json!("zz");
    shop.cluster.set(&[old]);
    shop.allows(JOB, DB, tcp(80));
    // The new one goes first: the address is the old one's again until that is gone.
    shop.cluster.gone(Key::Pod(name("shop/job")));
    shop.denies(JOB, DB, tcp(80));
    // One that does not run yet comes before one that is on its way out and runs still.
    let mut starting = pod("shop/job", JOB.0, JOB.1, "app=job");
    starting["status"]["phase"] = json!("Pending");
    shop.cluster.set(&[starting]);
    shop.allows(JOB, DB, tcp(80));
    // The same of one that is isolated here.
    let mut shop = Shop::with(&[to_db(json!([]))]);
    let mut old = pod("shop/old", DB.0, DB.1, "app=web");
    old["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    shop.cluster.set(&[old]);
    shop.denies(PROBE, DB, tcp(80));
    shop.cluster.gone(Key::Pod(name("shop/db")));
    shop.allows(PROBE, DB, tcp(80));
}

#[test]
fn of_two_pods_without_a_date_the_one_that_has_the_address_keeps_it() {
    let mut shop = Shop::with(&[to_db(json!([{"from": [{"podSelector": app("job")}]}]))]);
    shop.allows(JOB, DB, tcp(80));
    let second = |name: &str, labels| pod(name, JOB.0, JOB.1, labels);
    // Neither a name that sorts before nor one that sorts behind takes it.
    for name in ["shop/aa", "shop/zz"] {
        shop.cluster.set(&[second(name, "app=web")]);
        shop.allows(JOB, DB, tcp(80));
    }
    // Who has it may change otherwise.
    shop.cluster
        .set(&[second("shop/job", "app=job more=labels")]);
    shop.allows(JOB, DB, tcp(80));
    let snapshot = &shop.cluster.snapshot;
    let models = [shop.cluster.model("worker", IpFamily::V4)];
    let attachments = Attachments::default();
    let contested = models[0].contested(snapshot, &attachments);
    let contested: Vec<(String, usize)> = contested
        .map(|(_, owner, others)| (owner.name.to_string(), others.len()))
        .collect();
    assert_eq!(contested, [("shop/job".to_owned(), 2)]);
    // When it is gone the next has it, and who comes again comes last.
    shop.cluster.gone(Key::Pod(name("shop/job")));
    shop.denies(JOB, DB, tcp(80));
    shop.cluster.set(&[second("shop/job", "app=job")]);
    shop.denies(JOB, DB, tcp(80));
    // One with a date is of an API server, which knows better.
    let mut dated = second("shop/dated", "app=job");
    dated["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
    shop.cluster.set(&[dated]);
    shop.allows(JOB, DB, tcp(80));
}

#[test]
fn what_is_said_of_many_networks_or_policies_has_room_in_a_comment_and_says_how_many_there_are() {
    // Two rules, as the networks of one that has many are not told apart.
    let rules = [7..19, 19..31].map(|prefixes| {
        let networks =
            prefixes.map(|prefix| json!({"ipBlock": {"cidr": format!("10.0.0.0/{prefix}")}}));
        json!({"from": networks.collect::<Vec<_>>(), "ports": [{"port": 80}]})
    });
    let from_networks = json!({"podSelector": app("db"), "ingress": rules});
    let mut shop = Shop::with(std::slice::from_ref(&from_networks));
    for number in 0..30 {
        let at = format!("shop/a-policy-with-a-name-that-takes-room-{number}");
        shop.cluster.set(&[policy(&at, &from_networks)]);
    }
    let model = shop.cluster.model("worker", IpFamily::V4);
    let notes = model.wanted().iter().filter_map(|(place, what)| {
        let counts = matches!(place, Place::Block(_) | Place::Cell(_));
        counts.then(|| what.note.to_string())
    });
    let notes: Vec<String> = notes.collect();
    assert!(
        notes.iter().all(|note| note.len() <= COMMENT_MAX),
        "{notes:?}"
    );
    let innermost = notes
        .iter()
        .find(|note| note.starts_with("10.0.0.0/10 and 10.0.0.0/11"));
    let innermost = innermost.unwrap();
    assert!(innermost.ends_with(" more"), "{innermost}");
    let cell = notes
        .iter()
        .find(|note| note.starts_with("shop/db: a-policy"))
        .unwrap();
    assert!(cell.ends_with("-1 and 29 more"), "{cell}");
}

#[test]
fn policies_add_up() {
    let shop = Shop::with(&[
        to_db(json!([])),
        to_db(json!([{"from": [{"podSelector": app("web")}], "ports": [{"port": 80}]}])),
        to_db(json!([{"from": [{"podSelector": app("job")}]}])),
    ]);
    shop.allows(WEB, DB, tcp(80));
    shop.denies(WEB, DB, tcp(81));
    shop.allows(JOB, DB, tcp(81));
    shop.denies(PROBE, DB, tcp(80));
}

#[test]
fn both_ends_must_allow() {
    let shop = Shop::with(&[
        from_db(json!([{"to": [{"podSelector": app("web")}]}])),
        json!({"podSelector": app("web"), "ingress": [{"from": [{"podSelector": app("job")}]}]}),
    ]);
    shop.denies(DB, WEB, tcp(80));
    shop.allows(JOB, WEB, tcp(80));
}

#[test]
fn a_policy_that_goes_takes_its_isolation_along() {
    let mut shop = Shop::with(&[
        to_db(json!([])),
        to_db(json!([{"from": [{"podSelector": app("web")}]}])),
    ]);
    shop.cluster.gone(Key::NetworkPolicy(name("shop/p1")));
    shop.denies(WEB, DB, tcp(80));
    shop.cluster.gone(Key::NetworkPolicy(name("shop/p0")));
    shop.allows(PROBE, DB, tcp(80));
}

#[test]
fn what_cannot_be_read_closes() {
    let shop = Shop::with(&[to_db(json!([{"from": [{"podSelector": {}, "zone": "a"}]},
        {"ports": [{"port": 80, "speed": 1}]}]))]);
    shop.denies(WEB, DB, tcp(80));
    let shop = Shop::with(&[json!({"podSelector": {"app": "db"}, "ingress": [{}]})]);
    for pod in [WEB, DB, JOB] {
        shop.denies(PROBE, pod, tcp(80));
    }
}

#[test]
fn a_new_pod_of_this_node_is_closed_until_it_is_known() {
    let shop = Shop::with(&[to_db(json!([]))]);
    let [v4, v6] = addresses("worker", 77);
    for address in [v4, v6] {
        let [from, _] = addresses("worker2", 5);
        let from = if address.is_ipv4() {
            from
        } else {
            addresses("worker2", 5)[1]
        };
        assert!(!shop.cluster.models_allow(from, address, tcp(80)));
        assert!(!shop.cluster.models_allow(address, from, tcp(80)));
    }
}
