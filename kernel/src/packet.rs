//! The way between the values of this crate and the messages of `netlink-packet-route`.
//!
//! That crate says what rtnetlink messages consist of, and writes them. What it cannot do is here,
//! or an attribute `Other` beside the message that needs it:
//!
//! - It reads a message as a whole or not at all: one attribute that a newer kernel made longer, or
//!   gave a new meaning, would cost a list of links or a notification. Here each attribute is read
//!   by itself, and one that is not understood is left out ([`attributes`]).
//! - It reads the kind of a link together with the details of that kind, so that details which are
//!   not understood cost the kind ([`link_kind`]).
//! - It has no message about forwarding (`RTM_NEWNETCONF`, see `monitor`), no token bucket (`tc`),
//!   and cannot set an IPv4 parameter of a link to 0 (`link`).

use netlink_packet_core::{DecodeError, DefaultNla, Emitable, Nla, NlaBuffer, NlasIterator};

use crate::Cause;
use crate::netlink::text;

/// Marks an attribute that consists of attributes (`NLA_F_NESTED`, linux/netlink.h).
const NESTED: u16 = libc::NLA_F_NESTED as u16;

/// `IFLA_INFO_KIND` (linux/if_link.h).
const INFO_KIND: u16 = 1;

/// Appends a message or a part of one.
pub(crate) fn put(body: &mut Vec<u8>, message: &impl Emitable) {
    let start = body.len();
    body.resize(start + message.buffer_len(), 0);
    message.emit(&mut body[start..]);
}

/// The attributes in `bytes` that `read` understands; stops where the framing is broken.
pub(crate) fn attributes<'a, A>(
    bytes: &'a [u8],
    read: impl Fn(&NlaBuffer<&'a [u8]>) -> Result<A, DecodeError>,
) -> impl Iterator<Item = A> {
    NlasIterator::new(bytes)
        .map_while(Result::ok)
        .filter_map(move |attribute| read(&attribute).ok())
}

/// The kind in an attribute `IFLA_LINKINFO`.
pub(crate) fn link_kind(info: &[u8]) -> Option<String> {
    NlasIterator::new(info)
        .map_while(Result::ok)
        .find(|attribute| attribute.kind() == INFO_KIND)
        .map(|attribute| text(attribute.value()))
}

/// What stands behind a header of `length` bytes.
pub(crate) fn behind_header(payload: &[u8], length: usize) -> &[u8] {
    payload.get(length..).unwrap_or_default()
}

/// An attribute that consists of attributes, of a type that the crate does not know.
pub(crate) fn nested(kind: u16, attributes: &[impl Nla]) -> DefaultNla {
    let mut value = Vec::new();
    for attribute in attributes {
        put(&mut value, attribute);
    }
    DefaultNla::new(kind | NESTED, value)
}

/// An attribute that holds a number, of a type that the crate does not know.
pub(crate) fn number(kind: u16, value: u32) -> DefaultNla {
    DefaultNla::new(kind, value.to_ne_bytes().to_vec())
}

/// A message that is too short for its header.
pub(crate) fn malformed(error: DecodeError) -> Cause {
    Cause::Malformed(error.to_string())
}
