//! Random input.

use proptest::prelude::*;
use proptest::test_runner::{Config as Cases, TestRunner};
use serde_json::{Value, json};

use crate::node::{Call, PLUGINS, config, on_a_node};

/// JSON that looks like a configuration, more or less.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
        proptest::sample::select(vec![
            "1.1.0",
            "0.2.0",
            "net",
            "host-local",
            "10.0.0.0/29",
            "fd00::/120",
            "10.0.0.3",
            "::",
            "0.0.0.0/0",
            "/run/ipam",
            "tcp",
            "eth0",
        ])
        .prop_map(Value::from),
    ];
    let key = proptest::sample::select(vec![
        "cniVersion",
        "name",
        "ipam",
        "type",
        "ranges",
        "subnet",
        "rangeStart",
        "rangeEnd",
        "gateway",
        "routes",
        "dst",
        "gw",
        "mtu",
        "dataDir",
        "prevResult",
        "ips",
        "address",
        "interfaces",
        "interface",
        "runtimeConfig",
        "portMappings",
        "hostPort",
        "ContainerPort",
        "bandwidth",
        "ingressRate",
        "ingressBurst",
        "args",
        "cni",
        "dns",
        "ipMasq",
        "sandbox",
        "cni.dev/valid-attachments",
        "containerID",
        "ifname",
    ]);
    leaf.prop_recursive(5, 60, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::hash_map(key.clone().prop_map(str::to_owned), inner, 0..8)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Some of a good configuration, and some of anything.
fn mixed() -> impl Strategy<Value = Value> {
    (any_json(), any::<[bool; 6]>()).prop_map(|(mut value, keep)| {
        let mut good = config("podwire", &["10.1.2.0/28"]);
        good["prevResult"] = json!({
            "cniVersion": "1.1.0", "ips": [{"address": "10.1.2.3/24", "interface": 0}],
            "interfaces": [{"name": "eth0", "sandbox": "/run/netns/a"}],
        });
        good["cni.dev/valid-attachments"] = json!([]);
        if let Value::Object(object) = &mut value {
            let keys = [
                "cniVersion",
                "name",
                "type",
                "ipam",
                "prevResult",
                "cni.dev/valid-attachments",
            ];
            for (key, keep) in keys.into_iter().zip(keep) {
                if keep {
                    object.insert(key.into(), good[key].clone());
                }
            }
        }
        value
    })
}

#[test]
fn no_input_makes_any_plugin_panic_or_print_anything_but_json() {
    on_a_node(|node| {
        let container = node.container("a");
        let verbs = ["ADD", "DEL", "CHECK", "STATUS", "GC", "VERSION"];
        let input = prop_oneof![
            4 => mixed().prop_map(|value| value.to_string().into_bytes()),
            1 => proptest::collection::vec(any::<u8>(), 0..200),
        ];
        let strategy = (
            proptest::sample::select(PLUGINS.to_vec()),
            proptest::sample::select(verbs.to_vec()),
            input,
            proptest::option::of(".{0,30}"),
        );
        let mut runner = TestRunner::new(Cases::with_cases(400));
        let outcome = runner.run(&strategy, |(plugin, verb, stdin, arguments)| {
            let mut call = Call::new(plugin, verb, &container, &json!({}));
            call.stdin = stdin;
            if let Some(arguments) = arguments {
                call = call.with("CNI_ARGS", arguments.replace('\0', ""));
            }
            // Fails if the output is no JSON or there was a panic.
            let answer = call.run();
            if !answer.success {
                prop_assert!(answer.stdout["code"].as_u64().unwrap() > 0);
                prop_assert!(!answer.stdout["msg"].as_str().unwrap().is_empty());
            }
            Ok(())
        });
        outcome.unwrap();
    });
}
