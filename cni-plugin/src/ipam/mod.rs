//! Addresses for containers: built in as host-local does it, or from another plugin.

mod delegate;
mod host_local;
mod resolv_conf;

use std::net::IpAddr;

pub use self::delegate::Delegate;
pub use self::host_local::{HostLocal, Location};

use crate::arguments::Arguments;
use crate::environment::Call;
use crate::error::Error;
use crate::json::Fields;
use crate::lease::{Lease, Owner};
use crate::result::Attached;
use crate::version::Version;

/// The type in `ipam.type` that is built in.
pub const BUILT_IN: &str = "host-local";

/// Who gives addresses.
#[derive(Debug)]
pub enum Ipam {
    /// We do, with everything needed for it.
    HostLocal(Box<HostLocal>),
    /// We do, and only where the leases are matters.
    Location(Location),
    /// Another plugin.
    Delegate(Delegate),
}

impl Ipam {
    /// Reads who gives addresses, and with `complete` how. To release an address it is enough to
    /// know where leases are, so a mistake elsewhere does not keep them from being released.
    pub fn read(
        fields: &Fields<'_>,
        network: &str,
        version: Version,
        arguments: &Arguments,
        complete: bool,
    ) -> Result<Self, Error> {
        let ipam = fields.object("ipam")?;
        let kind = match &ipam {
            Some(ipam) => ipam.string("type")?,
            None => "",
        };
        if kind.is_empty() {
            return Err(Error::config(
                "ipam.type is missing: say which plugin gives addresses, such as host-local",
            ));
        }
        if kind != BUILT_IN {
            return Delegate::new(kind).map(Self::Delegate);
        }
        if complete {
            let host_local = HostLocal::read(fields, network, version, arguments)?;
            Ok(Self::HostLocal(Box::new(host_local)))
        } else {
            Location::read(fields, network).map(Self::Location)
        }
    }

    /// Whether the configuration has us give addresses; `false` if it says nothing that is known.
    pub fn is_built_in(fields: &Fields<'_>) -> bool {
        let ipam = fields.object("ipam").ok().flatten();
        ipam.is_some_and(|ipam| ipam.string("type") == Ok(BUILT_IN))
    }

    /// Gets addresses for the container of `call`.
    pub fn add(&self, call: &Call, stdin: &[u8], version: Version) -> Result<Attached, Error> {
        match self {
            Self::HostLocal(host_local) => host_local.add(&owner(call)),
            Self::Delegate(delegate) => delegate.add(call, stdin, version),
            Self::Location(_) => Err(Error::config("no IP ranges specified")),
        }
    }

    /// Releases the addresses of the container of `call`.
    pub fn release(&self, call: &Call, stdin: &[u8]) -> Result<(), Error> {
        match self {
            Self::HostLocal(host_local) => host_local.location().release(&owner(call)),
            Self::Location(location) => location.release(&owner(call)),
            Self::Delegate(delegate) => delegate.release(call, stdin),
        }
    }

    /// Undoes the ADD of `call` that gave these addresses. Another plugin knows no part of what its
    /// container has; there an ADD is not asked for where there may be something from before
    /// ([`Ipam::gives_back_all`]).
    pub fn undo(&self, call: &Call, stdin: &[u8], addresses: &[IpAddr]) -> Result<(), Error> {
        match self {
            Self::HostLocal(host_local) => {
                let location = host_local.location();
                location.give_back(&owner(call), addresses)
            }
            Self::Location(location) => location.give_back(&owner(call), addresses),
            Self::Delegate(delegate) => delegate.release(call, stdin),
        }
    }

    /// Whether an ADD is undone by giving back everything that the container has.
    pub fn gives_back_all(&self) -> bool {
        matches!(self, Self::Delegate(_))
    }

    /// The addresses that are leased to the container of `call`; `None` if another plugin knows.
    pub fn addresses(&self, call: &Call) -> Result<Option<Vec<IpAddr>>, Error> {
        match self {
            Self::HostLocal(host_local) => host_local.location().addresses(&owner(call)),
            Self::Location(location) => location.addresses(&owner(call)),
            Self::Delegate(_) => return Ok(None),
        }
        .map(Some)
    }

    /// Fails if the container of `call` has no address.
    pub fn check(&self, call: &Call, stdin: &[u8]) -> Result<(), Error> {
        match self {
            Self::HostLocal(host_local) => host_local.location().check(&owner(call)),
            Self::Location(location) => location.check(&owner(call)),
            Self::Delegate(delegate) => delegate.run(call, stdin).map(drop),
        }
    }

    /// Fails if who gives addresses does not work.
    pub fn status(&self, call: &Call, stdin: &[u8]) -> Result<(), Error> {
        match self {
            Self::HostLocal(host_local) => host_local.status(),
            Self::Location(_) => Ok(()),
            Self::Delegate(delegate) => delegate.run(call, stdin).map(drop),
        }
    }

    /// Releases all addresses of containers that `keep` does not want kept. What is leased to whom, if we
    /// know, is told to `part` before it is released, and no one can get it meanwhile.
    pub fn collect(
        &self,
        call: &Call,
        stdin: &[u8],
        keep: &dyn Fn(&Owner) -> bool,
        part: &mut dyn FnMut(&[Lease]),
    ) -> Result<(), Error> {
        match self {
            Self::HostLocal(host_local) => host_local.location().collect(keep, part),
            Self::Location(location) => location.collect(keep, part),
            Self::Delegate(delegate) => delegate.run(call, stdin).map(drop),
        }
    }
}

fn owner(call: &Call) -> Owner {
    Owner::new(&call.container_id, &call.ifname)
}
