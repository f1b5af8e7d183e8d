//! How much a model holds, for tests of what who writes policies can make of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Model;
use crate::features::policies::desired::wanted::{Note, Place};

/// How much a model holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Classes of peers.
    pub classes: usize,
    /// What is said of a class and a local pod.
    pub cells: usize,
    /// Ranges of addresses.
    pub ranges: usize,
    /// Numbers of questions, in all ranges together.
    pub ids: usize,
    /// The same numbers as they are kept, and those of classes by question, in words of 16 bytes.
    pub words: usize,
    /// Bytes of notes, of which many may share one.
    pub notes: usize,
    /// Named ports that are asked, of all questions together.
    pub asked_ports: usize,
}

impl Model {
    /// How much it holds.
    pub fn sizes(&self) -> Sizes {
        let cells = self.wanted.iter();
        let cells = cells.filter(|(place, _)| matches!(place, Place::Cell(_)));
        let mut seen = BTreeSet::new();
        let ranges = self.ranges.values();
        let shared = ranges.filter(|range| seen.insert(Arc::as_ptr(&range.atoms)));
        let words: usize = shared.map(|range| range.atoms.words()).sum();
        Sizes {
            classes: self.classes.len(),
            cells: cells.count(),
            ranges: self.ranges.len(),
            ids: self.ranges.values().map(|range| range.atoms.len()).sum(),
            words: words + self.classes.words(),
            notes: self.bytes_of_notes(),
            asked_ports: self.atoms.asked_ports(),
        }
    }

    fn bytes_of_notes(&self) -> usize {
        let mut seen = BTreeSet::new();
        let notes = self.wanted.iter().filter_map(|(_, what)| match &what.note {
            Note::Text(text) => seen.insert(Arc::as_ptr(text)).then(|| text.len()),
            Note::Pod(_) => None,
        });
        notes.sum()
    }
}
