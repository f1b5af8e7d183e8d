//! The pods of the walkthrough, with the addresses of the notes.

use std::net::IpAddr;
use std::time::Duration;

use ipnetwork::IpNetwork;
use serde_json::json;

use super::written;
use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::pod::{PodSpec, Servers};
use crate::topology::Families;
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

/// The walkthrough's two Services, and where they are in a lab without IPv4.
const ADDRESSES: [&str; 2] = ["10.200.1.63", "10.200.1.217"];
const ADDRESSES_V6: [&str; 2] = ["fd00:10:200:1::63", "fd00:10:200:1::217"];

fn is_v6(lab: &Lab) -> bool {
    lab.topology().families == Families::V6
}

fn service_addresses(lab: &Lab) -> [&'static str; 2] {
    if is_v6(lab) { ADDRESSES_V6 } else { ADDRESSES }
}

/// A port at an address, as a URL has it.
fn with_port(address: &str, port: u16) -> String {
    match address.contains(':') {
        true => format!("[{address}]:{port}"),
        false => format!("{address}:{port}"),
    }
}

/// Writes the walkthrough's two Services and waits until every node serves them.
pub fn start_services(lab: &Lab) -> Result<()> {
    write_services(lab)?;
    let targets = service_addresses(lab).map(|address| with_port(address, 9000));
    for node in lab.cluster()? {
        let served = || {
            targets.iter().all(|target| {
                let line = format!("curl -gsf -o /dev/null --max-time 1 '{target}'");
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

/// Writes them as they are at the start.
pub(super) fn write_services(lab: &Lab) -> Result<()> {
    let [first, second] = service_addresses(lab);
    let clusterip = manifests::service("svc-clusterip", first, 9000, 80);
    let mut nodeport = manifests::service("svc-nodeport", second, 9000, 8080);
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
            .filter_map(|pod| Some((pod.address(is_v6(lab))?, pod.node())));
        let slice = manifests::endpoint_slice(&name, port, endpoints);
        // An agent that saw the EndpointSlice alone would warn of it.
        lab.write_manifest(&name, &service)?;
        lab.write_manifest(&format!("{name}-endpoints"), &slice)?;
    }
    Ok(())
}

/// An error unless the lab has what the walkthrough shows, where it shows it.
pub fn require(lab: &Lab) -> Result<()> {
    let unfit = |reason| {
        let lab = lab.name().into();
        Err(Error::DoesNotFit { lab, reason })
    };
    if is_v6(lab) {
        return unfit("it speaks IPv6 alone, and everything that is shown is about IPv4".into());
    }
    let (_, others) = written::manifests(lab)?;
    if let Some(path) = others.first() {
        return unfit(format!(
            "it would write over {path}, which someone else wrote: move that to another name"
        ));
    }
    let pods = lab.pods()?;
    for node in lab.cluster()? {
        let here = PODS.iter().filter(|(on, ..)| *on == node.name());
        let networks = &node.machine().pod_cidrs;
        let network = networks.iter().find(|network| network.is_ipv4());
        for ((_, name, _), place) in here.zip(2..) {
            let wanted = network.and_then(|network| match network {
                IpNetwork::V4(network) => network.nth(place).map(IpAddr::V4),
                IpNetwork::V6(_) => None,
            });
            let Some(pod) = pods.iter().find(|pod| pod.name() == *name) else {
                return unfit(format!("it has no pod {name}"));
            };
            if let Some(wanted) = wanted.filter(|wanted| pod.address(false) != Some(*wanted)) {
                return unfit(format!("its pod {name} is not at {wanted}"));
            }
        }
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
    let [service, _] = service_addresses(lab);
    let why = format!(
        "exec worker2 podwire-agent why pod1 {}",
        with_port(service, 9000)
    );
    let has_pods = lab.pod("pod1").is_ok();
    let pod2 = lab
        .pod("pod2")
        .ok()
        .and_then(|pod| pod.addresses().first().copied());
    let ping = pod2.map_or_else(String::new, |address| format!("exec pod1 ping {address}"));
    for (command, note) in [
        ("status", "machines, agents, addresses"),
        ("pods", "pods, their addresses and links"),
        (
            "shell worker2",
            "a shell on a node; also in a pod, mypc, internet, lab",
        ),
        (ping.as_str(), "a command in a pod"),
        ("exec worker2 ip route", "a command on a node"),
        (
            "exec worker2 podwire-agent status",
            "what the agent keeps right",
        ),
        (why.as_str(), "the way of a packet, hop by hop"),
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
        let needs_pods = command.is_empty() || command.contains("pod1") || command == "walkthrough";
        if needs_pods && !has_pods || command == "walkthrough" && is_v6(lab) {
            continue;
        }
        text.push_str(&format!("  podwire-lab {command:<53} # {note}\n"));
    }
    Ok(text)
}
