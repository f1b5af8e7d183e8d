//! Which pods are of this node, and which policies select them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use podwire_kernel::IpFamily;

use super::{Local, Model, Work};
use crate::features::policies::desired::attachments::Attachments;
use crate::features::policies::desired::cells::Stance;
use crate::features::policies::desired::frame::Changed;
use crate::features::policies::desired::owners::{address, counts};
use crate::features::policies::desired::truth::is_in_doubt;
use crate::features::policies::desired::wanted::{Note, Place, What};
use crate::snapshot::{Direction, ObjectName, Pod, PolicyName, Snapshot};

impl Model {
    /// Notes which addresses pods have now.
    pub(super) fn move_pods(
        &mut self,
        snapshot: &Snapshot,
        attachments: &Attachments,
        changed: &Changed,
        work: &mut Work,
    ) {
        for name in &changed.pods {
            let pod = snapshot.pods.get(name);
            let new = pod.and_then(|pod| self.claim(pod, attachments));
            let old = match new {
                Some(new) => self.claimed.insert(name.clone(), new),
                None => self.claimed.remove(name),
            };
            if let Some(old) = old.filter(|old| Some(*old) != new) {
                self.owners.remove(old, name);
                self.left.insert(old);
            }
            if let Some(new) = new {
                self.owners.add(new, name);
            }
            work.pods.insert(name.clone());
            work.addresses.extend(old.into_iter().chain(new));
        }
        let family = self.family;
        let of_family = |address: &&IpAddr| IpFamily::of(**address) == family;
        work.addresses
            .extend(changed.addresses.iter().filter(of_family));
        for address in &work.addresses {
            // Who else claims it may have it now, or have it no longer.
            let claimants = self.owners.claimants(*address).iter();
            work.pods.extend(claimants.cloned());
        }
        for namespace in &changed.namespaces {
            let pods = snapshot.pods_in(namespace);
            for pod in pods {
                work.addresses.extend(self.claimed.get(&pod.name));
                // Whom ClusterNetworkPolicies select depends on labels of Namespaces.
                if self.locals.contains_key(&pod.name) || self.in_doubt.contains_key(&pod.name) {
                    work.pods.insert(pod.name.clone());
                }
            }
        }
        let of_cluster = |name: &PolicyName| matches!(name, PolicyName::Cluster(_));
        if self.here.has_all_namespaces && changed.policies.iter().any(of_cluster) {
            let locals = self.locals.keys();
            let bare = locals.filter(|pod| !snapshot.namespaces.contains_key(&pod.namespace));
            work.pods.extend(bare.chain(self.in_doubt.keys()).cloned());
        }
    }

    /// The address that a pod claims.
    fn claim(&self, pod: &Pod, attachments: &Attachments) -> Option<IpAddr> {
        let here = pod.node.as_ref() == Some(&self.here.node) && counts(pod);
        match here {
            true => attachments.claim(pod, pod.address(self.family), self.family),
            false => address(pod, self.family),
        }
    }

    /// Finds out which pods are local, and which policies select them.
    pub(super) fn select_pods(
        &mut self,
        snapshot: &Snapshot,
        attachments: &Attachments,
        work: &mut Work,
    ) {
        for name in std::mem::take(&mut work.pods) {
            let pod = snapshot.pods.get(&name);
            let pod = pod.filter(|pod| pod.node.as_ref() == Some(&self.here.node));
            let now = pod.and_then(|pod| {
                let address = *self.claimed.get(&name)?;
                let owner = self.owners.owner(address, snapshot, attachments)?;
                (owner.name == name).then_some((pod, address))
            });
            let doubts = self.here.has_all_namespaces;
            let is_in_doubt = |(pod, _): &(&Pod, IpAddr)| doubts && is_in_doubt(pod, snapshot);
            let in_doubt = now.filter(is_in_doubt);
            let now = now.filter(|_| in_doubt.is_none());
            match in_doubt {
                Some((_, address)) => _ = self.in_doubt.insert(name.clone(), address),
                None => _ = self.in_doubt.remove(&name),
            }
            let before = self.locals.get(&name);
            if before.is_some_and(|local| now.is_none_or(|(_, address)| address != local.address)) {
                self.forget_local(&name, work);
            }
            let Some((pod, address)) = now else {
                continue;
            };
            let policies = selecting(pod, snapshot);
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

    fn deselect(&mut self, policy: &PolicyName, pod: &ObjectName, work: &mut Work) {
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
            let here = self.locals.iter_mut();
            let here = here.filter(|(pod, _)| may_select(name, pod));
            let mut subjects = BTreeSet::new();
            for (pod, local) in here {
                let known = snapshot.pods.get(pod);
                let now = known.is_some_and(|pod| selects(name, pod, snapshot));
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

/// The policies that select a pod.
fn selecting(pod: &Pod, snapshot: &Snapshot) -> BTreeSet<PolicyName> {
    let namespaced = snapshot.policies_in(&pod.name.namespace);
    let namespaced = namespaced.filter(|policy| policy.subject.selects(&pod.labels));
    let cluster = snapshot.cluster_policies.values();
    let cluster = cluster.filter(|policy| policy.subject.selects(pod, snapshot));
    let namespaced = namespaced.map(|policy| PolicyName::Namespaced(policy.name.clone()));
    let cluster = cluster.map(|policy| PolicyName::Cluster(policy.name.clone()));
    namespaced.chain(cluster).collect()
}

/// Whether a policy selects a pod.
fn selects(policy: &PolicyName, pod: &Pod, snapshot: &Snapshot) -> bool {
    match policy {
        PolicyName::Namespaced(name) => {
            let policy = snapshot.policies.get(name);
            policy.is_some_and(|policy| policy.subject.selects(&pod.labels))
        }
        PolicyName::Cluster(name) => {
            let policy = snapshot.cluster_policies.get(name);
            policy.is_some_and(|policy| policy.subject.selects(pod, snapshot))
        }
    }
}

/// False if the namespace alone says that it does not.
fn may_select(policy: &PolicyName, pod: &ObjectName) -> bool {
    match policy {
        PolicyName::Namespaced(name) => name.namespace == pod.namespace,
        PolicyName::Cluster(_) => true,
    }
}
