//! `podwire`: what it does beyond `ptp`.

use podwire_kernel::RouteSocket;
use serde_json::{Value, json};

use super::net::{Outside, inside, serve, tcp};
use super::node::{Call, Node, config, on_a_node};
use super::owner::{Owner, wait_until};

fn with_ports(subnets: &[&str], ports: Value) -> Value {
    let mut config = config("podwire", subnets);
    config["runtimeConfig"] = json!({ "portMappings": ports });
    config
}

#[test]
fn addresses_reach_no_further_than_the_container() {
    on_a_node(|node| {
        let container = node.container("a");
        let config = config("podwire", &["10.1.2.0/24", "fd00:1::/64"]);
        let result = Call::new("podwire", "ADD", &container, &config).succeed();
        assert_eq!(result["ips"][0]["address"], "10.1.2.2/32");
        assert_eq!(result["ips"][1]["address"], "fd00:1::2/128");
        let routes = node.ask("ip", &["-n", "a", "route"]);
        let expected = "default via 10.1.2.1 dev eth0 \n\
                        10.1.2.1 dev eth0 scope link src 10.1.2.2 \n";
        assert_eq!(routes, expected);
        let route = node.ask("ip", &["-n", "a", "route", "get", "10.10.1.2"]);
        assert!(
            route.starts_with("10.10.1.2 via 10.1.2.1 dev eth0 src 10.1.2.2"),
            "{route}"
        );
        let address = node.ask("ip", &["-br", "-4", "addr", "show", "group", "112"]);
        assert!(address.contains("10.1.2.1/32"), "{address}");
        Call::new("podwire", "CHECK", &container, &config)
            .after(&result)
            .succeed();
    });
}

#[test]
fn a_subnet_without_a_default_route_is_reached_all_the_same() {
    on_a_node(|node| {
        let mut config = config("podwire", &["10.1.2.0/24"]);
        config["ipam"]["routes"] = json!([{"dst": "10.96.0.0/16"}]);
        let (a, b) = (node.container("a"), node.container("b"));
        for container in [&a, &b] {
            Call::new("podwire", "ADD", container, &config).succeed();
        }
        serve(&b.netns, "b", "10.1.2.3:80", false);
        assert_eq!(
            inside(&a.netns, || tcp("10.1.2.3:80")).unwrap(),
            "b 10.1.2.2"
        );
    });
}

#[test]
fn the_link_says_whose_it_is() {
    on_a_node(|node| {
        let container = node.container("a");
        let config = config("podwire", &["10.1.2.0/24"]);
        let arguments = "K8S_POD_NAME=web-0;IgnoreUnknown=1;K8S_POD_NAMESPACE=default;X=y";
        let call = Call::new("podwire", "ADD", &container, &config).with("CNI_ARGS", arguments);
        call.succeed();
        let host = node.host_link();
        assert_eq!(host, podwire::attachment::host_link_name("a", "eth0"));
        let link = RouteSocket::open()
            .unwrap()
            .link_by_name(&host)
            .unwrap()
            .unwrap();
        assert_eq!(link.group, podwire::attachment::LINK_GROUP);
        assert_eq!(link.alias.unwrap(), "a/eth0 net=net pod=default/web-0");
    });
}

#[test]
fn the_mtu_follows_the_uplink() {
    on_a_node(|node| {
        let _outside = Outside::new(node);
        node.ask("ip", &["link", "set", "uplink", "mtu", "1450"]);
        let container = node.container("a");
        let config = config("podwire", &["10.1.2.0/24"]);
        let result = Call::new("podwire", "ADD", &container, &config).succeed();
        assert_eq!(result["interfaces"][0]["mtu"], 1450);
        let link = inside(&container.netns, || {
            RouteSocket::open().unwrap().link_by_name("eth0").unwrap()
        });
        assert_eq!(link.unwrap().mtu, 1450);
    });
}

#[test]
fn the_mtu_is_that_of_the_smaller_uplink_of_the_families_that_a_pod_has() {
    on_a_node(|node| {
        let _outside = Outside::new(node);
        let route = |arguments: &str| {
            let words: Vec<_> = arguments.split(' ').collect();
            node.ask("ip", &words);
        };
        route("link set uplink mtu 1450");
        route("link add other type veth peer name end");
        route("link set other up");
        route("link set end up");
        route("addr add 198.51.100.1/24 dev other");
        let dual = ["10.1.2.0/24", "fd00:1::/64"];
        for (change, subnets, expected) in [
            ("route del default", &dual[..], 1450),
            ("route add blackhole default", &dual, 1450),
            ("route del blackhole default", &dual[..1], 1500),
            ("route add default via 198.51.100.9", &dual, 1450),
            ("route get 203.0.113.1", &dual[..1], 1500),
            ("-6 route del default", &dual, 1500),
        ] {
            route(change);
            let addresses = subnets.iter().map(|subnet| {
                let (address, _) = subnet.split_once('/').unwrap();
                address.parse().unwrap()
            });
            let addresses: Vec<std::net::IpAddr> = addresses.collect();
            let followed = podwire::link::followed_mtu(&addresses).unwrap_or(1500);
            assert_eq!(followed, expected, "{change} {subnets:?}");
        }
    });
}

#[test]
fn an_uplink_with_an_mtu_that_a_link_cannot_follow_stops_no_pod_but_a_configured_one_does() {
    on_a_node(|node| {
        let _outside = Outside::new(node);
        let dual = config("podwire", &["10.1.2.0/24", "fd00:1::/64"]);
        let single = config("podwire", &["10.1.2.0/24"]);
        for (name, uplink, config, expected) in [
            ("a", "1200", &dual, 1280),
            ("b", "1200", &single, 1200),
            ("c", "68", &dual, 1280),
        ] {
            node.ask("ip", &["link", "set", "uplink", "mtu", uplink]);
            let container = node.container(name);
            let result = Call::new("podwire", "ADD", &container, config).succeed();
            assert_eq!(result["interfaces"][1]["mtu"], expected, "{uplink}");
        }
        let mut config = dual;
        config["mtu"] = 1200.into();
        let container = node.container("d");
        let error = Call::new("podwire", "ADD", &container, &config).fail(7);
        assert!(error.starts_with("mtu is 1200"), "{error}");
    });
}

/// A container that answers on port 80 of both families, with host port 8080.
fn serving(node: &mut Node, ports: Value) -> (super::node::Container, Value) {
    let container = node.container("a");
    let config = with_ports(&["10.1.2.0/24", "fd00:1::/64"], ports);
    Call::new("podwire", "ADD", &container, &config).succeed();
    serve(&container.netns, "a", "10.1.2.2:80", false);
    serve(&container.netns, "a", "[fd00:1::2]:80", false);
    (container, config)
}

#[test]
fn a_host_port_is_reached_from_everywhere_as_containerd_writes_it() {
    on_a_node(|node| {
        let outside = Outside::new(node);
        outside.route_back();
        let ports =
            json!([{"HostPort": 8080, "ContainerPort": 80, "Protocol": "tcp", "HostIP": ""}]);
        let (container, config) = serving(node, ports);
        // The node itself, by its addresses and by its loopback.
        assert_eq!(tcp("192.0.2.1:8080").unwrap(), "a 192.0.2.1");
        assert_eq!(tcp("[2001:db8::1]:8080").unwrap(), "a 2001:db8::1");
        assert_eq!(tcp("127.0.0.1:8080").unwrap(), "a 10.1.2.1");
        assert_eq!(tcp("[::1]:8080").unwrap(), "a fd00:1::1");
        // From outside, with its own address.
        let answers = inside(&outside.netns, || {
            [tcp("192.0.2.1:8080"), tcp("[2001:db8::1]:8080")]
        });
        assert_eq!(
            answers.map(Result::unwrap),
            ["a 192.0.2.9", "a 2001:db8::9"]
        );
        // The container itself, and another one.
        let answers = inside(&container.netns, || {
            [tcp("192.0.2.1:8080"), tcp("[2001:db8::1]:8080")]
        });
        assert_eq!(answers.map(Result::unwrap), ["a 10.1.2.1", "a fd00:1::1"]);
        let mut plain = config.clone();
        plain.as_object_mut().unwrap().remove("runtimeConfig");
        let other = node.container("b");
        Call::new("podwire", "ADD", &other, &plain).succeed();
        let answer = inside(&other.netns, || tcp("192.0.2.1:8080"));
        assert_eq!(answer.unwrap(), "a 10.1.2.3");

        Call::new("podwire", "DEL", &container, &config)
            .without_netns()
            .succeed();
        Call::new("podwire", "DEL", &other, &plain)
            .without_netns()
            .succeed();
        assert!(tcp("127.0.0.1:8080").is_err());
        outside.unplug();
        node.assert_clean();
    });
}

#[test]
fn a_mapping_with_an_address_holds_for_that_address_alone() {
    on_a_node(|node| {
        let _outside = Outside::new(node);
        let ports = json!([
            {"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "127.0.0.1"},
            {"hostPort": 8081, "containerPort": 80, "protocol": "tcp", "hostIP": "2001:db8::1"},
            {"hostPort": 8082, "containerPort": 80, "protocol": "tcp", "hostIP": "0.0.0.0"},
        ]);
        serving(node, ports);
        assert_eq!(tcp("127.0.0.1:8080").unwrap(), "a 10.1.2.1");
        assert!(tcp("192.0.2.1:8080").is_err());
        assert!(tcp("[::1]:8080").is_err());
        assert_eq!(tcp("[2001:db8::1]:8081").unwrap(), "a 2001:db8::1");
        assert!(tcp("[::1]:8081").is_err());
        assert!(tcp("127.0.0.1:8081").is_err());
        assert_eq!(tcp("192.0.2.1:8082").unwrap(), "a 192.0.2.1");
        assert!(tcp("[2001:db8::1]:8082").is_err());
    });
}

#[test]
fn two_mappings_of_one_port_to_two_are_refused() {
    on_a_node(|node| {
        let container = node.container("a");
        let ports = json!([
            {"hostPort": 80, "containerPort": 80, "protocol": "tcp"},
            {"hostPort": 80, "containerPort": 81, "protocol": "TCP"},
        ]);
        let config = with_ports(&["10.1.2.0/24"], ports);
        let message = Call::new("podwire", "ADD", &container, &config).fail(7);
        assert!(message.contains("tcp port 80"), "{message}");
        node.assert_clean();
    });
}

#[test]
fn check_notices_that_the_host_ports_were_flushed() {
    on_a_node(|node| {
        let container = node.container("a");
        let ports = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]);
        let config = with_ports(&["10.1.2.0/24"], ports);
        let result = Call::new("podwire", "ADD", &container, &config).succeed();
        let check = Call::new("podwire", "CHECK", &container, &config).after(&result);
        check.succeed();
        node.ask("nft", &["flush", "ruleset"]);
        let message = check.fail(999);
        assert!(message.contains("podwire-hostports"), "{message}");
        // A DEL finds nothing to take away, and is content.
        Call::new("podwire", "DEL", &container, &config).succeed();
        node.assert_clean();
    });
}

#[test]
fn check_notices_that_the_record_of_what_is_configured_is_gone() {
    for asked in [
        json!({"runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80}]}}),
        json!({"ipMasq": true}),
    ] {
        on_a_node(move |node| {
            let container = node.container("a");
            let mut config = config("podwire", &["10.1.2.0/24"]);
            for (key, value) in asked.as_object().unwrap() {
                config[key] = value.clone();
            }
            let result = Call::new("podwire", "ADD", &container, &config).succeed();
            let check = || Call::new("podwire", "CHECK", &container, &config).after(&result);
            check().succeed();
            std::fs::remove_dir_all("/run/podwire/attachments").unwrap();
            let message = check().fail(999);
            assert!(message.contains("record of a/eth0 is gone"), "{message}");
        });
    }
}

#[test]
fn tables_that_lack_something_are_completed_by_the_next_add() {
    on_a_node(|node| {
        let (a, b) = (node.container("a"), node.container("b"));
        let add = |container, port: u16| {
            let ports = json!([{"hostPort": port, "containerPort": 80, "protocol": "tcp"}]);
            let config = with_ports(&["10.1.2.0/24"], ports);
            Call::new("podwire", "ADD", container, &config).succeed();
        };
        add(&a, 8080);
        // Everything but one map is taken away.
        node.ask("nft", &["flush", "table", "inet", "podwire-hostports"]);
        node.ask(
            "nft",
            &["delete", "set", "inet", "podwire-hostports", "hairpin-v4"],
        );
        add(&b, 8081);
        serve(&a.netns, "a", "10.1.2.2:80", false);
        serve(&b.netns, "b", "10.1.2.3:80", false);
        assert_eq!(tcp("127.0.0.1:8081").unwrap(), "b 10.1.2.1");
        node.ask(
            "nft",
            &["list", "set", "inet", "podwire-hostports", "hairpin-v4"],
        );
    });
}

#[test]
fn the_records_make_the_tables_that_the_plugin_made() {
    use podwire::attachment::{FAMILY, HOSTPORTS, IPMASQ, Records, hostports_table, ipmasq_table};
    use podwire_kernel::nft::NftSocket;
    on_a_node(|node| {
        for (id, port) in [("a", 8080), ("b", 8081), ("c", 8080)] {
            let ports = json!([
                {"hostPort": port, "containerPort": 80, "protocol": "tcp"},
                {"hostPort": port, "containerPort": 53, "protocol": "udp", "hostIP": "192.0.2.1"},
                {"hostPort": port, "containerPort": 99, "protocol": "sctp", "hostIP": "2001:db8::1"},
            ]);
            let mut config = with_ports(&["10.1.2.0/24", "fd00:1::/64"], ports);
            config["ipMasq"] = true.into();
            config["masqAll"] = true.into();
            Call::new("podwire", "ADD", &node.container(id), &config).succeed();
        }
        let records = Records::create(podwire::attachment::DIRECTORY.as_ref()).unwrap();
        let (records, unreadable) = records.read_all().unwrap();
        assert_eq!((records.len(), unreadable.len()), (3, 0));
        let mut socket = NftSocket::open().unwrap();
        let mut observe = |name| socket.observe(FAMILY, name).unwrap().unwrap().normalised();
        assert_eq!(observe(HOSTPORTS), hostports_table(&records).unwrap());
        assert_eq!(observe(IPMASQ), ipmasq_table(&records).unwrap());
    });
}

#[test]
fn what_nft_lists_can_be_loaded_again() {
    on_a_node(|node| {
        let ports = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]);
        let mut config = with_ports(&["10.1.2.0/24", "fd00:1::/64"], ports);
        config["ipMasq"] = true.into();
        Call::new("podwire", "ADD", &node.container("a"), &config).succeed();
        let listed = node.ruleset();
        std::fs::write("/run/ruleset", format!("flush ruleset\n{listed}")).unwrap();
        node.ask("nft", &["-f", "/run/ruleset"]);
        assert_eq!(node.ruleset(), listed);
    });
}

#[test]
fn a_failure_after_the_link_takes_everything_back() {
    on_a_node(|node| {
        let container = node.container("a");
        let ports = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]);
        let config = with_ports(&["10.1.2.0/24"], ports);
        std::fs::create_dir_all("/run/podwire").unwrap();
        std::fs::write("/run/podwire/attachments", "in the way").unwrap();
        let message = Call::new("podwire", "ADD", &container, &config).fail(5);
        assert!(message.contains("/run/podwire/attachments"), "{message}");
        std::fs::remove_file("/run/podwire/attachments").unwrap();
        node.assert_clean();
    });
}

#[test]
fn an_add_that_one_of_the_tables_refuses_leaves_no_host_port() {
    on_a_node(|node| {
        let (a, b) = (node.container("a"), node.container("b"));
        let ports = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]);
        let mut config = with_ports(&["10.1.2.0/24"], ports);
        let add = |container: &_, config: &_| Call::new("podwire", "ADD", container, config);
        // First both tables are to be made, then that of the ports is there with a port of another
        // container.
        for there in [false, true] {
            if there {
                config["ipMasq"] = false.into();
                add(&b, &config).succeed();
            }
            let before = node.ruleset();
            let Some(owner) = Owner::of("podwire-ipmasq", node) else {
                return;
            };
            config["ipMasq"] = true.into();
            let message = add(&a, &config).fail(999);
            assert!(message.contains("Operation not permitted"), "{message}");
            Call::new("podwire", "DEL", &a, &config).succeed();
            drop(owner);
            wait_until(|| node.ruleset() == before);
        }
        Call::new("podwire", "DEL", &b, &config).succeed();
        node.assert_clean();
    });
}

#[test]
fn a_link_that_the_reference_plugin_made_is_taken_away() {
    on_a_node(|node| {
        let container = node.container("a");
        let config = super::node::in_version(&config("ptp", &["10.1.2.0/24"]), "1.0.0");
        Call::new("ptp", "ADD", &container, &config)
            .of_reference()
            .succeed();
        Call::new("podwire", "DEL", &container, &config).succeed();
        node.assert_clean();
    });
}
