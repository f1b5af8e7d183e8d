//! The plugin's tables are rebuilt if they are taken away, and lose what the runtime forgot.
//!
//! In: the plugin's attachment records, the links and routes of this node; for warnings the Services.
//! Out: `inet podwire-hostports` and `inet podwire-ipmasq` hold what the records say; a record whose
//! link has been gone for the grace period of leases is taken back as DEL would do it. A record that
//! the plugin made as a chained `portmap` says nothing about links, so only DEL and GC end it. One that
//! cannot be read is named after its link all the same, and goes in the same way.
//!
//! The plugin writes both the records and the tables itself, under a lock; this feature holds the
//! same lock while it reads the one and repairs the other, so that neither ever undoes what the
//! other is doing. If the plugin is at work it does not wait but comes back.

mod contested;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use podwire::attachment::{
    DIRECTORY, FAMILY, HOSTPORTS, IPMASQ, Record, Records, Unreadable, apply, has_all,
    host_link_name, hostports_guard, hostports_table, ipmasq_table,
};
use podwire::exposure;
use podwire_kernel::RouteSocket;
use podwire_kernel::nft::{NftSocket, Table};

use crate::config::Config;
use crate::feature::{Event, Feature, KernelEvent, SyncError, Synced, Warn, World};
use crate::features::hostports::contested::{Contested, key};
use crate::features::parts::kept_table::KeptTable;
use crate::features::parts::signs_of_life::{self, Attachment, Missing, lifeless};
use crate::files;
use crate::ours::Removal;
use crate::report::Report;
use crate::warnings::Warning;

/// The plugin writes several times in a row; the tables are looked at when this has passed.
const CALM: Duration = Duration::from_millis(200);

/// The feature.
#[derive(Debug)]
pub struct HostPorts {
    directory: PathBuf,
    hostports: KeptTable,
    ipmasq: KeptTable,
    /// For what is put back element by element.
    elements: NftSocket,
    routes: RouteSocket,
    /// The links of the attachments that have a record.
    links: BTreeSet<String>,
    missing: Missing<(String, String)>,
    /// Who else has host ports.
    contested: Contested,
    /// The missing links of records that cannot be read.
    missing_links: Missing<String>,
    due: Option<Instant>,
}

/// What came of bringing tables and records together.
#[derive(Debug, Default)]
struct Outcome {
    writes: u64,
    unreadable: Vec<Unreadable>,
    /// Host ports that are another's as well.
    contested: Vec<Warning>,
    /// The first thing that failed; the rest is done.
    failure: Option<SyncError>,
}

/// Whose links have been missing for the grace period.
struct Lost {
    attachments: BTreeSet<(String, String)>,
    /// Of records that cannot be read.
    links: BTreeSet<String>,
}

impl HostPorts {
    /// Works in the network namespace of the calling thread.
    pub fn open() -> podwire_kernel::Result<Self> {
        Ok(Self {
            directory: DIRECTORY.into(),
            hostports: KeptTable::open(FAMILY, HOSTPORTS)?,
            ipmasq: KeptTable::open(FAMILY, IPMASQ)?,
            elements: NftSocket::open()?,
            routes: RouteSocket::open()?,
            links: BTreeSet::new(),
            contested: Contested::default(),
            missing: Missing::default(),
            missing_links: Missing::default(),
            due: None,
        })
    }

    /// To be called after `pause`, or sooner if that was wanted before.
    fn come_back(&mut self, pause: Duration) {
        let then = Instant::now() + pause;
        self.due = Some(self.due.map_or(then, |due| due.min(then)));
    }

    /// Brings tables and records together. What fails for one of them does not stop the others.
    fn keep(&mut self, records: &Records, world: &World<'_>) -> Result<Outcome, SyncError> {
        let (all, unreadable) = records.read_all()?;
        let named = unreadable.iter().filter_map(Unreadable::link);
        self.links = all.iter().map(link).collect();
        self.links.extend(named.map(str::to_owned));
        let lost = self.lost(&all, &unreadable, world.config.lease_grace)?;
        let is_lost = |record: &Record| !record.chained && lost.attachments.contains(&key(record));
        let (gone, kept): (Vec<_>, Vec<_>) = all.into_iter().partition(is_lost);
        let mut outcome = Outcome::default();
        (self.contested, outcome.contested) = Contested::of(&kept, world);
        for record in &gone {
            let withdrawn = exposure::take_back(records, record, &kept);
            if outcome.count(withdrawn.map(|_| 1)) {
                let (attachment, container_id) = (record.comment(), &record.container_id);
                tracing::info!(
                    attachment,
                    container_id,
                    "took back what a lost attachment had"
                );
            }
        }
        for one in unreadable {
            let is_lost = one.link().is_some_and(|link| lost.links.contains(link));
            if is_lost && outcome.count(records.remove_unreadable(&one).map(u64::from)) {
                let path = one.path.display();
                tracing::info!(%path, "removed a record that cannot be read and has no link");
            } else {
                outcome.unreadable.push(one);
            }
        }
        let written = match outcome.unreadable.is_empty() {
            true => self.repair(&kept),
            // What cannot be read may be in the tables: nothing is taken out then.
            false => self.complete(&kept),
        };
        outcome.count(written);
        Ok(outcome)
    }

    /// What has shown no sign of life for the grace period.
    fn lost(
        &mut self,
        records: &[Record],
        unreadable: &[Unreadable],
        grace: Duration,
    ) -> podwire_kernel::Result<Lost> {
        let own = records.iter().filter(|record| !record.chained);
        let mut own = own.map(attachment).peekable();
        let mut named = unreadable.iter().filter_map(Unreadable::link).peekable();
        let now = Instant::now();
        let (missing, missing_links) = if own.peek().is_none() && named.peek().is_none() {
            (Vec::new(), Vec::new())
        } else {
            let links = self.routes.links()?;
            let is_there = |name: &&str| links.iter().any(|link| link.name == *name);
            let missing_links = named.filter(|name| !is_there(name));
            let missing_links = missing_links.map(str::to_owned).collect();
            (lifeless(&mut self.routes, &links, own)?, missing_links)
        };
        let lost = Lost {
            attachments: self.missing.update(missing, now, grace),
            links: self.missing_links.update(missing_links, now, grace),
        };
        let due = [
            self.missing.due(now, grace),
            self.missing_links.due(now, grace),
        ];
        self.due = due.into_iter().flatten().min();
        Ok(lost)
    }

    /// Makes the tables what the records say. Without a record the guard of 127.0.0.0/8 stays as long as
    /// a link needs it.
    fn repair(&mut self, records: &[Record]) -> Result<u64, SyncError> {
        let hostports = match hostports_table(records) {
            // Which links need the guard matters only if there is one.
            None if self.hostports.observe()?.is_some() => hostports_guard()?,
            wanted => wanted,
        };
        Ok(keep(&mut self.hostports, hostports)? + keep(&mut self.ipmasq, ipmasq_table(records))?)
    }

    /// Puts back what the tables lack of these records.
    fn complete(&mut self, records: &[Record]) -> Result<u64, SyncError> {
        let before = self.elements.writes();
        for record in records {
            if !has_all(&mut self.elements, record)? {
                apply(&mut self.elements, record)?;
            }
        }
        Ok(self.elements.writes() - before)
    }
}

impl Feature for HostPorts {
    fn name(&self) -> &'static str {
        "hostports"
    }

    fn ports(&mut self) -> Vec<u32> {
        let ports = [
            self.hostports.port(),
            self.ipmasq.port(),
            self.elements.port().ok(),
        ];
        ports.into_iter().flatten().collect()
    }

    fn notice(&mut self, event: &Event<'_>, world: &World<'_>) -> bool {
        match event {
            Event::Objects(dirty) => self.contested.is_changed_by(dirty, world),
            Event::Kernel(KernelEvent::Link { name, gone, .. }) => {
                if *gone && self.links.contains(name) {
                    self.come_back(signs_of_life::CALM);
                }
                false
            }
            Event::Kernel(event) => {
                if self.hostports.is_touched_by(event) || self.ipmasq.is_touched_by(event) {
                    self.come_back(CALM);
                }
                false
            }
            Event::Resync => true,
            _ => false,
        }
    }

    fn due(&self) -> Option<Instant> {
        self.due
    }

    fn sync(&mut self, world: &World<'_>, warn: &mut Warn<'_>) -> Result<Synced, SyncError> {
        self.due = None;
        // The plugin may have changed since.
        self.hostports.distrust();
        self.ipmasq.distrust();
        let mut done = Synced::default();
        if !self.directory.is_dir() {
            done.writes = self.repair(&[])?;
            let is_taken = self.directory.symlink_metadata().is_ok();
            warn.replace(is_taken.then(|| no_directory(&self.directory)));
            return Ok(done);
        }
        let Some(records) = Records::try_open(&self.directory)? else {
            self.come_back(CALM);
            return Ok(done);
        };
        let outcome = self.keep(&records, world)?;
        done.writes = outcome.writes;
        let grace = world.config.lease_grace;
        let unreadable = outcome.unreadable.iter();
        let unreadable = unreadable.map(|one| warning(one, grace));
        warn.replace(unreadable.chain(outcome.contested));
        outcome.failure.map_or(Ok(done), Err)
    }

    fn report(&mut self, _: &World<'_>, report: &mut Report) {
        let locked = match Records::try_open(&self.directory) {
            Ok(Some(locked)) => locked,
            // The plugin is at work: what differs now is not reported.
            Ok(None) => return,
            Err(error) => return report.differences.push(error.to_string()),
        };
        let Ok((records, _)) = locked.read_all() else {
            return;
        };
        if let Some(wanted) = hostports_table(&records) {
            report
                .differences
                .extend(self.hostports.differences(&wanted));
        }
        if let Some(wanted) = ipmasq_table(&records) {
            report.differences.extend(self.ipmasq.differences(&wanted));
        }
    }

    fn uninstall(&mut self, _: &Config, how: Removal) -> Result<Vec<String>, SyncError> {
        let mut removed = Vec::new();
        for (table, name) in [(&mut self.hostports, HOSTPORTS), (&mut self.ipmasq, IPMASQ)] {
            if table.uninstall(how)? {
                removed.push(format!("nftables table {FAMILY} {name}"));
            }
        }
        if files::uninstall_tree(&self.directory, how)? {
            removed.push(format!(
                "attachment records in {}",
                self.directory.display()
            ));
        }
        Ok(removed)
    }
}

impl Outcome {
    /// Counts what was written, or keeps the first error; says whether anything was written.
    fn count(&mut self, written: Result<u64, impl Into<SyncError>>) -> bool {
        match written {
            Ok(writes) => {
                self.writes += writes;
                writes > 0
            }
            Err(error) => {
                self.failure.get_or_insert_with(|| error.into());
                false
            }
        }
    }
}

fn no_directory(directory: &Path) -> Warning {
    let text = "is no directory, so pods with hostPorts do not start, nor those whose \
                connections the plugin masquerades; remove it, the plugin makes the directory";
    Warning::new(directory.display().to_string(), text)
}

/// A record that cannot be read, and what to do about it.
fn warning(one: &Unreadable, grace: Duration) -> Warning {
    let advice = match one.link() {
        Some(link) => format!(
            "replace the pod that has the link {link}: {grace:?} after the link this file is removed"
        ),
        None => "remove this file once its pod is gone".to_owned(),
    };
    let text = format!(
        "{}; its hostPorts cannot be put back if they get lost; {advice}",
        one.reason
    );
    Warning::new(format!("file {}", one.path.display()), text)
}

fn keep(table: &mut KeptTable, wanted: Option<Table>) -> Result<u64, SyncError> {
    Ok(match wanted {
        Some(wanted) => table.keep(&wanted)?,
        None => u64::from(table.remove()?),
    })
}

/// The host end of the link that a record is about.
fn link(record: &Record) -> String {
    host_link_name(&record.container_id, &record.ifname)
}

fn attachment(record: &Record) -> ((String, String), Attachment<'_>) {
    let attachment = Attachment {
        container_id: &record.container_id,
        ifname: &record.ifname,
        addresses: &record.addresses,
    };
    (key(record), attachment)
}

#[cfg(test)]
mod tests;
