//! What the tests against a real kernel share.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "each test program uses a part")]

use std::net::IpAddr;
use std::process::Command;

use ipnetwork::IpNetwork;
use podwire_kernel::RouteSocket;
use podwire_kernel::address::Address;
use podwire_kernel::link::Veth;
use podwire_kernel::netns::Netns;

/// A namespace that vanishes after the test.
pub fn netns() -> Netns {
    Netns::create_anonymous().expect("these tests need root: they make network namespaces")
}

pub fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Runs a program in `netns` and returns what it printed; it must succeed.
pub fn run_in(netns: &Netns, program: &str, args: &[&str]) -> String {
    let output = netns
        .enter(|| Command::new(program).args(args).output())
        .unwrap()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// A pair of links that are both up, in a namespace of their own, with addresses on the first.
pub struct Pair {
    pub netns: Netns,
    pub socket: RouteSocket,
    pub link: u32,
    pub other: u32,
}

pub fn pair(addresses: &[&str]) -> Pair {
    let netns = netns();
    let mut socket = RouteSocket::open_in(&netns).unwrap();
    let veth = Veth {
        up: true,
        ..Veth::new("v0", "v1").unwrap()
    };
    let ends = socket.create_veth(&veth).unwrap();
    socket.set_up(ends.peer_index).unwrap();
    for address in addresses {
        socket
            .add_address(&Address::new(ends.index, net(address)))
            .unwrap();
    }
    Pair {
        netns,
        socket,
        link: ends.index,
        other: ends.peer_index,
    }
}
