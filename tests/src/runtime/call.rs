//! One call of a list of plugins: what they get on standard input and in the environment.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{NetworkConfig, Sandbox, random_hex};
use crate::error::{Error, Result};
use crate::layout;
use crate::place::Place;

/// A CNI verb.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Attach.
    Add,
    /// Detach.
    Del,
    /// Ask whether an attachment is as it was made.
    Check,
    /// Ask whether the network can serve.
    Status,
    /// Free what belongs to no pod.
    Gc,
}

impl Verb {
    /// As it is spelled in `CNI_COMMAND`.
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Add => "ADD",
            Verb::Del => "DEL",
            Verb::Check => "CHECK",
            Verb::Status => "STATUS",
            Verb::Gc => "GC",
        }
    }
}

/// What a runtime keeps of a successful ADD.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attachment {
    /// The configuration it was made with.
    pub network: NetworkConfig,
    /// The result of the last plugin.
    pub result: Value,
}

/// A call that is about to be made.
#[derive(Debug)]
pub struct Call<'a> {
    pub(super) place: &'a Place,
    pub(super) verb: Verb,
    pub(super) sandbox: Option<&'a Sandbox>,
    pub(super) netns: &'a str,
    pub(super) limit: Duration,
}

impl Call<'_> {
    /// Calls every plugin of the network in the order that the verb wants. `result` is what ADD
    /// answered. Answers with the result of the last plugin, if the verb has one.
    pub fn list(
        &self,
        network: &NetworkConfig,
        link: &str,
        result: Option<&Value>,
    ) -> Result<Option<Value>> {
        let mut previous = result.cloned();
        let mut plugins: Vec<_> = network.plugins.iter().collect();
        if self.verb == Verb::Del {
            plugins.reverse();
        }
        for plugin in plugins {
            let answer = self.plugin(network, plugin, link, previous.as_ref())?;
            if self.verb == Verb::Add {
                previous = answer;
            }
        }
        Ok(previous)
    }

    fn plugin(
        &self,
        network: &NetworkConfig,
        plugin: &Map<String, Value>,
        link: &str,
        previous: Option<&Value>,
    ) -> Result<Option<Value>> {
        let kind = plugin
            .get("type")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let input = self.input(network, plugin, previous).to_string();
        let program = Path::new(layout::CNI_BIN).join(kind);
        let ran = self.place.call(
            &program,
            &self.environment(link),
            input.as_bytes(),
            self.limit,
        )?;
        let failed = |code, message| Error::Plugin {
            plugin: kind.into(),
            verb: self.verb.as_str(),
            pod: self
                .sandbox
                .map_or("the node", |sandbox| &sandbox.name)
                .into(),
            node: self.place.name().into(),
            code,
            message,
        };
        let answer = serde_json::from_str::<Value>(&ran.stdout).ok();
        if ran.status != 0 {
            // Runtimes read the error from standard output and nothing else.
            let error = answer.unwrap_or_default();
            let code = error["code"]
                .as_u64()
                .and_then(|code| u32::try_from(code).ok());
            let message = match (error["msg"].as_str(), error["details"].as_str()) {
                (Some(message), None | Some("")) => message.to_owned(),
                (Some(message), Some(details)) => format!("{message}: {details}"),
                (None, _) => format!("exit status {}, {}", ran.status, ran.stderr.trim()),
            };
            return Err(failed(code.unwrap_or(0), message));
        }
        match self.verb {
            Verb::Add => answer
                .map(Some)
                .ok_or_else(|| failed(0, format!("answered {:?}, which is no JSON", ran.stdout))),
            _ if ran.stdout.trim().is_empty() => Ok(None),
            _ => Err(failed(
                0,
                format!("answered {:?} instead of nothing", ran.stdout),
            )),
        }
    }

    fn input(
        &self,
        network: &NetworkConfig,
        plugin: &Map<String, Value>,
        previous: Option<&Value>,
    ) -> Value {
        let mut input = plugin.clone();
        input.insert("name".into(), json!(network.name));
        input.insert("cniVersion".into(), json!(network.cni_version));
        if let Some(previous) = previous {
            input.insert("prevResult".into(), previous.clone());
        }
        if let Some(attachments) = &network.valid_attachments {
            input.insert("cni.dev/valid-attachments".into(), json!(attachments));
        }
        let able = plugin
            .get("capabilities")
            .is_some_and(|able| able["portMappings"] == true);
        let ports = self.sandbox.map_or(&[][..], |sandbox| &sandbox.ports);
        if able && !ports.is_empty() {
            input.insert("runtimeConfig".into(), json!({"portMappings": ports}));
        }
        Value::Object(input)
    }

    fn environment(&self, link: &str) -> Vec<(String, String)> {
        let mut environment = vec![
            ("CNI_COMMAND".to_owned(), self.verb.as_str().to_owned()),
            ("CNI_PATH".to_owned(), layout::CNI_BIN.to_owned()),
        ];
        let Some(sandbox) = self.sandbox else {
            return environment;
        };
        let mut arguments = vec![
            ("K8S_POD_NAMESPACE", sandbox.namespace.as_str()),
            ("K8S_POD_NAME", &sandbox.name),
            ("K8S_POD_INFRA_CONTAINER_ID", &sandbox.id),
            ("K8S_POD_UID", &sandbox.uid),
            ("IgnoreUnknown", "1"),
        ];
        // containerd keeps them in a Go map, so every call has another order.
        let turn = random_hex::<1>().as_bytes()[0] as usize % arguments.len();
        arguments.rotate_left(turn);
        let arguments: Vec<String> = arguments
            .into_iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        environment.extend([
            ("CNI_CONTAINERID".to_owned(), sandbox.id.clone()),
            ("CNI_NETNS".to_owned(), self.netns.to_owned()),
            ("CNI_IFNAME".to_owned(), link.to_owned()),
            ("CNI_ARGS".to_owned(), arguments.join(";")),
        ]);
        environment
    }
}
