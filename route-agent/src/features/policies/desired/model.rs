//! The policies in the form that the kernel looks up, kept up to date change by change.
//!
//! In: the snapshot, and what changed in it. Out: what the kernel should hold, and what differs. What
//! must hold: the outcome is that of a model made from the snapshot in one go, and a change costs
//! what it touches: a pod its own questions, a policy its own pods and peers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use podwire_kernel::IpFamily;

use crate::features::policies::desired::atoms::{Atom, AtomId, Atoms};
use crate::features::policies::desired::blocks::{self, Range, Ranges};
use crate::features::policies::desired::cells::{Stance, cells, stance};
use crate::features::policies::desired::classes::{ClassKey, Classes};
use crate::features::policies::desired::compile::Compiled;
use crate::features::policies::desired::owners::{Owners, address};
use crate::features::policies::desired::wanted::{
    Cell, Class, Delta, NO_CLASS, Note, Place, PortRange, Ports, Wanted, What,
};
use crate::snapshot::{Direction, Dirty, ObjectName, Pod, Snapshot};

/// Where the model is made: only pods of this node are enforced here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Here {
    /// The node's name.
    pub node: Arc<str>,
    /// Its podCIDRs of the family.
    pub pod_cidrs: Box<[IpNetwork]>,
}

impl Here {
    /// True if an address is in one of the podCIDRs.
    pub fn has(&self, address: IpAddr) -> bool {
        self.pod_cidrs.iter().any(|cidr| cidr.contains(address))
    }
}

/// What changed in a snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changed {
    /// Pods.
    pub pods: BTreeSet<ObjectName>,
    /// Namespaces.
    pub namespaces: BTreeSet<Arc<str>>,
    /// Policies.
    pub policies: BTreeSet<ObjectName>,
}

impl Changed {
    /// Everything that there is.
    pub fn everything(snapshot: &Snapshot) -> Self {
        Self {
            pods: snapshot.pods.keys().cloned().collect(),
            namespaces: BTreeSet::new(),
            policies: snapshot.policies.keys().cloned().collect(),
        }
    }

    /// Takes in more changes.
    pub fn add(&mut self, dirty: &Dirty) {
        self.pods.extend(dirty.pods.iter().cloned());
        self.namespaces.extend(dirty.namespaces.iter().cloned());
        self.policies.extend(dirty.policies.iter().cloned());
    }

    /// True if nothing changed.
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty() && self.namespaces.is_empty() && self.policies.is_empty()
    }
}

/// What the rules depend on, beside what they look up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frame {
    /// The node's podCIDRs: addresses in them are checked unless someone decided otherwise.
    pub pod_cidrs: Box<[IpNetwork]>,
    /// The ranges of ports that are looked up.
    pub ranges: BTreeSet<(Direction, PortRange)>,
    /// True if a pod with another address is isolated.
    pub outside: bool,
    /// True if what is dropped is logged.
    pub log: bool,
}

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
    /// The local pods that each policy selects.
    subjects: BTreeMap<ObjectName, BTreeSet<ObjectName>>,
    compiled: BTreeMap<ObjectName, Compiled>,
    atoms: Atoms,
    classes: Classes,
    ranges: Ranges,
    wanted: Wanted,
    delta: Delta,
    port_ranges: BTreeMap<(Direction, PortRange), usize>,
    outside: usize,
}

/// A pod of this node.
#[derive(Debug)]
struct Local {
    address: IpAddr,
    policies: BTreeSet<ObjectName>,
    cells: BTreeSet<Cell>,
}

/// What must be looked at again.
#[derive(Debug, Default)]
struct Work {
    /// Pods that may be local, or may have been.
    pods: BTreeSet<ObjectName>,
    /// Policies that may begin or cease to select a local pod, or that changed.
    policies: BTreeSet<ObjectName>,
    /// Local pods of which all cells are computed again.
    locals: BTreeSet<ObjectName>,
    /// Addresses that may be of another class.
    addresses: BTreeSet<IpAddr>,
}

impl Model {
    /// The model of a cluster.
    pub fn of(snapshot: &Snapshot, family: IpFamily, here: Here) -> Self {
        let mut model = Self {
            family,
            here,
            owners: Owners::none(family),
            claimed: HashMap::new(),
            locals: BTreeMap::new(),
            local_names: HashMap::new(),
            subjects: BTreeMap::new(),
            compiled: BTreeMap::new(),
            atoms: Atoms::default(),
            classes: Classes::default(),
            ranges: Ranges::new(),
            wanted: Wanted::default(),
            delta: Delta::default(),
            port_ranges: BTreeMap::new(),
            outside: 0,
        };
        model.update(snapshot, &Changed::everything(snapshot));
        model
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
        Frame {
            pod_cidrs: self.here.pod_cidrs.clone(),
            ranges: self.port_ranges.keys().copied().collect(),
            outside: self.outside > 0,
            log: false,
        }
    }

    /// The classes that are in use.
    pub fn classes(&self) -> &Classes {
        &self.classes
    }

    /// The pods of this node: name, address, and the policies that select them.
    pub fn locals(&self) -> impl Iterator<Item = (&ObjectName, IpAddr, &BTreeSet<ObjectName>)> {
        let locals = self.locals.iter();
        locals.map(|(name, local)| (name, local.address, &local.policies))
    }

    /// Takes changes in, and says what differs.
    pub fn update(&mut self, snapshot: &Snapshot, changed: &Changed) -> Delta {
        let mut work = Work::default();
        self.move_pods(snapshot, changed, &mut work);
        self.select_pods(snapshot, &mut work);
        self.select_by_policies(snapshot, changed, &mut work);
        self.compile(snapshot, changed, &work);
        self.look_at_changed_atoms(snapshot, &mut work);
        for address in &work.addresses {
            self.classify(snapshot, *address);
        }
        let (came, went) = self.classes.settle();
        self.empty(&went);
        self.fill(snapshot, &work.locals, &came);
        let mut delta = std::mem::take(&mut self.delta);
        delta.settle(&self.wanted);
        delta
    }

    /// Notes which addresses pods have now.
    fn move_pods(&mut self, snapshot: &Snapshot, changed: &Changed, work: &mut Work) {
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
    fn select_pods(&mut self, snapshot: &Snapshot, work: &mut Work) {
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
    fn select_by_policies(&mut self, snapshot: &Snapshot, changed: &Changed, work: &mut Work) {
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

    /// Asks the questions of policies that select a local pod, and no others.
    fn compile(&mut self, snapshot: &Snapshot, changed: &Changed, work: &Work) {
        // What is asked before and after must not cease to be asked in between.
        let mut old = Vec::new();
        for name in &work.policies {
            let wanted = snapshot.policies.get(name);
            let wanted = wanted.filter(|_| self.subjects.contains_key(name));
            let Some(policy) = wanted else {
                old.extend(self.compiled.remove(name));
                continue;
            };
            if changed.policies.contains(name) || !self.compiled.contains_key(name) {
                let compiled = Compiled::new(policy, self.family, &mut self.atoms);
                old.extend(self.compiled.insert(name.clone(), compiled));
            }
        }
        for compiled in old {
            compiled.release(&mut self.atoms);
        }
    }

    /// Whom do questions concern that came or went?
    fn look_at_changed_atoms(&mut self, snapshot: &Snapshot, work: &mut Work) {
        let mut cut = false;
        for atom in self.atoms.take_changed() {
            let pods = atom.scope(snapshot).into_iter();
            work.addresses
                .extend(pods.filter_map(|pod| address(pod, self.family)));
            work.addresses.extend(atom.exact());
            cut |= matches!(atom, Atom::Block(_)) && atom.exact().is_none();
        }
        if cut {
            self.cut_blocks(work);
        }
    }

    /// Cuts the networks into ranges again.
    fn cut_blocks(&mut self, work: &mut Work) {
        let ranges = blocks::cut(self.atoms.blocks());
        let old = std::mem::replace(&mut self.ranges, ranges.clone());
        let differs = |ranges: &Ranges, first: &IpAddr, range: &Range| {
            ranges.get(first).is_none_or(|other| other != range)
        };
        for (first, range) in &ranges {
            if differs(&old, first, range) {
                work.addresses.extend(self.wanted.peers(*first, range.last));
                let class = self.acquire(&range.atoms, &[], None);
                let text = self.text_of(&range.atoms);
                let what = What {
                    class,
                    last: Some(range.last),
                    note: Note::Text(text),
                };
                let before = self.put(Place::Block(*first), Some(what));
                self.release(before);
            }
        }
        for (first, range) in &old {
            if differs(&ranges, first, range) {
                work.addresses.extend(self.wanted.peers(*first, range.last));
                if !ranges.contains_key(first) {
                    let before = self.put(Place::Block(*first), None);
                    self.release(before);
                }
            }
        }
    }

    /// What a range of addresses is, for people.
    fn text_of(&self, atoms: &[AtomId]) -> Arc<str> {
        let atoms = atoms.iter().filter_map(|id| self.atoms.get(*id));
        let texts: BTreeSet<String> = atoms.map(Atom::to_string).collect();
        Vec::from_iter(texts).join(" and ").into()
    }

    /// Finds the class of a single address.
    fn classify(&mut self, snapshot: &Snapshot, address: IpAddr) {
        let owner = self.owners.owner(address, snapshot);
        let of_pod = owner.map(|pod| self.atoms.of_pod(pod, snapshot));
        let of_pod = of_pod.unwrap_or_default();
        let exact = self.atoms.of_address(address);
        let place = Place::Peer(address);
        if of_pod.is_empty() && exact.is_none() {
            let before = self.put(place, None);
            self.release(before);
            return;
        }
        let range = blocks::find(&self.ranges, address);
        let mut atoms = of_pod.clone();
        atoms.extend(exact);
        atoms.extend(range.into_iter().flat_map(|(_, range)| range.atoms.iter()));
        atoms.sort_unstable();
        let class = self.acquire(&atoms, &of_pod, owner);
        let note = match owner {
            Some(pod) => Note::Pod(pod.name.clone()),
            None => Note::Text(self.text_of(exact.as_slice())),
        };
        let what = What {
            class,
            last: None,
            note,
        };
        let before = self.put(place, Some(what));
        self.release(before);
    }

    /// One more member of the class of those who answer these questions with yes, some of them as a
    /// pod.
    fn acquire(&mut self, atoms: &[AtomId], of_pod: &[AtomId], pod: Option<&Pod>) -> Class {
        let asked = self.atoms.ports(of_pod);
        let ports = asked.into_iter().filter_map(|(name, protocol)| {
            let number = pod?.port(name, *protocol)?;
            Some((name.clone(), *protocol, number))
        });
        let key = ClassKey {
            atoms: atoms.into(),
            ports: ports.collect(),
        };
        self.classes.acquire(key, self.atoms.hash(atoms))
    }

    /// What was at a place is a member no longer.
    fn release(&mut self, before: Option<What>) {
        if let Some(before) = before {
            self.classes.release(before.class);
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
            let policies: Vec<&Compiled> = policies
                .filter_map(|name| self.compiled.get(name))
                .collect();
            let stances = Direction::ALL.map(|one| (one, stance(&policies, one)));
            let only = (!again.contains(&name)).then_some(came);
            let isolated = stances.iter().filter(|(_, one)| *one == Stance::Isolated);
            let found: BTreeMap<Cell, Arc<str>> = isolated
                .flat_map(|(direction, _)| {
                    cells(pod, address, *direction, &policies, &self.classes, only)
                })
                .collect();
            if only.is_none() {
                self.place_local(&name, address, stances);
            }
            self.put_cells(&name, found, only.is_none());
        }
    }

    /// Whether everything is allowed for a local pod.
    fn place_local(
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
        if before == after {
            return;
        }
        match place {
            Place::Outside(_) if after => self.outside += 1,
            Place::Outside(_) => self.outside -= 1,
            Place::Cell(Cell {
                direction,
                ports: Ports::Range(_, range),
                ..
            }) => {
                let count = self.port_ranges.entry((direction, range)).or_insert(0);
                if after {
                    *count += 1;
                } else {
                    *count -= 1;
                    if *count == 0 {
                        self.port_ranges.remove(&(direction, range));
                    }
                }
            }
            _ => {}
        }
    }
}

/// True if a change takes away something that a model allowed before it.
pub fn takes_away(delta: &Delta, model: &Model) -> bool {
    let is_used = |class| class == NO_CLASS || model.classes.is_used(class);
    crate::features::policies::desired::loss::takes_away(delta, &model.wanted, is_used)
}
