//! A lab: a cluster of network namespaces, held by one process.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use nix::fcntl::{Flock, FlockArg};
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::init;
use crate::layout;
use crate::manifests;
use crate::node::Node;
use crate::place::Place;
use crate::pod::{self, Leftover, Pod, PodSpec};
use crate::registry::{self, END_LIMIT, Entry, Process};
use crate::runtime::{PortMapping, Sandbox};
use crate::topology::{Machine, Role, Topology};
use crate::wire;
use crate::{binaries, wait};

/// A lab that is up.
#[derive(Debug)]
pub struct Lab {
    name: String,
    place: Place,
    topology: Topology,
    /// Present in the process that raised the lab: the lab ends with this value.
    raised: Option<Raised>,
}

/// The process that holds the lab, while it is bound to ours.
#[derive(Debug)]
struct Raised {
    child: Child,
    life: Option<ChildStdin>,
    entry: Option<Entry>,
}

impl Lab {
    /// Raises a lab with everything running: machines, agents, and nodes ready for pods.
    /// `progress` is told what happens, a few words at a time.
    ///
    /// The lab ends when this value is dropped or this process ends, unless [`Lab::stay`].
    pub fn up(entry: Entry, topology: &Topology, progress: &dyn Fn(&str)) -> Result<Lab> {
        let lab = Lab::up_without_agents(entry, topology, progress)?;
        progress("the agents");
        let nodes = lab.cluster()?;
        for node in &nodes {
            node.start_agent()?;
        }
        for node in &nodes {
            node.wait_ready()?;
        }
        Ok(lab)
    }

    /// Raises a lab with its machines and the manifests of its nodes, and no agent.
    pub fn up_without_agents(
        entry: Entry,
        topology: &Topology,
        progress: &dyn Fn(&str),
    ) -> Result<Lab> {
        registry::require_root()?;
        progress("the namespaces");
        let programs = ["podwire", "podwire-agent", "podwire-lab"];
        let programs = programs.map(|name| binaries::find(name).map(|path| (name, path)));
        let lab = hold(entry, topology)?;
        lab.place.inside(|| -> Result<()> {
            for program in programs {
                let (name, path) = program?;
                let link = Path::new(layout::PROGRAMS).join(name);
                symlink(path, &link).map_err(Error::file("create", link))?;
            }
            let text = serde_json::to_vec_pretty(topology).expect("a Topology is plain data");
            pod::write(&topology_path(), &text)
        })??;
        progress("the network");
        wire::lay_switch(&lab.place, &topology.router)?;
        for machine in &topology.machines {
            lab.start_machine(machine)?;
        }
        Ok(lab)
    }

    /// A lab for one test, with a name of its own.
    pub fn for_test(topology: &Topology) -> Result<Lab> {
        Lab::up(Entry::claim(&test_name())?, topology, &|_| {})
    }

    /// A lab for one test that starts its agents itself.
    pub fn for_test_without_agents(topology: &Topology) -> Result<Lab> {
        Lab::up_without_agents(Entry::claim(&test_name())?, topology, &|_| {})
    }

    /// The lab with this name, or the only one that is up.
    pub fn open(name: Option<&str>) -> Result<Lab> {
        registry::require_root()?;
        // From a shell in the lab: its PID 1 holds it.
        if Path::new(layout::INSIDE).exists() {
            return Lab::enter(name.unwrap_or("lab"), 1);
        }
        let name = named(name)?;
        let none = || Error::NoSuchLab { name: name.clone() };
        let process = registry::holder(&name).ok_or_else(none)?;
        Lab::enter(&name, process.pid).map_err(|error| match registry::holder(&name) {
            // It ended under our hands.
            None => none(),
            Some(_) => error,
        })
    }

    fn enter(name: &str, pid: i32) -> Result<Lab> {
        let place = Place::of_pid(pid, "lab")?;
        let path = topology_path();
        let text = place.inside(|| fs::read(&path).map_err(Error::file("read", &path)))??;
        let topology = serde_json::from_slice(&text).map_err(|error| Error::Unreadable {
            path,
            reason: error.to_string(),
        })?;
        Ok(Lab {
            name: name.into(),
            place,
            topology,
            raised: None,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The lab's own namespaces, where the switch and the router are.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The machines it was raised with.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Lets the lab live on when this process ends.
    pub fn stay(mut self) -> Result<()> {
        let Some(raised) = &mut self.raised else {
            return Ok(());
        };
        if let Some(entry) = &mut raised.entry {
            entry.set_staying()?;
        }
        if let Some(mut life) = raised.life.take() {
            life.write_all(init::STAY)
                .map_err(Error::file("write", "the lab's life line"))?;
        }
        self.raised = None;
        Ok(())
    }

    /// All machines, sorted by name.
    pub fn machines(&self) -> Result<Vec<Node>> {
        Node::all(&self.place)
    }

    /// The nodes of the cluster, sorted by name.
    pub fn cluster(&self) -> Result<Vec<Node>> {
        let mut machines = self.machines()?;
        machines.retain(Node::is_node);
        Ok(machines)
    }

    /// One machine.
    pub fn machine(&self, name: &str) -> Result<Node> {
        let mut machines = self.machines()?;
        match machines.iter().position(|machine| machine.name() == name) {
            Some(position) => Ok(machines.swap_remove(position)),
            None => Err(Error::NoSuchNode {
                name: name.into(),
                known: machines
                    .iter()
                    .map(Node::name)
                    .collect::<Vec<_>>()
                    .join(", "),
            }),
        }
    }

    /// One node of the cluster.
    pub fn node(&self, name: &str) -> Result<Node> {
        let mut nodes = self.cluster()?;
        match nodes.iter().position(|node| node.name() == name) {
            Some(position) => Ok(nodes.swap_remove(position)),
            None if self.machine(name).is_ok() => Err(Error::NotANode { name: name.into() }),
            None => Err(Error::NoSuchNode {
                name: name.into(),
                known: nodes.iter().map(Node::name).collect::<Vec<_>>().join(", "),
            }),
        }
    }

    /// Waits until no other command changes what runs in the lab, and calls `busy` if one does; none
    /// begins to as long as the answer lives. The kernel gives it back if this process is killed.
    pub fn lock(&self, busy: impl FnOnce()) -> Result<Flock<fs::File>> {
        let path = Path::new(layout::NODES).join("lock");
        let open = || fs::File::create(&path).map_err(Error::file("create", &path));
        let file = self.place.inside(open)??;
        let (file, errno) = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err(refused) => refused,
        };
        if errno != nix::Error::EWOULDBLOCK {
            return Err(Error::file("lock", path)(errno.into()));
        }
        busy();
        Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, errno)| Error::file("lock", path)(errno.into()))
    }

    /// Adds a machine while the lab is up; a node gets its manifest, but not yet an agent.
    pub fn add_machine(&self, machine: &Machine) -> Result<Node> {
        if self.machine(&machine.name).is_ok() {
            return Err(Error::NodeExists {
                name: machine.name.clone(),
            });
        }
        self.start_machine(machine)
    }

    /// Ends a machine as a power cut does, and takes its manifest and those of its pods away.
    pub fn remove_machine(&self, name: &str) -> Result<()> {
        let machine = self.machine(name)?;
        if machine.is_node() {
            self.remove_manifest(&node_manifest(name))?;
            for pod in machine.pods()? {
                self.forget_pod(pod.name())?;
            }
        }
        machine.end(&self.place)
    }

    fn start_machine(&self, machine: &Machine) -> Result<Node> {
        let node = Node::start(&self.place, machine, &self.hosts())?;
        let (place, pid) = (node.place(), node.pid());
        let (addresses, topology) = (&machine.addresses, &self.topology);
        match machine.role {
            Role::Node | Role::Neighbour => {
                wire::plug_in(&self.place, place, pid, addresses, &topology.router)?;
            }
            Role::Outside => {
                wire::plug_in_beyond(&self.place, place, pid, addresses, &topology.border)?;
            }
        }
        if machine.role == Role::Node {
            self.write_manifest(&node_manifest(&machine.name), &manifests::node(machine))?;
        }
        Ok(node)
    }

    /// The content of every machine's `/etc/hosts`.
    fn hosts(&self) -> String {
        let mut text = String::from("127.0.0.1 localhost\n::1 localhost\n");
        for machine in &self.topology.machines {
            for address in &machine.addresses {
                text.push_str(&format!("{} {}\n", address.ip(), machine.name));
            }
        }
        text
    }

    /// Writes a manifest that all agents see. `name` becomes the file's name without its suffix.
    pub fn write_manifest(&self, name: &str, object: &Value) -> Result<()> {
        self.write_manifest_text(name, &manifests::yaml(object))
    }

    /// Writes a manifest as it stands, right or wrong.
    pub fn write_manifest_text(&self, name: &str, text: &str) -> Result<()> {
        let path = manifest_path(name);
        self.place.inside(|| pod::write(&path, text.as_bytes()))?
    }

    /// Takes a manifest away.
    pub fn remove_manifest(&self, name: &str) -> Result<()> {
        let path = manifest_path(name);
        self.place
            .inside(|| fs::remove_file(&path).map_err(Error::file("remove", &path)))?
    }

    /// Starts a pod on a node, and writes its manifest, and that of its namespace if there is none.
    pub fn run(&self, node: &str, spec: &PodSpec) -> Result<Pod> {
        let pod = self.start(node, spec)?;
        self.publish(&pod, spec)?;
        Ok(pod)
    }

    /// Starts a pod on a node. As in a cluster there is a manifest before, and it has no address yet.
    pub fn start(&self, node: &str, spec: &PodSpec) -> Result<Pod> {
        spec.check()?;
        let name = &spec.name;
        if name == "lab" || self.machine(name).is_ok() {
            return Err(Error::NameOfMachine { name: name.clone() });
        }
        if let Ok(pod) = self.pod(&spec.name) {
            return Err(Error::PodExists {
                name: spec.name.clone(),
                node: pod.node().into(),
            });
        }
        let machine = self.node(node)?;
        for one in self.leftovers()?.iter().filter(|one| one.name() == name) {
            self.node(one.node())?.clear(one)?;
        }
        let namespace = namespace_manifest(&spec.namespace);
        let path = manifest_path(&namespace);
        if !self.place.inside(|| path.exists())? {
            self.write_manifest(&namespace, &manifests::namespace(&spec.namespace))?;
        }
        let sandbox = Sandbox::new(&spec.namespace, &spec.name);
        let manifest = manifests::starting_pod(node, &sandbox, spec);
        self.write_manifest(&pod_manifest(&spec.name), &manifest)?;
        let started = machine.run_as(spec, sandbox);
        if started.is_err() {
            // The error that counts is the first.
            let _ = self.forget_pod(&spec.name);
        }
        started
    }

    /// Writes the manifest of a pod that runs, with its addresses.
    pub fn publish(&self, pod: &Pod, spec: &PodSpec) -> Result<()> {
        self.write_manifest(&pod_manifest(&spec.name), &manifests::pod(pod, spec))
    }

    /// Stops a pod.
    pub fn remove(&self, name: &str) -> Result<()> {
        let missing = match self.pod(name) {
            Ok(pod) => return self.remove_pod(&pod),
            Err(error) => error,
        };
        let mut left = self.leftovers()?;
        left.retain(|one| one.sandbox().is_named(name));
        for one in &left {
            self.node(one.node())?.clear(one)?;
        }
        // The manifest comes first and goes last: it may be all that there is. That of a namespace
        // other than the one given is another pod's.
        let had_manifest = match (name.split_once('/'), left.is_empty()) {
            (Some(_), true) => false,
            (Some((_, short)), false) => self.forget_pod(short)?,
            (None, _) => self.forget_pod(name)?,
        };
        match left.is_empty() && !had_manifest {
            true => Err(missing),
            false => Ok(()),
        }
    }

    /// Stops this pod. Several may be stopped at the same time: no other is looked at.
    pub fn remove_pod(&self, pod: &Pod) -> Result<()> {
        let removed = self.machine(pod.node())?.remove(pod);
        // The runtime has no record of it any more, whatever its plugins said.
        self.forget_pod(pod.name())?;
        removed
    }

    /// What is there of pods whose start or end was not finished, by node and name.
    pub fn leftovers(&self) -> Result<Vec<Leftover>> {
        let mut left = Vec::new();
        for node in self.cluster()? {
            left.extend(pod::left_on(&self.place, node.name())?);
        }
        Ok(left)
    }

    /// Takes the manifest of a pod away, and answers whether it had one: a pod that its node started
    /// has none.
    fn forget_pod(&self, name: &str) -> Result<bool> {
        let manifest = pod_manifest(name);
        let path = manifest_path(&manifest);
        let has_one = self.place.inside(|| path.exists())?;
        if has_one {
            self.remove_manifest(&manifest)?;
        }
        Ok(has_one)
    }

    /// All pods, by node and name.
    pub fn pods(&self) -> Result<Vec<Pod>> {
        let mut pods = Vec::new();
        for node in self.cluster()? {
            pods.extend(pod::on(&self.place, node.name())?);
        }
        Ok(pods)
    }

    /// One pod, by `NAME` or `NAMESPACE/NAME`.
    pub fn pod(&self, name: &str) -> Result<Pod> {
        let mut pods = self.pods()?.into_iter();
        let pod = pods.find(|pod| pod.sandbox().is_named(name));
        pod.ok_or_else(|| Error::NoSuchPod { name: name.into() })
    }

    /// The pods of a node that have one of these hostPorts already: it leads to only one of them.
    pub fn rivals(&self, node: &str, ports: &[PortMapping]) -> Result<Vec<(PortMapping, Pod)>> {
        let mut found = Vec::new();
        for pod in pod::on(&self.place, node)? {
            let taken = ports.iter().find(|port| {
                let mut others = pod.sandbox().ports.iter();
                others.any(|other| other.collides(port))
            });
            if let Some(port) = taken {
                found.push((port.clone(), pod));
            }
        }
        Ok(found)
    }

    /// The place of a machine or a pod, or the lab's own for `lab`.
    pub fn place_of(&self, name: &str) -> Result<Place> {
        if name == "lab" {
            return Ok(self.place.clone());
        }
        if let Ok(pod) = self.pod(name) {
            return Ok(pod.place().clone());
        }
        match self.machine(name) {
            Ok(machine) => Ok(machine.place().clone()),
            Err(Error::NoSuchNode { name, known }) => Err(Error::NoSuchPlace { name, known }),
            Err(error) => Err(error),
        }
    }
}

/// Takes the lab with this name down, or the only one that is up, and answers with its name.
pub fn down(name: Option<&str>) -> Result<String> {
    registry::require_root()?;
    let name = named(name)?;
    let none = || Error::NothingToEnd {
        name: name.clone(),
        others: match registry::all().as_slice() {
            [] => ", and no other".to_owned(),
            names => format!("; those that are: {}", names.join(", ")),
        },
    };
    let process = registry::process(&name).ok_or_else(none)?;
    process.kill();
    wait::until(&format!("the end of lab {name}"), END_LIMIT, || {
        !process.is_alive()
    })?;
    registry::remove(&name, process);
    Ok(name)
}

/// Takes down the lab `name`, which this process is raising or has raised.
pub fn abandon(name: &str) -> Result<()> {
    match registry::process(name) {
        // Its own process is not there yet, or ends with this one.
        Some(process) if process.is_this_one() => registry::remove(name, process),
        Some(_) => down(Some(name)).map(drop)?,
        None => {}
    }
    Ok(())
}

impl Drop for Raised {
    fn drop(&mut self) {
        // Without a life line the lab was told to stay.
        if self.life.take().is_some() {
            let _ = self.child.kill();
            // PID 1 goes last of all in its namespace. It waits for our own children there, so
            // this must not wait without end: they may be ours to collect, further up the stack.
            wait::until_some(END_LIMIT, || self.child.try_wait().ok().flatten());
            if let Some(entry) = self.entry.take() {
                entry.remove();
            }
        }
    }
}

/// Starts PID 1 of a lab in new namespaces.
fn hold(entry: Entry, topology: &Topology) -> Result<Lab> {
    let program = binaries::own()?;
    let log = fs::File::create(entry.log()).map_err(Error::file("create", entry.log()))?;
    let mut command = Command::new(program);
    command
        .arg("init")
        .current_dir("/")
        .env("PODWIRE_PLACE", "lab")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log);
    let flags = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC;
    // On a thread of its own, which takes its new namespaces with it when it ends.
    let started = thread::scope(|scope| {
        let start = || -> Result<Child> {
            unshare(flags).map_err(|source| Error::Namespace {
                action: "make",
                place: "the lab".into(),
                source,
            })?;
            command.spawn().map_err(|source| Error::Start {
                program: "podwire-lab init".into(),
                place: "the lab".into(),
                source,
            })
        };
        scope
            .spawn(start)
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    let mut child = match started {
        Ok(child) => child,
        Err(error) => {
            entry.remove();
            return Err(error);
        }
    };
    let life = child.stdin.take();
    let stdout = child.stdout.take();
    let pid = i32::try_from(child.id()).unwrap_or(-1);
    let log = entry.log();
    let mut raised = Raised {
        child,
        life,
        entry: Some(entry),
    };
    let mut line = String::new();
    if let Some(stdout) = stdout {
        // End of file and an empty line if it fails, and then the log says why.
        let _ = BufReader::new(stdout).read_line(&mut line);
    }
    if line.trim() != init::READY {
        return Err(Error::Command {
            command: "podwire-lab init".into(),
            place: "new namespaces".into(),
            reason: fs::read_to_string(log)
                .unwrap_or_default()
                .trim()
                .to_owned(),
        });
    }
    let entry = raised
        .entry
        .as_mut()
        .expect("it was put in a few lines above");
    let process = Process::find(pid).ok_or_else(|| Error::NoSuchLab {
        name: entry.name().into(),
    })?;
    entry.set_holder(process)?;
    let name = entry.name().to_owned();
    Ok(Lab {
        name,
        place: Place::of_pid(pid, "lab")?,
        topology: topology.clone(),
        raised: Some(raised),
    })
}

/// The name that was asked for, or that of the only lab that is up.
fn named(name: Option<&str>) -> Result<String> {
    match name {
        Some(name) => registry::check_name(name).map(|()| name.to_owned()),
        None => only(registry::all()),
    }
}

fn only(mut names: Vec<String>) -> Result<String> {
    match names.len() {
        0 => Err(Error::NoLab),
        1 => Ok(names.remove(0)),
        _ => Err(Error::SeveralLabs {
            names: names.join(", "),
        }),
    }
}

/// A name that no other test uses, in this process or another one.
fn test_name() -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    format!(
        "test-{}-{}",
        std::process::id(),
        NUMBER.fetch_add(1, Ordering::Relaxed)
    )
}

fn node_manifest(name: &str) -> String {
    format!("node-{name}")
}

fn pod_manifest(name: &str) -> String {
    format!("pod-{name}")
}

pub(crate) fn namespace_manifest(name: &str) -> String {
    format!("namespace-{name}")
}

fn manifest_path(name: &str) -> std::path::PathBuf {
    Path::new(layout::MANIFESTS).join(format!("{name}.yaml"))
}

fn topology_path() -> std::path::PathBuf {
    Path::new(layout::ROOT).join("topology.json")
}
