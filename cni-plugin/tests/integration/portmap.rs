//! `portmap`, chained behind the plugin that makes the link: ours, and the reference one.

use std::fs;

use serde_json::{Value, json};

use super::net::{Outside, SILENCE, TIMEOUT, inside, serve, tcp, udp};
use super::node::{Call, Container, Node, config, in_version, on_a_node};

fn portmap(ports: Value) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "net",
        "type": "portmap",
        "snat": true,
        "capabilities": {"portMappings": true},
        "runtimeConfig": {"portMappings": ports},
    })
}

/// Makes a link with the plugin `link`, and returns its result.
fn attach(link: Call) -> Value {
    let mut result = link.succeed();
    // The reference plugins print it even if there is nothing to it.
    if result["dns"] == json!({}) {
        result.as_object_mut().unwrap().remove("dns");
    }
    result
}

fn ptp(container: &Container) -> Call {
    let config = in_version(&config("ptp", &["10.1.2.0/24", "fd00:1::/64"]), "1.0.0");
    Call::new("ptp", "ADD", container, &config)
}

fn tcp_is_forwarded(node: &mut Node, link: impl Fn(&Container) -> Call) {
    let outside = Outside::new(node);
    outside.route_back();
    let container = node.container("a");
    let previous = attach(link(&container));
    let config = portmap(json!([
        {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
        {"hostPort": 8081, "containerPort": 80, "protocol": "tcp"},
    ]));
    let call = |verb| Call::new("portmap", verb, &container, &config).after(&previous);
    assert_eq!(call("ADD").succeed(), previous);
    call("CHECK").succeed();
    serve(&container.netns, "a", "10.1.2.2:80", false);
    serve(&container.netns, "a", "[fd00:1::2]:80", false);
    for port in [8080, 8081] {
        assert_eq!(tcp(&format!("127.0.0.1:{port}")).unwrap(), "a 10.1.2.1");
        // By the kernel's rules for choosing a source it is one of the node's addresses.
        let from_loopback = tcp(&format!("[::1]:{port}")).unwrap();
        assert!(["a fd00:1::1", "a 2001:db8::1"].contains(&from_loopback.as_str()));
        assert_eq!(tcp(&format!("192.0.2.1:{port}")).unwrap(), "a 192.0.2.1");
        let from_outside = inside(&outside.netns, || tcp(&format!("192.0.2.1:{port}")));
        assert_eq!(from_outside.unwrap(), "a 192.0.2.9");
        let hairpin = inside(&container.netns, || tcp(&format!("192.0.2.1:{port}")));
        assert_eq!(hairpin.unwrap(), "a 10.1.2.1");
    }
    for _ in 0..2 {
        Call::new("portmap", "DEL", &container, &config)
            .without_netns()
            .succeed();
    }
    assert!(tcp("127.0.0.1:8080").is_err());
    call("CHECK").fail(999);
}

#[test]
fn tcp_is_forwarded_from_outside_from_localhost_and_from_itself() {
    on_a_node(|node| tcp_is_forwarded(node, ptp));
}

#[test]
fn the_link_may_be_that_of_the_reference_plugin() {
    on_a_node(|node| tcp_is_forwarded(node, |container| ptp(container).of_reference()));
}

#[test]
fn a_client_of_udp_that_goes_on_sending_reaches_the_second_container_on_the_port() {
    on_a_node(|node| {
        let outside = Outside::new(node);
        outside.route_back();
        let config = portmap(json!([
            {"hostPort": 5353, "containerPort": 53, "protocol": "udp"},
        ]));
        let ask = || inside(&outside.netns, || udp(40001, "192.0.2.1:5353", TIMEOUT));
        // Before there is a port, the node itself is asked.
        assert!(ask().is_err());
        let a = node.container("a");
        let previous = attach(ptp(&a));
        serve(&a.netns, "a", "10.1.2.2:53", true);
        Call::new("portmap", "ADD", &a, &config)
            .after(&previous)
            .succeed();
        assert_eq!(ask().unwrap(), "a 192.0.2.9");

        let b = node.container("b");
        let previous = attach(ptp(&b));
        serve(&b.netns, "b", "10.1.2.3:53", true);
        Call::new("portmap", "DEL", &a, &config).succeed();
        // No container has the port: the node itself is asked, and the kernel remembers that as
        // well.
        assert!(ask().is_err());
        Call::new("portmap", "ADD", &b, &config)
            .after(&previous)
            .succeed();
        assert_eq!(ask().unwrap(), "b 192.0.2.9");
        Call::new("portmap", "DEL", &b, &config).succeed();
        assert!(ask().is_err());
    });
}

#[test]
fn an_add_again_ends_the_connections_of_udp_that_it_changes_and_no_others() {
    on_a_node(|node| {
        let outside = Outside::new(node);
        outside.route_back();
        let with =
            |port| portmap(json!([{"hostPort": port, "containerPort": 53, "protocol": "udp"}]));
        let ask = |to: &str| inside(&outside.netns, || udp(40001, to, TIMEOUT));
        let a = node.container("a");
        let previous = attach(ptp(&a));
        serve(&a.netns, "a", "10.1.2.2:53", true);
        let add = |port| {
            let config = with(port);
            let call = Call::new("portmap", "ADD", &a, &config);
            call.after(&previous).succeed();
        };
        add(5353);
        assert_eq!(ask("192.0.2.1:5353").unwrap(), "a 192.0.2.9");
        assert_eq!(ask("10.1.2.2:53").unwrap(), "a 192.0.2.9");
        let straight = || node.ask("conntrack", &["-L", "-p", "udp", "--orig-dst", "10.1.2.2"]);
        add(5353);
        assert!(straight().contains("dst=10.1.2.2"), "{}", straight());
        add(5354);
        assert!(ask("192.0.2.1:5353").is_err());
        assert_eq!(ask("192.0.2.1:5354").unwrap(), "a 192.0.2.9");
    });
}

#[test]
fn of_two_containers_with_one_port_the_later_one_has_it_and_keeps_it() {
    on_a_node(|node| {
        let config = portmap(json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]));
        let (a, b) = (node.container("a"), node.container("b"));
        for container in [&a, &b] {
            let previous = attach(ptp(container));
            Call::new("portmap", "ADD", container, &config)
                .after(&previous)
                .succeed();
        }
        serve(&a.netns, "a", "10.1.2.2:80", false);
        serve(&b.netns, "b", "10.1.2.3:80", false);
        assert_eq!(tcp("127.0.0.1:8080").unwrap(), "b 10.1.2.1");
        Call::new("portmap", "DEL", &a, &config).succeed();
        assert_eq!(tcp("127.0.0.1:8080").unwrap(), "b 10.1.2.1");
        Call::new("portmap", "DEL", &b, &config).succeed();
        node.assert_nothing_mapped();
    });
}

#[test]
fn after_the_younger_container_the_older_one_has_the_port_again() {
    for is_lost in [false, true] {
        on_a_node(move |node| {
            let config = portmap(json!([
                {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
                {"hostPort": 5353, "containerPort": 53, "protocol": "udp"},
            ]));
            let all = ["a", "b", "c"].map(|id| node.container(id));
            let call = |verb, container| Call::new("portmap", verb, container, &config);
            let mut results = Vec::new();
            for (number, container) in (2..).zip(&all) {
                let previous = attach(ptp(container));
                call("ADD", container).after(&previous).succeed();
                results.push(previous);
                for (port, udp) in [(80, false), (53, true)] {
                    let address = format!("10.1.2.{number}:{port}");
                    serve(&container.netns, &container.id, &address, udp);
                }
            }
            let asked = || tcp("127.0.0.1:8080").unwrap();
            let datagram = || udp(40001, "127.0.0.1:5353", TIMEOUT).unwrap();
            assert_eq!([asked(), datagram()], ["c 10.1.2.1"; 2]);
            if is_lost {
                let name = podwire::attachment::host_link_name("c", "eth0");
                let record = format!("/run/podwire/attachments/{name}.portmap.json");
                fs::remove_file(record).unwrap();
            }
            call("DEL", &all[2]).succeed();
            assert_eq!(asked(), "b 10.1.2.1");
            // Without the record the kernel goes on remembering the client for a while.
            if !is_lost {
                assert_eq!(datagram(), "b 10.1.2.1");
            }
            call("CHECK", &all[1]).after(&results[1]).succeed();
            let mut gc = config.clone();
            gc["cniVersion"] = "1.1.0".into();
            gc["cni.dev/valid-attachments"] = json!([{"containerID": "a", "ifname": "eth0"}]);
            Call::new("portmap", "GC", &all[0], &gc).succeed();
            assert_eq!(asked(), "a 10.1.2.1");
            call("CHECK", &all[0]).after(&results[0]).succeed();
            call("DEL", &all[0]).succeed();
            node.assert_nothing_mapped();
        });
    }
}

#[test]
fn a_clock_that_was_set_back_gives_no_host_port_to_an_older_pod() {
    on_a_node(|node| {
        let config = portmap(json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]));
        let add = |container| {
            let previous = attach(ptp(container));
            let add = Call::new("portmap", "ADD", container, &config);
            add.after(&previous).succeed();
        };
        let (a, b) = (node.container("a"), node.container("b"));
        add(&a);
        let directory = "/run/podwire/attachments";
        let records = || -> Vec<(String, Value)> {
            let files = fs::read_dir(directory).unwrap();
            let files = files.map(|file| file.unwrap().path().display().to_string());
            let records = files.filter_map(|path| {
                let text = fs::read_to_string(&path).ok()?;
                Some((path, serde_json::from_str(&text).ok()?))
            });
            records
                .filter(|(_, record): &(_, Value)| record["chained"] == true)
                .collect()
        };
        let (path, mut older) = records().remove(0);
        let tomorrow = older["since"].as_u64().unwrap() + 86_400_000_000_000;
        older["since"] = tomorrow.into();
        fs::write(path, older.to_string()).unwrap();
        add(&b);
        let all = records();
        let mut since = all
            .iter()
            .map(|(_, record)| record["since"].as_u64().unwrap());
        assert_eq!(all.len(), 2);
        assert!(since.any(|since| since > tomorrow), "{all:?}");
    });
}

#[test]
fn nothing_from_outside_gets_in_by_the_name_of_localhost() {
    on_a_node(|node| {
        let outside = Outside::new(node);
        outside.route_back();
        let container = node.container("a");
        let previous = attach(ptp(&container));
        let config = portmap(json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]));
        Call::new("portmap", "ADD", &container, &config)
            .after(&previous)
            .succeed();
        // A service of the node that trusts its loopback, and an administrator who opened it.
        let node_netns = podwire_kernel::netns::Netns::current().unwrap();
        serve(&node_netns, "secret", "127.0.0.1:9999", true);
        for link in ["uplink", &veth(node)] {
            let key = format!("net/ipv4/conf/{link}/route_localnet");
            podwire_kernel::sysctl::write(&key, "1").unwrap();
        }
        for netns in [&outside.netns, &container.netns] {
            let (link, gateway) = if std::ptr::eq(netns, &outside.netns) {
                ("uplink", "192.0.2.1")
            } else {
                ("eth0", "10.1.2.1")
            };
            let answer = inside(netns, || {
                let key = format!("net/ipv4/conf/{link}/route_localnet");
                podwire_kernel::sysctl::write(&key, "1").unwrap();
                let mut socket = podwire_kernel::RouteSocket::open().unwrap();
                let index = socket.index_of(link).unwrap();
                let to = "127.0.0.1/32".parse().unwrap();
                let mut local = podwire_kernel::route::Route::to(to);
                local.kind = podwire_kernel::route::RouteKind::Local;
                local.table = podwire_kernel::route::TABLE_LOCAL;
                local.scope = podwire_kernel::Scope::Host;
                local.link = Some(socket.index_of("lo").unwrap());
                let _ = socket.delete_route(&local);
                let mut route = podwire_kernel::route::Route::to(to);
                route.gateway = Some(gateway.parse().unwrap());
                route.link = Some(index);
                socket.add_route(&route).unwrap();
                udp(0, "127.0.0.1:9999", SILENCE)
            });
            assert!(answer.is_err(), "{answer:?} through {link}");
        }
        let guard = node.ask(
            "nft",
            &["list", "chain", "inet", "podwire-hostports", "guard"],
        );
        assert!(guard.contains("counter packets 2 "), "{guard}");
        assert_eq!(
            udp(0, "127.0.0.1:9999", TIMEOUT).unwrap(),
            "secret 127.0.0.1"
        );
    });
}

fn veth(node: &Node) -> String {
    let mut links = node.links().into_iter();
    links.find(|name| name.starts_with("veth")).unwrap()
}

#[test]
fn without_ports_the_previous_result_is_passed_through() {
    on_a_node(|node| {
        let container = node.container("a");
        let previous = attach(ptp(&container));
        for config in [portmap(json!([])), portmap(Value::Null)] {
            let call = |verb| Call::new("portmap", verb, &container, &config).after(&previous);
            assert_eq!(call("ADD").succeed(), previous);
            call("CHECK").succeed();
            call("DEL").succeed();
        }
        assert_eq!(node.ruleset(), "");
    });
}

#[test]
fn without_snat_the_container_does_not_reach_itself_and_localhost_is_closed() {
    on_a_node(|node| {
        let container = node.container("a");
        let previous = attach(ptp(&container));
        let mut config = portmap(json!([
            {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
        ]));
        config["snat"] = false.into();
        Call::new("portmap", "ADD", &container, &config)
            .after(&previous)
            .succeed();
        let ruleset = node.ruleset();
        assert!(!ruleset.contains("10.1.2.2 . 10.1.2.2"), "{ruleset}");
        let key = format!("net/ipv4/conf/{}/route_localnet", veth(node));
        assert_eq!(podwire_kernel::sysctl::read(&key).unwrap(), "0");
    });
}

#[test]
fn with_masq_all_every_client_is_hidden() {
    on_a_node(|node| {
        let outside = Outside::new(node);
        outside.route_back();
        let container = node.container("a");
        let previous = attach(ptp(&container));
        let mut config = portmap(json!([
            {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
        ]));
        config["masqAll"] = true.into();
        Call::new("portmap", "ADD", &container, &config)
            .after(&previous)
            .succeed();
        serve(&container.netns, "a", "10.1.2.2:80", false);
        let answer = inside(&outside.netns, || tcp("192.0.2.1:8080"));
        assert_eq!(answer.unwrap(), "a 10.1.2.1");
        // Not through a host port: as it is.
        let answer = inside(&outside.netns, || tcp("10.1.2.2:80"));
        assert_eq!(answer.unwrap(), "a 192.0.2.9");
    });
}

#[test]
fn addresses_of_other_interfaces_are_not_meant() {
    on_a_node(|node| {
        let container = node.container("a");
        let previous = json!({
            "cniVersion": "1.0.0",
            "interfaces": [
                {"name": "br0"},
                {"name": "eth0", "sandbox": container.path},
                {"name": "eth1", "sandbox": container.path},
            ],
            "ips": [
                {"address": "10.9.9.1/24", "interface": 0},
                {"address": "10.9.9.3/24", "interface": 2},
                {"address": "10.9.9.2/24", "interface": 1},
                {"address": "10.9.9.4/24", "interface": 1},
            ],
        });
        let config = portmap(json!([{"hostPort": 8080, "containerPort": 80, "protocol": "sctp"}]));
        node.ask("ip", &["link", "add", "br0", "type", "bridge"]);
        node.ask("ip", &["addr", "add", "10.9.9.100/24", "dev", "br0"]);
        node.ask("ip", &["link", "set", "br0", "up"]);
        Call::new("portmap", "ADD", &container, &config)
            .after(&previous)
            .succeed();
        let map = node.ask(
            "nft",
            &["list", "map", "inet", "podwire-hostports", "hostports-v4"],
        );
        assert!(
            map.contains("sctp . 8080") && map.contains(": 10.9.9.2 . 80"),
            "{map}"
        );
    });
}

#[test]
fn mistakes_are_told_in_the_words_of_the_reference_plugin() {
    on_a_node(|node| {
        let container = node.container("a");
        let previous = attach(ptp(&container));
        let good = portmap(json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]));
        let message = Call::new("portmap", "ADD", &container, &good).fail(7);
        assert_eq!(message, "must be called as chained plugin");
        let check = |config: Value, code, expected: &str| {
            let message = Call::new("portmap", "ADD", &container, &config)
                .after(&previous)
                .fail(code);
            assert!(message.contains(expected), "{message}");
        };
        for (ports, code, expected) in [
            (
                json!([{"hostPort": 0, "containerPort": 80}]),
                7,
                "failed to parse config: Invalid host port number: 0",
            ),
            (
                json!([{"hostPort": 80, "containerPort": -1}]),
                7,
                "Invalid container port number: -1",
            ),
            (
                json!([{"hostPort": 65536, "containerPort": 80}]),
                7,
                "Invalid host port number: 65536",
            ),
            (
                json!([{"hostPort": 80, "containerPort": 80, "protocol": "icmp"}]),
                2,
                "\"icmp\"",
            ),
            (
                json!([{"hostPort": 80, "containerPort": 80, "hostIP": "x"}]),
                6,
                "hostIP",
            ),
            (
                json!([{"hostPort": "80", "containerPort": 80}]),
                6,
                "hostPort must be a whole number",
            ),
            (json!({}), 6, "portMappings must be a list"),
        ] {
            check(portmap(ports), code, expected);
        }
        let with = |key: &str, value: Value| {
            let mut config = good.clone();
            config[key] = value;
            config
        };
        check(
            with("markMasqBit", json!(32)),
            7,
            "MasqMarkBit must be between 0 and 31",
        );
        check(
            with("conditionsV4", json!(["-d", "192.0.2.0/24"])),
            2,
            "conditionsV4",
        );
        let mut both = with("markMasqBit", json!(3));
        both["externalSetMarkChain"] = "KUBE-MARK-MASQ".into();
        check(
            both,
            7,
            "Cannot specify externalSetMarkChain and markMasqBit",
        );
        check(
            with("backend", json!("foo")),
            7,
            "unrecognized backend \"foo\"",
        );
        check(with("backend", json!("")), 7, "unrecognized backend \"\"");
        assert_eq!(node.ruleset(), "");
        // Keys of other backends are taken and mean nothing, and an empty list is no condition.
        let mut fine = with("externalSetMarkChain", json!("KUBE-MARK-MASQ"));
        fine["backend"] = "iptables".into();
        fine["conditionsV4"] = json!([]);
        let add = Call::new("portmap", "ADD", &container, &fine);
        add.after(&previous).succeed();
    });
}

#[test]
fn arguments_that_only_another_plugin_understands_keep_the_name_of_the_pod() {
    on_a_node(|node| {
        let container = node.container("a");
        let previous = attach(ptp(&container));
        let config = portmap(json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]));
        let call = |verb| Call::new("portmap", verb, &container, &config);
        for odd in ["", "IP=10.1.0.5,10.2.0.5", "A=b=c", "IgnoreUnknown=maybe"] {
            let arguments = format!("K8S_POD_NAMESPACE=shop;{odd};K8S_POD_NAME=web-0");
            let add = call("ADD").after(&previous).with("CNI_ARGS", arguments);
            add.succeed();
            let ruleset = node.ruleset();
            assert!(
                ruleset.contains("\"shop/web-0 a/eth0\""),
                "{odd}: {ruleset}"
            );
            call("DEL").succeed();
            node.assert_nothing_mapped();
        }
    });
}
