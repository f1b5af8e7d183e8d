//! Neighbours that mean harm: a pod, and a machine of the node network. With the real agent.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;

use std::time::Duration;

use cluster::*;
use podwire_lab::topology::Families;
use podwire_lab::wait;
use serde_json::json;

#[test]
fn idle_connections_of_a_pod_keep_no_probe_and_no_balancer_from_its_answer() {
    let cluster = Cluster::pair(Families::V4);
    let attacker = cluster.client("worker", "attacker");
    let other = cluster.client("worker", "other");
    let spec = json!({
        "type": "LoadBalancer", "clusterIP": "10.200.1.5", "externalTrafficPolicy": "Local",
        "ports": [{"port": 80, "nodePort": 31005}], "healthCheckNodePort": 32005,
    });
    cluster.apply(&[service("checked", spec)]);
    let node = cluster.node("worker2");
    for port in [10256, 32005] {
        // Opened again as soon as it is closed, for as long as the test lasts.
        let hold = format!(
            "for i in $(seq 200); do (while :; do exec 3<>/dev/tcp/172.18.0.4/{port} && \
             cat <&3; exec 3>&-; sleep 0.2; done) & done; wait"
        );
        attacker
            .place()
            .output(&format!(
                "setsid timeout -k 1 60 bash -c '{hold}' >/dev/null 2>&1 &"
            ))
            .unwrap();
        let count = format!("ss -Htn state established sport = {port} | wc -l");
        wait::until("the attack", Duration::from_secs(20), || {
            let held: usize = node.place().output(&count).unwrap().trim().parse().unwrap();
            held >= 8
        })
        .unwrap();
    }
    let get = |from: &podwire_lab::place::Place, at: &str| {
        let line = format!("curl -sS --max-time 2 -o /dev/null -w '%{{http_code}}' http://{at}");
        from.sh(&line).unwrap().stdout
    };
    for _ in 0..6 {
        for path in ["/livez", "/healthz"] {
            for address in ["127.0.0.1", "172.18.0.4"] {
                let code = get(node.place(), &format!("{address}:10256{path}"));
                assert_eq!(code, "200", "{address}{path}");
            }
        }
        assert_eq!(get(node.place(), "127.0.0.1:10249/metrics"), "200");
        assert_eq!(get(other.place(), "172.18.0.4:10256/livez"), "200");
        assert_eq!(
            get(other.place(), "172.18.0.4:32005/"),
            "503",
            "no endpoint"
        );
    }
}
