//! What a probe is, and how one went.

use serde::Serialize;

/// What happens without a feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Without {
    /// The agent goes on with less.
    FallsBack,
    /// The agent cannot do its work.
    Refuses,
}

/// How a probe went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was tried, in a few words.
    pub feature: &'static str,
    /// What it is for.
    pub needed_for: &'static str,
    /// What fails, if it does.
    #[serde(flatten)]
    pub missing: Option<Missing>,
}

/// Something that does not work here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// What the kernel said.
    pub error: String,
    /// Does the agent go on?
    pub then: Without,
    /// What follows, and what to do: one sentence.
    pub consequence: &'static str,
    /// Kernel modules that it may be for want of: none of them is loaded.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub modules: Vec<&'static str>,
}

impl Finding {
    /// `works`, `falls back` or `refuses`.
    pub fn outcome(&self) -> &'static str {
        match self.missing.as_ref().map(|missing| missing.then) {
            None => "works",
            Some(Without::FallsBack) => "falls back",
            Some(Without::Refuses) => "refuses",
        }
    }
}

/// The permission that nearly all others need.
pub const PERMISSION: &str = "NET_ADMIN";

/// One try.
pub struct Probe {
    /// What is tried, in a few words.
    pub feature: &'static str,
    /// What it is for.
    pub needed_for: &'static str,
    /// What happens without it.
    pub then: Without,
    /// What follows, and what to do: one sentence.
    pub consequence: &'static str,
    /// Kernel modules that do it, where the kernel has it in modules. The kernel loads them when it
    /// needs them, unless that is switched off or it finds none.
    pub modules: &'static [&'static str],
    /// The try, with what the kernel said.
    pub try_it: fn() -> Result<(), String>,
    /// Depends on this network namespace (its settings, its permissions), so it must not be tried
    /// in another.
    pub here: bool,
}

impl Probe {
    /// Tries it.
    pub fn run(&self) -> Finding {
        let missing = (self.try_it)().err().map(|error| Missing {
            error,
            then: self.then,
            consequence: self.consequence,
            modules: not_loaded(self.modules),
        });
        Finding {
            feature: self.feature,
            needed_for: self.needed_for,
            missing,
        }
    }
}

/// Those of these modules that are not loaded; none where the kernel has no modules at all.
fn not_loaded(modules: &[&'static str]) -> Vec<&'static str> {
    let Ok(loaded) = std::fs::read_to_string("/proc/modules") else {
        return Vec::new();
    };
    let is_loaded = |module: &str| {
        let mut names = loaded.lines().filter_map(|line| line.split(' ').next());
        names.any(|name| name == module)
    };
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let exists = |module: &str| module != "nft_counter" || has_counters_in_a_module(&release);
    let all = modules.iter().copied();
    all.filter(|module| exists(module) && !is_loaded(module))
        .collect()
}

/// Counters are part of nf_tables itself since 5.17.
fn has_counters_in_a_module(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next().and_then(|number| number.parse::<u32>().ok());
    matches!((next(), next()), (Some(major), Some(minor)) if (major, minor) < (5, 17))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_a_module_up_to_5_16() {
        for release in ["5.10.0-46-amd64", "5.15.0-161-generic", "4.19.0"] {
            assert!(has_counters_in_a_module(release), "{release}");
        }
        for release in ["5.17.0", "6.1.0-56-amd64", "7.3.4+deb13-amd64", ""] {
            assert!(!has_counters_in_a_module(release), "{release}");
        }
    }
}
