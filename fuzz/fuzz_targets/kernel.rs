//! Reads what a kernel may say: dumps and notifications of rtnetlink and nftables, connections,
//! and tables of iptables. Fails if a reader panics, or if a table that was read differs from
//! itself.
//!
//! An input is one byte that says as what it is read (`podwire_kernel::fuzzing`), and a datagram.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| podwire_kernel::fuzzing::read(input));
