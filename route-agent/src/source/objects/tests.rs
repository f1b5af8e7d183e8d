use serde_json::json;

use super::*;
use crate::snapshot::{Balancing, ServiceKind, TrafficPolicy};

fn node(value: serde_json::Value) -> crate::snapshot::Node {
    serde_json::from_value::<Node>(value)
        .unwrap()
        .into_snapshot(&mut Names::default())
        .unwrap()
}

fn service(value: serde_json::Value) -> crate::snapshot::Service {
    serde_json::from_value::<Service>(value)
        .unwrap()
        .into_snapshot(&mut Names::default())
        .unwrap()
}

fn slice(value: serde_json::Value) -> crate::snapshot::EndpointSlice {
    let slice = serde_json::from_value::<EndpointSlice>(value).unwrap();
    slice.into_snapshot(&mut Names::default()).unwrap().unwrap()
}

fn fields(invalid: &[Invalid]) -> Vec<&str> {
    invalid.iter().map(|invalid| invalid.field).collect()
}

#[test]
fn a_node_of_the_walkthrough_is_read() {
    let worker = node(json!({
        "metadata": {"name": "worker", "labels": {
            "topology.kubernetes.io/zone": "a", "beta.kubernetes.io/os": "linux"},
            "creationTimestamp": "2026-11-23T04:00:00Z"},
        "spec": {"podCIDR": "10.10.1.0/24", "podCIDRs": ["10.10.1.0/24", "fd00:10:1::/64"],
            "taints": [{"key": "x", "effect": "NoSchedule"}]},
        "status": {"addresses": [
            {"type": "InternalIP", "address": "172.18.0.2"},
            {"type": "InternalIP", "address": "fc00::2"},
            {"type": "Hostname", "address": "worker"}],
            "capacity": {"cpu": "2"}}}));
    assert_eq!(worker.internal_ips.len(), 2);
    assert_eq!(worker.pod_cidrs.len(), 2);
    assert_eq!(worker.labels.len(), 1);
    assert_eq!(worker.created, Some(1_795_406_400));
    assert_eq!(&*worker.taints[0], "x");
    assert!(worker.invalid.is_empty() && !worker.deleting);
}

#[test]
fn bad_fields_of_a_node_are_left_out_and_named() {
    let worker = node(json!({
        "metadata": {"name": "worker", "deletionTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"podCIDRs": ["10.10.1.5/24", "10.10.2.0", 7, null, "0.0.0.0/0", "10.10.3.0/24"]},
        "status": {"addresses": [
            {"type": "InternalIP", "address": "172.18.0.256"},
            {"type": "InternalIP", "address": "127.0.0.1"},
            {"type": "InternalIP", "address": "fe80::1"},
            {"type": "InternalIP"},
            {"type": "InternalIP", "address": "172.18.0.2"}]}}));
    assert_eq!(
        worker.internal_ips,
        ["172.18.0.2".parse::<IpAddr>().unwrap()]
    );
    assert_eq!(
        worker.pod_cidrs,
        ["10.10.1.0/24", "10.10.3.0/24"].map(|text| text.parse::<IpNetwork>().unwrap())
    );
    assert_eq!(worker.invalid.len(), 9);
    assert_eq!(
        worker.invalid[4].to_string(),
        "spec.podCIDRs \"10.10.1.5/24\" is taken as 10.10.1.0/24: it has host bits set"
    );
    assert!(worker.deleting);
}

#[test]
fn pod_cidrs_that_the_plugin_would_refuse_are_left_out_and_named_and_the_others_are_used() {
    let worker = node(
        json!({"metadata": {"name": "worker"}, "spec": {"podCIDRs": [
        "10.10.1.0/24", "10.10.1.0/24", "10.10.1.128/25", "10.10.0.0/16", "10.9.9.4/31",
        "10.9.9.7/32", "fd00::2/127", "fd00::9/128", "0.0.0.0/8", "::/64", "169.254.0.0/16",
        "fe80::/64", "fd00:1::/64", "10.10.2.0/30"]}}),
    );
    let used = ["10.10.1.0/24", "fd00:1::/64", "10.10.2.0/30"];
    assert_eq!(
        worker.pod_cidrs,
        used.map(|text| text.parse::<IpNetwork>().unwrap())
    );
    assert_eq!(worker.invalid.len(), 10, "{:?}", worker.invalid);
    for v6 in [false, true] {
        let of_family = worker.pod_cidrs.iter().filter(|cidr| cidr.is_ipv6() == v6);
        let pool: Vec<_> = of_family.map(|cidr| json!({ "subnet": cidr })).collect();
        let pool = json!(pool);
        let read = podwire::range::RangeSet::read(&podwire::json::Node::of_document(&pool));
        assert!(read.is_ok(), "{read:?}");
    }
}

#[test]
fn of_very_many_pod_cidrs_and_addresses_of_a_node_some_are_read_and_the_next_is_named() {
    let start = std::time::Instant::now();
    let address = |at: u32| std::net::Ipv4Addr::from(0x0a00_0000 + at);
    let cidrs: Vec<_> = (0..30_000u32)
        .map(|at| format!("{}/28", address(16 * at)))
        .collect();
    let addresses: Vec<_> = (1..=30_000u32)
        .map(|at| json!({"type": "InternalIP", "address": address(at).to_string()}))
        .collect();
    let worker = node(json!({"metadata": {"name": "worker"},
        "spec": {"podCIDRs": cidrs}, "status": {"addresses": addresses}}));
    assert_eq!(
        (worker.internal_ips.len(), worker.pod_cidrs.len()),
        (1000, 250)
    );
    assert_eq!(
        notes(&worker.invalid),
        [
            "status.addresses[InternalIP] \"10.0.3.233\" is left out: it is one more than the 1000 that \
             are read of a Node",
            "spec.podCIDRs \"10.0.15.160/28\" is left out: it is one more than the 250 that are read of a \
             Node",
        ]
    );
    // To compare each with each takes several times as long.
    assert!(start.elapsed() < std::time::Duration::from_secs(2));
}

#[test]
fn an_internal_ip_that_is_no_destination_is_left_out_and_named_as_with_services() {
    for bad in [
        "255.255.255.255",
        "0.1.2.3",
        "0.0.0.0",
        "224.0.0.1",
        "169.254.1.1",
        "::1",
    ] {
        let worker = node(
            json!({"metadata": {"name": "worker"}, "status": {"addresses": [
            {"type": "InternalIP", "address": bad},
            {"type": "InternalIP", "address": "172.18.0.2"}]}}),
        );
        assert_eq!(worker.internal_ips.len(), 1, "{bad}");
        assert_eq!(worker.invalid.len(), 1, "{bad}");
    }
}

#[test]
fn other_addresses_of_a_node_are_read_in_old_spellings_too_and_host_names_are_passed_over() {
    let worker = node(
        json!({"metadata": {"name": "worker"}, "status": {"addresses": [
        {"type": "ExternalIP", "address": "203.000.113.005"},
        {"type": "ExternalIP", "address": "::ffff:203.0.113.6"},
        {"type": "ExternalIP", "address": "203.0.113.7"},
        {"type": "InternalDNS", "address": "worker.example"},
        {"type": "Hostname", "address": "worker"}]}}),
    );
    let expected = ["203.0.113.5", "203.0.113.6", "203.0.113.7"];
    assert_eq!(
        worker.other_ips,
        expected.map(|text| text.parse::<IpAddr>().unwrap())
    );
    assert_eq!(worker.invalid.len(), 2, "{:?}", worker.invalid);
}

#[test]
fn pod_cidr_alone_counts_when_pod_cidrs_is_missing_or_null() {
    for spec in [
        json!({"podCIDR": "10.10.1.0/24"}),
        json!({"podCIDR": "10.10.1.0/24", "podCIDRs": null}),
        json!({"podCIDRs": ["10.10.1.0/24"]}),
    ] {
        let worker = node(json!({"metadata": {"name": "w"}, "spec": spec}));
        assert_eq!(worker.pod_cidrs.len(), 1);
    }
    assert!(
        node(json!({"metadata": {"name": "w"}, "spec": {"podCIDR": ""}}))
            .invalid
            .is_empty()
    );
}

#[test]
fn a_single_value_that_is_not_the_first_of_several_is_named() {
    let service = |spec: serde_json::Value| {
        let web = service(json!({"metadata": {"name": "web"}, "spec": spec}));
        (web.cluster_ips.len(), notes(&web.invalid))
    };
    let named = |field: &str, value: &str| {
        vec![format!(
            "{field} \"{value}\" is left out: it is not the first of {field}s, which counts"
        )]
    };
    let several = json!(["10.200.1.63", "fd00::1"]);
    for (single, found) in [
        (json!("10.200.1.63"), vec![]),
        (json!("010.200.1.63"), vec![]),
        (json!(""), vec![]),
        (json!(null), vec![]),
        (json!("10.200.1.64"), named("spec.clusterIP", "10.200.1.64")),
        (json!("fd00::1"), named("spec.clusterIP", "fd00::1")),
        (json!("None"), named("spec.clusterIP", "None")),
    ] {
        let spec = json!({"clusterIP": single, "clusterIPs": several});
        assert_eq!(service(spec), (2, found));
    }
    let headless = json!({"clusterIP": "None", "clusterIPs": ["None"]});
    assert_eq!(service(headless), (0, vec![]));
    let not_headless = json!({"clusterIP": "10.200.1.63", "clusterIPs": ["None"]});
    assert_eq!(
        service(not_headless),
        (0, named("spec.clusterIP", "10.200.1.63"))
    );

    let node = |single: &str| {
        let spec = json!({"podCIDR": single, "podCIDRs": ["10.10.1.0/24", "fd00:1::/64"]});
        let worker = node(json!({"metadata": {"name": "worker"}, "spec": spec}));
        (worker.pod_cidrs.len(), notes(&worker.invalid))
    };
    for same in ["10.10.1.0/24", " 10.10.1.7/24"] {
        assert_eq!(node(same), (2, vec![]));
    }
    assert_eq!(
        node("10.10.2.0/24"),
        (2, named("spec.podCIDR", "10.10.2.0/24"))
    );
    assert_eq!(
        node("10.10.1.0/25"),
        (2, named("spec.podCIDR", "10.10.1.0/25"))
    );

    let pod = |single: &str| {
        let status = json!({"podIP": single, "podIPs": [{"ip": "10.10.1.5"}, {"ip": "fd00::5"}]});
        let pod = json!({"metadata": {"name": "a"}, "status": status});
        let pod = serde_json::from_value::<Pod>(pod).unwrap();
        notes(&pod.into_snapshot(&mut Names::default()).unwrap().invalid)
    };
    assert_eq!(pod("10.10.1.5"), [""; 0]);
    assert_eq!(pod("10.10.1.6"), named("status.podIP", "10.10.1.6"));
}

#[test]
fn a_time_of_creation_that_is_none_is_named() {
    let metadata = |time: serde_json::Value| json!({"name": "a", "creationTimestamp": time});
    for (time, fault) in [
        (json!("2026-11-23T04:00:00Z"), false),
        (json!(null), false),
        (json!(""), false),
        (json!("2026-11-23"), true),
        (json!(1_795_406_400), true),
        (json!(["x"]), true),
    ] {
        let object = json!({"metadata": metadata(time.clone())});
        let pod = serde_json::from_value::<Pod>(object.clone()).unwrap();
        let pod = pod.into_snapshot(&mut Names::default()).unwrap();
        let (node, service) = (node(object.clone()), service(object));
        for invalid in [&node.invalid[..], &service.invalid, &pod.invalid] {
            assert_eq!(
                fields(invalid),
                vec!["metadata.creationTimestamp"; usize::from(fault)]
            );
        }
        let none = node.created.or(service.created).or(pod.created).is_none();
        assert_eq!(
            none,
            fault || time == json!(null) || time == json!(""),
            "{time}"
        );
    }
}

#[test]
fn an_object_without_a_name_is_refused() {
    for metadata in [json!({}), json!({"name": ""}), json!({"name": null})] {
        let node: Node = serde_json::from_value(json!({ "metadata": metadata })).unwrap();
        assert_eq!(
            node.into_snapshot(&mut Names::default()),
            Err(Unnamed::Missing)
        );
    }
}

#[test]
fn a_name_that_no_object_can_have_is_refused() {
    for name in ["a\nb", "\u{1b}]0;title\u{7}", &"x".repeat(254)] {
        for metadata in [
            json!({ "name": name }),
            json!({ "name": "a", "namespace": name }),
        ] {
            let service: Service = serde_json::from_value(json!({ "metadata": metadata })).unwrap();
            let refused = service.into_snapshot(&mut Names::default());
            assert_eq!(refused, Err(Unnamed::Impossible), "{name:?}");
        }
    }
}

/// What is noted of an object, as warnings say it.
fn notes(invalid: &[Invalid]) -> Vec<String> {
    invalid.iter().map(ToString::to_string).collect()
}

#[test]
fn addresses_written_in_old_ways_are_read_as_kubernetes_reads_them_and_named() {
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let worker = node(json!({"metadata": {"name": "worker"},
        "spec": {"podCIDRs": ["010.10.1.0/24", "fd00:10:1::1/64"]},
        "status": {"addresses": [
            {"type": "InternalIP", "address": "172.018.0.02"},
            {"type": "InternalIP", "address": "::ffff:172.18.0.9"}]}}));
    assert_eq!(worker.internal_ips, [ip("172.18.0.2"), ip("172.18.0.9")]);
    let cidrs = ["10.10.1.0/24", "fd00:10:1::/64"];
    assert_eq!(
        worker.pod_cidrs,
        cidrs.map(|text| text.parse::<IpNetwork>().unwrap())
    );
    assert_eq!(worker.invalid.len(), 4, "{:?}", worker.invalid);

    let web = service(json!({"metadata": {"name": "web"},
        "spec": {"type": "LoadBalancer", "clusterIPs": ["010.200.1.63", "::ffff:10.200.1.64"],
            "externalIPs": ["192.0.2.01", "192.0.2.1"],
            "loadBalancerSourceRanges": ["::ffff:10.0.0.0/104", "192.0.2.7/24"]},
        "status": {"loadBalancer": {"ingress": [{"ip": "198.051.100.001"}]}}}));
    assert_eq!(*web.cluster_ips, [ip("10.200.1.63"), ip("10.200.1.64")]);
    assert_eq!(*web.external_ips, [ip("192.0.2.1")]);
    assert_eq!(*web.load_balancer_vips, [ip("198.51.100.1")]);
    let ranges = ["10.0.0.0/8", "192.0.2.0/24"];
    assert_eq!(
        *web.source_ranges,
        ranges.map(|text| text.parse::<IpNetwork>().unwrap())
    );
    assert_eq!(web.invalid.len(), 7, "{:?}", web.invalid);
    assert!(
        notes(&web.invalid).contains(
            &"spec.loadBalancerSourceRanges \"::ffff:10.0.0.0/104\" is taken as 10.0.0.0/8: \
              it is an IPv4 address written as IPv6"
                .to_owned()
        ),
        "{:?}",
        web.invalid
    );

    let of_type = |address_type: &str| {
        slice(json!({"metadata": {"name": "web-1",
                "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": address_type,
            "endpoints": [{"addresses": ["010.10.1.3"]}, {"addresses": ["::ffff:10.10.1.4"]}]}))
    };
    let v4 = of_type("IPv4");
    let addresses: Vec<IpAddr> = v4.endpoints.iter().map(|one| one.address).collect();
    assert_eq!(addresses, [ip("10.10.1.3"), ip("10.10.1.4")]);
    assert_eq!(v4.invalid.len(), 2);
    // The API server refuses these in a slice of IPv6.
    let v6 = of_type("IPv6");
    assert_eq!(v6.endpoints.len(), 0);
    let left_out = |address| {
        let why = "is left out: it is not of the slice's addressType";
        format!("endpoints[].addresses[0] \"{address}\" {why}")
    };
    assert_eq!(
        notes(&v6.invalid),
        ["010.10.1.3", "::ffff:10.10.1.4"].map(left_out)
    );
}

#[test]
fn a_value_that_is_replaced_says_by_what() {
    let web = service(
        json!({"metadata": {"name": "web"}, "spec": {"type": "Magic",
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}}}}),
    );
    assert_eq!(
        notes(&web.invalid),
        [
            "spec.type \"Magic\" is taken as ClusterIP: it is not ClusterIP, NodePort, LoadBalancer \
             or ExternalName",
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds \"0\" is taken as 10800: it is not \
             between 1 and 86400",
        ]
    );
}

#[test]
fn a_service_takes_the_defaults_of_the_api() {
    let web = service(json!({"metadata": {"name": "web"},
        "spec": {"clusterIP": "10.200.1.63", "ports": [{"port": 9000, "targetPort": 80}]}}));
    assert_eq!(web.name.to_string(), "default/web");
    assert_eq!(web.kind, ServiceKind::ClusterIp);
    assert_eq!(web.cluster_ips.len(), 1);
    assert_eq!(
        (web.ports[0].port, web.ports[0].protocol),
        (9000, Protocol::Tcp)
    );
    assert_eq!(web.external_policy, TrafficPolicy::Cluster);
    assert_eq!((web.affinity, web.balancing), (None, None));
    assert!(web.invalid.is_empty());
}

#[test]
fn every_field_of_a_service_is_read() {
    let web = service(json!({"metadata": {"name": "web", "namespace": "shop",
            "annotations": {"podwire.io/balancing": "round-robin"}},
        "spec": {"type": "LoadBalancer", "clusterIPs": ["10.200.1.63", "fd00::1"],
            "ports": [{"name": "http", "protocol": "TCP", "port": 80, "nodePort": 30080},
                {"name": "dns", "protocol": "UDP", "port": 80}],
            "externalIPs": ["192.0.2.1"], "externalTrafficPolicy": "Local",
            "internalTrafficPolicy": "Local", "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}},
            "loadBalancerSourceRanges": [" 192.0.2.0/24 "], "healthCheckNodePort": 32000},
        "status": {"loadBalancer": {"ingress": [
            {"ip": "198.51.100.1"}, {"ip": "198.51.100.2", "ipMode": "Proxy"},
            {"ip": "198.51.100.3", "ipMode": "VIP"}, {"hostname": "lb.example"}]}}}));
    assert_eq!(web.kind, ServiceKind::LoadBalancer);
    assert_eq!(web.cluster_ips.len(), 2);
    assert_eq!(web.ports.len(), 2);
    assert_eq!(web.ports[0].node_port, Some(30080));
    assert_eq!(web.load_balancer_vips.len(), 2);
    assert_eq!(web.source_ranges[0].to_string(), "192.0.2.0/24");
    assert_eq!(web.affinity, Some(5));
    assert_eq!(web.health_check_node_port, Some(32000));
    assert_eq!(web.balancing, Some(Balancing::RoundRobin));
    assert_eq!(web.external_policy, TrafficPolicy::Local);
    assert_eq!(web.internal_policy, TrafficPolicy::Local);
    assert!(web.invalid.is_empty(), "{:?}", web.invalid);
}

#[test]
fn a_way_of_load_balancing_that_is_not_known_is_taken_for_the_usual_one_and_named() {
    let web = service(json!({"metadata": {"name": "web"},
        "spec": {"type": "LoadBalancer", "clusterIP": "10.200.1.1", "ports": [{"port": 80}]},
        "status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.1", "ipMode": "vip"}]}}}));
    assert_eq!(web.load_balancer_vips.len(), 1);
    assert_eq!(web.invalid[0].field, "status.loadBalancer.ingress[].ipMode");
}

#[test]
fn bad_fields_of_a_service_are_left_out_and_named() {
    let web = service(json!({"metadata": {"name": "web",
            "annotations": {"podwire.io/balancing": "best"}},
        "spec": {"type": "Magic", "clusterIPs": ["10.200.1", "10.200.1.1", "10.200.1.1"],
            "ports": [{"port": 0}, {"port": 70000}, {"port": "http"}, {"port": -1},
                {"port": 80, "protocol": "ICMP"}, {"port": 80, "nodePort": 99999},
                {"port": 80, "name": "b"}, {"port": 81}],
            "externalIPs": [["x"]], "externalTrafficPolicy": "Near",
            "internalTrafficPolicy": true, "sessionAffinity": "Cookie",
            "loadBalancerSourceRanges": ["all"], "healthCheckNodePort": 65536},
        "status": {"loadBalancer": {"ingress": [{"ip": "no"}]}}}));
    assert_eq!(
        fields(&web.invalid),
        [
            "spec.type",
            "spec.clusterIPs",
            "spec.clusterIPs",
            "spec.ports[].port",
            "spec.ports[].port",
            "spec.ports[].port",
            "spec.ports[].port",
            "spec.ports[].protocol",
            "spec.ports[].nodePort",
            "spec.ports[].port",
            "spec.ports[].name",
            "spec.externalIPs",
            "status.loadBalancer.ingress[].ip",
            "spec.loadBalancerSourceRanges",
            "spec.externalTrafficPolicy",
            "spec.internalTrafficPolicy",
            "spec.sessionAffinity",
            "spec.healthCheckNodePort",
            "metadata.annotations[podwire.io/balancing]",
        ]
    );
    assert_eq!(web.cluster_ips.len(), 1);
    assert_eq!(web.ports.len(), 1);
    assert_eq!(web.ports[0].node_port, None);
}

#[test]
fn a_slice_takes_the_defaults_of_the_api() {
    let web = slice(json!({"metadata": {"name": "web-1",
            "labels": {"kubernetes.io/service-name": "web"},
            "annotations": {"endpoints.kubernetes.io/last-change-trigger-time":
                "2026-11-23T04:00:00.123456Z"}},
        "addressType": "IPv4", "ports": [{"name": "", "port": 80}],
        "endpoints": [{"addresses": ["10.10.1.3", "10.10.1.4"], "nodeName": "worker",
            "conditions": {}, "hints": {"forZones": [{"name": "a"}]}},
            {"addresses": ["10.10.2.4"], "conditions": {"ready": false, "terminating": true}}]}));
    assert_eq!(web.service.to_string(), "default/web");
    assert_eq!(web.last_change, Some(1_795_406_400_123));
    let mut endpoints = web.endpoints.iter();
    let first = endpoints.next().unwrap();
    assert_eq!(first.address.to_string(), "10.10.1.3");
    assert!(first.ready && first.serving && !first.terminating);
    assert_eq!(&*first.hints.as_ref().unwrap().zones[0], "a");
    let second = endpoints.next().unwrap();
    assert!(!second.ready && second.serving && second.terminating && second.hints.is_none());
}

#[test]
fn bad_fields_of_a_slice_are_left_out_and_named() {
    let web = slice(json!({"metadata": {"name": "web-1",
            "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"port": 80}, {"name": ""}, {"name": "a", "port": 0},
            {"name": "b", "port": 65536}, {"name": "c", "port": 1, "protocol": "tcp"}],
        "endpoints": [{"addresses": []}, {"addresses": ["fd00::1"]}, {"addresses": ["x"]},
            {"addresses": ["10.0.0.1"], "conditions": {"ready": "maybe"}}]}));
    assert_eq!(
        fields(&web.invalid),
        [
            "endpoints[].addresses",
            "endpoints[].addresses[0]",
            "endpoints[].addresses[0]",
            "endpoints[].conditions.ready",
            "ports[].name",
            "ports[].port",
            "ports[].port",
            "ports[].port",
            "ports[].protocol",
        ]
    );
    assert_eq!((web.endpoints.len(), web.ports.len()), (1, 0));
}

#[test]
fn slices_of_host_names_or_without_a_service_are_passed_over() {
    for value in [
        json!({"metadata": {"name": "a", "labels": {"kubernetes.io/service-name": "w"}},
            "addressType": "FQDN", "endpoints": [{"addresses": ["example.com"]}]}),
        json!({"metadata": {"name": "a"}, "addressType": "IPv4"}),
        json!({"metadata": {"name": "a", "labels": {"kubernetes.io/service-name": ""}},
            "addressType": "IPv4"}),
    ] {
        let slice: EndpointSlice = serde_json::from_value(value).unwrap();
        assert_eq!(slice.into_snapshot(&mut Names::default()), Ok(None));
    }
}

#[test]
fn a_long_bad_value_is_cut_at_a_character() {
    let mut checker = Checker::default();
    checker.bad("f", "ä".repeat(300), "is long");
    assert_eq!(checker.invalid[0].value.len(), 100);
    checker.bad("f", format!("x{}", "ä".repeat(300)), "is long");
    assert_eq!(checker.invalid[1].value.len(), 99);
}

#[test]
fn names_are_shared_and_forgotten_when_they_are_not_used() {
    let mut names = Names::default();
    let first = names.get("worker");
    assert!(Arc::ptr_eq(&first, &names.get("worker")));
    for number in 0..10_000 {
        names.get(&format!("gone-{number}"));
    }
    assert!(names.texts.known.len() <= 2048);
    assert!(Arc::ptr_eq(&first, &names.get("worker")));
}
