//! What NetworkPolicies make of a way, by themselves and in the kernel.

use podwire::policy::{Attachment, PodName};
use podwire_kernel::nft::Table;
use serde_json::{Value, json};

use super::kernel::Fake;
use super::*;
use crate::features::policies::desired::attachments::{Attachments, Touched};
use crate::features::policies::desired::frame::Here;
use crate::features::policies::desired::model::Model;
use crate::features::policies::layout::elements::table;
use crate::source::decode::{Scope, decode};
use crate::source::objects::Names;

fn a_pod(name: &str, node: &str, address: &str, role: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "default", "name": name, "labels": {"role": role}},
        "spec": {"nodeName": node, "containers": []},
        "status": {"phase": "Running", "podIPs": [{"ip": address}]},
    })
}

pub(super) fn policy(name: &str, role: &str, mut spec: Value) -> Value {
    spec["podSelector"] = json!({"matchLabels": {"role": role}});
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": "default", "name": name}, "spec": spec,
    })
}

/// The walkthrough's cluster with its pods: `pod1` (role=web) and `web` (role=db) here, `far`
/// (role=api) on `worker`; and with these policies.
pub(super) fn with_policies(flags: &[&str], policies: &[Value]) -> World {
    let mut world = World::new(flags);
    let pods = [
        a_pod("pod1", "worker2", "10.10.2.3", "web"),
        a_pod("web", "worker2", "10.10.2.4", "db"),
        a_pod("far", "worker", "10.10.1.3", "api"),
    ];
    for object in pods.iter().chain(policies) {
        let text = object.to_string();
        let contents = decode(text.as_bytes(), Scope::All, &mut Names::default()).unwrap();
        contents
            .objects
            .into_iter()
            .for_each(|object| world.set(object));
    }
    world
}

/// `db` may be reached by role=api on 80 only.
pub(super) fn db_for_api() -> [Value; 2] {
    let from = json!([{"podSelector": {"matchLabels": {"role": "api"}}}]);
    [
        policy("closed", "db", json!({"policyTypes": ["Ingress"]})),
        policy(
            "db",
            "db",
            json!({"ingress": [{"from": from, "ports": [{"port": 80}]}]}),
        ),
    ]
}

/// What the plugin tells of a pod here.
fn attachment(pod: &Pod) -> Attachment {
    let names = pod.name.as_deref().and_then(|name| name.split_once('/'));
    Attachment {
        link: pod.link.clone(),
        container_id: pod.container_id.clone(),
        ifname: pod.ifname.clone(),
        pod: names.map(|(namespace, name)| PodName {
            namespace: namespace.into(),
            name: name.into(),
            uid: None,
        }),
        addresses: pod.addresses.clone(),
    }
}

/// The table that this node wants.
fn kernel_of(world: &World) -> Fake {
    let here = Here {
        node: Arc::from("worker2"),
        pod_cidrs: ["10.10.2.0/24".parse().unwrap()].into(),
        has_all_namespaces: true,
    };
    let mut attachments = Attachments::default();
    for pod in &world.pods {
        attachments.came(attachment(pod), &mut Touched::default());
    }
    let model = Model::of(&world.snapshot, &attachments, IpFamily::V4, here);
    let via = |link: &str, gateway: Option<&str>| Way::Link {
        link: Some(link.into()),
        gateway: gateway.map(ip),
        silent: false,
    };
    Fake {
        ways: [
            (ip("10.10.2.3"), via("vethpod1", None)),
            (ip("10.10.2.4"), via("vethweb", None)),
            (ip("10.10.1.3"), via("eth0", Some("172.18.0.2"))),
        ]
        .into(),
        policies: Some(table(IpFamily::V4, &model.frame(), model.wanted())),
        ..Fake::default()
    }
}

/// The trace after the kernel was asked, which may have been changed before.
fn asked(world: &World, from: &str, to: &str, spoil: impl FnOnce(&mut Option<Table>)) -> Trace {
    let mut trace = world.walk(from, to);
    let mut kernel = kernel_of(world);
    spoil(&mut kernel.policies);
    check(&mut trace, &mut kernel);
    trace
}

#[test]
fn what_no_rule_allows_is_dropped_with_the_nearest_rule() {
    let world = with_policies(&[], &db_for_api());
    let trace = asked(&world, "pod1", "10.10.2.4:80", |_| {});
    expect(
        &trace,
        End::Dropped,
        &[
            "Route to 10.10.2.4",
            "NetworkPolicies drop it",
            "egress: no policy isolates default/pod1.",
            "ingress: default/closed, default/db isolate default/web, and no rule allows it (tcp 80); \
         nearest rule: default/db allows tcp 80 from role=api; the pod has role=web.",
            "kernel: open-out: 10.10.2.3 (default/pod1)",
            "kernel: 10.10.2.3 has no class: no rule here asks for it",
            "kernel: self: 10.10.2.4 . 10.10.2.4 (default/web)",
            "kernel: no element allows it",
            "see: podwire-agent drops; nft list chain ip podwire-policy denied-in",
            "=x It is dropped: default/closed, default/db isolate default/web for ingress, and no rule \
         allows it.",
        ],
    );
    assert_eq!(trace.differences, [""; 0]);
}

#[test]
fn what_a_rule_allows_passes_by_its_element() {
    let world = with_policies(&[], &db_for_api());
    let trace = asked(&world, "10.10.1.3", "10.10.2.4:80", |_| {});
    expect(
        &trace,
        End::Arrives,
        &[
            "NetworkPolicies let it pass here; node worker decides as well",
            "egress: node worker decides for its own pod: ask there.",
            "default/db allows tcp 80 from role=api.",
            "Replies pass with it",
            "kernel: peers: 10.10.1.3 has class ",
            " (default/far)",
            "kernel: in-ports: ",
            ". 10.10.2.4 . tcp . 80 (default/web: db)",
        ],
    );
    assert_eq!(trace.differences, [""; 0]);
    let trace = asked(&world, "10.10.1.3", "10.10.2.4", |_| {});
    expect(
        &trace,
        End::Dropped,
        &["ping and what else has no ports is only allowed by rules"],
    );
    assert_eq!(trace.differences, [""; 0]);
}

#[test]
fn what_a_cluster_network_policy_denies_is_dropped_by_its_element() {
    let api = json!({"namespaceSelector": {}, "podSelector": {"matchLabels": {"role": "api"}}});
    let ports = json!([{"tcp": {"destinationPort": {"number": 80}}}]);
    let rules = json!([{"name": "no-web", "action": "Deny", "from": [{"pods": api}],
        "protocols": ports}]);
    let guard = json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": "guard"},
        "spec": {"tier": "Baseline", "priority": 5, "subject": {"namespaces": {}},
            "ingress": rules},
    });
    let world = with_policies(&[], &[guard]);
    let trace = asked(&world, "10.10.1.3", "10.10.2.4:80", |_| {});
    expect(
        &trace,
        End::Dropped,
        &[
            "NetworkPolicies drop it",
            "ingress: ClusterNetworkPolicy guard (Baseline tier, priority 5), rule no-web, denies \
             tcp 80 from role=api of all namespaces (tcp 80).",
            "kernel: peers: 10.10.1.3 has class ",
            "kernel: in-ports-denied: ",
            "see: podwire-agent drops; nft list chain ip podwire-policy refused-in",
            "=x It is dropped: for ingress, ClusterNetworkPolicy guard",
        ],
    );
    assert_eq!(trace.differences, [""; 0]);
    let trace = asked(&world, "10.10.1.3", "10.10.2.4:81", |_| {});
    expect(
        &trace,
        End::Arrives,
        &["ingress: no rule of ClusterNetworkPolicy guard matches, and no policy isolates"],
    );
}

#[test]
fn a_pod_whose_namespace_is_not_known_is_closed_where_its_labels_would_decide() {
    let guard = json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": "guard"},
        "spec": {"tier": "Baseline", "priority": 5,
            "subject": {"namespaces": {"matchLabels": {"trust": "low"}}},
            "ingress": [{"action": "Deny", "from": [{"namespaces": {}}]}]},
    });
    let world = with_policies(&[], std::slice::from_ref(&guard));
    let trace = asked(&world, "10.10.1.3", "10.10.2.4:80", |_| {});
    expect(
        &trace,
        End::Dropped,
        &[
            "ingress: the Namespace default is not known, and its labels would tell which \
             ClusterNetworkPolicies select the pod, so it is closed (chain undecided).",
            "=x It is dropped: the Namespace default is not known",
        ],
    );
    assert_eq!(trace.differences, [""; 0]);
    let known = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}});
    let world = with_policies(&[], &[guard, known]);
    let trace = asked(&world, "10.10.1.3", "10.10.2.4:80", |_| {});
    expect(&trace, End::Arrives, &["no policy isolates default/web"]);
}

#[test]
fn the_node_and_its_own_pods_are_exempt_and_a_pod_reaches_itself() {
    let both = json!({"policyTypes": ["Ingress", "Egress"]});
    let mut world = with_policies(&[], &[policy("closed", "db", both)]);
    for (from, to) in [("172.18.0.4", "10.10.2.4:80"), ("web", "172.18.0.4:10250")] {
        let trace = world.walk(from, to);
        expect(
            &trace,
            End::Arrives,
            &["No policy is asked: what a node and its own pods"],
        );
    }
    // By way of a Service.
    let itself = slice("svc-itself", 80, &[("10.10.2.4", "worker2")]);
    world.set(itself);
    world.set(Object::Service(service("svc-itself", "10.200.1.77", None)));
    let trace = asked(&world, "web", "10.200.1.77:9000", |_| {});
    expect(
        &trace,
        End::Arrives,
        &[
            "egress: default/closed isolates default/web, but a pod always reaches itself.",
            "kernel: self: 10.10.2.4 . 10.10.2.4",
        ],
    );
    let of_policies = trace
        .differences
        .iter()
        .filter(|one| one.contains("policy"));
    assert_eq!(of_policies.count(), 0, "{trace}");
}

#[test]
fn behind_a_service_each_endpoint_is_judged() {
    let world = with_policies(&[], &db_for_api());
    let trace = world.walk("pod1", "10.200.1.63:9000");
    expect(
        &trace,
        End::Leaves,
        &[
            "One of 3 endpoints",
            "NetworkPolicies drop it on the way to 1 of 3 endpoints",
            "To 10.10.2.4: ingress: default/closed, default/db isolate default/web, and no rule allows it",
            "The source stays",
            "Policies drop what goes to 1 of them.",
        ],
    );
    let denied = trace.hops.iter().flat_map(|hop| &hop.denied);
    assert_eq!(denied.collect::<Vec<_>>(), [&ip("10.10.2.4")]);
    let to_none = policy("out", "web", json!({"policyTypes": ["Egress"]}));
    let world = with_policies(&[], &[to_none]);
    let trace = world.walk("pod1", "10.200.1.63:9000");
    expect(
        &trace,
        End::Dropped,
        &[
            "egress: default/out isolates default/pod1, and no rule allows it (tcp 80); there is no rule \
         that allows anything.",
            "see: podwire-agent drops; nft list chain ip podwire-policy denied-out",
            "=x A packet to Service default/svc-clusterip is dropped: default/out isolates default/pod1 \
         for egress, and no rule allows it.",
        ],
    );
}

#[test]
fn a_pod_that_is_not_known_is_closed_and_a_cluster_without_policies_asks_none() {
    let mut world = with_policies(&[], &db_for_api());
    world.pods.push(pod("new", "10.10.2.9", "vethnew"));
    let trace = world.walk("new", "10.10.1.3:80");
    expect(
        &trace,
        End::Dropped,
        &[
            "egress: no Pod with the address 10.10.2.9 is known here yet",
            "see: podwire-agent drops; nft list chain ip podwire-policy undecided",
        ],
    );
    for world in [
        with_policies(&[], &[]),
        with_policies(&["--network-policy=false"], &db_for_api()),
    ] {
        let trace = world.walk("pod1", "10.10.2.4:80");
        assert_eq!(trace.end, End::Arrives);
        assert!(!trace.to_string().contains("olic"), "{trace}");
    }
}

#[test]
fn what_no_policy_can_be_about_is_open_as_in_the_kernel() {
    let mut world = with_policies(&[], &db_for_api());
    let without_pod = Pod {
        name: None,
        ..pod("box", "10.10.2.9", "vethbox")
    };
    let elsewhere = Pod {
        name: Some("other/new".into()),
        ..pod("new", "10.10.2.10", "vethnew")
    };
    world.pods.extend([without_pod, elsewhere]);
    for from in ["10.10.2.9", "10.10.2.10"] {
        let trace = asked(&world, from, "10.10.1.3:80", |_| {});
        let open = format!("egress: no policy can be about {from}, so it is open.");
        expect(&trace, End::Leaves, &["let it pass", &open]);
        assert_eq!(trace.differences, [""; 0]);
    }
    world.pods.push(Pod {
        name: None,
        unnamed: true,
        ..pod("long", "10.10.2.11", "vethlong")
    });
    let trace = world.walk("10.10.2.11", "10.10.1.3:80");
    let closed = "no Pod with the address 10.10.2.11 is known here yet";
    expect(&trace, End::Dropped, &[closed]);
    // The same of one outside the podCIDRs.
    let outside = pod("outside", "192.168.78.9", "vethoutside");
    world.pods.push(outside);
    let trace = asked(&world, "192.168.78.9", "10.10.1.3:80", |_| {});
    let closed = "no Pod with the address 192.168.78.9 is known here yet";
    expect(&trace, End::Dropped, &[closed]);
    assert_eq!(trace.differences, [""; 0]);
}

#[test]
fn a_kernel_that_says_something_else_is_named() {
    let world = with_policies(&[], &db_for_api());
    let clear = |set: &'static str| {
        move |table: &mut Option<Table>| {
            let sets = &mut table.as_mut().unwrap().sets;
            sets.get_mut(set).unwrap().elements.clear();
        }
    };
    let trace = asked(&world, "10.10.1.3", "10.10.2.4:80", clear("in-ports"));
    assert_eq!(
        trace.differences,
        ["ingress of 10.10.2.4: the table ip podwire-policy drops it, but the policies allow it",]
    );
    let trace = asked(&world, "pod1", "10.10.2.4:80", clear("open-out"));
    assert_eq!(
        trace.differences,
        ["egress of 10.10.2.3: the table ip podwire-policy drops it, but the policies allow it",]
    );
    let trace = asked(&world, "pod1", "10.10.2.4:80", |table| *table = None);
    assert!(
        trace.differences[0].contains("ip podwire-policy is not there"),
        "{trace}"
    );
}

#[test]
fn of_a_pod_whose_status_has_no_address_yet_the_rules_know_more() {
    let mut world = with_policies(&[], &db_for_api());
    let mut new = a_pod("new", "worker2", "10.10.2.99", "db");
    new["status"] = json!({"phase": "Pending"});
    let contents = decode(
        new.to_string().as_bytes(),
        Scope::All,
        &mut Names::default(),
    )
    .unwrap();
    contents
        .objects
        .into_iter()
        .for_each(|object| world.set(object));
    world.pods.push(pod("new", "10.10.2.9", "vethnew"));
    world.owners = BTreeMap::from([
        (ip("10.10.2.9"), name("new")),
        (ip("10.10.2.3"), name("pod1")),
    ]);
    let trace = world.walk("10.10.1.3", "10.10.2.9:80");
    expect(
        &trace,
        End::Arrives,
        &[
            "default/closed, default/db isolate default/new; default/db allows tcp 80 from role=api.",
        ],
    );
    assert!(!trace.to_string().contains("is known here yet"), "{trace}");
}

#[test]
fn where_only_another_node_decides_that_node_is_named() {
    let world = with_policies(&[], &db_for_api());
    let trace = world.walk("10.10.1.3", "10.10.3.3:80");
    expect(
        &trace,
        End::Leaves,
        &[
            "NetworkPolicies: nodes worker, worker3 decide, not this node",
            "ask there",
        ],
    );
    assert!(!trace.to_string().contains("let it pass"), "{trace}");
}
