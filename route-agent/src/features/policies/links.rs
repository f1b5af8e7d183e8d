//! What the kernel knows of attachments: for those that were made while no agent listened.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use podwire::attachment::{Alias, LINK_GROUP};
use podwire::policy::{Attachment, PodName};
use podwire_kernel::RouteSocket;
use podwire_kernel::route::RouteFilter;

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
            && !attachment.addresses.contains(&address)
        {
            attachment.addresses.push(address);
        }
    }
    Ok(attachments.into_values().collect())
}

fn attachment(link: String, alias: Alias) -> Attachment {
    let uid = alias.uid;
    let pod = alias.pod.map(|(namespace, name)| PodName {
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
