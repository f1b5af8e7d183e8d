//! What happens to a packet that takes a route.

use std::fmt;

/// What happens to a packet that takes a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum RouteKind {
    /// It is sent on.
    #[default]
    Unicast,
    /// It is delivered here.
    Local,
    /// It is delivered here and sent as a broadcast.
    Broadcast,
    /// It is delivered here, as one of several machines (IPv6).
    Anycast,
    /// It goes to a group.
    Multicast,
    /// It is dropped without a word.
    Blackhole,
    /// It is dropped, and the sender is told that the host is unreachable.
    Unreachable,
    /// It is dropped, and the sender is told that this is forbidden.
    Prohibit,
    /// This table says nothing; the next one decides.
    Throw,
    /// Any other number of `RTN_*`.
    Other(u8),
}

impl RouteKind {
    /// Whether packets are dropped or passed to the next table, so that there is no link.
    pub(super) fn leads_nowhere(self) -> bool {
        matches!(
            self,
            Self::Blackhole | Self::Unreachable | Self::Prohibit | Self::Throw
        )
    }
}

impl From<u8> for RouteKind {
    fn from(number: u8) -> Self {
        match number {
            1 => Self::Unicast,
            2 => Self::Local,
            3 => Self::Broadcast,
            4 => Self::Anycast,
            5 => Self::Multicast,
            6 => Self::Blackhole,
            7 => Self::Unreachable,
            8 => Self::Prohibit,
            9 => Self::Throw,
            other => Self::Other(other),
        }
    }
}

impl From<RouteKind> for u8 {
    fn from(kind: RouteKind) -> Self {
        match kind {
            RouteKind::Unicast => 1,
            RouteKind::Local => 2,
            RouteKind::Broadcast => 3,
            RouteKind::Anycast => 4,
            RouteKind::Multicast => 5,
            RouteKind::Blackhole => 6,
            RouteKind::Unreachable => 7,
            RouteKind::Prohibit => 8,
            RouteKind::Throw => 9,
            RouteKind::Other(other) => other,
        }
    }
}

impl fmt::Display for RouteKind {
    /// As `ip` prints it; nothing for unicast.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unicast => "",
            Self::Local => "local ",
            Self::Broadcast => "broadcast ",
            Self::Anycast => "anycast ",
            Self::Multicast => "multicast ",
            Self::Blackhole => "blackhole ",
            Self::Unreachable => "unreachable ",
            Self::Prohibit => "prohibit ",
            Self::Throw => "throw ",
            Self::Other(number) => return write!(f, "type {number} "),
        })
    }
}
