//! Why a case failed, as the agents of the cluster see it.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;

use podwire_agent::report::Report;
use podwire_agent::why::{End, Trace};
use tokio::time::timeout;

use crate::fleet::Fleet;
use crate::test::ground::Explain;

/// How long an agent may think about a question. The test has many.
const ANSWER: Duration = Duration::from_secs(10);

/// So many lines about one node are told.
const MOST: usize = 20;

/// The agents of a cluster.
pub struct Agents {
    fleet: Fleet,
    /// The nodes whose agents gave no answer: they are not waited for again.
    silent: Mutex<BTreeSet<String>>,
}

impl Agents {
    /// Those of this fleet.
    pub fn new(fleet: Fleet) -> Self {
        Self {
            fleet,
            silent: Mutex::default(),
        }
    }

    /// Why policies are not tried: they are off on a node, or no one says. None if they are on.
    pub async fn no_policies(&self) -> Option<String> {
        let reports = self.fleet.get_all::<Report>("/status").await;
        let mut known = false;
        for (node, report) in reports {
            if let Ok(report) = report {
                known = true;
                if report.policies.is_none() {
                    return Some(format!("policies are switched off on node {node}"));
                }
            }
        }
        match known {
            true => None,
            false => Some("no agent says whether policies are on".to_owned()),
        }
    }

    fn is_silent(&self, node: &str) -> bool {
        let silent = self.silent.lock();
        silent.is_ok_and(|silent| silent.contains(node))
    }

    /// Notes that an agent gave no answer, and says so the first time.
    fn note(&self, node: &str, reason: String) -> Vec<String> {
        let first = self.silent.lock().is_ok_and(|mut silent| silent.insert(node.to_owned()));
        match first {
            true => vec![reason],
            false => Vec::new(),
        }
    }
}

impl Explain for Agents {
    async fn why(&self, node: &str, source: &str, destination: &str) -> Vec<String> {
        if self.is_silent(node) {
            return Vec::new();
        }
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("from", source)
            .append_pair("to", destination)
            .finish();
        let target = format!("/why?{query}");
        let asked = timeout(ANSWER, self.fleet.get::<Trace>(node, &target)).await;
        let silent = || format!("the agent on node {node} gave no answer in {} s", ANSWER.as_secs());
        match asked {
            Ok(Ok(trace)) => told(&trace),
            Ok(Err(error @ crate::reach::ReachError::Refused { .. })) => vec![error.to_string()],
            Ok(Err(error)) => self.note(node, error.to_string()),
            Err(_) => self.note(node, silent()),
        }
    }

    async fn wrong(&self) -> Vec<String> {
        let reports = self.fleet.each(|fleet, node| async move {
            let report = timeout(ANSWER, fleet.get::<Report>(&node, "/status")).await;
            report.unwrap_or_else(|_| {
                Err(crate::reach::ReachError::Late {
                    node,
                    seconds: ANSWER.as_secs(),
                })
            })
        });
        let mut lines = Vec::new();
        let mut known = Vec::new();
        for (node, report) in reports.await {
            match report {
                Ok(report) => known.push((node, report)),
                Err(error) => lines.push(error.to_string()),
            }
        }
        lines.extend(known.iter().flat_map(|(node, report)| complaints(node, report)));
        lines.extend(different_mtus(&known));
        lines
    }
}

/// What matters of a way: how it ends, and where the kernel is not as it should be.
fn told(trace: &Trace) -> Vec<String> {
    let mut lines = Vec::new();
    // Whoever has no say has nothing to say.
    if trace.end != End::Elsewhere {
        lines.push(format!("why, on node {}: {}", trace.node, trace.conclusion));
    }
    let differences = trace.differences.iter().take(MOST);
    lines.extend(differences.map(|one| format!("node {} differs: {one}", trace.node)));
    lines
}

/// One line if not all nodes send packets of the same size to each other: larger ones vanish, because
/// between nodes there is no router that could say so.
fn different_mtus(reports: &[(String, Report)]) -> Option<String> {
    let uplinks = reports.iter().filter_map(|(node, report)| Some((node, report.uplink.as_ref()?)));
    let mtus: BTreeSet<u32> = uplinks.clone().map(|(_, uplink)| uplink.mtu).collect();
    if mtus.len() < 2 {
        return None;
    }
    let most = mtus.last().copied();
    let smaller: Vec<String> = uplinks
        .filter(|(_, uplink)| Some(uplink.mtu) != most)
        .take(MOST)
        .map(|(node, uplink)| format!("{} bytes on node {node} ({})", uplink.mtu, uplink.name))
        .collect();
    Some(format!(
        "the uplinks have different MTUs, so packets that fill {} bytes are lost on the way to the \
         others: {}",
        most.unwrap_or_default(),
        smaller.join(", ")
    ))
}

fn complaints(node: &str, report: &Report) -> Vec<String> {
    let down = report.uplink.as_ref().filter(|uplink| !uplink.up);
    let down = down.map(|uplink| format!("node {node}: the uplink {} is down", uplink.name));
    let warnings = report.warnings.iter();
    let warnings = warnings.map(|one| format!("node {node}: {}: {}: {}", one.feature, one.object, one.text));
    let differences = report.differences.iter().map(|one| format!("node {node} differs: {one}"));
    down.into_iter().chain(warnings).chain(differences).take(MOST).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use podwire_agent::report::{PoliciesReport, UplinkReport, WarningReport};

    use super::*;
    use crate::reach::fake::{Fake, Says};

    fn report(mtu: u32) -> Report {
        Report {
            uplink: Some(UplinkReport {
                name: "eth0".into(),
                mtu,
                up: true,
                ..UplinkReport::default()
            }),
            policies: Some(PoliciesReport::default()),
            ..Report::default()
        }
    }

    async fn agents(fake: Fake) -> Agents {
        Agents::new(Fleet::assemble(Arc::new(fake)).await.unwrap())
    }

    const WHY: &str = "/why?from=test%2Fclient-0&to=10.0.0.1";

    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_way_is_told_and_a_silent_agent_is_named_once() {
        let trace = Trace {
            node: "a".into(),
            source: "test/client-0".into(),
            destination: "10.0.0.1".into(),
            hops: Vec::new(),
            end: End::Dropped,
            conclusion: "It is dropped.".into(),
            differences: vec!["a route is missing".into()],
        };
        let fake = Fake::of(&["a", "b"]).tells("a", WHY, &trace).says("b", WHY, Says::Nothing);
        let agents = agents(fake).await;
        let ask = async |node| agents.why(node, "test/client-0", "10.0.0.1").await;
        assert_eq!(
            ask("a").await,
            ["why, on node a: It is dropped.", "node a differs: a route is missing"]
        );
        assert_eq!(ask("b").await, ["the agent on node b gave no answer in 10 s"]);
        assert_eq!(ask("b").await, Vec::<String>::new());
    }

    #[tokio::test(start_paused = true)]
    async fn what_agents_warn_of_and_where_nodes_differ_is_told() {
        let mut warned = report(1500);
        warned.warnings.push(WarningReport {
            feature: "routes".into(),
            object: "10.0.1.0/24".into(),
            text: "another program removes it".into(),
        });
        let fake = Fake::of(&["a", "b", "c"])
            .tells("a", "/status", &warned)
            .tells("b", "/status", &report(1300))
            .says("c", "/status", Says::Nothing);
        let lines = agents(fake).await.wrong().await.join("\n");
        for wanted in [
            "no answer",
            "node a: routes: 10.0.1.0/24: another program removes it",
            "1300 bytes on node b (eth0)",
        ] {
            assert!(lines.contains(wanted), "{wanted}: {lines}");
        }
    }

    #[tokio::test]
    async fn policies_are_tried_only_if_they_are_on_everywhere() {
        let on = |fake: Fake| fake.tells("a", "/status", &report(1500));
        let agents_of = async |fake| agents(fake).await.no_policies().await;
        assert_eq!(agents_of(on(Fake::of(&["a"]))).await, None);
        let off = on(Fake::of(&["a", "b"])).tells("b", "/status", &Report::default());
        assert_eq!(agents_of(off).await.unwrap(), "policies are switched off on node b");
        assert!(agents_of(Fake::of(&["a"])).await.is_some());
    }
}
