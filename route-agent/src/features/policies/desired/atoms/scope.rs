//! The pods that answer a question with yes.

use std::collections::BTreeSet;

use super::atom::Atom;
use super::index::PodIndex;
use crate::snapshot::{Pod, Snapshot};

impl Atom {
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
            Atom::Any(items) => scope_of(items, snapshot),
        }
    }
}

/// The pods that answer one of these questions with yes.
fn scope_of<'a>(items: &[Atom], snapshot: &'a Snapshot) -> Vec<&'a Pod> {
    let mut index = PodIndex::default();
    for (id, item) in (0..).zip(items) {
        index.insert(item, id);
    }
    let is_one = |pod: &&Pod| {
        let mut candidates = index.candidates(pod, snapshot);
        candidates.any(|id| items[id as usize].selects(pod, snapshot))
    };
    let namespaces = items.iter().map(|item| match item {
        Atom::Here { namespace, .. } => Some(namespace),
        _ => None,
    });
    match namespaces.collect::<Option<BTreeSet<_>>>() {
        Some(namespaces) => {
            let pods = namespaces.into_iter();
            pods.flat_map(|one| snapshot.pods_in(one))
                .filter(is_one)
                .collect()
        }
        None => snapshot.pods.values().filter(is_one).collect(),
    }
}
