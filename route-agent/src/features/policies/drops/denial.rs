//! One dropped packet: whose its addresses are, and what the policies say. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::time::SystemTime;

use podwire_kernel::nflog::Record;
use serde::{Deserialize, Serialize};

use crate::clock::rfc3339;
use crate::features::policies::desired::explain::{Judgement, Outcome, judge};
use crate::features::policies::desired::truth::{Traffic, Truth, isolating, selecting};
use crate::features::policies::layout::log::Reason;
use crate::snapshot::{Direction, ObjectName, PolicyRule, Protocol, Snapshot, Tier};
use crate::text;

/// More policies than this are counted, and not named.
const NAMED: usize = 8;
/// A rule may name thousands of labels; what is kept of it in words, in bytes.
const LONGEST: usize = 600;
/// The peers of rules, each with each port, that are looked at for what is dropped at a time. A tenant
/// who writes thousands into a namespace does not keep the loop from its work: what is left is named
/// without its policies.
const EFFORT: usize = 10_000;

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
    /// The rule of a ClusterNetworkPolicy that denies it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub denied_by: Option<String>,
    /// The policies that isolate the pod, the first ones.
    pub isolated_by: Vec<String>,
    /// How many more isolate it.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub isolated_by_more: usize,
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
    /// The addresses of which records speak, if they are about policies.
    pub fn addresses(records: &[Record]) -> BTreeSet<IpAddr> {
        let records = records.iter();
        let ours = records.filter(|record| Reason::of_prefix(&record.prefix).is_some());
        let packets = ours.map(|record| record.packet);
        packets
            .flat_map(|packet| [packet.source, packet.destination])
            .collect()
    }

    /// What records say, those that are about policies; `owners` are the pods with these addresses.
    pub fn of(
        records: &[Record],
        snapshot: &Snapshot,
        owners: &BTreeMap<IpAddr, ObjectName>,
    ) -> Vec<Self> {
        let truth = Truth::of_owners(snapshot, owners);
        let mut court = Court {
            truth: &truth,
            known: HashMap::new(),
            effort: EFFORT,
        };
        let records = records.iter();
        records
            .filter_map(|record| Self::of_one(record, &mut court))
            .collect()
    }

    fn of_one(record: &Record, court: &mut Court<'_, '_>) -> Option<Self> {
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
        let words = match reason {
            Reason::Undecided => Words::default(),
            Reason::Denied { direction, .. } => {
                let (local, peer) = match direction {
                    Direction::Ingress => (destination, source),
                    Direction::Egress => (source, destination),
                };
                court.ask((direction, local, peer, traffic))
            }
        };
        let party = |address| Party {
            address,
            pod: court.truth.pod(address).map(|pod| pod.name.to_string()),
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
            denied_by: words.denied_by,
            isolated_by: words.isolated_by,
            isolated_by_more: words.isolated_by_more,
            allowed_by_now: words.allowed,
            nearest: words.nearest,
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
        if let Some(rule) = &self.denied_by {
            return format!("{words}; {rule}");
        }
        if !self.isolated_by.is_empty() {
            words += &format!("; isolated by {}", self.isolated_by.join(", "));
        }
        if self.isolated_by_more > 0 {
            words += &format!(" and {} more", self.isolated_by_more);
        }
        match &self.nearest {
            Some(nearest) => words += &format!("; nearest rule: {nearest}"),
            None if self.allowed_by_now => words += "; the policies allow it by now",
            None => {}
        }
        words
    }
}

/// Of which packet something is asked: the direction, the pod whose policies count, the other end.
type Case = (Direction, IpAddr, IpAddr, Traffic);

/// Asks the policies about each packet once, and about no more than it has time for.
struct Court<'a, 's> {
    truth: &'a Truth<'s>,
    known: HashMap<Case, Words>,
    effort: usize,
}

/// What the policies say, in words.
#[derive(Debug, Clone, Default)]
struct Words {
    denied_by: Option<String>,
    isolated_by: Vec<String>,
    isolated_by_more: usize,
    nearest: Option<String>,
    allowed: bool,
}

impl Court<'_, '_> {
    fn ask(&mut self, case: Case) -> Words {
        if let Some(words) = self.known.get(&case) {
            return words.clone();
        }
        let (direction, local, peer, traffic) = case;
        let effort = self.effort(direction, local);
        let words = match self.effort.checked_sub(effort) {
            None => Words::default(),
            Some(left) => {
                self.effort = left;
                let judgement = judge(self.truth, direction, local, peer, traffic);
                judgement.map(Words::of).unwrap_or_default()
            }
        };
        self.known.insert(case, words.clone());
        words
    }

    /// How many peers there are to look at, each with each port.
    fn effort(&self, direction: Direction, local: IpAddr) -> usize {
        let Some(pod) = self.truth.pod(local) else {
            return 0;
        };
        let snapshot = self.truth.snapshot();
        let policies = isolating(snapshot, pod, direction);
        let rules = policies.flat_map(|policy| policy.rules(direction).unwrap_or_default());
        let tiers = [Tier::Admin, Tier::Baseline].into_iter();
        let tiers = tiers.flat_map(|tier| selecting(snapshot, pod, tier));
        let tiered = tiers.flat_map(|policy| policy.rules(direction).iter());
        let of_rule = |rule: &PolicyRule| {
            let peers = rule.peers.as_ref().map_or(0, |peers| peers.len());
            let ports = rule.ports.as_ref().map_or(0, |ports| ports.len());
            (1 + peers).saturating_mul(1 + ports)
        };
        let all = rules.chain(tiered.map(|rule| &rule.traffic));
        all.map(of_rule).sum()
    }
}

impl Words {
    fn of(judgement: Judgement<'_>) -> Self {
        let policies = judgement.isolating.iter();
        Self {
            isolated_by: policies
                .take(NAMED)
                .map(|policy| policy.name.to_string())
                .collect(),
            isolated_by_more: judgement.isolating.len().saturating_sub(NAMED),
            allowed: judgement.passes(),
            denied_by: match &judgement.outcome {
                Outcome::Refused(rule) => Some(cut(rule)),
                _ => None,
            },
            nearest: match judgement.outcome {
                Outcome::Denied(nearest) => nearest.map(|nearest| cut(&nearest)),
                _ => None,
            },
        }
    }
}

fn cut(words: &str) -> String {
    text::cut(words, LONGEST).into_owned()
}

fn is_zero(number: &usize) -> bool {
    *number == 0
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
    use crate::features::policies::desired::samples::{
        Cluster, cluster_policy, name, namespace, pod, policy,
    };
    use crate::snapshot::Key;

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
        denials(&[record], &cluster()).remove(0)
    }

    /// What is said of records, with the pods that have the addresses.
    fn denials(records: &[Record], cluster: &Cluster) -> Vec<Denial> {
        let truth = Truth::of(&cluster.snapshot);
        let owners = Denial::addresses(records).into_iter();
        let owners = owners.filter_map(|one| Some((one, truth.pod(one)?.name.clone())));
        Denial::of(records, &cluster.snapshot, &owners.collect())
    }

    #[test]
    fn a_packet_is_named_with_pods_policies_and_the_nearest_rule() {
        let denials = |record| denials(&[record], &cluster());
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
    fn the_rule_of_a_cluster_network_policy_that_denies_is_named() {
        let mut cluster = cluster();
        let ports = json!([{"tcp": {"destinationPort": {"number": 5432}}}]);
        let rule = json!({"name": "no-sql", "action": "Deny", "from": [{"namespaces": {}}],
            "protocols": ports});
        cluster.set(&[cluster_policy("guard", &json!({"ingress": [rule]}))]);
        let record = record("podwire denied in", THERE, 6, Some((40000, 5432)));
        let denial = denials(&[record], &cluster).remove(0);
        assert_eq!(
            denial.why(),
            "denied by ingress; ClusterNetworkPolicy guard (Admin tier, priority 10), rule no-sql, \
             denies tcp 5432 from all pods of all namespaces"
        );
    }

    #[test]
    fn what_is_allowed_by_now_is_said_to_be() {
        let record = record("podwire denied out", BACK, 6, Some((1, 80)));
        let denial = denials(&[record], &cluster()).remove(0);
        assert_eq!(
            denial.why(),
            "denied by egress; the policies allow it by now"
        );
        assert_eq!(denial.local().unwrap().pod.as_deref(), Some("shop/db-0"));
    }

    /// A selector that takes many words; with the operator `In` it selects none of the pods.
    fn verbose_selector(operator: &str) -> serde_json::Value {
        let names: Vec<String> = (0..500)
            .map(|number| format!("role-{number:0>50}"))
            .collect();
        json!({"matchExpressions": [{"key": "role", "operator": operator, "values": names}]})
    }

    /// As `cluster`, with many policies whose rules are long.
    fn verbose_cluster() -> Cluster {
        let mut cluster = cluster();
        let among = verbose_selector("In");
        let spec = json!({"podSelector": {}, "ingress": [{"from": [{"podSelector": among}]}]});
        let many: Vec<_> = (0..30)
            .map(|number| policy(&format!("shop/{number:0>200}"), &spec))
            .collect();
        cluster.set(&many);
        cluster.gone(Key::NetworkPolicy(name("shop/db")));
        cluster
    }

    #[test]
    fn who_writes_much_fills_neither_the_memory_nor_the_screen() {
        let record = record("podwire denied in", THERE, 6, Some((40000, 5432)));
        let denial = denials(&[record], &verbose_cluster()).remove(0);
        assert_eq!(
            (denial.isolated_by.len(), denial.isolated_by_more),
            (NAMED, 23)
        );
        assert!(
            denial
                .why()
                .contains(" and 23 more; nearest rule: shop/000")
        );
        let nearest = denial.nearest.as_ref().unwrap();
        assert!(nearest.len() < LONGEST + 30 && nearest.ends_with(" bytes more)"));
        assert!(serde_json::to_string(&denial).unwrap().len() < 4096);
    }

    #[test]
    fn of_the_rule_that_denies_not_more_is_kept() {
        let mut cluster = cluster();
        let pods = json!({"namespaceSelector": {}, "podSelector": verbose_selector("NotIn")});
        let rule = json!({"action": "Deny", "from": [{"pods": pods}]});
        cluster.set(&[cluster_policy("guard", &json!({"ingress": [rule]}))]);
        let record = record("podwire denied in", THERE, 6, Some((40000, 5432)));
        let denial = denials(&[record], &cluster).remove(0);
        let rule = denial.denied_by.unwrap();
        assert!(rule.starts_with("ClusterNetworkPolicy guard"), "{rule}");
        assert!(rule.len() < LONGEST + 30 && rule.ends_with(" bytes more)"));
    }

    #[test]
    fn what_is_too_much_to_look_at_is_named_without_its_policies() {
        let mut cluster = cluster();
        let peers: Vec<_> = (0..EFFORT / 2)
            .map(|_| json!({"podSelector": {"matchLabels": {"role": "no one"}}}))
            .collect();
        let spec = json!({"podSelector": {}, "ingress": [{"from": peers}]});
        cluster.set(&[policy("shop/long", &spec)]);
        let to = |port| record("podwire denied in", THERE, 6, Some((40000, port)));
        // The same packet again costs nothing.
        let found = denials(&[to(1), to(1), to(2)], &cluster);
        let named: Vec<_> = found.iter().map(|one| one.isolated_by.len()).collect();
        assert_eq!(named, [3, 3, 0]);
        assert_eq!(found[2].why(), "denied by ingress");
        assert_eq!(found[2].source.pod.as_deref(), Some("shop/web-1"));
        // Each peer is looked at with each port.
        let root = 1 + EFFORT.isqrt();
        let ports: Vec<_> = (1..=root).map(|port| json!({"port": port})).collect();
        let spec = json!({"podSelector": {}, "ingress": [{"from": peers[..root], "ports": ports}]});
        cluster.set(&[policy("shop/long", &spec)]);
        assert_eq!(denials(&[to(1)], &cluster)[0].isolated_by, [""; 0]);
    }

    #[test]
    fn rules_of_cluster_network_policies_are_to_be_looked_at_as_well() {
        let mut cluster = cluster();
        let peers = vec![json!({"namespaces": {"matchLabels": {"team": "no one"}}}); EFFORT / 2];
        let rule = json!({"action": "Accept", "from": peers});
        cluster.set(&[cluster_policy("long", &json!({"ingress": [rule]}))]);
        let to = |port| record("podwire denied in", THERE, 6, Some((40000, port)));
        let found = denials(&[to(1), to(2)], &cluster);
        let named: Vec<_> = found.iter().map(|one| one.isolated_by.len()).collect();
        assert_eq!(named, [2, 0]);
    }
}
