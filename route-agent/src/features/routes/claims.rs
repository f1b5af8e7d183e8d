//! Which Node has which podCIDR: no two may overlap, nor may one overlap the nodes' own network, or have the
//! API server in it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;

use crate::cidr;
use crate::snapshot::Node;
use crate::uplink::Uplink;

/// A podCIDR that a Node has been given.
#[derive(Debug)]
pub struct PodCidr<'a> {
    last: u128,
    /// The podCIDR.
    pub network: IpNetwork,
    /// The Node's name.
    pub node: &'a Arc<str>,
}

/// The claims that hold, by family and first address. They never overlap.
pub type Claims<'a> = BTreeMap<(bool, u128), PodCidr<'a>>;

/// Where the API servers answer: [`Snapshot::api_servers`](crate::snapshot::Snapshot::api_servers).
pub type ApiServers = BTreeMap<IpAddr, BTreeSet<u16>>;

/// Notes that a Node has a podCIDR, unless it collides.
pub fn claim<'a>(
    network: IpNetwork,
    node: &'a Node,
    uplink: Option<&Uplink>,
    api_servers: &ApiServers,
    claims: &mut Claims<'a>,
) -> Result<(), String> {
    if let Some(why) = collision(network, uplink, api_servers, claims) {
        return Err(why);
    }
    let (v6, (first, last)) = (network.is_ipv6(), cidr::bounds(network));
    claims.insert(
        (v6, first),
        PodCidr {
            last,
            network,
            node: &node.name,
        },
    );
    Ok(())
}

/// Why a podCIDR is left out beside these claims, if it is.
pub fn collision(
    network: IpNetwork,
    uplink: Option<&Uplink>,
    api_servers: &ApiServers,
    claims: &Claims<'_>,
) -> Option<String> {
    if let Some(uplink) = uplink
        && let Some(nodes) = uplink
            .networks()
            .find(|nodes| cidr::overlap(**nodes, network))
    {
        return Some(format!(
            "podCIDR {network} overlaps {nodes}, the nodes' own network on {}; it is left out",
            uplink.name
        ));
    }
    // An agent that lost its way there would never hear that the podCIDR is another one by now.
    let range = network.network()..=network.broadcast();
    if let Some((address, _)) = api_servers.range(range).next() {
        return Some(format!(
            "podCIDR {network} contains {address}, the address of the API server; it is left out"
        ));
    }
    let (v6, (first, last)) = (network.is_ipv6(), cidr::bounds(network));
    let (_, pod_cidr) = claims.range(..=(v6, last)).next_back()?;
    (pod_cidr.network.is_ipv6() == v6 && pod_cidr.last >= first).then(|| {
        format!(
            "podCIDR {network} overlaps {} of Node {}, which keeps it; it is left out",
            pod_cidr.network, pod_cidr.node
        )
    })
}

/// Who has the podCIDR in which an address lies.
pub fn holder<'a, 'b>(claims: &'b Claims<'a>, address: IpAddr) -> Option<&'b PodCidr<'a>> {
    let key = (address.is_ipv6(), cidr::number(address));
    let (_, pod_cidr) = claims.range(..=key).next_back()?;
    pod_cidr.network.contains(address).then_some(pod_cidr)
}
