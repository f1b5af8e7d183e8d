//! What the cluster's own objects say of nodes, Services and pods. Pure.

use k8s_openapi::api::core::v1::{self as core, Pod};

use crate::test::case::Family;
use crate::test::ground::{GroundError, PORT, Place, Portal};
use crate::test::plan::Node;

/// What the plan has to know of a Node.
pub fn node(node: &core::Node) -> Node {
    let status = node.status.as_ref();
    let addresses = status.iter().flat_map(|status| &status.addresses).flatten();
    let internal = addresses.filter(|address| address.type_ == "InternalIP");
    let conditions = status
        .iter()
        .flat_map(|status| &status.conditions)
        .flatten();
    let ready = conditions
        .clone()
        .find(|condition| condition.type_ == "Ready");
    let unfit = match ready {
        Some(condition) if condition.status == "True" => None,
        Some(condition) => Some(format!(
            "the node is not ready: {}",
            condition
                .message
                .as_deref()
                .unwrap_or("it does not say why")
        )),
        None => Some("the node never said that it is ready".to_owned()),
    };
    Node {
        name: node.metadata.name.clone().unwrap_or_default(),
        addresses: internal
            .filter_map(|address| address.address.parse().ok())
            .collect(),
        unfit,
    }
}

/// The families of pods, the cluster's first one first: those of every node that is ready, because one
/// that has just joined may have no podCIDRs yet.
pub fn families(nodes: &[core::Node]) -> Result<Vec<Family>, GroundError> {
    let ready = nodes.iter().filter(|one| node(one).unfit.is_none());
    let mut families = Vec::new();
    for family in ready.flat_map(pod_families) {
        if !families.contains(&family) {
            families.push(family);
        }
    }
    match families.is_empty() {
        true => Err(GroundError(
            "nothing can be tried: no node is ready and has podCIDRs, so pods get no addresses; \
             `kubectl get nodes` and `kubectl podwire status` say more"
                .to_owned(),
        )),
        false => Ok(families),
    }
}

/// The families of a node's podCIDRs, in their order.
fn pod_families(node: &core::Node) -> impl Iterator<Item = Family> {
    let spec = node.spec.as_ref();
    let cidrs = spec.into_iter().flat_map(|spec| &spec.pod_cidrs).flatten();
    cidrs.filter_map(|cidr| Some(Family::of(cidr.split('/').next()?.parse().ok()?)))
}

/// Where a Service is.
pub fn portal(service: &core::Service) -> Portal {
    let spec = service.spec.clone().unwrap_or_default();
    let addresses = spec.cluster_ips.unwrap_or_default();
    let ports = spec.ports.unwrap_or_default();
    let first = ports.first();
    Portal {
        addresses: addresses
            .iter()
            .filter_map(|one| one.parse().ok())
            .collect(),
        port: first
            .and_then(|port| u16::try_from(port.port).ok())
            .unwrap_or(PORT),
        node_port: first
            .and_then(|port| port.node_port)
            .and_then(|port| u16::try_from(port).ok()),
    }
}

/// How far a pod is.
pub enum State {
    /// It is there.
    Ready(Place),
    /// It may be soon: why it is not yet.
    Waits(String),
    /// It will not be: why.
    Broken(String),
}

/// What a pod does, with what its kubelet says of it.
pub fn state(pod: Option<&Pod>) -> State {
    let Some(pod) = pod else {
        return State::Broken("its pod was removed".to_owned());
    };
    let status = pod.status.clone().unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    let ready = conditions
        .iter()
        .any(|one| one.type_ == "Ready" && one.status == "True");
    let meta = &pod.metadata;
    if ready {
        let ips = status.pod_ips.unwrap_or_default();
        return State::Ready(Place {
            pod: format!(
                "{}/{}",
                meta.namespace.as_deref().unwrap_or_default(),
                meta.name.as_deref().unwrap_or_default()
            ),
            addresses: ips.iter().filter_map(|ip| ip.ip.parse().ok()).collect(),
        });
    }
    let containers = status.container_statuses.unwrap_or_default();
    let waiting = containers
        .first()
        .and_then(|one| one.state.as_ref()?.waiting.clone());
    let (reason, message) = match waiting {
        Some(waiting) => (
            waiting.reason.unwrap_or_default(),
            waiting.message.unwrap_or_default(),
        ),
        None => (
            status.reason.unwrap_or_default(),
            status.message.unwrap_or_default(),
        ),
    };
    match reason.as_str() {
        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => {
            State::Broken(format!(
                "its node has no such image and cannot fetch it; `--image` names another that \
                 has agnhost's netexec: {message}"
            ))
        }
        _ if status.phase.as_deref() == Some("Failed") => {
            State::Broken(format!("its node refused it: {reason} {message}"))
        }
        _ => State::Waits(
            format!("it is not ready: {reason} {message}")
                .trim_end()
                .to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn said(status: Value) -> (bool, String) {
        let pod = json!({"metadata": {"name": "client-0", "namespace": "test"}, "status": status});
        match state(Some(&serde_json::from_value(pod).unwrap())) {
            State::Ready(place) => (true, format!("{place:?}")),
            State::Waits(why) => (true, why),
            State::Broken(why) => (false, why),
        }
    }

    #[test]
    fn an_image_that_no_one_has_is_given_up_at_once_and_the_flag_is_named() {
        let waiting = json!({"reason": "ImagePullBackOff", "message": "no route to the registry"});
        let container = json!({
            "name": "netexec", "image": "x", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": waiting},
        });
        let (hope, why) = said(json!({"phase": "Pending", "containerStatuses": [container]}));
        assert!(!hope && why.contains("`--image`") && why.contains("no route to the registry"));
        let (hope, why) = said(json!({"phase": "Failed", "reason": "OutOfpods"}));
        assert!(!hope && why.contains("OutOfpods"), "{why}");
        let (hope, _) = said(json!({"phase": "Pending"}));
        assert!(hope);
        assert!(matches!(state(None), State::Broken(_)));
    }

    #[test]
    fn a_ready_pod_has_its_addresses() {
        let (_, place) = said(json!({
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}],
            "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}],
        }));
        assert_eq!(
            place,
            r#"Place { pod: "test/client-0", addresses: [10.0.0.1, fd00::1] }"#
        );
    }

    #[test]
    fn a_node_that_is_not_ready_says_why() {
        let of = |conditions: Value| {
            let object = json!({"metadata": {"name": "a"}, "status": {
                "addresses": [
                    {"type": "InternalIP", "address": "172.18.0.2"},
                    {"type": "Hostname", "address": "a"},
                ],
                "conditions": conditions,
            }});
            node(&serde_json::from_value(object).unwrap())
        };
        let ready = of(json!([{"type": "Ready", "status": "True"}]));
        assert_eq!((ready.unfit, ready.addresses.len()), (None, 1));
        let gone =
            of(json!([{"type": "Ready", "status": "Unknown", "message": "no word from it"}]));
        assert_eq!(
            gone.unfit.unwrap(),
            "the node is not ready: no word from it"
        );
        assert!(of(json!([])).unfit.is_some());
    }

    #[test]
    fn families_are_those_of_all_ready_nodes_in_the_order_of_the_first_that_has_some() {
        let node = |ready: &str, cidrs: &[&str]| -> core::Node {
            let object = json!({"metadata": {"name": "a"}, "spec": {"podCIDRs": cidrs}, "status": {
                "conditions": [{"type": "Ready", "status": ready}],
            }});
            serde_json::from_value(object).unwrap()
        };
        const V4: &str = "10.0.0.0/24";
        const V6: &str = "fd00::/64";
        let new = || node("True", &[]);
        let of = |nodes: &[core::Node]| families(nodes);
        assert_eq!(of(&[new(), node("True", &[V4])]), Ok(vec![Family::V4]));
        let mixed = [new(), node("True", &[V6]), node("True", &[V4, V6])];
        assert_eq!(of(&mixed), Ok(vec![Family::V6, Family::V4]));
        let away = [node("False", &[V6]), node("True", &[V4])];
        assert_eq!(of(&away), Ok(vec![Family::V4]));
        for none in [&[][..], &[new()], &[node("False", &[V4])]] {
            let why = of(none).unwrap_err().to_string();
            assert!(why.contains("no node is ready and has podCIDRs"), "{why}");
        }
    }
}
