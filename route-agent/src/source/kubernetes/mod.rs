//! The Kubernetes API as the source of cluster objects.
//!
//! Each kind is listed and watched on its own connection; the loop hears
//! [`Input::Listed`] when all first lists are complete. An API server that is away costs nothing
//! but freshness.

mod backoff;
mod complaints;
mod server;
mod watch;
mod wire;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Sender;

use tracing::info;

pub use server::{Error, Options, Timing};

use self::complaints::Complaints;
use self::server::ApiServer;
use self::watch::{Resource, Unreadable, Update, follow};
use super::objects::{self, LABEL_SELECTOR, Names};
use crate::reconcile::Input;
use crate::snapshot::Object;

/// What is read of the cluster.
const RESOURCES: [Resource; 4] = [
    Resource {
        kind: "Node",
        path: "/api/v1/nodes",
        labels: None,
        optional: false,
        decode: node,
    },
    Resource {
        kind: "Service",
        path: "/api/v1/services",
        labels: Some(LABEL_SELECTOR),
        optional: false,
        decode: service,
    },
    Resource {
        kind: "EndpointSlice",
        path: "/apis/discovery.k8s.io/v1/endpointslices",
        labels: Some(LABEL_SELECTOR),
        optional: false,
        decode: slice,
    },
    // Stable since Kubernetes 1.33; without it, unallocated addresses of the Service network are
    // only known from the flag.
    Resource {
        kind: "ServiceCIDR",
        path: "/apis/networking.k8s.io/v1/servicecidrs",
        labels: None,
        optional: true,
        decode: service_cidr,
    },
];

/// The source, ready to run.
pub struct Kubernetes {
    server: ApiServer,
    inputs: Sender<Input>,
}

impl Kubernetes {
    /// Finds the API server and the credentials; does not talk to it yet.
    pub async fn find(
        options: Options,
        timing: Timing,
        inputs: Sender<Input>,
    ) -> Result<Self, Error> {
        let complaints = Arc::new(Complaints::new(inputs.clone()));
        let server = ApiServer::find(options, timing, complaints).await?;
        Ok(Self { server, inputs })
    }

    /// Sends what the cluster holds, and then what changes, until the loop has finished.
    pub async fn run(self) {
        let waiting = AtomicUsize::new(RESOURCES.len());
        let [nodes, services, slices, service_cidrs] = RESOURCES
            .each_ref()
            .map(|resource| self.follow(resource, &waiting));
        tokio::join!(nodes, services, slices, service_cidrs);
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
