//! Order statistics of measured times.

use std::time::Duration;

/// Times of one thing that was done often.
#[derive(Debug, Clone, Default)]
pub struct Times {
    sorted: Vec<Duration>,
}

impl Times {
    /// Adds a time.
    pub fn add(&mut self, time: Duration) {
        let at = self.sorted.partition_point(|known| *known <= time);
        self.sorted.insert(at, time);
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.sorted.len()
    }

    /// The time below which the share `share` (0 to 1) of them lies; zero if there is none.
    pub fn quantile(&self, share: f64) -> Duration {
        let Some(last) = self.sorted.len().checked_sub(1) else {
            return Duration::ZERO;
        };
        self.sorted[((last as f64) * share).round() as usize]
    }

    /// The middle one.
    pub fn median(&self) -> Duration {
        self.quantile(0.5)
    }
}

/// How often the median of `other` contains the median of `times`.
pub fn ratio(times: &Times, other: &Times) -> f64 {
    times.median().as_secs_f64() / other.median().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one_whatever_the_order() {
        let mut times = Times::default();
        assert_eq!(times.median(), Duration::ZERO);
        for milliseconds in [9, 1, 5, 3, 7] {
            times.add(Duration::from_millis(milliseconds));
        }
        assert_eq!(times.median(), Duration::from_millis(5));
        assert_eq!(times.quantile(0.0), Duration::from_millis(1));
        assert_eq!(times.quantile(1.0), Duration::from_millis(9));
        assert_eq!(times.count(), 5);
    }
}
