//! The policies in the form that the kernel looks up, kept up to date change by change.
//!
//! In: the snapshot and what is attached here, and what changed in them. Out: what the kernel should
//! hold, and what differs. What must hold: the outcome is that of a model made from the snapshot in
//! one go, and a change costs what it touches: a pod its own questions, a policy its own pods and
//! peers.

mod locals;
mod nodes;
mod peers;
mod rule_parts;
#[cfg(test)]
pub mod sizes;
mod strangers;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use podwire_kernel::IpFamily;

use self::rule_parts::RuleParts;
use crate::features::policies::desired::atoms::{Atoms, FEW_PEERS};
use crate::features::policies::desired::attachments::Attachments;
use crate::features::policies::desired::blocks::Ranges;
use crate::features::policies::desired::cells::Stance;
use crate::features::policies::desired::classes::Classes;
use crate::features::policies::desired::compile::Compiled;
use crate::features::policies::desired::frame::{Changed, Frame, Here};
use crate::features::policies::desired::node_addresses::NodeAddresses;
use crate::features::policies::desired::owners::Owners;
use crate::features::policies::desired::tiers::Selecting;
use crate::features::policies::desired::wanted::{
    Cell, Class, Delta, NO_CLASS, Note, Place, Wanted, What,
};
use crate::snapshot::{Direction, ObjectName, Pod, PolicyName, Snapshot};

/// The model of one family.
#[derive(Debug)]
pub struct Model {
    family: IpFamily,
    here: Here,
    owners: Owners,
    /// The address that each pod claims.
    claimed: HashMap<ObjectName, IpAddr>,
    locals: BTreeMap<ObjectName, Local>,
    local_names: HashMap<IpAddr, ObjectName>,
    /// Addresses without a pod that are open.
    strangers: BTreeSet<IpAddr>,
    /// Addresses outside the podCIDRs that are closed, and no local pod's: those of attachments, and of pods
    /// in doubt.
    closed_outside: BTreeSet<IpAddr>,
    /// The local pods that each policy selects.
    subjects: BTreeMap<PolicyName, BTreeSet<ObjectName>>,
    compiled: BTreeMap<PolicyName, Compiled>,
    /// None while no rule asks about Nodes.
    nodes: Option<NodeAddresses>,
    atoms: Atoms,
    classes: Classes,
    ranges: Ranges,
    /// Pods of this node whose Namespace has gone, and of which a ClusterNetworkPolicy may have a rule:
    /// closed, as if they were not known.
    in_doubt: BTreeMap<ObjectName, IpAddr>,
    wanted: Wanted,
    delta: Delta,
    rule_parts: RuleParts,
    /// Addresses that a pod no longer claims, since they were last asked for.
    left: BTreeSet<IpAddr>,
}

/// A pod of this node.
#[derive(Debug)]
struct Local {
    address: IpAddr,
    policies: BTreeSet<PolicyName>,
    cells: BTreeSet<Cell>,
}

/// What must be looked at again.
#[derive(Debug, Default)]
struct Work {
    /// Pods that may be local, or may have been.
    pods: BTreeSet<ObjectName>,
    /// Policies that may begin or cease to select a local pod, or that changed.
    policies: BTreeSet<PolicyName>,
    /// Local pods of which all cells are computed again.
    locals: BTreeSet<ObjectName>,
    /// Addresses that may be of another class.
    addresses: BTreeSet<IpAddr>,
}

impl Model {
    /// The model of a cluster.
    pub fn of(
        snapshot: &Snapshot,
        attachments: &Attachments,
        family: IpFamily,
        here: Here,
    ) -> Self {
        Self::of_lists_over(FEW_PEERS, snapshot, attachments, family, here)
    }

    /// The model of a cluster, of rules that ask a single question if they have more than this many
    /// peers of a kind.
    pub fn of_lists_over(
        few_peers: usize,
        snapshot: &Snapshot,
        attachments: &Attachments,
        family: IpFamily,
        here: Here,
    ) -> Self {
        let mut model = Self::without_objects(family, here, few_peers);
        model.take_everything(snapshot, attachments);
        model
    }

    fn without_objects(family: IpFamily, here: Here, few_peers: usize) -> Self {
        Self {
            family,
            here,
            owners: Owners::default(),
            claimed: HashMap::new(),
            locals: BTreeMap::new(),
            local_names: HashMap::new(),
            strangers: BTreeSet::new(),
            closed_outside: BTreeSet::new(),
            subjects: BTreeMap::new(),
            compiled: BTreeMap::new(),
            nodes: None,
            atoms: Atoms::of_lists_over(few_peers),
            classes: Classes::default(),
            ranges: Ranges::new(),
            in_doubt: BTreeMap::new(),
            wanted: Wanted::default(),
            delta: Delta::default(),
            rule_parts: RuleParts::default(),
            left: BTreeSet::new(),
        }
    }

    fn take_everything(&mut self, snapshot: &Snapshot, attachments: &Attachments) {
        let mut everything = Changed::everything(snapshot);
        let addresses = attachments.addresses(self.family);
        everything.addresses = addresses.collect();
        self.update(snapshot, attachments, &everything);
        self.wanted.compact();
    }

    /// Where it was made.
    pub fn here(&self) -> &Here {
        &self.here
    }

    /// What the kernel should hold.
    pub fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// What the rules depend on, of which the model knows.
    pub fn frame(&self) -> Frame {
        let mut frame = Frame {
            pod_cidrs: self.here.pod_cidrs.clone(),
            ..Frame::default()
        };
        self.rule_parts.fill(&mut frame);
        frame
    }

    /// The pod that has an address.
    pub fn owner<'a>(
        &self,
        address: IpAddr,
        snapshot: &'a Snapshot,
        attachments: &Attachments,
    ) -> Option<&'a Pod> {
        self.owners.owner(address, snapshot, attachments)
    }

    /// See [`Owners::contested`].
    pub fn contested<'a>(
        &'a self,
        snapshot: &'a Snapshot,
        attachments: &'a Attachments,
    ) -> impl Iterator<Item = (IpAddr, &'a Pod, Vec<&'a Pod>)> {
        self.owners.contested(snapshot, attachments)
    }

    /// The classes that are in use.
    pub fn classes(&self) -> &Classes {
        &self.classes
    }

    /// The pods of this node: name, address, and the policies that select them.
    pub fn locals(&self) -> impl Iterator<Item = (&ObjectName, IpAddr, &BTreeSet<PolicyName>)> {
        let locals = self.locals.iter();
        locals.map(|(name, local)| (name, local.address, &local.policies))
    }

    /// Pods of this node that are closed because their Namespace is not known, and its labels would decide.
    pub fn in_doubt(&self) -> impl Iterator<Item = &ObjectName> {
        self.in_doubt.keys()
    }

    /// Addresses that a pod has left since this was last asked, whoever claims them now; none while no
    /// policy is about a pod here, when nothing of them matters.
    pub fn take_left(&mut self) -> BTreeSet<IpAddr> {
        let left = std::mem::take(&mut self.left);
        match self.subjects.is_empty() {
            true => BTreeSet::new(),
            false => left,
        }
    }

    /// Takes changes in, and says what differs.
    pub fn update(
        &mut self,
        snapshot: &Snapshot,
        attachments: &Attachments,
        changed: &Changed,
    ) -> Delta {
        let mut work = Work::default();
        let concerns_rules = self.rule_parts.follow_any(&changed.policies);
        self.move_pods(snapshot, attachments, changed, &mut work);
        self.move_nodes(snapshot, changed, &mut work);
        self.select_pods(snapshot, attachments, &mut work);
        self.select_by_policies(snapshot, changed, &mut work);
        self.compile(snapshot, changed, &work);
        self.look_at_changed_atoms(snapshot, &mut work);
        for address in &work.addresses {
            self.classify(snapshot, attachments, *address);
        }
        let (came, went) = self.classes.settle();
        self.empty(&went);
        self.fill(snapshot, &work.locals, &came);
        self.place_strangers(snapshot, attachments, changed, &work);
        let may_close = !changed.policies.is_empty();
        self.rule_parts
            .settle(concerns_rules, may_close, &self.compiled);
        let mut delta = std::mem::take(&mut self.delta);
        delta.settle(&self.wanted);
        delta
    }

    /// Asks the questions of policies that select a local pod, and no others.
    fn compile(&mut self, snapshot: &Snapshot, changed: &Changed, work: &Work) {
        // What is asked before and after must not cease to be asked in between.
        let mut old = Vec::new();
        for name in &work.policies {
            let known = self.compiled.contains_key(name);
            let again = changed.policies.contains(name) || !known;
            let (family, atoms) = (self.family, &mut self.atoms);
            let compiled = match name {
                _ if !self.subjects.contains_key(name) => None,
                // Nothing of it has changed.
                _ if !again => continue,
                PolicyName::Namespaced(name) => {
                    let policy = snapshot.policies.get(name);
                    policy.map(|policy| Compiled::new(policy, family, atoms))
                }
                PolicyName::Cluster(name) => {
                    let policy = snapshot.cluster_policies.get(name);
                    policy.map(|policy| Compiled::of_cluster(policy, family, atoms))
                }
            };
            old.extend(match compiled {
                Some(compiled) => {
                    self.rule_parts.add_policy(&compiled);
                    self.compiled.insert(name.clone(), compiled)
                }
                None => self.compiled.remove(name),
            });
        }
        for compiled in old {
            self.rule_parts.remove_policy(&compiled);
            compiled.release(&mut self.atoms);
        }
    }

    /// Takes away the cells of classes that have no member any longer.
    fn empty(&mut self, classes: &BTreeSet<Class>) {
        for class in classes {
            let cells: Vec<Cell> = self.wanted.cells(*class).collect();
            for cell in cells {
                let name = self.local_names.get(&cell.local);
                if let Some(local) = name.and_then(|name| self.locals.get_mut(name)) {
                    local.cells.remove(&cell);
                }
                self.put(Place::Cell(cell), None);
            }
        }
    }

    /// Computes all cells of the pods in `again`, and those of the classes that `came` of the others.
    fn fill(&mut self, snapshot: &Snapshot, again: &BTreeSet<ObjectName>, came: &BTreeSet<Class>) {
        let mut all: BTreeSet<ObjectName> = again.clone();
        if !came.is_empty() {
            all.extend(self.locals.keys().cloned());
        }
        for name in all {
            let (Some(local), Some(pod)) = (self.locals.get(&name), snapshot.pods.get(&name))
            else {
                continue;
            };
            let address = local.address;
            let policies = local.policies.iter();
            let selecting = Selecting::of(policies.filter_map(|name| self.compiled.get(name)));
            let stances = Direction::ALL.map(|one| (one, selecting.stance(one)));
            let only = (!again.contains(&name)).then_some(came);
            let isolated = stances.iter().filter(|(_, one)| *one == Stance::Isolated);
            let found: BTreeMap<Cell, Arc<str>> = isolated
                .flat_map(|(direction, _)| {
                    selecting.cells(pod, address, *direction, &self.classes, only)
                })
                .collect();
            if only.is_none() {
                self.place_local(&name, address, stances);
            }
            self.put_cells(&name, found, only.is_none());
        }
    }

    /// Writes the cells of a local pod; `whole` if it has no others.
    fn put_cells(&mut self, name: &ObjectName, found: BTreeMap<Cell, Arc<str>>, whole: bool) {
        let Some(local) = self.locals.get_mut(name) else {
            return;
        };
        let mut gone = Vec::new();
        if whole {
            gone.extend(
                local
                    .cells
                    .iter()
                    .filter(|one| !found.contains_key(one))
                    .copied(),
            );
            local.cells = found.keys().copied().collect();
        } else {
            local.cells.extend(found.keys());
        }
        for cell in gone {
            self.put(Place::Cell(cell), None);
        }
        for (cell, text) in found {
            self.put(Place::Cell(cell), Some(What::member(Note::Text(text))));
        }
    }

    /// Puts something at a place and notes what was there.
    fn put(&mut self, place: Place, what: Option<What>) -> Option<What> {
        let is_there = what.is_some();
        let before = self.wanted.put(place, what);
        self.count(place, before.is_some(), is_there);
        self.delta.note(place, before.clone());
        before
    }

    /// Keeps count of what the frame depends on.
    fn count(&mut self, place: Place, before: bool, after: bool) {
        let parts = &mut self.rule_parts;
        match (place, before, after) {
            (Place::Outside(_), false, true) => parts.add_outside(),
            (Place::Outside(_), true, false) => parts.remove_outside(),
            (Place::Cell(cell), false, true) => parts.add_cell(&cell),
            (Place::Cell(cell), true, false) => parts.remove_cell(&cell),
            _ => {}
        }
    }
}

/// True if a change takes away something that a model allowed before it.
pub fn takes_away(delta: &Delta, model: &Model) -> bool {
    let is_used = |class| class == NO_CLASS || model.classes.is_used(class);
    crate::features::policies::desired::loss::takes_away(delta, &model.wanted, is_used)
}
