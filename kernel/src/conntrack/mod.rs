//! Connection tracking: listing entries and forgetting them; [`events`] tells of those that come and go,
//! [`statistics`] of what was lost.
//!
//! The kernel keeps one entry per connection with its addresses in both directions. An entry of UDP
//! outlives the endpoint behind it: as long as packets come, they go where the first one went. So
//! who takes an endpoint away deletes the entries that lead to it.

#[cfg(feature = "monitor")]
pub mod events;
pub mod statistics;

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::netlink::{self, Batch, Message, Socket, until_undisturbed};
use crate::nft::wire::{find, nest, put, u16_of, u32_of};
use crate::{Cause, Error, IpFamily, Protocol};

/// `NFNL_SUBSYS_CTNETLINK` and its messages (linux/netfilter/nfnetlink_conntrack.h).
const SUBSYSTEM: u16 = 1;
const GET: u16 = SUBSYSTEM << 8 | 1;
const DELETE: u16 = SUBSYSTEM << 8 | 2;

const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const STATUS: u16 = 3;
const TIMEOUT: u16 = 7;
const MARK: u16 = 8;
const COUNTERS_ORIGINAL: u16 = 9;
const COUNTERS_REPLY: u16 = 10;
const COUNTERS_PACKETS: u16 = 1;
const COUNTERS_BYTES: u16 = 2;
const ZONE: u16 = 18;
const FILTER: u16 = 25;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const IP_V4_SOURCE: u16 = 1;
const IP_V4_DESTINATION: u16 = 2;
const IP_V6_SOURCE: u16 = 3;
const IP_V6_DESTINATION: u16 = 4;
const PROTO_NUMBER: u16 = 1;
const PROTO_SOURCE_PORT: u16 = 2;
const PROTO_DESTINATION_PORT: u16 = 3;
const FILTER_ORIGINAL: u16 = 1;
const FILTER_REPLY: u16 = 2;

/// Which parts of a tuple the kernel is to compare (`CTA_FILTER_F_*`, nf_conntrack_netlink.c).
const COMPARE_SOURCE: u32 = 1 << 0;
const COMPARE_DESTINATION: u32 = 1 << 1;
const COMPARE_PROTOCOL: u32 = 1 << 3;
const COMPARE_SOURCE_PORT: u32 = 1 << 4;
const COMPARE_DESTINATION_PORT: u32 = 1 << 5;

/// Up to this many addresses of IPv4 the kernel looks for one by one; for more, and for those of IPv6,
/// which it cannot look for ([`Filter::comparable`]), all entries are listed once.
const ADDRESSES_ONE_BY_ONE: usize = 8;
/// How many entries are deleted with one `sendmsg`.
const DELETES_AT_ONCE: usize = 500;

/// One direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// Where packets come from.
    pub source: IpAddr,
    /// Where they go.
    pub destination: IpAddr,
    /// The number of the transport protocol, which need not be one with ports.
    pub protocol: u8,
    /// 0 for protocols without ports.
    pub source_port: u16,
    /// 0 for protocols without ports.
    pub destination_port: u16,
}

/// What passed in one direction of a connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets.
    pub packets: u64,
    /// Their bytes, IP headers included.
    pub bytes: u64,
}

/// A connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The way of the first packet, before NAT.
    pub original: Tuple,
    /// The way of the answers, which shows what NAT made of it: the source is the endpoint.
    pub reply: Tuple,
    /// `IPS_*` (linux/netfilter/nf_conntrack_common.h).
    pub status: u32,
    /// In seconds, until it is forgotten by itself.
    pub timeout: u32,
    /// Its mark.
    pub mark: u32,
    /// Its zone.
    pub zone: u16,
    /// What passed so far in both directions, where `nf_conntrack_acct` was 1 at its beginning.
    pub counts: Option<[Counts; 2]>,
    /// The original tuple as the kernel wrote it: what identifies the entry.
    identity: Box<[u8]>,
}

/// Which entries are meant. What is `None` does not matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Filter {
    /// Source of the first packet.
    pub original_source: Option<IpAddr>,
    /// Destination of the first packet: the address of a Service or a node.
    pub original_destination: Option<IpAddr>,
    /// Destination port of the first packet: the port of a Service, a node port, a host port.
    pub original_port: Option<u16>,
    /// Source of the answers: the endpoint.
    pub reply_source: Option<IpAddr>,
    /// Source port of the answers: the port of the endpoint.
    pub reply_port: Option<u16>,
    /// Destination of the answers: the client, or the address that it was masqueraded with.
    pub reply_destination: Option<IpAddr>,
    /// The transport protocol; needed if there are ports.
    pub protocol: Option<Protocol>,
    /// The address family, where no address tells it.
    pub family: Option<IpFamily>,
}

impl Filter {
    /// Entries of a transport protocol.
    pub fn of_protocol(protocol: Protocol) -> Self {
        Self {
            protocol: Some(protocol),
            ..Self::default()
        }
    }

    /// Whether an entry is meant.
    pub fn matches(&self, entry: &Entry) -> bool {
        fn fits<T: PartialEq>(wanted: Option<T>, found: T) -> bool {
            wanted.is_none_or(|wanted| wanted == found)
        }
        let (original, reply) = (&entry.original, &entry.reply);
        fits(self.original_source, original.source)
            && fits(self.original_destination, original.destination)
            && fits(self.original_port, original.destination_port)
            && fits(self.reply_source, reply.source)
            && fits(self.reply_port, reply.source_port)
            && fits(self.reply_destination, reply.destination)
            && fits(self.protocol.map(Protocol::number), original.protocol)
            && fits(self.family, IpFamily::of(original.source))
    }

    /// The family that the filter speaks of.
    fn address_family(&self) -> Option<IpFamily> {
        let addresses = [
            self.original_source,
            self.original_destination,
            self.reply_source,
            self.reply_destination,
        ];
        let told = addresses.into_iter().flatten().next();
        told.map(IpFamily::of).or(self.family)
    }

    /// What the kernel is to compare, in the original and in the reply direction.
    fn flags(&self) -> (u32, u32) {
        let flag = |present: bool, flag: u32| if present { flag } else { 0 };
        let original = flag(self.original_source.is_some(), COMPARE_SOURCE)
            | flag(self.original_destination.is_some(), COMPARE_DESTINATION)
            | flag(self.protocol.is_some(), COMPARE_PROTOCOL)
            | flag(self.original_port.is_some(), COMPARE_DESTINATION_PORT);
        let reply = flag(self.reply_source.is_some(), COMPARE_SOURCE)
            | flag(self.reply_destination.is_some(), COMPARE_DESTINATION)
            // Ports are read only with a protocol beside them.
            | flag(self.reply_port.is_some(), COMPARE_PROTOCOL | COMPARE_SOURCE_PORT);
        (original, reply)
    }

    /// What of it the kernel is asked to compare: everything but addresses of IPv6. Of those it takes
    /// the entries that have another one (`ctnetlink_filter_match_tuple` in nf_conntrack_netlink.c
    /// negates `ipv6_addr_cmp`, which is zero for equal ones; since filters came with Linux 5.8, and
    /// still so in 6.18).
    fn comparable(&self) -> Self {
        let v4 = |address: Option<IpAddr>| address.filter(IpAddr::is_ipv4);
        Self {
            original_source: v4(self.original_source),
            original_destination: v4(self.original_destination),
            reply_source: v4(self.reply_source),
            reply_destination: v4(self.reply_destination),
            family: self.address_family(),
            ..*self
        }
    }

    /// Whether the kernel can look for exactly what is meant.
    fn is_comparable(&self) -> bool {
        self.suits_the_kernel() && self.comparable().flags() == self.flags()
    }

    /// Whether the kernel can compare it: it needs a family, a protocol where there are ports, and
    /// something about the original direction. (Without that, a kernel that does not know filters
    /// would take the request for "delete everything".)
    fn suits_the_kernel(&self) -> bool {
        let ports = self.original_port.is_some() || self.reply_port.is_some();
        self.address_family().is_some() && (!ports || self.protocol.is_some())
    }

    fn put(&self, out: &mut Vec<u8>) {
        let (original, reply) = self.flags();
        nest(out, TUPLE_ORIGINAL, |out| {
            put_addresses(out, self.original_source, self.original_destination);
            put_ports(out, self.protocol, None, self.original_port);
        });
        if reply != 0 {
            nest(out, TUPLE_REPLY, |out| {
                put_addresses(out, self.reply_source, self.reply_destination);
                put_ports(out, self.protocol, self.reply_port, None);
            });
        }
        nest(out, FILTER, |out| {
            // The only numbers here in host byte order.
            put(out, FILTER_ORIGINAL, &original.to_ne_bytes());
            put(out, FILTER_REPLY, &reply.to_ne_bytes());
        });
    }
}

fn put_addresses(out: &mut Vec<u8>, source: Option<IpAddr>, destination: Option<IpAddr>) {
    nest(out, TUPLE_IP, |out| {
        let mut address = |v4: u16, v6: u16, address: Option<IpAddr>| match address {
            Some(IpAddr::V4(address)) => put(out, v4, &address.octets()),
            Some(IpAddr::V6(address)) => put(out, v6, &address.octets()),
            None => {}
        };
        address(IP_V4_SOURCE, IP_V6_SOURCE, source);
        address(IP_V4_DESTINATION, IP_V6_DESTINATION, destination);
    });
}

fn put_ports(
    out: &mut Vec<u8>,
    protocol: Option<Protocol>,
    source: Option<u16>,
    destination: Option<u16>,
) {
    let Some(protocol) = protocol else { return };
    nest(out, TUPLE_PROTO, |out| {
        put(out, PROTO_NUMBER, &[protocol.number()]);
        for (kind, port) in [
            (PROTO_SOURCE_PORT, source),
            (PROTO_DESTINATION_PORT, destination),
        ] {
            if let Some(port) = port {
                put(out, kind, &port.to_be_bytes());
            }
        }
    });
}

/// A blocking socket for connection tracking, in the network namespace in which it was opened.
#[derive(Debug)]
pub struct Conntrack {
    socket: Socket,
    /// Whether the kernel deletes by filter; false once it refused to.
    filters_deletes: bool,
}

impl Conntrack {
    /// Opens a socket in the network namespace of this thread.
    pub fn open() -> Result<Self, Error> {
        let during = |cause: Cause| cause.during("open a socket for", "connection tracking");
        let socket = Socket::open(netlink::Protocol::Netfilter).map_err(during)?;
        socket.set_buffers(1 << 20).map_err(during)?;
        Ok(Self {
            socket,
            filters_deletes: true,
        })
    }

    /// How many requests to delete were sent.
    pub fn writes(&self) -> u64 {
        self.socket.writes()
    }

    /// False once the kernel has refused to look for the entries to delete by itself.
    pub fn filters_deletes(&self) -> bool {
        self.filters_deletes
    }

    /// The entries that `filter` means.
    pub fn entries(&mut self, filter: &Filter) -> Result<Vec<Entry>, Error> {
        self.entries_where(filter, |_| true)
    }

    /// Those of the entries that `filter` means for which `keep` says so.
    fn entries_where(
        &mut self,
        filter: &Filter,
        keep: impl Fn(&Entry) -> bool,
    ) -> Result<Vec<Entry>, Error> {
        let read = || {
            let mut entries = Vec::new();
            self.list(filter, |entry| {
                if keep(&entry) {
                    entries.push(entry);
                }
            })?;
            Ok(entries)
        };
        until_undisturbed(read, |cause| *cause == Cause::Unstable)
            .map_err(|cause: Cause| cause.during("list connections", filter))
    }

    /// How many entries `filter` means.
    pub fn count(&mut self, filter: &Filter) -> Result<usize, Error> {
        let read = || {
            let mut count = 0;
            self.list(filter, |_| count += 1)?;
            Ok(count)
        };
        until_undisturbed(read, |cause| *cause == Cause::Unstable)
            .map_err(|cause: Cause| cause.during("count connections", filter))
    }

    /// Forgets the entries that `filter` means. The kernel looks for them, if it can; else they are
    /// listed and deleted one by one. No entry is no error.
    pub fn delete(&mut self, filter: &Filter) -> Result<(), Error> {
        if self.filters_deletes && filter.is_comparable() {
            match self.delete_in_kernel(filter) {
                // Kernels up to 6.8 or so take the incomplete tuple for that of one entry.
                Err(cause) if cannot_filter(&cause) => self.filters_deletes = false,
                outcome => {
                    return outcome.map_err(|cause| cause.during("delete connections", filter));
                }
            }
        }
        self.delete_where(filter, |_| true).map(drop)
    }

    /// Forgets the connections that one of these addresses opened or answers: what comes in either
    /// direction begins a connection again. For protocol `None` of all of them.
    pub fn delete_addresses(
        &mut self,
        addresses: &BTreeSet<IpAddr>,
        protocol: Option<Protocol>,
    ) -> Result<(), Error> {
        for family in IpFamily::ALL {
            let of_family = addresses.iter().copied();
            let some: BTreeSet<IpAddr> = of_family
                .filter(|address| IpFamily::of(*address) == family)
                .collect();
            let filter = Filter {
                protocol,
                family: Some(family),
                ..Filter::default()
            };
            match some.len() {
                0 => {}
                1..=ADDRESSES_ONE_BY_ONE if family == IpFamily::V4 => {
                    self.delete_ends(&some, filter)?;
                }
                _ => {
                    let ends = |entry: &Entry| [entry.original.source, entry.reply.source];
                    let is_one = |entry: &Entry| ends(entry).iter().any(|end| some.contains(end));
                    self.delete_where(&filter, is_one)?;
                }
            }
        }
        Ok(())
    }

    /// Has the kernel look for each of these addresses at either end.
    fn delete_ends(&mut self, addresses: &BTreeSet<IpAddr>, filter: Filter) -> Result<(), Error> {
        for address in addresses {
            self.delete(&Filter {
                original_source: Some(*address),
                ..filter
            })?;
            self.delete(&Filter {
                reply_source: Some(*address),
                ..filter
            })?;
        }
        Ok(())
    }

    /// Forgets those of the entries that `filter` means for which `stale` says so, and returns how
    /// many there were.
    pub fn delete_where(
        &mut self,
        filter: &Filter,
        stale: impl Fn(&Entry) -> bool,
    ) -> Result<usize, Error> {
        let stale = self.entries_where(filter, stale)?;
        for some in stale.chunks(DELETES_AT_ONCE) {
            self.delete_entries(some)
                .map_err(|cause| cause.during("delete connections", filter))?;
        }
        Ok(stale.len())
    }

    fn delete_in_kernel(&mut self, filter: &Filter) -> Result<(), Cause> {
        // Version 1 makes the kernel heed the family (nf_conntrack_netlink.c).
        self.socket.request(DELETE, 0, |out| {
            put_header(out, filter.address_family(), 1);
            filter.put(out);
        })
    }

    fn delete_entries(&mut self, entries: &[Entry]) -> Result<(), Cause> {
        let mut batch = Batch::new();
        for entry in entries {
            batch.push(DELETE, 0, |out| {
                put_header(out, Some(IpFamily::of(entry.original.source)), 0);
                put(out, TUPLE_ORIGINAL | 0x8000, &entry.identity);
                if entry.zone != 0 {
                    put(out, ZONE, &entry.zone.to_be_bytes());
                }
            });
        }
        let outcome = self.socket.transact(&mut batch)?;
        // What ended by itself meanwhile is gone as well.
        match outcome
            .into_iter()
            .find(|refusal| refusal.errno != libc::ENOENT)
        {
            Some(refusal) => Err(refusal.into()),
            None => Ok(()),
        }
    }

    /// Hands the entries that `filter` means to `each`.
    fn list(&mut self, filter: &Filter, mut each: impl FnMut(Entry)) -> Result<(), Cause> {
        let mut batch = Batch::new();
        batch.push(GET, libc::NLM_F_DUMP as u16, |out| {
            put_header(out, filter.address_family(), 0);
            // Kernels before 5.9 do not filter; then the filter below does all the work.
            let comparable = filter.comparable();
            if comparable.suits_the_kernel() && comparable.flags() != (0, 0) {
                comparable.put(out);
            }
        });
        self.socket.read_dump(&mut batch, &mut |message| {
            if let Some(entry) = entry_of(message)?.filter(|entry| filter.matches(entry)) {
                each(entry);
            }
            Ok(())
        })
    }
}

/// What kernels say that cannot delete by filter.
fn cannot_filter(cause: &Cause) -> bool {
    matches!(
        cause.errno(),
        Some(libc::EINVAL | libc::ENOENT | libc::EOPNOTSUPP)
    )
}

/// `struct nfgenmsg`.
fn put_header(out: &mut Vec<u8>, family: Option<IpFamily>, version: u8) {
    out.extend_from_slice(&[family.map_or(0, IpFamily::number), version, 0, 0]);
}

/// The entry in a message; `None` for families other than IP.
pub(crate) fn entry_of(message: Message<'_>) -> Result<Option<Entry>, Cause> {
    let short = || Cause::Malformed("a connection without its addresses".into());
    let bytes = message.payload.get(4..).ok_or_else(short)?;
    let identity = find(bytes, TUPLE_ORIGINAL).ok_or_else(short)?;
    let reply = find(bytes, TUPLE_REPLY).ok_or_else(short)?;
    let (Some(original), Some(reply)) = (tuple_of(identity)?, tuple_of(reply)?) else {
        return Ok(None);
    };
    let number = |kind| find(bytes, kind).map_or(Ok(0), u32_of);
    let [sent, received] = [COUNTERS_ORIGINAL, COUNTERS_REPLY].map(|kind| counts_of(bytes, kind));
    Ok(Some(Entry {
        counts: sent.zip(received).map(|(sent, received)| [sent, received]),
        original,
        reply,
        status: number(STATUS)?,
        timeout: number(TIMEOUT)?,
        mark: number(MARK)?,
        zone: find(bytes, ZONE).map_or(Ok(0), u16_of)?,
        identity: identity.into(),
    }))
}

/// The counts of one direction, if the kernel keeps them.
fn counts_of(bytes: &[u8], kind: u16) -> Option<Counts> {
    let counts = find(bytes, kind)?;
    let number = |kind| Some(u64::from_be_bytes(*find(counts, kind)?.first_chunk()?));
    Some(Counts {
        packets: number(COUNTERS_PACKETS)?,
        bytes: number(COUNTERS_BYTES)?,
    })
}

fn tuple_of(bytes: &[u8]) -> Result<Option<Tuple>, Cause> {
    let ip = find(bytes, TUPLE_IP).unwrap_or(&[]);
    let proto = find(bytes, TUPLE_PROTO).unwrap_or(&[]);
    let address = |v4, v6| {
        let four = find(ip, v4).and_then(|value| value.first_chunk::<4>().copied());
        let sixteen = find(ip, v6).and_then(|value| value.first_chunk::<16>().copied());
        let four = four.map(|octets| IpAddr::from(Ipv4Addr::from(octets)));
        four.or(sixteen.map(|octets| IpAddr::from(Ipv6Addr::from(octets))))
    };
    let (Some(source), Some(destination)) = (
        address(IP_V4_SOURCE, IP_V6_SOURCE),
        address(IP_V4_DESTINATION, IP_V6_DESTINATION),
    ) else {
        return Ok(None);
    };
    let port = |kind| find(proto, kind).map_or(Ok(0), u16_of);
    Ok(Some(Tuple {
        source,
        destination,
        protocol: find(proto, PROTO_NUMBER)
            .and_then(|value| value.first().copied())
            .unwrap_or(0),
        source_port: port(PROTO_SOURCE_PORT)?,
        destination_port: port(PROTO_DESTINATION_PORT)?,
    }))
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "with ";
        let mut part = |name: &str, value: Option<String>| {
            let Some(value) = value else { return Ok(()) };
            write!(f, "{separator}{name} {value}")?;
            separator = ", ";
            Ok(())
        };
        part("source", self.original_source.map(|it| it.to_string()))?;
        part(
            "destination",
            self.original_destination.map(|it| it.to_string()),
        )?;
        part("protocol", self.protocol.map(|it| it.to_string()))?;
        part("port", self.original_port.map(|it| it.to_string()))?;
        part("endpoint", self.reply_source.map(|it| it.to_string()))?;
        part("endpoint port", self.reply_port.map(|it| it.to_string()))?;
        part(
            "answers to",
            self.reply_destination.map(|it| it.to_string()),
        )?;
        part("family", self.family.map(|it| it.to_string()))?;
        if separator == "with " {
            f.write_str("of every kind")
        } else {
            Ok(())
        }
    }
}
