//! A lab with pods and Services, for the tests of the Service proxy.

#![allow(dead_code, reason = "not every test file needs all of it")]

pub mod connection;
pub mod desk;
pub mod policies;
pub mod sctp;

use std::env;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use podwire_lab::load::Summary;
use podwire_lab::node::Node;
use podwire_lab::place::Place;
use podwire_lab::pod::{Pod, PodSpec, Servers};
use podwire_lab::topology::{Families, Topology};
use podwire_lab::{Lab, binaries, wait};
use serde_json::{Value, json};

/// How long the agents may take to carry a change out.
const LIMIT: Duration = Duration::from_secs(30);

/// A number from the environment, or else `default`.
pub fn parameter<T: FromStr>(name: &str, default: T) -> T {
    let given = env::var(name).ok().filter(|text| !text.is_empty());
    given.map_or(default, |text| {
        let number = text.parse();
        number.unwrap_or_else(|_| panic!("{name}={text} is no number"))
    })
}

/// A lab with Services.
pub struct Cluster {
    pub lab: Lab,
    /// The number of the last marker; held while one is under way.
    marker: Mutex<u16>,
}

/// A lab that the tests of a file share: the walkthrough's nodes, a client on the control plane, and
/// web pods. Every test has Services of its own.
pub struct Shared<const N: usize> {
    pub cluster: Cluster,
    pub client: Pod,
    pub web: [Pod; N],
}

impl<const N: usize> Shared<N> {
    /// With a pod `web-NODE` on each of these nodes.
    pub fn with_web_on(nodes: [&str; N]) -> Shared<N> {
        let cluster = Cluster::walkthrough();
        let client = cluster.client("control-plane", "client");
        let web = nodes.map(|node| cluster.web(node, &format!("web-{node}")));
        Shared {
            cluster,
            client,
            web,
        }
    }

    pub fn all(&self) -> [&Pod; N] {
        self.web.each_ref()
    }
}

/// Who answered, and whom it saw asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub pod: String,
    pub client: IpAddr,
}

impl Cluster {
    /// The four nodes of the walkthrough.
    pub fn walkthrough() -> Cluster {
        Cluster::of(&Topology::walkthrough(Families::V4))
    }

    /// Two nodes.
    pub fn pair(families: Families) -> Cluster {
        Cluster::of(&Topology::pair(families))
    }

    fn of(topology: &Topology) -> Cluster {
        let cluster = Cluster {
            lab: Lab::for_test(topology).unwrap(),
            marker: Mutex::new(0),
        };
        cluster.apply(&[json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "ServiceCIDR",
            "metadata": {"name": "kubernetes"},
            "spec": {"cidrs": ["10.200.1.0/24", "fd00:10:200::/112"]},
        })]);
        cluster
    }

    pub fn node(&self, name: &str) -> Node {
        self.lab.machine(name).unwrap()
    }

    /// A place by the name of its node or pod.
    pub fn at(&self, name: &str) -> Place {
        self.lab.place_of(name).unwrap()
    }

    /// A pod that serves HTTP on 80 and 8080, lines on TCP 7, and datagrams on UDP 53.
    pub fn web(&self, node: &str, name: &str) -> Pod {
        self.web_at(node, name, vec![80, 8080])
    }

    /// As [`Cluster::web`], with HTTP on these ports.
    pub fn web_at(&self, node: &str, name: &str, http: Vec<u16>) -> Pod {
        let servers = Servers {
            http,
            tcp: vec![7],
            udp: vec![53],
        };
        self.lab
            .run(
                node,
                &PodSpec {
                    servers,
                    ..PodSpec::new(name)
                },
            )
            .unwrap()
    }

    pub fn client(&self, node: &str, name: &str) -> Pod {
        self.lab.run(node, &PodSpec::new(name)).unwrap()
    }

    /// Writes manifests and waits until every agent has carried them out.
    pub fn apply(&self, objects: &[Value]) {
        for object in objects {
            self.lab.write_manifest(&file(object), object).unwrap();
        }
        self.settle();
    }

    /// Removes manifests and waits until every agent has carried that out.
    pub fn delete(&self, objects: &[Value]) {
        for object in objects {
            self.lab.remove_manifest(&file(object)).unwrap();
        }
        self.settle();
    }

    /// Waits until every agent that runs has carried out everything that was written or removed
    /// before: a marker that is written last is then in the kernel, and the one before it, which is
    /// removed last, is no longer there. Neither says anything about the other, because an agent
    /// believes in the removal of a file a moment later than in a new one.
    pub fn settle(&self) {
        let mut marker = self.marker.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *marker;
        *marker += 1;
        let families = self.lab.topology().families;
        self.lab
            .write_manifest(&marker_file(*marker), &marker_service(*marker, families))
            .unwrap();
        if before > 0 {
            self.lab.remove_manifest(&marker_file(before)).unwrap();
        }
        for node in self.lab.cluster().unwrap() {
            if node.agent().is_none() {
                continue;
            }
            for (family, subnet) in marker_subnets(families) {
                let get = |number: u16| {
                    let address = marker_address(subnet, number);
                    format!(
                        "nft get element {family} podwire-services services \
                         '{{ {address} . tcp . {number} }}'"
                    )
                };
                let mut line = get(*marker);
                if before > 0 {
                    line = format!("{line} && ! {}", get(before));
                }
                let done = || node.place().sh(&line).is_ok_and(|ran| ran.status == 0);
                let what = format!("the Services of {}:\n{}", node.name(), node.agent_log());
                wait::until(&what, LIMIT, done).unwrap();
            }
        }
    }
}

/// Sorted last: files that change at the same time are read in the order of their names.
fn marker_file(number: u16) -> String {
    format!("zz-marker-{}.json", number % 2)
}

/// Two markers in turn, each with addresses of its own, so that one can come while the other goes.
fn marker_service(number: u16, families: Families) -> Value {
    let addresses: Vec<String> = marker_subnets(families)
        .into_iter()
        .map(|(_, subnet)| marker_address(subnet, number))
        .collect();
    let spec = json!({"clusterIPs": addresses, "ports": [{"port": number}]});
    let name = format!("marker-{}", number % 2);
    // Without any slice it would be warned about.
    let empty = slice(&name, json!([{"port": number}]), &[]);
    json!({"apiVersion": "v1", "kind": "List", "items": [service(&name, spec), empty]})
}

fn marker_address(subnet: &str, number: u16) -> String {
    format!("{subnet}{}", 253 + number % 2)
}

fn marker_subnets(families: Families) -> Vec<(&'static str, &'static str)> {
    let (v4, v6) = (("ip", "10.200.1."), ("ip6", "fd00:10:200::"));
    match families {
        Families::V4 => vec![v4],
        Families::V6 => vec![v6],
        Families::Dual => vec![v4, v6],
    }
}

fn file(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_ascii_lowercase();
    format!(
        "{}-{}.json",
        text(&object["kind"]),
        text(&object["metadata"]["name"])
    )
}

/// A Service of the namespace `default`. `spec` is what differs from the usual.
pub fn service(name: &str, spec: Value) -> Value {
    let mut object = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"type": "ClusterIP", "sessionAffinity": "None"},
    });
    merge(&mut object["spec"], spec);
    if let Some(first) = object["spec"].get("clusterIPs").map(|ips| ips[0].clone()) {
        object["spec"]["clusterIP"] = first;
    } else if let Some(ip) = object["spec"].get("clusterIP").cloned() {
        object["spec"]["clusterIPs"] = json!([ip]);
    }
    for port in object["spec"]["ports"].as_array_mut().into_iter().flatten() {
        if port.get("protocol").is_none() {
            port["protocol"] = json!("TCP");
        }
    }
    object
}

/// The same object with something else in it.
pub fn with(mut object: Value, patch: Value) -> Value {
    merge(&mut object, patch);
    object
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

/// The EndpointSlice of a Service: `ports` as in the API, and endpoints of one family.
pub fn slice(service: &str, ports: Value, endpoints: &[Value]) -> Value {
    named_slice(&format!("{service}-1"), service, ports, endpoints)
}

/// As [`slice`], with a name of its own.
pub fn named_slice(name: &str, service: &str, ports: Value, endpoints: &[Value]) -> Value {
    let v6 = endpoints
        .first()
        .is_some_and(|e| e["addresses"][0].to_string().contains(':'));
    let mut ports = ports;
    for port in ports.as_array_mut().into_iter().flatten() {
        merge(
            port,
            with(json!({"name": "", "protocol": "TCP"}), port.clone()),
        );
    }
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": if v6 { "IPv6" } else { "IPv4" },
        "ports": ports,
        "endpoints": endpoints,
    })
}

/// A slice of the Service's one TCP port, at port 80 of the pods.
pub fn http(service: &str, pods: &[&Pod]) -> Value {
    let endpoints: Vec<Value> = pods.iter().map(|pod| ready(pod)).collect();
    slice(service, json!([{"port": 80}]), &endpoints)
}

/// A pod as a ready endpoint.
pub fn ready(pod: &Pod) -> Value {
    endpoint(pod, true, true, false)
}

/// A pod that is being deleted and still serves.
pub fn draining(pod: &Pod) -> Value {
    endpoint(pod, false, true, true)
}

/// A pod that is not ready.
pub fn unready(pod: &Pod) -> Value {
    endpoint(pod, false, false, false)
}

fn endpoint(pod: &Pod, ready: bool, serving: bool, terminating: bool) -> Value {
    json!({
        "addresses": [pod.addresses()[0].to_string()],
        "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
        "nodeName": pod.node(),
    })
}

/// Asks an HTTP server once; what went wrong if nobody answered, as curl's exit status: 7 for
/// refused, 28 for no answer in time.
pub fn ask(from: &Place, target: &str) -> Result<Answer, i32> {
    let ran = from
        .sh(&format!("curl -sS --max-time 2 http://{target}/"))
        .unwrap();
    if ran.status != 0 {
        return Err(ran.status);
    }
    Ok(parse(&ran.stdout))
}

/// Refused at once.
pub const REFUSED: Result<Answer, i32> = Err(7);
/// No answer in time.
pub const SILENCE: Result<Answer, i32> = Err(28);

/// Sends one datagram from a new socket.
pub fn ask_udp(from: &Place, address: &str, port: u16) -> Option<Answer> {
    let line = format!(
        "bash -c 'exec 3<>/dev/udp/{address}/{port}; echo hello >&3; timeout 2 head -n1 <&3'"
    );
    let ran = from.sh(&line).unwrap();
    ran.stdout.contains(" answers ").then(|| parse(&ran.stdout))
}

fn parse(text: &str) -> Answer {
    let mut words = text.split_whitespace();
    let pod = words.next().unwrap_or_default().to_owned();
    let client = words
        .nth(1)
        .unwrap_or_default()
        .parse()
        .unwrap_or_else(|_| panic!("{text:?}"));
    Answer { pod, client }
}

/// The lab's own program, which pods can run as well.
pub fn program() -> String {
    binaries::find("podwire-lab").unwrap().display().to_string()
}

/// Opens so many new connections, one after another.
pub fn load(from: &Place, target: &str, count: u32) -> Summary {
    let program = program();
    let text = from
        .output(&format!(
            "{program} load {target} --count {count} --seconds 60"
        ))
        .unwrap();
    serde_json::from_str(text.trim()).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The names of the pods that answered.
pub fn pods(summary: &Summary) -> Vec<&str> {
    summary.answers.keys().map(String::as_str).collect()
}

/// What `nft` prints. It ends with an error if the tables change while it reads them, and is
/// then asked again.
fn nft(node: &Node, command: &str) -> String {
    let line = format!("nft {command}");
    for _ in 0..20 {
        let ran = node.place().sh(&line).unwrap();
        if ran.status == 0 || !ran.stderr.contains("Interrupted system call") {
            return ran.success().unwrap();
        }
    }
    panic!(
        "the tables of {} never stay still for `{line}`",
        node.name()
    );
}

/// The packets that an element of a map or set counted.
pub fn counted(node: &Node, set: &str, key: &str) -> u64 {
    let command = format!("get element ip podwire-services {set} '{{ {key} }}'");
    let text = nft(node, &command);
    packets(&text).unwrap_or_else(|| panic!("no counter in {text}"))
}

/// The packets that the rule with this comment counted.
pub fn counted_by(node: &Node, comment: &str) -> u64 {
    let text = nft(node, "list table ip podwire-services");
    let rules = text
        .lines()
        .filter(|line| line.contains(&format!("comment \"{comment}\"")));
    rules.filter_map(packets).sum()
}

/// The packets of the first counter in a text.
pub fn packets(text: &str) -> Option<u64> {
    text.split_once("packets ")?
        .1
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

/// True if the text is in the node's table.
pub fn listed(node: &Node, text: &str) -> bool {
    nft(node, "list table ip podwire-services").contains(text)
}
