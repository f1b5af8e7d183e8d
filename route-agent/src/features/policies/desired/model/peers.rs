//! The classes of single addresses and of ranges of them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::{Model, Work};
use crate::features::policies::desired::atoms::{Atom, AtomId};
use crate::features::policies::desired::blocks::{self, Range, Ranges};
use crate::features::policies::desired::classes::ClassKey;
use crate::features::policies::desired::owners::address;
use crate::features::policies::desired::wanted::{Class, Note, Place, What};
use crate::snapshot::{Pod, Snapshot};

impl Model {
    /// Whom do questions concern that came or went?
    pub(super) fn look_at_changed_atoms(&mut self, snapshot: &Snapshot, work: &mut Work) {
        let mut cut = false;
        for atom in self.atoms.take_changed() {
            let pods = atom.scope(snapshot).into_iter();
            work.addresses
                .extend(pods.filter_map(|pod| address(pod, self.family)));
            work.addresses.extend(atom.exact());
            cut |= matches!(atom, Atom::Block(_)) && atom.exact().is_none();
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
        for (first, range) in &ranges {
            if differs(&old, first, range) {
                work.addresses.extend(self.wanted.peers(*first, range.last));
                let class = self.acquire(&range.atoms, &[], None);
                let text = self.text_of(&range.atoms);
                let what = What {
                    class,
                    last: Some(range.last),
                    note: Note::Text(text),
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

    /// What a range of addresses is, for people.
    fn text_of(&self, atoms: &[AtomId]) -> Arc<str> {
        let atoms = atoms.iter().filter_map(|id| self.atoms.get(*id));
        let texts: BTreeSet<String> = atoms.map(Atom::to_string).collect();
        Vec::from_iter(texts).join(" and ").into()
    }

    /// Finds the class of a single address.
    pub(super) fn classify(&mut self, snapshot: &Snapshot, address: IpAddr) {
        let owner = self.owners.owner(address, snapshot);
        let of_pod = owner.map(|pod| self.atoms.of_pod(pod, snapshot));
        let of_pod = of_pod.unwrap_or_default();
        let exact = self.atoms.of_address(address);
        let place = Place::Peer(address);
        if of_pod.is_empty() && exact.is_none() {
            let before = self.put(place, None);
            self.release(before);
            return;
        }
        let range = blocks::find(&self.ranges, address);
        let mut atoms = of_pod.clone();
        atoms.extend(exact);
        atoms.extend(range.into_iter().flat_map(|(_, range)| range.atoms.iter()));
        atoms.sort_unstable();
        let class = self.acquire(&atoms, &of_pod, owner);
        let note = match owner {
            Some(pod) => Note::Pod(pod.name.clone()),
            None => Note::Text(self.text_of(exact.as_slice())),
        };
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
    fn acquire(&mut self, atoms: &[AtomId], of_pod: &[AtomId], pod: Option<&Pod>) -> Class {
        let asked = self.atoms.ports(of_pod);
        let ports = asked.into_iter().filter_map(|(name, protocol)| {
            let number = pod?.port(name, *protocol)?;
            Some((name.clone(), *protocol, number))
        });
        let key = ClassKey {
            atoms: atoms.into(),
            ports: ports.collect(),
        };
        self.classes.acquire(key, self.atoms.hash(atoms))
    }

    /// What was at a place is a member no longer.
    fn release(&mut self, before: Option<What>) {
        if let Some(before) = before {
            self.classes.release(before.class);
        }
    }
}
