//! Cases from bug reports and configurations of other projects; docs/reliability.md lists them.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;

use serde_json::{Value, json};

use super::net::{inside, serve, tcp};
use super::node::{Call, Node, config, in_version, left_in, names, on_a_node};

const LEASES: &str = "/run/ipam/net";
const RECORDS: &str = "/run/podwire/attachments";

fn with_ports(ports: Value) -> Value {
    let mut config = config("podwire", &["10.1.2.0/24", "fd00:1::/64"]);
    config["runtimeConfig"] = json!({"portMappings": ports});
    config
}

fn mapping(host_ip: &str, protocol: &str, container_port: u16) -> Value {
    json!({
        "hostIP": host_ip, "hostPort": 8080, "protocol": protocol, "containerPort": container_port,
    })
}

/// Spellings of pairs of mappings that share a key in the kernel.
const SAME: [[(&str, &str); 2]; 9] = [
    [("", "tcp"), ("0.0.0.0", "tcp")],
    [("", "tcp"), ("::", "tcp")],
    [("0.0.0.0", "tcp"), ("::ffff:0.0.0.0", "tcp")],
    [("0.0.0.0", "tcp"), ("000.0.0.0", "tcp")],
    [("::", "tcp"), ("0:0::0", "tcp")],
    [("10.0.0.9", "tcp"), ("::ffff:10.0.0.9", "tcp")],
    [("10.0.0.9", "tcp"), ("010.000.000.009", "tcp")],
    [("fd00::9", "UDP"), ("FD00:0::0009", "udp")],
    [("", ""), ("", "TCP")],
];

#[test]
fn a_host_port_that_is_given_twice_in_two_spellings_is_one_and_is_taken_back() {
    on_a_node(|node| {
        let container = node.container("a");
        for [(ip, protocol), (other_ip, other_protocol)] in SAME {
            for turned in [false, true] {
                let mut ports = vec![
                    mapping(ip, protocol, 80),
                    mapping(other_ip, other_protocol, 80),
                ];
                if turned {
                    ports.reverse();
                }
                let config = with_ports(ports.into());
                Call::new("podwire", "ADD", &container, &config).succeed();
                Call::new("podwire", "DEL", &container, &config).succeed();
                Call::new("podwire", "DEL", &container, &config).succeed();
                node.assert_clean();
            }
        }
        let config = with_ports(json!([mapping("", "", 80), mapping("0.0.0.0", "tcp", 80)]));
        Call::new("podwire", "ADD", &container, &config).succeed();
        serve(&container.netns, "a", "10.1.2.20:80", false);
        assert_eq!(tcp("127.0.0.1:8080").unwrap(), "a 10.1.2.1");
    });
}

#[test]
fn two_mappings_of_one_key_to_two_ports_are_refused_however_they_are_written() {
    on_a_node(|node| {
        let container = node.container("a");
        for [(ip, protocol), (other_ip, other_protocol)] in SAME {
            let config = with_ports(json!([
                mapping(ip, protocol, 80),
                mapping(other_ip, other_protocol, 81),
            ]));
            let message = Call::new("podwire", "ADD", &container, &config).fail(7);
            assert!(
                message.contains("to two ports of the container"),
                "{message}"
            );
            node.assert_clean();
        }
        // These look alike and are not.
        let config = with_ports(json!([
            mapping("0.0.0.0", "tcp", 80),
            mapping("::", "tcp", 81),
            mapping("10.0.0.9", "tcp", 82),
            mapping("", "udp", 83),
        ]));
        Call::new("podwire", "ADD", &container, &config).succeed();
        Call::new("podwire", "DEL", &container, &config).succeed();
        node.assert_clean();
    });
}

#[test]
fn a_record_that_was_truncated_in_place_leaves_nothing_of_its_attachment_in_the_kernel() {
    a_record_without_its_content_leaves_nothing(|record| record.clear());
}

#[test]
fn a_record_that_lost_some_of_its_content_leaves_nothing_of_its_attachment_in_the_kernel() {
    let losses: [fn(&mut Value); 5] = [
        |record| *record = json!({}),
        |record| record["containerID"] = "another".into(),
        |record| record["hostPorts"] = Value::Null,
        |record| record["addresses"] = Value::Null,
        |record| drop(record.as_object_mut().unwrap().remove("chained")),
    ];
    for lose in losses {
        a_record_without_its_content_leaves_nothing(move |text| {
            let mut record = serde_json::from_str(text).unwrap();
            lose(&mut record);
            *text = record.to_string();
        });
    }
}

fn a_record_without_its_content_leaves_nothing(lose: impl FnOnce(&mut String) + Send + 'static) {
    on_a_node(move |node| {
        let (a, b) = (node.container("a"), node.container("b"));
        let arguments = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web";
        let mut config = with_ports(json!([mapping("", "tcp", 80), mapping("", "udp", 80)]));
        config["ipMasq"] = true.into();
        let other = with_ports(json!([{"hostPort": 8081, "containerPort": 80, "protocol": "tcp"}]));
        Call::new("podwire", "ADD", &a, &config)
            .with("CNI_ARGS", arguments)
            .succeed();
        let record = format!("{RECORDS}/{}", names(RECORDS)[1]);
        Call::new("podwire", "ADD", &b, &other).succeed();
        let mut content = fs::read_to_string(&record).unwrap();
        lose(&mut content);
        fs::write(&record, content).unwrap();
        Call::new("podwire", "DEL", &a, &config).succeed();
        let ruleset = node.ruleset();
        assert!(
            ruleset.contains("10.1.2.3 . 80") && !ruleset.contains("10.1.2.2"),
            "{ruleset}"
        );
        assert!(!fs::exists(&record).unwrap());
        Call::new("podwire", "DEL", &b, &other).succeed();
        node.assert_clean();
    });
}

#[test]
fn a_truncated_record_of_a_chained_plugin_takes_nothing_from_the_other_one() {
    on_a_node(|node| {
        let container = node.container("a");
        let mut config = with_ports(json!([]));
        config["ipMasq"] = true.into();
        let previous = Call::new("podwire", "ADD", &container, &config).succeed();
        let mut chained = with_ports(json!([mapping("", "tcp", 80)]));
        chained["type"] = "portmap".into();
        let call = |verb| Call::new("portmap", verb, &container, &chained).after(&previous);
        call("ADD").succeed();
        let is_chained = |name: &String| name.ends_with(".portmap.json");
        let record = names(RECORDS).into_iter().find(is_chained).unwrap();
        fs::write(format!("{RECORDS}/{record}"), "").unwrap();
        call("DEL").succeed();
        let ruleset = node.ruleset();
        assert!(!ruleset.contains("8080"), "{ruleset}");
        assert!(ruleset.contains("10.1.2.2 comment"), "{ruleset}");
        Call::new("podwire", "CHECK", &container, &config)
            .after(&previous)
            .succeed();
        Call::new("podwire", "DEL", &container, &config).succeed();
        node.assert_clean();
    });
}

#[test]
fn containers_whose_ids_start_alike_do_not_take_each_other_s_host_ports() {
    for truncated in [false, true] {
        on_a_node(move |node| {
            let [a, b] = ["a", "b"].map(|end| node.container(&format!("{}{end}", "f".repeat(63))));
            let config = with_ports(json!([mapping("", "tcp", 80)]));
            Call::new("podwire", "ADD", &a, &config).succeed();
            let record = format!("{RECORDS}/{}", names(RECORDS)[1]);
            Call::new("podwire", "ADD", &b, &config).succeed();
            if truncated {
                fs::write(&record, "").unwrap();
            }
            Call::new("podwire", "DEL", &a, &config).succeed();
            let ruleset = node.ruleset();
            assert!(ruleset.contains("10.1.2.3 . 80"), "{ruleset}");
            assert!(!ruleset.contains("10.1.2.2"), "{ruleset}");
            Call::new("podwire", "DEL", &b, &config).succeed();
            node.assert_clean();
        });
    }
}

#[test]
fn elements_with_the_comment_of_an_earlier_version_are_removed() {
    for truncated in [false, true] {
        on_a_node(move |node| {
            let [a, b] = ["a", "b"].map(|end| node.container(&format!("{}{end}", "f".repeat(63))));
            let config = with_ports(json!([mapping("", "tcp", 80)]));
            let other =
                with_ports(json!([{"hostPort": 81, "containerPort": 80, "protocol": "tcp"}]));
            Call::new("podwire", "ADD", &a, &config).succeed();
            let record = format!("{RECORDS}/{}", names(RECORDS)[1]);
            Call::new("podwire", "ADD", &b, &other).succeed();
            let nft = |words: &str| {
                let words: Vec<&str> = words.split(' ').collect();
                node.ask("nft", &words)
            };
            let former = format!("comment \"{}/eth0\"", "f".repeat(32));
            // The first one leads elsewhere than the record says.
            for (port, target) in [(8080, "10.1.2.2 . 81"), (81, "10.1.2.3 . 80")] {
                let map = "inet podwire-hostports hostports-v4";
                nft(&format!("delete element {map} {{ tcp . {port} }}"));
                nft(&format!(
                    "add element {map} {{ tcp . {port} {former} : {target} }}"
                ));
            }
            if truncated {
                fs::write(&record, "").unwrap();
            }
            Call::new("podwire", "DEL", &a, &config).succeed();
            let ruleset = node.ruleset();
            assert!(ruleset.contains("10.1.2.3 . 80"), "{ruleset}");
            assert!(!ruleset.contains("8080"), "{ruleset}");
            Call::new("podwire", "DEL", &b, &other).succeed();
            node.assert_clean();
        });
    }
}

#[test]
fn elements_that_are_gone_or_another_container_s_do_not_stop_a_removal() {
    on_a_node(|node| {
        let (a, b) = (node.container("a"), node.container("b"));
        let config = with_ports(json!([mapping("", "tcp", 80), mapping("", "udp", 80)]));
        Call::new("podwire", "ADD", &a, &config).succeed();
        // The record of an earlier version, which kept both spellings.
        let path = format!("{RECORDS}/{}", names(RECORDS)[1]);
        let mut record: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let ports = record["hostPorts"].as_array_mut().unwrap();
        let twice = json!({
            "protocol": "udp", "hostIP": "0.0.0.0", "hostPort": 8080, "containerPort": 81,
        });
        ports.push(twice);
        fs::write(&path, record.to_string()).unwrap();
        let tcp = with_ports(json!([mapping("", "tcp", 80)]));
        Call::new("podwire", "ADD", &b, &tcp).succeed();
        let element = "{ udp . 8080 }";
        node.ask(
            "nft",
            &[
                "delete",
                "element",
                "inet",
                "podwire-hostports",
                "hostports-v6",
                element,
            ],
        );
        Call::new("podwire", "DEL", &a, &config).succeed();
        let ruleset = node.ruleset();
        assert!(
            ruleset.contains("10.1.2.3 . 80") && !ruleset.contains("10.1.2.2"),
            "{ruleset}"
        );
        Call::new("podwire", "DEL", &b, &config).succeed();
        node.assert_clean();
    });
}

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
fn without_a_way_to_the_container_portmap_leaves_127_0_0_1_out_and_says_so() {
    on_a_node(|node| {
        let container = node.container("a");
        let previous = json!({
            "cniVersion": "1.0.0",
            "interfaces": [{"name": "eth0", "sandbox": container.path}],
            "ips": [
                {"address": "10.66.0.2/24", "interface": 0},
                {"address": "fd66::2/64", "interface": 0},
            ],
        });
        let mut config = with_ports(json!([mapping("", "tcp", 80)]));
        config["cniVersion"] = "1.0.0".into();
        let call = |verb| Call::new("portmap", verb, &container, &config).after(&previous);
        for kind in ["", "unreachable", "blackhole", "prohibit", "throw"] {
            for network in ["10.66.0.0/16", "fd66::/64"] {
                if !kind.is_empty() {
                    node.ask("ip", &["route", "add", kind, network]);
                }
            }
            let answer = call("ADD").run();
            assert!(answer.success, "{kind}: {answer:?}");
            for expected in ["do not work from 127.0.0.1", "do not work from ::1"] {
                assert!(
                    answer.stderr.contains(expected),
                    "{kind}: {}",
                    answer.stderr
                );
            }
            assert!(node.ruleset().contains("10.66.0.2 . 80"), "{kind}");
            call("CHECK").succeed();
            call("DEL").succeed();
            node.assert_nothing_mapped();
            for network in ["10.66.0.0/16", "fd66::/64"] {
                if !kind.is_empty() {
                    node.ask("ip", &["route", "del", kind, network]);
                }
            }
        }
    });
}

#[test]
fn del_succeeds_whatever_has_the_place_of_the_namespace() {
    on_a_node(|node| {
        let container = node.container("a");
        fs::write("/run/file", "").unwrap();
        let _socket = UnixListener::bind("/run/socket").unwrap();
        node.ask("mkfifo", &["/run/pipe"]);
        symlink("/run/nowhere", "/run/dangling").unwrap();
        for plugin in [
            "podwire",
            "ptp",
            "host-local",
            "portmap",
            "loopback",
            "bandwidth",
        ] {
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
fn a_name_that_the_kernel_would_complete_is_refused_by_every_plugin() {
    on_a_node(|node| {
        let container = node.container("a");
        for plugin in [
            "podwire",
            "ptp",
            "host-local",
            "portmap",
            "loopback",
            "bandwidth",
        ] {
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
        // What a crash left empty is free, and all else is taken.
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
                fs::create_dir(format!("{LEASES}/x")).unwrap();
                fs::remove_dir(format!("{LEASES}/x")).unwrap();
            }
        }
    });
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
            let message = call("ADD").fail(5);
            assert!(message.contains(&lock), "{message}");
            fs::remove_file(&lock).unwrap();
            assert!(!Path::new("/run/made").exists(), "{lock}");
            call("DEL").succeed();
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
