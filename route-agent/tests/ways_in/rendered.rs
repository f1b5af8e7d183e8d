//! What helm makes of the chart.

use std::collections::BTreeMap;

use clap::Parser;
use podwire_agent::cli::Cli;
use serde_json::{Value, json};

use crate::flags::{camel_case, of_the_agent};
use crate::objects::{assert_same, objects, read, run};

const CHART: &str = "conf/helm/podwire";

/// The objects of the chart with these arguments to helm; its complaint if it refuses.
pub fn try_render(arguments: &[&str]) -> Result<BTreeMap<String, Value>, String> {
    let mut all = vec!["template", "podwire", CHART, "--namespace=kube-system"];
    all.extend(arguments);
    run("helm", &all).map(|text| objects(&text))
}

fn render(arguments: &[&str]) -> BTreeMap<String, Value> {
    try_render(arguments).unwrap()
}

fn pod(objects: &BTreeMap<String, Value>, daemon_set: &str) -> Value {
    objects[daemon_set]["spec"]["template"]["spec"].clone()
}

/// A value for each flag that is not its default.
fn other_values() -> Value {
    json!({
        "apiserver": ["https://10.0.0.1:6443", "https://[fd00::1]:6443"],
        "uplink": "eth1", "mtu": 1400, "cniConf": false, "leaseGrace": "5m", "masquerade": false,
        "nonMasqueradeCidrs": ["10.0.0.0/8", "fd00::/8"], "antiSpoof": false, "networkPolicy": false,
        "policyEvents": false, "flows": true, "podConnections": 5000, "externalIps": "none",
        "services": false,
        "balancing": "round-robin", "masqueradeAll": true,
        "nodeportAddresses": "10.0.0.0/8,fd00::/8", "localhostNodeports": false,
        "clusterIpEcho": true, "serviceCidr": ["10.200.1.0/24"], "clusterCidr": ["10.10.0.0/16"],
        "serviceCounters": false, "conntrackMaxPerCore": 0, "conntrackMin": 1_048_576,
        "conntrackTcpTimeoutEstablished": "0s", "conntrackTcpTimeoutCloseWait": "90s",
        "conntrackTcpBeLiberal": true, "healthzBindAddress": "0.0.0.0:10356",
        "metricsBindAddress": "", "healthTimeout": "500ms", "logFormat": "json",
        "log": "info,podwire_agent=debug",
    })
}

#[test]
#[ignore = "needs helm: make chart-test"]
fn helm_finds_nothing_wrong_with_the_chart() {
    run("helm", &["lint", "--strict", CHART]).unwrap();
}

#[test]
#[ignore = "needs helm: make chart-test"]
fn without_a_value_the_chart_is_the_manifest() {
    assert_same(
        &render(&[]),
        &objects(&read("conf/install.yaml")),
        "the chart",
    );
}

#[test]
#[ignore = "needs helm: make chart-test"]
fn the_agent_takes_every_value_that_the_chart_passes_on() {
    let values = other_values();
    let flags: Vec<String> = of_the_agent()
        .iter()
        .map(|flag| camel_case(flag.get_long().unwrap()))
        .collect();
    for flag in &flags {
        assert!(values.get(flag).is_some(), "no value for {flag}");
    }
    let set = format!("--set-json=agent={values}");
    let rendered = render(&[&set]);
    let data = rendered["ConfigMap podwire"]["data"].as_object().unwrap();
    assert_eq!(data.len(), flags.len());
    assert_eq!(data["PODWIRE_CONNTRACK_MIN"], "1048576", "no exponent");
    assert_eq!(data["PODWIRE_NON_MASQUERADE_CIDRS"], "10.0.0.0/8,fd00::/8");
    let mut words = vec!["podwire-agent".to_owned(), "run".to_owned()];
    for (variable, value) in data {
        let flag = variable.strip_prefix("PODWIRE_").unwrap();
        let flag = flag.to_lowercase().replace('_', "-");
        words.push(format!("--{flag}={}", value.as_str().unwrap()));
    }
    Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
#[ignore = "needs helm: make chart-test"]
fn an_empty_list_is_the_default_and_not_an_empty_text() {
    let rendered = render(&["--set-json=agent.serviceCidr=[]"]);
    assert_eq!(
        rendered["ConfigMap podwire"]["data"],
        json!({"PODWIRE_LOG": "info"})
    );
}

#[test]
#[ignore = "needs helm: make chart-test"]
fn wrong_values_and_unknown_keys_are_refused() {
    for wrong in [
        "colour=red",
        "agent.mtv=1400",
        "agent.mtu=100",
        "agent.mtu=70000",
        "agent.mtu=large",
        "agent.balancing=fastest",
        "agent.masquerade=maybe",
        "agent.leaseGrace=5",
        "agent.uplink=a/b",
        "agent.uplink=sixteen-letters-",
        "agent.serviceCidr={10.0.0.0}",
        "agent.serviceCidr={10.0.0.0/33}",
        "agent.apiserver={10.0.0.1:6443}",
        "agent.healthzBindAddress=10256",
        "agent.nodeportAddresses=nodes",
        "agent.conntrackMin=-1",
        "agent.logFormat=xml",
        "agent.log=",
        "image.pullPolicy=Sometimes",
        "image.digest=sha256:1",
        "paths.cniBinDir=opt/cni/bin",
        "paths.cniBinDir=",
        "paths.other=/x",
        "uninstall.enabled=perhaps",
        "maxUnavailable=0",
        "resources.limit.memory=64Mi",
    ] {
        let set = format!("--set={wrong}");
        let said = try_render(&[&set]).expect_err(wrong);
        assert!(
            said.contains("meet the specifications of the schema"),
            "{wrong}: {said}"
        );
    }
}

#[test]
#[ignore = "needs helm: make chart-test"]
fn a_changed_setting_replaces_the_pods() {
    let annotations = |arguments: &[&str]| {
        let rendered = render(arguments);
        rendered["DaemonSet podwire"]["spec"]["template"]["metadata"]["annotations"].clone()
    };
    assert_eq!(annotations(&[]), Value::Null);
    let one = annotations(&["--set=agent.mtu=1400"]);
    assert_ne!(one, Value::Null);
    assert_ne!(one, annotations(&["--set=agent.mtu=1500"]));
    let both = annotations(&["--set=agent.mtu=1400,podAnnotations.a=b"]);
    assert_eq!(both["a"], "b");
    assert_eq!(both["podwire.io/settings"], one["podwire.io/settings"]);
}

#[test]
#[ignore = "needs helm: make chart-test"]
fn the_probes_ask_where_the_agent_answers() {
    let agent = |address: &str| {
        let set = format!("--set-string=agent.healthzBindAddress={address}");
        pod(&render(&[&set]), "DaemonSet podwire")["containers"][0].clone()
    };
    let get = |port: u16, path: &str| json!({"path": path, "port": port});
    let other = agent("0.0.0.0:10356");
    assert_eq!(other["livenessProbe"]["httpGet"], get(10356, "/livez"));
    assert_eq!(other["readinessProbe"]["httpGet"], get(10356, "/healthz"));
    let local = agent("127.0.0.1:10356");
    assert_eq!(local["livenessProbe"]["httpGet"]["host"], "127.0.0.1");
    let nowhere = agent("");
    assert_eq!(nowhere["livenessProbe"], Value::Null);
    assert_eq!(nowhere["readinessProbe"], Value::Null);
}

#[test]
#[ignore = "needs helm: make chart-test"]
fn the_scheduler_is_told_of_the_ports_at_which_the_agent_answers() {
    let ports = |health: &str, metrics: &str| {
        let set = format!(
            "--set-string=agent.healthzBindAddress={health},agent.metricsBindAddress={metrics}"
        );
        let rendered = render(&[&set]);
        let update = &rendered["DaemonSet podwire"]["spec"]["updateStrategy"];
        // One that comes beside the old one would wait for its ports.
        assert_eq!(update["rollingUpdate"]["maxSurge"], 0);
        let agent = pod(&rendered, "DaemonSet podwire")["containers"][0].clone();
        let ports = agent["ports"].as_array().cloned().unwrap_or_default();
        let ports = ports.iter().map(|port| {
            let number = port["containerPort"].as_u64().unwrap();
            (port["name"].as_str().unwrap().to_owned(), number)
        });
        ports.collect::<BTreeMap<_, _>>()
    };
    let named = |all: &[(&str, u64)]| {
        let all = all
            .iter()
            .map(|(name, number)| ((*name).to_owned(), *number));
        all.collect::<BTreeMap<_, _>>()
    };
    let both = ports("0.0.0.0:10356", "[::1]:10349");
    assert_eq!(both, named(&[("health", 10356), ("metrics", 10349)]));
    assert_eq!(ports("", "[::1]:10349"), named(&[("metrics", 10349)]));
    assert_eq!(ports("[::]:10256", ""), named(&[("health", 10256)]));
    // The API server refuses a port that is there twice.
    let same = ports("192.0.2.1:10256", "127.0.0.1:10256");
    assert_eq!(same, named(&[("health", 10256)]));
    assert_eq!(ports("", ""), named(&[]));
}

#[test]
#[ignore = "needs helm: make chart-test"]
fn uninstall_replaces_each_agent_by_the_pod_of_the_uninstall_manifest() {
    let rendered = render(&["--set=uninstall.enabled=true"]);
    let wanted = objects(&read("conf/uninstall.yaml"));
    let wanted = pod(&wanted, "DaemonSet podwire-uninstall");
    assert_eq!(pod(&rendered, "DaemonSet podwire"), wanted);
    // The agent's own DaemonSet, so that the agent of a node ends before the pod that removes
    // what it made begins.
    let agent = render(&[]);
    let selector = |objects: &BTreeMap<String, Value>| {
        objects["DaemonSet podwire"]["spec"]["selector"].clone()
    };
    assert_eq!(selector(&rendered), selector(&agent));
    let update = &rendered["DaemonSet podwire"]["spec"]["updateStrategy"];
    assert_eq!(update["rollingUpdate"]["maxSurge"], 0);

    let pods = pod(
        &render(&["--set=uninstall.enabled=true,uninstall.pods=true"]),
        "DaemonSet podwire",
    );
    assert_eq!(
        pods["initContainers"][0]["args"],
        json!(["uninstall", "--pods"])
    );
}

#[test]
#[ignore = "needs helm: make chart-test"]
fn the_image_is_the_one_that_is_named() {
    let image = |arguments: &[&str]| {
        pod(&render(arguments), "DaemonSet podwire")["containers"][0]["image"].clone()
    };
    assert_eq!(
        image(&["--set=image.repository=example.com:5000/a/podwire,image.tag=v2"]),
        "example.com:5000/a/podwire:v2"
    );
    let digest = format!("sha256:{}", "0".repeat(64));
    let set = format!("--set=image.digest={digest}");
    assert_eq!(image(&[&set]), format!("podwire@{digest}"));
}

#[test]
#[ignore = "needs helm: make chart-test"]
fn another_run_directory_is_the_same_on_the_node_and_in_the_container() {
    let rendered = render(&["--set=paths.runDir=/var/run/pods"]);
    assert_eq!(
        rendered["ConfigMap podwire"]["data"]["PODWIRE_RUN_DIR"],
        "/var/run/pods"
    );
    let pod = pod(&rendered, "DaemonSet podwire").to_string();
    assert_eq!(pod.matches("/var/run/pods").count(), 2, "{pod}");
    assert!(!pod.contains("/run/podwire"), "{pod}");
}
