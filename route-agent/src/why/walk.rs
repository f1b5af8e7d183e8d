//! The walk: from who sends, through Services and routes, to where it ends. Pure.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use podwire_kernel::IpFamily;

use crate::features::services::desired::endpoints::Backend;
use crate::snapshot::{ObjectName, Service};
use crate::why::facts::{Facts, Party, destination, source};
use crate::why::host_ports::HostPort;
use crate::why::near::near;
use crate::why::policies;
use crate::why::question::{Question, QuestionError, Transport};
use crate::why::routes::{self, NextHop};
use crate::why::services::{self, Choice, Match, SourceAddress, networks_of, table};
use crate::why::ways::{SHOWN, Ways};
use crate::why::{Check, End, Hop, MASQUERADED, Pod, Trace, Wanted};

/// The hooks at which others may drop (`NF_INET_LOCAL_IN`, `NF_INET_FORWARD`).
const INPUT: u32 = 1;
const FORWARD: u32 = 2;

/// Goes the way of a packet.
pub fn walk(facts: &Facts<'_>, question: &Question) -> Result<Trace, QuestionError> {
    let destination = destination(facts, &question.destination, &question.source)?;
    let source = source(facts, &question.source, destination)?;
    let walk = Walk {
        facts,
        source,
        from: facts.party(source),
        transport: question.transport,
        answers: question.answers,
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
    /// The packet is an answer.
    answers: bool,
    family: IpFamily,
    hops: Vec<Hop>,
}

/// What policies made of a packet.
enum Judged {
    /// It is dropped, wherever it goes; with the reason.
    Dropped(String),
    /// It passes, but for what goes to some of the endpoints.
    Passes { denied: usize },
}

impl<'a> Walk<'a> {
    fn go(mut self, to: IpAddr) -> Trace {
        if let Some(near) = near(self.facts, &self.from, &self.sender(), to) {
            self.hops.push(near.hop);
            return self.trace(near.end, near.conclusion);
        }
        match self.begin(to) {
            Some((end, conclusion)) => self.trace(end, conclusion),
            None if self.answers => self.route_to(to),
            None => self.meet_services(to),
        }
    }

    fn trace(self, end: End, conclusion: impl Into<String>) -> Trace {
        Trace {
            node: self.facts.config.node_name.to_string(),
            source: self.sender(),
            destination: String::new(),
            differences: self
                .hops
                .iter()
                .flat_map(|hop| hop.differs.clone())
                .collect(),
            hops: self.hops,
            end,
            conclusion: conclusion.into(),
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
            Party::Pod(pod) => self.sent_by(pod),
            Party::OwnNode => Hop::new("This node sends it itself").because(
                "What a node sends passes the same Service rules (hook output) as what its pods \
                 send (hook prerouting).",
            ),
            Party::NoPod(cidr) => {
                let guard = match self.facts.config.anti_spoof {
                    true => {
                        ": no one can send from it, and what a pod sends from it all the same is \
                         dropped (table inet podwire-masquerade, chain pod-sources)."
                    }
                    false => ": no one can send from it.",
                };
                let conclusion = format!(
                    "{} is in this node's podCIDR {cidr}, but no pod here has this address{guard}",
                    self.source
                );
                return Some((End::Elsewhere, conclusion));
            }
            Party::PodOf(node, _) | Party::Node(node) if !self.answers && self.is_service(to) => {
                let conclusion = format!(
                    "Services are resolved on the node where a connection begins: ask on node {}.",
                    node.name
                );
                return Some((End::Elsewhere, conclusion));
            }
            Party::PodOf(..) | Party::Node(_) | Party::Gone(..) | Party::Outside => {
                let uplink = self.facts.uplink_name();
                let mut hop = Hop::new(format!(
                    "It comes in through {uplink}, from {}",
                    self.sender()
                ));
                if self.facts.uplink.is_some_and(|uplink| !uplink.up) {
                    hop.differs.push(format!("{uplink} is down"));
                }
                hop
            }
        };
        self.hops.push(hop);
        None
    }

    /// What a pod of this node sends comes through its link.
    fn sent_by(&self, pod: &Pod) -> Hop {
        let gateway = match self.facts.gateway(self.source) {
            Some(ip) => format!("its gateway {ip}"),
            None => "its gateway".to_owned(),
        };
        let what = format!("{} hands it to {gateway}", capital(&self.sender()));
        let mut hop = Hop::new(what).because(format!(
            "A pod has one way out, whatever the destination: its gateway, which is this node's \
             end of its link, {}.",
            pod.link
        ));
        if self.facts.config.anti_spoof {
            hop = hop.because(
                "It sends from its own address, so the guard against false sources (table inet \
                 podwire-masquerade, chain pod-sources) lets it in.",
            );
        }
        hop.see(format!("ip route get {}", self.source))
            .ask(Check::Route {
                to: self.source,
                wanted: Wanted::Link(pod.link.clone()),
            })
    }

    /// True if only the node of the client knows the destination.
    fn is_service(&self, to: IpAddr) -> bool {
        services::with_cluster_ip(self.facts, to).is_some()
            || networks_of(self.facts, to)
                .services
                .iter()
                .any(|cidr| cidr.contains(to))
            || !self.facts.is_own(to) && self.service(to).is_some()
    }

    /// The Service port that takes the packet, if one does.
    fn service(&self, to: IpAddr) -> Option<Match<'a>> {
        let Transport::Port(protocol, port) = self.transport else {
            return None;
        };
        services::find(self.facts, &self.from, to, protocol, port)
    }

    /// The rules of Services see a packet before it is routed.
    fn meet_services(mut self, to: IpAddr) -> Trace {
        let facts = self.facts;
        if !facts.config.services.enabled {
            let hop = Hop::new("Services are left to another proxy (--services=false)");
            self.hops
                .push(hop.because("What that proxy does cannot be seen from here."));
            return match self.host_port(to) {
                Some(found) => self.through_host_port(found),
                None => self.route_to(to),
            };
        }
        if let Some(found) = self.service(to) {
            let mut hop = found.hop(self.family);
            if self.from == Party::OwnNode {
                // A socket looks up a route before the output hook sees the packet.
                let wanted = Wanted::Replaced;
                hop = hop.ask(Check::Route { to, wanted });
            }
            self.hops.push(hop);
            return self.through(&found);
        }
        if let Some(found) = self.host_port(to) {
            return self.through_host_port(found);
        }
        // At its own addresses the node refuses nothing in the name of a Service.
        if facts.is_own(to) {
            return self.route_to(to);
        }
        if let Some(service) = services::with_cluster_ip(facts, to) {
            return self.no_such_port(service, to);
        }
        let networks = networks_of(facts, to).services;
        match networks.iter().find(|network| network.contains(to)) {
            Some(network) => self.unallocated(to, *network),
            None => self.route_to(to),
        }
    }

    /// The port of this node that takes the packet to a container, if one does.
    fn host_port(&self, to: IpAddr) -> Option<&'a HostPort> {
        let Transport::Port(protocol, port) = self.transport else {
            return None;
        };
        let found = HostPort::of(self.facts.host_ports, to, protocol, port);
        found.filter(|_| self.facts.is_own(to))
    }

    /// Through a port of this node to a container.
    fn through_host_port(mut self, found: &HostPort) -> Trace {
        let mut hop = found.hop();
        if found.target.ip() == self.source {
            hop = hop.because(
                "It leads back to the sender: the source is replaced by this node's address, or the \
                 pod would answer to itself without the node (hairpin).",
            );
        }
        self.hops.push(hop);
        self.transport = Transport::Port(found.protocol, found.target.port());
        self.route_to(found.target.ip())
    }

    /// To a ClusterIP, but to none of its ports.
    fn no_such_port(mut self, service: &Service, to: IpAddr) -> Trace {
        let name = &service.name;
        let (why, end, conclusion) = match self.transport {
            Transport::Ping if self.facts.config.services.cluster_ip_echo => (
                "--cluster-ip-echo is set: this node answers in its place.".to_owned(),
                End::Arrives,
                format!("A ping to Service {name} is answered."),
            ),
            Transport::Ping => (
                services::NO_PING.to_owned(),
                End::Refused,
                format!("A ping to Service {name} is refused."),
            ),
            Transport::Port(protocol, port) => {
                let conclusion = format!(
                    "A packet to a port that is not among those of Service {name} is refused."
                );
                let why = services::no_such_port(service, protocol, port);
                (why, End::Refused, conclusion)
            }
        };
        let see = format!("nft list chain {} no-such-port", table(self.family));
        let hop = Hop::new(format!("ClusterIP {to} of Service {name}"));
        self.hops.push(hop.because(why).see(see));
        self.trace(end, conclusion)
    }

    /// To an address that a Service may get, and none has.
    fn unallocated(mut self, to: IpAddr, network: IpNetwork) -> Trace {
        let why = services::not_assigned(network);
        let see = format!(
            "nft list chain {} prerouting-unallocated",
            table(self.family)
        );
        let hop = Hop::new(format!("No Service has the address {to}"));
        self.hops.push(hop.because(why).see(see));
        self.trace(
            End::Dropped,
            "The packet is dropped: packets to Services that do not exist must not leave this node.",
        )
    }

    /// A Service lets it go no further.
    fn ends_at(mut self, end: End, service: &ObjectName, hop: Hop) -> Trace {
        let why = hop.why.first().map_or("", String::as_str);
        let conclusion = format!("Service {service}: {why}");
        self.hops.push(hop);
        self.trace(end, conclusion)
    }

    /// Through a Service to its endpoints.
    fn through(mut self, found: &Match<'_>) -> Trace {
        let name = &found.service.name;
        let candidates = match found.choose(self.facts, self.source) {
            Choice::Endpoints(candidates) => candidates,
            Choice::Refused(hop) => return self.ends_at(End::Refused, name, hop),
            Choice::Dropped(hop) => return self.ends_at(End::Dropped, name, hop),
        };
        let mut hop = found.endpoints_hop(candidates, self.source, self.family);
        if let Some(why) = found.let_in(self.source) {
            hop = hop.because(why);
        }
        self.hops.push(hop);
        let (all, ways) = (candidates.list, Ways::to(self.facts, candidates.list));
        let reached = ways.reached(all);
        if reached.is_empty() {
            return self.reaches_none(name, &ways);
        }
        let to: Vec<_> = reached
            .iter()
            .map(|backend| (backend.address, found.transport(backend)))
            .collect();
        let denied = match self.ask_policies(&to) {
            Judged::Dropped(why) => {
                let text = format!("A packet to Service {name} is dropped: {why}.");
                return self.trace(End::Dropped, text);
            }
            Judged::Passes { denied } => denied,
        };
        let hop = self.source_towards(found, &reached);
        self.hops.push(hop);
        let addresses: Vec<IpAddr> = reached.iter().map(|backend| backend.address).collect();
        let mut hop = self.ask_for_droppers(ways.hop(), &addresses);
        hop.lost.extend(ways.lost());
        self.hops.push(hop);
        let lost = all.len() - reached.len();
        let end = ways.end();
        self.trace(end, goes_on(name, end, all.len(), [lost, denied]))
    }

    /// Through a Service of which no endpoint can be reached: it goes no further than the routes.
    fn reaches_none(mut self, service: &ObjectName, ways: &Ways) -> Trace {
        self.hops.push(ways.hop());
        let first = ways.lost().next().map_or(String::new(), |lost| lost.why);
        let conclusion = format!("A packet to Service {service} reaches no endpoint. {first}");
        self.trace(ways.end(), conclusion)
    }

    /// What the policies say: behind the translation of the destination, before that of the source.
    fn ask_policies(&mut self, to: &[(IpAddr, Transport)]) -> Judged {
        let answer = policies::ask(self.facts, &self.from, self.source, to);
        self.hops.extend(answer.hop);
        match answer.why {
            Some(why) if answer.denied.len() == to.len() => Judged::Dropped(why),
            _ => Judged::Passes {
                denied: answer.denied.len(),
            },
        }
    }

    /// Whether the endpoint sees the client's address.
    fn source_towards(&self, found: &Match<'_>, list: &[Backend]) -> Hop {
        let chain = found.masquerade_chain();
        let see = format!("nft list chain {} {chain}", table(self.family));
        let why = match found.masquerade(self.facts, &self.from, self.source) {
            SourceAddress::Replaced(why) => return Hop::new(MASQUERADED).because(why).see(see),
            SourceAddress::Stays(why) => why,
        };
        // What the rules of Services let be is masqueraded as all else that leaves the cluster.
        let outside: Vec<IpAddr> = list
            .iter()
            .map(|backend| backend.address)
            .filter(|to| {
                matches!(self.from, Party::Pod(_)) && self.facts.party(*to) == Party::Outside
            })
            .collect();
        let leaving = |to: &IpAddr| routes::leaving(self.facts, self.source, *to, &Party::Outside);
        if let Some(first) = outside.first()
            && outside.len() == list.len()
            && outside.iter().all(|to| leaving(to).what == MASQUERADED)
        {
            return leaving(first);
        }
        let mut hop = Hop::new(format!("The source stays {}", self.source)).because(why);
        if list.iter().any(|backend| backend.address == self.source) {
            hop = hop.because(
                "Unless the choice falls on the client itself: then it is masqueraded, or the pod \
                 would answer to itself without the node (hairpin).",
            );
        }
        for to in outside.iter().take(SHOWN) {
            let leaving = leaving(to);
            let why = leaving.why.join(" ");
            hop = hop.because(format!("To {to}: {}. {why}", leaving.what));
            hop.suspects.extend(leaving.suspects);
        }
        hop.see(see)
    }

    /// Has the kernel asked for others that drop on the way to one of these.
    fn ask_for_droppers(&self, mut hop: Hop, to: &[IpAddr]) -> Hop {
        // What this node sends passes neither of the hooks.
        if self.from == Party::OwnNode {
            return hop;
        }
        for (hook, own) in [(INPUT, true), (FORWARD, false)] {
            if to.iter().any(|to| self.facts.is_own(*to) == own) {
                let family = self.family;
                hop = hop.ask(Check::Droppers { family, hook });
            }
        }
        hop
    }

    /// To an address that no Service has.
    fn route_to(mut self, to: IpAddr) -> Trace {
        let next = NextHop::to(self.facts, to);
        let party = self.facts.party(to);
        let hop = Hop::new(format!("Route to {to}: {}", next.text))
            .see(format!("ip route get {to}"))
            .ask(Check::Route {
                to,
                wanted: next.wanted.clone(),
            });
        let hop = self.ask_for_droppers(hop, &[to]);
        self.hops.push(hop);
        let conclusion = routes::conclusion(to, &party, &next);
        // What is refused comes to no forward hook; what other routes take does.
        if next.end == End::Refused {
            return self.trace(next.end, conclusion);
        }
        if !self.answers
            && let Judged::Dropped(why) = self.ask_policies(&[(to, self.transport)])
        {
            return self.trace(End::Dropped, format!("It is dropped: {why}."));
        }
        if !self.answers && matches!(self.from, Party::Pod(_)) && to != self.source {
            let hop = routes::leaving(self.facts, self.source, to, &party);
            self.hops.push(hop);
        }
        self.trace(next.end, conclusion)
    }
}

/// Where a packet to a Service goes. Of the endpoints some may be lost, and some denied.
fn goes_on(service: &ObjectName, end: End, all: usize, [lost, denied]: [usize; 2]) -> String {
    let to = match all {
        1 => "its endpoint".to_owned(),
        all => format!("one of its {all} endpoints"),
    };
    let over = match end {
        End::Arrives => "on this node",
        _ => "over the links above",
    };
    let mut text = format!("A packet to Service {service} goes to {to}, {over}.");
    if lost > 0 {
        text += &format!(" {lost} of them cannot be reached.");
    }
    if denied > 0 {
        text += &format!(" Policies drop what goes to {denied} of them.");
    }
    text
}

/// The text with a capital letter in front.
fn capital(text: &str) -> String {
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_uppercase().chain(letters).collect(),
        None => String::new(),
    }
}
