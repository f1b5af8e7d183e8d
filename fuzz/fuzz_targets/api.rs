//! Reads what an API server may send: a page of a list, or the lines of a watch, cut anywhere.
//! Fails if something panics, or if how the lines are cut makes a difference.
//!
//! An input is one byte that says how it is cut and of which kind the objects are, and the bytes of
//! the body.

#![no_main]

#[path = "../src/cluster.rs"]
mod cluster;
#[path = "../src/decisions.rs"]
mod decisions;

use libfuzzer_sys::fuzz_target;
use podwire_agent::source::kubernetes::fuzzing;

fuzz_target!(|input: &[u8]| {
    let Some((first, body)) = input.split_first() else {
        return;
    };
    let first = usize::from(*first);
    let (kind, cut) = (first % fuzzing::KINDS, first / fuzzing::KINDS);
    let objects = match cut {
        0 => fuzzing::page(kind, body),
        _ => {
            let cut_up = fuzzing::watch(kind, body.chunks(cut));
            let whole = fuzzing::watch(kind, std::iter::once(body));
            assert_eq!(cut_up, whole, "pieces of {cut} bytes");
            whole
        }
    };
    decisions::check(objects);
});
