//! What an API server would have done or refused, and no one does for a manifest.

use crate::snapshot::{Key, ObjectName};
use crate::source::decode::slim::Slim;
use crate::source::objects::{EndpointSlice, Names, Service, Unnamed};

impl Slim {
    /// What an object that is ours to serve lacks to do what is meant, one sentence each.
    pub(super) fn advice(&self, names: &mut Names) -> Result<Vec<String>, Unnamed> {
        let (key, lacks): (fn(ObjectName) -> Key, Vec<&str>) = match self {
            Slim::Service(service) => (Key::Service, of_service(service)),
            Slim::EndpointSlice(slice) => (Key::EndpointSlice, of_slice(slice)),
            _ => return Ok(Vec::new()),
        };
        if lacks.is_empty() || self.is_foreign() {
            return Ok(Vec::new());
        }
        let key = key(self.metadata().object_name(names)?);
        let lacks = lacks.into_iter();
        Ok(lacks.map(|text| format!("{key} {text}")).collect())
    }
}

fn of_service(service: &Service) -> Vec<&'static str> {
    let mut lacks = Vec::new();
    if service.waits_for_cluster_ip() {
        lacks.push(
            "has no spec.clusterIP, and without an API server none is given to it; choose a free \
             address of the Service network, or None for a headless Service",
        );
    }
    if service.waits_for_node_port() {
        lacks.push(
            "is of type NodePort and has a port without nodePort, and without an API server none is \
             given to it; choose a free one from 30000 to 32767",
        );
    }
    if service.waits_for_health_check_port() {
        lacks.push(
            "is of type LoadBalancer with externalTrafficPolicy Local and has no healthCheckNodePort, and \
             without an API server none is given to it: no load balancer learns which nodes have \
             endpoints; choose a free one from 30000 to 32767",
        );
    }
    if service.waits_for_load_balancer() {
        lacks.push(
            "is of type LoadBalancer and has neither an address in status.loadBalancer.ingress nor a \
             nodePort, and without an API server it gets none: only its ClusterIP answers; write one \
             of them, or leave the type out",
        );
    }
    if service.has_idle_source_ranges() {
        lacks.push(
            "has loadBalancerSourceRanges and no address of a load balancer, to which alone they apply: \
             they keep no one away; use a NetworkPolicy, or leave them out",
        );
    }
    if service.has_idle_ingress() {
        lacks.push(
            "has addresses in status.loadBalancer.ingress and is not of type LoadBalancer: it does not \
             answer at them; write the type",
        );
    }
    if service.has_idle_node_port() {
        lacks.push(
            "has a nodePort and is not of type NodePort or LoadBalancer: it does not answer there; write \
             the type",
        );
    }
    if service.has_idle_health_check_port() {
        lacks.push(
            "has a healthCheckNodePort and is not of type LoadBalancer with externalTrafficPolicy Local: \
             it does not answer there; write both",
        );
    }
    if service.has_idle_affinity_timeout() {
        lacks.push(
            "has a sessionAffinityConfig and no sessionAffinity: clients do not stay with an endpoint; \
             write sessionAffinity: ClientIP",
        );
    }
    lacks
}

fn of_slice(slice: &EndpointSlice) -> Vec<&'static str> {
    let mut lacks = Vec::new();
    if slice.service().is_none() {
        lacks.push(
            "belongs to no Service; name its Service in the label kubernetes.io/service-name",
        );
    }
    if slice.has_host_names() {
        lacks.push(
            "is of addressType FQDN, which no proxy serves; write addresses, and IPv4 or IPv6 as \
             their type",
        );
    }
    lacks
}
