//! The pods that answer questions with yes.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::atom::{Atom, Kind};
use super::index::PodIndex;
use crate::snapshot::{Pod, Snapshot};

/// The pods that answer one of these questions with yes. However many there are, the pods are gone through
/// once: thousands may come with one policy.
pub fn scope_of<'a, 'q>(
    atoms: impl IntoIterator<Item = &'q Atom>,
    snapshot: &'a Snapshot,
) -> Vec<&'a Pod> {
    let atoms = atoms.into_iter().flat_map(|atom| match atom {
        Atom::Any(items) => items,
        single => std::slice::from_ref(single),
    });
    let atoms: Vec<&Atom> = atoms.filter(|atom| atom.kind() == Kind::Pods).collect();
    let mut index = PodIndex::default();
    for (id, atom) in (0..).zip(&atoms) {
        index.insert(atom, id);
    }
    let is_one = |pod: &&Pod| {
        let mut candidates = index.candidates(pod, snapshot);
        candidates.any(|id| atoms[id as usize].selects(pod, snapshot))
    };
    match namespaces_of(&atoms, snapshot) {
        Some(namespaces) => {
            let pods = namespaces.into_iter();
            pods.flat_map(|one| snapshot.pods_in(one))
                .filter(is_one)
                .collect()
        }
        None => snapshot.pods.values().filter(is_one).collect(),
    }
}

/// The namespaces in which all of these pods are; `None` where they may be in any.
fn namespaces_of<'a>(atoms: &[&'a Atom], snapshot: &'a Snapshot) -> Option<BTreeSet<&'a Arc<str>>> {
    let (mut found, mut others) = (BTreeSet::new(), Vec::new());
    for atom in atoms {
        match atom {
            Atom::Here { namespace, .. } => _ = found.insert(namespace),
            other => others.push(other),
        }
    }
    match *others {
        [] => {}
        // More would each go through all Namespaces.
        [Atom::Elsewhere { namespaces, .. }] => {
            let all = snapshot.namespaces.values();
            let selected = all.filter(|one| namespaces.selects(&one.labels));
            found.extend(selected.map(|one| &one.name));
        }
        _ => return None,
    }
    Some(found)
}
