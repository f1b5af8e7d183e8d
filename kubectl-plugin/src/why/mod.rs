//! `why SOURCE DESTINATION`: the way of a packet over all nodes that it meets, there and back, and
//! the first hop that fails.

mod asked;
mod conclude;
mod evidence;
mod part;
mod places;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;

use clap::Args;
use podwire_agent::report::Report;
use podwire_agent::text::printable;
use podwire_agent::why::{
    End as TraceEnd, Host, MASQUERADED, Question, Trace, Transport, service_in_dns,
};
use serde::{Deserialize, Serialize};

use crate::fleet::Fleet;
use crate::reach::ReachError;
use crate::said::{DeskError, Output, Said, for_programs};
use asked::{Asked, target};
use conclude::{Mtus, conclude, first_failure};
use evidence::dropped;
use places::{End, Places};

pub use conclude::Failure;
pub use part::{Part, Way};

/// Endpoints on other nodes that are walked to one by one.
const WALKED: usize = 8;

/// The flags of `why`.
#[derive(Debug, Clone, Args)]
pub struct Why {
    /// Who sends: a pod, a node or an address.
    #[arg(value_name = "NAMESPACE/POD|NODE|IP")]
    pub source: String,

    /// Where to: a Service, pod, node, host or address, perhaps with :PORT and /tcp, /udp or /sctp.
    /// Without a port it is a ping.
    #[arg(value_name = "DESTINATION[:PORT][/PROTOCOL]")]
    pub destination: String,

    /// How to write it.
    #[arg(short, long, value_enum, default_value = "text")]
    pub output: Output,
}

/// The whole way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Walk {
    /// Who sends.
    pub source: String,
    /// Where to.
    pub destination: String,
    /// What each node says, in the order of the way.
    pub parts: Vec<Part>,
    /// True if nothing is found that stops it.
    pub good: bool,
    /// One sentence or two about the whole.
    pub conclusion: String,
    /// The first hop that fails, if one does.
    pub failure: Option<Failure>,
}

impl Why {
    /// Asks the nodes on the way.
    pub async fn run(&self, fleet: &Fleet) -> Result<Said, DeskError> {
        let walk = walk(fleet, &self.source, &self.destination).await?;
        let text = match self.output {
            Output::Text => walk.text(),
            output => for_programs(&walk, output)?,
        };
        Ok(Said {
            text,
            good: walk.good,
        })
    }
}

/// Walks from a source to a destination, over all nodes on the way.
pub async fn walk(fleet: &Fleet, source: &str, destination: &str) -> Result<Walk, DeskError> {
    let answers = fleet.get_all("/cluster").await;
    // Who was waited for in vain is not waited for again.
    let silent = answers.iter().filter_map(|(node, answer)| match answer {
        Err(late @ ReachError::Late { .. }) => Some((node.clone(), late.to_string())),
        _ => None,
    });
    let silent = silent.collect();
    let places = Places::of(answers);
    if places.is_empty() {
        // Then each node's own reason is what there is to know.
        for (_, answer) in fleet.get_all::<Report>("/status").await {
            answer?;
        }
    }
    let asked = Asked::find(fleet, &places, source, destination).await?;
    let (parts, left) = Walking {
        fleet,
        places: &places,
        asked: &asked,
        silent,
        parts: Vec::new(),
        left: 0,
    }
    .go()
    .await;
    let (mtus, seen) = match first_failure(&parts) {
        // Then that is what there is to say.
        Some(_) => (Mtus::default(), Vec::new()),
        None => (
            mtus(fleet, &asked, &parts).await,
            dropped(fleet, &asked, &parts).await,
        ),
    };
    let mut verdict = conclude(&parts, &mtus, &seen);
    if verdict.failure.is_some()
        && let Some(gone) = asked.gone(fleet, &places)
    {
        verdict.conclusion = format!("{} {gone}", verdict.conclusion);
    }
    Ok(Walk {
        source: asked.source.title.clone(),
        destination: asked.shown(),
        parts,
        good: verdict.good,
        conclusion: match left {
            0 => verdict.conclusion,
            1 => format!(
                "{} One more endpoint was not walked to.",
                verdict.conclusion
            ),
            _ => format!(
                "{} {left} more endpoints were not walked to.",
                verdict.conclusion
            ),
        },
        failure: verdict.failure,
    })
}

impl Asked {
    async fn find(
        fleet: &Fleet,
        places: &Places,
        source: &str,
        destination: &str,
    ) -> Result<Self, DeskError> {
        let question = Question::parse(source, destination)
            .map_err(|error| DeskError::Question(error.to_string()))?;
        let source = match &question.source {
            Host::Ip(ip) => places.at(*ip, None),
            Host::Name(name) => match places.named(name)?.or_else(|| machine(fleet, name)) {
                Some(end) => end,
                None => return Err(places.unknown(name)),
            },
        };
        let destination = match &question.destination {
            Host::Ip(ip) => places.at(*ip, source.node.as_deref()),
            Host::Name(name) => receiver(fleet, places, name).await?,
        };
        let both = [true, false].into_iter().find_map(|v4| {
            let ends = (source.address(v4)?, destination.address(v4)?);
            Some(ends)
        });
        let Some((from, to)) = both else {
            let text = format!(
                "{} and {} have no address of the same IP family",
                source.title, destination.title
            );
            return Err(DeskError::Question(printable(&text).into_owned()));
        };
        if source.node.is_none() && destination.node.is_none() {
            let text = format!(
                "neither {} nor {} is on a node: give a pod, a node or one of their addresses as one \
                 of the two",
                source.title, destination.title
            );
            return Err(DeskError::Question(printable(&text).into_owned()));
        }
        Ok(Self {
            source,
            from,
            destination,
            to,
            transport: question.transport,
        })
    }

    /// That no endpoint takes connections because its node is not ready, if that is so.
    fn gone(&self, fleet: &Fleet, places: &Places) -> Option<String> {
        let (_, ready) = places.behind(self.to, self.transport)?;
        let nodes = places.unready_behind(self.to, self.transport).into_iter();
        let gone = nodes.filter(|name| fleet.node(name).and_then(|node| node.ready) == Some(false));
        let gone: Vec<&str> = gone.collect();
        (ready.is_empty() && !gone.is_empty()).then(|| {
            let (nodes, are) = match gone.len() {
                1 => ("node", "is"),
                _ => ("nodes", "are"),
            };
            format!(
                "It has endpoints on {nodes} {}, which {are} not ready.",
                gone.join(", ")
            )
        })
    }

    /// The first node that sees the packet: the sender's; what comes from outside is first seen
    /// where it comes in.
    fn first(&self) -> Option<&String> {
        self.source.node.as_ref().or(self.destination.node.as_ref())
    }

    /// The destination with its port, for people.
    fn shown(&self) -> String {
        format!(
            "{} ({})",
            self.destination.title,
            target(self.to, self.transport)
        )
    }
}

/// A machine of this name that is no node.
fn machine(fleet: &Fleet, name: &str) -> Option<End> {
    let addresses = fleet.machine(name)?.to_vec();
    Some(End {
        title: format!("machine {name}"),
        addresses,
        node: None,
    })
}

/// A Service, pod, node, machine or host of this name.
async fn receiver(fleet: &Fleet, places: &Places, name: &str) -> Result<End, DeskError> {
    let mut service = places.service(name)?;
    if let (None, Some(full)) = (service, service_in_dns(name)) {
        service = places.service(&full)?;
    }
    if let Some(service) = service {
        let title = format!("Service {}/{}", service.namespace, service.name);
        let mut addresses = service.cluster_ips.clone();
        if addresses.is_empty() {
            // Of a headless Service, DNS gives the endpoints.
            let endpoints = service.ports.iter().flat_map(|port| &port.endpoints);
            addresses.extend(endpoints.filter(|one| one.ready).map(|one| one.address));
        }
        if addresses.is_empty() {
            let text = format!("{title} has neither a ClusterIP nor endpoints");
            return Err(DeskError::Question(printable(&text).into_owned()));
        }
        let node = None;
        return Ok(End {
            title,
            addresses,
            node,
        });
    }
    if let Some(end) = places.named(name)?.or_else(|| machine(fleet, name)) {
        return Ok(end);
    }
    // A host's name has a dot, and no slash.
    if !name.contains('.') || name.contains('/') {
        return Err(places.unknown(name));
    }
    let found = tokio::net::lookup_host((name, 0)).await;
    let addresses = match found {
        Ok(sockets) => sockets.map(|socket| socket.ip()).collect(),
        Err(error) => {
            let text = format!("{name} has no address for this machine: {error}");
            return Err(DeskError::Question(printable(&text).into_owned()));
        }
    };
    Ok(End {
        title: format!("host {name}"),
        addresses,
        node: None,
    })
}

/// What an agent is asked for.
fn query(way: Way, from: IpAddr, to: &str) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query
        .append_pair("from", &from.to_string())
        .append_pair("to", to);
    if way == Way::Back {
        query.append_pair("answer", "1");
    }
    format!("/why?{}", query.finish())
}

struct Walking<'a> {
    fleet: &'a Fleet,
    places: &'a Places,
    asked: &'a Asked,
    /// Nodes whose agents were waited for in vain, and what that is called.
    silent: BTreeMap<String, String>,
    parts: Vec<Part>,
    /// Endpoints on other nodes that were too many.
    left: usize,
}

impl Walking<'_> {
    async fn go(mut self) -> (Vec<Part>, usize) {
        let asked = self.asked;
        if let Some(node) = asked.first() {
            let title = match asked.source.node {
                Some(_) => format!("On node {node}, where the packet begins"),
                None => format!("On node {node}, where it comes in"),
            };
            let to = target(asked.to, asked.transport);
            let end = self.ask(node, Way::There, title, asked.from, &to).await;
            if end == Some(TraceEnd::Leaves) {
                self.arrive().await;
            }
        }
        (self.parts, self.left)
    }

    /// On the nodes of those it is for, and back from there.
    async fn arrive(&mut self) {
        let Asked { to, transport, .. } = *self.asked;
        let first = self.asked.first().map(String::as_str);
        let elsewhere = self.places.at(to, first).node;
        match elsewhere.filter(|node| Some(node) != self.asked.first()) {
            Some(node) if self.places.behind(to, transport).is_some() => {
                self.arrive_through(&node).await;
            }
            _ => {
                let first = self.asked.first().cloned();
                let from = self.replaced().unwrap_or(self.asked.from);
                self.arrive_at_receivers(from, first.as_ref()).await;
            }
        }
    }

    /// The source that others see, if the first node replaces it.
    fn replaced(&self) -> Option<IpAddr> {
        let first = self.parts.first()?;
        let mut hops = first.trace.as_ref().ok()?.hops.iter();
        let replaced = hops.any(|hop| hop.what == MASQUERADED);
        let v4 = self.asked.from.is_ipv4();
        let node = replaced.then(|| self.places.named(&first.node).ok().flatten());
        node??.address(v4)
    }

    /// At a port of another node, whose rules choose the endpoint.
    async fn arrive_through(&mut self, node: &String) {
        let Asked {
            from,
            to,
            transport,
            ..
        } = *self.asked;
        let title = format!("On node {node}, at whose port it arrives");
        let end = self
            .ask(node, Way::There, title, from, &target(to, transport))
            .await;
        if let Some(part) = self.parts.last_mut() {
            part.goes_on = end == Some(TraceEnd::Leaves);
        }
        match end {
            // Endpoints elsewhere see the node, not the client.
            Some(TraceEnd::Leaves) => self.arrive_at_receivers(to, Some(node)).await,
            Some(TraceEnd::Arrives) => {}
            _ => return,
        }
        self.come_back(node, to).await;
    }

    /// On the nodes of the endpoints, but for one node that has been asked; and what they answer to
    /// who they take for the client.
    async fn arrive_at_receivers(&mut self, from: IpAddr, asked: Option<&String>) {
        let begins_here = asked == self.asked.first();
        let traces = self.parts.iter().flat_map(|part| &part.trace);
        let hops = traces.flat_map(|trace| &trace.hops);
        // What is said of these at the hop is all that there is to say.
        let not_sent_to: BTreeSet<IpAddr> = hops
            .flat_map(|hop| {
                let lost = hop.lost.iter().flat_map(|lost| &lost.endpoints);
                lost.chain(&hop.denied).copied()
            })
            .collect();
        let receivers = self
            .receivers()
            .into_iter()
            .filter(|(address, _)| !not_sent_to.contains(address))
            .filter_map(|(address, transport)| {
                let end = self.places.at(address, asked.map(String::as_str));
                let node = end.node.filter(|node| Some(node) != asked)?;
                Some((address, transport, end.title, node))
            });
        let receivers: Vec<_> = receivers.collect();
        self.left = receivers.len().saturating_sub(WALKED);
        for (address, transport, title, node) in receivers.into_iter().take(WALKED) {
            let title = format!("On node {node}, where it arrives for {title}");
            let to = target(address, transport);
            let arrived = self.ask(&node, Way::There, title, from, &to).await;
            if arrived != Some(TraceEnd::Arrives) {
                continue;
            }
            let left = self.begin_to_answer(&node, address, from).await;
            if begins_here && left == Some(TraceEnd::Leaves) {
                self.end_answer(address, from).await;
            }
        }
    }

    /// The addresses and ports that it may end at.
    fn receivers(&self) -> Vec<(IpAddr, Transport)> {
        let Asked { to, transport, .. } = self.asked;
        let Some((_, endpoints)) = self.places.behind(*to, *transport) else {
            return vec![(*to, *transport)];
        };
        endpoints
            .iter()
            .map(|one| {
                let transport = match transport {
                    Transport::Port(protocol, _) => Transport::Port(*protocol, one.port),
                    Transport::Ping => Transport::Ping,
                };
                (one.address, transport)
            })
            .collect()
    }

    async fn come_back(&mut self, node: &str, from: IpAddr) {
        let to = self.asked.from;
        if self.begin_to_answer(node, from, to).await == Some(TraceEnd::Leaves) {
            self.end_answer(from, to).await;
        }
    }

    /// On the node of who asked; of who is outside, on the one to whose address (`to`) it was answered.
    async fn end_answer(&mut self, from: IpAddr, to: IpAddr) {
        let asked = self.asked;
        let (node, title) = match (&asked.source.node, asked.first()) {
            (Some(home), _) => (home, "where the answer arrives"),
            (None, Some(first)) if to != asked.from => (first, "where the answer passes"),
            _ => return,
        };
        let title = format!("On node {node}, {title}");
        self.ask(node, Way::Back, title, from, &asked.from.to_string())
            .await;
    }

    async fn begin_to_answer(&mut self, node: &str, from: IpAddr, to: IpAddr) -> Option<TraceEnd> {
        let title = match from == self.asked.to {
            true => format!("On node {node}, from where the answer comes"),
            false => format!("On node {node}, where the answer begins"),
        };
        self.ask(node, Way::Back, title, from, &to.to_string())
            .await
    }

    /// Asks one node and notes what it says. None if it says nothing.
    async fn ask(
        &mut self,
        node: &str,
        way: Way,
        title: String,
        from: IpAddr,
        to: &str,
    ) -> Option<TraceEnd> {
        let answer = match self.silent.get(node) {
            Some(late) => Err(late.clone()),
            None => {
                let answer = self.fleet.get::<Trace>(node, &query(way, from, to)).await;
                answer.map_err(|error| error.to_string())
            }
        };
        let not_ready = self.fleet.node(node).and_then(|node| node.ready) == Some(false);
        let trace = match answer {
            Ok(trace) => Ok(trace),
            Err(error) if not_ready => Err(format!("the node is not ready, and {error}")),
            Err(error) => Err(error),
        };
        let end = trace.as_ref().ok().map(|trace| trace.end);
        self.parts.push(Part {
            node: node.to_owned(),
            way,
            title,
            gone: trace.is_err() && not_ready,
            goes_on: false,
            trace,
        });
        end
    }
}

/// The MTUs on the way to the first node where it arrives.
async fn mtus(fleet: &Fleet, asked: &Asked, parts: &[Part]) -> Mtus {
    let Some(home) = &asked.source.node else {
        return Mtus::default();
    };
    let mut others = parts.iter().filter(|part| part.node != *home);
    let Ok(report) = fleet.get::<Report>(home, "/status").await else {
        return Mtus::default();
    };
    let other = match others.next() {
        Some(part) => fleet.get::<Report>(&part.node, "/status").await.ok(),
        None => None,
    };
    Mtus::of((asked.from, &report), other.as_ref())
}

impl Walk {
    /// For people. Names in it may be of anyone's choice: what is not printable is escaped.
    pub fn text(&self) -> String {
        let mut lines = vec![format!("From {} to {}", self.source, self.destination)];
        let failure = self.failure.as_ref();
        let silent = failure.is_some_and(|at| self.parts[at.part].trace.is_err());
        let mut number = 0;
        for part in &self.parts {
            lines.push(String::new());
            lines.push(part.title.clone());
            let trace = match &part.trace {
                Ok(trace) => trace,
                Err(why) => {
                    lines.push(format!("  no answer: {why}"));
                    continue;
                }
            };
            for hop in &trace.hops {
                number += 1;
                let fails = failure.and_then(|at| at.hop) == Some(number);
                let may_fail = !hop.suspects.is_empty() || !hop.lost.is_empty();
                let mark = match (fails, may_fail) {
                    (true, _) if silent => "   <== no answer from here on",
                    (true, _) => "   <== fails here",
                    (false, true) => "   <== may fail here",
                    (false, false) => "",
                };
                lines.push(format!("{number:>3}. {}{mark}", hop.what));
                lines.extend(hop.why.iter().map(|why| format!("     {why}")));
                let held = hop.kernel.iter().map(|line| format!("     kernel: {line}"));
                lines.extend(held);
                let wrong = hop.differs.iter().map(|line| format!("     WRONG: {line}"));
                lines.extend(wrong);
                lines.extend(hop.see.iter().map(|command| format!("     see: {command}")));
            }
            lines.push(format!("     {}", trace.conclusion));
        }
        let mut text = String::new();
        for line in &lines {
            let _ = writeln!(text, "{}", printable(line));
        }
        let mark = if self.good { "=>" } else { "=x" };
        let _ = writeln!(text, "\n{mark} {}", printable(&self.conclusion));
        text
    }
}
