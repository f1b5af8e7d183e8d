//! Connection tracking against the real kernel, each test in a network namespace of its own.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use podwire_kernel::conntrack::statistics::Statistics;
use podwire_kernel::conntrack::{Conntrack, Filter};
use podwire_kernel::nft::{
    Chain, ChainType, Family, Field, Hook, KeyBuf, NftSocket, Rule, Table, ct_state, diff, priority,
};
use podwire_kernel::{IpFamily, Protocol};

fn in_netns(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        podwire_kernel::netns::unshare_thread()
            .expect("a network namespace; these tests must run as root");
        let mut socket = podwire_kernel::RouteSocket::open().unwrap();
        let lo = socket.index_of("lo").unwrap();
        socket.set_up(lo).unwrap();
        track();
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// The kernel tracks connections of a family once a rule needs to know about them. UDP to
/// 198.51.100.1:53 goes to 127.0.0.1:5353.
fn track() {
    let vip = KeyBuf::new().address(Ipv4Addr::new(198, 51, 100, 1));
    let table = Table::new(Family::Inet, "track")
        .with_chain(
            "both",
            Chain::base(ChainType::Filter, Hook::Output, priority::FILTER)
                .with_rule(Rule::new().ct_state(ct_state::NEW).counter()),
        )
        .with_chain(
            "output",
            Chain::base(ChainType::Nat, Hook::Output, priority::DSTNAT).with_rule(
                Rule::new()
                    .nfproto(Family::Ip)
                    .is(Field::IpDaddr, &vip)
                    .l4proto(Protocol::Udp.number())
                    .dnat(Ipv4Addr::LOCALHOST.into(), Some(5353)),
            ),
        );
    NftSocket::open()
        .unwrap()
        .commit(&mut diff(None, &table))
        .unwrap();
}

fn send(to: impl Into<SocketAddr>) -> UdpSocket {
    let to = to.into();
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    let socket = UdpSocket::bind((any, 0)).unwrap();
    socket.send_to(b"x", to).unwrap();
    socket
}

/// Every connection to port 80 gets one and the same source: the kernel can insert the first alone.
const ONE_SOURCE: &str = "table ip test {
    chain source {
        type nat hook postrouting priority srcnat;
        tcp dport 80 snat to 127.0.0.9:7777
    }
    chain unanswered {
        type filter hook input priority filter; policy drop;
    }
}";

#[test]
fn statistics_are_those_that_conntrack_shows() {
    in_netns(|| {
        let mut nft = std::process::Command::new("nft");
        let loaded = nft.arg(ONE_SOURCE).status().unwrap();
        assert!(loaded.success());
        for _ in 0..3 {
            let soon = Duration::from_millis(20);
            let to = (Ipv4Addr::LOCALHOST, 80).into();
            TcpStream::connect_timeout(&to, soon).unwrap_err();
        }
        let output = std::process::Command::new("conntrack").arg("-S").output();
        let shown = String::from_utf8(output.unwrap().stdout).unwrap();
        let sum = |name: &str| -> u64 {
            let words = shown.split_whitespace();
            let numbers = words.filter_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            let numbers: Vec<u64> = numbers.map(|number| number.parse().unwrap()).collect();
            assert!(!numbers.is_empty(), "no {name}: {shown}");
            numbers.iter().sum()
        };
        let shown = Statistics {
            insert_failed: sum("insert_failed"),
            drop: sum("drop"),
            early_drop: sum("early_drop"),
        };
        assert!(shown.insert_failed > 0 && shown.drop > 0, "{shown:?}");
        assert_eq!(Conntrack::open().unwrap().statistics().unwrap(), shown);
    });
}

const UDP: Filter = Filter {
    original_source: None,
    original_destination: None,
    original_port: None,
    reply_source: None,
    reply_port: None,
    reply_destination: None,
    protocol: Some(Protocol::Udp),
    family: None,
};

fn ports(conntrack: &mut Conntrack, filter: &Filter) -> BTreeSet<u16> {
    let entries = conntrack.entries(filter).unwrap();
    entries
        .iter()
        .map(|entry| entry.original.destination_port)
        .collect()
}

#[test]
fn entries_of_both_families_are_listed_with_both_directions() {
    in_netns(|| {
        let sockets = [
            send((Ipv4Addr::LOCALHOST, 1001)),
            send((Ipv6Addr::LOCALHOST, 1002)),
        ];
        let mut conntrack = Conntrack::open().unwrap();
        assert_eq!(ports(&mut conntrack, &UDP), [1001, 1002].into());
        let v6 = Filter {
            family: Some(IpFamily::V6),
            ..UDP
        };
        let entries = conntrack.entries(&v6).unwrap();
        assert_eq!(entries.len(), 1);
        let local = sockets[1].local_addr().unwrap();
        assert_eq!(entries[0].original.source_port, local.port());
        assert_eq!(entries[0].reply.destination_port, local.port());
        assert_eq!(entries[0].reply.source_port, 1002);
        assert!(entries[0].timeout > 0);
    });
}

#[test]
fn only_what_the_filter_means_is_deleted() {
    in_netns(|| {
        for port in 1001..=1004 {
            send((Ipv4Addr::LOCALHOST, port));
            send((Ipv6Addr::LOCALHOST, port));
        }
        let mut conntrack = Conntrack::open().unwrap();
        let here = Some(IpAddr::from(Ipv4Addr::LOCALHOST));
        let to = |port| Filter {
            original_destination: here,
            original_port: Some(port),
            ..UDP
        };
        conntrack.delete(&to(1001)).unwrap();
        conntrack.delete(&to(4444)).unwrap();
        let v4 = Filter {
            family: Some(IpFamily::V4),
            ..UDP
        };
        let v6 = Filter {
            family: Some(IpFamily::V6),
            ..UDP
        };
        assert_eq!(ports(&mut conntrack, &v4), [1002, 1003, 1004].into());
        assert_eq!(ports(&mut conntrack, &v6), [1001, 1002, 1003, 1004].into());
        let endpoint = Filter {
            reply_source: here,
            reply_port: Some(1003),
            ..UDP
        };
        conntrack.delete(&endpoint).unwrap();
        assert_eq!(ports(&mut conntrack, &v4), [1002, 1004].into());
        let stale =
            |port| move |entry: &podwire_kernel::conntrack::Entry| entry.reply.source_port == port;
        assert_eq!(conntrack.delete_where(&v4, stale(1004)).unwrap(), 1);
        assert_eq!(ports(&mut conntrack, &v4), [1002].into());
        assert_eq!(ports(&mut conntrack, &v6), [1001, 1002, 1003, 1004].into());
        conntrack.delete(&v6).unwrap();
        assert_eq!(ports(&mut conntrack, &UDP), [1002].into());
    });
}

#[test]
fn an_entry_is_found_by_its_service_and_by_its_endpoint() {
    in_netns(|| {
        let vip = Ipv4Addr::new(198, 51, 100, 1);
        let mut socket = podwire_kernel::RouteSocket::open().unwrap();
        let lo = socket.index_of("lo").unwrap();
        let route = podwire_kernel::address::Address::new(lo, "198.51.100.1/32".parse().unwrap());
        socket.add_address(&route).unwrap();
        let _service = send((vip, 53));
        let _direct = send((Ipv4Addr::LOCALHOST, 5353));
        let mut conntrack = Conntrack::open().unwrap();
        let service = Filter {
            original_destination: Some(vip.into()),
            original_port: Some(53),
            reply_source: Some(Ipv4Addr::LOCALHOST.into()),
            reply_port: Some(5353),
            ..UDP
        };
        let entries = conntrack.entries(&service).unwrap();
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].original.destination, IpAddr::from(vip));
        assert_eq!(entries[0].reply.source_port, 5353);
        conntrack.delete(&service).unwrap();
        assert_eq!(ports(&mut conntrack, &UDP), [5353].into());
    });
}

#[test]
fn an_address_of_ipv6_means_itself_and_no_other() {
    in_netns(|| {
        let service: Ipv6Addr = "fd00:10:200::53".parse().unwrap();
        let mut socket = podwire_kernel::RouteSocket::open().unwrap();
        let lo = socket.index_of("lo").unwrap();
        let address =
            podwire_kernel::address::Address::new(lo, "fd00:10:200::53/128".parse().unwrap());
        socket.add_address(&address).unwrap();
        let mut conntrack = Conntrack::open().unwrap();
        // What is sent to a new address in its first moments is lost without a trace.
        let limit = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while conntrack.count(&UDP).unwrap() == 0 {
            assert!(std::time::Instant::now() < limit, "nothing arrives");
            send((service, 999));
        }
        conntrack.delete(&UDP).unwrap();
        send((service, 1001));
        send((service, 1002));
        send((Ipv6Addr::LOCALHOST, 1001));
        send((Ipv4Addr::LOCALHOST, 1001));
        let to_service = |port| Filter {
            original_destination: Some(service.into()),
            original_port: Some(port),
            ..UDP
        };
        assert_eq!(ports(&mut conntrack, &to_service(1001)), [1001].into());
        let all = |_: &podwire_kernel::conntrack::Entry| true;
        assert_eq!(conntrack.delete_where(&to_service(1001), all).unwrap(), 1);
        assert_eq!(conntrack.count(&UDP).unwrap(), 3);
        conntrack.delete(&to_service(1002)).unwrap();
        assert_eq!(ports(&mut conntrack, &UDP), [1001].into());
        assert_eq!(conntrack.count(&UDP).unwrap(), 2);
        let from_endpoint = Filter {
            reply_source: Some(Ipv6Addr::LOCALHOST.into()),
            ..UDP
        };
        conntrack.delete(&from_endpoint).unwrap();
        let left = conntrack.entries(&UDP).unwrap();
        assert_eq!(left.len(), 1);
        assert!(left[0].original.destination.is_ipv4());
    });
}

#[test]
fn connections_that_an_address_opened_or_answers_are_forgotten_and_no_others() {
    in_netns(|| {
        let v4 = |last: u8| IpAddr::from([127, 0, 0, last]);
        let flows = [(1, 2, 1001), (2, 3, 1002), (3, 1, 1003), (4, 5, 1004)];
        for (from, to, port) in flows {
            let socket = UdpSocket::bind((v4(from), 0)).unwrap();
            socket.send_to(b"x", (v4(to), port)).unwrap();
        }
        send((Ipv6Addr::LOCALHOST, 1005));
        let mut conntrack = Conntrack::open().unwrap();
        conntrack
            .delete_addresses(&[v4(2)].into(), Some(Protocol::Tcp))
            .unwrap();
        assert_eq!(conntrack.count(&UDP).unwrap(), 5);
        conntrack
            .delete_addresses(&[v4(2)].into(), Some(Protocol::Udp))
            .unwrap();
        assert_eq!(ports(&mut conntrack, &UDP), [1003, 1004, 1005].into());
        conntrack.delete_addresses(&[v4(1)].into(), None).unwrap();
        assert_eq!(ports(&mut conntrack, &UDP), [1004, 1005].into());
        let v6 = Ipv6Addr::LOCALHOST.into();
        conntrack
            .delete_addresses(&[v6].into(), Some(Protocol::Tcp))
            .unwrap();
        assert_eq!(ports(&mut conntrack, &UDP), [1004, 1005].into());
        conntrack.delete_addresses(&[v6].into(), None).unwrap();
        assert_eq!(ports(&mut conntrack, &UDP), [1004].into());
        // More than are looked for one by one.
        let many = (4..20).map(v4).collect();
        conntrack.delete_addresses(&many, None).unwrap();
        assert_eq!(conntrack.count(&UDP).unwrap(), 0);
    });
}

#[test]
fn hundreds_of_entries_are_deleted_one_by_one_where_the_kernel_cannot_filter() {
    in_netns(|| {
        // One socket at a time: a process may have no more than 1024 files.
        for port in 20_000..21_200 {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
            socket.send_to(b"x", (Ipv4Addr::LOCALHOST, 1001)).unwrap();
        }
        send((Ipv4Addr::LOCALHOST, 1002));
        let mut conntrack = Conntrack::open().unwrap();
        // Ports without a protocol are beyond the kernel's filter.
        let filter = Filter {
            original_port: Some(1001),
            ..Filter::default()
        };
        assert_eq!(conntrack.count(&filter).unwrap(), 1200);
        conntrack.delete(&filter).unwrap();
        assert_eq!(ports(&mut conntrack, &UDP), [1002].into());
        assert_eq!(conntrack.writes(), 1200);
    });
}

#[cfg(feature = "monitor")]
mod announced {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use podwire_kernel::conntrack::events::{Connection, Event, RECEIVE_BUFFER, Reader};

    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    }

    async fn next(reader: &mut Reader) -> Vec<Event> {
        let mut events = Vec::new();
        tokio::time::timeout(Duration::from_secs(10), reader.read(&mut events, 100))
            .await
            .expect("something is announced")
            .unwrap();
        events
    }

    /// The first event that is one of this kind.
    async fn wait_for(
        reader: &mut Reader,
        wanted: impl Fn(&Event) -> Option<Connection>,
    ) -> Connection {
        loop {
            if let Some(found) = next(reader).await.iter().find_map(&wanted) {
                return found;
            }
        }
    }

    #[test]
    fn a_connection_that_begins_and_ends_is_announced_with_what_passed() {
        in_netns(|| {
            std::fs::write("/proc/sys/net/netfilter/nf_conntrack_acct", "1").unwrap();
            std::fs::write("/proc/sys/net/netfilter/nf_conntrack_timestamp", "1").unwrap();
            runtime().block_on(async {
                let mut reader = Reader::open(RECEIVE_BUFFER).unwrap();
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                let to = listener.local_addr().unwrap();
                let mut client = TcpStream::connect(to).unwrap();
                let (mut server, from) = listener.accept().unwrap();
                client.write_all(b"twelve bytes").unwrap();
                server.read_exact(&mut [0; 12]).unwrap();
                let began = wait_for(&mut reader, |event| match event {
                    Event::Began(one) => Some(*one),
                    _ => None,
                });
                let began = began.await;
                assert_eq!(began.original.source_port, from.port());
                assert_eq!(began.original.destination_port, to.port());
                drop((client, server));
                Conntrack::open()
                    .unwrap()
                    .delete(&Filter::of_protocol(Protocol::Tcp))
                    .unwrap();
                let ended = wait_for(&mut reader, |event| match event {
                    Event::Ended(one) => Some(*one),
                    _ => None,
                });
                let ended = ended.await;
                assert_eq!(ended.original, began.original);
                let [sent, received] = ended.counts.expect("they are counted");
                assert!(sent.packets >= 3 && sent.bytes >= 3 * 40 + 12, "{sent:?}");
                assert!(received.packets >= 2, "{received:?}");
                assert!(ended.lasted.is_some() && ended.began.is_some());
            });
        });
    }

    #[test]
    fn what_is_not_read_in_time_is_lost_and_that_is_said() {
        in_netns(|| {
            runtime().block_on(async {
                let mut reader = Reader::open(1).unwrap();
                for port in 0..500 {
                    send(([127, 0, 0, 1], 10_000 + port));
                }
                let mut all = Vec::new();
                while !all.contains(&Event::Lost) {
                    all.extend(next(&mut reader).await);
                }
                let began = |event: &&Event| matches!(event, Event::Began(_));
                let began = all.iter().filter(began).count();
                assert!(began > 0 && began < 500, "{began} of 500");
            });
        });
    }
}
