//! Addresses of links.

use std::collections::BTreeSet;
use std::fmt;

use ipnetwork::IpNetwork;
use netlink_packet_core::{Emitable, Parseable};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeader, AddressHeaderFlags, AddressMessage,
};

use crate::netlink::Message;
use crate::request::{CREATE, Requests, RouteSocket};
use crate::scope::Scope;
use crate::{Cause, IpFamily, Result, packet};

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

    /// Appends the body of an `RTM_NEWADDR` or `RTM_DELADDR`.
    fn put(&self, body: &mut Vec<u8>) {
        let ip = self.network.ip();
        let mut message = AddressMessage::default();
        message.header.family = IpFamily::of(ip).number().into();
        message.header.prefix_len = self.network.prefix();
        message.header.scope = u8::from(self.scope).into();
        message.header.index = self.link;
        // The first is the own address, the second that of the other end of a point-to-point link,
        // or the own one again. IPv6 takes either (`inet6_rtm_newaddr`).
        message.attributes = vec![AddressAttribute::Local(ip), AddressAttribute::Address(ip)];
        let mut flags = AddressFlags::empty();
        flags.set(AddressFlags::Nodad, self.nodad && ip.is_ipv6());
        flags.set(AddressFlags::Noprefixroute, !self.prefix_route);
        if !flags.is_empty() {
            message.attributes.push(AddressAttribute::Flags(flags));
        }
        packet::put(body, &message);
    }

    /// Reads the body of an `RTM_NEWADDR` or `RTM_DELADDR`; `None` if it has no IP address.
    pub(crate) fn parse(payload: &[u8]) -> std::result::Result<Option<Self>, Cause> {
        let header = AddressHeader::parse(payload).map_err(packet::malformed)?;
        let rest = packet::behind_header(payload, header.buffer_len());
        let mut flags = AddressFlags::from_bits_retain(header.flags.bits().into());
        let (mut local, mut address) = (None, None);
        for attribute in packet::attributes(rest, AddressAttribute::parse) {
            match attribute {
                AddressAttribute::Local(ip) => local = Some(ip),
                AddressAttribute::Address(ip) => address = Some(ip),
                AddressAttribute::Flags(all) => flags = all,
                _ => {}
            }
        }
        let Some(ip) = local.or(address) else {
            return Ok(None);
        };
        let network = IpNetwork::new(ip, header.prefix_len)
            .map_err(|error| Cause::Malformed(error.to_string()))?;
        Ok(Some(Self {
            link: header.index,
            network,
            scope: u8::from(header.scope).into(),
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
        self.push(
            "add address",
            address.to_string(),
            libc::RTM_NEWADDR,
            CREATE,
            |body| address.put(body),
        )
    }

    /// Removes an address.
    pub fn remove_address(&mut self, address: &Address) -> &mut Self {
        self.push(
            "remove address",
            address.to_string(),
            libc::RTM_DELADDR,
            0,
            |body| address.put(body),
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

    /// The links that have an IPv6 address that a router's advertisement gave them: one that ends
    /// (`IFA_F_PERMANENT` is not set) and reaches beyond the link.
    pub fn links_with_lent_addresses(&mut self) -> Result<BTreeSet<u32>> {
        let lent = |answer: Message<'_>| {
            let header = AddressHeader::parse(answer.payload).map_err(packet::malformed)?;
            let permanent = header.flags.contains(AddressHeaderFlags::Permanent);
            let global = Scope::from(u8::from(header.scope)) == Scope::Universe;
            let v6 = u8::from(header.family) == IpFamily::V6.number();
            Ok((v6 && global && !permanent).then_some(header.index))
        };
        let put = |body: &mut Vec<u8>| packet::put(body, &AddressMessage::default());
        let links: Vec<u32> = self
            .socket
            .dump(libc::RTM_GETADDR, put, lent)
            .map_err(|cause| cause.during("list", "addresses"))?;
        Ok(links.into_iter().collect())
    }

    /// The addresses of the link `link`, or of all links; both families.
    pub fn addresses(&mut self, link: Option<u32>) -> Result<Vec<Address>> {
        let wanted = |answer: Message<'_>| {
            let address = Address::parse(answer.payload)?;
            // Kernels without strict checking list all links.
            Ok(address.filter(|address| link.is_none_or(|link| address.link == link)))
        };
        let mut query = AddressMessage::default();
        query.header.index = link.unwrap_or(0);
        let put = |body: &mut Vec<u8>| packet::put(body, &query);
        self.socket
            .dump(libc::RTM_GETADDR, put, wanted)
            .map_err(|cause| cause.during("list", "addresses"))
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use netlink_packet_core::{Emitable, Parseable};
    use netlink_packet_route::address::AddressMessage;
    use proptest::prelude::*;

    use super::*;

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
            address.put(&mut bytes);
            prop_assert_eq!(Address::parse(&bytes).unwrap(), Some(address));
        }

        #[test]
        fn another_implementation_reads_the_same_address(address in address()) {
            let mut bytes = Vec::new();
            address.put(&mut bytes);
            let message = AddressMessage::parse(&bytes[..]).unwrap();
            prop_assert_eq!(message.header.index, address.link);
            let mut theirs = vec![0; message.buffer_len()];
            message.emit(&mut theirs);
            prop_assert_eq!(Address::parse(&theirs).unwrap(), Some(address));
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
