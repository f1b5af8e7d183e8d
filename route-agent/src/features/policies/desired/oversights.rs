//! What in a policy may be a mistake of who wrote it: it can be meant so, and is enforced as it is.
//!
//! Whatever is looked at counts as effort, so that no one's policy holds the loop up: of one for which
//! there is not enough nothing is said.

use std::collections::BTreeSet;

use crate::snapshot::{
    ClusterNetworkPolicy, Direction, NetworkPolicy, Peer, Pod, PodSet, PolicyRule, PortMatch,
    Protocol, Selector, Snapshot,
};

/// How many looks at a pod, a Namespace or a port one policy may cost.
pub const EFFORT: usize = 100_000;

/// What looks like a mistake, one sentence each.
pub fn of(policy: &NetworkPolicy, snapshot: &Snapshot, effort: &mut usize) -> Vec<String> {
    let mut looking = Looking { snapshot, effort };
    looking.at(policy).unwrap_or_default()
}

/// As [`of`], of a ClusterNetworkPolicy.
pub fn of_cluster(
    policy: &ClusterNetworkPolicy,
    snapshot: &Snapshot,
    effort: &mut usize,
) -> Vec<String> {
    let mut looking = Looking { snapshot, effort };
    looking.at_cluster(policy).unwrap_or_default()
}

/// Names of ports.
type Names<'a> = BTreeSet<(&'a str, Protocol)>;

struct Looking<'a> {
    snapshot: &'a Snapshot,
    effort: &'a mut usize,
}

impl Looking<'_> {
    /// None if it takes too much.
    fn spend(&mut self, looks: usize) -> Option<()> {
        *self.effort = self.effort.checked_sub(looks)?;
        Some(())
    }

    fn at(&mut self, policy: &NetworkPolicy) -> Option<Vec<String>> {
        let (subject, mut selected, mut ended) = (&policy.subject, Vec::new(), false);
        let mut is_empty = true;
        for pod in self.snapshot.pods_in(&policy.name.namespace) {
            self.spend(subject.cost())?;
            is_empty = false;
            if subject.selects(&pod.labels) {
                ended |= pod.finished;
                selected.extend((!pod.finished).then_some(pod));
            }
        }
        if is_empty && !self.is_there(&policy.name.namespace) {
            let namespace = &policy.name.namespace;
            return Some(vec![format!(
                "it selects nothing: there is no Namespace {namespace}"
            )]);
        }
        // A policy for all pods is often there before the first of them, and one for the pods of a
        // CronJob while none of them runs.
        let is_one = |said: String| {
            Some(Vec::from_iter(
                (!subject.is_empty() && !ended).then_some(said),
            ))
        };
        if selected.is_empty() {
            return is_one(format!(
                "it selects nothing: no pod in its namespace has {subject}"
            ));
        }
        selected.retain(|pod| !pod.host_network);
        if selected.is_empty() {
            return is_one(
                "it has no effect: all pods that it selects have their node's network".into(),
            );
        }
        let ingress = policy.ingress.iter().flatten();
        let names = ingress.flat_map(named_ports).collect();
        let missing = self.missing(names, selected.into_iter())?;
        let mut texts = BTreeSet::from_iter(missing.iter().map(|(name, protocol)| {
            let protocol = protocol.name();
            format!(
                "no pod that it selects has a {protocol} port named {name}, so that allows nothing"
            )
        }));
        for rule in policy.egress.iter().flatten() {
            let missing = self.missing_of_peers(rule, policy)?;
            texts.extend(missing.iter().map(|(name, protocol)| {
                let protocol = protocol.name();
                format!(
                    "no pod that its egress is about has a {protocol} port named {name}, so that allows \
                     nothing"
                )
            }));
        }
        let rules = [&policy.ingress, &policy.egress];
        let rules = rules.into_iter().flatten().flatten();
        for peer in rules.flat_map(|rule| rule.peers.iter().flatten()) {
            texts.extend(self.no_peer(peer)?);
        }
        Some(texts.into_iter().collect())
    }

    /// Whether there is a Namespace. Manifests need not say that of the one that every cluster has.
    fn is_there(&self, namespace: &str) -> bool {
        namespace == "default" || self.snapshot.namespaces.contains_key(namespace)
    }

    fn at_cluster(&mut self, policy: &ClusterNetworkPolicy) -> Option<Vec<String>> {
        if !self.selects_any(&policy.subject)? {
            let subject = &policy.subject;
            let said = format!("it selects nothing: there are no pods with {subject}");
            return Some(vec![said]);
        }
        let mut texts = BTreeSet::new();
        let rules = Direction::ALL.map(|direction| policy.rules(direction));
        let rules = rules.into_iter().flatten();
        for peer in rules.flat_map(|rule| rule.traffic.peers.iter().flatten()) {
            texts.extend(self.no_peer(peer)?);
        }
        Some(texts.into_iter().collect())
    }

    fn selects_any(&mut self, subject: &PodSet) -> Option<bool> {
        for pod in self.snapshot.pods.values().filter(|pod| !pod.host_network) {
            self.spend(subject.namespaces.cost() + subject.pods.cost())?;
            if subject.selects(pod, self.snapshot) {
                return Some(true);
            }
        }
        Some(false)
    }

    /// Those names that none of these pods has.
    fn missing<'n, 'p>(
        &mut self,
        mut names: Names<'n>,
        pods: impl Iterator<Item = &'p Pod>,
    ) -> Option<Names<'n>> {
        let mut pods = pods;
        while !names.is_empty()
            && let Some(pod) = pods.next()
        {
            self.spend(1 + names.len())?;
            names.retain(|(name, protocol)| pod.port(name, *protocol).is_none());
        }
        Some(names)
    }

    /// The names of ports that no peer of an egress rule has. A name is one of a pod, never of an
    /// address.
    fn missing_of_peers<'n>(
        &mut self,
        rule: &'n PolicyRule,
        policy: &NetworkPolicy,
    ) -> Option<Names<'n>> {
        let (mut names, snapshot) = (named_ports(rule).collect::<Names<'n>>(), self.snapshot);
        let Some(peers) = &rule.peers else {
            return self.missing(names, snapshot.pods.values().filter(|pod| !pod.finished));
        };
        for peer in peers {
            if names.is_empty() {
                break;
            }
            let (namespaces, selector) = match peer {
                Peer::Here(pods) => (vec![&policy.name.namespace], pods),
                Peer::Elsewhere { namespaces, pods } => {
                    self.spend(namespaces.cost() * snapshot.namespaces.len())?;
                    let all = snapshot.namespaces.values();
                    let all = all.filter(|one| namespaces.selects(&one.labels));
                    (all.map(|one| &one.name).collect(), pods)
                }
                // Pods as ClusterNetworkPolicies mean them have no names for ports.
                Peer::Block(_) | Peer::Nodes(_) | Peer::Anywhere(_) => continue,
            };
            for namespace in namespaces {
                let mut there = Vec::new();
                for pod in snapshot.pods_in(namespace) {
                    self.spend(selector.cost())?;
                    let is_one = !pod.finished && selector.selects(&pod.labels);
                    there.extend(is_one.then_some(pod));
                }
                names = self.missing(names, there.into_iter())?;
            }
        }
        Some(names)
    }

    /// That there are no Namespaces, or no Nodes, that a peer asks for.
    fn no_peer(&mut self, peer: &Peer) -> Option<Option<String>> {
        match peer {
            Peer::Elsewhere { namespaces, .. } => self.no_namespace(namespaces),
            Peer::Anywhere(pods) => self.no_namespace_of(pods),
            Peer::Nodes(nodes) => self.no_node(nodes),
            Peer::Here(_) | Peer::Block(_) => Some(None),
        }
    }

    /// That a selector of Namespaces selects none.
    fn no_namespace(&mut self, namespaces: &Selector) -> Option<Option<String>> {
        let said = format!(
            "there is no Namespace with {namespaces}, which a namespaceSelector of it asks for"
        );
        Some((!self.is_namespace(namespaces)?).then_some(said))
    }

    /// As [`Self::no_namespace`], of a peer that may also mean a Namespace by its name alone.
    fn no_namespace_of(&mut self, peer: &PodSet) -> Option<Option<String>> {
        let namespaces = &peer.namespaces;
        if namespaces.is_empty() || self.is_namespace(namespaces)? {
            return Some(None);
        }
        for namespace in self.snapshot.namespaces_of_pods() {
            self.spend(namespaces.cost())?;
            if peer.reaches(namespace, self.snapshot) {
                return Some(None);
            }
        }
        let said = format!("there is no Namespace with {namespaces}, which a peer of it asks for");
        Some(Some(said))
    }

    fn is_namespace(&mut self, selector: &Selector) -> Option<bool> {
        for namespace in self.snapshot.namespaces.values() {
            self.spend(selector.cost())?;
            if selector.selects(&namespace.labels) {
                return Some(true);
            }
        }
        Some(false)
    }

    /// That a selector of Nodes selects none.
    fn no_node(&mut self, nodes: &Selector) -> Option<Option<String>> {
        for node in self.snapshot.nodes.values() {
            self.spend(nodes.cost())?;
            if nodes.selects(&node.all_labels) {
                return Some(None);
            }
        }
        let said = format!("there is no Node with {nodes}, which a peer of it asks for");
        Some((!nodes.is_empty()).then_some(said))
    }
}

/// The ports that a rule names.
fn named_ports(rule: &PolicyRule) -> impl Iterator<Item = (&str, Protocol)> {
    let ports = rule.ports.iter().flatten();
    ports.filter_map(|port| match &port.ports {
        PortMatch::Named(name) => Some((&**name, port.protocol)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use serde_json::{Value, json};

    use super::*;
    use crate::features::policies::desired::samples::{
        Cluster, cluster_policy, name, namespace, node, pod, policy,
    };

    fn oversights(spec: &Value) -> Vec<String> {
        oversights_among(spec, &[])
    }

    /// With more pods.
    fn oversights_among(spec: &Value, pods: &[Value]) -> Vec<String> {
        let mut cluster = Cluster::of(&[
            namespace("shop", "kubernetes.io/metadata.name=shop"),
            pod("shop/db", "worker", 2, "role=db"),
            policy("shop/p", spec),
        ]);
        cluster.set(pods);
        let policy = &cluster.snapshot.policies[&name("shop/p")];
        of(policy, &cluster.snapshot, &mut EFFORT.clone())
    }

    #[test]
    fn a_policy_for_pods_that_have_ended_selects_what_comes_again() {
        let spec = json!({"podSelector": {"matchLabels": {"role": "job"}}});
        let mut ended = pod("shop/job", "worker", 3, "role=job");
        ended["status"]["phase"] = json!("Succeeded");
        assert_eq!(oversights_among(&spec, &[ended]), [""; 0]);
    }

    #[test]
    fn a_policy_that_selects_only_pods_with_their_nodes_network_has_no_effect() {
        let spec = json!({"podSelector": {"matchLabels": {"role": "host"}}});
        let mut host = pod("shop/host", "worker", 3, "role=host");
        host["spec"]["hostNetwork"] = json!(true);
        assert_eq!(
            oversights_among(&spec, from_ref(&host)),
            ["it has no effect: all pods that it selects have their node's network"]
        );
        let both = [host, pod("shop/one", "worker", 4, "role=host")];
        assert_eq!(oversights_among(&spec, &both), [""; 0]);
    }

    #[test]
    fn many_ports_of_many_peers_are_looked_up_once_and_too_many_not_at_all() {
        let peer = json!({"podSelector": {"matchLabels": {"role": "db"}}});
        let rule = |ports: usize, peers: usize| {
            let ports: Vec<Value> = (0..ports)
                .map(|one| json!({"port": format!("p{one}")}))
                .collect();
            json!({"podSelector": {}, "policyTypes": ["Egress"],
                "egress": [{"to": vec![&peer; peers], "ports": ports}]})
        };
        assert_eq!(oversights(&rule(100, 100)).len(), 100);
        assert_eq!(oversights(&rule(300, 400)), [""; 0]);
    }

    #[test]
    fn a_peer_of_a_cluster_network_policy_that_there_is_not_is_named() {
        let said = |peer: Value| {
            let mut cluster = Cluster::of(&[
                namespace("shop", "kubernetes.io/metadata.name=shop"),
                pod("shop/db", "worker", 2, "role=db"),
                pod("bare/one", "worker", 3, ""),
                node("worker", &["172.18.0.2"], "role=edge"),
            ]);
            let rule = json!({"action": "Deny", "to": [peer]});
            let spec = json!({"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}, "egress": [rule]});
            cluster.set(&[cluster_policy("p", &spec)]);
            let policy = &cluster.snapshot.cluster_policies["p"];
            of_cluster(policy, &cluster.snapshot, &mut EFFORT.clone())
        };
        let named = |name: &str| json!({"matchLabels": {"kubernetes.io/metadata.name": name}});
        let none = "there is no Namespace with kubernetes.io/metadata.name=shopp, which a peer of it asks for";
        assert_eq!(said(json!({"namespaces": named("shop")})), [""; 0]);
        assert_eq!(said(json!({"namespaces": {}})), [""; 0]);
        // Only its pods are known.
        assert_eq!(said(json!({"namespaces": named("bare")})), [""; 0]);
        assert_eq!(said(json!({"namespaces": named("shopp")})), [none]);
        let pods = json!({"pods": {"namespaceSelector": named("shopp"), "podSelector": {}}});
        assert_eq!(said(pods), [none]);
        let nodes = |role: &str| json!({"nodes": {"matchLabels": {"role": role}}});
        assert_eq!(said(nodes("edge")), [""; 0]);
        assert_eq!(
            said(nodes("egde")),
            ["there is no Node with role=egde, which a peer of it asks for"]
        );
    }

    #[test]
    fn a_policy_for_all_pods_of_an_empty_namespace_is_no_mistake_but_that_of_one_that_is_not_there()
    {
        let said = |at: &str| {
            let closed = policy(at, &json!({"podSelector": {}}));
            let pod = pod("bare/one", "worker", 3, "");
            let cluster = Cluster::of(&[namespace("empty", ""), pod, closed]);
            let policy = &cluster.snapshot.policies[&name(at)];
            of(policy, &cluster.snapshot, &mut EFFORT.clone())
        };
        for there in ["empty/p", "bare/p", "default/p"] {
            assert_eq!(said(there), [""; 0], "{there}");
        }
        assert_eq!(
            said("emtpy/p"),
            ["it selects nothing: there is no Namespace emtpy"]
        );
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
