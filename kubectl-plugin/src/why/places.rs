//! Who has which name and which address in the cluster, and on which node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use podwire_agent::cluster::{Cluster, Endpoint, Node, Pod, Port, Service};
use podwire_agent::snapshot::Protocol;
use podwire_agent::text::{printable, some_of};
use podwire_agent::why::Transport;

use crate::fleet::Answers;
use crate::said::DeskError;
use crate::why::conclude::NAMED;

/// One end of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct End {
    /// What it is, in words.
    pub title: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The node where it is; none if it is outside of the cluster, or on no node alone.
    pub node: Option<String>,
}

impl End {
    /// The first address of a family.
    pub fn address(&self, v4: bool) -> Option<IpAddr> {
        let mut addresses = self.addresses.iter();
        addresses.find(|address| address.is_ipv4() == v4).copied()
    }
}

/// What the agents know together.
#[derive(Default)]
pub(crate) struct Places {
    clusters: BTreeMap<String, Cluster>,
    /// The nodes that say nothing.
    silent: Vec<String>,
}

impl Places {
    /// What those who answered know.
    pub fn of(answers: Answers<Cluster>) -> Self {
        let mut places = Self::default();
        for (node, answer) in answers {
            match answer {
                Ok(cluster) => _ = places.clusters.insert(node, cluster),
                Err(_) => places.silent.push(node),
            }
        }
        places
    }

    /// True if no agent answered.
    pub fn is_empty(&self) -> bool {
        self.clusters.is_empty()
    }

    /// All agents know the same Nodes and Services: one that answered speaks for them.
    fn any(&self) -> Option<&Cluster> {
        self.clusters.values().next()
    }

    /// Who has this address: who sends from it, or with `from` who gets what that node sends to it.
    pub fn at(&self, address: IpAddr, from: Option<&str>) -> End {
        let end = |title: String, node: Option<&str>| End {
            title,
            addresses: vec![address],
            node: node.map(str::to_owned),
        };
        // As the node that sends sees it, if its agent answers and knows.
        let view = from.and_then(|node| self.clusters.get(node));
        let views = || view.into_iter().chain(self.any());
        let mut nodes = views().flat_map(|cluster| &cluster.nodes);
        if let Some(node) = nodes.find(|node| node.addresses.contains(&address)) {
            return end(format!("node {} ({address})", node.name), Some(&node.name));
        }
        let pods = self.clusters.iter().filter_map(|(node, cluster)| {
            let mut pods = cluster.pods.iter();
            let pod = pods.find(|pod| pod.addresses.contains(&address))?;
            Some((node.as_str(), pod))
        });
        let pods: BTreeMap<&str, &Pod> = pods.collect();
        let first = pods.keys().next().copied();
        let holds = |node: &&Node| {
            let mut cidrs = node.pod_cidrs.iter();
            cidrs.any(|cidr| cidr.contains(address) && !node.left_out.contains(cidr))
        };
        let mut nodes = views().flat_map(|cluster| &cluster.nodes);
        let holder = nodes.find(holds).map(|node| node.name.as_str());
        // What a node sends goes to its own pod, else to who holds the podCIDR, whoever has a pod.
        let has_it = |node: &&str| pods.contains_key(node);
        let node = match from {
            Some(_) => from.filter(has_it).or(holder).or(first),
            None => holder.filter(has_it).or(first).or(holder),
        };
        let title = match node.and_then(|node| pods.get(node)) {
            Some(Pod {
                name: Some(pod), ..
            }) => format!("pod {pod} ({address})"),
            Some(_) => format!("the pod with {address}"),
            None => match node.and_then(|_| self.endpoint_at(address)) {
                Some(pod) => format!("pod {pod} ({address})"),
                None => address.to_string(),
            },
        };
        end(title, node)
    }

    /// The pod of an endpoint, by what the cluster says: the agent of its node may not answer.
    fn endpoint_at(&self, address: IpAddr) -> Option<&str> {
        let mut endpoints = self.endpoints().filter(|one| one.address == address);
        endpoints.find_map(|one| one.pod.as_deref())
    }

    fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        let services = self.any().into_iter().flat_map(|cluster| &cluster.services);
        let ports = services.flat_map(|service| &service.ports);
        ports.flat_map(|port| &port.endpoints)
    }

    /// The pod or Node of this name; none if there is none. A pod's namespace may be left out.
    pub fn named(&self, name: &str) -> Result<Option<End>, DeskError> {
        let mut found: BTreeMap<&str, End> = BTreeMap::new();
        for (node, cluster) in &self.clusters {
            for pod in &cluster.pods {
                let full = pod.name.as_deref().filter(|full| is_meant(name, full));
                if let Some(full) = full {
                    let end = pod_end(full, &pod.addresses, node);
                    found.insert(full, end);
                }
            }
        }
        let of_others = self.endpoints().filter_map(|one| {
            let full = one.pod.as_deref().filter(|full| is_meant(name, full))?;
            Some((full, pod_end(full, &[one.address], one.node.as_deref()?)))
        });
        for (full, end) in of_others {
            found.entry(full).or_insert(end);
        }
        if found.len() > 1 {
            let names: Vec<&str> = found.keys().copied().collect();
            return Err(several(name, &names));
        }
        if let Some((_, end)) = found.pop_first() {
            return Ok(Some(end));
        }
        let mut nodes = self.any().into_iter().flat_map(|cluster| &cluster.nodes);
        Ok(nodes.find(|node| node.name == name).map(|node| End {
            title: format!("node {name}"),
            addresses: node.addresses.clone(),
            node: Some(name.to_owned()),
        }))
    }

    /// The Service of this name; its namespace may be left out.
    pub fn service(&self, name: &str) -> Result<Option<&Service>, DeskError> {
        let services = self.any().into_iter().flat_map(|cluster| &cluster.services);
        let full = |service: &Service| format!("{}/{}", service.namespace, service.name);
        let found: Vec<&Service> = services
            .filter(|service| is_meant(name, &full(service)))
            .collect();
        match found.as_slice() {
            [] => Ok(None),
            [one] => Ok(Some(one)),
            many => {
                let names: Vec<String> = many.iter().map(|service| full(service)).collect();
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                Err(several(name, &names))
            }
        }
    }

    /// The endpoints that a packet to a Service's address may go to, and the Service; none if no
    /// Service has it.
    pub fn behind(
        &self,
        address: IpAddr,
        transport: Transport,
    ) -> Option<(&Service, Vec<&Endpoint>)> {
        let (service, port) = self.port_at(address, transport)?;
        let fits = |one: &&Endpoint| one.ready && one.address.is_ipv4() == address.is_ipv4();
        Some((service, port.endpoints.iter().filter(fits).collect()))
    }

    /// The nodes of endpoints behind a Service's address that take no connections.
    pub fn unready_behind(&self, address: IpAddr, transport: Transport) -> BTreeSet<&str> {
        let port = self.port_at(address, transport);
        let endpoints = port.into_iter().flat_map(|(_, port)| &port.endpoints);
        let unready = endpoints.filter(|one| !one.ready);
        unready.filter_map(|one| one.node.as_deref()).collect()
    }

    fn port_at(&self, address: IpAddr, transport: Transport) -> Option<(&Service, &Port)> {
        let Transport::Port(protocol, number) = transport else {
            return None;
        };
        let cluster = self.any()?;
        let is_node = (cluster.nodes.iter()).any(|node| node.addresses.contains(&address));
        cluster.services.iter().find_map(|service| {
            let own = service.cluster_ips.contains(&address) || service.external.contains(&address);
            let mut ports = service.ports.iter();
            let port = ports.find(|port| {
                let same = port.protocol == protocol_name(protocol);
                let fits = own && port.port == number;
                same && (fits || is_node && port.node_port == Some(number))
            });
            Some((service, port?))
        })
    }

    /// Names that a wrong one may have been meant as: a few that contain it, else how to see all.
    pub fn unknown(&self, name: &str) -> DeskError {
        let short = name.rsplit('/').next().unwrap_or(name);
        let pods = self.clusters.values().flat_map(|cluster| &cluster.pods);
        let near: BTreeSet<&str> = pods
            .filter_map(|pod| pod.name.as_deref())
            .filter(|full| full.contains(short) || short.contains(full))
            .take(3)
            .collect();
        let near: Vec<&str> = near.into_iter().collect();
        let hint = match near.is_empty() {
            true => "give NAMESPACE/NAME of a pod or Service, a node, a host or an address".into(),
            false => format!("did you mean {}?", near.join(" or ")),
        };
        let silent = match &self.silent[..] {
            [] => String::new(),
            nodes => format!(
                " (no agent answers on {}, so pods there are not known)",
                some_of(nodes, NAMED, ", ")
            ),
        };
        let text = format!("\"{name}\" is not known to any agent that answers{silent}: {hint}");
        DeskError::Question(printable(&text).into_owned())
    }
}

fn protocol_name(protocol: Protocol) -> &'static str {
    protocol.name()
}

fn pod_end(full: &str, addresses: &[IpAddr], node: &str) -> End {
    End {
        title: format!("pod {full}"),
        addresses: addresses.to_vec(),
        node: Some(node.to_owned()),
    }
}

fn is_meant(name: &str, full: &str) -> bool {
    full == name || full.split_once('/').is_some_and(|(_, short)| short == name)
}

fn several(name: &str, names: &[&str]) -> DeskError {
    let shown = names[..names.len().min(5)].join(", ");
    let text = format!("\"{name}\" could be any of {shown}: give its namespace as well");
    DeskError::Question(printable(&text).into_owned())
}
