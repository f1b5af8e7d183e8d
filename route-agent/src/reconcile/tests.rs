use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use super::*;
use crate::config::test_config;
use podwire::policy::{Attachment, News};
use podwire_kernel::RouteSocket;
use podwire_kernel::netns::unshare_thread;
use podwire_kernel::route::Route;
use tokio::sync::oneshot;

use crate::feature::{SyncError, Synced, Told, Warn, WhoHas};
use crate::features::cniconf::CniConf;
use crate::health::Health;
use crate::input::Question;
use crate::ours::Removal;
use crate::pod_cidrs::Holders;
use crate::snapshot::{Change, EndpointSlice, Key, Node, Object, ObjectName, Service};
use crate::uplink::test_uplink;

fn reconcile(features: Vec<Box<dyn Feature>>) -> Reconcile {
    let health = SharedHealth::new(Health::new(Duration::from_secs(60)));
    let shared = Shared {
        metrics: Arc::default(),
        health,
    };
    Reconcile::new(test_config(&["--node-name=worker"]), shared, None, features)
}

/// A feature that fails a number of times, counts its syncs, and dirty nodes and news of the plugin.
struct Fake {
    name: &'static str,
    failures: usize,
    syncs: Arc<AtomicUsize>,
    nodes: Arc<AtomicUsize>,
    needed: bool,
    programs_services: bool,
    again: bool,
}

impl Fake {
    fn new(name: &'static str, failures: usize) -> (Self, Arc<AtomicUsize>, Arc<AtomicUsize>) {
        let (syncs, nodes) = (Arc::default(), Arc::default());
        let fake = Self {
            name,
            failures,
            syncs: Arc::clone(&syncs),
            nodes: Arc::clone(&nodes),
            needed: true,
            programs_services: false,
            again: false,
        };
        (fake, syncs, nodes)
    }
}

impl Feature for Fake {
    fn name(&self) -> &'static str {
        self.name
    }

    fn notice(&mut self, event: &Event<'_>, _: &World<'_>) -> bool {
        if let Event::Objects(dirty) = event {
            self.nodes.fetch_add(dirty.nodes.len(), Ordering::SeqCst);
        }
        if let Event::Told(_) = event {
            self.nodes.fetch_add(1, Ordering::SeqCst);
        }
        !matches!(event, Event::WhoHas(_) | Event::Ready)
    }

    fn sync(&mut self, _: &World<'_>, warn: &mut Warn<'_>) -> Result<Synced, SyncError> {
        let done = self.syncs.fetch_add(1, Ordering::SeqCst);
        warn.replace([Warning::new("it", format!("tried {done}"))]);
        if done < self.failures {
            return Err("the kernel said no".into());
        }
        Ok(Synced {
            writes: 1,
            again: self.again,
        })
    }

    fn needed_by_pods(&self) -> bool {
        self.needed
    }

    fn programs_services(&self) -> bool {
        self.programs_services
    }

    fn report(&mut self, _: &World<'_>, report: &mut Report) {
        report.differences.push("it differs".to_owned());
    }

    fn uninstall(&mut self, _: &Config, _: Removal) -> Result<Vec<String>, SyncError> {
        Ok(Vec::new())
    }
}

fn node(name: &str) -> Change {
    Change::Set(Object::Node(Node::named(name)))
}

#[test]
fn who_asks_for_a_pod_cidr_in_vain_has_it_for_no_feature_until_it_is_free() {
    let cidr: IpNetwork = "10.10.2.0/24".parse().unwrap();
    let with = |name: &str| {
        Change::Set(Object::Node(Node {
            pod_cidrs: vec![cidr],
            ..Node::named(name)
        }))
    };
    let before = Box::new(move |_: &Snapshot| Holders::from([(cidr, "z".into())]));
    let mut it = reconcile(Vec::new()).with_holders_before(before);
    it.uplink = Some(test_uplink("172.18.0.2/16"));
    it.take(Input::Changes(vec![with("a"), with("z")]));
    it.take(Input::Listed);
    let holder = |it: &mut Reconcile| {
        it.turn(Instant::now());
        let snapshot = &it.snapshot;
        let nodes = snapshot.nodes.values();
        let holders = nodes.filter(|node| snapshot.pod_cidrs_of(node).next().is_some());
        holders
            .map(|node| node.name.to_string())
            .collect::<Vec<_>>()
    };
    // Neither says how old it is: who had it before keeps it, and whoever gets it after that.
    assert_eq!(holder(&mut it), ["z"]);
    it.take(Input::Changes(vec![Change::Gone(Key::Node("z".into()))]));
    assert_eq!(holder(&mut it), ["a"]);
    it.take(Input::Changes(vec![with("z")]));
    assert_eq!(holder(&mut it), ["a"]);
}

#[test]
fn a_pod_cidr_with_an_address_at_which_the_api_server_is_used_is_left_out() {
    let mut it = reconcile(Vec::new());
    it.uplink = Some(test_uplink("172.18.0.2/16"));
    let liar = Node {
        pod_cidrs: vec!["192.168.77.0/24".parse().unwrap()],
        ..Node::named("liar")
    };
    it.take(Input::Changes(vec![Change::Set(Object::Node(liar))]));
    it.take(Input::Listed);
    let has_it = |it: &mut Reconcile| {
        it.turn(Instant::now());
        let liar = &it.snapshot.nodes["liar"];
        it.snapshot.pod_cidrs_of(liar).next().is_some()
    };
    assert!(has_it(&mut it));
    // No API server publishes it: a load balancer has it.
    let used = ["192.168.77.5:6443".parse().unwrap()];
    assert!(it.config.kubernetes.resolved.add(used.into_iter()));
    it.take(Input::ApiServerAddress);
    assert!(!has_it(&mut it));
    // To a ClusterIP no route is needed but that of what is behind it.
    let kubernetes = Service {
        cluster_ips: [used[0].ip()].into(),
        ..Service::named(name("kubernetes"))
    };
    it.take(Input::Changes(vec![Change::Set(Object::Service(
        kubernetes,
    ))]));
    assert!(has_it(&mut it));
}

#[test]
fn nothing_differs_from_what_is_wanted_before_that_is_known() {
    let (fake, ..) = Fake::new("fake", 0);
    let mut it = reconcile(vec![Box::new(fake)]);
    assert!(it.report(false).differences.is_empty());
    it.take(Input::Listed);
    assert_eq!(it.report(false).differences, ["it differs"]);
}

/// A namespace of its own in which these networks are reachable over `lo`, which is the uplink.
fn with_networks(features: Vec<Box<dyn Feature>>, networks: &[&str]) -> Reconcile {
    unshare_thread().expect("needs root: it makes a network namespace");
    let mut socket = RouteSocket::open().unwrap();
    let index = socket.index_of("lo").unwrap();
    socket.set_up(index).unwrap();
    for network in networks {
        let route = Route {
            link: Some(index),
            ..Route::to(network.parse().unwrap())
        };
        socket.add_route(&route).unwrap();
    }
    let mut it = reconcile(features);
    it.config.uplink = Some("lo".into());
    it.finder = Some(Finder::open().unwrap());
    it
}

/// A Node with a podCIDR or an InternalIP.
fn node_with(name: &str, pod_cidr: Option<&str>, internal_ip: Option<&str>) -> Change {
    Change::Set(Object::Node(Node {
        pod_cidrs: pod_cidr.iter().map(|cidr| cidr.parse().unwrap()).collect(),
        internal_ips: internal_ip.iter().map(|ip| ip.parse().unwrap()).collect(),
        ..Node::named(name)
    }))
}

#[test]
fn the_uplink_is_known_before_it_is_decided_what_pod_cidrs_this_node_has() {
    let mut it = with_networks(Vec::new(), &["172.18.0.0/16"]);
    let own = it.config.node_name.clone();
    it.take(Input::Changes(vec![node_with(
        &own,
        Some("172.18.4.0/24"),
        None,
    )]));
    it.take(Input::Listed);
    let has = |it: &mut Reconcile| it.parts().0.own_pod_cidrs();
    assert_eq!(has(&mut it), []);
    // It did not have it last, either.
    it.take(Input::Changes(vec![Change::Gone(Key::Node(own))]));
    it.turn(Instant::now());
    assert_eq!(has(&mut it), []);
}

#[test]
fn an_own_node_that_comes_later_has_its_own_uplink_before_its_pod_cidrs() {
    let mut it = with_networks(Vec::new(), &["10.50.0.0/24"]);
    let own = it.config.node_name.clone();
    // Until the Node is there, another interface seems to be the uplink.
    it.uplink = Some(test_uplink("172.18.0.2/16"));
    it.listed = true;
    it.look = false;
    it.take(Input::Changes(vec![
        node_with(&own, Some("10.50.0.0/16"), None),
        node_with("there", None, Some("10.50.0.7")),
    ]));
    it.turn(Instant::now());
    assert_eq!(it.parts().0.own_pod_cidrs(), []);
}

#[test]
fn an_own_pod_cidr_is_given_to_pods_as_soon_as_it_is_free() {
    let conf_dir = tempfile::tempdir().unwrap();
    let mut it = with_networks(vec![Box::<CniConf>::default()], &["10.50.0.0/24"]);
    it.config.cni_conf_dir = conf_dir.path().into();
    it.config.mtu = Some(1450);
    let own = it.config.node_name.clone();
    it.take(Input::Changes(vec![
        node_with(&own, Some("10.50.0.0/16"), None),
        node_with("there", None, Some("10.50.0.7")),
    ]));
    it.take(Input::Listed);
    it.turn(Instant::now());
    let written = || conf_dir.path().read_dir().unwrap().count();
    assert_eq!(written(), 0);
    it.take(Input::Changes(vec![Change::Gone(Key::Node(
        "there".into(),
    ))]));
    it.turn(Instant::now());
    assert_eq!(written(), 1);
    let warnings = it.report(false).warnings;
    assert!(warnings.is_empty(), "{warnings:?}");
}

#[test]
fn the_own_pod_cidrs_outlast_the_node_and_a_restart() {
    let last = ["10.10.9.0/24".parse().unwrap()];
    let mut it = reconcile(Vec::new()).with_last_pod_cidrs(&last);
    let name = it.config.node_name.clone();
    let with = |cidrs: &[&str]| {
        Change::Set(Object::Node(Node {
            pod_cidrs: cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect(),
            ..Node::named(&name)
        }))
    };
    let cidrs = |it: &mut Reconcile| {
        it.turn(Instant::now());
        let cidrs = it.parts().0.own_pod_cidrs().into_iter();
        cidrs.map(|cidr| cidr.to_string()).collect::<Vec<_>>()
    };
    it.take(Input::Listed);
    assert_eq!(cidrs(&mut it), ["10.10.9.0/24"]);
    for (change, expected) in [
        (with(&[]), "10.10.9.0/24"),
        (with(&["10.10.1.0/24"]), "10.10.1.0/24"),
        (Change::Gone(Key::Node(name.clone())), "10.10.1.0/24"),
        (with(&[]), "10.10.1.0/24"),
        (with(&["10.10.2.0/24"]), "10.10.2.0/24"),
    ] {
        it.take(Input::Changes(vec![change]));
        assert_eq!(cidrs(&mut it), [expected]);
    }
}

#[test]
fn who_asks_again_as_soon_as_there_is_an_answer_keeps_no_feature_from_its_work() {
    let report = || {
        let (reply, _) = oneshot::channel();
        Input::Report { wide: false, reply }
    };
    let ask = || Input::Ask(Question::new(|_| (), oneshot::channel().0));
    let who_has = || Input::WhoHas(WhoHas::new([].into(), tokio::sync::mpsc::channel(1).0));
    for question in [report, ask, who_has] {
        let (fake, syncs, nodes) = Fake::new("fake", 0);
        let (inputs, outputs) = mpsc::channel();
        let changes = |name| Input::Changes(vec![node(name)]);
        let all = [Input::Listed, question(), changes("a"), changes("b")];
        // The channel is never empty, as when the answer wakes who asks before the loop goes on.
        let all = all.into_iter().chain([question(), question(), Input::Stop]);
        all.for_each(|input| inputs.send(input).unwrap());
        reconcile(vec![Box::new(fake)]).run(&outputs);
        let counts = [syncs, nodes].map(|count| count.load(Ordering::SeqCst));
        assert_eq!(counts, [2, 2], "syncs, and Nodes that were seen");
    }
}

#[test]
fn nothing_is_synced_before_everything_is_listed() {
    let (fake, syncs, _) = Fake::new("fake", 0);
    let mut it = reconcile(vec![Box::new(fake)]);
    it.take(Input::Changes(vec![node("a")]));
    it.turn(Instant::now());
    assert_eq!(syncs.load(Ordering::SeqCst), 0);
    it.take(Input::Listed);
    it.turn(Instant::now());
    assert_eq!(syncs.load(Ordering::SeqCst), 1);
    assert_eq!(it.pause(Instant::now()), None);
}

#[test]
fn the_plugin_does_not_wait_for_an_agent_that_waits_for_the_cluster() {
    let (fake, _, told) = Fake::new("fake", 0);
    let mut it = reconcile(vec![Box::new(fake)]);
    let tell = |it: &mut Reconcile| {
        let (reply, mut answer) = tokio::sync::mpsc::channel(1);
        let news = Told::new(News::Came, Attachment::default(), reply);
        it.take(Input::Told(Box::new(news)));
        // The end without an answer is one, too.
        assert!(answer.try_recv().is_err() && answer.is_closed());
        told.load(Ordering::SeqCst)
    };
    assert_eq!(tell(&mut it), 0, "no feature keeps it");
    it.take(Input::Listed);
    assert_eq!(tell(&mut it), 1);
}

#[test]
fn many_changes_make_one_sync_and_no_change_makes_none() {
    let (fake, syncs, nodes) = Fake::new("fake", 0);
    let mut it = reconcile(vec![Box::new(fake)]);
    it.take(Input::Listed);
    it.turn(Instant::now());
    it.take(Input::Changes(vec![node("a"), node("b")]));
    it.take(Input::Changes(vec![node("c"), node("a")]));
    it.turn(Instant::now());
    assert_eq!(
        (syncs.load(Ordering::SeqCst), nodes.load(Ordering::SeqCst)),
        (2, 3)
    );
    it.take(Input::Changes(vec![node("c")]));
    it.turn(Instant::now());
    assert_eq!(syncs.load(Ordering::SeqCst), 2);
}

#[test]
fn a_failing_feature_is_tried_again_and_stops_no_other() {
    let (bad, bad_syncs, _) = Fake::new("bad", 2);
    let (good, good_syncs, _) = Fake::new("good", 0);
    let mut it = reconcile(vec![Box::new(bad), Box::new(good)]);
    it.take(Input::Listed);
    let mut now = Instant::now();
    it.turn(now);
    assert_eq!(good_syncs.load(Ordering::SeqCst), 1);
    assert!(!it.parts().0.ready_for_pods);
    let mut pauses = Vec::new();
    while let Some(pause) = it.pause(now) {
        pauses.push(pause);
        now += pause;
        it.turn(now);
    }
    assert_eq!(bad_syncs.load(Ordering::SeqCst), 3);
    assert_eq!(good_syncs.load(Ordering::SeqCst), 1);
    assert!(pauses.len() == 2 && pauses[1] > pauses[0], "{pauses:?}");
    assert!(it.parts().0.ready_for_pods);
}

#[test]
fn what_is_tried_again_for_single_objects_leaves_the_agent_healthy_and_an_error_does_not() {
    let livez_with = |failures, again| {
        let (mut fake, syncs, _) = Fake::new("fake", failures);
        fake.again = again;
        let mut it = reconcile(vec![Box::new(fake)]);
        // Whatever waits at all waits too long.
        it.shared.health = SharedHealth::new(Health::new(Duration::ZERO));
        it.take(Input::Listed);
        let mut now = Instant::now();
        it.turn(now);
        for _ in 0..5 {
            now += it.pause(now).unwrap_or_default();
            it.turn(now);
        }
        let livez = it.shared.health.with(|health| health.livez(Moment::now()));
        (syncs.load(Ordering::SeqCst), livez.good)
    };
    assert_eq!(livez_with(0, true), (6, true));
    assert_eq!(livez_with(100, false), (6, false));
}

#[test]
fn only_what_others_undid_counts_as_a_repair() {
    let (fake, ..) = Fake::new("fake", 0);
    let mut it = reconcile(vec![Box::new(fake)]);
    let repairs = |it: &Reconcile| {
        let text = it
            .shared
            .metrics
            .text(crate::metrics::TextFormat::OpenMetrics);
        text.lines()
            .filter(|line| line.starts_with("podwire_repairs_total{"))
            .map(|line| line.rsplit(' ').next().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    // A start: the files are announced before anything was written.
    it.take(Input::Listed);
    it.take(Input::Files);
    it.turn(Instant::now());
    it.take(Input::Changes(vec![node("a")]));
    it.turn(Instant::now());
    assert!(repairs(&it).iter().all(|count| count == "0"));
    it.take(Input::Files);
    it.turn(Instant::now());
    assert_eq!(repairs(&it), ["1"]);
}

#[test]
fn features_hear_that_the_api_server_has_a_new_address() {
    let (fake, syncs, _) = Fake::new("fake", 0);
    let mut it = reconcile(vec![Box::new(fake)]);
    it.take(Input::Listed);
    it.turn(Instant::now());
    let before = syncs.load(Ordering::SeqCst);
    it.take(Input::ApiServerAddress);
    it.turn(Instant::now());
    assert_eq!(syncs.load(Ordering::SeqCst), before + 1);
}

#[test]
fn the_loop_answers_and_stops() {
    let (fake, _, _) = Fake::new("fake", 0);
    let it = reconcile(vec![Box::new(fake)]);
    let (sender, receiver) = mpsc::channel();
    let (reply, mut answer) = tokio::sync::oneshot::channel();
    sender.send(Input::Listed).unwrap();
    sender.send(Input::Report { wide: false, reply }).unwrap();
    sender.send(Input::Stop).unwrap();
    it.run(&receiver);
    assert_eq!(answer.try_recv().unwrap().features[0].name, "fake");
}

fn name(name: &str) -> ObjectName {
    ObjectName {
        namespace: Arc::from("default"),
        name: Arc::from(name),
    }
}

fn service(text: &str) -> Change {
    Change::Set(Object::Service(Service::named(name(text))))
}

fn slice(text: &str, last_change: u64) -> Change {
    let slice = EndpointSlice {
        name: name(text),
        service: name("web"),
        ports: Default::default(),
        endpoints: Default::default(),
        last_change: Some(last_change),
        invalid: Default::default(),
    };
    Change::Set(Object::EndpointSlice(slice))
}

/// What Prometheus reads of changes: pending and total ones of Services, then of EndpointSlices.
fn changes(it: &Reconcile) -> [u64; 4] {
    let text = it
        .shared
        .metrics
        .text(crate::metrics::TextFormat::OpenMetrics);
    [
        "service_changes_pending",
        "service_changes_total",
        "endpoint_changes_pending",
        "endpoint_changes_total",
    ]
    .map(|name| {
        let start = format!("kubeproxy_sync_proxy_rules_{name} ");
        let value = text.lines().find_map(|line| line.strip_prefix(&start));
        value.unwrap().parse().unwrap()
    })
}

#[test]
fn changes_are_pending_from_their_arrival_until_a_sync_of_services_has_succeeded() {
    let (mut proxy, ..) = Fake::new("proxy", 1);
    proxy.programs_services = true;
    let (other, ..) = Fake::new("other", 100);
    let mut it = reconcile(vec![Box::new(proxy), Box::new(other)]);
    let mut now = Instant::now();
    it.take(Input::Changes(vec![
        service("web"),
        service("db"),
        slice("web-1", 1),
    ]));
    it.turn(now);
    assert_eq!(changes(&it), [2, 2, 1, 1], "before everything is listed");
    it.take(Input::Listed);
    it.turn(now);
    assert_eq!(changes(&it), [2, 2, 1, 1], "after a sync that failed");
    // A Service is pending once however often it changes, a slice as often as it does; an object
    // that arrives as it was is only counted.
    it.take(Input::Changes(vec![
        Change::Gone(Key::Service(name("web"))),
        service("web"),
        slice("web-1", 2),
        slice("web-1", 3),
        slice("web-1", 3),
        node("a"),
    ]));
    it.turn(now);
    assert_eq!(changes(&it), [0, 4, 0, 4], "after a sync that succeeded");
    now += Duration::from_secs(1);
    it.take(Input::Changes(vec![service("db")]));
    it.turn(now);
    assert_eq!(changes(&it), [0, 5, 0, 4], "nothing changed");
}

#[test]
fn changes_that_arrive_while_syncs_fail_are_added_to_those_that_wait() {
    let (mut proxy, ..) = Fake::new("proxy", 2);
    proxy.programs_services = true;
    let mut it = reconcile(vec![Box::new(proxy)]);
    let now = Instant::now();
    it.take(Input::Listed);
    it.turn(now);
    for (change, pending) in [(slice("a", 1), 1), (slice("a", 2), 0)] {
        it.take(Input::Changes(vec![change]));
        it.turn(now);
        assert_eq!(changes(&it)[2], pending);
    }
}

#[test]
fn what_another_program_changes_without_pause_is_repaired_with_pauses_and_a_warning() {
    let (fake, syncs, _) = Fake::new("fake", 0);
    let mut it = reconcile(vec![Box::new(fake)]);
    it.take(Input::Listed);
    let mut now = Instant::now();
    it.turn(now);
    let quarrel = |it: &Reconcile| it.warnings.count("repairs");
    // Nothing that the feature writes stays for longer than a millisecond.
    let end = now + Duration::from_secs(60);
    while now < end {
        now += Duration::from_millis(1);
        it.take(Input::Files);
        it.turn(now);
    }
    let done = syncs.load(Ordering::SeqCst);
    assert!((25..45).contains(&done), "{done} syncs in a minute");
    assert_eq!(quarrel(&it), 1);
    let report = it.report(false);
    let of_repairs = report.warnings.iter().find(|one| one.feature == "repairs");
    let text = &of_repairs.unwrap().text;
    assert!(
        text.contains("a second podwire-agent with other settings"),
        "{text}"
    );
    // What the cluster wants does not wait.
    it.take(Input::Changes(vec![node("a")]));
    it.turn(now);
    assert_eq!(syncs.load(Ordering::SeqCst), done + 1);
    now += Duration::from_secs(40);
    it.turn(now);
    assert_eq!(quarrel(&it), 0);
    it.take(Input::Files);
    it.turn(now);
    let before = syncs.load(Ordering::SeqCst);
    it.take(Input::Files);
    it.turn(now + Duration::from_millis(1));
    assert_eq!(syncs.load(Ordering::SeqCst), before + 1, "at once again");
}

#[test]
fn the_links_of_many_pods_that_end_at_once_are_no_repairs() {
    let (fake, syncs, _) = Fake::new("fake", 0);
    let mut it = reconcile(vec![Box::new(fake)]);
    it.take(Input::Listed);
    let now = Instant::now();
    it.turn(now);
    for index in 1..=500 {
        it.take(Input::Kernel(KernelEvent::Link {
            index,
            name: format!("veth{index}"),
            up: false,
            gone: true,
        }));
        it.turn(now);
    }
    assert_eq!(syncs.load(Ordering::SeqCst), 501, "each at once");
    assert_eq!(it.warnings.count("repairs"), 0);
}
