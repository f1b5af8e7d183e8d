//! How policies are written in nftables.
//!
//! Pure. `sets` names and declares what is looked up, `skeleton` has the chains and their rules,
//! whose number does not depend on how many policies or pods there are, and `elements` turns what is
//! wanted into elements and back.

pub mod elements;
pub mod sets;
pub mod skeleton;
