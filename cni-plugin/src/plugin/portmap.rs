//! `portmap`: ports of the node that lead to a container whose link another plugin made.

use std::collections::BTreeSet;
use std::net::IpAddr;

use podwire_kernel::RouteSocket;
use podwire_kernel::route::RouteKind;
use serde_json::Value;

use super::request::Request;
use crate::arguments::Arguments;
use crate::attachment::Record;
use crate::config::Config;
use crate::environment::Verb;
use crate::error::Error;
use crate::exposure;
use crate::lease::Owner;
use crate::link::Loopback;
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
    let Request { config, .. } = request;
    let Some(previous) = config.previous()? else {
        return Err(Error::config("must be called as chained plugin"));
    };
    let printed = previous.print(config.version)?;
    let record = record(request, &previous).map_err(in_reading)?;
    if !record.host_ports.is_empty() {
        exposure::expose(&record)?;
        // Behind the guard of 127.0.0.0/8.
        open_loopback(&record);
    }
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

/// Whether there are host ports; a DEL is not stopped by what is no mapping, and an ADD made none of it.
fn maps(config: &Config<'_>) -> bool {
    let ports = config.port_mappings();
    ports.is_ok_and(|ports| !ports.ports.is_empty())
}

/// What has to be in nftables for the addresses of the previous result.
fn record(request: &Request<'_>, previous: &Attached) -> Result<Record, Error> {
    let Request { call, config, .. } = request;
    let ports = config.port_mappings()?;
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
        host_ports: ports.ports,
        snat: ports.snat,
        masquerade_all: ports.masquerade_all,
        ip_masq: Vec::new(),
    })
}

/// Opens the links that lead to the container for packets from the node's loopback. That is a
/// convenience: where the node has no way to the container, or the link cannot be opened, the host
/// ports work for all others, so it is left out and said.
fn open_loopback(record: &Record) {
    for v4 in [true, false] {
        let address = record.address(v4).filter(|_| record.reaches_loopback(v4));
        let Some(address) = address else { continue };
        let opened = RouteSocket::open().and_then(|mut socket| {
            let Some(index) = link_to(address, &mut socket)? else {
                return Ok(false);
            };
            Loopback { v4, v6: !v4 }.open(&mut socket, index)?;
            Ok(true)
        });
        let reason = match opened {
            Ok(true) => continue,
            Ok(false) => format!("no link leads straight to {address}"),
            Err(error) => error.to_string(),
        };
        let loopback = if v4 { "127.0.0.1" } else { "::1" };
        let ports = record.comment();
        streams::log(format_args!(
            "host ports of {ports} do not work from {loopback}: {reason}"
        ));
    }
}

/// The link on which the address is. None if there is a gateway on the way: the link would be the uplink,
/// behind which is everyone else; or if the address is the node's own.
fn link_to(address: IpAddr, socket: &mut RouteSocket) -> podwire_kernel::Result<Option<u32>> {
    let route = socket.route_get(address)?;
    if route.kind != RouteKind::Unicast || route.gateway.is_some() {
        return Ok(None);
    }
    let Some(index) = route.link else {
        return Ok(None);
    };
    let link = socket.link_by_index(index)?;
    Ok(link.filter(|link| !link.loopback).map(|link| link.index))
}

/// The words of the reference plugin around a mistake in the configuration.
fn in_reading(error: Error) -> Error {
    match error {
        Error::Config { reason } => Error::config(format!("failed to parse config: {reason}")),
        other => other,
    }
}
