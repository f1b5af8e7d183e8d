//! Places: sets of namespaces that can be entered.
//!
//! The lab, every node and every pod is a place. A closure or a command runs in a place on a
//! thread of its own: namespaces belong to threads, and a thread that has gone into a mount
//! namespace is not fit for anything else afterwards. Commands become children of the process
//! that asked for them but live in the lab's PID namespace, so they end with the lab.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};

use crate::command::{self, Capture, Ran};
use crate::error::{Error, Result};
use crate::launch::Launch;
use crate::layout;

/// How long a command may take if nothing else is said.
pub const COMMAND_LIMIT: Duration = Duration::from_secs(30);

/// The namespaces a place consists of, in the order in which they are entered. The mount
/// namespace is last, because the others are found by path.
const KINDS: [(&str, CloneFlags); 5] = [
    ("pid", CloneFlags::CLONE_NEWPID),
    ("ipc", CloneFlags::CLONE_NEWIPC),
    ("uts", CloneFlags::CLONE_NEWUTS),
    ("net", CloneFlags::CLONE_NEWNET),
    ("mnt", CloneFlags::CLONE_NEWNS),
];

/// A set of namespaces, held open.
#[derive(Debug, Clone)]
pub struct Place {
    name: Arc<str>,
    namespaces: Arc<Vec<(File, CloneFlags)>>,
}

impl Place {
    /// The place that process `pid` lives in, as `/proc` of the calling thread numbers it.
    pub fn of_pid(pid: i32, name: &str) -> Result<Place> {
        let mut namespaces = Vec::with_capacity(KINDS.len());
        for (kind, flag) in KINDS {
            let path = format!("/proc/{pid}/ns/{kind}");
            namespaces.push((File::open(&path).map_err(Error::file("open", path))?, flag));
        }
        Ok(Place {
            name: name.into(),
            namespaces: Arc::new(namespaces),
        })
    }

    /// What people call this place: `lab`, or the name of a node or pod.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The network namespace, for creating the far end of a link in it.
    pub fn network(&self) -> &File {
        let net = self
            .namespaces
            .iter()
            .find(|(_, flag)| *flag == CloneFlags::CLONE_NEWNET);
        &net.expect("every place is made with a network namespace").0
    }

    /// Runs `work` on a thread that lives in this place.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            let thread = scope.spawn(|| self.enter().map(|()| work()));
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs `work`, which talks to the kernel, on a thread that lives in this place.
    pub fn kernel<T: Send>(
        &self,
        work: impl FnOnce() -> std::result::Result<T, podwire_kernel::Error> + Send,
    ) -> Result<T> {
        self.inside(work)?.map_err(|source| Error::Kernel {
            place: self.name.to_string(),
            source,
        })
    }

    /// Takes the calling thread into this place. There is no way back.
    fn enter(&self) -> Result<()> {
        let failed = |source| Error::Namespace {
            action: "enter",
            place: self.name.to_string(),
            source,
        };
        // Threads of a process share their root and working directory, and the kernel refuses
        // to move one thread to another mount namespace while they do.
        unshare(CloneFlags::CLONE_FS).map_err(failed)?;
        for (file, flag) in self.namespaces.iter() {
            setns(file.as_fd(), *flag).map_err(failed)?;
        }
        Ok(())
    }

    /// Runs a command line of `sh` and waits for its end, whatever its exit status is.
    pub fn sh(&self, line: &str) -> Result<Ran> {
        self.sh_within(line, COMMAND_LIMIT)
    }

    /// Like [`Place::sh`], with a time limit of its own.
    pub fn sh_within(&self, line: &str, limit: Duration) -> Result<Ran> {
        let child = self.spawn(line, self.piped("sh").args(["-c", line]))?;
        command::follow(child, line, &self.name, None, limit)
    }

    /// Runs a command line of `sh` that must succeed, and answers with its standard output.
    pub fn output(&self, line: &str) -> Result<String> {
        self.sh(line)?.success()
    }

    /// Runs a program with `input` on its standard input and `environment` on top of ours.
    pub fn call(
        &self,
        program: &Path,
        environment: &[(String, String)],
        input: &[u8],
        limit: Duration,
    ) -> Result<Ran> {
        let line = program.display().to_string();
        let mut command = self.piped(program);
        command.stdin(Stdio::piped());
        command.envs(environment.iter().map(|(key, value)| (key, value)));
        let child = self.spawn(&line, &mut command)?;
        command::follow(child, &line, &self.name, Some(input), limit)
    }

    /// Starts a command line of `sh` whose output is collected while other things happen, and
    /// waits until it has printed `ready` to standard error.
    pub fn capture(&self, line: &str, ready: &str) -> Result<Capture> {
        let mut sh = self.piped("sh");
        let child = self.spawn(line, sh.args(["-c", &format!("exec {line}")]))?;
        Capture::of(child, line, &self.name).when_ready(ready)
    }

    /// Runs a program on the caller's terminal and answers with its exit status.
    pub fn attach(&self, program: &str, arguments: &[String]) -> Result<i32> {
        let mut command = self.command(program);
        // What is typed in the lab is not part of the person's own history.
        command.args(arguments).env("HISTFILE", "/dev/null");
        command::attend(|| self.spawn(program, &mut command), program, &self.name)
    }

    /// Starts a process that goes on when the caller ends. Answers with its PID in the lab.
    pub fn launch(&self, launch: &Launch) -> Result<i32> {
        let line = "podwire-lab launch";
        let specification = serde_json::to_string(launch).expect("a Launch is plain data");
        let mut command = self.piped(crate::binaries::own()?);
        let child = self.spawn(line, command.arg("launch").arg(specification))?;
        let output = command::follow(child, line, &self.name, None, COMMAND_LIMIT)?.success()?;
        output.trim().parse().map_err(|_| Error::Command {
            command: line.into(),
            place: self.name.to_string(),
            reason: format!("answered {:?} instead of a PID", output.trim()),
        })
    }

    /// Starts `command` in this place. Nothing else is done there: a thread that has entered
    /// another PID namespace can make processes, but no threads (EINVAL, kernel/fork.c).
    fn spawn(&self, line: &str, command: &mut Command) -> Result<Child> {
        self.inside(|| command.spawn())?
            .map_err(|source| Error::Start {
                program: line.into(),
                place: self.name.to_string(),
                source,
            })
    }

    fn piped(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.command(program);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env(
                "PATH",
                format!("{}:{}", command::search_path(), layout::PROGRAMS),
            )
            .env("PODWIRE_PLACE", &*self.name)
            .current_dir("/");
        command
    }
}
