//! Links: network interfaces of all kinds.
//!
//! [`Link`] is what the kernel says about one; [`LinkChange`] what is to be different;
//! [`Veth`] a pair that is to be made.

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

use netlink_packet_core::{Emitable, ParseableParametrized};
use netlink_packet_route::link::{
    LinkAttribute, LinkExtentMask, LinkFlags, LinkHeader, LinkMessage, State,
};

use crate::netlink::Message;
use crate::request::RouteSocket;
use crate::{Cause, Error, Result, packet};

/// The attributes of a link that are read. Most of an answer is counters and settings of address
/// families, which nothing here asks for.
const READ: [u16; 9] = [
    libc::IFLA_ADDRESS,
    libc::IFLA_IFNAME,
    libc::IFLA_MTU,
    libc::IFLA_LINK,
    libc::IFLA_MASTER,
    libc::IFLA_IFALIAS,
    libc::IFLA_GROUP,
    libc::IFLA_LINK_NETNSID,
    libc::IFLA_OPERSTATE,
];

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
    /// Whether packets pass: up, the other end is there and up, and the kernel has taken notice
    /// (IFLA_OPERSTATE). If it is asked for a single link it does so at once from Linux 6.9 on
    /// (`rtnl_getlink`, net/core/rtnetlink.c). Not for links whose kind does not say so, as `lo`.
    pub operational: bool,
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
        let header = LinkHeader::parse(payload).map_err(packet::malformed)?;
        let mut link = Self {
            index: header.index,
            name: String::new(),
            kind: None,
            alias: None,
            mac: None,
            mtu: 0,
            up: header.flags.contains(LinkFlags::Up),
            operational: false,
            loopback: header.flags.contains(LinkFlags::Loopback),
            group: 0,
            master: None,
            peer: None,
            peer_netns: None,
        };
        let rest = packet::behind_header(payload, header.buffer_len());
        let all = packet::attributes(rest, |attribute| {
            Ok(match attribute.kind() {
                libc::IFLA_LINKINFO => Part::Kind(packet::link_kind(attribute.value())),
                kind if READ.contains(&kind) => Part::Attribute(LinkAttribute::parse_with_param(
                    attribute,
                    header.interface_family,
                )?),
                _ => Part::Kind(None),
            })
        });
        for part in all {
            match part {
                Part::Kind(kind) => link.kind = kind.or(link.kind),
                Part::Attribute(attribute) => link.set(attribute),
            }
        }
        Ok(link)
    }

    fn set(&mut self, attribute: LinkAttribute) {
        match attribute {
            LinkAttribute::Address(bytes) => {
                self.mac = <[u8; 6]>::try_from(bytes).ok().map(Mac);
            }
            LinkAttribute::IfName(name) => self.name = name,
            LinkAttribute::Mtu(mtu) => self.mtu = mtu,
            // A veth whose peer is gone, for a moment, has the index 0 there.
            LinkAttribute::Link(index) => self.peer = Some(index).filter(|index| *index != 0),
            LinkAttribute::Controller(index) => self.master = Some(index),
            LinkAttribute::IfAlias(alias) => self.alias = Some(alias),
            LinkAttribute::Group(group) => self.group = group,
            LinkAttribute::LinkNetNsId(id) => self.peer_netns = Some(id),
            LinkAttribute::OperState(state) => self.operational = state == State::Up,
            _ => {}
        }
    }
}

/// What is read of a link.
enum Part {
    Kind(Option<String>),
    Attribute(LinkAttribute),
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
    let mut query = message(index, None);
    query
        .attributes
        .extend(name.map(|name| LinkAttribute::IfName(name.to_owned())));
    // Counters are the larger half of an answer.
    query
        .attributes
        .push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    packet::put(body, &query);
}

/// A message about a link that sets it up or down, or leaves that as it is.
fn message(index: u32, up: Option<bool>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags.set(LinkFlags::Up, up == Some(true));
    message.header.change_mask.set(LinkFlags::Up, up.is_some());
    message
}
