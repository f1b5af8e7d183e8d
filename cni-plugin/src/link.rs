//! The point-to-point link of a container: a veth pair, its addresses and routes.
//!
//! In: the namespace, the addresses with their gateways, the routes. Out: the link, ready to use
//! when the call returns. Must hold: a failure leaves no link behind; nothing waits for duplicate
//! address detection.
//!
//! The host end has the gateway as its address (/32 or /128), the same on every link, and a host
//! route to the container. The container has its address and a route to the gateway, through which
//! everything else goes; so it never asks by ARP for any address but the gateway.

mod operational;

use std::net::{IpAddr, Ipv6Addr};

use ipnetwork::IpNetwork;
use podwire_kernel::address::Address;
use podwire_kernel::link::{Ipv4Conf, Ipv6AddressMode, Link, LinkChange, Mac, Veth, VethEnds};
use podwire_kernel::netns::Netns;
use podwire_kernel::route::{Route, RouteKind, TABLE_LOCAL, TABLE_MAIN};
use podwire_kernel::{Cause, Requests, RouteSocket, Scope, sysctl};

use crate::attachment::{Alias, LINK_GROUP, host_link_name};
use crate::error::Error;
use crate::lease::Owner;
use crate::mtu::{self, SMALLEST_IPV6};
use crate::result::{self, Attached, Interface};
use crate::streams;

/// `RT_SCOPE_LINK` and everything nearer (linux/rtnetlink.h): such routes have no gateway.
const NEAR_SCOPES: std::ops::RangeInclusive<u32> = 253..=255;

/// How far the prefix of a container's address reaches on its interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prefix {
    /// Only to itself: /32 or /128.
    Full,
    /// As far as the subnet that the address comes from, as the reference `ptp` has it. There is
    /// no route to the subnet all the same but through the gateway.
    Subnet,
}

/// What a link is to be.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// The name of the host end.
    pub host_name: &'a str,
    /// The name in the container.
    pub ifname: &'a str,
    /// The namespace of the container.
    pub netns: &'a Netns,
    /// The path of that namespace, for the result.
    pub sandbox: &'a str,
    /// The MTU in bytes; `None` for the kernel's.
    pub mtu: Option<u32>,
    /// Whose link it is.
    pub alias: &'a Alias,
    /// How far the prefix reaches.
    pub prefix: Prefix,
    /// Whether the node is to reach the container from 127.0.0.1 and from ::1.
    pub loopback: Loopback,
}

/// From which of its loopback addresses the node reaches a container through host ports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Loopback {
    /// From 127.0.0.1.
    pub v4: bool,
    /// From ::1.
    pub v6: bool,
}

/// An address of the container and its gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pair {
    address: IpNetwork,
    gateway: IpAddr,
}

/// Makes the link for what IPAM gave, and completes `attached` with its interfaces.
pub fn create(wanted: &Wanted<'_>, attached: &mut Attached) -> Result<(), Error> {
    let pairs = pairs(attached)?;
    check_mtu(wanted.mtu, &pairs)?;
    allow_forwarding(&pairs)?;
    let mut host = RouteSocket::open().map_err(Error::kernel("link"))?;
    let veth = veth(wanted)?;
    let ends = create_veth(&mut host, wanted, &veth)?;
    let built = set_up_host(&mut host, wanted, &ends, (veth.mac, veth.peer_mac), &pairs)
        .and_then(|()| set_up_container(wanted, &ends, veth.peer_mac, &pairs, &attached.routes));
    if let Err(error) = built {
        // The error that stopped us is the one to tell; DEL would remove the link as well.
        let _ = host.delete_link(ends.index);
        return Err(error);
    }
    operational::await_link(&mut host, ends.index);
    // The gateways are on every link, and say nothing of this one.
    let own = has_ipv6(&pairs).then(|| veth.mac.link_local().into());
    operational::await_addresses(&mut host, own.into_iter());
    complete(wanted, &veth, &pairs, attached);
    Ok(())
}

/// Fails if there is a link with this host end.
pub fn refuse_if_there(host_name: &str, ifname: &str) -> Result<(), Error> {
    let found = RouteSocket::open().and_then(|mut socket| socket.link_by_name(host_name));
    match found.map_err(Error::kernel("link"))? {
        None => Ok(()),
        Some(_) => Err(Error::InterfaceExists {
            ifname: ifname.to_owned(),
            host: host_name.to_owned(),
        }),
    }
}

/// Deletes the link with this host end; says whether there was one.
pub fn delete(host_name: &str) -> Result<bool, Error> {
    let mut socket = RouteSocket::open().map_err(Error::kernel("link"))?;
    match socket.delete_link_named(host_name) {
        Ok(()) => Ok(true),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(Error::kernel("link")(error)),
    }
}

/// Deletes the link `host_name` if it is there, unless its alias says that it is of another network than
/// `network`: a container may have an interface of the same name there. False if nothing was deleted.
pub fn delete_of(host_name: &str, network: &str) -> Result<bool, Error> {
    let failed = Error::kernel("link");
    let link = RouteSocket::open().and_then(|mut socket| socket.link_by_name(host_name));
    let alias = link.map_err(failed)?.and_then(|link| link.alias);
    match alias.as_deref().and_then(Alias::parse) {
        Some(alias) if alias.network != network => Ok(false),
        _ => delete(host_name),
    }
}

/// Deletes the interface of an attachment in a container if it is the end of a veth pair whose other
/// end is elsewhere: a link that the reference plugin made, with another name on the host. False if
/// nothing was deleted.
pub fn delete_in_container(netns: &Netns, owner: &Owner) -> Result<bool, Error> {
    let failed = Error::kernel("link in the container");
    let ifname = owner.likely_ifname();
    let found = RouteSocket::open_in(netns).and_then(|mut socket| {
        let link = socket.link_by_name(ifname)?;
        let Some(link) = link.filter(|link| link.kind.as_deref() == Some("veth")) else {
            return Ok(false);
        };
        if let Some(host) = other_end(&link)?.filter(|host| is_of_another(host, owner)) {
            streams::log(format_args!(
                "{ifname} in CNI_NETNS is the other end of {}, which is another container's: the \
                 namespace is not that of {owner} any more, and nothing is deleted there",
                host.name
            ));
            return Ok(false);
        }
        socket.delete_link(link.index).map(|()| true)
    });
    match found {
        Ok(deleted) => Ok(deleted),
        // A file that is a namespace no more: it is gone, and with it everything that was in it.
        Err(error) if matches!(error.cause, Cause::Unsuitable(_)) => Ok(false),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(failed(error)),
    }
}

/// The other end of a link in a container, if it is in the namespace of the plugin.
fn other_end(link: &Link) -> podwire_kernel::Result<Option<Link>> {
    let Some(peer) = link.peer else {
        return Ok(None);
    };
    // The number may be one of another namespace.
    let found = RouteSocket::open()?.link_by_index(peer)?;
    Ok(found.filter(|host| host.peer == Some(link.index)))
}

/// Whether a host end is that of another attachment. The path of a namespace may be a process's, and
/// its number another one's by now. What no plugin of ours made says nothing.
fn is_of_another(host: &Link, owner: &Owner) -> bool {
    let ifname = owner.likely_ifname();
    match host.alias.as_deref().and_then(Alias::parse) {
        Some(alias) => !alias.is_of(&owner.container_id, ifname),
        None => {
            host.group == LINK_GROUP && host.name != host_link_name(&owner.container_id, ifname)
        }
    }
}

/// The MTU for a link with these addresses that follows the one that leads out of the node, if there
/// is one; of two, one for each family, the smaller one.
pub fn followed_mtu(addresses: &[IpAddr]) -> Option<u32> {
    let ipv6 = addresses.iter().any(IpAddr::is_ipv6);
    let families = [true, false].into_iter();
    let families = families.filter(|v4| addresses.iter().any(|one| one.is_ipv4() == *v4));
    // The link has one MTU for both families.
    let uplinks = families.filter_map(uplink_mtu);
    let uplink = uplinks.min_by_key(|uplink| mtu::following(*uplink, ipv6))?;
    let followed = mtu::following(uplink, ipv6);
    if followed != uplink {
        streams::log(format_args!(
            "the uplink has an MTU of {uplink} bytes, which a container's link cannot follow; it \
             gets {followed}"
        ));
    }
    Some(followed)
}

/// The MTU of the link that leads out of the node, if there is one.
fn uplink_mtu(v4: bool) -> Option<u32> {
    let mut socket = RouteSocket::open().ok()?;
    let index = uplink(v4, &mut socket).ok()??;
    let link = socket.link_by_index(index).ok()??;
    (!link.loopback).then_some(link.mtu)
}

/// The number of the link that leads out of the node, if there is a default route.
pub fn uplink(v4: bool, socket: &mut RouteSocket) -> podwire_kernel::Result<Option<u32>> {
    // Addresses for documentation (RFC 5737, RFC 3849): any that only a default route leads to.
    let outside: IpAddr = if v4 {
        IpAddr::from([203, 0, 113, 1])
    } else {
        IpAddr::from([0x2001, 0x0db8, 0xffff, 0xffff, 0, 0, 0, 1])
    };
    match socket.route_get(outside) {
        Ok(route) => Ok(route.link),
        // There is none, or it says that packets go nowhere.
        Err(error) if matches!(error.cause, Cause::Refused { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn pairs(attached: &Attached) -> Result<Vec<Pair>, Error> {
    let pairs = attached.ips.iter().map(|ip| {
        let Some(gateway) = ip.gateway else {
            let address = ip.address;
            let reason = format!("IPAM gave {address} without a gateway, but a link needs one");
            return Err(Error::config(reason));
        };
        let address = ip.address;
        if gateway.is_ipv4() != address.is_ipv4() || gateway == address.ip() {
            let reason =
                format!("IPAM gave {address} with {gateway} as its gateway, which cannot be");
            return Err(Error::config(reason));
        }
        Ok(Pair { address, gateway })
    });
    pairs.collect()
}

/// A link with a smaller MTU has no IPv6.
fn check_mtu(mtu: Option<u32>, pairs: &[Pair]) -> Result<(), Error> {
    match mtu {
        Some(mtu) if mtu < SMALLEST_IPV6 && has_ipv6(pairs) => Err(Error::config(format!(
            "mtu is {mtu}, but IPv6 needs {SMALLEST_IPV6} bytes at least"
        ))),
        _ => Ok(()),
    }
}

/// Switches forwarding on where it is off.
fn allow_forwarding(pairs: &[Pair]) -> Result<(), Error> {
    let keys = [
        (true, "net/ipv4/ip_forward"),
        (false, "net/ipv6/conf/all/forwarding"),
    ];
    for (v4, key) in keys {
        if pairs.iter().any(|pair| pair.address.is_ipv4() == v4) {
            sysctl::ensure(key, "1").map_err(Error::kernel("Could not enable IP forwarding"))?;
        }
    }
    Ok(())
}

fn veth<'a>(wanted: &Wanted<'a>) -> Result<Veth<'a>, Error> {
    let mut veth = Veth::new(wanted.host_name, wanted.ifname).map_err(Error::kernel("link"))?;
    veth.peer_netns = Some(wanted.netns);
    veth.mtu = wanted.mtu;
    veth.group = LINK_GROUP;
    veth.up = true;
    Ok(veth)
}

fn create_veth(
    host: &mut RouteSocket,
    wanted: &Wanted<'_>,
    veth: &Veth<'_>,
) -> Result<VethEnds, Error> {
    host.create_veth(veth).map_err(|error| {
        if error.is_exists() {
            Error::InterfaceExists {
                ifname: wanted.ifname.to_owned(),
                host: wanted.host_name.to_owned(),
            }
        } else if let Err(error) = wanted.netns.enter(|| ()) {
            // The kernel only says that something about the request is invalid.
            Error::Netns {
                path: wanted.sandbox.to_owned(),
                source: error.cause,
            }
        } else {
            Error::kernel("link")(error)
        }
    })
}

fn set_up_host(
    host: &mut RouteSocket,
    wanted: &Wanted<'_>,
    ends: &VethEnds,
    macs: (Mac, Mac),
    pairs: &[Pair],
) -> Result<(), Error> {
    let failed = || Error::kernel("host end of the link");
    set_up_host_ipv6(wanted.host_name, pairs).map_err(failed())?;
    let alias = wanted.alias.to_string();
    // Strict: a packet from the container with a source that is routed elsewhere is dropped.
    let mut conf = vec![(Ipv4Conf::RpFilter, 1)];
    conf.extend(wanted.loopback.ipv4_conf());
    let mut requests = Requests::new();
    // The kernel's own link-local address would only make noise, and wait to be ready.
    requests.change_link(&LinkChange {
        ipv6_address_mode: Some(Ipv6AddressMode::None),
        ..LinkChange::of(ends.index)
    });
    requests.change_link(&LinkChange {
        alias: Some(&alias),
        ipv4_conf: &conf,
        ..LinkChange::of(ends.index)
    });
    add_way_to_neighbour(&mut requests, ends.index, macs.1, pairs);
    for gateway in distinct(pairs.iter().map(|pair| pair.gateway)) {
        requests.add_address(&Address::new(ends.index, IpNetwork::from(gateway)));
    }
    // After the gateways, so that when the kernel has come to it, it has come to them, too.
    add_link_local(&mut requests, ends.index, macs.0, pairs, false);
    for pair in pairs {
        let mut route = Route::to(IpNetwork::from(pair.address.ip()));
        route.link = Some(ends.index);
        if pair.address.is_ipv4() {
            route.scope = Scope::Host;
        }
        // A route that is there already leads to a link that is going away, or to nowhere.
        requests.replace_route(&route);
    }
    wanted.loopback.add_route(&mut requests, ends.index);
    let outcomes = host.run_each(&mut requests).map_err(failed())?;
    // A link without IPv6, because the MTU is too small or the kernel has none, has no such mode.
    let needed = if has_ipv6(pairs) { 0 } else { 1 };
    let mut outcomes = outcomes.into_iter().skip(needed);
    outcomes.try_for_each(|outcome| outcome.map_err(failed()))
}

/// Sets up IPv6 on the host end: it is on if the container has an IPv6 address, and never takes router
/// advertisements.
fn set_up_host_ipv6(host_name: &str, pairs: &[Pair]) -> podwire_kernel::Result<()> {
    // A container that sends router advertisements must not change the routes of the node
    // (CVE-2020-10749). Where the kernel has no IPv6 there is no such parameter.
    let key = format!("net/ipv6/conf/{host_name}/accept_ra");
    if let Err(error) = sysctl::write(&key, "0")
        && !error.is_not_found()
    {
        streams::log(format_args!(
            "{error}; the node may take routes from router advertisements that the container sends on \
             {host_name}: set {} to 0",
            key.replace('/', ".")
        ));
    }
    if has_ipv6(pairs) {
        // The node may have it switched off on new links (net.ipv6.conf.default.disable_ipv6).
        sysctl::ensure(&format!("net/ipv6/conf/{host_name}/disable_ipv6"), "0")?;
    }
    Ok(())
}

impl Loopback {
    /// Opens the link `index`, whichever plugin made it, for packets from the loopback.
    pub fn open(self, socket: &mut RouteSocket, index: u32) -> podwire_kernel::Result<()> {
        let mut requests = Requests::new();
        if let Some(conf) = self.ipv4_conf() {
            requests.change_link(&LinkChange {
                ipv4_conf: &[conf],
                ..LinkChange::of(index)
            });
        }
        self.add_route(&mut requests, index);
        socket.run(&mut requests)
    }

    /// Without it the kernel sends nothing from 127.0.0.1 on a link (`__mkroute_output`,
    /// net/ipv4/route.c).
    fn ipv4_conf(self) -> Option<(Ipv4Conf, u32)> {
        self.v4.then_some((Ipv4Conf::RouteLocalnet, 1))
    }

    /// IPv6 has no `route_localnet`. Packets to the container go out, but the answers, back to ::1
    /// after NAT, need a way in through this link, because ::1 is looked for on the link of
    /// arrival alone (`rt6_need_strict`, net/ipv6/route.c). Nothing else gets in by it: packets
    /// that arrive from or for ::1 are dropped before NAT (`ip6_rcv_core`, net/ipv6/ip6_input.c).
    fn add_route(self, requests: &mut Requests, index: u32) {
        if self.v6 {
            let mut route = Route::to(IpNetwork::from(IpAddr::from(Ipv6Addr::LOCALHOST)));
            route.kind = RouteKind::Local;
            route.table = TABLE_LOCAL;
            route.link = Some(index);
            // Each link has its own, and only routes with different metrics stand side by side.
            route.metric = index;
            requests.replace_route(&route);
        }
    }
}

fn set_up_container(
    wanted: &Wanted<'_>,
    ends: &VethEnds,
    mac: Mac,
    pairs: &[Pair],
    routes: &[result::Route],
) -> Result<(), Error> {
    let failed = || Error::kernel("container end of the link");
    let v6 = has_ipv6(pairs);
    let opened = wanted.netns.enter(|| {
        if v6 {
            allow_ipv6(wanted.ifname)?;
        }
        RouteSocket::open()
    });
    let mut socket = opened.and_then(|socket| socket).map_err(failed())?;
    let index = ends.peer_index;
    check_name(&mut socket, index, wanted.ifname)?;
    let mut requests = Requests::new();
    if v6 {
        requests.change_link(&LinkChange {
            ipv6_address_mode: Some(Ipv6AddressMode::None),
            ..LinkChange::of(index)
        });
    }
    requests.change_link(&LinkChange {
        up: Some(true),
        ..LinkChange::of(index)
    });
    add_link_local(&mut requests, index, mac, pairs, true);
    for pair in pairs {
        add_address(&mut requests, wanted.prefix, index, pair);
    }
    for route in gateway_routes(wanted.prefix, index, pairs, routes) {
        requests.add_route(&route);
    }
    let routes = routes
        .iter()
        .map(|route| container_route(route, index, pairs));
    for route in distinct(routes) {
        // Another interface of the container may have brought a default route of its own.
        requests.add_route_beside(&route);
    }
    socket.run(&mut requests).map_err(failed())?;
    operational::await_addresses(&mut socket, pairs.iter().map(|pair| pair.address.ip()));
    Ok(())
}

/// The result tells the name that was asked for, so the link must have it.
fn check_name(socket: &mut RouteSocket, index: u32, ifname: &str) -> Result<(), Error> {
    let found = socket
        .link_by_index(index)
        .map_err(Error::kernel("container end of the link"))?;
    let name = found.map_or_else(String::new, |link| link.name);
    if name == ifname {
        return Ok(());
    }
    let difference = format!("the interface in the container is {name:?}, not {ifname:?}");
    Err(Error::Changed { difference })
}

/// Switches IPv6 on in a container where its runtime switched it off, and makes the container
/// ignore router advertisements: its routes are ours to make.
fn allow_ipv6(ifname: &str) -> podwire_kernel::Result<()> {
    for link in ["lo", ifname] {
        sysctl::ensure(&format!("net/ipv6/conf/{link}/disable_ipv6"), "0")?;
    }
    if let Err(error) = sysctl::write(&format!("net/ipv6/conf/{ifname}/accept_ra"), "0") {
        streams::log(format_args!(
            "{error}; the container may accept router advertisements"
        ));
    }
    Ok(())
}

/// Adds the link-local address that the kernel would make, ready at once: made by the kernel it is
/// tentative for a second. Without one the node could not ask for the container's hardware address
/// on behalf of others (`ndisc_send_ns`, net/ipv6/ndisc.c).
fn add_link_local(
    requests: &mut Requests,
    index: u32,
    mac: Mac,
    pairs: &[Pair],
    prefix_route: bool,
) {
    if has_ipv6(pairs)
        && let Ok(network) = IpNetwork::new(mac.link_local().into(), 64)
    {
        let mut address = Address::new(index, network);
        address.prefix_route = prefix_route;
        requests.add_address(&address);
    }
}

/// Of all link-local addresses only the container's own one leads back to its link: the node's end
/// has no route to fe80::/64. So the agent's guard of sources, which asks for the way back, drops the
/// others: each would become a neighbour entry of the node (`ndisc_recv_ns`, net/ipv6/ndisc.c).
fn add_way_to_neighbour(requests: &mut Requests, index: u32, peer: Mac, pairs: &[Pair]) {
    if has_ipv6(pairs) {
        let mut route = Route::to(IpNetwork::from(IpAddr::from(peer.link_local())));
        route.link = Some(index);
        requests.replace_route(&route);
    }
}

fn has_ipv6(pairs: &[Pair]) -> bool {
    pairs.iter().any(|pair| pair.address.is_ipv6())
}

fn add_address(requests: &mut Requests, prefix: Prefix, index: u32, pair: &Pair) {
    let mut address = Address::new(index, on_interface(prefix, pair));
    address.prefix_route = false;
    requests.add_address(&address);
}

/// The routes to the gateways, and through them to the subnets unless a route says so already. Of
/// addresses with one gateway or one subnet the first is the source of what goes there.
fn gateway_routes(
    prefix: Prefix,
    index: u32,
    pairs: &[Pair],
    routes: &[result::Route],
) -> Vec<Route> {
    let to_gateway = |pair: &Pair| {
        let mut route = Route::to(IpNetwork::from(pair.gateway));
        route.link = Some(index);
        route.source = Some(pair.address.ip());
        if pair.address.is_ipv4() {
            route.scope = Scope::Link;
        }
        route
    };
    let to_subnet = |pair: &Pair| {
        let mut route = Route::to(pair.address);
        route.link = Some(index);
        route.gateway = Some(pair.gateway);
        route.source = Some(pair.address.ip());
        needs_subnet(prefix, pair, routes).then_some(route)
    };
    let mut made: Vec<Route> = Vec::new();
    let wanted = pairs.iter().map(to_gateway);
    for route in wanted.chain(pairs.iter().filter_map(to_subnet)) {
        if made
            .iter()
            .all(|other| other.destination != route.destination)
        {
            made.push(route);
        }
    }
    made
}

/// Whether the subnet of an address needs a route of its own.
fn needs_subnet(prefix: Prefix, pair: &Pair, routes: &[result::Route]) -> bool {
    let covers = |route: &result::Route| {
        let (destination, subnet) = (route.destination, pair.address);
        destination.is_ipv4() == subnet.is_ipv4()
            && destination.prefix() <= subnet.prefix()
            && destination.contains(subnet.ip())
            && route.table_number() == TABLE_MAIN
    };
    let full = IpNetwork::from(pair.address.ip()).prefix();
    let covered = prefix == Prefix::Full && routes.iter().any(covers);
    pair.address.prefix() < full && !covered
}

/// Each value once, in the order in which they come: a configuration may say a thing twice.
fn distinct<T: PartialEq>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut distinct = Vec::new();
    for value in values {
        if !distinct.contains(&value) {
            distinct.push(value);
        }
    }
    distinct
}

fn container_route(wanted: &result::Route, index: u32, pairs: &[Pair]) -> Route {
    let mut route = Route::to(wanted.destination);
    let near = wanted
        .scope
        .is_some_and(|scope| NEAR_SCOPES.contains(&scope));
    let v4 = wanted.destination.is_ipv4();
    let mut pairs = pairs.iter();
    let pair = pairs.find(|pair| pair.address.is_ipv4() == v4);
    route.link = Some(index);
    route.gateway = wanted.gateway;
    if route.gateway.is_none() && !near {
        route.gateway = pair.map(|pair| pair.gateway);
    }
    // The reference plugin makes such a route while the whole subnet is on the link; here the way to
    // the subnet leads through the gateway, and the kernel takes no gateway that is behind another.
    let is_near = |pair: &Pair, gateway| pair.gateway != gateway && pair.address.contains(gateway);
    route.onlink = pair
        .zip(wanted.gateway)
        .is_some_and(|(pair, gateway)| is_near(pair, gateway));
    route.mtu = wanted.mtu;
    route.advmss = wanted.advmss;
    if let Some(priority) = wanted.priority {
        route.metric = priority;
    }
    route.table = wanted.table_number();
    if let Some(scope) = wanted.scope.and_then(|scope| u8::try_from(scope).ok())
        && v4
    {
        route.scope = Scope::from(scope);
    }
    route
}

/// The address with the prefix length that it has on the interface.
fn on_interface(prefix: Prefix, pair: &Pair) -> IpNetwork {
    match prefix {
        Prefix::Full => IpNetwork::from(pair.address.ip()),
        Prefix::Subnet => pair.address,
    }
}

/// Tells the interfaces and the addresses on them.
fn complete(wanted: &Wanted<'_>, veth: &Veth<'_>, pairs: &[Pair], attached: &mut Attached) {
    let interface = |name: &str, mac: Mac, sandbox: &str| Interface {
        name: name.to_owned(),
        mac: mac.to_string(),
        sandbox: sandbox.to_owned(),
        mtu: Some(wanted.mtu.unwrap_or(1500)),
        ..Interface::default()
    };
    attached.interfaces = vec![
        interface(wanted.host_name, veth.mac, ""),
        interface(wanted.ifname, veth.peer_mac, wanted.sandbox),
    ];
    for (ip, pair) in attached.ips.iter_mut().zip(pairs) {
        ip.interface = Some(1);
        ip.address = on_interface(wanted.prefix, pair);
    }
}

/// The link `ifname` of a container.
pub fn find_in(socket: &mut RouteSocket, ifname: &str) -> Result<Option<Link>, Error> {
    socket
        .link_by_name(ifname)
        .map_err(Error::kernel("link in the container"))
}
