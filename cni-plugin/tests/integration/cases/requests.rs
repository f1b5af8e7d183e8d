//! Requests and configurations in odd forms, most of them side by side with the reference plugins.

use std::fs;

use serde_json::{Value, json};

use super::{LEASES, mapping, with_ports};
use crate::net::inside;
use crate::node::{Call, Node, PLUGINS, config, in_version, left_in, on_a_node};

#[test]
fn gc_with_an_attachment_that_lacks_a_name_takes_nothing() {
    on_a_node(|node| {
        let container = node.container("a");
        let mut config = with_ports(json!([mapping("", "tcp", 80)]));
        Call::new("podwire", "ADD", &container, &config).succeed();
        for listed in [
            json!({"containerID": "a"}),
            json!({"containerID": "a", "ifname": null}),
            json!({"containerID": "a", "ifname": ""}),
            json!({"ifname": "eth0"}),
            json!({}),
        ] {
            config["cni.dev/valid-attachments"] = json!([listed]);
            let why = Call::new("podwire", "GC", &container, &config).fail(6);
            assert!(why.contains("containerID and ifname"), "{why}");
            assert_eq!(node.links().len(), 2, "{listed}");
        }
    });
}

#[test]
fn gc_with_null_in_the_place_of_an_empty_list_keeps_nothing() {
    on_a_node(|node| {
        let container = node.container("a");
        for plugin in ["podwire", "ptp", "host-local", "portmap", "bandwidth"] {
            let mut config = with_ports(json!([mapping("", "tcp", 80)]));
            config["type"] = plugin.into();
            let link = if plugin == "portmap" || plugin == "bandwidth" {
                "ptp"
            } else {
                plugin
            };
            let result = Call::new(link, "ADD", &container, &config).succeed();
            if link != plugin {
                Call::new(plugin, "ADD", &container, &config)
                    .after(&result)
                    .succeed();
            }
            // Without the key there is no word about what to keep.
            Call::new(plugin, "GC", &container, &config).fail(7);
            config["cni.dev/valid-attachments"] = Value::Null;
            Call::new(plugin, "GC", &container, &config).succeed();
            if link != plugin {
                Call::new(link, "GC", &container, &config).succeed();
            }
            node.assert_clean();
        }
    });
}

#[test]
fn gc_with_two_lists_that_differ_keeps_what_is_in_either() {
    on_a_node(|node| {
        let mut config = config("podwire", &["10.1.2.0/24"]);
        let containers = ["a", "b", "c"].map(|id| node.container(id));
        for container in &containers {
            Call::new("podwire", "ADD", container, &config).succeed();
        }
        let list = |id| json!([{"containerID": id, "ifname": "eth0"}]);
        let leases = || left_in("/run/ipam/net");
        config["cni.dev/valid-attachments"] = list("a");
        config["cni.dev/attachments"] = list("b");
        Call::new("podwire", "GC", &containers[0], &config).succeed();
        let kept = [".a~eth0~0", ".b~eth0~0", "10.1.2.2", "10.1.2.3"];
        assert_eq!(leases(), kept);
        config["cni.dev/valid-attachments"] = Value::Null;
        Call::new("podwire", "GC", &containers[0], &config).succeed();
        assert_eq!(leases(), [".b~eth0~0", "10.1.2.3"]);
    });
}

/// Whether ADD works, and what it answers, in a network of its own.
fn answer_with(
    node: &mut Node,
    reference: bool,
    config: &Value,
    previous: &Value,
) -> (bool, Value) {
    let plugin = config["type"].as_str().unwrap();
    let container = node.container("null");
    let mut call = Call::new(plugin, "ADD", &container, config);
    if !previous.is_null() {
        call = call.after(previous);
    }
    let mut delete = Call::new(plugin, "DEL", &container, config);
    if reference {
        (call, delete) = (call.of_reference(), delete.of_reference());
    }
    let mut answer = call.run();
    delete.run();
    node.remove(container);
    let _ = fs::remove_dir_all("/run/ipam");
    if let Some(result) = answer.stdout.as_object_mut() {
        // Names and hardware addresses are chosen; the reference prints dns even if it is empty.
        result.retain(|key, value| key != "interfaces" && *value != json!({}));
    }
    (answer.success, answer.stdout)
}

#[test]
fn null_means_what_it_means_to_the_reference_plugins() {
    on_a_node(|node| {
        let full = || {
            let mut config = in_version(&config("ptp", &["10.1.2.0/24"]), "1.0.0");
            config["ipam"]["subnet"] = Value::Null;
            config["ipam"].as_object_mut().unwrap().remove("subnet");
            config
        };
        for pointer in [
            "/mtu",
            "/ipMasq",
            "/dns",
            "/dns/nameservers",
            "/dns/search",
            "/dns/domain",
            "/args",
            "/args/cni",
            "/args/cni/ips",
            "/runtimeConfig",
            "/runtimeConfig/ips",
            "/runtimeConfig/ipRanges",
            "/prevResult",
            "/ipam/routes",
            "/ipam/gateway",
            "/ipam/rangeStart",
            "/ipam/rangeEnd",
            "/ipam/resolvConf",
            "/ipam/ranges/0/0/gateway",
            "/ipam/ranges/0/0/rangeStart",
            "/ipam/ranges/0/0/rangeEnd",
            "/ipam/routes/0/gw",
            "/ipam",
            "/ipam/type",
            "/ipam/ranges",
            "/name",
        ] {
            let mut config = full();
            let mut place = &mut config;
            for key in pointer[1..].split('/') {
                place = match key.parse::<usize>() {
                    Ok(index) => &mut place[index],
                    Err(_) => &mut place[key],
                };
            }
            *place = Value::Null;
            let theirs = answer_with(node, true, &config, &Value::Null);
            let ours = answer_with(node, false, &config, &Value::Null);
            assert_eq!(ours.0, theirs.0, "{pointer}: {} {}", ours.1, theirs.1);
            if ours.0 {
                assert_eq!(ours.1, theirs.1, "{pointer}");
            }
        }
    });
}

#[test]
fn null_in_a_list_of_routes_or_interfaces_is_absent() {
    on_a_node(|node| {
        let mut host_local = in_version(&config("host-local", &["10.1.2.0/24"]), "1.0.0");
        host_local["ipam"]["routes"] = json!([null]);
        let portmap = json!({"cniVersion": "1.0.0", "name": "net", "type": "portmap"});
        let ips = json!([{"address": "10.1.2.2/24"}]);
        let without_interface = json!({"cniVersion": "1.0.0", "ips": ips, "interfaces": [null]});
        let without_route = json!({"cniVersion": "1.0.0", "ips": ips, "routes": [null]});
        for (config, previous) in [
            (&host_local, &Value::Null),
            (&portmap, &without_interface),
            (&portmap, &without_route),
        ] {
            for reference in [true, false] {
                let (success, answer) = answer_with(node, reference, config, previous);
                assert!(success, "{config} {previous}: {answer}");
                assert_eq!(answer["ips"][0]["address"], "10.1.2.2/24");
            }
        }
    });
}

#[test]
fn a_limit_of_null_hides_what_the_runtime_says_as_with_the_reference_plugin() {
    on_a_node(|node| {
        let container = node.container("a");
        let link = in_version(&config("ptp", &["10.1.2.0/24"]), "1.0.0");
        let previous = Call::new("ptp", "ADD", &container, &link).succeed();
        // A rate without a burst: a plugin that looks at it refuses it.
        let runtime = json!({"bandwidth": {"ingressRate": 8000}});
        for (key, refused) in [("", true), ("ingressRate", false), ("egressBurst", false)] {
            let mut config = json!({"cniVersion": "1.0.0", "name": "net", "type": "bandwidth"});
            config["runtimeConfig"] = runtime.clone();
            if !key.is_empty() {
                config[key] = Value::Null;
            }
            let call = Call::new("bandwidth", "ADD", &container, &config).after(&previous);
            assert_eq!(
                !call.clone().of_reference().run().success,
                refused,
                "reference, {key}"
            );
            assert_eq!(!call.run().success, refused, "{key}");
        }
    });
}

#[test]
fn addresses_that_the_reference_refuses_in_a_request_are_refused() {
    on_a_node(|node| {
        let config = in_version(&config("host-local", &["10.1.2.0/24"]), "1.0.0");
        let container = node.container("a");
        for (value, taken) in [
            ("10.1.2.77/24", true),
            ("10.1.2.77/0", true),
            ("10.1.2.77/024", true),
            ("::ffff:10.1.2.77/120", true),
            ("10.1.2.77/99", false),
            ("10.1.2.77/", false),
            ("10.1.2.77/+24", false),
            ("10.1.2.77/24,10.1.2.78/24", false),
        ] {
            let add = Call::new("host-local", "ADD", &container, &config)
                .with("CNI_ARGS", format!("IP={value}"));
            for add in [add.clone().of_reference(), add] {
                let answer = add.run();
                assert_eq!(answer.success, taken, "{value}: {answer:?}");
                Call::new("host-local", "DEL", &container, &config).succeed();
            }
        }
    });
}

#[test]
fn an_empty_address_in_a_request_is_none() {
    on_a_node(|node| {
        let container = node.container("a");
        let mut config = config("host-local", &["10.1.2.0/24"]);
        config["runtimeConfig"] = json!({"ips": ["", "10.1.2.77"]});
        config["args"] = json!({"cni": {"ips": [""]}});
        let call = Call::new("host-local", "ADD", &container, &config);
        let result = call.with("CNI_ARGS", "IgnoreUnknown=1;IP=").succeed();
        assert_eq!(result["ips"][0]["address"], "10.1.2.77/24");
    });
}

#[test]
fn a_network_of_ipv4_in_ipv6_spelling_is_read_as_the_reference_plugin_reads_it() {
    on_a_node(|node| {
        let mut config = in_version(&config("ptp", &["10.1.2.0/24"]), "1.0.0");
        config["ipam"]["routes"] = json!([{"dst": "::ffff:10.0.0.0/104"}]);
        let theirs = answer_with(node, true, &config, &Value::Null);
        let ours = answer_with(node, false, &config, &Value::Null);
        assert_eq!(ours, theirs);
        assert_eq!(ours.1["routes"], json!([{"dst": "10.0.0.0/8"}]));
    });
}

#[test]
fn subnets_that_the_reference_refuses_are_refused() {
    on_a_node(|node| {
        let container = node.container("a");
        for subnet in [
            "::ffff:10.9.0.0/120",
            "::ffff:0.0.0.0/96",
            "0.0.0.0/0",
            "::/0",
            "0.0.0.0/8",
        ] {
            let config = config("host-local", &[subnet]);
            let call = Call::new("host-local", "ADD", &container, &config);
            assert!(
                !call.clone().of_reference().run().success,
                "reference, {subnet}"
            );
            call.fail(7);
            assert_eq!(left_in(LEASES), Vec::<String>::new(), "{subnet}");
        }
    });
}

#[test]
fn a_gateway_may_be_outside_of_its_subnet_as_with_host_local() {
    on_a_node(|node| {
        let gateways = ["169.254.1.1", "fd00:99::1"];
        let with_gateways = |plugin: &str| {
            let mut config = in_version(&config(plugin, &["10.1.2.0/24", "fd00:1::/64"]), "1.0.0");
            for (set, gateway) in gateways.iter().enumerate() {
                config["ipam"]["ranges"][set][0]["gateway"] = (*gateway).into();
            }
            config
        };
        let config = with_gateways("host-local");
        let theirs = answer_with(node, true, &config, &Value::Null);
        let ours = answer_with(node, false, &config, &Value::Null);
        assert_eq!(ours, theirs);
        assert!(ours.0, "{}", ours.1);
        let container = node.container("a");
        // The reference ptp makes the routes in an order that fails there.
        for plugin in ["ptp", "podwire"] {
            let config = with_gateways(plugin);
            let result = Call::new(plugin, "ADD", &container, &config).succeed();
            Call::new(plugin, "CHECK", &container, &config)
                .after(&result)
                .succeed();
            for gateway in gateways {
                let address = std::net::SocketAddr::new(gateway.parse().unwrap(), 99);
                let listener = std::net::TcpListener::bind(address).unwrap();
                let connect = || std::net::TcpStream::connect(address).map(drop);
                inside(&container.netns, connect).unwrap();
                drop(listener);
            }
            Call::new(plugin, "DEL", &container, &config).succeed();
            node.assert_clean();
        }
        let mut mixed = with_gateways("podwire");
        mixed["ipam"]["ranges"][0][0]["gateway"] = "fd00:99::1".into();
        let message = Call::new("podwire", "ADD", &container, &mixed).fail(7);
        assert!(message.contains("address family"), "{message}");
        node.assert_clean();
    });
}

#[test]
fn a_name_that_the_kernel_would_complete_is_refused_by_every_plugin() {
    on_a_node(|node| {
        let container = node.container("a");
        for plugin in PLUGINS {
            for name in ["net%d", "%d", "eth%"] {
                let config = config(plugin, &["10.1.2.0/24"]);
                let call = |verb| Call::new(plugin, verb, &container, &config).ifname(name);
                let message = call("ADD").fail(4);
                assert!(message.contains(name) && message.contains('%'), "{message}");
                call("DEL").succeed();
            }
        }
        assert_eq!(node.links(), ["lo"]);
    });
}
