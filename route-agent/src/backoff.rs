//! How long to wait before the next try.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Pauses that double with each failure, from a first one up to a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    jitter: Jitter,
    tries: u32,
}

/// Whether pauses are spread at random.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Jitter {
    /// Each pause is exactly the doubled one: what fails is on this machine alone.
    None,
    /// Each pause is between half and all of the doubled one, so that the agents of a whole cluster
    /// do not come back to a restarted API server at the same moment.
    Half,
}

impl Backoff {
    /// The first pause is `first`, and none is longer than `longest`.
    pub const fn new(first: Duration, longest: Duration, jitter: Jitter) -> Self {
        Self {
            first,
            longest,
            jitter,
            tries: 0,
        }
    }

    /// The pause after one more failure.
    pub fn pause(&mut self) -> Duration {
        let doubled = self
            .first
            .saturating_mul(1 << self.tries.min(16))
            .min(self.longest);
        self.tries = self.tries.saturating_add(1);
        match self.jitter {
            Jitter::None => doubled,
            Jitter::Half => doubled.mul_f64(0.5 + 0.5 * random_fraction()),
        }
    }

    /// How many tries failed in a row.
    pub fn tries(&self) -> u32 {
        self.tries
    }

    /// After a success: the next pause is the first again.
    pub fn reset(&mut self) {
        self.tries = 0;
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

    const FIRST: Duration = Duration::from_millis(500);
    const LONGEST: Duration = Duration::from_secs(10);

    #[test]
    fn pauses_double_up_to_the_limit_and_start_again_after_a_success() {
        let mut backoff = Backoff::new(FIRST, LONGEST, Jitter::None);
        let pauses: Vec<_> = (0..40).map(|_| backoff.pause()).collect();
        assert_eq!(pauses[..3], [FIRST, FIRST * 2, FIRST * 4]);
        assert!(pauses[5..].iter().all(|pause| *pause == LONGEST));
        assert_eq!(backoff.tries(), 40);
        backoff.reset();
        assert_eq!(backoff.pause(), FIRST);
    }

    #[test]
    fn a_pause_with_jitter_is_at_least_half_and_at_most_all_of_one_without() {
        let mut plain = Backoff::new(FIRST, LONGEST, Jitter::None);
        let mut spread = Backoff::new(FIRST, LONGEST, Jitter::Half);
        for _ in 0..40 {
            let (full, pause) = (plain.pause(), spread.pause());
            assert!(
                pause >= full / 2 && pause <= full,
                "{pause:?} is not within {full:?}"
            );
        }
    }

    #[test]
    fn two_agents_do_not_wait_the_same_time() {
        let pauses: Vec<_> = (0..8)
            .map(|_| Backoff::new(FIRST, FIRST, Jitter::Half).pause())
            .collect();
        assert!(pauses.iter().any(|p| *p != pauses[0]), "{pauses:?}");
    }
}
