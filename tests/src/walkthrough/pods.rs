//! The pods of the walkthrough, with the addresses of the notes.

use crate::binaries;
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
    let program = binaries::own()?.display().to_string();
    let mut text = format!(
        "Where you can go (the program is {program}):\n\n  \
         alias podwire-lab='{program} --lab {}'\n",
        lab.name()
    );
    for (command, note) in [
        ("status", "machines, agents, addresses"),
        ("pods", "pods, their addresses and links"),
        (
            "shell worker2",
            "a shell on a node; also in pod1, mypc, lab",
        ),
        ("exec pod1 ping 10.10.1.2", "a command in a pod"),
        ("exec worker2 ip route", "a command on a node"),
        (
            "exec worker2 nft list ruleset",
            "the rules, in a node's own words",
        ),
        (
            "run worker3 mine --port 8080:80",
            "one more pod, with a port on its node",
        ),
        ("logs worker2", "what the agent did"),
        ("walkthrough", "the walkthrough again"),
        ("down", "the end: nothing is left"),
    ] {
        text.push_str(&format!("  podwire-lab {command:<34} # {note}\n"));
    }
    Ok(text)
}
