//! The lab itself: machines that reach each other, and a host that stays as it was.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use podwire_lab::topology::{Families, Topology};
use podwire_lab::{Lab, binaries, registry, wait};

#[test]
fn machines_reach_each_other_by_address_and_by_name_in_both_families() {
    let lab = Lab::for_test_without_agents(&Topology::walkthrough(Families::Dual)).unwrap();
    let worker = lab.machine("worker").unwrap();
    let targets = [
        "172.18.0.1",
        "172.18.0.5",
        "mypc",
        "203.0.113.9",
        "fc00:f853:ccd:e793::1",
        "fc00:f853:ccd:e793::5",
        "2001:db8:113::9",
        "worker2",
    ];
    for target in targets {
        worker
            .place()
            .output(&format!("ping -c1 -W2 {target}"))
            .unwrap();
    }
}

#[test]
fn a_machine_sees_its_own_name_links_and_files_and_nobody_elses() {
    let lab = Lab::for_test_without_agents(&Topology::pair(Families::V4)).unwrap();
    let [worker, other] = ["worker", "worker2"].map(|name| lab.machine(name).unwrap());
    let seen = |line: &str| worker.place().output(line).unwrap();
    assert_eq!(seen("hostname").trim(), "worker");
    assert_eq!(seen("ls /sys/class/net"), "eth0\nlo\n");
    assert!(seen("ip -4 addr show eth0").contains("172.18.0.2/16"));
    seen("echo mine > /etc/cni/net.d/note; echo mine > /var/note; echo mine > /run/note");
    for file in ["/etc/cni/net.d/note", "/var/note", "/run/note"] {
        assert!(
            !std::path::Path::new(file).exists(),
            "{file} is on the host"
        );
        assert_ne!(
            other.place().sh(&format!("test -e {file}")).unwrap().status,
            0,
            "{file}"
        );
    }
}

#[test]
fn an_unknown_machine_and_an_unknown_pod_are_named_in_the_error() {
    let lab = Lab::for_test_without_agents(&Topology::pair(Families::V4)).unwrap();
    let error = lab.machine("wroker").unwrap_err().to_string();
    assert_eq!(
        error,
        "the lab has no node named wroker; it has internet, mypc, worker, worker2"
    );
    let error = lab.pod("nobody").unwrap_err().to_string();
    assert_eq!(
        error,
        "no node runs a pod named nobody; `podwire-lab pods` lists them"
    );
}

#[test]
fn two_labs_with_the_same_addresses_run_side_by_side() {
    let topology = Topology::pair(Families::V4);
    let labs = [(); 2].map(|()| Lab::for_test_without_agents(&topology).unwrap());
    for lab in &labs {
        lab.machine("worker")
            .unwrap()
            .place()
            .output("ping -c1 -W2 worker2")
            .unwrap();
    }
    let [first, second] = labs;
    drop(first);
    second
        .machine("worker")
        .unwrap()
        .place()
        .output("ping -c1 -W2 worker2")
        .unwrap();
}

#[test]
fn a_lab_that_goes_out_of_scope_leaves_the_host_as_it_was() {
    on_a_host_of_its_own(|| {
        let before = host();
        let lab = Lab::for_test_without_agents(&Topology::walkthrough(Families::Dual)).unwrap();
        let name = lab.name().to_owned();
        assert!(registry::holder(&name).is_some());
        drop(lab);
        assert_eq!(host(), before);
        assert!(!registry::all().contains(&name));
    });
}

#[test]
fn a_lab_whose_process_is_killed_leaves_the_host_as_it_was() {
    on_a_host_of_its_own(|| {
        let before = host();
        let lab = Lab::for_test_without_agents(&Topology::walkthrough(Families::Dual)).unwrap();
        let name = lab.name().to_owned();
        let holder = registry::holder(&name).unwrap();
        holder.kill();
        wait::until("the end of the lab", Duration::from_secs(10), || {
            !holder.is_alive()
        })
        .unwrap();
        assert_eq!(host(), before);
        // What is recorded of it goes when the next lab is raised, whatever its name.
        let record = std::path::Path::new("/run/podwire-lab").join(&name);
        let _next = Lab::for_test_without_agents(&Topology::pair(Families::V4)).unwrap();
        assert!(!record.exists(), "a dead lab is still recorded");
    });
}

#[test]
fn a_lab_ends_when_the_command_that_was_raising_it_is_killed() {
    on_a_host_of_its_own(|| {
        let before = host();
        let name = format!("killed-{}", std::process::id());
        let mut up = Command::new(binaries::own().unwrap())
            .args(["up", "--lab", &name])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let raiser = i32::try_from(up.id()).unwrap();
        // The name passes from the command to the lab's own process when that is there.
        let holder = wait::until_some(Duration::from_secs(10), || {
            registry::holder(&name).filter(|process| process.pid != raiser)
        });
        up.kill().unwrap();
        up.wait().unwrap();
        let holder = holder.expect("the lab was never held by a process of its own");
        wait::until("the end of the lab", Duration::from_secs(10), || {
            !holder.is_alive()
        })
        .unwrap();
        assert_eq!(host(), before);
        assert!(
            !registry::all().contains(&name),
            "a dead lab is still listed"
        );
    });
}

/// Runs `work` on a thread with network and mount namespaces of its own, which are the host as
/// far as a lab can tell: other programs on the machine cannot change them meanwhile.
fn on_a_host_of_its_own(work: impl FnOnce() + Send) {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("tests need root");
            work();
        });
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

/// Everything about a host that a lab could change.
fn host() -> String {
    let commands = "ip -d link; ip addr; ip route show table all; nft list ruleset; \
                    cat /proc/thread-self/mountinfo; ls /run/netns /etc/cni /opt/cni /var/lib/cni";
    let output = Command::new("sh").args(["-c", commands]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}
