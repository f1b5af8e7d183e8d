//! What else may have the place of a namespace or of a file of ours, and who may write there.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};
use serde_json::json;

use super::{LEASES, RECORDS, mapping, with_ports};
use crate::net::SILENCE;
use crate::node::{Call, PLUGINS, config, names, on_a_node};

#[test]
fn del_succeeds_whatever_has_the_place_of_the_namespace() {
    on_a_node(|node| {
        let container = node.container("a");
        fs::write("/run/file", "").unwrap();
        let _socket = UnixListener::bind("/run/socket").unwrap();
        node.ask("mkfifo", &["/run/pipe"]);
        symlink("/run/nowhere", "/run/dangling").unwrap();
        for plugin in PLUGINS {
            let config = config(plugin, &["10.1.2.0/24"]);
            for path in [
                "/run/file",
                "/run",
                "/run/missing",
                "/run/file/below",
                "/run/socket",
                "/run/pipe",
                "/run/dangling",
                "/dev/null",
                "",
            ] {
                if plugin != "portmap" && plugin != "bandwidth" {
                    Call::new(plugin, "ADD", &container, &config).succeed();
                }
                let call = Call::new(plugin, "DEL", &container, &config);
                let answer = call.with("CNI_NETNS", path).run();
                assert!(answer.success, "{plugin} {path}: {answer:?}");
                node.assert_clean();
            }
        }
    });
}

#[test]
fn what_is_not_a_namespace_cannot_be_added_to_and_is_not_waited_for() {
    on_a_node(|node| {
        let container = node.container("a");
        fs::write("/run/file", "").unwrap();
        node.ask("mkfifo", &["/run/pipe"]);
        for plugin in ["podwire", "ptp", "loopback"] {
            let config = config(plugin, &["10.1.2.0/24"]);
            for path in [
                "/run/file",
                "/run",
                "/run/pipe",
                "/dev/null",
                "/run/missing",
            ] {
                let call = Call::new(plugin, "ADD", &container, &config);
                let message = call.with("CNI_NETNS", path).fail(8);
                assert!(message.contains(path), "{plugin}: {message}");
                node.assert_clean();
            }
        }
    });
}

#[test]
fn links_and_pipes_in_the_place_of_our_files_are_neither_followed_nor_waited_for() {
    on_a_node(|node| {
        let container = node.container("a");
        let config = with_ports(json!([mapping("", "tcp", 80)]));
        let call = |verb| Call::new("podwire", verb, &container, &config);
        fs::create_dir_all(LEASES).unwrap();
        fs::create_dir_all(RECORDS).unwrap();
        let record = format!(
            "{RECORDS}/{}.json",
            podwire::attachment::host_link_name("a", "eth0")
        );
        let ours = [
            format!("{LEASES}/.podwire"),
            format!("{LEASES}/.podwire.free.0"),
            format!("{LEASES}/.podwire.new"),
            format!("{LEASES}/last_reserved_ip.0"),
            format!("{RECORDS}/.new"),
            record,
        ];
        fs::write("/run/victim", "precious").unwrap();
        for path in &ours {
            for target in ["/run/victim", "/run/made", ""] {
                let _ = fs::remove_file(path);
                match target {
                    "" => drop(node.ask("mkfifo", &[path])),
                    target => symlink(target, path).unwrap(),
                }
                // The second time the addresses have been used, so that every file is needed.
                for _ in 0..2 {
                    call("ADD").succeed();
                    call("DEL").succeed();
                }
                assert_eq!(
                    fs::read_to_string("/run/victim").unwrap(),
                    "precious",
                    "{path}"
                );
                assert!(!Path::new("/run/made").exists(), "{path}");
                let _ = fs::remove_file(path);
            }
        }
        for lock in [format!("{LEASES}/lock"), format!("{RECORDS}/lock")] {
            let _ = fs::remove_file(&lock);
            symlink("/run/made", &lock).unwrap();
            for verb in ["ADD", "DEL"] {
                call(verb).succeed();
            }
            assert!(!Path::new("/run/made").exists(), "{lock}");
            fs::remove_file(&lock).unwrap();
        }
    });
}

#[test]
fn a_directory_in_the_place_of_a_lock_or_a_temporary_file_stops_nothing() {
    on_a_node(|node| {
        let paths = [
            format!("{LEASES}/lock"),
            format!("{LEASES}/.podwire.new"),
            format!("{RECORDS}/lock"),
            format!("{RECORDS}/.new"),
        ];
        for path in &paths {
            fs::create_dir_all(format!("{path}/x")).unwrap();
        }
        let (a, b) = (node.container("a"), node.container("b"));
        for (container, ports) in [(&a, json!([])), (&b, json!([mapping("", "tcp", 80)]))] {
            let config = with_ports(ports);
            let call = |verb| Call::new("podwire", verb, container, &config);
            let result = call("ADD").succeed();
            call("CHECK").after(&result).succeed();
            call("DEL").succeed();
        }
        let mut config = with_ports(json!([]));
        config["cni.dev/valid-attachments"] = json!([]);
        Call::new("podwire", "GC", &a, &config).succeed();
        assert_eq!(names(RECORDS), [".new", "lock"]);
        node.assert_nothing_mapped();
        assert!(paths.iter().all(|path| Path::new(path).join("x").is_dir()));
    });
}

#[test]
fn a_socket_in_the_place_of_a_lock_stops_nothing() {
    on_a_node(|node| {
        let locks = [format!("{LEASES}/lock"), format!("{RECORDS}/lock")];
        for lock in &locks {
            fs::create_dir_all(Path::new(lock).parent().unwrap()).unwrap();
            drop(UnixListener::bind(lock).unwrap());
        }
        let container = node.container("a");
        let mut config = with_ports(json!([mapping("", "tcp", 80)]));
        config["cni.dev/valid-attachments"] = json!([]);
        let call = |verb| Call::new("podwire", verb, &container, &config);
        let result = call("ADD").succeed();
        call("CHECK").after(&result).succeed();
        call("DEL").succeed();
        call("GC").succeed();
        node.assert_clean();
        // It is the directory that is locked.
        for directory in [LEASES, RECORDS] {
            let opened = fs::File::open(directory).unwrap();
            let lock = Flock::lock(opened, FlockArg::LockExclusiveNonblock).unwrap();
            let mut waiting = call("ADD").start();
            std::thread::sleep(SILENCE);
            assert!(waiting.try_wait().unwrap().is_none(), "{directory}");
            drop(lock);
            assert!(waiting.wait().unwrap().success());
            call("DEL").succeed();
        }
    });
}

#[test]
fn a_directory_in_the_place_of_a_record_keeps_no_table() {
    for is_empty in [true, false] {
        on_a_node(move |node| {
            let container = node.container("a");
            let mut config = with_ports(json!([mapping("", "tcp", 80)]));
            config["cni.dev/valid-attachments"] = json!([]);
            let call = |verb| Call::new("podwire", verb, &container, &config);
            call("ADD").succeed();
            let link = podwire::attachment::host_link_name("a", "eth0");
            let record = format!("{RECORDS}/{link}.json");
            fs::remove_file(&record).unwrap();
            let made = if is_empty {
                record.clone()
            } else {
                format!("{record}/x")
            };
            fs::create_dir_all(made).unwrap();
            call("DEL").succeed();
            assert_eq!(fs::exists(&record).unwrap(), !is_empty);
            node.assert_nothing_mapped();
            call("GC").succeed();
            assert_eq!(node.ruleset(), "");
        });
    }
}

#[test]
fn directories_of_ours_are_not_writable_for_others_whatever_the_umask() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    on_a_node(|node| {
        let container = node.container("a");
        let mut config = with_ports(json!([mapping("", "tcp", 80)]));
        config["networkPolicy"] = true.into();
        let policies = "/run/podwire/policy";
        let silent = format!("{policies}/silent");
        // STATUS comes first, before there is any pod or an agent.
        for (verb, paths) in [
            ("STATUS", ["/run/podwire", policies, policies, &silent]),
            ("ADD", ["/run/ipam", LEASES, "/run/podwire", RECORDS]),
        ] {
            let call = Call::new("podwire", verb, &container, &config);
            let mut command = std::process::Command::new("sh");
            let script = format!("umask 0; exec {}/podwire < /run/in", call.directory);
            command.args(["-c", &script]).arg0("sh").env_clear();
            let original = call.command();
            let variables = original.get_envs();
            command.envs(variables.filter_map(|(name, value)| Some((name, value?))));
            fs::write("/run/in", &call.stdin).unwrap();
            assert!(command.output().unwrap().status.success());
            for path in paths {
                let mode = fs::metadata(path).unwrap().permissions().mode();
                assert_eq!(mode & 0o022, 0, "{path}: {mode:o}");
            }
        }
    });
}

#[test]
fn a_run_directory_that_others_may_write_is_tightened_and_one_of_another_user_refused() {
    use std::os::unix::fs::{PermissionsExt, chown};
    on_a_node(|node| {
        let container = node.container("a");
        let config = with_ports(json!([mapping("", "tcp", 80)]));
        let path = "/run/podwire";
        let both = [path, "/run/podwire/policy"];
        for verb in ["STATUS", "ADD"] {
            for path in both {
                fs::create_dir_all(path).unwrap();
                fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
            }
            let answer = Call::new("podwire", verb, &container, &config).run();
            assert!(answer.success, "{verb}: {answer:?}");
            for path in both {
                let mode = fs::metadata(path).unwrap().permissions().mode();
                assert_eq!(mode & 0o777, 0o755, "{verb} {path}");
            }
        }
        Call::new("podwire", "DEL", &container, &config).succeed();
        chown(path, Some(1000), None).unwrap();
        let told = Call::new("podwire", "ADD", &container, &config).fail(5);
        assert!(told.contains("belongs to user 1000"), "{told}");
        assert_eq!(node.links(), ["lo"]);
    });
}
