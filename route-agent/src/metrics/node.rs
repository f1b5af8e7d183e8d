//! The metrics of Podwire alone.

use std::sync::atomic::Ordering;

use podwire_kernel::IpFamily;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;

use crate::metrics::{FamilyLabel, Group, gauge};

/// What only Podwire has. Clones share their values.
#[derive(Debug, Clone)]
pub struct NodeMetrics {
    routes: Family<FamilyLabel, Gauge>,
    leases: Gauge,
    leases_without_link: Gauge,
    attachments: Gauge,
    services_refused: Family<FamilyLabel, Gauge>,
    repairs: Family<FeatureLabel, Counter>,
    warnings: Family<KindLabel, Gauge>,
    syncs: Family<FeatureLabel, Counter>,
    failures: Family<FeatureLabel, Counter>,
    writes: Family<FeatureLabel, Counter>,
    flows_read: Gauge,
    flows_lost: Counter,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FeatureLabel {
    feature: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

impl NodeMetrics {
    #[rustfmt::skip]
    pub(super) fn register(group: &mut Group<'_>) -> Self {
        group.register("build", "The version that runs",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        Self {
            routes: group.add("routes", "Routes to podCIDRs that are in the kernel",
                Family::default()),
            leases: group.add("leases", "Pod addresses that are in use", Gauge::default()),
            leases_without_link: group.add("leases_without_link",
                "Pod addresses that are in use by pods without a link or a route",
                Gauge::default()),
            attachments: group.add("attachments", "Pod links on this node", Gauge::default()),
            services_refused: group.add("services_refused",
                "Services whose rules the kernel refuses; they keep those that they had",
                Family::default()),
            repairs: group.add("repairs",
                "Times that another program changed something of ours and it was repaired",
                Family::default()),
            warnings: group.add("warnings",
                "Warnings that apply now, by origin; `podwire-agent status` lists them",
                Family::default()),
            syncs: group.add("syncs", "Times that a feature compared the desired state with the observed one",
                Family::default()),
            failures: group.add("sync_failures", "Syncs that failed", Family::default()),
            writes: group.add("kernel_writes", "Writes to the kernel or to disk", Family::default()),
            flows_read: group.add("flows_read",
                "1 while the kernel is asked to announce connections, because someone wants to see flows",
                Gauge::default()),
            flows_lost: group.add("flows_lost",
                "Times that announcements of connections were lost, at least one each time",
                Counter::default()),
        }
    }

    /// Sets how many routes of this family are in the kernel.
    pub fn set_routes(&self, family: IpFamily, routes: usize) {
        let label = FamilyLabel::new(family);
        self.routes.get_or_create(&label).set(gauge(routes));
    }

    /// Sets how many pod addresses are in use.
    pub fn set_leases(&self, leases: usize) {
        self.leases.set(gauge(leases));
    }

    /// Sets how many of the pod addresses in use are of pods that show no sign of life.
    pub fn set_leases_without_link(&self, leases: usize) {
        self.leases_without_link.set(gauge(leases));
    }

    /// Sets how many Services have rules of this family that the kernel refuses.
    pub fn set_services_refused(&self, family: IpFamily, services: usize) {
        let label = FamilyLabel::new(family);
        self.services_refused
            .get_or_create(&label)
            .set(gauge(services));
    }

    /// Sets whether the kernel announces connections to the agent.
    pub fn set_flows_read(&self, read: bool) {
        self.flows_read.set(read.into());
    }

    /// Announcements of connections were lost so many times.
    pub fn flows_lost(&self, times: u64) {
        self.flows_lost.inc_by(times);
    }

    /// Sets how many pod links are on this node.
    pub fn set_attachments(&self, attachments: usize) {
        self.attachments.set(gauge(attachments));
    }

    /// A feature has repaired what another program had changed.
    pub fn repaired(&self, feature: &'static str) {
        self.repairs.get_or_create(&FeatureLabel { feature }).inc();
    }

    /// Sets how many warnings of this kind there are now.
    pub fn set_warnings(&self, kind: &'static str, warnings: usize) {
        self.warnings
            .get_or_create(&KindLabel { kind })
            .set(gauge(warnings));
    }

    /// How often a feature was synced, how often that failed, and how much it wrote, since the
    /// start.
    pub fn set_feature(&self, feature: &'static str, syncs: u64, failures: u64, writes: u64) {
        let label = FeatureLabel { feature };
        for (counters, value) in [
            (&self.syncs, syncs),
            (&self.failures, failures),
            (&self.writes, writes),
        ] {
            counters
                .get_or_create(&label)
                .inner()
                .store(value, Ordering::Relaxed);
        }
    }
}
