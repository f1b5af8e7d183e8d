//! What several Services share in the kernel, and what outlives its use for a moment.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::features::services::layout::answers::Answer;
use crate::features::services::table::delta::Delta;

/// Things in the kernel that several Services use, or that outlive their use for a moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// Answers, and how many Services give each. Each is an element, which leads to a chain.
    pub answers: BTreeMap<Answer, u32>,
    /// Endpoints of this node, and how many Services have each.
    pub local: BTreeMap<IpAddr, u32>,
    /// Answers that no Service gives any longer, still in the kernel: packets may be on their way.
    pub old_answers: BTreeSet<Answer>,
    /// Answers that lie in the kernel with another meaning.
    pub wrong_answers: BTreeSet<Answer>,
    /// Chains that nothing refers to any longer.
    pub old_chains: BTreeSet<String>,
    /// Maps that nothing refers to any longer.
    pub old_maps: BTreeSet<String>,
}

impl Standing {
    /// True if more waits to be deleted than before.
    pub fn gave_up(&self, before: &Standing) -> bool {
        !self.old_answers.is_subset(&before.old_answers)
            || !self.old_chains.is_subset(&before.old_chains)
            || !self.old_maps.is_subset(&before.old_maps)
    }

    /// Takes in what one Service gives up and what it has from now on.
    pub fn count(&mut self, delta: &Delta) {
        delta
            .answers_gained
            .iter()
            .for_each(|answer| gain(&mut self.answers, *answer));
        delta
            .answers_lost
            .iter()
            .for_each(|answer| lose(&mut self.answers, *answer));
        delta
            .local_gained
            .iter()
            .for_each(|address| gain(&mut self.local, *address));
        delta
            .local_lost
            .iter()
            .for_each(|address| lose(&mut self.local, *address));
    }
}

fn gain<K: Ord>(counts: &mut BTreeMap<K, u32>, key: K) {
    *counts.entry(key).or_default() += 1;
}

fn lose<K: Ord>(counts: &mut BTreeMap<K, u32>, key: K) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}
