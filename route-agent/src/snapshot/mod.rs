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

mod arrivals;
mod cluster_policy;
mod endpoints;
mod few;
mod labels;
mod name;
mod node;
mod pod;
mod pod_set;
mod policy;
mod service;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::Bound;
use std::sync::Arc;

use arrivals::Arrivals;
use ipnetwork::IpNetwork;
use podwire_kernel::IpFamily;

pub use cluster_policy::{Action, ClusterNetworkPolicy, PolicyName, Rank, Tier, TierRule};
pub use endpoints::{Endpoint, EndpointRef, Endpoints, Hints};
pub use few::Few;
pub use labels::{Condition, Labels, Requirement, Selector};
pub use name::ObjectName;
pub use node::Node;
pub use pod::{NamedPort, Namespace, Pod, Uid};
pub use pod_set::{NAME_LABEL, PodSet};
pub use policy::{Block, Direction, NetworkPolicy, Peer, PolicyPort, PolicyRule, PortMatch};
pub use service::{
    AFFINITY_DEFAULT, AFFINITY_SECONDS, Balancing, EndpointPort, EndpointSlice, PortsSoFar,
    Protocol, Repeated, Service, ServiceCidr, ServiceKind, ServicePort, TrafficPolicy,
};

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
            None => format!("is left out: {}", self.because()),
            Some(taken) => format!("is taken as {taken}: {}", self.because()),
        }
    }

    /// The reason with a subject, if it begins with a verb that lacks one.
    fn because(&self) -> Cow<'static, str> {
        match self.reason.split(' ').next() {
            Some("is" | "has" | "does") => format!("it {}", self.reason).into(),
            _ => self.reason.into(),
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
    /// A Pod.
    Pod(Pod),
    /// A Namespace.
    Namespace(Namespace),
    /// A NetworkPolicy.
    NetworkPolicy(NetworkPolicy),
    /// A ClusterNetworkPolicy.
    ClusterNetworkPolicy(ClusterNetworkPolicy),
}

impl Object {
    /// The identity of the object.
    pub fn key(&self) -> Key {
        match self {
            Object::Node(node) => Key::Node(node.name.clone()),
            Object::Service(service) => Key::Service(service.name.clone()),
            Object::EndpointSlice(slice) => Key::EndpointSlice(slice.name.clone()),
            Object::ServiceCidr(cidr) => Key::ServiceCidr(cidr.name.clone()),
            Object::Pod(pod) => Key::Pod(pod.name.clone()),
            Object::Namespace(namespace) => Key::Namespace(namespace.name.clone()),
            Object::NetworkPolicy(policy) => Key::NetworkPolicy(policy.name.clone()),
            Object::ClusterNetworkPolicy(policy) => Key::ClusterNetworkPolicy(policy.name.clone()),
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
    /// A Pod.
    Pod(ObjectName),
    /// A Namespace, by name.
    Namespace(Arc<str>),
    /// A NetworkPolicy.
    NetworkPolicy(ObjectName),
    /// A ClusterNetworkPolicy, by name.
    ClusterNetworkPolicy(Arc<str>),
}

impl Key {
    /// The key of another object of this kind; cluster-wide ones have no namespace.
    pub fn of_same_kind(&self, name: ObjectName) -> Self {
        match self {
            Key::Node(_) => Key::Node(name.name),
            Key::Service(_) => Key::Service(name),
            Key::EndpointSlice(_) => Key::EndpointSlice(name),
            Key::ServiceCidr(_) => Key::ServiceCidr(name.name),
            Key::Pod(_) => Key::Pod(name),
            Key::Namespace(_) => Key::Namespace(name.name),
            Key::NetworkPolicy(_) => Key::NetworkPolicy(name),
            Key::ClusterNetworkPolicy(_) => Key::ClusterNetworkPolicy(name.name),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Node(name) => write!(f, "Node {name}"),
            Key::Service(name) => write!(f, "Service {name}"),
            Key::EndpointSlice(name) => write!(f, "EndpointSlice {name}"),
            Key::ServiceCidr(name) => write!(f, "ServiceCIDR {name}"),
            Key::Pod(name) => write!(f, "Pod {name}"),
            Key::Namespace(name) => write!(f, "Namespace {name}"),
            Key::NetworkPolicy(name) => write!(f, "NetworkPolicy {name}"),
            Key::ClusterNetworkPolicy(name) => write!(f, "ClusterNetworkPolicy {name}"),
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
    /// True if the API server is used at an address that is new.
    pub api_server: bool,
    /// True if other podCIDRs are left out than before, or for other reasons.
    pub left_out: bool,
    /// Pods.
    pub pods: BTreeSet<ObjectName>,
    /// Namespaces, by name.
    pub namespaces: BTreeSet<Arc<str>>,
    /// NetworkPolicies.
    pub policies: BTreeSet<ObjectName>,
    /// ClusterNetworkPolicies, by name.
    pub cluster_policies: BTreeSet<Arc<str>>,
}

impl Dirty {
    /// True if nothing changed.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
            && self.services.is_empty()
            && self.endpoints.is_empty()
            && !self.service_cidrs
            && !self.api_server
            && !self.left_out
            && self.pods.is_empty()
            && self.namespaces.is_empty()
            && self.policies.is_empty()
            && self.cluster_policies.is_empty()
    }

    /// True if this machine's Node, which has that name, may have other podCIDRs by now, or none for
    /// another reason.
    pub fn concerns_own_pod_cidrs(&self, own: &Arc<str>) -> bool {
        self.nodes.contains(own) || self.left_out
    }

    /// True if it may be another Node by now that has a podCIDR, or none.
    pub fn concerns_pod_cidrs(&self) -> bool {
        // The API servers may have other addresses.
        let api = api_service();
        let servers = self.endpoints.contains(&api) || self.services.contains(&api);
        !self.nodes.is_empty() || self.api_server || servers
    }
}

/// The Service whose endpoints are the API servers.
pub fn api_service() -> ObjectName {
    ObjectName {
        namespace: Arc::from("default"),
        name: Arc::from("kubernetes"),
    }
}

/// Why podCIDRs count for no Node, each with the name of the Node that asks for it in vain.
pub type LeftOut = BTreeMap<(IpNetwork, Arc<str>), String>;

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
    /// Pods by name.
    pub pods: BTreeMap<ObjectName, Pod>,
    /// Namespaces by name.
    pub namespaces: BTreeMap<Arc<str>, Namespace>,
    /// NetworkPolicies by name.
    pub policies: BTreeMap<ObjectName, NetworkPolicy>,
    /// ClusterNetworkPolicies by name.
    pub cluster_policies: BTreeMap<Arc<str>, ClusterNetworkPolicy>,
    /// Nodes that have gone and still have endpoints, sorted: their pods are endpoints until the
    /// controllers have deleted them, a minute and more.
    gone_nodes: Vec<Arc<str>>,
    /// The podCIDRs that this node had last.
    last_pod_cidrs: Box<[IpNetwork]>,
    left_out: LeftOut,
    /// Where this agent itself uses the API server.
    api_servers_used: BTreeSet<SocketAddr>,
    /// (Service, slice) names of everything in `slices`: finds the slices of one Service.
    by_service: BTreeSet<(ObjectName, ObjectName)>,
    arrivals: Arrivals,
}

impl Snapshot {
    /// Takes one change in and adds to `dirty` what it touched. True if it changed anything.
    pub fn apply(&mut self, change: Change, dirty: &mut Dirty) -> bool {
        match change {
            Change::Set(object) => self.set(object, dirty),
            Change::Gone(key) => self.remove(key, dirty),
        }
    }

    fn set(&mut self, object: Object, dirty: &mut Dirty) -> bool {
        match object {
            Object::Node(node) => {
                let name = node.name.clone();
                let changed = set(&mut self.nodes, name.clone(), node);
                if changed.is_some()
                    && let Ok(place) = self.gone_nodes.binary_search(&name)
                {
                    self.gone_nodes.remove(place);
                    self.touch_endpoints_on(&name, dirty);
                }
                note(changed, &mut dirty.nodes)
            }
            Object::Service(service) => {
                let name = service.name.clone();
                note(set(&mut self.services, name, service), &mut dirty.services)
            }
            Object::EndpointSlice(slice) => self.set_slice(slice, dirty),
            Object::ServiceCidr(cidr) => {
                let changed = set(&mut self.service_cidrs, cidr.name.clone(), cidr).is_some();
                dirty.service_cidrs |= changed;
                changed
            }
            Object::Pod(pod) => {
                let before = self.pods.get(&pod.name);
                if pod.created.is_some() {
                    self.arrivals.forget(&pod.name);
                } else if before != Some(&pod) {
                    let addresses = |pod: &Pod| IpFamily::ALL.map(|family| pod.address(family));
                    let now = addresses(&pod);
                    self.arrivals.note(&pod.name, before.map(addresses), now);
                }
                note(set(&mut self.pods, pod.name.clone(), pod), &mut dirty.pods)
            }
            Object::Namespace(namespace) => {
                let name = namespace.name.clone();
                let changed = set(&mut self.namespaces, name, namespace);
                note(changed, &mut dirty.namespaces)
            }
            Object::NetworkPolicy(policy) => {
                let name = policy.name.clone();
                note(set(&mut self.policies, name, policy), &mut dirty.policies)
            }
            Object::ClusterNetworkPolicy(policy) => {
                let changed = set(&mut self.cluster_policies, policy.name.clone(), policy);
                note(changed, &mut dirty.cluster_policies)
            }
        }
    }

    fn remove(&mut self, key: Key, dirty: &mut Dirty) -> bool {
        match key {
            Key::Node(name) => {
                let changed = gone(&mut self.nodes, name.clone());
                if changed.is_some() {
                    self.note_gone_node(&name, dirty);
                }
                note(changed, &mut dirty.nodes)
            }
            Key::Service(name) => note(gone(&mut self.services, name), &mut dirty.services),
            Key::EndpointSlice(name) => match self.slices.remove(&name) {
                Some(old) => {
                    self.by_service.remove(&(old.service.clone(), name));
                    dirty.endpoints.insert(old.service);
                    true
                }
                None => false,
            },
            Key::ServiceCidr(name) => {
                let changed = self.service_cidrs.remove(&name).is_some();
                dirty.service_cidrs |= changed;
                changed
            }
            Key::Pod(name) => {
                self.arrivals.forget(&name);
                note(gone(&mut self.pods, name), &mut dirty.pods)
            }
            Key::Namespace(name) => note(gone(&mut self.namespaces, name), &mut dirty.namespaces),
            Key::NetworkPolicy(name) => note(gone(&mut self.policies, name), &mut dirty.policies),
            Key::ClusterNetworkPolicy(name) => {
                let changed = gone(&mut self.cluster_policies, name);
                note(changed, &mut dirty.cluster_policies)
            }
        }
    }

    /// The Pods of a namespace, sorted by name.
    pub fn pods_in<'a>(&'a self, namespace: &str) -> impl Iterator<Item = &'a Pod> {
        in_namespace(&self.pods, namespace)
    }

    /// The namespaces that have Pods, each once, sorted; their Namespace need not be known.
    pub fn namespaces_of_pods(&self) -> impl Iterator<Item = &Arc<str>> {
        let next = |namespace: &str| {
            // No name of a namespace comes between these two.
            let behind = first_in(&format!("{namespace}\0"));
            self.pods.range(behind..).map(|(name, _)| name).next()
        };
        let first = self.pods.keys().next();
        let pods = std::iter::successors(first, move |name| next(&name.namespace));
        pods.map(|name| &name.namespace)
    }

    /// In which turn a Pod without a date got its address of a family; 0 of one with a date.
    pub fn arrival(&self, pod: &ObjectName, family: IpFamily) -> u64 {
        self.arrivals.of(pod, family)
    }

    /// The NetworkPolicies of a namespace, sorted by name.
    pub fn policies_in<'a>(&'a self, namespace: &str) -> impl Iterator<Item = &'a NetworkPolicy> {
        in_namespace(&self.policies, namespace)
    }

    /// True if there is a policy of any kind.
    pub fn has_policies(&self) -> bool {
        !self.policies.is_empty() || !self.cluster_policies.is_empty()
    }

    /// True if some policy may take something from a pod of a namespace, whatever its labels are: as
    /// one that it selects, or as a peer that it denies or passes.
    pub fn may_isolate(&self, namespace: &Arc<str>) -> bool {
        let mut cluster = self.cluster_policies.values();
        self.policies_in(namespace).next().is_some()
            || cluster.any(|policy| {
                policy.subject.reaches(namespace, self) || policy.may_refuse(namespace, self)
            })
    }

    /// The EndpointSlices of a Service, sorted by name.
    pub fn slices_of<'a>(
        &'a self,
        service: &'a ObjectName,
    ) -> impl Iterator<Item = &'a EndpointSlice> {
        let from = Bound::Included((service.clone(), first_in("")));
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
        rebuild(&mut self.pods);
        rebuild(&mut self.namespaces);
        rebuild(&mut self.policies);
        rebuild(&mut self.cluster_policies);
        self.by_service = std::mem::take(&mut self.by_service).into_iter().collect();
    }

    /// How many objects there are in all.
    pub fn len(&self) -> usize {
        self.nodes.len()
            + self.services.len()
            + self.slices.len()
            + self.service_cidrs.len()
            + self.pods.len()
            + self.namespaces.len()
            + self.policies.len()
            + self.cluster_policies.len()
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

    /// The podCIDRs of this node, which this Node stands for. While there is none, or it has none yet,
    /// those that it had last: the pods that have addresses there go on running.
    pub fn own_pod_cidrs(&self, own: Option<&Node>) -> Vec<IpNetwork> {
        match own.filter(|node| !node.pod_cidrs.is_empty()) {
            Some(node) => self.pod_cidrs_of(node).collect(),
            None => self.last_pod_cidrs.to_vec(),
        }
    }

    /// The podCIDRs of a Node, but for those that it asks for in vain.
    pub fn pod_cidrs_of<'a>(&'a self, node: &'a Node) -> impl Iterator<Item = IpNetwork> {
        let all = node.pod_cidrs.iter().copied();
        all.filter(|cidr| self.why_left_out(node, *cidr).is_none())
    }

    /// Why a Node asks for this podCIDR in vain, if it does.
    pub fn why_left_out(&self, node: &Node, cidr: IpNetwork) -> Option<&str> {
        let why = self.left_out.get(&(cidr, node.name.clone()))?;
        Some(why)
    }

    /// The addresses of the API servers and the ports at which they answer, as they publish them and as
    /// this agent uses them. What goes to the ClusterIP is on its way to them before any route matters.
    pub fn api_servers(&self) -> BTreeMap<IpAddr, BTreeSet<u16>> {
        let mut all = self.published_api_servers();
        for used in self.api_servers_used() {
            all.entry(used.ip()).or_default().insert(used.port());
        }
        all
    }

    /// The same as they publish them. The EndpointSlice that they write themselves has the name of the
    /// Service, and no other one counts, as others may be written by anyone who may write some in that
    /// namespace.
    pub fn published_api_servers(&self) -> BTreeMap<IpAddr, BTreeSet<u16>> {
        let mut all: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        let slice = self.slices.get(&api_service());
        for endpoint in slice.iter().flat_map(|slice| slice.endpoints.iter()) {
            let ports = slice.iter().flat_map(|slice| slice.ports.iter());
            let tcp = ports.filter(|port| port.protocol == Protocol::Tcp);
            all.entry(endpoint.address)
                .or_default()
                .extend(tcp.map(|port| port.port));
        }
        all
    }

    /// Where this agent itself uses the API server, but for the ClusterIP.
    pub fn api_servers_used(&self) -> impl Iterator<Item = &SocketAddr> {
        let service = self.services.get(&api_service());
        let is_cluster_ip =
            move |ip| service.is_some_and(|service| service.cluster_ips.contains(&ip));
        let all = self.api_servers_used.iter();
        all.filter(move |used| !is_cluster_ip(used.ip()))
    }

    /// Notes where this agent itself uses the API server.
    pub fn use_api_servers(&mut self, used: impl Iterator<Item = SocketAddr>) {
        self.api_servers_used = used.collect();
    }

    /// Notes which podCIDRs count for no Node, as they overlap the nodes' own network or one that another
    /// Node keeps, or have the API server in them.
    ///
    /// True if that is something else than before.
    pub fn leave_out(&mut self, left_out: LeftOut) -> bool {
        let is_new = self.left_out != left_out;
        self.left_out = left_out;
        is_new
    }

    /// Remembers the podCIDRs of this node for a time without its Node.
    pub fn remember_pod_cidrs(&mut self, cidrs: &[IpNetwork]) {
        self.last_pod_cidrs = cidrs.into();
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

/// Puts a value into a map; the key if that changed anything.
fn set<K: Ord + Clone, V: PartialEq>(map: &mut BTreeMap<K, V>, key: K, value: V) -> Option<K> {
    if map.get(&key) == Some(&value) {
        return None;
    }
    map.insert(key.clone(), value);
    Some(key)
}

/// Takes a value out of a map; the key if that changed anything.
fn gone<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K) -> Option<K> {
    map.remove(&key).map(|_| key)
}

/// Notes what changed, if anything did; true if so.
fn note<K: Ord>(changed: Option<K>, dirty: &mut BTreeSet<K>) -> bool {
    let any = changed.is_some();
    dirty.extend(changed);
    any
}

/// A name that sorts before all others of a namespace.
fn first_in(namespace: &str) -> ObjectName {
    ObjectName {
        namespace: Arc::from(namespace),
        name: Arc::from(""),
    }
}

/// What a map has of a namespace.
fn in_namespace<'a, V>(
    map: &'a BTreeMap<ObjectName, V>,
    namespace: &str,
) -> impl Iterator<Item = &'a V> {
    map.range(first_in(namespace)..)
        .take_while(move |(name, _)| *name.namespace == *namespace)
        .map(|(_, value)| value)
}

#[cfg(test)]
mod tests;
