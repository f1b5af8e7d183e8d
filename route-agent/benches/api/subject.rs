//! The programs that are measured.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// kube-proxy's name for the end of its last sync; the agent has the same.
const SYNCED: &str = "kubeproxy_sync_proxy_rules_last_timestamp_seconds";

/// A program to measure.
pub struct Subject {
    pub name: &'static str,
    command: Vec<String>,
    metrics: u16,
    /// What it writes in the kernel; the first one holds the endpoints.
    pub tables: &'static [&'static str],
    /// How many single changes are measured in each run.
    pub changes: usize,
}

impl Subject {
    pub fn agent(path: &Path, kubeconfig: &Path, changes: usize) -> Self {
        let directory = std::env::temp_dir().join("podwire-bench");
        std::fs::create_dir_all(&directory).unwrap();
        Self {
            name: "podwire-agent",
            command: vec![
                path.display().to_string(),
                "run".to_owned(),
                format!("--kubeconfig={}", kubeconfig.display()),
                format!("--run-dir={}", directory.display()),
                "--cni-conf=false".to_owned(),
                "--healthz-bind-address=127.0.0.1:10256".to_owned(),
                "--log=warn".to_owned(),
            ],
            metrics: 10256,
            tables: &["podwire-services", "podwire-masquerade"],
            changes,
        }
    }

    pub fn kube_proxy(path: &Path, kubeconfig: &Path, changes: usize) -> Self {
        Self {
            name: "kube-proxy, nftables",
            command: vec![
                path.display().to_string(),
                format!("--kubeconfig={}", kubeconfig.display()),
                "--proxy-mode=nftables".to_owned(),
                "--cluster-cidr=10.10.0.0/16".to_owned(),
                "--conntrack-max-per-core=0".to_owned(),
                "--healthz-bind-address=127.0.0.1:20256".to_owned(),
                "--metrics-bind-address=127.0.0.1:20249".to_owned(),
            ],
            metrics: 20249,
            tables: &["kube-proxy"],
            changes,
        }
    }

    pub fn start(&self) -> Running {
        let log = std::env::temp_dir().join("podwire-bench.log");
        let log = std::fs::File::create(log).unwrap();
        let began = Instant::now();
        let child = Command::new(&self.command[0])
            .args(&self.command[1..])
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Running {
            child,
            began,
            metrics: self.metrics,
        }
    }
}

/// A program that is stopped when it goes out of scope.
pub struct Running {
    child: Child,
    began: Instant,
    metrics: u16,
}

impl Running {
    /// Waits until a sync has finished; the time since the start.
    pub fn synced(&mut self) -> Duration {
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("{status}; see podwire-bench.log in the temporary directory");
            }
            if metric(self.metrics, SYNCED).is_some_and(|at| at > 0.0) {
                return self.began.elapsed();
            }
            assert!(
                self.began.elapsed() < Duration::from_secs(600),
                "never synced"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// In KiB.
    pub fn peak_rss(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmHWM"))
            .unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// What processors have worked since its start for it and the programs that it ran.
    pub fn processor_time(&self) -> Duration {
        let path = format!("/proc/{}/stat", self.child.id());
        let stat = std::fs::read_to_string(path).unwrap();
        let (_, fields) = stat.rsplit_once(')').unwrap();
        let fields: Vec<&str> = fields.split_whitespace().collect();
        // utime, stime, cutime, cstime
        let ticks: u64 = fields[11..15]
            .iter()
            .map(|field| field.parse::<u64>().unwrap())
            .sum();
        // USER_HZ is 100 on every architecture that Kubernetes runs on.
        Duration::from_millis(ticks * 10)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
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
