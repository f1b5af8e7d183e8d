//! Observations 7 to 12: a ClusterIP, where it is translated, and how it spreads connections.

use super::checks::{answers, count_of, has_words, lines};
use super::{Check, Observation, Step};

/// A hundred requests, counted by answer.
const HUNDRED: &str =
    "for i in $(seq 100); do curl -sS --max-time 2 10.200.1.63:9000; done | sort | uniq -c";

/// The names of the web pods.
const WEB: [&str; 3] = ["web-1", "web-2", "web-3"];

pub(super) const OBSERVATIONS: [Observation; 5] = [
    Observation {
        number: 7,
        claim: "A Service has one address for several pods, and pods have theirs.",
        reason: "10.200.1.63 is nobody's address: no link has it. The client's node translates it \
                 to one of the three web pods when the connection begins.",
        steps: &[
            Step::Run {
                at: "client",
                command: "curl -sS --max-time 2 10.200.1.63:9000",
            },
            Step::Run {
                at: "client",
                command: "curl -sS --max-time 2 10.10.1.3",
            },
        ],
        checks: &[
            Check {
                says: "one of the three web pods answers at the ClusterIP",
                holds: |seen| WEB.iter().any(|pod| answers(seen.of(0), pod, "10.10.0.6")),
            },
            Check {
                says: "web-1 answers at its own address",
                holds: |seen| answers(seen.of(1), "web-1", "10.10.0.6"),
            },
        ],
    },
    Observation {
        number: 8,
        claim: "What reaches the web pod's node has the pod's address already, and still the \
                client's.",
        reason: "The destination was translated on the client's node (DNAT); the source was left \
                 alone. The web pod answers the client directly, and the client's node turns the \
                 answer's source back into the ClusterIP.",
        steps: &[
            Step::Watch {
                at: "worker",
                command: "tcpdump -l -n -i {veth:web-1} -c 1 'tcp[tcpflags] == tcp-syn'",
            },
            Step::Run {
                at: "client",
                command: "for i in $(seq 100); do \
                          curl -sS --max-time 2 10.200.1.63:9000 | grep web-1 && break; done",
            },
        ],
        checks: &[Check {
            says: "source 10.10.0.6 (client), destination 10.10.1.3 port 80 (web-1)",
            holds: |seen| {
                seen.of(0).lines().any(|line| {
                    line.contains("IP 10.10.0.6.") && has_words(line, "> 10.10.1.3.80: Flags [S],")
                })
            },
        }],
    },
    Observation {
        number: 9,
        claim: "The client's node remembers what it translated.",
        reason: "Every connection has an entry with both directions: what the client sent, and \
                 what comes back. Later packets are translated from this memory alone; no \
                 rule sees them.",
        steps: &[Step::Run {
            at: "control-plane",
            command: "conntrack -L --src 10.10.0.6 -p tcp --dport 9000 | grep 'src=10.10.1.3 ' | \
                      head -n 1",
        }],
        checks: &[
            Check {
                says: "sent to dst=10.200.1.63 dport=9000",
                holds: |seen| {
                    let entry = seen.of(0);
                    entry.contains("src=10.10.0.6 dst=10.200.1.63 ")
                        && entry.contains(" dport=9000 ")
                },
            },
            Check {
                says: "answered by src=10.10.1.3 sport=80",
                holds: |seen| {
                    let entry = seen.of(0);
                    entry.contains("src=10.10.1.3 dst=10.10.0.6 sport=80 ")
                },
            },
        ],
    },
    Observation {
        number: 11,
        claim: "A hundred connections spread about evenly.",
        reason: "Each connection draws a pod at random, so the counts differ a little from run to \
                 run. Whether they are even within chance is a question for the chi-square test: \
                 an honest draw fails it once in 10,000 runs.",
        steps: &[Step::Run {
            at: "client",
            command: HUNDRED,
        }],
        checks: &[
            Check {
                says: "100 answers from three pods",
                holds: |seen| counts(seen.of(0)).iter().sum::<u32>() == 100,
            },
            Check {
                says: "even within chance (chi-square below 18.42)",
                holds: |seen| chi_square(counts(seen.of(0))) < 18.42,
            },
        ],
    },
    Observation {
        number: 12,
        claim: "With sessionAffinity ClientIP, one client always reaches the same pod.",
        reason: "The node remembers for three hours which pod it gave to which client address. \
                 The agent saw the changed manifest and added the rules; no connection was \
                 disturbed.",
        steps: &[
            Step::Run {
                at: "control-plane",
                command: "sed -i 's/sessionAffinity: None/sessionAffinity: ClientIP/' \
                          /run/podwire-lab/manifests/svc-clusterip.yaml",
            },
            Step::Until {
                at: "control-plane",
                command: "nft list ruleset | grep -c 'update @'",
                holds: |output| output.trim() != "0",
            },
            Step::Run {
                at: "client",
                command: HUNDRED,
            },
            Step::Run {
                at: "control-plane",
                command: "sed -i 's/sessionAffinity: ClientIP/sessionAffinity: None/' \
                          /run/podwire-lab/manifests/svc-clusterip.yaml",
            },
        ],
        checks: &[Check {
            says: "all 100 answers from one pod",
            holds: |seen| lines(seen.of(2)) == 1 && counts(seen.of(2)).contains(&100),
        }],
    },
];

/// How many answers each web pod gave, in the output of `uniq -c`.
fn counts(output: &str) -> [u32; 3] {
    WEB.map(|pod| count_of(output, pod))
}

/// How far the counts are from an even spread: Pearson's sum, with two degrees of freedom.
fn chi_square(counts: [u32; 3]) -> f64 {
    let expected = f64::from(counts.iter().sum::<u32>()) / 3.0;
    counts
        .into_iter()
        .map(|count| (f64::from(count) - expected).powi(2) / expected)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_even_spread_passes_and_a_lopsided_one_does_not() {
        assert!(chi_square([34, 33, 33]) < 0.1);
        assert!(chi_square([20, 40, 40]) < 18.42);
        assert!(chi_square([60, 20, 20]) > 18.42);
        assert!(chi_square([0, 50, 50]) > 18.42);
    }

    #[test]
    fn counts_are_read_from_uniq() {
        let output = "     31 web-1 answers 10.10.0.6\n     69 web-3 answers 10.10.0.6\n";
        assert_eq!(counts(output), [31, 0, 69]);
    }
}
