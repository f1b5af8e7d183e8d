//! What marks a thing on this machine as ours, in one place.
//!
//! Anything that carries one of these marks may be changed and removed by this agent, and by
//! `podwire-agent uninstall`; nothing else is touched.

/// What `podwire-agent uninstall` does with what it finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// Only look; nothing changes.
    Look,
    /// Remove it.
    Act,
}

/// The protocol number of every route of ours (`p`); nothing else in the kernel's or iproute2's
/// lists uses it.
pub const ROUTE_PROTOCOL: u8 = 112;

/// The group of the host ends of pod links (`IFLA_GROUP`), which the plugin sets.
pub use podwire::attachment::LINK_GROUP;

/// The nftables table of Services, in both families.
pub const SERVICES_TABLE: &str = "podwire-services";

/// The nftables table of NetworkPolicies, in both families.
pub use podwire::policy::TABLE as POLICY_TABLE;

/// The group to which the policies' rules log what they drop; no other program may read it.
pub const LOG_GROUP: u16 = 112;

/// The nftables table that masquerades and drops forged sources; its family is inet.
pub const MASQUERADE_TABLE: &str = "podwire-masquerade";

/// The nftables table that limits the connections of pods; its family is inet.
pub const CONNECTIONS_TABLE: &str = "podwire-connections";

/// The nftables table that refuses traffic to podCIDRs without a Node; its family is inet.
pub const REFUSED_TABLE: &str = "podwire-refused";

/// The CNI network's name: the leases are in a directory of this name.
pub const NETWORK: &str = "podwire";

/// The CNI configuration's file. containerd, CRI-O and Docker's shim take the file that sorts
/// first.
pub const CONFLIST: &str = "00-podwire.conflist";

/// The name of the agent's socket in its run directory.
pub const SOCKET: &str = "agent.sock";

/// The name of the socket on which the plugin tells of attachments, in the run directory.
pub use podwire::policy::SOCKET as PODS_SOCKET;

/// What the plugin has to know about policies, in the run directory.
pub const POLICY_DIR: &str = "policy";
