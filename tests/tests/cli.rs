//! `podwire-lab` as a person uses it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
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
    let pods = lab.good(&["pods"]);
    assert!(pods.contains("NAMESPACE") && pods.contains("10.10.2.2"));
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
    let kill = "agent=$(pgrep -f '[p]odwire-agent run --node-name worker2') && kill -9 $agent && \
                while kill -0 $agent 2>/dev/null; do sleep 0.1; done";
    lab.good(&["exec", "worker2", "sh", "-c", kill]);
    let again = lab.good(&["restart", "worker2"]);
    assert!(again.contains("was not running"), "{again}");
    let beside = Named::new("beside");
    let second = beside.good(&["up", "--empty"]);
    assert!(second.contains("Up already: "), "{second}");
    assert!(
        second.contains(&format!("This one is {}", beside.0)),
        "{second}"
    );
    drop(beside);
    for command in [
        &["restart", "mypc"][..],
        &["logs", "mypc"],
        &["run", "mypc", "x"],
    ] {
        let no_node = lab.bad(command);
        assert!(no_node.contains("mypc is not a node"), "{no_node}");
    }
    let unknown = lab.bad(&["run", "nope", "x"]);
    assert!(
        unknown.contains("worker3") && !unknown.contains("mypc"),
        "{unknown}"
    );
    for (arguments, expected) in [
        (
            &["x", "--namespace", "../../x"][..],
            "cannot name a namespace",
        ),
        (&["x", "--labels", "="], "is no label"),
        (&["x", "--labels", "a=b c"], "is no label"),
        (&["worker"], "that is a machine"),
        (&["lab"], "the lab itself"),
        (&[&*"x".repeat(300)], "cannot name a pod"),
    ] {
        let refused = lab.bad(&[&["run", "worker"], arguments].concat());
        assert!(refused.contains(expected), "{refused}");
    }
    let unfit = lab.bad(&["walkthrough"]);
    assert!(unfit.contains("it has no pod coredns-1"), "{unfit}");
    let full = File::options().write(true).open("/dev/full").unwrap();
    let full = lab.command(&["pods"]).stdout(full).output().unwrap();
    let said = String::from_utf8_lossy(&full.stderr).into_owned();
    assert!(
        said.contains("No space left") && full.status.code() == Some(1),
        "{said}"
    );
    let nowhere = lab.bad(&["sysdump", "--file", "/nonexistent/x"]);
    assert!(nowhere.contains("No such file"), "{nowhere}");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let unread = lab.command(&["drops", "-o", "json"]);
    let unread = { unread }.stdout(writer).output().unwrap();
    let said = String::from_utf8_lossy(&unread.stderr).into_owned();
    assert_eq!((unread.status.code(), &*said), (Some(0), ""));
    let no_end = lab.bad(&["restart", "worker2", "--signal", "CONT"]);
    assert!(no_end.contains("ends no process"), "{no_end}");

    // A hostPort of a node leads to one pod.
    let second = ["run", "worker2", "second", "--namespace", "other"];
    let taken = lab.good(&[&second[..], &["--port", "8080:80"]].concat());
    let said = "Pod mine on worker2 has port 8080/tcp of the node already";
    assert!(taken.contains(said), "{taken}");
    let elsewhere = lab.good(&["run", "worker", "third", "--port", "8080:80"]);
    assert!(!elsewhere.contains("already"), "{elsewhere}");
    assert!(lab.bad(&["rm", "default/second"]).contains("no node runs"));
    assert_eq!(
        lab.good(&["exec", "other/second", "hostname"]).trim(),
        "second"
    );
    lab.good(&["rm", "other/second"]);
    let manifests = lab.good(&["exec", "lab", "ls", "/run/podwire-lab/manifests"]);
    assert!(!manifests.contains("pod-second.yaml"), "{manifests}");

    // It sends from where it is run, which is never this machine.
    let load = ["load", "127.0.0.1:9", "--count", "1"];
    let beside = lab.bad(&load);
    assert!(
        beside.contains("load sends from where it is run"),
        "{beside}"
    );
    let program = binaries::own().unwrap().display().to_string();
    let inside = |arguments: &[&str]| {
        let line = [&["exec", "third", &program], arguments].concat();
        lab.run(&line)
    };
    let sent = inside(&["load", "10.10.2.2:80", "--count", "1"]);
    let sent = String::from_utf8_lossy(&sent.stdout).into_owned();
    assert!(sent.contains("\"mine\":1"), "{sent}");
    let named = inside(&["--lab", "x", "load", "10.10.2.2:80"]);
    let named = String::from_utf8_lossy(&named.stderr).into_owned();
    assert!(named.contains("load sends from where it is run"), "{named}");

    lab.good(&["rm", "default/mine"]);
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
fn a_lab_stays_though_no_one_reads_what_is_said_of_it() {
    let lab = Named::new("unread");
    let mut up = lab.command(&["up", "--empty"]);
    let mut up = up.stdout(Stdio::piped()).spawn().unwrap();
    drop(up.stdout.take());
    assert!(up.wait().unwrap().success());
    assert_eq!(lab.good(&["status"]).matches("running").count(), 4);
}

#[test]
fn a_lab_of_ipv6_has_its_pods_and_services_and_is_no_place_for_the_walkthrough() {
    let lab = Named::new("six");
    let up = lab.good(&["up", "--families", "v6"]);
    assert!(up.contains("exec pod1 ping fd00:10:10:1::2"), "{up}");
    assert!(!up.contains("podwire-lab walkthrough"), "{up}");
    let url = "http://[fd00:10:200:1::63]:9000";
    let answer = lab.good(&["exec", "pod1", "curl", "-gsS", "--max-time", "3", url]);
    assert!(answer.starts_with("web-"), "{answer}");
    let unfit = lab.bad(&["walkthrough"]);
    assert!(unfit.contains("it speaks IPv6 alone"), "{unfit}");
}

#[test]
fn an_interrupted_walkthrough_puts_back_what_it_changed() {
    let lab = Named::new("restored");
    lab.good(&["up"]);
    let written = |what: &str| {
        let line = format!("cd /run/podwire-lab/manifests; {what}");
        let arguments = ["exec", "lab", "sh", "-c", &line];
        lab.run(&arguments).status.success()
    };
    // A manifest of a person's own is neither written over nor taken away.
    assert!(written("echo '# mine' >web.yaml"));
    let unfit = lab.bad(&["walkthrough"]);
    assert!(unfit.contains("web.yaml"), "{unfit}");
    assert!(written("grep mine web.yaml && mv web.yaml mine.yaml"));
    let left = "ls web.yaml || grep -q ClientIP svc-clusterip.yaml";
    let mut shown = lab.command(&["walkthrough"]);
    let mut shown = shown.stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(shown.stdout.take().unwrap()).lines();
    let mut until = |mark: &str| {
        let mut lines = said.by_ref().map(Result::unwrap);
        assert!(lines.any(|line| line.contains(mark)), "{mark}");
    };
    until("curl -sS --connect-timeout 1 10.10.1.3");
    assert!(written("ls web.yaml"));
    kill(Pid::from_raw(shown.id().cast_signed()), Signal::SIGTERM).unwrap();
    until("Interrupted: what the walkthrough changed");
    until("The lab is as it was.");
    assert_eq!(shown.wait().unwrap().code(), Some(143), "as a shell has it");
    assert!(!written(left));
    // What was killed without a chance is put back at the next start.
    assert!(written(
        "sed -i 's/Affinity: None/Affinity: ClientIP/' svc-clusterip.yaml"
    ));
    let again = lab.good(&["walkthrough"]);
    assert!(
        again.contains("what it left was taken away first"),
        "{again}"
    );
    assert!(again.contains("20 of 20 observations hold"), "{again}");
    assert!(!written(left));
}

#[test]
fn a_command_that_is_killed_leaves_nothing_that_the_next_one_cannot_take_away() {
    let lab = Named::new("killed");
    lab.good(&["up", "--empty"]);
    for (number, pause) in [1, 4, 8, 12, 20, 35, 60].into_iter().enumerate() {
        let mut run = lab.command(&["run", "worker", "ka"]);
        let mut run = run.stdout(Stdio::null()).spawn().unwrap();
        // How far it gets is different each time.
        thread::sleep(Duration::from_millis(pause));
        run.kill().unwrap();
        run.wait().unwrap();
        lab.good(&["pods"]);
        if number % 2 == 0 {
            lab.run(&["rm", "ka"]);
        }
        if !lab.good(&["pods"]).contains(" veth") {
            lab.good(&["run", "worker", "ka"]);
        }
        lab.good(&["rm", "ka"]);
        let left = "ls /run/netns; ip -br link show group 112; \
                    ls /run/podwire/ipam/podwire | grep -E '^[0-9]+[.]'; true";
        assert_eq!(
            lab.good(&["exec", "worker", "sh", "-c", left]),
            "",
            "{pause} ms"
        );
    }
    let mut twice: Vec<_> = ["worker", "worker2"]
        .map(|node| lab.command(&["run", node, "tw"]).spawn().unwrap())
        .into();
    let good = twice
        .iter_mut()
        .filter_map(|run| run.wait().unwrap().success().then_some(()));
    assert_eq!(good.count(), 1, "one name, one pod");
    let mut exec = lab.command(&["exec", "tw", "sh", "-c", "echo there; exec sleep 300"]);
    let mut exec = exec.stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(exec.stdout.take().unwrap()).lines();
    assert_eq!(said.next().unwrap().unwrap(), "there");
    kill(Pid::from_raw(exec.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert_eq!(exec.wait().unwrap().code(), Some(143));
    // The end of what it held open: the program in the pod ended, too.
    assert!(said.next().is_none());
}

#[test]
fn what_a_script_started_in_a_lab_outlives_its_ctrl_c() {
    let lab = Named::new("script");
    lab.good(&["up", "--empty"]);
    // Who runs the tests in the background may ignore Ctrl-C, and what he starts would as well.
    let mut script = Command::new("env");
    script
        .args(["--default-signal=INT", "sh", "-c"])
        .arg("\"$0\" run worker mine && \"$0\" restart worker2 && exec sleep 300");
    script
        .arg(binaries::own().unwrap())
        .env("PODWIRE_LAB", &lab.0);
    let mut script = script
        .process_group(0)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(script.stdout.take().unwrap()).lines();
    assert!(said.any(|line| line.unwrap().contains("is ready again")));
    killpg(Pid::from_raw(script.id().cast_signed()), Signal::SIGINT).unwrap();
    script.wait().unwrap();
    assert_eq!(lab.good(&["exec", "mine", "hostname"]).trim(), "mine");
    let status = lab.good(&["status"]);
    assert_eq!(status.matches("running").count(), 4, "{status}");
}

#[test]
fn a_lab_whose_raiser_was_killed_is_not_up_and_its_name_is_free() {
    let lab = Named::new("dying");
    let mut demo = lab.command(&["demo"]);
    let mut demo = demo.stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(demo.stdout.take().unwrap()).lines();
    let mut raised = said.by_ref().map(Result::unwrap);
    assert!(raised.any(|line| line.contains("Raising the pods")));
    demo.kill().unwrap();
    demo.wait().unwrap();
    assert!(lab.bad(&["pods"]).contains("no lab named"));
    lab.good(&["up", "--empty"]);
    assert_eq!(lab.good(&["status"]).matches("running").count(), 4);
}

#[test]
fn without_root_the_first_word_is_of_root() {
    let program = binaries::own().unwrap();
    for arguments in [&["up"][..], &["demo"], &["down"], &["status"]] {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        // It need not be able to reach the place where the program was built.
        let output = command.arg("/proc/self/fd/0").args(arguments);
        let output = output
            .stdin(File::open(&program).unwrap())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("which needs root"), "{arguments:?}: {said}");
    }
}

#[test]
fn ctrl_c_gives_the_prompt_back_when_the_lab_is_gone() {
    // As for a terminal that is closed.
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGHUP, 129)] {
        let lab = Named::new("interrupted");
        let mut demo = lab
            .command(&["demo"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(demo.stdout.take().unwrap()).lines();
        let mut raised = said.by_ref().map(Result::unwrap);
        assert!(raised.any(|line| line.contains("Raising the pods")));
        kill(Pid::from_raw(demo.id().cast_signed()), signal).unwrap();
        let last = said.map(Result::unwrap).last();
        assert_eq!(last.as_deref(), Some("Nothing of it is left."));
        assert_eq!(demo.wait().unwrap().code(), Some(code), "as a shell has it");
        assert!(lab.bad(&["pods"]).contains("no lab named"));
    }
}

#[test]
fn mistakes_are_answered_in_one_sentence() {
    let lab = Named::new("wrong");
    let nothing = lab.bad(&["down"]);
    assert!(nothing.contains("no lab named"), "{nothing}");
    assert!(!nothing.contains("raises it"), "{nothing}");
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
