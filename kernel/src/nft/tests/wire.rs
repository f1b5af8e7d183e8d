//! Encoding and decoding.

use std::time::Duration;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use crate::nft::change::Change;
use crate::nft::elem_wire::{element_of, put_element};
use crate::nft::expr_decode::exprs_of;
use crate::nft::expr_encode::put_exprs;
use crate::nft::field::{Fields, fields_of_typeof};
use crate::nft::observe::{chain_of, rule_of};
use crate::nft::set::{Layout, Ranges};
use crate::nft::set_wire::{put_set, set_of};
use crate::nft::wire::{attributes, find, udata};
use crate::nft::{
    Comparison, Counter, CtKey, Data, Direction, DynsetOp, Element, Expr, Family, FibResult, Field,
    HashKind, Key, LogTarget, LookupInto, MetaKey, NatKind, NumgenKind, PayloadBase, Reg, Reject,
    Set, Value, Verdict,
};

fn one_of<T: Copy + std::fmt::Debug + 'static>(all: &'static [T]) -> impl Strategy<Value = T> {
    select(all)
}

fn reg() -> impl Strategy<Value = Reg> {
    (0..16u8).prop_map(|number| Reg::new(number).unwrap())
}

/// A lower and an upper register; the kernel takes an upper end that is the lower one for none.
fn regs() -> impl Strategy<Value = (Option<Reg>, Option<Reg>)> {
    (option::of(reg()), option::of(reg())).prop_map(|(min, max)| match min {
        None => (None, None),
        Some(_) => (min, max.filter(|_| max != min)),
    })
}

fn bytes(max: usize) -> impl Strategy<Value = Box<[u8]>> {
    vec(any::<u8>(), 1..=max).prop_map(Vec::into_boxed_slice)
}

fn name() -> impl Strategy<Value = Box<str>> {
    "[a-z][a-z0-9-]{0,30}".prop_map(String::into_boxed_str)
}

fn verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        one_of(&[0, 1, -1, -5, 3, 4]).prop_map(|code| match code {
            0 => Verdict::Drop,
            1 => Verdict::Accept,
            -1 => Verdict::Continue,
            -5 => Verdict::Return,
            other => Verdict::Other(other),
        }),
        name().prop_map(Verdict::Jump),
        name().prop_map(Verdict::Goto),
    ]
}

fn counter() -> impl Strategy<Value = Expr> {
    (any::<u64>(), any::<u64>())
        .prop_map(|(packets, bytes)| Expr::Counter(Counter { packets, bytes }))
}

fn load() -> impl Strategy<Value = Expr> {
    prop_oneof![
        (one_of(MetaKey::ALL), reg()).prop_map(|(key, dreg)| Expr::Meta { key, dreg }),
        (one_of(MetaKey::ALL), reg()).prop_map(|(key, sreg)| Expr::SetMeta { key, sreg }),
        (
            one_of(CtKey::ALL),
            option::of(one_of(Direction::ALL)),
            reg()
        )
            .prop_map(|(key, direction, dreg)| Expr::Ct {
                key,
                direction,
                dreg
            }),
        (one_of(CtKey::ALL), reg()).prop_map(|(key, sreg)| Expr::SetCt { key, sreg }),
        (one_of(PayloadBase::ALL), any::<u32>(), any::<u32>(), reg()).prop_map(
            |(base, offset, len, dreg)| Expr::Payload {
                base,
                offset,
                len,
                dreg
            }
        ),
        (reg(), bytes(16)).prop_map(|(dreg, data)| Expr::Immediate { dreg, data }),
        (one_of(FibResult::ALL), any::<u32>(), reg()).prop_map(|(result, flags, dreg)| Expr::Fib {
            result,
            flags,
            dreg
        }),
        (one_of(NumgenKind::ALL), any::<u32>(), any::<u32>(), reg()).prop_map(
            |(kind, modulus, offset, dreg)| Expr::Numgen {
                kind,
                modulus,
                offset,
                dreg
            }
        ),
        (
            option::of((reg(), any::<u32>())),
            any::<u32>(),
            option::of(any::<u32>()),
            reg()
        )
            .prop_map(|(jhash, modulus, seed, dreg)| {
                let kind = match jhash {
                    Some((sreg, len)) => HashKind::Jhash { sreg, len },
                    None => HashKind::Symhash,
                };
                Expr::Hash {
                    kind,
                    modulus,
                    seed,
                    offset: modulus / 2,
                    dreg,
                }
            }),
    ]
}

fn condition() -> impl Strategy<Value = Expr> {
    let into = prop_oneof![
        Just(LookupInto::Member),
        Just(LookupInto::NotMember),
        Just(LookupInto::Verdict),
        reg().prop_map(LookupInto::Reg),
    ];
    prop_oneof![
        (reg(), one_of(Comparison::ALL), bytes(16)).prop_map(|(sreg, op, data)| Expr::Compare {
            sreg,
            op,
            data
        }),
        (reg(), any::<bool>(), bytes(16), bytes(16)).prop_map(|(sreg, inverted, from, to)| {
            Expr::Range {
                sreg,
                inverted,
                from,
                to,
            }
        }),
        (reg(), reg(), bytes(16)).prop_map(|(sreg, dreg, mask)| {
            Expr::Bitwise {
                sreg,
                dreg,
                xor: mask.iter().rev().copied().collect(),
                mask,
            }
        }),
        (name(), reg(), into).prop_map(|(set, sreg, into)| Expr::Lookup { set, sreg, into }),
        (
            any::<u64>(),
            any::<u64>(),
            any::<u32>(),
            any::<bool>(),
            any::<bool>()
        )
            .prop_map(|(rate, unit, burst, bytes, over)| Expr::Limit {
                rate,
                unit,
                burst,
                bytes,
                over
            }),
        (any::<u32>(), any::<bool>()).prop_map(|(limit, over)| Expr::CtCount { limit, over }),
    ]
}

fn statement() -> impl Strategy<Value = Expr> {
    let target = prop_oneof![
        (any::<u32>(), any::<u32>()).prop_map(|(level, flags)| LogTarget::Kernel { level, flags }),
        (any::<u16>(), any::<u32>(), any::<u16>()).prop_map(|(group, snaplen, threshold)| {
            LogTarget::Group {
                group,
                snaplen,
                threshold,
            }
        }),
    ];
    let dynset = (
        (
            name(),
            one_of(DynsetOp::ALL),
            reg(),
            option::of(reg()),
            any::<bool>(),
        ),
        option::of(1..u64::MAX / 2),
        vec(counter(), 0..3),
    );
    let flags = any::<u32>().prop_map(|flags| flags & !3);
    let family = one_of(&[Family::Ip, Family::Ip6]);
    prop_oneof![
        verdict().prop_map(Expr::Verdict),
        counter(),
        Just(Expr::Notrack),
        any::<u8>().prop_map(|code| Expr::Reject(Reject::Icmp(code))),
        any::<u8>().prop_map(|code| Expr::Reject(Reject::Icmpx(code))),
        Just(Expr::Reject(Reject::TcpReset)),
        (option::of(name()), target).prop_map(|(prefix, target)| Expr::Log { prefix, target }),
        (one_of(NatKind::ALL), family, regs(), regs(), flags.clone()).prop_map(
            |(kind, family, (addr_min, addr_max), (port_min, port_max), flags)| {
                Expr::Nat {
                    kind,
                    family,
                    addr_min,
                    addr_max,
                    port_min,
                    port_max,
                    flags,
                }
            }
        ),
        (flags.clone(), regs()).prop_map(|(flags, (port_min, port_max))| {
            Expr::Masquerade {
                flags,
                port_min,
                port_max,
            }
        }),
        (flags, regs()).prop_map(|(flags, (port_min, port_max))| {
            Expr::Redirect {
                flags,
                port_min,
                port_max,
            }
        }),
        dynset.prop_map(|((set, op, key, data, inverted), timeout, exprs)| {
            let timeout = timeout.map(Duration::from_millis);
            Expr::Dynset {
                set,
                op,
                key,
                data,
                timeout,
                exprs,
                inverted,
            }
        }),
        (name(), bytes(64)).prop_map(|(name, data)| {
            Expr::Unknown {
                name: format!("unknown-{name}").into(),
                data,
            }
        }),
    ]
}

fn expr() -> impl Strategy<Value = Expr> {
    prop_oneof![load(), condition(), statement()]
}

fn fields() -> impl Strategy<Value = Vec<Field>> {
    vec(select(&Field::ALL[..]), 1..5)
}

fn set() -> impl Strategy<Value = Set> {
    let data = prop_oneof![
        Just(None),
        Just(Some(Data::Verdict)),
        fields().prop_map(|fields| Some(Data::Fields(fields))),
    ];
    let flags = any::<[bool; 4]>();
    let comment = option::of("[ -~]{1,140}");
    (
        fields(),
        data,
        flags,
        option::of(1..u64::from(u32::MAX)),
        any::<u32>(),
        comment,
    )
        .prop_map(
            |(key, data, [interval, timeout, dynamic, counter], ms, size, comment)| Set {
                data,
                interval,
                // A default time-out is one way of having time-outs.
                timeout: timeout || ms.is_some(),
                dynamic,
                counter,
                default_timeout: ms.map(Duration::from_millis),
                size: (size != 0).then_some(size),
                comment: comment.and_then(|text| crate::nft::Comment::new(&text)),
                ..Set::of(&key)
            },
        )
}

fn element() -> impl Strategy<Value = (Key, Element)> {
    let value = prop_oneof![
        Just(Value::None),
        bytes(8).prop_map(|data| Value::Data(Key::from_bytes(&data))),
        verdict().prop_map(Value::Verdict),
    ];
    let key = || bytes(64).prop_map(|bytes| Key::from_bytes(&bytes));
    let comment = option::of("[ -~]{1,140}");
    (
        key(),
        option::of(key()),
        value,
        option::of(1..u64::MAX / 2),
        comment,
    )
        .prop_map(|(key, key_end, value, timeout, comment)| {
            let element = Element {
                key_end: key_end.filter(|end| *end != key),
                value,
                timeout: timeout.map(Duration::from_millis),
                comment: comment.and_then(|text| crate::nft::Comment::new(&text)),
                ..Element::default()
            };
            (key, element)
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn expressions_survive_the_wire(exprs in vec(expr(), 0..6)) {
        let mut out = Vec::new();
        put_exprs(&mut out, 4, &exprs);
        prop_assert_eq!(exprs_of(find(&out, 4).unwrap()), exprs);
    }

    #[test]
    fn declarations_survive_the_wire(set in set()) {
        let mut out = Vec::new();
        put_set(&mut out, "table", "set", &set, 1);
        let listed = set_of(&out).unwrap();
        prop_assert_eq!((&*listed.table, &*listed.name), ("table", "set"));
        prop_assert_eq!(listed.set, set);
    }

    #[test]
    fn elements_survive_the_wire((key, element) in element()) {
        let layout = Layout { key_len: 64, data_len: 64, ranges: Ranges::KeyEnd };
        let mut out = Vec::new();
        put_element(&mut out, layout, &element.borrow(&key));
        let (_, bytes) = attributes(&out).next().unwrap();
        let listed = element_of(bytes).unwrap();
        prop_assert_eq!((listed.key, listed.element), (key, element));
        prop_assert!(!listed.foreign && !listed.end);
    }

    #[test]
    fn fields_survive_their_typeof(fields in fields()) {
        let bytes = Fields(&fields).typeof_udata();
        prop_assert_eq!(fields_of_typeof(&bytes), Some(fields));
    }

    #[test]
    fn no_bytes_make_the_decoders_panic(bytes in vec(any::<u8>(), 0..200)) {
        decode_everything(&bytes);
    }

    /// Bytes that are nearly right lead deeper into the decoders than random ones.
    #[test]
    fn no_damage_makes_the_decoders_panic(
        exprs in vec(expr(), 0..4),
        set in set(),
        (key, element) in element(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let layout = Layout { key_len: 64, data_len: 64, ranges: Ranges::KeyEnd };
        let mut out = Vec::new();
        put_exprs(&mut out, 4, &exprs);
        put_set(&mut out, "table", "set", &set, 1);
        put_element(&mut out, layout, &element.borrow(&key));
        for (place, byte) in damage {
            let place = place.index(out.len());
            out[place] = byte;
        }
        out.truncate(cut.index(out.len() + 1));
        decode_everything(&out);
        for (_, inner) in attributes(&out) {
            decode_everything(inner);
        }
    }
}

fn decode_everything(bytes: &[u8]) {
    let _ = exprs_of(bytes);
    let _ = rule_of(bytes);
    let _ = chain_of(bytes);
    let _ = element_of(bytes);
    let _ = fields_of_typeof(bytes);
    let _ = udata(bytes).count();
    for offset in [None, Some(0), Some(40)] {
        let _ = Change::of(bytes, offset).to_string();
    }
    if let Ok(listed) = set_of(bytes) {
        let _ = listed.set.display_key(bytes).to_string();
    }
}
