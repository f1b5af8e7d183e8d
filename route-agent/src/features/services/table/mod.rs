//! Making the kernel's tables agree with what is desired.
//!
//! `state` holds what we believe was applied, with `standing` for what Services share; `delta` is
//! what differs in one Service, `encode` says it in messages, and `nftables` is the kernel's side.
//! `write` writes changes and tidies up. `full_sync` reads a whole table back into `observed` and
//! writes what differs; `repair` does so for what is in `doubts` after a notification; `base` is the
//! part that is always there. `differences` names in sentences what is not as it should be. `sync`
//! is what the feature calls.

mod base;
pub mod delta;
mod differences;
mod doubts;
pub mod encode;
mod full_sync;
pub mod nftables;
pub mod observed;
mod repair;
pub mod standing;
pub mod state;
pub mod sync;
pub mod write;
