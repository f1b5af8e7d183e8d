//! Which pod has an address.
//!
//! Pods with their node's network, and those that have ended, have none. Of several pods that claim
//! one address, because one of them is on its way out, the one that is not has it, of those the one
//! that runs, and of those the youngest. Without dates who has it keeps it.

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use podwire_kernel::IpFamily;

use crate::features::policies::desired::attachments::Attachments;
use crate::snapshot::{ObjectName, Pod, Snapshot};

/// The address that a pod has as a pod, if it has one of this family.
pub fn address(pod: &Pod, family: IpFamily) -> Option<IpAddr> {
    pod.address(family).filter(|_| counts(pod))
}

/// True if a pod can have addresses of its own.
pub fn counts(pod: &Pod) -> bool {
    !pod.host_network && !pod.finished
}

/// The pods by address, in one family.
#[derive(Debug, Default)]
pub struct Owners {
    claims: HashMap<IpAddr, Claims>,
    /// The addresses that several claim.
    shared: BTreeSet<IpAddr>,
}

/// Who claims an address.
#[derive(Debug)]
enum Claims {
    One(ObjectName),
    Several(Vec<ObjectName>),
}

impl Claims {
    fn names(&self) -> &[ObjectName] {
        match self {
            Claims::One(name) => std::slice::from_ref(name),
            Claims::Several(names) => names,
        }
    }
}

impl Owners {
    /// All pods of a snapshot.
    pub fn of(snapshot: &Snapshot, family: IpFamily) -> Self {
        let mut owners = Self::default();
        for pod in snapshot.pods.values() {
            if let Some(address) = address(pod, family) {
                owners.add(address, &pod.name);
            }
        }
        owners
    }

    /// The pods of a snapshot that claim one of these addresses: one look at each pod.
    pub fn about(snapshot: &Snapshot, family: IpFamily, addresses: &BTreeSet<IpAddr>) -> Self {
        let mut owners = Self::default();
        for pod in snapshot.pods.values() {
            if let Some(address) = address(pod, family).filter(|one| addresses.contains(one)) {
                owners.add(address, &pod.name);
            }
        }
        owners
    }

    /// A pod claims an address.
    pub fn add(&mut self, address: IpAddr, name: &ObjectName) {
        match self.claims.entry(address) {
            Entry::Vacant(free) => {
                free.insert(Claims::One(name.clone()));
            }
            Entry::Occupied(mut taken) => {
                let names = taken.get().names();
                if !names.contains(name) {
                    let names = [names, std::slice::from_ref(name)].concat();
                    taken.insert(Claims::Several(names));
                    self.shared.insert(address);
                }
            }
        }
    }

    /// A pod no longer claims an address.
    pub fn remove(&mut self, address: IpAddr, name: &ObjectName) {
        let Entry::Occupied(mut taken) = self.claims.entry(address) else {
            return;
        };
        let mut rest = taken.get().names().to_vec();
        rest.retain(|other| other != name);
        if rest.len() < 2 {
            self.shared.remove(&address);
        }
        match rest.len() {
            0 => _ = taken.remove(),
            1 => _ = taken.insert(Claims::One(rest.swap_remove(0))),
            _ => _ = taken.insert(Claims::Several(rest)),
        }
    }

    /// All pods that claim an address.
    pub fn claimants(&self, address: IpAddr) -> &[ObjectName] {
        self.claims.get(&address).map_or(&[], Claims::names)
    }

    /// The pod that has an address. An attachment of this node decides that, if one has it.
    pub fn owner<'a>(
        &self,
        address: IpAddr,
        snapshot: &'a Snapshot,
        attachments: &Attachments,
    ) -> Option<&'a Pod> {
        let family = IpFamily::of(address);
        let pods = self.candidates(address, snapshot, attachments);
        pods.max_by_key(|pod| {
            let arrival = Reverse(snapshot.arrival(&pod.name, family));
            (standing(pod), arrival, &pod.name)
        })
    }

    /// The addresses for which several pods have the same reason, each with the one that has it and
    /// the others.
    pub fn contested<'a>(
        &'a self,
        snapshot: &'a Snapshot,
        attachments: &'a Attachments,
    ) -> impl Iterator<Item = (IpAddr, &'a Pod, Vec<&'a Pod>)> {
        self.shared.iter().filter_map(|address| {
            let owner = self.owner(*address, snapshot, attachments)?;
            let others = self.candidates(*address, snapshot, attachments);
            let others = others.filter(|pod| pod.name != owner.name);
            let equal = others.filter(|pod| standing(pod) == standing(owner));
            let equal: Vec<&Pod> = equal.collect();
            (!equal.is_empty()).then_some((*address, owner, equal))
        })
    }

    fn candidates<'a>(
        &self,
        address: IpAddr,
        snapshot: &'a Snapshot,
        attachments: &Attachments,
    ) -> impl Iterator<Item = &'a Pod> {
        let pods = self.claimants(address).iter();
        let pods = pods.filter_map(|name| snapshot.pods.get(name));
        pods.filter(move |pod| attachments.may_be_of(address, pod))
    }
}

/// How good a reason a pod has for its address.
fn standing(pod: &Pod) -> (bool, bool, Option<u64>) {
    (!pod.deleting, pod.running, pod.created)
}
