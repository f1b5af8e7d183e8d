//! `sysdump`: everything that a report of a fault needs, in one archive, secrets left out.

mod redact;

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use clap::Args;
use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use podwire_agent::flows::{AT_ONCE, Page};
use podwire_agent::text::printable;

use crate::fleet::{Answers, Fleet};
use crate::on_nodes::everywhere;
use crate::reach::{Kind, ReachError};
use crate::said::{DeskError, Output, for_programs};
use crate::status::Overview;
use crate::stream::ENOUGH;

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
        let files = collect(fleet, progress).await;
        progress(&format!("writing {}", path.display()));
        let failed = |source| DeskError::File {
            path: path.display().to_string(),
            source,
        };
        // Names and addresses of a cluster are not for everyone on this machine; what is there already,
        // or is a link, is not written over.
        let mut new = std::fs::OpenOptions::new();
        new.write(true).create_new(true).mode(0o600);
        let file = new.open(&path).map_err(failed)?;
        pack(file, &name, &files, now.as_second()).map_err(failed)?;
        Ok(path)
    }
}

/// A file of the archive: its path and its text.
type Entry = (String, String);

/// Everything, and what is missing, in a page that says what is what.
async fn collect(fleet: &Fleet, progress: &(dyn Fn(&str) + Sync)) -> Vec<Entry> {
    let mut files = Vec::new();
    let mut missing = Vec::new();
    progress("the state of all nodes");
    let overview = Overview::of(fleet).await;
    if let Ok(text) = for_programs(&overview, Output::Yaml) {
        files.push(("status.yaml".to_owned(), text));
    }
    for (target, name) in PAGES {
        progress(&format!("{target} of every agent"));
        let answers = fleet
            .each(move |fleet, node| async move {
                let reply = fleet.ask(&node, target).await?;
                Ok(reply.text(&node)?.to_owned())
            })
            .await;
        add(&mut files, &mut missing, name, answers);
    }
    progress("/flows of every agent");
    let answers = fleet
        .each(|fleet, node| async move { flows(&fleet, &node).await })
        .await;
    add(&mut files, &mut missing, "flows.json", answers);
    for (previous, name) in [(false, "agent.log"), (true, "agent-before.log")] {
        progress(&format!("{name} of every node"));
        let logs = fleet
            .each(move |fleet, node| async move { fleet.logs(&node, previous).await })
            .await;
        let kept = logs
            .into_iter()
            .filter_map(|(node, log)| Some((node, log.transpose()?)));
        add(&mut files, &mut missing, name, kept.collect());
    }
    progress("preflight on every node");
    let (mut answers, mut errors) = (Answers::new(), Answers::new());
    for (node, ran) in everywhere(fleet, &["preflight", "-o", "json"]).await {
        // Beside the answer, which programs read.
        if let Ok(ran) = &ran
            && !ran.errors.is_empty()
        {
            errors.insert(node.clone(), Ok(ran.errors.clone()));
        }
        answers.insert(node, ran.map(|ran| ran.output));
    }
    add(&mut files, &mut missing, "preflight.json", answers);
    add(&mut files, &mut missing, "preflight-errors.txt", errors);
    for versions in KINDS.chunk_by(|one, next| one.plural == next.plural) {
        let plural = versions[0].plural;
        progress(&format!("{plural} of the API server"));
        match objects(fleet, versions).await {
            Ok(Some(text)) => files.push((format!("objects/{plural}.yaml"), text)),
            Ok(None) => {}
            Err(error) => missing.push(format!("objects/{plural}.yaml: {error}")),
        }
    }
    missing.extend(fleet.remarks().iter().cloned());
    for one in &missing {
        progress(&format!("missing: {}", printable(one)));
    }
    files.insert(
        0,
        ("README.md".to_owned(), readme(&overview.summary, &missing)),
    );
    files
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

fn add(files: &mut Vec<Entry>, missing: &mut Vec<String>, name: &str, answers: Answers<String>) {
    for (node, answer) in answers {
        let path = format!("nodes/{}/{name}", safe(&node));
        match answer {
            Ok(text) => files.push((path, text)),
            Err(error) => missing.push(format!("{path}: {error}")),
        }
    }
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

fn pack(out: impl Write, folder: &str, files: &[Entry], time: i64) -> std::io::Result<()> {
    let mut archive = tar::Builder::new(GzEncoder::new(out, Compression::default()));
    for (path, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(u64::try_from(time).unwrap_or_default());
        archive.append_data(&mut header, format!("{folder}/{path}"), text.as_bytes())?;
    }
    archive.into_inner()?.finish()?.flush()
}

#[cfg(test)]
mod tests;
