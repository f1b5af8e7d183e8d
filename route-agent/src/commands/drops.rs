//! `podwire-agent drops`: what the rules of this node refused and dropped, who decided, and why.

use std::io::Write;

use clap::Args;

use crate::commands::agent::{Agent, AskError};
use crate::commands::output::{Output, PrintError, line, print};
use crate::drops::Page;
use crate::text::printable;

/// The flags of `podwire-agent drops`.
#[derive(Debug, Args)]
pub struct Drops {
    /// Go on with what is dropped from now on, until stopped.
    #[arg(short, long)]
    pub follow: bool,

    /// How to write it; as JSON one object in each line.
    #[arg(short, long, value_enum, default_value = "text")]
    pub output: Output,

    /// Which agent to ask.
    #[command(flatten)]
    pub agent: Agent,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum DropsError {
    /// The agent cannot be asked, or cannot answer.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The agent's answer makes no sense to this program.
    #[error("the agent's answer is not understood; is it of another version than this program?")]
    Answer(#[source] serde_json::Error),
    /// The drops cannot be written as JSON.
    #[error("cannot write the drops as JSON")]
    Json(#[source] serde_json::Error),
    /// No one reads what is printed.
    #[error("cannot print the drops")]
    Print(#[source] PrintError),
}

impl Drops {
    /// Prints what the agent knows; with `--follow` it ends only with an error.
    pub async fn run(&self) -> Result<(), DropsError> {
        let mut page = self.page("/drops").await?;
        let mut lost = 0;
        if self.output == Output::Text && !self.follow && is_nothing(&page) {
            print_lines(&[
                "Nothing has been refused or dropped since the agent's start.".to_owned(),
            ])?;
        }
        let mut idle = None;
        loop {
            print_lines(&self.lines(&page)?)?;
            // Not among the drops, which a program may read.
            for remark in remarks(&page, &mut idle, &mut lost) {
                // Who does not read them may still read the drops.
                let _ = writeln!(std::io::stderr(), "{remark}");
            }
            if !self.follow {
                return Ok(());
            }
            let target = format!("/drops?follow=1&after={}", page.newest);
            page = self.page(&target).await?;
        }
    }

    async fn page(&self, target: &str) -> Result<Page, DropsError> {
        let answer = self.agent.ask(target).await?;
        serde_json::from_str(&answer).map_err(DropsError::Answer)
    }

    fn lines(&self, page: &Page) -> Result<Vec<String>, DropsError> {
        let drops = page.drops.iter();
        let lines = drops.map(|one| line(one, self.output));
        lines.collect::<Result<_, _>>().map_err(DropsError::Json)
    }
}

/// True if nothing was dropped. While nothing is read, or where something was lost, no one knows.
fn is_nothing(page: &Page) -> bool {
    page.drops.is_empty() && page.idle.is_none() && page.lost == 0
}

/// What is to be known beside the drops, each once.
fn remarks(page: &Page, idle: &mut Option<String>, lost: &mut u64) -> Vec<String> {
    let mut remarks = Vec::new();
    if *idle != page.idle {
        idle.clone_from(&page.idle);
        let why = page.idle.iter();
        remarks
            .extend(why.map(|why| printable(&format!("Nothing is read now: {why}.")).into_owned()));
    }
    if page.lost > *lost {
        let more = page.lost - *lost;
        *lost = page.lost;
        remarks.push(format!("{more} more were logged and could not be read."));
    }
    if page.forgotten > 0 && !page.drops.is_empty() {
        remarks.push(format!("{} older ones are no longer kept.", page.forgotten));
    }
    remarks
}

fn print_lines(lines: &[String]) -> Result<(), DropsError> {
    let text: String = lines.iter().flat_map(|line| [line, "\n"]).collect();
    print(&text).map_err(DropsError::Print)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drops::Dropped;

    #[test]
    fn that_nothing_was_dropped_is_only_said_where_it_is_known() {
        let page = Page::default();
        assert!(is_nothing(&page));
        let unread = Page {
            idle: Some("the kernel cannot log".into()),
            ..page.clone()
        };
        let lost = Page { lost: 1, ..page };
        assert!(!is_nothing(&unread) && !is_nothing(&lost));
    }

    #[test]
    fn names_that_a_terminal_would_obey_are_escaped_in_both_forms() {
        let name = "default/evil\u{1b}[31m\u{202e}\nx";
        let one: Dropped = serde_json::from_value(serde_json::json!({
            "number": 1, "time": "1970-01-01T00:00:00Z", "reason": "spoofed", "verdict": "dropped",
            "decided_by": format!("Service {name}"), "because": name, "protocol": "tcp",
            "source": {"address": "10.10.1.2", "pod": name}, "sent_by": name,
            "destination": {"address": "10.10.1.3", "pod": name},
            "reply": false, "isolated_by": [], "allowed_by_now": false,
        }))
        .unwrap();
        for output in [Output::Text, Output::Json] {
            let line = line(&one, output).unwrap();
            assert!(!line.contains(crate::text::is_unprintable), "{line}");
            assert!(line.matches("default/evil").count() >= 5, "{line}");
        }
    }

    #[test]
    fn what_is_to_be_known_is_said_once() {
        let (mut idle, mut lost) = (None, 0);
        let page = Page {
            idle: Some("no\u{1b}thing".into()),
            lost: 3,
            ..Page::default()
        };
        assert_eq!(
            remarks(&page, &mut idle, &mut lost),
            [
                r"Nothing is read now: no\u{1b}thing.",
                "3 more were logged and could not be read."
            ]
        );
        assert_eq!(remarks(&page, &mut idle, &mut lost), [""; 0]);
    }
}
