//! `bandwidth`, if this kernel has what it takes.

use podwire_kernel::RouteSocket;
use serde_json::{Value, json};

use super::node::{Call, Container, config, in_version, on_a_node};

fn limits(limits: Value) -> Value {
    let mut config = limits;
    config["cniVersion"] = "1.0.0".into();
    config["name"] = "net".into();
    config["type"] = "bandwidth".into();
    config
}

fn ptp(container: &Container) -> Value {
    let config = in_version(&config("ptp", &["10.1.2.0/24"]), "1.0.0");
    Call::new("ptp", "ADD", container, &config).succeed()
}

const BOTH: &str = r#"{"ingressRate": 8000000, "ingressBurst": 800000,
                       "egressRate": 16000000, "egressBurst": 1600000}"#;

fn both() -> Value {
    limits(serde_json::from_str(BOTH).unwrap())
}

fn shaping(name: &str) -> Option<podwire_kernel::tc::Bucket> {
    let mut socket = RouteSocket::open().unwrap();
    let link = socket.link_by_name(name).unwrap()?;
    let qdiscs = socket.qdiscs(link.index).unwrap();
    qdiscs.iter().find(|qdisc| qdisc.root)?.shaping
}

#[test]
fn both_directions_are_limited_or_the_missing_kernel_feature_is_named() {
    on_a_node(|node| {
        let container = node.container("a");
        let previous = ptp(&container);
        let add = Call::new("bandwidth", "ADD", &container, &both()).after(&previous);
        if let Err(missing) = podwire_kernel::tc::probe() {
            let message = add.fail(999);
            assert!(message.contains("CONFIG_"), "{message}; {missing}");
            return;
        }
        let result = add.succeed();
        let ifb = result["interfaces"][2]["name"].as_str().unwrap().to_owned();
        assert!(ifb.starts_with("bwp") && ifb.len() == 15, "{ifb}");
        let host = previous["interfaces"][0]["name"].as_str().unwrap();
        let (ingress, egress) = (shaping(host).unwrap(), shaping(&ifb).unwrap());
        assert_eq!((ingress.rate, egress.rate), (1_000_000, 2_000_000));
        assert_eq!(ingress.limit, 25_000 + 100_000);

        let check =
            |config: &Value| Call::new("bandwidth", "CHECK", &container, config).after(&result);
        check(&both()).succeed();
        let mut other = both();
        other["ingressRate"] = 9_000_000.into();
        assert!(check(&other).fail(999).contains("Rate doesn't match"));
        for _ in 0..2 {
            Call::new("bandwidth", "DEL", &container, &both())
                .without_netns()
                .succeed();
        }
        assert!(!node.links().contains(&ifb));
    });
}

#[test]
fn the_bursts_of_runtimes_that_set_none_are_known_again() {
    on_a_node(|node| {
        if podwire_kernel::tc::probe().is_err() {
            return;
        }
        for (name, burst) in [("a", (1u64 << 32) - 1), ("b", ((1 << 32) - 1) * 8 - 1)] {
            let container = node.container(name);
            let config = limits(json!({
                "ingressRate": 1_000_000, "ingressBurst": burst,
                "egressRate": 1_000_000, "egressBurst": burst,
            }));
            let previous = ptp(&container);
            let call = |verb| Call::new("bandwidth", verb, &container, &config);
            let result = call("ADD").after(&previous).succeed();
            call("CHECK").after(&result).succeed();
            let mut other = config.clone();
            other["ingressBurst"] = 1_000_000.into();
            let check = Call::new("bandwidth", "CHECK", &container, &other).after(&result);
            assert!(check.fail(999).contains("Burst doesn't match"));
            call("DEL").without_netns().succeed();
        }
    });
}

#[test]
fn limits_of_the_configuration_beat_those_of_the_runtime() {
    on_a_node(|node| {
        let container = node.container("a");
        let previous = ptp(&container);
        let runtime = json!({"bandwidth": {"IngressRate": 80000, "IngressBurst": 80000}});
        let mut config = limits(json!({"ingressRate": 800000, "ingressBurst": 800000}));
        config["runtimeConfig"] = runtime.clone();
        Call::new("bandwidth", "ADD", &container, &config)
            .after(&previous)
            .succeed();
        assert_eq!(shaping(&node.host_link()).unwrap().rate, 100_000);
        let mut config = limits(json!({}));
        config["runtimeConfig"] = runtime;
        Call::new("bandwidth", "ADD", &container, &config)
            .after(&previous)
            .succeed();
        assert_eq!(shaping(&node.host_link()).unwrap().rate, 10_000);
    });
}

#[test]
fn without_limits_the_previous_result_is_passed_through() {
    on_a_node(|node| {
        let container = node.container("a");
        let previous = ptp(&container);
        for config in [
            limits(json!({})),
            limits(json!({"ingressRate": 0, "ingressBurst": 0})),
        ] {
            let call = Call::new("bandwidth", "ADD", &container, &config).after(&previous);
            assert_eq!(call.succeed(), previous);
        }
        assert_eq!(shaping(&node.host_link()), None);
    });
}

#[test]
fn without_limits_no_one_asks_what_kind_of_link_it_is() {
    on_a_node(|node| {
        let container = node.container("a");
        // As behind a plugin that does not make veth links, or none on this node.
        let previous = json!({"cniVersion": "1.0.0", "ips": [],
            "interfaces": [{"name": "lo", "sandbox": container.path}]});
        let call = |verb, config: &Value| {
            Call::new("bandwidth", verb, &container, config).after(&previous)
        };
        let unlimited = limits(json!({}));
        call("ADD", &unlimited).succeed();
        call("CHECK", &unlimited).succeed();
        let message = call("CHECK", &both()).fail(999);
        assert!(message.contains("has no veth peer"), "{message}");
    });
}

#[test]
fn limits_that_make_no_sense_are_refused_in_the_words_of_the_reference_plugin() {
    on_a_node(|node| {
        let container = node.container("a");
        let previous = ptp(&container);
        for (config, code, expected) in [
            (
                json!({"ingressRate": 8}),
                7,
                "if rate is set, burst must also be set",
            ),
            (
                json!({"egressBurst": 8}),
                7,
                "if burst is set, rate must also be set",
            ),
            (
                json!({"egressRate": 8, "egressBurst": 34359738368u64}),
                7,
                "burst cannot be more than 4GB",
            ),
            (
                json!({"ingressRate": -1}),
                6,
                "ingressRate must be a whole number",
            ),
            (
                json!({"ingressRate": 8, "ingressBurst": 8, "shapedSubnets": ["10.0.0.0/8"]}),
                2,
                "shapedSubnets",
            ),
        ] {
            let call = Call::new("bandwidth", "ADD", &container, &limits(config)).after(&previous);
            assert!(call.fail(code).contains(expected), "{expected}");
        }
        let message = Call::new("bandwidth", "ADD", &container, &both()).fail(7);
        assert_eq!(message, "must be called as chained plugin");
        let old = in_version(&both(), "0.2.0");
        assert_eq!(
            Call::new("bandwidth", "ADD", &container, &old).fail(1),
            "incompatible CNI versions"
        );
        let links = node.links();
        assert!(
            !links.iter().any(|name| name.starts_with("bwp")),
            "{links:?}"
        );
    });
}

#[test]
fn the_ifb_link_has_the_name_that_the_reference_plugin_gives_it() {
    on_a_node(|node| {
        if podwire_kernel::tc::probe().is_err() {
            return;
        }
        let container = node.container("a");
        let previous = ptp(&container);
        let call = |verb| Call::new("bandwidth", verb, &container, &both()).after(&previous);
        let theirs = call("ADD").of_reference().succeed();
        // So ours finds what theirs left behind.
        call("DEL").succeed();
        node.ask("tc", &["qdisc", "del", "dev", &node.host_link(), "root"]);
        node.ask("tc", &["qdisc", "del", "dev", &node.host_link(), "ingress"]);
        let ours = call("ADD").succeed();
        assert_eq!(
            ours["interfaces"][2]["name"],
            theirs["interfaces"][2]["name"]
        );
    });
}
