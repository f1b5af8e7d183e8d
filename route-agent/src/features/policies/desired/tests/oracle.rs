//! What another program says of the same clusters: cyclonus, by way of `tests/oracle`, which is not a
//! rewrite of ours.
//!
//! The truth table of each random cluster must be the same. Left out is what cyclonus does not model
//! (ping, a pod and itself), and what it takes otherwise: an egress rule that names a port and has an
//! ipBlock, where it takes the address for the pod that has it; and `NotIn` of a label that is absent,
//! which holds in Kubernetes (`Requirement.Matches` in k8s.io/apimachinery/pkg/labels). `ORACLE_CLUSTERS` says how many clusters, `ORACLE_SEED` which.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::process::{Command, Stdio};

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::{Value, json};

use crate::features::policies::desired::samples::Cluster;
use crate::features::policies::desired::tests::random::{
    NAMESPACES, Step, TRAFFIC, apply, is_known, pairs, steps,
};
use crate::features::policies::desired::truth::{Traffic, Truth};
use crate::snapshot::{Key, Labels, Pod};

fn number(name: &str, default: u64) -> u64 {
    let given = std::env::var(name).ok();
    given.map_or(default, |text| text.parse().unwrap())
}

#[test]
#[ignore = "needs Go and its module proxy; `make oracle` runs it"]
fn cyclonus_says_the_same_of_every_cluster() {
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
    let mut questions = oracle.stdin.take().unwrap();
    let mut answers = BufReader::new(oracle.stdout.take().unwrap()).lines();

    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&number("ORACLE_SEED", 1).to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let (mut packets, mut allowed) = (0, 0);
    for _ in 0..number("ORACLE_CLUSTERS", 500) {
        let steps = steps().new_tree(&mut runner).unwrap().current();
        let (cluster, policies) = cluster_of(&steps);
        let asked = asked(&cluster);
        let question = json!({"policies": policies, "packets": packets_of(&cluster, &asked)});
        writeln!(questions, "{question}").unwrap();
        let answer = answers.next().unwrap().unwrap();
        assert_eq!(answer.len(), asked.len());
        for ((from, to, traffic), said) in asked.iter().zip(answer.bytes()) {
            let ours = cluster.allows(*from, *to, *traffic);
            let theirs = said == b'1';
            assert_eq!(
                ours, theirs,
                "{from} -> {to} {traffic:?}: ours, theirs\n{steps:#?}"
            );
            packets += 1;
            allowed += usize::from(ours);
        }
    }
    drop(questions);
    assert!(oracle.wait().unwrap().success());
    println!("{packets} packets, {allowed} of them allowed: the same verdicts");
    assert!(
        allowed * 10 > packets && allowed * 10 < packets * 9,
        "a fair share of each"
    );
}

/// What becomes of the steps, and the policies in the end.
fn cluster_of(steps: &[Step]) -> (Cluster, Vec<Value>) {
    let mut cluster = Cluster::empty();
    let mut policies = BTreeMap::new();
    for step in steps {
        match step {
            Step::Set(object) if object["kind"] == "NetworkPolicy" => {
                let object = without_not_in(without_ports_of_blocks(object.clone()));
                apply(&mut cluster, &Step::Set(object.clone()));
                policies.insert(key(&object), as_stored(object));
            }
            // Cyclonus has no word for a namespace that is not known.
            Step::Gone(Key::Namespace(_)) => {}
            Step::Gone(Key::NetworkPolicy(name)) => {
                policies.remove(&name.to_string());
                apply(&mut cluster, step);
            }
            step => apply(&mut cluster, step),
        }
    }
    (cluster, policies.into_values().collect())
}

fn key(object: &Value) -> String {
    let of = |field: &str| object["metadata"][field].as_str().unwrap().to_owned();
    format!("{}/{}", of("namespace"), of("name"))
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
fn as_stored(mut policy: Value) -> Value {
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

fn asked(cluster: &Cluster) -> Vec<(IpAddr, IpAddr, Traffic)> {
    let pairs = pairs().into_iter();
    let pairs = pairs.filter(|(from, to)| from != to);
    let pairs = pairs.filter(|(from, to)| is_known(cluster, *from) && is_known(cluster, *to));
    let all = pairs.flat_map(|(from, to)| TRAFFIC.map(|traffic| (from, to, traffic)));
    all.filter(|(.., traffic)| *traffic != Traffic::Portless)
        .collect()
}

fn packets_of(cluster: &Cluster, asked: &[(IpAddr, IpAddr, Traffic)]) -> Vec<Value> {
    let truth = Truth::of(&cluster.snapshot);
    let labels = |labels: &Labels| -> BTreeMap<String, String> {
        let all = labels.iter();
        all.map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    };
    let end = |address: IpAddr| match truth.pod(address) {
        None => json!({"ip": address}),
        Some(pod) => {
            let namespace = cluster
                .snapshot
                .namespaces
                .get(&pod.name.namespace)
                .unwrap();
            assert!(NAMESPACES.contains(&&*namespace.name));
            json!({
                "ip": address, "namespace": &*namespace.name,
                "namespaceLabels": labels(&namespace.labels), "podLabels": labels(&pod.labels),
            })
        }
    };
    let name = |pod: Option<&Pod>, protocol, port| {
        let mut ports = pod.into_iter().flat_map(|pod| pod.ports.iter());
        let named = ports.find(|one| (one.protocol, one.port) == (protocol, port));
        named.map(|one| one.name.to_string()).unwrap_or_default()
    };
    let packet = |(from, to, traffic): &(IpAddr, IpAddr, Traffic)| {
        let Traffic::Port(protocol, port) = *traffic else {
            unreachable!("what has no port is not asked");
        };
        json!({
            "from": end(*from), "to": end(*to), "port": port,
            "portName": name(truth.pod(*to), protocol, port),
            "protocol": protocol.name().to_ascii_uppercase(),
        })
    };
    asked.iter().map(packet).collect()
}
