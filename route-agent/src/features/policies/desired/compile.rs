//! A policy whose peers are questions.

use std::borrow::Cow;
use std::sync::Arc;

use podwire_kernel::IpFamily;

use crate::features::policies::desired::atoms::{AskedPort, Atom, AtomId, Atoms, Kind, questions};
use crate::features::policies::desired::frame::RangeLookup;
use crate::features::policies::desired::wanted::{PortRange, Verdict};
use crate::snapshot::{
    Action, ClusterNetworkPolicy, Direction, NetworkPolicy, Peer, PolicyName, PolicyPort,
    PolicyRule, PortMatch, Rank,
};

/// A policy that selects a pod of this node.
#[derive(Debug)]
pub struct Compiled {
    /// Its name.
    pub name: PolicyName,
    /// Where it stands, if it is a ClusterNetworkPolicy.
    pub rank: Option<Rank>,
    ingress: Option<Box<[CompiledRule]>>,
    egress: Option<Box<[CompiledRule]>>,
    /// The questions that it asks, each as often as it asks it.
    asks: Vec<AtomId>,
}

/// A rule.
#[derive(Debug)]
pub struct CompiledRule {
    /// What it does.
    pub action: Action,
    /// With those who answer one of these with yes; `None` for anyone.
    pub peers: Option<Box<[AtomId]>>,
    /// Over what; `None` for everything.
    pub ports: Option<Box<[PolicyPort]>>,
    /// Who is asked for named ports, if other pods are.
    pub asked: Box<[AtomId]>,
}

impl CompiledRule {
    /// True if it allows everything.
    pub fn is_everything(&self) -> bool {
        self.peers.is_none() && self.ports.is_none()
    }
}

impl Compiled {
    /// Asks the questions of a policy; those about addresses of the other family are never answered
    /// with yes, and not asked.
    pub fn new(policy: &NetworkPolicy, family: IpFamily, atoms: &mut Atoms) -> Self {
        let mut compiled = Self::named(PolicyName::Namespaced(policy.name.clone()), None);
        let own = &policy.name.namespace;
        for direction in Direction::ALL {
            let rules = policy.rules(direction);
            let rules = rules.map(|rules| {
                let rules = rules.iter();
                rules
                    .map(|rule| compiled.rule(own, Action::Accept, rule, direction, family, atoms))
                    .collect()
            });
            compiled.set_rules(direction, rules);
        }
        compiled
    }

    /// As [`Compiled::new`], of a ClusterNetworkPolicy.
    pub fn of_cluster(policy: &ClusterNetworkPolicy, family: IpFamily, atoms: &mut Atoms) -> Self {
        let name = PolicyName::Cluster(policy.name.clone());
        let mut compiled = Self::named(name, Some(policy.rank()));
        let none: Arc<str> = Arc::from("");
        for direction in Direction::ALL {
            let rules = policy.rules(direction).iter();
            let rules =
                rules.flat_map(|rule| [Some(Cow::Borrowed(rule)), rule.in_doubt().map(Cow::Owned)]);
            let rules = rules.flatten().map(|rule| {
                compiled.rule(&none, rule.action, &rule.traffic, direction, family, atoms)
            });
            let rules: Box<[_]> = rules.collect();
            compiled.set_rules(direction, (!rules.is_empty()).then_some(rules));
        }
        compiled
    }

    fn named(name: PolicyName, rank: Option<Rank>) -> Self {
        Self {
            name,
            rank,
            ingress: None,
            egress: None,
            asks: Vec::new(),
        }
    }

    fn set_rules(&mut self, direction: Direction, rules: Option<Box<[CompiledRule]>>) {
        match direction {
            Direction::Ingress => self.ingress = rules,
            Direction::Egress => self.egress = rules,
        }
    }

    /// The rules of a direction, if it says anything about it.
    pub fn rules(&self, direction: Direction) -> Option<&[CompiledRule]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }

    /// The long ranges of ports of its rules, each as often as it names it. Where policies of several
    /// tiers are about a pod, it may take other ranges: theirs are cut where they overlap.
    pub fn ranges(&self) -> impl Iterator<Item = RangeLookup> {
        self.all_rules().flat_map(|(direction, rule)| {
            let verdict = match rule.action {
                Action::Accept => Some(Verdict::Allow),
                Action::Deny => Some(Verdict::Deny),
                Action::Pass => None,
            };
            let ports = rule.ports.iter().flatten();
            let ranges = ports.filter_map(|port| long_range(&port.ports));
            ranges.filter_map(move |range| Some((direction, verdict?, range)))
        })
    }

    /// How many of its rules deny.
    pub fn denials(&self) -> usize {
        let rules = self.all_rules();
        rules
            .filter(|(_, rule)| rule.action == Action::Deny)
            .count()
    }

    fn all_rules(&self) -> impl Iterator<Item = (Direction, &CompiledRule)> {
        Direction::ALL.into_iter().flat_map(|direction| {
            let rules = self.rules(direction).into_iter().flatten();
            rules.map(move |rule| (direction, rule))
        })
    }

    /// Asks no longer.
    pub fn release(self, atoms: &mut Atoms) {
        for rule in self.egress.iter().flatten() {
            if rule.asked.is_empty() {
                continue;
            }
            for port in named_ports(rule.ports.as_deref()) {
                for atom in &rule.asked {
                    atoms.drop_port(*atom, &port);
                }
            }
        }
        for atom in self.asks {
            atoms.release(atom);
        }
    }

    fn rule(
        &mut self,
        own: &Arc<str>,
        action: Action,
        rule: &PolicyRule,
        direction: Direction,
        family: IpFamily,
        atoms: &mut Atoms,
    ) -> CompiledRule {
        let named: Vec<AskedPort> = match direction {
            // The name is one of the pod itself.
            Direction::Ingress => Vec::new(),
            Direction::Egress => named_ports(rule.ports.as_deref()),
        };
        let (mut peers, mut asked) = (None, Vec::new());
        if let Some(given) = &rule.peers {
            let given = given.iter().filter(|peer| is_of(peer, family));
            let given = given.map(|peer| Atom::of(peer, own)).collect();
            let mut ids = Vec::new();
            for question in questions(given, atoms.few_peers()) {
                let are_pods = question.kind() == Kind::Pods;
                let id = self.ask(question, atoms);
                ids.push(id);
                asked.extend((are_pods && !named.is_empty()).then_some(id));
            }
            peers = Some(ids.into());
        } else if !named.is_empty() {
            // Anyone may be asked for a port by its name, but only pods have names for them.
            asked.push(self.ask(Atom::Pod, atoms));
        }
        for id in &asked {
            for port in &named {
                atoms.ask_port(*id, port.clone());
            }
        }
        CompiledRule {
            action,
            peers,
            ports: rule.ports.clone(),
            asked: asked.into(),
        }
    }

    fn ask(&mut self, atom: Atom, atoms: &mut Atoms) -> AtomId {
        let id = atoms.acquire(atom);
        self.asks.push(id);
        id
    }
}

fn is_of(peer: &Peer, family: IpFamily) -> bool {
    match peer {
        Peer::Block(block) => block.network.is_ipv6() == (family == IpFamily::V6),
        Peer::Here(_) | Peer::Elsewhere { .. } | Peer::Anywhere(_) | Peer::Nodes(_) => true,
    }
}

/// The range of ports that is written as one.
fn long_range(ports: &PortMatch) -> Option<PortRange> {
    match ports {
        PortMatch::Numbers { first, last } => PortRange::of_many(*first, *last),
        PortMatch::All | PortMatch::Named(_) => None,
    }
}

fn named_ports(ports: Option<&[PolicyPort]>) -> Vec<AskedPort> {
    let ports = ports.into_iter().flatten();
    let named = ports.filter_map(|port| match &port.ports {
        PortMatch::Named(name) => Some((name.clone(), port.protocol)),
        PortMatch::All | PortMatch::Numbers { .. } => None,
    });
    named.collect()
}
