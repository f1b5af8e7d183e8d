//! Kubernetes objects, as far as Podwire reads them, and their way into the snapshot.
//!
//! Each kind has a slim serde type with only the fields that are read; everything else in an
//! object is skipped while it is parsed. `into_snapshot` turns it into a snapshot value: what
//! cannot be used is left out and recorded as an [`Invalid`]. Only an object whose shape is wrong
//! (a list where a map belongs) or that has no name fails as a whole.
//!
//! Scalars are read leniently ([`Text`], [`Number`], [`Flag`]): the API server guarantees their
//! types, a hand-written manifest does not.

mod node;
mod scalar;
mod service;
mod service_cidr;
mod slice;

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Deserializer};

pub use node::{Node, NodeSpec, NodeStatus};
pub use scalar::{Flag, Number, Text};
pub use service::{Service, ServiceSpec, ServiceStatus};
pub use service_cidr::{ServiceCidr, ServiceCidrSpec};
pub use slice::EndpointSlice;

use crate::clock::milliseconds;
use crate::snapshot::{Invalid, ObjectName, Protocol};

/// Services and EndpointSlices with one of these labels belong to somebody else, or to nobody.
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
    /// True if the labels say that another proxy, or none, is to serve the object.
    pub fn is_foreign(&self) -> bool {
        FOREIGN_LABELS
            .iter()
            .any(|label| self.labels.contains_key(*label))
    }

    /// Seconds since 1970 at which the object was created, if it says so.
    fn created(&self) -> Option<u64> {
        self.creation_timestamp
            .get()
            .and_then(milliseconds)
            .map(|milliseconds| milliseconds / 1000)
    }

    fn object_name(&self, names: &mut Names) -> Result<ObjectName, Unnamed> {
        Ok(ObjectName {
            namespace: names.get(self.namespace.get().unwrap_or("default")),
            name: self.cluster_name(names)?,
        })
    }

    fn cluster_name(&self, names: &mut Names) -> Result<Arc<str>, Unnamed> {
        match self.name.get() {
            Some(name) if !name.is_empty() => Ok(names.get(name)),
            _ => Err(Unnamed),
        }
    }
}

/// An object without `metadata.name` cannot be kept apart from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("has no metadata.name; give it one")]
pub struct Unnamed;

/// Strings that occur over and over (node names, namespaces, zones), kept once.
#[derive(Debug, Default)]
pub struct Names {
    known: HashSet<Arc<str>>,
    sweep_at: usize,
}

impl Names {
    /// The shared copy of a string.
    pub fn get(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.known.get(text) {
            return known.clone();
        }
        if self.known.len() >= self.sweep_at {
            self.known.retain(|name| Arc::strong_count(name) > 1);
            self.sweep_at = (self.known.len() * 2).max(1024);
        }
        let shared: Arc<str> = Arc::from(text);
        self.known.insert(shared.clone());
        shared
    }
}

/// Collects what could not be used.
#[derive(Debug, Default)]
struct Checker {
    invalid: Vec<Invalid>,
}

impl Checker {
    /// Notes a bad value.
    fn bad(&mut self, field: &'static str, value: impl AsRef<str>, reason: &'static str) {
        // Nobody reads a value longer than this, but it would be kept and printed.
        let value = value.as_ref();
        let end = (0..=value.len().min(100))
            .rev()
            .find(|end| value.is_char_boundary(*end));
        let value = Box::from(&value[..end.unwrap_or(0)]);
        self.invalid.push(Invalid {
            field,
            value,
            reason,
        });
    }

    fn address(&mut self, field: &'static str, text: &Text) -> Option<IpAddr> {
        match text.get().map(str::parse) {
            Some(Ok(address)) => Some(address),
            _ => {
                self.bad(field, text.shown(), "is not an IP address");
                None
            }
        }
    }

    /// A CIDR without host bits; `clean` clears them instead of refusing.
    fn cidr(&mut self, field: &'static str, text: &Text, clean: bool) -> Option<IpNetwork> {
        let parsed = text
            .get()
            .map(str::trim)
            .filter(|text| text.contains('/'))
            .and_then(|text| text.parse::<IpNetwork>().ok());
        match parsed {
            Some(network) if network.ip() == network.network() => Some(network),
            Some(network) if clean => IpNetwork::new(network.network(), network.prefix()).ok(),
            Some(_) => {
                self.bad(field, text.shown(), "has host bits set");
                None
            }
            None => {
                self.bad(field, text.shown(), "is not a CIDR");
                None
            }
        }
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
                self.bad(field, text, "is not true or false");
                absent
            }
        }
    }
}

/// Reads `null` as the default value, as the API does.
fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests;
