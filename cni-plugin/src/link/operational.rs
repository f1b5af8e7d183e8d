//! The moment between both ends of a link being up and the kernel's sending on the first one.

use std::thread;
use std::time::{Duration, Instant};

use podwire_kernel::RouteSocket;
use podwire_kernel::link::Link;

/// How long the kernel may take before the call goes on without.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// The pause between two looks.
const LOOK_PAUSE: Duration = Duration::from_micros(200);

/// Waits until the kernel sends on the end of a link that was up before the other one.
///
/// The kernel takes notice of the other end on a thread of its own (net/core/link_watch.c), which may
/// wait for others that change links. Until then it drops what it is to send, and asks for the
/// neighbour again after a second: so long would the container's first packet take.
pub(super) fn wait(socket: &mut RouteSocket, index: u32) {
    let deadline = Instant::now() + LONGEST_WAIT;
    let is_operational = |link: Option<Link>| link.is_none_or(|link| link.operational);
    while !socket.link_by_index(index).is_ok_and(is_operational) && Instant::now() < deadline {
        thread::sleep(LOOK_PAUSE);
    }
}

#[cfg(test)]
mod tests {
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
        wait(&mut socket, ends.index);
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
            wait(&mut socket, ends.index);
        });
        // A list, as the kernel takes notice of a link that is asked for by itself.
        assert!(is_operational(&mut socket));
    }
}
