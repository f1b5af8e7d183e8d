//! What the nodes on the way dropped of late of what the source sent: it may send what no one asks
//! about, from another address for example.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use podwire_agent::drops::{Dropped, Page};
use podwire_agent::why::Transport;

use crate::fleet::Fleet;
use crate::stream::is_younger;
use crate::why::asked::{Asked, target};
use crate::why::conclude::Seen;
use crate::why::part::Part;

/// Drops of longer ago may have had another reason.
const LATE: Duration = Duration::from_secs(60);

/// Reasons that are the same whatever the protocol and the port.
const OF_ANY_PORT: [&str; 3] = ["spoofed", "loopback", "too-many-connections"];

/// Reasons that are gone where no hop fails: policies allow it by now.
const OF_POLICIES: [&str; 2] = ["policy", "undecided"];

/// The last such drop of each node, on a way on which no hop fails.
pub(super) async fn dropped(fleet: &Fleet, asked: &Asked, parts: &[Part]) -> Vec<Seen> {
    let nodes: BTreeSet<&str> = parts.iter().map(|part| part.node.as_str()).collect();
    let mut found = Vec::new();
    for node in nodes {
        let Ok(page) = fleet.get::<Page>(node, "/drops").await else {
            continue;
        };
        let counts = |one: &&Dropped| {
            is_younger(&one.time, LATE) && asked.sent(one) && asked.concerns(one, parts)
        };
        if let Some(last) = page.drops.iter().rfind(counts) {
            found.push(Seen {
                node: node.to_owned(),
                what: last.to_string(),
                spoofed: last.sent_by.is_some(),
            });
        }
    }
    found
}

impl Asked {
    /// True if the source sent it.
    fn sent(&self, one: &Dropped) -> bool {
        let sender = one.sent_by.as_deref().or(one.source.pod.as_deref());
        one.source.address == self.from || sender.is_some() && sender == self.pod()
    }

    /// True if it may happen again to what is asked about.
    fn concerns(&self, one: &Dropped, parts: &[Part]) -> bool {
        let reason = one.reason.as_str();
        if OF_POLICIES.contains(&reason) {
            return false;
        }
        let traces = parts.iter().flat_map(|part| &part.trace);
        let ends = traces.map(|trace| trace.destination.clone());
        let mut ends = ends.chain([shown(self.to, self.transport)]);
        match OF_ANY_PORT.contains(&reason) {
            true => ends.any(|end| address_of(&end) == Some(one.destination.address)),
            false => ends.any(|end| end == end_of(one)),
        }
    }
}

/// A destination as agents write it: `10.10.1.2:80/tcp`, `[fd00::2]:80/tcp`, `fd00::2 (ping)`.
fn shown(address: IpAddr, transport: Transport) -> String {
    match transport {
        Transport::Ping => format!("{address} (ping)"),
        Transport::Port(..) => target(address, transport),
    }
}

/// The same of a drop.
fn end_of(one: &Dropped) -> String {
    let address = one.destination.address;
    match one.port {
        Some(port) => format!("{}/{}", SocketAddr::new(address, port), one.protocol),
        None if one.protocol.starts_with("icmp") => shown(address, Transport::Ping),
        None => format!("{address} ({})", one.protocol),
    }
}

/// The address of a destination as agents write it.
fn address_of(destination: &str) -> Option<IpAddr> {
    let text = destination.split(['/', ' ']).next()?;
    let socket = text.parse().ok().map(|socket: SocketAddr| socket.ip());
    socket.or_else(|| text.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_of_both_families_have_an_address() {
        for (text, address) in [
            ("10.10.1.2:80/tcp", "10.10.1.2"),
            ("10.10.1.2 (ping)", "10.10.1.2"),
            ("[fd00::2]:80/tcp", "fd00::2"),
            ("fd00::2 (ping)", "fd00::2"),
        ] {
            assert_eq!(address_of(text), Some(address.parse().unwrap()), "{text}");
        }
        assert_eq!(address_of("somewhere"), None);
    }
}
