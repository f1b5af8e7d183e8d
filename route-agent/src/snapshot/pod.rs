//! Pods and Namespaces: what policies ask about them.
//!
//! There may be 100,000 Pods, and every node has all of them: lists that many share are shared.

use std::fmt;
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

/// What sets an object apart from an earlier one of the same name. A UUID takes a third of its text.
#[derive(Clone, PartialEq, Eq)]
pub struct Uid(UidKind);

#[derive(Clone, PartialEq, Eq)]
enum UidKind {
    Uuid([u8; 16]),
    /// A static pod has a hash there.
    Other(Box<str>),
}

/// Where the hyphens of a UUID are.
const HYPHENS: [usize; 4] = [8, 13, 18, 23];

impl From<&str> for Uid {
    fn from(text: &str) -> Self {
        Self(match uuid(text) {
            Some(uuid) => UidKind::Uuid(uuid),
            None => UidKind::Other(text.into()),
        })
    }
}

/// The bytes of a UUID that is written as Kubernetes writes it.
fn uuid(text: &str) -> Option<[u8; 16]> {
    let bytes = text.as_bytes();
    if bytes.len() != 36 || HYPHENS.iter().any(|at| bytes[*at] != b'-') {
        return None;
    }
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let digits = bytes.iter().enumerate();
    let digits = digits.filter(|(at, _)| !HYPHENS.contains(at));
    let digits: Vec<u8> = digits
        .map(|(_, byte)| digit(*byte))
        .collect::<Option<_>>()?;
    let mut uuid = [0; 16];
    for (byte, pair) in uuid.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = pair[0] << 4 | pair[1];
    }
    Some(uuid)
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            UidKind::Other(text) => f.write_str(text),
            UidKind::Uuid(uuid) => {
                for (at, byte) in uuid.iter().enumerate() {
                    if [4, 6, 8, 10].contains(&at) {
                        f.write_str("-")?;
                    }
                    write!(f, "{byte:02x}")?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Debug for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A Pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// The Pod's name.
    pub name: ObjectName,
    /// `metadata.uid`: a Pod of a StatefulSet comes back with the same name and another one.
    pub uid: Uid,
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
            uid: Uid::from(""),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_is_what_it_was_and_a_uuid_is_small() {
        let uuid = "0a1b2c3d-4e5f-6789-abcd-ef0123456789";
        for text in [
            uuid,
            "",
            "0123456789abcdef0123456789abcdef",
            "0A1B2C3D-4E5F-6789-ABCD-EF0123456789",
            "0a1b2c3d-4e5f-6789-abcd-ef012345678-",
            "0a1b2c3d04e5f06789-abcd-ef0123456789",
        ] {
            assert_eq!(Uid::from(text).to_string(), text);
            assert_eq!(matches!(Uid::from(text).0, UidKind::Uuid(_)), text == uuid);
        }
        assert!(Uid::from(uuid) == Uid::from(uuid) && Uid::from(uuid) != Uid::from(""));
        assert!(size_of::<Uid>() <= 24);
    }
}
