//! A lab as the ground of the connectivity test: its own pods, Services as manifests, and servers
//! in the networks of its nodes.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;
use std::{fs, io};

use podwire_agent::error::chain;
use podwire_desk::fleet::Fleet;
use podwire_desk::reach;
use podwire_desk::reach::command::Commands;
use podwire_desk::said::Said;
use podwire_desk::test::case::{Family, Role, Service, Spot, name};
use podwire_desk::test::command::{self, Flags};
use podwire_desk::test::explain::Agents;
use podwire_desk::test::ground::{
    Ground, GroundError, HTTP, Laid, Outside, PORT, Place, Portal, Ran, UDP,
};
use podwire_desk::test::objects;
use podwire_desk::test::plan::{Node, Plan, World};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::error::Error;
use crate::lab::{self, Lab};
use crate::launch::{Launch, Room};
use crate::node::Node as Machine;
use crate::pod::{self, Pod, PodSpec, Servers};
use crate::topology::{self, Families};
use crate::{binaries, layout, wait};

/// The Kubernetes namespace of its pods.
pub const NAMESPACE: &str = "podwire-test";

/// The first NodePort.
const NODE_PORT: u16 = 31_180;

/// The last byte of the first ClusterIP.
const FIRST: u16 = 150;

/// How long the agents may take to have the Services; who has them not then is a finding.
const SETTLED: Duration = Duration::from_secs(10);

/// A lab in which to try things.
pub struct LabGround {
    lab: Arc<Lab>,
    outside: Option<Vec<Outside>>,
    /// Nothing is to be made any more.
    over: Arc<AtomicBool>,
}

impl LabGround {
    /// In this lab. `outside` is what is asked beyond its router; a server of the test's own there, if
    /// no one says what.
    pub fn new(lab: Arc<Lab>, outside: Option<Vec<Outside>>) -> Self {
        Self {
            lab,
            outside,
            over: Arc::default(),
        }
    }

    /// Does something that blocks.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Lab) -> crate::error::Result<T> + Send + 'static,
    ) -> Result<T, GroundError> {
        let lab = Arc::clone(&self.lab);
        let done = tokio::task::spawn_blocking(move || work(&lab)).await;
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
            .map_err(|error| GroundError(chain(&error)))
    }
}

impl Ground for LabGround {
    async fn world(&self) -> Result<World, GroundError> {
        let outside = self.outside.clone();
        self.blocking(move |lab| {
            let outside = match outside {
                Some(named) => named.iter().map(|outside| outside.family).collect(),
                None => families(lab),
            };
            let nodes = lab.cluster()?.into_iter().map(|node| {
                let unfit = node.runtime().status().err();
                let addresses = node.machine().addresses.iter();
                Node {
                    name: node.name().to_owned(),
                    addresses: addresses.map(ipnetwork::IpNetwork::ip).collect(),
                    unfit: unfit.map(|error| format!("it is not ready for pods: {error}")),
                }
            });
            Ok(World {
                nodes: nodes.collect(),
                families: families(lab),
                no_policies: None,
                no_dns: Some("a lab has no DNS".to_owned()),
                no_api: Some("a lab has no API server".to_owned()),
                outside,
            })
        })
        .await
    }

    async fn clear(&self) -> Result<Vec<String>, GroundError> {
        self.blocking(remove_all).await
    }

    async fn prepare(&self, plan: &Plan) -> Result<Laid, GroundError> {
        let (plan, outside) = (plan.clone(), self.outside.clone());
        let over = Arc::clone(&self.over);
        self.blocking(move |lab| {
            // Who is interrupted cleans, after this or instead of it.
            let _lock = lab.lock(|| ())?;
            if over.load(Ordering::Acquire) {
                return Ok(Laid::default());
            }
            let outside = match outside {
                Some(named) => named,
                None => beyond(lab)?,
            };
            Ok(Laid {
                outside,
                ..make(lab, &plan)?
            })
        })
        .await
    }

    async fn run(
        &self,
        place: &Place,
        command: &[String],
        limit: Duration,
    ) -> Result<Ran, GroundError> {
        let (place, line) = (place.name().to_owned(), quoted(command));
        self.blocking(move |lab| {
            let ran = lab.place_of(&place)?.sh_within(&line, limit)?;
            Ok(Ran {
                status: ran.status,
                stdout: ran.stdout,
                stderr: ran.stderr,
            })
        })
        .await
    }

    async fn clean(&self) -> Result<(), GroundError> {
        self.over.store(true, Ordering::Release);
        self.blocking(remove_all).await.map(drop)
    }

    async fn is_clean(&self) -> bool {
        self.blocking(is_clean).await == Ok(true)
    }
}

/// The agents of a lab, each behind a relay.
pub async fn agents(lab: &Lab) -> crate::error::Result<Agents> {
    let nodes = lab.cluster()?;
    let nodes = nodes.iter().map(|node| reach::Node::named(node.name()));
    let (program, name) = (binaries::own()?, lab.name().to_owned());
    let agent = format!("{}/podwire-agent", layout::PROGRAMS);
    let lead = move |node: &str, arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.args(["--lab", &name, "exec", node, &agent]);
        command.args(arguments);
        command
    };
    let reach = Commands::new(nodes.collect(), Box::new(lead), Box::new(|_| None));
    let fleet = Fleet::assemble(Arc::new(reach)).await;
    fleet.map(Agents::new).map_err(Error::Reach)
}

/// Tests a lab, and answers with what came of it.
pub async fn test(lab: Lab, flags: &Flags) -> crate::error::Result<Said> {
    let agents = agents(&lab).await?;
    let outside = flags.names_outside().then(|| flags.outside());
    let ground = LabGround::new(Arc::new(lab), outside);
    command::perform(flags, &ground, &agents)
        .await
        .map_err(Error::Test)
}

fn families(lab: &Lab) -> Vec<Family> {
    match lab.topology().families {
        Families::V4 => vec![Family::V4],
        Families::V6 => vec![Family::V6],
        Families::Dual => vec![Family::V4, Family::V6],
    }
}

/// A command as one line of `sh`.
fn quoted(command: &[String]) -> String {
    let words: Vec<String> = command
        .iter()
        .map(|word| format!("'{}'", word.replace('\'', r"'\''")))
        .collect();
    words.join(" ")
}

fn make(lab: &Lab, plan: &Plan) -> crate::error::Result<Laid> {
    let mut laid = Laid::default();
    for policy in objects::policies(NAMESPACE) {
        lab.write_manifest(&manifest(&policy), &policy)?;
    }
    for spot in objects::spots(plan) {
        let made = match spot.role {
            Role::Host => start_host(lab, plan, spot),
            Role::Client | Role::Server => start_pod(lab, plan, spot),
        };
        match made {
            Ok(place) => laid.spots.insert(spot, place).is_some(),
            Err(error) => laid.missing.insert(spot, error.to_string()).is_some(),
        };
    }
    for (number, service) in (0..).zip(objects::services(plan)) {
        if service == Service::Headless {
            continue;
        }
        let portal = portal(lab, number, service);
        for object in [service_object(service, &portal)]
            .iter()
            .chain(&slices(lab, service, &laid))
        {
            lab.write_manifest(&manifest(object), object)?;
        }
        laid.services.insert(service, portal);
    }
    settle(lab, &laid)?;
    Ok(laid)
}

fn start_pod(lab: &Lab, plan: &Plan, spot: Spot) -> crate::error::Result<Place> {
    let servers = Servers {
        http: vec![HTTP],
        udp: vec![UDP],
        ..Servers::default()
    };
    let spec = PodSpec {
        servers,
        ..PodSpec::new(&objects::pod_name(spot))
    };
    let spec = spec
        .in_namespace(NAMESPACE)
        .labelled(objects::ROLE, objects::role(spot.role))
        .labelled(objects::NODE, &spot.node.to_string());
    let pod = lab.run(&plan.nodes[spot.node].name, &spec)?;
    Ok(Place {
        pod: format!("{NAMESPACE}/{}", pod.name()),
        addresses: pod.addresses(),
    })
}

/// What a pod in the network of its node would be: a server there. Its place is the node.
fn start_host(lab: &Lab, plan: &Plan, spot: Spot) -> crate::error::Result<Place> {
    let node = &plan.nodes[spot.node];
    start_server(lab, &lab.node(&node.name)?)?;
    Ok(Place {
        pod: node.name.clone(),
        addresses: node.addresses.clone(),
    })
}

/// A server in the network of a machine.
fn start_server(lab: &Lab, machine: &Machine) -> crate::error::Result<()> {
    let program = Path::new(layout::PROGRAMS).join("podwire-lab");
    let pid = machine.place().launch(&Launch {
        room: Room::Shared,
        command: vec![
            program.display().to_string(),
            "serve".into(),
            format!("--http={HTTP}"),
            format!("--udp={UDP}"),
        ],
        environment: Vec::new(),
        log: None,
    })?;
    let path = server_path(machine.name());
    let written = || pod::write(&path, pid.to_string().as_bytes());
    lab.place().inside(written)?
}

/// Servers on the machines beyond the router, which answer with the address that they see.
fn beyond(lab: &Lab) -> crate::error::Result<Vec<Outside>> {
    let mut outside = Vec::new();
    for machine in lab.machines()? {
        if machine.machine().role != topology::Role::Outside {
            continue;
        }
        start_server(lab, &machine)?;
        for family in families(lab) {
            let address = machine.machine().address(family == Family::V6);
            outside.extend(address.map(|address| Outside {
                family,
                url: format!("http://{}/clientip", SocketAddr::new(address, HTTP)),
                named: true,
            }));
        }
    }
    Ok(outside)
}

/// Where it is written which process is the server in the network of a machine.
fn server_path(machine: &str) -> PathBuf {
    Path::new(layout::NODES).join(format!("{NAMESPACE}-{machine}"))
}

fn manifest(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_ascii_lowercase();
    format!(
        "{NAMESPACE}-{}-{}",
        text(&object["kind"]),
        text(&object["metadata"]["name"])
    )
}

fn portal(lab: &Lab, number: u16, service: Service) -> Portal {
    let last = FIRST + number;
    let addresses = families(lab).into_iter().map(|family| match family {
        Family::V4 => format!("10.200.1.{last}"),
        Family::V6 => format!("fd00:10:200::{last}"),
    });
    Portal {
        addresses: addresses
            .filter_map(|address| address.parse().ok())
            .collect(),
        port: PORT,
        node_port: matches!(service, Service::Web | Service::Local).then_some(NODE_PORT + number),
    }
}

/// The Service as an API server completes it.
fn service_object(service: Service, portal: &Portal) -> Value {
    let mut object = objects::service(NAMESPACE, service);
    let spec = &mut object["spec"];
    spec["clusterIPs"] = json!(portal.addresses);
    spec["clusterIP"] = spec["clusterIPs"][0].clone();
    let families = portal.addresses.iter().map(|address| match address {
        IpAddr::V4(_) => "IPv4",
        IpAddr::V6(_) => "IPv6",
    });
    spec["ipFamilies"] = json!(families.collect::<Vec<_>>());
    if let Some(port) = portal.node_port {
        // TCP and UDP.
        for one in spec["ports"].as_array_mut().into_iter().flatten() {
            one["nodePort"] = json!(port);
        }
    }
    object
}

/// The EndpointSlices that a controller would write, one for each family.
fn slices(lab: &Lab, service: Service, laid: &Laid) -> Vec<Value> {
    let belongs = |spot: &Spot| match service {
        Service::Hairpin(node) => *spot == Spot::client(node),
        Service::Empty => false,
        _ => spot.role == Role::Server,
    };
    let nodes: BTreeMap<String, String> = lab
        .pods()
        .unwrap_or_default()
        .iter()
        .map(|pod| (pod.name().to_owned(), pod.node().to_owned()))
        .collect();
    let slice = |family: Family| {
        let endpoints: Vec<Value> = laid
            .spots
            .iter()
            .filter(|(spot, _)| belongs(spot))
            .filter_map(|(_, place)| {
                let address = family.first(&place.addresses)?;
                Some(json!({
                    "addresses": [address],
                    "conditions": {"ready": true, "serving": true, "terminating": false},
                    "nodeName": nodes.get(place.name()),
                }))
            })
            .collect();
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{}-{}", name(service), family.to_string().to_ascii_lowercase()),
                "namespace": NAMESPACE,
                "labels": {"kubernetes.io/service-name": name(service)},
            },
            "addressType": family.to_string(),
            "ports": [
                {"name": "http", "protocol": "TCP", "port": HTTP},
                {"name": "udp", "protocol": "UDP", "port": UDP},
            ],
            "endpoints": endpoints,
        })
    };
    families(lab).into_iter().map(slice).collect()
}

/// Waits until every agent that runs has the Services in the kernel.
fn settle(lab: &Lab, laid: &Laid) -> crate::error::Result<()> {
    let addresses = laid.services.values().flat_map(|portal| &portal.addresses);
    let gets: Vec<String> = addresses
        .map(|address| {
            let family = if address.is_ipv6() { "ip6" } else { "ip" };
            format!("nft get element {family} podwire-services services '{{ {address} . tcp . {PORT} }}'")
        })
        .collect();
    let line = gets.join(" && ");
    for node in lab.cluster()? {
        if node.agent().is_some() {
            // Who has them not is found by what follows.
            wait::until_some(SETTLED, || {
                let ran = node.place().sh(&line).ok()?;
                (ran.status == 0).then_some(())
            });
        }
    }
    Ok(())
}

/// Takes away whatever a test left, and names it. What is gone already is no error, and what cannot be
/// taken away keeps nothing else here.
fn remove_all(lab: &Lab) -> crate::error::Result<Vec<String>> {
    let _lock = lab.lock(|| ())?;
    let mut removed = remove_pods(lab)?;
    for node in lab.machines()? {
        let what = format!("the server on {}", node.name());
        match remove_server(lab, &node) {
            Ok(false) => {}
            done => removed.push((what, done.map(drop))),
        }
    }
    for file in own_manifests(lab)? {
        let path = Path::new(layout::MANIFESTS).join(&file);
        let remove = || match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done.map_err(Error::file("remove", &path)),
        };
        let done = lab.place().inside(remove).and_then(|done| done);
        removed.push((format!("manifest {file}"), done));
    }
    sorted(removed)
}

/// What is gone, or an error that names what is not.
fn sorted(removed: Vec<(String, crate::error::Result<()>)>) -> crate::error::Result<Vec<String>> {
    let (mut gone, mut left) = (Vec::new(), Vec::new());
    for (what, done) in removed {
        match done {
            Ok(()) => gone.push(what),
            Err(error) => left.push(format!("{what} ({})", chain(&error))),
        }
    }
    if left.is_empty() {
        return Ok(gone);
    }
    let left = left.join(", ");
    Err(Error::Left { left })
}

/// Ends the server of a test in the network of a machine, and answers whether there was one.
fn remove_server(lab: &Lab, machine: &Machine) -> crate::error::Result<bool> {
    let path = server_path(machine.name());
    let Ok(pid) = lab.place().inside(|| fs::read_to_string(&path))? else {
        return Ok(false);
    };
    // Only if it is still what was started: a PID may be given again.
    let line = format!("grep -qz -- --http={HTTP} /proc/{pid}/cmdline && kill -KILL {pid}");
    machine.place().sh(&line)?;
    let _ = lab.place().inside(|| fs::remove_file(&path))?;
    Ok(true)
}

/// Stops the pods of a test, on all nodes at the same time: each takes its while.
fn remove_pods(lab: &Lab) -> crate::error::Result<Vec<(String, crate::error::Result<()>)>> {
    let mut by_node: BTreeMap<String, Vec<Pod>> = BTreeMap::new();
    for pod in own_pods(lab)? {
        by_node.entry(pod.node().to_owned()).or_default().push(pod);
    }
    let remove = |pods: &[Pod]| -> Vec<_> {
        let one = |pod: &Pod| (format!("pod {}", pod.name()), lab.remove_pod(pod));
        pods.iter().map(one).collect()
    };
    let mut removed = thread::scope(|scope| {
        let nodes: Vec<_> = by_node
            .values()
            .map(|pods| scope.spawn(move || remove(pods)))
            .collect();
        let ended = nodes.into_iter().map(|node| node.join());
        ended
            .flat_map(|one| one.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect::<Vec<_>>()
    });
    // Of these the process is gone, or the start was not finished.
    for one in lab.leftovers()? {
        if one.sandbox().namespace == NAMESPACE {
            let done = lab.remove(&format!("{NAMESPACE}/{}", one.name()));
            removed.push((format!("pod {}", one.name()), done));
        }
    }
    Ok(removed)
}

fn own_pods(lab: &Lab) -> crate::error::Result<Vec<Pod>> {
    let mut pods = lab.pods()?;
    pods.retain(|pod| pod.sandbox().namespace == NAMESPACE);
    Ok(pods)
}

/// The files of the manifests that a test wrote.
fn own_manifests(lab: &Lab) -> crate::error::Result<Vec<String>> {
    let ours = format!("{NAMESPACE}-");
    let namespace = format!("{}.yaml", lab::namespace_manifest(NAMESPACE));
    let files = lab.place().inside(|| {
        fs::read_dir(layout::MANIFESTS).map(|files| {
            let names = files
                .flatten()
                .filter_map(|file| file.file_name().into_string().ok());
            names
                .filter(|name| name.starts_with(&ours) || *name == namespace)
                .collect::<Vec<_>>()
        })
    })?;
    Ok(files.unwrap_or_default())
}

/// True if a test left nothing.
fn is_clean(lab: &Lab) -> crate::error::Result<bool> {
    let mut servers = Vec::new();
    for machine in lab.machines()? {
        let path = server_path(machine.name());
        servers.push(lab.place().inside(|| path.exists())?);
    }
    Ok(own_pods(lab)?.is_empty() && own_manifests(lab)?.is_empty() && !servers.contains(&true))
}
