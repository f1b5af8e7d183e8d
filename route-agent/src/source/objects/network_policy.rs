//! NetworkPolicies.
//!
//! A field that is not known, or not understood, may be what narrows a rule: a rule, peer or port
//! that has one allows nothing, and is named. So the spec is not read by field names alone, as other
//! objects are, but whole.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::cidr::contains;
use crate::snapshot::{
    self, Block, Direction, Peer, PolicyPort, PolicyRule, PortMatch, Protocol, Selector,
};
use crate::source::objects::scalar::whole;
use crate::source::objects::strict::{LONGEST, Selectors, present, shown, unknown};
use crate::source::objects::{Checker, Metadata, Names, Unnamed, lenient, policy_ports};

/// A NetworkPolicy.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct NetworkPolicy {
    /// Its name.
    #[serde(deserialize_with = "Metadata::of_name")]
    pub metadata: Metadata,
    /// Whom it selects and what it allows.
    pub spec: Value,
}

const UNKNOWN: &str = "has a field that is not known, so it allows nothing";
const NO_MAP: &str = "is not a map, so it allows nothing";
const NO_LIST: &str = "is not a list, so it allows nothing";
const NO_SELECTOR: &str = "is not a label selector, so it allows nothing";
const MANY_PORTS: &str = "has ports that cost more than 1000, where a range of more than 16 costs 17 and \
                          any other port 1, so it allows nothing";
const MANY_MORE_PORTS: &str = "has ports that, with those of the rules before it, cost more than 10000, so \
                               it allows nothing";

impl NetworkPolicy {
    /// The snapshot's value of this policy.
    pub fn into_snapshot(self, names: &mut Names) -> Result<snapshot::NetworkPolicy, Unnamed> {
        let name = self.metadata.object_name(names)?;
        let mut reader = Reader {
            names,
            selectors: Selectors::default(),
            checker: Checker::default(),
        };
        let (subject, ingress, egress) = reader.spec(&self.spec);
        Ok(snapshot::NetworkPolicy {
            name,
            subject,
            ingress,
            egress,
            invalid: reader.checker.invalid.into(),
        })
    }
}

/// Why no port of a pod can have this name, if that is so: the API server takes only those of
/// RFC 6335 (`IsValidPortName` in k8s.io/apimachinery/pkg/util/validation).
fn no_port_name(name: &str) -> Option<&'static str> {
    let is_letter = |byte: u8| byte.is_ascii_lowercase();
    let is_known = |byte: u8| is_letter(byte) || byte.is_ascii_digit() || byte == b'-';
    let is_name = (1..=15).contains(&name.len())
        && name.bytes().all(is_known)
        && name.bytes().any(is_letter)
        && !(name.starts_with('-') || name.ends_with('-') || name.contains("--"));
    match name.parse::<u64>() {
        _ if is_name => None,
        Ok(_) => Some(
            "has a number in quotes, which is the name of no port, so it allows nothing; write it \
             without quotes",
        ),
        Err(_) => Some(
            "has a name that no port can have, so it allows nothing; write one of at most 15 letters \
             a-z, digits and single hyphens between them, with at least one letter, or a number",
        ),
    }
}

fn is_empty(rules: &Value) -> bool {
    rules.as_array().is_some_and(Vec::is_empty)
}

/// The rules of a direction; `None` if it is not isolated.
type Rules = Option<Box<[PolicyRule]>>;

struct Reader<'a> {
    names: &'a mut Names,
    selectors: Selectors,
    checker: Checker,
}

impl Reader<'_> {
    fn spec(&mut self, spec: &Value) -> (Selector, Rules, Rules) {
        const KNOWN: [&str; 4] = ["podSelector", "policyTypes", "ingress", "egress"];
        let closed = || {
            (
                Selector::default(),
                Some(Box::default()),
                Some(Box::default()),
            )
        };
        let empty = Map::new();
        let spec = match spec {
            Value::Object(spec) => spec,
            Value::Null => &empty,
            other => {
                self.bad(
                    "spec",
                    other,
                    "is not a map: all pods of the namespace are closed",
                );
                return closed();
            }
        };
        if let Some(field) = unknown(spec, &KNOWN) {
            let reason = "is a field that is not known: the pods of the namespace are closed, as \
                          it may say who is meant";
            self.checker.bad("spec", field, reason);
            return closed();
        }
        let (ingress, egress) = self.types(spec);
        let subject = match present(spec, "podSelector") {
            None => Selector::default(),
            Some(given) => match self.selectors.read(self.names, given) {
                Some(selector) => selector,
                None => {
                    let reason = "is not a label selector: all pods of the namespace are closed";
                    self.bad("spec.podSelector", given, reason);
                    let nothing = |isolated: bool| isolated.then(Box::default);
                    return (Selector::default(), nothing(ingress), nothing(egress));
                }
            },
        };
        let mut rules = |isolated: bool, direction| {
            let (field, words) = match direction {
                Direction::Ingress => ("ingress", "spec.ingress"),
                Direction::Egress => ("egress", "spec.egress"),
            };
            let given = present(spec, field);
            if let Some(rules) = given.filter(|rules| !isolated && !is_empty(rules)) {
                let reason = "is of a direction that policyTypes does not name, so it does nothing";
                self.bad(words, rules, reason);
            }
            isolated.then(|| self.rules(given, direction))
        };
        (
            subject,
            rules(ingress, Direction::Ingress),
            rules(egress, Direction::Egress),
        )
    }

    /// In which directions the policy isolates.
    fn types(&mut self, spec: &Map<String, Value>) -> (bool, bool) {
        let types = match present(spec, "policyTypes") {
            Some(Value::Array(types)) if !types.is_empty() => types,
            None | Some(Value::Array(_)) => {
                let egress = present(spec, "egress");
                return (true, egress.is_some_and(|rules| !is_empty(rules)));
            }
            Some(other) => {
                self.bad(
                    "spec.policyTypes",
                    other,
                    "is not a list: both are isolated",
                );
                return (true, true);
            }
        };
        let (mut ingress, mut egress) = (false, false);
        for one in types {
            match one.as_str() {
                Some("Ingress") => ingress = true,
                Some("Egress") => egress = true,
                _ => {
                    let reason = "is not Ingress or Egress: both are isolated";
                    self.bad("spec.policyTypes", one, reason);
                    (ingress, egress) = (true, true);
                }
            }
        }
        (ingress, egress)
    }

    fn rules(&mut self, rules: Option<&Value>, direction: Direction) -> Box<[PolicyRule]> {
        let (field, peers) = match direction {
            Direction::Ingress => ("spec.ingress", "from"),
            Direction::Egress => ("spec.egress", "to"),
        };
        let rules = self.list(field, rules).unwrap_or_default();
        let mut room = policy_ports::OF_POLICY;
        let rules = rules.iter().filter_map(|rule| {
            // An empty rule may be written as nothing at all.
            let empty = Map::new();
            let fields = match rule {
                Value::Null => &empty,
                rule => self.map(field, rule, &[peers, "ports"])?,
            };
            let ports = self.ports(present(fields, "ports"), direction);
            let cost = policy_ports::cost(ports.as_deref().unwrap_or_default());
            if cost > policy_ports::OF_RULE {
                self.bad(field, rule, MANY_PORTS);
                return None;
            }
            let Some(left) = room.checked_sub(cost) else {
                self.bad(field, rule, MANY_MORE_PORTS);
                return None;
            };
            room = left;
            let peers = self.peers(present(fields, peers), direction);
            Some(PolicyRule { peers, ports })
        });
        rules.collect()
    }

    /// `None` for anyone.
    fn peers(&mut self, peers: Option<&Value>, direction: Direction) -> Option<Box<[Peer]>> {
        let field = match direction {
            Direction::Ingress => "spec.ingress.from",
            Direction::Egress => "spec.egress.to",
        };
        let Some(peers) = self.list(field, peers) else {
            return Some(Box::default());
        };
        if peers.is_empty() {
            return None;
        }
        let peers = peers.iter().filter_map(|peer| self.peer(field, peer));
        Some(peers.collect())
    }

    fn peer(&mut self, field: &'static str, peer: &Value) -> Option<Peer> {
        let known = ["podSelector", "namespaceSelector", "ipBlock"];
        let fields = self.map(field, peer, &known)?;
        let [pods, namespaces, block] = known.map(|name| present(fields, name));
        let mut selector = |given: &Value| {
            let read = self.selectors.read(self.names, given);
            if read.is_none() {
                self.bad(field, given, NO_SELECTOR);
            }
            read
        };
        match (pods, namespaces, block) {
            (Some(pods), None, None) => Some(Peer::Here(selector(pods)?)),
            (pods, Some(namespaces), None) => Some(Peer::Elsewhere {
                namespaces: selector(namespaces)?,
                pods: match pods {
                    Some(pods) => selector(pods)?,
                    None => Selector::default(),
                },
            }),
            (None, None, Some(block)) => self.block(field, block).map(Peer::Block),
            _ => {
                let reason = "is not a selector of pods or namespaces, or else an ipBlock, so it \
                              allows nothing";
                self.bad(field, peer, reason);
                None
            }
        }
    }

    fn block(&mut self, field: &'static str, block: &Value) -> Option<Block> {
        let fields = self.map(field, block, &["cidr", "except"])?;
        let network = self.network(field, present(fields, "cidr").unwrap_or(&Value::Null))?;
        let mut except = Vec::new();
        for hole in self.list(field, present(fields, "except"))? {
            let read = self.network(field, hole)?;
            if contains(read, network) {
                let reason = "has an `except` that takes all of its `cidr`, so it allows nothing";
                self.bad(field, block, reason);
                return None;
            }
            match contains(network, read) {
                true => except.push(read),
                false => self.bad(
                    field,
                    hole,
                    "is outside of its `cidr`, so it excepts nothing",
                ),
            }
        }
        except.sort_unstable();
        except.dedup();
        Some(Block {
            network,
            except: except.into(),
        })
    }

    fn network(&mut self, field: &'static str, value: &Value) -> Option<ipnetwork::IpNetwork> {
        let text = value.as_str().filter(|text| text.len() <= LONGEST);
        let Some(read) = text.and_then(|text| lenient::network(text.trim())) else {
            self.bad(field, value, "is not a CIDR, so it allows nothing");
            return None;
        };
        let blanks = value.as_str().filter(|text| text.trim() != *text);
        let blanks = blanks.map(|_| "has blanks around it, which an API server would not take");
        if let Some(reason) = read.reason.or(blanks) {
            self.checker.taken(field, shown(value), reason, read.value);
        }
        Some(read.value)
    }

    /// `None` for everything.
    fn ports(&mut self, ports: Option<&Value>, direction: Direction) -> Option<Box<[PolicyPort]>> {
        let field = match direction {
            Direction::Ingress => "spec.ingress.ports",
            Direction::Egress => "spec.egress.ports",
        };
        let Some(ports) = self.list(field, ports) else {
            return Some(Box::default());
        };
        if ports.is_empty() {
            return None;
        }
        let ports = ports.iter().filter_map(|port| self.port(field, port));
        Some(policy_ports::gathered(ports.collect()))
    }

    fn port(&mut self, field: &'static str, port: &Value) -> Option<PolicyPort> {
        let fields = self.map(field, port, &["protocol", "port", "endPort"])?;
        let given = ["port", "endPort"].map(|name| present(fields, name));
        let mut texts = given.into_iter().flatten().filter_map(Value::as_str);
        if let Some(reason) = texts.find_map(no_port_name) {
            self.bad(field, port, reason);
            return None;
        }
        let protocol = match present(fields, "protocol").map(Value::as_str) {
            None | Some(Some("TCP")) => Some(Protocol::Tcp),
            Some(Some("UDP")) => Some(Protocol::Udp),
            Some(Some("SCTP")) => Some(Protocol::Sctp),
            Some(_) => None,
        };
        let number = |value: &Value| {
            let number = value.as_i64().or_else(|| whole(value.as_f64()?))?;
            let number = u16::try_from(number).ok();
            number.filter(|number| *number > 0)
        };
        let ports = match given.into() {
            (None, None) => Some(PortMatch::All),
            (Some(Value::String(name)), None) => Some(PortMatch::Named(self.names.get(name))),
            (Some(first), last) => number(first)
                .zip(number(last.unwrap_or(first)))
                .filter(|(first, last)| first <= last)
                .map(|(first, last)| PortMatch::Numbers { first, last }),
            (None, Some(_)) => None,
        };
        match (protocol, ports) {
            (Some(protocol), Some(ports)) => Some(PolicyPort { protocol, ports }),
            _ => {
                let reason = match present(fields, "endPort") {
                    None => "is not a port of TCP, UDP or SCTP, so it allows nothing",
                    Some(_) => {
                        "is not a range of ports of TCP, UDP or SCTP, from `port` up to `endPort`, \
                         so it allows nothing"
                    }
                };
                self.bad(field, port, reason);
                None
            }
        }
    }

    /// The items of a list, none if it is absent; `None` if it is not a list.
    fn list<'v>(&mut self, field: &'static str, list: Option<&'v Value>) -> Option<&'v [Value]> {
        match list {
            None => Some(&[]),
            Some(Value::Array(items)) => Some(items),
            Some(other) => {
                self.bad(field, other, NO_LIST);
                None
            }
        }
    }

    /// The fields of a map that has none but those that are known.
    fn map<'v>(
        &mut self,
        field: &'static str,
        value: &'v Value,
        known: &[&str],
    ) -> Option<&'v Map<String, Value>> {
        let Some(fields) = value.as_object() else {
            self.bad(field, value, NO_MAP);
            return None;
        };
        if unknown(fields, known).is_some() {
            self.bad(field, value, UNKNOWN);
            return None;
        }
        Some(fields)
    }

    fn bad(&mut self, field: &'static str, value: &Value, reason: &'static str) {
        self.checker.bad(field, shown(value), reason);
    }
}
