//! What must become of packets, for each golden case: independent of how the rules say it.
//!
//! A flow is `SOURCE > DESTINATION/PROTOCOL = OUTCOME`. The outcome lists the endpoints that may
//! get the packet, each with `*` behind it if the source becomes the node's address; or it is
//! `refused`, `dropped` or `untouched`. `golden_cases` says which address is what.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use podwire_kernel::IpFamily;

use crate::config::services::Config;
use crate::features::services::tests::golden_cases::{CASES, CASES6, Case};
use crate::features::services::tests::packet_walk::{End, Node, Packet, table_of};
use crate::snapshot::Protocol;

/// The flows of each golden file.
const FLOWS: &[(&str, &[&str])] = &[
    (
        "protocols",
        &[
            "10.10.1.9 > 10.200.1.10:53/tcp = 10.10.2.4:80",
            "10.10.1.9 > 10.200.1.10:53/udp = 10.10.2.4:53",
            "10.10.1.9 > 10.200.1.10:53/sctp = 10.10.2.4:36412",
            "10.10.1.9 > 10.200.1.10:54/udp = refused",
            "10.10.1.9 > 10.200.1.99:53/udp = dropped",
            "10.10.1.9 > 203.0.113.1:53/udp = untouched",
        ],
    ),
    (
        "draining",
        &["10.10.1.9 > 10.200.1.63:9000/tcp = 10.10.2.4:80"],
    ),
    (
        "cluster-ip",
        &[
            "10.10.1.9 > 10.200.1.63:9000/tcp = 10.10.1.3:80 10.10.2.4:80 10.10.3.3:80",
            "10.10.1.3 > 10.200.1.63:9000/tcp = 10.10.1.3:80* 10.10.2.4:80 10.10.3.3:80",
            "10.10.2.9 > 10.200.1.63:9000/tcp = 10.10.1.3:80 10.10.2.4:80 10.10.3.3:80",
            "172.18.0.2 > 10.200.1.63:9000/tcp = 10.10.1.3:80* 10.10.2.4:80* 10.10.3.3:80*",
            "198.51.100.7 > 10.200.1.63:9000/tcp = 10.10.1.3:80* 10.10.2.4:80* 10.10.3.3:80*",
            "10.10.1.9 > 10.200.1.63:9001/tcp = refused",
            "10.10.1.9 > 10.200.1.64:9000/tcp = dropped",
            "172.18.0.2 > 10.200.1.64:9000/tcp = dropped",
        ],
    ),
    (
        "two-cluster-ips",
        &[
            "10.10.1.9 > 10.200.1.1:80/tcp = 10.10.2.4:80 10.10.3.3:80",
            "10.10.1.9 > 10.200.1.2:80/tcp = 10.10.2.5:80 10.10.3.5:80",
        ],
    ),
    (
        "internal-local",
        &[
            "10.10.1.9 > 10.200.1.63:80/tcp = 10.10.1.3:80",
            "172.18.0.2 > 10.200.1.63:80/tcp = 10.10.1.3:80*",
        ],
    ),
    (
        "internal-local-nobody-here",
        &[
            "10.10.1.9 > 10.200.1.63:80/tcp = dropped",
            "172.18.0.2 > 10.200.1.63:80/tcp = dropped",
        ],
    ),
    (
        "no-endpoints",
        &[
            "10.10.1.9 > 10.200.1.63:80/tcp = refused",
            "198.51.100.7 > 192.0.2.11:80/tcp = refused",
            "198.51.100.7 > 192.0.2.12:80/tcp = refused",
            "198.51.100.7 > 172.18.0.2:31000/tcp = refused",
        ],
    ),
    (
        "node-port",
        &[
            "198.51.100.7 > 172.18.0.2:31662/tcp = 10.10.1.3:80* 10.10.2.4:80*",
            "10.10.1.9 > 172.18.0.2:31662/tcp = 10.10.1.3:80 10.10.2.4:80",
            "10.10.1.3 > 172.18.0.2:31662/tcp = 10.10.1.3:80* 10.10.2.4:80",
            "10.10.2.9 > 172.18.0.2:31662/tcp = 10.10.1.3:80* 10.10.2.4:80*",
            "172.18.0.2 > 172.18.0.2:31662/tcp = 10.10.1.3:80* 10.10.2.4:80*",
            "127.0.0.1 > 127.0.0.1:31662/tcp = 10.10.1.3:80* 10.10.2.4:80*",
            "198.51.100.7 > 127.0.0.1:31662/tcp = dropped",
            "198.51.100.7 > 172.18.0.4:31662/tcp = untouched",
            "198.51.100.7 > 172.18.0.2:31663/tcp = untouched",
            "198.51.100.7 > 172.18.0.2:31662/udp = untouched",
            "10.10.1.9 > 10.200.1.217:9000/tcp = 10.10.1.3:80 10.10.2.4:80",
            "10.10.1.9 > 10.200.1.217:31662/tcp = refused",
        ],
    ),
    (
        "load-balancer",
        &[
            "198.51.100.7 > 192.0.2.11:80/tcp = 10.10.2.4:80* 10.10.3.3:80*",
            "10.10.1.9 > 192.0.2.11:80/tcp = 10.10.2.4:80 10.10.3.3:80",
            "198.51.100.7 > 192.0.2.11:81/tcp = untouched",
        ],
    ),
    (
        "source-ranges",
        &[
            "198.51.100.7 > 192.0.2.12:80/tcp = 10.10.2.4:80*",
            "198.51.100.8 > 192.0.2.12:80/tcp = dropped",
            "10.10.1.9 > 192.0.2.12:80/tcp = 10.10.2.4:80",
            "172.18.0.2 > 192.0.2.12:80/tcp = 10.10.2.4:80*",
            "192.0.2.12 > 192.0.2.12:80/tcp = 10.10.2.4:80*",
            "192.0.2.13 > 192.0.2.12:80/tcp = dropped",
            "198.51.100.8 > 192.0.2.112:80/tcp = 10.10.2.4:80*",
        ],
    ),
    (
        "source-ranges-for-nobody",
        &[
            "198.51.100.7 > 192.0.2.12:80/tcp = dropped",
            "10.10.1.9 > 192.0.2.12:80/tcp = dropped",
            "10.10.1.9 > 10.200.1.12:80/tcp = 10.10.2.4:80",
        ],
    ),
    (
        "external-ip",
        &["198.51.100.7 > 192.0.2.13:80/tcp = 10.10.2.4:80*"],
    ),
    (
        "external-local",
        &[
            "198.51.100.7 > 192.0.2.14:80/tcp = 10.10.1.3:80",
            "10.10.2.9 > 192.0.2.14:80/tcp = 10.10.1.3:80",
            "10.10.1.9 > 192.0.2.14:80/tcp = 10.10.1.3:80 10.10.2.4:80 10.10.3.3:80",
            "172.18.0.2 > 192.0.2.14:80/tcp = 10.10.1.3:80* 10.10.2.4:80* 10.10.3.3:80*",
            "198.51.100.7 > 172.18.0.2:31014/tcp = 10.10.1.3:80",
            "172.18.0.2 > 172.18.0.2:31014/tcp = 10.10.1.3:80* 10.10.2.4:80* 10.10.3.3:80*",
            "10.10.1.9 > 10.200.1.14:80/tcp = 10.10.1.3:80 10.10.2.4:80 10.10.3.3:80",
        ],
    ),
    (
        "external-local-nobody-here",
        &[
            "198.51.100.7 > 192.0.2.14:80/tcp = dropped",
            "198.51.100.7 > 172.18.0.2:31014/tcp = dropped",
            "10.10.1.9 > 192.0.2.14:80/tcp = 10.10.2.4:80 10.10.3.3:80",
            "172.18.0.2 > 172.18.0.2:31014/tcp = 10.10.2.4:80* 10.10.3.3:80*",
        ],
    ),
    (
        "affinity",
        &[
            "10.10.1.9 > 10.200.1.17:80/tcp = 10.10.1.3:80 10.10.2.4:80 10.10.3.3:80",
            "198.51.100.7 > 192.0.2.17:80/tcp = 10.10.1.3:80* 10.10.2.4:80* 10.10.3.3:80*",
        ],
    ),
    (
        "affinity-local",
        &[
            "198.51.100.7 > 172.18.0.2:31017/tcp = 10.10.1.3:80",
            "172.18.0.2 > 172.18.0.2:31017/tcp = 10.10.1.3:80* 10.10.2.4:80* 10.10.3.3:80*",
            "10.10.1.9 > 10.200.1.17:80/tcp = 10.10.1.3:80 10.10.2.4:80 10.10.3.3:80",
        ],
    ),
    (
        "affinity-round-robin",
        &["10.10.1.9 > 10.200.1.17:80/tcp = 10.10.2.4:80 10.10.3.3:80"],
    ),
    (
        "round-robin",
        &[
            "10.10.1.9 > 10.200.1.41:80/tcp = 10.10.1.3:80 10.10.2.4:80 10.10.3.3:80",
            "198.51.100.7 > 172.18.0.2:31041/tcp = 10.10.1.3:80* 10.10.2.4:80* 10.10.3.3:80*",
        ],
    ),
    (
        "source-hash",
        &["10.10.1.9 > 10.200.1.42:80/tcp = 10.10.1.3:80 10.10.2.4:80 10.10.3.3:80"],
    ),
    (
        "cluster-ip6",
        &[
            "fd00:10:10:1::9 > [fd00:10:200::63]:80/tcp = \
             [fd00:10:10:1::3]:80 [fd00:10:10:2::4]:80",
            "fd00:10:10:1::9 > [fd00:10:200::63]:53/udp = \
             [fd00:10:10:1::3]:53 [fd00:10:10:2::4]:53",
            "fd00:10:10:1::3 > [fd00:10:200::63]:80/tcp = \
             [fd00:10:10:1::3]:80* [fd00:10:10:2::4]:80",
            "2001:db8:1::7 > [fd00:10:200::63]:80/tcp = \
             [fd00:10:10:1::3]:80* [fd00:10:10:2::4]:80*",
            "fd00:10:10:1::9 > [fd00:10:200::63]:81/tcp = refused",
            "fd00:10:10:1::9 > [fd00:10:200::64]:80/tcp = dropped",
        ],
    ),
    (
        "ways-in6",
        &[
            "2001:db8:1::7 > [2001:db8::14]:80/tcp = [fd00:10:10:1::3]:80",
            "2001:db8:1::8 > [2001:db8::14]:80/tcp = dropped",
            "2001:db8:1::8 > [2001:db8::15]:80/tcp = [fd00:10:10:1::3]:80",
            "fd00:10:10:1::9 > [2001:db8::14]:80/tcp = \
             [fd00:10:10:1::3]:80 [fd00:10:10:2::4]:80",
            "::1 > [::1]:31014/tcp = untouched",
        ],
    ),
    (
        "affinity6",
        &["fd00:10:10:1::9 > [fd00:10:200::17]:80/tcp = \
           [fd00:10:10:1::3]:80 [fd00:10:10:2::4]:80"],
    ),
    (
        "nobody6",
        &[
            "fd00:10:10:1::9 > [fd00:10:200::9]:80/tcp = refused",
            "fd00:10:10:1::9 > [fd00:10:200::8]:80/tcp = dropped",
        ],
    ),
];

/// All golden cases with their families.
fn cases() -> impl Iterator<Item = (&'static Case, IpFamily)> {
    let v4 = CASES.iter().map(|case| (case, IpFamily::V4));
    v4.chain(CASES6.iter().map(|case| (case, IpFamily::V6)))
}

fn packet(flow: &str) -> Packet {
    let (source, to) = flow.split_once(" > ").unwrap();
    let (destination, protocol) = to.split_once('/').unwrap();
    let destination: SocketAddr = destination.parse().unwrap();
    Packet {
        source: source.parse().unwrap(),
        destination: destination.ip(),
        protocol: Protocol::parse(protocol).unwrap(),
        port: destination.port(),
    }
}

fn shown(ends: &BTreeSet<End>) -> String {
    let one = |end: &End| match end {
        End::Endpoint(endpoint, true) => format!("{endpoint}*"),
        End::Endpoint(endpoint, false) => endpoint.to_string(),
        End::Refused => "refused".into(),
        End::Dropped => "dropped".into(),
        End::Untouched => "untouched".into(),
    };
    ends.iter().map(one).collect::<Vec<_>>().join(" ")
}

#[test]
fn packets_of_every_golden_case_end_where_they_should() {
    let mut wrong = Vec::new();
    for (case, family) in cases() {
        let table = table_of(case, family, &Config::default());
        let flows = FLOWS.iter().find(|(file, _)| *file == case.file);
        let (_, flows) = flows.unwrap_or_else(|| panic!("{} has no flows", case.file));
        for flow in *flows {
            let (packet_text, wanted) = flow.split_once(" = ").unwrap();
            let found = shown(&Node::new(&table).ends(packet(packet_text)));
            if found != wanted {
                wrong.push(format!(
                    "{}: {packet_text} = {found}, not {wanted}",
                    case.file
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_flow_belongs_to_a_golden_case() {
    let files: BTreeSet<_> = cases().map(|(case, _)| case.file).collect();
    let flows: BTreeSet<_> = FLOWS.iter().map(|(file, _)| *file).collect();
    assert_eq!(files, flows);
    assert_eq!(FLOWS.len(), flows.len(), "a case has two lists of flows");
}

#[test]
fn a_client_with_affinity_stays_whatever_chance_yields_and_another_is_free() {
    for (case, family) in cases().filter(|(case, _)| case.file.starts_with("affinity")) {
        let table = table_of(case, family, &Config::default());
        let (_, flows) = FLOWS.iter().find(|(file, _)| *file == case.file).unwrap();
        let last = flows.last().unwrap().split_once(" = ").unwrap().0;
        let known = packet(last);
        let mut node = Node::new(&table);
        let first = node.end(known, 0);
        for chance in 1..6 {
            assert_eq!(node.end(known, chance), first, "{}", case.file);
        }
        let text = last.replacen("9 >", "8 >", 1).replacen("7 >", "8 >", 1);
        let other = packet(&text);
        assert_ne!(node.end(other, 1), first, "{}", case.file);
    }
}

#[test]
fn a_rule_that_is_missing_is_noticed() {
    let case = CASES.iter().find(|case| case.file == "cluster-ip").unwrap();
    let mut table = table_of(case, IpFamily::V4, &Config::default());
    let from_node = packet("172.18.0.2 > 10.200.1.63:9000/tcp");
    let all = "10.10.1.3:80* 10.10.2.4:80* 10.10.3.3:80*";
    assert_eq!(shown(&Node::new(&table).ends(from_node)), all);
    let chain = table.chains.get_mut("to-cluster-ip").unwrap();
    chain.rules.pop();
    let all = "10.10.1.3:80 10.10.2.4:80 10.10.3.3:80";
    assert_eq!(shown(&Node::new(&table).ends(from_node)), all);
}
