//! `podwire-agent preflight` as a program: with all permissions and with none.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};

use podwire_kernel::netns::Netns;

/// One test at a time: a process that another thread starts while a program is being written holds
/// it open for writing, and then it cannot be started ("text file busy").
static TURN: Mutex<()> = Mutex::new(());

/// Runs the command in a network namespace of its own.
fn preflight(as_nobody: bool) -> Output {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let netns =
        Netns::create_anonymous().expect("these tests need root: they make network namespaces");
    // A copy, because no one but root may be let into the folder that it was built in.
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    let program = folder.path().join("podwire-agent");
    fs::copy(env!("CARGO_BIN_EXE_podwire-agent"), &program).unwrap();
    netns
        .enter(|| {
            let mut command = Command::new(&program);
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
    // Kernels before 6.8 or so do without, and nothing else.
    let old = [("conntrack filter".to_owned(), Some("falls-back".to_owned()))];
    assert!(gaps.is_empty() || gaps == old, "{gaps:?}");
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

#[test]
fn a_report_that_cannot_be_written_is_an_error_and_one_that_no_one_reads_is_none() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let run = |out: std::process::Stdio| {
        let netns = Netns::create_anonymous().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_podwire-agent"));
        command.arg("preflight").stdout(out);
        let output = netns.enter(|| command.output()).unwrap().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), said)
    };
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let (code, said) = run(full.into());
    assert_eq!(code, Some(1), "{said}");
    let expected = "podwire-agent: cannot write to standard output: No space left on device";
    assert!(said.starts_with(expected), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert_eq!(run(writer.into()), (Some(1), String::new()));
}
