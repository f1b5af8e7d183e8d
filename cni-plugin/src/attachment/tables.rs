//! Writing what one attachment needs into the two tables, taking it out again, and looking whether
//! it is there.
//!
//! Elements are added without looking at those of others, so an attachment costs a question for
//! each table and one transaction for both, whatever is in them. Only if the kernel refuses them,
//! the tables are repaired, or what is in the way is replaced: of two attachments with the same
//! host port, the later one has it. Elements are taken out only if they still are those of the
//! attachment.
//!
//! The tables stay when the last attachment goes: without elements their rules match nothing, and
//! the next container finds them ready. GC takes them away, but for the guard of 127.0.0.0/8 as long
//! as a link needs it.

use std::collections::BTreeMap;

use nix::errno::Errno;
use podwire_kernel::Cause;
use podwire_kernel::netlink::until_undisturbed;
use podwire_kernel::nft::{
    Batch, Comment, CommitError, Element, Family, Key, NftSocket, Table, diff_into,
};

use super::comment::{former_owner, owner};
use super::hostports::{self, HOSTPORTS};
use super::ipmasq;
use super::record::Record;

/// The family of both tables.
pub const FAMILY: Family = Family::Inet;

/// Why nftables do not say what they should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// They cannot be read, or no socket can be opened.
    #[error(transparent)]
    Read(#[from] podwire_kernel::Error),
    /// They cannot be changed.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// What an attachment has in one table, by set and key. A record of an earlier version may name a
/// key twice; it is written, read and removed once.
type Elements = BTreeMap<(&'static str, Key), Element>;

/// How often elements are removed again if others took some away in between. Each attempt that
/// fails takes some 12 milliseconds.
const REMOVALS: usize = 10;

/// A table, and what an attachment has in it.
struct Part {
    skeleton: Table,
    elements: Elements,
}

/// Adds what `record` needs, in both tables or in none.
pub fn apply(socket: &mut NftSocket, record: &Record) -> Result<(), TableError> {
    let parts = parts(record);
    // Asking takes some microseconds, while a transaction that fails waits for all processors
    // (`nf_tables_abort_release`, net/netfilter/nf_tables_api.c): about 12 milliseconds.
    for part in &parts {
        if !socket.has_table(FAMILY, &part.skeleton.name)? {
            return build(socket, &parts);
        }
    }
    let refusal = |written: &Result<(), CommitError>| {
        let error = written.as_ref().err()?;
        error.errno().map(Errno::from_raw)
    };
    let mut written = write(socket, &parts, false);
    if refusal(&written) == Some(Errno::EEXIST) {
        written = write(socket, &parts, true);
    }
    // Of two reasons the kernel's first one is told, so that this may be the second.
    if refusal(&written) == Some(Errno::ENOENT) {
        return build(socket, &parts);
    }
    Ok(written?)
}

/// Takes out what `record` has, and what else is the attachment's by its comment: the record may say less
/// than was written. What is gone already is no error. What one of the records of `others` says stays, and a
/// host port that one has as well, the oldest first, is that of the youngest of them now.
pub fn remove(
    socket: &mut NftSocket,
    record: &Record,
    others: &[&Record],
) -> Result<(), TableError> {
    let (id, ifname) = (&record.container_id, &record.ifname);
    let owners = [owner(id, ifname), former_owner(id, ifname)];
    take_out(socket, &elements(&[record]), &owners, others)?;
    Ok(())
}

/// Takes out what attachments have of which only the comments say so, by one of `owners`
/// ([`owner`](super::owner), [`former_owner`](super::former_owner)): their records are gone or cannot be
/// read. What the records `kept` say stays, and host ports pass on as in [`remove`]. Says whether there
/// was anything.
pub fn remove_owned(
    socket: &mut NftSocket,
    owners: &[String],
    kept: &[Record],
) -> Result<bool, TableError> {
    let kept: Vec<_> = kept.iter().collect();
    take_out(socket, &Elements::new(), owners, &kept)
}

/// Takes out `ours` and what is that of `owners`, but for what the records `kept` say; says whether there was
/// anything.
fn take_out(
    socket: &mut NftSocket,
    ours: &Elements,
    owners: &[String],
    kept: &[&Record],
) -> Result<bool, TableError> {
    let owners: Vec<_> = owners.iter().map(|owner| as_in_kernel(owner)).collect();
    let kept = elements(kept);
    remove_with(socket, &empty_parts(), |part, socket, batch| {
        part.remove(socket, batch, ours, &owners, &kept)
    })
}

/// Deletes what `each` finds in the parts; says whether it found anything.
fn remove_with(
    socket: &mut NftSocket,
    parts: &[Part],
    each: impl Fn(&Part, &mut NftSocket, &mut Batch) -> Result<(), TableError>,
) -> Result<bool, TableError> {
    let mut attempt = 0;
    loop {
        let mut batch = Batch::new();
        for part in parts {
            each(part, socket, &mut batch)?;
        }
        let found = !batch.is_empty();
        match socket.commit(&mut batch) {
            // What was read has been removed by another process, the rest has not.
            Err(error) if error.errno() == Some(Errno::ENOENT as i32) && attempt < REMOVALS => {
                attempt += 1;
            }
            outcome => return Ok(outcome.map(|()| found)?),
        }
    }
}

/// Takes the tables away in which there are no elements: the caller knows that there is no record either.
/// Of the host ports the guard stays as well ([`hostports_guard`](super::hostports_guard)).
pub fn clear(socket: &mut NftSocket) -> Result<(), TableError> {
    remove_with(socket, &empty_parts(), Part::clear)?;
    Ok(())
}

/// Whether everything that `record` needs is there.
pub fn has_all(socket: &mut NftSocket, record: &Record) -> Result<bool, TableError> {
    for part in parts(record) {
        for (set, wanted) in part.by_set() {
            let found = part.read(socket, set)?;
            let mut wanted = wanted.iter();
            let same = |(key, element): &&(Key, Element)| {
                found
                    .get(key)
                    .is_some_and(|found| found.value == element.value)
            };
            if !wanted.all(|one| same(&one)) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// A comment as the kernel has it.
fn as_in_kernel(comment: &str) -> Option<Comment> {
    Element::member().comment(comment).comment
}

/// Both tables, of which nothing is wanted.
fn empty_parts() -> [Part; 2] {
    [hostports::skeleton(), ipmasq::skeleton(&[])].map(|skeleton| Part {
        skeleton,
        elements: Elements::new(),
    })
}

/// Whether an element is that of one of `owners`, by its comment.
fn is_of(element: &Element, owners: &[Option<Comment>]) -> bool {
    let Some(text) = element.comment.as_ref().map(Comment::as_str) else {
        return false;
    };
    owners.iter().flatten().any(|owner| {
        let pod = text.strip_suffix(owner.as_str());
        pod.is_some_and(|pod| pod.is_empty() || pod.ends_with(' '))
    })
}

/// The tables in which `record` has something.
fn parts(record: &Record) -> Vec<Part> {
    let ports = Part {
        skeleton: hostports::skeleton(),
        elements: by_key(hostports::elements(record)),
    };
    let hidden = Part {
        skeleton: ipmasq::skeleton(std::slice::from_ref(record)),
        elements: by_key(ipmasq::elements(record)),
    };
    let mut parts = vec![ports, hidden];
    parts.retain(|part| !part.elements.is_empty());
    parts
}

/// What these records have in both tables, of which later ones win.
fn elements(records: &[&Record]) -> Elements {
    let mut elements = Vec::new();
    for record in records {
        elements.extend(hostports::elements(record));
        elements.extend(ipmasq::elements(record));
    }
    by_key(elements)
}

/// The element of this key in this set.
fn get<'a>(
    elements: &'a BTreeMap<(&'a str, Key), Element>,
    set: &'a str,
    key: &Key,
) -> Option<&'a Element> {
    elements.get(&(set, key.clone()))
}

/// Elements by their sets and keys, of which later ones win.
fn by_key(elements: Vec<(&'static str, Key, Element)>) -> Elements {
    let elements = elements.into_iter();
    elements
        .map(|(set, key, element)| ((set, key), element))
        .collect()
}

/// Writes the elements of all parts; with `replace` in the place of what has their keys.
fn write(socket: &mut NftSocket, parts: &[Part], replace: bool) -> Result<(), CommitError> {
    let mut batch = Batch::new();
    for part in parts {
        part.write(&mut batch, replace);
    }
    socket.commit(&mut batch)
}

/// Makes what is missing of the tables of all parts, and keeps the elements of others.
fn build(socket: &mut NftSocket, parts: &[Part]) -> Result<(), TableError> {
    let mut batch = Batch::new();
    for part in parts {
        part.build(socket, &mut batch)?;
    }
    Ok(socket.commit(&mut batch)?)
}

impl Part {
    /// Writes the elements; with `replace` in the place of what has their keys.
    fn write(&self, batch: &mut Batch, replace: bool) {
        let mut table = batch.table(FAMILY, &self.skeleton.name);
        for ((name, key), element) in &self.elements {
            let Some(set) = self.skeleton.sets.get(name) else {
                continue;
            };
            let mut elements = table.elements(name, set);
            if replace {
                elements.destroy(key, None);
            }
            elements.add(&element.borrow(key));
        }
    }

    /// Makes what is missing of the table, and keeps the elements of others.
    fn build(&self, socket: &mut NftSocket, batch: &mut Batch) -> Result<(), TableError> {
        let observed = socket.observe(FAMILY, &self.skeleton.name)?;
        let mut desired = self.skeleton.clone();
        if let Some(observed) = &observed {
            for (name, chain) in observed.chains.iter() {
                if !desired.chains.contains_key(name) {
                    desired.chains.insert(name, chain.clone());
                }
            }
            for (name, set) in observed.sets.iter() {
                if let Some(wanted) = desired.sets.get_mut(name)
                    && wanted.key == set.key
                {
                    wanted.elements = set.elements.clone();
                }
            }
        }
        for ((name, key), element) in &self.elements {
            if let Some(set) = desired.sets.get_mut(name) {
                set.elements.insert(key.clone(), element.clone());
            }
        }
        diff_into(batch, observed.as_ref(), &desired);
        Ok(())
    }

    /// Deletes the elements whose comment names an owner, and those that say what `ours` say, whatever
    /// their comment; but none that `kept` says. Host ports of `kept` are written in their place.
    fn remove(
        &self,
        socket: &mut NftSocket,
        batch: &mut Batch,
        ours: &Elements,
        owners: &[Option<Comment>],
        kept: &Elements,
    ) -> Result<(), TableError> {
        for (name, set) in self.skeleton.sets.iter() {
            let found = self.read(socket, name)?;
            let mut table = batch.table(FAMILY, &self.skeleton.name);
            let mut elements = table.elements(name, set);
            for (key, element) in &found {
                let says_the_same = |other: &Element| other.value == element.value;
                let is_ours =
                    is_of(element, owners) || get(ours, name, key).is_some_and(says_the_same);
                let heir = get(kept, name, key);
                if !is_ours || heir.is_some_and(says_the_same) {
                    continue;
                }
                elements.delete(key, None);
                if let Some(heir) = heir.filter(|_| self.skeleton.name == HOSTPORTS) {
                    elements.add(&heir.borrow(key));
                }
            }
        }
        Ok(())
    }

    /// Deletes the table unless it has elements, or its guard has to stay. An element can be an
    /// attachment's whose record is lost.
    fn clear(&self, socket: &mut NftSocket, batch: &mut Batch) -> Result<(), TableError> {
        let name = &self.skeleton.name;
        if !socket.has_table(FAMILY, name)? {
            return Ok(());
        }
        let mut stays = name == HOSTPORTS && hostports::hostports_guard()?.is_some();
        for set in self.skeleton.sets.keys() {
            stays = stays || !self.read(socket, set)?.is_empty();
        }
        if !stays {
            batch.table(FAMILY, name).delete();
        }
        Ok(())
    }

    /// The elements by their sets.
    fn by_set(&self) -> BTreeMap<&'static str, Vec<(Key, Element)>> {
        let mut sets: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for ((set, key), element) in &self.elements {
            sets.entry(*set)
                .or_default()
                .push((key.clone(), element.clone()));
        }
        sets
    }

    /// The elements that a set has; none if there is no such set.
    fn read(
        &self,
        socket: &mut NftSocket,
        name: &str,
    ) -> Result<BTreeMap<Key, Element>, TableError> {
        let Some(header) = self.skeleton.sets.get(name) else {
            return Ok(BTreeMap::new());
        };
        let table = &self.skeleton.name;
        let read = || {
            let mut found = BTreeMap::new();
            socket.each_element(FAMILY, table, name, header, |key, element| {
                found.insert(key, element);
            })?;
            Ok(found)
        };
        let is_disturbed = |error: &podwire_kernel::Error| error.cause == Cause::Unstable;
        match until_undisturbed(read, is_disturbed) {
            Err(error) if error.is_not_found() => Ok(BTreeMap::new()),
            outcome => Ok(outcome?),
        }
    }
}
