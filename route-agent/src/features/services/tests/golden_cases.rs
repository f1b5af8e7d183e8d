//! The Services of the golden files, and the cluster that they are in.
//!
//! Which address is what, in all cases:
//!
//! | addresses | are those of |
//! | --- | --- |
//! | 10.10.1.0/24, fd00:10:10:1::/64 | pods of this node, `worker` |
//! | 10.10.2.0/24, fd00:10:10:2::/64 | pods of the node `worker2` |
//! | 10.10.3.0/24 | pods of a node that is not known (yet) |
//! | 172.18.0.2, 172.18.0.4 | this node, the other node |
//! | 10.200.1.0/24, fd00:10:200::/112 | ClusterIPs |
//! | 192.0.2.0/24, 2001:db8::/64 | external IPs and addresses of load balancers |
//! | 198.51.100.0/24, 2001:db8:1::/64 | clients outside the cluster |
//!
//! Endpoints listen on TCP port 80, UDP port 53 and SCTP port 36412.

use std::sync::Arc;

use crate::features::services::desired::samples::{named_service, slice_of};
use crate::snapshot::{
    Change, Dirty, EndpointSlice, Node, Object, Protocol, Service, ServiceCidr, Snapshot,
};

/// The name of this node.
pub const NODE: &str = "worker";

/// The nodes and networks, without Services.
pub fn cluster() -> Snapshot {
    let (mut snapshot, mut dirty) = (Snapshot::default(), Dirty::default());
    let cidrs = ["10.200.1.0/24", "fd00:10:200::/112"];
    for object in [
        node(NODE, "10.10.1.0/24 fd00:10:10:1::/64", "172.18.0.2"),
        node("worker2", "10.10.2.0/24 fd00:10:10:2::/64", "172.18.0.4"),
        Object::ServiceCidr(ServiceCidr {
            name: Arc::from("kubernetes"),
            cidrs: cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect(),
            invalid: Vec::new(),
        }),
    ] {
        snapshot.apply(Change::Set(object), &mut dirty);
    }
    snapshot
}

/// A Node with its pods' networks and its own address.
pub fn node(name: &str, pods: &str, address: &str) -> Object {
    let pod_cidrs = pods.split_whitespace().map(|cidr| cidr.parse().unwrap());
    Object::Node(Node {
        name: Arc::from(name),
        created: None,
        internal_ips: vec![address.parse().unwrap()],
        other_ips: Vec::new(),
        all_labels: crate::snapshot::Labels::none(),
        pod_cidrs: pod_cidrs.collect(),
        labels: Default::default(),
        taints: Vec::new(),
        deleting: false,
        invalid: Vec::new(),
    })
}

impl Case {
    /// The Services with their endpoints.
    pub fn objects(&self) -> Vec<(Service, EndpointSlice)> {
        let object = |(name, text, endpoints): &(&str, &str, &str)| {
            let service = named_service(name, text);
            let port = |protocol| match protocol {
                Protocol::Tcp => 80,
                Protocol::Udp => 53,
                Protocol::Sctp => 36412,
            };
            let ports = service.ports.iter();
            let ports: Vec<_> = ports
                .map(|one| (&*one.name, one.protocol, port(one.protocol)))
                .collect();
            let slice = slice_of(name, &format!("{name}-1"), &ports, endpoints);
            (service, slice)
        };
        self.services.iter().map(object).collect()
    }
}

/// A golden file.
pub struct Case {
    pub file: &'static str,
    /// What it shows, for readers of the file.
    pub shows: &'static str,
    /// The Services, as `samples::named_service` reads them, and their endpoints.
    pub services: &'static [(&'static str, &'static str, &'static str)],
}

/// One line of the lists below.
pub const fn case(
    file: &'static str,
    shows: &'static str,
    services: &'static [(&'static str, &'static str, &'static str)],
) -> Case {
    Case {
        file,
        shows,
        services,
    }
}

const THREE: &str = "10.10.1.3@worker 10.10.2.4 10.10.3.3";

/// IPv4. The node is `worker`, with the pods 10.10.1.0/24 and the address 172.18.0.2.
pub const CASES: &[Case] = &[
    case(
        "protocols",
        "Row 3: one port number for TCP and UDP. Row 25: SCTP.",
        &[(
            "dns",
            "cluster-ip 10.200.1.10; port tcp 53 name=t; port udp 53 name=u; port sctp 53 name=s",
            "10.10.2.4",
        )],
    ),
    case(
        "draining",
        "Row 5: no endpoint is ready; the one that is being deleted answers meanwhile.",
        &[(
            "web",
            "cluster-ip 10.200.1.63; port tcp 9000",
            "!10.10.2.4 ?10.10.3.3",
        )],
    ),
    case(
        "cluster-ip",
        "Row 7: a ClusterIP with three endpoints. Row 16: the one on this node may reach itself.",
        &[(
            "web",
            "cluster-ip 10.200.1.63; port tcp 9000 name=http",
            THREE,
        )],
    ),
    case(
        "two-cluster-ips",
        "Row 7: two Services with as many endpoints share a chain.",
        &[
            (
                "one",
                "cluster-ip 10.200.1.1; port tcp 80",
                "10.10.2.4 10.10.3.3",
            ),
            (
                "two",
                "cluster-ip 10.200.1.2; port tcp 80",
                "10.10.2.5 10.10.3.5",
            ),
        ],
    ),
    case(
        "internal-local",
        "Row 8: internalTrafficPolicy Local, with an endpoint on this node.",
        &[(
            "web",
            "cluster-ip 10.200.1.63; port tcp 80; internal-local",
            THREE,
        )],
    ),
    case(
        "internal-local-nobody-here",
        "Row 8: internalTrafficPolicy Local, and no endpoint on this node: dropped.",
        &[(
            "web",
            "cluster-ip 10.200.1.63; port tcp 80; internal-local",
            "10.10.2.4",
        )],
    ),
    case(
        "no-endpoints",
        "Row 9: no endpoint is ready: refused at every address.",
        &[(
            "web",
            "kind LoadBalancer; cluster-ip 10.200.1.63; port tcp 80 31000; vip 192.0.2.11; \
             external-ip 192.0.2.12; external-local; internal-local",
            "?10.10.2.4",
        )],
    ),
    case(
        "node-port",
        "Row 10: a node port. Row 15: from outside it is masqueraded.",
        &[(
            "web",
            "kind NodePort; cluster-ip 10.200.1.217; port tcp 9000 31662",
            "10.10.1.3@worker 10.10.2.4",
        )],
    ),
    case(
        "load-balancer",
        "Row 11: an address of a load balancer.",
        &[(
            "web",
            "kind LoadBalancer; cluster-ip 10.200.1.11; port tcp 80; vip 192.0.2.11",
            "10.10.2.4 10.10.3.3",
        )],
    ),
    case(
        "source-ranges",
        "Row 12: source ranges of a load balancer's address, not of an external IP. The node's \
         own address is in one, so the address itself may be the source.",
        &[(
            "web",
            "kind LoadBalancer; cluster-ip 10.200.1.12; port tcp 80; vip 192.0.2.12; \
             external-ip 192.0.2.112; source 10.0.0.0/8 10.1.0.0/16 172.18.0.0/16 198.51.100.7/32",
            "10.10.2.4",
        )],
    ),
    case(
        "source-ranges-for-nobody",
        "Row 12: ranges of the other family alone let no one in.",
        &[(
            "web",
            "kind LoadBalancer; cluster-ip 10.200.1.12; port tcp 80; vip 192.0.2.12; \
             source fd00::/8",
            "10.10.2.4",
        )],
    ),
    case(
        "external-ip",
        "Row 13: an external IP.",
        &[(
            "web",
            "cluster-ip 10.200.1.13; port tcp 80; external-ip 192.0.2.13",
            "10.10.2.4",
        )],
    ),
    case(
        "external-local",
        "Row 14: externalTrafficPolicy Local: the source decides which endpoints answer.",
        &[(
            "web",
            "kind LoadBalancer; cluster-ip 10.200.1.14; port tcp 80 31014; vip 192.0.2.14; \
             external-local",
            THREE,
        )],
    ),
    case(
        "external-local-nobody-here",
        "Row 14: externalTrafficPolicy Local, and no endpoint on this node.",
        &[(
            "web",
            "kind LoadBalancer; cluster-ip 10.200.1.14; port tcp 80 31014; vip 192.0.2.14; \
             external-local",
            "10.10.2.4 10.10.3.3",
        )],
    ),
    case(
        "affinity",
        "Row 17: clients are remembered for an hour, for all addresses of the port together.",
        &[(
            "web",
            "cluster-ip 10.200.1.17; port tcp 80; external-ip 192.0.2.17; affinity 3600",
            THREE,
        )],
    ),
    case(
        "affinity-local",
        "Rows 14 and 17: affinity together with externalTrafficPolicy Local.",
        &[(
            "web",
            "kind NodePort; cluster-ip 10.200.1.17; port tcp 80 31017; affinity 60; \
             external-local",
            THREE,
        )],
    ),
    case(
        "affinity-round-robin",
        "Row 17 and balancing: a client that is not known yet gets the next one in turn.",
        &[(
            "web",
            "cluster-ip 10.200.1.17; port tcp 80; affinity 60; round-robin",
            "10.10.2.4 10.10.3.3",
        )],
    ),
    case(
        "round-robin",
        "Balancing: one endpoint after the other; the node port counts for itself.",
        &[(
            "web",
            "kind NodePort; cluster-ip 10.200.1.41; port tcp 80 31041; round-robin",
            THREE,
        )],
    ),
    case(
        "source-hash",
        "Balancing: by a hash of the source.",
        &[(
            "web",
            "cluster-ip 10.200.1.42; port tcp 80; source-hash",
            THREE,
        )],
    ),
];

const SIX: &str = "fd00:10:10:1::3@worker fd00:10:10:2::4";

/// IPv6.
pub const CASES6: &[Case] = &[
    case(
        "cluster-ip6",
        "Row 24: a ClusterIP in IPv6, TCP and UDP.",
        &[(
            "web",
            "cluster-ip fd00:10:200::63; port tcp 80 name=t; port udp 53 name=u",
            SIX,
        )],
    ),
    case(
        "ways-in6",
        "Row 24: node port, load balancer with source ranges and external IP in IPv6, with \
         externalTrafficPolicy Local.",
        &[(
            "web",
            "kind LoadBalancer; cluster-ip fd00:10:200::14; port tcp 80 31014; vip 2001:db8::14; \
             external-ip 2001:db8::15; external-local; source fd00::/8 2001:db8:1::7/128",
            SIX,
        )],
    ),
    case(
        "affinity6",
        "Row 24: affinity in IPv6.",
        &[(
            "web",
            "cluster-ip fd00:10:200::17; port tcp 80; affinity 3600",
            SIX,
        )],
    ),
    case(
        "nobody6",
        "Row 24: in IPv6, no endpoint at all, and none on this node.",
        &[
            (
                "none",
                "cluster-ip fd00:10:200::9; port tcp 80",
                "?fd00:10:10:2::4",
            ),
            (
                "none-here",
                "cluster-ip fd00:10:200::8; port tcp 80; internal-local",
                "fd00:10:10:2::4",
            ),
        ],
    ),
];

/// The Service of the whole tables that settings change.
pub const WEB: &[(&str, &str, &str)] = &[(
    "web",
    "kind NodePort; cluster-ip 10.200.1.63; port tcp 9000 31662",
    "10.10.1.3@worker 10.10.2.4",
)];
