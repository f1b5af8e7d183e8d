//! The connections that there are now, summed up: by Service, by pod, by pair of nodes.

use std::collections::BTreeMap;
use std::time::Instant;

use podwire_kernel::conntrack::{Entry, Tuple};
use serde::{Deserialize, Serialize};

use crate::feature::World;
use crate::flows::names::{Names, look};
use crate::why;

/// What there is now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Top {
    /// All connections of the node.
    pub all: Sum,
    /// Whether bytes are counted; where they are not, they are 0.
    pub counted: bool,
    /// By the port of a Service, `namespace/name:port`; most connections first, as below.
    pub services: Vec<Line>,
    /// By pod: each connection of one of this node's, as client or as server.
    pub pods: Vec<Line>,
    /// By the nodes of both ends, `from -> to`; who is on no node is `outside`.
    pub nodes: Vec<Line>,
}

/// One line.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Whose it is.
    pub name: String,
    /// How much.
    #[serde(flatten)]
    pub sum: Sum,
}

/// Connections and what they carry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sum {
    /// Connections.
    pub connections: u64,
    /// Bytes from client to server so far.
    pub sent: u64,
    /// Bytes from server to client so far.
    pub received: u64,
}

impl Sum {
    fn add(&mut self, entry: &Entry) {
        let bytes = entry.counts.map(|counts| counts.map(|one| one.bytes));
        let [sent, received] = bytes.unwrap_or_default();
        self.connections += 1;
        self.sent += sent;
        self.received += received;
    }
}

/// Sums up connections; `here` are the pods of this node, by their links.
pub fn top(entries: &[Entry], world: &World<'_>, here: &[why::Pod]) -> Top {
    let addresses = |entry: &Entry| {
        let Entry {
            original, reply, ..
        } = entry;
        [original.source, original.destination, reply.source]
    };
    let port = |to: &Tuple| (to.destination, to.protocol, to.destination_port);
    let mut names = Names::default();
    let unknown = names.unknown(
        entries.iter().flat_map(addresses),
        entries.iter().map(|entry| port(&entry.original)),
        Instant::now(),
    );
    names.learn(look(&unknown, world, here));
    let (mut services, mut pods, mut nodes) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    let mut top = Top::default();
    for entry in entries {
        let Entry {
            original, reply, ..
        } = entry;
        if original.source.is_loopback() && reply.source.is_loopback() {
            continue;
        }
        let add = |to: &mut BTreeMap<String, Sum>, name: String| {
            to.entry(name).or_default().add(entry);
        };
        top.all.add(entry);
        top.counted |= entry.counts.is_some();
        // At a port of another node it is that node that translates it, and counts it.
        if is_translated(original, reply)
            && let Some(service) = names.service(port(original))
        {
            add(&mut services, service.to_string());
        }
        let ends = [original.source, reply.source].map(|address| names.party(address, None));
        for pod in ends.iter().filter_map(|end| end.pod.as_ref()) {
            add(&mut pods, pod.to_string());
        }
        let [from, to] = ends.map(|end| end.node.map_or("outside".into(), |node| node.to_string()));
        add(&mut nodes, format!("{from} -> {to}"));
    }
    top.services = sorted(services);
    top.pods = sorted(pods);
    top.nodes = sorted(nodes);
    top
}

/// True if answers come from elsewhere than where the client sends to.
fn is_translated(original: &Tuple, reply: &Tuple) -> bool {
    (original.destination, original.destination_port) != (reply.source, reply.source_port)
}

/// The sums as lines, most connections first.
pub fn sorted(sums: BTreeMap<String, Sum>) -> Vec<Line> {
    let lines = sums.into_iter().map(|(name, sum)| Line { name, sum });
    let mut lines: Vec<Line> = lines.collect();
    lines.sort_by_key(|line| std::cmp::Reverse(line.sum.connections));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_to_another_nodes_port_is_a_services_only_there() {
        let tuple = |from: &str, to: &str| {
            let [from, to]: [std::net::SocketAddr; 2] = [from, to].map(|it| it.parse().unwrap());
            Tuple {
                source: from.ip(),
                destination: to.ip(),
                protocol: 6,
                source_port: from.port(),
                destination_port: to.port(),
            }
        };
        let (client, front) = ("10.244.1.5:40000", "172.18.0.3:30080");
        for (by, translated) in [
            ("10.244.2.9:8080", true),
            // An endpoint with the node's network.
            ("172.18.0.3:8080", true),
            (front, false),
        ] {
            let [original, reply] = [tuple(client, front), tuple(by, client)];
            assert_eq!(is_translated(&original, &reply), translated, "{by}");
        }
    }
}
