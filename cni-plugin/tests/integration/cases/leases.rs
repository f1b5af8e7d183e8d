//! A directory of leases in which others have written, removed and moved things.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use serde_json::json;

use super::LEASES;
use crate::node::{Call, config, left_in, names, on_a_node};

#[test]
fn del_succeeds_whatever_has_the_place_of_the_leases() {
    on_a_node(|node| {
        let container = node.container("a");
        for plugin in ["podwire", "ptp", "host-local"] {
            let config = config(plugin, &["10.1.2.0/24"]);
            for place in [LEASES, "/run/ipam"] {
                Call::new(plugin, "ADD", &container, &config).succeed();
                fs::remove_dir_all(place).unwrap();
                Call::new(plugin, "DEL", &container, &config).succeed();
                fs::write(place, "").unwrap();
                Call::new(plugin, "DEL", &container, &config).succeed();
                let message = Call::new(plugin, "ADD", &container, &config).fail(5);
                assert!(message.contains(LEASES), "{message}");
                fs::remove_file(place).unwrap();
                node.assert_clean();
            }
        }
    });
}

#[test]
fn what_cannot_be_read_in_the_place_of_a_lease_takes_its_address_and_nothing_else() {
    on_a_node(|node| {
        let container = node.container("a");
        let config = config("host-local", &["10.1.2.0/28"]);
        let call = |verb| Call::new("host-local", verb, &container, &config);
        let at = |low: u8| format!("{LEASES}/10.1.2.{low}");
        fs::create_dir_all(at(2)).unwrap();
        fs::write(at(3), b"\xff\xfe").unwrap();
        fs::write(at(4), vec![b'a'; 200_000]).unwrap();
        fs::write(at(5), "a\r\neth0\0").unwrap();
        fs::write("/run/elsewhere", "a\r\neth0").unwrap();
        symlink("/run/elsewhere", at(6)).unwrap();
        symlink("/run/nowhere", at(7)).unwrap();
        node.ask("mkfifo", &[&at(8)]);
        let _socket = UnixListener::bind(at(9)).unwrap();
        fs::write(at(10), "").unwrap();
        fs::write(at(11), "other\r\neth0").unwrap();
        // Reading the memory of a process from address 0 on is EIO.
        fs::write(at(12), "a\r\neth0").unwrap();
        let memory = format!("/proc/{}/mem", std::process::id());
        node.ask("mount", &["--bind", &memory, &at(12)]);
        // What a crash left empty is named until it is removed, as here, and all else is taken.
        let empty = || podwire::lease::read_all(Path::new(LEASES)).unwrap().1;
        assert!(empty().iter().any(|one| one.reason == "it is empty"));
        let strange = [2, 3, 4, 5, 6, 7, 8, 9, 12];
        for expected in [10, 13, 14] {
            call("STATUS").succeed();
            let result = call("ADD").succeed();
            assert_eq!(result["ips"][0]["address"], format!("10.1.2.{expected}/28"));
            call("CHECK").succeed();
            call("DEL").succeed();
            call("DEL").succeed();
        }
        let mut requested = config.clone();
        requested["runtimeConfig"] = json!({"ips": ["10.1.2.2"]});
        let message = Call::new("host-local", "ADD", &container, &requested).fail(999);
        assert!(message.contains("10.1.2.2 is not available"), "{message}");
        let (leases, unreadable) = podwire::lease::read_all(Path::new(LEASES)).unwrap();
        assert_eq!(leases.len(), 1, "{leases:?}");
        let named: Vec<String> = unreadable
            .iter()
            .map(|one| one.address.to_string())
            .collect();
        assert_eq!(named, strange.map(|low| format!("10.1.2.{low}")));
        for one in &unreadable {
            let text = one.to_string();
            assert!(text.contains(&one.path.display().to_string()), "{text}");
        }
        let reason = &unreadable.last().unwrap().reason;
        assert!(reason.contains("Input/output error"), "{reason}");
        let mut gc = config.clone();
        gc["cni.dev/valid-attachments"] = json!([]);
        Call::new("host-local", "GC", &container, &gc).succeed();
        for low in strange {
            assert!(
                Path::new(&at(low)).symlink_metadata().is_ok(),
                "10.1.2.{low}"
            );
        }
        assert_eq!(fs::read("/run/elsewhere").unwrap(), b"a\r\neth0");
    });
}

#[test]
fn a_directory_in_the_place_of_a_file_of_the_index_stops_nothing() {
    on_a_node(|node| {
        let container = node.container("a");
        let config = config("podwire", &["10.1.2.0/24"]);
        for name in [
            ".a~eth0~0",
            ".podwire",
            ".podwire.free.0",
            "last_reserved_ip.0",
        ] {
            let _ = fs::remove_file(format!("{LEASES}/{name}"));
            fs::create_dir_all(format!("{LEASES}/{name}")).unwrap();
            for _ in 0..2 {
                Call::new("podwire", "ADD", &container, &config).succeed();
                Call::new("podwire", "DEL", &container, &config).succeed();
            }
            fs::remove_dir(format!("{LEASES}/{name}")).unwrap();
            node.assert_clean();
        }
    });
}

#[test]
fn del_releases_the_lease_that_the_file_says_whatever_the_index_says() {
    on_a_node(|node| {
        let container = node.container("a");
        let config = config("host-local", &["10.1.2.0/24", "fd00:1::/64"]);
        let call = |verb| Call::new("host-local", verb, &container, &config);
        let (v4, v6) = ("10.1.2.", "fd00:1::");
        let path_of = |start: &str| {
            let all = names(LEASES);
            let name = all.iter().find(|name| name.starts_with(start)).unwrap();
            format!("{LEASES}/{name}")
        };
        let contents = [
            "a",
            "a\n",
            "a\r\n",
            "a\r\neth0\r\n",
            "a\neth0",
            "a\neth0\n",
            " a\r\neth0 ",
        ];
        for content in contents {
            for both in [false, true] {
                call("ADD").succeed();
                fs::write(path_of(v4), content).unwrap();
                if both {
                    fs::write(path_of(v6), content).unwrap();
                }
                call("CHECK").succeed();
                call("DEL").succeed();
                assert_eq!(left_in(LEASES), Vec::<String>::new(), "{content:?}");
            }
        }
    });
}

#[test]
fn a_lease_that_was_given_to_another_container_in_place_is_that_one_s() {
    on_a_node(|node| {
        let (a, b) = (node.container("a"), node.container("b"));
        let config = config("host-local", &["10.1.2.0/24"]);
        let call = |verb, container| Call::new("host-local", verb, container, &config);
        for content in ["b\r\neth0", "b"] {
            for first in ["a", "b"] {
                let result = call("ADD", &a).succeed();
                let address = result["ips"][0]["address"].as_str().unwrap();
                let path = format!("{LEASES}/{}", address.trim_end_matches("/24"));
                fs::write(&path, content).unwrap();
                if first == "a" {
                    call("DEL", &a).succeed();
                    assert_eq!(fs::read_to_string(&path).unwrap(), content, "released by a");
                }
                call("CHECK", &b).succeed();
                call("DEL", &b).succeed();
                call("DEL", &a).succeed();
                assert_eq!(
                    left_in(LEASES),
                    Vec::<String>::new(),
                    "{content:?}, {first} first"
                );
                // The next of them must not be taken for what was released just now.
                call("ADD", &b).succeed();
                call("DEL", &b).succeed();
                assert_eq!(left_in(LEASES), Vec::<String>::new());
                change_stamp();
            }
        }
    });
}

#[test]
fn an_add_whose_lease_was_given_to_another_in_place_lets_that_one_have_no_second() {
    on_a_node(|node| {
        let (a, b) = (node.container("a"), node.container("b"));
        let config = config("host-local", &["10.1.2.0/24"]);
        let call = |verb, container| Call::new("host-local", verb, container, &config);
        for content in ["b\r\neth0", "b"] {
            let result = call("ADD", &a).succeed();
            let address = result["ips"][0]["address"].as_str().unwrap();
            let path = format!("{LEASES}/{}", address.trim_end_matches("/24"));
            fs::write(&path, content).unwrap();
            // As with the reference, the files say who has a lease and who has none.
            call("ADD", &a).succeed();
            let message = call("ADD", &b).fail(999);
            assert!(message.contains("duplicate allocation"), "{message}");
            call("DEL", &b).succeed();
            call("DEL", &a).succeed();
            assert_eq!(left_in(LEASES), Vec::<String>::new(), "{content:?}");
        }
    });
}

/// Adds and removes a name until the directory's time stamp is another one: kernels before 6.13
/// count it in ticks.
fn change_stamp() {
    let stamp = || {
        let directory = fs::metadata(LEASES).unwrap();
        (directory.ctime(), directory.ctime_nsec())
    };
    let before = stamp();
    while stamp() == before {
        fs::create_dir(format!("{LEASES}/x")).unwrap();
        fs::remove_dir(format!("{LEASES}/x")).unwrap();
    }
}

#[test]
fn gc_releases_the_leases_that_the_files_say_whatever_the_index_says() {
    on_a_node(|node| {
        let (a, b) = (node.container("a"), node.container("b"));
        let config = config("host-local", &["10.1.2.0/24"]);
        let call = |verb, container| Call::new("host-local", verb, container, &config);
        let mut gc = config.clone();
        gc["cni.dev/valid-attachments"] = json!([{"containerID": "b", "ifname": "eth0"}]);
        for content in ["a\r\neth0", "a"] {
            for still_there in [false, true] {
                // Released a moment ago, or with a lease of its own beside the other.
                call("ADD", &a).succeed();
                if !still_there {
                    call("DEL", &a).succeed();
                }
                let result = call("ADD", &b).succeed();
                let address = result["ips"][0]["address"].as_str().unwrap();
                let path = format!("{LEASES}/{}", address.trim_end_matches("/24"));
                fs::write(&path, content).unwrap();
                Call::new("host-local", "GC", &a, &gc).succeed();
                assert_eq!(
                    left_in(LEASES),
                    Vec::<String>::new(),
                    "{content:?}, {still_there}"
                );
            }
        }
    });
}

#[test]
fn an_index_that_is_missing_or_points_elsewhere_does_not_keep_a_lease() {
    on_a_node(|node| {
        let (a, b) = (node.container("a"), node.container("b"));
        let config = config("host-local", &["10.1.2.0/24"]);
        let call = |verb, container| Call::new("host-local", verb, container, &config);
        for target in ["", "10.1.2.99", "../../etc/passwd", "10.1.2.3"] {
            call("ADD", &a).succeed();
            call("ADD", &b).succeed();
            let entry = format!("{LEASES}/.a~eth0~0");
            fs::remove_file(&entry).unwrap();
            if !target.is_empty() {
                symlink(target, &entry).unwrap();
            }
            call("CHECK", &a).succeed();
            call("DEL", &a).succeed();
            call("CHECK", &b).succeed();
            call("DEL", &b).succeed();
            assert_eq!(left_in(LEASES), Vec::<String>::new(), "{target}");
        }
    });
}
