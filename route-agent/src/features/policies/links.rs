//! What the kernel knows of attachments: for those that were made while no agent listened.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use podwire::attachment::{Alias, LINK_GROUP};
use podwire::policy::{Attachment, PodName};
use podwire_kernel::RouteSocket;
use podwire_kernel::route::{RouteFilter, RouteKind};

/// The kernel's own routes, as to an address of this end of a link (`RTPROT_KERNEL`,
/// linux/rtnetlink.h).
const BY_KERNEL: u8 = 2;

/// The attachments of this node: links of the plugin, with the addresses that lead to them. The
/// oldest come first.
pub fn attachments(socket: &mut RouteSocket) -> podwire_kernel::Result<Vec<Attachment>> {
    let links = socket.links()?.into_iter();
    let ours = links.filter(|link| link.group == LINK_GROUP);
    let mut attachments = BTreeMap::new();
    for link in ours {
        if let Some(alias) = link.alias.as_deref().and_then(Alias::parse) {
            attachments.insert(link.index, attachment(link.name, alias));
        }
    }
    if attachments.is_empty() {
        return Ok(Vec::new());
    }
    for route in socket.routes(RouteFilter::default())? {
        let address: IpAddr = route.destination.ip();
        let leads_to = route.link.and_then(|link| attachments.get_mut(&link));
        if let Some(attachment) = leads_to
            && route.destination == IpNetwork::from(address)
            && route.kind == RouteKind::Unicast
            && route.protocol != BY_KERNEL
            && !is_link_local(address)
            && !attachment.addresses.contains(&address)
        {
            attachment.addresses.push(address);
        }
    }
    Ok(attachments.into_values().collect())
}

/// True if an address is not one of the cluster's network: each end of a link has one.
fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

fn attachment(link: String, alias: Alias) -> Attachment {
    let names = match alias.unnamed {
        true => Some(Default::default()),
        false => alias.pod,
    };
    let uid = alias.uid;
    let pod = names.map(|(namespace, name)| PodName {
        namespace,
        name,
        uid,
    });
    Attachment {
        link,
        container_id: alias.container_id,
        ifname: alias.ifname,
        pod,
        addresses: Vec::new(),
    }
}
