//! All nodes at once: each is asked on its own, with its own deadline, and who does not answer is a
//! result, too.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::reach::{Client, Kind, Listing, Machines, Node, Ran, Reach, ReachError, Reply};

/// How long the way to a node may take.
const WAY: Duration = Duration::from_secs(10);
/// How long an answer may take: longer than the agent takes to say that it is busy, and than it
/// waits for the next flow or drop.
const ANSWER: Duration = Duration::from_secs(25);
/// How long a command on a node may take.
const COMMAND: Duration = Duration::from_secs(120);

/// The nodes of a cluster, each with a client that comes again when it breaks.
#[derive(Clone)]
pub struct Fleet {
    reach: Arc<dyn Reach>,
    remarks: Arc<[String]>,
    machines: Arc<Machines>,
    members: Arc<BTreeMap<String, Member>>,
}

/// A node and the way to its agent.
struct Member {
    node: Node,
    client: Mutex<Option<Arc<dyn Client>>>,
}

/// What each node answered.
pub type Answers<T> = BTreeMap<String, Result<T, ReachError>>;

impl Fleet {
    /// Finds out which nodes there are. No agent is asked yet.
    pub async fn assemble(reach: Arc<dyn Reach>) -> Result<Self, ReachError> {
        let Listing {
            nodes,
            remarks,
            machines,
        } = match timeout(ANSWER, reach.nodes()).await {
            Ok(listing) => listing?,
            Err(_) => {
                return Err(ReachError::List {
                    what: "the nodes".into(),
                    reason: format!("the API server gave no answer in {} s", ANSWER.as_secs()),
                });
            }
        };
        let member = |node: Node| {
            let client = Mutex::default();
            (node.name.clone(), Member { node, client })
        };
        Ok(Self {
            reach,
            remarks: remarks.into(),
            machines: Arc::new(machines),
            members: Arc::new(nodes.into_iter().map(member).collect()),
        })
    }

    /// The same nodes as they are now, asked over new ways.
    pub async fn again(&self) -> Result<Self, ReachError> {
        Self::assemble(Arc::clone(&self.reach)).await
    }

    /// The nodes, sorted by name.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.members.values().map(|member| &member.node)
    }

    /// What may be missing among the nodes, and why, one sentence each.
    pub fn remarks(&self) -> &[String] {
        &self.remarks
    }

    /// The addresses of a machine that is no node; none if this way knows no such machine.
    pub fn machine(&self, name: &str) -> Option<&[IpAddr]> {
        self.machines.get(name).map(Vec::as_slice)
    }

    /// The objects of a kind; none if this way knows no API server, or the cluster no such kind.
    pub async fn objects(
        &self,
        kind: &'static Kind,
    ) -> Result<Option<Vec<serde_json::Value>>, ReachError> {
        match timeout(ANSWER, self.reach.objects(kind)).await {
            Ok(objects) => objects,
            Err(_) => Err(ReachError::List {
                what: kind.plural.to_owned(),
                reason: format!("the API server gave no answer in {} s", ANSWER.as_secs()),
            }),
        }
    }

    /// The node of this name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.members.get(name).map(|member| &member.node)
    }

    /// Asks one agent. A way that broke is tried once more: the agent may have been restarted.
    pub async fn ask(&self, node: &str, target: &str) -> Result<Reply, ReachError> {
        let member = self.member(node)?;
        let (client, fresh) = self.client(member).await?;
        match patiently(node, ANSWER, client.ask(target)).await {
            Err(ReachError::Broken { reason, .. }) => {
                forget(member, &client).await;
                if fresh {
                    return Err(ReachError::Broken {
                        node: node.to_owned(),
                        reason,
                    });
                }
                let (client, _) = self.client(member).await?;
                patiently(node, ANSWER, client.ask(target)).await
            }
            // The way may be open at one end only.
            Err(late @ ReachError::Late { .. }) => {
                forget(member, &client).await;
                Err(late)
            }
            answer => answer,
        }
    }

    /// Asks one agent for a value.
    pub async fn get<T: DeserializeOwned>(
        &self,
        node: &str,
        target: &str,
    ) -> Result<T, ReachError> {
        self.ask(node, target).await?.value(node)
    }

    /// Asks all agents for a value, side by side.
    pub async fn get_all<T: DeserializeOwned + Send + 'static>(&self, target: &str) -> Answers<T> {
        let target: Arc<str> = Arc::from(target);
        self.each(move |fleet, node| {
            let target = Arc::clone(&target);
            async move { fleet.get(&node, &target).await }
        })
        .await
    }

    /// Runs `podwire-agent ARGUMENTS` on one node.
    pub async fn run(&self, node: &str, arguments: &[&str]) -> Result<Ran, ReachError> {
        let member = self.member(node)?;
        patiently(node, COMMAND, self.reach.run(&member.node, arguments)).await
    }

    /// What the agent of a node logged; none if no one knows.
    pub async fn logs(&self, node: &str, previous: bool) -> Result<Option<String>, ReachError> {
        let member = self.member(node)?;
        patiently(node, ANSWER, self.reach.logs(&member.node, previous)).await
    }

    /// Does something with each node, side by side.
    pub async fn each<T, F>(&self, work: impl Fn(Fleet, String) -> F) -> Answers<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, ReachError>> + Send + 'static,
    {
        let mut open = JoinSet::new();
        for name in self.members.keys() {
            let (name, done) = (name.clone(), work(self.clone(), name.clone()));
            open.spawn(async move { (name, done.await) });
        }
        let mut answers = BTreeMap::new();
        while let Some(ended) = open.join_next().await {
            match ended {
                Ok((node, answer)) => {
                    answers.insert(node, answer);
                }
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }
        answers
    }

    fn member(&self, node: &str) -> Result<&Member, ReachError> {
        let absent = |reason: &str| ReachError::Absent {
            node: node.to_owned(),
            reason: reason.to_owned(),
        };
        let member = self.members.get(node);
        let member = member.ok_or_else(|| absent("there is no such node"))?;
        match &member.node.absent {
            Some(why) => Err(absent(why)),
            None => Ok(member),
        }
    }

    /// The client of a node, and whether it was made just now.
    async fn client(&self, member: &Member) -> Result<(Arc<dyn Client>, bool), ReachError> {
        // Who waits for another's try waits no longer than for one of its own.
        patiently(&member.node.name, WAY, async {
            let mut kept = member.client.lock().await;
            if let Some(client) = &*kept {
                return Ok((Arc::clone(client), false));
            }
            let client = self.reach.client(&member.node).await?;
            *kept = Some(Arc::clone(&client));
            Ok((client, true))
        })
        .await
    }
}

/// The next question makes another way, unless one has been made meanwhile.
async fn forget(member: &Member, broken: &Arc<dyn Client>) {
    let mut kept = member.client.lock().await;
    if kept.as_ref().is_some_and(|kept| Arc::ptr_eq(kept, broken)) {
        *kept = None;
    }
}

async fn patiently<T>(
    node: &str,
    time: Duration,
    work: impl Future<Output = Result<T, ReachError>>,
) -> Result<T, ReachError> {
    match timeout(time, work).await {
        Ok(done) => done,
        Err(_) => Err(ReachError::Late {
            node: node.to_owned(),
            seconds: time.as_secs(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reach::fake::{Fake, Says};

    async fn fleet(fake: Fake) -> (Fleet, Arc<Fake>) {
        let fake = Arc::new(fake);
        let fleet = Fleet::assemble(fake.clone()).await.unwrap();
        (fleet, fake)
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_does_not_answer_is_a_result_and_holds_up_no_other() {
        let mut fake = Fake::of(&["a", "b", "c", "d"])
            .tells("a", "/x", &1)
            .says("b", "/x", Says::Nothing)
            .says("c", "/x", Says::Badly(503, "busy\n".into()));
        fake.nodes[3].absent = Some("it is not ready".into());
        let (fleet, _) = fleet(fake).await;
        let answers: Vec<String> = fleet
            .get_all::<u8>("/x")
            .await
            .into_values()
            .map(|answer| match answer {
                Ok(number) => number.to_string(),
                Err(error) => error.to_string(),
            })
            .collect();
        assert_eq!(
            answers,
            [
                "1",
                "the agent on node b gave no answer in 25 s",
                "the agent on node c says: busy",
                "no agent on node d: it is not ready",
            ]
        );
        let answer = fleet.get::<String>("a", "/x").await.unwrap_err();
        assert!(matches!(answer, ReachError::Unknown { .. }), "{answer}");
        assert!(fleet.ask("e", "/x").await.is_err());
    }

    #[tokio::test]
    async fn a_way_is_kept_and_made_again_when_it_broke() {
        let mut fake = Fake::of(&["a"]).tells("a", "/x", &1);
        fake.breaks = 1;
        let (fleet, fake) = fleet(fake).await;
        assert!(fleet.ask("a", "/x").await.is_err(), "no endless tries");
        for _ in 0..3 {
            assert_eq!(fleet.get::<u8>("a", "/x").await.unwrap(), 1);
        }
        assert_eq!(fake.made(), 2);
    }
}
