//! `podwire-agent run`: puts the parts together and takes them apart again.
//!
//! The reconcile loop has a thread of its own and blocks on the kernel; everything that waits
//! (signals, HTTP, kernel notifications, the Kubernetes API) shares the main thread. They talk
//! through one channel.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc as async_mpsc;
use tokio::sync::{oneshot, watch};
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::commands::{preflight, takeover};
use crate::config::{Config, LogFormat};
use crate::drops::{self, DropLog};
use crate::error::chain;
use crate::features;
use crate::features::cniconf::networks_in_place;
use crate::features::parts::log::Logging;
use crate::features::routes;
use crate::features::services::health_checks::HealthPorts;
use crate::flows::{self, FlowLog};
use crate::health::{Health, SharedHealth};
use crate::input::Input;
use crate::notices::{cni_conf, kernel as kernel_notices};
use crate::reconcile::{Reconcile, Shared};
use crate::serve::site::{Site, serve};
use crate::source::decode::Scope;
use crate::source::kubernetes::{self, Kubernetes};
use crate::source::manifests;
use crate::uplink::Finder;
use crate::warnings::{Notice, Warning};

/// The pause before rules of a kube-proxy are looked for again.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// Why the agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The kernel refuses what every part needs.
    #[error("cannot talk to the kernel; the agent needs the capability NET_ADMIN")]
    Kernel(#[from] podwire_kernel::Error),
    /// The operating system refuses a thread, a signal or the like.
    #[error("cannot {operation}")]
    System {
        /// What was attempted.
        operation: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// There is no place for the sockets and for what the plugin has to know.
    #[error("cannot use the run directory {}; give another one with --run-dir", path.display())]
    RunDir {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The API server cannot be found.
    #[error("cannot find the API server (with --manifests DIR none is needed)")]
    Kubernetes(#[from] kubernetes::Error),
    /// The reconcile loop ended by itself.
    #[error("the reconcile loop panicked; see the log above")]
    LoopPanicked,
}

/// Logs to stderr as the flags say.
pub fn start_logging(config: &Config) {
    let lines = fmt::layer()
        .with_target(false)
        .with_ansi(io::stderr().is_terminal())
        // It would be told on stderr, and panic there.
        .log_internal_errors(false)
        .with_writer(io::stderr);
    let log = tracing_subscriber::registry().with(config.log.clone());
    match config.log_format {
        LogFormat::Text => log.with(lines).init(),
        LogFormat::Json => log.with(lines.json().flatten_event(true)).init(),
    }
}

/// Logs to stderr, for commands without flags about logging.
pub fn log_to_stderr() {
    tracing_subscriber::fmt()
        .with_ansi(io::stderr().is_terminal())
        .log_internal_errors(false)
        .with_writer(io::stderr)
        .with_target(false)
        .init();
}

/// Runs until SIGTERM or SIGINT. Everything in the kernel and on disk stays.
pub fn run(config: Config) -> Result<(), RunError> {
    runtime()?.block_on(run_all(config))
}

/// A runtime for the calling thread.
pub fn runtime() -> Result<tokio::runtime::Runtime, RunError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| RunError::System {
            operation: "start the runtime",
            source,
        })
}

async fn run_all(mut config: Config) -> Result<(), RunError> {
    make_run_dir(&config.run_dir)?;
    let version = env!("CARGO_PKG_VERSION");
    tracing::info!(version, node = %config.node_name, "podwire-agent starts");
    // Each port of a health check is a listener, and there may be thousands.
    if let Err(error) = podwire_kernel::process::open_as_many_files_as_allowed() {
        tracing::warn!("{}", chain(&error));
    }
    for read in config.read_mapped_networks() {
        tracing::warn!("{read}: it is IPv4 written as IPv6");
    }
    if config.manifests.is_none() {
        config.kubernetes.read = kubernetes::named_server(&config.kubernetes);
    }
    start(config, Channels::new()).await?.wait().await
}

/// Without that directory nothing that a pod needs would work.
fn make_run_dir(path: &Path) -> Result<(), RunError> {
    podwire::files::create_own_directory(path).map_err(|source| RunError::RunDir {
        path: path.to_owned(),
        source,
    })
}

/// What the parts of the agent are connected by.
struct Channels {
    /// Everything that the loop receives.
    inputs: Sender<Input>,
    outputs: mpsc::Receiver<Input>,
    /// The health checks that the features want served.
    health_ports: watch::Sender<HealthPorts>,
    wanted_ports: watch::Receiver<HealthPorts>,
    /// What is on its way to becoming Events.
    notices: async_mpsc::Sender<Notice>,
    events: async_mpsc::Receiver<Notice>,
}

impl Channels {
    fn new() -> Self {
        let (inputs, outputs) = mpsc::channel();
        let (health_ports, wanted_ports) = watch::channel(HealthPorts::default());
        let (notices, events) = kubernetes::events();
        Self {
            inputs,
            outputs,
            health_ports,
            wanted_ports,
            notices,
            events,
        }
    }
}

/// Starts all threads and tasks.
async fn start(config: Config, channels: Channels) -> Result<Started, RunError> {
    let inputs = channels.inputs;
    let shared = Shared {
        metrics: Default::default(),
        health: SharedHealth::new(Health::new(config.health_timeout)),
    };
    let logging = Logging::of_kernel();
    let drops = DropLog::new(logging);
    let mut features = features::all(channels.health_ports, logging)?;
    let ports: Vec<u32> = features
        .iter_mut()
        .flat_map(|feature| feature.ports())
        .collect();
    // Listening begins before the first look at the kernel, so that nothing falls between.
    let monitor = kernel_notices::listen(&ports)?;
    let finder = Some(Finder::open()?);
    let with_events = config.manifests.is_none();
    let notices = with_events.then_some(channels.notices);
    let reconcile = Reconcile::new(config.clone(), shared.clone(), finder, features)
        .with_last_pod_cidrs(&networks_in_place(&config))
        .with_holders_before({
            let (own, run_dir) = (config.node_name.clone(), config.run_dir.clone());
            Box::new(move |snapshot| routes::last_holders(snapshot, &own, &run_dir))
        })
        .with_new_warnings_to(notices.clone().map(kubernetes::of_warnings));
    let (ended, loop_end) = oneshot::channel();
    let outputs = channels.outputs;
    let looping = spawn("reconcile", move || {
        // Dropped at the end, also if that is a panic.
        let _ended = ended;
        reconcile.run(&outputs);
    })?;
    tokio::spawn(kernel_notices::follow(monitor, ports, inputs.clone()));
    let of_drops = notices.filter(|_| config.policy_events);
    let metrics = &shared.metrics;
    let following = drops::follow(drops.clone(), inputs.clone(), Arc::clone(metrics), of_drops);
    tokio::spawn(following);
    let flows = FlowLog::new(config.flows);
    tokio::spawn(flows::follow(
        flows.clone(),
        inputs.clone(),
        Arc::clone(metrics),
    ));
    let looking = inputs.clone();
    spawn("preflight", move || look_around(&looking))?;
    start_source(&config, &inputs, channels.events).await?;
    if config.cni_conf {
        let (directory, inputs) = (config.cni_conf_dir.clone(), inputs.clone());
        spawn("files", move || cni_conf::watch(&directory, &inputs))?;
    }
    let site = Site {
        health: shared.health,
        metrics: shared.metrics,
        inputs: inputs.clone(),
        drops,
        flows,
    };
    let (serving, stop_serving) = start_serving(config, site, channels.wanted_ports);
    Ok(Started {
        inputs,
        looping,
        loop_end,
        serving,
        stop_serving,
    })
}

/// Answers requests until the sender is dropped.
fn start_serving(
    config: Config,
    site: Site,
    wanted_ports: watch::Receiver<HealthPorts>,
) -> (tokio::task::JoinHandle<()>, oneshot::Sender<()>) {
    let (stop, stopped) = oneshot::channel();
    let serving = tokio::spawn(async move {
        let stopped = async { drop(stopped.await) };
        serve(site, &config, wanted_ports, stopped).await;
    });
    (serving, stop)
}

/// What has to end in order; everything else ends with the process.
struct Started {
    inputs: Sender<Input>,
    looping: thread::JoinHandle<()>,
    /// Resolves when the loop ends.
    loop_end: oneshot::Receiver<()>,
    serving: tokio::task::JoinHandle<()>,
    stop_serving: oneshot::Sender<()>,
}

impl Started {
    /// Waits for a signal or for the end of the loop, and then for everything to end.
    async fn wait(mut self) -> Result<(), RunError> {
        let panicked = tokio::select! {
            name = stop_signal()? => {
                tracing::info!(signal = name, "stops; everything stays in place");
                false
            }
            _ = &mut self.loop_end => true,
        };
        drop(self.stop_serving);
        // The loop may be gone already.
        let _ = self.inputs.send(Input::Stop);
        let _ = self.serving.await;
        match self.looping.join() {
            Ok(()) if !panicked => Ok(()),
            _ => Err(RunError::LoopPanicked),
        }
    }
}

fn spawn(
    name: &'static str,
    work: impl FnOnce() + Send + 'static,
) -> Result<thread::JoinHandle<()>, RunError> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map_err(|source| RunError::System {
            operation: "start a thread",
            source,
        })
}

/// Waits for a signal to stop; the wait begins at once.
fn stop_signal() -> Result<impl Future<Output = &'static str>, RunError> {
    let listen = |kind| {
        signal(kind).map_err(|source| RunError::System {
            operation: "listen to signals",
            source,
        })
    };
    let (mut terminate, mut interrupt) = (
        listen(SignalKind::terminate())?,
        listen(SignalKind::interrupt())?,
    );
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    })
}

/// Waits for a signal to stop this process.
pub async fn stopped() -> Result<(), RunError> {
    stop_signal()?.await;
    Ok(())
}

/// Says what this machine cannot do, and what a kube-proxy left on it. Looks for the latter again
/// as long as there is something, so that the warning goes once the rules are gone.
fn look_around(inputs: &Sender<Input>) {
    let missing = preflight::run().warnings();
    // Without the loop the agent is stopping, here and below.
    let _ = inputs.send(Input::Warnings("preflight", missing));
    loop {
        let leftovers = takeover::find().map_or_else(
            |error| vec![Warning::new("take-over", chain(&error))],
            |found| takeover::warnings(&found),
        );
        let clean = leftovers.is_empty();
        let sent = inputs.send(Input::Warnings("take-over", leftovers));
        if clean || sent.is_err() {
            return;
        }
        thread::sleep(LOOK_AGAIN);
    }
}

async fn start_source(
    config: &Config,
    inputs: &Sender<Input>,
    events: async_mpsc::Receiver<Notice>,
) -> Result<(), RunError> {
    let inputs = inputs.clone();
    match config.manifests.clone() {
        Some(directory) => {
            let scope = match config.network_policy {
                true => Scope::All,
                false => Scope::WithoutPolicies,
            };
            spawn("manifests", move || {
                manifests::run(&directory, scope, &inputs)
            })?;
        }
        None => {
            let timing = kubernetes::Timing::default();
            let options = config.kubernetes.clone();
            let policies = config.network_policy;
            let source = Kubernetes::find(options, timing, policies, inputs, events).await?;
            let node = config.node_name.clone();
            tokio::spawn(async move { source.run(&node).await });
        }
    }
    Ok(())
}

#[cfg(test)]
mod every_metric;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_directory_that_cannot_be_is_named_with_its_flag() {
        let error = make_run_dir(Path::new("/etc/passwd/x")).unwrap_err();
        assert_eq!(
            chain(&error),
            "cannot use the run directory /etc/passwd/x; give another one with --run-dir: Not a \
             directory (os error 20)"
        );
    }

    #[test]
    fn a_run_directory_of_another_user_is_refused() {
        use std::os::unix::fs::{PermissionsExt, chown};
        let directory = tempfile::tempdir().unwrap();
        let permissions = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(directory.path(), permissions).unwrap();
        make_run_dir(directory.path()).unwrap();
        let mode = std::fs::metadata(directory.path()).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o755);
        chown(directory.path(), Some(1000), None).unwrap();
        let error = chain(&make_run_dir(directory.path()).unwrap_err());
        assert!(error.contains("belongs to user 1000"), "{error}");
    }
}
