//! The real agent as a process, in a network namespace that stands for a node.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use podwire_kernel::RouteSocket;
use podwire_kernel::address::Address;
use podwire_kernel::link::Veth;
use podwire_kernel::netns::Netns;
use podwire_kernel::sysctl;

use super::cluster::{Cluster, NODE};
use crate::world::World;

/// Nothing that is waited for takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A network namespace with an uplink to nowhere.
pub fn node() -> Result<Netns, String> {
    let failed = |error: podwire_kernel::Error| error.to_string();
    let netns = Netns::create_anonymous().map_err(failed)?;
    let address = IpNetwork::new([192, 168, 77, 1].into(), 24).map_err(|e| e.to_string())?;
    let made = netns.enter(|| {
        sysctl::write("net/ipv4/ip_forward", "1")?;
        let mut socket = RouteSocket::open()?;
        socket.set_up(1)?;
        let ends = socket.create_veth(&Veth::new("up0", "up1")?)?;
        socket.set_up(ends.peer_index)?;
        socket.set_up(ends.index)?;
        socket.add_address(&Address::new(ends.index, address))
    });
    made.map_err(failed)?.map_err(failed)?;
    Ok(netns)
}

/// A running agent; it is stopped when it goes out of scope.
pub struct Agent {
    child: Child,
    /// When it was started.
    pub began: Instant,
    log: Receiver<(Instant, String)>,
    conf: PathBuf,
    state: PathBuf,
}

impl Agent {
    /// Starts the agent on a node, with manifests.
    pub fn start(world: &World, netns: &Netns, cluster: &Cluster) -> Result<Self, String> {
        Self::start_with(world, netns, cluster, &[])
    }

    /// Starts the agent with more flags.
    pub fn start_with(
        world: &World,
        netns: &Netns,
        cluster: &Cluster,
        flags: &[&str],
    ) -> Result<Self, String> {
        let source = format!("--manifests={}", cluster.directory().display());
        Self::start_from(world, netns, &cluster.state(), &source, flags)
    }

    /// Starts the agent with the flag that says where it reads objects.
    pub fn start_from(
        world: &World,
        netns: &Netns,
        directory: &Path,
        source: &str,
        flags: &[&str],
    ) -> Result<Self, String> {
        let conf = directory.join("net.d");
        for path in [directory, &conf] {
            fs::create_dir_all(path)
                .map_err(|error| format!("cannot make {}: {error}", path.display()))?;
        }
        let option = |name: &str, path: &Path| format!("--{name}={}", path.display());
        let mut command = Command::new(&world.agent);
        command
            .arg("run")
            .arg(source)
            .args([
                option("run-dir", directory),
                option("cni-conf-dir", &conf),
                format!("--node-name={NODE}"),
            ])
            .args(["--uplink=up0", "--metrics-bind-address="])
            .args(["--healthz-bind-address=127.0.0.1:10256", "--log=info"])
            .args(flags)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let failed = |error: &dyn std::fmt::Display| {
            format!("cannot start {}: {error}", world.agent.display())
        };
        let began = Instant::now();
        // The process begins in the namespace of the thread that starts it.
        let mut child = netns
            .enter(|| command.spawn())
            .map_err(|error| failed(&error))?
            .map_err(|error| failed(&error))?;
        let (to, log) = channel();
        if let Some(lines) = child.stderr.take() {
            std::thread::spawn(move || {
                for line in BufReader::new(lines).lines().map_while(Result::ok) {
                    if to.send((Instant::now(), line)).is_err() {
                        return;
                    }
                }
            });
        }
        Ok(Self {
            child,
            began,
            log,
            conf: conf.join("00-podwire.conflist"),
            state: directory.to_owned(),
        })
    }

    /// Waits for a line of the log that holds `text`; the moment at which it came.
    pub fn await_log(&self, text: &str) -> Result<Instant, String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let (at, line) = self
                .log
                .recv_timeout(left)
                .map_err(|_| format!("the agent never said \"{text}\""))?;
            if line.contains(text) {
                return Ok(at);
            }
        }
    }

    /// Waits until pods could start: everything is in the kernel. The time since the start.
    pub fn await_ready(&mut self) -> Result<Duration, String> {
        loop {
            if File::open(&self.conf).is_ok() {
                return Ok(self.began.elapsed());
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                let words: Vec<String> = self.log.try_iter().map(|(_, line)| line).collect();
                return Err(format!("the agent ended ({status}): {}", words.join("; ")));
            }
            if self.began.elapsed() > PATIENCE {
                return Err("the agent never wrote the CNI configuration".into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until the agent has used no processor for half a second.
    pub fn await_idle(&self) -> Result<(), String> {
        let mut last = (self.ticks()?, Instant::now());
        while last.1.elapsed() < Duration::from_millis(500) {
            std::thread::sleep(Duration::from_millis(20));
            let now = self.ticks()?;
            if now != last.0 {
                last = (now, Instant::now());
            }
        }
        Ok(())
    }

    /// User and system time so far, in ticks of the kernel.
    fn ticks(&self) -> Result<u64, String> {
        let text = self.proc("stat")?;
        let fields = text.rsplit_once(") ").map_or("", |(_, rest)| rest);
        // utime and stime are fields 14 and 15 of proc(5); the rest begins with field 3.
        let mut times = fields.split(' ').skip(11).take(2);
        let mut next = || times.next().and_then(|text| text.parse::<u64>().ok());
        next()
            .zip(next())
            .map(|(user, system)| user + system)
            .ok_or_else(|| "cannot read the agent's processor time".to_owned())
    }

    /// User and system time so far.
    pub fn processor_time(&self) -> Result<Duration, String> {
        // USER_HZ is 100 wherever Linux runs (proc(5), sysconf(3)).
        self.ticks().map(|ticks| Duration::from_millis(ticks * 10))
    }

    /// The directory of its socket.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// A line of `/proc/PID/status` in MiB: `VmRSS` is resident memory now, `VmHWM` its peak.
    pub fn memory(&self, field: &str) -> Result<f64, String> {
        let text = self.proc("status")?;
        let line = text.lines().find(|line| line.starts_with(field));
        line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok())
            .map(|kibibytes| kibibytes / 1024.0)
            .ok_or_else(|| format!("cannot read {field} of the agent"))
    }

    fn proc(&self, name: &str) -> Result<String, String> {
        let path = format!("/proc/{}/{name}", self.child.id());
        fs::read_to_string(&path).map_err(|error| format!("cannot read {path}: {error}"))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
