//! The table `inet podwire-ipmasq`: containers whose addresses stay hidden (`ipMasq`).
//!
//! In: the attachment records. Out: the table as it is to be. A packet from such a container that
//! leaves its network gets the node's address as its source; multicast is left alone. The address
//! of the container leads, by one map, to the chain of its network, which knows what is inside.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use podwire_kernel::nft::{
    Chain, ChainType, Comparison, Element, Family, Field, Hook, Key, KeyBuf, Rule, Set, Table,
    Verdict, priority,
};

use super::filled;
use super::record::Record;

/// The name of the table.
pub const IPMASQ: &str = "podwire-ipmasq";

/// The names of the maps, IPv4 and IPv6.
const MAPS: [(&str, Field, Family); 2] = [
    ("containers-v4", Field::IpSaddr, Family::Ip),
    ("containers-v6", Field::Ip6Saddr, Family::Ip6),
];

/// The table for these records; `None` if none of them has `ipMasq`.
pub fn ipmasq_table(records: &[Record]) -> Option<Table> {
    filled(skeleton(records), records.iter().flat_map(elements))
}

/// What one record adds to the table: the set, the key and the element.
pub(super) fn elements(record: &Record) -> Vec<(&'static str, Key, Element)> {
    let comment = record.comment();
    let elements = record.ip_masq.iter().map(|network| {
        let map = if network.is_ipv4() {
            MAPS[0].0
        } else {
            MAPS[1].0
        };
        let key = KeyBuf::new().address(network.ip()).finish();
        let element = Element::verdict(Verdict::goto(&chain_name(*network)));
        (map, key, element.comment(&comment))
    });
    elements.collect()
}

/// The table without elements, with the chains of the networks of these records.
pub(super) fn skeleton(records: &[Record]) -> Table {
    let mut table = Table::new(Family::Inet, IPMASQ)
        .with_comment("containers whose addresses stay hidden; made by the podwire CNI plugin");
    let mut hook = Chain::base(ChainType::Nat, Hook::Postrouting, priority::SRCNAT);
    for (map, field, family) in MAPS {
        table = table.with_set(map, Set::verdict_map(&[field]));
        hook = hook.with_rule(Rule::new().nfproto(family).verdict_map(&[field], map));
    }
    for network in records.iter().flat_map(|record| &record.ip_masq) {
        table.chains.insert(chain_name(*network), chain(*network));
    }
    table.with_chain("postrouting", hook)
}

/// The chain of a network: what stays inside keeps its source.
fn chain(network: IpNetwork) -> Chain {
    let (family, daddr) = if network.is_ipv4() {
        (Family::Ip, Field::IpDaddr)
    } else {
        (Family::Ip6, Field::Ip6Daddr)
    };
    let inside = IpNetwork::new(network.network(), network.prefix()).unwrap_or(network);
    let stays = |to: IpNetwork| {
        let rule = Rule::new()
            .nfproto(family)
            .within(daddr, Comparison::Eq, to);
        rule.returns()
    };
    Chain::regular()
        .with_rule(stays(inside))
        .with_rule(stays(multicast(network.is_ipv4())))
        .with_rule(Rule::new().counter().masquerade(0))
}

/// 224.0.0.0/4 (RFC 5771) or ff00::/8 (RFC 4291).
fn multicast(v4: bool) -> IpNetwork {
    let (address, prefix) = if v4 {
        (IpAddr::from([224, 0, 0, 0]), 4)
    } else {
        (IpAddr::from([0xff00, 0, 0, 0, 0, 0, 0, 0]), 8)
    };
    IpNetwork::new(address, prefix).unwrap_or_else(|_| address.into())
}

/// `leave-10.1.2.0/24`; names of chains have no colons, so IPv6 has dots: `leave-fd00../64`.
fn chain_name(network: IpNetwork) -> String {
    let address = network.network().to_string().replace(':', ".");
    format!("leave-{address}/{}", network.prefix())
}
