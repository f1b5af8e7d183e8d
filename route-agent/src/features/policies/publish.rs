//! What came of the policies: warnings about them, and numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use podwire_kernel::IpFamily;

use crate::feature::{Warn, World};
use crate::features::policies::desired::attachments::Attachments;
use crate::features::policies::desired::frame::{Changed, policies};
use crate::features::policies::desired::model::Model;
use crate::features::policies::desired::wanted::Place;
use crate::features::policies::review::Review;
use crate::metrics::PolicyMetrics;
use crate::snapshot::{Invalid, Key, ObjectName, PolicyName, Snapshot};
use crate::warnings::Warning;

/// So many addresses with several owners are named, and so many Namespaces that are not known.
const NAMED: usize = 100;
/// So many pods of each.
const NAMED_PODS: usize = 5;

/// Names what could not be read of the objects that changed, or of all, and what may be a mistake.
pub fn warnings(
    world: &World<'_>,
    changed: &Changed,
    all: bool,
    review: &Review,
    unsure: &mut Unsure,
    warn: &mut Warn<'_>,
) {
    let snapshot = world.snapshot;
    let of_policy = |name: &PolicyName| {
        let invalid: Option<&[Invalid]> = match name {
            PolicyName::Namespaced(name) => {
                let policy = snapshot.policies.get(name);
                policy.map(|policy| &*policy.invalid)
            }
            PolicyName::Cluster(name) => {
                let policy = snapshot.cluster_policies.get(name);
                policy.map(|policy| &*policy.invalid)
            }
        };
        let mut texts = texts(invalid.unwrap_or_default());
        texts.extend(review.of(name).iter().cloned());
        texts
    };
    let of_pod = |name: &ObjectName| {
        let pod = snapshot.pods.get(name);
        texts(pod.map_or(&[], |pod| &pod.invalid))
    };
    if all {
        let policies = policies(snapshot).map(|name| (key_of(&name), of_policy(&name)));
        let pods = snapshot.pods.values().filter(|pod| !pod.invalid.is_empty());
        let pods = pods.map(|pod| (Key::Pod(pod.name.clone()), of_pod(&pod.name)));
        let of_objects = policies.chain(pods).flat_map(|(key, texts)| {
            let texts = texts.into_iter();
            texts.map(move |text| Warning::new(key.to_string(), text))
        });
        warn.replace(of_objects.chain(unsure.warnings()));
        return;
    }
    unsure.tell(warn);
    for name in &changed.policies {
        let key = key_of(name);
        warn.replace_for(&key.to_string(), of_policy(name));
    }
    for name in &changed.pods {
        let key = Key::Pod(name.clone());
        warn.replace_for(&key.to_string(), of_pod(name));
    }
}

/// What is not sure of pods, by the objects in question: addresses that several claim with the same reason,
/// and Namespaces whose labels would decide.
#[derive(Debug, Default)]
pub struct Unsure {
    now: BTreeMap<String, String>,
    /// Of which something else is to be said than before.
    changed: BTreeSet<String>,
}

impl Unsure {
    /// Finds out what it is.
    pub fn look<'a>(
        &mut self,
        models: impl Iterator<Item = &'a Model> + Clone,
        snapshot: &'a Snapshot,
        attachments: &'a Attachments,
    ) {
        let contested = models.clone();
        let contested = contested.flat_map(|model| model.contested(snapshot, attachments));
        let mut now: BTreeMap<String, String> = contested
            .take(NAMED)
            .map(|(address, owner, others)| {
                let text = contest(&owner.name, others.iter().map(|pod| &pod.name));
                (format!("address {address}"), text)
            })
            .collect();
        let mut bare: BTreeMap<&Arc<str>, BTreeSet<&ObjectName>> = BTreeMap::new();
        for pod in models.flat_map(Model::in_doubt) {
            bare.entry(&pod.namespace).or_default().insert(pod);
        }
        let bare = bare.into_iter().take(NAMED);
        now.extend(bare.map(|(namespace, pods)| {
            let key = Key::Namespace(namespace.clone());
            (key.to_string(), doubt(pods.into_iter()))
        }));
        let before = std::mem::replace(&mut self.now, now);
        let objects = before.keys().chain(self.now.keys());
        let changed = objects.filter(|object| before.get(*object) != self.now.get(*object));
        self.changed = changed.cloned().collect();
    }

    fn warnings(&self) -> impl Iterator<Item = Warning> {
        let all = self.now.iter();
        all.map(|(object, text)| Warning::new(object.clone(), text))
    }

    fn tell(&mut self, warn: &mut Warn<'_>) {
        for object in std::mem::take(&mut self.changed) {
            warn.replace_for(&object, self.now.get(&object).cloned());
        }
    }
}

/// What is said of an address that several pods claim.
fn contest<'a>(
    owner: &ObjectName,
    others: impl ExactSizeIterator<Item = &'a ObjectName>,
) -> String {
    let names = some(others);
    format!(
        "belongs to Pod {owner} and is claimed by {names} as well: policies take it for that of {owner}; \
         correct the others"
    )
}

/// What is said of a Namespace that is not known, with pods in doubt.
fn doubt<'a>(pods: impl ExactSizeIterator<Item = &'a ObjectName>) -> String {
    let names = some(pods);
    format!(
        "is not known, and its labels would tell which ClusterNetworkPolicies select {names}: closed until \
         it is; create it again, or delete what is left in it"
    )
}

fn some<'a>(pods: impl ExactSizeIterator<Item = &'a ObjectName>) -> String {
    let all = pods.len();
    let mut names: Vec<String> = pods
        .take(NAMED_PODS)
        .map(|pod| format!("Pod {pod}"))
        .collect();
    if all > NAMED_PODS {
        names.push(format!("{} more", all - NAMED_PODS));
    }
    names.join(", ")
}

fn key_of(policy: &PolicyName) -> Key {
    match policy {
        PolicyName::Namespaced(name) => Key::NetworkPolicy(name.clone()),
        PolicyName::Cluster(name) => Key::ClusterNetworkPolicy(name.clone()),
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
