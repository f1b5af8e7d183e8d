//! What came of the policies: warnings about them, and numbers.

use std::collections::BTreeSet;

use podwire_kernel::IpFamily;

use crate::feature::{Warn, World};
use crate::features::policies::desired::frame::Changed;
use crate::features::policies::desired::model::Model;
use crate::features::policies::desired::wanted::Place;
use crate::metrics::PolicyMetrics;
use crate::snapshot::{Invalid, Key, ObjectName};
use crate::warnings::Warning;

/// Names what could not be read of the objects that changed, or of all.
pub fn warnings(world: &World<'_>, changed: &Changed, all: bool, warn: &mut Warn<'_>) {
    let snapshot = world.snapshot;
    let of_policy = |name: &ObjectName| {
        let policy = snapshot.policies.get(name);
        texts(policy.map_or(&[], |policy| &policy.invalid))
    };
    let of_pod = |name: &ObjectName| {
        let pod = snapshot.pods.get(name);
        texts(pod.map_or(&[], |pod| &pod.invalid))
    };
    if all {
        let policies = snapshot.policies.keys();
        let policies = policies.map(|name| (Key::NetworkPolicy(name.clone()), of_policy(name)));
        let pods = snapshot.pods.values().filter(|pod| !pod.invalid.is_empty());
        let pods = pods.map(|pod| (Key::Pod(pod.name.clone()), of_pod(&pod.name)));
        warn.replace(policies.chain(pods).flat_map(|(key, texts)| {
            let texts = texts.into_iter();
            texts.map(move |text| Warning::new(key.to_string(), text))
        }));
        return;
    }
    for name in &changed.policies {
        let key = Key::NetworkPolicy(name.clone());
        warn.replace_for(&key.to_string(), of_policy(name));
    }
    for name in &changed.pods {
        let key = Key::Pod(name.clone());
        warn.replace_for(&key.to_string(), of_pod(name));
    }
}

/// Sets the numbers that Prometheus reads.
pub fn numbers<'a>(metrics: &PolicyMetrics, sides: impl Iterator<Item = Numbers<'a>>) {
    let (mut here, mut isolated) = (BTreeSet::new(), BTreeSet::new());
    for Numbers {
        family,
        model,
        losses,
    } in sides
    {
        metrics.set_losses(family, losses);
        let Some(model) = model else {
            metrics.set_table(family, 0, 0);
            continue;
        };
        metrics.set_table(family, model.classes().len(), model.wanted().len());
        for (pod, address, policies) in model.locals() {
            here.extend(policies);
            if model.wanted().has(&Place::Isolated(address)) {
                isolated.insert(pod);
            }
        }
    }
    metrics.set_node(here.len(), isolated.len());
}

/// What is counted of one family.
pub struct Numbers<'a> {
    /// The family.
    pub family: IpFamily,
    /// None while there is no table.
    pub model: Option<&'a Model>,
    /// How often verdicts were forgotten because something was taken away.
    pub losses: u64,
}

/// One sentence each, with what to do.
fn texts(invalid: &[Invalid]) -> Vec<String> {
    let texts = invalid.iter().map(|one| format!("{one}; correct it"));
    texts.collect()
}
