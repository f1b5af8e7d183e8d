//! Two nodes, a client and a server, and the desk that is asked about them.

use std::process::Command;
use std::time::Duration;

use podwire_lab::launch::{Launch, Room};
use podwire_lab::pod::{Pod, PodSpec};
use podwire_lab::topology::Families;
use podwire_lab::{binaries, wait};
use serde_json::{Value, json};

use super::{Cluster, http, service};

/// How long the desk may take to name a cause.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Two nodes: `client` on the first, `web` behind a Service on the second.
pub struct Stage {
    pub cluster: Cluster,
    pub web: Pod,
    /// On the node of `web`; it answers datagrams at port 53.
    pub dns: Pod,
}

impl Stage {
    pub fn raise() -> Self {
        let cluster = Cluster::pair(Families::V4);
        let client = PodSpec::new("client").labelled("app", "client");
        cluster.lab.run("worker", &client).unwrap();
        let labelled = PodSpec::web("web").labelled("app", "web");
        let web = cluster.lab.run("worker2", &labelled).unwrap();
        let spec = json!({"clusterIP": "10.200.1.41", "ports": [{"port": 80}]});
        cluster.apply(&[service("web", spec), http("web", &[&web])]);
        let dns = cluster.web("worker2", "dns");
        Self { cluster, web, dns }
    }

    /// What `podwire-lab` prints, and whether all is well.
    pub fn desk(&self, arguments: &[&str]) -> (String, bool) {
        let ran = Command::new(binaries::own().unwrap())
            .args(["--lab", self.cluster.lab.name()])
            .args(arguments)
            .output()
            .unwrap();
        let text = String::from_utf8(ran.stdout).unwrap() + &String::from_utf8_lossy(&ran.stderr);
        (text, ran.status.success())
    }

    pub fn why(&self, from: &str, to: &str) -> Value {
        let (text, _) = self.desk(&["why", from, to, "-o", "json"]);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    pub fn on(&self, place: &str, line: &str) {
        self.cluster.at(place).output(line).unwrap();
    }

    /// Does something on a node again and again, against the agent, which repairs it each time; the
    /// process that does.
    pub fn again_and_again(&self, node: &str, line: &str) -> i32 {
        let line = format!("while :; do {line}; sleep 0.005; done");
        let launch = Launch {
            room: Room::Shared,
            command: ["sh", "-c", &line].map(str::to_owned).to_vec(),
            environment: Vec::new(),
            log: None,
        };
        self.cluster.at(node).launch(&launch).unwrap()
    }

    /// Waits until `why` fails on a node, at a hop that says `hop`, for a cause that says `cause`.
    pub fn names(&self, from: &str, to: &str, node: &str, hop: &str, cause: &str) {
        let mut last = Value::Null;
        let done = || {
            last = self.why(from, to);
            let failure = &last["failure"];
            let said =
                |value: &Value, part: &str| value.as_str().is_some_and(|text| text.contains(part));
            let hops = last["parts"].as_array().into_iter().flatten();
            let hops =
                hops.flat_map(|part| part["trace"]["Ok"]["hops"].as_array().into_iter().flatten());
            let number = failure["hop"].as_u64().unwrap_or(0);
            let what = hops
                .enumerate()
                .find(|(place, _)| *place as u64 + 1 == number);
            let is_hop = match what {
                Some((_, found)) => said(&found["what"], hop),
                None => hop.is_empty(),
            };
            is_hop && failure["node"] == node && said(&last["conclusion"], cause)
        };
        let found = wait::until("the cause to be named", PATIENCE, done);
        assert!(found.is_ok(), "{node}, {hop:?}, {cause:?}: {last:#}");
    }
}
