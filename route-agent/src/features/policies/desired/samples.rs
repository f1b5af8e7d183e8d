//! Clusters as their objects, and what their policies say, for tests.
//!
//! Three nodes: `worker` and `worker2`, where pods are enforced, and a machine outside. Addresses
//! of pods are `10.10.1.N` and `fd00:10:10:1::N` on `worker`, and `2` for `1` on `worker2`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use podwire_kernel::IpFamily;
use serde_json::{Value, json};

use crate::features::policies::desired::atoms::FEW_PEERS;
use crate::features::policies::desired::attachments::Attachments;
use crate::features::policies::desired::explain::{Judgement, judge};
use crate::features::policies::desired::frame::{Changed, Here};
use crate::features::policies::desired::model::Model;
use crate::features::policies::desired::truth::{Traffic, Truth};
use crate::snapshot::{Change, Direction, Dirty, Key, ObjectName, Protocol, Snapshot};
use crate::source::decode::{Scope, decode};
use crate::source::objects::Names;

/// The nodes with enforced pods, each with its number in addresses.
pub const NODES: [(&str, u8); 2] = [("worker", 1), ("worker2", 2)];

/// TCP to a port.
pub const fn tcp(port: u16) -> Traffic {
    Traffic::Port(Protocol::Tcp, port)
}

/// UDP to a port.
pub const fn udp(port: u16) -> Traffic {
    Traffic::Port(Protocol::Udp, port)
}

/// SCTP to a port.
pub const fn sctp(port: u16) -> Traffic {
    Traffic::Port(Protocol::Sctp, port)
}

/// Ping and the like.
pub const ICMP: Traffic = Traffic::Portless;

/// The object name of `namespace/name`.
pub fn name(text: &str) -> ObjectName {
    let (namespace, name) = text.split_once('/').unwrap();
    ObjectName {
        namespace: Arc::from(namespace),
        name: Arc::from(name),
    }
}

/// Labels from `a=b c=d`.
pub fn labels(text: &str) -> Value {
    let pairs = text
        .split_whitespace()
        .map(|pair| pair.split_once('=').unwrap());
    pairs
        .map(|(key, value)| (key.to_owned(), json!(value)))
        .collect()
}

/// The addresses of the pod with this number on a node.
pub fn addresses(node: &str, number: u8) -> [IpAddr; 2] {
    let (_, subnet) = NODES.iter().find(|(name, _)| *name == node).unwrap();
    [
        format!("10.10.{subnet}.{number}").parse().unwrap(),
        format!("fd00:10:10:{subnet}::{number:x}").parse().unwrap(),
    ]
}

/// A running Pod with a port `http`, TCP 80.
pub fn pod(at: &str, node: &str, number: u8, with: &str) -> Value {
    let at = name(at);
    let ips = addresses(node, number).map(|ip| json!({"ip": ip}));
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": &*at.namespace, "name": &*at.name, "labels": labels(with)},
        "spec": {"nodeName": node, "containers": [
            {"ports": [{"name": "http", "containerPort": 80}]}]},
        "status": {"phase": "Running", "podIPs": ips},
    })
}

/// A Namespace.
pub fn namespace(name: &str, with: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels(with)}})
}

/// A NetworkPolicy.
pub fn policy(at: &str, spec: &Value) -> Value {
    let at = name(at);
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": &*at.namespace, "name": &*at.name},
        "spec": spec,
    })
}

/// A ClusterNetworkPolicy: of all pods, in the Admin tier with priority 10, unless the spec says
/// otherwise.
pub fn cluster_policy(name: &str, spec: &Value) -> Value {
    let mut whole = json!({"tier": "Admin", "priority": 10, "subject": {"namespaces": {}}});
    for (field, value) in spec.as_object().unwrap() {
        whole[field] = value.clone();
    }
    json!({
        "apiVersion": "policy.networking.k8s.io/v1beta1", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": name}, "spec": whole,
    })
}

/// A Node outside the pod networks.
pub fn node(name: &str, addresses: &[&str], with: &str) -> Value {
    let addresses = addresses.iter();
    let addresses = addresses.map(|one| json!({"type": "InternalIP", "address": one}));
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels(with)},
        "status": {"addresses": addresses.collect::<Vec<_>>()},
    })
}

/// A cluster, and a model of each node and family that follows it change by change.
pub struct Cluster {
    /// Its objects.
    pub snapshot: Snapshot,
    /// What is attached, on every node alike.
    pub attachments: Attachments,
    models: BTreeMap<(&'static str, IpFamily), Model>,
    names: Names,
}

/// Where a node's models are made.
pub fn here(node: &str, family: IpFamily) -> Here {
    let (node, subnet) = NODES.iter().find(|(name, _)| *name == node).unwrap();
    let cidr = match family {
        IpFamily::V4 => format!("10.10.{subnet}.0/24"),
        IpFamily::V6 => format!("fd00:10:10:{subnet}::/64"),
    };
    Here {
        node: Arc::from(*node),
        pod_cidrs: [cidr.parse().unwrap()].into(),
        has_all_namespaces: false,
    }
}

impl Cluster {
    /// Nothing.
    pub fn empty() -> Self {
        Self::of_lists_over(FEW_PEERS)
    }

    /// Nothing, with models in which rules with more than this many peers ask a single question.
    pub fn of_lists_over(few_peers: usize) -> Self {
        Self::made(few_peers, false)
    }

    /// As [`Cluster::of_lists_over`], of an API server: a Namespace that is missing is not known.
    pub fn of_api_server(few_peers: usize) -> Self {
        Self::made(few_peers, true)
    }

    /// As one or the other of these.
    pub fn made(few_peers: usize, has_all_namespaces: bool) -> Self {
        let snapshot = Snapshot::default();
        let each = NODES
            .iter()
            .flat_map(|(node, _)| IpFamily::ALL.map(|family| (*node, family)));
        let models = each.map(|(node, family)| {
            let model = Model::of_lists_over(
                few_peers,
                &snapshot,
                &Attachments::default(),
                family,
                Here {
                    has_all_namespaces,
                    ..here(node, family)
                },
            );
            ((node, family), model)
        });
        Self {
            models: models.collect(),
            attachments: Attachments::default(),
            snapshot,
            names: Names::default(),
        }
    }

    /// Of these objects: anything that `kubectl get -o yaml` or `-o json` prints.
    pub fn of(objects: &[Value]) -> Self {
        let mut cluster = Self::empty();
        cluster.set(objects);
        cluster
    }

    /// As [`Cluster::of`], but the models see all objects at once, as after a start, and rules with more than
    /// this many peers of a kind ask a single question.
    pub fn at_once(few_peers: usize, objects: &[Value]) -> Self {
        let mut cluster = Self::of_lists_over(few_peers);
        let changes = objects.iter().flat_map(|object| cluster.read(object));
        let changes = changes.collect();
        cluster.apply(changes);
        cluster
    }

    /// Reads objects and shows them to the models, one after the other.
    pub fn set(&mut self, objects: &[Value]) {
        for object in objects {
            let changes = self.read(object);
            self.apply(changes);
        }
    }

    /// What an object changes.
    pub fn read(&mut self, object: &Value) -> Vec<Change> {
        let text = object.to_string();
        let contents = decode(text.as_bytes(), Scope::All, &mut self.names).unwrap();
        assert_eq!(contents.problems, [""; 0], "{text}");
        contents.objects.into_iter().map(Change::Set).collect()
    }

    /// Takes an object away.
    pub fn gone(&mut self, key: Key) {
        self.apply(vec![Change::Gone(key)]);
    }

    /// Takes changes in, and shows them to the models.
    pub fn apply(&mut self, changes: Vec<Change>) {
        let mut dirty = Dirty::default();
        for change in changes {
            self.snapshot.apply(change, &mut dirty);
        }
        let mut changed = Changed::default();
        changed.add(&dirty);
        for model in self.models.values_mut() {
            model.update(&self.snapshot, &self.attachments, &changed);
        }
    }

    /// The model of a node.
    pub fn model(&self, node: &'static str, family: IpFamily) -> &Model {
        &self.models[&(node, family)]
    }

    /// Whether a packet may pass all nodes: as the policies read, which must be as all models and the
    /// explanation say.
    #[track_caller]
    pub fn allows(&self, from: IpAddr, to: IpAddr, traffic: Traffic) -> bool {
        let truth = Truth::about(&self.snapshot, &[from, to].into());
        self.allows_by(&truth, from, to, traffic)
    }

    /// As [`Cluster::allows`], with a truth that can be asked about both addresses.
    #[track_caller]
    pub fn allows_by(&self, truth: &Truth<'_>, from: IpAddr, to: IpAddr, traffic: Traffic) -> bool {
        let ends = [
            (Direction::Egress, from, to),
            (Direction::Ingress, to, from),
        ];
        let judgements =
            ends.map(|(direction, local, peer)| judge(truth, direction, local, peer, traffic));
        let explained = judgements.iter().flatten().all(Judgement::passes);
        let truth = truth.allowed(from, to, traffic);
        assert_eq!(
            explained, truth,
            "{from} -> {to} {traffic:?}: {judgements:?}"
        );
        let by_models = self.models_allow(from, to, traffic);
        assert_eq!(
            by_models, truth,
            "{from} -> {to} {traffic:?}: models, truth"
        );
        truth
    }

    /// Whether a packet may pass all nodes, as their models say.
    pub fn models_allow(&self, from: IpAddr, to: IpAddr, traffic: Traffic) -> bool {
        let family = IpFamily::of(from);
        NODES.iter().all(|(node, _)| {
            let model = &self.models[&(*node, family)];
            let is_here = |address| model.here().has(address);
            model.wanted().allows(from, to, traffic, is_here)
        })
    }

    /// The truth table between addresses: for each pair and kind of traffic whether it may pass. Made
    /// to be compared with what another program says of the same objects.
    pub fn table(
        &self,
        addresses: &[IpAddr],
        traffic: &[Traffic],
    ) -> BTreeMap<(IpAddr, IpAddr, Traffic), bool> {
        let truth = Truth::of(&self.snapshot);
        let mut table = BTreeMap::new();
        for from in addresses {
            let to = addresses.iter().filter(|to| to.is_ipv4() == from.is_ipv4());
            for (to, traffic) in to.flat_map(|to| traffic.iter().map(move |one| (to, one))) {
                let allowed = truth.allowed(*from, *to, *traffic);
                table.insert((*from, *to, *traffic), allowed);
            }
        }
        table
    }
}
