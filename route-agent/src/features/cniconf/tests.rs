use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::error::chain;
use crate::features::test_node::TestNode;
use crate::pod_cidrs::PodCidrs;
use crate::snapshot::Node;
use crate::uplink::Uplink;

/// A node that is ready for pods, with these podCIDRs.
fn ready_node(pod_cidrs: &[&str]) -> TestNode {
    let mut node = TestNode::new();
    let own = Node {
        pod_cidrs: pod_cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect(),
        ..Node::named("worker")
    };
    node.snapshot.nodes.insert(Arc::from("worker"), own);
    node.uplink = Some(Uplink {
        index: 2,
        name: "eth0".into(),
        mtu: 1450,
        up: true,
        addresses: vec!["172.18.0.2/16".parse().unwrap()],
        on_link: vec!["172.18.0.0/16".parse().unwrap()],
    });
    node
}

fn file(node: &TestNode) -> PathBuf {
    node.config.cni_conf_dir.join(FILE)
}

fn current(node: &mut TestNode) -> bool {
    let report = node.report(&mut CniConf::default());
    report.cni_conf.unwrap().current
}

fn conf(node: &TestNode) -> Value {
    serde_json::from_str(&fs::read_to_string(file(node)).unwrap()).unwrap()
}

#[test]
fn the_networks_of_what_is_in_place_are_read_again() {
    let cidrs = ["10.10.2.0/24", "fd00:10:10:2::/64"];
    let mut node = ready_node(&cidrs);
    assert!(networks_in_place(&node.config).is_empty());
    node.writes(&mut CniConf::default());
    let found = networks_in_place(&node.config);
    assert_eq!(found, cidrs.map(|cidr| cidr.parse().unwrap()));
    // What others may write there says nothing.
    nix::unistd::chown(&file(&node), Some(1000.into()), None).unwrap();
    assert!(networks_in_place(&node.config).is_empty());
}

/// Decides which podCIDRs count, as the loop does before features are asked.
fn settle(node: &mut TestNode) {
    settle_again(node, &mut PodCidrs::default());
}

/// As [`settle`], by who decided before.
fn settle_again(node: &mut TestNode, pod_cidrs: &mut PodCidrs) {
    let own = &node.config.node_name;
    pod_cidrs.settle(&mut node.snapshot, own, node.uplink.as_ref());
}

#[test]
fn a_default_route_without_a_gateway_is_no_network_that_pods_collide_with() {
    let mut node = ready_node(&["10.10.2.0/24"]);
    let on_link = &mut node.uplink.as_mut().unwrap().on_link;
    *on_link = ["0.0.0.0/0", "128.0.0.0/1", "::/0"]
        .map(|network| network.parse().unwrap())
        .into();
    settle(&mut node);
    assert_eq!(node.writes(&mut CniConf::default()), 1);
}

#[test]
fn pods_get_no_addresses_of_the_nodes_network_while_the_uplink_has_lost_it_either() {
    let mut node = ready_node(&["172.18.4.0/24"]);
    let mut pod_cidrs = PodCidrs::default();
    let uplink = node.uplink.clone().unwrap();
    let without = |up, networks: &[&str]| Uplink {
        up,
        on_link: networks.iter().map(|one| one.parse().unwrap()).collect(),
        ..uplink.clone()
    };
    for uplink in [
        Some(uplink.clone()),
        Some(without(false, &[])),
        // Its address comes later, or that of the other family does.
        Some(without(true, &[])),
        Some(without(true, &["fc00::/64"])),
        None,
        Some(without(true, &[])),
    ] {
        // Without an uplink there is nothing whose MTU pods could take.
        node.config.mtu = uplink.is_none().then_some(1450);
        node.uplink = uplink;
        settle_again(&mut node, &mut pod_cidrs);
        assert_eq!(node.writes(&mut CniConf::default()), 0);
        let warnings = node.warnings();
        let overlaps =
            "podCIDR 172.18.4.0/24 overlaps 172.18.0.0/16, the nodes' own network on eth0";
        assert!(warnings[0].contains(overlaps), "{warnings:?}");
    }
    // What its network is now counts, and another interface has its own.
    node.config.mtu = None;
    for (name, index, networks, is_free) in [
        ("eth0", 2, &["192.0.2.0/24"][..], true),
        ("eth0", 2, &["172.18.0.0/16"], false),
        // The same one renamed, or made again.
        ("wan0", 2, &["fc00::/64"], false),
        ("wan0", 7, &["fc00::/64"], false),
        ("eth1", 3, &[], false),
        ("eth1", 3, &["192.0.2.0/24"], true),
    ] {
        node.uplink = Some(Uplink {
            name: name.into(),
            index,
            ..without(true, networks)
        });
        settle_again(&mut node, &mut pod_cidrs);
        let found = desired(&node.world()).is_ok();
        assert_eq!(found, is_free, "{name} {networks:?}");
    }
}

#[test]
fn an_own_pod_cidr_in_which_nodes_are_is_not_ours_because_the_uplink_was_not_known_yet() {
    let mut node = ready_node(&["10.50.0.0/16"]);
    let there = Node {
        internal_ips: vec!["10.50.0.7".parse().unwrap()],
        ..Node::named("there")
    };
    node.snapshot.nodes.insert(there.name.clone(), there);
    let mut uplink = node.uplink.take().unwrap();
    let mut pod_cidrs = PodCidrs::default();
    settle_again(&mut node, &mut pod_cidrs);
    // Nor because it had no networks yet.
    let networks = ["172.18.0.0/16", "10.50.0.0/24"].map(|one| one.parse().unwrap());
    for on_link in [Vec::new(), networks.into()] {
        uplink.on_link = on_link;
        node.uplink = Some(uplink.clone());
        settle_again(&mut node, &mut pod_cidrs);
    }
    assert_eq!(node.writes(&mut CniConf::default()), 0);
    let warnings = node.warnings();
    assert!(
        warnings[0].contains("overlaps 10.50.0.0/24"),
        "{warnings:?}"
    );
}

#[test]
fn a_pod_cidr_with_the_api_server_in_it_is_not_given_to_pods() {
    let mut node = ready_node(&["192.168.7.0/24"]);
    node.snapshot
        .use_api_servers(["192.168.7.9:6443".parse().unwrap()].into_iter());
    settle(&mut node);
    assert_eq!(node.writes(&mut CniConf::default()), 0);
    let warnings = node.warnings();
    let contains = "contains 192.168.7.9, the address of the API server";
    assert!(warnings[0].contains(contains), "{warnings:?}");
}

#[test]
fn it_says_what_the_plugin_must_know() {
    let mut node = ready_node(&["10.10.2.0/24"]);
    assert_eq!(node.writes(&mut CniConf::default()), 1);
    let conf = conf(&node);
    assert_eq!(conf["name"], "podwire");
    let plugin = &conf["plugins"][0];
    assert_eq!(plugin["type"], "podwire");
    assert_eq!(plugin["mtu"], 1450);
    assert_eq!(plugin["ipMasq"], false);
    assert_eq!(plugin["networkPolicy"], true);
    assert_eq!(
        plugin["ipam"]["dataDir"],
        node.config.lease_dir().to_str().unwrap()
    );
    assert_eq!(
        plugin["ipam"]["ranges"],
        json!([[{"subnet": "10.10.2.0/24"}]])
    );
    assert_eq!(plugin["ipam"]["routes"], json!([{"dst": "0.0.0.0/0"}]));
    node.config.network_policy = false;
    assert_eq!(node.writes(&mut CniConf::default()), 1);
    assert_eq!(self::conf(&node)["plugins"][0].get("networkPolicy"), None);
}

#[test]
fn two_families_give_two_addresses_and_two_networks_of_one_family_one() {
    let mut node = ready_node(&["10.10.2.0/24", "fd00:2::/64", "10.10.7.0/24"]);
    node.writes(&mut CniConf::default());
    let ipam = &conf(&node)["plugins"][0]["ipam"];
    let v4 = json!([{"subnet": "10.10.2.0/24"}, {"subnet": "10.10.7.0/24"}]);
    assert_eq!(ipam["ranges"], json!([v4, [{"subnet": "fd00:2::/64"}]]));
    assert_eq!(
        ipam["routes"],
        json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}])
    );
}

#[test]
fn what_is_there_already_is_not_written_again() {
    let mut node = ready_node(&["10.10.2.0/24"]);
    node.writes(&mut CniConf::default());
    assert_eq!(node.writes(&mut CniConf::default()), 0);
    fs::remove_file(file(&node)).unwrap();
    assert_eq!(node.writes(&mut CniConf::default()), 1);
    fs::write(file(&node), "{}").unwrap();
    assert_eq!(node.writes(&mut CniConf::default()), 1);
    assert_eq!(fs::read_dir(&node.config.cni_conf_dir).unwrap().count(), 1);
}

#[test]
fn what_is_no_file_in_its_place_is_not_waited_for_and_replaced() {
    let mut node = ready_node(&["10.10.2.0/24"]);
    fs::create_dir_all(&node.config.cni_conf_dir).unwrap();
    let path = file(&node);
    let pipe = || nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
    let huge = || {
        let file = fs::File::create(&path).unwrap();
        file.set_len(1 << 42).unwrap();
    };
    let device = || symlink("/dev/zero", &path).unwrap();
    let made: [&dyn Fn(); 3] = [&pipe, &huge, &device];
    for make in made {
        make();
        assert!(!current(&mut node));
        assert_eq!(node.writes(&mut CniConf::default()), 1);
        assert!(current(&mut node));
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn a_new_mtu_or_pod_cidr_rewrites_it() {
    let mut node = ready_node(&["10.10.2.0/24"]);
    node.writes(&mut CniConf::default());
    node.uplink.as_mut().unwrap().mtu = 9000;
    assert_eq!(node.writes(&mut CniConf::default()), 1);
    assert_eq!(conf(&node)["plugins"][0]["mtu"], 9000);
    let own = node.snapshot.nodes.get_mut("worker").unwrap();
    own.pod_cidrs = vec!["10.10.9.0/24".parse().unwrap()];
    assert_eq!(node.writes(&mut CniConf::default()), 1);
    node.config.mtu = Some(1400);
    assert_eq!(node.writes(&mut CniConf::default()), 1);
    assert_eq!(conf(&node)["plugins"][0]["mtu"], 1400);
}

#[test]
fn an_uplink_whose_mtu_pods_cannot_follow_is_named_and_pods_get_the_nearest() {
    let dual = ["10.10.2.0/24", "fd00:2::/64"];
    for (uplink, pod_cidrs, expected) in [
        (1200, &dual[..], 1280),
        (0, &dual, 1500),
        (65536, &dual, 65535),
        (65536, &dual[..1], 65535),
    ] {
        let mut node = ready_node(pod_cidrs);
        node.uplink.as_mut().unwrap().mtu = uplink;
        node.writes(&mut CniConf::default());
        assert_eq!(conf(&node)["plugins"][0]["mtu"], expected, "{uplink}");
        let said = format!("uplink eth0: has an MTU of {uplink} bytes");
        let warnings = node.warnings();
        assert!(
            warnings.len() == 1 && warnings[0].starts_with(&said),
            "{warnings:?}"
        );
        node.config.mtu = Some(1400);
        node.writes(&mut CniConf::default());
        assert_eq!(conf(&node)["plugins"][0]["mtu"], 1400);
        assert_eq!(node.warnings(), [""; 0], "no one follows it");
    }
    let mut node = ready_node(&dual[..1]);
    node.uplink.as_mut().unwrap().mtu = 1200;
    node.writes(&mut CniConf::default());
    assert_eq!(conf(&node)["plugins"][0]["mtu"], 1200);
    assert_eq!(node.warnings(), [""; 0], "IPv4 works with it");
}

#[test]
fn it_waits_until_pods_can_start_and_says_why() {
    let mut node = ready_node(&["10.10.2.0/24"]);
    node.ready_for_pods = false;
    node.writes(&mut CniConf::default());
    assert!(!file(&node).exists());
    node.ready_for_pods = true;
    node.uplink = None;
    node.writes(&mut CniConf::default());
    assert!(!file(&node).exists());
    assert_eq!(node.warnings().len(), 1);
    node.uplink = ready_node(&[]).uplink;
    node.snapshot
        .nodes
        .get_mut("worker")
        .unwrap()
        .pod_cidrs
        .clear();
    node.writes(&mut CniConf::default());
    assert!(
        node.warnings()[0].contains("podCIDR"),
        "{:?}",
        node.warnings()
    );
    node.snapshot.nodes.clear();
    node.writes(&mut CniConf::default());
    assert!(node.warnings()[0].contains("Node worker to exist"));
}

#[test]
fn a_file_in_place_stays_when_its_reason_is_gone() {
    let mut node = ready_node(&["10.10.2.0/24"]);
    node.writes(&mut CniConf::default());
    node.snapshot.nodes.clear();
    node.writes(&mut CniConf::default());
    assert!(file(&node).exists());
}

#[test]
fn competitors_are_named() {
    let mut node = ready_node(&["10.10.2.0/24"]);
    fs::create_dir_all(&node.config.cni_conf_dir).unwrap();
    for name in [
        "00-a.conf",
        "10-kindnet.conflist",
        "x.json",
        "README.md",
        ".00-podwire.conflist.temp",
    ] {
        fs::write(node.config.cni_conf_dir.join(name), "").unwrap();
    }
    node.writes(&mut CniConf::default());
    let warnings = node.warnings();
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    assert!(
        warnings[0].contains("00-a.conf: sorts before"),
        "{warnings:?}"
    );
    assert!(
        warnings[1].contains("10-kindnet.conflist: is not used"),
        "{warnings:?}"
    );
}

#[test]
fn competitors_that_are_no_files_or_whose_names_are_no_text_are_named_as_they_are() {
    let mut node = ready_node(&["10.10.2.0/24"]);
    let directory = node.config.cni_conf_dir.clone();
    fs::create_dir_all(&directory).unwrap();
    symlink("nowhere", directory.join("00-a.conf")).unwrap();
    fs::write(directory.join(OsStr::from_bytes(b"\xff.conf")), "").unwrap();
    node.writes(&mut CniConf::default());
    let warnings = node.warnings();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    let leads_nowhere = "00-a.conf: is no file, or a link that leads to none";
    assert!(warnings[0].contains(leads_nowhere), "{warnings:?}");
    let after = "\u{fffd}.conf: is not used, because";
    assert!(warnings[1].contains(after), "{warnings:?}");
    let conf = node.report(&mut CniConf::default()).cni_conf.unwrap();
    assert_eq!(conf.after, ["\u{fffd}.conf"]);
}

#[test]
fn an_own_network_among_the_nodes_is_not_given_to_pods() {
    let mut node = ready_node(&["172.18.5.0/24"]);
    settle(&mut node);
    node.writes(&mut CniConf::default());
    assert!(!file(&node).exists());
}

#[test]
fn a_directory_that_cannot_be_made_is_an_error_that_names_it() {
    let mut node = ready_node(&["10.10.2.0/24"]);
    let blocked = node.path("file");
    fs::write(&blocked, "").unwrap();
    node.config.cni_conf_dir = blocked.join("net.d");
    let error = chain(&*node.sync(&mut CniConf::default()).unwrap_err());
    assert!(error.starts_with("pods cannot start"), "{error}");
    assert!(error.contains("file/net.d"), "{error}");
}

#[test]
fn it_can_be_read_by_all() {
    let mut node = ready_node(&["10.10.2.0/24"]);
    node.writes(&mut CniConf::default());
    let mode = fs::metadata(file(&node)).unwrap().permissions().mode();
    assert_eq!(mode & 0o444, 0o444);
    let removed = CniConf::default()
        .uninstall(&node.config, Removal::Act)
        .unwrap();
    assert_eq!(removed.len(), 1);
    assert!(!file(&node).exists());
}

#[test]
fn status_says_whether_the_runtime_uses_it() {
    let mut node = ready_node(&["10.10.2.0/24"]);
    let report = node.report(&mut CniConf::default());
    let conf = report.cni_conf.unwrap();
    assert!(!conf.present && !conf.current && conf.waits.is_none());
    assert_eq!(report.differences.len(), 1, "it should be there");

    node.writes(&mut CniConf::default());
    for name in ["00-a.conf", "10-kindnet.conflist"] {
        fs::write(node.config.cni_conf_dir.join(name), "").unwrap();
    }
    let report = node.report(&mut CniConf::default());
    let conf = report.cni_conf.unwrap();
    assert!(conf.present && conf.current);
    assert_eq!(conf.before, ["00-a.conf"]);
    assert_eq!(conf.after, ["10-kindnet.conflist"]);
    assert_eq!(report.differences, [""; 0]);

    fs::write(file(&node), "{}").unwrap();
    assert!(
        !node
            .report(&mut CniConf::default())
            .cni_conf
            .unwrap()
            .current
    );
    node.snapshot.nodes.clear();
    let waits = node
        .report(&mut CniConf::default())
        .cni_conf
        .unwrap()
        .waits
        .unwrap();
    assert!(waits.contains("Node worker to exist"), "{waits}");
    node.config.cni_conf = false;
    assert_eq!(node.report(&mut CniConf::default()).cni_conf, None);
}
