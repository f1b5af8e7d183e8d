//! What a packet between two pods of a node costs where policies isolate both, beside a node without
//! policies and one on which the same objects are laid out as kube-router does.

use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::objects::{Objects, POLICIES, address_of, changed};
use super::router;
use super::turns::{
    TABLE, Turn, compare, connections_of_pairs, first_of_pairs, first_packets, round_trips,
    throughput,
};
use crate::Options;
use crate::cases::progress;
use crate::report::Report;
use crate::services::cluster::{Cluster, Endpoints, TARGET};
use crate::services::notice::Notices;
use crate::statistics::Times;
use crate::talk::{Lab, SERVERS};
use crate::world::World;

/// How often one policy is changed.
const CHANGES: u32 = 20;

/// Three nodes with the same pods.
struct Sides {
    objects: Objects,
    /// The manifests of the node with policies.
    cluster: Cluster,
    podwire: Lab,
    router: Lab,
    none: Lab,
    /// Where the other layout's file is written.
    directory: PathBuf,
}

/// First packets, round trips and bytes, beside a node without policies.
///
/// A pair that never spoke is measured twice, and only its whole connection has a target: that of
/// the first packet is about pairs that have spoken, because pairs are forgotten only after an hour
/// or with a change that takes something away.
pub fn traffic(_: &Options, world: &World, report: &mut Report) -> Result<(), String> {
    progress("three nodes, two of them with policies");
    let sides = Sides::make(world)?;
    let loaded = sides.load()?;
    let changes = sides.changes()?;
    let sides = sides.without_agents();
    sides.check()?;
    report.table(
        &format!("Between two pods that are isolated, among {POLICIES} policies"),
        &[
            "",
            "podwire",
            "router",
            "no policy",
            "podwire/none",
            "router/none",
        ],
    );
    let mut row = |what: &str, turn: Turn| -> Result<(String, f64), String> {
        progress(what);
        let (medians, ratios) = compare([&sides.podwire, &sides.router, &sides.none], turn)?;
        let [podwire, router, none] = medians.map(|value| format!("{value:.1}"));
        let [ours, theirs] = ratios.map(|value| format!("{value:.3}"));
        report.row([what, &podwire, &router, &none, &ours, &theirs]);
        Ok((format!("{what}, policies / none"), ratios[0]))
    };
    let first = row("first packet and its answer, us", first_packets)?;
    row("the same of a pair that never spoke, us", first_of_pairs)?;
    let whole = row(
        "a whole connection of a pair that never spoke, us",
        connections_of_pairs,
    )?;
    let trips = row("round trips a second on a connection", round_trips)?;
    let bytes = row("throughput of a connection, Gbit/s", throughput)?;
    report.at_most(&first.0, first.1, 1.05);
    report.at_most(&whole.0, whole.1, 1.05);
    report.at_least(&trips.0, trips.1, 0.98);
    report.at_least(&bytes.0, bytes.1, 0.98);
    sides.kernel(loaded, changes, report)
}

impl Sides {
    fn make(world: &World) -> Result<Self, String> {
        let objects = Objects::new();
        let cluster = |name| Cluster::write(world.directory(name)?, 0, Endpoints::Elsewhere(0));
        let open = |name| Lab::with_agent(world, &cluster(name)?, &[]);
        let isolated = cluster("policies-some")?;
        isolated.put("pods.yaml", &objects.pod_manifests())?;
        isolated.put("policies.yaml", &objects.policy_manifests())?;
        isolated.put("changed.yaml", &changed(0).manifest())?;
        Ok(Self {
            podwire: Lab::with_agent(world, &isolated, &[])?,
            router: open("policies-router")?,
            none: open("policies-none")?,
            directory: world.directory("router")?,
            cluster: isolated,
            objects,
        })
    }

    /// Writes everything in the other layout; how long the agent's first sync took, and that.
    fn load(&self) -> Result<[Duration; 2], String> {
        let agent = self.podwire.agent.as_ref();
        let agent = agent.ok_or("the node with policies has no agent")?;
        let read = agent.await_log("read manifests")?;
        let done = agent.await_log("CNI configuration is in place")?;
        Ok([done - read, self.sync(0)?])
    }

    /// The same nodes, whose rules stay. The bench makes one forget pairs; its agent would look what
    /// has changed in the middle of the connections that are timed.
    fn without_agents(self) -> Self {
        Self {
            podwire: self.podwire.without_agent(),
            router: self.router.without_agent(),
            none: self.none.without_agent(),
            ..self
        }
    }

    fn sync(&self, round: u32) -> Result<Duration, String> {
        let directory = self.directory.clone();
        router::sync(&self.router.node, directory, &self.objects, round)
    }

    /// Rules that let everything through would be quick: a port that no policy names must be closed
    /// on both nodes, and only there.
    fn check(&self) -> Result<(), String> {
        let sides = [
            ("podwire", &self.podwire, false),
            ("router", &self.router, false),
            ("no policy", &self.none, true),
        ];
        let target = SocketAddr::from((SERVERS[0], TARGET));
        for (name, lab, expected) in sides {
            let patience = Duration::from_millis(500);
            let answers =
                lab.in_client(|| Ok(TcpStream::connect_timeout(&target, patience).is_ok()))?;
            if answers != expected {
                return Err(format!("{name}: port {TARGET} answers: {answers}"));
            }
        }
        Ok(())
    }

    /// What the kernel holds, and how long it takes until it does.
    fn kernel(
        &self,
        loaded: [Duration; 2],
        [ours, theirs]: [Times; 2],
        report: &mut Report,
    ) -> Result<(), String> {
        let nodes = [
            (&self.podwire.node, TABLE),
            (&self.router.node, router::TABLE),
        ];
        let [podwire, router] = nodes.map(|(node, table)| router::size(node, table));
        let (podwire, router) = (podwire?, router?);
        report.table(
            "The same objects in the kernel, 110 pods of the node",
            &["", "podwire", "router"],
        );
        let milliseconds =
            |times: [Duration; 2]| times.map(|time| format!("{:.1}", time.as_secs_f64() * 1000.0));
        let [one, other] = milliseconds(loaded);
        report.row(["first sync; nft -f of everything, ms", &one, &other]);
        for (what, share) in [("median", 0.5), ("slowest", 1.0)] {
            let [one, other] = milliseconds([ours.quantile(share), theirs.quantile(share)]);
            let what = format!("one policy changed: file to commit; nft -f, ms, {what}");
            report.row([&what, &one, &other]);
        }
        for (what, place) in [("rules", 0), ("elements", 1)] {
            let [one, other] = [podwire, router].map(|size| size[place].to_string());
            report.row([what, &one, &other]);
        }
        Ok(())
    }

    /// One policy changes: here from the file that is renamed in to the kernel's notification, there
    /// the sync alone.
    fn changes(&self) -> Result<[Times; 2], String> {
        progress("one policy changes");
        let mut notices = Notices::listen(&self.podwire.node)?;
        let [mut ours, mut theirs] = [Times::default(), Times::default()];
        for round in 1..=CHANGES {
            notices.forget();
            let before = Instant::now();
            self.cluster
                .put("changed.yaml", &changed(round).manifest())?;
            ours.add(notices.await_address(address_of(round))? - before);
            theirs.add(self.sync(round)?);
        }
        Ok([ours, theirs])
    }
}
