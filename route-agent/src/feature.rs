//! What a feature is, and what it is shown.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use ipnetwork::IpNetwork;
use podwire::policy::{Answer, Attachment, News};
use tokio::sync::mpsc;

/// What the kernel announces.
pub use podwire_kernel::monitor::Event as KernelEvent;

use crate::config::Config;
use crate::metrics::Metrics;
use crate::ours::Removal;
use crate::report::Report;
use crate::snapshot::{Dirty, Node, ObjectName, Snapshot};
use crate::uplink::Uplink;
use crate::warnings::{Warning, Warnings};

/// One thing that the agent keeps right: routes, a table, a file.
///
/// Inside, a feature has four steps: `observe` reads what is there, `desired` is a pure function of
/// the [`World`], `diff` compares the two, `apply` writes the difference. The loop calls
/// [`notice`](Feature::notice) for everything that happens, and then [`sync`](Feature::sync) once
/// if there is something to do: many events at a time make one sync.
pub trait Feature: Send {
    /// A short name for logs, metrics and status.
    fn name(&self) -> &'static str;

    /// The netlink ports through which the feature writes to the kernel.
    fn ports(&mut self) -> Vec<u32> {
        Vec::new()
    }

    /// Notes what happened; true if a [`sync`](Feature::sync) is needed. Costs no more than the
    /// size of the event.
    fn notice(&mut self, event: &Event<'_>, world: &World<'_>) -> bool;

    /// Brings reality in line with the world. After an error, or with [`Synced::again`], it is
    /// called again by itself, with a growing pause between tries.
    fn sync(&mut self, world: &World<'_>, warn: &mut Warn<'_>) -> Result<Synced, SyncError>;

    /// When `sync` is to be called even if nothing happens.
    fn due(&self) -> Option<Instant> {
        None
    }

    /// True if pods must not start before this feature has succeeded once.
    fn needed_by_pods(&self) -> bool {
        false
    }

    /// True if this feature brings Services and their endpoints into the kernel: until it has
    /// synced, changes of them count as pending.
    fn programs_services(&self) -> bool {
        false
    }

    /// Adds what it knows to the operator's report, differences between what is wanted and what
    /// the kernel holds included.
    fn report(&mut self, world: &World<'_>, report: &mut Report);

    /// Removes everything it ever put on this machine, or only looks for it. Returns what that is, in
    /// a few words.
    fn uninstall(&mut self, config: &Config, how: Removal) -> Result<Vec<String>, SyncError>;
}

/// Any error of a feature; printed with its whole chain, on one line.
pub type SyncError = Box<dyn Error + Send + Sync>;

/// What a successful sync did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Synced {
    /// Writes to the kernel or to disk.
    pub writes: u64,
    /// Some part failed (and a warning says so): try again after a pause. The rest is in place, so
    /// that the agent is not unhealthy for it.
    pub again: bool,
}

/// Something that happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// Cluster objects changed.
    Objects(&'a Dirty),
    /// The kernel says that another program changed something. What is done through the sockets of
    /// [`Feature::ports`] is not announced.
    Kernel(&'a KernelEvent),
    /// The uplink changed: another interface, address, MTU, state, or set of on-link networks.
    Uplink,
    /// A file that belongs to a feature changed: another program touched the CNI configuration, or
    /// the plugin wrote a record.
    Files,
    /// The plugin waits for what follows from an attachment.
    Told(&'a Told),
    /// Someone asks whose addresses these are. The feature that knows answers at once.
    WhoHas(&'a WhoHas),
    /// Everything that pods need has succeeded for the first time.
    Ready,
    /// Nothing in memory can be trusted any longer: look at the kernel again.
    Resync,
}

/// What the plugin says of an attachment. It waits for an answer.
#[derive(Debug, Clone)]
pub struct Told {
    /// What happened to it.
    pub news: News,
    /// The attachment.
    pub attachment: Attachment,
    /// Where the answer goes; it has room for one.
    reply: mpsc::Sender<Answer>,
}

impl Told {
    /// If `reply` is dropped without a word, the plugin does without an answer.
    pub fn new(news: News, attachment: Attachment, reply: mpsc::Sender<Answer>) -> Self {
        Self {
            news,
            attachment,
            reply,
        }
    }

    /// Answers it, once.
    pub fn answer(&self, answer: Answer) {
        // The plugin may have been killed meanwhile.
        let _ = self.reply.try_send(answer);
    }
}

/// A question: which pods have these addresses? Without an answer none has.
#[derive(Debug)]
pub struct WhoHas {
    /// The addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// Where the answer goes; it has room for one.
    reply: mpsc::Sender<BTreeMap<IpAddr, ObjectName>>,
}

impl WhoHas {
    /// Asks for these addresses.
    pub fn new(
        addresses: BTreeSet<IpAddr>,
        reply: mpsc::Sender<BTreeMap<IpAddr, ObjectName>>,
    ) -> Self {
        Self { addresses, reply }
    }

    /// Answers it, once.
    pub fn answer(&self, pods: BTreeMap<IpAddr, ObjectName>) {
        // Who asked may have gone meanwhile.
        let _ = self.reply.try_send(pods);
    }
}

/// Everything a feature may know.
#[derive(Debug, Clone, Copy)]
pub struct World<'a> {
    /// Where to count what is done.
    pub metrics: &'a Metrics,
    /// The flags.
    pub config: &'a Config,
    /// The cluster.
    pub snapshot: &'a Snapshot,
    /// The interface to the other nodes, once found.
    pub uplink: Option<&'a Uplink>,
    /// True once everything that pods need has succeeded: the CNI configuration waits for that.
    pub ready_for_pods: bool,
}

impl<'a> World<'a> {
    /// The Node object that stands for this machine.
    pub fn own_node(&self) -> Option<&'a Node> {
        self.snapshot.nodes.get(&self.config.node_name)
    }

    /// The podCIDRs of this machine: see [`Snapshot::own_pod_cidrs`].
    pub fn own_pod_cidrs(&self) -> Vec<IpNetwork> {
        self.snapshot.own_pod_cidrs(self.own_node())
    }

    /// The name of the Node that stands for this machine.
    pub fn own_name(&self) -> &'a Arc<str> {
        &self.config.node_name
    }
}

/// The warnings of one feature.
pub struct Warn<'a> {
    origin: &'static str,
    warnings: &'a mut Warnings,
}

impl<'a> Warn<'a> {
    /// The warnings that `origin` may change.
    pub fn new(origin: &'static str, warnings: &'a mut Warnings) -> Self {
        Self { origin, warnings }
    }

    /// All of the feature's warnings are exactly these from now on.
    pub fn replace(&mut self, now: impl IntoIterator<Item = Warning>) {
        self.warnings.replace(self.origin, now);
    }

    /// The feature's warnings about one object are exactly these from now on.
    pub fn replace_for(&mut self, object: &str, texts: impl IntoIterator<Item = String>) {
        self.warnings.replace_for(self.origin, object, texts);
    }
}
