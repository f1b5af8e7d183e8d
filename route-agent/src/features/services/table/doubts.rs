//! What another process touched since the table was last known to be right.

use std::collections::BTreeSet;

use podwire_kernel::monitor::Touched;
use podwire_kernel::nft;

/// After more elements than this before the next sync the whole table is read.
const MOST: usize = 4 * Touched::ELEMENTS_MAX;

/// What may not be as it was written.
#[derive(Debug, Default)]
pub struct Doubts {
    /// Some rules.
    pub rules: bool,
    /// Elements: the name of the set and the key.
    pub elements: BTreeSet<(String, nft::Key)>,
}

impl Doubts {
    /// Takes in a notification; false if it takes more than a look at single things.
    pub fn take_in(&mut self, touched: &Touched) -> bool {
        self.rules |= touched.rules;
        self.elements.extend(touched.elements.iter().cloned());
        !touched.anything && self.elements.len() <= MOST
    }

    /// True if there is nothing to look at.
    pub fn is_empty(&self) -> bool {
        !self.rules && self.elements.is_empty()
    }
}
