//! How often something may be said: a number of times at once, and then once after each pause.

use std::time::{Duration, Instant};

/// What is used up of a limit over time, and since when that is so.
#[derive(Debug, Clone, Copy)]
pub struct Used {
    times: u32,
    since: Instant,
}

impl Used {
    /// Nothing is used up.
    pub fn nothing(now: Instant) -> Self {
        let (times, since) = (0, now);
        Self { times, since }
    }

    /// Whether it may be said once more, with `most` times at once and another one after each
    /// `pause`. If so, that is used up.
    pub fn once_more(&mut self, most: u32, pause: Duration, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.since);
        let earned = u32::try_from(passed.as_millis() / pause.as_millis()).unwrap_or(u32::MAX);
        self.since = match earned >= self.times {
            true => now,
            false => self.since + pause * earned,
        };
        self.times = self.times.saturating_sub(earned);
        let may = self.times < most;
        self.times += u32::from(may);
        may
    }
}
