//! An API server that has a cluster of pods and policies to tell of, and no change of it.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use podwire_kernel::netns::Netns;
use serde_json::{Value, json};

use crate::services::cluster::NODE;

/// Pods and policies of each namespace.
const PODS: usize = 50;
const POLICIES: usize = 5;
/// Pods of the agent's node.
const LOCALS: usize = 110;
/// Apps of each namespace.
const APPS: [&str; 5] = ["a", "b", "c", "d", "e"];

/// A kind, how many objects of it there are, and what each is.
type Objects = (&'static str, usize, fn(&Api, usize) -> Value);

/// What the server has.
pub struct Api {
    namespaces: usize,
}

impl Api {
    /// A server with this many pods in a network namespace, for as long as this process lives; the
    /// kubeconfig with which it is asked, in `directory`.
    pub fn serve(netns: &Netns, pods: usize, directory: &Path) -> Result<PathBuf, String> {
        let listener = netns
            .enter(|| TcpListener::bind("127.0.0.1:0"))
            .map_err(|error| error.to_string())?
            .map_err(|error| format!("cannot listen: {error}"))?;
        let port = listener.local_addr().map_err(|error| error.to_string())?;
        let api = Arc::new(Self {
            namespaces: pods / PODS,
        });
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let api = api.clone();
                // A client that goes away is nothing to talk about.
                thread::spawn(move || api.answer(&stream));
            }
        });
        let path = directory.join(format!("kubeconfig-{pods}"));
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: k\n\
             clusters: [{{name: k, cluster: {{server: 'http://{port}'}}}}]\n\
             contexts: [{{name: k, context: {{cluster: k, user: k}}}}]\n\
             users: [{{name: k, user: {{}}}}]\n"
        );
        fs::write(&path, text)
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        Ok(path)
    }

    /// Answers one request after another.
    fn answer(&self, mut stream: &TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let mut lines = BufReader::new(stream).lines();
        while let Some(first) = lines.next() {
            let first = first?;
            // None of the requests has a body.
            for line in lines.by_ref() {
                if line?.is_empty() {
                    break;
                }
            }
            let target = first.split(' ').nth(1).unwrap_or_default();
            let (path, query) = target.split_once('?').unwrap_or((target, ""));
            if parameter(query, "watch").is_some() {
                // Nothing ever changes.
                stream.write_all(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\
                      transfer-encoding: chunked\r\n\r\n",
                )?;
                continue;
            }
            let (code, body) = match self.objects(path) {
                Some(objects) => (200, self.page(objects, query)),
                None => (404, json!({"kind": "Status", "code": 404})),
            };
            let body = body.to_string();
            let length = body.len();
            write!(
                stream,
                "HTTP/1.1 {code} X\r\ncontent-type: application/json\r\n\
                 content-length: {length}\r\n\r\n{body}"
            )?;
        }
        Ok(())
    }

    /// The objects at a path.
    fn objects(&self, path: &str) -> Option<Objects> {
        let namespaces = self.namespaces;
        Some(match path.rsplit('/').next()? {
            "nodes" => ("Node", 1, Self::node),
            "namespaces" => ("Namespace", namespaces, Self::namespace),
            "pods" => ("Pod", namespaces * PODS, Self::pod),
            "networkpolicies" => ("NetworkPolicy", namespaces * POLICIES, Self::policy),
            "services" => ("Service", 0, Self::node),
            "endpointslices" => ("EndpointSlice", 0, Self::node),
            "servicecidrs" => ("ServiceCIDR", 0, Self::node),
            _ => return None,
        })
    }

    /// As many of them as are asked for, from where the last page ended.
    fn page(&self, (kind, count, object): Objects, query: &str) -> Value {
        let number = |name| parameter(query, name).and_then(|text| text.parse::<usize>().ok());
        let first = number("continue").unwrap_or(0);
        let last = count.min(first.saturating_add(number("limit").unwrap_or(count)));
        let items: Vec<Value> = (first..last).map(|number| object(self, number)).collect();
        let mut metadata = json!({"resourceVersion": "1"});
        if last < count {
            metadata["continue"] = json!(last.to_string());
        }
        json!({"kind": format!("{kind}List"), "metadata": metadata, "items": items})
    }

    fn node(&self, _: usize) -> Value {
        json!({
            "metadata": {"name": NODE, "uid": "n", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"podCIDR": "10.88.0.0/24", "podCIDRs": ["10.88.0.0/24"]},
            "status": {"addresses": [{"type": "InternalIP", "address": "192.168.77.1"}]},
        })
    }

    fn namespace(&self, number: usize) -> Value {
        let name = format!("ns-{number}");
        json!({"metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}}})
    }

    /// As a Deployment makes it: what the kubelet and the scheduler write about it is most of it.
    fn pod(&self, number: usize) -> Value {
        let every = self.namespaces * PODS / LOCALS;
        let local = number.is_multiple_of(every) && number / every < LOCALS;
        let (address, node) = match local {
            true => (format!("10.88.0.{}", number / every + 2), NODE.to_owned()),
            false => (
                format!(
                    "10.{}.{}.{}",
                    100 + number / 65_536,
                    number / 256 % 256,
                    number % 256
                ),
                format!("node-{}", number % 99),
            ),
        };
        let app = APPS[number % APPS.len()];
        let hash = format!("{:x}", 0x5d4f_0000 + number / 10);
        let name = format!("app-{app}-{hash}-{number}");
        json!({
            "metadata": {
                "name": name, "namespace": format!("ns-{}", number / PODS),
                "uid": format!("0b1c5be2-7a3e-4d5b-9d1a-{number:012x}"),
                "labels": {"app": app, "pod-template-hash": hash},
                "managedFields": written_by(["kube-controller-manager", "kubelet", "scheduler"]),
            },
            "spec": {
                "nodeName": node,
                "containers": [{"name": "main", "image": "registry.example/app:1.2.3",
                    "ports": [{"name": "http", "containerPort": 8080}]}],
            },
            "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]},
        })
    }

    fn policy(&self, number: usize) -> Value {
        let app = |app: &str| json!({"podSelector": {"matchLabels": {"app": app}}});
        let ports: Vec<Value> = [80, 443, 8080, 9090]
            .map(|port| json!({"port": port}))
            .into();
        let mut spec = match number % POLICIES {
            0 => json!({"policyTypes": ["Ingress", "Egress"]}),
            1 => json!({"ingress": [{"from": [app("a")], "ports": ports}]}),
            2 => json!({"ingress": [{"from": [{"namespaceSelector": {"matchLabels":
                {"kubernetes.io/metadata.name": "ns-0"}}}], "ports": [{"port": 9100}]}]}),
            3 => json!({"policyTypes": ["Egress"], "egress": [{"to": [app("b"),
                {"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.128/25"]}}]}]}),
            _ => json!({"ingress": [{"from": [{"namespaceSelector": {}}]}, {"from": [app("c")],
                "ports": [{"port": 20_000, "endPort": 21_000}]}]}),
        };
        spec["podSelector"] = match number % POLICIES {
            1 => json!({"matchLabels": {"app": "b"}}),
            4 => json!({"matchLabels": {"app": "e"}}),
            _ => json!({}),
        };
        json!({
            "metadata": {"name": format!("policy-{}", number % POLICIES),
                "namespace": format!("ns-{}", number / POLICIES)},
            "spec": spec,
        })
    }
}

/// What the API server notes about who wrote which field, some hundred bytes each.
fn written_by(managers: [&str; 3]) -> Vec<Value> {
    let fields = |count: usize| {
        let names = (0..count).map(|number| (format!("f:some-field-{number}"), json!({})));
        Value::Object(names.collect())
    };
    let entry = |manager: &&str| {
        json!({"manager": manager, "operation": "Update", "apiVersion": "v1",
            "time": "2026-01-01T00:00:00Z", "fieldsType": "FieldsV1",
            "fieldsV1": {"f:metadata": fields(15), "f:status": fields(15)}})
    };
    managers.iter().map(entry).collect()
}

/// A parameter of a query; the agent writes none with escapes.
fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find_map(|(key, value)| (key == name).then_some(value))
}
