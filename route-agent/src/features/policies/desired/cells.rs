//! What is allowed for one pod of this node, class by class.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use podwire_kernel::nft::COMMENT_MAX;

use crate::features::policies::desired::atoms::AtomId;
use crate::features::policies::desired::classes::Classes;
use crate::features::policies::desired::compile::{Compiled, CompiledRule};
use crate::features::policies::desired::looks::look;
use crate::features::policies::desired::wanted::{
    Cell, Class, NO_CLASS, PortRange, Ports, Verdict, listed,
};
use crate::snapshot::{Direction, Pod, PolicyName, PolicyPort, PortMatch, Protocol};

/// What the policies say of a pod in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stance {
    /// Everything is allowed.
    Open,
    /// What the cells say.
    Isolated,
}

/// What the policies that select a pod say of a direction.
pub fn stance(policies: &[&Compiled], direction: Direction) -> Stance {
    let mut rules = policies.iter().filter_map(|policy| policy.rules(direction));
    let mut isolated = false;
    let everything = rules.any(|rules| {
        isolated = true;
        rules.iter().any(CompiledRule::is_everything)
    });
    match isolated && !everything {
        true => Stance::Isolated,
        false => Stance::Open,
    }
}

/// The policies that a cell comes from. Thousands of policies may have thousands of cells in common, so
/// no more are kept than there is room for in a comment.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub struct Names<'a> {
    first: Vec<&'a str>,
    last: Option<&'a str>,
    more: usize,
}

impl<'a> Names<'a> {
    /// More names of so many bytes have no room in a comment.
    const ROOM: usize = COMMENT_MAX / 2;

    /// One more; those of one policy must come one after the other.
    pub fn add(&mut self, name: &'a str) {
        if self.last.replace(name) == Some(name) {
            return;
        }
        match self.first.len() < Self::ROOM {
            true => self.first.push(name),
            false => self.more += 1,
        }
    }
}

impl<'a> FromIterator<&'a str> for Names<'a> {
    fn from_iter<I: IntoIterator<Item = &'a str>>(all: I) -> Self {
        let mut names = Self::default();
        for name in all {
            names.add(name);
        }
        names
    }
}

/// The cells of a pod that is isolated in `direction`, each with the policies that it comes from:
/// all of them, or those of the classes in `only`.
pub fn cells(
    pod: &Pod,
    local: IpAddr,
    direction: Direction,
    policies: &[&Compiled],
    classes: &Classes,
    only: Option<&BTreeSet<Class>>,
) -> BTreeMap<Cell, Arc<str>> {
    let mut found: BTreeMap<Cell, Names<'_>> = BTreeMap::new();
    for policy in policies {
        for rule in policy.rules(direction).unwrap_or_default() {
            let mut allow = |class, ports| {
                let cell = Cell {
                    class,
                    direction,
                    local,
                    ports,
                    verdict: Verdict::Allow,
                };
                found.entry(cell).or_default().add(short(&policy.name));
            };
            of_rule(rule, pod, direction, classes, only, &mut allow);
        }
    }
    noted(pod, found)
}

/// Cells of a pod, each with a text that names the policies that it comes from.
pub fn noted(pod: &Pod, found: BTreeMap<Cell, Names<'_>>) -> BTreeMap<Cell, Arc<str>> {
    // Most cells of a pod come from the same policies.
    let mut texts: HashMap<Names<'_>, Arc<str>> = HashMap::new();
    let noted = found.into_iter().map(|(cell, names)| {
        let text = texts.entry(names).or_insert_with_key(|names| {
            let start = format!("{}: ", pod.name);
            match names.first.is_empty() {
                true => format!("{start}all else").into(),
                false => listed(&start, &names.first, names.more, ", "),
            }
        });
        (cell, text.clone())
    });
    noted.collect()
}

/// The name of a policy beside the name of a pod.
pub fn short(name: &PolicyName) -> &str {
    match name {
        PolicyName::Cluster(name) => name,
        PolicyName::Namespaced(name) => &name.name,
    }
}

fn of_rule(
    rule: &CompiledRule,
    pod: &Pod,
    direction: Direction,
    classes: &Classes,
    only: Option<&BTreeSet<Class>>,
    allow: &mut dyn FnMut(Class, Ports),
) {
    let members = |atoms: &[AtomId]| -> BTreeSet<Class> {
        let atoms = atoms.iter();
        atoms.flat_map(|atom| classes.with(*atom, only)).collect()
    };
    let peers = match &rule.peers {
        Some(atoms) => members(atoms),
        None if only.is_none_or(|only| only.contains(&NO_CLASS)) => [NO_CLASS].into(),
        None => BTreeSet::new(),
    };
    let Some(ports) = &rule.ports else {
        for class in peers {
            allow(class, Ports::Any);
        }
        return;
    };
    // Most rules are not about a class that came, and a rule may have a thousand ports.
    for port in ports.iter().filter(|_| !peers.is_empty()) {
        let of_others = matches!(port.ports, PortMatch::Named(_)) && direction == Direction::Egress;
        let ports = if of_others {
            Vec::new()
        } else {
            of_port(port, pod)
        };
        for ports in ports {
            for class in &peers {
                allow(*class, ports);
            }
        }
    }
    let asked = members(&rule.asked);
    if !asked.is_empty() {
        let named = named(ports);
        for class in asked {
            let ports = classes
                .key(class)
                .into_iter()
                .flat_map(|key| key.ports.iter());
            for (name, protocol, number) in ports {
                if named.contains(&(&**name, *protocol)) {
                    allow(class, Ports::One(*protocol, *number));
                }
            }
        }
    }
}

/// The ports that go by a name.
fn named(ports: &[PolicyPort]) -> HashSet<(&str, Protocol)> {
    let named = ports.iter().inspect(|_| look());
    let named = named.filter_map(|port| match &port.ports {
        PortMatch::Named(name) => Some((&**name, port.protocol)),
        PortMatch::All | PortMatch::Numbers { .. } => None,
    });
    named.collect()
}

/// The ports of a rule; a name is one of the pod itself.
fn of_port(port: &PolicyPort, pod: &Pod) -> Vec<Ports> {
    look();
    let PolicyPort { protocol, ports } = port;
    match ports {
        PortMatch::All => vec![Ports::All(*protocol)],
        PortMatch::Numbers { first, last } => match PortRange::of_many(*first, *last) {
            Some(range) => vec![Ports::Range(*protocol, range)],
            None => (*first..=*last)
                .map(|one| Ports::One(*protocol, one))
                .collect(),
        },
        PortMatch::Named(name) => pod
            .port(name, *protocol)
            .map(|number| Ports::One(*protocol, number))
            .into_iter()
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_policies_with_one_cell_few_names_are_kept_and_all_are_counted() {
        let all: Vec<String> = (0..500).map(|one| format!("p{one:03}")).collect();
        let twice = all.iter().flat_map(|name| [name.as_str(); 2]);
        let names: Names<'_> = twice.collect();
        assert_eq!((names.first.len(), names.more), (63, 500 - 63));
        let plain: Vec<&str> = all.iter().map(String::as_str).collect();
        assert_eq!(
            listed("a/b: ", &names.first, names.more, ", "),
            listed("a/b: ", &plain, 0, ", ")
        );
    }
}
