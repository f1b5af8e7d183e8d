//! Calls the plugin with any environment and any standard input, on a node that exists for nothing
//! else, and fails if it panics, answers with anything but CNI's JSON, or leaves something behind.
//!
//! An input is text: the name of the plugin, the variables one a line, an empty line, standard
//! input. `seeds/` has examples.
//!
//! The plugin runs in this process, so that libFuzzer sees which code an input reaches. What keeps
//! it from doing harm is a network namespace and a root directory of its own.

#![no_main]

#[path = "../src/node.rs"]
mod node;

use std::ffi::OsString;

use libfuzzer_sys::{Corpus, fuzz_target};
use podwire::plugin::{Answer, Plugin};
use serde_json::Value;

use node::Node;

/// A call of a plugin, as the input describes it.
#[derive(Clone)]
struct Call {
    plugin: Plugin,
    variables: Vec<(String, String)>,
    stdin: Vec<u8>,
}

thread_local! {
    /// libFuzzer runs its inputs on one thread.
    static NODE: Node = Node::new();
}

fuzz_target!(
    init: {
        node::prepare();
        NODE.with(|_| ());
    },
    |input: &[u8]| -> Corpus {
        match Call::parse(input) {
            Some(call) => {
                NODE.with(|node| {
                    check(node, &call);
                    node.tidy();
                });
                Corpus::Keep
            }
            None => Corpus::Reject,
        }
    }
);

/// Makes a call and what follows from it.
fn check(node: &Node, call: &Call) {
    let answer = call.answer();
    if !answer.success {
        node.assert_clean("after a call that failed");
        return;
    }
    if call.verb() == Some("ADD") {
        let result = answer.output.expect("ADD answers with a result");
        check_again(call, result);
        let del = call.with_verb("DEL").answer();
        assert!(del.success, "DEL after ADD: {:?}", del.output);
    }
    node.assert_clean("at the end");
}

/// What ADD has just made must stand a CHECK, unless the version has none.
fn check_again(call: &Call, result: Value) {
    /// An incompatible version, in the words of CNI.
    const VERSION: u32 = 1;
    let mut check = call.with_verb("CHECK");
    let mut config: Value = serde_json::from_slice(&call.stdin).expect("ADD understood it");
    config["prevResult"] = result;
    check.stdin = config.to_string().into_bytes();
    let answer = check.answer();
    let code = answer.output.as_ref().map(|output| output["code"].clone());
    assert!(
        answer.success || code == Some(VERSION.into()),
        "CHECK after ADD: {:?}",
        answer.output
    );
}

impl Call {
    fn parse(input: &[u8]) -> Option<Self> {
        let end = input.windows(2).position(|pair| pair == b"\n\n")?;
        let head = std::str::from_utf8(&input[..end]).ok()?;
        let mut lines = head.lines();
        let plugin = Plugin::named(lines.next()?.as_ref());
        let pairs = lines.map(|line| line.split_once('='));
        let pairs = pairs.map(|pair| pair.map(|(name, value)| (name.into(), value.into())));
        Some(Self {
            plugin,
            variables: pairs.collect::<Option<_>>()?,
            stdin: input[end + 2..].to_vec(),
        })
    }

    fn verb(&self) -> Option<&str> {
        self.variable("CNI_COMMAND")
    }

    fn variable(&self, name: &str) -> Option<&str> {
        let mut all = self.variables.iter();
        let (_, value) = all.find(|(one, _)| one == name)?;
        Some(value)
    }

    fn with_verb(&self, verb: &str) -> Self {
        let mut call = self.clone();
        call.variables.retain(|(name, _)| name != "CNI_COMMAND");
        call.variables.push(("CNI_COMMAND".into(), verb.into()));
        call
    }

    /// Calls the plugin and checks the shape of its answer.
    fn answer(&self) -> Answer {
        let variable = |name: &str| match name {
            // Other programs are none of our business, and there are none.
            "CNI_PATH" => Some(OsString::from("/opt/cni/bin")),
            _ => self.variable(name).map(OsString::from),
        };
        let answer = self.plugin.answer(variable, self.stdin.as_slice());
        if !answer.success {
            let error = answer.output.as_ref().expect("an error is told on stdout");
            assert!(error["cniVersion"].is_string(), "{error}");
            assert!(
                error["code"].as_u64().is_some_and(|code| code > 0),
                "{error}"
            );
            let message = error["msg"].as_str().unwrap_or_default();
            assert!(!message.is_empty() && !message.contains('\n'), "{error}");
        }
        answer
    }
}
