//! What the kernel knows of attachments: for those that were made while no agent listened.

use podwire::attachment::Alias;
use podwire::policy::{Attachment, PodName};
use podwire_kernel::RouteSocket;

use crate::features::parts::pod_links::pod_links;

/// The attachments of this node: links of the plugin, with the addresses that lead to them. The
/// oldest come first.
pub fn attachments(socket: &mut RouteSocket) -> podwire_kernel::Result<Vec<Attachment>> {
    let links = socket.links()?;
    let found = pod_links(socket, links)?.into_iter();
    let named = found.filter_map(|one| {
        Some(Attachment {
            addresses: one.addresses,
            ..attachment(one.link.name, one.alias?)
        })
    });
    Ok(named.collect())
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
