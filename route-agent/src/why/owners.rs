//! Which Service has an address or a port, and what the kernel must do for it.
//!
//! The answer comes from the same [`Claims`] and plans as the kernel's table, but only Services
//! that claim something of what is asked for are put into them. The snapshot has no index by
//! address, so a question compares the addresses and node ports of every Service once; claims and
//! plans are made for those few alone, and EndpointSlices are read for the owner alone.

use std::collections::BTreeSet;
use std::net::IpAddr;

use podwire_kernel::IpFamily;

use crate::features::services::desired::claims::{Claimed, Claims};
use crate::features::services::desired::endpoints::Here;
use crate::features::services::desired::externals::Externals;
use crate::features::services::desired::frontends::{self, Claim};
use crate::features::services::desired::plan::{self, Plan};
use crate::snapshot::Service;
use crate::why::facts::Facts;

/// The Service that has what a claim is about.
pub(super) fn owner<'a>(facts: &Facts<'a>, family: IpFamily, claim: Claim) -> Option<&'a Service> {
    let claims = claimants(facts, family, BTreeSet::from([claim]));
    facts.snapshot.services.get(claims.owner(&claim)?)
}

/// What the kernel must do for a Service: what it claims without another Service having it.
pub(super) fn plan(facts: &Facts<'_>, service: &Service, family: IpFamily) -> Option<Plan> {
    let here = Here::of(&facts.config.node_name, facts.snapshot, facts.uplink);
    let name = &service.name;
    let externals = Externals::of(facts.snapshot, facts.config).beside(facts.uplink);
    let claims = claimants(
        facts,
        family,
        frontends::claims(service, family, &externals),
    );
    let slices: Vec<_> = facts.snapshot.slices_of(name).collect();
    let balancing = facts.config.services.balancing.balancing;
    plan::desired(
        service,
        slices.into_iter(),
        family,
        here,
        balancing,
        |claim| claims.has(name, claim),
    )
}

/// The claims of all Services that claim some of what is wanted. Who has what of the rest is not
/// to be read from them.
fn claimants(facts: &Facts<'_>, family: IpFamily, mut wanted: BTreeSet<Claim>) -> Claims {
    let sought = Sought::of(&wanted);
    // Who has an address as ClusterIP has every port of it.
    wanted.extend(sought.addresses.iter().copied().map(Claim::ClusterIp));
    let externals = Externals::of(facts.snapshot, facts.config).beside(facts.uplink);
    let mut claims = Claims::default();
    let services = facts.snapshot.services.values();
    for service in services.filter(|one| sought.is_in(one)) {
        let all = frontends::claims(service, family, &externals);
        if !all.is_disjoint(&wanted) {
            claims.replace(&service.name, Claimed::of(service, family, &externals));
        }
    }
    claims
}

/// What claims are about, without protocols and ports: enough to pass over most Services.
struct Sought {
    addresses: BTreeSet<IpAddr>,
    node_ports: BTreeSet<u16>,
}

impl Sought {
    fn of(claims: &BTreeSet<Claim>) -> Self {
        let mut sought = Self {
            addresses: BTreeSet::new(),
            node_ports: BTreeSet::new(),
        };
        for claim in claims {
            match claim {
                Claim::ClusterIp(address) | Claim::Vip(address, ..) => {
                    sought.addresses.insert(*address);
                }
                Claim::NodePort(_, port) => {
                    sought.node_ports.insert(*port);
                }
            }
        }
        sought
    }

    fn is_in(&self, service: &Service) -> bool {
        let lists = [
            &service.cluster_ips[..],
            &service.external_ips,
            &service.load_balancer_vips,
        ];
        let mut addresses = lists.into_iter().flatten();
        let mut node_ports = service.ports.iter().filter_map(|port| port.node_port);
        addresses.any(|address| self.addresses.contains(address))
            || node_ports.any(|port| self.node_ports.contains(&port))
    }
}
