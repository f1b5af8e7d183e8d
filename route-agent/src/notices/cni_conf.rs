//! Notifies the loop when another program changes the directory of the CNI configuration.

use std::path::Path;
use std::sync::mpsc::{self, Sender};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{RecursiveMode, Watcher};

use crate::input::Input;

/// How long to wait before the directory is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// Watches until the loop is gone. To be called on a thread of its own.
pub fn watch(directory: &Path, inputs: &Sender<Input>) {
    loop {
        follow(directory, inputs);
        std::thread::sleep(PAUSE);
        // What happened meanwhile, and whether the directory is there at all, was not seen.
        if inputs.send(Input::Files).is_err() {
            return;
        }
    }
}

/// Watches until the directory is lost or the loop is gone.
fn follow(directory: &Path, inputs: &Sender<Input>) {
    let (sender, events) = mpsc::channel();
    let watcher = notify::recommended_watcher(sender).and_then(|mut watcher| {
        watcher
            .watch(directory, RecursiveMode::NonRecursive)
            .map(|()| watcher)
    });
    // Without inotify the directory is looked at every second.
    let Ok(_watcher) = watcher else { return };
    if inputs.send(Input::Files).is_err() {
        return;
    }
    for event in events {
        let Ok(event) = event else { return };
        let lost = event.need_rescan()
            || (matches!(event.kind, EventKind::Remove(_))
                && event.paths.iter().any(|path| path == directory));
        if lost {
            return;
        }
        let matters = matches!(
            event.kind,
            EventKind::Create(_)
                | EventKind::Remove(_)
                | EventKind::Modify(ModifyKind::Name(_))
                | EventKind::Access(AccessKind::Close(AccessMode::Write))
        );
        if matters && inputs.send(Input::Files).is_err() {
            return;
        }
    }
}
