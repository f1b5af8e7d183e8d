//! GC: what the runtime does not list goes, what it lists stays, what is not ours is left alone.

use podwire::attachment::host_link_name;
use serde_json::{Value, json};

use super::net::{serve, tcp};
use super::node::{Call, config, left_in, on_a_node};

const RECORDS: &str = "/run/podwire/attachments";

fn with_everything(network: &str) -> Value {
    let mut config = config("podwire", &["10.1.2.0/24", "fd00:1::/64"]);
    config["name"] = network.into();
    config["ipam"]["dataDir"] = "/run/ipam".into();
    config["ipMasq"] = true.into();
    config["runtimeConfig"] = json!({"portMappings": [
        {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
    ]});
    config
}

fn keeping(config: &Value, ids: &[&str]) -> Value {
    let mut config = config.clone();
    let valid: Vec<_> = ids
        .iter()
        .map(|id| json!({"containerID": id, "ifname": "eth0"}))
        .collect();
    config["cni.dev/valid-attachments"] = valid.into();
    config
}

#[test]
fn what_is_listed_stays_and_the_rest_goes() {
    on_a_node(|node| {
        let config = with_everything("net");
        let containers = ["a", "b", "c"].map(|id| node.container(id));
        for container in &containers {
            Call::new("podwire", "ADD", container, &config).succeed();
        }
        serve(&containers[2].netns, "c", "10.1.2.4:80", false);
        Call::new("podwire", "GC", &containers[0], &keeping(&config, &["c"])).succeed();
        assert_eq!(node.links().len(), 2);
        assert_eq!(tcp("127.0.0.1:8080").unwrap(), "c 10.1.2.1");
        let ruleset = node.ruleset();
        assert!(
            !ruleset.contains("10.1.2.2") && !ruleset.contains("10.1.2.3 "),
            "{ruleset}"
        );
        Call::new("podwire", "GC", &containers[0], &keeping(&config, &[])).succeed();
        node.assert_clean();
        assert_eq!(node.ruleset(), "", "the tables stay without attachments");
    });
}

#[test]
fn a_pod_that_is_listed_keeps_its_host_port_without_its_record() {
    on_a_node(|node| {
        let config = with_everything("net");
        let (a, b) = (node.container("a"), node.container("b"));
        Call::new("podwire", "ADD", &a, &config).succeed();
        let mut other = config.clone();
        other["runtimeConfig"]["portMappings"][0]["hostPort"] = 8081.into();
        Call::new("podwire", "ADD", &b, &other).succeed();
        serve(&a.netns, "a", "10.1.2.2:80", false);
        for name in left_in(RECORDS) {
            std::fs::remove_file(format!("{RECORDS}/{name}")).unwrap();
        }
        let gc = |ids: &[&str]| Call::new("podwire", "GC", &a, &keeping(&config, ids)).succeed();
        gc(&["a"]);
        assert_eq!(tcp("127.0.0.1:8080").unwrap(), "a 10.1.2.1");
        let ruleset = node.ruleset();
        assert!(ruleset.contains("10.1.2.2 comment"), "{ruleset}");
        assert!(!ruleset.contains("10.1.2.3"), "{ruleset}");
        gc(&[]);
        node.assert_clean();
        assert_eq!(node.ruleset(), "");
    });
}

#[test]
fn pods_of_other_networks_keep_their_host_ports_without_their_records() {
    for all_are_lost in [true, false] {
        on_a_node(move |node| {
            let with_port = |network, subnet: &str, port: u16| {
                let mut config = with_everything(network);
                config["ipam"]["ranges"] = json!([[{ "subnet": subnet }]]);
                config["ipam"]["routes"] = json!([]);
                config["runtimeConfig"]["portMappings"][0]["hostPort"] = port.into();
                config
            };
            let one = with_port("one", "10.1.2.0/24", 8081);
            let two = with_port("two", "10.5.0.0/24", 8082);
            let mut chained = with_port("three", "10.9.9.0/24", 8083);
            chained["type"] = "portmap".into();
            let [a, b, c, d] = ["a", "b", "c", "d"].map(|id| node.container(id));
            Call::new("podwire", "ADD", &a, &one).succeed();
            Call::new("podwire", "ADD", &b, &two).succeed();
            // Behind a plugin that leaves nothing of ours.
            let previous = json!({
                "cniVersion": "1.1.0",
                "interfaces": [{"name": "eth0", "sandbox": c.path}],
                "ips": [{"address": "10.9.9.2/24", "interface": 0}],
            });
            let ports = |verb| Call::new("portmap", verb, &c, &chained).after(&previous);
            ports("ADD").succeed();
            for name in left_in(RECORDS) {
                std::fs::remove_file(format!("{RECORDS}/{name}")).unwrap();
            }
            if !all_are_lost {
                let four = with_port("four", "10.6.0.0/24", 8084);
                Call::new("podwire", "ADD", &d, &four).succeed();
            }
            let mapped = || {
                let ruleset = node.ruleset();
                let is_mapped = |low: &u8| ruleset.contains(&format!("tcp . 808{low}"));
                [1, 2, 3].into_iter().filter(is_mapped).collect::<Vec<_>>()
            };
            Call::new("portmap", "GC", &a, &keeping(&chained, &["c"])).succeed();
            assert_eq!(mapped(), [1, 2, 3]);
            Call::new("podwire", "GC", &a, &keeping(&one, &[])).succeed();
            assert_eq!(mapped(), [2, 3], "{}", node.ruleset());
            assert!(node.ruleset().contains("10.5.0.2 comment"), "ipMasq");
            assert!(!node.ruleset().contains("10.1.2.2"));
            Call::new("podwire", "GC", &a, &keeping(&two, &["b"])).succeed();
            assert_eq!(mapped(), [2, 3]);
            Call::new("podwire", "GC", &a, &keeping(&two, &[])).succeed();
            assert_eq!(mapped(), [3]);
            ports("DEL").succeed();
            assert_eq!(mapped(), [0; 0]);
            for config in ["one", "four"].map(with_everything) {
                Call::new("podwire", "GC", &a, &keeping(&config, &[])).succeed();
            }
            node.assert_clean();
            assert_eq!(node.ruleset(), "");
        });
    }
}

#[test]
fn the_guard_of_127_0_0_0_stays_as_long_as_a_link_is_open() {
    on_a_node(|node| {
        let container = node.container("a");
        node.ask("ip", &["link", "add", "br0", "type", "bridge"]);
        node.ask("ip", &["addr", "add", "10.9.9.1/24", "dev", "br0"]);
        node.ask("ip", &["link", "set", "br0", "up"]);
        let previous = json!({
            "cniVersion": "1.0.0",
            "interfaces": [{"name": "eth0", "sandbox": container.path}],
            "ips": [{"address": "10.9.9.2/24", "interface": 0}],
        });
        let mut config = with_everything("net");
        config["type"] = "portmap".into();
        let config = keeping(&config, &[]);
        let call = |verb| Call::new("portmap", verb, &container, &config).after(&previous);
        for open in ["br0", "all"] {
            call("ADD").succeed();
            let set = |link: &str, value| {
                let key = format!("net/ipv4/conf/{link}/route_localnet");
                podwire_kernel::sysctl::write(&key, value).unwrap();
            };
            set("br0", "0");
            set(open, "1");
            call("DEL").succeed();
            call("GC").succeed();
            let ruleset = node.ruleset();
            assert!(
                ruleset.contains("ip saddr 127.0.0.0/8"),
                "{open}: {ruleset}"
            );
            node.assert_nothing_mapped();
            set(open, "0");
            call("GC").succeed();
            assert_eq!(node.ruleset(), "", "{open}");
        }
    });
}

#[test]
fn other_networks_and_foreign_links_are_left_alone() {
    on_a_node(|node| {
        let (one, two) = (with_everything("one"), with_everything("two"));
        let mut two = two;
        two["ipam"]["ranges"] = json!([[{"subnet": "10.5.0.0/24"}]]);
        two["ipam"]["routes"] = json!([]);
        two["runtimeConfig"] = Value::Null;
        let (a, b) = (node.container("a"), node.container("b"));
        Call::new("podwire", "ADD", &a, &one).succeed();
        let result = Call::new("podwire", "ADD", &b, &two).succeed();
        node.ask(
            "ip",
            &["link", "add", "foreign", "group", "112", "type", "bridge"],
        );
        node.ask("ip", &["link", "set", "foreign", "alias", "a/eth0"]);
        Call::new("podwire", "GC", &a, &keeping(&one, &[])).succeed();
        Call::new("podwire", "CHECK", &b, &two)
            .after(&result)
            .succeed();
        assert!(node.links().contains(&"foreign".to_owned()));
        assert_eq!(node.links().len(), 3);
        Call::new("podwire", "DEL", &b, &two).succeed();
        node.ask("ip", &["link", "del", "foreign"]);
        node.assert_clean();
    });
}

#[test]
fn a_link_without_a_lease_and_a_lease_without_a_link_go() {
    on_a_node(|node| {
        let config = with_everything("net");
        let (a, b) = (node.container("a"), node.container("b"));
        for container in [&a, &b] {
            Call::new("podwire", "ADD", container, &config).succeed();
        }
        std::fs::remove_dir_all("/run/ipam").unwrap();
        let link = podwire::attachment::host_link_name("b", "eth0");
        node.ask("ip", &["link", "del", &link]);
        Call::new("podwire", "GC", &a, &keeping(&config, &[])).succeed();
        node.assert_clean();
    });
}

#[test]
fn a_link_without_its_alias_goes_with_its_lease_whatever_the_format() {
    on_a_node(|node| {
        let config = with_everything("net");
        let (a, b) = (node.container("a"), node.container("b"));
        for (container, address) in [(&a, "10.1.2.2"), (&b, "10.1.2.3")] {
            Call::new("podwire", "ADD", container, &config).succeed();
            let link = host_link_name(&container.id, "eth0");
            node.ask("ip", &["link", "set", &link, "alias", ""]);
            if container.id == "a" {
                std::fs::write(format!("/run/ipam/net/{address}"), "a").unwrap();
            }
        }
        Call::new("podwire", "GC", &a, &keeping(&config, &[])).succeed();
        node.assert_clean();
    });
}

#[test]
fn a_lease_of_the_old_format_takes_no_link_of_another_network_with_it() {
    on_a_node(|node| {
        let (one, two) = (with_everything("one"), with_everything("two"));
        let a = node.container("a");
        Call::new("podwire", "ADD", &a, &two).succeed();
        std::fs::create_dir_all("/run/ipam/one").unwrap();
        std::fs::write("/run/ipam/one/10.1.2.9", "a").unwrap();
        Call::new("podwire", "GC", &a, &keeping(&one, &[])).succeed();
        assert!(!std::fs::exists("/run/ipam/one/10.1.2.9").unwrap());
        assert!(node.links().contains(&host_link_name("a", "eth0")));
        Call::new("podwire", "DEL", &a, &two).succeed();
        node.assert_clean();
    });
}

#[test]
fn a_chained_portmap_and_bandwidth_collect_their_own() {
    on_a_node(|node| {
        let mut link = config("ptp", &["10.1.2.0/24"]);
        link["name"] = "net".into();
        let (a, b) = (node.container("a"), node.container("b"));
        let mut ports = json!({
            "cniVersion": "1.1.0", "name": "net", "type": "portmap",
            "runtimeConfig": {"portMappings": [{"hostPort": 1, "containerPort": 80}]},
        });
        let limits = json!({
            "cniVersion": "1.1.0", "name": "net", "type": "bandwidth",
            "egressRate": 800000, "egressBurst": 800000,
        });
        for (number, container) in [&a, &b].into_iter().enumerate() {
            let result = Call::new("ptp", "ADD", container, &link).succeed();
            ports["runtimeConfig"]["portMappings"][0]["hostPort"] = (8080 + number).into();
            Call::new("portmap", "ADD", container, &ports)
                .after(&result)
                .succeed();
            Call::new("bandwidth", "ADD", container, &limits)
                .after(&result)
                .succeed();
        }
        Call::new("portmap", "GC", &a, &keeping(&ports, &["b"])).succeed();
        Call::new("bandwidth", "GC", &a, &keeping(&limits, &["b"])).succeed();
        let ruleset = node.ruleset();
        assert!(
            ruleset.contains("tcp . 8081") && !ruleset.contains("tcp . 8080"),
            "{ruleset}"
        );
        let ifbs = node
            .links()
            .into_iter()
            .filter(|name| name.starts_with("bwp"))
            .count();
        assert_eq!(ifbs, 1);
        for (plugin, config) in [("portmap", &ports), ("bandwidth", &limits), ("ptp", &link)] {
            Call::new(plugin, "GC", &a, &keeping(config, &[])).succeed();
        }
        node.assert_clean();
    });
}

#[test]
fn gc_asks_the_plugin_that_gives_the_addresses() {
    use std::os::unix::fs::PermissionsExt;
    on_a_node(|node| {
        let path = format!("{}/other-ipam", super::node::OURS);
        std::fs::write(&path, "#!/bin/sh\ncat > /run/stdin.$CNI_COMMAND\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut config = config("podwire", &[]);
        config["ipam"] = json!({"type": "other-ipam"});
        let config = keeping(&config, &["x"]);
        let container = node.container("a");
        Call::new("podwire", "GC", &container, &config).succeed();
        let passed: Value =
            serde_json::from_slice(&std::fs::read("/run/stdin.GC").unwrap()).unwrap();
        assert_eq!(passed, config);
        let call = Call::new("podwire", "GC", &container, &config).with("CNI_PATH", "/nowhere");
        assert!(call.fail(7).contains("other-ipam"));
    });
}

#[test]
fn the_list_of_an_earlier_specification_counts_where_there_is_no_other() {
    on_a_node(|node| {
        let (a, b) = (node.container("a"), node.container("b"));
        let config = config("podwire", &["10.1.2.0/24"]);
        for container in [&a, &b] {
            Call::new("podwire", "ADD", container, &config).succeed();
        }
        let earlier = |config: &Value, ids: &[&str]| {
            let mut listed = keeping(config, ids);
            let list = listed["cni.dev/valid-attachments"].clone();
            listed = config.clone();
            listed["cni.dev/attachments"] = list;
            listed
        };
        let gc = |config: &Value| Call::new("podwire", "GC", &a, config).succeed();
        let leased = || {
            left_in("/run/ipam/net")
                .iter()
                .any(|name| name == "10.1.2.2")
        };
        gc(&keeping(&earlier(&config, &["b"]), &["a", "b"]));
        assert!(leased());
        gc(&earlier(&config, &["b"]));
        assert!(!leased());
        assert_eq!(node.host_link(), host_link_name("b", "eth0"));
        gc(&earlier(&config, &[]));
        node.assert_clean();
    });
}
