//! Attachments come and go in any order with Pods and policies.

use podwire::policy::{Attachment, PodName};
use podwire_kernel::IpFamily;
use proptest::prelude::*;
use serde_json::json;

use crate::features::policies::desired::attachments::{Attachments, Touched};
use crate::features::policies::desired::frame::Changed;
use crate::features::policies::desired::model::Model;
use crate::features::policies::desired::samples::{Cluster, addresses, here, name, pod, policy};
use crate::snapshot::{Key, ObjectName};

/// One thing that happens; pods are `a/p0` to `b/p1`, addresses have the numbers 2 to 4.
#[derive(Debug, Clone)]
enum Step {
    /// A Pod with this UID, and perhaps an address.
    Pod(ObjectName, u8, Option<u8>),
    PodGone(ObjectName),
    Policy(bool),
    Came(u8, Option<ObjectName>, u8, u8),
    Went(u8),
    /// The kernel is read.
    Replace,
}

fn a_name() -> impl Strategy<Value = ObjectName> {
    prop::sample::select(vec!["a/p0", "a/p1", "b/p0", "b/p1"]).prop_map(name)
}

fn step() -> impl Strategy<Value = Step> {
    let number = || 2_u8..5;
    prop_oneof![
        3 => (a_name(), 0_u8..2, prop::option::of(number()))
            .prop_map(|(name, uid, number)| Step::Pod(name, uid, number)),
        1 => a_name().prop_map(Step::PodGone),
        1 => any::<bool>().prop_map(Step::Policy),
        4 => (0_u8..4, prop::option::of(a_name()), 0_u8..2, number())
            .prop_map(|(link, pod, uid, number)| Step::Came(link, pod, uid, number)),
        2 => (0_u8..4).prop_map(Step::Went),
        1 => Just(Step::Replace),
    ]
}

fn attachment(link: u8, pod: Option<ObjectName>, uid: u8, number: u8) -> Attachment {
    Attachment {
        link: format!("veth{link}"),
        container_id: format!("c{link}"),
        ifname: "eth0".into(),
        pod: pod.map(|pod| PodName {
            namespace: pod.namespace.to_string(),
            name: pod.name.to_string(),
            uid: Some(format!("uid-{uid}")),
        }),
        addresses: addresses("worker", number).into(),
    }
}

/// Carries a step out; returns whom it touched.
fn carry_out(step: &Step, cluster: &mut Cluster) -> Changed {
    let mut changed = Changed::default();
    let mut touched = Touched::default();
    match step {
        Step::Pod(name, uid, number) => {
            let mut object = pod(&name.to_string(), "worker", number.unwrap_or(2), "app=a");
            object["metadata"]["uid"] = json!(format!("uid-{uid}"));
            if number.is_none() {
                object["status"] = json!({"phase": "Pending"});
            }
            cluster.set(&[object]);
            cluster.attachments.tidy(name, &cluster.snapshot);
            changed.pods.insert(name.clone());
        }
        Step::PodGone(name) => {
            cluster.gone(Key::Pod(name.clone()));
            cluster.attachments.tidy(name, &cluster.snapshot);
            changed.pods.insert(name.clone());
        }
        Step::Policy(there) => {
            let spec = json!({"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}]}]});
            match there {
                true => cluster.set(&[policy("a/all", &spec)]),
                false => cluster.gone(Key::NetworkPolicy(name("a/all"))),
            }
            changed.policies.insert(name("a/all"));
        }
        Step::Came(link, pod, uid, number) => {
            let attachment = attachment(*link, pod.clone(), *uid, *number);
            cluster.attachments.came(attachment, &mut touched);
        }
        Step::Went(link) => {
            cluster
                .attachments
                .link_went(&format!("veth{link}"), &mut touched);
        }
        Step::Replace => {
            let all = vec![
                attachment(0, Some(name("a/p0")), 0, 2),
                attachment(3, None, 0, 4),
            ];
            cluster.attachments.replace(all, &mut touched);
        }
    }
    changed.touch(touched);
    changed
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_model_that_followed_attachments_is_the_one_that_is_made_at_once(
        steps in prop::collection::vec(step(), 1..20),
    ) {
        let mut cluster = Cluster::empty();
        let (node, family) = ("worker", IpFamily::V4);
        let none = Attachments::default();
        let mut model = Model::of(&cluster.snapshot, &none, family, here(node, family));
        for step in &steps {
            let changed = carry_out(step, &mut cluster);
            model.update(&cluster.snapshot, &cluster.attachments, &changed);
            let whole = Model::of(
                &cluster.snapshot,
                &cluster.attachments,
                family,
                here(node, family),
            );
            prop_assert_eq!(model.wanted(), whole.wanted(), "after {:?}", step);
            prop_assert_eq!(model.classes().len(), whole.classes().len());
        }
    }
}
