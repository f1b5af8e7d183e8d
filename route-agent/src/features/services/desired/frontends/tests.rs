use super::*;
use crate::features::services::desired::samples::service;
use crate::snapshot::Invalid;

fn warnings(service: &Service) -> Vec<String> {
    super::warnings(service).collect()
}

fn shown(text: &str) -> Vec<String> {
    claims(&service(text), IpFamily::V4, &Externals::default())
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[track_caller]
fn check(text: &str, claims: &[&str], warning: &str) {
    assert_eq!(shown(text), claims);
    let texts = warnings(&service(text));
    match warning {
        "" => assert_eq!(texts, Vec::<String>::new()),
        warning => {
            assert_eq!(texts.len(), 1, "{texts:?}");
            assert!(texts[0].contains(warning), "{texts:?}");
        }
    }
}

const GOOD: [&str; 2] = ["ClusterIP 10.200.1.63", "port 80/tcp of 10.200.1.63"];

#[test]
fn a_good_service_claims_its_addresses_and_ports() {
    check("cluster-ip 10.200.1.63; port tcp 80", &GOOD, "");
    check(
        "kind LoadBalancer; cluster-ip 10.200.1.63; port udp 53 31053; vip 5.6.7.8",
        &[
            "ClusterIP 10.200.1.63",
            "port 53/udp of 5.6.7.8",
            "port 53/udp of 10.200.1.63",
            "node port 31053/udp",
        ],
        "",
    );
}

#[test]
fn the_same_number_may_exist_for_two_protocols() {
    let both = [
        "ClusterIP 10.200.1.63",
        "port 53/tcp of 10.200.1.63",
        "port 53/udp of 10.200.1.63",
    ];
    check(
        "cluster-ip 10.200.1.63; port tcp 53; port udp 53",
        &both,
        "",
    );
}

#[test]
fn a_bad_port_is_left_out_and_the_others_stay() {
    check(
        "cluster-ip 10.200.1.63; port tcp 80; port tcp 0 name=zero",
        &GOOD,
        "0 is not a port",
    );
    let long = format!(
        "cluster-ip 10.200.1.63; port tcp 80; port tcp 81 name={}",
        "x".repeat(300)
    );
    check(&long, &GOOD, "not a DNS label");
}

#[test]
fn a_bad_address_is_left_out_and_the_others_stay() {
    for bad in [
        "127.0.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "ff02::1",
    ] {
        check(
            &format!("cluster-ip 10.200.1.63; external-ip {bad}; port tcp 80"),
            &GOOD,
            bad,
        );
        check(
            &format!("cluster-ip 10.200.1.63 {bad}; port tcp 80"),
            &GOOD,
            bad,
        );
        let vip = format!("kind LoadBalancer; cluster-ip 10.200.1.63; vip {bad}; port tcp 80");
        check(&vip, &GOOD, bad);
    }
}

#[test]
fn an_address_of_a_family_in_which_the_service_has_no_cluster_ip_is_named() {
    let reason = "it is of a family in which the Service has no ClusterIP";
    for text in [
        "cluster-ip 10.200.1.63; external-ip 2001:db8::5; port tcp 80",
        "kind LoadBalancer; cluster-ip 10.200.1.63; vip 2001:db8::5; port tcp 80",
    ] {
        check(text, &GOOD, &format!("`2001:db8::5` is left out: {reason}"));
    }
    let v6 = service("cluster-ip fd00::63; external-ip 192.0.2.5; port tcp 80");
    let left_out = format!("spec.externalIPs `192.0.2.5` is left out: {reason}");
    assert_eq!(warnings(&v6), [left_out]);
    let both =
        service("cluster-ip 10.200.1.63 fd00::63; external-ip 192.0.2.5 2001:db8::5; port tcp 80");
    assert_eq!(warnings(&both), [""; 0]);
}

#[test]
fn a_name_of_300_characters_keeps_the_service_out() {
    let mut bad = service("cluster-ip 10.200.1.63; port tcp 80");
    bad.name.name = "x".repeat(300).into();
    assert!(claims(&bad, IpFamily::V4, &Externals::default()).is_empty());
    let texts = warnings(&bad);
    assert!(texts[0].contains("300 characters"), "{texts:?}");
    bad.name.name = "name with \"quotes\"".into();
    assert!(claims(&bad, IpFamily::V4, &Externals::default()).is_empty());
}

#[test]
fn an_affinity_time_out_out_of_range_falls_back() {
    let seconds = |text: &str| affinity(&service(text));
    assert_eq!(
        seconds("cluster-ip 10.200.1.63; affinity 60; port tcp 80"),
        Some(60)
    );
    assert_eq!(seconds("cluster-ip 10.200.1.63; port tcp 80"), None);
    assert_eq!(
        seconds("cluster-ip 10.200.1.63; affinity 0; port tcp 80"),
        Some(10_800)
    );
    assert_eq!(
        seconds("cluster-ip 10.200.1.63; affinity 86401; port tcp 80"),
        Some(10_800)
    );
    check(
        "cluster-ip 10.200.1.63; affinity 0; port tcp 80",
        &GOOD,
        "out of range",
    );
}

#[test]
fn an_address_that_is_both_is_a_load_balancer_address() {
    let text =
        "kind LoadBalancer; cluster-ip 10.200.1.63; vip 5.6.7.8; external-ip 5.6.7.8; port tcp 80";
    let service = service(text);
    let found = of_port(&service, &service.ports[0], IpFamily::V4);
    assert!(found.contains(&Frontend::LoadBalancer("5.6.7.8".parse().unwrap())));
    assert_eq!(found.len(), 2);
}

#[test]
fn unreadable_source_ranges_do_not_open_the_service() {
    let mut bad = service("kind LoadBalancer; cluster-ip 10.200.1.63; vip 5.6.7.8; port tcp 80");
    assert!(!restricts_sources(&bad));
    bad.invalid.push(Invalid {
        field: "spec.loadBalancerSourceRanges",
        value: "10.0.0.0/33".into(),
        reason: "is not a CIDR",
        taken: None,
    });
    assert!(restricts_sources(&bad));
    assert!(warnings(&bad)[0].contains("10.0.0.0/33"));
}

#[test]
fn ports_for_which_their_addresses_leave_no_room_are_left_out_and_named() {
    let mut service = service("kind NodePort; cluster-ip 10.200.1.63; port tcp 80 31000");
    let first = service.ports[0].clone();
    let with_node_port = |port| ServicePort {
        port,
        node_port: Some(port),
        ..first.clone()
    };
    service.ports = (1..=1_000).map(with_node_port).collect();
    // With the ClusterIP and the node port each port is at 1,024 places.
    let external = |number: u32| IpAddr::from(std::net::Ipv4Addr::from(0xc633_6400 + number));
    service.external_ips = (0..1_022).map(external).collect();
    let claims = claims(&service, IpFamily::V4, &Externals::default());
    assert_eq!(claims.len(), MOST_PORTALS + 1);
    assert_eq!(
        warnings(&service),
        [
            "port 257/tcp and the 743 after it are left out: ports and addresses make more than \
             the 262144 ports at addresses that one Service may take; spread them over several \
             Services"
        ]
    );
    // Every number of a port at a ClusterIP and an external IP, and as a node port.
    service.ports = (1..=u16::MAX).map(with_node_port).collect();
    service.external_ips = vec![external(0)].into();
    assert_eq!(warnings(&service), [""; 0]);
}
