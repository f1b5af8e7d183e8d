//! One packet that was refused or dropped: whose its addresses are, what decided, and why. Pure.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::time::SystemTime;

use podwire_kernel::nflog::Record;
use serde::{Deserialize, Serialize};

use crate::clock::rfc3339;
use crate::drops::place::{Place, addresses};
use crate::drops::policy::{Court, Words};
use crate::feature::World;
use crate::features::parts::log::Reason;
use crate::features::policies::desired::truth::{Traffic, Truth};
use crate::pod_cidrs::Claims;
use crate::snapshot::{Direction, ObjectName, Protocol, Snapshot};
use crate::text::protocol_name;
use crate::why::{Decided, Facts, Pod, Refused};

/// The flag of both guards against false sources.
const ANTI_SPOOF: &str = "--anti-spoof";

/// Both guards, as `why` calls them.
const GUARD: &str = "the guard against false sources (table inet podwire-masquerade";

/// A packet that was refused or dropped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// Counts the drops since the agent's start.
    pub number: u64,
    /// When, in UTC.
    pub time: String,
    /// Which kind of rule: `policy`, `no-endpoints` and so on.
    pub reason: String,
    /// `refused` if the sender was told, else `dropped`.
    pub verdict: String,
    /// The object that decides: a Service port, a policy, a flag.
    pub decided_by: String,
    /// Why, in a sentence.
    pub because: String,
    /// Who opened the connection.
    pub source: Party,
    /// Whom to.
    pub destination: Party,
    /// The pod out of which a packet came whose source is not that pod's.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sent_by: Option<String>,
    /// The link of this node through which it came in, unless this node sent it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub link: Option<String>,
    /// `tcp`, `udp`, `sctp`, `icmp`, `icmpv6` or the number of another protocol.
    pub protocol: String,
    /// The port of the destination, for protocols that have ports.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub port: Option<u16>,
    /// True if the packet went from the destination back to the source.
    pub reply: bool,
    /// `ingress` or `egress`, if policies dropped it.
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

impl Dropped {
    /// What records say, those of our rules. `owners` are the pods with these addresses as the rules of
    /// policies have it, `place` is what the kernel knows.
    pub(super) fn of(
        records: &[Record],
        world: &World<'_>,
        owners: &BTreeMap<IpAddr, ObjectName>,
        place: &Place,
    ) -> Vec<Self> {
        let truth = Truth::of_owners(world.snapshot, owners);
        let mut strangers = addresses(records);
        // Each pod of the cluster is looked at for those that are left.
        strangers.retain(|address| {
            let known = owners.contains_key(address) || place.knows(*address);
            !known && is_of_a_pod(world.snapshot, *address)
        });
        let mut reader = Reader {
            owners,
            elsewhere: Truth::about(world.snapshot, &strangers),
            place,
            facts: Facts {
                snapshot: world.snapshot,
                config: world.config,
                uplink: world.uplink,
                pods: &place.pods,
                // Which of several Nodes has a podCIDR makes no difference to rules that refuse.
                claims: &Claims::new(),
                node_addresses: &place.own,
                gone_cidrs: &place.gone,
                host_ports: &[],
                owners,
            },
            court: Court::of(&truth),
            known: HashMap::new(),
        };
        let records = records.iter();
        records.filter_map(|record| reader.read(record)).collect()
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
}

/// Reads records.
struct Reader<'a, 's> {
    /// The pods by address, as the rules of policies have it.
    owners: &'a BTreeMap<IpAddr, ObjectName>,
    /// The pods with the other addresses, as the API has it.
    elsewhere: Truth<'a>,
    place: &'a Place,
    facts: Facts<'a>,
    court: Court<'a, 's>,
    /// Of what is asked once more, the answer is the same.
    known: HashMap<Refused, Decided>,
}

impl Reader<'_, '_> {
    fn read(&mut self, record: &Record) -> Option<Dropped> {
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
        let refused = Refused {
            reason,
            source,
            destination,
            port: Protocol::from_number(packet.protocol).zip(port),
        };
        let words = self.words(&refused);
        let through = record.link.and_then(|index| self.place.links.get(&index));
        let Decided { by, because } = self.decided(&refused, &words, through);
        let sent_by = through.and_then(|(_, pod)| pod.as_ref()).map(title);
        Some(Dropped {
            number: 0,
            time: rfc3339(record.time.unwrap_or_else(SystemTime::now)),
            reason: reason.name().to_owned(),
            verdict: reason.verdict().name().to_owned(),
            decided_by: by,
            because,
            source: self.party(source),
            destination: self.party(destination),
            sent_by: sent_by.filter(|_| reason == Reason::Spoofed),
            link: through.map(|(name, _)| name.clone()),
            protocol: protocol_name(packet.protocol),
            port,
            reply,
            direction: match reason {
                Reason::Denied { direction, .. } => Some(direction.name().to_owned()),
                _ => None,
            },
            denied_by: words.denied_by,
            isolated_by: words.isolated_by,
            isolated_by_more: words.isolated_by_more,
            nearest: words.nearest,
            allowed_by_now: words.allowed,
        })
    }

    /// What policies say, if they dropped it.
    fn words(&mut self, refused: &Refused) -> Words {
        let Reason::Denied { direction, .. } = refused.reason else {
            return Words::default();
        };
        let (source, destination) = (refused.source, refused.destination);
        let (local, peer) = match direction {
            Direction::Ingress => (destination, source),
            Direction::Egress => (source, destination),
        };
        let traffic = refused.port.map_or(Traffic::Portless, |(protocol, port)| {
            Traffic::Port(protocol, port)
        });
        self.court.ask((direction, local, peer, traffic))
    }

    /// What decided; `through` is the link through which it came.
    fn decided(
        &mut self,
        refused: &Refused,
        words: &Words,
        through: Option<&(String, Option<Pod>)>,
    ) -> Decided {
        let link = through.map_or("a link that is gone", |(name, _)| name);
        let pod = through.and_then(|(_, pod)| pod.as_ref());
        let pod = pod.map_or_else(|| "a pod that is gone".to_owned(), title);
        let source = refused.source;
        match refused.reason {
            Reason::Denied { direction, .. } => {
                Decided::new(words.decided_by(), words.why(direction))
            }
            Reason::Undecided => Decided::new(
                "NetworkPolicies",
                "a pod of this node that is not known yet",
            ),
            Reason::Spoofed => Decided::new(
                ANTI_SPOOF,
                format!(
                    "It came from {pod}, and {source} is not an address of that pod: {GUARD}, chain \
                     pod-sources) drops it."
                ),
            ),
            Reason::Foreign => {
                let (whose, not) = match self.place.own.contains(&source) {
                    true => ("this node's own", ""),
                    false => ("for pods of this node", ", not from one of them"),
                };
                let because = format!(
                    "{source} is {whose}, and it came through {link}{not}: {GUARD}, chain \
                     foreign-sources) drops it."
                );
                Decided::new(ANTI_SPOOF, because)
            }
            Reason::Loopback => {
                let way = match through {
                    Some(_) => format!("came through {link}"),
                    None => "was to leave it".to_owned(),
                };
                let (what, guard) = match source {
                    IpAddr::V4(_) => ("127.0.0.0/8 is for this node alone", "127.0.0.0/8"),
                    IpAddr::V6(_) => (
                        "IPv4 in a packet of IPv6 never belongs on a network",
                        "::ffff:0:0/96",
                    ),
                };
                let because = format!("{what}, and the packet {way}.");
                Decided::new(format!("the guard of {guard}"), because)
            }
            Reason::TooManyConnections => {
                let most = self.facts.config.pod_connections;
                let because = format!(
                    "A pod may have {most} connections, and {pod} has them (table inet \
                     podwire-connections)."
                );
                Decided::new(format!("--pod-connections={most}"), because)
            }
            _ => self.by_services(refused),
        }
    }

    /// What decided, where `why` knows.
    fn by_services(&mut self, refused: &Refused) -> Decided {
        let facts = &self.facts;
        let known = self.known.entry(*refused);
        let decided = known.or_insert_with(|| refused.decided(facts).unwrap_or_default());
        decided.clone()
    }

    fn party(&self, address: IpAddr) -> Party {
        let owner = || self.owners.get(&address).map(ToString::to_string);
        let here = || {
            let mut pods = self.place.pods.iter();
            pods.find(|pod| pod.addresses.contains(&address))
                .and_then(|pod| pod.name.clone())
        };
        let elsewhere = || {
            let pod = self.elsewhere.pod(address);
            pod.map(|pod| pod.name.to_string())
        };
        Party {
            address,
            pod: owner().or_else(here).or_else(elsewhere),
        }
    }
}

/// True if an address is in some Node's podCIDR.
fn is_of_a_pod(snapshot: &Snapshot, address: IpAddr) -> bool {
    let nodes = snapshot.nodes.values();
    let mut cidrs = nodes.flat_map(|node| snapshot.pod_cidrs_of(node));
    cidrs.any(|cidr| cidr.contains(address))
}

/// A pod by its name, or by what is known instead.
fn title(pod: &Pod) -> String {
    match &pod.name {
        Some(name) => name.clone(),
        None => format!("the pod behind {}", pod.link),
    }
}

fn is_zero(number: &usize) -> bool {
    *number == 0
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

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.time, self.source)?;
        if let Some(pod) = &self.sent_by {
            write!(f, ", sent by {pod},")?;
        }
        write!(f, " -> {} {}", self.destination, self.traffic())?;
        if self.reply {
            write!(f, " (a reply)")?;
        }
        let (verdict, by) = (&self.verdict, &self.decided_by);
        write!(f, ": {verdict} by {by}: {}", self.because)
    }
}

#[cfg(test)]
pub(super) mod tests;
