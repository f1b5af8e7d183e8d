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
    /// What is one of [`READ`] in a version that no cluster has. It is read all the same.
    OddVersion(usize),
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

/// Other versions of kinds that are read, in which the objects are the same.
const ALSO_READ: [(&str, &str); 4] = [
    ("discovery.k8s.io/v1beta1", "EndpointSlice"),
    ("networking.k8s.io/v1beta1", "ServiceCIDR"),
    ("networking.k8s.io/v1alpha1", "ServiceCIDR"),
    ("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy"),
];

/// Few letters make another word of one that is no longer.
const SHORT: usize = 5;

/// Kinds that are not read, of groups with a domain of which others are.
const OTHERS: [&str; 3] = ["Ingress", "IngressClass", "IPAddress"];

/// The kind that was likely meant, of an object or a list that is not read. A group of another project
/// may well have a kind of that name: only what has no domain or the kind's own, or nearly, is taken for
/// a slip. A name that is nearly right is one too, if it is long or in the own group, and whatever is
/// none of the few other kinds of a group of which some are read.
pub fn misspelt(group: &str, kind: &str) -> Option<Unread> {
    let kind = kind.strip_suffix("List").unwrap_or(kind);
    let like = READ.iter().position(|(own, _, name)| {
        let in_own = is_like(group, own, 2);
        let most = match name.len() {
            ..=SHORT if !in_own => 0,
            length => (length / 5 + 1).min(3),
        };
        (in_own || !group.contains('.')) && is_like(kind, name, most)
    });
    let place = like.or_else(|| {
        let may_be_other = group.is_empty() || OTHERS.contains(&kind);
        let of_group = READ.iter().rposition(|(own, ..)| *own == group);
        of_group.filter(|_| !may_be_other)
    });
    place.map(Unread::Misspelt)
}

/// What is one of [`READ`] in a version that no cluster has.
pub fn of_odd_version(api_version: &str, kind: &str) -> Option<Unread> {
    let kind = kind.strip_suffix("List").unwrap_or(kind);
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    let place = READ
        .iter()
        .position(|(own, _, name)| *own == group && *name == kind)?;
    let known = READ[place].1 == api_version || ALSO_READ.contains(&(api_version, kind));
    (!known).then_some(Unread::OddVersion(place))
}

/// True if one text may be a slip for the other: but for upper case, at one place, of up to so many
/// letters, they are the same.
fn is_like(text: &str, meant: &str, most: usize) -> bool {
    let (mut text, mut meant) = (text.as_bytes(), meant.as_bytes());
    while let ([one, text_rest @ ..], [other, meant_rest @ ..]) = (text, meant)
        && one.eq_ignore_ascii_case(other)
    {
        (text, meant) = (text_rest, meant_rest);
    }
    while let ([text_rest @ .., one], [meant_rest @ .., other]) = (text, meant)
        && one.eq_ignore_ascii_case(other)
    {
        (text, meant) = (text_rest, meant_rest);
    }
    text.len().max(meant.len()) <= most
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
            Self::Misspelt(which) | Self::OddVersion(which) => {
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
            Self::OddVersion(which) => {
                let (_, version, kind) = READ[which];
                format!(
                    "has objects ({count}) of kind {kind} in a version that no cluster has, which \
                     are read all the same; write them with `apiVersion: {version}`"
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
