//! Changes of Services as the messages of one transaction.
//!
//! In: for each Service its [`Delta`]. Out: a batch, and what it does to things that Services
//! share. Nothing is remembered before the kernel has taken the batch.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ::kernel::nft::{Batch, ElementRef, ElementWriter, Set, TableWriter, ValueRef, Verdict};

use super::config::Config;
use super::delta::Delta;
use super::endpoints::{Backend, Family};
use super::layout::chains;
use super::layout::elements::{Element, Key, Value};
use super::layout::names::{Map, Shared, TABLE};
use super::layout::skeleton::set_of;
use super::plan::Plan;
use crate::snapshot::ObjectName;

/// What is to be written for one Service.
#[derive(Debug, Clone)]
pub struct Change {
    /// The Service.
    pub name: ObjectName,
    /// What differs in the kernel.
    pub delta: Delta,
    /// What the Service is afterwards; none if it is gone.
    pub plan: Option<Plan>,
}

/// Things in the kernel that several Services use, or that outlive their use for a moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// Shared chains, and how many Services use each. Not in the kernel if nobody does.
    pub shared: BTreeMap<Shared, u32>,
    /// Endpoints of this node, and how many Services have each.
    pub local: BTreeMap<IpAddr, u32>,
    /// Chains that nothing refers to any longer.
    pub old_chains: BTreeSet<String>,
    /// Maps that nothing refers to any longer.
    pub old_maps: BTreeSet<String>,
}

/// How the sets and maps are declared, so that elements can be written.
#[derive(Debug)]
pub struct Headers {
    family: Family,
    config: Config,
    fixed: BTreeMap<Map, Set>,
}

impl Headers {
    /// The declarations of a family's table.
    pub fn new(family: Family, config: &Config) -> Headers {
        let header = |map| (map, set_of(map, kernel_family(family), config));
        Headers {
            family,
            config: config.clone(),
            fixed: Map::FIXED.into_iter().map(header).collect(),
        }
    }

    /// How a map is declared.
    pub fn of(&self, map: Map) -> std::borrow::Cow<'_, Set> {
        match self.fixed.get(&map) {
            Some(set) => std::borrow::Cow::Borrowed(set),
            None => std::borrow::Cow::Owned(set_of(map, kernel_family(self.family), &self.config)),
        }
    }
}

/// The family as the kernel crate names it.
pub fn kernel_family(family: Family) -> ::kernel::nft::Family {
    match family {
        Family::V4 => ::kernel::nft::Family::Ip,
        Family::V6 => ::kernel::nft::Family::Ip6,
    }
}

/// Writes the changes to `batch` and returns what stands once the kernel has taken it.
///
/// The order is the one that the kernel needs: what is referred to comes before what refers to
/// it, and an old element goes before a new one with its key comes.
pub fn encode(
    batch: &mut Batch,
    headers: &Headers,
    standing: &Standing,
    changes: &[Change],
) -> Standing {
    let family = kernel_family(headers.family);
    let mut table = batch.table(family, TABLE);
    let mut after = standing.clone();
    for change in changes {
        after.count(&change.delta);
    }
    for chain in after
        .shared
        .keys()
        .filter(|chain| !standing.shared.contains_key(chain))
    {
        let name = chain.name();
        if !after.old_chains.remove(&name) {
            write_chain(&mut table, &name, &chains::shared(*chain, family));
        }
    }
    let unused = standing
        .shared
        .keys()
        .filter(|chain| !after.shared.contains_key(chain));
    after.old_chains.extend(unused.map(|chain| chain.name()));
    for change in changes {
        own_objects(&mut table, headers, change, &mut after);
    }
    let by_map = |list: fn(&Delta) -> &Vec<Element>| {
        let of = |change| {
            let Change { name, delta, .. }: &Change = change;
            list(delta).iter().map(move |element| (name, element))
        };
        let mut elements: Vec<(&ObjectName, &Element)> = changes.iter().flat_map(of).collect();
        elements.sort_by_key(|(_, element)| element.map);
        elements
    };
    for (service, element) in by_map(|delta| &delta.remove) {
        remove(&mut table, headers, service, element);
    }
    for (service, element) in by_map(|delta| &delta.add) {
        add(&mut table, headers, service, element);
    }
    hairpin(&mut table, headers, standing, &after);
    after
}

impl Standing {
    fn count(&mut self, delta: &Delta) {
        delta
            .shared_gained
            .iter()
            .for_each(|chain| gain(&mut self.shared, *chain));
        delta
            .shared_lost
            .iter()
            .for_each(|chain| lose(&mut self.shared, *chain));
        delta
            .local_gained
            .iter()
            .for_each(|address| gain(&mut self.local, *address));
        delta
            .local_lost
            .iter()
            .for_each(|address| lose(&mut self.local, *address));
    }
}

fn gain<K: Ord>(counts: &mut BTreeMap<K, u32>, key: K) {
    *counts.entry(key).or_default() += 1;
}

fn lose<K: Ord>(counts: &mut BTreeMap<K, u32>, key: K) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}

/// Creates and fills a chain, also one that is there with other rules.
pub fn write_chain(table: &mut TableWriter<'_>, name: &str, chain: &::kernel::nft::Chain) {
    table.add_chain(name, chain).flush_chain(name);
    for rule in &chain.rules {
        table.add_rule(name, rule);
    }
}

/// Chains and maps of one Service. What it does not need any longer is emptied now and deleted
/// later: kernels before 6.2 still count the references of this very transaction.
fn own_objects(
    table: &mut TableWriter<'_>,
    headers: &Headers,
    change: &Change,
    after: &mut Standing,
) {
    let family = kernel_family(headers.family);
    for map in &change.delta.new_maps {
        let name = map.name(&change.name);
        if !after.old_maps.remove(&name) {
            table.add_set(&name, &headers.of(Map::Affinity(*map)));
        }
    }
    for spec in &change.delta.new_chains {
        let name = spec.chain.name(&change.name);
        after.old_chains.remove(&name);
        write_chain(table, &name, &chains::own(spec, &change.name, family));
    }
    for chain in &change.delta.old_chains {
        let name = chain.name(&change.name);
        table.flush_chain(&name);
        after.old_chains.insert(name);
    }
    after.old_maps.extend(
        change
            .delta
            .old_maps
            .iter()
            .map(|map| map.name(&change.name)),
    );
}

fn remove(table: &mut TableWriter<'_>, headers: &Headers, name: &ObjectName, element: &Element) {
    let until = match &element.value {
        Value::Until(key) => Some(key.as_bytes()),
        _ => None,
    };
    table
        .elements(&element.map.name(name), &headers.of(element.map))
        .delete(element.key.as_bytes(), until);
}

/// Writes an element of a Service.
pub fn add(table: &mut TableWriter<'_>, headers: &Headers, name: &ObjectName, element: &Element) {
    let map = element.map.name(name);
    let header = headers.of(element.map);
    let (verdict, data, number);
    let (mut key_end, mut value) = (None, ValueRef::None);
    match &element.value {
        Value::Member => {}
        Value::Until(key) => key_end = Some(key.as_bytes()),
        Value::Goto(chain) => {
            verdict = Verdict::goto(&chain.name(name));
            value = ValueRef::Verdict(&verdict);
        }
        Value::Backend(backend) => {
            data = backend_data(backend);
            value = ValueRef::Data(data.as_bytes());
        }
        Value::Number(it) => {
            number = it.to_ne_bytes();
            value = ValueRef::Data(&number);
        }
    }
    let key = element.key.as_bytes();
    let comment = Some(&*element.comment);
    table.elements(&map, &header).add(&ElementRef {
        key,
        key_end,
        value,
        timeout: None,
        comment,
    });
}

/// An endpoint as the data of a map.
pub fn backend_data(backend: &Backend) -> Key {
    Key::new()
        .address(backend.address)
        .field(&backend.port.to_be_bytes())
}

/// Every endpoint of this node may reach itself.
fn hairpin(table: &mut TableWriter<'_>, headers: &Headers, before: &Standing, after: &Standing) {
    let name = Map::Hairpin.fixed_name().unwrap_or_default();
    let header = headers.of(Map::Hairpin);
    let mut elements = table.elements(name, &header);
    for address in before
        .local
        .keys()
        .filter(|address| !after.local.contains_key(address))
    {
        elements.delete(hairpin_key(*address).as_bytes(), None);
    }
    for address in after
        .local
        .keys()
        .filter(|address| !before.local.contains_key(address))
    {
        add_member(&mut elements, hairpin_key(*address).as_bytes());
    }
}

/// Writes an element that says nothing but its key.
pub fn add_member(elements: &mut ElementWriter<'_>, key: &[u8]) {
    elements.add(&ElementRef {
        key,
        key_end: None,
        value: ValueRef::None,
        timeout: None,
        comment: None,
    });
}

/// From an endpoint to itself.
pub fn hairpin_key(address: IpAddr) -> Key {
    Key::new().address(address).address(address)
}
