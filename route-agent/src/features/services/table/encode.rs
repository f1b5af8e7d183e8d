//! Changes of Services as the messages of one transaction.
//!
//! In: for each Service its [`Delta`]. Out: a batch, and what it does to things that Services
//! share. Nothing is remembered before the kernel has taken the batch.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

use podwire_kernel::IpFamily;
use podwire_kernel::nft::{
    self, Batch, CommitError, ElementRef, Set, TableWriter, ValueRef, Verdict,
};

use crate::config::services::Config;
use crate::features::services::desired::endpoints::Backend;
use crate::features::services::layout::answers::Answer;
use crate::features::services::layout::chains;
use crate::features::services::layout::elements::{Element, Key, Value};
use crate::features::services::layout::names::{FixedMap, Map};
use crate::features::services::layout::sets::set_of;
use crate::features::services::table::delta::{Change, Delta};
use crate::features::services::table::nftables::{Nftables, TableError};
use crate::features::services::table::standing::Standing;
use crate::ours::SERVICES_TABLE as TABLE;
use crate::snapshot::ObjectName;
use crate::warnings::LastFailure;

/// How changes are said to the kernel: how the sets are declared, and one batch, whose memory is
/// used again.
#[derive(Debug)]
pub struct Writer {
    headers: Headers,
    batch: Batch,
    sent: u64,
    /// Of a table that is there, but not whole.
    pub repairs: LastFailure,
}

impl Writer {
    /// For the table of a family.
    pub fn new(family: IpFamily, config: &Config) -> Writer {
        Writer {
            headers: Headers::new(family, config),
            batch: Batch::new(),
            sent: 0,
            repairs: LastFailure::default(),
        }
    }

    /// How the sets are declared.
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// The family of the table.
    pub fn family(&self) -> nft::Family {
        podwire_kernel::nft::Family::from(self.headers.family)
    }

    /// Begins a batch.
    pub fn begin(&mut self) -> Messages<'_> {
        self.batch.clear();
        Messages {
            batch: &mut self.batch,
            headers: &self.headers,
        }
    }

    /// Has the batch carried out, if there is anything in it.
    pub fn commit(&mut self, kernel: &mut dyn Nftables) -> Result<(), TableError> {
        self.commit_services(kernel, &[])
            .map_err(|source| self.failed(source))
    }

    /// As [`Writer::commit`], for a batch with changes of Services.
    pub fn commit_services(
        &mut self,
        kernel: &mut dyn Nftables,
        services: &[Change],
    ) -> Result<(), CommitError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        self.sent += 1;
        kernel.commit(&mut self.batch, services)
    }

    /// What it means for the table that a batch was refused.
    pub fn failed(&self, source: CommitError) -> TableError {
        let family = self.family();
        TableError::Commit { family, source }
    }

    /// How many batches were sent since the last call.
    pub fn take_sent(&mut self) -> u64 {
        std::mem::take(&mut self.sent)
    }

    /// Gives back the memory of the largest batch.
    pub fn shrink(&mut self) {
        self.batch = Batch::new();
    }
}

/// The messages of a batch that is being written, all for one table.
#[derive(Debug)]
pub struct Messages<'a> {
    /// The batch itself.
    pub batch: &'a mut Batch,
    headers: &'a Headers,
}

/// How the sets and maps are declared, so that elements can be written.
#[derive(Debug)]
pub struct Headers {
    family: IpFamily,
    config: Config,
    fixed: BTreeMap<FixedMap, Set>,
}

impl Headers {
    /// The declarations of a family's table.
    pub fn new(family: IpFamily, config: &Config) -> Headers {
        let header = |map: FixedMap| {
            (
                map,
                set_of(
                    map.into(),
                    podwire_kernel::nft::Family::from(family),
                    config,
                ),
            )
        };
        Headers {
            family,
            config: config.clone(),
            fixed: FixedMap::ALL.into_iter().map(header).collect(),
        }
    }

    /// How a map is declared.
    pub fn of(&self, map: impl Into<Map>) -> Cow<'_, Set> {
        let map = map.into();
        let known = match map {
            Map::Fixed(map) => self.fixed.get(&map),
            Map::Affinity(_) => None,
        };
        match known {
            Some(set) => Cow::Borrowed(set),
            None => Cow::Owned(set_of(
                map,
                podwire_kernel::nft::Family::from(self.family),
                &self.config,
            )),
        }
    }
}

impl<'a> Messages<'a> {
    /// Writes messages about anything in the table.
    pub fn table(&mut self) -> TableWriter<'_> {
        self.batch.table(
            podwire_kernel::nft::Family::from(self.headers.family),
            TABLE,
        )
    }

    /// Writes the changes and returns what stands once the kernel has taken them.
    ///
    /// The order is the one that the kernel needs: what is referred to comes before what refers to
    /// it, and an old element goes before a new one with its key comes.
    pub fn encode(&mut self, standing: &Standing, changes: &[Change]) -> Standing {
        let mut after = standing.clone();
        for change in changes {
            after.count(&change.delta);
        }
        let added: Vec<Answer> = (after.answers.keys().copied())
            .filter(|answer| !standing.answers.contains_key(answer))
            .collect();
        for answer in added {
            if after.wrong_answers.remove(&answer) {
                self.delete_answer(answer);
            }
            if !after.old_answers.remove(&answer) {
                self.add_answer(answer);
            }
        }
        let unused = (standing.answers.keys()).filter(|answer| !after.answers.contains_key(answer));
        after.old_answers.extend(unused);
        for change in changes {
            self.own_objects(change, &mut after);
        }
        for (service, element) in by_map(changes, |delta| &delta.remove) {
            self.remove(service, element);
        }
        for (service, element) in by_map(changes, |delta| &delta.add) {
            self.add(service, element);
        }
        self.hairpin(standing, &after);
        after
    }

    /// The family of the table.
    pub fn family(&self) -> nft::Family {
        podwire_kernel::nft::Family::from(self.headers.family)
    }

    /// How a map is declared.
    pub fn header(&self, map: Map) -> Cow<'a, Set> {
        self.headers.of(map)
    }

    /// Creates and fills a chain, also one that is there with other rules.
    pub fn write_chain(&mut self, name: &str, chain: &nft::Chain) {
        let mut table = self.table();
        table.add_chain(name, chain).flush_chain(name);
        for rule in &chain.rules {
            table.add_rule(name, rule);
        }
    }

    /// Writes an answer, and the chain that it leads to if that is not always there.
    pub fn add_answer(&mut self, answer: Answer) {
        let chain = answer.chain();
        if let Answer::Shared(shared) = answer {
            let rules = chains::shared(
                shared,
                podwire_kernel::nft::Family::from(self.headers.family),
            );
            self.write_chain(&chain, &rules);
        }
        let name = FixedMap::Answers.name();
        let comment = answer.comment();
        let header = self.headers.of(FixedMap::Answers);
        self.table().elements(name, &header).add(&ElementRef {
            key: answer_key(answer).as_bytes(),
            key_end: None,
            value: ValueRef::Verdict(&Verdict::goto(&chain)),
            timeout: None,
            comment: Some(&comment),
        });
    }

    /// Deletes an answer, but not the chain that it leads to.
    pub fn delete_answer(&mut self, answer: Answer) {
        let name = FixedMap::Answers.name();
        let header = self.headers.of(FixedMap::Answers);
        self.table()
            .elements(name, &header)
            .delete(answer_key(answer).as_bytes(), None);
    }

    /// Chains and maps of one Service. What it does not need any longer is emptied now and deleted
    /// later: kernels before 6.2 still count the references of this very transaction.
    fn own_objects(&mut self, change: &Change, after: &mut Standing) {
        let Change { name, delta, .. } = change;
        let headers = self.headers;
        for map in &delta.new_maps {
            let set = map.name(name);
            if !after.old_maps.remove(&set) {
                self.table().add_set(&set, &headers.of(*map));
            }
        }
        for spec in &delta.new_chains {
            let chain = spec.chain.name(name);
            after.old_chains.remove(&chain);
            let rules = chains::own(
                spec,
                name,
                podwire_kernel::nft::Family::from(headers.family),
            );
            self.write_chain(&chain, &rules);
        }
        for chain in &delta.old_chains {
            let chain = chain.name(name);
            self.table().flush_chain(&chain);
            after.old_chains.insert(chain);
        }
        let old_maps = delta.old_maps.iter().map(|map| map.name(name));
        after.old_maps.extend(old_maps);
    }

    fn remove(&mut self, name: &ObjectName, element: &Element) {
        let until = match &element.value {
            Value::Until(key) => Some(key.as_bytes()),
            _ => None,
        };
        let header = self.headers.of(element.map);
        self.table()
            .elements(&element.map.name(name), &header)
            .delete(element.key.as_bytes(), until);
    }

    /// Writes an element of a Service.
    pub fn add(&mut self, name: &ObjectName, element: &Element) {
        let map = element.map.name(name);
        let header = self.headers.of(element.map);
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
        self.table().elements(&map, &header).add(&ElementRef {
            key: element.key.as_bytes(),
            key_end,
            value,
            timeout: None,
            comment: Some(&*element.comment),
        });
    }

    /// Every endpoint of this node may reach itself.
    fn hairpin(&mut self, before: &Standing, after: &Standing) {
        let name = FixedMap::Hairpin.name();
        let header = self.headers.of(FixedMap::Hairpin);
        let gone = (before.local.keys()).filter(|address| !after.local.contains_key(address));
        for address in gone {
            let key = hairpin_key(*address);
            self.table()
                .elements(name, &header)
                .delete(key.as_bytes(), None);
        }
        let new = (after.local.keys()).filter(|address| !before.local.contains_key(address));
        for address in new {
            self.add_member(name, &header, hairpin_key(*address).as_bytes(), None);
        }
    }

    /// Writes an element that says nothing but its key, or the first and last key of its range.
    pub fn add_member(&mut self, set: &str, header: &Set, key: &[u8], key_end: Option<&[u8]>) {
        self.table().elements(set, header).add(&ElementRef {
            key,
            key_end,
            value: ValueRef::None,
            timeout: None,
            comment: None,
        });
    }
}

/// The elements of one list of all changes, those of one map together.
fn by_map(changes: &[Change], list: fn(&Delta) -> &Vec<Element>) -> Vec<(&ObjectName, &Element)> {
    let of = |change| {
        let Change { name, delta, .. }: &Change = change;
        list(delta).iter().map(move |element| (name, element))
    };
    let mut elements: Vec<(&ObjectName, &Element)> = changes.iter().flat_map(of).collect();
    elements.sort_by_key(|(_, element)| element.map);
    elements
}

/// Where an answer lies in its map.
pub fn answer_key(answer: Answer) -> Key {
    Key::new().number(answer.number())
}

/// An endpoint as the data of a map.
pub fn backend_data(backend: &Backend) -> Key {
    Key::new()
        .address(backend.address)
        .field(&backend.port.to_be_bytes())
}

/// From an endpoint to itself.
pub fn hairpin_key(address: IpAddr) -> Key {
    Key::new().address(address).address(address)
}
