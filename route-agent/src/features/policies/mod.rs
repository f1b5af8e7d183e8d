//! NetworkPolicies and ClusterNetworkPolicies: what pods of this node may send and be sent.
//!
//! In: Pods, Namespaces, Nodes, policies of both kinds, this node's podCIDRs (the last ones, while its
//! Node is gone), and what the plugin and
//! the kernel say of this node's attachments. Out: the tables `ip podwire-policy` and
//! `ip6 podwire-policy`. What must hold: while there is any policy, an address of the node's podCIDRs
//! about which nothing is known is closed; what cannot be read closes, and is named; a change costs
//! what it touches; what a change forbids is cut at once, in both directions, and what it does not
//! forbid goes on; a start over the right rules writes nothing. Without any policy there is no table,
//! and switched off the tables go.
//!
//! `desired` decides what packets should meet, `layout` how that is written in nftables, and `table`
//! makes the kernel agree. `docs/policies.md` explains the whole.

mod departed;
pub mod desired;
pub mod layout;
mod links;
mod namespaces;
mod publish;
mod report;
mod review;
pub mod table;
#[cfg(test)]
mod tests;
mod waiting;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Instant;

use podwire::policy::{Answer, News, OPEN};
use podwire_kernel::nft::NftSocket;
use podwire_kernel::{IpFamily, RouteSocket};

use crate::config::Config;
use crate::feature::{Event, Feature, KernelEvent, SyncError, Synced, Warn, WhoHas, World};
use crate::features::parts::log::Logging;
use crate::features::policies::departed::{Departed, Gone};
use crate::features::policies::desired::atoms::FEW_PEERS;
use crate::features::policies::desired::attachments::{Attachments, Touched};
use crate::features::policies::desired::frame::{Changed, Here};
use crate::features::policies::desired::model::Model;
use crate::features::policies::desired::owners;
use crate::features::policies::namespaces::Namespaces;
use crate::features::policies::publish::{Numbers, Unsure};
use crate::features::policies::review::Review;
use crate::features::policies::table::sync::FamilyTable;
use crate::features::policies::waiting::Waiting;
use crate::files;
use crate::ours::{POLICY_TABLE as TABLE, Removal};
use crate::report::Report;
use crate::snapshot::{Dirty, Pod, PolicyName};

/// The feature.
pub struct Policies {
    socket: NftSocket,
    routes: RouteSocket,
    sides: [Side; 2],
    attachments: Attachments,
    /// There may be attachments that no one told of.
    look: bool,
    /// Links of attachments of which the kernel said that they went. Others may have their names.
    gone: BTreeSet<String>,
    namespaces: Namespaces,
    waiting: Waiting,
    /// What changed since the last sync.
    changed: Changed,
    /// When the first change arrived that is not in the kernel yet.
    since: Option<Instant>,
    /// What is looked at from time to time.
    review: Review,
    /// What is not sure of pods, and is said.
    unsure: Unsure,
    /// What the kernel knows of connections of pods that are gone.
    departed: Departed,
    /// Warnings and numbers are to be published whether or not anything changed.
    publish_all: bool,
}

/// One family.
struct Side {
    table: FamilyTable,
    /// Rules with more peers of a kind than this ask a single question.
    few_peers: usize,
    /// None while no table is wanted.
    model: Option<Model>,
    /// True if a pod of this node has been seen with an address of the family; `None` as long as no
    /// one has looked.
    has_pods: Option<bool>,
}

impl Policies {
    /// Works in the network namespace of the calling thread.
    pub fn open(logging: Logging) -> podwire_kernel::Result<Self> {
        Self::of_lists_over(FEW_PEERS, logging)
    }

    /// As [`Policies::open`], with rules that ask a single question if they have more than this many
    /// peers of a kind.
    fn of_lists_over(few_peers: usize, logging: Logging) -> podwire_kernel::Result<Self> {
        Ok(Self {
            review: Review::default(),
            unsure: Unsure::default(),
            departed: Departed::default(),
            socket: NftSocket::open()?,
            routes: RouteSocket::open()?,
            attachments: Attachments::default(),
            look: true,
            gone: BTreeSet::new(),
            namespaces: Namespaces::default(),
            waiting: Waiting::default(),
            sides: IpFamily::ALL.map(|family| Side {
                table: FamilyTable::new(family, logging),
                few_peers,
                model: None,
                has_pods: None,
            }),
            changed: Changed::default(),
            since: None,
            publish_all: true,
        })
    }

    /// When verdicts are to be forgotten once more.
    fn forgets(&self) -> Option<Instant> {
        self.sides.iter().filter_map(|side| side.table.due()).min()
    }

    /// Looks, if it is time to, at what has been counted, and at policies that may be mistaken: what
    /// is said of them counts as changed.
    fn review(&mut self, world: &World<'_>, changed: &mut Changed) {
        if !self.sides.iter().any(|side| side.table.is_there()) {
            return changed.policies.extend(self.review.stop());
        }
        let Some(policies) = self.review.look(world.snapshot, Instant::now()) else {
            return;
        };
        changed.policies.extend(policies);
        let families = self.sides.iter().map(|side| side.table.family());
        // Without an answer the counters stay: one that went back would count everything again.
        if let Ok(denied) = report::denied_packets(&mut self.socket, families) {
            world.metrics.policies.set_denied(&denied);
        }
    }

    /// Takes the tables out.
    fn withdraw(&mut self, config: &Config) -> Result<Synced, SyncError> {
        let before = self.socket.writes();
        // Switched off with the start of the agent, so nothing was said.
        drop(self.review.stop());
        for side in &mut self.sides {
            side.model = None;
            if side.table.withdraw(&mut self.socket)? {
                let family = podwire_kernel::nft::Family::from(side.table.family());
                tracing::info!("removed the table {family} {TABLE}: policies are switched off");
            }
        }
        self.namespaces.remove(config)?;
        self.waiting.answer_all(&Answer::Done);
        Ok(Synced {
            writes: self.socket.writes() - before,
            again: false,
        })
    }

    /// What comes before the tables: attachments that no one told of, and the plugin's file.
    fn prepare(&mut self, world: &World<'_>, changed: &mut Changed) -> Result<(), SyncError> {
        if !world.snapshot.has_policies() {
            return Ok(());
        }
        self.namespaces
            .write(world.config, world.snapshot, &changed.policies)?;
        self.note_gone_links(world, changed)?;
        if self.look {
            let found = links::attachments(&mut self.routes)?;
            let mut touched = Touched::default();
            self.attachments.replace(found, &mut touched);
            self.links_went(touched, world, changed);
            self.look = false;
        }
        Ok(())
    }

    /// Takes out the attachments whose links went. What the kernel says comes later than what the
    /// plugin tells, so a link of the same name may be there again.
    fn note_gone_links(
        &mut self,
        world: &World<'_>,
        changed: &mut Changed,
    ) -> Result<(), SyncError> {
        while let Some(name) = self.gone.first().cloned() {
            if self.routes.link_by_name(&name)?.is_none() {
                let mut touched = Touched::default();
                self.attachments.link_went(&name, &mut touched);
                self.links_went(touched, world, changed);
            }
            self.gone.remove(&name);
        }
        Ok(())
    }

    /// Takes in that links went without a word of the plugin.
    fn links_went(&mut self, touched: Touched, world: &World<'_>, changed: &mut Changed) {
        self.tidy(&touched, world);
        self.departed.forget(Gone {
            links: touched.left.clone(),
            ..Gone::default()
        });
        changed.touch(touched);
    }

    /// Makes the kernel forget UDP connections of pods that are gone, if they can matter here.
    fn pods_went(&mut self) {
        let models = self.sides.iter_mut().filter_map(|side| side.model.as_mut());
        let left = models.flat_map(Model::take_left);
        let attachments = &self.attachments;
        let pods = left.filter(|address| !attachments.has_address(*address));
        self.departed.forget(Gone {
            pods: pods.collect(),
            ..Gone::default()
        });
    }

    fn notice_objects(&mut self, dirty: &Dirty, world: &World<'_>) -> bool {
        for pod in &dirty.pods {
            self.attachments.tidy(pod, world.snapshot);
        }
        self.changed.add(dirty);
        // Only rules of ClusterNetworkPolicies ask about Nodes. One that has just gone may be there again
        // before the next sync, and then nothing is compiled that would look at Nodes afresh.
        let changed = &mut self.changed;
        let ask = |name: &PolicyName| matches!(name, PolicyName::Cluster(_));
        if world.snapshot.cluster_policies.is_empty() && !changed.policies.iter().any(ask) {
            changed.nodes.clear();
        }
        self.note_arrival();
        !self.changed.is_empty() || dirty.concerns_own_pod_cidrs(world.own_name())
    }

    /// Answers whose addresses are, as the rules have it.
    fn tell_who_has(&self, question: &WhoHas, world: &World<'_>) {
        let models = self.sides.iter().filter_map(|side| side.model.as_ref());
        let models: Vec<&Model> = models.collect();
        let owner = |address: &IpAddr| {
            let mut models = models.iter();
            let pod =
                models.find_map(|one| one.owner(*address, world.snapshot, &self.attachments))?;
            Some((*address, pod.name.clone()))
        };
        question.answer(question.addresses.iter().filter_map(owner).collect());
    }

    /// Notes since when the kernel lacks something.
    fn note_arrival(&mut self) {
        if !self.changed.is_empty() {
            self.since.get_or_insert_with(Instant::now);
        }
    }

    /// What was waited for is in the kernel, if it made a difference there.
    fn note_commit(&mut self, world: &World<'_>, written: bool) {
        let since = self.since.take().filter(|_| written);
        if let Some(since) = since {
            world.metrics.policies.programmed(since.elapsed());
        }
    }

    /// Forgets what no longer matters of the pods that a change of attachments concerns.
    fn tidy(&mut self, touched: &Touched, world: &World<'_>) {
        for pod in &touched.pods {
            self.attachments.tidy(pod, world.snapshot);
        }
    }

    fn look_again(&mut self, world: &World<'_>, now: Instant) -> Result<(), SyncError> {
        let mut changed = Changed::default();
        self.look = true;
        self.prepare(world, &mut changed)?;
        match changed.is_empty() {
            true => Ok(()),
            false => self.sync_sides(world, &changed, now),
        }
    }

    fn sync_sides(
        &mut self,
        world: &World<'_>,
        changed: &Changed,
        now: Instant,
    ) -> Result<(), SyncError> {
        let mut failed = None;
        for side in &mut self.sides {
            let synced = side.sync(&mut self.socket, world, &self.attachments, changed, now);
            if let Err(error) = synced {
                failed.get_or_insert(error);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Tables that should not be there while policies are switched off, or why that is unknown.
    fn left_over(&mut self) -> Vec<String> {
        let mut texts = Vec::new();
        for side in &self.sides {
            let family = podwire_kernel::nft::Family::from(side.table.family());
            match self.socket.has_table(family, TABLE) {
                Ok(false) => {}
                Ok(true) => texts.push(format!("the table {family} {TABLE} should not be there")),
                Err(error) => texts.push(error.to_string()),
            }
        }
        texts
    }
}

impl Side {
    /// Whether there is anything to enforce: some policy, and pods that may have an address of the
    /// family.
    fn is_wanted(
        &mut self,
        world: &World<'_>,
        attachments: &Attachments,
        here: &Here,
        changed: &Changed,
    ) -> bool {
        let snapshot = world.snapshot;
        if !snapshot.has_policies() {
            // Until there is one, no one looks at pods.
            self.has_pods = None;
            return false;
        }
        let family = self.table.family();
        let has_address = |pod: &Pod| {
            pod.node.as_ref() == Some(&here.node) && owners::address(pod, family).is_some()
        };
        let seen = match self.has_pods {
            None => snapshot.pods.values().any(has_address),
            Some(seen) => {
                let pods = changed.pods.iter();
                let mut pods = pods.filter_map(|name| snapshot.pods.get(name));
                seen || pods.any(has_address)
            }
        };
        self.has_pods = Some(seen);
        seen || !here.pod_cidrs.is_empty() || attachments.has_family(family)
    }

    fn numbers(&self) -> Numbers<'_> {
        Numbers {
            family: self.table.family(),
            model: self.model.as_ref(),
            losses: self.table.losses(),
        }
    }

    fn sync(
        &mut self,
        kernel: &mut NftSocket,
        world: &World<'_>,
        attachments: &Attachments,
        changed: &Changed,
        now: Instant,
    ) -> Result<(), SyncError> {
        let family = self.table.family();
        let here = here(world, family);
        if !self.is_wanted(world, attachments, &here, changed) {
            self.model = None;
            self.table.withdraw(kernel)?;
            return Ok(());
        }
        let known = self.model.as_mut().filter(|model| *model.here() == here);
        let delta = match known {
            Some(model) => Some(model.update(world.snapshot, attachments, changed)),
            None => {
                let few = self.few_peers;
                let snapshot = world.snapshot;
                self.model = Some(Model::of_lists_over(
                    few,
                    snapshot,
                    attachments,
                    family,
                    here,
                ));
                None
            }
        };
        if let Some(model) = &self.model {
            self.table.sync(kernel, model, delta.as_ref(), now)?;
        }
        Ok(())
    }
}

impl Feature for Policies {
    fn name(&self) -> &'static str {
        "policies"
    }

    fn ports(&mut self) -> Vec<u32> {
        self.socket.port().into_iter().collect()
    }

    fn notice(&mut self, event: &Event<'_>, world: &World<'_>) -> bool {
        if let Event::Told(told) = event {
            self.waiting.add((*told).clone());
        }
        if !world.config.network_policy {
            return matches!(event, Event::Resync | Event::Told(_));
        }
        match event {
            Event::Objects(dirty) => self.notice_objects(dirty, world),
            Event::Kernel(KernelEvent::Nftables {
                family,
                table,
                touched,
                ..
            }) if table == TABLE => {
                // The plugin opens addresses itself where no agent answers in time.
                let mut sets = touched.elements.iter().map(|(set, _)| set.as_str());
                self.look |= sets.any(|set| OPEN.contains(&set));
                let ours = |side: &&mut Side| side.table.family().number() == *family;
                let side = self.sides.iter_mut().find(ours);
                side.map(|side| side.table.doubt(touched)).is_some()
            }
            Event::Resync => {
                for side in &mut self.sides {
                    side.table.distrust();
                    (side.model, side.has_pods) = (None, None);
                }
                self.changed = Changed::default();
                self.publish_all = true;
                self.look = true;
                self.namespaces.distrust();
                true
            }
            Event::Told(told) => {
                let mut touched = Touched::default();
                match told.news {
                    News::Came => {
                        self.departed.keep(&told.attachment.addresses);
                        self.attachments.came(told.attachment.clone(), &mut touched);
                    }
                    News::Went => self.attachments.went(&told.attachment, &mut touched),
                }
                self.tidy(&touched, world);
                self.changed.touch(touched);
                self.note_arrival();
                true
            }
            Event::Kernel(KernelEvent::Link { name, gone, .. }) if *gone => {
                let known = self.attachments.has_link(name);
                self.gone.extend(known.then(|| name.clone()));
                known
            }
            Event::WhoHas(question) => {
                self.tell_who_has(question, world);
                false
            }
            // The own podCIDRs are those that do not overlap its network.
            Event::Uplink => true,
            Event::Kernel(_) | Event::Files | Event::Ready => false,
        }
    }

    fn sync(&mut self, world: &World<'_>, warn: &mut Warn<'_>) -> Result<Synced, SyncError> {
        if !world.config.network_policy {
            return self.withdraw(world.config);
        }
        let (before, now) = (self.socket.writes(), Instant::now());
        let mut changed = std::mem::take(&mut self.changed);
        let mut failed = self.prepare(world, &mut changed).err();
        let were_there = self.sides.each_ref().map(|side| side.table.is_there());
        failed = self.sync_sides(world, &changed, now).err().or(failed);
        let are_there = self.sides.each_ref().map(|side| side.table.is_there());
        if were_there != are_there && world.snapshot.has_policies() {
            // The plugin may have found no table, and told no one of what it made meanwhile.
            failed = self.look_again(world, now).err().or(failed);
        }
        self.pods_went();
        if !world.snapshot.has_policies() && failed.is_none() {
            self.look = true;
            self.gone.clear();
            let said = self.namespaces.say_none(world.config);
            failed = said.err().map(Into::into);
        }
        self.review(world, &mut changed);
        let (all, writes) = (std::mem::take(&mut self.publish_all), self.socket.writes());
        if all || writes > before {
            let sides = self.sides.iter().map(Side::numbers);
            publish::numbers(&world.metrics.policies, sides);
        }
        let models = self.sides.iter().filter_map(|side| side.model.as_ref());
        self.unsure.look(models, world.snapshot, &self.attachments);
        publish::warnings(world, &changed, all, &self.review, &mut self.unsure, warn);
        match failed {
            // The models have taken the change in, and the table that failed will be read.
            Some(error) => {
                let reason = crate::error::chain(error.as_ref());
                self.waiting.answer_all(&Answer::Failed(reason));
                Err(error)
            }
            None => {
                self.note_commit(world, writes > before);
                self.waiting.answer(world, &self.attachments, now);
                Ok(Synced {
                    writes: writes - before,
                    again: false,
                })
            }
        }
    }

    fn due(&self) -> Option<Instant> {
        let dues = [self.forgets(), self.review.due(), self.waiting.due()];
        dues.into_iter().flatten().min()
    }

    fn needed_by_pods(&self) -> bool {
        true
    }

    fn report(&mut self, world: &World<'_>, report: &mut Report) {
        if !world.config.network_policy {
            report.differences.extend(self.left_over());
            return;
        }
        for side in &self.sides {
            let model = side.model.as_ref();
            let differences = side.table.differences(&mut self.socket, model);
            report.differences.extend(differences);
        }
        let sides = self.sides.iter();
        let models = sides.filter_map(|side| Some((side.table.family(), side.model.as_ref()?)));
        let policies = report::report(models, &mut self.socket, world.snapshot);
        report.policies = Some(policies);
    }

    fn uninstall(&mut self, config: &Config, how: Removal) -> Result<Vec<String>, SyncError> {
        let mut removed = Vec::new();
        for side in &mut self.sides {
            let family = podwire_kernel::nft::Family::from(side.table.family());
            let found = match how {
                Removal::Act => side.table.withdraw(&mut self.socket)?,
                Removal::Look => self.socket.has_table(family, TABLE)?,
            };
            if found {
                removed.push(format!("table {family} {TABLE}"));
            }
        }
        let directory = config.policy_dir();
        if files::uninstall_tree(&directory, how)? {
            removed.push(format!("directory {}", directory.display()));
        }
        Ok(removed)
    }
}

/// Where this node is.
fn here(world: &World<'_>, family: IpFamily) -> Here {
    let cidrs = world.own_pod_cidrs().into_iter();
    let cidrs = cidrs.filter(|cidr| IpFamily::of_network(*cidr) == family);
    Here {
        node: world.own_name().clone(),
        pod_cidrs: cidrs.collect(),
        has_all_namespaces: world.config.manifests.is_none(),
    }
}
