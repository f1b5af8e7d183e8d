//! How much one Service may take: a Service with very many ports, addresses and endpoints costs
//! itself, and neither the node's memory nor the time of others.
//!
//! A Service takes a place for each of its ports at each of its addresses, and there one for each
//! endpoint, because the kernel holds an element for each. Its ports take their places in the order
//! of the object; the first for which there is no room is left out, and so are all after it.

use crate::snapshot::{Protocol, ServicePort};

/// Places for ports at addresses, over both families: each number of a port at four of them.
pub const MOST_PORTALS: usize = 1 << 18;

/// Places in one family, endpoints included: 100 ports with 5,000 endpoints at a ClusterIP and a node
/// port. While such a Service changes, the agent holds its elements twice, at 112 bytes each: twice as
/// many would not fit into the 512 MiB that its container may have.
pub const MOST_PLACES: usize = 1 << 20;

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
    /// Takes the places of a port at so many addresses with so many endpoints, of which those beyond
    /// [`MOST_ENDPOINTS`] take none. False if there is no room, or was none for a port before.
    pub fn take(&mut self, port: &ServicePort, addresses: usize, endpoints: usize) -> bool {
        if let Some(left_out) = &mut self.left_out {
            left_out.count += 1;
            return false;
        }
        let places = addresses.saturating_mul(1 + endpoints.min(MOST_ENDPOINTS));
        let taken = self.taken.saturating_add(places);
        if taken > MOST_PLACES {
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

impl LeftOut {
    /// The warning, with what there is too much of.
    pub fn warning(&self, what: &str, most: usize) -> String {
        let (protocol, port) = self.first;
        let others = match self.count {
            1 => "is".to_owned(),
            count => format!("and the {} after it are", count - 1),
        };
        format!(
            "port {port}/{} {others} left out: {what} make more than the {most} places that one \
             Service may take; spread them over several Services",
            protocol.name()
        )
    }
}
