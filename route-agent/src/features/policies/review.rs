//! What is looked at from time to time: policies that may be mistaken, and what the rules have
//! counted.
//!
//! A policy is named when two looks in a row found the same, so that objects may come in any order;
//! each look takes in a limited number of policies, however many there are.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::{Duration, Instant};

use crate::features::policies::desired::oversights;
use crate::snapshot::{PolicyName, Snapshot};

/// Between two looks.
pub(super) const PAUSE: Duration = Duration::from_secs(15);
/// How many policies are looked at each time.
const AT_ONCE: usize = 500;
/// How much effort that may take before the rest is left for the next time.
const EFFORT: usize = 5 * oversights::EFFORT;

/// The looks so far.
#[derive(Debug, Default)]
pub struct Review {
    /// When to look again.
    due: Option<Instant>,
    /// The last policy that was looked at.
    last: Option<PolicyName>,
    /// What was found, by policy.
    found: BTreeMap<PolicyName, Found>,
}

#[derive(Debug, PartialEq, Eq)]
struct Found {
    texts: Vec<String>,
    /// True if it was found twice.
    sure: bool,
}

impl Review {
    /// When to look again.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// There is nothing to look at any longer; the policies of which nothing is to be said now.
    pub fn stop(&mut self) -> Vec<PolicyName> {
        let found = std::mem::take(self).found.into_iter();
        let said = found.filter(|(_, found)| found.sure);
        said.map(|(name, _)| name).collect()
    }

    /// Looks if it is time to; the policies of which something else is to be said now.
    pub fn look(&mut self, snapshot: &Snapshot, now: Instant) -> Option<Vec<PolicyName>> {
        match self.due {
            Some(due) if due > now => return None,
            Some(_) => {}
            None => {
                // Everything has just been listed.
                self.due = Some(now + PAUSE);
                return None;
            }
        }
        let start = Instant::now();
        let mut changed: Vec<PolicyName> = Vec::new();
        self.found.retain(|name, _| {
            let there = match name {
                PolicyName::Namespaced(name) => snapshot.policies.contains_key(name),
                PolicyName::Cluster(name) => snapshot.cluster_policies.contains_key(name),
            };
            changed.extend((!there).then(|| name.clone()));
            there
        });
        let (mut number, mut effort) = (0, 0);
        for (name, texts, spent) in self.rest(snapshot) {
            number += 1;
            effort += spent;
            let enough = number == AT_ONCE || effort >= EFFORT;
            self.last = enough.then(|| name.clone());
            if self.note(&name, texts) {
                changed.push(name);
            }
            if enough {
                break;
            }
        }
        // However long that took, the loop has as long for all else.
        self.due = Some(now + start.elapsed() + PAUSE);
        Some(changed)
    }

    /// What has not been looked at in this round: ClusterNetworkPolicies come first.
    fn rest<'a>(
        &mut self,
        snapshot: &'a Snapshot,
    ) -> impl Iterator<Item = (PolicyName, Vec<String>, usize)> + use<'a> {
        let (cluster, namespaced) = match self.last.take() {
            None => (Some(Bound::Unbounded), Bound::Unbounded),
            Some(PolicyName::Cluster(name)) => (Some(Bound::Excluded(name)), Bound::Unbounded),
            Some(PolicyName::Namespaced(name)) => (None, Bound::Excluded(name)),
        };
        let cluster = cluster.into_iter().flat_map(|start| {
            let rest = snapshot.cluster_policies.range((start, Bound::Unbounded));
            rest.map(|(name, policy)| {
                let mut left = oversights::EFFORT;
                let texts = oversights::of_cluster(policy, snapshot, &mut left);
                let spent = oversights::EFFORT - left;
                (PolicyName::Cluster(name.clone()), texts, spent)
            })
        });
        let rest = snapshot.policies.range((namespaced, Bound::Unbounded));
        let namespaced = rest.map(|(name, policy)| {
            let mut left = oversights::EFFORT;
            let texts = oversights::of(policy, snapshot, &mut left);
            let spent = oversights::EFFORT - left;
            (PolicyName::Namespaced(name.clone()), texts, spent)
        });
        cluster.chain(namespaced)
    }

    /// True if something else is to be said of a policy than before.
    fn note(&mut self, name: &PolicyName, texts: Vec<String>) -> bool {
        let before = self.found.remove(name);
        let said = before.as_ref().is_some_and(|found| found.sure);
        if texts.is_empty() {
            return said;
        }
        let same = before.is_some_and(|before| before.texts == texts);
        self.found.insert(name.clone(), Found { texts, sure: same });
        same != said
    }

    /// What is to be said of a policy.
    pub fn of(&self, name: &PolicyName) -> &[String] {
        let found = self.found.get(name).filter(|found| found.sure);
        found.map_or(&[], |found| &found.texts)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::features::policies::desired::samples::{Cluster, name, namespace, pod, policy};

    fn shop_p() -> PolicyName {
        PolicyName::Namespaced(name("shop/p"))
    }

    #[test]
    fn what_is_found_twice_is_said_until_it_is_right() {
        let lost = json!({"podSelector": {"matchLabels": {"a": "b"}}});
        let mut cluster = Cluster::of(&[namespace("shop", ""), policy("shop/p", &lost)]);
        let (mut review, start) = (Review::default(), Instant::now());
        let mut looks = (1..).map(|number| start + 2 * PAUSE * number);
        let mut look = |review: &mut Review, cluster: &Cluster| {
            review
                .look(&cluster.snapshot, looks.next().unwrap())
                .unwrap()
        };
        assert_eq!(review.look(&cluster.snapshot, start), None);
        assert_eq!(review.look(&cluster.snapshot, start + PAUSE / 2), None);
        assert_eq!(look(&mut review, &cluster), []);
        assert_eq!(review.of(&shop_p()), [""; 0]);
        assert_eq!(look(&mut review, &cluster), [shop_p()]);
        assert_eq!(
            review.of(&shop_p()),
            ["it selects nothing: no pod in its namespace has a=b"]
        );
        assert_eq!(look(&mut review, &cluster), []);
        cluster.set(&[pod("shop/web", "worker", 2, "a=b")]);
        assert_eq!(look(&mut review, &cluster), [shop_p()]);
        assert_eq!(review.of(&shop_p()), [""; 0]);
    }
    #[test]
    fn what_was_said_is_taken_back_when_there_is_nothing_to_look_at_any_longer() {
        let lost = json!({"podSelector": {"matchLabels": {"a": "b"}}});
        let cluster = Cluster::of(&[namespace("shop", ""), policy("shop/p", &lost)]);
        let (mut review, start) = (Review::default(), Instant::now());
        for number in 0..3 {
            assert_eq!(review.stop(), [], "nothing was said");
            for look in 0..2 {
                review.look(&cluster.snapshot, start + PAUSE * (10 * number + 2 * look));
            }
        }
        review.look(&cluster.snapshot, start + PAUSE * 100);
        assert_eq!(review.of(&shop_p()).len(), 1);
        assert_eq!(review.stop(), [shop_p()]);
        assert_eq!(review.of(&shop_p()), [""; 0]);
    }
}
