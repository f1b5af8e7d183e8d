//! What is said of one pod of this node by ClusterNetworkPolicies and NetworkPolicies together.
//!
//! Rules that deny need an order, and the kernel has none: so the order is gone through here, once
//! for each class that a rule is about and each span of ports in which nothing changes. What comes
//! out is written as cells that say "allowed" or "denied", of which the one with the fewest ports
//! decides (`wanted::Cell`), and only where a class differs from what is said of all.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::features::policies::desired::cells::{Names, Stance, cells, noted, short, stance};
use crate::features::policies::desired::classes::{ClassKey, Classes};
use crate::features::policies::desired::compile::{Compiled, CompiledRule};
use crate::features::policies::desired::tier_index::TierIndex;
use crate::features::policies::desired::wanted::{
    Cell, Class, FEW_PORTS, NO_CLASS, PortRange, Ports, Verdict,
};
use crate::snapshot::{Action, Direction, Pod, PolicyPort, PortMatch, Protocol, Tier};

/// The policies that select a pod.
#[derive(Debug, Default)]
pub struct Selecting<'a> {
    /// The Admin tier; the first counts.
    admin: Vec<&'a Compiled>,
    /// NetworkPolicies.
    network: Vec<&'a Compiled>,
    /// The Baseline tier; the first counts.
    baseline: Vec<&'a Compiled>,
}

impl<'a> Selecting<'a> {
    /// These policies.
    pub fn of(policies: impl Iterator<Item = &'a Compiled>) -> Self {
        let mut selecting = Self::default();
        for policy in policies {
            match policy.rank.as_ref().map(|rank| rank.tier) {
                Some(Tier::Admin) => selecting.admin.push(policy),
                Some(Tier::Baseline) => selecting.baseline.push(policy),
                None => selecting.network.push(policy),
            }
        }
        for tier in [&mut selecting.admin, &mut selecting.baseline] {
            tier.sort_by_key(|policy| &policy.rank);
        }
        selecting
    }

    /// What they say of a direction.
    pub fn stance(&self, direction: Direction) -> Stance {
        let denies = |tier: &[&Compiled]| {
            let rules = tier.iter().filter_map(|policy| policy.rules(direction));
            rules.flatten().any(|rule| rule.action == Action::Deny)
        };
        let may_deny = denies(&self.admin) || !self.isolates(direction) && denies(&self.baseline);
        match may_deny {
            true => Stance::Isolated,
            false => stance(&self.network, direction),
        }
    }

    /// The cells of a pod that is not open in a direction, as [`cells`] finds them.
    pub fn cells(
        &self,
        pod: &Pod,
        local: IpAddr,
        direction: Direction,
        classes: &Classes,
        only: Option<&BTreeSet<Class>>,
    ) -> BTreeMap<Cell, Arc<str>> {
        let mut tiers = self.admin.iter().chain(&self.baseline);
        if tiers.all(|policy| policy.rules(direction).is_none()) {
            return cells(pod, local, direction, &self.network, classes, only);
        }
        let reading = Reading {
            selecting: self,
            pod,
            direction,
            classes,
            admin: TierIndex::of(&self.admin, direction),
            network: TierIndex::of(&self.network, direction),
            baseline: TierIndex::of(&self.baseline, direction),
        };
        let anyone = reading.said_of(NO_CLASS);
        let mut found = BTreeMap::new();
        let mut write = |class, said: &Said<'a>, beside: &Said<'a>| {
            for (ports, verdict) in said.beside(beside) {
                let cell = Cell {
                    class,
                    direction,
                    local,
                    ports,
                    verdict,
                };
                let names: Names<'_> = said.by(ports, verdict).into_iter().collect();
                found.insert(cell, names);
            }
        };
        if only.is_none() {
            write(NO_CLASS, &anyone, &Said::nothing());
        }
        for class in reading.concerned(only) {
            write(class, &reading.said_of(class), &anyone);
        }
        noted(pod, found)
    }

    fn isolates(&self, direction: Direction) -> bool {
        let mut network = self.network.iter();
        network.any(|policy| policy.rules(direction).is_some())
    }

    fn all(&self) -> impl Iterator<Item = &&'a Compiled> {
        let tiers = self.admin.iter().chain(&self.network);
        tiers.chain(&self.baseline)
    }
}

/// Ports of a protocol, from one to another.
type Span = (Protocol, u16, u16);

/// A rule as one class meets it.
struct Met<'a> {
    policy: &'a Compiled,
    action: Action,
    /// Over what, sorted, and each port once; `None` for everything.
    spans: Option<Vec<Span>>,
}

impl Met<'_> {
    fn is_over(&self, at: Option<(Protocol, u16)>) -> bool {
        match (&self.spans, at) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(spans), Some((protocol, port))) => {
                let behind =
                    spans.partition_point(|(of, first, _)| (*of, *first) <= (protocol, port));
                let nearest = behind.checked_sub(1).map(|at| spans[at]);
                nearest.is_some_and(|(of, _, last)| of == protocol && port <= last)
            }
        }
    }
}

/// The rules of all tiers, as one class meets them.
struct Order<'a> {
    admin: Vec<Met<'a>>,
    network: Vec<Met<'a>>,
    baseline: Vec<Met<'a>>,
    isolated: bool,
}

impl<'a> Order<'a> {
    /// What decides about a port, or about all that has no ports, and how.
    fn decide(&self, at: Option<(Protocol, u16)>) -> (Verdict, Option<&'a Compiled>) {
        let first = |rules: &[Met<'a>]| {
            let rule = rules.iter().find(|rule| rule.is_over(at));
            rule.map(|rule| (rule.action, rule.policy))
        };
        match first(&self.admin) {
            Some((Action::Accept, policy)) => return (Verdict::Allow, Some(policy)),
            Some((Action::Deny, policy)) => return (Verdict::Deny, Some(policy)),
            Some((Action::Pass, _)) | None => {}
        }
        if self.isolated {
            return match first(&self.network) {
                Some((_, policy)) => (Verdict::Allow, Some(policy)),
                None => (Verdict::Deny, None),
            };
        }
        match first(&self.baseline) {
            Some((Action::Deny, policy)) => (Verdict::Deny, Some(policy)),
            Some((Action::Accept, policy)) => (Verdict::Allow, Some(policy)),
            Some((Action::Pass, _)) | None => (Verdict::Allow, None),
        }
    }

    /// Where something may change, by protocol; sorted.
    fn starts(&self, protocol: Protocol) -> BTreeSet<u16> {
        let rules = self.admin.iter().chain(&self.network).chain(&self.baseline);
        let spans = rules.flat_map(|rule| rule.spans.iter().flatten());
        let spans = spans.filter(|(of, ..)| *of == protocol);
        let starts = spans.flat_map(|(_, first, last)| [Some(*first), last.checked_add(1)]);
        starts.flatten().chain([0]).collect()
    }
}

struct Reading<'a, 'b> {
    selecting: &'b Selecting<'a>,
    pod: &'b Pod,
    direction: Direction,
    classes: &'b Classes,
    admin: TierIndex<'a>,
    network: TierIndex<'a>,
    baseline: TierIndex<'a>,
}

impl<'a> Reading<'a, '_> {
    /// The classes that rules are about, those in `only` if it is given.
    fn concerned(&self, only: Option<&BTreeSet<Class>>) -> BTreeSet<Class> {
        let rules = self.selecting.all();
        let rules = rules.filter_map(|policy| policy.rules(self.direction));
        let atoms = rules
            .flatten()
            .flat_map(|rule| rule.peers.iter().flatten().chain(&rule.asked));
        let atoms: BTreeSet<u32> = atoms.copied().collect();
        let classes = atoms.into_iter();
        classes
            .flat_map(|atom| self.classes.with(atom, only))
            .collect()
    }

    fn said_of(&self, class: Class) -> Said<'a> {
        let key = self.classes.key(class);
        let meet = |tier: &TierIndex<'a>| -> Vec<Met<'a>> {
            let met = tier.met(key).map(|(policy, rule)| Met {
                policy,
                action: rule.action,
                spans: self.spans(rule, key),
            });
            met.collect()
        };
        let order = Order {
            admin: meet(&self.admin),
            network: meet(&self.network),
            baseline: meet(&self.baseline),
            isolated: self.selecting.isolates(self.direction),
        };
        Said::of(&order)
    }

    /// The ports of a rule for a class.
    fn spans(&self, rule: &CompiledRule, key: Option<&ClassKey>) -> Option<Vec<Span>> {
        let ports = rule.ports.as_ref()?.iter();
        let spans = ports.filter_map(|PolicyPort { protocol, ports }| match ports {
            PortMatch::All => Some((*protocol, 0, u16::MAX)),
            PortMatch::Numbers { first, last } => Some((*protocol, *first, *last)),
            PortMatch::Named(name) => {
                let number = match self.direction {
                    Direction::Ingress => self.pod.port(name, *protocol),
                    Direction::Egress => key
                        .filter(|_| is_one(key, &rule.asked))
                        .and_then(|key| key.port(name, *protocol)),
                }?;
                Some((*protocol, number, number))
            }
        });
        Some(merged(spans.collect()))
    }
}

/// The same ports, sorted and each once.
fn merged(mut spans: Vec<Span>) -> Vec<Span> {
    spans.sort_unstable();
    let mut merged: Vec<Span> = Vec::new();
    for (protocol, first, last) in spans {
        match merged.last_mut() {
            Some((of, _, end)) if *of == protocol && first <= end.saturating_add(1) => {
                *end = last.max(*end);
            }
            _ => merged.push((protocol, first, last)),
        }
    }
    merged
}

/// True if the members of a class answer one of these questions with yes.
fn is_one(key: Option<&ClassKey>, atoms: &[u32]) -> bool {
    key.is_some_and(|key| atoms.iter().any(|atom| key.atoms.contains(*atom)))
}

/// What is said of a class, over all ports.
struct Said<'a> {
    portless: (Verdict, Option<&'a Compiled>),
    /// For each protocol where something changes, and to what.
    ports: [BTreeMap<u16, (Verdict, Option<&'a Compiled>)>; 3],
}

impl<'a> Said<'a> {
    fn of(order: &Order<'a>) -> Self {
        let ports = Protocol::ALL.map(|protocol| {
            let starts = order.starts(protocol).into_iter();
            starts
                .map(|start| (start, order.decide(Some((protocol, start)))))
                .collect()
        });
        Self {
            portless: order.decide(None),
            ports,
        }
    }

    /// What holds where nothing is said.
    fn nothing() -> Self {
        Self {
            portless: (Verdict::Deny, None),
            ports: std::array::from_fn(|_| BTreeMap::from([(0, (Verdict::Deny, None))])),
        }
    }

    /// What of it must be written where all else is as `other` says.
    fn beside(&self, other: &Self) -> Vec<(Ports, Verdict)> {
        let any = self.portless.0;
        let any = (any != other.portless.0).then_some(any);
        let mut cells: Vec<_> = any
            .map(|verdict| (Ports::Any, verdict))
            .into_iter()
            .collect();
        for (number, protocol) in Protocol::ALL.into_iter().enumerate() {
            let (ours, theirs) = (&self.ports[number], &other.ports[number]);
            let without = |behind: &dyn Fn(u16) -> Verdict| spans(ours, theirs, behind);
            let background = |port| any.unwrap_or_else(|| at(theirs, port));
            let mut best = written(protocol, None, without(&background));
            for verdict in [Verdict::Deny, Verdict::Allow] {
                let all = written(protocol, Some(verdict), without(&|_| verdict));
                if cost(&all) < cost(&best) {
                    best = all;
                }
            }
            cells.extend(best);
        }
        cells
    }

    /// The policies because of which something is said.
    fn by(&self, ports: Ports, verdict: Verdict) -> BTreeSet<&'a str> {
        let within = |protocol: Protocol, first: u16, last: u16| {
            let number = Protocol::ALL.iter().position(|one| *one == protocol);
            let all = &self.ports[number.unwrap_or_default()];
            let start = all
                .range(..=first)
                .next_back()
                .map_or(0, |(start, _)| *start);
            all.range(start..=last).map(|(_, said)| *said)
        };
        let said: Vec<_> = match ports {
            Ports::One(protocol, port) => within(protocol, port, port).collect(),
            Ports::Range(protocol, range) => within(protocol, range.first, range.last).collect(),
            Ports::All(protocol) => within(protocol, 0, u16::MAX).collect(),
            Ports::Any => vec![self.portless],
        };
        let said = said.into_iter().filter(|(one, _)| *one == verdict);
        let policies = said.filter_map(|(_, policy)| policy);
        policies.map(|policy| short(&policy.name)).collect()
    }
}

type Changes<'a> = BTreeMap<u16, (Verdict, Option<&'a Compiled>)>;

/// What is said of a port.
fn at(changes: &Changes<'_>, port: u16) -> Verdict {
    let before = changes.range(..=port).next_back();
    before.map_or(Verdict::Deny, |(_, (verdict, _))| *verdict)
}

/// The ports of which something else is said than `behind` says, in spans of one verdict.
fn spans(
    ours: &Changes<'_>,
    theirs: &Changes<'_>,
    behind: &dyn Fn(u16) -> Verdict,
) -> Vec<(u16, u16, Verdict)> {
    let starts: BTreeSet<u16> = ours.keys().chain(theirs.keys()).copied().collect();
    let ends = starts.iter().skip(1).map(|next| next - 1).chain([u16::MAX]);
    let mut spans: Vec<(u16, u16, Verdict)> = Vec::new();
    for (first, last) in starts.iter().copied().zip(ends) {
        let verdict = at(ours, first);
        if verdict == behind(first) {
            continue;
        }
        match spans.last_mut() {
            Some((_, end, of)) if *of == verdict && end.checked_add(1) == Some(first) => {
                *end = last
            }
            _ => spans.push((first, last, verdict)),
        }
    }
    spans
}

/// Spans of a protocol as cells, before one about all of it.
fn written(
    protocol: Protocol,
    all: Option<Verdict>,
    spans: Vec<(u16, u16, Verdict)>,
) -> Vec<(Ports, Verdict)> {
    let all = all.map(|verdict| (Ports::All(protocol), verdict));
    let mut cells: Vec<_> = all.into_iter().collect();
    for (first, last, verdict) in spans {
        match PortRange::of_many(first, last) {
            Some(range) => cells.push((Ports::Range(protocol, range), verdict)),
            None => {
                cells.extend((first..=last).map(|port| (Ports::One(protocol, port), verdict)));
            }
        }
    }
    cells
}

/// A range costs a rule and a set beside its element.
fn cost(cells: &[(Ports, Verdict)]) -> usize {
    let costs = cells.iter().map(|(ports, _)| match ports {
        Ports::Range(..) => usize::from(FEW_PORTS) + 1,
        Ports::One(..) | Ports::All(_) | Ports::Any => 1,
    });
    costs.sum()
}
