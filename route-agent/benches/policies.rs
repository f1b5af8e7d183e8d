//! NetworkPolicies from an object's text to the kernel, in a network namespace of its own.
//!
//! A part of `make bench`. The cluster is that of docs/policies.md's figures: namespaces of 50 pods and
//! five policies, 110 of the pods on this node. Prints each figure beside its target and fails if one
//! is missed. `cargo bench -p podwire-agent --bench policies`

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a bench stops at the first surprise"
)]

mod figures;

use std::net::{IpAddr, Ipv4Addr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use figures::{Cost, cost_of, figure, listen, quantile};
use podwire_agent::features::parts::log::Logging;
use podwire_agent::features::policies::desired::attachments::Attachments;
use podwire_agent::features::policies::desired::frame::{Changed, Here};
use podwire_agent::features::policies::desired::model::Model;
use podwire_agent::features::policies::table::sync::FamilyTable;
use podwire_agent::snapshot::{Change, Dirty, Key, ObjectName, Snapshot};
use podwire_agent::source::decode::{Scope, decode};
use podwire_agent::source::objects::Names;
use podwire_kernel::IpFamily;
use podwire_kernel::nft::NftSocket;
use serde_json::{Value, json};

/// Namespaces of the two clusters.
const CLUSTERS: [u32; 2] = [200, 2_000];
/// Pods of each namespace; an app has a fifth of them.
const PODS: u32 = 50;
/// Policies of each namespace.
const POLICIES: u32 = 5;
/// Pods of this node.
const LOCALS: u32 = 110;

/// How often one object is changed.
const CHANGES: u32 = 500;
/// How often the whole is done; the median counts.
const ROUNDS: usize = 5;
/// A change in the cluster of ten times as many objects may cost so much more.
const GROWTH: f64 = 1.5;

fn main() -> ExitCode {
    println!("NetworkPolicies, from an object's text to the kernel");
    println!("{:52}{:>14}{:>14}", "", "time", "processor");
    let mut met = true;
    let mut changes = Vec::new();
    for namespaces in CLUSTERS {
        // A thread for each: it stays in its network namespace.
        let thread = std::thread::spawn(move || run(namespaces));
        let (good, medians) = thread.join().unwrap();
        met &= good;
        changes.push(medians);
    }
    for ((what, small), (_, large)) in changes[0].iter().zip(&changes[1]) {
        let ratio = large.processor.as_secs_f64() / small.processor.as_secs_f64();
        let good = ratio <= GROWTH;
        let mark = if good { "✓" } else { "✗" };
        let what = format!("{what}, ten times as large a cluster");
        println!("  {mark} {what:<62}{ratio:>18.2}  at most {GROWTH}");
        met &= good;
    }
    if met {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Changes something and has it carried out.
type Doing = fn(&mut Bench, u32) -> Cost;

/// The median of each kind of change.
type Medians = Vec<(&'static str, Cost)>;

fn run(namespaces: u32) -> (bool, Medians) {
    podwire_kernel::netns::unshare_thread().expect("this needs root");
    let mut bench = Bench::new(namespaces);
    let _listening = listen(&mut bench.kernel);
    let (pods, policies) = (namespaces * PODS, namespaces * POLICIES);
    println!("  {pods} pods, {policies} policies, {LOCALS} local pods");
    let first = namespaces == CLUSTERS[0];
    let colds: Vec<Cost> = (0..ROUNDS).map(|_| bench.cold()).collect();
    let limit = first.then(|| Duration::from_millis(200));
    let name = format!("first sync, median of {ROUNDS}");
    let mut met = figure(&name, quantile(&colds, 50), limit);
    let kinds: [(&str, u64, Doing); 4] = [
        ("a pod of another node comes and goes", 4, Bench::far),
        ("a pod gets other labels", 2, Bench::relabel),
        ("a local pod comes and goes", 4, Bench::local),
        ("a policy of 110 elements comes and goes", 10, Bench::policy),
    ];
    let mut medians = Vec::new();
    for (what, limit, change) in kinds {
        let costs: Vec<Cost> = (1..=CHANGES)
            .map(|round| change(&mut bench, round))
            .collect();
        let median = quantile(&costs, 50);
        figure(&format!("{what}, median"), median, None);
        let limit = first.then(|| Duration::from_millis(limit));
        met &= figure(&format!("{what}, p99"), quantile(&costs, 99), limit);
        medians.push((what, median));
    }
    bench.table = FamilyTable::new(IpFamily::V4, Logging::On);
    let before = bench.kernel.writes();
    let ((), warm) = cost_of(|| bench.sync_all());
    figure("a new start over the right rules", warm, None);
    assert_eq!(
        bench.kernel.writes(),
        before,
        "a start over the right rules wrote something"
    );
    (met, medians)
}

/// Of so many pods one is of this node. The number is odd, so that the pods of this node are of all apps,
/// and policies about each select some, however large the cluster is.
fn every(namespaces: u32) -> u32 {
    (namespaces * PODS / LOCALS) | 1
}

/// A cluster, and what its node has in the kernel.
struct Bench {
    names: Names,
    snapshot: Snapshot,
    attachments: Attachments,
    here: Here,
    model: Option<Model>,
    table: FamilyTable,
    kernel: NftSocket,
    namespaces: u32,
}

impl Bench {
    fn new(namespaces: u32) -> Bench {
        let mut bench = Bench {
            names: Names::default(),
            snapshot: Snapshot::default(),
            attachments: Attachments::default(),
            here: Here {
                node: Arc::from("node-0"),
                pod_cidrs: Box::new(["10.0.0.0/24".parse().unwrap()]),
            },
            model: None,
            table: FamilyTable::new(IpFamily::V4, Logging::On),
            kernel: NftSocket::open().expect("an nftables socket"),
            namespaces,
        };
        let every = every(namespaces);
        let mut objects = vec![namespace("monitoring"), namespace("kube-system")];
        for number in 0..namespaces {
            objects.push(namespace(&format!("ns-{number}")));
            objects.extend(policies(number));
        }
        for number in 0..namespaces * PODS {
            let local = number % every == 0 && number / every < LOCALS;
            objects.push(pod(number, local.then_some(number / every + 2), None));
        }
        for object in objects {
            let mut dirty = Dirty::default();
            bench.read(&object.to_string(), &mut dirty);
        }
        bench
    }

    /// Takes an object in, as the sources do.
    fn read(&mut self, text: &str, dirty: &mut Dirty) {
        let read = decode(text.as_bytes(), Scope::All, &mut self.names).unwrap();
        assert!(!read.objects.is_empty(), "{text} was not read");
        for object in read.objects {
            self.snapshot.apply(Change::Set(object), dirty);
        }
    }

    /// Everything, from the snapshot.
    fn sync_all(&mut self) {
        let model = Model::of(
            &self.snapshot,
            &self.attachments,
            IpFamily::V4,
            self.here.clone(),
        );
        self.table
            .sync(&mut self.kernel, &model, None, Instant::now())
            .unwrap();
        self.model = Some(model);
    }

    /// A start without anything in the kernel.
    fn cold(&mut self) -> Cost {
        self.table.withdraw(&mut self.kernel).unwrap();
        // Closing a socket waits until what was deleted is freed.
        drop(std::mem::replace(
            &mut self.kernel,
            NftSocket::open().unwrap(),
        ));
        self.table = FamilyTable::new(IpFamily::V4, Logging::On);
        let ((), cost) = cost_of(|| self.sync_all());
        cost
    }

    /// What changed is carried out.
    fn sync(&mut self, dirty: &Dirty) {
        let mut changed = Changed::default();
        changed.add(dirty);
        let model = self.model.as_mut().unwrap();
        let delta = model.update(&self.snapshot, &self.attachments, &changed);
        self.table
            .sync(&mut self.kernel, model, Some(&delta), Instant::now())
            .unwrap();
    }

    fn set(&mut self, object: &Value) -> Cost {
        let text = object.to_string();
        let ((), cost) = cost_of(|| {
            let mut dirty = Dirty::default();
            self.read(&text, &mut dirty);
            self.sync(&dirty);
        });
        cost
    }

    fn gone(&mut self, key: Key) -> Cost {
        let ((), cost) = cost_of(|| {
            let mut dirty = Dirty::default();
            self.snapshot.apply(Change::Gone(key), &mut dirty);
            self.sync(&dirty);
        });
        cost
    }

    /// Sets an object and takes it away again; the two cost differently.
    fn come_and_go(&mut self, object: &Value, key: Key) -> Cost {
        self.set(object) + self.gone(key)
    }

    fn far(&mut self, round: u32) -> Cost {
        let number = self.namespaces * PODS + round;
        self.come_and_go(&pod(number, None, None), Key::Pod(pod_name(number)))
    }

    fn relabel(&mut self, round: u32) -> Cost {
        let number = round * 7 % (self.namespaces * PODS);
        // Those of this node keep their labels.
        let every = every(self.namespaces);
        let number = number + u32::from(number.is_multiple_of(every));
        let app = APPS[(round / 3) as usize % APPS.len()];
        self.set(&pod(number, None, Some(app)))
    }

    fn local(&mut self, _: u32) -> Cost {
        let number = self.namespaces * PODS + 1_000;
        let object = pod(number, Some(200), Some("b"));
        self.come_and_go(&object, Key::Pod(pod_name(number)))
    }

    /// For the first local pod: one class, 110 ports.
    fn policy(&mut self, _: u32) -> Cost {
        let ports: Vec<Value> = (0..110)
            .map(|port| json!({"port": 20_000 + port}))
            .collect();
        let rule = json!({"from": [peer("c")], "ports": ports});
        let key = Key::NetworkPolicy(ObjectName {
            namespace: Arc::from("ns-0"),
            name: Arc::from("wide"),
        });
        self.come_and_go(&policy(0, "wide", json!({"ingress": [rule]})), key)
    }
}

const APPS: [&str; 5] = ["a", "b", "c", "d", "e"];

fn namespace(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}},
    })
}

fn pod_name(number: u32) -> ObjectName {
    ObjectName {
        namespace: Arc::from(format!("ns-{}", number / PODS)),
        name: Arc::from(format!("pod-{number}")),
    }
}

/// A pod of another node, or the one with this address of 10.0.0.0/24 here.
fn pod(number: u32, local: Option<u32>, app: Option<&str>) -> Value {
    let ObjectName { namespace, name } = pod_name(number);
    let address = match local {
        Some(last) => 0x0a00_0000 + last,
        None => 0x0a40_0000 + number,
    };
    let node = match local {
        Some(_) => "node-0".to_owned(),
        None => format!("node-{}", 1 + number % 99),
    };
    let app = app.unwrap_or(APPS[number as usize % APPS.len()]);
    let address = IpAddr::V4(Ipv4Addr::from(address)).to_string();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "namespace": &*namespace, "name": &*name,
            "uid": format!("0b1c5be2-7a3e-4d5b-9d1a-{number:012x}"),
            "labels": {"app": app, "pod-template-hash": format!("{:x}", number / 10)},
        },
        "spec": {
            "nodeName": node,
            "containers": [{"name": "main", "ports": [{"name": "http", "containerPort": 8080}]}],
        },
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]},
    })
}

fn select(app: &str) -> Value {
    json!({"matchLabels": {"app": app}})
}

fn peer(app: &str) -> Value {
    json!({"podSelector": select(app)})
}

fn policy(namespace: u32, name: &str, spec: Value) -> Value {
    let mut object = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": format!("ns-{namespace}"), "name": name}, "spec": spec,
    });
    if object["spec"]["podSelector"].is_null() {
        object["spec"]["podSelector"] = json!({});
    }
    object
}

/// The five policies of a namespace.
fn policies(namespace: u32) -> [Value; POLICIES as usize] {
    let ports = |ports: &[u16]| -> Vec<Value> {
        let ports = ports.iter().map(|port| json!({"port": port}));
        ports.collect()
    };
    let named = |name: &str| json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}});
    let block = json!({"ipBlock": {"cidr": "192.168.0.0/16", "except": ["192.168.7.0/24"]}});
    let dns = [json!({"port": 53, "protocol": "UDP"}), json!({"port": 53})];
    let range = json!({"port": 30_000, "endPort": 30_100});
    let of = |name, spec| policy(namespace, name, spec);
    [
        of("closed", json!({"policyTypes": ["Ingress", "Egress"]})),
        of(
            "b-from-a",
            json!({
                "podSelector": select("b"),
                "ingress": [{"from": [peer("a")], "ports": ports(&[80, 443, 8080, 9090])}],
            }),
        ),
        of(
            "monitoring",
            json!({"ingress": [{"from": [named("monitoring")], "ports": ports(&[9100])}]}),
        ),
        of(
            "egress",
            json!({
                "policyTypes": ["Egress"],
                "egress": [
                    {"to": [named("kube-system")], "ports": dns},
                    {"to": [peer("b"), block], "ports": ports(&[80])},
                ],
            }),
        ),
        of(
            "e-from-all",
            json!({
                "podSelector": select("e"),
                "ingress": [{"from": [{"namespaceSelector": {}}], "ports": [range]}],
            }),
        ),
    ]
}
