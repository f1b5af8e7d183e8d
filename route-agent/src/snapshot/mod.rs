//! What the cluster looks like, as plain sorted values free of Kubernetes types.
//!
//! A source turns cluster objects into these types and sends [`Change`]s; features read a
//! [`Snapshot`] and nothing else. A field that could not be parsed is left out of the value and
//! recorded as an [`Invalid`], so that one bad field never stops the rest and the warning can
//! still name it.
//!
//! [`Snapshot::apply`] is the only way in. It says what changed in a [`Dirty`], so that the cost
//! of a change follows its size: an object that arrives again with the same value costs one
//! comparison and marks nothing.

mod endpoints;
mod few;
mod node;
mod service;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

pub use endpoints::{Endpoint, EndpointRef, Endpoints, Hints};
pub use few::Few;
pub use node::Node;
pub use service::{
    AFFINITY_DEFAULT, AFFINITY_SECONDS, Balancing, EndpointPort, EndpointSlice, Protocol, Repeated,
    Service, ServiceCidr, ServiceKind, ServicePort, TrafficPolicy,
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

/// A field of an object that could not be used as it is, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// The field as a user would write it, for example `spec.podCIDR`.
    pub field: &'static str,
    /// The value as it was found.
    pub value: Box<str>,
    /// Why it cannot be used, in a few lower-case words.
    pub reason: &'static str,
    /// What is used instead; nothing if the value is left out.
    pub taken: Option<Box<str>>,
}

impl Invalid {
    /// What is done with the value, and why, as the end of a sentence.
    pub fn consequence(&self) -> String {
        match &self.taken {
            None => format!("is left out: {}", self.reason),
            Some(taken) => format!("is taken as {taken}: {}", self.reason),
        }
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { field, value, .. } = self;
        write!(f, "{field} \"{value}\" {}", self.consequence())
    }
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

impl Object {
    /// The identity of the object.
    pub fn key(&self) -> Key {
        match self {
            Object::Node(node) => Key::Node(node.name.clone()),
            Object::Service(service) => Key::Service(service.name.clone()),
            Object::EndpointSlice(slice) => Key::EndpointSlice(slice.name.clone()),
            Object::ServiceCidr(cidr) => Key::ServiceCidr(cidr.name.clone()),
        }
    }
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

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Node(name) => write!(f, "Node {name}"),
            Key::Service(name) => write!(f, "Service {name}"),
            Key::EndpointSlice(name) => write!(f, "EndpointSlice {name}"),
            Key::ServiceCidr(name) => write!(f, "ServiceCIDR {name}"),
        }
    }
}

/// What happened to one object.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// The object appeared or now has this value.
    Set(Object),
    /// The object is gone.
    Gone(Key),
}

/// What differs between two moments of a [`Snapshot`]: the names of everything that appeared,
/// changed or went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dirty {
    /// Nodes, by name.
    pub nodes: BTreeSet<Arc<str>>,
    /// Services whose own value changed.
    pub services: BTreeSet<ObjectName>,
    /// Services (not slices) some EndpointSlice of which changed, came or went.
    pub endpoints: BTreeSet<ObjectName>,
    /// True if any ServiceCIDR changed.
    pub service_cidrs: bool,
}

impl Dirty {
    /// True if nothing changed.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
            && self.services.is_empty()
            && self.endpoints.is_empty()
            && !self.service_cidrs
    }
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
    /// Nodes that have gone and still have endpoints, sorted: their pods are endpoints until the
    /// controllers have deleted them, a minute and more.
    gone_nodes: Vec<Arc<str>>,
    /// (Service, slice) names of everything in `slices`: finds the slices of one Service.
    by_service: BTreeSet<(ObjectName, ObjectName)>,
}

impl Snapshot {
    /// Takes one change in and adds to `dirty` what it touched. True if it changed anything.
    pub fn apply(&mut self, change: Change, dirty: &mut Dirty) -> bool {
        match change {
            Change::Set(Object::Node(node)) => {
                let name = node.name.clone();
                let changed = set(&mut self.nodes, name.clone(), node);
                if changed {
                    if let Ok(place) = self.gone_nodes.binary_search(&name) {
                        self.gone_nodes.remove(place);
                        self.touch_endpoints_on(&name, dirty);
                    }
                    dirty.nodes.insert(name);
                }
                changed
            }
            Change::Set(Object::Service(service)) => {
                let name = service.name.clone();
                let changed = set(&mut self.services, name.clone(), service);
                if changed {
                    dirty.services.insert(name);
                }
                changed
            }
            Change::Set(Object::EndpointSlice(slice)) => self.set_slice(slice, dirty),
            Change::Set(Object::ServiceCidr(cidr)) => {
                let changed = set(&mut self.service_cidrs, cidr.name.clone(), cidr);
                dirty.service_cidrs |= changed;
                changed
            }
            Change::Gone(Key::Node(name)) => {
                let changed = self.nodes.remove(&name).is_some();
                if changed {
                    self.note_gone_node(&name, dirty);
                    dirty.nodes.insert(name);
                }
                changed
            }
            Change::Gone(Key::Service(name)) => {
                let changed = self.services.remove(&name).is_some();
                if changed {
                    dirty.services.insert(name);
                }
                changed
            }
            Change::Gone(Key::EndpointSlice(name)) => match self.slices.remove(&name) {
                Some(old) => {
                    self.by_service.remove(&(old.service.clone(), name));
                    dirty.endpoints.insert(old.service);
                    true
                }
                None => false,
            },
            Change::Gone(Key::ServiceCidr(name)) => {
                let changed = self.service_cidrs.remove(&name).is_some();
                dirty.service_cidrs |= changed;
                changed
            }
        }
    }

    /// The EndpointSlices of a Service, sorted by name.
    pub fn slices_of<'a>(
        &'a self,
        service: &'a ObjectName,
    ) -> impl Iterator<Item = &'a EndpointSlice> {
        let empty: Arc<str> = Arc::from("");
        let first = ObjectName {
            namespace: empty.clone(),
            name: empty,
        };
        let from = Bound::Included((service.clone(), first));
        self.by_service
            .range((from, Bound::Unbounded))
            .take_while(move |(owner, _)| owner == service)
            .filter_map(|(_, slice)| self.slices.get(slice))
    }

    /// Gives back memory after everything has been listed: a map into which sorted names were put one
    /// by one is half empty.
    pub fn compact(&mut self) {
        rebuild(&mut self.nodes);
        rebuild(&mut self.services);
        rebuild(&mut self.slices);
        self.by_service = std::mem::take(&mut self.by_service).into_iter().collect();
    }

    /// How many objects there are in all.
    pub fn len(&self) -> usize {
        self.nodes.len() + self.services.len() + self.slices.len() + self.service_cidrs.len()
    }

    /// True if there is no object at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Names of Nodes that have gone and may still have endpoints, sorted. A Node that never had an
    /// object is not among them.
    pub fn gone_nodes(&self) -> &[Arc<str>] {
        &self.gone_nodes
    }

    fn note_gone_node(&mut self, name: &Arc<str>, dirty: &mut Dirty) {
        let slices = &self.slices;
        let has_endpoints =
            |node: &Arc<str>| slices.values().any(|slice| slice.endpoints.are_on(node));
        // Nodes come and go for months: only those that still matter are remembered.
        self.gone_nodes.retain(has_endpoints);
        if has_endpoints(name) {
            let place = self.gone_nodes.partition_point(|other| other < name);
            self.gone_nodes.insert(place, name.clone());
            self.touch_endpoints_on(name, dirty);
        }
    }

    fn touch_endpoints_on(&self, node: &str, dirty: &mut Dirty) {
        let slices = self.slices.values();
        let touched = slices.filter(|slice| slice.endpoints.are_on(node));
        dirty
            .endpoints
            .extend(touched.map(|slice| slice.service.clone()));
    }

    fn set_slice(&mut self, slice: EndpointSlice, dirty: &mut Dirty) -> bool {
        let (name, service) = (slice.name.clone(), slice.service.clone());
        match self.slices.insert(name.clone(), slice) {
            Some(old) if Some(&old) == self.slices.get(&name) => return false,
            Some(old) if old.service != service => {
                self.by_service.remove(&(old.service.clone(), name.clone()));
                dirty.endpoints.insert(old.service);
            }
            _ => {}
        }
        self.by_service.insert((service.clone(), name));
        dirty.endpoints.insert(service);
        true
    }
}

/// The same map in as few nodes as possible.
fn rebuild<K: Ord, V>(map: &mut BTreeMap<K, V>) {
    *map = std::mem::take(map).into_iter().collect();
}

/// Puts a value into a map; true if that changed anything.
fn set<K: Ord, V: PartialEq>(map: &mut BTreeMap<K, V>, key: K, value: V) -> bool {
    if map.get(&key) == Some(&value) {
        return false;
    }
    map.insert(key, value);
    true
}

#[cfg(test)]
mod tests;
