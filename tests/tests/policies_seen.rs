//! What an operator is told of NetworkPolicies: `why` and `drops` of live agents, beside the packets
//! that they speak of.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::LazyLock;
use std::time::Duration;

use cluster::{Cluster, http, service};
use podwire_lab::manifests;
use podwire_lab::pod::{Pod, PodSpec, Servers};
use podwire_lab::topology::Families;
use podwire_lab::wait;
use serde_json::{Value, json};

/// Two nodes of both families. On `worker` the pod `db` (role=db), closed but for role=api on 80; on
/// `worker2` the pods `web` and `api`, each with its name as role.
static STAGE: LazyLock<Stage> = LazyLock::new(Stage::raise);

struct Stage {
    cluster: Cluster,
    db: Pod,
    web: Pod,
    api: Pod,
}

const NAMESPACE: &str = "shop";

impl Stage {
    fn raise() -> Self {
        let cluster = Cluster::pair(Families::Dual);
        let object = manifests::namespace(NAMESPACE);
        cluster
            .lab
            .write_manifest("namespace-shop", &object)
            .unwrap();
        let pod = |node, name: &str| {
            let mut spec = PodSpec::new(name)
                .in_namespace(NAMESPACE)
                .labelled("role", name);
            spec.servers = Servers {
                http: vec![80],
                ..Servers::default()
            };
            cluster.lab.run(node, &spec).unwrap()
        };
        let (db, web, api) = (
            pod("worker", "db"),
            pod("worker2", "web"),
            pod("worker2", "api"),
        );
        let select = |role: &str| json!({"matchLabels": {"role": role}});
        let rule = json!({"from": [{"podSelector": select("api")}], "ports": [{"port": 80}]});
        cluster.apply(&[
            policy(
                "closed",
                json!({"podSelector": select("db"), "policyTypes": ["Ingress"]}),
            ),
            policy(
                "db",
                json!({"podSelector": select("db"), "ingress": [rule]}),
            ),
            service(
                "db",
                json!({"clusterIP": "10.200.1.80", "ports": [{"port": 80}]}),
            ),
            http("db", &[&db]),
        ]);
        Self {
            cluster,
            db,
            web,
            api,
        }
    }

    /// What `podwire-agent` prints on `worker`.
    fn agent(&self, arguments: &str) -> String {
        let place = self.cluster.node("worker").place().clone();
        let ran = place.sh(&format!("podwire-agent {arguments}")).unwrap();
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        ran.stdout
    }

    fn why(&self, from: IpAddr, to: &str) -> Value {
        let text = self.agent(&format!("why {from} {to} -o json"));
        serde_json::from_str(&text).unwrap()
    }

    /// The drops of packets from this address.
    fn drops(&self, from: IpAddr) -> Vec<Value> {
        let text = self.agent("drops -o json");
        let all = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        all.filter(|one| one["source"]["address"] == json!(from))
            .collect()
    }
}

fn policy(name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": NAMESPACE, "name": name}, "spec": spec,
    })
}

fn connects(from: &Pod, to: SocketAddr) -> bool {
    let limit = Duration::from_millis(700);
    from.place()
        .inside(|| TcpStream::connect_timeout(&to, limit).is_ok())
        .unwrap()
}

/// How long an answer may take where one must come.
const PATIENCE: Duration = Duration::from_secs(10);

const NEAREST: &str = "shop/db allows tcp 80 from role=api; the pod has role=web";

#[test]
fn why_agrees_with_the_kernel_about_what_is_allowed_and_what_is_not() {
    let stage = &*STAGE;
    for v6 in [false, true] {
        let [db, web, api] =
            [&stage.db, &stage.web, &stage.api].map(|pod| pod.address(v6).unwrap());
        let to = SocketAddr::new(db, 80);
        assert!(connects(&stage.api, to));
        let allowed = stage.why(api, &to.to_string());
        assert_eq!(allowed["end"], "arrives", "{allowed:#}");
        let text = allowed.to_string();
        for part in [
            "shop/closed, shop/db isolate shop/db; shop/db allows tcp 80 from role=api.",
            "egress: node worker2 decides for its own pod",
            "in-ports: ",
            "(shop/db: db)",
        ] {
            assert!(text.contains(part), "{part} in {allowed:#}");
        }
        assert!(!connects(&stage.web, to));
        let denied = stage.why(web, &to.to_string());
        assert_eq!(denied["end"], "dropped", "{denied:#}");
        for part in [NEAREST, "no element allows it"] {
            assert!(denied.to_string().contains(part), "{part} in {denied:#}");
        }
        let ping = stage.why(api, &db.to_string());
        assert_eq!(ping["end"], "dropped", "{ping:#}");
        let own = stage.agent(&format!(
            "why {} {db} -o json",
            if v6 {
                "fc00:f853:ccd:e793::2"
            } else {
                "172.18.0.2"
            }
        ));
        assert!(own.contains("No policy is asked"), "{own}");
        for trace in [allowed, denied, ping] {
            assert_eq!(trace["differences"], json!([]), "{trace:#}");
        }
    }
}

#[test]
fn who_may_reach_a_pod_is_told_as_the_kernel_lets_them_with_the_rules_in_words() {
    let stage = &*STAGE;
    let place = stage.cluster.node("worker").place().clone();
    let ask = "curl -sS --unix-socket /run/podwire/agent.sock 'http://agent/reach?pod=shop/db'";
    let reach: Value = serde_json::from_str(&place.sh(ask).unwrap().stdout).unwrap();
    let told = |pod: &str| {
        let peers = reach["peers"].as_array().unwrap();
        let found = peers.iter().find(|one| one["pod"] == json!(pod)).unwrap();
        (found["from"].clone(), found["to"].clone())
    };
    assert_eq!(told("shop/api"), (json!("tcp 80"), json!("everything")));
    assert_eq!(told("shop/web"), (Value::Null, json!("everything")));
    let to = SocketAddr::new(stage.db.address(false).unwrap(), 80);
    assert!(connects(&stage.api, to));
    assert!(!connects(&stage.web, to));

    let status: Value = serde_json::from_str(&stage.agent("status -o json")).unwrap();
    let isolating = json!([
        {"name": "shop/closed", "ingress": []},
        {"name": "shop/db", "ingress": ["tcp 80 from role=api"]},
    ]);
    assert_eq!(status["policies"]["isolating"], isolating);
}

#[test]
fn why_finds_the_range_in_which_an_address_is() {
    let cluster = &STAGE.cluster;
    let spec = PodSpec::new("ranged").in_namespace("ranges");
    let pod = cluster
        .lab
        .run("worker", &spec)
        .unwrap()
        .address(false)
        .unwrap();
    let rules = json!([{"from": [{"ipBlock": {"cidr": "172.16.0.0/12"}}]}]);
    let mut block = policy("block", json!({"podSelector": {}, "ingress": rules}));
    block["metadata"]["namespace"] = "ranges".into();
    cluster.apply(&[block]);
    let trace = STAGE.why("172.18.0.4".parse().unwrap(), &format!("{pod}:80"));
    assert_eq!(trace["end"], "arrives", "{trace:#}");
    assert!(
        trace.to_string().contains("blocks: 172.18.0.4 has class "),
        "{trace:#}"
    );
    assert_eq!(trace["differences"], json!([]), "{trace:#}");
}

#[test]
fn drops_names_who_was_denied_and_why_and_follows() {
    let stage = &*STAGE;
    let place = stage.cluster.node("worker").place().clone();
    let mut follow = place
        .capture(
            "sh -c 'echo begins >&2; exec podwire-agent drops --follow'",
            "begins",
        )
        .unwrap();
    for v6 in [false, true] {
        let (web, db) = (
            stage.web.address(v6).unwrap(),
            stage.db.address(v6).unwrap(),
        );
        assert!(!connects(&stage.web, SocketAddr::new(db, 80)));
        let mut found = Vec::new();
        let named = wait::until("a drop", PATIENCE, || {
            found = stage.drops(web);
            !found.is_empty()
        });
        named.unwrap();
        let drop = &found[0];
        assert_eq!(drop["source"]["pod"], "shop/web", "{drop:#}");
        assert_eq!(drop["destination"]["pod"], "shop/db", "{drop:#}");
        assert_eq!(
            (&drop["protocol"], &drop["port"]),
            (&json!("tcp"), &json!(80))
        );
        assert_eq!(drop["direction"], "ingress");
        assert_eq!(drop["isolated_by"], json!(["shop/closed", "shop/db"]));
        assert_eq!(drop["nearest"], NEAREST);
        assert_eq!(drop["reply"], false);
    }
    let text = stage.agent("drops");
    assert!(text.contains("(shop/web) -> "), "{text}");
    let denied = || {
        let node = stage.cluster.node("worker");
        node.agent_metric("podwire_policies_denied_packets_total")
            .unwrap()
    };
    // The agent looks at the counters every 15 s.
    wait::until("the metric", 3 * PATIENCE, || denied() > 0.0).unwrap();
    let lines = |seen: &[String]| seen.iter().filter(|line| line.contains(NEAREST)).count();
    assert!(
        follow.until(PATIENCE, |seen| lines(seen) >= 2),
        "{:?}",
        follow.finish()
    );
}
