//! What NetworkPolicies say of a packet that this node forwards: the policies feature's own reading
//! as sentences.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use podwire_kernel::IpFamily;
use podwire_kernel::nft::Family;

use crate::features::policies::desired::explain::{Outcome, Words, judge};
use crate::features::policies::desired::truth::{Traffic, Truth, is_in_doubt, selecting};
use crate::features::policies::layout::skeleton::{UNDECIDED, denied, refused};
use crate::ours::POLICY_TABLE;
use crate::snapshot::{Direction, Pod, Tier};
use crate::text::some_of;
use crate::why::facts::{Facts, Party};
use crate::why::question::Transport;
use crate::why::{Asked, Check, Hop, Pod as Attached};

/// More destinations than this are not looked at one by one.
const SHOWN: usize = 8;

/// What the policies say of packets from one source to several destinations.
pub(super) struct Policies {
    /// The step; none if there is nothing to say.
    pub hop: Option<Hop>,
    /// The destinations to which packets are dropped.
    pub denied: Vec<IpAddr>,
    /// Why, in one sentence, if any are.
    pub why: Option<String>,
}

/// Asks the policies about a way. `to` are destinations and ports as the forward hook sees them.
pub(super) fn ask(
    facts: &Facts<'_>,
    from: &Party<'_>,
    source: IpAddr,
    to: &[(IpAddr, Transport)],
) -> Policies {
    let mut asking = Asking {
        facts,
        truth: truth(
            facts,
            to.iter().map(|(address, _)| *address).chain([source]),
        ),
        lines: BTreeMap::new(),
        order: Vec::new(),
        checks: Vec::new(),
        denied: Vec::new(),
        drop: None,
        asked: false,
        here: false,
        elsewhere: BTreeSet::new(),
    };
    if facts.config.network_policy && facts.snapshot.has_policies() {
        for (destination, transport) in to {
            asking.ask(from, source, *destination, traffic(*transport));
        }
    }
    asking.finish(to.len())
}

/// The policies, and whom they are about: of a pod here the rules may know more than its status says.
fn truth<'a>(facts: &Facts<'a>, addresses: impl Iterator<Item = IpAddr>) -> Truth<'a> {
    let is_known = |address: &IpAddr| {
        let mut pods = facts.pods.iter();
        !facts.owners.is_empty() && pods.any(|pod| pod.addresses.contains(address))
    };
    let (known, others): (BTreeSet<_>, BTreeSet<_>) = addresses.partition(is_known);
    let known = facts
        .owners
        .iter()
        .filter(|(address, _)| known.contains(*address));
    Truth::about(facts.snapshot, &others).and_of(known)
}

fn traffic(transport: Transport) -> Traffic {
    match transport {
        Transport::Ping => Traffic::Portless,
        Transport::Port(protocol, port) => Traffic::Port(protocol, port),
    }
}

struct Asking<'a> {
    facts: &'a Facts<'a>,
    truth: Truth<'a>,
    /// Each sentence, with the destinations that it is true of.
    lines: BTreeMap<String, Vec<IpAddr>>,
    order: Vec<String>,
    checks: Vec<Check>,
    denied: Vec<IpAddr>,
    /// The chain in which the first packet that is dropped ends, and why it does.
    drop: Option<(&'static str, String)>,
    /// Whether any policy was asked.
    asked: bool,
    /// Whether this node has a say.
    here: bool,
    /// The other nodes that have one.
    elsewhere: BTreeSet<String>,
}

/// An end of the packet that is asked about.
#[derive(Clone, Copy)]
struct End {
    /// As seen from here.
    direction: Direction,
    local: IpAddr,
    peer: IpAddr,
    traffic: Traffic,
}

impl End {
    /// The destination of the packet.
    fn to(self) -> IpAddr {
        match self.direction {
            Direction::Egress => self.peer,
            Direction::Ingress => self.local,
        }
    }
}

/// What one end has to say.
enum Word {
    /// It is a pod of this node.
    Here,
    /// It is attached here, or an address of this node's podCIDRs, without a Pod that is known.
    Undecided,
    /// It is a pod of this node in this Namespace, which is not known and whose labels would decide.
    InDoubt(Arc<str>),
    /// It is attached here, and no policy can be about it.
    Free,
    /// It is a pod of another node.
    Elsewhere(String),
    /// It is no pod.
    None,
}

impl Asking<'_> {
    fn ask(&mut self, from: &Party<'_>, source: IpAddr, to: IpAddr, traffic: Traffic) {
        let facts = self.facts;
        if *from == Party::OwnNode || facts.is_own(to) {
            let (pod, direction) = match facts.is_own(to) {
                true => (source, Direction::Egress),
                false => (to, Direction::Ingress),
            };
            match self.word(pod) {
                Word::Here | Word::Undecided | Word::InDoubt(_) | Word::Free => {
                    self.here = true;
                    self.say(
                        to,
                        "No policy is asked: what a node and its own pods send each other is \
                         always allowed, and does not come through the forward hook."
                            .into(),
                    );
                }
                Word::Elsewhere(node) => self.elsewhere(to, &node, direction),
                Word::None => {}
            }
            return;
        }
        let ends = [
            (Direction::Egress, source, to),
            (Direction::Ingress, to, source),
        ];
        let mut passes = true;
        for (direction, local, peer) in ends {
            let end = End {
                direction,
                local,
                peer,
                traffic,
            };
            let word = self.word(local);
            self.here |= !matches!(word, Word::Elsewhere(_) | Word::None);
            passes &= match word {
                Word::Here => self.here(end),
                Word::Undecided => {
                    let why = format!("no Pod with the address {local} is known here yet");
                    self.undecided(end, why)
                }
                Word::InDoubt(namespace) => {
                    let why = format!(
                        "the Namespace {namespace} is not known, and its labels would tell which \
                         ClusterNetworkPolicies select the pod"
                    );
                    self.undecided(end, why)
                }
                Word::Free => self.free(end),
                Word::Elsewhere(node) => {
                    self.elsewhere(to, &node, direction);
                    true
                }
                Word::None => true,
            };
        }
        self.denied.extend((!passes).then_some(to));
    }

    /// Who decides about an address.
    fn word(&self, address: IpAddr) -> Word {
        let own = &self.facts.config.node_name;
        match (self.truth.pod(address), self.facts.party(address)) {
            (Some(pod), _) if pod.node.as_ref() == Some(own) => match self.is_in_doubt(pod) {
                true => Word::InDoubt(pod.name.namespace.clone()),
                false => Word::Here,
            },
            (_, Party::PodOf(node, _)) => Word::Elsewhere(node.name.to_string()),
            (None, Party::Pod(one)) if self.is_free(one) => Word::Free,
            (None, Party::Pod(_) | Party::NoPod(_)) => Word::Undecided,
            (
                Some(Pod {
                    node: Some(node), ..
                }),
                _,
            ) => Word::Elsewhere(node.to_string()),
            _ => Word::None,
        }
    }

    fn is_in_doubt(&self, pod: &Pod) -> bool {
        let facts = self.facts;
        facts.config.manifests.is_none() && is_in_doubt(pod, facts.snapshot)
    }

    /// True if no policy can be about what is attached there: it is no pod's, or none is about pods of
    /// its namespace.
    fn is_free(&self, attached: &Attached) -> bool {
        let Some(name) = &attached.name else {
            return !attached.unnamed;
        };
        let namespace = name.split_once('/').map_or(&**name, |(space, _)| space);
        !self.facts.snapshot.may_isolate(&Arc::from(namespace))
    }

    /// True if an address is in one of this node's podCIDRs.
    fn inside(&self, address: IpAddr) -> bool {
        let mut cidrs = self.facts.own_pod_cidrs().into_iter();
        cidrs.any(|cidr| cidr.contains(address))
    }

    fn here(&mut self, end: End) -> bool {
        let End {
            direction,
            local,
            peer,
            traffic,
        } = end;
        let Some(judgement) = judge(&self.truth, direction, local, peer, traffic) else {
            return true;
        };
        let pod = &judgement.pod.name;
        let isolated = format!(
            "{} isolate{} {pod}",
            judgement.isolated_by(),
            ending(&judgement.isolating)
        );
        let text = match &judgement.outcome {
            Outcome::Open => {
                let said = match &judgement.passed {
                    Some(_) => String::new(),
                    None => self.unmatched(judgement.pod, direction),
                };
                format!("{direction}: {said}no policy isolates {pod}.")
            }
            Outcome::Itself => format!("{direction}: {isolated}, but a pod always reaches itself."),
            Outcome::Accepted(rule) => format!("{direction}: {rule}."),
            Outcome::Refused(rule) => {
                let why = || {
                    (
                        refused(direction, false),
                        format!("for {direction}, {rule}"),
                    )
                };
                self.drop.get_or_insert_with(why);
                format!("{direction}: {rule} ({}).", Words(traffic))
            }
            Outcome::Allowed(rule) => format!("{direction}: {isolated}; {rule}."),
            Outcome::Denied(nearest) => {
                let nearest = nearest.as_ref().map_or_else(
                    || "there is no rule that allows anything".to_owned(),
                    |nearest| format!("nearest rule: {nearest}"),
                );
                let what = Words(traffic);
                self.drop.get_or_insert_with(|| {
                    let why = format!("{isolated} for {direction}, and no rule allows it");
                    (denied(direction), why)
                });
                format!("{direction}: {isolated}, and no rule allows it ({what}); {nearest}.")
            }
        };
        let passes = judgement.passes();
        self.asked |= !matches!(judgement.outcome, Outcome::Open);
        if let Some(rule) = &judgement.passed {
            self.say(
                end.to(),
                format!("{direction}: {rule}, which leaves it to NetworkPolicies."),
            );
        }
        self.conclude(end, text, passes)
    }

    /// Of a pod that ClusterNetworkPolicies select: that none of their rules is about the packet.
    fn unmatched(&self, pod: &Pod, direction: Direction) -> String {
        let tiers = [Tier::Admin, Tier::Baseline].into_iter();
        let policies = tiers.flat_map(|tier| selecting(self.truth.snapshot(), pod, tier));
        let policies = policies.filter(|policy| !policy.rules(direction).is_empty());
        let names: Vec<&str> = policies.map(|policy| &*policy.name).collect();
        match names.is_empty() {
            true => String::new(),
            false => format!(
                "no rule of ClusterNetworkPolicy {} matches, and ",
                names.join(", ")
            ),
        }
    }

    fn undecided(&mut self, end: End, why: String) -> bool {
        let direction = end.direction;
        let text = format!("{direction}: {why}, so it is closed (chain {UNDECIDED}).");
        self.drop.get_or_insert((UNDECIDED, why));
        self.conclude(end, text, false)
    }

    fn free(&mut self, end: End) -> bool {
        let End {
            direction, local, ..
        } = end;
        let text = format!("{direction}: no policy can be about {local}, so it is open.");
        self.conclude(end, text, true)
    }

    fn elsewhere(&mut self, to: IpAddr, node: &str, direction: Direction) {
        self.elsewhere.insert(node.to_owned());
        let text = format!("{direction}: node {node} decides for its own pod: ask there.");
        self.say(to, text);
    }

    fn say(&mut self, to: IpAddr, text: String) {
        if !self.lines.contains_key(&text) {
            self.order.push(text.clone());
        }
        self.lines.entry(text).or_default().push(to);
    }

    /// Says what comes of one end, and has it compared with the kernel.
    fn conclude(&mut self, end: End, text: String, passes: bool) -> bool {
        self.say(end.to(), text);
        let End {
            direction,
            local,
            peer,
            traffic,
        } = end;
        let check = Check::Policies(Asked {
            direction,
            local,
            peer,
            traffic,
            inside: self.inside(local),
            passes,
        });
        if self.checks.len() < 2 * SHOWN && !self.checks.contains(&check) {
            self.checks.push(check);
        }
        passes
    }

    /// What is said of a packet that nothing here drops.
    fn passes(&self) -> String {
        let nodes: Vec<&str> = self.elsewhere.iter().map(String::as_str).collect();
        let (who, decide) = match nodes[..] {
            [] => return "NetworkPolicies let it pass".to_owned(),
            [one] => (format!("node {one}"), "decides"),
            _ => (format!("nodes {}", nodes.join(", ")), "decide"),
        };
        match self.here {
            true => format!("NetworkPolicies let it pass here; {who} {decide} as well"),
            false => format!("NetworkPolicies: {who} {decide}, not this node"),
        }
    }

    fn finish(self, all: usize) -> Policies {
        let Some(first) = self.order.first() else {
            return Policies {
                hop: None,
                denied: Vec::new(),
                why: None,
            };
        };
        let what = match self.denied.len() {
            0 => self.passes(),
            denied if denied == all => "NetworkPolicies drop it".to_owned(),
            denied => format!("NetworkPolicies drop it on the way to {denied} of {all} endpoints"),
        };
        let family = IpFamily::of(self.lines[first][0]);
        let mut hop = Hop::new(what);
        for text in self.order.iter().take(2 * SHOWN) {
            let about = &self.lines[text];
            hop = hop.because(match about.len() == all {
                true => text.clone(),
                false => format!("To {}: {text}", some_of(about, SHOWN, ", ")),
            });
        }
        if self.asked && self.denied.len() < all {
            hop = hop.because(
                "Replies pass with it: they are judged as the connection that they belong to.",
            );
        }
        if !self.checks.is_empty() {
            let table = format!("{} {POLICY_TABLE}", Family::from(family));
            hop = hop.see(match &self.drop {
                None => format!("nft list table {table}"),
                Some((chain, _)) => {
                    format!("podwire-agent drops; nft list chain {table} {chain}")
                }
            });
        }
        hop.checks = self.checks;
        if self.denied.len() < all {
            hop.denied.clone_from(&self.denied);
        }
        Policies {
            hop: Some(hop),
            denied: self.denied,
            why: self.drop.map(|(_, why)| why),
        }
    }
}

/// One policy isolates, several isolate.
fn ending<T>(all: &[T]) -> &'static str {
    if all.len() == 1 { "s" } else { "" }
}
