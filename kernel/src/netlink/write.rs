//! Writing the body of a message: attributes, one after the other.
//!
//! An attribute is its length, its type and its value, padded to four bytes (linux/netlink.h). A
//! value may be a list of attributes again. Numbers are in the byte order of the machine, addresses
//! in that of the network.

/// Appends an attribute with the type `kind` and the value `value`.
pub fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    // Values are limited to 64 KiB by the format; ours are known to be small.
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    body.extend_from_slice(&length.to_ne_bytes());
    body.extend_from_slice(&kind.to_ne_bytes());
    body.extend_from_slice(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// Appends an attribute of the type `kind` that contains the attributes which `inner` appends.
pub fn nest(body: &mut Vec<u8>, kind: u16, inner: impl FnOnce(&mut Vec<u8>)) {
    let start = body.len();
    attribute(body, kind | libc::NLA_F_NESTED as u16, &[]);
    inner(body);
    let length = u16::try_from(body.len() - start).unwrap_or(u16::MAX);
    body[start..start + 2].copy_from_slice(&length.to_ne_bytes());
}

/// Appends a number.
pub fn number(body: &mut Vec<u8>, kind: u16, value: u32) {
    attribute(body, kind, &value.to_ne_bytes());
}
