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
    /// Meant are, as peers, those of which it cannot be said whether they belong to the set, as the
    /// labels of their Namespace are not known.
    pub in_doubt: bool,
}

impl PodSet {
    /// True if a pod belongs to it as a subject. Of a Namespace that is not known its name counts: a
    /// cluster of manifests may be without it, and where there should be one no pod starts before.
    pub fn selects(&self, pod: &Pod, snapshot: &Snapshot) -> bool {
        let namespace = &pod.name.namespace;
        let by_name = || self.namespaces.selects(&only_named(namespace));
        self.pods.selects(&pod.labels)
            && self
                .has_namespace(namespace, snapshot)
                .unwrap_or_else(by_name)
    }

    /// True if it cannot be said whether a pod belongs to it as a subject, as the labels of its Namespace
    /// are not known.
    pub fn may_select(&self, pod: &Pod, snapshot: &Snapshot) -> bool {
        self.has_namespace(&pod.name.namespace, snapshot).is_none()
            && self.pods.selects(&pod.labels)
    }

    /// True if a pod is one of those that a peer means.
    pub fn has_peer(&self, pod: &Pod, snapshot: &Snapshot) -> bool {
        let meant = (!self.in_doubt).then_some(true);
        self.has_namespace(&pod.name.namespace, snapshot) == meant && self.pods.selects(&pod.labels)
    }

    /// True if pods of a Namespace may belong to it.
    pub fn reaches(&self, namespace: &Arc<str>, snapshot: &Snapshot) -> bool {
        self.has_namespace(namespace, snapshot) != Some(false)
    }

    /// Those of which it cannot be said whether they belong to it, if there can be any.
    pub fn in_doubt(&self) -> Option<Self> {
        (!self.namespaces.is_about(NAME_LABEL)).then(|| Self {
            in_doubt: true,
            ..self.clone()
        })
    }

    /// Whether a Namespace is selected; `None` if its labels decide that, and are not known.
    fn has_namespace(&self, namespace: &Arc<str>, snapshot: &Snapshot) -> Option<bool> {
        match snapshot.namespaces.get(namespace) {
            Some(known) => Some(self.namespaces.selects(&known.labels)),
            None if self.namespaces.is_about(NAME_LABEL) => {
                Some(self.namespaces.selects(&only_named(namespace)))
            }
            None => None,
        }
    }
}

impl fmt::Display for PodSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pods.is_empty() {
            true => f.write_str("all pods")?,
            false => self.pods.fmt(f)?,
        }
        match (self.in_doubt, self.namespaces.is_empty()) {
            (true, _) => write!(
                f,
                " of namespaces that are not known here and may have {}",
                self.namespaces
            ),
            (false, true) => f.write_str(" of all namespaces"),
            (false, false) => write!(f, " of namespaces {}", self.namespaces),
        }
    }
}

/// The label that the API server gives a Namespace.
pub const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// The labels of a Namespace of which only the name is known.
fn only_named(namespace: &Arc<str>) -> Labels {
    std::iter::once((Arc::from(NAME_LABEL), namespace.clone())).collect()
}
