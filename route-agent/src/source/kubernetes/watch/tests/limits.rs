//! What a server sends that is too much, too slow, or not what was asked for.

use super::*;

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
async fn a_list_whose_pages_take_too_long_together_is_given_up_and_named() {
    let limits = Limits {
        page_time: Duration::from_secs(60),
        list_time: Duration::from_secs(2),
        ..small()
    };
    let drip = Reply::Endless(vec![b' '], Duration::from_millis(20));
    let script = vec![page(&["forged"], 7, "t"), drip];
    let (seen, _) = after_hostility_within(limits, script).await;
    let lines = [
        "+Node forged",
        "-Node forged",
        "+Node good",
        "listed",
        "+Node end",
    ];
    assert_eq!(seen.lines, lines);
    let why = "the list is not complete after 2 s";
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
