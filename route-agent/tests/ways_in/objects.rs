//! Kubernetes objects out of YAML, so that two ways to make them can be compared.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The root of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

pub fn read(path: &str) -> String {
    let path = repository().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// All objects of a text, by kind and name.
pub fn objects(text: &str) -> BTreeMap<String, Value> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
    let objects = documents.into_iter().filter(|document| !document.is_null());
    objects
        .map(|mut object| {
            without_labels_of_a_chart(&mut object);
            in_one_order(&mut object);
            let name = object["metadata"]["name"].as_str().unwrap();
            (
                format!("{} {name}", object["kind"].as_str().unwrap()),
                object,
            )
        })
        .collect()
}

fn without_labels_of_a_chart(object: &mut Value) {
    let Some(labels) = object["metadata"]["labels"].as_object_mut() else {
        return;
    };
    for label in ["instance", "version", "managed-by"] {
        labels.remove(&format!("app.kubernetes.io/{label}"));
    }
    labels.remove("helm.sh/chart");
}

/// Lists of objects are sets to Kubernetes (volumes, mounts); those of texts are not (arguments).
fn in_one_order(value: &mut Value) {
    match value {
        Value::Array(items) => {
            items.iter_mut().for_each(in_one_order);
            if items.iter().all(Value::is_object) {
                items.sort_by_key(Value::to_string);
            }
        }
        Value::Object(fields) => fields.values_mut().for_each(in_one_order),
        _ => {}
    }
}

/// What a program prints in the repository; its complaint if it fails.
pub fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let done = Command::new(program)
        .args(arguments)
        .current_dir(repository())
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}; `make chart-test` sees to it"));
    if done.status.success() {
        Ok(String::from_utf8(done.stdout).unwrap())
    } else {
        Err(String::from_utf8(done.stderr).unwrap())
    }
}

/// Compares object by object, so that a failure shows the one that differs.
pub fn assert_same(found: &BTreeMap<String, Value>, wanted: &BTreeMap<String, Value>, what: &str) {
    let names: Vec<_> = found.keys().collect();
    assert_eq!(names, wanted.keys().collect::<Vec<_>>(), "{what}");
    for (name, object) in wanted {
        let pretty = |value: &Value| serde_json::to_string_pretty(value).unwrap();
        assert_eq!(pretty(&found[name]), pretty(object), "{what}: {name}");
    }
}
