//! Routes: one value type for wanted and observed ones.

mod change;
mod kind;
#[cfg(test)]
mod tests;

pub use change::{RouteChange, RouteFilter};
pub use kind::RouteKind;

use std::fmt;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink_packet_core::{DecodeError, Emitable, NlaBuffer, ParseableParametrized};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteLwEnCapType, RouteMessage,
    RouteMetric, RouteVia,
};

use crate::scope::Scope;
use crate::{Cause, IpFamily, packet};

/// Stands in the header for tables above 255, which only an attribute can tell
/// (`RT_TABLE_COMPAT`, linux/rtnetlink.h).
const TABLE_COMPAT: u8 = 252;

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
    /// The kernel, from the advertisement of an IPv6 router.
    pub const RA: u8 = 9;
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
        let mut message = RouteMessage::default();
        message.header.address_family = IpFamily::of(destination).number().into();
        message.header.destination_prefix_length = self.destination.prefix();
        message.header.table = u8::try_from(self.table).unwrap_or(TABLE_COMPAT);
        message.header.protocol = self.protocol.into();
        message.header.scope = u8::from(self.scope).into();
        message.header.kind = u8::from(self.kind).into();
        if self.onlink {
            message.header.flags = RouteFlags::Onlink;
        }
        let high_table = Some(self.table).filter(|table| *table > 255);
        let attributes = [
            Some(RouteAttribute::Destination(destination.into())),
            self.next_hop(),
            // A route with several next hops can only be deleted, whatever they are.
            self.link
                .filter(|_| !self.multipath)
                .map(RouteAttribute::Oif),
            self.source
                .map(|source| RouteAttribute::PrefSource(source.into())),
            (self.metric != 0).then_some(RouteAttribute::Priority(self.metric)),
            high_table.map(RouteAttribute::Table),
            self.metrics(),
        ];
        message.attributes.extend(attributes.into_iter().flatten());
        packet::put(body, &message);
    }

    fn next_hop(&self) -> Option<RouteAttribute> {
        let gateway = self.gateway.filter(|_| !self.multipath)?;
        Some(if gateway.is_ipv4() == self.destination.is_ipv4() {
            RouteAttribute::Gateway(gateway.into())
        } else {
            RouteAttribute::Via(gateway.into())
        })
    }

    fn metrics(&self) -> Option<RouteAttribute> {
        let mtu = self.mtu.map(RouteMetric::Mtu);
        let metrics: Vec<_> = mtu
            .into_iter()
            .chain(self.advmss.map(RouteMetric::Advmss))
            .collect();
        (!metrics.is_empty()).then_some(RouteAttribute::Metrics(metrics))
    }

    /// Reads the body of an `RTM_NEWROUTE` or `RTM_DELROUTE`; `None` for other families and for
    /// entries of the routing cache.
    pub(crate) fn parse(payload: &[u8]) -> std::result::Result<Option<Self>, Cause> {
        let header = RouteHeader::parse(payload).map_err(packet::malformed)?;
        if header.flags.contains(RouteFlags::Cloned) {
            return Ok(None);
        }
        Self::parse_behind(&header, payload)
    }

    /// As [`Route::parse`], also for entries of the routing cache.
    fn parse_any(payload: &[u8]) -> std::result::Result<Option<Self>, Cause> {
        let header = RouteHeader::parse(payload).map_err(packet::malformed)?;
        Self::parse_behind(&header, payload)
    }

    fn parse_behind(
        header: &RouteHeader,
        payload: &[u8],
    ) -> std::result::Result<Option<Self>, Cause> {
        let any = match i32::from(u8::from(header.address_family)) {
            libc::AF_INET => IpAddr::from([0u8; 4]),
            libc::AF_INET6 => IpAddr::from([0u8; 16]),
            _ => return Ok(None),
        };
        let rest = packet::behind_header(payload, header.buffer_len());
        let attributes: Vec<_> = attributes(header, rest).collect();
        let destination = attributes.iter().find_map(|part| match part {
            Part::Attribute(RouteAttribute::Destination(address)) => ip(address),
            _ => None,
        });
        let network = IpNetwork::new(destination.unwrap_or(any), header.destination_prefix_length)
            .map_err(|error| Cause::Malformed(error.to_string()))?;
        let mut route = Self {
            kind: u8::from(header.kind).into(),
            scope: u8::from(header.scope).into(),
            protocol: header.protocol.into(),
            table: header.table.into(),
            metric: 0,
            onlink: header.flags.contains(RouteFlags::Onlink),
            ..Self::to(network)
        };
        for part in attributes {
            match part {
                Part::Attribute(attribute) => route.set(attribute),
                Part::UnreadHops => route.multipath = true,
            }
        }
        // IPv6 shows the loopback as the link of routes that lead nowhere.
        if route.kind.leads_nowhere() {
            route.link = None;
        }
        Ok(Some(route))
    }

    fn set(&mut self, attribute: RouteAttribute) {
        match attribute {
            RouteAttribute::Gateway(address) => self.gateway = ip(&address),
            RouteAttribute::Via(RouteVia::Inet(v4)) => self.gateway = Some(v4.into()),
            RouteAttribute::Via(RouteVia::Inet6(v6)) => self.gateway = Some(v6.into()),
            RouteAttribute::Oif(link) => self.link = Some(link),
            RouteAttribute::PrefSource(address) => self.source = ip(&address),
            RouteAttribute::Priority(metric) => self.metric = metric,
            RouteAttribute::Table(table) => self.table = table,
            RouteAttribute::Metrics(metrics) => {
                for metric in metrics {
                    match metric {
                        RouteMetric::Mtu(mtu) => self.mtu = Some(mtu),
                        RouteMetric::Advmss(advmss) => self.advmss = Some(advmss),
                        _ => {}
                    }
                }
            }
            RouteAttribute::MultiPath(hops) => {
                self.multipath = true;
                if let Some(first) = hops.into_iter().next() {
                    self.link = Some(first.interface_index);
                    first.attributes.into_iter().for_each(|part| self.set(part));
                }
            }
            _ => {}
        }
    }
}

/// The attributes of a route that are read.
const READ: [u16; 9] = [
    libc::RTA_DST,
    libc::RTA_OIF,
    libc::RTA_GATEWAY,
    libc::RTA_PRIORITY,
    libc::RTA_PREFSRC,
    libc::RTA_METRICS,
    libc::RTA_MULTIPATH,
    libc::RTA_TABLE,
    libc::RTA_VIA,
];

/// What is read of a route.
enum Part {
    Attribute(RouteAttribute),
    /// It has several next hops, and something about them is not understood.
    UnreadHops,
}

fn attributes(header: &RouteHeader, bytes: &[u8]) -> impl Iterator<Item = Part> {
    let parameters = (header.address_family, header.kind, RouteLwEnCapType::None);
    packet::attributes(bytes, move |attribute: &NlaBuffer<&[u8]>| {
        let kind = attribute.kind();
        if !READ.contains(&kind) {
            return Err(DecodeError::from("not read"));
        }
        match RouteAttribute::parse_with_param(attribute, parameters) {
            Ok(attribute) => Ok(Part::Attribute(attribute)),
            Err(_) if kind == libc::RTA_MULTIPATH => Ok(Part::UnreadHops),
            Err(error) => Err(error),
        }
    })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some((*v4).into()),
        RouteAddress::Inet6(v6) => Some((*v6).into()),
        _ => None,
    }
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
