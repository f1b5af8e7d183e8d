//! Real packets through the tables of a cluster's two nodes.
//!
//! Four network namespaces in a row, joined by veth links: senders, `worker`, `worker2`, receivers. A packet
//! is written to the first link as bytes, with any source, and goes through the tables of both nodes,
//! as between two pods of a cluster; each enforces what is said of its own pods. Whatever leaves the
//! last node is seen by a packet socket; no one answers.
//!
//! Nothing is waited for but a marker, which every table lets pass: the thread stays on one CPU, whose
//! queue keeps the order (`netif_rx`, net/core/dev.c), so what has not come before the marker was dropped.

mod wire;

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::ifaddrs::getifaddrs;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt,
    socket, sockopt,
};
use nix::unistd::Pid;
use podwire_kernel::link::{Mac, Veth};
use podwire_kernel::neigh::Neighbour;
use podwire_kernel::netns::Netns;
use podwire_kernel::route::Route;
use podwire_kernel::{RouteSocket, sysctl};
use proptest::strategy::{Strategy, ValueTree};
use serde_json::{Value, json};

use crate::features::policies::desired::atoms::FEW_PEERS;
use crate::features::policies::desired::samples::{
    Cluster, ICMP, NODES, addresses, namespace, pod, policy, tcp, udp,
};
use crate::features::policies::desired::tests::oracle::{few_peers_of, number, runner};
use crate::features::policies::desired::tests::random::all_steps;
use crate::features::policies::desired::tests::table::{Row, known, objects_after, table};
use crate::features::policies::desired::truth::Traffic;
use crate::features::policies::tests::bench::{Bench, nft};
use crate::features::test_node::TestNode;
use crate::snapshot::Protocol;

/// Ethernet addresses: both ends of each link have this one, so that a stop takes what it is sent.
const HERE: Mac = Mac([2, 0, 0, 0, 0, 1]);
/// Of no one. Where packets go to it, they are seen and not taken.
const NO_ONE: Mac = Mac([2, 0, 0, 0, 0, 2]);
/// Where the next stop is said to be.
const NEXT: [&str; 2] = ["192.0.2.1", "fe80::1"];
/// How many packets are under way at once; a CPU's queue takes 1000 (`net.core.netdev_max_backlog`).
const AT_ONCE: usize = 256;
/// For as many packets, and what the kernel adds to each.
const RECEIVE_BUFFER: usize = 8 << 20;
/// The number of the packet after the last.
const MARKER: u32 = u32::MAX;
/// A marker that does not come in this time never does.
const PATIENCE_MS: u16 = 30_000;

/// The way of packets through a cluster.
pub struct Road {
    nodes: Vec<(Netns, Bench)>,
    senders: OwnedFd,
    receivers: OwnedFd,
}

impl Road {
    /// Through the nodes of a cluster with these objects, where rules with more than this many peers of
    /// a kind ask a single question.
    pub fn through(few_peers: usize, objects: &[Value]) -> Self {
        stay_on_one_cpu();
        let stops: Vec<_> = (0..NODES.len() + 2)
            .map(|_| Netns::create_anonymous().unwrap())
            .collect();
        for pair in stops.windows(2) {
            join(&pair[0], &pair[1]);
        }
        let [senders, inner @ .., receivers] = &*stops else {
            unreachable!("there are nodes");
        };
        let senders = senders.enter(|| sender("out")).unwrap();
        let last = stops.len() - 2;
        for (at, stop) in stops.iter().enumerate().skip(1).take(NODES.len()) {
            let next = if at == last { NO_ONE } else { HERE };
            stop.enter(|| forward(next)).unwrap();
        }
        let receivers = receivers.enter(receiver).unwrap();
        let nodes = NODES.iter().zip(inner).map(|((name, _), stop)| {
            let bench = stop.enter(|| {
                let mut bench = Bench::on(TestNode::new(), name, few_peers);
                // The truth takes a Namespace that is missing by its name, as in manifests.
                bench.node.config.manifests = Some("/manifests".into());
                bench.set(objects);
                bench
            });
            bench.unwrap()
        });
        let benches: Vec<_> = nodes.collect();
        let inner = stops.into_iter().skip(1);
        Self {
            nodes: inner.zip(benches).collect(),
            senders,
            receivers,
        }
    }

    /// Sends a packet for each row; what should arrive must, and nothing else may.
    #[track_caller]
    pub fn carry(&self, rows: &[Row], objects: &[Value]) {
        let wrong = self.differences(rows);
        assert!(wrong.is_empty(), "{wrong:#?}\n{objects:#?}");
    }

    /// The rows of which the kernel does otherwise.
    pub fn differences(&self, rows: &[Row]) -> Vec<String> {
        let first = |row: &Row, number| wire::packet(row.from, row.to, row.traffic, number);
        self.differences_with(rows, first)
    }

    /// The same with other packets.
    fn differences_with(&self, rows: &[Row], packet: impl Fn(&Row, u32) -> Vec<u8>) -> Vec<String> {
        let mut arrived = vec![0; rows.len()];
        for (at, some) in (0..).step_by(AT_ONCE).zip(rows.chunks(AT_ONCE)) {
            for (row, number) in some.iter().zip(at..) {
                self.send(&packet(row, number));
            }
            self.collect(rows, &mut arrived);
        }
        let wrong = rows.iter().zip(arrived);
        let wrong = wrong.filter(|(row, arrived)| *arrived != u32::from(row.allowed));
        wrong
            .map(|(row, times)| {
                let Row {
                    from, to, traffic, ..
                } = row;
                format!(
                    "{from} -> {to} {traffic:?}: allowed {}, arrived {times} times",
                    row.allowed
                )
            })
            .collect()
    }

    fn send(&self, packet: &[u8]) {
        let kind: [u8; 2] = match packet[0] >> 4 {
            4 => [0x08, 0x00],
            _ => [0x86, 0xdd],
        };
        let frame = [&HERE.0[..], &NO_ONE.0, &kind, packet].concat();
        send(self.senders.as_raw_fd(), &frame, MsgFlags::empty()).unwrap();
    }

    /// Counts what arrives until the marker does.
    fn collect(&self, rows: &[Row], arrived: &mut [u32]) {
        let [from, to] = ["203.0.113.1", "203.0.113.2"].map(|one| one.parse().unwrap());
        self.send(&wire::packet(from, to, udp(9), MARKER));
        loop {
            let packet = self.receive();
            match wire::read(&packet) {
                Some((.., MARKER)) => return,
                Some((from, to, number)) if !is_of_the_link(from) => {
                    let at = usize::try_from(number).unwrap();
                    assert_eq!((from, to), (rows[at].from, rows[at].to), "packet {number}");
                    arrived[at] += 1;
                }
                _ => {}
            }
        }
    }

    fn receive(&self) -> Vec<u8> {
        let mut waiting = [PollFd::new(self.receivers.as_fd(), PollFlags::POLLIN)];
        let some = poll(&mut waiting, PollTimeout::from(PATIENCE_MS)).unwrap();
        assert_eq!(some, 1, "the marker is lost");
        let mut packet = vec![0; 2048];
        let length = recv(self.receivers.as_raw_fd(), &mut packet, MsgFlags::empty()).unwrap();
        packet.truncate(length);
        packet
    }
}

/// What the kernel itself says to its neighbours, in IPv6.
fn is_of_the_link(from: IpAddr) -> bool {
    match from {
        IpAddr::V4(_) => false,
        IpAddr::V6(v6) => v6.is_unspecified() || v6.is_unicast_link_local(),
    }
}

/// Two threads' packets would overtake each other, and so would one thread's that moves.
fn stay_on_one_cpu() {
    let this_thread = Pid::from_raw(0);
    let allowed = sched_getaffinity(this_thread).unwrap();
    let first = (0..CpuSet::count()).find(|cpu| allowed.is_set(*cpu).unwrap());
    let mut one = CpuSet::new();
    one.set(first.unwrap()).unwrap();
    sched_setaffinity(this_thread, &one).unwrap();
}

/// `out` in the one namespace leads to `in` of the next.
fn join(one: &Netns, next: &Netns) {
    let veth = Veth {
        peer_netns: Some(next),
        mac: HERE,
        peer_mac: HERE,
        ..Veth::new("out", "in").unwrap()
    };
    let [mut here, mut there] = [one, next].map(|netns| RouteSocket::open_in(netns).unwrap());
    let ends = here.create_veth(&veth).unwrap();
    // The end that sends comes last: a link that is up before the other one sends only some time
    // later (`dev_activate`, net/sched/sch_generic.c).
    there.set_up(ends.peer_index).unwrap();
    here.set_up(ends.index).unwrap();
}

/// Has the namespace of this thread forward everything to the next one, wherever it comes from.
fn forward(next: Mac) {
    for (key, value) in [
        ("net/ipv4/conf/all/rp_filter", "0"),
        ("net/ipv4/conf/in/rp_filter", "0"),
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv6/conf/all/forwarding", "1"),
    ] {
        sysctl::write(key, value).unwrap();
    }
    let mut socket = RouteSocket::open().unwrap();
    // Without any address of its own the kernel takes no gateway (`__inet_dev_addr_type`,
    // net/ipv4/fib_frontend.c).
    let own = socket.index_of("lo").unwrap();
    socket.set_up(own).unwrap();
    let link = socket.index_of("out").unwrap();
    for (destination, address) in ["0.0.0.0/0", "::/0"].into_iter().zip(NEXT) {
        let address = address.parse().unwrap();
        let neighbour = Neighbour {
            link,
            address,
            mac: Some(next),
            permanent: true,
        };
        socket.replace_neighbour(&neighbour).unwrap();
        let route = Route {
            gateway: Some(address),
            link: Some(link),
            onlink: true,
            ..Route::to(destination.parse().unwrap())
        };
        socket.add_route(&route).unwrap();
    }
}

/// A socket that sends whole frames by a link.
fn sender(link: &str) -> OwnedFd {
    let none: Option<SockProtocol> = None;
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Packet, SockType::Raw, flags, none).unwrap();
    let mut all = getifaddrs().unwrap();
    let address = all.find_map(|one| {
        let address = one.address.filter(|_| one.interface_name == link)?;
        address.as_link_addr().copied()
    });
    bind(socket.as_raw_fd(), &address.unwrap()).unwrap();
    socket
}

/// A socket that sees all packets of its namespace.
fn receiver() -> OwnedFd {
    let flags = SockFlag::SOCK_CLOEXEC;
    let kind = SockType::Datagram;
    let all = SockProtocol::EthAll;
    let socket = socket(AddressFamily::Packet, kind, flags, all).unwrap();
    setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).unwrap();
    socket
}

#[test]
fn packets_meet_what_the_policies_say() {
    let [seed, clusters] = [("PACKETS_SEED", 1), ("PACKETS_CLUSTERS", 20)]
        .map(|(name, default)| number(name, default));
    let mut runner = runner(seed);
    let (mut sent, mut allowed) = ([0, 0], 0);
    for one in 0..clusters {
        let steps = all_steps().new_tree(&mut runner).unwrap().current();
        let objects = objects_after(&steps);
        let few_peers = few_peers_of(one);
        let cluster = Cluster::at_once(few_peers, &objects);
        let rows = table(&cluster, &known(&cluster));
        Road::through(few_peers, &objects).carry(&rows, &objects);
        for row in &rows {
            sent[usize::from(row.from.is_ipv6())] += 1;
            allowed += usize::from(row.allowed);
        }
    }
    let [v4, v6] = sent;
    println!(
        "{clusters} clusters: {v4} packets of IPv4, {v6} of IPv6, {allowed} arrived, as they should"
    );
    assert!(v4 > 0 && v6 > 0 && allowed > 0 && allowed < v4 + v6);
}

/// A packet from the middle of a connection, as bytes.
type Late = fn(IpAddr, IpAddr, [u16; 2], u32) -> Vec<u8>;

/// A pod can make packets that look like replies of a connection that never was, and a client chooses its
/// port, so they may carry nothing that a connection in their own direction may not.
#[test]
fn what_looks_like_a_late_reply_needs_what_both_directions_allow() {
    let both: [(Protocol, Late, [u16; 2]); 4] = [
        (Protocol::Tcp, wire::segment, [80, 40_000]),
        (Protocol::Tcp, wire::segment, [80, 81]),
        (Protocol::Sctp, wire::heartbeat, [80, 40_000]),
        (Protocol::Sctp, wire::heartbeat, [40_000, 80]),
    ];
    for (protocol, late, ports) in both {
        let seen = late_packets(protocol, ports, late, |reply, itself| reply && itself);
        let all = seen.as_flattened().iter().all(|times| *times > 0);
        assert!(all, "{protocol:?} {ports:?}: {seen:?}");
    }
}

/// A client that may not be reached need not begin again because the kernel forgot its connection.
#[test]
fn a_client_goes_on_with_a_connection_that_the_kernel_has_forgotten() {
    late_packets(Protocol::Tcp, [40_000, 80], wire::segment, |_, itself| {
        itself
    });
}

/// Sends late packets between all ends of random clusters, and tells how many there were of each kind: by
/// whether they are allowed as replies, and as what they say they are.
fn late_packets(
    protocol: Protocol,
    ports: [u16; 2],
    late: Late,
    allowed: fn(bool, bool) -> bool,
) -> [[u32; 2]; 2] {
    let mut runner = runner(1);
    let mut seen = [[0; 2]; 2];
    for one in 0..10 {
        let steps = all_steps().new_tree(&mut runner).unwrap().current();
        let objects = objects_after(&steps);
        let few_peers = few_peers_of(one);
        let cluster = Cluster::at_once(few_peers, &objects);
        let mut rows = Vec::new();
        let ends = known(&cluster);
        let pairs = ends
            .iter()
            .flat_map(|from| ends.iter().map(move |to| (*from, *to)));
        // A second packet between two ends would be a reply of the first.
        for (from, to) in pairs.filter(|(from, to)| from < to && from.is_ipv4() == to.is_ipv4()) {
            let [server, client] = ports.map(|port| Traffic::Port(protocol, port));
            let reply = cluster.allows(to, from, server);
            let itself = cluster.allows(from, to, client);
            seen[usize::from(reply)][usize::from(itself)] += 1;
            rows.push(Row {
                from,
                to,
                traffic: client,
                allowed: allowed(reply, itself),
            });
        }
        let road = Road::through(few_peers, &objects);
        let packet = |row: &Row, number| late(row.from, row.to, ports, number);
        let wrong = road.differences_with(&rows, packet);
        assert!(
            wrong.is_empty(),
            "{protocol:?} {ports:?}: {wrong:#?}\n{objects:#?}"
        );
    }
    seen
}

/// That a server may connect to its client's port does not make a reply from there.
#[test]
fn what_a_server_may_begin_and_has_begun_lets_no_late_reply_pass() {
    let closed =
        json!({"podSelector": {"matchLabels": {"app": "server"}}, "policyTypes": ["Ingress"]});
    let objects = [
        namespace("a", ""),
        pod("a/client", "worker2", 2, ""),
        pod("a/server", "worker", 3, "app=server"),
        policy("a/p", &closed),
    ];
    let road = Road::through(FEW_PEERS, &objects);
    let [servers, clients] =
        [("worker", 3), ("worker2", 2)].map(|(node, one)| addresses(node, one));
    let rows = |allowed| {
        let pairs = servers.into_iter().zip(clients);
        let rows = pairs.map(|(from, to)| Row {
            from,
            to,
            traffic: tcp(20_000),
            allowed,
        });
        rows.collect::<Vec<_>>()
    };
    road.carry(&rows(true), &objects);
    let late = |row: &Row, number| wire::segment(row.from, row.to, [7_000, 20_000], number);
    assert_eq!(road.differences_with(&rows(false), late), [""; 0]);
}

/// The kernel takes for an error about a connection whatever names one of the receiver.
#[test]
fn an_isolated_pod_sends_errors_about_its_own_connections_and_to_whom_it_may_send() {
    let spec = json!({"podSelector": {"matchLabels": {"app": "closed"}}, "policyTypes": ["Egress"],
        "egress": [{"to": [{"podSelector": {"matchLabels": {"app": "friend"}}}]}]});
    let narrow = json!({"podSelector": {"matchLabels": {"app": "narrow"}}, "policyTypes": ["Egress"],
        "egress": [{"ports": [{"protocol": "UDP", "port": 53}]}]});
    let objects = [
        namespace("a", ""),
        pod("a/client", "worker2", 2, ""),
        pod("a/friend", "worker2", 3, "app=friend"),
        pod("a/server", "worker", 2, "app=closed"),
        pod("a/other", "worker", 3, "app=closed"),
        pod("a/open", "worker", 4, ""),
        pod("a/narrow", "worker", 5, "app=narrow"),
        policy("a/p", &spec),
        policy("a/narrow", &narrow),
    ];
    let road = Road::through(FEW_PEERS, &objects);
    let router = ["203.0.113.9", "2001:db8::99"].map(|one| one.parse().unwrap());
    let [client, friend] = [2, 3].map(|number| addresses("worker2", number));
    let [server, other, open, narrow] = [2, 3, 4, 5].map(|number| addresses("worker", number));
    let connection = |from: [IpAddr; 2], to: [IpAddr; 2]| {
        let rows = from.into_iter().zip(to).map(|(from, to)| Row {
            from,
            to,
            traffic: udp(53),
            allowed: true,
        });
        rows.collect::<Vec<_>>()
    };
    let with_server = |end| connection(end, server);
    for (known, sender, receiver, allowed) in [
        (with_server(client), server, client, true),
        (with_server(client), other, client, false),
        (with_server(client), narrow, client, false),
        (with_server(friend), other, friend, true),
        (with_server(client), open, client, true),
        (with_server(client), router, client, true),
        (connection(narrow, client), narrow, client, true),
        (connection(narrow, client), other, client, false),
    ] {
        road.carry(&known, &objects);
        let errors = sender.into_iter().zip(receiver).map(|(from, to)| Row {
            from,
            to,
            traffic: ICMP,
            allowed,
        });
        let error = |row: &Row, number: u32| {
            let at = usize::try_from(number).unwrap();
            let about = &known[at];
            let about = match about.from == row.to {
                true => wire::packet(about.from, about.to, about.traffic, number),
                false => wire::answer(about.to, about.from, 53, number),
            };
            wire::unreachable(row.from, row.to, &about, number)
        };
        let errors: Vec<_> = errors.collect();
        assert_eq!(
            road.differences_with(&errors, error),
            [""; 0],
            "{sender:?} {receiver:?}"
        );
    }
}

/// Two pods, and a policy that lets the one reach the other over TCP 80.
fn two_pods() -> (Road, Vec<Row>) {
    let spec = json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [
        {"from": [{"podSelector": {}}], "ports": [{"port": 80}]}]});
    let objects = [
        namespace("a", ""),
        pod("a/client", "worker2", 2, ""),
        pod("a/server", "worker", 3, ""),
        policy("a/p", &spec),
    ];
    let [from, to] = [("worker2", 2), ("worker", 3)].map(|(node, one)| addresses(node, one));
    let rows = from.into_iter().zip(to).flat_map(|(from, to)| {
        [(tcp(80), true), (tcp(81), false)].map(|(traffic, allowed)| Row {
            from,
            to,
            traffic,
            allowed,
        })
    });
    (Road::through(FEW_PEERS, &objects), rows.collect())
}

#[test]
fn a_kernel_that_does_otherwise_is_noticed() {
    let (right, rows) = two_pods();
    right.carry(&rows, &[]);
    for (command, said) in [
        (
            "add element ip podwire-policy open-in { 10.10.1.3 }",
            "10.10.2.2 -> 10.10.1.3 Port(Tcp, 81): allowed false, arrived 1 times",
        ),
        (
            "flush set ip6 podwire-policy in-ports",
            "fd00:10:10:2::2 -> fd00:10:10:1::3 Port(Tcp, 80): allowed true, arrived 0 times",
        ),
    ] {
        let (road, rows) = two_pods();
        let (worker, _) = &road.nodes[0];
        worker.enter(|| nft(command)).unwrap();
        assert_eq!(road.differences(&rows), [said], "{command}");
    }
}
