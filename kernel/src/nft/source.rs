//! Where the values of a rule come from, and how they get into registers.

use super::expr::{
    CtKey, Direction, Expr, FibResult, HashKind, MetaKey, NumgenKind, PayloadBase, Reg, fib_flag,
};
use super::field::{Field, Origin};

/// A value that a rule can load: one part of the key of a lookup, the left side of a comparison,
/// the data of an update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A field of the packet or of its connection.
    Field(Field),
    /// Something about the connection.
    Ct(CtKey, Option<Direction>),
    /// Something about the packet that is not a [`Field`].
    Meta(MetaKey),
    /// A number from `offset` to `offset + modulus - 1`, chosen for each packet.
    Numgen {
        /// Random, or one after the other.
        kind: NumgenKind,
        /// How many different numbers; 1 at least.
        modulus: u32,
        /// The smallest one.
        offset: u32,
    },
    /// A number from `offset` to `offset + modulus - 1`, the same for the same values of `of`.
    Jhash {
        /// What is hashed.
        of: Vec<Source>,
        /// How many different numbers; 1 at least.
        modulus: u32,
        /// Without a seed, the kernel takes a random one for each rule.
        seed: Option<u32>,
        /// The smallest one.
        offset: u32,
    },
    /// What the routing table says; `flags` of [`fib_flag`].
    Fib {
        /// What is asked.
        result: FibResult,
        /// What it is asked with.
        flags: u32,
    },
    /// Bytes of the packet that are not a [`Field`].
    Payload {
        /// From where the offset counts.
        base: PayloadBase,
        /// In bytes.
        offset: u32,
        /// In bytes.
        len: u32,
    },
}

impl From<Field> for Source {
    fn from(field: Field) -> Self {
        Self::Field(field)
    }
}

impl Source {
    /// `numgen random mod MODULUS`.
    pub const fn random(modulus: u32) -> Self {
        Self::Numgen {
            kind: NumgenKind::Random,
            modulus,
            offset: 0,
        }
    }

    /// `numgen inc mod MODULUS`: each rule counts for itself.
    pub const fn round_robin(modulus: u32) -> Self {
        Self::Numgen {
            kind: NumgenKind::Increment,
            modulus,
            offset: 0,
        }
    }

    /// `jhash FIELDS mod MODULUS seed SEED`.
    pub fn jhash(of: &[Field], modulus: u32, seed: Option<u32>) -> Self {
        let of = of.iter().map(|field| Self::Field(*field)).collect();
        Self::Jhash {
            of,
            modulus,
            seed,
            offset: 0,
        }
    }

    /// `ct original KEY`: what the connection was before NAT.
    pub const fn original(key: CtKey) -> Self {
        Self::Ct(key, Some(Direction::Original))
    }

    /// `ct reply KEY`: where answers come from and go to.
    pub const fn reply(key: CtKey) -> Self {
        Self::Ct(key, Some(Direction::Reply))
    }

    /// `fib daddr type` or `fib saddr type`, by the flags of [`fib_flag`].
    pub const fn address_type(flags: u32) -> Self {
        Self::Fib {
            result: FibResult::AddressType,
            flags,
        }
    }

    /// `fib saddr . iif oif exists`: 1 if the route back leads to the link it came from, else 0, as
    /// a number of four bytes in host byte order.
    pub const fn reverse_path() -> Self {
        let flags = fib_flag::SADDR | fib_flag::IIF | fib_flag::PRESENT;
        Self::Fib {
            result: FibResult::Oif,
            flags,
        }
    }

    /// Length in bytes, without padding.
    pub fn byte_len(&self) -> u32 {
        match self {
            Self::Field(field) => field.byte_len(),
            Self::Ct(key, _) => match key {
                CtKey::SrcIp6 | CtKey::DstIp6 => 16,
                CtKey::ProtoSrc | CtKey::ProtoDst | CtKey::Zone => 2,
                CtKey::Direction | CtKey::L3Protocol | CtKey::Protocol => 1,
                CtKey::State | CtKey::Status | CtKey::Mark | CtKey::SrcIp | CtKey::DstIp => 4,
            },
            Self::Meta(key) => match key {
                MetaKey::Iifname | MetaKey::Oifname => 16,
                MetaKey::Protocol => 2,
                MetaKey::NfProto | MetaKey::L4Proto | MetaKey::PktType | MetaKey::NfTrace => 1,
                _ => 4,
            },
            Self::Numgen { .. } | Self::Jhash { .. } => 4,
            Self::Fib {
                result: FibResult::OifName,
                ..
            } => 16,
            Self::Fib { .. } => 4,
            Self::Payload { len, .. } => *len,
        }
    }

    /// Appends the expressions that put the value into `dreg`. Registers from `free` on may be used
    /// on the way.
    fn load(&self, dreg: Reg, free: Reg, out: &mut Vec<Expr>) {
        match self {
            Self::Field(field) => match field.facts().origin {
                Origin::Payload { base, offset, .. } => {
                    out.push(Expr::Payload {
                        base,
                        offset,
                        len: field.byte_len(),
                        dreg,
                    });
                }
                Origin::Meta(key) => out.push(Expr::Meta { key, dreg }),
                Origin::Ct(key) => out.push(Expr::Ct {
                    key,
                    direction: None,
                    dreg,
                }),
                Origin::Slot => Self::random(65536).load(dreg, free, out),
            },
            Self::Ct(key, direction) => {
                out.push(Expr::Ct {
                    key: *key,
                    direction: *direction,
                    dreg,
                });
            }
            Self::Meta(key) => out.push(Expr::Meta { key: *key, dreg }),
            Self::Numgen {
                kind,
                modulus,
                offset,
            } => {
                let (kind, modulus, offset) = (*kind, *modulus, *offset);
                out.push(Expr::Numgen {
                    kind,
                    modulus,
                    offset,
                    dreg,
                });
            }
            Self::Jhash {
                of,
                modulus,
                seed,
                offset,
            } => {
                let (seed, offset, modulus) = (*seed, *offset, *modulus);
                let len = load_all(of, free, out);
                let kind = HashKind::Jhash { sreg: free, len };
                out.push(Expr::Hash {
                    kind,
                    modulus,
                    seed,
                    offset,
                    dreg,
                });
            }
            Self::Fib { result, flags } => {
                out.push(Expr::Fib {
                    result: *result,
                    flags: *flags,
                    dreg,
                });
            }
            Self::Payload { base, offset, len } => {
                let (base, offset, len) = (*base, *offset, *len);
                out.push(Expr::Payload {
                    base,
                    offset,
                    len,
                    dreg,
                });
            }
        }
    }
}

/// Appends the expressions that put the concatenation of `sources` into the registers from `first`
/// on, and returns its length in bytes: a lone value as it is, several padded.
///
/// The kernel has sixteen registers of four bytes. What does not fit any more is put into the last
/// one, and the kernel then refuses the rule.
pub(crate) fn load_all(sources: &[Source], first: Reg, out: &mut Vec<Expr>) -> u32 {
    let padded = |source: &Source| source.byte_len().next_multiple_of(4);
    let total: u32 = sources.iter().map(padded).sum();
    let (mut dreg, free) = (first, first.after(total));
    for source in sources {
        source.load(dreg, free, out);
        dreg = dreg.after(source.byte_len());
    }
    match sources {
        [one] => one.byte_len(),
        _ => total,
    }
}
