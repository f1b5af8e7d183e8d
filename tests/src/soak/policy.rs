//! NetworkPolicies that the soak writes, and what they mean: worked out here by the words of the API
//! alone, so that the agent is not asked about itself.

use serde_json::{Value, json};

use crate::churn::Wanted;

/// The label that policies select by, and its values: by number, from 0.
pub const LABEL: &str = "group";
/// How many values there are.
pub const GROUPS: u8 = 4;

/// A NetworkPolicy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Which pods it isolates.
    pub selects: u8,
    /// Whether it is about what comes to them, what goes out, or both.
    pub directions: Directions,
    /// With whom they may speak all the same, if with anyone.
    pub allows: Option<u8>,
}

/// Of what a policy speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Directions {
    /// What comes to the pods.
    Ingress,
    /// What goes out.
    Egress,
    /// Both.
    Both,
}

impl Directions {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Ingress, Self::Egress, Self::Both];

    fn has(self, direction: Self) -> bool {
        self == Self::Both || self == direction
    }
}

impl Policy {
    /// The object of the API.
    pub fn manifest(&self, name: &str) -> Value {
        let pods = |group: u8| json!({"matchLabels": {LABEL: group.to_string()}});
        let mut object = json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"namespace": "default", "name": name},
            "spec": {"podSelector": pods(self.selects), "policyTypes": []},
        });
        for (direction, kind, rules, peers) in [
            (Directions::Ingress, "Ingress", "ingress", "from"),
            (Directions::Egress, "Egress", "egress", "to"),
        ] {
            if !self.directions.has(direction) {
                continue;
            }
            let spec = &mut object["spec"];
            let types = spec["policyTypes"].as_array_mut();
            types.into_iter().for_each(|types| types.push(json!(kind)));
            if let Some(group) = self.allows {
                spec[rules] = json!([{peers: [{"podSelector": pods(group)}]}]);
            }
        }
        object
    }
}

impl Wanted {
    /// The policies that isolate a group of pods in one direction.
    fn isolating(&self, group: u8, direction: Directions) -> impl Iterator<Item = &Policy> {
        let policies = self.policies.values();
        policies.filter(move |one| one.selects == group && one.directions.has(direction))
    }

    /// Whether a pod is isolated in a direction.
    pub fn is_isolated(&self, pod: &str, direction: Directions) -> bool {
        let pod = self.pods.get(pod);
        pod.is_some_and(|pod| self.isolating(pod.group, direction).next().is_some())
    }

    /// Whether someone who is asking may reach a pod; one who is no pod is no peer of any policy.
    pub fn may_reach(&self, from: &str, to: &str) -> bool {
        let allows = |selected: &str, direction, peer: Option<u8>| {
            let Some(pod) = self.pods.get(selected) else {
                return true;
            };
            let mut policies = self.isolating(pod.group, direction).peekable();
            policies.peek().is_none()
                || policies.any(|one| one.allows.is_some() && one.allows == peer)
        };
        let group = |name: &str| self.pods.get(name).map(|pod| pod.group);
        from == to
            || allows(from, Directions::Egress, group(to))
                && allows(to, Directions::Ingress, group(from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::churn::Pod;

    fn wanted(policies: &[(u8, Directions, Option<u8>)]) -> Wanted {
        let mut wanted = Wanted::on(vec!["worker".into()]);
        for group in 0..3 {
            let pod = Pod {
                node: "worker".into(),
                host_port: None,
                group,
            };
            wanted.pods.insert(format!("p{group}"), pod);
        }
        for (number, &(selects, directions, allows)) in policies.iter().enumerate() {
            let policy = Policy {
                selects,
                directions,
                allows,
            };
            wanted.policies.insert(number.to_string(), policy);
        }
        wanted
    }

    #[test]
    fn policies_isolate_in_their_direction_and_add_up() {
        let closed = wanted(&[(0, Directions::Ingress, None)]);
        assert!(!closed.may_reach("p1", "p0") && !closed.may_reach("mypc", "p0"));
        assert!(closed.may_reach("p0", "p1") && closed.may_reach("p0", "p0"));
        let both = wanted(&[
            (0, Directions::Both, None),
            (0, Directions::Ingress, Some(1)),
        ]);
        assert!(both.may_reach("p1", "p0") && !both.may_reach("p2", "p0"));
        assert!(!both.may_reach("p0", "p1"));
        assert!(both.is_isolated("p0", Directions::Egress));
        assert!(!both.is_isolated("p1", Directions::Egress));
    }

    #[test]
    fn a_policy_is_written_as_the_api_has_it() {
        let policy = Policy {
            selects: 2,
            directions: Directions::Egress,
            allows: Some(1),
        };
        let spec = json!({
            "podSelector": {"matchLabels": {"group": "2"}},
            "policyTypes": ["Egress"],
            "egress": [{"to": [{"podSelector": {"matchLabels": {"group": "1"}}}]}],
        });
        assert_eq!(policy.manifest("x")["spec"], spec);
    }
}
