//! Addresses and networks as Kubernetes reads them, however they are written.
//!
//! The API server keeps what it was once given, and reads it with the parsers of old Go versions
//! (`ParseIPSloppy` and `ParseCIDRSloppy` in k8s.io/utils/net): leading zeros are skipped, so that
//! `010.0.0.8` is 10.0.0.8 and not octal; `::ffff:10.0.0.8` is an IPv4 address; host bits of a
//! CIDR are ignored. What is written so is read so, but named, because other programs read it
//! otherwise.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::cidr;

/// What a text stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Read<T> {
    /// The value.
    pub value: T,
    /// Why it is not what others may read, if it may not be.
    pub reason: Option<&'static str>,
}

const ZEROS: &str = "has leading zeros, which are read as decimal here and as octal elsewhere";
const MAPPED: &str = "is an IPv4 address written as IPv6";
const HOST_BITS: &str = "has host bits set";

/// An address.
pub fn address(text: &str) -> Option<Read<IpAddr>> {
    let (address, reason) = match text.parse() {
        Ok(address) => (address, None),
        Err(_) => (without_zeros(text).parse().ok()?, Some(ZEROS)),
    };
    Some(match unmapped(address) {
        Some(value) => Read {
            value,
            reason: reason.or(Some(MAPPED)),
        },
        None => Read {
            value: address,
            reason,
        },
    })
}

/// A network, without host bits.
pub fn network(text: &str) -> Option<Read<IpNetwork>> {
    let (start, prefix) = text.split_once('/')?;
    if prefix.is_empty() || !prefix.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let mut prefix: u8 = prefix.parse().ok()?;
    let Read { value, mut reason } = address(start)?;
    if value.is_ipv4() && start.contains(':') {
        // Of an IPv4 address in IPv6 the first 96 bits are always the same. A shorter prefix is a
        // network of IPv6, which has its place too.
        match prefix.checked_sub(96) {
            Some(rest) => prefix = rest,
            None => return network_of_v6(without_zeros(start).parse().ok()?, prefix),
        }
    }
    let given = IpNetwork::new(value, prefix).ok()?;
    let value = cidr::clean(given);
    if value != given {
        reason = reason.or(Some(HOST_BITS));
    }
    Some(Read { value, reason })
}

fn network_of_v6(address: IpAddr, prefix: u8) -> Option<Read<IpNetwork>> {
    Some(Read {
        value: cidr::clean(IpNetwork::new(address, prefix).ok()?),
        reason: Some(HOST_BITS),
    })
}

/// The IPv4 address that an IPv6 address stands for.
fn unmapped(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map(IpAddr::V4),
        IpAddr::V4(_) => None,
    }
}

/// The text without zeros at the start of its numbers.
fn without_zeros(text: &str) -> String {
    let numbers = text.split_inclusive(['.', ':']);
    let without = numbers.map(|number| {
        let rest = number.trim_start_matches('0');
        match rest.starts_with(|c: char| c.is_ascii_hexdigit()) {
            true => rest.to_owned(),
            // It was nothing but zeros, or had none.
            false if rest.len() < number.len() => format!("0{rest}"),
            false => number.to_owned(),
        }
    });
    without.collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_are_read_as_kubernetes_reads_them() {
        for (text, value, reason) in [
            ("10.0.0.8", "10.0.0.8", None),
            ("fd00::8", "fd00::8", None),
            ("fd00::0008", "fd00::8", None),
            ("010.000.00.08", "10.0.0.8", Some(ZEROS)),
            ("0000000010.0.0.0255", "10.0.0.255", Some(ZEROS)),
            ("fd00::00008", "fd00::8", Some(ZEROS)),
            ("00000::00001", "::1", Some(ZEROS)),
            ("::ffff:10.0.0.8", "10.0.0.8", Some(MAPPED)),
            ("::ffff:a00:8", "10.0.0.8", Some(MAPPED)),
            ("::FFFF:010.0.0.8", "10.0.0.8", Some(ZEROS)),
        ] {
            let value = value.parse().unwrap();
            assert_eq!(address(text), Some(Read { value, reason }), "{text}");
        }
        for bad in [
            "",
            "0",
            "00",
            "10.0.0",
            "10.0.0.",
            "10.0.0.256",
            "10.0.0.0256",
            "10.0.0.0x8",
            "10..0.8",
            "10.0.0.8.",
            " 10.0.0.8",
            "10.0.0.8/32",
            "fe80::1%eth0",
            "::ffff:10.0.0",
            ":1",
            "1:2",
            "000fd000::1",
            "10.0.0.٨",
        ] {
            assert_eq!(address(bad), None, "{bad}");
        }
    }

    #[test]
    fn networks_are_read_as_kubernetes_reads_them() {
        for (text, value, reason) in [
            ("10.0.0.0/8", "10.0.0.0/8", None),
            ("fd00::/64", "fd00::/64", None),
            ("10.0.0.0/08", "10.0.0.0/8", None),
            ("10.1.2.3/8", "10.0.0.0/8", Some(HOST_BITS)),
            ("fd00::1/64", "fd00::/64", Some(HOST_BITS)),
            ("010.0.0.0/8", "10.0.0.0/8", Some(ZEROS)),
            ("010.1.2.3/8", "10.0.0.0/8", Some(ZEROS)),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8", Some(MAPPED)),
            ("::ffff:10.1.2.3/104", "10.0.0.0/8", Some(MAPPED)),
            ("::ffff:10.0.0.8/128", "10.0.0.8/32", Some(MAPPED)),
            ("::ffff:0.0.0.0/96", "0.0.0.0/0", Some(MAPPED)),
            ("::ffff:10.0.0.0/80", "::/80", Some(HOST_BITS)),
        ] {
            let value = value.parse().unwrap();
            assert_eq!(network(text), Some(Read { value, reason }), "{text}");
        }
        for bad in [
            "10.0.0.0",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "10.0.0.0/255.0.0.0",
            "/8",
            "10.0.0.0/8/8",
            "::/129",
            "10.0.0.0/256",
            "all",
        ] {
            assert_eq!(network(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn zeros_before_the_numbers_of_an_address_change_nothing(bytes: [u8; 4], zeros in 0usize..9) {
            let padded = bytes.map(|byte| format!("{}{byte}", "0".repeat(zeros))).join(".");
            prop_assert_eq!(address(&padded).map(|read| read.value), Some(IpAddr::from(bytes)));
        }

        #[test]
        fn no_text_is_read_otherwise_than_it_is_written(address_given: std::net::Ipv6Addr) {
            prop_assume!(address_given.to_ipv4_mapped().is_none());
            let read = address(&address_given.to_string());
            let value = IpAddr::V6(address_given);
            prop_assert_eq!(read, Some(Read { value, reason: None }));
        }
    }
}
