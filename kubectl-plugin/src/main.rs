//! `kubectl podwire`.

fn main() {}
