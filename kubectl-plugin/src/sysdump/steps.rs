//! What is being done, for who waits.

use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

/// After so long it is said how far a step is.
const FIRST: Duration = Duration::from_secs(2);
/// And then as often.
const THEN: Duration = Duration::from_secs(5);

/// Steps, one after the other.
pub(super) struct Steps<'a> {
    say: &'a (dyn Fn(&str) + Sync),
    step: String,
    /// When it is said again how far it is.
    next: Instant,
}

impl<'a> Steps<'a> {
    /// Who is told.
    pub(super) fn new(say: &'a (dyn Fn(&str) + Sync)) -> Self {
        Self {
            say,
            step: String::new(),
            next: Instant::now(),
        }
    }

    /// Something that is to be known.
    pub(super) fn say(&self, what: &str) {
        (self.say)(what);
    }

    /// The next step begins.
    pub(super) fn begin(&mut self, step: String) {
        self.say(&step);
        self.step = step;
        self.next = Instant::now() + FIRST;
    }

    /// Waits for a part of the step, and says at times how far that is.
    pub(super) async fn wait<T>(
        &mut self,
        how_far: impl Fn() -> String,
        part: impl Future<Output = T>,
    ) -> T {
        let mut part = pin!(part);
        loop {
            if let Ok(done) = timeout_at(self.next, &mut part).await {
                return done;
            }
            self.say(&format!("{}: {}", self.step, how_far()));
            self.next = Instant::now() + THEN;
        }
    }
}
