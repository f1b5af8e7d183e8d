//! Listings that others disturb.

use std::time::{Duration, Instant};

/// A listing that is disturbed is begun again at least this often.
const ATTEMPTS: usize = 20;

/// And as long as it has taken less than this. A small table is read in microseconds, so that a
/// number alone would give up in the middle of a burst of changes; a large one takes a second, so
/// that a time alone would give up at once.
const TIME: Duration = Duration::from_secs(1);

/// Calls `read` until it was not disturbed. Gives up with its last error when that was so in 20
/// attempts and a second.
pub fn until_undisturbed<T, E>(
    mut read: impl FnMut() -> Result<T, E>,
    is_disturbed: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let begun = Instant::now();
    let mut attempt = 0;
    loop {
        attempt += 1;
        match read() {
            Err(error)
                if is_disturbed(&error) && (attempt < ATTEMPTS || begun.elapsed() < TIME) => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disturbed_listing_is_begun_again_and_any_other_error_ends_it() {
        let mut left = 100;
        let read = || {
            left -= 1;
            if left > 0 { Err("disturbed") } else { Ok(left) }
        };
        assert_eq!(
            until_undisturbed(read, |error| *error == "disturbed"),
            Ok(0)
        );
        let mut calls = 0;
        let failed = until_undisturbed(
            || {
                calls += 1;
                Err::<(), _>("refused")
            },
            |error| *error == "disturbed",
        );
        assert_eq!((failed, calls), (Err("refused"), 1));
    }

    #[test]
    fn a_listing_that_is_always_disturbed_ends() {
        let mut calls = 0;
        let outcome = until_undisturbed(
            || {
                calls += 1;
                Err::<(), _>(())
            },
            |()| true,
        );
        assert!(outcome.is_err() && calls >= ATTEMPTS, "{calls}");
    }
}
