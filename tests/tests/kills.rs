//! The agent is killed again and again, at any moment of its life, and no client notices.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;

use std::thread;
use std::time::{Duration, Instant};

use cluster::{Cluster, http, parameter, program, service};
use fastrand::Rng;
use podwire_lab::Lab;
use podwire_lab::load::{STARTED, Summary};
use podwire_lab::pod::Pod;
use podwire_lab::topology::Families;
use serde_json::{Value, json};

/// Where the client connects to.
const TARGET: &str = "10.200.1.26";

/// Kills under one client: it lives ten minutes at most, and there must always be one.
const ROUND: u32 = 50;

/// An agent lives at most this long before it is killed: in a fraction of it, it has started, has
/// read everything, has synced, and waits.
const LONGEST_LIFE: Duration = Duration::from_millis(1500);

#[test]
fn no_connection_fails_however_often_and_whenever_agents_are_killed() {
    let kills: u32 = parameter("PODWIRE_KILLS", 20);
    let seed: u64 = parameter("PODWIRE_SEED", 12);
    let mut random = Rng::with_seed(seed);
    let cluster = Cluster::pair(Families::V4);
    let web = [
        cluster.web("worker", "web-1"),
        cluster.web("worker2", "web-2"),
        cluster.web("worker2", "web-3"),
    ];
    let client = cluster.client("worker", "client");
    cluster.apply(&[web_service("stays", TARGET), http("stays", &web.each_ref())]);
    let begun = Instant::now();
    let mut total = Summary::default();
    let mut done = 0;
    while done < kills {
        let round = ROUND.min(kills - done);
        let summary = under_load(&client, || {
            for _ in 0..round {
                kill_one(&cluster.lab, &web, &mut random);
            }
        });
        done += round;
        total.requests += summary.requests;
        total.failed += summary.failed;
        total.errors.extend(summary.errors);
        total.slowest_ms = total.slowest_ms.max(summary.slowest_ms);
        println!(
            "{done} of {kills} kills after {:.0} s: {} requests, {} failed, the slowest {} ms",
            begun.elapsed().as_secs_f64(),
            total.requests,
            total.failed,
            total.slowest_ms
        );
    }
    assert!(total.requests > u64::from(kills), "{total:?}");
    assert_eq!(total.failed, 0, "seed {seed}: {total:?}");
    for node in cluster.lab.cluster().unwrap() {
        node.wait_ready().unwrap();
    }
    // What was written last is what counts in the end.
    cluster.apply(&[http("stays", &[&web[0]])]);
    assert_eq!(cluster::ask(client.place(), TARGET).unwrap().pod, "web-1");
}

/// Opens connections all the time, one after another, while `work` is done.
fn under_load(client: &Pod, work: impl FnOnce()) -> Summary {
    let line = format!("{} load {TARGET}:80 --pause 2 --seconds 600", program());
    let running = client.place().capture(&line, STARTED).unwrap();
    work();
    let lines = running.finish();
    serde_json::from_str(lines.last().unwrap()).unwrap()
}

/// Changes what the agents have to write, lets them live for a while, and kills one of them.
fn kill_one(lab: &Lab, web: &[Pod; 3], random: &mut Rng) {
    change(lab, web, random);
    let life = LONGEST_LIFE.mul_f64(random.f64());
    thread::sleep(life);
    let nodes = lab.cluster().unwrap();
    let node = &nodes[random.usize(..nodes.len())];
    assert!(
        node.agent().is_some(),
        "the agent on {} ended by itself: {}",
        node.name(),
        node.agent_log()
    );
    node.stop_agent("KILL").unwrap();
    node.start_agent().unwrap();
}

/// Other endpoints, all of which live, for the Service of the client, and a Service that comes or
/// goes beside it.
fn change(lab: &Lab, web: &[Pod; 3], random: &mut Rng) {
    let mut chosen: Vec<&Pod> = web.iter().filter(|_| random.bool()).collect();
    if chosen.is_empty() {
        chosen.push(&web[random.usize(..web.len())]);
    }
    let write = |object: Value| {
        let kind = object["kind"].as_str().unwrap().to_ascii_lowercase();
        let name = object["metadata"]["name"].as_str().unwrap();
        lab.write_manifest(&format!("{kind}-{name}.json"), &object)
            .unwrap();
    };
    write(http("stays", &chosen));
    let number = random.u8(100..110);
    let name = format!("other-{number}");
    if random.bool() {
        write(web_service(&name, &format!("10.200.1.{number}")));
        write(http(&name, &chosen));
    } else {
        // It may not be there.
        for kind in ["service", "endpointslice"] {
            let _ = lab.remove_manifest(&format!("{kind}-{name}.json"));
        }
    }
}

fn web_service(name: &str, address: &str) -> Value {
    service(name, json!({"clusterIP": address, "ports": [{"port": 80}]}))
}
