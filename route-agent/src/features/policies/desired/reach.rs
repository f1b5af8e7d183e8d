//! Who may reach a pod, and whom it may reach: read from `truth`, at every port where a rule begins or
//! ends.
//!
//! Goes in: the cluster and the name of a pod. Comes out: for each other pod what may be opened there
//! and back, in words. Each pod of the cluster is looked at, so this is for a question that someone
//! asks, not for the rules.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use podwire_kernel::IpFamily;
use serde::{Deserialize, Serialize};

use crate::features::policies::desired::explain::some_of;
use crate::features::policies::desired::owners::{address, counts};
use crate::features::policies::desired::truth::{Traffic, Truth, isolating, selecting};
use crate::snapshot::{
    self, Direction, ObjectName, Pod, PolicyRule, PortMatch, Protocol, Snapshot, Tier,
};

/// Who may reach a pod, and whom it may reach.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reach {
    /// The pod: `namespace/name`.
    pub pod: String,
    /// The other pods with which something is allowed, sorted by name.
    pub peers: Vec<Peer>,
}

/// Another pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// `namespace/name`.
    pub pod: String,
    /// What it may open to the pod that was asked about, in words such as `tcp 80`; none if nothing.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub from: Option<String>,
    /// What may be opened to it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub to: Option<String>,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    /// It is not known, or has no network of its own.
    #[error("no such pod with a network of its own is known here")]
    Unknown,
    /// The rules and the pods are too many. Nothing else happens on the node meanwhile, so there is a
    /// limit.
    #[error(
        "rules with too many ports or addresses are about this pod to be read for every pod of the \
         cluster; podwire-agent why says what they allow one pod"
    )]
    TooMuch,
}

/// How many looks at a port of a rule an answer may take: a fraction of a second.
const EFFORT: usize = 20_000_000;

/// Who may reach the pod of this name, and whom it may reach.
pub fn reach(snapshot: &Snapshot, name: &str) -> Result<Reach, NoAnswer> {
    reach_within(EFFORT, snapshot, name)
}

fn reach_within(mut effort: usize, snapshot: &Snapshot, name: &str) -> Result<Reach, NoAnswer> {
    let (namespace, short) = name.split_once('/').ok_or(NoAnswer::Unknown)?;
    let name = ObjectName {
        namespace: namespace.into(),
        name: short.into(),
    };
    let pod = snapshot.pods.get(&name).filter(|pod| counts(pod));
    let pod = pod.ok_or(NoAnswer::Unknown)?;
    let truth = Truth::of(snapshot);
    let [ingress, egress] = Direction::ALL.map(|direction| Side::of(snapshot, pod, direction));
    let others = snapshot.pods.values();
    let others = others.filter(|other| other.name != name && counts(other));
    // Of pods that are alike the policies say the same, unless they speak of addresses.
    let mut known = BTreeMap::new();
    let mut peers = Vec::new();
    for other in others {
        let Some((here, there)) = addresses(pod, other) else {
            continue;
        };
        let alike = (
            &other.name.namespace,
            &other.labels,
            &other.ports,
            here.is_ipv4(),
        );
        let (from, to) = match known.get(&alike) {
            Some(said) => Clone::clone(said),
            None => {
                let [their_ingress, their_egress] =
                    Direction::ALL.map(|direction| Side::of(snapshot, other, direction));
                let looks = looks(&their_egress, &ingress) + looks(&egress, &their_ingress);
                effort = effort.checked_sub(looks).ok_or(NoAnswer::TooMuch)?;
                let said = (
                    allowed(&truth, (there, &their_egress), (here, &ingress)),
                    allowed(&truth, (here, &egress), (there, &their_ingress)),
                );
                let mut sides = [&ingress, &egress, &their_ingress, &their_egress].into_iter();
                if !sides.any(Side::speaks_of_addresses) {
                    known.insert(alike, said.clone());
                }
                said
            }
        };
        let peer = Peer {
            pod: other.name.to_string(),
            from,
            to,
        };
        peers.extend((peer.from.is_some() || peer.to.is_some()).then_some(peer));
    }
    Ok(Reach {
        pod: name.to_string(),
        peers,
    })
}

/// Addresses of two pods by which they would speak with each other.
fn addresses(one: &Pod, other: &Pod) -> Option<(IpAddr, IpAddr)> {
    let mut families = IpFamily::ALL.into_iter();
    families.find_map(|family| address(one, family).zip(address(other, family)))
}

/// What is said of a pod in one direction.
struct Side<'a> {
    pod: &'a Pod,
    /// False if no policy says anything.
    judged: bool,
    rules: Vec<&'a PolicyRule>,
}

impl<'a> Side<'a> {
    fn of(snapshot: &'a Snapshot, pod: &'a Pod, direction: Direction) -> Self {
        let tiers = [Tier::Admin, Tier::Baseline].into_iter();
        let tiers = tiers.flat_map(|tier| selecting(snapshot, pod, tier));
        let tiers = tiers.flat_map(|policy| policy.rules(direction));
        let mut rules: Vec<_> = tiers.map(|rule| &rule.traffic).collect();
        let mut judged = !rules.is_empty();
        for policy in isolating(snapshot, pod, direction) {
            judged = true;
            rules.extend(policy.rules(direction).unwrap_or_default());
        }
        Self { pod, judged, rules }
    }

    fn speaks_of_addresses(&self) -> bool {
        use snapshot::Peer::{Block, Nodes};
        let mut peers = self
            .rules
            .iter()
            .flat_map(|rule| rule.peers.iter().flatten());
        peers.any(|peer| matches!(peer, Block(_) | Nodes(_)))
    }
}

/// How many looks [`allowed`] takes at most: at each port where something may change, at all rules and
/// their ports.
fn looks(from: &Side<'_>, to: &Side<'_>) -> usize {
    let rules = from.rules.iter().chain(&to.rules);
    let sizes = rules.map(|rule| {
        let ports = rule.ports.as_deref().unwrap_or_default().len();
        (
            ports,
            1 + ports + rule.peers.as_deref().unwrap_or_default().len(),
        )
    });
    let (ports, all) = sizes.fold((0, 0), |sum: (usize, usize), one| {
        (sum.0 + one.0, sum.1 + one.1)
    });
    (2 * ports + 4).saturating_mul(all + 1)
}

/// What one pod may open to another, in words; none if nothing.
fn allowed(
    truth: &Truth<'_>,
    from: (IpAddr, &Side<'_>),
    to: (IpAddr, &Side<'_>),
) -> Option<String> {
    const ALL: &str = "everything";
    let ((source, ours), (destination, theirs)) = (from, to);
    if !ours.judged && !theirs.judged {
        return Some(ALL.into());
    }
    let allows = |traffic| truth.allowed(source, destination, traffic);
    let mut words = Vec::new();
    let mut all = allows(Traffic::Portless);
    if all {
        words.push("ping".to_owned());
    }
    for protocol in Protocol::ALL {
        let rules = ours.rules.iter().chain(&theirs.rules);
        let starts = starts(rules.copied(), protocol, theirs.pod);
        let open = |port: &u16| allows(Traffic::Port(protocol, *port));
        let spans = spans(&starts, open);
        all &= spans == [(0, u16::MAX)];
        words.extend(spans.into_iter().map(|span| match span {
            (0, u16::MAX) => protocol.name().to_owned(),
            (first, last) if first == last => format!("{} {first}", protocol.name()),
            (first, last) => format!("{} {first}-{last}", protocol.name()),
        }));
    }
    match (all, words.is_empty()) {
        (true, _) => Some(ALL.into()),
        (false, true) => None,
        (false, false) => Some(some_of(words.into_iter(), ", ")),
    }
}

/// The ports of a protocol at which something may change; a port by its name is one of `destination`.
fn starts<'a>(
    rules: impl Iterator<Item = &'a PolicyRule>,
    protocol: Protocol,
    destination: &Pod,
) -> BTreeSet<u16> {
    let ports = rules.flat_map(|rule| rule.ports.iter().flatten());
    let ports = ports.filter(|port| port.protocol == protocol);
    let spans = ports.filter_map(|port| match &port.ports {
        PortMatch::All => None,
        PortMatch::Numbers { first, last } => Some((*first, *last)),
        PortMatch::Named(name) => destination.port(name, protocol).map(|one| (one, one)),
    });
    let starts = spans.flat_map(|(first, last)| [Some(first), last.checked_add(1)]);
    starts.flatten().chain([0]).collect()
}

/// Where it is open, from one start to before the next.
fn spans(starts: &BTreeSet<u16>, open: impl Fn(&u16) -> bool) -> Vec<(u16, u16)> {
    let ends = starts.iter().skip(1).map(|next| next - 1).chain([u16::MAX]);
    let mut spans: Vec<(u16, u16)> = Vec::new();
    for (first, last) in starts.iter().zip(ends).filter(|(first, _)| open(first)) {
        match spans.last_mut() {
            Some((_, end)) if end.checked_add(1) == Some(*first) => *end = last,
            _ => spans.push((*first, last)),
        }
    }
    spans
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::features::policies::desired::samples::{
        Cluster, addresses, cluster_policy, namespace, pod, policy,
    };

    fn shop() -> Vec<serde_json::Value> {
        vec![
            namespace("shop", ""),
            namespace("ops", "team=a"),
            pod("shop/db", "worker", 2, "role=db"),
            pod("shop/web", "worker2", 2, "role=web"),
            pod("ops/probe", "worker2", 3, "role=api"),
        ]
    }

    fn of_db(cluster: &Cluster) -> Vec<(String, Option<String>, Option<String>)> {
        let found = reach(&cluster.snapshot, "shop/db").unwrap();
        assert_eq!(found.pod, "shop/db");
        let peers = found.peers.into_iter();
        peers.map(|peer| (peer.pod, peer.from, peer.to)).collect()
    }

    fn line(pod: &str, from: &str, to: &str) -> (String, Option<String>, Option<String>) {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        (pod.to_owned(), some(from), some(to))
    }

    #[test]
    fn without_policies_everyone_reaches_everyone_but_no_pod_that_is_not_there() {
        let cluster = Cluster::of(&shop());
        let all = "everything";
        assert_eq!(
            of_db(&cluster),
            [line("ops/probe", all, all), line("shop/web", all, all)]
        );
        for unknown in ["shop/gone", "db"] {
            assert_eq!(reach(&cluster.snapshot, unknown), Err(NoAnswer::Unknown));
        }
    }

    #[test]
    fn rules_of_both_ends_and_both_directions_are_read_together() {
        let role = |value| json!({"matchLabels": {"role": value}});
        let mut objects = shop();
        objects.push(policy(
            "shop/db",
            &json!({"podSelector": role("db"), "policyTypes": ["Ingress", "Egress"],
                "ingress": [{"from": [{"podSelector": role("web")}],
                    "ports": [{"port": "http"}, {"port": 5432, "endPort": 5440}, {"port": 81}]}],
                "egress": [{"to": [{"namespaceSelector": {}}], "ports": [{"protocol": "UDP"}]}]}),
        ));
        objects.push(policy(
            "shop/web",
            &json!({"podSelector": role("web"), "policyTypes": ["Egress"],
                "egress": [{"ports": [{"port": 80}, {"port": 5438, "endPort": 6000}]}]}),
        ));
        let cluster = Cluster::of(&objects);
        assert_eq!(
            of_db(&cluster),
            [
                line("ops/probe", "", "udp"),
                line("shop/web", "tcp 80, tcp 5438-5440", "udp")
            ]
        );
    }

    #[test]
    fn pods_that_are_alike_differ_where_a_rule_speaks_of_addresses() {
        let mut objects = shop();
        objects.push(pod("shop/web2", "worker2", 9, "role=web"));
        let all = |cluster: &Cluster| -> Vec<_> {
            let lines = of_db(cluster).into_iter();
            lines.map(|(pod, from, _)| (pod, from.is_some())).collect()
        };
        let seen = |web, web2| {
            [("ops/probe", true), ("shop/web", web), ("shop/web2", web2)]
                .map(|(pod, open)| (pod.to_owned(), open))
        };
        assert_eq!(all(&Cluster::of(&objects)), seen(true, true));
        let [address, _] = addresses("worker2", 9);
        objects.push(policy(
            "shop/db",
            &json!({"podSelector": {"matchLabels": {"role": "db"}}, "ingress": [{"from": [
                {"ipBlock": {"cidr": "10.10.2.0/24", "except": [format!("{address}/32")]}}]}]}),
        ));
        assert_eq!(all(&Cluster::of(&objects)), seen(true, false));
    }

    #[test]
    fn what_would_take_too_long_is_not_begun() {
        let mut objects = shop();
        let ports: Vec<_> = (1..=900).map(|n| json!({"port": 2 * n})).collect();
        objects.push(policy(
            "shop/db",
            &json!({"podSelector": {"matchLabels": {"role": "db"}}, "ingress": [{"ports": ports,
                "from": [{"ipBlock": {"cidr": "10.10.0.0/16"}}]}]}),
        ));
        for last in 0..20 {
            objects.push(pod(
                &format!("ops/probe{last}"),
                "worker2",
                20 + last,
                "role=api",
            ));
        }
        let snapshot = Cluster::of(&objects).snapshot;
        assert_eq!(reach(&snapshot, "shop/db"), Err(NoAnswer::TooMuch));
        // Of one pair alone it is worked out.
        assert!(reach(&snapshot, "shop/web").is_ok());
    }

    #[test]
    fn what_a_cluster_denies_is_a_hole_and_every_port_is_as_truth_says() {
        let mut objects = shop();
        objects.push(cluster_policy(
            "no-telnet",
            &json!({"ingress": [{"action": "Deny", "from": [{"namespaces": {}}],
                "protocols": [{"tcp": {"destinationPort": {"number": 23}}}]}]}),
        ));
        let cluster = Cluster::of(&objects);
        let peers = of_db(&cluster);
        let holed = "ping, tcp 0-22, tcp 24-65535, udp and 1 more";
        assert_eq!(peers[1], line("shop/web", holed, holed));
        let [db, web] = [("worker", 2), ("worker2", 2)].map(|(node, n)| addresses(node, n)[0]);
        for (port, open) in [(0, true), (22, true), (23, false), (24, true)] {
            let traffic = Traffic::Port(Protocol::Tcp, port);
            assert_eq!(cluster.allows(web, db, traffic), open, "{port}");
        }
    }
}
