//! Pods whose Namespace has gone from the API server while they run: what depends on its labels is not
//! known.

use serde_json::{Value, json};

use crate::features::policies::desired::atoms::FEW_PEERS;
use crate::features::policies::desired::samples::{
    Cluster, addresses, cluster_policy, name, namespace, pod, policy, tcp,
};
use crate::snapshot::Key;

/// A pod `jail/p` and its client, which is `free/p`.
fn cluster(subject: &Value) -> Cluster {
    let mut cluster = Cluster::of_api_server(FEW_PEERS);
    let spec = json!({"tier": "Admin", "priority": 1, "subject": {"namespaces": subject},
        "ingress": [{"action": "Deny", "from": [{"namespaces": {"matchLabels": {"trust": "low"}}}]}]});
    cluster.set(&[
        namespace("jail", "trust=none"),
        namespace("free", "trust=low"),
        pod("jail/p", "worker", 2, "app=p"),
        pod("free/p", "worker", 3, "app=p"),
        cluster_policy("deny", &spec),
    ]);
    cluster
}

/// Whether the client reaches the pod, in each family.
fn reaches(cluster: &Cluster) -> Vec<bool> {
    let [server, client] = [2, 3].map(|number| addresses("worker", number));
    let pairs = client.into_iter().zip(server);
    pairs
        .map(|(from, to)| cluster.models_allow(from, to, tcp(80)))
        .collect()
}

#[test]
fn a_pod_whose_namespace_has_gone_is_closed_where_its_labels_would_decide() {
    let trust = json!({"matchLabels": {"trust": "none"}});
    let mut jail = cluster(&trust);
    assert_eq!(reaches(&jail), [false; 2]);
    jail.gone(Key::Namespace("jail".into()));
    assert_eq!(reaches(&jail), [false; 2], "the labels are gone");
    // Whatever else comes or goes meanwhile.
    jail.set(&[pod("jail/p", "worker", 2, "app=p more=1")]);
    assert_eq!(reaches(&jail), [false; 2]);
    jail.gone(Key::ClusterNetworkPolicy("deny".into()));
    assert_eq!(reaches(&jail), [true; 2], "no policy can be about it");
    jail.set(&[cluster_policy(
        "again",
        &json!({"tier": "Baseline", "priority": 1, "subject": {"namespaces": trust},
            "ingress": [{"action": "Deny", "from": [{"namespaces": {}}]}]}),
    )]);
    assert_eq!(reaches(&jail), [false; 2]);
    jail.set(&[namespace("jail", "trust=full")]);
    assert_eq!(reaches(&jail), [true; 2], "it is not selected");
}

#[test]
fn nor_does_a_policy_accept_for_a_pod_that_it_may_not_mean() {
    let not_trusted = json!({"matchExpressions": [{"key": "trust", "operator": "DoesNotExist"}]});
    let spec = json!({"tier": "Admin", "priority": 1, "subject": {"namespaces": not_trusted},
        "ingress": [{"action": "Accept", "from": [{"namespaces": {}}]}]});
    let mut jail = Cluster::of_api_server(FEW_PEERS);
    jail.set(&[
        namespace("jail", "trust=none"),
        namespace("free", ""),
        pod("jail/p", "worker", 2, "app=p"),
        pod("free/p", "worker", 3, "app=p"),
        policy("jail/closed", &json!({"podSelector": {}})),
        cluster_policy("accept", &spec),
    ]);
    assert_eq!(reaches(&jail), [false; 2]);
    jail.gone(Key::Namespace("jail".into()));
    assert_eq!(reaches(&jail), [false; 2]);
}

#[test]
fn a_pod_whose_namespace_has_gone_is_judged_as_before_where_its_name_decides() {
    for (subject, expected) in [
        (json!({}), false),
        (
            json!({"matchLabels": {"kubernetes.io/metadata.name": "jail"}}),
            false,
        ),
        (
            json!({"matchLabels": {"kubernetes.io/metadata.name": "other"}}),
            true,
        ),
    ] {
        let mut jail = cluster(&subject);
        assert_eq!(reaches(&jail), [expected; 2], "{subject}");
        jail.gone(Key::Namespace("jail".into()));
        assert_eq!(reaches(&jail), [expected; 2], "{subject}");
    }
}

#[test]
fn nor_does_a_pod_of_another_plugin_open_whose_address_is_outside_the_pod_cidrs() {
    let outside = ["10.99.0.5", "fd99::5"];
    let alien = |addresses: [&str; 2]| {
        let mut alien = pod("jail/p", "worker", 2, "app=p");
        alien["status"]["podIPs"] = json!(addresses.map(|ip| json!({"ip": ip})));
        alien
    };
    let client = addresses("worker", 3);
    let reaches = |cluster: &Cluster| {
        let pairs = client.into_iter().zip(outside);
        let pairs = pairs.map(|(client, alien)| (client, alien.parse().unwrap()));
        pairs
            .flat_map(|(client, alien)| [(client, alien), (alien, client)])
            .map(|(from, to)| cluster.models_allow(from, to, tcp(80)))
            .collect::<Vec<_>>()
    };
    let mut jail = cluster(&json!({"matchLabels": {"trust": "none"}}));
    jail.set(&[alien(outside), policy("jail/closed", &closed())]);
    assert_eq!(reaches(&jail), [false; 4]);
    jail.gone(Key::Namespace("jail".into()));
    assert_eq!(reaches(&jail), [false; 4], "the labels are gone");
    jail.gone(Key::NetworkPolicy(name("jail/closed")));
    assert_eq!(reaches(&jail), [false; 4], "they still would decide");
    jail.set(&[alien(["10.99.0.6", "fd99::6"])]);
    assert_eq!(reaches(&jail), [true; 4], "it has other addresses");
    jail.set(&[alien(outside)]);
    assert_eq!(reaches(&jail), [false; 4]);
    jail.set(&[namespace("jail", "trust=full")]);
    assert_eq!(reaches(&jail), [true; 4], "it is not selected");
}

/// Nothing comes in, and nothing goes out.
fn closed() -> Value {
    json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})
}
