//! `podwire-lab` as a person uses it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use podwire_lab::binaries;

/// A lab of this test that is taken down whatever happens.
struct Named(String);

impl Named {
    fn new(purpose: &str) -> Named {
        Named(format!("cli-{purpose}-{}", std::process::id()))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binaries::own().unwrap());
        command.args(arguments).env("PODWIRE_LAB", &self.0);
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a command that must succeed and answers with what it printed.
    fn good(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {error}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs a command that must fail and answers with its one sentence.
    fn bad(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(!output.status.success(), "{arguments:?} succeeded");
        String::from_utf8_lossy(&output.stderr).trim().to_owned()
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        self.run(&["down"]);
    }
}

#[test]
fn a_lab_is_raised_used_and_taken_down_by_hand() {
    let lab = Named::new("hand");
    let up = lab.good(&["up", "--empty"]);
    assert!(up.contains(&format!("Lab {} is up", lab.0)), "{up}");
    assert!(lab.bad(&["up"]).contains("is up already"));

    let run = lab.good(&["run", "worker2", "mine", "--port", "8080:80"]);
    assert_eq!(run.trim(), "mine runs on worker2 at 10.10.2.2");
    assert!(lab.good(&["pods"]).contains("10.10.2.2"));
    assert!(
        lab.bad(&["run", "worker", "mine"])
            .contains("a pod named mine runs on worker2 already")
    );
    let answer = lab.good(&[
        "exec",
        "mypc",
        "curl",
        "-sS",
        "--max-time",
        "3",
        "172.18.0.4:8080",
    ]);
    assert_eq!(answer, "mine answers 172.18.0.6\n");
    let inside = lab.good(&[
        "exec",
        "worker2",
        binaries::own().unwrap().to_str().unwrap(),
        "pods",
    ]);
    assert!(
        inside.contains("mine"),
        "a shell in the lab sees its pods: {inside}"
    );

    let status = lab.good(&["status"]);
    assert_eq!(status.matches("running").count(), 4, "{status}");
    assert_eq!(status.matches("ready").count(), 4, "{status}");
    assert!(lab.good(&["logs", "worker"]).contains("podwire-agent"));
    assert_eq!(
        lab.run(&["exec", "worker", "sh", "-c", "exit 7"])
            .status
            .code(),
        Some(7)
    );

    for signal in ["KILL", "sigterm"] {
        let again = lab.good(&["restart", "worker2", "--signal", signal]);
        assert!(again.contains("is ready again"), "{again}");
    }
    let no_node = lab.bad(&["restart", "mypc"]);
    assert!(no_node.contains("no agent runs there"), "{no_node}");
    let no_end = lab.bad(&["restart", "worker2", "--signal", "CONT"]);
    assert!(no_end.contains("ends no process"), "{no_end}");

    lab.good(&["rm", "mine"]);
    assert!(
        lab.bad(&["rm", "mine"])
            .contains("no node runs a pod named mine")
    );
    assert!(
        lab.bad(&["shell", "nowhere"])
            .contains("the lab has no machine or pod named nowhere")
    );
    assert!(lab.good(&["down"]).contains("is down"));
    assert!(lab.bad(&["pods"]).contains("no lab named"));
}

#[test]
fn ctrl_c_gives_the_prompt_back_when_the_lab_is_gone() {
    let lab = Named::new("interrupted");
    let mut demo = lab
        .command(&["demo"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(demo.stdout.take().unwrap()).lines();
    let mut raised = said.by_ref().map(Result::unwrap);
    assert!(raised.any(|line| line.contains("Raising the pods")));
    kill(Pid::from_raw(demo.id().cast_signed()), Signal::SIGINT).unwrap();
    let last = said.map(Result::unwrap).last();
    assert_eq!(last.as_deref(), Some("Nothing of it is left."));
    assert_eq!(demo.wait().unwrap().code(), Some(130), "as a shell has it");
    assert!(lab.bad(&["pods"]).contains("no lab named"));
}

#[test]
fn mistakes_are_answered_in_one_sentence() {
    let lab = Named::new("wrong");
    assert!(lab.bad(&["down"]).contains("no lab named"));
    let output = Command::new(binaries::own().unwrap())
        .args(["up", "--lab", "../x"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(said.trim().lines().count(), 1, "{said}");
    assert!(said.contains("cannot name a lab"), "{said}");
    assert!(
        lab.bad(&["run", "worker", "x", "--port", "80"])
            .contains("HOST:POD")
    );
}
