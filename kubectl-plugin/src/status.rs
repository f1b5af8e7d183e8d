//! `status`: all nodes on one screen, and first what is wrong.

mod wrong;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use clap::Args;
use podwire_agent::commands::table::Table;
use podwire_agent::report::Report;
use podwire_agent::text::{printable, printable_lines};
use serde::Serialize;

use self::wrong::look_at;
pub use self::wrong::{Finding, Kind, Row, Says};
pub(crate) use self::wrong::{Heard, few, findings};
use crate::fleet::{Answers, Fleet};
use crate::reach::Node;
use crate::said::{DeskError, Output, Said, for_programs};

/// More is only shown with `--all`.
const SHORT: usize = 20;

/// The flags of `status`.
#[derive(Debug, Clone, Args)]
pub struct Status {
    /// How to write it.
    #[arg(short, long, value_enum, default_value = "text")]
    pub output: Output,

    /// Show all nodes and all that is wrong, however many there are.
    #[arg(short, long)]
    pub all: bool,
}

/// The state of a cluster's network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Overview {
    /// The whole state in one sentence.
    pub summary: String,
    /// Everything that is wrong; what concerns most nodes comes first.
    pub findings: Vec<Finding>,
    /// The nodes, sorted by name.
    pub nodes: Vec<Row>,
    /// What may be missing here, and why.
    pub remarks: Vec<String>,
}

/// What programs get: the state, and what it was found out from.
#[derive(Serialize)]
struct Complete<'a> {
    #[serde(flatten)]
    overview: &'a Overview,
    /// The report of each agent that answers, as `podwire-agent status -o json` writes it.
    reports: BTreeMap<&'a str, &'a Report>,
}

impl Status {
    /// Asks all agents.
    pub async fn run(&self, fleet: &Fleet) -> Result<Said, DeskError> {
        let reports = fleet.get_all("/status").await;
        let overview = Overview::put_together(fleet.nodes(), &reports, fleet.remarks());
        let text = match self.output {
            Output::Text => overview.text(if self.all { usize::MAX } else { SHORT }),
            output => {
                let answered = reports.iter();
                let reports =
                    answered.filter_map(|(node, one)| Some((&**node, one.as_ref().ok()?)));
                let reports = reports.collect();
                let overview = &overview;
                for_programs(&Complete { overview, reports }, output)?
            }
        };
        Ok(Said {
            text,
            good: overview.findings.is_empty(),
        })
    }
}

impl Overview {
    /// Asks all agents.
    pub async fn of(fleet: &Fleet) -> Self {
        let reports = fleet.get_all("/status").await;
        Self::put_together(fleet.nodes(), &reports, fleet.remarks())
    }

    fn put_together<'a>(
        nodes: impl Iterator<Item = &'a Node>,
        reports: &Answers<Report>,
        remarks: &[String],
    ) -> Self {
        let (rows, findings) = look_at(nodes.map(|node| {
            let heard = reports.get(&node.name).map(|answer| match answer {
                Ok(report) => Heard::Says(report),
                Err(error) => Heard::Silent {
                    of_the_agent: error.of_the_agent(),
                    why: error.to_string(),
                },
            });
            (node, heard)
        }));
        Self {
            summary: summary(&rows, &findings),
            findings,
            nodes: rows,
            remarks: remarks.to_vec(),
        }
    }

    /// For people. Names in it may be of anyone's choice: what is not printable is escaped.
    fn text(&self, rows: usize) -> String {
        let mut text = printable_lines([&self.summary]);
        if !self.findings.is_empty() {
            text.push_str("\nWrong\n");
        }
        for finding in self.findings.iter().take(rows) {
            let line = format!(
                "  {}: {}: {}",
                finding.place(),
                finding.object,
                finding.text
            );
            let _ = writeln!(text, "{}", printable(&line));
        }
        let more = self.findings.len().saturating_sub(rows);
        if more > 0 {
            let _ = writeln!(text, "  ... and {more} more; --all shows them");
        }
        let _ = write!(text, "\nNodes\n{}", self.table().text(rows, "--all"));
        if !self.remarks.is_empty() {
            text.push('\n');
            text.push_str(&printable_lines(&self.remarks));
        }
        text
    }

    fn table(&self) -> Table {
        let mut table = Table::new(&[
            "NODE", "READY", "AGENT", "UPLINK", "ROUTES", "PODS", "SERVICES", "POLICIES",
        ]);
        for row in &self.nodes {
            table.row(row.cells());
        }
        table
    }
}

impl Row {
    fn cells(&self) -> [String; 8] {
        let ready = match self.node.ready {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "-",
        };
        let unknown = || "-".to_owned();
        let Some(says) = &self.agent_says else {
            let [b, c, d, e, f] = std::array::from_fn(|_| unknown());
            return [
                self.node.name.clone(),
                ready.into(),
                "NO ANSWER".into(),
                b,
                c,
                d,
                e,
                f,
            ];
        };
        let version = match says.version.is_empty() {
            true => "unknown version",
            false => &says.version,
        };
        let uplink = match &says.uplink {
            Some(name) if says.uplink_up => format!("{name}, MTU {}", says.uplink_mtu),
            Some(name) => format!("{name} is DOWN"),
            None => "NONE".into(),
        };
        [
            self.node.name.clone(),
            ready.into(),
            version.into(),
            uplink,
            format!("{}/{}", says.routes, says.routes_wanted),
            says.pods.to_string(),
            says.services.to_string(),
            says.policies.to_string(),
        ]
    }
}

fn summary(rows: &[Row], findings: &[Finding]) -> String {
    let answered = rows.iter().filter(|row| row.agent_says.is_some()).count();
    let pods: usize = rows
        .iter()
        .filter_map(|row| row.agent_says.as_ref())
        .map(|says| says.pods)
        .sum();
    let nodes = match rows.len() {
        1 => "1 node".to_owned(),
        many => format!("{many} nodes"),
    };
    let agents = match rows.len() - answered {
        0 => "every agent answers".to_owned(),
        1 => "1 agent does not answer".to_owned(),
        silent => format!("{silent} agents do not answer"),
    };
    let wrong = match findings.len() {
        0 => "all is as it should be".to_owned(),
        1 => "1 thing is wrong".to_owned(),
        many => format!("{many} things are wrong"),
    };
    format!("{nodes}, {agents}, {pods} pods: {wrong}.")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use podwire_agent::report::{UplinkReport, WarningReport};

    use super::*;
    use crate::reach::AgentPod;
    use crate::reach::fake::{Fake, Says as Answer};

    const HOSTILE: &str = "pod \u{1b}]0;x\u{7}<b>\nforged";

    fn report(node: &str) -> Report {
        Report {
            node: node.into(),
            version: "0.1.0".into(),
            listed: true,
            uplink: Some(UplinkReport {
                name: "eth0".into(),
                mtu: 1500,
                up: true,
                addresses: Vec::new(),
            }),
            ..Report::default()
        }
    }

    async fn said(fake: Fake, output: Output) -> Said {
        let fleet = Fleet::assemble(Arc::new(fake)).await.unwrap();
        let status = Status { output, all: false };
        status.run(&fleet).await.unwrap()
    }

    #[tokio::test]
    async fn a_cluster_in_order_is_a_line_and_a_table() {
        let fake = Fake::of(&["a", "b"])
            .tells("a", "/status", &report("a"))
            .tells("b", "/status", &report("b"));
        let said = said(fake, Output::Text).await;
        assert!(said.good);
        assert_eq!(
            said.text,
            "2 nodes, every agent answers, 0 pods: all is as it should be.\n\nNodes\n  \
             NODE  READY  AGENT  UPLINK          ROUTES  PODS  SERVICES  POLICIES\n  \
             a     -      0.1.0  eth0, MTU 1500  0/0     0     0         0\n  \
             b     -      0.1.0  eth0, MTU 1500  0/0     0     0         0\n"
        );
    }

    #[tokio::test]
    async fn what_is_wrong_comes_first_once_with_its_nodes_and_as_text_only() {
        let warned = |node: &str| Report {
            warnings: vec![WarningReport {
                feature: "services".into(),
                object: HOSTILE.into(),
                text: "is odd".into(),
            }],
            ..report(node)
        };
        let mut other = warned("b");
        other.version = "0.2.0".into();
        other.uplink.as_mut().unwrap().mtu = 1400;
        let mut fake = Fake::of(&["a", "b", "c"])
            .tells("a", "/status", &warned("a"))
            .tells("b", "/status", &other)
            .says("c", "/status", Answer::Badly(503, HOSTILE.into()));
        fake.nodes[2].ready = Some(false);
        fake.nodes[2].agent = Some(AgentPod {
            name: "podwire-c".into(),
            restarts: 7,
            ..AgentPod::default()
        });
        fake.remarks.push(HOSTILE.into());
        let text = said(fake, Output::Text).await;
        assert!(!text.good);
        let text = text.text;
        assert!(
            !text.contains(|c: char| c != '\n' && c.is_control()),
            "{text}"
        );
        let shown = r"pod \u{1b}]0;x\u{7}<b>\nforged";
        for line in [
            "3 nodes, 1 agent does not answer, 0 pods: 6 things are wrong.".to_owned(),
            format!("  nodes a and b: {shown}: is odd"),
            "  the cluster: versions of agents differ: 0.1.0 (a), 0.2.0 (b)".into(),
            "  the cluster: MTUs of uplinks differ: 1400 (b), 1500 (a): large packets between them \
             may be lost"
                .into(),
            "  node c: the Node: is not ready".into(),
            "  node c: the agent's pod podwire-c: was started again 7 times; its log says why".into(),
            format!("  node c: the agent: says: {shown}"),
            shown.into(),
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        let first = text.find("Wrong").unwrap();
        assert!(first < text.find("Nodes").unwrap());
    }

    #[tokio::test]
    async fn json_and_yaml_say_the_same_and_obey_no_name() {
        for output in [Output::Json, Output::Yaml] {
            let mut hostile = report("a");
            hostile.warnings.push(WarningReport {
                feature: "x".into(),
                object: HOSTILE.into(),
                text: "\u{202e}".into(),
            });
            let fake = Fake::of(&["a", "b"]).tells("a", "/status", &hostile);
            let said = said(fake, output).await;
            assert!(!said.text.contains(|c: char| c != '\n' && c.is_control()));
            let value: serde_json::Value = match output {
                Output::Json => serde_json::from_str(&said.text).unwrap(),
                _ => serde_saphyr::from_str(&said.text).unwrap(),
            };
            assert_eq!(value["findings"][0]["object"], HOSTILE);
            assert_eq!(value["nodes"][0]["name"], "a");
            let of_a: Report = serde_json::from_value(value["reports"]["a"].clone()).unwrap();
            assert_eq!(of_a, hostile);
            assert!(value["nodes"][1]["error"].is_string() && value["reports"]["b"].is_null());
        }
    }
}
