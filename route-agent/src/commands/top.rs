//! `podwire-agent top`: who has the most connections on this node now.

use std::fmt::Write;

use clap::Args;

use crate::commands::agent::{Agent, AskError};
use crate::commands::output::Output;
use crate::flows::top::{self as sums, Line};
use crate::text::{printable, printable_json};

/// Lines of each part that are shown to people.
const SHOWN: usize = 10;

/// The flags of `podwire-agent top`.
#[derive(Debug, Args)]
pub struct Top {
    /// How to write it.
    #[arg(short, long, value_enum, default_value = "text")]
    pub output: Output,

    /// Which agent to ask.
    #[command(flatten)]
    pub agent: Agent,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum TopError {
    /// The agent cannot be asked, or cannot answer.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The agent's answer makes no sense to this program.
    #[error("the agent's answer is not understood; is it of another version than this program?")]
    Answer(#[source] serde_json::Error),
}

impl Top {
    /// Asks the agent and writes what it says.
    pub async fn run(&self) -> Result<String, TopError> {
        let answer = self.agent.ask("/top").await?;
        let top = serde_json::from_str(&answer).map_err(TopError::Answer)?;
        Ok(match self.output {
            Output::Text => text(&top),
            Output::Json => printable_json(&answer).into_owned() + "\n",
        })
    }
}

/// The sums, for people.
pub fn text(top: &sums::Top) -> String {
    let mut text = format!("{} connections", top.all.connections);
    // Writing to a String cannot fail.
    let _ = match top.counted {
        true => writeln!(
            text,
            ", {} bytes from clients, {} to them",
            top.all.sent, top.all.received
        ),
        false => writeln!(
            text,
            "; bytes are not counted here: sysctl -w net.netfilter.nf_conntrack_acct=1"
        ),
    };
    for (title, lines) in [
        ("SERVICE", &top.services),
        ("POD", &top.pods),
        ("NODES", &top.nodes),
    ] {
        table(&mut text, title, lines);
    }
    text
}

fn table(text: &mut String, title: &str, lines: &[Line]) {
    if lines.is_empty() {
        return;
    }
    let shown = &lines[..lines.len().min(SHOWN)];
    let names: Vec<_> = shown.iter().map(|line| printable(&line.name)).collect();
    let lengths = names.iter().map(|name| name.chars().count());
    let width = lengths.max().unwrap_or_default().max(title.len());
    let _ = writeln!(
        text,
        "\n{title:<width$} {:>12} {:>14} {:>14}",
        "CONNECTIONS", "SENT", "RECEIVED"
    );
    for (name, line) in names.iter().zip(shown) {
        let sum = line.sum;
        let _ = writeln!(
            text,
            "{name:<width$} {:>12} {:>14} {:>14}",
            sum.connections, sum.sent, sum.received
        );
    }
    if lines.len() > SHOWN {
        let _ = writeln!(text, "and {} more (-o json has all)", lines.len() - SHOWN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flows::top::Sum;

    #[test]
    fn who_has_most_stands_in_a_table() {
        let sum = |connections| Sum {
            connections,
            sent: 10,
            received: 2000,
        };
        let line = |name: &str, connections| Line {
            name: name.into(),
            sum: sum(connections),
        };
        let mut top = sums::Top {
            all: sum(12),
            counted: true,
            services: vec![line("default/web:http", 9), line("x\u{1b}y", 3)],
            ..sums::Top::default()
        };
        assert_eq!(
            text(&top),
            "12 connections, 10 bytes from clients, 2000 to them\n\n\
             SERVICE           CONNECTIONS           SENT       RECEIVED\n\
             default/web:http            9             10           2000\n\
             x\\u{1b}y                    3             10           2000\n"
        );
        top.counted = false;
        assert!(text(&top).contains("nf_conntrack_acct"));
    }
}
