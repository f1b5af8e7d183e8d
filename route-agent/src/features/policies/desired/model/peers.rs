//! The classes of single addresses and of ranges of them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::{Model, Work};
use crate::features::policies::desired::atoms::{Atom, Kind, scope_of};
use crate::features::policies::desired::attachments::Attachments;
use crate::features::policies::desired::blocks::{self, Range, Ranges};
use crate::features::policies::desired::classes::ClassKey;
use crate::features::policies::desired::id_set::IdSet;
use crate::features::policies::desired::start::beginning;
use crate::features::policies::desired::wanted::{Class, Note, Place, What, listed};
use crate::snapshot::{Pod, Snapshot};

/// No more networks than these have room in a comment.
const NAMED: usize = 16;

impl Model {
    /// Whom do questions concern that came or went?
    pub(super) fn look_at_changed_atoms(&mut self, snapshot: &Snapshot, work: &mut Work) {
        let (mut cut, mut nodes) = (false, false);
        let changed = self.atoms.take_changed();
        let pods = scope_of(&changed, snapshot).into_iter();
        work.addresses
            .extend(pods.filter_map(|pod| self.claimed.get(&pod.name)));
        for atom in changed {
            work.addresses.extend(atom.exact_ones());
            nodes |= atom.kind() == Kind::Nodes;
            cut |= atom.has_networks();
        }
        if nodes {
            self.look_at_nodes(snapshot, work);
        }
        if cut {
            self.cut_blocks(work);
        }
    }

    /// Cuts the networks into ranges again.
    fn cut_blocks(&mut self, work: &mut Work) {
        let ranges = blocks::cut(self.atoms.blocks());
        let old = std::mem::replace(&mut self.ranges, ranges.clone());
        let differs = |ranges: &Ranges, first: &IpAddr, range: &Range| {
            ranges.get(first).is_none_or(|other| other != range)
        };
        // Ranges with the same questions share them, and a network with many holes makes many ranges.
        let mut texts: HashMap<*const IdSet, Arc<str>> = HashMap::new();
        for (first, range) in &ranges {
            if differs(&old, first, range) {
                work.addresses.extend(self.wanted.peers(*first, range.last));
                let class = self.acquire(range.atoms.clone(), &IdSet::default(), None);
                let text = texts.entry(Arc::as_ptr(&range.atoms));
                let text = text.or_insert_with(|| self.text_of(&range.atoms));
                let what = What {
                    class,
                    last: Some(range.last),
                    note: Note::Text(text.clone()),
                };
                let before = self.put(Place::Block(*first), Some(what));
                self.release(before);
            }
        }
        for (first, range) in &old {
            if differs(&ranges, first, range) {
                work.addresses.extend(self.wanted.peers(*first, range.last));
                if !ranges.contains_key(first) {
                    let before = self.put(Place::Block(*first), None);
                    self.release(before);
                }
            }
        }
    }

    /// What a range of addresses is, for people. It may be in thousands of networks, and so may each
    /// of thousands of ranges.
    fn text_of(&self, atoms: &IdSet) -> Arc<str> {
        let atoms = atoms.iter().filter_map(|id| self.atoms.get(id));
        let mut atoms: Vec<&Atom> = atoms.collect();
        let more = atoms.len().saturating_sub(NAMED);
        if more > 0 {
            // The same ones after a restart.
            atoms.select_nth_unstable(NAMED);
            atoms.truncate(NAMED);
        }
        let mut texts: Vec<String> = atoms.into_iter().map(beginning).collect();
        texts.sort_unstable();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        listed("", &texts, more, " and ")
    }

    /// Finds the class of a single address.
    pub(super) fn classify(
        &mut self,
        snapshot: &Snapshot,
        attachments: &Attachments,
        address: IpAddr,
    ) {
        let owner = self.owners.owner(address, snapshot, attachments);
        let of_pod = owner.map(|pod| self.atoms.of_pod(pod, snapshot));
        let of_pod = of_pod.unwrap_or_default();
        let exact = self.atoms.of_address(address);
        let place = Place::Peer(address);
        let (of_node, node) = self.node_atoms(snapshot, address);
        if of_pod.is_empty() && of_node.is_empty() && exact.is_empty() {
            let before = self.put(place, None);
            self.release(before);
            return;
        }
        let range = blocks::find(&self.ranges, address);
        let mut atoms = of_pod.clone();
        for more in [&exact, &of_node] {
            atoms.unite(more);
        }
        if let Some((_, range)) = range {
            atoms.unite(&range.atoms);
        }
        let note = match (owner, node) {
            (Some(pod), _) => Note::Pod(pod.name.clone()),
            (None, Some(node)) => Note::Text(format!("Node {node}").into()),
            (None, None) => Note::Text(self.text_of(&exact)),
        };
        let class = self.acquire(Arc::new(atoms), &of_pod, owner);
        let what = What {
            class,
            last: None,
            note,
        };
        let before = self.put(place, Some(what));
        self.release(before);
    }

    /// One more member of the class of those who answer these questions with yes, some of them as a
    /// pod.
    fn acquire(&mut self, atoms: Arc<IdSet>, of_pod: &IdSet, pod: Option<&Pod>) -> Class {
        let ports = pod.map(|pod| self.atoms.ports(of_pod, pod));
        let key = ClassKey {
            ports: ports.unwrap_or_default(),
            atoms,
        };
        self.classes.acquire(key, |atoms| self.atoms.hash(atoms))
    }

    /// What was at a place is a member no longer.
    fn release(&mut self, before: Option<What>) {
        if let Some(before) = before {
            self.classes.release(before.class);
        }
    }
}
