//! The fields that keys and data of sets and maps are made of.

use std::fmt::{self, Display as _};

use super::expr::{CtKey, MetaKey, PayloadBase};
use super::key::write_hex;
use super::uapi::udata;
use super::wire::{align, put_udata, put_udata_u32};

/// One field of a key or of data: what it holds, how long it is, and how `nft` names it
/// (`typeof ip daddr . meta l4proto . th dport`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    /// `ip saddr`: IPv4 source.
    IpSaddr,
    /// `ip daddr`: IPv4 destination.
    IpDaddr,
    /// `ip protocol`.
    IpProtocol,
    /// `ip6 saddr`: IPv6 source.
    Ip6Saddr,
    /// `ip6 daddr`: IPv6 destination.
    Ip6Daddr,
    /// `ip6 nexthdr`: the first next header. For the transport protocol use [`Field::L4Proto`].
    Ip6Nexthdr,
    /// `th sport`: source port of TCP, UDP, SCTP.
    ThSport,
    /// `th dport`: destination port.
    ThDport,
    /// `meta l4proto`: the transport protocol.
    L4Proto,
    /// `meta nfproto`: IPv4 (2) or IPv6 (10).
    NfProto,
    /// `meta protocol`: the EtherType, in network byte order.
    Protocol,
    /// `meta mark`.
    Mark,
    /// `meta priority`: the traffic class.
    Priority,
    /// `iif`: link index.
    Iif,
    /// `oif`: link index.
    Oif,
    /// `iifname`: 16 bytes.
    Iifname,
    /// `oifname`: 16 bytes.
    Oifname,
    /// `iifgroup`: link group.
    Iifgroup,
    /// `oifgroup`: link group.
    Oifgroup,
    /// `ct mark`.
    CtMark,
    /// `ct state`: a mask of [`crate::nft::ct_state`].
    CtState,
    /// `ct status`: a mask of [`crate::nft::ct_status`].
    CtStatus,
    /// The outcome of numgen or jhash, declared as `numgen random mod 65536`.
    Slot,
}

/// How the kernel and `nft` see a field.
pub(crate) struct Facts {
    /// In bytes.
    pub len: u32,
    /// `enum datatypes` of nftables' datatype.h.
    pub datatype: u32,
    /// `enum byteorder` of nftables.
    pub byte_order: u32,
    pub origin: Origin,
}

/// Where a field comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Header id and field id of nftables' proto.h, base, offset and length.
    Payload {
        desc: u32,
        kind: u32,
        base: PayloadBase,
        offset: u32,
    },
    Meta(MetaKey),
    Ct(CtKey),
    Slot,
}

/// `PROTO_DESC_TH`, `_IP`, `_IP6` (nftables, proto.h).
const TH: u32 = 11;
const IP: u32 = 12;
const IP6: u32 = 13;

impl Field {
    /// Every field.
    pub const ALL: [Self; 23] = [
        Self::IpSaddr,
        Self::IpDaddr,
        Self::IpProtocol,
        Self::Ip6Saddr,
        Self::Ip6Daddr,
        Self::Ip6Nexthdr,
        Self::ThSport,
        Self::ThDport,
        Self::L4Proto,
        Self::NfProto,
        Self::Protocol,
        Self::Mark,
        Self::Priority,
        Self::Iif,
        Self::Oif,
        Self::Iifname,
        Self::Oifname,
        Self::Iifgroup,
        Self::Oifgroup,
        Self::CtMark,
        Self::CtState,
        Self::CtStatus,
        Self::Slot,
    ];

    /// Its length in bytes, without padding.
    pub fn byte_len(self) -> u32 {
        self.facts().len
    }

    /// Its length in a concatenation: a multiple of four.
    pub fn padded_len(self) -> u32 {
        align(self.byte_len() as usize) as u32
    }

    pub(crate) fn facts(self) -> Facts {
        use udata::{BYTE_ORDER_HOST as HOST, BYTE_ORDER_NETWORK as NETWORK};
        let facts = |len, datatype, byte_order, origin| Facts {
            len,
            datatype,
            byte_order,
            origin,
        };
        let header = |desc, kind, base, offset| Origin::Payload {
            desc,
            kind,
            base,
            offset,
        };
        let (net, transport) = (PayloadBase::Network, PayloadBase::Transport);
        match self {
            Self::IpSaddr => facts(4, 7, NETWORK, header(IP, 11, net, 12)),
            Self::IpDaddr => facts(4, 7, NETWORK, header(IP, 12, net, 16)),
            Self::IpProtocol => facts(1, 12, NETWORK, header(IP, 9, net, 9)),
            Self::Ip6Saddr => facts(16, 8, NETWORK, header(IP6, 8, net, 8)),
            Self::Ip6Daddr => facts(16, 8, NETWORK, header(IP6, 9, net, 24)),
            Self::Ip6Nexthdr => facts(1, 12, NETWORK, header(IP6, 6, net, 6)),
            Self::ThSport => facts(2, 13, NETWORK, header(TH, 1, transport, 0)),
            Self::ThDport => facts(2, 13, NETWORK, header(TH, 2, transport, 2)),
            Self::L4Proto => facts(1, 12, NETWORK, Origin::Meta(MetaKey::L4Proto)),
            Self::NfProto => facts(1, 2, HOST, Origin::Meta(MetaKey::NfProto)),
            Self::Protocol => facts(2, 10, NETWORK, Origin::Meta(MetaKey::Protocol)),
            Self::Mark => facts(4, 19, HOST, Origin::Meta(MetaKey::Mark)),
            Self::Priority => facts(4, 23, HOST, Origin::Meta(MetaKey::Priority)),
            Self::Iif => facts(4, 20, HOST, Origin::Meta(MetaKey::Iif)),
            Self::Oif => facts(4, 20, HOST, Origin::Meta(MetaKey::Oif)),
            Self::Iifname => facts(16, 41, HOST, Origin::Meta(MetaKey::Iifname)),
            Self::Oifname => facts(16, 41, HOST, Origin::Meta(MetaKey::Oifname)),
            Self::Iifgroup => facts(4, 35, HOST, Origin::Meta(MetaKey::Iifgroup)),
            Self::Oifgroup => facts(4, 35, HOST, Origin::Meta(MetaKey::Oifgroup)),
            Self::CtMark => facts(4, 19, HOST, Origin::Ct(CtKey::Mark)),
            Self::CtState => facts(4, 26, HOST, Origin::Ct(CtKey::State)),
            Self::CtStatus => facts(4, 28, HOST, Origin::Ct(CtKey::Status)),
            Self::Slot => facts(4, 4, HOST, Origin::Slot),
        }
    }

    /// Writes the user data from which `nft` prints `typeof ...`: kind of expression, then what
    /// identifies it.
    fn put_typeof(self, out: &mut Vec<u8>) {
        let mut data = Vec::with_capacity(20);
        let kind = match self.facts().origin {
            Origin::Payload { desc, kind, .. } => {
                put_udata_u32(&mut data, 0, desc);
                put_udata_u32(&mut data, 1, kind);
                udata::EXPR_PAYLOAD
            }
            Origin::Meta(key) => {
                put_udata_u32(&mut data, 0, key.number());
                udata::EXPR_META
            }
            Origin::Ct(key) => {
                put_udata_u32(&mut data, 0, key.number());
                // No direction.
                put_udata_u32(&mut data, 1, u32::MAX);
                udata::EXPR_CT
            }
            Origin::Slot => {
                put_udata_u32(&mut data, 0, 1); // NFT_NG_RANDOM
                put_udata_u32(&mut data, 1, 65536);
                put_udata_u32(&mut data, 2, 0);
                udata::EXPR_NUMGEN
            }
        };
        put_udata_u32(out, udata::TYPEOF_EXPR, kind);
        put_udata(out, udata::TYPEOF_DATA, &data);
    }
}

/// The fields of a key, or of data.
pub(crate) struct Fields<'a>(pub &'a [Field]);

impl Fields<'_> {
    /// Length as the kernel counts it: a lone field as it is, a concatenation padded.
    pub fn len(&self) -> u32 {
        match self.0 {
            [one] => one.byte_len(),
            many => many.iter().map(|field| field.padded_len()).sum(),
        }
    }

    /// The type number that `nft` gives: one byte for one field, six bits each in a concatenation.
    pub fn datatype(&self) -> u32 {
        self.0
            .iter()
            .fold(0u32, |number, field| (number << 6) | field.facts().datatype)
    }

    pub fn byte_order(&self) -> u32 {
        match self.0 {
            [one] => one.facts().byte_order,
            _ => udata::BYTE_ORDER_NONE,
        }
    }

    /// The typeof user data of the whole.
    pub fn typeof_udata(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(96);
        if let [one] = self.0 {
            one.put_typeof(&mut out);
            return out;
        }
        let mut list = Vec::with_capacity(88);
        for (index, field) in self.0.iter().enumerate() {
            let mut entry = Vec::with_capacity(26);
            field.put_typeof(&mut entry);
            put_udata(&mut list, index as u8, &entry);
        }
        put_udata_u32(&mut out, udata::TYPEOF_EXPR, udata::EXPR_CONCAT);
        put_udata(&mut out, udata::TYPEOF_DATA, &list);
        out
    }
}

/// The fields that a typeof describes; `None` if there is one that we do not know.
pub(crate) fn fields_of_typeof(bytes: &[u8]) -> Option<Vec<Field>> {
    use super::wire::udata as entries;
    let (_, kind) = entries(bytes).find(|(tag, _)| *tag == udata::TYPEOF_EXPR)?;
    let (_, data) = entries(bytes).find(|(tag, _)| *tag == udata::TYPEOF_DATA)?;
    let one = |bytes: &[u8]| {
        Field::ALL
            .into_iter()
            .find(|field| Fields(&[*field]).typeof_udata() == bytes)
    };
    if kind == udata::EXPR_CONCAT.to_ne_bytes() {
        return entries(data).map(|(_, entry)| one(entry)).collect();
    }
    one(bytes).map(|field| vec![field])
}

/// Prints a key by its fields, as `nft` would: `10.0.0.1 . tcp . 80`.
pub(crate) struct Display<'a> {
    pub fields: &'a [Field],
    pub key: &'a [u8],
}

impl fmt::Display for Display<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let padded: u32 = self.fields.iter().map(|field| field.padded_len()).sum();
        if self.fields.is_empty() || padded as usize != self.key.len() {
            return write_hex(f, self.key);
        }
        let mut rest = self.key;
        for (index, field) in self.fields.iter().enumerate() {
            let (bytes, tail) = rest.split_at(field.padded_len() as usize);
            rest = tail;
            if index > 0 {
                f.write_str(" . ")?;
            }
            field.write_value(f, &bytes[..field.byte_len() as usize])?;
        }
        Ok(())
    }
}

impl Field {
    fn write_value(self, f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
        match (self, bytes) {
            (Self::Iifname | Self::Oifname, name) => f.write_str(&super::wire::str_of(name)),
            (Self::L4Proto | Self::IpProtocol | Self::Ip6Nexthdr, [protocol]) => match protocol {
                6 => f.write_str("tcp"),
                17 => f.write_str("udp"),
                132 => f.write_str("sctp"),
                number => number.fmt(f),
            },
            (_, [number]) => number.fmt(f),
            (_, [high, low]) => u16::from_be_bytes([*high, *low]).fmt(f),
            (Self::IpSaddr | Self::IpDaddr, [a, b, c, d]) => {
                std::net::Ipv4Addr::new(*a, *b, *c, *d).fmt(f)
            }
            // As nft prints the handles of traffic control.
            (Self::Priority, [a, b, c, d]) => {
                let number = u32::from_ne_bytes([*a, *b, *c, *d]);
                write!(f, "{:x}:{:x}", number >> 16, number & 0xffff)
            }
            (_, [a, b, c, d]) => u32::from_ne_bytes([*a, *b, *c, *d]).fmt(f),
            (_, other) => match <[u8; 16]>::try_from(other) {
                Ok(octets) => std::net::Ipv6Addr::from(octets).fmt(f),
                Err(_) => write_hex(f, other),
            },
        }
    }
}
