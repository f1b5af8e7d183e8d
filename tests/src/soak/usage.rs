//! Whether what an agent uses stays flat.

use std::fmt;

/// Memory may grow by this much for good: allocators keep what was once needed.
const MEMORY_GROWTH: f64 = 0.15;
/// And by this many KiB.
const MEMORY_SLACK: u64 = 2048;

/// And as many files may stay open that are opened when they are first needed.
const FILES_SLACK: u64 = 2;

/// What an agent uses at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Resident memory in KiB.
    pub memory: u64,
    /// Open files.
    pub files: u64,
}

/// What was used in each third of the time: medians.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trend {
    /// In the first third.
    pub first: Usage,
    /// In the second third.
    pub middle: Usage,
    /// In the last third.
    pub last: Usage,
}

impl Trend {
    /// The trend of samples in the order of time; none of fewer than three.
    pub fn of(samples: &[Usage]) -> Option<Self> {
        let (third, rest) = (samples.len() / 3, samples.len() - samples.len() / 3);
        Some(Self {
            first: median(&samples[..third])?,
            middle: median(&samples[third..rest])?,
            last: median(&samples[rest..])?,
        })
    }

    /// What grew, one sentence each.
    pub fn growth(&self) -> Vec<String> {
        let mut grown = Vec::new();
        let Self { first, last, .. } = self;
        let allowed = first.memory + MEMORY_SLACK + (first.memory as f64 * MEMORY_GROWTH) as u64;
        if last.memory > allowed {
            grown.push(format!(
                "the agent's memory grew from {} KiB to {} KiB",
                first.memory, last.memory
            ));
        }
        if last.files > first.files + FILES_SLACK {
            grown.push(format!(
                "the agent's open files grew from {} to {}",
                first.files, last.files
            ));
        }
        grown
    }
}

impl fmt::Display for Trend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            first,
            middle,
            last,
        } = self;
        write!(
            f,
            "memory {}, {} and {} KiB; open files {}, {} and {} (medians of the thirds)",
            first.memory, middle.memory, last.memory, first.files, middle.files, last.files
        )
    }
}

fn median(samples: &[Usage]) -> Option<Usage> {
    let middle = |value: fn(&Usage) -> u64| {
        let mut values: Vec<u64> = samples.iter().map(value).collect();
        values.sort_unstable();
        values.get(values.len() / 2).copied()
    };
    Some(Usage {
        memory: middle(|usage| usage.memory)?,
        files: middle(|usage| usage.files)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trend(samples: &[(u64, u64)]) -> Trend {
        let usage = |&(memory, files): &(u64, u64)| Usage { memory, files };
        let samples: Vec<_> = samples.iter().map(usage).collect();
        Trend::of(&samples).expect("three samples and more have a trend")
    }

    #[test]
    fn single_peaks_are_not_growth_and_a_lasting_rise_is() {
        let flat = [
            (10_000, 20),
            (10_100, 20),
            (90_000, 90),
            (10_050, 21),
            (10_200, 20),
            (10_000, 20),
        ];
        assert_eq!(trend(&flat).growth(), [""; 0]);
        let rising: Vec<_> = (0..30).map(|n| (10_000 + n * 500, 20 + n / 5)).collect();
        assert_eq!(trend(&rising).growth().len(), 2);
    }

    #[test]
    fn too_few_samples_say_nothing() {
        let usage = Usage {
            memory: 1,
            files: 1,
        };
        assert_eq!(Trend::of(&[usage, usage]), None);
    }
}
