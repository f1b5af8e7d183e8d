//! What rules ask of a peer: each question once, no matter how many ask it.
//!
//! Only the policies that select a pod of this node ask. A class of peers is then the set of
//! questions that its members answer with yes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use podwire::hash::fnv1a;

use crate::snapshot::{Block, Node, Peer, Pod, PodSet, Protocol, Selector, Snapshot};

/// A question.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Atom {
    /// Is it a pod?
    Pod,
    /// Is it a pod of this namespace with such labels?
    Here {
        /// The namespace.
        namespace: Arc<str>,
        /// The labels.
        pods: Selector,
    },
    /// Is it a pod with such labels in a Namespace with such labels?
    Elsewhere {
        /// The labels of the Namespace.
        namespaces: Selector,
        /// The labels of the pod.
        pods: Selector,
    },
    /// Is it one of these pods, as ClusterNetworkPolicies mean them?
    Anywhere(PodSet),
    /// Is it a Node with such labels?
    Nodes(Selector),
    /// Is it one of these addresses?
    Block(Block),
}

impl fmt::Display for Atom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let selector = |selector: &Selector| match selector.is_empty() {
            true => "all".to_owned(),
            false => selector.to_string(),
        };
        match self {
            Atom::Pod => f.write_str("pods"),
            Atom::Here { namespace, pods } => write!(f, "{namespace}/{}", selector(pods)),
            Atom::Elsewhere { namespaces, pods } => {
                write!(
                    f,
                    "namespaces {}, pods {}",
                    selector(namespaces),
                    selector(pods)
                )
            }
            Atom::Anywhere(pods) => pods.fmt(f),
            Atom::Nodes(nodes) => write!(f, "nodes {}", selector(nodes)),
            Atom::Block(block) => block.fmt(f),
        }
    }
}

impl Atom {
    /// The question that a peer of a policy asks; `own` is the namespace of the policy, if it has one.
    pub fn of(peer: &Peer, own: &Arc<str>) -> Self {
        match peer.clone() {
            Peer::Here(pods) => Atom::Here {
                namespace: own.clone(),
                pods,
            },
            Peer::Anywhere(pods) => Atom::Anywhere(pods),
            Peer::Nodes(nodes) => Atom::Nodes(nodes),
            Peer::Elsewhere { namespaces, pods } => Atom::Elsewhere { namespaces, pods },
            Peer::Block(block) => Atom::Block(block),
        }
    }

    /// Whether a pod's answer is yes, for questions about pods.
    pub fn selects(&self, pod: &Pod, snapshot: &Snapshot) -> bool {
        match self {
            Atom::Pod => true,
            Atom::Here { namespace, pods } => {
                *namespace == pod.name.namespace && pods.selects(&pod.labels)
            }
            Atom::Elsewhere { namespaces, pods } => {
                let namespace = snapshot.namespaces.get(&pod.name.namespace);
                pods.selects(&pod.labels)
                    && namespace.is_some_and(|one| namespaces.selects(&one.labels))
            }
            Atom::Anywhere(pods) => pods.has_peer(pod, snapshot),
            Atom::Nodes(_) | Atom::Block(_) => false,
        }
    }

    /// The pods whose answer is yes.
    pub fn scope<'a>(&self, snapshot: &'a Snapshot) -> Vec<&'a Pod> {
        match self {
            Atom::Pod => snapshot.pods.values().collect(),
            Atom::Here { namespace, .. } => {
                let pods_there = snapshot.pods_in(namespace);
                pods_there
                    .filter(|pod| self.selects(pod, snapshot))
                    .collect()
            }
            Atom::Elsewhere { namespaces, .. } => {
                let all = snapshot.namespaces.values();
                all.filter(|one| namespaces.selects(&one.labels))
                    .flat_map(|one| snapshot.pods_in(&one.name))
                    .filter(|pod| self.selects(pod, snapshot))
                    .collect()
            }
            Atom::Anywhere(pods) => {
                let all = snapshot.pods.values();
                all.filter(|pod| pods.has_peer(pod, snapshot)).collect()
            }
            Atom::Nodes(_) | Atom::Block(_) => Vec::new(),
        }
    }

    /// The one address that it asks about, if there is but one.
    pub fn exact(&self) -> Option<IpAddr> {
        let Atom::Block(Block { network, except }) = self else {
            return None;
        };
        let single = network.prefix() == if network.is_ipv4() { 32 } else { 128 };
        (single && except.is_empty()).then(|| network.ip())
    }
}

/// The number of a question; none is used twice.
pub type AtomId = u32;

/// A named port that a rule asks of those who answer a question with yes.
pub type AskedPort = (Arc<str>, Protocol);

/// The questions that are asked now.
#[derive(Debug, Default)]
pub struct Atoms {
    ids: HashMap<Atom, AtomId>,
    known: BTreeMap<AtomId, Known>,
    here: HashMap<Arc<str>, BTreeSet<AtomId>>,
    everywhere: BTreeSet<AtomId>,
    of_nodes: BTreeSet<AtomId>,
    exact: BTreeMap<IpAddr, AtomId>,
    last: AtomId,
    changed: BTreeSet<Atom>,
}

#[derive(Debug)]
struct Known {
    atom: Atom,
    hash: u64,
    holders: usize,
    ports: BTreeMap<AskedPort, usize>,
}

impl Atoms {
    /// One more rule asks.
    pub fn acquire(&mut self, atom: Atom) -> AtomId {
        if let Some(id) = self.ids.get(&atom) {
            if let Some(known) = self.known.get_mut(id) {
                known.holders += 1;
            }
            return *id;
        }
        self.last += 1;
        let id = self.last;
        self.index(&atom, |ids| _ = ids.insert(id));
        if let Some(address) = atom.exact() {
            self.exact.insert(address, id);
        }
        self.changed.insert(atom.clone());
        self.ids.insert(atom.clone(), id);
        let known = Known {
            hash: fnv1a(atom.to_string().bytes()),
            atom,
            holders: 1,
            ports: BTreeMap::new(),
        };
        self.known.insert(id, known);
        id
    }

    /// One rule less asks.
    pub fn release(&mut self, id: AtomId) {
        let Some(known) = self.known.get_mut(&id) else {
            return;
        };
        known.holders -= 1;
        if known.holders > 0 {
            return;
        }
        if let Some(Known { atom, .. }) = self.known.remove(&id) {
            self.index(&atom, |ids| _ = ids.remove(&id));
            if let Some(address) = atom.exact() {
                self.exact.remove(&address);
            }
            self.ids.remove(&atom);
            self.changed.insert(atom);
        }
    }

    /// One more rule asks for a named port of those who answer with yes.
    pub fn ask_port(&mut self, id: AtomId, port: AskedPort) {
        let Some(known) = self.known.get_mut(&id) else {
            return;
        };
        let asked = known.ports.entry(port).or_insert(0);
        *asked += 1;
        if *asked == 1 {
            self.changed.insert(known.atom.clone());
        }
    }

    /// One rule less asks for a named port.
    pub fn drop_port(&mut self, id: AtomId, port: &AskedPort) {
        let Some(known) = self.known.get_mut(&id) else {
            return;
        };
        let Some(asked) = known.ports.get_mut(port) else {
            return;
        };
        *asked -= 1;
        if *asked == 0 {
            known.ports.remove(port);
            self.changed.insert(known.atom.clone());
        }
    }

    fn index(&mut self, atom: &Atom, change: impl FnOnce(&mut BTreeSet<AtomId>)) {
        match atom {
            Atom::Here { namespace, .. } => {
                let ids = self.here.entry(namespace.clone()).or_default();
                change(ids);
                if ids.is_empty() {
                    self.here.remove(namespace);
                }
            }
            Atom::Pod | Atom::Elsewhere { .. } | Atom::Anywhere(_) => {
                change(&mut self.everywhere);
            }
            Atom::Nodes(_) => change(&mut self.of_nodes),
            Atom::Block(_) => {}
        }
    }

    /// What has changed since this was last asked: the pods in its scope must be looked at.
    pub fn take_changed(&mut self) -> BTreeSet<Atom> {
        std::mem::take(&mut self.changed)
    }

    /// The questions about pods that a pod answers with yes.
    pub fn of_pod(&self, pod: &Pod, snapshot: &Snapshot) -> Vec<AtomId> {
        let here = self.here.get(&pod.name.namespace).into_iter().flatten();
        let all = here.chain(&self.everywhere);
        let yes = all.filter(|id| {
            let known = self.known.get(id);
            known.is_some_and(|known| known.atom.selects(pod, snapshot))
        });
        yes.copied().collect()
    }

    /// True if any question is about Nodes.
    pub fn ask_about_nodes(&self) -> bool {
        !self.of_nodes.is_empty()
    }

    /// The questions about Nodes that a Node answers with yes.
    pub fn of_node(&self, node: &Node) -> impl Iterator<Item = AtomId> {
        let ids = self.of_nodes.iter().copied();
        ids.filter(|id| match self.get(*id) {
            Some(Atom::Nodes(nodes)) => nodes.selects(&node.all_labels),
            _ => false,
        })
    }

    /// The question about exactly this address.
    pub fn of_address(&self, address: IpAddr) -> Option<AtomId> {
        self.exact.get(&address).copied()
    }

    /// The questions about more than one address.
    pub fn blocks(&self) -> impl Iterator<Item = (AtomId, &Block)> {
        self.known
            .iter()
            .filter_map(|(id, known)| match &known.atom {
                Atom::Block(block) if known.atom.exact().is_none() => Some((*id, block)),
                _ => None,
            })
    }

    /// The named ports that are asked of those who answer these questions with yes.
    pub fn ports(&self, ids: &[AtomId]) -> BTreeSet<&AskedPort> {
        let known = ids.iter().filter_map(|id| self.known.get(id));
        known.flat_map(|known| known.ports.keys()).collect()
    }

    /// The question with this number.
    pub fn get(&self, id: AtomId) -> Option<&Atom> {
        self.known.get(&id).map(|known| &known.atom)
    }

    /// A number that depends on the questions and on nothing else, not on when they were first asked.
    pub fn hash(&self, ids: &[AtomId]) -> u64 {
        let known = ids.iter().filter_map(|id| self.known.get(id));
        let mut hashes: Vec<u64> = known.map(|known| known.hash).collect();
        hashes.sort_unstable();
        fnv1a(hashes.into_iter().flat_map(u64::to_be_bytes))
    }
}
