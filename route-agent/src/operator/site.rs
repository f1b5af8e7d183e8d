//! What is answered where: the pages of the health address, of the metrics address and of the
//! agent's own socket.

use std::net::SocketAddr;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use hyper::StatusCode;
use tokio::sync::{oneshot, watch};

use super::health::{SharedHealth, Verdict};
use super::health_ports::{self, HealthPorts, nosniff};
use super::http::{Ask, Listener, Reply, Server, listen};
use super::metrics::{Metrics, TextFormat};
use super::moment::Moment;
use super::socket;
use crate::config::Config;
use crate::reconcile::Input;
use crate::warnings::Warning;

/// How long the loop may take to answer: longer than a full sync.
const LOOP_TIME: Duration = Duration::from_secs(20);
/// The pause between tries to listen on an address that somebody else holds.
const RETRY: Duration = Duration::from_secs(10);

/// What the pages are made of.
#[derive(Debug, Clone)]
pub struct Site {
    /// Is all well?
    pub health: SharedHealth,
    /// The numbers.
    pub metrics: Arc<Metrics>,
    /// The way to the reconcile loop.
    pub inputs: mpsc::Sender<Input>,
}

impl Site {
    /// A page for everybody who can reach the health or metrics address.
    pub fn public(&self, ask: &Ask) -> Reply {
        match ask.path.as_str() {
            "/healthz" => {
                let reply = verdict(self.health.with(|health| health.healthz(Moment::now())));
                self.metrics.proxy.healthz_answered(reply.status.as_u16());
                reply
            }
            "/livez" => {
                let reply = verdict(self.health.with(|health| health.livez(Moment::now())));
                self.metrics.proxy.livez_answered(reply.status.as_u16());
                reply
            }
            "/metrics" => {
                let format = TextFormat::accepted(&ask.accept);
                let text = self.metrics.text(format);
                Reply::new(StatusCode::OK, format.content_type(), text)
            }
            // What kube-proxy answers there; tests and tools ask for it.
            "/proxyMode" => Reply::text(StatusCode::OK, "nftables"),
            _ => Reply::not_found(ask),
        }
    }

    /// A page for the owner of the agent's socket.
    pub async fn private(self, ask: Ask) -> Reply {
        match ask.path.as_str() {
            "/status" => match self.of_loop(Input::Report).await {
                Ok(report) => json(&report),
                Err(reply) => reply,
            },
            _ => self.public(&ask),
        }
    }

    /// Asks the loop.
    async fn of_loop<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Input) -> Result<T, Reply> {
        let busy = |text: &str| Err(Reply::text(StatusCode::SERVICE_UNAVAILABLE, text));
        let (sender, answer) = oneshot::channel();
        if self.inputs.send(question(sender)).is_err() {
            return busy("the agent is stopping\n");
        }
        match tokio::time::timeout(LOOP_TIME, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => busy("the agent is stopping\n"),
            Err(_) => busy("the agent is busy with a sync and has not answered in 20 s\n"),
        }
    }
}

fn verdict(verdict: Verdict) -> Reply {
    let status = if verdict.good {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    Reply::json(status, verdict.json).with("x-content-type-options", nosniff())
}

fn json(value: &impl serde::Serialize) -> Reply {
    match serde_json::to_string(value) {
        Ok(text) => Reply::json(StatusCode::OK, text),
        Err(error) => Reply::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

/// Serves everything until `stop` resolves. An address that cannot be had is a warning and is
/// tried again: during an upgrade the agent before may still hold it.
pub async fn serve(
    site: Site,
    config: &Config,
    ports: watch::Receiver<HealthPorts>,
    stop: impl Future<Output = ()>,
) {
    let inputs = site.inputs.clone();
    let warn = move |origin: &'static str, warnings: Vec<Warning>| {
        // Without the loop the agent is stopping.
        let _ = inputs.send(Input::Warnings(origin, warnings));
    };
    let _socket = match socket::listen(&config.socket()) {
        Ok(listener) => {
            let site = site.clone();
            Some(Server::start(Listener::Unix(listener), move |ask| site.clone().private(ask)))
        }
        Err(error) => {
            let text = crate::reconcile::chain(&error);
            warn("socket", vec![Warning::new("the agent", text)]);
            None
        }
    };
    let (sender, mut port_warnings) = tokio::sync::mpsc::unbounded_channel();
    let addresses = [
        ("healthz", config.healthz_bind_address.0),
        ("metrics", config.metrics_bind_address.0),
    ];
    let pages = addresses.map(|(origin, address)| serve_at(site.clone(), origin, address, &warn));
    let [health_page, metrics_page] = pages;
    tokio::select! {
        () = stop => {}
        () = health_page => {}
        () = metrics_page => {}
        () = health_ports::serve(ports, site.health.clone(), sender) => {}
        () = async {
            while let Some(warnings) = port_warnings.recv().await {
                warn("health check node ports", warnings);
            }
        } => {}
    }
}

/// Serves the public pages on one address, for ever.
async fn serve_at(
    site: Site,
    origin: &'static str,
    address: Option<SocketAddr>,
    warn: &impl Fn(&'static str, Vec<Warning>),
) {
    let Some(address) = address else {
        return std::future::pending().await;
    };
    let mut failed = false;
    let listener = loop {
        match listen(address) {
            Ok(listener) => break listener,
            Err(error) => {
                let text = format!(
                    "{address} cannot be opened for /{origin}: {error}; find who listens there \
                     with `ss -lntp`, or choose another with --{origin}-bind-address"
                );
                warn(origin, vec![Warning::new("the agent", text)]);
                failed = true;
                tokio::time::sleep(RETRY).await;
            }
        }
    };
    if failed {
        warn(origin, Vec::new());
    }
    let _server = Server::start(Listener::Tcp(listener), move |ask| {
        std::future::ready(site.public(&ask))
    });
    std::future::pending().await
}
