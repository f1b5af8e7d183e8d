//! Making the kernel's tables agree with what is desired.
//!
//! `state` holds what was written and what is wanted; `delta` is what differs in one Service,
//! `encode` turns it into messages. `full_sync` reads a whole table back into `observed` and writes
//! what differs; `repair` does so for what a notification names; `base` is the part that is always
//! there. `differences` names in sentences what is not as it should be.

pub mod base;
pub mod delta;
pub mod differences;
pub mod encode;
pub mod full_sync;
pub mod observed;
pub mod repair;
pub mod state;
