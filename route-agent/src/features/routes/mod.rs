//! A route to every peer's podCIDR, through the uplink, via that peer's InternalIP.
//!
//! In: Nodes and the uplink. Out: routes of protocol 112 in the main table, and nothing of
//! others. What must hold: the kernel's routes of protocol 112 are exactly the wanted ones, also
//! those that an agent before this one left behind; a Node that cannot be routed to is a warning
//! and the others go on. An `unreachable` route catches what is in our own podCIDR but belongs to
//! no pod, which would otherwise leave by the default route and come back. What goes to the pods of
//! a Node that has gone is refused for a while (`refused`), so that its clients need not wait.

mod desired;
mod diff;
pub mod refused;
mod services;
#[cfg(test)]
mod tests;
mod unlikely;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use ipnetwork::IpNetwork;
use podwire_kernel::RouteSocket;
use podwire_kernel::route::{Route, RouteChange, RouteFilter, RouteKind, TABLE_MAIN};

pub use desired::{Desired, Given, METRIC, NoUplink, UNREACHABLE_METRIC, desired, gateway_of};
pub use diff::diff;
use podwire_kernel::IpFamily;
use refused::{InUse, Refused};
use unlikely::Likely;

use crate::config::Config;
use crate::error::chain;
use crate::feature::{Event, Feature, KernelEvent, SyncError, Synced, Warn, World};
use crate::features::parts::kept::{Held, Kept};
use crate::features::parts::log::Logging;
use crate::ours::{REFUSED_TABLE, ROUTE_PROTOCOL as PROTOCOL, Removal};
use crate::pod_cidrs::Holders;
use crate::report::{Report, RouteReport};
use crate::snapshot::{Node, ObjectName, Snapshot};
use crate::warnings::Warning;

/// The feature.
#[derive(Debug)]
pub struct Routes {
    socket: RouteSocket,
    /// Our routes in the kernel; `None` if they must be read (again).
    observed: Option<Observed>,
    desired: Desired,
    /// The desired routes must be computed again.
    stale: bool,
    refused: Refused,
    /// Routes have been compared once: from now on we know ourselves which Nodes go.
    started: bool,
    kept: Kept,
    /// Who has which podCIDR may differ from what is written down.
    unkept: bool,
}

/// Who has which podCIDR: the kernel's route has an address, which the Node may have no longer.
const KEPT: Kept = Kept::new("pod-cidrs");

/// What the kernel holds.
#[derive(Debug, Default)]
struct Observed {
    /// Routes of our protocol, in any table.
    ours: BTreeSet<Route>,
    /// Routes of others in the main table. Those to single addresses are left out: they are the
    /// pods' own and cannot get in the way of a podCIDR.
    foreign: BTreeSet<Route>,
}

impl Routes {
    /// Works in the network namespace of the calling thread.
    pub fn open(logging: Logging) -> podwire_kernel::Result<Self> {
        let socket = RouteSocket::open()?;
        Ok(Self {
            socket,
            observed: None,
            desired: Desired::default(),
            stale: true,
            refused: Refused::open(logging)?,
            started: false,
            kept: KEPT,
            unkept: true,
        })
    }

    /// Writes to the kernel so far.
    pub fn writes(&self) -> u64 {
        self.socket.writes()
    }

    fn observe(&mut self) -> podwire_kernel::Result<Observed> {
        let mut observed = Observed::default();
        for route in self.socket.routes(RouteFilter::default())? {
            let route = comparable(route);
            if route.protocol == PROTOCOL {
                observed.ours.insert(route);
            } else if is_foreign(&route) {
                observed.foreign.insert(route);
            }
        }
        Ok(observed)
    }

    /// Forgets what was observed if routes of others may have gone with this link: of IPv4 the
    /// kernel says nothing (`fib_sync_down_dev`, net/ipv4/fib_semantics.c). Links of pods have no
    /// such routes, so that their end costs nothing.
    fn lose_link(&mut self, index: u32) -> bool {
        let may_go = |route: &Route| {
            // A route over several links does not say which.
            route.link == Some(index) || route.multipath && self.is_in_the_way(route.destination)
        };
        let lost = self
            .observed
            .as_ref()
            .is_some_and(|observed| observed.foreign.iter().any(may_go));
        if lost {
            self.observed = None;
        }
        lost
    }

    /// True if a route of others to this destination makes a difference to ours.
    fn is_in_the_way(&self, destination: IpNetwork) -> bool {
        self.desired.wants(destination) || self.refused.concerns(destination)
    }

    /// Computes the desired routes again if they may have changed, or says why it cannot.
    fn decide(&mut self, world: &World<'_>, now: Instant) -> Result<(), NoUplink> {
        if self.stale {
            let desired = desired(&Given {
                snapshot: world.snapshot,
                handwritten: world.config.manifests.is_some(),
                own: world.own_name(),
                uplink: world.uplink,
                service_cidrs: &world.config.services.service_cidrs,
                likely: likely(world),
            })?;
            let left = self.desired.left_by(&desired);
            self.refuse(left, world, now);
            self.desired = desired;
            self.stale = false;
            self.unkept = true;
        }
        Ok(())
    }

    /// Writes down who has which podCIDR and no date, with the next hop of its route, or says why not.
    fn keep_holders(&mut self, world: &World<'_>) -> Option<Warning> {
        if !self.unkept {
            return None;
        }
        let nodes = &world.snapshot.nodes;
        let has_no_date = |name: &Arc<str>| {
            name != world.own_name() && nodes.get(name).is_some_and(|node| node.created.is_none())
        };
        let routes = self.desired.routes.iter();
        let held: Held = routes
            .filter(|(_, wanted)| has_no_date(&wanted.node))
            .map(|(network, wanted)| {
                let owner = format!("{} {}", wanted.node, next_hop(&wanted.route));
                (network.to_string(), owner)
            })
            .collect();
        let error = self.kept.apply(&world.config.run_dir, held).err();
        self.unkept = error.is_some();
        let text = format!(
            "{}: who has one may lose it to another Node with the next restart",
            chain(&error?)
        );
        Some(Warning::new("podCIDRs", text))
    }

    /// True if the ClusterIP of a Service is, or was, in a podCIDR.
    fn is_amid_pods(&self, name: &ObjectName, snapshot: &Snapshot) -> bool {
        let service = snapshot.services.get(name);
        let mut addresses = service.into_iter().flat_map(|service| &service.cluster_ips);
        self.desired.services_amid_pods.contains(name)
            || addresses.any(|address| self.desired.owner_of_address(*address).is_some())
    }

    /// Notes podCIDRs that have no route any more, but for those that a Node still has, and those that
    /// were hardly meant: what is there now is somebody else's.
    fn refuse(&mut self, mut left: Vec<(IpNetwork, String)>, world: &World<'_>, now: Instant) {
        let likely = likely(world);
        left.retain(|(network, _)| {
            !refused::is_taken(world.snapshot, *network) && likely.doubts(*network).is_none()
        });
        self.refused.add(left, now);
    }

    /// Refuses the podCIDRs of Nodes that are gone; returns how many changes that took.
    fn keep_refused(
        &mut self,
        world: &World<'_>,
        observed: &Observed,
        failed: &mut Vec<Warning>,
    ) -> u64 {
        let in_use = InUse {
            snapshot: world.snapshot,
            desired: &self.desired,
            networks: &networks(world),
            foreign: &observed.foreign,
        };
        self.refused.keep(&in_use).unwrap_or_else(|error| {
            let object = format!("nftables table inet {}", REFUSED_TABLE);
            let text = format!("{}; tried again", chain(&error));
            failed.push(Warning::new(object, text));
            0
        })
    }

    /// Carries the changes out and takes into `ours` what succeeded. Returns what did not.
    fn apply(
        &mut self,
        changes: &[RouteChange],
        ours: &mut BTreeSet<Route>,
    ) -> podwire_kernel::Result<Vec<Warning>> {
        let mut warnings = Vec::new();
        let (mut written, mut places) = (Vec::new(), BTreeSet::new());
        for (change, result) in changes.iter().zip(self.socket.apply(changes)?) {
            match (change, result) {
                (RouteChange::Delete(route), Ok(())) => {
                    ours.remove(route);
                }
                // It went by itself.
                (RouteChange::Delete(route), Err(error)) if error.is_not_found() => {
                    ours.remove(route);
                }
                (RouteChange::Replace(route) | RouteChange::Add(route), Ok(())) => {
                    places.insert(diff::place(route));
                    written.push(route.clone());
                }
                (
                    RouteChange::Delete(route)
                    | RouteChange::Replace(route)
                    | RouteChange::Add(route),
                    Err(error),
                ) => {
                    let object = self.desired.owner(route.destination).map_or_else(
                        || format!("route {}", route.destination),
                        |node| format!("Node {node}"),
                    );
                    warnings.push(Warning::new(object, format!("{error}; tried again")));
                }
            }
        }
        ours.retain(|route| !places.contains(&diff::place(route)));
        ours.extend(written);
        Ok(warnings)
    }
}

impl Feature for Routes {
    fn name(&self) -> &'static str {
        "routes"
    }

    fn ports(&mut self) -> Vec<u32> {
        let sockets = [self.socket.port().ok(), self.refused.port()];
        sockets.into_iter().flatten().collect()
    }

    fn notice(&mut self, event: &Event<'_>, world: &World<'_>) -> bool {
        match event {
            Event::Objects(dirty) => {
                let amid_pods = |name| self.is_amid_pods(name, world.snapshot);
                self.stale |= dirty.concerns_pod_cidrs()
                    || dirty.service_cidrs
                    || dirty.services.iter().any(amid_pods);
                self.stale
            }
            Event::Uplink | Event::Resync => {
                // The kernel drops IPv4 routes silently when their link goes down.
                self.stale = true;
                self.observed = None;
                if matches!(event, Event::Resync) {
                    self.refused.distrust();
                }
                true
            }
            Event::Kernel(KernelEvent::Route { route, gone }) => {
                if route.protocol == PROTOCOL {
                    // What we ourselves write is not announced to us, so another process did that.
                    self.observed = None;
                    return true;
                }
                if let Some(observed) = self.observed.as_mut().filter(|_| is_foreign(route)) {
                    match gone {
                        true => observed.foreign.remove(route),
                        false => observed.foreign.insert(route.clone()),
                    };
                }
                is_foreign(route) && self.is_in_the_way(route.destination)
            }
            Event::Kernel(KernelEvent::Link {
                index, up, gone, ..
            }) => (*gone || !up) && self.lose_link(*index),
            Event::Kernel(event) => self.refused.is_touched_by(event),
            Event::Files | Event::Told(_) | Event::WhoHas(_) | Event::Ready => false,
        }
    }

    fn due(&self) -> Option<Instant> {
        self.refused.due()
    }

    fn sync(&mut self, world: &World<'_>, warn: &mut Warn<'_>) -> Result<Synced, SyncError> {
        let now = Instant::now();
        self.refused.expire(now);
        let mut observed = match self.observed.take() {
            Some(observed) => observed,
            None => self.observe()?,
        };
        let decided = self.decide(world, now);
        if let Err(why) = decided {
            let mut warnings = self.desired.warnings.clone();
            warnings.extend(why.warning());
            // What was refused long enough is not refused for want of an uplink.
            let known = warnings.len();
            let writes = self.keep_refused(world, &observed, &mut warnings);
            let again = warnings.len() > known;
            warn.replace(warnings);
            self.observed = Some(observed);
            return Ok(Synced { writes, again });
        }
        let wanted: BTreeSet<Route> = self
            .desired
            .routes
            .values()
            .map(|w| w.route.clone())
            .collect();
        if !std::mem::replace(&mut self.started, true) {
            let left = forgotten(&observed.ours, &self.desired);
            self.refuse(left, world, now);
        }
        let mut failed = Vec::new();
        // Before their routes go, so that nothing leaves by the default route in between.
        let mut writes = self.keep_refused(world, &observed, &mut failed);
        let changes = diff(&observed.ours, &wanted, &observed.foreign);
        if !changes.is_empty() {
            failed.extend(self.apply(&changes, &mut observed.ours)?);
        }
        writes += changes.len() as u64;
        let again = !failed.is_empty();
        failed.extend(self.keep_holders(world));
        failed.extend(self.desired.warnings.iter().cloned());
        failed.extend(self.desired.shadowed(&observed.foreign));
        warn.replace(failed);
        count(&observed.ours, world);
        // After a failure the kernel is asked again: memory may be wrong.
        self.observed = (!again).then_some(observed);
        Ok(Synced { writes, again })
    }

    fn needed_by_pods(&self) -> bool {
        true
    }

    fn report(&mut self, world: &World<'_>, report: &mut Report) {
        report.add_refused(self.refused.counted());
        let ours = match self.observe() {
            Ok(observed) => observed.ours,
            Err(error) => {
                report.differences.push(error.to_string());
                return;
            }
        };
        // The kernel takes its routes away, which is said once, by a warning.
        let is_down = world.uplink.is_some_and(|uplink| !uplink.up);
        for (destination, wanted) in &self.desired.routes {
            let present = ours.contains(&wanted.route);
            let went_with_it = is_down && wanted.route.link.is_some();
            if !present && !went_with_it {
                report
                    .differences
                    .push(format!("the route {} is missing", wanted.route));
            }
            report.routes.push(RouteReport {
                node: wanted.node.to_string(),
                destination: *destination,
                gateway: wanted.route.gateway,
                link: world
                    .uplink
                    .filter(|_| wanted.route.link.is_some())
                    .map(|u| u.name.clone()),
                unreachable: wanted.route.kind == RouteKind::Unreachable,
                refused: false,
                present,
            });
        }
        report.routes.extend(self.refused.report());
        for route in &ours {
            let wanted = self.desired.routes.get(&route.destination);
            if wanted.is_none_or(|wanted| wanted.route != *route) {
                report
                    .differences
                    .push(format!("the route {route} should not be there"));
            }
        }
        report.differences.extend(self.refused.differences());
    }

    fn uninstall(&mut self, config: &Config, how: Removal) -> Result<Vec<String>, SyncError> {
        let refused = self.refused.uninstall(how)?;
        let ours = self.observe()?.ours;
        let changes: Vec<RouteChange> = ours.into_iter().map(RouteChange::Delete).collect();
        let acts = match how {
            Removal::Act => changes.as_slice(),
            Removal::Look => &[],
        };
        for result in self.socket.apply(acts)? {
            match result {
                // It went by itself.
                Err(error) if error.is_not_found() => {}
                result => result?,
            }
        }
        let mut removed = match changes.len() {
            0 => Vec::new(),
            1 => vec![format!("a route of protocol {PROTOCOL}")],
            count => vec![format!("{count} routes of protocol {PROTOCOL}")],
        };
        removed.extend(self.kept.uninstall(&config.run_dir, how)?);
        if refused {
            removed.push(format!("nftables table inet {}", REFUSED_TABLE));
        }
        Ok(removed)
    }
}

/// Sets the metrics of how many routes there are.
fn count(ours: &BTreeSet<Route>, world: &World<'_>) {
    for (family, v6) in [(IpFamily::V4, false), (IpFamily::V6, true)] {
        let of_family = ours.iter().filter(|r| r.destination.is_ipv6() == v6);
        world.metrics.node.set_routes(family, of_family.count());
    }
}

/// Who has which podCIDR, as far as routes in the kernel say it: of several Nodes with one address
/// it is the one that asks for the podCIDR. Those of this node have no next hop.
fn holders(ours: &BTreeSet<Route>, snapshot: &Snapshot, own: &Arc<str>) -> Holders {
    let claims = snapshot.nodes.values().flat_map(|node| {
        let cidrs = node.pod_cidrs.iter();
        cidrs.flat_map(move |cidr| node.internal_ips.iter().map(move |ip| ((*cidr, *ip), node)))
    });
    let claims: BTreeMap<(IpNetwork, IpAddr), &Node> = claims.collect();
    let own = snapshot.nodes.get(own);
    let holder = |route: &Route| {
        let node = match route.gateway {
            Some(gateway) => claims.get(&(route.destination, gateway)).copied(),
            None => own.filter(|own| own.pod_cidrs.contains(&route.destination)),
        };
        Some((route.destination, Arc::clone(&node?.name)))
    };
    ours.iter().filter_map(holder).collect()
}

/// Who had which podCIDR when an agent ran last, as far as it can be found out.
pub fn last_holders(snapshot: &Snapshot, own: &Arc<str>, run_dir: &Path) -> Holders {
    let routes = RouteSocket::open().and_then(|mut socket| socket.routes(RouteFilter::default()));
    let routes = routes.unwrap_or_default().into_iter().map(comparable);
    let ours = routes.filter(|route| route.protocol == PROTOCOL);
    let mut kept = KEPT;
    held_before(&ours.collect(), snapshot, own, kept.observe(run_dir))
}

/// Who had which podCIDR when an agent ran last: whom it wrote down unless the route leads elsewhere
/// now, else who has the address to which the route leads.
fn held_before(
    ours: &BTreeSet<Route>,
    snapshot: &Snapshot,
    own: &Arc<str>,
    kept: &Held,
) -> Holders {
    let mut holders = holders(ours, snapshot, own);
    let hops = ours
        .iter()
        .map(|route| (route.destination, next_hop(route)));
    let hops: BTreeMap<IpNetwork, String> = hops.collect();
    for (cidr, owner) in kept {
        let (Ok(cidr), Some((name, hop))) = (cidr.parse(), owner.split_once(' ')) else {
            continue;
        };
        // An agent that writes nothing down may have run since. With an uplink that is down no route is
        // there.
        let is_so = hops.get(&cidr).is_none_or(|now| now == hop);
        if let Some((name, _)) = snapshot.nodes.get_key_value(name).filter(|_| is_so) {
            holders.insert(cidr, Arc::clone(name));
        }
    }
    holders
}

/// Where a route leads, as a word.
fn next_hop(route: &Route) -> String {
    let gateway = route.gateway.map(|gateway| gateway.to_string());
    gateway.unwrap_or_else(|| "link".to_owned())
}

fn likely<'a>(world: &World<'a>) -> Likely<'a> {
    Likely {
        own: world.snapshot.nodes.get(world.own_name()),
        cluster_cidrs: &world.config.services.cluster_cidrs,
    }
}

fn networks(world: &World<'_>) -> Vec<IpNetwork> {
    let networks = world
        .uplink
        .into_iter()
        .flat_map(|uplink| uplink.networks());
    networks.copied().collect()
}

/// PodCIDRs to which an agent before this one has left a route, and that no Node has any more: their
/// Nodes went meanwhile.
fn forgotten(ours: &BTreeSet<Route>, desired: &Desired) -> Vec<(IpNetwork, String)> {
    ours.iter()
        .filter(|route| route.kind == RouteKind::Unicast && route.table == TABLE_MAIN)
        .filter(|route| route.gateway.is_some() && !desired.wants(route.destination))
        .map(|route| (route.destination, "a Node that has gone".to_owned()))
        .collect()
}

fn is_foreign(route: &Route) -> bool {
    let single = if route.destination.is_ipv6() { 128 } else { 32 };
    route.protocol != PROTOCOL && route.table == TABLE_MAIN && route.destination.prefix() < single
}

/// IPv6 shows an unreachable route on the loopback, where it was not put.
fn comparable(mut route: Route) -> Route {
    if route.kind == RouteKind::Unreachable {
        route.link = None;
    }
    route
}
