//! Ports of this node that the plugin has given to containers, as the kernel holds them.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use podwire::attachment::{FAMILY, HOSTPORTS};
use podwire_kernel::IpFamily;
use podwire_kernel::nft::{Element, KeyReader, NftSocket, Value};

use crate::snapshot::Protocol;
use crate::why::Hop;
use crate::why::kernel::counted;

/// An element of the table of host ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// The map in which it is.
    pub map: &'static str,
    /// The family of the addresses that it is for.
    pub family: IpFamily,
    /// The address of the node; `None` for all of them.
    pub address: Option<IpAddr>,
    /// The protocol.
    pub protocol: Protocol,
    /// The port of the node.
    pub port: u16,
    /// Where it leads to.
    pub target: SocketAddr,
    /// Whose it is.
    pub comment: Option<String>,
    /// Connections that it counted.
    pub connections: Option<u64>,
}

/// The maps, the family of each, and whether its key begins with an address.
const MAPS: [(&str, IpFamily, bool); 4] = [
    ("hostips-v4", IpFamily::V4, true),
    ("hostports-v4", IpFamily::V4, false),
    ("hostips-v6", IpFamily::V6, true),
    ("hostports-v6", IpFamily::V6, false),
];

/// All host ports; those for one address come first, as in the rules.
pub(super) fn read(tables: &mut NftSocket) -> podwire_kernel::Result<Vec<HostPort>> {
    let mut all = Vec::new();
    if !tables.has_table(FAMILY, HOSTPORTS)? {
        return Ok(all);
    }
    let headers = tables.set_headers(FAMILY, HOSTPORTS)?;
    for (map, family, with_address) in MAPS {
        let Some(header) = headers.get(map) else {
            continue;
        };
        tables.each_element(FAMILY, HOSTPORTS, map, header, |key, element| {
            all.extend(host_port(map, family, with_address, &key, &element));
        })?;
    }
    Ok(all)
}

/// What an element says; none if another program made it of something else.
fn host_port(
    map: &'static str,
    family: IpFamily,
    with_address: bool,
    key: &[u8],
    element: &Element,
) -> Option<HostPort> {
    let mut key = KeyReader::new(key);
    let address = match with_address {
        true => Some(key.address(family)?),
        false => None,
    };
    let (protocol, port) = (key.protocol()?, key.port()?);
    let Value::Data(data) = &element.value else {
        return None;
    };
    let mut data = KeyReader::new(data);
    Some(HostPort {
        map,
        family,
        address,
        protocol: Protocol::ALL
            .into_iter()
            .find(|one| one.number() == protocol.number())?,
        port,
        target: SocketAddr::new(data.address(family)?, data.port()?),
        comment: element.comment.as_ref().map(ToString::to_string),
        connections: element.counter.map(|counter| counter.packets),
    })
}

impl HostPort {
    /// The one that takes what is sent to an address of this node, if any does.
    pub(super) fn of(all: &[Self], to: IpAddr, protocol: Protocol, port: u16) -> Option<&Self> {
        all.iter().find(|one| {
            (one.protocol, one.port) == (protocol, port)
                && one.family == IpFamily::of(to)
                && one.address.is_none_or(|address| address == to)
        })
    }

    /// The step.
    pub(super) fn hop(&self) -> Hop {
        let whose = self.comment.as_deref().unwrap_or("a container");
        let mut hop = Hop::new(format!(
            "hostPort {}/{} of this node leads to {} of {whose}",
            self.port,
            self.protocol.name(),
            self.target
        ))
        .because(
            "The plugin gave it the port when it started. No program of the node gets what is sent \
             to that port.",
        )
        .see(format!("nft list map {FAMILY} {HOSTPORTS} {}", self.map));
        hop.kernel.push(self.to_string());
        hop
    }
}

impl fmt::Display for HostPort {
    /// As `nft list map` puts it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.map)?;
        if let Some(address) = self.address {
            write!(f, "{address} . ")?;
        }
        let (protocol, port, target) = (self.protocol.name(), self.port, self.target);
        write!(
            f,
            "{protocol} . {port} : {} . {}{}",
            target.ip(),
            target.port(),
            counted(self.connections)
        )
    }
}
