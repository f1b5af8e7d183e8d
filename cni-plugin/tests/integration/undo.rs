//! An ADD that fails takes back what it made itself, and nothing of an earlier ADD.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use podwire_kernel::RouteSocket;
use serde_json::{Value, json};

use super::node::{Call, OURS, config, in_version, left_in, names, on_a_node};
use super::owner::Owner;

const LEASES: &str = "/run/ipam/net";
const RECORDS: &str = "/run/podwire/attachments";

#[test]
fn an_add_that_fails_leaves_an_earlier_one_its_address_link_and_host_ports() {
    on_a_node(|node| {
        let container = node.container("a");
        let mut config = config("podwire", &["10.1.2.0/24", "fd00:1::/64"]);
        config["runtimeConfig"] = json!({"portMappings": [
            {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
        ]});
        let add = Call::new("podwire", "ADD", &container, &config);
        add.succeed();
        let state = || (left_in(LEASES), names(RECORDS), node.links());
        let before = state();
        add.fail(999);
        assert_eq!(state(), before);
        // Leases for every range set, and the link is there; more than can be had; one of two.
        for ips in [
            json!(["10.1.2.9", "fd00:1::9"]),
            json!(["10.1.2.9", "fd00:1::9", "10.1.2.10"]),
            json!(["10.1.2.9"]),
            json!(["fd00:1::9"]),
        ] {
            config["args"] = json!({"cni": {"ips": ips}});
            Call::new("podwire", "ADD", &container, &config).fail(999);
            assert_eq!(state(), before, "{ips}");
        }
        assert!(node.ruleset().contains("10.1.2.2 . 80"));
        Call::new("podwire", "DEL", &container, &config).succeed();
        node.assert_clean();
    });
}

#[test]
fn an_add_that_fails_leaves_an_earlier_one_the_address_of_another_plugin() {
    on_a_node(|node| {
        let program = format!("{OURS}/leases");
        fs::write(&program, format!("#!/bin/sh\nexec {OURS}/host-local\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let container = node.container("a");
        let mut config = config("podwire", &["10.1.2.0/24"]);
        config["ipam"]["type"] = "leases".into();
        let add = Call::new("podwire", "ADD", &container, &config);
        add.succeed();
        let before = left_in(LEASES);
        for arguments in ["", "IP=10.1.2.9"] {
            add.clone().with("CNI_ARGS", arguments).fail(999);
            assert_eq!(left_in(LEASES), before, "{arguments}");
        }
        Call::new("podwire", "DEL", &container, &config).succeed();
        node.assert_clean();
    });
}

#[test]
fn host_ports_that_cannot_be_changed_keep_the_record_of_those_that_are_there() {
    on_a_node(|node| {
        let container = node.container("a");
        let ptp = in_version(&config("ptp", &["10.1.2.0/24"]), "1.0.0");
        let previous = Call::new("ptp", "ADD", &container, &ptp).succeed();
        let call = |verb, port| {
            let config = json!({"cniVersion": "1.0.0", "name": "net", "type": "portmap",
                "runtimeConfig": {"portMappings": [{"hostPort": port, "containerPort": 80}]}});
            Call::new("portmap", verb, &container, &config).after(&previous)
        };
        call("ADD", 8080).succeed();
        let record = format!("{RECORDS}/{}", names(RECORDS)[1]);
        let before = fs::read_to_string(&record).unwrap();
        let Some(owner) = Owner::of("podwire-hostports", node) else {
            return;
        };
        call("ADD", 8081).fail(999);
        assert_eq!(fs::read_to_string(&record).unwrap(), before);
        drop(owner);
        call("DEL", 8080).succeed();
        assert_eq!(left_in(RECORDS), Vec::<String>::new());
    });
}

#[test]
fn bandwidth_takes_no_limit_from_an_earlier_add_or_from_another_interface() {
    on_a_node(|node| {
        if podwire_kernel::tc::probe().is_err() {
            return;
        }
        let container = node.container("a");
        let limits = json!({"cniVersion": "1.0.0", "name": "net", "type": "bandwidth",
            "ingressRate": 8_000_000, "ingressBurst": 800_000,
            "egressRate": 16_000_000, "egressBurst": 1_600_000});
        let attach = |ifname: &str, subnet: &str| {
            let mut ptp = in_version(&config("ptp", &[subnet]), "1.0.0");
            ptp["ipam"]["routes"] = json!([]);
            let add = Call::new("ptp", "ADD", &container, &ptp).ifname(ifname);
            add.succeed()
        };
        let call = |verb, ifname: &str, previous: &Value| {
            let call = Call::new("bandwidth", verb, &container, &limits).ifname(ifname);
            call.after(previous)
        };
        let (first, second) = (attach("eth0", "10.1.2.0/24"), attach("eth1", "10.1.3.0/24"));
        let result = call("ADD", "eth0", &first).succeed();
        call("ADD", "eth0", &first).fail(999);
        call("CHECK", "eth0", &result).succeed();
        // The link has its name from the container alone, as with the reference plugin.
        call("ADD", "eth1", &second).fail(999);
        call("DEL", "eth1", &second).succeed();
        call("CHECK", "eth0", &result).succeed();
        call("DEL", "eth0", &result).succeed();
        let mut socket = RouteSocket::open().unwrap();
        let links = socket.links().unwrap();
        assert!(!links.iter().any(|link| link.name.starts_with("bwp")));
    });
}
