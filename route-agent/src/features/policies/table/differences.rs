//! Where a table differs from what is wanted, in sentences for the operator.

use podwire_kernel::IpFamily;
use podwire_kernel::nft::{Chain, Family, NftSocket, Set, Table};

use crate::features::parts::kept_table::asleep;
use crate::features::policies::table::kernel::observe;
use crate::ours::POLICY_TABLE as TABLE;

/// This many elements of one set are named.
const NAMED: usize = 3;

/// Where the kernel differs from `wanted`, one sentence each.
pub fn differences(kernel: &mut NftSocket, family: IpFamily, wanted: &Table) -> Vec<String> {
    let table = format!("table {} {TABLE}", Family::from(family));
    match observe(kernel, family) {
        Err(error) => vec![crate::error::chain(&error)],
        Ok(None) => vec![format!("{table} is missing")],
        Ok(Some(found)) => {
            let texts = of_sets(&found, wanted).into_iter();
            let texts = texts.chain(of_chains(&found, wanted));
            let texts = texts.chain(asleep(&found));
            texts.map(|text| format!("{table}: {text}")).collect()
        }
    }
}

fn of_chains(found: &Table, wanted: &Table) -> Vec<String> {
    let same = |one: &Chain, other: &Chain| {
        one.base == other.base
            && one.rules.len() == other.rules.len()
            && one
                .rules
                .iter()
                .zip(&other.rules)
                .all(|(one, other)| one.same_as(other))
    };
    let mut texts = Vec::new();
    for (name, chain) in wanted.chains.iter() {
        match found.chains.get(name) {
            None => texts.push(format!("chain `{name}` is missing")),
            Some(there) if !same(there, chain) => {
                texts.push(format!("chain `{name}` has other rules"));
            }
            Some(_) => {}
        }
    }
    let more = found
        .chains
        .keys()
        .filter(|name| !wanted.chains.contains_key(name));
    texts.extend(more.map(|name| format!("chain `{name}` is not wanted")));
    texts
}

fn of_sets(found: &Table, wanted: &Table) -> Vec<String> {
    let mut texts = Vec::new();
    for (name, set) in wanted.sets.iter() {
        match found.sets.get(name) {
            None => texts.push(format!("set `{name}` is missing")),
            Some(there) if !there.same_header(set) => {
                texts.push(format!("set `{name}` is not as it was made"));
            }
            Some(there) => texts.extend(of_elements(name, there, set)),
        }
    }
    let more = found
        .sets
        .keys()
        .filter(|name| !wanted.sets.contains_key(name));
    texts.extend(more.map(|name| format!("set `{name}` is not wanted")));
    texts
}

fn of_elements(name: &str, found: &Set, wanted: &Set) -> Vec<String> {
    let lacking = wanted.elements.iter().filter_map(|(key, element)| {
        let key_shown = wanted.display_key(key);
        match found.elements.get(key) {
            None => Some(format!("set `{name}` lacks {key_shown}")),
            Some(there) if !there.same_as(element) => Some(format!(
                "set `{name}` has {key_shown} with another value or comment"
            )),
            Some(_) => None,
        }
    });
    let more = found.elements.keys();
    let more = more.filter(|key| !wanted.elements.contains_key(*key));
    let more = more.map(|key| {
        let key = wanted.display_key(key);
        format!("set `{name}` has {key}, which is not wanted")
    });
    let mut texts: Vec<String> = lacking.chain(more).collect();
    let rest = texts.len().saturating_sub(NAMED);
    texts.truncate(NAMED);
    if rest > 0 {
        texts.push(format!("set `{name}` differs in {rest} more elements"));
    }
    texts
}
