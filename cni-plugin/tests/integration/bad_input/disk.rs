//! A data directory in which nothing can be written.

use std::fs;
use std::path::Path;

use nix::mount::{MsFlags, mount};

use super::{SUBNETS, add, check};
use crate::node::{Call, config, names, on_a_node};

#[test]
fn a_data_directory_that_cannot_be_written_is_named() {
    on_a_node(|node| {
        let container = node.container("a");
        let mut config = config("podwire", &SUBNETS);
        let none: Option<&str> = None;
        fs::create_dir_all("/run/read-only").unwrap();
        mount(
            none,
            "/run/read-only",
            Some("tmpfs"),
            MsFlags::MS_RDONLY,
            none,
        )
        .unwrap();
        for (directory, expected) in [
            ("/run/read-only", "Read-only file system"),
            ("/run/read-only/deeper", "Read-only file system"),
            ("/proc/no", "No such file or directory"),
            ("/dev/null/x", "Not a directory"),
            ("\0", ""),
        ] {
            config["ipam"]["dataDir"] = directory.into();
            check(node, &add(&container, &config), 5, expected);
        }
        // A DEL where nothing can have been leased succeeds.
        config["ipam"]["dataDir"] = "/run/read-only".into();
        Call::new("podwire", "DEL", &container, &config).succeed();
    });
}

#[test]
fn a_data_directory_that_turned_read_only_fails_add_and_del_but_not_the_link() {
    on_a_node(|node| {
        let container = node.container("a");
        let config = config("podwire", &SUBNETS);
        let none: Option<&str> = None;
        fs::create_dir_all("/run/ipam").unwrap();
        mount(none, "/run/ipam", Some("tmpfs"), MsFlags::empty(), none).unwrap();
        let remount =
            |flags| mount(none, "/run/ipam", none, MsFlags::MS_REMOUNT | flags, none).unwrap();
        let del = Call::new("podwire", "DEL", &container, &config);
        add(&container, &config).succeed();
        remount(MsFlags::MS_RDONLY);
        let other = node.container("b");
        assert!(
            add(&other, &config)
                .fail(5)
                .contains("Read-only file system")
        );
        assert!(del.fail(5).contains("Read-only file system"));
        assert_eq!(node.links(), ["lo"]);
        remount(MsFlags::empty());
        del.succeed();
        node.assert_clean();
    });
}

#[test]
fn a_full_disk_is_named_and_leaves_nothing() {
    on_a_node(|node| {
        let container = node.container("a");
        let config = config("podwire", &SUBNETS);
        let none: Option<&str> = None;
        fs::create_dir_all("/run/ipam").unwrap();
        // So few files fit that the plugin runs out of them at every possible place.
        for inodes in 2..14 {
            let options = format!("nr_inodes={inodes}");
            mount(
                none,
                "/run/ipam",
                Some("tmpfs"),
                MsFlags::empty(),
                Some(options.as_str()),
            )
            .unwrap();
            let call = add(&container, &config);
            let answer = call.run();
            if !answer.success {
                assert_eq!(answer.stdout["code"], 5, "{answer:?}");
                let message = answer.stdout["msg"].as_str().unwrap();
                assert!(
                    message.contains("No space left on device; free some space"),
                    "{message}"
                );
            }
            let left = names("/run/ipam/net")
                .into_iter()
                .filter(|name| name.contains("::") || name.contains("10."));
            assert_eq!(
                left.count(),
                if answer.success { 2 } else { 0 },
                "{inodes} files"
            );
            Call::new("podwire", "DEL", &container, &config).succeed();
            node.assert_clean();
            // What another test is just starting may have files open until it is another program.
            let detach = nix::mount::MntFlags::MNT_DETACH;
            nix::mount::umount2(Path::new("/run/ipam"), detach).unwrap();
        }
    });
}
