//! Routes: one value type for wanted and observed ones.

use std::fmt;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink_packet_core::Parseable;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric,
    RouteProtocol, RouteScope, RouteType,
};

use crate::netlink::{Message, put};
use crate::request::{CREATE, REPLACE, Requests, RouteSocket};
use crate::scope::Scope;
use crate::{Cause, Result};

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

/// What happens to a packet that takes a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum RouteKind {
    /// It is sent on.
    #[default]
    Unicast,
    /// It is delivered here.
    Local,
    /// It is delivered here and sent as a broadcast.
    Broadcast,
    /// It is delivered here, as one of several machines (IPv6).
    Anycast,
    /// It goes to a group.
    Multicast,
    /// It is dropped without a word.
    Blackhole,
    /// It is dropped, and the sender is told that the host is unreachable.
    Unreachable,
    /// It is dropped, and the sender is told that this is forbidden.
    Prohibit,
    /// This table says nothing; the next one decides.
    Throw,
    /// Any other number of `RTN_*`.
    Other(u8),
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

/// One step towards the wanted routes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteChange {
    /// Adds a route; fails with `EEXIST` if one to the same destination with the same metric is
    /// in the table, whoever made it.
    Add(Route),
    /// Adds a route in the place of the one to the same destination with the same metric, whoever
    /// made that.
    Replace(Route),
    /// Deletes the route that has all the given properties; fails with `ESRCH` if there is none.
    Delete(Route),
}

impl Requests {
    /// Adds a route; see [`RouteChange::Add`].
    pub fn add_route(&mut self, route: &Route) -> &mut Self {
        let flags = CREATE;
        self.push(
            "add route",
            route.to_string(),
            libc::RTM_NEWROUTE,
            flags,
            &route.message(),
        )
    }

    /// Adds a route or puts it in the place of another; see [`RouteChange::Replace`].
    pub fn replace_route(&mut self, route: &Route) -> &mut Self {
        let flags = REPLACE;
        self.push(
            "replace route",
            route.to_string(),
            libc::RTM_NEWROUTE,
            flags,
            &route.message(),
        )
    }

    /// Deletes a route; see [`RouteChange::Delete`].
    pub fn delete_route(&mut self, route: &Route) -> &mut Self {
        let mut message = route.message();
        if route.multipath {
            message.attributes.retain(|attribute| {
                !matches!(
                    attribute,
                    RouteAttribute::Gateway(_) | RouteAttribute::Oif(_)
                )
            });
        }
        // IPv4 compares the scope unless it is RT_SCOPE_NOWHERE (`fib_table_delete`).
        self.push(
            "delete route",
            route.to_string(),
            libc::RTM_DELROUTE,
            0,
            &message,
        )
    }
}

/// Which routes to list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RouteFilter {
    /// Only these families.
    pub family: Option<Family>,
    /// Only this table; `None` is all.
    pub table: Option<u32>,
    /// Only routes made by this protocol.
    pub protocol: Option<u8>,
    /// Only routes through this link.
    pub link: Option<u32>,
}

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl RouteFilter {
    fn admits(&self, route: &Route) -> bool {
        let family = if route.destination.is_ipv6() {
            Family::V6
        } else {
            Family::V4
        };
        self.family.is_none_or(|wanted| wanted == family)
            && self.table.is_none_or(|wanted| wanted == route.table)
            && self.protocol.is_none_or(|wanted| wanted == route.protocol)
            && self.link.is_none_or(|wanted| route.link == Some(wanted))
    }

    /// The body of the `RTM_GETROUTE`, so that the kernel leaves out what is not wanted
    /// (`ip_valid_fib_dump_req`, net/ipv4/fib_frontend.c).
    fn message(&self, family: AddressFamily) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        message.header.protocol = RouteProtocol::from(self.protocol.unwrap_or(0));
        message
            .attributes
            .extend(self.table.map(RouteAttribute::Table));
        message
            .attributes
            .extend(self.link.map(RouteAttribute::Oif));
        message
    }
}

impl RouteSocket {
    /// The routes that pass `filter`. Entries of the routing cache are left out.
    pub fn routes(&mut self, filter: RouteFilter) -> Result<Vec<Route>> {
        let mut routes = Vec::new();
        for family in [Family::V4, Family::V6] {
            if filter.family.is_none_or(|wanted| wanted == family) {
                routes.extend(self.routes_of(filter, family)?);
            }
        }
        Ok(routes)
    }

    fn routes_of(&mut self, filter: RouteFilter, family: Family) -> Result<Vec<Route>> {
        let query = filter.message(self::family(family == Family::V6));
        let wanted = |answer: Message<'_>| {
            Ok(Route::parse(answer.payload)?.filter(|route| filter.admits(route)))
        };
        match self
            .socket
            .dump(libc::RTM_GETROUTE, |body| put(body, &query), wanted)
        {
            Ok(routes) => Ok(routes),
            // A table that was never written to, a link that is gone, IPv6 switched off.
            Err(cause) => match cause.errno() {
                Some(libc::ENOENT | libc::ENODEV | libc::EAFNOSUPPORT) => Ok(Vec::new()),
                _ => Err(cause.during("list", "routes")),
            },
        }
    }

    /// Adds a route; see [`RouteChange::Add`].
    pub fn add_route(&mut self, route: &Route) -> Result<()> {
        self.run(Requests::new().add_route(route))
    }

    /// Adds or replaces a route; see [`RouteChange::Replace`].
    pub fn replace_route(&mut self, route: &Route) -> Result<()> {
        self.run(Requests::new().replace_route(route))
    }

    /// Deletes a route; see [`RouteChange::Delete`].
    pub fn delete_route(&mut self, route: &Route) -> Result<()> {
        self.run(Requests::new().delete_route(route))
    }

    /// Carries out all changes in their order, many to a system call, and tells what became of
    /// each.
    pub fn apply(&mut self, changes: &[RouteChange]) -> Result<Vec<Result<()>>> {
        let mut requests = Requests::new();
        for change in changes {
            match change {
                RouteChange::Add(route) => requests.add_route(route),
                RouteChange::Replace(route) => requests.replace_route(route),
                RouteChange::Delete(route) => requests.delete_route(route),
            };
        }
        self.run_each(&mut requests)
    }

    /// The way that a packet to `destination` would take, as `ip route get` tells it: the route
    /// with the prefix of the destination itself and the source that would be chosen. Fails with
    /// the error that the sender would get, such as `ENETUNREACH`.
    pub fn route_get(&mut self, destination: IpAddr) -> Result<Route> {
        let mut query = RouteMessage::default();
        query.header.address_family = family(destination.is_ipv6());
        query.header.destination_prefix_length = if destination.is_ipv6() { 128 } else { 32 };
        query
            .attributes
            .push(RouteAttribute::Destination(destination.into()));
        let parse = |answer: Message<'_>| {
            let mut message = RouteMessage::parse(answer.payload)?;
            // The answer describes an entry of the routing cache.
            message.header.flags.remove(RouteFlags::Cloned);
            Route::from_message(&message)?.ok_or_else(|| Cause::Malformed("not an IP route".into()))
        };
        self.socket
            .query(libc::RTM_GETROUTE, |body| put(body, &query), parse)
            .map_err(|cause| cause.during("find the route to", destination))
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

impl From<u8> for RouteKind {
    fn from(number: u8) -> Self {
        match number {
            1 => Self::Unicast,
            2 => Self::Local,
            3 => Self::Broadcast,
            4 => Self::Anycast,
            5 => Self::Multicast,
            6 => Self::Blackhole,
            7 => Self::Unreachable,
            8 => Self::Prohibit,
            9 => Self::Throw,
            other => Self::Other(other),
        }
    }
}

impl From<RouteKind> for u8 {
    fn from(kind: RouteKind) -> Self {
        match kind {
            RouteKind::Unicast => 1,
            RouteKind::Local => 2,
            RouteKind::Broadcast => 3,
            RouteKind::Anycast => 4,
            RouteKind::Multicast => 5,
            RouteKind::Blackhole => 6,
            RouteKind::Unreachable => 7,
            RouteKind::Prohibit => 8,
            RouteKind::Throw => 9,
            RouteKind::Other(other) => other,
        }
    }
}

impl fmt::Display for RouteKind {
    /// As `ip` prints it; nothing for unicast.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unicast => "",
            Self::Local => "local ",
            Self::Broadcast => "broadcast ",
            Self::Anycast => "anycast ",
            Self::Multicast => "multicast ",
            Self::Blackhole => "blackhole ",
            Self::Unreachable => "unreachable ",
            Self::Prohibit => "prohibit ",
            Self::Throw => "throw ",
            Self::Other(number) => return write!(f, "type {number} "),
        })
    }
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
