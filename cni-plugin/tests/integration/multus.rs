//! Several interfaces in one container, as Multus asks for them.

use serde_json::json;

use super::node::{Call, config, in_version, on_a_node};

#[test]
fn a_second_interface_may_bring_default_routes_of_its_own() {
    for plugin in ["podwire", "ptp"] {
        on_a_node(move |node| {
            let container = node.container("a");
            let first = config(plugin, &["10.1.0.0/24", "fd00:1::/64"]);
            let mut second = config(plugin, &["10.2.0.0/24", "fd00:2::/64"]);
            second["name"] = "second".into();
            second["ipam"]["dataDir"] = "/run/second".into();
            Call::new(plugin, "ADD", &container, &first).succeed();
            let net1 = |verb| Call::new(plugin, verb, &container, &second).ifname("net1");
            let result = net1("ADD").succeed();
            let ways = |family| {
                let routes = node.ask("ip", &["-n", "a", family, "route"]);
                let through = |link: &str| routes.matches(&format!("dev {link}")).count() > 1;
                assert!(routes.contains("default"), "{routes}");
                assert!(through("eth0") && through("net1"), "{routes}");
                routes
            };
            // As with the reference plugin the newer one is used first.
            let v4 = ways("-4");
            assert!(v4.starts_with("default via 10.2.0.1 dev net1"), "{v4}");
            assert!(v4.contains("default via 10.1.0.1 dev eth0"), "{v4}");
            let v6 = ways("-6");
            assert!(v6.contains("via fd00:1::1 dev eth0"), "{v6}");
            assert!(v6.contains("via fd00:2::1 dev net1"), "{v6}");
            net1("CHECK").after(&result).succeed();
            net1("DEL").succeed();
            Call::new(plugin, "DEL", &container, &first).succeed();
        });
    }
}

#[test]
fn a_route_that_is_there_already_through_another_gateway_is_no_failure() {
    on_a_node(|node| {
        let container = node.container("a");
        let mut config = config("ptp", &["10.1.0.0/24"]);
        config["ipam"]["routes"] = json!([
            {"dst": "192.0.2.0/24"}, {"dst": "192.0.2.0/24", "gw": "10.1.0.9"},
        ]);
        Call::new("ptp", "ADD", &container, &config).succeed();
        let routes = node.ask("ip", &["-n", "a", "route", "list", "192.0.2.0/24"]);
        assert_eq!(routes.lines().count(), 2, "{routes}");
    });
}

#[test]
fn check_passes_over_addresses_of_other_interfaces() {
    on_a_node(|node| {
        let container = node.container("a");
        let config = in_version(&config("podwire", &["10.1.2.0/24"]), "1.0.0");
        let mut result = Call::new("podwire", "ADD", &container, &config).succeed();
        let check = |result: &serde_json::Value| {
            Call::new("podwire", "CHECK", &container, &config).after(result)
        };
        let another = json!({"name": "net1", "sandbox": "/run/netns/a"});
        result["interfaces"].as_array_mut().unwrap().push(another);
        let address = json!({"interface": 2, "address": "192.0.2.9/24", "gateway": "192.0.2.1"});
        result["ips"].as_array_mut().unwrap().push(address);
        check(&result).succeed();
        result["ips"][1]["interface"] = json!(1);
        check(&result).fail(999);
    });
}
