//! Which interface leads to the other nodes, and what is reachable over it without a gateway.
//!
//! In: links, addresses and routes of this machine, the flag and this machine's Node. Out: the
//! [`Uplink`], or why there is none. The flag decides; else the interface that holds its
//! InternalIP, because the other nodes' InternalIPs are on its network, or held it last; else,
//! before its Node is known, the interface of the default route.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use podwire_kernel::address::Address;
use podwire_kernel::link::Link;
use podwire_kernel::monitor::Event;
use podwire_kernel::route::{Route, RouteFilter, RouteKind, TABLE_MAIN};
use podwire_kernel::{IpFamily, RouteSocket};

use crate::cidr;
use crate::ours::ROUTE_PROTOCOL as PROTOCOL;

/// The interface to the other nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// The interface's index.
    pub index: u32,
    /// The interface's name.
    pub name: String,
    /// The interface's MTU in bytes.
    pub mtu: u32,
    /// True if the interface is up.
    pub up: bool,
    /// The addresses on the interface, with their prefix.
    pub addresses: Vec<IpNetwork>,
    /// What is reachable over it without a gateway, sorted.
    pub on_link: Vec<IpNetwork>,
}

impl Uplink {
    /// The nodes' own networks: what is reachable without a gateway, but for a default route of that
    /// kind, whole or in halves. That is how point-to-point links are set up, and says of no address
    /// who has it.
    pub fn networks(&self) -> impl Iterator<Item = &IpNetwork> {
        self.on_link.iter().filter(|network| network.prefix() > 1)
    }

    /// Whether it leads to other nodes in this family at all.
    pub fn reaches(&self, family: IpFamily) -> bool {
        let mut networks = self.on_link.iter();
        networks.any(|network| IpFamily::of_network(*network) == family)
    }

    /// With the networks and addresses that it had `before` in each family of which it has no network
    /// now. Another interface takes over those of the one before until it has some itself.
    pub fn as_it_was(&self, before: Option<Self>) -> Self {
        let mut all = self.clone();
        let is_it = |before: &Self| {
            before.index == self.index || before.name == self.name || self.on_link.is_empty()
        };
        let has_gone = |network: &IpNetwork| !self.reaches(IpFamily::of_network(*network));
        if let Some(before) = before.filter(is_it) {
            all.on_link
                .extend(before.on_link.into_iter().filter(has_gone));
            all.addresses.retain(|own| !has_gone(own));
            let addresses = before.addresses.into_iter();
            all.addresses.extend(addresses.filter(has_gone));
        }
        all
    }

    /// Why no machine can have an address, if it is the network address or the broadcast address of
    /// one of its networks. A /31 has neither (RFC 3021), nor has IPv6.
    pub fn no_host(&self, ip: IpAddr) -> Option<&'static str> {
        let mut networks = self.addresses.iter();
        let is_end = |own: &IpNetwork| {
            own.is_ipv4() && own.prefix() < 31 && (ip == own.network() || ip == own.broadcast())
        };
        networks
            .any(is_end)
            .then_some("is the first or the last address of the uplink's network")
    }
}

/// Why there is no uplink.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// The kernel does not say what the machine looks like.
    #[error(transparent)]
    Kernel(#[from] podwire_kernel::Error),
    /// The flag names an interface that is not there.
    #[error("interface {name} does not exist; fix --uplink or create the interface")]
    Missing {
        /// The interface.
        name: String,
    },
    /// There is no flag, and nothing to go by.
    #[error(
        "no interface holds the InternalIP of this Node and there is no default route; give \
         --uplink"
    )]
    Unknown,
}

/// Looks for the uplink.
#[derive(Debug)]
pub struct Finder {
    socket: RouteSocket,
    held: Option<Held>,
}

/// Which interface was found to hold an InternalIP last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The InternalIPs of the Node at that time.
    internal_ips: Vec<IpAddr>,
    /// The one of them that decided.
    by: IpAddr,
    /// The interface.
    name: String,
}

/// What the machine looks like.
#[derive(Debug, Clone, Default)]
pub struct Machine {
    /// Its links.
    pub links: Vec<Link>,
    /// Their addresses.
    pub addresses: Vec<Address>,
    /// The routes of the main table.
    pub routes: Vec<Route>,
}

impl Finder {
    /// Looks in the network namespace of the calling thread.
    pub fn open() -> podwire_kernel::Result<Self> {
        Ok(Self {
            socket: RouteSocket::open()?,
            held: None,
        })
    }

    /// Looks at the machine and chooses the uplink. `internal_ips` are those of the own Node, if there is
    /// one. An address that is lost for a while makes no other interface the uplink, nor does a Node that
    /// is deleted.
    pub fn find(
        &mut self,
        flag: Option<&str>,
        internal_ips: Option<&[IpAddr]>,
    ) -> Result<Uplink, FindError> {
        let main = RouteFilter {
            table: Some(TABLE_MAIN),
            ..RouteFilter::default()
        };
        let machine = Machine {
            links: self.socket.links()?,
            addresses: self.socket.addresses(None)?,
            routes: self.socket.routes(main)?,
        };
        choose(&machine, flag, internal_ips, &mut self.held)
    }
}

/// Chooses the uplink; see the head of this file. `held` is remembered from one choice to the next.
pub fn choose(
    machine: &Machine,
    flag: Option<&str>,
    internal_ips: Option<&[IpAddr]>,
    held: &mut Option<Held>,
) -> Result<Uplink, FindError> {
    let named = |name: &str| machine.links.iter().find(|link| link.name == name);
    if let Some(name) = flag {
        let link = named(name).ok_or_else(|| FindError::Missing {
            name: name.to_owned(),
        })?;
        return Ok(describe(machine, link));
    }
    let ips = internal_ips.unwrap_or_default();
    let is_same = |held: &&Held| match internal_ips {
        None => true,
        // A Node that is made again may get them later.
        Some([]) => {
            let mut addresses = machine.addresses.iter();
            addresses.any(|address| address.network.ip() == held.by)
        }
        Some(ips) => held.internal_ips == ips,
    };
    let last = held.as_ref().filter(is_same);
    // Who holds a later one of them was not the uplink, though it held that all the time.
    let decided = last.and_then(|held| ips.iter().position(|ip| *ip == held.by));
    let earlier = decided.map_or(ips, |position| &ips[..=position]);
    // A link that was put into a bridge or a bond has its addresses there.
    let stays = || {
        last.and_then(|held| named(&held.name))
            .filter(|link| link.master.is_none())
    };
    let link = holder(machine, earlier)
        .or_else(stays)
        .or_else(|| holder(machine, ips))
        .or_else(|| by_default_route(machine))
        .ok_or(FindError::Unknown)?;
    let uplink = describe(machine, link);
    let has = |ip: &&IpAddr| uplink.addresses.iter().any(|own| own.ip() == **ip);
    if let Some(by) = ips.iter().find(has) {
        *held = Some(Held {
            internal_ips: ips.to_vec(),
            by: *by,
            name: uplink.name.clone(),
        });
    }
    Ok(uplink)
}

/// True if the event may change the uplink.
pub fn is_concerned(event: &Event, uplink: Option<&Uplink>, internal_ips: &[IpAddr]) -> bool {
    let is_uplink = |index: Option<u32>| uplink.is_some_and(|uplink| index == Some(uplink.index));
    match event {
        Event::Link { index, name, .. } => {
            is_uplink(Some(*index))
                || uplink.is_some_and(|uplink| uplink.name == *name)
                || uplink.is_none()
        }
        Event::Address { address, .. } => {
            is_uplink(Some(address.link))
                || uplink.is_none()
                || internal_ips.contains(&address.network.ip())
        }
        Event::Route { route, .. } => {
            route.table == TABLE_MAIN
                && route.protocol != PROTOCOL
                && (is_uplink(route.link) || route.destination.prefix() == 0)
        }
        Event::Forwarding { .. } | Event::Nftables { .. } => false,
        Event::Lost => true,
    }
}

fn holder<'a>(machine: &'a Machine, internal_ips: &[IpAddr]) -> Option<&'a Link> {
    internal_ips.iter().find_map(|ip| {
        let address = machine
            .addresses
            .iter()
            .find(|address| address.network.ip() == *ip)?;
        machine
            .links
            .iter()
            .find(|link| link.index == address.link && !link.loopback)
    })
}

fn by_default_route(machine: &Machine) -> Option<&Link> {
    let usable = |route: &&Route| {
        route.destination.prefix() == 0 && route.kind == RouteKind::Unicast && route.link.is_some()
    };
    let defaults = machine.routes.iter().filter(usable);
    let best = defaults.min_by_key(|route| (route.destination.is_ipv6(), route.metric))?;
    machine
        .links
        .iter()
        .find(|link| Some(link.index) == best.link)
}

fn describe(machine: &Machine, link: &Link) -> Uplink {
    let addresses = machine
        .addresses
        .iter()
        .filter(|address| address.link == link.index);
    let mut on_link: Vec<IpNetwork> = machine
        .routes
        .iter()
        .filter(|route| {
            route.link == Some(link.index)
                && route.gateway.is_none()
                && !route.multipath
                && route.kind == RouteKind::Unicast
                && route.protocol != PROTOCOL
                && !cidr::is_link_local(route.destination.ip())
                && !route.destination.ip().is_multicast()
        })
        .map(|route| route.destination)
        .collect();
    on_link.sort_unstable();
    on_link.dedup();
    let mut addresses: Vec<IpNetwork> = addresses.map(|address| address.network).collect();
    addresses.sort_unstable();
    Uplink {
        index: link.index,
        name: link.name.clone(),
        mtu: link.mtu,
        up: link.up,
        addresses,
        on_link,
    }
}

/// An uplink with one address, whose network is reachable over it: `172.18.0.2/16`.
#[cfg(test)]
pub fn test_uplink(address: &str) -> Uplink {
    let own: IpNetwork = address.parse().unwrap();
    Uplink {
        index: 2,
        name: "eth0".into(),
        mtu: 1500,
        up: true,
        addresses: vec![own],
        on_link: vec![IpNetwork::new(own.network(), own.prefix()).unwrap()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str) -> Link {
        Link {
            index,
            name: name.to_owned(),
            kind: None,
            alias: None,
            mac: None,
            mtu: 1500,
            up: true,
            operational: true,
            loopback: name == "lo",
            group: 0,
            master: None,
            peer: None,
            peer_netns: None,
        }
    }

    fn address(link: u32, network: &str) -> Address {
        Address::new(link, network.parse().unwrap())
    }

    fn route(destination: &str, gateway: Option<&str>, link: u32, metric: u32) -> Route {
        Route {
            gateway: gateway.map(|ip| ip.parse().unwrap()),
            link: Some(link),
            metric,
            ..Route::to(destination.parse().unwrap())
        }
    }

    /// eth0 on the node network with a default route, eth1 beside it.
    fn machine() -> Machine {
        Machine {
            links: vec![link(1, "lo"), link(2, "eth0"), link(3, "eth1")],
            addresses: vec![
                address(1, "127.0.0.1/8"),
                address(2, "172.18.0.2/16"),
                address(2, "fc00::2/64"),
                address(3, "10.9.0.2/24"),
            ],
            routes: vec![
                route("0.0.0.0/0", Some("172.18.0.1"), 2, 0),
                route("172.18.0.0/16", None, 2, 0),
                route("fc00::/64", None, 2, 256),
                route("fe80::/64", None, 2, 256),
                route("ff00::/8", None, 2, 256),
                route("10.9.0.0/24", None, 3, 0),
                route("10.10.1.0/24", Some("172.18.0.3"), 2, 0),
            ],
        }
    }

    fn name(result: Result<Uplink, FindError>) -> String {
        result.unwrap().name
    }

    #[test]
    fn the_flag_decides() {
        assert_eq!(
            name(choose(
                &machine(),
                Some("eth1"),
                Some(&["172.18.0.2".parse().unwrap()]),
                &mut None
            )),
            "eth1"
        );
        assert!(
            choose(&machine(), Some("eth9"), Some(&[]), &mut None)
                .unwrap_err()
                .to_string()
                .contains("eth9")
        );
    }

    #[test]
    fn the_holder_of_the_internal_ip_comes_before_the_default_route() {
        assert_eq!(
            name(choose(
                &machine(),
                None,
                Some(&["10.9.0.2".parse().unwrap()]),
                &mut None
            )),
            "eth1"
        );
        assert_eq!(
            name(choose(
                &machine(),
                None,
                Some(&["192.0.2.1".parse().unwrap()]),
                &mut None
            )),
            "eth0"
        );
        assert_eq!(
            name(choose(
                &machine(),
                None,
                Some(&["127.0.0.1".parse().unwrap()]),
                &mut None
            )),
            "eth0"
        );
        assert_eq!(name(choose(&machine(), None, Some(&[]), &mut None)), "eth0");
    }

    #[test]
    fn who_held_the_internal_ip_last_stays_the_uplink_while_it_is_away() {
        let there = machine();
        let mut away = machine();
        away.addresses.retain(|one| one.link != 3);
        let mut held = None;
        let mut chosen = |machine: &Machine, own: Option<&[&str]>| {
            let own: Option<Vec<IpAddr>> =
                own.map(|own| own.iter().map(|ip| ip.parse().unwrap()).collect());
            choose(machine, None, own.as_deref(), &mut held)
                .unwrap()
                .name
        };
        let both = Some(&["10.9.0.2", "fc00::2"][..]);
        assert_eq!(chosen(&away, None), "eth0", "by the default route");
        assert_eq!(chosen(&away, both), "eth0", "no one has held the first");
        assert_eq!(chosen(&there, both), "eth1");
        assert_eq!(chosen(&away, both), "eth1");
        assert_eq!(chosen(&away, None), "eth1", "the Node is deleted");
        assert_eq!(chosen(&away, both), "eth1");
        let mut gone = away.clone();
        gone.links.retain(|link| link.name != "eth1");
        assert_eq!(chosen(&gone, both), "eth0", "it is gone");
        assert_eq!(chosen(&there, both), "eth1");
        let mut bridged = away.clone();
        bridged.links[2].master = Some(9);
        assert_eq!(
            chosen(&bridged, both),
            "eth0",
            "its addresses are elsewhere"
        );
        assert_eq!(chosen(&there, both), "eth1");
        assert_eq!(chosen(&away, Some(&["192.0.2.1"])), "eth0", "another Node");
        assert_eq!(chosen(&there, both), "eth1");
        assert_eq!(chosen(&there, Some(&[])), "eth1", "they may come later");
        assert_eq!(chosen(&away, Some(&[])), "eth0");
    }

    #[test]
    fn the_default_route_with_the_lowest_metric_counts() {
        let mut machine = machine();
        machine
            .routes
            .push(route("0.0.0.0/0", Some("10.9.0.1"), 3, 50));
        assert_eq!(name(choose(&machine, None, Some(&[]), &mut None)), "eth0");
        machine.routes[0].metric = 100;
        assert_eq!(name(choose(&machine, None, Some(&[]), &mut None)), "eth1");
        machine
            .routes
            .retain(|route| route.destination.prefix() != 0);
        assert!(choose(&machine, None, Some(&[]), &mut None).is_err());
    }

    #[test]
    fn what_is_on_the_link_are_its_networks_without_link_local_and_multicast() {
        let uplink = choose(&machine(), None, Some(&[]), &mut None).unwrap();
        let on_link: Vec<String> = uplink.on_link.iter().map(ToString::to_string).collect();
        assert_eq!(on_link, ["172.18.0.0/16", "fc00::/64"]);
        assert_eq!(uplink.addresses.len(), 2);
        assert_eq!(uplink.mtu, 1500);
    }

    #[test]
    fn only_events_about_the_uplink_make_the_agent_look_again() {
        let uplink = choose(&machine(), None, Some(&[]), &mut None).unwrap();
        let own: Vec<IpAddr> = vec!["172.18.0.2".parse().unwrap()];
        let up = |index, name: &str| Event::Link {
            index,
            name: name.into(),
            up: true,
            gone: false,
        };
        let concerned = |event: &Event| is_concerned(event, Some(&uplink), &own);
        assert!(concerned(&up(2, "eth0")));
        assert!(concerned(&up(7, "eth0")));
        assert!(!concerned(&up(9, "veth0123456789a")));
        assert!(is_concerned(&up(9, "eth9"), None, &own));
        assert!(!concerned(&Event::Address {
            address: address(9, "10.10.1.1/32"),
            gone: false
        }));
        assert!(concerned(&Event::Address {
            address: address(9, "172.18.0.2/16"),
            gone: false
        }));
        let changed = |route| Event::Route { route, gone: true };
        assert!(concerned(&changed(route(
            "0.0.0.0/0",
            Some("10.9.0.1"),
            3,
            50
        ))));
        assert!(concerned(&changed(route("172.18.0.0/16", None, 2, 0))));
        assert!(!concerned(&changed(route("10.10.1.7/32", None, 9, 0))));
        let ours = Route {
            protocol: PROTOCOL,
            ..route("10.10.2.0/24", None, 2, 0)
        };
        assert!(!concerned(&changed(ours)));
        assert!(concerned(&Event::Lost));
    }
}
