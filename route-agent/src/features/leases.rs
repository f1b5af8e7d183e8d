//! Addresses of pods whose link is gone are given back.
//!
//! In: the plugin's lease files, the links and routes of this node. Out: leases without a sign of
//! life ([`signs_of_life`]) are released after a grace period, under the plugin's lock, and what the
//! kernel knows of their connections goes before. If the plugin is at work the loop does not wait but
//! comes back.
//!
//! On a node where another plugin gave out addresses before, those that a pod still has are leased
//! before the first pod of ours starts ([`adopted`]), so that no other pod gets them. They
//! are given back like every lease without a sign of life.

mod adopted;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use ipnetwork::IpNetwork;
use podwire::attachment::{Alias, LINK_GROUP, host_link_name};
use podwire::lease::{self, Lease, Owner, Released, Unreadable};
use podwire_kernel::RouteSocket;
use podwire_kernel::conntrack::Conntrack;
use podwire_kernel::link::Link;

use crate::config::Config;
use crate::feature::{Event, Feature, KernelEvent, SyncError, Synced, Warn, World};
use crate::features::parts::signs_of_life::{Attachment, CALM, Missing, lifeless};
use crate::files;
use crate::ours::{NETWORK, Removal};
use crate::report::{PodReport, Report};
use crate::text::some_of;
use crate::warnings::Warning;

/// So many addresses are named in one warning.
const NAMED: usize = 8;

/// The feature.
#[derive(Debug)]
pub struct Leases {
    socket: RouteSocket,
    missing: Missing<Key>,
    due: Option<Instant>,
    /// Addresses given out by an earlier plugin have been looked for.
    adopted: bool,
}

impl Leases {
    /// Works in the network namespace of the calling thread.
    pub fn open() -> podwire_kernel::Result<Self> {
        Ok(Self {
            socket: RouteSocket::open()?,
            missing: Missing::default(),
            due: None,
            adopted: false,
        })
    }

    /// Leases the addresses that pods of an earlier plugin have; the number of them.
    fn adopt(&mut self, world: &World<'_>, directory: &Path) -> Result<usize, SyncError> {
        // Also of one that is left out now: it may count later, and then its pods are not looked for again.
        let cidrs = world.own_node().map(|own| own.pod_cidrs.as_slice());
        let cidrs = cidrs.filter(|cidrs| !cidrs.is_empty());
        let Some(cidrs) = cidrs.filter(|_| !self.adopted) else {
            return Ok(0);
        };
        let count = adopted::adopt(&mut self.socket, cidrs, directory)?;
        self.adopted = true;
        Ok(count)
    }

    /// Those of `leases` that have shown no sign of life for the grace period.
    fn lost<'a>(
        &mut self,
        leases: &'a [Lease],
        links: &[Link],
        grace: Duration,
    ) -> podwire_kernel::Result<Vec<&'a Lease>> {
        let attachments = leases.iter().map(|lease| {
            let attachment = Attachment {
                container_id: &lease.owner.container_id,
                ifname: lease.owner.likely_ifname(),
                addresses: std::slice::from_ref(&lease.address),
            };
            (key(lease), attachment)
        });
        let missing = lifeless(&mut self.socket, links, attachments)?;
        let lost = self.missing.update(missing, Instant::now(), grace);
        let is_lost = |lease: &&Lease| lost.contains(&key(lease));
        Ok(leases.iter().filter(is_lost).collect())
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

    fn notice(&mut self, event: &Event<'_>, world: &World<'_>) -> bool {
        match event {
            Event::Resync => true,
            // The podCIDR may be known now, or another one.
            Event::Objects(dirty) => dirty.concerns_own_pod_cidrs(world.own_name()),
            // It decides which of them count.
            Event::Uplink => true,
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

    fn sync(&mut self, world: &World<'_>, warn: &mut Warn<'_>) -> Result<Synced, SyncError> {
        self.due = None;
        let grace = world.config.lease_grace;
        let directory = world.config.lease_dir().join(NETWORK);
        let adopted = self.adopt(world, &directory)?;
        let (leases, unreadable) = lease::read_all(&directory)?;
        let links = self.socket.links()?;
        let lost = self.lost(&leases, &links, grace)?;
        let outside = outside(leases.iter().filter(|one| !lost.contains(one)), world);
        warn.replace(unreadable.iter().map(warning).chain(outside));
        self.due = self.missing.due(Instant::now(), grace);
        let released = if lost.is_empty() {
            Released::default()
        } else {
            let mut part = |leases: &[&Lease]| {
                if world.config.network_policy && !leases.is_empty() {
                    forget_connections(leases);
                }
            };
            lease::try_release(&directory, &lost, &mut part)?.unwrap_or_default()
        };
        let Released {
            leases: released,
            failure,
        } = released;
        for lease in &released {
            let container_id = &lease.owner.container_id;
            tracing::info!(address = %lease.address, container_id, "released a lost lease");
        }
        let pods = links.iter().filter(|link| link.group == LINK_GROUP).count();
        let node = &world.metrics.node;
        node.set_leases(leases.len() - released.len());
        node.set_attachments(pods);
        node.set_leases_without_link(self.missing.count().saturating_sub(released.len()));
        let done = Synced {
            writes: (adopted + released.len()) as u64,
            again: false,
        };
        failure.map_or(Ok(done), |failure| Err(failure.into()))
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

    fn uninstall(&mut self, config: &Config, how: Removal) -> Result<Vec<String>, SyncError> {
        let directory = config.lease_dir();
        let removed = files::uninstall_tree(&directory, how)?;
        let what = removed.then(|| format!("leases in {}", directory.display()));
        Ok(what.into_iter().collect())
    }
}

/// Forgets the connections of pods that went without DEL, before another can get their addresses: see
/// [`podwire::policy::forget_connections`]. It is rare enough for the loop to wait for it.
fn forget_connections(leases: &[&Lease]) {
    let addresses = leases.iter().map(|lease| lease.address).collect();
    let forgotten =
        Conntrack::open().and_then(|mut conntrack| conntrack.delete_addresses(&addresses, None));
    if let Err(error) = forgotten {
        tracing::warn!(%error, "connections of pods that are gone may linger");
    }
}

/// An address that counts as taken because what has its name is not a lease.
fn warning(unreadable: &Unreadable) -> Warning {
    let Unreadable {
        path,
        address,
        reason,
    } = unreadable;
    let text = format!(
        "{} does not say who has {address} ({reason}), so no pod gets it; remove the file if no pod has \
         the address",
        path.display()
    );
    Warning::new(format!("address {address}"), text)
}

/// The pods of this node to which no other node has a route.
fn outside<'a>(leases: impl Iterator<Item = &'a Lease>, world: &World<'_>) -> Option<Warning> {
    let own = world.own_node().filter(|_| world.config.cni_conf)?;
    if own.pod_cidrs.is_empty() {
        return None;
    }
    let cidrs = world.own_pod_cidrs();
    let left_out = own.pod_cidrs.iter().filter(|one| !cidrs.contains(one));
    let left_out: Vec<bool> = left_out.map(IpNetwork::is_ipv6).collect();
    // Of a family of which one is left out that is said, and the pods are not what is to be mended.
    let is_outside = |address: &IpAddr| {
        !left_out.contains(&address.is_ipv6()) && !cidrs.iter().any(|one| one.contains(*address))
    };
    let addresses = leases.map(|lease| lease.address);
    let mut addresses: Vec<IpAddr> = addresses.filter(is_outside).collect();
    addresses.sort_unstable();
    if addresses.is_empty() {
        return None;
    }
    let named = some_of(&addresses, NAMED, ", ");
    let text = format!(
        "pods of this node have addresses outside its podCIDRs ({named}): other nodes do not reach them; \
         delete these pods, and what owns them makes them again with others"
    );
    Some(Warning::new(format!("Node {}", own.name), text))
}

/// Links and leases, put together by attachment and sorted by address.
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
                mtu: Some(link.mtu),
                present: true,
            },
        );
    }
    for lease in leases {
        let container_id = &lease.owner.container_id;
        let ifname = lease.owner.likely_ifname();
        // Its link has another name; the lease goes once its route is gone.
        let is_adopted = lease.owner.is_adopted();
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
            mtu: None,
            present: is_adopted,
        });
        // A link whose alias was taken away does not say whose it is.
        if pod.container_id.is_empty() {
            pod.container_id.clone_from(container_id);
            ifname.clone_into(&mut pod.ifname);
        }
        pod.addresses.push(lease.address);
    }
    let mut pods: Vec<_> = pods.into_values().collect();
    pods.sort_unstable_by(|one, other| {
        (&one.addresses, &one.link).cmp(&(&other.addresses, &other.link))
    });
    pods
}

/// What tells leases apart: one that was written again is another one. How old that makes it is not
/// asked, as clocks are set.
type Key = (IpAddr, Owner, SystemTime);

fn key(lease: &Lease) -> Key {
    (lease.address, lease.owner.clone(), lease.since)
}

#[cfg(test)]
mod tests;
