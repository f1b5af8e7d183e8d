//! What is wrong with the source, sent to the reconcile loop as one whole set.
//!
//! What is wrong with single objects is sent once for each page or piece of a watch, and not all of
//! it: of a cluster full of objects that cannot be read, each would otherwise bring a copy of all.

use std::collections::BTreeMap;
use std::sync::mpsc::Sender;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::input::Input;
use crate::warnings::Warning;

/// So many problems are named; of the others only the number is said.
const NAMED: usize = 100;

/// The problems that there are now.
pub struct Problems {
    state: Mutex<State>,
    inputs: Sender<Input>,
}

#[derive(Default)]
struct State {
    /// By whether they are about a single object, and by what they are about: what concerns more
    /// than one comes first, and is always named.
    present: BTreeMap<(bool, String), Warning>,
    /// The loop does not know them all yet.
    changed: bool,
}

impl Problems {
    /// None yet.
    pub fn new(inputs: Sender<Input>) -> Self {
        Self {
            state: Mutex::default(),
            inputs,
        }
    }

    /// From now on this is wrong with more than one object.
    pub fn raise(&self, subject: &str, text: String) {
        self.put(false, subject, Some(text));
        self.tell();
    }

    /// What was raised is right again.
    pub fn clear(&self, subject: &str) {
        self.put(false, subject, None);
        self.tell();
    }

    /// From now on this is wrong with a single object; the loop hears of it by [`Problems::tell`].
    pub fn note(&self, object: &str, text: String) {
        self.put(true, object, Some(text));
    }

    /// Nothing is wrong with a single object any more; the loop hears of it by [`Problems::tell`].
    pub fn forget(&self, object: &str) {
        self.put(true, object, None);
    }

    /// Tells the loop what is wrong now, if it does not know.
    pub fn tell(&self) {
        let mut state = self.state();
        if !std::mem::take(&mut state.changed) {
            return;
        }
        let mut all: Vec<_> = state.present.values().take(NAMED).cloned().collect();
        let more = state.present.len() - all.len();
        if more > 0 {
            let text = format!(
                "{more} more cannot be read and are left out; they are named when fewer are"
            );
            all.push(Warning::new("other objects", text));
        }
        // The loop may have finished already.
        let _ = self.inputs.send(Input::SourceWarnings(all));
    }

    fn put(&self, single: bool, object: &str, text: Option<String>) {
        // Cut here: parsers quote what they do not understand, however long it is.
        let warning = Warning::new(object, text.as_deref().unwrap_or_default());
        let key = (single, warning.object.clone());
        let now = text.map(|_| warning);
        let mut state = self.state();
        let before = match now.clone() {
            Some(warning) => state.present.insert(key, warning),
            None => state.present.remove(&key),
        };
        state.changed |= before != now;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_flood_of_bad_objects_is_told_once_and_hides_nothing_that_concerns_them_all() {
        let (inputs, told) = mpsc::channel();
        let problems = Problems::new(inputs);
        let told = || -> Vec<Vec<Warning>> {
            let all = told.try_iter().map(|input| match input {
                Input::SourceWarnings(all) => all,
                other => panic!("{other:?} is not a warning"),
            });
            all.collect()
        };
        for number in 0..1000 {
            problems.note(&format!("Node {number}"), "x".repeat(5000));
        }
        problems.tell();
        problems.tell();
        let first = told();
        assert_eq!(first.len(), 1, "once");
        assert_eq!(first[0].len(), NAMED + 1);
        let rest = &first[0][NAMED].text;
        assert!(rest.starts_with("900 more cannot be read"), "{rest}");
        assert!(first[0][0].text.len() < 2100, "it is cut");
        problems.raise("the API server", "is gone".into());
        assert_eq!(told()[0][0].object, "the API server");
        problems.clear("the API server");
        (0..1000).for_each(|number| problems.forget(&format!("Node {number}")));
        problems.tell();
        assert_eq!(told().pop(), Some(Vec::new()));
    }
}
