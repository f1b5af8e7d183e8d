//! What we believe the kernel holds for the Services of one family, and which Service has what.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Instant;

use podwire_kernel::IpFamily;
use podwire_kernel::nft::CommitError;

use crate::config::services::Config;
use crate::features::parts::log::Logging;
use crate::features::services::desired::claims::{Claimed, Claims};
use crate::features::services::desired::endpoints::{self, Here};
use crate::features::services::desired::externals::Externals;
use crate::features::services::desired::frontends::{self, Claim, Frontend};
use crate::features::services::desired::networks::{self, Networks};
use crate::features::services::desired::plan::{Plan, desired};
use crate::features::services::layout::elements::{Objects, objects};
use crate::features::services::table::delta::{Change, diff};
use crate::features::services::table::standing::Standing;
use crate::snapshot::{Node, ObjectName, Protocol, ServicePort, Snapshot};

/// The cluster as a family's table sees it.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// All objects.
    pub snapshot: &'a Snapshot,
    /// The own Node, if known.
    pub own: Option<&'a Node>,
    /// Where this is.
    pub here: Here<'a>,
    /// The settings.
    pub config: &'a Config,
    /// Whether what is refused is logged.
    pub logging: Logging,
    /// Who may have which external IP.
    pub externals: &'a Externals,
}

impl View<'_> {
    /// The networks of one family.
    pub fn networks(&self, family: IpFamily) -> Networks {
        let View {
            snapshot,
            own,
            config,
            externals,
            ..
        } = self;
        networks::desired(snapshot, *own, config, externals, family)
    }
}

/// A UDP port whose endpoints changed: connections to others must be forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UdpChange {
    /// Where clients send to.
    pub claim: Claim,
    /// Who may answer now.
    pub serving: Box<[endpoints::Backend]>,
}

/// What a sync did.
#[derive(Debug, Default)]
pub struct Done {
    /// Services whose warnings may have changed.
    pub looked_at: BTreeSet<ObjectName>,
    /// Services that the kernel has now.
    pub written: Vec<ObjectName>,
    /// UDP ports whose endpoints changed.
    pub udp: Vec<UdpChange>,
    /// Batches that were sent.
    pub batches: u64,
    /// True if the table was read back and compared.
    pub full: bool,
}

/// What we believe the kernel holds. It is changed after the kernel took a batch, never before.
#[derive(Debug)]
pub struct Applied {
    family: IpFamily,
    claims: Claims,
    plans: HashMap<ObjectName, Plan>,
    refused: BTreeMap<ObjectName, String>,
    /// What Services share, and what waits to be deleted.
    pub standing: Standing,
    /// What the sets of networks hold.
    pub networks: Networks,
    /// When chains that nothing refers to may be deleted.
    pub tidy_at: Option<Instant>,
}

impl Applied {
    /// Nothing yet.
    pub fn nothing(family: IpFamily) -> Applied {
        Applied {
            family,
            claims: Claims::default(),
            plans: HashMap::new(),
            refused: BTreeMap::new(),
            standing: Standing::default(),
            networks: Networks::default(),
            tidy_at: None,
        }
    }

    /// The family.
    pub fn family(&self) -> IpFamily {
        self.family
    }

    /// Forgets everything but the networks and who has what, before the table is read back.
    /// `services` will follow: a map that grows needs twice its memory while it does.
    pub fn forget(&mut self, services: usize) {
        if services == 0 || self.claims.is_empty() {
            self.claims = Claims::with_room(services);
        }
        self.standing = Standing::default();
        self.refused.clear();
        self.tidy_at = None;
        self.plans = HashMap::with_capacity(services);
    }

    /// The UDP ports of addresses of Services that have the number of one of these node ports.
    pub fn beside_node_ports(&self, changes: &[UdpChange]) -> HashSet<Claim> {
        let node_ports = changes.iter().filter_map(|change| match change.claim {
            Claim::NodePort(_, port) => Some(port),
            _ => None,
        });
        let node_ports: BTreeSet<u16> = node_ports.collect();
        if node_ports.is_empty() {
            return HashSet::new();
        }
        let ports = self.plans.values().flat_map(|plan| &plan.ports);
        let udp =
            ports.filter(|port| port.protocol == Protocol::Udp && node_ports.contains(&port.port));
        let claims = udp.flat_map(|port| {
            let fronts = port.frontends.iter();
            fronts.map(|front| Claim::at(front, port.protocol, port.port))
        });
        claims
            .filter(|claim| matches!(claim, Claim::Vip(..)))
            .collect()
    }

    /// What the kernel was made to hold for a Service.
    pub fn plan(&self, name: &ObjectName) -> Option<&Plan> {
        self.plans.get(name)
    }

    /// All Services that the kernel was made to hold.
    pub fn plans(&self) -> impl Iterator<Item = (&ObjectName, &Plan)> {
        self.plans.iter()
    }

    /// Services that the kernel refused, and why.
    pub fn refused(&self) -> &BTreeMap<ObjectName, String> {
        &self.refused
    }

    /// Whose address, port or node port something is.
    pub fn owner(&self, claim: &Claim) -> Option<&ObjectName> {
        self.claims.owner(claim)
    }

    /// Who has what the Service claims in vain, one sentence each, made one by one.
    pub fn conflicts<'a>(&'a self, name: &'a ObjectName) -> impl Iterator<Item = String> {
        self.claims.conflicts(name)
    }

    /// True if a Service has an address of this family.
    pub fn concerns(&self, view: View<'_>, name: &ObjectName) -> bool {
        let service = view.snapshot.services.get(name);
        service.is_some_and(|service| {
            frontends::cluster_ips(service, self.family)
                .next()
                .is_some()
        })
    }

    /// Takes in what the named Services claim now. Returns them with all Services that win or lose
    /// something by it, and those among them that must be written in one batch.
    pub fn reclaim(
        &mut self,
        view: View<'_>,
        mut names: BTreeSet<ObjectName>,
    ) -> (BTreeSet<ObjectName>, BTreeSet<ObjectName>) {
        let mut together = BTreeSet::new();
        let mut touched = BTreeSet::new();
        for name in &names {
            let now = view
                .snapshot
                .services
                .get(name)
                .map(|service| Claimed::of(service, self.family, view.externals))
                .unwrap_or_default();
            let others = self.claims.replace(name, now);
            if !others.is_empty() {
                together.insert(name.clone());
                together.extend(others.iter().cloned());
                touched.extend(others);
            }
        }
        names.extend(touched);
        (names, together)
    }

    /// Takes in what all Services claim. Where not all have an age, those without have it that `held`
    /// says so of: of a port and one of its fronts, and the Service.
    pub fn reclaim_all(
        &mut self,
        view: View<'_>,
        held: impl Fn(&ObjectName, &ServicePort, &Frontend) -> bool,
    ) {
        let services = &view.snapshot.services;
        let gone = self
            .claims
            .names()
            .filter(|name| !services.contains_key(*name));
        let all = services.keys().chain(gone).cloned().collect();
        let known = !self.claims.is_empty();
        self.reclaim(view, all);
        if known {
            return;
        }
        let undecided: BTreeSet<ObjectName> = self.claims.undecided().cloned().collect();
        for service in undecided.iter().filter_map(|name| services.get(name)) {
            for port in frontends::ports(service) {
                for front in frontends::of_port(service, port, self.family) {
                    if held(&service.name, port, &front) {
                        let claim = match front {
                            Frontend::ClusterIp(address) => Claim::ClusterIp(address),
                            front => Claim::of(&front, port),
                        };
                        self.claims.seat(&claim, &service.name);
                    }
                }
            }
        }
        self.claims.settle();
    }

    /// What a Service needs now.
    pub fn wanted(&self, view: View<'_>, name: &ObjectName) -> Option<Plan> {
        let service = view.snapshot.services.get(name)?;
        desired(
            service,
            view.snapshot.slices_of(name),
            self.family,
            view.here,
            view.config.balancing.balancing,
            |claim| self.claims.has(name, claim),
        )
    }

    /// What differs from what was written for a Service; none if nothing does.
    pub fn change(&self, view: View<'_>, name: &ObjectName) -> Option<Change> {
        let before = self.plans.get(name);
        let mut plan = self.wanted(view, name);
        if let (Some(plan), Some(before)) = (&mut plan, before) {
            plan.settle(before);
        }
        if plan.as_ref() == before {
            return None;
        }
        let of = |plan: Option<&Plan>| plan.map_or_else(Objects::default, |p| objects(name, p));
        let delta = diff(of(before), of(plan.as_ref()));
        Some(Change {
            name: name.clone(),
            delta,
            plan,
        })
    }

    /// The kernel holds this now.
    pub fn accept(&mut self, change: Change, done: &mut Done) {
        let before = self.plans.remove(&change.name);
        udp_changes(before.as_ref(), change.plan.as_ref(), &mut done.udp);
        self.refused.remove(&change.name);
        if let Some(plan) = change.plan {
            self.plans.insert(change.name.clone(), plan);
        }
        done.written.push(change.name);
    }

    /// A Service that the kernel does not take. It keeps what it had.
    pub fn refuse(&mut self, name: ObjectName, why: &CommitError) {
        self.refused.insert(name, why.to_string());
    }

    /// A Service is right without a write.
    pub fn is_right(&mut self, name: &ObjectName) {
        self.refused.remove(name);
    }
}

/// The UDP ports that other endpoints serve than before. Also those that have none any longer: a
/// client that goes on sending must learn of it.
fn udp_changes(before: Option<&Plan>, after: Option<&Plan>, changes: &mut Vec<UdpChange>) {
    let answers = |plan: Option<&Plan>| -> BTreeMap<Claim, Box<[endpoints::Backend]>> {
        let ports = plan.into_iter().flat_map(|plan| &plan.ports);
        let udp = ports.filter(|port| port.protocol == Protocol::Udp);
        udp.flat_map(|port| {
            let claim = |front| Claim::at(front, port.protocol, port.port);
            port.frontends
                .iter()
                .map(move |front| (claim(front), port.serving.clone()))
        })
        .collect()
    };
    let (before, mut after) = (answers(before), answers(after));
    for (claim, old) in before {
        let serving = after.remove(&claim).unwrap_or_default();
        if old != serving {
            changes.push(UdpChange { claim, serving });
        }
    }
    changes.extend(
        after
            .into_iter()
            .map(|(claim, serving)| UdpChange { claim, serving }),
    );
}
