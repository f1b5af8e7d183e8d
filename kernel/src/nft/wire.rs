//! Netlink attributes: writing them at the end of a buffer, and reading them from one.

use crate::Cause;

/// `NLA_F_NESTED` (linux/netlink.h).
const NESTED: u16 = 0x8000;
/// Both flags of an attribute type.
const TYPE_MASK: u16 = 0x3fff;

/// Attributes start at multiples of four bytes.
pub(crate) const fn align(length: usize) -> usize {
    (length + 3) & !3
}

/// Appends one attribute with its padding.
///
/// A value that does not fit into the 16-bit length is cut: callers keep lists below that, and the
/// kernel refuses names that long anyway.
pub(crate) fn put(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let value = &value[..value.len().min(usize::from(u16::MAX) - 4)];
    out.extend_from_slice(&((value.len() + 4) as u16).to_ne_bytes());
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(value);
    out.resize(align(out.len()), 0);
}

/// A string attribute, with the terminating zero that the kernel wants.
pub(crate) fn put_str(out: &mut Vec<u8>, kind: u16, value: &str) {
    let value = &value.as_bytes()[..value.len().min(usize::from(u16::MAX) - 5)];
    out.extend_from_slice(&((value.len() + 5) as u16).to_ne_bytes());
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(value);
    out.push(0);
    out.resize(align(out.len()), 0);
}

/// A number in network byte order, as nf_tables wants all of them.
pub(crate) fn put_u32(out: &mut Vec<u8>, kind: u16, value: u32) {
    put(out, kind, &value.to_be_bytes());
}

/// As [`put_u32`], eight bytes.
pub(crate) fn put_u64(out: &mut Vec<u8>, kind: u16, value: u64) {
    put(out, kind, &value.to_be_bytes());
}

/// A nested attribute whose content `content` appends.
pub(crate) fn nest(out: &mut Vec<u8>, kind: u16, content: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    content(out);
    let length = (out.len() - start).min(usize::from(u16::MAX)) as u16;
    out[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    out[start + 2..start + 4].copy_from_slice(&(kind | NESTED).to_ne_bytes());
}

/// The attributes in `bytes` as (type, value). Ends at the first one that does not fit.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let header = bytes.first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & TYPE_MASK;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(align(length)..).unwrap_or(&[]);
        Some((kind, value))
    })
}

/// The first attribute of type `kind`.
pub(crate) fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes)
        .find(|(found, _)| *found == kind)
        .map(|(_, value)| value)
}

/// A number in network byte order.
pub(crate) fn u32_of(value: &[u8]) -> Result<u32, Cause> {
    value
        .first_chunk()
        .map(|bytes| u32::from_be_bytes(*bytes))
        .ok_or_else(short)
}

/// As [`u32_of`], two bytes.
pub(crate) fn u16_of(value: &[u8]) -> Result<u16, Cause> {
    value
        .first_chunk()
        .map(|bytes| u16::from_be_bytes(*bytes))
        .ok_or_else(short)
}

/// As [`u32_of`], eight bytes.
pub(crate) fn u64_of(value: &[u8]) -> Result<u64, Cause> {
    value
        .first_chunk()
        .map(|bytes| u64::from_be_bytes(*bytes))
        .ok_or_else(short)
}

/// A string up to its terminating zero; bytes that are not UTF-8 are replaced.
pub(crate) fn str_of(value: &[u8]) -> String {
    let end = value
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

/// What is said of an attribute that ends too early.
pub(crate) fn short() -> Cause {
    Cause::Malformed("an attribute is too short".into())
}

/// What is said of an attribute that is not there.
pub(crate) fn missing(what: &str) -> Cause {
    Cause::Malformed(format!("{what} is missing"))
}

/// The entries of user data: (type, value), both lengths one byte (libnftnl, udata.c).
pub(crate) fn udata(mut bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let [kind, length] = *bytes.first_chunk::<2>()?;
        let end = 2 + usize::from(length);
        let value = bytes.get(2..end)?;
        bytes = &bytes[end..];
        Some((kind, value))
    })
}

/// Appends an entry of user data; a value of more than 255 bytes is cut.
pub(crate) fn put_udata(out: &mut Vec<u8>, kind: u8, value: &[u8]) {
    let value = &value[..value.len().min(255)];
    out.push(kind);
    out.push(value.len() as u8);
    out.extend_from_slice(value);
}

/// A number in user data is in host byte order.
pub(crate) fn put_udata_u32(out: &mut Vec<u8>, kind: u8, value: u32) {
    put_udata(out, kind, &value.to_ne_bytes());
}
