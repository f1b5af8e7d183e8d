//! The messages of the one channel that leads to the reconcile loop.

use std::fmt;

use tokio::sync::oneshot;

use crate::feature::{KernelEvent, Told, WhoHas, World};
use crate::report::Report;
use crate::snapshot::Change;
use crate::warnings::Warning;

/// What reaches the loop.
#[derive(Debug)]
pub enum Input {
    /// Cluster objects appeared, changed or were deleted.
    Changes(Vec<Change>),
    /// The source has delivered everything that there is; from now on it sends differences.
    Listed,
    /// What is wrong with the source or with what it read, in full.
    SourceWarnings(Vec<Warning>),
    /// What is wrong with a part of the agent that is not a feature, in full.
    Warnings(&'static str, Vec<Warning>),
    /// The API server is used at an address that is new.
    ApiServerAddress,
    /// A notification of the kernel.
    Kernel(KernelEvent),
    /// A file of ours, or beside ours, changed.
    Files,
    /// The plugin tells of an attachment.
    Told(Box<Told>),
    /// Someone asks whose addresses these are.
    WhoHas(WhoHas),
    /// An operator wants the report.
    Report {
        /// With single endpoints.
        wide: bool,
        /// Where the answer goes.
        reply: oneshot::Sender<Report>,
    },
    /// A question about the world, which brings its own answer along.
    Ask(Question),
    /// Finish. Everything stays as it is.
    Stop,
}

impl Input {
    /// Whether it is answered as soon as it is taken in.
    pub fn is_question(&self) -> bool {
        matches!(self, Self::WhoHas(_) | Self::Report { .. } | Self::Ask(_))
    }
}

/// A question that is answered on the loop's thread, where the world does not change meanwhile.
pub struct Question(Box<dyn FnOnce(&World<'_>) + Send>);

impl Question {
    /// Asks `question` and sends its answer to `reply`.
    pub fn new<T: Send + 'static>(
        question: impl FnOnce(&World<'_>) -> T + Send + 'static,
        reply: oneshot::Sender<T>,
    ) -> Self {
        Self(Box::new(move |world| {
            // The asker may have hung up meanwhile.
            let _ = reply.send(question(world));
        }))
    }

    /// Answers it.
    pub fn answer(self, world: &World<'_>) {
        (self.0)(world);
    }
}

impl fmt::Debug for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Question")
    }
}
