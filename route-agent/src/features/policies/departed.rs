//! Addresses whose pods have gone: what the kernel knows of their connections goes too.
//!
//! Goes in: addresses of links that went, and of pods of which the API no longer tells. Comes out:
//! connection tracking without their entries. What must hold: the next owner of an address inherits
//! nothing. A packet is judged as one of its connection; so without this, who sends on and on to a pod
//! that is gone would answer its next owner, as if that one had begun.
//!
//! DEL does it for its own pod, with or without an agent. This is for links that went without DEL, and
//! for pods of other nodes. Of those only UDP: a connection of TCP or SCTP means nothing to who did not
//! begin it, and the next owner may have some of his own by the time that the API tells. A thread of
//! its own does it, so that the reconcile loop never waits for a large table.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use podwire_kernel::Protocol;
use podwire_kernel::conntrack::Conntrack;

use crate::features::parts::forgetting;
use crate::warnings::LastFailure;

/// What comes meanwhile is taken together: the kernel goes through all that it has each time. An
/// address rarely has another owner sooner.
const GATHER: Duration = Duration::from_secs(1);

/// Addresses that no one has any more.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Gone {
    /// Of links of this node.
    pub links: BTreeSet<IpAddr>,
    /// Of pods of other nodes.
    pub pods: BTreeSet<IpAddr>,
}

impl Gone {
    fn is_empty(&self) -> bool {
        self.links.is_empty() && self.pods.is_empty()
    }

    fn add(&mut self, more: Self) {
        self.links.extend(more.links);
        self.pods.extend(more.pods);
    }
}

/// Tells the thread, which is started for the first that went.
#[derive(Debug, Default)]
pub struct Departed {
    thread: Option<Sender<Gone>>,
    trouble: LastFailure,
}

impl Departed {
    /// Forgets the connections of these addresses, soon.
    pub fn forget(&mut self, gone: Gone) {
        if gone.is_empty() {
            return;
        }
        if self.thread.is_none() {
            match forgetting::start("departed", "connections of pods", run) {
                Ok(thread) => self.thread = Some(thread),
                Err(error) if self.trouble.is_news(&error.to_string()) => {
                    tracing::warn!(%error, "connections of pods that are gone may linger");
                }
                Err(_) => {}
            }
        }
        if let Some(thread) = &self.thread
            && thread.send(gone).is_err()
        {
            tracing::error!("the thread that forgets connections of pods is gone");
        }
    }
}

fn run(mut conntrack: Conntrack, orders: &Receiver<Gone>) {
    let mut trouble = LastFailure::default();
    while let Ok(mut gone) = orders.recv() {
        let until = Instant::now() + GATHER;
        while let Ok(more) = orders.recv_timeout(until.saturating_duration_since(Instant::now())) {
            gone.add(more);
        }
        let forgotten = conntrack
            .delete_addresses(&gone.links, None)
            .and_then(|()| conntrack.delete_addresses(&gone.pods, Some(Protocol::Udp)));
        match forgotten {
            Ok(()) => trouble.is_over(),
            Err(error) if trouble.is_news(&error.to_string()) => {
                tracing::warn!(%error, "connections of pods that are gone may linger");
            }
            Err(_) => {}
        }
    }
}
