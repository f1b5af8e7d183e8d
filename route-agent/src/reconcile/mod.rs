//! The reconcile loop: one thread that takes in everything that happens and calls the features.
//!
//! Each turn drains the channel, folds object changes into the snapshot, shows every feature what
//! happened and then syncs those that have something to do. A feature that fails is tried again
//! after a growing pause and never keeps another from its work. Nothing is synced before the
//! source has listed everything once.

mod feature;
mod slot;

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

pub use feature::{Backoff, Event, Feature, KernelEvent, SyncError, Synced, Uplink, Warn, World};
use slot::Slot;
pub(crate) use slot::chain;

use crate::config::Config;
use crate::report::Report;
use crate::snapshot::{Change, Dirty, Snapshot};
use crate::warnings::{Warning, Warnings};

/// At most this many inputs are taken in before the features are called.
const DRAIN: usize = 20_000;

/// What reaches the loop.
#[derive(Debug)]
pub enum Input {
    /// Cluster objects came, changed or went.
    Changes(Vec<Change>),
    /// The source has delivered everything that there is; from now on it sends differences.
    Listed,
    /// What is wrong with the source or with what it read, in full.
    SourceWarnings(Vec<Warning>),
    /// What is wrong with a part of the agent that is not a feature, in full.
    Warnings(&'static str, Vec<Warning>),
    /// A notification of the kernel.
    Kernel(KernelEvent),
    /// A file of ours, or beside ours, changed.
    Files,
    /// An operator wants to know.
    Report(tokio::sync::oneshot::Sender<Report>),
    /// Finish. Everything stays as it is.
    Stop,
}

/// The loop and all that it owns.
pub struct Reconcile {
    config: Config,
    snapshot: Snapshot,
    uplink: Option<Uplink>,
    warnings: Warnings,
    slots: Vec<Slot>,
    dirty: Dirty,
    /// When the last turn began.
    now: Instant,
    listed: bool,
    stopping: bool,
}

impl Reconcile {
    /// A loop that has heard nothing yet.
    pub fn new(config: Config, features: Vec<Box<dyn Feature>>) -> Self {
        Self {
            config,
            snapshot: Snapshot::default(),
            uplink: None,
            warnings: Warnings::default(),
            slots: features.into_iter().map(Slot::new).collect(),
            dirty: Dirty::default(),
            now: Instant::now(),
            listed: false,
            stopping: false,
        }
    }

    /// Runs until told to stop or until nobody can send any more.
    pub fn run(mut self, inputs: &Receiver<Input>) {
        while !self.stopping {
            match self.pause(Instant::now()).map_or_else(
                || inputs.recv().map_err(|_| RecvTimeoutError::Disconnected),
                |pause| inputs.recv_timeout(pause),
            ) {
                Ok(first) => {
                    self.take(first);
                    inputs
                        .try_iter()
                        .take(DRAIN)
                        .for_each(|input| self.take(input));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.turn(Instant::now());
        }
    }

    /// Takes in one thing that happened.
    fn take(&mut self, input: Input) {
        match input {
            Input::Changes(changes) => {
                for change in changes {
                    self.snapshot.apply(change, &mut self.dirty);
                }
            }
            Input::Listed => {
                self.listed = true;
                self.tell(&Event::Resync);
            }
            Input::SourceWarnings(now) => self.warnings.replace("source", now),
            Input::Warnings(origin, now) => self.warnings.replace(origin, now),
            Input::Kernel(event) => self.tell(&Event::Kernel(&event)),
            Input::Files => self.tell(&Event::Files),
            Input::Report(reply) => {
                let report = self.report();
                // The operator may have hung up meanwhile.
                let _ = reply.send(report);
            }
            Input::Stop => self.stopping = true,
        }
    }

    /// Calls the features that have something to do.
    fn turn(&mut self, now: Instant) {
        self.now = now;
        if self.stopping || !self.listed {
            return;
        }
        let dirty = std::mem::take(&mut self.dirty);
        if !dirty.is_empty() {
            self.tell(&Event::Objects(&dirty));
        }
        for place in 0..self.slots.len() {
            let ready_for_pods = self.ready_for_pods();
            let world = World {
                config: &self.config,
                snapshot: &self.snapshot,
                uplink: self.uplink.as_ref(),
                ready_for_pods,
            };
            self.slots[place].sync_if_due(&world, &mut self.warnings, now);
        }
    }

    /// Shows an event to every feature.
    fn tell(&mut self, event: &Event<'_>) {
        let ready_for_pods = self.ready_for_pods();
        let world = World {
            config: &self.config,
            snapshot: &self.snapshot,
            uplink: self.uplink.as_ref(),
            ready_for_pods,
        };
        for slot in &mut self.slots {
            slot.heed(event, &world, self.now);
        }
    }

    fn ready_for_pods(&self) -> bool {
        self.slots.iter().all(Slot::ready_for_pods)
    }

    /// How long the loop may sleep; `None` for ever.
    fn pause(&self, now: Instant) -> Option<Duration> {
        if !self.listed {
            return None;
        }
        let next = self.slots.iter().filter_map(Slot::due).min()?;
        Some(next.saturating_duration_since(now))
    }

    fn report(&mut self) -> Report {
        let mut report = Report::default();
        let ready_for_pods = self.ready_for_pods();
        let world = World {
            config: &self.config,
            snapshot: &self.snapshot,
            uplink: self.uplink.as_ref(),
            ready_for_pods,
        };
        for slot in &mut self.slots {
            slot.report(&world, &mut report);
        }
        report
            .warnings
            .extend(
                self.warnings
                    .iter()
                    .map(|(origin, warning)| crate::report::WarningReport {
                        feature: origin.to_owned(),
                        object: warning.object.clone(),
                        text: warning.text.clone(),
                    }),
            );
        report
    }
}

#[cfg(test)]
mod tests;
