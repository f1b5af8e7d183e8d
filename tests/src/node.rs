//! One machine of a lab, and on a node its agent and its pods.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::launch::{Launch, Room};
use crate::layout;
use crate::place::Place;
use crate::pod::{self, Leftover, Pod, PodSpec};
use crate::runtime::{Runtime, Sandbox};
use crate::topology::{Machine, Role};
use crate::wait;

/// How long an agent may take until its node can run pods. It takes a fraction of a second; the
/// rest is for machines that are busy with something else.
const READY_LIMIT: Duration = Duration::from_secs(20);
/// Where an agent answers `/livez` and `/healthz`.
const HEALTH_PORT: u16 = 10256;
/// Where an agent answers `/metrics`.
const METRICS_PORT: u16 = 10249;

/// What the lab keeps of a machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    machine: Machine,
    pid: i32,
}

/// A machine that runs.
#[derive(Debug)]
pub struct Node {
    record: Record,
    place: Place,
}

impl Node {
    /// Makes the namespaces of a machine. Its network is still empty.
    pub(crate) fn start(lab: &Place, machine: &Machine, hosts: &str) -> Result<Node> {
        machine.check()?;
        let own = crate::binaries::own()?.display().to_string();
        let pid = lab.launch(&Launch {
            room: Room::Node {
                name: machine.name.clone(),
                hosts: hosts.into(),
            },
            command: vec![own, "pause".into()],
            environment: vec![("PODWIRE_PLACE".into(), machine.name.clone())],
            log: None,
        })?;
        let record = Record {
            machine: machine.clone(),
            pid,
        };
        let text = serde_json::to_vec_pretty(&record).expect("a Record is plain data");
        let path = record_path(&machine.name);
        let place = lab.inside(|| -> Result<Place> {
            pod::write(&path, &text)?;
            Place::of_pid(pid, &machine.name)
        })??;
        Ok(Node { record, place })
    }

    /// All machines of a lab, in the order of their names.
    pub(crate) fn all(lab: &Place) -> Result<Vec<Node>> {
        let mut nodes = lab.inside(|| -> Result<Vec<Node>> {
            let directory = Path::new(layout::NODES);
            let entries = fs::read_dir(directory).map_err(Error::file("read", directory))?;
            let files = entries
                .flatten()
                .map(|entry| entry.path().join("machine.json"));
            files
                .filter(|path| path.exists())
                .map(|path| read(&path))
                .collect()
        })??;
        nodes.sort_by(|a, b| a.name().cmp(b.name()));
        Ok(nodes)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.record.machine.name
    }

    /// Its addresses and podCIDRs.
    pub fn machine(&self) -> &Machine {
        &self.record.machine
    }

    /// The process that holds it, as the lab numbers it.
    pub fn pid(&self) -> i32 {
        self.record.pid
    }

    /// Whether it is a node of the cluster.
    pub fn is_node(&self) -> bool {
        self.record.machine.role == Role::Node
    }

    /// Where it lives.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Its container runtime.
    pub fn runtime(&self) -> Runtime<'_> {
        Runtime::new(&self.place)
    }

    /// Starts a pod and sets up its network.
    pub fn run(&self, spec: &PodSpec) -> Result<Pod> {
        self.run_as(spec, Sandbox::new(&spec.namespace, &spec.name))
    }

    /// As [`Node::run`], in this sandbox.
    pub fn run_as(&self, spec: &PodSpec, sandbox: Sandbox) -> Result<Pod> {
        pod::run(&self.place, spec, sandbox)
    }

    /// Stops a pod and takes its network down.
    pub fn remove(&self, pod: &Pod) -> Result<()> {
        pod::remove(&self.place, pod)
    }

    /// Takes away what is left of a pod here.
    pub fn clear(&self, left: &Leftover) -> Result<()> {
        pod::clear(&self.place, left)
    }

    /// The pods that run here.
    pub fn pods(&self) -> Result<Vec<Pod>> {
        pod::on(&self.place, self.name())
    }

    /// Starts the agent, as the lab starts it on every node.
    pub fn start_agent(&self) -> Result<()> {
        self.start_agent_with(&[])
    }

    /// Starts the agent with more arguments.
    pub fn start_agent_with(&self, arguments: &[&str]) -> Result<()> {
        let program = Path::new(layout::PROGRAMS)
            .join("podwire-agent")
            .display()
            .to_string();
        let mut command: Vec<String> = vec![program, "run".into()];
        command.extend(["--node-name".into(), self.name().to_owned()]);
        command.extend(["--manifests".into(), layout::MANIFESTS.to_owned()]);
        command.extend(arguments.iter().map(|&argument| argument.to_owned()));
        let pid = self.place.launch(&Launch {
            room: Room::Shared,
            command,
            environment: Vec::new(),
            log: Some(layout::AGENT_LOG.into()),
        })?;
        let path = agent_path(self.name());
        self.place
            .inside(|| pod::write(&path, pid.to_string().as_bytes()))?
    }

    /// The agent's PID as the lab numbers it, if it runs.
    pub fn agent(&self) -> Option<i32> {
        let path = agent_path(self.name());
        let running = || {
            let pid: i32 = fs::read_to_string(path).ok()?.parse().ok()?;
            crate::registry::Process::find(pid).map(|process| process.pid)
        };
        self.place.inside(running).ok().flatten()
    }

    /// Ends the agent with a signal (`TERM`, `KILL`) and waits until it is gone.
    pub fn stop_agent(&self, signal: &str) -> Result<()> {
        let Some(pid) = self.agent() else {
            return Ok(());
        };
        self.place.output(&format!("kill -{signal} {pid}"))?;
        let proc = PathBuf::from(format!("/proc/{pid}"));
        let what = format!("the end of the agent on {}", self.name());
        self.place
            .inside(|| wait::until(&what, Duration::from_secs(10), || !proc.exists()))??;
        Ok(())
    }

    /// Everything the agent logged so far.
    pub fn agent_log(&self) -> String {
        let read = || fs::read_to_string(layout::AGENT_LOG).unwrap_or_default();
        self.place.inside(read).unwrap_or_default()
    }

    /// The sum of the agent's samples whose name begins so, for example
    /// `podwire_kernel_writes_total`; 0 if it has none, an error if it does not answer.
    pub fn agent_metric(&self, name: &str) -> Result<f64> {
        let text = self.place.output(&format!(
            "curl -sSf --max-time 5 http://127.0.0.1:{METRICS_PORT}/metrics"
        ))?;
        let samples = text.lines().filter(|line| line.starts_with(name));
        Ok(samples
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum())
    }

    /// Waits until pods can start here and the agent that runs now has done its first sync and
    /// answers at all its addresses: the CNI configuration alone can be an earlier agent's.
    pub fn wait_ready(&self) -> Result<()> {
        let agent_is_ready = || self.place.inside(agent_is_ready).is_ok_and(|ready| ready);
        let ready =
            || self.agent().is_none() || self.runtime().network().is_ok() && agent_is_ready();
        let what = format!("the first sync on {}", self.name());
        let waited = wait::until(&what, READY_LIMIT, ready);
        if waited.is_ok() && self.agent().is_some() {
            return Ok(());
        }
        let log = self.agent_log();
        let last: Vec<&str> = log.lines().rev().take(5).collect();
        let said = last.into_iter().rev().collect::<Vec<_>>().join(" | ");
        let said = if said.is_empty() {
            "nothing".to_owned()
        } else {
            said
        };
        Err(match waited {
            Ok(_) => Error::Command {
                command: "podwire-agent run".into(),
                place: self.name().into(),
                reason: format!("it ended, and its log says {said}"),
            },
            Err(_) => Error::TimedOut {
                what,
                seconds: READY_LIMIT.as_secs_f64(),
                detail: format!(": the agent's log says {said}"),
            },
        })
    }

    /// Ends every process of the machine, as a power cut does, and forgets it.
    pub(crate) fn end(&self, lab: &Place) -> Result<()> {
        let pods = self.pods()?;
        let agent = self.agent();
        let pids = pods
            .iter()
            .map(Pod::pid)
            .chain(agent)
            .chain([self.record.pid]);
        for pid in pids {
            pod::end_process(lab, pid);
        }
        let directory = Path::new(layout::NODES).join(self.name());
        lab.inside(|| fs::remove_dir_all(&directory).map_err(Error::file("remove", &directory)))?
    }
}

/// Whether the agent of this machine has synced every feature and has opened its pages.
fn agent_is_ready() -> bool {
    synced().is_some_and(|synced| synced)
        && [HEALTH_PORT, METRICS_PORT]
            .into_iter()
            .all(|port| TcpStream::connect(("127.0.0.1", port)).is_ok())
}

/// Whether the agent's report says that every feature was synced; nothing if there is no report.
fn synced() -> Option<bool> {
    let mut stream = UnixStream::connect(layout::AGENT_SOCKET).ok()?;
    stream.set_read_timeout(Some(READY_LIMIT)).ok()?;
    stream
        .write_all(b"GET /status HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n")
        .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    let report: Value = serde_json::from_str(body).ok()?;
    let syncs = |feature: &Value| feature["syncs"].as_u64();
    let all = report["features"].as_array()?;
    Some(all.iter().all(|feature| syncs(feature) > Some(0)))
}

fn read(path: &Path) -> Result<Node> {
    let text = fs::read(path).map_err(Error::file("read", path))?;
    let record: Record = serde_json::from_slice(&text).map_err(|error| Error::Unreadable {
        path: path.into(),
        reason: error.to_string(),
    })?;
    let place = Place::of_pid(record.pid, &record.machine.name)?;
    Ok(Node { record, place })
}

fn record_path(name: &str) -> PathBuf {
    Path::new(layout::NODES).join(name).join("machine.json")
}

fn agent_path(name: &str) -> PathBuf {
    Path::new(layout::NODES).join(name).join("agent.pid")
}
