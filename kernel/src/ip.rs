//! The two IP families, and the transport protocols that have ports.

use std::fmt;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

/// An IP family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub enum IpFamily {
    /// IP version 4.
    #[cfg_attr(feature = "serde", serde(rename = "IPv4"))]
    V4,
    /// IP version 6.
    #[cfg_attr(feature = "serde", serde(rename = "IPv6"))]
    V6,
}

impl IpFamily {
    /// Both families.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// The family of a network.
    pub const fn of_network(network: IpNetwork) -> Self {
        match network {
            IpNetwork::V4(_) => Self::V4,
            IpNetwork::V6(_) => Self::V6,
        }
    }

    /// `IPv4` or `IPv6`, as Kubernetes spells them.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// `AF_INET` or `AF_INET6` (bits/socket.h), which is also the number that netlink headers and
    /// nftables use.
    pub const fn number(self) -> u8 {
        match self {
            Self::V4 => libc::AF_INET as u8,
            Self::V6 => libc::AF_INET6 as u8,
        }
    }

    /// How many bits an address has: the longest prefix.
    pub const fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

impl fmt::Display for IpFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A transport protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// All protocols.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// The protocol with this name, in any case.
    pub fn parse(name: &str) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|protocol| protocol.name().eq_ignore_ascii_case(name))
    }

    /// The protocol with this number, if it has ports.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            132 => Some(Self::Sctp),
            _ => None,
        }
    }

    /// The name in lower case, as nft and most tools print it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }

    /// The number in an IP header (RFC 5237).
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_are_found_by_their_number_and_by_their_name_in_any_case() {
        for protocol in Protocol::ALL {
            assert_eq!(Protocol::from_number(protocol.number()), Some(protocol));
            assert_eq!(Protocol::parse(protocol.name()), Some(protocol));
            let upper = protocol.name().to_uppercase();
            assert_eq!(Protocol::parse(&upper), Some(protocol));
        }
        assert_eq!(Protocol::from_number(1), None);
        assert_eq!(Protocol::parse("icmp"), None);
    }

    #[test]
    fn the_family_of_an_address_is_that_of_its_network_and_has_its_length() {
        for text in ["192.0.2.1", "2001:db8::1"] {
            let address: IpAddr = text.parse().unwrap();
            let network = IpNetwork::from(address);
            let family = IpFamily::of(address);
            assert_eq!(IpFamily::of_network(network), family);
            assert_eq!(network.prefix(), family.bits());
        }
        assert_eq!(IpFamily::ALL.map(|f| f.to_string()), ["IPv4", "IPv6"]);
    }
}
