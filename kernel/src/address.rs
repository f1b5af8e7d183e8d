//! Addresses of links.

use std::fmt;

use ipnetwork::IpNetwork;
use netlink_packet_core::Parseable;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};

use crate::netlink::Message;
use crate::request::{CREATE, REPLACE, Requests, RouteSocket};
use crate::scope::Scope;
use crate::{Cause, Result};

/// An address of a link, wanted or observed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// The link that has it.
    pub link: u32,
    /// The address itself with the length of its prefix: host bits are kept.
    pub network: IpNetwork,
    /// Where the address is valid.
    pub scope: Scope,
    /// IPv6: no duplicate address detection, so the address is ready at once. Observed IPv4
    /// addresses do not have it.
    pub nodad: bool,
    /// The kernel also adds a route to the network of the prefix. A full prefix (/32, /128) has
    /// none for IPv4.
    pub prefix_route: bool,
}

impl Address {
    /// The address `network` on the link `link`, with the scope that goes with it: link-local and
    /// loopback addresses do not reach far. IPv6 addresses come without duplicate address
    /// detection.
    pub fn new(link: u32, network: IpNetwork) -> Self {
        let scope = match network {
            IpNetwork::V4(v4) if v4.ip().is_loopback() => Scope::Host,
            IpNetwork::V6(v6) if v6.ip().is_loopback() => Scope::Host,
            IpNetwork::V4(v4) if v4.ip().is_link_local() => Scope::Link,
            IpNetwork::V6(v6) if v6.ip().is_unicast_link_local() => Scope::Link,
            _ => Scope::Universe,
        };
        Self {
            link,
            network,
            scope,
            nodad: network.is_ipv6(),
            prefix_route: true,
        }
    }

    fn message(&self) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.family = match self.network {
            IpNetwork::V4(_) => AddressFamily::Inet,
            IpNetwork::V6(_) => AddressFamily::Inet6,
        };
        message.header.prefix_len = self.network.prefix();
        message.header.scope = AddressScope::from(u8::from(self.scope));
        message.header.index = self.link;
        // IFA_LOCAL is the own address, IFA_ADDRESS that of the other end of a point-to-point
        // link, or the own one again. IPv6 takes either (`inet6_rtm_newaddr`).
        message
            .attributes
            .push(AddressAttribute::Local(self.network.ip()));
        message
            .attributes
            .push(AddressAttribute::Address(self.network.ip()));
        let mut flags = AddressFlags::empty();
        flags.set(AddressFlags::Nodad, self.nodad && self.network.is_ipv6());
        flags.set(AddressFlags::Noprefixroute, !self.prefix_route);
        if !flags.is_empty() {
            message.attributes.push(AddressAttribute::Flags(flags));
        }
        message
    }

    /// Reads the body of an `RTM_NEWADDR` or `RTM_DELADDR`; `None` if it is of another family.
    pub(crate) fn parse(payload: &[u8]) -> std::result::Result<Option<Self>, Cause> {
        Self::from_message(&AddressMessage::parse(payload)?)
    }

    pub(crate) fn from_message(
        message: &AddressMessage,
    ) -> std::result::Result<Option<Self>, Cause> {
        let mut flags = AddressFlags::from_bits_retain(message.header.flags.bits().into());
        let (mut local, mut address) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Local(ip) => local = Some(*ip),
                AddressAttribute::Address(ip) => address = Some(*ip),
                AddressAttribute::Flags(all) => flags = *all,
                _ => {}
            }
        }
        let Some(ip) = local.or(address) else {
            return Ok(None);
        };
        let network = IpNetwork::new(ip, message.header.prefix_len)
            .map_err(|error| Cause::Malformed(error.to_string()))?;
        Ok(Some(Self {
            link: message.header.index,
            network,
            scope: Scope::from(u8::from(message.header.scope)),
            nodad: flags.contains(AddressFlags::Nodad),
            prefix_route: !flags.contains(AddressFlags::Noprefixroute),
        }))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on link {}", self.network, self.link)
    }
}

impl Requests {
    /// Adds an address; fails with `EEXIST` if the link has it.
    pub fn add_address(&mut self, address: &Address) -> &mut Self {
        let flags = CREATE;
        self.push(
            "add address",
            address.to_string(),
            libc::RTM_NEWADDR,
            flags,
            &address.message(),
        )
    }

    /// Adds an address, or changes the one that is there.
    pub fn replace_address(&mut self, address: &Address) -> &mut Self {
        let flags = REPLACE;
        self.push(
            "set address",
            address.to_string(),
            libc::RTM_NEWADDR,
            flags,
            &address.message(),
        )
    }

    /// Removes an address.
    pub fn remove_address(&mut self, address: &Address) -> &mut Self {
        self.push(
            "remove address",
            address.to_string(),
            libc::RTM_DELADDR,
            0,
            &address.message(),
        )
    }
}

impl RouteSocket {
    /// Adds an address; fails with `EEXIST` if the link has it.
    pub fn add_address(&mut self, address: &Address) -> Result<()> {
        self.run(Requests::new().add_address(address))
    }

    /// Removes an address.
    pub fn remove_address(&mut self, address: &Address) -> Result<()> {
        self.run(Requests::new().remove_address(address))
    }

    /// The addresses of the link `link`, or of all links; both families.
    pub fn addresses(&mut self, link: Option<u32>) -> Result<Vec<Address>> {
        let mut query = AddressMessage::default();
        query.header.index = link.unwrap_or(0);
        let wanted = |answer: Message<'_>| {
            let address = Address::parse(answer.payload)?;
            // Kernels without strict checking list all links.
            Ok(address.filter(|address| link.is_none_or(|link| address.link == link)))
        };
        let put = |body: &mut Vec<u8>| crate::netlink::put(body, &query);
        self.socket
            .dump(libc::RTM_GETADDR, put, wanted)
            .map_err(|cause| cause.during("list", "addresses"))
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;
    use crate::netlink::put;

    fn address() -> impl Strategy<Value = Address> {
        let v4 = (any::<u32>(), 0..=32u8)
            .prop_map(|(bits, prefix)| (IpAddr::from(Ipv4Addr::from_bits(bits)), prefix));
        let v6 = (any::<u128>(), 0..=128u8)
            .prop_map(|(bits, prefix)| (IpAddr::from(Ipv6Addr::from_bits(bits)), prefix));
        let flags = (any::<bool>(), any::<bool>());
        (prop_oneof![v4, v6], any::<u32>(), any::<u8>(), flags).prop_map(
            |((ip, prefix), link, scope, (nodad, prefix_route))| {
                let network = IpNetwork::new(ip, prefix).expect("the prefix fits the family");
                let nodad = nodad && ip.is_ipv6();
                Address {
                    link,
                    network,
                    scope: scope.into(),
                    nodad,
                    prefix_route,
                }
            },
        )
    }

    proptest! {
        #[test]
        fn an_address_comes_back_from_its_message(address in address()) {
            let mut bytes = Vec::new();
            put(&mut bytes, &address.message());
            prop_assert_eq!(Address::parse(&bytes).unwrap(), Some(address));
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = Address::parse(&bytes);
        }
    }

    #[test]
    fn the_scope_follows_from_the_address() {
        let scope = |network: &str| Address::new(1, network.parse().unwrap()).scope;
        assert_eq!(scope("127.0.0.1/8"), Scope::Host);
        assert_eq!(scope("::1/128"), Scope::Host);
        assert_eq!(scope("169.254.1.1/32"), Scope::Link);
        assert_eq!(scope("fe80::1/64"), Scope::Link);
        assert_eq!(scope("10.0.0.1/24"), Scope::Universe);
        assert_eq!(scope("fd00::1/64"), Scope::Universe);
    }
}
