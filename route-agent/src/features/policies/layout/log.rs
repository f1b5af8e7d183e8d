//! What the rules log of packets that they drop.
//!
//! The kernel hands the packet over, and with it which rule it was: the direction whose policies do
//! not allow it, and whether it is a reply. All else follows from the packet's addresses.

use podwire_kernel::nft::Rule;

use crate::ours::LOG_GROUP;
use crate::snapshot::Direction;

/// How many packets each rule logs in a second; the rest is only counted. A connection that is refused
/// is tried again a few times, so each is seen.
const RATE: u64 = 10;
/// How many it logs at once.
const AT_ONCE: u32 = 20;
/// How much of a packet, in bytes: the headers up to the ports.
const COPIED: u32 = 128;

/// Why a packet was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Policies of this direction do not allow it.
    Denied {
        /// As seen from the pod of this node.
        direction: Direction,
        /// It is a reply: the connection went the other way.
        reply: bool,
    },
    /// Its pod of this node is not known yet.
    Undecided,
}

impl Reason {
    const ALL: [Self; 5] = [
        Self::denied(Direction::Ingress, false),
        Self::denied(Direction::Ingress, true),
        Self::denied(Direction::Egress, false),
        Self::denied(Direction::Egress, true),
        Self::Undecided,
    ];

    const fn denied(direction: Direction, reply: bool) -> Self {
        Self::Denied { direction, reply }
    }

    /// What is put before the packet.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Denied { direction, reply } => match (direction, reply) {
                (Direction::Ingress, false) => "podwire denied in",
                (Direction::Ingress, true) => "podwire denied in-reply",
                (Direction::Egress, false) => "podwire denied out",
                (Direction::Egress, true) => "podwire denied out-reply",
            },
            Self::Undecided => "podwire undecided",
        }
    }

    /// The one with this prefix.
    pub fn of_prefix(prefix: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.prefix() == prefix)
    }

    /// The rule that logs some of the packets that come to it.
    pub fn rule(self) -> Rule {
        let rule = Rule::new().limit(RATE, 1, AT_ONCE);
        rule.log_to(self.prefix(), LOG_GROUP, COPIED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_leads_back_to_its_reason() {
        for one in Reason::ALL {
            assert_eq!(Reason::of_prefix(one.prefix()), Some(one));
        }
        assert_eq!(Reason::of_prefix("podwire denied"), None);
    }
}
