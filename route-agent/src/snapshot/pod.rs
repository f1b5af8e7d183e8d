//! Pods and Namespaces: what policies ask about them.
//!
//! There may be 100,000 Pods, and every node has all of them: lists that many share are shared.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use podwire_kernel::IpFamily;

use crate::snapshot::{Few, Invalid, Labels, ObjectName, Protocol};

/// A container port with a name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamedPort {
    /// Its name.
    pub name: Arc<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number, 1 to 65535.
    pub port: u16,
}

/// A Pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// The Pod's name.
    pub name: ObjectName,
    /// `metadata.uid`: a Pod of a StatefulSet comes back with the same name and another one. Empty for
    /// the mirror of a static pod, which has another one for kubelet.
    pub uid: Box<str>,
    /// The Node it runs on, once it is chosen.
    pub node: Option<Arc<str>>,
    /// `status.podIPs` of IPv4.
    pub ipv4: Option<Ipv4Addr>,
    /// `status.podIPs` of IPv6.
    pub ipv6: Option<Ipv6Addr>,
    /// Its labels.
    pub labels: Labels,
    /// The ports of its containers that have a name, in the order of the object. Pods with the same
    /// ports share one list.
    pub ports: Arc<[NamedPort]>,
    /// `metadata.creationTimestamp` in seconds since 1970, if the object has one.
    pub created: Option<u64>,
    /// `spec.hostNetwork`: it has no addresses but those of its Node.
    pub host_network: bool,
    /// Phase Succeeded or Failed: its addresses may be another's by now.
    pub finished: bool,
    /// Phase Running.
    pub running: bool,
    /// True if the object is being deleted.
    pub deleting: bool,
    /// What could not be used.
    pub invalid: Few<Invalid>,
}

impl Pod {
    /// A Pod of which nothing but the name is known.
    pub fn named(name: ObjectName) -> Self {
        Self {
            name,
            uid: Box::default(),
            node: None,
            ipv4: None,
            ipv6: None,
            labels: Labels::none(),
            ports: Arc::from([]),
            created: None,
            host_network: false,
            finished: false,
            running: true,
            deleting: false,
            invalid: Few::new(),
        }
    }

    /// Its address of a family.
    pub fn address(&self, family: IpFamily) -> Option<IpAddr> {
        match family {
            IpFamily::V4 => self.ipv4.map(IpAddr::V4),
            IpFamily::V6 => self.ipv6.map(IpAddr::V6),
        }
    }

    /// The number of its port with this name and protocol.
    pub fn port(&self, name: &str, protocol: Protocol) -> Option<u16> {
        let mut ports = self.ports.iter();
        let named = ports.find(|port| port.protocol == protocol && *port.name == *name);
        named.map(|port| port.port)
    }
}

/// A Namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    /// Its name.
    pub name: Arc<str>,
    /// Its labels.
    pub labels: Labels,
}
