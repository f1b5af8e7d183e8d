//! The metrics of NetworkPolicies.

use std::sync::atomic::Ordering;
use std::time::Duration;

use podwire_kernel::IpFamily;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

use crate::metrics::{FamilyLabel, Group, gauge};
use crate::report::DeniedReport;

/// What is counted of policies. Clones share their values.
#[derive(Debug, Clone)]
pub struct PolicyMetrics {
    here: Gauge,
    isolated: Gauge,
    classes: Family<FamilyLabel, Gauge>,
    elements: Family<FamilyLabel, Gauge>,
    losses: Family<FamilyLabel, Counter>,
    denied: Family<WayLabel, Counter>,
    lost: Counter,
    programming: Histogram,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WayLabel {
    direction: &'static str,
}

/// 100 us to 6.5 s.
fn programming_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.0001, 2.0, 17))
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
            denied: group.add("denied_packets",
                "Packets that policies dropped, looked at every 15 s; begins again with the rules",
                Family::default()),
            lost: group.add("drops_lost",
                "Dropped packets that were logged and could not be read, at least",
                Counter::default()),
            programming: group.add("programming_duration_seconds",
                "Time from the arrival of a change of Pods, Namespaces, policies or attachments until the kernel had what follows",
                programming_histogram()),
        }
    }

    /// Sets how many policies select a pod of this node, and how many pods are isolated.
    pub fn set_node(&self, here: usize, isolated: usize) {
        self.here.set(gauge(here));
        self.isolated.set(gauge(isolated));
    }

    /// What followed from a change is in the kernel, after this time.
    pub fn programmed(&self, took: Duration) {
        self.programming.observe(took.as_secs_f64());
    }

    /// Sets how large the table of a family is.
    pub fn set_table(&self, family: IpFamily, classes: usize, elements: usize) {
        let label = FamilyLabel::new(family);
        self.classes.get_or_create(&label).set(gauge(classes));
        self.elements.get_or_create(&label).set(gauge(elements));
    }

    /// How many log records of drops were lost.
    pub fn set_lost(&self, lost: u64) {
        self.lost.inner().store(lost, Ordering::Relaxed);
    }

    /// What was dropped.
    pub fn set_denied(&self, denied: &DeniedReport) {
        let ways = [
            ("ingress", denied.ingress),
            ("egress", denied.egress),
            ("undecided", denied.undecided),
        ];
        for (direction, packets) in ways {
            let counter = self.denied.get_or_create(&WayLabel { direction });
            counter.inner().store(packets, Ordering::Relaxed);
        }
    }

    /// How often something was taken away since the start.
    pub fn set_losses(&self, family: IpFamily, losses: u64) {
        let counter = self.losses.get_or_create(&FamilyLabel::new(family));
        counter.inner().store(losses, Ordering::Relaxed);
    }
}
