//! What is wrong, by what the agents say and by how they differ, and what there is to say of each node.

use std::collections::{BTreeMap, BTreeSet};

use podwire_agent::report::Report;
use serde::Serialize;

use crate::reach::Node;

/// Fewer starts of an agent are an upgrade or a reboot.
const MANY_RESTARTS: i32 = 3;

/// What kind of thing is wrong, the worst first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// An agent does not answer.
    Silent,
    /// A feature cannot do its work.
    Failure,
    /// The kernel or the disk is not as wanted.
    Difference,
    /// Something to look at.
    #[default]
    Warning,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What kind of thing.
    pub kind: Kind,
    /// On which nodes; empty for the cluster as a whole.
    pub nodes: Vec<String>,
    /// What it is about.
    pub object: String,
    /// What is wrong.
    pub text: String,
}

/// A node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Its name, and what the cluster says of it and its agent.
    #[serde(flatten)]
    pub node: Node,
    /// Why its agent does not answer, if it does not.
    pub error: Option<String>,
    /// What its agent says.
    pub agent_says: Option<Says>,
}

/// What an agent says of its node, in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Says {
    /// The agent's version.
    pub version: String,
    /// True if nothing is wrong there.
    pub good: bool,
    /// The uplink's name, if it is found.
    pub uplink: Option<String>,
    /// Whether it is up.
    pub uplink_up: bool,
    /// Its MTU.
    pub uplink_mtu: u32,
    /// Routes to pods of other nodes that the kernel has.
    pub routes: usize,
    /// Routes that there should be.
    pub routes_wanted: usize,
    /// Pods.
    pub pods: usize,
    /// Services.
    pub services: usize,
    /// Policies that select a pod there.
    pub policies: usize,
}

/// What came of asking a node's agent.
pub(crate) enum Heard<'a> {
    /// Its report.
    Says(&'a Report),
    /// It gives none: why, beside the node's name, and as a sentence of its own.
    Silent { of_the_agent: String, why: String },
}

/// All that is wrong, by what the agents say of these nodes.
pub(crate) fn findings<'a>(nodes: impl Iterator<Item = (&'a Node, Heard<'a>)>) -> Vec<Finding> {
    look_at(nodes.map(|(node, heard)| (node, Some(heard)))).1
}

/// A row for each node, and all that is wrong.
pub(super) fn look_at<'a>(
    nodes: impl Iterator<Item = (&'a Node, Option<Heard<'a>>)>,
) -> (Vec<Row>, Vec<Finding>) {
    let mut found = Findings::default();
    let rows: Vec<Row> = nodes.map(|(node, heard)| found.row(node, heard)).collect();
    found.between(&rows);
    (rows, found.sorted())
}

impl Finding {
    /// On which nodes, in a few words.
    pub(crate) fn place(&self) -> String {
        match self.nodes.as_slice() {
            [] => "the cluster".into(),
            [one] => format!("node {one}"),
            [one, two] => format!("nodes {one} and {two}"),
            [one, rest @ ..] => format!("node {one} and {} more", rest.len()),
        }
    }
}

/// What is wrong, each thing once with all nodes where it is.
#[derive(Default)]
struct Findings(BTreeMap<(String, String), (Kind, BTreeSet<String>)>);

impl Findings {
    fn add(&mut self, node: Option<&str>, object: impl Into<String>, text: impl Into<String>) {
        self.add_as(Kind::Warning, node, object, text);
    }

    fn add_as(
        &mut self,
        kind: Kind,
        node: Option<&str>,
        object: impl Into<String>,
        text: impl Into<String>,
    ) {
        let found = self.0.entry((object.into(), text.into()));
        let (known, nodes) = found.or_default();
        *known = kind.min(*known);
        nodes.extend(node.map(str::to_owned));
    }

    /// How many things are wrong, each counted for each node.
    fn count(&self) -> usize {
        self.0.values().map(|(_, nodes)| nodes.len()).sum()
    }

    fn row(&mut self, node: &Node, heard: Option<Heard<'_>>) -> Row {
        let name = node.name.as_str();
        if node.ready == Some(false) {
            self.add(Some(name), "the Node", "is not ready");
        }
        if let Some(agent) = &node.agent
            && agent.restarts >= MANY_RESTARTS
        {
            let text = format!(
                "was started again {} times; its log says why",
                agent.restarts
            );
            self.add(Some(name), format!("the agent's pod {}", agent.name), text);
        }
        let mut row = Row {
            node: node.clone(),
            ..Row::default()
        };
        match heard {
            Some(Heard::Says(report)) => {
                let before = self.count();
                self.of_report(name, report);
                row.agent_says = Some(says(report, before == self.count()));
            }
            Some(Heard::Silent { of_the_agent, why }) => {
                self.add_as(Kind::Silent, Some(name), "the agent", of_the_agent);
                row.error = Some(why);
            }
            None => {}
        }
        row
    }

    fn of_report(&mut self, node: &str, report: &Report) {
        let here = Some(node);
        if !report.listed {
            self.add(
                here,
                "the agent",
                "waits for the first complete list of cluster objects; nothing is written yet",
            );
        }
        match &report.uplink {
            // It may be looked for when the own Node is known.
            None if !report.listed => {}
            None => self.add(here, "the uplink", "is not found"),
            Some(uplink) if !uplink.up => {
                self.add(here, format!("uplink {}", uplink.name), "is down")
            }
            Some(uplink) => {
                let (name, mtu) = (&uplink.name, uplink.mtu);
                let larger = |pod: &&podwire_agent::report::PodReport| pod.mtu > Some(mtu);
                let pods = report.pods.iter().filter(larger).count();
                if pods > 0 {
                    let text = format!(
                        "has MTU {mtu}, and the links of {pods} pods have a larger one: what they \
                         send in large packets may be lost"
                    );
                    self.add(here, format!("uplink {name}"), text);
                }
            }
        }
        for route in &report.routes {
            if !route.present {
                self.add_as(
                    Kind::Difference,
                    here,
                    format!("route {}", route.destination),
                    format!("to the pods of {} is not in the kernel", route.node),
                );
            }
        }
        for feature in &report.features {
            if let Some(error) = &feature.error {
                self.add_as(
                    Kind::Failure,
                    here,
                    &feature.name,
                    format!("fails and will be tried again: {error}"),
                );
            }
        }
        for warning in &report.warnings {
            self.add(here, &warning.object, &warning.text);
        }
        for difference in &report.differences {
            let object = "the kernel differs from what is wanted";
            self.add_as(Kind::Difference, here, object, difference);
        }
    }

    /// What is only seen when nodes are compared.
    fn between(&mut self, rows: &[Row]) {
        let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        let mut mtus: BTreeMap<u32, Vec<&str>> = BTreeMap::new();
        for row in rows {
            if let Some(says) = &row.agent_says {
                versions
                    .entry(&says.version)
                    .or_default()
                    .push(&row.node.name);
                if says.uplink.is_some() {
                    mtus.entry(says.uplink_mtu)
                        .or_default()
                        .push(&row.node.name);
                }
            }
        }
        if versions.len() > 1 {
            let list: Vec<String> = versions
                .iter()
                .map(|(version, nodes)| match version.is_empty() {
                    true => format!("one that does not say its version ({})", few(nodes)),
                    false => format!("{version} ({})", few(nodes)),
                })
                .collect();
            self.add(None, "versions of agents differ", list.join(", "));
        }
        if mtus.len() > 1 {
            let list: Vec<String> = mtus
                .iter()
                .map(|(mtu, nodes)| format!("{mtu} ({})", few(nodes)))
                .collect();
            let text = format!(
                "{}: large packets between them may be lost",
                list.join(", ")
            );
            self.add(None, "MTUs of uplinks differ", text);
        }
    }

    fn sorted(self) -> Vec<Finding> {
        let mut all: Vec<Finding> = self
            .0
            .into_iter()
            .map(|((object, text), (kind, nodes))| Finding {
                kind,
                nodes: nodes.into_iter().collect(),
                object,
                text,
            })
            .collect();
        // By node, so that a node's troubles are together; what is on many nodes first.
        all.sort_by_key(|one| (std::cmp::Reverse(one.nodes.len()), one.nodes.clone()));
        all
    }
}

/// Some of these names, and how many there are more.
pub(crate) fn few(names: &[&str]) -> String {
    match names {
        [one, two, three, rest @ ..] if !rest.is_empty() => {
            format!("{one}, {two}, {three} and {} more", rest.len())
        }
        names => names.join(", "),
    }
}

fn says(report: &Report, good: bool) -> Says {
    let uplink = report.uplink.as_ref();
    let to_others = || {
        report
            .routes
            .iter()
            .filter(|route| !route.unreachable && !route.refused)
    };
    Says {
        version: report.version.clone(),
        good,
        uplink: uplink.map(|uplink| uplink.name.clone()),
        uplink_up: uplink.is_some_and(|uplink| uplink.up),
        uplink_mtu: uplink.map_or(0, |uplink| uplink.mtu),
        routes: to_others().filter(|route| route.present).count(),
        routes_wanted: to_others().count(),
        pods: report.pods.len(),
        services: report.services.len(),
        policies: report.policies.as_ref().map_or(0, |found| found.here),
    }
}
