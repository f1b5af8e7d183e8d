//! What the two families call the same thing, and the keys that rules and sets share.

use podwire_kernel::nft::{CtKey, Family, Field, Reject, Source};

use crate::features::services::layout::names::Pool;

/// What the two families call the same thing.
pub(super) struct Words {
    pub family: Family,
    pub saddr: Field,
    pub daddr: Field,
    pub original_daddr: CtKey,
    pub icmp: u8,
    pub echo_request: u8,
    /// What a ping to a ClusterIP is answered with, so that a learner sees that the address lives
    /// but does not do ICMP.
    pub no_ping: Reject,
    pub refused: Reject,
}

impl Words {
    pub fn of(family: Family) -> Words {
        match family {
            Family::Ip6 => Words {
                family,
                saddr: Field::Ip6Saddr,
                daddr: Field::Ip6Daddr,
                original_daddr: CtKey::DstIp6,
                icmp: 58,
                echo_request: 128,
                no_ping: Reject::Icmp(1), // administratively prohibited (RFC 4443)
                refused: Reject::ICMP6_PORT_UNREACHABLE,
            },
            _ => Words {
                family,
                saddr: Field::IpSaddr,
                daddr: Field::IpDaddr,
                original_daddr: CtKey::DstIp,
                icmp: 1,
                echo_request: 8,
                no_ping: Reject::Icmp(2), // protocol unreachable (RFC 792)
                refused: Reject::ICMP_PORT_UNREACHABLE,
            },
        }
    }

    /// `ip daddr . meta l4proto . th dport`
    pub fn vip(&self) -> [Field; 3] {
        [self.daddr, Field::L4Proto, Field::ThDport]
    }
}

/// The key that an endpoint map is asked with, but for the slot.
pub(super) fn pool_key(words: &Words, pool: Pool) -> Vec<Source> {
    let fields = words.vip();
    let fields = if pool.has_address() {
        &fields[..]
    } else {
        &fields[1..]
    };
    fields.iter().map(|field| Source::Field(*field)).collect()
}
