//! With real tables and links, and records as the plugin writes them.

use std::fs;
use std::net::IpAddr;

use podwire::attachment::HostPort;
use podwire_kernel::Protocol;
use podwire_kernel::nft::Batch;

use super::contested::given_twice;
use super::*;
use crate::config::services::NodePortAddresses;
use crate::features::services::desired::samples::service;
use crate::features::test_node::{TestNode, delete_pod_link, make_pod_link};
use crate::snapshot::{Change, Dirty, Node, Object};

const HOUR: Duration = Duration::from_secs(3600);

fn node() -> (TestNode, HostPorts) {
    let mut node = TestNode::apart();
    node.config.lease_grace = HOUR;
    let feature = open(&node);
    (node, feature)
}

/// The feature as a new agent has it.
fn open(node: &TestNode) -> HostPorts {
    HostPorts {
        directory: node.path("attachments"),
        ..HostPorts::open().unwrap()
    }
}

/// A container with a host port of its own, and hidden addresses.
fn record(container_id: &str, number: u8) -> Record {
    let address = IpAddr::from([10, 10, 1, number]);
    Record {
        container_id: container_id.to_owned(),
        ifname: "eth0".to_owned(),
        network: "podwire".to_owned(),
        since: number.into(),
        addresses: vec![address],
        host_ports: vec![HostPort {
            protocol: Protocol::Tcp,
            host_ip: None,
            host_port: 8000 + u16::from(number),
            container_port: 80,
        }],
        snat: true,
        ip_masq: vec![ipnetwork::IpNetwork::new(address, 24).unwrap()],
        ..Record::default()
    }
}

/// Writes down and programs what the plugin would for `record`, its link included.
fn attach(feature: &HostPorts, record: &Record) {
    if !record.chained {
        make_pod_link(&record.container_id);
    }
    let records = Records::create(&feature.directory).unwrap();
    records.write(record).unwrap();
    apply(&mut NftSocket::open().unwrap(), record).unwrap();
}

fn is_programmed(record: &Record) -> bool {
    has_all(&mut NftSocket::open().unwrap(), record).unwrap()
}

fn delete_tables() {
    let mut batch = Batch::new();
    for name in [HOSTPORTS, IPMASQ] {
        batch.table(FAMILY, name).delete();
    }
    NftSocket::open().unwrap().commit(&mut batch).unwrap();
}

#[test]
fn deleted_tables_are_made_again_from_the_records_and_nothing_is_written_twice() {
    let (mut node, mut feature) = node();
    let (a, b) = (record("a", 2), record("b", 3));
    attach(&feature, &a);
    attach(&feature, &b);
    assert_eq!(node.writes(&mut feature), 0, "the plugin did it all");
    delete_tables();
    assert_eq!(node.report(&mut feature).differences.len(), 2);
    assert!(node.writes(&mut feature) > 0);
    assert!(is_programmed(&a) && is_programmed(&b));
    assert_eq!(node.report(&mut feature).differences, [""; 0]);
    assert_eq!(node.writes(&mut open(&node)), 0, "after a restart");
}

#[test]
fn a_file_in_the_place_of_the_directory_is_named_and_can_be_removed() {
    let (mut node, mut feature) = node();
    fs::write(&feature.directory, "").unwrap();
    node.writes(&mut feature);
    let warnings = node.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("is no directory"), "{warnings:?}");
    feature.uninstall(&node.config, Removal::Act).unwrap();
    node.writes(&mut feature);
    assert_eq!(node.warnings(), [""; 0]);
}

#[test]
fn the_loop_does_not_wait_for_a_plugin_at_work_but_comes_back() {
    let (mut node, mut feature) = node();
    let a = record("a", 2);
    attach(&feature, &a);
    delete_tables();
    let plugin = Records::open(&feature.directory).unwrap();
    assert_eq!(node.writes(&mut feature), 0);
    assert!(feature.due().unwrap() <= Instant::now() + CALM);
    assert_eq!(node.report(&mut feature).differences, [""; 0], "not yet");
    drop(plugin);
    assert!(node.writes(&mut feature) > 0);
    assert!(is_programmed(&a));
}

#[test]
fn what_a_lost_attachment_had_is_taken_back_after_the_grace_period() {
    let (mut node, mut feature) = node();
    let (lost, kept) = (record("lost", 2), record("kept", 3));
    attach(&feature, &lost);
    attach(&feature, &kept);
    assert_eq!(node.writes(&mut feature), 0);
    assert_eq!(feature.due(), None, "nothing is missing");

    delete_pod_link("lost");
    node.tell_of_lost_link(&mut feature, "veth00000000000");
    assert_eq!(feature.due(), None, "no record is about that link");
    node.tell_of_lost_link(&mut feature, &link(&lost));
    assert!(feature.due().unwrap() <= Instant::now() + signs_of_life::CALM);
    assert_eq!(node.writes(&mut feature), 0);
    assert!(is_programmed(&lost), "within the grace period");

    node.config.lease_grace = Duration::ZERO;
    assert_eq!(node.writes(&mut feature), 1);
    assert!(!is_programmed(&lost) && is_programmed(&kept));
    let records = Records::open(&feature.directory).unwrap().unwrap();
    assert_eq!(records.read_all().unwrap().0, [kept]);
}

#[test]
fn a_record_of_a_chained_plugin_says_nothing_about_links() {
    let (mut node, mut feature) = node();
    node.config.lease_grace = Duration::ZERO;
    let chained = Record {
        chained: true,
        ..record("a", 2)
    };
    attach(&feature, &chained);
    assert_eq!(node.writes(&mut feature), 0);
    assert!(is_programmed(&chained));
    assert_eq!(feature.due(), None);
}

#[test]
fn beside_a_broken_record_the_others_are_still_kept_right_and_nothing_is_taken_out() {
    let (mut node, mut feature) = node();
    let (broken, good) = (record("broken", 2), record("good", 3));
    attach(&feature, &broken);
    attach(&feature, &good);
    let file = feature.directory.join(format!("{}.json", link(&broken)));
    fs::write(&file, "{").unwrap();
    assert_eq!(node.writes(&mut feature), 0);
    assert!(is_programmed(&broken), "whose it is cannot be known");
    let warnings = node.warnings();
    assert!(
        warnings.len() == 1 && warnings[0].contains(file.to_str().unwrap()),
        "{warnings:?}"
    );

    delete_tables();
    assert!(node.writes(&mut feature) > 0);
    assert!(is_programmed(&good) && !is_programmed(&broken));

    fs::remove_file(&file).unwrap();
    node.writes(&mut feature);
    assert_eq!(node.warnings(), [""; 0]);
}

#[test]
fn a_record_that_cannot_be_read_goes_after_its_link_and_takes_its_host_ports_along() {
    let (mut node, mut feature) = node();
    let (broken, good) = (record("broken", 2), record("good", 3));
    attach(&feature, &broken);
    attach(&feature, &good);
    let file = feature.directory.join(format!("{}.json", link(&broken)));
    let others = feature.directory.join("other.portmap.json");
    fs::write(&file, "{").unwrap();
    fs::write(&others, "{").unwrap();
    node.config.lease_grace = Duration::ZERO;
    node.writes(&mut feature);
    let texts = node.warnings().join("\n");
    let expected = format!("replace the pod that has the link {}", link(&broken));
    assert!(texts.contains(&expected), "{texts}");
    assert!(texts.contains("remove this file once its pod"), "{texts}");

    node.config.lease_grace = HOUR;
    delete_pod_link("broken");
    node.tell_of_lost_link(&mut feature, &link(&broken));
    assert!(feature.due().is_some(), "its link is known");
    node.writes(&mut feature);
    assert!(file.exists(), "within the grace period");
    assert!(feature.due().is_some());
    node.config.lease_grace = Duration::ZERO;
    node.writes(&mut feature);
    assert!(!file.exists() && others.exists());
    assert!(is_programmed(&broken), "another one cannot be read yet");
    fs::remove_file(&others).unwrap();
    node.writes(&mut feature);
    assert!(!is_programmed(&broken) && is_programmed(&good));
    assert_eq!(node.warnings(), [""; 0]);
}

#[test]
fn a_record_that_cannot_be_taken_back_stops_nothing_behind_it() {
    use nix::mount::{MsFlags, mount, umount};
    use nix::sched::{CloneFlags, unshare};
    let (mut node, mut feature) = node();
    let [busy, lost, kept] = [("busy", 2), ("lost", 3), ("kept", 4)].map(|(a, b)| record(a, b));
    for record in [&busy, &lost, &kept] {
        attach(&feature, record);
    }
    delete_pod_link("busy");
    delete_pod_link("lost");
    delete_tables();
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    // What something is mounted on cannot be removed.
    let file = feature.directory.join(format!("{}.json", link(&busy)));
    mount(Some(&file), &file, none, MsFlags::MS_BIND, none).unwrap();
    node.config.lease_grace = Duration::ZERO;
    let error = node.sync(&mut feature).unwrap_err().to_string();
    assert!(error.contains("cannot remove attachment record"), "{error}");
    assert!(is_programmed(&kept) && !is_programmed(&lost));
    let records = Records::open(&feature.directory).unwrap().unwrap();
    assert_eq!(records.read_all().unwrap().0, [busy, kept]);
    umount(&file).unwrap();
}

#[test]
fn without_records_there_are_no_tables() {
    let (mut node, mut feature) = node();
    let a = record("a", 2);
    attach(&feature, &a);
    fs::remove_dir_all(&feature.directory).unwrap();
    assert_eq!(node.writes(&mut feature), 2);
    let found = NftSocket::open().unwrap().has_table(FAMILY, HOSTPORTS);
    assert!(!found.unwrap());
    assert_eq!(node.writes(&mut feature), 0);
}

#[test]
fn without_records_the_guard_of_127_0_0_0_stays_as_long_as_a_link_is_open() {
    let (mut node, mut feature) = node();
    let a = record("a", 2);
    attach(&feature, &a);
    fs::remove_dir_all(&feature.directory).unwrap();
    let key = format!("net/ipv4/conf/{}/route_localnet", link(&a));
    podwire_kernel::sysctl::write(&key, "1").unwrap();
    assert!(node.writes(&mut feature) > 0);
    let mut socket = NftSocket::open().unwrap();
    let table = socket.observe(FAMILY, HOSTPORTS).unwrap().unwrap();
    assert!(table.chains.contains_key("guard"));
    assert!(table.sets.iter().all(|(_, set)| set.elements.is_empty()));
    assert!(!socket.has_table(FAMILY, IPMASQ).unwrap());
    assert_eq!(node.writes(&mut feature), 0, "twice");
    podwire_kernel::sysctl::write(&key, "0").unwrap();
    assert_eq!(node.writes(&mut feature), 1);
    assert!(!socket.has_table(FAMILY, HOSTPORTS).unwrap());
    // None is made for a link that others have opened.
    podwire_kernel::sysctl::write(&key, "1").unwrap();
    assert_eq!(node.writes(&mut feature), 0);
}

#[test]
fn uninstall_removes_tables_and_records_once() {
    let (node, mut feature) = node();
    attach(&feature, &record("a", 2));
    let would = feature.uninstall(&node.config, Removal::Look).unwrap();
    assert!(feature.directory.exists());
    let removed = feature.uninstall(&node.config, Removal::Act).unwrap();
    assert_eq!((removed.len(), &removed), (3, &would));
    assert!(!feature.directory.exists());
    assert_eq!(
        feature.uninstall(&node.config, Removal::Act).unwrap(),
        [""; 0]
    );
}

#[test]
fn a_host_port_that_two_pods_have_is_named() {
    let pod = |name: &str, number: u8, port: u16| {
        let mut record = record(name, number);
        record.pod = Some(("default".to_owned(), name.to_owned()));
        record.host_ports[0].host_port = port;
        record
    };
    let both = [
        pod("old", 2, 8080),
        pod("new", 3, 8080),
        pod("other", 4, 8081),
    ];
    // Once for each family.
    let mut warnings = given_twice(&both);
    warnings.dedup();
    assert_eq!(warnings.len(), 1);
    assert_eq!(warnings[0].object, "Pod default/new");
    let expected = "has hostPort 8080/tcp, which Pod default/old of this node has had before";
    assert!(warnings[0].text.starts_with(expected), "{:?}", warnings[0]);
    // Of an attachment that was made again there may be two records.
    assert_eq!(given_twice(&[pod("old", 2, 8080), pod("old", 2, 8080)]), []);
    let mut elsewhere = pod("new", 3, 8080);
    elsewhere.host_ports[0].host_ip = Some(IpAddr::from([127, 0, 0, 1]));
    assert_eq!(given_twice(&[pod("old", 2, 8080), elsewhere]), []);
    // Each has it in a family of its own.
    let mut of_v6 = pod("new", 3, 8080);
    of_v6.addresses = vec!["fd00::3".parse().unwrap()];
    let mut of_v4 = pod("old", 2, 8080);
    of_v4.addresses = vec![IpAddr::from([10, 1, 2, 2])];
    assert_eq!(given_twice(&[of_v4, of_v6]), []);
}

#[test]
fn a_host_port_of_the_agent_of_a_node_port_or_of_a_health_check_is_named_and_ends_with_it() {
    let (mut node, mut feature) = node();
    let mut pod = record("a", 2);
    pod.pod = Some(("shop".to_owned(), "cart".to_owned()));
    let port = |protocol, host_port, host_ip: Option<&str>| HostPort {
        protocol,
        host_ip: host_ip.map(|text| text.parse().unwrap()),
        host_port,
        container_port: 80,
    };
    pod.host_ports = vec![
        port(Protocol::Tcp, 10256, Some("172.18.0.2")),
        port(Protocol::Udp, 10256, None),
        port(Protocol::Tcp, 10249, Some("172.18.0.2")),
        port(Protocol::Tcp, 30080, None),
        port(Protocol::Tcp, 32000, Some("172.18.0.2")),
        port(Protocol::Tcp, 8080, None),
    ];
    attach(&feature, &pod);
    node.writes(&mut feature);
    let of_agent = "Pod shop/cart: has hostPort 10256/tcp, which is a port of the agent itself \
        (--healthz-bind-address) as well";
    let warnings = node.warnings();
    assert_eq!(warnings.len(), 1, "metrics answer elsewhere: {warnings:?}");
    assert!(warnings[0].starts_with(of_agent), "{warnings:?}");

    let web = |text: &str| Object::Service(service(text));
    let balanced = "kind LoadBalancer; cluster-ip 10.200.1.9; port tcp 80 30080; port udp 81 8080; \
        external-local; health 32000";
    let set = |node: &mut TestNode, feature: &mut HostPorts, object| {
        let mut dirty = Dirty::default();
        node.snapshot.apply(Change::Set(object), &mut dirty);
        let noticed = feature.notice(&Event::Objects(&dirty), &node.world());
        node.writes(feature);
        (noticed, node.warnings())
    };
    let (noticed, warnings) = set(&mut node, &mut feature, web(balanced));
    assert!(noticed && warnings.len() == 3, "{warnings:?}");
    for what in [
        "hostPort 30080/tcp, which is a node port of Service default/web",
        "hostPort 32000/tcp, which is the healthCheckNodePort of Service default/web",
    ] {
        assert!(
            warnings.iter().any(|one| one.contains(what)),
            "{warnings:?}"
        );
    }
    let inside = "cluster-ip 10.200.1.9; port tcp 80 30080";
    let (noticed, warnings) = set(&mut node, &mut feature, web(inside));
    assert!(noticed && warnings.len() == 1, "{warnings:?}");
    let other = "kind NodePort; cluster-ip 10.200.1.9; port tcp 80 30081";
    let (noticed, _) = set(&mut node, &mut feature, web(other));
    assert!(!noticed, "no host port is concerned");
    node.config.healthz_bind_address.0 = Some("127.0.0.1:10256".parse().unwrap());
    node.writes(&mut feature);
    assert_eq!(node.warnings(), [""; 0]);
}

#[test]
fn a_host_port_at_an_address_where_nothing_else_answers_is_not_named() {
    let (mut node, mut feature) = node();
    let port = |host_port, host_ip: &str| HostPort {
        protocol: Protocol::Tcp,
        host_ip: Some(host_ip.parse().unwrap()),
        host_port,
        container_port: 80,
    };
    let mut pod = record("a", 2);
    pod.host_ports = vec![
        port(10256, "fd00::2"),
        port(30080, "172.18.0.2"),
        port(30081, "::"),
        port(30082, "0.0.0.0"),
    ];
    attach(&feature, &pod);
    node.config.services.node_port_addresses = NodePortAddresses::Primary;
    node.config.healthz_bind_address.0 = Some("0.0.0.0:10256".parse().unwrap());
    let mut apply = |node: &mut TestNode, object| {
        let mut dirty = Dirty::default();
        node.snapshot.apply(Change::Set(object), &mut dirty);
        let noticed = feature.notice(&Event::Objects(&dirty), &node.world());
        node.writes(&mut feature);
        let all = node.warnings().into_iter();
        let named = all.map(|one| one.split(['/', ' ']).nth(4).unwrap().to_owned());
        (noticed, named.collect::<Vec<_>>())
    };
    let web = "kind NodePort; cluster-ip 10.200.1.9; port tcp 80 30080; port tcp 81 30081; \
        port tcp 82 30082";
    let at = |address: &str| {
        Object::Node(Node {
            internal_ips: vec![address.parse().unwrap()],
            ..Node::named("worker")
        })
    };
    apply(&mut node, at("172.18.0.3"));
    let (_, named) = apply(&mut node, Object::Service(service(web)));
    assert_eq!(named, ["30082"]);
    let (noticed, named) = apply(&mut node, at("172.18.0.2"));
    assert_eq!((noticed, &*named.join(" ")), (true, "30080 30082"));
    // What does not change who has which port takes no sync.
    let (noticed, _) = apply(
        &mut node,
        Object::Service(service(&format!("{web}; affinity 60"))),
    );
    assert!(!noticed);
    node.config.healthz_bind_address.0 = Some("[::]:10256".parse().unwrap());
    let (_, named) = apply(&mut node, at("fd00::3"));
    assert_eq!(named.join(" "), "10256 30081 30082");
}
