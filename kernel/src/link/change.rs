//! Changing links that exist.

use std::os::fd::{AsFd, AsRawFd};

use super::{
    IFLA_ADDRESS, IFLA_AF_SPEC, IFLA_GROUP, IFLA_IFALIAS, IFLA_IFNAME, IFLA_MASTER, IFLA_MTU,
    IFLA_NET_NS_FD, Mac, put_header,
};
use crate::Result;
use crate::netlink::{attribute, nest, number, string};
use crate::netns::Netns;
use crate::request::{Requests, RouteSocket};

// linux/if_link.h
const IFLA_INET_CONF: u16 = 1;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;

/// Per-interface IPv4 parameters that netlink can set; the numbers are `IPV4_DEVCONF_*` of
/// linux/ip.h, the names those of `/proc/sys/net/ipv4/conf/IFACE/`.
///
/// Unlike a write to `/proc/sys`, setting one of them has no side effects: a change of
/// `forwarding` does not switch off receive offloads (`inet_set_link_af`, net/ipv4/devinet.c).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ipv4Conf {
    /// Packets that come in here may be forwarded; 0 or 1.
    Forwarding = 1,
    /// ARP requests for addresses that are routed elsewhere are answered; 0 or 1.
    ProxyArp = 3,
    /// ICMP redirects are obeyed; 0 or 1.
    AcceptRedirects = 4,
    /// ICMP redirects are sent; 0 or 1.
    SendRedirects = 6,
    /// Reverse path filter; 0 off, 1 strict, 2 loose.
    RpFilter = 8,
    /// Which source address ARP requests carry; 0, 1 or 2.
    ArpAnnounce = 18,
    /// Which ARP requests are answered; 0, 1, 2 or 8.
    ArpIgnore = 19,
    /// Gratuitous ARP makes new neighbour entries; 0, 1 or 2.
    ArpAccept = 21,
    /// Gratuitous ARP is sent when the link comes up; 0 or 1.
    ArpNotify = 22,
    /// 127.0.0.0/8 may be routed here; 0 or 1.
    RouteLocalnet = 26,
}

/// How a link gets its IPv6 link-local address when it comes up (`IN6_ADDR_GEN_MODE_*`,
/// linux/if_link.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ipv6AddressMode {
    /// From the hardware address; it stays tentative for about a second.
    Eui64 = 0,
    /// Not at all; one can be added with [`Address::nodad`](crate::address::Address::nodad),
    /// which is ready at once.
    None = 1,
}

/// What shall be different about a link; everything else stays as it is.
#[derive(Debug, Default)]
pub struct LinkChange<'a> {
    /// The link.
    pub index: u32,
    /// Up or down.
    pub up: Option<bool>,
    /// A new name, at most 15 bytes.
    pub name: Option<&'a str>,
    /// A note for people, at most 255 bytes (`IFALIASZ` - 1).
    pub alias: Option<&'a str>,
    /// The largest packet in bytes.
    pub mtu: Option<u32>,
    /// The Ethernet address.
    pub mac: Option<Mac>,
    /// The group.
    pub group: Option<u32>,
    /// The bridge to become a port of; 0 for none.
    pub master: Option<u32>,
    /// The namespace to move to.
    pub netns: Option<&'a Netns>,
    /// IPv4 parameters.
    pub ipv4_conf: &'a [(Ipv4Conf, u32)],
    /// How the IPv6 link-local address is made.
    pub ipv6_address_mode: Option<Ipv6AddressMode>,
}

impl<'a> LinkChange<'a> {
    /// No change yet to the link `index`.
    pub fn of(index: u32) -> Self {
        Self {
            index,
            ..Self::default()
        }
    }

    /// Appends the body of the `RTM_NEWLINK` that asks for the change.
    pub(super) fn put(&self, body: &mut Vec<u8>) {
        put_header(body, self.index, self.up);
        if let Some(name) = self.name {
            string(body, IFLA_IFNAME, name);
        }
        if let Some(alias) = self.alias {
            string(body, IFLA_IFALIAS, alias);
        }
        if let Some(mac) = self.mac {
            attribute(body, IFLA_ADDRESS, &mac.0);
        }
        let netns = self.netns.map(|netns| netns.as_fd().as_raw_fd() as u32);
        let numbers = [
            (IFLA_MTU, self.mtu),
            (IFLA_GROUP, self.group),
            (IFLA_MASTER, self.master),
            (IFLA_NET_NS_FD, netns),
        ];
        for (kind, value) in numbers {
            if let Some(value) = value {
                number(body, kind, value);
            }
        }
        if !self.ipv4_conf.is_empty() || self.ipv6_address_mode.is_some() {
            nest(body, IFLA_AF_SPEC, |body| self.put_families(body));
        }
    }

    /// Appends what is said to the address families.
    fn put_families(&self, body: &mut Vec<u8>) {
        if !self.ipv4_conf.is_empty() {
            nest(body, libc::AF_INET as u16, |body| {
                nest(body, IFLA_INET_CONF, |body| {
                    for (parameter, value) in self.ipv4_conf {
                        number(body, *parameter as u16, *value);
                    }
                });
            });
        }
        if let Some(mode) = self.ipv6_address_mode {
            nest(body, libc::AF_INET6 as u16, |body| {
                attribute(body, IFLA_INET6_ADDR_GEN_MODE, &[mode as u8]);
            });
        }
    }
}

impl Requests {
    /// Changes a link.
    pub fn change_link(&mut self, change: &LinkChange<'_>) -> &mut Self {
        let object = format!("number {}", change.index);
        self.push("change link", object, libc::RTM_NEWLINK, 0, |body| {
            change.put(body)
        })
    }

    /// Deletes a link; the other end of a veth pair goes with it. Takes 5 to 35 ms, because the
    /// kernel waits until no processor uses the link any more.
    pub fn delete_link(&mut self, index: u32) -> &mut Self {
        let object = format!("number {index}");
        self.push("delete link", object, libc::RTM_DELLINK, 0, |body| {
            put_header(body, index, None);
        })
    }

    /// Deletes the link with the name `name`.
    pub fn delete_link_named(&mut self, name: &str) -> &mut Self {
        self.push("delete link", name, libc::RTM_DELLINK, 0, |body| {
            put_header(body, 0, None);
            string(body, IFLA_IFNAME, name);
        })
    }
}

impl RouteSocket {
    /// Changes a link.
    pub fn change_link(&mut self, change: &LinkChange<'_>) -> Result<()> {
        self.run(Requests::new().change_link(change))
    }

    /// Sets a link up.
    pub fn set_up(&mut self, index: u32) -> Result<()> {
        self.change_link(&LinkChange {
            up: Some(true),
            ..LinkChange::of(index)
        })
    }

    /// Sets a link down.
    pub fn set_down(&mut self, index: u32) -> Result<()> {
        self.change_link(&LinkChange {
            up: Some(false),
            ..LinkChange::of(index)
        })
    }

    /// Sets the largest packet in bytes.
    pub fn set_mtu(&mut self, index: u32, mtu: u32) -> Result<()> {
        self.change_link(&LinkChange {
            mtu: Some(mtu),
            ..LinkChange::of(index)
        })
    }

    /// Gives a link another name.
    pub fn rename(&mut self, index: u32, name: &str) -> Result<()> {
        self.change_link(&LinkChange {
            name: Some(name),
            ..LinkChange::of(index)
        })
    }

    /// Makes a link a port of the bridge `master`, or of none.
    pub fn set_master(&mut self, index: u32, master: Option<u32>) -> Result<()> {
        let master = Some(master.unwrap_or(0));
        self.change_link(&LinkChange {
            master,
            ..LinkChange::of(index)
        })
    }

    /// Moves a link to another namespace, where it keeps its name and gets an index that is free.
    pub fn move_to(&mut self, index: u32, netns: &Netns) -> Result<()> {
        self.change_link(&LinkChange {
            netns: Some(netns),
            ..LinkChange::of(index)
        })
    }

    /// Deletes a link; see [`Requests::delete_link`].
    pub fn delete_link(&mut self, index: u32) -> Result<()> {
        self.run(Requests::new().delete_link(index))
    }

    /// Deletes the link with the name `name`; see [`Requests::delete_link`].
    pub fn delete_link_named(&mut self, name: &str) -> Result<()> {
        self.run(Requests::new().delete_link_named(name))
    }
}
