//! Of several Services that claim the same thing, `why` names the one that the kernel sends to.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use podwire_kernel::IpFamily;
use proptest::prelude::*;

use super::*;
use crate::features::policies::layout::sets::Lookup;
use crate::features::services::desired::claims::{Claimed, Claims};
use crate::features::services::desired::endpoints::{Backend, Here};
use crate::features::services::desired::externals::Externals;
use crate::features::services::desired::frontends::{self, Claim};
use crate::features::services::desired::plan;
use crate::features::services::desired::samples::{named_service, slice_of};
use crate::features::services::layout::elements::{Element, Key, Value, endpoint_number, objects};
use crate::features::services::layout::names::{FixedMap, Map};

/// What the kernel must hold for all Services of a snapshot, in one family: computed as the feature
/// does, over the claims of the whole cluster.
struct Planned {
    elements: BTreeMap<(String, Vec<u8>), (Element, Entry)>,
}

impl Planned {
    fn new(world: &World, family: IpFamily) -> Self {
        let services = &world.snapshot.services;
        let externals = Externals::of(&world.snapshot, &world.config);
        let mut claims = Claims::default();
        for service in services.values() {
            claims.replace(&service.name, Claimed::of(service, family, &externals));
        }
        let here = Here {
            node: &world.config.node_name,
            zone: None,
            addresses: &[ip("172.18.0.4")],
            gone_nodes: &[],
            uplink: None,
        };
        let mut planned = Self {
            elements: BTreeMap::new(),
        };
        for (name, service) in services {
            let slices: Vec<_> = world.snapshot.slices_of(name).collect();
            let balancing = world.config.services.balancing.balancing;
            let plan = plan::desired(
                service,
                slices.into_iter(),
                family,
                here,
                balancing,
                |claim| claims.has(name, claim),
            );
            if let Some(plan) = plan {
                planned.hold(name, &plan);
            }
        }
        planned
    }

    /// Takes in the elements of one Service. No two Services have the same.
    fn hold(&mut self, name: &ObjectName, plan: &plan::Plan) {
        let objects = objects(name, plan);
        for element in objects.elements {
            let map = element.map.name(name).into_owned();
            let key = element.key.as_bytes().to_vec();
            let (chain, data) = match element.value {
                Value::Answer(answer) => (None, answer.number().to_ne_bytes().to_vec()),
                Value::Goto(chain) => (Some(chain.name(name)), Vec::new()),
                Value::Backend(to) => {
                    let data = Key::new().address(to.address).field(&to.port.to_be_bytes());
                    (None, data.as_bytes().to_vec())
                }
                Value::Number(number) => (None, number.to_ne_bytes().to_vec()),
                Value::Member | Value::Until(_) => (None, Vec::new()),
            };
            let entry = Entry {
                key: key.clone(),
                chain,
                data,
                ..Entry::default()
            };
            let shared = matches!(element.map, Map::Fixed(FixedMap::Hairpin));
            let before = self.elements.insert((map, key), (element, entry));
            assert!(before.is_none() || shared, "{before:?} twice");
        }
        for answer in objects.answers {
            let key = answer.number().to_ne_bytes().to_vec();
            let entry = Entry {
                key: key.clone(),
                chain: Some(answer.chain()),
                ..Entry::default()
            };
            let element = Element {
                map: FixedMap::Answers.into(),
                key: Key::new().number(answer.number()),
                value: Value::Answer(answer),
                comment: Arc::from(""),
            };
            let map = FixedMap::Answers.name().to_owned();
            self.elements.insert((map, key), (element, entry));
        }
    }

    /// `namespace/name:port` of the Service port that takes a packet: the same two maps that the
    /// chain `services` looks into.
    fn taker(&self, own: bool, to: IpAddr, protocol: Protocol, port: u16) -> Option<&str> {
        let vip = Key::new().address(to).transport(protocol, port);
        let node_port = Key::new().transport(protocol, port);
        let held = |map: &str, key: Key| {
            let place = (map.to_owned(), key.as_bytes().to_vec());
            self.elements
                .get(&place)
                .map(|(element, _)| &*element.comment)
        };
        held("services", vip).or_else(|| held("nodeports", node_port).filter(|_| own))
    }
}

impl Kernel for Planned {
    fn way(&mut self, _: IpAddr) -> Result<Way, String> {
        Err("not of interest".into())
    }

    fn map(&mut self, _: IpFamily, map: &str) -> Result<Option<Vec<Entry>>, String> {
        let of_map = self.elements.iter().filter(|((name, _), _)| name == map);
        Ok(Some(of_map.map(|(_, (_, entry))| entry.clone()).collect()))
    }

    fn droppers(&mut self, _: IpFamily, _: u32) -> Result<Vec<String>, String> {
        Ok(Vec::new())
    }

    fn policy_lookups(&mut self, _: IpFamily) -> Result<Option<Vec<Lookup>>, String> {
        Ok(None)
    }

    fn policy_element(
        &mut self,
        _: IpFamily,
        _: Lookup,
        _: &[u8],
    ) -> Result<Option<Entry>, String> {
        Ok(None)
    }
}

/// The walkthrough's cluster without its Services, but with these: `name: description`, each with
/// one endpoint on another node per `port` of the description.
fn with_services(services: &[(&str, &str)]) -> World {
    let mut world = World::new(&[]);
    world.snapshot.services.clear();
    for (number, (of, text)) in (1..).zip(services) {
        world.set(Object::Service(named_service(of, text)));
        let ports = [Protocol::Tcp, Protocol::Udp].map(|protocol| ("", protocol, 8000 + number));
        let here = format!("10.10.2.{}", 100 + number);
        world.pods.push(pod(of, &here, &format!("veth{number}")));
        let v4 = format!("10.10.3.{number}@worker3 {here}@worker2");
        let v6 = format!("fd00:10:3::{number}@worker3 fd00:10:2::{number}@worker2");
        for (family, endpoints) in [("4", v4), ("6", v6)] {
            let slice = slice_of(of, &format!("{of}-{family}"), &ports, &endpoints);
            world.set(Object::EndpointSlice(slice));
        }
    }
    world
}

/// The Service that a walk names as the taker.
fn named(trace: &Trace) -> Option<&str> {
    trace.hops.iter().find_map(|hop| {
        let (name, _) = hop.what.strip_prefix("Service ")?.split_once(", port")?;
        Some(name)
    })
}

/// Walks to one address and port, and compares with what the kernel must hold.
#[track_caller]
fn agree(world: &World, from: &str, to: IpAddr, protocol: Protocol, port: u16) -> Trace {
    let mut planned = Planned::new(world, IpFamily::of(to));
    let socket = SocketAddr::new(to, port);
    let mut trace = world.walk(from, &format!("{socket}/{}", protocol.name()));
    let own = world.own.contains(&to);
    let taker = planned.taker(own, to, protocol, port);
    let taker = taker.and_then(|comment| comment.rsplit_once(':'));
    assert_eq!(named(&trace), taker.map(|(name, _)| name), "{trace}");
    check(&mut trace, &mut planned);
    assert_eq!(trace.differences, Vec::<String>::new(), "{trace}");
    trace
}

fn taken_by(world: &World, to: &str) -> String {
    let (socket, protocol) = match to.strip_suffix("/udp") {
        Some(socket) => (socket, Protocol::Udp),
        None => (to, Protocol::Tcp),
    };
    let socket: SocketAddr = socket.parse().unwrap();
    let from = if socket.is_ipv6() {
        "2001:db8::9"
    } else {
        "172.18.0.1"
    };
    let trace = agree(world, from, socket.ip(), protocol, socket.port());
    named(&trace).unwrap_or("none").to_owned()
}

#[test]
fn a_port_of_a_cluster_ip_is_not_taken_by_an_older_external_ip() {
    let world = with_services(&[
        (
            "default/dns",
            "cluster-ip 10.200.1.10; port tcp 53; created 50",
        ),
        (
            "default/older",
            "cluster-ip 10.200.1.11; external-ip 10.200.1.10; port tcp 53; created 10",
        ),
    ]);
    assert_eq!(taken_by(&world, "10.200.1.10:53"), "default/dns");
    assert_eq!(taken_by(&world, "10.200.1.11:53"), "default/older");
}

#[test]
fn a_node_port_claimed_twice_is_the_older_ones() {
    let world = with_services(&[
        (
            "default/a",
            "kind NodePort; cluster-ip 10.200.1.10; port tcp 80 31000; created 50",
        ),
        (
            "default/b",
            "kind NodePort; cluster-ip 10.200.1.11; port tcp 80 31000; created 10",
        ),
        (
            "default/c",
            "kind NodePort; cluster-ip 10.200.1.12; port udp 80 31000; created 70",
        ),
    ]);
    assert_eq!(taken_by(&world, "172.18.0.4:31000"), "default/b");
    assert_eq!(taken_by(&world, "172.18.0.4:31000/udp"), "default/c");
}

#[test]
fn an_address_that_is_a_vip_here_and_an_external_ip_there_is_the_load_balancers() {
    let world = with_services(&[
        (
            "default/vip",
            "kind LoadBalancer; cluster-ip 10.200.1.10; vip 192.0.2.7; source 198.51.100.0/24; \
             port tcp 80; created 50",
        ),
        (
            "default/external",
            "cluster-ip 10.200.1.11; external-ip 192.0.2.7; port tcp 80; created 10",
        ),
    ]);
    assert_eq!(taken_by(&world, "192.0.2.7:80"), "default/vip");
}

#[test]
fn of_a_duplicate_cluster_ip_the_younger_one_has_no_port_at_all() {
    let world = with_services(&[
        (
            "default/a",
            "cluster-ip 10.200.1.10; port tcp 80; port tcp 81; created 50",
        ),
        (
            "default/b",
            "cluster-ip 10.200.1.10; port tcp 80; created 10",
        ),
    ]);
    assert_eq!(taken_by(&world, "10.200.1.10:80"), "default/b");
    let trace = agree(&world, "pod1", ip("10.200.1.10"), Protocol::Tcp, 81);
    // Port 81 is claimed by the Service that has no claim to the address.
    expect(
        &trace,
        End::Refused,
        &["Service default/b", "It has 80/tcp"],
    );
}

#[test]
fn each_family_is_decided_by_itself() {
    let world = with_services(&[
        (
            "default/a",
            "cluster-ip 10.200.1.10 fd00:10:200::a; port tcp 80; created 50",
        ),
        (
            "default/b",
            "cluster-ip 10.200.1.11 fd00:10:200::a; external-ip 10.200.1.10; port tcp 80; created 10",
        ),
    ]);
    assert_eq!(taken_by(&world, "10.200.1.10:80"), "default/a");
    assert_eq!(taken_by(&world, "[fd00:10:200::a]:80"), "default/b");
}

#[test]
fn services_that_are_not_proxied_claim_nothing() {
    let world = with_services(&[
        (
            "default/alias",
            "kind ExternalName; cluster-ip 10.200.1.10; port tcp 80; created 1",
        ),
        (
            "default/headless",
            "external-ip 10.200.1.10; port tcp 80; created 2",
        ),
        (
            "default/real",
            "cluster-ip 10.200.1.10; port tcp 80; created 50",
        ),
    ]);
    assert_eq!(taken_by(&world, "10.200.1.10:80"), "default/real");
}

#[test]
fn an_address_of_this_node_that_is_a_cluster_ip_as_well_is_this_nodes() {
    let mut world = with_services(&[(
        "default/a",
        "kind NodePort; cluster-ip 10.200.1.10; port tcp 80 31000",
    )]);
    world.own.push(ip("10.200.1.10"));
    assert_eq!(taken_by(&world, "10.200.1.10:80"), "default/a");
    assert_eq!(taken_by(&world, "10.200.1.10:31000"), "default/a");
    // The chain no-such-port refuses nothing at an address of the node itself.
    let trace = agree(&world, "pod1", ip("10.200.1.10"), Protocol::Tcp, 22);
    expect(&trace, End::Arrives, &["this node itself"]);
}

#[test]
fn a_service_that_the_kernel_refused_is_named_as_missing() {
    let world = with_services(&[("default/a", "cluster-ip 10.200.1.10; port tcp 80")]);
    let mut planned = Planned::new(&world, IpFamily::V4);
    planned.elements.retain(|(map, _), _| map == "answers");
    let mut trace = world.walk("pod1", "10.200.1.10:80");
    check(&mut trace, &mut planned);
    let missing = "map `services` of table ip podwire-services does not have it";
    assert!(
        trace.differences.iter().any(|text| text.contains(missing)),
        "{trace}"
    );
}

#[test]
fn affinity_is_looked_up_in_the_maps_that_the_policy_leads_to() {
    let world = with_services(&[(
        "default/a",
        "cluster-ip 10.200.1.10; port tcp 80; affinity 60; external-local; external-ip 192.0.2.7",
    )]);
    for (from, to, endpoints) in [
        ("pod1", "10.200.1.10", "One of 2 endpoints, at random"),
        ("172.18.0.1", "192.0.2.7", "The only endpoint on this node"),
    ] {
        let trace = agree(&world, from, ip(to), Protocol::Tcp, 80);
        expect(&trace, trace.end, &[endpoints, "is not remembered"]);
    }
}

#[test]
fn endpoints_that_the_kernel_has_no_room_for_are_not_expected_there() {
    let mut world = with_services(&[("default/a", "cluster-ip 10.200.1.10; port tcp 80")]);
    let endpoints: Vec<String> = (0..=0xffff)
        .map(|number| Ipv4Addr::from(0x0a0b_0000 + number).to_string())
        .collect();
    let ports = [("", Protocol::Tcp, 80)];
    let slice = slice_of("default/a", "default/a-7", &ports, &endpoints.join(" "));
    world.set(Object::EndpointSlice(slice));
    let trace = agree(&world, "pod1", ip("10.200.1.10"), Protocol::Tcp, 80);
    expect(&trace, End::Leaves, &["One of 65535 endpoints"]);
}

#[test]
fn an_endpoint_that_is_lost_with_affinity_is_named() {
    let world = with_services(&[(
        "default/a",
        "cluster-ip 10.200.1.10; port tcp 80; affinity 60",
    )]);
    let mut planned = Planned::new(&world, IpFamily::V4);
    let map = "affinity/default/a/tcp-80/endpoints";
    let lost = |(name, _): &(String, Vec<u8>)| name == map;
    let place = planned.elements.keys().find(|place| lost(place)).cloned();
    planned.elements.remove(&place.unwrap());
    let mut trace = world.walk("pod1", "10.200.1.10:80");
    check(&mut trace, &mut planned);
    let [difference] = &trace.differences[..] else {
        panic!("{trace}");
    };
    assert!(
        difference.ends_with(&format!("not in map `{map}`")),
        "{trace}"
    );
}

#[test]
fn policy_local_knows_pods_of_this_node_by_its_pod_cidr_as_the_kernel_does() {
    let mut world = with_services(&[(
        "default/a",
        "cluster-ip 10.200.1.10; external-ip 192.0.2.7; external-local; port tcp 80",
    )]);
    world.pods.push(pod("second", "10.77.0.2", "vethsecond"));
    for (from, endpoints) in [
        ("10.10.2.3", "One of 2 endpoints, at random"),
        ("10.77.0.2", "The only endpoint on this node"),
    ] {
        let trace = agree(&world, from, ip("192.0.2.7"), Protocol::Tcp, 80);
        expect(&trace, trace.end, &[endpoints]);
    }
}

/// Two endpoints whose numbers would be the same if each were numbered for itself.
fn colliding() -> [Backend; 2] {
    let mut seen = BTreeMap::new();
    for number in 0..u32::MAX {
        let address = IpAddr::from((0x0a0a_0000 + number).to_be_bytes());
        let backend = Backend { address, port: 80 };
        if let Some(first) = seen.insert(endpoint_number(&backend), backend) {
            return [first, backend];
        }
    }
    unreachable!("numbers have 28 bits")
}

#[test]
fn a_client_of_two_endpoints_with_colliding_numbers_is_shown_its_own() {
    let mut world = with_services(&[(
        "default/a",
        "cluster-ip 10.200.1.10; port tcp 80; affinity 60",
    )]);
    let [first, second] = colliding();
    let endpoints = format!("{}@worker3 {}@worker3", first.address, second.address);
    for slice in ["default/a-4", "default/a-6"] {
        let endpoints = if slice.ends_with('4') {
            &*endpoints
        } else {
            ""
        };
        let ports = [("", Protocol::Tcp, 80)];
        world.set(Object::EndpointSlice(slice_of(
            "default/a",
            slice,
            &ports,
            endpoints,
        )));
    }
    let planned = Planned::new(&world, IpFamily::V4);
    let map = "affinity/default/a/tcp-80/endpoints";
    let numbers = planned.elements.iter().filter(|((name, _), _)| name == map);
    let numbers: Vec<(Vec<u8>, Vec<u8>)> = numbers
        .map(|((_, key), (_, entry))| (key.clone(), entry.data.clone()))
        .collect();
    assert_eq!(numbers.len(), 2, "{numbers:?}");
    for backend in [first, second] {
        let data = Key::new()
            .address(backend.address)
            .field(&80u16.to_be_bytes());
        let (number, _) = numbers
            .iter()
            .find(|(_, held)| held == data.as_bytes())
            .unwrap();
        let mut kernel = Planned::new(&world, IpFamily::V4);
        let clients = "affinity/default/a/tcp-80/clients".to_owned();
        let (element, _) = kernel.elements.values().next().unwrap().clone();
        let entry = Entry {
            key: vec![10, 10, 2, 3],
            data: number.clone(),
            ..Entry::default()
        };
        kernel
            .elements
            .insert((clients, entry.key.clone()), (element, entry));
        let mut trace = world.walk("pod1", "10.200.1.10:80");
        check(&mut trace, &mut kernel);
        assert_eq!(trace.differences, Vec::<String>::new(), "{trace}");
        let words = format!("10.10.2.3 is remembered: it gets {}:80", backend.address);
        expect(&trace, End::Leaves, &[&words]);
    }
}

/// Services out of a few addresses and ports, so that they often claim the same.
fn any_services() -> impl Strategy<Value = Vec<String>> {
    let cluster_ip = prop_oneof![
        Just(""),
        Just("10.200.1.1"),
        Just("10.200.1.2"),
        Just("10.200.1.3"),
        Just("10.200.1.1 fd00:10:200::1"),
        Just("fd00:10:200::1 10.200.1.2"),
        Just("172.18.0.4"),
    ];
    let address = prop_oneof![
        Just(""),
        Just("10.200.1.1"),
        Just("192.0.2.7"),
        Just("192.0.2.7 fd00:10:200::1"),
        Just("10.200.1.2 172.18.0.4"),
    ];
    let kind = prop_oneof![
        Just("ClusterIP"),
        Just("NodePort"),
        Just("LoadBalancer"),
        Just("LoadBalancer"),
        Just("ExternalName"),
    ];
    let ports = proptest::sample::subsequence(
        vec![
            "port tcp 80",
            "port tcp 81 31000",
            "port udp 80 31000",
            "port tcp 31000 31001",
        ],
        1..=4,
    );
    let more = proptest::sample::subsequence(
        vec![
            "affinity 60",
            "external-local",
            "internal-local",
            "round-robin",
            "source 172.18.0.0/16",
        ],
        0..=3,
    );
    let one = (
        kind,
        cluster_ip,
        address.clone(),
        address,
        ports,
        more,
        0u32..3,
    )
        .prop_map(|(kind, cluster_ip, external, vip, ports, more, created)| {
            let created = match created {
                0 => String::new(),
                seconds => format!("created {seconds}; "),
            };
            format!(
                "kind {kind}; cluster-ip {cluster_ip}; external-ip {external}; vip {vip}; \
                 {created}{}; {}",
                ports.join("; "),
                more.join("; ")
            )
        });
    proptest::collection::vec(one, 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn why_names_the_service_and_the_endpoints_of_the_kernels_plan(texts in any_services()) {
        let names = ["default/a", "default/b", "default/c", "default/d", "default/e"];
        let services: Vec<_> = names.into_iter().zip(texts.iter().map(String::as_str)).collect();
        let world = with_services(&services);
        let mut asked = BTreeSet::new();
        for service in world.snapshot.services.values() {
            for family in IpFamily::ALL {
                for claim in frontends::claims(service, family, &Externals::default()) {
                    match claim {
                        Claim::Vip(address, protocol, port) => {
                            asked.insert((address, protocol, port));
                        }
                        Claim::NodePort(protocol, port) => {
                            asked.insert((ip("172.18.0.4"), protocol, port));
                            asked.insert((ip("10.200.1.1"), protocol, port));
                        }
                        Claim::ClusterIp(address) => {
                            asked.insert((address, Protocol::Tcp, 22));
                        }
                    }
                }
            }
        }
        for (to, protocol, port) in asked {
            let sources = if to.is_ipv6() {
                ["2001:db8::9"].as_slice()
            } else {
                ["172.18.0.1", "203.0.113.9", "pod1", "172.18.0.4"].as_slice()
            };
            for from in sources {
                agree(&world, from, to, protocol, port);
            }
        }
    }
}
