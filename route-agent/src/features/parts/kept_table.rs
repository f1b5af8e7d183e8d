//! An nftables table that is kept as it is wanted, whatever others do to it.
//!
//! For small tables: the whole of it is wanted, observed and compared at once. What must hold:
//! nothing is sent if the kernel has what is wanted; other tables are never touched.

use std::collections::BTreeMap;

use podwire_kernel::monitor::Event as KernelEvent;
use podwire_kernel::nft::{Batch, CommitError, Family, NftSocket, Table, diff};

use crate::features::parts::log::counted;
use crate::ours::Removal;

/// Why a table could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// The table could not be read.
    #[error(transparent)]
    Observe(#[from] podwire_kernel::Error),
    /// The kernel refused the difference.
    #[error("cannot bring the nftables table {family} {name} in line")]
    Commit {
        /// The table's family.
        family: Family,
        /// The table's name.
        name: &'static str,
        /// What the kernel said.
        source: CommitError,
    },
}

/// The table.
#[derive(Debug)]
pub struct KeptTable {
    family: Family,
    name: &'static str,
    socket: NftSocket,
    /// What the kernel holds; `None` if it must be read (again).
    observed: Option<Table>,
}

/// What is wrong with a table that someone has put to sleep, whatever is in it.
pub fn asleep(table: &Table) -> Option<String> {
    let text = "it is dormant: no packet is asked about";
    table.dormant.then(|| text.to_owned())
}

impl KeptTable {
    /// Works in the network namespace of the calling thread.
    pub fn open(family: Family, name: &'static str) -> podwire_kernel::Result<Self> {
        Ok(Self {
            family,
            name,
            socket: NftSocket::open()?,
            observed: None,
        })
    }

    /// The netlink port through which it is written.
    pub fn port(&mut self) -> Option<u32> {
        self.socket.port().ok()
    }

    /// True if another process touched the table: it is read again at the next [`KeptTable::keep`].
    pub fn is_touched_by(&mut self, event: &KernelEvent) -> bool {
        let KernelEvent::Nftables { family, table, .. } = event else {
            return false;
        };
        let ours = *family == self.family.number() && table == self.name;
        if ours {
            self.distrust();
        }
        ours
    }

    /// Forgets what the kernel holds.
    pub fn distrust(&mut self) {
        self.observed = None;
    }

    /// Reads the table from the kernel.
    pub fn observe(&mut self) -> podwire_kernel::Result<Option<Table>> {
        self.socket.observe(self.family, self.name)
    }

    /// Makes the kernel hold `wanted`; returns how many changes that took.
    pub fn keep(&mut self, wanted: &Table) -> Result<u64, KeepError> {
        let observed = match self.observed.take() {
            Some(observed) => Some(observed),
            None => self.observe()?.map(Table::normalised),
        };
        let writes = self.commit(diff(observed.as_ref(), wanted))?;
        self.observed = Some(wanted.clone());
        Ok(writes)
    }

    /// Where the kernel differs from `wanted`, one sentence each.
    pub fn differences(&mut self, wanted: &Table) -> Vec<String> {
        let (family, name) = (self.family, self.name);
        match self.observe() {
            Err(error) => vec![error.to_string()],
            Ok(None) => vec![format!("the nftables table {family} {name} is missing")],
            Ok(Some(table)) => match diff(Some(&table.normalised()), wanted).len() {
                0 => Vec::new(),
                count => vec![format!(
                    "the nftables table {family} {name} differs in {count} places"
                )],
            },
        }
    }

    /// How many packets its rules have refused and dropped, by reason; nothing if it cannot be read.
    pub fn refused(&mut self) -> BTreeMap<String, u64> {
        let table = self.observe().ok().flatten();
        table.as_ref().map(counted).unwrap_or_default()
    }

    /// Removes the table; true if there was one.
    pub fn remove(&mut self) -> Result<bool, KeepError> {
        if self.observe()?.is_none() {
            return Ok(false);
        }
        let mut batch = Batch::new();
        batch.table(self.family, self.name).delete();
        self.observed = None;
        self.commit(batch)?;
        Ok(true)
    }

    /// Whether there is one, which goes if it is to.
    pub fn uninstall(&mut self, how: Removal) -> Result<bool, KeepError> {
        match how {
            Removal::Act => self.remove(),
            Removal::Look => Ok(self.observe()?.is_some()),
        }
    }

    fn commit(&mut self, mut batch: Batch) -> Result<u64, KeepError> {
        let before = self.socket.writes();
        self.socket
            .commit(&mut batch)
            .map_err(|source| KeepError::Commit {
                family: self.family,
                name: self.name,
                source,
            })?;
        Ok(self.socket.writes() - before)
    }
}
