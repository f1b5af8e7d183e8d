//! Addresses from another IPAM plugin.

use std::fs;

use podwire_kernel::RouteSocket;
use serde_json::{Value, json};

use super::net::{serve, tcp};
use super::node::{Call, config, on_a_node};

/// A plugin that another one is written to call: a program in CNI_PATH.
fn write_plugin(name: &str, script: &str) {
    use std::os::unix::fs::PermissionsExt;
    let path = format!("{}/{name}", super::node::OURS);
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn addresses_can_come_from_another_plugin() {
    on_a_node(|node| {
        write_plugin(
            "other-ipam",
            r#"cat > /run/stdin.$CNI_COMMAND; echo "$CNI_CONTAINERID $CNI_IFNAME" >> /run/calls.$CNI_COMMAND
            [ $CNI_COMMAND != ADD ] || echo '{"cniVersion": "0.4.0", "ips": [{"version": "4",
            "address": "10.7.7.7/24", "gateway": "10.7.7.1"}], "routes": [{"dst": "0.0.0.0/0"}]}'"#,
        );
        let mut config = config("ptp", &[]);
        config["ipam"] = json!({"type": "other-ipam", "anything": [1, 2]});
        let container = node.container("a");
        let result = Call::new("ptp", "ADD", &container, &config).succeed();
        assert_eq!(result["ips"][0]["address"], "10.7.7.7/24");
        assert_eq!(result["ips"][0]["interface"], 1);
        let passed: Value = serde_json::from_slice(&fs::read("/run/stdin.ADD").unwrap()).unwrap();
        assert_eq!(passed, config);
        serve(&container.netns, "web", "10.7.7.7:80", false);
        assert_eq!(tcp("10.7.7.7:80").unwrap(), "web 10.7.7.1");
        Call::new("ptp", "CHECK", &container, &config)
            .after(&result)
            .succeed();
        Call::new("ptp", "STATUS", &container, &config).succeed();
        Call::new("ptp", "DEL", &container, &config).succeed();
        for verb in ["ADD", "CHECK", "STATUS", "DEL"] {
            let calls = fs::read_to_string(format!("/run/calls.{verb}")).unwrap();
            assert_eq!(calls, "a eth0\n", "{verb}");
        }
        node.assert_clean();
    });
}

#[test]
fn arguments_that_only_the_other_plugin_understands_are_left_to_it() {
    on_a_node(|node| {
        write_plugin(
            "other-ipam",
            r#"echo "$CNI_ARGS" > /run/arguments
            [ $CNI_COMMAND != ADD ] || echo '{"cniVersion": "0.4.0", "ips": [{"version": "4",
            "address": "10.7.7.7/24", "gateway": "10.7.7.1"}]}'"#,
        );
        let container = node.container("a");
        for plugin in ["ptp", "podwire"] {
            let mut of_other = config(plugin, &[]);
            of_other["ipam"] = json!({"type": "other-ipam"});
            let built_in = config(plugin, &["10.1.2.0/24"]);
            for arguments in [
                "LABELS=a=b",
                "IP=dhcp",
                ";",
                "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;x",
            ] {
                let call = |verb, config| {
                    Call::new(plugin, verb, &container, config).with("CNI_ARGS", arguments)
                };
                call("ADD", &of_other).succeed();
                let passed = fs::read_to_string("/run/arguments").unwrap();
                assert_eq!(passed, format!("{arguments}\n"));
                let link = RouteSocket::open().unwrap().link_by_name(&node.host_link());
                let alias = link.unwrap().unwrap().alias.unwrap();
                assert_eq!(
                    alias.contains("shop/web"),
                    arguments.contains("shop"),
                    "{alias}"
                );
                call("DEL", &of_other).succeed();
                assert!(!call("ADD", &built_in).run().success, "{arguments}");
            }
        }
        node.assert_clean();
    });
}

#[test]
fn an_error_of_the_other_plugin_is_passed_on_and_its_add_undone() {
    on_a_node(|node| {
        write_plugin(
            "other-ipam",
            r#"echo $CNI_COMMAND >> /run/calls
            [ $CNI_COMMAND != ADD ] || { echo '{"code": 123, "msg": "no luck", "details": "at all"}'; exit 1; }"#,
        );
        let mut config = config("ptp", &[]);
        config["ipam"] = json!({"type": "other-ipam"});
        let container = node.container("a");
        let answer = Call::new("ptp", "ADD", &container, &config).run();
        assert_eq!(answer.stdout["code"], 123);
        assert_eq!(answer.stdout["msg"], "no luck");
        assert_eq!(answer.stdout["details"], "at all");
        assert_eq!(fs::read_to_string("/run/calls").unwrap(), "ADD\nDEL\n");
        node.assert_clean();
    });
}

#[test]
fn a_plugin_that_gives_nonsense_is_named_and_undone() {
    on_a_node(|node| {
        let mut config = config("ptp", &[]);
        config["ipam"] = json!({"type": "other-ipam"});
        let container = node.container("a");
        for (script, expected) in [
            ("echo nonsense", "no JSON"),
            ("echo '{\"ips\": 3}'", "ips must be a list"),
            ("echo '{}'", "missing IP config"),
            ("exit 3", "gave no error message"),
            (
                "echo '{\"ips\": [{\"address\": \"10.1.1.1/24\"}]}'",
                "without a gateway",
            ),
            ("kill -9 $$", "gave no error message"),
        ] {
            write_plugin(
                "other-ipam",
                &format!("echo $CNI_COMMAND >> /run/calls; {script}"),
            );
            let answer = Call::new("ptp", "ADD", &container, &config).run();
            let message = answer.stdout["msg"].as_str().unwrap();
            assert!(message.contains(expected), "{script}: {message}");
            let calls = fs::read_to_string("/run/calls").unwrap();
            assert!(calls.ends_with("ADD\nDEL\n"), "{script}: {calls}");
            node.assert_clean();
        }
    });
}

#[test]
fn a_plugin_that_leads_back_to_this_one_is_refused() {
    on_a_node(|node| {
        let container = node.container("a");
        write_plugin("detour", r#"exec "$(dirname "$0")/podwire""#);
        for (kind, verbs) in [("podwire", &["ADD", "DEL"][..]), ("detour", &["ADD"])] {
            let mut config = config("podwire", &[]);
            config["ipam"] = json!({"type": kind});
            for verb in verbs {
                let answer = Call::new("podwire", verb, &container, &config).run();
                let message = answer.stdout["msg"].as_str().unwrap();
                assert!(message.contains("leads back"), "{kind} {verb}: {message}");
            }
        }
        // One that has addresses from the built-in host-local by a script of its own is not refused.
        write_plugin(
            "with-more",
            r#"sed 's/with-more/host-local/' | "$(dirname "$0")/host-local""#,
        );
        let mut config = config("ptp", &["10.1.2.0/24"]);
        config["ipam"]["type"] = json!("with-more");
        let result = Call::new("ptp", "ADD", &container, &config).succeed();
        assert_eq!(result["ips"][0]["address"], "10.1.2.2/24");
        Call::new("ptp", "DEL", &container, &config).succeed();
        node.assert_clean();
    });
}

#[test]
fn a_plugin_that_is_not_installed_is_named() {
    on_a_node(|node| {
        let mut config = config("ptp", &[]);
        let container = node.container("a");
        for (kind, expected) in [
            (
                "not-installed",
                "failed to find plugin \"not-installed\" in path",
            ),
            ("../bin/sh", "name of a program"),
            ("", "ipam.type is missing"),
        ] {
            config["ipam"] = json!({ "type": kind });
            let message = Call::new("ptp", "ADD", &container, &config).fail(7);
            assert!(message.contains(expected), "{message}");
        }
    });
}
