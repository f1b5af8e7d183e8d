//! The networks that rules ask about: pods, Services, addresses of node ports. Pure.

use std::sync::Arc;

use ipnetwork::IpNetwork;
use podwire_kernel::IpFamily;

use crate::cidr::without_contained;
use crate::config::services::Config;
use crate::features::services::desired::externals::Externals;
use crate::snapshot::{Node, Snapshot};

/// The networks of one family, each list sorted and without overlaps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks {
    /// Pods of the whole cluster.
    pub pods: Box<[IpNetwork]>,
    /// Pods of this node.
    pub own_pods: Box<[IpNetwork]>,
    /// Addresses that Services may get, and nothing else has.
    pub services: Box<[IpNetwork]>,
    /// Where node ports answer, unless it is every local address.
    pub node_ports: Box<[IpNetwork]>,
}

/// The networks of one family.
pub fn desired(
    snapshot: &Snapshot,
    own: Option<&Node>,
    config: &Config,
    externals: &Externals,
    family: IpFamily,
) -> Networks {
    let of_family = |list: &mut dyn Iterator<Item = IpNetwork>| {
        without_contained(list.filter(|network| IpFamily::of(network.ip()) == family)).into()
    };
    let own_pods = snapshot.own_pod_cidrs(own);
    let node_pods = || {
        let nodes = snapshot.nodes.values();
        let nodes = nodes.flat_map(|node| snapshot.pod_cidrs_of(node));
        nodes.chain(own_pods.iter().copied())
    };
    let mut services = services(snapshot, config)
        .map(|(network, _)| network)
        .filter(|network| externals.found_in(*network).is_none());
    let own_ips = own.map_or(&[][..], |node| &node.internal_ips);
    let node_ports = config.node_ports_at(own_ips).unwrap_or_default();
    Networks {
        pods: match config.cluster_cidrs.as_slice() {
            [] => of_family(&mut node_pods()),
            given => of_family(&mut given.iter().copied()),
        },
        own_pods: of_family(&mut own_pods.iter().copied()),
        services: of_family(&mut services),
        node_ports: of_family(&mut node_ports.into_iter()),
    }
}

/// The networks of Services as they were given, with who gave them: the object, or the flag.
pub fn services<'a>(
    snapshot: &'a Snapshot,
    config: &'a Config,
) -> impl Iterator<Item = (IpNetwork, Option<&'a Arc<str>>)> {
    let flag = config.service_cidrs.iter().map(|network| (*network, None));
    let objects = snapshot.service_cidrs.values();
    let objects = objects
        .filter(|_| config.service_cidrs.is_empty())
        .flat_map(|object| object.cidrs.iter().map(|cidr| (*cidr, Some(&object.name))));
    flag.chain(objects)
}

/// The networks of Services that are left out or could not be read, and why, one sentence each.
pub fn warnings(snapshot: &Snapshot, config: &Config, externals: &Externals) -> Vec<String> {
    let bad = |(network, object): (IpNetwork, Option<&Arc<str>>)| {
        let why = externals.found_in(network)?;
        let given = object.map_or("--service-cidr".to_owned(), |name| {
            format!("ServiceCIDR {name}")
        });
        Some(format!(
            "`{network}` of {given} is left out: {why}; connections to addresses of it that no \
             Service has are not dropped; give a network that only Services have"
        ))
    };
    let unread = snapshot.service_cidrs.values().flat_map(|object| {
        let texts = object.invalid.iter();
        texts.map(|one| format!("ServiceCIDR {}: {one}", object.name))
    });
    let left_out = services(snapshot, config).filter_map(bad);
    unread.chain(left_out).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::services::{ExternalIps, NodePortAddresses};
    use crate::snapshot::{Invalid, ServiceCidr};

    fn node(name: &str, pods: &[&str], internal: &str) -> Node {
        Node {
            name: Arc::from(name),
            created: None,
            internal_ips: vec![internal.parse().unwrap()],
            other_ips: Vec::new(),
            all_labels: crate::snapshot::Labels::none(),
            pod_cidrs: pods.iter().map(|cidr| cidr.parse().unwrap()).collect(),
            labels: Default::default(),
            taints: Vec::new(),
            deleting: false,
            invalid: Vec::new(),
        }
    }

    fn snapshot() -> Snapshot {
        let mut snapshot = Snapshot::default();
        let nodes = [
            node(
                "worker",
                &["10.10.1.0/24", "fd00:10:10:1::/64"],
                "172.18.0.2",
            ),
            node("worker2", &["10.10.2.0/24"], "172.18.0.4"),
        ];
        for node in nodes {
            snapshot.nodes.insert(node.name.clone(), node);
        }
        let cidrs = ["10.200.1.0/24", "10.200.1.128/25", "fd00:10:200::/112"];
        let cidr = ServiceCidr {
            name: Arc::from("kubernetes"),
            cidrs: cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect(),
            invalid: Vec::new(),
        };
        snapshot.service_cidrs.insert(cidr.name.clone(), cidr);
        snapshot
    }

    fn shown(networks: &[IpNetwork]) -> String {
        networks
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn networks_come_from_the_objects() {
        let snapshot = snapshot();
        let own = snapshot.nodes.get("worker");
        let none = Externals::default();
        let v4 = desired(&snapshot, own, &Config::default(), &none, IpFamily::V4);
        assert_eq!(shown(&v4.pods), "10.10.1.0/24 10.10.2.0/24");
        assert_eq!(shown(&v4.own_pods), "10.10.1.0/24");
        assert_eq!(shown(&v4.services), "10.200.1.0/24");
        assert_eq!(shown(&v4.node_ports), "");
        let v6 = desired(&snapshot, own, &Config::default(), &none, IpFamily::V6);
        assert_eq!(shown(&v6.pods), "fd00:10:10:1::/64");
        assert_eq!(shown(&v6.services), "fd00:10:200::/112");
    }

    #[test]
    fn pod_cidrs_that_are_left_out_are_no_pods() {
        let mut snapshot = snapshot();
        let claim = ("10.10.2.0/24".parse().unwrap(), Arc::from("worker2"));
        snapshot.leave_out([(claim, String::new())].into());
        let own = snapshot.nodes.get("worker");
        let externals = Externals::desired(&snapshot, &ExternalIps::All, []);
        let v4 = desired(&snapshot, own, &Config::default(), &externals, IpFamily::V4);
        assert_eq!(shown(&v4.pods), "10.10.1.0/24");
        assert_eq!(externals.refuses("10.10.2.9".parse().unwrap()), None);
    }

    #[test]
    fn flags_go_before_objects() {
        let snapshot = snapshot();
        let config = Config {
            cluster_cidrs: vec!["10.10.0.0/16".parse().unwrap()],
            service_cidrs: vec!["10.96.0.0/12".parse().unwrap()],
            node_port_addresses: NodePortAddresses::Primary,
            ..Config::default()
        };
        let v4 = desired(
            &snapshot,
            snapshot.nodes.get("worker"),
            &config,
            &Externals::default(),
            IpFamily::V4,
        );
        assert_eq!(shown(&v4.pods), "10.10.0.0/16");
        assert_eq!(shown(&v4.services), "10.96.0.0/12");
        assert_eq!(shown(&v4.node_ports), "127.0.0.0/8 172.18.0.2/32");
        let v6 = desired(
            &snapshot,
            None,
            &config,
            &Externals::default(),
            IpFamily::V6,
        );
        assert_eq!(shown(&v6.pods), "");
    }

    #[test]
    fn a_service_network_that_has_nodes_or_everything_in_it_is_left_out_and_named() {
        let mut snapshot = snapshot();
        let wide = ServiceCidr {
            name: Arc::from("wide"),
            cidrs: ["0.0.0.0/0", "172.18.0.0/16"]
                .map(|net| net.parse().unwrap())
                .into(),
            invalid: vec![Invalid {
                field: "spec.cidrs",
                value: "10.0.0.0/33".into(),
                reason: "is not a CIDR",
                taken: None,
            }],
        };
        snapshot.service_cidrs.insert(wide.name.clone(), wide);
        let externals = Externals::desired(&snapshot, &ExternalIps::All, []);
        let mut config = Config::default();
        let v4 = desired(&snapshot, None, &config, &externals, IpFamily::V4);
        assert_eq!(shown(&v4.services), "10.200.1.0/24");
        let texts = warnings(&snapshot, &config, &externals);
        assert_eq!(texts.len(), 3, "{texts:?}");
        let unread = "ServiceCIDR wide: spec.cidrs \"10.0.0.0/33\" is left out";
        assert!(texts[0].starts_with(unread), "{texts:?}");
        let start = "`172.18.0.0/16` of ServiceCIDR wide is left out: Node worker has 172.18.0.2";
        assert!(texts[2].starts_with(start), "{texts:?}");
        config.service_cidrs = vec!["10.0.0.0/8".parse().unwrap()];
        let v4 = desired(&snapshot, None, &config, &externals, IpFamily::V4);
        assert_eq!(shown(&v4.services), "");
        let texts = warnings(&snapshot, &config, &externals);
        assert!(
            texts[1].contains("of --service-cidr is left out: the podCIDR"),
            "{texts:?}"
        );
    }
}
