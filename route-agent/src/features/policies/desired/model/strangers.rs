//! Addresses that are attached here, and of which no policy can speak.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Model;
use crate::features::policies::desired::attachments::Attachments;
use crate::features::policies::desired::frame::Changed;
use crate::features::policies::desired::wanted::{Note, Place, What};
use crate::snapshot::{Direction, Snapshot};

impl Model {
    /// Opens the addresses of attachments without a pod, and of those whose pods are not known, in
    /// namespaces without policies.
    pub(super) fn open_strangers(
        &mut self,
        snapshot: &Snapshot,
        attachments: &Attachments,
        changed: &Changed,
    ) {
        let may_matter = !changed.addresses.is_empty()
            || !changed.policies.is_empty()
            || !snapshot.cluster_policies.is_empty() && !changed.namespaces.is_empty()
            || changed.pods.iter().any(|name| attachments.has_pod(name));
        if !may_matter {
            return;
        }
        let mut now = BTreeSet::new();
        for (address, namespace, attachment) in attachments.strangers(self.family) {
            let free = |namespace: &Arc<str>| !snapshot.may_isolate(namespace);
            let owner = self.owners.owner(address, snapshot, attachments);
            if owner.is_none() && namespace.is_none_or(free) {
                let comment: Arc<str> = attachment.comment().into();
                for direction in Direction::ALL {
                    let open = What::member(Note::Text(comment.clone()));
                    self.put(Place::Open(direction, address), Some(open));
                }
                now.insert(address);
            }
        }
        for gone in std::mem::replace(&mut self.strangers, now.clone()).difference(&now) {
            // It may be a pod's by now, whose policies have decided about it.
            if !self.local_names.contains_key(gone) {
                for direction in Direction::ALL {
                    self.put(Place::Open(direction, *gone), None);
                }
            }
        }
    }
}
