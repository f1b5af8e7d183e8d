//! Neighbours that mean harm: a pod, and a machine of the node network. With the real agent.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;

use std::time::Duration;

use cluster::*;
use podwire_lab::node::Node;
use podwire_lab::place::Place;
use podwire_lab::pod::{Pod, PodSpec};
use podwire_lab::topology::{Families, Topology};
use podwire_lab::{Lab, wait};
use serde_json::json;

#[test]
fn idle_connections_of_a_pod_keep_no_probe_and_no_balancer_from_its_answer() {
    let cluster = Cluster::pair(Families::V4);
    let attacker = cluster.client("worker", "attacker");
    let other = cluster.client("worker", "other");
    let spec = json!({
        "type": "LoadBalancer", "clusterIP": "10.200.1.5", "externalTrafficPolicy": "Local",
        "ports": [{"port": 80, "nodePort": 31005}], "healthCheckNodePort": 32005,
    });
    cluster.apply(&[service("checked", spec)]);
    let node = cluster.node("worker2");
    for port in [10256, 32005] {
        // Opened again as soon as it is closed, for as long as the test lasts.
        let hold = format!(
            "for i in $(seq 200); do (while :; do exec 3<>/dev/tcp/172.18.0.4/{port} && \
             cat <&3; exec 3>&-; sleep 0.2; done) & done; wait"
        );
        attacker
            .place()
            .output(&format!(
                "setsid timeout -k 1 60 bash -c '{hold}' >/dev/null 2>&1 &"
            ))
            .unwrap();
        let count = format!("ss -Htn state established sport = {port} | wc -l");
        wait::until("the attack", Duration::from_secs(20), || {
            let held: usize = node.place().output(&count).unwrap().trim().parse().unwrap();
            held >= 8
        })
        .unwrap();
    }
    let get = |from: &Place, at: &str| {
        let line = format!("curl -sS --max-time 2 -o /dev/null -w '%{{http_code}}' http://{at}");
        from.sh(&line).unwrap().stdout
    };
    for _ in 0..6 {
        for path in ["/livez", "/healthz"] {
            for address in ["127.0.0.1", "172.18.0.4"] {
                let code = get(node.place(), &format!("{address}:10256{path}"));
                assert_eq!(code, "200", "{address}{path}");
            }
        }
        assert_eq!(get(node.place(), "127.0.0.1:10249/metrics"), "200");
        assert_eq!(get(other.place(), "172.18.0.4:10256/livez"), "200");
        assert_eq!(
            get(other.place(), "172.18.0.4:32005/"),
            "503",
            "no endpoint"
        );
    }
}

/// Counts on a node what comes in on a link with such a source (`before` anything of ours), and
/// what gets past (`reached`: a socket of the node, or a pod).
fn count_sources(node: &Node, name: &str, link: &str, source: &str) {
    let family = if source.contains(':') { "ip6" } else { "ip" };
    let rule = format!("iifname {link} {family} saddr {source} counter");
    let mut lines = vec![format!("add table inet {name}")];
    for (chain, hook, priority) in [
        ("before", "prerouting", -400),
        ("here", "input", 300),
        ("onward", "forward", 300),
    ] {
        lines.push(format!(
            "add chain inet {name} {chain} {{ type filter hook {hook} priority {priority}; }}"
        ));
        lines.push(format!("add rule inet {name} {chain} {rule}"));
    }
    let script = lines.join("\n");
    node.place()
        .output(&format!("nft -f - <<'END'\n{script}\nEND"))
        .unwrap();
}

/// How many packets came in, and how many got past.
fn counted_sources(node: &Node, name: &str) -> (u64, u64) {
    let count = |chain: &str| {
        let line = format!("nft list chain inet {name} {chain}");
        packets(&node.place().output(&line).unwrap()).unwrap()
    };
    (count("before"), count("here") + count("onward"))
}

#[test]
fn datagrams_from_loopback_sources_reach_nothing_before_and_after_services_exist() {
    let cluster = Lab::for_test(&Topology::pair(Families::V4)).unwrap();
    let node = cluster.machine("worker").unwrap();
    let mypc = cluster.place_of("mypc").unwrap();
    // As another program may have left it.
    node.place()
        .output("sysctl -qw net.ipv4.conf.all.route_localnet=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.eth0.rp_filter=0")
        .unwrap();
    mypc.output(
        "sysctl -qw net.ipv4.conf.all.route_localnet=1; \
         ip route del local 127.0.0.0/8 dev lo table local; \
         ip addr add 127.0.0.9/32 dev eth0; \
         ip route add 172.18.0.2/32 dev eth0 src 127.0.0.9",
    )
    .unwrap();
    count_sources(&node, "loopback", "eth0", "127.0.0.0/8");
    let send = "bash -c 'for i in 1 2 3; do echo hello >/dev/udp/172.18.0.2/10256; done'";
    for state in ["without Services", "with a Service"] {
        let (came, _) = counted_sources(&node, "loopback");
        mypc.output(send).unwrap();
        let (now, past) = counted_sources(&node, "loopback");
        assert_eq!(now, came + 3, "{state}: the attack did not arrive");
        assert_eq!(past, 0, "{state}");
        let ports = json!([{"port": 80, "nodePort": 31000}]);
        let spec = json!({"type": "NodePort", "clusterIP": "10.200.1.9", "ports": ports});
        cluster
            .write_manifest("service-web.json", &service("web", spec))
            .unwrap();
        wait::until("the table", Duration::from_secs(20), || {
            let listed = node.place().sh("nft list table ip podwire-services");
            listed.is_ok_and(|ran| ran.status == 0)
        })
        .unwrap();
    }
    // Each of the two tables guards by itself, so that one may be switched off.
    for table in ["inet podwire-masquerade", "ip podwire-services"] {
        let rules = node.place().output(&format!("nft list table {table}"));
        let rules = rules.unwrap();
        let guard = "ip saddr 127.0.0.0/8 iifname != \"lo\"";
        assert!(rules.contains(guard), "{table} has no {guard}: {rules}");
    }
}

/// Sends a datagram from a source that no kernel would send from, by a socket that takes whole packets.
fn send_from(place: &Place, source: &str, target: &str) {
    let script = format!(
        "perl -e 'use Socket qw(:all); \
         my ($from, $to) = map {{ inet_pton(AF_INET6, $_) }} qw({source} {target}); \
         my $udp = pack(q(nnnn), 9, 10256, 8, 0); \
         my $sum = unpack(q(%32n*), $from . $to . pack(q(NN), 8, 17) . $udp); \
         $sum = ($sum & 0xffff) + ($sum >> 16); $sum = ($sum & 0xffff) + ($sum >> 16); \
         substr($udp, 6, 2) = pack(q(n), ~$sum & 0xffff); \
         my $packet = pack(q(NnCC), 6 << 28, 8, 17, 64) . $from . $to . $udp; \
         socket(S, PF_INET6, SOCK_RAW, 255) or die $!; \
         my ($link) = `ip -o link show eth0` =~ /^(\\d+)/; \
         send(S, $packet, 0, pack_sockaddr_in6(0, $to, $link)) or die $!;'"
    );
    place.output(&script).unwrap();
}

#[test]
fn ipv4_sources_in_packets_of_ipv6_reach_neither_the_node_nor_its_pods() {
    let lab = Lab::for_test(&Topology::pair(Families::Dual)).unwrap();
    let victim = lab.run("worker", &PodSpec::new("victim")).unwrap();
    let node = lab.machine("worker").unwrap();
    let mypc = lab.place_of("mypc").unwrap();
    let own = node.machine().address(true).unwrap();
    let pod = victim.addresses()[1];
    mypc.output(&format!("ip -6 route replace {pod} via {own}"))
        .unwrap();
    count_sources(&node, "mapped", "eth0", "::ffff:0:0/96");
    count_sources(&node, "real", "eth0", "fc00::77");
    let list = "ip -6 -o addr show dev eth0 scope link | awk \"{print \\$4}\"";
    let link_local = node.place().output(list).unwrap();
    let link_local = link_local.trim().split('/').next().unwrap();
    let targets = [own.to_string(), pod.to_string(), link_local.to_owned()];
    for target in &targets {
        // Localhost, the node, a pod of it and one of another node.
        for source in ["127.0.0.1", "172.18.0.2", "10.10.1.2", "10.10.2.2"] {
            send_from(&mypc, &format!("::ffff:{source}"), target);
        }
        send_from(&mypc, "fc00::77", target);
    }
    let (came, past) = counted_sources(&node, "mapped");
    assert_eq!(came, 12, "the attack did not arrive");
    assert_eq!(past, 0);
    let (came, past) = counted_sources(&node, "real");
    assert_eq!((came, past), (3, 3), "what is sent like that is delivered");
    let named = || {
        let drops = node.place().output("podwire-agent drops").unwrap();
        drops.contains("IPv4 in a packet of IPv6") && drops.contains("came through eth0")
    };
    wait::until("the drops", Duration::from_secs(20), named).unwrap();
}

#[test]
fn nothing_leaves_the_node_from_or_to_loopback_addresses_and_node_ports_answer_there() {
    let cluster = Cluster::pair(Families::V4);
    let web = cluster.web("worker2", "web");
    let ports = json!([{"port": 80, "nodePort": 31007}]);
    let spec = json!({"type": "NodePort", "clusterIP": "10.200.1.7", "ports": ports});
    cluster.apply(&[service("web", spec), http("web", &[&web])]);
    let node = cluster.node("worker");
    let script = "sysctl -qw net.ipv4.conf.all.route_localnet=1
        nft -f - <<'END'
        add table ip leaving
        add chain ip leaving tried { type filter hook output priority 300; }
        add rule ip leaving tried oifname eth0 ip saddr 127.0.0.0/8 icmp type echo-request counter
        add rule ip leaving tried oifname eth0 ip daddr 127.0.0.0/8 icmp type echo-request counter
        add chain ip leaving left { type filter hook postrouting priority 300; }
        add rule ip leaving left oifname eth0 ip saddr 127.0.0.0/8 counter
        add rule ip leaving left oifname eth0 ip daddr 127.0.0.0/8 counter
END
        ping -n -c2 -i 0.2 -W1 -I 127.0.0.1 172.18.0.4 || true
        ping -n -c2 -i 0.2 -W1 -I eth0 127.0.0.9 || true";
    node.place().output(script).unwrap();
    let counts = |chain: &str| -> Vec<u64> {
        let rules = format!("nft list chain ip leaving {chain}");
        let rules = node.place().output(&rules).unwrap();
        rules.lines().filter_map(packets).collect()
    };
    assert_eq!(counts("tried"), [2, 2], "the attack was not made");
    assert_eq!(counts("left"), [0, 0]);
    assert!(ask(node.place(), "127.0.0.1:31007").is_ok());
    assert_eq!(counts("left"), [0, 0], "a node port gives another source");
}

#[test]
fn a_source_of_the_own_pods_that_comes_from_the_node_network_is_dropped() {
    let lab = Lab::for_test(&Topology::pair(Families::Dual)).unwrap();
    let victim = lab.run("worker", &PodSpec::new("victim")).unwrap();
    let friend = lab.run("worker", &PodSpec::new("friend")).unwrap();
    let node = lab.machine("worker").unwrap();
    let mypc = lab.place_of("mypc").unwrap();
    let names = ["forged-v4", "forged-v6"];
    count_sources(&node, names[0], "eth0", "10.10.1.0/24");
    count_sources(&node, names[1], "eth0", "fd00:10:10:1::/64");
    for (name, address) in names.iter().zip(victim.addresses()) {
        // The address of a real pod of this node, and one that no pod has.
        let (family, forged) = if address.is_ipv4() {
            (
                "-4",
                ["10.10.1.77".to_owned(), friend.addresses()[0].to_string()],
            )
        } else {
            (
                "-6",
                [
                    "fd00:10:10:1::77".to_owned(),
                    friend.addresses()[1].to_string(),
                ],
            )
        };
        let gateway = node.machine().address(address.is_ipv6()).unwrap();
        for source in &forged {
            mypc.output(&format!(
                "ip {family} addr add {source} dev lo nodad 2>/dev/null || \
                 ip {family} addr add {source} dev lo; \
                 ip {family} route replace {address} via {gateway}; \
                 ping {family} -n -c1 -W1 -I {source} {address} || true"
            ))
            .unwrap();
        }
        let (came, past) = counted_sources(&node, name);
        assert!(came >= 2, "the attack did not arrive: {came}");
        assert_eq!(past, 0, "{name}");
        // Pods of this node reach each other as before, and so does the node.
        for place in [friend.place(), node.place()] {
            place
                .output(&format!("ping {family} -n -c1 -W2 {address}"))
                .unwrap();
        }
    }
}

#[test]
fn a_source_of_the_node_itself_that_comes_from_the_node_network_is_dropped() {
    let lab = Lab::for_test(&Topology::pair(Families::Dual)).unwrap();
    let victim = lab.run("worker", &PodSpec::new("victim")).unwrap();
    let node = lab.machine("worker").unwrap();
    let mypc = lab.place_of("mypc").unwrap();
    let own = node.machine().address(true).unwrap();
    count_sources(&node, "own", "eth0", &own.to_string());
    let pod = victim.addresses()[1];
    mypc.output(&format!(
        "ip -6 route replace {pod} via {own}; ip -6 addr add {own} dev lo nodad; \
         ip -6 rule add prio 1 lookup 100; ip -6 rule del prio 0; ip -6 rule add prio 2 lookup local; \
         ip -6 route add {own} dev eth0 table 100"
    ))
    .unwrap();
    let ping = format!("-6 -n -c1 -W1 -I {own}");
    for target in [pod, own] {
        let send = format!(
            "ping {ping} {target} || true; bash -c 'echo hello >/dev/udp/{target}/10256' || true; \
             curl -s --max-time 1 --interface {own} http://[{target}]:10256/ || true"
        );
        mypc.output(&send).unwrap();
    }
    let (came, past) = counted_sources(&node, "own");
    assert!(came >= 5, "the attack did not arrive: {came}");
    assert_eq!(past, 0);
    let named = || {
        let drops = node.place().output("podwire-agent drops").unwrap();
        drops.contains(&format!(
            "{own} is this node's own, and it came through eth0"
        ))
    };
    wait::until("the drops", Duration::from_secs(20), named).unwrap();
    mypc.output(&format!("ip -6 addr del {own} dev lo"))
        .unwrap();
    // What the node sends to a group on its own link comes back to it through that link.
    let send = format!("ping {ping} ff02::1%eth0 || true");
    node.place().output(&send).unwrap();
    let (now, past) = counted_sources(&node, "own");
    assert!(now > came && past == now - came, "{now} {came} {past}");
    // And to itself it talks as before.
    node.place()
        .output(&format!("ping {ping} {own} && ping {ping} {pod}"))
        .unwrap();
}

#[test]
fn external_ips_that_belong_to_others_are_refused_and_named() {
    let cluster = Cluster::pair(Families::V4);
    let web = cluster.web("worker", "web");
    let client = cluster.client("worker", "client");
    let ports = json!([{"port": 8765, "targetPort": 80}]);
    let dns = json!({"clusterIP": "10.200.1.53", "ports": [{"port": 53}]});
    let spec = json!({
        "clusterIP": "10.200.1.66", "ports": ports,
        "externalIPs": ["172.18.0.4", "10.200.1.53", "169.254.169.254", "10.10.2.77", "192.0.2.66"],
    });
    cluster.apply(&[
        service("dns", dns),
        service("thief", spec),
        http("thief", &[&web]),
    ]);
    let served = |address: &str| ask(client.place(), &format!("{address}:8765")).is_ok();
    assert!(served("10.200.1.66") && served("192.0.2.66"));
    for address in ["172.18.0.4", "10.200.1.53", "169.254.169.254", "10.10.2.77"] {
        assert!(!served(address), "{address}");
    }
    let log = cluster.node("worker").agent_log();
    for words in [
        "`172.18.0.4` is left out: it is the address of Node worker2",
        "port 8765/tcp of 10.200.1.53 is left out: the address is the ClusterIP of Service default/dns",
        "`169.254.169.254` is left out: it is a link-local address",
        "`10.10.2.77` is left out: it lies in the podCIDR 10.10.2.0/24 of Node worker2",
    ] {
        assert!(log.contains(words), "{words}: {log}");
    }
    // What the other gives up can be had, and a Node that comes takes its address along.
    cluster.delete(&[service("dns", json!({"clusterIP": "10.200.1.53"}))]);
    assert!(served("10.200.1.53"));
    let mut node = podwire_lab::manifests::node(cluster.node("worker2").machine());
    node["metadata"]["name"] = json!("newcomer");
    node["spec"]["podCIDR"] = json!("10.10.99.0/24");
    node["spec"]["podCIDRs"] = json!(["10.10.99.0/24"]);
    node["status"]["addresses"] = json!([{"type": "InternalIP", "address": "192.0.2.66"}]);
    cluster.apply(&[node]);
    assert!(!served("192.0.2.66"));
}

/// The link-local address of a link.
fn link_local(place: &Place, link: &str) -> String {
    let line = format!("ip -6 -o addr show dev {link} scope link | awk '{{print $4}}'");
    let found = place.output(&line).unwrap();
    found.trim().split('/').next().unwrap().to_owned()
}

/// Asks for the gateway from many addresses that the pod gives itself, each by a packet of its own.
fn ask_from_many(pod: &Pod, gateway: &str, source: &str, count: u32) {
    let (family, width, flag, scope) = if gateway.contains(':') {
        ("-6", 64, "nodad", "%eth0")
    } else {
        ("-4", 32, "", "")
    };
    let script = format!(
        "seq {count} | sed 's|.*|addr add {source}&/{width} dev eth0 {flag}|' | \
         ip {family} -batch -; for i in $(seq {count}); do ip neigh flush dev eth0; \
         ping {family} -n -c1 -W1 -I {source}$i{scope} {gateway}{scope} >/dev/null 2>&1 & \
         done; wait"
    );
    pod.place().output(&script).unwrap();
}

#[test]
fn forged_neighbours_on_a_pods_link_become_no_entries_of_the_node_in_either_family() {
    let lab = Lab::for_test(&Topology::pair(Families::Dual)).unwrap();
    let pod = lab.run("worker", &PodSpec::new("attacker")).unwrap();
    let node = lab.machine("worker").unwrap();
    let link = pod.host_link();
    let (gateway, own) = (
        link_local(node.place(), &link),
        link_local(pod.place(), "eth0"),
    );
    let both_ways = || {
        for (from, to) in [
            (pod.place(), format!("-I {own}%eth0 {gateway}%eth0")),
            (node.place(), format!("{own}%{link}")),
        ] {
            from.output(&format!("ping -6 -n -c1 -W2 {to}")).unwrap();
        }
    };
    both_ways();
    count_sources(&node, "forged", &link, "fe80::dead:0:0:0/80");
    let arp = "nft 'add table arp forged; add chain arp forged in { type filter hook input priority \
               -400; }; add rule arp forged in arp operation request arp saddr ip 192.0.2.0/24 counter'";
    node.place().output(arp).unwrap();
    ask_from_many(&pod, &gateway, "fe80::dead:0:0:", 300);
    ask_from_many(&pod, "10.10.1.1", "192.0.2.", 250);
    let (came, past) = counted_sources(&node, "forged");
    // Of questions for one neighbour that come close together the pod sends only the first.
    assert!(came >= 100, "the attack did not arrive: {came}");
    assert_eq!(past, 0);
    let asked = node.place().output("nft list chain arp forged in").unwrap();
    let asked = packets(&asked).unwrap();
    assert!(asked >= 50, "the attack did not arrive: {asked}");
    let entries = format!("ip neigh show dev {link}");
    let entries = node.place().output(&entries).unwrap();
    let forged = |line: &str| line.starts_with("192.0.2.") || line.contains("dead");
    assert!(!entries.lines().any(forged), "{entries}");
    both_ways();
}

#[test]
fn what_has_no_source_yet_leaves_a_pod_for_all_on_the_link_alone() {
    let lab = Lab::for_test(&Topology::pair(Families::V6)).unwrap();
    let pod = lab.run("worker", &PodSpec::new("attacker")).unwrap();
    let node = lab.machine("worker").unwrap();
    let link = pod.host_link();
    count_sources(&node, "nowhere", &link, "::");
    for target in ["fd00:10:10:1::1", "fc00:f853:ccd:e793::2", "ff05::2"] {
        send_from(pod.place(), "::", target);
    }
    assert_eq!(counted_sources(&node, "nowhere"), (3, 0));
    // Whoever looks whether an address is free has none yet.
    send_from(pod.place(), "::", "ff02::2");
    assert_eq!(counted_sources(&node, "nowhere"), (4, 1));
}

#[test]
fn a_pod_at_its_limit_opens_no_more_connections_and_leaves_the_others_theirs() {
    let lab = Lab::for_test(&Topology::pair(Families::Dual)).unwrap();
    let attacker = lab.run("worker", &PodSpec::new("attacker")).unwrap();
    let other = lab.run("worker", &PodSpec::web("other")).unwrap();
    let node = lab.machine("worker").unwrap();
    let mypc = lab.machine("mypc").unwrap();
    node.stop_agent("TERM").unwrap();
    node.start_agent_with(&["--pod-connections=20"]).unwrap();
    wait::until("the limit", Duration::from_secs(10), || {
        let listed = node.place().sh("nft list table inet podwire-connections");
        listed.is_ok_and(|ran| ran.status == 0)
    })
    .unwrap();
    let script = "for i in $(seq 15); do echo > /dev/udp/ADDRESS/$((9000 + i)); done 2>/dev/null";
    for ipv6 in [false, true] {
        let address = mypc.machine().address(ipv6).unwrap().to_string();
        let script = script.replace("ADDRESS", &address);
        let line = format!("bash -c '{script}' || true");
        attacker.place().output(&line).unwrap();
    }
    let tracked = || -> usize {
        let pods = attacker.addresses().into_iter();
        let lines = pods.map(|address| format!("conntrack -L -s {address} 2>/dev/null"));
        let all = node.place().output(&lines.collect::<Vec<_>>().join("; "));
        all.unwrap().lines().count()
    };
    assert_eq!(tracked(), 20);
    // Another pod has a limit of its own, and what is opened to the one at its limit is not its.
    for address in &mypc.machine().addresses {
        let line = format!("ping -n -c1 -W2 {}", address.ip());
        other.place().output(&line).unwrap();
    }
    for address in attacker.addresses() {
        other
            .place()
            .output(&format!("ping -n -c1 -W2 {address}"))
            .unwrap();
    }
    // What is over makes room.
    node.place()
        .output(&format!(
            "conntrack -D -s {} >/dev/null 2>&1",
            attacker.address(false).unwrap()
        ))
        .unwrap();
    assert!(tracked() < 20);
    let address = mypc.machine().address(false).unwrap();
    wait::until("room", Duration::from_secs(10), || {
        let line = format!("ping -n -c1 -W1 {address}");
        attacker.place().sh(&line).unwrap().status == 0
    })
    .unwrap();
}
