//! Observations 13 to 15: a NodePort, from a computer that is not part of the cluster.

use super::checks::{has_words, lines};
use super::observation::{Check, Observation};
use super::step::Step;

pub(super) const OBSERVATIONS: [Observation; 3] = [
    Observation {
        number: 13,
        claim: "From outside the cluster, a ClusterIP does not exist.",
        reason: "mypc is on the node network, but it has no rules that translate the address and no \
                 route to it. ClusterIPs are for pods and nodes.",
        steps: &[Step::Run {
            at: "mypc",
            command: "curl -sS --connect-timeout 2 10.200.1.217:9000",
        }],
        checks: &[Check {
            says: "no answer",
            holds: |seen| seen.of(0).contains("curl: (") && !seen.of(0).contains("answers"),
        }],
    },
    Observation {
        number: 14,
        claim: "A NodePort answers on every node, also where none of its pods runs.",
        reason: "The two echo pods are on worker2 and worker3. Every node takes connections on \
                 port 31662 and passes them on to one of the two. The address in the answer is \
                 whom the pod saw: the node that took the connection, by its node address, or by \
                 its gateway address if the pod is its own.",
        steps: &[Step::Run {
            at: "mypc",
            command: "for node in control-plane worker worker2 worker3; do \
                      curl -4 -sS --max-time 2 $node:31662; done",
        }],
        checks: &[
            Check {
                says: "four answers",
                holds: |seen| lines(seen.of(0)) == 4,
            },
            Check {
                says: "all from echo-1 or echo-2",
                holds: |seen| {
                    seen.of(0).lines().all(|line| {
                        line.starts_with("echo-1 answers") || line.starts_with("echo-2 answers")
                    })
                },
            },
        ],
    },
    Observation {
        number: 15,
        claim: "What comes from outside is masqueraded by the node where it enters.",
        reason: "worker passes the connection on to a pod of worker2. If the pod saw mypc's \
                 address it would answer mypc directly, from an address that mypc never asked. So \
                 worker puts its own address in, and the answer comes back through it.",
        steps: &[
            Step::Watch {
                at: "worker",
                command: "tcpdump -l -n -i eth0 -c 1 'tcp dst port 31662'",
            },
            Step::Watch {
                at: "worker2",
                command: "tcpdump -l -n -i {veth:echo-1} -c 1 'tcp[tcpflags] == tcp-syn'",
            },
            Step::Run {
                at: "mypc",
                command: "for i in $(seq 100); do \
                          curl -4 -sS --max-time 2 worker:31662 | grep echo-1 && break; done",
            },
        ],
        checks: &[
            Check {
                says: "on worker: from mypc (172.18.0.6) to worker's port 31662",
                holds: |seen| passes(seen.of(0), "172.18.0.6", "172.18.0.2.31662"),
            },
            Check {
                says: "on worker2: from worker (172.18.0.2) to echo-1, 10.10.2.8 port 8080",
                holds: |seen| passes(seen.of(1), "172.18.0.2", "10.10.2.8.8080"),
            },
            Check {
                says: "echo-1 says so itself",
                holds: |seen| has_words(seen.of(2), "echo-1 answers 172.18.0.2"),
            },
        ],
    },
];

/// Whether tcpdump saw a packet from any port of `from` to `to`.
fn passes(capture: &str, from: &str, to: &str) -> bool {
    let from = format!("IP {from}.");
    capture
        .lines()
        .any(|line| line.contains(&from) && has_words(line, &format!("> {to}:")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_was_not_masqueraded_is_noticed() {
        let line = "05:22:14.574327 IP 172.18.0.2.40112 > 10.10.2.8.8080: Flags [S], seq 1";
        assert!(passes(line, "172.18.0.2", "10.10.2.8.8080"));
        assert!(!passes(line, "172.18.0.6", "10.10.2.8.8080"));
        assert!(!passes(line, "172.18.0.2", "10.10.2.8.80"));
        assert!(!passes("", "172.18.0.2", "10.10.2.8.8080"));
    }
}
