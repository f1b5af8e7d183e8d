use serde_json::Value;

use super::*;
use crate::report::{
    EndpointReport, FeatureReport, IsolatedReport, PodReport, RouteReport, ServiceReport,
    UplinkReport, WarningReport,
};

fn report() -> Report {
    let route = |node: &str, cidr: &str, gateway: Option<&str>, present| RouteReport {
        node: node.into(),
        destination: cidr.parse().unwrap(),
        gateway: gateway.map(|ip| ip.parse().unwrap()),
        link: gateway.map(|_| "eth0".to_owned()),
        unreachable: gateway.is_none(),
        refused: false,
        present,
    };
    let pod = |pod: Option<&str>, address: &str, present| PodReport {
        link: "veth0a1b2c3d4e5".into(),
        pod: pod.map(str::to_owned),
        container_id: "0123456789abcdef".into(),
        ifname: "eth0".into(),
        addresses: vec![address.parse().unwrap()],
        mtu: Some(1500),
        present,
    };
    let endpoint = |address: &str, here, connections| EndpointReport {
        address: address.parse().unwrap(),
        here,
        connections: Some(connections),
    };
    Report {
        wide: true,
        node: "worker2".into(),
        version: "0.1.0".into(),
        listed: true,
        uplink: Some(UplinkReport {
            name: "eth0".into(),
            mtu: 1500,
            up: true,
            addresses: vec!["172.18.0.4/16".parse().unwrap()],
        }),
        routes: vec![
            route("worker", "10.10.1.0/24", Some("172.18.0.2"), true),
            route("worker2", "10.10.2.0/24", None, true),
        ],
        cni_conf: Some(CniConfReport {
            path: "/etc/cni/net.d/00-podwire.conflist".into(),
            present: true,
            current: true,
            ..CniConfReport::default()
        }),
        pods: vec![
            pod(Some("default/web"), "10.10.2.4", true),
            pod(None, "10.10.2.5", false),
        ],
        services: vec![ServiceReport {
            name: "default/svc-clusterip".into(),
            ports: vec![ServicePortReport {
                name: "http".into(),
                protocol: "tcp".into(),
                fronts: vec!["10.200.1.63:9000".into(), "*:31662".into()],
                balancing: "random".into(),
                affinity: Some(10800),
                endpoint_count: 2,
                endpoints: vec![
                    endpoint("10.10.1.3:80", false, 14),
                    endpoint("10.10.2.4:80", true, 16),
                ],
                connections: Some(30),
            }],
        }],
        policies: None,
        refused: Default::default(),
        features: vec![FeatureReport {
            name: "routes".into(),
            error: None,
            syncs: 3,
            writes: 4,
        }],
        warnings: Vec::new(),
        differences: Vec::new(),
    }
}

#[test]
fn a_healthy_node_at_a_glance() {
    assert_eq!(
        render(&report(), Output::Short).unwrap(),
        "\
Node worker2: all is as it should be
Uplink eth0: up, MTU 1500, 172.18.0.4/16
CNI configuration /etc/cni/net.d/00-podwire.conflist: in place, first in its directory

Routes to the pods of other nodes
  NODE     POD CIDR      NEXT HOP                    LINK  IN KERNEL
  worker   10.10.1.0/24  172.18.0.2                  eth0  yes
  worker2  10.10.2.0/24  none: unused pod addresses  -     yes

Pods on this node
  POD                     ADDRESSES  LINK             LINK EXISTS
  default/web             10.10.2.4  veth0a1b2c3d4e5  yes
  container 0123456789ab  10.10.2.5  veth0a1b2c3d4e5  NO

Services
  SERVICE                PORT      ANSWERS AT                ENDPOINTS  CONNECTIONS  BALANCING
  default/svc-clusterip  http/tcp  10.200.1.63:9000 *:31662  2          30           random, affinity 10800 s
"
    );
}

#[test]
fn the_state_of_the_cni_configuration_is_one_sentence() {
    let waits = || Some("waits for Node worker2 to exist".to_owned());
    let others = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    for (present, current, waits, before, after, expected) in [
        (
            false,
            false,
            waits(),
            &[][..],
            &[][..],
            "not there yet (waits for Node worker2 to exist)",
        ),
        (
            true,
            false,
            waits(),
            &[],
            &[],
            "left as it was (waits for Node worker2 to exist), first in its directory",
        ),
        (
            true,
            true,
            None,
            &["00-a.conf"],
            &["10-b.conflist"],
            "in place; NOT USED: 00-a.conf sorts before it; other files, not used: 10-b.conflist",
        ),
        (
            true,
            true,
            None,
            &[],
            &["10-b.conflist", "99-c.json"],
            "in place, first in its directory; other files, not used: 10-b.conflist, 99-c.json",
        ),
        (
            true,
            false,
            None,
            &[],
            &[],
            "differs from what is wanted, first in its directory",
        ),
    ] {
        let conf = CniConfReport {
            path: "/x".into(),
            present,
            current,
            waits,
            before: others(before),
            after: others(after),
        };
        assert_eq!(cni_conf(&conf), format!("CNI configuration /x: {expected}"));
    }
}

#[test]
fn the_wide_form_has_endpoints_and_parts() {
    let text = render(&report(), Output::Wide).unwrap();
    let rows: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    for row in [
        vec!["to", "10.10.1.3:80", "14"],
        vec!["to", "10.10.2.4:80", "(this", "node)", "16"],
        vec!["routes", "works", "3", "4"],
    ] {
        assert!(rows.contains(&row), "{row:?} in {text}");
    }
}

#[test]
fn what_is_wrong_comes_with_its_number() {
    let mut report = report();
    report.features[0].error = Some("cannot add route: no".into());
    report.warnings.push(WarningReport {
        feature: "source".into(),
        object: "Node a".into(),
        text: "has no podCIDR".into(),
    });
    report.differences = (0..30)
        .map(|number| format!("route {number} is missing"))
        .collect();
    report.uplink = None;
    let text = render(&report, Output::Short).unwrap();
    assert!(
        text.starts_with(
            "Node worker2: 1 part fails, 1 warning, 30 differences\nUplink: not found"
        ),
        "{text}"
    );
    for line in [
        "\n  Node a  has no podCIDR\n",
        "\nroutes fails and will be tried again: cannot add route: no\n",
        "\n  route 19 is missing\n  ... and 10 more; -o wide shows all\n",
    ] {
        assert!(text.contains(line), "{line:?} in {text}");
    }
    assert!(
        render(&report, Output::Wide)
            .unwrap()
            .contains("route 29 is missing")
    );
    report.listed = false;
    assert!(
        render(&report, Output::Short)
            .unwrap()
            .contains("waiting for the first")
    );
}

#[test]
fn long_lists_are_cut_in_the_short_form_only() {
    let mut report = report();
    report.routes = vec![report.routes[0].clone(); 25];
    let lines = |output| {
        let text = render(&report, output).unwrap();
        text.lines()
            .filter(|line| line.contains("172.18.0.2"))
            .count()
    };
    assert_eq!((lines(Output::Short), lines(Output::Wide)), (20, 25));
    assert!(
        render(&report, Output::Short)
            .unwrap()
            .contains("... and 5 more")
    );
}

#[test]
fn programs_get_all_of_it_back() {
    let report = report();
    let json = render(&report, Output::Json).unwrap();
    assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
    let yaml = render(&report, Output::Yaml).unwrap();
    assert_eq!(serde_saphyr::from_str::<Report>(&yaml).unwrap(), report);
}

#[test]
fn what_rules_refused_is_shown_where_there_is_any() {
    let mut report = report();
    report.refused = [("no-endpoints", 3), ("spoofed", 12), ("loopback", 0)]
        .map(|(reason, packets)| (reason.to_owned(), packets))
        .into();
    let text = render(&report, Output::Short).unwrap();
    let line = "\nPackets refused and dropped so far: 3 no-endpoints, 12 spoofed (podwire-agent drops \
                names them)\n";
    assert!(text.contains(line), "{text}");
    report.refused.clear();
    assert!(!render(&report, Output::Short).unwrap().contains("so far"));
}

#[test]
fn policies_are_shown_if_there_are_any_with_the_pods_that_they_isolate() {
    let mut report = report();
    assert!(!for_people(&report, true).contains("olicies"));
    report.policies = Some(PoliciesReport::default());
    assert!(!for_people(&report, true).contains("olicies"));
    report.policies = Some(PoliciesReport {
        in_cluster: 12,
        here: 2,
        isolated: vec![IsolatedReport {
            pod: "shop/db-0".into(),
            addresses: vec!["10.10.2.4".parse().unwrap(), "fd00::4".parse().unwrap()],
            ingress: vec!["db".into(), "deny".into()],
            egress: Vec::new(),
        }],
        isolating: Vec::new(),
        denied: DeniedReport {
            ingress: 7,
            egress: 1,
            undecided: 0,
        },
    });
    let text = for_people(&report, false);
    let line = "Policies: 12 in the cluster, 2 of them for pods here; isolated pods: 1; packets \
                denied so far: 7 ingress, 1 egress\n";
    assert!(text.contains(line), "{text}");
    let row = "shop/db-0  10.10.2.4 fd00::4  db deny     -";
    assert!(text.contains(row), "{text}");
    report.policies.as_mut().unwrap().denied.undecided = 3;
    let text = for_people(&report, false);
    assert!(
        text.contains("1 egress, 3 of pods that were not known yet\n"),
        "{text}"
    );
}

/// Every text of a JSON value, whatever holds it.
fn texts(value: &mut Value, change: &mut impl FnMut(&mut String)) {
    match value {
        Value::String(text) => change(text),
        Value::Array(values) => values.iter_mut().for_each(|value| texts(value, change)),
        Value::Object(fields) => fields.values_mut().for_each(|value| texts(value, change)),
        _ => {}
    }
}

#[test]
fn names_of_anyones_choice_forge_no_line_and_reach_no_terminal_in_any_format() {
    let mut report = report();
    report.warnings = vec![WarningReport::default()];
    report.differences = vec![String::new()];
    report.features[0].error = Some(String::new());
    let conf = report.cni_conf.as_mut().unwrap();
    conf.before = vec![String::new()];
    conf.after = vec![String::new()];
    conf.waits = Some(String::new());
    let mut value = serde_json::to_value(&report).unwrap();
    // Addresses stay what they are, or there is no report.
    texts(&mut value, &mut |text| {
        if !text.starts_with(|c: char| c.is_ascii_digit()) || text.contains("abc") {
            text.push_str("\u{1b}]0;x\u{7}\u{9b}2J\u{7f}\u{202e}\u{2028}\nforged");
        }
    });
    let hostile: Report = serde_json::from_value(value).unwrap();
    for output in [Output::Short, Output::Wide, Output::Json, Output::Yaml] {
        let text = render(&hostile, output).unwrap();
        assert!(
            !text.contains(|c: char| c != '\n' && crate::text::is_unprintable(c)),
            "{output:?}: {text:?}"
        );
        assert!(text.contains("forged"));
        assert!(
            !text
                .lines()
                .any(|line| line.trim_start().starts_with("forged")),
            "{text}"
        );
    }
    let json: Report = serde_json::from_str(&render(&hostile, Output::Json).unwrap()).unwrap();
    assert_eq!(json, hostile);
    let yaml: Report = serde_saphyr::from_str(&render(&hostile, Output::Yaml).unwrap()).unwrap();
    assert_eq!(yaml, hostile);
}
