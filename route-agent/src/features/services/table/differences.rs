//! Where a table differs from what was written, in sentences for the operator.
//!
//! In: what was written, and the kernel. Out: one sentence for each object that is missing, wrong
//! or too much; it says what is wanted. Nothing is changed: the next sync repairs it.

use std::collections::BTreeSet;

use podwire_kernel::nft::{Key, Table};

use crate::features::parts::kept_table::asleep;
use crate::features::services::layout::answers::Answer;
use crate::features::services::layout::elements::{Element, Value, objects};
use crate::features::services::layout::names::FixedMap;
use crate::features::services::layout::skeleton::{Skeleton, skeleton};
use crate::features::services::table::base;
use crate::features::services::table::delta::Delta;
use crate::features::services::table::encode::{Headers, hairpin_key};
use crate::features::services::table::nftables::{Nftables, TableError};
use crate::features::services::table::observed::{
    Found, Observed, plain_member, plain_range, same_chain,
};
use crate::features::services::table::state::{Applied, View};
use crate::ours::SERVICES_TABLE as TABLE;
use crate::snapshot::ObjectName;

/// The set of endpoints that may reach themselves.
const HAIRPIN: &str = FixedMap::Hairpin.name();

/// The map from answers to chains.
const ANSWERS: &str = FixedMap::Answers.name();

/// This many elements of one Service, or of one set, are named.
const NAMED: usize = 3;

/// Where the kernel differs from what was written, one sentence each.
pub fn differences(
    applied: &Applied,
    headers: &Headers,
    kernel: &mut dyn Nftables,
    view: View<'_>,
) -> Vec<String> {
    let skeleton = skeleton(
        podwire_kernel::nft::Family::from(applied.family()),
        view.config,
        view.logging,
    );
    let written = Written {
        applied,
        headers,
        view,
        skeleton,
    };
    written
        .differences(kernel)
        .unwrap_or_else(|error| vec![crate::error::chain(&error)])
}

/// What was written, with what it takes to compare it.
struct Written<'a> {
    applied: &'a Applied,
    headers: &'a Headers,
    view: View<'a>,
    skeleton: Skeleton,
}

impl Written<'_> {
    fn differences(&self, kernel: &mut dyn Nftables) -> Result<Vec<String>, TableError> {
        let applied = self.applied;
        let family = podwire_kernel::nft::Family::from(applied.family());
        let Some(frame) = kernel.frame(family)? else {
            let written = applied.plans().next().is_some();
            return Ok(if written {
                vec![format!("table {family} {TABLE} is missing")]
            } else {
                Vec::new()
            });
        };
        let mut texts = self.of_frame(&frame);
        let mut observed = Observed::read(kernel, applied.family(), frame)?;
        texts.extend(self.of_services(&mut observed));
        texts.extend(self.of_networks(&mut observed));
        texts.extend(self.too_much(kernel, &observed)?);
        texts.sort_unstable();
        for text in &mut texts {
            text.insert_str(0, &format!("table {family} {TABLE}: "));
        }
        Ok(texts)
    }

    /// What is missing or wrong of all Services, and of what they share.
    fn of_services(&self, observed: &mut Observed) -> Vec<String> {
        let (mut texts, mut answers) = (Vec::new(), BTreeSet::new());
        for (name, plan) in self.applied.plans() {
            let delta = observed.diff(name, objects(name, plan), self.headers);
            answers.extend(delta.answers_gained.iter().copied());
            texts.extend(self.of_service(name, &delta));
            for address in &delta.local_gained {
                let key = hairpin_key(*address);
                let found = observed.claim(HAIRPIN, key.as_bytes(), plain_member());
                if found != Found::Right {
                    texts.push(format!(
                        "set `{HAIRPIN}` lacks {address} . {address}, which Service {name} needs"
                    ));
                }
            }
        }
        texts.extend(of_answers(observed, &answers));
        for waiting in &self.applied.standing.old_answers {
            observed.claim_answer(*waiting);
        }
        texts
    }

    /// Sets and chains that are always there.
    fn of_frame(&self, frame: &Table) -> Vec<String> {
        let wanted = &self.skeleton;
        let sets = wanted.sets.iter().map(|(name, set)| {
            let there = frame.sets.get(name);
            ("set", *name, there.map(|there| there.same_header(set)))
        });
        let chains = wanted.chains.iter().map(|(name, chain)| {
            let there = frame.chains.get(name);
            ("chain", *name, there.map(|there| same_chain(there, chain)))
        });
        let texts = sets.chain(chains);
        let texts = texts.filter_map(|(kind, name, same)| match same {
            None => Some(format!("{kind} `{name}` is missing")),
            Some(false) => Some(format!("{kind} `{name}` is not as it was made")),
            Some(true) => None,
        });
        texts.chain(asleep(frame)).collect()
    }

    /// What is missing or wrong of one Service.
    fn of_service(&self, name: &ObjectName, delta: &Delta) -> Vec<String> {
        let mut texts = Vec::new();
        for map in &delta.new_maps {
            let map = map.name(name);
            texts.push(format!("map `{map}` is missing, or not as it was made"));
        }
        for chain in &delta.new_chains {
            let chain = chain.chain.name(name);
            texts.push(format!("chain `{chain}` is missing, or has other rules"));
        }
        for element in delta.add.iter().take(NAMED) {
            texts.push(self.of_element(name, element, delta));
        }
        let more = delta.add.len().saturating_sub(NAMED);
        if more > 0 {
            texts.push(format!(
                "{more} more elements of Service {name} are missing or wrong"
            ));
        }
        texts
    }

    /// `map services lacks 10.200.1.63 . tcp . 9000 : 7000:3, 3 endpoints (Service default/web)`.
    fn of_element(&self, name: &ObjectName, element: &Element, delta: &Delta) -> String {
        let header = self.headers.of(element.map);
        let kind = if header.data.is_some() { "map" } else { "set" };
        let map = element.map.name(name);
        let key = header.display_key(element.key.as_bytes());
        let wanted = match &element.value {
            Value::Member => String::new(),
            Value::Until(last) => format!(" to {}", header.display_key(last.as_bytes())),
            Value::Answer(answer) => format!(" : {answer}, {}", answer.comment()),
            Value::Goto(chain) => format!(" : goto {}", chain.name(name)),
            Value::Backend(backend) => format!(" : {} . {}", backend.address, backend.port),
            Value::Number(number) => format!(" : {number:#x}"),
        };
        // What is there with another value is removed before it is added.
        let wrong = delta
            .remove
            .iter()
            .any(|other| (other.map, other.key) == (element.map, element.key));
        if wrong {
            format!(
                "{kind} `{map}` has {key} with another value; wanted is{wanted} (Service {name})"
            )
        } else {
            format!("{kind} `{map}` lacks {key}{wanted} (Service {name})")
        }
    }

    fn of_networks(&self, observed: &mut Observed) -> Vec<String> {
        let mut texts = Vec::new();
        for (name, list) in base::network_sets(&self.applied.networks, self.view.config) {
            for network in list {
                let (first, last) = Key::interval(*network);
                let meaning = last.as_deref().map_or_else(plain_member, plain_range);
                if observed.claim(name, &first, meaning) != Found::Right {
                    texts.push(format!("set `{name}` lacks {network}"));
                }
            }
        }
        texts
    }

    /// What is not wanted. What is only waiting to be deleted does not count.
    fn too_much(
        &self,
        kernel: &mut dyn Nftables,
        observed: &Observed,
    ) -> Result<Vec<String>, TableError> {
        let family = podwire_kernel::nft::Family::from(self.applied.family());
        let (applied, wanted) = (self.applied, &self.skeleton);
        let mut texts = Vec::new();
        let ours = |name: &str| observed.wanted.contains(name);
        for name in observed.frame.chains.keys() {
            let fixed = wanted.chains.iter().any(|(chain, _)| *chain == name);
            if !fixed && !ours(name) && !applied.standing.old_chains.contains(name) {
                texts.push(format!("chain `{name}` is not wanted"));
            }
        }
        for (name, header) in observed.frame.sets.iter() {
            let fixed = wanted.sets.iter().any(|(set, _)| *set == name);
            if !fixed && !ours(name) {
                if !applied.standing.old_maps.contains(name) {
                    texts.push(format!("set `{name}` is not wanted"));
                }
                continue;
            }
            // Elements of a Service that was refused may be what it had before.
            if header.dynamic || !observed.has_unclaimed() || !applied.refused().is_empty() {
                continue;
            }
            let (mut named, mut more) = (Vec::new(), 0);
            kernel.elements(family, name, header, &mut |key, _| {
                if !observed.is_stale(name, &key) {
                    return;
                }
                if named.len() < NAMED {
                    named.push(header.display_key(&key).to_string());
                } else {
                    more += 1;
                }
            })?;
            for key in named {
                texts.push(format!("`{name}` has {key}, which is not wanted"));
            }
            if more > 0 {
                texts.push(format!("`{name}` has {more} more that are not wanted"));
            }
        }
        Ok(texts)
    }
}

/// What several Services answer, and the chains behind it.
fn of_answers(observed: &mut Observed, wanted: &BTreeSet<Answer>) -> Vec<String> {
    let mut texts = Vec::new();
    for answer in wanted {
        let found = observed.claim_answer(*answer);
        let chain = answer.chain();
        if let Answer::Shared(shared) = *answer
            && !observed.has_shared(shared)
        {
            texts.push(format!("chain `{chain}` is missing, or has other rules"));
        } else if found == Found::Absent {
            texts.push(format!("map `{ANSWERS}` lacks {answer} : goto {chain}"));
        } else if found == Found::Wrong {
            texts.push(format!(
                "map `{ANSWERS}` has {answer} with another value; wanted is : goto {chain}"
            ));
        }
    }
    texts
}
