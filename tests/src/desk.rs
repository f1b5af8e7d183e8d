//! The verbs of `kubectl podwire`, on the nodes of a lab.

use std::sync::Arc;

use ipnetwork::IpNetwork;
use podwire_desk::cli::Verb;
use podwire_desk::fleet::Fleet;
use podwire_desk::reach::command::Commands;
use podwire_desk::reach::{Machines, Node};
use podwire_desk::ui::Look;

use crate::binaries;
use crate::error::{Error, Result};
use crate::lab::Lab;

/// The nodes of a lab: `podwire-lab exec NODE podwire-agent ...` leads to each.
pub fn reach(lab: &Lab) -> Result<Commands> {
    let mut nodes = Vec::new();
    for node in lab.cluster()? {
        let stopped = node.agent().is_none();
        nodes.push(Node {
            ready: Some(node.runtime().status().is_ok()),
            absent: stopped.then(|| "it is stopped".to_owned()),
            ..Node::named(node.name())
        });
    }
    let (program, name) = (binaries::own()?, lab.name().to_owned());
    let lead = move |node: &str, arguments: &[&str]| {
        let mut command = std::process::Command::new(&program);
        command.args(["--lab", &name, "exec", node, "podwire-agent"]);
        command.args(arguments);
        command.into()
    };
    let name = lab.name().to_owned();
    let log = move |node: &str| {
        let lab = Lab::open(Some(&name)).ok()?;
        Some(lab.node(node).ok()?.agent_log())
    };
    Ok(Commands::new(nodes, Box::new(lead), Box::new(log)).beside(beside(lab)?))
}

/// The machines that are no nodes.
fn beside(lab: &Lab) -> Result<Machines> {
    let mut machines = lab.machines()?;
    machines.retain(|machine| !machine.is_node());
    let addresses = |machine: &crate::node::Node| {
        let addresses = machine.machine().addresses.iter();
        addresses.map(IpNetwork::ip).collect()
    };
    Ok(machines
        .iter()
        .map(|machine| (machine.name().to_owned(), addresses(machine)))
        .collect())
}

/// Asks or does what a verb says, and prints what comes of it. False if something is wrong.
pub fn run(lab: &Lab, verb: &Verb) -> Result<bool> {
    let reach = Arc::new(reach(lab)?);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::file("start", "the runtime"))?;
    let done = runtime.block_on(async {
        let fleet = Fleet::assemble(reach).await?;
        verb.run(&fleet).await
    });
    runtime.shutdown_background();
    done.map_err(Error::Desk)
}

/// Shows the live page until this process is interrupted.
pub fn ui(lab: &Lab, look: &Look) -> Result<()> {
    let title = format!("lab {}", lab.name());
    let reach = Arc::new(reach(lab)?);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::file("start", "the runtime"))?;
    runtime
        .block_on(look.at(reach, title))
        .map_err(|error| Error::Ui {
            reason: podwire_desk::ui::in_full(&error),
        })
}
