//! What is wrong with the source, told to the reconcile loop as one whole set.

use std::collections::BTreeMap;
use std::sync::mpsc::Sender;
use std::sync::{Mutex, PoisonError};

use crate::input::Input;
use crate::warnings::Warning;

/// The complaints that stand, by object.
pub struct Complaints {
    standing: Mutex<BTreeMap<String, String>>,
    inputs: Sender<Input>,
}

impl Complaints {
    /// None yet.
    pub fn new(inputs: Sender<Input>) -> Self {
        Self {
            standing: Mutex::default(),
            inputs,
        }
    }

    /// From now on this is wrong with `object`.
    pub fn raise(&self, object: &str, text: String) {
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        if standing.get(object) != Some(&text) {
            standing.insert(object.to_owned(), text);
            self.tell(&standing);
        }
    }

    /// Nothing is wrong with `object` any more.
    pub fn settle(&self, object: &str) {
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        if standing.remove(object).is_some() {
            self.tell(&standing);
        }
    }

    /// True if nothing at all is wrong.
    pub fn is_empty(&self) -> bool {
        self.standing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty()
    }

    fn tell(&self, standing: &BTreeMap<String, String>) {
        let all = standing
            .iter()
            .map(|(object, text)| Warning::new(object, text))
            .collect();
        // The loop may have finished already.
        let _ = self.inputs.send(Input::SourceWarnings(all));
    }
}
