//! What a packet between two pods of a node costs where policies isolate both.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use podwire_kernel::nft::{Batch, Family, Field, NftSocket, Set, Table, diff};

use crate::Options;
use crate::cases::progress;
use crate::report::Report;
use crate::services::cluster::{Cluster, Endpoints, NODE};
use crate::talk::{
    self, CLIENT, CONNECTIONS, ECHO, Lab, SERVERS, TURN, TURNS, connect, directly, wait_for_end,
};
use crate::world::World;

/// Pods of other nodes that the rules distinguish, and policies about them.
const OTHERS: u32 = 10_000;
const POLICIES: u32 = 1_000;

/// The agent's table, and the set of what was judged before.
const TABLE: &str = "podwire-policy";
const ALLOWED: &str = "allowed";

/// The table of the node without policies.
const OTHER: &str = "bench";

/// What one turn of a lab yields.
type Turn = fn(&Lab) -> Result<f64, String>;

/// First packets, round trips and bytes, beside a node without policies.
pub fn traffic(_: &Options, world: &World, report: &mut Report) -> Result<(), String> {
    progress("two nodes, one of them with policies");
    let open = lab(world, "policies-none", false)?;
    let isolated = lab(world, "policies-some", true)?;
    report.table(
        &format!("Between two pods that are isolated, among {POLICIES} policies"),
        &["", "no policy", "policies", "policies / none"],
    );
    let mut row = |what: &str, turn: Turn| -> Result<(String, f64), String> {
        progress(what);
        let [none, some, ratio] = compare(&open, &isolated, turn)?;
        let cells = [none, some].map(|value| format!("{value:.1}"));
        report.row([what, &cells[0], &cells[1], &format!("{ratio:.3}")]);
        Ok((format!("{what}, policies / none"), ratio))
    };
    let first = row("first packet and its answer, us", first_packets)?;
    let never = row("the same of a pair that never spoke, us", first_of_pairs)?;
    let trips = row("round trips a second on a connection", round_trips)?;
    let bytes = row("throughput of a connection, Gbit/s", throughput)?;
    report.at_most(&first.0, first.1, 1.05);
    report.at_most(&never.0, never.1, 1.05);
    report.at_least(&trips.0, trips.1, 0.98);
    report.at_least(&bytes.0, bytes.1, 0.98);
    Ok(())
}

/// The medians of both, and that of the ratios of the same turn, which the machine's moods hardly
/// reach.
fn compare(open: &Lab, isolated: &Lab, turn: Turn) -> Result<[f64; 3], String> {
    let (mut none, mut some, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    // The first turns fill caches.
    for number in 0..TURNS + 10 {
        let (one, other) = match number % 2 {
            0 => (turn(open)?, turn(isolated)?),
            _ => {
                let other = turn(isolated)?;
                (turn(open)?, other)
            }
        };
        if number >= 10 {
            none.push(one);
            some.push(other);
            ratios.push(other / one);
        }
    }
    Ok([none, some, ratios].map(|mut values: Vec<f64>| {
        values.sort_unstable_by(f64::total_cmp);
        values[values.len() / 2]
    }))
}

fn first_packets(lab: &Lab) -> Result<f64, String> {
    connections(lab, || Ok(()))
}

/// Before each connection the node forgets which pairs have spoken. The node without policies has a
/// set that is emptied as well: so close before a connection that slows it, too.
fn first_of_pairs(lab: &Lab) -> Result<f64, String> {
    let failed = |error: podwire_kernel::Error| error.to_string();
    let kernel = lab.node.enter(NftSocket::open).map_err(failed)?;
    let mut kernel = kernel.map_err(failed)?;
    let table = match kernel.has_table(Family::Ip, TABLE).map_err(failed)? {
        true => TABLE,
        false => OTHER,
    };
    if table == OTHER {
        let set = Set::of(&[Field::IpSaddr]);
        let other = Table::new(Family::Ip, OTHER).with_set(ALLOWED, set);
        let made = kernel.commit(&mut diff(None, &other));
        made.map_err(|error| error.to_string())?;
    }
    connections(lab, || {
        let mut batch = Batch::new();
        batch.table(Family::Ip, table).flush_set(ALLOWED);
        kernel.commit(&mut batch).map_err(std::io::Error::other)
    })
}

/// The median of new connections of one turn, each after `before`, which is not timed.
fn connections(lab: &Lab, mut before: impl FnMut() -> std::io::Result<()>) -> Result<f64, String> {
    lab.in_client(|| {
        let mut times = Vec::new();
        for number in 0..CONNECTIONS as u32 {
            before()?;
            let (stream, time) = connect(directly(number))?;
            wait_for_end(stream)?;
            times.push(time);
        }
        times.sort_unstable();
        let median: Duration = times[times.len() / 2];
        Ok(median.as_secs_f64() * 1e6)
    })
}

fn round_trips(lab: &Lab) -> Result<f64, String> {
    lab.in_client(|| {
        let (mut stream, _) = connect(SocketAddr::from((SERVERS[0], ECHO)))?;
        stream.set_nodelay(true)?;
        let start = Instant::now();
        let mut done = 0u32;
        while start.elapsed() < TURN {
            stream.write_all(b"?")?;
            stream.read_exact(&mut [0])?;
            done += 1;
        }
        let rate = f64::from(done) / start.elapsed().as_secs_f64();
        wait_for_end(stream)?;
        Ok(rate)
    })
}

fn throughput(lab: &Lab) -> Result<f64, String> {
    lab.in_client(|| talk::throughput(directly(0)))
}

fn lab(world: &World, name: &str, policies: bool) -> Result<Lab, String> {
    let cluster = Cluster::write(world.directory(name)?, 0, Endpoints::Elsewhere(0))?;
    if policies {
        cluster.put("pods.yaml", &pods())?;
        cluster.put("policies.yaml", &about())?;
    }
    Lab::with_agent(world, &cluster, &[])
}

/// The client, a pod for each address of the server, and those of other nodes.
fn pods() -> String {
    let mut text = String::from("apiVersion: v1\nkind: Namespace\nmetadata: {name: bench}\n---\n");
    let mut pod = |name: &str, app: &str, node: &str, address: &dyn std::fmt::Display| {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: bench, labels: \
             {{app: {app}}}}}\nspec: {{nodeName: {node}, containers: [{{name: main}}]}}\n\
             status: {{phase: Running, podIP: {address}, podIPs: [{{ip: {address}}}]}}\n---"
        );
    };
    pod("client", "client", NODE, &CLIENT);
    for (number, address) in SERVERS.iter().enumerate() {
        pod(&format!("server-{number}"), "server", NODE, address);
    }
    for number in 0..OTHERS {
        let address = std::net::Ipv4Addr::from(0x0a40_0000 + number);
        let app = format!("app-{}", number % POLICIES);
        pod(&format!("pod-{number}"), &app, "node-1", &address);
    }
    text
}

/// Everything is denied, the client reaches the server, and so do the pods of other nodes, by as many
/// policies.
fn about() -> String {
    let mut text = String::new();
    let mut policy = |name: &str, spec: &str| {
        let _ = writeln!(
            text,
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, \
             namespace: bench}}\nspec: {spec}\n---"
        );
    };
    let labelled = |app: &str| format!("{{podSelector: {{matchLabels: {{app: {app}}}}}}}");
    policy(
        "closed",
        "{podSelector: {}, policyTypes: [Ingress, Egress]}",
    );
    policy(
        "out",
        &format!(
            "{{podSelector: {{matchLabels: {{app: client}}}}, policyTypes: [Egress], egress: \
             [{{to: [{}]}}]}}",
            labelled("server")
        ),
    );
    let mut from = |name: &str, app: &str| {
        policy(
            name,
            &format!(
                "{{podSelector: {{matchLabels: {{app: server}}}}, ingress: [{{from: [{}], ports: \
                 [{{port: 8081}}, {{port: 8082}}]}}]}}",
                labelled(app)
            ),
        );
    };
    from("client", "client");
    for number in 0..POLICIES {
        from(&format!("app-{number}"), &format!("app-{number}"));
    }
    text
}
