//! The part of a table that is always there: reading it, making it, and its sets of networks.

use ipnetwork::IpNetwork;
use podwire_kernel::nft::{Key, Set, Table};

use crate::config::services::{Config, NodePortAddresses};
use crate::features::services::desired::networks::Networks;
use crate::features::services::layout::sets::networks as names;
use crate::features::services::layout::skeleton::{Skeleton, skeleton};
use crate::features::services::table::encode::{Messages, Writer};
use crate::features::services::table::observed::same_chain;
use crate::features::services::table::state::View;

/// What the table is for, as `nft list` shows it.
pub const COMMENT: &str = "Kubernetes Services, by podwire-agent";

/// True if the kernel has everything that is always there, as it should be.
pub fn is_whole(table: &Table, wanted: &Skeleton) -> bool {
    let chain = |(name, chain): &(&str, podwire_kernel::nft::Chain)| {
        table
            .chains
            .get(name)
            .is_some_and(|there| same_chain(there, chain))
    };
    !table.dormant && has_sets(table, wanted) && wanted.chains.iter().all(chain)
}

/// True if one of the sets that are always there is there and declared in another way.
pub fn has_other_sets(table: &Table, wanted: &Skeleton) -> bool {
    let other = |(name, set): &(&str, Set)| {
        let there = table.sets.get(name);
        there.is_some_and(|there| !there.same_header(set))
    };
    wanted.sets.iter().any(other)
}

/// True if the kernel has all sets that are always there, declared as they should be.
pub fn has_sets(table: &Table, wanted: &Skeleton) -> bool {
    let set = |(name, set): &(&str, Set)| {
        table
            .sets
            .get(name)
            .is_some_and(|there| there.same_header(set))
    };
    wanted.sets.iter().all(set)
}

/// The skeleton of the writer's table.
pub fn skeleton_of(writer: &Writer, view: View<'_>) -> Skeleton {
    skeleton(writer.family(), view.config, view.logging)
}

/// Writes everything that is always there, without elements, in the order in which it is read.
pub fn create(messages: &mut Messages<'_>, skeleton: &Skeleton) {
    let comment = podwire_kernel::nft::Comment::new(COMMENT);
    let mut table = messages.table();
    table.add(comment.as_ref());
    for (name, set) in &skeleton.sets {
        table.add_set(name, set);
    }
    for (name, chain) in &skeleton.chains {
        table.add_chain(name, chain);
    }
    for (name, chain) in &skeleton.chains {
        for rule in &chain.rules {
            table.add_rule(name, rule);
        }
    }
}

/// The sets of networks with what they should hold.
pub fn network_sets<'a>(
    networks: &'a Networks,
    config: &Config,
) -> Vec<(&'static str, &'a [IpNetwork])> {
    let mut sets: Vec<(&str, &[IpNetwork])> = vec![
        (names::PODS, &networks.pods),
        (names::OWN_PODS, &networks.own_pods),
        (names::SERVICES, &networks.services),
    ];
    if config.node_port_addresses != NodePortAddresses::All {
        sets.push((names::NODE_PORTS, &networks.node_ports));
    }
    sets
}

/// Writes what differs between two states of the networks.
pub fn diff_networks(
    messages: &mut Messages<'_>,
    skeleton: &Skeleton,
    config: &Config,
    before: &Networks,
    after: &Networks,
) {
    let old = network_sets(before, config);
    let new = network_sets(after, config);
    for ((name, old), (_, new)) in old.into_iter().zip(new) {
        let Some((_, header)) = skeleton.sets.iter().find(|(set, _)| *set == name) else {
            continue;
        };
        for network in old.iter().filter(|network| !new.contains(network)) {
            let (first, last) = Key::interval(*network);
            messages
                .table()
                .elements(name, header)
                .delete(&first, last.as_deref());
        }
        for network in new.iter().filter(|network| !old.contains(network)) {
            let (first, last) = Key::interval(*network);
            messages.add_member(name, header, &first, last.as_deref());
        }
    }
}
