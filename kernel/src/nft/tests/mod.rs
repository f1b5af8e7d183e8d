//! Properties: what is encoded is decoded again, no bytes make the decoder panic, and a difference
//! that is applied leaves no difference, in a model and in the kernel.

mod generate;
mod kernel;
mod key;
mod model;
mod wire;
