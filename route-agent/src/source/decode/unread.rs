//! Kinds of objects that are not read although who writes them counts on them.

/// What such an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unread {
    /// What EndpointSlices have replaced.
    Endpoints,
    /// Network policies of other projects, and of API groups that are gone.
    Policy,
}

/// True if a kind, or a list of one, is about who may talk to whom, by its name: `AdminNetworkPolicy`,
/// `CiliumNetworkPolicy`, `GlobalNetworkPolicy`, and `NetworkPolicy` of `extensions`.
pub fn is_policy(kind: &str) -> bool {
    kind.trim_end_matches("List").ends_with("NetworkPolicy")
}

impl Unread {
    /// That there are so many, and what to write instead.
    pub fn note(self, count: usize) -> String {
        match self {
            Self::Endpoints => format!(
                "has objects of kind Endpoints ({count}), which are not read; write them as \
                 EndpointSlices (discovery.k8s.io/v1) with the label kubernetes.io/service-name"
            ),
            Self::Policy => format!(
                "has network policies of kinds that are not read ({count}), so nothing enforces \
                 them; write them as NetworkPolicy (networking.k8s.io/v1) or ClusterNetworkPolicy \
                 (policy.networking.k8s.io/v1beta1)"
            ),
        }
    }
}
