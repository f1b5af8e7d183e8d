//! Observations 16 to 20: who may speak to whom, said by NetworkPolicies and asked of the kernel.
//!
//! The last one takes the policies away again, so that the walkthrough can be shown once more.

use super::checks::answers;
use super::observation::{Check, Observation};
use super::step::Step;

/// The sets of pods that no policy of a direction selects.
const OPEN: &str = "nft list set ip podwire-policy open-in";
/// What is allowed to pods of a node, whatever the port.
const ANY: &str = "nft list set ip podwire-policy in-any";
/// What is allowed to single ports.
const PORTS: &str = "nft list set ip podwire-policy in-ports";
/// What is allowed from pods of a node, whatever the port.
const OUT_ANY: &str = "nft list set ip podwire-policy out-any";

/// What curl says when no one answers.
const TIMED_OUT: &str = "curl: (28)";

pub(super) const OBSERVATIONS: [Observation; 5] =
    [DENY_ALL, ALLOW_BY_LABEL, NAMED_PORT, EGRESS, CUT];

const DENY_ALL: Observation = Observation {
    number: 16,
    claim: "A pod that a policy selects is closed to everyone whom no policy allows.",
    reason: "The policy selects the web pods and has no rule. On worker that is web-1: it is no \
             longer among the addresses that are open, so its packets are judged, and nothing \
             allows them. pod2 is selected by no policy and stays open. The node of the pod that \
             is protected decides; why says so, and drops has the packet that it dropped.",
    steps: &[
        Step::Run {
            at: "client",
            command: "curl -sS --max-time 2 10.10.1.3",
        },
        Step::Run {
            at: "lab",
            command: "cat >/run/podwire-lab/manifests/web.yaml <<END
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: default, name: web-closed}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress]
END",
        },
        Step::Until {
            at: "worker",
            command: OPEN,
            holds: |set| has(set, "10.10.1.2") && !has(set, "10.10.1.3"),
        },
        Step::Run {
            at: "client",
            command: "curl -sS --connect-timeout 1 10.10.1.3",
        },
        Step::Run {
            at: "worker",
            command: "podwire-agent why 10.10.0.6 10.10.1.3:80",
        },
        Step::Run {
            at: "worker",
            command: "podwire-agent drops",
        },
        Step::Run {
            at: "worker",
            command: OPEN,
        },
    ],
    checks: &[
        Check {
            says: "web-1 answered before",
            holds: |seen| answers(seen.of(0), "web-1", "10.10.0.6"),
        },
        Check {
            says: "no answer afterwards",
            holds: |seen| seen.of(3).contains(TIMED_OUT),
        },
        Check {
            says: "why names the policy",
            holds: |seen| seen.of(4).contains("default/web-closed"),
        },
        Check {
            says: "drops has the packet from client to web-1, with both names",
            holds: |seen| {
                let mut lines = seen.of(5).lines();
                lines.any(|line| line.contains("default/client") && line.contains("default/web-1"))
            },
        },
        Check {
            says: "pod2 is among those that are open, web-1 is not",
            holds: |seen| has(seen.of(6), "10.10.1.2") && !has(seen.of(6), "10.10.1.3"),
        },
    ],
};

const ALLOW_BY_LABEL: Observation = Observation {
    number: 17,
    claim: "Policies add up: a second one lets some in, and everyone else stays out.",
    reason: "Peers that the rules treat alike form a class, whose number is written beside the \
             address of each in peers. in-any has one element for class and pod: those may pass. \
             Through the Service it is the same, because policies are asked when the ClusterIP has \
             been translated already. pod1 has no class, and no one else is allowed.",
    steps: &[
        Step::Run {
            at: "lab",
            command: "cat >/run/podwire-lab/manifests/web-client.yaml <<END
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: default, name: web-client}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
    - from: [{podSelector: {matchLabels: {app: client}}}]
END",
        },
        Step::Until {
            at: "worker",
            command: ANY,
            holds: |set| set.contains("web-client"),
        },
        Step::Until {
            at: "worker2",
            command: ANY,
            holds: |set| set.contains("web-client"),
        },
        Step::Until {
            at: "worker3",
            command: ANY,
            holds: |set| set.contains("web-client"),
        },
        Step::Run {
            at: "client",
            command: "curl -sS --max-time 2 10.10.1.3",
        },
        Step::Run {
            at: "client",
            command: "curl -sS --max-time 2 10.200.1.63:9000",
        },
        Step::Run {
            at: "pod1",
            command: "curl -sS --connect-timeout 1 10.10.1.3",
        },
        Step::Run {
            at: "worker",
            command: "nft list map ip podwire-policy peers",
        },
        Step::Run {
            at: "worker",
            command: ANY,
        },
    ],
    checks: &[
        Check {
            says: "web-1 answers client",
            holds: |seen| answers(seen.of(4), "web-1", "10.10.0.6"),
        },
        Check {
            says: "one of the web pods answers client at the ClusterIP",
            holds: |seen| {
                let web = ["web-1", "web-2", "web-3"];
                web.iter().any(|pod| answers(seen.of(5), pod, "10.10.0.6"))
            },
        },
        Check {
            says: "no answer for pod1",
            holds: |seen| seen.of(6).contains(TIMED_OUT),
        },
        Check {
            says: "client (10.10.0.6) has a class, and the class may reach web-1",
            holds: |seen| {
                let class = class_of(seen.of(7), "10.10.0.6");
                class.is_some_and(|class| seen.of(8).contains(&format!("{class} . 10.10.1.3")))
            },
        },
    ],
};

const NAMED_PORT: Observation = Observation {
    number: 18,
    claim: "A port may be given by its name, and it is the pod's port that counts.",
    reason: "The echo pods call their port 8080 http. A rule without peers is for everyone: its \
             element has no class. The Service's port is 9000, but that is over when policies are \
             asked. A ping has no port, and nothing else allows it.",
    steps: &[
        Step::Run {
            at: "client",
            command: "ping -c 1 -W 1 10.10.2.8",
        },
        Step::Run {
            at: "lab",
            command: "cat >/run/podwire-lab/manifests/echo.yaml <<END
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: default, name: echo-http}
spec:
  podSelector: {matchLabels: {app: echo}}
  ingress:
    - ports: [{port: http}]
END",
        },
        Step::Until {
            at: "worker2",
            command: PORTS,
            holds: |set| set.contains("echo-http"),
        },
        Step::Until {
            at: "worker3",
            command: PORTS,
            holds: |set| set.contains("echo-http"),
        },
        Step::Run {
            at: "client",
            command: "curl -sS --max-time 2 10.10.2.8:8080",
        },
        Step::Run {
            at: "client",
            command: "curl -sS --max-time 2 10.200.1.217:9000",
        },
        Step::Run {
            at: "client",
            command: "ping -c 1 -W 1 10.10.2.8",
        },
        Step::Run {
            at: "worker2",
            command: PORTS,
        },
    ],
    checks: &[
        Check {
            says: "a ping was answered before, and is not any longer",
            holds: |seen| seen.of(0).contains(" 1 received") && seen.of(6).contains(" 0 received"),
        },
        Check {
            says: "echo-1 answers at its port",
            holds: |seen| answers(seen.of(4), "echo-1", "10.10.0.6"),
        },
        Check {
            says: "one of the echo pods answers at the Service's port",
            holds: |seen| {
                let echo = ["echo-1", "echo-2"];
                echo.iter().any(|pod| answers(seen.of(5), pod, "10.10.0.6"))
            },
        },
        Check {
            says: "the element has 8080 in place of the name",
            holds: |seen| seen.of(7).contains("10.10.2.8 . tcp . 8080"),
        },
    ],
};

const EGRESS: Observation = Observation {
    number: 19,
    claim: "What a pod may reach can be said in addresses.",
    reason: "client may send to 10.10.1.0/24 alone, the pods of worker. Its own node decides that, \
             before the packet leaves. web-1 must allow it as well, on worker, and does. Ranges of \
             addresses get their class from blocks.",
    steps: &[
        Step::Run {
            at: "lab",
            command: "cat >/run/podwire-lab/manifests/client.yaml <<END
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: default, name: client-out}
spec:
  podSelector: {matchLabels: {app: client}}
  policyTypes: [Egress]
  egress:
    - to: [{ipBlock: {cidr: 10.10.1.0/24}}]
END",
        },
        Step::Until {
            at: "control-plane",
            command: OUT_ANY,
            holds: |set| set.contains("client-out"),
        },
        Step::Run {
            at: "client",
            command: "curl -sS --max-time 2 10.10.1.3",
        },
        Step::Run {
            at: "client",
            command: "curl -sS --connect-timeout 1 10.10.3.3",
        },
        Step::Run {
            at: "control-plane",
            command: "podwire-agent why client 10.10.3.3:80",
        },
        Step::Run {
            at: "control-plane",
            command: "nft list map ip podwire-policy blocks",
        },
    ],
    checks: &[
        Check {
            says: "web-1 (10.10.1.3) answers",
            holds: |seen| answers(seen.of(2), "web-1", "10.10.0.6"),
        },
        Check {
            says: "web-3 (10.10.3.3) does not",
            holds: |seen| seen.of(3).contains(TIMED_OUT),
        },
        Check {
            says: "why names the policy of the client's own node",
            holds: |seen| seen.of(4).contains("default/client-out"),
        },
        Check {
            says: "the range has a class",
            holds: |seen| seen.of(5).contains("10.10.1.0/24"),
        },
    ],
};

const CUT: Observation = Observation {
    number: 20,
    claim: "What a change forbids is cut at once, even in the middle of a connection.",
    reason: "pod1 was downloading from echo-2: 20 MB a second, for three seconds (what -v adds is left \
             out: it tells the walkthrough that the answer has begun). Then the policy changed, and \
             from then on only client may. A connection that was judged costs one \
             lookup for each packet, in allowed; a change that forbids something empties that set, \
             and every connection is judged again. When the last policy is gone, the table goes \
             too.",
    steps: &[
        Step::Watch {
            at: "pod1",
            command: "curl -sSv --limit-rate 20M --max-time 3 -o /dev/null \
                      -w '%{size_download} bytes came\\n' 10.10.3.5:8080/bytes/1000000000",
        },
        Step::Run {
            at: "lab",
            command: "cat >/run/podwire-lab/manifests/echo.yaml <<END
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: default, name: echo-http}
spec:
  podSelector: {matchLabels: {app: echo}}
  ingress:
    - from: [{podSelector: {matchLabels: {app: client}}}]
      ports: [{port: http}]
END",
        },
        Step::Finish,
        Step::Run {
            at: "lab",
            command: "cd /run/podwire-lab/manifests && \
                      rm web.yaml web-client.yaml echo.yaml client.yaml",
        },
        Step::Until {
            at: "worker",
            command: "nft list tables",
            holds: |tables| !tables.contains("podwire-policy"),
        },
        Step::Until {
            at: "worker3",
            command: "nft list tables",
            holds: |tables| !tables.contains("podwire-policy"),
        },
        Step::Run {
            at: "worker3",
            command: "nft list tables",
        },
        Step::Run {
            at: "pod1",
            command: "curl -sS --max-time 2 10.10.3.5:8080",
        },
    ],
    checks: &[
        Check {
            says: "bytes came, but not the 20 MB of every second",
            holds: |seen| bytes(seen.of(0)).is_some_and(|bytes| (1..=30_000_000).contains(&bytes)),
        },
        Check {
            says: "without policies there is no table",
            holds: |seen| {
                let tables = seen.of(6);
                tables.contains("podwire-services") && !tables.contains("podwire-policy")
            },
        },
        Check {
            says: "echo-2 answers pod1 again",
            holds: |seen| answers(seen.of(7), "echo-2", "10.10.2.3"),
        },
    ],
};

/// Whether a list of nft has this address as an element.
fn has(list: &str, address: &str) -> bool {
    let mut words = list.split(|c: char| !(c.is_ascii_alphanumeric() || c == '.' || c == '/'));
    words.any(|word| word == address)
}

/// How many bytes curl says that came.
fn bytes(output: &str) -> Option<u64> {
    output.strip_suffix(" bytes came")?.parse().ok()
}

/// The class that a map of nft has for an address.
fn class_of<'a>(map: &'a str, address: &str) -> Option<&'a str> {
    let elements = map.split_once("elements = {")?.1;
    let element = elements
        .split([',', '}'])
        .find(|element| has(element, address))?;
    Some(element.rsplit_once(" : ")?.1.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEERS: &str = "map peers {\n\ttypeof ip saddr : meta priority\n\telements = { 10.10.0.61 \
                         comment \"default/x\" : 1:2,\n\t\t     10.10.0.6 comment \"default/client\" \
                         : e486:fbdc }\n}";

    #[test]
    fn the_class_of_an_address_is_that_of_the_whole_address() {
        assert_eq!(class_of(PEERS, "10.10.0.6"), Some("e486:fbdc"));
        assert_eq!(class_of(PEERS, "10.10.0.61"), Some("1:2"));
        assert_eq!(class_of(PEERS, "10.10.0.1"), None);
        assert_eq!(class_of("map peers {\n}", "10.10.0.6"), None);
    }

    #[test]
    fn an_address_is_found_as_a_whole() {
        assert!(has("elements = { 10.10.1.2 comment \"x\" }", "10.10.1.2"));
        assert!(!has("elements = { 10.10.1.21 comment \"x\" }", "10.10.1.2"));
        assert!(!has("elements = { 110.10.1.2 }", "10.10.1.2"));
    }
}
