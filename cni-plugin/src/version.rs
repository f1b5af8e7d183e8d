//! The versions of the CNI specification that the plugin speaks.

use std::fmt;

/// A version of the CNI specification, in the order of their publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Version {
    /// 0.1.0; also what a configuration without a version means.
    #[default]
    V0_1_0,
    /// 0.2.0: `VERSION`.
    V0_2_0,
    /// 0.3.0: several addresses, interfaces.
    V0_3_0,
    /// 0.3.1: `interface` is an index.
    V0_3_1,
    /// 0.4.0: `CHECK`.
    V0_4_0,
    /// 1.0.0: no `version` beside an address.
    V1_0_0,
    /// 1.1.0: `GC`, `STATUS`, more about interfaces and routes.
    V1_1_0,
}

impl Version {
    /// All versions, oldest first.
    pub const ALL: [Self; 7] = [
        Self::V0_1_0,
        Self::V0_2_0,
        Self::V0_3_0,
        Self::V0_3_1,
        Self::V0_4_0,
        Self::V1_0_0,
        Self::V1_1_0,
    ];

    /// The newest version.
    pub const NEWEST: Self = Self::V1_1_0;

    /// The version with this spelling. The empty string is 0.1.0, which had no `cniVersion` yet.
    pub fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self::V0_1_0);
        }
        Self::ALL
            .into_iter()
            .find(|version| version.as_str() == text)
    }

    /// The spelling in `cniVersion`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V0_1_0 => "0.1.0",
            Self::V0_2_0 => "0.2.0",
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// The versions from `self` on, oldest first.
    pub fn and_newer(self) -> impl Iterator<Item = Self> {
        Self::ALL
            .into_iter()
            .filter(move |version| *version >= self)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_reads_back_what_it_prints() {
        for version in Version::ALL {
            assert_eq!(Version::parse(&version.to_string()), Some(version));
        }
    }

    #[test]
    fn no_version_means_the_first_one() {
        assert_eq!(Version::parse(""), Some(Version::V0_1_0));
    }

    #[test]
    fn versions_that_were_never_published_are_not_understood() {
        for text in ["0.9.0", "1.2.0", "2", "bla", " 1.0.0"] {
            assert_eq!(Version::parse(text), None, "{text:?}");
        }
    }
}
