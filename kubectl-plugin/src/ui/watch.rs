//! What is asked of the agents while someone looks, and who is told.
//!
//! With the first viewer the agents are asked, over one relay a node; when the last one has gone, the
//! questions end and the relays with them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use podwire_agent::cluster::{Cluster, Policy};
use podwire_agent::flows::top::{Sum, Top};
use podwire_agent::report::Report;
use podwire_agent::{drops, flows};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};

use super::queue::{News, Queue, lock};
use super::rates::Rates;
use super::told::{Dropped, Flow, Sample, counter};
use super::view::{Kind, Said, Silent, View, Wrong, view};
use super::way::destination;
use crate::fleet::Fleet;
use crate::reach::{Reach, ReachError};
use crate::top::joined;
use crate::why::{Walk, walk};

/// Pages that are open at a time.
const VIEWERS: usize = 16;
/// What a new viewer is told of the past.
const REMEMBERED: usize = 200;
/// Ten minutes.
const SAMPLES: usize = 300;
/// Between two samples, and between two looks at the state at least.
const STEP: Duration = Duration::from_secs(2);
/// A look at the state may take this share of the time: a large cluster is looked at less often.
const SHARE: u32 = 5;
/// Between two sums of the connections that there are: each agent goes through all of its node.
const WEIGHED: Duration = Duration::from_secs(4);
/// Between two looks at the rules of policies, if no policy came or went: one agent tells the cluster.
const RULES: Duration = Duration::from_secs(10);
/// Between two looks at which nodes there are, and after a question that could not be answered.
const AGAIN: Duration = Duration::from_secs(20);
/// After a node did not answer.
const RETRY: Duration = Duration::from_secs(3);

/// The cluster as it is watched. Clones share it.
#[derive(Clone)]
pub struct Watch(Arc<Shared>);

struct Shared {
    reach: Arc<dyn Reach>,
    title: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    viewers: BTreeMap<u64, Arc<Queue>>,
    last: u64,
    /// What asks the agents.
    asking: Option<AbortHandle>,
    fleet: Option<Fleet>,
    view: View,
    /// The same as it is told; none before the agents were asked.
    told: Option<News>,
    flows: VecDeque<Flow>,
    drops: VecDeque<Dropped>,
    samples: VecDeque<Sample>,
    /// Why a node tells no flows or drops, by node and what.
    remarks: BTreeMap<(String, &'static str), String>,
    now: Counted,
    /// The connections that there are, by the port of a Service.
    open: BTreeMap<String, Sum>,
    /// What policies say.
    policies: Vec<Policy>,
}

/// What happened since the last sample, and how far the counters of the nodes were.
#[derive(Default)]
struct Counted {
    connections: u64,
    bytes: Option<u64>,
    /// What connections that have ended carried, since the first sample.
    ended: u64,
    /// What all have carried, as it was last known.
    carried: Option<u64>,
    /// Drops and repairs by node, in all.
    before: BTreeMap<String, [u64; 2]>,
    more: [u64; 2],
}

/// One open page. When it goes, nothing more is kept for it.
pub struct Viewer {
    watch: Watch,
    number: u64,
    queue: Arc<Queue>,
}

impl Viewer {
    /// The next message.
    pub async fn next(&mut self) -> News {
        self.queue.next().await
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        let mut state = lock(&self.watch.0.state);
        state.viewers.remove(&self.number);
        if state.viewers.is_empty() {
            // The relays go with the fleet.
            state.fleet = None;
            if let Some(asking) = state.asking.take() {
                asking.abort();
            }
        }
    }
}

impl Watch {
    /// Nothing is asked yet.
    pub fn new(reach: Arc<dyn Reach>, title: String) -> Self {
        Self(Arc::new(Shared {
            reach,
            title,
            state: Mutex::default(),
        }))
    }

    /// One more viewer; none if there are too many. It is told what is known.
    pub fn view(&self) -> Option<Viewer> {
        let mut state = lock(&self.0.state);
        if state.viewers.len() >= VIEWERS {
            return None;
        }
        state.last += 1;
        let (number, queue) = (state.last, Arc::new(Queue::default()));
        for news in state.past() {
            queue.push(news);
        }
        state.viewers.insert(number, Arc::clone(&queue));
        if state.asking.is_none() {
            let asking = tokio::spawn(self.clone().ask());
            state.asking = Some(asking.abort_handle());
        }
        Some(Viewer {
            watch: self.clone(),
            number,
            queue,
        })
    }

    /// The cluster as it was last told, as JSON.
    pub fn state(&self) -> Arc<str> {
        let state = lock(&self.0.state);
        match &state.told {
            Some(news) => Arc::clone(&news.data),
            None => "null".into(),
        }
    }

    /// The way of a packet over all nodes, or why there is no answer.
    pub async fn why(&self, from: &str, to: &str) -> Result<Walk, String> {
        let (fleet, to) = {
            let state = lock(&self.0.state);
            (state.fleet.clone(), destination(&state.view, to))
        };
        let fleet = fleet.ok_or("the agents are not asked yet: open the page first")?;
        let found = walk(&fleet, from, &to).await;
        found.map_err(|error| error.to_string())
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut lock(&self.0.state))
    }

    /// Asks until this is aborted.
    async fn ask(self) {
        loop {
            let fleet = match Fleet::assemble(Arc::clone(&self.0.reach)).await {
                Ok(fleet) => fleet,
                Err(error) => {
                    self.with(|state| state.no_nodes(&self.0.title, error.to_string()));
                    sleep(RETRY).await;
                    continue;
                }
            };
            self.with(|state| state.fleet = Some(fleet.clone()));
            let mut open = JoinSet::new();
            for node in fleet.nodes() {
                open.spawn(self.clone().flows(fleet.clone(), node.name.clone()));
                open.spawn(self.clone().drops(fleet.clone(), node.name.clone()));
            }
            open.spawn(self.clone().look(fleet.clone()));
            open.spawn(self.clone().weigh(fleet.clone()));
            open.spawn(self.clone().sample());
            // Ends with what was spawned when the nodes are others.
            self.until_nodes_change(&fleet).await;
        }
    }

    async fn until_nodes_change(&self, fleet: &Fleet) {
        let names = |fleet: &Fleet| fleet.nodes().cloned().collect::<Vec<_>>();
        loop {
            sleep(AGAIN).await;
            let now = Fleet::assemble(Arc::clone(&self.0.reach)).await;
            if now.is_ok_and(|now| names(&now) != names(fleet)) {
                return;
            }
        }
    }

    /// Looks at the state of all nodes over and over.
    async fn look(self, fleet: Fleet) {
        let mut kept: BTreeMap<String, Said> = BTreeMap::new();
        let mut rates = Rates::default();
        let mut read: Option<Instant> = None;
        loop {
            let began = Instant::now();
            let mut open = JoinSet::new();
            for node in fleet.nodes() {
                let (fleet, name) = (fleet.clone(), node.name.clone());
                open.spawn(async move {
                    let said = fleet.get(&name, "/status?wide=1").await;
                    let repairs = match fleet.ask(&name, "/metrics").await {
                        Ok(reply) => counter(&reply.body, "podwire_repairs_total"),
                        Err(_) => 0,
                    };
                    (name, said, repairs)
                });
            }
            // The first picture does not wait for a node that does not answer.
            while let Ok(Some(ended)) = timeout(STEP, open.join_next()).await {
                if let Ok((name, said, repairs)) = ended {
                    self.hear(&mut kept, name, said, repairs);
                }
            }
            self.tell(&fleet, &kept, &mut rates, false);
            while let Some(ended) = open.join_next().await {
                if let Ok((name, said, repairs)) = ended {
                    self.hear(&mut kept, name, said, repairs);
                }
            }
            if read.is_none_or(|at| at.elapsed() >= RULES) || self.is_new_policy(&kept) {
                self.read_policies(&fleet, &kept).await;
                read = Some(Instant::now());
            }
            self.tell(&fleet, &kept, &mut rates, true);
            sleep(STEP.max(began.elapsed() * SHARE)).await;
        }
    }

    /// What a node answered; one that is silent keeps what it said last.
    fn hear(
        &self,
        kept: &mut BTreeMap<String, Said>,
        node: String,
        said: Result<Report, ReachError>,
        repairs: u64,
    ) {
        if let Ok(report) = &said {
            self.with(|state| state.now.add(&node, report, repairs));
        }
        let before = kept.remove(&node);
        let said = said.map_err(|error| Silent {
            why: reason(error),
            last: match before {
                Some(Ok(report)) => Some(Box::new(report)),
                Some(Err(silent)) => silent.last,
                None => None,
            },
        });
        kept.insert(node, said);
    }

    /// Tells what the nodes said. If they were all asked `again`, counts that have grown since give rates.
    fn tell(&self, fleet: &Fleet, kept: &BTreeMap<String, Said>, rates: &mut Rates, again: bool) {
        let waited = || {
            Err(Silent {
                why: "it has not answered yet".into(),
                last: None,
            })
        };
        let said = fleet.nodes().map(|node| {
            let said = kept.get(&node.name).cloned().unwrap_or_else(waited);
            (node.name.clone(), said)
        });
        let mut view = view(&self.0.title, &said.collect());
        if again {
            rates.count(&view, Instant::now());
        }
        rates.fill(&mut view);
        self.with(|state| {
            view.take_in(&state.policies, &state.open);
            state.show(view);
        });
    }

    /// True if a node named a policy that was not read yet.
    fn is_new_policy(&self, kept: &BTreeMap<String, Said>) -> bool {
        let reports = kept.values().filter_map(|said| said.as_ref().ok());
        let isolated = reports.flat_map(|report| &report.policies);
        let mut named = isolated.flat_map(|all| &all.isolated).flat_map(|pod| {
            let both = pod.ingress.iter().chain(&pod.egress);
            both.map(String::as_str)
        });
        self.with(|state| {
            let known: Vec<String> = state.policies.iter().map(Policy::id).collect();
            named.any(|name| !known.iter().any(|id| id == name))
        })
    }

    /// All agents know the same policies: the first that answers is asked.
    async fn read_policies(&self, fleet: &Fleet, kept: &BTreeMap<String, Said>) {
        let mut answering = kept.iter().filter(|(_, said)| said.is_ok());
        if let Some((node, _)) = answering.next()
            && let Ok(cluster) = fleet.get::<Cluster>(node, "/cluster").await
        {
            self.with(|state| state.policies = cluster.policies);
        }
    }

    /// Sums up the connections of all nodes over and over.
    async fn weigh(self, fleet: Fleet) {
        loop {
            let began = Instant::now();
            let answers = fleet.get_all::<Top>("/top").await;
            let sums: Vec<Top> = answers.into_values().filter_map(Result::ok).collect();
            let all = joined(&sums);
            self.with(|state| state.weigh(&all));
            sleep(WEIGHED.max(began.elapsed() * SHARE)).await;
        }
    }

    /// Follows the connections of a node.
    async fn flows(self, fleet: Fleet, node: String) {
        let mut place = Place::default();
        loop {
            let page: flows::Page = match fleet.get(&node, &place.target("/flows")).await {
                Ok(page) => page,
                Err(error) => {
                    self.remark(&node, "flows", Some(reason(error)));
                    sleep(RETRY).await;
                    place = Place::default();
                    continue;
                }
            };
            self.remark(&node, "flows", page.trouble);
            if !place.is_news(page.newest, page.flows.is_empty()) {
                continue;
            }
            // Both ends' nodes notice a connection: the one tells it on which it was opened.
            let elsewhere = |one: &flows::Flow| {
                let opened = one.source.node.as_ref().map(|name| &*name.0);
                let opened = opened.filter(|name| *name != node);
                opened.is_some_and(|name| fleet.node(name).is_some())
            };
            let told = page.flows.iter().filter(|one| !elsewhere(one));
            let flows: Vec<Flow> = told.map(|one| Flow::of(one, &node)).collect();
            if !flows.is_empty() {
                self.with(|state| state.add_flows(flows));
            }
        }
    }

    /// Follows what a node drops.
    async fn drops(self, fleet: Fleet, node: String) {
        let mut place = Place::default();
        loop {
            let page: drops::Page = match fleet.get(&node, &place.target("/drops")).await {
                Ok(page) => page,
                Err(error) => {
                    self.remark(&node, "drops", Some(reason(error)));
                    sleep(RETRY).await;
                    place = Place::default();
                    continue;
                }
            };
            self.remark(&node, "drops", page.idle);
            if !place.is_news(page.newest, page.drops.is_empty()) {
                continue;
            }
            let told = page.drops.into_iter();
            let drops: Vec<Dropped> = told.map(|one| Dropped::of(one, &node)).collect();
            if !drops.is_empty() {
                self.with(|state| state.add_drops(drops));
            }
        }
    }

    fn remark(&self, node: &str, what: &'static str, why: Option<String>) {
        self.with(|state| state.remark(node, what, why));
    }

    async fn sample(self) {
        let mut every = tokio::time::interval(STEP);
        every.tick().await;
        self.with(|state| state.now.restart());
        loop {
            every.tick().await;
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            let at = now.map_or(0, |since| since.as_secs());
            self.with(|state| state.sample(at));
        }
    }
}

/// How far something that a node tells was read.
#[derive(Default)]
struct Place {
    after: u64,
    /// What was before this has been passed over.
    follows: bool,
}

impl Place {
    fn target(&self, page: &str) -> String {
        let Self { after, follows } = self;
        let follow = if *follows { "&follow=1" } else { "" };
        format!("{page}?after={after}{follow}")
    }

    /// Whether what comes up to this number happened since it is followed.
    fn is_news(&mut self, newest: u64, empty: bool) -> bool {
        self.after = newest;
        let news = self.follows;
        self.follows |= empty;
        news
    }
}

impl State {
    fn past(&self) -> Vec<News> {
        let mut past: Vec<News> = self.told.iter().cloned().collect();
        let flows: Vec<&Flow> = self.flows.iter().collect();
        let drops: Vec<&Dropped> = self.drops.iter().collect();
        let samples: Vec<&Sample> = self.samples.iter().collect();
        past.push(News::list("past-flows", &flows));
        past.push(News::list("past-drops", &drops));
        past.push(News::list("samples", &samples));
        past.push(self.remarks());
        past
    }

    fn send(&self, news: &News) {
        for queue in self.viewers.values() {
            queue.push(news.clone());
        }
    }

    fn show(&mut self, view: View) {
        let news = News::of("state", &view, 0);
        self.view = view;
        if self.told.as_ref().is_none_or(|told| told.data != news.data) {
            self.send(&news);
            self.told = Some(news);
        }
    }

    fn no_nodes(&mut self, title: &str, text: String) {
        let wrong = Wrong {
            kind: Kind::Silent,
            node: String::new(),
            object: String::new(),
            text,
        };
        self.show(View {
            title: title.to_owned(),
            wrong: vec![wrong],
            ..View::default()
        });
    }

    fn add_flows(&mut self, flows: Vec<Flow>) {
        for flow in &flows {
            match (flow.began, flow.bytes) {
                (true, _) => self.now.connections += 1,
                (false, Some(bytes)) => self.now.ended += bytes,
                (false, None) => {}
            }
        }
        self.send(&News::list("flows", &flows));
        keep(&mut self.flows, flows, REMEMBERED);
    }

    fn weigh(&mut self, all: &Top) {
        let services = all.services.iter();
        self.open = services.map(|line| (line.name.clone(), line.sum)).collect();
        if all.counted {
            // A connection between two nodes is in one line of these.
            let lines = all.nodes.iter();
            self.now
                .weigh(lines.map(|line| line.sum.sent + line.sum.received).sum());
        }
    }

    fn add_drops(&mut self, drops: Vec<Dropped>) {
        self.send(&News::list("drops", &drops));
        keep(&mut self.drops, drops, REMEMBERED);
    }

    fn remark(&mut self, node: &str, what: &'static str, why: Option<String>) {
        let key = (node.to_owned(), what);
        let before = match &why {
            Some(text) => self.remarks.insert(key, text.clone()),
            None => self.remarks.remove(&key),
        };
        if before != why {
            self.send(&self.remarks());
        }
    }

    /// One line for all nodes that say the same.
    fn remarks(&self) -> News {
        let mut lines: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
        for ((node, what), why) in &self.remarks {
            lines.entry((what, why)).or_default().push(node);
        }
        let line = |((what, why), nodes): ((&str, &str), Vec<&str>)| match nodes[..] {
            [node] => format!("No {what} of {node}: {why}"),
            _ => format!("No {what} of {} nodes: {why}", nodes.len()),
        };
        News::list("remarks", &lines.into_iter().map(line).collect::<Vec<_>>())
    }

    fn sample(&mut self, at: u64) {
        let sample = self.now.take(at);
        self.send(&News::list("samples", &[sample]));
        keep(&mut self.samples, vec![sample], SAMPLES);
    }
}

/// Without the name of the node.
fn reason(error: ReachError) -> String {
    match error {
        ReachError::Refused { text, .. } => format!("its agent says: {text}"),
        error => error.to_string(),
    }
}

fn keep<T>(kept: &mut VecDeque<T>, more: Vec<T>, most: usize) {
    kept.extend(more);
    let over = kept.len().saturating_sub(most);
    kept.drain(..over);
}

impl Counted {
    /// What a node has counted. One that was started again counts from the beginning.
    fn add(&mut self, node: &str, report: &Report, repairs: u64) {
        let denied = report.policies.as_ref().map(|all| &all.denied);
        let denied = denied.map_or(0, |one| one.ingress + one.egress + one.undecided);
        let now = [report.refused.values().sum::<u64>() + denied, repairs];
        let before = self.before.insert(node.to_owned(), now).unwrap_or(now);
        for (more, (now, before)) in self.more.iter_mut().zip(now.into_iter().zip(before)) {
            *more += if now >= before { now - before } else { now };
        }
    }

    /// What the connections that there are have carried. With those that have ended it only grows.
    fn weigh(&mut self, open: u64) {
        let now = open + self.ended;
        let before = self.carried.replace(now).unwrap_or(now);
        *self.bytes.get_or_insert(0) += now.saturating_sub(before);
    }

    /// No one looked meanwhile: what happened then belongs to no sample.
    fn restart(&mut self) {
        *self = Self::default();
    }

    fn take(&mut self, at: u64) -> Sample {
        let rate = |count: u64| count as f64 / STEP.as_secs_f64();
        let [drops, repairs] = std::mem::take(&mut self.more);
        let bytes = self.bytes.as_mut().map(std::mem::take);
        Sample {
            at,
            connections: rate(std::mem::take(&mut self.connections)),
            bytes: bytes.map(rate),
            drops: rate(drops),
            repairs: rate(repairs),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reach::fake::Fake;

    #[tokio::test(start_paused = true)]
    async fn agents_are_asked_while_someone_looks_and_not_otherwise() {
        let fake = Arc::new(Fake::of(&["a", "b"]).tells("a", "/status?wide=1", &Report::default()));
        let watch = Watch::new(fake.clone(), "test".into());
        sleep(AGAIN).await;
        assert_eq!(fake.made(), 0);
        assert!(watch.why("a", "b").await.is_err());
        let mut viewer = watch.view().unwrap();
        let state = loop {
            let news = viewer.next().await;
            if news.kind == "state" {
                break news.data;
            }
        };
        assert!(state.contains("there is no /status"), "{state}");
        assert_eq!(fake.made(), 2, "one way a node");
        drop(viewer);
        assert!(lock(&watch.0.state).fleet.is_none());
        sleep(AGAIN * 2).await;
        assert_eq!(fake.made(), 2);
        assert_eq!(Arc::strong_count(&watch.0), 1, "nothing goes on");
    }

    #[test]
    fn what_connections_carry_is_counted_while_they_last_and_once() {
        let mut counted = Counted::default();
        assert_eq!(counted.take(1).bytes, None, "no node counts");
        counted.weigh(5000);
        assert_eq!(
            counted.take(3).bytes,
            Some(0.0),
            "what was before is no news"
        );
        counted.weigh(7000);
        assert_eq!(counted.take(5).bytes, Some(1000.0), "a second");
        // One has ended with 3,000 bytes, 500 of which came since.
        counted.ended += 3000;
        counted.weigh(4500);
        assert_eq!(counted.take(7).bytes, Some(250.0));
        counted.weigh(100);
        assert_eq!(counted.take(9).bytes, Some(0.0), "an end that was not told");
    }

    #[test]
    fn an_agent_that_counts_from_the_beginning_again_is_no_flood() {
        let report = |drops| Report {
            refused: BTreeMap::from([("policy".to_owned(), drops)]),
            ..Report::default()
        };
        let mut counted = Counted::default();
        counted.add("a", &report(1000), 0);
        assert_eq!(counted.take(1).drops, 0.0, "what was before is no news");
        counted.add("a", &report(1006), 0);
        assert_eq!(counted.take(3).drops, 3.0, "a second");
        counted.add("a", &report(2), 0);
        assert_eq!(counted.take(5).drops, 1.0);
    }
}
