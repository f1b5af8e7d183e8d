//! The connectivity test in labs: all is well in a healthy one, and each fault that is planted makes
//! it fail and is named.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use podwire_desk::test::case::Group;
use podwire_desk::test::ground::{Ground, GroundError, Laid, Place, Ran};
use podwire_desk::test::plan::{Plan, World};
use podwire_desk::test::report;
use podwire_desk::test::run::{self, Done, Outcome, Pace, Progress};
use podwire_lab::connectivity::{LabGround, NAMESPACE, agents};
use podwire_lab::launch::{Launch, Room};
use podwire_lab::topology::{Families, Topology};
use podwire_lab::{Lab, layout};
use serde_json::json;

struct Quiet;

impl Progress for Quiet {
    fn stage(&self, _: &str) {}
    fn case(&self, _: &Done, _: usize, _: usize) {}
}

/// A lab in which something is done to it once everything is there.
struct Planted {
    ground: LabGround,
    lab: Arc<Lab>,
    plant: fn(&Lab),
}

impl Ground for Planted {
    async fn world(&self) -> Result<World, GroundError> {
        self.ground.world().await
    }

    async fn clear(&self) -> Result<Vec<String>, GroundError> {
        self.ground.clear().await
    }

    async fn prepare(&self, plan: &Plan) -> Result<Laid, GroundError> {
        let laid = self.ground.prepare(plan).await?;
        (self.plant)(&self.lab);
        Ok(laid)
    }

    async fn run(
        &self,
        place: &Place,
        command: &[String],
        limit: Duration,
    ) -> Result<Ran, GroundError> {
        self.ground.run(place, command, limit).await
    }

    async fn clean(&self) -> Result<(), GroundError> {
        self.ground.clean().await
    }
}

async fn tried(lab: &Arc<Lab>, plant: fn(&Lab)) -> Outcome {
    let ground = Planted {
        ground: LabGround::new(Arc::clone(lab), None),
        lab: Arc::clone(lab),
        plant,
    };
    let pace = Pace {
        parallel: 16,
        again: vec![Duration::from_millis(500)],
    };
    let agents = agents(lab).await.unwrap();
    let never = std::future::pending();
    run::run(&ground, &agents, &pace, &Quiet, never)
        .await
        .unwrap()
        .unwrap()
}

async fn passes(topology: &Topology) {
    let lab = Arc::new(Lab::for_test(topology).unwrap());
    let outcome = tried(&lab, |_| ()).await;
    let text = report::render(&outcome);
    println!("{text}");
    assert!(outcome.passed(), "{text}");
    for group in Group::ALL {
        let (_, of) = outcome.count(group);
        let here = !matches!(group, Group::Dns | Group::Api);
        assert_eq!(of > 0, here, "{}", group.title());
    }
    assert!(lab.pods().unwrap().is_empty(), "pods are left");
    let left = lab
        .place()
        .output(&format!("ls {}", layout::MANIFESTS))
        .unwrap();
    assert!(!left.contains(NAMESPACE), "{left}");
}

#[tokio::test]
async fn every_way_works_in_a_lab_of_four_nodes() {
    passes(&Topology::walkthrough(Families::V4)).await;
}

#[tokio::test]
async fn every_way_works_over_both_families() {
    passes(&Topology::pair(Families::Dual)).await;
}

#[tokio::test]
async fn what_a_killed_test_left_is_named_and_taken_away_by_the_next() {
    let lab = Arc::new(Lab::for_test(&Topology::pair(Families::V4)).unwrap());
    let ground = LabGround::new(Arc::clone(&lab), None);
    let plan = Plan::of(&ground.world().await.unwrap());
    ground.prepare(&plan).await.unwrap();
    assert_eq!(lab.pods().unwrap().len(), 4);
    let left = ground.clear().await.unwrap();
    for one in [
        "pod client-0",
        "the server on worker2",
        "the server on internet",
        "manifest podwire-test-service-web.yaml",
    ] {
        assert!(left.iter().any(|left| left == one), "{one}: {left:?}");
    }
    assert!(lab.pods().unwrap().is_empty());
    assert_eq!(ground.clear().await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn a_pod_that_cannot_be_stopped_is_named_and_all_else_goes() {
    let lab = Arc::new(Lab::for_test(&Topology::pair(Families::V4)).unwrap());
    let ground = LabGround::new(Arc::clone(&lab), None);
    let plan = Plan::of(&ground.world().await.unwrap());
    ground.prepare(&plan).await.unwrap();
    // One whose process was ended by someone else, and one whose plugin is not there.
    let dead = lab.pod("server-1").unwrap();
    on(&lab, "worker2", &format!("kill -9 {}", dead.pid()));
    on(&lab, "worker", "umount /opt/cni/bin");
    let error = ground.clear().await.unwrap_err().0;
    assert!(error.contains("pod client-0 ("), "{error}");
    assert!(!error.contains("-1"), "{error}");
    let pods: Vec<_> = lab.pods().unwrap();
    assert!(pods.iter().all(|pod| pod.node() == "worker"), "{pods:?}");
    assert_eq!(
        lab.leftovers()
            .unwrap()
            .iter()
            .filter(|one| one.node() == "worker2")
            .count(),
        0
    );
    let left = format!("ls {} {}", layout::MANIFESTS, layout::NODES);
    let left = lab.place().output(&left).unwrap();
    assert!(!left.contains("podwire-test-"), "{left}");
}

/// Plants a fault in a lab of two nodes; the test must fail in these groups and no others, and name it.
async fn named(plant: fn(&Lab), groups: &[Group], names: &[&str]) {
    let lab = Arc::new(Lab::for_test(&Topology::pair(Families::V4)).unwrap());
    let outcome = tried(&lab, plant).await;
    let text = report::render(&outcome);
    println!("{text}");
    let failed = Group::ALL
        .into_iter()
        .filter(|group| outcome.count(*group).0 > 0);
    let failed: Vec<&str> = failed.map(Group::title).collect();
    assert!(!outcome.passed(), "{text}");
    for group in groups {
        assert!(
            failed.contains(&group.title()),
            "{}: {failed:?}\n{text}",
            group.title()
        );
    }
    for name in names {
        assert!(text.contains(name), "{name:?} is not named:\n{text}");
    }
}

/// Does something on a node again and again, against the agent, which repairs it each time.
fn again_and_again(lab: &Lab, node: &str, line: &str) {
    let line = format!("while :; do {line}; sleep 0.01; done");
    lab.node(node)
        .unwrap()
        .place()
        .launch(&Launch {
            room: Room::Shared,
            command: ["sh", "-c", &line].map(str::to_owned).to_vec(),
            environment: Vec::new(),
            log: None,
        })
        .unwrap();
}

fn on(lab: &Lab, node: &str, line: &str) {
    lab.node(node).unwrap().place().output(line).unwrap();
}

/// Writes a Service's EndpointSlice over.
fn endpoints(lab: &Lab, service: &str, port: u16, addresses: &[&str]) {
    let endpoints: Vec<_> = addresses
        .iter()
        .map(|address| json!({"addresses": [address]}))
        .collect();
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{service}-ipv4"),
            "namespace": NAMESPACE,
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "protocol": "TCP", "port": port}],
        "endpoints": endpoints,
    });
    let name = format!("{NAMESPACE}-endpointslice-{service}-ipv4");
    lab.write_manifest(&name, &slice).unwrap();
}

#[tokio::test]
async fn a_deleted_route_is_named() {
    let plant = |lab: &Lab| again_and_again(lab, "worker", "ip route del 10.10.2.0/24 2>/dev/null");
    named(plant, &[Group::PodToPod], &["10.10.2.0/24"]).await;
}

#[tokio::test]
async fn a_flushed_map_is_named() {
    let plant =
        |lab: &Lab| again_and_again(lab, "worker", "nft flush map ip podwire-services services");
    named(plant, &[Group::ClusterIp], &["podwire-services"]).await;
}

#[tokio::test]
async fn a_policy_is_named() {
    let plant = |lab: &Lab| {
        let policy = json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": "forbid-it", "namespace": NAMESPACE},
            "spec": {"podSelector": {"matchLabels": {"role": "server"}}, "policyTypes": ["Ingress"]},
        });
        lab.write_manifest(&format!("{NAMESPACE}-forbid-it"), &policy)
            .unwrap();
    };
    named(plant, &[Group::PodToPod, Group::ClusterIp], &["forbid-it"]).await;
}

#[tokio::test]
async fn a_service_without_endpoints_is_named() {
    let plant = |lab: &Lab| endpoints(lab, "web", 18080, &[]);
    named(
        plant,
        &[Group::ClusterIp, Group::NodePort],
        &["no endpoints"],
    )
    .await;
}

#[tokio::test]
async fn a_wrong_port_is_named() {
    let plant = |lab: &Lab| endpoints(lab, "web", 9, &["10.10.1.3", "10.10.2.3"]);
    named(plant, &[Group::ClusterIp, Group::NodePort], &[":9"]).await;
}

#[tokio::test]
async fn a_node_that_is_gone_is_named() {
    let plant = |lab: &Lab| on(lab, "worker2", "ip link set eth0 down");
    named(plant, &[Group::PodToPod, Group::PodToNode], &["worker2"]).await;
}

#[tokio::test]
async fn a_smaller_mtu_of_one_node_is_named() {
    let plant = |lab: &Lab| on(lab, "worker2", "ip link set eth0 mtu 1300");
    named(
        plant,
        &[Group::PodToPod],
        &["UDP that fills the MTU", "1300"],
    )
    .await;
}

#[tokio::test]
async fn a_pod_that_sends_from_another_address_is_named() {
    let plant = |lab: &Lab| {
        let pod = lab.pod("client-0").unwrap();
        let line = "ip addr add 10.10.1.99/32 dev eth0 && \
                    ip route replace $(ip route show default | head -n1) src 10.10.1.99";
        pod.place().output(line).unwrap();
    };
    named(plant, &[Group::PodToPod], &["10.10.1.99"]).await;
}

#[tokio::test]
async fn masquerade_that_is_off_is_named() {
    let plant = |lab: &Lab| {
        let node = lab.node("worker").unwrap();
        node.stop_agent("TERM").unwrap();
        node.start_agent_with(&["--masquerade=false"]).unwrap();
        node.wait_ready().unwrap();
    };
    named(plant, &[Group::Outside], &["masquerade"]).await;
}

#[tokio::test]
async fn a_foreign_rule_that_drops_is_named() {
    let plant = |lab: &Lab| {
        on(
            lab,
            "worker2",
            "nft 'add table inet foreign; \
             add chain inet foreign stops { type filter hook forward priority 0; }; \
             add rule inet foreign stops tcp dport 18080 drop'",
        );
    };
    named(plant, &[Group::PodToPod, Group::ClusterIp], &["foreign"]).await;
}
