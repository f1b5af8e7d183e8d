//! The metrics of refused and dropped packets.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use crate::metrics::Group;

/// What is counted of packets that were refused or dropped. Clones share their values.
#[derive(Debug, Clone)]
pub struct DropMetrics {
    seen: Family<ReasonLabel, Counter>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

impl DropMetrics {
    #[rustfmt::skip]
    pub(super) fn register(group: &mut Group<'_>) -> Self {
        Self {
            seen: group.add("seen",
                "Packets that rules refused or dropped, and logged: each rule logs 10 in a second at most",
                Family::default()),
        }
    }

    /// One more was seen.
    pub fn seen(&self, reason: &'static str) {
        self.seen.get_or_create(&ReasonLabel { reason }).inc();
    }
}
