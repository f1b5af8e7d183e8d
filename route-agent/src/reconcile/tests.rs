use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use super::*;
use crate::config::test_config;
use crate::feature::{SyncError, Synced, Warn};
use crate::health::Health;
use crate::snapshot::{Change, Node, Object};

fn reconcile(features: Vec<Box<dyn Feature>>) -> Reconcile {
    let health = SharedHealth::new(Health::new(Duration::from_secs(60)));
    let shared = Shared {
        metrics: Arc::default(),
        health,
    };
    Reconcile::new(test_config(&["--node-name=worker"]), shared, None, features)
}

/// A feature that fails a number of times, counts its syncs and dirty nodes.
struct Fake {
    name: &'static str,
    failures: usize,
    syncs: Arc<AtomicUsize>,
    nodes: Arc<AtomicUsize>,
    needed: bool,
}

impl Fake {
    fn new(name: &'static str, failures: usize) -> (Self, Arc<AtomicUsize>, Arc<AtomicUsize>) {
        let (syncs, nodes) = (Arc::default(), Arc::default());
        let fake = Self {
            name,
            failures,
            syncs: Arc::clone(&syncs),
            nodes: Arc::clone(&nodes),
            needed: true,
        };
        (fake, syncs, nodes)
    }
}

impl Feature for Fake {
    fn name(&self) -> &'static str {
        self.name
    }

    fn heed(&mut self, event: &Event<'_>, _: &World<'_>) -> bool {
        if let Event::Objects(dirty) = event {
            self.nodes.fetch_add(dirty.nodes.len(), Ordering::SeqCst);
        }
        !matches!(event, Event::Ready)
    }

    fn sync(&mut self, _: &World<'_>, warn: &mut Warn<'_>) -> Result<Synced, SyncError> {
        let done = self.syncs.fetch_add(1, Ordering::SeqCst);
        warn.replace([Warning::new("it", format!("tried {done}"))]);
        if done < self.failures {
            return Err("the kernel said no".into());
        }
        Ok(Synced {
            writes: 1,
            again: false,
        })
    }

    fn needed_by_pods(&self) -> bool {
        self.needed
    }

    fn report(&mut self, _: &World<'_>, _: &mut Report) {}

    fn uninstall(&mut self, _: &Config) -> Result<Vec<String>, SyncError> {
        Ok(Vec::new())
    }
}

fn node(name: &str) -> Change {
    Change::Set(Object::Node(Node::named(name)))
}

#[test]
fn nothing_is_synced_before_everything_is_listed() {
    let (fake, syncs, _) = Fake::new("fake", 0);
    let mut it = reconcile(vec![Box::new(fake)]);
    it.take(Input::Changes(vec![node("a")]));
    it.turn(Instant::now());
    assert_eq!(syncs.load(Ordering::SeqCst), 0);
    it.take(Input::Listed);
    it.turn(Instant::now());
    assert_eq!(syncs.load(Ordering::SeqCst), 1);
    assert_eq!(it.pause(Instant::now()), None);
}

#[test]
fn many_changes_make_one_sync_and_no_change_makes_none() {
    let (fake, syncs, nodes) = Fake::new("fake", 0);
    let mut it = reconcile(vec![Box::new(fake)]);
    it.take(Input::Listed);
    it.turn(Instant::now());
    it.take(Input::Changes(vec![node("a"), node("b")]));
    it.take(Input::Changes(vec![node("c"), node("a")]));
    it.turn(Instant::now());
    assert_eq!(
        (syncs.load(Ordering::SeqCst), nodes.load(Ordering::SeqCst)),
        (2, 3)
    );
    it.take(Input::Changes(vec![node("c")]));
    it.turn(Instant::now());
    assert_eq!(syncs.load(Ordering::SeqCst), 2);
}

#[test]
fn a_failing_feature_is_tried_again_and_stops_no_other() {
    let (bad, bad_syncs, _) = Fake::new("bad", 2);
    let (good, good_syncs, _) = Fake::new("good", 0);
    let mut it = reconcile(vec![Box::new(bad), Box::new(good)]);
    it.take(Input::Listed);
    let mut now = Instant::now();
    it.turn(now);
    assert_eq!(good_syncs.load(Ordering::SeqCst), 1);
    assert!(!it.parts().0.ready_for_pods);
    let mut pauses = Vec::new();
    while let Some(pause) = it.pause(now) {
        pauses.push(pause);
        now += pause;
        it.turn(now);
    }
    assert_eq!(bad_syncs.load(Ordering::SeqCst), 3);
    assert_eq!(good_syncs.load(Ordering::SeqCst), 1);
    assert!(pauses.len() == 2 && pauses[1] > pauses[0], "{pauses:?}");
    assert!(it.parts().0.ready_for_pods);
}

#[test]
fn only_what_others_undid_counts_as_a_repair() {
    let (fake, ..) = Fake::new("fake", 0);
    let mut it = reconcile(vec![Box::new(fake)]);
    let repairs = |it: &Reconcile| {
        let text = it
            .shared
            .metrics
            .text(crate::metrics::TextFormat::OpenMetrics);
        text.lines()
            .filter(|line| line.starts_with("podwire_repairs_total{"))
            .map(|line| line.rsplit(' ').next().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    // A start: the files are announced before anything was written.
    it.take(Input::Listed);
    it.take(Input::Files);
    it.turn(Instant::now());
    it.take(Input::Changes(vec![node("a")]));
    it.turn(Instant::now());
    assert!(repairs(&it).iter().all(|count| count == "0"));
    it.take(Input::Files);
    it.turn(Instant::now());
    assert_eq!(repairs(&it), ["1"]);
}

#[test]
fn the_loop_answers_and_stops() {
    let (fake, _, _) = Fake::new("fake", 0);
    let it = reconcile(vec![Box::new(fake)]);
    let (sender, receiver) = mpsc::channel();
    let (reply, mut answer) = tokio::sync::oneshot::channel();
    sender.send(Input::Listed).unwrap();
    sender.send(Input::Report { wide: false, reply }).unwrap();
    sender.send(Input::Stop).unwrap();
    it.run(&receiver);
    assert_eq!(answer.try_recv().unwrap().features[0].name, "fake");
}
