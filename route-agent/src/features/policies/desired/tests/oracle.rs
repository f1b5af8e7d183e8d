//! What another program says of the same clusters: cyclonus, by way of `tests/oracle`, which is not a
//! rewrite of ours.
//!
//! The truth table of each random cluster must be the same, and the kernel must say so, too, of the first
//! ones: there each packet of the table is sent. Not asked is what cyclonus does not model
//! (ping, a pod and itself), and what it takes otherwise: an egress rule that names a port and has an
//! ipBlock, where it takes the address for the pod that has it; and `NotIn` of a label that is absent,
//! which holds in Kubernetes (`Requirement.Matches` in k8s.io/apimachinery/pkg/labels).
//! In every other cluster rules with more than one peer of a kind ask a single question, as those with
//! long lists do.
//! `ORACLE_CLUSTERS` says how many clusters, `ORACLE_SEED` which, `ORACLE_SENT` how many of them by
//! packets.

use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::{Value, json};

use crate::features::policies::desired::atoms::FEW_PEERS;
use crate::features::policies::desired::samples::Cluster;
use crate::features::policies::desired::tests::random::{NAMESPACES, Step, TRAFFIC, steps};
use crate::features::policies::desired::tests::table::{Row, known, objects_after, table};
use crate::features::policies::desired::truth::{Traffic, Truth};
use crate::features::policies::tests::road::Road;
use crate::snapshot::{Key, Labels, Pod, Protocol};

/// How many clusters may wait for an answer: enough that neither side waits for the other.
const UNDER_WAY: usize = 64;
/// How often to say how far it is.
const PROGRESS: Duration = Duration::from_secs(5);

/// A cluster that was asked about, and what we say of it.
struct Asked {
    few_peers: usize,
    objects: Vec<Value>,
    rows: Vec<Row>,
}

/// A number that whoever runs a test may give.
pub fn number(name: &str, default: u64) -> u64 {
    let given = std::env::var(name).ok();
    given.map_or(default, |text| text.parse().unwrap())
}

/// Up to how many peers of a kind a rule asks one by one in this cluster.
pub fn few_peers_of(cluster: u64) -> usize {
    match cluster % 2 {
        0 => FEW_PEERS,
        _ => 1,
    }
}

/// What makes the clusters of a seed.
pub fn runner(seed: u64) -> TestRunner {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    TestRunner::new_with_rng(Config::default(), rng)
}

#[test]
#[ignore = "needs Go and its module proxy; `make oracle` runs it"]
fn cyclonus_says_the_same_of_every_cluster() {
    let [seed, clusters, sent] = [
        ("ORACLE_SEED", 1),
        ("ORACLE_CLUSTERS", 500),
        ("ORACLE_SENT", 0),
    ]
    .map(|(name, default)| number(name, default));
    let (mut oracle, questions, answers) = start();
    let (to_compare, asked) = sync_channel(UNDER_WAY);
    let asking = std::thread::spawn(move || ask(seed, clusters, questions, &to_compare));
    let mut tally = Tally::new(clusters);
    for (asked, answer) in asked.iter().zip(answers.lines()) {
        tally.compare(&asked, answer.unwrap().as_bytes());
        if tally.done <= sent {
            tally.send(&asked);
        }
    }
    asking.join().unwrap();
    assert!(oracle.wait().unwrap().success());
    tally.end();
}

fn start() -> (Child, ChildStdin, BufReader<ChildStdout>) {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("oracle");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/oracle");
    let mut build = Command::new("go");
    build
        .args(["build", "-o"])
        .arg(&program)
        .arg(".")
        .current_dir(source);
    assert!(build.status().unwrap().success());
    let mut oracle = Command::new(&program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let questions = oracle.stdin.take().unwrap();
    let answers = BufReader::new(oracle.stdout.take().unwrap());
    (oracle, questions, answers)
}

/// Asks about one cluster after the other, ahead of the answers.
fn ask(seed: u64, clusters: u64, mut questions: ChildStdin, to_compare: &SyncSender<Asked>) {
    let mut runner = runner(seed);
    for one in 0..clusters {
        let steps = steps().new_tree(&mut runner).unwrap().current();
        let objects = objects_for(steps);
        let few_peers = few_peers_of(one);
        let cluster = Cluster::at_once(few_peers, &objects);
        let ends = known(&cluster);
        writeln!(questions, "{}", question(&objects, &cluster, &ends)).unwrap();
        let rows = table(&cluster, &ends);
        let asked = Asked {
            few_peers,
            objects,
            rows,
        };
        // Whoever compares has failed, and says why.
        if to_compare.send(asked).is_err() {
            return;
        }
    }
}

/// How far it is, and what was seen.
struct Tally {
    clusters: u64,
    done: u64,
    packets: usize,
    allowed: usize,
    sent: usize,
    start: Instant,
    said: Instant,
}

impl Tally {
    fn new(clusters: u64) -> Self {
        let now = Instant::now();
        Self {
            clusters,
            done: 0,
            packets: 0,
            allowed: 0,
            sent: 0,
            start: now,
            said: now,
        }
    }

    fn compare(&mut self, asked: &Asked, answer: &[u8]) {
        let rows: Vec<_> = asked.rows.iter().filter(|row| has_word(row)).collect();
        assert_eq!(answer.len(), rows.len());
        for (row, said) in rows.iter().zip(answer) {
            let theirs = *said == b'1';
            assert!(
                row.allowed == theirs,
                "cluster {}: {row:?}: theirs {theirs}\n{:#?}",
                self.done,
                asked.objects
            );
            self.allowed += usize::from(theirs);
        }
        self.packets += rows.len();
        self.done += 1;
        if self.said.elapsed() > PROGRESS {
            self.said = Instant::now();
            println!("{} of {} clusters", self.done, self.clusters);
        }
    }

    fn send(&mut self, asked: &Asked) {
        let Asked {
            few_peers,
            objects,
            rows,
        } = asked;
        Road::through(*few_peers, objects).carry(rows, objects);
        self.sent += rows.len();
    }

    fn end(&self) {
        let Self {
            done,
            packets,
            allowed,
            sent,
            ..
        } = self;
        let seconds = self.start.elapsed().as_secs();
        println!(
            "{done} clusters, {packets} packets, {allowed} of them allowed: the same verdicts; \
             {sent} packets sent; {seconds} s"
        );
        assert_eq!(*done, self.clusters, "all are answered");
        assert!(
            allowed * 10 > *packets && allowed * 10 < packets * 9,
            "a fair share of each"
        );
    }
}

/// Whether cyclonus has a word for it.
fn has_word(row: &Row) -> bool {
    row.from != row.to && row.traffic != Traffic::Portless
}

/// What is there in the end, but for what cyclonus takes otherwise.
fn objects_for(mut steps: Vec<Step>) -> Vec<Value> {
    // Cyclonus has no word for a namespace that is not known.
    steps.retain(|step| !matches!(step, Step::Gone(Key::Namespace(_))));
    let objects = objects_after(&steps).into_iter();
    objects
        .map(|object| match is_policy(&object) {
            true => without_not_in(without_ports_of_blocks(object)),
            false => object,
        })
        .collect()
}

fn is_policy(object: &Value) -> bool {
    object["kind"] == "NetworkPolicy"
}

fn without_ports_of_blocks(mut policy: Value) -> Value {
    for rule in policy["spec"]["egress"].as_array_mut().unwrap() {
        let has_block = |peer: &Value| !peer["ipBlock"].is_null();
        if !rule["to"].as_array().unwrap().iter().any(has_block) {
            continue;
        }
        for port in rule["ports"].as_array_mut().unwrap() {
            if port["port"].is_string() {
                port["port"] = json!(80);
            }
        }
    }
    policy
}

/// With another condition in its place.
fn without_not_in(policy: Value) -> Value {
    let with = r#""operator":"NotIn","values":["1"]"#;
    let without = r#""operator":"DoesNotExist""#;
    serde_json::from_str(&policy.to_string().replace(with, without)).unwrap()
}

/// As the API server keeps it: with the policyTypes that follow.
fn as_stored(policy: &Value) -> Value {
    let mut policy = policy.clone();
    let spec = &mut policy["spec"];
    if spec["policyTypes"] == json!([]) {
        let egress = !spec["egress"].as_array().unwrap().is_empty();
        spec["policyTypes"] = match egress {
            true => json!(["Ingress", "Egress"]),
            false => json!(["Ingress"]),
        };
    }
    policy
}

/// What goes over ports.
fn ported() -> impl Iterator<Item = (Protocol, u16)> {
    TRAFFIC.into_iter().filter_map(|traffic| match traffic {
        Traffic::Port(protocol, port) => Some((protocol, port)),
        Traffic::Portless => None,
    })
}

fn question(objects: &[Value], cluster: &Cluster, ends: &[IpAddr]) -> Value {
    let policies = objects.iter().filter(|object| is_policy(object));
    let traffic = ported().map(
        |(protocol, port)| json!({"port": port, "protocol": protocol.name().to_ascii_uppercase()}),
    );
    let truth = Truth::of(&cluster.snapshot);
    json!({
        "policies": policies.map(as_stored).collect::<Vec<_>>(),
        "traffic": traffic.collect::<Vec<_>>(),
        "ends": ends.iter().map(|end| in_words(&truth, *end)).collect::<Vec<_>>(),
    })
}

fn in_words(truth: &Truth<'_>, address: IpAddr) -> Value {
    let pod = truth.pod(address);
    let names: Vec<_> = ported().map(|port| port_name(pod, port)).collect();
    let Some(pod) = pod else {
        return json!({"ip": address, "ports": names});
    };
    let namespace = &truth.snapshot().namespaces[&pod.name.namespace];
    assert!(NAMESPACES.contains(&&*namespace.name));
    let labels = |labels: &Labels| -> Value {
        let all = labels.iter();
        all.map(|(key, value)| (key.to_owned(), json!(value)))
            .collect()
    };
    json!({
        "ip": address, "ports": names, "namespace": &*namespace.name,
        "namespaceLabels": labels(&namespace.labels), "podLabels": labels(&pod.labels),
    })
}

/// What a pod calls a port.
fn port_name(pod: Option<&Pod>, (protocol, port): (Protocol, u16)) -> String {
    let mut ports = pod.into_iter().flat_map(|pod| pod.ports.iter());
    let named = ports.find(|one| (one.protocol, one.port) == (protocol, port));
    named.map(|one| one.name.to_string()).unwrap_or_default()
}
