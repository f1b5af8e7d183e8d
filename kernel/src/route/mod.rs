//! Routes: one value type for wanted and observed ones.

mod change;
mod kind;
#[cfg(test)]
mod tests;

pub use change::{Family, RouteChange, RouteFilter};
pub use kind::RouteKind;

use std::fmt;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink_packet_core::Parseable;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric,
    RouteProtocol, RouteScope, RouteType,
};

use crate::Cause;
use crate::scope::Scope;

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
    /// The link they leave by. IPv6 observes the loopback for unreachable routes.
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

    fn message(&self) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header = RouteHeader {
            address_family: family(self.destination.is_ipv6()),
            destination_prefix_length: self.destination.prefix(),
            // Numbers above 255 stand in RTA_TABLE only; RT_TABLE_COMPAT here.
            table: u8::try_from(self.table).unwrap_or(252),
            protocol: RouteProtocol::from(self.protocol),
            scope: RouteScope::from(u8::from(self.scope)),
            kind: RouteType::from(u8::from(self.kind)),
            ..RouteHeader::default()
        };
        message.header.flags.set(RouteFlags::Onlink, self.onlink);
        let attributes = &mut message.attributes;
        attributes.push(RouteAttribute::Destination(
            self.destination.network().into(),
        ));
        attributes.extend(self.gateway.map(|ip| RouteAttribute::Gateway(ip.into())));
        attributes.extend(self.link.map(RouteAttribute::Oif));
        attributes.extend(self.source.map(|ip| RouteAttribute::PrefSource(ip.into())));
        if self.metric != 0 {
            attributes.push(RouteAttribute::Priority(self.metric));
        }
        if self.table > 255 {
            attributes.push(RouteAttribute::Table(self.table));
        }
        let mtu = self.mtu.map(RouteMetric::Mtu);
        let metrics: Vec<_> = mtu
            .into_iter()
            .chain(self.advmss.map(RouteMetric::Advmss))
            .collect();
        if !metrics.is_empty() {
            attributes.push(RouteAttribute::Metrics(metrics));
        }
        message
    }

    /// Reads the body of an `RTM_NEWROUTE` or `RTM_DELROUTE`; `None` for other families and for
    /// entries of the routing cache.
    pub(crate) fn parse(payload: &[u8]) -> std::result::Result<Option<Self>, Cause> {
        Self::from_message(&RouteMessage::parse(payload)?)
    }

    pub(crate) fn from_message(message: &RouteMessage) -> std::result::Result<Option<Self>, Cause> {
        let header = &message.header;
        let any = match header.address_family {
            AddressFamily::Inet => IpAddr::from([0u8; 4]),
            AddressFamily::Inet6 => IpAddr::from([0u8; 16]),
            _ => return Ok(None),
        };
        if header.flags.contains(RouteFlags::Cloned) {
            return Ok(None);
        }
        let network = |ip: IpAddr| {
            IpNetwork::new(ip, header.destination_prefix_length)
                .map_err(|error| Cause::Malformed(error.to_string()))
        };
        let mut route = Self {
            kind: RouteKind::from(u8::from(header.kind)),
            scope: Scope::from(u8::from(header.scope)),
            protocol: u8::from(header.protocol),
            table: header.table.into(),
            metric: 0,
            onlink: header.flags.contains(RouteFlags::Onlink),
            ..Self::to(network(any)?)
        };
        for attribute in &message.attributes {
            if let RouteAttribute::Destination(address) = attribute {
                route.destination = network(ip(address).unwrap_or(any))?;
            } else {
                route.set(attribute);
            }
        }
        Ok(Some(route))
    }

    fn set(&mut self, attribute: &RouteAttribute) {
        match attribute {
            RouteAttribute::Gateway(address) => self.gateway = ip(address),
            RouteAttribute::Oif(index) => self.link = Some(*index),
            RouteAttribute::PrefSource(address) => self.source = ip(address),
            RouteAttribute::Priority(metric) => self.metric = *metric,
            RouteAttribute::Table(table) => self.table = *table,
            RouteAttribute::Metrics(metrics) => {
                for metric in metrics {
                    match metric {
                        RouteMetric::Mtu(mtu) => self.mtu = Some(*mtu),
                        RouteMetric::Advmss(advmss) => self.advmss = Some(*advmss),
                        _ => {}
                    }
                }
            }
            RouteAttribute::MultiPath(hops) => {
                self.multipath = true;
                if let Some(hop) = hops.first() {
                    self.link = Some(hop.interface_index);
                    hop.attributes
                        .iter()
                        .for_each(|attribute| self.set(attribute));
                }
            }
            _ => {}
        }
    }
}

fn family(v6: bool) -> AddressFamily {
    if v6 {
        AddressFamily::Inet6
    } else {
        AddressFamily::Inet
    }
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
