//! What was refused and dropped on this node: the last packets, with who they were from and to, which
//! object decided, and why.
//!
//! The rules log a few of the packets that they refuse (`features/parts/log.rs`). `listen` reads them,
//! and asks the kernel (`place`) and the loop whose their addresses are and what decided (`dropped`;
//! for policies `policy`). `ring` keeps the last ones for `podwire-agent drops`, and `told` says which
//! become Events.

mod dropped;
mod listen;
mod place;
mod policy;
mod ring;
mod told;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

pub use dropped::{Dropped, Party};
pub use listen::follow;
pub use ring::{Idle, Page};

use crate::drops::ring::Ring;
use crate::features::parts::log::Logging;

/// The rules have no statement that logs.
const CANNOT_LOG: &str = "this kernel cannot hand packets to programs: load the kernel modules \
                          nft_limit, nft_log and nfnetlink_log and start the agent again; what is \
                          refused and dropped is counted all the same (podwire-agent status, nft list \
                          ruleset)";

/// The last drops. Clones share them.
#[derive(Debug, Clone)]
pub struct DropLog(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    ring: Mutex<Ring>,
    /// The number of the newest drop.
    newest: watch::Sender<u64>,
    idle: Idle,
}

impl DropLog {
    /// Nothing was dropped yet.
    pub fn new(logging: Logging) -> Self {
        Self(Arc::new(Shared {
            ring: Mutex::default(),
            newest: watch::Sender::new(0),
            idle: (!logging.is_on()).then_some(CANNOT_LOG),
        }))
    }

    /// The drops after the one with this number, and what else is to be known; waits a while for the
    /// first one.
    pub async fn after(&self, number: u64, patience: Duration) -> Page {
        let mut newest = self.0.newest.subscribe();
        // Whether one came or none: the page says it.
        let _ = tokio::time::timeout(patience, newest.wait_for(|newest| *newest > number)).await;
        self.with(|ring| ring.page(number, self.0.idle))
    }

    /// How many were logged and could not be read, at least.
    fn lost(&self) -> u64 {
        self.with(|ring| ring.lost())
    }

    fn add(&self, denials: Vec<Dropped>, lost: u64) {
        let newest = self.with(|ring| {
            ring.add(denials, lost);
            ring.newest()
        });
        self.0.newest.send_replace(newest);
    }

    fn set_trouble(&self, trouble: Option<String>) {
        self.with(|ring| ring.trouble = trouble);
    }

    fn with<T>(&self, work: impl FnOnce(&mut Ring) -> T) -> T {
        // Nothing that holds it can leave it half changed.
        work(&mut self.0.ring.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
