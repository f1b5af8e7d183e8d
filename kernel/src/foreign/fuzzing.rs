//! Tables of iptables, in both of its backends: for the fuzzer only.

use super::blob::{Blob, HOOKS, V4, V6};
use super::{Edit, nft};

/// Reads `input` as a rule of nftables, and as a table of iptables-legacy: its hooks, where their
/// chains start and end, and the entries.
pub(crate) fn read(input: &[u8]) {
    let _ = nft::leads_to(input);
    let Some((head, entries)) = input.split_at_checked(2 + 2 * HOOKS * 2) else {
        return;
    };
    // As in a table that is not very large.
    let mut words = head
        .chunks_exact(2)
        .map(|pair| u32::from(u16::from_ne_bytes([pair[0], pair[1]])));
    let mut word = || words.next().unwrap_or(0);
    let first = word();
    let mut hooks = || std::array::from_fn(|_| word());
    let blob = Blob {
        layout: if first & 0x100 == 0 { V4 } else { V6 },
        valid_hooks: first & 0xff,
        hook_entry: hooks(),
        underflow: hooks(),
        bytes: entries.to_vec(),
    };
    let Ok(chains) = blob.chains() else {
        return;
    };
    // A chain goes, another one is emptied, and a rule of a third is taken out.
    let mut edit = Edit::default();
    for (index, chain) in chains.iter().enumerate() {
        match index % 3 {
            0 => edit.deleted.push(chain.name.clone()),
            1 => edit.emptied.push(chain.name.clone()),
            _ => {
                let ids = chain.rules.iter().map(|rule| rule.id);
                edit.rules.extend(ids.map(|id| (chain.name.clone(), id)));
            }
        }
    }
    for edit in [Edit::default(), edit] {
        if let Ok((without, kept)) = blob.without(&edit) {
            let left = without.len().expect("what was read is written well");
            assert_eq!(left, kept.len());
            let _ = without.chains();
        }
    }
}
