//! The small words of nftables: families, hooks, policies, verdicts.

use std::fmt;

use crate::IpFamily;

/// The address family of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4 packets only: `ip`.
    Ip,
    /// IPv6 packets only: `ip6`.
    Ip6,
    /// IPv4 and IPv6 packets: `inet`.
    Inet,
}

impl Family {
    /// `NFPROTO_*` (linux/netfilter.h).
    pub const fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ip => 2,
            Self::Ip6 => 10,
        }
    }

    /// The family with this number, if it is one of ours.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Inet),
            2 => Some(Self::Ip),
            10 => Some(Self::Ip6),
            _ => None,
        }
    }
}

impl From<IpFamily> for Family {
    fn from(family: IpFamily) -> Self {
        match family {
            IpFamily::V4 => Self::Ip,
            IpFamily::V6 => Self::Ip6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
            Self::Inet => "inet",
        })
    }
}

/// Where in the path of a packet a base chain hangs. The numbers are those of `NF_INET_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// Every packet that comes in, before routing.
    Prerouting = 0,
    /// Packets for this machine.
    Input = 1,
    /// Packets that are passed on.
    Forward = 2,
    /// Packets from this machine.
    Output = 3,
    /// Every packet that goes out, after routing.
    Postrouting = 4,
}

impl Hook {
    pub(crate) const fn from_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::Prerouting),
            1 => Some(Self::Input),
            2 => Some(Self::Forward),
            3 => Some(Self::Output),
            4 => Some(Self::Postrouting),
            _ => None,
        }
    }
}

/// The usual priorities of base chains (linux/netfilter_ipv4.h): lower runs earlier.
pub mod priority {
    /// Before connection tracking.
    pub const RAW: i32 = -300;
    /// Mangling.
    pub const MANGLE: i32 = -150;
    /// Destination NAT.
    pub const DSTNAT: i32 = -100;
    /// Filtering.
    pub const FILTER: i32 = 0;
    /// Source NAT.
    pub const SRCNAT: i32 = 100;
}

/// What kind of base chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChainType {
    /// Sees every packet.
    Filter,
    /// Sees the first packet of each connection, and may rewrite addresses.
    Nat,
    /// As `Filter` in output, and routes again if the packet was changed.
    Route,
    /// A type that this crate does not know.
    Other(String),
}

impl ChainType {
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
            Self::Route => "route",
            Self::Other(name) => name,
        }
    }

    pub(crate) fn from_name(name: String) -> Self {
        match name.as_str() {
            "filter" => Self::Filter,
            "nat" => Self::Nat,
            "route" => Self::Route,
            _ => Self::Other(name),
        }
    }
}

/// What happens to a packet that no rule of a base chain decided on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// It goes on.
    #[default]
    Accept,
    /// It is dropped.
    Drop,
}

/// What to do with a packet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// Leave this hook's chain of this priority; later chains still see the packet.
    Accept,
    /// Drop it silently.
    Drop,
    /// Go on with the next rule.
    Continue,
    /// Go back to the calling chain, or to the policy.
    Return,
    /// Go to a chain and come back.
    Jump(Box<str>),
    /// Go to a chain and do not come back.
    Goto(Box<str>),
    /// A verdict code that this crate does not know.
    Other(i32),
}

impl Verdict {
    /// Jump to `chain`.
    pub fn jump(chain: &str) -> Self {
        Self::Jump(chain.into())
    }

    /// Go to `chain`.
    pub fn goto(chain: &str) -> Self {
        Self::Goto(chain.into())
    }

    /// The chain that it leads to.
    pub fn chain(&self) -> Option<&str> {
        match self {
            Self::Jump(chain) | Self::Goto(chain) => Some(chain),
            _ => None,
        }
    }

    /// `NF_*` and `NFT_*` verdict codes (linux/netfilter.h, linux/netfilter/nf_tables.h).
    pub(crate) const fn code(&self) -> i32 {
        match self {
            Self::Drop => 0,
            Self::Accept => 1,
            Self::Continue => -1,
            Self::Jump(_) => -3,
            Self::Goto(_) => -4,
            Self::Return => -5,
            Self::Other(code) => *code,
        }
    }

    pub(crate) fn from_code(code: i32, chain: Option<String>) -> Self {
        match (code, chain) {
            (0, None) => Self::Drop,
            (1, None) => Self::Accept,
            (-1, None) => Self::Continue,
            (-5, None) => Self::Return,
            (-3, Some(chain)) => Self::Jump(chain.into()),
            (-4, Some(chain)) => Self::Goto(chain.into()),
            (code, _) => Self::Other(code),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Continue => f.write_str("continue"),
            Self::Return => f.write_str("return"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Goto(chain) => write!(f, "goto {chain}"),
            Self::Other(code) => write!(f, "verdict {code}"),
        }
    }
}

/// Packets and bytes that passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counter {
    /// Packets.
    pub packets: u64,
    /// Bytes, headers of the network layer included.
    pub bytes: u64,
}
