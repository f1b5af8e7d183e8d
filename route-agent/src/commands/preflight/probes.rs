//! The single tries. Each leaves nothing behind, whether it works or not.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use podwire_kernel::RouteSocket;
use podwire_kernel::conntrack::{Conntrack, Filter};
use podwire_kernel::link::Veth;
use podwire_kernel::nflog;
use podwire_kernel::nft::{
    self, Chain, ChainType, Element, Family, Field, Hook, KeyBuf, NftSocket, Reject, Rule, Set,
    Source, Table, ct_status, fib_flag, nat_flag, priority,
};
use podwire_kernel::route::{Route, RouteKind};
use podwire_kernel::sysctl;
use podwire_kernel::{IpFamily, Protocol};

use crate::commands::preflight::probe::Without::{FallsBack, Refuses};
use crate::commands::preflight::probe::{PERMISSION, Probe};
use crate::features::parts::log::Reason;
use crate::features::policies::desired::frame::Frame;
use crate::features::policies::desired::wanted::{PortRange, Verdict};
use crate::features::policies::layout::skeleton::skeleton;
use crate::snapshot::Direction;

/// Where nftables objects are tried out; never there for others to see.
const TABLE: &str = "podwire-preflight";
/// Bit of the capability NET_ADMIN (linux/capability.h).
const CAP_NET_ADMIN: u64 = 12;
/// A protocol number that is not in use; not the agent's own, whose routes it looks after.
const PROTOCOL: u8 = crate::ours::ROUTE_PROTOCOL + 1;
/// A routing table that no rule leads to.
const NOWHERE: u32 = 112_112;
/// An address for documentation (RFC 5737), where no machine is.
const UNUSED: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// All tries, the most important first.
pub(super) fn all() -> Vec<Probe> {
    let mut probes = basics();
    probes.extend(of_services());
    probes.extend(of_policies());
    probes.extend(of_the_node());
    probes
}

#[rustfmt::skip]
fn basics() -> Vec<Probe> {
    vec![
        Probe { feature: PERMISSION, needed_for: "every change to the network", then: Refuses,
            consequence: "nothing can be programmed: run as root, or give the container the capability NET_ADMIN",
            modules: &[],
            try_it: net_admin, here: true },
        Probe { feature: "route protocol", needed_for: "routes to other nodes, which must be distinguishable from those of other programs", then: Refuses,
            consequence: "pods cannot reach pods on other nodes",
            modules: &[],
            try_it: route_protocol, here: false },
        Probe { feature: "IP forwarding", needed_for: "passing packets between pods and other nodes", then: Refuses,
            consequence: "no packet gets from a pod to anywhere: set net.ipv4.ip_forward to 1 on the node, or make /proc/sys/net writable here",
            modules: &[],
            try_it: forwarding, here: true },
        Probe { feature: "IPv6", needed_for: "pods and Services with IPv6 addresses", then: FallsBack,
            consequence: "only IPv4 works on this node",
            modules: &[],
            try_it: ipv6, here: false },
        Probe { feature: "veth", needed_for: "the links of pods", then: Refuses,
            consequence: "the plugin cannot give pods a link",
            modules: &["veth"],
            try_it: veth, here: false },
        Probe { feature: "nf_tables", needed_for: "masquerade, Services and hostPorts", then: Refuses,
            consequence: "only routes are kept",
            modules: &["nf_tables"],
            try_it: nf_tables, here: false },
    ]
}

#[rustfmt::skip]
fn of_services() -> Vec<Probe> {
    vec![
        Probe { feature: "nat", needed_for: "Services and hostPorts", then: Refuses,
            consequence: "no Service works",
            modules: &["nft_chain_nat", "nft_nat", "nft_ct"],
            try_it: nat, here: false },
        Probe { feature: "masquerade", needed_for: "pods that reach outside, Services that are reached from outside", then: Refuses,
            consequence: "answers to pods from outside the cluster do not come back",
            modules: &["nft_chain_nat", "nft_masq"],
            try_it: masquerade, here: false },
        Probe { feature: "fib", needed_for: "node ports, and the guard against false source addresses", then: Refuses,
            consequence: "node ports do not work",
            modules: &["nft_fib_ipv4", "nft_fib_ipv6", "nft_fib_inet"],
            try_it: fib, here: false },
        Probe { feature: "numgen", needed_for: "spreading connections over endpoints", then: Refuses,
            consequence: "no Service works",
            modules: &["nft_numgen"],
            try_it: numgen, here: false },
        Probe { feature: "reject", needed_for: "refusing connections to Services without endpoints", then: Refuses,
            consequence: "no Service works",
            modules: &["nft_reject_ipv4", "nft_reject_ipv6", "nft_reject_inet"],
            try_it: reject, here: false },
        Probe { feature: "jhash", needed_for: "Services with balancing source-hash", then: FallsBack,
            consequence: "Services with balancing source-hash are left out",
            modules: &["nft_hash"],
            try_it: jhash, here: false },
        Probe { feature: "dynamic maps", needed_for: "session affinity", then: FallsBack,
            consequence: "Services with session affinity are left out: a kernel of 5.7 or newer can do it",
            modules: &[],
            try_it: dynamic_map, here: false },
        Probe { feature: "interval sets", needed_for: "source ranges of load balancers", then: FallsBack,
            consequence: "Services with loadBalancerSourceRanges are left out: a kernel of 5.6 or newer can do it",
            modules: &[],
            try_it: pipapo, here: false },
        Probe { feature: "element counters", needed_for: "counting connections per Service and endpoint", then: FallsBack,
            consequence: "Services must go without counters: a kernel of 5.7 or newer can count",
            modules: &["nft_counter"],
            try_it: counters, here: false },
        Probe { feature: "conntrack", needed_for: "forgetting UDP connections to endpoints that are gone", then: FallsBack,
            consequence: "UDP clients may go on talking to an endpoint that is gone",
            modules: &["nf_conntrack_netlink"],
            try_it: conntrack, here: false },
        Probe { feature: "conntrack filter", needed_for: "forgetting them without listing all connections", then: FallsBack,
            consequence: "all connections are listed to find those to be forgotten, which takes longer: newer kernels look by themselves",
            modules: &["nf_conntrack_netlink"],
            try_it: conntrack_filter, here: false },
    ]
}

#[rustfmt::skip]
fn of_policies() -> [Probe; 2] {
    [Probe { feature: "policy tables", needed_for: "NetworkPolicies", then: Refuses,
        consequence: "NetworkPolicies cannot be enforced, and no pod starts while there are any: to do without, switch them off (--network-policy=false)",
        modules: &["nf_tables", "nf_conntrack", "nft_ct"],
        try_it: policy_tables, here: false },
    Probe { feature: "logs to programs", needed_for: "naming what is refused and dropped", then: FallsBack,
        consequence: "what is refused and dropped is counted and not named (podwire-agent drops, Events)",
        modules: &["nft_limit", "nft_log", "nfnetlink_log"],
        try_it: logs, here: false }]
}

#[rustfmt::skip]
fn of_the_node() -> Vec<Probe> {
    vec![
        Probe { feature: "writable sysctls", needed_for: "the size and time-outs of connection tracking", then: FallsBack,
            consequence: "the node's own settings stay: mount /proc/sys/net writable to have them set",
            modules: &["nf_conntrack"],
            try_it: writable_sysctl, here: true },
        Probe { feature: "notifications", needed_for: "repairing within a second what others delete", then: FallsBack,
            consequence: "what others delete is only repaired at the next change",
            modules: &["nfnetlink"],
            try_it: notifications, here: false },
        Probe { feature: "inotify", needed_for: "noticing changed files at once", then: FallsBack,
            consequence: "files are looked at every second: raise fs.inotify.max_user_instances",
            modules: &[],
            try_it: inotify, here: true },
    ]
}

fn text(error: impl std::error::Error) -> String {
    crate::error::chain(&error)
}

fn net_admin() -> Result<(), String> {
    let status = std::fs::read_to_string("/proc/thread-self/status").map_err(text)?;
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    match effective {
        Some(mask) if mask & 1 << CAP_NET_ADMIN != 0 => Ok(()),
        Some(_) => Err("this process does not have the capability NET_ADMIN".into()),
        None => Err("/proc does not show the capabilities of this process".into()),
    }
}

fn route_protocol() -> Result<(), String> {
    let mut socket = RouteSocket::open().map_err(text)?;
    let mut route = Route::to(IpAddr::V4(UNUSED).into());
    route.kind = RouteKind::Unreachable;
    route.protocol = PROTOCOL;
    route.table = NOWHERE;
    socket.add_route(&route).map_err(text)?;
    let found = socket
        .routes(podwire_kernel::route::RouteFilter::default())
        .map(|routes| {
            routes
                .iter()
                .any(|found| found.table == NOWHERE && found.protocol == PROTOCOL)
        });
    socket.delete_route(&route).map_err(text)?;
    match found.map_err(text)? {
        true => Ok(()),
        false => Err("the kernel forgot the protocol number of a route".into()),
    }
}

fn forwarding() -> Result<(), String> {
    let key = "net/ipv4/ip_forward";
    if sysctl::read(key).map_err(text)? == "1" {
        return Ok(());
    }
    // The value that it has: only whether it may be written is tried.
    sysctl::write(key, "0")
        .map_err(|error| format!("it is off, and cannot be switched on: {error}"))
}

fn ipv6() -> Result<(), String> {
    std::net::UdpSocket::bind((Ipv6Addr::LOCALHOST, 0))
        .map(drop)
        .or_else(|error| match error.raw_os_error() {
            // No address on the loopback link yet: the family is there.
            Some(nix::libc::EADDRNOTAVAIL) => Ok(()),
            _ => Err(text(error)),
        })
}

fn veth() -> Result<(), String> {
    let names = ["podwire-try0", "podwire-try1"];
    let mut socket = RouteSocket::open().map_err(text)?;
    let veth = Veth::new(names[0], names[1]).map_err(text)?;
    socket.create_veth(&veth).map_err(text)?;
    socket.delete_link_named(names[0]).map_err(text)
}

fn nf_tables() -> Result<(), String> {
    commit(&Table::new(Family::Inet, TABLE))
}

/// Makes the objects and removes them in the same transaction: the kernel checks all of them, and
/// no one sees them.
fn commit(table: &Table) -> Result<(), String> {
    let mut batch = nft::diff(None, table);
    batch.table(table.family, &table.name).delete();
    let mut socket = NftSocket::open().map_err(text)?;
    socket.commit(&mut batch).map_err(text)
}

/// Tries a rule in all families of tables, in a chain of a kind that may have it.
fn rule(kind: ChainType, hook: Hook, of: impl Fn(Family) -> Rule) -> Result<(), String> {
    for family in [Family::Ip, Family::Ip6, Family::Inet] {
        let chain = Chain::base(kind.clone(), hook, priority::FILTER).with_rule(of(family));
        commit(&Table::new(family, TABLE).with_chain("try", chain))?;
    }
    Ok(())
}

/// As [`rule`], in a chain that no packet reaches.
fn quiet_rule(of: impl Fn(Family) -> Rule) -> Result<(), String> {
    for family in [Family::Ip, Family::Ip6] {
        let chain = Chain::regular().with_rule(of(family));
        commit(&Table::new(family, TABLE).with_chain("try", chain))?;
    }
    Ok(())
}

fn nat() -> Result<(), String> {
    rule(ChainType::Nat, Hook::Prerouting, |family| {
        let address = match family {
            Family::Ip6 => Ipv6Addr::LOCALHOST.into(),
            _ => UNUSED.into(),
        };
        // No packet from a link of this name.
        Rule::new()
            .iifname(NO_LINK)
            .ct_status_not(ct_status::DNAT)
            .l4proto(Protocol::Tcp.number())
            .dnat(address, Some(80))
    })
}

/// A link that does not exist.
const NO_LINK: &str = "podwire-unused";

fn masquerade() -> Result<(), String> {
    rule(ChainType::Nat, Hook::Postrouting, |_| {
        Rule::new()
            .oifname(NO_LINK)
            .masquerade(nat_flag::FULLY_RANDOM)
    })
}

fn fib() -> Result<(), String> {
    rule(ChainType::Filter, Hook::Prerouting, |_| {
        Rule::new()
            .iifname(NO_LINK)
            .is(
                Source::address_type(fib_flag::DADDR),
                &KeyBuf::new().number(nft::fib_type::LOCAL),
            )
            .no_way_back()
            .drop()
    })
}

fn numgen() -> Result<(), String> {
    quiet_rule(|_| Rule::new().is(Source::random(2), &[0; 4]).drop())
}

fn jhash() -> Result<(), String> {
    quiet_rule(|family| {
        let of = match family {
            Family::Ip6 => Field::Ip6Saddr,
            _ => Field::IpSaddr,
        };
        Rule::new()
            .is(Source::jhash(&[of], 2, Some(1)), &[0; 4])
            .drop()
    })
}

fn reject() -> Result<(), String> {
    rule(ChainType::Filter, Hook::Forward, |_| {
        Rule::new()
            .iifname(NO_LINK)
            .l4proto(Protocol::Tcp.number())
            .reject(Reject::TcpReset)
    })?;
    rule(ChainType::Filter, Hook::Forward, |_| {
        Rule::new().iifname(NO_LINK).reject(Reject::Icmp(3))
    })
}

fn dynamic_map() -> Result<(), String> {
    let set = Set::map(&[Field::IpSaddr], &[Field::Priority])
        .dynamic(16)
        .with_timeouts();
    let hour = Some(Duration::from_secs(3600));
    let remember = Rule::new().update_map("clients", &[Field::IpSaddr], &[Field::Priority], hour);
    let table = Table::new(Family::Ip, TABLE)
        .with_set("clients", set)
        .with_chain("try", Chain::regular().with_rule(remember));
    commit(&table)
}

fn pipapo() -> Result<(), String> {
    let key = |last: u8| {
        KeyBuf::new()
            .address(UNUSED)
            .address([192, 0, 2, last])
            .finish()
    };
    let set = Set::of(&[Field::IpDaddr, Field::IpSaddr])
        .with_intervals()
        .with_element(key(1), Element::member().up_to(key(9)));
    commit(&Table::new(Family::Ip, TABLE).with_set("ranges", set))
}

/// The whole table, without a pod to judge.
fn policy_tables() -> Result<(), String> {
    let range = PortRange { first: 1, last: 99 };
    let frame = Frame {
        ranges: Verdict::ALL
            .map(|one| (Direction::Ingress, one, range))
            .into(),
        denies: true,
        outside: true,
        ..Frame::default()
    };
    for family in IpFamily::ALL {
        let table = skeleton(family, &frame);
        commit(&Table {
            name: TABLE.to_owned(),
            ..table
        })?;
    }
    Ok(())
}

/// The rule that logs, and a program that reads what is logged.
fn logs() -> Result<(), String> {
    quiet_rule(|_| Reason::Undecided.rule())?;
    nflog::probe(NO_GROUP).map_err(text)
}

/// A group that no rule logs to.
const NO_GROUP: u16 = 11_200;

fn counters() -> Result<(), String> {
    let key = KeyBuf::new().address(UNUSED).finish();
    let set = Set::map(&[Field::IpDaddr], &[Field::IpDaddr])
        .with_counters()
        .with_element(key.clone(), Element::data(key));
    commit(&Table::new(Family::Ip, TABLE).with_set("counted", set))
}

fn unused_entries() -> Filter {
    Filter {
        original_destination: Some(UNUSED.into()),
        ..Filter::of_protocol(Protocol::Udp)
    }
}

fn conntrack() -> Result<(), String> {
    let mut socket = Conntrack::open().map_err(text)?;
    socket.count(&unused_entries()).map(drop).map_err(text)
}

fn conntrack_filter() -> Result<(), String> {
    let mut socket = Conntrack::open().map_err(text)?;
    socket.delete(&unused_entries()).map_err(text)?;
    match socket.filters_deletes() {
        true => Ok(()),
        false => Err("the kernel does not delete connections by a filter".into()),
    }
}

fn writable_sysctl() -> Result<(), String> {
    let key = "net/netfilter/nf_conntrack_tcp_timeout_close_wait";
    let value = sysctl::read(key).map_err(text)?;
    sysctl::write(key, &value).map_err(text)
}

fn notifications() -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(text)?;
    runtime
        .block_on(async { podwire_kernel::monitor::Monitor::open() })
        .map(drop)
        .map_err(text)
}

fn inotify() -> Result<(), String> {
    notify::recommended_watcher(|_| {}).map(drop).map_err(text)
}
