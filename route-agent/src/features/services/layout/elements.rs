//! Which elements and chains the plan of a Service needs.
//!
//! Pure. Keys are as the kernel compares them: each field in network byte order and padded to
//! four bytes, but for the slot, which is a number in host byte order.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use podwire::hash::fnv1a;

use crate::features::services::desired::endpoints::Backend;
use crate::features::services::desired::frontends::Frontend;
use crate::features::services::desired::plan::{Plan, PortPlan};
use crate::features::services::desired::room::MOST_ENDPOINTS;
use crate::features::services::layout::answers::{Answer, OwnAnswer, SCRATCH, SCRATCH_MASK};
use crate::features::services::layout::names::{
    AffinityHolds, AffinityMap, Chain, FixedChain, FixedMap, Map, OwnChain, OwnKind, Pool,
    SharedChain,
};
use crate::snapshot::{Balancing, ObjectName, Protocol, TrafficPolicy};

/// The key of an element, up to 40 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    bytes: [u8; Key::LONGEST],
    length: u8,
}

impl Key {
    /// IPv6 address . protocol . port . IPv6 address.
    const LONGEST: usize = 40;

    /// An empty key.
    pub const fn new() -> Key {
        Key {
            bytes: [0; Key::LONGEST],
            length: 0,
        }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// With one more field.
    pub fn field(mut self, bytes: &[u8]) -> Key {
        let start = usize::from(self.length);
        self.bytes[start..start + bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len().next_multiple_of(4) as u8;
        self
    }

    /// With an address.
    pub fn address(self, address: IpAddr) -> Key {
        match address {
            IpAddr::V4(v4) => self.field(&v4.octets()),
            IpAddr::V6(v6) => self.field(&v6.octets()),
        }
    }

    /// With a transport protocol and a port.
    pub fn transport(self, protocol: Protocol, port: u16) -> Key {
        self.field(&[protocol.number()]).field(&port.to_be_bytes())
    }

    /// With a number as the kernel's generators make it.
    pub fn number(self, number: u32) -> Key {
        self.field(&number.to_ne_bytes())
    }
}

impl Default for Key {
    fn default() -> Self {
        Key::new()
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.as_bytes()
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What an element says about its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Value {
    /// Nothing: a set.
    Member,
    /// Nothing; the element is a range that ends here.
    Until(Key),
    /// What a portal answers.
    Answer(Answer),
    /// Go to a chain.
    Goto(Chain),
    /// An endpoint.
    Backend(Backend),
    /// The number of an endpoint, host byte order.
    Number(u32),
}

/// One element of a map or set.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Element {
    /// Where it lies.
    pub map: Map,
    /// Its key.
    pub key: Key,
    /// Its value.
    pub value: Value,
    /// `namespace/name:port`.
    pub comment: Arc<str>,
}

/// A chain of one Service port, with all that its rules depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OwnChainSpec {
    /// Which chain.
    pub chain: OwnChain,
    /// The number of endpoints, at least 1.
    pub count: u32,
    /// How a new client is given an endpoint.
    pub balancing: Balancing,
    /// How long a client is remembered, in seconds; 0 without affinity.
    pub timeout: u32,
}

/// Everything in the kernel that belongs to one Service, sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Objects {
    /// Elements; no two have the same map and key.
    pub elements: Vec<Element>,
    /// Chains of its own.
    pub chains: BTreeSet<OwnChainSpec>,
    /// Maps of its own.
    pub maps: BTreeSet<AffinityMap>,
    /// What its portals answer, as far as it is in the map of answers.
    pub answers: BTreeSet<Answer>,
    /// Endpoints of this node, which may be shared with other Services.
    pub local: BTreeSet<IpAddr>,
}

/// What the kernel must hold for a Service.
pub fn objects(service: &ObjectName, plan: &Plan) -> Objects {
    let mut objects = Objects::default();
    let comment: Arc<str> = Arc::from(service.to_string());
    for address in &plan.cluster_ips {
        objects.elements.push(Element {
            map: FixedMap::ClusterIps.into(),
            key: Key::new().address(*address),
            value: Value::Member,
            comment: comment.clone(),
        });
    }
    for port in &plan.ports {
        Writer::new(service, port, &mut objects).write();
        objects
            .local
            .extend(port.local.iter().map(|backend| backend.address));
    }
    objects.elements.sort_unstable();
    let place = |element: &Element| (element.map, element.key);
    debug_assert!(
        (objects.elements.windows(2)).all(|two| place(&two[0]) != place(&two[1])),
        "two elements of {service} have one map and key"
    );
    objects
}

/// The comment of a Service port's elements.
pub fn comment(service: &ObjectName, name: &str, port: u16) -> String {
    match name {
        "" => format!("{service}:{port}"),
        name => format!("{service}:{name}"),
    }
}

/// A number for an endpoint that does not depend on its neighbours, so that a client that is
/// remembered by it stays with its endpoint whatever else changes. FNV-1a, folded to 28 bits; the
/// upper four are those by which postrouting knows that it has to clean up.
pub fn endpoint_number(backend: &Backend) -> u32 {
    let key = Key::new().address(backend.address);
    let port = backend.port.to_be_bytes();
    let hash = fnv1a(key.as_bytes().iter().copied().chain(port));
    let folded = (hash ^ (hash >> 32)) as u32;
    SCRATCH | (folded & !SCRATCH_MASK)
}

/// Which endpoints, and by which chains they are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Cluster,
    Local,
}

struct Writer<'a> {
    port: &'a PortPlan,
    comment: Arc<str>,
    objects: &'a mut Objects,
}

impl<'a> Writer<'a> {
    fn new(service: &'a ObjectName, port: &'a PortPlan, objects: &'a mut Objects) -> Self {
        Writer {
            port,
            comment: Arc::from(comment(service, &port.name, port.port)),
            objects,
        }
    }

    fn write(&mut self) {
        for front in self.port.frontends.iter().copied() {
            match front {
                Frontend::ClusterIp(address) => self.cluster_ip(address),
                Frontend::ExternalIp(address) => self.external(address, None),
                Frontend::LoadBalancer(address) => {
                    self.external(address, self.port.sources.as_deref());
                }
                Frontend::NodePort(node_port) => self.node_port(node_port),
            }
        }
    }

    fn push(&mut self, map: impl Into<Map>, key: Key, value: Value) {
        self.objects.elements.push(Element {
            map: map.into(),
            key,
            value,
            comment: self.comment.clone(),
        });
    }

    fn vip(&self, address: IpAddr) -> Key {
        Key::new()
            .address(address)
            .transport(self.port.protocol, self.port.port)
    }

    fn cluster_ip(&mut self, address: IpAddr) {
        let key = self.vip(address);
        let who = match self.port.internal {
            TrafficPolicy::Cluster => Who::Cluster,
            TrafficPolicy::Local => Who::Local,
        };
        let answer = self.answer(who, Pool::Endpoints, key);
        self.portal(FixedMap::Services, key, answer);
    }

    /// An element that says what is answered to a connection there.
    fn portal(&mut self, map: FixedMap, key: Key, answer: Answer) {
        if !answer.depends_on_source() {
            self.objects.answers.insert(answer);
        }
        self.push(map, key, Value::Answer(answer));
    }

    fn external(&mut self, address: IpAddr, sources: Option<&[IpNetwork]>) {
        let key = self.vip(address);
        let pools = Pools {
            inside: FixedMap::Inside,
            outside: FixedMap::Outside,
            all: Pool::Endpoints,
            local: Pool::LocalEndpoints,
            ask: Answer::ExternalLocal,
            masquerade: FixedMap::MasqueradeVips,
            policies: [FixedChain::PolicyCluster, FixedChain::PolicyLocal],
        };
        let answer = self.by_policy(key, &pools);
        let Some(sources) = sources else {
            self.portal(FixedMap::Services, key, answer);
            return;
        };
        self.portal(FixedMap::Services, key, Answer::CheckSource);
        self.portal(FixedMap::Allowed, key, answer);
        for range in sources {
            let (first, last) = (key.address(range.network()), key.address(range.broadcast()));
            let value = if first == last {
                Value::Member
            } else {
                Value::Until(last)
            };
            self.push(FixedMap::AllowedSources, first, value);
        }
    }

    fn node_port(&mut self, node_port: u16) {
        let key = Key::new().transport(self.port.protocol, node_port);
        let pools = Pools {
            inside: FixedMap::NodePortsInside,
            outside: FixedMap::NodePortsOutside,
            all: Pool::NodePortEndpoints,
            local: Pool::NodePortLocalEndpoints,
            ask: Answer::NodePortLocal,
            masquerade: FixedMap::MasqueradeNodePorts,
            policies: [
                FixedChain::NodePortPolicyCluster,
                FixedChain::NodePortPolicyLocal,
            ],
        };
        let answer = self.by_policy(key, &pools);
        self.portal(FixedMap::NodePorts, key, answer);
    }

    /// What a connection from outside the cluster is answered, by `externalTrafficPolicy`.
    fn by_policy(&mut self, key: Key, pools: &Pools) -> Answer {
        let local = self.port.external == TrafficPolicy::Local;
        let reason = Chain::Fixed(pools.policies[usize::from(local)]);
        self.push(pools.masquerade, key, Value::Goto(reason));
        if !self.port.any {
            return Answer::NoEndpoints;
        }
        if !local {
            return self.answer(Who::Cluster, pools.all, key);
        }
        let inside = self.answer(Who::Cluster, pools.all, key);
        let outside = self.answer(Who::Local, pools.local, key);
        self.portal(pools.inside, key, inside);
        self.portal(pools.outside, key, outside);
        pools.ask
    }

    /// The answer that leads to the endpoints of `who`, and the elements that it needs.
    fn answer(&mut self, who: Who, pool: Pool, key: Key) -> Answer {
        let port = self.port;
        let backends = match who {
            Who::Cluster => &port.cluster,
            Who::Local => &port.local,
        };
        let backends = &backends[..backends.len().min(MOST_ENDPOINTS)];
        let count = backends.len() as u32;
        if backends.is_empty() {
            return if port.any {
                Answer::NoLocalEndpoints
            } else {
                Answer::NoEndpoints
            };
        }
        if let Some(timeout) = port.affinity {
            let chain = self.affinity(who, backends, timeout);
            return self.own_answer(who, pool, key, chain);
        }
        for (slot, backend) in backends.iter().enumerate() {
            self.push(
                FixedMap::Pool(pool),
                key.number(slot as u32),
                Value::Backend(*backend),
            );
        }
        if port.balancing == Balancing::RoundRobin {
            let chain = self.own(OwnKind::RoundRobin(pool));
            let spec = OwnChainSpec {
                chain,
                count,
                balancing: port.balancing,
                timeout: 0,
            };
            self.objects.chains.insert(spec);
            return self.own_answer(who, pool, key, chain);
        }
        let hash = port.balancing == Balancing::SourceHash;
        Answer::Shared(SharedChain { pool, hash, count })
    }

    /// The answer that leads to a chain of the Service port's own, and the element that says which.
    fn own_answer(&mut self, who: Who, pool: Pool, key: Key, chain: OwnChain) -> Answer {
        let node_port = !pool.has_address();
        let local = who == Who::Local;
        let answer = Answer::Own(OwnAnswer { node_port, local });
        let map = if node_port {
            FixedMap::NodePortOwnChains
        } else {
            FixedMap::OwnChains
        };
        let key = key.number(answer.number());
        self.push(map, key, Value::Goto(Chain::Own(chain)));
        answer
    }

    fn own(&self, kind: OwnKind) -> OwnChain {
        OwnChain {
            protocol: self.port.protocol,
            port: self.port.port,
            kind,
        }
    }

    /// The chain that remembers clients: one for all addresses of the port, written once.
    fn affinity(&mut self, who: Who, backends: &[Backend], timeout: u32) -> OwnChain {
        let local = who == Who::Local;
        let chain = self.own(if local {
            OwnKind::AffinityLocal
        } else {
            OwnKind::Affinity
        });
        let count = backends.len() as u32;
        let spec = OwnChainSpec {
            chain,
            count,
            balancing: self.port.balancing,
            timeout,
        };
        if !self.objects.chains.insert(spec) {
            return chain;
        }
        let map = |local, holds| AffinityMap {
            protocol: self.port.protocol,
            port: self.port.port,
            local,
            holds,
        };
        let choices = map(local, AffinityHolds::Choices);
        let endpoints = map(local, AffinityHolds::Endpoints);
        let clients = map(false, AffinityHolds::Clients);
        self.objects.maps.extend([clients, choices, endpoints]);
        let mut taken = BTreeSet::new();
        for (slot, backend) in backends.iter().enumerate() {
            let mut number = endpoint_number(backend);
            while !taken.insert(number) {
                number = SCRATCH | (number.wrapping_add(1) & !SCRATCH_MASK);
            }
            let slot = Key::new().number(slot as u32);
            self.push(choices, slot, Value::Number(number));
            let number = Key::new().number(number);
            self.push(endpoints, number, Value::Backend(*backend));
        }
        chain
    }
}

/// The maps for one way in from outside the cluster.
struct Pools {
    inside: FixedMap,
    outside: FixedMap,
    all: Pool,
    local: Pool,
    ask: Answer,
    masquerade: FixedMap,
    /// Why it is masqueraded with policy Cluster, and why or why not with policy Local.
    policies: [FixedChain; 2],
}
