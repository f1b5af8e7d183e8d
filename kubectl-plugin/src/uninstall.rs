//! `uninstall`: removes Podwire from every node of a cluster, as `conf/uninstall.yaml` says.
//!
//! First the agents go, then a DaemonSet cleans each node, and only when every node is clean go the
//! permissions and that. It is made before anything else happens, for nodes that no cluster has, and
//! goes last: it knows image and directories of the agents, and by it a run that was interrupted is
//! taken up where it stopped. Before all that, the agents say what is there to remove, and with
//! `--dry-run` that is all.

use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::{Api, DeleteParams, ListParams, LogParams, Patch, PatchParams, PostParams};
use podwire_agent::text::{printable, printable_lines};
use serde_json::{Value, json};

use crate::fleet::Fleet;
use crate::on_nodes::{agrees, everywhere, said};
use crate::reach::api::{ApiReach, LABEL};
use crate::said::{DeskError, Said};

/// The name of the agents' DaemonSet, and of all else that `conf/install.yaml` makes.
const AGENTS: &str = "podwire";
/// The name of the DaemonSet that cleans nodes.
const CLEANERS: &str = "podwire-uninstall";
const CLEANERS_LABEL: &str = "app.kubernetes.io/name=podwire-uninstall";
/// What the cleaners want of a node until the agents are gone. No node has it.
const WAITS: &str = "podwire-uninstall-waits";
/// How long pods may take to end, and nodes to be clean.
const PATIENCE: Duration = Duration::from_secs(180);
const LOOK: Duration = Duration::from_secs(1);

/// The flags of `uninstall`.
#[derive(Debug, Clone, Args)]
pub struct Uninstall {
    /// Only say what would be done, and what would be removed on each node.
    #[arg(long)]
    pub dry_run: bool,

    /// Do not ask.
    #[arg(short, long)]
    pub yes: bool,

    /// Remove the links of pods that still run, and the plugin, too: no pod has a network afterwards.
    #[arg(long)]
    pub pods: bool,
}

/// What is there before anything is done.
struct Found {
    /// The DaemonSet to go by: that of the agents, or of a run that was interrupted.
    set: DaemonSet,
    /// True if it is that of a run that was interrupted.
    interrupted: bool,
    nodes: Vec<String>,
}

impl Uninstall {
    /// Removes Podwire, if whoever asks agrees. What is being done goes to `progress`.
    pub async fn run(
        &self,
        reach: &Arc<ApiReach>,
        progress: &(dyn Fn(&str) + Sync),
    ) -> Result<Said, DeskError> {
        let cluster = Cluster { reach, progress };
        let found = cluster.find().await?;
        let plan = self.plan(&found, reach.namespace());
        if self.dry_run {
            if found.interrupted {
                let text =
                    "A run was interrupted: the agents are gone, and what they knew with them.";
                return Ok(Said {
                    text: format!("{plan}\n{text}\n"),
                    good: true,
                });
            }
            progress("asking every node what would be removed");
            let Said { text, good } = match Fleet::assemble(Arc::<ApiReach>::clone(reach)).await {
                Ok(fleet) => self.look(&fleet).await,
                Err(error) => return Err(error.into()),
            };
            return Ok(Said {
                text: format!("{plan}\n{text}"),
                good,
            });
        }
        if !self.yes && !agrees(&plan, "Remove Podwire from every node?")? {
            let text = "nothing was removed; give --yes, or look with --dry-run".to_owned();
            return Err(DeskError::Question(text));
        }
        let cleaner = cleaner(&found.set, reach.namespace(), self.pods)?;
        cluster.prepare(&cleaner, found.interrupted).await?;
        cluster.end_agents().await?;
        let said = cluster.clean().await?;
        cluster.remove_the_rest().await?;
        cluster.end_cleaners().await?;
        Ok(Said {
            text: said,
            good: true,
        })
    }

    /// What would be removed on each node, in the words of its agent.
    async fn look(&self, fleet: &Fleet) -> Said {
        let arguments: &[&str] = match self.pods {
            true => &["uninstall", "--dry-run", "--pods"],
            false => &["uninstall", "--dry-run"],
        };
        said(&everywhere(fleet, arguments).await)
    }

    fn plan(&self, found: &Found, namespace: &str) -> String {
        let links = match self.pods {
            true => "with the links of pods that run, and the plugin",
            false => "but for the links of pods that run, and the plugin",
        };
        printable_lines(&[
            format!("1. Delete DaemonSet {namespace}/{AGENTS}, and wait until its pods are gone."),
            format!(
                "2. On each of these nodes, remove all that is Podwire's, {links}: {}.",
                found.nodes.join(", ")
            ),
            format!(
                "3. When every node is clean, delete ServiceAccount and ConfigMap {namespace}/{AGENTS}, \
                 and ClusterRole and ClusterRoleBinding {AGENTS}."
            ),
            format!("4. Delete DaemonSet {namespace}/{CLEANERS}, which cleaned the nodes."),
        ])
    }
}

/// The DaemonSet that cleans nodes: that of `conf/uninstall.yaml` with the image of `set` and the
/// directories that it has on its nodes.
fn cleaner(set: &DaemonSet, namespace: &str, pods: bool) -> Result<DaemonSet, DeskError> {
    let unreadable = |source: Box<dyn std::error::Error + Send + Sync>| DeskError::Write {
        format: "a DaemonSet",
        source,
    };
    let text = include_str!("../../conf/uninstall.yaml");
    let mut made: Value = serde_saphyr::from_str(text).map_err(|error| unreadable(error.into()))?;
    let live = serde_json::to_value(set).map_err(|error| unreadable(error.into()))?;
    made["metadata"]["namespace"] = namespace.into();
    let (from, to) = (
        &live["spec"]["template"]["spec"],
        &mut made["spec"]["template"]["spec"],
    );
    // A sidecar that someone added has another image.
    let mut containers = from["containers"].as_array().into_iter().flatten();
    let named = |one: &&Value| one["name"] == "agent" || one["name"] == "uninstall";
    let ours = containers.find(named).unwrap_or(&from["containers"][0]);
    let image = ours["image"].clone();
    for list in ["initContainers", "containers"] {
        for container in to[list].as_array_mut().into_iter().flatten() {
            container["image"] = image.clone();
        }
    }
    if pods {
        to["initContainers"][0]["args"] = json!(["uninstall", "--pods"]);
        to["containers"][0]["args"] = json!(["uninstall", "--pods", "--stay"]);
    }
    to["imagePullSecrets"] = from["imagePullSecrets"].clone();
    for volume in to["volumes"].as_array_mut().into_iter().flatten() {
        let mut there = from["volumes"].as_array().into_iter().flatten();
        if let Some(same) = there.find(|one| one["name"] == volume["name"]) {
            volume.clone_from(same);
        }
    }
    serde_json::from_value(made).map_err(|error| unreadable(error.into()))
}

/// True if these cleaners have not been let go yet.
fn waits(set: &DaemonSet) -> bool {
    let pod = set.spec.template.spec.as_ref();
    let selector = pod.and_then(|pod| pod.node_selector.as_ref());
    selector.is_some_and(|selector| selector.contains_key(WAITS))
}

/// What the containers of a DaemonSet are to do.
fn arguments(set: &DaemonSet) -> Vec<Option<&[String]>> {
    let pod = set.spec.template.spec.iter();
    let containers = pod.flat_map(|pod| {
        let first = pod.init_containers.iter().flatten();
        first.chain(&pod.containers)
    });
    containers.map(|one| one.args.as_deref()).collect()
}

/// The cluster, while it is being worked on.
struct Cluster<'a> {
    reach: &'a ApiReach,
    progress: &'a (dyn Fn(&str) + Sync),
}

impl Cluster<'_> {
    fn sets(&self) -> Api<DaemonSet> {
        Api::namespaced(self.reach.client().clone(), self.reach.namespace())
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.reach.client().clone(), self.reach.namespace())
    }

    fn failed(&self, verb: &'static str, resource: &'static str, error: &kube::Error) -> DeskError {
        let namespace = self.reach.namespace();
        self.reach.failed(verb, resource, namespace, error).into()
    }

    async fn find(&self) -> Result<Found, DeskError> {
        let (set, interrupted) = match self.set(AGENTS).await? {
            Some(set) => (Some(set), false),
            None => (self.set(CLEANERS).await?, true),
        };
        let Some(set) = set else {
            let text = format!(
                "there is no DaemonSet {AGENTS} in namespace {}; give the namespace in which Podwire \
                 is installed with --namespace",
                self.reach.namespace()
            );
            return Err(DeskError::Question(printable(&text).into_owned()));
        };
        let labels = set.metadata.labels.as_ref();
        let by = labels.and_then(|labels| labels.get("app.kubernetes.io/managed-by"));
        if by.is_some_and(|by| by == "Helm") {
            let text = "Helm installed Podwire here, and has to remove it: docs/operations.md, \
                        \"Removing it\", has the two commands";
            return Err(DeskError::Question(text.into()));
        }
        let mut nodes = Vec::new();
        for label in [LABEL, CLEANERS_LABEL] {
            let pods = self.labelled(label).await?.into_iter();
            nodes.extend(pods.filter_map(|pod| pod.spec?.node_name));
        }
        nodes.sort_unstable();
        nodes.dedup();
        Ok(Found {
            set,
            interrupted,
            nodes,
        })
    }

    async fn labelled(&self, label: &str) -> Result<Vec<Pod>, DeskError> {
        let pods = self.pods().list(&ListParams::default().labels(label)).await;
        let pods = pods.map_err(|error| self.failed("list", "pods", &error))?;
        Ok(pods.items)
    }

    /// The DaemonSet of this name; none if there is none.
    async fn set(&self, name: &str) -> Result<Option<DaemonSet>, DeskError> {
        let found = self.sets().get_opt(name).await;
        found.map_err(|error| self.failed("get", "daemonsets", &error))
    }

    async fn delete_set(&self, name: &str) -> Result<(), DeskError> {
        match self.sets().delete(name, &DeleteParams::foreground()).await {
            Err(error) if !is_gone(&error) => Err(self.failed("delete", "daemonsets", &error)),
            _ => Ok(()),
        }
    }

    async fn end_agents(&self) -> Result<(), DeskError> {
        (self.progress)("deleting the agents");
        self.delete_set(AGENTS).await?;
        self.until("the agents still run", || async {
            Ok(self.labelled(LABEL).await?.is_empty())
        })
        .await
    }

    /// Until nothing of them is left.
    async fn end_cleaners(&self) -> Result<(), DeskError> {
        self.delete_set(CLEANERS).await?;
        self.until("the pods that cleaned the nodes still end", || async {
            let is_gone = self.set(CLEANERS).await?.is_none();
            Ok(is_gone && self.labelled(CLEANERS_LABEL).await?.is_empty())
        })
        .await
    }

    /// Makes the cleaners, which wait until they are let go. Those of a run that was interrupted will
    /// do, unless they do something else, or agents were put in since.
    async fn prepare(&self, cleaner: &DaemonSet, interrupted: bool) -> Result<(), DeskError> {
        if let Some(there) = self.set(CLEANERS).await? {
            let ends = there.metadata.deletion_timestamp.is_some();
            let new = interrupted || waits(&there);
            if !ends && new && arguments(&there) == arguments(cleaner) {
                return Ok(());
            }
            (self.progress)("ending the cleaners of a run before");
            self.end_cleaners().await?;
        }
        let mut waiting = cleaner.clone();
        if let Some(pod) = &mut waiting.spec.template.spec {
            let selector = pod.node_selector.get_or_insert_default();
            selector.insert(WAITS.into(), "true".into());
        }
        let made = self.sets().create(&PostParams::default(), &waiting).await;
        made.map_err(|error| self.failed("create", "daemonsets", &error))?;
        Ok(())
    }

    /// Cleans every node and returns what was done there.
    async fn clean(&self) -> Result<String, DeskError> {
        (self.progress)("cleaning the nodes");
        let go = json!({"spec": {"template": {"spec": {"nodeSelector": {WAITS: null}}}}});
        let parameters = PatchParams::default();
        let sets = self.sets();
        let freed = sets.patch(CLEANERS, &parameters, &Patch::Merge(go)).await;
        freed.map_err(|error| self.failed("patch", "daemonsets", &error))?;
        self.until("not every node is clean", || async {
            let set = self.sets().get(CLEANERS).await;
            let set = set.map_err(|error| self.failed("get", "daemonsets", &error))?;
            Ok(is_done(&set))
        })
        .await?;
        let mut text = String::new();
        for pod in self.labelled(CLEANERS_LABEL).await? {
            let node = pod.spec.and_then(|spec| spec.node_name).unwrap_or_default();
            let parameters = LogParams {
                container: Some("uninstall".into()),
                ..LogParams::default()
            };
            let name = pod.metadata.name.unwrap_or_default();
            let log = self.pods().logs(&name, &parameters).await;
            // The node is clean, whether its words can be had or not.
            let log = log.unwrap_or_else(|error| format!("its log cannot be read: {error}"));
            text.push_str(&printable_lines(&[format!("Node {node}")]));
            for line in log.lines() {
                text.push_str(&format!("  {}\n", printable(line)));
            }
        }
        Ok(text)
    }

    async fn remove_the_rest(&self) -> Result<(), DeskError> {
        (self.progress)("deleting permissions and settings");
        let (client, namespace) = (self.reach.client(), self.reach.namespace());
        let parameters = DeleteParams::default();
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
        let settings: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        let roles: Api<ClusterRole> = Api::all(client.clone());
        let bindings: Api<ClusterRoleBinding> = Api::all(client.clone());
        let done = [
            (
                "clusterrolebindings",
                bindings.delete(AGENTS, &parameters).await.err(),
            ),
            (
                "clusterroles",
                roles.delete(AGENTS, &parameters).await.err(),
            ),
            (
                "configmaps",
                settings.delete(AGENTS, &parameters).await.err(),
            ),
            (
                "serviceaccounts",
                accounts.delete(AGENTS, &parameters).await.err(),
            ),
        ];
        for (resource, error) in done {
            if let Some(error) = error.filter(|error| !is_gone(error)) {
                return Err(self.failed("delete", resource, &error));
            }
        }
        Ok(())
    }

    /// Waits until something is so.
    async fn until<F>(&self, not_yet: &str, is_so: impl Fn() -> F) -> Result<(), DeskError>
    where
        F: Future<Output = Result<bool, DeskError>>,
    {
        let start = Instant::now();
        while !is_so().await? {
            if start.elapsed() > PATIENCE {
                let text = format!(
                    "{not_yet} after {} s; `kubectl -n {} get pods -o wide` shows where, and the same \
                     command goes on from here",
                    PATIENCE.as_secs(),
                    self.reach.namespace()
                );
                return Err(DeskError::Question(printable(&text).into_owned()));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }
}

fn is_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// True once every node is clean; what the controller has not seen yet says nothing.
fn is_done(set: &DaemonSet) -> bool {
    let Some(status) = &set.status else {
        return false;
    };
    status.observed_generation == set.metadata.generation
        && status.desired_number_scheduled > 0
        && status.number_ready == status.desired_number_scheduled
}

#[cfg(test)]
mod interrupted;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reach::Ran;
    use crate::reach::fake::Fake;

    fn agents() -> DaemonSet {
        let text = include_str!("../../conf/install.yaml");
        let set = text
            .split("\n---\n")
            .find(|part| part.contains("kind: DaemonSet"));
        let mut set: Value = serde_saphyr::from_str(set.unwrap()).unwrap();
        let pod = &mut set["spec"]["template"]["spec"];
        pod["containers"][0]["image"] = "registry.example/podwire:9".into();
        for volume in pod["volumes"].as_array_mut().unwrap() {
            if volume["name"] == "cni-bin" {
                volume["hostPath"]["path"] = "/var/lib/cni/bin".into();
            }
        }
        serde_json::from_value(set).unwrap()
    }

    #[test]
    fn nodes_are_cleaned_by_the_image_and_in_the_directories_of_the_agents() {
        let made = cleaner(&agents(), "podwire", true).unwrap();
        assert_eq!(made.metadata.namespace.as_deref(), Some("podwire"));
        let made = serde_json::to_value(made).unwrap();
        let pod = &made["spec"]["template"]["spec"];
        for container in [&pod["initContainers"][0], &pod["containers"][0]] {
            assert_eq!(container["image"], "registry.example/podwire:9");
            assert_eq!(container["args"][1], "--pods");
        }
        let volumes = pod["volumes"].as_array().unwrap();
        assert_eq!(volumes.len(), 4, "{volumes:?}");
        let bin = volumes.iter().find(|volume| volume["name"] == "cni-bin");
        assert_eq!(bin.unwrap()["hostPath"]["path"], "/var/lib/cni/bin");
    }

    #[test]
    fn nodes_are_clean_when_the_controller_says_so_of_what_was_asked() {
        let set = |observed: i64, wanted: i32, ready: i32| -> DaemonSet {
            serde_json::from_value(json!({
                "metadata": {"generation": 2}, "status": {
                    "observedGeneration": observed, "desiredNumberScheduled": wanted,
                    "numberReady": ready, "currentNumberScheduled": 0, "numberMisscheduled": 0,
                },
            }))
            .unwrap()
        };
        assert!(is_done(&set(2, 3, 3)));
        for not_yet in [
            set(1, 3, 3),
            set(2, 3, 2),
            set(2, 0, 0),
            DaemonSet::default(),
        ] {
            assert!(!is_done(&not_yet));
        }
    }

    #[tokio::test]
    async fn what_would_be_removed_is_asked_of_every_node_and_nothing_else_is_run() {
        let mut fake = Fake::of(&["a", "b"]);
        let ran = |output: &str| Ran {
            output: output.into(),
            ..Ran::default()
        };
        let arguments = "uninstall --dry-run --pods";
        fake.commands.insert(
            ("a".into(), arguments.into()),
            ran("would remove x\u{1b}\n"),
        );
        let fake = Arc::new(fake);
        let fleet = Fleet::assemble(fake.clone()).await.unwrap();
        let flags = Uninstall {
            dry_run: true,
            yes: false,
            pods: true,
        };
        let said = flags.look(&fleet).await;
        assert!(
            said.text
                .starts_with("Node a\n  would remove x\\u{1b}\nNode b\n"),
            "{}",
            said.text
        );
        assert!(!said.good, "node b has no such command");
        let ran = fake.ran.lock().unwrap();
        assert!(ran.iter().all(|(_, run)| run == arguments), "{ran:?}");
    }

    #[test]
    fn what_is_going_to_be_done_is_said_with_the_nodes_and_as_text_only() {
        let flags = Uninstall {
            dry_run: true,
            yes: false,
            pods: false,
        };
        let found = Found {
            interrupted: false,
            set: DaemonSet::default(),
            nodes: vec!["one".into(), "t\u{1b}[2Jwo".into()],
        };
        let plan = flags.plan(&found, "kube-system");
        assert!(plan.contains(r"one, t\u{1b}[2Jwo."), "{plan}");
        assert!(plan.contains("DaemonSet kube-system/podwire,"), "{plan}");
    }
}
