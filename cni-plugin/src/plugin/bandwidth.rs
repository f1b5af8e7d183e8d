//! `bandwidth`: limits for what goes to and comes from a container whose link another plugin made.
//!
//! What goes to the container (ingress) leaves the host end of its link, whose queue is a token
//! bucket. What comes from it (egress) arrives there, where nothing can wait, so it is sent through
//! the token bucket of an ifb link first.

use std::time::Duration;

use podwire_kernel::RouteSocket;
use podwire_kernel::link::{Link, LinkChange};
use podwire_kernel::tc::Shaping;
use podwire_kernel::{Error as KernelError, Requests};
use serde_json::Value;
use sha2::{Digest, Sha512};

use super::request::Request;
use super::sandbox;
use crate::attachment::Alias;
use crate::environment::Verb;
use crate::error::Error;
use crate::json::Fields;
use crate::result::{Attached, Interface};

/// How long a packet may wait in a token bucket, as with the reference plugin.
const LATENCY: Duration = Duration::from_millis(25);

/// Of a second. A burst that lasts for less than one is 0 to tc and to the reference plugin, which
/// refuses it as well.
const MICROSECONDS: u64 = 1_000_000;

/// What each part needs of the kernel, for the error that says that it is missing.
const FOR_IFB: &str = "egress limit (it needs the kernel feature CONFIG_IFB)";
const FOR_BUCKET: &str = "limit (it needs the kernel feature CONFIG_NET_SCH_TBF)";
const FOR_REDIRECTION: &str = "egress limit (it needs the kernel features CONFIG_NET_SCH_INGRESS, \
                               CONFIG_NET_CLS_U32 and CONFIG_NET_ACT_MIRRED)";
const FOR_LINK: &str = "bandwidth";

/// The limits of one container; `None` is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Limits {
    ingress: Option<Shaping>,
    egress: Option<Shaping>,
}

/// Carries out one call.
pub fn run(request: &Request<'_>) -> Result<Option<Value>, Error> {
    let Request { call, .. } = request;
    match call.verb {
        Verb::Add => return add(request).map(Some),
        Verb::Del => del(request)?,
        Verb::Check => check(request)?,
        Verb::Gc => gc(request)?,
        Verb::Status | Verb::Version => {}
    }
    Ok(None)
}

fn add(request: &Request<'_>) -> Result<Value, Error> {
    let Request { config, .. } = request;
    let limits = Limits::read(&config.fields)?;
    let previous = config.previous()?;
    let Some(mut attached) = previous else {
        return Err(Error::config("must be called as chained plugin"));
    };
    if limits != Limits::default() {
        let mut socket = RouteSocket::open().map_err(Error::kernel(FOR_LINK))?;
        let host = find_host(request, &mut socket, &attached)?;
        limit(request, &mut socket, &host, &limits, &mut attached)?;
    }
    Ok(attached.print(config.version)?)
}

fn limit(
    request: &Request<'_>,
    socket: &mut RouteSocket,
    host: &Link,
    limits: &Limits,
    attached: &mut Attached,
) -> Result<(), Error> {
    let Some(egress) = &limits.egress else {
        return limit_ingress(socket, host, limits);
    };
    let name = ifb_name(request);
    // Where there is one, nothing has been done yet that could be undone.
    let index = socket.create_ifb(&name).map_err(Error::kernel(FOR_IFB))?;
    let limited = limit_egress(request, socket, host, index, egress);
    // It replaces what was there, or fails and leaves that, so it comes last.
    let limited = limited.and_then(|mac| limit_ingress(socket, host, limits).map(|()| mac));
    let mac = limited.inspect_err(|_| {
        // The error that stopped us is the one to tell.
        let _ = socket.delete_link(index);
    })?;
    attached.interfaces.push(Interface {
        name,
        mac,
        ..Interface::default()
    });
    Ok(())
}

/// Limits what goes to the container.
fn limit_ingress(socket: &mut RouteSocket, host: &Link, limits: &Limits) -> Result<(), Error> {
    match &limits.ingress {
        Some(shaping) => shape(socket, host.index, shaping),
        None => Ok(()),
    }
}

/// Limits what comes from the container, through the ifb link `index`; returns its MAC address.
fn limit_egress(
    request: &Request<'_>,
    socket: &mut RouteSocket,
    host: &Link,
    index: u32,
    shaping: &Shaping,
) -> Result<String, Error> {
    let alias = Alias {
        container_id: request.call.container_id.clone(),
        ifname: request.call.ifname.clone(),
        network: request.config.name.to_owned(),
        ..Alias::default()
    };
    let change = LinkChange {
        mtu: Some(host.mtu),
        alias: Some(&alias.to_string()),
        up: Some(true),
        ..LinkChange::of(index)
    };
    socket
        .change_link(&change)
        .map_err(Error::kernel(FOR_IFB))?;
    shape(socket, index, shaping)?;
    let redirected = socket.run(Requests::new().redirect_arriving(host.index, index));
    redirected.map_err(Error::kernel(FOR_REDIRECTION))?;
    let link = socket
        .link_by_index(index)
        .map_err(Error::kernel(FOR_IFB))?;
    let mac = link.and_then(|link| link.mac);
    Ok(mac.map_or_else(String::new, |mac| mac.to_string()))
}

fn shape(socket: &mut RouteSocket, index: u32, shaping: &Shaping) -> Result<(), Error> {
    let shaped = socket.run(Requests::new().shape(index, shaping));
    shaped.map_err(Error::kernel(FOR_BUCKET))
}

fn del(request: &Request<'_>) -> Result<(), Error> {
    let mut socket = RouteSocket::open().map_err(Error::kernel(FOR_LINK))?;
    let Request { call, .. } = request;
    let found = socket.link_by_name(&ifb_name(request));
    let found = found.map_err(Error::kernel(FOR_IFB))?;
    // The name says the container and not the interface: another one may have it.
    let is_of_another = |link: &Link| {
        let alias = link.alias.as_deref().and_then(Alias::parse);
        alias.is_some_and(|alias| !alias.is_of(&call.container_id, &call.ifname))
    };
    let Some(ifb) = found.filter(|link| !is_of_another(link)) else {
        return Ok(());
    };
    match socket.delete_link(ifb.index) {
        Err(error) if !error.is_not_found() => Err(Error::kernel(FOR_IFB)(error)),
        _ => Ok(()),
    }
}

fn check(request: &Request<'_>) -> Result<(), Error> {
    let Request { config, .. } = request;
    let limits = Limits::read(&config.fields)?;
    let Some(previous) = config.previous()? else {
        return Err(Error::config("must be called as a chained plugin"));
    };
    // As ADD: without limits, any kind of link will do.
    if limits == Limits::default() {
        return Ok(());
    }
    let mut socket = RouteSocket::open().map_err(Error::kernel(FOR_LINK))?;
    let host = find_host(request, &mut socket, &previous)?;
    if let Some(shaping) = &limits.ingress {
        check_shaping(&mut socket, &host, shaping)?;
    }
    if let Some(shaping) = &limits.egress {
        let name = ifb_name(request);
        let found = socket
            .link_by_name(&name)
            .map_err(Error::kernel(FOR_LINK))?;
        let Some(ifb) = found else {
            let difference = format!("get ifb device: {name} is gone");
            return Err(Error::Changed { difference });
        };
        check_shaping(&mut socket, &ifb, shaping)?;
    }
    Ok(())
}

fn check_shaping(socket: &mut RouteSocket, link: &Link, wanted: &Shaping) -> Result<(), Error> {
    let qdiscs = socket.qdiscs(link.index).map_err(Error::kernel(FOR_LINK))?;
    let found = qdiscs
        .iter()
        .find(|qdisc| qdisc.root)
        .and_then(|qdisc| qdisc.shaping);
    let name = &link.name;
    let difference = match found {
        None => format!("Failed to find qdisc of {name}"),
        Some(found) if found.rate != wanted.rate => {
            format!(
                "Rate doesn't match for {name}: {} bytes/s, not {}",
                found.rate, wanted.rate
            )
        }
        Some(found) if !found.has_burst_of(wanted) => {
            format!(
                "Burst doesn't match for {name}: it is not {} bytes",
                wanted.burst
            )
        }
        Some(_) => return Ok(()),
    };
    Err(Error::Changed { difference })
}

/// Removes the ifb links of containers that the runtime does not list. Links that the reference
/// plugin made say not to which network they belong, so they are left alone.
fn gc(request: &Request<'_>) -> Result<(), Error> {
    let Request { config, .. } = request;
    let valid = config.valid_attachments()?;
    let mut socket = RouteSocket::open().map_err(Error::kernel(FOR_LINK))?;
    let links = socket.links().map_err(Error::kernel(FOR_LINK))?;
    let is_stale = |link: &&Link| {
        let alias = link.alias.as_deref().and_then(Alias::parse);
        link.kind.as_deref() == Some("ifb")
            && alias.is_some_and(|alias| {
                let listed = |one: &crate::lease::Owner| {
                    alias.is_of(&one.container_id, one.ifname.as_deref().unwrap_or_default())
                };
                alias.network == config.name && !valid.iter().any(listed)
            })
    };
    let stale = links.iter().filter(is_stale);
    let failed = |error: KernelError| Error::kernel(FOR_IFB)(error);
    let deleted = stale.map(|link| socket.delete_link(link.index).map_err(failed));
    Error::collect(deleted.filter_map(Result::err).collect())
}

/// The host end of the container's link, which must be in the previous result.
fn find_host(
    request: &Request<'_>,
    socket: &mut RouteSocket,
    attached: &Attached,
) -> Result<Link, Error> {
    let Request { call, .. } = request;
    let changed = |difference: String| Error::Changed { difference };
    if attached.interfaces.is_empty() {
        return Err(changed("no interfaces provided".to_owned()));
    }
    let inside = RouteSocket::open_in(&sandbox::open_any(call)?);
    let mut inside = inside.map_err(|error| Error::Netns {
        path: call.sandbox(),
        source: error.cause,
    })?;
    let ifname = &call.ifname;
    let link = inside
        .link_by_name(ifname)
        .map_err(Error::kernel(FOR_LINK))?;
    let peer = link
        .and_then(|link| link.peer)
        .ok_or_else(|| changed(format!("container interface {ifname} has no veth peer")))?;
    let host = socket
        .link_by_index(peer)
        .map_err(Error::kernel(FOR_LINK))?;
    let host = host.ok_or_else(|| {
        changed(format!(
            "veth peer with index {peer} is not in host ns: limits are set on the other end of \
             {ifname}, and there is no such link on the node; leave the bandwidth plugin out for \
             this network"
        ))
    })?;
    let mut interfaces = attached.interfaces.iter();
    if interfaces.any(|one| one.sandbox.is_empty() && one.name == host.name) {
        return Ok(host);
    }
    let text = "no veth peer of container interface found in host ns";
    Err(changed(text.to_owned()))
}

/// The name of the ifb link, as the reference plugin makes it.
fn ifb_name(request: &Request<'_>) -> String {
    let Request { call, config, .. } = request;
    let hash = Sha512::new()
        .chain_update(config.name)
        .chain_update(&call.container_id)
        .finalize();
    let digits: String = hash
        .iter()
        .take(6)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("bwp{digits}")
}

impl Limits {
    /// Reads the limits of the configuration, or if it has none, those of the runtime.
    fn read(fields: &Fields<'_>) -> Result<Self, Error> {
        const KEYS: [&str; 6] = [
            "ingressRate",
            "ingressBurst",
            "egressRate",
            "egressBurst",
            "shapedSubnets",
            "unshapedSubnets",
        ];
        // The reference plugin has these keys in an object that Go makes for any of them, even for
        // `null`; then what the runtime says does not count.
        if KEYS.iter().any(|key| fields.has(key)) {
            return Self::read_from(fields);
        }
        let runtime = fields.object("runtimeConfig")?;
        let Some(runtime) = runtime else {
            return Ok(Self::default());
        };
        match runtime.object("bandwidth")? {
            Some(bandwidth) => Self::read_from(&bandwidth),
            None => Ok(Self::default()),
        }
    }

    fn read_from(fields: &Fields<'_>) -> Result<Self, Error> {
        for key in ["shapedSubnets", "unshapedSubnets"] {
            let subnets = fields.strings(key)?.unwrap_or_default();
            if !subnets.is_empty() {
                return Err(Error::Unsupported {
                    key: key.to_owned(),
                    value: format!("{subnets:?}"),
                    reason: "all traffic of a container is limited alike: remove the key",
                });
            }
        }
        let shaping = |rate: &str, burst: &str| {
            let rate = fields.unsigned(rate)?.unwrap_or_default();
            shaping(rate, fields.unsigned(burst)?.unwrap_or_default())
        };
        Ok(Self {
            ingress: shaping("ingressRate", "ingressBurst")?,
            egress: shaping("egressRate", "egressBurst")?,
        })
    }
}

/// A token bucket for a rate in bits per second and a burst in bits.
fn shaping(rate: u64, burst: u64) -> Result<Option<Shaping>, Error> {
    let reason = match (rate, burst) {
        (0, 0) => return Ok(None),
        (_, 0) => "if rate is set, burst must also be set",
        (0, _) => "if burst is set, rate must also be set",
        (..8, _) => "rate must be at least 8 bits per second",
        _ => match u32::try_from(burst / 8) {
            Ok(0) => "burst must be at least 8 bits",
            Ok(_) if burst.saturating_mul(MICROSECONDS) < rate => {
                "burst must be at least what the rate sends in a microsecond"
            }
            Ok(bytes) if bytes < u32::MAX => {
                return Ok(Some(Shaping::with_latency(rate / 8, bytes, LATENCY)));
            }
            _ => "burst cannot be more than 4GB",
        },
    };
    Err(Error::config(reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_that_would_be_none_at_its_rate_is_refused() {
        for (rate, burst) in [
            (40_000_000_000_000, 800),
            (1_000_000_000_000, 80_000),
            (u64::MAX, 2_147_483_647),
        ] {
            let error = shaping(rate, burst).unwrap_err().to_string();
            assert!(
                error.contains("in a microsecond"),
                "{rate} {burst}: {error}"
            );
        }
        // The most that Kubernetes takes, with the burst that it sets.
        for (rate, burst) in [(1_000_000_000_000_000, 2_147_483_647), (8, 8)] {
            assert!(shaping(rate, burst).unwrap().is_some(), "{rate} {burst}");
        }
    }
}
