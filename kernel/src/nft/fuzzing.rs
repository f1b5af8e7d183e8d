//! The decoders of this folder, put together as [`super::NftSocket::observe`] does: for the fuzzer
//! only.

use super::elem_wire::element_of;
use super::observe::{body, chain_of, joined, rule_of, text};
use super::set_wire::set_of;
use super::uapi::{chain, elem, msg, rule};
use super::wire::{attributes, find};
use super::{Change, Family, Named, Set, Table, diff};
use crate::Cause;
use crate::netlink::{Message, messages};

/// Makes a table of the messages in `datagram`, and does with it what is done with tables.
pub(crate) fn read(datagram: &[u8]) {
    let mut table = Table::new(Family::Ip, "fuzz");
    for message in messages(datagram).map_while(Result::ok) {
        // What is not understood is left out here; a reader gives up.
        let _ = take_in(&mut table, message);
    }
    let nothing = Table::new(table.family, &table.name);
    let mut made = diff(None, &table);
    let _ = diff(Some(&table), &nothing);
    assert!(
        diff(Some(&table), &table).is_empty(),
        "a table differs from itself: {table:?}"
    );
    // What a refused change was about is decoded from the change itself.
    let changes = made.messages();
    for index in 0..changes.len() {
        let message = changes.message(index).expect("it is below their number");
        let _ = format!("{:?}", Change::of(message, Some(index * 4)));
    }
    for (_, set) in table.sets.iter() {
        for key in set.elements.keys() {
            let _ = set.display_key(key).to_string();
        }
    }
}

fn take_in(table: &mut Table, message: Message<'_>) -> Result<(), Cause> {
    let bytes = body(message)?;
    // The upper half is the subsystem, which is nf_tables here.
    match message.kind & 0xff {
        msg::NEWCHAIN => {
            table
                .chains
                .insert(text(bytes, chain::NAME)?, chain_of(bytes)?);
        }
        msg::NEWRULE => {
            let name = text(bytes, rule::CHAIN)?;
            if let Some(chain) = table.chains.get_mut(&name) {
                chain.rules.push(rule_of(bytes));
            }
        }
        msg::NEWSET => {
            let listed = set_of(bytes)?;
            table.sets.insert(listed.name, listed.set);
        }
        msg::NEWSETELEM => elements(&mut table.sets, bytes)?,
        _ => {}
    }
    Ok(())
}

fn elements(sets: &mut Named<Set>, bytes: &[u8]) -> Result<(), Cause> {
    let name = text(bytes, elem::LIST_SET)?;
    let Some(set) = sets.get_mut(&name) else {
        return Ok(());
    };
    let listed = attributes(find(bytes, elem::LIST_ELEMENTS).unwrap_or(&[]));
    let listed = listed.map(|(_, element)| element_of(element));
    let listed = listed.collect::<Result<Vec<_>, _>>()?;
    set.foreign |= listed.iter().any(|entry| entry.foreign);
    for entry in joined(listed, set.layout()) {
        set.elements.insert(entry.key, entry.element);
    }
    Ok(())
}
