//! Connections that begin and end, as the kernel announces them to those who listen.
//!
//! While no one listens the kernel makes no announcements (`nf_conntrack_events` is 2, "only if
//! someone listens", since Linux 5.19; before, it was 1 and the kernel made them and threw them away).

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{COUNTERS_ORIGINAL, COUNTERS_REPLY, Counts, DELETE, Tuple, counts_of};
use crate::netlink::{Message, messages};
use crate::nft::wire::find;
use crate::{Cause, Result};

/// `NFNLGRP_CONNTRACK_NEW` and `NFNLGRP_CONNTRACK_DESTROY` (linux/netfilter/nfnetlink.h).
const GROUPS: [u32; 2] = [1, 3];
/// `IPCTNL_MSG_CT_NEW` of the subsystem (linux/netfilter/nfnetlink_conntrack.h).
const NEW: u16 = super::SUBSYSTEM << 8;
const TIMESTAMP: u16 = 20;
const TIMESTAMP_START: u16 = 1;
const TIMESTAMP_STOP: u16 = 2;

/// Receive buffer in bytes; the kernel doubles it. An announcement takes about 1 KiB with its overhead:
/// room for what comes within a second at some thousand connections a second.
pub const RECEIVE_BUFFER: usize = 4 << 20;
/// An announcement has a few hundred bytes.
const DATAGRAM_MAX: usize = 8 * 1024;

/// What the kernel announces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A connection began: its first packet has passed.
    Began(Connection),
    /// A connection was forgotten: it ended, or nothing was heard of it for its time-out.
    Ended(Connection),
    /// Announcements came faster than they were read, and the kernel threw some away. It does not say
    /// how many.
    Lost,
}

/// A connection in an announcement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// The way of the first packet, before NAT.
    pub original: Tuple,
    /// The way of the answers, which shows what NAT made of it.
    pub reply: Tuple,
    /// What passed in both directions, at the end and where `nf_conntrack_acct` was 1 at the beginning.
    pub counts: Option<[Counts; 2]>,
    /// How long it lasted, at the end and where `nf_conntrack_timestamp` was 1 at the beginning.
    pub lasted: Option<Duration>,
    /// When it began, where `nf_conntrack_timestamp` was 1.
    pub began: Option<SystemTime>,
}

/// Listens to connections.
#[derive(Debug)]
pub struct Reader {
    socket: Arc<Socket>,
    buffer: Vec<u8>,
}

impl Reader {
    /// Listens in the network namespace of the calling thread, with a receive buffer of so many bytes.
    /// Must be called inside a tokio runtime with I/O.
    pub fn open(receive_buffer: usize) -> Result<Self> {
        Self::try_open(receive_buffer)
            .map_err(|cause| cause.during("listen to", "beginnings and ends of connections"))
    }

    fn try_open(receive_buffer: usize) -> std::result::Result<Self, Cause> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        if setsockopt(&socket, sockopt::RcvBufForce, &receive_buffer).is_err() {
            setsockopt(&socket, sockopt::RcvBuf, &receive_buffer)?;
        }
        socket.bind(&SocketAddr::new(0, 0))?;
        for group in GROUPS {
            socket.add_membership(group)?;
        }
        socket.set_non_blocking(true)?;
        Ok(Self {
            socket: Arc::new(socket),
            buffer: vec![0; DATAGRAM_MAX],
        })
    }

    /// Waits for announcements, and adds all that are there to `events`, up to `most`. Can be dropped
    /// and called again without losing one. An error if listening has become impossible.
    pub async fn read(&mut self, events: &mut Vec<Event>, most: usize) -> io::Result<()> {
        loop {
            if self.take(events, most)? {
                return Ok(());
            }
            self.wait().await?;
        }
    }

    /// Waits until there is something to read. The socket is watched only meanwhile: else each
    /// announcement would wake who waits for anything else, thousands of times a second.
    #[expect(
        unsafe_code,
        reason = "the descriptor of a netlink socket is registered"
    )]
    async fn wait(&self) -> io::Result<()> {
        // SAFETY: the descriptor of a netlink socket stays the same and open until the socket is
        // dropped, which is after the registration ends: `AsyncFd` shares it.
        let watched = unsafe {
            AsyncFd::register_with_interest(Arc::clone(&self.socket), Interest::READABLE)
        };
        let watched = watched.map_err(io::Error::from)?;
        watched.readable().await.map(drop)
    }

    /// Adds what is there, up to `most`; false if nothing is.
    fn take(&mut self, events: &mut Vec<Event>, most: usize) -> io::Result<bool> {
        let before = events.len();
        while events.len() < before + most {
            match self.socket.recv(&mut &mut self.buffer[..], 0) {
                Ok(length) => read(&self.buffer[..length], events),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    events.push(Event::Lost);
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => break,
                    io::ErrorKind::Interrupted => {}
                    _ => return Err(error),
                },
            }
        }
        Ok(events.len() > before)
    }
}

/// Adds the announcements in a datagram.
pub(crate) fn read(datagram: &[u8], events: &mut Vec<Event>) {
    let all = messages(datagram).map_while(std::result::Result::ok);
    events.extend(all.filter_map(event));
}

/// None if it is not one about a connection of IP.
fn event(message: Message<'_>) -> Option<Event> {
    let connection = |message: Message<'_>| Connection::read(message.payload.get(4..)?);
    match message.kind {
        NEW => connection(message).map(Event::Began),
        DELETE => connection(message).map(Event::Ended),
        _ => None,
    }
}

impl Connection {
    fn read(bytes: &[u8]) -> Option<Self> {
        let tuple = |kind| super::tuple_of(find(bytes, kind)?).ok().flatten();
        let [sent, received] =
            [COUNTERS_ORIGINAL, COUNTERS_REPLY].map(|kind| counts_of(bytes, kind));
        let times = find(bytes, TIMESTAMP).unwrap_or_default();
        // Nanoseconds since 1970; a start is not known of what began before the setting.
        let time = |kind| {
            let number = u64::from_be_bytes(*find(times, kind)?.first_chunk()?);
            SystemTime::UNIX_EPOCH.checked_add(Duration::from_nanos(number))
        };
        let (start, stop) = (time(TIMESTAMP_START), time(TIMESTAMP_STOP));
        Some(Self {
            original: tuple(super::TUPLE_ORIGINAL)?,
            reply: tuple(super::TUPLE_REPLY)?,
            counts: sent.zip(received).map(|(sent, received)| [sent, received]),
            lasted: start
                .zip(stop)
                .and_then(|(start, stop)| stop.duration_since(start).ok()),
            began: start,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::nft::wire::{nest, put};

    fn tuple(out: &mut Vec<u8>, kind: u16, ends: [[u8; 4]; 2], ports: [u16; 2]) {
        nest(out, kind, |out| {
            nest(out, super::super::TUPLE_IP, |out| {
                put(out, super::super::IP_V4_SOURCE, &ends[0]);
                put(out, super::super::IP_V4_DESTINATION, &ends[1]);
            });
            nest(out, super::super::TUPLE_PROTO, |out| {
                put(out, super::super::PROTO_NUMBER, &[6]);
                put(
                    out,
                    super::super::PROTO_SOURCE_PORT,
                    &ports[0].to_be_bytes(),
                );
                put(
                    out,
                    super::super::PROTO_DESTINATION_PORT,
                    &ports[1].to_be_bytes(),
                );
            });
        });
    }

    fn read(datagram: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        super::read(datagram, &mut events);
        events
    }

    /// An announcement as the kernel makes it.
    fn announcement(kind: u16) -> Vec<u8> {
        let mut body = vec![libc::AF_INET as u8, 0, 0, 0];
        tuple(&mut body, 1, [[10, 0, 0, 1], [10, 96, 0, 1]], [40_000, 80]);
        tuple(&mut body, 2, [[10, 0, 1, 7], [10, 0, 0, 1]], [8080, 40_000]);
        for (kind, number) in [(9, 5u64), (10, 4)] {
            nest(&mut body, kind, |out| {
                put(out, 1, &number.to_be_bytes());
                put(out, 2, &(number * 100).to_be_bytes());
            });
        }
        nest(&mut body, TIMESTAMP, |out| {
            put(out, TIMESTAMP_START, &1_000_000_000u64.to_be_bytes());
            put(out, TIMESTAMP_STOP, &1_250_000_000u64.to_be_bytes());
        });
        let mut message = Vec::new();
        message.extend_from_slice(&(16 + body.len() as u32).to_ne_bytes());
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&[0; 10]);
        message.extend_from_slice(&body);
        message
    }

    #[test]
    fn an_announcement_says_who_spoke_to_whom_how_much_and_how_long() {
        let [Event::Ended(ended)] = read(&announcement(DELETE))[..] else {
            panic!("not an end");
        };
        assert_eq!(ended.original.destination, IpAddr::from([10, 96, 0, 1]));
        assert_eq!(
            (ended.reply.source_port, ended.original.protocol),
            (8080, 6)
        );
        let counts = ended.counts.unwrap();
        assert_eq!((counts[0].packets, counts[1].bytes), (5, 400));
        assert_eq!(ended.lasted, Some(Duration::from_millis(250)));
        assert!(matches!(read(&announcement(NEW))[..], [Event::Began(_)]));
    }

    #[test]
    fn what_is_cut_off_or_of_another_kind_is_left_out() {
        let whole = announcement(NEW);
        for length in 0..whole.len() {
            let _ = read(&whole[..length]);
            // The header may promise less as well.
            let mut cut = whole[..length].to_vec();
            if length >= 16 {
                cut[..4].copy_from_slice(&(length as u32).to_ne_bytes());
                let _ = read(&cut);
            }
        }
        assert_eq!(read(&announcement(NEW | 7)), []);
    }
}
