//! The feature's tests in a real kernel, and its golden files.

mod bench;
mod golden;
mod golden_cases;
mod kernel;
