//! The sets and maps of the table: their names, and what they are asked with.

use std::borrow::Cow;
use std::time::Duration;

use podwire_kernel::IpFamily;
use podwire_kernel::nft::{Element, Field, KeyBuf, Set};

use crate::features::policies::desired::frame::Frame;
use crate::features::policies::desired::wanted::PortRange;
use crate::snapshot::{Direction, Protocol};

/// This many verdicts are remembered. When that is full, packets are judged one by one: slower, and
/// never wrong.
const REMEMBERED: u32 = 65_536;

/// A verdict is remembered so long. Connections that live longer are judged again once an hour.
const REMEMBERED_FOR: Duration = Duration::from_secs(3600);

/// A set or map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lookup {
    /// The class of an address.
    Peers,
    /// The class of a range of addresses.
    Blocks,
    /// Local pods for which everything is allowed.
    Open(Direction),
    /// Pairs of a local pod with itself.
    Itself,
    /// Isolated local pods whose address is not in a podCIDR of the node.
    Outside,
    /// Class, local pod, protocol and port that are allowed.
    Ports(Direction),
    /// Class, local pod and protocol that are allowed in a range of ports.
    Range(Direction, PortRange),
    /// Class, local pod and protocol that are allowed, whatever the port.
    Protocols(Direction),
    /// Class and local pod for which everything is allowed.
    Any(Direction),
    /// Verdicts that the rules remember.
    Allowed,
    /// Protocols that have ports.
    Ported,
}

impl Lookup {
    /// Those that are there whatever the frame.
    pub const FIXED: [Self; 13] = [
        Self::Peers,
        Self::Blocks,
        Self::Open(Direction::Ingress),
        Self::Open(Direction::Egress),
        Self::Ports(Direction::Ingress),
        Self::Protocols(Direction::Ingress),
        Self::Any(Direction::Ingress),
        Self::Ports(Direction::Egress),
        Self::Protocols(Direction::Egress),
        Self::Any(Direction::Egress),
        Self::Itself,
        Self::Allowed,
        Self::Ported,
    ];

    /// All that a frame asks for.
    pub fn all(frame: &Frame) -> Vec<Self> {
        let ranges = frame.ranges.iter();
        let ranges = ranges.map(|(direction, range)| Self::Range(*direction, *range));
        let outside = frame.outside.then_some(Self::Outside);
        Self::FIXED
            .into_iter()
            .chain(ranges)
            .chain(outside)
            .collect()
    }

    /// Its name in the table.
    pub fn name(self) -> Cow<'static, str> {
        use Direction::{Egress, Ingress};
        match self {
            Self::Peers => "peers".into(),
            Self::Blocks => "blocks".into(),
            Self::Open(Ingress) => "open-in".into(),
            Self::Open(Egress) => "open-out".into(),
            Self::Itself => "self".into(),
            Self::Outside => "outside".into(),
            Self::Ports(Ingress) => "in-ports".into(),
            Self::Ports(Egress) => "out-ports".into(),
            Self::Range(direction, PortRange { first, last }) => {
                let way = match direction {
                    Ingress => "in",
                    Egress => "out",
                };
                format!("{way}-range-{first}-{last}").into()
            }
            Self::Protocols(Ingress) => "in-protocols".into(),
            Self::Protocols(Egress) => "out-protocols".into(),
            Self::Any(Ingress) => "in-any".into(),
            Self::Any(Egress) => "out-any".into(),
            Self::Allowed => "allowed".into(),
            Self::Ported => "ported".into(),
        }
    }

    /// The one with this name.
    pub fn of_name(name: &str) -> Option<Self> {
        let fixed = Self::FIXED.into_iter().chain([Self::Outside]);
        let mut fixed = fixed.filter(|one| one.name() == name);
        fixed.next().or_else(|| {
            let (direction, range) = match name.split_once("-range-")? {
                ("in", range) => (Direction::Ingress, range),
                ("out", range) => (Direction::Egress, range),
                _ => return None,
            };
            let (first, last) = range.split_once('-')?;
            let range = PortRange {
                first: first.parse().ok()?,
                last: last.parse().ok()?,
            };
            Some(Self::Range(direction, range)).filter(|one| one.name() == name)
        })
    }

    /// How it is declared, with the elements that are always in it.
    pub fn header(self, family: IpFamily) -> Set {
        let Words {
            source,
            destination,
            ..
        } = Words::of(family);
        match self {
            Self::Peers => Set::map(&[source], &[Field::Priority]),
            Self::Blocks => Set::map(&[source], &[Field::Priority]).with_intervals(),
            Self::Open(_) | Self::Outside => Set::of(&[destination]),
            Self::Itself => Set::of(&[source, destination]),
            Self::Ports(_) => {
                Set::of(&[Field::Priority, destination, Field::L4Proto, Field::ThDport])
            }
            Self::Range(..) | Self::Protocols(_) => {
                Set::of(&[Field::Priority, destination, Field::L4Proto])
            }
            Self::Any(_) => Set::of(&[Field::Priority, destination]),
            Self::Allowed => {
                let key = [source, destination, Field::L4Proto, Field::ThDport];
                let set = Set::of(&key).dynamic(REMEMBERED).with_timeouts();
                Set {
                    default_timeout: Some(REMEMBERED_FOR),
                    ..set
                }
            }
            Self::Ported => {
                Protocol::ALL
                    .iter()
                    .fold(Set::of(&[Field::L4Proto]), |set, protocol| {
                        let key = KeyBuf::new().protocol(protocol.number());
                        set.with_element(key, Element::member())
                    })
            }
        }
    }
}

/// What the two families call the same thing.
#[derive(Debug, Clone, Copy)]
pub struct Words {
    /// The source address; in a key the peer.
    pub source: Field,
    /// The destination address; in a key the local pod.
    pub destination: Field,
    /// The protocol number of ICMP.
    pub icmp: u8,
}

impl Words {
    /// Of a family.
    pub const fn of(family: IpFamily) -> Self {
        match family {
            IpFamily::V4 => Self {
                source: Field::IpSaddr,
                destination: Field::IpDaddr,
                icmp: 1,
            },
            IpFamily::V6 => Self {
                source: Field::Ip6Saddr,
                destination: Field::Ip6Daddr,
                icmp: 58,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_back_to_its_set() {
        let range = PortRange {
            first: 80,
            last: 8080,
        };
        let frame = Frame {
            pod_cidrs: Box::default(),
            ranges: [(Direction::Ingress, range), (Direction::Egress, range)].into(),
            outside: true,
        };
        let all = Lookup::all(&frame);
        assert_eq!(all.len(), 16);
        for one in all {
            assert_eq!(Lookup::of_name(&one.name()), Some(one));
        }
        for other in [
            "foreign",
            "in-range-80",
            "in-range-080-90",
            "up-range-1-2",
            "",
        ] {
            assert_eq!(Lookup::of_name(other), None, "{other}");
        }
    }
}
