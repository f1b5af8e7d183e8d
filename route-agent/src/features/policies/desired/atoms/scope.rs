//! The pods that answer questions with yes.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::atom::Atom;
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
    let (mut here, mut everywhere) = (Vec::new(), Vec::new());
    for atom in atoms {
        match atom {
            Atom::Here { .. } => here.push(atom),
            Atom::Nodes(_) | Atom::Block(_) | Atom::Any(_) => {}
            Atom::Pod | Atom::Elsewhere { .. } | Atom::Anywhere(_) => everywhere.push(atom),
        }
    }
    let mut pods = among(&here, snapshot, |is_one| {
        let namespaces = here.iter().filter_map(|atom| match atom {
            Atom::Here { namespace, .. } => Some(namespace),
            _ => None,
        });
        let namespaces: BTreeSet<&Arc<str>> = namespaces.collect();
        let pods = namespaces.into_iter();
        let pods = pods.flat_map(|one| snapshot.pods_in(one));
        pods.filter(|pod| is_one(pod)).collect()
    });
    pods.extend(match *everywhere {
        // Its Namespaces are found by their labels alone.
        [one @ Atom::Elsewhere { namespaces, .. }] => {
            let all = snapshot.namespaces.values();
            all.filter(|one| namespaces.selects(&one.labels))
                .flat_map(|one| snapshot.pods_in(&one.name))
                .filter(|pod| one.selects(pod, snapshot))
                .collect()
        }
        _ => among(&everywhere, snapshot, |is_one| {
            let pods = snapshot.pods.values();
            pods.filter(|pod| is_one(pod)).collect()
        }),
    });
    pods
}

/// What `of` finds of those who answer one of these questions with yes.
fn among<'a>(
    atoms: &[&Atom],
    snapshot: &'a Snapshot,
    of: impl FnOnce(&dyn Fn(&'a Pod) -> bool) -> Vec<&'a Pod>,
) -> Vec<&'a Pod> {
    if atoms.is_empty() {
        return Vec::new();
    }
    let mut index = PodIndex::default();
    for (id, atom) in (0..).zip(atoms) {
        index.insert(atom, id);
    }
    of(&|pod| {
        let mut candidates = index.candidates(pod, snapshot);
        candidates.any(|id| atoms[id as usize].selects(pod, snapshot))
    })
}
