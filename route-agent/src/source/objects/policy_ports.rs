//! The ports of a rule of a policy: as few entries as say the same, and no more than the rules in the
//! kernel can bear.
//!
//! Every entry is an element in the kernel for each class of peers and each pod that is selected, so who
//! may write a policy may not write as many as fit into an object.

use crate::snapshot::{PolicyPort, PortMatch};

/// What the ports of a rule may cost: a port or a name counts one, a range as many as it has ports, and
/// no more than [`RANGE`].
pub const OF_RULE: usize = 1_000;

/// What the ports of all rules of a direction of a NetworkPolicy may cost.
pub const OF_POLICY: usize = 10_000;

/// A range of more ports than 16 is one element, a set and rules.
const RANGE: usize = 17;

/// A list that costs up to this much stays as it was written: a new range changes the rules, which takes
/// much longer than some hundred elements.
const SHORT: usize = 256;

/// Ports that say the same as these: of a long list sorted, each once, neighbours as a range.
pub fn gathered(mut ports: Vec<PolicyPort>) -> Box<[PolicyPort]> {
    if cost(&ports) <= SHORT {
        return ports.into();
    }
    // Of each protocol first all, then numbers by where they begin, then names.
    ports.sort_unstable();
    ports.dedup();
    let mut fewer: Vec<PolicyPort> = Vec::new();
    for port in ports {
        let before = fewer.last_mut().filter(|one| one.protocol == port.protocol);
        match (before.map(|one| &mut one.ports), &port.ports) {
            (Some(PortMatch::All), _) => {}
            (
                Some(PortMatch::Numbers { last, .. }),
                PortMatch::Numbers {
                    first: next,
                    last: end,
                },
            ) if *next <= last.saturating_add(1) => *last = (*last).max(*end),
            _ => fewer.push(port),
        }
    }
    fewer.into()
}

/// What ports cost.
pub fn cost(ports: &[PolicyPort]) -> usize {
    let costs = ports.iter().map(|port| match port.ports {
        PortMatch::All | PortMatch::Named(_) => 1,
        PortMatch::Numbers { first, last } => (usize::from(last - first) + 1).min(RANGE),
    });
    costs.sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Protocol::{self, Tcp, Udp};

    fn numbers(protocol: Protocol, first: u16, last: u16) -> PolicyPort {
        let ports = PortMatch::Numbers { first, last };
        PolicyPort { protocol, ports }
    }

    fn named(name: &str) -> PolicyPort {
        let ports = PortMatch::Named(name.into());
        PolicyPort {
            protocol: Tcp,
            ports,
        }
    }

    #[test]
    fn a_long_list_has_each_port_once_and_neighbours_as_a_range() {
        let mut ports: Vec<_> = (1..=400).rev().map(|one| numbers(Tcp, one, one)).collect();
        ports.extend([numbers(Tcp, 30, 500), numbers(Tcp, 502, 502)]);
        ports.extend([numbers(Tcp, 65535, 65535), numbers(Tcp, 60000, 65535)]);
        ports.extend([numbers(Udp, 51, 51), named("b"), named("a"), named("b")]);
        let fewer = [
            numbers(Tcp, 1, 500),
            numbers(Tcp, 502, 502),
            numbers(Tcp, 60000, 65535),
            named("a"),
            named("b"),
            numbers(Udp, 51, 51),
        ];
        assert_eq!(*gathered(ports), fewer);
        assert_eq!(cost(&fewer), 17 + 1 + 17 + 1 + 1 + 1);
    }

    #[test]
    fn all_ports_of_a_protocol_are_more_than_any_of_them() {
        let mut ports: Vec<_> = (1..=400)
            .map(|one| numbers(Tcp, one * 2, one * 2))
            .collect();
        let all = PolicyPort {
            protocol: Tcp,
            ports: PortMatch::All,
        };
        ports.extend([numbers(Udp, 1, 1), named("a"), all.clone()]);
        assert_eq!(*gathered(ports), [all, numbers(Udp, 1, 1)]);
    }

    #[test]
    fn a_short_list_stays_as_it_was_written() {
        let ports = vec![numbers(Udp, 2, 2), named("a"), numbers(Tcp, 2, 2)];
        assert_eq!(*gathered(ports.clone()), *ports);
        // As elements: a range of them would be a rule more.
        let ports: Vec<_> = (1..=256).map(|one| numbers(Tcp, one, one)).collect();
        assert_eq!(*gathered(ports.clone()), *ports);
    }
}
