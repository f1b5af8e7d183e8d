//! Bad input: an error in JSON with its code and one sentence, and nothing left behind.

mod disk;
mod random;

use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use serde_json::{Value, json};

use super::node::{Call, Container, Node, config, on_a_node};

const SUBNETS: [&str; 2] = ["10.1.2.0/24", "fd00:1::/64"];

fn add(container: &Container, config: &Value) -> Call {
    Call::new("podwire", "ADD", container, config)
}

/// Runs a call that must fail, and checks what is said and left.
#[track_caller]
fn check(node: &Node, call: &Call, code: u32, expected: &str) {
    let answer = call.run();
    assert!(!answer.success);
    assert_eq!(answer.stdout["code"], code, "{answer:?}");
    let message = answer.stdout["msg"].as_str().unwrap();
    assert!(message.contains(expected), "{message:?} lacks {expected:?}");
    assert!(answer.stdout["cniVersion"].is_string());
    assert!(
        !message.contains('\n'),
        "more than one sentence: {message:?}"
    );
    node.assert_clean();
}

#[test]
fn every_prefix_of_a_configuration_is_refused() {
    on_a_node(|node| {
        let container = node.container("a");
        let whole = add(&container, &config("podwire", &["10.1.2.0/24"]));
        for length in (0..whole.stdin.len()).step_by(9) {
            let mut call = whole.clone();
            call.stdin.truncate(length);
            check(node, &call, 6, "cannot decode the network configuration");
        }
    });
}

#[test]
fn wrong_types_are_named_with_their_place() {
    on_a_node(|node| {
        let container = node.container("a");
        for (path, value, expected) in [
            ("/cniVersion", json!(1), "cniVersion must be a string"),
            ("/name", json!([]), "name must be a string"),
            ("/mtu", json!("1500"), "mtu must be a whole number"),
            ("/mtu", json!(1.5), "mtu must be a whole number"),
            ("/ipMasq", json!("yes"), "ipMasq must be true or false"),
            ("/dns", json!([]), "dns must be an object"),
            ("/ipam", json!("host-local"), "ipam must be an object"),
            ("/ipam/type", json!(3), "ipam.type must be a string"),
            ("/ipam/dataDir", json!({}), "ipam.dataDir must be a string"),
            ("/ipam/routes", json!({}), "ipam.routes must be a list"),
            (
                "/ipam/routes/0",
                json!("0.0.0.0/0"),
                "ipam.routes[0] must be an object",
            ),
            (
                "/ipam/routes/0/dst",
                json!("0.0.0.0"),
                "ipam.routes[0].dst must be an address with",
            ),
            (
                "/ipam/routes/0/gw",
                json!("x"),
                "ipam.routes[0].gw must be an IP address",
            ),
            ("/ipam/ranges", json!({}), "ipam.ranges must be a list"),
            ("/ipam/ranges/0", json!({}), "ipam.ranges[0] must be a list"),
            (
                "/ipam/ranges/0/0/subnet",
                json!("10.0.0.0"),
                "ipam.ranges[0][0].subnet must be",
            ),
            (
                "/ipam/ranges/0/0/subnet",
                json!("10.0.0.0/64"),
                "ipam.ranges[0][0].subnet must be",
            ),
        ] {
            let mut config = config("podwire", &["10.1.2.0/24"]);
            *config.pointer_mut(path).unwrap_or(&mut Value::Null) = Value::Null;
            let (parent, key) = path.rsplit_once('/').unwrap();
            match config.pointer_mut(parent).unwrap() {
                Value::Array(list) => list[key.parse::<usize>().unwrap()] = value,
                object => object[key] = value,
            }
            check(node, &add(&container, &config), 6, expected);
        }
        for (document, expected) in [
            ("[]", "not a list"),
            ("3", "not the number 3"),
            ("null", "null"),
        ] {
            let mut call = add(&container, &json!({}));
            call.stdin = document.into();
            check(node, &call, 6, expected);
        }
    });
}

#[test]
fn values_that_make_no_sense_are_named() {
    on_a_node(|node| {
        let container = node.container("a");
        for (path, value, code, expected) in [
            (
                "/cniVersion",
                json!("2.0.0"),
                1,
                "incompatible CNI versions",
            ),
            ("/name", json!(""), 7, "missing network name"),
            (
                "/name",
                json!("../escape"),
                7,
                "invalid characters found in network name",
            ),
            (
                "/name",
                json!(".hidden"),
                7,
                "invalid characters found in network name",
            ),
            ("/mtu", json!(67), 7, "mtu is 67"),
            ("/mtu", json!(-1), 7, "mtu is -1"),
            ("/mtu", json!(65536), 7, "mtu is 65536"),
            (
                "/ipam/routes/0/dst",
                json!("10.0.0.1/8"),
                7,
                "the network is 10.0.0.0/8",
            ),
            (
                "/ipam/ranges/0/0/subnet",
                json!("10.1.2.3/24"),
                7,
                "Network has host bits set",
            ),
            ("/ipam/resolvConf", json!("/not/there"), 5, "/not/there"),
        ] {
            let mut config = config("podwire", &["10.1.2.0/24"]);
            let (parent, key) = path.rsplit_once('/').unwrap();
            config.pointer_mut(parent).unwrap()[key] = value;
            check(node, &add(&container, &config), code, expected);
        }
    });
}

#[test]
fn unknown_keys_are_no_mistake() {
    on_a_node(|node| {
        let container = node.container("a");
        let mut config = config("podwire", &["10.1.2.0/24"]);
        config["someday"] = json!({"deep": [1, {"er": null}]});
        config["ipam"]["also"] = json!("x");
        add(&container, &config).succeed();
    });
}

#[test]
fn an_environment_that_makes_no_sense_is_named() {
    on_a_node(|node| {
        let container = node.container("a");
        let config = config("podwire", &SUBNETS);
        let call = add(&container, &config);
        for (name, value, code, expected) in [
            ("CNI_COMMAND", "ADDD", 4, "unknown CNI_COMMAND: ADDD"),
            (
                "CNI_CONTAINERID",
                "",
                4,
                "required env variables [CNI_CONTAINERID] missing",
            ),
            (
                "CNI_CONTAINERID",
                "a/b",
                4,
                "invalid characters in containerID",
            ),
            (
                "CNI_CONTAINERID",
                "..",
                4,
                "invalid characters in containerID",
            ),
            ("CNI_IFNAME", "a/b", 4, "contains / or : or whitespace"),
            ("CNI_IFNAME", "sixteen-bytes-xy", 4, "too long"),
            ("CNI_IFNAME", "..", 4, ". or .."),
            ("CNI_NETNS", "/run/netns/gone", 8, "/run/netns/gone"),
            ("CNI_NETNS", "/etc/passwd", 8, "/etc/passwd"),
            ("CNI_NETNS", "/run", 8, "/run"),
            (
                "CNI_NETNS",
                "/proc/thread-self/ns/net",
                8,
                "should not be the same",
            ),
            ("CNI_NETNS", "/proc/self/ns/pid", 8, "/proc/self/ns/pid"),
            ("CNI_ARGS", "IP", 4, "ARGS: invalid pair"),
            ("CNI_ARGS", "IP=x", 4, "invalid IP address x"),
            ("CNI_ARGS", "A=b", 4, "unknown args"),
        ] {
            let call = if name == "CNI_COMMAND" {
                Call {
                    verb: value.into(),
                    ..call.clone()
                }
            } else {
                call.clone().with(name, value)
            };
            check(node, &call, code, expected);
        }
        let bytes = std::ffi::OsString::from_vec(vec![0xff, 0xfe, b'x']);
        check(
            node,
            &call.clone().with("CNI_CONTAINERID", bytes.clone()),
            4,
            "containerID",
        );
        check(
            node,
            &call.clone().with("CNI_NETNS", bytes),
            8,
            "failed to open netns",
        );
    });
}

#[test]
fn what_a_deletion_could_not_find_again_is_not_made_and_its_deletion_succeeds() {
    on_a_node(|node| {
        let container = node.container("a");
        let plain = config("podwire", &SUBNETS);
        let mut named = plain.clone();
        named["name"] = "n".repeat(300).into();
        let mut stored = plain.clone();
        stored["ipam"]["dataDir"] = format!("/run/{}", "d".repeat(300)).into();
        let path = format!("/run/netns/{}", "p".repeat(5000));
        for (config, name, value, code, expected) in [
            (&plain, "CNI_CONTAINERID", "f".repeat(5000), 4, "too long"),
            (&plain, "CNI_IFNAME", "x".repeat(300), 4, "too long"),
            (&plain, "CNI_IFNAME", "all".into(), 4, "stand for every"),
            (&plain, "CNI_NETNS", path, 8, "File name too long"),
            (&named, "CNI_IFNAME", "eth0".into(), 7, "name is too long"),
            (
                &stored,
                "CNI_IFNAME",
                "eth0".into(),
                5,
                "File name too long",
            ),
        ] {
            check(
                node,
                &add(&container, config).with(name, &value),
                code,
                expected,
            );
            let del = Call::new("podwire", "DEL", &container, config);
            del.with(name, value).succeed();
        }
        let status = Call::new("podwire", "STATUS", &container, &named);
        check(node, &status, 7, "name is too long");
    });
}

#[test]
fn the_longest_names_leave_nothing_and_so_does_a_lease_of_before_they_were_limited() {
    on_a_node(|node| {
        let container = node.container("a");
        let mut config = config("podwire", &SUBNETS);
        config["name"] = "n".repeat(128).into();
        let arguments = format!(
            "K8S_POD_NAMESPACE={};K8S_POD_NAME={};IgnoreUnknown=1",
            "s".repeat(5000),
            "p".repeat(5000)
        );
        let call = |verb, id: &str| {
            let call = Call::new("podwire", verb, &container, &config);
            call.with("CNI_CONTAINERID", id)
                .with("CNI_ARGS", &arguments)
                .ifname("fifteen-bytes-x")
        };
        let id = "f".repeat(1024);
        call("ADD", &id).succeed();
        let directory = format!("/run/ipam/{}", "n".repeat(128));
        call("DEL", &id).succeed();
        node.assert_clean();
        let old = "e".repeat(5000);
        fs::write(
            format!("{directory}/10.1.2.9"),
            format!("{old}\r\nfifteen-bytes-x"),
        )
        .unwrap();
        call("DEL", &old).succeed();
        node.assert_clean();
    });
}

#[test]
fn an_error_of_a_namespace_says_its_path_once() {
    on_a_node(|node| {
        let container = node.container("a");
        let call = add(&container, &config("podwire", &SUBNETS));
        let answer = call.with("CNI_NETNS", "/run/netns/gone").fail(8);
        assert_eq!(answer.matches("/run/netns/gone").count(), 1, "{answer}");
    });
}

#[test]
fn a_configuration_of_a_megabyte_is_taken_and_one_of_seventeen_is_refused() {
    on_a_node(|node| {
        let container = node.container("a");
        let mut large = config("podwire", &["10.1.2.0/24"]);
        large["padding"] = "x".repeat(1 << 20).into();
        add(&container, &large).succeed();
        Call::new("podwire", "DEL", &container, &large).succeed();
        large["padding"] = "x".repeat(17 << 20).into();
        check(node, &add(&container, &large), 5, "longer than 16 MiB");
        let mut deep = add(&container, &json!({}));
        deep.stdin = [vec![b'['; 1 << 20], vec![b']'; 1 << 20]].concat();
        check(node, &deep, 6, "recursion limit");
    });
}

#[test]
fn many_ranges_take_no_unreasonable_time() {
    on_a_node(|node| {
        let container = node.container("a");
        let mut config = config("podwire", &[]);
        let subnet = |number: u32| {
            let [a, b, c, _] = (number << 8).to_be_bytes();
            json!({"subnet": format!("{}.{b}.{c}.0/24", a | 16)})
        };
        config["ipam"]["ranges"] = json!([(0..5000).map(subnet).collect::<Vec<_>>()]);
        add(&container, &config).succeed();
    });
}

#[test]
fn del_does_what_it_can_with_a_configuration_that_is_broken_since() {
    on_a_node(|node| {
        let container = node.container("a");
        let good = config("podwire", &SUBNETS);
        let broken = |change: &dyn Fn(&mut Value)| {
            add(&container, &good).succeed();
            let mut config = good.clone();
            change(&mut config);
            Call::new("podwire", "DEL", &container, &config)
        };
        // What does not matter to DEL is not looked at.
        broken(&|config| config["ipam"]["ranges"] = json!("broken")).succeed();
        node.assert_clean();
        broken(&|config| config["mtu"] = json!("broken")).succeed();
        node.assert_clean();
        // Without IPAM no one knows where the lease is, but the link goes.
        broken(&|config| config["ipam"] = Value::Null).fail(7);
        assert_eq!(node.links(), ["lo"]);
        Call::new("podwire", "DEL", &container, &good).succeed();
        node.assert_clean();
    });
}

#[test]
fn del_never_touches_the_node_itself() {
    on_a_node(|node| {
        node.ask(
            "ip",
            &["link", "add", "eth0", "type", "veth", "peer", "name", "far"],
        );
        let container = node.container("a");
        let config = config("podwire", &SUBNETS);
        let call = Call::new("podwire", "DEL", &container, &config);
        call.with("CNI_NETNS", "/proc/self/ns/net").succeed();
        assert!(node.links().contains(&"eth0".to_owned()));
    });
}

#[test]
fn del_takes_a_name_that_is_no_namespace_any_more_for_one_that_is_gone() {
    on_a_node(|node| {
        let container = node.container("a");
        let config = config("podwire", &SUBNETS);
        add(&container, &config).succeed();
        // A runtime that was killed between unmounting the namespace and removing its file.
        nix::mount::umount2(&*container.path, nix::mount::MntFlags::MNT_DETACH).unwrap();
        assert!(Path::new(&container.path).is_file());
        for _ in 0..2 {
            Call::new("podwire", "DEL", &container, &config).succeed();
            node.assert_clean();
        }
    });
}

#[test]
fn control_characters_reach_no_log_comment_or_alias() {
    const FORGED: &str = "a\nlevel forged\u{1b}]0x\u{7}\u{9b}2J";
    on_a_node(|node| {
        let harmless = |text: &str| assert!(!text.contains(char::is_control), "{text:?}");
        fs::create_dir_all("/run/podwire/policy").unwrap();
        fs::write("/run/podwire/policy/namespaces", "shop\n").unwrap();
        let container = node.container("a");
        let mut config = config("podwire", &SUBNETS);
        config["runtimeConfig"] = json!({"portMappings": [{"hostPort": 80, "containerPort": 80}]});
        let call = |plugin, verb, config: &Value, arguments: &str| {
            let call = Call::new(plugin, verb, &container, config);
            call.with("CNI_ARGS", format!("IgnoreUnknown=1;{arguments}"))
        };
        let pod = format!("K8S_POD_NAMESPACE=free;K8S_POD_NAME={FORGED};K8S_POD_UID={FORGED}");
        let answer = call("podwire", "ADD", &config, &pod).run();
        assert!(answer.success && !answer.stderr.is_empty(), "{answer:?}");
        for line in answer.stderr.lines() {
            assert!(line.starts_with("podwire: "), "{answer:?}");
            harmless(line);
        }
        let mut socket = podwire_kernel::RouteSocket::open().unwrap();
        let link = socket.link_by_name(&node.host_link()).unwrap().unwrap();
        harmless(&link.alias.unwrap());
        assert!(!node.ruleset().contains("forged"));
        call("podwire", "DEL", &config, &pod).succeed();
        // What no name is, but is told in an error or a warning.
        let text = call("podwire", "ADD", &config, &format!("IP={FORGED}")).fail(4);
        harmless(&text);
        let mut delegated = config.clone();
        delegated["ipam"]["type"] = "none".into();
        let lost = call("podwire", "ADD", &delegated, "IP=").with("CNI_PATH", FORGED);
        harmless(&lost.fail(7));
        let ifname = "eth\u{1b}[0m";
        let text = Call::new("podwire", "ADD", &container, &config)
            .ifname(ifname)
            .fail(4);
        harmless(&text);
        node.assert_clean();
    });
}
