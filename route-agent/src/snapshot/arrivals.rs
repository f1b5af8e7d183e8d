//! In which order Pods without a date got their addresses, as in manifests: who has one keeps it.
//!
//! Pods of an API server have a date, so that nothing is kept of them.

use std::collections::HashMap;

use podwire_kernel::IpFamily;

use super::{ObjectName, Pod};

/// The turns in which Pods got their addresses.
#[derive(Debug, Clone, Default)]
pub(super) struct Arrivals {
    last: u64,
    turns: HashMap<ObjectName, [u64; 2]>,
}

/// Clusters with the same objects are the same, in whatever order these came.
impl PartialEq for Arrivals {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Arrivals {
    /// A Pod is now this one.
    pub(super) fn note(&mut self, before: Option<&Pod>, now: &Pod) {
        if now.created.is_some() {
            self.turns.remove(&now.name);
            return;
        }
        self.last += 1;
        let known = self.turns.get(&now.name).copied();
        let turns = IpFamily::ALL.map(|family| {
            let same = before.is_some_and(|pod| pod.address(family) == now.address(family));
            let known = known.map(|turns| turns[family as usize]);
            known.filter(|_| same).unwrap_or(self.last)
        });
        self.turns.insert(now.name.clone(), turns);
    }

    /// A Pod is gone.
    pub(super) fn forget(&mut self, name: &ObjectName) {
        self.turns.remove(name);
    }

    /// When a Pod got its address of a family: the smaller, the earlier. 0 of Pods with a date.
    pub(super) fn of(&self, name: &ObjectName, family: IpFamily) -> u64 {
        self.turns
            .get(name)
            .map_or(0, |turns| turns[family as usize])
    }
}
