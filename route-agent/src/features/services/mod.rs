//! The Service proxy: Services and their endpoints as nftables maps.
//!
//! In: Services, EndpointSlices, ServiceCIDRs, Nodes and the flags. Out: the tables
//! `ip podwire-services` and `ip6 podwire-services`, the ports of health checks, forgotten UDP
//! connections, and some kernel settings. What must hold: a Service or endpoint that cannot be
//! used is named and never keeps another out; a change costs what it touches and nothing else; a
//! start over the right rules writes nothing. Switched off, it takes out the tables that an agent
//! before this one left: no one would keep their endpoints right.
//!
//! `desired` decides what packets should meet, `layout` how that is written in nftables, and `table`
//! makes the kernel agree. `publish` and `report` say what came of it, `conntrack` and `sysctls` do
//! the rest. `docs/services.md` explains the whole.

mod conntrack;
pub mod desired;
pub mod health_checks;
pub mod layout;
mod publish;
mod report;
mod sysctls;
pub mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use ipnetwork::IpNetwork;
use podwire_kernel::IpFamily;
use podwire_kernel::nft::{self, Batch, NftSocket};
use tokio::sync::watch;

use crate::clock::Moment;
use crate::config::Config as AgentConfig;
use crate::config::services::Config as ServicesConfig;
use crate::feature::{Event, Feature, KernelEvent, SyncError, Synced, Warn, World};
use crate::features::parts::log::Logging;
use crate::features::services::conntrack::{Sweeper, Work};
use crate::features::services::desired::endpoints::Here;
use crate::features::services::desired::externals::Externals;
use crate::features::services::health_checks::HealthPorts;
use crate::features::services::publish::{KEPT_PORTS, Publisher};
use crate::features::services::table::state::{Done, View};
use crate::features::services::table::sync::FamilyTable;
use crate::ours::{Removal, SERVICES_TABLE as TABLE};
use crate::report::Report;
use crate::snapshot::ObjectName;
use crate::warnings::{LastFailure, Warning};

/// The feature.
pub struct Services {
    socket: NftSocket,
    logging: Logging,
    tables: Vec<FamilyTable>,
    sweeper: Option<Sweeper>,
    sweeper_trouble: LastFailure,
    publisher: Publisher,
    /// Services that changed since the last sync.
    dirty: BTreeSet<ObjectName>,
    /// True if the networks may have changed.
    networks: bool,
    /// Where this node was at the last sync: if that changes, every Service is looked at again.
    seen_here: SeenHere,
    /// Who may have which external IP, as of the last sync.
    externals: Externals,
    /// True if that may have changed.
    externals_stale: bool,
    /// What could not be set at the start.
    settings: Option<Vec<String>>,
    /// Whether 127.0.0.0/8 is routed, as far as this agent decided.
    localhost_open: Option<bool>,
    /// Why that could not be done.
    localhost_trouble: Option<String>,
}

impl Services {
    /// Works in the network namespace of the calling thread.
    pub fn open(
        health_ports: watch::Sender<HealthPorts>,
        logging: Logging,
    ) -> podwire_kernel::Result<Self> {
        Ok(Services {
            socket: NftSocket::open()?,
            logging,
            tables: Vec::new(),
            sweeper: None,
            sweeper_trouble: LastFailure::default(),
            publisher: Publisher::new(health_ports),
            dirty: BTreeSet::new(),
            networks: true,
            seen_here: SeenHere::default(),
            externals: Externals::default(),
            externals_stale: true,
            settings: None,
            localhost_open: None,
            localhost_trouble: None,
        })
    }

    /// What both families made of the Services, for the operator's commands.
    pub fn tables(&self) -> &[FamilyTable] {
        &self.tables
    }

    /// Syncs one family.
    fn sync_family(
        &mut self,
        index: usize,
        world: &World<'_>,
        dirty: &BTreeSet<ObjectName>,
        networks: bool,
    ) -> Result<Done, SyncError> {
        let table = &mut self.tables[index];
        let label = table.family();
        let (start, now) = (Instant::now(), Moment::now());
        let outcome = table.sync(
            &mut self.socket,
            view(world, &self.externals, self.logging),
            dirty,
            networks,
            start,
        );
        match outcome {
            Ok(done) => {
                world
                    .metrics
                    .proxy
                    .synced(label, done.full, start.elapsed(), now);
                Ok(done)
            }
            Err(error) => {
                world.metrics.proxy.sync_failed(label);
                Err(error.into())
            }
        }
    }

    /// Takes out the tables of an agent that programmed Services.
    fn withdraw(&mut self, run_dir: &Path, warn: &mut Warn<'_>) -> Result<Synced, SyncError> {
        // First, as the guard against it goes with the table.
        let trouble = sysctls::withdraw(run_dir).err();
        let again = trouble.is_some();
        warn.replace(trouble.map(|error| {
            let text = format!(
                "{}; the tables of a run with Services stay until it is put back; tried again",
                crate::error::chain(&error)
            );
            Warning::new(format!("sysctl {}", crate::originals::ROUTE_LOCALNET), text)
        }));
        if again {
            return Ok(Synced { writes: 0, again });
        }
        let present = self.present()?;
        for family in &present {
            self.remove(*family)?;
            tracing::info!("removed the table {family} {TABLE}: Services are switched off");
        }
        KEPT_PORTS.uninstall(run_dir, Removal::Act)?;
        Ok(Synced {
            writes: present.len() as u64,
            again: false,
        })
    }

    /// Routes 127.0.0.0/8 while the table is there that guards it, and not without: a cluster of
    /// IPv6 alone has no Service in IPv4, and no such table.
    fn guard_localhost(&mut self, config: &ServicesConfig, run_dir: &Path) {
        let v4 = self
            .tables
            .iter()
            .find(|table| table.family() == IpFamily::V4);
        let Some(guarded) = v4.and_then(FamilyTable::is_there) else {
            return;
        };
        let open = guarded && config.localhost_node_ports;
        if self.localhost_open == Some(open) && self.localhost_trouble.is_none() {
            return;
        }
        self.localhost_open = Some(open);
        self.localhost_trouble = if open {
            sysctls::open_localhost(run_dir)
        } else {
            let trouble = sysctls::withdraw(run_dir).err();
            trouble.map(|error| format!("{}: 127.0.0.0/8 stays open", crate::error::chain(&error)))
        };
    }

    /// If other addresses may be had than before, Services that may have others are looked at again, and
    /// the networks.
    fn look_at_externals(&mut self, world: &World<'_>, dirty: &mut BTreeSet<ObjectName>) {
        if !std::mem::take(&mut self.externals_stale) {
            return;
        }
        let now = Externals::of(world.snapshot, world.config).beside(world.uplink);
        if now != self.externals {
            let before = std::mem::replace(&mut self.externals, now);
            self.networks = true;
            let services = world.snapshot.services.iter();
            let differs = services.filter(|(_, one)| self.externals.differ_for(one, &before));
            dirty.extend(differs.map(|(name, _)| name.clone()));
        }
    }

    /// Which of our tables are in the kernel.
    fn present(&mut self) -> podwire_kernel::Result<Vec<nft::Family>> {
        let mut present = Vec::new();
        for family in [nft::Family::Ip, nft::Family::Ip6] {
            if self.socket.has_table(family, TABLE)? {
                present.push(family);
            }
        }
        Ok(present)
    }

    fn remove(&mut self, family: nft::Family) -> Result<(), nft::CommitError> {
        let mut batch = Batch::new();
        batch.table(family, TABLE).destroy();
        self.socket.commit(&mut batch)
    }

    /// Tables that should not be there while Services are switched off, or why that is unknown.
    fn left_over(&mut self) -> Vec<String> {
        match self.present() {
            Ok(present) => present
                .into_iter()
                .map(|family| format!("the table {family} {TABLE} should not be there"))
                .collect(),
            Err(error) => vec![error.to_string()],
        }
    }

    fn sweep(&mut self, index: usize, done: &mut Done, world: &World<'_>) {
        if done.udp.is_empty() {
            return;
        }
        if self.sweeper.is_none() {
            match Sweeper::start(world.metrics.proxy.clone()) {
                Ok(sweeper) => self.sweeper = Some(sweeper),
                Err(error) => {
                    if self.sweeper_trouble.is_news(&error.to_string()) {
                        tracing::warn!(%error, "old UDP connections may linger");
                    }
                    return;
                }
            }
        }
        let node: Arc<[IpAddr]> = world
            .own_node()
            .map(|node| node.internal_ips.as_slice())
            .unwrap_or_default()
            .into();
        if let Some(sweeper) = &self.sweeper {
            let (table, changes) = (&self.tables[index], std::mem::take(&mut done.udp));
            sweeper.sweep(Work {
                family: table.family(),
                beside: table.applied().beside_node_ports(&changes),
                changes,
                node,
            });
        }
    }
}

impl Feature for Services {
    fn name(&self) -> &'static str {
        "services"
    }

    fn ports(&mut self) -> Vec<u32> {
        self.socket.port().into_iter().collect()
    }

    fn notice(&mut self, event: &Event<'_>, world: &World<'_>) -> bool {
        if !world.config.services.enabled {
            return matches!(event, Event::Resync);
        }
        match event {
            Event::Objects(dirty) => {
                let before = self.dirty.len();
                self.dirty
                    .extend(dirty.services.iter().chain(&dirty.endpoints).cloned());
                if dirty.service_cidrs && world.config.manifests.is_some() {
                    // Whether their ClusterIPs are in one.
                    self.dirty.extend(world.snapshot.services.keys().cloned());
                }
                self.externals_stale |= dirty.concerns_pod_cidrs();
                let networks = dirty.service_cidrs || dirty.concerns_pod_cidrs();
                self.networks |= networks;
                if self.dirty.len() > before {
                    let now = Moment::now();
                    for family in IpFamily::ALL {
                        world.metrics.proxy.queued(family, now);
                    }
                }
                networks || self.dirty.len() > before
            }
            Event::Kernel(KernelEvent::Nftables {
                family,
                table,
                touched,
                ..
            }) if table == TABLE => {
                let ours = |table: &&mut FamilyTable| table.family().number() == *family;
                let table = self.tables.iter_mut().find(ours);
                table.map(|table| table.doubt(touched)).is_some()
            }
            Event::Kernel(KernelEvent::Address { address, .. }) => {
                publish::is_health_address(world.config, address.network.ip())
            }
            Event::Resync => {
                self.tables.iter_mut().for_each(FamilyTable::distrust);
                true
            }
            Event::Uplink => {
                self.externals_stale = true;
                true
            }
            Event::Kernel(_) | Event::Files | Event::Told(_) | Event::WhoHas(_) | Event::Ready => {
                false
            }
        }
    }

    fn sync(&mut self, world: &World<'_>, warn: &mut Warn<'_>) -> Result<Synced, SyncError> {
        let config = &world.config.services;
        if !config.enabled {
            return self.withdraw(&world.config.run_dir, warn);
        }
        if self.tables.is_empty() {
            self.tables = IpFamily::ALL
                .map(|family| FamilyTable::new(family, config))
                .into();
        }
        let before = self.socket.writes();
        let mut dirty = std::mem::take(&mut self.dirty);
        self.look_at_externals(world, &mut dirty);
        let networks = std::mem::take(&mut self.networks);
        if networks {
            self.publisher.networks(world, &self.externals, warn);
        }
        let here = SeenHere::from(here(world));
        if here != self.seen_here {
            self.seen_here = here;
            dirty.extend(world.snapshot.services.keys().cloned());
        }
        let mut failed = None;
        let mut looked_at = dirty;
        for index in 0..self.tables.len() {
            let names = looked_at.clone();
            match self.sync_family(index, world, &names, networks) {
                Ok(mut done) => {
                    let family = self.tables[index].family();
                    self.sweep(index, &mut done, world);
                    self.publisher.programmed(family, &done, world);
                    looked_at.extend(done.looked_at);
                }
                Err(error) => {
                    failed.get_or_insert(error);
                }
            }
        }
        if self.settings.is_none() {
            self.settings = Some(sysctls::apply(config, &world.config.run_dir));
        }
        self.guard_localhost(config, &world.config.run_dir);
        let externals = &self.externals;
        self.publisher
            .update(&looked_at, &self.tables, externals, world, warn);
        let troubles = self
            .settings
            .iter()
            .flatten()
            .chain(&self.localhost_trouble);
        let troubles: Vec<String> = troubles.cloned().collect();
        self.publisher.settings(config, &troubles, warn);
        if let Some(error) = failed {
            // What was asked for is asked for again, with the rest of the table.
            self.dirty = looked_at;
            self.networks = true;
            return Err(error);
        }
        Ok(Synced {
            writes: self.socket.writes() - before,
            again: self
                .tables
                .iter()
                .any(|table| !table.applied().refused().is_empty()),
        })
    }

    fn due(&self) -> Option<Instant> {
        self.tables.iter().filter_map(FamilyTable::due).min()
    }

    fn needed_by_pods(&self) -> bool {
        true
    }

    fn programs_services(&self) -> bool {
        true
    }

    fn report(&mut self, world: &World<'_>, report: &mut Report) {
        if !world.config.services.enabled {
            report.differences.extend(self.left_over());
        }
        for index in 0..self.tables.len() {
            let differences = {
                let view = view(world, &self.externals, self.logging);
                self.tables[index].differences(&mut self.socket, view)
            };
            report.differences.extend(differences);
            report::report(&self.tables[index], &mut self.socket, report);
        }
    }

    fn uninstall(&mut self, config: &AgentConfig, how: Removal) -> Result<Vec<String>, SyncError> {
        let mut removed = KEPT_PORTS.uninstall(&config.run_dir, how)?;
        for family in self.present()? {
            if how == Removal::Act {
                self.remove(family)?;
            }
            removed.push(format!("table {family} {TABLE}"));
        }
        Ok(removed)
    }
}

/// Where this node was at a sync.
#[derive(Debug, Default, PartialEq, Eq)]
struct SeenHere {
    zone: Option<Box<str>>,
    addresses: Box<[IpAddr]>,
    /// Those of the uplink, of IPv4: in IPv6 no address of one is no host.
    networks: Vec<IpNetwork>,
}

fn here<'a>(world: &World<'a>) -> Here<'a> {
    Here::of(world.own_name(), world.snapshot, world.uplink)
}

impl From<Here<'_>> for SeenHere {
    fn from(here: Here<'_>) -> SeenHere {
        let networks = here.uplink.into_iter().flat_map(|uplink| &uplink.addresses);
        SeenHere {
            zone: here.zone.map(Box::from),
            addresses: here.addresses.into(),
            networks: networks.filter(|one| one.is_ipv4()).copied().collect(),
        }
    }
}

/// The world as the tables see it.
fn view<'a>(world: &World<'a>, externals: &'a Externals, logging: Logging) -> View<'a> {
    let own = world.own_node();
    View {
        snapshot: world.snapshot,
        own,
        here: here(world),
        config: &world.config.services,
        logging,
        externals,
    }
}
