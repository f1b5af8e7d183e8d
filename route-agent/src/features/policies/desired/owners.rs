//! Which pod has an address.
//!
//! Pods with their node's network, and those that have ended, have none. Of several pods that claim
//! one address, because one of them is on its way out, the one that runs has it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;

use podwire_kernel::IpFamily;

use crate::snapshot::{ObjectName, Pod, Snapshot};

/// The address that a pod has as a pod, if it has one of this family.
pub fn address(pod: &Pod, family: IpFamily) -> Option<IpAddr> {
    let counts = !pod.host_network && !pod.finished;
    pod.address(family).filter(|_| counts)
}

/// The pods by address, in one family.
#[derive(Debug)]
pub struct Owners {
    family: IpFamily,
    claims: HashMap<IpAddr, Claims>,
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
    /// No pods.
    pub fn none(family: IpFamily) -> Self {
        Self {
            family,
            claims: HashMap::new(),
        }
    }

    /// All pods of a snapshot.
    pub fn of(snapshot: &Snapshot, family: IpFamily) -> Self {
        let mut owners = Self::none(family);
        for pod in snapshot.pods.values() {
            if let Some(address) = address(pod, family) {
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

    /// The pod that has an address.
    pub fn owner<'a>(&self, address: IpAddr, snapshot: &'a Snapshot) -> Option<&'a Pod> {
        let pods = self.claimants(address).iter();
        let pods = pods.filter_map(|name| snapshot.pods.get(name));
        pods.max_by_key(|pod| (pod.running, !pod.deleting, pod.created, &pod.name))
    }

    /// The address that a pod has, if no other pod has it.
    pub fn address_of(&self, pod: &Pod, snapshot: &Snapshot) -> Option<IpAddr> {
        let address = address(pod, self.family)?;
        let owner = self.owner(address, snapshot)?;
        (owner.name == pod.name).then_some(address)
    }
}
