//! The links of the plugin on this node, and the addresses that lead to them, as the kernel has them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use podwire::attachment::{Alias, LINK_GROUP};
use podwire_kernel::RouteSocket;
use podwire_kernel::link::Link;
use podwire_kernel::route::{RouteFilter, RouteKind};

/// The kernel's own routes, as to an address of this end of a link (`RTPROT_KERNEL`,
/// linux/rtnetlink.h).
const BY_KERNEL: u8 = 2;

/// A link of the plugin.
#[derive(Debug)]
pub struct PodLink {
    /// Its end on this node.
    pub link: Link,
    /// What the plugin wrote there of the attachment, if it is there and can be read.
    pub alias: Option<Alias>,
    /// The addresses of the pod.
    pub addresses: Vec<IpAddr>,
}

/// The links of the plugin among these. The oldest come first.
pub fn pod_links(
    socket: &mut RouteSocket,
    links: impl IntoIterator<Item = Link>,
) -> podwire_kernel::Result<Vec<PodLink>> {
    let ours = links.into_iter().filter(|link| link.group == LINK_GROUP);
    let mut found: BTreeMap<u32, PodLink> = ours
        .map(|link| {
            let one = PodLink {
                alias: link.alias.as_deref().and_then(Alias::parse),
                addresses: Vec::new(),
                link,
            };
            (one.link.index, one)
        })
        .collect();
    if found.is_empty() {
        return Ok(Vec::new());
    }
    for route in socket.routes(RouteFilter::default())? {
        let address: IpAddr = route.destination.ip();
        let leads_to = route.link.and_then(|link| found.get_mut(&link));
        if let Some(one) = leads_to
            && route.destination == IpNetwork::from(address)
            && route.kind == RouteKind::Unicast
            && route.protocol != BY_KERNEL
            && !is_link_local(address)
            && !one.addresses.contains(&address)
        {
            one.addresses.push(address);
        }
    }
    Ok(found.into_values().collect())
}

/// True if an address is not one of the cluster's network: each end of a link has one.
fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}
