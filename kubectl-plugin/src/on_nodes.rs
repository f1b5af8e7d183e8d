//! Verbs that run a command of `podwire-agent` on every node: `preflight` and `take-over`.

use std::io::{BufRead, IsTerminal, Write as _};

use clap::Args;
use podwire_agent::text::{printable, printable_lines};
use serde::Serialize;
use serde_json::Value;

use crate::fleet::{Answers, Fleet};
use crate::reach::Ran;
use crate::said::{DeskError, Output, Said, for_programs};

/// The flags of `preflight`.
#[derive(Debug, Clone, Args)]
pub struct Preflight {
    /// How to write it.
    #[arg(short, long, value_enum, default_value = "text")]
    pub output: Output,
}

/// The flags of `take-over`.
#[derive(Debug, Clone, Args)]
pub struct TakeOver {
    /// Only name what would be removed.
    #[arg(long)]
    pub dry_run: bool,

    /// Do not ask.
    #[arg(short, long)]
    pub yes: bool,
}

/// What a command came to on one node, for programs.
#[derive(Serialize)]
struct OfNode {
    node: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Preflight {
    /// Tries out what the kernel of each node and the permissions of its agent can do.
    pub async fn run(&self, fleet: &Fleet) -> Result<Said, DeskError> {
        if self.output == Output::Text {
            return Ok(said(&everywhere(fleet, &["preflight"]).await));
        }
        let ran = everywhere(fleet, &["preflight", "-o", "json"]).await;
        let good = is_good(&ran);
        let all: Vec<OfNode> = ran.into_iter().map(of_node).collect();
        Ok(Said {
            text: for_programs(&all, self.output)?,
            good,
        })
    }
}

impl TakeOver {
    /// Removes what a kube-proxy left on each node, if whoever asks agrees.
    pub async fn run(&self, fleet: &Fleet) -> Result<Said, DeskError> {
        let would = everywhere(fleet, &["take-over", "--dry-run"]).await;
        if self.dry_run {
            return Ok(said(&would));
        }
        let ask = "Remove the rules of a kube-proxy from every node?";
        if !self.yes && !agrees(&said(&would).text, ask)? {
            let text = "nothing was removed; give --yes, or look with --dry-run".to_owned();
            return Err(DeskError::Question(text));
        }
        Ok(said(&everywhere(fleet, &["take-over"]).await))
    }
}

/// Shows what is about to happen, and reads whether it may. Without a terminal it may not.
pub(crate) fn agrees(what: &str, question: &str) -> Result<bool, DeskError> {
    if !std::io::stdin().is_terminal() {
        return Ok(false);
    }
    let mut out = std::io::stderr();
    // Who cannot read the question does not agree to it.
    if write!(out, "{what}\n{question} [y/N] ")
        .and_then(|()| out.flush())
        .is_err()
    {
        return Ok(false);
    }
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line);
    Ok(read.is_ok() && matches!(line.trim(), "y" | "Y" | "yes"))
}

pub(crate) async fn everywhere(fleet: &Fleet, arguments: &'static [&'static str]) -> Answers<Ran> {
    fleet
        .each(move |fleet, node| async move { fleet.run(&node, arguments).await })
        .await
}

fn is_good(ran: &Answers<Ran>) -> bool {
    ran.values()
        .all(|one| one.as_ref().is_ok_and(|ran| ran.code == 0))
}

/// What each node says, and whether all went well.
pub(crate) fn said(ran: &Answers<Ran>) -> Said {
    let mut text = String::new();
    for (node, one) in ran {
        text.push_str(&printable_lines([&format!("Node {node}")]));
        let lines = match one {
            Ok(ran) => format!("{}{}", ran.output, ran.errors),
            Err(error) => error.to_string(),
        };
        for line in lines.lines() {
            text.push_str(&format!("  {}\n", printable(line)));
        }
    }
    Said {
        text,
        good: is_good(ran),
    }
}

fn of_node((node, ran): (String, Result<Ran, crate::reach::ReachError>)) -> OfNode {
    let (answer, error) = match ran {
        Ok(ran) => match serde_json::from_str(&ran.output) {
            Ok(answer) => (Some(answer), None),
            Err(_) => (None, Some(ran.errors.trim().to_owned())),
        },
        Err(error) => (None, Some(error.to_string())),
    };
    OfNode {
        node,
        answer,
        error,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::reach::fake::Fake;

    fn fake() -> Fake {
        let mut fake = Fake::of(&["a", "b"]);
        let mut ran = |node: &str, arguments: &str, code, output: &str| {
            let ran = Ran {
                code,
                output: output.into(),
                errors: String::new(),
            };
            fake.commands.insert((node.into(), arguments.into()), ran);
        };
        ran("a", "preflight", 0, "works\n");
        ran("b", "preflight", 1, "refuses \u{1b}[2J\n");
        ran("a", "preflight -o json", 0, "{\"x\": \"\u{9b}\"}");
        ran("a", "take-over --dry-run", 0, "would remove nothing\n");
        ran("b", "take-over --dry-run", 0, "would remove nothing\n");
        ran("a", "take-over", 0, "removed nothing\n");
        ran("b", "take-over", 0, "removed nothing\n");
        fake
    }

    #[tokio::test]
    async fn preflight_says_what_each_node_says_and_fails_if_one_does() {
        let fleet = Fleet::assemble(Arc::new(fake())).await.unwrap();
        let preflight = |output| Preflight { output };
        let text = preflight(Output::Text).run(&fleet).await.unwrap();
        assert!(!text.good);
        assert_eq!(text.text, "Node a\n  works\nNode b\n  refuses \\u{1b}[2J\n");
        let json = preflight(Output::Json).run(&fleet).await.unwrap().text;
        let value: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value[0]["answer"]["x"], "\u{9b}");
        assert_eq!(value[1]["error"], "no preflight -o json");
        assert!(!json.contains('\u{9b}'));
    }

    #[tokio::test]
    async fn nothing_is_taken_over_without_a_yes() {
        let fake = Arc::new(fake());
        let fleet = Fleet::assemble(fake.clone()).await.unwrap();
        let flags = |dry_run, yes| TakeOver { dry_run, yes };
        let acts = || {
            let ran = fake.ran.lock().unwrap();
            ran.iter()
                .filter(|(_, arguments)| arguments == "take-over")
                .count()
        };
        assert!(flags(true, true).run(&fleet).await.unwrap().good);
        assert!(flags(false, false).run(&fleet).await.is_err());
        assert_eq!(acts(), 0);
        assert!(flags(false, true).run(&fleet).await.unwrap().good);
        assert_eq!(acts(), 2);
    }
}
