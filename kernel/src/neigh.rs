//! Neighbour entries: which Ethernet address belongs to an IP address on a link.

use std::net::IpAddr;

use crate::link::Mac;
use crate::netlink::{self, Message, attribute, attributes, ip, number};
use crate::request::{REPLACE, Requests, RouteSocket};
use crate::{Cause, Result};

// linux/neighbour.h
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NDA_IFINDEX: u16 = 8;
const NUD_STALE: u16 = 0x04;
const NUD_PERMANENT: u16 = 0x80;
/// Size of `struct ndmsg` in bytes.
const HEADER: usize = 12;

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
    /// Appends the body of an `RTM_NEWNEIGH` or `RTM_DELNEIGH`.
    fn put(&self, body: &mut Vec<u8>) {
        let state = if self.permanent {
            NUD_PERMANENT
        } else {
            NUD_STALE
        };
        body.extend_from_slice(&[netlink::family(self.address), 0, 0, 0]);
        body.extend_from_slice(&self.link.to_ne_bytes());
        body.extend_from_slice(&state.to_ne_bytes());
        body.extend_from_slice(&[0; 2]);
        netlink::address(body, NDA_DST, self.address);
        if let Some(mac) = self.mac {
            attribute(body, NDA_LLADDR, &mac.0);
        }
    }

    /// Reads the body of an `RTM_NEWNEIGH`; `None` if it is not about an IP address.
    fn parse(payload: &[u8]) -> std::result::Result<Option<Self>, Cause> {
        let (header, rest) = payload
            .split_first_chunk::<HEADER>()
            .ok_or_else(|| Cause::Malformed("a neighbour without a header".into()))?;
        let (mut address, mut mac) = (None, None);
        for (kind, value) in attributes(rest) {
            match kind {
                NDA_DST => address = ip(value),
                NDA_LLADDR => mac = <[u8; 6]>::try_from(value).ok().map(Mac),
                _ => {}
            }
        }
        let link = u32::from_ne_bytes([header[4], header[5], header[6], header[7]]);
        let permanent = u16::from_ne_bytes([header[8], header[9]]) == NUD_PERMANENT;
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
            |body| neighbour.put(body),
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
        self.push("delete neighbour", object, libc::RTM_DELNEIGH, 0, |body| {
            entry.put(body)
        })
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
        let put = |body: &mut Vec<u8>| {
            body.extend_from_slice(&[0; HEADER]);
            if let Some(link) = link {
                number(body, NDA_IFINDEX, link);
            }
        };
        self.socket
            .dump(libc::RTM_GETNEIGH, put, wanted)
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
