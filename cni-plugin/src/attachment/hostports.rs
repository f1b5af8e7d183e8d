//! The table `inet podwire-hostports`: ports of the node that lead to containers.
//!
//! In: the attachment records. Out: the table as it is to be. The rules are the same whatever the
//! number of ports; a port is an element of a map. As with the reference plugin,
//! - a packet to an address of the node goes to the container, whether it comes from outside, from
//!   a container, from the node itself or from its loopback;
//! - the source is left alone but for what would not come back: a container that reaches itself,
//!   and 127.0.0.0/8 and ::1;
//! - a mapping with an address of the node (hostIP) holds for that address, one without for all.
//!
//! 127.0.0.1 leaves the node's loopback here, so nothing from outside may come in by that name: the
//! guard drops it, even if something allowed it by `route_localnet`.

use std::iter;
use std::net::IpAddr;

use podwire_kernel::nft::{
    Chain, ChainType, Comparison, Element, Family, Field, Hook, Key, KeyBuf, Rule, Set, Source,
    Table, ct_status, fib_flag, fib_type, priority,
};
use podwire_kernel::{RouteSocket, sysctl};

use super::filled;
use super::record::{HostPort, Record};

/// The name of the table.
pub const HOSTPORTS: &str = "podwire-hostports";

/// The names of what the table has for one family, and the fields that differ.
struct Half {
    family: Family,
    any: &'static str,
    one: &'static str,
    hairpin: &'static str,
    masquerade: &'static str,
    saddr: Field,
    daddr: Field,
}

const HALVES: [Half; 2] = [
    Half {
        family: Family::Ip,
        any: "hostports-v4",
        one: "hostips-v4",
        hairpin: "hairpin-v4",
        masquerade: "masq-all-v4",
        saddr: Field::IpSaddr,
        daddr: Field::IpDaddr,
    },
    Half {
        family: Family::Ip6,
        any: "hostports-v6",
        one: "hostips-v6",
        hairpin: "hairpin-v6",
        masquerade: "masq-all-v6",
        saddr: Field::Ip6Saddr,
        daddr: Field::Ip6Daddr,
    },
];

/// The table for these records, of which later ones win; `None` if none of them has a port.
pub fn hostports_table(records: &[Record]) -> Option<Table> {
    filled(skeleton(), records.iter().flat_map(elements))
}

/// What stays of the table when no record says anything of it: the guard, as long as a link of this
/// network namespace needs it. `None` if none does.
pub fn hostports_guard() -> podwire_kernel::Result<Option<Table>> {
    Ok(routes_loopback()?.then(skeleton))
}

/// Whether some link carries packets from or to 127.0.0.0/8, whoever opened it. One that another plugin
/// made for a container, a bridge say, stays open when the container is gone.
fn routes_loopback() -> podwire_kernel::Result<bool> {
    let links = RouteSocket::open()?.links()?;
    // What is on the loopback itself is none of the guard's business.
    let links = links.iter().filter(|link| !link.loopback);
    let names = links.map(|link| link.name.as_str());
    for name in iter::once("all").chain(names) {
        match sysctl::read(&format!("net/ipv4/conf/{name}/route_localnet")) {
            Ok(value) if value == "0" => {}
            Ok(_) => return Ok(true),
            // The link has gone by now, or it has no IPv4.
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// What one record adds to the table: the set, the key and the element.
pub(super) fn elements(record: &Record) -> Vec<(&'static str, Key, Element)> {
    let comment = record.comment();
    let mut elements = Vec::new();
    for half in &HALVES {
        let v4 = half.family == Family::Ip;
        let Some(address) = record.address(v4) else {
            continue;
        };
        let ports = record.host_ports.iter();
        let ports: Vec<_> = ports.filter(|port| applies(port, v4)).collect();
        for port in &ports {
            let (set, key) = key(half, port);
            let target = KeyBuf::new().address(address).port(port.container_port);
            elements.push((set, key, Element::data(target.finish()).comment(&comment)));
        }
        if ports.is_empty() {
            continue;
        }
        let member = || Element::member().comment(&comment);
        if record.snat {
            let both = KeyBuf::new().address(address).address(address);
            elements.push((half.hairpin, both.finish(), member()));
        }
        if record.snat && record.masquerade_all {
            let key = KeyBuf::new().address(address).finish();
            elements.push((half.masquerade, key, member()));
        }
    }
    elements
}

/// The key that a mapping has for the addresses of IPv4 or IPv6, with its map of the table; `None` if
/// it is not for them. Two mappings that share one cannot lead to two ports, however they are written.
pub fn key_of(port: &HostPort, v4: bool) -> Option<(&'static str, Key)> {
    let half = HALVES
        .iter()
        .find(|half| (half.family == Family::Ip) == v4)?;
    applies(port, v4).then(|| key(half, port))
}

/// Whether a mapping is for the addresses of IPv4 or IPv6.
fn applies(port: &HostPort, v4: bool) -> bool {
    port.host_ip.is_none_or(|address| address.is_ipv4() == v4)
}

fn key(half: &Half, port: &HostPort) -> (&'static str, Key) {
    let service = |key: KeyBuf| {
        key.protocol(port.protocol.number())
            .port(port.host_port)
            .finish()
    };
    match port.host_ip.filter(|address| !address.is_unspecified()) {
        Some(address) => (half.one, service(KeyBuf::new().address(address))),
        None => (half.any, service(KeyBuf::new())),
    }
}

/// The table without elements.
pub(super) fn skeleton() -> Table {
    let hook = |kind, hook, priority| Chain::base(kind, hook, priority);
    let local = || {
        let local = KeyBuf::new().number(fib_type::LOCAL);
        Rule::new()
            .is(Source::address_type(fib_flag::DADDR), &local)
            .goto("hostports")
    };
    let mut ports = Chain::regular().with_comment("which container");
    let mut source = hook(ChainType::Nat, Hook::Postrouting, priority::SRCNAT)
        .with_comment("what would not come back gets the node's address");
    let mut table = Table::new(Family::Inet, HOSTPORTS)
        .with_comment("ports of this node that lead to containers; made by the podwire CNI plugin");
    for half in &HALVES {
        let service = [Field::L4Proto, Field::ThDport];
        let full = [half.daddr, Field::L4Proto, Field::ThDport];
        let target = [half.daddr, Field::ThDport];
        table = table
            .with_set(half.one, Set::map(&full, &target).with_counters())
            .with_set(half.any, Set::map(&service, &target).with_counters())
            .with_set(half.hairpin, Set::of(&[half.saddr, half.daddr]))
            .with_set(half.masquerade, Set::of(&[half.daddr]));
        let family = || Rule::new().nfproto(half.family);
        ports = ports
            .with_rule(family().dnat_map(half.family, &full, half.one, true))
            .with_rule(family().dnat_map(half.family, &service, half.any, true));
        source = source
            .with_rule(
                family()
                    .in_set(&[half.saddr, half.daddr], half.hairpin)
                    .masquerade(0)
                    .comment("a container reaches itself"),
            )
            .with_rule(
                family()
                    .within(half.saddr, Comparison::Eq, loopback(half.family))
                    .in_set(&[half.daddr, half.daddr], half.hairpin)
                    .masquerade(0)
                    .comment("the node reaches a container by its loopback"),
            )
            .with_rule(
                family()
                    .ct_status(ct_status::DNAT)
                    .in_set(&[half.daddr], half.masquerade)
                    .masquerade(0)
                    .comment("masqAll"),
            );
    }
    table
        .with_chain("guard", guard())
        .with_chain("hostports", ports)
        .with_chain(
            "prerouting",
            hook(ChainType::Nat, Hook::Prerouting, priority::DSTNAT).with_rule(local()),
        )
        .with_chain(
            "output",
            hook(ChainType::Nat, Hook::Output, priority::DSTNAT).with_rule(local()),
        )
        .with_chain("postrouting", source)
}

/// Drops what says that it is to or from 127.0.0.0/8 and comes from elsewhere (RFC 1122, section
/// 3.2.1.3). The kernel does so too, but not on links with `route_localnet`.
fn guard() -> Chain {
    let mut guard = Chain::base(ChainType::Filter, Hook::Prerouting, priority::RAW)
        .with_comment("127.0.0.0/8 is of this node alone");
    for field in [Field::IpDaddr, Field::IpSaddr] {
        let rule = Rule::new()
            .iifname_is_not("lo")
            .nfproto(Family::Ip)
            .within(field, Comparison::Eq, loopback(Family::Ip))
            .counter()
            .drop();
        guard = guard.with_rule(rule);
    }
    guard
}

fn loopback(family: Family) -> ipnetwork::IpNetwork {
    let (address, prefix) = if family == Family::Ip {
        (IpAddr::from([127, 0, 0, 0]), 8)
    } else {
        (IpAddr::from(std::net::Ipv6Addr::LOCALHOST), 128)
    };
    ipnetwork::IpNetwork::new(address, prefix).unwrap_or_else(|_| address.into())
}
