//! What an API server and its controllers would have refused, chosen or made, and no one does where
//! Services come from manifests. In a cluster with an API server all of it may be so for a moment.
//! Pure.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnetwork::IpNetwork;

use crate::config::services::Config;
use crate::features::services::desired::networks;
use crate::snapshot::{EndpointSlice, ObjectName, Service, ServiceKind, ServicePort, Snapshot};

/// The node ports that an API server gives, unless it is told otherwise.
const NODE_PORTS: RangeInclusive<u16> = 30_000..=32_767;

/// What of a Service that is for a proxy is hardly meant as it is written, one sentence each.
pub fn warnings(service: &Service, snapshot: &Snapshot, config: &Config) -> Vec<String> {
    let slices: Vec<_> = snapshot.slices_of(&service.name).collect();
    let mut texts = Vec::new();
    let known: Vec<_> = networks::services(snapshot, config)
        .map(|(network, _)| network)
        .collect();
    let addresses = service.cluster_ips.iter();
    texts.extend(addresses.filter_map(|address| outside(*address, &known)));
    let ports = service.ports.iter();
    if service.kind != ServiceKind::ClusterIp {
        texts.extend(ports.clone().filter_map(unusual_node_port));
    }
    if service.ports.is_empty() {
        let text = "has no port that can be served, so no one answers; write one in spec.ports";
        texts.push(text.to_owned());
        return texts;
    }
    if slices.is_empty() {
        texts.push(
            "has no EndpointSlice, so no one answers, and without an API server none is made; write \
             one that names it in the label kubernetes.io/service-name"
                .to_owned(),
        );
        return texts;
    }
    texts.extend(slices.iter().filter_map(|slice| without_ports(slice)));
    texts.extend(ports.filter_map(|port| unmatched(port, &slices)));
    texts
}

/// What is to be said of slices of a Service that there is not, one sentence each.
pub fn of_no_service(name: &ObjectName, snapshot: &Snapshot) -> Vec<String> {
    let slices = snapshot.slices_of(name);
    slices
        .map(|slice| {
            format!(
                "there is none for this proxy, but EndpointSlice {} names it in the label \
                 kubernetes.io/service-name; write the Service, or correct the label",
                slice.name.name
            )
        })
        .collect()
}

fn outside(address: IpAddr, known: &[IpNetwork]) -> Option<String> {
    let mut of_family = known
        .iter()
        .filter(|network| network.is_ipv4() == address.is_ipv4())
        .peekable();
    of_family.peek()?;
    let inside = of_family.any(|network| network.contains(address));
    (!inside).then(|| {
        format!(
            "spec.clusterIPs `{address}` is in no network of Services (--service-cidr, ServiceCIDR), \
             so something else may have it; choose an address of one"
        )
    })
}

fn unusual_node_port(port: &ServicePort) -> Option<String> {
    let number = port.node_port.filter(|port| !NODE_PORTS.contains(port))?;
    Some(format!(
        "spec.ports[].nodePort `{number}` is not one that an API server gives ({} to {}): what else \
         listens there is reached on no node any more; choose one of those",
        NODE_PORTS.start(),
        NODE_PORTS.end()
    ))
}

fn without_ports(slice: &EndpointSlice) -> Option<String> {
    // What is wrong with those it has is said elsewhere.
    let has_none = slice.ports.is_empty() && slice.invalid.is_empty();
    has_none.then(|| {
        format!(
            "EndpointSlice {} has no ports, so nothing is sent to its endpoints; write the ports at \
             which they answer",
            slice.name.name
        )
    })
}

fn unmatched(port: &ServicePort, slices: &[&EndpointSlice]) -> Option<String> {
    let mut offered = slices.iter().flat_map(|slice| &slice.ports).peekable();
    offered.peek()?;
    let matches = offered.any(|one| one.name == port.name && one.protocol == port.protocol);
    (!matches).then(|| {
        format!(
            "port {}/{} `{}` has no endpoints: none of its EndpointSlices has a port of this name and \
             protocol; give it the same name there",
            port.port,
            port.protocol.name(),
            port.name
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::services::desired::samples::{object, service, slice_of};
    use crate::snapshot::{Change, Dirty, Object, Protocol};

    fn with(slices: impl IntoIterator<Item = EndpointSlice>) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for slice in slices {
            let slice = Change::Set(Object::EndpointSlice(slice));
            snapshot.apply(slice, &mut Dirty::default());
        }
        snapshot
    }

    #[track_caller]
    fn assert_said(texts: &[String], expected: &[&str]) {
        assert_eq!(texts.len(), expected.len(), "{texts:?}");
        for (text, expected) in texts.iter().zip(expected) {
            assert!(text.contains(expected), "{expected}: {texts:?}");
        }
    }

    #[test]
    fn what_an_api_server_would_not_have_given_is_named() {
        let web = service(
            "kind NodePort; cluster-ip 10.200.1.9 fd00::9; port tcp 80 22; port tcp 81 30000",
        );
        let snapshot = with([slice_of(
            "web",
            "web-1",
            &[("", Protocol::Tcp, 80)],
            "10.10.1.2",
        )]);
        let mut config = Config::default();
        let text = "nodePort `22` is not one that an API server gives (30000 to 32767)";
        assert_said(&warnings(&web, &snapshot, &config), &[text]);
        config.service_cidrs = vec!["10.96.0.0/12".parse().unwrap()];
        let outside = "`10.200.1.9` is in no network of Services";
        assert_said(&warnings(&web, &snapshot, &config), &[outside, text]);
        config.service_cidrs.push("10.200.0.0/16".parse().unwrap());
        assert_said(&warnings(&web, &snapshot, &config), &[text]);
    }

    #[test]
    fn endpoints_that_no_controller_makes_or_that_match_nothing_are_named() {
        let config = Config::default();
        let web = service("cluster-ip 10.200.1.9; port tcp 80 name=http; port udp 53 name=dns");
        let none = with([]);
        assert_said(&warnings(&web, &none, &config), &["has no EndpointSlice"]);
        let bare = service("cluster-ip 10.200.1.9");
        assert_said(&warnings(&bare, &none, &config), &["has no port that"]);
        let good = [("http", Protocol::Tcp, 80), ("dns", Protocol::Udp, 53)];
        let slices = [
            slice_of("web", "web-1", &good, "10.10.1.2"),
            slice_of("web", "web-2", &[], "10.10.1.3"),
        ];
        let empty = "EndpointSlice web-2 has no ports";
        assert_said(&warnings(&web, &with(slices), &config), &[empty]);
        let unnamed = [("", Protocol::Tcp, 80), ("dns", Protocol::Tcp, 53)];
        let slices = [slice_of("web", "web-1", &unnamed, "10.10.1.2")];
        let unmatched = ["80/tcp `http` has no", "53/udp `dns` has no"];
        assert_said(&warnings(&web, &with(slices), &config), &unmatched);
        let shop = with([slice_of("shop", "shop-1", &good, "10.10.1.2")]);
        let orphan = "EndpointSlice shop-1 names it";
        assert_said(&of_no_service(&object("shop"), &shop), &[orphan]);
        assert_said(&of_no_service(&object("web"), &shop), &[]);
    }
}
