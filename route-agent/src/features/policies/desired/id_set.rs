//! A set of small numbers that were given out one after the other.
//!
//! Whoever writes policies can make thousands of sets of thousands of questions each: 64 numbers beside
//! each other take as much room here as 4 in a list.

use std::iter::successors;

/// A set of numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdSet(
    /// Sorted; none is empty. The first is the number of the bits of the second, by 64.
    Vec<(u32, u64)>,
);

impl IdSet {
    /// True if the number is one of them.
    pub fn contains(&self, id: u32) -> bool {
        let at = self.place(id);
        at.is_ok_and(|at| self.0[at].1 & bit(id) != 0)
    }

    /// Adds a number.
    pub fn insert(&mut self, id: u32) {
        match self.place(id) {
            Ok(at) => self.0[at].1 |= bit(id),
            Err(at) => self.0.insert(at, (id / 64, bit(id))),
        }
    }

    /// Adds all numbers of another set.
    pub fn unite(&mut self, other: &Self) {
        for (word, bits) in &other.0 {
            match self.0.binary_search_by_key(word, |(word, _)| *word) {
                Ok(at) => self.0[at].1 |= bits,
                Err(at) => self.0.insert(at, (*word, *bits)),
            }
        }
    }

    /// Takes a number away.
    pub fn remove(&mut self, id: u32) {
        if let Ok(at) = self.place(id) {
            self.0[at].1 &= !bit(id);
            if self.0[at].1 == 0 {
                self.0.remove(at);
            }
        }
    }

    /// The numbers, sorted.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        let words = self.0.iter();
        words.flat_map(|(word, bits)| {
            // The lowest bit goes at each step.
            let left = successors(Some(*bits), |left| Some(left & left.wrapping_sub(1)));
            let left = left.take_while(|left| *left != 0);
            left.map(move |left| word * 64 + left.trailing_zeros())
        })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0
            .iter()
            .map(|(_, bits)| bits.count_ones() as usize)
            .sum()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How much room it takes, in words of 16 bytes; known without counting, and no more than its numbers.
    pub fn words(&self) -> usize {
        self.0.len()
    }

    fn place(&self, id: u32) -> Result<usize, usize> {
        self.0.binary_search_by_key(&(id / 64), |(word, _)| *word)
    }
}

const fn bit(id: u32) -> u64 {
    1 << (id % 64)
}

impl Extend<u32> for IdSet {
    fn extend<I: IntoIterator<Item = u32>>(&mut self, ids: I) {
        for id in ids {
            self.insert(id);
        }
    }
}

impl FromIterator<u32> for IdSet {
    fn from_iter<I: IntoIterator<Item = u32>>(ids: I) -> Self {
        let mut set = Self::default();
        set.extend(ids);
        set
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_set(changes in prop::collection::vec((0_u32..300, any::<bool>()), 0..200)) {
            let (mut set, mut plain) = (IdSet::default(), BTreeSet::new());
            for (id, comes) in changes {
                match comes {
                    true => _ = (set.insert(id), plain.insert(id)),
                    false => _ = (set.remove(id), plain.remove(&id)),
                }
                prop_assert_eq!(set.contains(id), comes);
            }
            prop_assert_eq!(set.iter().collect::<Vec<_>>(), plain.iter().copied().collect::<Vec<_>>());
            let other: IdSet = (0..300).step_by(7).collect();
            let mut both = set.clone();
            both.unite(&other);
            prop_assert_eq!(both, plain.iter().copied().chain(other.iter()).collect());
            prop_assert_eq!((set.len(), set.is_empty()), (plain.len(), plain.is_empty()));
            prop_assert_eq!(plain.into_iter().collect::<IdSet>(), set);
        }
    }
}
