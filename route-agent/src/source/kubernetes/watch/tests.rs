//! The watch against a scripted API server on a real socket.

mod limits;
mod objects;
mod refusals;

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::mpsc;

use serde::Deserialize;
use tokio::net::TcpListener;

use super::*;
use crate::config::apiserver::Options;
use crate::input::Input;
use crate::snapshot::Node;
use crate::source::kubernetes::FOR_POLICIES;
use crate::source::kubernetes::fake::{End, Fake, Reply, fast, small};
use crate::source::kubernetes::server::Limits;

fn node(name: &str, version: u32) -> String {
    format!(r#"{{"metadata":{{"name":"{name}","resourceVersion":"{version}"}}}}"#)
}

fn page(nodes: &[&str], version: u32, next: &str) -> Reply {
    let items: Vec<_> = nodes.iter().map(|name| node(name, version)).collect();
    Reply::Full(
        200,
        format!(
            r#"{{"kind":"NodeList","metadata":{{"resourceVersion":"{version}","continue":"{next}"}},"items":[{}]}}"#,
            items.join(",")
        ),
    )
}

fn event(kind: &str, object: &str) -> String {
    format!(r#"{{"type":"{kind}","object":{object}}}"#)
}

fn gone() -> String {
    event(
        "ERROR",
        r#"{"kind":"Status","code":410,"message":"too old resource version"}"#,
    )
}

fn status(code: u16) -> Reply {
    Reply::Full(
        code,
        format!(r#"{{"kind":"Status","code":{code},"message":"because"}}"#),
    )
}

fn decode(text: &str, names: &mut Names) -> Result<Option<Object>, Unreadable> {
    #[derive(Deserialize)]
    struct Slim {
        metadata: Meta,
    }
    #[derive(Deserialize)]
    struct Meta {
        name: String,
    }
    let Slim { metadata } = serde_json::from_str(text)?;
    if text.contains("unreadable") {
        return Err(Unnamed::Impossible.into());
    }
    Ok((!text.contains("ignored")).then(|| {
        Object::Node(Node {
            name: names.get(&metadata.name),
            internal_ips: Vec::new(),
            other_ips: Vec::new(),
            all_labels: crate::snapshot::Labels::none(),
            pod_cidrs: Vec::new(),
            labels: BTreeMap::new(),
            taints: Vec::new(),
            created: None,
            deleting: false,
            invalid: Vec::new(),
        })
    }))
}

fn nodes() -> Resource {
    Resource {
        kind: "Node",
        paths: &["/api/v1/nodes"],
        labels: None,
        optional: false,
        decode,
    }
}

/// What came out of a watch, one line each.
struct Seen {
    lines: Vec<String>,
    warnings: Vec<Vec<String>>,
}

/// Follows `resource` at these ports until `count` lines have come out.
async fn follow_until(resource: Resource, options: Options, count: usize) -> Seen {
    follow_while(resource, options, |lines| lines.len() >= count).await
}

/// Follows `resource` at these ports until what has come out is all.
async fn follow_while(
    resource: Resource,
    options: Options,
    all: impl Fn(&[String]) -> bool,
) -> Seen {
    follow_within(small(), resource, options, all).await
}

/// As [`follow_while`], with these limits.
async fn follow_within(
    limits: Limits,
    resource: Resource,
    options: Options,
    all: impl Fn(&[String]) -> bool,
) -> Seen {
    let (inputs, warnings) = mpsc::channel();
    let server = ApiServer::find(options, fast(), inputs).await.unwrap();
    let server = server.with_limits(limits);
    let mut lines = Vec::new();
    let following = follow(&resource, &server, |update| {
        match update {
            Update::Listed => lines.push("listed".to_owned()),
            Update::Changes(changes) => lines.extend(changes.iter().map(|change| match change {
                Change::Set(object) => format!("+{}", object.key()),
                Change::Gone(key) => format!("-{key}"),
            })),
        }
        if all(&lines) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    let finished = timeout(Duration::from_secs(20), following).await;
    assert!(finished.is_ok(), "only {lines:?} came within 20 s");
    let warnings = warnings
        .try_iter()
        .filter(|input| !matches!(input, Input::ApiServerAddress))
        .map(|input| match input {
            Input::SourceWarnings(all) => all
                .into_iter()
                .map(|w| format!("{}: {}", w.object, w.text))
                .collect(),
            other => panic!("{other:?} is not a warning"),
        })
        .collect();
    Seen { lines, warnings }
}

fn options(directory: &tempfile::TempDir, ports: &[u16]) -> Options {
    let path = directory.path().join("kubeconfig");
    let mut file = std::fs::File::create(&path).unwrap();
    write!(
        file,
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
         contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
         clusters: [{{name: c, cluster: {{server: 'http://127.0.0.1:{}'}}}}]\n\
         users: [{{name: u, user: {{tokenFile: {}/token}}}}]\n",
        ports[0],
        directory.path().display()
    )
    .unwrap();
    std::fs::write(directory.path().join("token"), "first").unwrap();
    let uri = |port: &u16| format!("http://127.0.0.1:{port}").parse().unwrap();
    Options {
        servers: if ports.len() > 1 {
            ports.iter().map(uri).collect()
        } else {
            Vec::new()
        },
        kubeconfig: Some(path),
        kubelet_kubeconfig: "/does/not/exist".into(),
        read: None,
        resolved: crate::config::apiserver::Resolved::default(),
    }
}

/// Plays a script and returns what came out and what was asked.
async fn play(
    resource: Resource,
    replies: impl IntoIterator<Item = Reply>,
    count: usize,
) -> (Seen, Fake) {
    let fake = Fake::start(replies).await;
    let directory = tempfile::tempdir().unwrap();
    let seen = follow_until(resource, options(&directory, &[fake.port]), count).await;
    (seen, fake)
}

/// Plays the script of a hostile server, then a good list, and returns the warnings before it.
async fn after_hostility(script: Vec<Reply>) -> (Seen, Fake) {
    after_hostility_within(small(), script).await
}

/// As [`after_hostility`], with these limits.
async fn after_hostility_within(limits: Limits, script: Vec<Reply>) -> (Seen, Fake) {
    let good = [
        page(&["good"], 7, ""),
        Reply::Lines(vec![event("ADDED", &node("end", 8))], End::Silence),
    ];
    let script = script.into_iter().chain(good);
    let fake = Fake::start(script).await;
    let directory = tempfile::tempdir().unwrap();
    let options = options(&directory, &[fake.port]);
    let done = |lines: &[String]| lines.iter().any(|line| line == "+Node end");
    let seen = follow_within(limits, nodes(), options, done).await;
    (seen, fake)
}

/// The request at `place` has exactly these parameters among others.
fn assert_asks(fake: &Fake, place: usize, parameters: &[&str]) {
    let target = &fake.targets()[place];
    for wanted in parameters {
        let found = target
            .split(['?', '&'])
            .any(|parameter| parameter == *wanted);
        assert!(found, "request {place} is {target}, without {wanted}");
    }
}

#[tokio::test]
async fn a_list_of_several_pages_is_complete_before_it_is_called_listed() {
    let resource = Resource {
        labels: Some("!a/b,!c"),
        ..nodes()
    };
    let watch = Reply::Lines(
        vec![
            event("MODIFIED", &node("b", 8)),
            event("DELETED", &node("a", 9)),
        ],
        End::Silence,
    );
    let script = [
        page(&["a", "ignored"], 7, "next"),
        page(&["b"], 7, ""),
        watch,
    ];
    let (seen, fake) = play(resource, script, 5).await;
    assert_eq!(
        seen.lines,
        ["+Node a", "+Node b", "listed", "+Node b", "-Node a"]
    );
    assert_asks(&fake, 0, &["limit=500", "labelSelector=%21a%2Fb%2C%21c"]);
    assert_asks(
        &fake,
        1,
        &["continue=next", "labelSelector=%21a%2Fb%2C%21c"],
    );
    assert_asks(
        &fake,
        2,
        &[
            "watch=true",
            "resourceVersion=7",
            "allowWatchBookmarks=true",
        ],
    );
    assert!(
        !fake.targets()[0].contains("continue"),
        "{:?}",
        fake.targets()
    );
}

#[tokio::test]
async fn a_watch_goes_on_where_it_was_cut() {
    let bookmark = event("BOOKMARK", r#"{"metadata":{"resourceVersion":"30"}}"#);
    let script = [
        page(&["a"], 7, ""),
        Reply::Lines(vec![event("ADDED", &node("b", 8))], End::Cut),
        Reply::Lines(vec![bookmark], End::Clean),
        Reply::Lines(vec![event("ADDED", &node("c", 31))], End::Silence),
    ];
    let (seen, fake) = play(nodes(), script, 4).await;
    assert_eq!(seen.lines, ["+Node a", "listed", "+Node b", "+Node c"]);
    assert_asks(&fake, 2, &["resourceVersion=8"]);
    assert_asks(&fake, 3, &["resourceVersion=30"]);
    assert_eq!(seen.warnings, Vec::<Vec<String>>::new());
}

#[tokio::test]
async fn an_expired_watch_is_listed_again_and_what_vanished_is_gone() {
    let script = [
        page(&["a", "b"], 7, ""),
        Reply::Lines(vec![event("ADDED", &node("c", 8)), gone()], End::Clean),
        page(&["b", "d"], 50, ""),
        status(410),
        page(&["b"], 60, ""),
    ];
    let (seen, fake) = play(nodes(), script, 10).await;
    assert_eq!(
        seen.lines,
        [
            "+Node a", "+Node b", "listed", "+Node c", "+Node b", "+Node d", "-Node a", "-Node c",
            "+Node b", "-Node d"
        ]
    );
    assert_asks(&fake, 3, &["watch=true", "resourceVersion=50"]);
}

#[tokio::test]
async fn a_list_that_expires_between_two_pages_starts_again() {
    let script = [
        page(&["a"], 7, "next"),
        status(410),
        page(&["a"], 9, "next"),
        page(&["b"], 9, ""),
    ];
    let (seen, fake) = play(nodes(), script, 4).await;
    assert_eq!(seen.lines, ["+Node a", "+Node a", "+Node b", "listed"]);
    assert!(
        !fake.targets()[2].contains("continue"),
        "{:?}",
        fake.targets()
    );
}

#[tokio::test]
async fn a_silent_connection_is_given_up() {
    let script = [
        page(&["a"], 7, ""),
        Reply::Lines(vec![event("ADDED", &node("b", 8))], End::Silence),
        Reply::Lines(vec![event("ADDED", &node("c", 9))], End::Silence),
    ];
    let (seen, fake) = play(nodes(), script, 4).await;
    assert_eq!(seen.lines, ["+Node a", "listed", "+Node b", "+Node c"]);
    assert_asks(&fake, 2, &["resourceVersion=8"]);
}

#[tokio::test]
async fn a_server_that_accepts_and_says_nothing_is_asked_again() {
    let script = [Reply::Hang, Reply::Hangup, page(&["a"], 7, "")];
    let (seen, _) = play(nodes(), script, 2).await;
    assert_eq!(seen.lines, ["+Node a", "listed"]);
    assert!(
        seen.warnings[0][0].contains("no answer in time"),
        "{:?}",
        seen.warnings
    );
    assert!(seen.warnings[1].is_empty(), "{:?}", seen.warnings);
}

#[tokio::test]
async fn an_api_that_the_cluster_lacks_counts_as_an_empty_list_until_it_appears() {
    let resource = Resource {
        optional: true,
        ..nodes()
    };
    let (seen, _) = play(resource, [status(404), status(404), page(&["a"], 7, "")], 2).await;
    assert_eq!(seen.lines, ["listed", "+Node a"]);
    assert_eq!(seen.warnings, Vec::<Vec<String>>::new());
}

#[tokio::test]
async fn of_several_versions_of_an_api_the_first_that_the_cluster_has_is_read() {
    let resource = Resource {
        paths: &["/apis/new", "/apis/old"],
        optional: true,
        ..nodes()
    };
    let script = [
        status(404),
        status(404),
        status(404),
        page(&["a", "b"], 7, ""),
        // The old version goes, and the new one is there.
        status(404),
        page(&["a"], 9, ""),
    ];
    let (seen, fake) = play(resource, script, 5).await;
    assert_eq!(
        seen.lines,
        ["listed", "+Node a", "+Node b", "+Node a", "-Node b"]
    );
    assert_eq!(seen.warnings, Vec::<Vec<String>>::new());
    let targets = fake.targets();
    let paths = targets
        .iter()
        .map(|target| target.split('?').next().unwrap());
    let (old, new) = ("/apis/old", "/apis/new");
    let expected = [new, old, new, old, old, new];
    assert_eq!(paths.take(6).collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn what_was_read_counts_until_the_cluster_lacks_its_api_twice() {
    let resource = Resource {
        optional: true,
        ..nodes()
    };
    let script = [
        page(&["a"], 7, ""),
        status(404),
        page(&["a", "b"], 8, ""),
        status(404),
        status(404),
    ];
    let (seen, _) = play(resource, script, 6).await;
    assert_eq!(
        seen.lines,
        [
            "+Node a", "listed", "+Node a", "+Node b", "-Node a", "-Node b"
        ]
    );
}

/// An object of 3 MiB, which is as much as an API server takes in one request, has 18 MiB as JSON if it
/// is made of `<`.
#[tokio::test]
async fn the_largest_pod_that_an_api_server_takes_is_read_from_a_list_and_from_an_event() {
    let escaped = r"\u003c".repeat(3 << 20);
    let pod = |name: &str| {
        let meta = format!(r#"{{"name":"{name}","namespace":"a","resourceVersion":"7"}}"#);
        let spec = format!(r#"{{"containers":[{{"env":[{{"name":"x","value":"{escaped}"}}]}}]}}"#);
        format!(r#"{{"metadata":{meta},"spec":{spec}}}"#)
    };
    let list = format!(
        r#"{{"kind":"PodList","metadata":{{"resourceVersion":"7"}},"items":[{}]}}"#,
        pod("listed")
    );
    let events = vec![event("ADDED", &pod("seen")), event("DELETED", &pod("seen"))];
    let script = [Reply::Full(200, list), Reply::Lines(events, End::Silence)];
    let fake = Fake::start(script).await;
    let directory = tempfile::tempdir().unwrap();
    let options = options(&directory, &[fake.port]);
    let [pods, ..] = FOR_POLICIES;
    let done = |lines: &[String]| lines.len() == 4;
    let seen = follow_within(Limits::default(), pods, options, done).await;
    let wanted = ["+Pod a/listed", "listed", "+Pod a/seen", "-Pod a/seen"];
    assert_eq!(seen.lines, wanted, "{:?}", seen.warnings);
    assert!(seen.warnings.is_empty(), "{:?}", seen.warnings);
}

#[tokio::test]
async fn a_dead_address_is_left_for_the_next_one() {
    let dead = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let fake = Fake::start([page(&["a"], 7, "")]).await;
    let directory = tempfile::tempdir().unwrap();
    let seen = follow_until(nodes(), options(&directory, &[dead, fake.port]), 2).await;
    assert_eq!(seen.lines, ["+Node a", "listed"]);
    assert!(
        seen.warnings[0][0].contains(&dead.to_string()),
        "{:?}",
        seen.warnings
    );
}

#[tokio::test]
async fn a_watch_that_is_answered_with_errors_is_listed_again_and_named_once() {
    let broken = || {
        let object =
            r#"{"kind":"Status","code":500,"reason":"StorageReadError","message":"because"}"#;
        Reply::Lines(vec![event("ERROR", object)], End::Clean)
    };
    let answers: [&dyn Fn() -> Reply; 5] = [
        &|| status(400),
        &|| status(404),
        &|| status(500),
        &|| status(504),
        &broken,
    ];
    for answer in answers {
        let script = [
            page(&["a"], 100, ""),
            answer(),
            answer(),
            page(&["a", "b"], 100, ""),
            answer(),
            answer(),
            page(&["b"], 107, ""),
            Reply::Lines(vec![event("ADDED", &node("c", 108))], End::Clean),
            Reply::Lines(vec![event("ADDED", &node("d", 109))], End::Silence),
        ];
        let (seen, fake) = play(nodes(), script, 8).await;
        let targets = fake.targets();
        let watches: Vec<bool> = targets
            .iter()
            .map(|one| one.contains("watch=true"))
            .collect();
        let wanted = [false, true, true, false, true, true, false, true, true];
        assert_eq!(watches, wanted, "{targets:?}");
        assert_asks(&fake, 2, &["resourceVersion=100"]);
        assert_eq!(seen.warnings.len(), 2, "{:?}", seen.warnings);
        assert!(seen.warnings[0][0].starts_with("Node objects: /api/v1/nodes cannot be watched ("));
        assert!(seen.warnings[1].is_empty());
    }
}

#[tokio::test]
async fn a_watch_that_is_not_answered_or_put_off_goes_on_where_it_was() {
    let script = [
        page(&["a"], 100, ""),
        Reply::Hangup,
        status(429),
        status(500),
        Reply::Hangup,
        Reply::Lines(vec![event("ADDED", &node("b", 108))], End::Clean),
        status(500),
        Reply::Lines(vec![event("ADDED", &node("c", 109))], End::Silence),
    ];
    let (seen, fake) = play(nodes(), script, 4).await;
    assert_eq!(seen.lines, ["+Node a", "listed", "+Node b", "+Node c"]);
    let lists = fake
        .targets()
        .into_iter()
        .filter(|one| !one.contains("watch=true"));
    assert_eq!(lists.count(), 1);
}
