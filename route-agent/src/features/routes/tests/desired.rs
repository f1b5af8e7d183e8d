//! What routes follow from the Nodes, and which of them are refused or named. No kernel.

use super::*;
use crate::pod_cidrs::Holders;

/// What follows from these on the Node `worker`.
fn of(
    snapshot: &Snapshot,
    uplink: Option<&Uplink>,
    holders: &Holders,
) -> Result<Desired, NoUplink> {
    let (mut snapshot, holders) = (snapshot.clone(), holders.clone());
    let own = Arc::from("worker");
    PodCidrs::after(Box::new(|_| holders)).settle(&mut snapshot, &own, uplink);
    desired(&given(&snapshot, uplink, &own))
}

fn given<'a>(snapshot: &'a Snapshot, uplink: Option<&'a Uplink>, own: &'a Arc<str>) -> Given<'a> {
    Given {
        snapshot,
        handwritten: false,
        own,
        uplink,
        service_cidrs: &[],
        likely: Likely {
            own: snapshot.nodes.get("worker"),
            cluster_cidrs: &[],
        },
    }
}

/// Routes as `destination via gateway`, and warnings as `object: text`.
fn plan(nodes: impl IntoIterator<Item = Node>) -> (Vec<String>, Vec<String>) {
    let desired = of(&snapshot(nodes), Some(&uplink()), &Holders::new()).unwrap();
    let routes = desired
        .routes
        .values()
        .map(|wanted| match wanted.route.gateway {
            Some(gateway) => format!("{} via {gateway}", wanted.route.destination),
            None => format!("{} {:?}", wanted.route.destination, wanted.route.kind),
        });
    let warnings = desired
        .warnings
        .iter()
        .map(|w| format!("{}: {}", w.object, w.text));
    (routes.collect(), warnings.collect())
}

/// The warning that exactly one Node gets while the others are routed to.
fn only_warning(bad: Node) -> String {
    let (routes, warnings) = plan([own(), bad, node("z", &["172.18.0.9"], &["10.10.9.0/24"])]);
    assert!(
        routes.contains(&"10.10.9.0/24 via 172.18.0.9".to_owned()),
        "{routes:?}"
    );
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    warnings.into_iter().next().unwrap()
}

#[test]
fn every_peer_gets_a_route_per_pod_cidr_and_ours_is_unreachable() {
    let peers = [
        own(),
        node("a", &["172.18.0.4"], &["10.10.2.0/24", "10.20.2.0/24"]),
        node(
            "b",
            &["172.18.0.3", "fc00::3"],
            &["10.10.3.0/24", "fd00:3::/64"],
        ),
    ];
    let (routes, warnings) = plan(peers);
    assert_eq!(
        routes,
        [
            "10.10.1.0/24 Unreachable",
            "10.10.2.0/24 via 172.18.0.4",
            "10.10.3.0/24 via 172.18.0.3",
            "10.20.2.0/24 via 172.18.0.4",
            "fd00:3::/64 via fc00::3",
        ]
    );
    assert!(warnings.is_empty(), "{warnings:?}");
}

#[test]
fn routes_have_one_metric_until_there_are_more_than_256() {
    let peer = |number: u32| {
        let ip = IpAddr::from((0xac12_0100 + number).to_be_bytes());
        let first = IpAddr::from((0x0a0a_0000 + (number << 6)).to_be_bytes());
        let cidr = format!("{first}/26");
        node(
            &format!("node-{number}"),
            &[&ip.to_string()],
            &[cidr.as_str()],
        )
    };
    let own = node("worker", &["172.18.0.2"], &["10.10.4.64/26"]);
    let nodes = (0..2000).filter(|n| *n != 17).map(peer).chain([own]);
    let desired = of(&snapshot(nodes), Some(&uplink()), &Holders::new()).unwrap();
    let mut routes_by_metric = std::collections::BTreeMap::new();
    for wanted in desired.routes.values() {
        *routes_by_metric.entry(wanted.route.metric).or_insert(0) += 1;
    }
    assert_eq!(routes_by_metric.remove(&UNREACHABLE_METRIC), Some(1));
    assert_eq!(routes_by_metric.len(), 8, "2,000 podCIDRs in blocks of 256");
    assert_eq!(routes_by_metric[&METRIC], 255);
    assert!(routes_by_metric.values().all(|count| *count <= 256));
}

#[test]
fn a_node_off_the_link_is_named() {
    let warning = only_warning(node("far", &["192.168.0.2"], &["10.10.5.0/24"]));
    assert!(warning.starts_with("Node far: InternalIP 192.168.0.2 is not on the network of eth0"));
}

#[test]
fn an_uplink_without_a_family_is_named_once_whatever_the_number_of_nodes() {
    let mut uplink = uplink();
    uplink.addresses.remove(0);
    uplink.on_link.remove(0);
    let peer = |number: u8| {
        let (v4, v6) = (format!("172.18.0.{number}"), format!("fc00::{number}"));
        let cidrs = [
            format!("10.10.{number}.0/24"),
            format!("fd00:{number}::/64"),
        ];
        let cidrs = cidrs.each_ref().map(String::as_str);
        node(&format!("peer-{number}"), &[&v4, &v6], &cidrs)
    };
    // That one lacks an address itself.
    let mute = node("mute", &["fc00::9"], &["10.10.9.0/24"]);
    let nodes = snapshot((3..6).map(peer).chain([own(), mute]));
    let found = of(&nodes, Some(&uplink), &Holders::new()).unwrap();
    assert_eq!(found.routes.len(), 4, "{:?}", found.routes);
    let said = found.warnings.iter();
    let said: Vec<_> = said.map(|w| format!("{}: {}", w.object, w.text)).collect();
    assert_eq!(
        said,
        [
            "uplink eth0: has no address of IPv4: no podCIDR of IPv4 can be reached until it has one; \
             give it one on the nodes' network, or name another interface with --uplink",
            "Node mute: has no InternalIP of IPv4; 10.10.9.0/24 cannot be reached",
        ]
    );
}

#[test]
fn a_second_internal_ip_on_the_link_will_do() {
    let (routes, warnings) = plan([
        own(),
        node("a", &["192.168.0.2", "172.18.0.4"], &["10.10.2.0/24"]),
    ]);
    assert!(routes.contains(&"10.10.2.0/24 via 172.18.0.4".to_owned()));
    assert!(warnings.is_empty());
}

#[test]
fn a_node_without_pod_cidr_or_address_is_named() {
    assert!(only_warning(node("new", &["172.18.0.4"], &[])).contains("has no podCIDR yet"));
    let (snapshot, uplink) = (
        snapshot([own(), node("new", &["172.18.0.4"], &[])]),
        uplink(),
    );
    let own = Arc::from("worker");
    let by_hand = Given {
        handwritten: true,
        ..given(&snapshot, Some(&uplink), &own)
    };
    let text = &desired(&by_hand).unwrap().warnings[0].text;
    assert!(text.contains("into its spec.podCIDRs"), "{text}");
    let warning = only_warning(node("mute", &[], &["10.10.5.0/24"]));
    assert!(warning.contains("has no InternalIP of IPv4"), "{warning}");
    let warning = only_warning(node("half", &["172.18.0.4"], &["fd00:5::/64"]));
    assert!(warning.contains("has no InternalIP of IPv6"), "{warning}");
}

#[test]
fn a_malformed_field_is_named_and_the_rest_of_the_node_is_used() {
    let mut bad = node("bad", &["172.18.0.4"], &["10.10.2.0/24"]);
    bad.invalid.push(crate::snapshot::Invalid {
        field: "spec.podCIDRs",
        value: "10.10.5.1/24".into(),
        reason: "has host bits set",
        taken: None,
    });
    let (routes, warnings) = plan([own(), bad]);
    assert_eq!(routes.len(), 2);
    assert!(warnings[0].contains("10.10.5.1/24"), "{warnings:?}");
}

#[test]
fn an_overlap_with_ours_or_anothers_is_named_and_the_older_node_keeps_it() {
    let warning = only_warning(node("thief", &["172.18.0.4"], &["10.10.0.0/16"]));
    assert!(
        warning.contains("overlaps 10.10.1.0/24 of Node worker, which keeps it"),
        "{warning}"
    );
    let warning = only_warning(node("zz", &["172.18.0.4"], &["10.10.9.128/25"]));
    assert!(
        warning.starts_with("Node zz: podCIDR 10.10.9.128/25 overlaps"),
        "{warning}"
    );
    let warning = only_warning(node("inside", &["172.18.0.4"], &["172.18.7.0/24"]));
    assert!(warning.contains("the nodes' own network"), "{warning}");
    let old = Node {
        created: Some(1),
        ..node("z-old", &["172.18.0.4"], &["10.10.2.0/24"])
    };
    let new = Node {
        created: Some(2),
        ..node("a-new", &["172.18.0.5"], &["10.10.2.0/24"])
    };
    let (routes, warnings) = plan([own(), old, new]);
    assert!(
        routes.contains(&"10.10.2.0/24 via 172.18.0.4".to_owned()),
        "{routes:?}"
    );
    assert!(warnings[0].starts_with("Node a-new"), "{warnings:?}");
}

#[test]
fn a_pod_cidr_with_the_api_server_in_it_is_left_out_and_named() {
    let liar = node("liar", &["172.18.0.90"], &["192.168.77.0/24"]);
    let mut snapshot = snapshot([own(), liar]);
    let ports = [("https", Protocol::Tcp, 6443)];
    let slice = slice_of("kubernetes", "kubernetes", &ports, "192.168.77.5");
    let mut dirty = Dirty::default();
    snapshot.apply(Change::Set(Object::EndpointSlice(slice)), &mut dirty);
    assert!(dirty.concerns_pod_cidrs());
    let found = of(&snapshot, Some(&uplink()), &Holders::new()).unwrap();
    assert!(!found.wants("192.168.77.0/24".parse().unwrap()));
    let texts: Vec<_> = found.warnings.iter().map(|one| &*one.text).collect();
    assert_eq!(
        texts,
        [
            "podCIDR 192.168.77.0/24 contains 192.168.77.5, the address of the API server; it is left \
             out"
        ]
    );
}

#[test]
fn who_may_write_endpoint_slices_takes_no_pod_cidr_away() {
    let peer = node("peer", &["172.18.0.3"], &["10.10.3.0/24"]);
    let mut snapshot = snapshot([own(), peer]);
    let ports = [("https", Protocol::Tcp, 6443)];
    let slice = slice_of("kubernetes", "mine", &ports, "10.10.3.5 10.10.1.5");
    snapshot.apply(
        Change::Set(Object::EndpointSlice(slice)),
        &mut Dirty::default(),
    );
    let found = of(&snapshot, Some(&uplink()), &Holders::new()).unwrap();
    assert_eq!(found.routes.len(), 2);
    // Until an API server writes its own again, its slice is as others have left it: who has a podCIDR
    // keeps it then.
    let slice = slice_of("kubernetes", "kubernetes", &ports, "10.10.3.5 10.10.1.5");
    snapshot.apply(
        Change::Set(Object::EndpointSlice(slice)),
        &mut Dirty::default(),
    );
    let holders = [("10.10.1.0/24", "worker"), ("10.10.3.0/24", "peer")];
    let holders = holders.map(|(cidr, name)| (cidr.parse().unwrap(), Arc::from(name)));
    let found = of(&snapshot, Some(&uplink()), &holders.into()).unwrap();
    assert_eq!(found.routes.len(), 2);
    let found = of(&snapshot, Some(&uplink()), &Holders::new()).unwrap();
    assert_eq!(found.routes.len(), 0);
}

#[test]
fn a_way_to_a_pod_cidr_that_others_made_on_the_uplink_does_not_take_it_away() {
    let peer = node("peer", &["172.18.0.3"], &["10.10.3.0/24"]);
    let mut uplink = uplink();
    // As wg-quick makes it, and beside it a network of nodes that is wider.
    uplink.on_link.push("10.10.3.0/24".parse().unwrap());
    let snapshot = snapshot([own(), peer]);
    let found = of(&snapshot, Some(&uplink), &Holders::new()).unwrap();
    assert!(found.wants("10.10.3.0/24".parse().unwrap()));
    uplink.on_link.push("10.10.0.0/16".parse().unwrap());
    let found = of(&snapshot, Some(&uplink), &Holders::new()).unwrap();
    assert!(!found.wants("10.10.3.0/24".parse().unwrap()));
}

#[test]
fn a_network_on_the_uplink_in_which_nodes_are_is_no_way_to_a_pod_cidr() {
    let wanted = |asked: &str, on_link: &str, nodes: &[Node], holder: Option<&str>| {
        let asked: IpNetwork = asked.parse().unwrap();
        let liar = Node {
            pod_cidrs: vec![asked],
            ..node("liar", &["172.18.0.9"], &[])
        };
        let mut uplink = uplink();
        uplink.on_link.push(on_link.parse().unwrap());
        let nodes = nodes.iter().cloned();
        let snapshot = snapshot([own(), liar].into_iter().chain(nodes));
        let holders = holder.map(|name| (asked, Arc::from(name)));
        let holders = holders.into_iter().collect();
        let found = of(&snapshot, Some(&uplink), &holders).unwrap();
        found.wants(asked)
    };
    let there = [node("there", &["10.50.0.7"], &["10.10.7.0/24"])];
    assert!(!wanted("10.50.0.0/16", "10.50.0.0/16", &there, None));
    assert!(wanted("10.50.0.0/16", "10.50.0.0/16", &[], None));
    // Who has it does not lose it to a Node that says that it is there.
    assert!(wanted("10.50.0.0/16", "10.50.0.0/16", &there, Some("liar")));
    // The way to a gateway, and the uplink's own address.
    assert!(!wanted("10.50.0.0/16", "10.50.0.1/32", &[], Some("liar")));
    assert!(!wanted("172.0.0.0/8", "172.30.0.0/24", &[], Some("liar")));
}

#[test]
fn while_the_uplink_is_down_no_one_comes_to_have_a_pod_cidr() {
    let asked: IpNetwork = "10.50.0.0/16".parse().unwrap();
    let part: IpNetwork = "10.50.128.0/24".parse().unwrap();
    let liar = Node {
        created: Some(1),
        ..node("liar", &["172.18.0.9"], &["10.50.0.0/16"])
    };
    let younger = Node {
        created: Some(2),
        ..node("younger", &["172.18.0.4"], &["10.50.128.0/24"])
    };
    let there = node("there", &["10.50.0.7"], &[]);
    let mut snapshot = snapshot([own(), liar, younger, there]);
    let mut up = uplink();
    up.on_link.push("10.50.0.0/24".parse().unwrap());
    let no_address = Uplink {
        on_link: Vec::new(),
        ..up.clone()
    };
    let down = Uplink {
        up: false,
        ..no_address.clone()
    };
    let own = Arc::from("worker");
    let mut pod_cidrs = PodCidrs::default();
    for uplink in [Some(&up), Some(&down), None, Some(&no_address), Some(&up)] {
        pod_cidrs.settle(&mut snapshot, &own, uplink);
        let has = |name: &str| {
            let mut cidrs = snapshot.pod_cidrs_of(&snapshot.nodes[name]);
            cidrs.next().is_some()
        };
        assert!(has("younger") && !has("liar"), "{uplink:?}");
    }
    let found = desired(&given(&snapshot, Some(&up), &own)).unwrap();
    assert!(found.wants(part) && !found.wants(asked));
}

#[test]
fn in_a_family_that_the_uplink_does_not_reach_we_keep_a_pod_cidr_and_no_other_node_does() {
    let asked = ["10.50.0.0/16", "fd00:9::/64"];
    let two = |name| node(name, &["172.18.0.4", "fc00::4"], &asked);
    let us = node("worker", &["172.18.0.2"], &["10.10.1.0/24", "fd00:1::/64"]);
    let own = Arc::from("worker");
    let mut ipv4 = uplink();
    ipv4.on_link.retain(IpNetwork::is_ipv4);
    let mut pod_cidrs = PodCidrs::default();
    pod_cidrs.settle(&mut snapshot([us.clone(), two("z")]), &own, Some(&ipv4));
    let mut snapshot = snapshot([us, two("a"), two("z")]);
    let ports = [("https", Protocol::Tcp, 6443)];
    let forged = slice_of("kubernetes", "kubernetes", &ports, "fd00:1::5");
    let forged = Change::Set(Object::EndpointSlice(forged));
    snapshot.apply(forged, &mut Dirty::default());
    pod_cidrs.settle(&mut snapshot, &own, Some(&ipv4));
    let has = |name: &str, cidr: &str| {
        let mut cidrs = snapshot.pod_cidrs_of(&snapshot.nodes[name]);
        cidrs.any(|one| one == cidr.parse().unwrap())
    };
    assert!(has("worker", "fd00:1::/64"), "whatever others write");
    assert_eq!(asked.map(|cidr| has("z", cidr)), [true, false]);
}

#[test]
fn a_default_route_without_a_gateway_collides_with_no_pod_cidr() {
    let uplink = Uplink {
        on_link: vec!["0.0.0.0/0".parse().unwrap()],
        ..uplink()
    };
    let peer = node("peer", &["192.0.2.4"], &["10.10.5.0/24"]);
    let snapshot = snapshot([own(), peer]);
    let desired = of(&snapshot, Some(&uplink), &Holders::new()).unwrap();
    assert!(desired.warnings.is_empty(), "{:?}", desired.warnings);
    assert!(
        desired
            .routes
            .contains_key(&"10.10.5.0/24".parse().unwrap())
    );
}

#[test]
fn a_peer_with_our_own_address_is_named() {
    let warning = only_warning(node("twin", &["172.18.0.2"], &["10.10.5.0/24"]));
    assert!(warning.contains("this node's own address"), "{warning}");
}

#[test]
fn a_peer_with_an_address_that_no_host_can_have_is_named_and_another_of_its_addresses_taken() {
    for edge in ["172.18.0.0", "172.18.255.255"] {
        let warning = only_warning(node("edge", &[edge], &["10.10.5.0/24"]));
        assert!(warning.contains("which no node can have"), "{warning}");
        let (routes, warnings) = plan([
            own(),
            node("edge", &[edge, "172.18.0.4"], &["10.10.5.0/24"]),
        ]);
        assert_eq!(routes[1], "10.10.5.0/24 via 172.18.0.4");
        assert!(warnings.is_empty(), "{warnings:?}");
    }
}

#[test]
fn a_pod_cidr_that_is_hardly_meant_is_named_and_routed() {
    let (routes, warnings) = plan([own(), node("a", &["172.18.0.4"], &["8.8.8.0/24"])]);
    assert!(routes.contains(&"8.8.8.0/24 via 172.18.0.4".to_owned()));
    assert_eq!(
        warnings,
        [
            "Node a: podCIDR 8.8.8.0/24 is a public network, and this node's own podCIDR is not in \
             one; what else is there cannot be reached from this cluster; if it is not meant, delete \
             the Node, and create it with another"
        ]
    );
}

#[test]
fn without_an_uplink_that_works_nothing_is_said_about_routes() {
    let nodes = snapshot([own()]);
    let with = |uplink: Option<&Uplink>| of(&nodes, uplink, &Holders::new()).unwrap_err();
    assert_eq!(with(None), NoUplink::NotFound);
    let down = Uplink {
        up: false,
        ..uplink()
    };
    let bare = Uplink {
        on_link: Vec::new(),
        ..uplink()
    };
    for unusable in [down, bare] {
        let why = with(Some(&unusable)).warning().unwrap();
        assert_eq!(why.object, "uplink eth0");
    }
}

#[test]
fn a_node_of_no_age_keeps_the_pod_cidr_that_it_has() {
    // By name the newcomer would come first.
    let has = node("b", &["172.18.0.4"], &["10.10.2.0/24"]);
    let aged = Node {
        created: Some(5),
        ..has.clone()
    };
    let wider = node("a", &["172.18.0.5"], &["10.10.0.0/16"]);
    let same = node("a", &["172.18.0.5"], &["10.10.2.0/24"]);
    let part = node("a", &["172.18.0.5"], &["10.10.2.128/25"]);
    // One that has a podCIDR of its own has no claim to another.
    let both = node("a", &["172.18.0.5"], &["10.10.7.0/24", "10.10.2.0/24"]);
    let young = Node {
        created: Some(9),
        ..same.clone()
    };
    let holders = Holders::from([
        ("10.10.2.0/24".parse().unwrap(), Arc::from("b")),
        ("10.10.7.0/24".parse().unwrap(), Arc::from("a")),
    ]);
    for has in [has, aged] {
        for newcomer in [&wider, &same, &part, &both, &young] {
            let all = snapshot([own(), has.clone(), newcomer.clone()]);
            let desired = of(&all, Some(&uplink()), &holders).unwrap();
            let owner = desired.owner("10.10.2.0/24".parse().unwrap());
            assert_eq!(owner.map(|name| &**name), Some("b"), "{newcomer:?}");
            let named = |warning: &Warning| warning.object == "Node a";
            assert_eq!(desired.warnings.iter().filter(|w| named(w)).count(), 1);
        }
    }
}

#[test]
fn a_pod_cidr_over_the_addresses_of_services_is_named_and_routed() {
    use crate::snapshot::{Service, ServiceCidr};
    let mut all = snapshot([own(), node("b", &["172.18.0.4"], &["10.200.0.0/16"])]);
    let name = ObjectName {
        namespace: "shop".into(),
        name: "web".into(),
    };
    let web = Service {
        cluster_ips: ["10.200.1.63".parse().unwrap()].into(),
        ..Service::named(name.clone())
    };
    all.services.insert(name.clone(), web);
    let desired = of(&all, Some(&uplink()), &Holders::new()).unwrap();
    assert_eq!(desired.warnings.len(), 1, "{:?}", desired.warnings);
    let text = &desired.warnings[0].text;
    assert!(
        text.starts_with(
            "podCIDR 10.200.0.0/16 contains 10.200.1.63, the ClusterIP of Service shop/web"
        ),
        "{text}"
    );
    assert!(desired.services_amid_pods.contains(&name));
    assert_eq!(desired.routes.len(), 2);

    let network = ServiceCidr {
        name: "kubernetes".into(),
        cidrs: vec!["10.200.0.0/20".parse().unwrap()],
        invalid: Vec::new(),
    };
    all.service_cidrs.insert(network.name.clone(), network);
    let desired = of(&all, Some(&uplink()), &Holders::new()).unwrap();
    assert_eq!(desired.warnings.len(), 1, "{:?}", desired.warnings);
    let text = &desired.warnings[0].text;
    assert!(
        text.contains("overlaps 10.200.0.0/20, the Service network"),
        "{text}"
    );
}

#[test]
fn an_address_that_two_peers_share_is_named() {
    let twins = ["a", "b"].map(|name| node(name, &["172.18.0.4"], &[]));
    let (_, warnings) = plan([own()].into_iter().chain(twins));
    let shared: Vec<_> = warnings.iter().filter(|one| one.contains("too;")).collect();
    assert_eq!(shared.len(), 1, "{warnings:?}");
    assert!(shared[0].starts_with("Node b: InternalIP 172.18.0.4 is that of Node a, too"));
}
