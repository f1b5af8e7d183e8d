//! What agents tell of connections and drops, read as far as the page shows it.
//!
//! Fields that are not known are passed over: an agent may be newer or older than this program.

use serde::{Deserialize, Serialize};

/// One end, as agents tell it and as the page gets it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Party {
    /// Its address.
    pub address: String,
    /// The pod that has it.
    #[serde(default)]
    pub pod: Option<String>,
    /// Its port, for protocols that have ports.
    #[serde(default, skip_serializing)]
    pub port: Option<u16>,
    /// The node that has it, or on which its pod runs.
    #[serde(default, skip_serializing)]
    pub node: Option<String>,
}

/// Some flows of a node.
#[derive(Debug, Default, Deserialize)]
pub struct FlowPage {
    /// Why none can be told.
    #[serde(default)]
    pub trouble: Option<String>,
    /// The number of the newest one.
    pub newest: u64,
    /// The flows, oldest first.
    pub flows: Vec<ToldFlow>,
}

/// A connection that began or ended.
#[derive(Debug, Deserialize)]
pub struct ToldFlow {
    time: String,
    event: String,
    protocol: String,
    source: Party,
    destination: Party,
    #[serde(default)]
    service: Option<String>,
    #[serde(default)]
    endpoint: Option<Party>,
    #[serde(default)]
    sent: Option<Counts>,
    #[serde(default)]
    received: Option<Counts>,
}

#[derive(Debug, Deserialize)]
struct Counts {
    bytes: u64,
}

/// A flow for the page.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Flow {
    /// Where it was noticed.
    pub node: String,
    /// When.
    pub time: String,
    /// Whether it began; else it ended.
    pub began: bool,
    /// Who opened it.
    pub source: Party,
    /// Who answers.
    pub destination: Party,
    /// The Service that it was opened to.
    pub service: Option<String>,
    /// The address of the Service, if NAT leads elsewhere.
    pub front: Option<String>,
    /// The protocol.
    pub protocol: String,
    /// The port of who answers.
    pub port: Option<u16>,
    /// What passed both ways, if it ended and bytes are counted.
    pub bytes: Option<u64>,
}

impl ToldFlow {
    /// The node of who opened it, if that is known.
    pub fn opened_on(&self) -> Option<&str> {
        self.source.node.as_deref()
    }

    /// For the page.
    pub fn of(self, node: &str) -> Flow {
        let front = self.endpoint.is_some().then(|| written(&self.destination));
        let answers = self.endpoint.unwrap_or(self.destination);
        let passed = [self.sent, self.received];
        let bytes = passed.iter().flatten().map(|one| one.bytes);
        Flow {
            node: node.to_owned(),
            time: self.time,
            began: self.event == "new",
            source: self.source,
            port: answers.port,
            destination: answers,
            service: self.service.map(|name| without_port(&name).to_owned()),
            front,
            protocol: self.protocol,
            bytes: passed.iter().any(Option::is_some).then(|| bytes.sum()),
        }
    }
}

/// `namespace/name:port` is the Service `namespace/name`.
fn without_port(service: &str) -> &str {
    service.split_once(':').map_or(service, |(name, _)| name)
}

fn written(party: &Party) -> String {
    match (party.port, party.address.contains(':')) {
        (Some(port), true) => format!("[{}]:{port}", party.address),
        (Some(port), false) => format!("{}:{port}", party.address),
        (None, _) => party.address.clone(),
    }
}

/// Some drops of a node.
#[derive(Debug, Default, Deserialize)]
pub struct DropPage {
    /// Why none are told.
    #[serde(default)]
    pub idle: Option<String>,
    /// The number of the newest one.
    pub newest: u64,
    /// The drops, oldest first.
    pub drops: Vec<ToldDrop>,
}

/// A packet that was refused or dropped.
#[derive(Debug, Deserialize)]
pub struct ToldDrop {
    time: String,
    #[serde(default)]
    verdict: String,
    #[serde(default)]
    decided_by: String,
    #[serde(default)]
    because: String,
    source: Party,
    destination: Party,
    protocol: String,
    #[serde(default)]
    port: Option<u16>,
    #[serde(default)]
    nearest: Option<String>,
}

/// A drop for the page.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Dropped {
    /// Where.
    pub node: String,
    /// When.
    pub time: String,
    /// Who opened the connection.
    pub source: Party,
    /// Whom to.
    pub destination: Party,
    /// The protocol.
    pub protocol: String,
    /// The destination's port.
    pub port: Option<u16>,
    /// Why, in a sentence.
    pub reason: String,
    /// The object that decides.
    pub object: Option<String>,
}

impl ToldDrop {
    /// For the page.
    pub fn of(self, node: &str) -> Dropped {
        let said = [Some(self.because), self.nearest].into_iter().flatten();
        let said: Vec<String> = said.filter(|text| !text.is_empty()).collect();
        let reason = match said.is_empty() {
            true => self.verdict,
            false => said.join("; "),
        };
        Dropped {
            node: node.to_owned(),
            time: self.time,
            source: self.source,
            destination: self.destination,
            protocol: self.protocol,
            port: self.port,
            reason,
            object: Some(self.decided_by).filter(|text| !text.is_empty()),
        }
    }
}

/// What happened, per second, since the sample before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Sample {
    /// Seconds since 1970.
    pub at: u64,
    /// Connections that began.
    pub connections: f64,
    /// What connections that ended have carried; none if no node counts.
    pub bytes: Option<f64>,
    /// Packets that were refused or dropped.
    pub drops: f64,
    /// What others had changed and agents repaired.
    pub repairs: f64,
}

/// The sum over all labels of a counter in what `/metrics` answers.
pub fn counter(metrics: &str, name: &str) -> u64 {
    let lines = metrics.lines().filter_map(|line| line.strip_prefix(name));
    let values = lines.filter_map(|rest| match rest.chars().next() {
        Some('{' | ' ') => rest.rsplit_once(' ')?.1.parse::<f64>().ok(),
        _ => None,
    });
    values.map(|value| value as u64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_to_a_service_shows_who_answers_and_what_was_asked_for() {
        let told: ToldFlow = serde_json::from_str(
            r#"{"number": 3, "time": "2026-01-01T00:00:00Z", "event": "end", "protocol": "tcp",
                "source": {"address": "10.10.1.2", "port": 40000, "pod": "default/a"},
                "destination": {"address": "10.200.1.63", "port": 9000},
                "service": "default/web:http",
                "endpoint": {"address": "fd00::2", "port": 80, "pod": "default/b", "node": "n"},
                "sent": {"packets": 5, "bytes": 100}, "received": {"packets": 4, "bytes": 900}}"#,
        )
        .unwrap();
        let flow = told.of("worker");
        assert!(!flow.began);
        assert_eq!(flow.destination.pod.as_deref(), Some("default/b"));
        assert_eq!(flow.service.as_deref(), Some("default/web"));
        assert_eq!(flow.front.as_deref(), Some("10.200.1.63:9000"));
        assert_eq!((flow.port, flow.bytes), (Some(80), Some(1000)));
    }

    #[test]
    fn a_drop_has_the_reason_with_the_rule_that_comes_nearest() {
        let told: ToldDrop = serde_json::from_str(
            r#"{"time": "t", "decided_by": "NetworkPolicy default/deny", "because": "no rule allows it",
                "source": {"address": "10.10.1.2"}, "destination": {"address": "10.10.2.2"},
                "protocol": "udp", "port": 53, "nearest": "rule 1 lacks UDP", "new": true}"#,
        )
        .unwrap();
        let drop = told.of("worker");
        assert_eq!(drop.reason, "no rule allows it; rule 1 lacks UDP");
        assert_eq!(drop.object.as_deref(), Some("NetworkPolicy default/deny"));
    }

    #[test]
    fn a_counter_is_summed_over_its_labels_and_no_others() {
        let text = "# HELP podwire_repairs words\npodwire_repairs_total{feature=\"a\"} 2\n\
                    podwire_repairs_total{feature=\"b\"} 3\npodwire_repairs_total_more 9\n";
        assert_eq!(counter(text, "podwire_repairs_total"), 5);
    }
}
