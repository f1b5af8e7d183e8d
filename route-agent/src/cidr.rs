//! Arithmetic on networks.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

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

/// True if the networks have an address in common.
pub fn overlap(one: IpNetwork, other: IpNetwork) -> bool {
    one.is_ipv4() == other.is_ipv4()
        && (one.contains(other.network()) || other.contains(one.network()))
}

/// True for 169.254.0.0/16 and fe80::/10.
pub fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
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

    proptest! {
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
