//! CHECK: whether a link is as ADD made it, as far as its result tells.
//!
//! Later plugins of a list may add interfaces, addresses and routes of their own; so everything
//! that the result names must be there, and what is there beyond it is fine.

use std::net::IpAddr;

use podwire_kernel::netns::Netns;
use podwire_kernel::route::RouteFilter;
use podwire_kernel::{RouteSocket, address::Address};

use crate::attachment::host_link_name;
use crate::environment::Call;
use crate::error::Error;
use crate::result::{Attached, Interface, Route};

/// Checks the end of the link that is in the container, its addresses and routes.
pub fn container(call: &Call, netns: &Netns, expected: &Attached) -> Result<(), Error> {
    let failed = || Error::kernel("container end of the link");
    let (number, interface) = find_interface(call, expected)?;
    let mut socket = RouteSocket::open_in(netns).map_err(failed())?;
    let index = check_link(&mut socket, interface)?;
    let addresses = socket.addresses(Some(index)).map_err(failed())?;
    for ip in &expected.ips {
        if ip.interface.is_none_or(|at| at == number) {
            check_address(&addresses, ip.address.ip(), &interface.name)?;
        }
    }
    let routes = socket.routes(RouteFilter::default()).map_err(failed())?;
    expected
        .routes
        .iter()
        .try_for_each(|route| check_route(&routes, route))
}

/// Checks the end of the link that is on the host, and the way from there to the container.
pub fn host(call: &Call, expected: &Attached) -> Result<(), Error> {
    let failed = || Error::kernel("host end of the link");
    let name = host_link_name(&call.container_id, &call.ifname);
    let mut socket = RouteSocket::open().map_err(failed())?;
    let link = socket.link_by_name(&name).map_err(failed())?;
    let Some(link) = link.filter(|link| link.up) else {
        return changed(format!("the host end {name} of the link is gone or down"));
    };
    let filter = RouteFilter {
        link: Some(link.index),
        ..RouteFilter::default()
    };
    let routes = socket.routes(filter).map_err(failed())?;
    for ip in expected.ips_of(&call.ifname) {
        let address = ip.address.ip();
        let leads = |route: &podwire_kernel::route::Route| {
            route.destination.ip() == address
                && route.destination.prefix() == ipnetwork::IpNetwork::from(address).prefix()
        };
        if ip.gateway.is_some() && !routes.iter().any(leads) {
            return changed(format!("the host has no route to {address} through {name}"));
        }
    }
    Ok(())
}

/// The interface of the result that the call is about, and its number.
fn find_interface<'a>(
    call: &Call,
    expected: &'a Attached,
) -> Result<(usize, &'a Interface), Error> {
    let mut sandbox = "";
    for (number, interface) in expected.interfaces.iter().enumerate() {
        if interface.name == call.ifname && !interface.sandbox.is_empty() {
            if interface.sandbox == call.sandbox() {
                return Ok((number, interface));
            }
            sandbox = &interface.sandbox;
        }
    }
    if sandbox.is_empty() {
        changed(format!(
            "prevResult has no interface {} in a sandbox",
            call.ifname
        ))?;
    }
    changed(format!(
        "Sandbox in prevResult {sandbox} doesn't match configured netns: {}",
        call.sandbox()
    ))
}

fn check_link(socket: &mut RouteSocket, expected: &Interface) -> Result<u32, Error> {
    let name = &expected.name;
    let Some(link) = crate::link::find_in(socket, name)? else {
        return changed(format!(
            "ptp: Container Interface name in prevResult: {name} not found"
        ));
    };
    if link.kind.as_deref() != Some("veth") {
        return changed(format!(
            "Error: Container interface {name} not of type veth/p2p"
        ));
    }
    let mac = link.mac.map(|mac| mac.to_string()).unwrap_or_default();
    if !expected.mac.is_empty() && !expected.mac.eq_ignore_ascii_case(&mac) {
        let expected = &expected.mac;
        return changed(format!(
            "ptp: Interface {name} Mac {expected} doesn't match container Mac: {mac}"
        ));
    }
    if !link.up {
        return changed(format!("the container interface {name} is down"));
    }
    Ok(link.index)
}

fn check_address(found: &[Address], expected: IpAddr, name: &str) -> Result<(), Error> {
    if found.iter().any(|address| address.network.ip() == expected) {
        return Ok(());
    }
    changed(format!(
        "Failed to match addr {expected} on interface {name}"
    ))
}

fn check_route(found: &[podwire_kernel::route::Route], expected: &Route) -> Result<(), Error> {
    // The kernel has routes without host bits, which IPAM may give.
    let made = podwire_kernel::route::Route::to(expected.destination);
    let matches = |route: &podwire_kernel::route::Route| {
        route.destination == made.destination
            && route.table == expected.table_number()
            && (expected.gateway.is_none() || route.gateway == expected.gateway)
    };
    if found.iter().any(matches) {
        return Ok(());
    }
    changed(format!(
        "Expected Route {} not found in routing table",
        expected.destination
    ))
}

fn changed<T>(difference: String) -> Result<T, Error> {
    Err(Error::Changed { difference })
}
