//! One dropped packet: whose its addresses are, and what the policies say. Pure.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::time::SystemTime;

use podwire_kernel::nflog::Record;
use serde::{Deserialize, Serialize};

use crate::clock::rfc3339;
use crate::features::policies::desired::explain::{Judgement, Outcome, judge};
use crate::features::policies::desired::truth::{Traffic, Truth};
use crate::features::policies::layout::log::Reason;
use crate::snapshot::{Direction, Protocol, Snapshot};

/// A packet that was dropped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denial {
    /// Counts the drops since the agent's start.
    pub number: u64,
    /// When, in UTC.
    pub time: String,
    /// Who opened the connection.
    pub source: Party,
    /// Whom to.
    pub destination: Party,
    /// `tcp`, `udp`, `sctp`, `icmp` or the number of another protocol.
    pub protocol: String,
    /// The port of the destination, for protocols that have ports.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub port: Option<u16>,
    /// True if the packet went from the destination back to the source.
    pub reply: bool,
    /// `ingress` or `egress`; none if the pod of this node is not known yet.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub direction: Option<String>,
    /// The policies that isolate the pod.
    pub isolated_by: Vec<String>,
    /// The rule that comes nearest, and what it lacks.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub nearest: Option<String>,
    /// True if the policies have changed meanwhile and allow it.
    pub allowed_by_now: bool,
}

/// One end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Party {
    /// Its address.
    pub address: IpAddr,
    /// The pod that has it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pod: Option<String>,
}

impl Denial {
    /// What records say, those that are about policies.
    pub fn of(records: &[Record], snapshot: &Snapshot) -> Vec<Self> {
        let packets = records.iter().map(|record| record.packet);
        let addresses: BTreeSet<IpAddr> = packets
            .flat_map(|packet| [packet.source, packet.destination])
            .collect();
        let truth = Truth::about(snapshot, &addresses);
        let records = records.iter();
        records
            .filter_map(|record| Self::of_one(record, &truth))
            .collect()
    }

    fn of_one(record: &Record, truth: &Truth<'_>) -> Option<Self> {
        let reason = Reason::of_prefix(&record.prefix)?;
        let packet = record.packet;
        let reply = matches!(reason, Reason::Denied { reply: true, .. });
        let (source, destination, port) = match reply {
            false => (
                packet.source,
                packet.destination,
                packet.ports.map(|(_, to)| to),
            ),
            true => (
                packet.destination,
                packet.source,
                packet.ports.map(|(from, _)| from),
            ),
        };
        let traffic = Protocol::from_number(packet.protocol).zip(port);
        let traffic = traffic.map_or(Traffic::Portless, |(protocol, port)| {
            Traffic::Port(protocol, port)
        });
        let judgement = match reason {
            Reason::Undecided => None,
            Reason::Denied { direction, .. } => {
                let (local, peer) = match direction {
                    Direction::Ingress => (destination, source),
                    Direction::Egress => (source, destination),
                };
                judge(truth, direction, local, peer, traffic)
            }
        };
        let party = |address| Party {
            address,
            pod: truth.pod(address).map(|pod| pod.name.to_string()),
        };
        Some(Self {
            number: 0,
            time: rfc3339(record.time.unwrap_or_else(SystemTime::now)),
            source: party(source),
            destination: party(destination),
            protocol: protocol_name(packet.protocol),
            port,
            reply,
            direction: match reason {
                Reason::Undecided => None,
                Reason::Denied { direction, .. } => Some(direction.name().to_owned()),
            },
            isolated_by: judgement.as_ref().map(isolating).unwrap_or_default(),
            allowed_by_now: judgement.as_ref().is_some_and(Judgement::passes),
            nearest: judgement.and_then(|judgement| match judgement.outcome {
                Outcome::Denied(nearest) => nearest,
                _ => None,
            }),
        })
    }

    /// The end whose policies do not allow it.
    pub fn local(&self) -> Option<&Party> {
        match self.direction.as_deref()? {
            "egress" => Some(&self.source),
            _ => Some(&self.destination),
        }
    }

    /// The other end.
    pub fn peer(&self) -> &Party {
        match self.direction.as_deref() {
            Some("egress") => &self.destination,
            _ => &self.source,
        }
    }

    /// `tcp 5432`.
    pub fn traffic(&self) -> String {
        let port = self.port.map_or(String::new(), |port| format!(" {port}"));
        format!("{}{port}", self.protocol)
    }

    /// Why, in words.
    pub fn why(&self) -> String {
        let Some(direction) = &self.direction else {
            return "a pod of this node that is not known yet".into();
        };
        let mut words = format!("denied by {direction}");
        if !self.isolated_by.is_empty() {
            words += &format!("; isolated by {}", self.isolated_by.join(", "));
        }
        match &self.nearest {
            Some(nearest) => words += &format!("; nearest rule: {nearest}"),
            None if self.allowed_by_now => words += "; the policies allow it by now",
            None => {}
        }
        words
    }
}

fn isolating(judgement: &Judgement<'_>) -> Vec<String> {
    let policies = judgement.isolating.iter();
    policies.map(|policy| policy.name.to_string()).collect()
}

fn protocol_name(number: u8) -> String {
    match (Protocol::from_number(number), number) {
        (Some(protocol), _) => protocol.name().to_owned(),
        (None, 1 | 58) => "icmp".to_owned(),
        (None, number) => format!("protocol {number}"),
    }
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address)?;
        match &self.pod {
            Some(pod) => write!(f, " ({pod})"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            time,
            source,
            destination,
            ..
        } = self;
        let reply = if self.reply { " (a reply)" } else { "" };
        let (traffic, why) = (self.traffic(), self.why());
        write!(
            f,
            "{time} {source} -> {destination} {traffic}{reply}: {why}"
        )
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use podwire_kernel::nflog::Packet;
    use serde_json::json;

    use super::*;
    use crate::features::policies::desired::samples::{Cluster, namespace, pod, policy};

    /// `db` is closed but for role=api on 5432; `web` has another role.
    fn cluster() -> Cluster {
        let select = |role: &str| json!({"matchLabels": {"role": role}});
        let rule = json!({"from": [{"podSelector": select("api")}], "ports": [{"port": 5432}]});
        Cluster::of(&[
            namespace("shop", ""),
            pod("shop/web-1", "worker2", 9, "role=web"),
            pod("shop/db-0", "worker", 2, "role=db"),
            policy(
                "shop/default-deny",
                &json!({"podSelector": {}, "policyTypes": ["Ingress"]}),
            ),
            policy(
                "shop/db",
                &json!({"podSelector": select("db"), "ingress": [rule]}),
            ),
        ])
    }

    fn record(prefix: &str, ends: [&str; 2], protocol: u8, ports: Option<(u16, u16)>) -> Record {
        let [source, destination] = ends.map(|end| end.parse().unwrap());
        Record {
            prefix: prefix.into(),
            time: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(86_400)),
            packet: Packet {
                source,
                destination,
                protocol,
                ports,
            },
        }
    }

    const THERE: [&str; 2] = ["10.10.2.9", "10.10.1.2"];
    const BACK: [&str; 2] = ["10.10.1.2", "10.10.2.9"];

    pub fn a_denial() -> Denial {
        let record = record("podwire denied in", THERE, 6, Some((40000, 5432)));
        Denial::of(&[record], &cluster().snapshot).remove(0)
    }

    #[test]
    fn a_packet_is_named_with_pods_policies_and_the_nearest_rule() {
        let denials = |record| Denial::of(&[record], &cluster().snapshot);
        let why = "denied by ingress; isolated by shop/db, shop/default-deny; nearest rule: shop/db \
                   allows tcp 5432 from role=api; the pod has role=web";
        assert_eq!(
            a_denial().to_string(),
            format!(
                "1970-01-02T00:00:00.000Z 10.10.2.9 (shop/web-1) -> 10.10.1.2 (shop/db-0) tcp 5432: {why}"
            ),
        );
        // A reply is named as its connection.
        let reply = denials(record(
            "podwire denied in-reply",
            BACK,
            6,
            Some((5432, 40000)),
        ))
        .remove(0);
        assert!(
            reply.to_string().ends_with(&format!(
                "-> 10.10.1.2 (shop/db-0) tcp 5432 (a reply): {why}"
            )),
            "{reply}"
        );
        let unknown = denials(record(
            "podwire undecided",
            ["10.10.1.77", "192.0.2.1"],
            1,
            None,
        ))
        .remove(0);
        assert!(
            unknown.to_string().ends_with(
                "10.10.1.77 -> 192.0.2.1 icmp: a pod of this node that is not known yet"
            ),
            "{unknown}"
        );
        assert_eq!(denials(record("another program", THERE, 6, None)), []);
    }

    #[test]
    fn what_is_allowed_by_now_is_said_to_be() {
        let record = record("podwire denied out", BACK, 6, Some((1, 80)));
        let denial = Denial::of(&[record], &cluster().snapshot).remove(0);
        assert_eq!(
            denial.why(),
            "denied by egress; the policies allow it by now"
        );
        assert_eq!(denial.local().unwrap().pod.as_deref(), Some("shop/db-0"));
    }
}
