//! The watch against a scripted API server on a real socket.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Arc, mpsc};

use serde::Deserialize;
use tokio::net::TcpListener;

use super::*;
use crate::config::apiserver::Options;
use crate::input::Input;
use crate::snapshot::Node;
use crate::source::kubernetes::fake::{End, Fake, Reply, fast, small};
use crate::source::kubernetes::problems::Problems;

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
    let (inputs, warnings) = mpsc::channel();
    let problems = Arc::new(Problems::new(inputs));
    let server = ApiServer::find(options, fast(), problems).await.unwrap();
    let server = server.with_limits(small());
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

#[tokio::test]
async fn one_object_that_cannot_be_read_never_stops_the_rest() {
    let bad = r#"{"metadata":{"name":7,"namespace":"x","resourceVersion":"8"}}"#;
    let broken = r#"{"metadata":{"name":"b","uid":7,"resourceVersion":"9"},"spec":"#;
    assert!(serde_json::from_str::<serde_json::Value>(broken).is_err());
    let script = [
        Reply::Full(
            200,
            format!(
                r#"{{"kind":"NodeList","metadata":{{"resourceVersion":"7"}},"items":[{bad},{}]}}"#,
                node("a", 7)
            ),
        ),
        Reply::Lines(
            vec![event("ADDED", bad), event("ADDED", &node("b", 9))],
            End::Silence,
        ),
    ];
    let (seen, _) = play(nodes(), script, 3).await;
    assert_eq!(seen.lines, ["+Node a", "listed", "+Node b"]);
    assert_eq!(seen.warnings.len(), 1, "{:?}", seen.warnings);
    assert!(seen.warnings[0][0].contains("cannot be read and is left out"));
}

#[tokio::test]
async fn an_object_that_is_read_no_longer_is_gone_whatever_is_said_of_it() {
    let with = |name: &str, label: &str| {
        format!(r#"{{"metadata":{{"name":"{name}","uid":"{label}","resourceVersion":"8"}}}}"#)
    };
    let events = vec![
        event("MODIFIED", &with("a", "ignored")),
        event("DELETED", &with("a", "ignored")),
        event("MODIFIED", &with("b", "unreadable")),
        event("DELETED", &with("c", "unreadable")),
        event("DELETED", &with("d", "ignored")),
        event("ADDED", &node("e", 9)),
    ];
    let first = page(&["a", "b", "c", "d"], 7, "");
    let script = [first, Reply::Lines(events, End::Silence)];
    let (seen, _) = play(nodes(), script, 10).await;
    assert_eq!(
        seen.lines[4..],
        [
            "listed", "-Node a", "-Node b", "-Node c", "-Node d", "+Node e"
        ]
    );
    let named = &seen.warnings.last().unwrap()[..];
    assert_eq!(named.len(), 1, "{named:?}");
    assert!(named[0].starts_with("Node b: cannot be read and is left out"));
}

#[tokio::test]
async fn what_could_not_be_read_is_named_no_longer_once_a_list_comes_without_it() {
    let script = [
        page(&["a", "unreadable"], 7, ""),
        status(410),
        page(&["a"], 8, ""),
        Reply::Lines(vec![event("ADDED", &node("b", 9))], End::Silence),
    ];
    let (seen, _) = play(nodes(), script, 4).await;
    assert_eq!(seen.lines, ["+Node a", "listed", "+Node a", "+Node b"]);
    assert_eq!(seen.warnings.len(), 2, "{:?}", seen.warnings);
    assert!(seen.warnings[1].is_empty(), "{:?}", seen.warnings);
}

#[tokio::test]
async fn a_slice_that_loses_its_service_is_gone() {
    let slice = |labels: &str| {
        format!(
            r#"{{"metadata":{{"name":"web-1","namespace":"shop","resourceVersion":"8",
                "labels":{{{labels}}}}},"addressType":"IPv4"}}"#
        )
        .replace('\n', "")
    };
    let first = slice(r#""kubernetes.io/service-name":"web""#);
    let list = format!(
        r#"{{"kind":"EndpointSliceList","metadata":{{"resourceVersion":"7"}},"items":[{first}]}}"#
    );
    let script = [
        Reply::Full(200, list),
        Reply::Lines(vec![event("MODIFIED", &slice(""))], End::Silence),
    ];
    let slices = crate::source::kubernetes::RESOURCES[2].clone();
    let (seen, _) = play(slices, script, 3).await;
    let name = "EndpointSlice shop/web-1";
    assert_eq!(
        seen.lines,
        [format!("+{name}"), "listed".into(), format!("-{name}")]
    );
}

#[tokio::test]
async fn a_page_full_of_objects_that_cannot_be_read_makes_one_warning_of_a_hundred_and_a_number() {
    let names: Vec<String> = (0..150).map(|n| format!("unreadable{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (seen, _) = after_hostility(vec![page(&names, 7, ""), status(410)]).await;
    assert_eq!(seen.warnings[0].len(), 101, "{:?}", seen.warnings);
    assert!(seen.warnings[0][100].starts_with("other objects: 50 more cannot be read"));
    // One for the page, none for each object.
    assert!(seen.warnings.len() < 5, "{}", seen.warnings.len());
}

#[tokio::test]
async fn a_line_that_is_not_an_event_is_met_once_and_all_are_listed_again() {
    let object = node("x", 9);
    for line in [
        "{not json".to_owned(),
        r#"{"type":"ADDED"}"#.to_owned(),
        format!(r#"{{"type":7,"object":{object}}}"#),
        format!(r#"{{"object":{object}}}"#),
    ] {
        let script = [
            page(&["a"], 7, ""),
            Reply::Lines(
                vec![event("ADDED", &node("b", 8)), line.clone()],
                End::Silence,
            ),
            page(&["a", "b"], 9, ""),
            Reply::Lines(vec![event("ADDED", &node("c", 10))], End::Silence),
        ];
        let (seen, fake) = play(nodes(), script, 6).await;
        assert_eq!(
            seen.lines,
            [
                "+Node a", "listed", "+Node b", "+Node a", "+Node b", "+Node c"
            ],
            "{line}"
        );
        let target = &fake.targets()[2];
        assert!(!target.contains("watch="), "{line}: {target}");
        let why = "an event of the watch cannot be read";
        assert!(seen.warnings[0][0].contains(why), "{:?}", seen.warnings);
    }
}

#[tokio::test]
async fn an_event_is_read_whatever_its_spelling_and_whatever_bytes_are_in_it() {
    let escaped = event(r"ADD\u0045D", &node("b", 8));
    let mut odd = event("ADDED", &node("c#", 9)).into_bytes();
    let place = odd.iter().position(|byte| *byte == b'#').unwrap();
    odd[place] = 0xff;
    let lines = [
        escaped.as_bytes(),
        &odd,
        event("ADDED", &node("d", 10)).as_bytes(),
    ]
    .join(&b'\n');
    let script = [
        page(&["a"], 7, ""),
        Reply::Bytes([&lines[..], b"\n"].concat()),
    ];
    let (seen, fake) = play(nodes(), script, 5).await;
    assert_eq!(
        seen.lines,
        ["+Node a", "listed", "+Node b", "+Node c\u{fffd}", "+Node d"]
    );
    assert_eq!(fake.targets().len(), 2);
}

#[tokio::test]
async fn an_answer_that_is_no_list_of_what_is_asked_for_is_named_and_what_was_read_stays() {
    let list = |kind: &str, version: &str| {
        format!(r#"{{"kind":"{kind}","metadata":{{"resourceVersion":"{version}"}},"items":[]}}"#)
    };
    let bare = |text: &str| text.to_owned();
    for (answer, why) in [
        (bare("{}"), "it has no kind"),
        (bare("[]"), "it has no kind"),
        (
            bare(r#"{"kind":"Status","status":"Failure","code":500,"message":"m"}"#),
            "it is of kind Status",
        ),
        (list("PodList", "9"), "it is of kind PodList"),
        (list("Node", "9"), "it is of kind Node"),
        (list("NodeList", ""), "it has no resourceVersion"),
        (
            bare(r#"{"kind":"NodeList","items":[]}"#),
            "it has no resourceVersion",
        ),
        (
            bare(r#"{"kind":"NodeList","metadata":{"resourceVersion":"9"}}"#),
            "it has no items",
        ),
    ] {
        let answer = || Reply::Full(200, answer.clone());
        let script = vec![
            page(&["a", "b"], 7, ""),
            status(410),
            answer(),
            // The same in the place of a later page.
            page(&["a"], 9, "next"),
            answer(),
        ];
        let (seen, _) = after_hostility(script).await;
        assert_eq!(
            seen.lines,
            [
                "+Node a",
                "+Node b",
                "listed",
                "+Node a",
                "+Node good",
                "-Node a",
                "-Node b",
                "+Node end"
            ]
        );
        let text = &seen.warnings[0][0];
        assert!(text.contains(why), "{why}: {text}");
        assert!(text.contains("no list of kind Node"), "{text}");
    }
    let empty = r#"{"kind":"NodeList","metadata":{"resourceVersion":"9"},"items":null}"#;
    let script = [
        page(&["a"], 7, ""),
        status(410),
        Reply::Full(200, empty.to_owned()),
    ];
    let (seen, _) = play(nodes(), script, 3).await;
    assert_eq!(seen.lines, ["+Node a", "listed", "-Node a"]);
}

#[tokio::test]
async fn an_event_about_another_kind_is_named_and_takes_nothing_in_and_nothing_away() {
    let of_kind = |kind: &str, name: &str| {
        format!(r#"{{"kind":"{kind}","metadata":{{"name":"{name}","resourceVersion":"8"}}}}"#)
    };
    let events = vec![
        event("ADDED", &of_kind("Pod", "b")),
        event("MODIFIED", &of_kind("Status", "a")),
        event("DELETED", &of_kind("Pod", "a")),
        event("ADDED", &of_kind("Node", "c")),
    ];
    let script = [page(&["a"], 7, ""), Reply::Lines(events, End::Silence)];
    let (seen, _) = play(nodes(), script, 3).await;
    assert_eq!(seen.lines, ["+Node a", "listed", "+Node c"]);
    let named = seen.warnings.last().unwrap().join("\n");
    assert!(
        named.contains("Node b: came as an object of kind Pod"),
        "{named}"
    );
}

#[tokio::test]
async fn a_refusal_is_named_once_and_cleared_when_the_server_answers() {
    let script = [status(403), status(403), status(429), page(&["a"], 7, "")];
    let (seen, _) = play(nodes(), script, 2).await;
    assert_eq!(seen.lines, ["+Node a", "listed"]);
    assert_eq!(seen.warnings.len(), 2, "{:?}", seen.warnings);
    assert!(
        seen.warnings[0][0].contains("403 Forbidden: because"),
        "{:?}",
        seen.warnings
    );
    assert!(seen.warnings[1].is_empty());
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
async fn after_a_refusal_the_token_is_read_again() {
    let fake = Fake::start([status(401), page(&["a"], 7, "")]).await;
    let directory = tempfile::tempdir().unwrap();
    let options = options(&directory, &[fake.port]);
    let token = directory.path().join("token");
    let (inputs, _warnings) = mpsc::channel();
    let server = ApiServer::find(options, fast(), Arc::new(Problems::new(inputs)))
        .await
        .unwrap();
    std::fs::write(token, "second").unwrap();
    let resource = nodes();
    let following = follow(&resource, &server, |update| match update {
        Update::Listed => ControlFlow::Break(()),
        Update::Changes(_) => ControlFlow::Continue(()),
    });
    timeout(Duration::from_secs(20), following).await.unwrap();
    let script = fake.script.lock().unwrap();
    let tokens: Vec<_> = script
        .asked
        .iter()
        .map(|asked| asked.authorization.as_str())
        .collect();
    assert_eq!(tokens, ["Bearer first", "Bearer second"]);
}

#[tokio::test]
async fn credentials_that_cannot_be_read_are_named_once_however_often_they_are_tried() {
    let refusals = (0..5).map(|_| status(503));
    let fake = Fake::start(refusals.chain([page(&["a"], 7, "")])).await;
    let directory = tempfile::tempdir().unwrap();
    let options = options(&directory, &[fake.port]);
    let kubeconfig = options.kubeconfig.clone().unwrap();
    let (inputs, told) = mpsc::channel();
    let server = ApiServer::find(options, fast(), Arc::new(Problems::new(inputs)))
        .await
        .unwrap();
    std::fs::remove_file(kubeconfig).unwrap();
    let resource = nodes();
    let following = follow(&resource, &server, |update| match update {
        Update::Listed => ControlFlow::Break(()),
        Update::Changes(_) => ControlFlow::Continue(()),
    });
    timeout(Duration::from_secs(20), following).await.unwrap();
    let told = told.try_iter().filter_map(|input| match input {
        Input::SourceWarnings(all) => Some(all),
        _ => None,
    });
    let of_credentials = |warnings: &Vec<crate::warnings::Warning>| {
        let mut all = warnings.iter();
        all.any(|one| one.object.starts_with("credentials"))
    };
    let told: Vec<bool> = told.map(|all| of_credentials(&all)).collect();
    let said = told.iter().filter(|with| **with).count();
    assert!((1..=2).contains(&said), "{told:?}");
    assert_eq!(told.last(), Some(&false), "cleared with the first answer");
}

/// Plays the script of a hostile server, then a good list, and returns the warnings before it.
async fn after_hostility(script: Vec<Reply>) -> (Seen, Fake) {
    let good = [
        page(&["good"], 7, ""),
        Reply::Lines(vec![event("ADDED", &node("end", 8))], End::Silence),
    ];
    let script = script.into_iter().chain(good);
    let fake = Fake::start(script).await;
    let directory = tempfile::tempdir().unwrap();
    let options = options(&directory, &[fake.port]);
    let done = |lines: &[String]| lines.iter().any(|line| line == "+Node end");
    let seen = follow_while(nodes(), options, done).await;
    (seen, fake)
}

#[tokio::test]
async fn a_list_without_end_is_asked_for_in_smaller_pages_given_up_and_named() {
    let endless = || Reply::Endless(vec![b' '; 1000], Duration::ZERO);
    let (seen, fake) = after_hostility((0..4).map(|_| endless()).collect()).await;
    assert_eq!(seen.lines, ["+Node good", "listed", "+Node end"]);
    assert!(
        seen.warnings[0][0].contains("a page of one object is longer than 10000 bytes"),
        "{:?}",
        seen.warnings
    );
    assert_eq!(
        seen.warnings.len(),
        2,
        "once, and cleared: {:?}",
        seen.warnings
    );
    for (place, limit) in ["limit=500", "limit=62", "limit=7", "limit=1"]
        .iter()
        .enumerate()
    {
        assert_asks(&fake, place, &[limit]);
    }
}

#[tokio::test]
async fn a_page_that_is_too_long_is_asked_for_again_with_fewer_objects_and_then_with_more() {
    let endless = Reply::Endless(vec![b' '; 1000], Duration::ZERO);
    let script = vec![page(&["a"], 7, "t"), endless, page(&["b"], 7, "u")];
    let (seen, fake) = after_hostility(script).await;
    assert_eq!(
        seen.lines,
        ["+Node a", "+Node b", "+Node good", "listed", "+Node end"]
    );
    assert!(seen.warnings.is_empty(), "{:?}", seen.warnings);
    let asked = [
        ["limit=500", ""],
        ["limit=500", "continue=t"],
        ["limit=62", "continue=t"],
        ["limit=124", "continue=u"],
    ];
    for (place, asks) in asked.iter().enumerate() {
        assert_asks(&fake, place, asks);
    }
}

#[tokio::test]
async fn a_list_that_drips_is_given_up_and_named() {
    let drip = Reply::Endless(vec![b' '], Duration::from_millis(20));
    let (seen, _) = after_hostility(vec![drip]).await;
    assert_eq!(seen.lines, ["+Node good", "listed", "+Node end"]);
    let why = "a page of the list takes longer than";
    assert!(seen.warnings[0][0].contains(why), "{:?}", seen.warnings);
}

#[tokio::test]
async fn a_continue_token_that_comes_again_ends_the_list_and_what_it_brought_is_gone() {
    for tokens in [&["t", "t"][..], &["t", "u", "t"]] {
        let pages = tokens.iter().map(|token| page(&["forged"], 7, token));
        let (seen, fake) = after_hostility(pages.collect()).await;
        let mut wanted = vec!["+Node forged"; tokens.len()];
        wanted.extend(["-Node forged", "+Node good", "listed", "+Node end"]);
        assert_eq!(seen.lines, wanted);
        assert!(
            seen.warnings[0][0].contains("the list has no end"),
            "{:?}",
            seen.warnings
        );
        assert!(!fake.targets()[tokens.len()].contains("continue"));
    }
}

#[tokio::test]
async fn a_token_that_is_longer_than_any_can_be_ends_the_list() {
    let long = "t".repeat(9000);
    let (seen, fake) = after_hostility(vec![page(&["forged"], 7, &long)]).await;
    assert_eq!(
        seen.lines,
        [
            "+Node forged",
            "-Node forged",
            "+Node good",
            "listed",
            "+Node end"
        ]
    );
    let why = "a `continue` token or resourceVersion is longer than 8192 bytes";
    assert!(seen.warnings[0][0].contains(why), "{:?}", seen.warnings);
    assert!(!fake.targets()[1].contains("continue"));
}

#[tokio::test]
async fn a_list_of_ever_new_pages_has_a_limit() {
    let pages = (0..200).map(|n| page(&[&format!("{n:0>100}")], 7, &format!("t{n}")));
    let (seen, fake) = after_hostility(pages.take(83).collect()).await;
    let asked = fake.targets().len();
    assert!(asked < 90, "{asked} pages were asked for");
    assert!(
        seen.warnings[0][0].contains("the list is longer than 15000 bytes"),
        "{:?}",
        seen.warnings
    );
}

#[tokio::test]
async fn an_object_that_is_longer_than_any_can_be_is_left_out_and_named_and_the_others_are_read() {
    let long = format!(
        r#"{{"metadata":{{"name":"long","labels":{{"a":"{}"}}}}}}"#,
        "x".repeat(4000)
    );
    let text = format!(
        r#"{{"kind":"NodeList","metadata":{{"resourceVersion":"7"}},"items":[{},{long}]}}"#,
        node("short", 7)
    );
    let (seen, _) = after_hostility(vec![Reply::Full(200, text), status(410)]).await;
    assert_eq!(seen.lines[..2], ["+Node short", "listed"]);
    assert!(
        seen.warnings[0][0].contains("Node long: is longer than 4000 bytes and is left out"),
        "{:?}",
        seen.warnings
    );
}

#[tokio::test]
async fn what_a_list_that_broke_has_brought_goes_with_the_next_one() {
    let script = vec![page(&["old"], 7, "next"), status(500)];
    let (seen, _) = after_hostility(script).await;
    let wanted = [
        "+Node old",
        "+Node good",
        "-Node old",
        "listed",
        "+Node end",
    ];
    assert_eq!(seen.lines, wanted);
}

#[tokio::test]
async fn an_event_without_end_and_one_that_drips_are_given_up() {
    for (bytes, pause, why) in [
        (1000, 0, "an event of the watch is longer than 6000 bytes"),
        (1, 20, "no answer in time"),
    ] {
        let endless = Reply::Endless(vec![b'x'; bytes], Duration::from_millis(pause));
        let (seen, fake) = after_hostility(vec![page(&["a"], 6, ""), endless, status(410)]).await;
        assert!(seen.warnings[0][0].contains(why), "{:?}", seen.warnings);
        // What is too long would come again with the same watch: the next request is for a list.
        let watches = fake.targets()[2].contains("watch=");
        assert_eq!(watches, why == "no answer in time", "{:?}", fake.targets());
    }
}

#[tokio::test]
async fn an_event_that_is_too_long_to_be_read_is_named_and_the_watch_goes_on() {
    let long = format!(
        r#"{{"metadata":{{"name":"long","a":"{}"}}}}"#,
        "<".repeat(4500)
    );
    let events = vec![event("ADDED", &long), event("ADDED", &node("end", 8))];
    let watch = Reply::Lines(events, End::Silence);
    let (seen, fake) = play(nodes(), [page(&["a"], 6, ""), watch], 3).await;
    assert_eq!(seen.lines, ["+Node a", "listed", "+Node end"]);
    assert!(
        seen.warnings[0][0].contains("Node long: is longer than 4000 bytes and is left out"),
        "{:?}",
        seen.warnings
    );
    assert_eq!(fake.targets().len(), 2);
}

#[tokio::test]
async fn a_watch_that_is_cut_while_it_is_quiet_goes_on_at_once_and_in_silence() {
    let quiet = |_| Reply::Lines(Vec::new(), End::CutAfter(Duration::from_millis(40)));
    let warnings = after_watches((0..8).map(quiet)).await;
    assert!(warnings.is_empty(), "{warnings:?}");
}

#[tokio::test]
async fn what_is_refused_and_then_not_there_is_no_longer_called_refused() {
    let resource = Resource {
        optional: true,
        ..nodes()
    };
    let (seen, _) = play(resource, [status(403), status(404)], 1).await;
    assert_eq!(seen.lines, ["listed"]);
    let warnings = &seen.warnings;
    assert!(warnings[0][0].contains("403 Forbidden"), "{warnings:?}");
    assert_eq!(warnings.last().unwrap(), &[""; 0], "{warnings:?}");
}

#[tokio::test]
async fn of_several_kinds_each_that_is_refused_is_named_until_it_is_not() {
    let fake = Fake::start([]).await;
    let directory = tempfile::tempdir().unwrap();
    let (inputs, told) = mpsc::channel();
    let problems = Arc::new(Problems::new(inputs));
    let server = ApiServer::find(options(&directory, &[fake.port]), fast(), problems);
    let server = server.await.unwrap();
    let last = || -> Vec<String> {
        let all = told.try_iter().filter_map(|input| match input {
            Input::SourceWarnings(all) => Some(all),
            _ => None,
        });
        let last = all.last().unwrap_or_default();
        last.iter().map(|one| one.text.clone()).collect()
    };
    let (_, generation) = server.client();
    server.serves(generation, "/services");
    server.refused(generation, "/pods", "403 one").await;
    server.refused(generation, "/policies", "403 other").await;
    server.reached("/services");
    assert_eq!(
        server.client().1,
        generation,
        "the others go on as they are"
    );
    let text = last().concat();
    assert!(
        text.contains("/pods: 403 one") && text.contains("/policies: 403 other"),
        "{text}"
    );
    server.reached("/pods");
    let text = last().concat();
    assert!(
        !text.contains("/pods") && text.contains("/policies: 403 other"),
        "{text}"
    );
    server.reached("/policies");
    assert_eq!(last(), [""; 0]);
    // Whom nothing is given any longer may have the wrong credentials, or the wrong address.
    server.refused(generation, "/services", "403 too").await;
    assert_eq!(server.client().1, generation + 1);
}

#[tokio::test]
async fn a_server_that_answers_410_to_every_watch_is_asked_ever_more_slowly_and_named() {
    let mut script = Vec::new();
    for version in 0..8 {
        script.push(page(&["a"], version, ""));
        let events = vec![event("ADDED", &node("a", 8)), gone()];
        script.push(if version % 2 == 0 {
            status(410)
        } else {
            // An event before it is no success either.
            Reply::Lines(events, End::Clean)
        });
    }
    let began = Instant::now();
    let (seen, _) = after_hostility(script).await;
    // Pauses of 1, 2, 4, 8, 16, 20, 20 and 20 ms, each at least half of that; 8 x 1 ms without growth.
    assert!(
        began.elapsed() > Duration::from_millis(45),
        "{:?}",
        began.elapsed()
    );
    let text = &seen.warnings[0][0];
    assert!(
        text.starts_with(
            "Node objects: the API server ends every list or watch at once, the last with 410"
        ),
        "{text}"
    );
}

/// A server that listed `a`, and after each of these ends of a watch was asked to watch again.
async fn after_watches(ends: impl IntoIterator<Item = Reply>) -> Vec<Vec<String>> {
    let first = std::iter::once(page(&["a"], 6, ""));
    let (seen, _) = after_hostility(first.chain(ends).chain([status(410)]).collect()).await;
    seen.warnings
}

#[tokio::test]
async fn a_server_that_ends_every_watch_at_once_without_a_word_is_named() {
    for end in [End::Clean, End::Cut] {
        let watch = |_| Reply::Lines(vec![event("ADDED", &node("a", 8))], end);
        let warnings = after_watches((0..5).map(watch)).await;
        let text = &warnings[0][0];
        assert!(
            text.contains("ends every list or watch at once"),
            "{warnings:?}"
        );
    }
}

#[tokio::test]
async fn one_410_after_many_failures_is_not_taken_for_a_server_that_always_says_so() {
    let warnings = after_watches((0..8).map(|_| status(503))).await;
    assert!(!warnings.is_empty(), "the failures themselves are named");
    let all = warnings.concat();
    assert!(
        !all.iter()
            .any(|text| text.contains("ends every list or watch")),
        "{all:?}"
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
