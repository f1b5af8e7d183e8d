//! The metrics that kube-proxy has as well: its names, labels and buckets.

use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets, linear_buckets};

use crate::clock::Moment;
use crate::metrics::{FamilyLabel, Group, gauge};
use podwire_kernel::IpFamily;

type Seconds = Gauge<f64, std::sync::atomic::AtomicU64>;
type Durations = Family<FamilyLabel, Histogram, fn() -> Histogram>;

/// What kube-proxy's dashboards read. Clones share their values.
#[derive(Debug, Clone)]
pub struct ProxyMetrics {
    sync: Durations,
    sync_full: Durations,
    sync_partial: Durations,
    programming: Durations,
    last_queued: Family<FamilyLabel, Seconds>,
    last_synced: Family<FamilyLabel, Seconds>,
    failures: Family<FamilyLabel, Counter>,
    no_local_endpoints: Family<LocalLabel, Gauge>,
    endpoint_changes_pending: Gauge,
    endpoint_changes: Counter,
    service_changes_pending: Gauge,
    service_changes: Counter,
    healthz: Family<CodeLabel, Counter>,
    livez: Family<CodeLabel, Counter>,
    conntrack_deleted: Family<FamilyLabel, Counter>,
    conntrack_duration: Durations,
}

/// The traffic policy of Services that have no endpoint on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LocalPolicy {
    /// internalTrafficPolicy.
    Internal,
    /// externalTrafficPolicy.
    External,
}

impl EncodeLabelValue for LocalPolicy {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        use std::fmt::Write;
        encoder.write_str(match self {
            Self::Internal => "internal",
            Self::External => "external",
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LocalLabel {
    ip_family: &'static str,
    traffic_policy: LocalPolicy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabel {
    code: u16,
}

/// 1 ms to 16 s.
fn sync_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 15))
}

/// 250 ms to 5 minutes.
fn programming_histogram() -> Histogram {
    Histogram::new(
        linear_buckets(0.25, 0.25, 2)
            .chain(linear_buckets(1.0, 1.0, 59))
            .chain(linear_buckets(60.0, 5.0, 12))
            .chain(linear_buckets(120.0, 30.0, 7)),
    )
}

impl ProxyMetrics {
    #[rustfmt::skip]
    pub(super) fn register(group: &mut Group<'_>) -> Self {
        let durations = || Durations::new_with_constructor(sync_histogram);
        Self {
            sync: group.add("sync_proxy_rules_duration_seconds",
                "Time from the start of a sync to the end of its commit", durations()),
            sync_full: group.add("sync_full_proxy_rules_duration_seconds",
                "Duration of the syncs that looked at everything", durations()),
            sync_partial: group.add("sync_partial_proxy_rules_duration_seconds",
                "Duration of the syncs that looked at what had changed", durations()),
            programming: group.add("network_programming_duration_seconds",
                "Time from the change of a pod or Service until this node had it in the kernel",
                Durations::new_with_constructor(programming_histogram)),
            last_queued: group.add("sync_proxy_rules_last_queued_timestamp_seconds",
                "When a change last arrived", Family::default()),
            last_synced: group.add("sync_proxy_rules_last_timestamp_seconds",
                "When a sync last succeeded", Family::default()),
            failures: group.add("sync_proxy_rules_nftables_sync_failures",
                "Syncs that the kernel refused", Family::default()),
            no_local_endpoints: group.add("sync_proxy_rules_no_local_endpoints_total",
                "Services with a traffic policy Local and no endpoint on this node",
                Family::default()),
            endpoint_changes_pending: group.add("sync_proxy_rules_endpoint_changes_pending",
                "EndpointSlice changes that are not in the kernel yet", Gauge::default()),
            endpoint_changes: group.add("sync_proxy_rules_endpoint_changes",
                "EndpointSlice changes that have arrived", Counter::default()),
            service_changes_pending: group.add("sync_proxy_rules_service_changes_pending",
                "Service changes that are not in the kernel yet", Gauge::default()),
            service_changes: group.add("sync_proxy_rules_service_changes",
                "Service changes that have arrived", Counter::default()),
            healthz: group.add("proxy_healthz", "Responses of /healthz by status", Family::default()),
            livez: group.add("proxy_livez", "Responses of /livez by status", Family::default()),
            conntrack_deleted: group.add("conntrack_reconciler_deleted_entries",
                "Connection tracking entries of UDP Services that were deleted because their endpoint is gone",
                Family::default()),
            conntrack_duration: group.add("conntrack_reconciler_sync_duration_seconds",
                "Duration of the clean-ups of conntrack", durations()),
        }
    }

    /// Something about a Service has arrived.
    pub fn service_change_arrived(&self) {
        self.service_changes.inc();
    }

    /// The number of Services that changed and are not in the kernel as they are now.
    pub fn set_service_changes_pending(&self, services: usize) {
        self.service_changes_pending.set(gauge(services));
    }

    /// Something about an EndpointSlice has arrived.
    pub fn endpoint_change_arrived(&self) {
        self.endpoint_changes.inc();
    }

    /// The number of EndpointSlice changes that are not in the kernel yet.
    pub fn set_endpoint_changes_pending(&self, changes: usize) {
        self.endpoint_changes_pending.set(gauge(changes));
    }

    /// A change that this family must carry out has arrived.
    pub fn queued(&self, family: IpFamily, now: Moment) {
        self.last_queued
            .get_or_create(&FamilyLabel::new(family))
            .set(unix_seconds(now));
    }

    /// A sync of this family has succeeded.
    pub fn synced(&self, family: IpFamily, full: bool, took: Duration, now: Moment) {
        let label = FamilyLabel::new(family);
        let kind = if full {
            &self.sync_full
        } else {
            &self.sync_partial
        };
        for histogram in [&self.sync, kind] {
            histogram.get_or_create(&label).observe(took.as_secs_f64());
        }
        self.last_synced
            .get_or_create(&label)
            .set(unix_seconds(now));
    }

    /// The kernel has refused a sync of this family.
    pub fn sync_failed(&self, family: IpFamily) {
        self.failures.get_or_create(&FamilyLabel::new(family)).inc();
    }

    /// A change that the cluster saw at `triggered` (milliseconds since 1970) is in the kernel.
    pub fn programmed(&self, family: IpFamily, triggered: u64, now: Moment) {
        let took = unix_seconds(now) - triggered as f64 / 1000.0;
        // A clock that is behind the control plane's would give nonsense.
        if took >= 0.0 {
            self.programming
                .get_or_create(&FamilyLabel::new(family))
                .observe(took);
        }
    }

    /// Sets how many Services with a traffic policy Local have no endpoint on this node.
    pub fn set_no_local_endpoints(&self, family: IpFamily, policy: LocalPolicy, services: usize) {
        let label = LocalLabel {
            ip_family: family.name(),
            traffic_policy: policy,
        };
        self.no_local_endpoints
            .get_or_create(&label)
            .set(gauge(services));
    }

    /// `/healthz` has answered with this status.
    pub fn healthz_answered(&self, code: u16) {
        self.healthz.get_or_create(&CodeLabel { code }).inc();
    }

    /// `/livez` has answered with this status.
    pub fn livez_answered(&self, code: u16) {
        self.livez.get_or_create(&CodeLabel { code }).inc();
    }

    /// A clean-up of conntrack is done.
    pub fn conntrack_cleaned(&self, family: IpFamily, entries: u64, took: Duration) {
        let label = FamilyLabel::new(family);
        self.conntrack_deleted.get_or_create(&label).inc_by(entries);
        self.conntrack_duration
            .get_or_create(&label)
            .observe(took.as_secs_f64());
    }
}

fn unix_seconds(now: Moment) -> f64 {
    now.wall
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}
