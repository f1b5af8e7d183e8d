//! Which nodes there are, and how the agent of each is asked.
//!
//! Three ways: [`local`], the socket of this node; [`command`], a program that leads to a relay, as
//! in the lab; and [`api`], exec through the API server.

pub mod api;
pub mod command;
#[cfg(test)]
pub(crate) mod fake;
mod kubeconfig;
pub mod local;
pub mod relay;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use podwire_agent::text::printable;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What will be there later.
pub type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A way to nodes.
pub trait Reach: Send + Sync {
    /// The nodes of the cluster, as far as this way knows them.
    fn nodes(&self) -> Later<'_, Result<Listing, ReachError>>;

    /// A client for the agent of a node. It may only find out with the first question that no one
    /// is there.
    fn client(&self, node: &Node) -> Later<'_, Result<Arc<dyn Client>, ReachError>>;

    /// Runs `podwire-agent ARGUMENTS` where the agent of a node runs, and waits for its end.
    fn run(&self, node: &Node, arguments: &[&str]) -> Later<'_, Result<Ran, ReachError>>;

    /// What the agent of a node logged; `previous` is of the agent before the one that runs. None
    /// if this way does not know.
    fn logs(&self, node: &Node, previous: bool) -> Later<'_, Result<Option<String>, ReachError>>;

    /// The objects of a kind, as the API server has them. None if this way knows no API server, or
    /// the cluster no such kind.
    fn objects(
        &self,
        _: &'static Kind,
    ) -> Later<'_, Result<Option<Vec<serde_json::Value>>, ReachError>> {
        Box::pin(std::future::ready(Ok(None)))
    }
}

/// Which nodes there are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// The nodes, sorted by name.
    pub nodes: Vec<Node>,
    /// What may be missing from it, and why, one sentence each.
    pub remarks: Vec<String>,
    /// Machines that are no nodes, by name: a packet may begin or end there.
    pub machines: Machines,
}

/// The addresses of machines by their names.
pub type Machines = BTreeMap<String, Vec<IpAddr>>;

/// A kind of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// The group of the API; empty for the first.
    pub group: &'static str,
    /// The version.
    pub version: &'static str,
    /// The kind.
    pub kind: &'static str,
    /// The resource.
    pub plural: &'static str,
    /// True for Podwire's own objects only, in its namespace.
    pub of_podwire: bool,
}

/// Asks one agent. Many questions may be open at a time.
pub trait Client: Send + Sync {
    /// Asks for a path and perhaps a query.
    fn ask<'a>(&'a self, target: &'a str) -> Later<'a, Result<Reply, ReachError>>;
}

/// A node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Whether the cluster takes it for ready; none if this way does not know.
    pub ready: Option<bool>,
    /// The agent's pod, if agents run in pods.
    pub agent: Option<AgentPod>,
    /// Why no agent can be asked there, if that is known without asking.
    pub absent: Option<String>,
}

impl Node {
    /// A node of which only the name is known.
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }
}

/// The pod in which an agent runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct AgentPod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The container's image.
    pub image: String,
    /// How often the container was started again.
    pub restarts: i32,
    /// Whether it is ready.
    pub ready: bool,
}

/// An agent's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The status, as in HTTP.
    pub status: u16,
    /// The body: JSON, or a text.
    pub body: String,
}

impl Reply {
    /// The value in a good answer; else what the agent says.
    pub fn value<T: DeserializeOwned>(&self, node: &str) -> Result<T, ReachError> {
        let text = self.text(node)?;
        serde_json::from_str(text).map_err(|error| ReachError::Unknown {
            node: node.to_owned(),
            reason: error.to_string(),
        })
    }

    /// The text of a good answer; else what the agent says.
    pub fn text(&self, node: &str) -> Result<&str, ReachError> {
        match self.status {
            200 => Ok(&self.body),
            status => Err(ReachError::Refused {
                node: node.to_owned(),
                status,
                text: self.body.trim().to_owned(),
            }),
        }
    }
}

/// What a command on a node came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ran {
    /// Its exit status.
    pub code: i32,
    /// What it wrote to standard output.
    pub output: String,
    /// What it wrote to standard error.
    pub errors: String,
}

/// Why there is no answer. What others wrote is shown without what a terminal would obey.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReachError {
    /// The nodes are not known.
    #[error("cannot list {what}: {}", printable(reason))]
    List {
        /// What was to be listed.
        what: String,
        /// Why not.
        reason: String,
    },
    /// The API server does not do what is needed.
    #[error("cannot {verb} {resource}: {}", printable(reason))]
    Server {
        /// The verb of the API.
        verb: &'static str,
        /// The resource of the API.
        resource: &'static str,
        /// Why not.
        reason: String,
    },
    /// The user may not do what is needed.
    #[error(
        "you may not {verb} {resource}{}; ask for that permission (docs/see.md says which verb needs \
         what, and conf/desk-rbac.yaml has it for all but uninstall)",
        place(namespace)
    )]
    Forbidden {
        /// The verb of the API.
        verb: &'static str,
        /// The resource of the API.
        resource: &'static str,
        /// In which namespace; empty for the whole cluster.
        namespace: String,
    },
    /// There is no agent on the node.
    #[error("no agent on {}: {}", the_node(node), printable(reason))]
    Absent {
        /// The node.
        node: String,
        /// Why not.
        reason: String,
    },
    /// The agent's node cannot be reached, or the way to it broke.
    #[error("cannot ask the agent on {}: {}", the_node(node), printable(reason))]
    Broken {
        /// The node.
        node: String,
        /// What broke.
        reason: String,
    },
    /// The agent gives no answer.
    #[error("the agent on {} gave no answer in {seconds} s", the_node(node))]
    Late {
        /// The node.
        node: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// The agent answers that it cannot.
    #[error("the agent on {} says: {}", the_node(node), printable(text))]
    Refused {
        /// The node.
        node: String,
        /// The status, as in HTTP.
        status: u16,
        /// The agent's words.
        text: String,
    },
    /// The answer makes no sense here.
    #[error(
        "the answer of the agent on {} is not understood ({}); is it of another version than \
         this program?",
        the_node(node),
        printable(reason)
    )]
    Unknown {
        /// The node.
        node: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl ReachError {
    /// The same of an agent whose node is named beside it, so that it is the same for all of them.
    pub fn of_the_agent(&self) -> String {
        match self {
            Self::Absent { reason, .. } => format!("does not run: {reason}"),
            Self::Broken { reason, .. } => format!("cannot be asked: {reason}"),
            Self::Late { seconds, .. } => format!("gave no answer in {seconds} s"),
            Self::Refused { text, .. } => format!("says: {text}"),
            Self::Unknown { reason, .. } => format!(
                "gives an answer that is not understood ({reason}); is it of another version than this \
                 program?"
            ),
            Self::List { .. } | Self::Server { .. } | Self::Forbidden { .. } => self.to_string(),
        }
    }
}

/// A node whose name is not known yet: the one on which this program runs.
pub(crate) const HERE: &str = "this machine";

/// A node in a sentence.
fn the_node(node: &str) -> impl fmt::Display {
    match node == HERE {
        true => node.to_owned(),
        false => format!("node {}", printable(node)),
    }
}

/// Where, in a sentence.
fn place(namespace: &str) -> impl fmt::Display {
    match namespace.is_empty() {
        true => String::new(),
        false => format!(" in namespace {}", printable(namespace)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_named_as_one_and_this_machine_is_not() {
        let broken = |node: &str| {
            let (node, reason) = (node.to_owned(), "no".to_owned());
            ReachError::Broken { node, reason }.to_string()
        };
        assert_eq!(broken("one"), "cannot ask the agent on node one: no");
        assert_eq!(broken(HERE), "cannot ask the agent on this machine: no");
    }
}
