//! Links: network interfaces of all kinds.
//!
//! [`Link`] is what the kernel says about one; [`LinkChange`] what shall be different;
//! [`Veth`] a pair that shall be made.

mod change;
mod create;
mod mac;
mod name;
#[cfg(test)]
mod tests;

pub use change::{Ipv4Conf, Ipv6AddressMode, LinkChange};
pub use create::{Veth, VethEnds};
pub use mac::Mac;
pub use name::{NAME_MAX, broken_name_rule};

use crate::netlink::{Message, attributes, number, string, text, word};
use crate::request::RouteSocket;
use crate::{Cause, Error, Result};

// linux/if_link.h
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_GROUP: u16 = 27;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
/// `RTEXT_FILTER_SKIP_STATS` (linux/rtnetlink.h): counters are the larger half of an answer.
const SKIP_STATS: u32 = 1 << 3;
/// Size of `struct ifinfomsg` in bytes.
const HEADER: usize = 16;

/// A link as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The number of the link, unique within its namespace, never 0.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// `veth`, `bridge`, `dummy` and so on; hardware and `lo` have none.
    pub kind: Option<String>,
    /// A note for people (IFLA_IFALIAS).
    pub alias: Option<String>,
    /// The Ethernet address, if it has one.
    pub mac: Option<Mac>,
    /// The largest packet in bytes, link header not counted.
    pub mtu: u32,
    /// Whether it was set up (IFF_UP).
    pub up: bool,
    /// Whether packets can pass: up, and the other end is there and up (IFF_LOWER_UP).
    pub carrier: bool,
    /// Whether it is the loopback.
    pub loopback: bool,
    /// The group; 0 is the default group.
    pub group: u32,
    /// The bridge (or other master) it is a port of.
    pub master: Option<u32>,
    /// The link it belongs to: the other end of a veth pair. The number is one of the namespace
    /// [`Link::peer_netns`], if that is given, else of the own namespace.
    pub peer: Option<u32>,
    /// The namespace of the peer, as an ID that only the own namespace gives a meaning.
    pub peer_netns: Option<i32>,
}

impl Link {
    /// Reads the body of an `RTM_NEWLINK` or `RTM_DELLINK`.
    pub(crate) fn parse(payload: &[u8]) -> std::result::Result<Self, Cause> {
        let header = payload
            .first_chunk::<HEADER>()
            .ok_or_else(|| Cause::Malformed("a link without a header".into()))?;
        let flags = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]) as i32;
        let mut link = Self {
            index: u32::from_ne_bytes([header[4], header[5], header[6], header[7]]),
            name: String::new(),
            kind: None,
            alias: None,
            mac: None,
            mtu: 0,
            up: flags & libc::IFF_UP != 0,
            carrier: flags & libc::IFF_LOWER_UP != 0,
            loopback: flags & libc::IFF_LOOPBACK != 0,
            group: 0,
            master: None,
            peer: None,
            peer_netns: None,
        };
        for (kind, value) in attributes(&payload[HEADER..]) {
            link.set(kind, value);
        }
        Ok(link)
    }

    fn set(&mut self, kind: u16, value: &[u8]) {
        let number = word(value);
        match kind {
            IFLA_ADDRESS => self.mac = <[u8; 6]>::try_from(value).ok().map(Mac),
            IFLA_IFNAME => self.name = text(value),
            IFLA_MTU => self.mtu = number.unwrap_or(0),
            // A veth whose peer is gone, for a moment, has the index 0 there.
            IFLA_LINK => self.peer = number.filter(|index| *index != 0),
            IFLA_MASTER => self.master = number,
            IFLA_IFALIAS => self.alias = Some(text(value)),
            IFLA_GROUP => self.group = number.unwrap_or(0),
            IFLA_LINK_NETNSID => self.peer_netns = number.map(|id| id as i32),
            IFLA_LINKINFO => {
                self.kind = attributes(value)
                    .find(|(kind, _)| *kind == IFLA_INFO_KIND)
                    .map(|(_, value)| text(value));
            }
            _ => {}
        }
    }
}

impl RouteSocket {
    /// All links of the namespace, in the order of their indexes.
    pub fn links(&mut self) -> Result<Vec<Link>> {
        self.socket
            .dump(
                libc::RTM_GETLINK,
                |body| put_query(body, 0, None),
                |answer| parse(answer).map(Some),
            )
            .map_err(|cause| cause.during("list", "links"))
    }

    /// The link with the name `name`, or `None` if there is none.
    pub fn link_by_name(&mut self, name: &str) -> Result<Option<Link>> {
        if name.is_empty() || name.len() > NAME_MAX {
            return Ok(None);
        }
        let answer = self.socket.query(
            libc::RTM_GETLINK,
            |body| put_query(body, 0, Some(name)),
            parse,
        );
        found(answer).map_err(|cause| cause.during("read link", name))
    }

    /// The link with the index `index`, or `None` if there is none.
    pub fn link_by_index(&mut self, index: u32) -> Result<Option<Link>> {
        if index == 0 {
            return Ok(None);
        }
        let answer = self.socket.query(
            libc::RTM_GETLINK,
            |body| put_query(body, index, None),
            parse,
        );
        found(answer).map_err(|cause| cause.during("read link", format!("number {index}")))
    }

    /// The index of the link with the name `name`; an error if there is none.
    pub fn index_of(&mut self, name: &str) -> Result<u32> {
        match self.link_by_name(name)? {
            Some(link) => Ok(link.index),
            None => Err(Error::new("find link", name, Cause::NotFound)),
        }
    }
}

fn parse(answer: Message<'_>) -> std::result::Result<Link, Cause> {
    Link::parse(answer.payload)
}

/// Turns "no such device" into `None`.
fn found(answer: std::result::Result<Link, Cause>) -> std::result::Result<Option<Link>, Cause> {
    match answer {
        Ok(link) => Ok(Some(link)),
        Err(cause) if cause.errno() == Some(libc::ENODEV) => Ok(None),
        Err(cause) => Err(cause),
    }
}

/// Appends the body of an `RTM_GETLINK`.
fn put_query(body: &mut Vec<u8>, index: u32, name: Option<&str>) {
    put_header(body, index, None);
    if let Some(name) = name {
        string(body, IFLA_IFNAME, name);
    }
    number(body, IFLA_EXT_MASK, SKIP_STATS);
}

/// Appends a `struct ifinfomsg` that sets the link up or down, or leaves that as it is.
fn put_header(body: &mut Vec<u8>, index: u32, up: Option<bool>) {
    let up_flag = libc::IFF_UP as u32;
    let flags = if up == Some(true) { up_flag } else { 0 };
    let mask = if up.is_some() { up_flag } else { 0 };
    for word in [0, index, flags, mask] {
        body.extend_from_slice(&word.to_ne_bytes());
    }
}
