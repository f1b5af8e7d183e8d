//! `podwire-agent flows`: connections as they begin and end on this node.

use std::io::Write;
use std::time::{Duration, SystemTime};

use clap::Args;

use crate::commands::agent::{Agent, AskError};
use crate::commands::output::{Output, PrintError, line, print};
use crate::config::values::duration;
use crate::flows::filter::Filter;
use crate::flows::{AT_ONCE, Flow, Page};
use crate::text::printable;

/// The flags of `podwire-agent flows`.
#[derive(Debug, Args)]
pub struct Flows {
    /// Go on with what comes from now on, until stopped.
    #[arg(short, long)]
    pub follow: bool,

    /// Only those of this last while, such as 30s or 5m.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub since: Option<Duration>,

    /// Which ones.
    #[command(flatten)]
    pub filter: Filter,

    /// How to write them; as JSON one object in each line.
    #[arg(short, long, value_enum, default_value = "text")]
    pub output: Output,

    /// Which agent to ask.
    #[command(flatten)]
    pub agent: Agent,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum FlowsError {
    /// The agent cannot be asked, or cannot answer.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The agent's answer makes no sense to this program.
    #[error("the agent's answer is not understood; is it of another version than this program?")]
    Answer(#[source] serde_json::Error),
    /// The flows cannot be written as JSON.
    #[error("cannot write the flows as JSON")]
    Json(#[source] serde_json::Error),
    /// No one reads what is printed.
    #[error("cannot print the flows")]
    Print(#[source] PrintError),
}

impl Flows {
    /// Prints what the agent knows; with `--follow` it ends only with an error.
    pub async fn run(&self) -> Result<(), FlowsError> {
        let mut page = self.page("/flows").await?;
        let mut remarks = Remarks::default();
        let oldest = self
            .since
            .and_then(|since| SystemTime::now().checked_sub(since));
        loop {
            let mut text = String::new();
            for flow in page.flows.iter().filter(|flow| self.wants(flow, oldest)) {
                text += &line(flow, self.output).map_err(FlowsError::Json)?;
                text.push('\n');
            }
            print(&text).map_err(FlowsError::Print)?;
            // Not among the flows, which a program may read.
            for remark in remarks.of(&page, self.follow) {
                // Who does not read them may still read the flows.
                let _ = writeln!(std::io::stderr(), "{remark}");
            }
            let more = page.flows.len() >= AT_ONCE && !self.follow;
            if !self.follow && !more {
                return Ok(());
            }
            let follow = if self.follow { "follow=1&" } else { "" };
            let target = format!("/flows?{follow}after={}", page.newest);
            page = self.page(&target).await?;
        }
    }

    fn wants(&self, flow: &Flow, oldest: Option<SystemTime>) -> bool {
        oldest.is_none_or(|oldest| flow.time >= oldest) && self.filter.takes(flow)
    }

    async fn page(&self, target: &str) -> Result<Page, FlowsError> {
        let answer = self.agent.ask(target).await?;
        serde_json::from_str(&answer).map_err(FlowsError::Answer)
    }
}

/// What is to be known beside the flows, each once.
#[derive(Debug, Default)]
struct Remarks {
    began: bool,
    trouble: Option<String>,
    lost: u64,
}

impl Remarks {
    fn of(&mut self, page: &Page, follow: bool) -> Vec<String> {
        let mut remarks = Vec::new();
        if let Some(since) = page.since.as_ref().filter(|_| !self.began) {
            self.began = true;
            let more = match follow {
                true => "",
                false => "; --follow shows what comes now",
            };
            remarks.push(format!("Connections are noticed since {since}{more}."));
        }
        if self.trouble != page.trouble {
            self.trouble.clone_from(&page.trouble);
            let why = page.trouble.iter();
            remarks.extend(why.map(|why| format!("Nothing is noticed now: {}.", printable(why))));
        }
        if page.lost > self.lost {
            let more = page.lost - self.lost;
            self.lost = page.lost;
            remarks.push(format!(
                "Connections came faster than they were read: some were missed {more} times."
            ));
        }
        if page.forgotten > 0 && !page.flows.is_empty() {
            remarks.push(format!("{} older ones are no longer kept.", page.forgotten));
        }
        remarks
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flows::flow::Name;
    use crate::flows::flow::tests::a_flow;

    #[test]
    fn what_is_to_be_known_is_said_once() {
        let mut remarks = Remarks::default();
        let page = Page {
            since: Some("2026-11-23T04:30:05.120Z".into()),
            trouble: Some("no\u{1b}thing".into()),
            lost: 3,
            ..Page::default()
        };
        assert_eq!(
            remarks.of(&page, true),
            [
                "Connections are noticed since 2026-11-23T04:30:05.120Z.",
                r"Nothing is noticed now: no\u{1b}thing.",
                "Connections came faster than they were read: some were missed 3 times.",
            ]
        );
        assert_eq!(remarks.of(&page, true), [""; 0]);
    }

    #[test]
    fn names_of_anyones_choice_forge_nothing() {
        let mut flow = a_flow();
        flow.source.pod = Some(Name("default/\u{1b}[2J\nx".into()));
        let text = line(&flow, Output::Text).unwrap();
        assert!(text.contains(r"default/\u{1b}[2J\nx "), "{text}");
        let json = line(&flow, Output::Json).unwrap();
        assert!(
            !json.contains('\u{1b}') && json.lines().count() == 1,
            "{json}"
        );
        assert_eq!(serde_json::from_str::<Flow>(&json).unwrap(), flow);
    }
}
