//! Looking at the lab: what is on its nodes, and who answers whom.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::Duration;

use podwire_kernel::nft::{Family, NftSocket};
use podwire_lab::Lab;
use podwire_lab::error::{Error, Result};
use podwire_lab::load::ask_http;
use podwire_lab::node::Node;
use podwire_lab::place::Place;
use podwire_lab::pod::Pod;
use serde_json::Value;

use crate::churn::Wanted;
use crate::invariants::{Answer, Asked, Attached, OnNode, always_answers};
use crate::usage::Usage;

/// After this long without an answer there is none: longer than the first retry of a SYN.
const PATIENCE: Duration = Duration::from_millis(1500);
/// The same where a policy may drop the question: silence is right there, and an answer comes at once.
const SILENCE: Duration = Duration::from_millis(400);
/// How many questions one thread asks: that many silences may take a fraction of what all may take.
const IN_A_ROW: usize = 6;
/// The tables of the agent and the plugin.
const TABLES: [(Family, &str); 8] = [
    (Family::Ip, "podwire-services"),
    (Family::Ip, "podwire-policy"),
    (Family::Ip6, "podwire-policy"),
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

/// A question, where it goes, and how long an answer is waited for.
struct Question {
    asked: Asked,
    target: SocketAddr,
    patience: Duration,
}

/// All ask all others at once: pods each other and every Service, as often as it could be
/// answered by another endpoint; a neighbour all ports of nodes.
pub fn ask_all(lab: &Lab, wanted: &Wanted) -> Result<Vec<Answer>> {
    let mut pods = lab.pods()?;
    // Without those that are broken.
    pods.retain(|pod| wanted.pods.contains_key(pod.name()));
    let neighbour = lab.machine("mypc")?;
    let mut asked = vec![(neighbour.place(), outside(lab, wanted)?)];
    let inside = |pod| (Pod::place(pod), inside(&pods, wanted, pod.name()));
    asked.extend(pods.iter().map(inside));
    thread::scope(|scope| {
        let mut asking = Vec::new();
        for (place, questions) in &asked {
            for some in questions.chunks(IN_A_ROW) {
                asking.push(scope.spawn(move || ask_from(place, some)));
            }
        }
        let mut answers = Vec::new();
        for one in asking {
            let found = one
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            answers.extend(found?);
        }
        Ok(answers)
    })
}

/// What a pod can ask.
fn inside(pods: &[Pod], wanted: &Wanted, from: &str) -> Vec<Question> {
    let mut questions = Vec::new();
    for pod in pods {
        let patience = patience(wanted.may_reach(from, pod.name()));
        questions.extend(pod.addresses().into_iter().map(|address| Question {
            asked: Asked::Pod(pod.name().into()),
            target: SocketAddr::new(address, 80),
            patience,
        }));
    }
    for (name, service) in &wanted.services {
        let answers = always_answers(wanted, from, &service.endpoints);
        // Where silence is right most of the questions would be spent on it.
        let times = if answers {
            2 * service.endpoints.len()
        } else {
            1
        } + 1;
        questions.extend((0..times).map(|_| Question {
            asked: Asked::Service(name.clone()),
            target: SocketAddr::new(service.address.into(), 80),
            patience: patience(answers),
        }));
    }
    questions
}

fn patience(answers: bool) -> Duration {
    if answers { PATIENCE } else { SILENCE }
}

/// What a neighbour can ask.
fn outside(lab: &Lab, wanted: &Wanted) -> Result<Vec<Question>> {
    let mut questions = Vec::new();
    for node in lab.cluster()? {
        let Some(address) = node.machine().address(false) else {
            continue;
        };
        let mut ask = |asked, port, answers| {
            questions.push(Question {
                asked,
                target: SocketAddr::new(address, port),
                patience: patience(answers),
            });
        };
        for (name, service) in &wanted.services {
            if let Some(port) = service.node_port {
                let asked = Asked::NodePort(name.clone(), node.name().into());
                ask(
                    asked,
                    port,
                    always_answers(wanted, "mypc", &service.endpoints),
                );
            }
        }
        for (name, pod) in &wanted.pods {
            if let Some(port) = pod.host_port.filter(|_| pod.node == node.name()) {
                let answers = wanted.may_reach("mypc", name);
                ask(Asked::HostPort(name.clone()), port, answers);
            }
        }
    }
    Ok(questions)
}

fn ask_from(place: &Place, questions: &[Question]) -> Result<Vec<Answer>> {
    place.inside(|| {
        let ask = |question: &Question| Answer {
            from: place.name().into(),
            asked: question.asked.clone(),
            answer: ask_http(question.target, question.patience).map_err(|e| e.to_string()),
        };
        questions.iter().map(ask).collect()
    })
}
