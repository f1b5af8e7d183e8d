//! Pods between ADD and their status: what the plugin tells, and what the kernel knows by itself.

use std::net::IpAddr;
use std::process::Command;
use std::time::Instant;

use podwire::attachment::{Alias, host_link_name};
use podwire::policy::{Answer, Attachment, NAMESPACES, NONE, News, PodName};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::feature::{Event, Feature as _, Told, WhoHas};
use crate::features::policies::departed::GATHER;
use crate::features::policies::desired::samples::{
    addresses, cluster_policy, name, namespace, pod, policy,
};
use crate::features::policies::tests::bench::{Bench, elements, list, nft};
use crate::features::test_node::{delete_pod_link, make_pod_link};
use crate::snapshot::Key;

/// A Pod of `worker` of which the API does not know an address yet.
fn starting(at: &str, uid: &str, with: &str) -> Value {
    let mut object = pod(at, "worker", 3, with);
    object["metadata"]["uid"] = json!(uid);
    object["status"] = json!({"phase": "Pending"});
    object
}

fn app(value: &str) -> Value {
    json!({"matchLabels": {"app": value}})
}

/// `db` of namespace `shop` is isolated and open to `web` on port 80.
fn shop() -> Bench {
    let mut bench = Bench::new();
    let spec = json!({"podSelector": app("db"), "ingress": [
        {"from": [{"podSelector": app("web")}], "ports": [{"port": 80}]}]});
    bench.set(&[
        namespace("shop", ""),
        namespace("free", ""),
        pod("shop/web", "worker2", 2, "app=web"),
        policy("shop/db", &spec),
    ]);
    bench.rest();
    bench
}

/// The attachment of a pod, or of no pod, with the address of this number.
fn attachment(id: &str, at: Option<&str>, uid: &str, number: u8) -> Attachment {
    Attachment {
        link: host_link_name(id, "eth0"),
        container_id: id.into(),
        ifname: "eth0".into(),
        pod: at.map(|at| {
            let (namespace, name) = at.split_once('/').unwrap();
            PodName {
                namespace: namespace.into(),
                name: name.into(),
                uid: (!uid.is_empty()).then(|| uid.into()),
            }
        }),
        addresses: addresses("worker", number).into(),
    }
}

/// What the plugin hears, if anything yet.
fn tell(bench: &mut Bench, news: News, attachment: &Attachment) -> mpsc::Receiver<Answer> {
    let (reply, answers) = mpsc::channel(1);
    let told = Told::new(news, attachment.clone(), reply);
    assert!(bench.notice(&Event::Told(&told)));
    bench.sync();
    answers
}

const CELL: &str = "10.10.1.3 . tcp . 80";

#[test]
fn a_pod_is_decided_about_before_the_api_knows_its_address_and_its_status_changes_nothing() {
    let mut bench = shop();
    bench.set(&[starting("shop/db", "1", "app=db")]);
    assert_eq!(elements("self"), "");
    let told = attachment("a", Some("shop/db"), "1", 3);
    let mut answer = tell(&mut bench, News::Came, &told);
    assert_eq!(answer.try_recv(), Ok(Answer::Done));
    assert!(elements("in-ports").contains(CELL));
    assert!(list().contains("fd00:10:10:1::3 . tcp . 80"));
    bench.rest();
    let mut known = pod("shop/db", "worker", 3, "app=db");
    known["metadata"]["uid"] = json!("1");
    assert_eq!(bench.set(&[known]), 0);
    assert!(bench.differences().is_empty());
}

#[test]
fn a_pod_that_the_api_does_not_tell_of_is_waited_for() {
    let mut bench = shop();
    let told = attachment("a", Some("shop/db"), "2", 3);
    let mut answer = tell(&mut bench, News::Came, &told);
    assert!(answer.try_recv().is_err());
    // The Pod that had the name before is another.
    bench.set(&[starting("shop/db", "1", "app=other")]);
    assert!(answer.try_recv().is_err());
    assert_eq!(elements("open-in"), "");
    bench.set(&[starting("shop/db", "2", "app=db")]);
    assert_eq!(answer.try_recv(), Ok(Answer::Done));
    assert!(elements("in-ports").contains(CELL));
}

#[test]
fn a_pod_that_stays_unknown_is_open_only_where_no_policy_can_isolate_it() {
    let mut bench = shop();
    let closed = attachment("a", Some("shop/new"), "1", 3);
    let free = attachment("b", Some("free/new"), "1", 4);
    let mut of_shop = tell(&mut bench, News::Came, &closed);
    let mut of_free = tell(&mut bench, News::Came, &free);
    while of_shop.is_empty() || of_free.is_empty() {
        let due = bench.feature.due().unwrap();
        std::thread::sleep(due.saturating_duration_since(std::time::Instant::now()));
        bench.sync();
    }
    assert_eq!(of_shop.try_recv(), Ok(Answer::Unknown));
    assert_eq!(of_free.try_recv(), Ok(Answer::Done));
    assert_eq!(elements("open-in"), "10.10.1.4 comment \"free/new\"");
    // A policy comes that may be about it.
    let everyone = json!({"podSelector": {}});
    bench.set(&[policy("free/all", &everyone)]);
    assert_eq!(elements("open-in"), "");
    assert!(bench.differences().is_empty());
}

#[test]
fn while_the_own_node_is_gone_its_pods_stay_closed_and_another_pod_cidr_opens_none() {
    let mut bench = shop();
    bench.set(&[starting("shop/db", "1", "app=db")]);
    let told = attachment("a", Some("shop/db"), "1", 3);
    assert_eq!(
        tell(&mut bench, News::Came, &told).try_recv(),
        Ok(Answer::Done)
    );
    let cidrs = bench.node.snapshot.nodes["worker"].pod_cidrs.clone();
    bench.node.snapshot.remember_pod_cidrs(&cidrs);
    bench.gone(Key::Node("worker".into()));
    assert!(list().contains("10.10.1.0/24"), "{}", list());
    bench.gone(Key::Pod(name("shop/db")));
    assert!(list().contains("10.10.1.0/24"), "{}", list());
    assert_eq!(elements("open-in"), "");
    // It comes back with another one, and the link has its address still.
    let other = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "worker"},
        "spec": {"podCIDRs": ["10.10.9.0/24"]}});
    bench.set(&[other]);
    assert!(!list().contains("10.10.1.0/24"), "{}", list());
    assert!(elements("outside").contains("10.10.1.3"), "{}", list());
    assert!(bench.differences().is_empty());
}

#[test]
fn a_pod_whose_namespace_the_api_does_not_tell_of_is_not_taken_for_one_that_no_policy_selects() {
    let mut bench = shop();
    let spec = json!({"subject": {"namespaces": {"matchLabels": {"team": "a"}}},
        "ingress": [{"action": "Deny", "from": [{"namespaces": {}}]}]});
    bench.set(&[
        cluster_policy("c", &spec),
        starting("new/db", "1", "app=db"),
    ]);
    bench.rest();
    let of_api = (None, "1", Answer::Unknown);
    // Nor is one that is not known itself.
    let unknown = (None, "2", Answer::Unknown);
    let of_manifests = (Some("/manifests".into()), "1", Answer::Done);
    for (manifests, uid, expected) in [of_api, unknown, of_manifests] {
        bench.node.config.manifests = manifests;
        let told = attachment("a", Some("new/db"), uid, 3);
        let mut answer = tell(&mut bench, News::Came, &told);
        while answer.is_empty() {
            let due = bench.feature.due().unwrap();
            std::thread::sleep(due.saturating_duration_since(std::time::Instant::now()));
            bench.sync();
        }
        let is_open = expected == Answer::Done;
        assert_eq!(answer.try_recv(), Ok(expected));
        assert_eq!(elements("open-in").contains("10.10.1.3"), is_open);
    }
}

#[test]
fn a_static_pod_is_known_by_its_name() {
    let mut bench = shop();
    let mut mirror = starting("shop/db", "of-the-mirror", "app=db");
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "of-kubelet"});
    bench.set(&[mirror]);
    let told = attachment("a", Some("shop/db"), "of-kubelet", 3);
    let mut answer = tell(&mut bench, News::Came, &told);
    assert_eq!(answer.try_recv(), Ok(Answer::Done));
    assert!(elements("in-ports").contains(CELL));
}

#[test]
fn a_container_without_a_pod_is_open_until_its_link_goes() {
    let mut bench = shop();
    let told = attachment("0123456789abcdef", None, "", 5);
    let mut answer = tell(&mut bench, News::Came, &told);
    assert_eq!(answer.try_recv(), Ok(Answer::Done));
    for set in ["open-in", "open-out"] {
        assert_eq!(
            elements(set),
            "10.10.1.5 comment \"container 0123456789ab\""
        );
    }
    // What a killed DEL leaves goes with the link.
    assert!(bench.node.tell_of_lost_link(&mut bench.feature, &told.link));
    bench.sync();
    assert_eq!(elements("open-in") + &elements("open-out"), "");
}

#[test]
fn the_next_owner_of_an_address_inherits_nothing_though_the_api_still_names_the_last_one() {
    let mut bench = shop();
    let mut old = pod("shop/db", "worker", 3, "app=db");
    old["metadata"]["uid"] = json!("1");
    bench.set(&[old]);
    let told = attachment("a", Some("shop/db"), "1", 3);
    tell(&mut bench, News::Came, &told);
    nft("add element ip podwire-policy allowed { 10.10.2.2 . 10.10.1.3 . tcp . 80 }");
    let mut answer = tell(&mut bench, News::Went, &told);
    assert_eq!(answer.try_recv(), Ok(Answer::Done));
    assert!(!list().contains("10.10.1.3"));
    // A pod that is allowed less, and one without policies, get the same address.
    let mut next = starting("shop/job", "2", "app=job");
    bench.set(&[next.clone()]);
    let job = attachment("b", Some("shop/job"), "2", 3);
    let mut answer = tell(&mut bench, News::Came, &job);
    assert_eq!(answer.try_recv(), Ok(Answer::Done));
    assert_eq!(elements("in-ports"), "");
    assert_eq!(elements("open-in"), "10.10.1.3 comment \"shop/job\"");
    // Whatever happens to the old one.
    next = pod("shop/db", "worker", 3, "app=db");
    next["metadata"]["uid"] = json!("1");
    next["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    bench.set(&[next]);
    assert_eq!(elements("open-in"), "10.10.1.3 comment \"shop/job\"");
    bench.gone(Key::Pod(name("shop/db")));
    assert_eq!(elements("open-in"), "10.10.1.3 comment \"shop/job\"");
    assert!(bench.differences().is_empty());
}

#[test]
fn a_new_sandbox_of_a_pod_counts_and_not_the_address_that_its_status_still_has() {
    let mut bench = shop();
    let mut db = pod("shop/db", "worker", 3, "app=db");
    db["metadata"]["uid"] = json!("1");
    bench.set(&[db]);
    tell(
        &mut bench,
        News::Came,
        &attachment("a", Some("shop/db"), "1", 3),
    );
    tell(
        &mut bench,
        News::Went,
        &attachment("a", Some("shop/db"), "1", 3),
    );
    let mut answer = tell(
        &mut bench,
        News::Came,
        &attachment("b", Some("shop/db"), "1", 9),
    );
    assert_eq!(answer.try_recv(), Ok(Answer::Done));
    let ports = elements("in-ports");
    assert!(
        ports.contains("10.10.1.9 . tcp . 80") && !ports.contains(CELL),
        "{ports}"
    );
}

/// Makes the link of an attachment as the plugin does.
fn make_link(attachment: &Attachment) {
    make_pod_link(&attachment.container_id);
    let pod = attachment.pod.as_ref();
    let alias = Alias {
        container_id: attachment.container_id.clone(),
        ifname: attachment.ifname.clone(),
        network: "podwire".into(),
        pod: pod.map(|pod| (pod.namespace.clone(), pod.name.clone())),
        unnamed: false,
        uid: pod.and_then(|pod| pod.uid.clone()),
    };
    ip(&["link", "set", &attachment.link, "alias", &alias.to_string()]);
    // The gateway of all pods, and the pod's own address of the link.
    let link = attachment.link.as_str();
    ip(&["address", "add", "10.10.1.1/32", "dev", link]);
    ip(&[
        "address",
        "add",
        "fd00:10:10:1::1/128",
        "dev",
        link,
        "nodad",
    ]);
    ip(&["route", "append", "fe80::5", "dev", link]);
    for address in &attachment.addresses {
        ip(&[
            "route",
            "add",
            &address.to_string(),
            "dev",
            &attachment.link,
        ]);
    }
}

#[track_caller]
fn ip(words: &[&str]) {
    assert!(Command::new("ip").args(words).status().unwrap().success());
}

#[test]
fn pods_that_started_without_an_agent_or_without_a_table_are_found_by_their_links() {
    let mut bench = shop();
    bench.set(&[starting("shop/db", "1", "app=db")]);
    let (db, container) = (
        attachment("a", Some("shop/db"), "1", 3),
        attachment("c", None, "", 5),
    );
    make_link(&db);
    make_link(&container);
    bench.restart();
    assert!(elements("in-ports").contains(CELL));
    let all = list();
    assert!(all.contains("fd00:10:10:1::3 . tcp . 80"), "{all}");
    assert!(
        !all.contains("fd00:10:10:1::1 ") && !all.contains("fe80::"),
        "{all}"
    );
    assert_eq!(elements("open-in"), "10.10.1.5 comment \"container c\"");
    // What the plugin opens while the agent is busy is not taken for somebody's edit.
    let late = attachment("d", None, "", 6);
    make_link(&late);
    for set in ["open-in", "open-out"] {
        let address: IpAddr = late.addresses[0];
        let element = format!("{address} comment \"container d\"");
        bench.meddle(&format!(
            "add element ip podwire-policy {set} {{ {element} }}"
        ));
    }
    bench.sync();
    assert!(elements("open-out").contains("10.10.1.6 comment \"container d\""));
    assert!(bench.differences().is_empty());
    // What an operator opens is.
    bench.meddle("add element ip podwire-policy open-in { 10.10.1.7 }");
    bench.sync();
    assert!(!elements("open-in").contains("10.10.1.7"));
    delete_pod_link("d");
    bench.restart();
    assert!(!elements("open-out").contains("10.10.1.6"));
}

#[test]
fn the_file_is_there_as_long_as_the_tables_and_switched_off_no_one_waits() {
    let mut bench = shop();
    let file = bench.node.config.run_dir.join(NAMESPACES);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "shop\n");
    bench.gone(Key::NetworkPolicy(name("shop/db")));
    let none = bench.node.config.run_dir.join(NONE);
    assert!(!file.exists() && none.exists());
    let told = attachment("a", Some("shop/db"), "1", 3);
    bench.node.config.network_policy = false;
    let mut answer = tell(&mut bench, News::Came, &told);
    assert_eq!(answer.try_recv(), Ok(Answer::Done));
    assert_eq!(list(), "");
    assert!(!none.exists());
}

#[test]
fn a_pod_whose_name_has_no_room_in_its_alias_is_closed_until_the_api_tells_which_it_is() {
    let mut bench = shop();
    let long = format!("shop/{}", "x".repeat(253));
    bench.set(&[starting(&long, "1", "app=db")]);
    make_link(&attachment("a", Some(&long), "1", 3));
    bench.restart();
    assert_eq!(elements("open-in") + &elements("open-out"), "");
    let mut known = pod(&long, "worker", 3, "app=db");
    known["metadata"]["uid"] = json!("1");
    bench.set(&[known]);
    assert!(elements("in-ports").contains(CELL));
    assert!(bench.differences().is_empty());
}

#[test]
fn late_news_of_a_link_does_not_take_out_the_one_that_has_its_name_now() {
    let mut bench = shop();
    bench.set(&[starting("shop/db", "1", "app=db")]);
    let told = attachment("a", Some("shop/db"), "1", 3);
    make_link(&told);
    tell(&mut bench, News::Came, &told);
    assert!(bench.node.tell_of_lost_link(&mut bench.feature, &told.link));
    bench.sync();
    assert!(elements("in-ports").contains(CELL));
    delete_pod_link("a");
    assert!(bench.node.tell_of_lost_link(&mut bench.feature, &told.link));
    bench.sync();
    assert!(!list().contains("10.10.1.3"), "{}", list());
}

#[test]
fn connections_of_a_link_that_went_are_forgotten_and_those_of_the_next_owner_are_not() {
    let mut bench = shop();
    let is_known = || {
        let listed = Command::new("conntrack").arg("-L").output().unwrap();
        String::from_utf8(listed.stdout)
            .unwrap()
            .contains("src=10.10.1.3 ")
    };
    let told = attachment("a", None, "", 3);
    for comes_again in [true, false] {
        make_link(&told);
        tell(&mut bench, News::Came, &told);
        let add = "-I -s 10.10.1.3 -d 192.0.2.9 -p udp --sport 7 --dport 7 -t 100";
        let added = Command::new("conntrack").args(add.split(' ')).output();
        assert!(added.unwrap().status.success());
        delete_pod_link("a");
        bench.node.tell_of_lost_link(&mut bench.feature, &told.link);
        bench.sync();
        if comes_again {
            tell(&mut bench, News::Came, &attachment("b", None, "", 3));
        }
        let until = Instant::now() + 3 * GATHER;
        while Instant::now() < until && (comes_again || is_known()) {
            std::thread::sleep(GATHER / 10);
        }
        assert_eq!(is_known(), comes_again);
        let delete = ["-D", "-s", "10.10.1.3"];
        Command::new("conntrack").args(delete).output().unwrap();
    }
}

#[test]
fn another_pod_of_the_same_name_and_address_does_not_get_the_rules_of_the_last_one() {
    let mut bench = shop();
    let mut old = pod("shop/db", "worker", 3, "app=db");
    old["metadata"]["uid"] = json!("1");
    bench.set(&[old]);
    let first = attachment("a", Some("shop/db"), "1", 3);
    tell(&mut bench, News::Came, &first);
    tell(&mut bench, News::Went, &first);
    let next = attachment("b", Some("shop/db"), "2", 3);
    let mut answer = tell(&mut bench, News::Came, &next);
    assert!(answer.try_recv().is_err());
    assert!(!list().contains("10.10.1.3"), "{}", list());
    bench.set(&[starting("shop/db", "2", "app=other")]);
    assert_eq!(answer.try_recv(), Ok(Answer::Done));
    assert_eq!(elements("in-ports"), "");
    assert_eq!(elements("open-in"), "10.10.1.3 comment \"shop/db\"");
}

#[test]
fn whose_an_address_is_is_known_before_the_api_knows() {
    let mut bench = shop();
    let ask = |bench: &mut Bench| {
        let (reply, mut answers) = mpsc::channel(1);
        let all = ["10.10.1.3", "10.10.2.2", "fd00:10:10:1::3", "192.0.2.1"];
        let all = all.map(|one| one.parse().unwrap()).into();
        bench.notice(&Event::WhoHas(&WhoHas::new(all, reply)));
        let answer = answers.try_recv().unwrap().into_iter();
        let answer = answer.map(|(address, name)| format!("{address} {name}"));
        answer.collect::<Vec<_>>()
    };
    bench.set(&[starting("shop/db", "1", "app=db")]);
    assert_eq!(ask(&mut bench), ["10.10.2.2 shop/web"]);
    let told = attachment("a", Some("shop/db"), "1", 3);
    tell(&mut bench, News::Came, &told);
    assert_eq!(
        ask(&mut bench),
        [
            "10.10.1.3 shop/db",
            "10.10.2.2 shop/web",
            "fd00:10:10:1::3 shop/db"
        ]
    );
    bench.gone(Key::NetworkPolicy(name("shop/db")));
    assert_eq!(ask(&mut bench), [""; 0]);
}
