//! One feature in the loop, with its retries.

use std::time::{Duration, Instant};

use crate::backoff::{Backoff, Jitter};
use crate::error::chain;
use crate::feature::{Event, Feature, KernelEvent, Warn, World};
use crate::metrics::Metrics;
use crate::reconcile::repairs::{Repairs, Told};
use crate::report::{FeatureReport, Report};
use crate::warnings::Warnings;

/// The pause after the first failure.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// No pause between two tries is longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The origin of warnings about repairs.
const REPAIRS: &str = "repairs";

/// What is said of another program that undoes every repair.
const QUARREL: &str = "another program keeps changing what this part keeps right, most likely a second \
                       podwire-agent with other settings on this node (`pgrep -a podwire-agent`): stop \
                       one of them. Until then repairs come late, some seconds apart";

/// A feature and what the loop knows about it.
pub(super) struct Slot {
    feature: Box<dyn Feature>,
    /// When the next sync is due because something happened or failed.
    wanted: Option<Instant>,
    /// Something was asked of the feature that no sync has carried out yet.
    owes: bool,
    /// The kernel or the files beside ours changed since the last sync.
    touched: bool,
    /// What is wanted may have changed since the last sync: what it writes is then not a repair.
    wanted_changed: bool,
    backoff: Backoff,
    repairs: Repairs,
    succeeded: bool,
    error: Option<String>,
    syncs: u64,
    failures: u64,
    writes: u64,
}

impl Slot {
    pub(super) fn new(feature: Box<dyn Feature>) -> Self {
        Self {
            feature,
            wanted: None,
            owes: false,
            touched: false,
            wanted_changed: false,
            backoff: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE, Jitter::None),
            repairs: Repairs::new(),
            succeeded: false,
            error: None,
            syncs: 0,
            failures: 0,
            writes: 0,
        }
    }

    /// Shows the feature an event. What other programs change does not end a pause between retries:
    /// the kernel's echo of a failing write must not. What they change again and again waits as
    /// well.
    pub(super) fn notice(&mut self, event: &Event<'_>, world: &World<'_>, now: Instant) {
        if !self.feature.notice(event, world) {
            // A feature that has nothing to do even at a resync is switched off.
            self.succeeded |= matches!(event, Event::Resync);
            return;
        }
        let touched = is_others_work(event);
        let waiting = self.backoff.tries() > 0 && self.wanted.is_some();
        if !touched {
            self.wanted = Some(now);
        } else if !waiting {
            let next = self.repairs.next(now);
            self.wanted = Some(self.wanted.map_or(next, |wanted| wanted.min(next)));
        }
        self.owes = true;
        self.touched |= touched;
        self.wanted_changed |= !touched;
    }

    /// When the feature wants to be called.
    pub(super) fn due(&self) -> Option<Instant> {
        [self.wanted, self.feature.due(), self.repairs.over()]
            .into_iter()
            .flatten()
            .min()
    }

    /// False while pods must wait for this feature.
    pub(super) fn ready_for_pods(&self) -> bool {
        self.succeeded || !self.feature.needed_by_pods()
    }

    /// True while something that pods need is not done. What a sync that succeeded tries again is
    /// about single objects, which have warnings of their own: a restart would not help them.
    pub(super) fn is_behind(&self) -> bool {
        self.feature.needed_by_pods() && (self.owes || self.error.is_some())
    }

    /// True while changes of Services wait for this feature.
    pub(super) fn owes_services(&self) -> bool {
        self.owes && self.feature.programs_services()
    }

    /// Syncs the feature if there is something to do; says whether there was.
    pub(super) fn sync_if_due(
        &mut self,
        world: &World<'_>,
        warnings: &mut Warnings,
        now: Instant,
    ) -> bool {
        let name = self.feature.name();
        if let Some(times) = self.repairs.end(now) {
            tracing::info!(
                feature = name,
                times,
                "put right what changed; it is quiet now"
            );
            warnings.replace_for(REPAIRS, &part(name), []);
        }
        if self.due().is_none_or(|due| due > now) {
            return false;
        }
        let wanted_changed = std::mem::take(&mut self.wanted_changed);
        let repair = std::mem::take(&mut self.touched) && !wanted_changed;
        self.wanted = None;
        self.syncs += 1;
        match self.feature.sync(world, &mut Warn::new(name, warnings)) {
            Ok(done) => {
                self.writes += done.writes;
                self.succeeded = true;
                self.owes = false;
                if repair && done.writes > 0 {
                    let told = self.repairs.made(now);
                    tell(name, done.writes, &told, warnings);
                    world.metrics.node.repaired(name);
                }
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
                self.failures += 1;
                self.wanted = Some(now + self.backoff.pause());
            }
        }
        true
    }

    /// How many writes the feature has made.
    pub(super) fn writes(&self) -> u64 {
        self.writes
    }

    /// The feature's name if its last sync failed.
    pub(super) fn failing(&self) -> Option<&'static str> {
        self.error.as_ref().map(|_| self.feature.name())
    }

    pub(super) fn count(&self, metrics: &Metrics) {
        metrics
            .node
            .set_feature(self.feature.name(), self.syncs, self.failures, self.writes);
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

/// True if what a feature writes because of an event puts right what another program changed. Links
/// come and go as pods do, and no feature keeps them: what follows from that is wanted.
fn is_others_work(event: &Event<'_>) -> bool {
    match event {
        Event::Kernel(event) => !matches!(event, KernelEvent::Link { .. }),
        event => matches!(event, Event::Files),
    }
}

/// How a person would name a feature.
fn part(feature: &str) -> String {
    format!("the agent's part {feature}")
}

/// Tells of a repair.
fn tell(feature: &'static str, writes: u64, told: &Told, warnings: &mut Warnings) {
    match told {
        Told::Single => tracing::info!(feature, writes, "put right what changed"),
        Told::Quarrel => warnings.replace_for(REPAIRS, &part(feature), [QUARREL.to_owned()]),
        Told::Nothing => {}
        Told::Sum(times) => tracing::info!(feature, times, "put right what changed"),
    }
}
