//! A table of nftables that belongs to a process: no other can change it, and it goes with its owner.

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::node::Node;

/// A program that owns a table until it is dropped.
pub struct Owner(Child);

impl Owner {
    /// Makes the table in place of the one that is there. `None` where the kernel has no owners of
    /// tables (before 5.12), which is said past what is held back for tests that pass.
    pub fn of(table: &str, node: &Node) -> Option<Self> {
        let probe = ["add", "table", "inet", "owned", "{ flags owner; }"];
        let output = Command::new("nft").args(probe).output().unwrap();
        if !output.status.success() {
            let reason = String::from_utf8_lossy(&output.stderr);
            let reason = reason.lines().next().unwrap_or_default();
            let _ = writeln!(std::io::stderr(), "\nnot run: owned tables: {reason}");
            return None;
        }
        let child = Command::new("nft").arg("-i").stdin(Stdio::piped()).spawn();
        let mut owner = Self(child.unwrap());
        let table = format!("table inet {table}");
        let lines = format!("add {table}; delete {table}; add {table} {{ flags owner; }}\n");
        let stdin = owner.0.stdin.as_mut().unwrap();
        stdin.write_all(lines.as_bytes()).unwrap();
        wait_until(|| node.ruleset().contains("flags owner"));
        Some(owner)
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Waits until the condition holds, 10 s at most.
pub fn wait_until(condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < end, "it did not come about");
        sleep(Duration::from_millis(5));
    }
}
