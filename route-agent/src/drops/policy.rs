//! What policies say of a packet that they dropped, in words. Pure.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::features::policies::desired::explain::{Judgement, Outcome, judge};
use crate::features::policies::desired::truth::{Traffic, Truth, isolating, selecting};
use crate::snapshot::{Direction, PolicyRule, Tier};
use crate::text;

/// More policies than this are counted, and not named.
pub(super) const NAMED: usize = 8;
/// A rule may name thousands of labels; what is kept of it in words, in bytes.
pub(super) const LONGEST: usize = 600;
/// The peers of rules, each with each port, that are looked at for what is dropped at a time. A tenant
/// who writes thousands into a namespace does not keep the loop from its work: what is left is named
/// without its policies.
pub(super) const EFFORT: usize = 10_000;

/// Of which packet something is asked: the direction, the pod whose policies count, the other end.
pub(super) type Case = (Direction, IpAddr, IpAddr, Traffic);

/// Asks the policies about each packet once, and about no more than it has time for.
pub(super) struct Court<'a, 's> {
    truth: &'a Truth<'s>,
    known: HashMap<Case, Words>,
    effort: usize,
}

/// What the policies say, in words.
#[derive(Debug, Clone, Default)]
pub(super) struct Words {
    /// The rule of a ClusterNetworkPolicy that denies it.
    pub denied_by: Option<String>,
    /// The policies that isolate the pod, the first ones.
    pub isolated_by: Vec<String>,
    /// How many more isolate it.
    pub isolated_by_more: usize,
    /// The rule that comes nearest, and what it lacks.
    pub nearest: Option<String>,
    /// The policies allow it by now.
    pub allowed: bool,
}

impl<'a, 's> Court<'a, 's> {
    /// By these policies.
    pub fn of(truth: &'a Truth<'s>) -> Self {
        Self {
            truth,
            known: HashMap::new(),
            effort: EFFORT,
        }
    }

    /// What they say.
    pub fn ask(&mut self, case: Case) -> Words {
        if let Some(words) = self.known.get(&case) {
            return words.clone();
        }
        let (direction, local, peer, traffic) = case;
        let effort = self.effort(direction, local);
        let words = match self.effort.checked_sub(effort) {
            None => Words::default(),
            Some(left) => {
                self.effort = left;
                let judgement = judge(self.truth, direction, local, peer, traffic);
                judgement.map(Words::of).unwrap_or_default()
            }
        };
        self.known.insert(case, words.clone());
        words
    }

    /// How many peers there are to look at, each with each port.
    fn effort(&self, direction: Direction, local: IpAddr) -> usize {
        let Some(pod) = self.truth.pod(local) else {
            return 0;
        };
        let snapshot = self.truth.snapshot();
        let policies = isolating(snapshot, pod, direction);
        let rules = policies.flat_map(|policy| policy.rules(direction).unwrap_or_default());
        let tiers = [Tier::Admin, Tier::Baseline].into_iter();
        let tiers = tiers.flat_map(|tier| selecting(snapshot, pod, tier));
        let tiered = tiers.flat_map(|policy| policy.rules(direction).iter());
        let of_rule = |rule: &PolicyRule| {
            let peers = rule.peers.as_ref().map_or(0, |peers| peers.len());
            let ports = rule.ports.as_ref().map_or(0, |ports| ports.len());
            (1 + peers).saturating_mul(1 + ports)
        };
        let all = rules.chain(tiered.map(|rule| &rule.traffic));
        all.map(of_rule).sum()
    }
}

impl Words {
    fn of(judgement: Judgement<'_>) -> Self {
        let policies = judgement.isolating.iter();
        Self {
            isolated_by: policies
                .take(NAMED)
                .map(|policy| policy.name.to_string())
                .collect(),
            isolated_by_more: judgement.isolating.len().saturating_sub(NAMED),
            allowed: judgement.passes(),
            denied_by: match &judgement.outcome {
                Outcome::Refused(rule) => Some(cut(rule)),
                _ => None,
            },
            nearest: match judgement.outcome {
                Outcome::Denied(nearest) => nearest.map(|nearest| cut(&nearest)),
                _ => None,
            },
        }
    }
}

impl Words {
    /// The policies that decide, by their names.
    pub fn decided_by(&self) -> String {
        if let Some(rule) = &self.denied_by {
            // Names have no blanks: what follows is its tier.
            return rule.split(" (").next().unwrap_or(rule).to_owned();
        }
        match (self.isolated_by.join(", "), self.isolated_by_more) {
            (names, _) if names.is_empty() => "NetworkPolicies".to_owned(),
            (names, 0) => format!("NetworkPolicy {names}"),
            (names, more) => format!("NetworkPolicy {names} and {more} more"),
        }
    }

    /// Why, for a packet in this direction.
    pub fn why(&self, direction: Direction) -> String {
        let denied = format!("denied by {direction}");
        match (&self.denied_by, &self.nearest) {
            (Some(rule), _) => format!("{denied}; {rule}"),
            (None, Some(nearest)) => format!("{denied}; nearest rule: {nearest}"),
            (None, None) if self.allowed => format!("{denied}; the policies allow it by now"),
            (None, None) => denied,
        }
    }
}

fn cut(words: &str) -> String {
    text::cut(words, LONGEST).into_owned()
}
