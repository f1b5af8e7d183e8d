//! What must hold whenever nothing has happened for some seconds. Pure: from what is wanted and what
//! was seen to what is wrong, one sentence each.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::Value;

use crate::churn::Wanted;
use crate::policy::Directions;

/// What is on one node, as text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OnNode {
    /// Addresses that have a lease.
    pub leases: BTreeSet<String>,
    /// Links of pods.
    pub links: BTreeSet<String>,
    /// Attachment records: of attachments that nftables has something for.
    pub records: usize,
    /// Routes to the pods of others.
    pub routes: BTreeSet<String>,
    /// Elements in our tables: `TABLE SET KEY`.
    pub elements: BTreeSet<String>,
    /// Chains in our tables: `TABLE CHAIN`.
    pub chains: BTreeSet<String>,
}

/// A pod as the runtime knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// Its addresses.
    pub addresses: Vec<String>,
    /// Its link on the node.
    pub link: String,
}

/// Whom someone asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// A pod, at its own address.
    Pod(String),
    /// A pod, at its hostPort.
    HostPort(String),
    /// A Service, at its ClusterIP.
    Service(String),
    /// A Service, at its node port on a node.
    NodePort(String, String),
}

/// What came of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Who asked.
    pub from: String,
    /// Who was asked.
    pub asked: Asked,
    /// The name of the pod that answered, or what went wrong.
    pub answer: Result<String, String>,
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(name) => write!(f, "pod {name}"),
            Self::HostPort(name) => write!(f, "the hostPort of {name}"),
            Self::Service(name) => write!(f, "Service {name}"),
            Self::NodePort(name, node) => write!(f, "the node port of {name} on {node}"),
        }
    }
}

/// Each pod is reached by those who may, and by no one else; each Service is answered by those of its
/// endpoints that the asker may reach, and by no one if it has none or the packet went to another.
pub fn of_answers(wanted: &Wanted, answers: &[Answer]) -> Vec<String> {
    let wrong = answers.iter().filter_map(|one| {
        let good = match &one.asked {
            Asked::Pod(name) | Asked::HostPort(name) => match &one.answer {
                Ok(pod) => pod == name && wanted.may_reach(&one.from, name),
                Err(_) => !wanted.may_reach(&one.from, name),
            },
            Asked::Service(name) | Asked::NodePort(name, _) => {
                let endpoints = &wanted.services.get(name)?.endpoints;
                match &one.answer {
                    Ok(pod) => endpoints.contains(pod) && wanted.may_reach(&one.from, pod),
                    Err(_) => !always_answers(wanted, &one.from, endpoints),
                }
            }
        };
        let answer = match &one.answer {
            Ok(pod) => format!("answered by {pod}"),
            Err(why) => why.clone(),
        };
        (!good).then(|| format!("{} asks {}: {answer}", one.from, one.asked))
    });
    wrong.collect()
}

/// Whether a Service with these endpoints answers whenever it is asked.
pub fn always_answers(wanted: &Wanted, from: &str, endpoints: &BTreeSet<String>) -> bool {
    !endpoints.is_empty() && endpoints.iter().all(|pod| wanted.may_reach(from, pod))
}

/// What `podwire-agent status -o json` says is not well on a node.
pub fn of_status(node: &str, status: &Value) -> Vec<String> {
    let list = |key: &str| status[key].as_array().cloned().unwrap_or_default();
    let mut wrong = Vec::new();
    if status["listed"] != true {
        wrong.push(format!("{node}: not everything is listed yet"));
    }
    // A policy for a group that has no pod just now is the churn's own doing.
    let is_meant = |warning: &Value| {
        let text = warning["text"].as_str().unwrap_or_default();
        warning["feature"] == "policies" && text.starts_with("it selects nothing")
    };
    for warning in list("warnings").iter().filter(|one| !is_meant(one)) {
        wrong.push(format!("{node}: warning: {warning}"));
    }
    for difference in list("differences") {
        wrong.push(format!("{node}: difference: {difference}"));
    }
    for feature in list("features") {
        if !feature["error"].is_null() {
            wrong.push(format!("{node}: {}: {}", feature["name"], feature["error"]));
        }
    }
    wrong
}

/// Nothing more and nothing less than what the pods and Services need is on a node.
pub fn of_node(
    node: &str,
    wanted: &Wanted,
    all: &BTreeMap<String, Attached>,
    seen: &OnNode,
) -> Vec<String> {
    let here = || wanted.pods.iter().filter(|(_, pod)| pod.node == node);
    let attached = || here().filter_map(|(name, _)| all.get(name));
    let leases = attached().flat_map(|pod| pod.addresses.iter().cloned());
    let links = attached().map(|pod| pod.link.clone());
    let services = wanted.services.values();
    let services = services.map(|service| format!("{} . tcp . 80", service.address));
    let host_ports = here().filter_map(|(_, pod)| Some(pod.host_port?.to_string()));
    let mut wrong = Vec::new();
    let mut compare = |what: &str, wanted: BTreeSet<String>, seen: BTreeSet<String>| {
        wrong.extend(differences(node, what, &wanted, &seen));
    };
    compare("lease", leases.collect(), seen.leases.clone());
    compare("link", links.collect(), seen.links.clone());
    let of_services = seen.elements_of("podwire-services services");
    compare("Service element", services.collect(), of_services);
    let ports = seen.elements_of("podwire-hostports hostports-v4");
    let ports = ports.iter().filter_map(|key| key.rsplit(" . ").next());
    compare(
        "hostPort",
        host_ports.collect(),
        ports.map(str::to_owned).collect(),
    );
    let recorded = here().filter(|(_, pod)| pod.host_port.is_some()).count();
    wrong.extend(of_policies(node, wanted, all, seen));
    if seen.records != recorded {
        let records = seen.records;
        wrong.push(format!(
            "{node}: {records} attachment records of {recorded} pods with a hostPort"
        ));
    }
    wrong
}

/// The table of policies says of each pod of a node whether it is isolated, and nothing else.
fn of_policies(
    node: &str,
    wanted: &Wanted,
    all: &BTreeMap<String, Attached>,
    seen: &OnNode,
) -> Vec<String> {
    let mut wrong = Vec::new();
    // The API still says that a pod without its link has its addresses, and an agent that was not
    // there when the link went goes by that.
    let lost = wanted.broken.iter().filter_map(|name| all.get(name));
    let lost: BTreeSet<_> = lost.flat_map(|pod| pod.addresses.iter().cloned()).collect();
    let here = || wanted.pods.iter().filter(|(_, pod)| pod.node == node);
    let is = |pod: &String, direction| wanted.is_isolated(pod, direction);
    let addresses = |wants: &dyn Fn(&String) -> bool| -> BTreeSet<String> {
        // Without any policy there is no table.
        let pods = here().filter(|(name, _)| !wanted.policies.is_empty() && wants(name));
        let pods = pods.filter_map(|(name, _)| all.get(name));
        pods.flat_map(|pod| pod.addresses.iter().cloned()).collect()
    };
    for (set, wants) in [
        ("open-in", addresses(&|pod| !is(pod, Directions::Ingress))),
        ("open-out", addresses(&|pod| !is(pod, Directions::Egress))),
    ] {
        let mut found = seen.elements_of(&format!("podwire-policy {set}"));
        found.retain(|address| wants.contains(address) || !lost.contains(address));
        let what = format!("address in {set}");
        wrong.extend(differences(node, &what, &wants, &found));
    }
    let isolated = |pod: &String| is(pod, Directions::Ingress) || is(pod, Directions::Egress);
    let isolated = addresses(&isolated);
    let mut found = seen.elements_of("podwire-policy self");
    found.retain(|pair| {
        let address = pair.split(" . ").next().unwrap_or_default();
        isolated.contains(address) || !lost.contains(address)
    });
    let isolated = isolated.into_iter();
    let pairs = isolated.map(|address| format!("{address} . {address}"));
    wrong.extend(differences(node, "isolated pod", &pairs.collect(), &found));
    let has_table = seen
        .chains
        .iter()
        .any(|chain| chain.starts_with("podwire-policy "));
    if has_table == wanted.policies.is_empty() {
        let there = if has_table { "a table" } else { "no table" };
        let policies = wanted.policies.len();
        wrong.push(format!(
            "{node}: {there} of policies, and {policies} policies"
        ));
    }
    wrong
}

/// What is on a node and should not be, and the other way round.
fn differences(
    node: &str,
    what: &str,
    wanted: &BTreeSet<String>,
    seen: &BTreeSet<String>,
) -> Vec<String> {
    let left = seen.difference(wanted);
    let left = left.map(|one| format!("{node}: {what} {one} is left over"));
    let missing = wanted.difference(seen);
    let missing = missing.map(|one| format!("{node}: {what} {one} is missing"));
    left.chain(missing).collect()
}

/// One of the sets of what is on a node.
type Part = fn(&OnNode) -> &BTreeSet<String>;

/// A node is as it was before anything happened.
pub fn of_end(node: &str, before: &OnNode, after: &OnNode) -> Vec<String> {
    let parts: [(&str, Part); 5] = [
        ("lease", |seen| &seen.leases),
        ("link", |seen| &seen.links),
        ("route", |seen| &seen.routes),
        ("element", |seen| &seen.elements),
        ("chain", |seen| &seen.chains),
    ];
    let mut wrong = Vec::new();
    for (what, part) in parts {
        for left in part(after).difference(part(before)) {
            wrong.push(format!("{node}: {what} {left} is left in the end"));
        }
        for gone in part(before).difference(part(after)) {
            wrong.push(format!("{node}: {what} {gone} was there before"));
        }
    }
    wrong
}

impl OnNode {
    /// The keys of the elements of a set.
    fn elements_of(&self, set: &str) -> BTreeSet<String> {
        let keys = self.elements.iter().filter_map(|element| {
            let key = element.strip_prefix(set)?;
            key.strip_prefix(' ').map(str::to_owned)
        });
        keys.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::churn::{Pod, Service};
    use crate::policy::Policy;
    use serde_json::json;

    fn set(texts: &[&str]) -> BTreeSet<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    fn wanted() -> Wanted {
        let mut wanted = Wanted::on(vec!["worker".into()]);
        let pod = |host_port, group| Pod {
            node: "worker".into(),
            host_port,
            group,
        };
        wanted.pods.insert("a".into(), pod(Some(8080), 0));
        wanted.pods.insert("b".into(), pod(None, 1));
        let service = |last, endpoints| Service {
            address: std::net::Ipv4Addr::new(10, 200, 1, last),
            node_port: None,
            endpoints: set(endpoints),
        };
        wanted.services.insert("one".into(), service(10, &["a"]));
        wanted.services.insert("empty".into(), service(11, &[]));
        wanted
    }

    fn attached() -> BTreeMap<String, Attached> {
        let one = |address: &str, link: &str| Attached {
            addresses: vec![address.into()],
            link: link.into(),
        };
        BTreeMap::from([
            ("a".into(), one("10.10.1.2", "veth1")),
            ("b".into(), one("10.10.1.3", "veth2")),
        ])
    }

    fn right() -> OnNode {
        OnNode {
            leases: set(&["10.10.1.2", "10.10.1.3"]),
            links: set(&["veth1", "veth2"]),
            records: 1,
            elements: set(&[
                "podwire-services services 10.200.1.10 . tcp . 80",
                "podwire-services services 10.200.1.11 . tcp . 80",
                "podwire-services services-of-another x",
                "podwire-hostports hostports-v4 tcp . 8080",
            ]),
            ..OnNode::default()
        }
    }

    #[test]
    fn a_right_node_is_right_and_what_is_left_over_or_missing_is_named() {
        let check = |seen: &OnNode| of_node("worker", &wanted(), &attached(), seen);
        assert_eq!(check(&right()), [""; 0]);
        let mut seen = right();
        seen.leases.insert("10.10.1.9".into());
        seen.links.remove("veth2");
        seen.elements.retain(|element| !element.contains("8080"));
        seen.records = 3;
        assert_eq!(
            check(&seen),
            [
                "worker: lease 10.10.1.9 is left over",
                "worker: link veth2 is missing",
                "worker: hostPort 8080 is missing",
                "worker: 3 attachment records of 1 pods with a hostPort",
            ]
        );
    }

    #[test]
    fn a_wrong_answer_and_an_answer_without_endpoints_are_wrong() {
        let answer = |asked, answer: Result<&str, &str>| Answer {
            from: "b".into(),
            asked,
            answer: answer.map(str::to_owned).map_err(str::to_owned),
        };
        let service = |name: &str| Asked::Service(name.into());
        let good = [
            answer(Asked::Pod("a".into()), Ok("a")),
            answer(service("one"), Ok("a")),
            answer(service("empty"), Err("refused")),
        ];
        assert_eq!(of_answers(&wanted(), &good), [""; 0]);
        let bad = [
            answer(Asked::HostPort("a".into()), Ok("b")),
            answer(service("one"), Ok("b")),
            answer(service("one"), Err("timed out")),
            answer(service("empty"), Ok("a")),
        ];
        assert_eq!(of_answers(&wanted(), &bad).len(), bad.len());
    }

    /// No one but `a` itself may reach `a`.
    fn isolating() -> Wanted {
        let mut wanted = wanted();
        let policy = Policy {
            selects: 0,
            directions: Directions::Ingress,
            allows: None,
        };
        wanted.policies.insert("p".into(), policy);
        wanted
    }

    #[test]
    fn isolated_pods_are_in_self_and_open_ones_in_the_open_sets() {
        let mut seen = right();
        let check = |wanted: &Wanted, seen: &OnNode| of_node("worker", wanted, &attached(), seen);
        assert_eq!(check(&isolating(), &seen).len(), 5);
        seen.chains = set(&["podwire-policy forward"]);
        for element in [
            "open-in 10.10.1.3",
            "open-out 10.10.1.2",
            "open-out 10.10.1.3",
            "self 10.10.1.2 . 10.10.1.2",
        ] {
            seen.elements.insert(format!("podwire-policy {element}"));
        }
        assert_eq!(check(&isolating(), &seen), [""; 0]);
        assert_eq!(check(&wanted(), &seen).len(), 5, "all of it is left over");
    }

    #[test]
    fn an_answer_that_a_policy_forbids_is_wrong_and_so_is_silence_where_it_allows() {
        let answer = |from: &str, asked: &Asked, good: bool| Answer {
            from: from.into(),
            asked: asked.clone(),
            answer: if good {
                Ok("a".into())
            } else {
                Err("timed out".into())
            },
        };
        let [pod, service] = [Asked::Pod("a".into()), Asked::Service("one".into())];
        for asked in [&pod, &service] {
            let answers = [true, false].map(|good| answer("b", asked, good));
            assert_eq!(of_answers(&isolating(), &answers).len(), 1);
            assert!(of_answers(&isolating(), &answers)[0].contains("answered by a"));
            let own = [true, false].map(|good| answer("a", asked, good));
            assert!(of_answers(&isolating(), &own)[0].contains("timed out"));
        }
    }

    #[test]
    fn a_status_with_anything_to_say_is_not_well() {
        let meant =
            json!({"feature": "policies", "text": "it selects nothing: no pod has group=0"});
        let good = json!({"listed": true, "warnings": [meant], "differences": [],
            "features": [{"name": "routes", "error": null}]});
        assert_eq!(of_status("worker", &good), [""; 0]);
        let bad = json!({"listed": false, "warnings": [{}], "differences": ["x"],
            "features": [{"name": "routes", "error": "no"}]});
        assert_eq!(of_status("worker", &bad).len(), 4);
    }

    #[test]
    fn in_the_end_a_node_is_as_it_was() {
        assert_eq!(of_end("worker", &right(), &right()), [""; 0]);
        let nothing = OnNode::default();
        assert_eq!(of_end("worker", &nothing, &right()).len(), 8);
        assert_eq!(of_end("worker", &right(), &nothing).len(), 8);
    }
}
