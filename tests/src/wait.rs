//! Waiting for conditions, never for time alone.

use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// Asks `probe` until it has an answer or `limit` is over.
///
/// The pause grows from 0.2 ms to 10 ms: short waits stay exact, long ones stay cheap.
pub fn until_some<T>(limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_micros(200);
    loop {
        if let Some(answer) = probe() {
            return Some(answer);
        }
        let now = Instant::now();
        if now >= deadline {
            return None;
        }
        thread::sleep(pause.min(deadline - now));
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}

/// Waits until `condition` holds and answers how long that took; an error that names `what`
/// if it does not hold within `limit`.
pub fn until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) -> Result<Duration> {
    let start = Instant::now();
    until_some(limit, || condition().then(|| start.elapsed())).ok_or_else(|| Error::TimedOut {
        what: what.to_owned(),
        seconds: limit.as_secs_f64(),
        detail: String::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_holds_at_once_is_asked_once() {
        let mut asked = 0;
        let ask = || {
            asked += 1;
            true
        };
        until("a true thing", Duration::ZERO, ask).unwrap();
        assert_eq!(asked, 1);
    }

    #[test]
    fn a_condition_that_never_holds_is_named_in_the_error() {
        let error = until("rain", Duration::from_millis(5), || false).unwrap_err();
        assert_eq!(error.to_string(), "rain did not happen within 0.0 s");
    }
}
