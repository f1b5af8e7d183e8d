//! Kubernetes objects, as far as Podwire reads them, and their way into the snapshot.
//!
//! Each kind has a slim serde type with only the fields that are read; everything else in an
//! object is skipped while it is parsed. `into_snapshot` turns it into a snapshot value: what
//! cannot be used is left out and recorded as an [`Invalid`]. Only an object whose shape is wrong
//! (a list where a map belongs) or that has no name fails as a whole.
//!
//! Scalars are read leniently ([`Text`], [`Number`], [`Flag`]): the API server guarantees their
//! types, a hand-written manifest does not.

mod cluster_network_policy;
mod lenient;
mod network_policy;
mod node;
mod pod;
mod policy_ports;
mod scalar;
mod service;
mod service_cidr;
mod slice;
mod strict;

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashSet};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Deserializer};

pub use cluster_network_policy::ClusterNetworkPolicy;
pub use network_policy::NetworkPolicy;
pub use node::{Node, NodeSpec, NodeStatus};
pub use pod::{Namespace, Pod};
pub use scalar::{Flag, Number, Text};
pub use service::{Service, ServiceSpec, ServiceStatus};
pub use service_cidr::{ServiceCidr, ServiceCidrSpec};
pub use slice::EndpointSlice;

use crate::clock::milliseconds;
use crate::snapshot::{Invalid, Labels, NamedPort, ObjectName, Protocol};
use crate::source::objects::lenient::Read;
use crate::text;

/// Services and EndpointSlices with one of these labels belong to another proxy, or to none.
pub const FOREIGN_LABELS: [&str; 2] = [
    "service.kubernetes.io/service-proxy-name",
    "service.kubernetes.io/headless",
];

/// [`FOREIGN_LABELS`] as a label selector of the API server.
pub const LABEL_SELECTOR: &str =
    "!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless";

/// The metadata that Podwire reads.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Metadata {
    /// The object's name.
    pub name: Text,
    /// Its namespace; `default` if a namespaced manifest has none.
    pub namespace: Text,
    /// What sets it apart from an earlier object of the same name.
    pub uid: Text,
    /// Its labels.
    #[serde(deserialize_with = "nullable")]
    pub labels: BTreeMap<Box<str>, Text>,
    /// Its annotations.
    #[serde(deserialize_with = "nullable")]
    pub annotations: BTreeMap<Box<str>, Text>,
    /// When it was created, RFC 3339.
    pub creation_timestamp: Text,
    /// When its deletion was asked for, RFC 3339.
    pub deletion_timestamp: Text,
}

impl Metadata {
    /// The metadata of an object of which nothing but its name matters, whatever else is in there: a policy
    /// that is left out for a label of no shape would open what it closes.
    fn of_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Name {
            name: Text,
            namespace: Text,
        }
        let Name { name, namespace } = nullable(deserializer)?;
        Ok(Self {
            name,
            namespace,
            ..Self::default()
        })
    }

    /// True if the labels say that another proxy, or none, is to serve the object.
    pub fn is_foreign(&self) -> bool {
        FOREIGN_LABELS
            .iter()
            .any(|label| self.labels.contains_key(*label))
    }

    /// Seconds since 1970 at which the object was created, if it says so.
    fn created(&self, checker: &mut Checker) -> Option<u64> {
        let text = self
            .creation_timestamp
            .get()
            .filter(|text| !text.is_empty())?;
        let time = milliseconds(text);
        if time.is_none() {
            let reason = "is no time as in 2026-11-23T04:30:05Z (RFC 3339)";
            checker.bad("metadata.creationTimestamp", text, reason);
        }
        time.map(|milliseconds| milliseconds / 1000)
    }

    pub(super) fn object_name(&self, names: &mut Names) -> Result<ObjectName, Unnamed> {
        let namespace = namespace_or_default(self.namespace.get());
        Ok(ObjectName {
            namespace: names.get(possible(namespace)?),
            name: self.cluster_name(names)?,
        })
    }

    /// As [`Metadata::object_name`], for one of many objects whose names no other object has.
    fn single_name(&self, names: &mut Names) -> Result<ObjectName, Unnamed> {
        let namespace = namespace_or_default(self.namespace.get());
        Ok(ObjectName {
            namespace: names.get(possible(namespace)?),
            name: Arc::from(self.name()?),
        })
    }

    fn cluster_name(&self, names: &mut Names) -> Result<Arc<str>, Unnamed> {
        Ok(names.get(self.name()?))
    }

    fn name(&self) -> Result<&str, Unnamed> {
        match self.name.get() {
            Some(name) if !name.is_empty() => possible(name),
            _ => Err(Unnamed::Missing),
        }
    }
}

/// The namespace that an object of this one is in: a manifest may leave it out.
pub(super) fn namespace_or_default(given: Option<&str>) -> &str {
    match given {
        None | Some("") => "default",
        Some(namespace) => namespace,
    }
}

/// The longest name that Kubernetes allows, in bytes.
const LONGEST_NAME: usize = 253;

/// The name, if the API server could have let it pass: it is used in comments, logs and metrics.
pub fn possible(name: &str) -> Result<&str, Unnamed> {
    match name.len() <= LONGEST_NAME && !name.contains(text::is_unprintable) {
        true => Ok(name),
        false => Err(Unnamed::Impossible),
    }
}

/// Why an object cannot be kept apart from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unnamed {
    /// It has no name.
    #[error("has no metadata.name; give it one")]
    Missing,
    /// It has one that no object of Kubernetes can have.
    #[error(
        "has a metadata.name or metadata.namespace of more than {LONGEST_NAME} characters or with \
         control characters; give it another"
    )]
    Impossible,
}

/// What occurs over and over, kept once: strings (node names, namespaces, zones), and the labels and
/// ports of pods.
#[derive(Debug, Default)]
pub struct Names {
    texts: Pool<Arc<str>>,
    labels: Pool<Labels>,
    ports: Pool<Arc<[NamedPort]>>,
}

/// The values of one type.
#[derive(Debug)]
struct Pool<T> {
    known: HashSet<T>,
    sweep_at: usize,
}

impl<T> Default for Pool<T> {
    fn default() -> Self {
        Self {
            known: HashSet::new(),
            sweep_at: 0,
        }
    }
}

impl<T: Clone + Eq + Hash> Pool<T> {
    /// The shared copy of a value, made by `make` if there is none yet. `holders` says how many hold
    /// a value, the pool included.
    fn get<Q: Hash + Eq + ?Sized>(
        &mut self,
        value: &Q,
        holders: impl Fn(&T) -> usize,
        make: impl FnOnce() -> T,
    ) -> T
    where
        T: Borrow<Q>,
    {
        if let Some(known) = self.known.get(value) {
            return known.clone();
        }
        if self.known.len() >= self.sweep_at {
            self.known.retain(|value| holders(value) > 1);
            self.sweep_at = (self.known.len() * 2).max(1024);
        }
        let shared = make();
        self.known.insert(shared.clone());
        shared
    }
}

impl Names {
    /// The shared copy of a string.
    pub fn get(&mut self, text: &str) -> Arc<str> {
        self.texts.get(text, Arc::strong_count, || Arc::from(text))
    }

    /// The shared copy of labels.
    fn labels(&mut self, labels: Labels) -> Labels {
        let make = || labels.clone();
        self.labels.get(&labels, Labels::shared_by, make)
    }

    /// The shared copy of the ports of a pod.
    fn ports(&mut self, mut ports: Vec<NamedPort>) -> Arc<[NamedPort]> {
        for port in &mut ports {
            port.name = self.get(&port.name);
        }
        self.ports
            .get(&ports[..], Arc::strong_count, || ports.clone().into())
    }

    /// The length of the longest string that is kept.
    #[cfg(test)]
    pub fn longest(&self) -> usize {
        let lengths = self.texts.known.iter().map(|name| name.len());
        lengths.max().unwrap_or(0)
    }
}

/// A longer value helps no reader, but it would be kept and printed. In bytes.
const LONGEST_VALUE: usize = 100;

/// Collects what could not be used.
#[derive(Debug, Default)]
struct Checker {
    invalid: Vec<Invalid>,
}

impl Checker {
    /// Notes a value that is left out, and not taken as another, whatever was noted of it before.
    fn bad(&mut self, field: &'static str, value: impl AsRef<str>, reason: &'static str) {
        let value = text::start(value.as_ref(), LONGEST_VALUE);
        self.invalid.pop_if(|last| {
            last.taken.is_some() && last.field == field && last.value[..] == value[..]
        });
        self.note(field, value, reason, None);
    }

    /// Notes a value that is taken as another.
    fn taken(
        &mut self,
        field: &'static str,
        value: impl AsRef<str>,
        reason: &'static str,
        taken: impl ToString,
    ) {
        let value = text::start(value.as_ref(), LONGEST_VALUE);
        self.note(field, value, reason, Some(taken.to_string().into()));
    }

    fn note(
        &mut self,
        field: &'static str,
        value: &str,
        reason: &'static str,
        taken: Option<Box<str>>,
    ) {
        self.invalid.push(Invalid {
            field,
            value: value.into(),
            reason,
            taken,
        });
    }

    fn address(&mut self, field: &'static str, text: &Text) -> Option<IpAddr> {
        match text.get().and_then(lenient::address) {
            Some(read) => Some(self.noting(field, text, read)),
            None => {
                self.bad(field, text.shown(), "is not an IP address");
                None
            }
        }
    }

    /// A CIDR; host bits are cleared.
    fn cidr(&mut self, field: &'static str, text: &Text) -> Option<IpNetwork> {
        match text.get().and_then(|text| lenient::network(text.trim())) {
            Some(read) => Some(self.noting(field, text, read)),
            None => {
                self.bad(field, text.shown(), "is not a CIDR");
                None
            }
        }
    }

    /// Names a field of one value that is given beside one of several, of which it is to be the first
    /// and is not.
    fn beside<T: PartialEq>(
        &mut self,
        field: &'static str,
        single: &Text,
        first: Option<&Text>,
        read: impl Fn(&str) -> Option<Read<T>>,
        reason: &'static str,
    ) {
        let single = single.get().filter(|text| !text.is_empty());
        let (Some(single), Some(first)) = (single, first) else {
            return;
        };
        let first = first.get().unwrap_or_default();
        let value = |text| read(text).map(|read| read.value);
        let is_same = single == first || value(single).is_some_and(|one| value(first) == Some(one));
        if !is_same {
            self.bad(field, single, reason);
        }
    }

    /// The value, which is named if it was not written as it should be.
    fn noting<T: ToString>(&mut self, field: &'static str, text: &Text, read: Read<T>) -> T {
        if let Some(reason) = read.reason {
            self.taken(field, text.shown(), reason, read.value.to_string());
        }
        read.value
    }

    /// A port number from 1 to 65535. Absent or 0 is `None` without complaint.
    fn port(&mut self, field: &'static str, number: &Number) -> Option<u16> {
        match number {
            Number::Absent | Number::Of(0) => None,
            Number::Of(value) => match u16::try_from(*value) {
                Ok(port) => Some(port),
                Err(_) => {
                    self.bad(field, value.to_string(), "is not between 1 and 65535");
                    None
                }
            },
            Number::Bad(text) => {
                self.bad(field, text, "is not a number");
                None
            }
        }
    }

    fn protocol(&mut self, field: &'static str, text: &Text) -> Option<Protocol> {
        match text.get() {
            None | Some("" | "TCP") => Some(Protocol::Tcp),
            Some("UDP") => Some(Protocol::Udp),
            Some("SCTP") => Some(Protocol::Sctp),
            Some(other) => {
                self.bad(field, other, "is not TCP, UDP or SCTP");
                None
            }
        }
    }

    fn flag(&mut self, field: &'static str, flag: &Flag, absent: bool) -> bool {
        match flag {
            Flag::Absent => absent,
            Flag::Of(value) => *value,
            Flag::Bad(text) => {
                self.taken(field, text, "is not true or false", absent);
                absent
            }
        }
    }
}

/// Reads `null` as the default value, as the API does.
pub(super) fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod cluster_policy_tests;
#[cfg(test)]
mod policy_tests;
#[cfg(test)]
mod tests;
