//! One test for each row of the semantics of ClusterNetworkPolicies in `docs/policies.md`, in both
//! families, on the cluster of `rows`.

use std::slice::from_ref;
use std::sync::Arc;

use podwire_kernel::IpFamily;
use serde_json::{Value, json};

use crate::features::policies::desired::attachments::Attachments;
use crate::features::policies::desired::frame::Changed;
use crate::features::policies::desired::model::{Model, takes_away};
use crate::features::policies::desired::samples::{
    ICMP, cluster_policy, here, name, namespace, node, pod, policy, sctp, tcp, udp,
};
use crate::features::policies::desired::tests::rows::{
    DB, End, JOB, NODE2, OPS_WEB, OUTSIDE, PROBE, Shop, WEB, app, from_db, to_db,
};
use crate::snapshot::Key;
use crate::source::decode::{Scope, decode};
use crate::source::objects::Names;

/// The cluster with these NetworkPolicies and ClusterNetworkPolicies `c0`, `c1` and so on.
fn shop(network: &[Value], cluster: &[Value]) -> Shop {
    let mut shop = Shop::with(network);
    for (number, spec) in cluster.iter().enumerate() {
        shop.cluster
            .set(&[cluster_policy(&format!("c{number}"), spec)]);
    }
    shop
}

fn all() -> Value {
    json!([{"namespaces": {}}])
}

/// Pods of a namespace with this label.
fn app_of(team: &str, value: &str) -> Value {
    let team = json!({"matchLabels": {"team": team}});
    json!({"pods": {"namespaceSelector": team, "podSelector": app(value)}})
}

fn with(mut spec: Value, more: &Value) -> Value {
    for (field, value) in more.as_object().unwrap() {
        spec[field] = value.clone();
    }
    spec
}

fn baseline(spec: Value) -> Value {
    with(spec, &json!({"tier": "Baseline"}))
}

fn at(priority: u16, spec: Value) -> Value {
    with(spec, &json!({"priority": priority}))
}

fn tcp_to(port: u16) -> Value {
    json!([{"tcp": {"destinationPort": {"number": port}}}])
}

/// Ingress that does this with what all pods send.
fn ingress(action: &str) -> Value {
    json!({"ingress": [{"action": action, "from": all()}]})
}

fn egress(action: &str, to: Value) -> Value {
    json!({"egress": [{"action": action, "to": to}]})
}

#[test]
fn the_admin_tier_comes_before_network_policies() {
    let open = to_db(json!([{}]));
    let denied = shop(from_ref(&open), &[ingress("Deny")]);
    denied.denies(WEB, DB, tcp(80));
    denied.denies(WEB, DB, ICMP);
    let accepted = shop(&[to_db(json!([]))], &[ingress("Accept")]);
    accepted.allows(WEB, DB, tcp(80));
    accepted.allows(WEB, DB, ICMP);
    // What no rule matches is left to them.
    accepted.denies(OUTSIDE, DB, tcp(80));
    denied.allows(OUTSIDE, DB, tcp(80));
}

#[test]
fn pass_leaves_the_tier_to_network_policies_and_the_baseline() {
    let rules = json!({"ingress": [
        {"action": "Pass", "from": [app_of("shop", "web")]}, {"action": "Deny", "from": all()}]});
    let left = shop(&[], from_ref(&rules));
    left.allows(WEB, DB, tcp(80));
    left.denies(PROBE, DB, tcp(80));
    let isolated = shop(&[to_db(json!([]))], from_ref(&rules));
    isolated.denies(WEB, DB, tcp(80));
    isolated.allows(WEB, JOB, tcp(80));
    let based = shop(&[], &[rules, baseline(ingress("Deny"))]);
    based.denies(WEB, DB, tcp(80));
    let passed = json!({"ingress": [
        {"action": "Pass", "from": all()}, {"action": "Deny", "from": all()}]});
    shop(&[], &[baseline(passed)]).allows(WEB, DB, tcp(80));
}

#[test]
fn the_baseline_counts_for_pods_that_no_network_policy_isolates() {
    let deny = baseline(ingress("Deny"));
    let based = shop(&[], from_ref(&deny));
    based.denies(WEB, DB, tcp(80));
    based.allows(OUTSIDE, DB, tcp(80));
    let from_web = to_db(json!([{"from": [{"podSelector": app("web")}]}]));
    let isolated = shop(&[from_web], from_ref(&deny));
    isolated.allows(WEB, DB, tcp(80));
    isolated.denies(PROBE, DB, tcp(80));
    isolated.denies(WEB, JOB, tcp(80));
    // A policy of the other direction does not isolate in this one.
    shop(&[from_db(json!([{}]))], &[deny]).denies(WEB, DB, tcp(80));
}

#[test]
fn the_lowest_priority_comes_first_and_rules_in_the_order_in_which_they_are_written() {
    let (accept, deny) = (ingress("Accept"), ingress("Deny"));
    shop(&[], &[at(2, deny.clone()), at(1, accept.clone())]).allows(WEB, DB, tcp(80));
    shop(&[], &[at(1, deny.clone()), at(2, accept.clone())]).denies(WEB, DB, tcp(80));
    // Of two with the same priority the name decides, on all nodes alike.
    shop(&[], &[deny.clone(), accept.clone()]).denies(WEB, DB, tcp(80));
    shop(&[], &[accept, deny]).allows(WEB, DB, tcp(80));
    let rules = json!({"ingress": [
        {"action": "Accept", "from": all(), "protocols": tcp_to(80)},
        {"action": "Deny", "from": all()}]});
    let ordered = shop(&[], &[rules]);
    ordered.allows(WEB, DB, tcp(80));
    ordered.denies(WEB, DB, tcp(81));
}

#[test]
fn the_subject_is_pods_of_namespaces_or_pods_among_them() {
    let of = |subject: Value| shop(&[], &[with(ingress("Deny"), &json!({"subject": subject}))]);
    let whole = of(json!({"namespaces": {"matchLabels": {"team": "ops"}}}));
    whole.denies(DB, PROBE, tcp(80));
    whole.denies(DB, OPS_WEB, tcp(80));
    whole.allows(PROBE, DB, tcp(80));
    let some = of(app_of("ops", "web"));
    some.denies(DB, OPS_WEB, tcp(80));
    some.allows(DB, PROBE, tcp(80));
    some.allows(DB, WEB, tcp(80));
    let anywhere = of(json!({"pods": {"podSelector": app("web")}}));
    anywhere.denies(DB, OPS_WEB, tcp(80));
    anywhere.denies(DB, WEB, tcp(80));
    anywhere.allows(DB, PROBE, tcp(80));
}

#[test]
fn the_subject_follows_the_labels_of_its_namespace() {
    let subject = json!({"subject": {"namespaces": {"matchLabels": {"team": "ops"}}}});
    let mut shop = shop(&[], &[with(ingress("Deny"), &subject)]);
    shop.allows(WEB, DB, tcp(80));
    shop.cluster.set(&[namespace("shop", "team=ops")]);
    shop.denies(WEB, DB, tcp(80));
    // Of a Namespace that is not known the name counts.
    shop.cluster.gone(Key::Namespace("shop".into()));
    shop.allows(WEB, DB, tcp(80));
    let subject = json!({"subject": {"namespaces":
        {"matchLabels": {"kubernetes.io/metadata.name": "shop"}}}});
    shop.cluster
        .set(&[cluster_policy("c1", &with(ingress("Deny"), &subject))]);
    shop.denies(WEB, DB, tcp(80));
}

#[test]
fn a_pod_whose_namespace_is_not_known_is_denied_where_its_labels_would_decide_and_never_accepted() {
    let of = |action: &str, selector: Value, rest: &str| {
        let peer = json!([{"namespaces": selector}]);
        let rules = json!({"ingress": [
            {"action": action, "from": peer}, {"action": rest, "from": all()}]});
        shop(&[], &[rules])
    };
    let not_ops = json!({"matchExpressions": [
        {"key": "team", "operator": "NotIn", "values": ["ops"]}]});
    let ops = json!({"matchLabels": {"team": "ops"}});
    let named = |name: &str| json!({"matchLabels": {"kubernetes.io/metadata.name": name}});
    for (action, selector, rest, known, unknown) in [
        ("Accept", not_ops.clone(), "Deny", true, false),
        ("Accept", named("shop"), "Deny", true, true),
        ("Accept", json!({}), "Deny", true, true),
        ("Deny", ops, "Accept", true, false),
        ("Deny", named("ops"), "Accept", true, true),
        ("Pass", not_ops, "Accept", true, false),
    ] {
        let mut shop = of(action, selector.clone(), rest);
        for expected in [known, unknown] {
            match expected {
                true => shop.allows(WEB, DB, tcp(80)),
                false => shop.denies(WEB, DB, tcp(80)),
            }
            shop.cluster.gone(Key::Namespace("shop".into()));
        }
    }
}

#[test]
fn peers_are_pods_anywhere_and_in_egress_networks_and_nodes() {
    let from = |peer: Value| {
        shop(
            &[],
            &[json!({"ingress": [{"action": "Deny", "from": [peer]}]})],
        )
    };
    let whole = from(json!({"namespaces": {"matchLabels": {"team": "ops"}}}));
    whole.denies(PROBE, DB, tcp(80));
    whole.allows(WEB, DB, tcp(80));
    let some = from(app_of("ops", "web"));
    some.denies(OPS_WEB, DB, tcp(80));
    some.allows(PROBE, DB, tcp(80));
    let networks = json!([{"networks": ["198.51.100.0/24", "2001:db8::/32", "10.10.2.2/32",
        "fd00:10:10:2::2/128"]}]);
    let networks = shop(&[], &[egress("Deny", networks)]);
    networks.denies(DB, OUTSIDE, tcp(80));
    networks.denies(DB, OUTSIDE, ICMP);
    networks.denies(DB, WEB, tcp(80));
    networks.allows(DB, PROBE, tcp(80));
    // A direction without rules is as if there was no policy.
    networks.allows(OUTSIDE, DB, tcp(80));
}

#[test]
fn nodes_are_their_addresses_and_follow_their_labels() {
    let to = json!([{"nodes": {"matchLabels": {"role": "edge"}}}]);
    let mut shop = shop(&[], &[egress("Deny", to)]);
    shop.allows(DB, NODE2, tcp(6443));
    let edge = |with: &str| node("edge", &["172.18.0.4", "fc00::4"], with);
    shop.cluster.set(&[edge("role=edge")]);
    shop.denies(DB, NODE2, tcp(6443));
    shop.denies(DB, NODE2, ICMP);
    shop.cluster.set(&[edge("role=core")]);
    shop.allows(DB, NODE2, tcp(6443));
    shop.cluster.set(&[edge("role=edge")]);
    shop.denies(DB, NODE2, tcp(6443));
    shop.cluster.gone(Key::Node("edge".into()));
    shop.allows(DB, NODE2, tcp(6443));
    shop.cluster.set(&[
        edge("role=edge"),
        cluster_policy("c0", &egress("Accept", json!([{"nodes": {}}]))),
        cluster_policy(
            "c1",
            &egress("Deny", json!([{"networks": ["0.0.0.0/0", "::/0"]}])),
        ),
    ]);
    shop.allows(DB, NODE2, tcp(6443));
    shop.denies(DB, OUTSIDE, tcp(6443));
}

#[test]
fn pods_with_their_nodes_network_are_neither_subject_nor_peer() {
    let mut shop = shop(&[], &[ingress("Deny"), egress("Deny", all())]);
    let mut host = pod("shop/host", "worker2", 9, "app=web");
    host["spec"]["hostNetwork"] = json!(true);
    host["status"]["podIPs"] = json!([{"ip": "172.18.0.4"}, {"ip": "fc00::4"}]);
    shop.cluster.set(&[host]);
    shop.allows(NODE2, DB, tcp(80));
    shop.allows(DB, NODE2, tcp(80));
    shop.denies(WEB, DB, tcp(80));
}

#[test]
fn protocols_are_tcp_udp_and_sctp_with_a_port_or_a_range_of_them() {
    let protocols = json!([
        {"tcp": {"destinationPort": {"number": 80}}},
        {"tcp": {"destinationPort": {"range": {"start": 1000, "end": 2000}}}},
        {"udp": {"destinationPort": {"range": {"start": 53, "end": 54}}}},
        {"sctp": {"destinationPort": {"number": 9}}}]);
    let rule = json!({"ingress": [{"action": "Deny", "from": all(), "protocols": protocols}]});
    let shop = shop(&[], &[rule]);
    for denied in [
        tcp(80),
        tcp(1000),
        tcp(1500),
        tcp(2000),
        udp(53),
        udp(54),
        sctp(9),
    ] {
        shop.denies(WEB, DB, denied);
    }
    for other in [
        tcp(81),
        tcp(999),
        tcp(2001),
        udp(80),
        udp(55),
        sctp(80),
        ICMP,
    ] {
        shop.allows(WEB, DB, other);
    }
}

#[test]
fn ping_is_of_rules_without_protocols() {
    shop(&[], &[ingress("Deny")]).denies(WEB, DB, ICMP);
    let everything = json!([{"tcp": {"destinationPort": {"range": {"start": 1, "end": 65535}}}}]);
    let rule = json!({"ingress": [{"action": "Deny", "from": all(), "protocols": everything}]});
    let tcp_alone = shop(&[], &[rule]);
    tcp_alone.allows(WEB, DB, ICMP);
    tcp_alone.denies(WEB, DB, tcp(80));
    tcp_alone.allows(WEB, DB, udp(80));
}

#[test]
fn what_egress_accepts_the_destination_may_still_refuse() {
    let rules = with(egress("Accept", all()), &json!({"priority": 1}));
    let refused = shop(&[to_db(json!([]))], from_ref(&rules));
    refused.denies(WEB, DB, tcp(80));
    refused.allows(WEB, JOB, tcp(80));
    shop(&[], &[rules, at(2, ingress("Deny"))]).denies(WEB, JOB, tcp(80));
}

#[test]
fn ranges_that_overlap_are_decided_port_by_port() {
    let range = |start: u16, end: u16| {
        json!([{"tcp": {"destinationPort":
        {"range": {"start": start, "end": end}}}}])
    };
    let rule = |action: &str, protocols: Value| {
        json!({"action": action, "from": all(),
        "protocols": protocols})
    };
    let rules = json!({"ingress": [
        rule("Accept", range(2000, 2100)), rule("Deny", range(1000, 3000)),
        rule("Accept", tcp_to(2500)), rule("Deny", tcp_to(5000)),
        rule("Accept", range(1, 65535)), {"action": "Deny", "from": all()}]});
    let open = shop(&[], from_ref(&rules));
    for shop in [open, shop(&[to_db(json!([]))], &[rules])] {
        for (port, allowed) in [
            (999, true),
            (1000, false),
            (1999, false),
            (2000, true),
            (2100, true),
            (2101, false),
            (2500, false),
            (3000, false),
            (3001, true),
            (5000, false),
            (65535, true),
        ] {
            shop.says(allowed, WEB, DB, tcp(port));
        }
        shop.denies(WEB, DB, udp(999));
        shop.denies(WEB, DB, ICMP);
    }
}

#[test]
fn a_pod_always_reaches_itself() {
    let shop = shop(&[], &[ingress("Deny"), egress("Deny", all())]);
    shop.allows(DB, DB, tcp(80));
    shop.denies(DB, JOB, tcp(80));
}

#[test]
fn a_pod_that_comes_where_a_network_is_allowed_and_is_denied_loses_that() {
    let network = json!([{"to": [{"ipBlock": {"cidr": "10.10.0.0/16"}}]}]);
    let web = json!({"podSelector": app("web")});
    let mut shop = shop(&[from_db(network)], &[egress("Deny", all())]);
    let (family, attachments) = (IpFamily::V4, Attachments::default());
    let model = |shop: &Shop| {
        Model::of(
            &shop.cluster.snapshot,
            &attachments,
            family,
            here("worker", family),
        )
    };
    let mut before = model(&shop);
    let mut come = |shop: &mut Shop, at: &str, number: u8| {
        let pod = pod(at, "worker2", number, "app=new");
        shop.cluster.set(&[pod]);
        let changed = Changed {
            pods: [name(at)].into(),
            ..Changed::default()
        };
        let delta = before.update(&shop.cluster.snapshot, &attachments, &changed);
        takes_away(&delta, &before)
    };
    assert!(come(&mut shop, "shop/new", 77));
    // A pod to which NetworkPolicies alone have something to say loses nothing.
    shop.cluster.gone(Key::ClusterNetworkPolicy("c0".into()));
    let spec = json!({"podSelector": app("db"), "egress": [{"to": [web]}]});
    shop.cluster.set(&[policy("shop/p1", &spec)]);
    let mut before = model(&shop);
    shop.cluster
        .set(&[pod("shop/newer", "worker2", 78, "app=web")]);
    let changed = Changed {
        pods: [name("shop/newer")].into(),
        ..Changed::default()
    };
    let delta = before.update(&shop.cluster.snapshot, &attachments, &changed);
    assert!(!delta.is_empty() && !takes_away(&delta, &before));
}

#[test]
fn a_peer_that_loses_the_word_that_came_before_a_denial_for_all_loses_that() {
    let holes = json!([{"port": 1, "endPort": 24}, {"port": 26, "endPort": 65535}]);
    let but_mail = json!({"ports": holes});
    let relay = json!({"to": [{"ipBlock": {"cidr": "198.51.100.7/32"}}, {"ipBlock": {"cidr": "2001:db8::7/128"}}], "ports": [{"protocol": "TCP"}]});
    // It makes the pods' cells say what is denied, too; it is about others.
    let accept = egress(
        "Accept",
        json!([{"namespaces": {"matchLabels": {"team": "none"}}}]),
    );
    let shop = |rules: Value| shop(&[from_db(rules)], from_ref(&accept));
    let (family, none) = (IpFamily::V4, Attachments::default());
    let with_relay = shop(json!([but_mail, relay]));
    with_relay.allows(DB, OUTSIDE, tcp(25));
    let without = shop(json!([but_mail]));
    without.denies(DB, OUTSIDE, tcp(25));
    let snapshot = &with_relay.cluster.snapshot;
    let mut model = Model::of(snapshot, &none, family, here("worker", family));
    let snapshot = &without.cluster.snapshot;
    let changed = Changed::everything(snapshot);
    let delta = model.update(snapshot, &none, &changed);
    assert!(!delta.is_empty() && takes_away(&delta, &model), "{delta:?}");
}

#[test]
fn a_policy_whose_place_is_not_known_comes_before_all_others_of_the_tier() {
    let accept = at(0, ingress("Accept"));
    let unknown = with(ingress("Deny"), &json!({"tier": "Developer"}));
    for cluster in [[accept.clone(), unknown.clone()], [unknown, accept]] {
        shop(&[], &cluster).denies(WEB, DB, tcp(80));
    }
}

#[test]
fn what_cannot_be_read_closes() {
    let mut shop = Shop::with(&[]);
    let mut read = |spec: Value| {
        let object = cluster_policy("c0", &spec).to_string();
        let contents = decode(object.as_bytes(), Scope::All, &mut Names::default()).unwrap();
        let set = contents
            .objects
            .into_iter()
            .map(crate::snapshot::Change::Set);
        shop.cluster.apply(set.collect());
        let policy = &shop.cluster.snapshot.cluster_policies[&Arc::from("c0")];
        assert!(!policy.invalid.is_empty(), "{spec}");
        let [from, to] = [DB, WEB].map(|pod| End::from(pod).addresses()[0]);
        shop.cluster.allows(from, to, tcp(80))
    };
    let names = json!([{"domainNames": ["example.org"]}]);
    assert!(read(egress("Accept", names.clone())));
    for action in ["Deny", "Pass"] {
        assert!(!read(egress(action, names.clone())), "{action}");
    }
    let accept = json!({"action": "Accept", "to": names});
    let rest = json!({"action": "Deny", "to": all()});
    assert!(!read(json!({"egress": [accept, rest]})));
    for spec in [
        with(egress("Deny", all()), &json!({"tier": "Developer"})),
        with(egress("Pass", all()), &json!({"priority": -1})),
        with(egress("Deny", all()), &json!({"subject": {"roles": {}}})),
        json!({"egress": {}}),
    ] {
        assert!(!read(spec.clone()), "{spec}");
    }
    assert!(read(with(
        egress("Accept", all()),
        &json!({"tier": "Developer"})
    )));
}
