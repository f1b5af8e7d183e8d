//! What was refused and dropped on this node: the last packets, with who they were from and to, which
//! object decided, and why.
//!
//! The rules log a few of the packets that they refuse (`features/parts/log.rs`). `listen` reads them,
//! and asks the kernel (`place`) and the loop whose their addresses are and what decided (`dropped`;
//! for policies `policy`). The agent's `ring.rs` keeps the last ones for `podwire-agent drops`, and `told` says which
//! become Events.

mod dropped;
mod listen;
mod place;
mod policy;
mod told;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use dropped::{Dropped, Party};
pub use listen::follow;

use crate::features::parts::log::Logging;
use crate::ring::{Log, Numbered, Part};

/// How many are kept.
const KEPT: usize = 1000;

/// The rules have no statement that logs.
const CANNOT_LOG: &str = "this kernel cannot hand packets to programs: load the kernel modules \
                          nft_limit, nft_log and nfnetlink_log and start the agent again; what is \
                          refused and dropped is counted all the same (podwire-agent status, nft list \
                          ruleset)";

/// The last drops. Clones share them.
#[derive(Debug, Clone)]
pub struct DropLog {
    log: Log<Dropped>,
    /// Why nothing is logged, if so.
    idle: Option<&'static str>,
    /// Why nothing can be read now, if so.
    trouble: Arc<Mutex<Option<String>>>,
}

/// Some drops, for who asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// Why nothing is logged now, if so.
    pub idle: Option<String>,
    /// The number of the newest one.
    pub newest: u64,
    /// How many were logged and could not be read, at least.
    pub lost: u64,
    /// How many of those that were asked for are no longer kept.
    pub forgotten: u64,
    /// The drops, oldest first.
    pub drops: Vec<Dropped>,
}

impl Numbered for Dropped {
    fn number(&self) -> u64 {
        self.number
    }

    fn set_number(&mut self, number: u64) {
        self.number = number;
    }
}

impl DropLog {
    /// Nothing was dropped yet.
    pub fn new(logging: Logging) -> Self {
        Self {
            log: Log::keeping(KEPT),
            idle: (!logging.is_on()).then_some(CANNOT_LOG),
            trouble: Arc::default(),
        }
    }

    /// The drops after the one with this number, and what else is to be known; waits a while for the
    /// first one.
    pub async fn after(&self, number: u64, patience: Duration) -> Page {
        let Part {
            items,
            newest,
            lost,
            forgotten,
        } = self.log.after(number, patience, KEPT).await;
        let idle = self.idle.map(str::to_owned);
        Page {
            idle: idle.or_else(|| self.with_trouble(|trouble| trouble.clone())),
            newest,
            lost,
            forgotten,
            drops: items,
        }
    }

    fn set_trouble(&self, now: Option<String>) {
        self.with_trouble(|trouble| *trouble = now);
    }

    fn with_trouble<T>(&self, work: impl FnOnce(&mut Option<String>) -> T) -> T {
        // Nothing that holds it can leave it half changed.
        work(&mut self.trouble.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drops::dropped::tests::a_drop;

    #[tokio::test]
    async fn the_last_ones_are_kept_and_those_after_a_number_are_found() {
        let drops = DropLog::new(Logging::On);
        drops.log.add(vec![a_drop(); KEPT], 0);
        drops.log.add(vec![a_drop(); 2], 7);
        let page = async |number| drops.after(number, Duration::ZERO).await;
        let numbers =
            |page: &Page| -> Vec<u64> { page.drops.iter().map(|one| one.number).collect() };
        let last = page(1000).await;
        assert_eq!(
            (numbers(&last), last.forgotten, last.lost),
            (vec![1001, 1002], 0, 7)
        );
        let all = page(0).await;
        assert_eq!((all.drops.len(), all.forgotten), (KEPT, 2));
        assert_eq!(page(1002).await.drops, []);
        assert_eq!(
            page(5000).await.drops.len(),
            KEPT,
            "the agent was started again"
        );
    }
}
