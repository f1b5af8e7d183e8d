//! Repairing single elements that another program touched, without reading the rest of the table.

use std::collections::BTreeSet;

use podwire_kernel::IpFamily;
use podwire_kernel::monitor::Touched;
use podwire_kernel::nft::{Batch, Key, NftSocket};

use crate::features::policies::desired::wanted::Wanted;
use crate::features::policies::layout::elements::{element, place};
use crate::features::policies::layout::sets::Lookup;
use crate::features::policies::table::kernel::{TableError, commit, forget};
use crate::ours::POLICY_TABLE as TABLE;

/// After more elements than this before the next sync the whole table is read.
const MOST: usize = 4 * Touched::ELEMENTS_MAX;

/// Elements that may not be as they were written: the set and the key.
#[derive(Debug, Default)]
pub struct Doubts(BTreeSet<(String, Key)>);

impl Doubts {
    /// Takes in a notification; false if it takes more than a look at single elements.
    pub fn take_in(&mut self, touched: &Touched) -> bool {
        let remembered = Lookup::Allowed.name();
        let elements = touched.elements.iter();
        let elements = elements.filter(|(set, _)| *set != remembered);
        self.0.extend(elements.cloned());
        !touched.anything && !touched.rules && self.0.len() <= MOST
    }

    /// True if there is nothing to look at.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What came of a look at what is in doubt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    /// All was as it should be.
    Right,
    /// Something was repaired, and what was remembered is forgotten.
    Done,
    /// The whole table must be read.
    Unclear,
}

/// Asks the kernel for each element that is in doubt, and writes what it should be.
pub fn repair(
    kernel: &mut NftSocket,
    family: IpFamily,
    wanted: &Wanted,
    doubts: &Doubts,
) -> Result<Repair, TableError> {
    let mut batch = Batch::new();
    for (name, key) in &doubts.0 {
        let lookup = Lookup::of_name(name);
        let found = lookup.and_then(|one| Some((one, place(one, key, family)?)));
        let Some((lookup, place)) = found else {
            return Ok(Repair::Unclear);
        };
        let header = lookup.header(family);
        let there = kernel.element(family.into(), TABLE, name, &header, key)?;
        let here = wanted.get(&place).map(|what| element(&place, what));
        let same = match (&there, &here) {
            (Some(there), Some(here)) => there.same_as(here),
            (None, None) => true,
            _ => false,
        };
        if same {
            continue;
        }
        let mut table = batch.table(family.into(), TABLE);
        let mut elements = table.elements(name, &header);
        if there.is_some() {
            elements.delete(key, None);
        }
        if let Some(here) = here {
            elements.add(&here.borrow(key));
        }
    }
    if batch.is_empty() {
        return Ok(Repair::Right);
    }
    forget(&mut batch, family);
    commit(kernel, family, &mut batch)?;
    Ok(Repair::Done)
}
