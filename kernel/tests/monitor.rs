//! Notifications from a real kernel.

#![cfg(feature = "monitor")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::{ip, net, netns, pair, run_in};
use podwire_kernel::RouteSocket;
use podwire_kernel::address::Address;
use podwire_kernel::monitor::{Event, Monitor};
use podwire_kernel::netns::Netns;
use podwire_kernel::route::Route;

/// Opens a monitor in `netns`.
fn listen(netns: &Netns) -> Monitor {
    netns.enter(Monitor::open).unwrap().unwrap()
}

/// Waits for an event that `wanted` recognises; ends the test if none comes.
async fn expect<T>(monitor: &mut Monitor, mut wanted: impl FnMut(Event) -> Option<T>) -> T {
    let search = async {
        loop {
            if let Some(found) = wanted(monitor.next().await.unwrap()) {
                return found;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(5), search)
        .await
        .expect("the event never came")
}

/// A route of a test. The kernel makes IPv6 routes of its own when a link comes up, at a time of
/// its choosing.
fn of_ours(route: Route) -> Option<Route> {
    Some(route).filter(|route| route.destination.is_ipv4())
}

#[tokio::test]
async fn forwarding_that_somebody_switches_is_told() {
    let here = netns();
    let keys = [
        ("net.ipv4.ip_forward", false),
        ("net.ipv6.conf.all.forwarding", true),
    ];
    let set = |key: &str, on: bool| {
        let setting = format!("{key}={}", u8::from(on));
        run_in(&here, "sysctl", &["-qw", &setting]);
    };
    // A new namespace may have the value of the machine.
    keys.iter().for_each(|(key, _)| set(key, false));
    let mut monitor = listen(&here);
    for (key, v6) in keys {
        for on in [true, false] {
            set(key, on);
            let seen = expect(&mut monitor, |event| match event {
                Event::Forwarding { v6, on } => Some((v6, on)),
                _ => None,
            });
            assert_eq!(seen.await, (v6, on));
        }
    }
}

#[tokio::test]
async fn links_addresses_and_routes_of_others_are_told() {
    let mut here = pair(&["10.0.0.1/24"]);
    let mut monitor = listen(&here.netns);
    let route = Route {
        gateway: Some(ip("10.0.0.2")),
        link: Some(here.link),
        protocol: 112,
        ..Route::to(net("10.1.0.0/24"))
    };
    here.socket.add_route(&route).unwrap();
    let seen = expect(&mut monitor, |event| match event {
        Event::Route { route, gone: false } => of_ours(route),
        _ => None,
    });
    assert_eq!(seen.await, route);
    run_in(&here.netns, "ip", &["route", "del", "10.1.0.0/24"]);
    let seen = expect(&mut monitor, |event| match event {
        Event::Route { route, gone: true } => of_ours(route),
        _ => None,
    });
    assert_eq!(seen.await, route);

    let address = Address::new(here.link, net("10.5.0.1/32"));
    here.socket.add_address(&address).unwrap();
    expect(&mut monitor, |event| {
        (event
            == Event::Address {
                address,
                gone: false,
            })
        .then_some(())
    })
    .await;
    here.socket.delete_link(here.link).unwrap();
    let gone = expect(&mut monitor, |event| match event {
        Event::Link {
            name, gone: true, ..
        } => Some(name),
        _ => None,
    });
    assert!(["v0", "v1"].contains(&gone.await.as_str()));
}

#[tokio::test]
async fn own_changes_are_not_told() {
    let mut here = pair(&["10.0.0.1/24"]);
    let mut other = RouteSocket::open_in(&here.netns).unwrap();
    let mut monitor = listen(&here.netns);
    let own = here.socket.port().unwrap();
    monitor.ignore(&[4_000_000_000, own, 1]).unwrap();
    let route = |n: u8| Route {
        link: Some(here.link),
        ..Route::to(net(&format!("10.1.{n}.0/24")))
    };
    for n in 0..10 {
        here.socket.add_route(&route(n)).unwrap();
    }
    other.add_route(&route(100)).unwrap();
    let seen = expect(&mut monitor, |event| match event {
        Event::Route { route, .. } => of_ours(route),
        _ => None,
    });
    assert_eq!(
        seen.await,
        route(100),
        "the first that is told is the other's"
    );
    assert!(monitor.ignore(&[0; 1000]).is_err());
}

#[tokio::test]
async fn leaving_a_bridge_is_not_the_end_of_a_link() {
    let mut here = pair(&[]);
    let bridge = here.socket.create_bridge("br0").unwrap();
    here.socket.set_master(here.link, Some(bridge)).unwrap();
    let mut monitor = listen(&here.netns);
    here.socket.set_master(here.link, None).unwrap();
    here.socket.delete_link(bridge).unwrap();
    let gone = expect(&mut monitor, |event| match event {
        Event::Link {
            name, gone: true, ..
        } => Some(name),
        _ => None,
    });
    assert_eq!(gone.await, "br0", "the port is still there");
}

#[tokio::test]
async fn an_nftables_transaction_gives_one_event_per_table_and_names_the_writer() {
    let here = netns();
    let mut monitor = listen(&here);
    run_in(
        &here,
        "nft",
        &[
            "add table inet a; add chain inet a c; add table ip b; add set ip b s { type ipv4_addr; }",
        ],
    );
    let mut seen = Vec::new();
    for _ in 0..2 {
        let event = expect(&mut monitor, |event| match event {
            Event::Nftables {
                family,
                table,
                gone,
                writer,
                ..
            } => Some((family, table, gone, writer.unwrap())),
            _ => None,
        });
        seen.push(event.await);
    }
    assert!(
        seen.iter().all(|(.., writer)| writer.starts_with("nft[")),
        "{seen:?}"
    );
    let tables: Vec<_> = seen
        .iter()
        .map(|(family, table, gone, _)| (*family, table.as_str(), *gone))
        .collect();
    assert_eq!(tables, [(1, "a", false), (2, "b", false)]);

    run_in(&here, "nft", &["flush ruleset"]);
    let mut gone = Vec::new();
    for _ in 0..2 {
        let event = expect(&mut monitor, |event| match event {
            Event::Nftables {
                table, gone: true, ..
            } => Some(table),
            _ => None,
        });
        gone.push(event.await);
    }
    assert_eq!(gone, ["a", "b"]);
}

#[tokio::test]
async fn a_flood_of_changes_ends_in_lost_and_then_goes_on() {
    let mut here = pair(&["10.0.0.1/24"]);
    let mut monitor = listen(&here.netns);
    let batch: String = (0..60_000u32)
        .map(|n| {
            format!(
                "route add 10.{}.{}.{}/32 dev v0\n",
                64 + (n >> 16),
                (n >> 8) & 255,
                n & 255
            )
        })
        .collect();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("batch");
    std::fs::write(&file, batch).unwrap();
    // Nobody reads meanwhile: this runtime has one thread, and it is busy here.
    run_in(&here.netns, "ip", &["-batch", file.to_str().unwrap()]);
    expect(&mut monitor, |event| (event == Event::Lost).then_some(())).await;
    let route = Route {
        link: Some(here.link),
        ..Route::to(net("10.9.9.0/24"))
    };
    here.socket.add_route(&route).unwrap();
    expect(&mut monitor, |event| {
        (event
            == Event::Route {
                route: route.clone(),
                gone: false,
            })
        .then_some(())
    })
    .await;
}
