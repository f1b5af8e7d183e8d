//! Reading a table back and writing only what differs.
//!
//! For the start, for tables that somebody else touched, and after a failure. The Services are
//! written in batches; one that the kernel refuses is found by halving, so that it never keeps the
//! others out. Affinity lives in sets that are left alone.

use std::collections::BTreeSet;

use podwire_kernel::nft::{CommitError, ElementRef, NftSocket, Table, ValueRef, diff};

use crate::features::services::desired::endpoints::Family;
use crate::features::services::desired::frontends::{self, Claim};
use crate::features::services::desired::networks;
use crate::features::services::layout::elements::{Key, objects};
use crate::features::services::layout::names::Map;
use crate::features::services::layout::skeleton::{Skeleton, skeleton};
use crate::features::services::table::base;
use crate::features::services::table::encode::{Change, hairpin_key, kernel_family};
use crate::features::services::table::observed::{Found, Held, meaning, plain_member, plain_range};
use crate::features::services::table::repair::Fields;
use crate::features::services::table::state::{
    CHUNK, Commit, Done, Failed, FamilyTable, TableError, UdpChange, View,
};
use crate::ours::SERVICES_TABLE as TABLE;
use crate::snapshot::{ObjectName, Protocol};

/// How often the table is read again because somebody changes it meanwhile.
const ATTEMPTS: usize = 20;

/// So many Services are refused one by one before the whole counts as refused.
const SINGLES: usize = 32;

impl FamilyTable {
    /// Reads the table and writes what differs from what is wanted.
    pub(super) fn resync(
        &mut self,
        kernel: &mut dyn Commit,
        view: View<'_>,
        done: &mut Done,
    ) -> Result<(), TableError> {
        let family = kernel_family(self.family);
        let found = kernel.socket().observe_frame(family, TABLE)?;
        let names = view.snapshot.services.keys();
        if found.is_none() && !names.into_iter().any(|name| self.concerns(view, name)) {
            self.forget(0);
            self.absent = true;
            return Ok(());
        }
        let frame = self.repair_frame(kernel, found, view, done)?;
        let mut held = self.observe(kernel, frame)?;
        self.forget(view.snapshot.services.len());
        self.repair_networks(kernel, view, &mut held, done)?;
        let names: BTreeSet<ObjectName> = view.snapshot.services.keys().cloned().collect();
        self.reclaim(view, names);
        self.remove_old_sources(kernel, view, &mut held, done)?;
        let mut failures = 0;
        let mut chunk = Vec::new();
        let mut room = 0;
        for name in view.snapshot.services.keys() {
            done.looked_at.insert(name.clone());
            let Some(change) = self.difference(view, name, &mut held) else {
                continue;
            };
            room += change.delta.len();
            chunk.push(change);
            if room >= CHUNK {
                room = 0;
                self.write_or_isolate(kernel, std::mem::take(&mut chunk), done, &mut failures)?;
            }
        }
        self.write_or_isolate(kernel, chunk, done, &mut failures)?;
        // What a Service that was refused had before stays, with all that it leads to. When it is
        // accepted, or gone, the table is read again.
        if self.refused().is_empty() {
            self.note_old_answers(&mut held);
            self.note_leftovers(view, &held);
            self.remove_unclaimed(kernel, &held, done)?;
        }
        self.forget_batch();
        Ok(())
    }

    /// Makes everything that is always there, or mends it. Returns the table without elements.
    fn repair_frame(
        &mut self,
        kernel: &mut dyn Commit,
        found: Option<Table>,
        view: View<'_>,
        done: &mut Done,
    ) -> Result<Table, TableError> {
        let family = kernel_family(self.family);
        let wanted = skeleton(family, view.config);
        match found {
            Some(table) if base::is_whole(&table, &wanted) => return Ok(table),
            // Other settings, counters for one: the sets that belong to one Service are of the
            // old kind as well.
            Some(table) if base::has_other_sets(&table, &wanted) => {
                self.create_anew(kernel, view, done)?;
            }
            Some(table) => {
                let mut batch = diff(Some(&table), &mended(&table, wanted));
                done.batches += 1;
                if let Err(error) = kernel.commit(&mut batch) {
                    tracing::warn!(%error, "table {family} {TABLE} cannot be mended: made anew");
                    self.create_anew(kernel, view, done)?;
                }
            }
            None => {
                self.fresh_batch();
                self.create(kernel, view, done)?;
            }
        }
        Ok(kernel
            .socket()
            .observe_frame(family, TABLE)?
            .unwrap_or(Table::new(family, TABLE)))
    }

    fn create_anew(
        &mut self,
        kernel: &mut dyn Commit,
        view: View<'_>,
        done: &mut Done,
    ) -> Result<(), TableError> {
        let family = kernel_family(self.family);
        self.fresh_batch().table(family, TABLE).delete();
        self.create(kernel, view, done)
    }

    fn create(
        &mut self,
        kernel: &mut dyn Commit,
        view: View<'_>,
        done: &mut Done,
    ) -> Result<(), TableError> {
        let family = self.family;
        base::create(self.batch_mut(), family, view.config);
        self.commit_batch(kernel, done)
            .map_err(|error| self.failed(error))
    }

    fn observe(&self, kernel: &mut dyn Commit, frame: Table) -> Result<Held, TableError> {
        for _ in 1..ATTEMPTS {
            if let Ok(held) = Held::observe(kernel.socket(), self.family, frame.clone()) {
                return Ok(held);
            }
        }
        Ok(Held::observe(kernel.socket(), self.family, frame)?)
    }

    fn repair_networks(
        &mut self,
        kernel: &mut dyn Commit,
        view: View<'_>,
        held: &mut Held,
        done: &mut Done,
    ) -> Result<(), TableError> {
        let wanted = networks::desired(view.snapshot, view.own, view.config, self.family);
        let family = kernel_family(self.family);
        let headers = skeleton(family, view.config).sets;
        let mut missing = Vec::new();
        for (name, list) in base::network_sets(&wanted, view.config) {
            for network in list {
                let (first, last) = base::range(network);
                let meaning = last.map_or_else(plain_member, |last| plain_range(last.as_bytes()));
                if !held.claim_range(name, first.as_bytes(), meaning) {
                    missing.push((name, first, last));
                }
            }
        }
        // What is there and not wanted goes first: ranges must never overlap.
        let mut batch = std::mem::take(self.fresh_batch());
        for (name, header) in &headers {
            if base::network_sets(&wanted, view.config)
                .iter()
                .any(|(set, _)| *set == *name)
            {
                let socket = kernel.socket();
                let removed =
                    remove_unclaimed_of(&mut batch, socket, self.family, held, name, header)?;
                removed.iter().for_each(|key| held.forget(name, key));
            }
        }
        for (name, first, last) in &missing {
            let Some((_, header)) = headers.iter().find(|(set, _)| set == name) else {
                continue;
            };
            let mut table = batch.table(family, TABLE);
            let mut elements = table.elements(name, header);
            elements.add(&ElementRef {
                key: first.as_bytes(),
                key_end: last.as_ref().map(Key::as_bytes),
                value: ValueRef::None,
                timeout: None,
                comment: None,
            });
        }
        *self.batch_mut() = batch;
        self.commit_batch(kernel, done)
            .map_err(|error| self.failed(error))?;
        self.networks = wanted;
        Ok(())
    }

    /// Takes away source ranges that no Service has any longer. They go before others are added,
    /// which may overlap them, and whether or not those can be added: they let somebody in.
    fn remove_old_sources(
        &mut self,
        kernel: &mut dyn Commit,
        view: View<'_>,
        held: &mut Held,
        done: &mut Done,
    ) -> Result<(), TableError> {
        let set = Map::AllowedSources.fixed_name().unwrap_or_default();
        let Some(header) = held.frame.sets.get(set).cloned() else {
            return Ok(());
        };
        let restricted = |name: &&ObjectName| {
            let service = view.snapshot.services.get(*name);
            service.is_some_and(frontends::restricts_sources)
        };
        for name in view.snapshot.services.keys().filter(restricted) {
            let Some(plan) = self.plan(view, name) else {
                continue;
            };
            for element in objects(name, &plan).elements {
                if element.map == Map::AllowedSources {
                    held.claim_range(set, element.key.as_bytes(), meaning(name, &element));
                }
            }
        }
        let removed = self.remove_unclaimed_from(kernel, held, set, &header, done)?;
        removed.iter().for_each(|key| held.forget(set, key));
        Ok(())
    }

    /// What must be written for a Service, given what the kernel holds.
    fn difference(&mut self, view: View<'_>, name: &ObjectName, held: &mut Held) -> Option<Change> {
        let mut plan = self.plan(view, name)?;
        held.settle(name, &mut plan);
        let delta = held.diff(name, objects(name, &plan), &self.headers);
        for answer in &delta.answers_gained {
            if self.standing.answers.contains_key(answer) {
                continue;
            }
            match held.claim_answer(*answer) {
                Found::Right => _ = self.standing.answers.insert(*answer, 0),
                Found::Wrong => _ = self.standing.wrong_answers.insert(*answer),
                Found::Absent => {}
            }
        }
        let hairpin = Map::Hairpin.fixed_name().unwrap_or_default();
        for address in &delta.local_gained {
            let key = hairpin_key(*address);
            if held.claim(hairpin, key.as_bytes(), plain_member()) == Found::Right {
                self.standing.local.entry(*address).or_default();
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
        &mut self,
        kernel: &mut dyn Commit,
        changes: Vec<Change>,
        done: &mut Done,
        failures: &mut usize,
    ) -> Result<(), TableError> {
        let Err(Failed { error, mut changes }) = self.write(kernel, changes, done) else {
            *failures = 0;
            return Ok(());
        };
        if changes.len() <= 1 {
            *failures += 1;
            if *failures > SINGLES || changes.is_empty() {
                return Err(self.failed(error));
            }
            for change in changes {
                self.refuse(change.name, &error);
            }
            return Ok(());
        }
        let second = changes.split_off(changes.len() / 2);
        self.write_or_isolate(kernel, changes, done, failures)?;
        self.write_or_isolate(kernel, second, done, failures)
    }

    /// Answers that nobody gives any longer may still be on a packet's way.
    fn note_old_answers(&mut self, held: &mut Held) {
        for answer in std::mem::take(&mut held.answers) {
            let given = self.standing.answers.contains_key(&answer);
            if !given && held.find_answer(answer) == Found::Right {
                held.claim_answer(answer);
                self.standing.old_answers.insert(answer);
            }
        }
    }

    /// Chains and maps that nobody wants are deleted when the dust has settled.
    fn note_leftovers(&mut self, view: View<'_>, held: &Held) {
        let Skeleton { sets, chains } = skeleton(kernel_family(self.family), view.config);
        let fixed = |name: &str| {
            sets.iter().any(|(set, _)| *set == name) || chains.iter().any(|(c, _)| *c == name)
        };
        let leftover = |name: &&str| !fixed(name) && !held.wanted.contains(*name);
        let frame = &held.frame;
        self.standing
            .old_chains
            .extend(frame.chains.keys().filter(leftover).map(str::to_owned));
        self.standing
            .old_maps
            .extend(frame.sets.keys().filter(leftover).map(str::to_owned));
    }

    /// Deletes elements that nobody wants.
    fn remove_unclaimed(
        &mut self,
        kernel: &mut dyn Commit,
        held: &Held,
        done: &mut Done,
    ) -> Result<(), TableError> {
        if !held.has_unclaimed() {
            return Ok(());
        }
        for (name, header) in held.frame.sets.iter().filter(|(_, set)| !set.dynamic) {
            let removed = self.remove_unclaimed_from(kernel, held, name, header, done)?;
            // Services that went while nobody watched have clients as well.
            let claims = removed
                .iter()
                .filter_map(|key| udp_port(self.family, name, key));
            done.udp.extend(claims.map(|claim| UdpChange {
                claim,
                serving: Box::default(),
            }));
        }
        Ok(())
    }

    /// Deletes the elements of one set that nobody has claimed. Returns their keys.
    fn remove_unclaimed_from(
        &mut self,
        kernel: &mut dyn Commit,
        held: &Held,
        set: &str,
        header: &podwire_kernel::nft::Set,
        done: &mut Done,
    ) -> Result<Vec<Vec<u8>>, TableError> {
        let mut batch = std::mem::take(self.fresh_batch());
        let removed =
            remove_unclaimed_of(&mut batch, kernel.socket(), self.family, held, set, header)?;
        *self.batch_mut() = batch;
        self.commit_batch(kernel, done)
            .map_err(|error| self.failed(error))?;
        Ok(removed)
    }

    fn failed(&self, source: CommitError) -> TableError {
        let family = match self.family {
            Family::V4 => "ip",
            Family::V6 => "ip6",
        };
        TableError::Commit { family, source }
    }
}

/// Writes the deletion of all elements of a set that nobody has claimed. Returns their keys.
fn remove_unclaimed_of(
    batch: &mut podwire_kernel::nft::Batch,
    socket: &mut NftSocket,
    family: Family,
    held: &Held,
    name: &str,
    header: &podwire_kernel::nft::Set,
) -> Result<Vec<Vec<u8>>, TableError> {
    let family = kernel_family(family);
    let mut table = batch.table(family, TABLE);
    let mut elements = table.elements(name, header);
    let mut removed = Vec::new();
    socket.each_element(family, TABLE, name, header, |key, element| {
        if held.is_stale(name, &key) {
            elements.delete(&key, element.key_end.as_deref());
            removed.push(key.to_vec());
        }
    })?;
    Ok(removed)
}

/// The UDP port that a portal's element is about.
fn udp_port(family: Family, set: &str, key: &[u8]) -> Option<Claim> {
    let mut fields = Fields(key);
    let is = |map: Map| map.fixed_name() == Some(set);
    let address = match () {
        () if is(Map::Services) => Some(fields.address(family)?),
        () if is(Map::NodePorts) => None,
        () => return None,
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
fn mended(table: &Table, wanted: Skeleton) -> Table {
    let mut mended = table.clone();
    for (name, set) in wanted.sets {
        mended.sets.insert(name, set);
    }
    for (name, chain) in wanted.chains {
        mended.chains.insert(name, chain);
    }
    mended
}
