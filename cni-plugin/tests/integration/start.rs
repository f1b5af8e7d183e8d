//! How the program starts: by which name, and with which open files.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use serde_json::json;

use super::node::{Call, config, names, on_a_node};

fn introduction(command: &mut Command) -> String {
    let output = command.env_clear().output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn the_name_by_which_the_program_is_started_says_which_plugin_it_is() {
    for (name, plugin) in [
        ("/opt/cni/bin/ptp", "ptp"),
        ("portmap", "portmap"),
        ("./host-local", "host-local"),
        ("/opt/cni/bin/podwire", "podwire"),
        ("something-else", "podwire"),
        ("", "podwire"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_podwire"));
        let text = introduction(command.arg0(name).args(["loopback", "bandwidth"]));
        let expected = format!("CNI {plugin} plugin, podwire ");
        assert!(text.starts_with(&expected), "{name}: {text}");
    }
}

/// Runs an ADD of `plugin` with its streams changed as a shell does it, and returns the exit
/// status, standard output and standard error.
fn add_with(plugin: &str, call: &Call, redirections: &str) -> (bool, String, String) {
    let original = call.command();
    let script = format!("exec {}/{plugin} {redirections}", call.directory);
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).current_dir("/run").env_clear();
    shell.envs(
        original
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    let streams = [Stdio::piped(), Stdio::piped(), Stdio::piped()];
    let [stdin, stdout, stderr] = streams;
    let mut child = shell
        .stdin(stdin)
        .stdout(stdout)
        .stderr(stderr)
        .spawn()
        .unwrap();
    // A plugin that refuses the call does not read its input.
    let _ = child.stdin.take().unwrap().write_all(&call.stdin);
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.success(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn with_a_standard_stream_missing_a_call_is_refused_before_anything_is_made() {
    on_a_node(|node| {
        let container = node.container("a");
        let call = Call::new(
            "podwire",
            "ADD",
            &container,
            &config("podwire", &["10.1.2.0/24"]),
        );
        for (redirections, expected) in [
            ("<&-", "standard input is closed"),
            (">&-", "standard output is closed"),
            ("2>&-", "standard error is closed"),
            ("<&- 2>&-", "standard input is closed"),
            (">&- 2>&-", ""),
            ("<&- >&- 2>&-", ""),
            ("0>/run/written", "standard input cannot be read"),
            ("1</dev/null", "standard output cannot be written"),
            ("2</dev/null", "standard error cannot be written"),
        ] {
            for plugin in ["podwire", "ptp", "host-local"] {
                let (success, stdout, stderr) = add_with(plugin, &call, redirections);
                let heard = format!("{stdout}{stderr}");
                assert!(!success, "{plugin} {redirections}: {heard}");
                assert!(heard.contains(expected), "{plugin} {redirections}: {heard}");
                assert_eq!(names("/run/ipam"), Vec::<String>::new(), "{redirections}");
                node.assert_clean();
            }
        }
    });
}

#[test]
fn an_answer_that_no_process_would_read_is_not_worked_for() {
    on_a_node(|node| {
        let container = node.container("a");
        let call = Call::new(
            "podwire",
            "ADD",
            &container,
            &config("podwire", &["10.1.2.0/24"]),
        );
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut input = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open("/run/in");
        let input = input.as_mut().unwrap();
        input.write_all(&call.stdin).unwrap();
        let mut child = call
            .command()
            .stdin(File::open("/run/in").unwrap())
            .stdout(writer)
            .spawn()
            .unwrap();
        let mut stderr = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut stderr)
            .unwrap();
        assert!(!child.wait().unwrap().success());
        assert!(stderr.contains("a pipe that no process reads"), "{stderr}");
        node.assert_clean();
    });
}

#[test]
fn a_log_that_no_process_reads_or_that_is_full_does_not_stop_a_call() {
    on_a_node(|node| {
        let container = node.container("a");
        let mut config = config("portmap", &["10.1.2.0/24"]);
        config["runtimeConfig"] = json!({"portMappings": [{"hostPort": 80, "containerPort": 80}]});
        // The node has no route to the container, which portmap says on standard error.
        let previous = json!({
            "cniVersion": "1.1.0",
            "interfaces": [{"name": "eth0", "sandbox": container.path}],
            "ips": [{"address": "10.66.0.2/24", "interface": 0}],
        });
        let call = |verb| Call::new("portmap", verb, &container, &config).after(&previous);
        let without_reader = || {
            let (reader, writer) = std::io::pipe().unwrap();
            drop(reader);
            Stdio::from(writer)
        };
        let full = || Stdio::from(File::options().write(true).open("/dev/full").unwrap());
        let logs: [&dyn Fn() -> Stdio; 2] = [&without_reader, &full];
        for log in logs {
            let add = call("ADD");
            let mut child = add.command().stderr(log()).spawn().unwrap();
            child.stdin.take().unwrap().write_all(&add.stdin).unwrap();
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{output:?}");
            let result: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(result["ips"][0]["address"], "10.66.0.2/24");
            assert!(node.ruleset().contains("10.66.0.2 . 80"));
            call("DEL").succeed();
            node.assert_nothing_mapped();
        }
        let mut person = Command::new(format!("{}/portmap", call("ADD").directory));
        let status = person.env_clear().stderr(without_reader()).status();
        assert!(status.unwrap().success());
    });
}
