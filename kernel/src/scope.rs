//! How far an address or a route reaches.

use std::fmt;

/// `RT_SCOPE_*` of linux/rtnetlink.h: how far away a destination may be, or where an address is
/// valid. IPv6 routes always have [`Scope::Universe`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Scope {
    /// Everywhere (0).
    #[default]
    Universe,
    /// Inside the site (200); IPv6 only, deprecated.
    Site,
    /// On the link (253).
    Link,
    /// On this machine (254).
    Host,
    /// Nowhere (255).
    Nowhere,
    /// A number with a meaning of its own.
    Other(u8),
}

impl From<u8> for Scope {
    fn from(number: u8) -> Self {
        match number {
            0 => Self::Universe,
            200 => Self::Site,
            253 => Self::Link,
            254 => Self::Host,
            255 => Self::Nowhere,
            other => Self::Other(other),
        }
    }
}

impl From<Scope> for u8 {
    fn from(scope: Scope) -> Self {
        match scope {
            Scope::Universe => 0,
            Scope::Site => 200,
            Scope::Link => 253,
            Scope::Host => 254,
            Scope::Nowhere => 255,
            Scope::Other(other) => other,
        }
    }
}

impl fmt::Display for Scope {
    /// As `ip` prints it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Universe => f.write_str("global"),
            Self::Site => f.write_str("site"),
            Self::Link => f.write_str("link"),
            Self::Host => f.write_str("host"),
            Self::Nowhere => f.write_str("nowhere"),
            Self::Other(other) => write!(f, "{other}"),
        }
    }
}
