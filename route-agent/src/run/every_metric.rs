//! Every metric that is exported moves while an agent works.
//!
//! The loop with all of its features works in a network namespace, the pages are read as Prometheus
//! reads them. What the test enumerates is what is registered, so that a metric that is added and
//! never set makes it fail.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::net::UdpSocket;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use podwire::attachment::LINK_GROUP;
use podwire_kernel::RouteSocket;
use podwire_kernel::address::Address;
use podwire_kernel::link::Veth;
use podwire_kernel::netns::unshare_thread;
use podwire_kernel::route::Route;
use tempfile::TempDir;

use super::*;
use crate::config::test_config;
use crate::feature::KernelEvent;
use crate::features::parts::log::Logging;
use crate::features::services::desired::samples::{named_service, slice_of};
use crate::ours::NETWORK;
use crate::serve::http::Request;
use crate::snapshot::{
    Change, Condition, Few, NetworkPolicy, Node, Object, ObjectName, Peer, Pod, PolicyRule,
    Protocol, Requirement, Selector,
};

/// Metrics that this test need not see move, and why.
const EXCEPTIONS: [(&str, &str); 10] = [
    (
        "podwire_flows_lost",
        "moves only when the kernel throws announcements away, which a test of the kernel crate provokes",
    ),
    (
        "podwire_leases_without_link",
        "in good health none is; features::leases::tests sees two counted",
    ),
    (
        "podwire_services_refused",
        "in good health none is; features::services::tests::kernel sees one counted",
    ),
    ("podwire_build", "says which version runs and stays 1"),
    ("podwire_conntrack_insert_failed", KERNEL),
    ("podwire_conntrack_drop", KERNEL),
    ("podwire_conntrack_early_drop", KERNEL),
    (
        "podwire_policies_denied_packets",
        "looked at every 15 s; tests/tests/policies_seen.rs waits for it",
    ),
    (
        "podwire_policies_drops_lost",
        "in good health none is; how it is counted is tested in podwire_kernel::nflog",
    ),
    (
        "podwire_drops_seen",
        "who reads the log is not a part of the loop; tests/tests/drops.rs waits for it",
    ),
];
const KERNEL: &str = "the kernel counts it, and in good health never does; how it is read is tested \
                      in podwire_kernel::conntrack";

/// How long the agent may take for what the test waits for: far more than it takes on slow machines.
const PATIENCE: Duration = Duration::from_secs(60);

/// The address of the Service, and of the pod behind it, which is an address of this machine.
const CLUSTER_IP: &str = "10.200.1.63";
const POD: &str = "10.10.1.3";
const UPLINK: &str = "172.18.0.2";

/// The loop with all features, in a namespace of its own.
struct Agent {
    _directory: TempDir,
    config: Config,
    site: Site,
    looping: JoinHandle<()>,
    /// What the features want served; no one serves it here.
    _ports: watch::Receiver<HealthPorts>,
    /// The metrics that had a value other than 0 at some scrape.
    moved: BTreeSet<String>,
}

impl Agent {
    fn start() -> Self {
        unshare_thread().expect("needs root: it makes a network namespace");
        connect_machine();
        let directory = tempfile::tempdir().unwrap();
        let mut config = test_config(&["--node-name=worker"]);
        config.run_dir = directory.path().join("run").into();
        config.cni_conf_dir = directory.path().join("net.d");
        let leases = config.lease_dir().join(NETWORK);
        fs::create_dir_all(&leases).unwrap();
        fs::write(leases.join(POD), "pod\r\neth0").unwrap();

        let (inputs, outputs) = mpsc::channel();
        let shared = Shared {
            metrics: Default::default(),
            health: SharedHealth::new(Health::new(config.health_timeout)),
        };
        let (health_ports, ports) = watch::channel(HealthPorts::default());
        let drops = DropLog::new(Logging::On);
        let features = features::all(health_ports, Logging::On).unwrap();
        let finder = Some(Finder::open().unwrap());
        let reconcile = Reconcile::new(config.clone(), shared.clone(), finder, features);
        Self {
            _directory: directory,
            config,
            site: Site {
                health: shared.health,
                metrics: shared.metrics,
                inputs,
                drops,
                flows: FlowLog::new(false),
            },
            looping: thread::spawn(move || reconcile.run(&outputs)),
            _ports: ports,
            moved: BTreeSet::new(),
        }
    }

    fn send(&self, input: Input) {
        self.site.inputs.send(input).unwrap();
    }

    fn set(&self, objects: impl IntoIterator<Item = Object>) {
        self.send(Input::Changes(
            objects.into_iter().map(Change::Set).collect(),
        ));
    }

    fn page(&self, path: &str) -> String {
        let request = Request {
            path: path.to_owned(),
            query: String::new(),
            accept: "application/openmetrics-text".to_owned(),
        };
        self.site.public(&request).body
    }

    /// Reads the metrics: the sum of its samples by the name of each.
    fn scrape(&mut self) -> BTreeMap<String, f64> {
        let text = self.page("/metrics");
        let mut sums = BTreeMap::new();
        let mut name = String::new();
        for line in text.lines() {
            if let Some(described) = line.strip_prefix("# TYPE ") {
                name = described.split(' ').next().unwrap().to_owned();
                sums.insert(name.clone(), 0.0);
            } else if let Some((_, value)) = line.rsplit_once(' ')
                && !line.starts_with('#')
            {
                *sums.get_mut(&name).unwrap() += value.parse::<f64>().unwrap().abs();
            }
        }
        let moved = sums.iter().filter(|(_, sum)| **sum != 0.0);
        self.moved.extend(moved.map(|(name, _)| name.clone()));
        sums
    }

    /// Waits until the loop has done what it had to do and a scrape then looks like this.
    #[track_caller]
    fn wait(&mut self, what: &str, mut is_so: impl FnMut(&BTreeMap<String, f64>) -> bool) {
        let start = Instant::now();
        loop {
            let (reply, answer) = oneshot::channel();
            self.send(Input::Report { wide: false, reply });
            let report = answer.blocking_recv().unwrap();
            if is_so(&self.scrape()) {
                return;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "{what} did not happen: {:#?} {:#?} {:#?}",
                report.features,
                report.warnings,
                report.differences,
            );
        }
    }

    /// Waits until these metrics have moved.
    #[track_caller]
    fn wait_for(&mut self, names: &[&str]) {
        let start = Instant::now();
        let mut left: BTreeSet<&str> = names.iter().copied().collect();
        self.wait(&format!("{names:?}"), |sums| {
            left.retain(|name| sums.get(*name).is_none_or(|sum| *sum == 0.0));
            assert!(start.elapsed() < PATIENCE, "{left:?} did not move");
            left.is_empty()
        });
    }

    /// Someone wants to see flows.
    fn ask_for_flows(&self) {
        let Site {
            flows,
            inputs,
            metrics,
            ..
        } = self.site.clone();
        crate::run::runtime().unwrap().block_on(async {
            tokio::spawn(flows::follow(flows.clone(), inputs, metrics));
            flows.after(0, Duration::ZERO).await;
        });
    }

    fn stop(self) {
        self.send(Input::Stop);
        self.looping.join().unwrap();
    }
}

/// The machine's network: an uplink with a default route, a pod's address and a pod's link.
fn connect_machine() {
    let mut socket = RouteSocket::open().unwrap();
    let lo = socket.index_of("lo").unwrap();
    socket.set_up(lo).unwrap();
    let uplink = Veth {
        up: true,
        ..Veth::new("eth0", "peer0").unwrap()
    };
    let ends = socket.create_veth(&uplink).unwrap();
    socket.set_up(ends.peer_index).unwrap();
    for (link, network) in [
        (ends.index, format!("{UPLINK}/16")),
        (lo, format!("{POD}/32")),
    ] {
        let address = Address::new(link, network.parse().unwrap());
        socket.add_address(&address).unwrap();
    }
    let mut default = Route::to("0.0.0.0/0".parse().unwrap());
    default.gateway = Some("172.18.0.1".parse().unwrap());
    default.link = Some(ends.index);
    socket.add_route(&default).unwrap();
    let pod = Veth {
        group: LINK_GROUP,
        up: true,
        ..Veth::new("veth0a1b2c3d4e5", "pod0").unwrap()
    };
    socket.create_veth(&pod).unwrap();
}

fn node(name: &str, address: &str, pods: &str) -> Object {
    Object::Node(Node {
        internal_ips: vec![address.parse().unwrap()],
        pod_cidrs: vec![pods.parse().unwrap()],
        ..Node::named(name)
    })
}

/// The endpoints of the Service, as the cluster has them from now on.
fn slice(endpoints: &str) -> Object {
    let mut slice = slice_of("web", "web-1", &[("", Protocol::Udp, 5300)], endpoints);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    slice.last_change = u64::try_from(now.as_millis()).ok();
    Object::EndpointSlice(slice)
}

/// Makes a connection through the Service that the kernel remembers.
fn talk_to_the_pod() {
    let pod = UdpSocket::bind((POD, 5300)).unwrap();
    let client = UdpSocket::bind((UPLINK, 0)).unwrap();
    for socket in [&pod, &client] {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    client.send_to(b"ping", (CLUSTER_IP, 53)).unwrap();
    let mut buffer = [0; 8];
    let (_, from) = pod.recv_from(&mut buffer).expect("the Service works");
    pod.send_to(b"pong", from).unwrap();
    client.recv_from(&mut buffer).expect("the pod answers");
}

/// Another program that owns the table of Services, so that no one else may change it. The kernel
/// deletes the table when the program ends.
struct Owner(Child);

impl Owner {
    /// Whether the kernel knows owners (from 5.12 on); where not, it is said past what is held back
    /// for tests that pass.
    fn can_be() -> bool {
        let probe = ["add", "table", "inet", "owned", "{ flags owner; }"];
        let output = Command::new("nft").args(probe).output().unwrap();
        let reason = text(output.stderr);
        if !output.status.success() {
            let reason = reason.lines().next().unwrap_or_default();
            let _ = writeln!(std::io::stderr(), "\nnot run: every metric: {reason}");
        }
        output.status.success()
    }

    fn take() -> Self {
        let child = Command::new("nft")
            .arg("--interactive")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            // What it says of the terminal. The list below shows whether it did what it was told.
            .stderr(Stdio::null())
            .spawn();
        let mut owner = Self(child.unwrap());
        let table = "table ip podwire-services";
        let commands = format!("delete {table}; add {table} {{ flags owner; }}\n");
        let stdin = owner.0.stdin.as_mut().unwrap();
        stdin.write_all(commands.as_bytes()).unwrap();
        let start = Instant::now();
        loop {
            let listed = Command::new("nft")
                .args(["list", "tables"])
                .output()
                .unwrap();
            let chains = Command::new("nft")
                .args(["list", "chains", "ip"])
                .output()
                .unwrap();
            let (listed, chains) = (text(listed.stdout), text(chains.stdout));
            if listed.contains(table) && !chains.contains("guard-localhost") {
                return owner;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "nft does not own the table: {listed}{chains}"
            );
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // It has ended by itself already, or ends now.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn text(output: Vec<u8>) -> String {
    String::from_utf8(output).unwrap()
}

#[test]
fn every_metric_that_is_exported_moves_while_the_agent_works() {
    let mut agent = Agent::start();
    if !Owner::can_be() {
        return;
    }

    // A start: everything is listed and brought into the kernel.
    let mut web = named_service(
        "default/web",
        &format!("kind LoadBalancer; cluster-ip {CLUSTER_IP}; port udp 53 31053; external-local"),
    );
    agent.set([
        node("worker", UPLINK, "10.10.1.0/24"),
        node("peer", "172.18.0.3", "10.10.2.0/24"),
        Object::Service(web.clone()),
        slice(&format!("{POD}@worker")),
    ]);
    agent.send(Input::Listed);
    agent.wait_for(&[
        "kubeproxy_sync_proxy_rules_duration_seconds",
        "kubeproxy_sync_full_proxy_rules_duration_seconds",
        "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
        "kubeproxy_sync_proxy_rules_service_changes",
        "kubeproxy_sync_proxy_rules_endpoint_changes",
        "podwire_routes",
        "podwire_leases",
        "podwire_attachments",
        "podwire_syncs",
        "podwire_kernel_writes",
    ]);

    // The pod of a UDP connection goes, and no other is on this node.
    talk_to_the_pod();
    agent.wait_for(&["podwire_conntrack_entries", "podwire_conntrack_limit"]);
    agent.set([slice("10.10.2.4@peer")]);
    agent.wait_for(&[
        "kubeproxy_sync_partial_proxy_rules_duration_seconds",
        "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
        "kubeproxy_network_programming_duration_seconds",
        "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
        "kubeproxy_conntrack_reconciler_sync_duration_seconds",
        "kubeproxy_conntrack_reconciler_deleted_entries",
    ]);

    // A policy isolates a pod, and then allows less than before.
    let labels = |value: &str| [(Arc::from("app"), Arc::from(value))].into_iter().collect();
    let object = |name: &str| ObjectName {
        namespace: "default".into(),
        name: name.into(),
    };
    let pod = |name: &str, node: &str, address: &str, app: &str| {
        Object::Pod(Pod {
            node: Some(node.into()),
            ipv4: address.parse().ok(),
            labels: labels(app),
            ..Pod::named(object(name))
        })
    };
    let policy = |peers: &[&str]| {
        let selector = |value: &str| {
            let condition = Condition::In([value.into()].into());
            let key = Arc::from("app");
            Selector::new(vec![Requirement { key, condition }])
        };
        let peers = peers.iter().map(|value| Peer::Here(selector(value)));
        let rule = PolicyRule {
            peers: Some(peers.collect()),
            ports: None,
        };
        Object::NetworkPolicy(NetworkPolicy {
            name: object("policy"),
            subject: selector("web"),
            ingress: Some([rule].into()),
            egress: None,
            invalid: Few::new(),
        })
    };
    agent.set([
        pod("web", "worker", POD, "web"),
        pod("client", "peer", "10.10.2.9", "client"),
        policy(&["client"]),
    ]);
    agent.wait_for(&[
        "podwire_policies_isolated_pods",
        "podwire_policies_classes",
        "podwire_policies_programming_duration_seconds",
    ]);
    agent.set([policy(&["none"])]);
    agent.wait_for(&["podwire_policies_revocations"]);

    // The kernel refuses what the Services need, and later takes it.
    let owner = Owner::take();
    web.affinity = Some(60);
    agent.set([Object::Service(web), slice("10.10.2.5@peer")]);
    agent.send(Input::Kernel(KernelEvent::Lost));
    agent.wait_for(&[
        "kubeproxy_sync_proxy_rules_nftables_sync_failures",
        "kubeproxy_sync_proxy_rules_service_changes_pending",
        "kubeproxy_sync_proxy_rules_endpoint_changes_pending",
        "podwire_sync_failures",
    ]);
    drop(owner);
    agent.wait("the end of what is pending", |sums| {
        sums["kubeproxy_sync_proxy_rules_service_changes_pending"] == 0.0
            && sums["kubeproxy_sync_proxy_rules_endpoint_changes_pending"] == 0.0
    });

    // Something of ours is deleted, and a Node cannot be used.
    let files = fs::read_dir(&agent.config.cni_conf_dir).unwrap();
    for file in files {
        fs::remove_file(file.unwrap().path()).unwrap();
    }
    agent.send(Input::Files);
    agent.set([node("far", "192.0.2.1", "10.10.3.0/24")]);
    agent.wait_for(&["podwire_repairs", "podwire_warnings"]);
    agent.ask_for_flows();
    agent.wait_for(&["podwire_flows_read"]);

    for (page, counted) in [
        ("/healthz", "kubeproxy_proxy_healthz"),
        ("/livez", "kubeproxy_proxy_livez"),
    ] {
        agent.page(page);
        agent.wait_for(&[counted]);
    }

    let mut all: BTreeSet<String> = agent.scrape().into_keys().collect();
    all.extend(agent.site.metrics.names().iter().cloned());
    for (name, _) in EXCEPTIONS {
        all.remove(name);
    }
    assert!(all.len() > 25, "{all:?}");
    let start = Instant::now();
    while start.elapsed() < PATIENCE && !all.is_subset(&agent.moved) {
        agent.scrape();
    }
    let still: Vec<_> = all.difference(&agent.moved).collect();
    assert!(still.is_empty(), "exported and never set: {still:?}");
    agent.stop();
}
