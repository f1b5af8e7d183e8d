//! What policies cost: a pod that starts, the agent's memory, and packets.

mod objects;
mod off;
mod router;
mod traffic;
mod turns;

use crate::Options;
use crate::api::Api;
use crate::cases::{alternate, progress};
use crate::report::Report;
use crate::services::agent::{self, Agent};
use crate::services::cluster::{Cluster, Endpoints, NODE};
use crate::sides::{Programs, Side};
use crate::world::World;
pub use off::off;
pub use traffic::traffic;

/// ADD may take so much longer where policies are about the pod, in ms.
const LIMIT: f64 = 1.0;
/// It may take this many times as long where there is no policy in the cluster.
const NOTHING_MORE: f64 = 1.05;

/// ADD without an agent, beside an agent whose cluster has no policy, and beside one that has some.
pub fn start(options: &Options, world: &World, report: &mut Report) -> Result<(), String> {
    progress("agents with and without policies");
    let without = Cluster::write(world.directory("open")?, 0, Endpoints::Elsewhere(0))?;
    let with = Cluster::write(world.directory("isolated")?, 0, Endpoints::Elsewhere(0))?;
    with.put("policies.yaml", &policies())?;
    // An agent without policies has no table; the other has it where the pods start.
    let (elsewhere, here) = (agent::node()?, agent::node()?);
    let mut agents = [
        Agent::start(world, &elsewhere, &without)?,
        Agent::start(world, &here, &with)?,
    ];
    for agent in &mut agents {
        agent.await_ready()?;
        agent.await_idle()?;
    }
    report.section("One pod at a time, IPv4, and NetworkPolicies");
    let side = |name| Side::new(world, name, Programs::Podwire);
    let sides = [
        side("no agent")?,
        side("an agent, no policy")?.beside(&without.state()),
        side("an agent, policies about the pod")?.beside(&with.state()),
    ];
    let times = here.enter(|| alternate(options, world, report, &sides));
    let [alone, open, isolated] = times.map_err(|error| error.to_string())??;
    let (alone, open) = (alone.median().as_secs_f64(), open.median().as_secs_f64());
    let isolated = isolated.median().as_secs_f64();
    report.at_most(
        "an agent, no policy / no agent, ADD",
        open / alone,
        NOTHING_MORE,
    );
    report.at_most(
        "policies about the pod, ADD, ms more than without any",
        (isolated - open) * 1000.0,
        LIMIT,
    );
    Ok(())
}

/// Pods of the clusters whose policies an agent keeps, and how much memory it may use, in MiB.
const CLUSTERS: [(usize, f64); 2] = [(10_000, 30.0), (100_000, 90.0)];

/// Memory of an agent that has read pods and policies from an API server.
pub fn memory(_: &Options, world: &World, report: &mut Report) -> Result<(), String> {
    report.table(
        "The agent, pods and a tenth as many policies from an API server",
        &["pods", "in the kernel, s", "MiB", "peak"],
    );
    for (pods, limit) in CLUSTERS {
        progress(&format!("an agent with {pods} pods"));
        let node = agent::node()?;
        let directory = world.directory(&format!("policies-{pods}"))?;
        let kubeconfig = Api::serve(&node, pods, &directory)?;
        let source = format!("--kubeconfig={}", kubeconfig.display());
        let mut agent = Agent::start_from(world, &node, &directory, &source, &[])?;
        let ready = agent.await_ready()?;
        agent.await_idle()?;
        let (now, peak) = (agent.memory("VmRSS")?, agent.memory("VmHWM")?);
        let cells = [
            pods.to_string(),
            format!("{:.2}", ready.as_secs_f64()),
            format!("{now:.1}"),
            format!("{peak:.1}"),
        ];
        report.row(cells.each_ref().map(String::as_str));
        let text = format!("agent with {pods} pods and policies, resident memory in MiB");
        report.at_most(&text, now, limit);
    }
    Ok(())
}

/// The pod of every call, and two policies about it.
fn policies() -> String {
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: default}}\n---\n\
         apiVersion: v1\nkind: Pod\nmetadata: {{name: web-5d4f, namespace: default, \
         labels: {{app: web}}}}\nspec: {{nodeName: {NODE}, containers: [{{name: web}}]}}\n\
         status: {{phase: Pending}}\n---\n\
         apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: closed, \
         namespace: default}}\nspec: {{podSelector: {{}}, policyTypes: [Ingress, Egress]}}\n---\n\
         apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: web, \
         namespace: default}}\nspec: {{podSelector: {{matchLabels: {{app: web}}}}, ingress: \
         [{{from: [{{podSelector: {{}}}}], ports: [{{port: 80}}]}}]}}\n"
    )
}
