//! `podwire-agent why POD-or-IP DST[:PORT][/PROTO]`: the way of a packet, hop by hop, with what
//! decides at each.

use clap::Args;

use crate::commands::agent::{Agent, AskError};
use crate::commands::output::Output;
use crate::text::printable_json;
use crate::why::{Question, QuestionError, Trace};

/// The flags of `podwire-agent why`.
#[derive(Debug, Args)]
pub struct Why {
    /// The source: a pod of this node (`name` or `namespace/name`) or an address.
    #[arg(value_name = "POD|IP")]
    pub source: String,

    /// Where to: ADDRESS[:PORT][/tcp|udp|sctp], or a Service, pod of this node or Node by name
    /// instead of the address. Without a port it is a ping.
    #[arg(value_name = "DST[:PORT][/PROTO]")]
    pub destination: String,

    /// How to write it.
    #[arg(short, long, value_enum, default_value = "text")]
    pub output: Output,

    /// Which agent to ask.
    #[command(flatten)]
    pub agent: Agent,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum WhyError {
    /// The question makes no sense.
    #[error(transparent)]
    Question(#[from] QuestionError),
    /// The agent cannot be asked, or cannot answer.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The agent's answer makes no sense to this program.
    #[error("the agent's answer is not understood; is it of another version than this program?")]
    Answer(#[source] serde_json::Error),
    /// The trace cannot be written as JSON.
    #[error("cannot write the trace as JSON")]
    Json(#[source] serde_json::Error),
}

impl Why {
    /// Asks the agent and returns what is to be printed.
    pub async fn run(&self) -> Result<String, WhyError> {
        Question::parse(&self.source, &self.destination)?;
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("from", &self.source)
            .append_pair("to", &self.destination)
            .finish();
        let target = format!("/why?{query}");
        let answer = self.agent.ask(&target).await?;
        let trace: Trace = serde_json::from_str(&answer).map_err(WhyError::Answer)?;
        match self.output {
            Output::Text => Ok(trace.to_string()),
            Output::Json => match serde_json::to_string_pretty(&trace) {
                Ok(text) => Ok(printable_json(&text).into_owned() + "\n"),
                Err(error) => Err(WhyError::Json(error)),
            },
        }
    }
}
