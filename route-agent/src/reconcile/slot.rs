//! One feature in the loop, with its retries.

use std::time::Instant;

use super::{Backoff, Event, Feature, Warn, World};
use crate::report::{FeatureReport, Report};
use crate::warnings::Warnings;

/// A feature and what the loop knows about it.
pub(super) struct Slot {
    feature: Box<dyn Feature>,
    /// When the next sync is due because something happened or failed.
    wanted: Option<Instant>,
    backoff: Backoff,
    succeeded: bool,
    error: Option<String>,
    syncs: u64,
    writes: u64,
}

impl Slot {
    pub(super) fn new(feature: Box<dyn Feature>) -> Self {
        Self {
            feature,
            wanted: None,
            backoff: Backoff::default(),
            succeeded: false,
            error: None,
            syncs: 0,
            writes: 0,
        }
    }

    /// Shows the feature an event. News end a pause between retries only if they are about
    /// objects or the uplink: the kernel's echo of a failing write must not.
    pub(super) fn heed(&mut self, event: &Event<'_>, world: &World<'_>, now: Instant) {
        if !self.feature.heed(event, world) {
            return;
        }
        let waiting = self.backoff.tries() > 0 && self.wanted.is_some();
        if !waiting || !matches!(event, Event::Kernel(_) | Event::Files) {
            self.wanted = Some(now);
        }
    }

    /// When the feature wants to be called.
    pub(super) fn due(&self) -> Option<Instant> {
        [self.wanted, self.feature.due()]
            .into_iter()
            .flatten()
            .min()
    }

    /// False while pods must wait for this feature.
    pub(super) fn ready_for_pods(&self) -> bool {
        self.succeeded || !self.feature.needed_by_pods()
    }

    pub(super) fn sync_if_due(&mut self, world: &World<'_>, warnings: &mut Warnings, now: Instant) {
        if self.due().is_none_or(|due| due > now) {
            return;
        }
        let name = self.feature.name();
        self.wanted = None;
        self.syncs += 1;
        match self.feature.sync(world, &mut Warn::new(name, warnings)) {
            Ok(done) => {
                self.writes += done.writes;
                self.succeeded = true;
                if self.error.take().is_some() {
                    tracing::info!(feature = name, "works again");
                }
                if done.again {
                    self.wanted = Some(now + self.backoff.pause());
                } else {
                    self.backoff.reset();
                }
            }
            Err(error) => {
                let text = chain(error.as_ref());
                if self.error.as_ref() != Some(&text) {
                    tracing::error!(feature = name, "{text}; trying again");
                }
                self.error = Some(text);
                self.wanted = Some(now + self.backoff.pause());
            }
        }
    }

    pub(super) fn report(&mut self, world: &World<'_>, report: &mut Report) {
        report.features.push(FeatureReport {
            name: self.feature.name().to_owned(),
            error: self.error.clone(),
            syncs: self.syncs,
            writes: self.writes,
        });
        self.feature.report(world, report);
    }
}

/// An error with all of its causes, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
