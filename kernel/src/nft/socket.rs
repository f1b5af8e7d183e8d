//! The socket that commits batches.

use std::fmt;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;

use super::basics::Family;
use super::batch::Batch;
use super::change::Change;
use super::uapi::{self, msg};
use crate::Cause;
use crate::netlink::{self, Protocol, Refusal, Socket};

/// Enough for batches of a few thousand changes, and for as many refusals.
const BUFFER: usize = 1 << 20;

/// A blocking socket for nftables, in the network namespace in which it was opened.
#[derive(Debug)]
pub struct NftSocket {
    pub(super) socket: Socket,
    /// What the send buffer is known to take.
    capacity: usize,
    /// Whether the kernel knows DESTROY messages (6.3); none: not asked yet.
    knows_destroy: Option<bool>,
    batches: u64,
}

/// Why a batch was not committed. Nothing of it took effect, unless the answer got lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommitError {
    /// The kernel refused these changes, and therefore all of them.
    Refused {
        /// What it refused, in the order of the batch; one at least.
        culprits: Vec<Culprit>,
    },
    /// The batch could not be sent, or what became of it could not be read.
    Failed(Cause),
}

/// A change that the kernel refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Culprit {
    /// What was to be changed.
    pub change: Change,
    /// The error number, positive.
    pub errno: i32,
    /// The kernel's own explanation, if it gave one.
    pub explanation: Option<String>,
}

impl CommitError {
    /// The error number of the first culprit, or of the system call that failed.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { culprits } => culprits.first().map(|culprit| culprit.errno),
            Self::Failed(cause) => cause.errno(),
        }
    }

    /// What the kernel refused; empty if the batch could not be sent.
    pub fn culprits(&self) -> &[Culprit] {
        match self {
            Self::Refused { culprits } => culprits,
            Self::Failed(_) => &[],
        }
    }
}

impl std::error::Error for CommitError {}

impl fmt::Display for CommitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(cause) => write!(f, "cannot commit to nftables: {cause}"),
            Self::Refused { culprits } => {
                let Some(first) = culprits.first() else {
                    return f.write_str("nftables refused");
                };
                let cause = Cause::Refused {
                    errno: first.errno,
                    explanation: first.explanation.clone(),
                };
                write!(f, "cannot {}: {cause}", first.change)?;
                match culprits.len() - 1 {
                    0 => Ok(()),
                    more => write!(f, " (and {more} more)"),
                }
            }
        }
    }
}

impl From<Cause> for CommitError {
    fn from(cause: Cause) -> Self {
        Self::Failed(cause)
    }
}

impl NftSocket {
    /// Opens a socket in the network namespace of this thread.
    pub fn open() -> Result<Self, crate::Error> {
        let during = |cause: Cause| cause.during("open a socket for", "nftables");
        let socket = Socket::open(Protocol::Netfilter).map_err(during)?;
        socket.set_buffers(BUFFER).map_err(during)?;
        Ok(Self {
            socket,
            capacity: BUFFER,
            knows_destroy: None,
            batches: 0,
        })
    }

    /// As [`NftSocket::open`]; `None` if this kernel has no nftables, and so no table: that is told by
    /// a question that has no other reason to fail. What a process may not ask stays an error.
    pub fn open_if_any() -> Result<Option<Self>, crate::Error> {
        let opened = Self::open().and_then(|mut socket| {
            let asked = socket.generation();
            asked.map_err(|cause| cause.during("ask for the state of", "nftables"))?;
            Ok(socket)
        });
        match opened {
            Err(error) if means_none(&error.cause) => Ok(None),
            opened => opened.map(Some),
        }
    }

    /// How many batches were committed or refused. An empty batch is not sent.
    pub fn batches(&self) -> u64 {
        self.batches
    }

    /// How many changes were sent; elements of one set that were added one after the other share
    /// a message and count as one.
    pub fn writes(&self) -> u64 {
        self.socket.writes()
    }

    /// The port of this socket: what listeners see as the writer of our changes.
    pub fn port(&mut self) -> Result<u32, Cause> {
        self.socket.port()
    }

    /// Carries all changes of the batch out, or none. An empty batch is not sent. The batch may be
    /// committed again, or [`Batch::clear`]ed and used again.
    pub fn commit(&mut self, batch: &mut Batch) -> Result<(), CommitError> {
        if batch.is_empty() {
            return Ok(());
        }
        let refusals = if batch.destroys() && !self.knows_destroy()? {
            return self.commit_without_destroy(batch);
        } else {
            self.transact(batch)?
        };
        refused(batch.messages(), refusals)
    }

    /// Sends the batch and collects what the kernel refuses; indexes count from the first change.
    fn transact(&mut self, batch: &mut Batch) -> Result<Vec<Refusal>, Cause> {
        batch.end();
        let outcome = self.send(batch.messages());
        batch.messages().pop();
        outcome
    }

    fn send(&mut self, messages: &mut netlink::Batch) -> Result<Vec<Refusal>, Cause> {
        // Older kernels do not acknowledge the end of a batch, so the last change is asked.
        let last = messages.len().saturating_sub(2);
        messages.acknowledge(last);
        let needed = messages.byte_len() + 4096;
        if needed > self.capacity {
            self.socket.set_buffers(needed)?;
            self.capacity = needed;
        }
        let first = self.socket.send(messages)?;
        self.batches += 1;
        self.socket.count_writes(last as u64);
        self.answers(first, last)
    }

    /// Reads the answers to a batch. The kernel has written all of them when `sendmsg` returns, so
    /// nothing is waited for; if the receive buffer overflows, the rest of them is lost, and what
    /// is there names the first culprits.
    fn answers(&mut self, first: u32, last: usize) -> Result<Vec<Refusal>, Cause> {
        let (mut refusals, mut acknowledged) = (Vec::new(), false);
        while self.readable()? {
            let outcome = self.socket.receive(|message| {
                let index = message.sequence.wrapping_sub(first) as usize;
                if i32::from(message.kind) != libc::NLMSG_ERROR || index > last {
                    return Ok(()); // A notification, or an answer to something given up.
                }
                match message.refusal(index)? {
                    Some(refusal) => refusals.push(refusal),
                    None => acknowledged = true,
                }
                Ok(())
            });
            match outcome {
                Ok(()) | Err(Cause::AnswerLost) => {}
                Err(cause) => return Err(cause),
            }
        }
        if refusals.is_empty() && !acknowledged {
            return Err(Cause::AnswerLost);
        }
        Ok(refusals)
    }

    fn readable(&self) -> Result<bool, Cause> {
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        loop {
            match poll(&mut fds, PollTimeout::ZERO) {
                Ok(ready) => return Ok(ready > 0),
                Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Whether the kernel knows DESTROY messages: asked with one that destroys nothing.
    fn knows_destroy(&mut self) -> Result<bool, Cause> {
        if let Some(known) = self.knows_destroy {
            return Ok(known);
        }
        let mut probe = Batch::new();
        probe
            .table(Family::Ip, "podwire-probe-of-destroy")
            .destroy();
        let refusals = self.transact(&mut probe)?;
        // Not being allowed to ask says nothing about the answer.
        if refusals.iter().any(|refusal| refusal.errno == libc::EPERM) {
            return Ok(true);
        }
        self.knows_destroy = Some(refusals.is_empty());
        Ok(refusals.is_empty())
    }

    /// Makes this socket behave as on a kernel before 6.3.
    #[cfg(test)]
    pub(super) fn pretend_not_to_know_destroy(&mut self) {
        self.knows_destroy = Some(false);
    }

    /// Commits with DELETE in place of DESTROY. What is not there makes the kernel refuse the
    /// batch, so that is left out in the next attempt.
    fn commit_without_destroy(&mut self, batch: &mut Batch) -> Result<(), CommitError> {
        let messages = batch.messages();
        let mut left_out = vec![false; messages.len()];
        loop {
            let (mut plain, indexes) = with_deletes(messages, &left_out);
            if indexes.is_empty() {
                return Ok(());
            }
            plain.push(uapi::BATCH_END, 0, |out| {
                out.extend_from_slice(&batch_header(messages))
            });
            let mut refusals = self.send(&mut plain)?;
            for refusal in &mut refusals {
                // Index 0 is the start of the batch in both.
                if let Some(index) = refusal.index.checked_sub(1) {
                    refusal.index = indexes.get(index).copied().unwrap_or(0);
                }
            }
            let absent = |refusal: &&Refusal| {
                refusal.errno == libc::ENOENT && is_destroy(messages, refusal.index)
            };
            let before = left_out.iter().filter(|out| **out).count();
            for refusal in refusals.iter().filter(absent) {
                left_out[refusal.index] = true;
            }
            let others: Vec<_> = refusals
                .iter()
                .filter(|refusal| !absent(refusal))
                .cloned()
                .collect();
            let progress = left_out.iter().filter(|out| **out).count() > before;
            if !others.is_empty() || !progress {
                return refused(messages, others);
            }
        }
    }
}

/// Whether a kernel without nftables answers so: it has no such socket (`netlink_create`,
/// net/netlink/af_netlink.c), or no one behind it who understands the question
/// (`nfnetlink_rcv_msg`, net/netfilter/nfnetlink.c).
fn means_none(cause: &Cause) -> bool {
    use libc::{EAFNOSUPPORT, EINVAL, EOPNOTSUPP, EPROTONOSUPPORT};
    matches!(
        cause.errno(),
        Some(EPROTONOSUPPORT | EAFNOSUPPORT | EINVAL | EOPNOTSUPP)
    )
}

fn refused(messages: &netlink::Batch, refusals: Vec<Refusal>) -> Result<(), CommitError> {
    if refusals.is_empty() {
        return Ok(());
    }
    let culprits = refusals.into_iter().map(|refusal| Culprit {
        change: Change::of(
            messages.message(refusal.index).unwrap_or(&[]),
            refusal.offset,
        ),
        errno: refusal.errno,
        explanation: refusal.explanation,
    });
    Err(CommitError::Refused {
        culprits: culprits.collect(),
    })
}

fn kind_of(message: &[u8]) -> u16 {
    message
        .get(4..6)
        .map_or(0, |kind| u16::from_ne_bytes([kind[0], kind[1]]))
}

/// The body of the start of a batch, which is also that of its end.
fn batch_header(messages: &netlink::Batch) -> Vec<u8> {
    messages
        .message(0)
        .and_then(|message| message.get(16..))
        .unwrap_or(&[])
        .to_vec()
}

fn deleting(kind: u16) -> Option<u16> {
    let own = |kind: u16| Some(uapi::SUBSYSTEM << 8 | kind);
    match (kind >> 8, kind & 0xff) {
        (uapi::SUBSYSTEM, msg::DESTROYTABLE) => own(msg::DELTABLE),
        (uapi::SUBSYSTEM, msg::DESTROYCHAIN) => own(msg::DELCHAIN),
        (uapi::SUBSYSTEM, msg::DESTROYSET) => own(msg::DELSET),
        (uapi::SUBSYSTEM, msg::DESTROYSETELEM) => own(msg::DELSETELEM),
        _ => None,
    }
}

fn is_destroy(messages: &netlink::Batch, index: usize) -> bool {
    messages
        .message(index)
        .is_some_and(|message| deleting(kind_of(message)).is_some())
}

/// The batch with DELETE in place of DESTROY and without what is left out, and for each change the
/// index that it had.
fn with_deletes(messages: &netlink::Batch, left_out: &[bool]) -> (netlink::Batch, Vec<usize>) {
    let (mut plain, mut indexes) = (netlink::Batch::new(), Vec::new());
    for (index, left_out) in left_out.iter().enumerate() {
        let Some(message) = messages.message(index).filter(|_| !left_out) else {
            continue;
        };
        let kind = kind_of(message);
        let length = u32::from_ne_bytes([message[0], message[1], message[2], message[3]]) as usize;
        let flags = u16::from_ne_bytes([message[6], message[7]]) & !(libc::NLM_F_ACK as u16);
        plain.push(deleting(kind).unwrap_or(kind), flags, |out| {
            out.extend_from_slice(&message[16..length]);
        });
        if index > 0 {
            indexes.push(index);
        }
    }
    (plain, indexes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nft::{Chain, Element, Field, KeyBuf, Set};

    const KEY: [Field; 1] = [Field::ThDport];

    fn port(number: u16) -> KeyBuf {
        KeyBuf::new().port(number)
    }

    fn in_netns(test: impl FnOnce() + Send + 'static) {
        let thread = std::thread::spawn(|| {
            crate::netns::unshare_thread().expect("a network namespace; run the tests as root");
            test();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }

    /// A table with a chain and a set of ports.
    fn table(batch: &mut Batch, ports: &[u16]) {
        let mut writer = batch.table(Family::Ip, "t");
        writer
            .add(None)
            .add_chain("c", &Chain::regular())
            .add_set("s", &Set::of(&KEY));
        for number in ports {
            let (key, element) = (port(*number).finish(), Element::member());
            writer
                .elements("s", &Set::of(&KEY))
                .add(&element.borrow(&key));
        }
    }

    fn destroys_what_is_there_and_nothing_else(mut socket: NftSocket) {
        let mut batch = Batch::new();
        table(&mut batch, &[1, 2, 3]);
        socket.commit(&mut batch).unwrap();
        let mut batch = Batch::new();
        let mut writer = batch.table(Family::Ip, "t");
        writer
            .destroy_chain("c")
            .destroy_chain("never-there")
            .destroy_set("nor-this");
        for number in [2, 7, 3] {
            writer
                .elements("s", &Set::of(&KEY))
                .destroy(&port(number), None);
        }
        batch.table(Family::Ip6, "nor-that").destroy();
        socket.commit(&mut batch).unwrap();
        let observed = socket.observe(Family::Ip, "t").unwrap().unwrap();
        assert!(observed.chains.is_empty());
        let left: Vec<_> = observed
            .sets
            .get("s")
            .unwrap()
            .elements
            .keys()
            .cloned()
            .collect();
        assert_eq!(left, [port(1).finish()]);
        socket.commit(&mut batch).unwrap();
    }

    #[test]
    fn a_kernel_without_nftables_is_told_from_one_that_may_not_be_asked() {
        let refused = |errno| Cause::Refused {
            errno,
            explanation: None,
        };
        let system = |errno| Cause::System { errno };
        assert!(means_none(&system(libc::EPROTONOSUPPORT)) && means_none(&refused(libc::EINVAL)));
        for errno in [libc::EPERM, libc::EACCES, libc::EMFILE, libc::ENOMEM] {
            assert!(!means_none(&system(errno)) && !means_none(&refused(errno)));
        }
        assert!(!means_none(&Cause::NoAnswer) && !means_none(&Cause::AnswerLost));
        in_netns(|| assert!(NftSocket::open_if_any().unwrap().is_some()));
    }

    #[test]
    fn destroying_what_is_not_there_is_no_error() {
        in_netns(|| destroys_what_is_there_and_nothing_else(NftSocket::open().unwrap()));
    }

    #[test]
    fn destroying_works_as_well_on_kernels_that_only_delete() {
        in_netns(|| {
            let mut socket = NftSocket::open().unwrap();
            socket.pretend_not_to_know_destroy();
            destroys_what_is_there_and_nothing_else(socket);
        });
    }

    #[test]
    fn on_kernels_that_only_delete_the_culprit_is_still_named() {
        in_netns(|| {
            let mut socket = NftSocket::open().unwrap();
            socket.pretend_not_to_know_destroy();
            let mut batch = Batch::new();
            table(&mut batch, &[1]);
            batch
                .table(Family::Ip, "t")
                .destroy_chain("absent")
                .delete_set("missing");
            let error = socket.commit(&mut batch).unwrap_err();
            assert_eq!(
                error.to_string(),
                "cannot delete set missing from table ip t: No such file or directory"
            );
            assert_eq!(socket.observe(Family::Ip, "t").unwrap(), None);
        });
    }
}
