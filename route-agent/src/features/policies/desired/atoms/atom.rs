//! A question.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::features::policies::desired::looks::look;
use crate::snapshot::{Block, Peer, Pod, PodSet, Selector, Snapshot};

/// A question.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Atom {
    /// Is it a pod?
    Pod,
    /// Is it a pod of this namespace with such labels?
    Here {
        /// The namespace.
        namespace: Arc<str>,
        /// The labels.
        pods: Selector,
    },
    /// Is it a pod with such labels in a Namespace with such labels?
    Elsewhere {
        /// The labels of the Namespace.
        namespaces: Selector,
        /// The labels of the pod.
        pods: Selector,
    },
    /// Is it one of these pods, as ClusterNetworkPolicies mean them?
    Anywhere(PodSet),
    /// Is it a Node with such labels?
    Nodes(Selector),
    /// Is it one of these addresses?
    Block(Block),
    /// Is the answer to one of these yes? They are of one kind, sorted, and none is such a list itself.
    Any(Arc<[Atom]>),
}

/// What questions are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Pods.
    Pods,
    /// Nodes.
    Nodes,
    /// Addresses, whoever has them.
    Addresses,
}

/// The questions of a rule with these peers: those of each kind one by one, or as a single one if there
/// are more than a `few`. What a rule treats alike need not be told apart, and of many peers by
/// themselves each makes a class.
pub fn questions(peers: BTreeSet<Atom>, few: usize) -> Vec<Atom> {
    let mut kinds: BTreeMap<Kind, Vec<Atom>> = BTreeMap::new();
    for peer in peers {
        kinds.entry(peer.kind()).or_default().push(peer);
    }
    let kinds = kinds.into_values();
    let questions = kinds.flat_map(|peers| match peers.len() > few {
        true => vec![Atom::Any(peers.into())],
        false => peers,
    });
    questions.collect()
}

impl fmt::Display for Atom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let selector = |selector: &Selector| match selector.is_empty() {
            true => "all".to_owned(),
            false => selector.to_string(),
        };
        match self {
            Atom::Pod => f.write_str("pods"),
            Atom::Here { namespace, pods } => write!(f, "{namespace}/{}", selector(pods)),
            Atom::Elsewhere { namespaces, pods } => {
                write!(
                    f,
                    "namespaces {}, pods {}",
                    selector(namespaces),
                    selector(pods)
                )
            }
            Atom::Anywhere(pods) => pods.fmt(f),
            Atom::Nodes(nodes) => write!(f, "nodes {}", selector(nodes)),
            Atom::Block(block) => block.fmt(f),
            Atom::Any(items) => match &**items {
                [] => f.write_str("no one"),
                [first, others @ ..] => write!(f, "{first} or {} more", others.len()),
            },
        }
    }
}

impl Atom {
    /// The question that a peer of a policy asks; `own` is the namespace of the policy, if it has one.
    pub fn of(peer: &Peer, own: &Arc<str>) -> Self {
        match peer.clone() {
            Peer::Here(pods) => Atom::Here {
                namespace: own.clone(),
                pods,
            },
            Peer::Anywhere(pods) => Atom::Anywhere(pods),
            Peer::Nodes(nodes) => Atom::Nodes(nodes),
            Peer::Elsewhere { namespaces, pods } => Atom::Elsewhere { namespaces, pods },
            Peer::Block(block) => Atom::Block(block),
        }
    }

    /// What it is about.
    pub fn kind(&self) -> Kind {
        match self {
            Atom::Pod | Atom::Here { .. } | Atom::Elsewhere { .. } | Atom::Anywhere(_) => {
                Kind::Pods
            }
            Atom::Nodes(_) => Kind::Nodes,
            Atom::Block(_) => Kind::Addresses,
            Atom::Any(items) => items.first().map_or(Kind::Addresses, Atom::kind),
        }
    }

    /// The questions of which one must be answered with yes; none if it is not such a list.
    pub fn items(&self) -> &[Atom] {
        match self {
            Atom::Any(items) => items,
            _ => &[],
        }
    }

    /// Whether a pod's answer is yes, for questions about pods.
    pub fn selects(&self, pod: &Pod, snapshot: &Snapshot) -> bool {
        look();
        match self {
            Atom::Pod => true,
            Atom::Here { namespace, pods } => {
                *namespace == pod.name.namespace && pods.selects(&pod.labels)
            }
            Atom::Elsewhere { namespaces, pods } => {
                let namespace = snapshot.namespaces.get(&pod.name.namespace);
                pods.selects(&pod.labels)
                    && namespace.is_some_and(|one| namespaces.selects(&one.labels))
            }
            Atom::Anywhere(pods) => pods.has_peer(pod, snapshot),
            Atom::Nodes(_) | Atom::Block(_) => false,
            Atom::Any(items) => items.iter().any(|item| item.selects(pod, snapshot)),
        }
    }

    /// The addresses that it asks about one by one.
    pub fn exact_ones(&self) -> impl Iterator<Item = IpAddr> {
        let items = self.items().iter().filter_map(Atom::exact);
        items.chain(self.exact())
    }

    /// True if it asks about more than one address in one go.
    pub fn has_networks(&self) -> bool {
        let is_network = |atom: &Atom| matches!(atom, Atom::Block(_)) && atom.exact().is_none();
        is_network(self) || self.items().iter().any(is_network)
    }

    /// The one address that it asks about, if there is but one.
    pub fn exact(&self) -> Option<IpAddr> {
        let Atom::Block(Block { network, except }) = self else {
            return None;
        };
        let single = network.prefix() == if network.is_ipv4() { 32 } else { 128 };
        (single && except.is_empty()).then(|| network.ip())
    }
}
