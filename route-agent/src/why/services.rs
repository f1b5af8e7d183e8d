//! Which Service a packet is for, which endpoints may answer, and whether it is masqueraded: the
//! proxy's own plans, told as sentences.

use std::net::{IpAddr, SocketAddr};

use ipnetwork::IpNetwork;

use crate::config::services::NodePortAddresses;
use crate::features::services::desired::endpoints::{Backend, Here};
use crate::features::services::desired::frontends::{self, Frontend};
use crate::features::services::desired::networks;
use crate::features::services::desired::plan::{self, PortPlan};
use crate::features::services::layout::elements::{Key, endpoint_number};
use crate::features::services::layout::names::{AffinityHolds, AffinityMap, FixedChain, Pool};
use crate::features::services::layout::portals;
use crate::ours::SERVICES_TABLE as TABLE;
use crate::snapshot::{Balancing, Protocol, Service, TrafficPolicy};
use crate::why::facts::{Facts, Party};
use crate::why::{Check, Hop};
use podwire_kernel::IpFamily;

/// The Service port that takes a packet.
pub(super) struct Match<'a> {
    pub service: &'a Service,
    pub port: PortPlan,
    pub front: Frontend,
}

/// What becomes of a packet to a Service.
pub(super) enum Choice<'a> {
    /// One of these endpoints gets it.
    Endpoints {
        list: &'a [Backend],
        /// Endpoints of this node only.
        local: bool,
    },
    /// An error is sent back, or nothing at all.
    None {
        refused: bool,
        what: String,
        why: String,
    },
}

/// The Service that has this address as a ClusterIP, whatever the port.
pub(super) fn with_cluster_ip<'a>(facts: &Facts<'a>, address: IpAddr) -> Option<&'a Service> {
    facts.snapshot.services.values().find(|service| {
        frontends::cluster_ips(service, IpFamily::of(address)).any(|one| one == address)
    })
}

/// The Service port that answers at this address and port. If several claim it, the oldest.
pub(super) fn find<'a>(
    facts: &Facts<'a>,
    from: &Party<'_>,
    address: IpAddr,
    protocol: Protocol,
    port: u16,
) -> Option<Match<'a>> {
    let node_port = facts.is_own(address) && answers_node_ports(facts, from, address);
    let fits = |plan: &PortPlan, front: &Frontend| {
        plan.protocol == protocol
            && match front {
                Frontend::NodePort(number) => node_port && *number == port,
                other => other.address() == Some(address) && plan.port == port,
            }
    };
    let mut found: Vec<Match<'a>> = facts
        .snapshot
        .services
        .values()
        .filter_map(|service| {
            let plan = plan_of(facts, service, IpFamily::of(address))?;
            plan.ports.iter().find_map(|port| {
                let front = *port.frontends.iter().find(|front| fits(port, front))?;
                Some(Match {
                    service,
                    port: port.clone(),
                    front,
                })
            })
        })
        .collect();
    // A portal at an address goes before the node ports.
    found.sort_by_key(|found| {
        let created = found.service.created.unwrap_or(u64::MAX);
        (matches!(found.front, Frontend::NodePort(_)), created)
    });
    found.into_iter().next()
}

fn plan_of(facts: &Facts<'_>, service: &Service, family: IpFamily) -> Option<plan::Plan> {
    let here = Here::of(&facts.config.node_name, facts.own_node());
    let slices = facts.snapshot.slices_of(&service.name).collect::<Vec<_>>();
    let balancing = facts.config.services.balancing.balancing;
    plan::desired(service, slices.into_iter(), family, here, balancing, |_| {
        true
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
    pub fn hop(&self, v6: bool) -> Hop {
        let (map, key) = portals::portal(&self.port, &self.front);
        let map = map.name();
        let table = table(v6);
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
            v6,
            map: map.to_owned(),
            key: key.as_bytes().to_vec(),
            wanted: portals::chain(&self.service.name, &self.port, &self.front),
        })
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
    pub fn choose(&self, from: &Party<'_>, source: IpAddr) -> Choice<'_> {
        let policy = if self.is_external() {
            self.port.external
        } else {
            self.port.internal
        };
        let inside = matches!(from, Party::Pod(_) | Party::OwnNode);
        let (name, other) = if self.is_external() {
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
        if let (Frontend::LoadBalancer(_), Some(ranges)) = (self.front, &self.port.sources) {
            let allowed = ranges.iter().any(|range| range.contains(source));
            if !allowed {
                return Choice::None {
                    refused: false,
                    what: format!("{source} may not use this address"),
                    why: not_allowed(source, ranges),
                };
            }
        }
        let local = policy == TrafficPolicy::Local && !(self.is_external() && inside);
        let list = if local {
            &self.port.local
        } else {
            &self.port.cluster
        };
        if !list.is_empty() {
            return Choice::Endpoints { list, local };
        }
        if local && self.port.any {
            let why = format!(
                "{name} is Local, {other}, and no endpoint on this node is ready (chain \
                 no-local-endpoints), so the packet is dropped."
            );
            return Choice::None {
                refused: false,
                what: "No endpoint may answer".into(),
                why,
            };
        }
        let why = "No endpoint of the Service is ready (chain no-endpoints), so the connection is \
                   refused: TCP gets a reset, others \"port unreachable\"."
            .to_owned();
        Choice::None {
            refused: true,
            what: "No endpoint may answer".into(),
            why,
        }
    }

    /// Which source range lets a source in, if not everybody may use this address.
    pub fn let_in(&self, source: IpAddr) -> Option<String> {
        let (Frontend::LoadBalancer(_), Some(ranges)) = (self.front, &self.port.sources) else {
            return None;
        };
        let range = ranges.iter().find(|range| range.contains(source))?;
        Some(format!(
            "Not everybody may use this address: {range} of loadBalancerSourceRanges lets {source} in."
        ))
    }

    /// The hop at which one endpoint is chosen.
    pub fn endpoints_hop(&self, list: &[Backend], local: bool, source: IpAddr, v6: bool) -> Hop {
        let count = list.len();
        let policy = if local {
            " on this node (traffic policy Local)"
        } else {
            ""
        };
        let mut hop = Hop::new(match count {
            1 => format!("The only endpoint{policy}: {}", socket(&list[0])),
            _ => format!("One of {count} endpoints{policy}, {}", self.how(count)),
        });
        let (map, key) = self.endpoint_map(local);
        if let Some(seconds) = self.port.affinity {
            hop = hop.because(format!(
                "sessionAffinity ClientIP: a client that was here in the last {seconds} s gets the \
                 endpoint that it had."
            ));
            let clients = self.affinity_map(false, AffinityHolds::Clients);
            hop = hop.ask(Check::Client {
                v6,
                map: clients,
                client: source,
                endpoints: list
                    .iter()
                    .map(|one| (endpoint_number(one), socket(one)))
                    .collect(),
            });
        } else {
            hop = hop.ask(Check::Endpoints {
                v6,
                map: map.clone(),
                key: key.as_bytes().to_vec(),
                wanted: list.iter().map(socket).collect(),
            });
        }
        hop.see(format!("nft list map {} {map}", table(v6)))
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

    fn affinity_map(&self, local: bool, holds: AffinityHolds) -> String {
        AffinityMap {
            protocol: self.port.protocol,
            port: self.port.port,
            local,
            holds,
        }
        .name(&self.service.name)
    }

    fn endpoint_map(&self, local: bool) -> (String, Key) {
        if self.port.affinity.is_some() {
            return (
                self.affinity_map(local, AffinityHolds::Endpoints),
                Key::new(),
            );
        }
        let pool = match (self.front, local) {
            (Frontend::NodePort(_), false) => Pool::NodePortEndpoints,
            (Frontend::NodePort(_), true) => Pool::NodePortLocalEndpoints,
            (Frontend::LoadBalancer(_) | Frontend::ExternalIp(_), true) => Pool::LocalEndpoints,
            _ => Pool::Endpoints,
        };
        (
            pool.map().to_owned(),
            portals::portal(&self.port, &self.front).1,
        )
    }

    /// Is the source replaced by this node's address, and why?
    pub fn masquerade(
        &self,
        facts: &Facts<'_>,
        from: &Party<'_>,
        source: IpAddr,
    ) -> (bool, String) {
        if self.is_external() {
            return match (self.port.external, from) {
                (TrafficPolicy::Cluster, _) => (
                    true,
                    "externalTrafficPolicy is Cluster: the endpoint may be on any node, and its \
                     answer must come back through this one (chain policy-cluster)."
                        .into(),
                ),
                (TrafficPolicy::Local, Party::OwnNode) => (
                    true,
                    "The node itself asks: the answer must come back to it (chain policy-local)."
                        .into(),
                ),
                (TrafficPolicy::Local, _) => (
                    false,
                    "externalTrafficPolicy is Local: the endpoint sees who asks (chain \
                     policy-local)."
                        .into(),
                ),
            };
        }
        let settings = &facts.config.services;
        let pods = networks_of(facts, source).pods;
        if settings.masquerade_all {
            let why = "--masquerade-all is set: all traffic to ClusterIPs is masqueraded.";
            return (true, why.into());
        }
        if pods.iter().any(|network| network.contains(source)) {
            let why = "A pod asks a ClusterIP: the endpoint sees the pod's own address (chain \
                       to-cluster-ip).";
            return (false, why.into());
        }
        let why = "The source is no pod, so the endpoint must answer to this node (chain \
                   to-cluster-ip).";
        (true, why.into())
    }
}

/// Why a load-balancer address takes nothing from this source.
fn not_allowed(source: IpAddr, ranges: &[IpNetwork]) -> String {
    let texts: Vec<String> = ranges.iter().map(ToString::to_string).collect();
    let which = match texts.as_slice() {
        [] => "of this family there are none".to_owned(),
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
pub(super) fn table(v6: bool) -> String {
    format!("{} {TABLE}", if v6 { "ip6" } else { "ip" })
}
