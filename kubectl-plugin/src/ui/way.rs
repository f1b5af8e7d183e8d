//! The whole way of a packet: one agent says how it leaves its node, the next one how it goes on.

use std::collections::BTreeSet;

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
    let mut way = Way::default();
    let trace = match ask(fleet, &first.name, from, to).await {
        Ok(trace) => trace,
        Err(ReachError::Refused { text, .. }) => return Err(text),
        Err(error) => return Err(error.to_string()),
    };
    let next = (trace.end == End::Leaves).then(|| goes_on(view, first, &trace, to));
    way.traces.push(trace);
    if let Some((node, target)) = next.flatten() {
        // An address says the same on each node; a name is only known where its pod runs.
        let source = address_of(view, from).unwrap_or_else(|| from.to_owned());
        match ask(fleet, &node, &source, &target).await {
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

fn address_of(view: &View, name: &str) -> Option<String> {
    let mut pods = view.nodes.iter().flat_map(|node| &node.pods);
    let pod = pods.find(|pod| is_of(pod, name))?;
    pod.addresses.first().map(ToString::to_string)
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

/// The other node on which it goes on, and what to ask there: where the words of the first agent lead,
/// as only it knows which endpoints a Service has.
fn goes_on(view: &View, first: &NodeView, trace: &Trace, to: &str) -> Option<(String, String)> {
    let texts = trace.hops.iter().flat_map(|hop| {
        let why = hop.why.iter().map(String::as_str);
        std::iter::once(hop.what.as_str()).chain(why)
    });
    let named: BTreeSet<&str> = texts
        .chain([trace.conclusion.as_str(), trace.destination.as_str(), to])
        .flat_map(|text| text.split([' ', ',', ';', '(', ')']))
        .map(|word| word.trim_end_matches(['.', ':']))
        .filter(|word| !word.is_empty())
        .collect();
    let others = view.nodes.iter().filter(|node| node.name != first.name);
    let mut ends = others.flat_map(|node| {
        let ends = node.pods.iter().flat_map(|pod| &pod.addresses);
        ends.chain(&node.addresses)
            .map(move |address| (node, address.to_string()))
    });
    let direct = address_of(view, without_port(to));
    let found = ends.find_map(|(node, address)| {
        if direct.as_ref().is_some_and(|direct| *direct != address) {
            return None;
        }
        let word = named.iter().find(|word| without_port(word) == address);
        let target = match (word, &direct) {
            (Some(word), _) => (*word).to_owned(),
            (None, Some(_)) => to.replacen(without_port(to), &address, 1),
            (None, None) => return None,
        };
        Some((node.name.clone(), target))
    });
    // The next hop is named as well: it is where to go on only if no pod is.
    found
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
}
