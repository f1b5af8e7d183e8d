//! A moment on both clocks, and how times are written and read.

use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;

/// Now, on the clock that never jumps and on the clock that people read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// For time-outs: no one can set this clock.
    pub steady: Instant,
    /// For people.
    pub wall: SystemTime,
}

impl Moment {
    /// Reads both clocks.
    pub fn now() -> Self {
        Self {
            steady: Instant::now(),
            wall: SystemTime::now(),
        }
    }

    /// This moment and some more.
    pub fn after(self, time: Duration) -> Self {
        Self {
            steady: self.steady + time,
            wall: self.wall + time,
        }
    }
}

/// A time in UTC as RFC 3339 writes it, with milliseconds: `2026-11-23T04:30:05.120Z`.
/// A time before 1970 is written as 1970.
pub fn rfc3339(time: SystemTime) -> String {
    let time = Timestamp::try_from(time)
        .unwrap_or_default()
        .max(Timestamp::UNIX_EPOCH);
    format!("{time:.3}")
}

/// Milliseconds since 1970 of an RFC 3339 time, in UTC or with an offset. `None` if it is not one,
/// or before 1970.
pub fn milliseconds(text: &str) -> Option<u64> {
    let time: Timestamp = text.parse().ok()?;
    u64::try_from(time.as_millisecond()).ok()
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn times_are_written_as_date_1_writes_them() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, "2000-02-28T23:59:59.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (951_868_800, "2000-03-01T00:00:00.000Z"),
            (1_795_408_205, "2026-11-23T04:30:05.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
        let odd = UNIX_EPOCH + Duration::from_millis(7);
        assert_eq!(rfc3339(odd), "1970-01-01T00:00:00.007Z");
        assert_eq!(
            rfc3339(UNIX_EPOCH - Duration::from_secs(1)),
            "1970-01-01T00:00:00.000Z"
        );
    }

    #[test]
    fn times_are_read_as_rfc_3339() {
        assert_eq!(milliseconds("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(
            milliseconds("2000-02-29T12:00:00.5Z"),
            Some(951_825_600_500)
        );
        assert_eq!(
            milliseconds("2000-02-29T14:00:00+02:00"),
            Some(951_825_600_000)
        );
        assert_eq!(
            milliseconds("2100-03-01T00:00:00Z"),
            Some(4_107_542_400_000)
        );
        for bad in [
            "",
            "2000-13-01T00:00:00Z",
            "2000-01-01",
            "2000-01-01T00:00:00",
            "äöü",
            "1969-12-31T23:59:59Z",
            "2000-01-01T00:00:00+9000000000000000000:00",
        ] {
            assert_eq!(milliseconds(bad), None, "{bad}");
        }
    }
}
