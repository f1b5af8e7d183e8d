//! Reads a file of manifests, YAML or JSON, takes its objects into a snapshot, and decides what
//! follows from each Service. Fails if something panics, if an object comes without a way to keep
//! it apart, or if a message could forge a line of a log.

#![no_main]

#[path = "../src/cluster.rs"]
mod cluster;
#[path = "../src/decisions.rs"]
mod decisions;

use libfuzzer_sys::fuzz_target;
use podwire_agent::source::decode::{Scope, decode};
use podwire_agent::source::objects::Names;

fuzz_target!(|input: &[u8]| {
    let mut names = Names::default();
    // The only error is that of text that is not UTF-8.
    let Ok(contents) = decode(input, Scope::All, &mut names) else {
        return;
    };
    assert!(contents.objects.len() <= input.len());
    assert!(!contents.unreadable || !contents.problems.is_empty());
    decisions::check(contents.objects);
});
