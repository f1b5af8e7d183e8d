//! A node with the feature on it, in a network namespace of its own.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use podwire_kernel::IpFamily;
use serde_json::Value;

use crate::feature::{Event, Feature as _, KernelEvent};
use crate::features::parts::log::Logging;
use crate::features::policies::Policies;
use crate::features::policies::desired::atoms::FEW_PEERS;
use crate::features::policies::desired::samples::here;
use crate::features::test_node::TestNode;
use crate::ours::POLICY_TABLE as TABLE;
use crate::snapshot::{Change, Dirty, Key, Node, Object};
use crate::source::decode::{Scope, decode};
use crate::source::objects::Names;

/// A node of the samples: `worker`, unless said otherwise.
pub struct Bench {
    pub node: TestNode,
    pub feature: Policies,
}

impl Bench {
    /// With podCIDRs of both families and no policy.
    pub fn new() -> Self {
        Self::on(TestNode::apart(), "worker", FEW_PEERS)
    }

    /// A node of the samples in the network namespace of the calling thread, on which rules with more
    /// than this many peers of a kind ask a single question.
    pub fn on(mut node: TestNode, name: &'static str, few_peers: usize) -> Self {
        node.config.node_name = Arc::from(name);
        let mut bench = Self {
            feature: Policies::of_lists_over(few_peers, Logging::On).unwrap(),
            node,
        };
        let cidrs = IpFamily::ALL.map(|family| here(name, family).pod_cidrs);
        let worker = Node {
            pod_cidrs: cidrs.into_iter().flatten().collect(),
            ..Node::named(name)
        };
        bench.apply(vec![Change::Set(Object::Node(worker))]);
        bench.notice(&Event::Resync);
        bench.sync();
        bench
    }

    pub fn notice(&mut self, event: &Event<'_>) -> bool {
        self.feature.notice(event, &self.node.world())
    }

    pub fn apply(&mut self, changes: Vec<Change>) {
        let mut dirty = Dirty::default();
        for change in changes {
            self.node.snapshot.apply(change, &mut dirty);
        }
        self.notice(&Event::Objects(&dirty));
    }

    /// Objects come, and are carried out; returns how many writes that took.
    pub fn set(&mut self, objects: &[Value]) -> u64 {
        self.notice_objects(objects);
        self.sync()
    }

    /// Objects come, and nothing is carried out yet.
    pub fn notice_objects(&mut self, objects: &[Value]) {
        let mut changes = Vec::new();
        for object in objects {
            let text = object.to_string();
            let read = decode(text.as_bytes(), Scope::All, &mut Names::default()).unwrap();
            changes.extend(read.objects.into_iter().map(Change::Set));
        }
        self.apply(changes);
    }

    /// An object goes, and that is carried out.
    pub fn gone(&mut self, key: Key) -> u64 {
        self.apply(vec![Change::Gone(key)]);
        self.sync()
    }

    pub fn sync(&mut self) -> u64 {
        self.node.writes(&mut self.feature)
    }

    /// Syncs when the feature wants to be, until it does no longer.
    pub fn rest(&mut self) {
        while let Some(due) = self.feature.forgets() {
            std::thread::sleep(due.saturating_duration_since(std::time::Instant::now()));
            self.sync();
        }
    }

    /// An agent starts over what is there; returns how many writes that took.
    pub fn restart(&mut self) -> u64 {
        self.feature = Policies::open(Logging::On).unwrap();
        self.notice(&Event::Resync);
        self.sync()
    }

    pub fn differences(&mut self) -> Vec<String> {
        self.node.report(&mut self.feature).differences
    }

    /// Carries out what `nft` is told, and shows the feature what the kernel says of it.
    pub fn meddle(&mut self, command: &str) -> bool {
        let own: BTreeSet<u32> = self.feature.ports().into_iter().collect();
        let ports: Vec<u32> = own.into_iter().collect();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let events = runtime.block_on(async {
            let mut monitor = podwire_kernel::monitor::Monitor::open().unwrap();
            nft(command);
            let mut events = Vec::new();
            let quiet = Duration::from_millis(300);
            while let Ok(Some(event)) = tokio::time::timeout(quiet, monitor.next()).await {
                events.push(event);
            }
            events
        });
        let mut noticed = false;
        for event in events {
            let foreign =
                !matches!(&event, KernelEvent::Nftables { port, .. } if ports.contains(port));
            noticed |= foreign && self.notice(&Event::Kernel(&event));
        }
        noticed
    }
}

/// Runs `nft` with these words and returns what it printed.
#[track_caller]
pub fn nft(command: &str) -> String {
    nft_with(&["--stateless"], command)
}

/// The rules that ask what is allowed, with the numbers that the kernel gave to them.
pub fn numbered_rules() -> String {
    let chains = ["forward", "in", "in-reply"].into_iter();
    let list = |chain| format!("list chain ip {TABLE} {chain}");
    chains
        .map(|chain| nft_with(&["--stateless", "--handle"], &list(chain)))
        .collect()
}

#[track_caller]
fn nft_with(flags: &[&str], command: &str) -> String {
    let output = Command::new("nft")
        .args(flags)
        .arg(command)
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "nft {command}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// Has `nft` load a text.
#[track_caller]
pub fn load(text: &str) {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(text.as_bytes()).unwrap();
    drop(input);
    assert!(child.wait().unwrap().success(), "nft does not load\n{text}");
}

/// What `nft` prints of everything, without numbers that move.
pub fn list() -> String {
    nft("list ruleset")
}

/// What is in a set or map of the IPv4 table, as `nft` prints it.
pub fn elements(set: &str) -> String {
    let kind = if ["peers", "blocks"].contains(&set) {
        "map"
    } else {
        "set"
    };
    let text = nft(&format!("list {kind} ip {TABLE} {set}"));
    match text.split_once("elements = { ") {
        Some((_, rest)) => rest.split_once(" }").unwrap().0.to_owned(),
        None => String::new(),
    }
}
