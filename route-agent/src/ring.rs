//! The last of something that goes on and on: a bounded memory of it, and a way to wait for the next.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

/// Something that is counted since the agent's start, from 1.
pub trait Numbered: Clone {
    /// Its number.
    fn number(&self) -> u64;

    /// It gets its number.
    fn set_number(&mut self, number: u64);
}

/// The last ones. Clones share them.
#[derive(Debug)]
pub struct Log<T>(Arc<Shared<T>>);

#[derive(Debug)]
struct Shared<T> {
    ring: Mutex<Ring<T>>,
    /// The number of the newest one.
    newest: watch::Sender<u64>,
}

#[derive(Debug)]
struct Ring<T> {
    kept: VecDeque<T>,
    most: usize,
    newest: u64,
    lost: u64,
}

/// Some of them, for who asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part<T> {
    /// Oldest first.
    pub items: Vec<T>,
    /// The number of the last of them, or of the newest that there is: what to ask for the rest with.
    pub newest: u64,
    /// How many could not be read, at least.
    pub lost: u64,
    /// How many of those that were asked for are no longer kept.
    pub forgotten: u64,
}

impl<T> Clone for Log<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Numbered> Log<T> {
    /// Keeps this many.
    pub fn keeping(most: usize) -> Self {
        Self(Arc::new(Shared {
            ring: Mutex::new(Ring {
                kept: VecDeque::new(),
                most,
                newest: 0,
                lost: 0,
            }),
            newest: watch::Sender::new(0),
        }))
    }

    /// More came, and `lost` that could not be read.
    pub fn add(&self, items: Vec<T>, lost: u64) {
        let newest = self.with(|ring| ring.add(items, lost));
        self.0.newest.send_replace(newest);
    }

    /// Those after the one with this number; waits a while for the first one. At most `most` of them,
    /// the oldest: the rest is had by asking again. A number that is not reached yet is one of an agent
    /// before: then it is all of them.
    pub async fn after(&self, number: u64, patience: Duration, most: usize) -> Part<T> {
        let mut newest = self.0.newest.subscribe();
        let number = match number > *newest.borrow() {
            true => 0,
            false => number,
        };
        // Whether one came or none: the answer says it.
        let _ = tokio::time::timeout(patience, newest.wait_for(|newest| *newest > number)).await;
        self.with(|ring| ring.after(number, most))
    }

    /// How many could not be read, at least.
    pub fn lost(&self) -> u64 {
        self.with(|ring| ring.lost)
    }

    fn with<R>(&self, work: impl FnOnce(&mut Ring<T>) -> R) -> R {
        // Nothing that holds it can leave it half changed.
        work(&mut self.0.ring.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<T: Numbered> Ring<T> {
    fn add(&mut self, items: Vec<T>, lost: u64) -> u64 {
        self.lost += lost;
        for mut item in items {
            self.newest += 1;
            item.set_number(self.newest);
            if self.kept.len() == self.most {
                self.kept.pop_front();
            }
            self.kept.push_back(item);
        }
        self.newest
    }

    fn after(&self, number: u64, most: usize) -> Part<T> {
        let first = self.kept.partition_point(|item| item.number() <= number);
        let items: Vec<T> = self.kept.range(first..).take(most).cloned().collect();
        let oldest = self.kept.front().map_or(self.newest + 1, T::number);
        Part {
            newest: items.last().map_or(self.newest, T::number),
            lost: self.lost,
            forgotten: oldest.saturating_sub(number + 1),
            items,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Numbered for (u64, char) {
        fn number(&self) -> u64 {
            self.0
        }

        fn set_number(&mut self, number: u64) {
            self.0 = number;
        }
    }

    const NOW: Duration = Duration::ZERO;

    #[tokio::test]
    async fn the_last_ones_are_kept_and_those_after_a_number_are_found() {
        let log = Log::keeping(3);
        log.add("abc".chars().map(|c| (0, c)).collect(), 0);
        log.add(vec![(0, 'd')], 7);
        let part = log.after(2, NOW, 100).await;
        assert_eq!(part.items, [(3, 'c'), (4, 'd')]);
        assert_eq!((part.newest, part.lost, part.forgotten), (4, 7, 0));
        let part = log.after(0, NOW, 100).await;
        assert_eq!((part.items.len(), part.forgotten), (3, 1));
        let part = log.after(1, NOW, 1).await;
        assert_eq!((part.items, part.forgotten), (vec![(2, 'b')], 0));
        assert_eq!(part.newest, 2, "the rest is had by asking again");
        let none = log.after(4, NOW, 100).await;
        assert_eq!((none.items, none.newest, none.forgotten), (vec![], 4, 0));
        let part = log.after(5000, NOW, 100).await;
        assert_eq!(part.items.len(), 3, "the agent was started again");
    }

    #[tokio::test]
    async fn who_waits_gets_the_next_one() {
        let log = Log::keeping(3);
        let waiting = {
            let log = log.clone();
            tokio::spawn(async move { log.after(0, Duration::from_secs(60), 100).await })
        };
        tokio::task::yield_now().await;
        log.add(vec![(0, 'a')], 0);
        assert_eq!(waiting.await.unwrap().items, [(1, 'a')]);
    }
}
