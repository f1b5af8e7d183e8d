//! What is asked: who sends, where to.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::snapshot::Protocol;
use crate::text::{cut, printable};

/// In bytes: a namespace and a name, and a port.
const LONGEST_SHOWN: usize = 600;

/// What a packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// An echo request: ping.
    Ping,
    /// A transport protocol and the port that it is sent to.
    Port(Protocol, u16),
}

/// A name or an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Host {
    /// An address.
    Ip(IpAddr),
    /// `name` or `namespace/name`.
    Name(String),
}

/// Who sends what where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Who sends.
    pub source: Host,
    /// Where to.
    pub destination: Host,
    /// What.
    pub transport: Transport,
    /// True if it is the answer to a packet that went the other way: no rule of a Service and no
    /// policy is asked, for its connection is known.
    pub answers: bool,
}

/// A question that makes no sense. What was given is shown with its control characters escaped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuestionError {
    /// The port is not one.
    #[error(
        "\"{}\" in \"{}\" is not a port: a number from 1 to 65535, names of ports are not taken",
        shown(port),
        shown(given)
    )]
    Port {
        /// What was given as the port.
        port: String,
        /// The whole destination.
        given: String,
    },
    /// The protocol is not one.
    #[error(
        "\"{}\" in \"{}\" is not a protocol: tcp, udp or sctp",
        shown(protocol),
        shown(given)
    )]
    Protocol {
        /// What was given as the protocol.
        protocol: String,
        /// The whole destination.
        given: String,
    },
    /// Neither a name nor an address.
    #[error(
        "\"{}\" is neither an address nor the name of a pod, Service or Node",
        shown(given)
    )]
    Host {
        /// What was given.
        given: String,
    },
    /// A protocol with ports, without a port.
    #[error(
        "\"{}\" has a protocol but no port: write it as ADDRESS:PORT/PROTOCOL",
        shown(given)
    )]
    NoPort {
        /// The whole destination.
        given: String,
    },
    /// Nothing has this name.
    #[error("{} is not known on this node: {hint}", shown(given))]
    Unknown {
        /// What was given.
        given: String,
        /// What to do.
        hint: &'static str,
    },
    /// Several have this name.
    #[error(
        "\"{}\" could be {} or {}: give its namespace as well",
        shown(given),
        shown(first),
        shown(second)
    )]
    Ambiguous {
        /// What was given.
        given: String,
        /// One of them.
        first: String,
        /// Another.
        second: String,
    },
    /// The two ends cannot talk to each other.
    #[error(
        "{} has no {family} address, so it cannot send to {}",
        shown(source_text),
        shown(destination)
    )]
    Families {
        /// Who sends.
        source_text: String,
        /// The family of the destination.
        family: &'static str,
        /// Where to.
        destination: String,
    },
}

/// What was given, for a message: without what a terminal would obey, and no longer than an honest
/// one is.
fn shown(given: &str) -> String {
    cut(&printable(given), LONGEST_SHOWN).into_owned()
}

impl Question {
    /// Reads what a person wrote.
    pub fn parse(source: &str, destination: &str) -> Result<Self, QuestionError> {
        let (host, port, protocol) = split(destination);
        let transport = match (port, protocol) {
            (None, None | Some("icmp")) => Transport::Ping,
            (None, Some(_)) => {
                return Err(QuestionError::NoPort {
                    given: destination.to_owned(),
                });
            }
            (Some(port), protocol) => {
                let number = port.parse().ok().filter(|number| *number != 0);
                let number = number.ok_or_else(|| QuestionError::Port {
                    port: port.to_owned(),
                    given: destination.to_owned(),
                })?;
                Transport::Port(transport_protocol(protocol, destination)?, number)
            }
        };
        Ok(Self {
            source: host_of(source)?,
            destination: host_of(host)?,
            transport,
            answers: false,
        })
    }

    /// The same packet as the answer to one that went the other way.
    pub fn as_answer(self) -> Self {
        Self {
            answers: true,
            ..self
        }
    }
}

/// Splits `HOST[:PORT][/PROTO]`. The last part behind a slash is a protocol if there is a port
/// before it or if it is the name of one.
fn split(text: &str) -> (&str, Option<&str>, Option<&str>) {
    let (rest, protocol) = match text.rsplit_once('/') {
        Some((rest, last)) if is_protocol(last) || port_of(rest).1.is_some() => (rest, Some(last)),
        _ => (text, None),
    };
    let (host, port) = port_of(rest);
    (host, port, protocol)
}

/// Splits `HOST[:PORT]`; an IPv6 address with a port is in brackets.
fn port_of(text: &str) -> (&str, Option<&str>) {
    if let Some(inside) = text.strip_prefix('[') {
        return match inside.split_once(']') {
            Some((host, "")) => (host, None),
            Some((host, port)) => (host, Some(port.strip_prefix(':').unwrap_or(port))),
            None => (text, None),
        };
    }
    match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') => (host, Some(port)),
        _ => (text, None),
    }
}

fn is_protocol(text: &str) -> bool {
    ["tcp", "udp", "sctp", "icmp"].contains(&text.to_ascii_lowercase().as_str())
}

fn transport_protocol(text: Option<&str>, given: &str) -> Result<Protocol, QuestionError> {
    match text.unwrap_or("tcp").to_ascii_lowercase().as_str() {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        "sctp" => Ok(Protocol::Sctp),
        other => Err(QuestionError::Protocol {
            protocol: other.to_owned(),
            given: given.to_owned(),
        }),
    }
}

fn host_of(text: &str) -> Result<Host, QuestionError> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(Host::Ip(ip.to_canonical()));
    }
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-./".contains(c);
    if text.is_empty() || !text.chars().all(good) || text.matches('/').count() > 1 {
        return Err(QuestionError::Host {
            given: text.to_owned(),
        });
    }
    Ok(Host::Name(text.to_owned()))
}

/// `namespace/name`, if the name may be one that the cluster's DNS has for a Service: `name.namespace`,
/// perhaps with `.svc` and the cluster's domain behind.
pub fn service_in_dns(name: &str) -> Option<String> {
    let mut labels = name.split('.');
    let (service, namespace) = (labels.next()?, labels.next()?);
    let kind = labels.next();
    kind.is_none_or(|kind| kind == "svc")
        .then(|| format!("{namespace}/{service}"))
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ping => f.write_str("ping"),
            Self::Port(protocol, port) => write!(f, "{port}/{}", protocol.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_shown_without_what_a_terminal_would_obey() {
        let evil = "\u{1b}]0;x\u{7}\n";
        let parsed = |to: &str| Question::parse("pod1", to).unwrap_err();
        let text = || evil.to_owned();
        for error in [
            parsed(&format!("10.0.0.1:{evil}")),
            parsed(&format!("10.0.0.1:80/{evil}")),
            parsed(&format!("{evil}/tcp")),
            Question::parse(&format!("default{evil}pod1"), "10.0.0.1").unwrap_err(),
            QuestionError::Unknown {
                given: text(),
                hint: "",
            },
            QuestionError::Ambiguous {
                given: text(),
                first: text(),
                second: text(),
            },
            QuestionError::Families {
                source_text: text(),
                family: "IPv4",
                destination: text(),
            },
        ] {
            let said = error.to_string();
            assert!(!said.contains(char::is_control), "{said:?}");
            assert!(said.contains("\\u{1b}]0;x\\u{7}\\n"), "{said}");
        }
    }

    #[test]
    fn what_is_too_long_is_not_shown_whole() {
        let long = "x".repeat(100_000);
        for given in [
            format!("{long}X"),
            format!("10.0.0.1:{long}"),
            format!("a:80/{long}"),
        ] {
            let said = Question::parse("pod1", &given).unwrap_err().to_string();
            assert!(said.len() < 2000, "{} bytes", said.len());
        }
        let unknown = QuestionError::Unknown {
            given: long,
            hint: "",
        };
        assert!(unknown.to_string().len() < 1000);
    }

    #[test]
    fn what_people_write_is_understood() {
        let ip = |text: &str| Host::Ip(text.parse().unwrap());
        let name = |text: &str| Host::Name(text.to_owned());
        let tcp = |port| Transport::Port(Protocol::Tcp, port);
        for (text, host, transport) in [
            ("10.200.1.63:9000", ip("10.200.1.63"), tcp(9000)),
            ("::ffff:10.200.1.63", ip("10.200.1.63"), Transport::Ping),
            (
                "10.200.1.63:53/udp",
                ip("10.200.1.63"),
                Transport::Port(Protocol::Udp, 53),
            ),
            ("10.10.1.2", ip("10.10.1.2"), Transport::Ping),
            ("10.10.1.2/icmp", ip("10.10.1.2"), Transport::Ping),
            ("fd00::1", ip("fd00::1"), Transport::Ping),
            ("[fd00::1]", ip("fd00::1"), Transport::Ping),
            (
                "[fd00::1]:80/SCTP",
                ip("fd00::1"),
                Transport::Port(Protocol::Sctp, 80),
            ),
            ("default/web:80", name("default/web"), tcp(80)),
            ("default/web:80/tcp", name("default/web"), tcp(80)),
            ("default/web", name("default/web"), Transport::Ping),
            ("web:80", name("web"), tcp(80)),
        ] {
            let question = Question::parse("pod1", text).unwrap();
            assert_eq!(
                (question.destination, question.transport),
                (host, transport),
                "{text}"
            );
        }
    }

    #[test]
    fn a_name_of_the_clusters_dns_is_one_of_a_service() {
        for name in ["web.shop", "web.shop.svc", "web.shop.svc.cluster.local"] {
            assert_eq!(service_in_dns(name).as_deref(), Some("shop/web"), "{name}");
        }
        for name in ["web", "www.shop.example"] {
            assert_eq!(service_in_dns(name), None, "{name}");
        }
    }

    #[test]
    fn nonsense_is_refused_in_one_sentence() {
        for (destination, part) in [
            ("10.0.0.1:0", "\"0\""),
            (
                "web-1:http",
                "\"http\" in \"web-1:http\" is not a port: a number from 1 to 65535, names",
            ),
            ("10.0.0.1:70000", "\"70000\""),
            ("10.0.0.1:80/quic", "\"quic\""),
            ("10.0.0.1/udp", "no port"),
            ("", "neither"),
            ("[fd00::1", "neither"),
            ("a/b/c:80", "neither"),
            ("Web:80", "neither"),
        ] {
            let error = Question::parse("pod1", destination)
                .unwrap_err()
                .to_string();
            assert!(error.contains(part), "{destination}: {error}");
        }
        assert!(Question::parse("a b", "10.0.0.1").is_err());
    }
}
