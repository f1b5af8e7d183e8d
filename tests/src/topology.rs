//! Which machines a lab has, and their addresses: plain values.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The longest name of a machine: it also names a link in the lab, and those end at 15 bytes.
const LONGEST_NAME: usize = 15;

/// What a machine of the lab is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// A node of the cluster: the agent runs on it, and pods can.
    Node,
    /// A computer on the node network that is not part of the cluster.
    Neighbour,
    /// A computer behind the router of the node network. It knows no way to pod addresses.
    Outside,
}

/// One machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Its name, which is also its host name.
    pub name: String,
    /// What it is.
    pub role: Role,
    /// The addresses of its `eth0`, with the length of the network's prefix.
    pub addresses: Vec<IpNetwork>,
    /// The addresses of its pods, if it is a node.
    pub pod_cidrs: Vec<IpNetwork>,
}

impl Machine {
    /// The first address of the family.
    pub fn address(&self, ipv6: bool) -> Option<IpAddr> {
        self.addresses
            .iter()
            .map(IpNetwork::ip)
            .find(|ip| ip.is_ipv6() == ipv6)
    }

    /// An error if the name does not fit.
    pub(crate) fn check(&self) -> Result<()> {
        check_name("machine", &self.name, LONGEST_NAME)
    }
}

/// Host names, and file names, and for machines link names.
pub(crate) fn check_name(kind: &'static str, name: &str, limit: usize) -> Result<()> {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let fits = (1..=limit).contains(&name.len())
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-');
    if fits {
        Ok(())
    } else {
        Err(Error::BadName {
            kind,
            name: name.into(),
            limit,
        })
    }
}

/// An error unless Kubernetes would take the label
/// (<https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/>).
pub(crate) fn check_label(key: &str, value: &str) -> Result<()> {
    let is_edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    let is_name = |text: &str| {
        let mut bytes = text.bytes();
        text.len() <= 63
            && is_edge(text.bytes().next())
            && is_edge(text.bytes().next_back())
            && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    let is_domain = |text: &str| {
        text.len() <= 253
            && text
                .split('.')
                .all(|part| check_name("part", part, 63).is_ok())
    };
    let (domain, name) = match key.split_once('/') {
        Some((domain, name)) => (Some(domain), name),
        None => (None, key),
    };
    if domain.is_none_or(is_domain) && is_name(name) && (value.is_empty() || is_name(value)) {
        return Ok(());
    }
    Err(Error::BadLabel {
        label: format!("{key}={value}"),
    })
}

/// Which families a lab speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Families {
    /// IPv4 alone, as in the walkthrough.
    V4,
    /// IPv6 alone.
    V6,
    /// Both.
    Dual,
}

impl Families {
    /// Keeps what belongs to these families.
    fn keep(self, networks: &[IpNetwork]) -> Vec<IpNetwork> {
        let wanted = |network: &&IpNetwork| match self {
            Families::V4 => network.is_ipv4(),
            Families::V6 => network.is_ipv6(),
            Families::Dual => true,
        };
        networks.iter().filter(wanted).copied().collect()
    }
}

/// All machines of a lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// Which families it speaks.
    pub families: Families,
    /// The addresses of the node network's router, which is the lab itself.
    pub router: Vec<IpNetwork>,
    /// The addresses of the router towards [`Role::Outside`].
    pub border: Vec<IpNetwork>,
    /// The machines.
    pub machines: Vec<Machine>,
}

impl Topology {
    /// The walkthrough's cluster: four nodes and `mypc` on 172.18.0.0/16, and one computer
    /// beyond the router.
    pub fn walkthrough(families: Families) -> Topology {
        let node = |name, host, pods| Topology::node(families, name, host, pods);
        Topology {
            families,
            router: families.keep(&segment(1)),
            border: families.keep(&border(1)),
            machines: vec![
                node("control-plane", 5, 0),
                node("worker", 2, 1),
                node("worker2", 4, 2),
                node("worker3", 3, 3),
                Machine {
                    name: "mypc".into(),
                    role: Role::Neighbour,
                    addresses: families.keep(&segment(6)),
                    pod_cidrs: Vec::new(),
                },
                Machine {
                    name: "internet".into(),
                    role: Role::Outside,
                    addresses: families.keep(&border(9)),
                    pod_cidrs: Vec::new(),
                },
            ],
        }
    }

    /// A smaller cluster: `worker` and `worker2` of the walkthrough, `mypc` and `internet`.
    pub fn pair(families: Families) -> Topology {
        let mut topology = Topology::walkthrough(families);
        topology
            .machines
            .retain(|machine| !matches!(machine.name.as_str(), "control-plane" | "worker3"));
        topology
    }

    /// A node at `host` of the node network, with podCIDR number `pods`.
    pub fn node(families: Families, name: &str, host: u8, pods: u8) -> Machine {
        Machine {
            name: name.into(),
            role: Role::Node,
            addresses: families.keep(&segment(host)),
            pod_cidrs: families.keep(&pod_cidrs(pods)),
        }
    }
}

fn cidr(text: &str) -> IpNetwork {
    text.parse().expect("the literals in this file are CIDRs")
}

fn segment(host: u8) -> [IpNetwork; 2] {
    [
        cidr(&format!("172.18.0.{host}/16")),
        cidr(&format!("fc00:f853:ccd:e793::{host}/64")),
    ]
}

fn border(host: u8) -> [IpNetwork; 2] {
    // Networks for documentation (RFC 5737, RFC 3849): no one's.
    [
        cidr(&format!("203.0.113.{host}/24")),
        cidr(&format!("2001:db8:113::{host}/64")),
    ]
}

fn pod_cidrs(number: u8) -> [IpNetwork; 2] {
    [
        cidr(&format!("10.10.{number}.0/24")),
        cidr(&format!("fd00:10:10:{number}::/64")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_walkthrough_has_the_addresses_of_the_notes() {
        let topology = Topology::walkthrough(Families::V4);
        let seen: Vec<String> = topology
            .machines
            .iter()
            .filter(|machine| machine.role == Role::Node)
            .map(|m| format!("{} {} {}", m.name, m.addresses[0].ip(), m.pod_cidrs[0]))
            .collect();
        assert_eq!(
            seen,
            [
                "control-plane 172.18.0.5 10.10.0.0/24",
                "worker 172.18.0.2 10.10.1.0/24",
                "worker2 172.18.0.4 10.10.2.0/24",
                "worker3 172.18.0.3 10.10.3.0/24",
            ]
        );
    }

    #[test]
    fn names_that_no_link_can_have_are_refused() {
        for bad in ["", "Worker", "a.b", "sixteen-letters-", "-x", "a/b"] {
            assert!(check_name("machine", bad, LONGEST_NAME).is_err(), "{bad:?}");
        }
        check_name("machine", "control-plane", LONGEST_NAME).unwrap();
    }

    #[test]
    fn labels_are_those_of_kubernetes() {
        let long = "x".repeat(64);
        for (key, value) in [
            ("app", "web"),
            ("app", ""),
            ("a_b.C-1", "x_y.Z-2"),
            ("example.com/app", &long[1..]),
        ] {
            check_label(key, value).unwrap();
        }
        for (key, value) in [
            ("", ""),
            ("a", "b c"),
            ("-a", "b"),
            ("a", "b."),
            ("/a", "b"),
            ("A.b/c", "d"),
            ("a/b/c", "d"),
            ("a", "b=c"),
            (&*long, "a"),
            ("a", &*long),
        ] {
            assert!(check_label(key, value).is_err(), "{key}={value}");
        }
    }
}
