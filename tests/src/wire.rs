//! The cables of the lab: one bridge that stands for the node network's switch, and a veth from
//! it to the `eth0` of every machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use podwire_kernel::RouteSocket;
use podwire_kernel::address::Address;
use podwire_kernel::link::Veth;
use podwire_kernel::netns::Netns;
use podwire_kernel::route::Route;
use podwire_kernel::sysctl;

use crate::error::Result;
use crate::place::Place;

/// The switch of the node network, in the lab's own network namespace.
const SWITCH: &str = "nodes";

/// Every machine's link to the network.
pub const UPLINK: &str = "eth0";

/// Makes the switch, with the router's addresses on it.
pub fn lay_switch(lab: &Place, router: &[IpNetwork]) -> Result<()> {
    lab.kernel(|| {
        let mut socket = RouteSocket::open()?;
        loopback_up(&mut socket)?;
        let switch = socket.create_bridge(SWITCH)?;
        // Where br_netfilter is loaded, it would send bridged packets through the lab's own
        // conntrack. A switch does not look into packets. Absent without the module.
        for family in ["iptables", "ip6tables", "arptables"] {
            let _ = sysctl::write(&format!("net/bridge/bridge-nf-call-{family}"), "0");
        }
        sysctl::write("net/ipv4/ip_forward", "1")?;
        sysctl::write("net/ipv6/conf/all/forwarding", "1")?;
        address_up(&mut socket, SWITCH, switch, router)
    })
}

/// Plugs a machine into the switch.
pub fn plug_in(
    lab: &Place,
    machine: &Place,
    pid: i32,
    addresses: &[IpNetwork],
    router: &[IpNetwork],
) -> Result<()> {
    lab.kernel(|| {
        let mut socket = RouteSocket::open()?;
        let switch = socket.index_of(SWITCH)?;
        let ends = cable(&mut socket, machine.name(), pid)?;
        socket.set_master(ends, Some(switch))?;
        socket.set_up(ends)
    })?;
    start_network(machine, addresses, router)
}

/// Connects a machine to the router by a cable of its own.
pub fn plug_in_beyond(
    lab: &Place,
    machine: &Place,
    pid: i32,
    addresses: &[IpNetwork],
    router: &[IpNetwork],
) -> Result<()> {
    lab.kernel(|| {
        let mut socket = RouteSocket::open()?;
        let end = cable(&mut socket, machine.name(), pid)?;
        address_up(&mut socket, machine.name(), end, router)
    })?;
    // No default route: it answers whom it can see, and no one routes pod addresses to it.
    start_network(machine, addresses, &[])?;
    machine.kernel(|| {
        let mut socket = RouteSocket::open()?;
        let link = socket.index_of(UPLINK)?;
        for (gateway, network) in router.iter().zip(node_networks(router)) {
            let route = Route {
                gateway: Some(gateway.ip()),
                link: Some(link),
                ..Route::to(network)
            };
            socket.add_route(&route)?;
        }
        Ok(())
    })
}

/// The node network in the family of each of `router`.
fn node_networks(router: &[IpNetwork]) -> impl Iterator<Item = IpNetwork> + '_ {
    router.iter().map(|address| match address {
        IpNetwork::V4(_) => network(Ipv4Addr::new(172, 18, 0, 0).into(), 16),
        IpNetwork::V6(_) => network(
            Ipv6Addr::new(0xfc00, 0xf853, 0xccd, 0xe793, 0, 0, 0, 0).into(),
            64,
        ),
    })
}

fn network(ip: IpAddr, prefix: u8) -> IpNetwork {
    IpNetwork::new(ip, prefix).expect("the prefixes in this file fit their family")
}

/// Makes a cable from the lab to a machine; the near end has the machine's name.
fn cable(socket: &mut RouteSocket, name: &str, pid: i32) -> podwire_kernel::Result<u32> {
    let far = Netns::of_pid(pid)?;
    let veth = Veth {
        peer_netns: Some(&far),
        ..Veth::new(name, UPLINK)?
    };
    Ok(socket.create_veth(&veth)?.index)
}

/// Gives a machine its addresses and its default route, and the kernel's own defaults where the
/// host may have changed them for new namespaces. What connections carry is counted, for who looks.
fn start_network(machine: &Place, addresses: &[IpNetwork], router: &[IpNetwork]) -> Result<()> {
    machine.kernel(|| {
        for (key, value) in [
            ("net/ipv4/ip_forward", "0"),
            ("net/ipv4/conf/all/rp_filter", "0"),
            ("net/ipv4/conf/default/rp_filter", "0"),
            ("net/ipv4/conf/default/route_localnet", "0"),
        ] {
            sysctl::ensure(key, value)?;
        }
        // A kernel without it counts nothing, and nothing else is missing.
        let _ = sysctl::write("net/netfilter/nf_conntrack_acct", "1");
        let mut socket = RouteSocket::open()?;
        loopback_up(&mut socket)?;
        let link = socket.index_of(UPLINK)?;
        address_up(&mut socket, UPLINK, link, addresses)?;
        for gateway in router {
            let everything = match gateway {
                IpNetwork::V4(_) => network(Ipv4Addr::UNSPECIFIED.into(), 0),
                IpNetwork::V6(_) => network(Ipv6Addr::UNSPECIFIED.into(), 0),
            };
            let route = Route {
                gateway: Some(gateway.ip()),
                link: Some(link),
                ..Route::to(everything)
            };
            socket.add_route(&route)?;
        }
        Ok(())
    })
}

fn loopback_up(socket: &mut RouteSocket) -> podwire_kernel::Result<()> {
    let lo = socket.index_of("lo")?;
    socket.set_up(lo)
}

fn address_up(
    socket: &mut RouteSocket,
    name: &str,
    link: u32,
    addresses: &[IpNetwork],
) -> podwire_kernel::Result<()> {
    // Without waiting for duplicate address detection, link-local addresses included: no one
    // else is on this network, and packets could not be forwarded until it is over.
    sysctl::write(&format!("net/ipv6/conf/{name}/accept_dad"), "0")?;
    socket.set_up(link)?;
    for address in addresses {
        socket.add_address(&Address::new(link, *address))?;
    }
    Ok(())
}
