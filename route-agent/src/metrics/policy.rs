//! The metrics of NetworkPolicies.

use std::sync::atomic::Ordering;

use podwire_kernel::IpFamily;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::metrics::{FamilyLabel, Group, gauge};

/// What is counted of policies. Clones share their values.
#[derive(Debug, Clone)]
pub struct PolicyMetrics {
    here: Gauge,
    isolated: Gauge,
    classes: Family<FamilyLabel, Gauge>,
    elements: Family<FamilyLabel, Gauge>,
    losses: Family<FamilyLabel, Counter>,
}

impl PolicyMetrics {
    #[rustfmt::skip]
    pub(super) fn register(group: &mut Group<'_>) -> Self {
        Self {
            here: group.add("here", "NetworkPolicies that select a pod of this node",
                Gauge::default()),
            isolated: group.add("isolated_pods",
                "Pods of this node that NetworkPolicies isolate in some direction",
                Gauge::default()),
            classes: group.add("classes",
                "Kinds of peers that the policies of this node tell from each other",
                Family::default()),
            elements: group.add("elements", "Elements that policies have in nftables",
                Family::default()),
            losses: group.add("revocations",
                "Times that a change took something away, and all connections were judged again",
                Family::default()),
        }
    }

    /// Sets how many policies select a pod of this node, and how many pods are isolated.
    pub fn set_node(&self, here: usize, isolated: usize) {
        self.here.set(gauge(here));
        self.isolated.set(gauge(isolated));
    }

    /// Sets how large the table of a family is.
    pub fn set_table(&self, family: IpFamily, classes: usize, elements: usize) {
        let label = FamilyLabel::new(family);
        self.classes.get_or_create(&label).set(gauge(classes));
        self.elements.get_or_create(&label).set(gauge(elements));
    }

    /// How often something was taken away since the start.
    pub fn set_losses(&self, family: IpFamily, losses: u64) {
        let counter = self.losses.get_or_create(&FamilyLabel::new(family));
        counter.inner().store(losses, Ordering::Relaxed);
    }
}
