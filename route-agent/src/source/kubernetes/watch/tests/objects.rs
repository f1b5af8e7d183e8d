//! Single objects and events that are odd, cannot be read, or are no longer read.

use super::*;

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
