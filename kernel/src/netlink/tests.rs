//! The framing: what is written can be read, and nothing that is read makes the reader panic.

use proptest::prelude::*;

use super::batch::HEADER;
use super::*;
use crate::Cause;

proptest! {
    #[test]
    fn messages_come_back_from_a_batch(
        bodies in proptest::collection::vec(
            (any::<u16>(), any::<u16>(), proptest::collection::vec(any::<u8>(), 0..40)),
            0..8,
        ),
        first in any::<u32>(),
    ) {
        let mut batch = Batch::new();
        for (kind, flags, body) in &bodies {
            batch.push(*kind, *flags, |bytes| bytes.extend_from_slice(body));
        }
        batch.number(first);
        prop_assert_eq!(batch.len(), bodies.len());
        prop_assert_eq!(batch.byte_len() % 4, 0);
        let found: Vec<_> = messages(batch.bytes()).collect::<Result<_, _>>().unwrap();
        prop_assert_eq!(found.len(), bodies.len());
        for (index, (message, (kind, flags, body))) in found.iter().zip(&bodies).enumerate() {
            prop_assert_eq!(message.kind, *kind);
            prop_assert_eq!(message.flags, *flags | libc::NLM_F_REQUEST as u16);
            prop_assert_eq!(message.sequence, first.wrapping_add(index as u32));
            prop_assert_eq!(message.payload, &body[..]);
        }
    }

    #[test]
    fn attributes_come_back_as_they_were_written(
        values in proptest::collection::vec(
            (0..0x4000u16, proptest::collection::vec(any::<u8>(), 0..40)),
            0..8,
        ),
    ) {
        let mut body = Vec::new();
        nest(&mut body, 9, |body| {
            for (kind, value) in &values {
                attribute(body, *kind, value);
            }
        });
        let outer: Vec<_> = attributes(&body).collect();
        prop_assert_eq!(outer.len(), 1);
        prop_assert_eq!(outer[0].0, 9);
        let inner: Vec<_> =
            attributes(outer[0].1).map(|(kind, value)| (kind, value.to_vec())).collect();
        prop_assert_eq!(inner, values);
    }

    #[test]
    fn no_datagram_makes_the_reader_panic_or_run_for_ever(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let found = messages(&bytes).inspect(|message| {
            if let Ok(message) = message {
                let _ = message.refusal(0);
                attributes(message.payload).for_each(drop);
            }
        });
        prop_assert!(found.count() <= bytes.len() / HEADER + 1);
    }
}

/// An acknowledgement as the kernel sends it, with `NETLINK_CAP_ACK` or without.
fn answer(code: i32, capped: bool, words: Option<&str>) -> Vec<u8> {
    let request = [24u32.to_ne_bytes(), [0; 4], 7u32.to_ne_bytes(), [0; 4]].concat();
    let mut flags = 0;
    let mut body = code.to_ne_bytes().to_vec();
    body.extend_from_slice(&request);
    if capped {
        flags |= 0x100;
    } else {
        body.extend_from_slice(&[0xff; 8]);
    }
    if let Some(words) = words {
        flags |= 0x200;
        attribute(&mut body, 2, &20u32.to_ne_bytes());
        attribute(&mut body, 1, format!("{words}\0").as_bytes());
    }
    let mut bytes = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
    bytes.extend_from_slice(&(libc::NLMSG_ERROR as u16).to_ne_bytes());
    bytes.extend_from_slice(&(flags as u16).to_ne_bytes());
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend_from_slice(&body);
    bytes
}

fn refusal(bytes: &[u8]) -> Option<Refusal> {
    messages(bytes).next().unwrap().unwrap().refusal(3).unwrap()
}

#[test]
fn the_words_of_the_kernel_are_found_behind_a_full_or_a_shortened_request() {
    for capped in [true, false] {
        assert_eq!(refusal(&answer(0, capped, None)), None);
        let silent = Refusal {
            index: 3,
            errno: libc::EPERM,
            explanation: None,
            offset: None,
        };
        assert_eq!(refusal(&answer(-libc::EPERM, capped, None)), Some(silent));
        let told = Refusal {
            index: 3,
            errno: libc::EINVAL,
            explanation: Some("Invalid prefix".into()),
            offset: Some(20),
        };
        assert_eq!(
            refusal(&answer(-libc::EINVAL, capped, Some("Invalid prefix"))),
            Some(told)
        );
    }
}

#[test]
fn any_number_can_stand_in_the_place_of_an_error() {
    let found = refusal(&answer(i32::MIN, true, None)).unwrap();
    assert_eq!(found.errno, i32::MAX);
}

#[test]
fn a_message_that_is_cut_off_is_an_error() {
    let whole = answer(0, true, None);
    let cut = messages(&whole[..whole.len() - 4]).next().unwrap();
    assert!(matches!(cut, Err(Cause::Malformed(_))));
}

#[test]
fn a_refused_request_is_told_and_the_socket_goes_on() {
    let mut socket = Socket::open(Protocol::Route).unwrap();
    let unknown = socket.query(
        libc::RTM_GETLINK,
        |body| body.extend_from_slice(&[0; 2]),
        |_| Ok(()),
    );
    assert_eq!(unknown.unwrap_err().errno(), Some(libc::EINVAL));
    let links = socket.dump(
        libc::RTM_GETLINK,
        |body| body.extend_from_slice(&[0; 16]),
        |_| Ok(Some(())),
    );
    assert!(!links.unwrap().is_empty());
    assert_eq!(socket.writes(), 0);
}

#[test]
fn a_dump_that_is_not_understood_does_not_block_the_next() {
    let mut socket = Socket::open(Protocol::Route).unwrap();
    let header = |body: &mut Vec<u8>| body.extend_from_slice(&[0; 16]);
    let failed: Result<Vec<()>, _> = socket.dump(libc::RTM_GETLINK, header, |_| {
        Err(Cause::Malformed("on purpose".into()))
    });
    assert_eq!(failed.unwrap_err(), Cause::Malformed("on purpose".into()));
    assert!(
        !socket
            .dump(libc::RTM_GETLINK, header, |_| Ok(Some(())))
            .unwrap()
            .is_empty()
    );
}

#[test]
fn every_socket_has_a_port_of_its_own_and_the_buffers_grow() {
    let mut one = Socket::open(Protocol::Netfilter).unwrap();
    let mut other = Socket::open(Protocol::Netfilter).unwrap();
    assert_ne!(one.port().unwrap(), 0);
    assert_ne!(one.port().unwrap(), other.port().unwrap());
    assert_eq!(one.port().unwrap(), one.port().unwrap());
    one.set_buffers(4 << 20).unwrap();
    use nix::sys::socket::{getsockopt, sockopt};
    assert_eq!(getsockopt(&one, sockopt::SndBuf).unwrap(), 8 << 20);
    assert_eq!(getsockopt(&one, sockopt::RcvBuf).unwrap(), 8 << 20);
}
