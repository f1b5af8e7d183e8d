//! The sets and maps of the table: their names, and what they are asked with.

use std::borrow::Cow;
use std::time::Duration;

use podwire::policy::{ALLOWED, OPEN};
use podwire_kernel::IpFamily;
use podwire_kernel::nft::{CtKey, Element, Field, KeyBuf, Set};

use crate::features::policies::desired::frame::Frame;
use crate::features::policies::desired::wanted::{PortRange, Verdict};
use crate::snapshot::{Direction, Protocol};

/// This many verdicts are remembered. When that is full, packets are judged one by one: slower, and
/// never wrong.
const REMEMBERED: u32 = 65_536;

/// A verdict is remembered so long. Connections that live longer are judged again once an hour.
const REMEMBERED_FOR: Duration = Duration::from_secs(3600);

/// What the name of a set ends with whose elements deny.
const DENIED: &str = "-denied";

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
    /// Isolated local pods and what else is attached and closed, with addresses in no podCIDR of the
    /// node.
    Outside,
    /// Class, local pod, protocol and port that are allowed, or denied.
    Ports(Direction, Verdict),
    /// Class, local pod and protocol that are allowed or denied in a range of ports.
    Range(Direction, Verdict, PortRange),
    /// Class, local pod and protocol that are allowed or denied, whatever the port.
    Protocols(Direction, Verdict),
    /// Class and local pod for which everything is allowed, or denied.
    Any(Direction, Verdict),
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
        Self::Ports(Direction::Ingress, Verdict::Allow),
        Self::Protocols(Direction::Ingress, Verdict::Allow),
        Self::Any(Direction::Ingress, Verdict::Allow),
        Self::Ports(Direction::Egress, Verdict::Allow),
        Self::Protocols(Direction::Egress, Verdict::Allow),
        Self::Any(Direction::Egress, Verdict::Allow),
        Self::Itself,
        Self::Allowed,
        Self::Ported,
    ];

    /// Those that are there if something is denied.
    pub const DENIALS: [Self; 6] = [
        Self::Ports(Direction::Ingress, Verdict::Deny),
        Self::Protocols(Direction::Ingress, Verdict::Deny),
        Self::Any(Direction::Ingress, Verdict::Deny),
        Self::Ports(Direction::Egress, Verdict::Deny),
        Self::Protocols(Direction::Egress, Verdict::Deny),
        Self::Any(Direction::Egress, Verdict::Deny),
    ];

    /// All that a frame asks for.
    pub fn all(frame: &Frame) -> Vec<Self> {
        let ranges = frame.ranges.iter();
        let ranges =
            ranges.map(|(direction, verdict, range)| Self::Range(*direction, *verdict, *range));
        let denials = frame.denies.then_some(Self::DENIALS);
        let outside = frame.outside.then_some(Self::Outside);
        Self::FIXED
            .into_iter()
            .chain(denials.into_iter().flatten())
            .chain(ranges)
            .chain(outside)
            .collect()
    }

    /// Its name in the table.
    pub fn name(self) -> Cow<'static, str> {
        use Direction::{Egress, Ingress};
        use Verdict::{Allow, Deny};
        match self {
            Self::Peers => "peers".into(),
            Self::Blocks => "blocks".into(),
            Self::Open(Ingress) => OPEN[0].into(),
            Self::Open(Egress) => OPEN[1].into(),
            Self::Itself => "self".into(),
            Self::Outside => "outside".into(),
            Self::Ports(Ingress, Allow) => "in-ports".into(),
            Self::Ports(Egress, Allow) => "out-ports".into(),
            Self::Ports(Ingress, Deny) => "in-ports-denied".into(),
            Self::Ports(Egress, Deny) => "out-ports-denied".into(),
            Self::Range(direction, verdict, PortRange { first, last }) => {
                let way = match direction {
                    Ingress => "in",
                    Egress => "out",
                };
                let denied = match verdict {
                    Allow => "",
                    Deny => DENIED,
                };
                format!("{way}-range-{first}-{last}{denied}").into()
            }
            Self::Protocols(Ingress, Allow) => "in-protocols".into(),
            Self::Protocols(Egress, Allow) => "out-protocols".into(),
            Self::Protocols(Ingress, Deny) => "in-protocols-denied".into(),
            Self::Protocols(Egress, Deny) => "out-protocols-denied".into(),
            Self::Any(Ingress, Allow) => "in-any".into(),
            Self::Any(Egress, Allow) => "out-any".into(),
            Self::Any(Ingress, Deny) => "in-any-denied".into(),
            Self::Any(Egress, Deny) => "out-any-denied".into(),
            Self::Allowed => ALLOWED.into(),
            Self::Ported => "ported".into(),
        }
    }

    /// The one with this name.
    pub fn of_name(name: &str) -> Option<Self> {
        let fixed = Self::FIXED.into_iter().chain(Self::DENIALS);
        let fixed = fixed.chain([Self::Outside]);
        let mut fixed = fixed.filter(|one| one.name() == name);
        fixed.next().or_else(|| {
            let (direction, range) = match name.split_once("-range-")? {
                ("in", range) => (Direction::Ingress, range),
                ("out", range) => (Direction::Egress, range),
                _ => return None,
            };
            let (range, verdict) = match range.strip_suffix(DENIED) {
                Some(range) => (range, Verdict::Deny),
                None => (range, Verdict::Allow),
            };
            let (first, last) = range.split_once('-')?;
            let range = PortRange {
                first: first.parse().ok()?,
                last: last.parse().ok()?,
            };
            Some(Self::Range(direction, verdict, range)).filter(|one| one.name() == name)
        })
    }

    /// What it is for, as `nft list` shows it.
    fn purpose(self) -> &'static str {
        use Direction::{Egress, Ingress};
        use Verdict::{Allow, Deny};
        match self {
            Self::Peers => {
                "the class of an address (shown as number:number): who has one is in the same rules"
            }
            Self::Blocks => "the class of a range of addresses (shown as number:number)",
            Self::Open(Ingress) => "pods here that everyone may reach: no policy isolates them",
            Self::Open(Egress) => "pods here that may reach everyone: no policy isolates them",
            Self::Itself => "isolated pods here: each may reach itself",
            Self::Outside => "isolated pods here with an address outside of the podCIDRs",
            Self::Ports(_, Allow) => {
                "allowed: class of the peer (none: all), pod here, protocol, port"
            }
            Self::Ports(_, Deny) => {
                "denied: class of the peer (none: all), pod here, protocol, port"
            }
            Self::Range(_, Allow, _) => {
                "allowed in this range of ports: class of the peer (none: all), pod here, protocol"
            }
            Self::Range(_, Deny, _) => {
                "denied in this range of ports: class of the peer (none: all), pod here, protocol"
            }
            Self::Protocols(_, Allow) => {
                "allowed on all ports: class of the peer (none: all), pod here, protocol"
            }
            Self::Protocols(_, Deny) => {
                "denied on all ports: class of the peer (none: all), pod here, protocol"
            }
            Self::Any(_, Allow) => "everything is allowed: class of the peer (none: all), pod here",
            Self::Any(_, Deny) => "everything is denied: class of the peer (none: all), pod here",
            Self::Allowed => {
                "connections that were judged and may pass: client, server, protocol, port"
            }
            Self::Ported => "protocols that have ports",
        }
    }

    /// How it is declared, with the elements that are always in it.
    pub fn header(self, family: IpFamily) -> Set {
        self.declared(family).with_comment(self.purpose())
    }

    fn declared(self, family: IpFamily) -> Set {
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
            Self::Ports(..) => {
                Set::of(&[Field::Priority, destination, Field::L4Proto, Field::ThDport])
            }
            Self::Range(..) | Self::Protocols(..) => {
                Set::of(&[Field::Priority, destination, Field::L4Proto])
            }
            Self::Any(..) => Set::of(&[Field::Priority, destination]),
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
    /// The source address of a direction of the packet's connection.
    pub ct_source: CtKey,
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
                ct_source: CtKey::SrcIp,
                icmp: 1,
            },
            IpFamily::V6 => Self {
                source: Field::Ip6Saddr,
                destination: Field::Ip6Daddr,
                ct_source: CtKey::SrcIp6,
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
            ranges: [
                (Direction::Ingress, Verdict::Allow, range),
                (Direction::Egress, Verdict::Allow, range),
                (Direction::Egress, Verdict::Deny, range),
            ]
            .into(),
            denies: true,
            outside: true,
            log: false,
        };
        let all = Lookup::all(&frame);
        assert_eq!(all.len(), 23);
        for one in all {
            assert_eq!(Lookup::of_name(&one.name()), Some(one));
            // 128 with the zero at its end; longer ones are cut.
            assert!(one.purpose().len() < 128, "{}", one.purpose());
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
