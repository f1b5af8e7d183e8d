//! Tables in a real kernel: each test in a network namespace of its own, with `nft` as the oracle.

mod announced;
mod external_ips;
mod handwritten;
mod restarts;
mod switched_off;

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Instant;

use podwire_kernel::IpFamily;
use tokio::sync::watch;

use crate::feature::Warn;
use crate::features::services::desired::externals::Externals;
use crate::features::services::desired::samples::object;
use crate::features::services::health_checks::HealthPorts;
use crate::features::services::publish::Publisher;
use crate::features::services::table::write::REST;
use crate::features::services::tests::bench::{Bench, in_namespace, nft};
use crate::features::test_node::TestNode;
use crate::metrics::TextFormat;
use crate::warnings::Warnings;

const WEB: &str = "cluster-ip 10.200.1.63; port tcp 9000";

#[test]
fn a_restart_over_the_right_rules_writes_nothing() {
    in_namespace(|| {
        let mut bench = Bench::new(IpFamily::V4);
        everything(&mut bench);
        assert!(bench.sync().batches > 0);
        assert_eq!(bench.restart(), 0);
        assert_eq!(bench.sync_later().batches, 0);
        // Endpoints that have moved to other slots stay where they are.
        bench.endpoints("web", "10.10.2.4 10.10.3.3");
        bench.sync();
        bench.sync_later();
        assert_eq!(bench.restart(), 0);
    });
}

/// The Service of the walkthrough with these endpoints, in the kernel.
fn with_web(endpoints: &str) -> Bench {
    let mut bench = Bench::new(IpFamily::V4);
    bench.service("web", WEB);
    bench.endpoints("web", endpoints);
    bench.sync();
    bench
}

/// Everything that a Service can have, in one family.
fn everything(bench: &mut Bench) {
    bench.service("web", WEB);
    bench.endpoints("web", "10.10.1.3@worker 10.10.2.4 10.10.3.3");
    let balanced = "kind LoadBalancer; cluster-ip 10.200.1.64; port tcp 80 31000; vip 5.6.7.8; \
                    external-ip 1.2.3.4; external-local; affinity 60; \
                    source 10.0.0.0/8 192.168.1.1/32";
    bench.service("everything", balanced);
    bench.endpoints("everything", "10.10.1.3@worker 10.10.2.4");
    bench.service("turns", "cluster-ip 10.200.1.65; port tcp 80; round-robin");
    bench.endpoints("turns", "10.10.1.3@worker 10.10.2.4");
    bench.service("hash", "cluster-ip 10.200.1.66; port tcp 80; source-hash");
    bench.endpoints("hash", "10.10.1.3@worker 10.10.2.4");
    bench.service("none", "cluster-ip 10.200.1.67; port tcp 80");
}

/// The rule set without counters and without what is left of time-outs, its sets and chains
/// sorted: what was repaired comes last in the kernel's own order.
fn listed() -> String {
    let text = nft("-s list ruleset").replace(" counter ", " ");
    let mut blocks: Vec<&str> = text
        .split("\n\n")
        .map(|block| block.trim_end_matches("\n}\n"))
        .collect();
    blocks.sort_unstable();
    blocks.join("\n\n")
}

/// Compares two listings and shows the lines that differ.
#[track_caller]
fn same(found: &str, wanted: &str, when: &str) {
    let lines = |text: &str| -> BTreeSet<String> { text.lines().map(str::to_owned).collect() };
    let (found_lines, wanted_lines) = (lines(found), lines(wanted));
    let extra: Vec<_> = found_lines.difference(&wanted_lines).collect();
    let missing: Vec<_> = wanted_lines.difference(&found_lines).collect();
    assert!(
        found == wanted,
        "{when}: too much {extra:#?}, missing {missing:#?}"
    );
}

#[test]
fn whatever_is_broken_by_hand_comes_back_and_nothing_else_is_written() {
    in_namespace(|| {
        let mut bench = Bench::new(IpFamily::V4);
        everything(&mut bench);
        bench.sync();
        let right = listed();
        let table = "ip podwire-services";
        for breakage in [
            "flush ruleset".to_owned(),
            format!("delete table {table}"),
            format!("add table {table} {{ flags dormant; }}"),
            format!("delete element {table} services {{ 10.200.1.63 . tcp . 9000 }}"),
            format!("delete element {table} endpoints {{ 10.200.1.63 . tcp . 9000 . 1 }}"),
            format!("delete element {table} cluster-ips {{ 10.200.1.63 }}"),
            format!("delete element {table} hairpin {{ 10.10.1.3 . 10.10.1.3 }}"),
            format!("delete element {table} pod-cidrs {{ 10.10.1.0/24 }}"),
            format!("add element {table} pod-cidrs {{ 192.168.0.0/16 }}"),
            format!("add element {table} services {{ 9.9.9.9 . tcp . 1 : 7000:3 }}"),
            format!("delete element {table} answers {{ 7000:3 }}"),
            format!("add element {table} answers {{ 7000:9 : goto pick-3 }}"),
            format!("flush map {table} answers"),
            format!("flush map {table} own-chains"),
            format!("flush map {table} endpoints"),
            format!("flush chain {table} services"),
            format!("flush chain {table} pick-3"),
            format!("flush chain {table} round-robin/default/turns/tcp-80"),
            format!("flush chain {table} affinity/default/everything/tcp-80"),
            format!("delete chain {table} guard-localhost"),
            format!("add rule {table} services drop"),
            format!("add chain {table} foreign"),
            format!("add set {table} foreign {{ type ipv4_addr; }}"),
        ] {
            nft(&breakage);
            assert!(listed() != right, "{breakage} changed nothing");
            assert!(!bench.differences().is_empty(), "{breakage} is not named");
            bench.table.distrust();
            bench.sync();
            bench.sync_later();
            same(&listed(), &right, &breakage);
            assert_eq!(bench.differences(), [""; 0]);
        }
        assert_eq!(bench.restart(), 0);
    });
}

#[test]
fn a_difference_is_named_with_what_is_wanted() {
    in_namespace(|| {
        let mut bench = Bench::new(IpFamily::V4);
        everything(&mut bench);
        bench.sync();
        let services = "services { 10.200.1.63 . tcp . 9000";
        for (breakage, wanted) in [
            (
                format!("delete element TABLE {services} }}"),
                "map `services` lacks 10.200.1.63 . tcp . 9000 : 7000:3, 3 endpoints (Service default/web)",
            ),
            (
                format!(
                    "delete element TABLE {services} }}; add element TABLE {services} : 7000:2 }}"
                ),
                "map `services` has 10.200.1.63 . tcp . 9000 with another value; wanted is : \
                 7000:3, 3 endpoints (Service default/web)",
            ),
            (
                "delete element TABLE answers { 7000:3 }".into(),
                "map `answers` lacks 7000:3 : goto pick-3",
            ),
            (
                "delete element TABLE answers { 7000:3 }; \
                 add element TABLE answers { 7000:3 : drop }"
                    .into(),
                "map `answers` has 7000:3 with another value; wanted is : goto pick-3",
            ),
            (
                "add element TABLE answers { 7000:9 : goto pick-3 }".into(),
                "`answers` has 7000:9, which is not wanted",
            ),
            (
                "delete element TABLE own-chains { 10.200.1.65 . tcp . 80 . 7100:1 }".into(),
                "map `own-chains` lacks 10.200.1.65 . tcp . 80 . 7100:1 : goto \
                 round-robin/default/turns/tcp-80 (Service default/turns)",
            ),
            (
                "delete element TABLE endpoints { 10.200.1.63 . tcp . 9000 . 1 }".into(),
                "map `endpoints` lacks 10.200.1.63 . tcp . 9000 . 1 : 10.10.2.4 . 80 (Service \
                 default/web)",
            ),
            (
                "add element TABLE pod-cidrs { 192.168.0.0/16 }".into(),
                "`pod-cidrs` has 192.168.0.0, which is not wanted",
            ),
            (
                "delete element TABLE pod-cidrs { 10.10.1.0/24 }".into(),
                "set `pod-cidrs` lacks 10.10.1.0/24",
            ),
            (
                "delete element TABLE hairpin { 10.10.1.3 . 10.10.1.3 }".into(),
                "set `hairpin` lacks 10.10.1.3 . 10.10.1.3, which Service",
            ),
            (
                "flush chain TABLE pick-3".into(),
                "chain `pick-3` is missing, or has other rules",
            ),
            (
                "add rule TABLE services drop".into(),
                "chain `services` is not as it was made",
            ),
            ("delete table TABLE".into(), "is missing"),
        ] {
            nft(&breakage.replace("TABLE", "ip podwire-services"));
            let found = bench.differences();
            let named = found.iter().filter(|text| text.contains(wanted)).count();
            assert!(named >= 1, "{breakage}: {found:#?}");
            let about_table = |text: &String| text.starts_with("table ip podwire-services");
            assert!(found.iter().all(about_table), "{found:#?}");
            bench.table.distrust();
            bench.sync();
        }
    });
}

#[test]
fn a_start_over_old_rules_sends_the_difference() {
    in_namespace(|| {
        let mut bench = Bench::new(IpFamily::V4);
        everything(&mut bench);
        bench.sync();
        // While no agent runs: endpoints and ports change, Services come and go.
        bench.endpoints("web", "10.10.1.4@worker 10.10.2.4");
        bench.service("turns", "cluster-ip 10.200.1.65; port tcp 81; round-robin");
        bench.service("new", "cluster-ip 10.200.1.70; port tcp 80");
        bench.endpoints("new", "10.10.1.5@worker");
        bench.gone("hash");
        bench.node("worker2", "10.10.4.0/24", "172.18.0.4");
        bench.restart();
        bench.sync_later();
        let over_old = listed();
        nft("flush ruleset");
        bench.restart();
        bench.sync_later();
        // Slots may differ; the Services, their endpoints and everything else may not.
        let without_slots = |text: &str| -> BTreeSet<String> {
            let lines = text.lines().flat_map(|line| line.split(", "));
            let lines = lines.map(|line| line.replace(" . 0 ", " . N ").replace(" . 1 ", " . N "));
            lines
                .map(|line| line.trim().trim_end_matches([',', '}', ' ']).to_owned())
                .collect()
        };
        assert_eq!(without_slots(&over_old), without_slots(&listed()));
        assert!(over_old.contains("10.200.1.70 . tcp . 80") && !over_old.contains("10.200.1.66"));
        assert_eq!(bench.restart(), 0);
    });
}

#[test]
fn foreign_tables_stay_as_they_are() {
    in_namespace(|| {
        nft("add table ip foreign");
        nft("add chain ip foreign prerouting { type nat hook prerouting priority -100; }");
        nft("add table inet podwire-services");
        let mut bench = Bench::new(IpFamily::V4);
        everything(&mut bench);
        bench.sync();
        nft("delete table ip podwire-services");
        bench.table.distrust();
        bench.sync();
        let text = listed();
        assert!(text.contains("table ip foreign"), "{text}");
        assert!(text.contains("table inet podwire-services"), "{text}");
    });
}

/// What the metrics say of how many Services are refused.
fn counted_as_refused(bench: &Bench) -> String {
    let mut warnings = Warnings::default();
    let node = TestNode::new();
    let (health_ports, _) = watch::channel(HealthPorts::default());
    Publisher::new(health_ports).update(
        &BTreeSet::new(),
        std::slice::from_ref(&bench.table),
        &Externals::default(),
        &node.world(),
        &mut Warn::new("services", &mut warnings),
    );
    let text = node.world().metrics.text(TextFormat::Classic);
    let name = "podwire_services_refused{ip_family=\"IPv4\"} ";
    let value = text.lines().find_map(|line| line.strip_prefix(name));
    value.unwrap().to_owned()
}

#[test]
fn one_service_that_the_kernel_refuses_keeps_no_other_out() {
    in_namespace(|| {
        let mut bench = Bench::new(IpFamily::V4);
        for number in 0..50 {
            let name = format!("web-{number}");
            bench.service(
                &name,
                &format!("cluster-ip 10.200.1.{}; port tcp 80", number + 10),
            );
            bench.endpoints(&name, "10.10.1.3@worker 10.10.2.4");
        }
        bench.kernel.refuse = Some("default/web-33");
        bench.sync();
        let refused: Vec<String> = bench
            .table
            .applied()
            .refused()
            .keys()
            .map(|n| n.to_string())
            .collect();
        assert_eq!(refused, ["default/web-33"]);
        assert_eq!(counted_as_refused(&bench), "1");
        let text = listed();
        assert!(text.contains("default/web-32:80") && !text.contains("default/web-33:80"));
        // Another change goes in meanwhile, without reading everything back.
        bench.endpoints("web-1", "10.10.1.9");
        assert!(!bench.sync().full);
        assert!(listed().contains("10.10.1.9"));
        // And when the cause is gone, so is the refusal.
        bench.kernel.refuse = None;
        bench.service("web-33", "cluster-ip 10.200.1.43; port tcp 81");
        bench.sync();
        assert!(bench.table.applied().refused().is_empty());
        assert_eq!(counted_as_refused(&bench), "0");
        assert!(listed().contains("default/web-33:81"));
        assert_eq!(bench.restart(), 0);
    });
}

#[test]
fn a_refused_change_leaves_the_old_rules_in_place() {
    in_namespace(|| {
        let mut bench = with_web("10.10.1.3 10.10.2.4");
        let right = listed();
        bench.kernel.refuse = Some("default/web");
        bench.endpoints("web", "10.10.1.3 10.10.2.5");
        bench.sync();
        same(&listed(), &right, "after the refusal");
        bench.kernel.refuse = None;
        bench.table.distrust();
        bench.sync();
        assert!(listed().contains("10.10.2.5"));
    });
}

#[test]
fn the_size_of_a_change_does_not_depend_on_other_services() {
    in_namespace(|| {
        let mut sizes = Vec::new();
        for others in [1, 500] {
            nft("flush ruleset");
            let mut bench = Bench::new(IpFamily::V4);
            for number in 0..others {
                let name = format!("other-{number}");
                let address = format!("10.200.{}.{}", 2 + number / 250, 1 + number % 250);
                bench.service(&name, &format!("cluster-ip {address}; port tcp 80"));
                bench.endpoints(&name, "10.10.1.3@worker 10.10.2.4");
            }
            bench.service("web", WEB);
            bench.endpoints("web", "10.10.1.3@worker 10.10.2.4 10.10.3.3");
            bench.sync();
            bench.endpoints("web", "10.10.1.3@worker 10.10.2.5 10.10.3.3");
            let before = bench.kernel.socket.writes();
            bench.sync();
            sizes.push(bench.kernel.socket.writes() - before);
        }
        // One element deleted, one added.
        assert_eq!(sizes, [2, 2]);
    });
}

#[test]
fn a_service_that_goes_leaves_nothing_behind() {
    in_namespace(|| {
        let mut bench = with_web("10.10.1.3@worker 10.10.2.4 10.10.3.3");
        let before = listed();
        everything(&mut bench);
        bench.sync();
        for name in ["everything", "turns", "hash", "none"] {
            bench.gone(name);
        }
        bench.sync();
        bench.sync_later();
        same(&listed(), &before, "in the end");
        assert_eq!(bench.restart(), 0);
    });
}

#[test]
fn an_address_can_move_from_one_service_to_another_in_one_step() {
    in_namespace(|| {
        let mut bench = Bench::new(IpFamily::V4);
        bench.service("a", "cluster-ip 10.200.1.1; port tcp 80");
        bench.service("b", "cluster-ip 10.200.1.2; port tcp 80");
        bench.endpoints("a", "10.10.1.1");
        bench.endpoints("b", "10.10.1.2");
        bench.sync();
        bench.service("a", "cluster-ip 10.200.1.2; port tcp 80");
        bench.service("b", "cluster-ip 10.200.1.1; port tcp 80");
        assert!(!bench.sync().full);
        let text = listed();
        assert!(
            text.contains("10.200.1.2 . tcp . 80 comment \"default/a:80\""),
            "{text}"
        );
        assert!(
            text.contains("10.200.1.1 . tcp . 80 comment \"default/b:80\""),
            "{text}"
        );
    });
}

#[test]
fn two_services_with_one_node_port_and_the_second_comes_in_when_the_first_goes() {
    in_namespace(|| {
        let mut bench = Bench::new(IpFamily::V4);
        bench.service(
            "a",
            "kind NodePort; cluster-ip 10.200.1.1; port tcp 80 31000",
        );
        bench.service(
            "b",
            "kind NodePort; cluster-ip 10.200.1.2; port tcp 80 31000",
        );
        bench.sync();
        assert!(listed().contains("tcp . 31000 comment \"default/a:80\""));
        assert_eq!(bench.table.applied().conflicts(&object("a")).count(), 0);
        let object_b = object("b");
        let texts: Vec<String> = bench.table.applied().conflicts(&object_b).collect();
        assert!(
            texts[0].contains("node port 31000/tcp") && texts[0].contains("default/a"),
            "{texts:?}"
        );
        bench.gone("a");
        bench.sync();
        assert!(listed().contains("tcp . 31000 comment \"default/b:80\""));
        assert_eq!(bench.table.applied().conflicts(&object("b")).count(), 0);
    });
}

#[test]
fn a_family_without_services_has_no_table() {
    in_namespace(|| {
        let mut bench = Bench::new(IpFamily::V6);
        bench.service("web", WEB);
        bench.endpoints("web", "10.10.1.3");
        assert_eq!(bench.sync().batches, 0);
        assert_eq!(nft("list tables"), "");
        bench.service("six", "cluster-ip fd00:10:200::63; port tcp 80");
        bench.endpoints("six", "fd00:10:10:1::3@worker");
        bench.sync();
        assert!(listed().contains("fd00:10:200::63 . tcp . 80 comment \"default/six:80\""));
        assert_eq!(bench.restart(), 0);
    });
}

#[test]
fn affinity_outlives_a_restart_and_unrelated_changes() {
    in_namespace(|| {
        let mut bench = Bench::new(IpFamily::V4);
        everything(&mut bench);
        bench.sync();
        let clients = "ip podwire-services affinity/default/everything/tcp-80/clients";
        nft(&format!(
            "add element {clients} {{ 9.9.9.9 timeout 1h : 7000:1 }}"
        ));
        bench.restart();
        bench.endpoints("web", "10.10.1.3@worker");
        bench.endpoints("everything", "10.10.1.3@worker 10.10.2.4 10.10.3.5");
        bench.sync();
        bench.sync_later();
        assert!(nft(&format!("list map {clients}")).contains("9.9.9.9"));
    });
}

#[test]
fn no_connection_fails_during_a_thousand_changes() {
    use std::net::{TcpListener, TcpStream};
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
    use std::thread::JoinHandle;

    in_namespace(|| {
        let run = |line: &str| {
            let status = Command::new("sh").args(["-c", line]).status().unwrap();
            assert!(status.success(), "{line}");
        };
        run("ip link set lo up; for n in 1 2 3 4; do ip addr add 10.10.1.$n/32 dev lo; done");
        run("ip route add 10.200.0.0/16 dev lo src 10.10.1.1");
        for number in 1..=4 {
            let listener = TcpListener::bind((format!("10.10.1.{number}"), 80)).unwrap();
            std::thread::spawn(move || listener.incoming().flatten().for_each(drop));
        }
        let mut bench = with_web("10.10.1.1 10.10.1.2 10.10.1.3");
        static STOP: AtomicBool = AtomicBool::new(false);
        static CONNECTED: AtomicU32 = AtomicU32::new(0);
        let clients: Vec<_> = (0..2)
            .map(|_| {
                std::thread::spawn(|| {
                    while !STOP.load(Ordering::Relaxed) {
                        TcpStream::connect("10.200.1.63:9000").unwrap();
                        CONNECTED.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        let states = [
            "10.10.1.1",
            "10.10.1.2 10.10.1.3 10.10.1.4",
            "10.10.1.4",
            "10.10.1.1 10.10.1.3",
        ];
        let (mut batches, mut rounds) = (0, 0);
        // A client only ends early because a connection failed.
        let going = || !clients.iter().any(JoinHandle::is_finished);
        // Long enough for the deletions that wait, because a packet that is on its way through the
        // rules can still need what they just led to: by the real clock, or this could fail.
        let began = Instant::now();
        let enough = |rounds| {
            rounds >= 1000
                && CONNECTED.load(Ordering::Relaxed) >= 1000
                && began.elapsed() > REST * 2
        };
        while going() && !enough(rounds) {
            bench.endpoints("web", states[rounds % states.len()]);
            batches += bench.sync().batches;
            rounds += 1;
        }
        STOP.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().unwrap();
        }
        assert!(batches >= 1000, "{batches}");
    });
}
