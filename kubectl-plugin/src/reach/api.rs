//! Through the API server: agents are found by the label of their DaemonSet, and asked by exec in
//! their pods. Nothing new listens, and the API server decides who may.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use k8s_openapi::api::core::v1::{Node as ApiNode, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::{Api, AttachParams, AttachedProcess, DynamicObject, ListParams, LogParams};
use kube::client::UpgradeConnectionError;
use kube::config::KubeConfigOptions;
use kube::discovery::ApiResource;
use kube::{Client as ApiClient, Error};
use podwire_agent::error::chain;
use tokio::io::AsyncReadExt;

use crate::reach::kubeconfig;
use crate::reach::relay::{RelayClient, Streams};
use crate::reach::{AgentPod, Client, Kind, Later, Listing, Node, Ran, Reach, ReachError};

/// What `conf/install.yaml` and the chart give the agents' pods.
pub(crate) const LABEL: &str = "app.kubernetes.io/name=podwire";
/// The agent's container.
const CONTAINER: &str = "agent";
/// The program in it, which is the image's entry point.
const PROGRAM: &str = "/podwire-agent";
/// What a pipe holds before the other side waits: a page of flows comes in one piece.
const PIPE: usize = 256 * 1024;
/// Of a log, from its end.
const LOG_LINES: i64 = 20_000;

/// Which cluster, with kubectl's flags.
#[derive(Debug, Clone, Default, Args)]
pub struct Target {
    /// The namespace in which Podwire's agents run.
    #[arg(short, long, default_value = "kube-system", global = true)]
    pub namespace: String,

    /// The kubeconfig file.
    #[arg(long, value_name = "FILE", global = true)]
    pub kubeconfig: Option<PathBuf>,

    /// The context of the kubeconfig file.
    #[arg(long, value_name = "NAME", global = true)]
    pub context: Option<String>,
}

/// A cluster behind its API server.
pub struct ApiReach {
    client: ApiClient,
    namespace: String,
}

impl ApiReach {
    /// Reads the configuration; the API server is not asked yet.
    pub async fn new(target: &Target) -> Result<Self, ReachError> {
        let unusable = |what: &str, error: &dyn std::error::Error| ReachError::List {
            what: "the nodes".into(),
            // Paths come in two kinds of quotes at once.
            reason: format!("{what}: {}", chain(error))
                .replace("'\"", "\"")
                .replace("\"'", "\""),
        };
        let options = KubeConfigOptions {
            context: target.context.clone(),
            ..KubeConfigOptions::default()
        };
        let config = kubeconfig::read(target.kubeconfig.as_deref(), &options).await;
        let config = config.map_err(|error| {
            unusable(
                "the kubeconfig cannot be used (give --kubeconfig or set KUBECONFIG)",
                &error,
            )
        })?;
        let client = ApiClient::try_from(config)
            .map_err(|error| unusable("the API server of the kubeconfig cannot be used", &error))?;
        Ok(Self {
            client,
            namespace: target.namespace.clone(),
        })
    }

    /// The client, for what only an API server can do.
    pub fn client(&self) -> &ApiClient {
        &self.client
    }

    /// The namespace of the agents.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    async fn list(&self) -> Result<Listing, ReachError> {
        let labelled = ListParams::default().labels(LABEL);
        let pods = self.pods().list(&labelled).await;
        let pods = pods.map_err(|error| self.failed("list", "pods", &self.namespace, &error))?;
        let nodes: Api<ApiNode> = Api::all(self.client.clone());
        let (nodes, remarks) = match nodes.list(&ListParams::default()).await {
            Ok(nodes) => (nodes.items, Vec::new()),
            Err(error) => {
                let error = self.failed("list", "nodes", "", &error);
                let remark = format!("{error}; nodes without an agent cannot be seen");
                (Vec::new(), vec![remark])
            }
        };
        let listing = put_together(&nodes, &pods.items, remarks);
        if listing.nodes.is_empty() {
            return Err(ReachError::List {
                what: "the agents".into(),
                reason: format!(
                    "no pod in namespace {} has the label {LABEL}; give the namespace in which \
                     Podwire is installed with --namespace",
                    self.namespace
                ),
            });
        }
        Ok(listing)
    }

    /// What an error of the API server means for this verb and resource.
    pub(crate) fn failed(
        &self,
        verb: &'static str,
        resource: &'static str,
        namespace: &str,
        error: &Error,
    ) -> ReachError {
        match is_forbidden(error) {
            true => ReachError::Forbidden {
                verb,
                resource,
                namespace: namespace.to_owned(),
            },
            false => ReachError::Server {
                verb,
                resource,
                reason: said(error),
            },
        }
    }

    /// Starts `podwire-agent ARGUMENTS` in the agent's container.
    async fn exec(
        &self,
        node: &Node,
        arguments: &[String],
        stdin: bool,
    ) -> Result<AttachedProcess, ReachError> {
        let pod = agent_of(node)?;
        let parameters = AttachParams {
            container: Some(CONTAINER.to_owned()),
            stdin,
            max_stdin_buf_size: Some(PIPE),
            max_stdout_buf_size: Some(PIPE),
            max_stderr_buf_size: Some(PIPE),
            ..AttachParams::default()
        };
        let command = std::iter::once(PROGRAM).chain(arguments.iter().map(String::as_str));
        let started = self.pods().exec(&pod.name, command, &parameters).await;
        started.map_err(|error| match is_forbidden(&error) {
            true => ReachError::Forbidden {
                verb: "create",
                resource: "pods/exec",
                namespace: self.namespace.clone(),
            },
            false => broken(node, said(&error)),
        })
    }

    async fn relay(&self, node: Node) -> Result<Arc<dyn Client>, ReachError> {
        let mut process = self.exec(&node, &["relay".to_owned()], true).await?;
        let (questions, answers) = (process.stdin(), process.stdout());
        let (Some(questions), Some(answers), Some(errors)) = (questions, answers, process.stderr())
        else {
            return Err(broken(&node, "its streams cannot be had"));
        };
        let streams = Streams {
            questions: Box::new(questions),
            answers: Box::new(answers),
            errors: Box::new(errors),
            keep: Box::new(process),
        };
        Ok(Arc::new(RelayClient::new(&node.name, streams)))
    }

    async fn finish(&self, node: Node, arguments: Vec<String>) -> Result<Ran, ReachError> {
        let mut process = self.exec(&node, &arguments, false).await?;
        let status = process.take_status();
        let (output, errors) = (process.stdout(), process.stderr());
        let (Some(mut output), Some(mut errors), Some(status)) = (output, errors, status) else {
            return Err(broken(&node, "its streams cannot be had"));
        };
        let (mut said, mut complained) = (Vec::new(), Vec::new());
        let read = tokio::try_join!(
            output.read_to_end(&mut said),
            errors.read_to_end(&mut complained)
        );
        read.map_err(|error| broken(&node, error.to_string()))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Ran {
            code: code(status.await.as_ref()),
            output: text(&said),
            errors: text(&complained),
        })
    }

    async fn log(&self, node: Node, previous: bool) -> Result<Option<String>, ReachError> {
        let pod = agent_of(&node)?;
        let parameters = LogParams {
            container: Some(CONTAINER.to_owned()),
            previous,
            tail_lines: Some(LOG_LINES),
            ..LogParams::default()
        };
        match self.pods().logs(&pod.name, &parameters).await {
            Ok(text) => Ok(Some(text)),
            // There was no agent before.
            Err(Error::Api(status)) if previous && status.code == 400 => Ok(None),
            Err(error) => Err(match is_forbidden(&error) {
                true => ReachError::Forbidden {
                    verb: "get",
                    resource: "pods/log",
                    namespace: self.namespace.clone(),
                },
                false => broken(&node, said(&error)),
            }),
        }
    }

    async fn all(&self, kind: &'static Kind) -> Result<Option<Vec<serde_json::Value>>, ReachError> {
        let resource = ApiResource {
            group: kind.group.into(),
            version: kind.version.into(),
            api_version: match kind.group {
                "" => kind.version.to_owned(),
                group => format!("{group}/{}", kind.version),
            },
            kind: kind.kind.into(),
            plural: kind.plural.into(),
        };
        let namespace = if kind.of_podwire {
            &*self.namespace
        } else {
            ""
        };
        let objects: Api<DynamicObject> = match kind.of_podwire {
            true => Api::namespaced_with(self.client.clone(), namespace, &resource),
            false => Api::all_with(self.client.clone(), &resource),
        };
        let mut parameters = ListParams::default();
        if kind.of_podwire {
            parameters = parameters.labels(LABEL);
        }
        match objects.list(&parameters).await {
            Ok(list) => Ok(Some(
                (list.items.into_iter())
                    .filter_map(|object| serde_json::to_value(object).ok())
                    .collect(),
            )),
            // The cluster has no such kind.
            Err(Error::Api(status)) if status.code == 404 => Ok(None),
            Err(error) => Err(self.failed("list", kind.plural, namespace, &error)),
        }
    }
}

impl Reach for ApiReach {
    fn nodes(&self) -> Later<'_, Result<Listing, ReachError>> {
        Box::pin(self.list())
    }

    fn client(&self, node: &Node) -> Later<'_, Result<Arc<dyn Client>, ReachError>> {
        Box::pin(self.relay(node.clone()))
    }

    fn run(&self, node: &Node, arguments: &[&str]) -> Later<'_, Result<Ran, ReachError>> {
        let arguments = arguments.iter().map(|one| (*one).to_owned()).collect();
        Box::pin(self.finish(node.clone(), arguments))
    }

    fn logs(&self, node: &Node, previous: bool) -> Later<'_, Result<Option<String>, ReachError>> {
        Box::pin(self.log(node.clone(), previous))
    }

    fn objects(
        &self,
        kind: &'static Kind,
    ) -> Later<'_, Result<Option<Vec<serde_json::Value>>, ReachError>> {
        Box::pin(self.all(kind))
    }
}

fn agent_of(node: &Node) -> Result<&AgentPod, ReachError> {
    node.agent.as_ref().ok_or_else(|| ReachError::Absent {
        node: node.name.clone(),
        reason: "it has no pod of the DaemonSet".into(),
    })
}

fn broken(node: &Node, reason: impl Into<String>) -> ReachError {
    ReachError::Broken {
        node: node.name.clone(),
        reason: reason.into(),
    }
}

/// Nodes and agents' pods as one list. A node may be known by its agent only.
fn put_together(nodes: &[ApiNode], pods: &[Pod], remarks: Vec<String>) -> Listing {
    let mut all: BTreeMap<String, Node> = BTreeMap::new();
    for node in nodes {
        let name = node.metadata.name.clone().unwrap_or_default();
        let mut one = Node::named(name.clone());
        one.ready = is_ready(node);
        one.absent = Some("no pod of Podwire's DaemonSet is there".into());
        all.insert(name, one);
    }
    for pod in pods {
        let spec = pod.spec.as_ref();
        let Some(name) = spec.and_then(|spec| spec.node_name.clone()) else {
            continue;
        };
        let (agent, absent) = agent(pod);
        let one = all.entry(name).or_insert_with_key(|name| Node::named(name));
        // While an agent is replaced there are two: the one that runs can be asked.
        if one.agent.is_none() || absent.is_none() {
            one.agent = Some(agent);
            one.absent = absent;
        }
    }
    Listing {
        nodes: all.into_values().collect(),
        remarks,
        ..Listing::default()
    }
}

fn is_ready(node: &ApiNode) -> Option<bool> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions.iter().find(|one| one.type_ == "Ready")?;
    Some(ready.status == "True")
}

/// The agent in a pod, and why it cannot be asked, if it cannot.
fn agent(pod: &Pod) -> (AgentPod, Option<String>) {
    let status = pod.status.as_ref();
    let name = pod.metadata.name.clone().unwrap_or_default();
    let containers = status.and_then(|status| status.container_statuses.as_ref());
    let container = containers.and_then(|all| all.iter().find(|one| one.name == CONTAINER));
    let running = container
        .and_then(|one| one.state.as_ref())
        .is_some_and(|state| state.running.is_some());
    let waiting = container
        .and_then(|one| one.state.as_ref()?.waiting.as_ref()?.reason.clone())
        .or_else(|| status.and_then(|status| status.phase.clone()))
        .unwrap_or_else(|| "not started".into());
    let absent = (!running).then(|| format!("its pod {name} does not run ({waiting})"));
    let agent = AgentPod {
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        name,
        image: container.map(|one| one.image.clone()).unwrap_or_default(),
        restarts: container.map_or(0, |one| one.restart_count),
        ready: container.is_some_and(|one| one.ready),
    };
    (agent, absent)
}

pub(crate) fn is_forbidden(error: &Error) -> bool {
    match error {
        Error::Api(status) => status.code == 403,
        Error::UpgradeConnection(UpgradeConnectionError::ProtocolSwitch(status)) => *status == 403,
        _ => false,
    }
}

/// What the API server says, without what the library adds.
pub(crate) fn said(error: &Error) -> String {
    match error {
        Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        Error::UpgradeConnection(UpgradeConnectionError::ProtocolSwitch(status)) => {
            format!("the API server refuses exec with status {status}")
        }
        error => chain(error),
    }
}

/// The exit status of a command, as exec reports it.
fn code(status: Option<&Status>) -> i32 {
    let Some(status) = status else { return -1 };
    if status.status.as_deref() == Some("Success") {
        return 0;
    }
    let details = status.details.iter();
    let causes = details.flat_map(|details| details.causes.iter().flatten());
    let mut codes = causes.filter(|cause| cause.reason.as_deref() == Some("ExitCode"));
    let code = codes
        .next()
        .and_then(|cause| cause.message.as_ref()?.parse().ok());
    code.unwrap_or(-1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, ready: &str) -> ApiNode {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": name},
            "status": {"conditions": [{"type": "Ready", "status": ready}]},
        }))
        .unwrap()
    }

    fn pod(name: &str, node: &str, state: serde_json::Value) -> Pod {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": name, "namespace": "kube-system"},
            "spec": {"nodeName": node, "containers": []},
            "status": {"phase": "Running", "containerStatuses": [{
                "name": CONTAINER, "image": "podwire:0.1.0", "imageID": "", "ready": true,
                "restartCount": 3, "state": state,
            }]},
        }))
        .unwrap()
    }

    #[test]
    fn a_node_without_an_agent_and_an_agent_that_does_not_run_are_named() {
        let running = serde_json::json!({"running": {}});
        let crashing = serde_json::json!({"waiting": {"reason": "CrashLoopBackOff"}});
        let nodes = [node("a", "True"), node("b", "Unknown"), node("c", "True")];
        let pods = [
            pod("podwire-a0", "a", crashing.clone()),
            pod("podwire-a1", "a", running.clone()),
            pod("podwire-c", "c", crashing),
            pod("podwire-d", "d", running),
        ];
        let listing = put_together(&nodes, &pods, Vec::new());
        let said: Vec<_> = listing
            .nodes
            .iter()
            .map(|node| {
                let agent = node.agent.as_ref().map(|agent| agent.name.as_str());
                (
                    node.name.as_str(),
                    node.ready,
                    agent,
                    node.absent.as_deref(),
                )
            })
            .collect();
        assert_eq!(
            said,
            [
                ("a", Some(true), Some("podwire-a1"), None),
                (
                    "b",
                    Some(false),
                    None,
                    Some("no pod of Podwire's DaemonSet is there")
                ),
                (
                    "c",
                    Some(true),
                    Some("podwire-c"),
                    Some("its pod podwire-c does not run (CrashLoopBackOff)")
                ),
                ("d", None, Some("podwire-d"), None),
            ]
        );
    }

    #[test]
    fn the_exit_status_of_a_command_is_read() {
        let status = |text: &str| serde_json::from_str::<Status>(text).unwrap();
        assert_eq!(code(Some(&status(r#"{"status": "Success"}"#))), 0);
        let failed = r#"{"status": "Failure", "reason": "NonZeroExitCode", "details": {"causes":
            [{"reason": "ExitCode", "message": "3"}]}}"#;
        assert_eq!(code(Some(&status(failed))), 3);
        assert_eq!(code(None), -1);
    }
}
