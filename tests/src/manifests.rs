//! Ordinary Kubernetes manifests, as the agent reads them from a directory.
//!
//! Objects are JSON values, which every YAML reader reads as well; the files that learners see
//! are printed as YAML by [`yaml`].

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde_json::{Value, json};

use crate::pod::{Pod, PodSpec, Servers};
use crate::topology::Machine;

/// A Node.
pub fn node(machine: &Machine) -> Value {
    let cidrs: Vec<String> = machine.pod_cidrs.iter().map(IpNetwork::to_string).collect();
    let mut addresses: Vec<Value> = machine
        .addresses
        .iter()
        .map(|address| json!({"type": "InternalIP", "address": address.ip().to_string()}))
        .collect();
    addresses.push(json!({"type": "Hostname", "address": machine.name}));
    let mut spec = json!({});
    if let Some(first) = cidrs.first() {
        spec = json!({"podCIDR": first, "podCIDRs": cidrs});
    }
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": machine.name,
            "labels": {"kubernetes.io/hostname": machine.name, "kubernetes.io/os": "linux"},
        },
        "spec": spec,
        "status": {"addresses": addresses},
    })
}

/// A running Pod as the API server would show it. Of each kind of server the first port has a name:
/// `http`, `tcp`, `udp`.
pub fn pod(pod: &Pod, spec: &PodSpec) -> Value {
    let addresses = pod.addresses();
    let ips: Vec<Value> = addresses
        .iter()
        .map(|address| json!({"ip": address.to_string()}))
        .collect();
    let Servers { http, tcp, udp } = &spec.servers;
    let kinds = [
        ("http", "TCP", http),
        ("tcp", "TCP", tcp),
        ("udp", "UDP", udp),
    ];
    let ports = kinds.into_iter().flat_map(|(name, protocol, ports)| {
        ports.iter().enumerate().map(move |(place, port)| {
            let mut port = json!({"containerPort": port, "protocol": protocol});
            if place == 0 {
                port["name"] = json!(name);
            }
            port
        })
    });
    let ports: Vec<Value> = ports.collect();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": spec.name,
            "namespace": spec.namespace,
            "uid": pod.sandbox().uid,
            "labels": spec.labels,
        },
        "spec": {"nodeName": pod.node(), "containers": [{"name": "main", "ports": ports}]},
        "status": {
            "phase": "Running",
            "podIP": addresses.first().map(IpAddr::to_string),
            "podIPs": ips,
        },
    })
}

/// A Namespace without labels of its own.
pub fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

/// A ClusterIP Service of the namespace `default` with one TCP port. Tests change what they like
/// in the value.
pub fn service(name: &str, cluster_ip: &str, port: u16, target_port: u16) -> Value {
    let ip: Option<IpAddr> = cluster_ip.parse().ok();
    let family = if ip.is_some_and(|ip| ip.is_ipv6()) {
        "IPv6"
    } else {
        "IPv4"
    };
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": cluster_ip,
            "clusterIPs": [cluster_ip],
            "ipFamilies": [family],
            "ipFamilyPolicy": "SingleStack",
            "sessionAffinity": "None",
            "internalTrafficPolicy": "Cluster",
            "ports": [{"protocol": "TCP", "port": port, "targetPort": target_port}],
        },
    })
}

/// The EndpointSlice of a Service of the namespace `default`: one TCP port, and ready endpoints
/// of one family, each with its node.
pub fn endpoint_slice<'a>(
    service: &str,
    port: u16,
    endpoints: impl IntoIterator<Item = (IpAddr, &'a str)>,
) -> Value {
    let mut family = "IPv4";
    let endpoints: Vec<Value> = endpoints
        .into_iter()
        .map(|(address, node)| {
            if address.is_ipv6() {
                family = "IPv6";
            }
            json!({
                "addresses": [address.to_string()],
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "nodeName": node,
            })
        })
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{service}-{}", family.to_ascii_lowercase()),
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": family,
        "ports": [{"name": "", "protocol": "TCP", "port": port}],
        "endpoints": endpoints,
    })
}

/// Prints a JSON value as block YAML.
pub fn yaml(value: &Value) -> String {
    let mut text = String::new();
    write(&mut text, value, 0, false);
    text
}

/// Appends `value` at `depth`. `inline` tells that the line has begun with `key:` or `- `.
fn write(text: &mut String, value: &Value, depth: usize, inline: bool) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (position, (key, field)) in fields.iter().enumerate() {
                if position > 0 || !inline {
                    indent(text, depth);
                }
                text.push_str(&scalar(key));
                text.push(':');
                nested(text, field, depth);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                indent(text, depth);
                text.push_str("- ");
                match item {
                    Value::Object(fields) if !fields.is_empty() => {
                        write(text, item, depth + 1, true);
                    }
                    item => {
                        text.push_str(&flow(item));
                        text.push('\n');
                    }
                }
            }
        }
        value => {
            text.push_str(&flow(value));
            text.push('\n');
        }
    }
}

/// Appends the value of a field whose `key:` is on the line already.
fn nested(text: &mut String, field: &Value, depth: usize) {
    let block = match field {
        Value::Object(fields) => !fields.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    };
    if block {
        text.push('\n');
        write(text, field, depth + 1, false);
    } else {
        text.push(' ');
        text.push_str(&flow(field));
        text.push('\n');
    }
}

fn indent(text: &mut String, depth: usize) {
    text.extend(std::iter::repeat_n("  ", depth));
}

fn flow(value: &Value) -> String {
    match value {
        Value::String(string) => scalar(string),
        // JSON is YAML.
        other => other.to_string(),
    }
}

/// A string without quotes where YAML cannot take it for anything else.
fn scalar(string: &str) -> String {
    let plain = string.starts_with(|first: char| first.is_ascii_alphabetic())
        && string
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c))
        && !["true", "false", "null", "yes", "no", "on", "off", "y", "n"]
            .contains(&string.to_ascii_lowercase().as_str());
    if plain {
        string.to_owned()
    } else {
        Value::from(string).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{Families, Topology};

    #[test]
    fn a_node_reads_like_one_that_a_person_wrote() {
        let node = node(&Topology::node(Families::Dual, "worker", 2, 1));
        let expected = r#"apiVersion: v1
kind: Node
metadata:
  labels:
    kubernetes.io/hostname: worker
    kubernetes.io/os: linux
  name: worker
spec:
  podCIDR: "10.10.1.0/24"
  podCIDRs:
    - "10.10.1.0/24"
    - "fd00:10:10:1::/64"
status:
  addresses:
    - address: "172.18.0.2"
      type: InternalIP
    - address: "fc00:f853:ccd:e793::2"
      type: InternalIP
    - address: worker
      type: Hostname
"#;
        assert_eq!(yaml(&node), expected);
    }

    #[test]
    fn strings_that_yaml_takes_for_something_else_are_quoted() {
        for (string, printed) in [
            ("true", "\"true\""),
            ("1.2", "\"1.2\""),
            ("a: b", "\"a: b\""),
        ] {
            assert_eq!(scalar(string), printed);
        }
    }

    #[test]
    fn an_endpoint_slice_has_the_family_of_its_endpoints() {
        let slice = endpoint_slice("web", 80, [("fd00::1".parse().unwrap(), "worker")]);
        assert_eq!(slice["addressType"], "IPv6");
        assert_eq!(slice["metadata"]["name"], "web-ipv6");
        assert_eq!(slice["endpoints"][0]["nodeName"], "worker");
    }

    #[test]
    fn empty_values_stay_on_their_line() {
        assert_eq!(
            yaml(&json!({"spec": {}, "list": []})),
            "list: []\nspec: {}\n"
        );
    }
}
