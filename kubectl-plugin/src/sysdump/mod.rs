//! `sysdump`: everything that a report of a fault needs, in one archive, secrets left out.

mod archive;
mod redact;
mod steps;

use std::io;
use std::path::PathBuf;
use std::pin::pin;

use clap::Args;
use futures_util::future::select_all;
use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use podwire_agent::flows::{AT_ONCE, Page};
use podwire_agent::text::printable;
use tokio::signal::unix::{SignalKind, signal};

use crate::fleet::Fleet;
use crate::reach::{Kind, ReachError};
use crate::said::{DeskError, Output, for_programs};
use crate::status::Overview;
use crate::stream::ENOUGH;
use crate::sysdump::archive::Archive;
use crate::sysdump::steps::Steps;

/// How many nodes are asked at a time: what they answer is held in memory until it is written.
const AT_A_TIME: usize = 16;

/// What is asked of each agent, and in which file the answer is.
const PAGES: [(&str, &str); 4] = [
    ("/status?wide=1", "status.json"),
    ("/cluster", "cluster.json"),
    ("/drops", "drops.json"),
    ("/metrics", "metrics.txt"),
];

/// The objects of the API server. Of a kind that is here in several versions, which follow one another,
/// the first one that the cluster has is read, as agents do.
pub const KINDS: [Kind; 8] = [
    kind("", "v1", "Node", "nodes", false),
    kind("", "v1", "Pod", "pods", true),
    kind("", "v1", "Service", "services", false),
    kind("apps", "v1", "DaemonSet", "daemonsets", true),
    kind(
        "discovery.k8s.io",
        "v1",
        "EndpointSlice",
        "endpointslices",
        false,
    ),
    kind(
        "networking.k8s.io",
        "v1",
        "NetworkPolicy",
        "networkpolicies",
        false,
    ),
    kind(
        "policy.networking.k8s.io",
        "v1beta1",
        "ClusterNetworkPolicy",
        "clusternetworkpolicies",
        false,
    ),
    kind(
        "policy.networking.k8s.io",
        "v1alpha2",
        "ClusterNetworkPolicy",
        "clusternetworkpolicies",
        false,
    ),
];

const fn kind(
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    of_podwire: bool,
) -> Kind {
    Kind {
        group,
        version,
        kind,
        plural,
        of_podwire,
    }
}

/// The flags of `sysdump`.
#[derive(Debug, Clone, Args)]
pub struct Sysdump {
    /// The archive; named after the moment if not given.
    #[arg(short, long, value_name = "FILE.tar.gz")]
    pub file: Option<PathBuf>,
}

impl Sysdump {
    /// Writes the archive and returns where it is. What is being done goes to `progress`.
    pub async fn run(
        &self,
        fleet: &Fleet,
        progress: &(dyn Fn(&str) + Sync),
    ) -> Result<PathBuf, DeskError> {
        let now = Timestamp::now();
        let name = format!("podwire-sysdump-{}", now.strftime("%Y%m%d-%H%M%S"));
        let path = self
            .file
            .clone()
            .unwrap_or_else(|| format!("{name}.tar.gz").into());
        let mut dump = Dump {
            fleet,
            archive: Archive::create(path.clone(), name, now)?,
            steps: Steps::new(progress),
            missing: Vec::new(),
        };
        tokio::select! {
            filled = dump.fill() => filled?,
            // Who is ended at once cannot remove what is half written.
            why = asked_to_end() => return Err(dump.archive.failed(why)),
        }
        dump.archive.finish()?;
        Ok(path)
    }
}

/// Waits until the program is to end.
async fn asked_to_end() -> io::Error {
    let kinds = [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ];
    let signals: io::Result<Vec<_>> = kinds.into_iter().map(signal).collect();
    let mut signals = match signals {
        Ok(signals) => signals,
        Err(error) => return error,
    };
    let _ = select_all(signals.iter_mut().map(|one| Box::pin(one.recv()))).await;
    io::Error::other("it was interrupted, and what was written of it is removed")
}

/// Files of a node: their names and texts.
type Files = Vec<(&'static str, String)>;

/// What goes into an archive.
struct Dump<'a> {
    fleet: &'a Fleet,
    archive: Archive,
    steps: Steps<'a>,
    /// What is not in it, and why.
    missing: Vec<String>,
}

impl Dump<'_> {
    /// Everything, and what is missing, in a page that says what is what.
    async fn fill(&mut self) -> Result<(), DeskError> {
        self.agents().await?;
        for versions in KINDS.chunk_by(|one, next| one.plural == next.plural) {
            self.kind(versions).await?;
        }
        // The ways to agents are open by now: not all of them are opened at once.
        self.steps.begin("the state of all nodes".to_owned());
        let overview = Overview::of(self.fleet);
        let overview = self.steps.wait(unanswered, overview).await;
        if let Ok(text) = for_programs(&overview, Output::Yaml) {
            self.archive.add("status.yaml", &text)?;
        }
        self.missing.sort();
        self.missing.extend(self.fleet.remarks().iter().cloned());
        for one in &self.missing {
            self.steps.say(&format!("missing: {}", printable(one)));
        }
        let readme = readme(&overview.summary, &self.missing);
        self.archive.add("README.md", &readme)
    }

    /// What agents say, and what is known of them where they run.
    async fn agents(&mut self) -> Result<(), DeskError> {
        for (target, name) in PAGES {
            let step = format!("{target} of every agent");
            let page = async move |fleet: Fleet, node: String| {
                let reply = fleet.ask(&node, target).await?;
                Ok(vec![(name, reply.text(&node)?.to_owned())])
            };
            self.of_nodes(name, step, page).await?;
        }
        let flows = async |fleet: Fleet, node: String| {
            Ok(vec![("flows.json", flows(&fleet, &node).await?)])
        };
        let step = "/flows of every agent".to_owned();
        self.of_nodes("flows.json", step, flows).await?;
        for (previous, name) in [(false, "agent.log"), (true, "agent-before.log")] {
            let log = async move |fleet: Fleet, node: String| {
                let log = fleet.logs(&node, previous).await?;
                Ok(log.into_iter().map(|text| (name, text)).collect())
            };
            let step = format!("{name} of every node");
            self.of_nodes(name, step, log).await?;
        }
        let step = "preflight on every node".to_owned();
        self.of_nodes("preflight.json", step, preflight).await
    }

    /// What each node has, a few of them at a time, each file as it comes. `name` is what is missing if
    /// there is none.
    async fn of_nodes(
        &mut self,
        name: &str,
        step: String,
        work: impl AsyncFn(Fleet, String) -> Result<Files, ReachError>,
    ) -> Result<(), DeskError> {
        self.steps.begin(step);
        let nodes: Vec<String> = self.fleet.nodes().map(|node| node.name.clone()).collect();
        let (mut through, all) = (0, nodes.len());
        let asked = stream::iter(nodes).map(async |node| {
            let answer = work(self.fleet.clone(), node.clone()).await;
            (node, answer)
        });
        let mut answers = pin!(asked.buffer_unordered(AT_A_TIME));
        let how_far = |through| move || format!("{through} of {all} nodes");
        while let Some((node, answer)) = self.steps.wait(how_far(through), answers.next()).await {
            through += 1;
            let folder = format!("nodes/{}", safe(&node));
            match answer {
                Ok(files) => {
                    for (name, text) in files {
                        self.archive.add(&format!("{folder}/{name}"), &text)?;
                    }
                }
                Err(error) => self.missing.push(format!("{folder}/{name}: {error}")),
            }
        }
        Ok(())
    }

    /// The objects of a kind.
    async fn kind(&mut self, versions: &'static [Kind]) -> Result<(), DeskError> {
        let plural = versions[0].plural;
        let path = format!("objects/{plural}.yaml");
        self.steps.begin(format!("{plural} of the API server"));
        let objects = objects(self.fleet, versions);
        match self.steps.wait(unanswered, objects).await {
            Ok(Some(text)) => self.archive.add(&path, &text)?,
            Ok(None) => {}
            Err(error) => self.missing.push(format!("{path}: {error}")),
        }
        Ok(())
    }
}

fn unanswered() -> String {
    "no answer yet".to_owned()
}

/// What that command says, and what it complains of beside: programs read the answer.
async fn preflight(fleet: Fleet, node: String) -> Result<Files, ReachError> {
    let ran = fleet.run(&node, &["preflight", "-o", "json"]).await?;
    if ran.output.trim().is_empty() {
        let reason = format!("status {}: {}", ran.code, ran.errors.trim());
        return Err(ReachError::Unknown { node, reason });
    }
    let mut files = vec![("preflight.json", ran.output)];
    if !ran.errors.is_empty() {
        files.push(("preflight-errors.txt", ran.errors));
    }
    Ok(files)
}

/// All connections that an agent kept: one answer may not hold them. An agent that kept none begins with
/// this question.
async fn flows(fleet: &Fleet, node: &str) -> Result<String, ReachError> {
    let mut all: Page = fleet.get(node, "/flows").await?;
    let mut read = all.flows.len();
    while read >= AT_ONCE && all.flows.len() < ENOUGH {
        let target = format!("/flows?after={}", all.newest);
        let next: Page = fleet.get(node, &target).await?;
        read = next.flows.len();
        all.newest = next.newest;
        all.flows.extend(next.flows);
    }
    serde_json::to_string(&all).map_err(|error| ReachError::Unknown {
        node: node.to_owned(),
        reason: error.to_string(),
    })
}

/// A node's name as part of a path: whatever it is, it leads nowhere else.
fn safe(name: &str) -> String {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    let name: String = name
        .chars()
        .map(|c| if good(c) { c } else { '_' })
        .collect();
    name.replace("..", "_").trim_start_matches('.').to_owned()
}

/// The objects of the first version that the cluster has.
async fn objects(fleet: &Fleet, versions: &'static [Kind]) -> Result<Option<String>, DeskError> {
    for kind in versions {
        if let Some(mut objects) = fleet.objects(kind).await? {
            objects.iter_mut().for_each(redact::object);
            return for_programs(&objects, Output::Yaml).map(Some);
        }
    }
    Ok(None)
}

fn readme(summary: &str, missing: &[String]) -> String {
    let mut text = format!(
        "# What Podwire is and does in a cluster\n\nMade by `kubectl podwire sysdump` {}.\n\n{}\n\n\
         | file | what it is |\n| --- | --- |\n\
         | `status.yaml` | all nodes, and what is wrong |\n\
         | `nodes/NODE/status.json` | the agent's report, with every endpoint |\n\
         | `nodes/NODE/cluster.json` | what the agent knows of Nodes, Services and policies |\n\
         | `nodes/NODE/drops.json`, `flows.json` | the last drops and connections; of those only what agents \
         kept, which is nothing unless `--flows` is set or someone looked |\n\
         | `nodes/NODE/metrics.txt` | its metrics |\n\
         | `nodes/NODE/agent.log`, `agent-before.log` | its log, and that of the agent before |\n\
         | `nodes/NODE/preflight.json`, `preflight-errors.txt` | what kernel and permissions can do, and \
         what that command complained of |\n\
         | `objects/` | Nodes, Services, EndpointSlices and policies; Podwire's own pods and \
         DaemonSet |\n\n\
         Left out: Secrets, the values of environment variables, annotations, and whatever has a \
         name like token or password. Names and addresses of the cluster are in it.\n",
        env!("CARGO_PKG_VERSION"),
        printable(summary)
    );
    if !missing.is_empty() {
        text.push_str("\n## Missing\n\n");
        for line in missing {
            text.push_str(&format!("- {}\n", printable(line)));
        }
    }
    text
}

#[cfg(test)]
mod tests;
