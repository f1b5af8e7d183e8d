//! What goes to pods of Nodes that have gone is refused for a while.
//!
//! In: podCIDRs that had a route of ours and have none any more. Out: the table `inet
//! podwire-refused`, which exists only while there is such a podCIDR. What must hold: a podCIDR
//! that a Node has is never refused, whether there is a route to it or not, nor anything that
//! overlaps one, a network of the uplink, or a smaller network that others have a route to;
//! nothing is refused for longer than [`KEPT`], and little longer if no agent is there; an agent
//! that starts goes on with what it finds.
//!
//! Why: the pods of a Node that is deleted stay endpoints for about a minute. Packets to them would
//! leave by the default route, and a client would learn nothing before its own time-out
//! (`docs/decisions/0014-deleted-nodes.md`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use podwire_kernel::IpFamily;
use podwire_kernel::monitor::Event as KernelEvent;
use podwire_kernel::nft::{
    Chain, ChainType, Comment, Element, Family, Field, Hook, KeyReader, Reject, Rule, Set, Table,
    priority,
};
use podwire_kernel::route::Route;

use crate::cidr;
use crate::features::parts::kept_table::{KeepError, KeptTable};
use crate::features::parts::log::{Logging, Reason};
use crate::features::routes::Desired;
use crate::ours::{REFUSED_TABLE as TABLE, Removal};
use crate::report::RouteReport;
use crate::snapshot::{Protocol, Snapshot};
use crate::warnings::{NAMED_AT_ONCE, NEXT_LINE, Used};

/// How long a podCIDR is refused. The controllers take the pods of a deleted Node out of their
/// Services within one and a half minutes; if they are down, some time after they are back.
pub const KEPT: Duration = Duration::from_secs(600);

/// When the kernel forgets by itself what no agent has taken out in time.
const FORGOTTEN: Duration = Duration::from_secs(660);

/// The sets of both families, with what is looked up in them.
const SETS: [(&str, Family, Field); 2] = [
    ("gone-v4", Family::Ip, Field::IpDaddr),
    ("gone-v6", Family::Ip6, Field::Ip6Daddr),
];

/// PodCIDRs without a Node.
#[derive(Debug)]
pub struct Refused {
    table: KeptTable,
    logging: Logging,
    lines: Lines,
    /// They never overlap.
    networks: BTreeMap<IpNetwork, Gone>,
    /// What the agent before this one refused has been taken over.
    adopted: bool,
    /// The kernel has no such table.
    absent: bool,
}

/// Whose podCIDR it was, and when it is refused no longer.
#[derive(Debug, Clone, PartialEq)]
struct Gone {
    owner: String,
    until: Instant,
}

/// How much is told of podCIDRs that come and go: who may change a Node can make that as often as there
/// is time, so the log has the limit that it has for warnings.
#[derive(Debug, Default)]
struct Lines {
    used: Option<Used>,
    untold: usize,
}

impl Lines {
    /// Whether there may be one more line. The first after a pause tells how many were left out.
    fn may_tell(&mut self, now: Instant) -> bool {
        let used = self.used.get_or_insert(Used::nothing(now));
        if !used.once_more(NAMED_AT_ONCE, NEXT_LINE, now) {
            self.untold += 1;
            return false;
        }
        let untold = std::mem::take(&mut self.untold);
        if untold > 0 {
            tracing::info!(untold, "podCIDRs came and went too often to name each");
        }
        true
    }
}

impl Refused {
    /// Works in the network namespace of the calling thread.
    pub fn open(logging: Logging) -> podwire_kernel::Result<Self> {
        Ok(Self {
            table: KeptTable::open(Family::Inet, TABLE)?,
            logging,
            lines: Lines::default(),
            networks: BTreeMap::new(),
            adopted: false,
            absent: false,
        })
    }

    /// The netlink port through which the table is written.
    pub fn port(&mut self) -> Option<u32> {
        self.table.port()
    }

    /// When the next podCIDR is refused no longer.
    pub fn due(&self) -> Option<Instant> {
        self.networks.values().map(|gone| gone.until).min()
    }

    /// True if another process touched the table.
    pub fn is_touched_by(&mut self, event: &KernelEvent) -> bool {
        let touched = self.table.is_touched_by(event);
        self.absent &= !touched;
        touched
    }

    /// Forgets what the kernel holds.
    pub fn distrust(&mut self) {
        self.table.distrust();
        self.absent = false;
    }

    /// Forgets podCIDRs whose time is over; [`Refused::keep`] brings that to the kernel.
    pub fn expire(&mut self, now: Instant) {
        let lines = &mut self.lines;
        self.networks.retain(|network, gone| {
            let over = gone.until <= now;
            if over && lines.may_tell(now) {
                tracing::info!(%network, owner = %gone.owner, "no longer refused");
            }
            !over
        });
    }

    /// Notes podCIDRs that no Node has any more, with whose they were.
    pub fn add(&mut self, left: Vec<(IpNetwork, String)>, now: Instant) {
        for (network, owner) in left {
            if self.lines.may_tell(now) {
                tracing::info!(%network, %owner, "gone; packets to its pods are refused for a while");
            }
            let until = now + KEPT;
            insert(&mut self.networks, network, Gone { owner, until });
        }
    }

    /// True if something of this network is refused.
    pub fn concerns(&self, network: IpNetwork) -> bool {
        let mut refused = self.networks.keys();
        refused.any(|other| cidr::overlap(*other, network))
    }

    /// Makes the kernel refuse these podCIDRs, but for what is in use; returns how many changes
    /// that took.
    pub fn keep(&mut self, in_use: &InUse<'_>) -> Result<u64, KeepError> {
        if !self.adopted {
            if let Some(table) = self.table.observe()? {
                for (network, owner, left) in networks_of(&table) {
                    let until = Instant::now() + left;
                    insert(&mut self.networks, network, Gone { owner, until });
                }
            }
            self.adopted = true;
        }
        self.networks.retain(|network, _| !in_use.has(*network));
        if !self.networks.is_empty() {
            self.absent = false;
            return self.table.keep(&wanted(&self.networks, self.logging));
        }
        let removed = !self.absent && self.table.remove()?;
        self.absent = true;
        Ok(removed.into())
    }

    /// What is refused, for the operator.
    pub fn report(&self) -> impl Iterator<Item = RouteReport> + '_ {
        self.networks.iter().map(|(network, gone)| RouteReport {
            node: gone.owner.trim_start_matches("Node ").to_owned(),
            destination: *network,
            gateway: None,
            link: None,
            unreachable: true,
            refused: true,
            present: !self.absent,
        })
    }

    /// How many packets were refused.
    pub fn counted(&mut self) -> BTreeMap<String, u64> {
        match self.networks.is_empty() {
            true => BTreeMap::new(),
            false => self.table.refused(),
        }
    }

    /// Where the kernel differs from what is wanted, one sentence each.
    pub fn differences(&mut self) -> Vec<String> {
        if !self.networks.is_empty() {
            return self
                .table
                .differences(&wanted(&self.networks, self.logging));
        }
        match self.table.observe() {
            Ok(None) => Vec::new(),
            Ok(Some(_)) => vec![format!(
                "the nftables table inet {TABLE} should not be there"
            )],
            Err(error) => vec![error.to_string()],
        }
    }

    /// Whether there is a table, which goes if it is to.
    pub fn uninstall(&mut self, how: Removal) -> Result<bool, KeepError> {
        if how == Removal::Act {
            self.networks.clear();
        }
        self.table.uninstall(how)
    }
}

/// Adds a network unless part of it is there: ranges of a set must not overlap.
fn insert(networks: &mut BTreeMap<IpNetwork, Gone>, network: IpNetwork, gone: Gone) {
    if !networks.keys().any(|other| cidr::overlap(*other, network)) {
        networks.insert(network, gone);
    }
}

/// What is in use.
#[derive(Debug)]
pub struct InUse<'a> {
    /// All Nodes, ours as well.
    pub snapshot: &'a Snapshot,
    /// The routes to their podCIDRs; ours is there even if our Node is not.
    pub desired: &'a Desired,
    /// The networks of the uplink.
    pub networks: &'a [IpNetwork],
    /// Routes of others.
    pub foreign: &'a BTreeSet<Route>,
}

impl InUse<'_> {
    /// True if some of this network is in use.
    fn has(&self, network: IpNetwork) -> bool {
        let overlaps = |other: &IpNetwork| cidr::overlap(*other, network);
        // A wider route of others, such as the default route, says nothing.
        let within = |route: &Route| {
            route.destination.prefix() >= network.prefix() && overlaps(&route.destination)
        };
        is_taken(self.snapshot, network)
            || self.desired.routes.keys().any(overlaps)
            || self.networks.iter().any(overlaps)
            || self.foreign.iter().any(within)
    }
}

/// True if some of this network is a Node's podCIDR, or the API server is in it.
pub fn is_taken(snapshot: &Snapshot, network: IpNetwork) -> bool {
    let mut nodes = snapshot.nodes.values();
    let range = network.network()..=network.broadcast();
    nodes.any(|node| {
        let mut cidrs = snapshot.pod_cidrs_of(node);
        cidrs.any(|other| cidr::overlap(other, network))
    }) || snapshot.api_servers().range(range).next().is_some()
}

/// The table that refuses these podCIDRs.
fn wanted(networks: &BTreeMap<IpNetwork, Gone>, logging: Logging) -> Table {
    let mut table = Table::new(Family::Inet, TABLE)
        .with_comment("podwire: pods of Nodes that have gone; clients need not wait for them");
    for (name, family, field) in SETS {
        let of_family = networks
            .iter()
            .filter(|(network, _)| network.is_ipv6() == (family == Family::Ip6));
        let set = of_family.fold(
            Set::of(&[field]).with_intervals().with_timeouts(),
            |set, (network, gone)| {
                let element = Element::member().comment(&gone.owner);
                set.with_network(*network, element.timeout(FORGOTTEN))
            },
        );
        table = table.with_set(name, set);
    }
    table = table.with_chain("refuse", refuse(logging));
    // Behind the translation of Services, and before the packet is routed: without a default route
    // it would go no further.
    let prerouting = (Hook::Prerouting, priority::DSTNAT + 10);
    for (name, (hook, priority)) in [
        ("prerouting", prerouting),
        ("output", (Hook::Output, priority::FILTER)),
    ] {
        let base = Chain::base(ChainType::Filter, hook, priority);
        let chain = SETS.into_iter().fold(base, |chain, (set, family, field)| {
            let rule = Rule::new().nfproto(family).in_set(&[field], set);
            chain.with_rule(rule.goto("refuse"))
        });
        table = table.with_chain(name, chain);
    }
    table
}

/// A reset is never rate limited, unlike ICMP; and the kernel gives an `unreachable` route's ICMP out
/// once a second for each client.
fn refuse(logging: Logging) -> Chain {
    let why = "no Node has this podCIDR any more";
    let tcp = Rule::new()
        .l4proto(Protocol::Tcp.number())
        .counter()
        .reject(Reject::TcpReset);
    let others = Rule::new().counter().reject(Reject::ICMPX_HOST_UNREACHABLE);
    logging.chain(
        Reason::GoneNode,
        [tcp, others].map(|rule| rule.comment(why)),
    )
}

/// The podCIDRs that a table refuses, with whose they were and for how long they still are.
pub fn networks_of(table: &Table) -> Vec<(IpNetwork, String, Duration)> {
    let sets = SETS
        .into_iter()
        .filter_map(|(name, family, _)| Some((family, table.sets.get(name)?)));
    sets.flat_map(|(family, set)| set.elements.iter().map(move |element| (family, element)))
        .filter_map(|(family, (first, element))| {
            let last = element.key_end.as_ref().unwrap_or(first);
            let owner = element.comment.as_ref().map_or("", Comment::as_str);
            let left = element.expires.unwrap_or(FORGOTTEN);
            let left = left.saturating_sub(FORGOTTEN - KEPT);
            Some((network(family, first, last)?, owner.to_owned(), left))
        })
        .collect()
}

/// The network from its first to its last address.
fn network(family: Family, first: &[u8], last: &[u8]) -> Option<IpNetwork> {
    let family = match family {
        Family::Ip6 => IpFamily::V6,
        _ => IpFamily::V4,
    };
    let address = |bytes| KeyReader::new(bytes).address(family);
    let (first, last) = (address(first)?, address(last)?);
    let bits = if first.is_ipv6() { 128 } else { 32 };
    let differing = 128 - (cidr::number(first) ^ cidr::number(last)).leading_zeros();
    let prefix = u8::try_from(bits - differing.min(bits)).ok()?;
    IpNetwork::new(first, prefix).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_is_read_back_from_the_table() {
        let until = Instant::now();
        let networks: BTreeMap<IpNetwork, Gone> = [
            ("10.10.3.0/24", "Node a"),
            ("10.10.4.7/32", "Node b"),
            ("fd00:3::/64", "Node a"),
        ]
        .into_iter()
        .map(|(network, owner)| {
            let owner = owner.to_owned();
            (network.parse().unwrap(), Gone { owner, until })
        })
        .collect();
        let read: Vec<(IpNetwork, String, Duration)> = networks
            .iter()
            .map(|(network, gone)| (*network, gone.owner.clone(), KEPT))
            .collect();
        assert_eq!(networks_of(&wanted(&networks, Logging::On)), read);
    }

    #[test]
    fn of_a_pod_cidr_that_comes_and_goes_all_the_time_the_log_has_no_line_each_time() {
        let start = Instant::now();
        let mut lines = Lines::default();
        let times = (0..1200).map(|time| start + Duration::from_millis(7) * time);
        let told = times.filter(|now| lines.may_tell(*now)).count();
        assert_eq!(told, 202, "two more in eight seconds");
        assert!(lines.may_tell(start + Duration::from_secs(60)));
        assert_eq!(lines.untold, 0);
    }

    #[test]
    fn what_is_in_use_is_never_refused() {
        let route = |network: &str| Route::to(network.parse().unwrap());
        let mut desired = Desired::default();
        let wanted = crate::features::routes::desired::Wanted {
            node: "a".into(),
            route: route("10.10.3.128/25"),
        };
        desired.routes.insert(wanted.route.destination, wanted);
        let in_use = InUse {
            snapshot: &Snapshot::default(),
            desired: &desired,
            networks: &["172.18.0.0/16".parse().unwrap()],
            foreign: &["0.0.0.0/0", "10.8.0.0/13", "10.20.5.0/24"]
                .map(route)
                .into(),
        };
        for (network, has) in [
            ("10.10.3.0/24", true),
            ("10.10.4.0/24", false),
            ("172.18.7.0/24", true),
            ("172.16.0.0/12", true),
            ("10.20.0.0/16", true),
            ("10.20.6.0/24", false),
        ] {
            assert_eq!(in_use.has(network.parse().unwrap()), has, "{network}");
        }
    }
}
