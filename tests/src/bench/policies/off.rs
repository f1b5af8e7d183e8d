//! What is left of policies where they are switched off: nothing in the kernel, and nothing in the time of
//! a packet.

use podwire_kernel::nft::{Family, NftSocket};

use super::objects::Objects;
use super::turns::{TABLE, Turn, compare, first_packets, round_trips, throughput};
use crate::Options;
use crate::cases::progress;
use crate::report::Report;
use crate::services::agent::Agent;
use crate::services::cluster::{Cluster, Endpoints};
use crate::talk::Lab;
use crate::world::World;

/// The flag of an agent without policies.
const OFF: &str = "--network-policy=false";

/// A node whose policies were switched off, one that waits for policies, and one that never had any.
pub fn off(_: &Options, world: &World, report: &mut Report) -> Result<(), String> {
    progress("three nodes without policies");
    let cluster = |name| Cluster::write(world.directory(name)?, 0, Endpoints::Elsewhere(0));
    let switched = switched_off(world, &cluster("policies-were")?)?;
    let waiting = Lab::with_agent(world, &cluster("policies-may-come")?, &[])?;
    let never = Lab::with_agent(world, &cluster("policies-never")?, &[OFF])?;
    report.table(
        "Between two pods of a node without policies",
        &[
            "",
            "switched off",
            "none yet",
            "never",
            "off/never",
            "none/never",
        ],
    );
    let rows: [(&str, Turn); 3] = [
        ("first packet and its answer, us", first_packets),
        ("round trips a second on a connection", round_trips),
        ("throughput of a connection, Gbit/s", throughput),
    ];
    for (what, turn) in rows {
        progress(what);
        let (medians, ratios) = compare([&switched, &waiting, &never], turn)?;
        let [switched, waiting, never] = medians.map(|value| format!("{value:.1}"));
        let [off, none] = ratios.map(|value| format!("{value:.3}"));
        report.row([what, &switched, &waiting, &never, &off, &none]);
        for (ratio, side) in ratios.into_iter().zip(["switched off", "none yet"]) {
            let text = format!("{what}, {side} / never");
            match what.ends_with("us") {
                true => report.at_most(&text, ratio, 1.02),
                false => report.at_least(&text, ratio, 0.98),
            }
        }
    }
    Ok(())
}

/// A node that has had policies about all its pods, and whose agent was started again without them.
fn switched_off(world: &World, cluster: &Cluster) -> Result<Lab, String> {
    let objects = Objects::new();
    cluster.put("pods.yaml", &objects.pod_manifests())?;
    cluster.put("policies.yaml", &objects.policy_manifests())?;
    let mut lab = Lab::with_agent(world, cluster, &[])?;
    if !has_table(&lab)? {
        return Err(format!("the node with policies has no table {TABLE}"));
    }
    // The old one ends before the new one starts: they have one directory.
    lab = lab.without_agent();
    let mut agent = Agent::start_with(world, &lab.node, cluster, &[OFF])?;
    agent.await_ready()?;
    agent.await_idle()?;
    lab.agent = Some(agent);
    if has_table(&lab)? {
        return Err(format!(
            "the table {TABLE} is there though policies are switched off"
        ));
    }
    Ok(lab)
}

fn has_table(lab: &Lab) -> Result<bool, String> {
    let failed = |error: podwire_kernel::Error| error.to_string();
    let socket = lab.node.enter(NftSocket::open).map_err(failed)?;
    let has = socket.map_err(failed)?.has_table(Family::Ip, TABLE);
    has.map_err(failed)
}
