//! What in a policy may be a mistake of who wrote it: it can be meant so, and is enforced as it is.

use crate::snapshot::{
    ClusterNetworkPolicy, NetworkPolicy, Peer, Pod, PolicyRule, PortMatch, Protocol, Selector,
    Snapshot,
};

/// More pods than this are not looked at for a port of peers: then nothing is said.
const LOOKED_AT: usize = 2_000;

/// What looks like a mistake, one sentence each. Costs a look at the pods of the policy's namespace,
/// at the Namespaces if it selects some, and at some pods there if it asks for ports of them by name.
pub fn of(policy: &NetworkPolicy, snapshot: &Snapshot) -> Vec<String> {
    let pods = snapshot.pods_in(&policy.name.namespace);
    let mut selected = pods.filter(|pod| policy.subject.selects(&pod.labels) && !pod.finished);
    let Some(first) = selected.next() else {
        let subject = &policy.subject;
        return match subject.is_empty() {
            // A policy for all pods is often there before the first of them.
            true => Vec::new(),
            false => vec![format!(
                "it selects nothing: no pod in its namespace has {subject}"
            )],
        };
    };
    let selected: Vec<&Pod> = std::iter::once(first).chain(selected).collect();
    let ingress = policy.ingress.iter().flatten();
    let mut texts: Vec<String> = ingress.flat_map(|rule| ports(rule, &selected)).collect();
    let egress = policy.egress.iter().flatten();
    texts.extend(egress.flat_map(|rule| ports_of_peers(rule, policy, snapshot)));
    let rules = [&policy.ingress, &policy.egress];
    let rules = rules.into_iter().flatten().flatten();
    let peers = rules.flat_map(|rule| rule.peers.iter().flatten());
    texts.extend(peers.filter_map(|peer| namespaces(peer, snapshot)));
    texts.sort_unstable();
    texts.dedup();
    texts
}

/// As [`of`], of a ClusterNetworkPolicy. Costs a look at pods until one is found that it selects.
pub fn of_cluster(policy: &ClusterNetworkPolicy, snapshot: &Snapshot) -> Vec<String> {
    let mut pods = snapshot
        .pods
        .values()
        .filter(|pod| !pod.finished && !pod.host_network);
    match pods.any(|pod| policy.subject.selects(pod, snapshot)) {
        true => Vec::new(),
        false => vec![format!(
            "it selects nothing: there are no pods with {}",
            policy.subject
        )],
    }
}

/// Ports that no selected pod has under that name.
fn ports(rule: &PolicyRule, selected: &[&Pod]) -> Vec<String> {
    let ports = rule.ports.iter().flatten();
    let missing = ports.filter_map(|port| match &port.ports {
        PortMatch::Named(name)
            if !selected
                .iter()
                .any(|pod| pod.port(name, port.protocol).is_some()) =>
        {
            let protocol = port.protocol.name();
            Some(format!(
                "no pod that it selects has a {protocol} port named {name}, so that allows nothing"
            ))
        }
        _ => None,
    });
    missing.collect()
}

/// Ports that no peer of an egress rule has under that name. A name is one of a pod, never of an
/// address.
fn ports_of_peers(rule: &PolicyRule, policy: &NetworkPolicy, snapshot: &Snapshot) -> Vec<String> {
    let ports = rule.ports.iter().flatten();
    let missing = ports.filter_map(|port| match &port.ports {
        PortMatch::Named(name) if !may_have(name, port.protocol, rule, policy, snapshot) => {
            let protocol = port.protocol.name();
            Some(format!(
                "no pod that its egress is about has a {protocol} port named {name}, so that allows \
                 nothing"
            ))
        }
        _ => None,
    });
    missing.collect()
}

/// Whether a peer of a rule has a port of this name, or there are too many to be sure.
fn may_have(
    port: &str,
    protocol: Protocol,
    rule: &PolicyRule,
    policy: &NetworkPolicy,
    snapshot: &Snapshot,
) -> bool {
    let Some(peers) = &rule.peers else {
        return any_has(snapshot.pods.values(), None, port, protocol);
    };
    peers.iter().any(|peer| match peer {
        Peer::Block(_) | Peer::Nodes(_) => false,
        Peer::Here(pods) => {
            let here = snapshot.pods_in(&policy.name.namespace);
            any_has(here, Some(pods), port, protocol)
        }
        Peer::Anywhere(pods) => {
            let there = snapshot.pods.values();
            let there = there.filter(|pod| pods.selects(pod, snapshot));
            any_has(there, None, port, protocol)
        }
        Peer::Elsewhere { namespaces, pods } => {
            let all = snapshot.namespaces.values();
            let all = all.filter(|one| namespaces.selects(&one.labels));
            let there = all.flat_map(|one| snapshot.pods_in(&one.name));
            any_has(there, Some(pods), port, protocol)
        }
    })
}

fn any_has<'a>(
    pods: impl Iterator<Item = &'a Pod>,
    selector: Option<&Selector>,
    port: &str,
    protocol: Protocol,
) -> bool {
    let is_one = |pod: &Pod| {
        let selected = selector.is_none_or(|selector| selector.selects(&pod.labels));
        selected && !pod.finished && pod.port(port, protocol).is_some()
    };
    let mut pods = pods;
    pods.by_ref().take(LOOKED_AT).any(is_one) || pods.next().is_some()
}

/// A peer that selects no Namespace.
fn namespaces(peer: &Peer, snapshot: &Snapshot) -> Option<String> {
    let Peer::Elsewhere { namespaces, .. } = peer else {
        return None;
    };
    let is_one = |selector: &Selector| {
        let mut all = snapshot.namespaces.values();
        all.any(|namespace| selector.selects(&namespace.labels))
    };
    (!is_one(namespaces)).then(|| {
        format!("there is no Namespace with {namespaces}, which a namespaceSelector of it asks for")
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::features::policies::desired::samples::{Cluster, name, namespace, pod, policy};

    fn oversights(spec: &Value) -> Vec<String> {
        let cluster = Cluster::of(&[
            namespace("shop", "kubernetes.io/metadata.name=shop"),
            pod("shop/db", "worker", 2, "role=db"),
            policy("shop/p", spec),
        ]);
        of(
            &cluster.snapshot.policies[&name("shop/p")],
            &cluster.snapshot,
        )
    }

    #[test]
    fn a_policy_for_all_pods_of_an_empty_namespace_is_no_mistake() {
        let closed = policy("empty/p", &json!({"podSelector": {}}));
        let cluster = Cluster::of(&[namespace("empty", ""), closed]);
        let policy = &cluster.snapshot.policies[&name("empty/p")];
        assert_eq!(of(policy, &cluster.snapshot), [""; 0]);
    }

    #[test]
    fn what_may_be_a_mistake_is_named() {
        let db = json!({"matchLabels": {"role": "db"}});
        assert_eq!(oversights(&json!({"podSelector": {}})), [""; 0]);
        let spec = json!({"podSelector": {"matchLabels": {"role": "dbb"}}});
        assert_eq!(
            oversights(&spec),
            ["it selects nothing: no pod in its namespace has role=dbb"]
        );
        let ports =
            |port: &str| json!({"podSelector": db, "ingress": [{"ports": [{"port": port}]}]});
        assert_eq!(oversights(&ports("http")), [""; 0]);
        assert_eq!(
            oversights(&ports("sql")),
            ["no pod that it selects has a tcp port named sql, so that allows nothing",]
        );
        let egress = |peer: Value, port: &str| {
            let rule = json!({"to": [peer], "ports": [{"port": port}]});
            json!({"podSelector": db, "egress": [rule]})
        };
        let nothing = "no pod that its egress is about has a tcp port named";
        for (peer, port, is_there) in [
            (json!({"podSelector": db}), "http", true),
            (json!({"podSelector": db}), "sql", false),
            (
                json!({"podSelector": {"matchLabels": {"role": "api"}}}),
                "http",
                false,
            ),
            (json!({"namespaceSelector": {}}), "http", true),
            (json!({"namespaceSelector": {}}), "sql", false),
            (json!({"ipBlock": {"cidr": "10.0.0.0/8"}}), "http", false),
        ] {
            let texts = oversights(&egress(peer.clone(), port));
            let said = texts.iter().any(|text| text.starts_with(nothing));
            assert_eq!(said, !is_there, "{peer} {port}: {texts:?}");
        }
        let to = |name: &str| {
            let labels = json!({"matchLabels": {"kubernetes.io/metadata.name": name}});
            json!({"podSelector": db, "egress": [{"to": [{"namespaceSelector": labels}]}]})
        };
        assert_eq!(oversights(&to("shop")), [""; 0]);
        assert_eq!(
            oversights(&to("shopp")),
            [
                "there is no Namespace with kubernetes.io/metadata.name=shopp, which a namespaceSelector \
             of it asks for",
            ]
        );
    }
}
