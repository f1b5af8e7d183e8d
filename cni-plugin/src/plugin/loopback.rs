//! `loopback`: the interface `lo` of a container, set up and down.

use podwire_kernel::{Cause, RouteSocket};
use serde_json::Value;

use super::request::Request;
use super::sandbox;
use crate::environment::{Call, Verb};
use crate::error::Error;
use crate::result::{Attached, Interface, Ip};

const NAME: &str = "lo";

/// Carries out one call.
pub fn run(request: &Request<'_>) -> Result<Option<Value>, Error> {
    let Request { call, config, .. } = request;
    match call.verb {
        Verb::Add => {
            let previous = config.previous()?;
            let attached = add(call)?;
            let attached = previous.unwrap_or(attached);
            Ok(Some(attached.print(config.version)?))
        }
        Verb::Del => del(call).map(|()| None),
        Verb::Check => check(call).map(|()| None),
        // There is nothing to run out of, and nothing that outlives a container.
        Verb::Status | Verb::Gc | Verb::Version => Ok(None),
    }
}

fn add(call: &Call) -> Result<Attached, Error> {
    let mut socket = open(call)?;
    let failed = || Error::kernel("loopback");
    let index = socket.index_of(NAME).map_err(failed())?;
    socket.set_up(index).map_err(failed())?;
    let mut addresses = socket.addresses(Some(index)).map_err(failed())?;
    addresses.sort_by_key(|address| address.network.is_ipv6());
    for address in &addresses {
        let ip = address.network.ip();
        if !ip.is_loopback() {
            return Err(Error::Changed {
                difference: format!("loopback interface found with non-loopback address {ip:?}"),
            });
        }
    }
    // The first of each family, as the reference plugin tells it.
    addresses.dedup_by_key(|address| address.network.is_ipv6());
    let ips = addresses.iter().map(|address| Ip {
        interface: Some(0),
        address: address.network,
        gateway: None,
    });
    Ok(Attached {
        interfaces: vec![Interface {
            name: NAME.to_owned(),
            mac: "00:00:00:00:00:00".to_owned(),
            sandbox: call.sandbox(),
            ..Interface::default()
        }],
        ips: ips.collect(),
        ..Attached::default()
    })
}

fn del(call: &Call) -> Result<(), Error> {
    let Some(netns) = sandbox::open_if_there(call)? else {
        return Ok(());
    };
    let failed = || Error::kernel("loopback");
    let mut socket = match RouteSocket::open_in(&netns) {
        Ok(socket) => socket,
        // A file that is not a namespace any more: its `lo` is gone with it.
        Err(error) if matches!(error.cause, Cause::Unsuitable(_)) => return Ok(()),
        Err(error) => return Err(failed()(error)),
    };
    let index = socket.index_of(NAME).map_err(failed())?;
    socket.set_down(index).map_err(failed())
}

fn check(call: &Call) -> Result<(), Error> {
    let mut socket = open(call)?;
    let link = socket
        .link_by_name(NAME)
        .map_err(Error::kernel("loopback"))?;
    if link.is_some_and(|link| link.up) {
        return Ok(());
    }
    let difference = "loopback interface is down".to_owned();
    Err(Error::Changed { difference })
}

/// A socket in the namespace of the container. Without the `lo` of the node nothing there works.
fn open(call: &Call) -> Result<RouteSocket, Error> {
    let netns = sandbox::open(call)?;
    RouteSocket::open_in(&netns).map_err(|error| Error::Netns {
        path: call.sandbox(),
        source: error.cause,
    })
}
