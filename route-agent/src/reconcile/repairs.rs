//! How often a feature repairs what another program changes.
//!
//! A single change is repaired at once, and so is a handful. Another program that changes the same
//! thing again after each repair would keep both busy without end: two agents with different settings
//! do that. Then each repair waits longer than the one before, until it stays quiet.

use std::time::{Duration, Instant};

use crate::backoff::{Backoff, Jitter};

/// This many repairs are made at once, whatever their cause.
const AT_ONCE: u32 = 20;

/// After this long one more is.
const ONE_MORE: Duration = Duration::from_secs(1);

/// The first pause of a quarrel, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A quarrel is over when nothing had to be repaired for this long.
const QUIET: Duration = Duration::from_secs(30);

/// In a quarrel repairs are summed up in one line of the log in this time.
const SUMMED_UP: Duration = Duration::from_secs(60);

/// What the log is to be told of a repair.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// It, by itself.
    Single,
    /// That from now on they are too many.
    Quarrel,
    /// Nothing yet.
    Nothing,
    /// This number of them.
    Sum(u64),
}

/// The repairs of one feature.
#[derive(Debug)]
pub(super) struct Repairs {
    /// How many of those that are made at once are used up, and since when that is so.
    used: u32,
    since: Option<Instant>,
    quarrel: Option<Quarrel>,
}

#[derive(Debug)]
struct Quarrel {
    backoff: Backoff,
    /// The last repair.
    last: Instant,
    /// Not before this moment the next one.
    next: Instant,
    untold: u64,
    told: Instant,
}

impl Repairs {
    pub(super) const fn new() -> Self {
        Self {
            used: 0,
            since: None,
            quarrel: None,
        }
    }

    /// When the feature may be called because another program changed something.
    pub(super) fn next(&self, now: Instant) -> Instant {
        let next = self.quarrel.as_ref().map(|quarrel| quarrel.next);
        next.map_or(now, |next| next.max(now))
    }

    /// A repair was made.
    pub(super) fn made(&mut self, now: Instant) -> Told {
        if let Some(quarrel) = &mut self.quarrel {
            return quarrel.made(now);
        }
        let since = *self.since.get_or_insert(now);
        let passed = now.saturating_duration_since(since);
        let earned = u32::try_from(passed.as_millis() / ONE_MORE.as_millis()).unwrap_or(u32::MAX);
        if earned >= self.used {
            (self.used, self.since) = (1, Some(now));
            return Told::Single;
        }
        self.since = Some(since + ONE_MORE * earned);
        self.used = self.used - earned + 1;
        if self.used <= AT_ONCE {
            return Told::Single;
        }
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE, Jitter::None);
        self.quarrel = Some(Quarrel {
            last: now,
            next: now + backoff.pause(),
            backoff,
            untold: 0,
            told: now,
        });
        Told::Quarrel
    }

    /// When a quarrel is over, if nothing has to be repaired until then.
    pub(super) fn over(&self) -> Option<Instant> {
        Some(self.quarrel.as_ref()?.last + QUIET)
    }

    /// Forgets a quarrel that is over; returns the number of repairs that were not told.
    pub(super) fn end(&mut self, now: Instant) -> Option<u64> {
        if self.over().is_none_or(|over| over > now) {
            return None;
        }
        let quarrel = self.quarrel.take()?;
        *self = Self::new();
        Some(quarrel.untold)
    }
}

impl Quarrel {
    fn made(&mut self, now: Instant) -> Told {
        self.last = now;
        self.next = now + self.backoff.pause();
        self.untold += 1;
        if now.saturating_duration_since(self.told) < SUMMED_UP {
            return Told::Nothing;
        }
        self.told = now;
        Told::Sum(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told within a time in which every repair is undone at once.
    fn quarrel(repairs: &mut Repairs, start: Instant, length: Duration) -> Vec<Told> {
        let (mut now, mut all) = (start, Vec::new());
        while now < start + length {
            all.push(repairs.made(now));
            now = repairs.next(now + Duration::from_millis(1));
        }
        all
    }

    #[test]
    fn what_is_undone_again_and_again_is_repaired_ever_more_rarely_and_summed_up() {
        let mut repairs = Repairs::new();
        let told = quarrel(&mut repairs, Instant::now(), Duration::from_secs(600));
        assert!((100..160).contains(&told.len()), "{}", told.len());
        let single = told.iter().filter(|told| **told == Told::Single).count();
        assert_eq!(single, 20);
        assert_eq!(told[20], Told::Quarrel);
        let sums = told.iter().filter(|told| matches!(told, Told::Sum(_)));
        let sums = sums.count();
        assert!((8..=10).contains(&sums), "{sums}");
    }

    #[test]
    fn a_change_now_and_then_is_always_repaired_at_once() {
        let mut repairs = Repairs::new();
        let start = Instant::now();
        for second in 0..1000 {
            let now = start + Duration::from_secs(second);
            assert_eq!(repairs.next(now), now);
            assert_eq!(repairs.made(now), Told::Single, "{second}");
        }
    }

    #[test]
    fn a_quarrel_is_over_when_it_stays_quiet() {
        let mut repairs = Repairs::new();
        let start = Instant::now();
        assert_eq!(repairs.over(), None);
        quarrel(&mut repairs, start, Duration::from_secs(20));
        let over = repairs.over().unwrap();
        assert_eq!(repairs.end(over - Duration::from_millis(1)), None);
        let untold = repairs.end(over).unwrap();
        assert!(untold > 3, "{untold}");
        assert_eq!((repairs.next(over), repairs.over()), (over, None));
        assert_eq!(repairs.made(over), Told::Single);
    }
}
