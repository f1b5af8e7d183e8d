//! The index from owners to addresses: symbolic links beside the leases.
//!
//! The link `.<container ID>~<ifname>~<n>` points to the lease number `n` of that owner, from 0
//! without gaps; a lease of the old format has an empty interface name. Making a link is one atomic
//! system call that also stores the address, and host-local removes a link together with its lease:
//! it reads every file, follows the link, and finds the content it looks for. `~` is part of no
//! container ID. What a lease names is whatever someone wrote there: names that would not be plain
//! ones of a file are hashed.

use std::ffi::OsString;
use std::net::IpAddr;

use nix::errno::Errno;

use super::Owner;
use super::directory::Directory;
use super::{StoreError, address_of};
use crate::environment::is_identifier;
use crate::hash::fnv1a;

/// The longest name of a file in bytes is 255 (`NAME_MAX`); this leaves room for the number.
const LONGEST: usize = 235;

/// The name of entry `number` of `owner`.
fn entry(owner: &Owner, number: usize) -> String {
    format!("{}{number}", stem(owner))
}

/// What comes before the number in the names of the entries of `owner`.
fn stem(owner: &Owner) -> String {
    let ifname = owner.ifname.as_deref().unwrap_or_default();
    let name = format!(".{}~{ifname}~", owner.container_id);
    if name.len() <= LONGEST && is_plain(owner) {
        name
    } else {
        // Two hashes of one text, read in both directions.
        let (there, back) = (fnv1a(name.bytes()), fnv1a(name.bytes().rev()));
        format!(".~{there:016x}{back:016x}~")
    }
}

/// Whether the owner can be spelled in the name of a file: with a slash it would be a path, which
/// may lead out of the directory.
fn is_plain(owner: &Owner) -> bool {
    let ifname = owner.ifname.as_deref().unwrap_or_default();
    let is_plain = |byte: u8| byte.is_ascii_graphic() && byte != b'/';
    is_identifier(&owner.container_id) && ifname.bytes().all(is_plain)
}

/// Whether `name` is that of an entry.
pub fn is_entry(name: &str) -> bool {
    name.starts_with('.') && name.contains('~')
}

/// The numbers of the entries of `owner` with their targets, from 0 on. What has such a name and is no
/// link is passed over: the number is taken, and [`add`] goes on behind it.
fn targets(directory: &Directory, owner: &Owner) -> impl Iterator<Item = (usize, OsString)> {
    let targets = (0..).map_while(
        |number| match directory.link_target(&entry(owner, number)) {
            Ok(target) => Some((number, Some(target))),
            Err(Errno::EINVAL) => Some((number, None)),
            Err(_) => None,
        },
    );
    targets.filter_map(|(number, target)| Some((number, target?)))
}

/// The addresses that the index has for `owner`, in the order of their numbers. What a lease
/// really says has to be asked of the lease.
pub fn addresses(directory: &Directory, owner: &Owner) -> Vec<IpAddr> {
    let targets = targets(directory, owner).map(|(_, target)| target);
    targets
        .filter_map(|target| address_of(target.to_str()?))
        .collect()
}

/// The address that the entry `name` has.
pub fn address(directory: &Directory, name: &str) -> Option<IpAddr> {
    address_of(directory.link_target(name).ok()?.to_str()?)
}

/// Adds an entry for `address` and returns its number.
pub fn add(directory: &Directory, owner: &Owner, address: IpAddr) -> Result<usize, StoreError> {
    add_behind(directory, &stem(owner), address)
}

/// Adds an entry for `address` whose name starts with `stem`, and returns its number.
fn add_behind(directory: &Directory, stem: &str, address: IpAddr) -> Result<usize, StoreError> {
    let mut number = 0;
    while !directory.link(&address.to_string(), &format!("{stem}{number}"))? {
        number += 1;
    }
    Ok(number)
}

/// Moves the entry `name`, which has `address`, to the first number that is free, unless that is a
/// later one. At no time is it without an entry.
pub fn close_up(directory: &Directory, name: &str, address: IpAddr) -> Result<(), StoreError> {
    let (stem, number) = name.split_at(name.rfind('~').map_or(name.len(), |end| end + 1));
    let free = add_behind(directory, stem, address)?;
    let is_earlier = number.parse().is_ok_and(|number: usize| number < free);
    let one_too_many = match is_earlier {
        true => format!("{stem}{free}"),
        false => name.to_owned(),
    };
    directory.remove(&one_too_many).map(drop)
}

/// Removes entry `number` of `owner`.
pub fn remove(directory: &Directory, owner: &Owner, number: usize) -> Result<bool, StoreError> {
    directory.remove(&entry(owner, number))
}

/// Removes all entries of `owner`; says how many there were.
pub fn remove_all(directory: &Directory, owner: &Owner) -> Result<usize, StoreError> {
    let numbers: Vec<_> = targets(directory, owner)
        .map(|(number, _)| number)
        .collect();
    // From the last one back: an entry behind a gap would not be found any more.
    for number in numbers.iter().rev() {
        remove(directory, owner, *number)?;
    }
    Ok(numbers.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_different_owners_have_different_names() {
        let pairs = [
            ("a.b", "c"),
            ("a", "b.c"),
            ("a", "b~0"),
            ("a~b", "0"),
            ("a", "b"),
        ];
        let mut names: Vec<_> = pairs
            .map(|(id, ifname)| entry(&Owner::new(id, ifname), 0))
            .into();
        names.push(entry(&Owner::new("a", "b").in_old_format(), 0));
        names.sort();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn a_long_container_id_still_makes_a_name() {
        let name = entry(&Owner::new(&"f".repeat(4000), "eth0"), 12);
        assert!(name.len() <= 255 && is_entry(&name), "{name}");
        let other = entry(&Owner::new(&"f".repeat(4001), "eth0"), 12);
        assert_ne!(name, other);
    }

    #[test]
    fn whatever_a_lease_names_makes_a_name_in_the_directory() {
        let pairs = [
            ("k8s.io/abc", "eth0"),
            ("/../../evil", "eth0"),
            ("abc", "eth/0"),
            ("abc", "../../evil"),
            ("a~b", "0"),
            ("a b", "\u{1b}]0x\u{7}"),
        ];
        let mut names: Vec<_> = pairs
            .map(|(id, ifname)| entry(&Owner::new(id, ifname), 0))
            .into();
        for name in &names {
            assert!(!name.contains('/') && is_entry(name), "{name}");
        }
        names.sort();
        names.dedup();
        assert_eq!(names.len(), pairs.len());
    }
}
