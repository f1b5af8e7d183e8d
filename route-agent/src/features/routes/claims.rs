//! Which Node has which podCIDR: no two may overlap, nor may one overlap the nodes' own network.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnetwork::IpNetwork;

use crate::cidr;
use crate::snapshot::Node;
use crate::uplink::Uplink;

/// A podCIDR that a Node has been given.
pub struct Taken<'a> {
    last: u128,
    /// The podCIDR.
    pub network: IpNetwork,
    /// The Node's name.
    pub node: &'a Arc<str>,
}

/// The claims that hold, by family and first address. They never overlap.
pub type Claims<'a> = BTreeMap<(bool, u128), Taken<'a>>;

/// Notes that a Node has a podCIDR, unless it collides.
pub fn claim<'a>(
    network: IpNetwork,
    node: &'a Node,
    uplink: &Uplink,
    claims: &mut Claims<'a>,
) -> Result<(), String> {
    if let Some(nodes) = uplink
        .networks()
        .find(|nodes| cidr::overlap(**nodes, network))
    {
        return Err(format!(
            "podCIDR {network} overlaps {nodes}, the nodes' own network on {}; it is left out",
            uplink.name
        ));
    }
    let (v6, (first, last)) = (network.is_ipv6(), cidr::bounds(network));
    let before = claims
        .range(..=(v6, last))
        .next_back()
        .map(|(_, taken)| taken);
    if let Some(taken) = before.filter(|t| t.network.is_ipv6() == v6 && t.last >= first) {
        return Err(format!(
            "podCIDR {network} overlaps {} of Node {}, which keeps it; it is left out",
            taken.network, taken.node
        ));
    }
    claims.insert(
        (v6, first),
        Taken {
            last,
            network,
            node: &node.name,
        },
    );
    Ok(())
}
