//! Routes: one value type for wanted and observed ones.

mod change;
mod kind;
#[cfg(test)]
mod tests;

pub use change::{RouteChange, RouteFilter};
pub use kind::RouteKind;

use std::fmt;
use std::net::IpAddr;

use crate::Cause;
use crate::netlink::{self, attributes, ip, nest, number, word};
use crate::scope::Scope;
use ipnetwork::IpNetwork;

// linux/rtnetlink.h
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_METRICS: u16 = 8;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RTA_VIA: u16 = 18;
const RTAX_MTU: u16 = 2;
const RTAX_ADVMSS: u16 = 8;
const RTNH_F_ONLINK: u32 = 4;
const RTM_F_CLONED: u32 = 0x200;
/// Stands in the header for tables above 255, which only RTA_TABLE can tell.
const RT_TABLE_COMPAT: u8 = 252;
/// Size of `struct rtmsg` in bytes.
const HEADER: usize = 12;
/// Size of `struct rtnexthop` in bytes.
const HOP_HEADER: usize = 8;

/// The main routing table (`RT_TABLE_MAIN`).
pub const TABLE_MAIN: u32 = 254;
/// The table of the machine's own addresses (`RT_TABLE_LOCAL`).
pub const TABLE_LOCAL: u32 = 255;

/// Who made a route (`RTPROT_*`, linux/rtnetlink.h).
pub mod protocol {
    /// The kernel itself.
    pub const KERNEL: u8 = 2;
    /// What `ip route add` writes if nothing else is said.
    pub const BOOT: u8 = 3;
    /// An administrator.
    pub const STATIC: u8 = 4;
}

/// A route, wanted or observed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    /// Where the packets go to; host bits are zero.
    pub destination: IpNetwork,
    /// What happens to them.
    pub kind: RouteKind,
    /// The next router; without it the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// The link they leave by; none if they go nowhere.
    pub link: Option<u32>,
    /// How far away the destination is; IPv6 knows only [`Scope::Universe`].
    pub scope: Scope,
    /// Who made it; see [`protocol`].
    pub protocol: u8,
    /// The routing table.
    pub table: u32,
    /// The lower one wins. IPv6 turns 0 into 1024.
    pub metric: u32,
    /// The source address of packets that start here.
    pub source: Option<IpAddr>,
    /// The largest packet in bytes along this route.
    pub mtu: Option<u32>,
    /// The largest TCP segment in bytes to ask the other side for.
    pub advmss: Option<u32>,
    /// The gateway is taken to be on the link, even if no address says so.
    pub onlink: bool,
    /// It has several next hops, of which gateway and link tell the first. Only observed: such
    /// routes are not written, but can be deleted.
    pub multipath: bool,
}

impl Route {
    /// A unicast route to `destination` in the main table, by protocol [`protocol::BOOT`]. Host
    /// bits of the destination are cleared.
    pub fn to(destination: IpNetwork) -> Self {
        Self {
            destination: without_host_bits(destination),
            kind: RouteKind::Unicast,
            gateway: None,
            link: None,
            scope: Scope::Universe,
            protocol: protocol::BOOT,
            table: TABLE_MAIN,
            metric: if destination.is_ipv6() { 1024 } else { 0 },
            source: None,
            mtu: None,
            advmss: None,
            onlink: false,
            multipath: false,
        }
    }

    /// Appends the body of an `RTM_NEWROUTE` or `RTM_DELROUTE`.
    fn put(&self, body: &mut Vec<u8>) {
        let destination = self.destination.network();
        let header = [
            netlink::family(destination),
            self.destination.prefix(),
            0,
            0,
            u8::try_from(self.table).unwrap_or(RT_TABLE_COMPAT),
            self.protocol,
            self.scope.into(),
            self.kind.into(),
        ];
        put_header(body, header, if self.onlink { RTNH_F_ONLINK } else { 0 });
        netlink::address(body, RTA_DST, destination);
        // A route with several next hops can only be deleted, whatever they are.
        if !self.multipath {
            self.put_hop(body);
        }
        if let Some(source) = self.source {
            netlink::address(body, RTA_PREFSRC, source);
        }
        if self.metric != 0 {
            number(body, RTA_PRIORITY, self.metric);
        }
        if self.table > 255 {
            number(body, RTA_TABLE, self.table);
        }
        if self.mtu.or(self.advmss).is_some() {
            nest(body, RTA_METRICS, |body| {
                for (kind, value) in [(RTAX_MTU, self.mtu), (RTAX_ADVMSS, self.advmss)] {
                    if let Some(value) = value {
                        number(body, kind, value);
                    }
                }
            });
        }
    }

    fn put_hop(&self, body: &mut Vec<u8>) {
        match self.gateway {
            Some(gateway) if gateway.is_ipv4() == self.destination.is_ipv4() => {
                netlink::address(body, RTA_GATEWAY, gateway);
            }
            // A gateway of the other family: struct rtvia, the family and the address.
            Some(gateway) => {
                let mut via = u16::from(netlink::family(gateway)).to_ne_bytes().to_vec();
                match gateway {
                    IpAddr::V4(v4) => via.extend_from_slice(&v4.octets()),
                    IpAddr::V6(v6) => via.extend_from_slice(&v6.octets()),
                }
                netlink::attribute(body, RTA_VIA, &via);
            }
            None => {}
        }
        if let Some(link) = self.link {
            number(body, RTA_OIF, link);
        }
    }

    /// Reads the body of an `RTM_NEWROUTE` or `RTM_DELROUTE`; `None` for other families and for
    /// entries of the routing cache.
    pub(crate) fn parse(payload: &[u8]) -> std::result::Result<Option<Self>, Cause> {
        let flags = payload.get(8..HEADER).and_then(word).unwrap_or(0);
        if flags & RTM_F_CLONED != 0 {
            return Ok(None);
        }
        Self::parse_any(payload)
    }

    /// As [`Route::parse`], also for entries of the routing cache.
    fn parse_any(payload: &[u8]) -> std::result::Result<Option<Self>, Cause> {
        let (header, rest) = payload
            .split_first_chunk::<HEADER>()
            .ok_or_else(|| Cause::Malformed("a route without a header".into()))?;
        let [
            family,
            prefix,
            _,
            _,
            table,
            protocol,
            scope,
            kind,
            flags @ ..,
        ] = *header;
        let any = match i32::from(family) {
            libc::AF_INET => IpAddr::from([0u8; 4]),
            libc::AF_INET6 => IpAddr::from([0u8; 16]),
            _ => return Ok(None),
        };
        let destination = attributes(rest).find(|(kind, _)| *kind == RTA_DST);
        let destination = destination.and_then(|(_, value)| ip(value)).unwrap_or(any);
        let network = IpNetwork::new(destination, prefix)
            .map_err(|error| Cause::Malformed(error.to_string()))?;
        let mut route = Self {
            kind: kind.into(),
            scope: scope.into(),
            protocol,
            table: table.into(),
            metric: 0,
            onlink: u32::from_ne_bytes(flags) & RTNH_F_ONLINK != 0,
            ..Self::to(network)
        };
        for (kind, value) in attributes(rest) {
            route.set(kind, value);
        }
        // IPv6 shows the loopback as the link of routes that lead nowhere.
        if route.kind.leads_nowhere() {
            route.link = None;
        }
        Ok(Some(route))
    }

    fn set(&mut self, kind: u16, value: &[u8]) {
        match kind {
            RTA_GATEWAY => self.gateway = ip(value),
            RTA_VIA => self.gateway = value.get(2..).and_then(ip),
            RTA_OIF => self.link = word(value),
            RTA_PREFSRC => self.source = ip(value),
            RTA_PRIORITY => self.metric = word(value).unwrap_or(0),
            RTA_TABLE => self.table = word(value).unwrap_or(self.table),
            RTA_METRICS => {
                for (kind, value) in attributes(value) {
                    match kind {
                        RTAX_MTU => self.mtu = word(value),
                        RTAX_ADVMSS => self.advmss = word(value),
                        _ => {}
                    }
                }
            }
            RTA_MULTIPATH => self.set_first_hop(value),
            _ => {}
        }
    }

    /// Takes in the first of several next hops: a `struct rtnexthop` and its attributes.
    fn set_first_hop(&mut self, value: &[u8]) {
        self.multipath = true;
        let Some((header, _)) = value.split_first_chunk::<HOP_HEADER>() else {
            return;
        };
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        self.link = word(&header[4..]);
        for (kind, value) in attributes(value.get(HOP_HEADER..length).unwrap_or(&[])) {
            match kind {
                RTA_GATEWAY => self.gateway = ip(value),
                RTA_VIA => self.gateway = value.get(2..).and_then(ip),
                _ => {}
            }
        }
    }
}

/// Appends a `struct rtmsg`: family, lengths of destination and source prefix, TOS, table,
/// protocol, scope, type; flags.
fn put_header(body: &mut Vec<u8>, bytes: [u8; 8], flags: u32) {
    body.extend_from_slice(&bytes);
    body.extend_from_slice(&flags.to_ne_bytes());
}

fn without_host_bits(network: IpNetwork) -> IpNetwork {
    IpNetwork::new(network.network(), network.prefix()).unwrap_or(network)
}

impl fmt::Display for Route {
    /// In the manner of `ip route`, with link numbers in the place of names.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.kind, self.destination)?;
        if let Some(gateway) = self.gateway {
            write!(f, " via {gateway}")?;
        }
        if let Some(link) = self.link {
            write!(f, " on link {link}")?;
        }
        if self.table != TABLE_MAIN {
            write!(f, " in table {}", self.table)?;
        }
        Ok(())
    }
}
