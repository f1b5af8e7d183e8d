//! Hardware addresses.

use std::fmt;

use crate::{Cause, Result};

/// An Ethernet address, in the order in which it is written and sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// A random unicast address from the locally administered space (IEEE 802: second lowest bit
    /// of the first byte set, lowest bit clear), as the kernel picks it (`eth_random_addr`,
    /// include/linux/etherdevice.h).
    pub fn random() -> Result<Self> {
        let mut bytes = [0; 6];
        fill_random(&mut bytes)?;
        Ok(Self::local(bytes))
    }

    /// `bytes` made a unicast address of the locally administered space.
    pub fn local(mut bytes: [u8; 6]) -> Self {
        bytes[0] = (bytes[0] & 0xfe) | 0x02;
        Self(bytes)
    }

    /// The IPv6 link-local address that belongs to this hardware address: fe80::/64 with the
    /// modified EUI-64 identifier (RFC 4291, appendix A).
    pub fn link_local(self) -> std::net::Ipv6Addr {
        let [a, b, c, d, e, f] = self.0;
        std::net::Ipv6Addr::from([
            0xfe,
            0x80,
            0,
            0,
            0,
            0,
            0,
            0,
            a ^ 0x02,
            b,
            c,
            0xff,
            0xfe,
            d,
            e,
            f,
        ])
    }
}

#[expect(
    unsafe_code,
    reason = "nix wraps getrandom only with a feature for nothing else"
)]
fn fill_random(bytes: &mut [u8]) -> Result<()> {
    // SAFETY: the kernel writes at most `bytes.len()` bytes to the start of `bytes`.
    let filled = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if usize::try_from(filled) == Ok(bytes.len()) {
        return Ok(());
    }
    Err(Cause::from(std::io::Error::last_os_error()).during("read", "random bytes"))
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}
