//! The table of one family: what the feature calls.
//!
//! A change recomputes the Services that it touches and writes what differs in them. What the
//! kernel holds is known from what it took; after any failure, at start, and when another process
//! touched the table, it is read back and only the difference is written.

use std::collections::BTreeSet;
use std::time::Instant;

use podwire_kernel::IpFamily;
use podwire_kernel::monitor::Touched;

use crate::config::services::Config;
use crate::features::services::table::base;
use crate::features::services::table::differences::differences;
use crate::features::services::table::doubts::Doubts;
use crate::features::services::table::encode::Writer;
use crate::features::services::table::full_sync::full_sync;
use crate::features::services::table::nftables::{Nftables, TableError};
use crate::features::services::table::repair::repair;
use crate::features::services::table::standing::Standing;
use crate::features::services::table::state::{Applied, Done, View};
use crate::features::services::table::write::{REST, chunks, tidy, write};
use crate::snapshot::ObjectName;

/// What is known of the kernel's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// Nothing: it must be read.
    Nothing,
    /// It is not there, because no Service is of this family.
    Absent,
    /// It holds what was applied, but for what is in doubt.
    Applied,
}

/// The table of one family.
#[derive(Debug)]
pub struct FamilyTable {
    applied: Applied,
    writer: Writer,
    known: Known,
    doubts: Doubts,
}

impl FamilyTable {
    /// A table of which nothing is known.
    pub fn new(family: IpFamily, config: &Config) -> Self {
        FamilyTable {
            applied: Applied::nothing(family),
            writer: Writer::new(family, config),
            known: Known::Nothing,
            doubts: Doubts::default(),
        }
    }

    /// What the kernel was made to hold.
    pub fn applied(&self) -> &Applied {
        &self.applied
    }

    /// The family.
    pub fn family(&self) -> IpFamily {
        self.applied.family()
    }

    /// What the kernel holds is unknown from now on.
    pub fn distrust(&mut self) {
        self.known = Known::Nothing;
    }

    /// Whether the table is in the kernel; `None` as long as that is not known.
    pub fn is_there(&self) -> Option<bool> {
        match self.known {
            Known::Nothing => None,
            Known::Absent => Some(false),
            Known::Applied => Some(true),
        }
    }

    /// Another process changed the table.
    pub fn doubt(&mut self, touched: &Touched) {
        if self.known != Known::Applied || !self.doubts.take_in(touched) {
            self.distrust();
        }
    }

    /// When to sync even if nothing happens.
    pub fn due(&self) -> Option<Instant> {
        self.applied.tidy_at
    }

    /// Where the kernel differs from what was written, one sentence each.
    pub fn differences(&self, kernel: &mut dyn Nftables, view: View<'_>) -> Vec<String> {
        differences(&self.applied, self.writer.headers(), kernel, view)
    }

    /// Brings the kernel in line with the view. `dirty` are the Services that changed.
    pub fn sync(
        &mut self,
        kernel: &mut dyn Nftables,
        view: View<'_>,
        dirty: &BTreeSet<ObjectName>,
        networks_changed: bool,
        now: Instant,
    ) -> Result<Done, TableError> {
        let mut done = Done::default();
        self.writer.take_sent();
        if self.known == Known::Absent {
            if !dirty.iter().any(|name| self.applied.concerns(view, name)) {
                done.looked_at = dirty.clone();
                return Ok(done);
            }
            self.distrust();
        }
        let names = self.with_refused(dirty);
        let doubts = std::mem::take(&mut self.doubts);
        let known = self.known == Known::Applied
            && self
                .changes(kernel, view, &doubts, names, networks_changed, &mut done)
                .unwrap_or_else(|error| {
                    // The kernel does not hold what we believe, or one Service cannot be written:
                    // reading the table back tells which.
                    let (family, error) = (self.family(), crate::error::chain(&error));
                    tracing::debug!(?family, error, "the table is read back");
                    false
                });
        if known {
            tidy(&mut self.applied, &mut self.writer, kernel, now);
        } else {
            self.read_back(kernel, view, now, &mut done)?;
        }
        done.batches = self.writer.take_sent();
        Ok(done)
    }

    /// The Services to look at: those that changed, or, if none did, those that were refused.
    fn with_refused(&mut self, dirty: &BTreeSet<ObjectName>) -> BTreeSet<ObjectName> {
        let refused = self.applied.refused();
        let mut names = dirty.clone();
        if dirty.is_empty() {
            // The time has come to try again.
            names.extend(refused.keys().cloned());
        }
        // What the kernel holds of a Service that it refused when the table was read is not known.
        let unknown = |name: &&ObjectName| self.applied.plan(name).is_none();
        if (refused.keys().filter(unknown)).any(|name| names.contains(name)) {
            self.distrust();
        }
        names
    }

    /// The usual case: some Services changed. False if the whole table must be read.
    fn changes(
        &mut self,
        kernel: &mut dyn Nftables,
        view: View<'_>,
        doubts: &Doubts,
        names: BTreeSet<ObjectName>,
        networks_changed: bool,
        done: &mut Done,
    ) -> Result<bool, TableError> {
        let FamilyTable {
            applied, writer, ..
        } = self;
        if !doubts.is_empty() && !repair(applied, writer, kernel, view, doubts)? {
            return Ok(false);
        }
        if networks_changed {
            update_networks(applied, writer, kernel, view)?;
        }
        update(applied, writer, kernel, view, names, done)?;
        Ok(true)
    }

    /// Reads the table and writes what differs.
    fn read_back(
        &mut self,
        kernel: &mut dyn Nftables,
        view: View<'_>,
        now: Instant,
        done: &mut Done,
    ) -> Result<(), TableError> {
        done.full = true;
        self.distrust();
        let applied = &mut self.applied;
        // If this fails, the caller chooses the time to try again.
        applied.tidy_at = None;
        let there = full_sync(applied, &mut self.writer, kernel, view, done)?;
        self.known = if there { Known::Applied } else { Known::Absent };
        if applied.standing.gave_up(&Standing::default()) {
            applied.tidy_at.get_or_insert(now + REST);
        }
        Ok(())
    }
}

/// Writes what differs in the sets of networks.
fn update_networks(
    applied: &mut Applied,
    writer: &mut Writer,
    kernel: &mut dyn Nftables,
    view: View<'_>,
) -> Result<(), TableError> {
    let wanted = view.networks(applied.family());
    let skeleton = base::skeleton_of(writer, view);
    let mut messages = writer.begin();
    base::diff_networks(
        &mut messages,
        &skeleton,
        view.config,
        &applied.networks,
        &wanted,
    );
    writer.commit(kernel)?;
    applied.networks = wanted;
    Ok(())
}

/// Writes what differs in the named Services.
fn update(
    applied: &mut Applied,
    writer: &mut Writer,
    kernel: &mut dyn Nftables,
    view: View<'_>,
    names: BTreeSet<ObjectName>,
    done: &mut Done,
) -> Result<(), TableError> {
    let (names, together) = applied.reclaim(view, names);
    let (mut first, mut rest, mut suspects) = (Vec::new(), Vec::new(), Vec::new());
    for name in &names {
        done.looked_at.insert(name.clone());
        let Some(change) = applied.change(view, name) else {
            applied.is_right(name);
            continue;
        };
        match name {
            name if applied.refused().contains_key(name) => suspects.push(change),
            name if together.contains(name) => first.push(change),
            _ => rest.push(change),
        }
    }
    for chunk in std::iter::once(first).chain(chunks(rest)) {
        write(applied, writer, kernel, chunk, done)
            .map_err(|failed| writer.failed(failed.error))?;
    }
    for suspect in suspects {
        let name = suspect.name.clone();
        if let Err(failed) = write(applied, writer, kernel, vec![suspect], done) {
            applied.refuse(name, &failed.error);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use podwire_kernel::nft::{self, Batch, CommitError, Element, Key, Set, Table};

    use super::*;
    use crate::features::parts::log::Logging;
    use crate::features::services::desired::samples::named_service;
    use crate::features::services::table::delta::Change;
    use crate::snapshot::{self, Dirty, Object, Snapshot};

    /// A kernel without a table, in which there is no room for one.
    struct Full;

    impl Nftables for Full {
        fn frame(&mut self, _: nft::Family) -> podwire_kernel::Result<Option<Table>> {
            Ok(None)
        }

        fn elements(
            &mut self,
            _: nft::Family,
            _: &str,
            _: &Set,
            _: &mut dyn FnMut(Key, Element),
        ) -> podwire_kernel::Result<()> {
            Ok(())
        }

        fn element(
            &mut self,
            _: nft::Family,
            _: &str,
            _: &Set,
            _: &[u8],
        ) -> podwire_kernel::Result<Option<Element>> {
            Ok(None)
        }

        fn commit(&mut self, _: &mut Batch, _: &[Change]) -> Result<(), CommitError> {
            let cause = podwire_kernel::Cause::System { errno: 28 };
            Err(CommitError::Failed(cause))
        }
    }

    #[test]
    fn a_refused_table_is_reported_with_its_cause_once_and_nothing_counts_as_applied() {
        let (mut snapshot, mut dirty) = (Snapshot::default(), Dirty::default());
        let config = Config::default();
        let mut table = FamilyTable::new(IpFamily::V4, &config);
        let mut sync = |snapshot: &Snapshot, dirty: &Dirty| {
            let view = View {
                snapshot,
                own: None,
                here: Default::default(),
                config: &config,
                logging: Logging::On,
                externals: &Default::default(),
            };
            let outcome = table.sync(&mut Full, view, &dirty.services, false, Instant::now());
            (outcome.map(|done| done.batches), table.is_there())
        };
        let (outcome, there) = sync(&snapshot, &dirty);
        assert_eq!((outcome.unwrap(), there), (0, Some(false)));
        let web = named_service("web", "cluster-ip 10.200.1.63; port tcp 80");
        snapshot.apply(snapshot::Change::Set(Object::Service(web)), &mut dirty);
        let (outcome, there) = sync(&snapshot, &dirty);
        let error = crate::error::chain(&outcome.unwrap_err());
        assert!(
            error.starts_with("cannot write table ip podwire-services: "),
            "{error}"
        );
        assert_eq!(
            error.matches("os error 28").count() + error.matches("No space").count(),
            1,
            "{error}"
        );
        assert_eq!(there, None);
    }
}
