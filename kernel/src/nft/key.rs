//! Keys and data of sets and maps, as bytes.

use std::borrow::Borrow;
use std::fmt;
use std::net::IpAddr;
use std::ops::Deref;

use ipnetwork::IpNetwork;

use super::wire::align;
use crate::{IpFamily, Protocol};

/// A key, or the data, of an element: its fields one after the other, each padded with zeros to a
/// multiple of four bytes, as the kernel's registers hold them.
///
/// Written with [`KeyBuf`]. Ordered by its bytes, which for addresses and ports is their order.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Box<[u8]>);

impl Key {
    /// A key of these bytes; zeros are added up to a multiple of four.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut padded = Vec::with_capacity(align(bytes.len()));
        padded.extend_from_slice(bytes);
        padded.resize(align(bytes.len()), 0);
        Self(padded.into_boxed_slice())
    }

    /// The addresses of a network as the first and the last key of an element in a set of
    /// intervals; no last one for a single address, which is how the kernel shows it.
    pub fn interval(network: IpNetwork) -> (Self, Option<Self>) {
        let first = KeyBuf::new().address(network.network()).finish();
        let last = KeyBuf::new().address(network.broadcast()).finish();
        let last = (first != last).then_some(last);
        (first, last)
    }
}

impl Deref for Key {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Key {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl From<KeyBuf> for Key {
    fn from(buffer: KeyBuf) -> Self {
        Self(buffer.0.into_boxed_slice())
    }
}

impl From<&KeyBuf> for Key {
    fn from(buffer: &KeyBuf) -> Self {
        Self(buffer.0.as_slice().into())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

/// Writes a [`Key`] field by field. Keep one and [`KeyBuf::clear`] it to write many.
///
/// The fields must be those that the set was declared with, in that order.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct KeyBuf(Vec<u8>);

impl KeyBuf {
    /// An empty key.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Removes all fields and keeps the memory.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Appends raw bytes, padded with zeros.
    pub fn push(&mut self, field: &[u8]) -> &mut Self {
        self.0.extend_from_slice(field);
        self.0.resize(align(self.0.len()), 0);
        self
    }

    /// Appends an address: 4 or 16 bytes.
    pub fn push_address(&mut self, address: IpAddr) -> &mut Self {
        match address {
            IpAddr::V4(address) => self.push(&address.octets()),
            IpAddr::V6(address) => self.push(&address.octets()),
        }
    }

    /// Appends a protocol number (6 TCP, 17 UDP, 132 SCTP), or any other number of one byte.
    pub fn push_protocol(&mut self, protocol: u8) -> &mut Self {
        self.push(&[protocol])
    }

    /// Appends a port, in network byte order.
    pub fn push_port(&mut self, port: u16) -> &mut Self {
        self.push(&port.to_be_bytes())
    }

    /// Appends a number in host byte order: a mark, priority, link group, link index, or the
    /// outcome of numgen or jhash.
    pub fn push_number(&mut self, number: u32) -> &mut Self {
        self.push(&number.to_ne_bytes())
    }

    /// Appends the name of a link: 16 bytes. A longer name is cut.
    pub fn push_link_name(&mut self, name: &str) -> &mut Self {
        let mut bytes = [0; 16];
        let length = name.len().min(15);
        bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
        self.push(&bytes)
    }

    /// With an address; see [`KeyBuf::push_address`].
    pub fn address(mut self, address: impl Into<IpAddr>) -> Self {
        self.push_address(address.into());
        self
    }

    /// With a protocol; see [`KeyBuf::push_protocol`].
    pub fn protocol(mut self, protocol: u8) -> Self {
        self.push_protocol(protocol);
        self
    }

    /// With a port; see [`KeyBuf::push_port`].
    pub fn port(mut self, port: u16) -> Self {
        self.push_port(port);
        self
    }

    /// With a number in host byte order; see [`KeyBuf::push_number`].
    pub fn number(mut self, number: u32) -> Self {
        self.push_number(number);
        self
    }

    /// With the name of a link; see [`KeyBuf::push_link_name`].
    pub fn link_name(mut self, name: &str) -> Self {
        self.push_link_name(name);
        self
    }

    /// The finished key.
    pub fn finish(self) -> Key {
        self.into()
    }
}

impl Deref for KeyBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for KeyBuf {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for KeyBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

/// Reads a [`Key`] field by field, as [`KeyBuf`] wrote it: `None` where the key has no such field
/// any more.
///
/// The fields must be those that the set was declared with, in that order; the bytes do not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyReader<'a>(&'a [u8]);

impl<'a> KeyReader<'a> {
    /// A reader that stands before the first field.
    pub const fn new(key: &'a [u8]) -> Self {
        Self(key)
    }

    /// What was not read yet; empty behind the last field.
    pub const fn rest(&self) -> &'a [u8] {
        self.0
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }

    /// An address of this family.
    pub fn address(&mut self, family: IpFamily) -> Option<IpAddr> {
        Some(match family {
            IpFamily::V4 => self.take::<4>()?.into(),
            IpFamily::V6 => self.take::<16>()?.into(),
        })
    }

    /// A protocol; `None` also for a number that is not one of [`Protocol`].
    pub fn protocol(&mut self) -> Option<Protocol> {
        let [number, ..] = self.take::<4>()?;
        Protocol::from_number(number)
    }

    /// A port.
    pub fn port(&mut self) -> Option<u16> {
        let [high, low, ..] = self.take::<4>()?;
        Some(u16::from_be_bytes([high, low]))
    }

    /// A number in host byte order: a mark, priority, link group, link index, or the outcome of
    /// numgen or jhash.
    pub fn number(&mut self) -> Option<u32> {
        self.take().map(u32::from_ne_bytes)
    }

    /// The name of a link.
    pub fn link_name(&mut self) -> Option<String> {
        self.take::<16>().map(|name| crate::netlink::text(&name))
    }
}

pub(crate) fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    for (index, group) in bytes.chunks(4).enumerate() {
        if index > 0 {
            f.write_str(".")?;
        }
        for byte in group {
            write!(f, "{byte:02x}")?;
        }
    }
    Ok(())
}
