//! A node that exists for one test: namespaces, containers, and calls of plugins.

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use podwire_kernel::RouteSocket;
use podwire_kernel::netns::Netns;
use serde_json::{Value, json};

/// Where the reference plugins are.
pub const REFERENCE: &str = "/usr/lib/cni";

/// Where links to our binary are, by the names of all plugins.
pub const OURS: &str = "/run/podwire-test/bin";

/// All plugins that our binary is, by its name.
pub const PLUGINS: [&str; 6] = [
    "podwire",
    "ptp",
    "host-local",
    "portmap",
    "loopback",
    "bandwidth",
];

/// A node. It lives in the thread that made it; what the thread starts is in its namespaces.
pub struct Node {
    containers: Vec<PathBuf>,
}

/// The network namespace of a container, with a path as runtimes have it.
pub struct Container {
    pub id: String,
    pub path: String,
    pub netns: Netns,
}

/// One call of a plugin.
#[derive(Clone)]
pub struct Call {
    pub directory: String,
    pub plugin: String,
    pub verb: String,
    pub variables: Vec<(String, OsString)>,
    pub stdin: Vec<u8>,
}

/// What came of a call.
#[derive(Debug, Clone)]
pub struct Answer {
    pub success: bool,
    pub stdout: Value,
    pub stderr: String,
}

/// Runs a test on a node of its own.
pub fn on_a_node(test: impl FnOnce(&mut Node) + Send + 'static) {
    let thread = std::thread::spawn(move || {
        let mut node = Node::new();
        test(&mut node);
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

impl Node {
    fn new() -> Self {
        let flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET;
        unshare(flags).expect("these tests make namespaces: run them as root");
        let none: Option<&str> = None;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(none, "/", none, private, none).unwrap();
        fs::create_dir_all("/var/lib/cni").unwrap();
        for path in ["/run", "/var/lib/cni"] {
            mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), none).unwrap();
        }
        fs::create_dir_all("/run/netns").unwrap();
        fs::create_dir_all(OURS).unwrap();
        for name in PLUGINS {
            symlink(env!("CARGO_BIN_EXE_podwire"), Path::new(OURS).join(name)).unwrap();
        }
        let mut socket = RouteSocket::open().unwrap();
        let lo = socket.index_of("lo").unwrap();
        socket.set_up(lo).unwrap();
        Self {
            containers: Vec::new(),
        }
    }

    /// Makes a container.
    pub fn container(&mut self, id: &str) -> Container {
        let path = PathBuf::from(format!("/run/netns/{id}"));
        Netns::create_anonymous().unwrap().bind(&path).unwrap();
        let netns = Netns::open(&path).unwrap();
        self.containers.push(path.clone());
        Container {
            id: id.to_owned(),
            path: path.display().to_string(),
            netns,
        }
    }

    /// Takes a container away, as a runtime does before its last DEL.
    pub fn remove(&mut self, container: Container) {
        Netns::unbind(Path::new(&container.path)).unwrap();
        self.containers
            .retain(|path| *path != Path::new(&container.path));
    }

    /// The standard output of a program that looks at the node.
    pub fn ask(&self, program: &str, arguments: &[&str]) -> String {
        let output = Command::new(program).args(arguments).output();
        let output = output.unwrap_or_else(|error| panic!("cannot run {program}: {error}"));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?}: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What `nft list ruleset` says.
    pub fn ruleset(&self) -> String {
        self.ask("nft", &["list", "ruleset"])
    }

    /// The names of all links.
    pub fn links(&self) -> Vec<String> {
        let links = RouteSocket::open().unwrap().links().unwrap();
        links.into_iter().map(|link| link.name).collect()
    }

    /// The only link beside `lo`.
    pub fn host_link(&self) -> String {
        let links: Vec<_> = self
            .links()
            .into_iter()
            .filter(|name| name != "lo")
            .collect();
        assert_eq!(links.len(), 1, "{links:?}");
        links[0].clone()
    }

    /// Fails if there is anything in nftables but our tables, or anything of an attachment in them.
    pub fn assert_nothing_mapped(&self) {
        let ruleset = self.ruleset();
        assert!(!ruleset.contains("elements"), "{ruleset}");
        let foreign = |line: &&str| line.starts_with("table ") && !line.contains("inet podwire-");
        assert_eq!(ruleset.lines().find(foreign), None);
    }

    /// Fails unless nothing of any attachment is left.
    pub fn assert_clean(&self) {
        assert_eq!(self.links(), ["lo"], "links");
        self.assert_nothing_mapped();
        assert_eq!(
            left_in("/run/podwire/attachments"),
            Vec::<String>::new(),
            "records"
        );
        for directory in ["/run/ipam", "/var/lib/cni/networks"] {
            for network in names(directory) {
                let path = format!("{directory}/{network}");
                assert_eq!(left_in(&path), Vec::<String>::new(), "leases in {path}");
            }
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for path in &self.containers {
            // The namespaces go with the thread; this only spares the kernel the wait.
            let _ = Netns::unbind(path);
        }
    }
}

/// The names in a directory, sorted; none if it is not there.
pub fn names(directory: &str) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

/// The names in a directory of leases or records that are none of the few that always stay.
pub fn left_in(directory: &str) -> Vec<String> {
    let stays = |name: &String| {
        name == "lock"
            || name == ".podwire"
            || name.starts_with(".podwire.free.")
            || name.starts_with("last_reserved_ip.")
    };
    names(directory)
        .into_iter()
        .filter(|name| !stays(name))
        .collect()
}

impl Call {
    /// A call of one of our plugins, as containerd makes it.
    pub fn new(plugin: &str, verb: &str, container: &Container, config: &Value) -> Self {
        Self {
            directory: OURS.to_owned(),
            plugin: plugin.to_owned(),
            verb: verb.to_owned(),
            variables: Vec::new(),
            stdin: config.to_string().into_bytes(),
        }
        .with("CNI_CONTAINERID", &container.id)
        .with("CNI_NETNS", &container.path)
        .with("CNI_IFNAME", "eth0")
        .with("CNI_PATH", OURS)
    }

    /// The same for the reference plugin.
    pub fn of_reference(mut self) -> Self {
        self.directory = REFERENCE.to_owned();
        self.with("CNI_PATH", REFERENCE)
    }

    /// With a variable; an empty value unsets it.
    pub fn with(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.variables.retain(|(other, _)| other != name);
        self.variables.push((name.to_owned(), value.into()));
        self
    }

    /// Without the namespace, as the later DELs of a container come.
    pub fn without_netns(self) -> Self {
        self.with("CNI_NETNS", "")
    }

    /// For another interface of the container.
    pub fn ifname(self, name: &str) -> Self {
        self.with("CNI_IFNAME", name)
    }

    /// With what comes before it in the list of plugins.
    pub fn after(mut self, previous: &Value) -> Self {
        let mut config: Value = serde_json::from_slice(&self.stdin).unwrap();
        config["prevResult"] = previous.clone();
        self.stdin = config.to_string().into_bytes();
        self
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new(Path::new(&self.directory).join(&self.plugin));
        command
            // A relative path in a configuration leads to where the node's own files are.
            .current_dir("/run")
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        if !self.verb.is_empty() {
            command.env("CNI_COMMAND", &self.verb);
        }
        let set = self.variables.iter().filter(|(_, value)| !value.is_empty());
        command.envs(set.map(|(name, value)| (name, value)));
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Starts the plugin and gives it its input.
    pub fn start(&self) -> Child {
        let mut child = self.command().spawn().unwrap();
        // A plugin that fails early does not read its input.
        let _ = child.stdin.take().unwrap().write_all(&self.stdin);
        child
    }

    pub fn run(&self) -> Answer {
        Answer::of(self.start().wait_with_output().unwrap())
    }

    /// Runs the call, which must succeed, and returns what it printed.
    #[track_caller]
    pub fn succeed(&self) -> Value {
        let answer = self.run();
        assert!(answer.success, "{} {}: {answer:?}", self.plugin, self.verb);
        answer.stdout
    }

    /// Runs the call, which must fail with this code, and returns its message.
    #[track_caller]
    pub fn fail(&self, code: u32) -> String {
        let answer = self.run();
        assert!(!answer.success, "{} {}: {answer:?}", self.plugin, self.verb);
        assert_eq!(answer.stdout["code"], code, "{answer:?}");
        answer.stdout["msg"].as_str().unwrap().to_owned()
    }
}

impl Answer {
    fn of(output: Output) -> Self {
        let stdout = match output.stdout.as_slice() {
            [] => Value::Null,
            bytes => serde_json::from_slice(bytes).unwrap_or_else(|error| {
                let text = String::from_utf8_lossy(bytes);
                panic!("standard output is no JSON ({error}): {text:?}")
            }),
        };
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(!stderr.contains("panicked"), "{stderr}");
        Self {
            success: output.status.success(),
            stdout,
            stderr,
        }
    }
}

/// A configuration with built-in leases from these subnets, each with a default route.
pub fn config(kind: &str, subnets: &[&str]) -> Value {
    let ranges: Vec<_> = subnets
        .iter()
        .map(|subnet| json!([{ "subnet": subnet }]))
        .collect();
    let routes: Vec<_> = subnets
        .iter()
        .map(|subnet| json!({"dst": if subnet.contains(':') { "::/0" } else { "0.0.0.0/0" }}))
        .collect();
    json!({
        "cniVersion": "1.1.0",
        "name": "net",
        "type": kind,
        "ipam": {
            "type": "host-local",
            "dataDir": "/run/ipam",
            "ranges": ranges,
            "routes": routes,
        },
    })
}

/// The same configuration in another version.
pub fn in_version(config: &Value, version: &str) -> Value {
    let mut config = config.clone();
    config["cniVersion"] = version.into();
    config
}
