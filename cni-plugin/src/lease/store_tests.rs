//! What must hold for leases, also when host-local works in the same directory.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use nix::errno::Errno;
use proptest::prelude::*;
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::json::Node;
use crate::lease::try_release;

/// A lease directory, and the range sets to lease from.
struct Fixture {
    folder: TempDir,
    sets: Vec<RangeSet>,
}

impl Fixture {
    fn new(subnets: &[&str]) -> Self {
        let sets = subnets.iter().map(|subnet| {
            let ranges = json!([{ "subnet": subnet }]);
            RangeSet::read(&Node::of_document(&ranges)).unwrap()
        });
        Self {
            folder: tempfile::tempdir().unwrap(),
            sets: sets.collect(),
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("net")
    }

    /// Leases an address of each set.
    fn add(&self, id: &str) -> Option<Vec<String>> {
        let owner = Owner::new(id, "eth0");
        let mut store = Store::create(&self.path()).unwrap();
        let mut taken = Vec::new();
        for set in 0..self.sets.len() {
            let address = store.take_free(&owner, &self.sets, set).unwrap();
            taken.extend(address.map(|address| address.to_string()));
        }
        store.finish();
        (taken.len() == self.sets.len()).then_some(taken)
    }

    fn del(&self, id: &str) -> usize {
        let Some(mut store) = Store::open(&self.path()).unwrap() else {
            return 0;
        };
        let released = store.release(&Owner::new(id, "eth0")).unwrap();
        store.finish();
        released.len()
    }

    fn addresses_of(&self, id: &str) -> Vec<String> {
        let mut store = Store::create(&self.path()).unwrap();
        let addresses = store.addresses_of(&Owner::new(id, "eth0")).unwrap();
        store.finish();
        addresses.iter().map(IpAddr::to_string).collect()
    }

    /// Whether the next call can rely on the index.
    fn is_indexed(&self) -> bool {
        Store::create(&self.path()).unwrap().index == Index::Complete
    }

    fn write(&self, name: &str, content: &str) {
        fs::create_dir_all(self.path()).unwrap();
        fs::write(self.path().join(name), content).unwrap();
    }

    fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.path().join(name)).ok()
    }

    /// The names that are not hidden.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| !name.starts_with('.')).collect();
        names.sort();
        names
    }

    fn entries(&self) -> usize {
        let entries = fs::read_dir(self.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| index::is_entry(name)).count()
    }
}

#[test]
fn a_lease_has_the_files_of_host_local() {
    let fixture = Fixture::new(&["10.0.0.0/24", "fd00::/64"]);
    assert_eq!(fixture.add("a").unwrap(), ["10.0.0.2", "fd00::2"]);
    let expected = [
        "10.0.0.2",
        "fd00::2",
        "last_reserved_ip.0",
        "last_reserved_ip.1",
        "lock",
    ];
    assert_eq!(fixture.names(), expected);
    assert_eq!(fixture.read("10.0.0.2").unwrap(), "a\r\neth0");
    assert_eq!(fixture.read("last_reserved_ip.1").unwrap(), "fd00::2");
    let mode = fs::metadata(fixture.path().join("10.0.0.2"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_release_removes_the_leases_and_their_index_entries() {
    let fixture = Fixture::new(&["10.0.0.0/24", "fd00::/64"]);
    fixture.add("a").unwrap();
    assert_eq!(fixture.entries(), 2);
    assert_eq!(fixture.del("a"), 2);
    assert_eq!(fixture.entries(), 0);
    let expected = ["last_reserved_ip.0", "last_reserved_ip.1", "lock"];
    assert_eq!(fixture.names(), expected);
    assert_eq!(fixture.del("a"), 0);
}

#[test]
fn addresses_go_round_before_one_comes_again() {
    let fixture = Fixture::new(&["10.0.0.0/29"]);
    let mut seen = Vec::new();
    for round in 0..6 {
        let id = format!("c{round}");
        seen.push(fixture.add(&id).unwrap().remove(0));
        fixture.del(&id);
    }
    let expected = [
        "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.2",
    ];
    assert_eq!(seen, expected);
}

#[test]
fn the_address_that_was_free_for_longest_comes_first() {
    let fixture = Fixture::new(&["10.0.0.0/29"]);
    for id in ["a", "b", "c", "d", "e"] {
        fixture.add(id).unwrap();
    }
    assert_eq!(fixture.add("f"), None);
    for id in ["d", "a", "c"] {
        fixture.del(id);
    }
    let next = ["g", "h", "i"].map(|id| fixture.add(id).unwrap().remove(0));
    assert_eq!(next, ["10.0.0.5", "10.0.0.2", "10.0.0.4"]);
}

#[test]
fn every_call_leaves_an_index_the_next_one_can_rely_on() {
    let fixture = Fixture::new(&["10.0.0.0/29", "fd00::/64"]);
    for id in ["a", "b"] {
        fixture.add(id).unwrap();
        assert!(fixture.is_indexed());
    }
    fixture.del("a");
    assert!(fixture.is_indexed());
    fixture.del("never seen");
    assert!(fixture.is_indexed());
}

#[test]
fn a_lease_that_another_process_wrote_is_found_and_released() {
    let fixture = Fixture::new(&["10.0.0.0/24"]);
    fixture.add("a").unwrap();
    fixture.write("10.0.0.77", "b\r\neth0");
    assert_eq!(fixture.addresses_of("b"), ["10.0.0.77"]);
    assert_eq!(fixture.del("b"), 1);
    assert_eq!(fixture.read("10.0.0.77"), None);
    assert_eq!(fixture.addresses_of("a"), ["10.0.0.2"]);
}

#[test]
fn a_lease_that_another_process_wrote_is_not_given_again() {
    let fixture = Fixture::new(&["10.0.0.0/29"]);
    fixture.write("10.0.0.2", "b\r\neth0");
    fixture.write("10.0.0.3", "b\r\neth1");
    assert_eq!(fixture.add("a").unwrap(), ["10.0.0.4"]);
    fixture.write("10.0.0.5", "b\r\neth2");
    assert_eq!(fixture.add("c").unwrap(), ["10.0.0.6"]);
    assert_eq!(fixture.add("d"), None);
}

#[test]
fn an_address_whose_file_was_removed_is_free_again() {
    let fixture = Fixture::new(&["10.0.0.0/30"]);
    fixture.add("a").unwrap();
    assert_eq!(fixture.add("b"), None);
    fs::remove_file(fixture.path().join("10.0.0.2")).unwrap();
    assert_eq!(fixture.add("b").unwrap(), ["10.0.0.2"]);
    assert_eq!(fixture.del("a"), 0);
    assert_eq!(fixture.addresses_of("b"), ["10.0.0.2"]);
}

#[test]
fn the_round_goes_on_where_host_local_left_it() {
    let fixture = Fixture::new(&["10.0.0.0/24"]);
    fixture.write("10.0.0.9", "b\r\neth0");
    fixture.write("last_reserved_ip.0", "10.0.0.9");
    assert_eq!(fixture.add("a").unwrap(), ["10.0.0.10"]);
}

#[test]
fn a_lease_of_the_old_format_is_released() {
    let fixture = Fixture::new(&["10.0.0.0/24"]);
    fixture.write("10.0.0.8", "a");
    fixture.write("10.0.0.9", "other");
    assert_eq!(fixture.addresses_of("a"), ["10.0.0.8"]);
    assert_eq!(fixture.del("a"), 1);
    assert_eq!(fixture.names(), ["10.0.0.9", "lock"]);
}

#[test]
fn what_would_be_released_is_known_before_also_where_only_the_files_say_it() {
    for content in ["b\r\neth0", "b"] {
        let fixture = Fixture::new(&["10.0.0.0/24"]);
        fixture.add("a").unwrap();
        // In place, so that nothing shows that the index knows less.
        fixture.write("10.0.0.2", content);
        assert!(fixture.is_indexed());
        assert_eq!(fixture.addresses_of("b"), ["10.0.0.2"], "{content:?}");
        assert_eq!(fixture.del("b"), 1);
        assert_eq!(fixture.addresses_of("b"), Vec::<String>::new());
    }
    let fixture = Fixture::new(&["10.0.0.0/24"]);
    fixture.write("10.0.0.8", "a");
    fixture.write("10.0.0.9", "a\r\neth0");
    assert_eq!(fixture.addresses_of("a"), ["10.0.0.9"]);
}

#[test]
fn a_lease_of_the_old_format_stays_while_there_is_one_with_an_interface() {
    let fixture = Fixture::new(&["10.0.0.0/24"]);
    fixture.write("10.0.0.8", "a");
    fixture.write("10.0.0.9", "a\r\neth0");
    assert_eq!(fixture.del("a"), 1);
    assert_eq!(fixture.names(), ["10.0.0.8", "lock"]);
    assert_eq!(fixture.del("a"), 1);
    assert_eq!(fixture.names(), ["lock"]);
}

#[test]
fn only_the_interface_that_is_asked_for_is_released() {
    let fixture = Fixture::new(&["10.0.0.0/24"]);
    fixture.add("a").unwrap();
    fixture.write("10.0.0.9", "a\r\neth1");
    fixture.del("a");
    assert_eq!(fixture.read("10.0.0.9").unwrap(), "a\r\neth1");
}

#[test]
fn a_file_that_a_crash_left_empty_is_released() {
    let fixture = Fixture::new(&["10.0.0.0/30"]);
    for content in ["", "\0\0\0\0"] {
        fixture.write("10.0.0.2", content);
        assert_eq!(fixture.add("a").unwrap(), ["10.0.0.2"]);
        fixture.del("a");
    }
}

#[test]
fn a_lease_that_was_emptied_in_place_is_its_owner_s_until_that_one_releases_it() {
    let fixture = Fixture::new(&["10.0.0.0/29", "fd00::/125"]);
    for content in ["", "\n", "\0\0\0\0"] {
        for touched in [false, true] {
            for emptied in [&[0][..], &[1], &[0, 1]] {
                let leases = fixture.add("a").unwrap();
                for number in emptied {
                    fixture.write(&leases[*number], content);
                }
                if touched {
                    fixture.write("x", "");
                    fs::remove_file(fixture.path().join("x")).unwrap();
                }
                while let Some(others) = fixture.add("b") {
                    assert!(!others.contains(&leases[0]) && !others.contains(&leases[1]));
                }
                fixture.del("b");
                assert_eq!(fixture.addresses_of("a"), leases);
                assert_eq!(fixture.del("a"), 2);
                assert_eq!(fixture.entries(), 0);
                assert!(leases.iter().all(|name| fixture.read(name).is_none()));
            }
        }
    }
}

#[test]
fn a_lease_that_is_empty_after_a_boot_is_free_whatever_its_entry_says() {
    let fixture = Fixture::new(&["10.0.0.0/30"]);
    let leases = fixture.add("a").unwrap();
    fixture.write(&leases[0], "");
    let directory = Directory::open(&fixture.path()).unwrap().unwrap();
    let file = StateFile::open(&directory).unwrap();
    let mut state = file.read().unwrap();
    state.stamp.boot = 3;
    file.write(&state);
    drop(directory);
    assert_eq!(fixture.add("b").unwrap(), leases);
    assert_eq!(fixture.addresses_of("a"), Vec::<String>::new());
    // Its own time says it where the file that names the boot is lost as well.
    fixture.write(&leases[0], "");
    let lease = fs::File::open(fixture.path().join(&leases[0])).unwrap();
    lease.set_modified(SystemTime::UNIX_EPOCH).unwrap();
    fixture.write(".podwire", "");
    assert_eq!(fixture.add("c").unwrap(), leases);
}

#[test]
fn leases_that_were_emptied_with_all_files_beside_them_are_their_owner_s() {
    let fixture = Fixture::new(&["10.0.0.0/29", "fd00::/125"]);
    let leases = fixture.add("a").unwrap();
    for entry in fs::read_dir(fixture.path()).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            fs::write(entry.path(), "").unwrap();
        }
    }
    while let Some(others) = fixture.add("b") {
        assert!(!others.contains(&leases[0]) && !others.contains(&leases[1]));
    }
    assert_eq!(fixture.addresses_of("a"), leases);
}

#[test]
fn a_call_that_is_killed_while_it_makes_the_index_takes_no_emptied_lease_from_its_owner() {
    for named in [&[][..], &[0], &[1]] {
        let fixture = Fixture::new(&["10.0.0.0/29", "fd00::/125"]);
        let leases = fixture.add("a").unwrap();
        for (number, name) in leases.iter().enumerate() {
            if !named.contains(&number) {
                fixture.write(name, "");
            }
        }
        for _ in 0..2 {
            let mut store = Store::create(&fixture.path()).unwrap();
            store.tidy_names().unwrap();
            drop(store);
            fixture.write("x", "");
            fs::remove_file(fixture.path().join("x")).unwrap();
        }
        while let Some(others) = fixture.add("b") {
            assert!(!others.contains(&leases[0]) && !others.contains(&leases[1]));
        }
        let mut found = fixture.addresses_of("a");
        found.sort();
        assert_eq!(found, leases, "{named:?}");
        fixture.del("b");
        assert_eq!(fixture.del("a"), 2);
        assert_eq!(fixture.entries(), 0);
    }
}

#[test]
fn an_entry_that_a_crash_left_without_a_lease_does_no_harm() {
    let fixture = Fixture::new(&["10.0.0.0/24"]);
    fixture.add("a").unwrap();
    let entry = fixture.path().join(".b~eth0~0");
    std::os::unix::fs::symlink("10.0.0.2", &entry).unwrap();
    assert_eq!(fixture.del("b"), 0);
    assert_eq!(fixture.addresses_of("a"), ["10.0.0.2"]);
    assert!(entry.symlink_metadata().is_err());
}

#[test]
fn what_is_no_entry_and_has_the_name_of_one_hides_none_behind_it() {
    let fixture = Fixture::new(&["10.0.0.0/24", "fd00::/64"]);
    let entry = |number| fixture.path().join(format!(".a~eth0~{number}"));
    for number in [0, 2] {
        fs::create_dir_all(entry(number)).unwrap();
    }
    fixture.add("a").unwrap();
    let mut store = Store::create(&fixture.path()).unwrap();
    let found = store
        .indexed_addresses_of(&Owner::new("a", "eth0"))
        .unwrap();
    assert_eq!(found.len(), 2, "{found:?}");
    drop(store);
    assert_eq!(fixture.del("a"), 2);
    assert!(fixture.is_indexed());
    // The directories stay.
    assert_eq!(fixture.entries(), 2);
}

#[test]
fn a_directory_of_leases_can_be_moved() {
    let fixture = Fixture::new(&["10.0.0.0/24"]);
    fixture.add("a").unwrap();
    fixture.add("b").unwrap();
    let other = Fixture::new(&["10.0.0.0/24"]);
    fs::create_dir_all(other.path()).unwrap();
    // Without the hidden files, as `cp dir/*` does it.
    for name in fixture.names() {
        fs::copy(fixture.path().join(&name), other.path().join(&name)).unwrap();
    }
    assert_eq!(other.addresses_of("b"), ["10.0.0.3"]);
    assert_eq!(other.add("c").unwrap(), ["10.0.0.4"]);
    assert_eq!(other.del("a"), 1);
}

#[test]
fn other_ranges_make_the_queue_again() {
    let mut fixture = Fixture::new(&["10.0.0.0/24"]);
    fixture.add("a").unwrap();
    fixture.sets = Fixture::new(&["10.5.0.0/24", "10.0.0.0/24"]).sets;
    assert_eq!(fixture.add("b").unwrap(), ["10.5.0.2", "10.0.0.3"]);
    assert_eq!(fixture.del("b"), 2);
}

#[test]
fn a_requested_address_is_taken_once() {
    let fixture = Fixture::new(&["10.0.0.0/29"]);
    let wanted = "10.0.0.4".parse().unwrap();
    let mut store = Store::create(&fixture.path()).unwrap();
    assert!(store.take(&Owner::new("a", "eth0"), wanted, 0).unwrap());
    assert!(!store.take(&Owner::new("b", "eth0"), wanted, 0).unwrap());
    store.finish();
    let others = ["c", "d", "e", "f"].map(|id| fixture.add(id).unwrap().remove(0));
    // host-local goes on behind a requested address, too.
    assert_eq!(others, ["10.0.0.5", "10.0.0.6", "10.0.0.2", "10.0.0.3"]);
    assert_eq!(fixture.add("g"), None);
    assert_eq!(fixture.addresses_of("b"), Vec::<String>::new());
}

#[test]
fn one_lease_is_released_only_as_long_as_it_is_the_same() {
    let fixture = Fixture::new(&["10.0.0.0/24", "fd00::/64"]);
    fixture.add("a").unwrap();
    let leases = list(&fixture.path()).unwrap();
    assert_eq!(leases.len(), 2);
    let release = |lease| {
        let mut parted = Vec::new();
        let mut part = |leases: &[&Lease]| parted.extend(leases.iter().copied().cloned());
        let released = try_release(&fixture.path(), &[lease], &mut part).unwrap()?;
        assert_eq!(released.failure, None);
        // Whose lease is another's by now is left alone.
        assert!(parted.iter().eq(released.leases.iter().copied()));
        Some(released.leases)
    };
    assert_eq!(release(&leases[0]), Some(vec![&leases[0]]));
    assert_eq!(release(&leases[0]), Some(vec![]));
    assert!(fixture.is_indexed());
    assert_eq!(fixture.addresses_of("a"), ["fd00::2"]);
    fixture.write("fd00::2", "b\r\neth0");
    assert_eq!(release(&leases[1]), Some(vec![]));
}

#[test]
fn leases_are_not_released_while_another_process_works_on_them() {
    let fixture = Fixture::new(&["10.0.0.0/24"]);
    fixture.add("a").unwrap();
    let leases = list(&fixture.path()).unwrap();
    let store = Store::open(&fixture.path()).unwrap();
    let mut busy = |_: &[&Lease]| panic!("nothing is done while another is at work");
    let released = try_release(&fixture.path(), &[&leases[0]], &mut busy);
    assert_eq!(released.unwrap(), None);
    drop(store);
    assert_eq!(list(&fixture.path()).unwrap(), leases);
    let released = try_release(&fixture.path(), &[&leases[0]], &mut |_| {}).unwrap();
    assert_eq!(released.unwrap().leases, [&leases[0]]);
}

/// Keeps a file from being removed, by mounting it on itself.
fn keep_busy(path: &std::path::Path) {
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    unshare(CloneFlags::CLONE_NEWNS).expect("needs root: it makes a mount namespace");
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    mount(Some(path), path, none, MsFlags::MS_BIND, none).unwrap();
}

#[test]
fn an_empty_file_that_cannot_be_removed_takes_its_address_and_no_more() {
    let fixture = Fixture::new(&["10.0.0.0/29"]);
    fixture.write("10.0.0.2", "");
    let busy = fixture.path().join("10.0.0.2");
    keep_busy(&busy);
    assert_eq!(fixture.add("a").unwrap(), ["10.0.0.3"]);
    assert_eq!(fixture.del("a"), 1);
    nix::mount::umount(&busy).unwrap();
}

#[test]
fn where_nothing_may_be_changed_the_leases_are_known_and_none_is_taken_for_released() {
    let fixture = Fixture::new(&["10.0.0.0/24"]);
    let leases = fixture.add("a").unwrap();
    fixture.write("10.0.0.9", "c\r\neth0");
    let set_mode = |path: PathBuf, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    for lock in [true, false] {
        if !lock {
            fs::remove_file(fixture.path().join("lock")).unwrap();
        }
        for entry in fs::read_dir(fixture.path()).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                set_mode(entry.path(), 0o644);
            }
        }
        set_mode(fixture.folder.path().to_owned(), 0o755);
        set_mode(fixture.path(), 0o555);
        // Of this thread alone.
        nix::unistd::setfsuid(1000.into());
        assert_eq!(fixture.addresses_of("a"), leases);
        assert_eq!(fixture.addresses_of("c"), ["10.0.0.9"]);
        assert_eq!(fixture.del("b"), 0);
        let mut store = Store::open(&fixture.path()).unwrap().unwrap();
        let error = store.release(&Owner::new("a", "eth0")).unwrap_err();
        nix::unistd::setfsuid(0.into());
        assert_eq!(error.errno, Errno::EACCES);
        set_mode(fixture.path(), 0o755);
    }
    assert_eq!(fixture.del("a"), 1);
}

#[test]
fn a_lease_that_cannot_be_released_keeps_no_other_from_it() {
    let fixture = Fixture::new(&["10.0.0.0/24"]);
    for id in ["a", "b", "c"] {
        fixture.add(id).unwrap();
    }
    let leases = list(&fixture.path()).unwrap();
    let busy = fixture.path().join(leases[0].address.to_string());
    keep_busy(&busy);
    let all: Vec<_> = leases.iter().collect();
    let released = try_release(&fixture.path(), &all, &mut |_| {})
        .unwrap()
        .unwrap();
    assert_eq!(released.leases, all[1..]);
    assert_eq!(released.failure.unwrap().path, busy);
    nix::mount::umount(&busy).unwrap();
    assert!(fixture.is_indexed());
    assert_eq!(list(&fixture.path()).unwrap(), leases[..1]);
}

#[test]
fn a_lease_of_a_container_that_cannot_be_removed_keeps_not_its_other_one() {
    let fixture = Fixture::new(&["10.0.0.0/24", "fd00::/64"]);
    let release = |owner| {
        let mut store = Store::create(&fixture.path()).unwrap();
        let released = store.release(&Owner::new(owner, "eth0"));
        store.finish();
        released
    };
    fixture.add("a").unwrap();
    let busy = fixture.path().join("10.0.0.2");
    keep_busy(&busy);
    for _ in 0..2 {
        assert_eq!(release("a").unwrap_err().path, busy);
        assert_eq!(fixture.read("fd00::2"), None);
        assert!(fixture.is_indexed());
        assert_eq!(fixture.addresses_of("a"), ["10.0.0.2"]);
    }
    // The same where the index does not know of them.
    fixture.add("b").unwrap();
    fixture.write("10.0.0.2", "c\r\neth0");
    fixture.write("fd00::3", "c\r\neth0");
    assert_eq!(release("c").unwrap_err().path, busy);
    assert_eq!(fixture.read("fd00::3"), None);
    nix::mount::umount(&busy).unwrap();
    assert_eq!(fixture.del("c"), 1);
}

#[test]
fn listing_or_releasing_where_nothing_is_makes_nothing() {
    let fixture = Fixture::new(&["10.0.0.0/24"]);
    assert_eq!(list(&fixture.path()).unwrap(), []);
    assert_eq!(fixture.del("a"), 0);
    assert!(!fixture.path().exists());
    // A link to itself leads nowhere either.
    std::os::unix::fs::symlink("net", fixture.path()).unwrap();
    assert_eq!(list(&fixture.path()).unwrap(), []);
    assert_eq!(fixture.del("a"), 0);
    Store::create(&fixture.path()).unwrap_err();
}

#[test]
fn a_container_id_of_any_length_can_have_a_lease() {
    let fixture = Fixture::new(&["10.0.0.0/24", "fd00::/64"]);
    let id = "f".repeat(3000);
    assert_eq!(fixture.add(&id).unwrap().len(), 2);
    assert_eq!(fixture.addresses_of(&id).len(), 2);
    assert_eq!(fixture.del(&id), 2);
}

#[test]
fn whatever_a_lease_names_it_takes_one_address_and_no_more() {
    for content in [
        "k8s.io/abc\r\neth0",
        "/../../evil\r\neth0",
        "abc\r\neth/0",
        "a b\r\n../../evil",
    ] {
        let fixture = Fixture::new(&["10.0.0.0/29"]);
        fixture.write("10.0.0.3", content);
        assert_eq!(fixture.add("a").unwrap(), ["10.0.0.2"], "{content:?}");
        assert_eq!(fixture.add("b").unwrap(), ["10.0.0.4"], "{content:?}");
        assert_eq!(fixture.addresses_of("a"), ["10.0.0.2"]);
        assert_eq!(fixture.del("a"), 1);
        let around = fs::read_dir(fixture.folder.path()).unwrap().count();
        assert_eq!(around, 1, "{content:?}: something outside of the directory");
        let owner = Owner::parse(content.as_bytes()).unwrap();
        let mut store = Store::create(&fixture.path()).unwrap();
        assert_eq!(store.release(&owner).unwrap().len(), 1, "{content:?}");
        store.finish();
        assert_eq!(fixture.read("10.0.0.3"), None, "{content:?}");
    }
}

#[test]
fn a_lease_whose_name_spells_its_address_in_another_way_is_found_and_released() {
    let others = ["FD00:0::2", "fd00:0:0:0:0:0:0:3", "fd00::0.0.0.4"];
    let fixture = Fixture::new(&["fd00::/64"]);
    for other in others {
        fixture.write(other, &format!("of {other}\r\neth0"));
    }
    let listed = list(&fixture.path()).unwrap();
    let owners: Vec<_> = listed.iter().map(|one| &one.owner.container_id).collect();
    assert_eq!(
        owners,
        ["of FD00:0::2", "of fd00:0:0:0:0:0:0:3", "of fd00::0.0.0.4"]
    );
    let released = try_release(&fixture.path(), &[&listed[0]], &mut |_| {})
        .unwrap()
        .unwrap();
    assert_eq!(released.leases, [&listed[0]]);
    assert_eq!(fixture.addresses_of("of fd00:0:0:0:0:0:0:3"), ["fd00::3"]);
    for other in &others[1..] {
        assert_eq!(fixture.del(&format!("of {other}")), 1, "{other}");
    }
    assert_eq!(fixture.names(), ["lock"]);
}

#[test]
fn of_two_spellings_of_one_address_the_usual_one_says_whose_it_is() {
    let fixture = Fixture::new(&["fd00::/126"]);
    fixture.write("fd00::2", "a\r\neth0");
    fixture.write("FD00::2", "b\r\neth0");
    assert_eq!(list(&fixture.path()).unwrap().len(), 1);
    assert_eq!(fixture.del("b"), 0);
    assert_eq!(fixture.del("a"), 1);
    assert_eq!(list(&fixture.path()).unwrap().len(), 1);
    assert_eq!(fixture.del("b"), 1);
    assert_eq!(fixture.names(), ["lock"]);
}

#[test]
fn a_state_full_of_nonsense_is_ignored() {
    let fixture = Fixture::new(&["10.0.0.0/24"]);
    fixture.add("a").unwrap();
    fixture.write(".podwire", &"x".repeat(5000));
    fixture.write(".podwire.free.0", "y");
    assert_eq!(fixture.addresses_of("a"), ["10.0.0.2"]);
    assert_eq!(fixture.add("b").unwrap(), ["10.0.0.3"]);
}

#[test]
fn a_directory_that_cannot_be_made_is_an_error_that_names_it() {
    let fixture = Fixture::new(&["10.0.0.0/24"]);
    fs::write(fixture.path(), "a file").unwrap();
    let error = Store::create(&fixture.path()).unwrap_err().to_string();
    let path = fixture.path().display().to_string();
    assert!(
        error.contains(&path) && error.contains("Not a directory"),
        "{error}"
    );
}

/// What may happen in a lease directory.
#[derive(Debug, Clone)]
enum Step {
    Add(u8),
    Del(u8),
    /// host-local leases an address.
    ForeignAdd(u8, u8),
    /// host-local releases what a container has.
    ForeignDel(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..12u8).prop_map(Step::Add),
        4 => (0..12u8).prop_map(Step::Del),
        1 => (0..12u8, 2..15u8).prop_map(|(id, low)| Step::ForeignAdd(id, low)),
        1 => (0..12u8).prop_map(Step::ForeignDel),
    ]
}

/// Releases as host-local does: every file, links followed, with this content.
fn foreign_del(fixture: &Fixture, id: &str) {
    let entries = fs::read_dir(fixture.path()).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    names.sort();
    for path in names {
        let content = fs::read_to_string(&path).unwrap_or_default();
        if content == format!("{id}\r\neth0") {
            fs::remove_file(path).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn no_address_is_leased_twice_and_none_is_lost(
        steps in proptest::collection::vec(step(), 0..60),
    ) {
        let fixture = Fixture::new(&["10.0.0.0/28"]);
        let mut model: BTreeMap<String, String> = BTreeMap::new();
        fs::create_dir_all(fixture.path()).unwrap();
        for step in steps {
            match step {
                Step::Add(id) => {
                    let id = format!("c{id}-{}", model.len());
                    let taken = fixture.add(&id);
                    prop_assert_eq!(taken.is_none(), model.len() == 13, "exhausted too early");
                    if let Some(mut taken) = taken {
                        let address = taken.remove(0);
                        prop_assert!(model.insert(address, id).is_none(), "leased twice");
                    }
                }
                Step::Del(number) => {
                    let Some(id) = model.values().nth(number.into()).cloned() else { continue };
                    let count = model.values().filter(|other| **other == id).count();
                    prop_assert_eq!(fixture.del(&id), count);
                    model.retain(|_, other| *other != id);
                }
                Step::ForeignAdd(id, low) => {
                    let address = format!("10.0.0.{low}");
                    if let std::collections::btree_map::Entry::Vacant(entry) = model.entry(address) {
                        let id = format!("c{id}");
                        fixture.write(entry.key(), &format!("{id}\r\neth0"));
                        entry.insert(id);
                    }
                }
                Step::ForeignDel(number) => {
                    let Some(id) = model.values().nth(number.into()).cloned() else { continue };
                    foreign_del(&fixture, &id);
                    model.retain(|_, other| *other != id);
                }
            }
            let leases = list(&fixture.path()).unwrap();
            let found: BTreeSet<_> = leases.iter().map(|lease| lease.address.to_string()).collect();
            prop_assert_eq!(found, model.keys().cloned().collect::<BTreeSet<_>>());
        }
    }
}
