use super::*;

#[test]
fn a_warning_shows_the_words_of_others_on_one_line_and_not_without_end() {
    let warning = Warning::new("file a\nb", "\u{1b}]0;owned\u{7} is wrong");
    assert_eq!(warning.object, "file a\\nb");
    assert_eq!(warning.text, "\\u{1b}]0;owned\\u{7} is wrong");
    let warning = Warning::new("x".repeat(5000), "y".repeat(50_000_000));
    assert!(warning.object.len() < 700 && warning.text.len() < 2100);
    assert!(warning.text.capacity() < 4200, "the rest is given back");
    assert_eq!(Warning::new("Node a", "is wrong").text, "is wrong");
}

/// How many lines this number of changes makes, and what is left to tell.
fn lines(changes: u32, within: Duration) -> (u32, Untold) {
    let start = Instant::now();
    let mut log = Log::default();
    let told = (0..changes).filter(|n| {
        let told = log.may_tell(start + within * *n / changes);
        log.untold.new += usize::from(!told);
        told
    });
    (u32::try_from(told.count()).unwrap(), log.untold)
}

#[test]
fn what_comes_and_goes_all_the_time_is_summed_up_over_time_and_not_object_by_object() {
    let (told, untold) = lines(80_000, Duration::from_secs(8));
    assert_eq!(told, NAMED_AT_ONCE + 2, "two more in eight seconds");
    assert!(untold.new > 1000, "{untold:?}");
    let (told, _) = lines(80_000, Duration::from_secs(3500));
    assert_eq!(told, NAMED_AT_ONCE + 999);
    // An honest day: each is told.
    let (told, untold) = lines(100, Duration::from_secs(400));
    assert_eq!((told, untold), (100, Untold::default()));
}

#[test]
fn eighty_thousand_changes_of_one_object_make_some_lines_of_log() {
    let text = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let writer = Written(text.clone());
    let subscriber = tracing_subscriber::fmt()
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, || {
        let mut warnings = Warnings::default();
        for n in 0..40_000 {
            let object = format!("Service default/{}", n % 7);
            warnings.replace_for("services", &object, [format!("bad value {n}")]);
            warnings.replace_for("services", &object, []);
        }
    });
    let bytes = text.lock().unwrap().len();
    assert!((1000..50_000).contains(&bytes), "{bytes} bytes of log");
}

#[derive(Clone)]
struct Written(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_failure_is_news_until_it_is_known_and_again_once_it_was_over() {
    let mut last = LastFailure::default();
    let said = ["a", "a", "b", "a"].map(|text| last.is_news(text));
    assert_eq!(said, [true, false, true, true]);
    last.is_over();
    assert!(last.is_news("a"));
}

#[test]
fn replacing_all_leaves_other_origins_alone() {
    let mut warnings = Warnings::default();
    warnings.replace(
        "routes",
        [Warning::new("Node a", "x"), Warning::new("Node b", "y")],
    );
    warnings.replace("source", [Warning::new("file f", "z")]);
    warnings.replace("routes", [Warning::new("Node b", "y")]);
    let present: Vec<_> = warnings
        .iter()
        .map(|(o, w)| (o, w.object.as_str()))
        .collect();
    assert_eq!(present, [("routes", "Node b"), ("source", "file f")]);
    warnings.replace("routes", []);
    warnings.replace("source", []);
    assert!(warnings.is_empty());
}

#[test]
fn of_one_object_some_faults_are_named_and_that_there_are_more() {
    let (sender, seen) = std::sync::mpsc::channel();
    let on_new: OnNewWarning = Box::new(move |_| sender.send(()).unwrap());
    let mut warnings = Warnings::watched_by(Some(on_new));
    let texts = |count: u32| (0..count).map(|number| format!("port {number} is bad"));
    let of_web = |count| texts(count).map(|text| Warning::new("Service default/web", text));
    let others = [
        Warning::new("Service a/a", "x"),
        Warning::new("Service z/z", "y"),
    ];
    // Each comes twice, as from both families.
    let all = of_web(95_000).chain(others.clone()).chain(of_web(95_000));
    warnings.replace("services", all);
    let object = "Service default/web";
    let more = |warnings: &Warnings| {
        let mut all = warnings.iter().map(|(_, one)| one);
        all.any(|one| one.object == object && one.text == MORE)
    };
    assert_eq!(warnings.count("services"), MOST_TEXTS + 1 + 2);
    assert!(more(&warnings));
    // One more or less of them is no news.
    for count in [95_000, 94_999, 95_001] {
        warnings.replace_for("services", object, texts(count));
        assert_eq!(warnings.count("services"), MOST_TEXTS + 1 + 2);
        assert!(more(&warnings));
    }
    assert_eq!(seen.try_iter().count(), MOST_TEXTS + 1 + 2);
    warnings.replace_for("services", object, texts(50).chain(texts(50)));
    assert_eq!(warnings.count("services"), 52);
    assert!(!more(&warnings));
    warnings.replace_for("services", object, []);
    assert_eq!(
        warnings.iter().map(|(_, one)| one).collect::<Vec<_>>(),
        [&others[0], &others[1]]
    );
}

#[test]
fn what_is_said_of_an_object_whose_name_is_not_shown_as_it_is_ends_too() {
    let mut warnings = Warnings::default();
    warnings.replace_for("s", "file a\nb", ["1".to_owned()]);
    warnings.replace_for("s", "file a\nb", ["2".to_owned()]);
    assert_eq!(warnings.count("s"), 1);
    warnings.replace_for("s", "file a\nb", []);
    assert!(warnings.is_empty());
}

#[test]
fn a_warning_is_new_only_when_it_appears() {
    let (sender, seen) = std::sync::mpsc::channel();
    let on_new: OnNewWarning =
        Box::new(move |warning| sender.send(warning.object.clone()).unwrap());
    let mut warnings = Warnings::watched_by(Some(on_new));
    warnings.replace("routes", [Warning::new("Node a", "x")]);
    warnings.replace(
        "routes",
        [Warning::new("Node a", "x"), Warning::new("Node b", "y")],
    );
    warnings.replace_for("services", "Service c", ["z".to_owned()]);
    warnings.replace_for("services", "Service c", ["z".to_owned()]);
    warnings.replace_for("services", "Service c", []);
    warnings.replace_for("services", "Service c", ["z".to_owned()]);
    let objects: Vec<_> = seen.try_iter().collect();
    assert_eq!(objects, ["Node a", "Node b", "Service c", "Service c"]);
}

#[test]
fn replacing_for_one_object_leaves_its_neighbours_alone() {
    let mut warnings = Warnings::default();
    warnings.replace("s", [Warning::new("a", "1"), Warning::new("ab", "2")]);
    warnings.replace_for("s", "a", ["3".to_owned(), "4".to_owned()]);
    assert_eq!(warnings.count("s"), 3);
    warnings.replace_for("s", "a", []);
    assert_eq!(
        warnings
            .iter()
            .map(|(_, w)| w.text.as_str())
            .collect::<Vec<_>>(),
        ["2"]
    );
    warnings.replace_for("s", "ab", []);
    assert!(warnings.is_empty());
}
