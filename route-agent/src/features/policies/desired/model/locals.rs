//! Which pods are of this node, and which policies select them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Local, Model, Work};
use crate::features::policies::desired::cells::Stance;
use crate::features::policies::desired::frame::Changed;
use crate::features::policies::desired::owners::address;
use crate::features::policies::desired::wanted::{Note, Place, What};
use crate::snapshot::{Direction, ObjectName, Snapshot};

impl Model {
    /// Notes which addresses pods have now.
    pub(super) fn move_pods(&mut self, snapshot: &Snapshot, changed: &Changed, work: &mut Work) {
        for name in &changed.pods {
            let pod = snapshot.pods.get(name);
            let new = pod.and_then(|pod| address(pod, self.family));
            let old = match new {
                Some(new) => self.claimed.insert(name.clone(), new),
                None => self.claimed.remove(name),
            };
            if let Some(old) = old.filter(|old| Some(*old) != new) {
                self.owners.remove(old, name);
            }
            if let Some(new) = new {
                self.owners.add(new, name);
            }
            work.pods.insert(name.clone());
            for address in old.into_iter().chain(new) {
                // Who else claims it may have it now, or have it no longer.
                work.pods
                    .extend(self.owners.claimants(address).iter().cloned());
                work.addresses.insert(address);
            }
        }
        for namespace in &changed.namespaces {
            let pods = snapshot.pods_in(namespace);
            work.addresses
                .extend(pods.filter_map(|pod| address(pod, self.family)));
        }
    }

    /// Finds out which pods are local, and which policies select them.
    pub(super) fn select_pods(&mut self, snapshot: &Snapshot, work: &mut Work) {
        for name in std::mem::take(&mut work.pods) {
            let pod = snapshot.pods.get(&name);
            let pod = pod.filter(|pod| pod.node.as_ref() == Some(&self.here.node));
            let now = pod.and_then(|pod| Some((pod, self.owners.address_of(pod, snapshot)?)));
            let before = self.locals.get(&name);
            if before.is_some_and(|local| now.is_none_or(|(_, address)| address != local.address)) {
                self.forget_local(&name, work);
            }
            let Some((pod, address)) = now else {
                continue;
            };
            let policies = snapshot.policies_in(&name.namespace);
            let policies = policies.filter(|policy| policy.subject.selects(&pod.labels));
            let policies: BTreeSet<ObjectName> = policies.map(|one| one.name.clone()).collect();
            let local = self.locals.entry(name.clone()).or_insert_with(|| Local {
                address,
                policies: BTreeSet::new(),
                cells: BTreeSet::new(),
            });
            let before = std::mem::replace(&mut local.policies, policies.clone());
            self.local_names.insert(address, name.clone());
            for lost in before.difference(&policies) {
                self.deselect(lost, &name, work);
            }
            for won in policies.difference(&before) {
                let subjects = self.subjects.entry(won.clone()).or_default();
                subjects.insert(name.clone());
                work.policies.insert(won.clone());
            }
            work.locals.insert(name);
        }
    }

    fn forget_local(&mut self, name: &ObjectName, work: &mut Work) {
        let Some(local) = self.locals.remove(name) else {
            return;
        };
        for cell in local.cells {
            self.put(Place::Cell(cell), None);
        }
        // Another pod may have the address by now.
        if self.local_names.get(&local.address) == Some(name) {
            self.local_names.remove(&local.address);
            for direction in Direction::ALL {
                self.put(Place::Open(direction, local.address), None);
            }
            self.put(Place::Isolated(local.address), None);
            self.put(Place::Outside(local.address), None);
        }
        for policy in &local.policies {
            self.deselect(policy, name, work);
        }
    }

    fn deselect(&mut self, policy: &ObjectName, pod: &ObjectName, work: &mut Work) {
        if let Some(subjects) = self.subjects.get_mut(policy) {
            subjects.remove(pod);
            if subjects.is_empty() {
                self.subjects.remove(policy);
            }
        }
        work.policies.insert(policy.clone());
    }

    /// Finds out which local pods the changed policies select.
    pub(super) fn select_by_policies(
        &mut self,
        snapshot: &Snapshot,
        changed: &Changed,
        work: &mut Work,
    ) {
        for name in &changed.policies {
            let policy = snapshot.policies.get(name);
            let selects = |pod: &ObjectName| {
                let pod = snapshot.pods.get(pod);
                policy
                    .zip(pod)
                    .is_some_and(|(policy, pod)| policy.subject.selects(&pod.labels))
            };
            let here = self.locals.iter_mut();
            let here = here.filter(|(pod, _)| pod.namespace == name.namespace);
            let mut subjects = BTreeSet::new();
            for (pod, local) in here {
                let now = selects(pod);
                let before = local.policies.contains(name);
                match now {
                    true => {
                        _ = (
                            local.policies.insert(name.clone()),
                            subjects.insert(pod.clone()),
                        )
                    }
                    false => _ = local.policies.remove(name),
                }
                if now || before {
                    work.locals.insert(pod.clone());
                }
            }
            match subjects.is_empty() {
                true => _ = self.subjects.remove(name),
                false => _ = self.subjects.insert(name.clone(), subjects),
            }
            work.policies.insert(name.clone());
        }
    }

    /// Whether everything is allowed for a local pod.
    pub(super) fn place_local(
        &mut self,
        name: &ObjectName,
        address: IpAddr,
        stances: [(Direction, Stance); 2],
    ) {
        let here = || What::member(Note::Pod(name.clone()));
        for (direction, stance) in stances {
            let open = (stance == Stance::Open).then(here);
            self.put(Place::Open(direction, address), open);
        }
        let isolated = stances.iter().any(|(_, one)| *one == Stance::Isolated);
        self.put(Place::Isolated(address), isolated.then(here));
        let outside = isolated && !self.here.has(address);
        self.put(Place::Outside(address), outside.then(here));
    }
}
