//! The pods of the walkthrough, with the addresses of the notes.

use crate::error::Result;
use crate::lab::Lab;
use crate::pod::{PodSpec, Servers};

/// Node, pod, and the port of its web server, in the order in which they start. Addresses are
/// given out one after another, so the order decides them; pods without a port stand for those
/// that every cluster runs for itself.
const PODS: [(&str, &str, Option<u16>); 19] = [
    ("control-plane", "coredns-1", None),
    ("control-plane", "coredns-2", None),
    ("control-plane", "storage", None),
    ("control-plane", "metrics", None),
    ("control-plane", "client", None),
    ("worker", "pod2", None),
    ("worker", "web-1", Some(80)),
    ("worker2", "job-1", None),
    ("worker2", "pod1", None),
    ("worker2", "web-2", Some(80)),
    ("worker2", "job-2", None),
    ("worker2", "job-3", None),
    ("worker2", "job-4", None),
    ("worker2", "echo-1", Some(8080)),
    ("worker3", "job-5", None),
    ("worker3", "web-3", Some(80)),
    ("worker3", "job-6", None),
    ("worker3", "echo-2", Some(8080)),
    ("worker3", "spare", None),
];

/// Starts them.
pub fn start_pods(lab: &Lab) -> Result<()> {
    for (node, name, port) in PODS {
        let servers = Servers {
            http: port.into_iter().collect(),
            ..Servers::default()
        };
        lab.run(
            node,
            &PodSpec {
                servers,
                ..PodSpec::new(name)
            },
        )?;
    }
    Ok(())
}

/// What to try in a lab that is up, for a person.
pub fn invitation(lab: &Lab) -> Result<String> {
    let own = "podwire-lab";
    let option = format!(" --lab {}", lab.name());
    Ok(format!(
        "  {own} pods{option}\n  {own} shell worker{option}\n  {own} exec pod1 ping 10.10.1.2{option}\n  {own} down{option}\n"
    ))
}
