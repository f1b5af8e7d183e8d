//! Calling a plugin as a runtime does, and taking the time.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

/// The verbs that are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// ADD.
    Add,
    /// DEL.
    Del,
}

/// An attachment: one interface of one container.
#[derive(Debug, Clone)]
pub struct Attachment {
    /// The container ID.
    pub id: String,
    /// Path of its network namespace.
    pub netns: PathBuf,
}

/// One call of one program, ready to be made.
#[derive(Debug)]
pub struct Call {
    command: Command,
    input: String,
    name: String,
}

/// What came of a call.
#[derive(Debug)]
pub struct Answer {
    /// From before the program was started until it had ended.
    pub time: Duration,
    /// How long processors worked for it and the programs that it ran itself; only if nothing else
    /// was called meanwhile.
    pub cpu: Duration,
    /// What it printed.
    pub output: String,
}

impl Call {
    /// A call of `program` with the configuration `input`.
    pub fn new(
        program: &Path,
        arguments: &[OsString],
        verb: Verb,
        attachment: &Attachment,
        plugins: &Path,
        input: String,
    ) -> Self {
        let verb = match verb {
            Verb::Add => "ADD",
            Verb::Del => "DEL",
        };
        let mut command = Command::new(program);
        command
            .args(arguments)
            // The reference needs to find iptables, so both get a short environment with a path.
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", &attachment.id)
            .env("CNI_NETNS", &attachment.netns)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", plugins)
            .env(
                "CNI_ARGS",
                "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-5d4f;\
                 K8S_POD_INFRA_CONTAINER_ID=1",
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        Self {
            command,
            input,
            name: format!("{} {verb}", program.display()),
        }
    }

    /// Puts `floor rss FILE` in front of the program.
    pub fn measuring_memory(mut self, floor: &Path, file: &Path) -> Self {
        let mut wrapped = Command::new(floor);
        wrapped
            .arg("rss")
            .arg(file)
            .arg(self.command.get_program())
            .args(self.command.get_args())
            .env_clear()
            .envs(
                self.command
                    .get_envs()
                    .filter_map(|(key, value)| Some((key, value?))),
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        self.command = wrapped;
        self
    }

    /// Makes the call. The standard library starts programs with `posix_spawn`, which does not
    /// copy this process.
    pub fn make(mut self) -> Result<Answer, String> {
        let before = work_of_children();
        let start = Instant::now();
        let child = self.start()?;
        let (time, output) = self.finish(child, start)?;
        let cpu = work_of_children().saturating_sub(before);
        Ok(Answer { time, cpu, output })
    }

    /// Starts the program and gives it its input.
    fn start(&mut self) -> Result<Child, String> {
        let failed = |error| format!("cannot run {}: {error}", self.name);
        let mut child = self.command.spawn().map_err(failed)?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(self.input.as_bytes()).map_err(failed)?;
        }
        Ok(child)
    }

    /// Waits for the end of the program.
    fn finish(&self, mut child: Child, start: Instant) -> Result<(Duration, String), String> {
        let failed = |error| format!("cannot read from {}: {error}", self.name);
        let mut output = String::new();
        if let Some(mut stdout) = child.stdout.take() {
            stdout.read_to_string(&mut output).map_err(failed)?;
        }
        let status = child.wait().map_err(failed)?;
        let time = start.elapsed();
        if status.success() {
            Ok((time, output))
        } else {
            Err(format!(
                "{} failed ({status}): {}",
                self.name,
                output.trim()
            ))
        }
    }
}

/// How long processors worked for all children that have ended.
fn work_of_children() -> Duration {
    let duration = |time: TimeVal| {
        let (seconds, micros) = (time.tv_sec().max(0), time.tv_usec().max(0));
        Duration::from_secs(seconds as u64) + Duration::from_micros(micros as u64)
    };
    getrusage(UsageWho::RUSAGE_CHILDREN).map_or(Duration::ZERO, |usage| {
        duration(usage.user_time()) + duration(usage.system_time())
    })
}
