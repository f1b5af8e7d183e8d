//! The walk: from who sends, through Services and routes, to where it ends. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use podwire_kernel::IpFamily;

use crate::features::services::desired::endpoints::Backend;
use crate::features::services::desired::frontends;
use crate::ours::REFUSED_TABLE as REFUSED;
use crate::why::facts::{Facts, Party, destination, source};
use crate::why::question::{Question, QuestionError, Transport};
use crate::why::services::{self, Choice, Match, networks_of, table};
use crate::why::{Check, End, Hop, Trace, Wanted};

/// The hooks at which others may drop (`NF_INET_LOCAL_IN`, `NF_INET_FORWARD`).
const INPUT: u32 = 1;
const FORWARD: u32 = 2;
/// More endpoints than this are not looked at one by one.
const SHOWN: usize = 8;

/// Goes the way of a packet.
pub fn walk(facts: &Facts<'_>, question: &Question) -> Result<Trace, QuestionError> {
    let destination = destination(facts, &question.destination)?;
    let source = source(facts, &question.source, destination)?;
    let walk = Walk {
        facts,
        source,
        from: facts.party(source),
        transport: question.transport,
        family: IpFamily::of(destination),
        hops: Vec::new(),
    };
    let mut trace = walk.go(destination);
    trace.destination = match question.transport {
        Transport::Ping => format!("{destination} (ping)"),
        Transport::Port(protocol, port) => {
            let socket = std::net::SocketAddr::new(destination, port);
            format!("{socket}/{}", protocol.name())
        }
    };
    Ok(trace)
}

struct Walk<'a> {
    facts: &'a Facts<'a>,
    source: IpAddr,
    from: Party<'a>,
    transport: Transport,
    family: IpFamily,
    hops: Vec<Hop>,
}

impl<'a> Walk<'a> {
    fn go(mut self, to: IpAddr) -> Trace {
        match self.begin(to) {
            Some((end, conclusion)) => self.trace(end, conclusion),
            None => self.meet_services(to),
        }
    }

    fn trace(self, end: End, conclusion: impl Into<String>) -> Trace {
        Trace {
            node: self.facts.config.node_name.to_string(),
            source: self.sender(),
            destination: String::new(),
            hops: self.hops,
            end,
            conclusion: conclusion.into(),
            differences: Vec::new(),
        }
    }

    fn sender(&self) -> String {
        let address = self.source;
        match &self.from {
            Party::Pod(pod) => match &pod.name {
                Some(name) => format!("pod {name} ({address})"),
                None => format!("the pod with {address}"),
            },
            Party::OwnNode => format!("this node ({address})"),
            Party::PodOf(node, _) => format!("a pod on node {} ({address})", node.name),
            Party::Node(node) => format!("node {} ({address})", node.name),
            Party::NoPod(_) | Party::Gone(..) | Party::Outside => address.to_string(),
        }
    }

    /// How the packet comes to this node's routing. Some end if it does not.
    fn begin(&mut self, to: IpAddr) -> Option<(End, String)> {
        let hop = match &self.from {
            Party::Pod(pod) => {
                let gateway = self.facts.gateway(self.source);
                let gateway =
                    gateway.map_or("its gateway".to_owned(), |ip| format!("its gateway {ip}"));
                let mut hop = Hop::new(format!(
                    "{} hands it to {gateway}",
                    capital(&self.sender())
                ))
                .because(format!(
                    "A pod has one way out, whatever the destination: its gateway, which is \
                         this node's end of its link, {}.",
                    pod.link
                ));
                if self.facts.config.anti_spoof {
                    hop = hop.because(
                        "It sends from its own address, so the guard against false sources (table \
                         inet podwire-masquerade, chain pod-sources) lets it in.",
                    );
                }
                hop.see(format!("ip route get {}", self.source))
                    .ask(Check::Route {
                        to: self.source,
                        wanted: Wanted::Link(pod.link.clone()),
                    })
            }
            Party::OwnNode => Hop::new("This node sends it itself").because(
                "What a node sends passes the same Service rules (hook output) as what its pods \
                 send (hook prerouting).",
            ),
            Party::NoPod(cidr) => {
                let conclusion = format!(
                    "{} lies in this node's podCIDR {cidr}, but no pod here has this address: no one can send \
                     from it.",
                    self.source
                );
                return Some((End::Elsewhere, conclusion));
            }
            Party::PodOf(node, _) | Party::Node(node) if self.is_service(to) => {
                let conclusion = format!(
                    "Services are resolved on the node where a connection begins: ask on node {}.",
                    node.name
                );
                return Some((End::Elsewhere, conclusion));
            }
            Party::PodOf(..) | Party::Node(_) | Party::Gone(..) | Party::Outside => {
                let uplink = self.facts.uplink_name();
                Hop::new(format!(
                    "It comes in through {uplink}, from {}",
                    self.sender()
                ))
            }
        };
        self.hops.push(hop);
        None
    }

    /// True if only the node of the client knows the destination.
    fn is_service(&self, to: IpAddr) -> bool {
        services::with_cluster_ip(self.facts, to).is_some()
            || networks_of(self.facts, to)
                .services
                .iter()
                .any(|cidr| cidr.contains(to))
    }

    fn meet_services(mut self, to: IpAddr) -> Trace {
        let facts = self.facts;
        if !facts.config.services.enabled {
            let hop = Hop::new("Services are left to another proxy (--services=false)");
            self.hops
                .push(hop.because("What that one does is not seen here."));
            return self.route_to(to);
        }
        if let Transport::Port(protocol, port) = self.transport
            && let Some(found) = services::find(facts, &self.from, to, protocol, port)
        {
            self.hops.push(found.hop(self.family));
            return self.through(&found);
        }
        // At its own addresses the node refuses nothing in the name of a Service.
        let refusing = services::with_cluster_ip(facts, to).filter(|_| !facts.is_own(to));
        if let Some(service) = refusing {
            let name = &service.name;
            let (what, why, end) = match self.transport {
                Transport::Ping if facts.config.services.cluster_ip_echo => {
                    let why = "--cluster-ip-echo is set: this node answers in its place.";
                    ("A ping to", why.to_owned(), End::Arrives)
                }
                Transport::Ping => {
                    let why = "A ClusterIP is a rule, not a machine: it has ports and does not \
                               answer ping. That says nothing about the Service.";
                    ("A ping to", why.to_owned(), End::Refused)
                }
                Transport::Port(..) => {
                    let ports: Vec<String> = frontends::ports(service)
                        .map(|port| format!("{}/{}", port.port, port.protocol.name()))
                        .collect();
                    let why = format!(
                        "The Service has no such port (chain no-such-port). It has {}.",
                        ports.join(", ")
                    );
                    (
                        "A packet to a port that is not among those of",
                        why,
                        End::Refused,
                    )
                }
            };
            let see = format!("nft list chain {} no-such-port", table(self.family));
            self.hops.push(
                Hop::new(format!("ClusterIP {to} of Service {name}"))
                    .because(why)
                    .see(see),
            );
            let outcome = if end == End::Arrives {
                "is answered"
            } else {
                "is refused"
            };
            let conclusion = format!("{what} Service {name} {outcome}.");
            return self.trace(end, conclusion);
        }
        let networks = networks_of(facts, to);
        if let Some(cidr) = networks.services.iter().find(|cidr| cidr.contains(to))
            && !facts.is_own(to)
        {
            let hop = Hop::new(format!("No Service has the address {to}"))
                .because(format!(
                    "It lies in the Service network {cidr}, and is not given out."
                ))
                .see(format!(
                    "nft list chain {} prerouting-unallocated",
                    table(self.family)
                ));
            self.hops.push(hop);
            let conclusion = "The packet is dropped: packets to Services that do not exist must not \
                              wander about outside.";
            return self.trace(End::Dropped, conclusion);
        }
        self.route_to(to)
    }

    /// Through a Service to its endpoints.
    fn through(mut self, found: &Match<'_>) -> Trace {
        let (list, local) = match found.choose(&self.from, self.source) {
            Choice::Endpoints { list, local } => (list, local),
            Choice::None { refused, what, why } => {
                self.hops.push(Hop::new(what).because(why));
                let name = &found.service.name;
                let (end, word) = if refused {
                    (End::Refused, "refused")
                } else {
                    (End::Dropped, "dropped")
                };
                return self.trace(end, format!("A packet to Service {name} is {word}."));
            }
        };
        let mut hop = found.endpoints_hop(list, local, self.source, self.family);
        if let Some(why) = found.let_in(self.source) {
            hop = hop.because(why);
        }
        self.hops.push(hop);
        let (yes, why) = found.masquerade(self.facts, &self.from, self.source);
        let mut hop = if yes {
            Hop::new("The source is replaced by this node's address (masquerade)").because(why)
        } else {
            Hop::new(format!("The source stays {}", self.source)).because(why)
        };
        if !yes && list.iter().any(|backend| backend.address == self.source) {
            hop = hop.because(
                "Unless the choice falls on the client itself: then it is masqueraded, or the pod \
                 would answer to itself without the node (hairpin).",
            );
        }
        let chain = found.masquerade_chain();
        self.hops
            .push(hop.see(format!("nft list chain {} {chain}", table(self.family))));
        self.reach_endpoints(found, list)
    }

    /// From the choice of an endpoint on.
    fn reach_endpoints(mut self, found: &Match<'_>, list: &[Backend]) -> Trace {
        let mut ways: BTreeMap<String, (Wanted, Vec<IpAddr>)> = BTreeMap::new();
        for backend in list {
            let (text, wanted) = self.next(backend.address);
            ways.entry(text)
                .or_insert((wanted, Vec::new()))
                .1
                .push(backend.address);
        }
        let mut hop = Hop::new("The way to the endpoints");
        for (text, (wanted, addresses)) in &ways {
            let names: Vec<_> = addresses
                .iter()
                .take(SHOWN)
                .map(ToString::to_string)
                .collect();
            let more = addresses.len().saturating_sub(SHOWN);
            let more = if more > 0 {
                format!(" and {more} more")
            } else {
                String::new()
            };
            hop = hop.because(format!("{}{more}: {text}.", names.join(", ")));
            for to in addresses.iter().take(SHOWN) {
                hop = hop.ask(Check::Route {
                    to: *to,
                    wanted: wanted.clone(),
                });
            }
        }
        let hop = hop.ask(Check::Droppers {
            family: self.family,
            hook: FORWARD,
        });
        self.hops.push(hop);
        let here = list.iter().all(|backend| {
            matches!(
                self.facts.party(backend.address),
                Party::Pod(_) | Party::OwnNode
            )
        });
        let mut parties = list.iter().map(|backend| self.facts.party(backend.address));
        let gone = parties.all(|party| matches!(party, Party::Gone(..)));
        let (name, count) = (&found.service.name, list.len());
        let of = if count == 1 {
            "its endpoint".to_owned()
        } else {
            format!("one of its {count} endpoints")
        };
        let (end, where_to) = if gone {
            let why = "the Nodes of all its endpoints are gone";
            let conclusion = format!("A packet to Service {name} is refused at once: {why}.");
            return self.trace(End::Refused, conclusion);
        } else if here {
            (End::Arrives, "on this node")
        } else {
            (End::Leaves, "over the links above")
        };
        self.trace(
            end,
            format!("A packet to Service {name} goes to {of}, {where_to}."),
        )
    }

    /// The next hop to an address, in words.
    fn next(&self, to: IpAddr) -> (String, Wanted) {
        let uplink = self.facts.uplink_name();
        match self.facts.party(to) {
            Party::Pod(pod) => (
                format!("a pod on this node, straight through its link {}", pod.link),
                Wanted::Link(pod.link.clone()),
            ),
            Party::OwnNode => ("this node itself".into(), Wanted::Any),
            Party::NoPod(cidr) => (
                format!("no one: it lies in this node's podCIDR {cidr}, but no pod has it"),
                Wanted::Unreachable,
            ),
            Party::PodOf(node, cidr) => {
                match node
                    .internal_ips
                    .iter()
                    .find(|ip| ip.is_ipv4() == to.is_ipv4())
                {
                    Some(next) => (
                        format!(
                            "via {next} ({}, route to {cidr}) through {uplink}",
                            node.name
                        ),
                        Wanted::Gateway(*next),
                    ),
                    None => (
                        format!(
                            "nowhere: Node {} has no InternalIP of this family, so there is no \
                             route to its pods in {cidr}",
                            node.name
                        ),
                        Wanted::Any,
                    ),
                }
            }
            Party::Node(node) => (
                format!("node {} itself, through {uplink}", node.name),
                Wanted::Any,
            ),
            Party::Gone(cidr, owner) => (
                format!(
                    "no one: {cidr} was the podCIDR of {owner}, which is gone, and table \
                     inet {REFUSED} refuses it for a while"
                ),
                Wanted::Any,
            ),
            Party::Outside => ("outside the cluster".into(), Wanted::Any),
        }
    }

    /// To an address that no Service has.
    fn route_to(mut self, to: IpAddr) -> Trace {
        let (text, wanted) = self.next(to);
        let party = self.facts.party(to);
        let hook = if party == Party::OwnNode {
            INPUT
        } else {
            FORWARD
        };
        let route = Hop::new(format!("Route to {to}: {text}"))
            .see(format!("ip route get {to}"))
            .ask(Check::Route { to, wanted });
        let dropper = Check::Droppers {
            family: self.family,
            hook,
        };
        let route = if self.from == Party::OwnNode {
            route
        } else {
            route.ask(dropper)
        };
        self.hops.push(route);
        if matches!(self.from, Party::Pod(_)) {
            let hop = self.leaving(to, &party);
            self.hops.push(hop);
        }
        let (end, conclusion) = match party {
            Party::Pod(pod) => {
                let name = pod
                    .name
                    .as_deref()
                    .map_or(String::new(), |name| format!(" {name}"));
                (
                    End::Arrives,
                    format!("It arrives at pod{name}, {to}, on this node."),
                )
            }
            Party::OwnNode => (
                End::Arrives,
                "It arrives at this node; whether a program listens there, `ss -lntup` tells."
                    .to_owned(),
            ),
            Party::NoPod(_) => (
                End::Refused,
                format!("It is refused (no route to host): no pod has {to}."),
            ),
            Party::PodOf(node, _) => {
                let end = format!(
                    "It leaves for node {0}, which knows the pod: ask there for the rest.",
                    node.name
                );
                (End::Leaves, end)
            }
            Party::Node(node) => (
                End::Leaves,
                format!(
                    "It leaves for node {}, which decides the rest: ask there.",
                    node.name
                ),
            ),
            Party::Gone(..) => (
                End::Refused,
                "It is refused at once: the Node whose pod had this address is gone.".to_owned(),
            ),
            Party::Outside => (
                End::Leaves,
                "It leaves the cluster by the node's own routes.".to_owned(),
            ),
        };
        self.trace(end, conclusion)
    }

    /// Is a pod's packet masqueraded on its way out?
    fn leaving(&self, to: IpAddr, party: &Party<'_>) -> Hop {
        let stays = |why: &str| Hop::new(format!("The source stays {}", self.source)).because(why);
        let exempt = || {
            let networks = &self.facts.config.non_masquerade_cidrs;
            networks.iter().find(|network| network.contains(to))
        };
        if *party != Party::Outside {
            return stays("Pods and nodes of the cluster see each other's own addresses.");
        }
        if !self.facts.config.masquerade {
            return stays("--masquerade=false is set: masquerading is off.");
        }
        if let Some(network) = exempt() {
            return stays(&format!("{network} is exempt by --non-masquerade-cidrs."));
        }
        Hop::new("The source is replaced by this node's address (masquerade)")
            .because(format!(
                "{to} is outside the cluster, where no route back to a pod exists."
            ))
            .see("nft list table inet podwire-masquerade")
    }
}

/// The text with a capital letter in front.
fn capital(text: &str) -> String {
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_uppercase().chain(letters).collect(),
        None => String::new(),
    }
}
