//! What has to be in nftables for one attachment, and how it is written down.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use podwire_kernel::Protocol;
use serde_json::{Map, Value, json};

use super::comment::{comment, owner};
use crate::json::{Fields, Node, WrongType};

/// What every version has written into a record, were it empty.
pub(super) const ALWAYS_WRITTEN: [&str; 9] = [
    "containerID",
    "ifname",
    "network",
    "chained",
    "addresses",
    "hostPorts",
    "snat",
    "masqAll",
    "ipMasq",
];

/// What has to be in nftables for one attachment.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Record {
    /// The container ID.
    pub container_id: String,
    /// The interface in the container.
    pub ifname: String,
    /// The network.
    pub network: String,
    /// The namespace and name of the pod, if the runtime told them.
    pub pod: Option<(String, String)>,
    /// When the attachment was made, in nanoseconds since 1970. Of two attachments with the same
    /// host port, the younger one has it.
    pub since: u64,
    /// Whether the plugin was called as a chained `portmap`; then the link may be another plugin's.
    pub chained: bool,
    /// The addresses of the container that host ports lead to, at most one of each family.
    pub addresses: Vec<IpAddr>,
    /// The ports of the node that lead to the container.
    pub host_ports: Vec<HostPort>,
    /// Whether connections of the container to itself, and of the node from 127.0.0.1, get the
    /// node's address as their source; without it they do not work.
    pub snat: bool,
    /// Whether all connections through host ports get the node's address as their source.
    pub masquerade_all: bool,
    /// Addresses of the container with the prefix length of their network: packets from them that
    /// leave this network get the node's address as their source.
    pub ip_masq: Vec<IpNetwork>,
}

/// A port of the node that leads to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    /// The protocol.
    pub protocol: Protocol,
    /// The address of the node; `None` for all of them.
    pub host_ip: Option<IpAddr>,
    /// The port of the node.
    pub host_port: u16,
    /// The port of the container.
    pub container_port: u16,
}

impl Record {
    /// Whether nothing has to be in nftables.
    pub fn is_empty(&self) -> bool {
        self.host_ports.is_empty() && self.ip_masq.is_empty()
    }

    /// The address of the container in the family of IPv4 or of IPv6.
    pub fn address(&self, v4: bool) -> Option<IpAddr> {
        let mut addresses = self.addresses.iter();
        addresses.find(|address| address.is_ipv4() == v4).copied()
    }

    /// Whether the node reaches the container through a host port from its loopback, 127.0.0.1 or
    /// ::1.
    pub fn reaches_loopback(&self, v4: bool) -> bool {
        let applies = |port: &HostPort| port.host_ip.is_none_or(|one| one.is_ipv4() == v4);
        self.snat && self.address(v4).is_some() && self.host_ports.iter().any(applies)
    }

    /// What the nftables elements of this attachment have as their comment: the pod for people,
    /// and whose they are, so that no one removes what another attachment has taken over.
    pub fn comment(&self) -> String {
        comment(self.pod.as_ref(), &owner(&self.container_id, &self.ifname))
    }

    /// As its file has it.
    pub(super) fn print(&self) -> Value {
        let texts = |addresses: &[IpAddr]| -> Vec<String> {
            addresses.iter().map(IpAddr::to_string).collect()
        };
        let ports: Vec<Value> = self.host_ports.iter().map(HostPort::print).collect();
        let masq: Vec<String> = self.ip_masq.iter().map(IpNetwork::to_string).collect();
        let pod = self.pod.as_ref().map(|(namespace, name)| [namespace, name]);
        json!({
            "containerID": self.container_id,
            "ifname": self.ifname,
            "network": self.network,
            "pod": pod,
            "since": self.since,
            "chained": self.chained,
            "addresses": texts(&self.addresses),
            "hostPorts": ports,
            "snat": self.snat,
            "masqAll": self.masquerade_all,
            "ipMasq": masq,
        })
    }

    /// Reads a record. What is missing is not taken for empty: what the attachment has in nftables
    /// would be forgotten.
    pub(super) fn parse(document: &Value) -> Result<Self, WrongType> {
        let fields = Fields::of_document(document)?;
        fields.require(&ALWAYS_WRITTEN)?;
        let addresses = fields.list("addresses")?;
        let ports = fields.list("hostPorts")?;
        let masq = fields.list("ipMasq")?;
        Ok(Self {
            container_id: fields.string("containerID")?.to_owned(),
            ifname: fields.string("ifname")?.to_owned(),
            network: fields.string("network")?.to_owned(),
            pod: match fields.strings("pod")?.unwrap_or_default().as_slice() {
                [namespace, name] => Some((namespace.clone(), name.clone())),
                _ => None,
            },
            since: fields.unsigned("since")?.unwrap_or_default(),
            chained: fields.boolean("chained")?.unwrap_or_default(),
            addresses: addresses
                .iter()
                .map(Node::address)
                .collect::<Result<_, _>>()?,
            host_ports: ports
                .iter()
                .map(HostPort::parse)
                .collect::<Result<_, _>>()?,
            snat: fields.boolean("snat")?.unwrap_or_default(),
            masquerade_all: fields.boolean("masqAll")?.unwrap_or_default(),
            ip_masq: masq.iter().map(Node::network).collect::<Result<_, _>>()?,
        })
    }
}

impl HostPort {
    fn print(&self) -> Value {
        let mut object = Map::new();
        object.insert("protocol".into(), self.protocol.name().into());
        if let Some(address) = self.host_ip {
            object.insert("hostIP".into(), address.to_string().into());
        }
        object.insert("hostPort".into(), self.host_port.into());
        object.insert("containerPort".into(), self.container_port.into());
        Value::Object(object)
    }

    fn parse(node: &Node<'_>) -> Result<Self, WrongType> {
        let fields = node.object()?;
        let port = |key| {
            let port = fields
                .unsigned(key)?
                .and_then(|port| u16::try_from(port).ok());
            port.ok_or_else(|| node.wrong("a port mapping"))
        };
        let protocol = Protocol::parse(fields.string("protocol")?);
        Ok(Self {
            protocol: protocol.ok_or_else(|| node.wrong("a port mapping"))?,
            host_ip: fields.address("hostIP")?,
            host_port: port("hostPort")?,
            container_port: port("containerPort")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_fits_and_tells_attachments_apart() {
        let record = Record {
            container_id: "f".repeat(64),
            ifname: "eth0".into(),
            pod: Some(("n".repeat(63), "p".repeat(253))),
            ..Record::default()
        };
        assert!(
            record.comment().len() <= podwire_kernel::nft::COMMENT_MAX,
            "{}",
            record.comment()
        );
        let mut other = record.clone();
        other.ifname = "net1".into();
        assert_ne!(other.comment(), record.comment());
        other.pod = None;
        assert!(other.comment().ends_with("/net1"));
    }
}
