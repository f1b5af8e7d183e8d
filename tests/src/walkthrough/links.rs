//! Observations 1 to 6: links and routes.

use serde_json::Value;

use super::checks::{has_words, lines, lines_with, word_after};
use super::observation::{Check, Observation};
use super::stage::Outputs;
use super::step::Step;

pub(super) const OBSERVATIONS: [Observation; 6] = [
    Observation {
        number: 1,
        claim: "On a node there is one veth for each pod, and every one of them has the same \
                address.",
        reason: "A veth is a cable with two ends: one in the pod, one on the node. No bridge joins \
                 them, so every pod is a network of its own (point-to-point), and one address \
                 can stand at the node's end of all cables: it is the pods' gateway, the first \
                 address of the podCIDR.",
        steps: &[
            Step::Run {
                at: "control-plane",
                command: "ip netns list",
            },
            Step::Run {
                at: "control-plane",
                command: "ip -br -4 addr",
            },
            Step::Run {
                at: "control-plane",
                command: "ip -br link show type bridge",
            },
        ],
        checks: &[
            Check {
                says: "as many veths as pods (each pod is one network namespace)",
                holds: |seen| one_veth_for_each_pod(seen.of(0), seen.of(1)),
            },
            Check {
                says: "each has 10.10.0.1/32 and nothing else",
                holds: |seen| every_veth_has(seen.of(1), "10.10.0.1/32"),
            },
            Check {
                says: "there is no bridge",
                holds: |seen| lines(seen.of(2)) == 0,
            },
        ],
    },
    Observation {
        number: 2,
        claim: "The agent wrote the node's CNI configuration from the Node's podCIDR.",
        reason: "The container runtime reads the first file in this directory and calls the plugin \
                 it names for every pod. podwire does what ptp and host-local do together: make \
                 the cable, choose an address. It does not masquerade; the agent's rules \
                 do, and only for packets that leave the cluster.",
        steps: &[
            Step::Run {
                at: "worker2",
                command: "ls /etc/cni/net.d",
            },
            Step::Run {
                at: "worker2",
                command: "cat /etc/cni/net.d/00-podwire.conflist",
            },
        ],
        checks: &[
            Check {
                says: "one file, 00-podwire.conflist",
                holds: |seen| seen.of(0).trim() == "00-podwire.conflist",
            },
            Check {
                says: "type podwire, ipMasq false",
                holds: |seen| {
                    plugin(seen).is_some_and(|p| p["type"] == "podwire" && p["ipMasq"] == false)
                },
            },
            Check {
                says: "addresses by host-local from 10.10.2.0/24",
                holds: |seen| {
                    plugin(seen).is_some_and(|plugin| {
                        let ipam = &plugin["ipam"];
                        ipam["type"] == "host-local"
                            && ipam["ranges"][0][0]["subnet"] == "10.10.2.0/24"
                    })
                },
            },
        ],
    },
    Observation {
        number: 3,
        claim: "pod1 sends everything to its gateway, the node's end of its cable.",
        reason: "The pod's own address is a /32: it has no neighbours. Whatever it sends goes \
                 through its only cable to the node, which is its router.",
        steps: &[Step::Run {
            at: "pod1",
            command: "ip route get 10.10.1.2",
        }],
        checks: &[Check {
            says: "via 10.10.2.1 dev eth0 src 10.10.2.3",
            holds: |seen| has_words(seen.of(0), "via 10.10.2.1 dev eth0 src 10.10.2.3"),
        }],
    },
    Observation {
        number: 4,
        claim: "On pod1's node, the next hop is the other node itself.",
        reason: "The agent put a route to every other node's podCIDR here. All nodes are on one \
                 network, so packets go straight to the node that has the pod: nothing is packed \
                 into anything, there is no tunnel.",
        steps: &[Step::Run {
            at: "worker2",
            command: "ip route get 10.10.1.2",
        }],
        checks: &[Check {
            says: "via 172.18.0.2 (worker) dev eth0 src 172.18.0.4",
            holds: |seen| has_words(seen.of(0), "via 172.18.0.2 dev eth0 src 172.18.0.4"),
        }],
    },
    Observation {
        number: 5,
        claim: "On pod2's node, the way ends in pod2's cable.",
        reason: "The plugin put one host route here for each pod: this address, this cable.",
        steps: &[Step::Run {
            at: "worker",
            command: "ip route get 10.10.1.2",
        }],
        checks: &[Check {
            says: "dev veth... src 10.10.1.1, with no next hop",
            holds: |seen| ends_in_a_veth(seen.of(0)),
        }],
    },
    Observation {
        number: 6,
        claim: "ping from pod1 reaches pod2, and pod2 sees pod1's own address.",
        reason: "The node asks for pod2 on the cable with the gateway's address (ARP), and then \
                 hands over packets that were not changed on the way. What pod2 sees is what \
                 pod1 sent: the rule of Kubernetes networking that pods reach each other without \
                 address translation.",
        steps: &[
            Step::Run {
                at: "worker",
                command: "ip neigh flush dev {veth:pod2}",
            },
            Step::Watch {
                at: "pod2",
                command: "tcpdump -l -n -i eth0 -c 6 'arp or icmp'",
            },
            Step::Run {
                at: "pod1",
                command: "ping -c 2 -i 0.2 -W 2 10.10.1.2",
            },
        ],
        checks: &[
            Check {
                says: "2 packets, 0% loss",
                holds: |seen| nothing_lost(seen.of(2)),
            },
            Check {
                says: "ARP: who-has 10.10.1.2 tell 10.10.1.1, the node's end of the cable",
                holds: |seen| {
                    has_words(seen.of(1), "ARP, Request who-has 10.10.1.2 tell 10.10.1.1,")
                },
            },
            Check {
                says: "ICMP comes from 10.10.2.3, which is pod1",
                holds: |seen| only_from(seen.of(1), "10.10.2.3", "10.10.1.2"),
            },
        ],
    },
];

fn plugin(seen: &Outputs) -> Option<Value> {
    let config: Value = serde_json::from_str(seen.of(1)).ok()?;
    Some(config["plugins"][0].clone())
}

fn one_veth_for_each_pod(namespaces: &str, addresses: &str) -> bool {
    let pods = lines(namespaces);
    pods > 0 && pods == lines_with(addresses, "veth")
}

fn every_veth_has(addresses: &str, address: &str) -> bool {
    addresses
        .lines()
        .filter(|line| line.starts_with("veth"))
        .all(|line| line.split_whitespace().skip(2).eq([address]))
}

fn ends_in_a_veth(route: &str) -> bool {
    word_after(route, "dev").is_some_and(|link| {
        link.starts_with("veth") && has_words(route, &format!("10.10.1.2 dev {link} src 10.10.1.1"))
    })
}

fn nothing_lost(ping: &str) -> bool {
    ping.contains("2 packets transmitted, 2 received, 0% packet loss")
}

/// Whether there are ICMP requests, and all of them go from `from` to `to`.
fn only_from(capture: &str, from: &str, to: &str) -> bool {
    let mut requests = capture
        .lines()
        .filter(|line| line.contains("ICMP echo request"))
        .peekable();
    requests.peek().is_some() && requests.all(|line| has_words(line, &format!("{from} > {to}:")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESSES: &str = "lo               UNKNOWN        127.0.0.1/8 \n\
                             eth0@if14        UP             172.18.0.5/16 \n\
                             veth1@if3        UP             10.10.0.1/32 \n\
                             veth2@if3        UP             10.10.0.1/32 \n";

    #[test]
    fn a_missing_veth_or_a_second_address_is_noticed() {
        assert!(one_veth_for_each_pod("a (id: 0)\nb (id: 1)\n", ADDRESSES));
        assert!(!one_veth_for_each_pod("a\nb\nc\n", ADDRESSES));
        assert!(!one_veth_for_each_pod("", ""));
        assert!(every_veth_has(ADDRESSES, "10.10.0.1/32"));
        assert!(!every_veth_has(ADDRESSES, "10.10.0.1/24"));
        let two = ADDRESSES.replace("10.10.0.1/32 \n", "10.10.0.1/32 10.0.0.9/32\n");
        assert!(!every_veth_has(&two, "10.10.0.1/32"));
    }

    #[test]
    fn a_way_over_another_node_does_not_end_in_a_veth() {
        assert!(ends_in_a_veth(
            "10.10.1.2 dev vethab src 10.10.1.1 uid 0 \n    cache \n"
        ));
        assert!(!ends_in_a_veth(
            "10.10.1.2 via 172.18.0.2 dev eth0 src 172.18.0.4 uid 0"
        ));
        assert!(!ends_in_a_veth("10.10.1.2 dev vethab src 172.18.0.2 uid 0"));
    }

    #[test]
    fn a_changed_source_address_is_noticed() {
        let line = "00:00:00.1 IP 10.10.2.3 > 10.10.1.2: ICMP echo request, id 1, seq 1, length 64";
        assert!(only_from(line, "10.10.2.3", "10.10.1.2"));
        assert!(!only_from(
            &line.replace("10.10.2.3", "172.18.0.4"),
            "10.10.2.3",
            "10.10.1.2"
        ));
        assert!(!only_from("", "10.10.2.3", "10.10.1.2"));
    }
}
