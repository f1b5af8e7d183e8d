//! From the API server to the kernel: the agent and kube-proxy on the same objects.
//!
//! Run by `make bench-api` inside the node of a kind cluster, where a real kube-apiserver and etcd
//! are. Fills the cluster with Services and EndpointSlices, then starts each program in turn and
//! measures the time from process start to its first finished sync, the peak of its memory, and
//! for single endpoint changes the time from the API server's answer to the moment at which
//! `nft monitor` prints the new address. Prints a table in Markdown.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "a bench stops at the first surprise"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use clap::Parser;
use hyper::{Method, Request};
use kube::{Client, Config};
use serde_json::{Value, json};

#[derive(Parser)]
struct Flags {
    /// How many Services, each with one port and one EndpointSlice.
    #[arg(long, default_value_t = 10_000)]
    services: usize,
    /// How many endpoints each.
    #[arg(long, default_value_t = 10)]
    endpoints: usize,
    /// How many single changes are measured on the agent.
    #[arg(long, default_value_t = 200)]
    changes: usize,
    /// How many on kube-proxy, which takes seconds for one.
    #[arg(long, default_value_t = 8)]
    proxy_changes: usize,
    /// How often each program is started.
    #[arg(long, default_value_t = 1)]
    runs: usize,
    /// The agent; left out if not given.
    #[arg(long)]
    agent: Option<PathBuf>,
    /// kube-proxy; left out if not given.
    #[arg(long)]
    kube_proxy: Option<PathBuf>,
    /// Credentials for everything.
    #[arg(long, default_value = "/etc/kubernetes/admin.conf")]
    kubeconfig: PathBuf,
    /// Passed by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

const NAMESPACE: &str = "bench";
const AGENT_PORT: u16 = 10256;
const PROXY_PORT: u16 = 20249;
/// kube-proxy's name for the end of its last sync; the agent has the same.
const SYNCED: &str = "kubeproxy_sync_proxy_rules_last_timestamp_seconds";

fn main() {
    let flags = Flags::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let client = runtime.block_on(client(&flags));
    runtime.block_on(fill(&client, &flags));
    println!(
        "{} Services x {} endpoints\n\n\
         | program | start to synced | peak RSS | one change p50 | p90 | p99 | max | changes |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- |",
        flags.services, flags.endpoints
    );
    let mut fresh = 0;
    for _ in 0..flags.runs {
        if let Some(agent) = &flags.agent {
            let agent = Subject::agent(agent, &flags);
            measure(&agent, &flags, flags.changes, &client, &runtime, &mut fresh);
        }
        if let Some(kube_proxy) = &flags.kube_proxy {
            let proxy = Subject::kube_proxy(kube_proxy, &flags);
            let changes = flags.proxy_changes;
            measure(&proxy, &flags, changes, &client, &runtime, &mut fresh);
        }
    }
}

/// A program to measure.
struct Subject {
    name: &'static str,
    command: Vec<String>,
    metrics: u16,
    tables: [&'static str; 2],
}

impl Subject {
    fn agent(path: &Path, flags: &Flags) -> Self {
        let directory = std::env::temp_dir().join("podwire-bench");
        std::fs::create_dir_all(&directory).unwrap();
        Self {
            name: "podwire-agent",
            command: vec![
                path.display().to_string(),
                "run".to_owned(),
                format!("--kubeconfig={}", flags.kubeconfig.display()),
                format!("--run-dir={}", directory.display()),
                "--cni-conf=false".to_owned(),
                format!("--healthz-bind-address=127.0.0.1:{AGENT_PORT}"),
                "--log=warn".to_owned(),
            ],
            metrics: AGENT_PORT,
            tables: ["podwire-services", "podwire-masquerade"],
        }
    }

    fn kube_proxy(path: &Path, flags: &Flags) -> Self {
        Self {
            name: "kube-proxy, nftables",
            command: vec![
                path.display().to_string(),
                format!("--kubeconfig={}", flags.kubeconfig.display()),
                "--proxy-mode=nftables".to_owned(),
                "--cluster-cidr=10.10.0.0/16".to_owned(),
                "--conntrack-max-per-core=0".to_owned(),
                "--healthz-bind-address=127.0.0.1:20256".to_owned(),
                format!("--metrics-bind-address=127.0.0.1:{PROXY_PORT}"),
            ],
            metrics: PROXY_PORT,
            tables: ["kube-proxy", "kube-proxy"],
        }
    }

    /// Removes what an earlier run left in the kernel.
    fn clean(&self) {
        for table in self.tables {
            for family in ["ip", "ip6", "inet"] {
                let _ = Command::new("nft")
                    .args(["delete", "table", family, table])
                    .stderr(Stdio::null())
                    .status();
            }
        }
    }

    fn start(&self) -> Running {
        let log = std::env::temp_dir().join("podwire-bench.log");
        let log = std::fs::File::create(log).unwrap();
        let began = Instant::now();
        let child = Command::new(&self.command[0])
            .args(&self.command[1..])
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Running { child, began }
    }
}

/// A program that is stopped when it goes out of scope.
struct Running {
    child: Child,
    began: Instant,
}

impl Running {
    /// Waits until a sync has finished; the time since the start.
    fn synced(&mut self, port: u16) -> Duration {
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("{status}; see podwire-bench.log in the temporary directory");
            }
            if metric(port, SYNCED).is_some_and(|at| at > 0.0) {
                return self.began.elapsed();
            }
            assert!(
                self.began.elapsed() < Duration::from_secs(600),
                "never synced"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn peak_rss(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmHWM"))
            .unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn measure(
    subject: &Subject,
    flags: &Flags,
    changes: usize,
    client: &Client,
    runtime: &tokio::runtime::Runtime,
    fresh: &mut usize,
) {
    subject.clean();
    let mut running = subject.start();
    let cold = running.synced(subject.metrics);
    let holds = endpoints_in_kernel(subject.tables[0]);
    let wanted = flags.services * flags.endpoints;
    assert!(
        holds >= wanted,
        "{}: {holds} of {wanted} endpoints are in the kernel",
        subject.name
    );

    let (mut monitor, lines) = monitor();
    let mut times: Vec<Duration> = Vec::new();
    for _ in 0..changes {
        *fresh += 1;
        let address = format!("10.250.{}.{}", *fresh / 250, *fresh % 250 + 1);
        let service = (*fresh * 37) % flags.services;
        let answered = runtime.block_on(change(client, service, &address));
        let seen = wait_for(&lines, &address);
        times.push(seen.saturating_duration_since(answered));
    }
    let _ = monitor.kill();
    let _ = monitor.wait();
    times.sort_unstable();
    let at = |share: f64| milliseconds(times[((times.len() - 1) as f64 * share).round() as usize]);
    println!(
        "| {} | {:.2} s | {:.1} MiB | {} | {} | {} | {} | {} |",
        subject.name,
        cold.as_secs_f64(),
        running.peak_rss() as f64 / 1024.0,
        at(0.5),
        at(0.9),
        at(0.99),
        at(1.0),
        times.len()
    );
    drop(running);
    subject.clean();
}

fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

/// How many endpoint addresses the kernel holds in this table, wherever in it they are.
fn endpoints_in_kernel(table: &str) -> usize {
    let output = Command::new("nft")
        .args(["-n", "list", "table", "ip", table])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let address = |word: &str| -> Option<std::net::Ipv4Addr> { word.parse().ok() };
    let words = text.split(|c: char| !(c.is_ascii_digit() || c == '.'));
    let found: std::collections::BTreeSet<_> = words
        .filter_map(address)
        .filter(|address| (64..192).contains(&address.octets()[1]))
        .collect();
    found.len()
}

/// `nft monitor`, each line with the moment at which it was printed.
#[allow(
    clippy::zombie_processes,
    reason = "a panic ends the bench, and the caller waits"
)]
fn monitor() -> (Child, Receiver<(Instant, String)>) {
    let mut child = Command::new("nft")
        .arg("monitor")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let (to, lines) = channel();
    std::thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            if to.send((Instant::now(), line)).is_err() {
                return;
            }
        }
    });
    // It has begun when it tells of a table made for this purpose.
    let nft = |arguments: &[&str]| Command::new("nft").args(arguments).status().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        nft(&["add", "table", "ip", "bench-probe"]);
        nft(&["delete", "table", "ip", "bench-probe"]);
        if lines.recv_timeout(Duration::from_millis(200)).is_ok() {
            while lines.recv_timeout(Duration::from_millis(300)).is_ok() {}
            return (child, lines);
        }
        assert!(Instant::now() < deadline, "nft monitor says nothing");
    }
}

fn wait_for(lines: &Receiver<(Instant, String)>, address: &str) -> Instant {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let (at, line) = lines
            .recv_timeout(left)
            .unwrap_or_else(|_| panic!("no {address}"));
        if line.contains(address) {
            return at;
        }
    }
}

/// A metric's value; the largest if it has several labels.
fn metric(port: u16, name: &str) -> Option<f64> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let values = text.lines().filter(|line| line.starts_with(name));
    let values = values.filter_map(|line| line.split_whitespace().last()?.parse().ok());
    values.reduce(f64::max)
}

async fn client(flags: &Flags) -> Client {
    let kubeconfig = kube::config::Kubeconfig::read_from(&flags.kubeconfig).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await;
    Client::try_from(config.unwrap()).unwrap()
}

async fn ask(client: &Client, method: Method, path: &str, body: &Value) -> u16 {
    let kind = match method {
        Method::PATCH => "application/merge-patch+json",
        _ => "application/json",
    };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", kind)
        .body(kube::client::Body::from(serde_json::to_vec(body).unwrap()))
        .unwrap();
    let answer = client.send(request).await.unwrap();
    let status = answer.status().as_u16();
    answer.into_body().collect_bytes().await.unwrap();
    status
}

/// Creates whatever is missing, many requests at a time.
async fn fill(client: &Client, flags: &Flags) {
    let namespace = json!({"metadata": {"name": NAMESPACE}});
    ask(client, Method::POST, "/api/v1/namespaces", &namespace).await;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..flags.services {
        let (client, endpoints) = (client.clone(), flags.endpoints);
        if tasks.len() >= 64 {
            tasks.join_next().await.unwrap().unwrap();
        }
        tasks.spawn(async move { create(&client, number, endpoints).await });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

async fn create(client: &Client, number: usize, endpoints: usize) {
    let name = format!("service-{number:05}");
    let service = json!({
        "metadata": {"name": name},
        "spec": {"ports": [{"port": 80, "protocol": "TCP", "targetPort": 8080}]},
    });
    let slice = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
        "endpoints": (0..endpoints).map(|place| endpoint(&address(number, place, endpoints)))
            .collect::<Vec<_>>(),
    });
    let services = format!("/api/v1/namespaces/{NAMESPACE}/services");
    let slices = format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices");
    for (path, object) in [(services, service), (slices, slice)] {
        let status = ask(client, Method::POST, &path, &object).await;
        assert!(status == 201 || status == 409, "{path} {name}: {status}");
    }
}

fn endpoint(address: &str) -> Value {
    json!({"addresses": [address], "conditions": {"ready": true}, "nodeName": "elsewhere"})
}

/// 10.64.0.0/10 and 10.128.0.0/10, one address after another.
fn address(service: usize, place: usize, endpoints: usize) -> String {
    let number = service * endpoints + place;
    format!(
        "10.{}.{}.{}",
        64 + number / 62_500,
        number / 250 % 250,
        number % 250 + 1
    )
}

/// Gives the first endpoint of a Service a new address; the moment of the API server's answer.
async fn change(client: &Client, service: usize, new: &str) -> Instant {
    let path = format!(
        "/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices/service-{service:05}"
    );
    let request = Request::get(&path).body(Vec::new()).unwrap();
    let slice: Value = client.request(request).await.unwrap();
    let mut endpoints = slice["endpoints"].clone();
    endpoints[0] = endpoint(new);
    let status = ask(
        client,
        Method::PATCH,
        &path,
        &json!({"endpoints": endpoints}),
    )
    .await;
    let answered = Instant::now();
    assert_eq!(status, 200, "{path}");
    answered
}
