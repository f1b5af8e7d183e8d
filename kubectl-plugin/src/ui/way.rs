//! The whole way of a packet: one agent says how it leaves its node, the next one how it goes on.

use std::collections::BTreeMap;
use std::net::IpAddr;

use podwire_agent::why::{End, Trace};
use serde::Serialize;

use super::view::{NodeView, PodView, View};
use crate::fleet::Fleet;
use crate::reach::ReachError;

/// What the agents on the way say.
#[derive(Debug, Default, Serialize)]
pub struct Way {
    /// In the order of the way.
    pub traces: Vec<Trace>,
    /// Agents that could not say.
    pub silent: Vec<Silent>,
}

/// An agent that could not say.
#[derive(Debug, Serialize)]
pub struct Silent {
    /// Its node.
    pub node: String,
    /// Why.
    pub text: String,
}

/// Asks for the way. What the first agent refuses is an error.
pub async fn find(fleet: &Fleet, view: &View, from: &str, to: &str) -> Result<Way, String> {
    let first = start(view, from)
        .or_else(|| start(view, without_port(to)))
        .or_else(|| view.nodes.iter().find(|node| node.answers));
    let first = first.ok_or("no agent answers")?;
    // The name of a pod is known where the pod runs only, its address everywhere.
    let to = by_address(view, &with_port(view, to));
    let trace = match ask(fleet, &first.name, from, &to).await {
        Ok(trace) => trace,
        Err(ReachError::Refused { text, .. }) => return Err(text),
        Err(error) => return Err(error.to_string()),
    };
    let mut way = Way::default();
    let next = (trace.end == End::Leaves).then(|| goes_on(view, first, &trace, &to));
    way.traces.push(trace);
    if let Some((node, target)) = next.flatten() {
        match ask(fleet, &node, &by_address(view, from), &target).await {
            Ok(trace) => way.traces.push(trace),
            Err(error) => way.silent.push(Silent {
                node,
                text: error.to_string(),
            }),
        }
    }
    Ok(way)
}

async fn ask(fleet: &Fleet, node: &str, from: &str, to: &str) -> Result<Trace, ReachError> {
    let query = form_urlencoded::Serializer::new(String::new())
        .append_pair("from", from)
        .append_pair("to", to)
        .finish();
    fleet.get(node, &format!("/why?{query}")).await
}

/// The node that sends for a name or an address.
fn start<'a>(view: &'a View, name: &str) -> Option<&'a NodeView> {
    let is = |node: &&NodeView| {
        let own = node.name == name || node.addresses.iter().any(|one| one.to_string() == name);
        own || node.pods.iter().any(|pod| is_of(pod, name))
    };
    view.nodes.iter().find(is)
}

fn is_of(pod: &PodView, name: &str) -> bool {
    pod.id == name || pod.name == name || pod.addresses.iter().any(|one| one.to_string() == name)
}

/// A Service answers no ping: without a port its first one is meant.
fn with_port(view: &View, given: &str) -> String {
    let service = view.services.iter().find(|service| service.id == given);
    let port = service.and_then(|service| service.ports.first());
    let front =
        port.and_then(|port| Some((port.fronts.first()?.rsplit_once(':')?.1, &port.protocol)));
    match front {
        Some((port, protocol)) => format!("{given}:{port}/{protocol}"),
        None => given.to_owned(),
    }
}

/// What is asked for, with the address of a pod in place of its name.
fn by_address(view: &View, given: &str) -> String {
    let name = without_port(given);
    let mut pods = view.nodes.iter().flat_map(|node| &node.pods);
    let pod = pods.find(|pod| pod.id == name || pod.name == name);
    match pod.and_then(|pod| pod.addresses.first()) {
        Some(IpAddr::V6(address)) if name != given => {
            given.replacen(name, &format!("[{address}]"), 1)
        }
        Some(address) => given.replacen(name, &address.to_string(), 1),
        None => given.to_owned(),
    }
}

/// `a:80/udp` without what stands for the transport; an IPv6 address without one is left alone.
fn without_port(to: &str) -> &str {
    let Some((host, port)) = to.rsplit_once(':') else {
        return to;
    };
    let number = port.split('/').next().unwrap_or_default();
    match number.parse::<u16>().is_ok() && (!host.contains(':') || host.starts_with('[')) {
        true => host.trim_matches(['[', ']']),
        false => to,
    }
}

/// The other node on which it goes on, and what to ask there: the pod to which the words of the first
/// agent lead, as only it knows which endpoints a Service has.
fn goes_on(view: &View, first: &NodeView, trace: &Trace, to: &str) -> Option<(String, String)> {
    let texts = trace.hops.iter().flat_map(|hop| {
        let why = hop.why.iter().map(String::as_str);
        std::iter::once(hop.what.as_str()).chain(why)
    });
    let words = texts
        .chain([trace.conclusion.as_str()])
        .flat_map(|text| text.split([' ', ',', ';', '(', ')']))
        .map(|word| word.trim_end_matches(['.', ':']));
    let named: Vec<&str> = std::iter::once(to).chain(words).collect();
    let others = view.nodes.iter().filter(|node| node.name != first.name);
    let ends: BTreeMap<String, &str> = others
        .flat_map(|node| {
            let pods = node.pods.iter().flat_map(|pod| &pod.addresses);
            pods.map(|address| (address.to_string(), node.name.as_str()))
        })
        .collect();
    named.into_iter().find_map(|word| {
        let node = ends.get(without_port(word))?;
        Some(((*node).to_owned(), word.to_owned()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_found_with_and_without_a_port() {
        for (given, host) in [
            ("default/a", "default/a"),
            ("default/a:80", "default/a"),
            ("10.10.1.2:53/udp", "10.10.1.2"),
            ("[fd00::1]:80", "fd00::1"),
            ("fd00::1", "fd00::1"),
        ] {
            assert_eq!(without_port(given), host);
        }
    }

    #[test]
    fn a_pod_is_asked_for_by_its_address() {
        let pod = |id: &str, address: &str| PodView {
            id: id.into(),
            addresses: vec![address.parse().unwrap()],
            ..PodView::default()
        };
        let node = NodeView {
            pods: vec![pod("default/a", "10.10.1.2"), pod("default/b", "fd00::2")],
            ..NodeView::default()
        };
        let view = View {
            nodes: vec![node],
            ..View::default()
        };
        for (given, asked) in [
            ("default/a", "10.10.1.2"),
            ("default/a:80", "10.10.1.2:80"),
            ("default/b:80/udp", "[fd00::2]:80/udp"),
            ("default/web:80", "default/web:80"),
        ] {
            assert_eq!(by_address(&view, given), asked);
        }
    }
}
