//! What is looked at from time to time: policies that may be mistaken, and what the rules have
//! counted.
//!
//! A policy is named when two looks in a row found the same, so that objects may come in any order;
//! each look takes in a limited number of policies, however many there are.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::{Duration, Instant};

use crate::features::policies::desired::oversights;
use crate::snapshot::{ObjectName, Snapshot};

/// Between two looks.
pub(super) const PAUSE: Duration = Duration::from_secs(15);
/// How many policies are looked at each time.
const AT_ONCE: usize = 500;

/// The looks so far.
#[derive(Debug, Default)]
pub struct Review {
    /// When to look again.
    due: Option<Instant>,
    /// The last policy that was looked at.
    last: Option<ObjectName>,
    /// What was found, by policy.
    found: BTreeMap<ObjectName, Found>,
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

    /// There is nothing to look at any longer.
    pub fn stop(&mut self) {
        *self = Self::default();
    }

    /// Looks if it is time to; the policies of which something else is to be said now.
    pub fn look(&mut self, snapshot: &Snapshot, now: Instant) -> Option<Vec<ObjectName>> {
        match self.due {
            Some(due) if due > now => return None,
            Some(_) => {}
            None => {
                // Everything has just been listed.
                self.due = Some(now + PAUSE);
                return None;
            }
        }
        self.due = Some(now + PAUSE);
        let mut changed: Vec<ObjectName> = Vec::new();
        self.found.retain(|name, _| {
            let there = snapshot.policies.contains_key(name);
            changed.extend((!there).then(|| name.clone()));
            there
        });
        let start = self.last.take().map_or(Bound::Unbounded, Bound::Excluded);
        let rest = snapshot.policies.range((start, Bound::Unbounded));
        let mut number = 0;
        for (name, policy) in rest.take(AT_ONCE) {
            number += 1;
            self.last = Some(name.clone());
            if self.note(name, oversights::of(policy, snapshot)) {
                changed.push(name.clone());
            }
        }
        if number < AT_ONCE {
            self.last = None;
        }
        Some(changed)
    }

    /// True if something else is to be said of a policy than before.
    fn note(&mut self, name: &ObjectName, texts: Vec<String>) -> bool {
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
    pub fn of(&self, name: &ObjectName) -> &[String] {
        let found = self.found.get(name).filter(|found| found.sure);
        found.map_or(&[], |found| &found.texts)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::features::policies::desired::samples::{Cluster, name, namespace, pod, policy};

    #[test]
    fn what_is_found_twice_is_said_until_it_is_right() {
        let lost = json!({"podSelector": {"matchLabels": {"a": "b"}}});
        let mut cluster = Cluster::of(&[namespace("shop", ""), policy("shop/p", &lost)]);
        let (mut review, start) = (Review::default(), Instant::now());
        let mut looks = (1..).map(|number| start + PAUSE * number);
        let mut look = |review: &mut Review, cluster: &Cluster| {
            review
                .look(&cluster.snapshot, looks.next().unwrap())
                .unwrap()
        };
        assert_eq!(review.look(&cluster.snapshot, start), None);
        assert_eq!(review.look(&cluster.snapshot, start + PAUSE / 2), None);
        assert_eq!(look(&mut review, &cluster), []);
        assert_eq!(review.of(&name("shop/p")), [""; 0]);
        assert_eq!(look(&mut review, &cluster), [name("shop/p")]);
        assert_eq!(
            review.of(&name("shop/p")),
            ["it selects nothing: no pod in its namespace has a=b"]
        );
        assert_eq!(look(&mut review, &cluster), []);
        cluster.set(&[pod("shop/web", "worker", 2, "a=b")]);
        assert_eq!(look(&mut review, &cluster), [name("shop/p")]);
        assert_eq!(review.of(&name("shop/p")), [""; 0]);
    }
}
