//! The lab itself: machines that reach each other, and a host that stays as it was.

use podwire_lab::Lab;
use podwire_lab::topology::{Families, Topology};

#[test]
fn machines_reach_each_other_and_see_their_own_names_and_links() {
    let lab = Lab::for_test_without_agents(&Topology::walkthrough(Families::Dual)).unwrap();
    let worker = lab.machine("worker").unwrap();
    let seen = worker.place().output("hostname; ip -br addr; ls /sys/class/net; mount | grep -c overlay; ls -l /opt/cni/bin; cat /etc/hosts; ip netns; ps ax").unwrap();
    println!("{seen}");
    for host in ["172.18.0.1", "172.18.0.5", "172.18.0.9", "203.0.113.9", "fc00:f853:ccd:e793::5", "2001:db8:113::9", "worker2", "mypc"] {
        println!("{}", worker.place().output(&format!("ping -c1 -W1 {host}")).unwrap());
    }
}
