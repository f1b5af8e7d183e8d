//! The rtnetlink socket and lists of requests for it.
//!
//! A request is written into [`Requests`] by the module it belongs to (`link`, `address`,
//! `route`, ...). A list is carried out in order by as few system calls as possible; a request
//! that the kernel refuses does not stop the later ones.

use crate::netlink::{Batch, Message, Protocol, Socket};
use crate::netns::Netns;
use crate::{Cause, Error, Result};

/// This many answers of the largest kind fit into the default receive buffer of a socket
/// (net.core.rmem_default, 212992 bytes; an answer takes about 800 with its overhead), should all
/// requests of one datagram fail.
const REQUESTS_PER_DATAGRAM: usize = 128;

/// Makes a new object; fails with `EEXIST` if there is one (linux/netlink.h).
pub(crate) const CREATE: u16 = (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;

/// Makes a new object beside others of its kind, where the kernel can hold several.
pub(crate) const BESIDE: u16 = libc::NLM_F_CREATE as u16;

/// Makes the object, or puts the new one in the place of the old.
pub(crate) const REPLACE: u16 = (libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16;

/// What a request does to what, for the error that may come of it.
#[derive(Debug, Clone)]
struct Purpose {
    operation: &'static str,
    object: String,
}

/// Requests that change something, in the order in which the kernel carries them out.
#[derive(Debug, Default)]
pub struct Requests {
    datagrams: Vec<Batch>,
    purposes: Vec<Purpose>,
}

impl Requests {
    /// An empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many requests there are.
    pub fn len(&self) -> usize {
        self.purposes.len()
    }

    /// Whether there is no request.
    pub fn is_empty(&self) -> bool {
        self.purposes.is_empty()
    }

    /// Appends a request whose body `body` appends; `operation` and `object` name it in an error.
    pub(crate) fn push(
        &mut self,
        operation: &'static str,
        object: impl Into<String>,
        kind: u16,
        flags: u16,
        body: impl FnOnce(&mut Vec<u8>),
    ) -> &mut Self {
        self.datagram().push(kind, flags, body);
        self.purposes.push(Purpose {
            operation,
            object: object.into(),
        });
        self
    }

    /// The datagram that takes the next request.
    fn datagram(&mut self) -> &mut Batch {
        let full = self
            .datagrams
            .last()
            .is_none_or(|batch| batch.len() >= REQUESTS_PER_DATAGRAM);
        if full {
            self.datagrams.push(Batch::new());
        }
        let last = self.datagrams.len() - 1;
        &mut self.datagrams[last]
    }
}

/// A blocking `NETLINK_ROUTE` socket: links, addresses, routes, neighbours, traffic control.
///
/// It works on the network namespace in which it was opened, wherever its thread goes later.
#[derive(Debug)]
pub struct RouteSocket {
    pub(crate) socket: Socket,
}

impl RouteSocket {
    /// Opens a socket in the network namespace of the calling thread.
    pub fn open() -> Result<Self> {
        match Socket::open(Protocol::Route) {
            Ok(socket) => Ok(Self { socket }),
            Err(cause) => Err(cause.during("open", "rtnetlink socket")),
        }
    }

    /// Opens a socket in the network namespace `netns`.
    pub fn open_in(netns: &Netns) -> Result<Self> {
        netns.enter(Self::open)?
    }

    /// How many requests that change something were sent over this socket, refused ones included.
    pub fn writes(&self) -> u64 {
        self.socket.writes()
    }

    /// The port of this socket; notifications about changes made through it carry this number.
    pub fn port(&mut self) -> Result<u32> {
        self.socket
            .port()
            .map_err(|cause| cause.during("read port of", "rtnetlink socket"))
    }

    /// Carries out all requests, and returns the first refusal as an error. Requests after a
    /// refused one are carried out all the same.
    pub fn run(&mut self, requests: &mut Requests) -> Result<()> {
        for outcome in self.run_each(requests)? {
            outcome?;
        }
        Ok(())
    }

    /// Carries out all requests, and returns what became of each, in their order. The outer error
    /// means that the conversation with the kernel broke down.
    pub fn run_each(&mut self, requests: &mut Requests) -> Result<Vec<Result<()>>> {
        self.run_with(requests, |_| Ok(()))
    }

    /// As [`RouteSocket::run_each`]; answers that are not acknowledgements go to `each`.
    pub(crate) fn run_with(
        &mut self,
        requests: &mut Requests,
        mut each: impl FnMut(Message<'_>) -> std::result::Result<(), Cause>,
    ) -> Result<Vec<Result<()>>> {
        let mut results = vec![Ok(()); requests.len()];
        let mut done = 0;
        for batch in &mut requests.datagrams {
            let outcome = self.socket.converse(batch, |_, message| each(message));
            let purpose = &requests.purposes[done];
            let refusals =
                outcome.map_err(|cause| cause.during(purpose.operation, &purpose.object))?;
            for refusal in refusals {
                let index = done + refusal.index;
                let purpose = &requests.purposes[index];
                results[index] = Err(Error::new(
                    purpose.operation,
                    &purpose.object,
                    refusal.into(),
                ));
            }
            done += batch.len();
        }
        Ok(results)
    }
}
