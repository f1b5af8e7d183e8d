//! What is said of packets that were refused: what the walk says, also when all has changed since.

use super::*;
use crate::features::parts::log::Reason;

/// A first packet of `pod1` to a TCP port, or a ping.
fn refused(reason: Reason, to: &str) -> Refused {
    let socket = to.parse::<SocketAddr>().ok();
    Refused {
        reason,
        source: ip("10.10.2.3"),
        destination: socket.map_or_else(|| ip(to), |socket| socket.ip()),
        port: socket.map(|socket| (Protocol::Tcp, socket.port())),
    }
}

#[test]
fn a_refusal_is_explained_in_the_words_of_the_walk() {
    let world = World::new(&[]);
    for (reason, to, by) in [
        (
            Reason::NoEndpoints,
            "10.200.1.9:9000",
            "Service default/svc-empty, port 9000/tcp (http)",
        ),
        (
            Reason::NoSuchPort,
            "10.200.1.63:81",
            "Service default/svc-clusterip",
        ),
        (
            Reason::NoSuchPort,
            "10.200.1.63",
            "Service default/svc-clusterip",
        ),
        (
            Reason::Unallocated,
            "10.200.1.77:80",
            "Service network 10.200.1.0/24",
        ),
        (Reason::GoneNode, "10.10.7.4:80", "Node old, which is gone"),
    ] {
        let refused = refused(reason, to);
        let decided = world.ask(|facts| refused.decided(facts)).unwrap();
        assert_eq!(decided.by, by, "{to}");
        let walked = world.walk("10.10.2.3", to).to_string();
        let because = decided.because.trim_end_matches('.');
        let because = because.trim_start_matches("No Service has the address 10.200.1.77. ");
        assert!(walked.contains(because), "{to}: {because}\n{walked}");
    }
}

#[test]
fn that_something_has_changed_since_is_said() {
    let world = World::new(&[]);
    for (reason, to, by, because) in [
        (
            Reason::NoEndpoints,
            "10.200.1.63:9000",
            "Service default/svc-clusterip, port 9000/tcp (http)",
            "An endpoint may answer it by now.",
        ),
        (
            Reason::NoEndpoints,
            "10.200.1.8:80",
            "a Service that is gone",
            "No Service has this port of 10.200.1.8 any longer.",
        ),
        (
            Reason::NoSuchPort,
            "10.200.1.63:9000",
            "Service default/svc-clusterip",
            "The Service has that port by now.",
        ),
        (
            Reason::NoSuchPort,
            "10.200.1.8",
            "a Service that is gone",
            "No Service has the address 10.200.1.8 any longer.",
        ),
        (
            Reason::Unallocated,
            "10.200.1.63:80",
            "Service network 10.200.1.0/24",
            "Service default/svc-clusterip has the address 10.200.1.63 by now.",
        ),
        (
            Reason::Unallocated,
            "192.0.2.1:80",
            "a Service network that is gone",
            "192.0.2.1 is in no network of Services any longer.",
        ),
        (
            Reason::GoneNode,
            "10.10.3.4:80",
            "a Node that is gone",
            "Its podCIDR is not refused any longer.",
        ),
    ] {
        let decided = world.ask(|facts| refused(reason, to).decided(facts));
        assert_eq!(decided, Some(Decided::new(by, because)), "{to}");
    }
    assert_eq!(
        world.ask(|facts| refused(Reason::Spoofed, "10.10.3.4:80").decided(facts)),
        None
    );
}
