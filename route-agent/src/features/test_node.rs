//! A node for one test of a feature.

use std::path::PathBuf;

use podwire::attachment::{LINK_GROUP, host_link_name};
use podwire_kernel::RouteSocket;
use podwire_kernel::link::Veth;
use podwire_kernel::netns::unshare_thread;
use tempfile::TempDir;

use crate::config::{Config, test_config};
use crate::feature::{Event, Feature, KernelEvent, SyncError, Synced, Warn, World};
use crate::metrics::Metrics;
use crate::report::Report;
use crate::snapshot::Snapshot;
use crate::uplink::Uplink;
use crate::warnings::Warnings;

/// What features are shown, and directories that go with it.
pub struct TestNode {
    pub directory: TempDir,
    pub config: Config,
    pub snapshot: Snapshot,
    pub uplink: Option<Uplink>,
    pub ready_for_pods: bool,
    pub warnings: Warnings,
    metrics: Metrics,
}

impl TestNode {
    /// A node with no network but that of the calling thread.
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut config = test_config(&["--node-name=worker"]);
        config.run_dir = directory.path().join("run").into();
        config.cni_conf_dir = directory.path().join("net.d");
        Self {
            directory,
            config,
            snapshot: Snapshot::default(),
            uplink: None,
            ready_for_pods: true,
            warnings: Warnings::default(),
            metrics: Metrics::default(),
        }
    }

    /// As [`TestNode::new`], in a network namespace of its own.
    pub fn apart() -> Self {
        unshare_thread().expect("needs root: it makes a network namespace");
        Self::new()
    }

    /// A file or directory beside those of the node.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn world(&self) -> World<'_> {
        World {
            metrics: &self.metrics,
            config: &self.config,
            snapshot: &self.snapshot,
            uplink: self.uplink.as_ref(),
            ready_for_pods: self.ready_for_pods,
        }
    }

    pub fn sync(&mut self, feature: &mut dyn Feature) -> Result<Synced, SyncError> {
        let world = World {
            metrics: &self.metrics,
            config: &self.config,
            snapshot: &self.snapshot,
            uplink: self.uplink.as_ref(),
            ready_for_pods: self.ready_for_pods,
        };
        feature.sync(&world, &mut Warn::new("test", &mut self.warnings))
    }

    /// Syncs, which must succeed, and returns how many writes that took.
    pub fn writes(&mut self, feature: &mut dyn Feature) -> u64 {
        self.sync(feature).unwrap().writes
    }

    pub fn report(&self, feature: &mut dyn Feature) -> Report {
        let mut report = Report::default();
        feature.report(&self.world(), &mut report);
        report
    }

    /// Tells the feature that a link was deleted.
    pub fn tell_of_lost_link(&self, feature: &mut dyn Feature, name: &str) -> bool {
        let event = KernelEvent::Link {
            index: 7,
            name: name.to_owned(),
            up: false,
            gone: true,
        };
        feature.notice(&Event::Kernel(&event), &self.world())
    }

    /// All warnings as `object: text`.
    pub fn warnings(&self) -> Vec<String> {
        let all = self.warnings.iter();
        all.map(|(_, warning)| format!("{}: {}", warning.object, warning.text))
            .collect()
    }
}

/// Makes the link that the plugin makes for `eth0` of a container; returns its number.
pub fn make_pod_link(container_id: &str) -> u32 {
    let name = host_link_name(container_id, "eth0");
    let peer = format!("p{container_id}");
    let veth = Veth {
        group: LINK_GROUP,
        up: true,
        ..Veth::new(&name, &peer).unwrap()
    };
    RouteSocket::open()
        .unwrap()
        .create_veth(&veth)
        .unwrap()
        .index
}

/// Deletes it.
pub fn delete_pod_link(container_id: &str) {
    let name = host_link_name(container_id, "eth0");
    let mut socket = RouteSocket::open().unwrap();
    socket.delete_link_named(&name).unwrap();
}
