//! How much one Service may take: a Service with very many ports, addresses, endpoints and source
//! ranges costs itself, and neither the node's memory nor the time of others.
//!
//! What is counted is what the kernel holds: the elements of its maps. Ports take theirs in the order
//! of the object; the first for which there is no room is left out, and so are all after it.

use crate::features::services::desired::endpoints::Backend;
use crate::features::services::desired::frontends::Frontend;
use crate::features::services::desired::plan::PortPlan;
use crate::snapshot::{Protocol, TrafficPolicy};

/// Ports at addresses, over both families: each number of a port at four of them.
pub const MOST_PORTALS: usize = 1 << 18;

/// Elements in one family: 100 ports with 5,000 endpoints at a ClusterIP and a node port. While such a
/// Service changes, the agent holds its elements twice, at 112 bytes each: twice as many would not fit
/// into the 512 MiB that its container may have.
pub const MOST_ELEMENTS: usize = 1 << 20;

/// Elements of a port at an address, beside those of endpoints and source ranges, at most: what is
/// answered there, to whom in and outside the cluster, why it is masqueraded, and by which chain.
pub const AT_AN_ADDRESS: usize = 7;

/// Endpoints of one Service port that the kernel's maps can tell apart: what the lower half of an
/// answer and a slot have room for.
pub const MOST_ENDPOINTS: usize = 0xffff;

/// The ports of a Service for which there was no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeftOut {
    /// The first of them.
    pub first: (Protocol, u16),
    /// How many there are.
    pub count: usize,
}

/// What a Service has taken so far, in one family.
#[derive(Debug, Default)]
pub struct Room {
    taken: usize,
    left_out: Option<LeftOut>,
}

impl Room {
    /// True if there was no room for a port before, so that there is none for this one, either.
    pub fn is_full(&mut self) -> bool {
        if let Some(left_out) = &mut self.left_out {
            left_out.count += 1;
        }
        self.left_out.is_some()
    }

    /// Takes what a port needs; false if there is no room for it.
    pub fn take(&mut self, port: &PortPlan) -> bool {
        let taken = self.taken.saturating_add(elements(port));
        if taken > MOST_ELEMENTS {
            let first = (port.protocol, port.port);
            self.left_out = Some(LeftOut { first, count: 1 });
            return false;
        }
        self.taken = taken;
        true
    }

    /// The ports for which there was no room.
    pub fn left_out(&self) -> Option<LeftOut> {
        self.left_out
    }
}

/// At most so many elements the kernel needs for a port (`layout::elements` makes them).
pub fn elements(port: &PortPlan) -> usize {
    let count = |backends: &[Backend]| backends.len().min(MOST_ENDPOINTS);
    let (cluster, local) = (count(&port.cluster), count(&port.local));
    let ranges = port.sources.as_deref().map_or(0, <[_]>::len);
    let remembers = port.affinity.is_some();
    let at = |front: &Frontend| {
        let endpoints = match (front, port.internal, port.external) {
            _ if remembers => 0,
            (Frontend::ClusterIp(_), TrafficPolicy::Cluster, _) => cluster,
            (Frontend::ClusterIp(_), TrafficPolicy::Local, _) => local,
            (_, _, TrafficPolicy::Cluster) => cluster,
            (_, _, TrafficPolicy::Local) => cluster + local,
        };
        let ranges = match front {
            Frontend::LoadBalancer(_) => ranges,
            _ => 0,
        };
        AT_AN_ADDRESS + endpoints + ranges
    };
    // Who remembers clients has its endpoints once for all addresses, by slot and by number.
    let shared = if remembers { 2 * (cluster + local) } else { 0 };
    let all = port.frontends.iter().map(at);
    all.fold(shared, usize::saturating_add)
}

impl LeftOut {
    /// The warning, with what there is too much of.
    pub fn warning(&self, what: &str, most: &str) -> String {
        let (protocol, port) = self.first;
        let others = match self.count {
            1 => "is".to_owned(),
            count => format!("and the {} after it are", count - 1),
        };
        format!(
            "port {port}/{} {others} left out: {what} make more than the {most} that one Service may \
             take; spread them over several Services",
            protocol.name()
        )
    }
}
