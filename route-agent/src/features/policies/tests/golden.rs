//! What `nft` prints of each kind of policy: plain text with fixed addresses, in `golden/`.
//!
//! Each file is compared with what the kernel holds, loaded into an empty kernel by `nft`, and listed
//! again; an agent that starts over it changes nothing in the listing. With `UPDATE_GOLDEN=1` in the environment the
//! files are written instead.

use serde_json::{Value, json};

use crate::features::policies::desired::samples::{namespace, pod, policy};
use crate::features::policies::tests::bench::{Bench, list, load, nft};

/// A file, what it shows, and the policies of namespace `shop`.
struct Case {
    file: &'static str,
    shows: &'static str,
    policies: Vec<Value>,
}

fn app(value: &str) -> Value {
    json!({"matchLabels": {"app": value}})
}

fn cases() -> Vec<Case> {
    let to_db = |rules: Value| json!({"podSelector": app("db"), "policyTypes": ["Ingress"], "ingress": rules});
    let from_db = |rules: Value| json!({"podSelector": app("db"), "policyTypes": ["Egress"], "egress": rules});
    vec![
        Case {
            file: "deny-all",
            shows: "No rule: nothing to or from the pods of the namespace but to themselves.",
            policies: vec![json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})],
        },
        Case {
            file: "by-label",
            shows: "To db from pods with app=web, and from namespaces with team=ops, on two ports.",
            policies: vec![
                to_db(json!([{"from": [{"podSelector": app("web")}], "ports": [
                    {"port": "http"}, {"port": 53, "protocol": "UDP"}]}])),
                to_db(
                    json!([{"from": [{"namespaceSelector": {"matchLabels": {"team": "ops"}}}],
                    "ports": [{"port": 9100}]}]),
                ),
            ],
        },
        Case {
            file: "blocks",
            shows: "From db to networks with a hole, and to one address; from anyone to db over TCP.",
            policies: vec![
                from_db(json!([{"to": [
                    {"ipBlock": {"cidr": "198.51.100.0/24", "except": ["198.51.100.0/28"]}},
                    {"ipBlock": {"cidr": "198.51.100.7/32"}},
                    {"ipBlock": {"cidr": "2001:db8::/32", "except": ["2001:db8::/48"]}},
                    {"ipBlock": {"cidr": "2001:db8::7/128"}}]}])),
                to_db(json!([{"ports": [{"protocol": "TCP"}]}])),
            ],
        },
        Case {
            file: "ranges",
            shows: "Ranges of ports: a small one port by port, two others with a rule each.",
            policies: vec![
                to_db(json!([{"from": [{"podSelector": {}}], "ports": [
                    {"port": 80, "endPort": 82}, {"port": 30000, "endPort": 32767}]}])),
                from_db(json!([{"ports": [{"port": 1024, "endPort": 65535, "protocol": "UDP"}]}])),
            ],
        },
    ]
}

fn objects() -> Vec<Value> {
    vec![
        namespace("shop", "team=shop"),
        namespace("ops", "team=ops"),
        pod("shop/db", "worker", 3, "app=db"),
        pod("shop/job", "worker", 4, "app=job"),
        pod("shop/web", "worker2", 2, "app=web"),
        pod("ops/probe", "worker2", 5, "app=probe"),
    ]
}

#[test]
fn each_kind_of_policy_prints_as_its_golden_file_says_and_can_be_loaded_again() {
    for Case {
        file,
        shows,
        policies,
    } in cases()
    {
        let thread = std::thread::spawn(move || {
            let mut bench = Bench::new();
            let mut objects = objects();
            for (number, spec) in policies.iter().enumerate() {
                objects.push(policy(&format!("shop/p{number}"), spec));
            }
            bench.set(&objects);
            let listed = list();
            compare(file, &format!("# {shows}\n{listed}"));
            nft("flush ruleset");
            load(&listed);
            assert_eq!(list(), listed, "{file} lists otherwise");
            // nft chooses other registers than we do, so some rules are written again.
            bench.restart();
            let same = sorted(&list()) == sorted(&listed);
            assert!(same, "{file} after a start:\n{}", list());
            assert_eq!(bench.restart(), 0);
            assert_eq!(bench.differences(), [""; 0]);
        });
        thread.join().unwrap();
    }
}

#[test]
fn every_golden_file_belongs_to_a_case() {
    let mut known: Vec<String> = cases()
        .iter()
        .map(|case| format!("{}.nft", case.file))
        .collect();
    let files = std::fs::read_dir(path("x").parent().unwrap()).unwrap();
    let mut found: Vec<String> = files
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    known.sort();
    found.sort();
    assert_eq!(found, known);
}

/// The sets and chains of a listing: what is written again comes last in the kernel's own order.
fn sorted(listing: &str) -> Vec<&str> {
    let mut blocks: Vec<&str> = listing
        .split("\n\n")
        .flat_map(|part| part.split("\t}\n"))
        .collect();
    blocks.sort_unstable();
    blocks
}

/// Compares with the golden file, or writes it.
#[track_caller]
fn compare(file: &str, text: &str) {
    let path = path(file);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        text == golden,
        "the kernel holds:\n{text}\n{} says:\n{golden}\nUPDATE_GOLDEN=1 writes it again",
        path.display()
    );
}

fn path(file: &str) -> std::path::PathBuf {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/features/policies/golden");
    std::path::Path::new(folder).join(format!("{file}.nft"))
}
