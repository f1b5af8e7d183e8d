//! For whatever clusters and changes: the models say what the policies say, a model that followed the
//! changes is the one that is made at once, and nothing is lost unnoticed.

use std::net::IpAddr;

use podwire_kernel::IpFamily;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::features::policies::desired::frame::Changed;
use crate::features::policies::desired::model::{Model, takes_away};
use crate::features::policies::desired::samples::{
    Cluster, ICMP, NODES, addresses, cluster_policy, here, name, namespace, node, pod, policy,
    sctp, tcp, udp,
};
use crate::features::policies::desired::truth::{Traffic, Truth, is_in_doubt};
use crate::features::policies::desired::wanted::{Place, Wanted};
use crate::snapshot::{Change, Dirty, Key, PolicyName};

/// The namespaces of the clusters.
pub const NAMESPACES: [&str; 3] = ["a", "b", "c"];
/// What packets are of.
pub const TRAFFIC: [Traffic; 7] = [
    tcp(80),
    tcp(81),
    tcp(8080),
    tcp(120),
    udp(80),
    sctp(80),
    ICMP,
];

/// Addresses of pods outside the podCIDRs.
const OUTSIDE: [[&str; 2]; 2] = [["10.99.0.5", "fd99::5"], ["10.99.0.6", "fd99::6"]];

/// Rules with more peers of a kind than this ask a single question here.
const FEW_PEERS: usize = 1;

/// One thing that happens.
#[derive(Debug, Clone)]
pub enum Step {
    /// An object comes or changes.
    Set(Value),
    /// An object goes.
    Gone(Key),
}

fn label() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["", "x=1", "x=2", "y=1", "x=1 y=1"])
}

fn selector() -> impl Strategy<Value = Value> {
    prop::sample::select(vec![
        json!({}),
        json!({"matchLabels": {"x": "1"}}),
        json!({"matchLabels": {"y": "1"}}),
        json!({"matchExpressions": [{"key": "x", "operator": "NotIn", "values": ["1"]}]}),
        json!({"matchExpressions": [{"key": "x", "operator": "Exists"}]}),
    ])
}

fn block() -> impl Strategy<Value = Value> {
    prop::sample::select(vec![
        json!({"cidr": "10.10.0.0/16"}),
        json!({"cidr": "10.10.1.0/24", "except": ["10.10.1.0/29"]}),
        json!({"cidr": "10.10.1.0/29", "except": ["10.10.1.4/32"]}),
        json!({"cidr": "10.10.2.0/29"}),
        json!({"cidr": "10.10.1.3/32"}),
        json!({"cidr": "198.51.100.0/24", "except": ["198.51.100.4/30"]}),
        json!({"cidr": "198.51.100.7/32"}),
        json!({"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]}),
        json!({"cidr": "fd00::/16", "except": ["fd00:10:10:1::/64"]}),
        json!({"cidr": "2001:db8::7/128"}),
        json!({"cidr": "::/0"}),
    ])
}

fn peer() -> impl Strategy<Value = Value> {
    prop_oneof![
        selector().prop_map(|pods| json!({"podSelector": pods})),
        selector().prop_map(|one| json!({"namespaceSelector": one})),
        (selector(), selector())
            .prop_map(|(one, pods)| json!({"namespaceSelector": one, "podSelector": pods})),
        block().prop_map(|block| json!({"ipBlock": block})),
    ]
}

fn port() -> impl Strategy<Value = Value> {
    prop::sample::select(vec![
        json!({"port": 80}),
        json!({"port": 80, "protocol": "UDP"}),
        json!({"port": "http"}),
        json!({"port": "http", "protocol": "UDP"}),
        json!({"port": 80, "endPort": 90}),
        json!({"port": 100, "endPort": 9000}),
        json!({"protocol": "SCTP"}),
        json!({}),
    ])
}

fn rule(peers: &'static str) -> impl Strategy<Value = Value> {
    // More than FEW_PEERS of a kind, in some.
    let peers_of = prop_oneof![
        3 => prop::collection::vec(peer(), 0..3),
        1 => prop::collection::vec(peer(), 3..8),
    ];
    let ports = prop_oneof![
        4 => prop::collection::vec(port(), 0..3),
        1 => Just(vec![json!({"port": 1, "endPort": 79}), json!({"port": 81, "endPort": 65535})]),
    ];
    (peers_of, ports).prop_map(move |(some, ports)| json!({peers: some, "ports": ports}))
}

fn a_policy() -> impl Strategy<Value = Step> {
    let types = prop::sample::select(vec![
        json!(["Ingress"]),
        json!(["Egress"]),
        json!(["Ingress", "Egress"]),
        json!([]),
    ]);
    let ingress = prop::collection::vec(rule("from"), 0..3);
    let egress = prop::collection::vec(rule("to"), 0..3);
    let place = (prop::sample::select(NAMESPACES.to_vec()), 0_u8..2);
    (place, selector(), types, ingress, egress).prop_map(
        |((namespace, number), pods, types, ingress, egress)| {
            let spec = json!({
                "podSelector": pods, "policyTypes": types, "ingress": ingress, "egress": egress,
            });
            Step::Set(policy(&format!("{namespace}/p{number}"), &spec))
        },
    )
}

fn a_pod() -> impl Strategy<Value = Step> {
    let node = prop::sample::select(NODES.map(|(node, _)| node).to_vec());
    let fate = prop::sample::select(vec![
        "runs", "runs", "runs", "ended", "host", "leaves", "port", "outside",
    ]);
    let place = (prop::sample::select(NAMESPACES.to_vec()), 0_u8..3);
    (place, node, 2_u8..6, label(), fate).prop_map(
        |((namespace, one), node, number, with, fate)| {
            let mut pod = pod(&format!("{namespace}/pod{one}"), node, number, with);
            match fate {
                "ended" => pod["status"]["phase"] = json!("Failed"),
                "host" => pod["spec"]["hostNetwork"] = json!(true),
                "leaves" => pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"),
                "port" => pod["spec"]["containers"][0]["ports"][0]["containerPort"] = json!(8080),
                "outside" => {
                    let ips = OUTSIDE[usize::from(number % 2)].map(|ip| json!({"ip": ip}));
                    pod["status"]["podIPs"] = json!(ips);
                }
                _ => {}
            }
            Step::Set(pod)
        },
    )
}

fn a_namespace() -> impl Strategy<Value = Step> {
    (prop::sample::select(NAMESPACES.to_vec()), label())
        .prop_map(|(one, with)| Step::Set(namespace(one, with)))
}

fn an_end() -> impl Strategy<Value = Step> {
    (prop::sample::select(NAMESPACES.to_vec()), 0_u8..3, 0_u8..3).prop_map(|(one, number, kind)| {
        Step::Gone(match kind {
            0 => Key::Pod(name(&format!("{one}/pod{number}"))),
            1 => Key::NetworkPolicy(name(&format!("{one}/p{number}"))),
            _ => Key::Namespace(one.into()),
        })
    })
}

fn pod_set() -> impl Strategy<Value = Value> {
    prop_oneof![
        selector().prop_map(|one| json!({"namespaces": one})),
        (selector(), selector()).prop_map(
            |(one, pods)| json!({"pods": {"namespaceSelector": one, "podSelector": pods}})
        ),
    ]
}

fn tier_peer(egress: bool) -> BoxedStrategy<Value> {
    let networks = prop::sample::subsequence(
        vec![
            "10.10.0.0/16",
            "10.10.1.3/32",
            "198.51.100.0/29",
            "0.0.0.0/0",
            "fd00::/16",
            "2001:db8::7/128",
        ],
        1..3,
    );
    match egress {
        false => pod_set().boxed(),
        true => prop_oneof![
            3 => pod_set(),
            1 => networks.prop_map(|all| json!({"networks": all})),
            1 => selector().prop_map(|nodes| json!({"nodes": nodes})),
        ]
        .boxed(),
    }
}

fn protocol() -> impl Strategy<Value = Value> {
    let number = |number: u16| json!({"destinationPort": {"number": number}});
    let range =
        |start: u16, end: u16| json!({"destinationPort": {"range": {"start": start, "end": end}}});
    prop::sample::select(vec![
        json!({"tcp": number(80)}),
        json!({"tcp": number(120)}),
        json!({"tcp": range(80, 81)}),
        json!({"tcp": range(100, 9000)}),
        json!({"tcp": range(1, 65535)}),
        json!({"tcp": range(8000, 8100)}),
        json!({"udp": number(80)}),
        json!({"udp": range(1, 100)}),
        json!({"sctp": number(80)}),
    ])
}

fn tier_rules(egress: bool) -> impl Strategy<Value = Vec<Value>> {
    let action = prop::sample::select(vec!["Accept", "Deny", "Pass"]);
    let peers = prop_oneof![
        3 => prop::collection::vec(tier_peer(egress), 1..3),
        1 => prop::collection::vec(tier_peer(egress), 3..7),
    ];
    let protocols = prop::collection::vec(protocol(), 0..3);
    let rule = (action, peers, protocols).prop_map(move |(action, peers, protocols)| {
        let mut rule = json!({"action": action});
        rule[if egress { "to" } else { "from" }] = json!(peers);
        if !protocols.is_empty() {
            rule["protocols"] = json!(protocols);
        }
        rule
    });
    prop::collection::vec(rule, 0..4)
}

fn a_cluster_policy() -> impl Strategy<Value = Step> {
    let tier = prop::sample::select(vec!["Admin", "Baseline"]);
    let place = (0_u8..3, tier, 0_u16..2);
    (place, pod_set(), tier_rules(false), tier_rules(true)).prop_map(
        |((number, tier, priority), subject, ingress, egress)| {
            let spec = json!({"tier": tier, "priority": priority, "subject": subject,
                "ingress": ingress, "egress": egress});
            Step::Set(cluster_policy(&format!("c{number}"), &spec))
        },
    )
}

fn a_node() -> impl Strategy<Value = Step> {
    let addresses =
        prop::sample::subsequence(vec!["198.51.100.7", "198.51.100.9", "2001:db8::7"], 1..3);
    (0_u8..2, addresses, label()).prop_map(|(number, addresses, with)| {
        Step::Set(node(&format!("n{number}"), &addresses, with))
    })
}

fn an_end_of_a_tier() -> impl Strategy<Value = Step> {
    (0_u8..3, any::<bool>()).prop_map(|(number, policy)| {
        Step::Gone(match policy {
            true => Key::ClusterNetworkPolicy(format!("c{number}").into()),
            false => Key::Node(format!("n{number}").into()),
        })
    })
}

/// What happens to a cluster that has ClusterNetworkPolicies as well.
pub fn all_steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => a_pod(),
        4 => a_policy(),
        1 => a_namespace(),
        1 => an_end(),
        5 => a_cluster_policy(),
        2 => a_node(),
        1 => an_end_of_a_tier(),
    ];
    let first = NAMESPACES.map(|one| Step::Set(namespace(one, "x=1")));
    prop::collection::vec(step, 1..30).prop_map(move |steps| [first.to_vec(), steps].concat())
}

/// What happens to a cluster of which another program knows all that may.
pub fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => a_pod(),
        4 => a_policy(),
        1 => a_namespace(),
        1 => an_end(),
    ];
    let first = NAMESPACES.map(|one| Step::Set(namespace(one, "x=1")));
    prop::collection::vec(step, 1..25).prop_map(move |steps| [first.to_vec(), steps].concat())
}

/// From where and to where packets go.
pub fn ends() -> Vec<IpAddr> {
    let pods = NODES
        .iter()
        .flat_map(|(node, _)| (2..6).map(move |one| addresses(node, one)));
    let others = ["198.51.100.7", "198.51.100.9", "2001:db8::7", "2001:db8::8"];
    let others = others.iter().chain(OUTSIDE.as_flattened());
    let others = others.map(|one| one.parse().unwrap());
    pods.flatten().chain(others).collect()
}

/// All pairs of them.
fn pairs() -> Vec<(IpAddr, IpAddr)> {
    let ends = ends();
    let all = ends
        .iter()
        .flat_map(|from| ends.iter().map(move |to| (*from, *to)));
    all.filter(|(from, to)| from.is_ipv4() == to.is_ipv4())
        .collect()
}

/// A model's places, without the numbers of classes: two different classes of one hash have them in
/// the order in which they came.
fn places(wanted: &Wanted) -> Vec<Place> {
    wanted.iter().map(|(place, _)| *place).collect()
}

/// Makes it happen.
fn apply(cluster: &mut Cluster, step: &Step) {
    match step {
        Step::Set(object) => cluster.set(std::slice::from_ref(object)),
        Step::Gone(key) => cluster.gone(key.clone()),
    }
}

/// Makes it happen, so many steps at a time.
fn apply_together(cluster: &mut Cluster, steps: &[Step], numbers: &[usize]) {
    let mut numbers = numbers.iter().cycle();
    let mut rest = steps;
    while !rest.is_empty() {
        let number = numbers.next().map_or(1, |number| rest.len().min(*number));
        let (now, later) = rest.split_at(number);
        let changes = now.iter().flat_map(|step| match step {
            Step::Set(object) => cluster.read(object),
            Step::Gone(key) => vec![Change::Gone(key.clone())],
        });
        let changes = changes.collect();
        cluster.apply(changes);
        rest = later;
    }
}

/// How many steps come together.
fn numbers() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(1_usize..5, 1..8)
}

/// Whether models and truth should agree about an address: one of a node's podCIDR is closed there
/// unless its pod is known to run there.
pub fn is_known(cluster: &Cluster, address: IpAddr) -> bool {
    let pod = Truth::of(&cluster.snapshot).pod(address);
    !NODES.iter().any(|(node, _)| {
        here(node, IpFamily::of(address)).has(address)
            && pod.is_none_or(|pod| pod.node.as_deref() != Some(*node))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_models_say_what_the_policies_say(
        steps in all_steps(),
        numbers in numbers(),
        of_api_server in any::<bool>(),
    ) {
        let mut cluster = Cluster::made(FEW_PEERS, of_api_server);
        apply_together(&mut cluster, &steps, &numbers);
        let truth = Truth::of(&cluster.snapshot);
        let is_closed = |address| {
            let pod = truth.pod(address);
            of_api_server && pod.is_some_and(|pod| is_in_doubt(pod, &cluster.snapshot))
        };
        for (from, to) in pairs() {
            if is_closed(from) || is_closed(to) {
                for traffic in TRAFFIC {
                    let passes = cluster.models_allow(from, to, traffic);
                    prop_assert!(!passes, "{from} -> {to} {traffic:?} of a pod in doubt");
                }
            } else if is_known(&cluster, from) && is_known(&cluster, to) {
                for traffic in TRAFFIC {
                    cluster.allows(from, to, traffic);
                }
            }
        }
    }

    #[test]
    fn a_model_that_followed_the_changes_is_the_one_that_is_made_at_once(
        steps in all_steps(),
        numbers in numbers(),
        of_api_server in any::<bool>(),
    ) {
        let mut cluster = Cluster::made(FEW_PEERS, of_api_server);
        apply_together(&mut cluster, &steps, &numbers);
        for (node, _) in NODES {
            for family in IpFamily::ALL {
                let followed = cluster.model(node, family);
                let made = Model::of_lists_over(FEW_PEERS, &cluster.snapshot, &cluster.attachments, family, followed.here().clone());
                prop_assert_eq!(places(followed.wanted()), places(made.wanted()));
                prop_assert_eq!(followed.wanted(), made.wanted());
                prop_assert!(followed.frame().covers(&made.frame()), "{:?}", followed.frame());
                prop_assert_eq!(followed.classes().len(), made.classes().len());
            }
        }
    }

    #[test]
    fn what_differs_is_what_is_said_to_differ_and_a_loss_is_never_missed(steps in all_steps()) {
        let mut cluster = Cluster::of_lists_over(FEW_PEERS);
        let (node, family) = ("worker", IpFamily::V4);
        let mut model = Model::of_lists_over(FEW_PEERS, &cluster.snapshot, &cluster.attachments, family, here(node, family));
        for step in &steps {
            let before = model.wanted().clone();
            let change = match step {
                Step::Set(_) => {
                    apply(&mut cluster, step);
                    None
                }
                Step::Gone(key) => Some(Change::Gone(key.clone())),
            };
            let mut dirty = Dirty::default();
            if let Some(change) = change {
                cluster.snapshot.apply(change, &mut dirty);
            }
            let mut changed = Changed::default();
            changed.add(&dirty);
            if let Step::Set(object) = step {
                let at = name(&format!(
                    "{}/{}",
                    object["metadata"]["namespace"].as_str().unwrap_or("-"),
                    object["metadata"]["name"].as_str().unwrap()
                ));
                match object["kind"].as_str().unwrap() {
                    "Pod" => _ = changed.pods.insert(at),
                    "NetworkPolicy" => {
                        _ = changed.policies.insert(PolicyName::Namespaced(at));
                    }
                    "ClusterNetworkPolicy" => {
                        _ = changed.policies.insert(PolicyName::Cluster(at.name));
                    }
                    "Node" => _ = changed.nodes.insert(at.name),
                    _ => _ = changed.namespaces.insert(at.name),
                }
            }
            let delta = model.update(&cluster.snapshot, &cluster.attachments, &changed);
            let mut undone = model.wanted().clone();
            for (place, was) in delta.iter() {
                prop_assert_ne!(was, model.wanted().get(place));
                undone.put(*place, was.cloned());
            }
            prop_assert_eq!(&undone, &before);
            let is_here = |address| model.here().has(address);
            let lost = pairs().into_iter().filter(|(from, _)| from.is_ipv4()).any(|(from, to)| {
                TRAFFIC.iter().any(|traffic| {
                    before.allows(from, to, *traffic, is_here)
                        && !model.wanted().allows(from, to, *traffic, is_here)
                })
            });
            prop_assert!(!lost || takes_away(&delta, &model), "{:?}", delta);
        }
    }
}
