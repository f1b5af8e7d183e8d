//! Addresses whose pods have gone: what the kernel knows of their connections goes too.
//!
//! Goes in: addresses of links that went, and of pods of which the API no longer tells. Comes out:
//! connection tracking without their entries. What must hold: the next owner of an address inherits
//! nothing. A packet is judged as one of its connection; so without this, who sends on and on to a pod
//! that is gone would answer its next owner, as if that one had begun.
//!
//! DEL does it for its own pod, with or without an agent; who releases a lease without DEL does it before
//! (GC, and the feature of leases). This is for links that went and whose addresses are still leased, and
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
pub(super) const GATHER: Duration = Duration::from_secs(1);

/// Addresses that no one has any more.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Gone {
    /// Of links of this node.
    pub links: BTreeSet<IpAddr>,
    /// Of pods of other nodes.
    pub pods: BTreeSet<IpAddr>,
    /// Those that have another owner by now: who gave them back has forgotten what there was.
    pub taken: BTreeSet<IpAddr>,
}

impl Gone {
    fn is_empty(&self) -> bool {
        self.links.is_empty() && self.pods.is_empty()
    }

    /// Takes in what comes later.
    fn add(&mut self, more: Self) {
        self.links.retain(|one| !more.taken.contains(one));
        self.pods.retain(|one| !more.taken.contains(one));
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
    /// Leaves the connections of these addresses alone, which have a new owner.
    pub fn keep(&self, addresses: &[IpAddr]) {
        if let Some(thread) = &self.thread {
            // A thread that is gone forgets nothing.
            let _ = thread.send(Gone {
                taken: addresses.iter().copied().collect(),
                ..Gone::default()
            });
        }
    }

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
        if gone.is_empty() {
            continue;
        }
        let until = Instant::now() + GATHER;
        while let Ok(more) = orders.recv_timeout(until.saturating_duration_since(Instant::now())) {
            gone.add(more);
        }
        if gone.is_empty() {
            continue;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_of_an_address_that_is_taken_again_stay_and_those_of_what_goes_later_do_not() {
        let of = |numbers: &[u8]| {
            let addresses = numbers.iter().map(|one| IpAddr::from([10, 10, 1, *one]));
            addresses.collect::<BTreeSet<_>>()
        };
        let mut gone = Gone {
            links: of(&[2, 3]),
            pods: of(&[4, 5]),
            ..Gone::default()
        };
        gone.add(Gone {
            taken: of(&[3, 5]),
            ..Gone::default()
        });
        assert_eq!((&gone.links, &gone.pods), (&of(&[2]), &of(&[4])));
        gone.add(Gone {
            links: of(&[3]),
            ..Gone::default()
        });
        assert_eq!(gone.links, of(&[2, 3]));
    }
}
