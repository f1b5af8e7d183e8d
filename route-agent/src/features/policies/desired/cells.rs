//! What is allowed for one pod of this node, class by class.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use crate::features::policies::desired::classes::Classes;
use crate::features::policies::desired::compile::{Compiled, CompiledRule};
use crate::features::policies::desired::wanted::{Cell, Class, NO_CLASS, PortRange, Ports};
use crate::snapshot::{Direction, Pod, PolicyPort, PortMatch};

/// Ranges of up to this many ports are written port by port: each other range costs a rule.
const FEW_PORTS: u16 = 16;

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
                };
                found.entry(cell).or_default().insert(&*policy.name.name);
            };
            of_rule(rule, pod, direction, classes, only, &mut allow);
        }
    }
    // Most cells of a pod come from the same policies.
    let mut texts: HashMap<BTreeSet<&str>, Arc<str>> = HashMap::new();
    let noted = found.into_iter().map(|(cell, names)| {
        let text = texts.entry(names).or_insert_with_key(|names| {
            let names: Vec<&str> = names.iter().copied().collect();
            format!("{}: {}", pod.name, names.join(", ")).into()
        });
        (cell, text.clone())
    });
    noted.collect()
}

fn of_rule(
    rule: &CompiledRule,
    pod: &Pod,
    direction: Direction,
    classes: &Classes,
    only: Option<&BTreeSet<Class>>,
    allow: &mut dyn FnMut(Class, Ports),
) {
    let asked_for = |class: &Class| only.is_none_or(|only| only.contains(class));
    let members = |atoms: &[u32]| -> BTreeSet<Class> {
        let all = atoms.iter().flat_map(|atom| classes.with(*atom));
        all.filter(asked_for).collect()
    };
    let peers = match &rule.peers {
        Some(atoms) => members(atoms),
        None => [NO_CLASS].into_iter().filter(asked_for).collect(),
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
