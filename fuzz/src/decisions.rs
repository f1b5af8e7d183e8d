//! What the agent decides about objects, whatever is in them.

use std::cell::RefCell;
use std::collections::VecDeque;

use podwire_agent::features::policies::desired::attachments::Attachments;
use podwire_agent::features::policies::desired::frame::{self, Changed, Frame};
use podwire_agent::features::policies::desired::model::Model;
use podwire_agent::features::policies::desired::wanted::Wanted;
use podwire_agent::features::policies::layout::elements;
use podwire_agent::features::services::desired::endpoints::{self, Here};
use podwire_agent::features::services::desired::externals::Externals;
use podwire_agent::features::services::desired::{frontends, networks, plan};
use podwire_agent::snapshot::{Balancing, Change, Dirty, Object, Snapshot};
use podwire_agent::text::is_unprintable;
use podwire_kernel::IpFamily;
use podwire_kernel::nft::{Table, diff};

use crate::cluster::{self, CONFIG, NODE};

/// How many tables are remembered as written.
const REMEMBERED: usize = 64;

/// All that a table of policies depends on.
#[derive(Clone, PartialEq)]
struct Source {
    family: IpFamily,
    frame: Frame,
    wanted: Wanted,
}

thread_local! {
    /// What was written last. To write a table takes longer than everything else together, and most
    /// inputs lead to one that was written before.
    static WRITTEN: RefCell<VecDeque<Source>> = const { RefCell::new(VecDeque::new()) };
}

/// Decides what follows from the objects, and takes them away again.
pub fn check(objects: Vec<Object>) {
    if objects.is_empty() {
        return;
    }
    let keys: Vec<_> = objects.iter().map(Object::key).collect();
    for key in &keys {
        // It goes into the log and to terminals as it is.
        let name = key.to_string();
        assert!(!name.contains(is_unprintable), "{name:?}");
    }
    let mut snapshot = cluster::of(objects);
    decide(&snapshot);
    let mut models = IpFamily::ALL.map(|family| (family, model(&snapshot, family)));
    let mut dirty = Dirty::default();
    for key in keys {
        let _ = snapshot.apply(Change::Gone(key), &mut dirty);
    }
    assert!(snapshot.is_empty(), "{snapshot:?}");
    let mut changed = Changed::default();
    changed.add(&dirty);
    let attachments = Attachments::default();
    for (family, model) in &mut models {
        model.update(&snapshot, &attachments, &changed);
        let nothing = Model::of(&snapshot, &attachments, *family, model.here().clone());
        assert_eq!(model.wanted(), nothing.wanted(), "all is gone");
        assert_eq!(model.frame(), nothing.frame(), "all is gone");
    }
}

/// What policies want, which can be written and is not changed by changes that change nothing.
fn model(snapshot: &Snapshot, family: IpFamily) -> Model {
    let node = snapshot.nodes.get(NODE);
    let cidrs = node.into_iter().flat_map(|node| &node.pod_cidrs);
    let here = frame::Here {
        node: NODE.into(),
        pod_cidrs: cidrs
            .filter(|cidr| IpFamily::of_network(**cidr) == family)
            .copied()
            .collect(),
        has_all_namespaces: false,
    };
    let attachments = Attachments::default();
    let mut model = Model::of(snapshot, &attachments, family, here);
    let before = Source::of(&model, family);
    before.check();
    model.update(snapshot, &attachments, &Changed::everything(snapshot));
    let after = Source::of(&model, family);
    if after != before {
        let (before, after) = (before.table(), after.table());
        let difference = diff(Some(&before), &after);
        assert!(difference.is_empty(), "{before:?} {after:?}");
    }
    model
}

impl Source {
    fn of(model: &Model, family: IpFamily) -> Self {
        Self {
            family,
            frame: model.frame(),
            wanted: model.wanted().clone(),
        }
    }

    fn table(&self) -> Table {
        elements::table(self.family, &self.frame, &self.wanted)
    }

    /// Fails if the table cannot be written, or differs from itself.
    fn check(&self) {
        if WRITTEN.with_borrow(|written| written.contains(self)) {
            return;
        }
        let table = self.table();
        assert!(diff(None, &table).byte_len() > 0, "it is written");
        assert!(diff(Some(&table), &table).is_empty(), "{table:?}");
        WRITTEN.with_borrow_mut(|written| {
            written.truncate(REMEMBERED - 1);
            written.push_front(self.clone());
        });
    }
}

fn decide(snapshot: &Snapshot) {
    let here = Here::of(NODE, snapshot, None);
    let externals = Externals::of(snapshot, &CONFIG);
    for family in [IpFamily::V4, IpFamily::V6] {
        let own = snapshot.nodes.get(NODE);
        let _ = networks::desired(snapshot, own, &CONFIG.services, &externals, family);
        for (name, service) in &snapshot.services {
            let claims = frontends::claims(service, family, &externals);
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
        let _ = frontends::warnings(service).count();
        let _ = externals.warnings(service).count();
    }
    for slice in snapshot.slices.values() {
        let _ = endpoints::warnings(slice, None);
    }
}
