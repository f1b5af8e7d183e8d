//! Blocking netlink for any protocol: requests, dumps and batches.
//!
//! [`Socket`] knows the framing only: headers, sequence numbers, acknowledgements, multi-part
//! answers, lost answers. What the messages say is up to the modules above it.

mod batch;
mod parse;
mod repeat;
mod socket;
#[cfg(test)]
mod tests;
mod write;

pub use batch::Batch;
pub use parse::{Message, Refusal, attributes, ip, messages, text, word};
pub use repeat::until_undisturbed;
pub use socket::{Outcome, Protocol, Socket};
pub use write::{attribute, nest, number};
