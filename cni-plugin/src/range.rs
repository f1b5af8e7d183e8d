//! Ranges of addresses to lease from, with the rules and the words of host-local.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use crate::json::{Fields, Node, WrongType};

/// Consecutive addresses of one subnet, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The subnet; its prefix length goes with the leased address.
    pub subnet: IpNetwork,
    /// The first address.
    pub start: IpAddr,
    /// The last address.
    pub end: IpAddr,
    /// The gateway, which is never leased.
    pub gateway: IpAddr,
}

/// Ranges of one family from which one address is leased: a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeSet(Vec<Range>);

/// A range that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// A field has the wrong type.
    #[error(transparent)]
    WrongType(#[from] WrongType),
    /// A set without ranges.
    #[error("empty range set")]
    Empty,
    /// A range says nothing about its subnet.
    #[error("{place}.subnet is missing")]
    NoSubnet {
        /// Where the range stands.
        place: String,
    },
    /// A subnet with no room for a gateway and a container.
    #[error("Network {subnet} too small to allocate from")]
    TooSmall {
        /// The subnet.
        subnet: IpNetwork,
    },
    /// IPv4 in the spelling of IPv6, which is neither. The words are those of Go's net package.
    #[error("IPNet IP and Mask version mismatch: write {subnet} as an IPv4 subnet")]
    Mapped {
        /// The subnet.
        subnet: IpNetwork,
    },
    /// A subnet from the unspecified address on, 0.0.0.0 or ::, has no address for a container.
    #[error("Network {subnet} starts with the unspecified address, so nothing can be allocated")]
    Unspecified {
        /// The subnet.
        subnet: IpNetwork,
    },
    /// A subnet with bits set beyond its prefix.
    #[error(
        "Network has host bits set. For a subnet mask of length {} the network address is {}",
        subnet.prefix(),
        subnet.network()
    )]
    HostBits {
        /// The subnet as it was given.
        subnet: IpNetwork,
    },
    /// The gateway is of the other family. Outside of the subnet it may be, as with host-local: a
    /// container has a route to it alone.
    #[error("gateway {gateway} is not of the address family of network {subnet}")]
    Gateway {
        /// The gateway.
        gateway: IpAddr,
        /// The subnet.
        subnet: IpNetwork,
    },
    /// The range starts or ends outside of the subnet.
    #[error("{end} {address} not in network {subnet}")]
    Outside {
        /// Which end: `RangeStart` or `RangeEnd`.
        end: &'static str,
        /// The address.
        address: IpAddr,
        /// The subnet.
        subnet: IpNetwork,
    },
    /// The range ends before it starts.
    #[error("RangeEnd {address} not in network {subnet} behind RangeStart {start}")]
    BeforeStart {
        /// The end of the range.
        address: IpAddr,
        /// The subnet.
        subnet: IpNetwork,
        /// The start of the range.
        start: IpAddr,
    },
    /// Two families in one set.
    #[error("mixed address families")]
    Mixed,
    /// Two ranges of a set share addresses.
    #[error("subnets {first} and {second} overlap")]
    Overlap {
        /// One range.
        first: String,
        /// The other.
        second: String,
    },
}

impl Range {
    /// Reads `subnet`, `rangeStart`, `rangeEnd` and `gateway`. Unless they are given, the gateway
    /// is the first address of the subnet, and the range is all of it but for the network address
    /// and the IPv4 broadcast address.
    pub fn read(fields: &Fields<'_>, subnet: IpNetwork) -> Result<Self, RangeError> {
        check_subnet(subnet)?;
        let first = next(subnet.ip());
        let gateway = fields.address("gateway")?.unwrap_or(first);
        if gateway.is_ipv4() != subnet.is_ipv4() {
            return Err(RangeError::Gateway { gateway, subnet });
        }
        let start = fields.address("rangeStart")?.unwrap_or(first);
        check_inside("RangeStart", start, subnet)?;
        let end = fields.address("rangeEnd")?;
        let end = end.unwrap_or_else(|| last_of(subnet));
        check_inside("RangeEnd", end, subnet)?;
        if end < start {
            return Err(RangeError::BeforeStart {
                address: end,
                subnet,
                start,
            });
        }
        Ok(Self {
            subnet,
            start,
            end,
            gateway,
        })
    }

    /// Whether `address` is one of the range.
    pub fn contains(&self, address: IpAddr) -> bool {
        // Addresses of different families compare, so the family has to be asked for.
        address.is_ipv4() == self.start.is_ipv4() && self.start <= address && address <= self.end
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.start.is_ipv4() == other.start.is_ipv4()
            && self.start <= other.end
            && other.start <= self.end
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.start, self.end)
    }
}

impl RangeSet {
    /// A set of these ranges, if they go together.
    pub fn new(ranges: Vec<Range>) -> Result<Self, RangeError> {
        let Some(first) = ranges.first() else {
            return Err(RangeError::Empty);
        };
        let v4 = first.start.is_ipv4();
        if ranges.iter().any(|range| range.start.is_ipv4() != v4) {
            return Err(RangeError::Mixed);
        }
        for (index, first) in ranges.iter().enumerate() {
            let mut later = ranges[index + 1..].iter();
            if let Some(second) = later.find(|second| first.overlaps(second)) {
                return Err(RangeError::Overlap {
                    first: first.to_string(),
                    second: second.to_string(),
                });
            }
        }
        Ok(Self(ranges))
    }

    /// Reads a list of ranges.
    pub fn read(node: &Node<'_>) -> Result<Self, RangeError> {
        let mut ranges = Vec::new();
        for node in node.list()? {
            let fields = node.object()?;
            let Some(subnet) = fields.network("subnet")? else {
                let place = node.place().to_owned();
                return Err(RangeError::NoSubnet { place });
            };
            ranges.push(Range::read(&fields, subnet)?);
        }
        Self::new(ranges)
    }

    /// The ranges, at least one.
    pub fn ranges(&self) -> &[Range] {
        &self.0
    }

    /// Whether the addresses are IPv4.
    pub fn is_ipv4(&self) -> bool {
        self.0.first().is_some_and(|range| range.start.is_ipv4())
    }

    /// The range that `address` is in.
    pub fn range_of(&self, address: IpAddr) -> Option<&Range> {
        self.0.iter().find(|range| range.contains(address))
    }

    /// Whether the two sets share addresses.
    pub fn overlaps(&self, other: &Self) -> bool {
        let pairs = self
            .0
            .iter()
            .flat_map(|a| other.0.iter().map(move |b| (a, b)));
        pairs.into_iter().any(|(a, b)| a.overlaps(b))
    }
}

impl fmt::Display for RangeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{range}")?;
        }
        Ok(())
    }
}

/// An address as a number, so that one can count on.
pub fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

/// The address with this number; numbers beyond the family wrap around.
pub fn address(number: u128, v4: bool) -> IpAddr {
    if v4 {
        IpAddr::V4(Ipv4Addr::from(number as u32))
    } else {
        IpAddr::V6(Ipv6Addr::from(number))
    }
}

/// Whether a subnet can have ranges at all. The agent asks as well, so that what it writes into the
/// configuration is never refused here.
pub fn check_subnet(subnet: IpNetwork) -> Result<(), RangeError> {
    if matches!(subnet.ip(), IpAddr::V6(address) if address.to_ipv4_mapped().is_some()) {
        return Err(RangeError::Mapped { subnet });
    }
    if subnet.network().is_unspecified() {
        return Err(RangeError::Unspecified { subnet });
    }
    let bits = if subnet.is_ipv4() { 32 } else { 128 };
    if subnet.prefix() > bits - 2 {
        return Err(RangeError::TooSmall { subnet });
    }
    if subnet.ip() != subnet.network() {
        return Err(RangeError::HostBits { subnet });
    }
    Ok(())
}

fn next(of: IpAddr) -> IpAddr {
    address(number(of).wrapping_add(1), of.is_ipv4())
}

/// The last address that a container may have.
fn last_of(subnet: IpNetwork) -> IpAddr {
    let last = subnet.broadcast();
    if last.is_ipv4() {
        address(number(last) - 1, true)
    } else {
        last
    }
}

fn check_inside(end: &'static str, address: IpAddr, subnet: IpNetwork) -> Result<(), RangeError> {
    if subnet.contains(address) {
        return Ok(());
    }
    Err(RangeError::Outside {
        end,
        address,
        subnet,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn read(value: &Value) -> Result<RangeSet, RangeError> {
        RangeSet::read(&Node::of_document(value))
    }

    fn check(value: Value, expected: &str) {
        assert_eq!(read(&value).unwrap().to_string(), expected, "{value}");
    }

    fn check_error(value: Value, expected: &str) {
        assert_eq!(read(&value).unwrap_err().to_string(), expected, "{value}");
    }

    #[test]
    fn a_subnet_alone_is_all_of_it_but_for_network_and_broadcast() {
        check(json!([{"subnet": "10.1.2.0/24"}]), "10.1.2.1-10.1.2.254");
        check(json!([{"subnet": "10.1.2.0/30"}]), "10.1.2.1-10.1.2.2");
        check(
            json!([{"subnet": "fd00::/64"}]),
            "fd00::1-fd00::ffff:ffff:ffff:ffff",
        );
    }

    #[test]
    fn the_gateway_is_the_first_address_unless_it_is_given() {
        let set = read(&json!([{"subnet": "10.1.2.0/24"}])).unwrap();
        assert_eq!(set.ranges()[0].gateway.to_string(), "10.1.2.1");
        let set = read(&json!([{"subnet": "10.1.2.0/24", "gateway": "10.1.2.9"}])).unwrap();
        assert_eq!(set.ranges()[0].gateway.to_string(), "10.1.2.9");
    }

    #[test]
    fn the_ends_can_be_given() {
        check(
            json!([{"subnet": "10.1.2.0/24", "rangeStart": "10.1.2.5", "rangeEnd": "10.1.2.5"}]),
            "10.1.2.5-10.1.2.5",
        );
        check(
            json!([
                {"subnet": "10.1.2.0/24", "rangeEnd": "10.1.2.5"},
                {"subnet": "10.1.2.0/24", "rangeStart": "10.1.2.7"}
            ]),
            "10.1.2.1-10.1.2.5,10.1.2.7-10.1.2.254",
        );
    }

    #[test]
    fn ranges_that_cannot_be_are_refused_with_the_words_of_host_local() {
        check_error(json!([]), "empty range set");
        check_error(
            json!([{"subnet": "10.1.2.0/31"}]),
            "Network 10.1.2.0/31 too small to allocate from",
        );
        check_error(
            json!([{"subnet": "fd00::/127"}]),
            "Network fd00::/127 too small to allocate from",
        );
        check_error(
            json!([{"subnet": "10.1.2.3/24"}]),
            "Network has host bits set. For a subnet mask of length 24 the network address is \
             10.1.2.0",
        );
        check_error(
            json!([{"subnet": "10.1.2.0/24", "gateway": "fd00::1"}]),
            "gateway fd00::1 is not of the address family of network 10.1.2.0/24",
        );
        check_error(
            json!([{"subnet": "10.1.2.0/24", "rangeStart": "10.1.3.1"}]),
            "RangeStart 10.1.3.1 not in network 10.1.2.0/24",
        );
        check_error(
            json!([{"subnet": "10.1.2.0/24", "rangeEnd": "fd00::1"}]),
            "RangeEnd fd00::1 not in network 10.1.2.0/24",
        );
        check_error(
            json!([{"subnet": "10.1.2.0/24", "rangeStart": "10.1.2.9", "rangeEnd": "10.1.2.8"}]),
            "RangeEnd 10.1.2.8 not in network 10.1.2.0/24 behind RangeStart 10.1.2.9",
        );
        check_error(
            json!([{"subnet": "10.1.2.0/24"}, {"subnet": "fd00::/64"}]),
            "mixed address families",
        );
        check_error(
            json!([{"subnet": "10.1.2.0/24"}, {"subnet": "10.1.0.0/16"}]),
            "subnets 10.1.2.1-10.1.2.254 and 10.1.0.1-10.1.255.254 overlap",
        );
        check_error(json!([{"rangeStart": "10.1.2.1"}]), "[0].subnet is missing");
    }

    fn range(subnet: &str) -> RangeSet {
        read(&json!([{ "subnet": subnet }])).unwrap()
    }

    #[test]
    fn subnets_that_are_of_neither_family_or_of_everything_are_refused() {
        for subnet in [
            "::ffff:10.9.0.0/120",
            "::ffff:0.0.0.0/96",
            "::ffff:10.9.0.0/24",
        ] {
            let text =
                format!("IPNet IP and Mask version mismatch: write {subnet} as an IPv4 subnet");
            check_error(json!([{ "subnet": subnet }]), &text);
        }
        for subnet in ["0.0.0.0/0", "::/0", "0.0.0.0/8", "::/64", "10.0.0.0/0"] {
            let error = read(&json!([{ "subnet": subnet }])).unwrap_err();
            assert!(error.to_string().contains("unspecified"), "{error}");
        }
    }

    #[test]
    fn sets_of_different_families_never_overlap() {
        assert!(!range("128.0.0.0/1").overlaps(&range("8000::/1")));
        assert!(range("10.0.0.0/8").overlaps(&range("10.200.0.0/16")));
        assert!(!range("8000::/1").ranges()[0].contains("10.0.0.1".parse().unwrap()));
    }

    proptest! {
        #[test]
        fn addresses_and_numbers_go_both_ways(v4: u32, v6: u128) {
            let address4 = address(u128::from(v4), true);
            prop_assert_eq!(number(address4), u128::from(v4));
            prop_assert_eq!(number(address(v6, false)), v6);
        }

        #[test]
        fn a_range_is_within_its_subnet(ip: u32, prefix in 1..=30u8) {
            // Not the subnets that start with the unspecified address.
            let subnet = IpNetwork::new(address(u128::from(ip | 1 << 31), true), prefix).unwrap();
            let set = range(&format!("{}/{prefix}", subnet.network()));
            let range = &set.ranges()[0];
            prop_assert!(subnet.contains(range.start) && subnet.contains(range.end));
            prop_assert!(range.contains(range.start) && range.contains(range.end));
            prop_assert!(!range.contains(subnet.network()) && !range.contains(subnet.broadcast()));
        }
    }
}
