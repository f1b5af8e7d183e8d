//! Rules, written by what they say.

use std::net::IpAddr;
use std::time::Duration;

use ipnetwork::IpNetwork;

use super::basics::{Counter, Family, Verdict};
use super::expr::{
    Comparison, CtKey, DynsetOp, Expr, LogTarget, LookupInto, MetaKey, NatKind, PayloadBase, Reg,
    Reject,
};
use super::field::Field;
use super::key::KeyBuf;
use super::source::{Source, load_all};
use super::text::Comment;

/// A rule: expressions that are carried out in order until one says no, or decides.
///
/// Build one with the methods below, each of which appends what a person would write in `nft`:
///
/// ```
/// use podwire_kernel::nft::{Field, KeyBuf, Rule};
/// // ip daddr . meta l4proto . th dport vmap @services
/// let rule = Rule::new().verdict_map(&[Field::IpDaddr, Field::L4Proto, Field::ThDport], "services");
/// // meta l4proto tcp th dport 80 counter drop
/// let rule = Rule::new().l4proto(6).is(Field::ThDport, &KeyBuf::new().port(80)).counter().drop();
/// ```
///
/// In a table of family inet, fields of the IPv4 or IPv6 header need [`Rule::nfproto`] before them,
/// and ports need [`Rule::l4proto`] or a key with the protocol in it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rule {
    /// What it consists of.
    pub exprs: Vec<Expr>,
    /// What it is for.
    pub comment: Option<Comment>,
}

/// What a lookup or an update takes as its key: fields, or any other sources.
pub trait Sources {
    /// As a list.
    fn sources(&self) -> Vec<Source>;
}

impl<const N: usize> Sources for &[Field; N] {
    fn sources(&self) -> Vec<Source> {
        self.iter().map(|field| Source::Field(*field)).collect()
    }
}

impl Sources for &[Field] {
    fn sources(&self) -> Vec<Source> {
        self.iter().map(|field| Source::Field(*field)).collect()
    }
}

impl Sources for &[Source] {
    fn sources(&self) -> Vec<Source> {
        self.to_vec()
    }
}

impl<const N: usize> Sources for &[Source; N] {
    fn sources(&self) -> Vec<Source> {
        self.to_vec()
    }
}

impl Sources for &Vec<Source> {
    fn sources(&self) -> Vec<Source> {
        self.to_vec()
    }
}

const FIRST: Reg = Reg::FIRST;

impl Rule {
    /// A rule that says nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// With any expression.
    pub fn with(mut self, expr: Expr) -> Self {
        self.exprs.push(expr);
        self
    }

    /// With a comment; see [`Comment::new`].
    pub fn comment(mut self, text: &str) -> Self {
        self.comment = Comment::new(text);
        self
    }

    /// Whether both do the same and say the same; counters do not matter.
    pub fn same_as(&self, other: &Self) -> bool {
        self.comment == other.comment
            && self.exprs.len() == other.exprs.len()
            && self
                .exprs
                .iter()
                .zip(&other.exprs)
                .all(|(a, b)| a.same_as(b))
    }

    fn load(&mut self, sources: &[Source], first: Reg) -> u32 {
        load_all(sources, first, &mut self.exprs)
    }

    // Conditions.

    /// Go on only if the comparison holds. `value` is one field, written with [`KeyBuf`]; zeros are
    /// added if it is too short, and what is too long is cut.
    pub fn compare(self, source: impl Into<Source>, op: Comparison, value: &[u8]) -> Self {
        let source = source.into();
        let mut data = value.to_vec();
        data.resize(source.byte_len() as usize, 0);
        self.compare_start(source, op, data)
    }

    /// As [`Rule::compare`], with the first bytes of the source only.
    fn compare_start(mut self, source: Source, op: Comparison, data: Vec<u8>) -> Self {
        self.load(&[source], FIRST);
        self.with(Expr::Compare {
            sreg: FIRST,
            op,
            data: data.into(),
        })
    }

    /// Go on only if `source` is `value`.
    pub fn is(self, source: impl Into<Source>, value: &[u8]) -> Self {
        self.compare(source, Comparison::Eq, value)
    }

    /// Go on only if `source` is not `value`.
    pub fn is_not(self, source: impl Into<Source>, value: &[u8]) -> Self {
        self.compare(source, Comparison::Neq, value)
    }

    /// `meta nfproto ipv4` or `ipv6`, in tables of family inet.
    pub fn nfproto(self, family: Family) -> Self {
        self.is(Field::NfProto, &[family.number()])
    }

    /// `meta l4proto PROTOCOL`.
    pub fn l4proto(self, protocol: u8) -> Self {
        self.is(Field::L4Proto, &[protocol])
    }

    /// `iifname NAME`; a trailing `*` stands for anything.
    pub fn iifname(self, name: &str) -> Self {
        self.link_name(Field::Iifname, Comparison::Eq, name)
    }

    /// `iifname != NAME`.
    pub fn iifname_is_not(self, name: &str) -> Self {
        self.link_name(Field::Iifname, Comparison::Neq, name)
    }

    /// `oifname NAME`; a trailing `*` stands for anything.
    pub fn oifname(self, name: &str) -> Self {
        self.link_name(Field::Oifname, Comparison::Eq, name)
    }

    /// `oifname != NAME`.
    pub fn oifname_is_not(self, name: &str) -> Self {
        self.link_name(Field::Oifname, Comparison::Neq, name)
    }

    fn link_name(self, field: Field, op: Comparison, name: &str) -> Self {
        match name.strip_suffix('*') {
            Some(start) => {
                let start = start.as_bytes()[..start.len().min(15)].to_vec();
                self.compare_start(field.into(), op, start)
            }
            None => self.compare(field, op, &KeyBuf::new().link_name(name)),
        }
    }

    /// `iifgroup GROUP`.
    pub fn iifgroup(self, group: u32) -> Self {
        self.is(Field::Iifgroup, &KeyBuf::new().number(group))
    }

    /// `iifgroup != GROUP`.
    pub fn iifgroup_is_not(self, group: u32) -> Self {
        self.is_not(Field::Iifgroup, &KeyBuf::new().number(group))
    }

    /// Go on only if an address field is within `network` (or not, with `Comparison::Neq`). Both
    /// must be of one family.
    pub fn within(mut self, field: Field, op: Comparison, network: IpNetwork) -> Self {
        let (mask, start) = (
            address_bytes(network.mask()),
            address_bytes(network.network()),
        );
        let whole = usize::from(network.prefix()) / 8;
        // Prefixes of whole bytes need no mask: as nft writes them.
        if let Origin::Payload { base, offset, .. } = field.facts().origin
            && usize::from(network.prefix()) == whole * 8
            && whole > 0
        {
            let len = whole as u32;
            return self.compare(Source::Payload { base, offset, len }, op, &start[..whole]);
        }
        self.load(&[field.into()], FIRST);
        let xor = vec![0; mask.len()].into();
        self.with(Expr::Bitwise {
            sreg: FIRST,
            dreg: FIRST,
            mask: mask.into(),
            xor,
        })
        .with(Expr::Compare {
            sreg: FIRST,
            op,
            data: start.into(),
        })
    }

    /// Go on only if `source & mask` compares like that with `value`; both in host byte order.
    pub fn masked(
        mut self,
        source: impl Into<Source>,
        mask: u32,
        op: Comparison,
        value: u32,
    ) -> Self {
        self.load(&[source.into()], FIRST);
        let mask = mask.to_ne_bytes().into();
        self.with(Expr::Bitwise {
            sreg: FIRST,
            dreg: FIRST,
            mask,
            xor: [0; 4].into(),
        })
        .with(Expr::Compare {
            sreg: FIRST,
            op,
            data: value.to_ne_bytes().into(),
        })
    }

    /// `ct status dnat` and the like: go on only if one of the bits is set.
    pub fn ct_status(self, bits: u32) -> Self {
        self.masked(Source::Ct(CtKey::Status, None), bits, Comparison::Neq, 0)
    }

    /// `ct status ! dnat` and the like: go on only if none of the bits is set.
    pub fn ct_status_not(self, bits: u32) -> Self {
        self.masked(Source::Ct(CtKey::Status, None), bits, Comparison::Eq, 0)
    }

    /// `ct state new,related` and the like: one of the bits of [`super::ct_state`].
    pub fn ct_state(self, bits: u32) -> Self {
        self.masked(Source::Ct(CtKey::State, None), bits, Comparison::Neq, 0)
    }

    /// `tcp flags ! syn`, behind [`Rule::l4proto`] of TCP: go on only if the packet does not begin a
    /// connection.
    pub fn tcp_without_syn(mut self) -> Self {
        let flags = Source::Payload {
            base: PayloadBase::Transport,
            offset: 13,
            len: 1,
        };
        const SYN: u8 = 0x02;
        self.load(&[flags], FIRST);
        self.with(Expr::Bitwise {
            sreg: FIRST,
            dreg: FIRST,
            mask: [SYN].into(),
            xor: [0].into(),
        })
        .with(Expr::Compare {
            sreg: FIRST,
            op: Comparison::Eq,
            data: [0].into(),
        })
    }

    /// Go on only if the source is from `from` to `to`, both included; bytes in network order.
    pub fn range(mut self, source: impl Into<Source>, from: &[u8], to: &[u8]) -> Self {
        let len = self.load(&[source.into()], FIRST) as usize;
        let cut = |bytes: &[u8]| bytes[..len.min(bytes.len())].into();
        let (from, to) = (cut(from), cut(to));
        self.with(Expr::Compare {
            sreg: FIRST,
            op: Comparison::Gte,
            data: from,
        })
        .with(Expr::Compare {
            sreg: FIRST,
            op: Comparison::Lte,
            data: to,
        })
    }

    /// `fib saddr . iif oif missing`: go on only if the way back to the source does not lead through
    /// the link that the packet came in on.
    pub fn no_way_back(self) -> Self {
        self.is(Source::reverse_path(), &KeyBuf::new().number(0))
    }

    fn lookup(mut self, key: impl Sources, set: &str, into: LookupInto) -> Self {
        self.load(&key.sources(), FIRST);
        self.with(Expr::Lookup {
            set: set.into(),
            sreg: FIRST,
            into,
        })
    }

    /// `KEY @SET`: go on only if the key is in the set.
    pub fn in_set(self, key: impl Sources, set: &str) -> Self {
        self.lookup(key, set, LookupInto::Member)
    }

    /// `KEY != @SET`: go on only if the key is not in the set.
    pub fn not_in_set(self, key: impl Sources, set: &str) -> Self {
        self.lookup(key, set, LookupInto::NotMember)
    }

    /// `KEY vmap @MAP`: follow the verdict of the element, or go on with the next rule.
    pub fn verdict_map(self, key: impl Sources, map: &str) -> Self {
        self.lookup(key, map, LookupInto::Verdict)
    }

    // Changes to the packet.

    /// `dnat ip to KEY map @MAP`, where the data of the map is an address, or with `port` an
    /// address and a port.
    pub fn dnat_map(self, family: Family, key: impl Sources, map: &str, port: bool) -> Self {
        self.lookup(key, map, LookupInto::Reg(FIRST))
            .nat_from(NatKind::Dnat, family, port)
    }

    /// As [`Rule::dnat_map`], for the source.
    pub fn snat_map(self, family: Family, key: impl Sources, map: &str, port: bool) -> Self {
        self.lookup(key, map, LookupInto::Reg(FIRST))
            .nat_from(NatKind::Snat, family, port)
    }

    fn nat_from(self, kind: NatKind, family: Family, port: bool) -> Self {
        let len = if family == Family::Ip6 { 16 } else { 4 };
        self.with(Expr::Nat {
            kind,
            family,
            addr_min: Some(FIRST),
            addr_max: None,
            port_min: port.then_some(FIRST.after(len)),
            port_max: None,
            flags: 0,
        })
    }

    /// `dnat to ADDRESS` or `dnat to ADDRESS:PORT`.
    pub fn dnat(self, address: IpAddr, port: Option<u16>) -> Self {
        self.nat_to(NatKind::Dnat, address, port)
    }

    /// `snat to ADDRESS` or `snat to ADDRESS:PORT`.
    pub fn snat(self, address: IpAddr, port: Option<u16>) -> Self {
        self.nat_to(NatKind::Snat, address, port)
    }

    fn nat_to(mut self, kind: NatKind, address: IpAddr, port: Option<u16>) -> Self {
        let family = if address.is_ipv4() {
            Family::Ip
        } else {
            Family::Ip6
        };
        let data = address_bytes(address);
        let second = FIRST.after(data.len() as u32);
        self.exprs.push(Expr::Immediate {
            dreg: FIRST,
            data: data.into(),
        });
        if let Some(port) = port {
            let data = port.to_be_bytes().into();
            self.exprs.push(Expr::Immediate { dreg: second, data });
        }
        self.nat_from(kind, family, port.is_some())
    }

    /// `masquerade`, with flags of [`super::nat_flag`].
    pub fn masquerade(self, flags: u32) -> Self {
        self.with(Expr::Masquerade {
            flags,
            port_min: None,
            port_max: None,
        })
    }

    /// `meta mark set KEY map @MAP`, `meta priority set KEY map @MAP`.
    pub fn set_meta_from_map(self, to: MetaKey, key: impl Sources, map: &str) -> Self {
        self.lookup(key, map, LookupInto::Reg(FIRST))
            .with(Expr::SetMeta {
                key: to,
                sreg: FIRST,
            })
    }

    /// `meta mark set SOURCE`, `meta priority set SOURCE`.
    pub fn set_meta(mut self, to: MetaKey, source: impl Into<Source>) -> Self {
        self.load(&[source.into()], FIRST);
        self.with(Expr::SetMeta {
            key: to,
            sreg: FIRST,
        })
    }

    /// `meta mark set NUMBER`, `meta priority set NUMBER`.
    pub fn set_meta_number(self, to: MetaKey, number: u32) -> Self {
        self.with(Expr::Immediate {
            dreg: FIRST,
            data: number.to_ne_bytes().into(),
        })
        .with(Expr::SetMeta {
            key: to,
            sreg: FIRST,
        })
    }

    /// `meta mark set (meta mark & MASK) ^ XOR`: to set bits, `mask = !bits, xor = bits`; to clear
    /// them, `mask = !bits, xor = 0`.
    pub fn set_mark_bits(mut self, mask: u32, xor: u32) -> Self {
        self.load(&[Field::Mark.into()], FIRST);
        let (mask, xor) = (mask.to_ne_bytes().into(), xor.to_ne_bytes().into());
        self.with(Expr::Bitwise {
            sreg: FIRST,
            dreg: FIRST,
            mask,
            xor,
        })
        .with(Expr::SetMeta {
            key: MetaKey::Mark,
            sreg: FIRST,
        })
    }

    /// `ct mark set NUMBER`.
    pub fn set_ct_mark(self, number: u32) -> Self {
        self.with(Expr::Immediate {
            dreg: FIRST,
            data: number.to_ne_bytes().into(),
        })
        .with(Expr::SetCt {
            key: CtKey::Mark,
            sreg: FIRST,
        })
    }

    // Changes to sets.

    /// `update @SET { KEY timeout TIMEOUT }`: add the element, or renew its time-out.
    pub fn update(self, set: &str, key: impl Sources, timeout: Option<Duration>) -> Self {
        self.dynset(DynsetOp::Update, set, key, &[], timeout)
    }

    /// `update @MAP { KEY timeout TIMEOUT : DATA }`. An element that exists keeps its data.
    pub fn update_map(
        self,
        map: &str,
        key: impl Sources,
        data: impl Sources,
        timeout: Option<Duration>,
    ) -> Self {
        self.dynset(DynsetOp::Update, map, key, &data.sources(), timeout)
    }

    /// `add @SET { KEY timeout TIMEOUT }`: an element that exists keeps its time-out.
    pub fn add(self, set: &str, key: impl Sources, timeout: Option<Duration>) -> Self {
        self.dynset(DynsetOp::Add, set, key, &[], timeout)
    }

    /// `add @SET { KEY ct count over LIMIT }`: go on only if more tracked connections than that
    /// have come here with this key. An element without any is removed by the kernel.
    pub fn add_with_more_connections_than(self, set: &str, key: impl Sources, limit: u32) -> Self {
        let mut rule = self.add(set, key, None);
        if let Some(Expr::Dynset { exprs, .. }) = rule.exprs.last_mut() {
            exprs.push(Expr::CtCount { limit, over: true });
        }
        rule
    }

    fn dynset(
        mut self,
        op: DynsetOp,
        set: &str,
        key: impl Sources,
        data: &[Source],
        timeout: Option<Duration>,
    ) -> Self {
        let len = self.load(&key.sources(), FIRST);
        let second = FIRST.after(len);
        if !data.is_empty() {
            self.load(data, second);
        }
        let data = (!data.is_empty()).then_some(second);
        let (set, exprs, inverted) = (set.into(), Vec::new(), false);
        self.with(Expr::Dynset {
            set,
            op,
            key: FIRST,
            data,
            timeout,
            exprs,
            inverted,
        })
    }

    // Statements.

    /// `counter`.
    pub fn counter(self) -> Self {
        self.with(Expr::Counter(Counter::default()))
    }

    /// `limit rate RATE/UNIT burst BURST packets`: go on only below the rate. `unit` in seconds.
    pub fn limit(self, rate: u64, unit: u64, burst: u32) -> Self {
        self.with(Expr::Limit {
            rate,
            unit,
            burst,
            bytes: false,
            over: false,
        })
    }

    /// `log prefix "PREFIX"`: to the kernel log, as a warning. At most 127 bytes.
    pub fn log(self, prefix: &str) -> Self {
        let target = LogTarget::Kernel { level: 4, flags: 0 };
        self.with(Expr::Log {
            prefix: Some(prefix.into()),
            target,
        })
    }

    /// `log prefix "PREFIX" group GROUP snaplen BYTES`: to the program that reads the group. At most
    /// 127 bytes of prefix.
    pub fn log_to(self, prefix: &str, group: u16, snaplen: u32) -> Self {
        self.with(Expr::Log {
            prefix: Some(prefix.into()),
            target: LogTarget::Group {
                group,
                snaplen,
                threshold: 0,
            },
        })
    }

    /// `reject with ...`.
    pub fn reject(self, reject: Reject) -> Self {
        self.with(Expr::Reject(reject))
    }

    /// `notrack`.
    pub fn notrack(self) -> Self {
        self.with(Expr::Notrack)
    }

    /// Any verdict.
    pub fn verdict(self, verdict: Verdict) -> Self {
        self.with(Expr::Verdict(verdict))
    }

    /// `accept`.
    pub fn accept(self) -> Self {
        self.verdict(Verdict::Accept)
    }

    /// `drop`, as nft calls it; it has nothing in common with [`Drop::drop`].
    pub fn drop(self) -> Self {
        self.verdict(Verdict::Drop)
    }

    /// `return`.
    pub fn returns(self) -> Self {
        self.verdict(Verdict::Return)
    }

    /// `jump CHAIN`.
    pub fn jump(self, chain: &str) -> Self {
        self.verdict(Verdict::jump(chain))
    }

    /// `goto CHAIN`.
    pub fn goto(self, chain: &str) -> Self {
        self.verdict(Verdict::goto(chain))
    }
}

use super::field::Origin;

fn address_bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
