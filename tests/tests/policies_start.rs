//! NetworkPolicies from a pod's first packet to the next owner of its address, with and without an
//! agent.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;

use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cluster::policies::{Ends, policy};
use cluster::{Cluster, parameter};
use podwire_lab::node::Node;
use podwire_lab::place::Place;
use podwire_lab::pod::{Pod, PodSpec, Servers};
use podwire_lab::topology::Families;
use podwire_lab::wait;
use serde_json::{Value, json};

/// How long none may come where none must.
const SILENCE: Duration = Duration::from_millis(300);
/// How long anything may take that must happen.
const LIMIT: Duration = Duration::from_secs(20);

/// `closed` lets nothing in or out; in `shop` `web` reaches `db`, and nothing else is allowed; of
/// `free` no policy speaks.
fn policies() -> [Value; 2] {
    let app = |value: &str| json!({"podSelector": {"matchLabels": {"app": value}}});
    let both = json!(["Ingress", "Egress"]);
    let shop = json!({"podSelector": {}, "policyTypes": both,
        "ingress": [{"from": [app("web")]}], "egress": [{"to": [app("db")]}]});
    [
        policy(
            "closed",
            "all",
            json!({"podSelector": {}, "policyTypes": both}),
        ),
        policy("shop", "web-to-db", shop),
    ]
}

/// Two nodes with these policies, and a pod of `free` on `worker`.
fn with_policies(families: Families) -> (Cluster, Pod) {
    let cluster = Cluster::pair(families);
    cluster.apply(&policies());
    let sink = spec("free", "sink", "sink");
    let sink = cluster.lab.run("worker", &sink).unwrap();
    (cluster, sink)
}

/// A pod with HTTP on 80 and datagrams on UDP 53.
fn spec(namespace: &str, name: &str, app: &str) -> PodSpec {
    let spec = PodSpec::new(name).in_namespace(namespace);
    PodSpec {
        servers: Servers {
            http: vec![80],
            udp: vec![53],
            ..Servers::default()
        },
        ..spec.labelled("app", app)
    }
}

fn connects(from: &Place, to: &Pod, limit: Duration) -> bool {
    let to: Vec<IpAddr> = to.addresses();
    let connect = || {
        let mut all = to.iter().map(|address| SocketAddr::new(*address, 80));
        all.all(|to| TcpStream::connect_timeout(&to, limit).is_ok())
    };
    from.inside(connect).unwrap()
}

/// Whether a connection to every address is made by its first packet. By the clock that could not be
/// told from a busy machine: the kernel counts the packets that it had to send again.
fn connects_at_once(from: &Place, to: &Pod) -> bool {
    let before = sent_again(from);
    connects(from, to, LIMIT) && sent_again(from) == before
}

/// How many first packets of connections were sent again in a network namespace.
fn sent_again(place: &Place) -> u64 {
    let text = place.output("cat /proc/net/netstat").unwrap();
    let mut lines = text
        .lines()
        .filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let mut pairs = names.split(' ').zip(values.split(' '));
    let (_, value) = pairs.find(|(name, _)| *name == "TCPSynRetrans").unwrap();
    value.parse().unwrap()
}

/// Whether any connection is made.
fn leaks(from: &Place, to: &Pod) -> bool {
    let to: Vec<IpAddr> = to.addresses();
    let connect = || {
        let mut all = to.iter().map(|address| SocketAddr::new(*address, 80));
        all.any(|to| TcpStream::connect_timeout(&to, SILENCE).is_ok())
    };
    from.inside(connect).unwrap()
}

/// Sends a datagram to every address that a pod of `worker` may get, over and over, and collects who
/// answered.
fn probe(from: &Place, stop: &AtomicBool, answers: &Mutex<Vec<IpAddr>>) {
    from.inside(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(1)))
            .unwrap();
        while !stop.load(Ordering::Relaxed) {
            for last in 2..255 {
                let to = SocketAddr::from(([10, 10, 1, last], 53));
                // Where no pod is, the answer is an error.
                let _ = socket.send_to(b"anyone\n", to);
            }
            while let Ok((_, from)) = socket.recv_from(&mut [0; 200]) {
                answers.lock().unwrap().push(from.ip());
            }
        }
    })
    .unwrap();
}

/// That a pod is closed, and what the node says of that.
fn closed(cluster: &Cluster, pod: &Pod) -> String {
    let node = cluster.node("worker");
    let words = "podwire-agent drops; nft list ruleset; ip -s neigh";
    let seen = node.place().sh(words).unwrap().stdout;
    let lines = seen.lines();
    let about: Vec<&str> = lines
        .filter(|line| line.contains("counter packets") || line.contains(pod.name()))
        .collect();
    format!("{} is closed:\n{}", pod.name(), about.join("\n"))
}

/// Starts pods of all three namespaces, several at a time, and lets each speak at once: none through
/// that should not be, and what may pass does; with its first packet, if that is asked. Their status
/// comes afterwards.
fn start_and_speak(
    cluster: &Cluster,
    round: usize,
    at_once: usize,
    first: bool,
    [sink, db]: [&Pod; 2],
) -> Vec<Pod> {
    let speaks = |from: &Pod, to: &Pod| match first {
        true => connects_at_once(from.place(), to),
        false => connects(from.place(), to, LIMIT),
    };
    let started = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for number in 0..at_once {
            let started = &started;
            scope.spawn(move || {
                let namespace = ["closed", "shop", "free"][(round + number) % 3];
                let spec = spec(namespace, &format!("p{round}-{number}"), "web");
                let pod = cluster.lab.start("worker", &spec).unwrap();
                match namespace {
                    "free" => {
                        assert!(speaks(&pod, sink), "{}", closed(cluster, &pod));
                        assert!(!leaks(pod.place(), db));
                    }
                    "shop" => {
                        assert!(speaks(&pod, db), "{}", closed(cluster, &pod));
                        assert!(!leaks(pod.place(), sink), "{} leaks", pod.name());
                    }
                    _ => {
                        assert!(!leaks(pod.place(), sink), "{} leaks", pod.name());
                        assert!(!leaks(sink.place(), &pod), "{} leaks", pod.name());
                    }
                }
                cluster.lab.publish(&pod, &spec).unwrap();
                started.lock().unwrap().push(pod);
            });
        }
    });
    started.into_inner().unwrap()
}

#[test]
fn the_first_packets_of_many_pods_that_start_at_once_meet_their_policies_both_ways() {
    let (cluster, sink) = with_policies(Families::Dual);
    let db = cluster
        .lab
        .run("worker", &spec("shop", "db", "db"))
        .unwrap();
    let far = cluster
        .lab
        .run("worker2", &spec("free", "far", "web"))
        .unwrap();
    cluster.settle();
    let (stop, answers) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    let at_once: usize = parameter("PODWIRE_AT_ONCE", 10);
    let rounds = parameter("PODWIRE_STARTS", 30usize).div_ceil(at_once);
    let mut asked = 0;
    thread::scope(|scope| {
        let _ends = Ends(&stop);
        for pod in [&far, &sink] {
            let (stop, answers) = (&stop, &answers);
            scope.spawn(move || probe(pod.place(), stop, answers));
        }
        for round in 0..rounds {
            // Who is asked before its link is complete may be looked for again only a second later.
            let pods = start_and_speak(&cluster, round, at_once, false, [&sink, &db]);
            let namespace = |pod: &Pod| pod.sandbox().namespace.clone();
            let (free, isolated): (Vec<&Pod>, Vec<&Pod>) =
                pods.iter().partition(|pod| namespace(pod) == "free");
            let answered = |pod: &Pod| {
                let answers = answers.lock().unwrap();
                answers.contains(&pod.address(false).unwrap())
            };
            for pod in &free {
                wait::until("an answer of an open pod", LIMIT, || answered(pod)).unwrap();
            }
            asked += free.len();
            let leaked: Vec<&str> = isolated
                .iter()
                .filter(|pod| answered(pod))
                .map(|pod| pod.name())
                .collect();
            assert!(leaked.is_empty(), "{leaked:?} answered");
            for pod in &pods {
                cluster.lab.remove(pod.name()).unwrap();
            }
            // The next owner of an address answers for itself.
            answers.lock().unwrap().clear();
            println!(
                "{} of {} pods started",
                (round + 1) * at_once,
                rounds * at_once
            );
        }
    });
    assert!(asked >= rounds * at_once / 3, "everyone asks those");
    // Without that the very first packet passes, where it may.
    start_and_speak(&cluster, 3, 10, true, [&sink, &db]);
}

#[test]
fn an_agent_that_is_killed_at_random_opens_no_pod() {
    let (cluster, sink) = with_policies(Families::V4);
    let node = cluster.node("worker");
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _ends = Ends(&stop);
        scope.spawn(|| {
            let mut pause = 30;
            for number in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                // Now and then it gets as far as to answer, however busy the machine is.
                if number % 3 == 0 {
                    node.wait_ready().unwrap();
                }
                // Whenever that is: any moment of an ADD must do.
                thread::sleep(Duration::from_millis(pause));
                pause = (pause * 7) % 191 + 20;
                node.stop_agent("KILL").unwrap();
                node.start_agent().unwrap();
            }
        });
        for number in 0..parameter("PODWIRE_STARTS", 12) {
            let spec = spec("closed", &format!("k{number}"), "web");
            // As the kubelet does.
            let pod = wait::until_some(LIMIT, || cluster.lab.start("worker", &spec).ok());
            let pod = pod.unwrap_or_else(|| panic!("{}", node.agent_log()));
            assert!(!leaks(pod.place(), &sink), "{} leaks", pod.name());
            assert!(!leaks(sink.place(), &pod), "{} leaks", pod.name());
            // As the kubelet does.
            wait::until_some(LIMIT, || cluster.lab.remove(pod.name()).ok()).unwrap();
        }
    });
}

fn table(node: &Node) -> String {
    node.place()
        .output("nft list table ip podwire-policy")
        .unwrap()
}

#[test]
fn without_an_agent_a_pod_starts_only_where_no_policy_can_be_about_it() {
    let cluster = Cluster::pair(Families::V4);
    cluster.apply(&policies());
    let node = cluster.node("worker");
    let old = cluster
        .lab
        .run("worker", &spec("shop", "old", "web"))
        .unwrap();
    let sink = cluster
        .lab
        .run("worker", &spec("free", "sink", "sink"))
        .unwrap();
    node.stop_agent("KILL").unwrap();
    // Of the namespace no policy speaks: it starts at once, and is open.
    let before = Instant::now();
    let free = cluster
        .lab
        .start("worker", &spec("free", "new", "web"))
        .unwrap();
    assert!(before.elapsed() < Duration::from_millis(1900));
    assert!(connects_at_once(free.place(), &sink) && connects_at_once(sink.place(), &free));
    // Of this one they do.
    let before = Instant::now();
    let refused = cluster.lab.start("worker", &spec("shop", "new-web", "web"));
    let error = refused.unwrap_err().to_string();
    assert!(before.elapsed() >= Duration::from_secs(2));
    let expected = "podwire-agent does not answer; namespace shop has NetworkPolicies, a pod there \
                    is not started unprotected";
    assert!(error.contains(expected), "{error}");
    let links = node.place().output("ip -br link show group 112").unwrap();
    assert_eq!(links.lines().count(), 3, "nothing is left of it:\n{links}");
    // The runtime is told once that has lasted.
    node.runtime().status().unwrap();
    node.place()
        .output("touch -d '-40 seconds' /run/podwire/policy/silent")
        .unwrap();
    let error = node.runtime().status().unwrap_err().to_string();
    assert!(error.contains("podwire-agent does not answer"), "{error}");
    // A pod that goes leaves nothing to the next owner of its address.
    let (open, isolated) = (free.address(false).unwrap(), old.address(false).unwrap());
    for address in [open, isolated] {
        assert!(table(&node).contains(&address.to_string()));
    }
    cluster.lab.remove("new").unwrap();
    cluster.lab.remove("old").unwrap();
    for address in [open, isolated] {
        assert!(
            !table(&node).contains(&format!("{address} ")),
            "{}",
            table(&node)
        );
    }
    node.start_agent().unwrap();
    node.wait_ready().unwrap();
    node.runtime().status().unwrap();
    let web = cluster
        .lab
        .start("worker", &spec("shop", "new-web", "web"))
        .unwrap();
    assert!(!leaks(web.place(), &sink));
}

#[test]
fn a_pod_that_no_one_knows_does_not_start_in_a_namespace_with_policies() {
    let (cluster, sink) = with_policies(Families::V4);
    let node = cluster.node("worker");
    // As if the API server had not told yet: its node runs it, and there is no manifest.
    let refused = node.run(&spec("shop", "unknown", "web"));
    let error = refused.unwrap_err().to_string();
    assert!(
        error.contains("does not know the pod shop/unknown yet"),
        "{error}"
    );
    let free = node.run(&spec("free", "unknown", "web")).unwrap();
    assert!(connects_at_once(free.place(), &sink) && connects_at_once(sink.place(), &free));
    node.remove(&free).unwrap();
    let gone = format!("{} ", free.address(false).unwrap());
    assert!(!table(&node).contains(&gone), "{}", table(&node));
}
