//! The way of a first packet through a table, as the rules say it: no kernel, no root.
//!
//! The table is made of the same values that are written to the kernel. The rules are carried out
//! expression by expression, with registers, as the kernel does; what a Service should do is not
//! known here. `flows` says what must come out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use podwire_kernel::IpFamily;
use podwire_kernel::nft::{
    Chain, Comparison, CtKey, Direction, DynsetOp, Element, Expr, Family as NftFamily, FibResult,
    HashKind, Hook, Key, KeyBuf, LookupInto, MetaKey, NatKind, PayloadBase, Reg, Rule, Set, Table,
    Value, Verdict, ct_status, fib_flag, fib_type,
};

use crate::config::services::Config;
use crate::features::parts::log::{Logging, Reason, Verdict as Refusal};
use crate::features::services::desired::endpoints::Here;
use crate::features::services::desired::networks;
use crate::features::services::desired::plan::{Plan, desired};
use crate::features::services::layout::answers::Answer;
use crate::features::services::layout::chains;
use crate::features::services::layout::elements::{self, objects};
use crate::features::services::layout::names::{FixedMap, Map};
use crate::features::services::layout::sets::{networks as sets_of_networks, set_of};
use crate::features::services::layout::skeleton::skeleton;
use crate::features::services::table::encode::{backend_data, hairpin_key};
use crate::features::services::tests::golden_cases::{Case, NODE, cluster};
use crate::ours::SERVICES_TABLE as TABLE;
use crate::snapshot::{ObjectName, Protocol};

/// The first packet of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Packet {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: Protocol,
    pub port: u16,
}

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// It goes to an endpoint, with the node's address as its source or with its own.
    Endpoint(SocketAddr, Masqueraded),
    /// An error is sent back.
    Refused,
    /// Nothing is sent back.
    Dropped,
    /// It goes where it was sent.
    Untouched,
}

/// True if the source is replaced by the node's address.
type Masqueraded = bool;

/// The table that a case should have in the kernel.
pub fn table_of(case: &Case, family: IpFamily, config: &Config) -> Table {
    let snapshot = cluster();
    let own = snapshot.nodes.get(NODE);
    let kernel_family = NftFamily::from(family);
    let skeleton = skeleton(kernel_family, config, Logging::On);
    let mut table = Table::new(kernel_family, TABLE);
    for (name, set) in skeleton.sets {
        table.sets.insert(name, set);
    }
    for (name, chain) in skeleton.chains {
        table.chains.insert(name, chain);
    }
    let networks = networks::desired(&snapshot, own, config, &Default::default(), family);
    for (set, list) in [
        (sets_of_networks::PODS, &networks.pods),
        (sets_of_networks::OWN_PODS, &networks.own_pods),
        (sets_of_networks::SERVICES, &networks.services),
    ] {
        for network in list.iter() {
            let first = KeyBuf::new().address(network.network());
            let last = KeyBuf::new().address(network.broadcast());
            put(&mut table, set, &first, Element::member().up_to(last));
        }
    }
    for (service, slice) in case.objects() {
        let here = Here::of(NODE, &snapshot, None);
        let balancing = config.balancing.balancing;
        let slices = [slice];
        let plan = desired(&service, slices.iter(), family, here, balancing, |_| true);
        add_service(&mut table, &service.name, &plan.unwrap(), config);
    }
    table
}

fn put(table: &mut Table, set: &str, key: &[u8], element: Element) {
    let set = table.sets.get_mut(set).unwrap_or_else(|| panic!("{set}?"));
    set.elements.insert(Key::from_bytes(key), element);
}

fn add_service(table: &mut Table, name: &ObjectName, plan: &Plan, config: &Config) {
    let family = table.family;
    let objects = objects(name, plan);
    for map in objects.maps {
        let set = set_of(Map::Affinity(map), family, config);
        table.sets.insert(map.name(name), set);
    }
    for spec in objects.chains {
        let chain = chains::own(&spec, name, family);
        table.chains.insert(spec.chain.name(name), chain);
    }
    for answer in objects.answers {
        if let Answer::Shared(shared) = answer {
            let chain = chains::shared(shared, family);
            table.chains.insert(shared.name(), chain);
        }
        let to_chain = Element::verdict(Verdict::goto(&answer.chain()));
        let key = KeyBuf::new().number(answer.number());
        put(table, FixedMap::Answers.name(), &key, to_chain);
    }
    for address in objects.local {
        let key = hairpin_key(address);
        put(
            table,
            FixedMap::Hairpin.name(),
            key.as_bytes(),
            Element::member(),
        );
    }
    for element in objects.elements {
        let value = match element.value {
            elements::Value::Member => Element::member(),
            elements::Value::Until(ref last) => {
                Element::member().up_to(Key::from_bytes(last.as_bytes()))
            }
            elements::Value::Answer(answer) => Element::data(KeyBuf::new().number(answer.number())),
            elements::Value::Goto(chain) => Element::verdict(Verdict::goto(&chain.name(name))),
            elements::Value::Backend(ref backend) => {
                Element::data(Key::from_bytes(backend_data(backend).as_bytes()))
            }
            elements::Value::Number(number) => Element::data(KeyBuf::new().number(number)),
        };
        put(
            table,
            &element.map.name(name),
            element.key.as_bytes(),
            value,
        );
    }
}

/// A kernel that knows one table. It remembers what rules put into sets.
pub struct Node<'a> {
    table: &'a Table,
    /// The addresses for which this node is the destination.
    local: Vec<IpAddr>,
    remembered: BTreeMap<(String, Vec<u8>), Vec<u8>>,
}

impl<'a> Node<'a> {
    pub fn new(table: &'a Table) -> Node<'a> {
        let own = cluster().nodes[NODE].internal_ips.clone();
        let loopback = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        Node {
            table,
            local: own.into_iter().chain(loopback).collect(),
            remembered: BTreeMap::new(),
        }
    }

    /// Everything that can become of a packet, over all that chance decides.
    pub fn ends(&mut self, packet: Packet) -> BTreeSet<End> {
        const MOST_SLOTS: u32 = 12; // Divisible by 1, 2, 3 and 4.
        let mut ends = BTreeSet::new();
        for chance in 0..MOST_SLOTS {
            self.remembered.clear();
            ends.insert(self.end(packet, chance));
        }
        ends
    }

    /// What becomes of a packet if chance yields this number.
    pub fn end(&mut self, packet: Packet, chance: u32) -> End {
        let from_here = self.local.contains(&packet.source);
        let mut walk = Walk {
            node: self,
            packet,
            chance,
            priority: 0,
            sent_to: None,
            logged: None,
            registers: [0; 64],
        };
        let first = if from_here {
            Hook::Output
        } else {
            Hook::Prerouting
        };
        let refused = match walk.hook(first) {
            Fate::Refused => Some((End::Refused, Refusal::Refused)),
            Fate::Dropped => Some((End::Dropped, Refusal::Dropped)),
            _ => None,
        };
        // All that is refused is logged, as what it is; and nothing that passes meets such a rule.
        let said = walk.logged.map(Reason::verdict);
        assert_eq!(said, refused.map(|(_, verdict)| verdict));
        if let Some((end, _)) = refused {
            return end;
        }
        let Some(endpoint) = walk.sent_to else {
            return End::Untouched;
        };
        let masqueraded = walk.hook(Hook::Postrouting) == Fate::Masqueraded;
        assert_eq!(walk.priority, 0, "the number of an answer leaves the node");
        End::Endpoint(endpoint, masqueraded)
    }
}

/// What a chain decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Nothing: the calling chain goes on.
    Next,
    Accepted,
    Sent,
    Masqueraded,
    Refused,
    Dropped,
}

struct Walk<'n, 't> {
    node: &'n mut Node<'t>,
    packet: Packet,
    chance: u32,
    priority: u32,
    sent_to: Option<SocketAddr>,
    logged: Option<Reason>,
    registers: [u8; 64],
}

impl Walk<'_, '_> {
    /// All base chains of a hook, in the order of their priorities. After a translation of
    /// addresses no other chain of type nat is asked.
    fn hook(&mut self, hook: Hook) -> Fate {
        let table = self.node.table;
        let mut chains: Vec<_> = (table.chains.iter())
            .filter_map(|(_, chain)| Some((chain.base.as_ref()?, chain)))
            .filter(|(base, _)| base.hook == hook)
            .collect();
        chains.sort_by_key(|(base, _)| base.priority);
        for (_, chain) in chains {
            match self.chain(chain) {
                Fate::Next | Fate::Accepted => {}
                fate => return fate,
            }
        }
        Fate::Accepted
    }

    fn chain(&mut self, chain: &Chain) -> Fate {
        for rule in &chain.rules {
            match self.rule(rule) {
                Some(Fate::Next) => return Fate::Next,
                Some(fate) => return fate,
                None => {}
            }
        }
        Fate::Next
    }

    /// What a rule decides; none to go on with the next one. `Next` leaves the chain.
    fn rule(&mut self, rule: &Rule) -> Option<Fate> {
        self.registers = [0; 64];
        for expr in &rule.exprs {
            match self.expr(expr) {
                Step::On => {}
                Step::NextRule => return None,
                Step::Decided(fate) => return Some(fate),
                Step::Verdict(verdict) => return self.verdict(&verdict),
            }
        }
        None
    }

    fn verdict(&mut self, verdict: &Verdict) -> Option<Fate> {
        let chain = |name: &str| {
            let chain = self.node.table.chains.get(name);
            chain.unwrap_or_else(|| panic!("no chain {name}"))
        };
        match verdict {
            Verdict::Accept => Some(Fate::Accepted),
            Verdict::Drop => Some(Fate::Dropped),
            Verdict::Continue => None,
            Verdict::Return => Some(Fate::Next),
            Verdict::Goto(name) => {
                let chain = chain(name);
                Some(self.chain(chain))
            }
            Verdict::Jump(name) => {
                let chain = chain(name);
                Some(self.chain(chain)).filter(|fate| *fate != Fate::Next)
            }
            Verdict::Other(code) => panic!("verdict {code}"),
        }
    }

    fn expr(&mut self, expr: &Expr) -> Step {
        match expr {
            // The first packets are within the limit.
            Expr::Counter(_) | Expr::Limit { .. } => {}
            Expr::Log { prefix, .. } => {
                let reason = prefix.as_deref().and_then(Reason::of_prefix);
                let reason = reason.expect("some reason has this prefix");
                assert_eq!(self.logged.replace(reason), None, "logged twice");
            }
            Expr::Meta { key, dreg } => {
                let value = self.meta(*key);
                self.load(*dreg, &value);
            }
            Expr::SetMeta {
                key: MetaKey::Priority,
                sreg,
            } => self.priority = u32::from_ne_bytes(self.read(*sreg, 4).try_into().unwrap()),
            Expr::Ct {
                key,
                direction,
                dreg,
            } => {
                let value = self.connection(*key, *direction);
                self.load(*dreg, &value);
            }
            Expr::Payload {
                base,
                offset,
                len,
                dreg,
            } => {
                let header = self.header(*base);
                let (from, to) = (*offset as usize, (offset + len) as usize);
                self.load(*dreg, &header[from..to]);
            }
            Expr::Fib {
                result: FibResult::AddressType,
                flags,
                dreg,
            } => {
                let address = match *flags {
                    fib_flag::SADDR => self.packet.source,
                    fib_flag::DADDR => self.destination().0,
                    _ => panic!("{expr:?}"),
                };
                let kind = if self.node.local.contains(&address) {
                    fib_type::LOCAL
                } else {
                    fib_type::UNICAST
                };
                self.load(*dreg, &kind.to_ne_bytes());
            }
            Expr::Immediate { dreg, data } => self.load(*dreg, data),
            Expr::Numgen {
                modulus,
                offset,
                dreg,
                ..
            } => self.load(*dreg, &(offset + self.chance % modulus).to_ne_bytes()),
            Expr::Hash {
                kind: HashKind::Jhash { .. },
                modulus,
                offset,
                dreg,
                ..
            } => self.load(*dreg, &(offset + self.chance % modulus).to_ne_bytes()),
            Expr::Bitwise {
                sreg,
                dreg,
                mask,
                xor,
            } => {
                let value = self.read(*sreg, mask.len());
                let bits = value.iter().zip(mask).zip(xor);
                let value: Vec<u8> = bits.map(|((bit, mask), xor)| bit & mask ^ xor).collect();
                self.load(*dreg, &value);
            }
            Expr::Compare { sreg, op, data } => {
                let equal = self.read(*sreg, data.len())[..] == data[..];
                let holds = match op {
                    Comparison::Eq => equal,
                    Comparison::Neq => !equal,
                    _ => panic!("{expr:?}"),
                };
                return if holds { Step::On } else { Step::NextRule };
            }
            Expr::Lookup { set, sreg, into } => return self.lookup(set, *sreg, *into),
            Expr::Dynset {
                set,
                op,
                key,
                data: Some(data),
                ..
            } => self.remember(set, *op, *key, *data),
            Expr::Nat {
                kind: NatKind::Dnat,
                addr_min: Some(address),
                port_min: Some(port),
                ..
            } => {
                let address = match self.node.table.family {
                    NftFamily::Ip6 => self.read_array::<16>(*address).into(),
                    _ => self.read_array::<4>(*address).into(),
                };
                let port = u16::from_be_bytes(self.read_array(*port));
                self.sent_to = Some(SocketAddr::new(address, port));
                return Step::Decided(Fate::Sent);
            }
            Expr::Masquerade { .. } => return Step::Decided(Fate::Masqueraded),
            Expr::Reject(_) => return Step::Decided(Fate::Refused),
            Expr::Verdict(verdict) => return Step::Verdict(verdict.clone()),
            other => panic!("the walk does not know {other:?}"),
        }
        Step::On
    }

    /// Where the packet goes by now.
    fn destination(&self) -> (IpAddr, u16) {
        match self.sent_to {
            Some(endpoint) => (endpoint.ip(), endpoint.port()),
            None => (self.packet.destination, self.packet.port),
        }
    }

    fn meta(&self, key: MetaKey) -> Vec<u8> {
        match key {
            MetaKey::L4Proto => vec![self.packet.protocol.number()],
            MetaKey::Priority => self.priority.to_ne_bytes().into(),
            MetaKey::Iifname => KeyBuf::new().link_name("eth0").to_vec(),
            other => panic!("meta {other:?}"),
        }
    }

    fn connection(&self, key: CtKey, direction: Option<Direction>) -> Vec<u8> {
        match (key, direction) {
            (CtKey::Status, None) => {
                let status = self.sent_to.map_or(0, |_| ct_status::DNAT);
                status.to_ne_bytes().into()
            }
            (CtKey::DstIp | CtKey::DstIp6, Some(Direction::Original)) => {
                bytes(self.packet.destination)
            }
            (CtKey::ProtoDst, Some(Direction::Original)) => self.packet.port.to_be_bytes().into(),
            other => panic!("ct {other:?}"),
        }
    }

    /// A header with its addresses (RFC 791, RFC 8200) or ports where they belong.
    fn header(&self, base: PayloadBase) -> Vec<u8> {
        let (address, port) = self.destination();
        match base {
            PayloadBase::Network => {
                let before = if address.is_ipv4() { 12 } else { 8 };
                [vec![0; before], bytes(self.packet.source), bytes(address)].concat()
            }
            PayloadBase::Transport => [&40_000u16.to_be_bytes()[..], &port.to_be_bytes()].concat(),
            PayloadBase::Link => panic!("the link layer header"),
        }
    }

    fn lookup(&mut self, name: &str, sreg: Reg, into: LookupInto) -> Step {
        let table = self.node.table;
        let set = table
            .sets
            .get(name)
            .unwrap_or_else(|| panic!("no set {name}"));
        let length: u32 = set.key.iter().map(|field| field.padded_len()).sum();
        let key = self.read(sreg, length as usize);
        let value = match set.dynamic {
            true => {
                let remembered = self.node.remembered.get(&(name.to_owned(), key));
                remembered.map(|data| Value::Data(Key::from_bytes(data)))
            }
            false => find(set, &key).map(|element| element.value.clone()),
        };
        match (into, value) {
            (LookupInto::Member, Some(_)) | (LookupInto::NotMember, None) => Step::On,
            (LookupInto::Reg(dreg), Some(Value::Data(data))) => {
                self.load(dreg, &data);
                Step::On
            }
            (LookupInto::Verdict, Some(Value::Verdict(verdict))) => Step::Verdict(verdict),
            (_, None) | (LookupInto::NotMember, Some(_)) => Step::NextRule,
            (into, value) => panic!("{name} holds {value:?}, wanted is {into:?}"),
        }
    }

    fn remember(&mut self, name: &str, op: DynsetOp, key: Reg, data: Reg) {
        let set = self.node.table.sets.get(name);
        let set = set.unwrap_or_else(|| panic!("no set {name}"));
        let length: u32 = set.key.iter().map(|field| field.padded_len()).sum();
        let key = (name.to_owned(), self.read(key, length as usize));
        let data = self.read(data, 4);
        match op {
            DynsetOp::Delete => _ = self.node.remembered.remove(&key),
            DynsetOp::Add | DynsetOp::Update => _ = self.node.remembered.insert(key, data),
        }
    }

    fn load(&mut self, reg: Reg, value: &[u8]) {
        let start = place(reg);
        let padded = value.len().next_multiple_of(4);
        self.registers[start..start + padded].fill(0);
        self.registers[start..start + value.len()].copy_from_slice(value);
    }

    fn read(&self, reg: Reg, length: usize) -> Vec<u8> {
        self.registers[place(reg)..][..length].to_vec()
    }

    fn read_array<const N: usize>(&self, reg: Reg) -> [u8; N] {
        self.read(reg, N).try_into().unwrap()
    }
}

/// What an expression leads to.
enum Step {
    On,
    NextRule,
    Decided(Fate),
    Verdict(Verdict),
}

/// The first byte of a register.
fn place(reg: Reg) -> usize {
    let number = (0..Reg::COUNT).find(|number| Reg::new(*number) == Some(reg));
    usize::from(number.unwrap()) * 4
}

/// The element with this key, or, field by field, with a range around it.
fn find<'a>(set: &'a Set, key: &[u8]) -> Option<&'a Element> {
    let inside = |first: &[u8], last: &[u8]| {
        let mut at = 0;
        set.key.iter().all(|field| {
            let range = at..at + field.padded_len() as usize;
            at = range.end;
            let (first, last) = (&first[range.clone()], &last[range.clone()]);
            (first..=last).contains(&&key[range])
        })
    };
    let mut elements = set.elements.iter();
    let found = elements.find(|(first, element)| {
        let last = element.key_end.as_ref().unwrap_or(first);
        inside(first, last)
    });
    found.map(|(_, element)| element)
}

fn bytes(address: IpAddr) -> Vec<u8> {
    KeyBuf::new().address(address).to_vec()
}
