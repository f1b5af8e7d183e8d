//! `loopback`.

use podwire_kernel::RouteSocket;
use serde_json::{Value, json};

use super::net::inside;
use super::node::{Call, Container, in_version, on_a_node};

fn config() -> Value {
    json!({"cniVersion": "1.1.0", "name": "lo-net", "type": "loopback"})
}

fn is_up(container: &Container) -> bool {
    inside(&container.netns, || {
        let link = RouteSocket::open().unwrap().link_by_name("lo").unwrap();
        link.unwrap().up
    })
}

#[test]
fn lo_comes_up_and_goes_down_whatever_interface_is_named() {
    on_a_node(|node| {
        let container = node.container("a");
        assert!(!is_up(&container));
        let result = Call::new("loopback", "ADD", &container, &config()).succeed();
        let expected = json!({
            "cniVersion": "1.1.0",
            "interfaces": [
                {"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": "/run/netns/a"}
            ],
            "ips": [
                {"address": "127.0.0.1/8", "interface": 0},
                {"address": "::1/128", "interface": 0},
            ],
        });
        assert_eq!(result, expected);
        assert!(is_up(&container));
        Call::new("loopback", "CHECK", &container, &config()).succeed();
        for _ in 0..2 {
            Call::new("loopback", "DEL", &container, &config()).succeed();
            assert!(!is_up(&container));
        }
        let message = Call::new("loopback", "CHECK", &container, &config()).fail(999);
        assert_eq!(message, "loopback interface is down");
    });
}

#[test]
fn what_came_before_is_passed_on() {
    on_a_node(|node| {
        let container = node.container("a");
        let previous = json!({
            "cniVersion": "1.0.0",
            "interfaces": [{"name": "eth0", "sandbox": "/run/netns/a"}],
            "ips": [{"address": "10.1.2.3/24", "interface": 0}],
        });
        let config = in_version(&config(), "1.0.0");
        let call = Call::new("loopback", "ADD", &container, &config).after(&previous);
        assert_eq!(call.succeed(), previous);
        assert!(is_up(&container));
    });
}

#[test]
fn every_version_has_its_shape() {
    on_a_node(|node| {
        let container = node.container("a");
        let add = |version| {
            let config = in_version(&config(), version);
            Call::new("loopback", "ADD", &container, &config).succeed()
        };
        assert_eq!(add("0.2.0")["ip4"]["ip"], "127.0.0.1/8");
        assert_eq!(add("0.4.0")["ips"][1]["version"], "6");
        assert!(add("1.0.0")["ips"][1].get("version").is_none());
    });
}

#[test]
fn a_namespace_that_is_gone_is_deleted_and_cannot_be_added() {
    on_a_node(|node| {
        let container = node.container("a");
        let call = |verb| {
            let call = Call::new("loopback", verb, &container, &config());
            call.with("CNI_NETNS", "/run/netns/not-there")
        };
        call("DEL").succeed();
        let message = call("ADD").fail(8);
        assert!(message.contains("/run/netns/not-there"), "{message}");
        Call::new("loopback", "DEL", &container, &config())
            .without_netns()
            .succeed();
    });
}

#[test]
fn the_namespace_of_the_plugin_itself_is_left_alone_and_del_succeeds() {
    on_a_node(|node| {
        let container = node.container("a");
        let call = |verb| {
            let call = Call::new("loopback", verb, &container, &config());
            call.with("CNI_NETNS", "/proc/self/ns/net").run()
        };
        let answer = call("DEL");
        assert!(
            answer.success && answer.stderr.contains("is gone"),
            "{answer:?}"
        );
        assert!(node.ask("ip", &["link", "show", "lo"]).contains(",UP"));
        for verb in ["ADD", "CHECK"] {
            assert_eq!(call(verb).stdout["code"], 8, "{verb}");
        }
    });
}

#[test]
fn a_strange_address_on_lo_is_named() {
    on_a_node(|node| {
        let container = node.container("a");
        node.ask(
            "ip",
            &["-n", "a", "addr", "add", "10.9.9.9/32", "dev", "lo"],
        );
        let message = Call::new("loopback", "ADD", &container, &config()).fail(999);
        assert!(message.contains("non-loopback address"), "{message}");
    });
}

#[test]
fn gc_and_status_have_nothing_to_do() {
    on_a_node(|node| {
        let container = node.container("a");
        Call::new("loopback", "STATUS", &container, &config()).succeed();
        Call::new("loopback", "GC", &container, &config()).succeed();
    });
}
