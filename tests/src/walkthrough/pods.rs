//! The pods of the walkthrough, with the addresses of the notes.

use std::time::Duration;

use serde_json::json;

use crate::error::Result;
use crate::lab::Lab;
use crate::pod::{PodSpec, Servers};
use crate::{binaries, manifests, wait};

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
        // Pods that do the same have the same label.
        let app = name.trim_end_matches(|c: char| c == '-' || c.is_ascii_digit());
        let spec = PodSpec::new(name).labelled("app", app);
        lab.run(node, &PodSpec { servers, ..spec })?;
    }
    Ok(())
}

/// How long the agents may take to see the Services.
const SERVICES_LIMIT: Duration = Duration::from_secs(10);

/// Writes the walkthrough's two Services and waits until every node serves them.
pub fn start_services(lab: &Lab) -> Result<()> {
    let clusterip = manifests::service("svc-clusterip", "10.200.1.63", 9000, 80);
    let mut nodeport = manifests::service("svc-nodeport", "10.200.1.217", 9000, 8080);
    nodeport["spec"]["type"] = json!("NodePort");
    nodeport["spec"]["externalTrafficPolicy"] = json!("Cluster");
    nodeport["spec"]["ports"][0]["nodePort"] = json!(31662);
    let pods = lab.pods()?;
    for (service, stem, port) in [(clusterip, "web-", 80), (nodeport, "echo-", 8080)] {
        let name = service["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let endpoints = pods
            .iter()
            .filter(|pod| pod.name().starts_with(stem))
            .filter_map(|pod| Some((pod.address(false)?, pod.node())));
        let slice = manifests::endpoint_slice(&name, port, endpoints);
        lab.write_manifest(&format!("{name}-endpoints"), &slice)?;
        lab.write_manifest(&name, &service)?;
    }
    for node in lab.cluster()? {
        let served = || {
            ["10.200.1.63:9000", "10.200.1.217:9000"]
                .iter()
                .all(|target| {
                    let line = format!("curl -sf -o /dev/null --max-time 1 {target}");
                    node.place().sh(&line).is_ok_and(|ran| ran.status == 0)
                })
        };
        wait::until(
            &format!("Services on {}", node.name()),
            SERVICES_LIMIT,
            served,
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
            "exec worker2 podwire-agent status",
            "what the agent keeps right",
        ),
        (
            "exec worker2 podwire-agent why pod1 10.200.1.63:9000",
            "the way of a packet, hop by hop",
        ),
        (
            "exec worker2 nft list ruleset",
            "the rules, in the kernel's own words",
        ),
        (
            "run worker3 mine --port 8080:80",
            "one more pod, with a port on its node",
        ),
        ("logs worker2", "what the agent did"),
        ("walkthrough", "the walkthrough again"),
        ("down", "the end: nothing is left"),
    ] {
        text.push_str(&format!("  podwire-lab {command:<53} # {note}\n"));
    }
    Ok(text)
}
