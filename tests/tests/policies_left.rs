//! What connection tracking keeps of a connection when its pod has gone, and what policies make of a
//! connection of which it keeps nothing.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use cluster::Cluster;
use cluster::connection::{Connection, End, Way};
use cluster::policies::{ANSWER, Ends, SILENCE, addresses, app, policy};
use podwire_lab::node::Node;
use podwire_lab::pod::{Pod, PodSpec};
use podwire_lab::topology::Families;
use podwire_lab::wait;
use serde_json::json;

/// Two nodes of both families; a test here has a namespace, pods and policies of its own.
static CLUSTER: LazyLock<Cluster> = LazyLock::new(|| Cluster::pair(Families::Dual));

const NODES: [&str; 2] = ["worker", "worker2"];

/// A pod that serves nothing: the tests do that in its place.
fn pod(node: &str, namespace: &str, name: &str, value: &str) -> Pod {
    CLUSTER
        .lab
        .run(node, &spec(namespace, name, value))
        .unwrap()
}

fn spec(namespace: &str, name: &str, value: &str) -> PodSpec {
    let spec = PodSpec::new(name).in_namespace(namespace);
    spec.labelled("app", value)
}

/// Where both ends of a UDP connection are.
fn ends(connection: &Connection) -> (&UdpSocket, &UdpSocket) {
    match connection {
        Connection::Udp(client, server) => (client, server),
        Connection::Stream(..) => panic!("a connection of UDP was made"),
    }
}

/// The entries of connection tracking of a node that name an address.
fn entries(node: &Node, address: IpAddr) -> usize {
    let family = if address.is_ipv4() { "ipv4" } else { "ipv6" };
    let list = format!("conntrack -L -f {family} 2>/dev/null || true");
    let list = node.place().output(&list).unwrap();
    let names = |line: &&str| line.contains(&format!("={address} "));
    list.lines().filter(names).count()
}

/// Makes the next pod of a node get these addresses, if they are free: the round goes on behind what
/// was given last, where no one knows what has been free for longest.
fn give_next(node: &Node, addresses: [IpAddr; 2]) {
    for (set, address) in addresses.into_iter().enumerate() {
        let before: IpAddr = match address {
            IpAddr::V4(address) => std::net::Ipv4Addr::from(u32::from(address) - 1).into(),
            IpAddr::V6(address) => std::net::Ipv6Addr::from(u128::from(address) - 1).into(),
        };
        let write = format!(
            "cd /run/podwire/ipam/*/; printf {before} > last_reserved_ip.{set}; rm -f .podwire*"
        );
        node.place().output(&write).unwrap();
    }
}

#[test]
fn who_goes_on_sending_to_a_pod_that_is_gone_does_not_reach_the_next_owner_of_its_address() {
    // Of its own: no other test takes an address in between.
    let cluster = Cluster::pair(Families::Dual);
    let node = cluster.node("worker");
    let pod = |node: &str, name: &str, value: &str| {
        cluster.lab.run(node, &spec("left", name, value)).unwrap()
    };
    let outsider = pod("worker2", "outsider", "outsider");
    let closed = json!({"podSelector": app("closed"), "policyTypes": ["Ingress"]});
    cluster.apply(&[policy("left", "closed", closed)]);
    let last = pod("worker", "last", "open");
    let ways = addresses(&outsider).into_iter().enumerate();
    let flows: Vec<Connection> = ways
        .map(|(number, address)| {
            let way = Way::direct(&outsider, address, 23_000 + number as u16);
            let mut flow = Connection::udp(last.place(), way);
            assert!(flow.carries(End::Server, "before", ANSWER));
            flow
        })
        .collect();
    let owned = addresses(&last);
    let ports: Vec<u16> = flows
        .iter()
        .map(|flow| ends(flow).0.local_addr().unwrap().port())
        .collect();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _ends = Ends(&stop);
        scope.spawn(|| {
            // Every packet makes an entry that is there live on.
            while !stop.load(Ordering::Relaxed) {
                for flow in &flows {
                    let _ = ends(flow).1.send(b"unasked");
                }
                thread::sleep(Duration::from_millis(5));
            }
        });
        let hears = |pod: &Pod| -> Vec<bool> {
            let sockets = owned.iter().zip(&ports).map(|(address, port)| {
                let bind = || UdpSocket::bind(SocketAddr::new(*address, *port)).unwrap();
                let socket = pod.place().inside(bind).unwrap();
                socket.set_read_timeout(Some(SILENCE)).unwrap();
                socket.recv(&mut [0; 100]).is_ok()
            });
            sockets.collect()
        };
        cluster.lab.remove("last").unwrap();
        give_next(&node, owned);
        let next = cluster.lab.start("worker", &spec("left", "next", "closed"));
        let next = next.unwrap();
        assert_eq!(addresses(&next), owned);
        let heard = hears(&next);
        // Who is open hears it, so it is sent all the time.
        cluster.lab.remove("next").unwrap();
        give_next(&node, owned);
        let open = cluster.lab.start("worker", &spec("left", "open", "open"));
        let control = hears(&open.unwrap());
        assert_eq!((heard, control), (vec![false; 2], vec![true; 2]));
    });
}

#[test]
fn of_pods_of_other_nodes_and_links_that_went_without_del_no_connection_stays() {
    let near = CLUSTER.node("worker");
    let far = CLUSTER.node("worker2");
    let server = pod("worker2", "gone", "gone-server", "server");
    let isolates = json!({"podSelector": app("server"), "policyTypes": ["Egress"]});
    CLUSTER.apply(&[policy("gone", "server", isolates)]);
    let client = pod("worker", "gone", "gone-client", "client");
    let cut_off = pod("worker", "gone", "gone-cut-off", "client");
    let mut port = 23_100;
    for from in [&client, &cut_off] {
        for address in addresses(&server) {
            port += 1;
            let way = Way::direct(&server, address, port);
            drop(Connection::udp(from.place(), way));
        }
        for address in addresses(from) {
            assert!(entries(&near, address) > 0 && entries(&far, address) > 0);
        }
    }
    CLUSTER.lab.remove("gone-client").unwrap();
    near.place()
        .output(&format!("ip link delete {}", cut_off.host_link()))
        .unwrap();
    for address in addresses(&client) {
        assert_eq!(entries(&near, address), 0, "DEL is over");
    }
    for (node, pod) in [(&far, &client), (&near, &cut_off)] {
        for address in addresses(pod) {
            let none = || entries(node, address) == 0;
            wait::until("the end of its entries", ANSWER, none).unwrap();
        }
    }
    // The pod of the other node is still there, as far as anyone can tell on this one.
    for address in addresses(&cut_off) {
        assert!(entries(&far, address) > 0);
    }
}

#[test]
fn a_cut_connection_does_not_come_back_the_other_way_when_the_kernel_forgets_it() {
    stays_cut(&CLUSTER);
}

/// There the kernel takes no packet for the first of a connection that began before: none of it is known.
#[test]
fn nor_does_it_where_the_kernel_picks_up_no_connection() {
    let cluster = Cluster::pair(Families::Dual);
    for node in NODES {
        let place = cluster.node(node);
        let write = "sysctl -qw net.netfilter.nf_conntrack_tcp_loose=0";
        place.place().output(write).unwrap();
    }
    stays_cut(&cluster);
}

fn stays_cut(cluster: &Cluster) {
    let pod = |node: &str, name: &str, value: &str| {
        cluster.lab.run(node, &spec("turned", name, value)).unwrap()
    };
    let server = pod("worker", "turned-server", "server");
    let near = pod("worker", "turned-near", "client");
    let far = pod("worker2", "turned-far", "client");
    let allows = |value: &str| {
        let rules = json!([{"from": [{"podSelector": app(value)}]}]);
        let spec = json!({"podSelector": app("server"), "ingress": rules});
        policy("turned", "turned", spec)
    };
    let forget = |address: IpAddr| {
        for node in NODES {
            let delete =
                |end: &str| format!("conntrack -D {end} {address} >/dev/null 2>&1 || true");
            let both = format!("{}; {}", delete("-s"), delete("-d"));
            let node = cluster.node(node);
            node.place().output(&both).unwrap();
            assert_eq!(entries(&node, address), 0);
        }
    };
    cluster.apply(&[allows("client")]);
    let mut port = 23_200;
    for client in [&near, &far] {
        for address in addresses(&server) {
            port += 1;
            let way = Way::direct(&server, address, port);
            let mut connection = Connection::tcp(client.place(), way);
            assert!(connection.carries(End::Client, "before", ANSWER));
            // What is allowed goes on, whoever speaks first.
            for end in [End::Server, End::Client] {
                forget(address);
                assert!(connection.carries(end, "forgotten", ANSWER), "{end:?}");
            }
            cluster.apply(&[allows("no one")]);
            for end in [End::Server, End::Client] {
                forget(address);
                let passed = connection.carries(end, "after", SILENCE);
                assert!(!passed, "{end:?} still sends from {address}");
            }
            cluster.apply(&[allows("client")]);
        }
    }
}
