//! What the kernel holds, small enough to keep for 100,000 elements while comparing.
//!
//! Of each element only two numbers are kept: a hash of where it lies and a hash of what it says.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use podwire_kernel::IpFamily;
use podwire_kernel::nft::{self, Table};

use crate::features::services::desired::endpoints::Backend;
use crate::features::services::desired::frontends::Frontend;
use crate::features::services::desired::plan::{self, Plan, PortPlan};
use crate::features::services::layout::answers::Answer;
use crate::features::services::layout::chains;
use crate::features::services::layout::elements::{
    self, Element, Key, Objects, Value, endpoint_number,
};
use crate::features::services::layout::names::{
    AffinityHolds, AffinityMap, Chain, FixedChain, FixedMap, Pool, SharedChain,
};
use crate::features::services::table::delta::Delta;
use crate::features::services::table::encode::{Headers, answer_key, backend_data};
use crate::features::services::table::nftables::Nftables;
use crate::snapshot::{ObjectName, ServicePort, TrafficPolicy};

/// The elements of a table, and which of them are wanted.
#[derive(Debug)]
pub struct Observed {
    family: IpFamily,
    /// Chains with their rules, and sets without elements.
    pub frame: Table,
    /// (where, what, claimed), sorted by the first.
    elements: Vec<(u64, u64, bool)>,
    /// What the map of answers holds, right or wrong.
    pub answers: Vec<Answer>,
    /// Names of chains and sets that are wanted.
    pub wanted: BTreeSet<String>,
}

impl Observed {
    /// Reads the elements of all sets but the dynamic ones.
    pub fn read(
        kernel: &mut dyn Nftables,
        family: IpFamily,
        frame: Table,
    ) -> podwire_kernel::Result<Observed> {
        let (mut elements, mut answers) = (Vec::new(), Vec::new());
        for (name, header) in frame.sets.iter().filter(|(_, set)| !set.dynamic) {
            kernel.elements(
                podwire_kernel::nft::Family::from(family),
                name,
                header,
                &mut |key, element| {
                    if FixedMap::Answers.name() == name {
                        answers.extend(Answer::read(&key));
                    }
                    elements.push((place(name, &key), meaning_of(&element), false));
                },
            )?;
        }
        elements.sort_unstable_by_key(|(place, ..)| *place);
        Ok(Observed {
            family,
            frame,
            elements,
            answers,
            wanted: BTreeSet::new(),
        })
    }

    /// True if there are elements that were not claimed.
    pub fn has_unclaimed(&self) -> bool {
        self.elements.iter().any(|(.., claimed)| !claimed)
    }

    /// True if the element was there when the table was read and is not wanted. One that came
    /// later is ours, or will be announced.
    pub fn is_stale(&self, set: &str, key: &[u8]) -> bool {
        self.find(place(set, key))
            .is_some_and(|at| !self.elements[at].2)
    }

    /// Marks an element as wanted; says whether it is there, and whether it is as it should be.
    pub fn claim(&mut self, set: &str, key: &[u8], meaning: u64) -> Found {
        match self.find(place(set, key)) {
            None => Found::Absent,
            Some(at) => {
                self.elements[at].2 = true;
                if self.elements[at].1 == meaning {
                    Found::Right
                } else {
                    Found::Wrong
                }
            }
        }
    }

    /// Marks an element of a set of ranges as wanted if it is there and ends where it should. One
    /// that ends elsewhere stays unclaimed: it must go before another is added that overlaps it.
    pub fn claim_range(&mut self, set: &str, key: &[u8], meaning: u64) -> bool {
        let right = self.meaning(set, key) == Some(meaning);
        if right {
            self.claim(set, key, meaning);
        }
        right
    }

    /// The element is no longer there.
    pub fn forget(&mut self, set: &str, key: &[u8]) {
        if let Some(at) = self.find(place(set, key)) {
            self.elements.remove(at);
        }
    }

    fn find(&self, place: u64) -> Option<usize> {
        self.elements
            .binary_search_by_key(&place, |(place, ..)| *place)
            .ok()
    }

    fn meaning(&self, set: &str, key: &[u8]) -> Option<u64> {
        self.find(place(set, key)).map(|at| self.elements[at].1)
    }

    /// What must be written for a Service. Everything that it wants is marked.
    pub fn diff(&mut self, name: &ObjectName, objects: Objects, headers: &Headers) -> Delta {
        let mut delta = Delta {
            answers_gained: objects.answers.into_iter().collect(),
            local_gained: objects.local.into_iter().collect(),
            ..Delta::default()
        };
        for map in objects.maps {
            let set = map.name(name);
            let there = self.frame.sets.get(&set);
            if !there.is_some_and(|set| set.same_header(&headers.of(map))) {
                delta.new_maps.push(map);
            }
            self.wanted.insert(set);
        }
        for spec in objects.chains {
            let chain = spec.chain.name(name);
            let rules = chains::own(&spec, name, podwire_kernel::nft::Family::from(self.family));
            if !self.has_chain(&chain, &rules) {
                delta.new_chains.push(spec);
            }
            self.wanted.insert(chain);
        }
        // In an empty table there is nothing to compare with, element by element.
        if self.elements.is_empty() {
            delta.add = objects.elements;
            return delta;
        }
        for element in objects.elements {
            let set = element.map.name(name);
            match self.claim(&set, element.key.as_bytes(), meaning(name, &element)) {
                Found::Right => {}
                Found::Absent => delta.add.push(element),
                Found::Wrong => {
                    delta.remove.push(element.clone());
                    delta.add.push(element);
                }
            }
        }
        delta
    }

    /// True if the kernel has this chain with these rules.
    pub fn has_chain(&self, name: &str, wanted: &nft::Chain) -> bool {
        self.frame
            .chains
            .get(name)
            .is_some_and(|there| same_chain(there, wanted))
    }

    /// Marks what an answer needs as wanted, and says how it was found.
    pub fn claim_answer(&mut self, answer: Answer) -> Found {
        let found = self.find_answer(answer);
        let set = FixedMap::Answers.name();
        self.claim(set, answer_key(answer).as_bytes(), 0);
        if let Answer::Shared(shared) = answer {
            self.wanted.insert(shared.name());
        }
        found
    }

    /// An answer is right if the chain that it leads to is so as well.
    pub fn find_answer(&self, answer: Answer) -> Found {
        let set = FixedMap::Answers.name();
        match self.meaning(set, answer_key(answer).as_bytes()) {
            None => Found::Absent,
            Some(meaning) if meaning != meaning_of_answer(answer) => Found::Wrong,
            Some(_) => match answer {
                Answer::Shared(shared) if !self.has_shared(shared) => Found::Wrong,
                _ => Found::Right,
            },
        }
    }

    /// True if the kernel has the chain of that many endpoints, with its rules.
    pub fn has_shared(&self, shared: SharedChain) -> bool {
        let rules = chains::shared(shared, podwire_kernel::nft::Family::from(self.family));
        self.has_chain(&shared.name(), &rules)
    }

    /// True if the elements there say that the Service has a front of one of its ports.
    pub fn has_front(&self, name: &ObjectName, port: &ServicePort, front: &Frontend) -> bool {
        let goto = |policy| Value::Goto(Chain::Fixed(policy));
        let comment = elements::comment(name, &port.name, port.port);
        let transport = |key: Key, number| key.transport(port.protocol, number);
        let (map, key, values, comment) = match front {
            Frontend::ClusterIp(address) => (
                FixedMap::ClusterIps,
                Key::new().address(*address),
                [Value::Member; 2],
                name.to_string(),
            ),
            Frontend::LoadBalancer(address) | Frontend::ExternalIp(address) => (
                FixedMap::MasqueradeVips,
                transport(Key::new().address(*address), port.port),
                [FixedChain::PolicyCluster, FixedChain::PolicyLocal].map(goto),
                comment,
            ),
            Frontend::NodePort(node_port) => (
                FixedMap::MasqueradeNodePorts,
                transport(Key::new(), *node_port),
                [
                    FixedChain::NodePortPolicyCluster,
                    FixedChain::NodePortPolicyLocal,
                ]
                .map(goto),
                comment,
            ),
        };
        let there = self.meaning(map.name(), key.as_bytes());
        let same = |value: &Value| there == Some(meaning_of_value(name, value, &comment));
        values.iter().any(same)
    }

    /// Puts the endpoints of a plan into the slots that they have in the kernel.
    pub fn settle(&self, name: &ObjectName, plan: &mut Plan) {
        if self.elements.is_empty() {
            return;
        }
        for port in &mut plan.ports {
            let cluster = self.order(name, port, false);
            let local = self.order(name, port, true);
            port.cluster = plan::settle(&cluster, &port.cluster);
            port.local = plan::settle(&local, &port.local);
        }
    }

    /// The endpoints in the order of their slots, with a placeholder for each that has gone.
    fn order(&self, name: &ObjectName, port: &PortPlan, local: bool) -> Vec<Backend> {
        let wanted = if local { &port.local } else { &port.cluster };
        let comment = elements::comment(name, &port.name, port.port);
        let Some((set, key)) = where_slots_are(name, port, local)
            .into_iter()
            .find(|(set, key)| self.meaning(set, key.number(0).as_bytes()).is_some())
        else {
            return Vec::new();
        };
        let by_meaning: BTreeMap<u64, Backend> = wanted
            .iter()
            .map(|backend| {
                let value = match port.affinity {
                    Some(_) => Value::Number(endpoint_number(backend)),
                    None => Value::Backend(*backend),
                };
                (meaning_of_value(name, &value, &comment), *backend)
            })
            .collect();
        let gone = Backend {
            address: std::net::Ipv4Addr::UNSPECIFIED.into(),
            port: 0,
        };
        (0..)
            .map_while(|slot| self.meaning(&set, key.number(slot).as_bytes()))
            .map(|meaning| by_meaning.get(&meaning).copied().unwrap_or(gone))
            .collect()
    }
}

/// How an element was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Not at all.
    Absent,
    /// With another value or comment.
    Wrong,
    /// As it should be.
    Right,
}

/// True if both have the same hook and rules; counters do not matter.
pub fn same_chain(a: &nft::Chain, b: &nft::Chain) -> bool {
    a.base == b.base
        && a.comment == b.comment
        && a.rules.len() == b.rules.len()
        && a.rules.iter().zip(&b.rules).all(|(a, b)| a.same_as(b))
}

/// The maps that may hold the slots of a list of endpoints, with the key but for the slot.
pub fn where_slots_are(
    name: &ObjectName,
    port: &PortPlan,
    local: bool,
) -> Vec<(std::borrow::Cow<'static, str>, Key)> {
    if port.affinity.is_some() {
        let (protocol, number) = (port.protocol, port.port);
        let holds = AffinityHolds::Choices;
        let map = AffinityMap {
            protocol,
            port: number,
            local,
            holds,
        };
        return vec![(map.name(name).into(), Key::new())];
    }
    let internal = (port.internal == TrafficPolicy::Local) == local;
    let external = !local || port.external == TrafficPolicy::Local;
    let at = |front: &Frontend| {
        let vip = |address| {
            Key::new()
                .address(address)
                .transport(port.protocol, port.port)
        };
        let (pool, key) = match front {
            Frontend::ClusterIp(address) if internal => (Pool::Endpoints, vip(*address)),
            Frontend::LoadBalancer(address) | Frontend::ExternalIp(address) if external => (
                if local {
                    Pool::LocalEndpoints
                } else {
                    Pool::Endpoints
                },
                vip(*address),
            ),
            Frontend::NodePort(node_port) if external => (
                if local {
                    Pool::NodePortLocalEndpoints
                } else {
                    Pool::NodePortEndpoints
                },
                Key::new().transport(port.protocol, *node_port),
            ),
            _ => return None,
        };
        Some((pool.map().into(), key))
    };
    port.frontends.iter().filter_map(at).collect()
}

/// Where an element lies, as a number.
pub fn place(set: &str, key: &[u8]) -> u64 {
    hash(&(set, key))
}

/// What an element of a Service says, as a number.
pub fn meaning(name: &ObjectName, element: &Element) -> u64 {
    meaning_of_value(name, &element.value, &element.comment)
}

fn meaning_of_value(name: &ObjectName, value: &Value, comment: &str) -> u64 {
    let comment = nft::Comment::new(comment);
    let comment = comment.as_ref().map(nft::Comment::as_str);
    match value {
        Value::Member => hash_meaning(0, &[], comment),
        Value::Until(key) => hash_meaning(1, key.as_bytes(), comment),
        Value::Answer(answer) => hash_meaning(3, &answer.number().to_ne_bytes(), comment),
        Value::Goto(chain) => hash_meaning(2, chain.name(name).as_bytes(), comment),
        Value::Backend(backend) => hash_meaning(3, backend_data(backend).as_bytes(), comment),
        Value::Number(number) => hash_meaning(3, &number.to_ne_bytes(), comment),
    }
}

/// What the element of an answer says.
pub fn meaning_of_answer(answer: Answer) -> u64 {
    let comment = answer.comment();
    let comment = nft::Comment::new(&comment);
    let comment = comment.as_ref().map(nft::Comment::as_str);
    hash_meaning(2, answer.chain().as_bytes(), comment)
}

/// The same number for what the kernel has.
pub fn meaning_of(element: &nft::Element) -> u64 {
    let comment = element.comment.as_ref().map(nft::Comment::as_str);
    match (&element.value, &element.key_end) {
        (nft::Value::None, None) => hash_meaning(0, &[], comment),
        (nft::Value::None, Some(key)) => hash_meaning(1, key, comment),
        (nft::Value::Verdict(nft::Verdict::Goto(chain)), None) => {
            hash_meaning(2, chain.as_bytes(), comment)
        }
        (nft::Value::Data(data), None) => hash_meaning(3, data, comment),
        // Nothing that we write.
        (nft::Value::Verdict(_) | nft::Value::Data(_), _) => hash_meaning(4, &[], comment),
    }
}

/// What an element without value and comment says: a member of a set of ours.
pub fn plain_member() -> u64 {
    hash_meaning(0, &[], None)
}

/// What an element of a set of networks says.
pub fn plain_range(until: &[u8]) -> u64 {
    hash_meaning(1, until, None)
}

fn hash_meaning(kind: u8, bytes: &[u8], comment: Option<&str>) -> u64 {
    hash(&(kind, bytes, comment))
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
