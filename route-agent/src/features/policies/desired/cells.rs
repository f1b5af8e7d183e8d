//! What is allowed for one pod of this node, class by class.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use crate::features::policies::desired::classes::Classes;
use crate::features::policies::desired::compile::{Compiled, CompiledRule};
use crate::features::policies::desired::wanted::{
    Cell, Class, NO_CLASS, PortRange, Ports, Verdict, listed,
};
use crate::snapshot::{Direction, Pod, PolicyName, PolicyPort, PortMatch};

/// Ranges of up to this many ports are written port by port: each other range costs a rule.
pub const FEW_PORTS: u16 = 16;

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
    let mut found: BTreeMap<Cell, BTreeSet<&str>> = BTreeMap::new();
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
                found.entry(cell).or_default().insert(short(&policy.name));
            };
            of_rule(rule, pod, direction, classes, only, &mut allow);
        }
    }
    noted(pod, found)
}

/// Cells of a pod, each with a text that names the policies that it comes from.
pub fn noted(pod: &Pod, found: BTreeMap<Cell, BTreeSet<&str>>) -> BTreeMap<Cell, Arc<str>> {
    // Most cells of a pod come from the same policies.
    let mut texts: HashMap<BTreeSet<&str>, Arc<str>> = HashMap::new();
    let noted = found.into_iter().map(|(cell, names)| {
        let text = texts.entry(names).or_insert_with_key(|names| {
            let names: Vec<&str> = names.iter().copied().collect();
            match names.is_empty() {
                true => format!("{}: all else", pod.name).into(),
                false => listed(&format!("{}: ", pod.name), &names, 0, ", "),
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
    let members = |atoms: &[u32]| -> BTreeSet<Class> {
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
    for port in ports {
        if let (PortMatch::Named(name), Direction::Egress) = (&port.ports, direction) {
            for class in members(&rule.asked) {
                let key = classes.key(class);
                if let Some(number) = key.and_then(|key| key.port(name, port.protocol)) {
                    allow(class, Ports::One(port.protocol, number));
                }
            }
            continue;
        }
        for ports in of_port(port, pod) {
            for class in &peers {
                allow(*class, ports);
            }
        }
    }
}

/// The ports of a rule; a name is one of the pod itself.
fn of_port(port: &PolicyPort, pod: &Pod) -> Vec<Ports> {
    let PolicyPort { protocol, ports } = port;
    match ports {
        PortMatch::All => vec![Ports::All(*protocol)],
        PortMatch::Numbers { first, last } if last - first < FEW_PORTS => (*first..=*last)
            .map(|one| Ports::One(*protocol, one))
            .collect(),
        PortMatch::Numbers { first, last } => {
            let (first, last) = (*first, *last);
            vec![Ports::Range(*protocol, PortRange { first, last })]
        }
        PortMatch::Named(name) => pod
            .port(name, *protocol)
            .map(|number| Ports::One(*protocol, number))
            .into_iter()
            .collect(),
    }
}
