//! What the agent decides about objects, whatever is in them.

use podwire_agent::features::services::desired::endpoints::{self, Here};
use podwire_agent::features::services::desired::externals::Externals;
use podwire_agent::features::services::desired::{frontends, networks, plan};
use podwire_agent::snapshot::{Balancing, Change, Dirty, Object, Snapshot};
use podwire_kernel::IpFamily;

use crate::cluster::{self, CONFIG, NODE};

/// Decides what follows from the objects, and takes them away again.
pub fn check(objects: Vec<Object>) {
    if objects.is_empty() {
        return;
    }
    let keys: Vec<_> = objects.iter().map(Object::key).collect();
    for key in &keys {
        // It goes into the log as it is.
        let name = key.to_string();
        assert!(!name.contains(char::is_control), "{name:?}");
    }
    let mut snapshot = cluster::of(objects);
    decide(&snapshot);
    for key in keys {
        let _ = snapshot.apply(Change::Gone(key), &mut Dirty::default());
    }
    assert!(snapshot.is_empty(), "{snapshot:?}");
}

fn decide(snapshot: &Snapshot) {
    let here = Here::of(NODE, snapshot);
    let externals = Externals::of(snapshot, &CONFIG);
    for family in [IpFamily::V4, IpFamily::V6] {
        let _ = networks::desired(snapshot, snapshot.nodes.get(NODE), &CONFIG.services, family);
        for (name, service) in &snapshot.services {
            let claims = frontends::claims(service, family, |ip| externals.refuses(ip).is_some());
            let slices: Vec<_> = snapshot.slices_of(name).collect();
            let balancing = Balancing::Random;
            let granted = |claim: &frontends::Claim| claims.contains(claim);
            let plan = plan::desired(
                service,
                slices.iter().copied(),
                family,
                here,
                balancing,
                granted,
            );
            let Some(mut plan) = plan else {
                continue;
            };
            assert!(plan.ports.iter().all(|port| port.port > 0), "{plan:?}");
            // Each endpoint stays where it was.
            let before = plan.clone();
            plan.settle(&before);
            assert_eq!(plan, before);
        }
    }
    for service in snapshot.services.values() {
        let _ = frontends::warnings(service);
        let _ = externals.warnings(service);
    }
    for slice in snapshot.slices.values() {
        let _ = endpoints::warnings(slice);
    }
}
