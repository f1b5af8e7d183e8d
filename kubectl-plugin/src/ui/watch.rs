//! What is asked of the agents while someone looks, and who is told.
//!
//! With the first viewer the agents are asked, over one relay a node; when the last one has gone, the
//! questions end and the relays with them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use podwire_agent::features::policies::desired::reach::{Peer, Reach as Peers};
use podwire_agent::flows::top::Top;
use podwire_agent::report::Report;
use podwire_agent::{drops, flows};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::queue::{News, Queue, lock};
use super::state::{STEP, State};
use super::told::{Dropped, Flow, counter};
use super::view::{Said, Silent, View, view, wrong};
use super::way::destination;
use crate::fleet::Fleet;
use crate::reach::{Reach, ReachError};
use crate::why::{Walk, walk};

/// Pages that are open at a time.
const VIEWERS: usize = 16;
/// What is done over and over may take this share of the time: a large cluster is looked at less often.
const SHARE: u32 = 5;
/// But it is looked at.
const RARELY: Duration = Duration::from_secs(20);
/// Between two looks at which nodes there are, and after a question that could not be answered.
const AGAIN: Duration = Duration::from_secs(20);
/// How long the first picture waits for nodes that do not answer.
const FIRST: Duration = Duration::from_secs(1);
/// How often is looked whether all have answered.
const SOON: Duration = Duration::from_millis(20);
/// Between two looks at the connections of all nodes at least.
const TOP: Duration = Duration::from_secs(5);
/// So long a page that was fetched may take until it listens.
const LOADING: Duration = Duration::from_secs(5);
/// After a node did not answer.
const RETRY: Duration = Duration::from_secs(3);

/// Why there is no answer to a question.
const NOT_ASKED: &str = "the agents are not asked yet: open the page first";

/// The cluster as it is watched. Clones share it.
#[derive(Clone)]
pub struct Watch(Arc<Shared>);

struct Shared {
    reach: Arc<dyn Reach>,
    title: String,
    state: Mutex<State>,
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
            state.forget();
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
        if state.asking.is_none() {
            // What was asked may have been answered while that was ended.
            state.forget();
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
        let fleet = fleet.ok_or(NOT_ASKED)?;
        let found = walk(&fleet, from, &to).await;
        found.map_err(|error| error.to_string())
    }

    /// Who may reach a pod and whom it may reach by the policies, as the agent of its node says.
    pub async fn reach(&self, pod: &str) -> Result<Peers, String> {
        let (fleet, place) = self.with(|state| {
            let mut pods = state.view.nodes.iter().flat_map(|node| {
                let pods = node.pods.iter();
                pods.map(|one| (node.name.clone(), one))
            });
            let place = pods.find(|(_, one)| one.id == pod);
            let place = place.map(|(node, one)| (node, one.full_name()));
            (state.fleet.clone(), place)
        });
        let fleet = fleet.ok_or(NOT_ASKED)?;
        let (node, name) = place.ok_or_else(|| format!("no node has a pod {pod}"))?;
        let found = fleet.get(&node, &peers_of(&name)).await;
        let found = found.map_err(|error| error.to_string())?;
        Ok(self.with(|state| by_id(&state.view, found)))
    }

    /// Asks the agents while a page is on its way to its reader, so that it need not wait for them.
    pub fn expect(&self) {
        if let Some(viewer) = self.view() {
            tokio::spawn(async {
                sleep(LOADING).await;
                drop(viewer);
            });
        }
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
            self.with(|state| {
                state.begin(fleet.clone());
            });
            let mut open = JoinSet::new();
            for node in fleet.nodes() {
                open.spawn(self.clone().flows(fleet.clone(), node.name.clone()));
                open.spawn(self.clone().drops(fleet.clone(), node.name.clone()));
            }
            for node in fleet.nodes() {
                open.spawn(self.clone().hear(fleet.clone(), node.name.clone()));
            }
            open.spawn(self.clone().look(fleet.clone()));
            open.spawn(self.clone().top(fleet.clone()));
            open.spawn(self.clone().sample());
            // Ends with what was spawned when the nodes are others.
            self.until_nodes_change(&fleet).await;
        }
    }

    async fn until_nodes_change(&self, fleet: &Fleet) {
        let nodes = |fleet: &Fleet| {
            let nodes = fleet.nodes().cloned().collect::<Vec<_>>();
            (nodes, fleet.remarks().to_vec())
        };
        loop {
            sleep(AGAIN).await;
            let now = Fleet::assemble(Arc::clone(&self.0.reach)).await;
            if now.is_ok_and(|now| nodes(&now) != nodes(fleet)) {
                return;
            }
        }
    }

    /// Asks the agent of one node for its state over and over. Who does not answer holds up no other.
    async fn hear(self, fleet: Fleet, node: String) {
        loop {
            let began = Instant::now();
            let (said, metrics) = tokio::join!(
                fleet.get(&node, "/status?wide=1"),
                fleet.ask(&node, "/metrics")
            );
            let repairs = metrics.ok().filter(|reply| reply.status == 200);
            let repairs = repairs.map(|reply| counter(&reply.body, "podwire_repairs_total"));
            let pause = match said.is_ok() {
                true => pause(STEP, began.elapsed()),
                false => RETRY,
            };
            self.heard(&node, said, repairs);
            sleep(pause).await;
        }
    }

    /// What a node answered; one that is silent keeps what it said last.
    fn heard(&self, node: &str, said: Result<Report, ReachError>, repairs: Option<u64>) {
        self.with(|state| {
            let before = match state.said.remove(node) {
                Some(Ok(report)) => Some(Box::new(report)),
                Some(Err(silent)) => silent.last,
                None => None,
            };
            match &said {
                Ok(report) => state.counted(node, before.as_deref(), report, repairs),
                Err(_) => state.not_counted(node),
            }
            let said = said.map_err(|error| Silent {
                of_the_agent: error.of_the_agent(),
                why: reason(error),
                last: before,
            });
            state.said.insert(node.to_owned(), said);
        });
    }

    /// Tells over and over what the nodes said.
    async fn look(self, fleet: Fleet) {
        let first = Instant::now();
        let all_said = |state: &mut State| {
            let mut nodes = fleet.nodes();
            nodes.all(|node| state.said.contains_key(&node.name))
        };
        // The first picture waits a moment for all, and not for a node that does not answer.
        while !self.with(all_said) && first.elapsed() < FIRST {
            sleep(SOON).await;
        }
        loop {
            let began = Instant::now();
            self.tell(&fleet);
            sleep(pause(STEP, began.elapsed())).await;
        }
    }

    fn tell(&self, fleet: &Fleet) {
        let waited = || {
            Err(Silent {
                why: "it has not answered yet".into(),
                of_the_agent: "has not answered yet".into(),
                last: None,
            })
        };
        let said: BTreeMap<String, Said> = self.with(|state| {
            let said = fleet.nodes().map(|node| {
                let said = state.said.get(&node.name).cloned();
                (node.name.clone(), said.unwrap_or_else(waited))
            });
            said.collect()
        });
        let mut view = view(&self.0.title, &said);
        let nodes = fleet.nodes().map(|node| (node, &said[&node.name]));
        view.wrong = wrong(nodes, fleet.remarks());
        self.with(|state| {
            state.show(view);
            state.tell_rates();
        });
    }

    /// Looks at the connections of all nodes over and over.
    async fn top(self, fleet: Fleet) {
        loop {
            let began = Instant::now();
            let answers = fleet.each(|fleet, node| async move {
                let late = ReachError::Late {
                    node: node.clone(),
                    seconds: TOP.as_secs(),
                };
                let top = timeout(TOP, fleet.get::<Top>(&node, "/top")).await;
                top.unwrap_or(Err(late))
            });
            let said = answers.await.into_iter();
            let said = said.filter_map(|(node, answer)| Some((node, answer.ok()?)));
            let said = said.collect();
            self.with(|state| state.carry(said));
            sleep(pause(TOP, began.elapsed())).await;
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
            let cut = page.flows.len() >= flows::AT_ONCE;
            if !place.is_news(page.newest, cut) {
                continue;
            }
            // Both ends' nodes notice a connection: the one tells it on which it was opened.
            let elsewhere = |one: &flows::Flow| {
                let opened = one.source.node.as_ref().map(|name| &*name.0);
                opened.is_some_and(|name| name != node && fleet.node(name).is_some())
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
            // All that are kept come in one answer.
            if !place.is_news(page.newest, false) {
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

    /// Whether what came up to this number happened since it is followed: that is from the first answer
    /// on that is not `cut`.
    fn is_news(&mut self, newest: u64, cut: bool) -> bool {
        self.after = newest;
        let news = self.follows;
        self.follows |= !cut;
        news
    }
}

/// The pause after something that took so long, if it is done each `step` at most.
fn pause(step: Duration, took: Duration) -> Duration {
    step.max((took * SHARE).min(RARELY))
}

/// What an agent is asked for.
fn peers_of(pod: &str) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    format!("/reach?{}", query.append_pair("pod", pod).finish())
}

/// The same with the IDs that pods have on the page: agents know nothing but names.
fn by_id(view: &View, found: Peers) -> Peers {
    let pods = view.nodes.iter().flat_map(|node| &node.pods);
    let names = pods.map(|pod| (pod.full_name(), pod));
    // Few go by something else than their name.
    let ids: BTreeMap<String, &str> = names
        .filter(|(name, pod)| pod.id != *name)
        .map(|(name, pod)| (name, &*pod.id))
        .collect();
    let id = |name: String| match ids.get(&name) {
        Some(id) => (*id).to_owned(),
        None => name,
    };
    let peer = |peer: Peer| Peer {
        pod: id(peer.pod),
        ..peer
    };
    Peers {
        pod: id(found.pod),
        peers: found.peers.into_iter().map(peer).collect(),
    }
}

/// Without the name of the node.
fn reason(error: ReachError) -> String {
    match error {
        ReachError::Refused { text, .. } => format!("its agent says: {text}"),
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use podwire_agent::report::{PodReport, ServiceReport};

    use super::super::view::Kind;
    use super::*;
    use crate::reach::fake::{Fake, Says};

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

    #[tokio::test(start_paused = true)]
    async fn who_looks_later_is_not_told_how_it_was_before() {
        let fake = Arc::new(Fake::of(&["a"]).tells("a", "/status?wide=1", &Report::default()));
        let watch = Watch::new(fake, "test".into());
        let mut viewer = watch.view().unwrap();
        while viewer.next().await.kind != "state" {}
        drop(viewer);
        assert_eq!(&*watch.state(), "null");
        let known = |state: &mut State| (state.said.len(), state.past()[0].kind);
        assert_eq!(watch.with(known), (0, "past-flows"));
        // An answer that came while the questions were ended.
        watch.heard("a", Ok(Report::default()), None);
        let _viewer = watch.view().unwrap();
        assert_eq!(watch.with(known), (0, "past-flows"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_page_that_is_on_its_way_has_the_agents_asked_and_one_that_never_comes_does_not_for_long()
     {
        let fake = Arc::new(Fake::of(&["a"]).tells("a", "/status?wide=1", &Report::default()));
        let watch = Watch::new(fake.clone(), "test".into());
        watch.expect();
        sleep(STEP).await;
        assert_eq!(fake.made(), 1);
        assert!(watch.state().contains(r#""answers":true"#));
        sleep(LOADING).await;
        assert!(lock(&watch.0.state).fleet.is_none());
        sleep(AGAIN).await;
        assert_eq!(Arc::strong_count(&watch.0), 1, "nothing goes on");
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_picture_does_not_wait_for_a_node_that_never_answers() {
        let fake = Fake::of(&["a", "b"])
            .tells("a", "/status?wide=1", &Report::default())
            .says("b", "/status?wide=1", Says::Nothing);
        let watch = Watch::new(Arc::new(fake), "test".into());
        let _viewer = watch.view().unwrap();
        sleep(FIRST + FIRST / 10).await;
        let state = watch.state();
        assert!(state.contains("it has not answered yet"), "{state}");
        assert!(state.contains(r#""answers":true"#), "{state}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_be_missing_among_the_nodes_is_told() {
        let mut fake = Fake::of(&["a"]).tells("a", "/status?wide=1", &Report::default());
        fake.remarks = vec!["nodes without an agent are not seen: no permission".into()];
        let watch = Watch::new(Arc::new(fake), "test".into());
        let mut viewer = watch.view().unwrap();
        while viewer.next().await.kind != "state" {}
        let wrong = watch.with(|state| state.view.wrong.clone());
        let remark = wrong.iter().find(|one| one.text.ends_with("no permission"));
        let remark = remark.expect("it is told");
        assert_eq!((remark.kind, &*remark.node), (Kind::Warning, "the cluster"));
    }

    fn pod(name: &str, address: &str) -> PodReport {
        PodReport {
            link: "veth1".into(),
            pod: Some(name.into()),
            container_id: "0123".into(),
            ifname: "eth0".into(),
            addresses: vec![address.parse().unwrap()],
            mtu: None,
            present: true,
        }
    }

    #[tokio::test]
    async fn pods_with_the_name_of_a_service_reach_and_are_reached_by_the_id_that_they_have_here() {
        let peers = |pod: &str, other: &str| Peers {
            pod: pod.into(),
            peers: ["default/a", other]
                .map(|pod| Peer {
                    pod: pod.into(),
                    ..Peer::default()
                })
                .into(),
        };
        let service = |name: &str| ServiceReport {
            name: name.into(),
            ports: Vec::new(),
        };
        let report = Report {
            pods: vec![
                pod("default/web", "10.10.1.2"),
                pod("default/db", "10.10.1.3"),
                pod("default/a", "10.10.1.4"),
            ],
            services: vec![service("default/db"), service("default/web")],
            ..Report::default()
        };
        let fake = Fake::of(&["a"])
            .tells("a", "/status?wide=1", &report)
            .tells(
                "a",
                "/reach?pod=default%2Fweb",
                &peers("default/web", "default/db"),
            );
        let watch = Watch::new(Arc::new(fake), "test".into());
        let mut viewer = watch.view().unwrap();
        while viewer.next().await.kind != "state" {}
        assert_eq!(
            watch.reach("10.10.1.2").await,
            Ok(peers("10.10.1.2", "10.10.1.3"))
        );
    }

    #[tokio::test]
    async fn who_may_reach_a_pod_is_asked_of_its_node() {
        let peers = Peers {
            pod: "default/a b".into(),
            peers: Vec::new(),
        };
        let report = Report {
            pods: vec![pod(&peers.pod, "10.10.1.2")],
            ..Report::default()
        };
        let fake = Fake::of(&["a"])
            .tells("a", "/status?wide=1", &report)
            .tells("a", "/reach?pod=default%2Fa+b", &peers);
        let watch = Watch::new(Arc::new(fake), "test".into());
        assert_eq!(watch.reach("default/a b").await.unwrap_err(), NOT_ASKED);
        let mut viewer = watch.view().unwrap();
        while viewer.next().await.kind != "state" {}
        assert_eq!(watch.reach("default/a b").await, Ok(peers));
        let unknown = watch.reach("default/none").await.unwrap_err();
        assert!(unknown.contains("no node has a pod"), "{unknown}");
    }
}
