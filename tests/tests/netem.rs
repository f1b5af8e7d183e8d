//! Routes and Services while the network between the nodes loses, delays and reorders packets.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;

use std::time::Duration;

use cluster::*;
use podwire_lab::load::{STARTED, Summary};
use podwire_lab::not_run::not_run;
use podwire_lab::place::Place;
use podwire_lab::topology::Families;
use podwire_lab::wait;
use serde_json::json;

/// How long a client may wait: several lost packets in a row are sent again after seconds.
const PATIENCE: &str = "--patience 30000 --seconds 240";

/// One packet in thirty is lost, each comes later than it was sent, and some overtake others.
const SPOILED: &str = "netem delay 20ms 10ms reorder 25% 50% loss 3%";

/// Spoils what leaves through the uplink of each of these places; what the kernel says if it cannot.
fn spoil(places: &[&Place]) -> Result<(), String> {
    for place in places {
        let line = format!("tc qdisc add dev eth0 root {SPOILED}");
        let ran = place.sh(&line).unwrap();
        if ran.status != 0 {
            return Err(ran.stderr.trim().to_owned());
        }
    }
    Ok(())
}

#[test]
fn no_request_fails_while_packets_are_lost_and_endpoints_come_and_go() {
    let cluster = Cluster::pair(Families::V4);
    let near = cluster.web("worker", "web-near");
    let far = cluster.web("worker2", "web-far");
    let other = cluster.web("worker2", "web-other");
    let client = cluster.client("worker", "client");
    let mypc = cluster.at("mypc");
    let spec = json!({
        "type": "NodePort", "clusterIP": "10.200.1.90",
        "ports": [{"port": 80, "nodePort": 31090}],
    });
    cluster.apply(&[service("lossy", spec), http("lossy", &[&near, &far])]);
    let nodes = ["worker", "worker2"].map(|name| cluster.node(name));
    if let Err(reason) = spoil(&[nodes[0].place(), nodes[1].place()]) {
        return not_run("netem", &reason);
    }
    let clients = [
        (client.place(), "10.200.1.90:80"),
        (&mypc, "172.18.0.4:31090"),
        (&mypc, "172.18.0.2:31090"),
    ];
    let running = clients.map(|(place, target)| {
        let line = format!("{} load {target} --count 120 {PATIENCE}", program());
        place.capture(&line, STARTED).unwrap()
    });
    for round in 0..12 {
        let pods = match round % 3 {
            0 => vec![&far],
            1 => vec![&far, &other, &near],
            _ => vec![&near, &other],
        };
        cluster.apply(&[http("lossy", &pods)]);
        // A route that somebody takes away comes back as on a quiet network.
        nodes[0]
            .place()
            .output("ip route del 10.10.2.0/24")
            .unwrap();
        let back = || {
            let routes = nodes[0].place().output("ip route show 10.10.2.0/24");
            routes.is_ok_and(|routes| routes.contains("via 172.18.0.4"))
        };
        wait::until("the route", Duration::from_secs(5), back).unwrap();
    }
    for mut client in running {
        let limit = Duration::from_secs(240);
        assert!(client.until(limit, |lines| !lines.is_empty()));
        let lines = client.finish();
        let summary: Summary = serde_json::from_str(lines[0].trim()).unwrap();
        assert_eq!((summary.requests, summary.failed), (120, 0), "{summary:?}");
        assert!(summary.answers.len() > 1, "{summary:?}");
    }
    let dropped = |node: &podwire_lab::node::Node| {
        let counters = node.place().output("tc -s qdisc show dev eth0").unwrap();
        let (_, rest) = counters.split_once("dropped ").unwrap();
        let number = rest.split([',', ' ']).next().unwrap();
        number.parse::<u64>().unwrap()
    };
    assert!(
        nodes.iter().all(|node| dropped(node) > 0),
        "nothing was lost"
    );
}
