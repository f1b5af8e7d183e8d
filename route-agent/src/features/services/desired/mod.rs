//! What packets to Services should meet. Pure: the same objects and settings give the same plan.
//!
//! `frontends` says what a Service claims, `claims` which of several Services has it, `endpoints`
//! which endpoints may answer, `externals` who may have which external IP, `networks` which networks
//! the rules ask about, `room` how much one Service may take, and `plan` what follows for one Service.
//! `handwritten` says what of a manifest is hardly meant.

pub mod claims;
pub mod endpoints;
pub mod externals;
pub mod frontends;
pub mod handwritten;
pub mod networks;
pub mod plan;
pub mod room;
#[cfg(test)]
pub mod samples;
