//! The table of one family: what is wanted, what was written, and the way from one to the other.
//!
//! A change recomputes the Services that it touches and writes what differs in them. What the
//! kernel holds is known from what it took; after any failure, at start, and when somebody else
//! touched the table, it is read back and only the difference is written.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use crate::config::services::Config;
use crate::features::services::desired::claims::{Claimed, Claims};
use crate::features::services::desired::endpoints::{self, Family, Here};
use crate::features::services::desired::frontends::{self, Claim};
use crate::features::services::desired::networks::{self, Networks};
use crate::features::services::desired::plan::{Plan, desired};
use crate::features::services::layout::answers::Answer;
use crate::features::services::layout::elements::{Objects, objects};
use crate::features::services::table::base;
use crate::features::services::table::delta::diff;
use crate::features::services::table::encode::{
    self, Change, Headers, Standing, encode, kernel_family,
};
use crate::features::services::table::repair::Doubts;
use crate::ours::SERVICES_TABLE as TABLE;
use crate::snapshot::{Node, ObjectName, Protocol, Snapshot};
use podwire_kernel::nft::{Batch, CommitError};

/// Elements of one transaction, about. More Services take several, each with whole Services.
pub(super) const CHUNK: usize = 4096;

/// Chains that nothing refers to are deleted this long after.
const REST: Duration = Duration::from_secs(1);

/// At least so long after the last of them was given up: a packet may be on its way there.
const LEAST_REST: Duration = Duration::from_millis(100);

/// The cluster as a family's table sees it.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// All objects.
    pub snapshot: &'a Snapshot,
    /// The own Node, if known.
    pub own: Option<&'a Node>,
    /// Where this is.
    pub here: Here<'a>,
    /// The settings.
    pub config: &'a Config,
}

/// Whoever takes batches: the kernel, or a test that refuses some.
pub trait Commit {
    /// Carries a batch out, all or nothing.
    fn commit(&mut self, batch: &mut Batch) -> Result<(), CommitError>;

    /// The socket that the table is read through.
    fn socket(&mut self) -> &mut podwire_kernel::nft::NftSocket;
}

impl Commit for podwire_kernel::nft::NftSocket {
    fn commit(&mut self, batch: &mut Batch) -> Result<(), CommitError> {
        podwire_kernel::nft::NftSocket::commit(self, batch)
    }

    fn socket(&mut self) -> &mut podwire_kernel::nft::NftSocket {
        self
    }
}

/// Why a sync did not finish.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The kernel refused everything.
    #[error("cannot write table {family} {TABLE}: {source}")]
    Commit {
        /// The family of the table.
        family: &'static str,
        /// What the kernel said.
        source: CommitError,
    },
    /// The table could not be read.
    #[error(transparent)]
    Observe(#[from] podwire_kernel::Error),
}

/// A UDP port whose endpoints changed: connections to others must be forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UdpChange {
    /// Where clients send to.
    pub claim: Claim,
    /// Who may answer now.
    pub serving: Box<[endpoints::Backend]>,
}

/// A batch that was not taken, with what it was made of.
#[derive(Debug)]
pub(super) struct Failed {
    pub error: CommitError,
    pub changes: Vec<Change>,
}

/// What a sync did.
#[derive(Debug, Default)]
pub struct Done {
    /// Services whose warnings may have changed.
    pub looked_at: BTreeSet<ObjectName>,
    /// Services that the kernel has now.
    pub written: Vec<ObjectName>,
    /// UDP ports whose endpoints changed.
    pub udp: Vec<UdpChange>,
    /// Batches that were sent.
    pub batches: u64,
    /// True if the table was read back and compared.
    pub full: bool,
}

/// The table of one family.
#[derive(Debug)]
pub struct FamilyTable {
    pub(super) family: Family,
    pub(super) headers: Headers,
    claims: Claims,
    pub(super) applied: HashMap<ObjectName, Plan>,
    pub(super) standing: Standing,
    pub(super) networks: Networks,
    /// False if what the kernel holds must be read.
    trusted: bool,
    /// What somebody else touched since.
    doubts: Doubts,
    /// True if there is no table because no Service is of this family.
    pub(super) absent: bool,
    /// Services that the kernel refused, and why.
    refused: BTreeMap<ObjectName, String>,
    /// When chains that nothing refers to may be deleted.
    tidy_at: Option<Instant>,
    batch: Batch,
}

impl FamilyTable {
    /// A table of which nothing is known.
    pub fn new(family: Family, config: &Config) -> Self {
        FamilyTable {
            family,
            headers: Headers::new(family, config),
            claims: Claims::default(),
            applied: HashMap::new(),
            standing: Standing::default(),
            networks: Networks::default(),
            trusted: false,
            doubts: Doubts::default(),
            absent: false,
            refused: BTreeMap::new(),
            tidy_at: None,
            batch: Batch::new(),
        }
    }

    /// The family.
    pub fn family(&self) -> Family {
        self.family
    }

    /// What the kernel holds is unknown from now on.
    pub fn distrust(&mut self) {
        self.trusted = false;
        self.absent = false;
    }

    /// Whether the table is in the kernel; `None` as long as that is not known.
    pub fn is_there(&self) -> Option<bool> {
        (self.trusted || self.absent).then_some(!self.absent)
    }

    /// Somebody else changed the table.
    pub fn doubt(&mut self, touched: &podwire_kernel::monitor::Touched) {
        if self.trusted && !self.doubts.take_in(touched) {
            self.distrust();
        }
        self.absent = false;
    }

    /// When to sync even if nothing happens.
    pub fn due(&self) -> Option<Instant> {
        self.tidy_at
    }

    /// What the kernel was made to hold for a Service.
    pub fn applied(&self, name: &ObjectName) -> Option<&Plan> {
        self.applied.get(name)
    }

    /// All Services that the kernel was made to hold.
    pub fn all_applied(&self) -> impl Iterator<Item = (&ObjectName, &Plan)> {
        self.applied.iter()
    }

    /// Services that the kernel refused.
    pub fn refused(&self) -> &BTreeMap<ObjectName, String> {
        &self.refused
    }

    /// Who has what the Service claims in vain, one sentence each.
    pub fn conflicts(&self, name: &ObjectName) -> Vec<String> {
        let lost = self.claims.lost(name);
        lost.map(|(claim, owner)| {
            format!("{claim} is left out: Service {owner} has it; free it there, or choose another")
        })
        .collect()
    }

    /// Brings the kernel in line with the view. `dirty` are the Services that changed.
    pub fn sync(
        &mut self,
        kernel: &mut dyn Commit,
        view: View<'_>,
        dirty: &BTreeSet<ObjectName>,
        networks_changed: bool,
        now: Instant,
    ) -> Result<Done, TableError> {
        let mut done = Done::default();
        if self.absent && !dirty.iter().any(|name| self.concerns(view, name)) {
            done.looked_at = dirty.clone();
            return Ok(done);
        }
        self.absent = false;
        let mut names = dirty.clone();
        if dirty.is_empty() {
            // The time has come to try again.
            names.extend(self.refused.keys().cloned());
        }
        // What the kernel holds of a Service that it refused when the table was read is not known.
        let unknown = |name: &&ObjectName| !self.applied.contains_key(*name);
        let mut refused = self.refused.keys().filter(unknown);
        if refused.any(|name| names.contains(name)) {
            self.trusted = false;
        }
        let doubts = std::mem::take(&mut self.doubts);
        if self.trusted && !doubts.is_empty() {
            let mended = self.mend(kernel, view, &doubts, &mut done);
            self.trusted = mended.unwrap_or_else(|error| {
                tracing::debug!(family = ?self.family, %error, "the table is read back");
                false
            });
        }
        if self.trusted {
            match self.update(kernel, view, names, networks_changed, &mut done) {
                Ok(()) => {
                    self.tidy(kernel, now, &mut done);
                    return Ok(done);
                }
                // The kernel does not hold what we believe, or one Service cannot be written:
                // reading the table back tells which.
                Err(error) => {
                    tracing::debug!(family = ?self.family, %error, "the table is read back");
                    self.trusted = false;
                }
            }
        }
        done.full = true;
        // If this fails, the time to try again is somebody else's to choose.
        self.tidy_at = None;
        self.resync(kernel, view, &mut done)?;
        self.trusted = !self.absent;
        if self.standing.gave_up(&Standing::default()) {
            self.tidy_at.get_or_insert(now + REST);
        }
        Ok(done)
    }

    /// True if a Service has an address of this family.
    pub(super) fn concerns(&self, view: View<'_>, name: &ObjectName) -> bool {
        let service = view.snapshot.services.get(name);
        service.is_some_and(|service| {
            frontends::cluster_ips(service, self.family)
                .next()
                .is_some()
        })
    }

    /// The usual case: some Services changed.
    fn update(
        &mut self,
        kernel: &mut dyn Commit,
        view: View<'_>,
        names: BTreeSet<ObjectName>,
        networks_changed: bool,
        done: &mut Done,
    ) -> Result<(), CommitError> {
        if networks_changed {
            let wanted = networks::desired(view.snapshot, view.own, view.config, self.family);
            self.batch.clear();
            base::diff_networks(
                &mut self.batch,
                self.family,
                view.config,
                &self.networks,
                &wanted,
            );
            self.commit_batch(kernel, done)?;
            self.networks = wanted;
        }
        let (names, knotted) = self.reclaim(view, names);
        let (mut first, mut rest, mut suspects) = (Vec::new(), Vec::new(), Vec::new());
        for name in &names {
            done.looked_at.insert(name.clone());
            let Some(change) = self.change(view, name) else {
                self.refused.remove(name);
                continue;
            };
            match name {
                name if self.refused.contains_key(name) => suspects.push(change),
                name if knotted.contains(name) => first.push(change),
                _ => rest.push(change),
            }
        }
        self.write(kernel, first, done)
            .map_err(|failed| failed.error)?;
        for chunk in chunks(rest) {
            self.write(kernel, chunk, done)
                .map_err(|failed| failed.error)?;
        }
        for suspect in suspects {
            let name = suspect.name.clone();
            if let Err(failed) = self.write(kernel, vec![suspect], done) {
                self.refuse(name, &failed.error);
            }
        }
        Ok(())
    }

    /// Takes in what the named Services claim now. Returns them with all Services that win or lose
    /// something by it, and those among them that must be written in one batch.
    pub(super) fn reclaim(
        &mut self,
        view: View<'_>,
        mut names: BTreeSet<ObjectName>,
    ) -> (BTreeSet<ObjectName>, BTreeSet<ObjectName>) {
        let mut knotted = BTreeSet::new();
        let mut touched = BTreeSet::new();
        for name in &names {
            let now = view
                .snapshot
                .services
                .get(name)
                .map(|service| claimed(service, self.family))
                .unwrap_or_default();
            let others = self.claims.replace(name, now);
            if !others.is_empty() {
                knotted.insert(name.clone());
                knotted.extend(others.iter().cloned());
                touched.extend(others);
            }
        }
        names.extend(touched);
        (names, knotted)
    }

    /// What a Service needs now.
    pub(super) fn plan(&self, view: View<'_>, name: &ObjectName) -> Option<Plan> {
        let service = view.snapshot.services.get(name)?;
        // Slices are looked up once and walked once for each port.
        let slices: Vec<_> = view.snapshot.slices_of(name).collect();
        desired(
            service,
            slices.iter().copied(),
            self.family,
            view.here,
            view.config.balancing.balancing,
            |claim| self.claims.has(name, claim),
        )
    }

    /// What differs from what was written for a Service; none if nothing does.
    fn change(&self, view: View<'_>, name: &ObjectName) -> Option<Change> {
        let before = self.applied.get(name);
        let mut plan = self.plan(view, name);
        if let (Some(plan), Some(before)) = (&mut plan, before) {
            plan.settle(before);
        }
        if plan.as_ref() == before {
            return None;
        }
        let of = |plan: Option<&Plan>| plan.map_or_else(Objects::default, |p| objects(name, p));
        let delta = diff(of(before), of(plan.as_ref()));
        Some(Change {
            name: name.clone(),
            delta,
            plan,
        })
    }

    /// Writes some Services in one batch and remembers them.
    pub(super) fn write(
        &mut self,
        kernel: &mut dyn Commit,
        changes: Vec<Change>,
        done: &mut Done,
    ) -> Result<(), Failed> {
        self.batch.clear();
        let after = encode(&mut self.batch, &self.headers, &self.standing, &changes);
        if let Err(error) = self.commit_batch(kernel, done) {
            return Err(Failed { error, changes });
        }
        if after.gave_up(&self.standing) {
            let now = Instant::now();
            let at = self.tidy_at.unwrap_or(now + REST).max(now + LEAST_REST);
            self.tidy_at = Some(at);
        }
        self.standing = after;
        for change in changes {
            self.accept(change, done);
        }
        Ok(())
    }

    pub(super) fn commit_batch(
        &mut self,
        kernel: &mut dyn Commit,
        done: &mut Done,
    ) -> Result<(), CommitError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        done.batches += 1;
        kernel.commit(&mut self.batch)
    }

    /// The batch to write into; empty.
    pub(super) fn fresh_batch(&mut self) -> &mut Batch {
        self.batch.clear();
        &mut self.batch
    }

    /// Whose address, port or node port something is.
    pub(super) fn owner(&self, claim: &Claim) -> Option<&ObjectName> {
        self.claims.owner(claim)
    }

    /// How the sets are declared, and the batch to write into, as it is.
    pub(super) fn headers_and_batch(&mut self) -> (&Headers, &mut Batch) {
        (&self.headers, &mut self.batch)
    }

    /// The batch to write into, as it is.
    pub(super) fn batch_mut(&mut self) -> &mut Batch {
        &mut self.batch
    }

    /// The kernel holds this now.
    fn accept(&mut self, change: Change, done: &mut Done) {
        let before = self.applied.remove(&change.name);
        udp_changes(before.as_ref(), change.plan.as_ref(), &mut done.udp);
        self.refused.remove(&change.name);
        if let Some(plan) = change.plan {
            self.applied.insert(change.name.clone(), plan);
        }
        done.written.push(change.name);
    }

    /// Forgets everything that was written, before the table is read back. There will be so many
    /// Services: a map that grows needs twice its memory while it does.
    pub(super) fn forget(&mut self, services: usize) {
        self.claims = Claims::with_room(services);
        self.standing = Standing::default();
        self.refused.clear();
        self.tidy_at = None;
        self.applied = HashMap::with_capacity(services);
    }

    /// Gives back the memory of the largest batch.
    pub(super) fn forget_batch(&mut self) {
        self.batch = Batch::new();
    }

    /// A Service that the kernel does not take. It keeps what it had.
    pub(super) fn refuse(&mut self, name: ObjectName, why: &CommitError) {
        self.refused.insert(name, why.to_string());
    }

    /// Deletes chains and maps that nothing refers to any longer. If that fails they are only
    /// untidy, and the next time the table is read back they are found again.
    fn tidy(&mut self, kernel: &mut dyn Commit, now: Instant, done: &mut Done) {
        if self.tidy_at.is_none_or(|at| now < at) {
            return;
        }
        self.tidy_at = None;
        let family = kernel_family(self.family);
        let standing = &mut self.standing;
        self.batch.clear();
        let mut table = self.batch.table(family, TABLE);
        for answer in std::mem::take(&mut standing.old_answers) {
            encode::delete_answer(&mut table, &self.headers, answer);
            if let Answer::Shared(shared) = answer {
                standing.old_chains.insert(shared.name());
            }
        }
        // First the references, then what they referred to: see `encode::own_objects`.
        let mut outcome = self.commit_batch(kernel, done);
        let chains = std::mem::take(&mut self.standing.old_chains);
        let maps = std::mem::take(&mut self.standing.old_maps);
        self.batch.clear();
        let mut table = self.batch.table(family, TABLE);
        for chain in &chains {
            table.flush_chain(chain);
        }
        for chain in &chains {
            table.delete_chain(chain);
        }
        for map in &maps {
            table.delete_set(map);
        }
        outcome = outcome.and_then(|()| self.commit_batch(kernel, done));
        if let Err(error) = outcome {
            tracing::debug!(family = ?self.family, %error, "unused chains stay for now");
        }
    }
}

/// Whole Services, in batches of a bearable size.
pub(super) fn chunks(changes: Vec<Change>) -> Vec<Vec<Change>> {
    let mut chunks: Vec<Vec<Change>> = Vec::new();
    let mut room = 0;
    for change in changes {
        let size = change.delta.len() + 1;
        if room < size {
            chunks.push(Vec::new());
            room = CHUNK.max(size);
        }
        room -= size;
        if let Some(chunk) = chunks.last_mut() {
            chunk.push(change);
        }
    }
    chunks
}

fn claimed(service: &crate::snapshot::Service, family: Family) -> Claimed {
    Claimed {
        all: frontends::claims(service, family).into_iter().collect(),
        created: service.created,
    }
}

/// The UDP ports that have other endpoints than before. Also those that have none any longer: a
/// client that goes on sending must be told so.
fn udp_changes(before: Option<&Plan>, after: Option<&Plan>, changes: &mut Vec<UdpChange>) {
    let answers = |plan: Option<&Plan>| -> BTreeMap<Claim, Box<[endpoints::Backend]>> {
        let ports = plan.into_iter().flat_map(|plan| &plan.ports);
        let udp = ports.filter(|port| port.protocol == Protocol::Udp);
        udp.flat_map(|port| {
            let mut serving = [&port.cluster[..], &port.local[..]].concat();
            serving.sort_unstable();
            serving.dedup();
            let claim = |front| Claim::at(front, port.protocol, port.port);
            port.fronts
                .iter()
                .map(move |front| (claim(front), serving.clone().into()))
        })
        .collect()
    };
    let (before, mut after) = (answers(before), answers(after));
    for (claim, old) in before {
        let serving = after.remove(&claim).unwrap_or_default();
        if old != serving {
            changes.push(UdpChange { claim, serving });
        }
    }
    changes.extend(
        after
            .into_iter()
            .map(|(claim, serving)| UdpChange { claim, serving }),
    );
}
