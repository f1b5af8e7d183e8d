//! Pods: a sandbox, a process that holds its namespaces, and what the plugins answered.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::launch::{self, Launch, Room};
use crate::layout;
use crate::place::Place;
use crate::registry::Process;
use crate::runtime::{self, Attachment, PortMapping, Runtime, Sandbox};
use crate::topology::{check_label, check_name};
use crate::{binaries, serve, wait};

/// The longest name of a pod, as for any object that becomes a host name (RFC 1123).
const LONGEST_NAME: usize = 63;

/// How long a pod's process may take until it serves, on a machine that has other work.
const SERVERS_LIMIT: Duration = Duration::from_secs(30);

/// How the name of the file ends that is there while a pod is being started.
const BEGUN: &str = "begun";

/// A pod that is to run.
#[derive(Debug, Clone)]
pub struct PodSpec {
    /// Its name, unique in the lab.
    pub name: String,
    /// Its Kubernetes namespace.
    pub namespace: String,
    /// Its labels, as NetworkPolicies see them.
    pub labels: BTreeMap<String, String>,
    /// The ports of its servers.
    pub servers: Servers,
    /// Its hostPorts.
    pub ports: Vec<PortMapping>,
}

impl PodSpec {
    /// A pod in the namespace `default` that serves nothing.
    pub fn new(name: &str) -> PodSpec {
        PodSpec {
            name: name.into(),
            namespace: "default".into(),
            labels: BTreeMap::new(),
            servers: Servers::default(),
            ports: Vec::new(),
        }
    }

    /// An error unless Kubernetes would take its names and labels.
    pub(crate) fn check(&self) -> Result<()> {
        check_name("pod", &self.name, LONGEST_NAME)?;
        check_name("namespace", &self.namespace, LONGEST_NAME)?;
        self.labels
            .iter()
            .try_for_each(|(key, value)| check_label(key, value))
    }

    /// The same in a namespace.
    pub fn in_namespace(self, namespace: &str) -> PodSpec {
        PodSpec {
            namespace: namespace.into(),
            ..self
        }
    }

    /// The same with a label.
    pub fn labelled(mut self, key: &str, value: &str) -> PodSpec {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// A pod in the namespace `default` with a web server on port 80.
    pub fn web(name: &str) -> PodSpec {
        PodSpec {
            servers: Servers {
                http: vec![80],
                ..Servers::default()
            },
            ..PodSpec::new(name)
        }
    }
}

/// The ports on which a pod's process serves. Every answer names the pod and its client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Servers {
    /// HTTP.
    pub http: Vec<u16>,
    /// TCP, one answer for each line.
    pub tcp: Vec<u16>,
    /// UDP, one answer for each datagram.
    pub udp: Vec<u16>,
}

impl Servers {
    fn arguments(&self) -> Vec<String> {
        let kinds = [
            ("--http", &self.http),
            ("--tcp", &self.tcp),
            ("--udp", &self.udp),
        ];
        kinds
            .into_iter()
            .flat_map(|(option, ports)| ports.iter().map(move |port| format!("{option}={port}")))
            .collect()
    }
}

/// What the runtime keeps of a pod.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Record {
    node: String,
    pid: i32,
    sandbox: Sandbox,
    attachment: Attachment,
}

/// A running pod.
#[derive(Debug)]
pub struct Pod {
    record: Record,
    place: Place,
}

impl Pod {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.record.sandbox.name
    }

    /// The node it runs on.
    pub fn node(&self) -> &str {
        &self.record.node
    }

    /// Where it lives.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The process that holds it, as the lab numbers it.
    pub fn pid(&self) -> i32 {
        self.record.pid
    }

    /// Its sandbox.
    pub fn sandbox(&self) -> &Sandbox {
        &self.record.sandbox
    }

    /// What the plugins answered.
    pub fn attachment(&self) -> &Attachment {
        &self.record.attachment
    }

    /// Its addresses.
    pub fn addresses(&self) -> Vec<IpAddr> {
        runtime::addresses(&self.record.attachment.result)
    }

    /// Its first address of a family.
    pub fn address(&self, ipv6: bool) -> Option<IpAddr> {
        self.addresses()
            .into_iter()
            .find(|address| address.is_ipv6() == ipv6)
    }

    /// The name of the node's end of its link, from the plugin's result.
    pub fn host_link(&self) -> String {
        let interfaces = self.record.attachment.result["interfaces"].as_array();
        let host = interfaces.into_iter().flatten().find(|one| {
            // Only the pod's own end is in a sandbox.
            one["sandbox"].as_str().is_none_or(str::is_empty)
        });
        host.and_then(|one| one["name"].as_str())
            .unwrap_or_default()
            .to_owned()
    }
}

/// Starts a pod on the node whose place this is.
pub(crate) fn run(node: &Place, spec: &PodSpec, mut sandbox: Sandbox) -> Result<Pod> {
    spec.check()?;
    sandbox.ports.clone_from(&spec.ports);
    // Who finds this without a record of the pod knows that this process did not get to its end.
    let begun = begun_path(node.name(), &spec.name);
    let text = serde_json::to_vec_pretty(&sandbox).expect("a Sandbox is plain data");
    node.inside(|| write(&begun, &text))??;
    let own = binaries::own()?.display().to_string();
    let servers = spec.servers.arguments();
    let serves = !servers.is_empty();
    let mut command = vec![own, if serves { "serve" } else { "pause" }.to_owned()];
    command.extend(servers);
    let log = PathBuf::from(format!("/var/log/pod-{}.log", spec.name));
    // Pods of this name before it have written there, too.
    let length = node.inside(|| fs::metadata(&log).map_or(0, |log| log.len()))?;
    let pid = node.launch(&Launch {
        room: Room::Pod {
            name: spec.name.clone(),
        },
        command,
        environment: vec![("PODWIRE_PLACE".into(), spec.name.clone())],
        log: Some(log.clone()),
    });
    let forget_begun = || {
        let _ = node.inside(|| fs::remove_file(&begun));
    };
    let pid = pid.inspect_err(|_| forget_begun())?;
    let undo = |error| {
        end_process(node, pid);
        let _ = node.inside(|| launch::forget(&spec.name));
        forget_begun();
        // A process that has ended has said why, and what followed from that is of no interest.
        let refusal = node.inside(|| refusal(&spec.name, &log, length));
        refusal.ok().flatten().unwrap_or(error)
    };
    let place = node
        .inside(|| Place::of_pid(pid, &spec.name))?
        .map_err(undo)?;
    let runtime = Runtime::new(node);
    let attachment = runtime.add(&sandbox).map_err(undo)?;
    let record = Record {
        node: node.name().into(),
        pid,
        sandbox,
        attachment,
    };
    let path = record_path(node.name(), &spec.name);
    let text = serde_json::to_vec_pretty(&record).expect("a Record is plain data");
    let finish = || {
        if serves {
            await_servers(&spec.name, &log, length)?;
        }
        write(&path, &text)
    };
    node.inside(finish)?.map_err(|error| {
        let (sandbox, attachment) = (&record.sandbox, &record.attachment);
        // What DEL says is of no interest beside the first error.
        let _ = runtime.delete(sandbox, Some(attachment), || end_process(node, pid));
        undo(error)
    })?;
    forget_begun();
    Ok(Pod { record, place })
}

/// Waits until a pod's process has said behind this length of its log that its ports are open, or why
/// they are not.
fn await_servers(name: &str, log: &Path, length: u64) -> Result<()> {
    let what = format!("the opening of the ports of pod {name}");
    wait::until(&what, SERVERS_LIMIT, || first_line(log, length).is_some())?;
    refusal(name, log, length).map_or(Ok(()), Err)
}

/// Why a pod's process does not serve, if it has said so.
fn refusal(name: &str, log: &Path, length: u64) -> Option<Error> {
    let said = first_line(log, length).filter(|line| line != serve::SERVING)?;
    Some(Error::Start {
        program: "the servers".into(),
        place: format!("pod {name}"),
        source: io::Error::other(said),
    })
}

/// The first line behind this length of a log, once it is whole.
fn first_line(log: &Path, length: u64) -> Option<String> {
    let mut file = fs::File::open(log).ok()?;
    file.seek(SeekFrom::Start(length)).ok()?;
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    text.split_once('\n').map(|(line, _)| line.to_owned())
}

/// Stops a pod in the way containerd does: DEL, the namespace goes, DEL twice more.
pub(crate) fn remove(node: &Place, pod: &Pod) -> Result<()> {
    let result =
        Runtime::new(node).delete(&pod.record.sandbox, Some(&pod.record.attachment), || {
            end_process(node, pod.record.pid);
            let _ = node.inside(|| launch::forget(pod.name()));
        });
    // The command that started it may have been killed at its very end.
    let begun = begun_path(node.name(), pod.name());
    let path = record_path(node.name(), pod.name());
    let _ = node.inside(|| fs::remove_file(&begun))?;
    node.inside(|| fs::remove_file(&path).map_err(Error::file("remove", &path)))??;
    result
}

/// What is left of a pod by a command that was killed while it started or stopped it; or the pod is
/// just being started.
#[derive(Debug)]
pub struct Leftover {
    node: String,
    sandbox: Sandbox,
    attachment: Option<Attachment>,
}

impl Leftover {
    /// The pod's name.
    pub fn name(&self) -> &str {
        &self.sandbox.name
    }

    /// Its sandbox.
    pub fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    /// The node on which it is.
    pub fn node(&self) -> &str {
        &self.node
    }
}

/// Takes away what is left of a pod on the node whose place this is.
pub(crate) fn clear(node: &Place, left: &Leftover) -> Result<()> {
    let name = left.name();
    // What starts the sandbox may go on without the command that was killed.
    wait::until(
        &format!("the end of {name}"),
        Duration::from_secs(10),
        || {
            let pids = node
                .inside(|| launch::processes_of(name, &left.sandbox.id))
                .unwrap_or_default();
            pids.iter().for_each(|pid| end_process(node, *pid));
            pids.is_empty()
        },
    )?;
    let deleted = Runtime::new(node).delete(&left.sandbox, left.attachment.as_ref(), || {
        let _ = node.inside(|| launch::forget(name));
    });
    for path in [
        record_path(node.name(), name),
        begun_path(node.name(), name),
    ] {
        let _ = node.inside(|| fs::remove_file(&path))?;
    }
    deleted
}

/// Ends a process of the lab and waits until it is gone.
pub(crate) fn end_process(place: &Place, pid: i32) {
    let _ = place.sh(&format!("kill -9 {pid}"));
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let _ = place.inside(|| wait::until("", Duration::from_secs(5), || !proc.exists()));
}

/// The pods recorded on a node, sorted by name. Reads the lab's own files: `lab` is any place
/// that sees them.
pub(crate) fn on(lab: &Place, node: &str) -> Result<Vec<Pod>> {
    let mut pods = lab.inside(|| -> Result<Vec<Pod>> {
        let mut pods = Vec::new();
        for record in records::<Record>(node, "json")? {
            match Place::of_pid(record.pid, &record.sandbox.name) {
                Ok(place) => pods.push(Pod { record, place }),
                // It was being stopped by a command that was killed.
                Err(_) if Process::find(record.pid).is_none() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(pods)
    })??;
    pods.sort_by(|a, b| a.name().cmp(b.name()));
    Ok(pods)
}

/// What is left of pods on a node, sorted by name; `lab` as for [`on`].
pub(crate) fn left_on(lab: &Place, node: &str) -> Result<Vec<Leftover>> {
    let left = lab.inside(|| -> Result<BTreeMap<String, Leftover>> {
        let of = |sandbox: Sandbox, attachment| Leftover {
            node: node.into(),
            sandbox,
            attachment,
        };
        let begun = records::<Sandbox>(node, BEGUN)?.into_iter();
        let mut left: BTreeMap<_, _> = begun
            .map(|sandbox| (sandbox.name.clone(), of(sandbox, None)))
            .collect();
        for record in records::<Record>(node, "json")? {
            let name = record.sandbox.name.clone();
            match Process::find(record.pid) {
                Some(_) => left.remove(&name),
                None => left.insert(name, of(record.sandbox, Some(record.attachment))),
            };
        }
        Ok(left)
    })??;
    Ok(left.into_values().collect())
}

/// What the files of a node's pods with this ending hold. One that goes meanwhile is not there.
fn records<T: DeserializeOwned>(node: &str, ending: &str) -> Result<Vec<T>> {
    let directory = Path::new(layout::NODES).join(node).join("pods");
    let Ok(entries) = fs::read_dir(&directory) else {
        return Ok(Vec::new());
    };
    let paths = entries.flatten().map(|entry| entry.path());
    let mut found = Vec::new();
    for path in paths.filter(|path| path.extension().is_some_and(|e| e == ending)) {
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            text => text.map_err(Error::file("read", &path))?,
        };
        found.push(
            serde_json::from_slice(&text).map_err(|error| Error::Unreadable {
                path,
                reason: error.to_string(),
            })?,
        );
    }
    Ok(found)
}

fn record_path(node: &str, pod: &str) -> PathBuf {
    Path::new(layout::NODES)
        .join(node)
        .join("pods")
        .join(format!("{pod}.json"))
}

fn begun_path(node: &str, pod: &str) -> PathBuf {
    record_path(node, pod).with_extension(BEGUN)
}

/// Writes a file so that no one ever reads half of it.
pub(crate) fn write(path: &Path, content: &[u8]) -> Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(Error::file("create", directory))?;
    }
    // Several threads may write the same one.
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let beside = path.with_extension(format!("new-{number}"));
    fs::write(&beside, content).map_err(Error::file("write", &beside))?;
    fs::rename(&beside, path).map_err(Error::file("rename", path))
}
