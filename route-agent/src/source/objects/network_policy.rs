//! NetworkPolicies.
//!
//! A field that is not known, or not understood, may be what narrows a rule: a rule, peer or port
//! that has one allows nothing, and is named. So the spec is not read by field names alone, as other
//! objects are, but whole.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::snapshot::{
    self, Block, Condition, Direction, Peer, PolicyPort, PolicyRule, PortMatch, Protocol,
    Requirement, Selector,
};
use crate::source::objects::{Checker, Metadata, Names, Unnamed, lenient};

/// A NetworkPolicy.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct NetworkPolicy {
    /// Its name.
    pub metadata: Metadata,
    /// Whom it selects and what it allows.
    pub spec: Value,
}

/// A longer text is none that Kubernetes could hold here. In bytes.
const LONGEST: usize = 4096;

const UNKNOWN: &str = "has a field that is not known, so it allows nothing";
const NO_MAP: &str = "is not a map, so it allows nothing";
const NO_LIST: &str = "is not a list, so it allows nothing";
const NO_SELECTOR: &str = "is not a label selector, so it allows nothing";

impl NetworkPolicy {
    /// The snapshot's value of this policy.
    pub fn into_snapshot(self, names: &mut Names) -> Result<snapshot::NetworkPolicy, Unnamed> {
        let name = self.metadata.object_name(names)?;
        let mut reader = Reader {
            names,
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

/// The rules of a direction; `None` if it is not isolated.
type Rules = Option<Box<[PolicyRule]>>;

struct Reader<'a> {
    names: &'a mut Names,
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
            Some(selector) => match self.selector(selector) {
                Some(selector) => selector,
                None => {
                    let reason = "is not a label selector: all pods of the namespace are closed";
                    self.bad("spec.podSelector", selector, reason);
                    let nothing = |isolated: bool| isolated.then(Box::default);
                    return (Selector::default(), nothing(ingress), nothing(egress));
                }
            },
        };
        let mut rules = |isolated: bool, direction| {
            let field = match direction {
                Direction::Ingress => "ingress",
                Direction::Egress => "egress",
            };
            isolated.then(|| self.rules(present(spec, field), direction))
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
                let is_empty = |rules: &Value| rules.as_array().is_some_and(Vec::is_empty);
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
        let rules = rules.iter().filter_map(|rule| {
            // An empty rule may be written as nothing at all.
            let empty = Map::new();
            let fields = match rule {
                Value::Null => &empty,
                rule => self.map(field, rule, &[peers, "ports"])?,
            };
            Some(PolicyRule {
                peers: self.peers(present(fields, peers), direction),
                ports: self.ports(present(fields, "ports"), direction),
            })
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
        let mut selector = |selector: &Value| {
            let read = self.selector(selector);
            if read.is_none() {
                self.bad(field, selector, NO_SELECTOR);
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
        let except = self.list(field, present(fields, "except"))?;
        let except: Option<Vec<_>> = except
            .iter()
            .map(|hole| self.network(field, hole))
            .collect();
        let mut except = except?;
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
        if let Some(reason) = read.reason {
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
        Some(ports.collect())
    }

    fn port(&mut self, field: &'static str, port: &Value) -> Option<PolicyPort> {
        let fields = self.map(field, port, &["protocol", "port", "endPort"])?;
        let protocol = match present(fields, "protocol").map(Value::as_str) {
            None | Some(Some("TCP")) => Some(Protocol::Tcp),
            Some(Some("UDP")) => Some(Protocol::Udp),
            Some(Some("SCTP")) => Some(Protocol::Sctp),
            Some(_) => None,
        };
        let number = |value: &Value| {
            let number = value.as_u64().and_then(|number| u16::try_from(number).ok());
            number.filter(|number| *number > 0)
        };
        let ports = match (present(fields, "port"), present(fields, "endPort")) {
            (None, None) => Some(PortMatch::All),
            (Some(Value::String(name)), None) if name.len() <= LONGEST => {
                Some(PortMatch::Named(self.names.get(name)))
            }
            (Some(first), last) => number(first)
                .zip(number(last.unwrap_or(first)))
                .filter(|(first, last)| first <= last)
                .map(|(first, last)| PortMatch::Numbers { first, last }),
            (None, Some(_)) => None,
        };
        match (protocol, ports) {
            (Some(protocol), Some(ports)) => Some(PolicyPort { protocol, ports }),
            _ => {
                let reason = "is not a port of TCP, UDP or SCTP, so it allows nothing";
                self.bad(field, port, reason);
                None
            }
        }
    }

    /// A label selector; `None` if it is not understood.
    fn selector(&mut self, selector: &Value) -> Option<Selector> {
        let fields = selector.as_object()?;
        if unknown(fields, &["matchLabels", "matchExpressions"]).is_some() {
            return None;
        }
        let mut requirements = Vec::new();
        match present(fields, "matchLabels") {
            None => {}
            Some(Value::Object(labels)) => {
                for (key, value) in labels {
                    let value = self.label(value)?;
                    requirements.push(Requirement {
                        key: self.names.get(key),
                        condition: Condition::In([value].into()),
                    });
                }
            }
            Some(_) => return None,
        }
        match present(fields, "matchExpressions") {
            None => {}
            Some(Value::Array(expressions)) => {
                for expression in expressions {
                    requirements.push(self.requirement(expression)?);
                }
            }
            Some(_) => return None,
        }
        Some(Selector::new(requirements))
    }

    fn requirement(&mut self, expression: &Value) -> Option<Requirement> {
        let fields = expression.as_object()?;
        if unknown(fields, &["key", "operator", "values"]).is_some() {
            return None;
        }
        let key = present(fields, "key")?.as_str()?;
        let mut values: Vec<Arc<str>> = match present(fields, "values") {
            None => Vec::new(),
            Some(Value::Array(values)) => {
                let values = values.iter().map(|value| self.label(value));
                values.collect::<Option<_>>()?
            }
            Some(_) => return None,
        };
        values.sort_unstable();
        values.dedup();
        let condition = match (present(fields, "operator")?.as_str()?, values.is_empty()) {
            ("In", false) => Condition::In(values.into()),
            ("NotIn", false) => Condition::NotIn(values.into()),
            ("Exists", true) => Condition::Exists,
            ("DoesNotExist", true) => Condition::Absent,
            _ => return None,
        };
        Some(Requirement {
            key: self.names.get(key),
            condition,
        })
    }

    /// The value of a label: a manifest may have a number or a truth value there.
    fn label(&mut self, value: &Value) -> Option<Arc<str>> {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            Value::Bool(_) | Value::Number(_) => value.to_string(),
            Value::Array(_) | Value::Object(_) => return None,
        };
        (text.len() <= LONGEST).then(|| self.names.get(&text))
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

/// A field that is there and not null.
fn present<'v>(fields: &'v Map<String, Value>, name: &str) -> Option<&'v Value> {
    fields.get(name).filter(|value| !value.is_null())
}

/// The first field that is not among those that are known.
fn unknown<'v>(fields: &'v Map<String, Value>, known: &[&str]) -> Option<&'v str> {
    let given = fields.iter().filter(|(_, value)| !value.is_null());
    let mut names = given.map(|(name, _)| name.as_str());
    names.find(|name| !known.contains(name))
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
