//! Which Node an address belongs to.

use super::*;

/// A further Node.
fn joins(world: &mut World, name: &str, internal: &str, cidr: &str, created: Option<u64>) {
    let Object::Node(one) = node(name, internal, cidr) else {
        unreachable!("it is a Node")
    };
    world.set(Object::Node(Node { created, ..one }));
}

/// The Node through which a packet to a pod goes.
#[track_caller]
fn through(world: &World, to: &str, gateway: &str) {
    let trace = world.walk("pod1", to);
    let wanted = Wanted::Gateway(ip(gateway));
    let to = ip(to);
    let check = Check::Route { to, wanted };
    assert_eq!(trace.hops[1].checks[0], check, "{trace}");
}

#[test]
fn of_two_nodes_with_one_pod_cidr_it_is_the_older_ones() {
    let mut world = World::new(&[]);
    joins(&mut world, "aaa", "172.18.0.8", "10.10.8.0/24", Some(90));
    joins(&mut world, "zzz", "172.18.0.9", "10.10.8.0/24", Some(10));
    through(&world, "10.10.8.2", "172.18.0.9");
    // One that does not say how old it is has it only if it has it already.
    joins(&mut world, "aaa", "172.18.0.8", "10.10.8.0/24", None);
    through(&world, "10.10.8.2", "172.18.0.9");
    let cidr: IpNetwork = "10.10.8.0/24".parse().unwrap();
    world.holders.insert(cidr, Arc::from("aaa"));
    through(&world, "10.10.8.2", "172.18.0.8");
}

#[test]
fn our_own_pod_cidr_is_ours_whoever_else_has_it() {
    let mut world = World::new(&[]);
    joins(&mut world, "aaa", "172.18.0.8", "10.10.2.0/24", Some(1));
    let trace = world.walk("pod1", "10.10.2.99:80");
    expect(&trace, End::Refused, &["no pod has 10.10.2.99"]);
}

#[test]
fn an_internal_ip_is_its_nodes_though_another_has_a_pod_cidr_around_it() {
    let mut world = World::new(&[]);
    joins(&mut world, "aaa", "172.18.0.8", "192.168.7.0/24", Some(1));
    joins(&mut world, "zzz", "192.168.7.3", "10.10.9.0/24", Some(1));
    let trace = world.walk("pod1", "192.168.7.3:80");
    expect(&trace, End::Leaves, &["node zzz itself"]);
}
