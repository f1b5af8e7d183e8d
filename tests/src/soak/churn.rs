//! What is to be in the lab, and what happens to it next: plain values, decided by a seed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;

use fastrand::Rng;

use crate::policy::{Directions, GROUPS, Policy};

/// Pods on one node at most: each pod asks each other one in every check.
const PODS: usize = 4;
/// Services at most.
const SERVICES: usize = 12;
/// NetworkPolicies at most.
const POLICIES: usize = 4;
/// The first and the last address of a Service are 10.200.1.FIRST and 10.200.1.LAST.
const ADDRESSES: std::ops::Range<u8> = 10..250;

/// What is to be there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The nodes, by name; the first one's agent is never killed.
    pub nodes: Vec<String>,
    /// The pods by name.
    pub pods: BTreeMap<String, Pod>,
    /// The Services by name.
    pub services: BTreeMap<String, Service>,
    /// The NetworkPolicies by name.
    pub policies: BTreeMap<String, Policy>,
    /// Pods whose link is gone, and which the runtime has not deleted yet.
    pub broken: BTreeSet<String>,
    /// The nodes whose agent does not run, and whether there were policies when it died.
    pub down: BTreeMap<String, bool>,
    /// How many names were given.
    names: u16,
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Where it runs.
    pub node: String,
    /// The port of the node that is its port 80, if it has one.
    pub host_port: Option<u16>,
    /// The value of its label, by which policies select.
    pub group: u8,
}

/// A Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its ClusterIP.
    pub address: Ipv4Addr,
    /// Its node port, if it has one.
    pub node_port: Option<u16>,
    /// The pods that answer.
    pub endpoints: BTreeSet<String>,
}

/// Something that happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// A pod comes.
    PodComes(String, Pod),
    /// A pod goes; the endpoints are told before, or else after.
    PodGoes(String, bool),
    /// A pod's link goes, and no one calls DEL: the agent has to take back what it had.
    PodBreaks(String),
    /// The runtime deletes such a pod after all.
    PodIsDeleted(String),
    /// A pod gets another label.
    PodIsLabelled(String, u8),
    /// A Service comes, or has other endpoints.
    ServiceIs(String, Service),
    /// A Service goes.
    ServiceGoes(String),
    /// A NetworkPolicy comes or changes.
    PolicyIs(String, Policy),
    /// A NetworkPolicy goes.
    PolicyGoes(String),
    /// Someone breaks something on a node.
    Breaks(String, Damage),
    /// The agent of a node is killed; it comes again at once, or only later.
    AgentDies(String, bool),
    /// The agent of a node that does not run comes again.
    AgentComes(String),
}

/// What someone breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// All rules of everyone are gone.
    Ruleset,
    /// The table of Services is gone.
    Table,
    /// The elements of the map of Services are gone.
    Elements,
    /// The table of policies is gone.
    Policies,
    /// All routes to the pods of others are gone.
    Routes,
    /// One of them is.
    Route,
}

impl Damage {
    const ALL: [Self; 6] = [
        Self::Ruleset,
        Self::Table,
        Self::Elements,
        Self::Policies,
        Self::Routes,
        Self::Route,
    ];

    /// What a person would type for it. It may find nothing to break.
    pub fn command(self) -> &'static str {
        match self {
            Self::Ruleset => "nft flush ruleset",
            Self::Table => "nft delete table ip podwire-services",
            Self::Elements => "nft flush map ip podwire-services services",
            Self::Policies => "nft delete table ip podwire-policy",
            Self::Routes => "ip route flush proto 112",
            Self::Route => "ip route del $(ip route show proto 112 | grep via | head -n1)",
        }
    }
}

impl Action {
    /// Its kind, for the summary.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::PodComes(..) => "pods come",
            Self::PodGoes(..) => "pods go",
            Self::PodBreaks(_) => "pods break",
            Self::PodIsDeleted(_) => "broken pods are deleted",
            Self::PodIsLabelled(..) => "labels change",
            Self::ServiceIs(..) => "Services come or change",
            Self::ServiceGoes(_) => "Services go",
            Self::PolicyIs(..) => "policies come or change",
            Self::PolicyGoes(_) => "policies go",
            Self::Breaks(..) => "breakages",
            Self::AgentDies(..) => "agents killed",
            Self::AgentComes(_) => "agents started late",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PodComes(name, pod) => write!(f, "{name} comes to {}", pod.node),
            Self::PodGoes(name, _) => write!(f, "{name} goes"),
            Self::PodBreaks(name) => write!(f, "{name} loses its link"),
            Self::PodIsDeleted(name) => write!(f, "{name}, which was broken, is deleted"),
            Self::ServiceIs(name, service) => {
                write!(f, "{name} has {} endpoints", service.endpoints.len())
            }
            Self::PodIsLabelled(name, group) => write!(f, "{name} is of group {group} now"),
            Self::PolicyIs(name, policy) => write!(f, "{name} isolates group {}", policy.selects),
            Self::ServiceGoes(name) | Self::PolicyGoes(name) => write!(f, "{name} goes"),
            Self::Breaks(node, damage) => write!(f, "on {node}: {}", damage.command()),
            Self::AgentDies(node, true) => write!(f, "agent killed on {node}"),
            Self::AgentDies(node, false) => write!(f, "agent killed on {node}, for a while"),
            Self::AgentComes(node) => write!(f, "agent started on {node}"),
        }
    }
}

impl Wanted {
    /// Nodes without anything.
    pub fn on(nodes: Vec<String>) -> Self {
        Self {
            nodes,
            ..Self::default()
        }
    }

    /// A pod with a hostPort on every node, a Service of all of them, and a policy for one.
    pub fn first(&self) -> Vec<Action> {
        let mut after = self.clone();
        let mut actions = Vec::new();
        for (node, port) in self.nodes.iter().zip(20_000..) {
            let pod = Pod {
                node: node.clone(),
                host_port: Some(port),
                group: (port % u16::from(GROUPS)) as u8,
            };
            actions.push(Action::PodComes(format!("first-{port}"), pod));
        }
        actions.iter().for_each(|action| after.take_in(action));
        let service = Service {
            address: Ipv4Addr::new(10, 200, 1, ADDRESSES.start),
            node_port: Some(30_000),
            endpoints: after.pods.into_keys().collect(),
        };
        actions.push(Action::ServiceIs("first".into(), service));
        let policy = Policy {
            selects: 0,
            directions: Directions::Both,
            allows: Some(1),
        };
        actions.push(Action::PolicyIs("first-policy".into(), policy));
        actions
    }

    /// What happens next.
    pub fn next(&self, random: &mut Rng) -> Action {
        loop {
            let action = match random.u8(..27) {
                0..5 => self.pod_comes(random),
                5..7 => self.pod_goes(random),
                7..9 => self.service_comes(random),
                9..14 => self.endpoints_change(random),
                14 => random
                    .choice(self.services.keys())
                    .map(|name| Action::ServiceGoes(name.clone())),
                15..17 => self.breaks(random),
                17 => random
                    .choice(self.down.keys())
                    .map(|node| Action::AgentComes(node.clone())),
                18 => random
                    .choice(self.pods.keys())
                    .map(|name| Action::PodBreaks(name.clone())),
                19..21 => self.agent_dies(random),
                21..24 => self.policy_is(random),
                24 => random
                    .choice(self.policies.keys())
                    .map(|name| Action::PolicyGoes(name.clone())),
                _ => random
                    .choice(self.pods.keys())
                    .map(|name| Action::PodIsLabelled(name.clone(), random.u8(..GROUPS))),
            };
            if let Some(action) = action {
                return action;
            }
        }
    }

    fn pod_comes(&self, random: &mut Rng) -> Option<Action> {
        // Where there are policies no pod starts without its agent, and that comes only later. Nor does
        // one where there were: no one has told the node that they went.
        let starts = |node: &&String| match self.down.get(*node) {
            Some(had_policies) => !had_policies && self.policies.is_empty(),
            None => true,
        };
        let node = random.choice(self.nodes.iter().filter(starts).collect::<Vec<_>>())?;
        let there = self.pods.values().filter(|pod| pod.node == *node).count();
        let host_port = random.bool().then(|| 20_000 + self.names % 10_000);
        let pod = Pod {
            node: node.clone(),
            host_port,
            group: random.u8(..GROUPS),
        };
        (there < PODS).then(|| Action::PodComes(format!("pod-{}", self.names), pod))
    }

    fn pod_goes(&self, random: &mut Rng) -> Option<Action> {
        let name = random.choice(self.pods.keys())?;
        Some(Action::PodGoes(name.clone(), random.bool()))
    }

    fn service_comes(&self, random: &mut Rng) -> Option<Action> {
        if self.services.len() >= SERVICES {
            return None;
        }
        let taken = |address: &Ipv4Addr| self.services.values().any(|s| s.address == *address);
        let free: Vec<_> = ADDRESSES
            .map(|last| Ipv4Addr::new(10, 200, 1, last))
            .filter(|address| !taken(address))
            .collect();
        let service = Service {
            address: random.choice(free)?,
            node_port: random.bool().then(|| 30_000 + self.names % 2_000),
            endpoints: self.some_pods(random),
        };
        Some(Action::ServiceIs(format!("svc-{}", self.names), service))
    }

    fn endpoints_change(&self, random: &mut Rng) -> Option<Action> {
        let (name, service) = random.choice(&self.services)?;
        let endpoints = self.some_pods(random);
        let service = Service {
            endpoints,
            ..service.clone()
        };
        Some(Action::ServiceIs(name.clone(), service))
    }

    fn some_pods(&self, random: &mut Rng) -> BTreeSet<String> {
        let chance = random.u8(..4);
        let some = self.pods.keys().filter(|_| random.u8(..4) < chance);
        some.cloned().collect()
    }

    fn policy_is(&self, random: &mut Rng) -> Option<Action> {
        let known = self.policies.keys().collect::<Vec<_>>();
        let name = match random.choice(&known) {
            Some(name) if known.len() == POLICIES || random.bool() => (*name).clone(),
            _ => format!("policy-{}", self.names),
        };
        let policy = Policy {
            selects: random.u8(..GROUPS),
            directions: random.choice(Directions::ALL)?,
            allows: random.bool().then(|| random.u8(..GROUPS)),
        };
        Some(Action::PolicyIs(name, policy))
    }

    fn breaks(&self, random: &mut Rng) -> Option<Action> {
        let node = random.choice(&self.nodes)?;
        Some(Action::Breaks(node.clone(), random.choice(Damage::ALL)?))
    }

    fn agent_dies(&self, random: &mut Rng) -> Option<Action> {
        let running = self.nodes.iter().skip(1);
        let running: Vec<_> = running
            .filter(|node| !self.down.contains_key(*node))
            .collect();
        let node = random.choice(running)?;
        Some(Action::AgentDies(node.clone(), random.u8(..3) > 0))
    }

    /// Takes in what happens.
    pub fn take_in(&mut self, action: &Action) {
        match action {
            Action::PodComes(name, pod) => {
                self.names += 1;
                self.pods.insert(name.clone(), pod.clone());
            }
            Action::PodGoes(name, _) | Action::PodBreaks(name) => {
                self.pods.remove(name);
                if let Action::PodBreaks(_) = action {
                    self.broken.insert(name.clone());
                }
                for service in self.services.values_mut() {
                    service.endpoints.remove(name);
                }
            }
            Action::ServiceIs(name, service) => {
                self.names += u16::from(!self.services.contains_key(name));
                self.services.insert(name.clone(), service.clone());
            }
            Action::ServiceGoes(name) => {
                self.services.remove(name);
            }
            Action::PodIsLabelled(name, group) => {
                self.pods
                    .entry(name.clone())
                    .and_modify(|pod| pod.group = *group);
            }
            Action::PolicyIs(name, policy) => {
                self.names += u16::from(!self.policies.contains_key(name));
                self.policies.insert(name.clone(), policy.clone());
            }
            Action::PolicyGoes(name) => {
                self.policies.remove(name);
            }
            Action::AgentDies(node, false) => {
                self.down.insert(node.clone(), !self.policies.is_empty());
            }
            Action::AgentComes(node) => {
                self.down.remove(node);
            }
            Action::PodIsDeleted(name) => {
                self.broken.remove(name);
            }
            Action::AgentDies(_, true) | Action::Breaks(..) => {}
        }
    }

    /// What brings back every agent.
    pub fn calm(&self) -> Vec<Action> {
        let down = self.down.keys().cloned();
        down.map(Action::AgentComes).collect()
    }

    /// What deletes the broken pods.
    pub fn bury(&self) -> Vec<Action> {
        let broken = self.broken.iter().cloned();
        broken.map(Action::PodIsDeleted).collect()
    }

    /// What takes everything away.
    pub fn leave(&self) -> Vec<Action> {
        let services = self.services.keys().cloned().map(Action::ServiceGoes);
        let pods = self.pods.keys().cloned();
        let policies = self.policies.keys().cloned().map(Action::PolicyGoes);
        services
            .chain(pods.map(|name| Action::PodGoes(name, true)))
            .chain(policies)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(seed: u64, actions: usize) -> (Wanted, Vec<Action>) {
        let mut wanted = Wanted::on(["a", "b", "c"].map(str::to_owned).to_vec());
        let mut random = Rng::with_seed(seed);
        let mut done = Vec::new();
        for _ in 0..actions {
            let action = wanted.next(&mut random);
            wanted.take_in(&action);
            done.push(action);
        }
        (wanted, done)
    }

    #[test]
    fn a_seed_says_what_happens() {
        assert_eq!(after(7, 300), after(7, 300));
        assert_ne!(after(7, 300), after(8, 300));
    }

    #[test]
    fn everything_happens_and_nothing_contradicts_itself() {
        let (wanted, done) = after(1, 5000);
        let kinds: BTreeSet<_> = done.iter().map(Action::kind).collect();
        assert_eq!(kinds.len(), 11, "{kinds:?}");
        let damages = Damage::ALL.into_iter().filter(|damage| {
            let is_it = |action: &Action| matches!(action, Action::Breaks(_, one) if one == damage);
            done.iter().any(is_it)
        });
        assert_eq!(damages.count(), Damage::ALL.len());
        let dies = |action: &Action| matches!(action, Action::AgentDies(node, _) if node == "a");
        assert!(!done.iter().any(dies), "the first one's agent stays");
        let addresses: BTreeSet<_> = wanted.services.values().map(|s| s.address).collect();
        assert_eq!(addresses.len(), wanted.services.len());
        for service in wanted.services.values() {
            assert!(
                service
                    .endpoints
                    .iter()
                    .all(|pod| wanted.pods.contains_key(pod))
            );
        }
    }

    #[test]
    fn no_pod_comes_to_a_node_that_may_believe_in_policies_and_has_no_agent() {
        let mut wanted = Wanted::on(["a", "b", "c"].map(str::to_owned).to_vec());
        let mut random = Rng::with_seed(1);
        // The nodes whose agent died while there were policies.
        let (mut closed, mut came) = (BTreeSet::new(), 0);
        for _ in 0..20_000 {
            let action = wanted.next(&mut random);
            if let Action::PodComes(_, pod) = &action {
                assert!(!closed.contains(&pod.node), "{action:?}");
                if wanted.down.contains_key(&pod.node) {
                    assert!(wanted.policies.is_empty(), "{action:?}");
                    came += 1;
                }
            }
            match &action {
                Action::AgentDies(node, false) if !wanted.policies.is_empty() => {
                    closed.insert(node.clone());
                }
                Action::AgentComes(node) => _ = closed.remove(node),
                _ => {}
            }
            wanted.take_in(&action);
        }
        assert!(came > 0, "no pod came to a node without an agent");
    }

    #[test]
    fn in_the_end_nothing_is_wanted() {
        let (mut wanted, _) = after(3, 500);
        for action in [wanted.calm(), wanted.bury(), wanted.leave()].concat() {
            wanted.take_in(&action);
        }
        assert_eq!(
            wanted,
            Wanted {
                nodes: wanted.nodes.clone(),
                names: wanted.names,
                ..Wanted::default()
            }
        );
    }
}
