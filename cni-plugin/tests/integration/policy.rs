//! NetworkPolicies where no agent answers: what ADD opens, and what DEL takes away.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use super::node::{Call, Node, OURS, config, left_in, on_a_node};

/// The sets that matter, as the agent makes them, and something of everyone.
const TABLES: &str = "
table ip podwire-policy {
    map peers { typeof ip saddr : meta priority
        elements = { 10.1.2.2 : 1f12:8a4c, 10.9.9.9 : 1f12:8a4c } }
    map blocks { typeof ip saddr : meta priority; flags interval
        elements = { 10.1.0.0/16 : 2222:1111 } }
    set open-in { typeof ip daddr; elements = { 10.1.2.99 } }
    set open-out { typeof ip daddr; }
    set in-ports { typeof meta priority . ip daddr . meta l4proto . th dport
        elements = { 1f12:8a4c . 10.1.2.2 . tcp . 80, 1f12:8a4c . 10.1.2.99 . tcp . 80 } }
    set out-range-80-90 { typeof meta priority . ip daddr . meta l4proto
        elements = { 1f12:8a4c . 10.1.2.2 . udp } }
    set self { typeof ip saddr . ip daddr; elements = { 10.1.2.2 . 10.1.2.2 } }
    set allowed { typeof ip saddr . ip daddr . meta l4proto . th dport
        size 65536; flags dynamic,timeout; timeout 1h
        elements = { 10.9.9.9 . 10.1.2.2 . tcp . 80 } }
}
table ip6 podwire-policy {
    set open-in { typeof ip6 daddr; }
    set open-out { typeof ip6 daddr; }
    set allowed { typeof ip6 saddr . ip6 daddr . meta l4proto . th dport
        size 65536; flags dynamic,timeout; timeout 1h; }
}
";

/// A node with policies in namespace `shop`, and no agent.
fn enforce(node: &Node) {
    fs::create_dir_all("/run/podwire/policy").unwrap();
    fs::write("/run/podwire/policy/namespaces", "shop\n").unwrap();
    let mut nft = Command::new("nft");
    let mut nft = nft.args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut input = nft.stdin.take().unwrap();
    input.write_all(TABLES.as_bytes()).unwrap();
    drop(input);
    assert!(nft.wait().unwrap().success());
    assert!(node.ruleset().contains("podwire-policy"));
}

const SUBNETS: [&str; 2] = ["10.1.2.0/24", "fd00:1::/64"];

#[test]
fn what_no_policy_is_about_is_opened_and_del_leaves_nothing_of_the_address() {
    on_a_node(|node| {
        enforce(node);
        let config = config("podwire", &SUBNETS);
        let container = node.container("0123456789abcdef");
        let arguments = "IgnoreUnknown=1;K8S_POD_NAMESPACE=free;K8S_POD_NAME=web";
        for (arguments, comment) in [("", "container 0123456789ab"), (arguments, "free/web")] {
            let add = Call::new("podwire", "ADD", &container, &config).with("CNI_ARGS", arguments);
            let answer = add.run();
            assert!(answer.success, "{answer:?}");
            assert!(answer.stderr.contains("podwire-agent does not answer"));
            let result = answer.stdout;
            for set in ["open-in", "open-out"] {
                for (family, index) in [("ip", 0), ("ip6", 1)] {
                    let address = result["ips"][index]["address"].as_str().unwrap();
                    let (address, _) = address.split_once('/').unwrap();
                    let set = node.ask("nft", &["list", "set", family, "podwire-policy", set]);
                    let element = format!("{address} comment \"{comment}\"");
                    assert!(set.contains(&element), "{set}");
                }
            }
            Call::new("podwire", "DEL", &container, &config).succeed();
            let ruleset = node.ruleset();
            assert!(!ruleset.contains(comment), "{ruleset}");
        }
    });
}

#[test]
fn del_takes_out_every_element_of_the_address_and_none_of_others() {
    on_a_node(|node| {
        let config = config("podwire", &SUBNETS);
        let container = node.container("a");
        let result = Call::new("podwire", "ADD", &container, &config).succeed();
        assert_eq!(result["ips"][0]["address"], "10.1.2.2/32");
        // The policies come later.
        enforce(node);
        Call::new("podwire", "DEL", &container, &config).succeed();
        let ruleset = node.ruleset();
        assert!(
            !ruleset.contains("10.1.2.2 ") && !ruleset.contains("10.1.2.2."),
            "{ruleset}"
        );
        for kept in [
            "10.9.9.9 : 1f12:8a4c",
            "10.1.2.99 }",
            "10.1.2.99 . tcp",
            "10.1.0.0/16",
        ] {
            assert!(ruleset.contains(kept), "{kept}:\n{ruleset}");
        }
        assert!(!ruleset.contains("10.9.9.9 . 10.1.2.2"), "{ruleset}");
        // A second one finds nothing to do.
        Call::new("podwire", "DEL", &container, &config).succeed();
        assert_eq!(node.ruleset(), ruleset);
    });
}

#[test]
fn del_takes_out_what_is_of_an_address_that_only_the_files_know() {
    on_a_node(|node| {
        let config = config("podwire", &SUBNETS);
        let (first, second) = (node.container("a"), node.container("b"));
        let result = Call::new("podwire", "ADD", &first, &config).succeed();
        assert_eq!(result["ips"][0]["address"], "10.1.2.2/32");
        enforce(node);
        fs::write("/run/ipam/net/10.1.2.2", "b\r\neth0").unwrap();
        Call::new("podwire", "DEL", &second, &config).succeed();
        assert_eq!(left_in("/run/ipam/net"), [".a~eth0~0", "fd00:1::2"]);
        let ruleset = node.ruleset();
        assert!(
            !ruleset.contains("10.1.2.2 ") && ruleset.contains("10.1.2.99 }"),
            "{ruleset}"
        );
    });
}

#[test]
fn a_pod_of_a_namespace_with_policies_is_not_started_and_nothing_is_left() {
    on_a_node(|node| {
        enforce(node);
        let config = config("podwire", &SUBNETS);
        let container = node.container("a");
        let before = Instant::now();
        let arguments = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web";
        let add = Call::new("podwire", "ADD", &container, &config).with("CNI_ARGS", arguments);
        let text = add.fail(11);
        assert!(before.elapsed() >= Duration::from_secs(2));
        let expected = "podwire-agent does not answer; namespace shop has NetworkPolicies, a pod \
                        there is not started unprotected";
        assert!(text.starts_with(expected), "{text}");
        let ruleset = node.ruleset();
        assert!(
            !ruleset.contains("shop") && ruleset.contains("10.1.2.99"),
            "{ruleset}"
        );
        assert_eq!(node.links(), ["lo"]);
        assert_eq!(left_in("/run/ipam/net"), Vec::<String>::new());
    });
}

#[test]
fn status_fails_once_the_agent_has_been_away_for_a_while() {
    on_a_node(|node| {
        let config = config("podwire", &SUBNETS);
        let container = node.container("a");
        let status = Call::new("podwire", "STATUS", &container, &config);
        status.succeed();
        assert!(!fs::exists("/run/podwire/policy/silent").unwrap());
        enforce(node);
        status.succeed();
        node.ask(
            "touch",
            &["-d", "-40 seconds", "/run/podwire/policy/silent"],
        );
        let text = status.fail(50);
        assert!(
            text.contains("podwire-agent does not answer on /run/podwire/pods.sock"),
            "{text}"
        );
        fs::remove_file("/run/podwire/policy/namespaces").unwrap();
        status.succeed();
        assert!(!fs::exists("/run/podwire/policy/silent").unwrap());
    });
}

#[test]
fn an_address_that_is_opened_without_an_agent_inherits_nothing() {
    on_a_node(|node| {
        // As a killed DEL leaves it: the address is free, and its elements are there.
        enforce(node);
        let config = config("podwire", &SUBNETS);
        let container = node.container("a");
        let result = Call::new("podwire", "ADD", &container, &config).succeed();
        assert_eq!(result["ips"][0]["address"], "10.1.2.2/32");
        let ruleset = node.ruleset();
        assert!(
            ruleset.contains("10.1.2.2 comment \"container a\""),
            "{ruleset}"
        );
        for of_the_last in [
            "10.1.2.2 : 1f12:8a4c",
            "10.1.2.2 . tcp",
            "10.1.2.2 . 10.1.2.2",
        ] {
            assert!(!ruleset.contains(of_the_last), "{of_the_last}:\n{ruleset}");
        }
        assert!(ruleset.contains("10.9.9.9 : 1f12:8a4c"), "{ruleset}");
    });
}

#[test]
fn on_a_machine_that_has_just_started_a_pod_waits_for_the_agent() {
    on_a_node(|node| {
        let mut config = config("podwire", &SUBNETS);
        config["networkPolicy"] = true.into();
        let container = node.container("a");
        let arguments = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web";
        let add = Call::new("podwire", "ADD", &container, &config).with("CNI_ARGS", arguments);
        let text = add.fail(11);
        assert!(
            text.contains("namespace shop may have NetworkPolicies"),
            "{text}"
        );
        assert_eq!(node.links(), ["lo"]);
        // The runtime is told once that has lasted.
        let silent = "/run/podwire/policy/silent";
        let status = Call::new("podwire", "STATUS", &container, &config);
        status.succeed();
        node.ask("touch", &["-d", "-40 seconds", silent]);
        status.fail(50);
        // Of a container without a pod no policy can speak.
        Call::new("podwire", "ADD", &container, &config).succeed();
        Call::new("podwire", "DEL", &container, &config).succeed();
        fs::create_dir_all("/run/podwire/policy").unwrap();
        fs::write("/run/podwire/policy/none", "").unwrap();
        add.succeed();
    });
}

#[test]
fn a_result_that_is_not_understood_stops_no_del_and_its_addresses_are_forgotten() {
    on_a_node(|node| {
        let program = format!("{OURS}/leases");
        fs::write(&program, format!("#!/bin/sh\nexec {OURS}/host-local\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let mut config = config("podwire", &SUBNETS);
        config["ipam"]["type"] = "leases".into();
        let container = node.container("a");
        for (change, is_forgotten) in [
            (json!({"prevResult": {"cniVersion": "1.2.0"}}), false),
            (json!({"prevResult": "none"}), false),
            (
                json!({"prevResult": {"ips": [{"address": "10.1.2.2"}]}}),
                true,
            ),
            (
                json!({"runDir": 5, "prevResult": {"ips": [{"address": "10.1.2.2/32"}]}}),
                true,
            ),
        ] {
            let add = Call::new("podwire", "ADD", &container, &config);
            add.succeed();
            enforce(node);
            let mut broken = config.clone();
            let changed = broken.as_object_mut().unwrap();
            changed.extend(change.as_object().unwrap().clone());
            let answer = Call::new("podwire", "DEL", &container, &broken).run();
            assert!(answer.success, "{change}: {answer:?}");
            assert!(answer.stderr.contains("not understood"), "{answer:?}");
            assert_eq!(answer.stderr.matches(" must be ").count(), 1, "{answer:?}");
            let ruleset = node.ruleset();
            assert_eq!(
                !ruleset.contains("10.1.2.2 : 1f12"),
                is_forgotten,
                "{change}"
            );
            assert_eq!(node.links(), ["lo"]);
            assert_eq!(left_in("/run/ipam/net"), Vec::<String>::new());
            for family in ["ip", "ip6"] {
                node.ask("nft", &["delete", "table", family, "podwire-policy"]);
            }
            fs::remove_dir_all("/run/podwire/policy").unwrap();
            fs::remove_dir_all("/run/ipam").unwrap();
        }
    });
}

#[test]
fn links_and_pipes_in_the_place_of_the_agent_s_files_are_neither_followed_nor_waited_for() {
    on_a_node(|node| {
        enforce(node);
        let config = config("podwire", &SUBNETS);
        let container = node.container("a");
        let silent = "/run/podwire/policy/silent";
        let status = Call::new("podwire", "STATUS", &container, &config);
        symlink("/run/made", silent).unwrap();
        status.succeed();
        assert!(!fs::exists("/run/made").unwrap());
        node.ask("touch", &["-h", "-d", "-40 seconds", silent]);
        status.fail(50);
        // A list that says of no namespace that it has policies.
        fs::write("/run/list", "").unwrap();
        let namespaces = "/run/podwire/policy/namespaces";
        for target in ["/run/list", ""] {
            fs::remove_file(namespaces).unwrap();
            match target {
                "" => drop(node.ask("mkfifo", &[namespaces])),
                target => symlink(target, namespaces).unwrap(),
            }
            let arguments = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web";
            let add = Call::new("podwire", "ADD", &container, &config).with("CNI_ARGS", arguments);
            let text = add.fail(11);
            assert!(text.contains("namespace shop may have"), "{text}");
        }
    });
}
