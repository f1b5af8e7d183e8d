//! A real cluster as the ground, through its API server.

mod found;

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::{self as core, Namespace, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{AttachParams, DeleteParams, ListParams, PostParams};
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, sleep, timeout};

use self::found::{State, families, node, portal, state};
use crate::reach::api::{is_forbidden, said};
use crate::test::case::{Role, Service, Spot, name};
use crate::test::ground::{Ground, GroundError, Laid, Outside, Place, Portal, Ran};
use crate::test::objects;
use crate::test::plan::{Node, Plan, World};

/// The image whose pods are started unless another is named: that of Kubernetes' own tests.
pub const IMAGE: &str = "registry.k8s.io/e2e-test-images/agnhost:2.63.0";

/// How long pods may take to be ready.
const READY: Duration = Duration::from_secs(60);

/// How long Services may take to have their endpoints; who has none then is a finding.
const ENDPOINTS: Duration = Duration::from_secs(15);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(500);

/// How many objects are made at a time.
const AT_A_TIME: usize = 16;

/// More output of a command than this is not read.
const MOST_OUTPUT: u64 = 64 * 1024;

/// A cluster.
pub struct Cluster {
    client: Client,
    namespace: String,
    image: String,
    no_policies: Option<String>,
    outside: Vec<Outside>,
}

impl Cluster {
    /// The cluster of this client. `no_policies` says why policies are not tried.
    pub fn new(
        client: Client,
        image: String,
        no_policies: Option<String>,
        outside: Vec<Outside>,
    ) -> Self {
        let alphabet = b"bcdfghjklmnpqrstvwxz2456789";
        let suffix: String = (0..5)
            .filter_map(|_| fastrand::choice(alphabet).copied().map(char::from))
            .collect();
        Self {
            client,
            namespace: format!("podwire-test-{suffix}"),
            image,
            no_policies,
            outside,
        }
    }

    /// The namespace of this run.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    async fn create<T>(&self, api: &Api<T>, object: Value) -> Result<T, GroundError>
    where
        T: Clone + std::fmt::Debug + serde::Serialize + DeserializeOwned,
    {
        let what = format!(
            "{} {}",
            text(&object["kind"]),
            text(&object["metadata"]["name"])
        );
        let object = serde_json::from_value(object).map_err(|error| {
            GroundError(format!("{what} is not what Kubernetes takes: {error}"))
        })?;
        let made = api.create(&PostParams::default(), &object).await;
        made.map_err(|error| self.failed(&format!("create {what}"), &error))
    }

    fn failed(&self, what: &str, error: &kube::Error) -> GroundError {
        GroundError(format!(
            "cannot {what} in namespace {}: {}",
            self.namespace,
            reason(error)
        ))
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn services(&self) -> Api<core::Service> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Makes all objects, and answers with where the Services are.
    async fn make(&self, plan: &Plan) -> Result<BTreeMap<Service, Portal>, GroundError> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        self.create(&namespaces, objects::namespace(&self.namespace))
            .await?;
        // Before the pods: so they start with them in force.
        if plan.has_policies() {
            let api: Api<NetworkPolicy> = Api::namespaced(self.client.clone(), &self.namespace);
            for policy in objects::policies(&self.namespace) {
                self.create(&api, policy).await?;
            }
        }
        let services = self.services();
        let services = stream::iter(objects::services(plan)).map(async |service| {
            let made = self
                .create(&services, objects::service(&self.namespace, service))
                .await?;
            Ok::<_, GroundError>((service, portal(&made)))
        });
        let mut services: BTreeMap<_, _> =
            services.buffer_unordered(AT_A_TIME).try_collect().await?;
        if let Some(portal) = self.api_server().await {
            services.insert(Service::Api, portal);
        }
        let pods = self.pods();
        let made = stream::iter(objects::spots(plan)).map(async |spot| {
            let node = &plan.nodes[spot.node].name;
            let pod = objects::pod(&self.namespace, spot, node, &self.image);
            self.create(&pods, pod).await.map(drop)
        });
        made.buffer_unordered(AT_A_TIME).try_collect::<()>().await?;
        Ok(services)
    }

    async fn api_server(&self) -> Option<Portal> {
        let api: Api<core::Service> = Api::namespaced(self.client.clone(), "default");
        api.get("kubernetes")
            .await
            .ok()
            .map(|service| portal(&service))
    }

    /// Waits until all pods are ready, or can no longer be expected to be.
    async fn wait_for_pods(&self, plan: &Plan, laid: &mut Laid) -> Result<(), GroundError> {
        let until = Instant::now() + READY;
        loop {
            let listed = self.pods().list(&ListParams::default()).await;
            let listed = listed.map_err(|error| self.failed("list the pods", &error))?;
            let by_name: BTreeMap<&str, &Pod> = listed
                .items
                .iter()
                .filter_map(|pod| Some((pod.metadata.name.as_deref()?, pod)))
                .collect();
            laid.spots.clear();
            laid.missing.clear();
            let mut hope = false;
            for spot in objects::spots(plan) {
                match state(by_name.get(objects::pod_name(spot).as_str()).copied()) {
                    State::Ready(place) => {
                        laid.spots.insert(spot, place);
                    }
                    State::Waits(why) => {
                        hope = true;
                        laid.missing.insert(spot, why);
                    }
                    State::Broken(why) => {
                        laid.missing.insert(spot, why);
                    }
                }
            }
            if !hope || Instant::now() > until {
                return Ok(());
            }
            sleep(PAUSE).await;
        }
    }

    /// Waits until the Services have their endpoints.
    async fn wait_for_endpoints(&self, plan: &Plan, laid: &Laid) {
        use k8s_openapi::api::discovery::v1::EndpointSlice;
        let api: Api<EndpointSlice> = Api::namespaced(self.client.clone(), &self.namespace);
        let is_server = |spot: &&Spot| spot.role == Role::Server;
        let servers = laid.spots.keys().filter(is_server).count();
        let all = objects::services(plan);
        let until = Instant::now() + ENDPOINTS;
        while Instant::now() < until {
            let Ok(slices) = api.list(&ListParams::default()).await else {
                return;
            };
            let endpoints = |service: Service| -> usize {
                let of_service = |slice: &&EndpointSlice| {
                    let labels = slice.metadata.labels.as_ref();
                    let owner = labels.and_then(|l| l.get("kubernetes.io/service-name"));
                    owner.is_some_and(|owner| *owner == name(service))
                };
                let ready = |slice: &EndpointSlice| {
                    let is_ready = |one: &&k8s_openapi::api::discovery::v1::Endpoint| {
                        let conditions = one.conditions.as_ref();
                        conditions.and_then(|c| c.ready).unwrap_or(true)
                    };
                    slice.endpoints.iter().flatten().filter(is_ready).count()
                };
                slices.items.iter().filter(of_service).map(ready).sum()
            };
            let settled = |service: &Service| match service {
                Service::Empty | Service::Api => true,
                Service::Hairpin(node) => {
                    endpoints(*service) > 0 || !laid.spots.contains_key(&Spot::client(*node))
                }
                _ => endpoints(*service) >= servers,
            };
            if all.iter().all(settled) {
                return;
            }
            sleep(PAUSE).await;
        }
    }
}

impl Ground for Cluster {
    async fn world(&self) -> Result<World, GroundError> {
        let api: Api<core::Node> = Api::all(self.client.clone());
        let listed = api.list(&ListParams::default()).await;
        let listed = listed.map_err(|error| {
            GroundError(format!(
                "cannot list the nodes of the cluster: {}",
                reason(&error)
            ))
        })?;
        let mut nodes: Vec<Node> = listed.items.iter().map(node).collect();
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        let families = families(&listed.items)?;
        let dns: Api<core::Service> = Api::namespaced(self.client.clone(), "kube-system");
        let no_dns = match dns.get_opt("kube-dns").await {
            Ok(Some(_)) => None,
            _ => Some("there is no Service kube-system/kube-dns".to_owned()),
        };
        let no_api = match self.api_server().await {
            Some(_) => None,
            None => Some("there is no Service default/kubernetes".to_owned()),
        };
        Ok(World {
            nodes,
            families,
            no_policies: self.no_policies.clone(),
            no_dns,
            no_api,
            outside: self.outside.iter().map(|outside| outside.family).collect(),
        })
    }

    async fn clear(&self) -> Result<Vec<String>, GroundError> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        let ours = ListParams::default().labels(objects::LABEL);
        let listed = api.list(&ours).await.map_err(|error| {
            GroundError(format!(
                "cannot list the namespaces of the cluster: {}",
                reason(&error)
            ))
        })?;
        let mut left = Vec::new();
        for namespace in listed.items {
            let name = namespace.metadata.name.unwrap_or_default();
            if namespace.metadata.deletion_timestamp.is_some() {
                continue;
            }
            remove(&api, &name).await?;
            left.push(format!("namespace {name}"));
        }
        Ok(left)
    }

    async fn prepare(&self, plan: &Plan) -> Result<Laid, GroundError> {
        let mut laid = Laid {
            services: self.make(plan).await?,
            outside: self.outside.clone(),
            ..Laid::default()
        };
        self.wait_for_pods(plan, &mut laid).await?;
        self.wait_for_endpoints(plan, &laid).await;
        Ok(laid)
    }

    async fn run(
        &self,
        place: &Place,
        command: &[String],
        limit: Duration,
    ) -> Result<Ran, GroundError> {
        match timeout(limit, self.exec(place.name(), command)).await {
            Ok(ran) => ran,
            Err(_) => Err(GroundError(format!(
                "a command in pod {} did not end within {} s",
                place.pod,
                limit.as_secs()
            ))),
        }
    }

    async fn clean(&self) -> Result<(), GroundError> {
        remove(&Api::all(self.client.clone()), &self.namespace).await
    }

    fn left(&self) -> String {
        let name = &self.namespace;
        format!(
            "namespace {name} may be left: `kubectl delete namespace {name}` removes it, and so does \
             the next test"
        )
    }
}

impl Cluster {
    async fn exec(&self, pod: &str, command: &[String]) -> Result<Ran, GroundError> {
        let parameters = AttachParams::default()
            .stdin(false)
            .stdout(true)
            .stderr(true);
        let started = self.pods().exec(pod, command, &parameters).await;
        let what = format!("run a command in pod {pod}");
        let mut process = started.map_err(|error| self.failed(&what, &error))?;
        let (stdout, stderr) = (process.stdout(), process.stderr());
        let status = process.take_status();
        let (stdout, stderr) = tokio::join!(read(stdout), read(stderr));
        let status = match status {
            Some(status) => status.await,
            None => None,
        };
        let unknown = || GroundError(format!("the end of a command in pod {pod} is not known"));
        let status = exit_status(&status.ok_or_else(unknown)?);
        Ok(Ran {
            status,
            stdout,
            stderr,
        })
    }
}

async fn read(stream: Option<impl tokio::io::AsyncRead + Unpin>) -> String {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        // What came before an error is still output.
        let _ = stream.take(MOST_OUTPUT).read_to_end(&mut bytes).await;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// 0, or what the API server says that the command ended with.
fn exit_status(status: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Status) -> i32 {
    if status.status.as_deref() == Some("Success") {
        return 0;
    }
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let code = causes
        .flatten()
        .find(|cause| cause.reason.as_deref() == Some("ExitCode"))
        .and_then(|cause| cause.message.as_deref()?.parse().ok());
    code.unwrap_or(-1)
}

async fn remove(api: &Api<Namespace>, name: &str) -> Result<(), GroundError> {
    match api.delete(name, &DeleteParams::background()).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(GroundError(format!(
            "cannot remove namespace {name}, and `kubectl delete namespace {name}` does: {}",
            reason(&error)
        ))),
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// What the API server said, and what to do if it is that this may not be done.
fn reason(error: &kube::Error) -> String {
    let what = said(error);
    match is_forbidden(error) {
        true => {
            format!("{what}; the ClusterRole podwire-desk-test of conf/desk-rbac.yaml permits it")
        }
        false => what,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_end_of_a_command_is_its_exit_status() {
        let status = |value: Value| exit_status(&serde_json::from_value(value).unwrap());
        assert_eq!(status(json!({"status": "Success"})), 0);
        let cause = json!({"reason": "ExitCode", "message": "28"});
        let failed = json!({"status": "Failure", "details": {"causes": [cause]}});
        assert_eq!(status(failed), 28);
        assert_eq!(status(json!({"status": "Failure"})), -1);
    }
}
