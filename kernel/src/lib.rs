//! The only crate of Podwire that talks to the Linux kernel.
