//! What is answered where: the pages of the health address, of the metrics address and of the
//! agent's own socket.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use hyper::StatusCode;
use podwire_kernel::conntrack::{Conntrack, Filter};
use tokio::sync::{Mutex, oneshot, watch};
use tokio::task::JoinError;

use crate::clock::Moment;
use crate::cluster::Cluster;
use crate::config::Config;
use crate::drops::DropLog;
use crate::feature::{WhoHas, World};
use crate::features::policies::desired::reach::{NoAnswer, reach};
use crate::features::services::health_checks::HealthPorts;
use crate::flows::{self, FlowLog};
use crate::health::{SharedHealth, Verdict};
use crate::input::{Input, Question};
use crate::metrics::{Metrics, TextFormat};
use crate::pod_cidrs::settled;
use crate::serve::connections::{Listener, listen};
use crate::serve::health_ports::{self, nosniff};
use crate::serve::http::{Request, Response, Server};
use crate::serve::{pods, socket};
use crate::snapshot::ObjectName;
use crate::text::printable;
use crate::warnings::Warning;
use crate::why;

/// Held by a scrape until it is over, though who asked for it may have gone: anyone may ask, and
/// connections have places, but threads have none.
static SCRAPE: Mutex<()> = Mutex::const_new(());
/// How long the loop may take to answer: longer than a full sync.
const LOOP_TIME: Duration = Duration::from_secs(20);
/// How long who follows the drops waits for the next one, before it asks again.
const FOLLOWING: Duration = Duration::from_secs(15);
/// The pause between tries to listen on an address that another process holds.
const RETRY: Duration = Duration::from_secs(10);

/// What the pages are made of.
#[derive(Debug, Clone)]
pub struct Site {
    /// What `/livez` and `/healthz` answer.
    pub health: SharedHealth,
    /// The numbers.
    pub metrics: Arc<Metrics>,
    /// The way to the reconcile loop.
    pub inputs: mpsc::Sender<Input>,
    /// What policies dropped.
    pub drops: DropLog,
    /// Connections that began and ended.
    pub flows: FlowLog,
}

impl Site {
    /// A page for any client that can reach the health or metrics address.
    pub fn public(&self, request: &Request) -> Response {
        match request.path.as_str() {
            "/healthz" => {
                let response = verdict(self.health.with(|health| health.healthz(Moment::now())));
                self.metrics
                    .proxy
                    .healthz_answered(response.status.as_u16());
                response
            }
            "/livez" => {
                let response = verdict(self.health.with(|health| health.livez(Moment::now())));
                self.metrics.proxy.livez_answered(response.status.as_u16());
                response
            }
            "/metrics" => {
                let format = TextFormat::accepted(&request.accept);
                let text = self.metrics.text(format);
                Response::new(StatusCode::OK, format.content_type(), text)
            }
            // What kube-proxy answers there; tests and tools ask for it.
            "/proxyMode" => Response::text(StatusCode::OK, "nftables"),
            _ => Response::not_found(request),
        }
    }

    /// The same page. Metrics ask the kernel, which may make them wait, and then no one waits with them
    /// but who asks for them, too.
    async fn answer(self, request: Request) -> Response {
        if request.path != "/metrics" {
            return self.public(&request);
        }
        let failed = |error: JoinError| {
            Response::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n"))
        };
        let turn = SCRAPE.lock().await;
        let scrape = on_thread(move || {
            let _turn = turn;
            self.public(&request)
        });
        scrape.await.unwrap_or_else(failed)
    }

    /// A page for the owner of the agent's socket.
    pub async fn private(self, request: Request) -> Response {
        match request.path.as_str() {
            "/status" => {
                let wide = socket::value(&request.query, "wide").is_some();
                match self.of_loop(|reply| Input::Report { wide, reply }).await {
                    Ok(report) => json(&report),
                    Err(response) => response,
                }
            }
            "/why" => match self.why(&request).await {
                Ok(response) | Err(response) => response,
            },
            "/drops" => self.drops(&request).await,
            "/flows" => self.flows(&request).await,
            "/top" => match self.top().await {
                Ok(response) | Err(response) => response,
            },
            "/cluster" => match self.cluster().await {
                Ok(cluster) => json(&cluster),
                Err(response) => response,
            },
            "/reach" => match self.reach(&request).await {
                Ok(response) | Err(response) => response,
            },
            _ => self.answer(request).await,
        }
    }

    /// What policies dropped after the drop with a number; who follows waits for the next one.
    async fn drops(&self, request: &Request) -> Response {
        let (after, patience) = follower(request);
        json(&self.drops.after(after, patience).await)
    }

    /// The flows after the one with a number; who follows waits for the next one.
    async fn flows(&self, request: &Request) -> Response {
        let (after, patience) = follower(request);
        json(&self.flows.after(after, patience).await)
    }

    /// The connections that there are, summed up. The kernel is asked on a thread of its own.
    async fn top(&self) -> Result<Response, Response> {
        let failed = |text: String| Response::text(StatusCode::INTERNAL_SERVER_ERROR, text + "\n");
        let (entries, pods) = on_thread(|| {
            let pods = why::Live::open()?.pods()?;
            let entries = Conntrack::open()?.entries(&Filter::default())?;
            Ok::<_, podwire_kernel::Error>((entries, pods))
        })
        .await
        .map_err(|error| failed(error.to_string()))?
        .map_err(|error| failed(error.to_string()))?;
        let sum_up = move |world: &World<'_>| flows::top::top(&entries, world, &pods);
        let top = self
            .of_loop(|reply| Input::Ask(Question::new(sum_up, reply)))
            .await?;
        Ok(json(&top))
    }

    /// What is known of the cluster, and of the pods of this node.
    async fn cluster(&self) -> Result<Cluster, Response> {
        let wide = false;
        let report = self.of_loop(|reply| Input::Report { wide, reply }).await?;
        let look = move |world: &World<'_>| Cluster::of(world, &report);
        self.of_loop(|reply| Input::Ask(Question::new(look, reply)))
            .await
    }

    /// Who may reach a pod by the policies, and whom it may reach.
    async fn reach(&self, request: &Request) -> Result<Response, Response> {
        let pod = socket::value(&request.query, "pod").unwrap_or_default();
        let asked = printable(&pod).into_owned();
        let look = move |world: &World<'_>| reach(world.snapshot, &pod);
        let found = self
            .of_loop(|reply| Input::Ask(Question::new(look, reply)))
            .await?;
        found.map(|found| json(&found)).map_err(|why_not| {
            let status = match why_not {
                NoAnswer::Unknown => StatusCode::NOT_FOUND,
                NoAnswer::TooMuch => StatusCode::UNPROCESSABLE_ENTITY,
            };
            Response::text(status, format!("{asked}: {why_not}\n"))
        })
    }

    /// The path of a packet: what the kernel knows of pods, then the walk in the loop, then again
    /// the kernel about each hop. The kernel is asked on a thread of its own.
    async fn why(&self, request: &Request) -> Result<Response, Response> {
        let bad = |text: String| Response::text(StatusCode::BAD_REQUEST, text + "\n");
        let failed = |text: String| Response::text(StatusCode::INTERNAL_SERVER_ERROR, text + "\n");
        let question = asked(&request.query).map_err(bad)?;
        let (mut live, pods, node_addresses, gone_cidrs, host_ports) = on_thread(|| {
            let mut live = why::Live::open()?;
            let pods = live.pods()?;
            let (node_addresses, gone_cidrs) = (live.node_addresses()?, live.gone_cidrs()?);
            let host_ports = live.host_ports()?;
            let found = (live, pods, node_addresses, gone_cidrs, host_ports);
            Ok::<_, podwire_kernel::Error>(found)
        })
        .await
        .map_err(|error| failed(error.to_string()))?
        .map_err(|error| failed(error.to_string()))?;
        let owners = self.owners(&pods).await;
        let walk = move |world: &World<'_>| {
            let facts = why::Facts {
                snapshot: world.snapshot,
                config: world.config,
                uplink: world.uplink,
                pods: &pods,
                claims: &settled(world.snapshot),
                node_addresses: &node_addresses,
                gone_cidrs: &gone_cidrs,
                host_ports: &host_ports,
                owners: &owners,
            };
            why::walk(&facts, &question)
        };
        let mut trace = self
            .of_loop(|reply| Input::Ask(Question::new(walk, reply)))
            .await?
            .map_err(|error| bad(error.to_string()))?;
        let trace = on_thread(move || {
            why::check(&mut trace, &mut live);
            trace
        })
        .await
        .map_err(|error| failed(error.to_string()))?;
        Ok(json(&trace))
    }

    /// Whose the addresses of these pods are, by what the plugin told and the API says together.
    async fn owners(&self, pods: &[why::Pod]) -> BTreeMap<IpAddr, ObjectName> {
        let addresses = pods.iter().flat_map(|pod| pod.addresses.iter().copied());
        let (reply, mut owners) = tokio::sync::mpsc::channel(1);
        let question = WhoHas::new(addresses.collect(), reply);
        if self.inputs.send(Input::WhoHas(question)).is_err() {
            return BTreeMap::new();
        }
        // Without policies no one answers.
        let answer = tokio::time::timeout(LOOP_TIME, owners.recv()).await;
        answer.ok().flatten().unwrap_or_default()
    }

    /// Asks the loop.
    async fn of_loop<T>(
        &self,
        question: impl FnOnce(oneshot::Sender<T>) -> Input,
    ) -> Result<T, Response> {
        let busy = |text: &str| Err(Response::text(StatusCode::SERVICE_UNAVAILABLE, text));
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

/// After which number, and how long to wait for the next one.
fn follower(request: &Request) -> (u64, Duration) {
    let after = socket::value(&request.query, "after").unwrap_or_default();
    let patience = match socket::value(&request.query, "follow") {
        Some(_) => FOLLOWING,
        None => Duration::ZERO,
    };
    (after.parse().unwrap_or_default(), patience)
}

/// What the query of `/why` asks, or what is wrong with it.
pub fn asked(query: &str) -> Result<why::Question, String> {
    let [from, to] = ["from", "to"].map(|name| socket::value(query, name));
    let (Some(from), Some(to)) = (from, to) else {
        return Err("give ?from=...&to=...".into());
    };
    let question = why::Question::parse(&from, &to).map_err(|error| error.to_string())?;
    Ok(match socket::value(query, "answer") {
        Some(_) => question.as_answer(),
        None => question,
    })
}

/// Runs what blocks on another thread.
fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> tokio::task::JoinHandle<T> {
    tokio::task::spawn_blocking(work)
}

fn verdict(verdict: Verdict) -> Response {
    let status = if verdict.good {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    Response::json(status, verdict.json).with("x-content-type-options", nosniff())
}

fn json(value: &impl serde::Serialize) -> Response {
    match serde_json::to_string(value) {
        Ok(text) => Response::json(StatusCode::OK, text),
        Err(error) => Response::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
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
    let commands = |listener| {
        let site = site.clone();
        let server = Server::start(Listener::Unix(listener), move |request| {
            site.clone().private(request)
        });
        until_dropped(server)
    };
    let plugins = |listener| pods::serve(listener, site.inputs.clone());
    let (commands_at, plugins_at) = (config.socket(), config.pods_socket());
    let (sender, mut port_warnings) = tokio::sync::mpsc::unbounded_channel();
    let addresses = [
        ("healthz", config.healthz_bind_address.0),
        ("metrics", config.metrics_bind_address.0),
    ];
    let pages = addresses.map(|(origin, address)| serve_at(site.clone(), origin, address, &warn));
    let [health_page, metrics_page] = pages;
    tokio::select! {
        () = stop => {}
        () = socket::hold(&commands_at, socket::COMMANDS, commands, |now| warn("socket", now)) => {}
        () = socket::hold(&plugins_at, socket::PODS, plugins, |now| warn("pods", now)) => {}
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

/// Keeps a server until it is dropped.
async fn until_dropped(_server: Server) {
    std::future::pending().await
}

/// Serves the public pages on one address until it is dropped.
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
    let _server = Server::start(Listener::Tcp(listener), move |request| {
        site.clone().answer(request)
    });
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener as StdListener;

    use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

    use super::*;
    use crate::config::test_config;
    use crate::features::parts::log::Logging;
    use crate::health::Health;
    use crate::reconcile::{Reconcile, Shared};
    use crate::report::Report;

    fn site() -> (Site, mpsc::Receiver<Input>) {
        let (inputs, receiver) = mpsc::channel();
        let site = Site {
            health: SharedHealth::new(Health::new(Duration::from_secs(60))),
            metrics: Arc::default(),
            inputs,
            drops: DropLog::new(Logging::On),
            flows: FlowLog::new(false),
        };
        (site, receiver)
    }

    fn page(path: &str) -> Request {
        Request {
            path: path.to_owned(),
            query: String::new(),
            accept: String::new(),
        }
    }

    async fn get(address: SocketAddr, path: &str) -> Option<String> {
        let stream = tokio::net::TcpStream::connect(address).await.ok()?;
        Some(exchange(stream, path).await)
    }

    async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn who_has_said_everything_and_closes_its_side_is_answered() {
        let (site, _inputs) = site();
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let _server = Server::start(Listener::Tcp(listener), move |request| {
            site.clone().answer(request)
        });
        for path in ["/livez", "/metrics"] {
            for _ in 0..20 {
                let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
                let request =
                    format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
                stream.write_all(request.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
                let mut text = String::new();
                stream.read_to_string(&mut text).await.unwrap();
                assert!(text.starts_with("HTTP/1.1 200"), "{path}: {text:?}");
            }
        }
    }

    #[test]
    fn the_public_pages_are_those_of_kube_proxy_and_count_their_answers() {
        let (site, _inputs) = site();
        site.health.with(|health| health.set_node(None));
        assert_eq!(site.public(&page("/livez")).status, 200);
        assert_eq!(site.public(&page("/healthz")).status, 503);
        assert_eq!(site.public(&page("/proxyMode")).body, "nftables");
        assert_eq!(site.public(&page("/status")).status, 404);
        let metrics = site.public(&page("/metrics"));
        assert_eq!(metrics.status, 200);
        for line in [
            "kubeproxy_proxy_healthz_total{code=\"503\"} 1\n",
            "kubeproxy_proxy_livez_total{code=\"200\"} 1\n",
        ] {
            assert!(metrics.body.contains(line), "{}", metrics.body);
        }
    }

    #[tokio::test]
    async fn scrapes_come_one_by_one_and_no_one_else_waits_for_them() {
        let (site, _inputs) = site();
        let another = SCRAPE.lock().await;
        // Who asked goes again, and nothing of it stays.
        for _ in 0..5 {
            let scrape = site.clone().answer(page("/metrics"));
            let answered = tokio::time::timeout(Duration::from_millis(100), scrape).await;
            assert!(answered.is_err());
        }
        assert_eq!(site.clone().answer(page("/livez")).await.status, 200);
        drop(another);
        assert_eq!(site.answer(page("/metrics")).await.status, 200);
    }

    #[tokio::test]
    async fn a_loop_that_is_gone_is_said() {
        let (site, inputs) = site();
        let stopped = tokio::spawn(site.clone().private(page("/status")));
        // The question is taken and never answered.
        tokio::task::spawn_blocking(move || drop(inputs.recv()))
            .await
            .unwrap();
        assert_eq!(stopped.await.unwrap().body, "the agent is stopping\n");
        assert_eq!(site.private(page("/status")).await.status, 503);
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_does_not_answer_is_said() {
        let (site, _inputs) = site();
        let response = site.private(page("/status")).await;
        assert_eq!(response.status, 503);
        assert!(response.body.contains("busy"), "{}", response.body);
    }

    fn shared(site: &Site) -> Shared {
        Shared {
            metrics: Arc::clone(&site.metrics),
            health: site.health.clone(),
        }
    }

    /// The loop is a real thread, to which a clock that advances by itself whenever all tasks wait leaves no
    /// time on one processor. So it is advanced by hand, for the retries of a taken port to come soon.
    #[tokio::test]
    async fn everything_is_served_and_a_taken_address_is_tried_again() {
        let directory = tempfile::tempdir().unwrap();
        let foreign = StdListener::bind(("127.0.0.1", 0)).unwrap();
        let taken = foreign.local_addr().unwrap();
        let config = test_config(&[
            "--node-name=worker",
            &format!("--run-dir={}", directory.path().display()),
            &format!("--healthz-bind-address={taken}"),
            "--metrics-bind-address=",
        ]);
        let (site, inputs) = site();
        let (stop, stopped) = oneshot::channel::<()>();
        let socket = config.socket();
        let reconcile = Reconcile::new(config.clone(), shared(&site), None, Vec::new());
        let looping = std::thread::spawn(move || reconcile.run(&inputs));
        let (_ports, wanted) = watch::channel(HealthPorts::default());
        let to_loop = site.inputs.clone();
        let serving = tokio::spawn(async move {
            serve(site, &config, wanted, async { drop(stopped.await) }).await;
        });
        let warnings = || async {
            let stream = tokio::net::UnixStream::connect(&socket).await.ok()?;
            let text = exchange(stream, "/status").await;
            let (_, body) = text.split_once("\r\n\r\n").unwrap();
            // Anything else says that the loop is busy.
            Some(serde_json::from_str::<Report>(body).ok()?.warnings)
        };
        let warning = loop {
            match warnings().await {
                Some(mut all) if all.len() == 1 => break all.remove(0),
                _ => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        assert_eq!(warning.feature, "healthz");
        assert!(
            warning.text.contains(&taken.to_string()),
            "{}",
            warning.text
        );
        drop(foreign);
        while !warnings().await.is_some_and(|all| all.is_empty()) {
            tokio::time::pause();
            tokio::time::advance(Duration::from_secs(1)).await;
            tokio::time::resume();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(
            get(taken, "/healthz")
                .await
                .unwrap()
                .starts_with("HTTP/1.1 200 ")
        );
        drop(stop);
        serving.await.unwrap();
        to_loop.send(Input::Stop).unwrap();
        looping.join().unwrap();
    }
}
