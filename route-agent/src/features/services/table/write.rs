//! Writing changes of Services, and deleting later what nothing refers to any longer.

use std::time::{Duration, Instant};

use podwire_kernel::nft::CommitError;

use crate::features::services::layout::answers::Answer;
use crate::features::services::table::delta::Change;
use crate::features::services::table::encode::Writer;
use crate::features::services::table::nftables::{Nftables, TableError};
use crate::features::services::table::state::{Applied, Done};

/// About this many elements go into one transaction. More Services take several, each with whole
/// Services.
pub const CHUNK: usize = 4096;

/// Chains that nothing refers to are deleted this long after.
pub const REST: Duration = Duration::from_secs(1);

/// At least this long after the last of them was given up: a packet may be on its way there.
const LEAST_REST: Duration = Duration::from_millis(100);

/// A batch that was not taken, with what it was made of.
#[derive(Debug)]
pub struct Failed {
    /// Why.
    pub error: CommitError,
    /// The changes in it.
    pub changes: Vec<Change>,
}

/// Writes some Services in one batch and remembers them.
pub fn write(
    applied: &mut Applied,
    writer: &mut Writer,
    kernel: &mut dyn Nftables,
    changes: Vec<Change>,
    done: &mut Done,
) -> Result<(), Failed> {
    let after = writer.begin().encode(&applied.standing, &changes);
    if let Err(error) = writer.commit_services(kernel, &changes) {
        return Err(Failed { error, changes });
    }
    if after.gave_up(&applied.standing) {
        let now = Instant::now();
        let at = applied.tidy_at.unwrap_or(now + REST).max(now + LEAST_REST);
        applied.tidy_at = Some(at);
    }
    applied.standing = after;
    for change in changes {
        applied.accept(change, done);
    }
    Ok(())
}

/// Deletes chains and maps that nothing refers to any longer, if it is time. If that fails they are
/// only untidy, and the next time the table is read back they are found again.
pub fn tidy(applied: &mut Applied, writer: &mut Writer, kernel: &mut dyn Nftables, now: Instant) {
    if applied.tidy_at.is_none_or(|at| now < at) {
        return;
    }
    applied.tidy_at = None;
    let outcome = delete_unused(applied, writer, kernel);
    if let Err(error) = outcome {
        let error = crate::error::chain(&error);
        tracing::debug!(error, "unused chains stay for now");
    }
}

/// First the references, then what they referred to: see `Messages::own_objects`.
fn delete_unused(
    applied: &mut Applied,
    writer: &mut Writer,
    kernel: &mut dyn Nftables,
) -> Result<(), TableError> {
    let standing = &mut applied.standing;
    let mut chains = std::mem::take(&mut standing.old_chains);
    let maps = std::mem::take(&mut standing.old_maps);
    let mut messages = writer.begin();
    for answer in std::mem::take(&mut standing.old_answers) {
        messages.delete_answer(answer);
        if let Answer::Shared(shared) = answer {
            chains.insert(shared.name());
        }
    }
    writer.commit(kernel)?;
    let mut messages = writer.begin();
    let mut table = messages.table();
    for chain in &chains {
        table.flush_chain(chain);
    }
    for chain in &chains {
        table.delete_chain(chain);
    }
    for map in &maps {
        table.delete_set(map);
    }
    writer.commit(kernel)
}

/// Whole Services, in batches of a bearable size.
pub fn chunks(changes: Vec<Change>) -> Vec<Vec<Change>> {
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
