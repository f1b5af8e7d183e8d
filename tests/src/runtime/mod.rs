//! A small container runtime: it calls CNI plugins exactly as containerd does.
//!
//! What is imitated, because plugins have failed on it elsewhere: the first file of `net.d` in
//! sorted order wins; every plugin gets the runtime's whole environment; `loopback` runs beside
//! the network in another thread; `runtimeConfig.portMappings` has capitalised keys; `CNI_ARGS`
//! names the pod in no fixed order; a pod that stops causes three DELs, the later two without
//! `CNI_NETNS`; and a request that is cancelled kills the plugin with SIGKILL.

mod call;
mod config;

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use call::{Attachment, Call, Verb};
pub use config::{Dialect, NetworkConfig};

use crate::error::{Error, Result};
use crate::place::Place;

/// How long a plugin may take. containerd itself has no limit; the kubelet gives a pod minutes.
pub const PLUGIN_LIMIT: Duration = Duration::from_secs(30);

/// The name of a pod's own link.
pub const POD_LINK: &str = "eth0";

/// One hostPort of a pod, spelled as containerd's Go structures are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct PortMapping {
    /// The port on the node.
    pub host_port: u16,
    /// The port in the pod.
    pub container_port: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// The node address it listens on; empty for all.
    #[serde(rename = "HostIP", default)]
    pub host_ip: String,
}

impl PortMapping {
    /// A mapping on every address of the node.
    pub fn new(host_port: u16, container_port: u16, protocol: &str) -> PortMapping {
        PortMapping {
            host_port,
            container_port,
            protocol: protocol.into(),
            host_ip: String::new(),
        }
    }

    /// As it is asked for on the node: `8080/tcp`.
    pub fn host(&self) -> String {
        format!("{}/{}", self.host_port, self.protocol)
    }

    /// True if a packet may be for both.
    pub fn collides(&self, other: &PortMapping) -> bool {
        let same = |one: &PortMapping| (one.host_port, one.protocol.to_ascii_lowercase());
        let anywhere = self.host_ip.is_empty() || other.host_ip.is_empty();
        same(self) == same(other) && (anywhere || self.host_ip == other.host_ip)
    }
}

/// A pod's sandbox as its runtime sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sandbox {
    /// The container ID: 64 hexadecimal digits.
    pub id: String,
    /// The pod's name.
    pub name: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's UID.
    pub uid: String,
    /// The file that names its network namespace, on the node.
    pub netns: String,
    /// Its hostPorts.
    pub ports: Vec<PortMapping>,
}

impl Sandbox {
    /// A new sandbox with a new ID.
    pub fn new(namespace: &str, name: &str) -> Sandbox {
        let hex = random_hex::<4>();
        let uid = random_hex::<2>();
        Sandbox {
            id: hex,
            name: name.into(),
            namespace: namespace.into(),
            uid: format!(
                "{}-{}-{}-{}-{}",
                &uid[..8],
                &uid[8..12],
                &uid[12..16],
                &uid[16..20],
                &uid[20..32]
            ),
            // containerd says /var/run, which is a link on every current distribution.
            netns: format!("/var/run/netns/{name}"),
            ports: Vec::new(),
        }
    }

    /// True if the pod is called so, with its namespace or without.
    pub fn is_named(&self, name: &str) -> bool {
        match name.split_once('/') {
            Some(full) => full == (&self.namespace, &self.name),
            None => self.name == name,
        }
    }
}

/// `WORDS` times 16 random hexadecimal digits. Every [`RandomState`] is seeded by the system.
fn random_hex<const WORDS: usize>() -> String {
    (0..WORDS)
        .map(|_| format!("{:016x}", RandomState::new().build_hasher().finish()))
        .collect()
}

/// The runtime of one node.
#[derive(Debug)]
pub struct Runtime<'a> {
    place: &'a Place,
    dialect: Dialect,
}

impl<'a> Runtime<'a> {
    /// The runtime of the node whose place is `place`, which speaks like a current containerd.
    pub fn new(place: &'a Place) -> Runtime<'a> {
        Runtime {
            place,
            dialect: Dialect::Current,
        }
    }

    /// The same, of another age.
    pub fn speaking(place: &'a Place, dialect: Dialect) -> Runtime<'a> {
        Runtime { place, dialect }
    }

    /// The network configuration that a pod would get now.
    pub fn network(&self) -> Result<NetworkConfig> {
        self.place
            .inside(|| config::load(self.dialect))?
            .map_err(|reason| Error::NoNetwork {
                node: self.place.name().into(),
                reason,
            })
    }

    /// Sets up a sandbox's networks. Answers with the configuration and the result of the pod
    /// network, which later calls need. If it fails, what was set up is taken down again.
    pub fn add(&self, sandbox: &Sandbox) -> Result<Attachment> {
        let network = self.network()?;
        let added = self.add_within(sandbox, &network, PLUGIN_LIMIT);
        if added.is_err() {
            // As containerd does; what DEL says is of no interest beside the first error.
            let _ = self.delete_all(sandbox, &network, None, &sandbox.netns);
        }
        added
    }

    /// The calls of an ADD and nothing else: plugins that are not done within `limit` are
    /// killed, and nothing is taken down afterwards.
    pub fn add_within(
        &self,
        sandbox: &Sandbox,
        network: &NetworkConfig,
        limit: Duration,
    ) -> Result<Attachment> {
        let loopback = NetworkConfig::loopback();
        thread::scope(|scope| {
            let beside = scope.spawn(|| {
                self.call(Verb::Add, sandbox, &sandbox.netns, limit)
                    .list(&loopback, "lo", None)
            });
            let main = self
                .call(Verb::Add, sandbox, &sandbox.netns, limit)
                .list(network, POD_LINK, None);
            let loopback = beside
                .join()
                .unwrap_or_else(|p| std::panic::resume_unwind(p));
            let result = main?.ok_or_else(|| self.no_result(sandbox))?;
            loopback?;
            Ok(Attachment {
                network: network.clone(),
                result,
            })
        })
    }

    /// Takes a sandbox's networks down in the way containerd does when a pod is stopped and
    /// removed: three times, and `between` runs after the first, when the namespace goes.
    pub fn delete(
        &self,
        sandbox: &Sandbox,
        attachment: Option<&Attachment>,
        between: impl FnOnce(),
    ) -> Result<()> {
        let network = match attachment {
            Some(attachment) => attachment.network.clone(),
            None => self.network()?,
        };
        let result = attachment.map(|attachment| &attachment.result);
        let first = self.delete_all(sandbox, &network, result, &sandbox.netns);
        between();
        let later = [(); 2].map(|()| self.delete_all(sandbox, &network, result, ""));
        first.and(later.into_iter().collect())
    }

    /// One DEL of both networks.
    fn delete_all(
        &self,
        sandbox: &Sandbox,
        network: &NetworkConfig,
        result: Option<&Value>,
        netns: &str,
    ) -> Result<()> {
        let call = self.call(Verb::Del, sandbox, netns, PLUGIN_LIMIT);
        let loopback = call.list(&NetworkConfig::loopback(), "lo", None);
        let main = call.list(network, POD_LINK, result);
        main.and(loopback).map(drop)
    }

    /// Asks the plugins whether a sandbox's network is as it was made.
    pub fn check(&self, sandbox: &Sandbox, attachment: &Attachment) -> Result<()> {
        self.call(Verb::Check, sandbox, &sandbox.netns, PLUGIN_LIMIT)
            .list(&attachment.network, POD_LINK, Some(&attachment.result))
            .map(drop)
    }

    /// Asks the plugins whether they can serve pods.
    pub fn status(&self) -> Result<()> {
        self.node_call(Verb::Status)
            .list(&self.network()?, "", None)
            .map(drop)
    }

    /// Tells the plugins which sandboxes exist, so that they free what belongs to others.
    pub fn collect_garbage<'s>(&self, valid: impl IntoIterator<Item = &'s Sandbox>) -> Result<()> {
        let attachments: Vec<Value> = valid
            .into_iter()
            .map(|sandbox| json!({"containerID": sandbox.id, "ifname": POD_LINK}))
            .collect();
        let network = self.network()?.with_valid_attachments(attachments);
        self.node_call(Verb::Gc).list(&network, "", None).map(drop)
    }

    /// A call about one sandbox, with every detail open to change.
    pub fn call<'c>(
        &'c self,
        verb: Verb,
        sandbox: &'c Sandbox,
        netns: &'c str,
        limit: Duration,
    ) -> Call<'c> {
        Call {
            place: self.place,
            verb,
            sandbox: Some(sandbox),
            netns,
            limit,
        }
    }

    fn node_call(&self, verb: Verb) -> Call<'_> {
        Call {
            place: self.place,
            verb,
            sandbox: None,
            netns: "",
            limit: PLUGIN_LIMIT,
        }
    }

    fn no_result(&self, sandbox: &Sandbox) -> Error {
        Error::Plugin {
            plugin: "the list of plugins".into(),
            verb: "ADD",
            pod: sandbox.name.clone(),
            node: self.place.name().into(),
            code: 0,
            message: "there is no plugin that could give a result".into(),
        }
    }
}

/// The addresses in a plugin's result, of every version of the specification.
pub fn addresses(result: &Value) -> Vec<IpAddr> {
    let new = result["ips"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|ip| &ip["address"]);
    let old = ["ip4", "ip6"]
        .into_iter()
        .map(|family| &result[family]["ip"]);
    new.chain(old)
        .filter_map(|address| address.as_str()?.parse::<IpNetwork>().ok())
        .map(|network| network.ip())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_mappings_are_spelled_as_containerd_spells_them() {
        let mapping = serde_json::to_string(&PortMapping::new(8080, 80, "tcp")).unwrap();
        let spelled = r#"{"HostPort":8080,"ContainerPort":80,"Protocol":"tcp","HostIP":""}"#;
        assert_eq!(mapping, spelled);
    }

    #[test]
    fn a_sandbox_has_an_id_and_a_uid_like_those_of_containerd() {
        let (one, two) = (Sandbox::new("default", "a"), Sandbox::new("default", "a"));
        assert_ne!(one.id, two.id);
        assert_eq!(one.id.len(), 64);
        assert_eq!(one.uid.len(), 36);
    }

    #[test]
    fn addresses_are_found_in_results_of_every_version() {
        let new = json!({"ips": [{"address": "10.10.1.2/32"}, {"address": "fd00::2/128"}]});
        assert_eq!(addresses(&new).len(), 2);
        let old = json!({"ip4": {"ip": "10.10.1.2/32"}});
        assert_eq!(addresses(&old), ["10.10.1.2".parse::<IpAddr>().unwrap()]);
    }
}
