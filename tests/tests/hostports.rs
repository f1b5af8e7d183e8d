//! hostPorts from all sides: outside, other nodes, pods near and far, the pod itself, the node
//! itself, and 127.0.0.1.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use podwire_lab::place::Place;
use podwire_lab::pod::{Pod, PodSpec, Servers};
use podwire_lab::runtime::PortMapping;
use podwire_lab::topology::{Families, Topology};
use podwire_lab::{Lab, binaries, wait};

/// A lab with a pod `web` on worker whose ports 80/tcp and 53/udp are ports of the node.
fn lab_with_ports(families: Families) -> (Lab, Pod) {
    let lab = Lab::for_test(&Topology::pair(families)).unwrap();
    let spec = PodSpec {
        servers: Servers {
            http: vec![80],
            udp: vec![53],
            ..Servers::default()
        },
        ports: vec![
            PortMapping::new(8080, 80, "tcp"),
            PortMapping::new(5353, 53, "udp"),
        ],
        ..PodSpec::new("web")
    };
    let pod = lab.run("worker", &spec).unwrap();
    (lab, pod)
}

/// What `http://TARGET/` answers, if anybody does.
fn ask(from: &Place, target: &str) -> Option<String> {
    let ran = from
        .sh(&format!("curl -sS -g --max-time 2 http://{target}/"))
        .unwrap();
    (ran.status == 0).then(|| ran.stdout.trim().to_owned())
}

#[test]
fn a_host_port_answers_from_every_side_and_only_hairpin_and_loopback_are_masqueraded() {
    let (lab, web) = lab_with_ports(Families::Dual);
    let near = lab.run("worker", &PodSpec::new("near")).unwrap();
    let far = lab.run("worker2", &PodSpec::new("far")).unwrap();
    let worker = lab.machine("worker").unwrap();
    let others = ["mypc", "worker2"].map(|name| lab.machine(name).unwrap());
    for ipv6 in [false, true] {
        let node = worker.machine().address(ipv6).unwrap();
        let target = if ipv6 {
            format!("[{node}]:8080")
        } else {
            format!("{node}:8080")
        };
        for other in &others {
            let seen = ask(other.place(), &target).unwrap();
            let own = other.machine().address(ipv6).unwrap();
            assert_eq!(seen, format!("web answers {own}"), "from {}", other.name());
        }
        for pod in [&near, &far] {
            let seen = ask(pod.place(), &target).unwrap();
            let own = pod.address(ipv6).unwrap();
            assert_eq!(seen, format!("web answers {own}"), "from {}", pod.name());
        }
        assert!(
            ask(worker.place(), &target).is_some(),
            "from the node to {target}"
        );
        let seen = ask(web.place(), &target).expect("the pod reaches itself through its hostPort");
        assert_ne!(seen, format!("web answers {}", web.address(ipv6).unwrap()));
    }
    assert!(
        ask(worker.place(), "127.0.0.1:8080").is_some(),
        "from the node to its loopback"
    );
}

#[test]
fn a_udp_host_port_answers_and_moves_to_the_next_pod_with_it() {
    let (lab, _web) = lab_with_ports(Families::V4);
    let mypc = lab.machine("mypc").unwrap();
    let load = format!(
        "{} load --udp 172.18.0.2:5353 --count 3 --patience 500",
        binaries::own().unwrap().display()
    );
    let answers = |line: &str| mypc.place().sh(line).unwrap().stdout;
    assert!(
        answers(&load).contains("\"answers\":{\"web\":3}"),
        "{}",
        answers(&load)
    );
    // One flow that goes on while its pod is replaced: the same source port all the time.
    let flow = "for i in 1 2 3 4 5; do echo hello; done | \
                timeout 2 bash -c 'exec 3<>/dev/udp/172.18.0.2/5353; cat >&3; head -n1 <&3'";
    assert!(
        answers(flow).starts_with("web answers"),
        "{}",
        answers(flow)
    );
    lab.remove("web").unwrap();
    assert!(
        answers(&load).contains("\"answers\":{}"),
        "the port of a pod that is gone answers"
    );
    let spec = PodSpec {
        servers: Servers {
            udp: vec![53],
            ..Servers::default()
        },
        ports: vec![PortMapping::new(5353, 53, "udp")],
        ..PodSpec::new("next")
    };
    lab.run("worker", &spec).unwrap();
    assert!(
        answers(&load).contains("\"answers\":{\"next\":3}"),
        "{}",
        answers(&load)
    );
}

#[test]
fn a_host_port_with_a_host_ip_listens_there_and_nowhere_else() {
    let lab = Lab::for_test(&Topology::pair(Families::V4)).unwrap();
    let worker = lab.machine("worker").unwrap();
    worker
        .place()
        .output("ip addr add 172.18.0.22/16 dev eth0")
        .unwrap();
    let bound = PortMapping {
        host_ip: "172.18.0.22".into(),
        ..PortMapping::new(8080, 80, "tcp")
    };
    lab.run(
        "worker",
        &PodSpec {
            ports: vec![bound],
            ..PodSpec::web("web")
        },
    )
    .unwrap();
    let mypc = lab.machine("mypc").unwrap();
    assert_eq!(
        ask(mypc.place(), "172.18.0.22:8080").unwrap(),
        "web answers 172.18.0.6"
    );
    assert_eq!(ask(mypc.place(), "172.18.0.2:8080"), None);
}

#[test]
fn a_port_is_closed_when_its_pod_is_gone() {
    let (lab, _web) = lab_with_ports(Families::V4);
    let mypc = lab.machine("mypc").unwrap();
    assert!(ask(mypc.place(), "172.18.0.2:8080").is_some());
    lab.remove("web").unwrap();
    assert_eq!(ask(mypc.place(), "172.18.0.2:8080"), None);
    let rules = lab
        .machine("worker")
        .unwrap()
        .place()
        .output("nft list ruleset")
        .unwrap();
    assert!(!rules.contains("8080"), "{rules}");
}

#[test]
fn host_ports_are_back_within_a_second_after_somebody_flushed_all_rules() {
    let (lab, _web) = lab_with_ports(Families::V4);
    let [mypc, worker] = ["mypc", "worker"].map(|name| lab.machine(name).unwrap());
    assert!(ask(mypc.place(), "172.18.0.2:8080").is_some());
    worker.place().output("nft flush ruleset").unwrap();
    wait::until(
        "the hostPort in the rules again",
        Duration::from_secs(1),
        || {
            worker
                .place()
                .output("nft list ruleset")
                .unwrap()
                .contains("8080")
        },
    )
    .unwrap_or_else(|error| panic!("{error}\n{}", worker.agent_log()));
    assert_eq!(
        ask(mypc.place(), "172.18.0.2:8080").unwrap(),
        "web answers 172.18.0.6"
    );
}
