//! What rules ask of a peer: each question once, no matter how many ask it.
//!
//! Only the policies that select a pod of this node ask. A class of peers is then the set of
//! questions that its members answer with yes. A rule with many peers asks one question, whose items
//! are known here as well, so that each is put to a pod once however many lists it is in; but only
//! what rules ask tells classes apart.

mod atom;
mod index;
mod scope;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use podwire::hash::fnv1a;

pub use atom::{Atom, Kind, questions};
use index::PodIndex;
pub use scope::scope_of;

use crate::features::policies::desired::id_set::IdSet;
use crate::snapshot::{Block, Node, Pod, Protocol, Snapshot};

/// Rules with up to this many peers of a kind ask about each of them by itself, so that rules share
/// classes. A longer list is one question.
pub const FEW_PEERS: usize = 16;

/// The number of a question; none is used twice.
pub type AtomId = u32;

/// A named port that a rule asks of those who answer a question with yes.
pub type AskedPort = (Arc<str>, Protocol);

/// The questions that are asked now.
#[derive(Debug)]
pub struct Atoms {
    few_peers: usize,
    ids: HashMap<Atom, AtomId>,
    known: BTreeMap<AtomId, Known>,
    of_pods: PodIndex,
    of_nodes: BTreeSet<AtomId>,
    exact: BTreeMap<IpAddr, AtomId>,
    last: AtomId,
    changed: BTreeSet<Atom>,
}

#[derive(Debug)]
struct Known {
    atom: Atom,
    hash: u64,
    /// How often rules ask it.
    holders: usize,
    /// The lists that it is an item of.
    lists: BTreeSet<AtomId>,
    /// Its own items, if it is a list.
    items: Box<[AtomId]>,
    ports: BTreeMap<AskedPort, usize>,
}

impl Atoms {
    /// None; rules with more than this many peers of a kind ask a single question.
    pub fn of_lists_over(few_peers: usize) -> Self {
        Self {
            few_peers,
            ids: HashMap::new(),
            known: BTreeMap::new(),
            of_pods: PodIndex::default(),
            of_nodes: BTreeSet::new(),
            exact: BTreeMap::new(),
            last: 0,
            changed: BTreeSet::new(),
        }
    }

    /// Up to how many peers of a kind a rule asks one by one.
    pub fn few_peers(&self) -> usize {
        self.few_peers
    }

    /// One more rule asks.
    pub fn acquire(&mut self, atom: Atom) -> AtomId {
        let id = self.know(&atom);
        if let Some(known) = self.known.get_mut(&id) {
            known.holders += 1;
            if known.holders == 1 {
                self.changed.insert(atom);
            }
        }
        id
    }

    /// One rule less asks.
    pub fn release(&mut self, id: AtomId) {
        let Some(known) = self.known.get_mut(&id) else {
            return;
        };
        known.holders -= 1;
        if known.holders == 0 {
            self.changed.insert(known.atom.clone());
            self.forget(id);
        }
    }

    /// The number of a question, which may be new.
    fn know(&mut self, atom: &Atom) -> AtomId {
        if let Some(id) = self.ids.get(atom) {
            return *id;
        }
        let items: Box<[_]> = atom.items().iter().map(|item| self.know(item)).collect();
        self.last += 1;
        let id = self.last;
        for item in &items {
            if let Some(item) = self.known.get_mut(item) {
                item.lists.insert(id);
            }
        }
        self.of_pods.insert(atom, id);
        if matches!(atom, Atom::Nodes(_)) {
            self.of_nodes.insert(id);
        }
        if let Some(address) = atom.exact() {
            self.exact.insert(address, id);
        }
        self.ids.insert(atom.clone(), id);
        let known = Known {
            hash: match items.is_empty() {
                true => fnv1a(atom.to_string().bytes()),
                false => self.hash_of(items.iter().copied()),
            },
            atom: atom.clone(),
            holders: 0,
            lists: BTreeSet::new(),
            items,
            ports: BTreeMap::new(),
        };
        self.known.insert(id, known);
        id
    }

    /// Lets go of a question that no rule asks and no list has.
    fn forget(&mut self, id: AtomId) {
        let is_asked = |known: &Known| known.holders > 0 || !known.lists.is_empty();
        if self.known.get(&id).is_none_or(is_asked) {
            return;
        }
        let Some(Known { atom, items, .. }) = self.known.remove(&id) else {
            return;
        };
        self.of_pods.remove(&atom, id);
        self.of_nodes.remove(&id);
        if let Some(address) = atom.exact() {
            self.exact.remove(&address);
        }
        self.ids.remove(&atom);
        for item in items {
            if let Some(known) = self.known.get_mut(&item) {
                known.lists.remove(&id);
            }
            self.forget(item);
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

    /// What has changed since this was last asked: the pods in its scope must be looked at.
    pub fn take_changed(&mut self) -> BTreeSet<Atom> {
        std::mem::take(&mut self.changed)
    }

    /// What rules ask of who answers these questions with yes: themselves, and the lists that they are
    /// in.
    fn asked(&self, yes: impl Iterator<Item = AtomId>) -> IdSet {
        let mut asked = IdSet::default();
        for id in yes {
            if let Some(known) = self.known.get(&id) {
                asked.extend((known.holders > 0).then_some(id));
                asked.extend(known.lists.iter().copied());
            }
        }
        asked
    }

    /// The questions about pods that a pod answers with yes.
    pub fn of_pod(&self, pod: &Pod, snapshot: &Snapshot) -> IdSet {
        let candidates = self.of_pods.candidates(pod, snapshot);
        self.asked(candidates.filter(|id| {
            let atom = self.get(*id);
            atom.is_some_and(|atom| atom.selects(pod, snapshot))
        }))
    }

    /// True if any question is about Nodes.
    pub fn ask_about_nodes(&self) -> bool {
        !self.of_nodes.is_empty()
    }

    /// The questions about Nodes that a Node answers with yes.
    pub fn of_node(&self, node: &Node) -> IdSet {
        let ids = self.of_nodes.iter().copied();
        self.asked(ids.filter(|id| match self.get(*id) {
            Some(Atom::Nodes(nodes)) => nodes.selects(&node.all_labels),
            _ => false,
        }))
    }

    /// The questions about exactly this address.
    pub fn of_address(&self, address: IpAddr) -> IdSet {
        self.asked(self.exact.get(&address).copied().into_iter())
    }

    /// The questions about more than one address, each with its networks.
    pub fn blocks(&self) -> impl Iterator<Item = (AtomId, Vec<&Block>)> {
        let asked = self.known.iter().filter(|(_, known)| known.holders > 0);
        asked.filter_map(|(id, known)| {
            let atoms = known.atom.items().iter().chain([&known.atom]);
            let blocks = atoms.filter_map(|atom| match atom {
                Atom::Block(block) if atom.exact().is_none() => Some(block),
                _ => None,
            });
            let blocks: Vec<_> = blocks.collect();
            (!blocks.is_empty()).then_some((*id, blocks))
        })
    }

    /// The named ports of a pod that are asked of those who answer these questions with yes, each with
    /// its number; sorted.
    pub fn ports(&self, ids: &IdSet, pod: &Pod) -> Box<[(Arc<str>, Protocol, u16)]> {
        let known: Vec<_> = ids.iter().filter_map(|id| self.known.get(&id)).collect();
        let asking = known.iter().filter(|known| !known.ports.is_empty());
        let asking: Vec<_> = asking.collect();
        let mut found: BTreeMap<AskedPort, u16> = BTreeMap::new();
        for port in pod.ports.iter() {
            let name = (port.name.clone(), port.protocol);
            if asking.iter().any(|known| known.ports.contains_key(&name)) {
                // Of a name that is there twice the first counts, as in `Pod::port`.
                found.entry(name).or_insert(port.port);
            }
        }
        let found = found.into_iter();
        found
            .map(|((name, protocol), number)| (name, protocol, number))
            .collect()
    }

    /// How many named ports are asked, of all questions together.
    #[cfg(test)]
    pub fn asked_ports(&self) -> usize {
        self.known.values().map(|known| known.ports.len()).sum()
    }

    /// The question with this number.
    pub fn get(&self, id: AtomId) -> Option<&Atom> {
        self.known.get(&id).map(|known| &known.atom)
    }

    /// A number that depends on the questions and on nothing else, not on when they were first asked.
    pub fn hash(&self, ids: &IdSet) -> u64 {
        self.hash_of(ids.iter())
    }

    fn hash_of(&self, ids: impl Iterator<Item = AtomId>) -> u64 {
        let known = ids.filter_map(|id| self.known.get(&id));
        let mut hashes: Vec<u64> = known.map(|known| known.hash).collect();
        hashes.sort_unstable();
        fnv1a(hashes.into_iter().flat_map(u64::to_be_bytes))
    }
}
