//! The truth table of a random cluster: who may send what to whom.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::Value;

use crate::features::policies::desired::samples::Cluster;
use crate::features::policies::desired::tests::random::{Step, TRAFFIC, ends, is_known};
use crate::features::policies::desired::truth::{Traffic, Truth};
use crate::snapshot::Key;

/// A packet, and what should become of it.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Its source.
    pub from: IpAddr,
    /// Its destination.
    pub to: IpAddr,
    /// What it is of.
    pub traffic: Traffic,
    /// Whether it should arrive.
    pub allowed: bool,
}

/// The ends about which models and truth should agree.
pub fn known(cluster: &Cluster) -> Vec<IpAddr> {
    let all = ends().into_iter();
    all.filter(|end| is_known(cluster, *end)).collect()
}

/// What is between these ends: by the policies, by the explanation and by all models, which must say the
/// same.
pub fn table(cluster: &Cluster, ends: &[IpAddr]) -> Vec<Row> {
    let mut rows = Vec::new();
    for from in ends {
        for to in ends.iter().filter(|to| to.is_ipv4() == from.is_ipv4()) {
            let truth = Truth::about(&cluster.snapshot, &[*from, *to].into());
            rows.extend(TRAFFIC.map(|traffic| Row {
                from: *from,
                to: *to,
                traffic,
                allowed: cluster.allows_by(&truth, *from, *to, traffic),
            }));
        }
    }
    rows
}

/// The objects that are there after these steps.
pub fn objects_after(steps: &[Step]) -> Vec<Value> {
    let mut objects = BTreeMap::new();
    for step in steps {
        match step {
            Step::Set(object) => _ = objects.insert(name_of(object), object.clone()),
            Step::Gone(key) => _ = objects.remove(&name_of_key(key)),
        }
    }
    objects.into_values().collect()
}

fn name_of(object: &Value) -> String {
    let metadata = &object["metadata"];
    let parts = [&object["kind"], &metadata["namespace"], &metadata["name"]];
    let parts: Vec<_> = parts.iter().filter_map(|part| part.as_str()).collect();
    parts.join("/")
}

fn name_of_key(key: &Key) -> String {
    match key {
        Key::Pod(name) => format!("Pod/{name}"),
        Key::NetworkPolicy(name) => format!("NetworkPolicy/{name}"),
        Key::Namespace(name) => format!("Namespace/{name}"),
        Key::ClusterNetworkPolicy(name) => format!("ClusterNetworkPolicy/{name}"),
        Key::Node(name) => format!("Node/{name}"),
        other => unreachable!("no step is about {other:?}"),
    }
}
