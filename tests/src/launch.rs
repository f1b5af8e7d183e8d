//! Starting long-lived processes in the lab: nodes, pods, agents, servers.
//!
//! `podwire-lab launch` runs for a moment in the place where the process is to live, makes the
//! namespaces and mounts that it needs, starts it, prints its PID and ends. The process is then
//! an orphan and becomes a child of the lab's PID 1, no matter who asked for it: it outlives the
//! command that started it, a Ctrl-C in that command's terminal as well, and never becomes a zombie.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::setsid;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::init::mount_on;
use crate::layout;

/// What to start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Launch {
    /// The namespaces and mounts it gets.
    pub room: Room,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Variables on top of the inherited environment.
    #[serde(default)]
    pub environment: Vec<(String, String)>,
    /// Where its output goes; nowhere if absent.
    #[serde(default)]
    pub log: Option<PathBuf>,
}

/// The namespaces and mounts of a launched process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Room {
    /// Those of the place it is launched in.
    Shared,
    /// A node: its own network, host name and `/etc`, `/opt`, `/run`, `/var`, `/sys`.
    Node {
        /// The node's name.
        name: String,
        /// The content of its `/etc/hosts`.
        hosts: String,
    },
    /// A pod: its own network, host name, `/run` and `/sys`; its network namespace is named in
    /// the node's `/run/netns`.
    Pod {
        /// The pod's name, which names the network namespace as well.
        name: String,
    },
}

/// Starts the process and answers with its PID.
pub fn run(launch: &Launch) -> Result<u32> {
    // Ctrl-C in a terminal goes to all processes of a group, and the one that is started is of ours.
    // Refused to the leader of a group alone, who has left that of the terminal already.
    let _ = setsid();
    // A pod's network namespace is named before anything can fail, and the name goes again if
    // something does.
    match &launch.room {
        Room::Shared => start(launch),
        Room::Node { name, hosts } => {
            node(name, hosts)?;
            start(launch)
        }
        Room::Pod { name } => pod(name)
            .and_then(|()| start(launch))
            .inspect_err(|_| forget(name)),
    }
}

/// Removes the name of a pod's network namespace. Tolerates that it is gone.
pub fn forget(name: &str) {
    let file = netns_file(name);
    let _ = umount2(&file, MntFlags::MNT_DETACH);
    let _ = fs::remove_file(&file);
}

/// The file in a node's `/run/netns` that names a pod's network namespace.
pub fn netns_file(name: &str) -> PathBuf {
    Path::new(layout::NETNS).join(name)
}

/// The processes of a pod, those that are about to start it and the plugins that are called for its
/// container, as the lab numbers them.
pub fn processes_of(pod: &str, container_id: &str) -> Vec<i32> {
    let room = Room::Pod { name: pod.into() };
    let room = serde_json::to_string(&room).expect("a Room is plain data");
    let variables = [
        format!("PODWIRE_PLACE={pod}"),
        format!("CNI_CONTAINERID={container_id}"),
    ];
    let is_of = |pid: &i32| {
        let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let has = |text: Vec<u8>, wanted: &dyn Fn(&str) -> bool| {
            let words = text.split(|byte| *byte == 0);
            words
                .into_iter()
                .any(|word| wanted(&String::from_utf8_lossy(word)))
        };
        has(read("environ"), &|word| {
            variables.iter().any(|one| one == word)
        }) || has(read("cmdline"), &|word| word.contains(&room))
    };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(is_of).collect()
}

fn start(launch: &Launch) -> Result<u32> {
    let [program, arguments @ ..] = launch.command.as_slice() else {
        return Err(Error::Command {
            command: String::new(),
            place: "the lab".into(),
            reason: "there is no program to launch".into(),
        });
    };
    let output = || -> Result<Stdio> {
        let Some(path) = &launch.log else {
            return Ok(Stdio::null());
        };
        let file = File::options().create(true).append(true).open(path);
        Ok(file.map_err(Error::file("open", path))?.into())
    };
    let child = Command::new(program)
        .args(arguments)
        .envs(launch.environment.iter().map(|(key, value)| (key, value)))
        .stdin(Stdio::null())
        .stdout(output()?)
        .stderr(output()?)
        .spawn()
        .map_err(|source| Error::Start {
            program: program.clone(),
            place: "the lab".into(),
            source,
        })?;
    Ok(child.id())
}

fn separate(flags: CloneFlags, name: &str) -> Result<()> {
    unshare(flags).map_err(|source| Error::Namespace {
        action: "make",
        place: name.into(),
        source,
    })
}

fn set_host_name(name: &str) -> Result<()> {
    let path = "/proc/sys/kernel/hostname";
    fs::write(path, name).map_err(Error::file("write", path))
}

/// Turns this process into one of a new node.
fn node(name: &str, hosts: &str) -> Result<()> {
    let own = CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWNS;
    separate(own, name)?;
    set_host_name(name)?;
    // The new /run is filled beside the old one and then moved over it, because what is shared
    // with the lab has to be reachable until then.
    let stage = Path::new(layout::ROOT).join("stage");
    create(&stage)?;
    mount_on(
        "tmpfs",
        Some("tmpfs"),
        &stage,
        Some("tmpfs"),
        MsFlags::MS_NOSUID,
    )?;
    let lab = stage.join("podwire-lab");
    for shared in [layout::MANIFESTS, layout::PROGRAMS, layout::NODES] {
        let name = Path::new(shared).file_name();
        let target = lab.join(name.expect("the layout names directories"));
        create(&target)?;
        let bind = MsFlags::MS_BIND;
        mount_on("a shared directory", Some(shared), &target, None, bind)?;
    }
    let inside = lab.join(".inside");
    fs::write(&inside, name).map_err(Error::file("write", inside))?;
    for directory in ["/etc", "/opt", "/var"] {
        overlay(directory, &lab.join("written"))?;
    }
    mount_on(
        "the node's /run",
        stage.to_str(),
        Path::new("/run"),
        None,
        MsFlags::MS_MOVE,
    )?;
    // The same name spaces as the node's network: /sys/class/net shows the node's links.
    mount_on(
        "sysfs",
        Some("sysfs"),
        Path::new("/sys"),
        Some("sysfs"),
        MsFlags::empty(),
    )?;
    furnish(name, hosts)
}

/// Covers `directory` with an overlay: what the node writes there stays in its memory.
fn overlay(directory: &str, written: &Path) -> Result<()> {
    let upper = written
        .join(directory.trim_start_matches('/'))
        .join("files");
    let work = upper.with_file_name("work");
    create(&upper)?;
    create(&work)?;
    let options = format!(
        "lowerdir={directory},upperdir={},workdir={}",
        upper.display(),
        work.display()
    );
    let what = "an overlay file system";
    mount(
        Some("overlay"),
        directory,
        Some("overlay"),
        MsFlags::empty(),
        Some(options.as_str()),
    )
    .map_err(|source| Error::Mount {
        what,
        path: directory.into(),
        source,
    })
}

/// Gives a node the directories and files that every node has.
fn furnish(name: &str, hosts: &str) -> Result<()> {
    for directory in [
        layout::NETNS,
        layout::NET_D,
        layout::CNI_BIN,
        "/var/lib/cni",
        "/var/log",
    ] {
        create(Path::new(directory))?;
    }
    // As `ip netns` does: a name that is removed goes from everybody's view at once.
    let netns = Path::new(layout::NETNS);
    mount_on("itself", Some(layout::NETNS), netns, None, MsFlags::MS_BIND)?;
    mount_on("itself", None, netns, None, MsFlags::MS_SHARED)?;
    // A machine's own configuration and plugins are not the node's.
    for directory in [layout::NET_D, layout::CNI_BIN] {
        mount_on(
            "tmpfs",
            Some("tmpfs"),
            Path::new(directory),
            Some("tmpfs"),
            MsFlags::empty(),
        )?;
    }
    for (path, content) in [("/etc/hostname", name), ("/etc/hosts", hosts)] {
        fs::write(path, content).map_err(Error::file("write", path))?;
    }
    let plugin = Path::new(layout::PROGRAMS).join("podwire");
    for role in [
        "podwire",
        "ptp",
        "host-local",
        "portmap",
        "bandwidth",
        "loopback",
    ] {
        let link = Path::new(layout::CNI_BIN).join(role);
        symlink(&plugin, &link).map_err(Error::file("create", link))?;
    }
    Ok(())
}

/// Turns this process, which lives on a node, into one of a new pod there.
fn pod(name: &str) -> Result<()> {
    let file = netns_file(name);
    File::create_new(&file).map_err(Error::file("create", &file))?;
    separate(
        CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC,
        name,
    )?;
    set_host_name(name)?;
    let own = Some("/proc/self/ns/net");
    mount_on("a network namespace", own, &file, None, MsFlags::MS_BIND)?;
    separate(CloneFlags::CLONE_NEWNS, name)?;
    // The node's names of network namespaces are not the pod's: a pod that held a copy would
    // keep its neighbours' namespaces alive.
    let netns = Path::new(layout::NETNS);
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount_on("nothing", None, Path::new("/"), None, private)?;
    umount2(netns, MntFlags::MNT_DETACH).map_err(|source| Error::Mount {
        what: "nothing",
        path: netns.into(),
        source,
    })?;
    mount_on(
        "tmpfs",
        Some("tmpfs"),
        Path::new("/run"),
        Some("tmpfs"),
        MsFlags::MS_NOSUID,
    )?;
    mount_on(
        "sysfs",
        Some("sysfs"),
        Path::new("/sys"),
        Some("sysfs"),
        MsFlags::empty(),
    )
}

fn create(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).map_err(Error::file("create", directory))
}
