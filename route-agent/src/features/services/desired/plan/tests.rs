use super::*;
use crate::features::services::desired::room::MOST_ELEMENTS;
use crate::features::services::desired::samples::{HERE, SLICE, service, slice};
use crate::features::services::layout::elements::objects;
use crate::features::services::layout::limits;
use crate::snapshot::{Endpoint, EndpointPort, ServicePort};

fn plan(yaml: &str, endpoints: &str, family: IpFamily) -> Option<Plan> {
    let slices = [slice(SLICE, endpoints)];
    desired(
        &service(yaml),
        slices.iter(),
        family,
        HERE,
        Balancing::Random,
        |_| true,
    )
}

fn backends(text: &str) -> Vec<Backend> {
    let parse = |word: &str| Backend {
        address: word.parse().unwrap(),
        port: 80,
    };
    text.split_whitespace().map(parse).collect()
}

#[test]
fn services_that_are_not_for_a_proxy_have_no_plan() {
    assert!(
        plan(
            "cluster-ip 10.200.1.63; port tcp 80",
            "10.10.1.3",
            IpFamily::V4
        )
        .is_some()
    );
    assert!(plan("port tcp 80", "10.10.1.3", IpFamily::V4).is_none());
    let alias = "kind ExternalName; cluster-ip 10.200.1.63; port tcp 80";
    assert!(plan(alias, "10.10.1.3", IpFamily::V4).is_none());
    assert!(
        plan(
            "cluster-ip 10.200.1.63; port tcp 80",
            "10.10.1.3",
            IpFamily::V6
        )
        .is_none()
    );
}

#[test]
fn families_are_independent() {
    let dual = "kind NodePort; cluster-ip 10.200.1.63 fd00:10:200::63; port tcp 80 31000";
    let endpoints = "10.10.1.3 fd00:10:10:1::3";
    let v4 = plan(dual, endpoints, IpFamily::V4).unwrap();
    let v6 = plan(dual, endpoints, IpFamily::V6).unwrap();
    assert_eq!(*v4.ports[0].cluster, backends("10.10.1.3"));
    assert_eq!(*v6.ports[0].cluster, backends("fd00:10:10:1::3"));
    assert_eq!(v4.ports[0].frontends.len(), 2);
    assert_eq!(v6.ports[0].frontends.len(), 2);
    let single = "kind NodePort; cluster-ip 10.200.1.63; port tcp 80 31000";
    assert!(plan(single, endpoints, IpFamily::V6).is_none());
}

#[test]
fn fronts_follow_the_type() {
    let frontends = |kind: &str| {
        let text = format!(
            "kind {kind}; cluster-ip 10.200.1.63; port tcp 80 31000; vip 5.6.7.8; external-ip 1.2.3.4"
        );
        plan(&text, "10.10.1.3", IpFamily::V4).map(|plan| plan.ports[0].frontends.to_vec())
    };
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let cluster = Frontend::ClusterIp(ip("10.200.1.63"));
    let external = Frontend::ExternalIp(ip("1.2.3.4"));
    let balanced = Frontend::LoadBalancer(ip("5.6.7.8"));
    assert_eq!(frontends("ClusterIP").unwrap(), [cluster, external]);
    assert_eq!(
        frontends("NodePort").unwrap(),
        [cluster, external, Frontend::NodePort(31000)]
    );
    assert_eq!(
        frontends("LoadBalancer").unwrap(),
        [cluster, balanced, external, Frontend::NodePort(31000)]
    );
    assert_eq!(frontends("ExternalName"), None);
}

#[test]
fn what_was_not_granted_is_left_out_and_the_rest_stays() {
    let text = "kind NodePort; cluster-ip 10.200.1.63; port tcp 80 31000";
    let slices = [slice(SLICE, "10.10.1.3")];
    let granted = |claim: &Claim| !matches!(claim, Claim::NodePort(..));
    let plan = desired(
        &service(text),
        slices.iter(),
        IpFamily::V4,
        HERE,
        Balancing::Random,
        granted,
    )
    .unwrap();
    assert_eq!(plan.ports[0].frontends.len(), 1);
    let none = |_: &Claim| false;
    assert!(
        desired(
            &service(text),
            slices.iter(),
            IpFamily::V4,
            HERE,
            Balancing::Random,
            none
        )
        .is_none()
    );
}

#[test]
fn an_endpoint_that_stays_keeps_its_slot() {
    let check = |before: &str, wanted: &str, after: &str| {
        assert_eq!(
            *settle(&backends(before), &backends(wanted)),
            backends(after),
            "{before} -> {wanted}"
        );
    };
    check("", "10.1.0.1 10.1.0.2", "10.1.0.1 10.1.0.2");
    check(
        "10.1.0.2 10.1.0.1",
        "10.1.0.1 10.1.0.2",
        "10.1.0.2 10.1.0.1",
    );
    check(
        "10.1.0.1 10.1.0.2 10.1.0.3",
        "10.1.0.2 10.1.0.3",
        "10.1.0.3 10.1.0.2",
    );
    check(
        "10.1.0.1 10.1.0.2 10.1.0.3",
        "10.1.0.1 10.1.0.2",
        "10.1.0.1 10.1.0.2",
    );
    check(
        "10.1.0.1 10.1.0.2",
        "10.1.0.0 10.1.0.2",
        "10.1.0.0 10.1.0.2",
    );
    check(
        "10.1.0.1 10.1.0.2",
        "10.1.0.0 10.1.0.1 10.1.0.2",
        "10.1.0.1 10.1.0.2 10.1.0.0",
    );
    check("10.1.0.1 10.1.0.2 10.1.0.3", "10.1.0.9", "10.1.0.9");
    check("10.1.0.1 10.1.0.1", "10.1.0.1", "10.1.0.1");
    check("10.1.0.1 10.1.0.2", "", "");
}

#[test]
fn source_ranges_are_per_family_and_without_overlaps() {
    let text = "kind LoadBalancer; cluster-ip 10.200.1.63; vip 5.6.7.8; port tcp 80; \
                source 10.1.0.0/16 10.0.0.0/8 10.0.0.0/8 192.168.1.1/24 fd00::/8";
    let plan4 = plan(text, "10.10.1.3", IpFamily::V4).unwrap();
    let found: Vec<String> = plan4.ports[0]
        .sources
        .as_ref()
        .unwrap()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(found, ["10.0.0.0/8", "192.168.1.0/24"]);
    let open = "kind LoadBalancer; cluster-ip 10.200.1.63; vip 5.6.7.8; port tcp 80";
    assert_eq!(
        plan(open, "10.10.1.3", IpFamily::V4).unwrap().ports[0].sources,
        None
    );
}

#[test]
fn a_load_balancer_address_may_be_the_source_if_the_nodes_own_address_may() {
    let found = |node: &str, ranges: &str| {
        let text = format!(
            "kind LoadBalancer; cluster-ip 10.200.1.63 fd00:10:200::63; vip 5.6.7.8 fd00:5::8; \
             port tcp 80; source {ranges}"
        );
        let node = [node.parse().unwrap()];
        let here = Here {
            addresses: &node,
            ..HERE
        };
        [IpFamily::V4, IpFamily::V6].map(|family| {
            let plan = desired(
                &service(&text),
                [].iter(),
                family,
                here,
                Balancing::Random,
                |_| true,
            );
            let plan = plan.unwrap();
            let sources = plan.ports[0].sources.as_ref().unwrap();
            let texts: Vec<String> = sources.iter().map(ToString::to_string).collect();
            texts.join(" ")
        })
    };
    let ranges = "172.18.0.0/16 fd00:18::/64";
    assert_eq!(
        found("172.18.0.2", ranges),
        ["5.6.7.8/32 172.18.0.0/16", "fd00:18::/64"]
    );
    assert_eq!(
        found("fd00:18::2", ranges),
        ["172.18.0.0/16", "fd00:5::8/128 fd00:18::/64"]
    );
    assert_eq!(
        found("172.19.0.2", ranges),
        ["172.18.0.0/16", "fd00:18::/64"]
    );
    assert_eq!(
        found("172.18.0.2", "0.0.0.0/0 fd00:18::/64"),
        ["0.0.0.0/0", "fd00:18::/64"]
    );
}

#[test]
fn ranges_of_the_other_family_alone_let_nobody_in() {
    let text =
        "kind LoadBalancer; cluster-ip 10.200.1.63; vip 5.6.7.8; port tcp 80; source fd00::/8";
    let sources = plan(text, "10.10.1.3", IpFamily::V4).unwrap().ports[0]
        .sources
        .clone();
    assert_eq!(sources.as_deref(), Some(&[][..]));
}

/// A Service with so many ports at a ClusterIP and an external IP, and so many endpoints.
fn of_size(ports: u16, endpoints: u32) -> Plan {
    let mut service = service("cluster-ip 10.200.1.63; external-ip 192.0.2.1");
    let name = |number: u16| Arc::from(format!("p{number}"));
    let protocol = Protocol::Tcp;
    service.ports = (1..=ports)
        .map(|port| ServicePort {
            name: name(port),
            protocol,
            port,
            node_port: None,
        })
        .collect();
    let mut slices = Vec::new();
    for first in (0..endpoints).step_by(1_000) {
        let mut slice = slice(SLICE, "");
        slice.ports = (1..=ports)
            .map(|port| EndpointPort {
                name: name(port),
                protocol,
                port,
            })
            .collect();
        slice.endpoints = (first..endpoints.min(first + 1_000))
            .map(|number| Endpoint {
                address: std::net::Ipv4Addr::from(0x0a0a_0000 + number).into(),
                ready: true,
                serving: true,
                terminating: false,
                node: None,
                hints: None,
            })
            .collect();
        slices.push(slice);
    }
    let balancing = Balancing::Random;
    desired(
        &service,
        slices.iter(),
        IpFamily::V4,
        HERE,
        balancing,
        |_| true,
    )
    .unwrap()
}

#[test]
fn a_hundred_ports_with_five_thousand_endpoints_at_two_addresses_have_room() {
    let plan = of_size(100, 5_000);
    assert_eq!((plan.ports.len(), plan.left_out), (100, None));
    assert!(plan.ports.iter().all(|port| port.cluster.len() == 5_000));
    assert_eq!(limits::warnings(&plan).count(), 0);
}

#[test]
fn ports_for_which_there_is_no_room_are_left_out_and_named() {
    let plan = of_size(3_000, 1_000);
    let each = 2 * (1_000 + AT_AN_ADDRESS);
    assert_eq!(plan.ports.len(), MOST_ELEMENTS / each);
    assert!(plan.ports.iter().all(|port| port.cluster.len() == 1_000));
    assert_eq!(
        limits::warnings(&plan).collect::<Vec<_>>(),
        [
            "port 521/tcp and the 2479 after it are left out: ports, addresses, endpoints and source \
             ranges make more than the 1048576 elements of the kernel's maps that one Service may \
             take; spread them over several Services"
        ]
    );
}

/// No more than was counted, and no more than [`AT_AN_ADDRESS`] less for each address.
#[test]
fn what_a_port_takes_is_what_the_kernel_holds() {
    let all = "kind LoadBalancer; cluster-ip 10.200.1.63; external-ip 192.0.2.1; \
               vip 5.6.7.8 5.6.7.9; port tcp 80 30080";
    for restricted in [false, true] {
        for affinity in [None, Some(10)] {
            for policy in [TrafficPolicy::Cluster, TrafficPolicy::Local] {
                for balancing in [
                    Balancing::Random,
                    Balancing::RoundRobin,
                    Balancing::SourceHash,
                ] {
                    let mut plan = plan(all, "10.10.1.3", IpFamily::V4).unwrap();
                    let port = &mut plan.ports[0];
                    let fronts = port.frontends.len();
                    assert_eq!(fronts, 5);
                    port.cluster = of_size(1, 300).ports[0].cluster.clone();
                    port.local = port.cluster[..100].into();
                    (port.any, port.affinity, port.balancing) = (true, affinity, balancing);
                    (port.internal, port.external) = (policy, policy);
                    let ranges = (0..50).map(|number| {
                        let address = std::net::Ipv4Addr::new(198, 51, 100, number * 2);
                        IpNetwork::from(std::net::IpAddr::from(address))
                    });
                    port.sources = restricted.then(|| ranges.collect());
                    let counted = port.elements();
                    // One says that the ClusterIP is one.
                    let written = objects(&service("").name, &plan).elements.len() - 1;
                    // A chain of its own has its endpoints only for those who are asked for.
                    let unasked = match (affinity, policy) {
                        (Some(_), TrafficPolicy::Cluster) => 2 * 100,
                        _ => 0,
                    };
                    assert!(written <= counted, "{written} of {counted}");
                    assert!(written + fronts * AT_AN_ADDRESS + unasked >= counted);
                }
            }
        }
    }
}

#[test]
fn source_ranges_take_room_at_each_load_balancer_address() {
    let text = "kind LoadBalancer; cluster-ip 10.200.1.63; vip 5.6.7.8; port tcp 80";
    let mut service = service(text);
    service.source_ranges = (0..20_000u32)
        .map(|number| {
            let address = std::net::Ipv4Addr::from(0x0b00_0000 + number * 2);
            IpNetwork::from(std::net::IpAddr::from(address))
        })
        .collect();
    let port = service.ports[0].clone();
    service.ports = (1..=5_000)
        .map(|number| ServicePort {
            port: number,
            name: Arc::from(format!("p{number}")),
            ..port.clone()
        })
        .collect();
    let balancing = Balancing::Random;
    let plan = desired(&service, [].iter(), IpFamily::V4, HERE, balancing, |_| true).unwrap();
    let elements = objects(&service.name, &plan).elements.len();
    assert!(elements <= MOST_ELEMENTS && elements > MOST_ELEMENTS - 21_000);
    assert_eq!(plan.left_out.map(|left_out| left_out.first.1), Some(53));
}
