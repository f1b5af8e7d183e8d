//! The guard against forged sources.
//!
//! In: the sets of this node's pods. Out: the chains of the guard, in the table that masquerades.

use std::net::{IpAddr, Ipv6Addr};

use ipnetwork::IpNetwork;
use podwire_kernel::nft::{
    Chain, ChainType, Comparison, Family, Field, Hook, KeyBuf, Rule, Source, Table, fib_flag,
    fib_type, priority,
};

use crate::features::masquerade::sides::SIDES;
use crate::features::parts::log::{Logging, Reason};
use crate::features::parts::loopback;
use crate::ours::LINK_GROUP as POD_LINKS;
use crate::snapshot::Protocol;

/// The chain in which packets of a pod end whose source is not the pod's.
const SPOOFED: &str = "spoofed";

/// The chain in which packets from elsewhere end whose source is a pod of this node.
const ELSEWHERE: &str = "spoofed-elsewhere";

/// The chain that looks for the node's own addresses among sources of IPv6.
const OWN_SOURCES: &str = "own-sources";

/// The table with the guard in it; it has the sets of this node's pods.
pub fn guard(table: Table, logging: Logging) -> Table {
    table
        .with_chain("pod-sources", pod_sources())
        .with_chain("foreign-sources", foreign_sources())
        .with_chain(OWN_SOURCES, own_sources())
        .with_chain("localhost-stays-here", loopback::stays_here(Family::Inet))
        .with_chain(SPOOFED, spoofed(logging))
        .with_chain(ELSEWHERE, elsewhere(logging))
        .with_chain(loopback::END, loopback::end_of_both(logging))
}

/// Addresses of a single link (RFC 4291, section 2.5.6).
const LINK_LOCAL: IpNetwork = v6_network(0xfe80, 10);

/// Groups of any scope (RFC 4291, section 2.7).
const GROUPS: IpNetwork = v6_network(0xff00, 8);

/// Groups of a single link (RFC 4291, section 2.7).
const ALL_ON_LINK: IpNetwork = v6_network(0xff02, 16);

const fn v6_network(first: u16, prefix: u8) -> IpNetwork {
    let address = Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 0);
    match ipnetwork::Ipv6Network::new_checked(address, prefix) {
        Some(network) => IpNetwork::V6(network),
        None => panic!("the prefix is longer than an address"),
    }
}

fn spoofed(logging: Logging) -> Chain {
    let rule = Rule::new().counter().drop();
    logging.chain(
        Reason::Spoofed,
        [rule.comment("the source is not this pod's address")],
    )
}

fn elsewhere(logging: Logging) -> Chain {
    let rule = Rule::new().counter().drop();
    logging.chain(
        Reason::Foreign,
        [rule.comment("the source is this node or a pod of it, and it does not come from there")],
    )
}

/// The guard: what comes out of a pod must have a source that is routed back into that pod.
///
/// That holds for link-local sources as well, of which the plugin routes the pod's own one: each
/// other would become a neighbour entry of the node. What has no source yet (`::`) belongs to
/// neighbour discovery and groups, goes to all on the link, and becomes none.
fn pod_sources() -> Chain {
    let missing = |rule: Rule| rule.no_way_back().goto(SPOOFED);
    let unspecified = KeyBuf::new().address(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
    let from_pod = |family| Rule::new().iifgroup(POD_LINKS).nfproto(family);
    let v6 = from_pod(Family::Ip6).is_not(Field::Ip6Saddr, &unspecified);
    let nowhere = from_pod(Family::Ip6)
        .is(Field::Ip6Saddr, &unspecified)
        .within(Field::Ip6Daddr, Comparison::Neq, ALL_ON_LINK);
    // A kernel asks for routers and joins groups by itself, from an address that no one gave it. It is
    // not logged: no one forged anything.
    let by_itself = from_pod(Family::Ip6)
        .within(Field::Ip6Saddr, Comparison::Eq, LINK_LOCAL)
        .within(Field::Ip6Daddr, Comparison::Eq, ALL_ON_LINK);
    Chain::base(ChainType::Filter, Hook::Prerouting, priority::RAW)
        .with_comment("pods cannot send from an address that is not theirs")
        .with_rule(missing(from_pod(Family::Ip)))
        .with_rule(
            by_itself.no_way_back().counter().drop().comment(
                "a kernel asks its own link for routers and groups: of no consequence here",
            ),
        )
        .with_rule(missing(v6))
        .with_rule(nowhere.goto(SPOOFED))
}

/// The guard against the others: what does not come out of a pod's link cannot come from a pod of
/// this node. A pod of another plugin may have a link that is not ours, so it is the route back that
/// decides here too.
fn foreign_sources() -> Chain {
    let chain = Chain::base(ChainType::Filter, Hook::Prerouting, loopback::PRIORITY)
        .with_comment("others cannot send from addresses of this node, its pods and localhost");
    let chain = loopback::guard(Family::Inet)
        .into_iter()
        .chain(loopback::guard_mapped())
        .fold(chain, Chain::with_rule);
    let chain = SIDES.into_iter().fold(chain, |chain, side| {
        chain.with_rule(
            Rule::new()
                .nfproto(side.family)
                .in_set(&[side.source], side.pods)
                .iifgroup_is_not(POD_LINKS)
                .iifname_is_not("lo")
                .no_way_back()
                .goto(ELSEWHERE),
        )
    });
    chain.with_rule(from_elsewhere().goto(OWN_SOURCES))
}

/// IPv6 that comes from elsewhere from an address of this node. Of IPv4 the kernel drops it
/// (`fib_validate_source`, net/ipv4/fib_frontend.c), and so does the guard of pods' links.
///
/// What the node sends to a group comes back to it through the link that it left by
/// (`ip6_finish_output2`, net/ipv6/ip6_output.c). A link-local address may be the node's on one link
/// and its router's on another, and nothing is forwarded from one.
fn from_elsewhere() -> Rule {
    Rule::new()
        .nfproto(Family::Ip6)
        .iifgroup_is_not(POD_LINKS)
        .iifname_is_not("lo")
        .within(Field::Ip6Saddr, Comparison::Neq, LINK_LOCAL)
        .within(Field::Ip6Daddr, Comparison::Neq, GROUPS)
}

/// To look up the route costs a fifth of all that the kernel does with a small packet, so it is not
/// done within TCP connections: who sees no answer cannot forge one that the other end accepts.
fn own_sources() -> Chain {
    let within = Rule::new()
        .l4proto(Protocol::Tcp.number())
        .tcp_without_syn();
    let own = Rule::new().is(
        Source::address_type(fib_flag::SADDR),
        &KeyBuf::new().number(fib_type::LOCAL),
    );
    Chain::regular()
        .with_rule(within.returns())
        .with_rule(own.goto(ELSEWHERE))
}
