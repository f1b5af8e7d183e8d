//! In which order Pods without a date got their addresses, as in manifests: who has one keeps it.
//!
//! Pods of an API server have a date, so that nothing is kept of them.

use std::collections::HashMap;
use std::net::IpAddr;

use podwire_kernel::IpFamily;

use super::name::ObjectName;

/// The addresses of a Pod, one of each family.
type Addresses = [Option<IpAddr>; 2];

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
    /// A Pod without a date has these addresses now.
    pub(super) fn note(&mut self, name: &ObjectName, before: Option<Addresses>, now: Addresses) {
        self.last += 1;
        let known = self.turns.get(name).copied();
        let turns = IpFamily::ALL.map(|family| {
            let family = family as usize;
            let same = before.is_some_and(|before| before[family] == now[family]);
            let known = known.map(|turns| turns[family]);
            known.filter(|_| same).unwrap_or(self.last)
        });
        self.turns.insert(name.clone(), turns);
    }

    /// A Pod is gone, or has a date.
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
