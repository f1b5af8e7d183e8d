//! The guard of 127.0.0.0/8, which `route_localnet` opens on every link.
//!
//! Only the node itself may talk from and to it (RFC 1122, section 3.2.1.3): a source in it that
//! came over the wire is taken for this machine by every program that trusts localhost.

use podwire_kernel::nft::{Comparison, Family, Field, Rule};

use crate::cidr::LOOPBACK_V4;

/// The rules for a chain that sees every packet that comes in, in a table of this family.
pub fn guard(family: Family) -> [Rule; 2] {
    [Field::IpDaddr, Field::IpSaddr].map(|field| {
        let rule = match family {
            Family::Inet => Rule::new().nfproto(Family::Ip),
            _ => Rule::new(),
        };
        rule.within(field, Comparison::Eq, LOOPBACK_V4.into())
            .iifname_is_not("lo")
            .counter()
            .drop()
            .comment("127.0.0.0/8 is for this node alone")
    })
}
