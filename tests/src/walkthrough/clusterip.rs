//! Observations 7 to 12: a ClusterIP, where it is translated, and how it spreads connections.

use super::checks::{answers, count_of, has_words, lines};
use super::observation::{Check, Observation};
use super::step::Step;

/// A hundred requests, counted by answer.
const HUNDRED: &str =
    "for i in $(seq 100); do curl -sS --max-time 2 10.200.1.63:9000; done | sort | uniq -c";

/// What the rules have counted: the Service, its endpoints, and the two rules that decide about
/// masquerade for ClusterIPs.
const COUNTERS: &str = "nft list table ip podwire-services | \
                        grep -E 'default/svc-clusterip:9000|to (a )?ClusterIP'";

/// The names of the web pods.
const WEB: [&str; 3] = ["web-1", "web-2", "web-3"];

pub(super) const OBSERVATIONS: [Observation; 6] = [
    Observation {
        number: 7,
        claim: "A Service has one address for several pods, and pods have theirs.",
        reason: "10.200.1.63 is no machine's address: no link has it. The client's node translates it \
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
                 rule about Services sees them.",
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
        number: 10,
        claim: "The rules can be followed by eye: portal, Service, endpoint, and why nothing was \
                masqueraded; and they count.",
        reason: "services is the portal: it looks the packet's address and port up in a map, which \
                 says by a number how many endpoints there are, and answers says which chain that \
                 is. pick-3 draws one of three slots and looks the endpoint up in another map. Only \
                 the first packet of a connection comes here, so each counter counts connections. \
                 In to-cluster-ip the client is found to be a pod: its address is kept.",
        steps: &[
            Step::Run {
                at: "control-plane",
                command: "nft list chain ip podwire-services services",
            },
            Step::Run {
                at: "control-plane",
                command: "nft list map ip podwire-services answers",
            },
            Step::Run {
                at: "control-plane",
                command: "nft list chain ip podwire-services pick-3",
            },
            Step::Run {
                at: "control-plane",
                command: COUNTERS,
            },
            Step::Run {
                at: "client",
                command: "for i in $(seq 10); do \
                          curl -sS --max-time 2 10.200.1.63:9000; done | wc -l",
            },
            Step::Run {
                at: "control-plane",
                command: COUNTERS,
            },
        ],
        checks: &[
            Check {
                says: "the portal leads by two maps to pick-3, and pick-3 by a map to an endpoint",
                holds: |seen| {
                    has_words(seen.of(0), "map @services meta priority vmap @answers")
                        && seen
                            .of(1)
                            .contains("7000:3 comment \"3 endpoints\" : goto pick-3")
                        && has_words(seen.of(2), "numgen random mod 3 map @endpoints")
                        && service_count(seen.of(3)).is_some()
                },
            },
            Check {
                says: "10 answers, and the Service counted 10 more",
                holds: |seen| {
                    seen.of(4).trim() == "10"
                        && moved(seen.of(3), seen.of(5), service_count) == Some(10)
                },
            },
            Check {
                says: "its three endpoints together counted 10 more",
                holds: |seen| moved(seen.of(3), seen.of(5), endpoint_count) == Some(10),
            },
            Check {
                says: "10 more were not masqueraded, and none was",
                holds: |seen| {
                    moved(seen.of(3), seen.of(5), |text| rule_count(text, "return")) == Some(10)
                        && moved(seen.of(3), seen.of(5), |text| {
                            rule_count(text, "masquerade")
                        }) == Some(0)
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

/// What the elements of svc-clusterip have counted, each with the first word of its data: `7000:3`
/// for the Service itself, which has three endpoints, an address for an endpoint.
fn elements(output: &str) -> Vec<(u64, &str)> {
    let mark = "comment \"default/svc-clusterip:9000\" : ";
    output
        .match_indices(mark)
        .filter_map(|(position, _)| {
            let (_, counter) = output[..position].rsplit_once("packets ")?;
            let count = counter.split_whitespace().next()?.parse().ok()?;
            let target = output[position + mark.len()..].split_whitespace().next()?;
            Some((count, target))
        })
        .collect()
}

fn service_count(output: &str) -> Option<u64> {
    elements(output)
        .into_iter()
        .find(|(_, target)| target.trim_end_matches(',') == "7000:3")
        .map(|(count, _)| count)
}

fn endpoint_count(output: &str) -> Option<u64> {
    let endpoints: Vec<_> = elements(output)
        .into_iter()
        .filter(|(_, target)| target.starts_with("10.10."))
        .collect();
    (endpoints.len() == 3).then(|| endpoints.iter().map(|(count, _)| count).sum())
}

/// What the rule about ClusterIPs with this verdict has counted.
fn rule_count(output: &str, verdict: &str) -> Option<u64> {
    output
        .lines()
        .filter(|line| {
            line.contains("comment \"to a ClusterIP") || line.contains("\"pod to ClusterIP")
        })
        .find_map(|line| {
            let mut words = line
                .split_whitespace()
                .skip_while(|word| *word != "packets")
                .skip(1);
            let count = words.next()?.parse().ok()?;
            // Behind the counter: bytes, their number, the verdict.
            (words.nth(2)? == verdict).then_some(count)
        })
}

/// By how much a count has moved between two outputs.
fn moved(before: &str, after: &str, count: impl Fn(&str) -> Option<u64>) -> Option<u64> {
    count(after)?.checked_sub(count(before)?)
}

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

    const LISTED: &str = r#"
elements = { 10.200.1.63 . tcp . 9000 counter packets 11 bytes 660 comment "default/svc-clusterip:9000" : 7000:3,
elements = { 10.200.1.63 . tcp . 9000 . 0 counter packets 3 bytes 180 comment "default/svc-clusterip:9000" : 10.10.1.3 . 80,
   10.200.1.63 . tcp . 9000 . 1 counter packets 2 bytes 120 comment "default/svc-clusterip:9000" : 10.10.2.4 . 80, 10.200.1.63 . tcp . 9000 . 2 counter packets 6 bytes 360 comment "default/svc-clusterip:9000" : 10.10.3.3 . 80 }
  ip saddr @pod-cidrs counter packets 10 bytes 600 return comment "pod to ClusterIP: not masqueraded, the pod sees who asks"
  ct original ip daddr @cluster-ips counter packets 2 bytes 120 masquerade fully-random comment "to a ClusterIP, not from a pod"
"#;

    #[test]
    fn counters_are_read_from_what_nft_lists() {
        assert_eq!(service_count(LISTED), Some(11));
        assert_eq!(endpoint_count(LISTED), Some(11));
        assert_eq!(rule_count(LISTED, "return"), Some(10));
        assert_eq!(rule_count(LISTED, "masquerade"), Some(2));
        assert_eq!(service_count(""), None);
        assert_eq!(
            endpoint_count(&LISTED.replace("10.10.3.3", "10.9.3.3")),
            None
        );
    }

    #[test]
    fn a_counter_that_stands_still_or_moves_too_far_is_noticed() {
        let after = LISTED.replace("packets 11", "packets 21");
        assert_eq!(moved(LISTED, &after, service_count), Some(10));
        assert_eq!(moved(LISTED, LISTED, service_count), Some(0));
        assert_eq!(moved(LISTED, "", service_count), None);
        assert_eq!(moved(&after, LISTED, service_count), None);
    }

    #[test]
    fn counts_are_read_from_uniq() {
        let output = "     31 web-1 answers 10.10.0.6\n     69 web-3 answers 10.10.0.6\n";
        assert_eq!(counts(output), [31, 0, 69]);
    }
}
