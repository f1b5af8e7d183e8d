//! Making links.

use std::os::fd::{AsFd, AsRawFd};

use super::{
    IFLA_ADDRESS, IFLA_GROUP, IFLA_IFNAME, IFLA_INFO_DATA, IFLA_INFO_KIND, IFLA_LINKINFO, IFLA_MTU,
    IFLA_NET_NS_FD, Link, Mac, put_header,
};
use crate::netlink::{attribute, nest, number, string};
use crate::netns::Netns;
use crate::request::{CREATE, Requests, RouteSocket};
use crate::{Cause, Error, Result};

/// The far end of a pair (linux/veth.h).
const VETH_INFO_PEER: u16 = 1;

/// A veth pair that shall be made. The near end comes into the namespace of the socket, the far
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
        put_header(body, self.index.unwrap_or(0), self.up.then_some(true));
        self.put_end(body, self.name, self.mac);
        if self.group != 0 {
            number(body, IFLA_GROUP, self.group);
        }
        nest(body, IFLA_LINKINFO, |body| {
            string(body, IFLA_INFO_KIND, "veth");
            nest(body, IFLA_INFO_DATA, |body| {
                nest(body, VETH_INFO_PEER, |body| self.put_peer(body));
            });
        });
    }

    fn put_peer(&self, body: &mut Vec<u8>) {
        put_header(body, self.peer_index.unwrap_or(0), None);
        self.put_end(body, self.peer_name, self.peer_mac);
        if let Some(netns) = self.peer_netns {
            number(body, IFLA_NET_NS_FD, netns.as_fd().as_raw_fd() as u32);
        }
    }

    /// Appends what both ends have.
    fn put_end(&self, body: &mut Vec<u8>, name: &str, mac: Mac) {
        string(body, IFLA_IFNAME, name);
        attribute(body, IFLA_ADDRESS, &mac.0);
        if let Some(mtu) = self.mtu {
            number(body, IFLA_MTU, mtu);
        }
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

    fn create_simple(&mut self, name: &str, kind: &str) -> &mut Self {
        self.push("create link", name, libc::RTM_NEWLINK, CREATE, |body| {
            put_header(body, 0, None);
            string(body, IFLA_IFNAME, name);
            nest(body, IFLA_LINKINFO, |body| {
                string(body, IFLA_INFO_KIND, kind)
            });
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
        self.create_simple(name, "bridge")
    }

    /// Makes a dummy link, which swallows what is sent to it, and returns its index.
    pub fn create_dummy(&mut self, name: &str) -> Result<u32> {
        self.create_simple(name, "dummy")
    }

    /// Makes an intermediate functional block: a link whose queueing rules can shape what was
    /// redirected to it. Returns its index.
    pub fn create_ifb(&mut self, name: &str) -> Result<u32> {
        self.create_simple(name, "ifb")
    }

    fn create_simple(&mut self, name: &str, kind: &str) -> Result<u32> {
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
