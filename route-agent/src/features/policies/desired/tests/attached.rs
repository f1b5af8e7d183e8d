//! Attachments come and go in any order with Pods and policies.

use std::net::IpAddr;

use podwire::policy::{Attachment, PodName};
use podwire_kernel::IpFamily;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::features::policies::desired::attachments::{Attachments, Touched};
use crate::features::policies::desired::frame::Changed;
use crate::features::policies::desired::model::Model;
use crate::features::policies::desired::samples::{
    Cluster, addresses, cluster_policy, here, name, namespace, pod, policy, tcp,
};
use crate::snapshot::{Key, ObjectName, PolicyName};

/// One thing that happens; pods are `a/p0` to `b/p1`, addresses have the numbers 2 to 4, of which the
/// last is outside the podCIDRs.
#[derive(Debug, Clone)]
enum Step {
    /// A Pod with this UID, and perhaps an address.
    Pod(ObjectName, u8, Option<u8>),
    PodGone(ObjectName),
    Policy(bool),
    /// What pods of the namespace `b` send is denied.
    Denial(bool),
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
        1 => any::<bool>().prop_map(Step::Denial),
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
        addresses: addresses_of(number).into(),
    }
}

fn addresses_of(number: u8) -> [IpAddr; 2] {
    match number {
        4 => ["192.168.78.4".parse().unwrap(), "fd78::4".parse().unwrap()],
        _ => addresses("worker", number),
    }
}

/// What pods of the namespace `b` send to those of `a` is denied.
fn denial() -> Value {
    let of = |name: &str| json!({"matchLabels": {"kubernetes.io/metadata.name": name}});
    let spec = json!({"subject": {"namespaces": of("a")}, "ingress": [
        {"action": "Deny", "from": [{"namespaces": of("b")}]}]});
    cluster_policy("denial", &spec)
}

/// Carries a step out; returns whom it touched.
fn carry_out(step: &Step, cluster: &mut Cluster) -> Changed {
    let mut changed = Changed::default();
    let mut touched = Touched::default();
    match step {
        Step::Pod(name, uid, number) => {
            let mut object = pod(&name.to_string(), "worker", number.unwrap_or(2), "app=a");
            object["metadata"]["uid"] = json!(format!("uid-{uid}"));
            if let Some(number) = number {
                let ips = addresses_of(*number).map(|ip| json!({"ip": ip}));
                object["status"]["podIPs"] = json!(ips);
            }
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
            changed
                .policies
                .insert(PolicyName::Namespaced(name("a/all")));
        }
        Step::Denial(there) => {
            match there {
                true => cluster.set(&[denial()]),
                false => cluster.gone(Key::ClusterNetworkPolicy("denial".into())),
            }
            let name = PolicyName::Cluster("denial".into());
            changed.policies.insert(name);
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

/// A cluster in which the plugin tells of an attachment on `worker`.
struct Told {
    cluster: Cluster,
    model: Model,
}

impl Told {
    fn of(objects: &[Value], attachment: Attachment) -> Self {
        let mut cluster = Cluster::of(objects);
        let mut touched = Touched::default();
        cluster.attachments.came(attachment, &mut touched);
        let (node, family) = ("worker", IpFamily::V4);
        let here = here(node, family);
        let model = Model::of(&cluster.snapshot, &cluster.attachments, family, here);
        Self { cluster, model }
    }

    /// The Pod object goes while its link stays.
    fn pod_gone(&mut self, at: &str) {
        let mut changed = Changed::default();
        changed.pods.insert(name(at));
        self.cluster.gone(Key::Pod(name(at)));
        let (snapshot, attachments) = (&self.cluster.snapshot, &self.cluster.attachments);
        self.model.update(snapshot, attachments, &changed);
    }

    fn allows(&self, from: &str, to: &str) -> bool {
        let [from, to] = [from, to].map(|text| text.parse().unwrap());
        let is_here = |address| self.model.here().has(address);
        self.model.wanted().allows(from, to, tcp(80), is_here)
    }
}

#[test]
fn a_pod_whose_object_went_is_closed_where_a_rule_denied_it_or_passed_it_on() {
    for (action, peers, closes) in [
        ("Deny", json!([{"namespaces": {}}]), true),
        ("Pass", json!([{"namespaces": {}}]), true),
        (
            "Deny",
            json!([{"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"a": "b"}}}}]),
            true,
        ),
        ("Accept", json!([{"namespaces": {}}]), false),
        (
            "Deny",
            json!([{"namespaces": {"matchLabels": {"c": "d"}}}]),
            false,
        ),
    ] {
        for (direction, word) in [("ingress", "from"), ("egress", "to")] {
            let subject = json!({"matchLabels": {"kubernetes.io/metadata.name": "a"}});
            let rule = json!({"action": action, word: peers});
            let spec = json!({"subject": {"namespaces": subject}, direction: [rule]});
            let objects = [
                namespace("a", ""),
                namespace("b", ""),
                pod("b/p0", "worker", 3, "a=b"),
                cluster_policy("one", &spec),
            ];
            let mut told = Told::of(&objects, attachment(0, Some(name("b/p0")), 0, 3));
            let both = |told: &Told| {
                let address = "10.10.1.3";
                [
                    told.allows(address, "10.10.2.9"),
                    told.allows("10.10.2.9", address),
                ]
            };
            assert_eq!(both(&told), [true; 2], "{spec}");
            told.pod_gone("b/p0");
            assert_eq!(both(&told), [!closes; 2], "{spec}");
        }
    }
}

#[test]
fn what_is_attached_outside_the_pod_cidrs_is_closed_as_it_would_be_inside() {
    let closed = policy("a/all", &json!({"podSelector": {}}));
    let objects = [pod("a/p0", "worker", 2, "a=b"), closed];
    let secondary = |mut one: Attachment| {
        one.ifname = "net1".into();
        one
    };
    let unnamed = |mut one: Attachment| {
        one.pod.as_mut().unwrap().name.clear();
        one
    };
    let of = |pod: &str| attachment(0, Some(name(pod)), 0, 4);
    for (attachment, closes) in [
        (of("a/p0"), true),
        (of("a/new"), true),
        (secondary(of("a/p0")), true),
        (unnamed(of("a/p0")), true),
        (of("b/new"), false),
        (secondary(of("b/new")), false),
        (attachment(0, None, 0, 4), false),
    ] {
        let mut told = Told::of(&objects, attachment.clone());
        let both = |told: &Told| {
            let address = "192.168.78.4";
            [
                told.allows(address, "10.10.2.9"),
                told.allows("10.10.2.9", address),
            ]
        };
        let way_out = told
            .model
            .locals()
            .any(|(_, at, _)| at.to_string() == "192.168.78.4");
        // A pod that is known is isolated for ingress alone.
        let before = [!closes || way_out, !closes];
        assert_eq!(both(&told), before, "{attachment:?}");
        told.pod_gone("a/p0");
        assert_eq!(both(&told), [!closes; 2], "{attachment:?}");
    }
}

#[test]
fn rules_for_addresses_outside_the_pod_cidrs_go_with_the_policy_that_they_were_for() {
    let closed = policy("a/all", &json!({"podSelector": {}}));
    let objects = [pod("a/p0", "worker", 2, "a=b"), closed];
    let mut told = Told::of(&objects, attachment(0, Some(name("a/p0")), 0, 4));
    assert!(told.model.frame().outside);
    told.cluster.gone(Key::NetworkPolicy(name("a/all")));
    let mut changed = Changed::default();
    let policy = PolicyName::Namespaced(name("a/all"));
    changed.policies.insert(policy);
    let (snapshot, attachments) = (&told.cluster.snapshot, &told.cluster.attachments);
    told.model.update(snapshot, attachments, &changed);
    assert!(!told.model.frame().outside);
}

#[test]
fn what_only_the_api_can_name_has_not_the_rules_of_a_pod_with_another_uid() {
    let mut last = pod("a/p0", "worker", 3, "");
    last["metadata"]["uid"] = json!("uid-1");
    let other = json!({"podSelector": {"matchLabels": {"app": "other"}}});
    let objects = [last, policy("a/other", &other)];
    for (uid, expected) in [(1, true), (2, false)] {
        let mut one = attachment(0, Some(name("a/p0")), uid, 3);
        one.pod.as_mut().unwrap().name.clear();
        let told = Told::of(&objects, one);
        assert_eq!(told.allows("10.10.1.3", "10.10.2.9"), expected, "{uid}");
        assert_eq!(told.allows("10.10.2.9", "10.10.1.3"), expected, "{uid}");
    }
}
