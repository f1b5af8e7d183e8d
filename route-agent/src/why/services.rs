//! Which Service a packet is for, which endpoints may answer, and whether it is masqueraded: the
//! proxy's own plans as sentences.

use std::net::{IpAddr, SocketAddr};

use ipnetwork::IpNetwork;
use podwire_kernel::IpFamily;
use podwire_kernel::nft::{Family, KeyReader};

use crate::config::services::NodePortAddresses;
use crate::features::services::desired::endpoints::Backend;
use crate::features::services::desired::externals::Externals;
use crate::features::services::desired::frontends::{self, Claim, Frontend};
use crate::features::services::desired::networks;
use crate::features::services::desired::plan::{Plan, PortPlan};
use crate::features::services::desired::room::MOST_ENDPOINTS;
use crate::features::services::layout::elements::{Element, Key, Value, objects};
use crate::features::services::layout::names::{AffinityHolds, AffinityMap, FixedChain, Map, Pool};
use crate::features::services::layout::portals;
use crate::ours::SERVICES_TABLE as TABLE;
use crate::snapshot::{Balancing, Protocol, Service, ServicePort, TrafficPolicy};
use crate::why::facts::{Facts, Party};
use crate::why::question::Transport;
use crate::why::{Check, Hop, owners};

/// The Service port that takes a packet.
pub(super) struct Match<'a> {
    pub service: &'a Service,
    pub port: PortPlan,
    pub front: Frontend,
}

/// What becomes of a packet to a Service.
pub(super) enum Choice<'a> {
    /// One of these endpoints gets it.
    Endpoints(Candidates<'a>),
    /// An error is sent back; the hop says why.
    Refused(Hop),
    /// Nothing is sent back; the hop says why.
    Dropped(Hop),
}

/// The endpoints of which one gets a packet.
#[derive(Clone, Copy)]
pub(super) struct Candidates<'a> {
    pub list: &'a [Backend],
    /// Local if only endpoints of this node are in the list.
    pub policy: TrafficPolicy,
}

/// What becomes of the source of a packet to a Service, and why.
pub(super) enum SourceAddress {
    /// The endpoint sees the client's address.
    Stays(&'static str),
    /// The endpoint sees this node's address.
    Replaced(&'static str),
}

/// The Service that has this address as a ClusterIP, whatever the port.
pub(super) fn with_cluster_ip<'a>(facts: &Facts<'a>, address: IpAddr) -> Option<&'a Service> {
    let claim = Claim::ClusterIp(address);
    owners::owner(facts, IpFamily::of(address), claim)
}

/// The Service port that the kernel sends a packet to. An address and port of a Service go before
/// a node port.
pub(super) fn find<'a>(
    facts: &Facts<'a>,
    from: &Party<'_>,
    address: IpAddr,
    protocol: Protocol,
    port: u16,
) -> Option<Match<'a>> {
    let node_port = facts.is_own(address) && answers_node_ports(facts, from, address);
    let claims = [
        Some(Claim::Vip(address, protocol, port)),
        node_port.then_some(Claim::NodePort(protocol, port)),
    ];
    let mut claims = claims.into_iter().flatten();
    claims.find_map(|claim| granted(facts, IpFamily::of(address), claim))
}

/// The Service port that was granted a claim.
fn granted<'a>(facts: &Facts<'a>, family: IpFamily, claim: Claim) -> Option<Match<'a>> {
    let service = owners::owner(facts, family, claim)?;
    let plan = owners::plan(facts, service, family)?;
    plan.ports.iter().find_map(|port| {
        let asked = |front: &&Frontend| Claim::at(front, port.protocol, port.port) == claim;
        Some(Match {
            service,
            front: *port.frontends.iter().find(asked)?,
            port: port.clone(),
        })
    })
}

/// True if node ports answer at this address of the node.
fn answers_node_ports(facts: &Facts<'_>, from: &Party<'_>, address: IpAddr) -> bool {
    let settings = &facts.config.services;
    if address.is_loopback() {
        return address.is_ipv4() && settings.localhost_node_ports && *from == Party::OwnNode;
    }
    match settings.node_port_addresses {
        NodePortAddresses::All => true,
        _ => networks_of(facts, address)
            .node_ports
            .iter()
            .any(|network| network.contains(address)),
    }
}

pub(super) fn networks_of(facts: &Facts<'_>, address: IpAddr) -> networks::Networks {
    networks::desired(
        facts.snapshot,
        facts.own_node(),
        &facts.config.services,
        &Externals::of(facts.snapshot, facts.config).beside(facts.uplink),
        IpFamily::of(address),
    )
}

impl Match<'_> {
    /// `default/web, port 9000/tcp (http)`.
    pub fn title(&self) -> String {
        let name = match &*self.port.name {
            "" => String::new(),
            name => format!(" ({name})"),
        };
        let (port, protocol) = (self.port.port, self.port.protocol.name());
        format!("{}, port {port}/{protocol}{name}", self.service.name)
    }

    fn front_text(&self) -> String {
        match self.front {
            Frontend::ClusterIp(address) => format!("ClusterIP {address}"),
            Frontend::LoadBalancer(address) => format!("load-balancer address {address}"),
            Frontend::ExternalIp(address) => format!("external IP {address}"),
            Frontend::NodePort(port) => format!("node port {port}"),
        }
    }

    /// The hop at which the Service is recognised.
    pub fn hop(&self, family: IpFamily) -> Hop {
        let (map, key) = portals::portal(&self.port, &self.front);
        let map = map.name();
        let table = table(family);
        Hop::new(format!(
            "Service {}: its {}",
            self.title(),
            self.front_text()
        ))
        .because(format!(
            "The map `{map}` of table {table} knows this destination, so it will be replaced \
                 by one of the Service's endpoints, before any route is looked up. It holds a \
                 number, and the map `answers` says which chain that is."
        ))
        .see(format!("nft list map {table} {map}"))
        .ask(Check::Portal {
            family,
            map: map.to_owned(),
            key: key.as_bytes().to_vec(),
            wanted: portals::chain(&self.service.name, &self.port, &self.front),
        })
    }

    /// What a packet to an endpoint carries.
    pub fn transport(&self, backend: &Backend) -> Transport {
        Transport::Port(self.port.protocol, backend.port)
    }

    /// The chain that decides whether the source stays.
    pub fn masquerade_chain(&self) -> &'static str {
        if self.is_external() {
            FixedChain::WhyMasquerade.name()
        } else {
            FixedChain::ToClusterIp.name()
        }
    }

    fn is_external(&self) -> bool {
        !matches!(self.front, Frontend::ClusterIp(_))
    }

    /// Who may answer a packet from there.
    pub fn choose(&self, facts: &Facts<'_>, source: IpAddr) -> Choice<'_> {
        if let Some(ranges) = self.source_ranges()
            && !ranges.iter().any(|range| range.contains(source))
        {
            let hop = Hop::new(format!("{source} may not use this address"));
            return Choice::Dropped(hop.because(not_allowed(source, ranges)));
        }
        let policy = self.policy(facts, source);
        let list = match policy {
            TrafficPolicy::Cluster => &self.port.cluster,
            TrafficPolicy::Local => &self.port.local,
        };
        // The kernel has no room for more.
        let list = &list[..list.len().min(MOST_ENDPOINTS)];
        if !list.is_empty() {
            return Choice::Endpoints(Candidates { list, policy });
        }
        let hop = Hop::new("No endpoint may answer");
        if policy == TrafficPolicy::Local && self.port.any {
            return Choice::Dropped(hop.because(self.none_is_local()));
        }
        Choice::Refused(hop.because(
            "No endpoint of the Service is ready (chain no-endpoints), so the connection is \
             refused: TCP gets a reset, others \"port unreachable\".",
        ))
    }

    /// The policy that counts for a client: for this node and its pods, external addresses lead to
    /// all endpoints. The kernel knows its pods by their addresses (chain external-local).
    fn policy(&self, facts: &Facts<'_>, source: IpAddr) -> TrafficPolicy {
        if !self.is_external() {
            return self.port.internal;
        }
        let pods = networks_of(facts, source).own_pods;
        if facts.is_own(source) || pods.iter().any(|network| network.contains(source)) {
            TrafficPolicy::Cluster
        } else {
            self.port.external
        }
    }

    /// The sources that may use this address, if not all may.
    fn source_ranges(&self) -> Option<&[IpNetwork]> {
        match self.front {
            Frontend::LoadBalancer(_) => self.port.sources.as_deref(),
            _ => None,
        }
    }

    /// Why a packet is dropped that only endpoints of this node could have got.
    fn none_is_local(&self) -> String {
        let (name, meaning) = if self.is_external() {
            (
                "externalTrafficPolicy",
                "the source is neither this node nor one of its pods",
            )
        } else {
            (
                "internalTrafficPolicy",
                "only endpoints on the client's node may answer",
            )
        };
        format!(
            "{name} is Local, {meaning}, and no endpoint on this node is ready (chain \
             no-local-endpoints), so the packet is dropped."
        )
    }

    /// Which source range lets a source in, if not every source may use this address.
    pub fn let_in(&self, source: IpAddr) -> Option<String> {
        let mut ranges = self.source_ranges()?.iter();
        let range = ranges.find(|range| range.contains(source))?;
        Some(format!(
            "Not every source may use this address: {range} of loadBalancerSourceRanges lets \
             {source} in."
        ))
    }

    /// The hop at which one endpoint is chosen.
    pub fn endpoints_hop(&self, among: Candidates<'_>, source: IpAddr, family: IpFamily) -> Hop {
        let Candidates { list, policy } = among;
        let place = match policy {
            TrafficPolicy::Cluster => "",
            TrafficPolicy::Local => " on this node (traffic policy Local)",
        };
        let hop = Hop::new(match list {
            [only] => format!("The only endpoint{place}: {}", socket(only)),
            list => format!(
                "One of {} endpoints{place}, {}",
                list.len(),
                self.how(list.len())
            ),
        });
        let (map, key) = self.endpoint_map(policy);
        let mut hop = hop
            .see(format!("nft list map {} {map}", table(family)))
            .ask(Check::Endpoints {
                family,
                map,
                key: key.as_bytes().to_vec(),
                wanted: list.iter().map(socket).collect(),
            });
        if let Some(seconds) = self.port.affinity {
            hop = hop
                .because(format!(
                    "sessionAffinity ClientIP: a client that was here in the last {seconds} s gets \
                     the endpoint that it had."
                ))
                .ask(Check::Client {
                    family,
                    map: self.clients_map(),
                    client: source,
                    endpoints: self.numbered(policy),
                });
        }
        hop
    }

    /// The share of one endpoint.
    fn how(&self, count: usize) -> String {
        let share = 100.0 / count as f64;
        match self.port.balancing {
            Balancing::Random => format!("at random, each gets {share:.1} % of new connections"),
            Balancing::RoundRobin => format!("one after the other, each exactly {share:.1} %"),
            Balancing::SourceHash => {
                "by a hash of the source address: a client always gets the same".to_owned()
            }
        }
    }

    /// The endpoints by the numbers that clients are remembered with.
    fn numbered(&self, policy: TrafficPolicy) -> Vec<(u32, SocketAddr)> {
        let map = Map::Affinity(self.affinity(policy, AffinityHolds::Endpoints));
        let plan = Plan {
            ports: Box::new([self.port.clone()]),
            ..Plan::default()
        };
        let endpoint = |element: &Element| match element.value {
            Value::Backend(backend) if element.map == map => {
                let number = KeyReader::new(element.key.as_bytes()).number()?;
                Some((number, socket(&backend)))
            }
            _ => None,
        };
        let elements = objects(&self.service.name, &plan).elements;
        elements.iter().filter_map(endpoint).collect()
    }

    fn affinity(&self, policy: TrafficPolicy, holds: AffinityHolds) -> AffinityMap {
        AffinityMap {
            protocol: self.port.protocol,
            port: self.port.port,
            local: policy == TrafficPolicy::Local,
            holds,
        }
    }

    /// Where clients are remembered, whatever the policy.
    fn clients_map(&self) -> String {
        let map = self.affinity(TrafficPolicy::Cluster, AffinityHolds::Clients);
        map.name(&self.service.name)
    }

    /// The map of the endpoints, and what their keys begin with.
    fn endpoint_map(&self, policy: TrafficPolicy) -> (String, Key) {
        if self.port.affinity.is_some() {
            let map = self.affinity(policy, AffinityHolds::Endpoints);
            return (map.name(&self.service.name), Key::new());
        }
        let pool = match (self.front, policy) {
            (Frontend::NodePort(_), TrafficPolicy::Cluster) => Pool::NodePortEndpoints,
            (Frontend::NodePort(_), TrafficPolicy::Local) => Pool::NodePortLocalEndpoints,
            (Frontend::LoadBalancer(_) | Frontend::ExternalIp(_), TrafficPolicy::Local) => {
                Pool::LocalEndpoints
            }
            _ => Pool::Endpoints,
        };
        let (_, key) = portals::portal(&self.port, &self.front);
        (pool.map().to_owned(), key)
    }

    /// Is the source replaced by this node's address, and why?
    pub fn masquerade(&self, facts: &Facts<'_>, from: &Party<'_>, source: IpAddr) -> SourceAddress {
        use SourceAddress::{Replaced, Stays};
        let networks = networks_of(facts, source);
        let is_among = |list: &[IpNetwork]| list.iter().any(|network| network.contains(source));
        let all = facts.config.services.masquerade_all;
        if self.is_external() {
            return match (self.port.external, from) {
                (TrafficPolicy::Cluster, _) if !all && is_among(&networks.own_pods) => Stays(
                    "A pod of this node asks: replies come back through this node anyway, and the \
                     endpoint sees the pod's own address (chain policy-cluster).",
                ),
                (TrafficPolicy::Cluster, _) => Replaced(
                    "externalTrafficPolicy is Cluster: the endpoint may be on any node, and \
                     replies must come back through this one (chain policy-cluster).",
                ),
                (TrafficPolicy::Local, Party::OwnNode) => Replaced(
                    "The node itself is the client: replies must come back to it (chain \
                     policy-local).",
                ),
                (TrafficPolicy::Local, _) => Stays(
                    "externalTrafficPolicy is Local: the endpoint sees the client's address \
                     (chain policy-local).",
                ),
            };
        }
        if all {
            return Replaced("--masquerade-all is set: all traffic to ClusterIPs is masqueraded.");
        }
        if is_among(&networks.pods) {
            return Stays(
                "A pod connects to a ClusterIP: the endpoint sees the pod's own address (chain \
                 to-cluster-ip).",
            );
        }
        Replaced(
            "The source is not a pod, so replies must come back through this node (chain \
             to-cluster-ip).",
        )
    }
}

/// Why a ping to a ClusterIP is refused.
pub(super) const NO_PING: &str = "A ClusterIP is a rule, not a machine: it has ports and does not \
                                  answer ping. That says nothing about the Service.";

/// How many ports of a Service are named.
const NAMED_PORTS: usize = 16;

/// Why a packet to a ClusterIP is refused that goes to none of the ports that are served there.
pub(super) fn no_such_port(service: &Service, protocol: Protocol, port: u16) -> String {
    let is_asked = |one: &ServicePort| (one.protocol, one.port) == (protocol, port);
    if frontends::ports(service).any(is_asked) {
        return "The Service has this port, but it is not served: another Service has it, or there is \
                no room for it (podwire-agent status says which)."
            .to_owned();
    }
    let mut ports: Vec<String> = frontends::ports(service)
        .take(NAMED_PORTS)
        .map(|port| format!("{}/{}", port.port, port.protocol.name()))
        .collect();
    let more = frontends::ports(service).skip(NAMED_PORTS).count();
    ports.extend((more > 0).then(|| format!("and {more} more")));
    format!(
        "The Service has no such port (chain no-such-port). It has {}.",
        ports.join(", ")
    )
}

/// Why a packet to an address that a Service may get, and none has, is dropped.
pub(super) fn not_assigned(network: IpNetwork) -> String {
    format!("It is in the Service network {network}, but not assigned.")
}

/// Why a load-balancer address takes nothing from a source.
fn not_allowed(source: IpAddr, ranges: &[IpNetwork]) -> String {
    let texts: Vec<String> = ranges.iter().map(ToString::to_string).collect();
    let which = match texts.as_slice() {
        [] => "none is of this family".to_owned(),
        texts => texts.join(", "),
    };
    format!(
        "{source} is in none of the Service's loadBalancerSourceRanges ({which}), so the packet is \
         dropped (chain check-source)."
    )
}

pub(super) fn socket(backend: &Backend) -> SocketAddr {
    SocketAddr::new(backend.address, backend.port)
}

/// The table of a family, as `nft` wants it.
pub(super) fn table(family: IpFamily) -> String {
    format!("{} {TABLE}", Family::from(family))
}
