//! What can be done with the leases of one network while its lock is held.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_gettime};

use super::directory::{Directory, Prepared};
use super::file::Holder;
use super::pool::{Broken, Pool, Queue, free, spell};
use super::state::{State, StateFile};
use super::{Lease, Owner, StoreError, address_of, index, list};
use crate::files::cannot_be_written;
use crate::range::RangeSet;

/// How many owners are remembered that have no lease any more: those of a node's pods that go at
/// once, before the runtime repeats its DEL.
const MOST_RELEASED: usize = 64;

/// What the index is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Index {
    /// It has every lease.
    Complete,
    /// It may lack some.
    Stale,
    /// It cannot be written, on a full disk or in a directory that may not be changed: then all leases
    /// are read, as host-local does.
    Unusable,
}

/// When the machine started, by its clock as it is now.
fn started() -> SystemTime {
    let running = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from);
    SystemTime::now()
        .checked_sub(running)
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

/// The leases of an owner.
#[derive(Debug)]
struct Theirs {
    /// The owner as the index has it: of leases in the old format without an interface.
    owner: Owner,
    addresses: Vec<IpAddr>,
}

/// Addresses with the names of the index entries that have them.
type Entries = Vec<(IpAddr, String)>;

/// The leases of one network, locked as long as this value lives.
///
/// A value that is dropped without [`Store::finish`] leaves the leases right and the index out of
/// date, so that the next one makes it again.
#[derive(Debug)]
pub struct Store {
    directory: Directory,
    file: Option<StateFile>,
    pools: Vec<Pool>,
    index: Index,
    /// Hashes of the owners whose leases were released last, and who got none since.
    released: Vec<u64>,
    /// Whether all leases have been read to make the index, by this value.
    rebuilt: bool,
    /// Whether the index was written since the machine started; `None` if that cannot be known.
    same_boot: Option<bool>,
    /// Whether the state on disk is not that of the directory any more.
    changed: bool,
}

impl Store {
    /// Opens the lease directory at `path` and waits for its lock; `None` if there is none.
    pub fn open(path: &Path) -> Result<Option<Self>, StoreError> {
        match Directory::open(path)? {
            Some(directory) => Self::of(directory).map(Some),
            None => Ok(None),
        }
    }

    /// Opens the lease directory at `path` unless another process has its lock; `None` if so, or if
    /// there is none.
    pub fn try_open(path: &Path) -> Result<Option<Self>, StoreError> {
        match Directory::try_open(path)? {
            Some(directory) => Self::of(directory).map(Some),
            None => Ok(None),
        }
    }

    /// As [`Store::open`], and makes the directory if there is none.
    pub fn create(path: &Path) -> Result<Self, StoreError> {
        Self::of(Directory::create(path)?)
    }

    fn of(directory: Directory) -> Result<Self, StoreError> {
        let file = StateFile::open(&directory);
        let state = file.as_ref().and_then(StateFile::read);
        let stamp = directory.stamp()?;
        // On tmpfs, whose stamps have 0 for the boot, nothing is older.
        let same_boot = state.as_ref().map(|state| state.stamp.boot == stamp.boot);
        let state = state.filter(|state| state.stamp == stamp);
        let index = if state.is_some() {
            Index::Complete
        } else {
            Index::Stale
        };
        let (pools, released) = state.map_or_else(Default::default, |state| {
            let State {
                pools, released, ..
            } = state;
            (pools, released)
        });
        Ok(Self {
            directory,
            file,
            pools,
            index,
            released,
            rebuilt: false,
            same_boot,
            changed: false,
        })
    }

    /// Writes down that the index is up to date, and gives the lock back.
    pub fn finish(self) {
        let Some(file) = self
            .file
            .filter(|_| self.changed && self.index == Index::Complete)
        else {
            return;
        };
        if let Ok(stamp) = self.directory.stamp() {
            file.write(&State {
                stamp,
                released: self.released,
                pools: self.pools,
            });
        }
    }

    /// The addresses that [`Store::release`] would release. That there are none is remembered, so that the
    /// release which follows need not read all leases again.
    pub fn addresses_of(&mut self, owner: &Owner) -> Result<Vec<IpAddr>, StoreError> {
        let addresses = self.find(owner)?.addresses;
        if addresses.is_empty() {
            self.remember(owner);
        }
        Ok(addresses)
    }

    /// The addresses that the index has for `owner`, in leases of both formats.
    pub fn indexed_addresses_of(&mut self, owner: &Owner) -> Result<Vec<IpAddr>, StoreError> {
        self.ensure_index()?;
        let theirs = self.leases_of(owner)?;
        if self.is_written_over(owner, &theirs)? {
            self.remake_index()?;
        }
        let mut addresses = self.leases_of(owner)?;
        addresses.extend(self.leases_of(&owner.in_old_format())?);
        Ok(addresses)
    }

    /// Leases `address` of range set number `set` to `owner`; `false` if it is leased already.
    pub fn take(&mut self, owner: &Owner, address: IpAddr, set: usize) -> Result<bool, StoreError> {
        self.ensure_index()?;
        let prepared = self.directory.prepare(owner)?;
        let taken = self.publish(&prepared, owner, address);
        self.directory.discard(prepared);
        if taken == Ok(true) {
            self.note_last(set, address);
        }
        taken
    }

    /// Leases the address of `sets[set]` that has been free for longest to `owner`; `None` if none
    /// is free.
    pub fn take_free(
        &mut self,
        owner: &Owner,
        sets: &[RangeSet],
        set: usize,
    ) -> Result<Option<IpAddr>, StoreError> {
        self.ensure_pools(sets)?;
        let prepared = self.directory.prepare(owner)?;
        let taken = self.publish_next(&prepared, owner, sets, set);
        self.directory.discard(prepared);
        if let Ok(Some(address)) = taken {
            self.note_last(set, address);
        }
        taken
    }

    /// Whether anything is leased to `owner`, in leases of either format.
    pub fn has_lease(&mut self, owner: &Owner) -> Result<bool, StoreError> {
        Ok(!self.indexed_addresses_of(owner)?.is_empty() || self.has_unindexed(owner)?)
    }

    /// Releases what is leased to `owner`, and returns the addresses; goes on after a failure. Leases
    /// of the old format are released if there are no others, as host-local does.
    pub fn release(&mut self, owner: &Owner) -> Result<Vec<IpAddr>, StoreError> {
        let found = self.find(owner)?;
        let mut released = self.release_all(&found.owner, &found.addresses);
        if found.owner != *owner {
            // Entries without a lease may be left of the other format.
            released = released.and(self.release_all(owner, &[]));
        }
        released?;
        self.remember(owner);
        Ok(found.addresses)
    }

    /// Whether `lease` is still there as it was.
    pub fn is_there(&self, lease: &Lease) -> Result<bool, StoreError> {
        Ok(self.directory.lease(lease.address)?.as_ref() == Some(lease))
    }

    /// Releases `lease` if it is still there as it was; says whether it was.
    pub fn release_lease(&mut self, lease: &Lease) -> Result<bool, StoreError> {
        self.ensure_index()?;
        if !self.is_there(lease)? {
            return Ok(false);
        }
        let indexed = index::addresses(&self.directory, &lease.owner).contains(&lease.address);
        let mut others = self.leases_of(&lease.owner)?;
        others.retain(|address| *address != lease.address);
        self.remove_lease(lease.address)?;
        let renumbered = self.renumber(&lease.owner, others);
        // Without an entry it was written over in place, and one of another owner leads to it.
        if (renumbered.is_err() || !indexed) && self.index == Index::Complete {
            self.index = Index::Stale;
        }
        renumbered.map(|_| true)
    }

    /// Makes the entries of an owner's leases again, which are numbered; says how many there were.
    fn renumber(&self, owner: &Owner, leases: Vec<IpAddr>) -> Result<usize, StoreError> {
        let count = index::remove_all(&self.directory, owner)?;
        for address in leases {
            index::add(&self.directory, owner, address)?;
        }
        Ok(count)
    }

    /// Takes one address away from `owner` again, after a later step failed.
    pub fn give_back(&mut self, owner: &Owner, address: IpAddr) -> Result<(), StoreError> {
        match self.directory.lease(address)? {
            Some(lease) if lease.owner == *owner => self.release_lease(&lease).map(drop),
            _ => Ok(()),
        }
    }

    /// Brings the index up to date. That also removes what a killed call left in it.
    pub fn refresh(&mut self) -> Result<(), StoreError> {
        self.ensure_index()
    }

    /// All leases.
    pub fn leases(&self) -> Result<Vec<Lease>, StoreError> {
        list(self.directory.path())
    }

    /// Makes the index again if it may be out of date, from all leases.
    fn ensure_index(&mut self) -> Result<(), StoreError> {
        if self.index != Index::Stale {
            return Ok(());
        }
        self.changed = true;
        self.rebuilt = true;
        self.pools.clear();
        self.index = match self.rebuild_index() {
            Ok(()) => Index::Complete,
            Err(error) if cannot_be_written(error.errno) => Index::Unusable,
            Err(error) => return Err(error),
        };
        Ok(())
    }

    fn rebuild_index(&mut self) -> Result<(), StoreError> {
        let (addresses, entries) = self.tidy_names()?;
        for address in addresses {
            match self.directory.look(address)?.map(|found| found.holder) {
                Some(Holder::Owner(owner)) => {
                    index::add(&self.directory, &owner, address)?;
                }
                // What a crash leaves, unless someone emptied it in place: then it is still whose it was.
                // We hold the lock, so no process is about to write it. Where it cannot be removed, its
                // address alone is lost.
                Some(Holder::NoOne) => match entries.iter().find(|(of, _)| *of == address) {
                    Some((_, entry)) => index::close_up(&self.directory, entry, address)?,
                    None => _ = self.directory.remove(&address.to_string()),
                },
                // Taken, as long as it is there.
                Some(Holder::Unknown(_)) | None => {}
            }
        }
        Ok(())
    }

    /// Makes sure that the queues are those of `sets`.
    fn ensure_pools(&mut self, sets: &[RangeSet]) -> Result<(), StoreError> {
        self.ensure_index()?;
        let known = self.pools.iter().map(|pool| &pool.ranges);
        if known.eq(sets.iter().map(spell).collect::<Vec<_>>().iter()) {
            return Ok(());
        }
        self.rebuild_pools(sets)
    }

    /// Fills the queues from what is leased now.
    fn rebuild_pools(&mut self, sets: &[RangeSet]) -> Result<(), StoreError> {
        self.changed = true;
        let mut leased = BTreeSet::new();
        self.directory
            .names(|name| leased.extend(address_of(name)))?;
        let leased = Vec::from_iter(leased);
        self.pools = sets.iter().map(Pool::new).collect();
        for (number, set) in sets.iter().enumerate() {
            let runs = free(set, &leased, self.last(number));
            if self.queue(number).fill(&runs).is_err() {
                // No room for the file: the first run is kept at least.
                let first = runs.first().copied();
                self.pools[number].front = first;
            }
        }
        Ok(())
    }

    /// Removes the index entries, but for those of leases that were emptied in place, and gives every lease
    /// the usual spelling of its address for a name; returns the addresses, and the entries that stay.
    fn tidy_names(&mut self) -> Result<(BTreeSet<IpAddr>, Entries), StoreError> {
        let (mut addresses, mut entries) = (BTreeSet::new(), Vec::new());
        let mut others = Vec::new();
        let mut result = Ok(());
        self.directory.names(|name| {
            if let Some(address) = address_of(name) {
                addresses.insert(address);
                if name != address.to_string() {
                    others.push((name.to_owned(), address));
                }
            } else if index::is_entry(name) && result.is_ok() {
                match index::address(&self.directory, name) {
                    Some(address) if self.was_emptied(address) => {
                        entries.push((address, name.to_owned()));
                    }
                    _ => result = self.directory.remove(name).map(drop),
                }
            }
        })?;
        for (name, address) in others {
            if !self.directory.respell(&name, address) {
                // No state is written, so that the next call tries it again.
                self.file = None;
            }
        }
        result.map(|()| (addresses, entries))
    }

    /// Whether the lease of this address says nothing, and does so since the machine started: no crash
    /// left it so.
    fn was_emptied(&self, address: IpAddr) -> bool {
        let found = self.directory.look(address).ok().flatten();
        found.is_some_and(|found| {
            let is_of_this_boot = || self.same_boot.unwrap_or_else(|| found.since >= started());
            found.holder == Holder::NoOne && is_of_this_boot()
        })
    }

    /// Gives the next free address to a prepared lease.
    fn publish_next(
        &mut self,
        prepared: &Prepared,
        owner: &Owner,
        sets: &[RangeSet],
        set: usize,
    ) -> Result<Option<IpAddr>, StoreError> {
        let mut looked_again = false;
        loop {
            match self.queue(set).peek() {
                Ok(Some(address)) => {
                    let published = self.publish(prepared, owner, address)?;
                    self.queue(set).advance();
                    if published {
                        return Ok(Some(address));
                    }
                }
                Ok(None) | Err(Broken) if looked_again => return Ok(None),
                Ok(None) | Err(Broken) => {
                    looked_again = true;
                    self.rebuild_pools(sets)?;
                }
            }
        }
    }

    /// Gives a prepared lease its address. The index entry comes first, so that every lease of
    /// ours has one, even if we are killed in between.
    fn publish(
        &mut self,
        prepared: &Prepared,
        owner: &Owner,
        address: IpAddr,
    ) -> Result<bool, StoreError> {
        self.changed = true;
        let number = index::add(&self.directory, owner, address)?;
        let published = self.directory.publish(prepared, address);
        if published == Ok(true) {
            let hash = owner.hash();
            self.released.retain(|released| *released != hash);
        } else {
            index::remove(&self.directory, owner, number)?;
        }
        published
    }

    /// The leases that the index has for exactly this owner, if they are this container's: one that
    /// was written over in the old format does not say whose of its interfaces it is, and one that was
    /// emptied in place says nothing, but the index does. Entries without a lease are left over from a
    /// call that was killed.
    fn leases_of(&self, owner: &Owner) -> Result<Vec<IpAddr>, StoreError> {
        if self.index == Index::Unusable {
            let leases = self.leases()?.into_iter();
            let theirs = leases.filter(|lease| lease.owner == *owner);
            return Ok(theirs.map(|lease| lease.address).collect());
        }
        let mut leases = Vec::new();
        for address in index::addresses(&self.directory, owner) {
            let theirs = match self.directory.look(address)?.map(|found| found.holder) {
                Some(Holder::Owner(one)) => one == *owner || one == owner.in_old_format(),
                Some(Holder::NoOne) => true,
                Some(Holder::Unknown(_)) | None => false,
            };
            if theirs && !leases.contains(&address) {
                leases.push(address);
            }
        }
        Ok(leases)
    }

    /// What is leased to `owner`.
    ///
    /// The files decide. The index shows the way to them, and does not see one that was written
    /// over in place; so if it knows of none, all are read, unless this owner's were released not
    /// long ago: runtimes repeat their DEL.
    fn find(&mut self, owner: &Owner) -> Result<Theirs, StoreError> {
        self.ensure_index()?;
        let found = self.find_indexed(owner)?;
        let known = self.rebuilt || self.released.contains(&owner.hash());
        let sure = known || self.index == Index::Unusable || !found.addresses.is_empty();
        if sure || !self.has_unindexed(owner)? {
            return Ok(found);
        }
        self.remake_index()?;
        self.find_indexed(owner)
    }

    /// What the index knows of `owner`, in the old format if there is nothing in the new one.
    fn find_indexed(&self, owner: &Owner) -> Result<Theirs, StoreError> {
        let mut owner = owner.clone();
        let mut addresses = self.leases_of(&owner)?;
        if addresses.is_empty() && owner.ifname.is_some() {
            owner = owner.in_old_format();
            addresses = self.leases_of(&owner)?;
        }
        Ok(Theirs { owner, addresses })
    }

    /// Whether any file says that it is a lease of `owner`, in either format.
    fn has_unindexed(&self, owner: &Owner) -> Result<bool, StoreError> {
        let old = owner.in_old_format();
        let leases = self.leases()?;
        let mut owners = leases.iter().map(|lease| &lease.owner);
        Ok(owners.any(|one| one == owner || *one == old))
    }

    /// Releases these leases of exactly this owner, which are all that the index knows; goes on after
    /// a failure.
    fn release_all(&mut self, owner: &Owner, leases: &[IpAddr]) -> Result<(), StoreError> {
        let mut kept = Vec::new();
        let mut removed = Ok(());
        for address in leases {
            let outcome = self.remove_lease(*address);
            if outcome.is_err() {
                kept.push(*address);
            }
            removed = removed.and(outcome);
        }
        removed.and(self.keep_entries(owner, kept))
    }

    /// Removes all index entries of exactly this owner but those of `leases`, which it still has.
    fn keep_entries(&mut self, owner: &Owner, leases: Vec<IpAddr>) -> Result<(), StoreError> {
        let is_written_over = self.is_written_over(owner, &leases)?;
        if self.renumber(owner, leases)? > 0 {
            self.changed = true;
        }
        match is_written_over {
            true => self.remake_index(),
            false => Ok(()),
        }
    }

    /// Whether a lease that was this owner's, who has these, is another's by now: it was written over in
    /// place, and who has it lacks an entry.
    fn is_written_over(&self, owner: &Owner, leases: &[IpAddr]) -> Result<bool, StoreError> {
        let mut found = false;
        for address in index::addresses(&self.directory, owner) {
            found |= !leases.contains(&address) && self.directory.lease(address)?.is_some();
        }
        Ok(found && self.index == Index::Complete)
    }

    fn remake_index(&mut self) -> Result<(), StoreError> {
        self.index = Index::Stale;
        self.ensure_index()
    }

    /// Notes that `owner` has no lease any more.
    fn remember(&mut self, owner: &Owner) {
        let hash = owner.hash();
        if !self.released.contains(&hash) {
            let first = (self.released.len() + 1).saturating_sub(MOST_RELEASED);
            self.released.drain(..first);
            self.released.push(hash);
            self.changed = true;
        }
    }

    /// Removes the lease of `address` and puts the address at the end of its queue.
    fn remove_lease(&mut self, address: IpAddr) -> Result<(), StoreError> {
        self.changed = true;
        self.directory.remove(&address.to_string())?;
        let position = self.pools.iter().position(|pool| pool.contains(address));
        if let Some(number) = position
            && self.queue(number).push(address).is_err()
        {
            // A queue that lacks an address is filled again when it has run dry.
            self.pools[number].ranges.clear();
        }
        Ok(())
    }

    fn queue(&mut self, set: usize) -> Queue<'_> {
        Queue::new(&mut self.pools[set], &self.directory, set)
    }

    /// The address of range set number `set` that was leased last.
    fn last(&self, set: usize) -> Option<IpAddr> {
        let content = self.directory.read(&last_name(set), 64).ok()?;
        std::str::from_utf8(&content).ok()?.trim().parse().ok()
    }

    /// Writes down which address was leased last, for host-local and for a queue that is made
    /// again. If it fails, the order of addresses starts from somewhere else; that is all.
    fn note_last(&self, set: usize, address: IpAddr) {
        let content = address.to_string();
        let _ = self.directory.write(&last_name(set), content.as_bytes());
    }
}

fn last_name(set: usize) -> String {
    format!("last_reserved_ip.{set}")
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
