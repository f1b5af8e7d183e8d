//! Everything of a table that is always there: sets, maps, chains and their rules.
//!
//! Pure; depends on the family and the settings only. All rules hang at hooks of type nat, which
//! see the first packet of each connection and no other, so that established connections pay
//! nothing; but for the guard of 127.0.0.0/8, which must see every packet.

use podwire_kernel::nft::{
    Chain, ChainType, Comparison, CtKey, Expr, Family, Field, Hook, KeyBuf, MetaKey, Reject, Rule,
    Set, Source, fib_flag, fib_type, nat_flag, priority,
};

use crate::cidr::LOOPBACK_V4;
use crate::config::services::{Config, NodePortAddresses};
use crate::features::parts::log::{Logging, Reason};
use crate::features::parts::loopback;
use crate::features::services::layout::answers::{Answer, SCRATCH, SCRATCH_MASK};
use crate::features::services::layout::names::{FixedChain, FixedMap};
use crate::features::services::layout::sets::{networks, set_of};
use crate::features::services::layout::words::Words;
use crate::snapshot::Protocol;

/// The order in which rejects of unallocated addresses run: after every destination NAT, also
/// that of other proxies, which have their own Services in the same network.
const AFTER_DSTNAT: i32 = priority::DSTNAT + 10;

/// What is always there, in the order in which `nft list` is to show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skeleton {
    /// Sets and maps by name, without elements.
    pub sets: Vec<(&'static str, Set)>,
    /// Chains by name.
    pub chains: Vec<(&'static str, Chain)>,
}

/// The skeleton of a family's table.
pub fn skeleton(family: Family, config: &Config, logging: Logging) -> Skeleton {
    let words = Words::of(family);
    let parts = Parts {
        words,
        config,
        logging,
    };
    Skeleton {
        sets: parts.sets(),
        chains: parts.chains(),
    }
}

/// Makes the parts of the skeleton.
struct Parts<'a> {
    words: Words,
    config: &'a Config,
    logging: Logging,
}

impl Parts<'_> {
    fn sets(&self) -> Vec<(&'static str, Set)> {
        let fixed = FixedMap::ALL.into_iter().map(|map| {
            (
                map.name(),
                set_of(map.into(), self.words.family, self.config),
            )
        });
        let network = |field| Set::of(&[field]).with_intervals();
        let mut sets: Vec<(&'static str, Set)> = fixed.collect();
        sets.push((networks::PODS, network(self.words.saddr)));
        sets.push((networks::OWN_PODS, network(self.words.saddr)));
        sets.push((networks::SERVICES, network(self.words.daddr)));
        if self.config.node_port_addresses != NodePortAddresses::All {
            sets.push((networks::NODE_PORTS, network(self.words.daddr)));
        }
        sets
    }

    fn chains(&self) -> Vec<(&'static str, Chain)> {
        let nat = |hook, priority| Chain::base(ChainType::Nat, hook, priority);
        let to_services = || {
            nat(Hook::Prerouting, priority::DSTNAT)
                .with_rule(Rule::new().jump(FixedChain::Portal.name()))
        };
        let output = Chain {
            base: nat(Hook::Output, priority::DSTNAT).base,
            ..to_services()
        };
        let unallocated = |hook| nat(hook, AFTER_DSTNAT).with_rule(self.is_unallocated());
        let mut chains = vec![
            ("prerouting", to_services()),
            ("output", output),
            (FixedChain::Portal.name(), self.services()),
            (FixedChain::CheckSource.name(), self.check_source()),
            (
                FixedChain::ExternalLocal.name(),
                self.by_client(&self.words.vip(), FixedMap::Inside, FixedMap::Outside),
            ),
            (
                FixedChain::NodePortLocal.name(),
                self.by_client(
                    &[Field::L4Proto, Field::ThDport],
                    FixedMap::NodePortsInside,
                    FixedMap::NodePortsOutside,
                ),
            ),
            (
                FixedChain::OwnChain.name(),
                own_chain(&self.words.vip(), FixedMap::OwnChains),
            ),
            (
                FixedChain::NodePortOwnChain.name(),
                own_chain(
                    &[Field::L4Proto, Field::ThDport],
                    FixedMap::NodePortOwnChains,
                ),
            ),
            (
                FixedChain::NoEndpoints.name(),
                self.logging.chain(
                    Reason::NoEndpoints,
                    self.refuse("no endpoint of the Service is ready"),
                ),
            ),
            (
                FixedChain::NoLocalEndpoints.name(),
                self.drop(
                    Reason::NoLocalEndpoints,
                    "traffic policy Local, and no endpoint on this node is ready",
                ),
            ),
            (FixedChain::NoSuchPort.name(), self.no_such_port()),
            (
                FixedChain::PreroutingUnallocated.name(),
                unallocated(Hook::Prerouting),
            ),
            ("output-unallocated", unallocated(Hook::Output)),
            (
                FixedChain::Unallocated.name(),
                self.drop(Reason::Unallocated, "no Service has this address"),
            ),
        ];
        if self.words.family == Family::Ip && self.config.localhost_node_ports {
            chains.push(("guard-localhost", self.guard()));
            chains.push(("localhost-stays-here", loopback::stays_here(Family::Ip)));
            chains.push((loopback::END, loopback::end(self.logging)));
        }
        chains.extend(self.way_out());
        chains
    }

    /// The chains that decide whether a connection is masqueraded.
    fn way_out(&self) -> [(&'static str, Chain); 7] {
        [
            ("postrouting", self.postrouting()),
            (FixedChain::WhyMasquerade.name(), self.why_masquerade()),
            (FixedChain::ToClusterIp.name(), self.to_cluster_ip()),
            (FixedChain::PolicyCluster.name(), self.policy_cluster()),
            (
                FixedChain::NodePortPolicyCluster.name(),
                self.by_node_port(FixedChain::PolicyCluster),
            ),
            (FixedChain::PolicyLocal.name(), self.policy_local()),
            (
                FixedChain::NodePortPolicyLocal.name(),
                self.by_node_port(FixedChain::PolicyLocal),
            ),
        ]
    }

    /// The portal: every new connection comes through here.
    fn services(&self) -> Chain {
        let portal = answered(Rule::new(), &self.words.vip(), FixedMap::Services);
        let mut chain = Chain::regular()
            .with_rule(portal.comment("address and port of a Service"))
            .with_rule(ask(Answer::CheckSource))
            .with_rule(ask(Answer::ExternalLocal))
            .with_rule(self.node_ports())
            .with_rule(self.ask_node_port());
        if self.config.cluster_ip_echo {
            let redirect = Expr::Redirect {
                flags: 0,
                port_min: None,
                port_max: None,
            };
            let rule = self
                .ping(Rule::new())
                .in_set(&[self.words.daddr], FixedMap::ClusterIps.name())
                .counter();
            chain = chain.with_rule(
                rule.with(redirect)
                    .comment("ping to a ClusterIP: the node answers"),
            );
        }
        let unknown = Rule::new().in_set(&[self.words.daddr], FixedMap::ClusterIps.name());
        chain.with_rule(self.not_local(unknown).goto(FixedChain::NoSuchPort.name()))
    }

    fn node_ports(&self) -> Rule {
        let rule = self.at_node_ports(Rule::new());
        answered(rule, &[Field::L4Proto, Field::ThDport], FixedMap::NodePorts).comment("node port")
    }

    /// With the conditions of the node ports again: a program on the node may have set the number.
    fn ask_node_port(&self) -> Rule {
        let answer = Answer::NodePortLocal;
        let rule = self.at_node_ports(of_answer(answer));
        rule.goto(&answer.chain()).comment(&answer.comment())
    }

    /// Where node ports answer.
    fn at_node_ports(&self, mut rule: Rule) -> Rule {
        if self.config.node_port_addresses != NodePortAddresses::All {
            rule = rule.in_set(&[self.words.daddr], networks::NODE_PORTS);
        } else if self.words.family == Family::Ip6 {
            let localhost = std::net::Ipv6Addr::LOCALHOST;
            rule = rule.is_not(self.words.daddr, &KeyBuf::new().address(localhost));
        } else if !self.config.localhost_node_ports {
            rule = rule.within(self.words.daddr, Comparison::Neq, LOOPBACK_V4.into());
        }
        rule.is(
            Source::address_type(fib_flag::DADDR),
            &KeyBuf::new().number(fib_type::LOCAL),
        )
    }

    /// Source ranges are checked before anything else is decided.
    fn check_source(&self) -> Chain {
        let key = [&self.words.vip()[..], &[self.words.saddr]].concat();
        let mut chain = Chain::regular()
            .with_rule(answered(
                Rule::new().in_set(&key[..], FixedMap::AllowedSources.name()),
                &self.words.vip(),
                FixedMap::Allowed,
            ))
            .with_rule(ask(Answer::ExternalLocal));
        let refusal = self.drop(Reason::SourceRange, "not in loadBalancerSourceRanges");
        chain.rules.extend(refusal.rules);
        chain
    }

    /// Policy Local: this node and its pods may use any endpoint, others those of this node.
    fn by_client(&self, key: &[Field], inside: FixedMap, outside: FixedMap) -> Chain {
        let from_pods = Rule::new().in_set(&[self.words.saddr], networks::OWN_PODS);
        let from_here = self.of_this_node(Rule::new());
        Chain::regular()
            .with_rule(
                answered(from_pods, key, inside).comment("from a pod of this node: any endpoint"),
            )
            .with_rule(answered(from_here, key, inside).comment("from this node: any endpoint"))
            .with_rule(
                answered(Rule::new(), key, outside)
                    .comment("from anywhere else: endpoints of this node"),
            )
    }

    fn refuse(&self, why: &str) -> [Rule; 2] {
        let tcp = Rule::new()
            .l4proto(Protocol::Tcp.number())
            .counter()
            .reject(Reject::TcpReset);
        let others = Rule::new().counter().reject(self.words.refused);
        [tcp, others].map(|rule| rule.comment(why))
    }

    /// Drops everything.
    fn drop(&self, reason: Reason, why: &str) -> Chain {
        let rule = Rule::new().counter().drop();
        self.logging.chain(reason, [rule.comment(why)])
    }

    fn no_such_port(&self) -> Chain {
        let ping = self.ping(Rule::new()).counter().reject(self.words.no_ping);
        let ping = ping.comment("a ClusterIP has ports and does not answer ping");
        let others = self.refuse("the Service has no such port");
        let rules = std::iter::once(ping).chain(others);
        self.logging.chain(Reason::NoSuchPort, rules)
    }

    fn is_unallocated(&self) -> Rule {
        let rule = Rule::new().in_set(&[self.words.daddr], networks::SERVICES);
        self.not_local(rule).goto(FixedChain::Unallocated.name())
    }

    /// Only the node itself may talk to 127.0.0.0/8, which `route_localnet` would allow.
    fn guard(&self) -> Chain {
        let chain = Chain::base(ChainType::Filter, Hook::Prerouting, loopback::PRIORITY);
        loopback::guard(self.words.family)
            .into_iter()
            .fold(chain, Chain::with_rule)
    }

    fn postrouting(&self) -> Chain {
        let scratch = Rule::new().masked(
            Source::Meta(MetaKey::Priority),
            SCRATCH_MASK,
            Comparison::Eq,
            SCRATCH,
        );
        Chain::base(ChainType::Nat, Hook::Postrouting, priority::SRCNAT)
            .with_rule(
                scratch
                    .set_meta_number(MetaKey::Priority, 0)
                    .comment("an answer or an affinity left its number"),
            )
            .with_rule(
                Rule::new()
                    .ct_status(podwire_kernel::nft::ct_status::DNAT)
                    .goto(FixedChain::WhyMasquerade.name())
                    .comment("sent to an endpoint"),
            )
    }

    /// Every reason to masquerade a connection, or not, with a counter.
    ///
    /// What comes to a ClusterIP is decided last: to look for the address among those of all
    /// Services costs most, and for what comes from pods, which is most, it need not be done.
    fn why_masquerade(&self) -> Chain {
        let hairpin = Rule::new()
            .in_set(
                &[self.words.saddr, self.words.daddr],
                FixedMap::Hairpin.name(),
            )
            .counter();
        let mut chain =
            Chain::regular().with_rule(masquerade(hairpin).comment("a pod that reached itself"));
        let by_protocol = |key: &[Source], map: FixedMap| {
            let name = map.name();
            // One rule for each protocol: nft knows the type of `ct original proto-dst` only then.
            [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].map(|protocol| {
                Rule::new()
                    .l4proto(protocol.number())
                    .verdict_map(key, name)
            })
        };
        let port = [
            Source::Field(Field::L4Proto),
            Source::original(CtKey::ProtoDst),
        ];
        let vip = [&[Source::original(self.words.original_daddr)][..], &port].concat();
        chain
            .rules
            .extend(by_protocol(&vip, FixedMap::MasqueradeVips));
        chain
            .rules
            .extend(by_protocol(&port, FixedMap::MasqueradeNodePorts));
        chain.with_rule(Rule::new().goto(FixedChain::ToClusterIp.name()))
    }

    /// What is not a pod cannot be answered by the endpoint itself.
    fn to_cluster_ip(&self) -> Chain {
        let to_cluster_ip = masquerade(self.of_cluster_ip(Rule::new()).counter());
        if self.config.masquerade_all {
            return Chain::regular()
                .with_rule(to_cluster_ip.comment("to a ClusterIP: all are masqueraded"));
        }
        let from_pod = Rule::new().in_set(&[self.words.saddr], networks::PODS);
        Chain::regular()
            .with_rule(
                from_pod
                    .counter()
                    .returns()
                    .comment("pod to ClusterIP: not masqueraded, the pod sees who asks"),
            )
            .with_rule(to_cluster_ip.comment("to a ClusterIP, not from a pod"))
    }

    fn of_cluster_ip(&self, rule: Rule) -> Rule {
        rule.in_set(
            &[Source::original(self.words.original_daddr)][..],
            FixedMap::ClusterIps.name(),
        )
    }

    /// The port alone does not say that the connection came to a node port.
    fn by_node_port(&self, policy: FixedChain) -> Chain {
        let clash = self
            .of_cluster_ip(Rule::new())
            .goto(FixedChain::ToClusterIp.name());
        Chain::regular()
            .with_rule(clash.comment("a ClusterIP, with a port that is also a node port"))
            .with_rule(Rule::new().goto(policy.name()))
    }

    /// The answer to a pod of this node comes back through this node by itself, and policies where the
    /// endpoint is must see who asks.
    fn policy_cluster(&self) -> Chain {
        let from_pod = Rule::new()
            .in_set(&[self.words.saddr], networks::OWN_PODS)
            .counter()
            .returns()
            .comment("from a pod of this node: not masqueraded, the endpoint sees who asks");
        let mut chain = Chain::regular();
        chain
            .rules
            .extend((!self.config.masquerade_all).then_some(from_pod));
        let rule = masquerade(Rule::new().counter());
        chain.with_rule(rule.comment("from outside: the answer must come back through this node"))
    }

    fn policy_local(&self) -> Chain {
        let node = masquerade(self.of_this_node(Rule::new()).counter());
        Chain::regular()
            .with_rule(node.comment("from this node: the answer must come back"))
            .with_rule(
                Rule::new()
                    .counter()
                    .returns()
                    .comment("traffic policy Local: not masqueraded, the pod sees who asks"),
            )
    }

    fn of_this_node(&self, rule: Rule) -> Rule {
        rule.is(
            Source::address_type(fib_flag::SADDR),
            &KeyBuf::new().number(fib_type::LOCAL),
        )
    }

    /// An address of this node is never refused: a program may listen there, such as a DNS cache.
    fn not_local(&self, rule: Rule) -> Rule {
        rule.is_not(
            Source::address_type(fib_flag::DADDR),
            &KeyBuf::new().number(fib_type::LOCAL),
        )
    }

    fn ping(&self, rule: Rule) -> Rule {
        let base = podwire_kernel::nft::PayloadBase::Transport;
        rule.l4proto(self.words.icmp).is(
            Source::Payload {
                base,
                offset: 0,
                len: 1,
            },
            &[self.words.echo_request],
        )
    }
}

/// Takes the answer out of a portal's map and does what it says.
fn answered(rule: Rule, key: &[Field], map: FixedMap) -> Rule {
    rule.set_meta_from_map(MetaKey::Priority, key, map.name())
        .verdict_map(&[Field::Priority], FixedMap::Answers.name())
}

/// Goes where the answer is found that depends on the source.
fn ask(answer: Answer) -> Rule {
    let rule = of_answer(answer);
    rule.goto(&answer.chain()).comment(&answer.comment())
}

fn of_answer(answer: Answer) -> Rule {
    let number = KeyBuf::new().number(answer.number());
    Rule::new().is(Source::Meta(MetaKey::Priority), &number)
}

/// What the chain of a Service port says, to which the answer leads.
fn own_chain(key: &[Field], map: FixedMap) -> Chain {
    let key = [key, &[Field::Priority]].concat();
    Chain::regular().with_rule(Rule::new().verdict_map(&key[..], map.name()))
}

fn masquerade(rule: Rule) -> Rule {
    rule.masquerade(nat_flag::FULLY_RANDOM)
}
