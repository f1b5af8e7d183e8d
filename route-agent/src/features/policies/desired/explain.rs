//! Why the policies allow a packet or not, in words.
//!
//! Read from the policies literally, like `truth`, which must always come to the same verdict.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

use crate::features::policies::desired::truth::{Traffic, Truth, is_over, isolating, selecting};
use crate::snapshot::{
    Action, ClusterNetworkPolicy, Direction, Labels, NetworkPolicy, Peer, Pod, PodSet, PolicyPort,
    PolicyRule, PortMatch, Selector, Tier, TierRule,
};
use crate::text;

/// More peers, ports or names than this are not named one by one.
const NAMED: usize = 4;

/// What the policies of one end say of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement<'a> {
    /// The pod whose policies these are.
    pub pod: &'a Pod,
    /// The policies that isolate it in the direction.
    pub isolating: Vec<&'a NetworkPolicy>,
    /// The rule of the Admin tier that leaves it to them, in words.
    pub passed: Option<String>,
    /// What follows.
    pub outcome: Outcome,
}

/// What follows from the policies of one end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// No policy isolates the pod: everything is allowed.
    Open,
    /// A pod speaks with itself, which is always allowed.
    Itself,
    /// A rule of a ClusterNetworkPolicy accepts it, in words.
    Accepted(String),
    /// A rule of a ClusterNetworkPolicy denies it, in words.
    Refused(String),
    /// A rule allows it, in words.
    Allowed(String),
    /// No rule allows it. With the nearest one and what it lacks, if there is any rule.
    Denied(Option<String>),
}

impl Judgement<'_> {
    /// True unless it is dropped.
    pub fn passes(&self) -> bool {
        !matches!(self.outcome, Outcome::Denied(_) | Outcome::Refused(_))
    }

    /// The policies that isolate the pod, by their names.
    pub fn isolated_by(&self) -> String {
        let names = self.isolating.iter().map(|policy| policy.name.to_string());
        some_of(names, ", ")
    }
}

/// What the policies of `local` say of a packet that it exchanges with `peer`; none if `local` is not
/// a pod that is known.
pub fn judge<'a>(
    truth: &Truth<'a>,
    direction: Direction,
    local: IpAddr,
    peer: IpAddr,
    traffic: Traffic,
) -> Option<Judgement<'a>> {
    let pod = truth.pod(local)?;
    let isolating: Vec<_> = isolating(truth.snapshot(), pod, direction).collect();
    let packet = Packet {
        truth,
        direction,
        local: pod,
        peer,
        traffic,
    };
    let mut passed = None;
    let outcome = if local == peer && isolating.is_empty() {
        Outcome::Open
    } else if local == peer {
        Outcome::Itself
    } else {
        let admin = packet.decided_by(Tier::Admin).unwrap_or_else(|words| {
            passed = words;
            None
        });
        let network = || (!isolating.is_empty()).then(|| packet.outcome(&isolating));
        let baseline = || packet.decided_by(Tier::Baseline).ok().flatten();
        let decided = admin.or_else(network).or_else(baseline);
        decided.unwrap_or(Outcome::Open)
    };
    Some(Judgement {
        pod,
        isolating,
        passed,
        outcome,
    })
}

struct Packet<'a, 'b> {
    truth: &'b Truth<'a>,
    direction: Direction,
    local: &'a Pod,
    peer: IpAddr,
    traffic: Traffic,
}

/// How near a rule comes to a packet.
struct Near {
    /// What it lacks, if anything.
    lacks: Vec<String>,
    /// More is nearer. A part that fits because it says nothing counts less than one that names it.
    score: u8,
}

impl Packet<'_, '_> {
    /// What the first rule of a tier decides that matches; if that leaves the tier, its words.
    fn decided_by(&self, tier: Tier) -> Result<Option<Outcome>, Option<String>> {
        let policies = selecting(self.truth.snapshot(), self.local, tier).into_iter();
        let mut rules = policies.flat_map(|policy| {
            let rules = policy.rules(self.direction).iter();
            rules.map(move |rule| (policy, rule))
        });
        let fits = |rule: &TierRule| {
            let near = self.near("", &rule.traffic);
            near.is_some_and(|near| near.lacks.is_empty())
        };
        let first = rules.find_map(|(policy, rule)| {
            let met = fits(rule).then_some(Cow::Borrowed(rule));
            let met = met.or_else(|| {
                let doubt = self.truth.doubt(rule, self.peer).filter(fits);
                doubt.map(Cow::Owned)
            });
            met.map(|rule| (policy, rule))
        });
        let Some((policy, rule)) = first else {
            return Ok(None);
        };
        let words = self.tier_words(policy, &rule);
        match rule.action {
            Action::Accept => Ok(Some(Outcome::Accepted(words))),
            Action::Deny => Ok(Some(Outcome::Refused(words))),
            Action::Pass => Err(Some(words)),
        }
    }

    /// A rule of a ClusterNetworkPolicy in words.
    fn tier_words(&self, policy: &ClusterNetworkPolicy, rule: &TierRule) -> String {
        let ClusterNetworkPolicy {
            name,
            tier,
            priority,
            ..
        } = policy;
        let called = rule.name.as_ref();
        let called = called.map_or(String::new(), |name| format!(", rule {name},"));
        format!(
            "ClusterNetworkPolicy {name} ({} tier, priority {priority}){called} {} {}",
            tier.name(),
            rule.action.verb(),
            traffic_words(self.direction, &rule.traffic)
        )
    }

    fn outcome(&self, isolating: &[&NetworkPolicy]) -> Outcome {
        let mut nearest: Option<(Near, &NetworkPolicy, &PolicyRule)> = None;
        for policy in isolating {
            for rule in policy.rules(self.direction).unwrap_or_default() {
                let Some(near) = self.near(&policy.name.namespace, rule) else {
                    continue;
                };
                if near.lacks.is_empty() {
                    return Outcome::Allowed(self.words(policy, rule));
                }
                if nearest
                    .as_ref()
                    .is_none_or(|(best, ..)| near.score > best.score)
                {
                    nearest = Some((near, policy, rule));
                }
            }
        }
        Outcome::Denied(nearest.map(|(near, policy, rule)| {
            let lacks = near.lacks.join(", and ");
            format!("{}; {lacks}", self.words(policy, rule))
        }))
    }

    /// How near the nearest part of a rule comes; none if a list of it is empty because nothing in
    /// it could be read.
    fn near(&self, own: &str, rule: &PolicyRule) -> Option<Near> {
        let Some(peers) = &rule.peers else {
            return self.with_ports(
                rule,
                None,
                Near {
                    lacks: Vec::new(),
                    score: 2,
                },
            );
        };
        let mut best: Option<Near> = None;
        for peer in peers {
            let near = self.with_ports(rule, Some(peer), self.near_peer(own, peer))?;
            // Of one rule no part may hide another that fits.
            let better = |best: &Near| {
                (near.lacks.is_empty(), near.score) > (best.lacks.is_empty(), best.score)
            };
            if best.as_ref().is_none_or(better) {
                best = Some(near);
            }
        }
        best
    }

    fn near_peer(&self, own: &str, peer: &Peer) -> Near {
        if self.truth.is_peer(own, peer, self.peer) {
            return Near {
                lacks: Vec::new(),
                score: 4,
            };
        }
        let (text, score) = self.lacking_peer(own, peer);
        Near {
            lacks: vec![text],
            score,
        }
    }

    /// What keeps the other end from being a peer, and whether it comes near.
    fn lacking_peer(&self, own: &str, peer: &Peer) -> (String, u8) {
        let address = self.peer;
        let (namespaces, pods) = match peer {
            Peer::Block(block) if block.network.contains(address) => {
                return (format!("{address} is one of its exceptions"), 1);
            }
            Peer::Block(block) => return (format!("{address} is not in {}", block.network), 0),
            Peer::Here(pods) => (None, pods),
            Peer::Elsewhere { namespaces, pods }
            | Peer::Anywhere(PodSet {
                namespaces, pods, ..
            }) => (Some(namespaces), pods),
            Peer::Nodes(nodes) => {
                return (
                    format!("{address} is no address of {}", node_words(nodes)),
                    0,
                );
            }
        };
        let Some(pod) = self.truth.pod(address) else {
            return (format!("{address} is not the address of a pod"), 0);
        };
        let there = &pod.name.namespace;
        let namespace = self.truth.snapshot().namespaces.get(there);
        match (namespaces, namespace) {
            (None, _) if **there != *own => (
                format!("the pod is not in namespace {own}, but in {there}"),
                0,
            ),
            (Some(_), None) => (format!("the Namespace {there} is not known"), 0),
            (Some(asked), Some(namespace)) if !asked.selects(&namespace.labels) => {
                let has = lacking(asked, &namespace.labels);
                (format!("its Namespace {there} has {has}"), 0)
            }
            _ => (format!("the pod has {}", lacking(pods, &pod.labels)), 1),
        }
    }

    fn with_ports(&self, rule: &PolicyRule, peer: Option<&Peer>, near: Near) -> Option<Near> {
        let Some(ports) = &rule.ports else {
            return Some(Near {
                score: near.score + 2,
                ..near
            });
        };
        if ports.is_empty() {
            return None;
        }
        let destination = self
            .truth
            .destination(peer, self.direction, self.local, self.peer);
        if ports
            .iter()
            .any(|port| is_over(port, destination, self.traffic))
        {
            return Some(Near {
                score: near.score + 4,
                ..near
            });
        }
        let mut near = near;
        near.lacks.push(self.lacking_port(ports, peer, destination));
        let same = |port: &PolicyPort| matches!(self.traffic, Traffic::Port(protocol, _) if protocol == port.protocol);
        near.score += u8::from(ports.iter().any(same));
        Some(near)
    }

    fn lacking_port(
        &self,
        ports: &[PolicyPort],
        peer: Option<&Peer>,
        destination: Option<&Pod>,
    ) -> String {
        let Traffic::Port(protocol, _) = self.traffic else {
            return "ping and what else has no ports is only allowed by rules without ports".into();
        };
        let named = ports.iter().find_map(|port| match &port.ports {
            PortMatch::Named(name) if port.protocol == protocol => Some(name),
            _ => None,
        });
        let this = format!("this is {}", Words(self.traffic));
        match (named, destination) {
            (None, _) => this,
            (Some(name), None) if matches!(peer, Some(Peer::Block(_))) => {
                format!("{this}, and of an ipBlock no port has a name, not {name} either")
            }
            (Some(name), None) => format!("{this}, and {} has no port {name}", self.peer),
            (Some(name), Some(pod)) => match pod.port(name, protocol) {
                Some(number) => format!("{this}, and {name} is {number} of {}", pod.name),
                None => format!(
                    "{this}, and {} has no {} port {name}",
                    pod.name,
                    protocol.name()
                ),
            },
        }
    }

    /// A rule in words.
    fn words(&self, policy: &NetworkPolicy, rule: &PolicyRule) -> String {
        let traffic = traffic_words(self.direction, rule);
        format!("{} allows {traffic}", policy.name)
    }
}

/// The traffic of a rule in words: `tcp 80 from app=web`.
pub fn traffic_words(direction: Direction, rule: &PolicyRule) -> String {
    let ports = match rule.ports.as_deref() {
        None => "everything".to_owned(),
        // Nothing in the list could be read.
        Some([]) => "nothing".to_owned(),
        Some(ports) => some_of(ports.iter().map(port_words), ", "),
    };
    let (way, anyone) = match direction {
        Direction::Ingress => ("from", "anyone"),
        Direction::Egress => ("to", "anywhere"),
    };
    let peers = match rule.peers.as_deref() {
        None => anyone.to_owned(),
        Some([]) => "no one".to_owned(),
        Some(peers) => some_of(peers.iter().map(peer_words), " or "),
    };
    format!("{ports} {way} {peers}")
}

/// What labels have where a selector asks for something else.
fn lacking(selector: &Selector, labels: &Labels) -> String {
    let has = selector
        .unmet(labels)
        .map(|one| match labels.get(&one.key) {
            Some(value) => format!("{}={value}", one.key),
            None => format!("no label {}", one.key),
        });
    some_of(has, ", ")
}

fn port_words(port: &PolicyPort) -> String {
    let protocol = port.protocol.name();
    match &port.ports {
        PortMatch::All => protocol.to_owned(),
        PortMatch::Numbers { first, last } if first == last => format!("{protocol} {first}"),
        PortMatch::Numbers { first, last } => format!("{protocol} {first}-{last}"),
        PortMatch::Named(name) => format!("{protocol} {name}"),
    }
}

fn peer_words(peer: &Peer) -> String {
    let all = |selector: &Selector| match selector.is_empty() {
        true => "all pods".to_owned(),
        false => selector.to_string(),
    };
    match peer {
        Peer::Here(pods) => all(pods),
        Peer::Elsewhere { namespaces, pods } if namespaces.is_empty() => {
            format!("{} of all namespaces", all(pods))
        }
        Peer::Elsewhere { namespaces, pods } => {
            format!("{} of namespaces {namespaces}", all(pods))
        }
        Peer::Anywhere(pods) => pods.to_string(),
        Peer::Nodes(nodes) => node_words(nodes),
        Peer::Block(block) => block.to_string(),
    }
}

fn node_words(nodes: &Selector) -> String {
    match nodes.is_empty() {
        true => "any node".to_owned(),
        false => format!("nodes {nodes}"),
    }
}

/// The first few, and how many more there are.
pub(super) fn some_of(texts: impl Iterator<Item = String>, between: &str) -> String {
    text::some_of(texts, NAMED, between)
}

/// Traffic in words: `tcp 80`.
#[derive(Debug, Clone, Copy)]
pub struct Words(pub Traffic);

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Traffic::Port(protocol, port) => write!(f, "{} {port}", protocol.name()),
            Traffic::Portless => f.write_str("without ports"),
        }
    }
}
