//! Host ports in spellings of all kinds, and where no way leads to the container.

use serde_json::{Value, json};

use super::{mapping, with_ports};
use crate::net::{Outside, serve, tcp};
use crate::node::{Call, Container, Node, config, on_a_node};

/// Spellings of pairs of mappings that share a key in the kernel.
const SAME: [[(&str, &str); 2]; 10] = [
    [("", "tcp"), ("0.0.0.0", "tcp")],
    [("", "tcp"), ("::", "tcp")],
    [("0.0.0.0", "tcp"), ("::ffff:0.0.0.0", "tcp")],
    [("0.0.0.0", "tcp"), ("000.0.0.0", "tcp")],
    [("::", "tcp"), ("0:0::0", "tcp")],
    [("10.0.0.9", "tcp"), ("::ffff:10.0.0.9", "tcp")],
    [("10.0.0.9", "tcp"), ("010.000.000.009", "tcp")],
    [("10.0.0.9", "tcp"), ("::FFFF:010.0.00.009", "tcp")],
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
        serve(&container.netns, "a", "10.1.2.22:80", false);
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
fn mappings_that_contradict_each_other_only_where_the_container_has_no_address_are_taken() {
    on_a_node(|node| {
        let container = node.container("a");
        for (subnet, lacking, target) in [
            ("10.1.2.0/24", "::", "10.1.2."),
            ("fd00:1::/64", "0.0.0.0", "fd00:1::"),
        ] {
            let mut both = with_ports(json!([mapping("", "", 80), mapping(lacking, "", 81)]));
            both["ipam"] = config("podwire", &[subnet])["ipam"].clone();
            let mut one_family = both.clone();
            one_family["runtimeConfig"]["portMappings"] =
                json!([mapping("", "", 80), mapping("", "", 81)]);
            let call = |verb, config| Call::new("podwire", verb, &container, config);
            let chained = |verb, config: &Value, previous| {
                let mut config = config.clone();
                config["type"] = "portmap".into();
                Call::new("portmap", verb, &container, &config).after(previous)
            };
            let answer = call("ADD", &both).run();
            assert!(answer.success, "{answer:?}");
            assert!(answer.stderr.contains("leads nowhere"), "{answer:?}");
            let ruleset = node.ruleset();
            assert!(
                ruleset.contains(target) && ruleset.contains(" . 80"),
                "{ruleset}"
            );
            assert!(!ruleset.contains(" . 81"), "{ruleset}");
            call("CHECK", &both).after(&answer.stdout).succeed();
            call("DEL", &both).succeed();
            node.assert_clean();
            // What is written is refused as ever, once the addresses are known, and undone.
            call("ADD", &one_family).fail(7);
            node.assert_clean();
            let link = config("ptp", &[subnet]);
            let previous = Call::new("ptp", "ADD", &container, &link).succeed();
            chained("ADD", &one_family, &previous).fail(7);
            chained("ADD", &both, &previous).succeed();
            chained("CHECK", &both, &previous).succeed();
            chained("DEL", &both, &previous).succeed();
            Call::new("ptp", "DEL", &container, &link).succeed();
            node.assert_clean();
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

/// What `portmap` says that is chained behind another plugin, and which of these links it opens.
fn opened(node: &Node, container: &Container, address: &str, links: &[&str]) -> Vec<String> {
    let mut config = with_ports(json!([mapping("", "tcp", 80)]));
    config["cniVersion"] = "1.0.0".into();
    let previous = json!({
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "eth0", "sandbox": container.path}],
        "ips": [{"address": address, "interface": 0}],
    });
    let call = |verb| Call::new("portmap", verb, container, &config).after(&previous);
    let answer = call("ADD").run();
    assert!(answer.success, "{answer:?}");
    let key = |link: &str| format!("net/ipv4/conf/{link}/route_localnet");
    let is_open = |link: &&&str| podwire_kernel::sysctl::read(&key(link)).unwrap() == "1";
    let opened: Vec<_> = links.iter().filter(is_open).collect();
    let is_said = answer.stderr.contains("do not work from 127.0.0.1");
    assert_eq!(is_said, opened.is_empty(), "{}", answer.stderr);
    call("DEL").succeed();
    node.assert_nothing_mapped();
    opened.into_iter().map(|link| (*link).to_owned()).collect()
}

fn ip(node: &Node, words: &str) {
    let words: Vec<_> = words.split(' ').collect();
    node.ask("ip", &words);
}

#[test]
fn portmap_opens_no_uplink_whose_network_the_container_is_in() {
    on_a_node(|node| {
        let _outside = Outside::new(node);
        for (name, kind) in [("m", "macvlan mode bridge"), ("p", "macvlan mode private")] {
            let container = node.container(name);
            ip(
                node,
                &format!("link add link uplink name eth0 netns {name} type {kind}"),
            );
            for v4 in ["via 192.0.2.9", ""] {
                // Without a default route as well: nothing at the link itself says then what it is.
                ip(node, "route del default");
                if !v4.is_empty() {
                    ip(node, &format!("route add default {v4}"));
                }
                let found = opened(node, &container, "192.0.2.50/24", &["uplink"]);
                assert_eq!(found, [""; 0], "{kind}");
            }
            ip(node, "route add default via 192.0.2.9");
        }
    });
}

#[test]
fn portmap_opens_a_bridge_unless_it_leads_to_other_machines() {
    on_a_node(|node| {
        let container = node.container("a");
        ip(node, "link add br0 type bridge");
        ip(node, "addr add 10.9.9.1/24 dev br0");
        ip(node, "link add port0 type veth peer name eth0 netns a");
        ip(node, "link set port0 master br0 up");
        ip(node, "link set br0 up");
        let found = || {
            let found = opened(node, &container, "10.9.9.2/24", &["br0"]);
            podwire_kernel::sysctl::write("net/ipv4/conf/br0/route_localnet", "0").unwrap();
            found
        };
        assert_eq!(found(), ["br0"]);
        ip(node, "route add default via 10.9.9.254");
        assert_eq!(found(), [""; 0], "a default route");
        ip(node, "route del default");
        // What leads to other machines, as hardware, a VLAN or a tunnel does.
        ip(node, "link add lower type veth peer name lower0");
        ip(node, "link add lan type vxlan id 4 dstport 4789 dev lower");
        ip(node, "link set lan master br0");
        assert_eq!(found(), [""; 0], "a port");
        // The same through a pair of links.
        ip(node, "addr del 10.9.9.1/24 dev br0");
        ip(node, "link add gate type veth peer name gate0");
        ip(node, "addr add 10.9.9.1/24 dev gate");
        ip(node, "link set gate up");
        ip(node, "link set gate0 master br0 up");
        assert_eq!(
            opened(node, &container, "10.9.9.2/24", &["br0", "gate"]),
            [""; 0]
        );
        ip(node, "link del lan");
        assert_eq!(
            opened(node, &container, "10.9.9.2/24", &["br0", "gate"]),
            ["gate"]
        );
    });
}

#[test]
fn portmap_opens_the_link_behind_a_gateway_that_is_the_node_itself() {
    on_a_node(|node| {
        let _outside = Outside::new(node);
        let container = node.container("a");
        // As Cilium has it without routes to endpoints.
        ip(node, "link add cilium_host type veth peer name cilium_net");
        ip(node, "link set cilium_net up");
        ip(node, "link set cilium_host up");
        // With the address first, the kernel itself takes the gateway for none.
        ip(node, "route add 10.66.0.1 dev cilium_host scope link");
        ip(node, "route add 10.66.0.0/24 via 10.66.0.1 dev cilium_host");
        ip(node, "addr add 10.66.0.1/32 dev cilium_host");
        let way = node.ask("ip", &["route", "get", "10.66.0.2"]);
        assert!(way.contains("via 10.66.0.1 dev cilium_host"), "{way}");
        ip(node, "link add lxc0 type veth peer name eth0 netns a");
        let links = ["cilium_host", "uplink"];
        let found = opened(node, &container, "10.66.0.2/32", &links);
        assert_eq!(found, ["cilium_host"]);
        podwire_kernel::sysctl::write("net/ipv4/conf/cilium_host/route_localnet", "0").unwrap();
        // The uplink is none, whatever the gateway.
        ip(node, "route replace 10.66.0.0/24 via 192.0.2.1 dev uplink");
        assert_eq!(opened(node, &container, "10.66.0.2/32", &links), [""; 0]);
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
