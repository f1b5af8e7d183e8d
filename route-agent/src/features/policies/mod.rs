//! NetworkPolicies: what pods of this node may send and be sent.
//!
//! In: Pods, Namespaces, NetworkPolicies, and this node's podCIDRs. Out: the tables
//! `ip podwire-policy` and `ip6 podwire-policy`. What must hold: while there is any policy, an address
//! of the node's podCIDRs about which nothing is known is closed; what cannot be read closes, and is
//! named; a change costs what it touches; what a change forbids is cut at once, in both directions,
//! and what it does not forbid goes on; a start over the right rules writes nothing. Without any
//! policy there is no table, and switched off the tables go.
//!
//! `desired` decides what packets should meet, `layout` how that is written in nftables, and `table`
//! makes the kernel agree. `docs/policies.md` explains the whole.

pub mod desired;
pub mod layout;
mod publish;
mod report;
pub mod table;
#[cfg(test)]
mod tests;

use std::time::Instant;

use podwire_kernel::IpFamily;
use podwire_kernel::nft::NftSocket;

use crate::config::Config;
use crate::feature::{Event, Feature, KernelEvent, SyncError, Synced, Warn, World};
use crate::features::policies::desired::frame::{Changed, Here};
use crate::features::policies::desired::model::Model;
use crate::features::policies::desired::owners;
use crate::features::policies::publish::Numbers;
use crate::features::policies::table::sync::FamilyTable;
use crate::ours::POLICY_TABLE as TABLE;
use crate::report::Report;
use crate::snapshot::Pod;

/// The feature.
pub struct Policies {
    socket: NftSocket,
    sides: [Side; 2],
    /// What changed since the last sync.
    changed: Changed,
    /// Warnings and numbers are to be told whether or not anything changed.
    publish_all: bool,
}

/// One family.
struct Side {
    table: FamilyTable,
    /// None while no table is wanted.
    model: Option<Model>,
    /// True if a pod of this node has been seen with an address of the family; `None` as long as no
    /// one has looked.
    has_pods: Option<bool>,
}

impl Policies {
    /// Works in the network namespace of the calling thread.
    pub fn open() -> podwire_kernel::Result<Self> {
        Ok(Self {
            socket: NftSocket::open()?,
            sides: IpFamily::ALL.map(|family| Side {
                table: FamilyTable::new(family),
                model: None,
                has_pods: None,
            }),
            changed: Changed::default(),
            publish_all: true,
        })
    }

    /// Takes the tables out.
    fn withdraw(&mut self) -> Result<Synced, SyncError> {
        let before = self.socket.writes();
        for side in &mut self.sides {
            side.model = None;
            if side.table.withdraw(&mut self.socket)? {
                let family = podwire_kernel::nft::Family::from(side.table.family());
                tracing::info!("removed the table {family} {TABLE}: policies are switched off");
            }
        }
        Ok(Synced {
            writes: self.socket.writes() - before,
            again: false,
        })
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
    fn is_wanted(&mut self, world: &World<'_>, here: &Here, changed: &Changed) -> bool {
        let snapshot = world.snapshot;
        if snapshot.policies.is_empty() {
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
        seen || !here.pod_cidrs.is_empty()
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
        changed: &Changed,
        now: Instant,
    ) -> Result<(), SyncError> {
        let family = self.table.family();
        let here = here(world, family);
        if !self.is_wanted(world, &here, changed) {
            self.model = None;
            self.table.withdraw(kernel)?;
            return Ok(());
        }
        let known = self.model.as_mut().filter(|model| *model.here() == here);
        let delta = match known {
            Some(model) => Some(model.update(world.snapshot, changed)),
            None => {
                self.model = Some(Model::of(world.snapshot, family, here));
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
        if !world.config.network_policy {
            return matches!(event, Event::Resync);
        }
        match event {
            Event::Objects(dirty) => {
                self.changed.add(dirty);
                !self.changed.is_empty() || dirty.nodes.contains(world.own_name())
            }
            Event::Kernel(KernelEvent::Nftables {
                family,
                table,
                touched,
                ..
            }) if table == TABLE => {
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
                true
            }
            Event::Kernel(_) | Event::Uplink | Event::Files | Event::Ready => false,
        }
    }

    fn sync(&mut self, world: &World<'_>, warn: &mut Warn<'_>) -> Result<Synced, SyncError> {
        if !world.config.network_policy {
            return self.withdraw();
        }
        let (before, now) = (self.socket.writes(), Instant::now());
        let changed = std::mem::take(&mut self.changed);
        let mut failed = None;
        for side in &mut self.sides {
            if let Err(error) = side.sync(&mut self.socket, world, &changed, now) {
                failed.get_or_insert(error);
            }
        }
        let (all, writes) = (std::mem::take(&mut self.publish_all), self.socket.writes());
        if all || writes > before {
            let sides = self.sides.iter().map(Side::numbers);
            publish::numbers(&world.metrics.policies, sides);
        }
        publish::warnings(world, &changed, all, warn);
        match failed {
            // The models have taken the change in, and the table that failed will be read.
            Some(error) => Err(error),
            None => Ok(Synced {
                writes: writes - before,
                again: false,
            }),
        }
    }

    fn due(&self) -> Option<Instant> {
        self.sides.iter().filter_map(|side| side.table.due()).min()
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

    fn uninstall(&mut self, _: &Config) -> Result<Vec<String>, SyncError> {
        let mut removed = Vec::new();
        for side in &mut self.sides {
            if side.table.withdraw(&mut self.socket)? {
                let family = podwire_kernel::nft::Family::from(side.table.family());
                removed.push(format!("table {family} {TABLE}"));
            }
        }
        Ok(removed)
    }
}

/// Where this node is.
fn here(world: &World<'_>, family: IpFamily) -> Here {
    let cidrs = world
        .own_node()
        .into_iter()
        .flat_map(|node| &node.pod_cidrs);
    let cidrs = cidrs.filter(|cidr| IpFamily::of_network(**cidr) == family);
    Here {
        node: world.own_name().clone(),
        pod_cidrs: cidrs.copied().collect(),
    }
}
