//! What is wrong with the source, sent to the reconcile loop as one whole set.

use std::collections::BTreeMap;
use std::sync::mpsc::Sender;
use std::sync::{Mutex, PoisonError};

use crate::input::Input;
use crate::warnings::Warning;

/// The problems that there are now, by object.
pub struct Problems {
    present: Mutex<BTreeMap<String, String>>,
    inputs: Sender<Input>,
}

impl Problems {
    /// None yet.
    pub fn new(inputs: Sender<Input>) -> Self {
        Self {
            present: Mutex::default(),
            inputs,
        }
    }

    /// From now on this is wrong with `object`.
    pub fn raise(&self, object: &str, text: String) {
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        if present.get(object) != Some(&text) {
            present.insert(object.to_owned(), text);
            self.send(&present);
        }
    }

    /// Nothing is wrong with `object` any more.
    pub fn clear(&self, object: &str) {
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        if present.remove(object).is_some() {
            self.send(&present);
        }
    }

    /// True if nothing at all is wrong.
    pub fn is_empty(&self) -> bool {
        self.present
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty()
    }

    fn send(&self, present: &BTreeMap<String, String>) {
        let all = present
            .iter()
            .map(|(object, text)| Warning::new(object, text))
            .collect();
        // The loop may have finished already.
        let _ = self.inputs.send(Input::SourceWarnings(all));
    }
}
