//! Addresses that are attached here and of which no policy can speak, and addresses that stay closed.
//!
//! In: what is attached, which of it is a local pod's, and the pods in doubt. Out: those that are open, and
//! of the others those outside the podCIDRs, which no rule would ask about otherwise. What must hold: what is
//! attached is closed unless its pod's policies leave it open, or no policy can be about it; a pod in doubt
//! is closed.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::{Model, Work};
use crate::features::policies::desired::attachments::{Attachments, is_unnamed};
use crate::features::policies::desired::frame::Changed;
use crate::features::policies::desired::wanted::{Note, Place, What};
use crate::snapshot::{Direction, Snapshot};

impl Model {
    /// Opens the addresses of attachments without a pod, and of those whose pods are not known, where
    /// no policy can be about them; closes the others.
    pub(super) fn place_strangers(
        &mut self,
        snapshot: &Snapshot,
        attachments: &Attachments,
        changed: &Changed,
        work: &Work,
    ) {
        let mut touched = work.addresses.iter();
        let may_matter = !changed.addresses.is_empty()
            || !changed.policies.is_empty()
            || !snapshot.cluster_policies.is_empty() && !changed.namespaces.is_empty()
            || changed.pods.iter().any(|name| attachments.has_pod(name))
            || touched.any(|address| attachments.has_address(*address))
            || !self.in_doubt.is_empty()
            || !self.closed_outside.is_empty();
        if !may_matter {
            return;
        }
        let (mut open, mut closed) = (BTreeSet::new(), BTreeSet::new());
        for (address, namespace, attachment) in attachments.of_family(self.family) {
            let owner = self.owners.owner(address, snapshot, attachments);
            let free = |namespace: &Arc<str>| !snapshot.may_isolate(namespace);
            let text = || Note::Text(attachment.comment().into());
            if owner.is_none() && !is_unnamed(attachment) && namespace.is_none_or(free) {
                let here = What::member(text());
                for direction in Direction::ALL {
                    self.put(Place::Open(direction, address), Some(here.clone()));
                }
                open.insert(address);
            } else if !self.local_names.contains_key(&address) && !self.here.has(address) {
                self.put(Place::Outside(address), Some(What::member(text())));
                closed.insert(address);
            }
        }
        // A pod of another plugin's, too.
        for (name, address) in self.in_doubt.clone() {
            if !self.here.has(address) && closed.insert(address) {
                self.put(Place::Outside(address), Some(What::member(Note::Pod(name))));
            }
        }
        let was_open = std::mem::replace(&mut self.strangers, open.clone());
        let was_closed = std::mem::replace(&mut self.closed_outside, closed.clone());
        let opens =
            |address: IpAddr| Direction::ALL.map(|one| (address, Place::Open(one, address)));
        let gone = was_open.difference(&open).copied().flat_map(opens);
        let outside = was_closed.difference(&closed);
        let outside = outside.map(|address| (*address, Place::Outside(*address)));
        for (address, place) in gone.chain(outside) {
            // It may be a pod's by now, whose policies have decided about it.
            if !self.local_names.contains_key(&address) {
                self.put(place, None);
            }
        }
    }
}
