//! The Kubernetes API as the source of cluster objects.
//!
//! Each kind is listed and watched on its own connection; the loop receives
//! [`Input::Listed`] when all first lists are complete. While the API server is unreachable,
//! what was read last stays in force.

mod events;
#[cfg(test)]
mod fake;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod problems;
mod server;
#[cfg(test)]
mod tests;
mod watch;
mod wire;

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Sender;

use tokio::sync::mpsc as async_mpsc;
use tracing::info;

use crate::config::apiserver::Options;
pub use server::{Error, Timing, named_server};

use crate::input::Input;
use crate::snapshot::Object;
use crate::source::kubernetes::server::ApiServer;
use crate::source::kubernetes::watch::{Resource, Unreadable, Update, follow};
use crate::source::objects::{self, LABEL_SELECTOR, Names};
use crate::warnings::{Notice, OnNewWarning};

/// What is read of the cluster.
const RESOURCES: [Resource; 4] = [
    Resource {
        kind: "Node",
        paths: &["/api/v1/nodes"],
        labels: None,
        optional: false,
        decode: node,
    },
    Resource {
        kind: "Service",
        paths: &["/api/v1/services"],
        labels: Some(LABEL_SELECTOR),
        optional: false,
        decode: service,
    },
    Resource {
        kind: "EndpointSlice",
        paths: &["/apis/discovery.k8s.io/v1/endpointslices"],
        labels: Some(LABEL_SELECTOR),
        optional: false,
        decode: slice,
    },
    // Stable since Kubernetes 1.33; without it, unallocated addresses of the Service network are
    // only known from the flag.
    Resource {
        kind: "ServiceCIDR",
        paths: &["/apis/networking.k8s.io/v1/servicecidrs"],
        labels: None,
        optional: true,
        decode: service_cidr,
    },
];

/// What is read for policies alone.
const FOR_POLICIES: [Resource; 4] = [
    Resource {
        kind: "Pod",
        paths: &["/api/v1/pods"],
        labels: None,
        optional: false,
        decode: pod,
    },
    Resource {
        kind: "Namespace",
        paths: &["/api/v1/namespaces"],
        labels: None,
        optional: false,
        decode: namespace,
    },
    Resource {
        kind: "NetworkPolicy",
        paths: &["/apis/networking.k8s.io/v1/networkpolicies"],
        labels: None,
        optional: false,
        decode: network_policy,
    },
    // Its CRD is not a part of Kubernetes. The objects of both versions are the same.
    Resource {
        kind: "ClusterNetworkPolicy",
        paths: &[
            "/apis/policy.networking.k8s.io/v1beta1/clusternetworkpolicies",
            "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies",
        ],
        labels: None,
        optional: true,
        decode: cluster_network_policy,
    },
];

/// The source, ready to run.
pub struct Kubernetes {
    server: ApiServer,
    inputs: Sender<Input>,
    /// True if what policies ask about is read as well.
    policies: bool,
    /// What becomes Events.
    notices: async_mpsc::Receiver<Notice>,
}

/// A queue of what is to become Events: where it goes in, and where it comes out.
pub fn events() -> (async_mpsc::Sender<Notice>, async_mpsc::Receiver<Notice>) {
    async_mpsc::channel(events::QUEUE)
}

/// Makes Events of new warnings.
pub fn of_warnings(notices: async_mpsc::Sender<Notice>) -> OnNewWarning {
    // What does not fit does not become an Event.
    Box::new(move |warning| drop(notices.try_send(warning.into())))
}

impl Kubernetes {
    /// Finds the API server and the credentials; does not talk to it yet.
    pub async fn find(
        options: Options,
        timing: Timing,
        policies: bool,
        inputs: Sender<Input>,
        notices: async_mpsc::Receiver<Notice>,
    ) -> Result<Self, Error> {
        let server = ApiServer::find(options, timing, inputs.clone()).await?;
        Ok(Self {
            server,
            inputs,
            policies,
            notices,
        })
    }

    /// Sends what the cluster holds, and then what changes, until the loop has finished. `node` is
    /// the name under which Events are created.
    pub async fn run(mut self, node: &str) {
        let (_, none) = async_mpsc::channel(1);
        let notices = std::mem::replace(&mut self.notices, none);
        let policies = if self.policies { FOR_POLICIES.len() } else { 0 };
        let waiting = AtomicUsize::new(RESOURCES.len() + policies);
        let [nodes, services, slices, service_cidrs] = RESOURCES
            .each_ref()
            .map(|resource| self.follow(resource, &waiting));
        let [pods, namespaces, policies, cluster_policies] =
            FOR_POLICIES.each_ref().map(|resource| async {
                if self.policies {
                    self.follow(resource, &waiting).await;
                }
            });
        let events = events::publish(&self.server, node, notices);
        tokio::join!(
            nodes,
            services,
            slices,
            service_cidrs,
            pods,
            namespaces,
            policies,
            cluster_policies,
            events
        );
    }

    async fn follow(&self, resource: &Resource, waiting: &AtomicUsize) {
        let out = |update| {
            let input = match update {
                Update::Changes(changes) => Input::Changes(changes),
                Update::Listed => {
                    if waiting.fetch_sub(1, Ordering::Relaxed) > 1 {
                        return ControlFlow::Continue(());
                    }
                    info!("all of the cluster is read");
                    Input::Listed
                }
            };
            match self.inputs.send(input) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        };
        follow(resource, &self.server, out).await;
    }
}

fn node(text: &str, names: &mut Names) -> Result<Option<Object>, Unreadable> {
    let node: objects::Node = serde_json::from_str(text)?;
    Ok(Some(Object::Node(node.into_snapshot(names)?)))
}

fn service(text: &str, names: &mut Names) -> Result<Option<Object>, Unreadable> {
    let service: objects::Service = serde_json::from_str(text)?;
    Ok(Some(Object::Service(service.into_snapshot(names)?)))
}

fn slice(text: &str, names: &mut Names) -> Result<Option<Object>, Unreadable> {
    let slice: objects::EndpointSlice = serde_json::from_str(text)?;
    Ok(slice.into_snapshot(names)?.map(Object::EndpointSlice))
}

fn service_cidr(text: &str, names: &mut Names) -> Result<Option<Object>, Unreadable> {
    let cidr: objects::ServiceCidr = serde_json::from_str(text)?;
    Ok(Some(Object::ServiceCidr(cidr.into_snapshot(names)?)))
}

fn pod(text: &str, names: &mut Names) -> Result<Option<Object>, Unreadable> {
    let pod: objects::Pod = serde_json::from_str(text)?;
    Ok(Some(Object::Pod(pod.into_snapshot(names)?)))
}

fn namespace(text: &str, names: &mut Names) -> Result<Option<Object>, Unreadable> {
    let namespace: objects::Namespace = serde_json::from_str(text)?;
    Ok(Some(Object::Namespace(namespace.into_snapshot(names)?)))
}

fn network_policy(text: &str, names: &mut Names) -> Result<Option<Object>, Unreadable> {
    let policy: objects::NetworkPolicy = serde_json::from_str(text)?;
    Ok(Some(Object::NetworkPolicy(policy.into_snapshot(names)?)))
}

fn cluster_network_policy(text: &str, names: &mut Names) -> Result<Option<Object>, Unreadable> {
    let policy: objects::ClusterNetworkPolicy = serde_json::from_str(text)?;
    let policy = policy.into_snapshot(names)?;
    Ok(Some(Object::ClusterNetworkPolicy(policy)))
}
