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
        if let Some(service) = names.service(port(original)) {
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

/// The sums as lines, most connections first.
pub fn sorted(sums: BTreeMap<String, Sum>) -> Vec<Line> {
    let lines = sums.into_iter().map(|(name, sum)| Line { name, sum });
    let mut lines: Vec<Line> = lines.collect();
    lines.sort_by_key(|line| std::cmp::Reverse(line.sum.connections));
    lines
}
