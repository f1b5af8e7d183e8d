//! Addresses of pods whose link is gone are given back.
//!
//! In: the plugin's lease files, the links and routes of this node. Out: leases without a sign of
//! life are released, under the plugin's lock, after a grace period. A sign of life is the host
//! end of the attachment's link, or a route to exactly that address: pods of a plugin that names
//! its links otherwise are safe as well. This is for what the runtime forgets: a plugin that was
//! killed, a DEL that never came.
//!
//! On a node where another plugin gave out addresses before, those that a pod still has are leased
//! before the first pod of ours starts, so that nobody gets them a second time. They are given back
//! like every lease without a sign of life.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use ipnetwork::IpNetwork;
use kernel::RouteSocket;
use kernel::link::Link;
use kernel::route::{Route, RouteFilter, RouteKind, TABLE_MAIN};
use podwire::attachment::{Alias, LINK_GROUP, host_link_name};
use podwire::lease::{self, Lease, Owner, Store};

use super::cniconf::NETWORK;
use crate::config::Config;
use crate::reconcile::{Event, Feature, KernelEvent, SyncError, Synced, Warn, World};
use crate::report::{PodReport, Report};

/// Links come and go in bursts; they are looked at once when this has passed.
const CALM: Duration = Duration::from_secs(1);

/// With this begins the container ID in a lease for a pod of an earlier plugin.
const ADOPTED: &str = "adopted-";

/// The feature.
#[derive(Debug)]
pub struct Leases {
    socket: RouteSocket,
    /// Leases without a sign of life, and since when that is known.
    missing: BTreeMap<(IpAddr, Owner), Instant>,
    due: Option<Instant>,
    /// Addresses given out by an earlier plugin have been looked for.
    adopted: bool,
}

/// What shows that a lease is in use.
#[derive(Debug, Default)]
struct SignsOfLife {
    links: BTreeSet<String>,
    routes: BTreeSet<IpAddr>,
}

impl Leases {
    /// Works in the network namespace of the calling thread.
    pub fn open() -> kernel::Result<Self> {
        Ok(Self {
            socket: RouteSocket::open()?,
            missing: BTreeMap::new(),
            due: None,
            adopted: false,
        })
    }

    /// Leases the addresses that pods of an earlier plugin have; the number of them. Only if there
    /// is no lease directory: where there is one, the plugin has been at work already.
    fn adopt(&mut self, world: &World<'_>, directory: &Path) -> Result<usize, SyncError> {
        let Some(own) = world.own_node().filter(|own| !own.pod_cidrs.is_empty()) else {
            return Ok(0);
        };
        let mut count = 0;
        if !self.adopted && !directory.exists() {
            let routes = self.socket.routes(RouteFilter::default())?;
            let found = in_use(&routes, &own.pod_cidrs);
            if !found.is_empty() {
                let mut store = Store::create(directory)?;
                for (address, set) in found {
                    // A container ID has no colons.
                    let name = format!("{ADOPTED}{address}").replace(':', "-");
                    count += usize::from(store.take(&Owner::new(&name, "eth0"), address, set)?);
                }
                store.finish();
                tracing::info!(count, "addresses of pods of an earlier plugin are taken");
            }
        }
        self.adopted = true;
        Ok(count)
    }

    fn signs_of_life(&mut self, links: &[Link]) -> kernel::Result<SignsOfLife> {
        let routes = self.socket.routes(RouteFilter::default())?;
        Ok(SignsOfLife {
            links: links.iter().map(|link| link.name.clone()).collect(),
            routes: routes
                .iter()
                .map(|r| r.destination)
                .filter(is_single)
                .map(|n| n.ip())
                .collect(),
        })
    }
}

/// Addresses in these networks that have a route of their own to a link, with the number of the
/// network: how ptp and its like attach a pod.
fn in_use(routes: &[Route], pod_cidrs: &[IpNetwork]) -> Vec<(IpAddr, usize)> {
    let attached = |route: &&Route| {
        is_single(&route.destination)
            && route.table == TABLE_MAIN
            && route.kind == RouteKind::Unicast
            && route.link.is_some()
            && route.gateway.is_none()
    };
    let place = |address| pod_cidrs.iter().position(|cidr| cidr.contains(address));
    let addresses = routes.iter().filter(attached).map(|r| r.destination.ip());
    addresses
        .filter_map(|address| Some((address, place(address)?)))
        .collect()
}

fn is_single(network: &IpNetwork) -> bool {
    network.prefix() == if network.is_ipv6() { 128 } else { 32 }
}

impl SignsOfLife {
    fn has(&self, lease: &Lease) -> bool {
        // The old format says nothing about the interface; the first is what runtimes ask for.
        let ifname = lease.owner.ifname.as_deref().unwrap_or("eth0");
        self.links
            .contains(&host_link_name(&lease.owner.container_id, ifname))
            || self.routes.contains(&lease.address)
    }
}

impl Feature for Leases {
    fn name(&self) -> &'static str {
        "leases"
    }

    /// The first pod of ours must not get an address that another one has.
    fn needed_by_pods(&self) -> bool {
        true
    }

    fn heed(&mut self, event: &Event<'_>, world: &World<'_>) -> bool {
        match event {
            Event::Resync => true,
            // The podCIDR may be known now.
            Event::Objects(dirty) => !self.adopted && dirty.nodes.contains(world.own_name()),
            Event::Kernel(KernelEvent::Link { name, .. }) if name.starts_with("veth") => {
                let soon = Instant::now() + CALM;
                self.due = Some(self.due.map_or(soon, |due| due.min(soon)));
                false
            }
            _ => false,
        }
    }

    fn due(&self) -> Option<Instant> {
        self.due
    }

    fn sync(&mut self, world: &World<'_>, _: &mut Warn<'_>) -> Result<Synced, SyncError> {
        let (now, grace) = (Instant::now(), world.config.lease_grace);
        let directory = world.config.lease_dir().join(NETWORK);
        let adopted = self.adopt(world, &directory)?;
        // Leases first: a lease that is taken after this is not in the list, one that was taken
        // before may have its link by now.
        let leases = lease::list(&directory)?;
        let links = self.socket.links()?;
        let alive = self.signs_of_life(&links)?;
        let (mut released, mut kept) = (0, BTreeMap::new());
        for lease in leases.iter().filter(|lease| !alive.has(lease)) {
            let key = (lease.address, lease.owner.clone());
            let since = self.missing.get(&key).copied().unwrap_or(now);
            let is_old = lease.since.elapsed_or_zero() >= grace;
            if now.saturating_duration_since(since) < grace || !is_old {
                kept.insert(key, since);
            } else if lease::release(&directory, lease)? {
                released += 1;
                let container_id = &lease.owner.container_id;
                tracing::info!(address = %lease.address, container_id, "released a lost lease");
            }
        }
        self.due = kept.values().map(|since| *since + grace.max(CALM)).min();
        self.due = self.due.map(|due| due.max(now + CALM));
        self.missing = kept;
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let pods = links.iter().filter(|link| link.group == LINK_GROUP).count();
        world
            .metrics
            .node
            .leases
            .set(count(leases.len()) - count(released));
        world.metrics.node.attachments.set(count(pods));
        Ok(Synced {
            writes: released as u64 + adopted as u64,
            again: false,
        })
    }

    fn report(&mut self, world: &World<'_>, report: &mut Report) {
        let directory = world.config.lease_dir().join(NETWORK);
        let (leases, links) = match (lease::list(&directory), self.socket.links()) {
            (Ok(leases), Ok(links)) => (leases, links),
            (leases, links) => {
                report
                    .differences
                    .extend(leases.err().map(|error| error.to_string()));
                report
                    .differences
                    .extend(links.err().map(|error| error.to_string()));
                return;
            }
        };
        report.pods.extend(pods(&leases, &links));
    }

    fn uninstall(&mut self, config: &Config) -> Result<Vec<String>, SyncError> {
        let directory = config.lease_dir();
        match std::fs::remove_dir_all(&directory) {
            Ok(()) => Ok(vec![format!("leases in {}", directory.display())]),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(format!("cannot remove {}: {error}", directory.display()).into()),
        }
    }
}

/// Links and leases, put together by attachment.
fn pods(leases: &[Lease], links: &[Link]) -> Vec<PodReport> {
    let mut pods: BTreeMap<String, PodReport> = BTreeMap::new();
    for link in links.iter().filter(|link| link.group == LINK_GROUP) {
        let alias = link
            .alias
            .as_deref()
            .and_then(Alias::parse)
            .unwrap_or_default();
        pods.insert(
            link.name.clone(),
            PodReport {
                link: link.name.clone(),
                pod: alias
                    .pod
                    .map(|(namespace, name)| format!("{namespace}/{name}")),
                container_id: alias.container_id,
                ifname: alias.ifname,
                addresses: Vec::new(),
                present: true,
            },
        );
    }
    for lease in leases {
        let Owner {
            container_id,
            ifname,
        } = &lease.owner;
        let ifname = ifname.as_deref().unwrap_or("eth0");
        // Its link has another name; the lease goes once its route is gone.
        let is_adopted = container_id.starts_with(ADOPTED);
        let link = match is_adopted {
            true => format!("of {}", lease.address),
            false => host_link_name(container_id, ifname),
        };
        let pod = pods.entry(link.clone()).or_insert_with(|| PodReport {
            link,
            pod: is_adopted.then(|| "of an earlier plugin".to_owned()),
            container_id: container_id.clone(),
            ifname: ifname.to_owned(),
            addresses: Vec::new(),
            present: is_adopted,
        });
        pod.addresses.push(lease.address);
    }
    pods.into_values().collect()
}

/// A clock that was set back makes a file seem to be of the future.
trait ElapsedOrZero {
    fn elapsed_or_zero(&self) -> Duration;
}

impl ElapsedOrZero for SystemTime {
    fn elapsed_or_zero(&self) -> Duration {
        self.elapsed().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use kernel::Scope;

    use super::*;

    fn route(destination: &str) -> Route {
        let mut route = Route::to(destination.parse().unwrap());
        route.link = Some(7);
        route.scope = Scope::Link;
        route
    }

    #[test]
    fn only_addresses_with_a_route_of_their_own_in_our_networks_are_in_use() {
        let local = Route {
            kind: RouteKind::Local,
            table: 255,
            ..route("10.10.1.1/32")
        };
        let through = Route {
            gateway: Some("172.18.0.3".parse().unwrap()),
            ..route("10.10.1.9/32")
        };
        let routes = [
            local,
            through,
            route("10.10.1.0/24"),
            route("10.10.1.5/32"),
            route("10.10.2.6/32"),
            route("fd00:10:10:1::7/128"),
        ];
        let networks = [
            "10.10.1.0/24".parse().unwrap(),
            "fd00:10:10:1::/64".parse().unwrap(),
        ];
        assert_eq!(
            in_use(&routes, &networks),
            [
                ("10.10.1.5".parse().unwrap(), 0),
                ("fd00:10:10:1::7".parse().unwrap(), 1)
            ]
        );
    }
}
