//! Nodes that exist in a test only: what is asked of them, and what they answer, is data.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::reach::{Client, Later, Listing, Machines, Node, Ran, Reach, ReachError, Reply};

/// What a node of a test answers.
#[derive(Debug, Clone)]
pub(crate) enum Says {
    /// This, with status 200.
    Well(String),
    /// This, with another status.
    Badly(u16, String),
    /// Nothing, ever.
    Nothing,
}

/// By node and what is asked for.
type Script = BTreeMap<(String, String), Says>;

/// The nodes of a test.
#[derive(Default)]
pub(crate) struct Fake {
    pub nodes: Vec<Node>,
    pub remarks: Vec<String>,
    pub machines: Machines,
    /// What is not here is not found.
    answers: Arc<Script>,
    /// By node and the arguments; what is not here fails.
    pub commands: BTreeMap<(String, String), Ran>,
    /// By node, and whether they are of the agent before.
    pub logs: BTreeMap<(String, bool), String>,
    /// How many of the first ways to a node break at the first question.
    pub breaks: usize,
    /// What was run, in order.
    pub ran: Mutex<Vec<(String, String)>>,
    made: AtomicUsize,
}

impl Fake {
    /// Nodes with these names.
    pub fn of(names: &[&str]) -> Self {
        Self {
            nodes: names.iter().map(|name| Node::named(*name)).collect(),
            ..Self::default()
        }
    }

    /// With one more answer.
    pub fn says(mut self, node: &str, target: &str, what: Says) -> Self {
        let answers = Arc::make_mut(&mut self.answers);
        answers.insert((node.into(), target.into()), what);
        self
    }

    /// With one more answer, of this value.
    pub fn tells(self, node: &str, target: &str, value: &impl serde::Serialize) -> Self {
        let text = serde_json::to_string(value).unwrap();
        self.says(node, target, Says::Well(text))
    }

    /// How many clients were made.
    pub fn made(&self) -> usize {
        self.made.load(Ordering::Relaxed)
    }
}

impl Reach for Fake {
    fn nodes(&self) -> Later<'_, Result<Listing, ReachError>> {
        let listing = Listing {
            nodes: self.nodes.clone(),
            remarks: self.remarks.clone(),
            machines: self.machines.clone(),
        };
        Box::pin(async { Ok(listing) })
    }

    fn client(&self, node: &Node) -> Later<'_, Result<Arc<dyn Client>, ReachError>> {
        let before = self.made.fetch_add(1, Ordering::Relaxed);
        let client: Arc<dyn Client> = Arc::new(FakeClient {
            answers: Arc::clone(&self.answers),
            node: node.name.clone(),
            broken: before < self.breaks,
        });
        Box::pin(async { Ok(client) })
    }

    fn run(&self, node: &Node, arguments: &[&str]) -> Later<'_, Result<Ran, ReachError>> {
        let key = (node.name.clone(), arguments.join(" "));
        let ran = self.commands.get(&key).cloned().unwrap_or_else(|| Ran {
            code: 2,
            errors: format!("no {}", key.1),
            ..Ran::default()
        });
        self.ran.lock().unwrap().push(key);
        Box::pin(async { Ok(ran) })
    }

    fn logs(&self, node: &Node, previous: bool) -> Later<'_, Result<Option<String>, ReachError>> {
        let text = self.logs.get(&(node.name.clone(), previous)).cloned();
        Box::pin(async { Ok(text) })
    }
}

struct FakeClient {
    answers: Arc<Script>,
    node: String,
    broken: bool,
}

impl Client for FakeClient {
    fn ask<'a>(&'a self, target: &'a str) -> Later<'a, Result<Reply, ReachError>> {
        Box::pin(async move {
            if self.broken {
                return Err(ReachError::Broken {
                    node: self.node.clone(),
                    reason: "it broke".into(),
                });
            }
            let key = (self.node.clone(), target.to_owned());
            let (status, body) = match self.answers.get(&key) {
                Some(Says::Well(body)) => (200, body.clone()),
                Some(Says::Badly(status, body)) => (*status, body.clone()),
                Some(Says::Nothing) => std::future::pending().await,
                None => (404, format!("there is no {target}")),
            };
            Ok(Reply { status, body })
        })
    }
}
