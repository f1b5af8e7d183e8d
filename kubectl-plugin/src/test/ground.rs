//! Where the test takes place: a cluster that it can put pods and Services into, and run commands
//! in these pods.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::time::Duration;

use crate::test::case::{Family, Service, Spot, name};
use crate::test::plan::{Plan, World};

/// The port on which every pod of the test answers HTTP. Not 80: pods in the network of their node
/// take the node's.
pub const HTTP: u16 = 18_080;

/// The port on which every pod of the test answers datagrams.
pub const UDP: u16 = 18_081;

/// The port of the Services, for TCP and UDP.
pub const PORT: u16 = 80;

/// Where a place is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// The pod, `namespace/name`.
    pub pod: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

impl Place {
    /// The pod without its namespace, which is what it answers with.
    pub fn name(&self) -> &str {
        self.pod
            .rsplit_once('/')
            .map_or(self.pod.as_str(), |(_, name)| name)
    }
}

/// Where a Service is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Portal {
    /// Its ClusterIPs.
    pub addresses: Vec<IpAddr>,
    /// Its port.
    pub port: u16,
    /// Its NodePort, if it has one.
    pub node_port: Option<u16>,
}

/// What was made for the test.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Laid {
    /// Where the pods are.
    pub spots: BTreeMap<Spot, Place>,
    /// Which pods do not run, and why.
    pub missing: BTreeMap<Spot, String>,
    /// Where the Services are.
    pub services: BTreeMap<Service, Portal>,
    /// What is asked outside of the cluster, one URL for a family.
    pub outside: Vec<Outside>,
}

impl Laid {
    /// Where a place is, or why it is not there.
    pub fn place(&self, spot: Spot) -> Result<&Place, String> {
        self.spots.get(&spot).ok_or_else(|| {
            let why = self.missing.get(&spot);
            why.cloned()
                .unwrap_or_else(|| "its pod is not there".to_owned())
        })
    }

    /// Where a Service is, or that it is not there.
    pub fn portal(&self, service: Service) -> Result<&Portal, String> {
        let portal = self.services.get(&service);
        portal.ok_or_else(|| format!("Service {} is not there", name(service)))
    }
}

/// Something outside of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outside {
    /// Over this family.
    pub family: Family,
    /// What is asked for. If the answer is an address, it must be that of a node.
    pub url: String,
    /// True if someone named it: then a node that does not reach it is a failure.
    pub named: bool,
}

/// What a command in a pod came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ran {
    /// Its exit status.
    pub status: i32,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

/// Why the ground cannot be made, used or cleared.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct GroundError(pub String);

/// A cluster to try things in.
pub trait Ground: Sync {
    /// What the cluster is.
    fn world(&self) -> impl Future<Output = Result<World, GroundError>> + Send;

    /// Takes away what runs before this one left, and names it.
    fn clear(&self) -> impl Future<Output = Result<Vec<String>, GroundError>> + Send;

    /// Makes everything that the plan needs, and waits until it is there.
    fn prepare(&self, plan: &Plan) -> impl Future<Output = Result<Laid, GroundError>> + Send;

    /// Runs a command in a pod; it is given up after `limit`.
    fn run(
        &self,
        place: &Place,
        command: &[String],
        limit: Duration,
    ) -> impl Future<Output = Result<Ran, GroundError>> + Send;

    /// Takes everything away again. It must work at any moment, and with everything gone already.
    fn clean(&self) -> impl Future<Output = Result<(), GroundError>> + Send;

    /// True if nothing that was made is there; false also if that cannot be known.
    fn is_clean(&self) -> impl Future<Output = bool> + Send {
        std::future::ready(false)
    }

    /// What may be left if that did not come to its end, and how it is removed.
    fn left(&self) -> String {
        "what the test made may be left: the next test removes it".to_owned()
    }
}

/// Who knows why a packet does not arrive.
pub trait Explain: Sync {
    /// What the agents say of a packet, one line each.
    fn why(&self, source: &str, destination: &str) -> impl Future<Output = Vec<String>>;

    /// What the agents say is wrong, one line each.
    fn wrong(&self) -> impl Future<Output = Vec<String>>;
}
