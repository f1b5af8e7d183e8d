//! The commands beside `run`: each is a process that answers one question or does one thing, and
//! ends.

pub mod agent;
pub mod drops;
pub mod flows;
pub mod install;
#[cfg(feature = "manual")]
pub mod manual;
pub mod output;
pub mod preflight;
pub mod relay;
pub mod status;
pub mod table;
pub mod takeover;
pub mod top;
pub mod uninstall;
pub mod why;
