//! Nodes that a program leads to: it runs `podwire-agent` there, on its own standard streams.

use std::ffi::OsStr;
use std::process::Stdio;
use std::sync::Arc;

use tokio::process::{Child, Command};

use crate::reach::relay::{RelayClient, Streams};
use crate::reach::{Client, Later, Listing, Machines, Node, Ran, Reach, ReachError};

/// Makes the command that runs `podwire-agent` with these arguments on the node of this name.
pub type Lead = Box<dyn Fn(&str, &[&str]) -> Command + Send + Sync>;

/// Tells what the agent of the node of this name logged.
pub type Log = Box<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// Nodes behind commands.
pub struct Commands {
    nodes: Vec<Node>,
    machines: Machines,
    lead: Lead,
    log: Log,
}

impl Commands {
    /// These nodes, and what leads to each.
    pub fn new(nodes: Vec<Node>, lead: Lead, log: Log) -> Self {
        Self {
            nodes,
            machines: Machines::new(),
            lead,
            log,
        }
    }

    /// The same, and machines that are no nodes.
    pub fn beside(self, machines: Machines) -> Self {
        Self { machines, ..self }
    }
}

impl Reach for Commands {
    fn nodes(&self) -> Later<'_, Result<Listing, ReachError>> {
        let listing = Listing {
            nodes: self.nodes.clone(),
            machines: self.machines.clone(),
            ..Listing::default()
        };
        Box::pin(std::future::ready(Ok(listing)))
    }

    fn client(&self, node: &Node) -> Later<'_, Result<Arc<dyn Client>, ReachError>> {
        let started = start(&node.name, (self.lead)(&node.name, &["relay"]));
        let client = started.map(|streams| {
            let client: Arc<dyn Client> = Arc::new(RelayClient::new(&node.name, streams));
            client
        });
        Box::pin(std::future::ready(client))
    }

    fn run(&self, node: &Node, arguments: &[&str]) -> Later<'_, Result<Ran, ReachError>> {
        let command = (self.lead)(&node.name, arguments);
        Box::pin(finish(node.name.clone(), command))
    }

    fn logs(&self, node: &Node, previous: bool) -> Later<'_, Result<Option<String>, ReachError>> {
        let text = (self.log)(&node.name).filter(|_| !previous);
        Box::pin(std::future::ready(Ok(text)))
    }
}

/// `podwire-agent` of this machine.
pub(crate) fn podwire_agent(arguments: &[&str]) -> Command {
    let mut command = Command::new("podwire-agent");
    command.args(arguments);
    command
}

/// Starts a relay.
fn start(node: &str, mut command: Command) -> Result<Streams, ReachError> {
    let mut child = spawn(node, command.stdin(Stdio::piped()))?;
    let streams = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(questions), Some(answers), Some(errors)) = streams else {
        return Err(broken(node, "its streams cannot be had"));
    };
    Ok(Streams {
        questions: Box::new(questions),
        answers: Box::new(answers),
        errors: Box::new(errors),
        keep: Box::new(child),
    })
}

/// Runs a command to its end.
pub(crate) async fn finish(node: String, mut command: Command) -> Result<Ran, ReachError> {
    let child = spawn(&node, command.stdin(Stdio::null()))?;
    let output = child.wait_with_output().await;
    let output = output.map_err(|error| broken(&node, error.to_string()))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Ran {
        // A signal ended it.
        code: output.status.code().unwrap_or(-1),
        output: text(&output.stdout),
        errors: text(&output.stderr),
    })
}

fn spawn(node: &str, command: &mut Command) -> Result<Child, ReachError> {
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let program = command.as_std().get_program().to_owned();
    command.spawn().map_err(|error| {
        let program: &OsStr = &program;
        broken(
            node,
            format!("{} does not start: {error}", program.display()),
        )
    })
}

fn broken(node: &str, reason: impl Into<String>) -> ReachError {
    ReachError::Broken {
        node: node.to_owned(),
        reason: reason.into(),
    }
}
