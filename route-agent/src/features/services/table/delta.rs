//! What must be written to get from one state of a Service to another.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::features::services::desired::plan::Plan;
use crate::features::services::layout::answers::Answer;
use crate::features::services::layout::elements::{Element, Objects, OwnChainSpec};
use crate::features::services::layout::names::{AffinityMap, OwnChain};
use crate::snapshot::ObjectName;

/// The difference between two states of one Service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delta {
    /// Elements to delete.
    pub remove: Vec<Element>,
    /// Elements to add, after the deletions.
    pub add: Vec<Element>,
    /// Maps to create.
    pub new_maps: Vec<AffinityMap>,
    /// Maps to delete when nothing refers to them any longer.
    pub old_maps: Vec<AffinityMap>,
    /// Chains to create, or to fill with other rules.
    pub new_chains: Vec<OwnChainSpec>,
    /// Chains to delete when nothing refers to them any longer.
    pub old_chains: Vec<OwnChain>,
    /// What its portals answer from now on.
    pub answers_gained: Vec<Answer>,
    /// What they do not answer any longer.
    pub answers_lost: Vec<Answer>,
    /// Endpoints of this node that it has from now on.
    pub local_gained: Vec<IpAddr>,
    /// Endpoints of this node that it does not have any longer.
    pub local_lost: Vec<IpAddr>,
}

impl Delta {
    /// True if nothing differs.
    pub fn is_empty(&self) -> bool {
        *self == Delta::default()
    }

    /// How many elements are written.
    pub fn len(&self) -> usize {
        self.remove.len() + self.add.len()
    }
}

/// What is to be written for one Service.
#[derive(Debug, Clone)]
pub struct Change {
    /// The Service.
    pub name: ObjectName,
    /// What differs in the kernel.
    pub delta: Delta,
    /// What the Service is afterwards; none if it is gone.
    pub plan: Option<Plan>,
}

/// What must be written to get from `before` to `after`.
pub fn diff(before: Objects, after: Objects) -> Delta {
    let mut delta = Delta::default();
    diff_elements(before.elements, after.elements, &mut delta);
    delta.new_maps = after.maps.difference(&before.maps).copied().collect();
    delta.old_maps = before.maps.difference(&after.maps).copied().collect();
    delta.new_chains = after.chains.difference(&before.chains).copied().collect();
    let kept: BTreeSet<OwnChain> = after.chains.iter().map(|spec| spec.chain).collect();
    let chains = before.chains.iter().map(|spec| spec.chain);
    delta.old_chains = chains.filter(|chain| !kept.contains(chain)).collect();
    delta.answers_gained = after.answers.difference(&before.answers).copied().collect();
    delta.answers_lost = before.answers.difference(&after.answers).copied().collect();
    delta.local_gained = after.local.difference(&before.local).copied().collect();
    delta.local_lost = before.local.difference(&after.local).copied().collect();
    delta
}

/// Both lists are sorted, so one pass is enough. Elements of maps that go with their Service port
/// need not be deleted, but doing so is simpler than knowing it, and such maps are few.
fn diff_elements(before: Vec<Element>, after: Vec<Element>, delta: &mut Delta) {
    let mut before = before.into_iter().peekable();
    let mut after = after.into_iter().peekable();
    loop {
        match (before.peek(), after.peek()) {
            (None, None) => return,
            (Some(old), Some(new)) if old == new => {
                before.next();
                after.next();
            }
            (Some(old), Some(new)) if old < new => delta.remove.extend(before.next()),
            (Some(_), None) => delta.remove.extend(before.next()),
            (_, Some(_)) => delta.add.extend(after.next()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::services::desired::plan::desired;
    use crate::features::services::desired::samples::{HERE, SLICE, object, service, slice};
    use crate::features::services::layout::elements::objects;
    use crate::snapshot::Balancing;
    use podwire_kernel::IpFamily;

    fn state(text: &str, endpoints: &str, before: Option<&Plan>) -> (Plan, Objects) {
        let slices = [slice(SLICE, endpoints)];
        let service = service(text);
        let mut plan = desired(
            &service,
            slices.iter(),
            IpFamily::V4,
            HERE,
            Balancing::Random,
            |_| true,
        )
        .unwrap();
        if let Some(before) = before {
            plan.settle(before);
        }
        let objects = objects(&object("web"), &plan);
        (plan, objects)
    }

    const TEXT: &str = "cluster-ip 10.200.1.63; port tcp 80";

    #[test]
    fn nothing_differs_from_itself() {
        for text in [TEXT, "cluster-ip 10.200.1.63; port tcp 80; affinity 60"] {
            let (_, objects) = state(text, "10.10.1.3@worker 10.10.2.4", None);
            assert!(diff(objects.clone(), objects).is_empty());
        }
    }

    #[test]
    fn a_replaced_endpoint_is_one_element() {
        let (plan, before) = state(TEXT, "10.10.1.3 10.10.2.4 10.10.3.3", None);
        let (_, after) = state(TEXT, "10.10.1.3 10.10.0.1 10.10.3.3", Some(&plan));
        let delta = diff(before, after);
        assert_eq!((delta.remove.len(), delta.add.len()), (1, 1));
        assert!(delta.answers_gained.is_empty() && delta.answers_lost.is_empty());
    }

    #[test]
    fn one_endpoint_more_is_one_element_and_another_answer() {
        let (plan, before) = state(TEXT, "10.10.1.3 10.10.2.4", None);
        let (_, after) = state(TEXT, "10.10.1.3 10.10.0.1 10.10.2.4", Some(&plan));
        let delta = diff(before, after);
        // The endpoint, and the Service's answer.
        assert_eq!((delta.remove.len(), delta.add.len()), (1, 2));
        assert_eq!(
            (delta.answers_gained.len(), delta.answers_lost.len()),
            (1, 1)
        );
    }

    #[test]
    fn the_first_state_is_added_and_the_last_is_removed_whole() {
        let text = "kind NodePort; cluster-ip 10.200.1.63; port tcp 80 31000; affinity 60";
        let (_, objects) = state(text, "10.10.1.3@worker 10.10.2.4", None);
        let first = diff(Objects::default(), objects.clone());
        assert_eq!(first.add, objects.elements);
        assert_eq!((first.new_maps.len(), first.new_chains.len()), (3, 1));
        assert_eq!(first.local_gained.len(), 1);
        let last = diff(objects.clone(), Objects::default());
        assert_eq!(last.remove, objects.elements);
        assert_eq!((last.old_maps.len(), last.old_chains.len()), (3, 1));
    }

    #[test]
    fn with_affinity_an_endpoint_that_stays_keeps_its_number() {
        let text = "cluster-ip 10.200.1.63; port tcp 80; affinity 60";
        let (plan, before) = state(text, "10.10.1.3 10.10.2.4 10.10.3.3", None);
        let (_, after) = state(text, "10.10.2.4 10.10.3.3", Some(&plan));
        let delta = diff(before, after);
        // Slot 0 now has the last endpoint, slot 2 is gone, and so is one endpoint.
        assert_eq!((delta.remove.len(), delta.add.len()), (3, 1));
        assert_eq!(delta.new_chains.len(), 1);
        assert!(delta.old_chains.is_empty() && delta.new_maps.is_empty());
    }
}
