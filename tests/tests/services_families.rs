//! Rows of the Service table about IPv6 and SCTP.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use cluster::*;
use podwire_lab::not_run::not_run;
use podwire_lab::place::Place;
use podwire_lab::topology::Families;
use serde_json::{Value, json};

/// A pod as an endpoint by its IPv6 address.
fn ready6(pod: &podwire_lab::pod::Pod) -> Value {
    let mut endpoint = ready(pod);
    endpoint["addresses"] = json!([pod.address(true).unwrap().to_string()]);
    endpoint
}

fn ready4(pod: &podwire_lab::pod::Pod) -> Value {
    let mut endpoint = ready(pod);
    endpoint["addresses"] = json!([pod.address(false).unwrap().to_string()]);
    endpoint
}

#[test]
fn row_24_both_families_work_and_neither_depends_on_the_other() {
    let cluster = Cluster::pair(Families::Dual);
    let one = cluster.web("worker", "web-1");
    let two = cluster.web("worker2", "web-2");
    let client = cluster.client("worker2", "client");
    let mypc = cluster.at("mypc");
    let spec = json!({
        "type": "NodePort",
        "clusterIPs": ["10.200.1.24", "fd00:10:200::24"],
        "ipFamilies": ["IPv4", "IPv6"],
        "ports": [{"port": 80, "nodePort": 31024}],
    });
    let ports = json!([{"port": 80}]);
    // Different endpoints per family, to tell them apart.
    cluster.apply(&[
        service("row24", spec),
        named_slice("row24-v4", "row24", ports.clone(), &[ready4(&one)]),
        named_slice("row24-v6", "row24", ports.clone(), &[ready6(&two)]),
    ]);
    assert_eq!(ask(client.place(), "10.200.1.24").unwrap().pod, "web-1");
    let answer = ask(client.place(), "[fd00:10:200::24]").unwrap();
    assert_eq!(
        (answer.pod.as_str(), answer.client),
        ("web-2", client.address(true).unwrap())
    );
    assert_eq!(ask(&mypc, "172.18.0.4:31024").unwrap().pod, "web-1");
    let worker = cluster.node("worker");
    let node6 = worker.machine().address(true).unwrap();
    let answer = ask(&mypc, &format!("[{node6}]:31024")).unwrap();
    assert_eq!((answer.pod.as_str(), answer.client), ("web-2", node6));
    // Somebody outside with a route to the ClusterIP is no pod, and masqueraded.
    mypc.output(&format!("ip -6 route add fd00:10:200::24/128 via {node6}"))
        .unwrap();
    let answer = ask(&mypc, "[fd00:10:200::24]").unwrap();
    assert_eq!((answer.pod.as_str(), answer.client), ("web-2", node6));
    // Hairpin, an unknown port, an unallocated address, no endpoints, ping: as in IPv4.
    assert_eq!(ask(two.place(), "[fd00:10:200::24]").unwrap().pod, "web-2");
    assert_eq!(ask(client.place(), "[fd00:10:200::24]:81"), REFUSED);
    assert_eq!(ask(client.place(), "[fd00:10:200::99]"), SILENCE);
    let ping = client.place().sh("ping -c1 -W2 fd00:10:200::24").unwrap();
    assert!(
        ping.stdout.to_lowercase().contains("prohibited"),
        "{}",
        ping.stdout
    );
    // One family loses its endpoints; the other goes on.
    cluster.apply(&[named_slice("row24-v6", "row24", ports, &[])]);
    assert_eq!(ask(client.place(), "[fd00:10:200::24]"), REFUSED);
    assert!(ask(client.place(), "10.200.1.24").is_ok());
}

#[test]
fn row_24_affinity_and_policy_local_work_in_ipv6() {
    let cluster = Cluster::pair(Families::V6);
    let one = cluster.web("worker", "web-1");
    let two = cluster.web("worker2", "web-2");
    let client = cluster.client("worker2", "client");
    let sticky = json!({
        "clusterIP": "fd00:10:200::25", "sessionAffinity": "ClientIP", "ports": [{"port": 80}],
    });
    let local = json!({
        "type": "NodePort",
        "clusterIP": "fd00:10:200::26",
        "externalTrafficPolicy": "Local",
        "ports": [{"port": 80, "nodePort": 31026}],
    });
    cluster.apply(&[
        service("sticky", sticky),
        http("sticky", &[&one, &two]),
        service("local", local),
        http("local", &[&one]),
    ]);
    let summary = load(client.place(), "[fd00:10:200::25]:80", 30);
    assert_eq!(summary.answers.len(), 1, "{summary:?}");
    let mypc = cluster.at("mypc");
    let at = |name: &str| cluster.node(name).machine().address(true).unwrap();
    let answer = ask(&mypc, &format!("[{}]:31026", at("worker"))).unwrap();
    let mypc6 = cluster.node("mypc").machine().address(true).unwrap();
    assert_eq!((answer.pod.as_str(), answer.client), ("web-1", mypc6));
    assert_eq!(ask(&mypc, &format!("[{}]:31026", at("worker2"))), SILENCE);
}

/// The kernel's module is one for all: one test loads it, the other looks whether the agent does.
static MODULE: Mutex<()> = Mutex::new(());

fn is_loaded() -> bool {
    let modules = std::fs::read_to_string("/proc/modules").unwrap_or_default();
    modules.lines().any(|line| line.starts_with("sctp "))
}

/// Sends one SCTP packet that asks for an association (RFC 9260: the common header and an INIT
/// chunk), from a socket that needs no SCTP in the kernel.
fn send_sctp(from: &podwire_lab::place::Place, address: &str, port: u16) {
    let script = "my ($address, $port) = @ARGV; \
                  socket(S, PF_INET, SOCK_RAW, 132) or die $!; \
                  my $header = pack(\"nnNN\", 40000, $port, 0, 0); \
                  my $init = pack(\"CCnNNnnN\", 1, 0, 20, 7, 65535, 10, 10, 1); \
                  send(S, $header . $init, 0, sockaddr_in(0, inet_aton($address))) or die $!;";
    from.output(&format!("perl -MSocket -e '{script}' {address} {port}"))
        .unwrap();
}

#[test]
fn row_25_sctp_services_are_served_like_others_and_no_module_is_loaded() {
    let _turn = MODULE.lock().unwrap_or_else(PoisonError::into_inner);
    let loaded = is_loaded();
    let cluster = Cluster::pair(Families::V4);
    let one = cluster.web("worker", "web-1");
    let client = cluster.client("worker2", "client");
    let ports = json!([{"port": 9000, "protocol": "SCTP", "nodePort": 31025}]);
    let spec = json!({"type": "NodePort", "clusterIP": "10.200.1.25", "ports": ports});
    cluster.apply(&[
        service("row25", spec),
        slice(
            "row25",
            json!([{"port": 36412, "protocol": "SCTP"}]),
            &[ready(&one)],
        ),
    ]);
    let node = cluster.node("worker2");
    // The packets are made by hand and without a checksum.
    node.place()
        .output("sysctl -qw net.netfilter.nf_conntrack_checksum=0")
        .unwrap();
    let line = "tcpdump -lnni eth0 ip proto 132";
    let mut heard = one.place().capture(line, "listening on").unwrap();
    // A pod keeps its address; from outside the node's is put in its place.
    let seen = format!("{} > {}.36412", client.addresses()[0], one.addresses()[0]);
    let seen = seen.replacen(" >", ".40000 >", 1);
    send_sctp(client.place(), "10.200.1.25", 9000);
    let limit = Duration::from_secs(10);
    let all = |lines: &[String], what: &str| lines.iter().any(|line| line.contains(what));
    assert!(heard.until(limit, |lines| all(lines, &seen)), "{seen}");
    send_sctp(&cluster.at("mypc"), "172.18.0.4", 31025);
    let ours = |line: &String| line.contains("IP 172.18.0.4.") && line.contains(".36412");
    assert!(heard.until(limit, |lines| lines.iter().any(ours)));
    heard.finish();
    assert_eq!(counted(&node, "services", "10.200.1.25 . sctp . 9000"), 1);
    assert_eq!(counted(&node, "nodeports", "sctp . 31025"), 1);
    assert_eq!(is_loaded(), loaded, "the module was loaded");
}

/// A socket of SCTP, one to one; what follows in Perl finds it as S.
const SCTP_SOCKET: &str = "use Socket; socket(S, PF_INET, SOCK_STREAM, 132) or die $!;";

/// Makes an association and reads the line that the server says.
fn associate(from: &Place, address: &str, port: u16) -> Result<String, String> {
    let script = format!(
        "{SCTP_SOCKET} alarm 10; \
         connect(S, pack_sockaddr_in({port}, inet_aton(\"{address}\"))) or die $!; print <S>;"
    );
    let ran = from.sh(&format!("perl -e '{script}'")).unwrap();
    match ran.status {
        0 => Ok(ran.stdout.trim().to_owned()),
        _ => Err(ran.stderr),
    }
}

#[test]
fn row_25_sctp_associations_are_made_through_a_cluster_ip_and_a_node_port() {
    let _turn = MODULE.lock().unwrap_or_else(PoisonError::into_inner);
    let cluster = Cluster::pair(Families::V4);
    let one = cluster.web("worker", "web-1");
    let client = cluster.client("worker2", "client");
    let possible = client.place().sh(&format!("perl -e '{SCTP_SOCKET}'"));
    let possible = possible.unwrap();
    if possible.status != 0 {
        return not_run("SCTP through Services", &possible.stderr);
    }
    // Says to each client whom it sees.
    let server = format!(
        "{SCTP_SOCKET} bind(S, pack_sockaddr_in(36412, INADDR_ANY)) or die $!; \
         listen(S, 9) or die $!; print STDERR \"listening\\n\"; \
         while (my $peer = accept(C, S)) {{ \
         my ($port, $address) = unpack_sockaddr_in($peer); \
         syswrite(C, inet_ntoa($address) . \"\\n\"); close C; }}"
    );
    let _server = one
        .place()
        .capture(&format!("perl -e '{server}'"), "listening")
        .unwrap();
    let ports = json!([{"port": 9000, "protocol": "SCTP", "nodePort": 31026}]);
    let spec = json!({"type": "NodePort", "clusterIP": "10.200.1.26", "ports": ports});
    let port = json!([{"port": 36412, "protocol": "SCTP"}]);
    cluster.apply(&[
        service("row25b", spec),
        slice("row25b", port, &[ready(&one)]),
    ]);
    let address = |pod: &podwire_lab::pod::Pod| pod.addresses()[0].to_string();
    // A pod keeps its address; from outside, and back to itself, the node's is put in its place.
    let mypc = cluster.at("mypc");
    let worker = cluster.node("worker");
    for (from, to, port, seen) in [
        (client.place(), "10.200.1.26", 9000, address(&client)),
        (
            client.place(),
            address(&one).as_str(),
            36412,
            address(&client),
        ),
        (&mypc, "172.18.0.4", 31026, "172.18.0.4".to_owned()),
        (worker.place(), "10.200.1.26", 9000, String::new()),
    ] {
        let answer = associate(from, to, port);
        assert!(
            answer
                .as_ref()
                .is_ok_and(|line| !line.is_empty() && line.contains(&seen)),
            "{} -> {to}:{port}: {answer:?}, wanted {seen}",
            from.name()
        );
    }
    assert_eq!(
        counted(
            &cluster.node("worker2"),
            "services",
            "10.200.1.26 . sctp . 9000"
        ),
        1
    );
}
