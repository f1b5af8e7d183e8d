//! Is the agent alive, and should this node get traffic? What `/livez` and `/healthz` answer.
//!
//! In: the loop says when a change was queued and when it was carried out, per IP family, and
//! whether the node may get traffic. Out: a verdict and its JSON, as kube-proxy gives them: load
//! balancers and kubelets read both. A change that waits longer than the time-out makes the agent
//! unhealthy, also before it has ever carried one out.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use podwire_kernel::IpFamily;
use serde::Serialize;

use crate::clock::{Moment, rfc3339};
use crate::snapshot::Node;

/// The cluster autoscaler taints a node with this before it takes the node away.
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// What is known about the agent's health.
#[derive(Debug, Clone)]
pub struct Health {
    time_out: Duration,
    node_eligible: bool,
    families: [FamilyHealth; 2],
}

/// One IP family's part.
#[derive(Debug, Clone, Copy, Default)]
struct FamilyHealth {
    /// When the oldest change came that is not carried out yet.
    waiting: Option<Instant>,
    updated: Option<Moment>,
}

/// What an HTTP request about health is answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// True for status 200, false for 503.
    pub good: bool,
    /// The body.
    pub json: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HealthBody {
    last_updated: String,
    current_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
    healthy: bool,
    status: std::collections::BTreeMap<IpFamily, FamilyBody>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FamilyBody {
    last_updated: String,
    healthy: bool,
}

impl Health {
    /// The health of an agent that has just started: good until proven otherwise.
    pub fn new(time_out: Duration) -> Self {
        Self {
            time_out,
            node_eligible: true,
            families: [FamilyHealth::default(); 2],
        }
    }

    /// A change of this family has arrived.
    pub fn queued(&mut self, family: IpFamily, now: Moment) {
        let state = &mut self.families[family as usize];
        state.waiting = state.waiting.or(Some(now.steady));
    }

    /// All changes of this family that have arrived are carried out.
    pub fn updated(&mut self, family: IpFamily, now: Moment) {
        self.families[family as usize] = FamilyHealth {
            waiting: None,
            updated: Some(now),
        };
    }

    /// Notes the node's own object: a node that is gone, going or about to be taken away must get
    /// no new traffic from load balancers.
    pub fn set_node(&mut self, node: Option<&Node>) {
        self.node_eligible = node.is_some_and(|node| {
            !node.deleting && !node.taints.iter().any(|taint| &**taint == TO_BE_DELETED)
        });
    }

    /// False if a change waits too long, whatever the node's state.
    pub fn is_healthy(&self, now: Moment) -> bool {
        IpFamily::ALL
            .into_iter()
            .all(|family| self.in_time(family, now))
    }

    /// What `/livez` answers: about the agent alone.
    pub fn livez(&self, now: Moment) -> Verdict {
        self.verdict(None, now)
    }

    /// What `/healthz` answers: may load balancers send traffic to this node?
    pub fn healthz(&self, now: Moment) -> Verdict {
        self.verdict(Some(self.node_eligible), now)
    }

    fn in_time(&self, family: IpFamily, now: Moment) -> bool {
        self.families[family as usize]
            .waiting
            .is_none_or(|since| now.steady.saturating_duration_since(since) < self.time_out)
    }

    fn verdict(&self, node_eligible: Option<bool>, now: Moment) -> Verdict {
        let good = self.is_healthy(now) && node_eligible.unwrap_or(true);
        let updates = || {
            IpFamily::ALL.into_iter().filter_map(|family| {
                let updated = self.families[family as usize].updated?;
                Some((family, updated.wall))
            })
        };
        let newest = updates().map(|(_, wall)| wall).max();
        let body = HealthBody {
            // A healthy proxy names the current time: readers take an old one for a stuck proxy.
            last_updated: match newest {
                _ if good => rfc3339(now.wall),
                Some(wall) => rfc3339(wall),
                None => rfc3339(std::time::UNIX_EPOCH),
            },
            current_time: rfc3339(now.wall),
            node_eligible,
            healthy: good,
            status: updates()
                .map(|(family, wall)| {
                    let body = FamilyBody {
                        last_updated: rfc3339(wall),
                        healthy: self.in_time(family, now),
                    };
                    (family, body)
                })
                .collect(),
        };
        Verdict {
            good,
            json: serde_json::to_string(&body).unwrap_or_default(),
        }
    }
}

/// The health that the loop writes and the HTTP server reads.
#[derive(Debug, Clone)]
pub struct SharedHealth(Arc<Mutex<Health>>);

impl SharedHealth {
    /// Makes a health value that two threads can use.
    pub fn new(health: Health) -> Self {
        Self(Arc::new(Mutex::new(health)))
    }

    /// Looks at the value or changes it. A thread that panicked meanwhile changes nothing: every
    /// change is one assignment.
    pub fn with<T>(&self, look: impl FnOnce(&mut Health) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn start() -> (Health, Moment) {
        (Health::new(60 * SECOND), Moment::now())
    }

    fn node(taints: &[&str], deleting: bool) -> Node {
        Node {
            name: Arc::from("worker"),
            internal_ips: Vec::new(),
            other_ips: Vec::new(),
            all_labels: crate::snapshot::Labels::none(),
            pod_cidrs: Vec::new(),
            labels: BTreeMap::new(),
            taints: taints.iter().map(|taint| Arc::from(*taint)).collect(),
            created: None,
            deleting,
            invalid: Vec::new(),
        }
    }

    #[test]
    fn an_agent_that_starts_is_healthy() {
        let (health, now) = start();
        assert!(health.healthz(now).good && health.livez(now).good);
    }

    #[test]
    fn a_change_that_waits_too_long_makes_both_answers_bad_until_it_is_carried_out() {
        let (mut health, now) = start();
        health.queued(IpFamily::V4, now);
        // A second change does not extend the time of the first.
        health.queued(IpFamily::V4, now.after(59 * SECOND));
        assert!(health.livez(now.after(59 * SECOND)).good);
        assert!(!health.livez(now.after(60 * SECOND)).good);
        assert!(!health.healthz(now.after(60 * SECOND)).good);
        health.updated(IpFamily::V4, now.after(61 * SECOND));
        assert!(health.livez(now.after(1000 * SECOND)).good);
    }

    #[test]
    fn one_late_family_is_enough() {
        let (mut health, now) = start();
        health.updated(IpFamily::V4, now);
        health.queued(IpFamily::V6, now);
        let late = now.after(70 * SECOND);
        health.updated(IpFamily::V4, late);
        assert!(!health.is_healthy(late));
        let body: serde_json::Value = serde_json::from_str(&health.livez(late).json).unwrap();
        assert_eq!(body["healthy"], false);
        assert_eq!(body["status"]["IPv4"]["healthy"], true);
        health.updated(IpFamily::V6, late);
        assert!(health.is_healthy(late));
    }

    #[test]
    fn a_node_that_goes_is_not_eligible_but_the_agent_lives() {
        let (mut health, now) = start();
        for (bad, object) in [
            (false, Some(node(&["other"], false))),
            (true, Some(node(&["a", TO_BE_DELETED], false))),
            (true, Some(node(&[], true))),
            (true, None),
        ] {
            health.set_node(object.as_ref());
            assert_eq!(health.healthz(now).good, !bad, "{object:?}");
            assert!(health.livez(now).good);
            assert!(health.is_healthy(now));
        }
    }

    #[test]
    fn the_bodies_have_the_fields_that_readers_know() {
        let (mut health, now) = start();
        health.updated(IpFamily::V6, now);
        let healthz: serde_json::Value = serde_json::from_str(&health.healthz(now).json).unwrap();
        let time = rfc3339(now.wall);
        assert_eq!(
            healthz,
            serde_json::json!({
                "lastUpdated": time, "currentTime": time, "nodeEligible": true, "healthy": true,
                "status": {"IPv6": {"lastUpdated": time, "healthy": true}},
            })
        );
        let livez: serde_json::Value = serde_json::from_str(&health.livez(now).json).unwrap();
        assert!(livez.get("nodeEligible").is_none());
        // An unhealthy agent names its last success.
        health.queued(IpFamily::V6, now);
        let later = now.after(100 * SECOND);
        let body: serde_json::Value = serde_json::from_str(&health.livez(later).json).unwrap();
        assert_eq!(body["lastUpdated"], time);
        assert_eq!(body["currentTime"], rfc3339(later.wall));
    }
}
