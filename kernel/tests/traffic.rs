//! Traffic control against a real kernel, with the `tc` program as the oracle.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::{Pair, pair, run_in};
use podwire_kernel::Requests;
use podwire_kernel::tc::{self, Shaping};

#[test]
fn a_token_bucket_is_read_back_as_it_was_written() {
    let Pair {
        netns,
        mut socket,
        link,
        ..
    } = pair(&[]);
    for rate in [1_000u64, 125_000, 1_250_000_000, 8_000_000_000] {
        let shaping = Shaping::with_latency(rate, 100_000, Duration::from_millis(25));
        socket.run(Requests::new().shape(link, &shaping)).unwrap();
        let qdiscs = socket.qdiscs(link).unwrap();
        let found = qdiscs.iter().find(|qdisc| qdisc.root).unwrap();
        let observed = found.shaping.unwrap();
        assert_eq!(found.kind, "tbf");
        assert_eq!((observed.rate, observed.limit), (rate, shaping.limit));
        assert!(observed.has_burst_of(&shaping), "{observed:?}");
        for burst in [80_000, 120_000] {
            let other = Shaping { burst, ..shaping };
            assert!(!observed.has_burst_of(&other), "{observed:?}");
        }
    }
    let shown = run_in(&netns, "tc", &["qdisc", "show", "dev", "v0"]);
    assert!(
        shown.contains("qdisc tbf 1: root") && shown.contains("rate 64Gbit"),
        "{shown}"
    );
}

#[test]
fn a_burst_that_takes_longer_than_the_kernel_can_tell_is_known_again() {
    let Pair {
        mut socket, link, ..
    } = pair(&[]);
    for (rate, burst) in [
        (125_000, u32::MAX / 8),
        (125_000, u32::MAX - 1),
        (1, u32::MAX - 1),
        (1_000, 274_877),
        (1_000, 274_878),
        (7, 4_000_000_000),
    ] {
        let shaping = Shaping::with_latency(rate, burst, Duration::from_millis(25));
        socket.run(Requests::new().shape(link, &shaping)).unwrap();
        let qdiscs = socket.qdiscs(link).unwrap();
        let observed = qdiscs.iter().find(|qdisc| qdisc.root).unwrap().shaping;
        let observed = observed.unwrap();
        assert!(observed.has_burst_of(&shaping), "{observed:?}");
        let other = Shaping {
            burst: burst / 2 + 12_345,
            ..shaping
        };
        assert!(!observed.has_burst_of(&other), "{observed:?}");
    }
}

#[test]
fn a_burst_and_a_limit_go_into_the_queue_length() {
    let shaping = Shaping::with_latency(1_000_000, 50_000, Duration::from_millis(25));
    assert_eq!(shaping.limit, 75_000);
    let huge = Shaping::with_latency(u64::MAX, 1, Duration::from_secs(1));
    assert_eq!(huge.limit, u32::MAX);
}

#[test]
fn arrivals_are_redirected_to_an_ifb_link() {
    let Pair {
        netns,
        mut socket,
        link,
        ..
    } = pair(&["10.0.0.1/24"]);
    let ifb = socket.create_ifb("bwp0").unwrap();
    let mut requests = Requests::new();
    requests.redirect_arriving(link, ifb);
    socket.run(&mut requests).unwrap();
    socket.set_up(ifb).unwrap();
    let shown = run_in(&netns, "tc", &["filter", "show", "dev", "v0", "ingress"]);
    assert!(
        shown.contains("mirred (Egress Redirect to device bwp0)"),
        "{shown}"
    );
    let queues = socket.qdiscs(link).unwrap();
    assert!(
        queues
            .iter()
            .any(|qdisc| qdisc.kind == "ingress" && !qdisc.root),
        "{queues:?}"
    );
}

#[test]
fn the_probe_finds_that_this_kernel_can_limit_bandwidth() {
    tc::probe().unwrap();
}
