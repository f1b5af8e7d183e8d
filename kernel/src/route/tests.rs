//! Routes survive the way into a message and back.

use std::net::{Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{Emitable, Parseable};
use netlink_packet_route::route::RouteMessage;
use proptest::prelude::*;

use super::*;

fn v4() -> impl Strategy<Value = IpAddr> {
    any::<u32>().prop_map(|bits| Ipv4Addr::from_bits(bits).into())
}

fn v6() -> impl Strategy<Value = IpAddr> {
    any::<u128>().prop_map(|bits| Ipv6Addr::from_bits(bits).into())
}

/// Any route that the kernel could hold, of the family of `address`.
fn route<S>(address: fn() -> S, longest: u8) -> impl Strategy<Value = Route>
where
    S: Strategy<Value = IpAddr> + 'static,
{
    let numbers = (
        any::<u8>(),
        any::<u8>(),
        any::<u8>(),
        1..u32::MAX,
        any::<u32>(),
    );
    let addresses = (
        (address(), 0..=longest),
        proptest::option::of(address()),
        proptest::option::of(address()),
    );
    let options = proptest::array::uniform3(proptest::option::of(any::<u32>()));
    (numbers, addresses, options, any::<bool>()).prop_map(
        |(numbers, (destination, gateway, source), [link, mtu, advmss], onlink)| {
            let (kind, scope, protocol, table, metric) = numbers;
            let (ip, prefix) = destination;
            let destination = IpNetwork::new(ip, prefix).expect("the prefix fits the family");
            let kind = RouteKind::from(kind);
            let link = link.filter(|_| !kind.leads_nowhere());
            Route {
                kind,
                scope: scope.into(),
                protocol,
                table,
                metric,
                gateway,
                source,
                link,
                mtu,
                advmss,
                onlink,
                ..Route::to(destination)
            }
        },
    )
}

proptest! {
    #[test]
    fn a_route_comes_back_from_its_message(route in prop_oneof![route(v4, 32), route(v6, 128)]) {
        let mut bytes = Vec::new();
        route.put(&mut bytes);
        prop_assert_eq!(Route::parse(&bytes).unwrap(), Some(route));
    }

    #[test]
    fn another_implementation_reads_the_same_route(
        route in prop_oneof![route(v4, 32), route(v6, 128)],
    ) {
        let mut bytes = Vec::new();
        route.put(&mut bytes);
        let message = RouteMessage::parse(&bytes[..]).unwrap();
        prop_assert_eq!(message.header.destination_prefix_length, route.destination.prefix());
        prop_assert_eq!(u8::from(message.header.protocol), route.protocol);
        let mut theirs = vec![0; message.buffer_len()];
        message.emit(&mut theirs);
        prop_assert_eq!(Route::parse(&theirs).unwrap(), Some(route));
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Route::parse(&bytes);
    }

    #[test]
    fn a_broken_message_does_not_make_the_reader_panic(
        route in route(v6, 128),
        at in any::<prop::sample::Index>(),
        value in any::<u8>(),
        length in any::<prop::sample::Index>(),
    ) {
        let mut bytes = Vec::new();
        route.put(&mut bytes);
        let at = at.index(bytes.len());
        bytes[at] = value;
        bytes.truncate(length.index(bytes.len() + 1));
        let _ = Route::parse(&bytes);
    }
}

#[test]
fn host_bits_of_a_destination_are_cleared() {
    let route = Route::to("10.1.2.3/16".parse().unwrap());
    assert_eq!(route.destination, "10.1.0.0/16".parse().unwrap());
}

#[test]
fn a_route_reads_like_the_output_of_ip() {
    let route = Route {
        gateway: Some("10.0.0.2".parse().unwrap()),
        link: Some(3),
        table: 7,
        ..Route::to("10.1.0.0/24".parse().unwrap())
    };
    assert_eq!(
        route.to_string(),
        "10.1.0.0/24 via 10.0.0.2 on link 3 in table 7"
    );
    let unreachable = Route {
        kind: RouteKind::Unreachable,
        ..Route::to("fd00::/64".parse().unwrap())
    };
    assert_eq!(unreachable.to_string(), "unreachable fd00::/64");
}

#[test]
fn an_attribute_of_another_size_costs_itself_and_not_the_route() {
    let route = Route {
        link: Some(3),
        ..Route::to("10.1.0.0/24".parse().unwrap())
    };
    let mut whole = Vec::new();
    route.put(&mut whole);
    let known = [libc::RTA_DST, libc::RTA_OIF, libc::RTA_MULTIPATH];
    for kind in (0..64).filter(|kind| !known.contains(kind)) {
        for size in [0, 1, 3, 5, 64] {
            let mut bytes = whole[..12].to_vec();
            crate::netlink::attribute(&mut bytes, kind, &vec![0xff; size]);
            bytes.extend_from_slice(&whole[12..]);
            let read = Route::parse(&bytes).unwrap().unwrap();
            let told = (read.destination, read.link, read.multipath);
            assert_eq!(told, (route.destination, Some(3), false), "{kind}, {size}");
        }
    }
}

#[test]
fn next_hops_that_are_not_understood_still_make_a_route_one_with_several() {
    let mut bytes = Vec::new();
    Route::to("10.1.0.0/24".parse().unwrap()).put(&mut bytes);
    crate::netlink::attribute(&mut bytes, libc::RTA_MULTIPATH, &[0xff; 9]);
    let read = Route::parse(&bytes).unwrap().unwrap();
    assert!(read.multipath && read.gateway.is_none());
}
