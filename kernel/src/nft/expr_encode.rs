//! Expressions as netlink attributes.

use std::time::Duration;

use super::basics::Verdict;
use super::expr::{Expr, HashKind, LogTarget, LookupInto, Reg, Reject};
use super::uapi::{self, expr as nfta};
use super::wire::{nest, put, put_str, put_u32, put_u64};

/// `NFT_REG_VERDICT`.
pub(super) const REG_VERDICT: u32 = 0;
/// `NF_NAT_RANGE_MAP_IPS | NF_NAT_RANGE_PROTO_SPECIFIED`: the kernel adds them by itself.
pub(super) const NAT_IMPLIED: u32 = 3;
/// `NFT_REJECT_*`.
pub(super) const REJECT_ICMP: u32 = 0;
pub(super) const REJECT_TCP_RESET: u32 = 1;
pub(super) const REJECT_ICMPX: u32 = 2;
/// `LOGLEVEL_WARNING`, which the kernel takes if nothing is said.
pub(super) const LOG_WARNING: u32 = 4;

/// Appends a list of expressions inside an attribute of type `kind`.
pub(crate) fn put_exprs(out: &mut Vec<u8>, kind: u16, exprs: &[Expr]) {
    nest(out, kind, |out| {
        for expr in exprs {
            put_expr(out, uapi::LIST_ELEM, expr);
        }
    });
}

/// Appends one expression inside an attribute of type `kind`.
pub(crate) fn put_expr(out: &mut Vec<u8>, kind: u16, expr: &Expr) {
    nest(out, kind, |out| {
        put_str(out, uapi::EXPR_NAME, name(expr));
        if let Expr::Unknown { data, .. } = expr {
            put(out, uapi::EXPR_DATA, data);
        } else {
            nest(out, uapi::EXPR_DATA, |out| put_content(out, expr));
        }
    });
}

fn name(expr: &Expr) -> &str {
    match expr {
        Expr::Meta { .. } | Expr::SetMeta { .. } => "meta",
        Expr::Ct { .. } | Expr::SetCt { .. } => "ct",
        Expr::Payload { .. } => "payload",
        Expr::Compare { .. } => "cmp",
        Expr::Range { .. } => "range",
        Expr::Bitwise { .. } => "bitwise",
        Expr::Lookup { .. } => "lookup",
        Expr::Immediate { .. } | Expr::Verdict(_) => "immediate",
        Expr::Fib { .. } => "fib",
        Expr::Counter(_) => "counter",
        Expr::Limit { .. } => "limit",
        Expr::CtCount { .. } => "connlimit",
        Expr::Log { .. } => "log",
        Expr::Reject(_) => "reject",
        Expr::Nat { .. } => "nat",
        Expr::Masquerade { .. } => "masq",
        Expr::Redirect { .. } => "redir",
        Expr::Numgen { .. } => "numgen",
        Expr::Hash { .. } => "hash",
        Expr::Dynset { .. } => "dynset",
        Expr::Notrack => "notrack",
        Expr::Unknown { name, .. } => name,
    }
}

fn put_reg(out: &mut Vec<u8>, kind: u16, reg: Reg) {
    put_u32(out, kind, reg.number());
}

fn put_some_reg(out: &mut Vec<u8>, kind: u16, reg: Option<Reg>) {
    if let Some(reg) = reg {
        put_reg(out, kind, reg);
    }
}

/// Data of a register inside an attribute of type `kind`.
pub(crate) fn put_data(out: &mut Vec<u8>, kind: u16, data: &[u8]) {
    nest(out, kind, |out| put(out, uapi::DATA_VALUE, data));
}

/// A verdict inside an attribute of type `kind`.
pub(crate) fn put_verdict(out: &mut Vec<u8>, kind: u16, verdict: &Verdict) {
    nest(out, kind, |out| {
        nest(out, uapi::DATA_VERDICT, |out| {
            put(out, uapi::VERDICT_CODE, &verdict.code().to_be_bytes());
            if let Some(chain) = verdict.chain() {
                put_str(out, uapi::VERDICT_CHAIN, chain);
            }
        });
    });
}

pub(super) fn put_content(out: &mut Vec<u8>, expr: &Expr) {
    match expr {
        Expr::Meta { key, dreg } => {
            put_u32(out, nfta::META_KEY, key.number());
            put_reg(out, nfta::META_DREG, *dreg);
        }
        Expr::SetMeta { key, sreg } => {
            put_u32(out, nfta::META_KEY, key.number());
            put_reg(out, nfta::META_SREG, *sreg);
        }
        Expr::Ct {
            key,
            direction,
            dreg,
        } => {
            put_u32(out, nfta::CT_KEY, key.number());
            put_reg(out, nfta::CT_DREG, *dreg);
            if let Some(direction) = direction {
                put(out, nfta::CT_DIRECTION, &[direction.number() as u8]);
            }
        }
        Expr::SetCt { key, sreg } => {
            put_u32(out, nfta::CT_KEY, key.number());
            put_reg(out, nfta::CT_SREG, *sreg);
        }
        Expr::Payload {
            base,
            offset,
            len,
            dreg,
        } => {
            put_reg(out, nfta::PAYLOAD_DREG, *dreg);
            put_u32(out, nfta::PAYLOAD_BASE, base.number());
            put_u32(out, nfta::PAYLOAD_OFFSET, *offset);
            put_u32(out, nfta::PAYLOAD_LEN, *len);
        }
        Expr::Compare { sreg, op, data } => {
            put_reg(out, nfta::CMP_SREG, *sreg);
            put_u32(out, nfta::CMP_OP, op.number());
            put_data(out, nfta::CMP_DATA, data);
        }
        Expr::Range {
            sreg,
            inverted,
            from,
            to,
        } => {
            put_reg(out, nfta::RANGE_SREG, *sreg);
            put_u32(out, nfta::RANGE_OP, u32::from(*inverted));
            put_data(out, nfta::RANGE_FROM, from);
            put_data(out, nfta::RANGE_TO, to);
        }
        Expr::Bitwise {
            sreg,
            dreg,
            mask,
            xor,
        } => {
            put_reg(out, nfta::BITWISE_SREG, *sreg);
            put_reg(out, nfta::BITWISE_DREG, *dreg);
            put_u32(out, nfta::BITWISE_OP, 0); // NFT_BITWISE_BOOL
            put_u32(out, nfta::BITWISE_LEN, mask.len() as u32);
            put_data(out, nfta::BITWISE_MASK, mask);
            put_data(out, nfta::BITWISE_XOR, xor);
        }
        Expr::Immediate { dreg, data } => {
            put_reg(out, nfta::IMMEDIATE_DREG, *dreg);
            put_data(out, nfta::IMMEDIATE_DATA, data);
        }
        Expr::Verdict(verdict) => {
            put_u32(out, nfta::IMMEDIATE_DREG, REG_VERDICT);
            put_verdict(out, nfta::IMMEDIATE_DATA, verdict);
        }
        Expr::Fib {
            result,
            flags,
            dreg,
        } => {
            put_reg(out, nfta::FIB_DREG, *dreg);
            put_u32(out, nfta::FIB_RESULT, result.number());
            put_u32(out, nfta::FIB_FLAGS, *flags);
        }
        Expr::Counter(counter) => {
            put_u64(out, nfta::COUNTER_BYTES, counter.bytes);
            put_u64(out, nfta::COUNTER_PACKETS, counter.packets);
        }
        Expr::Numgen {
            kind,
            modulus,
            offset,
            dreg,
        } => {
            put_reg(out, nfta::NG_DREG, *dreg);
            put_u32(out, nfta::NG_MODULUS, *modulus);
            put_u32(out, nfta::NG_TYPE, kind.number());
            put_u32(out, nfta::NG_OFFSET, *offset);
        }
        Expr::Notrack | Expr::Unknown { .. } => {}
        statement => put_statement(out, statement),
    }
}

/// The second half of [`put_content`]: lookups, and what changes a packet or a set.
fn put_statement(out: &mut Vec<u8>, expr: &Expr) {
    match expr {
        Expr::Lookup { set, sreg, into } => {
            put_str(out, nfta::LOOKUP_SET, set);
            put_reg(out, nfta::LOOKUP_SREG, *sreg);
            match into {
                LookupInto::Member => {}
                LookupInto::NotMember => {
                    put_u32(out, nfta::LOOKUP_FLAGS, nfta::LOOKUP_FLAG_INVERTED);
                }
                LookupInto::Reg(reg) => put_reg(out, nfta::LOOKUP_DREG, *reg),
                LookupInto::Verdict => put_u32(out, nfta::LOOKUP_DREG, REG_VERDICT),
            }
        }
        Expr::Limit {
            rate,
            unit,
            burst,
            bytes,
            over,
        } => {
            put_u64(out, nfta::LIMIT_RATE, *rate);
            put_u64(out, nfta::LIMIT_UNIT, *unit);
            put_u32(out, nfta::LIMIT_BURST, *burst);
            put_u32(out, nfta::LIMIT_TYPE, u32::from(*bytes));
            put_u32(out, nfta::LIMIT_FLAGS, u32::from(*over));
        }
        Expr::CtCount { limit, over } => {
            put_u32(out, nfta::CONNLIMIT_COUNT, *limit);
            put_u32(out, nfta::CONNLIMIT_FLAGS, u32::from(*over));
        }
        Expr::Log { prefix, target } => put_log(out, prefix.as_deref(), *target),
        Expr::Reject(reject) => {
            let (kind, code) = match reject {
                Reject::Icmp(code) => (REJECT_ICMP, *code),
                Reject::TcpReset => (REJECT_TCP_RESET, 0),
                Reject::Icmpx(code) => (REJECT_ICMPX, *code),
            };
            put_u32(out, nfta::REJECT_TYPE, kind);
            put(out, nfta::REJECT_CODE, &[code]);
        }
        Expr::Nat {
            kind,
            family,
            addr_min,
            addr_max,
            port_min,
            port_max,
            flags,
        } => {
            put_u32(out, nfta::NAT_TYPE, kind.number());
            put_u32(out, nfta::NAT_FAMILY, u32::from(family.number()));
            put_some_reg(out, nfta::NAT_ADDR_MIN, *addr_min);
            put_some_reg(out, nfta::NAT_ADDR_MAX, *addr_max);
            put_some_reg(out, nfta::NAT_PROTO_MIN, *port_min);
            put_some_reg(out, nfta::NAT_PROTO_MAX, *port_max);
            put_flags(out, nfta::NAT_FLAGS, *flags);
        }
        Expr::Masquerade {
            flags,
            port_min,
            port_max,
        } => {
            put_flags(out, nfta::MASQ_FLAGS, *flags);
            put_some_reg(out, nfta::MASQ_PROTO_MIN, *port_min);
            put_some_reg(out, nfta::MASQ_PROTO_MAX, *port_max);
        }
        Expr::Redirect {
            flags,
            port_min,
            port_max,
        } => {
            put_some_reg(out, nfta::REDIR_PROTO_MIN, *port_min);
            put_some_reg(out, nfta::REDIR_PROTO_MAX, *port_max);
            put_flags(out, nfta::REDIR_FLAGS, *flags);
        }
        Expr::Hash {
            kind,
            modulus,
            seed,
            offset,
            dreg,
        } => {
            put_reg(out, nfta::HASH_DREG, *dreg);
            put_u32(out, nfta::HASH_MODULUS, *modulus);
            put_u32(out, nfta::HASH_OFFSET, *offset);
            if let Some(seed) = seed {
                put_u32(out, nfta::HASH_SEED, *seed);
            }
            match kind {
                HashKind::Jhash { sreg, len } => {
                    put_reg(out, nfta::HASH_SREG, *sreg);
                    put_u32(out, nfta::HASH_LEN, *len);
                    put_u32(out, nfta::HASH_TYPE, 0);
                }
                HashKind::Symhash => put_u32(out, nfta::HASH_TYPE, 1),
            }
        }
        Expr::Dynset {
            set,
            op,
            key,
            data,
            timeout,
            exprs,
            inverted,
        } => {
            put_str(out, nfta::DYNSET_SET, set);
            put_u32(out, nfta::DYNSET_OP, op.number());
            put_reg(out, nfta::DYNSET_KEY, *key);
            put_some_reg(out, nfta::DYNSET_DATA, *data);
            if let Some(timeout) = timeout {
                put_u64(out, nfta::DYNSET_TIMEOUT, millis(*timeout));
            }
            let mut flags = if *inverted {
                nfta::DYNSET_FLAG_INVERTED
            } else {
                0
            };
            match &exprs[..] {
                [] => {}
                [one] => put_expr(out, nfta::DYNSET_EXPR, one),
                many => {
                    flags |= nfta::DYNSET_FLAG_EXPR;
                    put_exprs(out, nfta::DYNSET_EXPRESSIONS, many);
                }
            }
            put_flags(out, nfta::DYNSET_FLAGS, flags);
        }
        _ => {}
    }
}

/// Whole milliseconds, the unit of all time-outs in nf_tables.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn put_flags(out: &mut Vec<u8>, kind: u16, flags: u32) {
    if flags != 0 {
        put_u32(out, kind, flags);
    }
}

fn put_log(out: &mut Vec<u8>, prefix: Option<&str>, target: LogTarget) {
    if let Some(prefix) = prefix {
        put_str(out, nfta::LOG_PREFIX, prefix);
    }
    match target {
        LogTarget::Kernel { level, flags } => {
            put_u32(out, nfta::LOG_LEVEL, level);
            put_flags(out, nfta::LOG_FLAGS, flags);
        }
        LogTarget::Group {
            group,
            snaplen,
            threshold,
        } => {
            put(out, nfta::LOG_GROUP, &group.to_be_bytes());
            put_flags(out, nfta::LOG_SNAPLEN, snaplen);
            if threshold != 0 {
                put(out, nfta::LOG_QTHRESHOLD, &threshold.to_be_bytes());
            }
        }
    }
}
