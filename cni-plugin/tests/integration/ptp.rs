//! `ptp`: the upstream test list of the reference plugin, on ours.

use std::fs;

use podwire_kernel::RouteSocket;
use serde_json::{Value, json};

use super::net::{Outside, inside, serve, tcp};
use super::node::{Call, Node, config, in_version, on_a_node};

const VERSIONS: [&str; 7] = [
    "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0",
];

/// Attaches a container, which gets the address `ip`, and detaches it.
fn come_and_go(node: &mut Node, config: &Value, ip: &str) {
    let container = node.container("a");
    let result = Call::new("ptp", "ADD", &container, config).succeed();
    let version = config["cniVersion"].as_str().unwrap();
    assert_eq!(result["cniVersion"], version);
    let old = version.starts_with("0.1") || version.starts_with("0.2");
    let address = if old {
        &result["ip4"]["ip"]
    } else {
        &result["ips"][0]["address"]
    };
    assert_eq!(*address, format!("{ip}/24"));
    serve(&container.netns, "web", &format!("{ip}:80"), false);
    assert_eq!(tcp(&format!("{ip}:80")).unwrap(), "web 10.1.2.1");

    if !old && version != "0.3.0" && version != "0.3.1" {
        Call::new("ptp", "CHECK", &container, config)
            .after(&result)
            .succeed();
    }
    for _ in 0..2 {
        Call::new("ptp", "DEL", &container, config).succeed();
    }
    Call::new("ptp", "DEL", &container, config)
        .without_netns()
        .succeed();
    node.assert_clean();
    let links = inside(&container.netns, || {
        RouteSocket::open().unwrap().links().unwrap()
    });
    assert_eq!(links.len(), 1, "{links:?}");
    node.remove(container);
}

#[test]
fn a_link_comes_and_goes_in_every_version() {
    on_a_node(|node| {
        for (number, version) in VERSIONS.into_iter().enumerate() {
            let config = in_version(&config("ptp", &["10.1.2.0/24"]), version);
            come_and_go(node, &config, &format!("10.1.2.{}", number + 2));
        }
    });
}

#[test]
fn a_configuration_without_a_version_is_one_of_0_1_0() {
    on_a_node(|node| {
        let mut config = config("ptp", &["10.1.2.0/24"]);
        config.as_object_mut().unwrap().remove("cniVersion");
        let container = node.container("a");
        let result = Call::new("ptp", "ADD", &container, &config).succeed();
        assert_eq!(result["cniVersion"], "0.1.0");
        assert_eq!(result["ip4"]["ip"], "10.1.2.2/24");
    });
}

#[test]
fn the_result_names_both_ends_and_the_sandbox() {
    on_a_node(|node| {
        let container = node.container("a");
        let config = config("ptp", &["10.1.2.0/24", "fd00:1::/64"]);
        let result = Call::new("ptp", "ADD", &container, &config).succeed();
        let host = node.host_link();
        assert_eq!(result["interfaces"][0]["name"], host.as_str());
        assert!(result["interfaces"][0].get("sandbox").is_none());
        assert_eq!(result["interfaces"][1]["name"], "eth0");
        assert_eq!(result["interfaces"][1]["sandbox"], container.path.as_str());
        let link = RouteSocket::open()
            .unwrap()
            .link_by_name(&host)
            .unwrap()
            .unwrap();
        let mac = link.mac.unwrap().to_string();
        assert_eq!(result["interfaces"][0]["mac"], mac);
        let expected = json!([
            {"interface": 1, "address": "10.1.2.2/24", "gateway": "10.1.2.1"},
            {"interface": 1, "address": "fd00:1::2/64", "gateway": "fd00:1::1"},
        ]);
        assert_eq!(result["ips"], expected);
        assert_eq!(
            result["routes"],
            json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}])
        );
    });
}

#[test]
fn a_route_may_lead_through_another_address_of_the_subnet() {
    on_a_node(|node| {
        for plugin in ["ptp", "podwire"] {
            let mut config = config(plugin, &["10.1.2.0/24", "fd00:1::/64"]);
            config["ipam"]["routes"] = json!([
                {"dst": "0.0.0.0/0", "gw": "10.1.2.9"},
                {"dst": "::/0", "gw": "fd00:1::9"},
            ]);
            let container = node.container("a");
            let call = |verb| Call::new(plugin, verb, &container, &config);
            let result = call("ADD").succeed();
            for (family, gateway) in [("-4", "10.1.2.9"), ("-6", "fd00:1::9")] {
                let arguments = ["-n", "a", family, "route", "show", "default"];
                let shown = node.ask("ip", &arguments);
                let expected = format!("default via {gateway} dev eth0");
                assert!(shown.starts_with(&expected), "{shown}");
            }
            call("CHECK").after(&result).succeed();
            call("DEL").succeed();
            node.remove(container);
        }
    });
}

#[test]
fn both_families_work_at_once_and_nothing_waits_for_duplicate_addresses() {
    on_a_node(|node| {
        let config = config("ptp", &["10.1.2.0/24", "fd00:1::/64"]);
        let (a, b) = (node.container("a"), node.container("b"));
        for container in [&a, &b] {
            Call::new("ptp", "ADD", container, &config).succeed();
            let tentative = ["-o", "addr", "show", "tentative"];
            let arguments = [&["-n", &container.id][..], &tentative].concat();
            assert_eq!(node.ask("ip", &arguments), "");
        }
        serve(&b.netns, "b", "10.1.2.3:80", false);
        serve(&b.netns, "b", "[fd00:1::3]:80", false);
        assert_eq!(tcp("[fd00:1::3]:80").unwrap(), "b fd00:1::1");
        let answers = inside(&a.netns, || (tcp("10.1.2.3:80"), tcp("[fd00:1::3]:80")));
        assert_eq!(answers.0.unwrap(), "b 10.1.2.2");
        assert_eq!(answers.1.unwrap(), "b fd00:1::2");
    });
}

#[test]
fn the_container_reaches_its_subnet_through_the_gateway_alone() {
    on_a_node(|node| {
        let container = node.container("a");
        let config = config("ptp", &["10.1.2.0/24", "fd00:1::/64"]);
        Call::new("ptp", "ADD", &container, &config).succeed();
        let routes = node.ask("ip", &["-n", "a", "route"]);
        let expected = "default via 10.1.2.1 dev eth0 \n\
                        10.1.2.0/24 via 10.1.2.1 dev eth0 src 10.1.2.2 \n\
                        10.1.2.1 dev eth0 scope link src 10.1.2.2 \n";
        assert_eq!(routes, expected);
        let routes = node.ask("ip", &["-n", "a", "-6", "route", "get", "fd00:1::99"]);
        assert!(
            routes.contains("via fd00:1::1 dev eth0 src fd00:1::2"),
            "{routes}"
        );
        let route = node.ask("ip", &["route", "get", "10.1.2.2"]);
        assert!(route.contains("src 10.1.2.1"), "{route}");
    });
}

#[test]
fn routes_have_the_properties_that_ipam_gives_them() {
    on_a_node(|node| {
        let container = node.container("a");
        let mut config = config("ptp", &["10.1.2.0/24", "fd00:1::/64"]);
        config["ipam"]["routes"] = json!([
            {"dst": "10.0.0.0/8", "mtu": 1400, "advmss": 1360, "priority": 77},
            {"dst": "172.16.0.0/12", "gw": "10.1.2.1", "table": 100},
            {"dst": "192.0.2.0/24", "scope": 253},
            {"dst": "fd00:5::/64", "mtu": 1300},
        ]);
        let result = Call::new("ptp", "ADD", &container, &config).succeed();
        assert_eq!(result["routes"], config["ipam"]["routes"]);
        let routes = node.ask("ip", &["-n", "a", "route", "show", "table", "all"]);
        for expected in [
            "10.0.0.0/8 via 10.1.2.1 dev eth0 metric 77 mtu 1400 advmss 1360",
            "172.16.0.0/12 via 10.1.2.1 dev eth0 table 100",
            "192.0.2.0/24 dev eth0 scope link",
        ] {
            assert!(
                routes.contains(expected),
                "{expected} is missing in\n{routes}"
            );
        }
        let routes = node.ask("ip", &["-n", "a", "-6", "route"]);
        assert!(routes.contains("fd00:5::/64 via fd00:1::1 dev eth0 metric 1024 mtu 1300"));
        let older = in_version(&config, "1.0.0");
        let container = node.container("b");
        let result = Call::new("ptp", "ADD", &container, &older).succeed();
        assert_eq!(result["routes"][0], json!({"dst": "10.0.0.0/8"}));
    });
}

#[test]
fn what_ipam_says_twice_is_made_once() {
    on_a_node(|node| {
        let mut same = config("ptp", &[]);
        same["ipam"]["ranges"] = json!([
            [{"subnet": "10.1.2.0/24", "rangeStart": "10.1.2.10", "rangeEnd": "10.1.2.20"}],
            [{"subnet": "10.1.2.0/24", "rangeStart": "10.1.2.30", "rangeEnd": "10.1.2.40"}],
            [{"subnet": "fd01::/64", "rangeStart": "fd01::10", "rangeEnd": "fd01::20"}],
            [{"subnet": "fd01::/64", "rangeStart": "fd01::30", "rangeEnd": "fd01::40"}],
        ]);
        same["ipam"]["routes"] = json!([
            {"dst": "0.0.0.0/0"}, {"dst": "0.0.0.0/0", "gw": "10.1.2.1"},
            {"dst": "::/0"}, {"dst": "::/0"},
        ]);
        for plugin in ["ptp", "podwire"] {
            let container = node.container(plugin);
            same["type"] = plugin.into();
            let result = Call::new(plugin, "ADD", &container, &same).succeed();
            assert_eq!(result["ips"].as_array().unwrap().len(), 4);
            for family in ["-4", "-6"] {
                let routes = node.ask("ip", &["-n", plugin, family, "route"]);
                assert_eq!(routes.matches("default").count(), 1, "{routes}");
            }
            serve(&container.netns, "web", "[::]:80", false);
            let addresses = [["10.1.2.10", "10.1.2.30"], ["[fd01::10]", "[fd01::30]"]];
            for address in addresses.concat() {
                tcp(&format!("{address}:80")).unwrap();
            }
            let call = |verb| Call::new(plugin, verb, &container, &same).after(&result);
            call("CHECK").succeed();
            call("DEL").succeed();
            node.remove(container);
            fs::remove_dir_all("/run/ipam").unwrap();
        }
    });
}

#[test]
fn check_finds_routes_again_however_ipam_writes_them() {
    on_a_node(|node| {
        for plugin in ["ptp", "podwire"] {
            let mut config = config(plugin, &["10.1.2.0/24", "fd00:1::/64"]);
            config["ipam"]["routes"] = json!([
                {"dst": "0.0.0.0/0", "table": 0, "gw": "0.0.0.0"},
                {"dst": "fd05::5/64", "gw": "::"},
            ]);
            let container = node.container(plugin);
            let call = |verb| Call::new(plugin, verb, &container, &config);
            let answer = call("ADD").run();
            assert!(answer.success, "{answer:?}");
            let expected = "ipam.routes[1].dst is fd05::5/64, which has host bits set: the \
                            network is fd05::/64, and that is used";
            assert!(answer.stderr.contains(expected), "{answer:?}");
            let mut result = answer.stdout;
            assert_eq!(result["routes"][1], json!({"dst": "fd05::/64"}));
            let routes = node.ask("ip", &["-n", plugin, "-6", "route"]);
            assert!(routes.contains("fd05::/64 via fd00:1::1"), "{routes}");
            // The static plugin leaves host bits where they are.
            result["routes"][1]["dst"] = "fd05::5/64".into();
            call("CHECK").after(&result).succeed();
            call("DEL").succeed();
        }
    });
}

#[test]
fn status_fails_where_the_leases_have_no_place() {
    on_a_node(|node| {
        let config = config("ptp", &["10.1.2.0/24"]);
        let container = node.container("a");
        let status = Call::new("ptp", "STATUS", &container, &config);
        fs::write("/run/ipam", "").unwrap();
        let message = status.fail(5);
        assert!(message.contains("/run/ipam/net"), "{message}");
        fs::remove_file("/run/ipam").unwrap();
        status.succeed();
    });
}

#[test]
fn the_mtu_holds_at_both_ends() {
    on_a_node(|node| {
        let container = node.container("a");
        let mut config = config("ptp", &["10.1.2.0/24"]);
        config["mtu"] = 1234.into();
        let result = Call::new("ptp", "ADD", &container, &config).succeed();
        assert_eq!(result["interfaces"][1]["mtu"], 1234);
        let host = node.host_link();
        let link = RouteSocket::open().unwrap().link_by_name(&host).unwrap();
        assert_eq!(link.unwrap().mtu, 1234);
        let link = inside(&container.netns, || {
            RouteSocket::open().unwrap().link_by_name("eth0").unwrap()
        });
        assert_eq!(link.unwrap().mtu, 1234);
    });
}

fn with_resolv_conf(node: &mut Node, dns: Option<Value>) -> Value {
    fs::write(
        "/run/resolv.conf",
        "nameserver 192.0.2.53\nsearch ipam.example\n",
    )
    .unwrap();
    let mut config = config("ptp", &["10.1.2.0/24"]);
    config["ipam"]["resolvConf"] = "/run/resolv.conf".into();
    if let Some(dns) = dns {
        config["dns"] = dns;
    }
    let container = node.container("a");
    Call::new("ptp", "ADD", &container, &config).succeed()
}

#[test]
fn name_servers_of_ipam_stay_if_the_configuration_has_none() {
    on_a_node(|node| {
        let result = with_resolv_conf(node, None);
        let expected = json!({"nameservers": ["192.0.2.53"], "search": ["ipam.example"]});
        assert_eq!(result["dns"], expected);
    });
}

#[test]
fn name_servers_of_the_configuration_take_the_place_of_those_of_ipam() {
    on_a_node(|node| {
        let dns = json!({"nameservers": ["198.51.100.1"], "domain": "d", "options": ["ndots:2"]});
        let result = with_resolv_conf(node, Some(dns.clone()));
        assert_eq!(result["dns"], dns);
    });
}

#[test]
fn empty_lists_in_the_configuration_take_the_place_of_name_servers_of_ipam() {
    on_a_node(|node| {
        let result = with_resolv_conf(node, Some(json!({"nameservers": [], "search": []})));
        let dns = result.get("dns").cloned().unwrap_or(json!({}));
        assert_eq!(dns, json!({}));
    });
}

#[test]
fn the_outside_sees_the_node_in_place_of_a_masqueraded_container() {
    on_a_node(|node| {
        let outside = Outside::new(node);
        serve(&outside.netns, "out", "192.0.2.9:80", false);
        serve(&outside.netns, "out", "[2001:db8::9]:80", false);
        let mut config = config("ptp", &["10.1.2.0/24", "fd00:1::/64"]);
        config["ipMasq"] = true.into();
        let (a, b) = (node.container("a"), node.container("b"));
        for container in [&a, &b] {
            Call::new("ptp", "ADD", container, &config).succeed();
        }
        serve(&b.netns, "b", "10.1.2.3:80", false);
        let answers = inside(&a.netns, || {
            [
                tcp("192.0.2.9:80"),
                tcp("[2001:db8::9]:80"),
                tcp("10.1.2.3:80"),
            ]
        });
        let expected = ["out 192.0.2.1", "out 2001:db8::1", "b 10.1.2.2"];
        assert_eq!(answers.map(Result::unwrap), expected);
        // The runtime has taken the namespace away: the rules go all the same.
        let elements = |ruleset: &str| ruleset.matches("goto leave-").count();
        assert_eq!(elements(&node.ruleset()), 4);
        Call::new("ptp", "DEL", &a, &config)
            .without_netns()
            .succeed();
        assert_eq!(elements(&node.ruleset()), 2);
        Call::new("ptp", "DEL", &b, &config)
            .without_netns()
            .succeed();
        outside.unplug();
        node.assert_clean();
    });
}

#[test]
fn deleting_what_was_never_made_succeeds() {
    on_a_node(|node| {
        let container = node.container("a");
        let config = config("ptp", &["10.1.2.0/24"]);
        Call::new("ptp", "DEL", &container, &config).succeed();
        let gone = Call::new("ptp", "DEL", &container, &config);
        gone.with("CNI_NETNS", "/run/netns/not-there").succeed();
        node.assert_clean();
    });
}

#[test]
fn del_with_the_namespace_of_another_container_takes_nothing_from_that_one() {
    on_a_node(|node| {
        let config = config("ptp", &["10.1.2.0/24"]);
        let (a, b, c) = (
            node.container("a"),
            node.container("b"),
            node.container("c"),
        );
        for container in [&a, &b] {
            Call::new("ptp", "ADD", container, &config).succeed();
        }
        let older = in_version(&config, "1.0.0");
        Call::new("ptp", "ADD", &c, &older).of_reference().succeed();
        let del = |id: &super::node::Container, path: &str| {
            let call = Call::new("ptp", "DEL", id, &config).with("CNI_NETNS", path);
            let answer = call.run();
            assert!(answer.success, "{answer:?}");
            answer.stderr
        };
        let is_there = |path| {
            node.ask("ip", &["-n", path, "-br", "link"])
                .contains("eth0")
        };
        del(&a, &a.path);
        assert!(del(&a, &b.path).contains("another container's"));
        assert!(is_there("b"));
        // Without its alias it is known by its group and name.
        let host = podwire::attachment::host_link_name("b", "eth0");
        node.ask("ip", &["link", "set", &host, "alias", ""]);
        del(&a, &b.path);
        assert!(is_there("b"));
        assert!(del(&b, "/proc/self/ns/net").is_empty() && !is_there("b"));
        // The other plugin's link says not whose it is, and goes as it did with that one.
        assert!(is_there("c"));
        del(&c, &c.path);
        assert!(!is_there("c"));
    });
}

#[test]
fn del_whose_namespace_is_by_now_that_of_the_plugin_releases_the_rest() {
    on_a_node(|node| {
        for plugin in ["podwire", "ptp"] {
            let config = config(plugin, &["10.1.2.0/24"]);
            let container = node.container(plugin);
            let call = |verb| Call::new(plugin, verb, &container, &config);
            call("ADD").succeed();
            for _ in 0..2 {
                call("DEL").with("CNI_NETNS", "/proc/self/ns/net").succeed();
                node.assert_clean();
            }
            call("ADD").with("CNI_NETNS", "/proc/self/ns/net").fail(8);
        }
    });
}

#[test]
fn a_second_add_fails_and_leaves_the_first_one_alone() {
    on_a_node(|node| {
        let container = node.container("a");
        let config = config("ptp", &["10.1.2.0/24"]);
        let result = Call::new("ptp", "ADD", &container, &config).succeed();
        let message = Call::new("ptp", "ADD", &container, &config).fail(999);
        assert!(
            message.contains("duplicate allocation is not allowed"),
            "{message}"
        );
        Call::new("ptp", "CHECK", &container, &config)
            .after(&result)
            .succeed();
    });
}

#[test]
fn an_interface_that_is_there_already_makes_add_fail_and_give_the_lease_back() {
    on_a_node(|node| {
        let container = node.container("a");
        node.ask("ip", &["-n", "a", "link", "add", "eth0", "type", "bridge"]);
        let config = config("ptp", &["10.1.2.0/24"]);
        let message = Call::new("ptp", "ADD", &container, &config).fail(999);
        assert!(
            message.starts_with("container veth name (\"eth0\") peer provided"),
            "{message}"
        );
        assert!(message.ends_with("already exists"), "{message}");
        node.assert_clean();
    });
}

#[test]
fn check_tells_what_is_not_as_it_was_made() {
    on_a_node(|node| {
        let container = node.container("a");
        let config = config("ptp", &["10.1.2.0/24", "fd00:1::/64"]);
        let result = Call::new("ptp", "ADD", &container, &config).succeed();
        let check = Call::new("ptp", "CHECK", &container, &config);
        assert!(check.fail(7).contains("prevResult missing"));
        let check = check.after(&result);
        check.succeed();
        // What others add is no difference.
        node.ask(
            "ip",
            &["-n", "a", "addr", "add", "192.0.2.7/32", "dev", "eth0"],
        );
        node.ask(
            "ip",
            &["-n", "a", "route", "add", "198.51.100.0/24", "dev", "eth0"],
        );
        check.succeed();

        let mut other = result.clone();
        other["interfaces"][1]["sandbox"] = "/run/netns/other".into();
        let message = Call::new("ptp", "CHECK", &container, &config)
            .after(&other)
            .fail(999);
        assert!(
            message.contains("doesn't match configured netns"),
            "{message}"
        );
        let mut other = result.clone();
        other["interfaces"][1]["mac"] = "02:00:00:00:00:99".into();
        let message = Call::new("ptp", "CHECK", &container, &config)
            .after(&other)
            .fail(999);
        assert!(message.contains("doesn't match container Mac"), "{message}");

        node.ask("ip", &["-n", "a", "route", "del", "default"]);
        let message = check.fail(999);
        assert!(
            message.contains("Expected Route 0.0.0.0/0 not found"),
            "{message}"
        );
        node.ask(
            "ip",
            &["-n", "a", "route", "add", "default", "via", "10.1.2.1"],
        );
        node.ask(
            "ip",
            &["-n", "a", "addr", "del", "fd00:1::2/64", "dev", "eth0"],
        );
        assert!(check.fail(999).contains("Failed to match addr fd00:1::2"));
        fs::remove_file("/run/ipam/net/10.1.2.2").unwrap();
        fs::remove_file("/run/ipam/net/fd00:1::2").unwrap();
        assert!(
            check
                .fail(999)
                .contains("Failed to find address added by container a")
        );
    });
}

#[test]
fn check_notices_that_the_interface_is_gone_or_another_one() {
    on_a_node(|node| {
        let container = node.container("a");
        let config = config("ptp", &["10.1.2.0/24"]);
        let result = Call::new("ptp", "ADD", &container, &config).succeed();
        let check = Call::new("ptp", "CHECK", &container, &config).after(&result);
        node.ask("ip", &["-n", "a", "link", "del", "eth0"]);
        assert!(check.fail(999).contains("not found"));
        node.ask("ip", &["-n", "a", "link", "add", "eth0", "type", "bridge"]);
        assert!(check.fail(999).contains("not of type veth"));
    });
}

#[test]
fn a_node_whose_addresses_are_all_in_use_is_no_node_without_a_network() {
    on_a_node(|node| {
        let config = config("ptp", &["10.1.2.0/30"]);
        let (a, b) = (node.container("a"), node.container("b"));
        let status = Call::new("ptp", "STATUS", &a, &config);
        status.succeed();
        Call::new("ptp", "ADD", &a, &config).succeed();
        status.succeed();
        let message = Call::new("ptp", "ADD", &b, &config).fail(999);
        let expected = "failed to allocate for range 0: no IP addresses available in range set: \
                        10.1.2.1-10.1.2.2";
        assert_eq!(message, expected);
        status.succeed();
    });
}

#[test]
fn verbs_that_a_version_does_not_have_are_refused() {
    on_a_node(|node| {
        let container = node.container("a");
        for (verb, version) in [("CHECK", "0.3.1"), ("STATUS", "1.0.0"), ("GC", "1.0.0")] {
            let config = in_version(&config("ptp", &["10.1.2.0/24"]), version);
            let message = Call::new("ptp", verb, &container, &config).fail(1);
            assert_eq!(message, format!("config version does not allow {verb}"));
        }
    });
}

#[test]
fn ipv6_works_where_the_runtime_switched_it_off() {
    on_a_node(|node| {
        let container = node.container("a");
        inside(&container.netns, || {
            for link in ["all", "default", "lo"] {
                podwire_kernel::sysctl::write(&format!("net/ipv6/conf/{link}/disable_ipv6"), "1")
                    .unwrap();
            }
        });
        let config = config("ptp", &["fd00:1::/64"]);
        Call::new("ptp", "ADD", &container, &config).succeed();
        serve(&container.netns, "web", "[fd00:1::2]:80", false);
        assert_eq!(tcp("[fd00:1::2]:80").unwrap(), "web fd00:1::1");
    });
}

#[test]
fn ipv6_works_where_the_node_has_it_switched_off_on_new_links() {
    on_a_node(|node| {
        podwire_kernel::sysctl::write("net/ipv6/conf/default/disable_ipv6", "1").unwrap();
        let container = node.container("a");
        let config = config("ptp", &["10.1.2.0/24", "fd00:1::/64"]);
        Call::new("ptp", "ADD", &container, &config).succeed();
        serve(&container.netns, "web", "[fd00:1::2]:80", false);
        assert_eq!(tcp("[fd00:1::2]:80").unwrap(), "web fd00:1::1");
        // No address of the kernel's own, and none that is still being looked for.
        let addresses = node.ask("ip", &["-6", "addr", "show", "dev", &node.host_link()]);
        assert_eq!(addresses.matches("fe80::").count(), 1, "{addresses}");
        assert!(!addresses.contains("tentative"), "{addresses}");
    });
}

#[test]
fn router_advertisements_are_ignored_and_sources_are_checked() {
    on_a_node(|node| {
        let container = node.container("a");
        let config = config("ptp", &["10.1.2.0/24", "fd00:1::/64"]);
        Call::new("ptp", "ADD", &container, &config).succeed();
        let host = node.host_link();
        let read = |key: &str| podwire_kernel::sysctl::read(key).unwrap();
        assert_eq!(read(&format!("net/ipv6/conf/{host}/accept_ra")), "0");
        assert_eq!(read(&format!("net/ipv4/conf/{host}/rp_filter")), "1");
        let inside_ra = inside(&container.netns, || {
            podwire_kernel::sysctl::read("net/ipv6/conf/eth0/accept_ra").unwrap()
        });
        assert_eq!(inside_ra, "0");
    });
}

#[test]
fn a_backend_of_masquerading_that_the_reference_plugin_refuses_is_refused() {
    on_a_node(|node| {
        let container = node.container("a");
        let mut config = config("ptp", &["10.1.2.0/24"]);
        for (masquerades, backend, is_refused) in [
            (true, json!("foo"), true),
            (true, json!(""), true),
            (true, json!("nftables"), false),
            (true, Value::Null, false),
            (false, json!("foo"), false),
        ] {
            config["ipMasq"] = masquerades.into();
            config["ipMasqBackend"] = backend;
            let add = Call::new("ptp", "ADD", &container, &config);
            if is_refused {
                let message = add.fail(7);
                assert!(message.contains("ipMasqBackend"), "{message}");
            } else {
                add.succeed();
            }
            Call::new("ptp", "DEL", &container, &config).succeed();
        }
        node.assert_clean();
    });
}
