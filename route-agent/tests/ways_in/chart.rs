//! The chart's files against the agent's command line.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::flags::{all, camel_case, of_the_agent, paths};
use crate::objects::{objects, read, yaml};

fn schema() -> Value {
    serde_json::from_str(&read("conf/helm/podwire/values.schema.json")).unwrap()
}

fn keys(value: &Value) -> BTreeSet<String> {
    value.as_object().unwrap().keys().cloned().collect()
}

#[test]
fn every_flag_is_a_value_and_every_value_is_a_flag() {
    let known = schema();
    let flags = of_the_agent();
    let flags: BTreeSet<String> = flags
        .iter()
        .map(|flag| camel_case(flag.get_long().unwrap()))
        .collect();
    assert_eq!(keys(&known["properties"]["agent"]["properties"]), flags);

    let mut paths: BTreeSet<String> = paths().into_iter().collect();
    // The flag of `install`.
    paths.insert("cniBinDir".to_owned());
    assert_eq!(keys(&known["properties"]["paths"]["properties"]), paths);
}

#[test]
fn the_variable_of_a_flag_is_made_from_its_name() {
    for flag in of_the_agent() {
        let name = flag.get_long().unwrap();
        let variable = format!("PODWIRE_{}", name.to_uppercase().replace('-', "_"));
        assert_eq!(flag.get_env().unwrap(), variable.as_str());
    }
}

#[test]
fn the_values_are_shown_with_the_defaults_of_the_agent() {
    let values = read("conf/helm/podwire/values.yaml");
    for flag in of_the_agent() {
        let key = camel_case(flag.get_long().unwrap());
        let shown = values.lines().find_map(|line| {
            let line = line.strip_prefix("  # ").or(line.strip_prefix("  "))?;
            line.strip_prefix(&format!("{key}: "))
        });
        let shown = shown.unwrap_or_else(|| panic!("values.yaml does not show {key}"));
        if let Some(default) = flag.get_default_values().first() {
            assert_eq!(shown.trim_matches('"'), default.to_str().unwrap(), "{key}");
        }
    }
}

#[test]
fn the_paths_are_those_of_the_agent() {
    let values = yaml(&read("conf/helm/podwire/values.yaml"));
    for flag in all() {
        let name = camel_case(flag.get_long().unwrap());
        if paths().contains(&name) {
            let default = flag.get_default_values()[0].to_str().unwrap();
            assert_eq!(values["paths"][&name], default, "{name}");
        }
    }
}

#[test]
fn all_values_are_in_the_schema_and_unknown_ones_are_refused() {
    let (schema, values) = (schema(), yaml(&read("conf/helm/podwire/values.yaml")));
    let known = keys(&schema["properties"]);
    assert!(keys(&values).is_subset(&known), "{:?}", keys(&values));
    assert_eq!(schema["additionalProperties"], false);
    for (name, property) in schema["properties"].as_object().unwrap() {
        if property.get("properties").is_some() {
            assert_eq!(property["additionalProperties"], false, "{name}");
        }
    }
}

#[test]
fn the_chart_the_manifest_and_the_program_have_one_version() {
    let chart = yaml(&read("conf/helm/podwire/Chart.yaml"));
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(chart["version"], version);
    assert_eq!(chart["appVersion"], version);
    let install = objects(&read("conf/install.yaml"));
    let pod = &install["DaemonSet podwire"]["spec"]["template"]["spec"];
    let image = format!("podwire:{version}");
    assert_eq!(pod["containers"][0]["image"], image.as_str());
}

#[test]
fn the_manifest_tells_the_scheduler_of_the_ports_at_which_the_agent_answers() {
    let install = objects(&read("conf/install.yaml"));
    let set = &install["DaemonSet podwire"]["spec"];
    let ports = set["template"]["spec"]["containers"][0]["ports"].as_array();
    let ports = ports.unwrap().iter().map(|port| {
        let name = port["name"].as_str().unwrap();
        (name, port["containerPort"].to_string())
    });
    let mut found = BTreeSet::new();
    for flag in of_the_agent() {
        if let Some(name) = flag.get_long().unwrap().strip_suffix("-bind-address") {
            let address = flag.get_default_values()[0].to_str().unwrap();
            let port = address.rsplit(':').next().unwrap().to_owned();
            found.insert((
                if name == "healthz" { "health" } else { name }.to_owned(),
                port,
            ));
        }
    }
    let ports = ports.map(|(name, port)| (name.to_owned(), port));
    assert_eq!(ports.collect::<BTreeSet<_>>(), found);
    // One that comes beside the old one would wait for its ports.
    assert_eq!(set["updateStrategy"]["rollingUpdate"]["maxSurge"], 0);
}
