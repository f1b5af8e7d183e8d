use std::sync::Arc;

use super::*;
use crate::snapshot::{Endpoint, EndpointPort, Few, Invalid, ObjectName};

const HERE: Here<'static> = Here {
    addresses: &[],
    gone_nodes: &[],
    uplink: None,
    node: "worker",
    zone: Some("a"),
};

/// An endpoint from a short description: `10.10.1.3 here terminating node=worker,worker2 zone=a`.
fn endpoint(text: &str) -> Endpoint {
    let mut words = text.split_whitespace();
    let address = words.next().unwrap().parse().unwrap();
    let mut endpoint = Endpoint {
        address,
        ready: true,
        serving: true,
        terminating: false,
        node: Some(Arc::from("elsewhere")),
        hints: None,
    };
    for word in words {
        match word.split_once('=') {
            Some(("node", names)) => {
                endpoint.hints.get_or_insert_default().nodes =
                    names.split(',').map(Arc::from).collect();
            }
            Some(("zone", names)) => {
                endpoint.hints.get_or_insert_default().zones =
                    names.split(',').map(Arc::from).collect();
            }
            None if word == "here" => endpoint.node = Some(Arc::from("worker")),
            None if word == "nowhere" => endpoint.node = None,
            None if word == "unready" => (endpoint.ready, endpoint.serving) = (false, false),
            None if word == "draining" => (endpoint.ready, endpoint.terminating) = (false, true),
            None if word == "dead" => {
                endpoint.ready = false;
                endpoint.serving = false;
                endpoint.terminating = true;
            }
            _ => panic!("{word}?"),
        }
    }
    endpoint
}

fn slice(name: &str, port: u16, endpoints: &[&str]) -> EndpointSlice {
    let object = |name: &str| ObjectName {
        namespace: Arc::from("default"),
        name: Arc::from(name),
    };
    EndpointSlice {
        name: object(name),
        service: object("web"),
        ports: Box::new([EndpointPort {
            name: Arc::from("http"),
            protocol: Protocol::Tcp,
            port,
        }]),
        endpoints: endpoints.iter().map(|text| endpoint(text)).collect(),
        last_change: None,
        invalid: Few::new(),
    }
}

fn show(backends: &[Backend]) -> String {
    let words: Vec<String> = backends
        .iter()
        .map(|b| match b.port {
            80 => b.address.to_string(),
            port => format!("{}:{port}", b.address),
        })
        .collect();
    words.join(" ")
}

fn selected(slices: &[EndpointSlice]) -> Selected {
    select(slices, "http", Protocol::Tcp, IpFamily::V4, HERE)
}

fn select<'a>(
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    port_name: &str,
    protocol: Protocol,
    family: IpFamily,
    here: Here<'_>,
) -> Selected {
    Offers::of(slices, family).select(port_name, protocol, here)
}

/// Endpoints in; for policy Cluster and for policy Local the ones that answer; and whether any
/// endpoint anywhere could.
#[track_caller]
fn check(endpoints: &[&str], cluster: &str, local: &str, any: bool) {
    let found = selected(&[slice("web-1", 80, endpoints)]);
    assert_eq!(show(&found.cluster), cluster, "policy Cluster");
    assert_eq!(show(&found.local), local, "policy Local");
    assert_eq!(found.any, any, "any");
}

#[test]
fn ready_endpoints_answer_and_others_do_not() {
    check(
        &["10.10.1.3 here", "10.10.2.4", "10.10.3.3 unready"],
        "10.10.1.3 10.10.2.4",
        "10.10.1.3",
        true,
    );
    check(&["10.10.1.3 here unready"], "", "", false);
    check(&["10.10.1.3 dead here"], "", "", false);
    check(&["10.10.1.3 nowhere"], "10.10.1.3", "", true);
    check(&[], "", "", false);
}

#[test]
fn who_serves_may_go_on_wherever_new_connections_go() {
    let endpoints = [
        "10.10.1.3 here",
        "10.10.2.4 draining",
        "10.10.3.3 unready",
        "10.10.3.4 dead",
    ];
    let found = selected(&[slice("web-1", 80, &endpoints)]);
    assert_eq!(show(&found.cluster), "10.10.1.3");
    assert_eq!(show(&found.serving), "10.10.1.3 10.10.2.4");
}

#[test]
fn draining_endpoints_answer_only_if_no_ready_one_is_left() {
    check(
        &["10.10.1.3 here draining", "10.10.2.4"],
        "10.10.2.4",
        "10.10.1.3",
        true,
    );
    check(
        &["10.10.1.3 draining", "10.10.2.4 here"],
        "10.10.2.4",
        "10.10.2.4",
        true,
    );
    check(
        &["10.10.1.3 here draining", "10.10.2.4 draining"],
        "10.10.1.3 10.10.2.4",
        "10.10.1.3",
        true,
    );
    check(
        &["10.10.1.3 here draining", "10.10.1.4 here"],
        "10.10.1.4",
        "10.10.1.4",
        true,
    );
    check(&["10.10.2.4 draining"], "10.10.2.4", "", true);
}

#[test]
fn node_hints_keep_traffic_on_the_node_if_every_ready_endpoint_has_them() {
    let here = "10.10.1.3 here node=worker";
    check(
        &[here, "10.10.2.4 node=worker2"],
        "10.10.1.3",
        "10.10.1.3",
        true,
    );
    check(
        &[here, "10.10.2.4"],
        "10.10.1.3 10.10.2.4",
        "10.10.1.3",
        true,
    );
    check(&[here, "10.10.2.4 unready"], "10.10.1.3", "10.10.1.3", true);
    check(
        &["10.10.2.4 node=worker2", "10.10.3.3 node=worker3"],
        "10.10.2.4 10.10.3.3",
        "",
        true,
    );
}

#[test]
fn zone_hints_keep_traffic_in_the_zone_if_every_ready_endpoint_has_them() {
    check(
        &["10.10.1.3 zone=a", "10.10.2.4 zone=b"],
        "10.10.1.3",
        "",
        true,
    );
    check(
        &["10.10.1.3 zone=a,b", "10.10.2.4 zone=b,a"],
        "10.10.1.3 10.10.2.4",
        "",
        true,
    );
    check(
        &["10.10.1.3 zone=a", "10.10.2.4"],
        "10.10.1.3 10.10.2.4",
        "",
        true,
    );
    check(
        &["10.10.1.3 zone=b", "10.10.2.4 zone=c"],
        "10.10.1.3 10.10.2.4",
        "",
        true,
    );
}

#[test]
fn node_hints_go_before_zone_hints_and_fall_back_to_them() {
    let near = "10.10.1.3 node=worker zone=a";
    check(
        &[
            near,
            "10.10.2.4 node=worker2 zone=a",
            "10.10.3.3 node=worker3 zone=b",
        ],
        "10.10.1.3",
        "",
        true,
    );
    let none_here = [
        "10.10.2.4 node=worker2 zone=a",
        "10.10.3.3 node=worker3 zone=b",
    ];
    check(&none_here, "10.10.2.4", "", true);
}

#[test]
fn topology_is_for_ready_endpoints_only() {
    check(
        &["10.10.1.3 draining zone=a", "10.10.2.4 draining zone=b"],
        "10.10.1.3 10.10.2.4",
        "",
        true,
    );
    check(
        &["10.10.1.3 draining zone=a", "10.10.2.4 zone=b"],
        "10.10.2.4",
        "",
        true,
    );
}

#[test]
fn a_node_without_a_zone_ignores_zone_hints() {
    let slices = [slice(
        "web-1",
        80,
        &["10.10.1.3 zone=a", "10.10.2.4 zone=b"],
    )];
    let nowhere = Here {
        node: "worker",
        ..Here::default()
    };
    let found = select(&slices, "http", Protocol::Tcp, IpFamily::V4, nowhere);
    assert_eq!(show(&found.cluster), "10.10.1.3 10.10.2.4");
}

#[test]
fn slices_are_merged_and_the_more_useful_copy_of_an_endpoint_counts() {
    let one = slice(
        "web-1",
        80,
        &["10.10.1.3 unready", "10.10.2.4", "10.10.3.3"],
    );
    let two = slice(
        "web-2",
        80,
        &["10.10.1.3 here", "10.10.2.4 unready", "10.10.3.3"],
    );
    for slices in [[one.clone(), two.clone()], [two, one]] {
        let found = selected(&slices);
        assert_eq!(show(&found.cluster), "10.10.1.3 10.10.2.4 10.10.3.3");
        assert_eq!(show(&found.local), "10.10.1.3");
    }
}

#[test]
fn the_port_is_the_slices_so_a_named_target_port_may_differ_per_pod() {
    let found = selected(&[
        slice("web-1", 80, &["10.10.1.3"]),
        slice("web-2", 8080, &["10.10.2.4"]),
    ]);
    assert_eq!(show(&found.cluster), "10.10.1.3 10.10.2.4:8080");
}

#[test]
fn name_and_protocol_of_the_port_must_match() {
    let slices = [slice("web-1", 80, &["10.10.1.3"])];
    let none = |name, protocol| {
        select(&slices, name, protocol, IpFamily::V4, HERE)
            .cluster
            .is_empty()
    };
    assert!(none("https", Protocol::Tcp));
    assert!(none("http", Protocol::Udp));
    assert!(none("", Protocol::Tcp));
    assert!(!none("http", Protocol::Tcp));
    assert!(
        selected(&[slice("web-1", 0, &["10.10.1.3"])])
            .cluster
            .is_empty()
    );
}

#[test]
fn families_are_kept_apart() {
    let slices = [
        slice("web-4", 80, &["10.10.1.3"]),
        slice("web-6", 80, &["fd00:10:10:1::3"]),
    ];
    let v6 = select(&slices, "http", Protocol::Tcp, IpFamily::V6, HERE);
    assert_eq!(show(&v6.cluster), "fd00:10:10:1::3");
    assert_eq!(show(&selected(&slices).cluster), "10.10.1.3");
}

#[test]
fn addresses_that_lead_nowhere_are_left_out_and_named() {
    let bad = [
        "127.0.0.1",
        "0.0.0.0",
        "0.1.2.3",
        "224.0.0.1",
        "255.255.255.255",
        "169.254.1.1",
        "::1",
        "::",
        "ff02::1",
        "fe80::1",
        "::ffff:10.10.1.3",
    ];
    let mut endpoints = bad.to_vec();
    endpoints.push("10.10.1.3");
    let mut mixed = slice("web-1", 80, &endpoints);
    mixed.invalid.push(Invalid {
        field: "ports[].port",
        value: "70000".into(),
        reason: "is not a port",
        taken: None,
    });
    assert_eq!(show(&selected(&[mixed.clone()]).cluster), "10.10.1.3");
    let v6 = select([&mixed], "http", Protocol::Tcp, IpFamily::V6, HERE);
    assert!(v6.cluster.is_empty() && !v6.any);
    let texts = warnings(&mixed, None);
    assert_eq!(texts.len(), bad.len() + 1);
    assert_eq!(
        texts[0],
        "ports[].port `70000` of EndpointSlice web-1 is left out: it is not a port"
    );
    for (text, address) in texts[1..].iter().zip(bad) {
        assert!(text.contains(address) && text.contains("web-1"), "{text}");
    }
}

#[test]
fn the_first_and_the_last_address_of_the_uplinks_network_are_no_endpoints() {
    let uplink = Uplink {
        index: 2,
        name: "eth0".into(),
        mtu: 1500,
        up: true,
        addresses: vec!["172.18.0.2/16".parse().unwrap()],
        on_link: Vec::new(),
    };
    let uplink = Some(&uplink);
    let all = ["172.18.0.0 here", "172.18.255.255 here", "172.18.0.4 here"];
    let slices = [slice("web-1", 80, &all)];
    let here = Here { uplink, ..HERE };
    let found = select(&slices, "http", Protocol::Tcp, IpFamily::V4, here);
    assert_eq!(show(&found.cluster), "172.18.0.4");
    assert_eq!(ready_here(&slices, here), 1);
    let left_out = |address| {
        format!(
            "endpoint {address} of EndpointSlice web-1 is left out: is the first or the last \
             address of the uplink's network"
        )
    };
    assert_eq!(
        warnings(&slices[0], uplink),
        ["172.18.0.0", "172.18.255.255"].map(left_out)
    );
}

#[test]
fn the_health_check_counts_distinct_ready_addresses_of_this_node() {
    let slices = [
        slice(
            "web-1",
            80,
            &["10.10.1.3 here", "10.10.1.4 here draining", "10.10.2.4"],
        ),
        slice(
            "web-2",
            81,
            &["10.10.1.3 here", "10.10.1.5 here", "127.0.0.1 here"],
        ),
    ];
    assert_eq!(ready_here(&slices, HERE), 2);
}

#[test]
fn endpoints_of_a_gone_node_are_left_out_while_others_can_answer() {
    let gone = [Arc::from("elsewhere"), Arc::from("worker")];
    let after = Here {
        gone_nodes: &gone,
        ..HERE
    };
    let cluster = |endpoints: &[&str]| {
        let slices = [slice("web-1", 80, endpoints)];
        let found = select(&slices, "http", Protocol::Tcp, IpFamily::V4, after);
        assert!(found.any);
        show(&found.cluster)
    };
    // The pods of this node run here whatever becomes of its Node.
    assert_eq!(cluster(&["10.10.1.3 here", "10.10.2.4"]), "10.10.1.3");
    assert_eq!(cluster(&["10.10.1.3 nowhere", "10.10.2.4"]), "10.10.1.3");
    assert_eq!(
        cluster(&["10.10.1.3 here draining", "10.10.2.4"]),
        "10.10.1.3"
    );
    assert_eq!(cluster(&["10.10.1.3 here dead", "10.10.2.4"]), "10.10.2.4");
    assert_eq!(cluster(&["10.10.2.4", "10.10.2.5"]), "10.10.2.4 10.10.2.5");
    // Without the gone ones every endpoint has a hint, and they count again.
    assert_eq!(
        cluster(&[
            "10.10.1.3 here zone=a",
            "10.10.1.4 here zone=b",
            "10.10.2.4"
        ]),
        "10.10.1.3"
    );
}
