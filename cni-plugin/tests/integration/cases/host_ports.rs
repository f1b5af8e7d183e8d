//! Host ports in spellings of all kinds, and where no way leads to the container.

use serde_json::json;

use super::{mapping, with_ports};
use crate::net::{Outside, serve, tcp};
use crate::node::{Call, config, on_a_node};

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
fn portmap_opens_no_link_behind_which_the_container_is_not() {
    on_a_node(|node| {
        let _outside = Outside::new(node);
        let container = node.container("a");
        let mut config = with_ports(json!([mapping("", "tcp", 80)]));
        config["cniVersion"] = "1.0.0".into();
        // By the default route, by a gateway of the other family, and the node itself.
        for (v4, v6) in [
            ("10.66.0.2", "fd66::2"),
            ("10.67.0.2", "fd66::2"),
            ("192.0.2.1", "2001:db8::1"),
        ] {
            if v4 == "10.67.0.2" {
                let route = [
                    "route",
                    "add",
                    "10.67.0.0/16",
                    "via",
                    "inet6",
                    "2001:db8::9",
                ];
                node.ask("ip", &route);
            }
            let previous = json!({
                "cniVersion": "1.0.0",
                "interfaces": [{"name": "eth0", "sandbox": container.path}],
                "ips": [
                    {"address": format!("{v4}/24"), "interface": 0},
                    {"address": format!("{v6}/64"), "interface": 0},
                ],
            });
            let call = |verb| Call::new("portmap", verb, &container, &config).after(&previous);
            let answer = call("ADD").run();
            assert!(answer.success, "{v4}: {answer:?}");
            for expected in ["do not work from 127.0.0.1", "do not work from ::1"] {
                assert!(answer.stderr.contains(expected), "{v4}: {}", answer.stderr);
            }
            for link in ["uplink", "lo"] {
                let key = format!("net/ipv4/conf/{link}/route_localnet");
                assert_eq!(
                    podwire_kernel::sysctl::read(&key).unwrap(),
                    "0",
                    "{v4} {link}"
                );
            }
            let local = ["-6", "route", "show", "table", "local", "::1"];
            assert_eq!(node.ask("ip", &local).lines().count(), 1, "{v6}");
            call("DEL").succeed();
        }
    });
}

#[test]
fn a_host_port_at_an_address_of_a_family_that_the_container_lacks_is_said() {
    on_a_node(|node| {
        let container = node.container("a");
        let ports = json!([mapping("192.0.2.1", "tcp", 80), mapping("", "udp", 80)]);
        let mut config = config("podwire", &["fd00:1::/64"]);
        config["runtimeConfig"] = json!({ "portMappings": ports });
        let answer = Call::new("podwire", "ADD", &container, &config).run();
        let expected =
            "host port 8080/tcp of a/eth0 leads nowhere: the container has no IPv4 address";
        assert!(answer.success, "{answer:?}");
        assert!(answer.stderr.contains(expected), "{}", answer.stderr);
        assert!(!answer.stderr.contains("/udp"), "{}", answer.stderr);
        Call::new("podwire", "DEL", &container, &config).succeed();
        node.assert_clean();
    });
}
