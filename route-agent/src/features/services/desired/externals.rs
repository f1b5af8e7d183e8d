//! Which addresses a Service may have as `spec.externalIPs`.
//!
//! Whoever may write a Service in some namespace chooses them, and every node then sends what goes
//! to such an address to that Service: it can take the traffic of the whole cluster to it. So what
//! other parts of the cluster live from is never given away. (A ClusterIP of another Service is
//! not either: see [`super::claims`].) A node port at which the agent itself answers is not given
//! either, nor, where no API server chooses them, a ClusterIP that something else has. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnetwork::IpNetwork;

use crate::cidr;
use crate::config::Config;
use crate::config::services::ExternalIps;
use crate::features::services::desired::endpoints::unusable;
use crate::snapshot::{Protocol, Service, ServiceKind, ServicePort, Snapshot};
use crate::uplink::Uplink;

/// Who may have which external IP.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Externals {
    allowed: ExternalIps,
    reserved: BTreeMap<IpAddr, Holder>,
    /// Where pods are.
    pods: Vec<Pods>,
    /// The interface to the other nodes.
    uplink: Option<Uplink>,
    /// Where the API servers answer, as they publish it or as this agent uses them.
    api_servers: BTreeMap<IpAddr, BTreeSet<u16>>,
    /// Of that what they publish.
    published: BTreeMap<IpAddr, BTreeSet<u16>>,
    /// The ports at which this agent answers, and the flags that say so.
    own_ports: BTreeMap<u16, (IpAddr, &'static str)>,
    /// ClusterIPs are what people wrote. An API server takes them from networks of its own, and there a
    /// Node, which may say of itself what it likes, must not take one away.
    handwritten: bool,
}

const LINK_LOCAL: &str = "it is a link-local address, which is another one on every link";

/// A podCIDR that counts.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pods {
    cidr: IpNetwork,
    node: Arc<str>,
    /// Since when no load balancer may give an address of it: as long as there is the Node that says so,
    /// in seconds since 1970, or 0 where it is not the Node's word alone.
    since: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Holder {
    Node(Arc<str>),
    ApiServer,
    /// As a flag has it, which may well name its ClusterIP.
    ApiServerByFlag,
}

impl Externals {
    /// As the cluster and the flags are now.
    pub fn of(snapshot: &Snapshot, config: &Config) -> Externals {
        let allowed = &config.services.external_ips;
        let mut own_ports = BTreeMap::new();
        for (address, flag) in config.own_addresses() {
            let (ip, port) = (address.ip(), address.port());
            if !ip.is_loopback() || !own_ports.contains_key(&port) {
                own_ports.insert(port, (ip, flag));
            }
        }
        let api_servers = config.kubernetes.addresses().map(|one| one.ip());
        let mut externals = Externals::desired(snapshot, allowed, api_servers);
        for pods in &mut externals.pods {
            let mut cluster = config.services.cluster_cidrs.iter();
            if pods.node == config.node_name || cluster.any(|all| cidr::overlap(*all, pods.cidr)) {
                pods.since = 0;
            }
        }
        Externals {
            own_ports,
            handwritten: config.manifests.is_some(),
            ..externals
        }
    }

    /// As the cluster is now; `api_servers` are addresses of the API server that the flags name.
    pub fn desired(
        snapshot: &Snapshot,
        allowed: &ExternalIps,
        api_servers: impl IntoIterator<Item = IpAddr>,
    ) -> Externals {
        let mut reserved = BTreeMap::new();
        let mut pods = Vec::new();
        for node in snapshot.nodes.values() {
            let of_node = |cidr| Pods {
                cidr,
                node: node.name.clone(),
                since: node.created.unwrap_or(u64::MAX),
            };
            pods.extend(snapshot.pod_cidrs_of(node).map(of_node));
            for address in node.addresses() {
                reserved.insert(address, Holder::Node(node.name.clone()));
            }
        }
        for address in api_servers {
            reserved.entry(address).or_insert(Holder::ApiServerByFlag);
        }
        let api_servers = snapshot.api_servers();
        for address in api_servers.keys() {
            reserved.insert(*address, Holder::ApiServer);
        }
        Externals {
            allowed: allowed.clone(),
            reserved,
            api_servers,
            published: snapshot.published_api_servers(),
            pods,
            ..Externals::default()
        }
    }

    /// With the uplink, and what is reachable over it without a gateway. Addresses of this node that its
    /// object does not tell are not reserved: who moves an address from node to node (keepalived) may
    /// well give it to a Service.
    pub fn beside(self, uplink: Option<&Uplink>) -> Externals {
        Externals {
            uplink: uplink.cloned(),
            ..self
        }
    }

    /// What else than Services is in a network, if it is known: what goes there must not be dropped
    /// for want of a Service.
    pub fn found_in(&self, network: IpNetwork) -> Option<String> {
        let special = [
            network.network(),
            Ipv4Addr::LOCALHOST.into(),
            Ipv4Addr::new(169, 254, 169, 254).into(),
            Ipv4Addr::new(224, 0, 0, 1).into(),
            Ipv4Addr::BROADCAST.into(),
            Ipv6Addr::LOCALHOST.into(),
            cidr::LINK_LOCAL_V6.network().into(),
            Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).into(),
        ];
        let mut inside = special.into_iter().filter(|one| network.contains(*one));
        if let Some((address, reason)) = inside.find_map(|one| Some((one, unusable(one)?))) {
            return Some(format!("{address} {reason}"));
        }
        let mut reserved = self
            .reserved
            .range(network.network()..=network.broadcast())
            .filter(|(_, holder)| **holder != Holder::ApiServerByFlag);
        if let Some((address, holder)) = reserved.next() {
            return Some(match holder {
                Holder::Node(name) => format!("Node {name} has {address}"),
                _ => format!("{address} is the address of the API server"),
            });
        }
        let mut pods = self.pods.iter();
        if let Some(pods) = pods.find(|pods| cidr::overlap(pods.cidr, network)) {
            return Some(format!(
                "the podCIDR {} of Node {} overlaps it",
                pods.cidr, pods.node
            ));
        }
        let near = |one: &&IpNetwork| cidr::overlap(**one, network);
        let near = self.uplink.as_ref()?.networks().find(near)?;
        Some(format!("the uplink's network {near} overlaps it"))
    }

    /// Why no Service may have this address, if that is so.
    pub fn refuses(&self, address: IpAddr) -> Option<String> {
        if cidr::is_link_local(address) {
            // The metadata service of clouds among others, with the credentials of the node.
            return Some(LINK_LOCAL.into());
        }
        match self.reserved.get(&address) {
            Some(Holder::Node(name)) => return Some(format!("it is the address of Node {name}")),
            Some(Holder::ApiServer | Holder::ApiServerByFlag) => {
                return Some("it is the address of the API server".into());
            }
            None => {}
        }
        let uplink = self.uplink.as_ref();
        if let Some(reason) = uplink.and_then(|uplink| uplink.no_host(address)) {
            return Some(format!("it {reason}"));
        }
        if let Some(pods) = self.pods_at(address) {
            return Some(pods.have_it());
        }
        let allowed = match &self.allowed {
            ExternalIps::All => true,
            ExternalIps::None => false,
            ExternalIps::Within(networks) => networks.iter().any(|net| net.contains(address)),
        };
        (!allowed).then(|| "--external-ips does not allow it".into())
    }

    /// Why the load balancer of this Service may not have this port of an address, if that is so. It may
    /// well be an address of a Node, and what a Node says that it has takes none away that was there first.
    pub fn refuses_balanced(
        &self,
        address: IpAddr,
        service: &Service,
        port: &ServicePort,
    ) -> Option<String> {
        let of_address = self.refuses_all_balanced(address, service);
        of_address.or_else(|| self.refuses_balanced_port(address, service, port))
    }

    fn refuses_all_balanced(&self, address: IpAddr, service: &Service) -> Option<String> {
        if cidr::is_link_local(address) {
            return Some(LINK_LOCAL.into());
        }
        let uplink = self.uplink.as_ref();
        if let Some(reason) = uplink.and_then(|uplink| uplink.no_host(address)) {
            return Some(format!("it {reason}"));
        }
        let pods = self.pods_at(address)?;
        let is_older = pods.since <= service.created.unwrap_or(u64::MAX);
        is_older.then(|| pods.have_it())
    }

    /// A cluster may well reach its API servers through a Service of its own, in the namespace of what it
    /// lives from; but not at the addresses and ports at which they themselves answer. Nor does any
    /// Service get a port at which the agent is asked whether it lives.
    fn refuses_balanced_port(
        &self,
        address: IpAddr,
        service: &Service,
        port: &ServicePort,
    ) -> Option<String> {
        // A control plane's Node has the address of an API server.
        if self.reserved.contains_key(&address)
            && let Some((bound, flag)) = self.own_port(port.protocol, port.port)
            && !bound.is_loopback()
        {
            return Some(format!(
                "the agent itself answers at port {} of a Node ({flag})",
                port.port
            ));
        }
        let ports = match &*service.name.namespace {
            "kube-system" => self.published.get(&address)?,
            _ => self.api_servers.get(&address)?,
        };
        let is_taken = port.protocol == Protocol::Tcp && ports.contains(&port.port);
        is_taken.then(|| format!("the API server answers at its port {}", port.port))
    }

    fn pods_at(&self, address: IpAddr) -> Option<&Pods> {
        let mut pods = self.pods.iter();
        pods.find(|pods| pods.cidr.contains(address))
    }

    /// Why no Service may have this ClusterIP, if that is so.
    pub fn refuses_cluster_ip(&self, address: IpAddr) -> Option<String> {
        if !self.handwritten {
            return None;
        }
        if cidr::is_link_local(address) {
            return Some(LINK_LOCAL.into());
        }
        match self.reserved.get(&address) {
            Some(Holder::Node(name)) => return Some(format!("it is the address of Node {name}")),
            Some(_) => return Some("it is the address of the API server".to_owned()),
            None => {}
        }
        self.pods_at(address).map(Pods::have_it)
    }

    /// The flag by which the agent itself has this port of the node, if it has.
    pub fn has_node_port(&self, protocol: Protocol, port: u16) -> Option<&'static str> {
        self.own_port(protocol, port).map(|(_, flag)| flag)
    }

    fn own_port(&self, protocol: Protocol, port: u16) -> Option<(IpAddr, &'static str)> {
        let own = self.own_ports.get(&port).copied();
        own.filter(|_| protocol == Protocol::Tcp)
    }

    /// True if of this Service something else is refused than it was, or for another reason.
    pub fn differ_for(&self, service: &Service, before: &Externals) -> bool {
        let cluster_ip =
            |one: &IpAddr| self.refuses_cluster_ip(*one) != before.refuses_cluster_ip(*one);
        let external_ip = |one: &IpAddr| self.refuses(*one) != before.refuses(*one);
        let balanced = |one: &IpAddr| {
            let mut ports = service.ports.iter();
            ports.any(|port| {
                self.refuses_balanced(*one, service, port)
                    != before.refuses_balanced(*one, service, port)
            })
        };
        service.cluster_ips.iter().any(cluster_ip)
            || service.external_ips.iter().any(external_ip)
            || service.load_balancer_vips.iter().any(balanced)
    }

    /// What of a Service is refused, one sentence each, made one by one.
    pub fn warnings<'a>(&'a self, service: &'a Service) -> impl Iterator<Item = String> {
        let cluster_ips = service.cluster_ips.iter().filter_map(|address| {
            let why = self.refuses_cluster_ip(*address)?;
            Some(format!(
                "spec.clusterIPs `{address}` is left out: {why}; choose a free address of the Service \
                 network"
            ))
        });
        let ports = service
            .ports
            .iter()
            .filter(|_| service.kind != ServiceKind::ClusterIp);
        let node_ports = ports.filter_map(|port| {
            let number = port.node_port?;
            let flag = self.has_node_port(port.protocol, number)?;
            Some(format!(
                "spec.ports[].nodePort `{number}` is left out: the agent itself answers there \
                 ({flag}); choose another"
            ))
        });
        let external_ips = self.refused_external_ips(service);
        let balanced = self.refused_balanced(service);
        let cluster_ips = cluster_ips.chain(node_ports);
        cluster_ips.chain(external_ips).chain(balanced)
    }

    fn refused_balanced<'a>(&'a self, service: &'a Service) -> impl Iterator<Item = String> {
        let is_asked = service.kind == ServiceKind::LoadBalancer;
        let vips = service.load_balancer_vips.iter().filter(move |_| is_asked);
        let left_out = |address: &IpAddr, of: &str, why: &str| {
            format!(
                "status.loadBalancer.ingress `{address}` is left out{of}: {why}; have the load balancer \
                 give another address"
            )
        };
        vips.flat_map(
            move |address| match self.refuses_all_balanced(*address, service) {
                Some(why) => vec![left_out(address, "", &why)],
                None => {
                    let ports = service.ports.iter().filter_map(|port| {
                        let why = self.refuses_balanced_port(*address, service, port)?;
                        let of = format!(" for port {}/{}", port.port, port.protocol.name());
                        Some(left_out(address, &of, &why))
                    });
                    ports.collect()
                }
            },
        )
    }

    fn refused_external_ips<'a>(&'a self, service: &'a Service) -> impl Iterator<Item = String> {
        let balanced = |address: &IpAddr| {
            service.kind == ServiceKind::LoadBalancer
                && service.load_balancer_vips.contains(address)
        };
        let external = service.external_ips.iter();
        let external = external.filter(move |address| !balanced(address));
        external.filter_map(|address| {
            let why = self.refuses(*address)?;
            Some(format!(
                "spec.externalIPs `{address}` is left out: {why}; take it out of the Service"
            ))
        })
    }
}

impl Pods {
    fn have_it(&self) -> String {
        format!("it lies in the podCIDR {} of Node {}", self.cidr, self.node)
    }
}

#[cfg(test)]
mod tests {
    use podwire_kernel::IpFamily;

    use super::*;
    use crate::config::test_config;
    use crate::features::services::desired::frontends::{Claim, claims};
    use crate::features::services::desired::samples::{named_service, service, slice_of};
    use crate::snapshot::{Change, Dirty, Node, Object};

    fn snapshot() -> Snapshot {
        let node = Node {
            internal_ips: vec!["172.18.0.4".parse().unwrap(), "fc00::4".parse().unwrap()],
            other_ips: vec!["203.0.113.4".parse().unwrap()],
            pod_cidrs: vec!["10.10.2.0/24".parse().unwrap()],
            created: Some(100),
            ..Node::named("worker2")
        };
        let api = slice_of(
            "kubernetes",
            "kubernetes",
            &[("https", Protocol::Tcp, 6443)],
            "172.18.0.5",
        );
        let mut snapshot = Snapshot::default();
        for object in [Object::Node(node), Object::EndpointSlice(api)] {
            snapshot.apply(Change::Set(object), &mut Dirty::default());
        }
        snapshot
    }

    fn warnings(externals: &Externals, service: &Service) -> Vec<String> {
        externals.warnings(service).collect()
    }

    fn refused(allowed: &ExternalIps, address: &str) -> String {
        let vip = "10.0.0.9".parse().unwrap();
        let externals = Externals::desired(&snapshot(), allowed, [vip]);
        externals
            .refuses(address.parse().unwrap())
            .unwrap_or_default()
    }

    #[test]
    fn what_the_cluster_lives_from_is_refused_whatever_the_flag_says() {
        let within = ExternalIps::Within(vec!["0.0.0.0/0".parse().unwrap()]);
        for allowed in [ExternalIps::All, ExternalIps::None, within] {
            for (address, why) in [
                ("172.18.0.4", "Node worker2"),
                ("fc00::4", "Node worker2"),
                ("203.0.113.4", "Node worker2"),
                ("10.10.2.7", "podCIDR 10.10.2.0/24 of Node worker2"),
                ("172.18.0.5", "API server"),
                ("10.0.0.9", "API server"),
                ("169.254.169.254", "link-local"),
                ("fe80::1", "link-local"),
            ] {
                let found = refused(&allowed, address);
                assert!(found.contains(why), "{allowed:?} {address}: {found}");
            }
        }
    }

    #[test]
    fn the_first_and_the_last_address_of_the_uplinks_network_are_refused() {
        let uplink = Uplink {
            index: 2,
            name: "eth0".into(),
            mtu: 1500,
            up: true,
            addresses: [
                "172.18.0.2/16",
                "192.0.2.4/31",
                "192.0.2.9/32",
                "fc00::2/64",
            ]
            .map(|net| net.parse().unwrap())
            .into(),
            on_link: Vec::new(),
        };
        let externals = Externals::desired(&snapshot(), &ExternalIps::All, []);
        let externals = externals.beside(Some(&uplink));
        for (address, is_refused) in [
            ("172.18.0.0", true),
            ("172.18.255.255", true),
            ("172.18.1.0", false),
            ("192.0.2.4", false),
            ("192.0.2.5", false),
            ("192.0.2.9", false),
            ("fc00::", false),
        ] {
            let found = externals.refuses(address.parse().unwrap());
            assert_eq!(found.is_some(), is_refused, "{address}: {found:?}");
        }
    }

    #[test]
    fn a_network_with_more_than_services_in_it_is_known_by_what_is_in_it() {
        let uplink = Uplink {
            index: 2,
            name: "eth0".into(),
            mtu: 1500,
            up: true,
            addresses: Vec::new(),
            on_link: ["0.0.0.0/0", "192.0.2.0/24"]
                .map(|net| net.parse().unwrap())
                .into(),
        };
        let vip = "10.0.0.9".parse().unwrap();
        let externals = Externals::desired(&snapshot(), &ExternalIps::All, [vip]);
        let externals = externals.beside(Some(&uplink));
        for (network, why) in [
            ("0.0.0.0/0", "unspecified"),
            ("0.0.0.0/1", "unspecified"),
            ("64.0.0.0/2", "127.0.0.1 is a loopback"),
            ("127.3.0.0/16", "127.3.0.0 is a loopback"),
            ("128.0.0.0/1", "169.254.169.254 is a link-local"),
            ("239.0.0.0/8", "multicast"),
            ("255.0.0.0/8", "broadcast"),
            ("::/0", "unspecified"),
            ("fe00::/8", "fe80:: is a link-local"),
            ("ff05::/16", "multicast"),
            ("172.18.0.0/16", "Node worker2 has 172.18.0.4"),
            (
                "172.18.0.5/32",
                "172.18.0.5 is the address of the API server",
            ),
            ("203.0.113.0/24", "Node worker2 has 203.0.113.4"),
            ("fc00::/64", "Node worker2 has fc00::4"),
            ("10.10.2.128/25", "podCIDR 10.10.2.0/24 of Node worker2"),
            ("10.8.0.0/13", "podCIDR 10.10.2.0/24 of Node worker2"),
            ("192.0.2.128/25", "uplink's network 192.0.2.0/24"),
            ("10.200.1.0/24", ""),
            ("fd00:10:200::/112", ""),
            // A flag names the API server by its ClusterIP.
            ("10.0.0.0/24", ""),
        ] {
            let found = externals.found_in(network.parse().unwrap());
            let found = found.unwrap_or_default();
            assert!(found.contains(why), "{network}: {found}");
            assert_eq!(found.is_empty(), why.is_empty(), "{network}: {found}");
        }
    }

    #[test]
    fn the_flag_allows_all_none_or_networks() {
        let within = ExternalIps::Within(vec!["192.0.2.0/24".parse().unwrap()]);
        for (allowed, address, given) in [
            (&ExternalIps::All, "192.0.2.1", true),
            (&ExternalIps::None, "192.0.2.1", false),
            (&within, "192.0.2.1", true),
            (&within, "192.0.3.1", false),
            (&within, "2001:db8::1", false),
        ] {
            assert_eq!(
                refused(allowed, address).is_empty(),
                given,
                "{allowed:?} {address}"
            );
        }
    }

    #[test]
    fn a_refused_address_is_named_unless_the_load_balancer_gave_it() {
        let externals = Externals::desired(&snapshot(), &ExternalIps::All, []);
        let web = service("cluster-ip 10.200.1.9; port tcp 80; external-ip 172.18.0.4 192.0.2.1");
        assert_eq!(
            warnings(&externals, &web),
            [
                "spec.externalIPs `172.18.0.4` is left out: it is the address of Node worker2; take \
              it out of the Service"
            ]
        );
        let balanced = service(
            "kind LoadBalancer; cluster-ip 10.200.1.9; port tcp 80; vip 172.18.0.4; \
             external-ip 172.18.0.4",
        );
        assert_eq!(warnings(&externals, &balanced), [""; 0]);
    }

    #[test]
    fn a_load_balancer_gives_no_address_that_others_live_from_but_may_well_be_a_node() {
        let mut snapshot = snapshot();
        // What agents use need not be what is published.
        snapshot.use_api_servers(["203.0.113.5:443".parse().unwrap()].into_iter());
        let externals = Externals::desired(&snapshot, &ExternalIps::None, []);
        let web = service(
            "created 99; kind LoadBalancer; cluster-ip 10.200.1.9; \
             port tcp 6443; port udp 6443; port tcp 80; port tcp 443; \
             vip 172.18.0.4 172.18.0.5 169.254.169.254 10.10.2.7 192.0.2.1 203.0.113.5",
        );
        let left_out = |address: &str, why: &str| {
            format!(
                "status.loadBalancer.ingress `{address}` is left out{why}; have the load balancer give \
                 another address"
            )
        };
        let expected = [
            left_out(
                "172.18.0.5",
                " for port 6443/tcp: the API server answers at its port 6443",
            ),
            left_out(
                "203.0.113.5",
                " for port 443/tcp: the API server answers at its port 443",
            ),
            left_out("169.254.169.254", &format!(": {LINK_LOCAL}")),
        ];
        let texts: BTreeSet<_> = warnings(&externals, &web).into_iter().collect();
        assert_eq!(texts, expected.iter().cloned().collect());
        let claims = claims(&web, IpFamily::V4, &externals);
        let has = |address: &str, port| {
            claims.contains(&Claim::Vip(address.parse().unwrap(), Protocol::Tcp, port))
        };
        assert!(has("172.18.0.4", 6443) && has("192.0.2.1", 6443));
        assert!(has("172.18.0.5", 80) && !has("172.18.0.5", 6443));
        let of_udp = Claim::Vip("172.18.0.5".parse().unwrap(), Protocol::Udp, 6443);
        assert!(claims.contains(&of_udp));
        assert!(has("203.0.113.5", 80) && !has("203.0.113.5", 443));
        let mut of_cluster = web.clone();
        of_cluster.name.namespace = "kube-system".into();
        let texts: BTreeSet<_> = warnings(&externals, &of_cluster).into_iter().collect();
        let is_way_of_its_own = |text: &String| text.contains("203.0.113.5");
        let mut all = expected.iter();
        assert!(all.all(|text| texts.contains(text) != is_way_of_its_own(text)));
        assert!(!has("169.254.169.254", 80) && has("10.10.2.7", 80));
        // One address may be both, with one port each.
        snapshot.use_api_servers(["172.18.0.5:80".parse().unwrap()].into_iter());
        let externals = Externals::desired(&snapshot, &ExternalIps::None, []);
        let ports_left_out = |service: &Service| {
            let mut texts = warnings(&externals, service);
            texts.retain(|text| text.contains("172.18.0.5"));
            texts.len()
        };
        assert_eq!((ports_left_out(&web), ports_left_out(&of_cluster)), (2, 1));
    }

    #[test]
    fn a_network_with_an_api_server_in_it_that_is_used_is_no_service_network() {
        let mut snapshot = snapshot();
        let used = "203.0.113.77:443".parse().unwrap();
        snapshot.use_api_servers([used].into_iter());
        let found = |snapshot: &Snapshot| {
            let externals = Externals::desired(snapshot, &ExternalIps::All, [used.ip()]);
            externals.found_in("203.0.113.64/28".parse().unwrap())
        };
        let expected = "203.0.113.77 is the address of the API server";
        assert_eq!(found(&snapshot).as_deref(), Some(expected));
        // What goes to a ClusterIP goes to what is behind it.
        let kubernetes = named_service("default/kubernetes", "cluster-ip 203.0.113.77");
        let kubernetes = Change::Set(Object::Service(kubernetes));
        snapshot.apply(kubernetes, &mut Dirty::default());
        assert_eq!(found(&snapshot), None);
    }

    #[test]
    fn a_load_balancer_gives_no_address_of_pods_that_were_there_first() {
        let is_served = |created: &str, flags: &[&str]| {
            let web = service(&format!(
                "{created}; kind LoadBalancer; cluster-ip 10.200.1.9; port tcp 80; vip 10.10.2.7"
            ));
            let externals = Externals::of(&snapshot(), &test_config(flags));
            let vip = Claim::Vip("10.10.2.7".parse().unwrap(), Protocol::Tcp, 80);
            let is_served = claims(&web, IpFamily::V4, &externals).contains(&vip);
            assert_eq!(warnings(&externals, &web).is_empty(), is_served);
            is_served
        };
        assert!(!is_served("created 100", &[]), "the Node was there");
        // It may have made up its podCIDR.
        assert!(is_served("created 99", &[]));
        assert!(is_served("created 99", &["--cluster-cidr=10.20.0.0/16"]));
        assert!(!is_served("created 99", &["--cluster-cidr=10.10.0.0/16"]));
        assert!(!is_served("created 99", &["--node-name=worker2"]));
    }

    #[test]
    fn a_load_balancer_at_the_address_of_a_node_leaves_the_agent_its_ports() {
        let web = service(
            "kind LoadBalancer; cluster-ip 10.200.1.9; port tcp 10256; port udp 10256; port tcp 80; \
             vip 172.18.0.4 172.18.0.5 198.51.100.7",
        );
        let externals = Externals::of(&snapshot(), &test_config(&[]));
        let reason = "the agent itself answers at port 10256 of a Node (--healthz-bind-address)";
        let texts = warnings(&externals, &web);
        let is_said = texts.iter().filter(|text| text.contains(reason)).count();
        assert_eq!((texts.len(), is_said), (2, 2), "{texts:?}");
        let claims = claims(&web, IpFamily::V4, &externals);
        let has = |address: &str, protocol, port| {
            claims.contains(&Claim::Vip(address.parse().unwrap(), protocol, port))
        };
        assert!(!has("172.18.0.4", Protocol::Tcp, 10256));
        assert!(
            !has("172.18.0.5", Protocol::Tcp, 10256),
            "an API server is there"
        );
        assert!(has("172.18.0.4", Protocol::Udp, 10256));
        assert!(has("172.18.0.4", Protocol::Tcp, 80));
        assert!(has("198.51.100.7", Protocol::Tcp, 10256));
        // At a Node's address no one answers what the agent answers at 127.0.0.1 alone.
        let metrics =
            service("kind LoadBalancer; cluster-ip 10.200.1.9; port tcp 10249; vip 172.18.0.4");
        let is_refused = |flags: &[&str]| {
            let externals = Externals::of(&snapshot(), &test_config(flags));
            !warnings(&externals, &metrics).is_empty()
        };
        assert!(!is_refused(&[]));
        assert!(is_refused(&["--metrics-bind-address=0.0.0.0:10249"]));
        let both = [
            "--metrics-bind-address=172.18.0.4:10249",
            "--healthz-bind-address=127.0.0.1:10249",
        ];
        assert!(is_refused(&both));
    }

    #[test]
    fn who_may_write_endpoint_slices_reserves_no_address() {
        let mut snapshot = snapshot();
        let mine = slice_of(
            "kubernetes",
            "mine",
            &[("https", Protocol::Tcp, 6443)],
            "192.0.2.1",
        );
        let mine = Object::EndpointSlice(mine);
        snapshot.apply(Change::Set(mine), &mut Dirty::default());
        let externals = Externals::desired(&snapshot, &ExternalIps::All, []);
        assert_eq!(externals.refuses("192.0.2.1".parse().unwrap()), None);
        assert_eq!(externals.found_in("192.0.2.0/24".parse().unwrap()), None);
        assert!(externals.refuses("172.18.0.5".parse().unwrap()).is_some());
    }

    #[test]
    fn ports_of_the_agent_and_in_manifests_addresses_of_nodes_and_pods_are_refused() {
        let web = service(
            "kind NodePort; cluster-ip 172.18.0.4 172.18.0.5 10.10.2.9 169.254.1.1 10.200.1.9; \
             port tcp 80 10249; port tcp 81 10256; port udp 82 10256; \
             port tcp 83 31000",
        );
        let port = |number, flag| {
            format!(
                "spec.ports[].nodePort `{number}` is left out: the agent itself answers there \
                 ({flag}); choose another"
            )
        };
        let ports = [
            port(10249, "--metrics-bind-address"),
            port(10256, "--healthz-bind-address"),
        ];
        let of_api = Externals::of(&snapshot(), &test_config(&["--metrics-bind-address="]));
        assert_eq!(warnings(&of_api, &web), ports[1..]);
        let written = Externals::of(&snapshot(), &test_config(&["--manifests=/m"]));
        let texts = warnings(&written, &web);
        assert_eq!(texts[4..], ports);
        let reasons = ["Node worker2", "API server", "podCIDR", "link-local"];
        for (text, why) in texts.iter().zip(reasons) {
            assert!(text.contains(why), "{text}");
        }
        let claims = claims(&web, IpFamily::V4, &written);
        let expected = [
            Claim::ClusterIp("10.200.1.9".parse().unwrap()),
            Claim::NodePort(Protocol::Tcp, 31000),
            Claim::NodePort(Protocol::Udp, 10256),
        ];
        let ports = claims
            .iter()
            .filter(|claim| !matches!(claim, Claim::Vip(..)));
        assert_eq!(ports.copied().collect::<Vec<_>>(), expected);
        assert_eq!(claims.len(), 3 + 4, "each port of the one address");
    }
}
