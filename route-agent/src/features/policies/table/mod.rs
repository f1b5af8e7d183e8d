//! Making the kernel's tables agree with what is wanted.
//!
//! `sync` is what the feature calls: it writes what a change touches, and reads the table back
//! (`kernel`) when nothing about it is known. `repair` looks at what a notification names, and
//! `differences` says in sentences what is not as it should be.

mod differences;
mod kernel;
mod repair;
pub mod sync;
