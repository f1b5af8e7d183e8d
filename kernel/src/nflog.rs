//! Packets that rules log (`log group N`), as the kernel hands them to who asks for a group.
//!
//! Only what is needed to say which packet it was is read. A packet may be anything that a pod cares
//! to send, so nothing in it is believed: what is cut off or makes no sense is left out.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::unix::AsyncFd;

use crate::netlink::{self, Batch, Protocol, attributes, messages, text};
use crate::nft::wire::{put, put_u32};
use crate::{Cause, Result};

/// Receive buffer in bytes; the kernel doubles it. A record takes about 1 KiB with its overhead.
const RECEIVE_BUFFER: usize = 1 << 18;
/// A record is a few hundred bytes: what of a packet is copied, and its circumstances.
const DATAGRAM_MAX: usize = 16 * 1024;
/// Enough for an IPv6 header, some extension headers, and the ports.
const COPIED: u32 = 128;

// linux/netfilter/nfnetlink_log.h
const NFNL_SUBSYS_ULOG: u16 = 4;
const NFULNL_MSG_PACKET: u16 = NFNL_SUBSYS_ULOG << 8;
const NFULNL_MSG_CONFIG: u16 = NFNL_SUBSYS_ULOG << 8 | 1;
const NFULA_CFG_CMD: u16 = 1;
const NFULA_CFG_MODE: u16 = 2;
const NFULA_CFG_QTHRESH: u16 = 5;
const NFULA_CFG_FLAGS: u16 = 6;
const NFULNL_CFG_CMD_BIND: u8 = 1;
const NFULNL_COPY_PACKET: u8 = 2;
const NFULNL_CFG_F_SEQ: u16 = 1;
const NFULA_TIMESTAMP: u16 = 3;
const NFULA_IFINDEX_INDEV: u16 = 4;
const NFULA_PAYLOAD: u16 = 9;
const NFULA_PREFIX: u16 = 10;
const NFULA_SEQ: u16 = 12;
/// Size of `struct nfgenmsg` in bytes.
const HEADER: usize = 4;

/// A packet that a rule logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The rule's prefix.
    pub prefix: String,
    /// When it was received by this machine, if the kernel says so.
    pub time: Option<SystemTime>,
    /// The index of the link through which it came in; none if this machine sent it.
    pub link: Option<u32>,
    /// What it was.
    pub packet: Packet,
}

/// What of a packet is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// From where.
    pub source: IpAddr,
    /// To where.
    pub destination: IpAddr,
    /// The number of the transport protocol.
    pub protocol: u8,
    /// Source and destination port, for protocols that have ports.
    pub ports: Option<(u16, u16)>,
}

/// What the kernel hands over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Logged {
    /// A packet.
    Record(Record),
    /// This number of packets, at least, could not be handed over.
    Lost(u64),
}

/// Reads the records of one group.
#[derive(Debug)]
pub struct Reader {
    socket: AsyncFd<Socket>,
    buffer: Vec<u8>,
    /// The number of the next record.
    next: u32,
    ready: std::collections::VecDeque<Logged>,
}

/// Tries whether the kernel hands packets to programs: asks for a group, and lets go of it at once.
pub fn probe(group: u16) -> Result<()> {
    let bind = || -> std::result::Result<(), Cause> {
        let mut socket = netlink::Socket::open(Protocol::Netfilter)?;
        socket.request(NFULNL_MSG_CONFIG, libc::NLM_F_ACK as u16, |out| {
            bind(out, group)
        })
    };
    bind().map_err(|cause| cause.during("read", format_args!("log group {group}")))
}

impl Reader {
    /// Asks for a group in the network namespace of the calling thread. No other program may have
    /// it. Must be called inside a tokio runtime with I/O.
    pub fn open(group: u16) -> Result<Self> {
        Self::try_open(group)
            .map_err(|cause| cause.during("read", format_args!("log group {group}")))
    }

    #[expect(
        unsafe_code,
        reason = "the descriptor of a netlink socket is registered"
    )]
    fn try_open(group: u16) -> std::result::Result<Self, Cause> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
            setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER)?;
        }
        socket.bind(&SocketAddr::new(0, 0))?;
        socket.connect(&SocketAddr::new(0, 0))?;
        configure(&socket, group)?;
        socket.set_non_blocking(true)?;
        // SAFETY: the descriptor of a netlink socket stays the same and open until the socket is
        // dropped, which is after the registration ends: `AsyncFd` owns it.
        let socket = unsafe { AsyncFd::register(socket) }.map_err(io::Error::from)?;
        Ok(Self {
            socket,
            buffer: vec![0; DATAGRAM_MAX],
            next: 0,
            ready: Default::default(),
        })
    }

    /// The next record. Can be dropped and called again without losing one. An error if reading has
    /// become impossible.
    pub async fn next(&mut self) -> io::Result<Logged> {
        loop {
            if let Some(logged) = self.ready.pop_front() {
                return Ok(logged);
            }
            let mut readable = self.socket.readable().await?;
            let mut space = &mut self.buffer[..];
            let received = readable.try_io(|socket| socket.get_ref().recv(&mut space, 0));
            match received {
                Err(_would_block) => {}
                Ok(Ok(length)) => {
                    let datagram = &self.buffer[..length];
                    self.ready.extend(read(datagram, &mut self.next));
                }
                // How many shows in the number of the next record.
                Ok(Err(error)) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Err(error),
            }
        }
    }
}

fn configure(socket: &Socket, group: u16) -> std::result::Result<(), Cause> {
    let mut batch = Batch::new();
    let flags = libc::NLM_F_ACK as u16;
    batch.push(NFULNL_MSG_CONFIG, flags, |out| bind(out, group));
    batch.push(NFULNL_MSG_CONFIG, flags, |out| options(out, group));
    batch.number(0);
    let mut answer = vec![0; DATAGRAM_MAX];
    socket.send(batch.bytes(), 0)?;
    let mut answers = 0;
    while answers < batch.len() {
        let mut space = &mut answer[..];
        let length = socket.recv(&mut space, 0)?;
        for message in messages(&answer[..length]) {
            let message = message?;
            if i32::from(message.kind) == libc::NLMSG_ERROR {
                answers += 1;
                if let Some(refusal) = message.refusal(0)? {
                    return Err(refusal.into());
                }
            }
        }
    }
    Ok(())
}

fn head(out: &mut Vec<u8>, group: u16) {
    out.extend_from_slice(&[libc::AF_UNSPEC as u8, 0]);
    out.extend_from_slice(&group.to_be_bytes());
}

fn bind(out: &mut Vec<u8>, group: u16) {
    head(out, group);
    put(out, NFULA_CFG_CMD, &[NFULNL_CFG_CMD_BIND]);
}

fn options(out: &mut Vec<u8>, group: u16) {
    head(out, group);
    let [a, b, c, d] = COPIED.to_be_bytes();
    put(out, NFULA_CFG_MODE, &[a, b, c, d, NFULNL_COPY_PACKET, 0]);
    // Else records wait in the kernel for up to a second.
    put_u32(out, NFULA_CFG_QTHRESH, 1);
    put(out, NFULA_CFG_FLAGS, &NFULNL_CFG_F_SEQ.to_be_bytes());
}

/// The records in a datagram; `next` is the number that the first one should have.
pub(crate) fn read(datagram: &[u8], next: &mut u32) -> Vec<Logged> {
    let mut found = Vec::new();
    for message in messages(datagram).map_while(std::result::Result::ok) {
        if message.kind != NFULNL_MSG_PACKET {
            continue;
        }
        let Some(body) = message.payload.get(HEADER..) else {
            continue;
        };
        if let Some(number) = number(body, NFULA_SEQ) {
            let lost = number.wrapping_sub(*next);
            // A number that goes back belongs to a group that began again.
            if lost > 0 && lost < u32::MAX / 2 {
                found.push(Logged::Lost(u64::from(lost)));
            }
            *next = number.wrapping_add(1);
        }
        found.extend(record(body).map(Logged::Record));
    }
    found
}

fn value(body: &[u8], wanted: u16) -> Option<&[u8]> {
    let mut all = attributes(body);
    all.find(|(kind, _)| *kind == wanted)
        .map(|(_, value)| value)
}

/// A number of 32 bits, in network byte order.
fn number(body: &[u8], wanted: u16) -> Option<u32> {
    let bytes = value(body, wanted)?.first_chunk::<4>()?;
    Some(u32::from_be_bytes(*bytes))
}

fn record(body: &[u8]) -> Option<Record> {
    let packet = Packet::read(value(body, NFULA_PAYLOAD)?)?;
    Some(Record {
        prefix: value(body, NFULA_PREFIX).map(text).unwrap_or_default(),
        time: value(body, NFULA_TIMESTAMP).and_then(time),
        link: number(body, NFULA_IFINDEX_INDEV),
        packet,
    })
}

/// Seconds and microseconds since 1970, each of 64 bits.
fn time(value: &[u8]) -> Option<SystemTime> {
    let (seconds, rest) = value.split_first_chunk::<8>()?;
    let microseconds = u64::from_be_bytes(*rest.first_chunk::<8>()?).min(999_999);
    let since = Duration::from_secs(u64::from_be_bytes(*seconds))
        .checked_add(Duration::from_micros(microseconds))?;
    SystemTime::UNIX_EPOCH.checked_add(since)
}

impl Packet {
    /// Reads the beginning of an IP packet; none if it is too short for its addresses.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        match bytes.first()? >> 4 {
            4 => Self::read_v4(bytes),
            6 => Self::read_v6(bytes),
            _ => None,
        }
    }

    /// RFC 791.
    fn read_v4(bytes: &[u8]) -> Option<Self> {
        let header = bytes.first_chunk::<20>()?;
        let [.., s0, s1, s2, s3, d0, d1, d2, d3] = *header;
        let length = usize::from(header[0] & 15) * 4;
        let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x1fff;
        let protocol = header[9];
        let behind = bytes.get(length.max(20)..).filter(|_| fragment == 0);
        Some(Self {
            source: Ipv4Addr::new(s0, s1, s2, s3).into(),
            destination: Ipv4Addr::new(d0, d1, d2, d3).into(),
            protocol,
            ports: behind.and_then(|rest| ports(protocol, rest)),
        })
    }

    /// RFC 8200.
    fn read_v6(bytes: &[u8]) -> Option<Self> {
        let header = bytes.first_chunk::<40>()?;
        let address = |at: usize| {
            let bytes: Option<&[u8; 16]> = header.get(at..)?.first_chunk();
            bytes.map(|bytes| IpAddr::from(Ipv6Addr::from(*bytes)))
        };
        let (source, destination) = (address(8)?, address(24)?);
        let (protocol, behind) = behind_extensions(header[6], bytes.get(40..)?);
        Some(Self {
            source,
            destination,
            protocol,
            ports: behind.and_then(|rest| ports(protocol, rest)),
        })
    }
}

/// The transport protocol and what stands behind the extension headers, if that was copied and is
/// its beginning.
fn behind_extensions(mut kind: u8, mut rest: &[u8]) -> (u8, Option<&[u8]>) {
    loop {
        let length = match (kind, rest.first_chunk::<4>()) {
            // Hop-by-hop options, routing, destination options.
            (0 | 43 | 60, Some(header)) => usize::from(header[1]) * 8 + 8,
            // A fragment, which may be a later one.
            (44, Some(header)) if u16::from_be_bytes([header[2], header[3]]) >> 3 == 0 => 8,
            (44, Some(header)) => return (header[0], None),
            (0 | 43 | 44 | 60, None) => return (kind, None),
            _ => return (kind, Some(rest)),
        };
        kind = rest[0];
        match rest.get(length..) {
            Some(behind) => rest = behind,
            None => return (kind, None),
        }
    }
}

/// TCP, UDP and SCTP begin with both ports.
fn ports(protocol: u8, rest: &[u8]) -> Option<(u16, u16)> {
    crate::Protocol::from_number(protocol)?;
    let [a, b, c, d] = *rest.first_chunk::<4>()?;
    Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
}

#[cfg(test)]
mod tests;
