//! The table of one family: what the feature calls.
//!
//! A change writes the elements that it touches. What the kernel holds is known from what it took;
//! at the start, after a failure and after a lost notification the table is read back, and only the
//! difference is written. Whatever takes something away makes the rules forget what they remember,
//! in the same transaction, and once more a moment later: a packet that was judged just before may
//! be remembered just after.

use std::time::{Duration, Instant};

use podwire_kernel::IpFamily;
use podwire_kernel::monitor::Touched;
use podwire_kernel::nft::{Batch, Element, ElementWriter, Key, NftSocket, TableWriter};

use crate::features::parts::log::Logging;
use crate::features::policies::desired::frame::Frame;
use crate::features::policies::desired::model::{Model, takes_away};
use crate::features::policies::desired::wanted::Delta;
use crate::features::policies::layout::elements::{element, key, table};
use crate::features::policies::layout::sets::Lookup;
use crate::features::policies::table::differences;
use crate::features::policies::table::kernel::{
    TableError, commit, correct, create, forget, observe, remove,
};
use crate::features::policies::table::repair::{Doubts, Repair, repair};
use crate::ours::POLICY_TABLE as TABLE;
use crate::warnings::LastFailure;

/// What was remembered is forgotten once more after this time. A packet is judged within
/// microseconds; a virtual machine may stand still for longer.
const ONCE_MORE: Duration = Duration::from_millis(50);

/// What is known of the kernel's table.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Known {
    /// Nothing: it must be read.
    Nothing,
    /// It is not there.
    Absent,
    /// It holds what was wanted, with the rules of this frame, but for what is in doubt.
    Written(Frame),
}

/// The table of one family.
#[derive(Debug)]
pub struct FamilyTable {
    family: IpFamily,
    known: Known,
    doubts: Doubts,
    /// When to forget once more.
    forget_at: Option<Instant>,
    /// How often verdicts were forgotten because something was taken away.
    losses: u64,
    logging: Logging,
    /// Of a table that is there, but not what is wanted.
    corrections: LastFailure,
}

impl FamilyTable {
    /// A table of which nothing is known.
    pub fn new(family: IpFamily, logging: Logging) -> Self {
        Self {
            family,
            known: Known::Nothing,
            doubts: Doubts::default(),
            forget_at: None,
            losses: 0,
            logging,
            corrections: LastFailure::default(),
        }
    }

    /// What the rules depend on.
    fn frame(&self, model: &Model) -> Frame {
        Frame {
            log: self.logging.is_on(),
            ..model.frame()
        }
    }

    /// The family.
    pub fn family(&self) -> IpFamily {
        self.family
    }

    /// True if the kernel is known to hold the table.
    pub fn is_there(&self) -> bool {
        matches!(self.known, Known::Written(_))
    }

    /// How often verdicts were forgotten because something was taken away.
    pub fn losses(&self) -> u64 {
        self.losses
    }

    /// What the kernel holds is unknown from now on.
    pub fn distrust(&mut self) {
        self.known = Known::Nothing;
    }

    /// Another process changed the table.
    pub fn doubt(&mut self, touched: &Touched) {
        if !self.is_there() || !self.doubts.take_in(touched) {
            self.distrust();
        }
    }

    /// When to sync even if nothing happens. A table that could not be written is tried again after a
    /// pause that others choose, and verdicts are forgotten with the write that works.
    pub fn due(&self) -> Option<Instant> {
        self.forget_at.filter(|_| self.is_there())
    }

    /// Where the kernel differs from what is wanted, one sentence each.
    pub fn differences(&self, kernel: &mut NftSocket, model: Option<&Model>) -> Vec<String> {
        let Some(model) = model else {
            return Vec::new();
        };
        let wanted = table(self.family, &self.frame(model), model.wanted());
        differences::differences(kernel, self.family, &wanted)
    }

    /// No table is wanted. True if one was there.
    pub fn withdraw(&mut self, kernel: &mut NftSocket) -> Result<bool, TableError> {
        self.forget_at = None;
        if self.known == Known::Absent {
            return Ok(false);
        }
        self.known = Known::Nothing;
        let removed = remove(kernel, self.family)?;
        self.known = Known::Absent;
        Ok(removed)
    }

    /// Brings the kernel in line with the model. `delta` is what changed in it since the last sync;
    /// none if it is another model; `now` is not later than the first write.
    pub fn sync(
        &mut self,
        kernel: &mut NftSocket,
        model: &Model,
        delta: Option<&Delta>,
        now: Instant,
    ) -> Result<(), TableError> {
        let frame = self.frame(model);
        let doubts = std::mem::take(&mut self.doubts);
        let known = self.known == Known::Written(frame.clone());
        let done = match delta {
            Some(delta) if known => self.change(kernel, model, delta, &doubts, now),
            _ => Ok(false),
        };
        let done = done.unwrap_or_else(|error| {
            let error = crate::error::chain(&error);
            tracing::debug!(family = self.family.name(), error, "the table is read back");
            // It may have been carried out, and only the answer be lost: then the table is found as it
            // should be, now or later.
            self.forget_once_more();
            false
        });
        match done {
            true => Ok(()),
            false => self.read_back(kernel, model, frame),
        }
    }

    /// The usual case: something changed. False if the whole table must be read.
    fn change(
        &mut self,
        kernel: &mut NftSocket,
        model: &Model,
        delta: &Delta,
        doubts: &Doubts,
        now: Instant,
    ) -> Result<bool, TableError> {
        let mut batch = Batch::new();
        write(&mut batch, self.family, model, delta);
        let loss = takes_away(delta, model);
        // Whatever is written while that is still to be done does it, too: what comes may be the next
        // owner of an address, and no new connection of his may meet what was remembered of the last.
        if loss || self.forget_at.is_some() {
            forget(&mut batch, self.family);
        }
        commit(kernel, self.family, &mut batch)?;
        if self.forget_at.is_some_and(|at| at <= now) {
            self.forget_at = None;
        }
        if loss {
            self.lost();
        }
        if doubts.is_empty() {
            return Ok(true);
        }
        match repair(kernel, self.family, model.wanted(), doubts)? {
            Repair::Right => Ok(true),
            Repair::Done => {
                self.lost();
                Ok(true)
            }
            Repair::Unclear => Ok(false),
        }
    }

    /// Reads the table and writes what differs.
    fn read_back(
        &mut self,
        kernel: &mut NftSocket,
        model: &Model,
        frame: Frame,
    ) -> Result<(), TableError> {
        self.known = Known::Nothing;
        let wanted = table(self.family, &frame, model.wanted());
        match observe(kernel, self.family)? {
            None => create(kernel, self.family, &wanted)?,
            Some(found) => {
                let corrected =
                    correct(kernel, self.family, &found, &wanted, &mut self.corrections);
                match corrected {
                    Ok(false) => {}
                    Ok(true) => self.lost(),
                    // How far it went is not known.
                    Err(_) => self.forget_once_more(),
                }
                corrected?;
            }
        }
        self.known = Known::Written(frame);
        Ok(())
    }

    /// Something was taken away.
    fn lost(&mut self) {
        self.losses += 1;
        self.forget_once_more();
    }

    /// Something was taken away, or may have been, just now: a sync may have begun long ago.
    fn forget_once_more(&mut self) {
        self.forget_at = Some(Instant::now() + ONCE_MORE);
    }
}

/// Writes what differs: first everything that goes, then everything that comes, set by set.
fn write(batch: &mut Batch, family: IpFamily, model: &Model, delta: &Delta) {
    let (mut gone, mut come) = (Vec::new(), Vec::new());
    for (place, before) in delta.iter() {
        let (lookup, at) = key(place);
        let before = before.map(|what| element(place, what));
        let after = model.wanted().get(place);
        let after = after.map(|what| element(place, what));
        if let Some(before) = before {
            gone.push((lookup, at.clone(), before));
        }
        if let Some(after) = after {
            come.push((lookup, at, after));
        }
    }
    let mut table = batch.table(family.into(), TABLE);
    set_by_set(&mut table, family, gone, |elements, key, element| {
        elements.delete(key, element.key_end.as_deref());
    });
    set_by_set(&mut table, family, come, |elements, key, element| {
        elements.add(&element.borrow(key));
    });
}

/// Writes elements in their order; the header of a set is made once for all of its own.
fn set_by_set(
    table: &mut TableWriter<'_>,
    family: IpFamily,
    mut list: Vec<(Lookup, Key, Element)>,
    write: fn(&mut ElementWriter<'_>, &Key, &Element),
) {
    list.sort_unstable_by(|(one, key, _), (other, other_key, _)| {
        (one, key).cmp(&(other, other_key))
    });
    for of_set in list.chunk_by(|(one, ..), (other, ..)| one == other) {
        let lookup = of_set[0].0;
        let name = lookup.name();
        let mut elements = table.elements(&name, &lookup.header(family));
        for (_, key, element) in of_set {
            write(&mut elements, key, element);
        }
    }
}
