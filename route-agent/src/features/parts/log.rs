//! What rules log of packets that they refuse or drop.
//!
//! The kernel hands the packet over, and with it which rule it was. All else follows from the packet
//! itself, and is found by who reads it (`drops`).
//!
//! A rule that logs stands only where nothing but a refusal follows, so that no packet that passes
//! meets one. Where a base chain decides by itself, the packet is sent to a chain of its own first.

use std::collections::BTreeMap;

use podwire_kernel::nft::{Chain, Expr, Family, NftSocket, Rule, Table, diff};

use crate::ours::LOG_GROUP;
use crate::snapshot::Direction;

/// How many packets each rule logs in a second; the rest is only counted. A connection that is refused
/// is tried again a few times, so each is seen.
const RATE: u64 = 10;
/// How many it logs at once.
const AT_ONCE: u32 = 20;
/// How much of a packet, in bytes: the headers up to the ports.
const COPIED: u32 = 128;

/// A table in which something is tried, and one that is never there.
const TRIAL: &str = "podwire-try-log";
const NEVER: &str = "podwire-never";

/// Why a packet was refused or dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// Policies of this direction do not allow it.
    Denied {
        /// As seen from the pod of this node.
        direction: Direction,
        /// It is a reply: the connection went the other way.
        reply: bool,
    },
    /// Policies isolate pods here, and its pod of this node is not known yet.
    Undecided,
    /// No endpoint of the Service is ready.
    NoEndpoints,
    /// Only endpoints of this node may answer, and none is ready.
    NoLocalEndpoints,
    /// The Service that has the address has no such port.
    NoSuchPort,
    /// The load balancer's address is not for this source.
    SourceRange,
    /// An address that Services may get, and none has.
    Unallocated,
    /// It came out of a pod with a source that is not the pod's.
    Spoofed,
    /// It came from elsewhere with the source of a pod of this node.
    Foreign,
    /// 127.0.0.0/8, which is for this node alone.
    Loopback,
    /// The pod has as many connections as it may have.
    TooManyConnections,
    /// The podCIDR of a Node that is gone.
    GoneNode,
}

/// What the sender gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// An error is sent back.
    Refused,
    /// Nothing is sent back.
    Dropped,
}

impl Verdict {
    /// In one word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Dropped => "dropped",
        }
    }
}

impl Reason {
    /// All that there are.
    pub const ALL: [Self; 15] = [
        Self::denied(Direction::Ingress, false),
        Self::denied(Direction::Ingress, true),
        Self::denied(Direction::Egress, false),
        Self::denied(Direction::Egress, true),
        Self::Undecided,
        Self::NoEndpoints,
        Self::NoLocalEndpoints,
        Self::NoSuchPort,
        Self::SourceRange,
        Self::Unallocated,
        Self::Spoofed,
        Self::Foreign,
        Self::Loopback,
        Self::TooManyConnections,
        Self::GoneNode,
    ];

    const fn denied(direction: Direction, reply: bool) -> Self {
        Self::Denied { direction, reply }
    }

    /// In one word, for programs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Denied { .. } => "policy",
            Self::Undecided => "undecided",
            Self::NoEndpoints => "no-endpoints",
            Self::NoLocalEndpoints => "no-local-endpoints",
            Self::NoSuchPort => "no-such-port",
            Self::SourceRange => "source-range",
            Self::Unallocated => "unallocated",
            Self::Spoofed | Self::Foreign => "spoofed",
            Self::Loopback => "loopback",
            Self::TooManyConnections => "too-many-connections",
            Self::GoneNode => "gone-node",
        }
    }

    /// What the sender gets.
    pub const fn verdict(self) -> Verdict {
        match self {
            Self::NoEndpoints | Self::NoSuchPort | Self::GoneNode => Verdict::Refused,
            Self::Denied { .. }
            | Self::Undecided
            | Self::NoLocalEndpoints
            | Self::SourceRange
            | Self::Unallocated
            | Self::Spoofed
            | Self::Foreign
            | Self::Loopback
            | Self::TooManyConnections => Verdict::Dropped,
        }
    }

    /// What is put before the packet.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Denied { direction, reply } => match (direction, reply) {
                (Direction::Ingress, false) => "podwire denied in",
                (Direction::Ingress, true) => "podwire denied in-reply",
                (Direction::Egress, false) => "podwire denied out",
                (Direction::Egress, true) => "podwire denied out-reply",
            },
            Self::Undecided => "podwire undecided",
            Self::NoEndpoints => "podwire no-endpoints",
            Self::NoLocalEndpoints => "podwire no-local-endpoints",
            Self::NoSuchPort => "podwire no-such-port",
            Self::SourceRange => "podwire source-range",
            Self::Unallocated => "podwire unallocated",
            Self::Spoofed => "podwire spoofed",
            Self::Foreign => "podwire spoofed elsewhere",
            Self::Loopback => "podwire loopback",
            Self::TooManyConnections => "podwire too-many-connections",
            Self::GoneNode => "podwire gone-node",
        }
    }

    /// The one with this prefix.
    pub fn of_prefix(prefix: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.prefix() == prefix)
    }

    /// The rule that logs some of the packets that come to it.
    pub fn rule(self) -> Rule {
        let rule = Rule::new().limit(RATE, 1, AT_ONCE);
        rule.log_to(self.prefix(), LOG_GROUP, COPIED)
    }
}

/// Whether rules log what they refuse and drop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logging {
    /// They do.
    On,
    /// The kernel cannot; the rules are the same otherwise.
    Off,
}

impl Logging {
    /// What this kernel can do.
    pub fn of_kernel() -> Self {
        match NftSocket::open().is_ok_and(takes_rules) {
            true => Self::On,
            false => Self::Off,
        }
    }

    /// True if they do.
    pub fn is_on(self) -> bool {
        self == Self::On
    }

    /// The rule to be put before those that refuse, if any.
    pub fn rule(self, reason: Reason) -> Option<Rule> {
        self.is_on().then(|| reason.rule())
    }

    /// The chain in which all packets are refused, by these rules.
    pub fn chain(self, reason: Reason, rules: impl IntoIterator<Item = Rule>) -> Chain {
        let all = self.rule(reason).into_iter().chain(rules);
        all.fold(Chain::regular(), Chain::with_rule)
    }
}

/// How many packets a table has refused and dropped, by the names of the reasons that it logs.
pub fn counted(table: &Table) -> BTreeMap<String, u64> {
    let mut counted = BTreeMap::new();
    for (_, chain) in table.chains.iter() {
        let mut reason = None;
        for expr in chain.rules.iter().flat_map(|rule| &rule.exprs) {
            match (expr, reason) {
                (Expr::Log { prefix, .. }, _) => {
                    reason = prefix.as_deref().and_then(Reason::of_prefix);
                }
                // What follows a rule that logs is the refusal.
                (Expr::Counter(counter), Some(reason)) => {
                    *counted.entry(reason.name().to_owned()).or_default() += counter.packets;
                }
                _ => {}
            }
        }
    }
    counted
}

/// Whether the kernel takes a rule that logs. It is tried in a transaction that fails in any case, by
/// what comes last, so that nothing changes and no one is told of anything.
fn takes_rules(mut kernel: NftSocket) -> bool {
    let family = Family::Inet;
    let chain = Chain::regular().with_rule(Reason::Undecided.rule());
    let trial = Table::new(family, TRIAL).with_chain("try", chain);
    let mut batch = diff(None, &trial);
    batch.table(family, NEVER).delete();
    let Err(refusal) = kernel.commit(&mut batch) else {
        return false;
    };
    let culprits = refusal.culprits();
    !culprits.is_empty() && culprits.iter().all(|one| one.change.table == NEVER)
}

#[cfg(test)]
mod tests {
    use podwire_kernel::nft::Counter;

    use super::*;

    #[test]
    fn a_prefix_leads_back_to_its_reason() {
        for one in Reason::ALL {
            assert_eq!(Reason::of_prefix(one.prefix()), Some(one));
        }
        assert_eq!(Reason::of_prefix("podwire denied"), None);
    }

    #[test]
    fn what_a_table_refused_is_counted_behind_the_rule_that_logs_it() {
        let counting = |packets| {
            let bytes = 0;
            Rule::new()
                .with(Expr::Counter(Counter { packets, bytes }))
                .drop()
        };
        let chain = Logging::On.chain(Reason::NoEndpoints, [counting(2), counting(3)]);
        let mut passing = Chain::regular().with_rule(counting(50));
        passing
            .rules
            .extend(Logging::On.chain(Reason::SourceRange, [counting(7)]).rules);
        let table = Table::new(Family::Ip, "t")
            .with_chain("a", chain)
            .with_chain("b", passing);
        let wanted = [("no-endpoints", 5), ("source-range", 7)];
        let wanted = wanted.map(|(reason, packets)| (reason.to_owned(), packets));
        assert_eq!(counted(&table), wanted.into());
    }

    #[test]
    fn whether_the_kernel_can_log_is_found_without_a_change_of_it() {
        let namespace = podwire_kernel::netns::Netns::create_anonymous().unwrap();
        let check = || {
            assert_eq!(Logging::of_kernel(), Logging::On);
            let mut kernel = NftSocket::open().unwrap();
            assert!(!kernel.has_table(Family::Inet, TRIAL).unwrap());
        };
        namespace.enter(check).unwrap();
    }

    #[test]
    fn a_kernel_that_cannot_log_has_the_same_rules_but_for_that_one() {
        let end = || [Rule::new().counter().drop()];
        let with = Logging::On.chain(Reason::Loopback, end());
        let without = Logging::Off.chain(Reason::Loopback, end());
        assert_eq!((with.rules.len(), without.rules.len()), (2, 1));
        assert_eq!(with.rules[1..], without.rules);
    }
}
