//! The rtnetlink side of the crate against a real kernel, in namespaces of its own.

#![allow(clippy::unwrap_used)]

use std::net::IpAddr;
use std::process::Command;

use ipnetwork::IpNetwork;
use kernel::address::Address;
use kernel::link::{LinkChange, Veth};
use kernel::netns::Netns;
use kernel::route::{Route, RouteChange, RouteFilter, RouteKind};
use kernel::{RouteSocket, Scope};

/// A namespace that vanishes after the test.
fn netns() -> Netns {
    Netns::create_anonymous().expect("these tests need root: they make network namespaces")
}

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// What the `ip` program says about `netns`.
fn oracle(netns: &Netns, args: &[&str]) -> String {
    let output = netns
        .enter(|| Command::new("ip").args(args).output())
        .unwrap()
        .unwrap();
    assert!(
        output.status.success(),
        "ip {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_veth_pair_is_made_across_two_namespaces() {
    let (near, far) = (netns(), netns());
    let mut here = RouteSocket::open_in(&near).unwrap();
    let mut there = RouteSocket::open_in(&far).unwrap();
    let veth = Veth {
        peer_netns: Some(&far),
        mtu: Some(1400),
        group: 112,
        up: true,
        ..Veth::new("veth0", "eth0").unwrap()
    };
    let ends = here.create_veth(&veth).unwrap();
    here.change_link(&LinkChange {
        alias: Some("box/eth0"),
        ..LinkChange::of(ends.index)
    })
    .unwrap();
    there.set_up(ends.peer_index).unwrap();

    let link = here.link_by_name("veth0").unwrap().unwrap();
    assert_eq!(link.index, ends.index);
    assert_eq!(link.peer, Some(ends.peer_index));
    assert_eq!(link.mac, Some(veth.mac));
    assert_eq!((link.mtu, link.group), (1400, 112));
    assert_eq!(link.alias.as_deref(), Some("box/eth0"));
    assert_eq!(link.kind.as_deref(), Some("veth"));
    assert!(link.up && link.carrier && !link.loopback);
    let peer = there.link_by_index(ends.peer_index).unwrap().unwrap();
    assert_eq!(
        (peer.name.as_str(), peer.mac, peer.mtu),
        ("eth0", Some(veth.peer_mac), 1400)
    );
    assert_eq!(here.writes(), 2);
    assert!(oracle(&near, &["-d", "link", "show", "veth0"]).contains("group 112"));

    here.delete_link(ends.index).unwrap();
    assert_eq!(there.link_by_name("eth0").unwrap(), None);
}

#[test]
fn routes_come_back_as_they_were_written() {
    let ns = netns();
    let mut socket = RouteSocket::open_in(&ns).unwrap();
    let link = socket
        .create_veth(&Veth::new("v0", "v1").unwrap())
        .unwrap()
        .index;
    socket.set_up(link).unwrap();
    for address in ["10.0.0.1/24", "fd00::1/64"] {
        socket
            .add_address(&Address::new(link, net(address)))
            .unwrap();
    }
    let wanted = vec![
        Route {
            gateway: Some(ip("10.0.0.2")),
            link: Some(link),
            protocol: 112,
            mtu: Some(1300),
            advmss: Some(1260),
            ..Route::to(net("10.1.0.0/24"))
        },
        Route {
            kind: RouteKind::Unreachable,
            protocol: 112,
            ..Route::to(net("10.2.0.0/24"))
        },
        Route {
            link: Some(link),
            scope: Scope::Link,
            source: Some(ip("10.0.0.1")),
            protocol: 112,
            metric: 5,
            ..Route::to(net("10.3.0.7/32"))
        },
        Route {
            gateway: Some(ip("fd00::2")),
            link: Some(link),
            protocol: 112,
            table: 1000,
            ..Route::to(net("fd01::/64"))
        },
    ];
    let changes: Vec<_> = wanted.iter().cloned().map(RouteChange::Replace).collect();
    for result in socket.apply(&changes).unwrap() {
        result.unwrap();
    }
    let ours = RouteFilter {
        protocol: Some(112),
        ..RouteFilter::default()
    };
    let mut observed = socket.routes(ours).unwrap();
    observed.sort();
    assert_eq!(observed, wanted);
    let changes: Vec<_> = wanted.into_iter().map(RouteChange::Delete).collect();
    for result in socket.apply(&changes).unwrap() {
        result.unwrap();
    }
    assert_eq!(socket.routes(ours).unwrap(), []);
}
