//! What is wrong but does not stop the agent.
//!
//! A warning is logged once when it appears and once when it is fixed, never in between; all present
//! ones are listed by `podwire-agent status` and counted in `podwire_warnings`. A feature either
//! replaces all of its warnings at once, or those of one object.
//!
//! Who may change an object can make and fix its warning as often as there is time. So the log has
//! a limit over time: what exceeds it is counted, and told as a number. Nor does it matter how much
//! is wrong with one object: of that some is kept, and that there is more.

mod limit;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::text;
pub use limit::Used;

/// More than this many lines at a time are summed up in one line of the log.
pub const NAMED_AT_ONCE: u32 = 200;

/// After this long there may be one more line: some 25,000 in a day, whatever happens.
pub const NEXT_LINE: Duration = Duration::from_millis(3500);

/// So much is said of one object.
const MOST_TEXTS: usize = 50;

/// And this, if there is more.
const MORE: &str = "and more, which are named once others are corrected";

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
        let mut few = BTreeSet::new();
        now.into_iter().for_each(|warning| add(&mut few, warning));
        let before = std::mem::take(self.present.entry(origin).or_default());
        self.exchange(origin, &before, few);
    }

    /// The warnings of `origin` about one object are exactly these texts from now on.
    pub fn replace_for(
        &mut self,
        origin: &'static str,
        object: &str,
        texts: impl IntoIterator<Item = String>,
    ) {
        let mut few = BTreeSet::new();
        for text in texts {
            add(&mut few, Warning::new(object, text));
        }
        let object = Warning::new(object, "").object;
        let all = self.present.entry(origin).or_default();
        let before: BTreeSet<Warning> = about(all, &object).cloned().collect();
        for warning in &before {
            all.remove(warning);
        }
        self.exchange(origin, &before, few);
    }

    /// Adds `now`, which takes the place of what was there before, and says what differs.
    fn exchange(
        &mut self,
        origin: &'static str,
        before: &BTreeSet<Warning>,
        now: BTreeSet<Warning>,
    ) {
        self.log.difference(origin, before, &now, Instant::now());
        if let Some(on_new) = &mut self.on_new {
            now.difference(before).for_each(on_new);
        }
        self.present.entry(origin).or_default().extend(now);
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

/// Adds a warning, of each object no more than [`MOST_TEXTS`]: whoever may write one can have as many
/// faults in it as it has room for. How many more there are is not said: each number would be news.
fn add(all: &mut BTreeSet<Warning>, mut warning: Warning) {
    if all.contains(&warning) {
        return;
    }
    if about(all, &warning.object).count() >= MOST_TEXTS {
        MORE.clone_into(&mut warning.text);
    }
    all.insert(warning);
}

/// What is said of one object.
fn about<'a>(all: &'a BTreeSet<Warning>, object: &'a str) -> impl Iterator<Item = &'a Warning> {
    let first = Warning {
        object: object.to_owned(),
        text: String::new(),
    };
    all.range(first..)
        .take_while(move |warning| warning.object == object)
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
    /// Lines that are used up.
    used: Option<Used>,
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
        let used = self.used.get_or_insert(Used::nothing(moment));
        if !used.once_more(NAMED_AT_ONCE, NEXT_LINE, moment) {
            if self.untold == Untold::default() {
                tracing::warn!(
                    "too many warnings come and go to name each; `podwire-agent status` lists all \
                     that there are"
                );
            }
            return false;
        }
        let Untold { new, fixed } = std::mem::take(&mut self.untold);
        if new + fixed > 0 {
            tracing::warn!(new, fixed, "warnings were not named one by one");
        }
        true
    }
}

#[cfg(test)]
mod tests;
