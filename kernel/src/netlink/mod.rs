//! Blocking netlink for any protocol: requests, dumps and batches.
//!
//! [`Socket`] knows the framing only: headers, sequence numbers, acknowledgements, multi-part
//! answers, lost answers. What the messages say is up to the modules above it.

mod batch;
mod parse;
mod socket;
#[cfg(test)]
mod tests;

pub use batch::{Batch, attribute, nest, put};
pub use parse::{Message, attributes, messages, text};
pub use socket::{Outcome, Protocol, Refusal, Socket};
