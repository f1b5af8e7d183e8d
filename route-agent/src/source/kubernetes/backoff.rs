//! How long to wait before the next try.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// A pause that doubles with each failure, up to a limit, and is spread at random so that the
/// agents of a whole cluster do not come back to a restarted API server at the same moment.
pub struct Backoff {
    first: Duration,
    limit: Duration,
    failures: u32,
}

impl Backoff {
    /// Starts at `first` and never waits longer than `limit`.
    pub fn new(first: Duration, limit: Duration) -> Self {
        Self {
            first,
            limit,
            failures: 0,
        }
    }

    /// The pause after one more failure: between half and all of the doubled one.
    pub fn next(&mut self) -> Duration {
        let doubled = self.first.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        doubled
            .min(self.limit)
            .mul_f64(0.5 + 0.5 * random_fraction())
    }

    /// After a success: the next pause is the first again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// A number from 0 to 1. The standard library seeds each hasher at random, which is enough to
/// spread load and needs no further crate.
pub fn random_fraction() -> f64 {
    RandomState::new().hash_one(()) as f64 / u64::MAX as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_limit_and_start_again_after_a_success() {
        let (first, limit) = (Duration::from_millis(500), Duration::from_secs(10));
        let mut backoff = Backoff::new(first, limit);
        let mut full = first;
        for _ in 0..40 {
            let pause = backoff.next();
            assert!(
                pause >= full / 2 && pause <= full,
                "{pause:?} is not within {full:?}"
            );
            full = (full * 2).min(limit);
        }
        backoff.reset();
        assert!(backoff.next() <= first);
    }

    #[test]
    fn two_agents_do_not_wait_the_same_time() {
        let pauses: Vec<_> = (0..8)
            .map(|_| Backoff::new(Duration::from_secs(1), Duration::from_secs(1)).next())
            .collect();
        assert!(pauses.iter().any(|p| *p != pauses[0]), "{pauses:?}");
    }
}
