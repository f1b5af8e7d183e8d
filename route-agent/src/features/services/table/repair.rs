//! Repairing what a notification of the kernel names, without reading the rest of the table.
//!
//! Reading back 100,000 elements takes more than a second; asking for one takes microseconds. So
//! when another process touches a few elements or some rules, only those are looked at. Anything
//! else, and anything that is not understood, is left to the full sync.

use std::collections::BTreeSet;
use std::sync::Arc;

use podwire_kernel::nft::{self, KeyReader};

use crate::features::services::desired::frontends::Claim;
use crate::features::services::layout::answers::Answer;
use crate::features::services::layout::chains;
use crate::features::services::layout::elements::{Element, OwnChainSpec, objects};
use crate::features::services::layout::names::{AffinityHolds, FixedMap, Map};
use crate::features::services::layout::skeleton::Skeleton;
use crate::features::services::table::base;
use crate::features::services::table::doubts::Doubts;
use crate::features::services::table::encode::{Messages, Writer};
use crate::features::services::table::nftables::{Nftables, TableError};
use crate::features::services::table::observed::{
    meaning, meaning_of, meaning_of_answer, plain_member, same_chain,
};
use crate::features::services::table::state::{Applied, View};
use crate::snapshot::{Balancing, ObjectName};

/// Repairs what is in doubt. False if the whole table must be read.
pub fn repair(
    applied: &Applied,
    writer: &mut Writer,
    kernel: &mut dyn Nftables,
    view: View<'_>,
    doubts: &Doubts,
) -> Result<bool, TableError> {
    let skeleton = base::skeleton_of(writer, view);
    let mut messages = writer.begin();
    if doubts.rules && !repair_chains(applied, &mut messages, kernel, &skeleton)? {
        return Ok(false);
    }
    for (set, key) in &doubts.elements {
        if !repair_element(applied, &mut messages, kernel, set, key)? {
            return Ok(false);
        }
    }
    writer.commit(kernel)?;
    Ok(true)
}

/// Compares all chains with what they should be.
fn repair_chains(
    applied: &Applied,
    messages: &mut Messages<'_>,
    kernel: &mut dyn Nftables,
    skeleton: &Skeleton,
) -> Result<bool, TableError> {
    let Some(there) = kernel.frame(messages.family())? else {
        return Ok(false);
    };
    if !base::has_sets(&there, skeleton) {
        return Ok(false);
    }
    let chains = wanted_chains(applied, messages.family(), skeleton);
    let known: BTreeSet<&str> = chains.iter().map(|(name, _)| name.as_str()).collect();
    let old = &applied.standing.old_chains;
    let is_known = |name: &str| known.contains(name) || old.contains(name);
    if !there.chains.keys().all(is_known) {
        return Ok(false);
    }
    for (name, wanted) in &chains {
        match there.chains.get(name) {
            Some(found) if same_chain(found, wanted) => {}
            Some(found) if found.base != wanted.base => return Ok(false),
            _ => messages.write_chain(name, wanted),
        }
    }
    Ok(true)
}

/// All chains that are in use, with their rules.
fn wanted_chains(
    applied: &Applied,
    family: nft::Family,
    skeleton: &Skeleton,
) -> Vec<(String, nft::Chain)> {
    let fixed = skeleton.chains.iter();
    let mut chains: Vec<(String, nft::Chain)> = fixed
        .map(|(name, chain)| ((*name).to_owned(), chain.clone()))
        .collect();
    // Those that no Service gives any longer are in use until they are deleted.
    let standing = &applied.standing;
    for answer in standing.answers.keys().chain(&standing.old_answers) {
        if let Answer::Shared(shared) = answer {
            chains.push((shared.name(), chains::shared(*shared, family)));
        }
    }
    let with_own = applied.plans().filter(|(_, plan)| {
        plan.ports
            .iter()
            .any(|port| port.affinity.is_some() || port.balancing == Balancing::RoundRobin)
    });
    for (name, plan) in with_own {
        let own = objects(name, plan).chains;
        let of = |spec: &OwnChainSpec| (spec.chain.name(name), chains::own(spec, name, family));
        chains.extend(own.iter().map(of));
    }
    chains
}

/// Asks for one element and writes what it should be.
fn repair_element(
    applied: &Applied,
    messages: &mut Messages<'_>,
    kernel: &mut dyn Nftables,
    set: &str,
    key: &[u8],
) -> Result<bool, TableError> {
    let Some(place) = place_of(applied, set, key) else {
        return Ok(false);
    };
    let (map, wanted) = match &place {
        Place::OfTheRules => return Ok(true),
        Place::Hairpin { wanted } => (FixedMap::Hairpin.into(), wanted.then(plain_member)),
        Place::Answer { wanted } => (FixedMap::Answers.into(), wanted.map(meaning_of_answer)),
        Place::Of { map, name, element } => {
            (*map, element.as_ref().map(|element| meaning(name, element)))
        }
    };
    let header = messages.header(map);
    let found = kernel
        .element(messages.family(), set, &header, key)?
        .map(|element| meaning_of(&element));
    if found == wanted {
        return Ok(true);
    }
    if found.is_some() {
        messages.table().elements(set, &header).delete(key, None);
    }
    match place {
        Place::Hairpin { wanted: true } => messages.add_member(set, &header, key, None),
        // Its chain is repaired with the rules.
        Place::Answer {
            wanted: Some(answer),
        } => messages.add_answer(answer),
        Place::Of {
            name,
            element: Some(element),
            ..
        } => messages.add(&name, &element),
        _ => {}
    }
    Ok(true)
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
    /// What the rules put there.
    OfTheRules,
}

/// What should be at a place; none if that cannot be decided.
fn place_of(applied: &Applied, set: &str, key: &[u8]) -> Option<Place> {
    let Some(map) = FixedMap::of_name(set) else {
        return place_of_affinity(applied, set, key);
    };
    let family = applied.family();
    let standing = &applied.standing;
    let mut fields = KeyReader::new(key);
    let claim = match map {
        FixedMap::Hairpin => {
            let (from, to) = (fields.address(family)?, fields.address(family)?);
            let wanted = from == to && standing.local.contains_key(&from);
            return Some(Place::Hairpin { wanted });
        }
        FixedMap::Answers => {
            let wanted = Answer::read(key).filter(|answer| {
                standing.answers.contains_key(answer) || standing.old_answers.contains(answer)
            });
            return Some(Place::Answer { wanted });
        }
        FixedMap::AllowedSources => return None,
        FixedMap::ClusterIps => Claim::ClusterIp(fields.address(family)?),
        FixedMap::NodePorts
        | FixedMap::NodePortsInside
        | FixedMap::NodePortsOutside
        | FixedMap::NodePortOwnChains
        | FixedMap::MasqueradeNodePorts => Claim::NodePort(fields.protocol()?, fields.port()?),
        FixedMap::Pool(pool) if !pool.has_address() => {
            Claim::NodePort(fields.protocol()?, fields.port()?)
        }
        FixedMap::Services
        | FixedMap::Pool(_)
        | FixedMap::Allowed
        | FixedMap::Inside
        | FixedMap::Outside
        | FixedMap::OwnChains
        | FixedMap::MasqueradeVips => {
            let address = fields.address(family)?;
            Claim::Vip(address, fields.protocol()?, fields.port()?)
        }
    };
    // No Service has a name without letters: what no one claims has no element.
    let no_one = || ObjectName {
        namespace: Arc::from(""),
        name: Arc::from(""),
    };
    let name = applied.owner(&claim).cloned().unwrap_or_else(no_one);
    Some(of_service(applied, name, map.into(), key))
}

/// `affinity/NAMESPACE/NAME/tcp-80/endpoints` and the like.
fn place_of_affinity(applied: &Applied, set: &str, key: &[u8]) -> Option<Place> {
    let mut words = set.split('/').skip(1);
    let name = ObjectName {
        namespace: Arc::from(words.next()?),
        name: Arc::from(words.next()?),
    };
    let maps = objects(&name, applied.plan(&name)?).maps;
    let map = *maps.iter().find(|map| map.name(&name) == set)?;
    if map.holds == AffinityHolds::Clients {
        return Some(Place::OfTheRules);
    }
    Some(of_service(applied, name, Map::Affinity(map), key))
}

/// What a Service has at a place.
fn of_service(applied: &Applied, name: ObjectName, map: Map, key: &[u8]) -> Place {
    let elements = applied
        .plan(&name)
        .map(|plan| objects(&name, plan).elements);
    let here = |element: &Element| element.map == map && element.key.as_bytes() == key;
    let element = elements.into_iter().flatten().find(here);
    Place::Of { map, name, element }
}
