//! Neighbour entries: which Ethernet address belongs to an IP address on a link.

use std::net::IpAddr;

use netlink_packet_core::Parseable;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};

use crate::link::Mac;
use crate::netlink::{Message, put};
use crate::request::{REPLACE, Requests, RouteSocket};
use crate::{Cause, Result};

/// An entry of the neighbour table, wanted or observed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Neighbour {
    /// The link.
    pub link: u32,
    /// The neighbour's IP address.
    pub address: IpAddr,
    /// Its Ethernet address; `None` while the kernel asks for it, or if nobody answered.
    pub mac: Option<Mac>,
    /// Whether the entry stays until it is deleted; others are the kernel's own.
    pub permanent: bool,
}

impl Neighbour {
    fn message(&self) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header.family = match self.address {
            IpAddr::V4(_) => AddressFamily::Inet,
            IpAddr::V6(_) => AddressFamily::Inet6,
        };
        message.header.ifindex = self.link;
        message.header.state = if self.permanent {
            NeighbourState::Permanent
        } else {
            NeighbourState::Stale
        };
        message
            .attributes
            .push(NeighbourAttribute::Destination(match self.address {
                IpAddr::V4(address) => NeighbourAddress::Inet(address),
                IpAddr::V6(address) => NeighbourAddress::Inet6(address),
            }));
        let mac = self
            .mac
            .map(|mac| NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
        message.attributes.extend(mac);
        message
    }

    /// Reads the body of an `RTM_NEWNEIGH`; `None` if it is not about an IP address.
    fn parse(payload: &[u8]) -> std::result::Result<Option<Self>, Cause> {
        let message = NeighbourMessage::parse(payload)?;
        let (mut address, mut mac) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                    address = Some(IpAddr::V4(*v4));
                }
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                    address = Some(IpAddr::V6(*v6));
                }
                NeighbourAttribute::LinkLayerAddress(bytes) => {
                    mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(Mac);
                }
                _ => {}
            }
        }
        let permanent = message.header.state == NeighbourState::Permanent;
        let link = message.header.ifindex;
        Ok(address.map(|address| Self {
            link,
            address,
            mac,
            permanent,
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
            &neighbour.message(),
        )
    }

    /// Deletes the entry of `address` on `link`; fails with `ENOENT` if there is none.
    pub fn delete_neighbour(&mut self, link: u32, address: IpAddr) -> &mut Self {
        let entry = Neighbour {
            link,
            address,
            mac: None,
            permanent: false,
        };
        let object = address.to_string();
        self.push(
            "delete neighbour",
            object,
            libc::RTM_DELNEIGH,
            0,
            &entry.message(),
        )
    }
}

impl RouteSocket {
    /// The entries of the link `link`, or of all links; both families. Entries that the kernel
    /// needs none for (loopback, multicast) are left out.
    pub fn neighbours(&mut self, link: Option<u32>) -> Result<Vec<Neighbour>> {
        let mut query = NeighbourMessage::default();
        query
            .attributes
            .extend(link.map(NeighbourAttribute::IfIndex));
        let wanted = |answer: Message<'_>| {
            let entry = Neighbour::parse(answer.payload)?;
            Ok(entry.filter(|entry| link.is_none_or(|link| entry.link == link)))
        };
        self.socket
            .dump(libc::RTM_GETNEIGH, |body| put(body, &query), wanted)
            .map_err(|cause| cause.during("list", "neighbours"))
    }

    /// Writes an entry; see [`Requests::replace_neighbour`].
    pub fn replace_neighbour(&mut self, neighbour: &Neighbour) -> Result<()> {
        self.run(Requests::new().replace_neighbour(neighbour))
    }

    /// Makes the kernel forget what it knows about `address`, on every link, and returns on how
    /// many. The next packet asks anew: needed when an address moved to another machine.
    /// Permanent entries are kept: somebody wants them as they are.
    pub fn forget_neighbour(&mut self, address: IpAddr) -> Result<usize> {
        let mut requests = Requests::new();
        for entry in self.neighbours(None)? {
            if entry.address == address && !entry.permanent {
                requests.delete_neighbour(entry.link, address);
            }
        }
        let mut forgotten = 0;
        for result in self.run_each(&mut requests)? {
            match result {
                Ok(()) => forgotten += 1,
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(forgotten)
    }
}
