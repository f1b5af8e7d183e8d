//! The nodes of a lab, as `kubectl podwire` and its library reach nodes: by a program that leads to
//! each, which is this one.

use std::sync::Arc;

use podwire_desk::reach::command::Commands;
use podwire_desk::reach::{Node, Reach};
use podwire_desk::ui::Look;
use tokio::process::Command;

use crate::binaries;
use crate::error::{Error, Result};
use crate::lab::Lab;

/// The way to the nodes of a lab.
pub fn reach(lab: &Lab) -> Result<Arc<dyn Reach>> {
    let (program, name) = (binaries::own()?, lab.name().to_owned());
    let nodes = lab.cluster()?;
    let nodes = nodes.iter().map(|node| Node::named(node.name())).collect();
    let lab = name.clone();
    let lead = move |node: &str, arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.args(["--lab", &name, "exec", node, "podwire-agent"]);
        command.args(arguments);
        command
    };
    let log = move |node: &str| {
        let lab = Lab::open(Some(&lab)).ok()?;
        Some(lab.node(node).ok()?.agent_log())
    };
    Ok(Arc::new(Commands::new(
        nodes,
        Box::new(lead),
        Box::new(log),
    )))
}

/// Shows the live page until this process is interrupted.
pub fn ui(lab: &Lab, look: &Look) -> Result<()> {
    let title = format!("lab {}", lab.name());
    let reach = reach(lab)?;
    let failed = |reason: String| Error::Ui { reason };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| failed(error.to_string()))?;
    runtime
        .block_on(look.at(reach, title))
        .map_err(|error| failed(podwire_desk::ui::in_full(&error)))
}
