//! The last drops in memory.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::drops::dropped::Dropped;

/// How many are kept.
const KEPT: usize = 1000;

/// Why nothing is read, if so.
pub type Idle = Option<&'static str>;

/// The last drops.
#[derive(Debug, Default)]
pub(super) struct Ring {
    /// Why nothing can be read, if so.
    pub trouble: Option<String>,
    kept: VecDeque<Dropped>,
    newest: u64,
    lost: u64,
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

impl Ring {
    /// More came, and `lost` that could not be read.
    pub fn add(&mut self, drops: Vec<Dropped>, lost: u64) {
        self.lost += lost;
        for mut one in drops {
            self.newest += 1;
            one.number = self.newest;
            if self.kept.len() == KEPT {
                self.kept.pop_front();
            }
            self.kept.push_back(one);
        }
    }

    /// The number of the newest one; as many there were.
    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// How many could not be read, at least.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Those after the one with this number. A number that is not reached yet is one of an agent
    /// before: all of them.
    pub fn page(&self, number: u64, idle: Idle) -> Page {
        let number = if number > self.newest { 0 } else { number };
        let after = self.kept.iter().filter(|one| one.number > number);
        let drops: Vec<Dropped> = after.cloned().collect();
        Page {
            idle: idle.map(str::to_owned).or_else(|| self.trouble.clone()),
            newest: self.newest,
            lost: self.lost,
            forgotten: self.newest - number - drops.len() as u64,
            drops,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drops::dropped::tests::a_drop;

    #[test]
    fn the_last_ones_are_kept_and_those_after_a_number_are_found() {
        let mut ring = Ring::default();
        ring.add(vec![a_drop(); KEPT], 0);
        ring.add(vec![a_drop(); 2], 7);
        let numbers =
            |page: &Page| -> Vec<u64> { page.drops.iter().map(|one| one.number).collect() };
        let page = ring.page(1000, None);
        assert_eq!(
            (numbers(&page), page.forgotten, page.lost),
            (vec![1001, 1002], 0, 7)
        );
        let page = ring.page(0, None);
        assert_eq!((page.drops.len(), page.forgotten), (KEPT, 2));
        assert_eq!(ring.page(1002, None).drops, []);
        assert_eq!(
            ring.page(5000, None).drops.len(),
            KEPT,
            "the agent was started again"
        );
    }
}
