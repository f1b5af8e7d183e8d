//! Writing and listing routes.

use std::net::IpAddr;

use netlink_packet_core::Parseable;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{RouteAttribute, RouteFlags, RouteMessage, RouteProtocol};

use super::{Route, family};
use crate::netlink::{Message, put};
use crate::request::{CREATE, REPLACE, Requests, RouteSocket};
use crate::{Cause, Result};

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
        let query = filter.message(super::family(family == Family::V6));
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
