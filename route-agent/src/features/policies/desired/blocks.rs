//! Networks with holes, cut into ranges in which nothing changes.
//!
//! Networks overlap and have holes in each other; after the cut they do not, so a range says by
//! itself which of them it is in.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;

use crate::cidr::{next, previous};
use crate::features::policies::desired::atoms::AtomId;
use crate::features::policies::desired::id_set::IdSet;
use crate::snapshot::Block;

/// A range of addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// The last address.
    pub last: IpAddr,
    /// The questions whose networks all of it is in; not empty. Ranges with the same ones share them.
    pub atoms: Arc<IdSet>,
}

/// The ranges by their first address.
pub type Ranges = BTreeMap<IpAddr, Range>;

/// Cuts networks of one family: those of one question are one thing.
pub fn cut<'a>(blocks: impl Iterator<Item = (AtomId, Vec<&'a Block>)>) -> Ranges {
    // Where networks begin, and where they are behind their end.
    let mut changes: BTreeMap<IpAddr, Vec<(AtomId, bool)>> = BTreeMap::new();
    for (id, blocks) in blocks {
        for (first, last) in merged(&blocks) {
            changes.entry(first).or_default().push((id, true));
            if let Some(behind) = next(last) {
                changes.entry(behind).or_default().push((id, false));
            }
        }
    }
    let mut ranges = Ranges::new();
    let mut shared = HashSet::new();
    let (mut inside, mut first) = (IdSet::default(), None);
    for (address, changes) in changes {
        let atoms = share(&mut shared, &inside);
        close(&mut ranges, first, previous(address), atoms);
        for (id, begins) in changes {
            match begins {
                true => inside.insert(id),
                false => inside.remove(id),
            }
        }
        first = Some(address);
    }
    // What has not ended has the last address of all.
    let last = first.map(|first: IpAddr| match first {
        IpAddr::V4(_) => IpAddr::from([0xff; 4]),
        IpAddr::V6(_) => IpAddr::from([0xff; 16]),
    });
    let atoms = share(&mut shared, &inside);
    close(&mut ranges, first, last, atoms);
    ranges
}

fn share(shared: &mut HashSet<Arc<IdSet>>, atoms: &IdSet) -> Arc<IdSet> {
    if let Some(atoms) = shared.get(atoms) {
        return atoms.clone();
    }
    let atoms = Arc::new(atoms.clone());
    shared.insert(atoms.clone());
    atoms
}

fn close(ranges: &mut Ranges, first: Option<IpAddr>, last: Option<IpAddr>, atoms: Arc<IdSet>) {
    if let (Some(first), Some(last), false) = (first, last, atoms.is_empty()) {
        ranges.insert(first, Range { last, atoms });
    }
}

/// The first and last addresses of what is in any of these networks; they never touch.
fn merged(blocks: &[&Block]) -> Vec<(IpAddr, IpAddr)> {
    let mut all: Vec<_> = blocks.iter().flat_map(|one| without_holes(one)).collect();
    all.sort_unstable();
    let mut merged: Vec<(IpAddr, IpAddr)> = Vec::new();
    for (first, last) in all {
        match merged.last_mut() {
            Some((_, end)) if next(*end).is_none_or(|behind| first <= behind) => {
                *end = last.max(*end);
            }
            _ => merged.push((first, last)),
        }
    }
    merged
}

/// The first and last addresses of what is left of a network without its holes; they never touch.
fn without_holes(block: &Block) -> Vec<(IpAddr, IpAddr)> {
    let mut holes: Vec<IpNetwork> = block.except.to_vec();
    holes.sort_unstable_by_key(IpNetwork::network);
    let (mut left, last) = (Vec::new(), block.network.broadcast());
    let mut first = Some(block.network.network());
    for hole in holes {
        let Some(from) = first.filter(|from| *from <= last) else {
            return left;
        };
        if hole.network() > last || hole.broadcast() < from {
            continue;
        }
        if let Some(before) = previous(hole.network()).filter(|before| *before >= from) {
            left.push((from, before));
        }
        first = next(hole.broadcast());
    }
    left.extend(first.filter(|from| *from <= last).map(|from| (from, last)));
    left
}

/// The range that an address is in.
pub fn find(ranges: &Ranges, address: IpAddr) -> Option<(&IpAddr, &Range)> {
    let range = ranges.range(..=address).next_back();
    range.filter(|(_, range)| range.last >= address)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn block(text: &str) -> Block {
        let mut networks = text.split_whitespace().map(|one| one.parse().unwrap());
        Block {
            network: networks.next().unwrap(),
            except: networks.collect(),
        }
    }

    fn shown(blocks: &[&str]) -> Vec<String> {
        let blocks: Vec<Block> = blocks.iter().map(|text| block(text)).collect();
        let numbered = blocks.iter().enumerate();
        let ranges = cut(numbered.map(|(number, block)| (number as AtomId, vec![block])));
        let ranges = ranges.iter();
        ranges
            .map(|(first, range)| {
                let atoms: Vec<_> = range.atoms.iter().collect();
                format!("{first}-{} {atoms:?}", range.last)
            })
            .collect()
    }

    #[test]
    fn overlapping_networks_and_their_holes_are_cut_where_something_changes() {
        assert_eq!(
            shown(&["10.0.0.0/8 10.1.0.0/16", "10.1.0.0/17"]),
            [
                "10.0.0.0-10.0.255.255 [0]",
                "10.1.0.0-10.1.127.255 [1]",
                "10.2.0.0-10.255.255.255 [0]",
            ]
        );
        assert_eq!(shown(&["0.0.0.0/0"]), ["0.0.0.0-255.255.255.255 [0]"]);
        assert_eq!(
            shown(&["::/0 ffff::/16"]),
            ["::-fffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff [0]"]
        );
        assert_eq!(
            shown(&["10.0.0.0/31", "10.0.0.2/31"]),
            ["10.0.0.0-10.0.0.1 [0]", "10.0.0.2-10.0.0.3 [1]"]
        );
        // A hole beside the network is none.
        assert_eq!(
            shown(&["10.0.0.0/24 11.0.0.0/24"]),
            ["10.0.0.0-10.0.0.255 [0]"]
        );
        assert_eq!(shown(&["10.0.0.0/24 10.0.0.0/23"]), [""; 0]);
    }

    fn networks() -> impl Strategy<Value = IpNetwork> {
        // Few addresses, so that networks meet; the last of all among them.
        (0_u32..16, 28_u8..=32).prop_map(|(host, prefix)| {
            let address = std::net::Ipv4Addr::from(0xffff_fff0 | host);
            crate::cidr::clean(IpNetwork::new(address.into(), prefix).unwrap())
        })
    }

    proptest! {
        #[test]
        fn every_address_is_in_the_range_that_says_which_networks_it_is_in(
            blocks in prop::collection::vec((networks(), prop::collection::vec(networks(), 0..3)), 0..8),
            lists in 1_usize..8,
        ) {
            let blocks: Vec<Block> = blocks
                .into_iter()
                .map(|(network, except)| Block { network, except: except.into() })
                .collect();
            // Every so many blocks are of one question.
            let list = |id: usize| {
                let list: Vec<&Block> = blocks.iter().skip(id).step_by(lists).collect();
                (id as AtomId, list)
            };
            let ranges = cut((0..lists).map(list));
            for host in 0_u32..=32 {
                let address = IpAddr::from(std::net::Ipv4Addr::from(0xffff_ffdf_u32 + host));
                let inside = (0..lists).map(list);
                let inside = inside.filter(|(_, all)| all.iter().any(|one| one.contains(address)));
                let inside: IdSet = inside.map(|(id, _)| id).collect();
                let found = find(&ranges, address).map(|(_, range)| (*range.atoms).clone());
                prop_assert_eq!(found.unwrap_or_default(), inside, "{}", address);
            }
        }
    }
}
