//! The MTU of links whose configuration names none: that of the uplink, within what a link takes.
//!
//! No one chose that number, so it is no reason to refuse a pod: a tunnel may be smaller than IPv6
//! allows, a loopback device is larger than any packet, and some devices tell none.

/// The smallest MTU that IPv4 can work with (RFC 791), and that a veth takes (`ETH_MIN_MTU`,
/// linux/if_ether.h).
pub const SMALLEST: u32 = 68;

/// The smallest MTU with which a link has IPv6 (RFC 8200, section 5).
pub const SMALLEST_IPV6: u32 = 1280;

/// The largest MTU that a veth takes (`ETH_MAX_MTU`, linux/if_ether.h).
pub const LARGEST: u32 = 65535;

/// What the kernel gives a link of which nothing is said.
const USUAL: u32 = 1500;

/// The MTU of a link, with IPv6 addresses or without, that follows an uplink with this MTU.
pub fn following(uplink: u32, ipv6: bool) -> u32 {
    let smallest = if ipv6 { SMALLEST_IPV6 } else { SMALLEST };
    match uplink {
        0 => USUAL,
        mtu => mtu.clamp(smallest, LARGEST),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_an_uplink_stays_within_what_a_link_takes() {
        for (uplink, ipv4, dual) in [
            (1450, 1450, 1450),
            (1200, 1200, 1280),
            (1280, 1280, 1280),
            (67, 68, 1280),
            (0, 1500, 1500),
            (65535, 65535, 65535),
            (65536, 65535, 65535),
            (u32::MAX, 65535, 65535),
        ] {
            let found = [false, true].map(|ipv6| following(uplink, ipv6));
            assert_eq!(found, [ipv4, dual], "{uplink}");
        }
    }
}
