//! What is said of a packet, and of the rule that comes nearest to it.

use serde_json::{Value, json};

use crate::features::policies::desired::explain::{Outcome, judge};
use crate::features::policies::desired::samples::{
    Cluster, ICMP, addresses, namespace, pod, policy, tcp, udp,
};
use crate::features::policies::desired::truth::{Traffic, Truth};
use crate::snapshot::Direction::{self, Egress, Ingress};

/// In `shop` the pod `db` (role=db) with these policies for it, and `web` (role=web); in `ops` (team=a)
/// the pod `probe` (role=api).
fn shop(specs: &[Value]) -> Cluster {
    let mut objects = vec![
        namespace("shop", ""),
        namespace("ops", "team=a"),
        pod("shop/db", "worker", 2, "role=db"),
        pod("shop/web", "worker2", 2, "role=web"),
        pod("ops/probe", "worker2", 3, "role=api"),
    ];
    objects.extend((0..).zip(specs).map(|(number, spec)| {
        let mut spec = spec.clone();
        spec["podSelector"] = json!({"matchLabels": {"role": "db"}});
        policy(&format!("shop/p{number}"), &spec)
    }));
    Cluster::of(&objects)
}

const DB: (&str, u8) = ("worker", 2);
const WEB: (&str, u8) = ("worker2", 2);
const PROBE: (&str, u8) = ("worker2", 3);

/// What `db` says of a packet.
fn outcome(cluster: &Cluster, direction: Direction, peer: (&str, u8), traffic: Traffic) -> Outcome {
    let [local, peer] = [DB, peer].map(|(node, number)| addresses(node, number)[0]);
    let truth = Truth::of(&cluster.snapshot);
    let judgement = judge(&truth, direction, local, peer, traffic).unwrap();
    judgement.outcome
}

fn role(value: &str) -> Value {
    json!({"matchLabels": {"role": value}})
}

#[track_caller]
fn nearest(ingress: Value, peer: (&str, u8), traffic: Traffic, words: &str) {
    let cluster = shop(&[
        json!({"policyTypes": ["Ingress"]}),
        json!({"ingress": ingress}),
    ]);
    let outcome = outcome(&cluster, Ingress, peer, traffic);
    assert_eq!(outcome, Outcome::Denied(Some(words.to_owned())));
}

#[test]
fn the_nearest_rule_is_named_with_what_it_lacks() {
    let from_api = json!([
        {"ports": [{"port": 9100}], "from": [{"podSelector": role("monitor")}]},
        {"ports": [{"port": 5432}], "from": [{"podSelector": role("api")}]},
    ]);
    nearest(
        from_api.clone(),
        WEB,
        tcp(5432),
        "shop/p1 allows tcp 5432 from role=api; the pod has role=web",
    );
    nearest(
        from_api.clone(),
        PROBE,
        tcp(5432),
        "shop/p1 allows tcp 5432 from role=api; the pod is not in namespace shop, but in ops",
    );
    nearest(
        from_api,
        WEB,
        udp(9100),
        "shop/p1 allows tcp 9100 from role=monitor; the pod has role=web, and this is udp 9100",
    );
    nearest(
        json!([{"from": [{"podSelector": role("web")}], "ports": [{"port": 80, "endPort": 90}]}]),
        WEB,
        tcp(443),
        "shop/p1 allows tcp 80-90 from role=web; this is tcp 443",
    );
    nearest(
        json!([{"ports": [{"port": "http"}]}]),
        WEB,
        tcp(8080),
        "shop/p1 allows tcp http from anyone; this is tcp 8080, and http is 80 of shop/db",
    );
    nearest(
        json!([{"ports": [{"port": "sql"}]}]),
        WEB,
        tcp(80),
        "shop/p1 allows tcp sql from anyone; this is tcp 80, and shop/db has no tcp port sql",
    );
    nearest(
        json!([{"ports": [{}]}]),
        WEB,
        ICMP,
        "shop/p1 allows tcp from anyone; ping and what else has no ports is only allowed by rules \
         without ports",
    );
}

#[test]
fn namespaces_and_networks_that_lack_something_are_named() {
    let team = |value| json!({"matchLabels": {"team": value}});
    nearest(
        json!([{"from": [{"namespaceSelector": team("b")}]}]),
        PROBE,
        tcp(80),
        "shop/p1 allows everything from all pods of namespaces team=b; its Namespace ops has team=a",
    );
    nearest(
        json!([{"from": [{"namespaceSelector": team("a"), "podSelector": role("x")}]}]),
        PROBE,
        tcp(80),
        "shop/p1 allows everything from role=x of namespaces team=a; the pod has role=api",
    );
    let block = json!({"cidr": "10.10.0.0/16", "except": ["10.10.2.0/24"]});
    nearest(
        json!([{"from": [{"ipBlock": block}]}]),
        WEB,
        tcp(80),
        "shop/p1 allows everything from 10.10.0.0/16 except 10.10.2.0/24; 10.10.2.2 is one of its \
         exceptions",
    );
    nearest(
        json!([{"from": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]}]),
        WEB,
        tcp(80),
        "shop/p1 allows everything from 192.0.2.0/24; 10.10.2.2 is not in 192.0.2.0/24",
    );
}

#[test]
fn what_is_allowed_is_so_by_a_rule_and_what_is_open_by_none() {
    let cluster = shop(&[
        json!({"policyTypes": ["Ingress"]}),
        json!({"ingress": [{"ports": [{"port": 1}]}, {"from": [{"podSelector": role("web")}]}]}),
    ]);
    assert_eq!(
        outcome(&cluster, Ingress, WEB, tcp(80)),
        Outcome::Allowed("shop/p1 allows everything from role=web".into())
    );
    assert_eq!(outcome(&cluster, Ingress, DB, tcp(80)), Outcome::Itself);
    assert_eq!(outcome(&cluster, Egress, WEB, tcp(80)), Outcome::Open);
    let closed = shop(&[json!({"policyTypes": ["Egress"]})]);
    assert_eq!(
        outcome(&closed, Egress, WEB, tcp(80)),
        Outcome::Denied(None)
    );
}

#[test]
fn of_many_peers_only_some_are_named() {
    let peers: Vec<Value> = (0..6)
        .map(|one| json!({"podSelector": role(&format!("r{one}"))}))
        .collect();
    nearest(
        json!([{"from": peers}]),
        WEB,
        tcp(80),
        "shop/p1 allows everything from role=r0 or role=r1 or role=r2 or role=r3 and 2 more; the pod \
         has role=web",
    );
}

#[test]
fn a_port_of_an_ip_block_has_no_name() {
    let block = json!({"ipBlock": {"cidr": "10.10.2.0/24"}});
    let by_name = |peer: serde_json::Value| json!({"policyTypes": ["Egress"], "egress": [{"to": [peer], "ports": [{"port": "http"}]}]});
    let Outcome::Denied(Some(words)) = outcome(&shop(&[by_name(block)]), Egress, WEB, tcp(80))
    else {
        panic!("it is denied");
    };
    assert!(
        words.ends_with("this is tcp 80, and of an ipBlock no port has a name, not http either"),
        "{words}"
    );
    // To the same pod as a pod it has.
    let pods = json!({"podSelector": role("web")});
    let allowed = outcome(&shop(&[by_name(pods.clone())]), Egress, WEB, tcp(80));
    assert!(matches!(allowed, Outcome::Allowed(_)), "{allowed:?}");
    let denied = outcome(&shop(&[by_name(pods)]), Egress, WEB, tcp(81));
    let Outcome::Denied(Some(words)) = denied else {
        panic!("it is denied");
    };
    assert!(
        words.ends_with("this is tcp 81, and http is 80 of shop/web"),
        "{words}"
    );
}
