//! With real links and routes, and lease files as host-local writes them.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use podwire::lease::Store;
use podwire_kernel::route::Route;

use super::*;
use crate::features::test_node::{TestNode, delete_pod_link, make_pod_link};
use crate::metrics::TextFormat;
use crate::snapshot::{Change, Dirty, Node, Object};

const HOUR: Duration = Duration::from_secs(3600);

/// A node with these leases, as pairs of address and container.
fn node(leases: &[(&str, &str)]) -> (TestNode, Leases) {
    let node = TestNode::apart();
    fs::create_dir_all(directory(&node)).unwrap();
    for (address, container_id) in leases {
        let content = format!("{container_id}\r\neth0");
        fs::write(directory(&node).join(address), content).unwrap();
    }
    (node, Leases::open().unwrap())
}

fn directory(node: &TestNode) -> PathBuf {
    node.config.lease_dir().join(NETWORK)
}

fn leased(node: &TestNode) -> Vec<String> {
    let leases = lease::list(&directory(node)).unwrap();
    let addresses = leases.iter().map(|lease| lease.address.to_string());
    addresses.collect()
}

#[test]
fn a_lease_without_link_and_route_goes_after_the_grace_period() {
    let (mut node, mut leases) = node(&[
        ("10.10.1.2", "linked"),
        ("10.10.1.3", "routed"),
        ("10.10.1.4", "lost"),
        ("fd00::4", "lost"),
    ]);
    let index = make_pod_link("linked");
    let mut route = Route::to(IpNetwork::from(IpAddr::from([10, 10, 1, 3])));
    route.link = Some(index);
    RouteSocket::open().unwrap().add_route(&route).unwrap();

    node.config.lease_grace = HOUR;
    assert_eq!(node.writes(&mut leases), 0);
    assert_eq!(leased(&node).len(), 4);
    let counted = |node: &TestNode, leases: u8| {
        let text = node.world().metrics.text(TextFormat::Classic);
        text.contains(&format!("\npodwire_leases_without_link {leases}\n"))
    };
    assert!(counted(&node, 2));
    let due = leases.due().expect("the lost leases are looked at again");
    assert!(due > Instant::now() + HOUR / 2, "but not before it is time");

    node.config.lease_grace = Duration::ZERO;
    assert_eq!(node.writes(&mut leases), 2);
    assert_eq!(leased(&node), ["10.10.1.2", "10.10.1.3"]);
    assert!(counted(&node, 0));
}

#[test]
fn pods_that_outlive_a_pod_cidr_of_the_node_are_named_while_they_are_there() {
    let (mut node, mut leases) = node(&[("10.10.1.2", "here"), ("10.10.9.3", "there")]);
    make_pod_link("here");
    make_pod_link("there");
    node.config.lease_grace = Duration::ZERO;
    let cidrs = ["10.10.1.0/24", "fd00:10:10:1::/64"].map(|cidr| cidr.parse().unwrap());
    let own = Node {
        pod_cidrs: cidrs.into(),
        ..Node::named("worker")
    };
    let mut dirty = Dirty::default();
    let change = Change::Set(Object::Node(own));
    node.snapshot.apply(change, &mut dirty);
    assert!(leases.notice(&Event::Objects(&dirty), &node.world()));
    let named = "Node worker: pods of this node have addresses outside its podCIDRs (10.10.9.3): other \
                 nodes do not reach them; delete these pods, and what owns them makes them again with \
                 others";
    // One of the other family that is left out has a warning of its own, and hides nothing.
    for (left_out, expected) in [
        (None, &[named][..]),
        (Some(cidrs[1]), &[named]),
        (Some(cidrs[0]), &[]),
    ] {
        let left_out = left_out.map(|cidr| ((cidr, Arc::from("worker")), String::new()));
        node.snapshot.leave_out(left_out.into_iter().collect());
        node.writes(&mut leases);
        assert_eq!(node.warnings(), expected);
    }
    node.snapshot.leave_out([].into());
    // Who has another plugin give the addresses knows better.
    for (cni_conf, expected) in [(false, &[][..]), (true, &[named])] {
        node.config.cni_conf = cni_conf;
        node.writes(&mut leases);
        assert_eq!(node.warnings(), expected);
    }
    delete_pod_link("there");
    node.writes(&mut leases);
    assert_eq!(node.warnings(), [""; 0]);
}

#[test]
fn who_goes_on_sending_to_a_lost_pod_is_not_taken_for_who_speaks_with_the_next_owner() {
    let entries = || {
        let listed = Command::new("conntrack").arg("-L").output().unwrap();
        let listed = String::from_utf8(listed.stdout).unwrap();
        let known = |address: &str| listed.contains(&format!("src={address} "));
        ["10.10.1.3", "10.10.1.4"].map(known)
    };
    for (network_policy, left) in [(true, [true, false]), (false, [true, true])] {
        let (mut node, mut leases) = node(&[("10.10.1.3", "linked"), ("10.10.1.4", "lost")]);
        make_pod_link("linked");
        for address in ["10.10.1.3", "10.10.1.4"] {
            let add = format!("-I -s {address} -d 192.0.2.9 -p udp --sport 7 --dport 7 -t 100");
            let added = Command::new("conntrack").args(add.split(' ')).output();
            assert!(added.unwrap().status.success());
        }
        assert_eq!(entries(), [true; 2]);
        node.config.network_policy = network_policy;
        node.config.lease_grace = Duration::ZERO;
        assert_eq!(node.writes(&mut leases), 1);
        assert_eq!(entries(), left);
    }
}

#[test]
fn an_address_that_is_taken_by_what_is_not_a_lease_is_named_and_the_others_are_kept_right() {
    let (mut node, mut leases) = node(&[("10.10.1.4", "lost")]);
    fs::create_dir(directory(&node).join("10.10.1.9")).unwrap();
    node.config.lease_grace = Duration::ZERO;
    assert_eq!(node.writes(&mut leases), 1);
    let warnings = node.warnings();
    let [warning] = &warnings[..] else {
        panic!("{warnings:?}");
    };
    assert!(
        warning.contains("address 10.10.1.9") && warning.contains("does not say who has 10.10.1.9"),
        "{warning}"
    );
    fs::remove_dir(directory(&node).join("10.10.1.9")).unwrap();
    node.writes(&mut leases);
    assert!(node.warnings().is_empty());
}

#[test]
fn a_lease_that_was_written_again_starts_its_grace_period_again() {
    let (mut node, mut leases) = node(&[("10.10.1.4", "lost")]);
    // Known to be missing for long, but the file is another one: the plugin is about to make the link.
    let owner = Owner::new("lost", "eth0");
    let key = ("10.10.1.4".parse().unwrap(), owner, SystemTime::UNIX_EPOCH);
    let long_ago = Instant::now() - Duration::from_secs(60);
    leases.missing.update([key], long_ago, HOUR);
    node.config.lease_grace = Duration::from_secs(30);
    assert_eq!(node.writes(&mut leases), 0);
    assert_eq!(leased(&node), ["10.10.1.4"]);
}

#[test]
fn a_clock_that_was_set_back_keeps_no_lost_lease() {
    let (mut node, mut leases) = node(&[("10.10.1.4", "lost")]);
    let file = fs::File::open(directory(&node).join("10.10.1.4")).unwrap();
    file.set_modified(SystemTime::now() + HOUR).unwrap();
    node.config.lease_grace = Duration::ZERO;
    assert_eq!(node.writes(&mut leases), 1);
    assert_eq!(leased(&node), [""; 0]);
}

#[test]
fn the_loop_does_not_wait_for_a_plugin_at_work_but_comes_back() {
    let (mut node, mut leases) = node(&[("10.10.1.4", "lost")]);
    node.config.lease_grace = Duration::ZERO;
    let plugin = Store::open(&directory(&node)).unwrap();
    assert_eq!(node.writes(&mut leases), 0);
    assert_eq!(leased(&node), ["10.10.1.4"]);
    assert!(leases.due().is_some());
    drop(plugin);
    assert_eq!(node.writes(&mut leases), 1);
    assert_eq!(leased(&node), [""; 0]);
}

#[test]
fn a_link_that_goes_is_a_reason_to_look_soon() {
    let (mut node, mut leases) = node(&[]);
    assert_eq!(node.writes(&mut leases), 0);
    assert_eq!(leases.due(), None);
    node.tell_of_lost_link(&mut leases, "eth1");
    assert_eq!(leases.due(), None);
    node.tell_of_lost_link(&mut leases, "veth0a1b2c3d4e5");
    assert!(leases.due().unwrap() <= Instant::now() + CALM);
}

#[test]
fn leases_that_cannot_be_read_are_an_error_and_not_a_busy_loop() {
    let mut node = TestNode::apart();
    fs::create_dir_all(node.config.lease_dir()).unwrap();
    fs::write(directory(&node), "no directory").unwrap();
    let mut leases = Leases::open().unwrap();
    node.tell_of_lost_link(&mut leases, "veth0a1b2c3d4e5");
    let error = node.sync(&mut leases).unwrap_err();
    assert!(error.to_string().contains("ipam/podwire"), "{error}");
    assert_eq!(leases.due(), None, "the pauses between tries count");
}

#[test]
fn status_puts_links_and_leases_together() {
    let (node, mut leases) = node(&[
        ("10.10.1.9", "there"),
        ("10.10.1.2", "gone"),
        ("fd00::2", "gone"),
    ]);
    make_pod_link("there");
    make_pod_link("unleased");
    let report = node.report(&mut leases);
    let pods = report.pods.iter().map(|pod| {
        let addresses: Vec<_> = pod.addresses.iter().map(IpAddr::to_string).collect();
        (pod.container_id.as_str(), addresses.join(" "), pod.present)
    });
    // Without an alias a link does not say whose it is, but its lease does.
    let expected = [
        ("", String::new(), true),
        ("gone", "10.10.1.2 fd00::2".to_owned(), false),
        ("there", "10.10.1.9".to_owned(), true),
    ];
    assert_eq!(pods.collect::<Vec<_>>(), expected);
    delete_pod_link("there");
    assert!(
        !node
            .report(&mut leases)
            .pods
            .iter()
            .any(|pod| pod.container_id == "there" && pod.present)
    );
}

#[test]
fn uninstall_takes_all_leases_away_once() {
    let (node, mut leases) = node(&[("10.10.1.2", "a")]);
    assert_eq!(
        leases.uninstall(&node.config, Removal::Act).unwrap().len(),
        1
    );
    assert!(!node.config.lease_dir().exists());
    assert_eq!(
        leases.uninstall(&node.config, Removal::Act).unwrap(),
        [""; 0]
    );
}
