//! `podwire-agent run`: puts the parts together and takes them apart again.
//!
//! The reconcile loop has a thread of its own and blocks on the kernel; everything that waits
//! (signals, HTTP, kernel notifications, the Kubernetes API) shares the main thread. They talk
//! through one channel.

use std::io::{self, IsTerminal};
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::Receiver;
use tokio::sync::{oneshot, watch};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

use crate::commands::{preflight, takeover};
use crate::config::{Config, LogFormat};
use crate::features;
use crate::features::services::health_checks::HealthPorts;
use crate::health::{Health, SharedHealth};
use crate::input::Input;
use crate::notices::{cni_conf, kernel as kernel_notices};
use crate::reconcile::{Reconcile, Shared};
use crate::serve::site::{Site, serve};
use crate::source::decode::Scope;
use crate::source::kubernetes::{self, Kubernetes};
use crate::source::manifests;
use crate::uplink::Finder;
use crate::warnings::{OnNewWarning, Warning};

/// The pause before rules of a kube-proxy are looked for again.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// Why the agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The filter of log lines makes no sense.
    #[error("--log \"{filter}\" is not a log filter; examples are info and podwire_agent=debug")]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        source: ParseError,
    },
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
    /// The API server cannot be found.
    #[error("cannot find the API server (with --manifests DIR none is needed)")]
    Kubernetes(#[from] kubernetes::Error),
    /// The reconcile loop ended by itself.
    #[error("the reconcile loop panicked; see the log above")]
    LoopPanicked,
}

/// Logs to stderr as the flags say.
pub fn start_logging(config: &Config) -> Result<(), RunError> {
    let filter = EnvFilter::try_new(&config.log).map_err(|source| RunError::Filter {
        filter: config.log.clone(),
        source,
    })?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr);
    match config.log_format {
        LogFormat::Text => lines.with_target(false).init(),
        LogFormat::Json => lines.json().flatten_event(true).with_target(false).init(),
    }
    Ok(())
}

/// Logs to stderr, for commands without flags about logging.
pub fn log_to_stderr() {
    tracing_subscriber::fmt()
        .with_ansi(io::stderr().is_terminal())
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
    let version = env!("CARGO_PKG_VERSION");
    tracing::info!(version, node = %config.node_name, "podwire-agent starts");
    if config.manifests.is_none() {
        config.kubernetes.read = kubernetes::named_server(&config.kubernetes);
    }
    start(config, Channels::new()).await?.wait().await
}

/// What the parts of the agent are connected by.
struct Channels {
    /// Everything that the loop receives.
    inputs: Sender<Input>,
    outputs: mpsc::Receiver<Input>,
    /// The health checks that the features want served.
    health_ports: watch::Sender<HealthPorts>,
    wanted_ports: watch::Receiver<HealthPorts>,
    /// New warnings on their way to becoming Events.
    on_new_warning: OnNewWarning,
    new_warnings: Receiver<Warning>,
}

impl Channels {
    fn new() -> Self {
        let (inputs, outputs) = mpsc::channel();
        let (health_ports, wanted_ports) = watch::channel(HealthPorts::default());
        let (on_new_warning, new_warnings) = kubernetes::events();
        Self {
            inputs,
            outputs,
            health_ports,
            wanted_ports,
            on_new_warning,
            new_warnings,
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
    let mut features = features::all(channels.health_ports)?;
    let ports: Vec<u32> = features
        .iter_mut()
        .flat_map(|feature| feature.ports())
        .collect();
    // Listening begins before the first look at the kernel, so that nothing falls between.
    let monitor = kernel_notices::listen(&ports)?;
    let finder = Some(Finder::open()?);
    let with_events = config.manifests.is_none();
    let reconcile = Reconcile::new(config.clone(), shared.clone(), finder, features)
        .with_new_warnings_to(with_events.then_some(channels.on_new_warning));
    let (ended, loop_end) = oneshot::channel();
    let outputs = channels.outputs;
    let looping = spawn("reconcile", move || {
        // Dropped at the end, also if that is a panic.
        let _ended = ended;
        reconcile.run(&outputs);
    })?;
    tokio::spawn(kernel_notices::follow(monitor, ports, inputs.clone()));
    let looking = inputs.clone();
    spawn("preflight", move || look_around(&looking))?;
    start_source(&config, &inputs, channels.new_warnings).await?;
    if config.cni_conf {
        let (directory, inputs) = (config.cni_conf_dir.clone(), inputs.clone());
        spawn("files", move || cni_conf::watch(&directory, &inputs))?;
    }
    let (serving, stop_serving) =
        start_serving(config, shared, inputs.clone(), channels.wanted_ports);
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
    shared: Shared,
    inputs: Sender<Input>,
    wanted_ports: watch::Receiver<HealthPorts>,
) -> (tokio::task::JoinHandle<()>, oneshot::Sender<()>) {
    let site = Site {
        health: shared.health,
        metrics: shared.metrics,
        inputs,
    };
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
            |error| vec![Warning::new("take-over", crate::error::chain(&error))],
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
    new_warnings: Receiver<Warning>,
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
            let source = Kubernetes::find(options, timing, policies, inputs, new_warnings).await?;
            let node = config.node_name.clone();
            tokio::spawn(async move { source.run(&node).await });
        }
    }
    Ok(())
}

#[cfg(test)]
mod every_metric;
