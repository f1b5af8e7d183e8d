//! Changes of Services as the messages of one transaction.
//!
//! In: for each Service its [`Delta`]. Out: a batch, and what it does to things that Services
//! share. Nothing is remembered before the kernel has taken the batch.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use podwire_kernel::nft::{Batch, ElementRef, ElementWriter, Set, TableWriter, ValueRef, Verdict};

use crate::config::services::Config;
use crate::features::services::desired::endpoints::{Backend, Family};
use crate::features::services::desired::plan::Plan;
use crate::features::services::layout::answers::Answer;
use crate::features::services::layout::chains;
use crate::features::services::layout::elements::{Element, Key, Value};
use crate::features::services::layout::names::Map;
use crate::features::services::layout::sets::set_of;
use crate::features::services::table::delta::Delta;
use crate::ours::SERVICES_TABLE as TABLE;
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
    /// Answers, and how many Services give each. Each is an element, which leads to a chain.
    pub answers: BTreeMap<Answer, u32>,
    /// Endpoints of this node, and how many Services have each.
    pub local: BTreeMap<IpAddr, u32>,
    /// Answers that nobody gives any longer, still in the kernel: packets may be on their way.
    pub old_answers: BTreeSet<Answer>,
    /// Answers that lie in the kernel with another meaning.
    pub wrong_answers: BTreeSet<Answer>,
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
pub fn kernel_family(family: Family) -> podwire_kernel::nft::Family {
    match family {
        Family::V4 => podwire_kernel::nft::Family::Ip,
        Family::V6 => podwire_kernel::nft::Family::Ip6,
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
    let added: Vec<Answer> = (after.answers.keys().copied())
        .filter(|answer| !standing.answers.contains_key(answer))
        .collect();
    for answer in added {
        if after.wrong_answers.remove(&answer) {
            delete_answer(&mut table, headers, answer);
        }
        if !after.old_answers.remove(&answer) {
            add_answer(&mut table, headers, answer);
        }
    }
    let unused = (standing.answers.keys()).filter(|answer| !after.answers.contains_key(answer));
    after.old_answers.extend(unused);
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
    /// True if more waits to be deleted than before.
    pub fn gave_up(&self, before: &Standing) -> bool {
        !self.old_answers.is_subset(&before.old_answers)
            || !self.old_chains.is_subset(&before.old_chains)
            || !self.old_maps.is_subset(&before.old_maps)
    }

    fn count(&mut self, delta: &Delta) {
        delta
            .answers_gained
            .iter()
            .for_each(|answer| gain(&mut self.answers, *answer));
        delta
            .answers_lost
            .iter()
            .for_each(|answer| lose(&mut self.answers, *answer));
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
pub fn write_chain(table: &mut TableWriter<'_>, name: &str, chain: &podwire_kernel::nft::Chain) {
    table.add_chain(name, chain).flush_chain(name);
    for rule in &chain.rules {
        table.add_rule(name, rule);
    }
}

/// Writes an answer, and the chain that it leads to if that is not always there.
pub fn add_answer(table: &mut TableWriter<'_>, headers: &Headers, answer: Answer) {
    let chain = answer.chain();
    if let Answer::Shared(shared) = answer {
        let rules = chains::shared(shared, kernel_family(headers.family));
        write_chain(table, &chain, &rules);
    }
    let name = Map::Answers.fixed_name().unwrap_or_default();
    let comment = answer.comment();
    table
        .elements(name, &headers.of(Map::Answers))
        .add(&ElementRef {
            key: answer_key(answer).as_bytes(),
            key_end: None,
            value: ValueRef::Verdict(&Verdict::goto(&chain)),
            timeout: None,
            comment: Some(&comment),
        });
}

/// Deletes an answer, but not the chain that it leads to.
pub fn delete_answer(table: &mut TableWriter<'_>, headers: &Headers, answer: Answer) {
    let name = Map::Answers.fixed_name().unwrap_or_default();
    table
        .elements(name, &headers.of(Map::Answers))
        .delete(answer_key(answer).as_bytes(), None);
}

/// Where an answer lies in its map.
pub fn answer_key(answer: Answer) -> Key {
    Key::new().number(answer.number())
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
        Value::Answer(answer) => {
            number = answer.number().to_ne_bytes();
            value = ValueRef::Data(&number);
        }
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
