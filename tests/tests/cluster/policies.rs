//! What the tests of policies share.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use podwire_lab::pod::Pod;
use serde_json::{Value, json};

/// How long an answer may take where one must come.
pub const ANSWER: Duration = Duration::from_secs(10);
/// How long none may come where none must.
pub const SILENCE: Duration = Duration::from_millis(700);

/// A NetworkPolicy.
pub fn policy(namespace: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace, "name": name}, "spec": spec,
    })
}

/// A selector of pods by their label `app`.
pub fn app(value: &str) -> Value {
    json!({"matchLabels": {"app": value}})
}

/// Both addresses of a pod of both families.
pub fn addresses(pod: &Pod) -> [IpAddr; 2] {
    [pod.address(false).unwrap(), pod.address(true).unwrap()]
}

/// Ends what goes on beside a test, also if that panics.
pub struct Ends<'a>(pub &'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
