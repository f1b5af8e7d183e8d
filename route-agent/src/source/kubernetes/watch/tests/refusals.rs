//! A server that refuses, or ends every watch.

use super::*;

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
async fn after_a_refusal_the_token_is_read_again() {
    let fake = Fake::start([status(401), page(&["a"], 7, "")]).await;
    let directory = tempfile::tempdir().unwrap();
    let options = options(&directory, &[fake.port]);
    let token = directory.path().join("token");
    let (inputs, _warnings) = mpsc::channel();
    let server = ApiServer::find(options, fast(), inputs).await.unwrap();
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
    let server = ApiServer::find(options, fast(), inputs).await.unwrap();
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
    let server = ApiServer::find(options(&directory, &[fake.port]), fast(), inputs);
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
async fn a_watch_that_is_cut_while_it_is_quiet_goes_on_at_once_and_in_silence() {
    let quiet = |_| Reply::Lines(Vec::new(), End::CutAfter(Duration::from_millis(40)));
    let warnings = after_watches((0..8).map(quiet)).await;
    assert!(warnings.is_empty(), "{warnings:?}");
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
