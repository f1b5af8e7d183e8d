//! Rows of the Service table about change, failure, restart and repair. These tests stop agents
//! and break tables, so each has a lab of its own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;

use std::time::Duration;

use cluster::*;
use podwire_lab::load::Summary;
use podwire_lab::topology::{Families, Topology};
use podwire_lab::{Lab, wait};
use serde_json::json;

fn web_service(name: &str, address: &str) -> serde_json::Value {
    service(name, json!({"clusterIP": address, "ports": [{"port": 80}]}))
}

#[test]
fn row_19_udp_connections_follow_the_endpoints_also_when_the_last_one_goes() {
    udp_connections_follow(Families::V4, "10.200.1.19");
}

#[test]
fn row_19_udp_connections_follow_the_endpoints_in_ipv6_too() {
    udp_connections_follow(Families::V6, "fd00:10:200::19");
}

fn udp_connections_follow(families: Families, cluster_ip: &str) {
    let cluster = Cluster::pair(families);
    let one = cluster.web("worker", "web-1");
    let two = cluster.web("worker2", "web-2");
    let client = cluster.client("worker", "client");
    let ports = json!([{"port": 53, "protocol": "UDP", "nodePort": 31053}]);
    let spec = json!({"type": "NodePort", "clusterIP": cluster_ip, "ports": ports});
    let dns = |pods: &[&podwire_lab::pod::Pod]| {
        let endpoints: Vec<_> = pods.iter().map(|pod| ready(pod)).collect();
        slice(
            "row19",
            json!([{"port": 53, "protocol": "UDP"}]),
            &endpoints,
        )
    };
    cluster.apply(&[service("row19", spec), dns(&[&one])]);
    let node = cluster.node("worker");
    let (v6, family) = match families {
        Families::V6 => (true, "ipv6"),
        _ => (false, "ipv4"),
    };
    let at_node = node.machine().address(v6).unwrap().to_string();
    // One client socket that goes on sending from the same port, and what each answer said.
    let script = |address: &str, port: u16| {
        format!(
            "bash -c 'exec 3<>/dev/udp/{address}/{port}; echo sending >&2; while :; do echo x >&3 || \
             echo refused; timeout 0.3 head -n1 <&3; sleep 0.05; done'"
        )
    };
    for (place, address, port) in [
        (client.place(), cluster_ip, 53),
        (&cluster.at("mypc"), &at_node, 31053),
    ] {
        cluster.apply(&[dns(&[&one])]);
        let mut talk = place.capture(&script(address, port), "sending").unwrap();
        let limit = Duration::from_secs(10);
        let heard = |lines: &[String], what: &str| lines.iter().any(|line| line.contains(what));
        assert!(
            talk.until(limit, |lines| heard(lines, "web-1 answers")),
            "no first answer"
        );
        // Who drains goes on answering whom it answers, though another one is there for new ones.
        let drains = [draining(&one), ready(&two)];
        let udp = json!([{"port": 53, "protocol": "UDP"}]);
        cluster.apply(&[slice("row19", udp, &drains)]);
        let so_far = std::cell::Cell::new(0);
        talk.until(Duration::ZERO, |lines| {
            so_far.set(lines.len());
            false
        });
        assert!(talk.until(limit, |lines| lines.len() > so_far.get() + 10));
        assert!(
            !talk.until(Duration::ZERO, |lines| heard(lines, "web-2 answers")),
            "a session of who drains was moved"
        );
        cluster.apply(&[dns(&[&two])]);
        assert!(
            talk.until(limit, |lines| heard(lines, "web-2 answers")),
            "stuck to web-1"
        );
        cluster.apply(&[dns(&[])]);
        let forgotten = || {
            let line = format!(
                "conntrack -L -f {family} -p udp --orig-dst {address} --orig-port-dst {port} \
                 2>/dev/null"
            );
            node.place().output(&line).unwrap().trim().is_empty()
        };
        wait::until("conntrack to forget", limit, forgotten).unwrap();
        talk.finish();
    }
}

#[test]
fn row_19_tcp_connections_are_left_alone() {
    let cluster = Cluster::pair(Families::V4);
    let one = cluster.web("worker", "web-1");
    let two = cluster.web("worker2", "web-2");
    let client = cluster.client("worker", "client");
    let lines = |pod| slice("row19", json!([{"port": 7}]), &[ready(pod)]);
    cluster.apply(&[
        service(
            "row19",
            json!({"clusterIP": "10.200.1.19", "ports": [{"port": 7}]}),
        ),
        lines(&one),
    ]);
    let script = "bash -c 'exec 3<>/dev/tcp/10.200.1.19/7; echo talking >&2; while :; do echo x >&3; \
                  read -t 2 -r l <&3 && echo \"$l\" || echo silence; sleep 0.05; done'";
    let mut talk = client.place().capture(script, "talking").unwrap();
    let limit = Duration::from_secs(10);
    assert!(talk.until(limit, |lines| !lines.is_empty()));
    cluster.apply(&[lines(&two)]);
    let new = client.place().output(
        "bash -c 'exec 3<>/dev/tcp/10.200.1.19/7; echo x >&3; read -t 2 -r l <&3; echo \"$l\"'",
    );
    assert!(
        new.unwrap().starts_with("web-2"),
        "new connections go to the new endpoint"
    );
    let before = std::cell::Cell::new(0);
    talk.until(Duration::ZERO, |lines| {
        before.set(lines.len());
        false
    });
    assert!(talk.until(limit, |lines| lines.len() > before.get() + 10));
    let all = talk.finish();
    assert!(
        all.iter().all(|line| line.contains("web-1 answers")),
        "{all:?}"
    );
}

#[test]
fn row_20_nothing_drops_invalid_packets_and_tcp_tracking_can_be_made_liberal() {
    let cluster = Cluster::pair(Families::V4);
    let node = cluster.node("worker");
    assert!(!listed(&node, "ct state invalid"));
    let liberal = || {
        let line = "cat /proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal";
        node.place().output(line).unwrap().trim() == "1"
    };
    assert!(!liberal());
    node.stop_agent("TERM").unwrap();
    node.start_agent_with(&["--conntrack-tcp-be-liberal=true"])
        .unwrap();
    wait::until("the setting", Duration::from_secs(20), liberal).unwrap();
}

#[test]
fn row_21_time_outs_of_tracked_connections_are_set_and_what_cannot_be_set_is_not_fatal() {
    let cluster = Cluster::pair(Families::V4);
    let node = cluster.node("worker");
    let read = |key: &str| {
        let line = format!("cat /proc/sys/net/netfilter/{key}");
        node.place().output(&line).unwrap().trim().to_owned()
    };
    assert_eq!(read("nf_conntrack_tcp_timeout_established"), "86400");
    assert_eq!(read("nf_conntrack_tcp_timeout_close_wait"), "3600");
    // nf_conntrack_max belongs to the first network namespace alone, and yet the agent runs.
    assert!(node.agent().is_some());
    node.stop_agent("TERM").unwrap();
    node.start_agent_with(&["--conntrack-tcp-timeout-close-wait=30m"])
        .unwrap();
    let changed = || read("nf_conntrack_tcp_timeout_close_wait") == "1800";
    wait::until("the setting", Duration::from_secs(20), changed).unwrap();
}

#[test]
fn row_23_livez_and_healthz_answer_and_a_node_that_goes_is_not_eligible() {
    let cluster = Cluster::pair(Families::V4);
    let node = cluster.node("worker");
    let get = |path: &str| {
        let line =
            format!("curl -sS --max-time 2 -w '%{{http_code}}' http://127.0.0.1:10256{path}");
        node.place().output(&line).unwrap()
    };
    for path in ["/livez", "/healthz"] {
        let text = get(path);
        assert!(text.ends_with("200"), "{text}");
        assert!(
            text.contains("\"healthy\":true") && text.contains("lastUpdated"),
            "{text}"
        );
    }
    let taint = json!({"spec": {"taints": [
        {"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"},
    ]}});
    let object = with(podwire_lab::manifests::node(node.machine()), taint);
    cluster.lab.write_manifest("node-worker", &object).unwrap();
    let ineligible = || get("/healthz").ends_with("503");
    wait::until("the verdict", Duration::from_secs(10), ineligible).unwrap();
    assert!(get("/livez").ends_with("200"));
}

/// How much the Service proxy of a node has written to the kernel since its agent started.
fn writes(node: &podwire_lab::node::Node) -> f64 {
    node.agent_metric("podwire_kernel_writes_total{feature=\"services\"}")
        .unwrap()
}

#[test]
fn row_26_a_restart_writes_nothing_and_connections_and_clients_live_on() {
    let cluster = Cluster::pair(Families::V4);
    let one = cluster.web("worker", "web-1");
    let two = cluster.web("worker2", "web-2");
    let client = cluster.client("worker", "client");
    let sticky = json!({
        "clusterIP": "10.200.1.28", "sessionAffinity": "ClientIP", "ports": [{"port": 80}],
    });
    cluster.apply(&[
        web_service("row26", "10.200.1.26"),
        http("row26", &[&one, &two]),
        service("sticky", sticky),
        http("sticky", &[&one, &two]),
    ]);
    let node = cluster.node("worker");
    assert!(writes(&node) > 0.0);
    let rules = || {
        node.place()
            .output("nft -s list table ip podwire-services")
            .unwrap()
    };
    let first = ask(client.place(), "10.200.1.28").unwrap().pod;
    let program = program();
    let line = format!("{program} load 10.200.1.26:80 --seconds 120");
    let running = client
        .place()
        .capture(&line, podwire_lab::load::STARTED)
        .unwrap();
    let without_time = |text: String| -> String {
        text.lines()
            .filter(|line| !line.contains("expires"))
            .collect()
    };
    let before = without_time(rules());
    for signal in ["TERM", "KILL"] {
        node.stop_agent(signal).unwrap();
        assert_eq!(without_time(rules()), before, "rules stay on exit");
        node.start_agent().unwrap();
        node.wait_ready().unwrap();
        assert_eq!(writes(&node), 0.0);
        assert_eq!(without_time(rules()), before);
    }
    let lines = running.finish();
    let summary: Summary = serde_json::from_str(lines.last().unwrap()).unwrap();
    assert!(summary.requests > 50 && summary.failed == 0, "{summary:?}");
    for _ in 0..10 {
        assert_eq!(ask(client.place(), "10.200.1.28").unwrap().pod, first);
    }
}

#[test]
fn row_26_a_start_over_old_rules_sends_the_difference() {
    let cluster = Cluster::pair(Families::V4);
    let one = cluster.web("worker", "web-1");
    let two = cluster.web("worker2", "web-2");
    let client = cluster.client("worker", "client");
    cluster.apply(&[
        web_service("row26", "10.200.1.26"),
        http("row26", &[&one]),
        web_service("row26-same", "10.200.1.29"),
        http("row26-same", &[&one, &two]),
    ]);
    let node = cluster.node("worker");
    load(client.place(), "10.200.1.29:80", 7);
    node.stop_agent("KILL").unwrap();
    cluster.apply(&[
        web_service("row26-new", "10.200.1.27"),
        http("row26-new", &[&one]),
        http("row26", &[&two]),
    ]);
    assert_eq!(
        ask(client.place(), "10.200.1.26").unwrap().pod,
        "web-1",
        "still the old rules"
    );
    node.start_agent().unwrap();
    node.wait_ready().unwrap();
    cluster.settle();
    assert_eq!(ask(client.place(), "10.200.1.26").unwrap().pod, "web-2");
    assert_eq!(ask(client.place(), "10.200.1.27").unwrap().pod, "web-1");
    // What was right was not written again: it goes on counting.
    assert_eq!(counted(&node, "services", "10.200.1.29 . tcp . 80"), 7);
    let writes = writes(&node);
    assert!((1.0..20.0).contains(&writes), "{writes} writes");
}

#[test]
fn row_26_no_connection_fails_while_endpoints_change() {
    let cluster = Cluster::pair(Families::V4);
    let pods: Vec<_> = (0..3)
        .map(|n| cluster.web("worker", &format!("web-{n}")))
        .collect();
    let client = cluster.client("worker", "client");
    let some = |of: &[usize]| {
        let chosen: Vec<_> = of.iter().map(|n| &pods[*n]).collect();
        http("row26", &chosen)
    };
    cluster.apply(&[web_service("row26", "10.200.1.26"), some(&[0, 1, 2])]);
    let program = program();
    let line = format!("{program} load 10.200.1.26:80 --seconds 120");
    let running = client
        .place()
        .capture(&line, podwire_lab::load::STARTED)
        .unwrap();
    let states: [&[usize]; 6] = [&[0], &[0, 1, 2], &[1, 2], &[2], &[2, 0], &[0, 1]];
    for round in 0..40 {
        cluster.apply(&[some(states[round % states.len()])]);
    }
    let lines = running.finish();
    let summary: Summary = serde_json::from_str(lines.last().unwrap()).unwrap();
    assert!(summary.requests > 300, "{summary:?}");
    assert_eq!(summary.failed, 0, "{summary:?}");
}

#[test]
fn row_26_a_table_that_somebody_breaks_is_whole_as_soon_as_the_kernel_tells() {
    let cluster = Cluster::pair(Families::V4);
    let one = cluster.web("worker", "web-1");
    let client = cluster.client("worker", "client");
    cluster.apply(&[web_service("row26", "10.200.1.26"), http("row26", &[&one])]);
    let node = cluster.node("worker");
    node.place()
        .output("nft add table ip foreign; nft add chain ip foreign kept")
        .unwrap();
    let text = || {
        let list = node
            .place()
            .output("nft -s list table ip podwire-services")
            .unwrap_or_default();
        let mut blocks: Vec<String> = list
            .split("\n\n")
            .map(|b| b.trim_end_matches("\n}\n").to_owned())
            .collect();
        blocks.sort();
        blocks.join("\n")
    };
    let right = text();
    const TIME: Duration = Duration::from_secs(30);
    // Counted is what followed from a notification, and nothing else that might put it right.
    let repairs = || {
        node.agent_metric("podwire_repairs_total{feature=\"services\"}")
            .unwrap()
    };
    for breakage in [
        "delete table ip podwire-services",
        "delete element ip podwire-services services { 10.200.1.26 . tcp . 80 }",
        "delete element ip podwire-services endpoints { 10.200.1.26 . tcp . 80 . 0 }",
        "flush chain ip podwire-services services",
        "flush chain ip podwire-services pick-1",
        "delete chain ip podwire-services guard-localhost",
        "flush chain ip podwire-services postrouting; delete chain ip podwire-services postrouting",
        "add rule ip podwire-services services drop",
    ] {
        let before = repairs();
        node.place().output(&format!("nft '{breakage}'")).unwrap();
        wait::until(breakage, TIME, || text() == right).unwrap();
        wait::until("its repair", TIME, || repairs() > before).unwrap();
    }
    assert!(
        node.place()
            .output("nft list tables")
            .unwrap()
            .contains("table ip foreign")
    );
    let before = repairs();
    node.place().output("nft flush ruleset").unwrap();
    let works = || ask(client.place(), "10.200.1.26").is_ok();
    wait::until("the Service", TIME, works).unwrap();
    wait::until("everything", TIME, || text() == right).unwrap();
    wait::until("its repair", TIME, || repairs() > before).unwrap();
}

#[test]
fn ping_to_a_cluster_ip_can_be_answered() {
    let cluster = Cluster::pair(Families::V4);
    let client = cluster.client("worker", "client");
    cluster.apply(&[web_service("echo", "10.200.1.45")]);
    let ping = || {
        client
            .place()
            .sh("ping -c1 -W2 10.200.1.45")
            .unwrap()
            .status
    };
    assert_ne!(ping(), 0);
    let node = cluster.node("worker");
    node.stop_agent("TERM").unwrap();
    node.start_agent_with(&["--cluster-ip-echo=true"]).unwrap();
    node.wait_ready().unwrap();
    cluster.settle();
    assert_eq!(ping(), 0);
    assert_eq!(
        node.place().sh("ping -c1 -W2 10.200.1.45").unwrap().status,
        0
    );
}

#[test]
fn rules_of_a_kube_proxy_that_ran_before_are_named_at_start_and_only_take_over_removes_them() {
    let cluster = Cluster::pair(Families::V4);
    let one = cluster.web("worker", "web-1");
    cluster.apply(&[web_service("web", "10.200.1.46"), http("web", &[&one])]);
    let node = cluster.node("worker");
    let place = node.place();
    let rules = "for i in iptables-nft iptables-legacy; do \
                 $i -t nat -N KUBE-SERVICES; $i -t nat -A OUTPUT -j KUBE-SERVICES; \
                 $i -t nat -N MINE; $i -t nat -A OUTPUT -d 192.0.2.1 -j MINE; done; \
                 nft add table ip kube-proxy; nft add table ip foreign";
    place.output(rules).unwrap();
    let saved = || {
        let line = "iptables-nft-save -t nat; iptables-legacy-save -t nat; nft list tables";
        place.output(line).unwrap()
    };
    node.stop_agent("TERM").unwrap();
    node.start_agent().unwrap();
    node.wait_ready().unwrap();
    let mut status = String::new();
    let named = || {
        status = place.output("podwire-agent status").unwrap_or_default();
        [
            "iptables-nft",
            "iptables-legacy",
            "ip kube-proxy",
            "take-over",
        ]
        .iter()
        .all(|word| status.contains(word))
    };
    let waited = wait::until("the warnings", Duration::from_secs(10), named);
    waited.unwrap_or_else(|error| panic!("{error}: {status}"));
    let log = node.agent_log();
    assert!(log.contains("a kube-proxy left rules there"), "{log}");
    let before = saved();
    assert_eq!(before.matches("-j KUBE-SERVICES").count(), 2, "{before}");
    place.output("podwire-agent take-over").unwrap();
    let after = saved();
    assert!(
        !after.contains("KUBE-SERVICES") && !after.contains("kube-proxy"),
        "{after}"
    );
    assert_eq!(after.matches("-j MINE").count(), 2, "{after}");
    for table in ["foreign", "podwire-services", "podwire-masquerade"] {
        assert!(after.contains(table), "{table} is not in\n{after}");
    }
    assert!(ask(place, "10.200.1.46").is_ok());
}

#[test]
fn uninstall_puts_kernel_settings_back_and_takes_the_tables_out() {
    let lab = Lab::for_test_without_agents(&Topology::pair(Families::V4)).unwrap();
    let node = lab.machine("worker").unwrap();
    let place = node.place();
    let settings = || {
        let line = "sysctl net.ipv4.ip_forward net.ipv4.conf.all.route_localnet \
                    net.netfilter.nf_conntrack_tcp_timeout_established \
                    net.netfilter.nf_conntrack_tcp_timeout_close_wait";
        place.output(line).unwrap()
    };
    place
        .output("nft add table ip foreign; sysctl -qw net.ipv4.ip_forward=0")
        .unwrap();
    let before = settings();
    // Without a Service there is no table that would guard 127.0.0.0/8.
    lab.write_manifest("web", &web_service("web", "10.200.1.48"))
        .unwrap();
    for _ in 0..2 {
        node.start_agent().unwrap();
        node.wait_ready().unwrap();
        node.stop_agent("TERM").unwrap();
    }
    let during = settings();
    for setting in [
        "route_localnet = 1",
        "established = 86400",
        "close_wait = 3600",
    ] {
        assert!(during.contains(setting), "{setting} is not in\n{during}");
    }
    // Who only looks changes nothing, and names what goes.
    let would = place.output("podwire-agent uninstall --dry-run").unwrap();
    assert_eq!(settings(), during);
    let removed = place.output("podwire-agent uninstall").unwrap();
    let told = |text: &str, verb: &str| -> Vec<String> {
        let lines = text.lines().map(|line| line.strip_prefix(verb).unwrap());
        // How a value is called depends on whether it is put back yet.
        let names = lines.map(|line| line.split([':', ',']).next().unwrap().to_owned());
        names.collect()
    };
    assert_eq!(told(&would, "would remove "), told(&removed, "removed "));
    assert!(would.contains("would remove table ip podwire-services"));
    assert_eq!(
        place.output("podwire-agent uninstall").unwrap(),
        "nothing was left to remove\n"
    );
    assert_eq!(settings(), before);
    assert_eq!(
        place.output("nft list tables").unwrap(),
        "table ip foreign\n"
    );
}

#[test]
fn tables_of_a_run_with_services_go_when_services_are_switched_off() {
    let cluster = Cluster::pair(Families::V4);
    let one = cluster.web("worker", "web-1");
    cluster.apply(&[web_service("web", "10.200.1.47"), http("web", &[&one])]);
    let node = cluster.node("worker");
    let place = node.place();
    let tables = || place.output("nft list tables").unwrap();
    assert!(tables().contains("podwire-services"), "{}", tables());
    node.stop_agent("TERM").unwrap();
    node.start_agent_with(&["--services=false"]).unwrap();
    let gone = || !tables().contains("podwire-services");
    wait::until("the end of the tables", Duration::from_secs(10), gone).unwrap();
    let setting = place.output("sysctl -n net.ipv4.conf.all.route_localnet");
    assert_eq!(setting.unwrap().trim(), "0");
    let log = node.agent_log();
    assert!(
        log.contains("removed the table ip podwire-services"),
        "{log}"
    );
    // Not that there are no warnings: an old kernel causes some.
    let status = place.output("podwire-agent status -o json").unwrap();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["differences"], json!([]), "{status}");
}
