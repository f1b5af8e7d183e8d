//! Services as people write them, without an API server.

use super::*;
use crate::feature::{Event, Feature};
use crate::features::parts::log::Logging;
use crate::features::services::Services;
use crate::features::services::desired::samples::{named_service, slice_of};
use crate::features::services::tests::golden_cases::node;
use crate::features::test_node::TestNode;
use crate::snapshot::{Change, Dirty, Object, Protocol, ServiceCidr};

/// The warnings of an agent that reads these objects from manifests, or from an API server.
fn warnings(objects: Vec<Object>, by_hand: bool) -> Vec<String> {
    let mut test = TestNode::apart();
    test.config.manifests = by_hand.then(|| "/manifests".into());
    let (health_ports, _) = tokio::sync::watch::channel(Default::default());
    let mut services = Services::open(health_ports, Logging::On).unwrap();
    for object in objects {
        // One after the other, as files come.
        let mut dirty = Dirty::default();
        test.snapshot.apply(Change::Set(object), &mut dirty);
        services.notice(&Event::Objects(&dirty), &test.world());
        test.writes(&mut services);
    }
    let is_given = nft("list ruleset").contains("172.18.0.9 . tcp . 22");
    assert_eq!(is_given, !by_hand);
    test.warnings()
}

#[test]
fn what_is_hardly_meant_is_named_whenever_it_shows_and_by_an_api_server_it_is_meant() {
    let web = "kind NodePort; cluster-ip 172.18.0.9; port tcp 22 22";
    let objects = || {
        let service = |name, text| Object::Service(named_service(name, text));
        let cidr = ServiceCidr {
            name: "one".into(),
            cidrs: vec!["10.200.0.0/16".parse().unwrap()],
            invalid: Vec::new(),
        };
        let slice = slice_of("gone", "gone-1", &[("", Protocol::Tcp, 80)], "127.0.0.1");
        vec![
            service("web", web),
            service("shop", "cluster-ip 10.99.0.1; port tcp 80"),
            node("peer", "10.10.9.0/24", "172.18.0.9"),
            Object::ServiceCidr(cidr),
            Object::EndpointSlice(slice),
        ]
    };
    let texts = warnings(objects(), true);
    let expected = [
        "Service default/web: spec.clusterIPs `172.18.0.9` is left out: it is the address of Node peer",
        "Service default/web: spec.clusterIPs `172.18.0.9` is in no network of Services",
        "Service default/web: spec.ports[].nodePort `22` is not one",
        "Service default/web: has no EndpointSlice",
        "Service default/shop: spec.clusterIPs `10.99.0.1` is in no network of Services",
        "Service default/shop: has no EndpointSlice",
        "Service default/gone: there is none for this proxy, but EndpointSlice gone-1 names it",
        "Service default/gone: endpoint 127.0.0.1 of EndpointSlice gone-1 is left out",
    ];
    for start in expected {
        assert!(
            texts.iter().any(|text| text.starts_with(start)),
            "{start}: {texts:?}"
        );
    }
    assert_eq!(texts.len(), expected.len(), "{texts:?}");
    let mut of_api = objects();
    of_api.remove(2);
    assert_eq!(warnings(of_api, false), [""; 0]);
}
