//! The endpoints of a slice, packed: a large cluster has hundreds of thousands of them, and most
//! say nothing but an address, a Node and that they are ready.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::snapshot::Few;

const READY: u8 = 1;
const SERVING: u8 = 2;
const TERMINATING: u8 = 4;
const HAS_NODE: u8 = 8;
const HAS_HINTS: u8 = 16;
const IS_V6: u8 = 32;

/// The endpoints of an EndpointSlice, in the order of the object.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// For each endpoint: a byte of flags, its address, and if it has a Node the place of that in
    /// `nodes`, two bytes.
    packed: Box<[u8]>,
    /// The Nodes of these endpoints, each once.
    nodes: Box<[Arc<str>]>,
    /// The hints of those endpoints that have some.
    hints: Few<Hints>,
}

/// One endpoint of an EndpointSlice, as [`Endpoints`] take it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `addresses[0]`; the API promises that all are equivalent.
    pub address: IpAddr,
    /// `conditions.ready`; true if absent.
    pub ready: bool,
    /// `conditions.serving`; true if absent.
    pub serving: bool,
    /// `conditions.terminating`; false if absent.
    pub terminating: bool,
    /// The Node it runs on.
    pub node: Option<Arc<str>>,
    /// `hints`, if the endpoint has any; boxed because most endpoints have none.
    pub hints: Option<Box<Hints>>,
}

/// Where an endpoint should be used from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hints {
    /// `hints.forZones`: names of zones.
    pub zones: Box<[Arc<str>]>,
    /// `hints.forNodes`: names of Nodes.
    pub nodes: Box<[Arc<str>]>,
}

/// One endpoint of a slice, as [`Endpoint`] but borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndpointRef<'a> {
    /// Its address.
    pub address: IpAddr,
    /// May get new connections.
    pub ready: bool,
    /// Answers, even if it is being stopped.
    pub serving: bool,
    /// Is being stopped.
    pub terminating: bool,
    /// The Node it runs on.
    pub node: Option<&'a Arc<str>>,
    /// Where it should be used from.
    pub hints: Option<&'a Hints>,
}

impl Endpoints {
    /// All, one after the other.
    pub fn iter(&self) -> Iter<'_> {
        Iter {
            packed: &self.packed,
            nodes: &self.nodes,
            hints: self.hints.iter(),
        }
    }

    /// True if one of them is on the Node of this name.
    pub fn are_on(&self, node: &str) -> bool {
        self.nodes.iter().any(|name| **name == *node)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.packed.is_empty()
    }
}

impl FromIterator<Endpoint> for Endpoints {
    fn from_iter<T: IntoIterator<Item = Endpoint>>(endpoints: T) -> Self {
        let (mut packed, mut nodes, mut hints) = (Vec::new(), Vec::new(), Vec::new());
        for endpoint in endpoints {
            let flag = |is: bool, flag: u8| if is { flag } else { 0 };
            let node = endpoint.node.and_then(|node| place(&mut nodes, node));
            packed.push(
                flag(endpoint.ready, READY)
                    | flag(endpoint.serving, SERVING)
                    | flag(endpoint.terminating, TERMINATING)
                    | flag(node.is_some(), HAS_NODE)
                    | flag(endpoint.hints.is_some(), HAS_HINTS)
                    | flag(endpoint.address.is_ipv6(), IS_V6),
            );
            match endpoint.address {
                IpAddr::V4(address) => packed.extend(address.octets()),
                IpAddr::V6(address) => packed.extend(address.octets()),
            }
            packed.extend(node.into_iter().flat_map(u16::to_ne_bytes));
            hints.extend(endpoint.hints.map(|hints| *hints));
        }
        Self {
            packed: packed.into(),
            nodes: nodes.into(),
            hints: hints.into(),
        }
    }
}

/// Where a Node is in the list; it is added if it is new. None only for more Nodes than a slice can
/// have endpoints.
fn place(nodes: &mut Vec<Arc<str>>, node: Arc<str>) -> Option<u16> {
    let known = nodes.iter().position(|known| *known == node);
    let place = known.unwrap_or(nodes.len());
    let place = u16::try_from(place).ok()?;
    if known.is_none() {
        nodes.push(node);
    }
    Some(place)
}

impl<'a> IntoIterator for &'a Endpoints {
    type Item = EndpointRef<'a>;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

impl fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self).finish()
    }
}

/// The endpoints of a slice, one after the other.
#[derive(Debug, Clone)]
pub struct Iter<'a> {
    packed: &'a [u8],
    nodes: &'a [Arc<str>],
    hints: std::slice::Iter<'a, Hints>,
}

impl<'a> Iter<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.packed.split_first_chunk()?;
        self.packed = rest;
        Some(*first)
    }
}

impl<'a> Iterator for Iter<'a> {
    type Item = EndpointRef<'a>;

    fn next(&mut self) -> Option<EndpointRef<'a>> {
        let [flags] = self.take()?;
        let is = |flag: u8| flags & flag != 0;
        let address = if is(IS_V6) {
            Ipv6Addr::from(self.take::<16>()?).into()
        } else {
            Ipv4Addr::from(self.take::<4>()?).into()
        };
        let node = if is(HAS_NODE) {
            self.nodes
                .get(usize::from(u16::from_ne_bytes(self.take()?)))
        } else {
            None
        };
        let hints = if is(HAS_HINTS) {
            self.hints.next()
        } else {
            None
        };
        Some(EndpointRef {
            address,
            ready: is(READY),
            serving: is(SERVING),
            terminating: is(TERMINATING),
            node,
            hints,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn endpoint() -> impl Strategy<Value = Endpoint> {
        let name = || prop::sample::select(vec!["a", "b", "worker"]).prop_map(Arc::from);
        let names =
            || prop::collection::vec(name(), 0..3).prop_map(|names: Vec<Arc<str>>| names.into());
        let hints = (names(), names()).prop_map(|(zones, nodes)| Box::new(Hints { zones, nodes }));
        let (node, hints) = (prop::option::of(name()), prop::option::of(hints));
        (any::<IpAddr>(), any::<[bool; 3]>(), node, hints).prop_map(
            |(address, [ready, serving, terminating], node, hints)| Endpoint {
                address,
                ready,
                serving,
                terminating,
                node,
                hints,
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_packed_comes_out_again(all in prop::collection::vec(endpoint(), 0..20)) {
            let packed: Endpoints = all.iter().cloned().collect();
            prop_assert_eq!(packed.len(), all.len());
            for (endpoint, found) in all.iter().zip(&packed) {
                let wanted = EndpointRef {
                    address: endpoint.address,
                    ready: endpoint.ready,
                    serving: endpoint.serving,
                    terminating: endpoint.terminating,
                    node: endpoint.node.as_ref(),
                    hints: endpoint.hints.as_deref(),
                };
                prop_assert_eq!(found, wanted);
            }
        }
    }
}
