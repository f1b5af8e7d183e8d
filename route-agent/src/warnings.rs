//! What is wrong but does not stop the agent.
//!
//! A warning is logged once when it appears and once when it is fixed, never in between; all present
//! ones are listed by `podwire-agent status` and counted in `podwire_warnings`. A feature either
//! replaces all of its warnings at once, or those of one object.
//!
//! Who may change an object can make and fix its warning as often as there is time. So the log has
//! a limit over time: what exceeds it is counted, and told as a number.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::text;

/// More than this many lines at a time are summed up in one line of the log.
const NAMED_AT_ONCE: u32 = 200;

/// After this long there may be one more line: some 25,000 in a day, whatever happens.
const NEXT_LINE: Duration = Duration::from_millis(3500);

/// In bytes: a kind, and a namespace and name of 253 each; a path is shorter.
const LONGEST_OBJECT: usize = 600;

/// In bytes: several sentences, or a few dozen names.
const LONGEST_TEXT: usize = 2000;

/// Something that is wrong, with the object it is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Warning {
    /// The object, as a person would name it: `Node worker3`, `Service default/web`.
    pub object: String,
    /// One sentence without the object: what is wrong, what follows, what to do.
    pub text: String,
}

impl Warning {
    /// A warning about an object. Both texts may hold words of others: what a terminal would obey
    /// is escaped, and they are cut at a length that no honest one has.
    pub fn new(object: impl Into<String>, text: impl Into<String>) -> Self {
        let shown = |text: String, most| match text::cut(&text::printable(&text), most) {
            Cow::Borrowed(same) if same.len() == text.len() => text,
            shown => shown.into_owned(),
        };
        Self {
            object: shown(object.into(), LONGEST_OBJECT),
            text: shown(text.into(), LONGEST_TEXT),
        }
    }
}

/// What becomes an Event about an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The object, and what is said of it.
    pub warning: Warning,
    /// In one word, as `kubectl` shows it.
    pub reason: &'static str,
    /// Tells it from others of the same words: 0 if there is to be but one, whichever node sees it.
    pub moment: u64,
}

impl From<&Warning> for Notice {
    fn from(warning: &Warning) -> Self {
        Self {
            warning: warning.clone(),
            reason: "PodwireWarning",
            moment: 0,
        }
    }
}

/// Is shown every new warning, from the reconcile loop: must not wait for anything.
pub type OnNewWarning = Box<dyn FnMut(&Warning) + Send>;

/// All warnings that apply now, by the feature or source that raised them.
#[derive(Default)]
pub struct Warnings {
    /// An origin that has ever raised one stays, so that its count goes back to 0.
    present: BTreeMap<&'static str, BTreeSet<Warning>>,
    on_new: Option<OnNewWarning>,
    log: Log,
}

impl fmt::Debug for Warnings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl Warnings {
    /// None yet; each new one is shown to `on_new`.
    pub fn watched_by(on_new: Option<OnNewWarning>) -> Self {
        Self {
            on_new,
            ..Self::default()
        }
    }

    /// The warnings of `origin` are exactly these from now on.
    pub fn replace(&mut self, origin: &'static str, now: impl IntoIterator<Item = Warning>) {
        let now: BTreeSet<Warning> = now.into_iter().collect();
        let before = self.present.entry(origin).or_default();
        self.log.difference(origin, before, &now, Instant::now());
        if let Some(on_new) = &mut self.on_new {
            now.difference(before).for_each(on_new);
        }
        *before = now;
    }

    /// The warnings of `origin` about one object are exactly these texts from now on.
    pub fn replace_for(
        &mut self,
        origin: &'static str,
        object: &str,
        texts: impl IntoIterator<Item = String>,
    ) {
        let now: BTreeSet<Warning> = texts
            .into_iter()
            .map(|text| Warning::new(object, text))
            .collect();
        let all = self.present.entry(origin).or_default();
        let first = Warning::new(object, "");
        let before: BTreeSet<Warning> = all
            .range(first..)
            .take_while(|w| w.object == object)
            .cloned()
            .collect();
        self.log.difference(origin, &before, &now, Instant::now());
        if let Some(on_new) = &mut self.on_new {
            now.difference(&before).for_each(on_new);
        }
        for fixed in before.difference(&now) {
            all.remove(fixed);
        }
        all.extend(now);
    }

    /// All warnings with their origin, sorted.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &Warning)> {
        self.present
            .iter()
            .flat_map(|(origin, set)| set.iter().map(|warning| (*origin, warning)))
    }

    /// How many warnings of `origin` there are.
    pub fn count(&self, origin: &str) -> usize {
        self.present.get(origin).map_or(0, BTreeSet::len)
    }

    /// How many warnings there are, by origin.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, usize)> {
        self.present
            .iter()
            .map(|(origin, set)| (*origin, set.len()))
    }

    /// How many warnings there are in all.
    pub fn len(&self) -> usize {
        self.present.values().map(BTreeSet::len).sum()
    }

    /// True if nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The last failure of something that is tried again and again: the log is told of one that differs.
#[derive(Debug, Default)]
pub struct LastFailure(Option<String>);

impl LastFailure {
    /// It failed; true if the log does not know this text.
    pub fn is_news(&mut self, text: &str) -> bool {
        let news = self.0.as_deref() != Some(text);
        if news {
            self.0 = Some(text.to_owned());
        }
        news
    }

    /// It worked.
    pub fn is_over(&mut self) {
        self.0 = None;
    }
}

/// What goes to the log of warnings that come and go.
#[derive(Debug, Default)]
struct Log {
    /// Lines of the present burst that are used up, and since when that is so.
    used: Option<(u32, Instant)>,
    /// What came and went without a line.
    untold: Untold,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Untold {
    new: usize,
    fixed: usize,
}

impl Log {
    fn difference(
        &mut self,
        origin: &'static str,
        before: &BTreeSet<Warning>,
        now: &BTreeSet<Warning>,
        moment: Instant,
    ) {
        for warning in now.difference(before) {
            if self.may_tell(moment) {
                tracing::warn!(feature = origin, "{}: {}", warning.object, warning.text);
            } else {
                self.untold.new += 1;
            }
        }
        for warning in before.difference(now) {
            if self.may_tell(moment) {
                let (object, text) = (&warning.object, &warning.text);
                tracing::info!(feature = origin, "fixed: {object}: {text}");
            } else {
                self.untold.fixed += 1;
            }
        }
    }

    /// Whether there may be one more line. The last one before there may not says so, and the first
    /// one after tells what was left out.
    fn may_tell(&mut self, moment: Instant) -> bool {
        let (used, since) = self.used.unwrap_or((0, moment));
        let passed = moment.saturating_duration_since(since);
        let earned = u32::try_from(passed.as_millis() / NEXT_LINE.as_millis()).unwrap_or(u32::MAX);
        let since = if earned >= used {
            moment
        } else {
            since + NEXT_LINE * earned
        };
        let used = used.saturating_sub(earned);
        if used >= NAMED_AT_ONCE {
            self.used = Some((used, since));
            if self.untold == Untold::default() {
                tracing::warn!(
                    "too many warnings come and go to name each; `podwire-agent status` lists all \
                     that there are"
                );
            }
            return false;
        }
        self.used = Some((used + 1, since));
        let Untold { new, fixed } = std::mem::take(&mut self.untold);
        if new + fixed > 0 {
            tracing::warn!(new, fixed, "warnings were not named one by one");
        }
        true
    }
}

#[cfg(test)]
mod tests {
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
}
