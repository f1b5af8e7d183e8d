//! What an API server would have done or refused, and no one does for a manifest.

use super::Slim;
use crate::snapshot::Key;
use crate::source::objects::{EndpointSlice, Names, Service, Unnamed};

impl Slim {
    /// What an object lacks to do what is meant, one sentence each.
    pub(super) fn advice(&self, names: &mut Names) -> Result<Vec<String>, Unnamed> {
        match self {
            Slim::Service(service) => of_service(service, names),
            Slim::EndpointSlice(slice) => of_slice(slice, names),
            _ => Ok(Vec::new()),
        }
    }
}

fn of_service(service: &Service, names: &mut Names) -> Result<Vec<String>, Unnamed> {
    let key = Key::Service(service.metadata.object_name(names)?);
    let mut advice = Vec::new();
    if service.waits_for_cluster_ip() {
        advice.push(format!(
            "{key} has no spec.clusterIP, and without an API server none is given to it; choose a \
             free address of the Service network, or None for a headless Service"
        ));
    }
    if service.waits_for_node_port() {
        advice.push(format!(
            "{key} is of type NodePort and has a port without nodePort, and without an API server \
             none is given to it; choose a free one from 30000 to 32767"
        ));
    }
    Ok(advice)
}

fn of_slice(slice: &EndpointSlice, names: &mut Names) -> Result<Vec<String>, Unnamed> {
    let key = Key::EndpointSlice(slice.metadata.object_name(names)?);
    let orphan = slice.service().is_none();
    let advice = orphan.then(|| {
        format!(
            "{key} belongs to no Service; name its Service in the label kubernetes.io/service-name"
        )
    });
    Ok(advice.into_iter().collect())
}
