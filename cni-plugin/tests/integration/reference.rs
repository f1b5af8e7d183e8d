//! Side by side with the reference plugins: the same calls, the same answers and files.

use std::fs;

use serde_json::{Value, json};

use super::node::{Answer, Call, Container, config, in_version, names, on_a_node};

/// The newest version that Debian's plugins speak.
const VERSION: &str = "1.0.0";

/// What both must agree on: not names and hardware addresses of links, nor which empty and which
/// newer keys are printed, nor which code says what, beyond that there is an error.
fn essence(answer: &Answer, error: bool) -> Value {
    let mut value = answer.stdout.clone();
    if error {
        return json!({"success": answer.success, "msg": value["msg"]});
    }
    if value["dns"] == json!({}) {
        value.as_object_mut().unwrap().remove("dns");
    }
    for interface in value["interfaces"].as_array_mut().into_iter().flatten() {
        let interface = interface.as_object_mut().unwrap();
        interface.remove("mac");
        if interface.get("sandbox").is_none() {
            interface.remove("name");
        }
    }
    value
}

/// The same call of both plugins.
fn both(call: &Call) -> [Answer; 2] {
    [call.run(), call.clone().of_reference().run()]
}

#[track_caller]
fn same_error(call: &Call) {
    let [ours, theirs] = both(call).map(|answer| essence(&answer, true));
    assert_eq!(ours, theirs, "{}", String::from_utf8_lossy(&call.stdin));
}

/// Ours and theirs in directories of their own.
fn in_directory(config: &Value, directory: &str) -> Value {
    let mut config = config.clone();
    config["ipam"]["dataDir"] = directory.into();
    config
}

fn visible(directory: &str) -> Vec<(String, String)> {
    let path = format!("{directory}/net");
    let names = names(&path)
        .into_iter()
        .filter(|name| !name.starts_with('.'));
    let read = |name: String| {
        let content = fs::read_to_string(format!("{path}/{name}")).unwrap();
        (name, content)
    };
    names.map(read).collect()
}

#[test]
fn ptp_prints_the_same_result_in_every_version() {
    on_a_node(|node| {
        for version in ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0"] {
            let config = in_version(&config("ptp", &["10.1.2.0/24"]), version);
            let container = node.container("a");
            let run = |reference: bool| {
                let directory = if reference {
                    "/run/theirs"
                } else {
                    "/run/ours"
                };
                let config = in_directory(&config, directory);
                let call = |verb| {
                    let call = Call::new("ptp", verb, &container, &config);
                    if reference { call.of_reference() } else { call }
                };
                let answer = call("ADD").run();
                assert!(answer.success, "{answer:?}");
                assert!(call("DEL").run().success);
                fs::remove_dir_all(directory).unwrap();
                essence(&answer, false)
            };
            assert_eq!(run(false), run(true), "{version}");
            node.remove(container);
        }
    });
}

#[test]
fn host_local_prints_the_same_results_and_writes_the_same_files() {
    on_a_node(|node| {
        let containers = ["a", "b", "c", "d"].map(|id| node.container(id));
        for version in ["0.2.0", "0.3.1", "0.4.0", "1.0.0"] {
            let mut base = in_version(
                &config("host-local", &["10.1.2.0/29", "fd00:1::/64"]),
                version,
            );
            base["ipam"]["routes"] =
                json!([{"dst": "0.0.0.0/0"}, {"dst": "10.0.0.0/8", "gw": "10.1.2.1"}]);
            let run = |verb: &str, container: &Container, ifname: &str| {
                let call = |directory| {
                    let config = in_directory(&base, directory);
                    Call::new("host-local", verb, container, &config).ifname(ifname)
                };
                let ours = call("/run/ours").run();
                let theirs = call("/run/theirs").of_reference().run();
                let error = !theirs.success;
                assert_eq!(essence(&ours, error), essence(&theirs, error), "{verb}");
                assert_eq!(visible("/run/ours"), visible("/run/theirs"), "{verb}");
            };
            let [a, b, c, d] = &containers;
            for (verb, container, ifname) in [
                ("ADD", a, "eth0"),
                ("ADD", a, "eth0"),
                ("ADD", a, "net1"),
                ("ADD", b, "eth0"),
                ("DEL", a, "eth0"),
                ("DEL", a, "eth0"),
                ("ADD", c, "eth0"),
                ("ADD", a, "eth0"),
                ("ADD", d, "eth0"),
                ("DEL", c, "eth0"),
                ("ADD", d, "eth0"),
                ("DEL", d, "eth0"),
                ("DEL", b, "eth0"),
                ("DEL", a, "net1"),
                ("DEL", a, "eth0"),
            ] {
                run(verb, container, ifname);
            }
            for directory in ["/run/ours", "/run/theirs"] {
                fs::remove_dir_all(directory).unwrap();
            }
        }
    });
}

/// A range set, what is leased, and the address leased last: which address comes next?
#[test]
fn the_next_address_is_the_same_wherever_the_last_one_was() {
    on_a_node(|node| {
        let container = node.container("a");
        let small = json!([{"subnet": "10.0.0.0/29"}]);
        let two = json!([
            {"subnet": "10.0.0.0/29", "rangeStart": "10.0.0.2", "rangeEnd": "10.0.0.3"},
            {"subnet": "10.0.1.0/29", "gateway": "10.0.1.6"},
        ]);
        for (ranges, leased, last) in [
            (&small, &[][..], ""),
            (&small, &[], "10.0.0.5"),
            (&small, &[], "10.0.0.6"),
            (&small, &["10.0.0.2", "10.0.0.5"], "10.0.0.2"),
            (
                &small,
                &["10.0.0.2", "10.0.0.4", "10.0.0.5", "10.0.0.6"],
                "10.0.0.6",
            ),
            (
                &small,
                &["10.0.0.2", "10.0.0.4", "10.0.0.5", "10.0.0.6"],
                "10.0.0.3",
            ),
            (
                &small,
                &["10.0.0.2", "10.0.0.3", "10.0.0.5", "10.0.0.6"],
                "10.0.0.4",
            ),
            (
                &small,
                &["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"],
                "10.0.0.4",
            ),
            (
                &small,
                &["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"],
                "10.0.0.5",
            ),
            (&small, &["10.0.0.6"], "10.9.9.9"),
            (&small, &["10.0.0.6"], "nonsense"),
            (&two, &["10.0.0.2"], "10.0.0.2"),
            (&two, &["10.0.0.2", "10.0.0.3"], "10.0.0.3"),
            (&two, &["10.0.1.1", "10.0.1.5"], "10.0.1.5"),
            (&two, &["10.0.1.5"], "10.0.1.4"),
        ] {
            let run = |directory: &str, reference: bool| {
                let path = format!("{directory}/net");
                fs::create_dir_all(&path).unwrap();
                for address in leased {
                    fs::write(format!("{path}/{address}"), "other\r\neth0").unwrap();
                }
                if !last.is_empty() {
                    fs::write(format!("{path}/last_reserved_ip.0"), last).unwrap();
                }
                let mut config = in_version(&config("host-local", &[]), VERSION);
                config["ipam"]["ranges"] = json!([ranges]);
                let config = in_directory(&config, directory);
                let call = Call::new("host-local", "ADD", &container, &config);
                let call = if reference { call.of_reference() } else { call };
                let answer = call.run();
                fs::remove_dir_all(directory).unwrap();
                essence(&answer, !answer.success)
            };
            let (ours, theirs) = (run("/run/ours", false), run("/run/theirs", true));
            assert_eq!(ours, theirs, "{ranges} {leased:?} {last}");
        }
    });
}

#[test]
fn a_directory_of_leases_goes_back_and_forth_between_both() {
    on_a_node(|node| {
        let config = in_version(
            &config("host-local", &["10.1.2.0/24", "fd00:1::/64"]),
            VERSION,
        );
        let containers: Vec<_> = (0..8)
            .map(|number| node.container(&format!("c{number}")))
            .collect();
        let call =
            |verb, number: usize| Call::new("host-local", verb, &containers[number], &config);
        for number in 0..8 {
            let add = call("ADD", number);
            let add = if number % 2 == 0 {
                add
            } else {
                add.of_reference()
            };
            let result = add.succeed();
            let expected = format!("10.1.2.{}/24", number + 2);
            assert_eq!(result["ips"][0]["address"], expected.as_str());
        }
        for number in 0..8 {
            // Each finds what the other leased.
            let check = call("CHECK", number);
            check.succeed();
            check.of_reference().succeed();
            assert!(!call("ADD", number).run().success);
            assert!(!call("ADD", number).of_reference().run().success);
        }
        for number in 0..8 {
            let del = call("DEL", number);
            let del = if number % 2 == 0 {
                del.of_reference()
            } else {
                del
            };
            del.succeed();
            let left = super::node::left_in("/run/ipam/net").into_iter();
            assert_eq!(
                left.filter(|name| !name.starts_with('.')).count(),
                2 * (7 - number)
            );
        }
        // Theirs leaves no entry of ours behind, and ours none of theirs.
        call("DEL", 0).succeed();
        node.assert_clean();
    });
}

#[test]
fn mistakes_in_the_environment_are_told_in_the_same_words() {
    on_a_node(|node| {
        let container = node.container("a");
        let config = in_version(&config("host-local", &["10.1.2.0/24"]), VERSION);
        let call = |verb| Call::new("host-local", verb, &container, &config);
        for call in [
            call("FOO"),
            call("ADD")
                .with("CNI_CONTAINERID", "")
                .with("CNI_IFNAME", ""),
            call("ADD").with("CNI_NETNS", ""),
            call("CHECK").with("CNI_IFNAME", ""),
            call("DEL").with("CNI_CONTAINERID", ""),
            call("ADD").with("CNI_ARGS", "IP=10.9.2.1"),
            call("ADD").with("CNI_ARGS", "IP=10.1.2.1"),
        ] {
            same_error(&call);
        }
        // Ours says more, after the same words.
        for call in [
            call("ADD").with("CNI_CONTAINERID", "a/b"),
            call("ADD").with("CNI_ARGS", "FOO=bar"),
            call("ADD").with("CNI_ARGS", "x"),
        ] {
            let [ours, theirs] = both(&call).map(|answer| answer.stdout["msg"].clone());
            let (ours, theirs) = (ours.as_str().unwrap(), theirs.as_str().unwrap());
            assert!(ours.starts_with(theirs), "{ours} / {theirs}");
        }
    });
}

#[test]
fn mistakes_in_the_configuration_are_told_in_the_same_words() {
    on_a_node(|node| {
        let container = node.container("a");
        let base = in_version(&config("host-local", &["10.1.2.0/24"]), VERSION);
        let with = |key: &str, value: Value| {
            let mut config = base.clone();
            config[key] = value;
            config
        };
        let ranges = |ranges: Value| {
            with(
                "ipam",
                json!({"type": "host-local", "dataDir": "/run/ipam", "ranges": ranges}),
            )
        };
        for config in [
            with("cniVersion", json!("9.9.9")),
            with("name", Value::Null),
            with("name", json!("a/b")),
            with("ipam", Value::Null),
            with("ipam", json!({})),
            ranges(json!([])),
            ranges(json!([[]])),
            ranges(json!([[{"subnet": "10.1.2.0/24"}], []])),
            ranges(json!([[{"subnet": "10.1.2.3/24"}]])),
            ranges(json!([[{"subnet": "10.1.2.0/31"}]])),
            ranges(json!([[{"subnet": "10.1.2.0/24", "rangeStart": "10.1.3.1"}]])),
            ranges(json!([[{"subnet": "10.1.2.0/24", "rangeEnd": "10.1.3.1"}]])),
            ranges(json!([[{"subnet": "10.1.2.0/24", "rangeStart": "fd00::1"}]])),
            ranges(json!([[{"subnet": "10.1.2.0/24"}, {"subnet": "fd00::/64"}]])),
            ranges(json!([[{"subnet": "10.1.2.0/24"}, {"subnet": "10.1.0.0/16"}]])),
            ranges(json!([[{"subnet": "10.1.2.0/24"}], [{"subnet": "10.1.0.0/16"}]])),
            in_version(
                &ranges(json!([[{"subnet": "10.1.2.0/24"}], [{"subnet": "10.2.0.0/16"}]])),
                "0.2.0",
            ),
        ] {
            same_error(&Call::new("host-local", "ADD", &container, &config));
        }
    });
}

#[test]
fn loopback_and_portmap_pass_a_result_through_alike() {
    on_a_node(|node| {
        let container = node.container("a");
        let previous = json!({
            "cniVersion": VERSION,
            "interfaces": [{"name": "veth1"}, {"name": "eth0", "sandbox": container.path}],
            "ips": [{"address": "10.1.2.3/24", "gateway": "10.1.2.1", "interface": 1}],
            "routes": [{"dst": "0.0.0.0/0"}],
            "dns": {"nameservers": ["192.0.2.53"]},
        });
        for plugin in ["loopback", "portmap"] {
            let config = json!({"cniVersion": VERSION, "name": "net", "type": plugin});
            let call = Call::new(plugin, "ADD", &container, &config).after(&previous);
            let [ours, theirs] = both(&call).map(|answer| answer.stdout);
            assert_eq!(ours, theirs);
            assert_eq!(ours, previous);
        }
        let config = json!({"cniVersion": VERSION, "name": "net", "type": "portmap"});
        same_error(&Call::new("portmap", "ADD", &container, &config));
        let config =
            json!({"cniVersion": VERSION, "name": "net", "type": "bandwidth", "ingressRate": 1});
        same_error(&Call::new("bandwidth", "ADD", &container, &config).after(&previous));
    });
}
