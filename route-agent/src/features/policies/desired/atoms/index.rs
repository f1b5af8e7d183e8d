//! Which questions a pod may answer with yes, without asking all of them.
//!
//! Most selectors ask for one value of a label, so the questions are found by the labels of a pod.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::Atom;
use crate::snapshot::{Labels, Pod, Selector};

/// Questions about pods, each with a number.
#[derive(Debug, Default)]
pub struct PodIndex {
    here: HashMap<Arc<str>, Bucket>,
    everywhere: Bucket,
}

impl PodIndex {
    /// One question more, if it is about pods.
    pub fn insert(&mut self, atom: &Atom, id: u32) {
        self.change(atom, |ids| _ = ids.insert(id));
    }

    /// One question less.
    pub fn remove(&mut self, atom: &Atom, id: u32) {
        self.change(atom, |ids| _ = ids.remove(&id));
    }

    /// Those that a pod may answer with yes.
    pub fn candidates(&self, pod: &Pod) -> impl Iterator<Item = u32> {
        let here = self.here.get(&pod.name.namespace).into_iter();
        let buckets = here.chain([&self.everywhere]);
        buckets.flat_map(|bucket| bucket.candidates(&pod.labels))
    }

    fn change(&mut self, atom: &Atom, change: impl FnMut(&mut BTreeSet<u32>)) {
        match atom {
            Atom::Here { namespace, pods } => {
                let bucket = self.here.entry(namespace.clone()).or_default();
                bucket.change(Some(pods), change);
                if bucket.is_empty() {
                    self.here.remove(namespace);
                }
            }
            Atom::Pod => self.everywhere.change(None, change),
            Atom::Elsewhere { pods, .. } => self.everywhere.change(Some(pods), change),
            Atom::Anywhere(set) => self.everywhere.change(Some(&set.pods), change),
            Atom::Nodes(_) | Atom::Block(_) | Atom::Any(_) => {}
        }
    }
}

/// Questions about pods of one namespace, or of all.
#[derive(Debug, Default)]
struct Bucket {
    /// By the label, and by its value, without which the answer is no.
    by_label: HashMap<Arc<str>, HashMap<Arc<str>, BTreeSet<u32>>>,
    others: BTreeSet<u32>,
}

impl Bucket {
    fn change(&mut self, pods: Option<&Selector>, mut change: impl FnMut(&mut BTreeSet<u32>)) {
        let Some((label, values)) = pods.and_then(Selector::fewest_values) else {
            return change(&mut self.others);
        };
        let by_value = self.by_label.entry(label.clone()).or_default();
        for value in values {
            let ids = by_value.entry(value.clone()).or_default();
            change(ids);
            if ids.is_empty() {
                by_value.remove(value);
            }
        }
        if by_value.is_empty() {
            self.by_label.remove(label);
        }
    }

    fn candidates(&self, labels: &Labels) -> impl Iterator<Item = u32> {
        let found = labels.iter().filter_map(|(label, value)| {
            let by_value = self.by_label.get(label)?;
            by_value.get(value)
        });
        found.flatten().chain(&self.others).copied()
    }

    fn is_empty(&self) -> bool {
        self.by_label.is_empty() && self.others.is_empty()
    }
}
