use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixListener;
use std::thread;

use super::*;

fn attachment() -> Attachment {
    Attachment {
        link: "veth0".into(),
        container_id: "abc".into(),
        ifname: POD_IFNAME.into(),
        pod: Some(PodName {
            namespace: "shop".into(),
            name: "web".into(),
            uid: None,
        }),
        addresses: vec!["10.10.1.2".parse().unwrap()],
    }
}

/// An agent of which the configuration says nothing.
fn standing(run_dir: &Path) -> Agent<'_> {
    Agent {
        run_dir,
        enforces: false,
    }
}

/// A run directory whose file names these namespaces.
fn run_dir(namespaces: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("policy")).unwrap();
    fs::write(directory.path().join(NAMESPACES), namespaces).unwrap();
    directory
}

/// Answers one question after the other with these lines.
fn agent(directory: &Path, answers: &'static [&'static str]) -> thread::JoinHandle<()> {
    let listener = UnixListener::bind(directory.join(SOCKET)).unwrap();
    thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            Attachment::parse(line.as_bytes()).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
        }
    })
}

#[test]
fn a_namespace_counts_as_one_with_policies_unless_the_file_says_otherwise() {
    let directory = run_dir("bank\nshop\n");
    let has = |namespace: &str| {
        let mut attachment = attachment();
        attachment.pod.as_mut().unwrap().namespace = namespace.into();
        with_policies(directory.path(), &attachment).is_some()
    };
    assert!(has("shop") && !has("sho") && !has(""));
    let nameless = Attachment {
        pod: None,
        ..attachment()
    };
    assert_eq!(with_policies(directory.path(), &nameless), None);
    assert!(is_enforced(standing(directory.path())));
    fs::write(directory.path().join(NAMESPACES), "*\nbank\n").unwrap();
    assert!(has("sho"));
    let attachment = attachment();
    let (_, concern) = with_policies(directory.path(), &attachment).unwrap();
    assert_eq!(concern, "can be selected by ClusterNetworkPolicies");
    fs::write(directory.path().join(NAMESPACES), [0xff]).unwrap();
    assert!(has("sho"));
    fs::remove_file(directory.path().join(NAMESPACES)).unwrap();
    assert!(has("sho") && !is_enforced(standing(directory.path())));
}

#[test]
fn an_agent_that_starts_meanwhile_is_waited_for() {
    let directory = run_dir("shop\n");
    let path = directory.path().to_owned();
    let late = thread::spawn(move || {
        thread::sleep(5 * PAUSE);
        agent(&path, &["{\"answer\": \"done\"}\n"]).join().unwrap();
    });
    let told = tell_until_heard(directory.path(), &attachment());
    assert_eq!(told.unwrap(), Answer::Done);
    late.join().unwrap();
}

#[test]
fn an_agent_that_dies_over_its_answer_is_asked_again() {
    let directory = run_dir("shop\n");
    let answers = &["", "{\"answer\"", "{\"answer\": \"done\"}\n"];
    let agent = agent(directory.path(), answers);
    let told = tell_until_heard(directory.path(), &attachment());
    assert_eq!(told.unwrap(), Answer::Done);
    agent.join().unwrap();
}

#[test]
fn an_agent_that_says_no_is_believed_whatever_its_file_says() {
    let directory = run_dir("bank\n");
    const ANSWERS: &[&str] = &[
        "{\"answer\": \"failed\", \"reason\": \"no room\"}\n",
        "{\"answer\": \"unknown\"}\n",
    ];
    let agent = agent(directory.path(), ANSWERS);
    for lacks in [
        "cannot enforce policies: no room",
        "does not know the pod shop/web yet",
    ] {
        let said = admit(standing(directory.path()), &attachment());
        let text = said.unwrap_err().to_string();
        let expected = format!("podwire-agent {lacks}; namespace shop may have NetworkPolicies");
        assert!(text.starts_with(&expected), "{text}");
    }
    agent.join().unwrap();
}

#[test]
fn no_one_waits_for_an_agent_where_there_is_no_policy() {
    let directory = run_dir("bank\n");
    let before = Instant::now();
    tell_until_heard(directory.path(), &attachment()).unwrap_err();
    assert!(before.elapsed() < RESTART / 2);
    let directory = run_dir("shop\n");
    tell_until_heard(directory.path(), &attachment()).unwrap_err();
    assert!(before.elapsed() >= RESTART);
}

#[test]
fn until_the_agent_has_spoken_any_namespace_may_have_policies() {
    let directory = tempfile::tempdir().unwrap();
    let agent = Agent {
        run_dir: directory.path(),
        enforces: true,
    };
    assert!(is_enforced(agent));
    let text = admit(agent, &attachment()).unwrap_err().to_string();
    let expected = "podwire-agent does not answer; namespace shop may have NetworkPolicies";
    assert!(text.starts_with(expected), "{text}");
    assert!(!is_enforced(standing(agent.run_dir)));
    fs::create_dir(directory.path().join("policy")).unwrap();
    fs::write(directory.path().join(NONE), b"").unwrap();
    assert!(!is_enforced(agent));
    admit(agent, &attachment()).unwrap();
    // The first policy is on its way: both are there for a moment.
    fs::write(directory.path().join(NAMESPACES), "shop\n").unwrap();
    assert!(is_enforced(agent));
}

#[test]
fn what_another_user_has_put_there_says_of_no_namespace_that_it_has_no_policy() {
    let directory = run_dir("bank\n");
    let (path, none) = (directory.path(), directory.path().join(NONE));
    std::os::unix::fs::chown(path.join(NAMESPACES), Some(1000), None).unwrap();
    assert!(with_policies(path, &attachment()).is_some());
    let agent = Agent {
        run_dir: path,
        enforces: true,
    };
    fs::remove_file(path.join(NAMESPACES)).unwrap();
    fs::write(&none, b"").unwrap();
    assert!(!is_enforced(agent));
    std::os::unix::fs::chown(&none, Some(1000), None).unwrap();
    assert!(is_enforced(agent));
    fs::remove_file(&none).unwrap();
    std::os::unix::fs::symlink("/dev/null", &none).unwrap();
    assert!(is_enforced(agent));
}

/// Not a test: the other user of the next one, who says to all that is well.
#[test]
fn an_impostor() {
    let Some(path) = std::env::var_os("PODWIRE_TEST_IMPOSTOR") else {
        return;
    };
    let listener = UnixListener::bind(path).unwrap();
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let _ = stream.write_all(b"{\"answer\": \"done\"}\n");
    }
}

#[test]
fn an_answer_of_another_user_is_not_the_agent_s() {
    use std::os::unix::process::CommandExt;
    let directory = run_dir("shop\n");
    let path = directory.path().join(SOCKET);
    std::os::unix::fs::chown(directory.path(), Some(1000), None).unwrap();
    // By this name another user reaches a program in a directory that is closed to him.
    let mut command = std::process::Command::new("/proc/self/exe");
    command.args(["--exact", "policy::tests::an_impostor"]);
    let command = command.env("PODWIRE_TEST_IMPOSTOR", &path);
    let mut impostor = command.uid(1000).gid(1000).spawn().unwrap();
    while UnixStream::connect(&path).is_err() {
        assert_eq!(impostor.try_wait().unwrap(), None);
        thread::sleep(PAUSE);
    }
    let connected = connect(directory.path()).map(drop);
    let admitted = admit(standing(directory.path()), &attachment());
    impostor.kill().unwrap();
    impostor.wait().unwrap();
    let text = connected.unwrap_err().to_string();
    assert_eq!(text, "user 1000 listens there, who is not root");
    let text = admitted.unwrap_err().to_string();
    assert!(text.contains("does not answer"), "{text}");
}

#[test]
fn an_answer_without_end_or_one_that_drips_is_given_up() {
    let (mut plugin, mut agent) = UnixStream::pair().unwrap();
    let flood = thread::spawn(move || while agent.write_all(&[b' '; 1024]).is_ok() {});
    let heard = hear(&mut plugin, Instant::now() + ANSWER);
    assert_eq!(heard.unwrap_err().kind(), io::ErrorKind::InvalidData);
    drop(plugin);
    flood.join().unwrap();

    let (mut plugin, mut agent) = UnixStream::pair().unwrap();
    let drip = thread::spawn(move || {
        while agent.write_all(b" ").is_ok() {
            thread::sleep(PAUSE);
        }
    });
    let heard = hear(&mut plugin, Instant::now() + 5 * PAUSE);
    assert_eq!(heard.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    drop(plugin);
    drip.join().unwrap();
}
