//! Endpoints of Services that are no pods of other nodes: gone, outside the cluster, this node.

use super::policies::{db_for_api, with_policies};
use super::*;

/// `svc-nodeport` with these endpoints.
fn with_endpoints(mut world: World, endpoints: &[(&str, &str)]) -> World {
    world.set(slice("svc-nodeport", 8080, endpoints));
    world
}

#[test]
fn an_endpoint_here_that_no_pod_has_is_refused_before_policies_are_asked() {
    let here = [("10.10.2.99", "worker2")];
    for world in [World::new(&[]), with_policies(&[], &db_for_api())] {
        let world = with_endpoints(world, &here);
        for (from, to) in [
            ("pod1", "10.200.1.217:9000"),
            ("172.18.0.1", "172.18.0.4:31662"),
        ] {
            let trace = world.walk(from, to);
            expect(
                &trace,
                End::Refused,
                &[
                    "The way to the endpoints",
                    "10.10.2.99: nowhere: it is in this node's podCIDR 10.10.2.0/24, but no pod has it.",
                    "=x A packet to Service default/svc-nodeport reaches no endpoint. 10.10.2.99: nowhere",
                ],
            );
            assert!(!trace.to_string().contains("NetworkPolicies"), "{trace}");
            let last = trace.hops.last().unwrap();
            let to = ip("10.10.2.99");
            let wanted = Wanted::Unreachable;
            assert_eq!(last.checks, [Check::Route { to, wanted }]);
        }
    }
}

#[test]
fn where_only_some_endpoints_are_there_the_others_are_named() {
    let endpoints = [
        ("10.10.2.99", "worker2"),
        ("10.10.2.4", "worker2"),
        ("10.10.7.9", "old"),
    ];
    let world = with_endpoints(World::new(&[]), &endpoints);
    let trace = world.walk("pod1", "10.200.1.217:9000");
    expect(
        &trace,
        End::Arrives,
        &[
            "One of 3 endpoints",
            "goes to one of its 3 endpoints, on this node. 2 of them cannot be reached.",
        ],
    );
    let named = ["10.10.7.9: nowhere", "10.10.2.99: nowhere"];
    let lost: Vec<_> = trace.hops.iter().flat_map(|hop| &hop.lost).collect();
    for (lost, named) in lost.iter().zip(named) {
        assert!(lost.why.starts_with(named), "{lost:?}");
    }
    assert_eq!(lost.len(), 2, "{trace}");
    assert!(trace.differences.is_empty(), "{trace}");
    // Policies drop what goes to `web`: the only one that a packet could reach.
    let world = with_endpoints(with_policies(&[], &db_for_api()), &endpoints);
    let trace = world.walk("pod1", "10.200.1.217:9000");
    expect(
        &trace,
        End::Dropped,
        &["NetworkPolicies drop it", "is dropped: default/closed"],
    );
}

#[test]
fn what_a_service_sends_out_of_the_cluster_is_masqueraded_as_all_else_is() {
    let out = [("203.0.113.5", "nowhere")];
    let world = with_endpoints(World::new(&[]), &out);
    let trace = world.walk("pod1", "10.200.1.217:9000");
    expect(
        &trace,
        End::Leaves,
        &[
            "The source is replaced by this node's address (masquerade)",
            "203.0.113.5 is outside the cluster",
            "see: nft list table inet podwire-masquerade",
            "203.0.113.5: outside the cluster.",
        ],
    );
    assert!(!trace.to_string().contains("The source stays"), "{trace}");
    let both = [("203.0.113.5", "nowhere"), ("10.10.3.5", "worker3")];
    let trace = with_endpoints(world, &both).walk("pod1", "10.200.1.217:9000");
    expect(
        &trace,
        End::Leaves,
        &[
            "The source stays 10.10.2.3",
            "To 203.0.113.5: The source is replaced by this node's address (masquerade). 203.0.113.5 \
             is outside the cluster",
            "see: nft list chain ip podwire-services to-cluster-ip",
        ],
    );
    let off = with_endpoints(World::new(&["--masquerade=false"]), &out);
    let trace = off.walk("pod1", "10.200.1.217:9000");
    let stays = ["The source stays 10.10.2.3", "--masquerade=false is set"];
    expect(&trace, End::Leaves, &stays);
    let suspects: Vec<&String> = trace.hops.iter().flat_map(|hop| &hop.suspects).collect();
    assert_eq!(suspects.len(), 1, "{trace}");
    assert!(suspects[0].contains("masquerading is off"), "{trace}");
    // What is not a pod's is not this node's to masquerade: the endpoint sees the client.
    let local = world_with_local_policy(&out);
    let trace = local.walk("172.18.0.1", "172.18.0.4:31662");
    assert!(!trace.to_string().contains("To 203.0.113.5: "), "{trace}");
}

/// The external policy is Local, and the endpoints count as this node's.
fn world_with_local_policy(endpoints: &[(&str, &str)]) -> World {
    let here: Vec<_> = endpoints.iter().map(|(to, _)| (*to, "worker2")).collect();
    let world = with_endpoints(World::new(&[]), &here);
    world.with("svc-nodeport", |service| {
        service.external_policy = TrafficPolicy::Local;
    })
}

/// The hooks at which others are looked for.
fn hooks(trace: &Trace) -> Vec<u32> {
    let checks = trace.hops.iter().flat_map(|hop| &hop.checks);
    let hooks = checks.filter_map(|check| match check {
        Check::Droppers { hook, .. } => Some(*hook),
        _ => None,
    });
    hooks.collect()
}

#[test]
fn what_others_drop_is_looked_for_where_the_packet_passes() {
    const INPUT: u32 = 1;
    const FORWARD: u32 = 2;
    let own = ("172.18.0.4", "worker2");
    let other = ("10.10.3.5", "worker3");
    for (endpoints, wanted) in [
        (&[other][..], &[FORWARD][..]),
        (&[own], &[INPUT]),
        (&[own, other], &[INPUT, FORWARD]),
        (&[("10.10.2.99", "worker2")], &[]),
    ] {
        let world = with_endpoints(World::new(&[]), endpoints);
        let trace = world.walk("pod1", "10.200.1.217:9000");
        assert_eq!(hooks(&trace), wanted, "{trace}");
        let trace = world.walk("worker2", "10.200.1.217:9000");
        assert_eq!(hooks(&trace), [0; 0], "{trace}");
    }
}

#[test]
fn an_external_address_is_resolved_where_the_connection_begins_as_a_cluster_ip_is() {
    let world = World::new(&[]).with("svc-clusterip", |service| {
        service.kind = ServiceKind::LoadBalancer;
        service.external_ips = vec![ip("203.0.113.9"), ip("172.18.0.4")].into();
        service.load_balancer_vips = vec![ip("192.0.2.7")].into();
    });
    for (from, node) in [("10.10.1.2", "worker"), ("172.18.0.3", "worker3")] {
        for to in ["203.0.113.9:9000", "192.0.2.7:9000"] {
            let trace = world.walk(from, to);
            let ask = format!("ask on node {node}.");
            expect(&trace, End::Elsewhere, &["=? Services are resolved", &ask]);
        }
    }
    // A port that is none of the Service's, a machine that is no node, an answer.
    expect(
        &world.walk("10.10.1.2", "203.0.113.9:81"),
        End::Leaves,
        &["outside the cluster"],
    );
    expect(
        &world.walk("198.51.100.9", "203.0.113.9:9000"),
        End::Leaves,
        &["its external IP 203.0.113.9"],
    );
}
