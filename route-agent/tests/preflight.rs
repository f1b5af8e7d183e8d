//! `podwire-agent preflight` as a program: with all permissions and with none.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

use podwire_kernel::netns::Netns;

/// Runs the command in a network namespace of its own.
fn preflight(as_nobody: bool) -> Output {
    let netns =
        Netns::create_anonymous().expect("these tests need root: they make network namespaces");
    netns
        .enter(|| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_podwire-agent"));
            command.args(["preflight", "--output=json"]);
            if as_nobody {
                command.uid(65534).gid(65534);
            }
            command.output()
        })
        .unwrap()
        .unwrap()
}

fn findings(output: &Output) -> Vec<(String, Option<String>)> {
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    json["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| (text(&finding["feature"]).unwrap(), text(&finding["then"])))
        .collect()
}

#[test]
fn with_all_permissions_all_is_well() {
    let output = preflight(false);
    assert!(output.status.success(), "{output:?}");
    let gaps: Vec<_> = findings(&output)
        .into_iter()
        .filter(|(_, then)| then.is_some())
        .collect();
    assert_eq!(gaps, []);
}

#[test]
fn without_permissions_every_gap_is_named_and_the_command_fails() {
    let output = preflight(true);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let findings = findings(&output);
    let refused = |feature: &str| {
        findings
            .iter()
            .any(|(name, then)| name == feature && then.as_deref() == Some("refuses"))
    };
    for feature in [
        "NET_ADMIN",
        "route protocol",
        "veth",
        "nf_tables",
        "nat",
        "fib",
    ] {
        assert!(refused(feature), "{feature} in {findings:?}");
    }
    let works: Vec<_> = findings
        .iter()
        .filter(|(_, then)| then.is_none())
        .map(|(feature, _)| feature.as_str())
        .collect();
    assert!(
        works.contains(&"inotify") && works.contains(&"IPv6"),
        "{works:?}"
    );
}
