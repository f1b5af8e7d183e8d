//! What the live page knows, and what it tells its viewers.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use podwire_agent::flows::top::Top;
use podwire_agent::report::Report;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::queue::{News, Queue};
use super::rates::{Carried, Lately, grown, service_rates};
use super::told::{Dropped, Flow, Sample};
use super::view::{Kind, Said, View, Wrong};
use crate::fleet::Fleet;
use crate::status::few;

/// What a new viewer is told of the past.
const REMEMBERED: usize = 200;
/// Ten minutes.
const SAMPLES: usize = 300;
/// Between two samples.
pub const STEP: Duration = Duration::from_secs(2);

/// What is known and told, and to whom.
#[derive(Default)]
pub struct State {
    /// The open pages.
    pub viewers: BTreeMap<u64, Arc<Queue>>,
    /// The number of the last one.
    pub last: u64,
    /// What asks the agents.
    pub asking: Option<AbortHandle>,
    /// What the nodes said last.
    pub said: BTreeMap<String, Said>,
    /// The nodes, while they are asked.
    pub fleet: Option<Fleet>,
    /// The cluster as it was last told.
    pub view: View,
    /// The same as it is told; none before the agents were asked.
    pub told: Option<News>,
    flows: VecDeque<Flow>,
    drops: VecDeque<Dropped>,
    samples: VecDeque<Sample>,
    /// Why a node tells no flows or drops, by node and what.
    remarks: BTreeMap<(String, &'static str), String>,
    now: Counted,
    /// Connections of Services.
    lately: Lately,
    /// Bytes.
    carried: Carried,
    /// How fast Services go, as it was last told.
    rates: Option<News>,
}

/// What happened since the last sample, and how far the counters of the nodes were.
#[derive(Default)]
struct Counted {
    connections: u64,
    /// Drops and repairs by node, in all; repairs are not always told.
    before: BTreeMap<String, (u64, Option<u64>)>,
    drops: u64,
    repairs: u64,
}

impl State {
    /// What a new viewer is told.
    pub fn past(&self) -> Vec<News> {
        let mut past: Vec<News> = self.told.iter().cloned().collect();
        let flows: Vec<&Flow> = self.flows.iter().collect();
        let drops: Vec<&Dropped> = self.drops.iter().collect();
        let samples: Vec<&Sample> = self.samples.iter().collect();
        past.push(News::list("past-flows", &flows));
        past.push(News::list("past-drops", &drops));
        past.push(News::list("samples", &samples));
        past.push(self.remarks());
        past.extend(self.rates.clone());
        past
    }

    fn send(&self, news: &News) {
        for queue in self.viewers.values() {
            queue.push(news.clone());
        }
    }

    /// The cluster is like this now.
    pub fn show(&mut self, view: View) {
        let news = News::of("state", &view, 0);
        self.view = view;
        if self.told.as_ref().is_none_or(|told| told.data != news.data) {
            self.send(&news);
            self.told = Some(news);
        }
    }

    /// It is not known which nodes there are.
    pub fn no_nodes(&mut self, title: &str, text: String) {
        // Once it is known again, this is not how they are.
        self.said.clear();
        let wrong = Wrong {
            kind: Kind::Silent,
            node: String::new(),
            nodes: Vec::new(),
            object: String::new(),
            text,
        };
        self.show(View {
            title: title.to_owned(),
            wrong: vec![wrong],
            ..View::default()
        });
    }

    /// Connections began or ended.
    pub fn add_flows(&mut self, flows: Vec<Flow>) {
        for flow in &flows {
            match (flow.began, flow.bytes) {
                (true, _) => self.now.connections += 1,
                (false, Some(bytes)) => self.carried.end(flow.service.as_deref(), bytes),
                (false, None) => {}
            }
        }
        self.send(&News::list("flows", &flows));
        keep(&mut self.flows, flows, REMEMBERED);
    }

    /// Packets were refused or dropped.
    pub fn add_drops(&mut self, drops: Vec<Dropped>) {
        self.send(&News::list("drops", &drops));
        keep(&mut self.drops, drops, REMEMBERED);
    }

    /// Why a node tells no flows or drops; none if it does.
    pub fn remark(&mut self, node: &str, what: &'static str, why: Option<String>) {
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
        let line = |((what, why), nodes): ((&str, &str), Vec<&str>)| {
            format!("No {what} of {}: {why}", few(&nodes))
        };
        News::list("remarks", &lines.into_iter().map(line).collect::<Vec<_>>())
    }

    /// What a node reports now, beside what it reported before. If it was not counted just before,
    /// counting begins: else what happened in an hour would have happened in the last seconds.
    pub fn counted(
        &mut self,
        node: &str,
        before: Option<&Report>,
        now: &Report,
        repairs: Option<u64>,
    ) {
        let before = before.filter(|_| self.now.before.contains_key(node));
        let before = before.unwrap_or(now);
        self.now.add(node, now, repairs);
        let (before, services) = (&before.services, &now.services);
        self.lately.add(before, services, Instant::now());
    }

    /// A node does not say what it counted.
    pub fn not_counted(&mut self, node: &str) {
        self.now.before.remove(node);
    }

    /// What nodes say of the connections that there are.
    pub fn carry(&mut self, said: BTreeMap<String, Top>) {
        self.carried.look(said, Instant::now());
    }

    /// How fast Services go, if that is news.
    pub fn tell_rates(&mut self) {
        let rates = service_rates(&self.lately, &self.carried, Instant::now());
        let news = News::of("rates", &rates, 0);
        if self
            .rates
            .as_ref()
            .is_none_or(|told| told.data != news.data)
        {
            self.send(&news);
            self.rates = Some(news);
        }
    }

    /// No one looks any more. Who looks later is not told of the cluster as it is now, and what happens
    /// until then is not measured. The relays go with the fleet.
    pub fn forget(&mut self) {
        self.fleet = None;
        self.said.clear();
        self.view = View::default();
        self.told = None;
        self.rates = None;
        self.remarks.clear();
    }

    /// These nodes are asked from now on. What happened before belongs to no sample and no rate, and
    /// what other nodes said is of no more use.
    pub fn begin(&mut self, fleet: Fleet) {
        self.said.retain(|node, _| fleet.node(node).is_some());
        let before = self.remarks.len();
        self.remarks
            .retain(|(node, _), _| fleet.node(node).is_some());
        if self.remarks.len() < before {
            self.send(&self.remarks());
        }
        self.fleet = Some(fleet);
        self.now = Counted::default();
        self.lately = Lately::default();
        self.carried = Carried::default();
    }

    /// One more sample.
    pub fn sample(&mut self, at: u64) {
        let sample = Sample {
            bytes: self.carried.rate(),
            ..self.now.take(at)
        };
        self.send(&News::list("samples", &[sample]));
        keep(&mut self.samples, vec![sample], SAMPLES);
    }
}

fn keep<T>(kept: &mut VecDeque<T>, more: Vec<T>, most: usize) {
    kept.extend(more);
    let over = kept.len().saturating_sub(most);
    kept.drain(..over);
}

impl Counted {
    /// What a node has counted. One that was started again counts from the beginning.
    fn add(&mut self, node: &str, report: &Report, repairs: Option<u64>) {
        let denied = report.policies.as_ref().map(|all| &all.denied);
        let denied = denied.map_or(0, |one| one.ingress + one.egress + one.undecided);
        let drops = report.refused.values().sum::<u64>() + denied;
        let before = self.before.get(node).copied();
        let (drops_before, repairs_before) = before.unwrap_or((drops, repairs));
        self.drops += grown(drops_before, drops);
        if let (Some(before), Some(now)) = (repairs_before, repairs) {
            self.repairs += grown(before, now);
        }
        let known = (drops, repairs.or(repairs_before));
        self.before.insert(node.to_owned(), known);
    }

    fn take(&mut self, at: u64) -> Sample {
        let rate = |count: u64| count as f64 / STEP.as_secs_f64();
        Sample {
            at,
            connections: rate(std::mem::take(&mut self.connections)),
            bytes: None,
            drops: rate(std::mem::take(&mut self.drops)),
            repairs: rate(std::mem::take(&mut self.repairs)),
        }
    }
}

#[cfg(test)]
mod tests {
    use podwire_agent::report::{ServicePortReport, ServiceReport};

    use super::*;
    use crate::reach::fake::Fake;

    /// So many connections of a Service and drops, in all.
    fn report(count: u64) -> Report {
        let port = ServicePortReport {
            connections: Some(count),
            ..ServicePortReport::default()
        };
        let service = ServiceReport {
            name: "default/web".into(),
            ports: vec![port],
        };
        Report {
            services: vec![service],
            refused: BTreeMap::from([("policy".to_owned(), count)]),
            ..Report::default()
        }
    }

    #[tokio::test]
    async fn what_a_node_said_goes_with_the_node() {
        let mut state = State::default();
        for node in ["a", "b"] {
            state.said.insert(node.into(), Ok(report(1)));
            state.remark(node, "flows", Some("off".into()));
        }
        let queue = Arc::new(Queue::default());
        state.viewers.insert(1, Arc::clone(&queue));
        let fleet = Fleet::assemble(Arc::new(Fake::of(&["b", "c"]))).await;
        state.begin(fleet.unwrap());
        assert_eq!(state.said.keys().collect::<Vec<_>>(), ["b"]);
        let told = queue.next().await;
        let lines = r#"["No flows of b: off"]"#;
        assert_eq!((told.kind, &*told.data), ("remarks", lines));
        assert_eq!(&*state.remarks().data, lines);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_comes_back_begins_to_count_and_only_then_has_rates() {
        let mut state = State::default();
        // What was said before anyone counted.
        state.counted("a", Some(&report(1)), &report(10), Some(0));
        state.not_counted("a");
        state.counted("a", Some(&report(10)), &report(5000), Some(70));
        state.tell_rates();
        assert_eq!(&*state.rates.clone().unwrap().data, "[]");
        let sample = state.now.take(1);
        assert_eq!((sample.drops, sample.repairs), (0.0, 0.0));
        state.counted("a", Some(&report(5000)), &report(5004), Some(72));
        state.tell_rates();
        let rates = state.rates.clone().unwrap().data;
        assert!(rates.contains(r#""connections":4.0"#), "{rates}");
        let sample = state.now.take(3);
        assert_eq!((sample.drops, sample.repairs), (2.0, 1.0));
    }

    #[test]
    fn an_agent_that_counts_from_the_beginning_again_is_no_flood() {
        let report = |drops| Report {
            refused: BTreeMap::from([("policy".to_owned(), drops)]),
            ..Report::default()
        };
        let mut counted = Counted::default();
        counted.add("a", &report(1000), Some(5));
        assert_eq!(counted.take(1).drops, 0.0, "what was before is no news");
        counted.add("a", &report(1006), None);
        assert_eq!(counted.take(3).drops, 3.0, "a second");
        counted.add("a", &report(2), Some(9));
        let sample = counted.take(5);
        assert_eq!(sample.drops, 1.0);
        assert_eq!(sample.repairs, 2.0, "one that was not told was not none");
    }
}
