//! What the rules are made for: ranges of ports, denials, pods outside the podCIDRs.
//!
//! Other rules mean that the whole table is read back and what was judged is forgotten, so they must
//! not follow every pod that comes and goes. They are made for what policies about pods here may come
//! to say, whether there are peers or not; and they stay until a policy that ranges or denials come from
//! changes, whether there are pods or not. A set that lies empty costs a new connection one lookup.

use std::collections::{BTreeMap, BTreeSet};

use crate::features::policies::desired::compile::Compiled;
use crate::features::policies::desired::frame::{Frame, RangeLookup};
use crate::features::policies::desired::wanted::{Cell, Ports, Verdict};
use crate::snapshot::PolicyName;

/// So many ranges that no one asks for any longer may stay, and as many as are asked for.
const SPARE: usize = 64;

/// What is asked for, and what the rules are made for.
#[derive(Debug, Default)]
pub struct RuleParts {
    /// How many cells and policies ask for a range.
    ranges: BTreeMap<RangeLookup, usize>,
    /// How many cells and rules of policies deny.
    denials: usize,
    /// How many addresses outside the podCIDRs are not open.
    outside: usize,
    /// The policies because of which the rules may be as they are.
    sources: BTreeSet<PolicyName>,
    kept: Kept,
}

/// What the rules are made for.
#[derive(Debug, Default)]
struct Kept {
    ranges: BTreeSet<RangeLookup>,
    denies: bool,
    outside: bool,
}

impl RuleParts {
    /// What the rules are made for is written into their frame.
    pub fn fill(&self, frame: &mut Frame) {
        frame.ranges.clone_from(&self.kept.ranges);
        (frame.denies, frame.outside) = (self.kept.denies, self.kept.outside);
    }

    /// A policy is about pods here from now on.
    pub fn add_policy(&mut self, policy: &Compiled) {
        for range in policy.ranges() {
            self.add_range(range);
        }
        self.denials += policy.denials();
        if policy.denials() > 0 || policy.ranges().next().is_some() {
            self.sources.insert(policy.name.clone());
        }
        self.keep();
    }

    /// A policy is about pods here no longer, or says something else.
    pub fn remove_policy(&mut self, policy: &Compiled) {
        for range in policy.ranges() {
            self.remove_range(range);
        }
        self.denials -= policy.denials();
    }

    /// A cell comes.
    pub fn add_cell(&mut self, cell: &Cell) {
        if let Some(range) = range_of(cell) {
            self.add_range(range);
        }
        self.denials += usize::from(cell.verdict == Verdict::Deny);
        self.keep();
    }

    /// A cell goes.
    pub fn remove_cell(&mut self, cell: &Cell) {
        if let Some(range) = range_of(cell) {
            self.remove_range(range);
        }
        self.denials -= usize::from(cell.verdict == Verdict::Deny);
    }

    /// An address outside the podCIDRs comes that is not open.
    pub fn add_outside(&mut self) {
        self.outside += 1;
        self.keep();
    }

    /// Such an address goes.
    pub fn remove_outside(&mut self) {
        self.outside -= 1;
    }

    /// True if the rules may be as they are because of one of these policies.
    pub fn follow_any(&self, policies: &BTreeSet<PolicyName>) -> bool {
        policies.iter().any(|name| self.sources.contains(name))
    }

    /// A change was taken in. If it `concerns` the rules ([`Self::follow_any`] of the policies that it
    /// changed, before it was taken in), they are made for what is asked for now, and that is because
    /// of those in `compiled`. Any policy `may_close` an address outside the podCIDRs, or cease to.
    pub fn settle(
        &mut self,
        concerns: bool,
        may_close: bool,
        compiled: &BTreeMap<PolicyName, Compiled>,
    ) {
        self.kept.outside &= self.outside > 0 || !may_close;
        // Where policies cut each other's ranges, pods with other labels make other ranges.
        if !concerns && self.kept.ranges.len() <= 2 * self.ranges.len() + SPARE {
            return;
        }
        let sources = std::mem::take(&mut self.sources).into_iter();
        self.sources = sources.filter(|name| compiled.contains_key(name)).collect();
        self.kept = Kept {
            ranges: self.ranges.keys().copied().collect(),
            ..Kept::default()
        };
        self.keep();
    }

    fn keep(&mut self) {
        self.kept.denies |= self.denials > 0;
        self.kept.outside |= self.outside > 0;
    }

    fn add_range(&mut self, range: RangeLookup) {
        *self.ranges.entry(range).or_insert(0) += 1;
        self.kept.ranges.insert(range);
    }

    fn remove_range(&mut self, range: RangeLookup) {
        if let Some(count) = self.ranges.get_mut(&range) {
            *count -= 1;
            if *count == 0 {
                self.ranges.remove(&range);
            }
        }
    }
}

fn range_of(cell: &Cell) -> Option<RangeLookup> {
    match cell.ports {
        Ports::Range(_, range) => Some((cell.direction, cell.verdict, range)),
        Ports::One(..) | Ports::All(_) | Ports::Any => None,
    }
}
