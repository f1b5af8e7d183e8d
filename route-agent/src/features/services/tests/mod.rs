//! The feature's tests in a real kernel, its golden files, and packets on their way through its rules.

mod bench;
mod flows;
mod golden;
mod golden_cases;
mod golden_load;
mod kernel;
mod packet_walk;
