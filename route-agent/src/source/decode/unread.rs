//! Kinds of objects that are not read although who writes them counts on them.

/// What such an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unread {
    /// What EndpointSlices have replaced.
    Endpoints,
    /// Network policies of other projects, and of API groups that are gone.
    Policy,
    /// What has the name of a kind that is read, in other letters or in another API group: one of
    /// [`READ`], by its place.
    Misspelt(usize),
}

/// The kinds that are read: API group, the version that is meant, and the kind.
const READ: [(&str, &str, &str); 8] = [
    ("", "v1", "Node"),
    ("", "v1", "Service"),
    ("discovery.k8s.io", "discovery.k8s.io/v1", "EndpointSlice"),
    ("networking.k8s.io", "networking.k8s.io/v1", "ServiceCIDR"),
    ("", "v1", "Pod"),
    ("", "v1", "Namespace"),
    ("networking.k8s.io", "networking.k8s.io/v1", "NetworkPolicy"),
    (
        "policy.networking.k8s.io",
        "policy.networking.k8s.io/v1beta1",
        "ClusterNetworkPolicy",
    ),
];

/// The kind that was likely meant, of an object or a list that is not read. A group of another project
/// may well have a kind of that name: only what has no domain or the kind's own is taken for a slip.
pub fn misspelt(group: &str, kind: &str) -> Option<Unread> {
    let kind = kind.strip_suffix("List").unwrap_or(kind);
    let is_meant = |(own, _, name): &(&str, &str, &str)| {
        name.eq_ignore_ascii_case(kind) && (!group.contains('.') || group.eq_ignore_ascii_case(own))
    };
    READ.iter().position(is_meant).map(Unread::Misspelt)
}

/// True if a kind, or a list of one, is about who may talk to whom, by its name: `AdminNetworkPolicy`,
/// `CiliumNetworkPolicy`, `GlobalNetworkPolicy`, and `NetworkPolicy` of `extensions`.
pub fn is_policy(kind: &str) -> bool {
    kind.trim_end_matches("List").ends_with("NetworkPolicy")
}

impl Unread {
    /// True if only policies ask for what it is.
    pub fn is_for_policies(self) -> bool {
        match self {
            Self::Endpoints => false,
            Self::Policy => true,
            Self::Misspelt(which) => {
                let (.., kind) = READ[which];
                matches!(kind, "Pod" | "Namespace") || is_policy(kind)
            }
        }
    }

    /// That there are so many, and what to write instead.
    pub fn note(self, count: usize) -> String {
        match self {
            Self::Endpoints => format!(
                "has objects of kind Endpoints ({count}), which are not read; write them as \
                 EndpointSlices (discovery.k8s.io/v1) with the label kubernetes.io/service-name"
            ),
            Self::Misspelt(which) => {
                let (_, version, kind) = READ[which];
                format!(
                    "has objects ({count}) whose kind is not read but looks like {kind}; write them \
                     with `apiVersion: {version}` and `kind: {kind}`"
                )
            }
            Self::Policy => format!(
                "has network policies of kinds that are not read ({count}), so nothing enforces \
                 them; write them as NetworkPolicy (networking.k8s.io/v1) or ClusterNetworkPolicy \
                 (policy.networking.k8s.io/v1beta1)"
            ),
        }
    }
}
