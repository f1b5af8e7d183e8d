//! What the kernel says of dropped packets: which pods and which links of this node they are about.
//!
//! Asked address by address, so that it costs what it is about, however many pods there are.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use podwire::attachment::{Alias, LINK_GROUP};
use podwire_kernel::RouteSocket;
use podwire_kernel::link::Link;
use podwire_kernel::nflog::Record;
use podwire_kernel::nft::{Family, NftSocket};
use podwire_kernel::route::RouteKind;

use crate::features::parts::log::Reason;
use crate::features::parts::pod_links::PodLink;
use crate::features::routes::refused::networks_of;
use crate::ours::REFUSED_TABLE;
use crate::why::Pod;

/// What is known of this node.
#[derive(Debug, Clone, Default)]
pub(super) struct Place {
    /// Its pods, those that packets were from or to.
    pub pods: Vec<Pod>,
    /// Its own addresses, those that packets were from or to.
    pub own: Vec<IpAddr>,
    /// Its links through which packets came: their names, and the pod behind each, if there is one.
    pub links: BTreeMap<u32, (String, Option<Pod>)>,
    /// PodCIDRs without a Node, with whose they were, if a packet was refused for that.
    pub gone: Vec<(IpNetwork, String)>,
}

impl Place {
    /// True if an address is this node's, or that of a pod here whose name is known.
    pub fn knows(&self, address: IpAddr) -> bool {
        let mut named = self.pods.iter().filter(|pod| pod.name.is_some());
        self.own.contains(&address) || named.any(|pod| pod.addresses.contains(&address))
    }
}

/// Asks the kernel.
#[derive(Debug)]
pub(super) struct Kernel {
    routes: RouteSocket,
    tables: NftSocket,
}

impl Kernel {
    /// Works in the network namespace of the calling thread.
    pub fn open() -> podwire_kernel::Result<Self> {
        Ok(Self {
            routes: RouteSocket::open()?,
            tables: NftSocket::open()?,
        })
    }

    /// What it knows of these packets. What it does not tell is left out.
    pub fn look(&mut self, records: &[Record]) -> Place {
        let mut place = Place::default();
        for address in addresses(records) {
            self.look_at(address, &mut place);
        }
        for index in records.iter().filter_map(|record| record.link) {
            if !place.links.contains_key(&index)
                && let Ok(Some(link)) = self.routes.link_by_index(index)
            {
                let name = link.name.clone();
                place.links.insert(index, (name, pod(link, Vec::new())));
            }
        }
        let gone = Reason::GoneNode.prefix();
        if records.iter().any(|record| record.prefix == gone)
            && let Ok(Some(table)) = self.tables.observe(Family::Inet, REFUSED_TABLE)
        {
            let networks = networks_of(&table).into_iter();
            place.gone = networks
                .map(|(network, owner, _)| (network, owner))
                .collect();
        }
        place
    }

    fn look_at(&mut self, address: IpAddr, place: &mut Place) {
        let Ok(route) = self.routes.route_get(address) else {
            return;
        };
        match (route.kind, route.link, route.gateway) {
            (RouteKind::Local, ..) => place.own.push(address),
            (RouteKind::Unicast, Some(index), None) => {
                if let Ok(Some(link)) = self.routes.link_by_index(index) {
                    place.pods.extend(pod(link, vec![address]));
                }
            }
            _ => {}
        }
    }
}

/// The addresses of which records speak, those of our rules.
pub(super) fn addresses(records: &[Record]) -> BTreeSet<IpAddr> {
    let records = records.iter();
    let ours = records.filter(|record| Reason::of_prefix(&record.prefix).is_some());
    let packets = ours.map(|record| record.packet);
    packets
        .flat_map(|packet| [packet.source, packet.destination])
        .collect()
}

/// The pod behind a link, if it is one of the plugin's.
fn pod(link: Link, addresses: Vec<IpAddr>) -> Option<Pod> {
    (link.group == LINK_GROUP).then(|| {
        Pod::from(PodLink {
            alias: link.alias.as_deref().and_then(Alias::parse),
            addresses,
            link,
        })
    })
}
