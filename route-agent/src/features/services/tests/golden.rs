//! What `nft` prints of each kind of Service: plain text with fixed addresses, in `golden/`.
//!
//! A golden file holds what a Service adds to the table without Services (`base.nft`, `base6.nft`),
//! or, where a setting changes that as well, the whole table. Each is compared with what the kernel
//! holds, loaded into an empty kernel by `nft`, and listed and read back without a difference. With
//! `UPDATE_GOLDEN=1` in the environment the files are written instead.

use std::fmt::Write as _;

use podwire_kernel::IpFamily;
use podwire_kernel::nft::{Element, Key, Set};

use crate::config::services::{BalancingFlag, Config, NodePortAddresses};
use crate::features::services::tests::bench::{Bench, in_namespace, nft};
use crate::features::services::tests::golden_cases::{CASES, CASES6, Case, WEB, case};
use crate::features::services::tests::golden_load::{Loader, observe};
use crate::features::services::tests::packet_walk::table_of;
use crate::snapshot::{Balancing, Object};

#[test]
fn each_kind_of_service_prints_as_its_golden_file_says_and_can_be_loaded_again() {
    in_namespace(|| check_all(IpFamily::V4, "base", CASES));
}

#[test]
fn each_kind_of_service_prints_and_loads_in_ipv6() {
    in_namespace(|| check_all(IpFamily::V6, "base6", CASES6));
}

#[test]
fn what_a_setting_changes_prints_and_loads() {
    let on = Config::default;
    let within = NodePortAddresses::Within(vec!["172.18.77.0/24".parse().unwrap()]);
    let cases = [
        (
            "counters-off",
            "--service-counters=false: Services and endpoints are not counted.",
            Config {
                counters: false,
                ..on()
            },
        ),
        (
            "masquerade-all",
            "--masquerade-all=true: pods are masqueraded as well (row 15).",
            Config {
                masquerade_all: true,
                ..on()
            },
        ),
        (
            "nodeport-primary",
            "--nodeport-addresses=primary --localhost-nodeports=false: node ports answer on the \
             Node's own address alone (row 10).",
            Config {
                node_port_addresses: NodePortAddresses::Primary,
                localhost_node_ports: false,
                ..on()
            },
        ),
        (
            "nodeport-networks",
            "--nodeport-addresses=172.18.77.0/24: node ports answer there and on 127.0.0.1 (row \
             10).",
            Config {
                node_port_addresses: within,
                ..on()
            },
        ),
        (
            "no-localhost",
            "--localhost-nodeports=false: no node ports on 127.0.0.1, and nothing to guard (row \
             10).",
            Config {
                localhost_node_ports: false,
                ..on()
            },
        ),
        (
            "echo",
            "--cluster-ip-echo=true: the node answers ping to a ClusterIP (row 18).",
            Config {
                cluster_ip_echo: true,
                ..on()
            },
        ),
        (
            "balancing",
            "--balancing=round-robin for the whole node.",
            Config {
                balancing: BalancingFlag {
                    balancing: Balancing::RoundRobin,
                    bad: None,
                },
                ..on()
            },
        ),
    ];
    for (file, shows, config) in cases {
        in_namespace(move || {
            let mut bench = Bench::with(IpFamily::V4, config);
            let case = case(file, shows, WEB);
            fill(&mut bench, &case);
            compare(file, &(case.head("the whole table") + &list()));
            Loader::new(IpFamily::V4).loads_again(&mut bench, &[file]);
        });
    }
}

#[test]
fn every_golden_file_belongs_to_a_case() {
    let settings = [
        "counters-off",
        "masquerade-all",
        "nodeport-primary",
        "nodeport-networks",
        "no-localhost",
        "echo",
        "balancing",
    ];
    let cases = CASES.iter().chain(CASES6).map(|case| case.file);
    let mut known: Vec<String> = cases
        .chain(settings)
        .chain(["base", "base6"])
        .map(|name| format!("{name}.nft"))
        .collect();
    let mut found: Vec<String> = std::fs::read_dir(path("base").parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    known.sort();
    found.sort();
    assert_eq!(found, known);
}

impl Case {
    /// Comment lines that say what follows.
    fn head(&self, what: &str) -> String {
        let mut head = format!("# {}\n", self.shows);
        for (name, text, endpoints) in self.services {
            let _ = writeln!(head, "#\n# Service default/{name}: {text}");
            let _ = writeln!(head, "# endpoints: {endpoints}");
        }
        let _ = writeln!(head, "#\n# Below: {what}.");
        head
    }
}

/// The table without Services, then each case on top of it.
fn check_all(family: IpFamily, base: &str, cases: &[Case]) {
    let mut bench = Bench::with(family, Config::default());
    // A table comes with the first Service of its family, and stays.
    let ip = match family {
        IpFamily::V4 => "10.200.1.1",
        IpFamily::V6 => "fd00:10:200::1",
    };
    bench.service("first", &format!("cluster-ip {ip}; port tcp 80"));
    bench.sync();
    bench.gone("first");
    bench.sync_later();
    let empty = list();
    compare(base, &format!("# The table without Services.\n{empty}"));
    let loader = Loader::new(family);
    loader.loads_again(&mut bench, &[base]);
    for case in cases {
        fill(&mut bench, case);
        as_value(&mut bench, case);
        let added = format!("what comes on top of {base}.nft");
        let text = on_top(&empty, &list());
        compare(case.file, &(case.head(&added) + &text));
        loader.loads_again(&mut bench, &[base, case.file]);
        for (name, ..) in case.services {
            bench.gone(name);
        }
        bench.sync();
        bench.sync_later();
        assert_eq!(list(), empty, "{} leaves something behind", case.file);
    }
}

/// Programs the Services of a case.
fn fill(bench: &mut Bench, case: &Case) {
    for (service, slice) in case.objects() {
        bench.set(Object::Service(service));
        bench.set(Object::EndpointSlice(slice));
    }
    bench.sync();
}

/// The kernel holds the table through which `flows` walks, but for the order of its chains.
#[track_caller]
fn as_value(bench: &mut Bench, case: &Case) {
    let observed = observe(bench);
    let value = table_of(case, bench.family(), &bench.config);
    for (name, set) in value.sets.iter() {
        let there = observed.sets.get(name).unwrap();
        let said = |set: &Set| -> Vec<_> {
            let elements = set.elements.iter();
            let said = |(key, one): (&Key, &Element)| {
                (key.clone(), one.key_end.clone(), one.value.clone())
            };
            elements.map(said).collect()
        };
        assert!(there.same_header(set), "{}: set {name}", case.file);
        assert_eq!(said(there), said(set), "{}: set {name}", case.file);
    }
    for (name, chain) in value.chains.iter() {
        let there = observed.chains.get(name).unwrap();
        assert_eq!(there.base, chain.base, "{}: chain {name}", case.file);
        let same = (there.rules.iter().zip(&chain.rules)).all(|(a, b)| a.same_as(b));
        assert!(
            same && there.rules.len() == chain.rules.len(),
            "{}: chain {name}",
            case.file
        );
    }
}

/// What `nft` prints of everything, without numbers that move.
pub fn list() -> String {
    nft("--stateless list ruleset")
}

/// The sets and chains of a listing, each with its lines.
pub fn blocks(listing: &str) -> Vec<String> {
    let mut blocks: Vec<String> = Vec::new();
    let mut inside = false;
    for line in listing.lines() {
        let starts = line.starts_with('\t') && !line.starts_with("\t\t") && line.ends_with('{');
        if starts {
            blocks.push(String::new());
            inside = true;
        }
        if let Some(block) = blocks.last_mut().filter(|_| inside) {
            block.push_str(line);
            block.push('\n');
        }
        inside &= line != "\t}";
    }
    blocks
}

/// The sets and chains that differ from the table without Services, as a table that `nft` can load
/// on top of it.
fn on_top(empty: &str, listing: &str) -> String {
    let known = blocks(empty);
    let new: Vec<String> = blocks(listing)
        .into_iter()
        .filter(|block| !known.contains(block))
        .collect();
    let table = listing.lines().next().unwrap();
    format!("{table}\n{}}}\n", new.join("\n"))
}

/// Compares with the golden file, or writes it.
#[track_caller]
fn compare(file: &str, text: &str) {
    let path = path(file);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        text == golden,
        "the kernel holds:\n{text}\n{} says:\n{golden}\nUPDATE_GOLDEN=1 writes it again",
        path.display()
    );
}

/// Where a golden file is.
pub fn path(file: &str) -> std::path::PathBuf {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/features/services/golden");
    std::path::Path::new(folder).join(format!("{file}.nft"))
}
