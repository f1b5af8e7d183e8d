//! Why a container gets no address, in the words of host-local.

use std::net::IpAddr;

/// Why no address can be leased. The words are host-local's; people search for them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AllocationError {
    /// The container has an address of this set.
    #[error(
        "failed to allocate for range {set}: {address} has been allocated to {container_id}, \
         duplicate allocation is not allowed"
    )]
    Duplicate {
        /// The number of the range set.
        set: usize,
        /// The address.
        address: IpAddr,
        /// The container.
        container_id: String,
    },
    /// All addresses are leased.
    #[error("failed to allocate for range {set}: no IP addresses available in range set: {ranges}")]
    Exhausted {
        /// The number of the range set.
        set: usize,
        /// Its ranges.
        ranges: String,
    },
    /// The gateway was asked for.
    #[error("failed to allocate for range {set}: requested ip {address} is subnet's gateway")]
    Gateway {
        /// The number of the range set.
        set: usize,
        /// The address.
        address: IpAddr,
    },
    /// The address that was asked for is leased.
    #[error(
        "failed to allocate for range {set}: requested IP address {address} is not available in \
         range set {ranges}"
    )]
    Taken {
        /// The number of the range set.
        set: usize,
        /// The address.
        address: IpAddr,
        /// The ranges of the set.
        ranges: String,
    },
    /// Addresses that were asked for are in no range.
    #[error("failed to allocate all requested IPs:{}", list(addresses))]
    Unused {
        /// The addresses.
        addresses: Vec<IpAddr>,
    },
    /// The container of a CHECK has no address.
    #[error("host-local: Failed to find address added by container {container_id}")]
    NoLease {
        /// The container.
        container_id: String,
    },
}

impl AllocationError {
    /// What to do about it.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Duplicate { .. } => "call DEL for this container first",
            Self::Exhausted { .. } => {
                "every address is leased: remove containers, use a larger range, or call GC if \
                 there are leases of containers that are gone"
            }
            Self::Gateway { .. } => "ask for another address, or set another gateway",
            Self::Taken { .. } => "ask for another address, or remove the container that has it",
            Self::Unused { .. } => "ask for one address of each range set at most",
            Self::NoLease { .. } => "its lease was removed: recreate the container",
        }
    }
}

fn list(addresses: &[IpAddr]) -> String {
    addresses
        .iter()
        .map(|address| format!(" {address}"))
        .collect()
}
