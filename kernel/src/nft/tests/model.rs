//! A model of nf_tables that carries batches out on values, as strict as the kernel about names.

use proptest::prelude::*;

use super::generate;
use crate::nft::change::NFGEN_HEADER;
use crate::nft::elem_wire::{Listed, element_of, join_ranges};
use crate::nft::observe::{chain_of, rule_of};
use crate::nft::set::{Ranges, Set, Value};
use crate::nft::set_wire::set_of;
use crate::nft::uapi::{self, chain, elem, msg, rule, set, table, udata};
use crate::nft::wire::{attributes, find, str_of};
use crate::nft::{Batch, Expr, Family, Table, diff, text};

/// Carries the batch out. Panics where the kernel would refuse.
fn apply(before: Option<&Table>, batch: &mut Batch) -> Option<Table> {
    let mut model = before.cloned();
    let messages = batch.messages();
    for index in 1..messages.len() {
        let message = messages.message(index).unwrap();
        let length = u32::from_ne_bytes(message[..4].try_into().unwrap()) as usize;
        let kind = u16::from_ne_bytes([message[4], message[5]]);
        assert_eq!(kind >> 8, uapi::SUBSYSTEM);
        let body = &message[16 + NFGEN_HEADER..length];
        carry_out(&mut model, kind & 0xff, body);
    }
    model
}

fn carry_out(model: &mut Option<Table>, kind: u16, body: &[u8]) {
    let text_at = |kind| find(body, kind).map(str_of).unwrap();
    if kind == msg::NEWTABLE {
        let mut new = Table::new(Family::Ip, &text_at(table::NAME));
        let udata = find(body, table::USERDATA).unwrap_or(&[]);
        new.comment = text::comment_of(udata, udata::TABLE_COMMENT);
        model.get_or_insert(new);
        return;
    }
    let model = model.as_mut().expect("the table is there");
    match kind {
        msg::NEWCHAIN => {
            let (name, new) = (text_at(chain::NAME), chain_of(body).unwrap());
            match model.chains.get_mut(&name) {
                None => model.chains.insert(name, new),
                Some(old) => {
                    let (old, new) = (old.base.as_mut().unwrap(), new.base.unwrap());
                    assert_eq!((&old.kind, old.hook), (&new.kind, new.hook), "EEXIST");
                    *old = new;
                }
            }
        }
        msg::DELCHAIN => {
            let name = text_at(chain::NAME);
            let old = model.chains.remove(&name).expect("ENOENT");
            assert!(old.rules.is_empty(), "rules were to be flushed first");
            assert!(!leads_to_chain(model, &name), "EBUSY: chain {name}");
        }
        msg::NEWRULE => {
            let new = rule_of(body);
            for expr in &new.exprs {
                check_names(model, expr);
            }
            model
                .chains
                .get_mut(&text_at(rule::CHAIN))
                .expect("ENOENT")
                .rules
                .push(new);
        }
        msg::DELRULE => {
            model
                .chains
                .get_mut(&text_at(rule::CHAIN))
                .expect("ENOENT")
                .rules
                .clear();
        }
        msg::NEWSET => {
            let listed = set_of(body).unwrap();
            assert!(
                !listed.set.foreign,
                "what we declare must be ours when it is read"
            );
            assert!(!model.sets.contains_key(&listed.name), "EEXIST");
            model.sets.insert(listed.name, listed.set);
        }
        msg::DELSET => {
            let name = text_at(set::NAME);
            model.sets.remove(&name).expect("ENOENT");
            assert!(!uses_set(model, &name), "EBUSY: set {name}");
        }
        msg::NEWSETELEM | msg::DELSETELEM => change_elements(model, kind, body),
        other => panic!("message {other} in a difference"),
    }
}

fn change_elements(model: &mut Table, kind: u16, body: &[u8]) {
    let name = find(body, elem::LIST_SET).map(str_of).unwrap();
    let list = find(body, elem::LIST_ELEMENTS).expect("a difference flushes no set");
    let listed = attributes(list)
        .map(|(_, element)| element_of(element).unwrap())
        .collect();
    let layout = model.sets.get(&name).expect("ENOENT").layout();
    for Listed { key, element, .. } in joined(listed, layout.ranges, layout.key_len) {
        if let Value::Verdict(verdict) = &element.value
            && let Some(chain) = verdict.chain()
        {
            assert!(model.chains.contains_key(chain), "ENOENT: chain {chain}");
        }
        let set = model.sets.get_mut(&name).unwrap();
        if kind == msg::DELSETELEM {
            let old = set.elements.remove(&key).expect("ENOENT");
            assert_eq!(old.key_end, element.key_end, "ENOENT");
        } else {
            assert!(set.elements.insert(key, element).is_none(), "EEXIST");
        }
    }
}

fn joined(listed: Vec<Listed>, ranges: Ranges, len: usize) -> Vec<Listed> {
    if ranges == Ranges::Pairs {
        join_ranges(listed, len)
    } else {
        listed
    }
}

fn check_names(model: &Table, expr: &Expr) {
    match expr {
        Expr::Lookup { set, .. } | Expr::Dynset { set, .. } => {
            assert!(model.sets.contains_key(set), "ENOENT: set {set}");
        }
        Expr::Verdict(verdict) => {
            if let Some(chain) = verdict.chain() {
                assert!(model.chains.contains_key(chain), "ENOENT: chain {chain}");
            }
        }
        _ => {}
    }
}

fn leads_to_chain(model: &Table, name: &str) -> bool {
    let elements = model
        .sets
        .values()
        .flat_map(|set: &Set| set.elements.values());
    let from_elements = elements.filter_map(|element| match &element.value {
        Value::Verdict(verdict) => verdict.chain(),
        _ => None,
    });
    let exprs = model
        .chains
        .values()
        .flat_map(|chain| &chain.rules)
        .flat_map(|rule| &rule.exprs);
    let from_rules = exprs.filter_map(|expr| match expr {
        Expr::Verdict(verdict) => verdict.chain(),
        _ => None,
    });
    from_elements.chain(from_rules).any(|chain| chain == name)
}

fn uses_set(model: &Table, name: &str) -> bool {
    let mut exprs = model
        .chains
        .values()
        .flat_map(|chain| &chain.rules)
        .flat_map(|rule| &rule.exprs);
    exprs.any(|expr| match expr {
        Expr::Lookup { set, .. } | Expr::Dynset { set, .. } => **set == *name,
        _ => false,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_difference_that_is_applied_leaves_none(
        (before, after) in generate::pair(),
        nothing in any::<bool>(),
    ) {
        let before = (!nothing).then_some(before);
        let mut batch = diff(before.as_ref(), &after);
        let applied = apply(before.as_ref(), &mut batch).unwrap();
        prop_assert_eq!(&applied, &after);
        prop_assert!(diff(Some(&applied), &after).is_empty());
        prop_assert!(diff(Some(&after), &after).is_empty());
    }
}
