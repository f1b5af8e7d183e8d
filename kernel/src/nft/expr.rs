//! The kernel's expressions: what a rule is made of, one value for each.

use std::time::Duration;

use super::basics::{Counter, Verdict};

/// A register of four bytes, numbered 0 to 15. Wider values take several, one after the other.
///
/// The kernel knows these as NFT_REG32_00 to 15, and multiples of four also as NFT_REG_1 to 4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reg(u8);

impl Reg {
    /// How many there are.
    pub const COUNT: u8 = 16;
    /// The first one.
    pub const FIRST: Self = Self(0);

    /// Register number `number`, if there is such a one.
    pub const fn new(number: u8) -> Option<Self> {
        if number < Self::COUNT {
            Some(Self(number))
        } else {
            None
        }
    }

    /// The register behind a value of `bytes` bytes in this one; the last one if there is none.
    pub(crate) const fn after(self, bytes: u32) -> Self {
        let next = self.0 as u32 + bytes.div_ceil(4);
        if next < Self::COUNT as u32 {
            Self(next as u8)
        } else {
            Self(Self::COUNT - 1)
        }
    }

    /// The kernel prints multiples of four by their 16-byte name, so we write them like that.
    pub(crate) const fn number(self) -> u32 {
        let number = self.0 as u32;
        if number.is_multiple_of(4) {
            1 + number / 4
        } else {
            8 + number
        }
    }

    pub(crate) const fn from_number(number: u32) -> Option<Self> {
        match number {
            1..=4 => Some(Self((number as u8 - 1) * 4)),
            8..=23 => Some(Self(number as u8 - 8)),
            _ => None,
        }
    }
}

/// Defines an enum whose variants are numbers of the kernel's interface.
macro_rules! numbered {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $number:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant = $number,)* }

        impl $name {
            /// Every value.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            pub(crate) const fn number(self) -> u32 {
                self as u32
            }

            pub(crate) const fn from_number(number: u32) -> Option<Self> {
                match number {
                    $($number => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

numbered! {
    /// What `meta` loads or sets (`NFT_META_*`).
    MetaKey {
        /// Length of the packet.
        Len = 0,
        /// EtherType, network byte order.
        Protocol = 1,
        /// Traffic class.
        Priority = 2,
        /// Packet mark.
        Mark = 3,
        /// Index of the link it came in on.
        Iif = 4,
        /// Index of the link it goes out on.
        Oif = 5,
        /// Name of the link it came in on.
        Iifname = 6,
        /// Name of the link it goes out on.
        Oifname = 7,
        /// Whether the packet is traced.
        NfTrace = 12,
        /// Address family, `NFPROTO_*`.
        NfProto = 15,
        /// Transport protocol.
        L4Proto = 16,
        /// Unicast, broadcast, multicast.
        PktType = 19,
        /// Group of the link it came in on.
        Iifgroup = 21,
        /// Group of the link it goes out on.
        Oifgroup = 22,
    }
}

numbered! {
    /// What `ct` loads or sets (`NFT_CT_*`).
    CtKey {
        /// Mask of [`ct_state`].
        State = 0,
        /// 0 original, 1 reply.
        Direction = 1,
        /// Mask of [`ct_status`].
        Status = 2,
        /// Connection mark.
        Mark = 3,
        /// Address family; takes a direction.
        L3Protocol = 7,
        /// Transport protocol.
        Protocol = 10,
        /// Source port; takes a direction.
        ProtoSrc = 11,
        /// Destination port; takes a direction.
        ProtoDst = 12,
        /// Zone.
        Zone = 17,
        /// IPv4 source; takes a direction.
        SrcIp = 19,
        /// IPv4 destination; takes a direction.
        DstIp = 20,
        /// IPv6 source; takes a direction.
        SrcIp6 = 21,
        /// IPv6 destination; takes a direction.
        DstIp6 = 22,
    }
}

numbered! {
    /// Which of the two directions of a connection.
    Direction {
        /// That of the first packet, as it was before NAT.
        Original = 0,
        /// The way back.
        Reply = 1,
    }
}

numbered! {
    /// From where in the packet a payload is counted.
    PayloadBase {
        /// Link layer header.
        Link = 0,
        /// IP header.
        Network = 1,
        /// Transport header.
        Transport = 2,
    }
}

numbered! {
    /// How a comparison compares (`NFT_CMP_*`).
    Comparison {
        /// Equal.
        Eq = 0,
        /// Not equal.
        Neq = 1,
        /// Less than.
        Lt = 2,
        /// Less than or equal.
        Lte = 3,
        /// Greater than.
        Gt = 4,
        /// Greater than or equal.
        Gte = 5,
    }
}

numbered! {
    /// How numgen counts.
    NumgenKind {
        /// 0, 1, 2, ..., and again from 0.
        Increment = 0,
        /// Uniformly random.
        Random = 1,
    }
}

numbered! {
    /// What a fib lookup yields.
    FibResult {
        /// Index of the outgoing link, 0 if there is no route.
        Oif = 1,
        /// Its name.
        OifName = 2,
        /// Type of the address ([`fib_type`]).
        AddressType = 3,
    }
}

numbered! {
    /// What an `update` or `add` in a rule does to the set (`NFT_DYNSET_OP_*`).
    DynsetOp {
        /// Add an element that is not there.
        Add = 0,
        /// Add it, or renew its time-out.
        Update = 1,
        /// Remove it.
        Delete = 2,
    }
}

numbered! {
    /// Which address NAT rewrites.
    NatKind {
        /// The source.
        Snat = 0,
        /// The destination.
        Dnat = 1,
    }
}

/// Bits of `ct state` (`NF_CT_STATE_*`).
pub mod ct_state {
    /// No valid connection.
    pub const INVALID: u32 = 1;
    /// Packets went both ways.
    pub const ESTABLISHED: u32 = 2;
    /// Belongs to another connection.
    pub const RELATED: u32 = 4;
    /// The first packet.
    pub const NEW: u32 = 8;
    /// Not tracked.
    pub const UNTRACKED: u32 = 64;
}

/// Bits of `ct status` (`IPS_*`).
pub mod ct_status {
    /// The source was rewritten.
    pub const SNAT: u32 = 0x10;
    /// The destination was rewritten.
    pub const DNAT: u32 = 0x20;
}

/// Types of addresses that fib yields (`RTN_*`).
pub mod fib_type {
    /// Somewhere else.
    pub const UNICAST: u32 = 1;
    /// This machine.
    pub const LOCAL: u32 = 2;
    /// A broadcast address.
    pub const BROADCAST: u32 = 3;
    /// No route.
    pub const UNREACHABLE: u32 = 7;
}

/// What a fib lookup goes by (`NFTA_FIB_F_*`), a mask.
pub mod fib_flag {
    /// The source address.
    pub const SADDR: u32 = 1;
    /// The destination address.
    pub const DADDR: u32 = 2;
    /// The packet mark.
    pub const MARK: u32 = 4;
    /// The incoming link.
    pub const IIF: u32 = 8;
    /// The outgoing link.
    pub const OIF: u32 = 16;
    /// Yield 1 or 0: whether there is a route.
    pub const PRESENT: u32 = 32;
}

/// Flags of NAT (`NF_NAT_RANGE_*`), a mask.
pub mod nat_flag {
    /// The same client gets the same address.
    pub const PERSISTENT: u32 = 8;
    /// Ports are chosen fully at random.
    pub const FULLY_RANDOM: u32 = 16;
}

/// What is answered to a rejected packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reject {
    /// ICMP or ICMPv6 (by the family of the table) destination unreachable, with this code.
    Icmp(u8),
    /// A TCP reset; for TCP only.
    TcpReset,
    /// ICMP or ICMPv6 by the packet, with a code that both have (`NFT_REJECT_ICMPX_*`).
    Icmpx(u8),
}

impl Reject {
    /// ICMPv4: port unreachable (what clients take for "connection refused").
    pub const ICMP_PORT_UNREACHABLE: Self = Self::Icmp(3);
    /// ICMPv6: port unreachable.
    pub const ICMP6_PORT_UNREACHABLE: Self = Self::Icmp(4);
    /// In tables of family inet: port unreachable.
    pub const ICMPX_PORT_UNREACHABLE: Self = Self::Icmpx(1);
    /// In tables of family inet: host unreachable (IPv6: address unreachable).
    pub const ICMPX_HOST_UNREACHABLE: Self = Self::Icmpx(2);
    /// In tables of family inet: administratively prohibited.
    pub const ICMPX_ADMIN_PROHIBITED: Self = Self::Icmpx(3);
}

/// Where a logged packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogTarget {
    /// The kernel log.
    Kernel {
        /// 0 emergency to 7 debug; 4, warning, is the default of `nft`.
        level: u32,
        /// `NF_LOG_*`.
        flags: u32,
    },
    /// A process that listens on this netlink group.
    Group {
        /// Group number.
        group: u16,
        /// How much of the packet, in bytes; 0 is all of it.
        snaplen: u32,
        /// How many packets the kernel keeps before it sends them.
        threshold: u16,
    },
}

/// What a lookup does with what it finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LookupInto {
    /// Go on with the rule if the key is in the set.
    Member,
    /// Go on with the rule if the key is not in the set.
    NotMember,
    /// Put the data of the element into registers; without an element, the rule ends.
    Reg(Reg),
    /// Follow the verdict of the element; without an element, the rule ends.
    Verdict,
}

/// What hash is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashKind {
    /// Jenkins hash over `len` bytes from `sreg` on.
    Jhash {
        /// First register.
        sreg: Reg,
        /// Bytes.
        len: u32,
    },
    /// The symmetric flow hash of the packet.
    Symhash,
}

/// One expression of a rule, with the registers it reads and writes.
///
/// Written by hand only in tests: [`super::Rule`] builds them from what a rule is to say.
/// All numbers in `data` are in the byte order in which the kernel loads the field.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "the fields are those of the kernel's attributes of the same name"
)]
pub enum Expr {
    /// Load something about the packet.
    Meta { key: MetaKey, dreg: Reg },
    /// Set the mark, the priority, ...
    SetMeta { key: MetaKey, sreg: Reg },
    /// Load something about the connection.
    Ct {
        key: CtKey,
        direction: Option<Direction>,
        dreg: Reg,
    },
    /// Set the connection mark.
    SetCt { key: CtKey, sreg: Reg },
    /// Load bytes of the packet.
    Payload {
        base: PayloadBase,
        offset: u32,
        len: u32,
        dreg: Reg,
    },
    /// End the rule unless the comparison holds.
    Compare {
        sreg: Reg,
        op: Comparison,
        data: Box<[u8]>,
    },
    /// End the rule unless the value is in (or, inverted, outside) a range.
    Range {
        sreg: Reg,
        inverted: bool,
        from: Box<[u8]>,
        to: Box<[u8]>,
    },
    /// `dreg = (sreg & mask) ^ xor`; both have the same length.
    Bitwise {
        sreg: Reg,
        dreg: Reg,
        mask: Box<[u8]>,
        xor: Box<[u8]>,
    },
    /// Look the key in `sreg` up.
    Lookup {
        set: Box<str>,
        sreg: Reg,
        into: LookupInto,
    },
    /// Load a constant.
    Immediate { dreg: Reg, data: Box<[u8]> },
    /// Decide.
    Verdict(Verdict),
    /// Ask the routing table; `flags` of [`fib_flag`].
    Fib {
        result: FibResult,
        flags: u32,
        dreg: Reg,
    },
    /// Count.
    Counter(Counter),
    /// End the rule above (or, `over`, below) a rate per `unit` seconds.
    Limit {
        rate: u64,
        unit: u64,
        burst: u32,
        bytes: bool,
        over: bool,
    },
    /// End the rule if there are more connections than `limit` (or, `over`, if there are not). In an
    /// element of a set, of those that led to the element.
    CtCount { limit: u32, over: bool },
    /// Log the packet.
    Log {
        prefix: Option<Box<str>>,
        target: LogTarget,
    },
    /// Refuse the packet with an answer.
    Reject(Reject),
    /// Rewrite an address, and a port.
    Nat {
        kind: NatKind,
        /// `NFPROTO_IPV4` or `_IPV6`.
        family: super::Family,
        addr_min: Option<Reg>,
        addr_max: Option<Reg>,
        port_min: Option<Reg>,
        port_max: Option<Reg>,
        /// Of [`nat_flag`].
        flags: u32,
    },
    /// Rewrite the source to the address of the outgoing link.
    Masquerade {
        flags: u32,
        port_min: Option<Reg>,
        port_max: Option<Reg>,
    },
    /// Rewrite the destination to this machine.
    Redirect {
        flags: u32,
        port_min: Option<Reg>,
        port_max: Option<Reg>,
    },
    /// A number from `offset` to `offset + modulus - 1`.
    Numgen {
        kind: NumgenKind,
        modulus: u32,
        offset: u32,
        dreg: Reg,
    },
    /// A hash from `offset` to `offset + modulus - 1`; without a seed the kernel takes a random one.
    Hash {
        kind: HashKind,
        modulus: u32,
        seed: Option<u32>,
        offset: u32,
        dreg: Reg,
    },
    /// Change a set; `timeout` in whole milliseconds.
    Dynset {
        set: Box<str>,
        op: DynsetOp,
        key: Reg,
        data: Option<Reg>,
        timeout: Option<Duration>,
        exprs: Vec<Expr>,
        inverted: bool,
    },
    /// Do not track this packet.
    Notrack,
    /// An expression that this crate does not know. Equal to nothing that it builds.
    Unknown { name: Box<str>, data: Box<[u8]> },
}

impl Expr {
    /// Whether both do the same: counters count as equal whatever they show.
    pub fn same_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Counter(_), Self::Counter(_)) => true,
            (a, b) => a == b,
        }
    }
}
