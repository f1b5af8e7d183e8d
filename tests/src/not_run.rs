//! Tests that the kernel at hand cannot run.

use std::io::{Write, stderr};

/// Says that a test, or a part of it, is not run, and why. A test that lacks a permission fails; one
/// that needs what this kernel was built without must not pass in silence.
///
/// Past what the test harness holds back for tests that pass, on a line of its own: `make kernels`
/// and people read it.
pub fn not_run(what: &str, reason: &str) {
    let reason = reason.lines().next_back().unwrap_or_default();
    let _ = writeln!(stderr(), "\nnot run: {what}: {reason}");
}
