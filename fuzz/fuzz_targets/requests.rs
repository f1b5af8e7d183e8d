//! Sends any bytes to the agent's socket and to its health address, on a node of a small cluster.
//! Fails if something panics, if what is answered is not HTTP, or if what is told to a terminal
//! could be more than text.
//!
//! The walk of `why` is real; the kernel is not asked.

#![no_main]

#[path = "../src/cluster.rs"]
mod cluster;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock, mpsc};
use std::time::Duration;

use hyper::StatusCode;
use libfuzzer_sys::fuzz_target;
use podwire_agent::drops::DropLog;
use podwire_agent::features::parts::log::Logging;
use podwire_agent::flows::FlowLog;
use podwire_agent::health::{Health, SharedHealth};
use podwire_agent::pod_cidrs::{PodCidrs, settled};
use podwire_agent::serve::http::{self, Request, Response};
use podwire_agent::serve::site::{Site, asked};
use podwire_agent::snapshot::Snapshot;
use podwire_agent::source::decode::{Scope, decode};
use podwire_agent::source::objects::Names;
use podwire_agent::text::is_unprintable;
use podwire_agent::why;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;
use tokio::task::yield_now;

/// Nodes, Services and endpoints.
const CLUSTER: &[u8] = include_bytes!("../src/cluster.yaml");

/// What the process keeps between requests.
struct Node {
    runtime: Runtime,
    site: Site,
    snapshot: Snapshot,
    pods: Vec<why::Pod>,
    own: Vec<IpAddr>,
}

static NODE: LazyLock<Arc<Node>> = LazyLock::new(|| {
    let objects = decode(CLUSTER, Scope::All, &mut Names::default()).expect("it is text");
    let (inputs, _) = mpsc::channel();
    let runtime = tokio::runtime::Builder::new_current_thread();
    let mut snapshot = cluster::of(objects.objects);
    PodCidrs::default().settle(&mut snapshot, &cluster::CONFIG.node_name, None);
    Arc::new(Node {
        runtime: { runtime }.enable_time().build().expect("it needs nothing"),
        // Without a loop, what is asked of it is refused at once.
        site: Site {
            health: SharedHealth::new(Health::new(Duration::from_secs(60))),
            metrics: Arc::default(),
            inputs,
            drops: DropLog::new(Logging::On),
            flows: FlowLog::new(false),
        },
        snapshot,
        pods: vec![why::Pod {
            name: Some("default/pod1".into()),
            unnamed: false,
            container_id: "pod1".into(),
            ifname: "eth0".into(),
            link: "veth1".into(),
            up: true,
            addresses: ["10.10.2.2", "fd00:10:10:2::2"].map(address).into(),
        }],
        own: ["172.18.0.4", "fc00:f853:ccd:e793::4"].map(address).into(),
    })
});

fn address(text: &str) -> IpAddr {
    text.parse()
        .expect("the literals in this file are addresses")
}

fuzz_target!(
    init: {
        // Otherwise nothing below says anything.
        let good = b"GET /why?from=default/pod1&to=default/web:9000 HTTP/1.1\r\nHost: x\r\n\r\n";
        assert!(!NODE.runtime.block_on(converse(&NODE, good, true)).is_empty());
    },
    |input: &[u8]| {
        for socket in [true, false] {
            let said = NODE.runtime.block_on(converse(&NODE, input, socket));
            assert!(
                said.is_empty() || said.starts_with(b"HTTP/1."),
                "{:?}",
                String::from_utf8_lossy(&said)
            );
        }
    }
);

/// Sends `input`, and nothing more, and returns everything that is answered.
async fn converse(node: &'static Arc<Node>, input: &[u8], socket: bool) -> Vec<u8> {
    let (mut client, server) = tokio::io::duplex(64 * 1024);
    let answer = move |request: Request| async move {
        let response = match (socket, request.path.as_str()) {
            (true, "/why") => node.why(&request.query),
            (true, _) => node.site.clone().private(request).await,
            (false, _) => node.site.public(&request),
        };
        check(&response);
        response
    };
    let speak = async {
        // The server may hang up before everything is sent.
        let _ = client.write_all(input).await;
        // A server forgets what it has not answered when its client hangs up.
        for _ in 0..4 {
            yield_now().await;
        }
        let _ = client.shutdown().await;
        let mut said = Vec::new();
        let _ = client.read_to_end(&mut said).await;
        said
    };
    let ((), said) = tokio::join!(http::answer(server, answer), speak);
    said
}

fn check(response: &Response) {
    let unprintable = |c: char| c != '\n' && is_unprintable(c);
    let body = &response.body;
    assert!(!body.contains(unprintable), "{body:?}");
}

impl Node {
    /// As the page of that name, but for what the kernel says.
    fn why(&self, query: &str) -> Response {
        let question = match asked(query) {
            Ok(question) => question,
            Err(error) => return Response::text(StatusCode::BAD_REQUEST, error),
        };
        let facts = why::Facts {
            snapshot: &self.snapshot,
            config: &cluster::CONFIG,
            uplink: None,
            pods: &self.pods,
            claims: &settled(&self.snapshot),
            node_addresses: &self.own,
            gone_cidrs: &[],
            host_ports: &[],
            owners: &BTreeMap::new(),
        };
        match why::walk(&facts, &question) {
            Ok(trace) => {
                assert!(!trace.conclusion.is_empty());
                Response::text(StatusCode::OK, trace.to_string())
            }
            Err(error) => Response::text(StatusCode::BAD_REQUEST, error.to_string()),
        }
    }
}
