//! `portmap`: ports of the node that lead to a container whose link another plugin made.

use std::collections::BTreeSet;
use std::net::IpAddr;

use podwire_kernel::RouteSocket;
use podwire_kernel::link::Link;
use podwire_kernel::route::RouteKind;
use serde_json::Value;

use super::request::Request;
use super::sandbox;
use crate::arguments::Arguments;
use crate::attachment::Record;
use crate::config::Config;
use crate::environment::{Call, Verb};
use crate::error::Error;
use crate::exposure;
use crate::lease::Owner;
use crate::link::{Loopback, uplink};
use crate::result::Attached;
use crate::streams;

/// Carries out one call.
pub fn run(request: &Request<'_>) -> Result<Option<Value>, Error> {
    let Request { call, config, .. } = request;
    match call.verb {
        Verb::Add => return add(request).map(Some),
        Verb::Del => drop(exposure::withdraw(call, true, || maps(config))?),
        Verb::Check => check(request)?,
        Verb::Gc => gc(config)?,
        Verb::Status | Verb::Version => {}
    }
    Ok(None)
}

fn add(request: &Request<'_>) -> Result<Value, Error> {
    let Request { call, config, .. } = request;
    let Some(previous) = config.previous()? else {
        return Err(Error::config("must be called as chained plugin"));
    };
    let printed = previous.print(config.version)?;
    let record = record(request, &previous).map_err(in_reading)?;
    exposure::expose(call, &record)?;
    // Behind the guard of 127.0.0.0/8.
    open_loopback(call, &record);
    Ok(printed)
}

fn check(request: &Request<'_>) -> Result<(), Error> {
    let Some(previous) = request.config.previous()? else {
        return Err(Error::config("Required prevResult missing"));
    };
    let record = record(request, &previous)?;
    if record.host_ports.is_empty() {
        return Ok(());
    }
    exposure::check(&record)
}

fn gc(config: &Config<'_>) -> Result<(), Error> {
    let valid = config.valid_attachments()?;
    let withdrawn = exposure::withdraw_all(&|record| {
        let owner = Owner::new(&record.container_id, &record.ifname);
        record.chained && record.network == config.name && !valid.contains(&owner)
    });
    // Whose links are gone only the plugin knows that made them.
    let removed = exposure::remove_unrecorded(&BTreeSet::new(), &valid);
    Error::collect(
        [withdrawn, removed]
            .into_iter()
            .filter_map(Result::err)
            .collect(),
    )
}

/// Whether the configuration has port mappings. If they cannot be read, ADD has refused them and made
/// nothing, so there are none for DEL.
fn maps(config: &Config<'_>) -> bool {
    let ports = config.port_mappings();
    ports.is_ok_and(|ports| !ports.ports.is_empty())
}

/// What has to be in nftables for the addresses of the previous result.
fn record(request: &Request<'_>, previous: &Attached) -> Result<Record, Error> {
    let Request { call, config, .. } = request;
    let ports = config.port_mappings()?;
    config.check_backend("backend")?;
    // They name the pod in comments. Who gives addresses may understand what we do not.
    let arguments = Arguments::understood(&call.arguments);
    let pod = arguments.pod();
    let of_container = previous.ips_of(&call.ifname);
    let addresses: Vec<IpAddr> = of_container.map(|ip| ip.address.ip()).collect();
    let first = |v4| {
        addresses
            .iter()
            .copied()
            .find(|address| address.is_ipv4() == v4)
    };
    Ok(Record {
        container_id: call.container_id.clone(),
        ifname: call.ifname.clone(),
        network: config.name.to_owned(),
        pod: pod.map(|(namespace, name)| (namespace.to_owned(), name.to_owned())),
        since: exposure::now(),
        chained: true,
        addresses: [first(true), first(false)].into_iter().flatten().collect(),
        host_ports: ports.distinct(&addresses)?,
        snat: ports.snat,
        masquerade_all: ports.masquerade_all,
        ip_masq: Vec::new(),
    })
}

/// Opens the links that lead to the container for packets from the node's loopback. That is a
/// convenience: where the node has no way to the container, or the link cannot be opened, the host
/// ports work for all others, so it is left out and said.
fn open_loopback(call: &Call, record: &Record) {
    for v4 in [true, false] {
        let address = record.address(v4).filter(|_| record.reaches_loopback(v4));
        let Some(address) = address else { continue };
        let opened = RouteSocket::open().and_then(|mut socket| {
            let found = link_to(address, call, &mut socket)?;
            if let Ok(index) = found {
                Loopback { v4, v6: !v4 }.open(&mut socket, index)?;
            }
            Ok(found.err())
        });
        let reason = match opened {
            Ok(None) => continue,
            Ok(Some(reason)) => reason,
            Err(error) => error.to_string(),
        };
        let loopback = if v4 { "127.0.0.1" } else { "::1" };
        let ports = record.comment();
        streams::log(format_args!(
            "host ports of {ports} do not work from {loopback}: {reason}"
        ));
    }
}

/// The link on which the address is, or why none is to be opened. A link to other machines is not: it
/// is one if a default route uses it, if it or one of its ports is hardware or stands for some, or if
/// the container's own interface is, as that of a macvlan, which is in the network of the uplink.
fn link_to(
    address: IpAddr,
    call: &Call,
    socket: &mut RouteSocket,
) -> podwire_kernel::Result<Result<u32, String>> {
    let route = socket.route_get(address)?;
    let is_direct = match route.gateway {
        None => true,
        // Each link has its own of these: that the node has it says nothing of this one.
        Some(gateway) if is_link_local(gateway) => false,
        // The node itself: so Cilium hands packets to the programs at its own link.
        Some(gateway) => socket.route_get(gateway)?.kind == RouteKind::Local,
    };
    let index = route.link.filter(|_| route.kind == RouteKind::Unicast);
    let links = socket.links()?;
    let find = |index: Option<u32>| links.iter().find(|link| Some(link.index) == index);
    let Some(link) = find(index).filter(|link| is_direct && !link.loopback) else {
        return Ok(Err(format!("no link leads straight to {address}")));
    };
    // A bridge, or one behind a pair of links that are both on the node.
    let far_end = find(link.peer).filter(|_| link.peer_netns.is_none());
    let bridges = [Some(link.index), far_end.and_then(|end| end.master)];
    let is_one = |index: Option<u32>| index.is_some() && bridges.contains(&index);
    let mut theirs = links
        .iter()
        .filter(|one| is_one(Some(one.index)) || is_one(one.master));
    let mut inside = leads_to_node(call) && theirs.all(is_virtual);
    for v4 in [true, false] {
        inside = inside && !is_one(uplink(v4, socket)?);
    }
    Ok(match inside {
        true => Ok(link.index),
        false => Err(format!(
            "{}, on which {address} is, leads to other machines",
            link.name
        )),
    })
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// Whether the interface of the container ends on the node, and not in the network of one of its links.
fn leads_to_node(call: &Call) -> bool {
    let link = sandbox::open_any(call).ok().and_then(|netns| {
        let mut socket = RouteSocket::open_in(&netns).ok()?;
        socket.link_by_name(&call.ifname).ok()?
    });
    link.is_some_and(|link| is_virtual(&link))
}

/// Whether packets on the link stay on this machine, as far as its kind says: hardware has none, and a
/// macvlan, VLAN, bond or tunnel stands for hardware.
fn is_virtual(link: &Link) -> bool {
    let inside = ["veth", "netkit", "bridge", "openvswitch", "tun", "dummy"];
    link.kind
        .as_deref()
        .is_some_and(|kind| inside.contains(&kind))
}

/// The words of the reference plugin around a mistake in the configuration.
fn in_reading(error: Error) -> Error {
    match error {
        Error::Config { reason } => Error::config(format!("failed to parse config: {reason}")),
        other => other,
    }
}
