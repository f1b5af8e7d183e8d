//! Forgetting UDP connections whose endpoint is gone.
//!
//! The kernel sends all packets of a UDP "connection" to the endpoint of the first one for as long
//! as the client goes on sending. So after the endpoints of a UDP port have changed, entries that
//! lead anywhere else are deleted, also when there is no endpoint left: the next packet is then
//! refused, and the client learns of it. TCP and SCTP end such connections by themselves.
//!
//! A thread of its own does it, so that the reconcile loop never waits for a large table; changes
//! that arrive meanwhile are taken together.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Instant;

use podwire_kernel::conntrack::{Conntrack, Entry, Filter};
use podwire_kernel::nft::ct_status;
use podwire_kernel::{IpFamily, Protocol};

use crate::features::parts::forgetting;
use crate::features::services::desired::endpoints::Backend;
use crate::features::services::desired::frontends::Claim;
use crate::features::services::table::state::UdpChange;
use crate::metrics::ProxyMetrics;
use crate::warnings::LastFailure;

/// Up to this many ports are looked for one by one, with the kernel's help; for more the whole table
/// is read once.
const ONE_BY_ONE: usize = 4;

/// UDP ports of one family whose endpoints changed.
#[derive(Debug)]
pub struct Work {
    /// The family.
    pub family: IpFamily,
    /// The ports, and who may answer now.
    pub changes: Vec<UdpChange>,
    /// Ports of addresses of Services whose numbers are those of node ports among these.
    pub beside: HashSet<Claim>,
    /// The node's own addresses: packets to node ports are for one of these.
    pub node: Arc<[IpAddr]>,
}

/// Gives work to the thread.
#[derive(Debug)]
pub struct Sweeper {
    work: Sender<Work>,
}

impl Sweeper {
    /// Starts the thread in the network namespace of the calling thread.
    pub fn start(metrics: ProxyMetrics) -> Result<Sweeper, podwire_kernel::Error> {
        let run = move |conntrack, orders: &Receiver<Work>| run(conntrack, orders, &metrics);
        let work = forgetting::start("conntrack", "connection tracking", run)?;
        Ok(Sweeper { work })
    }

    /// Forgets connections to endpoints that are gone, soon.
    pub fn sweep(&self, work: Work) {
        if !work.changes.is_empty() && self.work.send(work).is_err() {
            tracing::error!("the thread that forgets connections is gone");
        }
    }
}

/// What is looked for in one family.
#[derive(Debug, Default)]
struct Sought {
    /// Who may answer on which port.
    serving: HashMap<Claim, Box<[Backend]>>,
    /// Ports that only look like one of these.
    beside: HashSet<Claim>,
}

fn run(mut conntrack: Conntrack, orders: &Receiver<Work>, metrics: &ProxyMetrics) {
    let mut trouble = LastFailure::default();
    while let Ok(first) = orders.recv() {
        let mut sought: [Sought; 2] = Default::default();
        let mut node = first.node.clone();
        for work in std::iter::once(first).chain(orders.try_iter()) {
            node = work.node;
            let Sought { serving, beside } = &mut sought[work.family as usize];
            beside.extend(work.beside);
            serving.extend(
                work.changes
                    .into_iter()
                    .map(|change| (change.claim, change.serving)),
            );
        }
        for family in IpFamily::ALL {
            let sought = &sought[family as usize];
            if sought.serving.is_empty() {
                continue;
            }
            let start = Instant::now();
            match sweep(&mut conntrack, family, sought, &node) {
                Ok(deleted) => {
                    trouble.is_over();
                    note(family, deleted, start, metrics);
                }
                Err(error) if trouble.is_news(&error.to_string()) => {
                    tracing::warn!(%error, "old UDP connections may linger");
                }
                Err(_) => {}
            }
        }
    }
}

fn note(family: IpFamily, deleted: usize, start: Instant, metrics: &ProxyMetrics) {
    if deleted > 0 {
        tracing::debug!(
            ?family,
            deleted,
            "forgot UDP connections to endpoints that are gone"
        );
    }
    metrics.conntrack_cleaned(family, deleted as u64, start.elapsed());
}

fn sweep(
    conntrack: &mut Conntrack,
    family: IpFamily,
    sought: &Sought,
    node: &[IpAddr],
) -> Result<usize, podwire_kernel::Error> {
    let of_family = Filter {
        protocol: Some(Protocol::Udp),
        family: Some(family),
        ..Filter::default()
    };
    let stale = |entry: &Entry| sought.is_stale(Way::of(entry), node);
    if sought.serving.len() > ONE_BY_ONE {
        return conntrack.delete_where(&of_family, stale);
    }
    let mut deleted = 0;
    for claim in sought.serving.keys() {
        let filter = match claim {
            Claim::Vip(address, _, port) => Filter {
                original_destination: Some(*address),
                original_port: Some(*port),
                ..of_family
            },
            Claim::NodePort(_, port) => Filter {
                original_port: Some(*port),
                ..of_family
            },
            Claim::ClusterIp(_) => continue,
        };
        deleted += conntrack.delete_where(&filter, stale)?;
    }
    Ok(deleted)
}

/// Where a connection was sent, and who answers it.
#[derive(Debug, Clone, Copy)]
struct Way {
    to: IpAddr,
    port: u16,
    translated: bool,
    backend: Backend,
}

impl Way {
    fn of(entry: &Entry) -> Self {
        Self {
            to: entry.original.destination,
            port: entry.original.destination_port,
            translated: entry.status & ct_status::DNAT != 0,
            backend: Backend {
                address: entry.reply.source,
                port: entry.reply.source_port,
            },
        }
    }
}

impl Sought {
    /// True if the connection was sent to a Service port and is answered by an endpoint that may not.
    fn is_stale(&self, way: Way, node: &[IpAddr]) -> bool {
        use crate::snapshot::Protocol::Udp;
        let Way {
            to, port, backend, ..
        } = way;
        let vip = Claim::Vip(to, Udp, port);
        if let Some(serving) = self.serving.get(&vip) {
            return !serving.contains(&backend);
        }
        // The number of a node port may be any other machine's port as well, or a Service's.
        let for_node = way.translated || to.is_loopback() || node.contains(&to);
        let for_node = for_node && !self.beside.contains(&vip);
        let at_node_port = self.serving.get(&Claim::NodePort(Udp, port));
        at_node_port.is_some_and(|serving| for_node && !serving.contains(&backend))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Protocol::Udp;

    fn way(to: &str, port: u16, translated: bool, backend: &str) -> Way {
        Way {
            to: to.parse().unwrap(),
            port,
            translated,
            backend: Backend {
                address: backend.parse().unwrap(),
                port: 53,
            },
        }
    }

    #[test]
    fn a_connection_is_forgotten_if_who_answers_it_serves_its_port_no_longer() {
        let serves = |address: &str| {
            let address = address.parse().unwrap();
            Box::new([Backend { address, port: 53 }])
        };
        let vip = |address: &str| Claim::Vip(address.parse().unwrap(), Udp, 30_053);
        let sought = Sought {
            serving: [
                (vip("10.200.1.1"), serves("10.10.1.1") as Box<[Backend]>),
                (Claim::NodePort(Udp, 30_053), serves("10.10.1.1")),
            ]
            .into(),
            beside: [vip("10.200.1.2")].into(),
        };
        let node: [IpAddr; 1] = ["172.18.0.2".parse().unwrap()];
        let stale = |to, port, translated, backend| {
            sought.is_stale(way(to, port, translated, backend), &node)
        };
        for to in ["10.200.1.1", "172.18.0.2", "127.0.0.1"] {
            assert!(!stale(to, 30_053, true, "10.10.1.1"), "{to}");
            assert!(stale(to, 30_053, true, "10.10.1.9"), "{to}");
        }
        // To the node itself, before there was the port.
        assert!(stale("172.18.0.2", 30_053, false, "172.18.0.2"));
        // Another port; the same number of another Service, and of another machine.
        assert!(!stale("10.200.1.1", 53, true, "10.10.1.9"));
        assert!(!stale("10.200.1.2", 30_053, true, "10.10.1.9"));
        assert!(!stale("172.18.0.9", 30_053, false, "172.18.0.9"));
    }
}
