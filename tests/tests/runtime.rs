//! The small runtime calls plugins as containerd does: shown with a plugin that writes down how
//! it was called.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use podwire_lab::Lab;
use podwire_lab::node::Node;
use podwire_lab::pod::PodSpec;
use podwire_lab::runtime::{Dialect, PortMapping, Runtime};
use podwire_lab::topology::{Families, Topology};
use serde_json::Value;

/// Writes one JSON object per call to /var/calls and answers ADD with one address.
const RECORDER: &str = r#"#!/bin/sh
input=$(cat)
mkdir -p /var/calls
file=$(mktemp /var/calls/$(date +%s%N).XXXXXX)
printf '{"command":"%s","id":"%s","netns":"%s","ifname":"%s","args":"%s","path":"%s","argv0":"%s","home":"%s","stdin":%s}' \
  "$CNI_COMMAND" "$CNI_CONTAINERID" "$CNI_NETNS" "$CNI_IFNAME" "$CNI_ARGS" "$CNI_PATH" "$0" "$HOME" "$input" > "$file.json"
if [ "$CNI_COMMAND" = ADD ]; then
  echo '{"cniVersion":"1.0.0","interfaces":[{"name":"vethx"}],"ips":[{"address":"10.10.1.2/32"}]}'
fi
"#;

const CONFLIST: &str = r#"{"name": "rec", "cniVersion": "1.0.0", "cniVersions": ["1.0.0", "1.1.0"],
 "plugins": [{"type": "first", "capabilities": {"portMappings": true}, "x": 1}, {"type": "second"}]}"#;

/// A node whose plugins are recorders.
fn recording_node(lab: &Lab) -> Node {
    let node = lab.machine("worker").unwrap();
    let place = node.place();
    for plugin in ["first", "second", "loopback"] {
        let path = format!("/opt/cni/bin/{plugin}");
        let line = format!("rm -f {path}; cat > {path} <<'END'\n{RECORDER}END\nchmod 755 {path}");
        place.output(&line).unwrap();
    }
    place
        .output(&format!(
            "cat > /etc/cni/net.d/10-rec.conflist <<'END'\n{CONFLIST}\nEND"
        ))
        .unwrap();
    node
}

/// The calls so far, in order.
fn calls(node: &Node) -> Vec<Value> {
    let files = node
        .place()
        .output("for f in /var/calls/*.json; do cat $f; echo; done")
        .unwrap();
    files
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn a_pod_with_a_host_port_comes_and_goes_as_in_containerd() {
    let lab = Lab::for_test_without_agents(&Topology::pair(Families::V4)).unwrap();
    let node = recording_node(&lab);
    let spec = PodSpec {
        ports: vec![PortMapping::new(8080, 80, "tcp")],
        ..PodSpec::new("one")
    };
    let pod = node.run(&spec).unwrap();
    assert_eq!(
        pod.addresses(),
        ["10.10.1.2".parse::<std::net::IpAddr>().unwrap()]
    );
    let id = pod.sandbox().id.clone();

    let adds = calls(&node);
    assert_eq!(adds.len(), 3);
    let loopback = adds.iter().find(|call| call["ifname"] == "lo").unwrap();
    assert_eq!(loopback["stdin"]["name"], "cni-loopback");
    let main: Vec<&Value> = adds
        .iter()
        .filter(|call| call["ifname"] == "eth0")
        .collect();
    for call in &main {
        assert_eq!(call["command"], "ADD");
        assert_eq!(call["id"], *id);
        assert_eq!(call["netns"], "/var/run/netns/one");
        assert_eq!(call["path"], "/opt/cni/bin");
        assert_eq!(call["stdin"]["cniVersion"], "1.1.0");
        assert_eq!(call["stdin"]["name"], "rec");
        assert_eq!(call["home"], std::env::var("HOME").unwrap_or_default());
        let args: BTreeMap<&str, &str> = call["args"]
            .as_str()
            .unwrap()
            .split(';')
            .map(|pair| pair.split_once('=').unwrap())
            .collect();
        assert_eq!(args["K8S_POD_NAME"], "one");
        assert_eq!(args["K8S_POD_NAMESPACE"], "default");
        assert_eq!(args["K8S_POD_INFRA_CONTAINER_ID"], id);
        assert_eq!(args["IgnoreUnknown"], "1");
    }
    assert_eq!(main[0]["argv0"], "/opt/cni/bin/first");
    let ports = &main[0]["stdin"]["runtimeConfig"]["portMappings"];
    assert_eq!(
        ports.to_string(),
        r#"[{"ContainerPort":80,"HostIP":"","HostPort":8080,"Protocol":"tcp"}]"#
    );
    assert_eq!(main[0]["stdin"]["capabilities"]["portMappings"], true);
    assert_eq!(main[0]["stdin"]["x"], 1);
    assert!(
        main[1]["stdin"]["runtimeConfig"].is_null(),
        "second has no such capability"
    );
    assert!(main[0]["stdin"]["prevResult"].is_null());
    assert_eq!(
        main[1]["stdin"]["prevResult"]["ips"][0]["address"],
        "10.10.1.2/32"
    );

    node.remove(&pod).unwrap();
    let dels: Vec<Value> = calls(&node)
        .into_iter()
        .filter(|call| call["command"] == "DEL" && call["ifname"] == "eth0")
        .collect();
    let seen: Vec<(&str, &str)> = dels
        .iter()
        .map(|call| {
            (
                call["argv0"].as_str().unwrap(),
                call["netns"].as_str().unwrap(),
            )
        })
        .collect();
    let (first, second) = ("/opt/cni/bin/first", "/opt/cni/bin/second");
    let netns = "/var/run/netns/one";
    assert_eq!(
        seen,
        [
            (second, netns),
            (first, netns),
            (second, ""),
            (first, ""),
            (second, ""),
            (first, "")
        ]
    );
    assert!(
        dels.iter()
            .all(|call| call["stdin"]["prevResult"]["ips"].is_array())
    );
    assert_eq!(node.place().output("ls /run/netns").unwrap(), "");
}

#[test]
fn the_first_file_in_sorted_order_wins_and_an_old_runtime_speaks_the_old_version() {
    let lab = Lab::for_test_without_agents(&Topology::pair(Families::V4)).unwrap();
    let node = recording_node(&lab);
    let other = CONFLIST.replace("\"rec\"", "\"other\"");
    node.place()
        .output(&format!(
            "cat > /etc/cni/net.d/20-other.conf <<'END'\n{other}\nEND"
        ))
        .unwrap();
    assert_eq!(node.runtime().network().unwrap().name, "rec");
    let old = Runtime::speaking(node.place(), Dialect::Old)
        .network()
        .unwrap();
    assert_eq!(old.cni_version, "1.0.0");
    node.place()
        .output("rm /etc/cni/net.d/10-rec.conflist")
        .unwrap();
    assert_eq!(node.runtime().network().unwrap().name, "other");
    node.place()
        .output("rm /etc/cni/net.d/20-other.conf")
        .unwrap();
    let error = node.runtime().network().unwrap_err().to_string();
    assert_eq!(
        error,
        "worker has no usable CNI configuration in /etc/cni/net.d: it holds no .conf, .conflist \
         or .json file"
    );
}

#[test]
fn garbage_collection_names_the_sandboxes_that_exist() {
    let lab = Lab::for_test_without_agents(&Topology::pair(Families::V4)).unwrap();
    let node = recording_node(&lab);
    let pod = node.run(&PodSpec::new("one")).unwrap();
    node.runtime().collect_garbage([pod.sandbox()]).unwrap();
    node.runtime().status().unwrap();
    let calls = calls(&node);
    let of = |verb| {
        calls
            .iter()
            .filter(|call| call["command"] == verb)
            .collect::<Vec<_>>()
    };
    assert_eq!((of("GC").len(), of("STATUS").len()), (2, 2));
    let valid = &of("GC")[0]["stdin"]["cni.dev/valid-attachments"];
    assert_eq!(valid[0]["containerID"], *pod.sandbox().id);
    assert_eq!(valid[0]["ifname"], "eth0");
}

#[test]
fn a_plugin_error_is_told_with_its_code_and_the_pod_is_gone() {
    let lab = Lab::for_test_without_agents(&Topology::pair(Families::V4)).unwrap();
    let node = recording_node(&lab);
    let failing = r#"#!/bin/sh
[ "$CNI_COMMAND" = ADD ] || exit 0
echo '{"cniVersion":"1.0.0","code":11,"msg":"no address is free","details":"try later"}'
exit 1
"#;
    node.place()
        .output(&format!("cat > /opt/cni/bin/second <<'END'\n{failing}END"))
        .unwrap();
    let error = node.run(&PodSpec::new("one")).unwrap_err().to_string();
    let expected =
        "second ADD for one on worker failed with code 11: no address is free: try later";
    assert_eq!(error, expected);
    assert_eq!(node.pods().unwrap().len(), 0);
    assert_eq!(node.place().output("ls /run/netns").unwrap(), "");
    let dels = calls(&node)
        .iter()
        .filter(|call| call["command"] == "DEL")
        .count();
    assert_eq!(dels, 2, "DEL for loopback and for the first plugin");
}
