//! The guard of 127.0.0.0/8, which `route_localnet` opens on every link.
//!
//! Only the node itself may talk from and to it (RFC 1122, section 3.2.1.3): a source in it that
//! came over the wire is taken for this machine by every program that trusts localhost.

use podwire_kernel::nft::{Chain, ChainType, Comparison, Family, Field, Hook, Rule, priority};

use crate::cidr::{LOOPBACK_V4, MAPPED_V4};
use crate::features::parts::log::{Logging, Reason};

/// After every source NAT: what has been given another source never comes here.
const AFTER_SRCNAT: i32 = priority::SRCNAT + 10;

/// Before the guard of hostPorts, which is the plugin's and does not say what it drops. Of two chains
/// with the same priority the newer one would be the first (`nf_hook_entries_grow`,
/// net/netfilter/core.c).
pub const PRIORITY: i32 = priority::RAW - 1;

/// The chain in which such packets end.
pub const END: &str = "loopback";

/// The rules for a chain that sees every packet that comes in, at [`PRIORITY`], in a table of this
/// family. They lead to [`END`].
pub fn guard(family: Family) -> [Rule; 2] {
    rules(family, |rule| rule.iifname_is_not("lo"))
}

/// The rules for the same chain, in a table of both families, against IPv4 addresses in packets of IPv6. No
/// machine sends them, but the kernel takes them in, and a program with a socket for both families sees
/// `127.0.0.1`, or a pod, as the sender (`ipv6_addr_v4mapped`).
pub fn guard_mapped() -> [Rule; 2] {
    [Field::Ip6Daddr, Field::Ip6Saddr].map(|field| {
        Rule::new()
            .nfproto(Family::Ip6)
            .iifname_is_not("lo")
            .within(field, Comparison::Eq, MAPPED_V4.into())
            .goto(END)
    })
}

/// The chain, for a table of this family, that keeps packets from leaving with such an address. It
/// sees the first packet of each connection and no other. It leads to [`END`].
pub fn stays_here(family: Family) -> Chain {
    let chain = Chain::base(ChainType::Nat, Hook::Postrouting, AFTER_SRCNAT);
    rules(family, |rule| rule.oifname_is_not("lo"))
        .into_iter()
        .fold(chain, Chain::with_rule)
}

/// What [`END`] does.
pub fn end(logging: Logging) -> Chain {
    dropped(logging, "127.0.0.0/8 is for this node alone")
}

/// What [`END`] does where [`guard_mapped`] leads there as well.
pub fn end_of_both(logging: Logging) -> Chain {
    dropped(
        logging,
        "127.0.0.0/8 is for this node alone, ::ffff:0:0/96 for no network",
    )
}

fn dropped(logging: Logging, why: &str) -> Chain {
    let rule = Rule::new().counter().drop();
    logging.chain(Reason::Loopback, [rule.comment(why)])
}

fn rules(family: Family, elsewhere: impl Fn(Rule) -> Rule) -> [Rule; 2] {
    [Field::IpDaddr, Field::IpSaddr].map(|field| {
        let rule = match family {
            Family::Inet => Rule::new().nfproto(Family::Ip),
            _ => Rule::new(),
        };
        elsewhere(rule.within(field, Comparison::Eq, LOOPBACK_V4.into())).goto(END)
    })
}
