//! What a probe is, and how one went.

use serde::Serialize;

/// What happens without a feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Without {
    /// The agent goes on with less.
    FallsBack,
    /// The agent cannot do its work.
    Refuses,
}

/// How a probe went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was tried, in a few words.
    pub feature: &'static str,
    /// What it is for.
    pub needed_for: &'static str,
    /// What fails, if it does.
    #[serde(flatten)]
    pub missing: Option<Missing>,
}

/// Something that does not work here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// What the kernel said.
    pub error: String,
    /// Does the agent go on?
    pub then: Without,
    /// What follows, and what to do: one sentence.
    pub consequence: &'static str,
}

impl Finding {
    /// `works`, `falls back` or `refuses`.
    pub fn outcome(&self) -> &'static str {
        match self.missing.as_ref().map(|missing| missing.then) {
            None => "works",
            Some(Without::FallsBack) => "falls back",
            Some(Without::Refuses) => "refuses",
        }
    }
}

/// The permission that nearly all others need.
pub const PERMISSION: &str = "NET_ADMIN";

/// One try.
pub struct Probe {
    /// What is tried, in a few words.
    pub feature: &'static str,
    /// What it is for.
    pub needed_for: &'static str,
    /// What happens without it.
    pub then: Without,
    /// What follows, and what to do: one sentence.
    pub consequence: &'static str,
    /// The try, with what the kernel said.
    pub try_it: fn() -> Result<(), String>,
    /// Depends on this network namespace (its settings, its permissions), so it must not be tried
    /// in another.
    pub here: bool,
}

impl Probe {
    /// Tries it.
    pub fn run(&self) -> Finding {
        let missing = (self.try_it)().err().map(|error| Missing {
            error,
            then: self.then,
            consequence: self.consequence,
        });
        Finding {
            feature: self.feature,
            needed_for: self.needed_for,
            missing,
        }
    }
}
