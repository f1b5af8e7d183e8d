//! ClusterNetworkPolicies (policy.networking.k8s.io): v1beta1, and v1alpha2 whose schema is the same.
//!
//! What is not understood closes, as the API asks: a rule that accepts then matches nothing, one that
//! denies or passes denies everything. A policy of which it is not understood whom it selects, or
//! where it stands, comes first of all, and only takes away.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::snapshot::{
    self, Action, Block, Direction, Peer, PodSet, PolicyPort, PolicyRule, PortMatch, Protocol,
    Selector, Tier, TierRule,
};
use crate::source::objects::strict::{LONGEST, Selectors, present, shown, unknown};
use crate::source::objects::{Checker, Metadata, Names, Unnamed, lenient, policy_ports};

/// A ClusterNetworkPolicy.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ClusterNetworkPolicy {
    /// Its name.
    #[serde(deserialize_with = "Metadata::of_name")]
    pub metadata: Metadata,
    /// Whom it selects and what it does.
    pub spec: Value,
}

impl ClusterNetworkPolicy {
    /// The snapshot's value of this policy.
    pub fn into_snapshot(
        self,
        names: &mut Names,
    ) -> Result<snapshot::ClusterNetworkPolicy, Unnamed> {
        let name = self.metadata.cluster_name(names)?;
        let mut reader = Reader {
            names,
            selectors: Selectors::default(),
            checker: Checker::default(),
            only_takes_away: false,
        };
        let policy = reader.policy(name, &self.spec);
        Ok(snapshot::ClusterNetworkPolicy {
            invalid: reader.checker.invalid.into(),
            ..policy
        })
    }
}

/// What of a rule is not understood.
struct Fault<'v> {
    field: &'static str,
    value: &'v Value,
    reason: &'static str,
}

/// The words of one direction.
struct Words {
    rules: &'static str,
    peers: &'static str,
    field: &'static str,
    peers_field: &'static str,
    protocols_field: &'static str,
}

impl Words {
    const fn of(direction: Direction) -> Self {
        match direction {
            Direction::Ingress => Self {
                rules: "ingress",
                peers: "from",
                field: "spec.ingress",
                peers_field: "spec.ingress.from",
                protocols_field: "spec.ingress.protocols",
            },
            Direction::Egress => Self {
                rules: "egress",
                peers: "to",
                field: "spec.egress",
                peers_field: "spec.egress.to",
                protocols_field: "spec.egress.protocols",
            },
        }
    }
}

struct Reader<'a> {
    names: &'a mut Names,
    selectors: Selectors,
    checker: Checker,
    /// True if rules that accept do not count, and those that pass deny.
    only_takes_away: bool,
}

impl Reader<'_> {
    fn policy(&mut self, name: Arc<str>, spec: &Value) -> snapshot::ClusterNetworkPolicy {
        let mut policy = snapshot::ClusterNetworkPolicy {
            name,
            tier: Tier::Admin,
            in_doubt: true,
            priority: 0,
            subject: PodSet::default(),
            ingress: [denies_everything()].into(),
            egress: [denies_everything()].into(),
            invalid: Vec::new().into(),
        };
        let Some(fields) = spec.as_object() else {
            let taken = "one that denies everything to all pods";
            self.taken("spec", spec, "is not a map", taken);
            return policy;
        };
        const KNOWN: [&str; 5] = ["tier", "priority", "subject", "ingress", "egress"];
        if let Some(field) = unknown(fields, &KNOWN) {
            let field = Value::from(field);
            self.doubt("spec", &field, "is a field that is not known");
        }
        policy.tier = self.tier(fields);
        policy.priority = self.priority(fields);
        if let Some(subject) = self.subject(present(fields, "subject")) {
            policy.subject = subject;
        }
        policy.ingress = self.rules(fields, Direction::Ingress);
        policy.egress = self.rules(fields, Direction::Egress);
        policy.in_doubt = self.only_takes_away;
        if policy.in_doubt {
            (policy.tier, policy.priority) = (Tier::Admin, 0);
        }
        policy
    }

    /// The policy stands first, and only takes away.
    fn doubt(&mut self, field: &'static str, value: &Value, reason: &'static str) {
        let taken = "a reason to let the policy come first and only deny";
        self.taken(field, value, reason, taken);
        self.only_takes_away = true;
    }

    fn tier(&mut self, spec: &Map<String, Value>) -> Tier {
        let tier = present(spec, "tier").unwrap_or(&Value::Null);
        match tier.as_str() {
            Some("Admin") => Tier::Admin,
            Some("Baseline") => Tier::Baseline,
            _ => {
                self.doubt("spec.tier", tier, "is not Admin or Baseline");
                Tier::Admin
            }
        }
    }

    fn priority(&mut self, spec: &Map<String, Value>) -> u16 {
        let priority = present(spec, "priority").unwrap_or(&Value::Null);
        let number = priority.as_u64().filter(|number| *number <= 1000);
        match number.and_then(|number| u16::try_from(number).ok()) {
            Some(number) => number,
            None => {
                self.doubt("spec.priority", priority, "is not between 0 and 1000");
                0
            }
        }
    }

    /// `None`, which is all pods, if it is not understood.
    fn subject(&mut self, subject: Option<&Value>) -> Option<PodSet> {
        let fields = subject.and_then(Value::as_object);
        let read = fields
            .filter(|fields| unknown(fields, &["namespaces", "pods"]).is_none())
            .and_then(|fields| self.pod_set(fields));
        if read.is_none() {
            let subject = subject.unwrap_or(&Value::Null);
            let reason = "is not a selector of namespaces or of pods, so that all pods are meant";
            self.doubt("spec.subject", subject, reason);
        }
        read
    }

    /// Either whole Namespaces, or pods of some.
    fn pod_set(&mut self, fields: &Map<String, Value>) -> Option<PodSet> {
        match (present(fields, "namespaces"), present(fields, "pods")) {
            (Some(namespaces), None) => Some(PodSet {
                namespaces: self.selectors.read(self.names, namespaces)?,
                ..PodSet::default()
            }),
            (None, Some(pods)) => {
                let fields = pods.as_object()?;
                const KNOWN: [&str; 2] = ["namespaceSelector", "podSelector"];
                if unknown(fields, &KNOWN).is_some() {
                    return None;
                }
                let [namespaces, pods] = KNOWN.map(|name| present(fields, name));
                // Without a selector of Namespaces pods of all are meant; theirs has to be there
                // (`NamespacedPod`, apis/v1beta1 of network-policy-api).
                let namespaces = match namespaces {
                    Some(namespaces) => self.selectors.read(self.names, namespaces)?,
                    None => Selector::default(),
                };
                Some(PodSet {
                    namespaces,
                    pods: self.selectors.read(self.names, pods?)?,
                    ..PodSet::default()
                })
            }
            _ => None,
        }
    }

    fn rules(&mut self, spec: &Map<String, Value>, direction: Direction) -> Box<[TierRule]> {
        let words = Words::of(direction);
        match present(spec, words.rules) {
            None => Box::default(),
            Some(Value::Array(rules)) => {
                let rules = rules.iter().filter_map(|rule| self.rule(rule, direction));
                rules.collect()
            }
            Some(other) => {
                self.taken(words.field, other, "is not a list", DENIES);
                [denies_everything()].into()
            }
        }
    }

    /// A rule; `None` for one that accepts and does not count.
    fn rule(&mut self, rule: &Value, direction: Direction) -> Option<TierRule> {
        let words = Words::of(direction);
        let name = rule.get("name").and_then(Value::as_str);
        let name = name.filter(|name| !name.is_empty() && name.len() <= LONGEST);
        let action = match rule.get("action").and_then(Value::as_str) {
            Some("Accept") => Action::Accept,
            Some("Pass") => Action::Pass,
            Some("Deny") => Action::Deny,
            _ => {
                let reason = "has no action that is known";
                self.taken(words.field, rule, reason, DENIES);
                return Some(denies_everything());
            }
        };
        let traffic = match self.traffic(rule, direction) {
            Ok(traffic) => traffic,
            Err(fault) => {
                let taken = match action {
                    Action::Accept => "a rule that accepts nothing",
                    Action::Deny | Action::Pass => DENIES,
                };
                self.taken(fault.field, fault.value, fault.reason, taken);
                return (action != Action::Accept).then(|| TierRule {
                    name: name.map(|name| self.names.get(name)),
                    ..denies_everything()
                });
            }
        };
        let action = match (self.only_takes_away, action) {
            (true, Action::Accept) => return None,
            (true, Action::Pass) => Action::Deny,
            (_, action) => action,
        };
        Some(TierRule {
            name: name.map(|name| self.names.get(name)),
            action,
            traffic,
        })
    }

    fn traffic<'v>(
        &mut self,
        rule: &'v Value,
        direction: Direction,
    ) -> Result<PolicyRule, Fault<'v>> {
        let words = Words::of(direction);
        let fault = |field, value, reason| Fault {
            field,
            value,
            reason,
        };
        let known = ["name", "action", words.peers, "protocols"];
        let fields = rule.as_object();
        let fields = fields.filter(|fields| unknown(fields, &known).is_none());
        let Some(fields) = fields else {
            return Err(fault(words.field, rule, "has a field that is not known"));
        };
        let Some(Value::Array(given)) = present(fields, words.peers).filter(|one| !is_empty(one))
        else {
            let reason = "says with whom in no list that has an item";
            return Err(fault(words.field, rule, reason));
        };
        let mut peers = Vec::new();
        for peer in given {
            let read = self.peer(peer, direction);
            peers.extend(read.map_err(|reason| fault(words.peers_field, peer, reason))?);
        }
        let ports = match present(fields, "protocols") {
            None => None,
            Some(list @ Value::Array(given)) if !given.is_empty() => {
                let read = given.iter().map(|one| {
                    let reason = "is not one protocol with ports that are known";
                    protocol(one).ok_or_else(|| fault(words.protocols_field, one, reason))
                });
                let ports = policy_ports::gathered(read.collect::<Result<_, _>>()?);
                if policy_ports::cost(&ports) > policy_ports::OF_RULE {
                    return Err(fault(words.protocols_field, list, MANY_PORTS));
                }
                Some(ports)
            }
            Some(other) => {
                let reason = "is not a list that has an item";
                return Err(fault(words.protocols_field, other, reason));
            }
        };
        Ok(PolicyRule {
            peers: Some(peers.into()),
            ports,
        })
    }

    /// What a peer means, or why it is not understood.
    fn peer(&mut self, peer: &Value, direction: Direction) -> Result<Vec<Peer>, &'static str> {
        const NO_PEER: &str = "is not one peer of a kind that is known";
        let fields = peer.as_object().ok_or(NO_PEER)?;
        let mut given = fields.iter().filter(|(_, value)| !value.is_null());
        let (Some((kind, value)), None) = (given.next(), given.next()) else {
            return Err(NO_PEER);
        };
        match (kind.as_str(), direction) {
            ("namespaces" | "pods", _) => {
                let pods = self.pod_set(fields).ok_or("is not a selector of pods")?;
                Ok(vec![Peer::Anywhere(pods)])
            }
            ("nodes", Direction::Egress) => {
                let nodes = self
                    .selectors
                    .read(self.names, value)
                    .ok_or("is not a selector of nodes")?;
                Ok(vec![Peer::Nodes(nodes)])
            }
            ("networks", Direction::Egress) => {
                let networks = value.as_array().filter(|all| !all.is_empty());
                let networks = networks.ok_or("is not a list that has an item")?.iter();
                networks
                    .map(|one| self.network(one).ok_or("has something that is no CIDR"))
                    .collect()
            }
            ("domainNames", Direction::Egress) => {
                Err("asks for domain names, which are not supported")
            }
            _ => Err(NO_PEER),
        }
    }

    fn network(&mut self, network: &Value) -> Option<Peer> {
        let text = network.as_str().filter(|text| text.len() <= LONGEST)?;
        let read = lenient::network(text)?;
        if let Some(reason) = read.reason {
            self.checker
                .taken("spec.egress.to.networks", text, reason, read.value);
        }
        Some(Peer::Block(Block {
            network: read.value,
            except: Box::default(),
        }))
    }

    fn taken(
        &mut self,
        field: &'static str,
        value: &Value,
        reason: &'static str,
        taken: &'static str,
    ) {
        self.checker.taken(field, shown(value), reason, taken);
    }
}

const MANY_PORTS: &str = "costs more than 1000, where a range of more than 16 ports costs 17 and any other \
                          port 1";
const DENIES: &str = "a rule that denies everything";

fn denies_everything() -> TierRule {
    TierRule {
        name: None,
        action: Action::Deny,
        traffic: PolicyRule {
            peers: None,
            ports: None,
        },
    }
}

fn is_empty(list: &Value) -> bool {
    list.as_array().is_some_and(Vec::is_empty)
}

/// A protocol and its ports.
fn protocol(value: &Value) -> Option<PolicyPort> {
    let fields = value.as_object()?;
    let mut given = fields.iter().filter(|(_, value)| !value.is_null());
    let (Some((name, match_)), None) = (given.next(), given.next()) else {
        return None;
    };
    let protocol = match name.as_str() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => return None,
    };
    let port = present(only(match_, &["destinationPort"])?, "destinationPort")?;
    let fields = only(port, &["number", "range"])?;
    let (first, last) = match (present(fields, "number"), present(fields, "range")) {
        (Some(one), None) => (one, one),
        (None, Some(range)) => {
            let range = only(range, &["start", "end"])?;
            (present(range, "start")?, present(range, "end")?)
        }
        _ => return None,
    };
    let number = |value: &Value| u16::try_from(value.as_u64()?).ok().filter(|one| *one > 0);
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some(PolicyPort {
        protocol,
        ports: PortMatch::Numbers { first, last },
    })
}

/// The fields of a map that has no others.
fn only<'v>(value: &'v Value, known: &[&str]) -> Option<&'v Map<String, Value>> {
    let fields = value.as_object()?;
    unknown(fields, known).is_none().then_some(fields)
}
