//! Carrying actions out in the lab.

use std::net::IpAddr;
use std::time::Duration;

use podwire_lab::error::{Error, Result};
use podwire_lab::node::Node;
use podwire_lab::pod::PodSpec;
use podwire_lab::runtime::PortMapping;
use podwire_lab::{Lab, manifests, wait};
use serde_json::json;

use crate::churn::{Action, Pod, Service, Wanted};
use crate::policy::LABEL;

/// How long a pod may take to start: an agent that was killed comes back in a second or two.
const PATIENCE: Duration = Duration::from_secs(20);
/// The code by which a plugin says so (CNI specification 1.1.0, "Error codes").
const TRY_AGAIN: u32 = 11;

/// Makes an action happen. `before` is what was wanted until now, `after` what is from now on.
pub fn act(lab: &Lab, before: &Wanted, after: &Wanted, action: &Action) -> Result<()> {
    match action {
        Action::PodComes(name, pod) => come(lab, name, pod),
        Action::PodGoes(name, told) => {
            // kubelet and the controllers do not wait for each other.
            if *told {
                leave_services(lab, before, after, name)?;
            }
            lab.remove(name)?;
            if *told {
                return Ok(());
            }
            leave_services(lab, before, after, name)
        }
        Action::PodBreaks(name) => {
            let pod = lab.pod(name)?;
            let node = lab.machine(pod.node())?;
            node.place()
                .output(&format!("ip link delete {}", pod.host_link()))?;
            leave_services(lab, before, after, name)
        }
        Action::PodIsDeleted(name) => lab.remove(name),
        Action::ServiceIs(name, service) => {
            if before.services.get(name).map(plain) != Some(plain(service)) {
                write_service(lab, name, service)?;
            }
            write_endpoints(lab, after, name, service)
        }
        Action::ServiceGoes(name) => {
            lab.remove_manifest(&format!("service-{name}"))?;
            lab.remove_manifest(&format!("endpointslice-{name}"))
        }
        Action::PodIsLabelled(name, _) => match after.pods.get(name) {
            Some(pod) => lab.publish(&lab.pod(name)?, &spec(name, pod)),
            None => Ok(()),
        },
        Action::PolicyIs(name, policy) => lab.write_manifest(name, &policy.manifest(name)),
        Action::PolicyGoes(name) => lab.remove_manifest(name),
        // There may be nothing to break.
        Action::Breaks(node, damage) => lab.machine(node)?.place().sh(damage.command()).map(drop),
        Action::AgentDies(node, again) => {
            let node = lab.machine(node)?;
            node.stop_agent("KILL")?;
            if *again { start_agent(&node) } else { Ok(()) }
        }
        Action::AgentComes(node) => start_agent(&lab.machine(node)?),
    }
}

/// Starts a pod, as often as the plugin says that it may work later: where there are policies it does
/// not start one while the agent is away.
fn come(lab: &Lab, name: &str, pod: &Pod) -> Result<()> {
    let spec = spec(name, pod);
    let mut last = None;
    let started = wait::until_some(PATIENCE, || match lab.run(&pod.node, &spec) {
        Err(
            error @ Error::Plugin {
                code: TRY_AGAIN, ..
            },
        ) => {
            last = Some(error);
            None
        }
        ended => Some(ended.map(drop)),
    });
    started.unwrap_or_else(|| last.map_or(Ok(()), Err))
}

/// Starts the agent of a node, with a grace period for leases that a check can wait for.
pub fn start_agent(node: &Node) -> Result<()> {
    node.start_agent_with(&["--lease-grace", "3s"])
}

/// What of a Service is not in its EndpointSlice.
fn plain(service: &Service) -> (IpAddr, Option<u16>) {
    (service.address.into(), service.node_port)
}

fn spec(name: &str, pod: &Pod) -> PodSpec {
    let port = |port| PortMapping::new(port, 80, "tcp");
    PodSpec {
        ports: pod.host_port.map(port).into_iter().collect(),
        ..PodSpec::web(name).labelled(LABEL, &pod.group.to_string())
    }
}

fn leave_services(lab: &Lab, before: &Wanted, after: &Wanted, pod: &str) -> Result<()> {
    for (name, service) in &after.services {
        let was = before.services.get(name);
        if was.is_some_and(|service| service.endpoints.contains(pod)) {
            write_endpoints(lab, after, name, service)?;
        }
    }
    Ok(())
}

fn write_service(lab: &Lab, name: &str, service: &Service) -> Result<()> {
    let mut object = manifests::service(name, &service.address.to_string(), 80, 80);
    if let Some(port) = service.node_port {
        object["spec"]["type"] = json!("NodePort");
        object["spec"]["ports"][0]["nodePort"] = json!(port);
    }
    lab.write_manifest(&format!("service-{name}"), &object)
}

fn write_endpoints(lab: &Lab, wanted: &Wanted, name: &str, service: &Service) -> Result<()> {
    let mut endpoints = Vec::new();
    for pod in &service.endpoints {
        let node = wanted.pods.get(pod).map_or("", |pod| &pod.node);
        let address = lab.pod(pod)?.address(false);
        endpoints.extend(address.map(|address| (address, node)));
    }
    let object = manifests::endpoint_slice(name, 80, endpoints);
    lab.write_manifest(&format!("endpointslice-{name}"), &object)
}
