//! A table of the kernel, read and written as a whole.

use podwire_kernel::netlink::until_undisturbed;
use podwire_kernel::nft::{Batch, CommitError, Family, NftSocket, Table, diff, diff_into};
use podwire_kernel::{Cause, IpFamily};

use crate::features::policies::layout::sets::Lookup;
use crate::ours::POLICY_TABLE as TABLE;
use crate::warnings::LastFailure;

/// This many elements of a new table go into one transaction: while one is carried out, no one else
/// can change a table.
const CHUNK: usize = 4096;

/// Why a table is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The kernel refused a change.
    #[error("cannot write the table {family} {TABLE}")]
    Commit {
        /// The table's family.
        family: Family,
        /// What the kernel said.
        source: CommitError,
    },
    /// The table could not be read.
    #[error(transparent)]
    Observe(#[from] podwire_kernel::Error),
}

impl TableError {
    /// True if the kernel's answer was lost.
    fn is_unanswered(&self) -> bool {
        let Self::Commit { source, .. } = self else {
            return false;
        };
        *source == CommitError::Failed(Cause::AnswerLost)
    }
}

/// Carries a batch out.
pub fn commit(
    kernel: &mut NftSocket,
    family: IpFamily,
    batch: &mut Batch,
) -> Result<(), TableError> {
    kernel.commit(batch).map_err(|source| TableError::Commit {
        family: family.into(),
        source,
    })
}

/// The table with all elements but those that the rules put there; none if there is no such table.
pub fn observe(kernel: &mut NftSocket, family: IpFamily) -> Result<Option<Table>, TableError> {
    let family = Family::from(family);
    let read = || {
        let Some(mut table) = kernel.observe_frame(family, TABLE)? else {
            return Ok(None);
        };
        for (name, set) in table.sets.iter_mut().filter(|(_, set)| !set.dynamic) {
            let header = set.header();
            kernel.each_element(family, TABLE, name, &header, |key, element| {
                set.elements.insert(key, element);
            })?;
        }
        Ok(Some(table.normalised()))
    };
    // A set that was listed may be gone when its elements are asked for.
    let is_disturbed =
        |error: &podwire_kernel::Error| error.cause == Cause::Unstable || error.is_not_found();
    Ok(until_undisturbed(read, is_disturbed)?)
}

/// Makes a table that is not there. Its rules come last, so that nothing is judged by half of it.
pub fn create(kernel: &mut NftSocket, family: IpFamily, wanted: &Table) -> Result<(), TableError> {
    let mut sets = wanted.clone();
    sets.chains = Default::default();
    let mut empty = sets.clone();
    for set in empty.sets.values_mut() {
        set.elements.clear();
    }
    commit(kernel, family, &mut diff(None, &empty))?;
    let mut batch = Batch::new();
    let mut room = CHUNK;
    for (name, set) in sets.sets.iter() {
        for (key, element) in &set.elements {
            let mut writer = batch.table(family.into(), TABLE);
            writer.elements(name, set).add(&element.borrow(key));
            room -= 1;
            if room == 0 {
                room = CHUNK;
                commit(kernel, family, &mut batch)?;
                batch.clear();
            }
        }
    }
    diff_into(&mut batch, Some(&sets), wanted);
    commit(kernel, family, &mut batch)
}

/// Turns a table that is there into what is wanted. What was remembered is forgotten if that changes
/// anything; true if so.
pub fn correct(
    kernel: &mut NftSocket,
    family: IpFamily,
    found: &Table,
    wanted: &Table,
    failures: &mut LastFailure,
) -> Result<bool, TableError> {
    let mut batch = diff(Some(found), wanted);
    if batch.is_empty() {
        return Ok(false);
    }
    forget(&mut batch, family);
    let error = match commit(kernel, family, &mut batch) {
        Ok(()) => {
            failures.is_over();
            return Ok(true);
        }
        // It may have been carried out: the table is to be read again.
        Err(error) if error.is_unanswered() => return Err(error),
        Err(error) => error,
    };
    // Something in it that we cannot take out: another program's chain that leads to ours, say.
    let error = crate::error::chain(&error);
    if failures.is_news(&error) {
        tracing::warn!("{error}; it cannot be corrected and is made again");
    }
    let mut batch = Batch::new();
    batch.table(family.into(), TABLE).delete();
    diff_into(&mut batch, None, wanted);
    commit(kernel, family, &mut batch)?;
    Ok(true)
}

/// Forgets all verdicts: every connection is judged again.
pub fn forget(batch: &mut Batch, family: IpFamily) {
    batch
        .table(family.into(), TABLE)
        .flush_set(&Lookup::Allowed.name());
}

/// Takes the table out; true if it was there.
pub fn remove(kernel: &mut NftSocket, family: IpFamily) -> Result<bool, TableError> {
    if !kernel.has_table(family.into(), TABLE)? {
        return Ok(false);
    }
    let mut batch = Batch::new();
    batch.table(family.into(), TABLE).destroy();
    commit(kernel, family, &mut batch)?;
    Ok(true)
}
