//! What kind of object a document says it is.

use serde::Deserialize;

use crate::source::decode::unread::{self, Unread};
use crate::source::objects;

/// A kind of object, by `apiVersion` and `kind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Node,
    Service,
    EndpointSlice,
    ServiceCidr,
    Pod,
    Namespace,
    NetworkPolicy,
    ClusterNetworkPolicy,
    /// Something that is not read and ought to be.
    Unread(Unread),
    /// A list; the kind of its items if the list's own kind says it.
    List(Option<Item>),
    /// Something that Podwire does not use.
    Other,
}

/// apiVersion and kind.
pub type Type<'a> = (&'a str, &'a str);

/// What a list such as `NodeList` holds.
pub type Item = Type<'static>;

/// The two fields that say what an object is.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TypeMeta {
    api_version: objects::Text,
    kind: objects::Text,
}

impl TypeMeta {
    pub fn type_of(&self) -> Option<Type<'_>> {
        Some((self.api_version.get()?, self.kind.get()?))
    }

    /// That it does not say which kind it is.
    pub fn incomplete(&self, place: &str) -> String {
        let missing = match (self.api_version.get(), self.kind.get()) {
            (None, Some(_)) => "apiVersion is",
            (Some(_), None) => "kind is",
            _ => "apiVersion and kind are",
        };
        format!("{place}: is not a Kubernetes object: {missing} missing")
    }
}

pub fn classify(api_version: &str, kind: &str) -> Kind {
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    match (group, kind) {
        ("", "Node") => Kind::Node,
        ("", "Service") => Kind::Service,
        ("", "Endpoints") => Kind::Unread(Unread::Endpoints),
        ("discovery.k8s.io", "EndpointSlice") => Kind::EndpointSlice,
        ("networking.k8s.io", "ServiceCIDR") => Kind::ServiceCidr,
        ("", "Pod") => Kind::Pod,
        ("", "Namespace") => Kind::Namespace,
        ("networking.k8s.io", "NetworkPolicy") => Kind::NetworkPolicy,
        ("policy.networking.k8s.io", "ClusterNetworkPolicy") => Kind::ClusterNetworkPolicy,
        ("", "List") => Kind::List(None),
        ("", "NodeList") => Kind::List(Some(("v1", "Node"))),
        ("", "ServiceList") => Kind::List(Some(("v1", "Service"))),
        ("", "EndpointsList") => Kind::List(Some(("v1", "Endpoints"))),
        ("discovery.k8s.io", "EndpointSliceList") => {
            Kind::List(Some(("discovery.k8s.io/v1", "EndpointSlice")))
        }
        ("networking.k8s.io", "ServiceCIDRList") => {
            Kind::List(Some(("networking.k8s.io/v1", "ServiceCIDR")))
        }
        ("", "PodList") => Kind::List(Some(("v1", "Pod"))),
        ("", "NamespaceList") => Kind::List(Some(("v1", "Namespace"))),
        ("networking.k8s.io", "NetworkPolicyList") => {
            Kind::List(Some(("networking.k8s.io/v1", "NetworkPolicy")))
        }
        ("policy.networking.k8s.io", "ClusterNetworkPolicyList") => Kind::List(Some((
            "policy.networking.k8s.io/v1beta1",
            "ClusterNetworkPolicy",
        ))),
        (_, other) if unread::is_policy(other) => Kind::Unread(Unread::Policy),
        (_, other) => unread::misspelt(group, other).map_or(Kind::Other, Kind::Unread),
    }
}

/// Finds `apiVersion:` and `kind:` at the start of a line, where most manifests have them.
pub fn type_by_looks(text: &str) -> Option<Type<'_>> {
    let find = |key: &str| {
        let mut values = text.lines().filter_map(|line| line.strip_prefix(key));
        let value = plain_value(values.next()?)?;
        values.next().is_none().then_some(value)
    };
    Some((find("apiVersion:")?, find("kind:")?))
}

/// The value behind a key, if it is one word, perhaps in quotes, with nothing but a comment behind it:
/// anything else may mean something that only a parser knows.
fn plain_value(text: &str) -> Option<&str> {
    let mut words = text.strip_prefix([' ', '\t'])?.split_ascii_whitespace();
    let mut value = words.next()?;
    for quote in ['"', '\''] {
        let inner = value.strip_prefix(quote);
        value = inner
            .and_then(|inner| inner.strip_suffix(quote))
            .unwrap_or(value);
    }
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"./-".contains(&byte);
    let ends = words.next().is_none_or(|word| word.starts_with('#'));
    (ends && !value.is_empty() && value.bytes().all(is_plain)).then_some(value)
}
