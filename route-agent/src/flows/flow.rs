//! One connection as it began or ended on this node, with the names of who took part.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use podwire_kernel::Protocol;
use podwire_kernel::conntrack::Counts;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::clock::{milliseconds, rfc3339};
use crate::ring::Numbered;
use crate::text::protocol_name;

/// A name that many flows share.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(pub Arc<str>);

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|name| Self(name.into()))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What happened to the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// Its first packet has passed.
    New,
    /// It ended, or nothing was heard of it for its time-out.
    End,
}

/// A connection that began or ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// Counts the flows since the agent's start.
    pub number: u64,
    /// When this was read, in UTC.
    #[serde(with = "time")]
    pub time: SystemTime,
    /// Whether it began or ended.
    pub event: What,
    /// `tcp`, `udp`, `sctp`, `icmp` or the number of another protocol.
    #[serde(with = "protocol")]
    pub protocol: u8,
    /// Who opened it.
    pub source: Party,
    /// Whom to, as the client addressed it.
    pub destination: Party,
    /// The port of the Service that the client addressed: `namespace/name:port`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub service: Option<Name>,
    /// Who answers, if NAT sent it elsewhere.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub endpoint: Option<Party>,
    /// As whom the client appears there, if that is not its own address.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub masqueraded_as: Option<IpAddr>,
    /// What the client sent, at the end and where the node counts it.
    #[serde(skip_serializing_if = "Option::is_none", default, with = "passed")]
    pub sent: Option<Counts>,
    /// What it received.
    #[serde(skip_serializing_if = "Option::is_none", default, with = "passed")]
    pub received: Option<Counts>,
    /// How long it lasted in milliseconds, at the end and where the node notes when it began.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub lasted_ms: Option<u64>,
}

/// One end of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Party {
    /// Its address.
    pub address: IpAddr,
    /// Its port, for protocols that have ports.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub port: Option<u16>,
    /// The pod that has the address: `namespace/name`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pod: Option<Name>,
    /// The Node that has the address, or in whose podCIDR it is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub node: Option<Name>,
}

impl Numbered for Flow {
    fn number(&self) -> u64 {
        self.number
    }

    fn set_number(&mut self, number: u64) {
        self.number = number;
    }
}

impl Flow {
    /// The end that answers.
    pub fn answering(&self) -> &Party {
        self.endpoint.as_ref().unwrap_or(&self.destination)
    }

    /// The Service that the client addressed, without its port: `namespace/name`.
    pub fn service_name(&self) -> Option<&str> {
        self.service.as_ref()?.0.split(':').next()
    }

    /// Both ends, and the address that the client spoke to.
    pub fn parties(&self) -> impl Iterator<Item = &Party> {
        [&self.source, &self.destination]
            .into_iter()
            .chain(&self.endpoint)
    }

    /// How long it lasted, if that is known.
    pub fn lasted(&self) -> Option<Duration> {
        self.lasted_ms.map(Duration::from_millis)
    }
}

/// The number of a transport protocol that is named as [`protocol_name`] does, in any case.
pub fn protocol_number(name: &str) -> Option<u8> {
    match name.to_ascii_lowercase().as_str() {
        "icmp" => Some(1),
        "icmpv6" => Some(58),
        name => Protocol::parse(name)
            .map(Protocol::number)
            .or_else(|| name.parse().ok()),
    }
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.pod, &self.node) {
            (Some(pod), _) => write!(f, "{pod} ")?,
            (None, Some(node)) => write!(f, "node {node} ")?,
            (None, None) => {}
        }
        match (self.port, self.address) {
            (None, address) => write!(f, "{address}"),
            (Some(port), IpAddr::V4(address)) => write!(f, "{address}:{port}"),
            (Some(port), IpAddr::V6(address)) => write!(f, "[{address}]:{port}"),
        }
    }
}

impl fmt::Display for Flow {
    /// On one line, for people. Names in it may be of anyone's choice: who prints it escapes what is not
    /// printable.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let event = match self.event {
            What::New => "new",
            What::End => "end",
        };
        let time = rfc3339(self.time);
        let protocol = protocol_name(self.protocol);
        write!(f, "{time} {event} {protocol:<4} {} -> ", self.source)?;
        match &self.service {
            Some(service) => write!(
                f,
                "{service} {}",
                Party {
                    pod: None,
                    node: None,
                    ..self.destination.clone()
                }
            )?,
            None => write!(f, "{}", self.destination)?,
        }
        if let Some(endpoint) = &self.endpoint {
            write!(f, " via {endpoint}")?;
        }
        if let Some(address) = self.masqueraded_as {
            write!(f, " as {address}")?;
        }
        if let (Some(sent), Some(received)) = (self.sent, self.received) {
            write!(
                f,
                ", {} bytes sent, {} received",
                sent.bytes, received.bytes
            )?;
        }
        match self.lasted() {
            Some(lasted) => write!(f, " in {:.3} s", lasted.as_secs_f64()),
            None => Ok(()),
        }
    }
}

mod time {
    use super::*;

    pub fn serialize<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&rfc3339(*time))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
        let text = String::deserialize(deserializer)?;
        let since = milliseconds(&text).ok_or_else(|| serde::de::Error::custom("not a time"))?;
        Ok(SystemTime::UNIX_EPOCH + Duration::from_millis(since))
    }
}

mod protocol {
    use super::*;

    pub fn serialize<S: Serializer>(number: &u8, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&protocol_name(*number))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u8, D::Error> {
        let name = String::deserialize(deserializer)?;
        protocol_number(&name).ok_or_else(|| serde::de::Error::custom("not a protocol"))
    }
}

mod passed {
    use super::*;

    #[derive(Serialize, Deserialize)]
    struct Passed {
        packets: u64,
        bytes: u64,
    }

    pub fn serialize<S: Serializer>(
        counts: &Option<Counts>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let passed = counts.map(|Counts { packets, bytes }| Passed { packets, bytes });
        passed.serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Counts>, D::Error> {
        let passed = Option::<Passed>::deserialize(deserializer)?;
        Ok(passed.map(|Passed { packets, bytes }| Counts { packets, bytes }))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn party(address: [u8; 4], port: u16, pod: Option<&str>, node: &str) -> Party {
        Party {
            address: address.into(),
            port: Some(port),
            pod: pod.map(|name| Name(name.into())),
            node: Some(Name(node.into())),
        }
    }

    pub(crate) fn a_flow() -> Flow {
        Flow {
            number: 7,
            time: SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_408_205_120),
            event: What::End,
            protocol: 6,
            source: party([10, 244, 1, 5], 41_234, Some("default/client"), "worker"),
            destination: Party {
                address: [10, 96, 0, 10].into(),
                port: Some(80),
                pod: None,
                node: None,
            },
            service: Some(Name("default/web:http".into())),
            endpoint: Some(party([10, 244, 2, 3], 8080, None, "worker2")),
            masqueraded_as: None,
            sent: Some(Counts {
                packets: 5,
                bytes: 320,
            }),
            received: Some(Counts {
                packets: 4,
                bytes: 640,
            }),
            lasted_ms: Some(12),
        }
    }

    #[test]
    fn a_flow_is_one_line_with_names() {
        assert_eq!(
            a_flow().to_string(),
            "2026-11-23T04:30:05.120Z end tcp  default/client 10.244.1.5:41234 -> default/web:http \
             10.96.0.10:80 via node worker2 10.244.2.3:8080, 320 bytes sent, 640 received in 0.012 s"
        );
    }

    #[test]
    fn what_is_written_as_json_is_read_again() {
        let text = serde_json::to_string(&a_flow()).unwrap();
        assert!(text.contains(r#""protocol":"tcp""#), "{text}");
        assert_eq!(serde_json::from_str::<Flow>(&text).unwrap(), a_flow());
        for number in [1, 6, 17, 47, 58, 132] {
            assert_eq!(protocol_number(&protocol_name(number)), Some(number));
        }
    }
}
