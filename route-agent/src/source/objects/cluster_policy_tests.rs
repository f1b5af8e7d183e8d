//! ClusterNetworkPolicies as they come, and what becomes of what cannot be read.

use serde_json::{Value, json};

use super::*;
use crate::snapshot::{Action, Direction, Peer, PortMatch, Tier};

fn policy(spec: Value) -> crate::snapshot::ClusterNetworkPolicy {
    let object = json!({"metadata": {"name": "p"}, "spec": spec});
    let policy: ClusterNetworkPolicy = serde_json::from_value(object).unwrap();
    policy.into_snapshot(&mut Names::default()).unwrap()
}

fn spec() -> Value {
    json!({"tier": "Admin", "priority": 7, "subject": {"namespaces": {}}})
}

/// The egress of a policy with one rule, in words; and how many warnings there are.
fn egress(action: &str, rest: Value) -> (Vec<String>, usize) {
    let mut rule = json!({"action": action, "to": [{"namespaces": {}}]});
    for (field, value) in rest.as_object().unwrap() {
        rule[field] = value.clone();
    }
    let mut spec = spec();
    spec["egress"] = json!([rule]);
    let policy = policy(spec);
    let rules = policy.egress.iter().map(|rule| {
        let traffic = &rule.traffic;
        match (&traffic.peers, &traffic.ports) {
            (None, None) => format!("{} everything", rule.action.verb()),
            (Some(peers), ports) => format!("{} {peers:?} {ports:?}", rule.action.verb()),
            (None, Some(_)) => panic!("no rule has ports alone"),
        }
    });
    (rules.collect(), policy.invalid.len())
}

#[test]
fn a_policy_is_read_with_its_tier_priority_subject_and_rules_in_their_order() {
    let web = json!({"matchLabels": {"app": "web"}});
    let read = policy(json!({
        "tier": "Baseline", "priority": 1000,
        "subject": {"pods": {"namespaceSelector": {}, "podSelector": web}},
        "ingress": [
            {"name": "first", "action": "Pass", "from": [{"namespaces": web}, {"pods":
                {"namespaceSelector": web, "podSelector": {}}}]},
            {"action": "Deny", "from": [{"namespaces": {}}], "protocols": [
                {"tcp": {"destinationPort": {"number": 80}}},
                {"udp": {"destinationPort": {"range": {"start": 53, "end": 60}}}},
                {"sctp": {"destinationPort": {"number": 9}}}]}],
        "egress": [{"action": "Accept", "to": [
            {"nodes": {}}, {"networks": ["10.0.0.0/8", "fd00::/8"]}]}]}));
    assert_eq!(read.invalid.len(), 0);
    assert_eq!((read.tier, read.priority), (Tier::Baseline, 1000));
    assert!(read.subject.namespaces.is_empty() && !read.subject.pods.is_empty());
    let [first, second] = &read.rules(Direction::Ingress) else {
        panic!("two rules");
    };
    assert_eq!(first.name.as_deref(), Some("first"));
    assert_eq!((first.action, second.action), (Action::Pass, Action::Deny));
    assert_eq!(first.traffic.peers.as_ref().unwrap().len(), 2);
    let ports = second.traffic.ports.as_ref().unwrap().iter();
    let ports: Vec<_> = ports
        .map(|port| (port.protocol, port.ports.clone()))
        .collect();
    let numbers = |first, last| PortMatch::Numbers { first, last };
    assert_eq!(
        ports,
        [
            (Protocol::Tcp, numbers(80, 80)),
            (Protocol::Udp, numbers(53, 60)),
            (Protocol::Sctp, numbers(9, 9)),
        ]
    );
    let peers = read.egress[0].traffic.peers.as_ref().unwrap();
    assert!(matches!(&peers[0], Peer::Nodes(all) if all.is_empty()));
    assert!(matches!(&peers[1..], [Peer::Block(_), Peer::Block(_)]));
}

#[test]
fn pods_without_a_selector_of_namespaces_are_those_of_all() {
    let web = json!({"matchLabels": {"app": "web"}});
    for pods in [
        json!({"podSelector": web}),
        json!({"podSelector": web, "namespaceSelector": null}),
        json!({"podSelector": web, "namespaceSelector": {}}),
    ] {
        let read = policy(json!({
            "tier": "Admin", "priority": 1, "subject": {"pods": pods},
            "ingress": [{"action": "Accept", "from": [{"pods": pods}]}]}));
        assert_eq!(read.invalid.len(), 0, "{pods}");
        assert!(read.subject.namespaces.is_empty() && !read.subject.pods.is_empty());
        let peers = read.ingress[0].traffic.peers.as_ref().unwrap();
        assert_eq!(*peers, [Peer::Anywhere(read.subject.clone())].into());
    }
}

#[test]
fn a_rule_that_is_not_understood_accepts_nothing_or_denies_everything_and_is_named() {
    for rest in [
        json!({"to": [{"domainNames": ["example.org"]}]}),
        json!({"to": [{"namespaces": {}}, {"services": {}}]}),
        json!({"to": [{}]}),
        json!({"to": [{"namespaces": {}, "nodes": {}}]}),
        json!({"to": [{"namespaces": {"matchFields": {}}}]}),
        json!({"to": [{"pods": {"namespaceSelector": {}}}]}),
        json!({"to": [{"networks": ["10.0.0.0"]}]}),
        json!({"to": [{"networks": []}]}),
        json!({"to": []}),
        json!({"to": null}),
        json!({"to": {}}),
        json!({"schedule": "nights"}),
        json!({"protocols": []}),
        json!({"protocols": [{"destinationNamedPort": "http"}]}),
        json!({"protocols": [{"tcp": {}}]}),
        json!({"protocols": [{}]}),
        json!({"protocols": [{"icmp": {}}]}),
        json!({"protocols": [{"tcp": {"destinationPort": {"number": 80}}, "udp": {}}]}),
        json!({"protocols": [{"tcp": {"destinationPort": {"number": 0}}}]}),
        json!({"protocols": [{"tcp": {"destinationPort": {"number": 65536}}}]}),
        json!({"protocols": [{"tcp": {"destinationPort": {"range": {"start": 2, "end": 1}}}}]}),
        json!({"protocols": [{"tcp": {"destinationPort": {"range": {"start": 2}}}}]}),
        json!({"protocols": [{"tcp": {"sourcePort": {"number": 80}}}]}),
    ] {
        assert_eq!(egress("Accept", rest.clone()), (vec![], 1), "{rest}");
        for action in ["Deny", "Pass", "Log"] {
            let closed = (vec!["denies everything".to_owned()], 1);
            assert_eq!(egress(action, rest.clone()), closed, "{action} {rest}");
        }
    }
    let mut names = spec();
    names["egress"] = json!([{"action": "Accept", "to": [{"domainNames": ["example.org"]}]}]);
    assert_eq!(
        policy(names).invalid[0].to_string(),
        "spec.egress.to \"{\"domainNames\":[\"example.org\"]}\" is taken as a rule that accepts \
         nothing: asks for domain names, which are not supported"
    );
}

#[test]
fn peers_of_egress_alone_are_none_of_ingress() {
    for peer in [json!({"nodes": {}}), json!({"networks": ["10.0.0.0/8"]})] {
        let mut spec = spec();
        spec["ingress"] = json!([{"action": "Accept", "from": [peer]}]);
        let read = policy(spec);
        assert_eq!((read.ingress.len(), read.invalid.len()), (0, 1), "{peer}");
    }
}

#[test]
fn a_policy_whose_place_or_subject_is_not_understood_comes_first_and_only_takes_away() {
    for (field, value) in [
        ("tier", json!("Developer")),
        ("tier", Value::Null),
        ("priority", json!(1001)),
        ("priority", json!("first")),
        ("subject", json!({})),
        ("subject", json!({"namespaces": {}, "pods": {}})),
        ("subject", json!({"serviceAccounts": {}})),
        ("subject", Value::Null),
        ("schedule", json!("nights")),
    ] {
        let mut spec = json!({"tier": "Baseline", "priority": 7,
            "subject": {"namespaces": {"matchLabels": {"a": "b"}}}});
        spec[field] = value.clone();
        let to = json!([{"namespaces": {}}]);
        spec["egress"] = json!(["Accept", "Pass", "Deny"])
            .as_array()
            .unwrap()
            .iter()
            .map(|action| json!({"action": action, "to": to}))
            .collect();
        let read = policy(spec);
        assert_eq!(
            (read.tier, read.priority),
            (Tier::Admin, 0),
            "{field} {value}"
        );
        let actions: Vec<_> = read.egress.iter().map(|rule| rule.action).collect();
        assert_eq!(actions, [Action::Deny, Action::Deny], "{field} {value}");
        let all = read.subject.namespaces.is_empty();
        assert_eq!(all, field == "subject", "{field} {value}");
        assert_eq!(read.invalid.len(), 1, "{field} {value}");
    }
    for spec in [json!("all"), Value::Null] {
        let read = policy(spec);
        assert_eq!((read.ingress.len(), read.egress.len()), (1, 1));
        assert_eq!(read.invalid.len(), 1);
    }
    let mut rules = spec();
    rules["ingress"] = json!("all");
    let read = policy(rules);
    assert_eq!((read.ingress.len(), read.egress.len()), (1, 0));
}

#[test]
fn a_rule_with_too_many_ports_closes() {
    let protocols: Vec<Value> = (0..1001)
        .map(|one| json!({"tcp": {"destinationPort": {"number": 2 * one + 1}}}))
        .collect();
    for (action, rules) in [
        ("Accept", vec![]),
        ("Deny", vec!["denies everything".to_owned()]),
        ("Pass", vec!["denies everything".to_owned()]),
    ] {
        let read = egress(action, json!({"protocols": protocols}));
        assert_eq!(read, (rules, 1), "{action}");
    }
}
