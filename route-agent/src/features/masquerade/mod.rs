//! Masquerade of pod traffic that leaves the cluster, and the guard against forged sources.
//!
//! In: the podCIDRs and InternalIPs of all Nodes, the last podCIDRs of this one while it is gone, and
//! what the flags exempt. Out: the table `inet podwire-masquerade`. What must hold: a packet from a
//! pod of this node keeps its source on the way to any pod or node of the cluster, and takes this
//! node's address on the way to anywhere else. A packet that enters through a pod's link with a
//! source that is not the pod's is dropped, and so is one that enters elsewhere with the source of a
//! pod of this node or of the node itself, from or to 127.0.0.0/8, or from or to an IPv4 address in a
//! packet of IPv6 (`sources.rs`).
//!
//! Only this node's own pods are masqueraded here: packets of other nodes' pods leave through
//! their own node.

mod sides;
mod sources;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use podwire_kernel::IpFamily;
use podwire_kernel::nft::{
    Chain, ChainType, Element, Family, Field, Hook, Rule, Set, Table, nat_flag, priority,
};

use crate::cidr;
use crate::config::Config;
use crate::feature::{Event, Feature, SyncError, Synced, Warn, World};
use crate::features::masquerade::sides::{SIDES, Side};
use crate::features::parts::kept_table::KeptTable;
use crate::features::parts::log::Logging;
use crate::ours::{MASQUERADE_TABLE as TABLE, Removal};
use crate::report::Report;
use crate::snapshot::Snapshot;
use crate::uplink::Uplink;

/// The feature.
#[derive(Debug)]
pub struct Masquerade {
    table: KeptTable,
    logging: Logging,
    wanted: Table,
    /// The wanted table must be computed again.
    stale: bool,
}

impl Masquerade {
    /// Works in the network namespace of the calling thread.
    pub fn open(logging: Logging) -> podwire_kernel::Result<Self> {
        Ok(Self {
            table: KeptTable::open(Family::Inet, TABLE)?,
            logging,
            wanted: Table::new(Family::Inet, TABLE),
            stale: true,
        })
    }
}

impl Feature for Masquerade {
    fn name(&self) -> &'static str {
        "masquerade"
    }

    fn ports(&mut self) -> Vec<u32> {
        self.table.port().into_iter().collect()
    }

    fn notice(&mut self, event: &Event<'_>, _: &World<'_>) -> bool {
        match event {
            Event::Objects(dirty) => {
                self.stale |= dirty.concerns_pod_cidrs();
                self.stale
            }
            // It decides which podCIDRs and addresses of Nodes count.
            Event::Uplink => {
                self.stale = true;
                true
            }
            Event::Resync => {
                self.stale = true;
                self.table.distrust();
                true
            }
            Event::Kernel(event) => self.table.is_touched_by(event),
            Event::Files | Event::Told(_) | Event::WhoHas(_) | Event::Ready => false,
        }
    }

    fn sync(&mut self, world: &World<'_>, _: &mut Warn<'_>) -> Result<Synced, SyncError> {
        if self.stale {
            self.wanted = desired(world.snapshot, world.uplink, world.config, self.logging);
            self.stale = false;
        }
        Ok(Synced {
            writes: self.table.keep(&self.wanted)?,
            again: false,
        })
    }

    fn needed_by_pods(&self) -> bool {
        true
    }

    fn report(&mut self, _: &World<'_>, report: &mut Report) {
        report
            .differences
            .extend(self.table.differences(&self.wanted));
        report.add_refused(self.table.refused());
    }

    fn uninstall(&mut self, _: &Config, how: Removal) -> Result<Vec<String>, SyncError> {
        let removed = self.table.uninstall(how)?;
        Ok(removed
            .then(|| format!("nftables table inet {TABLE}"))
            .into_iter()
            .collect())
    }
}

/// The table that this node should have.
pub fn desired(
    snapshot: &Snapshot,
    uplink: Option<&Uplink>,
    config: &Config,
    logging: Logging,
) -> Table {
    let mut table = Table::new(Family::Inet, TABLE)
        .with_comment("podwire: pod traffic that leaves the cluster takes the node's address");
    if config.masquerade || config.anti_spoof {
        let own = snapshot.nodes.get(&config.node_name);
        let pods = snapshot.own_pod_cidrs(own).into_iter();
        let pods: Networks = pods
            .map(|cidr| (cidr, "pods of this node".to_owned()))
            .collect();
        for side in SIDES {
            table = table.with_set(side.pods, side.set(side.source, &pods));
        }
    }
    if config.masquerade {
        let cluster = inside(snapshot, uplink, config);
        let mut entry = Chain::base(ChainType::Nat, Hook::Postrouting, priority::SRCNAT);
        for side in SIDES {
            table = table.with_set(side.cluster, side.set(side.destination, &cluster));
            entry = entry.with_rule(
                Rule::new()
                    .nfproto(side.family)
                    .in_set(&[side.source], side.pods)
                    .goto(side.chain),
            );
        }
        table = table.with_chain("postrouting", entry);
        for side in SIDES {
            table = table.with_chain(side.chain, side.pod_chain());
        }
    }
    if config.anti_spoof {
        table = sources::guard(table, logging);
    }
    table
}

/// Networks with what they are.
type Networks = BTreeMap<IpNetwork, String>;

/// Every destination that sees the pod's own address. An InternalIP that is not reached over the uplink
/// without a gateway is not taken for a node of the cluster.
fn inside(snapshot: &Snapshot, uplink: Option<&Uplink>, config: &Config) -> Networks {
    let is_near = |ip: IpAddr| {
        let uplink = uplink.filter(|uplink| uplink.reaches(IpFamily::of(ip)));
        uplink.is_none_or(|uplink| uplink.on_link.iter().any(|network| network.contains(ip)))
    };
    let mut all = Networks::new();
    for node in snapshot.nodes.values() {
        for cidr in snapshot.pod_cidrs_of(node) {
            all.entry(cidr)
                .or_insert_with(|| format!("pods of Node {}", node.name));
        }
        let is_own = node.name == config.node_name;
        let ips = node.internal_ips.iter();
        for ip in ips.filter(|ip| is_own || is_near(**ip)) {
            all.entry(cidr::host(*ip))
                .or_insert_with(|| format!("Node {}", node.name));
        }
    }
    // Its pods go on running while the own Node is gone.
    let own = &config.node_name;
    for cidr in snapshot.own_pod_cidrs(snapshot.nodes.get(own)) {
        all.entry(cidr)
            .or_insert_with(|| format!("pods of Node {own}"));
    }
    for cidr in &config.non_masquerade_cidrs {
        all.entry(*cidr)
            .or_insert_with(|| "--non-masquerade-cidrs".to_owned());
    }
    let widest = cidr::without_contained(all.keys().copied());
    all.retain(|network, _| widest.binary_search(network).is_ok());
    all
}

impl Side {
    /// A set with those of the networks that are of this family.
    fn set(&self, key: Field, networks: &Networks) -> Set {
        networks
            .iter()
            .filter(|(network, _)| network.is_ipv6() == (self.family == Family::Ip6))
            .fold(Set::of(&[key]).with_intervals(), |set, (network, name)| {
                set.with_network(*network, Element::member().comment(name))
            })
    }

    /// What happens to a packet of a pod.
    fn pod_chain(&self) -> Chain {
        Chain::regular()
            .with_rule(
                // It changes nothing but how nft prints the rule: without it, fields of a header that it
                // is not sure of are shown as bits.
                Rule::new()
                    .nfproto(self.family)
                    .in_set(&[self.destination], self.cluster)
                    .counter()
                    .returns()
                    .comment("stays in the cluster: the pod's address is kept"),
            )
            .with_rule(
                Rule::new()
                    .counter()
                    .masquerade(nat_flag::FULLY_RANDOM)
                    .comment("leaves the cluster: takes the node's address"),
            )
    }
}
