//! `conf/desk-rbac.yaml` permits what the program asks of an API server, and nothing else.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use podwire_desk::sysdump::KINDS;
use serde_json::Value;

/// What is permitted: group, resource, verb, and whether everywhere.
type Permission = (String, String, String, bool);

/// What the objects of this name permit together.
fn permitted(name: &str) -> BTreeSet<Permission> {
    let text = include_str!("../../conf/desk-rbac.yaml");
    let mut found = BTreeSet::new();
    for part in text.split("\n---\n") {
        let object: Value = serde_saphyr::from_str(part).unwrap();
        if object["metadata"]["name"] != name {
            continue;
        }
        let everywhere = object["kind"] == "ClusterRole";
        for rule in object["rules"].as_array().unwrap() {
            let words = |field: &str| -> Vec<String> {
                let list = rule[field].as_array().unwrap().iter();
                list.map(|word| word.as_str().unwrap().to_owned()).collect()
            };
            for group in words("apiGroups") {
                for resource in words("resources") {
                    for verb in words("verbs") {
                        found.insert((group.clone(), resource.clone(), verb, everywhere));
                    }
                }
            }
        }
    }
    found
}

fn needed(group: &str, resource: &str, verb: &str, everywhere: bool) -> Permission {
    (
        group.to_owned(),
        resource.to_owned(),
        verb.to_owned(),
        everywhere,
    )
}

#[test]
fn what_is_permitted_is_what_is_needed() {
    let mut all: BTreeSet<Permission> = KINDS
        .iter()
        .map(|kind| needed(kind.group, kind.plural, "list", !kind.of_podwire))
        .collect();
    all.insert(needed("", "pods", "list", false));
    // A websocket is a GET, which older API servers take for the verb.
    all.insert(needed("", "pods/exec", "create", false));
    all.insert(needed("", "pods/exec", "get", false));
    all.insert(needed("", "pods/log", "get", false));
    all.insert(needed("", "nodes", "list", true));
    assert_eq!(permitted("podwire-desk"), all);
}

#[test]
fn the_connectivity_test_is_permitted_what_it_makes() {
    let verbs = [
        ("", "namespaces", &["list", "create", "delete"][..]),
        ("", "nodes", &["list"]),
        ("", "pods", &["list", "create"]),
        ("", "pods/exec", &["create", "get"]),
        ("", "services", &["get", "create"]),
        ("discovery.k8s.io", "endpointslices", &["list"]),
        ("networking.k8s.io", "networkpolicies", &["create"]),
    ];
    let all = verbs.into_iter().flat_map(|(group, resource, verbs)| {
        verbs
            .iter()
            .map(move |verb| needed(group, resource, verb, true))
    });
    assert_eq!(permitted("podwire-desk-test"), all.collect());
}
