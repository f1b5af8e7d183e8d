//! Masquerade of pod traffic that leaves the cluster, and the guard against forged sources.
//!
//! In: the podCIDRs and InternalIPs of all Nodes, the last podCIDRs of this one while it is gone, and what the flags exempt. Out: the table `inet
//! podwire-masquerade`. What must hold: a packet from a pod of this node keeps its source on the
//! way to any pod or node of the cluster, and takes this node's address on the way to anywhere
//! else. A packet that enters through a pod's link with a source that is not the pod's is dropped,
//! and so is one that enters elsewhere with the source of a pod of this node or of the node itself,
//! from or to 127.0.0.0/8, or from or to an IPv4 address in a packet of IPv6.
//!
//! Only this node's own pods are masqueraded here: packets of other nodes' pods leave through
//! their own node.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use ipnetwork::IpNetwork;
use podwire_kernel::nft::{
    Chain, ChainType, Comparison, Element, Family, Field, Hook, KeyBuf, Rule, Set, Source, Table,
    fib_flag, fib_type, nat_flag, priority,
};

use crate::cidr;
use crate::config::Config;
use crate::feature::{Event, Feature, SyncError, Synced, Warn, World};
use crate::features::parts::kept_table::KeptTable;
use crate::features::parts::log::{Logging, Reason};
use crate::features::parts::loopback;
use crate::ours::{LINK_GROUP as POD_LINKS, MASQUERADE_TABLE as TABLE, Removal};
use crate::report::Report;
use crate::snapshot::{Protocol, Snapshot};
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
        table = table
            .with_chain("pod-sources", pod_sources())
            .with_chain("foreign-sources", foreign_sources())
            .with_chain(OWN_SOURCES, own_sources())
            .with_chain("localhost-stays-here", loopback::stays_here(Family::Inet))
            .with_chain(SPOOFED, spoofed(logging))
            .with_chain(ELSEWHERE, elsewhere(logging))
            .with_chain(loopback::END, loopback::end_of_both(logging));
    }
    table
}

/// Networks with what they are.
type Networks = BTreeMap<IpNetwork, String>;

/// Every destination that sees the pod's own address. An InternalIP that is not reached over the uplink
/// without a gateway is not taken for a node of the cluster.
fn inside(snapshot: &Snapshot, uplink: Option<&Uplink>, config: &Config) -> Networks {
    let uplink = uplink.filter(|uplink| !uplink.on_link.is_empty());
    let is_near = |ip: IpAddr| {
        uplink.is_none_or(|uplink| {
            let networks = uplink.on_link.iter();
            let mut of_family = networks
                .filter(|one| one.is_ipv4() == ip.is_ipv4())
                .peekable();
            of_family.peek().is_none() || of_family.any(|network| network.contains(ip))
        })
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

/// The names of one address family.
struct Side {
    family: Family,
    source: Field,
    destination: Field,
    pods: &'static str,
    cluster: &'static str,
    chain: &'static str,
}

const SIDES: [Side; 2] = [
    Side {
        family: Family::Ip,
        source: Field::IpSaddr,
        destination: Field::IpDaddr,
        pods: "pods-v4",
        cluster: "cluster-v4",
        chain: "from-pod-v4",
    },
    Side {
        family: Family::Ip6,
        source: Field::Ip6Saddr,
        destination: Field::Ip6Daddr,
        pods: "pods-v6",
        cluster: "cluster-v6",
        chain: "from-pod-v6",
    },
];

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

/// Addresses of a single link (RFC 4291, section 2.5.6).
const LINK_LOCAL: IpNetwork = v6_network(0xfe80, 10);

/// Groups of any scope (RFC 4291, section 2.7).
const GROUPS: IpNetwork = v6_network(0xff00, 8);

/// Groups of a single link (RFC 4291, section 2.7).
const ALL_ON_LINK: IpNetwork = v6_network(0xff02, 16);

const fn v6_network(first: u16, prefix: u8) -> IpNetwork {
    let address = Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 0);
    match ipnetwork::Ipv6Network::new_checked(address, prefix) {
        Some(network) => IpNetwork::V6(network),
        None => panic!("the prefix is longer than an address"),
    }
}

/// The chain in which packets of a pod end whose source is not the pod's.
pub const SPOOFED: &str = "spoofed";

/// The chain in which packets from elsewhere end whose source is a pod of this node.
pub const ELSEWHERE: &str = "spoofed-elsewhere";

/// The chain that looks for the node's own addresses among sources of IPv6.
const OWN_SOURCES: &str = "own-sources";

fn spoofed(logging: Logging) -> Chain {
    let rule = Rule::new().counter().drop();
    logging.chain(
        Reason::Spoofed,
        [rule.comment("the source is not this pod's address")],
    )
}

fn elsewhere(logging: Logging) -> Chain {
    let rule = Rule::new().counter().drop();
    logging.chain(
        Reason::Foreign,
        [rule.comment("the source is this node or a pod of it, and it does not come from there")],
    )
}

/// The guard: what comes out of a pod must have a source that is routed back into that pod.
///
/// That holds for link-local sources as well, of which the plugin routes the pod's own one: each
/// other would become a neighbour entry of the node. What has no source yet (`::`) belongs to
/// neighbour discovery and becomes none.
fn pod_sources() -> Chain {
    let missing = |rule: Rule| rule.no_way_back().goto(SPOOFED);
    let unspecified = KeyBuf::new().address(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
    let from_pod = |family| Rule::new().iifgroup(POD_LINKS).nfproto(family);
    let v6 = from_pod(Family::Ip6).is_not(Field::Ip6Saddr, &unspecified);
    // A kernel asks for routers and joins groups by itself, from an address that no one gave it. It is
    // not logged: no one forged anything.
    let by_itself = from_pod(Family::Ip6)
        .within(Field::Ip6Saddr, Comparison::Eq, LINK_LOCAL)
        .within(Field::Ip6Daddr, Comparison::Eq, ALL_ON_LINK);
    Chain::base(ChainType::Filter, Hook::Prerouting, priority::RAW)
        .with_comment("pods cannot send from an address that is not theirs")
        .with_rule(missing(from_pod(Family::Ip)))
        .with_rule(
            by_itself.no_way_back().counter().drop().comment(
                "a kernel asks its own link for routers and groups: of no consequence here",
            ),
        )
        .with_rule(missing(v6))
}

/// The guard against the others: what does not come out of a pod's link cannot come from a pod of
/// this node. A pod of another plugin may have a link that is not ours, so it is the route back that
/// decides here too.
fn foreign_sources() -> Chain {
    let chain = Chain::base(ChainType::Filter, Hook::Prerouting, loopback::PRIORITY)
        .with_comment("others cannot send from addresses of this node, its pods and localhost");
    let chain = loopback::guard(Family::Inet)
        .into_iter()
        .chain(loopback::guard_mapped())
        .fold(chain, Chain::with_rule);
    let chain = SIDES.into_iter().fold(chain, |chain, side| {
        chain.with_rule(
            Rule::new()
                .nfproto(side.family)
                .in_set(&[side.source], side.pods)
                .iifgroup_is_not(POD_LINKS)
                .iifname_is_not("lo")
                .no_way_back()
                .goto(ELSEWHERE),
        )
    });
    chain.with_rule(from_elsewhere().goto(OWN_SOURCES))
}

/// IPv6 that comes from elsewhere from an address of this node. Of IPv4 the kernel drops it
/// (`fib_validate_source`, net/ipv4/fib_frontend.c), and so does the guard of pods' links.
///
/// What the node sends to a group comes back to it through the link that it left by
/// (`ip6_finish_output2`, net/ipv6/ip6_output.c). A link-local address may be the node's on one link
/// and its router's on another, and nothing is forwarded from one.
fn from_elsewhere() -> Rule {
    Rule::new()
        .nfproto(Family::Ip6)
        .iifgroup_is_not(POD_LINKS)
        .iifname_is_not("lo")
        .within(Field::Ip6Saddr, Comparison::Neq, LINK_LOCAL)
        .within(Field::Ip6Daddr, Comparison::Neq, GROUPS)
}

/// To look up the route costs a fifth of all that the kernel does with a small packet, so it is not
/// done within TCP connections: who sees no answer cannot forge one that the other end accepts.
fn own_sources() -> Chain {
    let within = Rule::new()
        .l4proto(Protocol::Tcp.number())
        .tcp_without_syn();
    let own = Rule::new().is(
        Source::address_type(fib_flag::SADDR),
        &KeyBuf::new().number(fib_type::LOCAL),
    );
    Chain::regular()
        .with_rule(within.returns())
        .with_rule(own.goto(ELSEWHERE))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use podwire_kernel::nft::NftSocket;

    use super::*;
    use crate::config::test_config;
    use crate::snapshot::Node;
    use crate::uplink::test_uplink;

    fn config(flags: &[&str]) -> Config {
        test_config(&[&["--node-name=worker"], flags].concat())
    }

    fn node(name: &str, ips: &[&str], cidrs: &[&str]) -> Node {
        Node {
            internal_ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
            pod_cidrs: cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect(),
            ..Node::named(name)
        }
    }

    fn snapshot() -> Snapshot {
        let nodes = [
            node(
                "worker",
                &["172.18.0.2", "fc00::2"],
                &["10.10.1.0/24", "fd00:10:10:1::/64"],
            ),
            node("worker2", &["172.18.0.4"], &["10.10.2.0/24"]),
        ];
        let mut snapshot = Snapshot::default();
        snapshot
            .nodes
            .extend(nodes.map(|node| (node.name.clone(), node)));
        snapshot
    }

    fn keys(table: &Table, set: &str) -> Vec<String> {
        let set = table.sets.get(set).unwrap();
        set.elements
            .iter()
            .map(|(key, element)| {
                let end = element.key_end.as_ref().unwrap_or(key);
                let (first, last) = (set.display_key(key), set.display_key(end));
                format!("{first}-{last}")
            })
            .collect()
    }

    #[test]
    fn pods_and_nodes_of_the_cluster_see_the_pods_own_address() {
        let table = desired(
            &snapshot(),
            None,
            &config(&["--non-masquerade-cidrs=192.168.0.0/16"]),
            Logging::On,
        );
        assert_eq!(keys(&table, "pods-v4"), ["10.10.1.0-10.10.1.255"]);
        assert_eq!(
            keys(&table, "cluster-v4"),
            [
                "10.10.1.0-10.10.1.255",
                "10.10.2.0-10.10.2.255",
                "172.18.0.2-172.18.0.2",
                "172.18.0.4-172.18.0.4",
                "192.168.0.0-192.168.255.255",
            ]
        );
        assert_eq!(keys(&table, "cluster-v6").len(), 2);
    }

    #[test]
    fn while_the_own_node_is_gone_its_pods_are_masqueraded_and_guarded_as_before() {
        let mut snapshot = snapshot();
        let (config, own) = (config(&[]), Arc::from("worker"));
        let before = desired(&snapshot, None, &config, Logging::On);
        let cidrs = snapshot.nodes[&own].pod_cidrs.clone();
        snapshot.remember_pod_cidrs(&cidrs);
        let mut check = |now: Option<Node>| {
            snapshot.nodes.remove(&own);
            snapshot
                .nodes
                .extend(now.map(|node| (node.name.clone(), node)));
            let table = desired(&snapshot, None, &config, Logging::On);
            for set in ["pods-v4", "pods-v6"] {
                assert_eq!(keys(&table, set), keys(&before, set));
            }
            for cidr in ["10.10.1.0-10.10.1.255", "10.10.2.0-10.10.2.255"] {
                assert!(keys(&table, "cluster-v4").contains(&cidr.to_owned()));
            }
        };
        check(None);
        // The kubelet makes one, to which podCIDRs come later.
        check(Some(node("worker", &["172.18.0.2"], &[])));
        let other = node("worker", &["172.18.0.2"], &["10.10.9.0/24"]);
        snapshot.nodes.insert(other.name.clone(), other);
        let table = desired(&snapshot, None, &config, Logging::On);
        assert_eq!(keys(&table, "pods-v4"), ["10.10.9.0-10.10.9.255"]);
    }

    #[test]
    fn what_is_left_out_and_addresses_that_no_node_can_have_are_not_of_the_cluster() {
        let mut snapshot = snapshot();
        let own = node("worker", &["192.0.2.2"], &["10.10.1.0/24", "172.18.0.0/16"]);
        let wide = node("wide", &["172.18.0.9", "203.0.113.9"], &["128.0.0.0/1"]);
        let uplink = test_uplink("172.18.0.2/16");
        let in_vain = [("128.0.0.0/1", "wide"), ("172.18.0.0/16", "worker")];
        let in_vain = in_vain.map(|(cidr, node)| (cidr.parse().unwrap(), Arc::from(node)));
        snapshot.leave_out(in_vain.into());
        for node in [own, wide] {
            snapshot.nodes.insert(node.name.clone(), node);
        }
        let table = desired(&snapshot, Some(&uplink), &config(&[]), Logging::On);
        assert_eq!(keys(&table, "pods-v4"), ["10.10.1.0-10.10.1.255"]);
        assert_eq!(
            keys(&table, "cluster-v4"),
            [
                "10.10.1.0-10.10.1.255",
                "10.10.2.0-10.10.2.255",
                "172.18.0.4-172.18.0.4",
                "172.18.0.9-172.18.0.9",
                "192.0.2.2-192.0.2.2",
            ]
        );
    }

    #[test]
    fn what_lies_within_another_network_is_not_listed_again() {
        let mut snapshot = snapshot();
        let twin = node("twin", &["10.10.2.7"], &["10.10.0.0/16"]);
        snapshot.nodes.insert(twin.name.clone(), twin);
        let table = desired(&snapshot, None, &config(&[]), Logging::On);
        assert_eq!(
            keys(&table, "cluster-v4"),
            [
                "10.10.0.0-10.10.255.255",
                "172.18.0.2-172.18.0.2",
                "172.18.0.4-172.18.0.4"
            ]
        );
    }

    #[test]
    fn each_half_can_be_switched_off() {
        let off = desired(
            &snapshot(),
            None,
            &config(&["--masquerade=false", "--anti-spoof=false"]),
            Logging::On,
        );
        assert!(off.chains.is_empty() && off.sets.is_empty());
        let guard = desired(
            &snapshot(),
            None,
            &config(&["--masquerade=false"]),
            Logging::On,
        );
        assert_eq!(
            guard.chains.keys().collect::<Vec<_>>(),
            [
                "pod-sources",
                "foreign-sources",
                "own-sources",
                "localhost-stays-here",
                "spoofed",
                "spoofed-elsewhere",
                "loopback"
            ]
        );
        assert_eq!(keys(&guard, "pods-v4"), ["10.10.1.0-10.10.1.255"]);
    }

    #[test]
    fn the_kernel_takes_the_table_and_a_second_sync_writes_nothing() {
        podwire_kernel::netns::Netns::create_anonymous()
            .unwrap()
            .enter(|| {
                let wanted = desired(&snapshot(), None, &config(&[]), Logging::On);
                let mut table = KeptTable::open(Family::Inet, TABLE).unwrap();
                assert!(table.keep(&wanted).unwrap() > 0);
                // As after a restart: nothing is known of the kernel.
                table.distrust();
                assert_eq!(table.keep(&wanted).unwrap(), 0);
                assert!(table.differences(&wanted).is_empty());

                let mut other = NftSocket::open().unwrap();
                let mut flush = podwire_kernel::nft::Batch::new();
                flush.table(Family::Inet, TABLE).flush_chain("from-pod-v4");
                other.commit(&mut flush).unwrap();
                assert_eq!(table.differences(&wanted).len(), 1);
                table.distrust();
                assert!(table.keep(&wanted).unwrap() > 0);
                assert!(table.differences(&wanted).is_empty());

                // As after an agent that logged nothing, and whose guard came later.
                let older = desired(&snapshot(), None, &config(&[]), Logging::Off);
                let mut guard = older.chains.get("foreign-sources").unwrap().clone();
                guard.base.as_mut().unwrap().priority = priority::RAW;
                let older = older.with_chain("foreign-sources", guard);
                assert!(table.keep(&older).unwrap() > 0);
                assert!(table.differences(&older).is_empty());
                assert!(!table.differences(&wanted).is_empty());
                table.distrust();
                assert!(table.keep(&wanted).unwrap() > 0);
                assert!(table.differences(&wanted).is_empty());

                assert!(table.remove().unwrap());
                assert!(!table.remove().unwrap());
            })
            .unwrap();
    }
}
