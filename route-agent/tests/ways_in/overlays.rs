//! The overlays for distributions, against the chart and against what `docs/clusters.md` says.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::objects::{assert_same, objects, read, repository, run};
use crate::rendered::try_render;

/// A row of the table in `docs/clusters.md`.
#[derive(Debug, PartialEq)]
struct Row {
    cni_bin: String,
    cni_conf: String,
    /// As the page has it: an address, or where it is read from.
    api_server: String,
}

/// The rows, by the folder to apply.
fn rows() -> BTreeMap<String, Row> {
    let page = read("docs/clusters.md");
    let mut rows = BTreeMap::new();
    for line in page.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<String> = line
            .trim_matches('|')
            .split('|')
            .map(|cell| cell.replace('`', "").trim().to_owned())
            .collect();
        let [_, folder, cni_bin, cni_conf, api_server] = cells.try_into().unwrap();
        if folder.starts_with("conf") {
            rows.insert(
                folder,
                Row {
                    cni_bin,
                    cni_conf,
                    api_server,
                },
            );
        }
    }
    rows
}

/// What a way to install says of the same things.
fn row(objects: &BTreeMap<String, Value>) -> Row {
    let pod = &objects["DaemonSet podwire"]["spec"]["template"]["spec"];
    let path = |name: &str| {
        let mut volumes = pod["volumes"].as_array().unwrap().iter();
        let volume = volumes.find(|volume| volume["name"] == name)?;
        volume["hostPath"]["path"].as_str().map(str::to_owned)
    };
    let server = &objects["ConfigMap podwire"]["data"]["PODWIRE_APISERVER"];
    let api_server = match (server.as_str(), path("kubelet-conf")) {
        (Some(server), None) => server.to_owned(),
        (None, Some(file)) => format!("from {file}"),
        both => panic!("the address of the API server and the kubelet's file: {both:?}"),
    };
    Row {
        cni_bin: path("cni-bin").unwrap(),
        cni_conf: path("cni-conf").unwrap(),
        api_server,
    }
}

fn built(folder: &str) -> BTreeMap<String, Value> {
    let with_kubectl = run("kubectl", &["kustomize", folder]);
    objects(&with_kubectl.unwrap_or_else(|error| panic!("{folder}: {error}")))
}

#[test]
fn the_base_of_the_overlays_is_the_manifest() {
    let copy = "conf/overlays/base/install.yaml";
    assert!(
        read(copy) == read("conf/install.yaml"),
        "cp conf/install.yaml {copy}"
    );
}

#[test]
fn every_overlay_has_its_row_and_its_values() {
    let folders = std::fs::read_dir(repository().join("conf/overlays")).unwrap();
    let folders = folders.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut found: BTreeSet<String> = folders
        .filter(|name| !["base", "components"].contains(&name.as_str()))
        .map(|name| format!("conf/overlays/{name}"))
        .collect();
    for folder in &found {
        read(&format!("{folder}/values.yaml"));
    }
    found.insert("conf".to_owned());
    assert_eq!(rows().into_keys().collect::<BTreeSet<_>>(), found);
}

#[test]
#[ignore = "needs kubectl: make chart-test"]
fn every_overlay_is_what_the_page_says_and_what_the_chart_makes_of_its_values() {
    assert_same(&built("conf"), &objects(&read("conf/install.yaml")), "conf");
    for (folder, said) in rows() {
        let overlay = built(&folder);
        assert_eq!(row(&overlay), said, "{folder}");
        if folder != "conf" {
            let values = format!("--values={folder}/values.yaml");
            let mut chart = try_render(&[&values]).unwrap();
            // Only a chart knows which settings its pods were made with.
            if let Some(metadata) = chart.get_mut("DaemonSet podwire").unwrap()["spec"]["template"]
                ["metadata"]
                .as_object_mut()
            {
                metadata.remove("annotations");
            }
            assert_same(&overlay, &chart, &folder);
        }
    }
}
