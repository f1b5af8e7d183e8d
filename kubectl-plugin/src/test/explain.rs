//! Why a case failed, as the agents of the cluster see it.

use std::collections::BTreeSet;
use std::time::Duration;

use podwire_agent::error::chain;
use podwire_agent::report::Report;
use tokio::time::timeout;

use crate::fleet::Fleet;
use crate::reach::ReachError;
use crate::test::ground::Explain;
use crate::why::{Walk, walk};

/// How long an agent may think about a question. The test has many.
const ANSWER: Duration = Duration::from_secs(10);

/// So many lines about one node are told.
const MOST: usize = 20;

/// How long all agents on a way may think about it.
const WALK: Duration = Duration::from_secs(30);

/// The agents of a cluster.
pub struct Agents {
    fleet: Fleet,
}

impl Agents {
    /// Those of this fleet.
    pub fn new(fleet: Fleet) -> Self {
        Self { fleet }
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
}

impl Explain for Agents {
    async fn why(&self, source: &str, destination: &str) -> Vec<String> {
        match timeout(WALK, walk(&self.fleet, source, destination)).await {
            Ok(Ok(walk)) => told(&walk),
            Ok(Err(error)) => vec![chain(&error)],
            Err(_) => vec![format!("the agents gave no answer in {} s", WALK.as_secs())],
        }
    }

    async fn wrong(&self) -> Vec<String> {
        let reports = self.fleet.each(|fleet, node| async move {
            let report = timeout(ANSWER, fleet.get::<Report>(&node, "/status")).await;
            report.unwrap_or_else(|_| {
                Err(ReachError::Late {
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
        lines.extend(
            known
                .iter()
                .flat_map(|(node, report)| complaints(node, report)),
        );
        lines.extend(different_mtus(&known));
        lines
    }
}

/// What matters of a way: how it ends, and where the kernel is not as it should be.
fn told(walk: &Walk) -> Vec<String> {
    let mut lines = vec![format!("why: {}", walk.conclusion)];
    for (index, part) in walk.parts.iter().enumerate() {
        match &part.trace {
            Ok(trace) => {
                // Where agents find nothing wrong, the way itself shows what they cannot know: a port
                // at which no one listens, say. Services are met where the way begins.
                if walk.good && index == 0 {
                    let hops = trace.hops.iter();
                    let said = hops.flat_map(|hop| std::iter::once(&hop.what).chain(&hop.kernel));
                    lines.extend(
                        said.take(MOST)
                            .map(|hop| format!("node {}: {hop}", part.node)),
                    );
                }
                let differences = trace.differences.iter().take(MOST);
                lines.extend(differences.map(|one| format!("node {} differs: {one}", part.node)));
            }
            Err(error) => lines.push(error.clone()),
        }
    }
    lines.dedup();
    lines
}

/// One line if not all nodes send packets of the same size to each other: larger ones vanish, because
/// between nodes there is no router that could say so.
fn different_mtus(reports: &[(String, Report)]) -> Option<String> {
    let uplinks = reports
        .iter()
        .filter_map(|(node, report)| Some((node, report.uplink.as_ref()?)));
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
    let warnings =
        warnings.map(|one| format!("node {node}: {}: {}: {}", one.feature, one.object, one.text));
    let differences = report
        .differences
        .iter()
        .map(|one| format!("node {node} differs: {one}"));
    down.into_iter()
        .chain(warnings)
        .chain(differences)
        .take(MOST)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use podwire_agent::report::{PoliciesReport, UplinkReport, WarningReport};
    use podwire_agent::why::{End, Trace};

    use super::*;
    use crate::reach::fake::{Fake, Says};
    use crate::why::{Part, Way};

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

    #[test]
    fn the_end_of_a_way_is_told_and_where_the_kernel_differs() {
        let trace = Trace {
            node: "a".into(),
            source: "test/client-0".into(),
            destination: "10.0.0.1".into(),
            hops: Vec::new(),
            end: End::Leaves,
            conclusion: "It leaves.".into(),
            differences: vec!["a route is missing".into()],
        };
        let part = |node: &str, trace| Part {
            node: node.into(),
            way: Way::There,
            title: String::new(),
            trace,
            gone: false,
            goes_on: false,
        };
        let walk = Walk {
            source: trace.source.clone(),
            destination: trace.destination.clone(),
            parts: vec![
                part("a", Ok(trace)),
                part("b", Err("the agent on node b is gone".into())),
            ],
            good: false,
            conclusion: "It fails on node a.".into(),
            failure: None,
        };
        assert_eq!(
            told(&walk),
            [
                "why: It fails on node a.",
                "node a differs: a route is missing",
                "the agent on node b is gone",
            ]
        );
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
        assert_eq!(
            agents_of(off).await.unwrap(),
            "policies are switched off on node b"
        );
        assert!(agents_of(Fake::of(&["a"])).await.is_some());
    }
}
