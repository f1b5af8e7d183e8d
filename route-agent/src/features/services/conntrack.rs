//! Forgetting UDP connections whose endpoint is gone.
//!
//! The kernel sends all packets of a UDP "connection" to the endpoint of the first one for as long
//! as the client goes on sending. So after the endpoints of a UDP port have changed, entries that
//! lead anywhere else are deleted, also when there is no endpoint left: the next packet is then
//! refused, and the client learns of it. TCP and SCTP end such connections by themselves.
//!
//! A thread of its own does it, so that the reconcile loop never waits for a large table; changes
//! that arrive meanwhile are taken together.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use podwire_kernel::conntrack::{Conntrack, Entry, Filter};
use podwire_kernel::nft::ct_status;
use podwire_kernel::{IpFamily, Protocol};

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
        let conntrack = Conntrack::open()?;
        let (work, orders) = channel();
        let thread = std::thread::Builder::new().name("conntrack".to_owned());
        thread
            .spawn(move || run(conntrack, &orders, &metrics))
            .map_err(|error| {
                let cause = podwire_kernel::Cause::from(error);
                podwire_kernel::Error::new("start the thread for", "connection tracking", cause)
            })?;
        Ok(Sweeper { work })
    }

    /// Forgets connections to endpoints that are gone, soon.
    pub fn sweep(&self, work: Work) {
        if !work.changes.is_empty() && self.work.send(work).is_err() {
            tracing::error!("the thread that forgets connections is gone");
        }
    }
}

/// Who may answer on which port.
type Serving = HashMap<Claim, Box<[Backend]>>;

fn run(mut conntrack: Conntrack, orders: &Receiver<Work>, metrics: &ProxyMetrics) {
    let mut trouble = LastFailure::default();
    while let Ok(first) = orders.recv() {
        let mut serving: [Serving; 2] = Default::default();
        let mut node = first.node.clone();
        for work in std::iter::once(first).chain(orders.try_iter()) {
            node = work.node;
            let claims = &mut serving[work.family as usize];
            claims.extend(
                work.changes
                    .into_iter()
                    .map(|change| (change.claim, change.serving)),
            );
        }
        for family in IpFamily::ALL {
            let serving = &serving[family as usize];
            if serving.is_empty() {
                continue;
            }
            let start = Instant::now();
            match sweep(&mut conntrack, family, serving, &node) {
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
    serving: &Serving,
    node: &[IpAddr],
) -> Result<usize, podwire_kernel::Error> {
    let of_family = Filter {
        protocol: Some(Protocol::Udp),
        family: Some(family),
        ..Filter::default()
    };
    let stale = |entry: &Entry| is_stale(entry, serving, node);
    if serving.len() > ONE_BY_ONE {
        return conntrack.delete_where(&of_family, stale);
    }
    let mut deleted = 0;
    for claim in serving.keys() {
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

/// True if the connection was sent to a Service port and is answered by an endpoint that may not.
fn is_stale(entry: &Entry, serving: &Serving, node: &[IpAddr]) -> bool {
    use crate::snapshot::Protocol::Udp;
    let (to, port) = (entry.original.destination, entry.original.destination_port);
    let backend = Backend {
        address: entry.reply.source,
        port: entry.reply.source_port,
    };
    if let Some(serving) = serving.get(&Claim::Vip(to, Udp, port)) {
        return !serving.contains(&backend);
    }
    // The number of a node port may be any other machine's port as well.
    let for_node = entry.status & ct_status::DNAT != 0 || to.is_loopback() || node.contains(&to);
    let at_node_port = serving.get(&Claim::NodePort(Udp, port));
    at_node_port.is_some_and(|serving| for_node && !serving.contains(&backend))
}
