//! What a tenant can make of a model with policies as long as the API server takes them: counted, so
//! that no list costs more than what it says.

use std::net::IpAddr;

use podwire_kernel::IpFamily;
use podwire_kernel::nft::COMMENT_MAX;
use serde_json::{Value, json};

use crate::features::policies::desired::atoms::FEW_PEERS;
use crate::features::policies::desired::attachments::Attachments;
use crate::features::policies::desired::frame::Changed;
use crate::features::policies::desired::looks::looks_of;
use crate::features::policies::desired::model::sizes::Sizes;
use crate::features::policies::desired::model::{Model, takes_away};
use crate::features::policies::desired::samples::{cluster_policy, here, namespace, pod, policy};
use crate::snapshot::{Change, Dirty, Snapshot};
use crate::source::decode::{Scope, decode};
use crate::source::objects::Names;

fn snapshot(objects: &[Value]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    set(&mut snapshot, objects);
    snapshot
}

fn set(snapshot: &mut Snapshot, objects: &[Value]) -> Changed {
    let (mut dirty, mut names) = (Dirty::default(), Names::default());
    for object in objects {
        let text = object.to_string();
        let contents = decode(text.as_bytes(), Scope::All, &mut names).unwrap();
        for object in contents.objects {
            snapshot.apply(Change::Set(object), &mut dirty);
        }
    }
    let mut changed = Changed::default();
    changed.add(&dirty);
    changed
}

fn model(few_peers: usize, snapshot: &Snapshot) -> Model {
    let (family, attachments) = (IpFamily::V4, Attachments::default());
    let here = here("worker", family);
    Model::of_lists_over(few_peers, snapshot, &attachments, family, here)
}

/// The address of the peer with this number.
fn address(number: u32) -> IpAddr {
    IpAddr::from(std::net::Ipv4Addr::from(0x0a63_0000 + number))
}

/// A pod that is selected here, and so many elsewhere, each with a label and a port of its own.
fn pods(number: u32) -> Vec<Value> {
    let peers = (0..number).map(|one| {
        let mut peer = pod(&format!("shop/p{one}"), "worker2", 2, &format!("id=i{one}"));
        peer["status"]["podIPs"] = json!([{"ip": address(one)}]);
        peer["spec"]["containers"][0]["ports"][0]["name"] = json!(format!("n{one}"));
        peer
    });
    let db = pod("shop/db", "worker", 2, "role=db");
    [namespace("shop", ""), db]
        .into_iter()
        .chain(peers)
        .collect()
}

/// A rule for all of them.
fn peers(number: u32) -> Vec<Value> {
    let peer = |one| json!({"podSelector": {"matchLabels": {"id": format!("i{one}")}}});
    (0..number).map(peer).collect()
}

fn with_rule(peers: u32, few: usize, direction: &str, rule: Value) -> (Model, Snapshot) {
    let field = direction.to_lowercase();
    let spec = json!({"podSelector": {"matchLabels": {"role": "db"}},
        "policyTypes": [direction], field: [rule]});
    let mut objects = pods(peers);
    objects.push(policy("shop/p", &spec));
    let snapshot = snapshot(&objects);
    (model(few, &snapshot), snapshot)
}

/// So many peers, each a pod, with so many ports.
fn many_ports(peer_count: u32, port_count: u32, few: usize) -> Sizes {
    let rule = json!({"from": peers(peer_count), "ports": ports(port_count)});
    with_rule(peer_count, few, "Ingress", rule).0.sizes()
}

/// The same with ports by name, one of which each pod has.
fn many_names(peer_count: u32, port_count: u32, few: usize) -> Sizes {
    let ports: Vec<Value> = (0..port_count)
        .map(|one| json!({"port": format!("n{one}")}))
        .collect();
    let rule = json!({"to": peers(peer_count), "ports": ports});
    with_rule(peer_count, few, "Egress", rule).0.sizes()
}

/// The number-th hole.
fn all_but(number: u32) -> Value {
    let hole = std::net::Ipv4Addr::from(0x0b00_0000 + 4 * number);
    json!({"ipBlock": {"cidr": "11.0.0.0/8", "except": [format!("{hole}/32")]}})
}

fn overlapping_in_one_rule(number: u32, few: usize) -> Sizes {
    let blocks: Vec<Value> = (0..number).map(all_but).collect();
    with_rule(0, few, "Ingress", json!({"from": blocks}))
        .0
        .sizes()
}

fn overlapping_in_policies(number: u32) -> Sizes {
    let mut objects = pods(0);
    objects.extend((0..number).map(|one| {
        let spec = json!({"podSelector": {}, "ingress": [{"from": [all_but(one)]}]});
        policy(&format!("shop/p{one}"), &spec)
    }));
    model(FEW_PEERS, &snapshot(&objects)).sizes()
}

/// Ports that are not beside each other.
fn ports(number: u32) -> Vec<Value> {
    (0..number)
        .map(|one| json!({"port": 2 * one + 1}))
        .collect()
}

fn holes_in_one_network(number: u32) -> Sizes {
    let holes = (0..number).map(|one| std::net::Ipv4Addr::from(0x0b00_0002 + 4 * one));
    let holes: Vec<_> = holes.map(|hole| format!("{hole}/32")).collect();
    let block = json!({"ipBlock": {"cidr": "11.0.0.0/8", "except": holes}});
    with_rule(0, FEW_PEERS, "Ingress", json!({"from": [block]}))
        .0
        .sizes()
}

/// A list of so many peers gets one more: how often cells are looked at to see that nothing is lost.
fn looks_for_a_loss(peer_count: u32, port_count: u32) -> usize {
    let of = |count| {
        let rule = json!({"from": peers(count), "ports": ports(port_count)});
        let spec = json!({"podSelector": {"matchLabels": {"role": "db"}}, "ingress": [rule]});
        policy("shop/p", &spec)
    };
    let mut objects = pods(peer_count + 1);
    objects.push(of(peer_count));
    let mut snapshot = snapshot(&objects);
    let mut model = model(FEW_PEERS, &snapshot);
    let changed = set(&mut snapshot, &[of(peer_count + 1)]);
    let delta = model.update(&snapshot, &Attachments::default(), &changed);
    looks_of(|| assert!(!takes_away(&delta, &model)))
}

/// Of twice so many ports half become all ports of the protocol: how often cells are looked at to see that
/// nothing is lost.
fn looks_for_ports_in_all(number: u32) -> usize {
    let of = |rest: &[Value]| {
        let mut of_rule = ports(number);
        of_rule.extend_from_slice(rest);
        let rule = json!({"from": peers(1), "ports": of_rule});
        let spec = json!({"podSelector": {"matchLabels": {"role": "db"}}, "ingress": [rule]});
        policy("shop/p", &spec)
    };
    let even: Vec<Value> = (1..=number).map(|one| json!({"port": 2 * one})).collect();
    let mut objects = pods(1);
    objects.push(of(&even));
    let mut snapshot = snapshot(&objects);
    let mut model = model(FEW_PEERS, &snapshot);
    let all = [json!({"protocol": "TCP"})];
    let changed = set(&mut snapshot, &[of(&all)]);
    let delta = model.update(&snapshot, &Attachments::default(), &changed);
    looks_of(|| assert!(!takes_away(&delta, &model)))
}

#[test]
fn of_ports_that_are_in_others_now_each_is_looked_at_once() {
    let (few, many) = (looks_for_ports_in_all(50), looks_for_ports_in_all(200));
    assert!(few > 0 && many <= 4 * few, "{few} {many}");
}

/// A policy with so many rules of a few peers each comes: how often pods are asked something.
fn looks_for_rules(number: u32, with: impl Fn(&str) -> Value) -> usize {
    let rules = (0..number).map(|rule| {
        let peers = (0..FEW_PEERS as u32).map(|peer| with(&format!("i{}", 16 * rule + peer)));
        json!({"from": peers.collect::<Vec<_>>()})
    });
    let spec = json!({"podSelector": {"matchLabels": {"role": "db"}},
        "ingress": rules.collect::<Vec<_>>()});
    let mut snapshot = snapshot(&pods(100));
    let mut model = model(FEW_PEERS, &snapshot);
    let changed = set(&mut snapshot, &[policy("shop/p", &spec)]);
    let none = Attachments::default();
    looks_of(|| assert!(!model.update(&snapshot, &none, &changed).is_empty()))
}

#[test]
fn questions_that_come_together_are_put_to_the_pods_together() {
    let labels = |id: &str| json!({"matchLabels": {"id": id}});
    let everywhere = |id: &str| json!({"namespaceSelector": {}, "podSelector": labels(id)});
    let here = |id: &str| json!({"podSelector": labels(id)});
    for looks in [looks_for_rules(100, everywhere), looks_for_rules(100, here)] {
        // 1,600 questions and 101 pods, which have one label each.
        assert!(looks < 1_000, "{looks}");
    }
}

/// So many rules of a few addresses each, beside a ClusterNetworkPolicy: how often it is asked which rules a
/// class meets.
fn looks_beside_a_tier(number: u32) -> usize {
    let rules = (0..number).map(|rule| {
        let few = (0..FEW_PEERS as u32).map(|one| address(16 * rule + one));
        let blocks = few.map(|one| json!({"ipBlock": {"cidr": format!("{one}/32")}}));
        json!({"from": blocks.collect::<Vec<_>>(), "ports": [{"port": 80}]})
    });
    let spec = json!({"podSelector": {}, "ingress": rules.collect::<Vec<_>>()});
    let accept = json!({"ingress": [{"action": "Accept", "from": [{"namespaces": {"matchLabels": {"a": "b"}}}]}]});
    let mut objects = pods(0);
    objects.extend([policy("shop/p", &spec), cluster_policy("c", &accept)]);
    let snapshot = snapshot(&objects);
    looks_of(|| {
        assert_eq!(
            model(FEW_PEERS, &snapshot).classes().len(),
            16 * number as usize
        )
    })
}

#[test]
fn beside_a_tier_a_class_is_asked_only_for_the_rules_that_it_meets() {
    let (few, many) = (looks_beside_a_tier(10), looks_beside_a_tier(40));
    assert!(few >= 160 && many <= 5 * few, "{few} {many}");
}

#[test]
fn what_is_said_of_the_ranges_of_a_network_with_many_holes_is_kept_once() {
    let sizes = holes_in_one_network(5000);
    assert_eq!((sizes.ranges, sizes.classes), (5001, 1));
    assert!(sizes.notes <= 4 * COMMENT_MAX, "{sizes:?}");
}

#[test]
fn the_members_of_a_list_that_changes_are_judged_together() {
    let (few, many) = (looks_for_a_loss(40, 50), looks_for_a_loss(80, 50));
    assert_eq!(few, many);
    assert!((50..10 * 50).contains(&many), "{many}");
}

#[test]
fn of_a_class_that_came_the_ports_of_rules_that_are_not_about_it_are_not_gone_through() {
    let named: Vec<_> = (0..500)
        .map(|one| json!({"port": format!("m{one}")}))
        .collect();
    let spec = json!({"podSelector": {"matchLabels": {"role": "db"}},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": peers(1), "ports": ports(500)}, {"from": peers(2)}],
        "egress": [{"to": peers(1), "ports": named}]});
    let mut objects = pods(2);
    let new = objects.pop().unwrap();
    objects.push(policy("shop/p", &spec));
    let mut snapshot = snapshot(&objects);
    let mut model = model(FEW_PEERS, &snapshot);
    let changed = set(&mut snapshot, &[new]);
    let none = Attachments::default();
    let looks = looks_of(|| assert!(!model.update(&snapshot, &none, &changed).is_empty()));
    assert_eq!(model.classes().len(), 2);
    assert!(looks < 10, "{looks}");
}

#[test]
fn peers_that_a_rule_treats_alike_are_one_class() {
    let before = many_ports(40, 50, usize::MAX);
    assert_eq!((before.classes, before.cells), (40, 40 * 50));
    let now = many_ports(40, 50, FEW_PEERS);
    assert_eq!((now.classes, now.cells), (1, 50));
    // A few are classes of their own, which other rules may share.
    let few = many_ports(FEW_PEERS as u32, 50, FEW_PEERS);
    assert_eq!((few.classes, few.cells), (16, 16 * 50));
}

#[test]
fn a_rule_asks_for_a_named_port_once_and_not_each_peer() {
    let before = many_names(40, 50, usize::MAX);
    assert_eq!((before.asked_ports, before.cells), (40 * 50, 40));
    let now = many_names(40, 50, FEW_PEERS);
    // Each pod has a port of another name.
    assert_eq!((now.asked_ports, now.classes, now.cells), (50, 40, 40));
}

#[test]
fn networks_of_one_rule_that_overlap_are_one() {
    let before = overlapping_in_one_rule(40, usize::MAX);
    assert_eq!((before.classes, before.ranges), (41, 80));
    let now = overlapping_in_one_rule(40, FEW_PEERS);
    assert_eq!((now.classes, now.ranges, now.ids, now.cells), (1, 1, 1, 1));
}

#[test]
fn networks_of_many_policies_that_overlap_share_what_they_have_in_common() {
    let (few, many) = (overlapping_in_policies(100), overlapping_in_policies(400));
    assert_eq!((many.classes, many.ranges, many.cells), (401, 800, 401));
    assert!(many.ids > 15 * few.ids, "{many:?} {few:?}");
    // 2 x 401 sets of 400 numbers, of which 64 are one word.
    assert!(many.words <= 2 * 401 * 8, "{many:?}");
}

#[test]
fn a_list_is_the_same_class_after_a_restart_and_in_whatever_order() {
    let class = |reverse: bool| {
        let mut list = peers(40);
        if reverse {
            list.reverse();
        }
        let (model, _) = with_rule(40, FEW_PEERS, "Ingress", json!({"from": list}));
        model.wanted().class(address(7))
    };
    assert_ne!(class(false), 0);
    assert_eq!(class(false), class(true));
}

#[test]
#[ignore = "prints the figures of docs/decisions/0024"]
fn figures() {
    println!(
        "peers x ports before: {:?}",
        many_ports(500, 1000, usize::MAX)
    );
    println!("peers x ports: {:?}", many_ports(5000, 1000, FEW_PEERS));
    println!(
        "peers x names before: {:?}",
        many_names(500, 1000, usize::MAX)
    );
    println!("peers x names: {:?}", many_names(5000, 1000, FEW_PEERS));
    println!(
        "blocks of a rule before: {:?}",
        overlapping_in_one_rule(2000, usize::MAX)
    );
    println!(
        "blocks of a rule: {:?}",
        overlapping_in_one_rule(2000, FEW_PEERS)
    );
}

#[test]
#[ignore = "prints the figures of docs/decisions/0024; takes minutes"]
fn figures_of_many_policies() {
    println!("blocks of policies: {:?}", overlapping_in_policies(5000));
}
