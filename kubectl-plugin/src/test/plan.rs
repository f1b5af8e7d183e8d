//! What the connectivity test tries: pure, from what the cluster is.
//!
//! Each node has three places to send from and to: a client and a server, which are pods, and a pod
//! in the node's own network. Every way that Podwire promises is a case or is skipped by name.

use std::net::IpAddr;

use crate::test::case::{
    Case, Family, Group, Role, Seen, Service, Spot, Target, Want, Way, Who, name,
};

/// Up to so many nodes every node is tried with every other; of more, each with so many that the
/// distances between them double.
const ALL_PAIRS: usize = 8;

/// What is not tried, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// What it would belong to.
    pub group: Group,
    /// One sentence.
    pub reason: String,
}

/// A node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its InternalIPs.
    pub addresses: Vec<IpAddr>,
    /// Why no pod can run there, if none can.
    pub unfit: Option<String>,
}

/// What the cluster is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct World {
    /// Its nodes, sorted by name.
    pub nodes: Vec<Node>,
    /// The families that its pods have.
    pub families: Vec<Family>,
    /// Why policies are not tried, unless they are on.
    pub no_policies: Option<String>,
    /// Why DNS is not tried, unless there is one.
    pub no_dns: Option<String>,
    /// Why the API server is not tried, unless pods should reach it.
    pub no_api: Option<String>,
    /// The families over which something outside is to be reached.
    pub outside: Vec<Family>,
}

/// What is tried.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The nodes on which it is tried.
    pub nodes: Vec<Node>,
    /// Nodes on which nothing can be tried, each with the reason: failures.
    pub unfit: Vec<(String, String)>,
    /// The cases, group by group.
    pub cases: Vec<Case>,
    /// What is not tried.
    pub skipped: Vec<Skipped>,
}

impl Plan {
    /// For this cluster.
    pub fn of(world: &World) -> Self {
        let (fit, unfit): (Vec<_>, Vec<_>) = world
            .nodes
            .iter()
            .cloned()
            .partition(|node| node.unfit.is_none());
        let mut plan = Self {
            unfit: unfit
                .into_iter()
                .map(|node| (node.name, node.unfit.unwrap_or_default()))
                .collect(),
            nodes: fit,
            ..Self::default()
        };
        for &family in &world.families {
            plan.pods_and_nodes(family);
            plan.services(family);
            plan.conditional(family, world);
        }
        plan.skip(world);
        plan.cases.sort_by_key(|case| {
            let group = Group::ALL.iter().position(|group| *group == case.group);
            (group, case.family)
        });
        plan
    }

    /// True if policies are tried.
    pub fn has_policies(&self) -> bool {
        let is_policy = |case: &Case| case.group == Group::PolicyForbids;
        self.cases.iter().any(is_policy)
    }

    /// What anything of the test calls a place.
    pub fn spot(&self, spot: Spot) -> String {
        let node = self.nodes.get(spot.node).map_or("?", |node| &node.name);
        match spot.role {
            Role::Client => format!("the client on {node}"),
            Role::Server => format!("the server on {node}"),
            Role::Host => format!("node {node}"),
        }
    }

    /// What a case is, in a few words.
    pub fn describe(&self, case: &Case) -> String {
        let to = match case.to {
            Target::Spot(spot) => self.spot(spot),
            Target::Service(service) => format!("the ClusterIP of Service {}", name(service)),
            Target::NodePort(service, node) => {
                let node = self.nodes.get(node).map_or("?", |node| &node.name);
                format!("the NodePort of Service {} at node {node}", name(service))
            }
            Target::Name(service) => format!("the name {}", name(service)),
            Target::Outside => "outside".to_owned(),
        };
        let from = self.spot(case.from);
        format!("{from} to {to}, {}, {}", case.way, case.family)
    }

    fn add(&mut self, group: Group, family: Family, from: Spot, to: Target, way: Way, want: Want) {
        self.cases.push(Case {
            group,
            family,
            from,
            to,
            way,
            want,
        });
    }

    fn pods_and_nodes(&mut self, family: Family) {
        for (from, to) in pairs(self.nodes.len()) {
            let (client, server) = (Spot::client(from), Spot::server(to));
            let answer = Want::Answer(Who::Spot(server), Seen::Sender);
            for (way, want) in [
                (Way::Ping, Want::Reply),
                (Way::Tcp, answer),
                (Way::Udp, Want::Answer(Who::Spot(server), Seen::Any)),
                (Way::Large, Want::Echo),
                (Way::FullSize, Want::Echo),
                (Way::Fragmented, Want::Echo),
            ] {
                let to = Target::Spot(server);
                self.add(Group::PodToPod, family, client, to, way, want);
            }
            // Within a node the kernel may choose any of the node's own addresses.
            let seen = match from == to {
                true => Seen::Any,
                false => Seen::Node(from),
            };
            let want = Want::Answer(Who::Spot(server), seen);
            let target = Target::Spot(server);
            let host = Spot::host(from);
            self.add(Group::NodeToPod, family, host, target, Way::Tcp, want);
            let host = Spot::host(to);
            let want = Want::Answer(Who::Spot(host), Seen::Sender);
            let target = Target::Spot(host);
            self.add(Group::PodToNode, family, client, target, Way::Tcp, want);
        }
    }

    fn services(&mut self, family: Family) {
        let any = Want::Answer(Who::Server, Seen::Any);
        let web = Target::Service(Service::Web);
        for node in 0..self.nodes.len() {
            let (client, host) = (Spot::client(node), Spot::host(node));
            let mut add = |group, from, to, way, want| self.add(group, family, from, to, way, want);
            add(
                Group::ClusterIp,
                client,
                web,
                Way::Tcp,
                Want::Answer(Who::Server, Seen::Sender),
            );
            add(Group::ClusterIp, client, web, Way::Udp, any);
            let several = Want::Answer(Who::Servers, Seen::Any);
            add(Group::ClusterIp, client, web, Way::Repeated, several);
            add(Group::ClusterIp, host, web, Way::Tcp, any);
            let own = Want::Answer(Who::Spot(client), Seen::Any);
            let hairpin = Target::Service(Service::Hairpin(node));
            add(Group::Hairpin, client, hairpin, Way::Tcp, own);
            let sticky = Target::Service(Service::Sticky);
            let same = Want::Answer(Who::SameServer, Seen::Any);
            add(Group::Affinity, client, sticky, Way::Repeated, same);
            let empty = Target::Service(Service::Empty);
            add(Group::NoEndpoints, client, empty, Way::Tcp, Want::Refused);
        }
        for (from, to) in pairs(self.nodes.len()) {
            let target = Target::NodePort(Service::Web, to);
            for spot in [Spot::client(from), Spot::host(from)] {
                self.add(Group::NodePort, family, spot, target, Way::Tcp, any);
            }
            if from != to {
                let target = Target::NodePort(Service::Local, to);
                let want = Want::Answer(Who::Spot(Spot::server(to)), Seen::Node(from));
                let host = Spot::host(from);
                self.add(Group::NodePortLocal, family, host, target, Way::Tcp, want);
            }
        }
    }

    /// What not every cluster has.
    fn conditional(&mut self, family: Family, world: &World) {
        for node in 0..self.nodes.len() {
            let (client, host) = (Spot::client(node), Spot::host(node));
            if world.no_dns.is_none() {
                for service in [Service::Web, Service::Headless] {
                    let (to, want) = (Target::Name(service), Want::Addresses);
                    self.add(Group::Dns, family, client, to, Way::Lookup, want);
                }
            }
            // Its Service has one family, the cluster's first.
            if world.no_api.is_none() && world.families.first() == Some(&family) {
                let to = Target::Service(Service::Api);
                self.add(Group::Api, family, client, to, Way::Tcp, Want::Reply);
            }
            if world.outside.contains(&family) {
                let want = Want::Answer(Who::Server, Seen::Node(node));
                for from in [host, client] {
                    let to = Target::Outside;
                    self.add(Group::Outside, family, from, to, Way::Tcp, want);
                }
            }
            if world.no_policies.is_none() {
                self.policies(family, node);
            }
        }
    }

    /// Clients take connections from clients alone and by TCP alone, and servers may go nowhere
    /// but to clients.
    fn policies(&mut self, family: Family, node: usize) {
        let next = (node + 1) % self.nodes.len();
        for from in [node, next] {
            let (client, server) = (Spot::client(from), Spot::server(from));
            let to = Target::Spot(Spot::client(node));
            if from != node {
                let want = Want::Answer(Who::Spot(Spot::client(node)), Seen::Sender);
                self.add(Group::PolicyAllows, family, client, to, Way::Tcp, want);
                let other = Target::Spot(Spot::server(node));
                let nothing = Want::Nothing;
                self.add(Group::PolicyForbids, family, client, to, Way::Udp, nothing);
                self.add(
                    Group::PolicyForbids,
                    family,
                    server,
                    other,
                    Way::Tcp,
                    nothing,
                );
            }
            let want = Want::Nothing;
            self.add(Group::PolicyForbids, family, server, to, Way::Tcp, want);
            if next == node {
                break;
            }
        }
    }

    fn skip(&mut self, world: &World) {
        let mut skip = |group, reason: &str| {
            self.skipped.push(Skipped {
                group,
                reason: reason.to_owned(),
            });
        };
        if let Some(reason) = &world.no_dns {
            skip(Group::Dns, reason);
        }
        if let Some(reason) = &world.no_api {
            skip(Group::Api, reason);
        }
        if let Some(reason) = &world.no_policies {
            skip(Group::PolicyAllows, reason);
            skip(Group::PolicyForbids, reason);
        }
        for family in &world.families {
            if !world.outside.contains(family) {
                skip(
                    Group::Outside,
                    &format!("no address outside is given for {family}: `--outside URL` does"),
                );
            }
        }
        for family in [Family::V4, Family::V6] {
            if !world.families.contains(&family) {
                let reason = format!("the pods of this cluster have no {family}");
                skip(Group::PodToPod, &reason);
            }
        }
        let (nodes, one) = (self.nodes.len(), self.nodes.len() == 1);
        if one {
            let reason = "there is one node: nothing leaves it";
            for group in [Group::PodToPod, Group::NodePortLocal] {
                self.skipped.push(Skipped {
                    group,
                    reason: reason.to_owned(),
                });
            }
        }
        if nodes > ALL_PAIRS {
            let tried = pairs(nodes).count();
            let reason = format!(
                "of {} pairs of nodes {tried} are tried, the same for each node",
                nodes * nodes
            );
            self.skipped.push(Skipped {
                group: Group::PodToPod,
                reason,
            });
        }
    }
}

/// Which nodes are tried with which, from and to.
fn pairs(nodes: usize) -> impl Iterator<Item = (usize, usize)> {
    let distances: Vec<usize> = match nodes <= ALL_PAIRS {
        true => (0..nodes).collect(),
        false => std::iter::once(0)
            .chain((0..).map(|power| 1 << power).take_while(|d| *d < nodes))
            .collect(),
    };
    (0..nodes).flat_map(move |from| {
        let distances = distances.clone();
        distances
            .into_iter()
            .map(move |distance| (from, (from + distance) % nodes))
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// A cluster of so many nodes with everything.
    pub(crate) fn cluster(nodes: usize, families: &[Family]) -> World {
        let node = |number: usize| Node {
            name: format!("node{number}"),
            addresses: vec![
                format!("172.18.0.{}", number + 2).parse().unwrap(),
                format!("fc00::{}", number + 2).parse().unwrap(),
            ],
            unfit: None,
        };
        World {
            nodes: (0..nodes).map(node).collect(),
            families: families.to_vec(),
            outside: families.to_vec(),
            ..World::default()
        }
    }

    /// What the README and the pages that it leads to promise of every family.
    const PROMISED: [(Group, Way); 20] = [
        (Group::PodToPod, Way::Ping),
        (Group::PodToPod, Way::Tcp),
        (Group::PodToPod, Way::Udp),
        (Group::PodToPod, Way::Large),
        (Group::PodToPod, Way::FullSize),
        (Group::PodToPod, Way::Fragmented),
        (Group::NodeToPod, Way::Tcp),
        (Group::PodToNode, Way::Tcp),
        (Group::ClusterIp, Way::Tcp),
        (Group::ClusterIp, Way::Udp),
        (Group::ClusterIp, Way::Repeated),
        (Group::NodePort, Way::Tcp),
        (Group::NodePortLocal, Way::Tcp),
        (Group::Hairpin, Way::Tcp),
        (Group::Affinity, Way::Repeated),
        (Group::NoEndpoints, Way::Tcp),
        (Group::Dns, Way::Lookup),
        (Group::Outside, Way::Tcp),
        (Group::PolicyAllows, Way::Tcp),
        (Group::PolicyForbids, Way::Tcp),
    ];

    #[test]
    fn every_node_is_on_both_ends_of_every_promised_way() {
        let families = [Family::V4, Family::V6];
        for nodes in 2..40 {
            let plan = Plan::of(&cluster(nodes, &families));
            for (family, (group, way)) in families
                .iter()
                .flat_map(|family| PROMISED.map(|promised| (family, promised)))
            {
                let cases = plan
                    .cases
                    .iter()
                    .filter(|case| (case.group, case.family, case.way) == (group, *family, way));
                let (mut from, mut to) = (BTreeSet::new(), BTreeSet::new());
                for case in cases {
                    from.insert(case.from.node);
                    to.extend(case.to_node());
                }
                let what = format!("{} {way} {family} on {nodes} nodes", group.title());
                assert_eq!(from.len(), nodes, "{what}");
                assert!(to.is_empty() || to.len() == nodes, "{what}");
            }
        }
    }

    #[test]
    fn what_is_not_tried_is_named() {
        let whole = Plan::of(&cluster(3, &[Family::V4, Family::V6]));
        assert_eq!(whole.skipped, []);
        let bare = World {
            no_policies: Some("they are off".into()),
            no_dns: Some("there is none".into()),
            no_api: Some("there is none".into()),
            outside: Vec::new(),
            ..cluster(3, &[Family::V4])
        };
        let plan = Plan::of(&bare);
        for group in Group::ALL {
            let tried = plan.cases.iter().any(|case| case.group == group);
            let skipped = plan.skipped.iter().any(|one| one.group == group);
            assert!(tried || skipped, "{}", group.title());
        }
        assert!(plan.skipped.iter().any(|one| one.reason.contains("IPv6")));
    }

    #[test]
    fn a_node_without_pods_is_a_failure_and_no_one_asks_it() {
        let mut world = cluster(3, &[Family::V4]);
        world.nodes[1].unfit = Some("the kubelet is gone".into());
        let plan = Plan::of(&world);
        assert_eq!(plan.unfit, [("node1".into(), "the kubelet is gone".into())]);
        assert_eq!(plan.nodes.len(), 2);
    }

    #[test]
    fn many_nodes_are_not_all_tried_with_all_and_that_is_said() {
        let plan = Plan::of(&cluster(100, &[Family::V4]));
        let pings = plan
            .cases
            .iter()
            .filter(|case| case.way == Way::Ping)
            .count();
        assert_eq!(pings, 800);
        let said = |one: &Skipped| one.reason.contains("of 10000 pairs of nodes 800 are tried");
        assert!(plan.skipped.iter().any(said), "{:?}", plan.skipped);
    }

    proptest! {
        /// By construction: no case sends where its own policies or nodes forbid it to arrive.
        #[test]
        fn nothing_is_unreachable_by_construction(nodes in 1usize..40, v6: bool) {
            let family = if v6 { Family::V6 } else { Family::V4 };
            let plan = Plan::of(&cluster(nodes, &[family]));
            for case in &plan.cases {
                prop_assert!(case.from.node < nodes && case.to_node().is_none_or(|to| to < nodes));
                let to = match case.to {
                    Target::Spot(spot) => Some(spot),
                    _ => None,
                };
                // Only clients reach clients, only by TCP; servers reach nothing else.
                let to_client = to.is_some_and(|spot| spot.role == Role::Client);
                let forbidden = match case.from.role {
                    Role::Server => true,
                    Role::Client => to_client && case.way == Way::Udp,
                    Role::Host => to_client,
                };
                prop_assert_eq!(forbidden, case.want == Want::Nothing, "{}", plan.describe(case));
            }
        }
    }
}
