use std::sync::Arc;

use podwire_agent::cluster::{Cluster, Endpoint, Node, Pod, Port, Service};
use podwire_agent::drops::{Dropped, Page, Party};
use podwire_agent::report::{PodReport, UplinkReport};
use podwire_agent::why::Hop;

use super::*;
use crate::reach::fake::{Fake, Says};

const HOSTILE: &str = "default/b\u{1b}[2J\nforged";

fn cluster(node: &str, pods: &[(&str, &str)]) -> Cluster {
    let node_of = |name: &str, address: &str, cidr: &str| Node {
        name: name.into(),
        addresses: vec![address.parse().unwrap()],
        pod_cidrs: vec![cidr.parse().unwrap()],
        ..Node::default()
    };
    Cluster {
        node: node.into(),
        nodes: vec![
            node_of("one", "192.168.8.1", "10.10.1.0/24"),
            node_of("two", "192.168.8.2", "10.10.2.0/24"),
        ],
        services: vec![Service {
            name: "web".into(),
            namespace: "default".into(),
            cluster_ips: vec!["10.200.0.1".parse().unwrap()],
            ports: vec![Port {
                protocol: "tcp".into(),
                port: 80,
                endpoints: vec![Endpoint {
                    address: "10.10.2.2".parse().unwrap(),
                    port: 8080,
                    pod: Some(HOSTILE.into()),
                    node: Some("two".into()),
                    ready: true,
                    serving: true,
                    terminating: false,
                }],
                ..Port::default()
            }],
            ..Service::default()
        }],
        pods: pods
            .iter()
            .map(|(name, address)| Pod {
                name: Some((*name).into()),
                addresses: vec![address.parse().unwrap()],
                ..Pod::default()
            })
            .collect(),
        ..Cluster::default()
    }
}

fn trace(node: &str, end: TraceEnd, conclusion: &str) -> Trace {
    let hop = |what: &str| Hop {
        what: what.into(),
        ..Hop::default()
    };
    Trace {
        node: node.into(),
        source: String::new(),
        destination: String::new(),
        hops: vec![hop("first"), hop("second")],
        end,
        conclusion: conclusion.into(),
        differences: Vec::new(),
    }
}

fn report(node: &str, pod: &str, mtu: u32) -> Report {
    Report {
        node: node.into(),
        uplink: Some(UplinkReport {
            name: "eth0".into(),
            mtu,
            up: true,
            addresses: Vec::new(),
        }),
        pods: vec![PodReport {
            link: "veth1".into(),
            pod: None,
            container_id: String::new(),
            ifname: "eth0".into(),
            addresses: vec![pod.parse().unwrap()],
            mtu: Some(1500),
            present: true,
        }],
        ..Report::default()
    }
}

const THERE: &str = "/why?from=10.10.1.2&to=10.200.0.1%3A80%2Ftcp";
const ARRIVES: &str = "/why?from=10.10.1.2&to=10.10.2.2%3A8080%2Ftcp";
const BACK: &str = "/why?from=10.10.2.2&to=10.10.1.2&answer=1";

/// Two nodes with a pod each, between which all is well.
fn well() -> Fake {
    Fake::of(&["one", "two"])
        .tells(
            "one",
            "/cluster",
            &cluster("one", &[("default/a", "10.10.1.2")]),
        )
        .tells(
            "two",
            "/cluster",
            &cluster("two", &[(HOSTILE, "10.10.2.2")]),
        )
        .tells("one", "/status", &report("one", "10.10.1.2", 1500))
        .tells("two", "/status", &report("two", "10.10.2.2", 1500))
        .tells(
            "one",
            THERE,
            &trace("one", TraceEnd::Leaves, "It goes to its endpoint."),
        )
        .tells(
            "two",
            ARRIVES,
            &trace("two", TraceEnd::Arrives, "It arrives at the pod."),
        )
        .tells("two", BACK, &trace("two", TraceEnd::Leaves, "It leaves."))
        .tells("one", BACK, &trace("one", TraceEnd::Arrives, "It arrives."))
}

async fn walked(fake: Fake, from: &str, to: &str) -> Result<Walk, DeskError> {
    let fleet = Fleet::assemble(Arc::new(fake)).await.unwrap();
    walk(&fleet, from, to).await
}

#[tokio::test]
async fn both_nodes_are_asked_there_and_back() {
    let walk = walked(well(), "default/a", "web:80").await.unwrap();
    let parts: Vec<_> = walk
        .parts
        .iter()
        .map(|part| (part.node.as_str(), part.way))
        .collect();
    assert_eq!(
        parts,
        [
            ("one", Way::There),
            ("two", Way::There),
            ("two", Way::Back),
            ("one", Way::Back)
        ]
    );
    assert!(walk.good);
    assert_eq!(
        walk.conclusion,
        "It arrives at the pod. The answer comes back."
    );
    let text = walk.text();
    assert!(text.contains("\n  8. second\n"), "{text}");
    assert!(
        text.contains(r"for pod default/b\u{1b}[2J\nforged (10.10.2.2)"),
        "{text}"
    );
    assert!(
        !text.contains(|c: char| c != '\n' && c.is_control()),
        "{text}"
    );
    let json = for_programs(&walk, Output::Json).unwrap();
    assert_eq!(serde_json::from_str::<Walk>(&json).unwrap(), walk);
}

#[tokio::test]
async fn the_first_hop_that_fails_is_named_with_its_node() {
    let mut differs = trace("two", TraceEnd::Arrives, "It arrives at the pod.");
    differs.hops[1].differs = vec!["route: 10.10.2.2 unreachable, but wanted is dev veth1".into()];
    let refused = trace(
        "one",
        TraceEnd::Refused,
        "A packet to Service web is refused.",
    );
    let dropped = trace(
        "two",
        TraceEnd::Dropped,
        "It is dropped: policy p isolates it.",
    );
    let mut lost = trace("one", TraceEnd::Arrives, "It arrives.");
    lost.hops[0].differs = vec!["route: 10.10.1.2 via x".into()];
    for (node, target, answer, hop, begin, cause) in [
        (
            "two",
            ARRIVES,
            differs,
            4,
            "The packet does not arrive: it fails on node two at hop 4. ",
            "Route: 10.10.2.2 unreachable",
        ),
        (
            "one",
            THERE,
            refused,
            2,
            "The packet does not arrive: it fails on node one at hop 2. ",
            "A packet to Service web is refused.",
        ),
        (
            "two",
            ARRIVES,
            dropped,
            4,
            "The packet does not arrive: it fails on node two at hop 4. ",
            "It is dropped: policy p isolates it.",
        ),
        (
            "one",
            BACK,
            lost,
            7,
            "The packet arrives, and the answer does not come back: it fails on node one at hop 7. ",
            "Route: 10.10.1.2 via x.",
        ),
    ] {
        let fake = well().tells(node, target, &answer);
        let walk = walked(fake, "a", "default/web:80").await.unwrap();
        assert!(!walk.good);
        assert_eq!(walk.failure.as_ref().unwrap().hop, Some(hop));
        assert!(
            walk.conclusion.starts_with(&format!("{begin}{cause}")),
            "{}",
            walk.conclusion
        );
        assert!(walk.text().contains("<== fails here"), "{}", walk.text());
    }
}

/// A port of the client's own node, whose endpoint is on another: the endpoint sees the node.
#[tokio::test]
async fn where_the_first_node_replaces_the_source_the_others_are_asked_about_that_node() {
    let mut known = cluster("one", &[("default/a", "10.10.1.2")]);
    known.services[0].ports[0].node_port = Some(30080);
    let to_port = "/why?from=10.10.1.2&to=192.168.8.1%3A30080%2Ftcp";
    let arrives = "/why?from=192.168.8.1&to=10.10.2.2%3A8080%2Ftcp";
    let mut replaced = trace("one", TraceEnd::Leaves, "It goes to its endpoint.");
    replaced.hops[1].what = MASQUERADED.into();
    let fake = || {
        let back = "/why?from=10.10.2.2&to=192.168.8.1&answer=1";
        well()
            .tells("one", "/cluster", &known)
            .tells("one", to_port, &replaced)
            .tells("two", back, &trace("two", TraceEnd::Leaves, "It leaves."))
    };
    let dropped = trace("two", TraceEnd::Dropped, "It is dropped: only a may.");
    let walk = walked(
        fake().tells("two", arrives, &dropped),
        "a",
        "192.168.8.1:30080",
    );
    let conclusion = walk.await.unwrap().conclusion;
    assert!(conclusion.ends_with("only a may."), "{conclusion}");
    let arrived = trace("two", TraceEnd::Arrives, "It arrives at the pod.");
    let walk = walked(
        fake().tells("two", arrives, &arrived),
        "a",
        "192.168.8.1:30080",
    );
    let walk = walk.await.unwrap();
    let titles: Vec<&str> = walk.parts.iter().map(|part| &*part.title).collect();
    assert_eq!(titles[2], "On node two, where the answer begins");
    assert_eq!(titles[3], "On node one, where the answer arrives");
    assert_eq!(
        walk.conclusion,
        "It arrives at the pod. The answer comes back."
    );
}

/// Who is outside gets the answer from the node that it asked.
#[tokio::test]
async fn the_answer_to_who_is_outside_passes_the_node_that_replaced_the_source() {
    let mut known = cluster("one", &[]);
    known.services[0].ports[0].node_port = Some(30080);
    let to_port = "/why?from=203.0.113.9&to=192.168.8.1%3A30080%2Ftcp";
    let mut replaced = trace("one", TraceEnd::Leaves, "It goes to its endpoint.");
    replaced.hops[1].what = MASQUERADED.into();
    let fake = well()
        .tells("one", "/cluster", &known)
        .tells("one", to_port, &replaced)
        .tells(
            "two",
            "/why?from=192.168.8.1&to=10.10.2.2%3A8080%2Ftcp",
            &trace("two", TraceEnd::Arrives, "It arrives at the pod."),
        )
        .tells(
            "two",
            "/why?from=10.10.2.2&to=192.168.8.1&answer=1",
            &trace("two", TraceEnd::Leaves, "It leaves."),
        )
        .tells(
            "one",
            "/why?from=10.10.2.2&to=203.0.113.9&answer=1",
            &trace("one", TraceEnd::Leaves, "It leaves."),
        );
    let walk = walked(fake, "203.0.113.9", "192.168.8.1:30080")
        .await
        .unwrap();
    assert_eq!(
        walk.parts.last().unwrap().title,
        "On node one, where the answer passes"
    );
    assert!(walk.good, "{}", walk.conclusion);
}

/// A packet that node two dropped just now.
fn a_drop(reason: &str, to: &str, protocol: &str, port: Option<u16>) -> Page {
    let party = |address: &str| Party {
        address: address.parse().unwrap(),
        pod: None,
    };
    Page {
        drops: vec![Dropped {
            number: 1,
            time: jiff::Timestamp::now().to_string(),
            reason: reason.into(),
            verdict: "dropped".into(),
            decided_by: "policy default/old".into(),
            because: "So it is.".into(),
            source: party("10.10.1.2"),
            destination: party(to),
            sent_by: None,
            link: None,
            protocol: protocol.into(),
            port,
            reply: false,
            direction: None,
            denied_by: None,
            isolated_by: Vec::new(),
            isolated_by_more: 0,
            nearest: None,
            allowed_by_now: false,
        }],
        ..Page::default()
    }
}

#[tokio::test]
async fn only_a_drop_of_what_is_asked_about_counts_and_none_that_policies_allow_by_now() {
    for (reason, to, protocol, port, counts) in [
        ("source-range", "10.10.2.2", "tcp", Some(8080), true),
        ("source-range", "10.200.0.1", "tcp", Some(80), true),
        ("source-range", "10.10.2.2", "tcp", Some(81), false),
        ("source-range", "10.10.2.2", "udp", Some(8080), false),
        ("source-range", "10.10.2.2", "icmp", None, false),
        ("spoofed", "10.10.2.2", "udp", Some(53), true),
        ("spoofed", "10.10.2.9", "udp", Some(53), false),
        ("policy", "10.10.2.2", "tcp", Some(8080), false),
        ("undecided", "10.10.2.2", "tcp", Some(8080), false),
    ] {
        let mut arrives = trace("two", TraceEnd::Arrives, "It arrives at the pod.");
        arrives.destination = "10.10.2.2:8080/tcp".into();
        let page = a_drop(reason, to, protocol, port);
        let fake = well()
            .tells("two", ARRIVES, &arrives)
            .tells("two", "/drops", &page);
        let walk = walked(fake, "a", "web:80").await.unwrap();
        let case = format!("{reason} {to} {protocol} {port:?}: {}", walk.conclusion);
        assert_eq!(!walk.good, counts, "{case}");
    }
}

/// What the first node knows, with a third one.
fn with_a_third() -> Cluster {
    let mut known = cluster("one", &[("default/a", "10.10.1.2")]);
    known.nodes.push(Node {
        name: "three".into(),
        addresses: vec!["192.168.8.3".parse().unwrap()],
        pod_cidrs: vec!["10.10.3.0/24".parse().unwrap()],
        ..Node::default()
    });
    known
}

/// A client on the first node, a port of the second, an endpoint on the third.
#[tokio::test]
async fn at_a_port_of_another_node_that_nodes_rules_are_asked_too() {
    let mut known = with_a_third();
    let port = &mut known.services[0].ports[0];
    port.node_port = Some(30080);
    port.endpoints[0].address = "10.10.3.2".parse().unwrap();
    port.endpoints[0].node = Some("three".into());
    let to_port = "/why?from=10.10.1.2&to=192.168.8.2%3A30080%2Ftcp";
    let leaves = |node: &str| trace(node, TraceEnd::Leaves, "It leaves.");
    let arrives = |node: &str| trace(node, TraceEnd::Arrives, "It arrives.");
    let mut fake = well()
        .tells("one", "/cluster", &known)
        .tells("one", to_port, &leaves("one"))
        .tells("two", to_port, &leaves("two"))
        .tells(
            "three",
            "/why?from=192.168.8.2&to=10.10.3.2%3A8080%2Ftcp",
            &arrives("three"),
        )
        .tells(
            "three",
            "/why?from=10.10.3.2&to=192.168.8.2&answer=1",
            &leaves("three"),
        )
        .tells(
            "two",
            "/why?from=192.168.8.2&to=10.10.1.2&answer=1",
            &leaves("two"),
        )
        .tells(
            "one",
            "/why?from=192.168.8.2&to=10.10.1.2&answer=1",
            &arrives("one"),
        );
    fake.nodes.push(crate::reach::Node::named("three"));
    let walk = walked(fake, "a", "192.168.8.2:30080").await.unwrap();
    let nodes: Vec<&str> = walk.parts.iter().map(|part| part.node.as_str()).collect();
    assert_eq!(nodes, ["one", "two", "three", "three", "two", "one"]);
    assert_eq!(walk.conclusion, "It arrives. The answer comes back.");
    let text = walk.text();
    assert!(
        text.contains("On node two, at whose port it arrives"),
        "{text}"
    );
}

/// What the first node's agent says of a Service of whose two endpoints one has no route.
const ONE_IS_LOST: &str = r#"{
    "node": "one", "source": "pod default/a (10.10.1.2)", "destination": "10.200.0.1:80/tcp",
    "hops": [
        {"what": "Service default/web, port 80/tcp: its ClusterIP 10.200.0.1", "why": [], "kernel": []},
        {
            "what": "The way to the endpoints",
            "why": [
                "10.10.3.2: by this node's other routes, if any, not to the pod: Node three InternalIP 192.0.2.9 is not on the network of eth0.",
                "10.10.2.2: via 192.168.8.2 (two, route to 10.10.2.0/24) through eth0."
            ],
            "kernel": ["10.10.3.2 via 192.168.8.254 dev eth0", "10.10.2.2 via 192.168.8.2 dev eth0"],
            "lost": [{
                "endpoints": ["10.10.3.2"],
                "why": "10.10.3.2: by this node's other routes, if any, not to the pod: Node three InternalIP 192.0.2.9 is not on the network of eth0."
            }]
        }
    ],
    "end": "leaves",
    "conclusion": "A packet to Service default/web goes to one of its 2 endpoints, over the links above. 1 of them cannot be reached.",
    "differences": []
}"#;

#[tokio::test]
async fn endpoints_that_cannot_be_reached_are_named_and_the_others_are_walked_to() {
    let walk_with = |two: TraceEnd| {
        let lost: Trace = serde_json::from_str(ONE_IS_LOST).unwrap();
        let fake = with_two_endpoints(TraceEnd::Arrives).tells("one", THERE, &lost);
        walked(
            fake.tells("two", ARRIVES, &trace("two", two, "So it is.")),
            "a",
            "web:80",
        )
    };
    let named = "Some endpoints cannot be reached: on node one at hop 2, 10.10.3.2: by this node's \
                 other routes, if any, not to the pod: Node three InternalIP 192.0.2.9 is not on the \
                 network of eth0.";
    let walk = walk_with(TraceEnd::Arrives).await.unwrap();
    assert_eq!(
        walk.conclusion,
        format!("So it is. The answer comes back. {named}")
    );
    assert!(walk.good && walk.failure.is_none());
    assert!(walk.parts.iter().all(|part| part.node != "three"));
    let text = walk.text();
    assert!(text.contains("endpoints   <== may fail here\n"), "{text}");
    let walk = walk_with(TraceEnd::Dropped).await.unwrap();
    assert!(walk.conclusion.ends_with(named), "{}", walk.conclusion);
    assert_eq!(walk.failure.unwrap().node, "two");
}

/// Three nodes: as [`well`], with one more endpoint on the third.
fn with_two_endpoints(third: TraceEnd) -> Fake {
    let mut known = with_a_third();
    let port = &mut known.services[0].ports[0];
    port.endpoints.push(Endpoint {
        address: "10.10.3.2".parse().unwrap(),
        pod: Some("default/c".into()),
        node: Some("three".into()),
        ..port.endpoints[0].clone()
    });
    let arrives = "/why?from=10.10.1.2&to=10.10.3.2%3A8080%2Ftcp";
    let back = "/why?from=10.10.3.2&to=10.10.1.2&answer=1";
    let mut fake = well()
        .tells("one", "/cluster", &known)
        .tells("three", arrives, &trace("three", third, "So it is."))
        .tells(
            "three",
            back,
            &trace("three", TraceEnd::Leaves, "It leaves."),
        )
        .tells("one", back, &trace("one", TraceEnd::Arrives, "It arrives."));
    fake.nodes.push(crate::reach::Node::named("three"));
    fake
}

#[tokio::test]
async fn of_several_endpoints_it_is_said_at_how_many_it_fails() {
    let walk = walked(with_two_endpoints(TraceEnd::Dropped), "a", "web:80")
        .await
        .unwrap();
    assert_eq!(
        walk.conclusion,
        "The packet does not arrive (at 1 of the 2 endpoints that were walked to): it fails on node \
         three at hop 10. So it is."
    );
    let walk = walked(with_two_endpoints(TraceEnd::Arrives), "a", "web:80")
        .await
        .unwrap();
    assert_eq!(
        walk.conclusion,
        "It arrives at each of the 2 endpoints that were walked to. The answer comes back."
    );
}

#[tokio::test]
async fn a_node_that_is_gone_explains_its_silence() {
    let mut silent = trace("one", TraceEnd::Leaves, "It goes to its endpoint.");
    silent.hops[1].differs = vec![
        "192.168.8.2 does not answer to ARP or neighbour discovery: it is down or not on this link"
            .into(),
    ];
    let mut fake = well().tells("one", THERE, &silent);
    let alone = walked(fake, "a", "web:80").await.unwrap();
    assert!(
        alone.conclusion.contains("does not answer to ARP"),
        "{}",
        alone.conclusion
    );
    fake = well().tells("one", THERE, &silent);
    fake.nodes[1].ready = Some(false);
    fake.nodes[1].absent = Some("its pod podwire-2 does not run (Unknown)".into());
    let walk = walked(fake, "a", "web:80").await.unwrap();
    assert_eq!(
        walk.conclusion,
        "The packet does not arrive: it fails after hop 2, on node two or on the way to it. The node is \
         not ready, and no agent on node two: its pod podwire-2 does not run (Unknown)."
    );
    assert!(
        walk.text()
            .contains("  2. second   <== no answer from here on\n"),
        "{}",
        walk.text()
    );
}

#[tokio::test]
async fn that_no_endpoint_is_ready_is_explained_by_a_node_that_is_gone() {
    let mut known = cluster("one", &[("default/a", "10.10.1.2")]);
    known.services[0].ports[0].endpoints[0].ready = false;
    let refused = trace("one", TraceEnd::Refused, "No endpoint is ready.");
    let explanation = "It has endpoints on node two, which is not ready.";
    for (ready, explained) in [(false, true), (true, false)] {
        let mut fake = well()
            .tells("one", "/cluster", &known)
            .tells("one", THERE, &refused);
        fake.nodes[1].ready = Some(ready);
        fake.nodes[1].absent = Some("its pod does not run".into());
        let walk = walked(fake, "a", "web:80").await.unwrap();
        let said = walk.conclusion.ends_with(explanation);
        assert_eq!(said, explained, "{}", walk.conclusion);
        assert_eq!(walk.failure.unwrap().node, "one");
    }
}

#[tokio::test]
async fn an_agent_that_does_not_answer_is_not_taken_for_a_node_that_is_gone() {
    let mut fake = well();
    fake.nodes[1].absent = Some("its pod podwire-2 does not run (Pending)".into());
    let walk = walked(fake, "a", "web:80").await.unwrap();
    assert_eq!(
        walk.conclusion,
        "What happens after hop 2, on node two or on the way to it, is not known. No agent on node \
         two: its pod podwire-2 does not run (Pending)."
    );
    assert!(!walk.good && !walk.failure.unwrap().certain);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_hangs_is_waited_for_once_and_named() {
    let mut fake = well();
    for target in ["/cluster", ARRIVES, BACK, "/status", "/drops"] {
        fake = fake.says("two", target, Says::Nothing);
    }
    let start = tokio::time::Instant::now();
    let walk = walked(fake, "a", "web:80").await.unwrap();
    let failure = walk.failure.unwrap();
    assert_eq!((&*failure.node, failure.certain), ("two", false));
    assert!(failure.cause.contains("gave no answer in"), "{failure:?}");
    // The connectivity test allows 30 s for all of a walk.
    assert!(start.elapsed().as_secs() < 30, "{:?}", start.elapsed());
}

#[tokio::test]
async fn what_only_large_packets_meet_and_what_others_may_drop_is_said_when_all_else_is_well() {
    let fake = well().tells("two", "/status", &report("two", "10.10.2.2", 1400));
    let walk = walked(fake, "a", "web:80").await.unwrap();
    assert!(!walk.good);
    assert_eq!(
        walk.conclusion,
        "Small packets arrive; packets of more than 1400 bytes may not at hop 3: the pod's link veth1 \
         has MTU 1500, uplink eth0 of node two has 1400."
    );
    let failure = walk.failure.unwrap();
    assert_eq!((failure.node.as_str(), failure.hop), ("two", Some(3)));
    let mut suspect = trace("two", TraceEnd::Arrives, "It arrives at the pod.");
    suspect.hops[0].suspects = vec!["nftables chain ip x y has a rule that drops".into()];
    let walk = walked(well().tells("two", ARRIVES, &suspect), "a", "web:80")
        .await
        .unwrap();
    let text = walk.text();
    assert!(text.contains("  3. first   <== may fail here\n"), "{text}");
    assert_eq!(
        walk.conclusion,
        "Nothing of Podwire's stops it. If it fails all the same, look here: on node two at hop 3, nftables \
         chain ip x y has a rule that drops."
    );
}

#[tokio::test]
async fn what_policies_drop_on_the_way_to_some_endpoints_is_a_failure_there() {
    let mut denied: Trace = serde_json::from_str(ONE_IS_LOST).unwrap();
    denied.hops[1].lost.clear();
    denied.hops[1].denied = vec!["10.10.3.2".parse().unwrap()];
    for (end, more) in [
        (TraceEnd::Arrives, ""),
        (
            TraceEnd::Dropped,
            " It fails at 1 of the 1 endpoints that were walked to, too: So it is.",
        ),
    ] {
        let fake = with_two_endpoints(TraceEnd::Arrives).tells("one", THERE, &denied);
        let fake = fake.tells("two", ARRIVES, &trace("two", end, "So it is."));
        let walk = walked(fake, "a", "web:80").await.unwrap();
        let said = "Not every endpoint gets it: on node one at hop 2 policies drop what goes to \
                    10.10.3.2.";
        assert_eq!(walk.conclusion, format!("{said}{more}"));
        assert!(!walk.good);
        assert!(walk.parts.iter().all(|part| part.node != "three"));
        assert_eq!(walk.failure.as_ref().unwrap().hop, Some(2));
        let text = walk.text();
        assert!(text.contains("endpoints   <== fails here\n"), "{text}");
    }
    // The kernel holds something else than the policies say.
    denied.hops[1].differs = vec!["the element is missing".into()];
    let fake = with_two_endpoints(TraceEnd::Arrives).tells("one", THERE, &denied);
    let walk = walked(fake, "a", "web:80").await.unwrap();
    assert!(walk.conclusion.ends_with("The element is missing."));
}

#[tokio::test]
async fn a_name_that_a_silent_agent_may_know_is_not_called_wrong() {
    let mut fake = well();
    fake.nodes.push(crate::reach::Node::named("three"));
    let error = walked(fake, "elsewhere", "web:80").await.unwrap_err();
    let said = error.to_string();
    let silent = " (no agent answers on three, so pods there are not known): ";
    assert!(said.contains(silent), "{said}");
    let error = walked(well(), "elsewhere", "web:80").await.unwrap_err();
    assert!(!error.to_string().contains("no agent answers"), "{error}");
}

/// Of two claims the one that holds counts, whatever the names, and whoever has a pod there.
#[tokio::test]
async fn the_node_that_is_asked_is_the_one_to_which_the_first_sends() {
    let shared = "10.10.8.0/24".parse().unwrap();
    let around = "192.168.0.0/16".parse().unwrap();
    for (to, left_out) in [("10.10.8.2", vec![shared]), ("192.168.8.2", Vec::new())] {
        let mut known = cluster("one", &[("default/a", "10.10.1.2")]);
        known.nodes[1].pod_cidrs.push(shared);
        known.nodes.insert(
            0,
            Node {
                name: "aaa".into(),
                pod_cidrs: vec![shared, around],
                left_out,
                ..Node::default()
            },
        );
        // Its own claim holds for itself.
        let mut own = known.clone();
        own.nodes[0].left_out.clear();
        own.pods = cluster("aaa", &[("default/b", "10.10.8.2")]).pods;
        let there = format!("/why?from=10.10.1.2&to={to}%3A80%2Ftcp");
        let back = format!("/why?from={to}&to=10.10.1.2&answer=1");
        let arrives = trace("two", TraceEnd::Arrives, "It arrives.");
        let leaves = trace("one", TraceEnd::Leaves, "It leaves for node two.");
        let mut fake = well()
            .tells("one", "/cluster", &known)
            .tells("aaa", "/cluster", &own)
            .tells("one", &there, &leaves)
            .tells("two", &there, &arrives)
            .tells("two", &back, &leaves)
            .tells("one", &back, &arrives);
        fake.nodes.push(crate::reach::Node::named("aaa"));
        let walk = walked(fake, "a", &format!("{to}:80")).await.unwrap();
        assert_eq!(walk.parts[1].node, "two", "{}", walk.text());
        assert!(walk.good, "{}", walk.text());
    }
}

#[tokio::test]
async fn a_service_is_found_by_the_name_that_dns_has() {
    for name in ["web.default:80", "web.default.svc.cluster.local:80"] {
        let walk = walked(well(), "a", name).await.unwrap();
        assert!(walk.good, "{}", walk.conclusion);
    }
}

#[tokio::test]
async fn machines_that_are_no_nodes_are_found_by_their_names() {
    let there = "/why?from=10.10.1.2&to=203.0.113.9%3A80%2Ftcp";
    let mut fake = well().tells("one", there, &trace("one", TraceEnd::Leaves, "It leaves."));
    let internet = vec!["203.0.113.9".parse().unwrap()];
    fake.machines.insert("internet".into(), internet);
    let walk = walked(fake, "a", "internet:80").await.unwrap();
    assert_eq!(walk.destination, "machine internet (203.0.113.9:80/tcp)");
    assert!(walk.good, "{}", walk.conclusion);
}

#[tokio::test]
async fn names_that_no_one_has_or_several_have_are_said() {
    let error = walked(well(), "aa", "web:80")
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("\"aa\" is not known"), "{error}");
    let two = cluster("two", &[("other/a", "10.10.2.2")]);
    let fake = well().tells("two", "/cluster", &two);
    let error = walked(fake, "a", "web:80").await.unwrap_err().to_string();
    assert!(
        error.contains("could be any of default/a, other/a"),
        "{error}"
    );
    assert!(walked(well(), "a", "web:http").await.is_err());
    let error = walked(well(), "a", "fd00::1")
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("no address of the same IP family"),
        "{error}"
    );
}
