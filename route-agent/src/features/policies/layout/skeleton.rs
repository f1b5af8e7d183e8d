//! The chains and their rules.
//!
//! One base chain at the forward hook: behind destination NAT and before source NAT, where both ends
//! have their own addresses, and where nothing comes by that a node sends to its own pods. `accept`
//! ends this table alone; what other tables refuse stays refused.
//!
//! What was judged before meets one lookup, `allowed`. That goes for new connections, too: the answer
//! depends on client, server, protocol and port alone, which are the key. Replies are judged as the
//! connection that they belong to, with source and destination exchanged, so that a connection that is
//! forbidden is cut in both directions, no matter who speaks next. That holds when connection tracking
//! has forgotten a connection of TCP or SCTP, too: it takes the next packet, whoever sends it, for the
//! first of a new one (`nf_conntrack_tcp_loose`; of SCTP always). What then may come from the server may be
//! a reply, or be made to look like one, so it passes only if it is allowed both as a reply and as what it
//! says it is.

use podwire_kernel::IpFamily;
use podwire_kernel::nft::{
    Chain, ChainType, Comparison, CtKey, Family, Field, Hook, KeyBuf, MetaKey, PayloadBase, Rule,
    Source, Table, ct_state, priority,
};

use crate::features::parts::log::Reason;
use crate::features::policies::desired::frame::Frame;
use crate::features::policies::desired::wanted::Verdict;
use crate::features::policies::layout::sets::{Lookup, Words};
use crate::ours::POLICY_TABLE as TABLE;
use crate::snapshot::{Direction, Protocol};

/// What the table is for, as `nft list` shows it.
pub const COMMENT: &str = "Kubernetes NetworkPolicies, by podwire-agent";

/// A table that looks up what a frame asks for, and finds nothing yet.
pub fn skeleton(family: IpFamily, frame: &Frame) -> Table {
    let table = Table::new(Family::from(family), TABLE).with_comment(COMMENT);
    let lookups = Lookup::all(frame).into_iter();
    let table = lookups.fold(table, |table, one| {
        table.with_set(&one.name(), one.header(family))
    });
    let parts = Parts {
        words: Words::of(family),
        frame,
    };
    let chains = parts.chains().into_iter();
    chains.fold(table, |table, (name, chain)| table.with_chain(name, chain))
}

/// A packet of the first direction of its connection, or a reply.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Packet {
    First,
    Reply,
}

/// Where the two ends of a connection are in a packet.
struct Ends {
    client: Field,
    server: Field,
    /// The port of the server.
    port: Field,
}

/// The first port that clients take for themselves (`net.ipv4.ip_local_port_range`).
const FIRST_OF_CLIENTS: u16 = 32_768;

/// The kind of a packet's first chunk, behind the header of SCTP (RFC 9260, section 3).
const FIRST_CHUNK: Source = Source::Payload {
    base: PayloadBase::Transport,
    offset: 12,
    len: 1,
};
/// The chunk that begins an association, and comes alone.
const SCTP_INIT: u8 = 1;

/// The chain that tells what may be a late reply.
const MID_STREAM: &str = "mid-stream";

/// The chain that a late reply must come through.
const LATE: &str = "late-reply";

/// The chain of errors about connections.
const ERRORS: &str = "errors";

/// The chain in which a packet ends whose local pod no one has decided about.
pub const UNDECIDED: &str = "undecided";

const NO_POLICY: &str = "no policy allows it";
const DENIED: &str = "a ClusterNetworkPolicy denies it";
const STRANGER: &str = "no connection that is known, and no policy allows it";

struct Parts<'a> {
    words: Words,
    frame: &'a Frame,
}

impl Parts<'_> {
    fn chains(&self) -> Vec<(&'static str, Chain)> {
        let mut chains = vec![
            ("forward", self.forward()),
            ("replies", self.replies()),
            (ERRORS, self.errors()),
            (MID_STREAM, mid_stream()),
            (
                LATE,
                self.judged_by_policies(Chain::regular(), Packet::Reply),
            ),
        ];
        for packet in [Packet::First, Packet::Reply] {
            for direction in Direction::ALL {
                chains.push((judge(direction, packet), self.judge(direction, packet)));
            }
        }
        for direction in Direction::ALL {
            chains.push((denied(direction), denial(direction)));
            if self.frame.denies {
                for reply in [false, true] {
                    chains.push((refused(direction, reply), self.refusal(direction, reply)));
                }
            }
        }
        chains.push((UNDECIDED, self.undecided()));
        chains
    }

    /// Where client and server are in a packet.
    fn ends(&self, packet: Packet) -> Ends {
        let Words {
            source,
            destination,
            ..
        } = self.words;
        match packet {
            Packet::First => Ends {
                client: source,
                server: destination,
                port: Field::ThDport,
            },
            Packet::Reply => Ends {
                client: destination,
                server: source,
                port: Field::ThSport,
            },
        }
    }

    fn forward(&self) -> Chain {
        let reply = Source::Ct(CtKey::Direction, None);
        let chain = Chain::base(ChainType::Filter, Hook::Forward, priority::FILTER)
            .with_rule(
                Rule::new()
                    .is(reply, &[1])
                    .goto("replies")
                    .comment("source and destination exchanged"),
            )
            // What was judged before is what begins a connection, and says nothing of these.
            .with_rule(
                Rule::new()
                    .ct_state(ct_state::NEW | ct_state::INVALID)
                    .jump(MID_STREAM)
                    .comment("no connection that is known"),
            )
            .with_rule(
                self.is_remembered(Packet::First)
                    .accept()
                    .comment("judged before"),
            );
        self.judged(chain, Packet::First)
    }

    fn replies(&self) -> Chain {
        let chain = Chain::regular().with_rule(
            self.is_remembered(Packet::Reply)
                .accept()
                .comment("a reply to what was judged before"),
        );
        self.judged(chain, Packet::Reply)
    }

    /// Judges what is not remembered, and remembers what may pass.
    fn judged(&self, chain: Chain, packet: Packet) -> Chain {
        // The protocol first: most packets are of another.
        let related = Rule::new()
            .l4proto(self.words.icmp)
            .ct_state(ct_state::RELATED)
            .goto(ERRORS);
        let chain = chain.with_rule(related.comment("an error about a connection"));
        let key = self.remembered(packet);
        self.judged_by_policies(chain, packet).with_rule(
            Rule::new()
                .in_set(&[Field::L4Proto], &Lookup::Ported.name())
                .add(&Lookup::Allowed.name(), &key, None)
                .comment("it may pass, and so may what follows"),
        )
    }

    /// Lets errors pass. The kernel takes for one what names a connection of the receiver, whoever sends
    /// it (`nf_conntrack_inet_error`), and it may carry anything: so an isolated pod needs to be an end of
    /// that connection, or be allowed to send to the receiver.
    fn errors(&self) -> Chain {
        let sender = self.words.source;
        let mut chain = Chain::regular();
        let end = self.words.ct_source;
        for end in [Source::original(end), Source::reply(end)] {
            let key = [Source::Field(sender), end];
            let rule = Rule::new().in_set(&key, &Lookup::Itself.name()).accept();
            chain = chain.with_rule(rule.comment("from a pod, about a connection of its own"));
        }
        for rule in self.checked(sender) {
            let rule = rule
                .not_in_set(&[sender], &Lookup::Open(Direction::Egress).name())
                .jump(judge(Direction::Egress, Packet::First));
            chain = chain.with_rule(rule.comment("from a pod here, about a connection of others"));
        }
        chain.with_rule(Rule::new().accept())
    }

    /// Comes to its end if policies of no pod here forbid the packet.
    fn judged_by_policies(&self, mut chain: Chain, packet: Packet) -> Chain {
        let Ends { client, server, .. } = self.ends(packet);
        for (direction, local) in [(Direction::Ingress, server), (Direction::Egress, client)] {
            for rule in self.checked(local) {
                let rule = rule.not_in_set(&[local], &Lookup::Open(direction).name());
                let rule = rule.jump(judge(direction, packet));
                chain = chain.with_rule(rule.comment("a pod here that policies isolate"));
            }
        }
        chain
    }

    /// Addresses of pods of this node.
    fn checked(&self, local: Field) -> Vec<Rule> {
        let cidrs = self.frame.pod_cidrs.iter();
        let inside = cidrs.map(|cidr| Rule::new().within(local, Comparison::Eq, *cidr));
        let outside = Rule::new().in_set(&[local], &Lookup::Outside.name());
        inside
            .chain(self.frame.outside.then_some(outside))
            .collect()
    }

    fn is_remembered(&self, packet: Packet) -> Rule {
        Rule::new().in_set(&self.remembered(packet), &Lookup::Allowed.name())
    }

    fn remembered(&self, packet: Packet) -> [Field; 4] {
        let Ends {
            client,
            server,
            port,
        } = self.ends(packet);
        [client, server, Field::L4Proto, port]
    }

    /// Returns if something allows the packet.
    fn judge(&self, direction: Direction, packet: Packet) -> Chain {
        let Ends {
            client,
            server,
            port,
        } = self.ends(packet);
        let (peer, local) = match direction {
            Direction::Ingress => (client, server),
            Direction::Egress => (server, client),
        };
        let no_class = || Rule::new().set_meta_number(MetaKey::Priority, 0);
        let class_of = |rule: Rule, map: Lookup| {
            rule.set_meta_from_map(MetaKey::Priority, &[peer], &map.name())
        };
        let unknown = Rule::new().is(Field::Priority, &KeyBuf::new().number(0));
        let itself = Lookup::Itself.name();
        let is_itself = || {
            let rule = Rule::new().in_set(&[peer, local], &itself).returns();
            rule.comment("allowed: a pod always reaches itself")
        };
        let reply = packet == Packet::Reply;
        let mut chain = Chain::regular().with_comment(&purpose(direction, packet));
        // Nothing denies a pod itself; where nothing denies at all, that can wait.
        chain.rules.extend(self.frame.denies.then(is_itself));
        let mut chain = chain
            .with_rule(no_class().comment("none: no rule asks for this peer"))
            .with_rule(class_of(Rule::new(), Lookup::Peers).comment("the class of the peer"))
            .with_rule(class_of(unknown, Lookup::Blocks).comment("else that of its block"));
        // First what is said of the peer's class, then what is said of all. The class is taken back
        // before a packet may pass: one that is not judged keeps the priority that it has.
        for (verdict, rule) in self.lookups(direction, local, port) {
            chain = chain.with_rule(match verdict {
                Verdict::Allow => {
                    let rule = rule.set_meta_number(MetaKey::Priority, 0).returns();
                    rule.comment("allowed for the peer's class")
                }
                Verdict::Deny => {
                    let rule = rule.goto(refused(direction, reply));
                    rule.comment("denied for the peer's class")
                }
            });
        }
        chain = chain.with_rule(no_class().comment("none: what rules say of all peers"));
        for (verdict, rule) in self.lookups(direction, local, port) {
            chain = chain.with_rule(match verdict {
                Verdict::Allow => rule.returns().comment("allowed for all peers"),
                Verdict::Deny => {
                    let rule = rule.goto(refused(direction, reply));
                    rule.comment("denied for all peers")
                }
            });
        }
        chain.rules.extend((!self.frame.denies).then(is_itself));
        chain = chain.with_rule(
            Rule::new()
                .not_in_set(&[local, local], &itself)
                .goto(UNDECIDED)
                .comment("a pod that no one has decided about yet"),
        );
        let log = Reason::Denied { direction, reply }.rule();
        if self.frame.log {
            chain = chain.with_rule(stranger(direction)).with_rule(log);
        }
        let nothing = Rule::new().goto(denied(direction));
        chain.with_rule(nothing.comment("policies isolate the pod, and nothing allows it"))
    }

    fn undecided(&self) -> Chain {
        let mut chain = Chain::regular();
        let log = Reason::Undecided.rule();
        chain.rules.extend(self.frame.log.then_some(log));
        let rule = Rule::new().counter().drop();
        chain.with_rule(rule.comment("a pod of this node that is not known yet"))
    }

    /// What is said of a packet whose peer has its class in `meta priority`: of the fewest ports
    /// first.
    fn lookups(&self, direction: Direction, local: Field, port: Field) -> Vec<(Verdict, Rule)> {
        let key = [Field::Priority, local, Field::L4Proto, port];
        let verdicts: &[Verdict] = match self.frame.denies {
            true => &Verdict::ALL,
            false => &[Verdict::Allow],
        };
        let each = |key: &'_ [Field], lookup: fn(Direction, Verdict) -> Lookup| {
            let rules = verdicts.iter().map(|verdict| {
                let set = lookup(direction, *verdict).name();
                (*verdict, Rule::new().in_set(key, &set))
            });
            rules.collect::<Vec<_>>()
        };
        let ranges = self.frame.ranges.iter();
        let ranges = ranges.filter(|(one, ..)| *one == direction);
        let ranges = ranges.map(|(_, verdict, range)| {
            let [first, last] = [range.first, range.last].map(u16::to_be_bytes);
            let rule = Rule::new().range(port, &first, &last);
            let set = Lookup::Range(direction, *verdict, *range).name();
            (*verdict, rule.in_set(&key[..3], &set))
        });
        each(&key, Lookup::Ports)
            .into_iter()
            .chain(ranges)
            .chain(each(&key[..3], Lookup::Protocols))
            .chain(each(&key[..2], Lookup::Any))
            .collect()
    }

    /// The chain in which a packet ends that a ClusterNetworkPolicy denies.
    fn refusal(&self, direction: Direction, reply: bool) -> Chain {
        let mut chain = Chain::regular();
        let log = Reason::Denied { direction, reply }.rule();
        if self.frame.log {
            chain = chain.with_rule(stranger(direction)).with_rule(log);
        }
        let rule = Rule::new().counter().drop();
        chain.with_rule(rule.comment(&format!("{direction}: {DENIED}")))
    }
}

/// What a chain that judges packets does, for who reads it.
fn purpose(direction: Direction, packet: Packet) -> String {
    let what = match packet {
        Packet::First => "packets",
        Packet::Reply => "replies of connections",
    };
    let which = match direction {
        Direction::Ingress => "to pods here",
        Direction::Egress => "from pods here",
    };
    format!("{what} {which}: return means that policies allow it")
}

/// The chain that judges packets.
fn judge(direction: Direction, packet: Packet) -> &'static str {
    match (direction, packet) {
        (Direction::Ingress, Packet::First) => "in",
        (Direction::Egress, Packet::First) => "out",
        (Direction::Ingress, Packet::Reply) => "in-reply",
        (Direction::Egress, Packet::Reply) => "out-reply",
    }
}

/// The chain in which a packet ends that policies of one direction do not allow.
pub const fn denied(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "denied-in",
        Direction::Egress => "denied-out",
    }
}

/// The chain in which a packet ends that a ClusterNetworkPolicy denies.
pub const fn refused(direction: Direction, reply: bool) -> &'static str {
    match (direction, reply) {
        (Direction::Ingress, false) => "refused-in",
        (Direction::Ingress, true) => "refused-in-reply",
        (Direction::Egress, false) => "refused-out",
        (Direction::Egress, true) => "refused-out-reply",
    }
}

/// Has what may be a server's packet of a forgotten connection judged as a reply, before it is judged as
/// what it says it is.
///
/// Who began is not known. A server does not choose its client's port, so that says nothing: the client may
/// want the reply to pass. But with TCP a server's own port tells it from most clients, whose packets
/// need not be allowed as replies. With SCTP both ends often have a port of their own.
fn mid_stream() -> Chain {
    let last_of_servers = FIRST_OF_CLIENTS - 1;
    let tcp = Rule::new()
        .l4proto(Protocol::Tcp.number())
        .tcp_without_syn()
        .range(Field::ThSport, &[0; 2], &last_of_servers.to_be_bytes());
    let sctp = Rule::new()
        .l4proto(Protocol::Sctp.number())
        .is_not(FIRST_CHUNK, &[SCTP_INIT]);
    [tcp, sctp]
        .into_iter()
        .fold(Chain::regular(), |chain, one| {
            let rule = one.goto(LATE);
            chain.with_rule(
                rule.comment("perhaps a reply of a connection that the kernel has forgotten"),
            )
        })
}

/// Leads what belongs to no connection past the log: the end of one that is over is no news.
fn stranger(direction: Direction) -> Rule {
    Rule::new()
        .ct_state(ct_state::INVALID)
        .goto(denied(direction))
        .comment("the rest of a connection that is over")
}

fn denial(direction: Direction) -> Chain {
    let stranger = Rule::new().ct_state(ct_state::INVALID).counter().drop();
    let denied = Rule::new().counter().drop();
    Chain::regular()
        .with_rule(stranger.comment(&format!("{direction}: {STRANGER}")))
        .with_rule(denied.comment(&format!("{direction}: {NO_POLICY}")))
}
