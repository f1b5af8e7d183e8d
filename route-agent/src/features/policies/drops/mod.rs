//! What policies dropped: the last packets, with who they were from and to, and why.
//!
//! The rules log a few of the packets that they drop (`layout/log`). While there is a table, `listen`
//! reads them, and asks the loop whose their addresses are and what the policies say (`denial`);
//! `ring` keeps the last ones for `podwire-agent drops`, and `told` says which become Events.

mod denial;
mod listen;
mod ring;
mod told;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

pub use denial::Denial;
pub use listen::follow;
pub use ring::{Idle, Page};

use crate::features::policies::drops::ring::Ring;

/// The agent has not looked yet.
const STARTING: Idle = Some("the agent has not synced the policies yet");
/// There is no table.
pub const NO_POLICIES: Idle = Some("there is no policy in the cluster");
/// There is no table either.
pub const SWITCHED_OFF: Idle = Some("NetworkPolicies are switched off (--network-policy=false)");
/// The rules have no statement that logs.
pub const CANNOT_LOG: Idle = Some(
    "this kernel cannot hand packets to programs: load the kernel modules nft_limit, nft_log and \
     nfnetlink_log and start the agent again; what is dropped is counted all the same \
     (podwire-agent status)",
);

/// The last drops. Clones share them.
#[derive(Debug, Clone)]
pub struct DropLog(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    ring: Mutex<Ring>,
    /// The number of the newest drop.
    newest: watch::Sender<u64>,
    idle: watch::Sender<Idle>,
}

impl Default for DropLog {
    fn default() -> Self {
        Self(Arc::new(Shared {
            ring: Mutex::default(),
            newest: watch::Sender::new(0),
            idle: watch::Sender::new(STARTING),
        }))
    }
}

impl DropLog {
    /// Whether there is something to be read, and why not.
    pub fn set_idle(&self, idle: Idle) {
        self.0
            .idle
            .send_if_modified(|before| std::mem::replace(before, idle) != idle);
    }

    /// The drops after the one with this number, and what else is to be known; waits a while for the
    /// first one.
    pub async fn after(&self, number: u64, patience: Duration) -> Page {
        let mut newest = self.0.newest.subscribe();
        // Whether one came or none: the page says it.
        let _ = tokio::time::timeout(patience, newest.wait_for(|newest| *newest > number)).await;
        let idle = *self.0.idle.borrow();
        self.with(|ring| ring.page(number, idle))
    }

    /// How many were logged and could not be read, at least.
    pub fn lost(&self) -> u64 {
        self.with(|ring| ring.lost())
    }

    fn add(&self, denials: Vec<Denial>, lost: u64) {
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
