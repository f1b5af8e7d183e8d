//! Changes of Services and EndpointSlices, counted as kube-proxy counts them.
//!
//! kube-proxy (`ServiceChangeTracker.Update` and `EndpointsChangeTracker.EndpointSliceUpdate` in
//! `pkg/proxy`) counts everything that arrives, whether it changes anything or not. As pending it
//! counts the Services that changed, each once, but every single change of an EndpointSlice. None of
//! the four numbers has a label.
//!
//! Three things differ. kube-proxy's proxiers of both IP families count into the same numbers, so
//! that a dual-stack Service counts twice; here each change counts once. A Service that is changed
//! back is no longer pending there; here it is until the next sync. And kube-proxy sets what is
//! pending to 0 when a sync begins; here it stays until one has succeeded, so that it says what the
//! kernel lacks even while syncs fail.

use std::collections::BTreeSet;

use crate::metrics::ProxyMetrics;
use crate::snapshot::{Change, Dirty, Key, ObjectName, Snapshot};

/// What no sync has brought into the kernel yet.
#[derive(Debug, Default)]
pub(super) struct Pending {
    services: BTreeSet<ObjectName>,
    slice_changes: usize,
}

impl Pending {
    /// Folds a change into the snapshot and counts it.
    pub(super) fn fold(
        &mut self,
        change: Change,
        snapshot: &mut Snapshot,
        dirty: &mut Dirty,
        metrics: &ProxyMetrics,
    ) {
        let key = match &change {
            Change::Set(object) => object.key(),
            Change::Gone(key) => key.clone(),
        };
        let changed = snapshot.apply(change, dirty);
        match key {
            Key::Service(name) => {
                metrics.service_change_arrived();
                if changed {
                    self.services.insert(name);
                }
            }
            Key::EndpointSlice(_) => {
                metrics.endpoint_change_arrived();
                self.slice_changes += usize::from(changed);
            }
            Key::Node(_)
            | Key::ServiceCidr(_)
            | Key::Pod(_)
            | Key::Namespace(_)
            | Key::NetworkPolicy(_) => {}
        }
    }

    /// Everything is in the kernel.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Publishes the numbers.
    pub(super) fn count(&self, metrics: &ProxyMetrics) {
        metrics.set_service_changes_pending(self.services.len());
        metrics.set_endpoint_changes_pending(self.slice_changes);
    }
}
