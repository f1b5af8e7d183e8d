//! Changing links that exist.

use std::os::fd::{AsFd, AsRawFd};

use netlink_packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute,
};

use super::{Mac, message};
use crate::netns::Netns;
use crate::request::{Requests, RouteSocket};
use crate::{Result, packet};

/// `IFLA_INET_CONF` (linux/if_link.h): IPv4 parameters, each an attribute.
const IPV4_CONF: u16 = 1;

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

/// What is to be different about a link; everything else stays as it is.
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
        let mut change = message(self.index, self.up);
        let netns = self.netns.map(|netns| netns.as_fd().as_raw_fd());
        let families = self.families();
        let attributes = [
            self.name.map(|name| LinkAttribute::IfName(name.to_owned())),
            self.alias
                .map(|alias| LinkAttribute::IfAlias(alias.to_owned())),
            self.mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())),
            self.mtu.map(LinkAttribute::Mtu),
            self.group.map(LinkAttribute::Group),
            self.master.map(LinkAttribute::Controller),
            netns.map(LinkAttribute::NetNsFd),
            (!families.is_empty()).then_some(LinkAttribute::AfSpecUnspec(families)),
        ];
        change.attributes.extend(attributes.into_iter().flatten());
        packet::put(body, &change);
    }

    /// What is said to the address families.
    fn families(&self) -> Vec<AfSpecUnspec> {
        let mut families = Vec::new();
        if !self.ipv4_conf.is_empty() {
            let parameters = self.ipv4_conf.iter();
            let parameters: Vec<_> = parameters
                .map(|(parameter, value)| packet::number(*parameter as u16, *value))
                .collect();
            let conf = AfSpecInet::Other(packet::nested(IPV4_CONF, &parameters));
            families.push(AfSpecUnspec::Inet(vec![conf]));
        }
        if let Some(mode) = self.ipv6_address_mode {
            let mode = match mode {
                Ipv6AddressMode::Eui64 => In6AddrGenMode::Eui64,
                Ipv6AddressMode::None => In6AddrGenMode::None,
            };
            families.push(AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(mode)]));
        }
        families
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
            packet::put(body, &message(index, None));
        })
    }

    /// Deletes the link with the name `name`.
    pub fn delete_link_named(&mut self, name: &str) -> &mut Self {
        self.push("delete link", name, libc::RTM_DELLINK, 0, |body| {
            let mut link = message(0, None);
            link.attributes = vec![LinkAttribute::IfName(name.to_owned())];
            packet::put(body, &link);
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

    /// Deletes a link; see [`Requests::delete_link`].
    pub fn delete_link(&mut self, index: u32) -> Result<()> {
        self.run(Requests::new().delete_link(index))
    }

    /// Deletes the link with the name `name`; see [`Requests::delete_link`].
    pub fn delete_link_named(&mut self, name: &str) -> Result<()> {
        self.run(Requests::new().delete_link_named(name))
    }
}
