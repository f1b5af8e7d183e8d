//! A ground that exists in a test only: what commands come to is decided by their text.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::Duration;

use crate::test::case::{Family, Role, Service};
use crate::test::ground::{Explain, Ground, GroundError, Laid, Outside, PORT, Place, Portal, Ran};
use crate::test::objects;
use crate::test::plan::{Plan, World};

/// What would be made for a plan. Pods of node N have 10.0.0.N+1 and fd00::N+1, servers ten more.
pub(crate) fn laid(plan: &Plan) -> Laid {
    let pod = |last: usize| -> Vec<IpAddr> {
        vec![
            format!("10.0.0.{last}").parse().unwrap(),
            format!("fd00::{last}").parse().unwrap(),
        ]
    };
    let place = |spot: crate::test::case::Spot| Place {
        pod: format!("test/{}", objects::pod_name(spot)),
        addresses: match spot.role {
            Role::Client => pod(spot.node + 1),
            Role::Server => pod(spot.node + 11),
            Role::Host => plan.nodes[spot.node].addresses.clone(),
        },
    };
    let portal = |number: usize| Portal {
        addresses: vec![
            format!("10.96.0.{number}").parse().unwrap(),
            format!("fd96::{number}").parse().unwrap(),
        ],
        port: PORT,
        node_port: Some(31_000),
    };
    let services = objects::services(plan);
    let services = services.into_iter().chain([Service::Api]);
    let outside = |family, url: &str| Outside {
        family,
        url: url.into(),
        named: false,
    };
    Laid {
        spots: objects::spots(plan)
            .into_iter()
            .map(|spot| (spot, place(spot)))
            .collect(),
        services: (1..)
            .zip(services)
            .map(|(number, service)| (service, portal(number)))
            .collect(),
        outside: vec![
            outside(Family::V4, "http://192.0.2.1/"),
            outside(Family::V6, "http://[2001:db8::1]/"),
        ],
        missing: BTreeMap::new(),
    }
}

/// What a command comes to, by the pod, its text, and how often it was run before.
type Answers = Box<dyn Fn(&str, &str, usize) -> Ran + Send + Sync>;

/// How a ground is cleaned.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cleans {
    Well,
    Badly,
    Never,
    /// It is clean, and no one hears of it.
    Unheard,
}

/// Where commands have answers that are data.
pub(crate) struct Fake {
    pub world: World,
    /// Changes what was made.
    pub change: fn(&mut Laid),
    pub answers: Answers,
    /// The making of the ground fails.
    pub barren: bool,
    pub cleans: Cleans,
    pub runs: Mutex<BTreeMap<(String, String), usize>>,
    pub events: Mutex<Vec<String>>,
}

impl Fake {
    pub fn new(
        world: World,
        answers: impl Fn(&str, &str, usize) -> Ran + Send + Sync + 'static,
    ) -> Self {
        Self {
            world,
            change: |_| (),
            answers: Box::new(answers),
            barren: false,
            cleans: Cleans::Well,
            runs: Mutex::default(),
            events: Mutex::default(),
        }
    }

    pub fn events(&self) -> Vec<String> {
        self.events.lock().unwrap().clone()
    }

    fn note(&self, event: &str) {
        self.events.lock().unwrap().push(event.into());
    }
}

impl Ground for Fake {
    async fn world(&self) -> Result<World, GroundError> {
        Ok(self.world.clone())
    }

    async fn clear(&self) -> Result<Vec<String>, GroundError> {
        self.note("clear");
        Ok(vec!["namespace podwire-test-old".into()])
    }

    async fn prepare(&self, plan: &Plan) -> Result<Laid, GroundError> {
        self.note("prepare");
        if self.barren {
            return Err(GroundError("nothing grows here".into()));
        }
        let mut laid = laid(plan);
        (self.change)(&mut laid);
        Ok(laid)
    }

    async fn run(
        &self,
        place: &Place,
        command: &[String],
        _: Duration,
    ) -> Result<Ran, GroundError> {
        let line = command.last().cloned().unwrap_or_default();
        let key = (place.pod.clone(), line.clone());
        let before = {
            let mut runs = self.runs.lock().unwrap();
            let count = runs.entry(key).or_default();
            *count += 1;
            *count - 1
        };
        // As everything that waits for another machine.
        tokio::task::yield_now().await;
        Ok((self.answers)(place.name(), &line, before))
    }

    async fn clean(&self) -> Result<(), GroundError> {
        self.note("clean");
        match self.cleans {
            Cleans::Well => Ok(()),
            Cleans::Badly => Err(GroundError("it cannot be removed".into())),
            Cleans::Never | Cleans::Unheard => std::future::pending().await,
        }
    }

    async fn is_clean(&self) -> bool {
        self.cleans == Cleans::Unheard
    }
}

impl Explain for Fake {
    async fn why(&self, source: &str, destination: &str) -> Vec<String> {
        vec![format!("{source} to {destination}: \u{1b}[31mdropped")]
    }

    async fn wrong(&self) -> Vec<String> {
        vec!["node0: a route is missing".into()]
    }
}
