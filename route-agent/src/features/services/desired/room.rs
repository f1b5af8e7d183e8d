//! How much one Service may take: a Service with very many ports, addresses, endpoints and source
//! ranges costs itself, and neither the node's memory nor the time of others.
//!
//! What is counted is what the kernel holds: the elements of its maps. Ports take theirs in the order
//! of the object; the first for which there is no room is left out, and so are all after it.

use crate::snapshot::Protocol;

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

    /// Takes so many elements for a port; false if there is no room for them.
    pub fn take(&mut self, port: (Protocol, u16), elements: usize) -> bool {
        let taken = self.taken.saturating_add(elements);
        if taken > MOST_ELEMENTS {
            self.left_out = Some(LeftOut {
                first: port,
                count: 1,
            });
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
