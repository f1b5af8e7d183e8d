//! Neighbour entries: which Ethernet address belongs to an IP address on a link.

use std::net::IpAddr;

use netlink_packet_core::{Emitable, ParseableParametrized};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourHeader, NeighbourMessage, NeighbourState,
};

use crate::link::Mac;
use crate::netlink::Message;
use crate::request::{REPLACE, Requests, RouteSocket};
use crate::{Cause, IpFamily, Result, packet};

/// An entry of the neighbour table, wanted or observed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Neighbour {
    /// The link.
    pub link: u32,
    /// The neighbour's IP address.
    pub address: IpAddr,
    /// Its Ethernet address; `None` while the kernel asks for it, or if there was no answer.
    pub mac: Option<Mac>,
    /// Whether the entry stays until it is deleted; others are the kernel's own.
    pub permanent: bool,
}

impl Neighbour {
    /// Appends the body of an `RTM_NEWNEIGH` or `RTM_DELNEIGH`.
    fn put(&self, body: &mut Vec<u8>) {
        let mut message = NeighbourMessage::default();
        message.header.family = IpFamily::of(self.address).number().into();
        message.header.ifindex = self.link;
        message.header.state = if self.permanent {
            NeighbourState::Permanent
        } else {
            NeighbourState::Stale
        };
        let address = match self.address {
            IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
            IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
        };
        message.attributes = vec![NeighbourAttribute::Destination(address)];
        if let Some(mac) = self.mac {
            let mac = NeighbourAttribute::LinkLayerAddress(mac.0.to_vec());
            message.attributes.push(mac);
        }
        packet::put(body, &message);
    }

    /// Reads the body of an `RTM_NEWNEIGH`; `None` if it is not about an IP address.
    pub(crate) fn parse(payload: &[u8]) -> std::result::Result<Option<Self>, Cause> {
        let header = NeighbourHeader::parse(payload).map_err(packet::malformed)?;
        let rest = packet::behind_header(payload, header.buffer_len());
        let (mut address, mut mac) = (None, None);
        for attribute in packet::attributes(rest, |attribute| {
            NeighbourAttribute::parse_with_param(attribute, header.family)
        }) {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                    address = Some(IpAddr::V4(v4));
                }
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                    address = Some(IpAddr::V6(v6));
                }
                NeighbourAttribute::LinkLayerAddress(bytes) => {
                    mac = <[u8; 6]>::try_from(bytes).ok().map(Mac);
                }
                _ => {}
            }
        }
        Ok(address.map(|address| Self {
            link: header.ifindex,
            address,
            mac,
            permanent: header.state == NeighbourState::Permanent,
        }))
    }
}

impl Requests {
    /// Writes an entry, in the place of the one for the same address if there is one.
    pub fn replace_neighbour(&mut self, neighbour: &Neighbour) -> &mut Self {
        let object = neighbour.address.to_string();
        self.push(
            "set neighbour",
            object,
            libc::RTM_NEWNEIGH,
            REPLACE,
            |body| neighbour.put(body),
        )
    }
}

impl RouteSocket {
    /// The entries of the link `link`, or of all links; both families. Entries that the kernel
    /// needs none for (loopback, multicast) are left out.
    pub fn neighbours(&mut self, link: Option<u32>) -> Result<Vec<Neighbour>> {
        let wanted = |answer: Message<'_>| {
            let entry = Neighbour::parse(answer.payload)?;
            Ok(entry.filter(|entry| link.is_none_or(|link| entry.link == link)))
        };
        let mut query = NeighbourMessage::default();
        query
            .attributes
            .extend(link.map(NeighbourAttribute::IfIndex));
        let put = |body: &mut Vec<u8>| packet::put(body, &query);
        self.socket
            .dump(libc::RTM_GETNEIGH, put, wanted)
            .map_err(|cause| cause.during("list", "neighbours"))
    }

    /// Writes an entry; see [`Requests::replace_neighbour`].
    pub fn replace_neighbour(&mut self, neighbour: &Neighbour) -> Result<()> {
        self.run(Requests::new().replace_neighbour(neighbour))
    }
}
