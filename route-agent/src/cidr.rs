//! Arithmetic on networks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

/// The IPv6 addresses that are bound to their link (RFC 4291).
pub const LINK_LOCAL_V6: Ipv6Network =
    match Ipv6Network::new_checked(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10) {
        Some(network) => network,
        None => panic!("the prefix is longer than an address"),
    };

/// The IPv4 addresses that stay within one machine (RFC 1122).
pub const LOOPBACK_V4: Ipv4Network = match Ipv4Network::new_checked(Ipv4Addr::new(127, 0, 0, 0), 8)
{
    Some(network) => network,
    None => panic!("the prefix is longer than an address"),
};

/// IPv4 addresses as programs see them at sockets of IPv6 (RFC 4291, section 2.5.5.2).
pub const MAPPED_V4: Ipv6Network =
    match Ipv6Network::new_checked(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96) {
        Some(network) => network,
        None => panic!("the prefix is longer than an address"),
    };

/// All addresses of both families.
pub const EVERYWHERE: [IpNetwork; 2] = match (
    Ipv4Network::new_checked(Ipv4Addr::UNSPECIFIED, 0),
    Ipv6Network::new_checked(Ipv6Addr::UNSPECIFIED, 0),
) {
    (Some(v4), Some(v6)) => [IpNetwork::V4(v4), IpNetwork::V6(v6)],
    _ => panic!("the prefix is longer than an address"),
};

/// The first and last address of a network as numbers. Only comparable within one family.
pub fn bounds(network: IpNetwork) -> (u128, u128) {
    (number(network.network()), number(network.broadcast()))
}

/// An address as a number.
pub fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

/// The address behind one; none behind the last.
pub fn next(address: IpAddr) -> Option<IpAddr> {
    Some(match address {
        IpAddr::V4(address) => IpAddr::V4(u32::from(address).checked_add(1)?.into()),
        IpAddr::V6(address) => IpAddr::V6(u128::from(address).checked_add(1)?.into()),
    })
}

/// The address before one; none before the first.
pub fn previous(address: IpAddr) -> Option<IpAddr> {
    Some(match address {
        IpAddr::V4(address) => IpAddr::V4(u32::from(address).checked_sub(1)?.into()),
        IpAddr::V6(address) => IpAddr::V6(u128::from(address).checked_sub(1)?.into()),
    })
}

/// The network of IPv4 that an IPv6 one stands for (`::ffff:10.0.0.0/104` for 10.0.0.0/8, RFC 4291),
/// as Kubernetes reads it.
pub fn unmapped(network: IpNetwork) -> Option<IpNetwork> {
    let IpNetwork::V6(network) = network else {
        return None;
    };
    let address = network.ip().to_ipv4_mapped()?;
    let prefix = network.prefix().checked_sub(96)?;
    Ipv4Network::new(address, prefix).ok().map(IpNetwork::V4)
}

/// True if the networks have an address in common.
pub fn overlap(one: IpNetwork, other: IpNetwork) -> bool {
    one.is_ipv4() == other.is_ipv4()
        && (one.contains(other.network()) || other.contains(one.network()))
}

/// The networks, sorted and without host bits, less those that lie within another of them: ranges
/// of an nftables set must not overlap.
pub fn without_contained(networks: impl IntoIterator<Item = IpNetwork>) -> Vec<IpNetwork> {
    let mut all: Vec<IpNetwork> = networks.into_iter().map(clean).collect();
    // By address, then prefix: what contains a network comes before it.
    all.sort_unstable();
    let mut kept: Vec<IpNetwork> = Vec::new();
    for network in all {
        if !kept.last().is_some_and(|wide| contains(*wide, network)) {
            kept.push(network);
        }
    }
    kept
}

/// True if every address of the second network is in the first.
pub fn contains(wide: IpNetwork, narrow: IpNetwork) -> bool {
    wide.prefix() <= narrow.prefix() && wide.contains(narrow.network())
}

/// The network without host bits.
pub fn clean(network: IpNetwork) -> IpNetwork {
    match network {
        IpNetwork::V4(v4) => Ipv4Network::new_checked(v4.network(), v4.prefix()).map(Into::into),
        IpNetwork::V6(v6) => Ipv6Network::new_checked(v6.network(), v6.prefix()).map(Into::into),
    }
    .unwrap_or(network)
}

/// True for 169.254.0.0/16 and fe80::/10.
pub fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// Why an address cannot be the destination of ordinary traffic, if it cannot.
pub fn no_destination(address: IpAddr) -> Option<&'static str> {
    match address {
        a if a.is_unspecified() => Some("is the unspecified address"),
        a if a.is_loopback() => Some("is a loopback address"),
        a if a.is_multicast() => Some("is a multicast address"),
        IpAddr::V4(v4) if v4.is_broadcast() => Some("is the broadcast address"),
        IpAddr::V4(v4) if v4.octets()[0] == 0 => {
            Some("is in 0.0.0.0/8, which cannot be a destination")
        }
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Some("is an IPv4 address written as IPv6")
        }
        _ => None,
    }
}

/// The network of one address.
pub fn host(address: IpAddr) -> IpNetwork {
    IpNetwork::from(address)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn network(text: &str) -> IpNetwork {
        text.parse().unwrap()
    }

    #[test]
    fn networks_overlap_if_one_holds_the_other() {
        for (one, other, expected) in [
            ("10.10.1.0/24", "10.10.1.0/24", true),
            ("10.10.0.0/16", "10.10.1.0/24", true),
            ("10.10.1.128/25", "10.10.1.0/24", true),
            ("10.10.1.0/24", "10.10.2.0/24", false),
            ("10.10.1.0/24", "fd00::/8", false),
            ("0.0.0.0/0", "::/0", false),
            ("::/0", "fd00::/64", true),
        ] {
            assert_eq!(
                overlap(network(one), network(other)),
                expected,
                "{one} {other}"
            );
            assert_eq!(
                overlap(network(other), network(one)),
                expected,
                "{other} {one}"
            );
        }
    }

    /// Networks of both families, near enough to each other to overlap.
    fn networks() -> impl Strategy<Value = Vec<IpNetwork>> {
        let v4 = (any::<[u8; 4]>(), 0u8..=32)
            .prop_map(|(bytes, prefix)| IpNetwork::new(bytes.into(), prefix).unwrap());
        let v6 = (any::<[u8; 16]>(), 0u8..=128)
            .prop_map(|(bytes, prefix)| IpNetwork::new(bytes.into(), prefix).unwrap());
        prop::collection::vec(prop_oneof![v4, v6], 0..40)
    }

    #[test]
    fn a_network_within_another_is_left_out_and_host_bits_are_cleared() {
        let given = [
            "fd00::1/64",
            "10.10.1.0/24",
            "10.10.2.7/24",
            "10.10.1.128/25",
            "10.10.1.0/25",
            "10.10.2.0/24",
            "fd00::/128",
        ];
        let kept = without_contained(given.map(network));
        let expected = ["10.10.1.0/24", "10.10.2.0/24", "fd00::/64"];
        assert_eq!(kept, expected.map(network));
    }

    proptest! {
        #[test]
        fn without_contained_keeps_every_address_once(given in networks()) {
            let kept = without_contained(given.clone());
            for (place, one) in kept.iter().enumerate() {
                for other in &kept[place + 1..] {
                    prop_assert!(!overlap(*one, *other), "{one} {other}");
                }
            }
            for network in given {
                prop_assert!(kept.iter().any(|wide| contains(*wide, network)), "{network}");
            }
        }

        #[test]
        fn overlap_agrees_with_the_bounds(a: u32, b: u32, m in 0u8..=32, n in 0u8..=32) {
            let clean = |ip: u32, prefix| {
                let network = IpNetwork::new(IpAddr::V4(ip.into()), prefix).unwrap();
                IpNetwork::new(network.network(), prefix).unwrap()
            };
            let (one, other) = (clean(a, m), clean(b, n));
            let (first, last) = (bounds(one), bounds(other));
            let meet = first.0 <= last.1 && last.0 <= first.1;
            prop_assert_eq!(overlap(one, other), meet);
        }
    }
}
