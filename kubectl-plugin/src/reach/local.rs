//! The node that this machine is: its agent's socket.

use std::path::PathBuf;
use std::sync::Arc;

use podwire_agent::commands::agent::get;
use podwire_agent::error::chain;
use podwire_agent::ours::SOCKET;

use crate::reach::command::{finish, podwire_agent};
use crate::reach::{Client, HERE, Later, Listing, Node, Ran, Reach, ReachError, Reply};

/// This node alone.
#[derive(Debug, Clone)]
pub struct Local {
    run_dir: PathBuf,
}

impl Local {
    /// The node whose agent has this run directory.
    pub fn new(run_dir: impl Into<PathBuf>) -> Self {
        Self {
            run_dir: run_dir.into(),
        }
    }

    async fn node(&self) -> Result<Node, ReachError> {
        #[derive(serde::Deserialize)]
        struct Named {
            node: String,
        }
        let reply = self.socket(HERE).ask("/status").await?;
        let Named { node } = reply.value(HERE)?;
        Ok(Node::named(node))
    }

    fn socket(&self, node: &str) -> Socket {
        Socket {
            node: node.to_owned(),
            path: self.run_dir.join(SOCKET),
        }
    }
}

impl Reach for Local {
    fn nodes(&self) -> Later<'_, Result<Listing, ReachError>> {
        Box::pin(async {
            Ok(Listing {
                nodes: vec![self.node().await?],
                ..Listing::default()
            })
        })
    }

    fn client(&self, node: &Node) -> Later<'_, Result<Arc<dyn Client>, ReachError>> {
        let socket: Arc<dyn Client> = Arc::new(self.socket(&node.name));
        Box::pin(std::future::ready(Ok(socket)))
    }

    fn run(&self, node: &Node, arguments: &[&str]) -> Later<'_, Result<Ran, ReachError>> {
        Box::pin(finish(node.name.clone(), podwire_agent(arguments)))
    }

    fn logs(&self, _: &Node, _: bool) -> Later<'_, Result<Option<String>, ReachError>> {
        Box::pin(std::future::ready(Ok(None)))
    }
}

/// A connection for each question.
struct Socket {
    node: String,
    path: PathBuf,
}

impl Client for Socket {
    fn ask<'a>(&'a self, target: &'a str) -> Later<'a, Result<Reply, ReachError>> {
        Box::pin(async {
            match get(&self.path, target).await {
                Ok((status, body)) => Ok(Reply {
                    status: status.as_u16(),
                    body,
                }),
                Err(error) => Err(ReachError::Broken {
                    node: self.node.clone(),
                    reason: chain(&error),
                }),
            }
        })
    }
}
