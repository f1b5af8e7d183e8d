//! Pods and Namespaces.

use std::net::IpAddr;

use serde::Deserialize;

use crate::cidr::no_destination;
use crate::snapshot::{self, Labels, NAME_LABEL, NamedPort, Uid};
use crate::source::objects::{
    Checker, Flag, Metadata, Names, Number, Text, Unnamed, lenient, nullable, possible,
};

/// A Pod.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Pod {
    /// Name, labels, times.
    pub metadata: Metadata,
    /// Where it runs, and its ports.
    #[serde(deserialize_with = "nullable")]
    pub spec: PodSpec,
    /// Its addresses, and whether it has ended.
    #[serde(deserialize_with = "nullable")]
    pub status: PodStatus,
}

/// What Podwire reads of a Pod's spec.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PodSpec {
    /// The Node it runs on.
    pub node_name: Text,
    /// True if it has its Node's network.
    pub host_network: Flag,
    /// Its containers.
    #[serde(deserialize_with = "nullable")]
    pub containers: Vec<Container>,
    /// Containers that start before those, and may stay.
    #[serde(deserialize_with = "nullable")]
    pub init_containers: Vec<Container>,
}

/// A container.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Container {
    /// Its ports.
    #[serde(deserialize_with = "nullable")]
    pub ports: Vec<ContainerPort>,
    /// `Always` for an init container that stays.
    pub restart_policy: Text,
}

/// A port of a container.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ContainerPort {
    /// Its name; without one it is of no interest here.
    pub name: Text,
    /// Its number.
    pub container_port: Number,
    /// Its protocol; TCP if absent.
    pub protocol: Text,
}

/// What Podwire reads of a Pod's status.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PodStatus {
    /// Pending, Running, Succeeded, Failed or Unknown.
    pub phase: Text,
    /// The first address.
    #[serde(rename = "podIP")]
    pub pod_ip: Text,
    /// All addresses; the first is the same as `podIP`.
    #[serde(rename = "podIPs", deserialize_with = "nullable")]
    pub pod_ips: Vec<PodIp>,
}

/// An address of a Pod.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct PodIp {
    /// The address.
    pub ip: Text,
}

/// The annotation of a Pod that only mirrors a static one, whose UID is another.
const MIRROR: &str = "kubernetes.io/config.mirror";

impl Pod {
    /// The snapshot's value of this Pod.
    pub fn into_snapshot(self, names: &mut Names) -> Result<snapshot::Pod, Unnamed> {
        let name = self.metadata.single_name(names)?;
        let mut checker = Checker::default();
        let node = self.spec.node_name.get();
        let node = node.filter(|node| !node.is_empty() && possible(node).is_ok());
        let phase = self.status.phase.get().unwrap_or_default();
        let mut pod = snapshot::Pod {
            uid: match self.metadata.annotations.contains_key(MIRROR) {
                true => Uid::from(""),
                false => Uid::from(self.metadata.uid.get().unwrap_or_default()),
            },
            node: node.map(|node| names.get(node)),
            labels: self.metadata.shared_labels(names),
            ports: names.ports(named_ports(&self.spec, &mut checker)),
            created: self.metadata.created(&mut checker),
            host_network: checker.flag("spec.hostNetwork", &self.spec.host_network, false),
            finished: matches!(phase, "Succeeded" | "Failed"),
            running: phase == "Running",
            deleting: self.metadata.deletion_timestamp.get().is_some(),
            ..snapshot::Pod::named(name)
        };
        take_addresses(&self.status, &mut pod, &mut checker);
        pod.invalid = checker.invalid.into();
        Ok(pod)
    }
}

/// Of each family the first.
fn take_addresses(status: &PodStatus, pod: &mut snapshot::Pod, checker: &mut Checker) {
    checker.beside(
        "status.podIP",
        &status.pod_ip,
        status.pod_ips.first().map(|one| &one.ip),
        lenient::address,
        "is not the first of status.podIPs, which counts",
    );
    let all: Vec<&Text> = match status.pod_ips.is_empty() {
        false => status.pod_ips.iter().map(|one| &one.ip).collect(),
        true => vec![&status.pod_ip],
    };
    for text in all {
        if text.get().is_none_or(str::is_empty) {
            continue;
        }
        let field = "status.podIPs";
        let Some(address) = checker.address(field, text) else {
            continue;
        };
        let is_second = match address {
            IpAddr::V4(_) => pod.ipv4.is_some(),
            IpAddr::V6(_) => pod.ipv6.is_some(),
        };
        let second = is_second.then_some("is not the first of its family, which alone counts");
        match (no_destination(address).or(second), address) {
            (Some(reason), _) => checker.bad(field, text.shown(), reason),
            (None, IpAddr::V4(address)) => pod.ipv4 = Some(address),
            (None, IpAddr::V6(address)) => pod.ipv6 = Some(address),
        }
    }
}

/// The ports with a name, as kubelet would look for one (`FindPort` in pkg/api/v1/pod): containers
/// first, and of the init containers those that stay.
fn named_ports(spec: &PodSpec, checker: &mut Checker) -> Vec<NamedPort> {
    let stays = |one: &&Container| one.restart_policy.get() == Some("Always");
    let containers = spec.containers.iter();
    let containers = containers.chain(spec.init_containers.iter().filter(stays));
    let mut found = Vec::new();
    for port in containers.flat_map(|container| &container.ports) {
        let Some(name) = port.name.get().filter(|name| !name.is_empty()) else {
            continue;
        };
        let field = "spec.containers.ports.containerPort";
        if port.container_port.is_unset() {
            let shown = port.container_port.get().map_or("null", |_| "0");
            checker.bad(
                field,
                shown,
                "is not the number of a port, which one with a name needs",
            );
        }
        let number = checker.port(field, &port.container_port);
        let protocol = checker.protocol("spec.containers.ports.protocol", &port.protocol);
        if let (Some(number), Some(protocol)) = (number, protocol) {
            found.push(NamedPort {
                name: name.into(),
                protocol,
                port: number,
            });
        }
    }
    found
}

/// A Namespace.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Namespace {
    /// Its name and labels.
    pub metadata: Metadata,
}

impl Namespace {
    /// The snapshot's value of this Namespace.
    pub fn into_snapshot(mut self, names: &mut Names) -> Result<snapshot::Namespace, Unnamed> {
        let name = self.metadata.cluster_name(names)?;
        // A manifest does not have it, and selectors rely on it.
        self.metadata
            .labels
            .insert(NAME_LABEL.into(), Text::from(&*name));
        Ok(snapshot::Namespace {
            labels: self.metadata.shared_labels(names),
            name,
        })
    }
}

impl Metadata {
    /// The labels, kept once for all objects that have the same.
    pub(super) fn shared_labels(&self, names: &mut Names) -> Labels {
        let pairs: Vec<_> = self
            .labels
            .iter()
            .map(|(key, value)| (names.get(key), names.get(value.get().unwrap_or_default())))
            .collect();
        names.labels(pairs.into_iter().collect())
    }
}
