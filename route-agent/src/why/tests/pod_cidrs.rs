//! Which Node an address belongs to, and whether there is a route to it.

use super::policies::{policy, with_policies};
use super::*;

/// How it is said that a packet is left to the routes of others.
const ASTRAY: &str = "by this node's other routes, if any, not to the pod: ";

/// A further Node.
fn joins(world: &mut World, name: &str, internal: &str, cidr: &str, created: Option<u64>) {
    let Object::Node(one) = node(name, internal, cidr) else {
        unreachable!("it is a Node")
    };
    world.set(Object::Node(Node { created, ..one }));
}

#[test]
fn to_a_node_without_a_route_other_routes_lead_and_the_reason_is_told() {
    let mut far = World::new(&[]);
    joins(&mut far, "w5", "192.0.2.9", "10.10.5.0/24", None);
    far.set(slice("svc-nodeport", 8080, &[("10.10.5.2", "w5")]));
    let mut bare = World::new(&[]);
    joins(&mut bare, "w5", "fd00::9", "10.10.5.0/24", None);
    bare.set(slice("svc-nodeport", 8080, &[("10.10.5.2", "w5")]));
    let mut alone = World::new(&[]);
    joins(&mut alone, "w5", "172.18.0.9", "10.10.5.0/24", None);
    alone.set(slice("svc-nodeport", 8080, &[("10.10.5.2", "w5")]));
    alone.uplink = None;
    let mut down = World::new(&[]);
    joins(&mut down, "w5", "172.18.0.9", "10.10.5.0/24", None);
    down.set(slice("svc-nodeport", 8080, &[("10.10.5.2", "w5")]));
    let uplink = down.uplink.as_mut().unwrap();
    // The kernel has taken its routes away.
    (uplink.up, uplink.on_link) = (false, Vec::new());
    for (world, why) in [
        (
            &far,
            "Node w5 InternalIP 192.0.2.9 is not on the network of eth0 (172.18.0.0/16); \
             10.10.5.0/24 cannot be reached",
        ),
        (&bare, "Node w5 has no InternalIP of IPv4"),
        (&alone, "Node w5 cannot be reached, as there is no uplink"),
        (
            &down,
            "Node w5 cannot be reached at 10.10.5.0/24: eth0 is down",
        ),
    ] {
        for (from, to) in [
            ("pod1", "10.10.5.2:80"),
            ("worker2", "10.10.5.2"),
            ("203.0.113.9", "10.10.5.2:80"),
        ] {
            let trace = world.walk(from, to);
            expect(
                &trace,
                End::Dropped,
                &[
                    "Route to 10.10.5.2: ",
                    ASTRAY,
                    why,
                    "=x It leaves ",
                    ASTRAY,
                    why,
                ],
            );
        }
        let question = Question::parse("pod1", "10.10.5.2").unwrap().as_answer();
        let answer = world.ask(|facts| walk(facts, &question)).unwrap();
        expect(&answer, End::Dropped, &[why, "=x It leaves ", ASTRAY, why]);
        let trace = world.walk("pod1", "10.200.1.217:9000");
        let none = "=x A packet to Service default/svc-nodeport reaches no endpoint. 10.10.5.2: ";
        expect(
            &trace,
            End::Dropped,
            &["The way to the endpoints", why, none, why],
        );
    }
}

/// It comes to the forward hook, wherever the other routes lead.
#[test]
fn to_a_node_without_a_route_policies_are_asked_too() {
    let quiet = policy(
        "quiet",
        "web",
        serde_json::json!({"policyTypes": ["Egress"]}),
    );
    let mut world = with_policies(&[], &[quiet]);
    joins(&mut world, "w5", "192.0.2.9", "10.10.5.0/24", None);
    let trace = world.walk("pod1", "10.10.5.2:80");
    let parts = [
        ASTRAY,
        "NetworkPolicies drop it",
        "=x It is dropped: default/quiet",
    ];
    expect(&trace, End::Dropped, &parts);
}

#[test]
fn an_endpoint_without_a_route_is_named_beside_those_that_have_one() {
    let mut world = World::new(&[]);
    joins(&mut world, "w5", "192.0.2.9", "10.10.5.0/24", None);
    let endpoints = [("10.10.3.5", "worker3"), ("10.10.5.2", "w5")];
    world.set(slice("svc-nodeport", 8080, &endpoints));
    let trace = world.walk("pod1", "10.200.1.217:9000");
    expect(
        &trace,
        End::Leaves,
        &[
            "goes to one of its 2 endpoints",
            "1 of them cannot be reached.",
            "\nCannot be reached:\n   10.10.5.2: by this node's other routes",
            "Node w5 InternalIP 192.0.2.9",
        ],
    );
    let lost: Vec<_> = trace.hops.iter().flat_map(|hop| &hop.lost).collect();
    assert_eq!(lost[0].endpoints, [ip("10.10.5.2")], "{trace}");
    // The kernel has all that is wanted.
    assert!(trace.differences.is_empty(), "{trace}");
    assert!(trace.hops.iter().all(|hop| hop.differs.is_empty()));
}

/// The Node through which a packet to a pod goes.
#[track_caller]
fn through(world: &World, to: &str, gateway: &str) {
    let trace = world.walk("pod1", to);
    let wanted = Wanted::Gateway(ip(gateway));
    let to = ip(to);
    let check = Check::Route { to, wanted };
    assert_eq!(trace.hops[1].checks[0], check, "{trace}");
}

#[test]
fn of_two_nodes_with_one_pod_cidr_it_is_the_older_ones() {
    let mut world = World::new(&[]);
    joins(&mut world, "aaa", "172.18.0.8", "10.10.8.0/24", Some(90));
    joins(&mut world, "zzz", "172.18.0.9", "10.10.8.0/24", Some(10));
    through(&world, "10.10.8.2", "172.18.0.9");
    // One that does not say how old it is has it only if it has it already.
    joins(&mut world, "aaa", "172.18.0.8", "10.10.8.0/24", None);
    through(&world, "10.10.8.2", "172.18.0.9");
    let cidr: IpNetwork = "10.10.8.0/24".parse().unwrap();
    world.holders.insert(cidr, Arc::from("aaa"));
    through(&world, "10.10.8.2", "172.18.0.8");
}

#[test]
fn our_own_pod_cidr_is_ours_whoever_else_has_it() {
    let mut world = World::new(&[]);
    joins(&mut world, "aaa", "172.18.0.8", "10.10.2.0/24", Some(1));
    let trace = world.walk("pod1", "10.10.2.99:80");
    expect(&trace, End::Refused, &["no pod has 10.10.2.99"]);
}

#[test]
fn a_pod_cidr_that_is_left_out_is_outside_but_for_what_others_have() {
    let mut world = World::new(&[]);
    joins(&mut world, "aaa", "172.18.0.8", "10.10.0.0/16", None);
    let older = world.snapshot.nodes["worker"].clone();
    let created = Some(1);
    world.set(Object::Node(Node { created, ..older }));
    through(&world, "10.10.1.2", "172.18.0.2");
    let why = "Node aaa podCIDR 10.10.0.0/16 overlaps 10.10.";
    let trace = world.walk("pod1", "10.10.99.2:80");
    let route = "Route to 10.10.99.2: outside the cluster: ";
    expect(&trace, End::Leaves, &[route, why, MASQUERADED]);
    // The nodes' own network is not a Node's, though one may have been given it.
    joins(&mut world, "bbb", "172.18.0.9", "172.18.0.0/24", Some(1));
    let trace = world.walk("pod1", "172.18.0.77:80");
    expect(&trace, End::Leaves, &["outside the cluster"]);
}

#[test]
fn an_internal_ip_is_its_nodes_though_another_has_a_pod_cidr_around_it() {
    let mut world = World::new(&[]);
    joins(&mut world, "aaa", "172.18.0.8", "192.168.7.0/24", Some(1));
    joins(&mut world, "zzz", "192.168.7.3", "10.10.9.0/24", Some(1));
    let trace = world.walk("pod1", "192.168.7.3:80");
    expect(&trace, End::Leaves, &["node zzz itself"]);
}
