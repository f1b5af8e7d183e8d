//! Connections that begin and end on this node, with the names of who takes part.
//!
//! `listen` reads the kernel's announcements, but only while someone asks (or with `--flows`), `names`
//! finds whose the addresses are, `flow` is what comes of it, and `filter` says which ones someone means.
//! `top` is another question: what there is now, summed up.

pub mod filter;
pub mod flow;
mod listen;
mod names;
pub mod top;

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::clock::rfc3339;
use crate::ring::Log;

pub use flow::Flow;
pub use listen::follow;

/// How many flows are kept: about 400 bytes each with their share of names, so 4 MB.
const KEPT: usize = 10_000;
/// No more than this in one answer, which takes about 400 bytes for each.
pub const AT_ONCE: usize = 5_000;
/// Announcements are read for so long after the last question.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The last flows. Clones share them.
#[derive(Debug, Clone)]
pub struct FlowLog {
    log: Log<Flow>,
    /// With `--flows` they are read whether someone asks or not.
    always: bool,
    /// When someone last asked.
    asked: watch::Sender<Option<Instant>>,
    reading: watch::Sender<Reading>,
}

/// Whether announcements are read.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Reading {
    Not,
    Since(SystemTime),
    /// They cannot be.
    Failed(String),
}

/// Some flows, for who asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// Since when connections are noticed without a gap, in UTC; none if they are not.
    pub since: Option<String>,
    /// Why nothing can be read, if so.
    pub trouble: Option<String>,
    /// The number of the newest one.
    pub newest: u64,
    /// How often announcements were lost; no one knows how many each time, at least one.
    pub lost: u64,
    /// How many of those that were asked for are no longer kept.
    pub forgotten: u64,
    /// The flows, oldest first.
    pub flows: Vec<Flow>,
}

impl FlowLog {
    /// Nothing was noticed yet.
    pub fn new(always: bool) -> Self {
        Self {
            log: Log::keeping(KEPT),
            always,
            asked: watch::Sender::new(None),
            reading: watch::Sender::new(Reading::Not),
        }
    }

    /// The flows after the one with this number; waits a while for the first one. From now on
    /// connections are noticed, for a while.
    pub async fn after(&self, number: u64, patience: Duration) -> Page {
        self.asked.send_replace(Some(Instant::now()));
        let mut reading = self.reading.subscribe();
        // So that what happens after the answer is not missed.
        let begins = reading.wait_for(|reading| *reading != Reading::Not);
        let _ = tokio::time::timeout(Duration::from_secs(1), begins).await;
        let part = self.log.after(number, patience, AT_ONCE).await;
        // Who waited long is still there.
        self.asked.send_replace(Some(Instant::now()));
        let (since, trouble) = match &*self.reading.borrow() {
            Reading::Not => (None, None),
            Reading::Since(time) => (Some(rfc3339(*time)), None),
            Reading::Failed(why) => (None, Some(why.clone())),
        };
        Page {
            since,
            trouble,
            newest: part.newest,
            lost: part.lost,
            forgotten: part.forgotten,
            flows: part.items,
        }
    }

    /// How often announcements were lost.
    pub fn lost(&self) -> u64 {
        self.log.lost()
    }

    /// Whether connections are noticed now.
    pub fn is_reading(&self) -> bool {
        matches!(*self.reading.borrow(), Reading::Since(_))
    }

    /// Until when connections are to be noticed; none if no one has asked for long.
    fn wanted_until(&self) -> Option<Instant> {
        let asked = self.asked.borrow().map(|asked| asked + PATIENCE);
        asked.filter(|until| *until > Instant::now())
    }
}
