//! What is said of a kernel, be it right or wrong.

use podwire_kernel::nft::{Element, Key, Table, Value};

use super::*;
use crate::features::policies::layout::sets::Lookup;

/// A kernel that answers what it was given.
#[derive(Default)]
pub(super) struct Fake {
    pub(super) ways: BTreeMap<IpAddr, Way>,
    pub(super) maps: BTreeMap<String, Vec<Entry>>,
    pub(super) droppers: Vec<String>,
    /// What the policy table holds, if it is there.
    pub(super) policies: Option<Table>,
}

impl Fake {
    fn change_way(&mut self, to: &str, change: impl FnOnce(&mut Way)) {
        change(self.ways.get_mut(&ip(to)).unwrap());
    }
}

impl Kernel for Fake {
    fn way(&mut self, to: IpAddr) -> Result<Way, String> {
        self.ways
            .get(&to)
            .cloned()
            .ok_or_else(|| format!("no question about {to} was expected"))
    }

    fn map(&mut self, _: IpFamily, map: &str) -> Result<Option<Vec<Entry>>, String> {
        Ok(self.maps.get(map).cloned())
    }

    fn droppers(&mut self, _: IpFamily, _: u32) -> Result<Vec<String>, String> {
        Ok(self.droppers.clone())
    }

    fn policy_lookups(&mut self, _: IpFamily) -> Result<Option<Vec<Lookup>>, String> {
        let table = self.policies.as_ref();
        let lookups = |table: &Table| table.sets.keys().filter_map(Lookup::of_name).collect();
        Ok(table.map(lookups))
    }

    fn policy_element(
        &mut self,
        _: IpFamily,
        lookup: Lookup,
        key: &[u8],
    ) -> Result<Option<Entry>, String> {
        let sets = &self.policies.as_ref().unwrap().sets;
        let elements = &sets.get(&lookup.name()).unwrap().elements;
        let end = |(first, element): &(&Key, &Element)| {
            element.key_end.as_ref().unwrap_or(*first).to_vec()
        };
        let mut elements = elements.iter();
        let found = elements.find(|one| &one.0[..] <= key && key <= &*end(one));
        Ok(found.map(|(first, element)| Entry {
            key: first.to_vec(),
            data: match &element.value {
                Value::Data(data) => data.to_vec(),
                _ => Vec::new(),
            },
            comment: element.comment.as_ref().map(ToString::to_string),
            ..Entry::default()
        }))
    }
}

/// A kernel that is as it should be for `svc-clusterip`.
fn right() -> Fake {
    let via = |gateway: &str| Way::Link {
        link: Some("eth0".into()),
        gateway: Some(ip(gateway)),
        silent: false,
    };
    let through = |link: &str| Way::Link {
        link: Some(link.into()),
        gateway: None,
        silent: false,
    };
    let portal = vec![10, 200, 1, 63, 6, 0, 0, 0, 0x23, 0x28, 0, 0];
    let endpoint = |slot: u32, address: [u8; 4], packets| Entry {
        key: [&portal[..], &slot.to_ne_bytes()].concat(),
        data: [&address[..], &[0, 80, 0, 0]].concat(),
        packets: Some(packets),
        ..Entry::default()
    };
    let services = Entry {
        key: portal.clone(),
        data: 0x7000_0003u32.to_ne_bytes().to_vec(),
        packets: Some(30),
        ..Entry::default()
    };
    let answers = Entry {
        key: services.data.clone(),
        chain: Some("pick-3".into()),
        ..Entry::default()
    };
    let endpoints = vec![
        endpoint(0, [10, 10, 3, 3], 9),
        endpoint(1, [10, 10, 1, 3], 1),
        endpoint(2, [10, 10, 2, 4], 20),
    ];
    Fake {
        ways: [
            (ip("10.10.2.3"), through("vethpod1")),
            (ip("10.10.2.4"), through("vethweb")),
            (ip("10.10.1.3"), via("172.18.0.2")),
            (ip("10.10.3.3"), via("172.18.0.3")),
        ]
        .into(),
        maps: [
            ("services".to_owned(), vec![services]),
            ("answers".to_owned(), vec![answers]),
            ("endpoints".to_owned(), endpoints),
        ]
        .into(),
        droppers: Vec::new(),
        policies: None,
    }
}

fn checked(kernel: &mut Fake) -> Trace {
    let mut trace = World::new(&[]).walk("pod1", "10.200.1.63:9000");
    check(&mut trace, kernel);
    trace
}

#[test]
fn a_kernel_that_is_right_adds_its_counters_and_no_difference() {
    let trace = checked(&mut right());
    expect(
        &trace,
        End::Leaves,
        &[
            "kernel: 10.10.2.3 dev vethpod1",
            "kernel: services: 7000:3, goto pick-3, 30 connections so far",
            "kernel: endpoints: 10.10.3.3:80, 9 connections so far",
            "kernel: endpoints: 10.10.1.3:80, 1 connection so far",
            "kernel: 10.10.1.3 via 172.18.0.2 dev eth0",
        ],
    );
    assert_eq!(trace.differences, Vec::<String>::new());
    assert!(trace.hops.iter().all(|hop| hop.checks.is_empty()));
}

#[test]
fn each_difference_is_named() {
    /// Makes a right kernel wrong.
    type Spoil = fn(&mut Fake);
    let cases: [(&str, Spoil); 7] = [
        (
            "route: 10.10.1.3 via 172.18.0.9 dev eth0, but wanted is via 172.18.0.2",
            |fake| {
                fake.change_way("10.10.1.3", |way| match way {
                    Way::Link { gateway, .. } => *gateway = Some(ip("172.18.0.9")),
                    other => panic!("{other:?}"),
                });
            },
        ),
        (
            "route: 10.10.2.3 unreachable, but wanted is dev vethpod1",
            |fake| {
                fake.change_way("10.10.2.3", |way| *way = Way::Unreachable);
            },
        ),
        ("172.18.0.3 does not answer to ARP", |fake| {
            fake.change_way("10.10.3.3", |way| match way {
                Way::Link { silent, .. } => *silent = true,
                other => panic!("{other:?}"),
            });
        }),
        (
            "map `services` of table ip podwire-services does not have it",
            |fake| {
                fake.maps.get_mut("services").unwrap().clear();
            },
        ),
        (
            "map `services` of table ip podwire-services is not there",
            |fake| {
                fake.maps.clear();
            },
        ),
        (
            "endpoint 10.10.2.4:80 is wanted, and not in map `endpoints`",
            |fake| {
                fake.maps.get_mut("endpoints").unwrap().pop();
            },
        ),
        (
            "endpoint 10.10.9.9:80 is in map `endpoints`, and not wanted",
            |fake| {
                fake.maps.get_mut("endpoints").unwrap()[0].data[2..4].copy_from_slice(&[9, 9]);
            },
        ),
    ];
    for (difference, spoil) in cases {
        let mut kernel = right();
        spoil(&mut kernel);
        let trace = checked(&mut kernel);
        let found = trace
            .differences
            .iter()
            .any(|text| text.contains(difference));
        assert!(found, "{difference} in {trace}");
        assert!(
            trace
                .to_string()
                .contains("The kernel differs from what is wanted")
        );
    }
}

#[test]
fn a_node_without_a_route_is_wrong_about_what_is_outside_about_nodes_and_for_its_own_services() {
    for (from, to, asked, hop) in [
        ("pod1", "203.0.113.9:80", "203.0.113.9", 1),
        ("worker2", "203.0.113.9:80", "203.0.113.9", 1),
        ("pod1", "172.18.0.2:80", "172.18.0.2", 1),
        ("worker2", "10.200.1.63:9000", "10.200.1.63", 1),
    ] {
        let mut kernel = right();
        kernel.ways.insert(ip(asked), Way::Unreachable);
        let mut trace = World::new(&[]).walk(from, to);
        check(&mut trace, &mut kernel);
        let wrong = format!("no route leads to {asked}: see that the uplink is up");
        let [found] = &trace.hops[hop].differs[..] else {
            panic!("{from} {to} {trace}")
        };
        assert!(found.starts_with(&wrong), "{found}");
        let text = trace.to_string();
        let end = format!("=x It is refused: node worker2 has no route to {asked}, unless");
        assert!(trace.hops.len() == hop + 1 && text.contains(&end), "{text}");
    }
}

#[test]
fn where_the_uplink_is_down_the_walk_ends_at_the_route_and_says_so() {
    let mut world = World::new(&[]);
    let uplink = world.uplink.as_mut().unwrap();
    (uplink.up, uplink.on_link) = (false, Vec::new());
    let mut kernel = right();
    kernel.ways.insert(ip("10.10.1.3"), Way::Unreachable);
    let mut trace = world.walk("pod1", "10.10.1.3:80");
    check(&mut trace, &mut kernel);
    let text = trace.to_string();
    assert!(trace.end == End::Refused && trace.hops.len() == 2, "{text}");
    assert!(trace.conclusion.contains("eth0 is down"), "{text}");
}

/// The packet gets another destination before it is sent.
#[test]
fn the_gateway_that_a_cluster_ip_would_have_need_not_answer() {
    let mut kernel = right();
    let silent = Way::Link {
        link: Some("eth0".into()),
        gateway: Some(ip("172.18.0.1")),
        silent: true,
    };
    kernel.ways.insert(ip("10.200.1.63"), silent);
    let mut trace = World::new(&[]).walk("worker2", "10.200.1.63:9000");
    check(&mut trace, &mut kernel);
    assert_eq!(trace.differences, Vec::<String>::new());
}

#[test]
fn nothing_comes_in_through_an_uplink_that_is_down() {
    let mut world = World::new(&[]);
    world.uplink.as_mut().unwrap().up = false;
    let trace = world.walk("10.10.1.3", "10.10.2.3:80");
    assert_eq!(trace.hops[0].differs, ["eth0 is down"]);
    assert_eq!(trace.differences, ["eth0 is down"]);
}

#[test]
fn what_no_one_has_fails_at_its_route() {
    for to in ["10.10.2.77:80", "10.10.7.2:80"] {
        let trace = World::new(&[]).walk("pod1", to);
        assert_eq!(trace.end, End::Refused);
        let last = &trace.hops.last().unwrap().what;
        assert!(last.starts_with("Route to "), "{last}");
    }
}

#[test]
fn drop_policies_of_others_are_named_but_are_no_difference() {
    let mut kernel = right();
    kernel
        .droppers
        .push("nftables chain ip filter FORWARD drops what none of its rules accepts".into());
    let trace = checked(&mut kernel);
    expect(
        &trace,
        End::Leaves,
        &["nftables chain ip filter FORWARD drops what none of its rules"],
    );
    assert!(trace.differences.is_empty());
}

#[test]
fn a_remembered_client_is_shown_its_endpoint() {
    let world = World::new(&[]).with("svc-clusterip", |service| service.affinity = Some(60));
    let mut trace = world.walk("pod1", "10.200.1.63:9000");
    let numbers: Vec<(u32, SocketAddr)> = trace
        .hops
        .iter()
        .flat_map(|hop| &hop.checks)
        .find_map(|check| match check {
            Check::Client { endpoints, .. } => Some(endpoints.clone()),
            _ => None,
        })
        .unwrap();
    let clients = |number: u32| Entry {
        key: vec![10, 10, 2, 3],
        data: number.to_ne_bytes().to_vec(),
        ..Entry::default()
    };
    let map = "affinity/default/svc-clusterip/tcp-9000/clients".to_owned();
    let mut kernel = right();
    kernel.maps.insert(map.clone(), vec![clients(numbers[1].0)]);
    check(&mut trace, &mut kernel);
    let words = format!("10.10.2.3 is remembered: it gets {}", numbers[1].1);
    expect(&trace, End::Leaves, &[&words]);
    for (entries, words) in [
        (vec![clients(1)], "with an endpoint that is gone"),
        (Vec::new(), "10.10.2.3 is not remembered"),
    ] {
        kernel.maps.insert(map.clone(), entries);
        let mut trace = world.walk("pod1", "10.200.1.63:9000");
        check(&mut trace, &mut kernel);
        expect(&trace, End::Leaves, &[words]);
    }
}
