//! What agents tell of connections and drops, as the page gets it.

use std::net::IpAddr;

use podwire_agent::clock::rfc3339;
use podwire_agent::flows::flow::What;
use podwire_agent::text::protocol_name;
use podwire_agent::{drops, flows};
use serde::Serialize;

/// One end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Party {
    /// Its address.
    pub address: IpAddr,
    /// The pod that has it.
    pub pod: Option<String>,
}

impl From<&flows::flow::Party> for Party {
    fn from(party: &flows::flow::Party) -> Self {
        Self {
            address: party.address,
            pod: party.pod.as_ref().map(ToString::to_string),
        }
    }
}

impl From<drops::Party> for Party {
    fn from(party: drops::Party) -> Self {
        Self {
            address: party.address,
            pod: party.pod,
        }
    }
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

impl Flow {
    /// What a node told.
    pub fn of(told: &flows::Flow, node: &str) -> Self {
        let answers = told.answering();
        let asked = told.endpoint.is_some().then_some(&told.destination);
        let front = asked.map(|asked| flows::flow::Party {
            pod: None,
            node: None,
            ..asked.clone()
        });
        let passed = [told.sent, told.received];
        let bytes = passed.iter().flatten().map(|one| one.bytes);
        Self {
            node: node.to_owned(),
            time: rfc3339(told.time),
            began: told.event == What::New,
            source: (&told.source).into(),
            destination: answers.into(),
            service: told.service_name().map(str::to_owned),
            front: front.map(|front| front.to_string()),
            protocol: protocol_name(told.protocol),
            port: answers.port,
            bytes: passed.iter().any(Option::is_some).then(|| bytes.sum()),
        }
    }
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

impl Dropped {
    /// What a node told.
    pub fn of(told: drops::Dropped, node: &str) -> Self {
        // Agents say the nearest rule among the reasons, too; it is not said twice.
        let nearest = told.nearest.filter(|text| !told.because.contains(text));
        let said = [Some(told.because), nearest].into_iter().flatten();
        let said: Vec<String> = said.filter(|text| !text.is_empty()).collect();
        let reason = match said.is_empty() {
            true => told.verdict,
            false => said.join("; "),
        };
        Self {
            node: node.to_owned(),
            time: told.time,
            source: told.source.into(),
            destination: told.destination.into(),
            protocol: told.protocol,
            port: told.port,
            reason,
            object: Some(told.decided_by).filter(|text| !text.is_empty()),
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
    /// What connections carried; none if no node counts, or none was asked twice yet.
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
        let told: flows::Flow = serde_json::from_str(
            r#"{"number": 3, "time": "2026-01-01T00:00:00Z", "event": "end", "protocol": "tcp",
                "source": {"address": "10.10.1.2", "port": 40000, "pod": "default/a"},
                "destination": {"address": "10.200.1.63", "port": 9000},
                "service": "default/web:http",
                "endpoint": {"address": "fd00::2", "port": 80, "pod": "default/b", "node": "n"},
                "sent": {"packets": 5, "bytes": 100}, "received": {"packets": 4, "bytes": 900}}"#,
        )
        .unwrap();
        let flow = Flow::of(&told, "worker");
        assert!(!flow.began);
        assert_eq!(flow.destination.pod.as_deref(), Some("default/b"));
        assert_eq!(flow.service.as_deref(), Some("default/web"));
        assert_eq!(flow.front.as_deref(), Some("10.200.1.63:9000"));
        assert_eq!((flow.port, flow.bytes), (Some(80), Some(1000)));
    }

    #[test]
    fn a_drop_has_the_reason_with_the_rule_that_comes_nearest_and_that_once() {
        let told = |because: &str| {
            let told: drops::Dropped = serde_json::from_value(serde_json::json!({
                "number": 1, "time": "t", "reason": "policy", "verdict": "dropped",
                "reply": false, "isolated_by": ["shop/db"], "allowed_by_now": false,
                "decided_by": "NetworkPolicy shop/db", "because": because,
                "source": {"address": "10.10.1.2"}, "destination": {"address": "10.10.2.2"},
                "protocol": "tcp", "port": 5432,
                "nearest": "shop/db allows tcp 5432 from role=api; the pod has role=web", "new": true,
            }))
            .unwrap();
            Dropped::of(told, "worker")
        };
        let whole = "denied by ingress; nearest rule: shop/db allows tcp 5432 from role=api; the pod has role=web";
        // As an agent says it.
        let drop = told(whole);
        assert_eq!(drop.reason, whole);
        assert_eq!(drop.object.as_deref(), Some("NetworkPolicy shop/db"));
        assert_eq!(
            told("denied by ingress").reason,
            "denied by ingress; shop/db allows tcp 5432 from role=api; the pod has role=web"
        );
    }

    #[test]
    fn a_counter_is_summed_over_its_labels_and_no_others() {
        let text = "# HELP podwire_repairs words\npodwire_repairs_total{feature=\"a\"} 2\n\
                    podwire_repairs_total{feature=\"b\"} 3\npodwire_repairs_total_more 9\n";
        assert_eq!(counter(text, "podwire_repairs_total"), 5);
    }
}
