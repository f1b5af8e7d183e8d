//! The blocking socket.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use netlink_sys::{Socket as RawSocket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;

use super::{Batch, Message, Refusal, messages, until_undisturbed};
use crate::Cause;

/// How long an answer may take. The kernel answers before `sendmsg` returns, so this only ends a
/// wait that nothing else would end.
const ANSWER_TIMEOUT_SECONDS: i64 = 10;

/// A dump is read into buffers of this size: the kernel fills up to 32 KiB at a time if the reader
/// offers as much (`netlink_dump`, net/netlink/af_netlink.c).
const RECEIVE_BUFFER: usize = 32 * 1024;

/// `NETLINK_GET_STRICT_CHK`: the kernel filters dumps and refuses what it would ignore otherwise
/// (linux/netlink.h; kernels since 4.20).
const NETLINK_GET_STRICT_CHK: libc::c_int = 12;

/// The netlink protocols in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Links, addresses, routes, neighbours, traffic control.
    Route,
    /// nftables and conntrack.
    Netfilter,
}

/// Reads one message; one body of code serves all readers, which keeps the plugin small.
type Reader<'a> = &'a mut dyn FnMut(Message<'_>) -> Result<(), Cause>;

/// What became of a batch: the messages that the kernel refused, in the order of its answers.
pub type Outcome = Vec<Refusal>;

/// A blocking netlink socket. It stays in the network namespace in which it was opened.
#[derive(Debug)]
pub struct Socket {
    raw: RawSocket,
    sequence: u32,
    buffer: Vec<u8>,
    writes: u64,
}

impl Socket {
    /// Opens a socket in the network namespace of this thread.
    pub fn open(protocol: Protocol) -> Result<Self, Cause> {
        let number = match protocol {
            Protocol::Route => netlink_sys::protocols::NETLINK_ROUTE,
            Protocol::Netfilter => netlink_sys::protocols::NETLINK_NETFILTER,
        };
        let raw = RawSocket::new(number)?;
        // Kernels without one of these work as well, with fewer words in their errors.
        let _ = raw.set_ext_ack(true);
        let _ = raw.set_cap_ack(true);
        set_strict_check(&raw);
        setsockopt(
            &raw,
            sockopt::ReceiveTimeout,
            &TimeVal::new(ANSWER_TIMEOUT_SECONDS, 0),
        )?;
        Ok(Self {
            raw,
            sequence: 0,
            buffer: Vec::new(),
            writes: 0,
        })
    }

    /// Raises the send and receive buffers to `bytes` (the kernel doubles it), past the limits of
    /// the system if the process may, else as far as the limits go. A batch must fit into the send
    /// buffer, and the answers to it into the receive buffer.
    pub fn set_buffers(&self, bytes: usize) -> Result<(), Cause> {
        if setsockopt(&self.raw, sockopt::SndBufForce, &bytes).is_err() {
            setsockopt(&self.raw, sockopt::SndBuf, &bytes)?;
        }
        if setsockopt(&self.raw, sockopt::RcvBufForce, &bytes).is_err() {
            setsockopt(&self.raw, sockopt::RcvBuf, &bytes)?;
        }
        Ok(())
    }

    /// The port of this socket: what other listeners see as the writer of our changes.
    pub fn port(&mut self) -> Result<u32, Cause> {
        let mut address = SocketAddr::new(0, 0);
        self.raw.get_address(&mut address)?;
        if address.port_number() == 0 {
            address = self.raw.bind_auto()?;
        }
        Ok(address.port_number())
    }

    /// How many messages that change something were sent.
    pub fn writes(&self) -> u64 {
        self.writes
    }

    /// Sends one message that changes something and waits for the kernel's acknowledgement.
    pub fn request(
        &mut self,
        kind: u16,
        flags: u16,
        body: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), Cause> {
        let mut batch = Batch::new();
        batch.push(kind, flags, body);
        match self.transact(&mut batch)?.pop() {
            None => Ok(()),
            Some(refusal) => Err(refusal.into()),
        }
    }

    /// Sends a batch of messages that change something, each on its own, and waits until all are
    /// carried out. An empty outcome means that the kernel accepted all of them.
    ///
    /// The kernel goes on after a refused message. Only the last message is acknowledged; the
    /// others answer only if they fail, so a good batch costs one answer.
    /// A batch must fit into the send buffer ([`Socket::set_buffers`]), or it fails with
    /// `EMSGSIZE`.
    pub fn transact(&mut self, batch: &mut Batch) -> Result<Outcome, Cause> {
        self.converse(batch, |_, _| Ok(()))
    }

    /// As [`Socket::transact`], and hands every message that is not an acknowledgement (an answer
    /// to `NLM_F_ECHO`, for one) to `each`, with the index of the request that it answers.
    pub fn converse(
        &mut self,
        batch: &mut Batch,
        mut each: impl FnMut(usize, Message<'_>) -> Result<(), Cause>,
    ) -> Result<Outcome, Cause> {
        let Some(last) = batch.len().checked_sub(1) else {
            return Ok(Vec::new());
        };
        batch.acknowledge(last);
        let first = self.send(batch)?;
        self.writes += batch.len() as u64;
        let mut outcome = Vec::new();
        let mut finished = false;
        while !finished {
            self.receive(|message| {
                let index = message.sequence.wrapping_sub(first) as usize;
                if index > last {
                    return Ok(()); // An answer to an earlier request that was given up.
                }
                if i32::from(message.kind) != libc::NLMSG_ERROR {
                    return each(index, message);
                }
                outcome.extend(message.refusal(index)?);
                finished |= index == last;
                Ok(())
            })?;
        }
        Ok(outcome)
    }

    /// Asks for one object and hands the answer to `parse`.
    pub fn query<T>(
        &mut self,
        kind: u16,
        body: impl FnOnce(&mut Vec<u8>),
        parse: impl Fn(Message<'_>) -> Result<T, Cause>,
    ) -> Result<T, Cause> {
        let mut batch = Batch::new();
        // Without an acknowledgement the answer is the object or an error, one datagram.
        batch.push(kind, 0, body);
        let mut answer = None;
        self.read_answer(&mut batch, &mut |message| {
            answer = Some(parse(message)?);
            Ok(())
        })?;
        answer.ok_or(Cause::NotFound)
    }

    /// Sends the only message of `batch` and hands its answer to `each`, unless it is an error.
    fn read_answer(&mut self, batch: &mut Batch, each: Reader<'_>) -> Result<(), Cause> {
        let first = self.send(batch)?;
        let mut finished = false;
        while !finished {
            self.receive(|message| {
                if message.sequence != first {
                    return Ok(());
                }
                finished = true;
                if i32::from(message.kind) != libc::NLMSG_ERROR {
                    return each(message);
                }
                message
                    .refusal(0)?
                    .map_or(Ok(()), |refusal| Err(refusal.into()))
            })?;
        }
        Ok(())
    }

    /// Asks for all objects (`NLM_F_DUMP`) and collects what `parse` makes of them; `None` leaves
    /// one out. Starts again if the objects were changed meanwhile (`NLM_F_DUMP_INTR`), so
    /// the result is one consistent state.
    pub fn dump<T>(
        &mut self,
        kind: u16,
        body: impl Fn(&mut Vec<u8>),
        mut parse: impl FnMut(Message<'_>) -> Result<Option<T>, Cause>,
    ) -> Result<Vec<T>, Cause> {
        let mut batch = Batch::new();
        batch.push(kind, libc::NLM_F_DUMP as u16, body);
        let read = || {
            let mut found = Vec::new();
            self.read_dump(&mut batch, &mut |message| {
                found.extend(parse(message)?);
                Ok(())
            })?;
            Ok(found)
        };
        until_undisturbed(read, |cause| *cause == Cause::Unstable)
    }

    /// Sends the only message of `batch`, a dump, and hands all objects to `each`;
    /// [`Cause::Unstable`] if they do not belong to one state.
    pub(crate) fn read_dump(&mut self, batch: &mut Batch, each: Reader<'_>) -> Result<(), Cause> {
        let first = self.send(batch)?;
        let (mut consistent, mut finished, mut failure) = (true, false, None);
        while !finished {
            self.receive(|message| {
                if message.sequence != first {
                    return Ok(());
                }
                consistent &= message.flags & libc::NLM_F_DUMP_INTR as u16 == 0;
                let kind = i32::from(message.kind);
                if kind == libc::NLMSG_DONE || kind == libc::NLMSG_ERROR {
                    finished = true;
                    return message
                        .refusal(0)?
                        .map_or(Ok(()), |refusal| Err(refusal.into()));
                }
                // The dump is read to its end even so, or the socket would stay busy with it.
                if let Err(cause) = each(message) {
                    failure = failure.take().or(Some(cause));
                }
                Ok(())
            })?;
        }
        match failure {
            Some(cause) => Err(cause),
            None if consistent => Ok(()),
            None => Err(Cause::Unstable),
        }
    }

    /// Sends a batch as it is, in one datagram, and returns the sequence number of its first
    /// message; message `i` has that plus `i`. Answers stay in the socket until
    /// [`Socket::receive`] is called. Does not count as a write.
    pub fn send(&mut self, batch: &mut Batch) -> Result<u32, Cause> {
        let first = self.sequence.wrapping_add(1);
        self.sequence = self.sequence.wrapping_add(batch.len() as u32);
        batch.number(first);
        let kernel = SocketAddr::new(0, 0);
        loop {
            match self.raw.send_to(batch.bytes(), &kernel, 0) {
                Ok(_) => return Ok(first),
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Counts `messages` that were sent with [`Socket::send`] as writes.
    pub fn count_writes(&mut self, messages: u64) {
        self.writes += messages;
    }

    /// Waits for one datagram from the kernel and hands its messages to `each`. All of them are
    /// handed over, also after an error; the first error is returned.
    pub fn receive(
        &mut self,
        mut each: impl FnMut(Message<'_>) -> Result<(), Cause>,
    ) -> Result<(), Cause> {
        if self.buffer.is_empty() {
            self.buffer.resize(RECEIVE_BUFFER, 0);
        }
        let length = loop {
            // MSG_TRUNC makes the kernel return the true length of a datagram that does not fit.
            let mut space = &mut self.buffer[..];
            match self.raw.recv_from(&mut space, libc::MSG_TRUNC) {
                // Only the kernel has port 0; other processes cannot answer for it.
                Ok((length, from)) if from.port_number() == 0 => break length,
                Ok(_) => {}
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    Some(libc::EAGAIN) => return Err(Cause::NoAnswer),
                    Some(libc::ENOBUFS) => return Err(Cause::AnswerLost),
                    _ => return Err(error.into()),
                },
            }
        };
        let datagram = self.buffer.get(..length).ok_or(Cause::AnswerLost)?;
        let mut result = Ok(());
        for message in messages(datagram) {
            let done = message.and_then(&mut each);
            result = result.and(done);
        }
        result
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.raw.as_fd()
    }
}

/// Switches strict checking on; kernels before 4.20 go without.
#[expect(unsafe_code, reason = "nix has no such socket option")]
fn set_strict_check(raw: &RawSocket) {
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open, and the kernel reads `size_of::<c_int>()` bytes of `on`.
    unsafe {
        libc::setsockopt(
            raw.as_raw_fd(),
            libc::SOL_NETLINK,
            NETLINK_GET_STRICT_CHK,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        );
    }
}
