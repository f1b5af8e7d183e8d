//! The pods and policies between which packets go: as manifests, and as others may lay them out.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use crate::services::cluster::NODE;
use crate::talk::{CLIENT, DIRECT, ECHO, PAIRS, SERVERS};

/// Pods of other nodes that the rules distinguish, and policies about them.
const OTHERS: u32 = 10_000;
/// See [`OTHERS`].
pub const POLICIES: u32 = 1_000;

/// Pods of the node, those that talk included.
const LOCAL: u32 = 110;

/// What the policies open.
const PORTS: [u16; 2] = [DIRECT, ECHO];

/// A pod as policies see it.
pub struct Pod {
    /// In the namespace of all.
    pub name: String,
    /// Its only label.
    pub app: String,
    /// Whether it is on the node of the bench.
    pub local: bool,
    /// Its only address.
    pub address: Ipv4Addr,
}

/// A NetworkPolicy.
pub struct Policy {
    /// In the namespace of all.
    pub name: String,
    /// The app that it is about; without one it is about all pods.
    pub about: Option<&'static str>,
    /// Its only rule.
    pub rule: Rule,
}

/// What a policy allows.
pub enum Rule {
    /// Nothing, in both directions.
    Nothing,
    /// Everything to the pods of an app.
    To(&'static str),
    /// From the pods of an app to these ports.
    From(String, &'static [u16]),
    /// From one address to these ports.
    FromAddress(Ipv4Addr, &'static [u16]),
}

/// Everything but [`changed`].
pub struct Objects {
    /// Of this node and of others.
    pub pods: Vec<Pod>,
    /// Of one namespace.
    pub policies: Vec<Policy>,
}

impl Objects {
    /// A client, a pod for each address of the server, pods that keep silent, and those of other
    /// nodes. Everything is denied, the client reaches the server, and so do the pods of other
    /// nodes, by as many policies.
    pub fn new() -> Self {
        let mut policies = vec![
            policy("closed", None, Rule::Nothing),
            policy("out", Some("client"), Rule::To("server")),
            from("client", "client", &PORTS),
            from("pairs", "client", &PAIRS),
        ];
        policies.extend((0..POLICIES).map(|number| {
            let app = format!("app-{number}");
            from(&app, &app, &PORTS)
        }));
        let mut pods = local();
        pods.extend((0..OTHERS).map(|number| Pod {
            name: format!("pod-{number}"),
            app: format!("app-{}", number % POLICIES),
            local: false,
            address: Ipv4Addr::from(0x0a40_0000 + number),
        }));
        Self { pods, policies }
    }

    /// The pods of an app, or all.
    pub fn with(&self, app: Option<&str>) -> impl Iterator<Item = &Pod> {
        let asked = move |pod: &&Pod| app.is_none_or(|app| pod.app == app);
        self.pods.iter().filter(asked)
    }

    /// The pods as manifests.
    pub fn pod_manifests(&self) -> String {
        let mut text =
            String::from("apiVersion: v1\nkind: Namespace\nmetadata: {name: bench}\n---\n");
        for pod in &self.pods {
            let (name, app, address) = (&pod.name, &pod.app, pod.address);
            let node = if pod.local { NODE } else { "node-1" };
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: bench, labels: \
                 {{app: {app}}}}}\nspec: {{nodeName: {node}, containers: [{{name: main}}]}}\n\
                 status: {{phase: Running, podIP: {address}, podIPs: [{{ip: {address}}}]}}\n---"
            );
        }
        text
    }

    /// The policies as manifests.
    pub fn policy_manifests(&self) -> String {
        self.policies.iter().map(Policy::manifest).collect()
    }
}

/// One more policy about the server, which changes: each round allows another address.
pub fn changed(round: u32) -> Policy {
    policy(
        "changed",
        Some("server"),
        Rule::FromAddress(address_of(round), &PORTS),
    )
}

/// The address that [`changed`] allows.
pub fn address_of(round: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0b00_0000 + round)
}

impl Policy {
    /// The policy as a manifest.
    pub fn manifest(&self) -> String {
        let labelled = |app: &str| format!("podSelector: {{matchLabels: {{app: {app}}}}}");
        let about = self
            .about
            .map_or_else(|| "podSelector: {}".to_owned(), labelled);
        let from = |peer: &str, ports: &[u16]| {
            let ports: Vec<String> = ports
                .iter()
                .map(|port| format!("{{port: {port}}}"))
                .collect();
            let ports = ports.join(", ");
            format!("ingress: [{{from: [{{{peer}}}], ports: [{ports}]}}]")
        };
        let rest = match &self.rule {
            Rule::Nothing => "policyTypes: [Ingress, Egress]".to_owned(),
            Rule::To(app) => {
                let peer = labelled(app);
                format!("policyTypes: [Egress], egress: [{{to: [{{{peer}}}]}}]")
            }
            Rule::From(app, ports) => from(&labelled(app), ports),
            Rule::FromAddress(address, ports) => {
                from(&format!("ipBlock: {{cidr: {address}/32}}"), ports)
            }
        };
        let name = &self.name;
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, \
             namespace: bench}}\nspec: {{{about}, {rest}}}\n---\n"
        )
    }
}

/// The pods of the node. Those that talk stand in the middle: where rules are read one by one, half
/// of them come before.
fn local() -> Vec<Pod> {
    let pod = |name: String, app: &str, address| Pod {
        name,
        app: app.to_owned(),
        local: true,
        address,
    };
    let talking = 1 + SERVERS.len() as u32;
    let mut pods: Vec<Pod> = (0..LOCAL - talking)
        .map(|number| {
            let address = Ipv4Addr::from(u32::from(CLIENT) + talking + number);
            pod(format!("silent-{number}"), "silent", address)
        })
        .collect();
    let servers = SERVERS.iter().enumerate();
    let servers =
        servers.map(|(number, address)| pod(format!("server-{number}"), "server", *address));
    let middle = pods.len() / 2;
    let client = pod("client".to_owned(), "client", CLIENT);
    pods.splice(middle..middle, std::iter::once(client).chain(servers));
    pods
}

fn policy(name: &str, about: Option<&'static str>, rule: Rule) -> Policy {
    Policy {
        name: name.to_owned(),
        about,
        rule,
    }
}

/// A policy about the server.
fn from(name: &str, app: &str, ports: &'static [u16]) -> Policy {
    policy(name, Some("server"), Rule::From(app.to_owned(), ports))
}
