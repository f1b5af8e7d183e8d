//! Which questions a pod may answer with yes, without asking all of them.
//!
//! Most selectors ask for one value of a label, so the questions are found by the labels of a pod and
//! of its Namespace.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::atom::Atom;
use crate::snapshot::{NAME_LABEL, Pod, Selector, Snapshot};

/// Questions about pods, each with a number.
#[derive(Debug, Default)]
pub struct PodIndex {
    here: HashMap<Arc<str>, Bucket>,
    everywhere: Bucket,
}

impl PodIndex {
    /// One question more, if it is about pods.
    pub fn insert(&mut self, atom: &Atom, id: u32) {
        let Some(asked) = Asked::by(atom) else {
            return;
        };
        match asked.here {
            Some(namespace) => self.here.entry(namespace.clone()).or_default(),
            None => &mut self.everywhere,
        }
        .insert(&asked, id);
    }

    /// One question less.
    pub fn remove(&mut self, atom: &Atom, id: u32) {
        let Some(asked) = Asked::by(atom) else {
            return;
        };
        let Some(namespace) = asked.here else {
            return self.everywhere.remove(&asked, id);
        };
        if let Some(bucket) = self.here.get_mut(namespace) {
            bucket.remove(&asked, id);
            if bucket.is_empty() {
                self.here.remove(namespace);
            }
        }
    }

    /// Those that a pod may answer with yes.
    pub fn candidates<'a>(
        &'a self,
        pod: &'a Pod,
        snapshot: &'a Snapshot,
    ) -> impl Iterator<Item = u32> + 'a {
        let here = self.here.get(&pod.name.namespace).into_iter();
        let buckets = here.chain([&self.everywhere]);
        buckets.flat_map(|bucket| bucket.candidates(pod, snapshot))
    }
}

/// What a question asks for, as far as it can be found by it.
#[derive(Default)]
struct Asked<'a> {
    here: Option<&'a Arc<str>>,
    pods: Option<&'a Selector>,
    namespaces: Option<&'a Selector>,
}

impl<'a> Asked<'a> {
    /// None for questions that no pod answers with yes by itself.
    fn by(atom: &'a Atom) -> Option<Self> {
        let asked = match atom {
            Atom::Pod => Self::default(),
            Atom::Here { namespace, pods } => Self {
                here: Some(namespace),
                pods: Some(pods),
                namespaces: None,
            },
            Atom::Elsewhere { namespaces, pods } => Self {
                here: None,
                pods: Some(pods),
                namespaces: Some(namespaces),
            },
            Atom::Anywhere(set) => Self {
                here: None,
                pods: Some(&set.pods),
                // In doubt are pods of Namespaces without known labels.
                namespaces: (!set.in_doubt).then_some(&set.namespaces),
            },
            Atom::Nodes(_) | Atom::Block(_) | Atom::Any(_) => return None,
        };
        Some(asked)
    }

    /// The labels each of which must have one of these values.
    fn labels(&self) -> impl Iterator<Item = (Of, &'a Arc<str>, &'a [Arc<str>])> {
        let each = [(Of::Pod, self.pods), (Of::Namespace, self.namespaces)];
        each.into_iter().flat_map(|(of, selector)| {
            let required = selector.into_iter().flat_map(Selector::required);
            required.map(move |(label, values)| (of, label, values))
        })
    }
}

/// Whose label it is.
#[derive(Debug, Clone, Copy)]
enum Of {
    Pod,
    Namespace,
}

/// Questions about pods of one namespace, or of all: each under one of the labels without which the
/// answer is no.
#[derive(Debug, Default)]
struct Bucket {
    of_pods: ByLabel,
    of_namespaces: ByLabel,
    others: BTreeSet<u32>,
}

impl Bucket {
    /// Under the label by which it is found with the fewest others. Thousands of questions may have all
    /// labels but one in common.
    fn insert(&mut self, asked: &Asked<'_>, id: u32) {
        let cost = |(of, label, values): &(Of, &Arc<str>, &[Arc<str>])| {
            let beside = |value| self.by(*of).at(label, value).map_or(0, BTreeSet::len);
            values.iter().map(|one| beside(one)).max().unwrap_or(0) + values.len()
        };
        match asked.labels().min_by_key(cost) {
            Some((of, label, values)) => self.by_mut(of).insert(label, values, id),
            None => _ = self.others.insert(id),
        }
    }

    fn remove(&mut self, asked: &Asked<'_>, id: u32) {
        // It is under one of them; which one depended on the others that were there.
        for (of, label, values) in asked.labels() {
            self.by_mut(of).remove(label, values, id);
        }
        self.others.remove(&id);
    }

    fn candidates<'a>(
        &'a self,
        pod: &'a Pod,
        snapshot: &'a Snapshot,
    ) -> impl Iterator<Item = u32> + 'a {
        let namespace = &pod.name.namespace;
        let known = snapshot.namespaces.get(namespace);
        // Of one that is not known its name is.
        let name = known.is_none().then_some((NAME_LABEL, &**namespace));
        let labels = known.into_iter().flat_map(|one| one.labels.iter());
        let found = self.of_pods.with(pod.labels.iter());
        let found = found.chain(self.of_namespaces.with(labels.chain(name)));
        found.chain(self.others.iter().copied())
    }

    fn by(&self, of: Of) -> &ByLabel {
        match of {
            Of::Pod => &self.of_pods,
            Of::Namespace => &self.of_namespaces,
        }
    }

    fn by_mut(&mut self, of: Of) -> &mut ByLabel {
        match of {
            Of::Pod => &mut self.of_pods,
            Of::Namespace => &mut self.of_namespaces,
        }
    }

    fn is_empty(&self) -> bool {
        self.of_pods.0.is_empty() && self.of_namespaces.0.is_empty() && self.others.is_empty()
    }
}

/// Questions by a label, and by its value.
#[derive(Debug, Default)]
struct ByLabel(HashMap<Arc<str>, HashMap<Arc<str>, BTreeSet<u32>>>);

impl ByLabel {
    fn at(&self, label: &str, value: &str) -> Option<&BTreeSet<u32>> {
        self.0.get(label)?.get(value)
    }

    fn insert(&mut self, label: &Arc<str>, values: &[Arc<str>], id: u32) {
        for value in values {
            let by_value = self.0.entry(label.clone()).or_default();
            by_value.entry(value.clone()).or_default().insert(id);
        }
    }

    fn remove(&mut self, label: &Arc<str>, values: &[Arc<str>], id: u32) {
        let Some(by_value) = self.0.get_mut(label) else {
            return;
        };
        for value in values {
            if let Some(ids) = by_value.get_mut(value) {
                ids.remove(&id);
                if ids.is_empty() {
                    by_value.remove(value);
                }
            }
        }
        if by_value.is_empty() {
            self.0.remove(label);
        }
    }

    fn with<'a>(
        &'a self,
        labels: impl Iterator<Item = (&'a str, &'a str)> + 'a,
    ) -> impl Iterator<Item = u32> + 'a {
        let found = labels.filter_map(|(label, value)| self.at(label, value));
        found.flatten().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::policies::desired::samples::{Cluster, labels, name, namespace, pod};
    use crate::snapshot::{Condition, PodSet, Requirement};

    const MANY: u32 = 500;

    /// For `app=web tier=a`; a label that begins with `!` must be absent.
    fn selector(text: &str) -> Selector {
        let requirements = text
            .split_whitespace()
            .map(|one| match one.split_once('=') {
                Some((key, value)) => Requirement {
                    key: Arc::from(key),
                    condition: Condition::In([Arc::from(value)].into()),
                },
                None => Requirement {
                    key: Arc::from(one.trim_start_matches('!')),
                    condition: Condition::Absent,
                },
            });
        Selector::new(requirements.collect())
    }

    fn here(pods: &str) -> Atom {
        Atom::Here {
            namespace: Arc::from("a"),
            pods: selector(pods),
        }
    }

    fn elsewhere(namespaces: &str, pods: &str) -> Atom {
        Atom::Elsewhere {
            namespaces: selector(namespaces),
            pods: selector(pods),
        }
    }

    fn anywhere(namespaces: &str, in_doubt: bool) -> Atom {
        Atom::Anywhere(PodSet {
            namespaces: selector(namespaces),
            pods: Selector::default(),
            in_doubt,
        })
    }

    fn index(atoms: &[Atom]) -> PodIndex {
        let mut index = PodIndex::default();
        for (id, atom) in (0..).zip(atoms) {
            index.insert(atom, id);
        }
        index
    }

    /// A pod of a Namespace that is known, and one of one that is not.
    fn cluster(of_pod: &str) -> Cluster {
        let mut ns = namespace("a", "");
        ns["metadata"]["labels"] = labels("kubernetes.io/metadata.name=a stage=s7");
        let (one, two) = (
            pod("a/p", "worker", 2, of_pod),
            pod("b/p", "worker", 3, of_pod),
        );
        Cluster::of(&[ns, one, two])
    }

    fn found(atoms: &[Atom], cluster: &Cluster, of: &str) -> usize {
        let snapshot = &cluster.snapshot;
        index(atoms)
            .candidates(&snapshot.pods[&name(of)], snapshot)
            .count()
    }

    #[test]
    fn of_labels_that_all_ask_for_and_one_that_few_do_the_latter_finds_them() {
        let cluster = cluster("app=web shard=s7");
        for atoms in [
            (0..MANY)
                .map(|one| here(&format!("app=web shard=s{one}")))
                .collect::<Vec<_>>(),
            (0..MANY)
                .map(|one| elsewhere("", &format!("app=web shard=s{one}")))
                .collect(),
            (0..MANY)
                .map(|one| elsewhere(&format!("stage=s{one}"), "app=web"))
                .collect(),
            (0..MANY)
                .map(|one| elsewhere(&format!("stage=s{one}"), ""))
                .collect(),
            (0..MANY)
                .map(|one| anywhere(&format!("stage=s{one}"), false))
                .collect(),
        ] {
            let asked = found(&atoms, &cluster, "a/p");
            assert!((1..=2).contains(&asked), "{asked} of {}", atoms[0]);
        }
    }

    #[test]
    fn none_is_missed_that_is_answered_with_yes() {
        let cluster = cluster("app=web shard=s7");
        let atoms = [
            Atom::Pod,
            here(""),
            here("app=web !x"),
            here("app=db"),
            elsewhere("stage=s7", "app=web"),
            elsewhere("stage=s8", "app=web"),
            elsewhere("!x", ""),
            anywhere("kubernetes.io/metadata.name=b", false),
            anywhere("stage=s7", false),
            anywhere("stage=s7", true),
            anywhere("", false),
        ];
        let index = index(&atoms);
        let snapshot = &cluster.snapshot;
        for pod in snapshot.pods.values() {
            let asked: BTreeSet<u32> = index.candidates(pod, snapshot).collect();
            for (id, atom) in (0..).zip(&atoms) {
                assert!(
                    asked.contains(&id) || !atom.selects(pod, snapshot),
                    "{atom}: {pod:?}"
                );
            }
        }
        let of_b = &snapshot.pods[&name("b/p")];
        assert!(atoms[7].selects(of_b, snapshot) && atoms[9].selects(of_b, snapshot));
    }

    #[test]
    fn nothing_is_left_of_questions_that_went_in_whatever_order() {
        let atoms: Vec<Atom> = (0..20)
            .map(|one| here(&format!("app=web shard=s{}", one % 3)))
            .chain((0..20).map(|one| elsewhere(&format!("stage=s{one}"), "app=web")))
            .chain([Atom::Pod, here(""), anywhere("stage=s7", true)])
            .collect();
        let mut index = index(&atoms);
        let all = || (0..).zip(&atoms);
        for (id, atom) in all().skip(1).step_by(2).chain(all().step_by(2)) {
            index.remove(atom, id);
        }
        assert!(
            index.here.is_empty() && index.everywhere.is_empty(),
            "{index:?}"
        );
    }
}
