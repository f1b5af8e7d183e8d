//! What is refused after a Node has gone, in a real kernel.

use podwire_kernel::nft::{Batch, Family, NftSocket};

use super::*;
use crate::features::routes::refused::KEPT;
use crate::ours::REFUSED_TABLE as TABLE;

impl Machine {
    fn lose(&mut self, node: &str) -> u64 {
        self.change(Change::Gone(Key::Node(Arc::from(node))))
    }

    fn restart(&mut self) -> u64 {
        self.start();
        self.synced().writes
    }
}

/// What the kernel refuses, as `first-last owner`; nothing without the table.
fn refused() -> Vec<String> {
    let Some(table) = NftSocket::open()
        .unwrap()
        .observe(Family::Inet, TABLE)
        .unwrap()
    else {
        return Vec::new();
    };
    let elements = table.sets.values().flat_map(|set| {
        let text = |(key, element): (&_, &podwire_kernel::nft::Element)| {
            let last = element.key_end.as_ref().unwrap_or(key);
            let owner = element.comment.as_ref().unwrap().as_str();
            format!("{}-{} {owner}", set.display_key(key), set.display_key(last))
        };
        set.elements.iter().map(text).collect::<Vec<_>>()
    });
    let elements: Vec<String> = elements.collect();
    assert!(!elements.is_empty(), "the table has no purpose");
    elements
}

fn peer() -> Node {
    node(
        "a",
        &["172.18.0.4", "fc00::4"],
        &["10.10.2.0/24", "fd00:2::/64"],
    )
}

const A_HAS_GONE: [&str; 2] = [
    "10.10.2.0-10.10.2.255 Node a",
    "fd00:2::-fd00:2::ffff:ffff:ffff:ffff Node a",
];

#[test]
fn the_pod_cidrs_of_a_node_that_goes_are_refused_until_a_node_has_them() {
    let mut machine = Machine::new();
    machine.set(peer());
    assert!(refused().is_empty());
    assert_eq!(machine.lose("a"), 2);
    assert_eq!(refused(), A_HAS_GONE);
    assert_eq!(machine.kernel(), ["10.10.1.0/24 Unreachable"]);
    // Another Node takes part of it: refused no longer, and at once.
    machine.set(node("b", &["172.18.0.5"], &["10.10.2.128/25"]));
    assert_eq!(refused(), A_HAS_GONE[1..]);
    machine.set(peer());
    assert!(refused().is_empty());
}

#[test]
fn a_restart_goes_on_with_what_is_refused_and_writes_nothing() {
    let mut machine = Machine::new();
    machine.set(peer());
    machine.lose("a");
    assert_eq!(machine.restart(), 0);
    assert_eq!(refused(), A_HAS_GONE);
    let now = Instant::now();
    let due = machine.routes.due().unwrap();
    assert!(due > now && due <= now + KEPT);
    machine.set(peer());
    assert!(refused().is_empty());
}

#[test]
fn a_restart_keeps_all_pod_cidrs_whatever_is_written_in_the_slice_of_the_api_servers() {
    let mut machine = Machine::new();
    machine.set(peer());
    let before = machine.kernel();
    let ports = [("https", Protocol::Tcp, 6443)];
    let forged = slice_of("kubernetes", "kubernetes", &ports, "10.10.1.5 10.10.2.5");
    let forged = Change::Set(Object::EndpointSlice(forged));
    machine.snapshot.apply(forged, &mut Dirty::default());
    assert_eq!(machine.restart(), 0);
    assert_eq!(machine.kernel(), before);
}

#[test]
fn a_node_that_went_while_the_agent_was_down_is_refused_as_well() {
    let mut machine = Machine::new();
    machine.set(peer());
    machine.snapshot.nodes.remove("a");
    assert!(machine.restart() > 2);
    assert_eq!(machine.kernel(), ["10.10.1.0/24 Unreachable"]);
    let owner = |text: &&str| text.replace("Node a", "a Node that has gone");
    let wanted: Vec<String> = A_HAS_GONE.iter().map(owner).collect();
    assert_eq!(refused(), wanted);
}

#[test]
fn nothing_is_refused_for_ever() {
    let mut machine = Machine::new();
    machine.set(peer());
    machine.lose("a");
    machine
        .routes
        .refused
        .expire(Instant::now() + KEPT - Duration::from_secs(1));
    machine.sync();
    assert_eq!(refused(), A_HAS_GONE);
    machine.routes.refused.expire(Instant::now() + KEPT);
    assert_eq!(machine.routes.due(), None);
    machine.sync();
    assert!(refused().is_empty());
    assert_eq!(machine.synced().writes, 0);
}

#[test]
fn what_a_node_has_is_not_refused_though_there_is_no_route_to_it() {
    let mut machine = Machine::new();
    machine.set(peer());
    // The peer has no address any more, or our uplink has lost its own.
    machine.set(node("a", &[], &["10.10.2.0/24", "fd00:2::/64"]));
    assert_eq!(machine.kernel(), ["10.10.1.0/24 Unreachable"]);
    assert!(refused().is_empty());
    machine.restart();
    assert!(refused().is_empty());
    machine.lose("a");
    assert!(refused().is_empty(), "it had no route when it went");
}

#[test]
fn a_pod_cidr_that_was_hardly_meant_is_not_refused_after_its_node() {
    let mut machine = Machine::new();
    let wrong = ["2000::/3", "8.8.8.0/24", "100.0.0.0/6", "10.10.2.0/24"];
    machine.set(node("a", &["172.18.0.4", "fc00::4"], &wrong));
    machine.lose("a");
    assert_eq!(refused(), A_HAS_GONE[..1]);
    // Nor if it went while no agent was there.
    machine.set(node("a", &["172.18.0.4", "fc00::4"], &wrong[..3]));
    machine.snapshot.nodes.remove("a");
    machine.restart();
    assert_eq!(machine.kernel(), ["10.10.1.0/24 Unreachable"]);
    assert_eq!(refused(), A_HAS_GONE[..1]);
}

#[test]
fn what_a_node_asks_for_in_vain_keeps_nothing_from_being_refused_but_the_api_server_does() {
    let mut machine = Machine::new();
    machine.set(peer());
    // It overlaps our own podCIDR as well, and is left out.
    machine.set(node("liar", &["172.18.0.5"], &["10.10.0.0/16"]));
    machine.lose("a");
    assert_eq!(refused(), A_HAS_GONE);
    machine.set(node("b", &["172.18.0.4"], &["10.20.2.0/24"]));
    let used = ["10.20.2.9:6443".parse().unwrap()];
    machine.snapshot.use_api_servers(used.into_iter());
    let api_server = true;
    let dirty = Dirty {
        api_server,
        ..Dirty::default()
    };
    assert!(machine.notice(&Event::Objects(&dirty)));
    machine.sync();
    assert_eq!(machine.kernel(), ["10.10.1.0/24 Unreachable"]);
    assert_eq!(refused(), A_HAS_GONE);
}

#[test]
fn a_route_of_others_ends_the_refusal() {
    let mut machine = Machine::new();
    machine.set(peer());
    machine.lose("a");
    let route = Route {
        link: Some(machine.uplink.index),
        ..Route::to("10.10.2.0/24".parse().unwrap())
    };
    machine.socket.add_route(&route).unwrap();
    let gone = false;
    assert!(machine.notice(&Event::Kernel(&KernelEvent::Route { route, gone })));
    machine.sync();
    assert_eq!(refused(), A_HAS_GONE[1..]);
}

#[test]
fn our_own_pods_are_never_refused_though_our_node_goes() {
    let mut machine = Machine::new();
    machine.sync();
    machine.lose("worker");
    assert!(refused().is_empty());
}

#[test]
fn the_table_is_put_right_shown_and_uninstalled() {
    let mut machine = Machine::new();
    machine.set(peer());
    machine.lose("a");
    let differences = |machine: &mut Machine| {
        let mut report = Report::default();
        let (world, routes, _) = machine.parts();
        routes.report(&world, &mut report);
        report.differences
    };
    assert!(differences(&mut machine).is_empty());
    let mut batch = Batch::new();
    batch.table(Family::Inet, TABLE).delete();
    NftSocket::open().unwrap().commit(&mut batch).unwrap();
    assert_eq!(differences(&mut machine).len(), 1);
    assert!(machine.notice(&Event::Kernel(&KernelEvent::Nftables {
        family: Family::Inet.number(),
        table: TABLE.into(),
        gone: true,
        port: 0,
        writer: None,
        touched: Default::default(),
    })));
    machine.sync();
    assert_eq!(refused(), A_HAS_GONE);
    let config = machine.config.clone();
    let would = machine.routes.uninstall(&config, Removal::Look).unwrap();
    assert_eq!(refused(), A_HAS_GONE);
    let removed = machine.routes.uninstall(&config, Removal::Act).unwrap();
    assert_eq!(would, removed);
    assert_eq!(removed[1], "nftables table inet podwire-refused");
    assert!(refused().is_empty());
}
