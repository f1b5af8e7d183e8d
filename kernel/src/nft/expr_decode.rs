//! Expressions from netlink attributes.

use std::time::Duration;

use super::basics::{Counter, Family, Verdict};
use super::expr::{
    Comparison, CtKey, Direction, DynsetOp, Expr, FibResult, HashKind, LogTarget, LookupInto,
    MetaKey, NatKind, NumgenKind, PayloadBase, Reg, Reject,
};
use super::expr_encode::{
    LOG_WARNING, NAT_IMPLIED, REG_VERDICT, REJECT_ICMP, REJECT_ICMPX, REJECT_TCP_RESET, put_content,
};
use super::uapi::{self, expr as nfta};
use super::wire::{attributes, find, missing, short, str_of, u16_of, u32_of, u64_of};
use crate::Cause;

/// The expressions in the list `bytes`; those that we do not know become [`Expr::Unknown`].
pub(crate) fn exprs_of(bytes: &[u8]) -> Vec<Expr> {
    attributes(bytes)
        .filter(|(kind, _)| *kind == uapi::LIST_ELEM)
        .map(|(_, expr)| expr_of(expr))
        .collect()
}

/// The expression in `bytes` (its name and its data).
pub(crate) fn expr_of(bytes: &[u8]) -> Expr {
    let name = find(bytes, uapi::EXPR_NAME).map(str_of).unwrap_or_default();
    let data = find(bytes, uapi::EXPR_DATA).unwrap_or(&[]);
    match known_of(&name, data) {
        Ok(expr) if represents(&expr, data) => expr,
        _ => Expr::Unknown {
            name: name.into(),
            data: data.into(),
        },
    }
}

/// Whether `expr` says all that `data` says: no attribute is there that it does not have.
fn represents(expr: &Expr, data: &[u8]) -> bool {
    let mut own = Vec::with_capacity(data.len());
    put_content(&mut own, expr);
    attributes(data).all(|(kind, value)| {
        find(&own, kind).is_some_and(|mine| mine.len() == value.len() || nested(expr))
            || implied(expr, kind, value)
    })
}

/// Expressions whose attributes contain others.
fn nested(expr: &Expr) -> bool {
    matches!(
        expr,
        Expr::Compare { .. }
            | Expr::Range { .. }
            | Expr::Bitwise { .. }
            | Expr::Immediate { .. }
            | Expr::Verdict(_)
            | Expr::Dynset { .. }
    )
}

/// What the kernel adds by itself when it lists an expression.
fn implied(expr: &Expr, kind: u16, value: &[u8]) -> bool {
    match expr {
        Expr::Nat { .. } => {
            kind == nfta::NAT_FLAGS || kind == nfta::NAT_ADDR_MAX || kind == nfta::NAT_PROTO_MAX
        }
        Expr::Masquerade { .. } => kind == nfta::MASQ_PROTO_MAX || kind == nfta::MASQ_FLAGS,
        Expr::Redirect { .. } => kind == nfta::REDIR_PROTO_MAX || kind == nfta::REDIR_FLAGS,
        // IP_CT_DIR_MAX: no direction.
        Expr::Ct { .. } => kind == nfta::CT_DIRECTION && value == [2],
        // A zero says nothing.
        _ => value.iter().all(|byte| *byte == 0),
    }
}

fn known_of(name: &str, data: &[u8]) -> Result<Expr, Cause> {
    match name {
        "meta" => meta_of(data),
        "ct" => ct_of(data),
        "payload" => Ok(Expr::Payload {
            base: number(data, nfta::PAYLOAD_BASE, PayloadBase::from_number)?,
            offset: u32_at(data, nfta::PAYLOAD_OFFSET)?,
            len: u32_at(data, nfta::PAYLOAD_LEN)?,
            dreg: reg(data, nfta::PAYLOAD_DREG)?,
        }),
        "cmp" => Ok(Expr::Compare {
            sreg: reg(data, nfta::CMP_SREG)?,
            op: number(data, nfta::CMP_OP, Comparison::from_number)?,
            data: value_at(data, nfta::CMP_DATA)?,
        }),
        "range" => Ok(Expr::Range {
            sreg: reg(data, nfta::RANGE_SREG)?,
            inverted: u32_at(data, nfta::RANGE_OP)? != 0,
            from: value_at(data, nfta::RANGE_FROM)?,
            to: value_at(data, nfta::RANGE_TO)?,
        }),
        "bitwise" => bitwise_of(data),
        "lookup" => lookup_of(data),
        "immediate" => immediate_of(data),
        "fib" => Ok(Expr::Fib {
            result: number(data, nfta::FIB_RESULT, FibResult::from_number)?,
            flags: u32_or_zero(data, nfta::FIB_FLAGS)?,
            dreg: reg(data, nfta::FIB_DREG)?,
        }),
        "counter" => Ok(Expr::Counter(counter_of(data)?)),
        "limit" => Ok(Expr::Limit {
            rate: u64_of(at(data, nfta::LIMIT_RATE)?)?,
            unit: u64_of(at(data, nfta::LIMIT_UNIT)?)?,
            burst: u32_or_zero(data, nfta::LIMIT_BURST)?,
            bytes: u32_or_zero(data, nfta::LIMIT_TYPE)? != 0,
            over: u32_or_zero(data, nfta::LIMIT_FLAGS)? != 0,
        }),
        "connlimit" => Ok(Expr::CtCount {
            limit: u32_or_zero(data, nfta::CONNLIMIT_COUNT)?,
            over: u32_or_zero(data, nfta::CONNLIMIT_FLAGS)? != 0,
        }),
        "log" => log_of(data),
        "reject" => reject_of(data),
        "nat" => nat_of(data),
        "masq" => Ok(Expr::Masquerade {
            flags: u32_or_zero(data, nfta::MASQ_FLAGS)? & !NAT_IMPLIED,
            port_min: some_reg(data, nfta::MASQ_PROTO_MIN)?,
            port_max: maximum(data, nfta::MASQ_PROTO_MIN, nfta::MASQ_PROTO_MAX)?,
        }),
        "redir" => Ok(Expr::Redirect {
            flags: u32_or_zero(data, nfta::REDIR_FLAGS)? & !NAT_IMPLIED,
            port_min: some_reg(data, nfta::REDIR_PROTO_MIN)?,
            port_max: maximum(data, nfta::REDIR_PROTO_MIN, nfta::REDIR_PROTO_MAX)?,
        }),
        "numgen" => Ok(Expr::Numgen {
            kind: number(data, nfta::NG_TYPE, NumgenKind::from_number)?,
            modulus: u32_at(data, nfta::NG_MODULUS)?,
            offset: u32_or_zero(data, nfta::NG_OFFSET)?,
            dreg: reg(data, nfta::NG_DREG)?,
        }),
        "hash" => hash_of(data),
        "dynset" => dynset_of(data),
        "notrack" => Ok(Expr::Notrack),
        _ => Err(missing("a known expression")),
    }
}

fn at(data: &[u8], kind: u16) -> Result<&[u8], Cause> {
    find(data, kind).ok_or_else(|| missing("an attribute of an expression"))
}

fn u32_at(data: &[u8], kind: u16) -> Result<u32, Cause> {
    u32_of(at(data, kind)?)
}

fn u32_or_zero(data: &[u8], kind: u16) -> Result<u32, Cause> {
    find(data, kind).map_or(Ok(0), u32_of)
}

fn number<T>(data: &[u8], kind: u16, known: impl Fn(u32) -> Option<T>) -> Result<T, Cause> {
    known(u32_at(data, kind)?).ok_or_else(|| missing("a known number"))
}

fn reg(data: &[u8], kind: u16) -> Result<Reg, Cause> {
    number(data, kind, Reg::from_number)
}

fn some_reg(data: &[u8], kind: u16) -> Result<Option<Reg>, Cause> {
    find(data, kind).map(|_| reg(data, kind)).transpose()
}

/// The upper end of a range of registers; the kernel repeats the lower end if there is none.
fn maximum(data: &[u8], min: u16, max: u16) -> Result<Option<Reg>, Cause> {
    let (min, max) = (some_reg(data, min)?, some_reg(data, max)?);
    Ok(max.filter(|_| max != min))
}

fn value_at(data: &[u8], kind: u16) -> Result<Box<[u8]>, Cause> {
    Ok(find(at(data, kind)?, uapi::DATA_VALUE)
        .ok_or_else(short)?
        .into())
}

fn meta_of(data: &[u8]) -> Result<Expr, Cause> {
    let key = number(data, nfta::META_KEY, MetaKey::from_number)?;
    Ok(match some_reg(data, nfta::META_SREG)? {
        Some(sreg) => Expr::SetMeta { key, sreg },
        None => Expr::Meta {
            key,
            dreg: reg(data, nfta::META_DREG)?,
        },
    })
}

fn ct_of(data: &[u8]) -> Result<Expr, Cause> {
    let key = number(data, nfta::CT_KEY, CtKey::from_number)?;
    if let Some(sreg) = some_reg(data, nfta::CT_SREG)? {
        return Ok(Expr::SetCt { key, sreg });
    }
    let direction = find(data, nfta::CT_DIRECTION)
        .and_then(|value| value.first())
        .and_then(|number| Direction::from_number(u32::from(*number)));
    Ok(Expr::Ct {
        key,
        direction,
        dreg: reg(data, nfta::CT_DREG)?,
    })
}

fn bitwise_of(data: &[u8]) -> Result<Expr, Cause> {
    let (mask, xor) = (
        value_at(data, nfta::BITWISE_MASK)?,
        value_at(data, nfta::BITWISE_XOR)?,
    );
    let len = u32_at(data, nfta::BITWISE_LEN)? as usize;
    if u32_or_zero(data, nfta::BITWISE_OP)? != 0 || mask.len() != len || xor.len() != len {
        return Err(missing("a known bitwise operation"));
    }
    let (sreg, dreg) = (
        reg(data, nfta::BITWISE_SREG)?,
        reg(data, nfta::BITWISE_DREG)?,
    );
    Ok(Expr::Bitwise {
        sreg,
        dreg,
        mask,
        xor,
    })
}

fn lookup_of(data: &[u8]) -> Result<Expr, Cause> {
    let inverted = u32_or_zero(data, nfta::LOOKUP_FLAGS)? & nfta::LOOKUP_FLAG_INVERTED != 0;
    let into = match find(data, nfta::LOOKUP_DREG).map(u32_of).transpose()? {
        None if inverted => LookupInto::NotMember,
        None => LookupInto::Member,
        Some(REG_VERDICT) => LookupInto::Verdict,
        Some(_) => LookupInto::Reg(reg(data, nfta::LOOKUP_DREG)?),
    };
    let set = str_of(at(data, nfta::LOOKUP_SET)?).into();
    Ok(Expr::Lookup {
        set,
        sreg: reg(data, nfta::LOOKUP_SREG)?,
        into,
    })
}

fn immediate_of(data: &[u8]) -> Result<Expr, Cause> {
    if u32_at(data, nfta::IMMEDIATE_DREG)? == REG_VERDICT {
        let verdict = find(at(data, nfta::IMMEDIATE_DATA)?, uapi::DATA_VERDICT);
        return Ok(Expr::Verdict(verdict_of(verdict.ok_or_else(short)?)?));
    }
    let dreg = reg(data, nfta::IMMEDIATE_DREG)?;
    Ok(Expr::Immediate {
        dreg,
        data: value_at(data, nfta::IMMEDIATE_DATA)?,
    })
}

/// The verdict in the attribute `NFTA_DATA_VERDICT`.
pub(crate) fn verdict_of(bytes: &[u8]) -> Result<Verdict, Cause> {
    let code = u32_of(find(bytes, uapi::VERDICT_CODE).ok_or_else(short)?)? as i32;
    Ok(Verdict::from_code(
        code,
        find(bytes, uapi::VERDICT_CHAIN).map(str_of),
    ))
}

/// The counter in the data of an expression.
pub(crate) fn counter_of(data: &[u8]) -> Result<Counter, Cause> {
    Ok(Counter {
        packets: find(data, nfta::COUNTER_PACKETS).map_or(Ok(0), u64_of)?,
        bytes: find(data, nfta::COUNTER_BYTES).map_or(Ok(0), u64_of)?,
    })
}

fn log_of(data: &[u8]) -> Result<Expr, Cause> {
    let target = match find(data, nfta::LOG_GROUP) {
        Some(group) => LogTarget::Group {
            group: u16_of(group)?,
            snaplen: u32_or_zero(data, nfta::LOG_SNAPLEN)?,
            threshold: find(data, nfta::LOG_QTHRESHOLD).map_or(Ok(0), u16_of)?,
        },
        None => LogTarget::Kernel {
            level: find(data, nfta::LOG_LEVEL).map_or(Ok(LOG_WARNING), u32_of)?,
            flags: u32_or_zero(data, nfta::LOG_FLAGS)?,
        },
    };
    Ok(Expr::Log {
        prefix: find(data, nfta::LOG_PREFIX).map(|text| str_of(text).into()),
        target,
    })
}

fn reject_of(data: &[u8]) -> Result<Expr, Cause> {
    let code = find(data, nfta::REJECT_CODE)
        .and_then(|value| value.first())
        .copied()
        .unwrap_or(0);
    Ok(Expr::Reject(match u32_at(data, nfta::REJECT_TYPE)? {
        REJECT_ICMP => Reject::Icmp(code),
        REJECT_TCP_RESET => Reject::TcpReset,
        REJECT_ICMPX => Reject::Icmpx(code),
        _ => return Err(missing("a known kind of rejection")),
    }))
}

fn nat_of(data: &[u8]) -> Result<Expr, Cause> {
    let family = |number| u8::try_from(number).ok().and_then(Family::from_number);
    Ok(Expr::Nat {
        kind: number(data, nfta::NAT_TYPE, NatKind::from_number)?,
        family: number(data, nfta::NAT_FAMILY, family)?,
        addr_min: some_reg(data, nfta::NAT_ADDR_MIN)?,
        addr_max: maximum(data, nfta::NAT_ADDR_MIN, nfta::NAT_ADDR_MAX)?,
        port_min: some_reg(data, nfta::NAT_PROTO_MIN)?,
        port_max: maximum(data, nfta::NAT_PROTO_MIN, nfta::NAT_PROTO_MAX)?,
        flags: u32_or_zero(data, nfta::NAT_FLAGS)? & !NAT_IMPLIED,
    })
}

fn hash_of(data: &[u8]) -> Result<Expr, Cause> {
    let kind = match u32_or_zero(data, nfta::HASH_TYPE)? {
        0 => HashKind::Jhash {
            sreg: reg(data, nfta::HASH_SREG)?,
            len: u32_at(data, nfta::HASH_LEN)?,
        },
        1 => HashKind::Symhash,
        _ => return Err(missing("a known hash")),
    };
    Ok(Expr::Hash {
        kind,
        modulus: u32_at(data, nfta::HASH_MODULUS)?,
        seed: find(data, nfta::HASH_SEED).map(u32_of).transpose()?,
        offset: u32_or_zero(data, nfta::HASH_OFFSET)?,
        dreg: reg(data, nfta::HASH_DREG)?,
    })
}

fn dynset_of(data: &[u8]) -> Result<Expr, Cause> {
    let timeout = find(data, nfta::DYNSET_TIMEOUT).map_or(Ok(0), u64_of)?;
    let exprs = match (
        find(data, nfta::DYNSET_EXPR),
        find(data, nfta::DYNSET_EXPRESSIONS),
    ) {
        (Some(one), _) => vec![expr_of(one)],
        (None, Some(many)) => exprs_of(many),
        (None, None) => Vec::new(),
    };
    let flags = u32_or_zero(data, nfta::DYNSET_FLAGS)?;
    Ok(Expr::Dynset {
        set: str_of(at(data, nfta::DYNSET_SET)?).into(),
        op: number(data, nfta::DYNSET_OP, DynsetOp::from_number)?,
        key: reg(data, nfta::DYNSET_KEY)?,
        data: some_reg(data, nfta::DYNSET_DATA)?,
        timeout: (timeout != 0).then(|| Duration::from_millis(timeout)),
        exprs,
        inverted: flags & nfta::DYNSET_FLAG_INVERTED != 0,
    })
}
