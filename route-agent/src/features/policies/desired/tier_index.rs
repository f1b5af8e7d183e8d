//! The rules of a tier by whom they are about: one class among thousands meets few of thousands of rules.

use std::collections::{BTreeSet, HashMap};

use crate::features::policies::desired::atoms::AtomId;
use crate::features::policies::desired::classes::ClassKey;
use crate::features::policies::desired::compile::{Compiled, CompiledRule};
use crate::features::policies::desired::looks::look;
use crate::snapshot::Direction;

/// A rule, and whose it is.
type Rule<'a> = (&'a Compiled, &'a CompiledRule);

/// The rules of a tier in one direction.
#[derive(Default)]
pub struct TierIndex<'a> {
    /// In the order in which they count.
    rules: Vec<Rule<'a>>,
    /// The places of those that are about everyone.
    of_all: Vec<usize>,
    /// The places of those that ask a question.
    asking: HashMap<AtomId, Vec<usize>>,
}

impl<'a> TierIndex<'a> {
    /// Of policies in the order in which they count.
    pub fn of(tier: &[&'a Compiled], direction: Direction) -> Self {
        let mut index = Self::default();
        for policy in tier.iter().copied() {
            for rule in policy.rules(direction).unwrap_or_default() {
                let place = index.rules.len();
                index.rules.push((policy, rule));
                match &rule.peers {
                    None => index.of_all.push(place),
                    Some(atoms) => {
                        for atom in atoms {
                            index.asking.entry(*atom).or_default().push(place);
                        }
                    }
                }
            }
        }
        index
    }

    /// Those that a class meets, in the order in which they count; those about everyone without a class.
    pub fn met(&self, key: Option<&ClassKey>) -> impl Iterator<Item = Rule<'a>> {
        let mut places: BTreeSet<usize> = self.of_all.iter().copied().collect();
        for atom in key.into_iter().flat_map(|key| key.atoms.iter()) {
            look();
            places.extend(self.asking.get(&atom).into_iter().flatten());
        }
        places.into_iter().map(|place| self.rules[place])
    }
}
