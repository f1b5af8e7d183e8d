//! What the kernel can be asked about a way, and how its answers are kept.

use std::fmt;
use std::net::IpAddr;

use podwire_kernel::IpFamily;

use crate::features::policies::layout::sets::Lookup;
use crate::why::Wanted;

/// The way that a packet takes from this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// The destination is this node.
    Local,
    /// There is no way, or a route that says so.
    Unreachable,
    /// Over a link.
    Link {
        /// Its name, if it is known.
        link: Option<String>,
        /// The next hop, unless the destination is on the link.
        gateway: Option<IpAddr>,
        /// True if the next hop was asked for its link-layer address and does not answer.
        silent: bool,
    },
}

/// An element of a map.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// The key, as the kernel compares it.
    pub key: Vec<u8>,
    /// The chain that it leads to.
    pub chain: Option<String>,
    /// Its data.
    pub data: Vec<u8>,
    /// Packets that it counted. In chains of type nat that is new connections.
    pub packets: Option<u64>,
    /// Its comment.
    pub comment: Option<String>,
}

/// What the kernel can be asked. Errors are sentences.
pub trait Kernel {
    /// The way to an address.
    fn way(&mut self, to: IpAddr) -> Result<Way, String>;

    /// The elements of a map of the Service table; none if there is no such table or map.
    fn map(&mut self, family: IpFamily, map: &str) -> Result<Option<Vec<Entry>>, String>;

    /// Chains of others at a hook (`NF_INET_*`) that drop, and what, in words.
    fn droppers(&mut self, family: IpFamily, hook: u32) -> Result<Vec<String>, String>;

    /// What the policy table looks up; none if there is no such table.
    fn policy_lookups(&mut self, family: IpFamily) -> Result<Option<Vec<Lookup>>, String>;

    /// One element of the policy table, asked for alone.
    fn policy_element(
        &mut self,
        family: IpFamily,
        lookup: Lookup,
        key: &[u8],
    ) -> Result<Option<Entry>, String>;
}

/// What the kernel answered.
#[derive(Default)]
pub(super) struct Answer {
    pub holds: Vec<String>,
    pub differs: Vec<String>,
    /// What may stop a packet all the same.
    pub suspects: Vec<String>,
    /// There is no route.
    pub nowhere: bool,
}

impl Answer {
    pub fn of(text: String) -> Self {
        Self {
            holds: vec![text],
            ..Self::default()
        }
    }

    pub fn differs(mut self, text: String) -> Self {
        self.differs.push(text);
        self
    }
}

impl Way {
    pub(super) fn is(&self, wanted: &Wanted) -> bool {
        match (wanted, self) {
            (Wanted::Any, _) | (Wanted::Unreachable, Self::Unreachable) => true,
            (Wanted::Somewhere | Wanted::Replaced, way) => *way != Self::Unreachable,
            (Wanted::Link(wanted), Self::Link { link, gateway, .. }) => {
                link.as_ref() == Some(wanted) && gateway.is_none()
            }
            (Wanted::Gateway(wanted), Self::Link { gateway, .. }) => *gateway == Some(*wanted),
            _ => false,
        }
    }
}

impl fmt::Display for Way {
    /// As `ip route get` puts it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("local"),
            Self::Unreachable => f.write_str("unreachable"),
            Self::Link { link, gateway, .. } => {
                if let Some(gateway) = gateway {
                    write!(f, "via {gateway} ")?;
                }
                write!(f, "dev {}", link.as_deref().unwrap_or("?"))
            }
        }
    }
}

/// The end of a line about an element: how many connections it counted, if it counts.
pub(super) fn counted(packets: Option<u64>) -> String {
    match packets {
        Some(1) => ", 1 connection so far".into(),
        Some(number) => format!(", {number} connections so far"),
        None => String::new(),
    }
}
