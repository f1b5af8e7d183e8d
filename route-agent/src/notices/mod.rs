//! What this machine reports by itself: notifications of the kernel, and of files beside ours.

pub mod cni_conf;
pub mod kernel;
