//! Pods of any namespaces, as ClusterNetworkPolicies select them.

use std::fmt;
use std::sync::Arc;

use crate::snapshot::{Labels, Pod, Selector, Snapshot};

/// Pods with labels, in Namespaces with labels.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodSet {
    /// Which Namespaces.
    pub namespaces: Selector,
    /// Which of their pods.
    pub pods: Selector,
}

impl PodSet {
    /// True if a pod belongs to it. Of a Namespace that is not known its name counts.
    pub fn selects(&self, pod: &Pod, snapshot: &Snapshot) -> bool {
        self.pods.selects(&pod.labels) && self.reaches(&pod.name.namespace, snapshot)
    }

    /// True if pods of a Namespace may belong to it.
    pub fn reaches(&self, namespace: &Arc<str>, snapshot: &Snapshot) -> bool {
        self.namespaces.is_empty()
            || match snapshot.namespaces.get(namespace) {
                Some(known) => self.namespaces.selects(&known.labels),
                None => self.namespaces.selects(&only_named(namespace)),
            }
    }
}

impl fmt::Display for PodSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pods.is_empty() {
            true => f.write_str("all pods")?,
            false => self.pods.fmt(f)?,
        }
        match self.namespaces.is_empty() {
            true => f.write_str(" of all namespaces"),
            false => write!(f, " of namespaces {}", self.namespaces),
        }
    }
}

/// The label that the API server gives a Namespace.
pub const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// The labels of a Namespace of which only the name is known.
fn only_named(namespace: &Arc<str>) -> Labels {
    std::iter::once((Arc::from(NAME_LABEL), namespace.clone())).collect()
}
