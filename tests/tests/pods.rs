//! Pods on different nodes reach each other, and packets arrive as they were sent.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::IpAddr;
use std::time::Duration;

use podwire_lab::Lab;
use podwire_lab::node::Node;
use podwire_lab::pod::{Pod, PodSpec};
use podwire_lab::topology::{Families, Topology};

/// A lab with `one` on worker and `two` on worker2, both serving.
fn two_pods(families: Families) -> (Lab, Pod, Pod) {
    let lab = Lab::for_test(&Topology::pair(families)).unwrap();
    let one = lab.run("worker", &PodSpec::web("one")).unwrap();
    let two = lab.run("worker2", &PodSpec::web("two")).unwrap();
    (lab, one, two)
}

/// What a web server answers to somebody, as its first line.
fn ask(from: &podwire_lab::place::Place, address: IpAddr, port: u16) -> String {
    let host = match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    };
    let answer = from
        .output(&format!("curl -sS -g --max-time 3 http://{host}:{port}/"))
        .unwrap();
    answer.trim().to_owned()
}

#[test]
fn pods_of_two_nodes_ping_each_other_at_once_in_both_families() {
    let (_lab, one, two) = two_pods(Families::Dual);
    for (from, to) in [(&one, &two), (&two, &one)] {
        assert_eq!(to.addresses().len(), 2);
        for address in to.addresses() {
            // The very first packet counts: nobody may wait for address detection.
            from.place()
                .output(&format!("ping -n -c1 -W1 {address}"))
                .unwrap();
        }
    }
}

#[test]
fn pods_of_an_ipv6_cluster_reach_each_other() {
    let (_lab, one, two) = two_pods(Families::V6);
    let [address] = two.addresses()[..] else {
        panic!("{:?}", two.addresses())
    };
    assert!(address.is_ipv6());
    one.place()
        .output(&format!("ping -n -c1 -W1 {address}"))
        .unwrap();
}

#[test]
fn a_server_sees_the_address_of_the_pod_that_asks() {
    let (lab, one, two) = two_pods(Families::Dual);
    let near = lab.run("worker2", &PodSpec::new("near")).unwrap();
    for ipv6 in [false, true] {
        for client in [&one, &near, &two] {
            let expected = format!("two answers {}", client.address(ipv6).unwrap());
            assert_eq!(
                ask(client.place(), two.address(ipv6).unwrap(), 80),
                expected
            );
        }
    }
}

#[test]
fn what_travels_between_nodes_is_what_the_pods_sent_in_both_directions() {
    let (lab, one, two) = two_pods(Families::V4);
    let (a, b) = (one.address(false).unwrap(), two.address(false).unwrap());
    // On the cable between the switch and worker2.
    let mut wire = lab
        .place()
        .capture("tcpdump -l -n -i worker2 -c 4 'icmp'", "listening on")
        .unwrap();
    one.place()
        .output(&format!("ping -n -c2 -i 0.2 -W2 {b}"))
        .unwrap();
    assert!(
        wire.until(Duration::from_secs(5), |lines| lines.len() == 4),
        "{:?}",
        wire.finish()
    );
    for (line, (from, to)) in wire.finish().iter().zip([(a, b), (b, a), (a, b), (b, a)]) {
        assert!(line.contains(&format!("{from} > {to}:")), "{line}");
    }
}

#[test]
fn nodes_and_pods_see_each_others_own_addresses() {
    let (lab, one, _two) = two_pods(Families::Dual);
    let other = lab.machine("worker2").unwrap();
    let _server = serve(&other);
    for ipv6 in [false, true] {
        let node = other.machine().address(ipv6).unwrap();
        let seen = ask(one.place(), node, 8000);
        assert_eq!(
            seen,
            format!("worker2 answers {}", one.address(ipv6).unwrap())
        );
        let seen = ask(other.place(), one.address(ipv6).unwrap(), 80);
        assert_eq!(seen, format!("one answers {node}"));
    }
}

#[test]
fn what_leaves_the_cluster_is_masqueraded_to_the_node() {
    let (lab, one, _two) = two_pods(Families::Dual);
    let node = lab.machine("worker").unwrap();
    for outside in ["internet", "mypc"] {
        let machine = lab.machine(outside).unwrap();
        let _server = serve(&machine);
        for ipv6 in [false, true] {
            let seen = ask(one.place(), machine.machine().address(ipv6).unwrap(), 8000);
            let expected = node.machine().address(ipv6).unwrap();
            assert_eq!(seen, format!("{outside} answers {expected}"));
        }
    }
}

#[test]
fn a_pod_cannot_send_with_an_address_that_is_not_its_own() {
    let (_lab, one, two) = two_pods(Families::V4);
    let (own, target) = (one.address(false).unwrap(), two.address(false).unwrap());
    let ping = |source: &str| {
        let line = format!("ping -n -c1 -W1 -I {source} {target}");
        one.place().sh(&line).unwrap().status == 0
    };
    let mut wire = two
        .place()
        .capture("tcpdump -l -n -i eth0 'icmp'", "listening on")
        .unwrap();
    one.place()
        .output("ip addr add 10.10.1.200/32 dev lo")
        .unwrap();
    // The own address goes first, so that the gateway is known: what is dropped afterwards is the
    // packet, and not the question for the gateway.
    assert!(ping(&own.to_string()));
    assert!(!ping("10.10.1.200"), "an answer came to a forged address");
    assert!(ping(&own.to_string()));
    assert!(wire.until(Duration::from_secs(5), |lines| lines.len() >= 4));
    let lines = wire.finish();
    assert!(
        !lines.iter().any(|line| line.contains("10.10.1.200")),
        "{lines:?}"
    );
}

#[test]
fn nothing_of_a_pod_is_left_on_its_node() {
    let lab = Lab::for_test(&Topology::pair(Families::Dual)).unwrap();
    let node = lab.machine("worker").unwrap();
    let before = kept(&node);
    let pod = node.run(&PodSpec::web("one")).unwrap();
    assert_ne!(kept(&node), before);
    node.remove(&pod).unwrap();
    assert_eq!(kept(&node), before);
}

#[test]
fn nothing_is_left_of_a_pod_whose_ports_cannot_be_opened_and_the_reason_is_said() {
    let lab = Lab::for_test(&Topology::pair(Families::V4)).unwrap();
    let node = lab.machine("worker").unwrap();
    let before = kept(&node);
    let mut spec = PodSpec::web("one");
    spec.servers.tcp = vec![80];
    let error = node.run(&spec).unwrap_err().to_string();
    assert!(
        error.starts_with("cannot start the servers in pod one: ") && error.contains("TCP port 80"),
        "{error}"
    );
    assert_eq!(kept(&node), before);
    assert!(lab.leftovers().unwrap().is_empty());
    node.run(&PodSpec::web("one")).unwrap();
}

/// What a node keeps for pods.
fn kept(node: &Node) -> String {
    let what = "ip -br addr; ip route; ip -6 route; ip netns; ip neigh show proxy; \
                find /run/podwire/attachments -type f 2>/dev/null; \
                ls /run/podwire/ipam/podwire 2>/dev/null | grep -E '^[0-9a-f]+[.:]'; true";
    node.place().output(what).unwrap()
}

/// A server on port 8000 of a machine that is no pod; it ends with the value.
fn serve(machine: &Node) -> podwire_lab::command::Capture {
    let program = podwire_lab::binaries::own().unwrap();
    let line = format!("{} serve --http 8000", program.display());
    machine
        .place()
        .capture(&line, podwire_lab::serve::SERVING)
        .unwrap()
}
