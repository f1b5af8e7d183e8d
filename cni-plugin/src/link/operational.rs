//! The moment between what was made and what the kernel makes of it on threads of its own.
//!
//! What passes in that moment is dropped, and whoever sent it asks for the neighbour again after a
//! second: so long would a container's first packet take.

use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use podwire_kernel::RouteSocket;
use podwire_kernel::link::Link;
use podwire_kernel::route::RouteKind;

/// How long the kernel may take before the call goes on without.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// The pause between two looks.
const LOOK_PAUSE: Duration = Duration::from_micros(200);

/// Waits until the kernel sends on the end of a link that was up before the other one: it takes notice
/// of the other end on a thread of its own (net/core/link_watch.c).
pub(super) fn await_link(socket: &mut RouteSocket, index: u32) {
    let is_operational = |link: Option<Link>| link.is_none_or(|link| link.operational);
    await_it(|| socket.link_by_index(index).is_ok_and(is_operational));
}

/// Waits until the kernel answers at its own IPv6 addresses: their routes, and the groups in which it
/// hears who asks for them, come on a thread of its own (`addrconf_dad_work`, net/ipv6/addrconf.c),
/// though there is nothing to be detected.
pub(super) fn await_addresses(socket: &mut RouteSocket, addresses: impl Iterator<Item = IpAddr>) {
    for address in addresses.filter(IpAddr::is_ipv6) {
        await_it(|| {
            let route = socket.route_get(address);
            route.is_ok_and(|route| route.kind == RouteKind::Local)
        });
    }
}

/// Looks until it is so, for as long as that is worth.
fn await_it(mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONGEST_WAIT;
    while !is_so() && Instant::now() < deadline {
        thread::sleep(LOOK_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use podwire_kernel::address::Address;
    use podwire_kernel::link::Veth;
    use podwire_kernel::netns::unshare_thread;

    use super::*;

    #[test]
    fn it_waits_for_the_other_end_and_not_for_good() {
        unshare_thread().expect("needs root: it makes a network namespace");
        let mut socket = RouteSocket::open().unwrap();
        let veth = Veth {
            up: true,
            ..Veth::new("one", "other").unwrap()
        };
        let ends = socket.create_veth(&veth).unwrap();
        let start = Instant::now();
        await_link(&mut socket, ends.index);
        assert!(start.elapsed() >= LONGEST_WAIT);
        let is_operational = |socket: &mut RouteSocket| {
            let links = socket.links().unwrap();
            links
                .iter()
                .any(|link| link.name == "one" && link.operational)
        };
        assert!(!is_operational(&mut socket));
        thread::scope(|scope| {
            let mut beside = RouteSocket::open().unwrap();
            scope.spawn(move || {
                thread::sleep(LONGEST_WAIT / 10);
                beside.set_up(ends.peer_index).unwrap();
            });
            await_link(&mut socket, ends.index);
        });
        // A list, as the kernel takes notice of a link that is asked for by itself.
        assert!(is_operational(&mut socket));
    }

    #[test]
    fn it_waits_for_addresses_of_ipv6_alone() {
        unshare_thread().expect("needs root: it makes a network namespace");
        let mut socket = RouteSocket::open().unwrap();
        let lo = socket.index_of("lo").unwrap();
        socket.set_up(lo).unwrap();
        let [v4, v6, late]: [IpAddr; 3] =
            ["10.1.2.3", "fd00::1", "fd00::2"].map(|address| address.parse().unwrap());
        let start = Instant::now();
        await_addresses(&mut socket, [v4].into_iter());
        assert!(start.elapsed() < LONGEST_WAIT);
        await_addresses(&mut socket, [v6].into_iter());
        assert!(start.elapsed() >= LONGEST_WAIT);
        thread::scope(|scope| {
            let mut beside = RouteSocket::open().unwrap();
            scope.spawn(move || {
                thread::sleep(LONGEST_WAIT / 10);
                beside.add_address(&Address::new(lo, late.into())).unwrap();
            });
            await_addresses(&mut socket, [late].into_iter());
        });
        assert_eq!(socket.route_get(late).unwrap().kind, RouteKind::Local);
    }
}
