//! Making links.

use std::os::fd::{AsFd, AsRawFd};

use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo, LinkMessage,
};

use super::{Link, Mac, message};
use crate::netns::Netns;
use crate::request::{CREATE, Requests, RouteSocket};
use crate::{Cause, Error, Result, packet};

/// A veth pair that is to be made. The near end comes into the namespace of the socket, the far
/// end directly into another one, so nothing has to be moved afterwards.
#[derive(Debug, Clone)]
pub struct Veth<'a> {
    /// Name of the near end, at most 15 bytes.
    pub name: &'a str,
    /// Name of the far end, at most 15 bytes.
    pub peer_name: &'a str,
    /// Namespace of the far end; `None` for the same.
    pub peer_netns: Option<&'a Netns>,
    /// Ethernet address of the near end. A given address is also what keeps udev from writing
    /// another one (`MACAddressPolicy=persistent` in systemd.link(5)).
    pub mac: Mac,
    /// Ethernet address of the far end.
    pub peer_mac: Mac,
    /// The largest packet in bytes, at both ends; `None` for 1500.
    pub mtu: Option<u32>,
    /// The group of the near end; 0 is the default group.
    pub group: u32,
    /// Sets the near end up at once. The far end cannot be: its other end does not exist yet when
    /// the kernel makes it (ENOTCONN; `veth_open`, drivers/net/veth.c).
    pub up: bool,
    /// The index of the near end; `None` lets the kernel choose.
    pub index: Option<u32>,
    /// The index of the far end; `None` lets the kernel choose.
    pub peer_index: Option<u32>,
}

impl<'a> Veth<'a> {
    /// A pair in one namespace, with random addresses and nothing special about it.
    pub fn new(name: &'a str, peer_name: &'a str) -> Result<Self> {
        Ok(Self {
            name,
            peer_name,
            peer_netns: None,
            mac: Mac::random()?,
            peer_mac: Mac::random()?,
            mtu: None,
            group: 0,
            up: false,
            index: None,
            peer_index: None,
        })
    }

    /// Appends the body of the `RTM_NEWLINK` that makes the pair.
    pub(super) fn put(&self, body: &mut Vec<u8>) {
        let mut near = message(self.index.unwrap_or(0), self.up.then_some(true));
        near.attributes = self.end(self.name, self.mac);
        if self.group != 0 {
            near.attributes.push(LinkAttribute::Group(self.group));
        }
        let far = InfoData::Veth(InfoVeth::Peer(self.peer()));
        near.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(far),
        ]));
        packet::put(body, &near);
    }

    fn peer(&self) -> LinkMessage {
        let mut far = message(self.peer_index.unwrap_or(0), None);
        far.attributes = self.end(self.peer_name, self.peer_mac);
        let netns = self.peer_netns.map(|netns| netns.as_fd().as_raw_fd());
        far.attributes.extend(netns.map(LinkAttribute::NetNsFd));
        far
    }

    /// What both ends have.
    fn end(&self, name: &str, mac: Mac) -> Vec<LinkAttribute> {
        let mut attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Address(mac.0.to_vec()),
        ];
        attributes.extend(self.mtu.map(LinkAttribute::Mtu));
        attributes
    }
}

/// The numbers of the two ends of a new pair, each in its own namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VethEnds {
    /// Index of the near end.
    pub index: u32,
    /// Index of the far end.
    pub peer_index: u32,
}

impl Requests {
    /// Makes a veth pair. Its indexes can be used by later requests if they are chosen in `veth`.
    pub fn create_veth(&mut self, veth: &Veth<'_>) -> &mut Self {
        self.push(
            "create veth",
            veth.name,
            libc::RTM_NEWLINK,
            CREATE,
            |body| veth.put(body),
        )
    }

    fn create_simple(&mut self, name: &str, kind: InfoKind) -> &mut Self {
        self.push("create link", name, libc::RTM_NEWLINK, CREATE, |body| {
            let mut link = message(0, None);
            link.attributes = vec![
                LinkAttribute::IfName(name.to_owned()),
                LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)]),
            ];
            packet::put(body, &link);
        })
    }
}

impl RouteSocket {
    /// Makes a veth pair and tells the numbers of its ends.
    pub fn create_veth(&mut self, veth: &Veth<'_>) -> Result<VethEnds> {
        let mut requests = Requests::new();
        let flags = CREATE | libc::NLM_F_ECHO as u16;
        requests.push("create veth", veth.name, libc::RTM_NEWLINK, flags, |body| {
            veth.put(body)
        });
        let link = self.create_echoed(veth.name, &mut requests)?;
        match link.peer {
            Some(peer_index) => Ok(VethEnds {
                index: link.index,
                peer_index,
            }),
            None => {
                let cause = Cause::Malformed("the new link names no peer".into());
                Err(Error::new("create veth", veth.name, cause))
            }
        }
    }

    /// Makes a bridge (802.1d, without spanning tree) and returns its index.
    pub fn create_bridge(&mut self, name: &str) -> Result<u32> {
        self.create_simple(name, InfoKind::Bridge)
    }

    /// Makes an intermediate functional block: a link whose queueing rules can shape what was
    /// redirected to it. Returns its index.
    pub fn create_ifb(&mut self, name: &str) -> Result<u32> {
        self.create_simple(name, InfoKind::Ifb)
    }

    fn create_simple(&mut self, name: &str, kind: InfoKind) -> Result<u32> {
        let mut requests = Requests::new();
        requests.create_simple(name, kind);
        Ok(self.create_echoed(name, &mut requests)?.index)
    }

    /// Runs one request that makes a link, and returns the link.
    fn create_echoed(&mut self, name: &str, requests: &mut Requests) -> Result<Link> {
        let mut echo = None;
        let results = self.run_with(requests, |message| {
            if message.kind == libc::RTM_NEWLINK {
                echo = Some(Link::parse(message.payload)?);
            }
            Ok(())
        })?;
        results.into_iter().collect::<Result<()>>()?;
        // Kernels before 6.2 do not answer a request for an echo.
        if let Some(link) = echo.filter(|link| link.name == name) {
            return Ok(link);
        }
        match self.link_by_name(name)? {
            Some(link) => Ok(link),
            None => Err(Error::new("create link", name, Cause::NotFound)),
        }
    }
}
