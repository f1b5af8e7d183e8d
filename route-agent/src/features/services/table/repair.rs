//! Mending what a notification of the kernel names, without reading the rest of the table.
//!
//! Reading back 100,000 elements takes more than a second; asking for one takes microseconds. So
//! when somebody touches a few elements or some rules, only those are looked at. Anything else, and
//! anything that is not understood, is left to the full comparison.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use podwire_kernel::monitor::Touched;
use podwire_kernel::nft;

use crate::features::services::desired::endpoints::Family;
use crate::features::services::desired::frontends::Claim;
use crate::features::services::layout::answers::Answer;
use crate::features::services::layout::chains;
use crate::features::services::layout::elements::{Element, objects};
use crate::features::services::layout::names::{AffinityHolds, Map};
use crate::features::services::layout::skeleton::skeleton;
use crate::features::services::table::base;
use crate::features::services::table::encode::{self, kernel_family};
use crate::features::services::table::observed::{
    meaning, meaning_of, meaning_of_answer, plain_member, same_chain,
};
use crate::features::services::table::state::{Commit, Done, FamilyTable, TableError, View};
use crate::ours::SERVICES_TABLE as TABLE;
use crate::snapshot::{Balancing, ObjectName, Protocol};

/// After more notifications than this before the next sync the whole table is read.
const MOST: usize = 4 * Touched::ELEMENTS_MAX;

/// What somebody else touched since the table was last known to be right.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    rules: bool,
    elements: BTreeSet<(String, nft::Key)>,
}

impl Doubts {
    /// Takes in a notification; false if it takes more than a look at single things.
    pub fn take_in(&mut self, touched: &Touched) -> bool {
        self.rules |= touched.rules;
        self.elements.extend(touched.elements.iter().cloned());
        !touched.anything && self.elements.len() <= MOST
    }

    /// True if there is nothing to look at.
    pub fn is_empty(&self) -> bool {
        !self.rules && self.elements.is_empty()
    }
}

/// Says whether all could be mended; if not, the table must be read.
type Mended = Result<bool, TableError>;

impl FamilyTable {
    /// Mends what is in doubt. False if the whole table must be read.
    pub(super) fn mend(
        &mut self,
        kernel: &mut dyn Commit,
        view: View<'_>,
        doubts: &Doubts,
        done: &mut Done,
    ) -> Mended {
        self.fresh_batch();
        if doubts.rules && !self.mend_chains(kernel, view)? {
            return Ok(false);
        }
        for (set, key) in &doubts.elements {
            if !self.mend_element(kernel, set, key)? {
                return Ok(false);
            }
        }
        Ok(self.commit_batch(kernel, done).is_ok())
    }

    /// Compares all chains with what they should be.
    fn mend_chains(&mut self, kernel: &mut dyn Commit, view: View<'_>) -> Mended {
        let family = kernel_family(self.family);
        let Some(there) = kernel.socket().observe_frame(family, TABLE)? else {
            return Ok(false);
        };
        let wanted = skeleton(family, view.config);
        if !base::has_sets(&there, &wanted) {
            return Ok(false);
        }
        let fixed = wanted.chains.into_iter();
        let mut chains: Vec<(String, nft::Chain)> = fixed
            .map(|(name, chain)| (name.to_owned(), chain))
            .collect();
        // Those that nobody gives any longer are in use until they are deleted.
        let answers = self.standing.answers.keys();
        for answer in answers.chain(&self.standing.old_answers) {
            if let Answer::Shared(shared) = answer {
                chains.push((shared.name(), chains::shared(*shared, family)));
            }
        }
        let with_own = self.applied.iter().filter(|(_, plan)| {
            plan.ports
                .iter()
                .any(|port| port.affinity.is_some() || port.balancing == Balancing::RoundRobin)
        });
        for (name, plan) in with_own {
            let own = objects(name, plan).chains;
            chains.extend(
                own.iter()
                    .map(|spec| (spec.chain.name(name), chains::own(spec, name, family))),
            );
        }
        let known: BTreeSet<&str> = chains.iter().map(|(name, _)| name.as_str()).collect();
        let is_known = |name: &str| known.contains(name) || self.standing.old_chains.contains(name);
        if !there.chains.keys().all(is_known) {
            return Ok(false);
        }
        for (name, wanted) in chains {
            match there.chains.get(&name) {
                Some(found) if same_chain(found, &wanted) => continue,
                Some(found) if found.base != wanted.base => return Ok(false),
                _ => {
                    let mut table = self.batch_mut().table(family, TABLE);
                    encode::write_chain(&mut table, &name, &wanted);
                }
            }
        }
        Ok(true)
    }

    /// Asks for one element and writes what it should be.
    fn mend_element(&mut self, kernel: &mut dyn Commit, set: &str, key: &[u8]) -> Mended {
        let Some(place) = self.place(set, key) else {
            return Ok(false);
        };
        let (map, wanted) = match &place {
            Place::OfTheRules => return Ok(true),
            Place::Hairpin { wanted } => (Map::Hairpin, wanted.then(plain_member)),
            Place::Answer { wanted } => (Map::Answers, wanted.map(meaning_of_answer)),
            Place::Of { map, name, element } => {
                (*map, element.as_ref().map(|element| meaning(name, element)))
            }
        };
        let family = kernel_family(self.family);
        let header = self.headers.of(map).into_owned();
        let found = kernel
            .socket()
            .element(family, TABLE, set, &header, key)?
            .map(|element| meaning_of(&element));
        if found == wanted {
            return Ok(true);
        }
        let (headers, batch) = self.headers_and_batch();
        let mut table = batch.table(family, TABLE);
        if found.is_some() {
            table.elements(set, &header).delete(key, None);
        }
        match place {
            Place::Hairpin { wanted: true } => {
                encode::add_member(&mut table.elements(set, &header), key);
            }
            // Its chain is mended with the rules.
            Place::Answer {
                wanted: Some(answer),
            } => encode::add_answer(&mut table, headers, answer),
            Place::Of {
                name,
                element: Some(element),
                ..
            } => encode::add(&mut table, headers, &name, &element),
            _ => {}
        }
        Ok(true)
    }

    /// What should be at a place; none if that cannot be told.
    fn place(&self, set: &str, key: &[u8]) -> Option<Place> {
        let fixed = Map::FIXED
            .into_iter()
            .find(|map| map.fixed_name() == Some(set));
        let Some(map) = fixed else {
            return self.place_of_affinity(set, key);
        };
        let mut fields = Fields(key);
        let claim = match map {
            Map::Hairpin => {
                let (from, to) = (fields.address(self.family)?, fields.address(self.family)?);
                let wanted = from == to && self.standing.local.contains_key(&from);
                return Some(Place::Hairpin { wanted });
            }
            Map::Answers => {
                let standing = &self.standing;
                let wanted = Answer::read(key).filter(|answer| {
                    standing.answers.contains_key(answer) || standing.old_answers.contains(answer)
                });
                return Some(Place::Answer { wanted });
            }
            Map::AllowedSources | Map::Affinity(_) => return None,
            Map::ClusterIps => Claim::ClusterIp(fields.address(self.family)?),
            Map::NodePorts
            | Map::NodePortsInside
            | Map::NodePortsOutside
            | Map::NodePortOwnChains
            | Map::MasqueradeNodePorts => Claim::NodePort(fields.protocol()?, fields.port()?),
            Map::Pool(pool) if !pool.has_address() => {
                Claim::NodePort(fields.protocol()?, fields.port()?)
            }
            Map::Services
            | Map::Pool(_)
            | Map::Allowed
            | Map::Inside
            | Map::Outside
            | Map::OwnChains
            | Map::MasqueradeVips => {
                let address = fields.address(self.family)?;
                Claim::Vip(address, fields.protocol()?, fields.port()?)
            }
        };
        // Nobody has a name without letters: what nobody claims has no element.
        let nobody = || ObjectName {
            namespace: Arc::from(""),
            name: Arc::from(""),
        };
        let name = self.owner(&claim).cloned().unwrap_or_else(nobody);
        let element = self.element_of(&name, |element| {
            element.map == map && element.key.as_bytes() == key
        });
        Some(Place::Of { map, name, element })
    }

    /// `affinity/NAMESPACE/NAME/tcp-80/endpoints` and the like.
    fn place_of_affinity(&self, set: &str, key: &[u8]) -> Option<Place> {
        let mut words = set.split('/').skip(1);
        let name = ObjectName {
            namespace: Arc::from(words.next()?),
            name: Arc::from(words.next()?),
        };
        let maps = objects(&name, self.applied.get(&name)?).maps;
        let map = *maps.iter().find(|map| map.name(&name) == set)?;
        if map.holds == AffinityHolds::Clients {
            return Some(Place::OfTheRules);
        }
        let map = Map::Affinity(map);
        let element = self.element_of(&name, |element| {
            element.map == map && element.key.as_bytes() == key
        });
        Some(Place::Of { map, name, element })
    }

    fn element_of(&self, name: &ObjectName, wanted: impl Fn(&Element) -> bool) -> Option<Element> {
        let elements = objects(name, self.applied.get(name)?).elements;
        elements.into_iter().find(wanted)
    }
}

/// What should be at a place in a set.
enum Place {
    /// An element of a Service, or nothing.
    Of {
        map: Map,
        name: ObjectName,
        element: Option<Element>,
    },
    /// A pair of addresses of which one may be an endpoint of this node.
    Hairpin { wanted: bool },
    /// An answer, or nothing.
    Answer { wanted: Option<Answer> },
    /// Whatever the rules put there.
    OfTheRules,
}

/// The fields of a key, one after the other.
pub(super) struct Fields<'a>(pub &'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }

    pub fn address(&mut self, family: Family) -> Option<IpAddr> {
        Some(match family {
            Family::V4 => Ipv4Addr::from(self.take::<4>()?).into(),
            Family::V6 => Ipv6Addr::from(self.take::<16>()?).into(),
        })
    }

    pub fn protocol(&mut self) -> Option<Protocol> {
        let [number, ..] = self.take::<4>()?;
        let all = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
        all.into_iter().find(|protocol| protocol.number() == number)
    }

    pub fn port(&mut self) -> Option<u16> {
        let [high, low, ..] = self.take::<4>()?;
        Some(u16::from_be_bytes([high, low]))
    }
}
