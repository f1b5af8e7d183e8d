//! What the two address families are called in the table.

use podwire_kernel::nft::{Family, Field};

/// One address family.
pub struct Side {
    /// What nftables call it.
    pub family: Family,
    /// The field with the source of a packet.
    pub source: Field,
    /// The field with its destination.
    pub destination: Field,
    /// The set of the podCIDRs of this node.
    pub pods: &'static str,
    /// The set of the destinations that see a pod's own address.
    pub cluster: &'static str,
    /// The chain for packets of pods.
    pub chain: &'static str,
}

/// Both.
pub const SIDES: [Side; 2] = [
    Side {
        family: Family::Ip,
        source: Field::IpSaddr,
        destination: Field::IpDaddr,
        pods: "pods-v4",
        cluster: "cluster-v4",
        chain: "from-pod-v4",
    },
    Side {
        family: Family::Ip6,
        source: Field::Ip6Saddr,
        destination: Field::Ip6Daddr,
        pods: "pods-v6",
        cluster: "cluster-v6",
        chain: "from-pod-v6",
    },
];
