//! The objects of the test, as plain JSON: what any cluster takes, and the lab's as well.

use serde_json::{Value, json};

use crate::test::case::{Role, Service, Spot, name};
use crate::test::ground::{HTTP, PORT, UDP};
use crate::test::plan::Plan;

/// The label of everything that is the test's. Its value is the namespace of the run.
pub const LABEL: &str = "podwire.io/connectivity-test";

/// The label of a pod that says what it is.
pub const ROLE: &str = "role";

/// The label of a pod that says on which node it is, by number: names of nodes may be longer than
/// a label.
pub const NODE: &str = "node";

/// What a role is named.
pub fn role(role: Role) -> &'static str {
    match role {
        Role::Client => "client",
        Role::Server => "server",
        Role::Host => "host",
    }
}

/// What the pod at a place is named.
pub fn pod_name(spot: Spot) -> String {
    format!("{}-{}", role(spot.role), spot.node)
}

/// All places of a plan.
pub fn spots(plan: &Plan) -> Vec<Spot> {
    let of_node = |node| [Spot::client(node), Spot::server(node), Spot::host(node)];
    (0..plan.nodes.len()).flat_map(of_node).collect()
}

/// A namespace that may have pods in the network of their nodes.
pub fn namespace(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": name,
            "labels": {LABEL: name, "pod-security.kubernetes.io/enforce": "privileged"},
        },
    })
}

/// The pod at a place. It is bound to its node, whatever is said about new pods there.
pub fn pod(namespace: &str, spot: Spot, node: &str, image: &str) -> Value {
    let mut spec = json!({
        "nodeName": node,
        "tolerations": [{"operator": "Exists"}],
        "terminationGracePeriodSeconds": 0,
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "containers": [{
            "name": "netexec",
            "image": image,
            "imagePullPolicy": "IfNotPresent",
            "args": ["netexec", format!("--http-port={HTTP}"), format!("--udp-port={UDP}")],
            "ports": [
                {"containerPort": HTTP, "protocol": "TCP"},
                {"containerPort": UDP, "protocol": "UDP"},
            ],
            "readinessProbe": {
                "httpGet": {"path": "/hostname", "port": HTTP},
                "periodSeconds": 1,
                "failureThreshold": 60,
            },
        }],
    });
    if spot.role == Role::Host {
        spec["hostNetwork"] = json!(true);
        spec["dnsPolicy"] = json!("ClusterFirstWithHostNet");
    }
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod_name(spot),
            "namespace": namespace,
            "labels": {
                LABEL: namespace,
                ROLE: role(spot.role),
                NODE: spot.node.to_string(),
            },
        },
        "spec": spec,
    })
}

/// The Services that a plan needs.
pub fn services(plan: &Plan) -> Vec<Service> {
    let fixed = [
        Service::Web,
        Service::Local,
        Service::Sticky,
        Service::Empty,
        Service::Headless,
    ];
    let hairpins = (0..plan.nodes.len()).map(Service::Hairpin);
    fixed.into_iter().chain(hairpins).collect()
}

/// The labels of the pods that are endpoints of a Service.
pub fn selector(service: Service) -> Value {
    match service {
        Service::Hairpin(node) => json!({ROLE: "client", NODE: node.to_string()}),
        Service::Empty => json!({ROLE: "no-one"}),
        _ => json!({ROLE: "server"}),
    }
}

/// A Service, with an address of each family that the cluster has.
pub fn service(namespace: &str, service: Service) -> Value {
    let mut spec = json!({
        "type": "ClusterIP",
        "ipFamilyPolicy": "PreferDualStack",
        "selector": selector(service),
        "ports": [
            {"name": "http", "protocol": "TCP", "port": PORT, "targetPort": HTTP},
            {"name": "udp", "protocol": "UDP", "port": PORT, "targetPort": UDP},
        ],
    });
    match service {
        Service::Web => spec["type"] = json!("NodePort"),
        Service::Local => {
            spec["type"] = json!("NodePort");
            spec["externalTrafficPolicy"] = json!("Local");
        }
        Service::Sticky => spec["sessionAffinity"] = json!("ClientIP"),
        Service::Headless => spec["clusterIP"] = json!("None"),
        Service::Hairpin(_) | Service::Empty | Service::Api => {}
    }
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name(service), "namespace": namespace, "labels": {LABEL: namespace}},
        "spec": spec,
    })
}

/// What guards clients, and what keeps servers in.
pub fn policies(namespace: &str) -> Vec<Value> {
    let policy = |name: &str, spec: Value| {
        json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": name, "namespace": namespace, "labels": {LABEL: namespace}},
            "spec": spec,
        })
    };
    let (client, server) = (json!({ROLE: "client"}), json!({ROLE: "server"}));
    let guard = json!({
        "podSelector": {"matchLabels": client},
        "policyTypes": ["Ingress"],
        "ingress": [{
            "from": [{"podSelector": {"matchLabels": client}}],
            "ports": [{"protocol": "TCP", "port": HTTP}],
        }],
    });
    let keep_in = json!({
        "podSelector": {"matchLabels": server},
        "policyTypes": ["Egress"],
        "egress": [{"to": [{"podSelector": {"matchLabels": client}}]}],
    });
    vec![
        policy("guard-clients", guard),
        policy("keep-servers-in", keep_in),
    ]
}
