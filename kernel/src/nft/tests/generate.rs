//! Random tables that the kernel would take: no loops, no overlapping ranges, no dangling names.

use std::net::Ipv4Addr;
use std::time::Duration;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::nft::{
    Base, Chain, ChainType, Element, Family, Field, Hook, Key, KeyBuf, Policy, Rule, Set, Source,
    Table, Verdict, priority,
};

const SETS: usize = 4;
const REGULAR: usize = 4;
const BASES: usize = 2;
const KINDS: u8 = 7;

/// What a set is made of: its kind, a variant of its declaration, which of its eight possible
/// elements there are, and a variant of their values.
type SetSeed = (u8, u8, u8, u8);
/// What a chain is made of: a variant of its declaration, and its rules by kind and target.
type ChainSeed = (u8, Vec<(u8, u8)>);

/// Everything that a table is made of.
#[derive(Debug, Clone)]
struct Seed {
    sets: Vec<Option<SetSeed>>,
    regular: Vec<Option<ChainSeed>>,
    bases: Vec<Option<ChainSeed>>,
}

fn seed() -> impl Strategy<Value = Seed> {
    let set = (0..KINDS, 0..4u8, any::<u8>(), 0..4u8);
    let chain = || (0..6u8, vec((0..8u8, 0..4u8), 0..4));
    (
        vec(option::weighted(0.7, set), SETS),
        vec(option::weighted(0.7, chain()), REGULAR),
        vec(option::weighted(0.7, chain()), BASES),
    )
        .prop_map(|(sets, regular, bases)| Seed {
            sets,
            regular,
            bases,
        })
}

/// Two tables that have much in common, as the state of a node before and after a change.
pub fn pair() -> impl Strategy<Value = (Table, Table)> {
    (seed(), seed(), any::<u16>(), any::<u8>()).prop_map(|(before, other, from_other, variants)| {
        let mut after = before.clone();
        let changes = |index: usize| from_other & (1 << index) != 0;
        for index in 0..SETS {
            if changes(index) {
                after.sets[index] = other.sets[index];
            } else if variants & (1 << index) != 0
                && let (Some(set), Some(other)) = (&mut after.sets[index], other.sets[index])
            {
                // The same set with another comment, or with other elements.
                (set.1, set.2) = if variants & 16 == 0 {
                    (other.1, set.2)
                } else {
                    (set.1, other.2)
                };
            }
        }
        for index in 0..REGULAR {
            if changes(SETS + index) {
                after.regular[index].clone_from(&other.regular[index]);
            }
        }
        for index in 0..BASES {
            if changes(SETS + REGULAR + index) {
                after.bases[index].clone_from(&other.bases[index]);
            }
        }
        (build(&before), build(&after))
    })
}

fn build(seed: &Seed) -> Table {
    let Seed {
        sets,
        regular,
        bases,
    } = seed;
    let mut table = Table::new(Family::Ip, "t");
    let chain_exists = |index: u8| regular[usize::from(index)].is_some();
    for (index, seed) in sets.iter().enumerate() {
        if let Some(seed) = seed {
            table
                .sets
                .insert(format!("s{index}"), set(*seed, &chain_exists));
        }
    }
    for (index, seed) in regular.iter().enumerate() {
        let Some((variant, rules)) = seed else {
            continue;
        };
        let mut chain = Chain::regular();
        if variant.is_multiple_of(3) {
            chain = chain.with_comment("regular");
        }
        // Jumps lead to later chains only, and verdict maps are for base chains: no loops.
        let leads_to = |target: u8| usize::from(target) > index && chain_exists(target);
        chain.rules = rules
            .iter()
            .map(|seed| rule(*seed, sets, &leads_to, false))
            .collect();
        table.chains.insert(format!("c{index}"), chain);
    }
    for (index, seed) in bases.iter().enumerate() {
        let Some((variant, rules)) = seed else {
            continue;
        };
        let mut chain = base(*variant);
        chain.rules = rules
            .iter()
            .map(|seed| rule(*seed, sets, &chain_exists, true))
            .collect();
        table.chains.insert(format!("b{index}"), chain);
    }
    table
}

fn base(variant: u8) -> Chain {
    let base = Base {
        kind: ChainType::Filter,
        hook: if variant.is_multiple_of(2) {
            Hook::Forward
        } else {
            Hook::Input
        },
        priority: if variant.is_multiple_of(3) {
            priority::FILTER
        } else {
            priority::MANGLE
        },
        policy: if variant.is_multiple_of(5) {
            Policy::Drop
        } else {
            Policy::Accept
        },
    };
    Chain {
        base: Some(base),
        ..Chain::default()
    }
}

fn key_of(kind: u8) -> &'static [Field] {
    match kind {
        0 | 1 | 6 => &[Field::ThDport],
        2 => &[Field::IpDaddr],
        3 => &[Field::IpDaddr, Field::ThDport],
        4 => &[Field::IpDaddr, Field::L4Proto, Field::ThDport, Field::Slot],
        _ => &[Field::IpSaddr],
    }
}

fn set((kind, variant, elements, value): SetSeed, chain_exists: &dyn Fn(u8) -> bool) -> Set {
    let key = key_of(kind);
    let mut set = match kind {
        0 => Set::of(key),
        1 => Set::verdict_map(key).with_counters(),
        2 => Set::of(key).with_intervals(),
        3 => Set::verdict_map(key).with_intervals(),
        4 => Set::map(key, &[Field::IpDaddr, Field::ThDport]).with_counters(),
        5 => Set::map(key, &[Field::Mark]).dynamic(1000).with_timeouts(),
        _ => Set {
            default_timeout: Some(Duration::from_secs(900)),
            ..Set::of(key).with_timeouts()
        },
    };
    if variant == 0 {
        set = set.with_comment("a set");
    }
    if set.dynamic {
        return set;
    }
    for number in (0..8).filter(|number| elements & (1 << number) != 0) {
        let (key, element) = element(kind, number, value, chain_exists);
        set.elements.insert(key, element);
    }
    set
}

fn element(kind: u8, number: u8, value: u8, chain_exists: &dyn Fn(u8) -> bool) -> (Key, Element) {
    let address = |last: u8| KeyBuf::new().address(Ipv4Addr::new(10, 0, number, last));
    let port = || KeyBuf::new().port(80 + u16::from(number));
    // Some ranges touch, some are single keys, and the last one reaches the end.
    let last = if number.is_multiple_of(3) { 255 } else { 0 };
    let verdict = match value {
        0 => Verdict::Drop,
        target if chain_exists(target) => Verdict::goto(&format!("c{target}")),
        _ => Verdict::Accept,
    };
    let (key, element) = match kind {
        0 => (port(), Element::member()),
        1 => (port(), Element::verdict(verdict)),
        2 if number == 7 => {
            let key = KeyBuf::new().address(Ipv4Addr::new(240, 0, 0, 0));
            (
                key,
                Element::member().up_to(KeyBuf::new().address(Ipv4Addr::BROADCAST)),
            )
        }
        2 if last == 0 => (address(0), Element::member()),
        2 => (address(0), Element::member().up_to(address(last))),
        3 if last == 0 => (address(0).port(80), Element::verdict(verdict)),
        3 => {
            let end = address(last).port(80 + u16::from(value));
            (address(0).port(80), Element::verdict(verdict).up_to(end))
        }
        4 => {
            let data = KeyBuf::new()
                .address(Ipv4Addr::new(10, 1, 0, value))
                .port(8080);
            (
                address(1).protocol(6).port(80).number(number.into()),
                Element::data(data),
            )
        }
        _ => {
            let timeout = Duration::from_secs(600 + 300 * u64::from(value % 2));
            let element = Element::member();
            (
                port(),
                if value < 2 {
                    element
                } else {
                    element.timeout(timeout)
                },
            )
        }
    };
    let element = if value.is_multiple_of(2) {
        element
    } else {
        element.comment(&format!("no. {number}"))
    };
    // A time-out that is the set's own is reported as none.
    let own = kind == 6 && element.timeout == Some(Duration::from_secs(900));
    (
        key.finish(),
        if own {
            Element {
                timeout: None,
                ..element
            }
        } else {
            element
        },
    )
}

fn rule(
    (kind, target): (u8, u8),
    sets: &[Option<SetSeed>],
    leads_to: &dyn Fn(u8) -> bool,
    base: bool,
) -> Rule {
    let plain = Rule::new().l4proto(6).counter().comment("plain");
    let name = format!("s{target}");
    let seed = sets[usize::from(target)];
    match (kind, seed) {
        (0, _) if leads_to(target) => Rule::new().counter().jump(&format!("c{target}")),
        (1, _) if leads_to(target) => Rule::new()
            .l4proto(17)
            .goto(&format!("c{target}"))
            .comment("away"),
        (2, _) => Rule::new()
            .l4proto(6)
            .is(Field::ThDport, &KeyBuf::new().port(80))
            .accept(),
        (3, _) => Rule::new()
            .limit(u64::from(target) + 1, 60, 5)
            .log("property "),
        (_, Some((1 | 3, ..))) if !base => plain,
        (_, Some((set @ (1 | 3), ..))) => Rule::new().l4proto(6).verdict_map(key_of(set), &name),
        // Sets only: old kernels do not take a map for a set.
        (4 | 5, Some((set @ (0 | 2 | 6), ..))) => {
            Rule::new().l4proto(6).in_set(key_of(set), &name).drop()
        }
        (6, Some((5, ..))) => Rule::new().update_map(
            &name,
            &[Field::IpSaddr],
            &[Source::random(3)],
            Some(Duration::from_secs(60)),
        ),
        (_, Some((set @ (0 | 2 | 6), ..))) => Rule::new().l4proto(6).not_in_set(key_of(set), &name),
        _ => plain,
    }
}
