//! Manifests of clusters of any size, in a directory that an agent reads.

use std::fmt::Write;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// The node that the agent is on.
pub const NODE: &str = "bench";

/// This many Services share a file.
const PER_FILE: u32 = 100;

/// The port of every Service.
pub const PORT: u16 = 80;

/// The port of every endpoint.
pub const TARGET: u16 = 8080;

/// Who answers for the Services.
#[derive(Debug, Clone, Copy)]
pub enum Endpoints {
    /// This many for each Service, no two alike, on other nodes, and no machine is there.
    Elsewhere(u32),
    /// The same two pods of this node for every Service.
    Here([Ipv4Addr; 2]),
}

/// A directory of manifests.
#[derive(Debug)]
pub struct Cluster {
    directory: PathBuf,
    endpoints: Endpoints,
}

impl Cluster {
    /// Writes a Node and `services` Services with their EndpointSlices into `directory`.
    pub fn write(directory: PathBuf, services: u32, endpoints: Endpoints) -> Result<Self, String> {
        let cluster = Self {
            directory,
            endpoints,
        };
        cluster.put("node.yaml", &node())?;
        for first in (0..services).step_by(PER_FILE as usize) {
            let numbers = first..services.min(first + PER_FILE);
            let text: String = numbers.map(|number| cluster.service(number, 0)).collect();
            cluster.put(&format!("services-{first:05}.yaml"), &text)?;
        }
        Ok(cluster)
    }

    /// Where the manifests are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where an agent that reads it has its files.
    pub fn state(&self) -> PathBuf {
        self.directory.with_extension("state")
    }

    /// One more Service, in a file of its own; with another `round` its first endpoint is another,
    /// whose address is returned. The file is renamed in, so it changes at one moment.
    pub fn write_single(&self, number: u32, round: u32) -> Result<Ipv4Addr, String> {
        self.put("single.yaml", &self.service(number, round))?;
        Ok(self.endpoint(number, 0, round))
    }

    /// Writes a file of manifests, at one moment.
    pub fn put(&self, name: &str, text: &str) -> Result<(), String> {
        let path = self.directory.join(name);
        let temporary = self.directory.join(format!(".{name}"));
        fs::write(&temporary, text)
            .and_then(|()| fs::rename(&temporary, &path))
            .map_err(|error| format!("cannot write {}: {error}", path.display()))
    }

    fn service(&self, number: u32, round: u32) -> String {
        let address = cluster_ip(number);
        let mut text = format!(
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: service-{number:05}\n  \
             namespace: bench\nspec:\n  clusterIP: {address}\n  clusterIPs: [{address}]\n  \
             ports:\n  - {{name: http, port: {PORT}, protocol: TCP, targetPort: {TARGET}}}\n---\n\
             apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  \
             name: service-{number:05}-x7k2p\n  namespace: bench\n  labels:\n    \
             kubernetes.io/service-name: service-{number:05}\naddressType: IPv4\nports:\n\
             - {{name: http, port: {TARGET}, protocol: TCP}}\nendpoints:\n"
        );
        for place in 0..self.count() {
            let address = self.endpoint(number, place, round);
            let node = match self.endpoints {
                Endpoints::Elsewhere(_) => format!("node-{}", (number + place) % 100),
                Endpoints::Here(_) => NODE.to_owned(),
            };
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "- addresses: [{address}]\n  conditions: {{ready: true, serving: true, \
                 terminating: false}}\n  nodeName: {node}"
            );
        }
        text.push_str("---\n");
        text
    }

    fn count(&self) -> u32 {
        match self.endpoints {
            Endpoints::Elsewhere(count) => count,
            Endpoints::Here(pods) => pods.len() as u32,
        }
    }

    fn endpoint(&self, number: u32, place: u32, round: u32) -> Ipv4Addr {
        match self.endpoints {
            Endpoints::Here(pods) => pods[place as usize],
            Endpoints::Elsewhere(_) if place == 0 && round > 0 => {
                Ipv4Addr::from(0x0b00_0000 + round)
            }
            Endpoints::Elsewhere(count) => Ipv4Addr::from(0x0a80_0000 + number * count + place),
        }
    }
}

/// The address of a Service.
pub fn cluster_ip(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a60_0001 + number)
}

fn node() -> String {
    format!(
        "apiVersion: v1\nkind: Node\nmetadata:\n  name: {NODE}\nspec:\n  podCIDR: 10.88.0.0/24\n  \
         podCIDRs: [10.88.0.0/24]\nstatus:\n  addresses:\n  \
         - {{type: InternalIP, address: 192.168.77.1}}\n"
    )
}
