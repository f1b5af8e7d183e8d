//! Which podCIDRs count for no Node, because another Node keeps them or the nodes' own network is there.

use std::collections::BTreeSet;
use std::sync::Arc;

use ipnetwork::IpNetwork;

use crate::features::routes::{Holders, claims_that_hold};
use crate::reconcile::Reconcile;
use crate::snapshot::Snapshot;

/// Who has which podCIDR when the agent starts.
pub type HoldersBefore = Box<dyn FnOnce(&Snapshot) -> Holders + Send>;

impl Reconcile {
    /// From `before` it is asked, once all is listed, who had which podCIDR when an agent ran last.
    pub fn with_holders_before(mut self, before: HoldersBefore) -> Self {
        self.holders_before = Some(before);
        self
    }

    /// Decides for all features alike who has which podCIDR. To be called before they are shown what has
    /// changed.
    pub(super) fn settle_pod_cidrs(&mut self) {
        if let Some(before) = self.holders_before.take() {
            self.holders = before(&self.snapshot);
        }
        let (own, uplink) = (&self.config.node_name, self.uplink.as_ref());
        let claims = claims_that_hold(&self.snapshot, own, uplink, &self.holders);
        let claims = claims.values();
        let holders: Holders = claims
            .map(|claim| (claim.network, Arc::clone(claim.node)))
            .collect();
        let all = self.snapshot.nodes.iter().flat_map(|(name, node)| {
            let cidrs = node.pod_cidrs.iter();
            cidrs.map(move |cidr| (*cidr, Arc::clone(name)))
        });
        let left_out: BTreeSet<(IpNetwork, Arc<str>)> = all
            .filter(|(cidr, name)| holders.get(cidr) != Some(name))
            .collect();
        self.snapshot.leave_out(left_out);
        self.holders = holders;
    }
}
