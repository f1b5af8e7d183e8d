//! The network configuration of a node, chosen and read as libcni and containerd do.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::layout;

/// How old the runtime is, which decides which version of the specification it speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// containerd 2: the newest of `cniVersions` that libcni knows, which is 1.1.0.
    Current,
    /// containerd 1.6: `cniVersion` as it stands; it has not heard of `cniVersions`, nor of 1.1.0.
    Old,
}

/// Versions that a current libcni knows, oldest first.
const KNOWN: [&str; 7] = [
    "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0",
];

/// A list of plugins that make up one network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetworkConfig {
    /// The network's name.
    pub name: String,
    /// The version of the specification that plugins are called with.
    pub cni_version: String,
    /// The plugins' own configurations, in order.
    pub plugins: Vec<Map<String, Value>>,
    /// What GC passes on besides.
    #[serde(default)]
    pub valid_attachments: Option<Vec<Value>>,
}

impl NetworkConfig {
    /// containerd's built-in second network.
    pub fn loopback() -> NetworkConfig {
        let plugin = Map::from_iter([("type".to_owned(), json!("loopback"))]);
        NetworkConfig {
            name: "cni-loopback".into(),
            cni_version: "0.3.1".into(),
            plugins: vec![plugin],
            valid_attachments: None,
        }
    }

    /// Reads the content of a `.conf`, `.conflist` or `.json` file.
    pub fn parse(text: &str, dialect: Dialect) -> Result<NetworkConfig, String> {
        let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let name = value["name"]
            .as_str()
            .filter(|name| !name.is_empty())
            .ok_or("it has no name")?;
        let plugins = match &value["plugins"] {
            Value::Null => vec![value.as_object().cloned().ok_or("it is no JSON object")?],
            Value::Array(plugins) => plugins
                .iter()
                .map(|plugin| {
                    plugin
                        .as_object()
                        .cloned()
                        .ok_or("a plugin is no JSON object")
                })
                .collect::<Result<_, _>>()?,
            _ => return Err("plugins is no list".into()),
        };
        if plugins.is_empty() {
            return Err("it lists no plugin".into());
        }
        if plugins
            .iter()
            .any(|plugin| !plugin.get("type").is_some_and(Value::is_string))
        {
            return Err("a plugin has no type".into());
        }
        Ok(NetworkConfig {
            name: name.to_owned(),
            cni_version: version(&value, dialect)?,
            plugins,
            valid_attachments: None,
        })
    }

    /// The same network, for a GC call.
    pub fn with_valid_attachments(mut self, attachments: Vec<Value>) -> NetworkConfig {
        self.valid_attachments = Some(attachments);
        self
    }
}

/// The version that plugins are called with.
fn version(value: &Value, dialect: Dialect) -> Result<String, String> {
    let single = value["cniVersion"].as_str().unwrap_or("0.1.0");
    let newest = match dialect {
        Dialect::Old => single,
        Dialect::Current => value["cniVersions"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .chain([single])
            .filter(|version| KNOWN.contains(version))
            .max_by_key(|version| KNOWN.iter().position(|known| known == version))
            .ok_or_else(|| format!("no runtime knows CNI version {single}"))?,
    };
    let known = match dialect {
        Dialect::Current => &KNOWN[..],
        Dialect::Old => &KNOWN[..KNOWN.len() - 1],
    };
    if known.contains(&newest) {
        Ok(newest.to_owned())
    } else {
        Err(format!("this runtime does not know CNI version {newest}"))
    }
}

/// Reads the first file of `net.d`, on a thread that lives on the node.
pub(super) fn load(dialect: Dialect) -> Result<NetworkConfig, String> {
    let file = first(Path::new(layout::NET_D))?;
    let failed = |reason: String| format!("{}: {reason}", file.display());
    let text = fs::read_to_string(&file).map_err(|error| failed(error.to_string()))?;
    NetworkConfig::parse(&text, dialect).map_err(failed)
}

/// The file that sorts first among those with a suffix that runtimes look at.
pub fn first(directory: &Path) -> Result<PathBuf, String> {
    let entries = fs::read_dir(directory).map_err(|error| error.to_string())?;
    let files = entries.flatten().map(|entry| entry.path()).filter(|path| {
        let suffix = path.extension().and_then(|suffix| suffix.to_str());
        matches!(suffix, Some("conf" | "conflist" | "json"))
    });
    files
        .min()
        .ok_or_else(|| "it holds no .conf, .conflist or .json file".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"{"name": "n", "cniVersion": "1.0.0",
        "cniVersions": ["0.4.0", "1.1.0", "1.0.0", "7.0.0"], "plugins": [{"type": "podwire"}]}"#;

    #[test]
    fn the_newest_common_version_is_spoken_and_an_old_runtime_takes_the_single_one() {
        let speaks = |dialect| NetworkConfig::parse(LIST, dialect).unwrap().cni_version;
        assert_eq!(speaks(Dialect::Current), "1.1.0");
        assert_eq!(speaks(Dialect::Old), "1.0.0");
    }

    #[test]
    fn a_single_plugin_is_a_list_of_one() {
        let conf = r#"{"name": "n", "type": "ptp", "cniVersion": "0.3.1"}"#;
        let network = NetworkConfig::parse(conf, Dialect::Current).unwrap();
        assert_eq!(network.plugins.len(), 1);
    }

    #[test]
    fn a_file_that_is_cut_short_is_no_network() {
        assert!(NetworkConfig::parse(&LIST[..40], Dialect::Current).is_err());
        assert!(NetworkConfig::parse("{}", Dialect::Current).is_err());
    }
}
