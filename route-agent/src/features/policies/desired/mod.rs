//! What packets to and from the pods of this node should meet.
//!
//! Pure. `attachments` are what the plugin and the kernel say about addresses of this node, `owners`
//! says which pod has an address, `truth` reads the policies literally, packet by packet: it is slow,
//! and what everything else is measured by; `explain` says why. `model` says the same in a form
//! that the kernel looks up: every peer has a class (`atoms`, `classes`, `blocks`), and for every
//! class and pod of this node `cells` say what is allowed; where ClusterNetworkPolicies have a say,
//! `tiers` goes through all rules in their order and says what is denied as well. A change recomputes
//! what it touches, and `loss` tells whether it takes something away. `wanted` is the outcome.
//! `oversights` names what may be a mistake in a policy.

pub mod atoms;
pub mod attachments;
pub mod blocks;
mod cells;
pub mod classes;
mod compile;
pub mod explain;
pub mod frame;
mod id_set;
mod looks;
pub mod loss;
pub mod model;
mod node_addresses;
pub mod oversights;
pub mod owners;
pub mod reach;
#[cfg(test)]
pub mod samples;
mod start;
#[cfg(test)]
pub(super) mod tests;
mod tier_index;
mod tiers;
pub mod truth;
pub mod wanted;
