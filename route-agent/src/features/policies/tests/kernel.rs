//! What is written when, and what is left alone.

use std::time::{Duration, Instant};

use podwire_kernel::IpFamily;
use podwire_kernel::nft::NftSocket;
use serde_json::{Value, json};

use crate::feature::{Event, Feature as _};
use crate::features::parts::log::Logging;
use crate::features::policies::desired::attachments::Attachments;
use crate::features::policies::desired::frame::Changed;
use crate::features::policies::desired::model::Model;
use crate::features::policies::desired::samples::{
    cluster_policy, here, name, namespace, node, pod, policy,
};
use crate::features::policies::table::sync::FamilyTable;
use crate::features::policies::tests::bench::{Bench, elements, list, nft, numbered_rules};
use crate::ours::Removal;
use crate::snapshot::{Change, Dirty, Key};
use crate::source::decode::{Scope, decode};
use crate::source::objects::Names;

fn app(value: &str) -> Value {
    json!({"matchLabels": {"app": value}})
}

/// To `db` from pods with this label, on port 80.
fn to_db_from(value: &str) -> Value {
    let spec = json!({"podSelector": app("db"), "ingress": [
        {"from": [{"podSelector": app(value)}], "ports": [{"port": 80}]}]});
    policy("shop/db", &spec)
}

/// The cluster of the tests, with `db` open to `web`.
fn shop() -> Bench {
    let mut bench = Bench::new();
    bench.set(&[
        namespace("shop", ""),
        pod("shop/db", "worker", 3, "app=db"),
        pod("shop/job", "worker", 4, "app=job"),
        pod("shop/web", "worker2", 2, "app=web"),
        to_db_from("web"),
    ]);
    bench.rest();
    bench
}

/// Puts a verdict where the rules remember them, to see whether it is forgotten.
fn remember() {
    nft("add element ip podwire-policy allowed { 10.10.2.2 . 10.10.1.3 . tcp . 80 }");
    assert!(remembers());
}

fn remembers() -> bool {
    !elements("allowed").is_empty()
}

#[test]
fn without_a_policy_there_is_no_table_and_pods_cost_nothing() {
    let mut bench = Bench::new();
    assert_eq!(
        bench.set(&[namespace("shop", ""), pod("shop/db", "worker", 3, "app=db")]),
        0
    );
    assert_eq!(list(), "");
    assert!(bench.set(&[to_db_from("web")]) > 0);
    assert!(
        list().contains("table ip podwire-policy") && list().contains("table ip6 podwire-policy")
    );
    bench.gone(Key::NetworkPolicy(name("shop/db")));
    assert_eq!(list(), "");
    assert_eq!(bench.sync(), 0);
}

#[test]
fn a_family_without_pods_here_has_no_table() {
    let mut bench = Bench::new();
    let worker = bench.node.snapshot.nodes.get_mut("worker").unwrap();
    worker.pod_cidrs.truncate(1);
    bench.set(&[namespace("shop", ""), to_db_from("web")]);
    assert!(list().contains("table ip podwire-policy"));
    assert!(!list().contains("ip6"));
    bench.set(&[pod("shop/db", "worker", 3, "app=db")]);
    // Its address is in no podCIDR of the node, and it is isolated all the same.
    let text = nft("list table ip6 podwire-policy");
    assert!(text.contains("set outside"), "{text}");
    assert_eq!(bench.restart(), 0);
}

#[test]
fn a_restart_over_the_right_rules_writes_nothing() {
    let mut bench = shop();
    remember();
    assert_eq!(bench.restart(), 0);
    assert_eq!(bench.sync(), 0);
    assert!(bench.feature.forgets().is_none() && remembers());
    assert_eq!(bench.differences(), [""; 0]);
}

#[test]
fn one_pod_writes_its_own_elements_and_no_others() {
    let mut bench = shop();
    // A peer elsewhere: its class, and there is one already.
    let before = elements("peers");
    assert_eq!(bench.set(&[pod("shop/web2", "worker2", 7, "app=web")]), 2);
    assert!(elements("peers").contains("10.10.2.7") && elements("peers").contains(&before));
    // One that no rule asks about.
    assert_eq!(
        bench.set(&[pod("shop/other", "worker2", 8, "app=other")]),
        0
    );
    // One of this node that no policy selects: open in both directions.
    assert_eq!(bench.set(&[pod("shop/new", "worker", 9, "app=new")]), 4);
    assert!(elements("open-in").contains("10.10.1.9"));
    assert_eq!(bench.gone(Key::Pod(name("shop/new"))), 6);
}

/// A change, and what it is.
type Step<'a> = (&'a str, &'a dyn Fn(&mut Bench));

#[test]
fn what_takes_something_away_is_forgotten_at_once_and_once_more() {
    let takes: [Step; 5] = [
        ("another peer", &|bench| _ = bench.set(&[to_db_from("job")])),
        ("another label", &|bench| {
            _ = bench.set(&[pod("shop/web", "worker2", 2, "app=job")])
        }),
        ("a pod that goes", &|bench| {
            _ = bench.gone(Key::Pod(name("shop/web")))
        }),
        ("a policy that isolates", &|bench| {
            bench.set(&[policy("shop/more", &json!({"podSelector": app("job")}))]);
        }),
        ("a namespace that goes", &|bench| {
            let elsewhere = json!({"podSelector": app("db"), "ingress": [
                {"from": [{"namespaceSelector": {}}]}]});
            bench.set(&[policy("shop/db", &elsewhere)]);
            bench.rest();
            remember();
            bench.gone(Key::Namespace("shop".into()));
        }),
    ];
    for (what, change) in takes {
        let mut bench = shop();
        remember();
        change(&mut bench);
        assert!(!remembers(), "{what}");
        remember();
        assert!(bench.feature.forgets().is_some(), "{what}");
        bench.rest();
        assert!(!remembers(), "{what}: once more");
        assert_eq!(bench.differences(), [""; 0], "{what}");
    }
}

/// The table of a node, at moments of the test's choice.
struct Clocked {
    bench: Bench,
    kernel: NftSocket,
    model: Model,
    table: FamilyTable,
}

impl Clocked {
    fn new() -> Self {
        let bench = shop();
        let (family, attachments) = (IpFamily::V4, Attachments::default());
        let here = here("worker", family);
        let mut clocked = Self {
            model: Model::of(&bench.node.snapshot, &attachments, family, here),
            kernel: NftSocket::open().unwrap(),
            table: FamilyTable::new(family, Logging::On),
            bench,
        };
        let (table, kernel) = (&mut clocked.table, &mut clocked.kernel);
        table
            .sync(kernel, &clocked.model, None, Instant::now())
            .unwrap();
        clocked
    }

    /// A change is carried out at this moment.
    fn change(&mut self, change: Change, now: Instant) {
        let (mut dirty, mut changed) = (Dirty::default(), Changed::default());
        let snapshot = &mut self.bench.node.snapshot;
        snapshot.apply(change, &mut dirty);
        changed.add(&dirty);
        let none = Attachments::default();
        let delta = self.model.update(snapshot, &none, &changed);
        self.table
            .sync(&mut self.kernel, &self.model, Some(&delta), now)
            .unwrap();
    }
}

#[test]
fn who_comes_before_all_is_forgotten_once_more_meets_nothing_of_it() {
    let mut clocked = Clocked::new();
    let start = Instant::now();
    clocked.change(Change::Gone(Key::Pod(name("shop/db"))), start);
    // A packet was being judged when the set was emptied.
    remember();
    let next = pod("shop/next", "worker", 3, "app=db").to_string();
    let next = decode(next.as_bytes(), Scope::All, &mut Names::default()).unwrap();
    for object in next.objects {
        clocked.change(Change::Set(object), start);
    }
    assert!(!remembers());
    assert!(clocked.table.due().is_some(), "and once more, as before");
}

#[test]
fn once_more_comes_a_while_after_the_loss_however_long_the_work_before_it_took() {
    let mut clocked = Clocked::new();
    let before = Instant::now();
    let long_ago = before.checked_sub(Duration::from_secs(1)).unwrap();
    clocked.change(Change::Gone(Key::Pod(name("shop/web"))), long_ago);
    assert!(clocked.table.due().unwrap() > before);
}

#[test]
fn an_isolated_pod_that_gets_an_address_outside_the_pod_cidrs_meets_nothing_that_was_remembered() {
    let outside = |at: &str, address: &str| {
        let mut pod = pod(at, "worker", 9, "app=db");
        pod["status"]["podIPs"] = json!([{"ip": address}]);
        pod
    };
    let mut bench = shop();
    bench.set(&[
        outside("shop/one", "10.99.0.4"),
        outside("shop/two", "10.99.0.5"),
    ]);
    bench.gone(Key::Pod(name("shop/two")));
    bench.rest();
    remember();
    bench.set(&[outside("shop/three", "10.99.0.5")]);
    assert!(!remembers());
}

#[test]
fn what_only_allows_forgets_nothing() {
    let gives: [Step; 6] = [
        ("a peer more", &|bench| {
            let spec = json!({"podSelector": app("db"), "ingress": [
                {"from": [{"podSelector": app("web")}, {"podSelector": app("job")}],
                    "ports": [{"port": 80}, {"port": 81}]}]});
            bench.set(&[policy("shop/db", &spec)]);
        }),
        ("a policy that allows more", &|bench| {
            let spec = json!({"podSelector": app("db"), "ingress": [{"from": [{"namespaceSelector": {}}]}]});
            bench.set(&[policy("shop/more", &spec)]);
        }),
        ("a new peer", &|bench| {
            _ = bench.set(&[pod("shop/web2", "worker2", 7, "app=web")])
        }),
        ("a new pod here", &|bench| {
            _ = bench.set(&[pod("shop/new", "worker", 9, "app=db")])
        }),
        ("isolation that ends", &|bench| {
            bench.set(&[policy("shop/other", &json!({"podSelector": app("none")}))]);
            bench.gone(Key::NetworkPolicy(name("shop/db")));
        }),
        ("a label that no rule asks about", &|bench| {
            bench.set(&[pod("shop/web", "worker2", 2, "app=web tier=front")]);
        }),
    ];
    for (what, change) in gives {
        let mut bench = shop();
        remember();
        change(&mut bench);
        assert!(remembers(), "{what}");
        assert!(bench.feature.forgets().is_none(), "{what}");
        assert_eq!(bench.differences(), [""; 0], "{what}");
    }
}

#[test]
fn a_node_that_changes_while_a_policy_about_nodes_is_replaced_is_looked_at() {
    let spec = json!({"tier": "Admin", "priority": 1, "subject": {"namespaces": {}},
        "egress": [{"action": "Deny", "to": [{"nodes": {"matchLabels": {"role": "edge"}}}]}]});
    let there = [
        cluster_policy("p", &spec),
        node("worker2", &["172.18.0.3"], "role=edge"),
    ];
    let mut bench = shop();
    bench.set(&there);
    assert!(elements("peers").contains("172.18.0.3"));
    bench.apply(vec![Change::Gone(Key::ClusterNetworkPolicy("p".into()))]);
    bench.notice_objects(&[node("worker2", &["172.18.0.4"], "role=edge")]);
    bench.set(&there[..1]);
    let peers = elements("peers");
    assert!(
        peers.contains("172.18.0.4") && !peers.contains("172.18.0.3"),
        "{peers}"
    );
}

#[test]
fn pods_that_come_and_go_leave_the_rules_of_ranges_and_denials_as_they_are() {
    let range = json!([{"port": 30000, "endPort": 32767}]);
    let to_db = |peer: &Value| json!({"podSelector": app("db"), "ingress": [{"from": [peer], "ports": range}]});
    let deny = json!({"tier": "Admin", "priority": 5, "subject": {"pods": {"podSelector": app("db")}},
        "ingress": [{"action": "Deny", "from": [{"pods": {"podSelector": app("scrape")}}],
            "protocols": [{"tcp": {"destinationPort": {"range": {"start": 100, "end": 200}}}}]}]});
    let scrape = || pod("shop/scrape", "worker2", 8, "app=scrape");
    let db = || pod("shop/db", "worker", 3, "app=db");
    for (what, object, key) in [
        (
            "a range",
            policy("shop/range", &to_db(&json!({"podSelector": app("scrape")}))),
            Key::NetworkPolicy(name("shop/range")),
        ),
        (
            "a denial",
            cluster_policy("deny", &deny),
            Key::ClusterNetworkPolicy("deny".into()),
        ),
    ] {
        let mut bench = shop();
        let plain = numbered_rules();
        bench.set(&[object]);
        bench.rest();
        let before = numbered_rules();
        assert_ne!(before, plain, "{what}");
        for _ in 0..2 {
            remember();
            bench.set(&[scrape()]);
            assert!(remembers(), "{what}");
            bench.gone(Key::Pod(name("shop/scrape")));
            bench.gone(Key::Pod(name("shop/db")));
            bench.set(&[db()]);
            bench.rest();
            assert_eq!(numbered_rules(), before, "{what}");
            assert_eq!(bench.differences(), [""; 0], "{what}");
        }
        // With the policy go its rules, also when there is no pod that it is about.
        bench.gone(Key::Pod(name("shop/db")));
        bench.gone(key);
        bench.set(&[db()]);
        let text = nft("list table ip podwire-policy");
        assert!(
            !text.contains("30000") && !text.contains("deny-"),
            "{what}: {text}"
        );
    }
}

#[test]
fn an_isolated_pod_outside_the_pod_cidrs_that_comes_again_meets_the_same_rules() {
    let outside = || {
        let mut pod = pod("shop/one", "worker", 9, "app=db");
        pod["status"]["podIPs"] = json!([{"ip": "10.99.0.4"}]);
        pod
    };
    let mut bench = shop();
    bench.set(&[outside()]);
    let before = numbered_rules();
    bench.gone(Key::Pod(name("shop/one")));
    bench.set(&[outside()]);
    assert_eq!(numbered_rules(), before);
    assert_eq!(bench.differences(), [""; 0]);
}

#[test]
fn whatever_is_broken_by_hand_is_named_and_comes_back() {
    let mut bench = shop();
    let right = sorted(&list());
    for command in [
        "flush ruleset",
        "delete table ip podwire-policy",
        "flush chain ip podwire-policy in",
        "add table ip podwire-policy { flags dormant; }",
        "add table ip podwire-policy { flags dormant; }; flush chain ip podwire-policy in",
        "insert rule ip podwire-policy forward accept",
        "delete element ip podwire-policy open-in { 10.10.1.4 }",
        "add element ip podwire-policy open-in { 10.10.1.3 }",
        "add element ip podwire-policy outside { 10.9.9.9 }; add set ip podwire-policy foreign { type ipv4_addr; }",
        "flush set ip podwire-policy in-ports",
        "flush map ip podwire-policy peers",
        "add element ip podwire-policy blocks { 9.9.9.0/24 : 1:1 }",
        "add chain ip podwire-policy foreign",
    ] {
        let command = command.replace("add element ip podwire-policy outside { 10.9.9.9 }; ", "");
        assert!(bench.meddle(&command), "{command} was not noticed");
        assert!(!bench.differences().is_empty(), "{command} is not named");
        assert!(bench.sync() > 0, "{command}");
        bench.rest();
        assert_eq!(sorted(&list()), right, "{command}");
        assert_eq!(bench.differences(), [""; 0], "{command}");
    }
    // What the rules remember is theirs.
    assert!(
        bench.meddle("add element ip podwire-policy allowed { 10.1.1.1 . 10.10.1.3 . tcp . 1 }")
    );
    assert_eq!(bench.sync(), 0);
}

/// What is repaired comes last in the kernel's own order.
fn sorted(listing: &str) -> Vec<String> {
    let mut lines: Vec<String> = listing
        .split([' ', '\n', '\t'])
        .map(|word| word.trim_end_matches(',').to_owned())
        .filter(|word| !word.is_empty())
        .collect();
    lines.sort_unstable();
    lines
}

#[test]
fn a_lost_notification_leads_to_a_look_at_everything() {
    let mut bench = shop();
    nft("flush set ip podwire-policy in-ports");
    assert!(bench.notice(&Event::Resync));
    assert!(bench.sync() > 0);
    assert_eq!(bench.differences(), [""; 0]);
}

#[test]
fn switched_off_the_tables_go_and_are_named_until_then() {
    let mut bench = shop();
    bench.node.config.network_policy = false;
    assert_eq!(bench.differences().len(), 2);
    bench.restart();
    assert_eq!(list(), "");
    assert_eq!(bench.differences(), [""; 0]);
    assert_eq!(bench.sync(), 0);
}

#[test]
fn an_uninstall_takes_the_tables_out() {
    let mut bench = shop();
    let config = bench.node.config.clone();
    let before = list();
    let would = bench.feature.uninstall(&config, Removal::Look).unwrap();
    assert_eq!(list(), before);
    let removed = bench.feature.uninstall(&config, Removal::Act).unwrap();
    assert_eq!(would, removed);
    let directory = format!("directory {}", config.policy_dir().display());
    let tables = ["table ip podwire-policy", "table ip6 podwire-policy"];
    assert_eq!(removed, [tables[0], tables[1], &directory]);
    assert_eq!(list(), "");
    assert_eq!(
        bench.feature.uninstall(&config, Removal::Act).unwrap(),
        [""; 0]
    );
}

#[test]
fn pods_with_one_address_are_named_together_until_one_has_another() {
    let mut bench = shop();
    let first = pod("shop/mm", "worker", 77, "app=job");
    bench.set(&[first.clone(), pod("shop/zz", "worker", 77, "app=web")]);
    let expected = |first: &str, second: &str| {
        ["10.10.1.77", "fd00:10:10:1::4d"].map(|address| {
            format!(
                "address {address}: belongs to Pod {first} and is claimed by Pod {second} as well: \
                 policies take it for that of {first}; correct the others"
            )
        })
    };
    assert_eq!(bench.node.warnings(), expected("shop/mm", "shop/zz"));
    bench.gone(Key::Pod(name("shop/mm")));
    assert_eq!(bench.node.warnings(), [""; 0]);
    bench.set(&[first]);
    assert_eq!(bench.node.warnings(), expected("shop/zz", "shop/mm"));
    bench.restart();
    assert_eq!(bench.node.warnings(), expected("shop/zz", "shop/mm"));
    bench.set(&[pod("shop/zz", "worker", 78, "app=web")]);
    assert_eq!(bench.node.warnings(), [""; 0]);
}

#[test]
fn a_pod_that_is_closed_because_its_namespace_is_not_known_is_named_with_it() {
    let mut bench = shop();
    let spec = json!({"subject": {"namespaces": {"matchLabels": {"trust": "low"}}},
        "ingress": [{"action": "Deny", "from": [{"namespaces": {}}]}]});
    bench.set(&[
        cluster_policy("c", &spec),
        namespace("bare", "trust=full"),
        pod("bare/p", "worker", 77, ""),
    ]);
    let named = |bench: &Bench| {
        let warnings = bench.node.warnings().into_iter();
        let of_namespaces = warnings.filter(|text| text.starts_with("Namespace "));
        of_namespaces.collect::<Vec<_>>()
    };
    assert_eq!(named(&bench), [""; 0]);
    bench.gone(Key::Namespace("bare".into()));
    let text = "Namespace bare: is not known, and its labels would tell which ClusterNetworkPolicies \
                select Pod bare/p: closed until it is; create it again, or delete what is left in it";
    assert_eq!(named(&bench), [text]);
    bench.restart();
    assert_eq!(named(&bench), [text]);
    bench.set(&[namespace("bare", "trust=full")]);
    assert_eq!(named(&bench), [""; 0]);
}

#[test]
fn what_cannot_be_read_is_named_until_it_is_corrected() {
    let mut bench = shop();
    let bad = json!({"podSelector": app("db"), "ingress": [{"from": [{"zone": "a"}]}]});
    bench.set(&[policy("shop/bad", &bad)]);
    let warnings = bench.node.warnings();
    let expected = "NetworkPolicy shop/bad: spec.ingress.from \"{\"zone\":\"a\"}\" is left out: it has a \
                    field that is not known, so it allows nothing; correct it";
    assert_eq!(warnings, [expected]);
    bench.restart();
    assert_eq!(bench.node.warnings(), [expected]);
    bench.gone(Key::NetworkPolicy(name("shop/bad")));
    assert_eq!(bench.node.warnings(), [""; 0]);
}

#[test]
fn blocks_change_without_ever_overlapping() {
    let mut bench = shop();
    let to = |cidr: &str, except: Value| {
        let spec = json!({"podSelector": app("db"), "policyTypes": ["Egress"], "egress": [
            {"to": [{"ipBlock": {"cidr": cidr, "except": except}}]}]});
        policy("shop/out", &spec)
    };
    for (cidr, except) in [
        ("0.0.0.0/0", json!([])),
        ("10.0.0.0/8", json!(["10.1.0.0/16"])),
        ("10.0.0.0/9", json!(["10.1.0.0/16", "10.1.2.0/24"])),
        ("10.0.0.0/31", json!([])),
        ("0.0.0.0/0", json!(["10.0.0.0/31", "255.255.255.255/32"])),
        ("10.10.2.2/32", json!([])),
    ] {
        assert!(bench.set(&[to(cidr, except)]) > 0, "{cidr}");
        assert_eq!(bench.differences(), [""; 0], "{cidr}");
        bench.rest();
        assert_eq!(bench.restart(), 0, "{cidr}");
    }
}
