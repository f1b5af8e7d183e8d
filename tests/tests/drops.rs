//! What `podwire-agent drops` says of packets that rules refuse and drop: each kind by real packets.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;

use std::sync::LazyLock;
use std::time::Duration;

use cluster::*;
use podwire_lab::place::Place;
use podwire_lab::pod::{Pod, PodSpec};
use podwire_lab::runtime::PortMapping;
use podwire_lab::topology::Families;
use podwire_lab::wait;
use serde_json::{Value, json};

/// How long a packet may take from a rule to `drops`.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many connections a pod of `worker` may have.
const MOST: usize = 60;

/// What the link of `evil` says that its pod is called: a terminal would obey it.
const HOSTILE: &str = "evil\u{1b}[31m";

/// The walkthrough's nodes. On `worker` the pods `client`, `forger`, `evil`, `hog` and `closed`, which a
/// policy closes; on `worker2` the pod `web`; `worker3`, on which `gone` ran, is gone.
static STAGE: LazyLock<Stage> = LazyLock::new(Stage::raise);

struct Stage {
    cluster: Cluster,
    closed: Pod,
    gone: String,
}

impl Stage {
    fn raise() -> Self {
        let cluster = Cluster::walkthrough();
        let node = cluster.node("worker");
        node.stop_agent("TERM").unwrap();
        node.start_agent_with(&[&format!("--pod-connections={MOST}")])
            .unwrap();
        node.wait_ready().unwrap();
        let web = cluster.web("worker2", "web");
        let gone = cluster.web("worker3", "gone").addresses()[0].to_string();
        for name in ["client", "forger", "hog"] {
            cluster.client("worker", name);
        }
        let evil = cluster.client("worker", "evil").host_link();
        let alias = format!("id/eth0 net=podwire pod=default/{HOSTILE}");
        let renamed = format!("ip link set {evil} alias '{alias}'");
        node.place().output(&renamed).unwrap();
        let mut closed = PodSpec::new("closed").labelled("app", "closed");
        // With it comes the guard of hostPorts, which says nothing and must not be asked first.
        closed.ports = vec![PortMapping::new(8080, 80, "tcp")];
        let closed = cluster.lab.run("worker", &closed).unwrap();
        cluster.apply(&objects(&web));
        cluster.lab.remove_machine("worker3").unwrap();
        let stage = Self {
            cluster,
            closed,
            gone,
        };
        stage.prepare();
        stage
    }

    /// What no one does in a cluster that is well.
    fn prepare(&self) {
        for (place, line) in [
            // A way to an address of the node's podCIDR of which no one told the agent.
            (
                "worker",
                "ip link add stray type veth peer name stray2 && ip link set stray2 up && ip link set stray up && \
                 ip route add 10.10.1.210/32 dev stray",
            ),
            ("forger", "ip addr add 10.10.1.200/32 dev lo"),
            ("evil", "ip addr add 10.10.1.201/32 dev lo"),
            (
                "mypc",
                "ip addr add 10.10.1.77/32 dev lo && ip route add 127.0.0.9/32 via 172.18.0.2 && \
                 ip route del local 127.0.0.0/8 dev lo table local && \
                 sysctl -qw net.ipv4.conf.eth0.route_localnet=1",
            ),
        ] {
            self.at(place).output(line).unwrap();
        }
        let refused = || {
            let ran = self.at("worker").sh("nft list table inet podwire-refused");
            ran.is_ok_and(|ran| ran.stdout.contains("Node worker3"))
        };
        wait::until("the end of worker3", PATIENCE, refused).unwrap();
    }

    fn at(&self, name: &str) -> Place {
        self.cluster.at(name)
    }

    /// What `podwire-agent drops` prints on `worker`.
    fn drops(&self, arguments: &str) -> String {
        let line = format!("podwire-agent drops {arguments}");
        self.at("worker").output(&line).unwrap()
    }

    /// The drops of a row.
    fn found(&self, row: &Row) -> Vec<Value> {
        let text = self.drops("-o json");
        let all = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        let is_it = |one: &Value| {
            one["destination"]["address"] == row.to
                && one["reason"] == row.reason
                && one["protocol"] == row.protocol
        };
        all.filter(is_it).collect()
    }
}

fn objects(web: &Pod) -> [Value; 8] {
    let port = |more: Value| json!([with(json!({"port": 80}), more)]);
    let none = json!({});
    let balanced = json!({
        "type": "LoadBalancer", "clusterIP": "10.200.1.43", "ports": port(none.clone()),
        "loadBalancerSourceRanges": ["203.0.113.0/24"],
    });
    let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.10"}]}}});
    let outside = json!({
        "type": "NodePort", "clusterIP": "10.200.1.44", "externalTrafficPolicy": "Local",
        "ports": port(json!({"nodePort": 30044})),
    });
    let local = json!({
        "clusterIP": "10.200.1.42", "internalTrafficPolicy": "Local", "ports": port(none),
    });
    let empty = json!({"clusterIP": "10.200.1.41", "ports": [
        {"port": 80, "name": "http"}, {"port": 53, "protocol": "UDP", "name": "dns"},
    ]});
    [
        service("empty", empty),
        service("local", local),
        http("local", &[web]),
        with(service("balanced", balanced), status),
        http("balanced", &[web]),
        service("outside", outside),
        http("outside", &[web]),
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"namespace": "default", "name": "closes"},
            "spec": {"podSelector": {"matchLabels": {"app": "closed"}}, "policyTypes": ["Ingress"]},
        }),
    ]
}

/// One kind of packet: who sends it, and what is said of it.
struct Row {
    /// The place, and the command that sends it.
    send: (&'static str, String),
    reason: &'static str,
    protocol: &'static str,
    /// The destination's address.
    to: String,
    verdict: &'static str,
    by: String,
    /// A part of why.
    because: &'static str,
    /// The pods: of the source, of the destination, and the one that sent it if that is another.
    pods: [Option<String>; 3],
}

fn curl(to: &str) -> String {
    // A first packet that is not answered is sent again after a second.
    format!("curl -sS --max-time 0.7 http://{to}/")
}

impl Row {
    /// A connection of the pod `client`.
    fn of_client(reason: &'static str, to: &str, by: &str, because: &'static str) -> Self {
        let (address, _) = to.split_once(':').unwrap_or((to, ""));
        Self {
            send: ("client", curl(to)),
            reason,
            protocol: "tcp",
            to: address.to_owned(),
            verdict: "dropped",
            by: by.to_owned(),
            because,
            pods: [Some("default/client".to_owned()), None, None],
        }
    }

    fn refused(self) -> Self {
        Self {
            verdict: "refused",
            ..self
        }
    }

    fn sent(self, place: &'static str, line: impl Into<String>, protocol: &'static str) -> Self {
        Self {
            send: (place, line.into()),
            protocol,
            ..self
        }
    }

    fn pods(self, pods: [Option<&str>; 3]) -> Self {
        let pods = pods.map(|pod| pod.map(|name| format!("default/{name}")));
        Self { pods, ..self }
    }
}

fn rows(stage: &Stage) -> Vec<Row> {
    let (client, closed) = (Some("client"), stage.closed.addresses()[0].to_string());
    let ping = |from: &str, to: &str| format!("ping -c1 -W1 {from} {to}");
    // The neighbour is asked for first: that question is not to come from the other address.
    let forge =
        |from: &str, to: &str| format!("{}; {}", ping("", to), ping(&format!("-I {from}"), to));
    let datagram = |to: &str| format!("bash -c 'echo hello >/dev/udp/{to}'");
    let row = Row::of_client;
    let empty = |port: &str| format!("Service default/empty, port {port}");
    let not_ready = "No endpoint of the Service is ready (chain no-endpoints)";
    let elsewhere = "no endpoint on this node is ready (chain no-local-endpoints)";
    vec![
        row(
            "policy",
            &closed,
            "NetworkPolicy default/closes",
            "denied by ingress",
        )
        .pods([client, Some("closed"), None]),
        row(
            "undecided",
            "10.10.1.210",
            "NetworkPolicies",
            "a pod of this node that is not known yet",
        )
        .sent("client", ping("", "10.10.1.210"), "icmp"),
        row(
            "no-endpoints",
            "10.200.1.41",
            &empty("80/tcp (http)"),
            not_ready,
        )
        .refused(),
        row(
            "no-endpoints",
            "10.200.1.41",
            &empty("53/udp (dns)"),
            not_ready,
        )
        .sent("client", datagram("10.200.1.41/53"), "udp")
        .refused(),
        row(
            "no-local-endpoints",
            "10.200.1.42",
            "Service default/local, port 80/tcp",
            elsewhere,
        ),
        row(
            "no-local-endpoints",
            "172.18.0.2",
            "Service default/outside, port 80/tcp",
            elsewhere,
        )
        .sent("mypc", curl("172.18.0.2:30044"), "tcp")
        .pods([None; 3]),
        row(
            "no-such-port",
            "10.200.1.42:81",
            "Service default/local",
            "It has 80/tcp.",
        )
        .refused(),
        row(
            "no-such-port",
            "10.200.1.42",
            "Service default/local",
            "does not answer ping",
        )
        .sent("client", ping("", "10.200.1.42"), "icmp")
        .refused(),
        row(
            "source-range",
            "192.0.2.10",
            "Service default/balanced, port 80/tcp",
            "is in none of the Service's loadBalancerSourceRanges (203.0.113.0/24)",
        ),
        row(
            "unallocated",
            "10.200.1.200",
            "Service network 10.200.1.0/24",
            "No Service has the address 10.200.1.200. It is in the Service network 10.200.1.0/24, but \
             not assigned.",
        ),
        row(
            "spoofed",
            "172.18.0.4",
            "--anti-spoof",
            "It came from default/forger, and 10.10.1.200 is not an address of that pod",
        )
        .sent("forger", forge("10.10.1.200", "172.18.0.4"), "icmp")
        .pods([None, None, Some("forger")]),
        row(
            "spoofed",
            "172.18.0.5",
            "--anti-spoof",
            "10.10.1.201 is not an address of that pod",
        )
        .sent("evil", forge("10.10.1.201", "172.18.0.5"), "icmp")
        .pods([None, None, Some(HOSTILE)]),
        row(
            "spoofed",
            "172.18.0.2",
            "--anti-spoof",
            "and it came through eth0, not from one of them",
        )
        .sent("mypc", forge("10.10.1.77", "172.18.0.2"), "icmp")
        .pods([None; 3]),
        row(
            "loopback",
            "127.0.0.9",
            "the guard of 127.0.0.0/8",
            "the packet came through eth0",
        )
        .sent("mypc", curl("127.0.0.9:31999"), "tcp")
        .pods([None; 3]),
        row(
            "gone-node",
            &stage.gone,
            "Node worker3, which is gone",
            "was the podCIDR of Node worker3, which is gone",
        )
        .refused(),
    ]
}

#[test]
fn every_kind_of_packet_that_is_refused_or_dropped_is_named_once_with_who_decided_and_why() {
    let stage = &*STAGE;
    for row in rows(stage) {
        let (place, line) = &row.send;
        stage.at(place).sh(line).unwrap();
        let what = format!("{} from {place} by `{line}`", row.reason);
        let seen = || !stage.found(&row).is_empty();
        if wait::until(&what, PATIENCE, seen).is_err() {
            let nft = stage.at("worker").output("nft list ruleset").unwrap();
            panic!("{what} is not in\n{}\n{nft}", stage.drops(""));
        }
        let found = stage.found(&row);
        let [drop] = &found[..] else {
            panic!("{what}: {found:#?}");
        };
        assert_eq!(drop["verdict"], row.verdict, "{what}: {drop:#}");
        assert_eq!(drop["decided_by"], row.by, "{what}: {drop:#}");
        let because = drop["because"].as_str().unwrap();
        assert!(because.contains(row.because), "{what}: {drop:#}");
        let pods = [
            &drop["source"]["pod"],
            &drop["destination"]["pod"],
            &drop["sent_by"],
        ];
        let pods = pods.map(|pod| pod.as_str().map(str::to_owned));
        assert_eq!(pods, row.pods, "{what}: {drop:#}");
    }
    let text = stage.drops("");
    let line =
        "10.10.1.200, sent by default/forger, -> 172.18.0.4 icmp: dropped by --anti-spoof: It came";
    assert!(text.contains(line), "{text}");
    assert!(
        text.contains(r"default/evil\u{1b}[31m") && !text.contains('\u{1b}'),
        "{text}"
    );
}

#[test]
fn a_pod_with_too_many_connections_is_named_and_what_is_seen_is_counted() {
    let stage = &*STAGE;
    let line = format!(
        "bash -c 'for i in $(seq {}); do echo hello >/dev/udp/172.18.0.5/9; done'",
        2 * MOST
    );
    let hog = stage.at("hog");
    hog.sh(&line).unwrap();
    let row = Row::of_client("too-many-connections", "172.18.0.5", "", "").sent("hog", line, "udp");
    let what = "a connection too many";
    wait::until(what, PATIENCE, || !stage.found(&row).is_empty()).unwrap();
    let found = stage.found(&row);
    // Each rule logs a few at once, and no more.
    assert!(found.len() < MOST, "{}", found.len());
    let drop = &found[0];
    assert_eq!(drop["decided_by"], format!("--pod-connections={MOST}"));
    assert_eq!(drop["source"]["pod"], "default/hog", "{drop:#}");
    let because = format!("A pod may have {MOST} connections, and default/hog has them");
    assert!(
        drop["because"].as_str().unwrap().starts_with(&because),
        "{drop:#}"
    );
    let node = stage.cluster.node("worker");
    let sample = "podwire_drops_seen_total{reason=\"too-many-connections\"}";
    let counted = || {
        node.agent_metric(sample)
            .is_ok_and(|count| count >= found.len() as f64)
    };
    wait::until("the metric", PATIENCE, counted).unwrap();
}

#[test]
fn without_an_agent_all_is_refused_as_before_and_one_that_comes_back_writes_nothing_and_reads_on() {
    let cluster = Cluster::pair(Families::Dual);
    let client = cluster.client("worker", "client");
    let spec = |address: &str| json!({"clusterIP": address, "ports": [{"port": 80}]});
    cluster.apply(&[
        service("empty", spec("10.200.1.41")),
        service("empty6", spec("fd00:10:200::41")),
    ]);
    let (node, targets) = (cluster.node("worker"), ["10.200.1.41", "[fd00:10:200::41]"]);
    node.stop_agent("TERM").unwrap();
    for target in targets {
        assert_eq!(ask(client.place(), target), REFUSED);
    }
    node.start_agent().unwrap();
    node.wait_ready().unwrap();
    assert_eq!(
        node.agent_metric("podwire_kernel_writes_total").unwrap(),
        0.0
    );
    // Reading begins with the agent; who asks often is seen for sure.
    for (target, name) in targets.into_iter().zip(["empty", "empty6"]) {
        let named = || {
            assert_eq!(ask(client.place(), target), REFUSED);
            let text = node.place().output("podwire-agent drops").unwrap();
            let by = format!("refused by Service default/{name}, port 80/tcp: ");
            let mut lines = text.lines();
            lines.any(|line| line.contains("(default/client) -> ") && line.contains(&by))
        };
        wait::until(target, PATIENCE, named).unwrap();
    }
    let status = node.place().output("podwire-agent status").unwrap();
    assert!(
        status.contains("Packets refused and dropped so far: "),
        "{status}"
    );
    assert!(status.contains(" no-endpoints"), "{status}");
}
