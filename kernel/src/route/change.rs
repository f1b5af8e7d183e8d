//! Writing and listing routes.

use std::net::IpAddr;

use netlink_packet_route::route::{RouteAttribute, RouteMessage};

use super::Route;
use crate::netlink::Message;
use crate::request::{BESIDE, CREATE, REPLACE, Requests, RouteSocket};
use crate::{Cause, IpFamily, Result, packet};

/// One step towards the wanted routes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteChange {
    /// Adds a route; fails with `EEXIST` if one to the same destination with the same metric is
    /// in the table, no matter which program made it.
    Add(Route),
    /// Adds a route in the place of the one to the same destination with the same metric, no matter
    /// made that.
    Replace(Route),
    /// Deletes the route that has all the given properties; fails with `ESRCH` if there is none.
    Delete(Route),
}

impl Requests {
    /// Adds a route; see [`RouteChange::Add`].
    pub fn add_route(&mut self, route: &Route) -> &mut Self {
        let object = route.to_string();
        self.push("add route", object, libc::RTM_NEWROUTE, CREATE, |body| {
            route.put(body)
        })
    }

    /// Adds a route beside those that are there. Of two to one destination with the same metric the
    /// newer comes first in IPv4, and in IPv6 both are used by turns (`fib_table_insert`,
    /// net/ipv4/fib_trie.c; `fib6_add_rt2node`, net/ipv6/ip6_fib.c). Fails with `EEXIST` only if
    /// the very same route is there.
    pub fn add_route_beside(&mut self, route: &Route) -> &mut Self {
        let object = route.to_string();
        self.push("add route", object, libc::RTM_NEWROUTE, BESIDE, |body| {
            route.put(body)
        })
    }

    /// Adds a route or puts it in the place of another; see [`RouteChange::Replace`].
    pub fn replace_route(&mut self, route: &Route) -> &mut Self {
        let object = route.to_string();
        self.push(
            "replace route",
            object,
            libc::RTM_NEWROUTE,
            REPLACE,
            |body| route.put(body),
        )
    }

    /// Deletes a route; see [`RouteChange::Delete`].
    pub fn delete_route(&mut self, route: &Route) -> &mut Self {
        let object = route.to_string();
        self.push("delete route", object, libc::RTM_DELROUTE, 0, |body| {
            route.put(body)
        })
    }
}

/// Which routes to list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RouteFilter {
    /// Only these families.
    pub family: Option<IpFamily>,
    /// Only this table; `None` is all.
    pub table: Option<u32>,
    /// Only routes made by this protocol.
    pub protocol: Option<u8>,
    /// Only routes through this link.
    pub link: Option<u32>,
}

impl RouteFilter {
    fn admits(&self, route: &Route) -> bool {
        let family = IpFamily::of_network(route.destination);
        self.family.is_none_or(|wanted| wanted == family)
            && self.table.is_none_or(|wanted| wanted == route.table)
            && self.protocol.is_none_or(|wanted| wanted == route.protocol)
            && self.link.is_none_or(|wanted| route.link == Some(wanted))
    }

    /// Appends the body of the `RTM_GETROUTE`, so that the kernel leaves out what is not wanted
    /// (`ip_valid_fib_dump_req`, net/ipv4/fib_frontend.c).
    fn put(&self, body: &mut Vec<u8>, family: IpFamily) {
        let mut query = empty_query(family);
        query.header.protocol = self.protocol.unwrap_or(0).into();
        query
            .attributes
            .extend(self.table.map(RouteAttribute::Table));
        query.attributes.extend(self.link.map(RouteAttribute::Oif));
        packet::put(body, &query);
    }
}

impl RouteSocket {
    /// The routes that pass `filter`. Entries of the routing cache are left out.
    pub fn routes(&mut self, filter: RouteFilter) -> Result<Vec<Route>> {
        let mut routes = Vec::new();
        for family in IpFamily::ALL {
            if filter.family.is_none_or(|wanted| wanted == family) {
                routes.extend(self.routes_of(filter, family)?);
            }
        }
        Ok(routes)
    }

    fn routes_of(&mut self, filter: RouteFilter, family: IpFamily) -> Result<Vec<Route>> {
        let wanted = |answer: Message<'_>| {
            Ok(Route::parse(answer.payload)?.filter(|route| filter.admits(route)))
        };
        match self
            .socket
            .dump(libc::RTM_GETROUTE, |body| filter.put(body, family), wanted)
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
        let put = |body: &mut Vec<u8>| {
            let family = IpFamily::of(destination);
            let mut query = empty_query(family);
            query.header.destination_prefix_length = family.bits();
            query.attributes = vec![RouteAttribute::Destination(destination.into())];
            packet::put(body, &query);
        };
        let parse = |answer: Message<'_>| {
            // The answer describes an entry of the routing cache.
            Route::parse_any(answer.payload)?
                .ok_or_else(|| Cause::Malformed("not an IP route".into()))
        };
        self.socket
            .query(libc::RTM_GETROUTE, put, parse)
            .map_err(|cause| cause.during("find the route to", destination))
    }
}

/// A question about routes whose header names the family and nothing else.
fn empty_query(family: IpFamily) -> RouteMessage {
    let mut query = RouteMessage::default();
    query.header.address_family = family.number().into();
    query
}
