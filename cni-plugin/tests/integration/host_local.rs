//! `host-local`: the upstream test list of the reference plugin, on ours.

use std::fs;

use serde_json::{Value, json};

use super::node::{Call, Container, config, in_version, names, on_a_node};

const DIRECTORY: &str = "/run/ipam/net";

fn add(container: &Container, config: &Value) -> Value {
    Call::new("host-local", "ADD", container, config).succeed()
}

fn addresses(result: &Value) -> Vec<String> {
    let ips = result["ips"].as_array().unwrap().iter();
    ips.map(|ip| ip["address"].as_str().unwrap().to_owned())
        .collect()
}

fn visible() -> Vec<String> {
    names(DIRECTORY)
        .into_iter()
        .filter(|name| !name.starts_with('.'))
        .collect()
}

#[test]
fn addresses_are_leased_and_released_in_every_version() {
    on_a_node(|node| {
        let container = node.container("a");
        for version in [
            "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0",
        ] {
            let config = in_version(
                &config("host-local", &["10.1.2.0/24", "fd00:1::/64"]),
                version,
            );
            let result = add(&container, &config);
            assert!(result.get("interfaces").is_none());
            assert_eq!(visible().len(), 5, "{version}");
            Call::new("host-local", "DEL", &container, &config).succeed();
            node.assert_clean();
        }
    });
}

#[test]
fn a_result_has_the_first_addresses_their_gateways_and_the_routes() {
    on_a_node(|node| {
        let container = node.container("a");
        let result = add(
            &container,
            &config("host-local", &["10.1.2.0/24", "fd00:1::/64"]),
        );
        let expected = json!({
            "cniVersion": "1.1.0",
            "ips": [
                {"address": "10.1.2.2/24", "gateway": "10.1.2.1"},
                {"address": "fd00:1::2/64", "gateway": "fd00:1::1"},
            ],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
        });
        assert_eq!(result, expected);
        assert_eq!(
            fs::read_to_string(format!("{DIRECTORY}/10.1.2.2")).unwrap(),
            "a\r\neth0"
        );
        let last = fs::read_to_string(format!("{DIRECTORY}/last_reserved_ip.1")).unwrap();
        assert_eq!(last, "fd00:1::2");
    });
}

#[test]
fn two_interfaces_of_one_container_have_their_own_addresses() {
    on_a_node(|node| {
        let container = node.container("a");
        let config = config("host-local", &["10.1.2.0/24"]);
        let call =
            |verb, ifname: &str| Call::new("host-local", verb, &container, &config).ifname(ifname);
        assert_eq!(addresses(&call("ADD", "eth0").succeed()), ["10.1.2.2/24"]);
        assert_eq!(addresses(&call("ADD", "eth1").succeed()), ["10.1.2.3/24"]);
        call("CHECK", "eth0").succeed();
        call("DEL", "eth0").succeed();
        call("CHECK", "eth1").succeed();
        let message = call("CHECK", "eth0").fail(999);
        assert_eq!(
            message,
            "host-local: Failed to find address added by container a"
        );
    });
}

#[test]
fn a_repeated_add_is_refused_and_keeps_the_lease() {
    on_a_node(|node| {
        let container = node.container("a");
        let config = config("host-local", &["10.1.2.0/24", "fd00:1::/64"]);
        add(&container, &config);
        let message = Call::new("host-local", "ADD", &container, &config).fail(999);
        let expected = "failed to allocate for range 0: 10.1.2.2 has been allocated to a, \
                        duplicate allocation is not allowed";
        assert_eq!(message, expected);
        Call::new("host-local", "CHECK", &container, &config).succeed();
    });
}

#[test]
fn a_lease_of_the_old_format_is_released() {
    on_a_node(|node| {
        let container = node.container("a");
        fs::create_dir_all(DIRECTORY).unwrap();
        fs::write(format!("{DIRECTORY}/10.1.2.7"), "a").unwrap();
        let config = config("host-local", &["10.1.2.0/24"]);
        Call::new("host-local", "CHECK", &container, &config).succeed();
        Call::new("host-local", "DEL", &container, &config).succeed();
        node.assert_clean();
    });
}

#[test]
fn an_unknown_container_is_deleted_without_a_word() {
    on_a_node(|node| {
        let container = node.container("a");
        let config = config("host-local", &["10.1.2.0/24"]);
        let answer = Call::new("host-local", "DEL", &container, &config).run();
        assert!(answer.success && answer.stderr.is_empty() && answer.stdout.is_null());
        node.assert_clean();
    });
}

#[test]
fn the_first_use_says_nothing_on_standard_error() {
    on_a_node(|node| {
        let container = node.container("a");
        let config = config("host-local", &["10.1.2.0/24"]);
        let answer = Call::new("host-local", "ADD", &container, &config).run();
        assert!(answer.success);
        assert_eq!(answer.stderr, "");
    });
}

#[test]
fn an_address_can_be_asked_for_by_cni_args() {
    on_a_node(|node| {
        let container = node.container("a");
        let config = config("host-local", &["10.1.2.0/24"]);
        let call = Call::new("host-local", "ADD", &container, &config);
        let result = call.with("CNI_ARGS", "IP=10.1.2.88").succeed();
        assert_eq!(addresses(&result), ["10.1.2.88/24"]);
    });
}

#[test]
fn addresses_can_be_asked_for_by_args_and_by_the_runtime_out_of_several_range_sets() {
    on_a_node(|node| {
        for (id, path) in [("a", "args"), ("b", "runtimeConfig")] {
            let container = node.container(id);
            let mut config = config("host-local", &["10.1.2.0/24", "10.1.3.0/24", "fd00:1::/64"]);
            let low = if id == "a" { 20 } else { 30 };
            let ips = json!([format!("fd00:1::{low}"), format!("10.1.3.{low}/24")]);
            config[path] = match path {
                "args" => json!({"cni": {"ips": ips}}),
                _ => json!({ "ips": ips }),
            };
            let result = add(&container, &config);
            let free = if id == "a" {
                "10.1.2.2/24"
            } else {
                "10.1.2.3/24"
            };
            let expected = [
                free.to_owned(),
                format!("10.1.3.{low}/24"),
                format!("fd00:1::{low}/64"),
            ];
            assert_eq!(addresses(&result), expected);
        }
    });
}

#[test]
fn an_address_that_cannot_be_given_makes_add_fail_and_leaves_nothing() {
    on_a_node(|node| {
        let container = node.container("a");
        let config = config("host-local", &["10.1.2.0/24", "fd00:1::/64"]);
        let call = |arguments: &str| {
            let call = Call::new("host-local", "ADD", &container, &config);
            call.with("CNI_ARGS", arguments)
        };
        let message = call("IP=192.0.2.1").fail(999);
        assert_eq!(message, "failed to allocate all requested IPs: 192.0.2.1");
        node.assert_clean();
        let message = call("IP=fd00:1::1").fail(999);
        let expected = "failed to allocate for range 1: requested ip fd00:1::1 is subnet's gateway";
        assert_eq!(message, expected);
        node.assert_clean();
        let other = node.container("b");
        let taken = Call::new("host-local", "ADD", &other, &config);
        taken.with("CNI_ARGS", "IP=fd00:1::5").succeed();
        let message = call("IP=fd00:1::5").fail(999);
        assert!(
            message.contains("requested IP address fd00:1::5 is not available"),
            "{message}"
        );
        assert!(
            !visible().contains(&"10.1.2.3".to_owned()),
            "{:?}",
            visible()
        );
    });
}

#[test]
fn ranges_of_the_runtime_come_first() {
    on_a_node(|node| {
        let container = node.container("a");
        let mut config = config("host-local", &["10.1.2.0/24"]);
        config["ipam"]["subnet"] = "10.1.3.0/24".into();
        config["runtimeConfig"] = json!({"ipRanges": [[{"subnet": "10.1.4.0/24"}]]});
        let result = add(&container, &config);
        let expected = ["10.1.4.2/24", "10.1.3.2/24", "10.1.2.2/24"];
        assert_eq!(addresses(&result), expected);
    });
}

#[test]
fn one_pool_of_several_ranges_gives_one_address() {
    on_a_node(|node| {
        let mut config = config("host-local", &[]);
        config["ipam"]["ranges"] = json!([[
            {"subnet": "10.1.2.0/24", "rangeStart": "10.1.2.9", "rangeEnd": "10.1.2.9"},
            {"subnet": "10.1.3.0/24", "rangeStart": "10.1.3.5", "gateway": "10.1.3.254"},
        ]]);
        let results = ["a", "b"].map(|id| add(&node.container(id), &config)["ips"][0].clone());
        let expected = [
            json!({"address": "10.1.2.9/24", "gateway": "10.1.2.1"}),
            json!({"address": "10.1.3.5/24", "gateway": "10.1.3.254"}),
        ];
        assert_eq!(results, expected);
    });
}

#[test]
fn leases_go_to_the_default_directory_if_none_is_named() {
    on_a_node(|node| {
        let container = node.container("a");
        let mut config = config("host-local", &["10.1.2.0/24"]);
        config["ipam"].as_object_mut().unwrap().remove("dataDir");
        add(&container, &config);
        assert!(names("/var/lib/cni/networks/net").contains(&"10.1.2.2".to_owned()));
        Call::new("host-local", "DEL", &container, &config).succeed();
        node.assert_clean();
    });
}

#[test]
fn status_and_versions_are_told() {
    on_a_node(|node| {
        let container = node.container("a");
        let config = config("host-local", &["10.1.2.0/30"]);
        Call::new("host-local", "STATUS", &container, &config).succeed();
        // With no address left it is a working node, as for the reference, which knows no STATUS.
        add(&container, &config);
        Call::new("host-local", "STATUS", &container, &config).succeed();
        let versions = Call::new("host-local", "VERSION", &container, &config).succeed();
        assert_eq!(versions["supportedVersions"].as_array().unwrap().len(), 7);
        let answer = Call::new("host-local", "", &container, &config).run();
        assert!(answer.success && answer.stdout.is_null());
        assert!(
            answer
                .stderr
                .contains("CNI protocol versions supported: 0.1.0, 0.2.0")
        );
    });
}

/// Leases of one network in a directory that also has 60,000 others.
#[test]
fn a_directory_with_many_leases_is_looked_through_once() {
    on_a_node(|node| {
        let config = config("host-local", &["10.0.0.0/8"]);
        fs::create_dir_all(DIRECTORY).unwrap();
        for number in 0..3000u32 {
            let [_, a, b, c] = (number + 256).to_be_bytes();
            fs::write(
                format!("{DIRECTORY}/10.{a}.{b}.{c}"),
                format!("id{number}\r\neth0"),
            )
            .unwrap();
        }
        let container = node.container("a");
        let count = |call: &Call| super::trace::system_calls(call);
        let first = count(&Call::new("host-local", "ADD", &container, &config));
        let del = Call::new("host-local", "DEL", &container, &config);
        let add = Call::new("host-local", "ADD", &container, &config);
        let later = [count(&del), count(&add), count(&del), count(&del)];
        assert!(first > 3000, "the index was not made: {first} system calls");
        let most = later.iter().max().unwrap();
        assert!(*most < 200, "{later:?} system calls with an index");
        // Of a container of which nothing is known, nor of what policies say of it.
        let (unknown, other) = (node.container("x"), node.container("y"));
        let once = count(&Call::new("host-local", "DEL", &unknown, &config));
        let mut with_policies = config.clone();
        with_policies["networkPolicy"] = true.into();
        let found = count(&Call::new("podwire", "DEL", &other, &with_policies));
        assert!(once > 3000 && found < once + once / 2, "{once}, {found}");
    });
}

#[test]
fn gc_releases_the_leases_of_containers_that_are_not_listed() {
    on_a_node(|node| {
        let mut config = config("host-local", &["10.1.2.0/24", "fd00:1::/64"]);
        let containers = ["a", "b", "c"].map(|id| node.container(id));
        for container in &containers {
            add(container, &config);
        }
        fs::write(format!("{DIRECTORY}/10.1.2.200"), "b").unwrap();
        fs::write(format!("{DIRECTORY}/10.1.2.201"), "gone").unwrap();
        config["cni.dev/valid-attachments"] = json!([{"containerID": "b", "ifname": "eth0"}]);
        Call::new("host-local", "GC", &containers[0], &config).succeed();
        let left: Vec<_> = visible()
            .into_iter()
            .filter(|name| name.contains(['.', ':']))
            .collect();
        let left: Vec<_> = left
            .iter()
            .filter(|name| !name.starts_with("last"))
            .collect();
        assert_eq!(left, ["10.1.2.200", "10.1.2.3", "fd00:1::3"]);
    });
}

#[test]
fn gc_keeps_the_addresses_of_pods_of_an_earlier_plugin() {
    on_a_node(|node| {
        let mut config = config("host-local", &["10.1.2.0/24"]);
        fs::create_dir_all(DIRECTORY).unwrap();
        fs::write(format!("{DIRECTORY}/10.1.2.2"), "adopted-10.1.2.2\r\neth0").unwrap();
        fs::write(format!("{DIRECTORY}/10.1.2.3"), "gone\r\neth0").unwrap();
        let container = node.container("a");
        config["cni.dev/valid-attachments"] = json!([]);
        Call::new("host-local", "GC", &container, &config).succeed();
        let leased = add(&container, &config);
        assert_eq!(leased["ips"][0]["address"], "10.1.2.3/24", "{leased}");
    });
}

#[test]
fn gc_without_a_list_removes_nothing() {
    on_a_node(|node| {
        let config = config("host-local", &["10.1.2.0/24"]);
        let container = node.container("a");
        add(&container, &config);
        Call::new("host-local", "GC", &container, &config).fail(7);
        Call::new("host-local", "CHECK", &container, &config).succeed();
    });
}
