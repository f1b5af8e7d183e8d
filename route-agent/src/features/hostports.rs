//! The plugin's tables are rebuilt if somebody takes them away.
//!
//! In: the plugin's attachment records. Out: `inet podwire-hostports` and `inet podwire-ipmasq`
//! hold what the records say. The plugin writes both the records and the tables itself, under a
//! lock; this feature holds the same lock while it reads the one and repairs the
//! other, so that neither ever undoes what the other is doing. If the plugin is at work it does
//! not wait but comes back.

use std::path::Path;
use std::time::{Duration, Instant};

use kernel::nft::Table;
use podwire::attachment::{
    DIRECTORY, FAMILY, HOSTPORTS, IPMASQ, Record, Records, hostports_table, ipmasq_table,
};

use super::kept_table::KeptTable;
use crate::config::Config;
use crate::reconcile::{Event, Feature, SyncError, Synced, Warn, World};
use crate::report::Report;
use crate::warnings::Warning;

/// The plugin writes several times in a row; the tables are looked at when this has passed.
const CALM: Duration = Duration::from_millis(200);

/// The feature.
#[derive(Debug)]
pub struct HostPorts {
    hostports: KeptTable,
    ipmasq: KeptTable,
    due: Option<Instant>,
}

impl HostPorts {
    /// Works in the network namespace of the calling thread.
    pub fn open() -> kernel::Result<Self> {
        Ok(Self {
            hostports: KeptTable::open(FAMILY, HOSTPORTS)?,
            ipmasq: KeptTable::open(FAMILY, IPMASQ)?,
            due: None,
        })
    }

    fn distrust(&mut self) {
        self.hostports.distrust();
        self.ipmasq.distrust();
    }

    fn repair(&mut self, records: &[Record]) -> Result<u64, SyncError> {
        Ok(keep(&mut self.hostports, hostports_table(records))?
            + keep(&mut self.ipmasq, ipmasq_table(records))?)
    }
}

impl Feature for HostPorts {
    fn name(&self) -> &'static str {
        "hostports"
    }

    fn ports(&mut self) -> Vec<u32> {
        [self.hostports.port(), self.ipmasq.port()]
            .into_iter()
            .flatten()
            .collect()
    }

    fn heed(&mut self, event: &Event<'_>, _: &World<'_>) -> bool {
        match event {
            Event::Kernel(event) => {
                if self.hostports.is_touched_by(event) || self.ipmasq.is_touched_by(event) {
                    self.due.get_or_insert(Instant::now() + CALM);
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

    fn sync(&mut self, _: &World<'_>, warn: &mut Warn<'_>) -> Result<Synced, SyncError> {
        self.due = None;
        // Whatever was known, the plugin may have changed since.
        self.distrust();
        let directory = Path::new(DIRECTORY);
        if !directory.is_dir() {
            return Ok(Synced {
                writes: self.repair(&[])?,
                again: false,
            });
        }
        let Some(locked) = Records::try_open(directory)? else {
            self.due = Some(Instant::now() + CALM);
            return Ok(Synced::default());
        };
        let (records, unreadable) = locked.read_all()?;
        warn.replace(unreadable.iter().map(|one| {
            let text = format!(
                "{}; its hostPorts cannot be put back if they get lost",
                one.reason
            );
            Warning::new(format!("file {}", one.path.display()), text)
        }));
        // What cannot be read may be in the tables: take nothing out then.
        if !unreadable.is_empty() {
            return Ok(Synced::default());
        }
        let writes = self.repair(&records)?;
        drop(locked);
        Ok(Synced {
            writes,
            again: false,
        })
    }

    fn report(&mut self, _: &World<'_>, report: &mut Report) {
        let locked = match Records::try_open(Path::new(DIRECTORY)) {
            Ok(Some(locked)) => locked,
            // The plugin is at work: what differs now is no difference.
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

    fn uninstall(&mut self, _: &Config) -> Result<Vec<String>, SyncError> {
        let mut removed = Vec::new();
        for (table, name) in [(&mut self.hostports, HOSTPORTS), (&mut self.ipmasq, IPMASQ)] {
            if table.remove()? {
                removed.push(format!("nftables table {FAMILY} {name}"));
            }
        }
        match std::fs::remove_dir_all(DIRECTORY) {
            Ok(()) => removed.push(format!("attachment records in {DIRECTORY}")),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("cannot remove {DIRECTORY}: {error}").into()),
        }
        Ok(removed)
    }
}

fn keep(table: &mut KeptTable, wanted: Option<Table>) -> Result<u64, SyncError> {
    Ok(match wanted {
        Some(wanted) => table.keep(&wanted)?,
        None => u64::from(table.remove()?),
    })
}
