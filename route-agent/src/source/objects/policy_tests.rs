//! Pods, Namespaces and NetworkPolicies as they come, and what becomes of what cannot be read.

use serde_json::{Value, json};

use super::*;
use crate::snapshot::{Direction, Labels, Peer, PolicyPort, PortMatch, Selector};

fn pod(value: Value) -> crate::snapshot::Pod {
    let pod: Pod = serde_json::from_value(value).unwrap();
    pod.into_snapshot(&mut Names::default()).unwrap()
}

/// A policy `shop/p` with this spec.
fn policy(spec: Value) -> crate::snapshot::NetworkPolicy {
    let object = json!({"metadata": {"name": "p", "namespace": "shop"}, "spec": spec});
    let policy: NetworkPolicy = serde_json::from_value(object).unwrap();
    policy.into_snapshot(&mut Names::default()).unwrap()
}

/// The rules of a policy whose ingress is this.
fn ingress(rules: Value) -> crate::snapshot::NetworkPolicy {
    policy(json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": rules}))
}

/// The one peer of the one rule of a policy with this peer, if it could be read.
fn peer(peer: Value) -> Option<Peer> {
    let policy = ingress(json!([{"from": [peer.clone()]}]));
    let rules = policy.ingress.unwrap();
    let peers = rules[0].peers.clone().expect("never anyone");
    assert_eq!(peers.is_empty(), !policy.invalid.is_empty(), "{peer}");
    peers.first().cloned()
}

fn ports(ports: Value) -> Option<Vec<PolicyPort>> {
    let policy = ingress(json!([{"ports": ports}]));
    policy.ingress.unwrap()[0].ports.clone().map(Vec::from)
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    let pairs = pairs.iter();
    pairs
        .map(|(key, value)| (Arc::from(*key), Arc::from(*value)))
        .collect()
}

#[test]
fn a_pod_is_read_as_far_as_policies_ask() {
    let pod = pod(json!({
        "metadata": {"name": "db-0", "namespace": "shop", "uid": "3f2a", "managedFields": [{"a": 1}],
            "labels": {"role": "db", "number": 7}, "creationTimestamp": "2026-11-23T04:00:00Z"},
        "spec": {"nodeName": "worker", "containers": [
            {"name": "db", "image": "db:1", "ports": [
                {"name": "sql", "containerPort": 5432},
                {"name": "sql", "containerPort": 5433},
                {"containerPort": 9},
                {"name": "gossip", "containerPort": 7, "protocol": "UDP"}]},
            {"name": "side"}],
            "initContainers": [
                {"ports": [{"name": "gone", "containerPort": 1}]},
                {"restartPolicy": "Always", "ports": [{"name": "mesh", "containerPort": 15}]}]},
        "status": {"phase": "Running", "podIP": "10.10.1.2",
            "podIPs": [{"ip": "10.10.1.2"}, {"ip": "fd00:10:10:1::2"}]}}));
    assert_eq!(pod.name.to_string(), "shop/db-0");
    assert_eq!(
        (pod.uid.to_string().as_str(), pod.node.as_deref()),
        ("3f2a", Some("worker"))
    );
    assert_eq!(pod.labels, labels(&[("number", "7"), ("role", "db")]));
    assert_eq!(pod.ipv4, "10.10.1.2".parse().ok());
    assert_eq!(pod.ipv6, "fd00:10:10:1::2".parse().ok());
    assert_eq!(pod.port("sql", Protocol::Tcp), Some(5432));
    assert_eq!(pod.port("sql", Protocol::Udp), None);
    assert_eq!(pod.port("gossip", Protocol::Udp), Some(7));
    assert_eq!(pod.port("mesh", Protocol::Tcp), Some(15));
    assert_eq!(pod.port("gone", Protocol::Tcp), None);
    assert!(pod.running && !pod.finished && !pod.deleting && !pod.host_network);
    assert_eq!(pod.created, Some(1_795_406_400));
    assert!(pod.invalid.is_empty());
}

#[test]
fn a_pod_that_has_ended_or_has_no_address_yet_says_so() {
    for phase in ["Succeeded", "Failed"] {
        let ended = pod(json!({"metadata": {"name": "job"},
            "status": {"phase": phase, "podIP": "10.10.1.2"}}));
        assert!(ended.finished && !ended.running);
        assert_eq!(ended.ipv4, "10.10.1.2".parse().ok());
    }
    let early = pod(json!({"metadata": {"name": "new"}, "spec": null, "status": {"podIP": ""}}));
    assert_eq!((early.ipv4, early.ipv6, early.node), (None, None, None));
    assert!(!early.running && early.invalid.is_empty());
    let odd = pod(json!({"metadata": {"name": "odd"},
        "spec": {"hostNetwork": "maybe", "containers": [{"ports": [
            {"name": "a", "containerPort": 70000}, {"name": "b", "containerPort": 1, "protocol": "X"}]}]},
        "status": {"podIPs": [{"ip": "10.10.1"}, {"ip": "10.10.1.7"}]}}));
    assert_eq!(odd.invalid.len(), 4);
    assert!(odd.ports.is_empty());
    assert_eq!(odd.ipv4, "10.10.1.7".parse().ok());
}

#[test]
fn ports_and_addresses_of_a_pod_that_an_api_server_would_refuse_are_named() {
    let read = pod(json!({"metadata": {"name": "web"},
        "spec": {"containers": [{"ports": [{"name": "a"}, {"name": "b", "containerPort": 0},
            {"containerPort": 0}, {"name": "c", "containerPort": 80}]}]},
        "status": {"podIPs": [{"ip": "127.0.0.1"}, {"ip": "10.10.1.2"}, {"ip": "fd00::2"},
            {"ip": "10.10.1.3"}]}}));
    assert_eq!(read.ports.len(), 1);
    assert_eq!(read.ipv4, "10.10.1.2".parse().ok());
    assert_eq!(read.ipv6, "fd00::2".parse().ok());
    let said: Vec<_> = read.invalid.iter().map(ToString::to_string).collect();
    let no_port = |shown: &str| {
        format!(
            "spec.containers.ports.containerPort \"{shown}\" is left out: it is not the number of a port, \
             which one with a name needs"
        )
    };
    assert_eq!(
        said,
        [
            no_port("null"),
            no_port("0"),
            "status.podIPs \"127.0.0.1\" is left out: it is a loopback address".to_owned(),
            "status.podIPs \"10.10.1.3\" is left out: it is not the first of its family, which alone counts"
                .to_owned(),
        ]
    );
}

#[test]
fn pods_with_the_same_labels_and_ports_share_them() {
    let mut names = Names::default();
    let mut read = |name: &str| {
        let value = json!({"metadata": {"name": name, "labels": {"app": "web"}},
            "spec": {"containers": [{"ports": [{"name": "http", "containerPort": 80}]}]}});
        let pod: Pod = serde_json::from_value(value).unwrap();
        pod.into_snapshot(&mut names).unwrap()
    };
    let (one, two) = (read("one"), read("two"));
    assert!(Arc::ptr_eq(&one.ports, &two.ports));
    // Both pods, and what keeps it for the next.
    assert_eq!(one.labels.shared_by(), 3);
    // What one Pod takes of its own, but for its name and UID: 100,000 of them are on every node.
    assert!(size_of::<crate::snapshot::Pod>() <= 160);
}

#[test]
fn a_namespace_has_the_label_that_the_api_server_gives_it() {
    let namespace: Namespace =
        serde_json::from_value(json!({"metadata": {"name": "shop", "labels": {"team": "a"}}}))
            .unwrap();
    let namespace = namespace.into_snapshot(&mut Names::default()).unwrap();
    let expected = labels(&[("kubernetes.io/metadata.name", "shop"), ("team", "a")]);
    assert_eq!(namespace.labels, expected);
}

#[test]
fn without_policy_types_ingress_is_isolated_and_egress_if_it_has_rules() {
    for (spec, ingress, egress) in [
        (json!({"podSelector": {}}), Some(0), None),
        (json!({"podSelector": {}, "egress": []}), Some(0), None),
        (json!({"podSelector": {}, "egress": [{}]}), Some(0), Some(1)),
        (
            json!({"podSelector": {}, "ingress": [{}], "policyTypes": []}),
            Some(1),
            None,
        ),
        (
            json!({"podSelector": {}, "policyTypes": ["Egress"]}),
            None,
            Some(0),
        ),
        (
            json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "ingress": null}),
            Some(0),
            Some(0),
        ),
        (json!({}), Some(0), None),
    ] {
        let read = policy(spec.clone());
        let count = |direction| read.rules(direction).map(<[_]>::len);
        assert_eq!(count(Direction::Ingress), ingress, "{spec}");
        assert_eq!(count(Direction::Egress), egress, "{spec}");
        assert!(read.invalid.is_empty() && read.subject.is_empty(), "{spec}");
    }
}

#[test]
fn rules_of_a_direction_that_policy_types_leave_out_do_nothing_and_are_named() {
    for (types, rules, field) in [
        ("Ingress", "egress", "spec.egress"),
        ("Egress", "ingress", "spec.ingress"),
    ] {
        let read = policy(json!({"podSelector": {}, "policyTypes": [types], rules: [{}]}));
        let isolated = Direction::ALL.map(|one| read.rules(one).map(<[_]>::len));
        assert!(isolated.contains(&None) && isolated.contains(&Some(0)));
        let invalid: Vec<_> = read.invalid.iter().map(|one| one.field).collect();
        assert_eq!(invalid, [field]);
        let empty = policy(json!({"podSelector": {}, "policyTypes": [types], rules: []}));
        assert!(empty.invalid.is_empty());
    }
}

#[test]
fn a_rule_without_peers_or_ports_is_for_all_of_them() {
    for rule in [
        json!({}),
        json!(null),
        json!({"from": [], "ports": []}),
        json!({"from": null}),
    ] {
        let read = ingress(json!([rule]));
        let rules = read.ingress.unwrap();
        assert_eq!((&rules[0].peers, &rules[0].ports), (&None, &None), "{rule}");
        assert!(read.invalid.is_empty());
    }
}

#[test]
fn peers_are_read_by_what_they_have() {
    let selects = |selector: &Selector, pairs: &[_]| selector.selects(&labels(pairs));
    let web = json!({"matchLabels": {"app": "web"}});
    match peer(json!({"podSelector": web})) {
        Some(Peer::Here(pods)) => assert!(selects(&pods, &[("app", "web")])),
        other => panic!("{other:?}"),
    }
    match peer(json!({"podSelector": web, "namespaceSelector": {}})) {
        Some(Peer::Elsewhere { namespaces, pods }) => {
            assert!(namespaces.is_empty() && selects(&pods, &[("app", "web")]));
        }
        other => panic!("{other:?}"),
    }
    let two = json!({"matchLabels": {"a": true}, "matchExpressions": [
        {"key": "b", "operator": "In", "values": ["1", 2]},
        {"key": "c", "operator": "NotIn", "values": ["1"]},
        {"key": "d", "operator": "Exists"}, {"key": "e", "operator": "DoesNotExist", "values": []}]});
    match peer(json!({"namespaceSelector": two, "ipBlock": null})) {
        Some(Peer::Elsewhere { namespaces, pods }) => {
            assert!(pods.is_empty());
            assert!(selects(
                &namespaces,
                &[("a", "true"), ("b", "2"), ("d", "")]
            ));
            assert!(!selects(
                &namespaces,
                &[("a", "true"), ("b", "3"), ("d", "")]
            ));
        }
        other => panic!("{other:?}"),
    }
    match peer(json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.2.0.0/16", "10.1.0.0/16"]}}))
    {
        Some(Peer::Block(block)) => {
            assert_eq!(
                block.to_string(),
                "10.0.0.0/8 except 10.1.0.0/16, 10.2.0.0/16"
            );
            assert!(block.contains("10.3.0.1".parse().unwrap()));
            assert!(!block.contains("10.1.0.1".parse().unwrap()));
            assert!(!block.contains("11.0.0.1".parse().unwrap()));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_peer_that_is_not_understood_allows_nothing_and_is_named() {
    for bad in [
        json!({}),
        json!("web"),
        json!({"podSelector": {}, "serviceSelector": {}}),
        json!({"podSelector": {"matchFields": {}}}),
        json!({"podSelector": []}),
        json!({"podSelector": {"matchLabels": ["a"]}}),
        json!({"podSelector": {"matchLabels": {"a": {}}}}),
        json!({"podSelector": {"matchExpressions": [{"key": "a", "operator": "Near"}]}}),
        json!({"podSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}),
        json!({"podSelector": {"matchExpressions": [{"operator": "Exists"}]}}),
        json!({"podSelector": {}, "namespaceSelector": {"matchExpressions": {}}}),
        json!({"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}}),
        json!({"ipBlock": {}}),
        json!({"ipBlock": {"cidr": "10.0.0.0"}}),
        json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["all"]}}),
        json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": "10.1.0.0/16"}}),
        json!({"ipBlock": {"cidr": "10.0.0.0/8", "zone": "a"}}),
    ] {
        assert_eq!(peer(bad.clone()), None, "{bad}");
    }
    // The rest of the rule goes on.
    let read = ingress(json!([{"from": [{}, {"podSelector": {}}]}]));
    assert_eq!(read.ingress.unwrap()[0].peers.as_ref().unwrap().len(), 1);
    let text = read.invalid[0].to_string();
    let expected = "spec.ingress.from \"{}\" is left out: it is not a selector of pods or namespaces, \
                    or else an ipBlock, so it allows nothing";
    assert_eq!(text, expected);
}

#[test]
fn exceptions_and_blanks_that_an_api_server_would_refuse_are_named() {
    let read = |cidr: &str, except: &str| {
        let block = json!({"cidr": cidr, "except": [except, "10.1.1.0/24"]});
        let read = ingress(json!([{"from": [{"ipBlock": block}]}]));
        let peers = read.ingress.unwrap()[0].peers.clone().unwrap();
        let block = peers.first().map(|peer| match peer {
            Peer::Block(block) => block.to_string(),
            other => panic!("{other:?}"),
        });
        assert_eq!(read.invalid.len(), 1);
        (block, read.invalid[0].to_string())
    };
    for outside in ["10.2.0.0/16", "fd00::/64"] {
        let (block, said) = read("10.1.0.0/16", outside);
        assert_eq!(
            block.as_deref(),
            Some("10.1.0.0/16 except 10.1.1.0/24"),
            "{outside}"
        );
        let expected = format!(
            "spec.ingress.from \"{outside}\" is left out: it is outside of its `cidr`, so it excepts nothing"
        );
        assert_eq!(said, expected);
    }
    for all in ["10.1.0.0/16", "10.0.0.0/8", "0.0.0.0/0"] {
        let (block, said) = read("10.1.0.0/16", all);
        assert_eq!(block, None, "{all}");
        let why = "it has an `except` that takes all of its `cidr`, so it allows nothing";
        assert!(said.ends_with(why), "{said}");
    }
    let (block, said) = read(" 10.1.0.0/16", "10.1.1.0/24");
    assert_eq!(block.as_deref(), Some("10.1.0.0/16 except 10.1.1.0/24"));
    assert_eq!(
        said,
        "spec.ingress.from \" 10.1.0.0/16\" is taken as 10.1.0.0/16: it has blanks around it, which an \
         API server would not take"
    );
}

#[test]
fn ports_are_read_by_what_they_have() {
    let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
    let numbers = |first, last| PortMatch::Numbers { first, last };
    for (port, protocol, wanted) in [
        (json!({"port": 80}), tcp, numbers(80, 80)),
        (json!({"port": 53, "protocol": "UDP"}), udp, numbers(53, 53)),
        (json!({"protocol": "UDP"}), udp, PortMatch::All),
        (json!({}), tcp, PortMatch::All),
        (
            json!({"port": "http"}),
            tcp,
            PortMatch::Named(Arc::from("http")),
        ),
        (json!({"port": 80, "endPort": 90}), tcp, numbers(80, 90)),
        (json!({"port": 1, "endPort": 65535}), tcp, numbers(1, 65535)),
    ] {
        let expected = PolicyPort {
            protocol,
            ports: wanted,
        };
        assert_eq!(ports(json!([port])), Some(vec![expected]), "{port}");
    }
}

#[test]
fn a_port_that_is_not_understood_allows_nothing() {
    for bad in [
        json!("http"),
        json!({"port": 0}),
        json!({"port": 65536}),
        json!({"port": -1}),
        json!({"port": [80]}),
        json!({"port": 80, "protocol": "ICMP"}),
        json!({"port": 80, "protocol": 6}),
        json!({"endPort": 90}),
        json!({"port": "http", "endPort": 90}),
        json!({"port": 90, "endPort": 80}),
        json!({"port": 80, "endPort": 70000}),
        json!({"port": 80, "name": "x"}),
    ] {
        assert_eq!(ports(json!([bad])), Some(Vec::new()), "{bad}");
    }
    let named = |port: Value| ingress(json!([{"ports": [port]}])).invalid[0].to_string();
    assert_eq!(
        named(json!({"port": 90, "endPort": 80})),
        "spec.ingress.ports \"{\"endPort\":80,\"port\":90}\" is left out: it is not a range of ports of \
         TCP, UDP or SCTP, from `port` up to `endPort`, so it allows nothing"
    );
    assert_eq!(
        named(json!({"port": 0})),
        "spec.ingress.ports \"{\"port\":0}\" is left out: it is not a port of TCP, UDP or SCTP, so it \
         allows nothing"
    );
}

#[test]
fn a_number_in_quotes_and_a_name_that_no_port_can_have_allow_nothing_and_are_named() {
    let named = |port: Value| {
        let read = ingress(json!([{"ports": [port]}]));
        assert_eq!(read.ingress.unwrap()[0].ports, Some(Box::default()));
        assert_eq!(read.invalid.len(), 1);
        read.invalid[0].to_string()
    };
    let quotes = "it has a number in quotes, which is the name of no port, so it allows nothing; \
                  write it without quotes";
    for port in [
        json!({"port": "80"}),
        json!({"port": "0"}),
        json!({"port": "80", "endPort": 90}),
        json!({"port": 80, "endPort": "90"}),
    ] {
        let said = named(port);
        assert!(said.ends_with(quotes), "{said}");
    }
    let long = "a".repeat(16);
    for name in [
        "", "HTTP", "my_port", "80-90", "-a", "a-", "a--b", "-80", &long,
    ] {
        let said = named(json!({"port": name}));
        assert!(
            said.contains("it has a name that no port can have"),
            "{said}"
        );
    }
    for name in ["a", "80a", "http-alt-8080-x", "1-a"] {
        let expected = PortMatch::Named(Arc::from(name));
        let read = ports(json!([{"port": name}])).unwrap();
        assert_eq!(read[0].ports, expected, "{name}");
    }
}

#[test]
fn a_rule_that_is_not_understood_is_left_out_and_the_policy_isolates() {
    for rules in [
        json!([{"from": [], "via": "x"}]),
        json!(["all"]),
        json!({}),
        json!("all"),
    ] {
        let read = ingress(rules.clone());
        assert_eq!(read.ingress.as_deref(), Some(&[][..]), "{rules}");
        assert_eq!(read.invalid.len(), 1, "{rules}");
    }
    let read = ingress(json!([{"from": {}}, {"ports": 80}]));
    let nothing = Some(Box::default());
    let rules = read.ingress.unwrap();
    assert_eq!(rules[0].peers, nothing);
    assert_eq!(rules[1].ports, Some(Box::default()));
}

#[test]
fn a_spec_that_is_not_understood_closes_all_pods_of_the_namespace() {
    for spec in [
        json!([]),
        json!({"podSelector": {}, "ingress": [{}], "egress": [{}], "priority": 7}),
    ] {
        let read = policy(spec.clone());
        assert!(read.subject.is_empty(), "{spec}");
        assert_eq!(read.ingress.as_deref(), Some(&[][..]), "{spec}");
        assert_eq!(read.egress.as_deref(), Some(&[][..]), "{spec}");
        assert_eq!(read.invalid.len(), 1);
    }
    let read = policy(json!({"podSelector": {"app": "web"}, "ingress": [{}]}));
    assert!(read.subject.is_empty());
    assert_eq!(
        (read.ingress.as_deref(), &read.egress),
        (Some(&[][..]), &None)
    );
    let read = policy(json!({"podSelector": {}, "policyTypes": ["ingress"], "ingress": [{}]}));
    assert_eq!(read.ingress.unwrap().len(), 1);
    assert_eq!(read.egress.as_deref(), Some(&[][..]));
}

#[test]
fn a_rule_with_too_many_ports_allows_nothing_and_is_named() {
    let rule = |ports: u32| {
        let ports = (0..ports).map(|one| json!({"port": 2 * one + 1}));
        json!({"ports": ports.collect::<Vec<_>>()})
    };
    let read = ingress(json!([rule(1000), rule(1001), {"ports": [{"port": 7}]}]));
    let lengths = |read: &crate::snapshot::NetworkPolicy| -> Vec<usize> {
        let rules = read.ingress.as_ref().unwrap().iter();
        rules
            .map(|rule| rule.ports.as_ref().unwrap().len())
            .collect()
    };
    assert_eq!(lengths(&read), [1000, 1]);
    assert_eq!(read.invalid.len(), 1);
    assert_eq!(read.invalid[0].field, "spec.ingress");
    let names = (0..1001).map(|one| json!({"port": format!("p{one}")}));
    let read = policy(json!({"podSelector": {}, "policyTypes": ["Egress"],
        "egress": [{"ports": names.collect::<Vec<_>>()}]}));
    assert_eq!(read.egress.as_deref(), Some(&[][..]));
    let read = ingress(json!(vec![rule(1000); 12]));
    assert_eq!((lengths(&read).len(), read.invalid.len()), (10, 2));
}

#[test]
fn ports_beside_each_other_are_one_range_however_many_they_are() {
    let all: Vec<Value> = (1..5000).map(|one| json!({"port": one})).collect();
    let numbers = PortMatch::Numbers {
        first: 1,
        last: 4999,
    };
    let one = PolicyPort {
        protocol: Protocol::Tcp,
        ports: numbers,
    };
    assert_eq!(ports(json!(all)), Some(vec![one]));
}

#[test]
fn a_selector_that_asks_too_much_is_not_understood_so_that_it_holds_no_one_up() {
    let values = |number: usize| {
        let values: Vec<_> = (0..number).map(|one| format!("v{one}")).collect();
        json!({"podSelector": {"matchExpressions": [
            {"key": "app", "operator": "NotIn", "values": values}]}})
    };
    assert!(peer(values(10_000)).is_some());
    assert_eq!(peer(values(10_001)), None);
    let requirements = |number: usize| {
        let all = (0..number).map(|one| json!({"key": format!("k{one}"), "operator": "Exists"}));
        json!({"podSelector": {"matchExpressions": all.collect::<Vec<_>>()}})
    };
    assert!(peer(requirements(100)).is_some());
    assert_eq!(peer(requirements(101)), None);

    // All of a policy together, but for those that are found by a value.
    let mut found = requirements(99);
    let expressions = found["podSelector"]["matchExpressions"].as_array_mut();
    expressions
        .unwrap()
        .push(json!({"key": "app", "operator": "In", "values": ["web"]}));
    let allowed = |peers: Vec<Value>| {
        let read = ingress(json!([{"from": peers}]));
        let peers = read.ingress.unwrap()[0].peers.clone();
        peers.map(|peers| peers.len())
    };
    let mut peers = vec![found.clone(); 20];
    peers.extend(vec![requirements(100); 12]);
    assert_eq!(allowed(peers), Some(30), "the other two allow nothing");
    // A value that all pods have finds all of them.
    assert_eq!(allowed(vec![found; 110]), Some(100));
}
