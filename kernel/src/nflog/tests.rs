use proptest::prelude::*;

use super::*;
use crate::netns::unshare_thread;
use crate::nft::{Chain, ChainType, Family, Hook, NftSocket, Rule, Table, diff, priority};

fn v4(protocol: u8, fragment: u16, behind: &[u8]) -> Vec<u8> {
    let [high, low] = fragment.to_be_bytes();
    let head = [0x45, 0, 0, 0, 0, 0, high, low, 64, protocol, 0, 0];
    [&head[..], &[10, 0, 0, 1, 10, 0, 0, 2], behind].concat()
}

fn v6(next: u8, behind: &[u8]) -> Vec<u8> {
    let mut head = vec![0x60, 0, 0, 0, 0, 0, next, 64];
    head.extend(Ipv6Addr::LOCALHOST.octets());
    head.extend("fd00::2".parse::<Ipv6Addr>().unwrap().octets());
    [head, behind.to_vec()].concat()
}

#[test]
fn protocol_and_ports_are_found_behind_whatever_headers_there_are() {
    let ports = [0x30, 0x39, 0, 80, 9, 9];
    let read = |bytes: &[u8]| Packet::read(bytes).map(|packet| (packet.protocol, packet.ports));
    assert_eq!(read(&v4(6, 0, &ports)), Some((6, Some((12345, 80)))));
    assert_eq!(read(&v4(1, 0, &ports)), Some((1, None)));
    // A later fragment has no ports; nor has one that is cut off.
    assert_eq!(read(&v4(17, 5, &ports)), Some((17, None)));
    assert_eq!(read(&v4(17, 0, &ports[..3])), Some((17, None)));
    assert_eq!(read(&v6(17, &ports)), Some((17, Some((12345, 80)))));
    let extended = [
        &[44, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 1, 0, 0, 0, 0],
        &ports[..],
    ]
    .concat();
    assert_eq!(read(&v6(0, &extended)), Some((6, Some((12345, 80)))));
    assert_eq!(
        read(&v6(44, &[6, 0, 0, 8, 0, 0, 0, 0, 1, 2, 3, 4])),
        Some((6, None))
    );
    assert_eq!(read(&v6(60, &[6, 200, 0, 0])), Some((6, None)));
    assert_eq!(read(&[0x45; 19]), None);
    assert_eq!(read(&[]), None);
}

proptest! {
    #[test]
    fn whatever_comes_is_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Packet::read(&bytes);
        let _ = read(&bytes, &mut 0);
        for version in [0x45, 0x60] {
            let mut bytes = bytes.clone();
            if let Some(first) = bytes.first_mut() {
                *first = version;
            }
            let _ = Packet::read(&bytes);
        }
    }
}

fn message(number: u32) -> Vec<u8> {
    let mut batch = Batch::new();
    batch.push(NFULNL_MSG_PACKET, 0, |out| {
        head(out, 0);
        put_u32(out, NFULA_SEQ, number);
        put_u32(out, NFULA_IFINDEX_INDEV, 7);
        put(out, NFULA_PREFIX, b"in\0");
        put(out, NFULA_PAYLOAD, &v4(1, 0, &[]));
    });
    batch.bytes().to_vec()
}

#[test]
fn numbers_that_are_left_out_are_counted_as_lost() {
    let mut next = 0;
    let lost = |logged: Vec<Logged>| match &logged[..] {
        [Logged::Record(record)] if record.link == Some(7) => 0,
        [Logged::Lost(lost), Logged::Record(_)] => *lost,
        other => panic!("{other:?}"),
    };
    assert_eq!(lost(read(&message(0), &mut next)), 0);
    assert_eq!(lost(read(&message(3), &mut next)), 2);
    assert_eq!(lost(read(&message(4), &mut next)), 0);
    // The group began again.
    assert_eq!(lost(read(&message(0), &mut next)), 0);
}

#[test]
fn a_packet_that_a_rule_logs_is_read_at_once() {
    unshare_thread().expect("needs root: it makes a network namespace");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut links = crate::RouteSocket::open().unwrap();
        let lo = links.links().unwrap().remove(0);
        links.set_up(lo.index).unwrap();
        let rule = Rule::new()
            .l4proto(17)
            .log_to("podwire test", 112, 128)
            .drop();
        let chain = Chain::base(ChainType::Filter, Hook::Output, priority::FILTER).with_rule(rule);
        let table = Table::new(Family::Inet, "logging").with_chain("out", chain);
        NftSocket::open()
            .unwrap()
            .commit(&mut diff(None, &table))
            .unwrap();
        let mut reader = Reader::open(112).unwrap();
        let error = probe(112).unwrap_err().to_string();
        assert!(error.contains("log group 112"), "{error}");
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        // A packet that is dropped in the output hook is an error for who sends it.
        let _ = socket.send_to(b"hello", "127.0.0.1:53");
        let logged = tokio::time::timeout(Duration::from_secs(5), reader.next());
        let Logged::Record(record) = logged.await.unwrap().unwrap() else {
            panic!("something was lost");
        };
        assert_eq!(record.prefix, "podwire test");
        assert_eq!(record.packet.destination, IpAddr::from([127, 0, 0, 1]));
        assert_eq!(record.packet.ports.unwrap().1, 53);
        assert_eq!(record.link, None, "this machine sent it");
        drop(reader);
        probe(112).unwrap();
    });
}
