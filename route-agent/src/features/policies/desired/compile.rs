//! A policy whose peers are questions.

use crate::features::policies::desired::atoms::{AskedPort, Atom, AtomId, Atoms};
use crate::snapshot::{
    Direction, NetworkPolicy, ObjectName, Peer, PolicyPort, PolicyRule, PortMatch,
};
use podwire_kernel::IpFamily;

/// A policy that selects a pod of this node.
#[derive(Debug)]
pub struct Compiled {
    /// Its name.
    pub name: ObjectName,
    ingress: Option<Box<[CompiledRule]>>,
    egress: Option<Box<[CompiledRule]>>,
    /// The questions that it asks, each as often as it asks it.
    asks: Vec<AtomId>,
    /// The named ports that it asks of others, each as often as it asks for it.
    asks_ports: Vec<(AtomId, AskedPort)>,
}

/// A rule.
#[derive(Debug)]
pub struct CompiledRule {
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
        let mut compiled = Self {
            name: policy.name.clone(),
            ingress: None,
            egress: None,
            asks: Vec::new(),
            asks_ports: Vec::new(),
        };
        for direction in Direction::ALL {
            let rules = policy.rules(direction);
            let rules = rules.map(|rules| {
                let rules = rules.iter();
                rules
                    .map(|rule| compiled.rule(policy, rule, direction, family, atoms))
                    .collect()
            });
            match direction {
                Direction::Ingress => compiled.ingress = rules,
                Direction::Egress => compiled.egress = rules,
            }
        }
        compiled
    }

    /// The rules of a direction, if it isolates in it.
    pub fn rules(&self, direction: Direction) -> Option<&[CompiledRule]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }

    /// Asks no longer.
    pub fn release(self, atoms: &mut Atoms) {
        for (atom, port) in &self.asks_ports {
            atoms.drop_port(*atom, port);
        }
        for atom in self.asks {
            atoms.release(atom);
        }
    }

    fn rule(
        &mut self,
        policy: &NetworkPolicy,
        rule: &PolicyRule,
        direction: Direction,
        family: IpFamily,
        atoms: &mut Atoms,
    ) -> CompiledRule {
        let named: Vec<AskedPort> = match direction {
            // The name is one of the pod itself.
            Direction::Ingress => Vec::new(),
            Direction::Egress => named_ports(rule),
        };
        let (mut peers, mut asked) = (None, Vec::new());
        if let Some(given) = &rule.peers {
            let mut ids = Vec::new();
            for peer in given.iter().filter(|peer| is_of(peer, family)) {
                let id = self.ask(Atom::of(peer, policy), atoms);
                ids.push(id);
                if !matches!(peer, Peer::Block(_)) && !named.is_empty() {
                    asked.push(id);
                }
            }
            peers = Some(ids.into());
        } else if !named.is_empty() {
            // Anyone may be asked for a port by its name, but only pods have names for them.
            asked.push(self.ask(Atom::Pod, atoms));
        }
        for id in &asked {
            for port in &named {
                atoms.ask_port(*id, port.clone());
                self.asks_ports.push((*id, port.clone()));
            }
        }
        CompiledRule {
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
        Peer::Here(_) | Peer::Elsewhere { .. } => true,
    }
}

fn named_ports(rule: &PolicyRule) -> Vec<AskedPort> {
    let ports = rule.ports.iter().flatten();
    let named = ports.filter_map(|port| match &port.ports {
        PortMatch::Named(name) => Some((name.clone(), port.protocol)),
        PortMatch::All | PortMatch::Numbers { .. } => None,
    });
    named.collect()
}
