//! Looking at the lab: what is on its nodes, and who answers whom.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use podwire_kernel::nft::{Family, NftSocket};
use podwire_lab::Lab;
use podwire_lab::error::{Error, Result};
use podwire_lab::load::ask_http;
use podwire_lab::node::Node;
use podwire_lab::place::Place;
use serde_json::Value;

use crate::churn::Wanted;
use crate::invariants::{Answer, Asked, Attached, OnNode};
use crate::usage::Usage;

/// After this long without an answer there is none: longer than the first retry of a SYN.
const PATIENCE: Duration = Duration::from_millis(1500);
/// The tables of the agent and the plugin.
const TABLES: [(Family, &str); 7] = [
    (Family::Ip, "podwire-services"),
    (Family::Ip, "podwire-policy"),
    (Family::Inet, "podwire-hostports"),
    (Family::Inet, "podwire-ipmasq"),
    (Family::Inet, "podwire-masquerade"),
    (Family::Inet, "podwire-connections"),
    (Family::Inet, "podwire-refused"),
];

/// What is on a node.
pub fn on_node(node: &Node) -> Result<OnNode> {
    let place = node.place();
    let lines = |line: &str| -> Result<BTreeSet<String>> {
        let text = place.output(line)?;
        Ok(text.lines().map(|line| line.trim().to_owned()).collect())
    };
    let leases = "ls /run/podwire/ipam/podwire 2>/dev/null | grep -E '^[0-9a-f]+[.:]'; true";
    let links = "ip -o link show group 112 | sed -E 's/^[0-9]+: ([^@:]+).*/\\1/'";
    let records = lines("ls /run/podwire/attachments 2>/dev/null | grep -vx lock; true")?;
    let mut seen = OnNode {
        leases: lines(leases)?,
        links: lines(links)?,
        records: records.len(),
        routes: lines("ip route show proto 112; ip -6 route show proto 112")?,
        ..OnNode::default()
    };
    for (family, name) in TABLES {
        let table = place.kernel(move || NftSocket::open()?.observe(family, name))?;
        let Some(table) = table else { continue };
        for (chain, _) in table.chains.iter() {
            seen.chains.insert(format!("{name} {chain}"));
        }
        // What rules put into sets goes by itself.
        for (set_name, set) in table.sets.iter().filter(|(_, set)| !set.dynamic) {
            let key = |key| format!("{name} {set_name} {}", set.display_key(key));
            seen.elements
                .extend(set.elements.keys().map(|one| key(one)));
        }
    }
    Ok(seen)
}

/// What the agent of a node says of itself.
pub fn status(node: &Node) -> Result<Value> {
    let command = "podwire-agent status -o json";
    let text = node.place().output(command)?;
    serde_json::from_str(&text).map_err(|error| Error::Command {
        command: command.into(),
        place: node.name().into(),
        reason: error.to_string(),
    })
}

/// What the agent of a node uses, if it runs.
pub fn usage(node: &Node) -> Result<Option<Usage>> {
    let Some(pid) = node.agent() else {
        return Ok(None);
    };
    node.place().inside(|| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let memory = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))?;
        let memory = memory.trim().trim_end_matches(" kB").parse().ok()?;
        let files = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count();
        Some(Usage {
            memory,
            files: files as u64,
        })
    })
}

/// The pods as the runtime knows them.
pub fn attached(lab: &Lab) -> Result<BTreeMap<String, Attached>> {
    let pods = lab.pods()?.into_iter().map(|pod| {
        let attached = Attached {
            addresses: pod.addresses().iter().map(IpAddr::to_string).collect(),
            link: pod.host_link(),
        };
        (pod.name().to_owned(), attached)
    });
    Ok(pods.collect())
}

/// Everybody asks everybody: pods each other and every Service, as often as it could be answered by
/// another endpoint; a neighbour all ports of nodes.
pub fn ask_all(lab: &Lab, wanted: &Wanted) -> Result<Vec<Answer>> {
    let mut pods = lab.pods()?;
    // Without those that are broken.
    pods.retain(|pod| wanted.pods.contains_key(pod.name()));
    let mut inside = Vec::new();
    for pod in &pods {
        let address = pod.address(false);
        inside.extend(address.map(|ip| (Asked::Pod(pod.name().into()), SocketAddr::new(ip, 80))));
    }
    for (name, service) in &wanted.services {
        let target = SocketAddr::new(service.address.into(), 80);
        let times = 2 * service.endpoints.len() + 1;
        inside.extend(std::iter::repeat_n(
            (Asked::Service(name.clone()), target),
            times,
        ));
    }
    let mut answers = Vec::new();
    for pod in &pods {
        answers.extend(ask_from(pod.place(), &inside)?);
    }
    let neighbour = lab.machine("mypc")?;
    answers.extend(ask_from(neighbour.place(), &outside(lab, wanted)?)?);
    Ok(answers)
}

/// What a neighbour can ask.
fn outside(lab: &Lab, wanted: &Wanted) -> Result<Vec<(Asked, SocketAddr)>> {
    let mut questions = Vec::new();
    for node in lab.cluster()? {
        let Some(address) = node.machine().address(false) else {
            continue;
        };
        for (name, service) in &wanted.services {
            let asked = || Asked::NodePort(name.clone(), node.name().into());
            let port = service.node_port;
            questions.extend(port.map(|port| (asked(), SocketAddr::new(address, port))));
        }
        for (name, pod) in wanted
            .pods
            .iter()
            .filter(|(_, pod)| pod.node == node.name())
        {
            let asked = || Asked::HostPort(name.clone());
            let port = pod.host_port;
            questions.extend(port.map(|port| (asked(), SocketAddr::new(address, port))));
        }
    }
    Ok(questions)
}

fn ask_from(place: &Place, questions: &[(Asked, SocketAddr)]) -> Result<Vec<Answer>> {
    place.inside(|| {
        let ask = |(asked, target): &(Asked, SocketAddr)| Answer {
            from: place.name().into(),
            asked: asked.clone(),
            answer: ask_http(*target, PATIENCE).map_err(|error| error.to_string()),
        };
        questions.iter().map(ask).collect()
    })
}
