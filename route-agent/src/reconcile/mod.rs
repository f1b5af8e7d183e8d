//! The reconcile loop: one thread that takes in everything that happens and calls the features.
//!
//! Each turn drains the channel up to the next question, folds object changes into the snapshot,
//! shows every feature what happened and then syncs those that have something to do. A feature that
//! fails is tried again after a growing pause and never keeps another from its work. Nothing is
//! synced before the source has listed everything once.

mod pending;
mod repairs;
mod slot;

use std::iter;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use pending::Pending;
use podwire_kernel::IpFamily;
use slot::{FIRST_PAUSE, Slot};

use crate::clock::Moment;
use crate::config::Config;
use crate::feature::{Event, Feature, KernelEvent, World};
use crate::health::SharedHealth;
use crate::input::Input;
use crate::metrics::Metrics;
use crate::pod_cidrs::{Before, PodCidrs};
use crate::report::{Report, UplinkReport, WarningReport};
use crate::snapshot::{Dirty, Snapshot};
use crate::uplink::{self, FindError, Finder, Uplink};
use crate::warnings::{OnNewWarning, Warning, Warnings};

/// At most this many inputs are taken in before the features are called.
const DRAIN: usize = 20_000;

/// What the loop shares with the rest of the agent.
#[derive(Debug, Clone)]
pub struct Shared {
    /// The numbers that Prometheus reads.
    pub metrics: Arc<Metrics>,
    /// What `/livez` and `/healthz` answer.
    pub health: SharedHealth,
}

/// The loop and all that it owns.
pub struct Reconcile {
    config: Config,
    shared: Shared,
    snapshot: Snapshot,
    uplink: Option<Uplink>,
    /// Looks for the uplink; tests do without.
    finder: Option<Finder>,
    /// The uplink must be looked for again.
    look: bool,
    warnings: Warnings,
    slots: Vec<Slot>,
    dirty: Dirty,
    pending: Pending,
    /// When the last turn began.
    now: Instant,
    listed: bool,
    pod_cidrs: PodCidrs,
    /// Everything that pods need has succeeded once.
    was_ready: bool,
    /// The first sync has been logged.
    announced: bool,
    stopping: bool,
}

impl Reconcile {
    /// A loop that has received nothing yet.
    pub fn new(
        config: Config,
        shared: Shared,
        finder: Option<Finder>,
        features: Vec<Box<dyn Feature>>,
    ) -> Self {
        Self {
            config,
            shared,
            snapshot: Snapshot::default(),
            uplink: None,
            finder,
            look: true,
            warnings: Warnings::default(),
            slots: features.into_iter().map(Slot::new).collect(),
            dirty: Dirty::default(),
            pending: Pending::default(),
            now: Instant::now(),
            listed: false,
            pod_cidrs: PodCidrs::default(),
            was_ready: false,
            announced: false,
            stopping: false,
        }
    }

    /// These count as the podCIDRs of this machine until its Node has some: an agent before this one
    /// knew it.
    pub fn with_last_pod_cidrs(mut self, cidrs: &[IpNetwork]) -> Self {
        self.snapshot.remember_pod_cidrs(cidrs);
        self
    }

    /// Asks `before`, at the first decision, who had which podCIDR when an agent ran last.
    pub fn with_holders_before(mut self, before: Before) -> Self {
        self.pod_cidrs = PodCidrs::after(before);
        self
    }

    /// Shows every new warning to `on_new`.
    pub fn with_new_warnings_to(mut self, on_new: Option<OnNewWarning>) -> Self {
        self.warnings = Warnings::watched_by(on_new);
        self
    }

    /// Runs until it receives `Stop` or until all senders are gone.
    pub fn run(mut self, inputs: &Receiver<Input>) {
        while !self.stopping {
            match self.pause(Instant::now()).map_or_else(
                || inputs.recv().map_err(|_| RecvTimeoutError::Disconnected),
                |pause| inputs.recv_timeout(pause),
            ) {
                Ok(first) => self.take_all(first, inputs),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.turn(Instant::now());
        }
    }

    /// Takes in what has happened, up to the next question: whoever is answered may ask again at
    /// once, and would otherwise keep the features from their work.
    fn take_all(&mut self, first: Input, inputs: &Receiver<Input>) {
        for input in iter::once(first).chain(inputs.try_iter().take(DRAIN)) {
            let is_question = input.is_question();
            self.take(input);
            if is_question {
                return;
            }
        }
    }

    /// Takes in one thing that happened.
    fn take(&mut self, input: Input) {
        match input {
            Input::Changes(changes) => {
                let proxy = &self.shared.metrics.proxy;
                for change in changes {
                    self.pending
                        .fold(change, &mut self.snapshot, &mut self.dirty, proxy);
                }
                if !self.listed {
                    // The first sync looks at everything anyway.
                    self.dirty = Dirty::default();
                }
            }
            Input::Listed => {
                self.listed = true;
                self.snapshot.compact();
                podwire_kernel::process::release_memory();
                // Who has which podCIDR depends on the networks of the uplink.
                self.look_for_uplink();
                self.settle_pod_cidrs();
                self.note_own_node();
                self.show(&Event::Resync);
            }
            Input::ApiServerAddress => self.dirty.api_server = true,
            Input::SourceWarnings(now) => self.warnings.replace("source", now),
            Input::Warnings(origin, now) => self.warnings.replace(origin, now),
            Input::Kernel(event) => {
                self.look |= uplink::is_concerned(&event, self.uplink.as_ref(), self.own_ips());
                self.show(&match event {
                    KernelEvent::Lost => Event::Resync,
                    _ => Event::Kernel(&event),
                });
            }
            Input::Files => self.show(&Event::Files),
            // Nothing can be decided yet. The plugin is to hear that at once, and not to wait for it.
            Input::Told(told) if !self.listed => drop(told),
            Input::Told(told) => self.show(&Event::Told(&told)),
            Input::WhoHas(question) => self.show(&Event::WhoHas(&question)),
            Input::Report { wide, reply } => {
                let report = self.report(wide);
                // The operator may have hung up meanwhile.
                let _ = reply.send(report);
            }
            Input::Ask(question) => question.answer(&self.parts().0),
            Input::Stop => self.stopping = true,
        }
    }

    /// Calls the features that have something to do.
    fn turn(&mut self, now: Instant) {
        self.now = now;
        if self.stopping || !self.listed {
            self.count();
            return;
        }
        let mut dirty = std::mem::take(&mut self.dirty);
        let is_own = dirty.nodes.contains(&self.config.node_name);
        if self.look || is_own {
            self.look_for_uplink();
        }
        if dirty.concerns_pod_cidrs() {
            dirty.left_out = self.settle_pod_cidrs();
        }
        if is_own || dirty.left_out {
            self.note_own_node();
        }
        if !dirty.is_empty() {
            self.show(&Event::Objects(&dirty));
        }
        self.note_queued();
        // A sync may take long, and it is then that the numbers are of interest.
        self.pending.count(&self.shared.metrics.proxy);
        let mut worked = false;
        for place in 0..self.slots.len() {
            if !self.was_ready && self.slots.iter().all(Slot::ready_for_pods) {
                self.was_ready = true;
                self.show(&Event::Ready);
            }
            let (world, slots, warnings) = self.parts();
            worked |= slots[place].sync_if_due(&world, warnings, now);
        }
        if !self.slots.iter().any(Slot::owes_services) {
            self.pending.clear();
        }
        self.note_updated();
        if worked && !self.announced {
            self.announce();
        }
        self.count();
    }

    /// Shows an event to every feature.
    fn show(&mut self, event: &Event<'_>) {
        let now = self.now;
        let (world, slots, _) = self.parts();
        for slot in slots {
            slot.notice(event, &world, now);
        }
    }

    /// What features are shown, and what calling them changes.
    fn parts(&mut self) -> (World<'_>, &mut [Slot], &mut Warnings) {
        let ready_for_pods = self.slots.iter().all(Slot::ready_for_pods);
        let world = World {
            metrics: &self.shared.metrics,
            config: &self.config,
            snapshot: &self.snapshot,
            uplink: self.uplink.as_ref(),
            ready_for_pods,
        };
        (world, &mut self.slots, &mut self.warnings)
    }

    /// Decides who has which podCIDR, by the uplink as it is known. To be called before the features are
    /// shown what has changed. True if other podCIDRs are left out than before.
    fn settle_pod_cidrs(&mut self) -> bool {
        let (own, uplink) = (&self.config.node_name, self.uplink.as_ref());
        let used = self.config.kubernetes.addresses();
        self.snapshot.use_api_servers(used);
        self.pod_cidrs.settle(&mut self.snapshot, own, uplink)
    }

    fn own_ips(&self) -> &[IpAddr] {
        let own = self.snapshot.nodes.get(&self.config.node_name);
        own.map_or(&[], |node| &node.internal_ips)
    }

    fn look_for_uplink(&mut self) {
        self.look = false;
        let Some(mut finder) = self.finder.take() else {
            return;
        };
        let own = self.snapshot.nodes.get(&self.config.node_name);
        let internal_ips = own.map(|node| &*node.internal_ips);
        let found = finder.find(self.config.uplink.as_deref(), internal_ips);
        self.finder = Some(finder);
        let (found, trouble) = match found {
            Ok(uplink) => (Some(uplink), None),
            Err(FindError::Kernel(error)) => {
                // What was known before is the best guess.
                let again = format!("{}; tried again", crate::error::chain(&error));
                self.warnings
                    .replace("uplink", [Warning::new("uplink", again)]);
                self.look = true;
                return;
            }
            Err(error @ (FindError::Missing { .. } | FindError::Unknown)) => {
                let text = format!("{error}; until then routes to other nodes stay as they are");
                (None, Some(Warning::new("uplink", text)))
            }
        };
        self.warnings.replace("uplink", trouble);
        if found != self.uplink {
            if let Some(uplink) = &found {
                let Uplink { name, mtu, up, .. } = uplink;
                tracing::info!(%name, mtu, up, addresses = ?texts(&uplink.addresses), "uplink");
            }
            self.uplink = found;
            self.settle_pod_cidrs();
            self.note_own_node();
        }
        // The kernel may have dropped routes even if the uplink looks as it did before.
        self.show(&Event::Uplink);
    }

    /// How long the loop may sleep; `None` until the next input.
    fn pause(&self, now: Instant) -> Option<Duration> {
        if !self.listed {
            return None;
        }
        let look = self.look.then_some(self.now + FIRST_PAUSE);
        let next = self.slots.iter().filter_map(Slot::due).chain(look).min()?;
        Some(next.saturating_duration_since(now))
    }

    fn report(&mut self, wide: bool) -> Report {
        let mut report = Report {
            wide,
            node: self.config.node_name.to_string(),
            version: env!("CARGO_PKG_VERSION").into(),
            uplink: self.uplink.as_ref().map(|uplink| UplinkReport {
                name: uplink.name.clone(),
                mtu: uplink.mtu,
                up: uplink.up,
                addresses: uplink.addresses.clone(),
            }),
            listed: self.listed,
            ..Report::default()
        };
        let (world, slots, _) = self.parts();
        for slot in slots {
            slot.report(&world, &mut report);
        }
        if !report.listed {
            // What is wanted is not known yet, and what is there may well be it.
            report.differences.clear();
        }
        report
            .warnings
            .extend(self.warnings.iter().map(|(origin, warning)| WarningReport {
                feature: origin.to_owned(),
                object: warning.object.clone(),
                text: warning.text.clone(),
            }));
        report
    }
}

/// Health, metrics and the one line that says what was found at the start.
impl Reconcile {
    fn note_own_node(&mut self) {
        let own = self.snapshot.nodes.get(&self.config.node_name);
        self.shared.health.with(|health| health.set_node(own));
        let cidrs = own.map(|node| self.snapshot.pod_cidrs_of(node).collect::<Vec<_>>());
        if let Some(cidrs) = cidrs.filter(|cidrs| !cidrs.is_empty()) {
            self.snapshot.remember_pod_cidrs(&cidrs);
        }
    }

    /// Something that pods need is not done yet.
    fn note_queued(&self) {
        if self.slots.iter().any(Slot::is_behind) {
            let now = Moment::now();
            self.shared.health.with(|health| {
                IpFamily::ALL
                    .into_iter()
                    .for_each(|family| health.queued(family, now));
            });
        }
    }

    /// Everything that pods need is done.
    fn note_updated(&self) {
        if !self.slots.iter().any(Slot::is_behind) {
            let now = Moment::now();
            self.shared.health.with(|health| {
                IpFamily::ALL
                    .into_iter()
                    .for_each(|family| health.updated(family, now));
            });
        }
    }

    fn announce(&mut self) {
        self.announced = true;
        // The first sync is the largest.
        podwire_kernel::process::release_memory();
        let snapshot = &self.snapshot;
        tracing::info!(
            nodes = snapshot.nodes.len(),
            services = snapshot.services.len(),
            endpoint_slices = snapshot.slices.len(),
            writes = self.slots.iter().map(Slot::writes).sum::<u64>(),
            warnings = self.warnings.len(),
            failing = ?self.slots.iter().filter_map(Slot::failing).collect::<Vec<_>>(),
            "first sync"
        );
    }

    fn count(&self) {
        self.pending.count(&self.shared.metrics.proxy);
        for (origin, count) in self.warnings.counts() {
            self.shared.metrics.node.set_warnings(origin, count);
        }
        for slot in &self.slots {
            slot.count(&self.shared.metrics);
        }
    }
}

fn texts(values: &[impl ToString]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests;
