//! PodCIDRs that are hardly meant: a podCIDR cannot be changed, and a wrong one takes part of the
//! internet away from every node.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::cidr;
use crate::snapshot::Node;

/// What podCIDRs are likely in this cluster.
#[derive(Debug, Clone, Copy)]
pub struct Likely<'a> {
    /// Our Node, whose podCIDRs are as those of the others.
    pub own: Option<&'a Node>,
    /// Where pods are, as the flag has it.
    pub cluster_cidrs: &'a [IpNetwork],
}

impl Likely<'_> {
    /// Why a podCIDR is hardly meant, if it is. A cluster may well live in public networks (most of
    /// IPv6 is), but then our own podCIDR is in one.
    pub fn doubts(&self, network: IpNetwork) -> Option<&'static str> {
        let mut given = self.cluster_cidrs.iter();
        if given.any(|given| cidr::contains(*given, network)) {
            return None;
        }
        let v6 = network.is_ipv6();
        // kube-controller-manager gives a Node at most 2^16 addresses; in IPv6 a site has a /48.
        if network.prefix() < if v6 { 48 } else { 16 } {
            return Some("is wider than any node needs");
        }
        let mut own = self.own.into_iter().flat_map(|own| &own.pod_cidrs);
        let is_usual = own.any(|own| own.is_ipv6() == v6 && is_public(own.ip()));
        (is_public(network.ip()) && !is_usual)
            .then_some("is a public network, and this node's own podCIDR is not in one")
    }
}

/// True for what may be someone's on the internet: not for RFC 1918, RFC 6598 (100.64.0.0/10), RFC 2544
/// (198.18.0.0/15), 240.0.0.0/4, which some clouds give to pods, and RFC 4193 (fc00::/7).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [first, second, ..] = v4.octets();
            let shared = (first, second & 0xc0) == (100, 64) || (first, second & 0xfe) == (198, 18);
            !(v4.is_private() || shared || first >= 240)
        }
        IpAddr::V6(v6) => !v6.is_unique_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_cidr_is_unlikely_if_it_is_too_wide_or_public_among_private_ones() {
        let node = |cidrs: &[&str]| Node {
            pod_cidrs: cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect(),
            ..Node::named("worker")
        };
        let (private, public) = (
            node(&["10.10.1.0/24", "fd00:1::/64"]),
            node(&["11.0.1.0/24", "2a00:1450:1::/64"]),
        );
        let flag = ["11.0.0.0/8".parse().unwrap(), "2a00::/16".parse().unwrap()];
        for (network, among_private, among_public, within_flag) in [
            ("10.10.2.0/24", false, false, false),
            ("10.0.0.0/8", true, true, true),
            ("172.31.0.0/16", false, false, false),
            ("192.168.7.0/24", false, false, false),
            ("100.127.1.0/24", false, false, false),
            ("100.128.1.0/24", true, false, true),
            ("198.19.1.0/24", false, false, false),
            ("240.1.0.0/20", false, false, false),
            ("8.8.8.0/24", true, false, true),
            ("203.0.113.0/24", true, false, true),
            ("100.0.0.0/6", true, true, true),
            ("11.0.0.0/8", true, true, false),
            ("11.7.0.0/24", true, false, false),
            ("fd00:2::/48", false, false, false),
            ("fd00::/47", true, true, true),
            ("2000::/3", true, true, true),
            ("2a00:1450:2::/64", true, false, false),
            ("2600:1::/64", true, false, true),
        ] {
            let network = network.parse().unwrap();
            let doubted = |own, cluster_cidrs| {
                let own = Some(own);
                Likely { own, cluster_cidrs }.doubts(network).is_some()
            };
            let found = (
                doubted(&private, &[]),
                doubted(&public, &[]),
                doubted(&private, &flag),
            );
            assert_eq!(
                found,
                (among_private, among_public, within_flag),
                "{network}"
            );
        }
    }
}
