//! What the cluster looks like, as plain sorted values free of Kubernetes types.
//!
//! A source turns cluster objects into these types and sends [`Change`]s; features read a
//! [`Snapshot`] and nothing else. A field that could not be parsed is left out of the value and
//! recorded as an [`Invalid`], so that one bad field never stops the rest and the warning can
//! still name it.

mod node;
mod service;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

pub use node::Node;
pub use service::{
    Balancing, Endpoint, EndpointPort, EndpointSlice, Hints, Protocol, Service, ServiceCidr,
    ServiceKind, ServicePort, TrafficPolicy,
};

/// The name of a namespaced object, printed as `namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name within the namespace.
    pub name: Arc<str>,
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A field of an object that could not be used, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// The field as a user would write it, for example `spec.podCIDR`.
    pub field: &'static str,
    /// The value as it was found.
    pub value: Box<str>,
    /// Why it cannot be used, in a few lower-case words.
    pub reason: &'static str,
}

/// One cluster object.
#[derive(Debug, Clone, PartialEq)]
pub enum Object {
    /// A Node.
    Node(Node),
    /// A Service.
    Service(Service),
    /// An EndpointSlice.
    EndpointSlice(EndpointSlice),
    /// A ServiceCIDR.
    ServiceCidr(ServiceCidr),
}

/// The identity of a cluster object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// A Node, by name.
    Node(Arc<str>),
    /// A Service.
    Service(ObjectName),
    /// An EndpointSlice.
    EndpointSlice(ObjectName),
    /// A ServiceCIDR, by name.
    ServiceCidr(Arc<str>),
}

/// What happened to one object.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// The object appeared or now has this value.
    Set(Object),
    /// The object is gone.
    Gone(Key),
}

/// All cluster objects, sorted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    /// Nodes by name.
    pub nodes: BTreeMap<Arc<str>, Node>,
    /// Services by name.
    pub services: BTreeMap<ObjectName, Service>,
    /// EndpointSlices by name.
    pub slices: BTreeMap<ObjectName, EndpointSlice>,
    /// ServiceCIDRs by name.
    pub service_cidrs: BTreeMap<Arc<str>, ServiceCidr>,
}
