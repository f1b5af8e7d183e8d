//! Calls of the plugin that wait for an answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use podwire::policy::{Answer, News};

use crate::feature::{Told, World};
use crate::features::policies::desired::attachments::{Attachments, is_secondary};

/// How long the API server may take to tell of a Pod of which kubelet knows already. The plugin waits
/// a second longer.
const PATIENCE: Duration = Duration::from_secs(2);

/// A call that waits.
#[derive(Debug)]
struct Call {
    told: Told,
    until: Instant,
}

/// All calls that wait.
#[derive(Debug, Default)]
pub struct Waiting(Vec<Call>);

impl Waiting {
    /// One more.
    pub fn add(&mut self, told: Told) {
        self.0.push(Call {
            told,
            until: Instant::now() + PATIENCE,
        });
    }

    /// When the first has waited long enough.
    pub fn due(&self) -> Option<Instant> {
        self.0.iter().map(|call| call.until).min()
    }

    /// Answers all.
    pub fn answer_all(&mut self, answer: &Answer) {
        for call in self.0.drain(..) {
            call.told.answer(answer.clone());
        }
    }

    /// Answers those whose pod is known, and those that have waited long enough: what is decided now
    /// is in the kernel.
    pub fn answer(&mut self, world: &World<'_>, attachments: &Attachments, now: Instant) {
        self.0.retain(|call| {
            let answer = answer(&call.told, world, attachments, call.until <= now);
            let waits = answer.is_none();
            if let Some(answer) = answer {
                call.told.answer(answer);
            }
            waits
        });
    }
}

/// The answer to a call; none if it is to wait.
fn answer(
    told: &Told,
    world: &World<'_>,
    attachments: &Attachments,
    is_late: bool,
) -> Option<Answer> {
    let attachment = &told.attachment;
    let Some(pod) = &attachment.pod else {
        return Some(Answer::Done);
    };
    let snapshot = world.snapshot;
    let is_known = attachments
        .pod_of(attachment, snapshot, world.own_name())
        .is_some();
    if told.news == News::Went || is_secondary(attachment) {
        return Some(Answer::Done);
    }
    let namespace = &Arc::from(pod.namespace.as_str());
    // Whom ClusterNetworkPolicies select depends on the labels of its Namespace.
    let matters = !snapshot.cluster_policies.is_empty();
    let waits = matters && !snapshot.namespaces.contains_key(namespace);
    match (is_known, waits) {
        (true, false) => Some(Answer::Done),
        // Manifests may be without it; an API server tells of it in a moment.
        (true, true) if world.config.manifests.is_some() => is_late.then_some(Answer::Done),
        (true, true) => is_late.then_some(Answer::Unknown),
        (false, _) => is_late.then(|| match snapshot.may_isolate(namespace) {
            // It is open, as nothing can isolate it.
            false => Answer::Done,
            true => Answer::Unknown,
        }),
    }
}
