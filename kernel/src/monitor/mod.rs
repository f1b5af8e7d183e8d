//! Notifications about what changes in the kernel, for the self-healing of the agent.
//!
//! A [`Monitor`] tells what **others** did: changes that come from the sockets named with
//! [`Monitor::ignore`] are dropped inside the kernel, so a process is not woken by its own work
//! and does not overrun its receive buffer with it. Notifications can still be lost when very much
//! changes at once; then [`Event::Lost`] comes and everything has to be read again.

mod event;
mod filter;
mod nftables;
mod route;

use std::os::fd::OwnedFd;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

pub use event::{Event, Touched};

use crate::{Cause, Result};

/// This many events wait for a slow reader; the rest waits in the kernel, where it may be lost.
const EVENTS: usize = 1024;

/// Listens to the network namespace in which it was opened.
#[derive(Debug)]
pub struct Monitor {
    events: mpsc::Receiver<Event>,
    task: JoinHandle<()>,
    sockets: [OwnedFd; 2],
}

impl Monitor {
    /// Starts to listen in the network namespace of the calling thread. From here on no change
    /// goes unnoticed, so read the state after this, not before. Must be called inside a tokio
    /// runtime with I/O.
    pub fn open() -> Result<Self> {
        Self::try_open().map_err(|cause| cause.during("listen to", "kernel notifications"))
    }

    fn try_open() -> std::result::Result<Self, Cause> {
        let (sender, events) = mpsc::channel(EVENTS);
        let (route_socket, route) = route::listen(sender.clone())?;
        let (nftables_socket, nftables) = nftables::listen(sender)?;
        let task = tokio::spawn(async move {
            // When one of them cannot go on, the whole must be opened again.
            tokio::select! {
                () = route => {}
                () = nftables => {}
            }
        });
        Ok(Self {
            events,
            task,
            sockets: [route_socket, nftables_socket],
        })
    }

    /// Leaves out what the sockets with these ports do; see
    /// [`RouteSocket::port`](crate::RouteSocket::port). Replaces what was ignored before. At most
    /// 250 ports.
    pub fn ignore(&self, ports: &[u32]) -> Result<()> {
        for socket in &self.sockets {
            filter::leave_out(socket, ports)
                .map_err(|cause| cause.during("filter", "kernel notifications"))?;
        }
        Ok(())
    }

    /// The next event. Can be dropped and called again without losing one. `None` if listening
    /// has become impossible.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }
}

/// Reads `datagram` as each of the two would: for the fuzzer only.
#[cfg(feature = "fuzzing")]
pub(crate) fn read(datagram: &[u8]) {
    nftables::read(datagram);
    route::read(datagram);
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.task.abort();
    }
}
