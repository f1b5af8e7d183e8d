//! `host-local`: a lease, for whatever plugin makes the link.

use serde_json::Value;

use super::request::Request;
use crate::arguments::Arguments;
use crate::environment::Verb;
use crate::error::Error;
use crate::ipam::{HostLocal, Location};
use crate::lease::Owner;

/// Carries out one call.
pub fn run(request: &Request<'_>) -> Result<Option<Value>, Error> {
    let Request { call, config, .. } = request;
    let location = Location::read(&config.fields, config.name)?;
    let owner = Owner::new(&call.container_id, &call.ifname);
    match call.verb {
        Verb::Add => {
            let attached = read(request)?.add(&owner)?;
            let printed = attached.print(config.version);
            if printed.is_err() {
                let addresses: Vec<_> = attached.ips.iter().map(|ip| ip.address.ip()).collect();
                location.give_back(&owner, &addresses)?;
            }
            return Ok(Some(printed?));
        }
        Verb::Del => location.release(&owner)?,
        Verb::Check => location.check(&owner)?,
        Verb::Status => read(request)?.status()?,
        Verb::Gc => {
            let valid = config.valid_attachments()?;
            location.collect(
                &|owner| super::request::is_valid(&valid, owner),
                &mut |_| {},
            )?;
        }
        Verb::Version => {}
    }
    Ok(None)
}

fn read(request: &Request<'_>) -> Result<HostLocal, Error> {
    let Request { call, config, .. } = request;
    let arguments = Arguments::parse(&call.arguments)?;
    HostLocal::read(&config.fields, config.name, config.version, &arguments)
}
