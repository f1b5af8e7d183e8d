//! The example configurations in conf/cni do what they say, called as a runtime calls them.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::node::{Call, Container, on_a_node};

/// One plugin of a list as a runtime hands it over: with the name and version of the list, and what
/// the runtime knows where the plugin says that it can use it.
fn configuration(list: &Value, plugin: &Value) -> Value {
    let mut config = plugin.clone();
    for key in ["name", "cniVersion"] {
        config[key] = list[key].clone();
    }
    let ports = json!([{"HostPort": 8080, "ContainerPort": 80, "Protocol": "tcp", "HostIP": ""}]);
    for (capability, value) in [
        ("portMappings", ports),
        (
            "bandwidth",
            json!({"IngressRate": 8_000_000, "IngressBurst": 800_000}),
        ),
    ] {
        if plugin["capabilities"][capability] == true {
            config["runtimeConfig"][capability] = value;
        }
    }
    config
}

fn run(list: &Value, container: &Container) {
    let plugins = list["plugins"].as_array().unwrap();
    let call = |verb, plugin: &Value| {
        let config = configuration(list, plugin);
        Call::new(plugin["type"].as_str().unwrap(), verb, container, &config)
    };
    let mut result: Option<Value> = None;
    for plugin in plugins {
        let add = call("ADD", plugin);
        let add = result.iter().fold(add, |add, result| add.after(result));
        result = Some(add.succeed());
    }
    let result = result.unwrap();
    assert!(
        result["ips"][0]["address"]
            .as_str()
            .unwrap()
            .starts_with("10.10.0.")
    );
    for plugin in plugins {
        call("CHECK", plugin).after(&result).succeed();
    }
    for plugin in plugins.iter().rev() {
        call("DEL", plugin).after(&result).succeed();
    }
}

#[test]
fn every_example_makes_a_container_and_leaves_nothing() {
    on_a_node(|node| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../conf/cni");
        let mut count = 0;
        for entry in fs::read_dir(folder).unwrap() {
            let list: Value =
                serde_json::from_slice(&fs::read(entry.unwrap().path()).unwrap()).unwrap();
            let container = node.container("a");
            run(&list, &container);
            node.assert_clean();
            node.remove(container);
            count += 1;
        }
        assert!(count >= 3, "{count} examples");
    });
}
