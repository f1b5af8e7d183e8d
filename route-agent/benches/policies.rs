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
use std::process::{Command, ExitCode, Stdio};
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
/// How often the first sync is done; the median counts.
const ROUNDS: usize = 5;
/// How often both clusters are measured, in turns; of each figure the median counts.
const PAIRS: usize = 5;
/// A change in the cluster of ten times as many objects may cost so much more.
const GROWTH: f64 = 1.5;

/// What a process that measures one cluster is told.
const CLUSTER: &str = "--cluster=";

/// What is measured of a cluster, and how many milliseconds it may take in the smaller one.
const FIGURES: [(&str, Option<u64>); 10] = [
    ("first sync", Some(200)),
    ("a pod of another node comes and goes, median", None),
    ("a pod of another node comes and goes, p99", Some(4)),
    ("a pod gets other labels, median", None),
    ("a pod gets other labels, p99", Some(2)),
    ("a local pod comes and goes, median", None),
    ("a local pod comes and goes, p99", Some(4)),
    ("a policy of 110 elements comes and goes, median", None),
    ("a policy of 110 elements comes and goes, p99", Some(10)),
    ("a new start over the right rules", None),
];

/// The changes, in the order of their figures.
const KINDS: [Doing; 4] = [Bench::far, Bench::relabel, Bench::local, Bench::policy];

/// Changes something and has it carried out.
type Doing = fn(&mut Bench, u32) -> Cost;

/// The costs of [`FIGURES`].
type Costs = [Cost; FIGURES.len()];

fn main() -> ExitCode {
    let told = std::env::args().find_map(|told| told.strip_prefix(CLUSTER)?.parse().ok());
    if let Some(namespaces) = told {
        for Cost { wall, processor } in run(namespaces) {
            println!("{} {}", wall.as_nanos(), processor.as_nanos());
        }
        return ExitCode::SUCCESS;
    }
    let pairs = (0..PAIRS).map(|_| CLUSTERS.map(measure));
    let pairs: Vec<[Costs; 2]> = pairs.collect();
    println!("NetworkPolicies, from an object's text to the kernel; medians of {PAIRS} processes");
    println!("{:52}{:>14}{:>14}", "", "time", "processor");
    let mut met = true;
    for (size, namespaces) in CLUSTERS.into_iter().enumerate() {
        let (pods, policies) = (namespaces * PODS, namespaces * POLICIES);
        println!("  {pods} pods, {policies} policies, {LOCALS} local pods");
        for (number, (what, limit)) in FIGURES.into_iter().enumerate() {
            let costs: Vec<Cost> = pairs.iter().map(|pair| pair[size][number]).collect();
            let limit = limit.filter(|_| size == 0).map(Duration::from_millis);
            met &= figure(what, quantile(&costs, 50), limit);
        }
    }
    for (number, (what, _)) in FIGURES.into_iter().enumerate() {
        let Some(what) = what.strip_suffix(", median") else {
            continue;
        };
        let worked = |costs: &Costs| costs[number].processor.as_secs_f64();
        let ratios = pairs.iter();
        let ratios = ratios.map(|[small, large]| worked(large) / worked(small));
        let mut ratios: Vec<f64> = ratios.collect();
        ratios.sort_unstable_by(f64::total_cmp);
        let good = ratios[PAIRS / 2] <= GROWTH;
        let mark = if good { "✓" } else { "✗" };
        let what = format!("{what}, ten times as large a cluster");
        let ratio = ratios[PAIRS / 2];
        println!("  {mark} {what:<62}{ratio:>18.2}  at most {GROWTH}");
        met &= good;
    }
    if met {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// The costs in a process of its own, as an agent is one: how long something takes depends also on the room
/// that the allocator has left from what was there before.
fn measure(namespaces: u32) -> Costs {
    let program = std::env::current_exe().unwrap();
    let mut command = Command::new(program);
    command.arg(format!("{CLUSTER}{namespaces}"));
    let done = command.stderr(Stdio::inherit()).output().unwrap();
    let said = String::from_utf8(done.stdout).unwrap();
    assert!(
        done.status.success(),
        "the process ended with {}",
        done.status
    );
    let costs = said.lines().map(|line| {
        let mut numbers = line.split(' ').map(|number| number.parse().unwrap());
        let mut next = || Duration::from_nanos(numbers.next().unwrap());
        Cost {
            wall: next(),
            processor: next(),
        }
    });
    let costs: Vec<Cost> = costs.collect();
    costs.try_into().unwrap()
}

fn run(namespaces: u32) -> Costs {
    podwire_kernel::netns::unshare_thread().expect("this needs root");
    let mut bench = Bench::new(namespaces);
    let _listening = listen(&mut bench.kernel);
    let colds: Vec<Cost> = (0..ROUNDS).map(|_| bench.cold()).collect();
    let mut measured = vec![quantile(&colds, 50)];
    for change in KINDS {
        let costs = (1..=CHANGES).map(|round| change(&mut bench, round));
        let costs: Vec<Cost> = costs.collect();
        measured.extend([quantile(&costs, 50), quantile(&costs, 99)]);
    }
    bench.table = FamilyTable::new(IpFamily::V4, Logging::On);
    let before = bench.kernel.writes();
    let ((), warm) = cost_of(|| bench.sync_all());
    assert_eq!(
        bench.kernel.writes(),
        before,
        "a start over the right rules wrote something"
    );
    measured.push(warm);
    measured.try_into().unwrap()
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
                has_all_namespaces: true,
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
