//! Repairs of what the kernel announces, without reading the rest of the table.

use std::time::Duration;

use podwire_kernel::monitor::{Event, Monitor, Touched};

use super::*;
use crate::ours::SERVICES_TABLE as TABLE;

/// Hears what others do to the table.
struct Listener {
    runtime: tokio::runtime::Runtime,
    monitor: Monitor,
}

impl Listener {
    fn to_others(bench: &mut Bench) -> Listener {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let port = bench.kernel.socket.port().unwrap();
        let monitor = runtime.block_on(async {
            let monitor = Monitor::open().unwrap();
            monitor.ignore(&[port]).unwrap();
            monitor
        });
        Listener { runtime, monitor }
    }

    /// Lets `nft` do something; what the kernel announces of it.
    fn hear(&mut self, command: &str) -> Touched {
        nft(command);
        let monitor = &mut self.monitor;
        self.runtime.block_on(async {
            loop {
                let next = tokio::time::timeout(Duration::from_secs(20), monitor.next());
                match next.await.unwrap().unwrap() {
                    Event::Nftables { table, touched, .. } if table == TABLE => return touched,
                    _ => {}
                }
            }
        })
    }
}

#[test]
fn what_is_announced_is_repaired_and_only_what_is_not_understood_costs_a_full_reading() {
    in_namespace(|| {
        let mut bench = Bench::new(IpFamily::V4);
        everything(&mut bench);
        bench.sync();
        bench.sync_later();
        let mut listener = Listener::to_others(&mut bench);
        let right = listed();
        let table = "ip podwire-services";
        for (breakage, full) in [
            ("flush ruleset".to_owned(), true),
            (format!("delete table {table}"), true),
            (
                format!("delete element {table} services {{ 10.200.1.63 . tcp . 9000 }}"),
                false,
            ),
            (
                format!("delete element {table} endpoints {{ 10.200.1.63 . tcp . 9000 . 1 }}"),
                false,
            ),
            (
                format!("delete element {table} nodeports {{ tcp . 31000 }}"),
                false,
            ),
            (
                format!("delete element {table} cluster-ips {{ 10.200.1.63 }}"),
                false,
            ),
            (
                format!("delete element {table} hairpin {{ 10.10.1.3 . 10.10.1.3 }}"),
                false,
            ),
            (
                format!("delete element {table} pod-cidrs {{ 10.10.1.0/24 }}"),
                true,
            ),
            (
                format!("add element {table} services {{ 9.9.9.9 . tcp . 1 : 7000:3 }}"),
                false,
            ),
            (
                format!("add element {table} hairpin {{ 10.10.1.9 . 10.10.1.9 }}"),
                false,
            ),
            (
                format!("delete element {table} answers {{ 7000:3 }}"),
                false,
            ),
            (
                format!("add element {table} answers {{ 7000:9 : goto pick-3 }}"),
                false,
            ),
            (format!("flush map {table} answers"), false),
            (format!("flush map {table} nodeport-own-chains"), false),
            (format!("flush map {table} endpoints"), false),
            (format!("flush chain {table} services"), false),
            (format!("flush chain {table} pick-3"), false),
            (
                format!("flush chain {table} round-robin/default/turns/tcp-80"),
                false,
            ),
            (
                format!("flush chain {table} affinity/default/everything/tcp-80"),
                false,
            ),
            (
                format!("flush map {table} affinity/default/everything/tcp-80/endpoints"),
                false,
            ),
            (format!("delete chain {table} guard-localhost"), false),
            (format!("add rule {table} services drop"), false),
            (format!("add chain {table} foreign"), true),
        ] {
            let touched = listener.hear(&breakage);
            assert!(listed() != right, "{breakage} changed nothing");
            bench.table.doubt(&touched);
            let done = bench.sync();
            assert_eq!(done.full, full, "{breakage}");
            bench.sync_later();
            same(&listed(), &right, &breakage);
        }
        assert_eq!(bench.restart(), 0);
    });
}

#[test]
fn what_is_in_doubt_and_right_costs_no_write() {
    in_namespace(|| {
        let mut bench = Bench::new(IpFamily::V4);
        everything(&mut bench);
        bench.sync();
        bench.sync_later();
        let mut listener = Listener::to_others(&mut bench);
        let element = "ip podwire-services cluster-ips { 10.200.1.63 }";
        let touched = listener.hear(&format!("delete element {element}"));
        bench.table.doubt(&touched);
        assert_eq!(bench.sync().batches, 1);
        bench.table.doubt(&touched);
        let done = bench.sync();
        assert_eq!((done.batches, done.full), (0, false));
    });
}
