//! What is asked for, read by another implementation; and whatever the kernel may answer.

use netlink_packet_core::Parseable;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute,
    LinkFlags, LinkInfo, LinkMessage,
};
use proptest::prelude::*;

use super::*;

fn read(body: &[u8]) -> LinkMessage {
    LinkMessage::parse(body).unwrap()
}

#[test]
fn a_pair_is_asked_for_with_both_ends_and_their_names_addresses_and_mtu() {
    let veth = Veth {
        name: "near",
        peer_name: "far",
        peer_netns: None,
        mac: Mac([2, 0, 0, 0, 0, 1]),
        peer_mac: Mac([2, 0, 0, 0, 0, 2]),
        mtu: Some(1400),
        group: 112,
        up: true,
        index: Some(7),
        peer_index: Some(8),
    };
    let mut body = Vec::new();
    veth.put(&mut body);
    let message = read(&body);
    assert_eq!(
        (message.header.index, message.header.flags),
        (7, LinkFlags::Up)
    );
    let end = |name: &str, mac: Mac| {
        vec![
            LinkAttribute::IfName(name.into()),
            LinkAttribute::Address(mac.0.to_vec()),
            LinkAttribute::Mtu(1400),
        ]
    };
    let mut peer = LinkMessage::default();
    peer.header.index = 8;
    peer.attributes = end("far", veth.peer_mac);
    let mut wanted = end("near", veth.mac);
    wanted.push(LinkAttribute::Group(112));
    wanted.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
    ]));
    assert_eq!(message.attributes, wanted);
}

#[test]
fn a_change_says_only_what_changes() {
    let mut body = Vec::new();
    LinkChange::of(5).put(&mut body);
    let nothing = read(&body);
    assert_eq!(nothing.header.index, 5);
    assert_eq!(nothing.header.change_mask, LinkFlags::empty());
    assert_eq!(nothing.attributes, []);

    body.clear();
    let change = LinkChange {
        up: Some(false),
        name: Some("x"),
        alias: Some("y"),
        mtu: Some(9000),
        master: Some(0),
        ipv6_address_mode: Some(Ipv6AddressMode::None),
        ..LinkChange::of(5)
    };
    change.put(&mut body);
    let message = read(&body);
    assert_eq!(message.header.change_mask, LinkFlags::Up);
    assert_eq!(message.header.flags, LinkFlags::empty());
    let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
    let wanted = [
        LinkAttribute::IfName("x".into()),
        LinkAttribute::IfAlias("y".into()),
        LinkAttribute::Mtu(9000),
        LinkAttribute::Controller(0),
        LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![mode])]),
    ];
    assert_eq!(message.attributes, wanted);
}

#[test]
fn a_mac_is_local_and_unicast_and_gives_its_link_local_address() {
    for _ in 0..100 {
        let mac = Mac::random().unwrap();
        assert_eq!(mac.0[0] & 3, 2, "{mac}");
    }
    let mac = Mac([0x02, 0x42, 0xac, 0x11, 0x00, 0x02]);
    assert_eq!(mac.to_string(), "02:42:ac:11:00:02");
    assert_eq!(mac.link_local().to_string(), "fe80::42:acff:fe11:2");
}

proptest! {
    #[test]
    fn no_answer_makes_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Link::parse(&bytes);
    }
}

/// An answer about a link, as the kernel of another day may write it: `extra` comes before what is
/// known.
fn answer(extra: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut body = vec![0; 16];
    body[4] = 7;
    for (kind, value) in extra {
        crate::netlink::attribute(&mut body, *kind, value);
    }
    crate::netlink::attribute(&mut body, libc::IFLA_IFNAME, b"eth0\0");
    crate::netlink::attribute(&mut body, libc::IFLA_MTU, &1500u32.to_ne_bytes());
    crate::netlink::nest(&mut body, libc::IFLA_LINKINFO, |body| {
        crate::netlink::attribute(body, 1, b"veth\0");
        // Details of the kind that are of no use to anyone.
        crate::netlink::attribute(body, 2, &[1, 2, 3]);
    });
    body
}

fn is_whole(extra: &[(u16, Vec<u8>)]) {
    let link = Link::parse(&answer(extra)).unwrap();
    let read = (
        link.index,
        link.name.as_str(),
        link.mtu,
        link.kind.as_deref(),
    );
    assert_eq!(read, (7, "eth0", 1500, Some("veth")), "{extra:?}");
}

#[test]
fn an_attribute_of_another_size_costs_itself_and_not_the_link() {
    let sizes = [0, 1, 3, 5, 64];
    for kind in (0..80).filter(|kind| ![libc::IFLA_IFNAME, libc::IFLA_MTU].contains(kind)) {
        for size in sizes {
            is_whole(&[(kind, vec![0xff; size])]);
        }
    }
    let link = Link::parse(&answer(&[(libc::IFLA_GROUP, vec![1, 2])])).unwrap();
    assert_eq!(link.group, 0);
}

proptest! {
    #[test]
    fn attributes_of_a_newer_kernel_cost_nothing(
        extra in proptest::collection::vec(
            (80..0x3fffu16, proptest::collection::vec(any::<u8>(), 0..40)),
            0..6,
        ),
    ) {
        is_whole(&extra);
    }
}
