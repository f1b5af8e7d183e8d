//! The guard of 127.0.0.0/8, which `route_localnet` opens on every link.
//!
//! Only the node itself may talk from and to it (RFC 1122, section 3.2.1.3): a source in it that
//! came over the wire is taken for this machine by every program that trusts localhost.

use podwire_kernel::nft::{Chain, ChainType, Comparison, Family, Field, Hook, Rule, priority};

use crate::cidr::LOOPBACK_V4;
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
    let rule = Rule::new().counter().drop();
    logging.chain(
        Reason::Loopback,
        [rule.comment("127.0.0.0/8 is for this node alone")],
    )
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
