//! The way to the API server: which address, with which credentials, over what connection.
//!
//! Without a proxy that is not us, the `kubernetes` Service's ClusterIP works only after we have
//! programmed it, and we program nothing before we have read the cluster. So the addresses are
//! tried in this order: the ones of `--apiserver` and no others; else the one in the node's
//! kubelet kubeconfig, which kubelet itself uses; and the ClusterIP last.
//!
//! Token and CA of the ServiceAccount are read again every minute by the client, so that both
//! may be rotated; names are resolved again for every new connection.

use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, Client, ClientBuilder, ConfigExt};
use kube::config::{Cluster, Config, KubeConfigOptions, Kubeconfig};
use tower::{BoxError, ServiceExt};
use tracing::{debug, info};

use crate::config::apiserver::{self, Options};
use crate::error::chain;
use crate::input::Input;
use crate::source::kubernetes::problems::Problems;

/// Why the API server cannot be found.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum Error {
    #[error(
        "cannot use the pod's ServiceAccount to reach the API server; outside a pod, give --kubeconfig"
    )]
    InCluster {
        #[source]
        source: kube::config::InClusterError,
    },
    #[error("cannot use the kubeconfig {}", path.display())]
    Kubeconfig {
        path: PathBuf,
        #[source]
        source: Box<kube::config::KubeconfigError>,
    },
    #[error("cannot set up a connection to the API server {server}")]
    Client {
        server: Uri,
        #[source]
        source: Box<kube::Error>,
    },
}

/// How long things may take.
#[derive(Debug, Clone)]
pub struct Timing {
    /// Until a TCP connection is established.
    pub connect: Duration,
    /// Until an answer begins, and between two parts of a list.
    pub answer: Duration,
    /// Of silence on a watch. The API server sends a bookmark about once a minute, so a
    /// longer silence means that the server is gone.
    pub silence: Duration,
    /// Of a whole watch, after which the server ends it and another one begins.
    pub watch: Duration,
    /// The pause after the first failure.
    pub first_pause: Duration,
    /// The longest pause between two tries.
    pub longest_pause: Duration,
    /// The longest pause before an API is asked for again that the cluster does not have.
    pub missing: Duration,
    /// The longest pause before an Event is created.
    pub event_pause: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            answer: Duration::from_secs(30),
            silence: Duration::from_secs(100),
            watch: Duration::from_secs(290),
            first_pause: Duration::from_millis(200),
            longest_pause: Duration::from_secs(15),
            missing: Duration::from_secs(30),
            event_pause: Duration::from_secs(1),
        }
    }
}

/// How much an API server may send, and how long it may take over it. An honest one stays far
/// below: an object is at most some megabytes (etcd's `--max-request-bytes`), and a request that is
/// not a watch takes at most a minute (its own `--request-timeout`).
#[derive(Debug, Clone)]
pub struct Limits {
    /// Of one page of a list; larger ones are asked for again with fewer objects.
    pub page_bytes: usize,
    /// Until a page is there.
    pub page_time: Duration,
    /// Of a whole list.
    pub list_bytes: usize,
    /// Until a whole list is there.
    pub list_time: Duration,
    /// Of one event of a watch. It may be longer than the largest object that is read, so that one that is
    /// left out is named and gone past.
    pub event_bytes: usize,
    /// Of one object, in a list or in an event of a watch. No tenant may have one that is longer: an API
    /// server takes 3 MiB in a request, and JSON has six bytes for one (`<`). What Podwire does not
    /// read of it takes no memory; the rest may take about ten times as much, one object at a time.
    pub object_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            page_bytes: 32 << 20,
            page_time: Duration::from_secs(60),
            list_bytes: 1 << 30,
            list_time: Duration::from_secs(300),
            event_bytes: 24 << 20,
            object_bytes: 20 << 20,
        }
    }
}

/// The API server, with a client that is replaced when it no longer serves.
pub struct ApiServer {
    options: Options,
    timing: Timing,
    limits: Limits,
    problems: Problems,
    inputs: Sender<Input>,
    state: Mutex<State>,
}

struct State {
    client: Client,
    server: Uri,
    /// Counts the clients made: a report about an older one is out of date.
    generation: u64,
    /// The paths by which this client was given what it asked for, and was not refused since.
    serving: Vec<&'static str>,
    lost: Lost,
}

/// What cannot be read, and why.
#[derive(Default)]
struct Lost {
    /// Nothing can.
    all: Option<String>,
    /// These paths cannot: there are a few at most.
    refused: Vec<(&'static str, String)>,
}

impl Lost {
    /// A path is not refused any longer. True if it was.
    fn forgive(&mut self, path: &str) -> bool {
        let before = self.refused.len();
        self.refused.retain(|(one, _)| *one != path);
        self.refused.len() < before
    }
}

/// The object of a problem with the API server.
const API_SERVER: &str = "API server";
/// The object of a problem with what is read for the next try.
const CREDENTIALS: &str = "credentials for the API server";

impl ApiServer {
    /// Finds the API server; does not talk to it yet.
    pub async fn find(
        options: Options,
        timing: Timing,
        inputs: Sender<Input>,
    ) -> Result<Self, Error> {
        let (client, server, _) = connect(&options, &timing, 0).await?;
        info!(%server, "reading the cluster from the API server");
        let state = Mutex::new(State {
            client,
            server,
            generation: 0,
            serving: Vec::new(),
            lost: Lost::default(),
        });
        Ok(Self {
            options,
            timing,
            limits: Limits::default(),
            problems: Problems::new(inputs.clone()),
            inputs,
            state,
        })
    }

    /// With other limits.
    #[cfg(test)]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// The limits in force.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The time-outs in force.
    pub fn timing(&self) -> &Timing {
        &self.timing
    }

    /// Where to note what is wrong with an object.
    pub fn problems(&self) -> &Problems {
        &self.problems
    }

    /// The present client and its generation.
    pub fn client(&self) -> (Client, u64) {
        let state = self.state();
        (state.client.clone(), state.generation)
    }

    /// The API server gave what it was asked for by this path.
    pub fn reached(&self, path: &'static str) {
        let mut state = self.state();
        let all = state.lost.all.take();
        let was_refused = state.lost.forgive(path);
        self.problems.clear(CREDENTIALS);
        if all.is_some() || was_refused {
            self.tell(&state);
        }
    }

    /// The client of this generation is given what it asked for by this path.
    pub fn serves(&self, generation: u64, path: &'static str) {
        let mut state = self.state();
        if state.generation == generation && !state.serving.contains(&path) {
            state.serving.push(path);
        }
    }

    /// The API server says of a path that there is nothing: that it does not refuse any longer.
    pub fn missed(&self, path: &'static str) {
        let mut state = self.state();
        if state.lost.forgive(path) {
            self.tell(&state);
        }
    }

    /// The API server refuses to be read by a path. Another address or other credentials may help only
    /// if it serves nothing else.
    pub async fn refused(&self, generation: u64, path: &'static str, why: &str) {
        {
            let mut state = self.state();
            if state.generation != generation {
                return;
            }
            let now = (path, why.to_owned());
            if !state.lost.refused.contains(&now) {
                state.lost.forgive(path);
                state.lost.refused.push(now);
                self.tell(&state);
            }
            state.serving.retain(|one| *one != path);
            if !state.serving.is_empty() {
                return;
            }
            state.generation += 1;
        }
        self.turn_to_next(generation).await;
    }

    /// A request by the client of this generation failed: the next address is tried, with the
    /// credentials as they are in the files now. Several watches fail together when the server
    /// goes away; only the first of their reports counts.
    pub async fn failed(&self, generation: u64, why: &str) {
        {
            let mut state = self.state();
            if state.generation != generation {
                return;
            }
            state.generation += 1;
            debug!(server = %state.server, error = why, "cannot read from the API server");
            if state.lost.all.is_none() {
                state.lost.all = Some(why.to_owned());
                self.tell(&state);
            }
        }
        self.turn_to_next(generation).await;
    }

    /// The next address may do better than that of this generation's client; what is wrong is said
    /// by who asked.
    pub async fn leave(&self, generation: u64) {
        {
            let mut state = self.state();
            if state.generation != generation {
                return;
            }
            state.generation += 1;
        }
        self.turn_to_next(generation).await;
    }

    /// Says what cannot be read now.
    fn tell(&self, state: &State) {
        let refused = state.lost.refused.iter();
        let refused = refused.map(|(path, why)| format!("{path}: {why}"));
        let all: Vec<String> = state.lost.all.iter().cloned().chain(refused).collect();
        if all.is_empty() {
            self.problems.clear(API_SERVER);
            return;
        }
        let text = format!(
            "{} cannot be read ({}): what was read stays in force until it can",
            state.server,
            all.join("; ")
        );
        self.problems.raise(API_SERVER, text);
    }

    async fn turn_to_next(&self, generation: u64) {
        let turn = usize::try_from(generation + 1).unwrap_or(0);
        match connect(&self.options, &self.timing, turn).await {
            Ok((client, server, is_new)) => {
                if is_new {
                    // The loop may have finished already.
                    let _ = self.inputs.send(Input::ApiServerAddress);
                }
                let mut state = self.state();
                (state.client, state.server) = (client, server);
                state.serving.clear();
                drop(state);
                self.problems.clear(CREDENTIALS);
            }
            Err(error) => {
                let text = format!(
                    "{}; those that were read before are kept and tried",
                    chain(&error)
                );
                self.problems.raise(CREDENTIALS, text);
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The state is only ever replaced by whole values, so it is good even if a thread has panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client for the address whose turn it is, and whether that was not known before.
async fn connect(
    options: &Options,
    timing: &Timing,
    turn: usize,
) -> Result<(Client, Uri, bool), Error> {
    let mut config = credentials(options).await?;
    let mut servers = options.servers.clone();
    if servers.is_empty() {
        if options.kubeconfig.is_none() {
            servers.extend(server_in(&options.kubelet_kubeconfig));
        }
        if !servers.contains(&config.cluster_url) {
            servers.push(config.cluster_url);
        }
    }
    let server = servers.swap_remove(turn % servers.len());
    config.cluster_url = server.clone();
    let client = client(&config, timing).map_err(|source| Error::Client {
        server: server.clone(),
        source: Box::new(source),
    })?;
    let is_new = resolve(options, timing, &server).await;
    Ok((client, server, is_new))
}

/// Notes which address a server has, or which its name has: no Service may have them. True if one is
/// new.
async fn resolve(options: &Options, timing: &Timing, server: &Uri) -> bool {
    if let Some(address) = apiserver::address(server) {
        return options.resolved.add([address].into_iter());
    }
    let Some(host) = server.host() else {
        return false;
    };
    let port = apiserver::port(server);
    let found = tokio::time::timeout(timing.connect, tokio::net::lookup_host((host, port))).await;
    // Who cannot be found cannot be connected to either, and that is told.
    match found {
        Ok(Ok(found)) => options.resolved.add(found),
        _ => false,
    }
}

async fn credentials(options: &Options) -> Result<Config, Error> {
    let Some(path) = &options.kubeconfig else {
        return Config::incluster().map_err(|source| Error::InCluster { source });
    };
    let failed = |source| Error::Kubeconfig {
        path: path.clone(),
        source: Box::new(source),
    };
    let kubeconfig = Kubeconfig::read_from(path).map_err(failed)?;
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(failed)
}

/// The address that a kubeconfig names: the one of the flags, else the node's kubelet's.
pub fn named_server(options: &Options) -> Option<Uri> {
    let path = options.kubeconfig.as_ref();
    server_in(path.unwrap_or(&options.kubelet_kubeconfig))
}

/// The server in a kubeconfig, if there is one that can be read.
fn server_in(path: &Path) -> Option<Uri> {
    let kubeconfig = match Kubeconfig::read_from(path) {
        Ok(kubeconfig) => kubeconfig,
        Err(error) => {
            let error: &dyn std::error::Error = &error;
            debug!(path = %path.display(), error, "no server from this kubeconfig");
            return None;
        }
    };
    cluster_of(kubeconfig)?.server?.parse().ok()
}

/// The cluster of the current context; where there is no such context, the only cluster.
fn cluster_of(kubeconfig: Kubeconfig) -> Option<Cluster> {
    let mut contexts = kubeconfig.contexts.into_iter();
    let current = contexts.find(|one| Some(&one.name) == kubeconfig.current_context.as_ref());
    let named = current.and_then(|one| Some(one.context?.cluster));
    let is_only = kubeconfig.clusters.len() == 1;
    let mut clusters = kubeconfig.clusters.into_iter();
    let is_meant = |name: &str| named.as_ref().map_or(is_only, |named| named == name);
    clusters.find(|one| is_meant(&one.name))?.cluster
}

/// Our own stack instead of kube's default: TCP keep-alive, so that a connection whose other end
/// vanished without a word is found to be dead, and no log lines of its own.
fn client(config: &Config, timing: &Timing) -> kube::Result<Client> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(timing.connect));
    tcp.set_keepalive(Some(Duration::from_secs(15)));
    tcp.set_keepalive_interval(Some(Duration::from_secs(5)));
    tcp.set_keepalive_retries(Some(3));
    tcp.set_tcp_user_timeout(Some(Duration::from_secs(30)));
    let tls = config.rustls_https_connector_with_connector(tcp)?;
    let http = hyper_util::client::legacy::Builder::new(TokioExecutor::new())
        .pool_idle_timeout(Duration::from_secs(20))
        .build::<_, Body>(tls)
        .map_err(BoxError::from);
    let builder = ClientBuilder::new(http, config.default_namespace.clone());
    Ok(match config.auth_layer()? {
        Some(auth) => builder
            .with_layer(&auth)
            .with_layer(&config.base_uri_layer())
            .build(),
        None => builder.with_layer(&config.base_uri_layer()).build(),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn the_kubelets_server_is_found_in_its_kubeconfig() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(
            b"apiVersion: v1\nkind: Config\nclusters:\n- name: k\n  cluster:\n    server: https://kind-control-plane:6443\n",
        )
        .unwrap();
        let found = server_in(file.path()).unwrap();
        assert_eq!(found, "https://kind-control-plane:6443/");
    }

    #[tokio::test]
    async fn of_several_clusters_that_of_the_current_context_is_meant_and_its_address_reserved() {
        let server = |current: &str, clusters: &[&str]| {
            let clusters = clusters.iter().map(|name| {
                let address = format!("https://192.0.2.{}:6443", name.len());
                format!("{{name: {name}, cluster: {{server: '{address}'}}}}")
            });
            let clusters = clusters.collect::<Vec<_>>().join(", ");
            let file = tempfile::NamedTempFile::new().unwrap();
            let text = format!(
                "apiVersion: v1\nkind: Config\ncurrent-context: {current}\nclusters: [{clusters}]\n\
                 contexts: [{{name: a, context: {{cluster: one, user: u}}}}, \
                 {{name: b, context: {{cluster: other, user: u}}}}, {{name: c}}]\n\
                 users: [{{name: u, user: {{}}}}]\n"
            );
            std::fs::write(file.path(), text).unwrap();
            (server_in(file.path()).map(|uri| uri.to_string()), file)
        };
        let is = |found: Option<String>, number: usize| {
            found == Some(format!("https://192.0.2.{number}:6443/"))
        };
        let both = ["one", "other"];
        assert!(is(server("a", &both).0, 3));
        assert!(is(server("b", &both).0, 5));
        for current in ["''", "c", "gone"] {
            assert_eq!(server(current, &both).0, None, "{current}");
            assert!(is(server(current, &both[1..]).0, 5), "{current}");
        }
        assert_eq!(server("a", &both[1..]).0, None);

        let (_, file) = server("b", &both);
        let options = Options {
            servers: Vec::new(),
            kubeconfig: Some(file.path().to_owned()),
            kubelet_kubeconfig: "/does/not/exist".into(),
            read: None,
            resolved: apiserver::Resolved::default(),
        };
        let used = connect(&options, &Timing::default(), 0).await.unwrap().1;
        assert_eq!(used.host(), Some("192.0.2.5"));
        let reserved: Vec<String> = options.addresses().map(|one| one.to_string()).collect();
        assert_eq!(reserved, ["192.0.2.5:6443"]);
    }

    #[tokio::test]
    async fn the_loop_hears_of_an_address_of_the_server_that_is_new() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(
            b"apiVersion: v1\nkind: Config\ncurrent-context: c\n\
              contexts: [{name: c, context: {cluster: c, user: u}}]\n\
              clusters: [{name: c, cluster: {server: 'https://192.0.2.1:6443'}}]\n\
              users: [{name: u, user: {}}]\n",
        )
        .unwrap();
        let uri = |text: &&str| text.parse().unwrap();
        let options = Options {
            servers: ["https://192.0.2.1:6443", "https://192.0.2.2:6443"]
                .iter()
                .map(uri)
                .collect(),
            kubeconfig: Some(file.path().to_owned()),
            kubelet_kubeconfig: "/does/not/exist".into(),
            read: None,
            resolved: apiserver::Resolved::default(),
        };
        let (inputs, told) = std::sync::mpsc::channel();
        let found = ApiServer::find(options, Timing::default(), inputs).await;
        let server = found.unwrap();
        let mut is_told = Vec::new();
        for generation in 0..3 {
            server.leave(generation).await;
            let mut told = told.try_iter();
            is_told.push(told.any(|input| matches!(input, Input::ApiServerAddress)));
        }
        assert_eq!(is_told, [true, false, false]);
    }

    #[test]
    fn a_missing_or_broken_kubelet_kubeconfig_is_no_server() {
        assert_eq!(server_in(Path::new("/does/not/exist")), None);
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"clusters: 7").unwrap();
        assert_eq!(server_in(file.path()), None);
    }
}
