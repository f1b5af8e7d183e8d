//! Reading a table back and writing only what differs.
//!
//! For the start, for tables that another process touched, and after a failure. The Services are
//! written in batches; one that the kernel refuses is found by halving, so that it never keeps the
//! others out. Affinity lives in sets that are left alone.

use podwire_kernel::IpFamily;
use podwire_kernel::netlink::until_undisturbed;
use podwire_kernel::nft::{Key, KeyReader, Set, Table, diff_into};

use crate::features::services::desired::frontends::{self, Claim};
use crate::features::services::layout::elements::objects;
use crate::features::services::layout::names::{FixedMap, Map};
use crate::features::services::layout::skeleton::Skeleton;
use crate::features::services::table::base;
use crate::features::services::table::delta::Change;
use crate::features::services::table::encode::{Messages, Writer, hairpin_key};
use crate::features::services::table::nftables::{Nftables, TableError};
use crate::features::services::table::observed::{
    Found, Observed, meaning, plain_member, plain_range,
};
use crate::features::services::table::state::{Applied, Done, UdpChange, View};
use crate::features::services::table::write::{CHUNK, Failed, write};
use crate::ours::SERVICES_TABLE as TABLE;
use crate::snapshot::{ObjectName, Protocol};

/// When this many Services are refused one by one, the whole counts as refused.
const SINGLES: usize = 32;

/// Reads the table and writes what differs from what is wanted. False if there is no table and none
/// is needed.
pub fn full_sync(
    applied: &mut Applied,
    writer: &mut Writer,
    kernel: &mut dyn Nftables,
    view: View<'_>,
    done: &mut Done,
) -> Result<bool, TableError> {
    let found = kernel.frame(writer.family())?;
    let services = &view.snapshot.services;
    if found.is_none() && !services.keys().any(|name| applied.concerns(view, name)) {
        applied.forget(0);
        return Ok(false);
    }
    let skeleton = base::skeleton_of(writer, view);
    let frame = repair_frame(writer, kernel, found, &skeleton)?;
    let mut observed = observe(applied.family(), kernel, frame)?;
    applied.forget(services.len());
    repair_networks(applied, writer, kernel, view, &skeleton, &mut observed)?;
    applied.reclaim_all(view, |name, port, front| {
        observed.has_front(name, port, front)
    });
    remove_old_sources(applied, writer, kernel, view, &mut observed)?;
    write_services(applied, writer, kernel, view, &mut observed, done)?;
    // What a Service that was refused had before stays, with all that it leads to. When it is
    // accepted, or gone, the table is read again.
    if applied.refused().is_empty() {
        note_old_answers(applied, &mut observed);
        note_leftovers(applied, &skeleton, &observed);
        remove_unclaimed(applied.family(), writer, kernel, &observed, done)?;
    }
    writer.shrink();
    Ok(true)
}

/// Writes what differs in all Services.
fn write_services(
    applied: &mut Applied,
    writer: &mut Writer,
    kernel: &mut dyn Nftables,
    view: View<'_>,
    observed: &mut Observed,
    done: &mut Done,
) -> Result<(), TableError> {
    let mut failures = 0;
    let mut chunk = Vec::new();
    let mut room = 0;
    for name in view.snapshot.services.keys() {
        done.looked_at.insert(name.clone());
        let Some(change) = difference(applied, writer, view, name, observed) else {
            continue;
        };
        room += change.delta.len();
        chunk.push(change);
        if room >= CHUNK {
            room = 0;
            let chunk = std::mem::take(&mut chunk);
            write_or_isolate(applied, writer, kernel, chunk, done, &mut failures)?;
        }
    }
    write_or_isolate(applied, writer, kernel, chunk, done, &mut failures)
}

/// Makes everything that is always there, or repairs it. Returns the table without elements.
fn repair_frame(
    writer: &mut Writer,
    kernel: &mut dyn Nftables,
    found: Option<Table>,
    skeleton: &Skeleton,
) -> Result<Table, TableError> {
    let family = writer.family();
    match found {
        Some(table) if base::is_whole(&table, skeleton) => return Ok(table),
        // Other settings, counters for one: the sets that belong to one Service are of the
        // old kind as well.
        Some(table) if base::has_other_sets(&table, skeleton) => {
            recreate(writer, kernel, skeleton)?;
        }
        Some(table) => {
            let wanted = repaired(&table, skeleton);
            diff_into(writer.begin().batch, Some(&table), &wanted);
            match writer.commit(kernel) {
                Ok(()) => writer.repairs.is_over(),
                Err(error) => {
                    let error = crate::error::chain(&error);
                    if writer.repairs.is_news(&error) {
                        tracing::warn!(
                            "{error}; table {family} {TABLE} cannot be repaired; recreating it"
                        );
                    }
                    recreate(writer, kernel, skeleton)?;
                }
            }
        }
        None => {
            base::create(&mut writer.begin(), skeleton);
            writer.commit(kernel)?;
        }
    }
    Ok(kernel.frame(family)?.unwrap_or(Table::new(family, TABLE)))
}

fn recreate(
    writer: &mut Writer,
    kernel: &mut dyn Nftables,
    skeleton: &Skeleton,
) -> Result<(), TableError> {
    let mut messages = writer.begin();
    messages.table().delete();
    base::create(&mut messages, skeleton);
    writer.commit(kernel)
}

fn observe(
    family: IpFamily,
    kernel: &mut dyn Nftables,
    frame: Table,
) -> Result<Observed, TableError> {
    let read = || Observed::read(kernel, family, frame.clone());
    // A set that was listed may be gone when its elements are asked for.
    let is_disturbed = |error: &podwire_kernel::Error| {
        error.cause == podwire_kernel::Cause::Unstable || error.is_not_found()
    };
    Ok(until_undisturbed(read, is_disturbed)?)
}

fn repair_networks(
    applied: &mut Applied,
    writer: &mut Writer,
    kernel: &mut dyn Nftables,
    view: View<'_>,
    skeleton: &Skeleton,
    observed: &mut Observed,
) -> Result<(), TableError> {
    let wanted = view.networks(applied.family());
    let lists = base::network_sets(&wanted, view.config);
    let header = |name: &str| {
        let sets = &mut skeleton.sets.iter();
        sets.find(|(set, _)| *set == name).map(|(_, header)| header)
    };
    let mut missing = Vec::new();
    for (name, list) in &lists {
        for network in *list {
            let (first, last) = Key::interval(*network);
            let meaning = last.as_deref().map_or_else(plain_member, plain_range);
            if !observed.claim_range(name, &first, meaning) {
                missing.push((*name, first, last));
            }
        }
    }
    // What is there and not wanted goes first: ranges must never overlap.
    let mut messages = writer.begin();
    for (name, _) in &lists {
        if let Some(header) = header(name) {
            let removed = delete_unclaimed(&mut messages, kernel, observed, name, header)?;
            removed.iter().for_each(|key| observed.forget(name, key));
        }
    }
    for (name, first, last) in &missing {
        if let Some(header) = header(name) {
            messages.add_member(name, header, first, last.as_deref());
        }
    }
    writer.commit(kernel)?;
    applied.networks = wanted;
    Ok(())
}

/// Takes away source ranges that no Service has any longer. They go before others are added,
/// which may overlap them, and whether or not those can be added: they let someone in.
fn remove_old_sources(
    applied: &Applied,
    writer: &mut Writer,
    kernel: &mut dyn Nftables,
    view: View<'_>,
    observed: &mut Observed,
) -> Result<(), TableError> {
    let set = FixedMap::AllowedSources.name();
    let Some(header) = observed.frame.sets.get(set).cloned() else {
        return Ok(());
    };
    let services = &view.snapshot.services;
    let restricted = services
        .values()
        .filter(|one| frontends::restricts_sources(one));
    for name in restricted.map(|service| &service.name) {
        let Some(plan) = applied.wanted(view, name) else {
            continue;
        };
        for element in objects(name, &plan).elements {
            if element.map == Map::Fixed(FixedMap::AllowedSources) {
                observed.claim_range(set, element.key.as_bytes(), meaning(name, &element));
            }
        }
    }
    let removed = remove_unclaimed_of(writer, kernel, observed, set, &header)?;
    removed.iter().for_each(|key| observed.forget(set, key));
    Ok(())
}

/// What must be written for a Service, given what the kernel holds.
fn difference(
    applied: &mut Applied,
    writer: &Writer,
    view: View<'_>,
    name: &ObjectName,
    observed: &mut Observed,
) -> Option<Change> {
    let mut plan = applied.wanted(view, name)?;
    observed.settle(name, &mut plan);
    let delta = observed.diff(name, objects(name, &plan), writer.headers());
    let standing = &mut applied.standing;
    for answer in &delta.answers_gained {
        if standing.answers.contains_key(answer) {
            continue;
        }
        match observed.claim_answer(*answer) {
            Found::Right => _ = standing.answers.insert(*answer, 0),
            Found::Wrong => _ = standing.wrong_answers.insert(*answer),
            Found::Absent => {}
        }
    }
    let hairpin = FixedMap::Hairpin.name();
    for address in &delta.local_gained {
        let key = hairpin_key(*address);
        if observed.claim(hairpin, key.as_bytes(), plain_member()) == Found::Right {
            standing.local.entry(*address).or_default();
        }
    }
    Some(Change {
        name: name.clone(),
        delta,
        plan: Some(plan),
    })
}

/// Writes Services; if the kernel refuses the batch, finds those that it refuses.
fn write_or_isolate(
    applied: &mut Applied,
    writer: &mut Writer,
    kernel: &mut dyn Nftables,
    changes: Vec<Change>,
    done: &mut Done,
    failures: &mut usize,
) -> Result<(), TableError> {
    let Err(Failed { error, mut changes }) = write(applied, writer, kernel, changes, done) else {
        *failures = 0;
        return Ok(());
    };
    if changes.len() <= 1 {
        *failures += 1;
        if *failures > SINGLES || changes.is_empty() {
            return Err(writer.failed(error));
        }
        for change in changes {
            applied.refuse(change.name, &error);
        }
        return Ok(());
    }
    let second = changes.split_off(changes.len() / 2);
    write_or_isolate(applied, writer, kernel, changes, done, failures)?;
    write_or_isolate(applied, writer, kernel, second, done, failures)
}

/// Answers that no Service gives any longer may still be on a packet's way.
fn note_old_answers(applied: &mut Applied, observed: &mut Observed) {
    let standing = &mut applied.standing;
    for answer in std::mem::take(&mut observed.answers) {
        let given = standing.answers.contains_key(&answer);
        if !given && observed.find_answer(answer) == Found::Right {
            observed.claim_answer(answer);
            standing.old_answers.insert(answer);
        }
    }
}

/// Chains and maps that are not wanted are deleted a moment later, with those of this sync.
fn note_leftovers(applied: &mut Applied, skeleton: &Skeleton, observed: &Observed) {
    let Skeleton { sets, chains } = skeleton;
    let fixed = |name: &str| {
        sets.iter().any(|(set, _)| *set == name) || chains.iter().any(|(c, _)| *c == name)
    };
    let leftover = |name: &&str| !fixed(name) && !observed.wanted.contains(*name);
    let frame = &observed.frame;
    let standing = &mut applied.standing;
    (standing.old_chains).extend(frame.chains.keys().filter(leftover).map(str::to_owned));
    (standing.old_maps).extend(frame.sets.keys().filter(leftover).map(str::to_owned));
}

/// Deletes elements that are not wanted.
fn remove_unclaimed(
    family: IpFamily,
    writer: &mut Writer,
    kernel: &mut dyn Nftables,
    observed: &Observed,
    done: &mut Done,
) -> Result<(), TableError> {
    if !observed.has_unclaimed() {
        return Ok(());
    }
    for (name, header) in observed.frame.sets.iter().filter(|(_, set)| !set.dynamic) {
        let removed = remove_unclaimed_of(writer, kernel, observed, name, header)?;
        // Services that went while no agent watched have clients as well.
        let claims = removed.iter().filter_map(|key| udp_port(family, name, key));
        done.udp.extend(claims.map(|claim| UdpChange {
            claim,
            serving: Box::default(),
        }));
    }
    Ok(())
}

/// Deletes the elements of one set that were not claimed. Returns their keys.
fn remove_unclaimed_of(
    writer: &mut Writer,
    kernel: &mut dyn Nftables,
    observed: &Observed,
    set: &str,
    header: &Set,
) -> Result<Vec<Vec<u8>>, TableError> {
    let removed = delete_unclaimed(&mut writer.begin(), kernel, observed, set, header)?;
    writer.commit(kernel)?;
    Ok(removed)
}

/// Writes the deletion of all elements of a set that were not claimed. Returns their keys.
fn delete_unclaimed(
    messages: &mut Messages<'_>,
    kernel: &mut dyn Nftables,
    observed: &Observed,
    name: &str,
    header: &Set,
) -> Result<Vec<Vec<u8>>, TableError> {
    let family = messages.family();
    let mut table = messages.table();
    let mut elements = table.elements(name, header);
    let mut removed = Vec::new();
    kernel.elements(family, name, header, &mut |key, element| {
        if observed.is_stale(name, &key) {
            elements.delete(&key, element.key_end.as_deref());
            removed.push(key.to_vec());
        }
    })?;
    Ok(removed)
}

/// The UDP port that a portal's element is about.
fn udp_port(family: IpFamily, set: &str, key: &[u8]) -> Option<Claim> {
    let mut fields = KeyReader::new(key);
    let address = match FixedMap::of_name(set)? {
        FixedMap::Services => Some(fields.address(family)?),
        FixedMap::NodePorts => None,
        _ => return None,
    };
    let protocol = fields
        .protocol()
        .filter(|protocol| *protocol == Protocol::Udp)?;
    let port = fields.port()?;
    Some(match address {
        Some(address) => Claim::Vip(address, protocol, port),
        None => Claim::NodePort(protocol, port),
    })
}

/// The table with everything that is always there as it should be, and the rest as it is.
fn repaired(table: &Table, wanted: &Skeleton) -> Table {
    let mut repaired = table.clone();
    repaired.dormant = false;
    for (name, set) in &wanted.sets {
        repaired.sets.insert(*name, set.clone());
    }
    for (name, chain) in &wanted.chains {
        repaired.chains.insert(*name, chain.clone());
    }
    repaired
}
