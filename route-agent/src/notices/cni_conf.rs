//! Notifies the loop when another program changes the directory of the CNI configuration.

use std::path::Path;
use std::sync::mpsc::{SendError, Sender};

use crate::directory::{PAUSE, Watch};
use crate::input::Input;

/// Watches until the loop has ended. To be called on a thread of its own.
pub fn watch(directory: &Path, inputs: &Sender<Input>) {
    // Without inotify the directory is looked at after each pause.
    while follow(directory, inputs).is_ok() {
        std::thread::sleep(PAUSE);
    }
}

/// Watches until the directory is lost, if it is there. What happened before was not seen.
fn follow(directory: &Path, inputs: &Sender<Input>) -> Result<(), SendError<Input>> {
    let watch = Watch::open(directory);
    inputs.send(Input::Files)?;
    let Ok(watch) = watch else { return Ok(()) };
    while let Ok(news) = watch.next(None) {
        if !news.is_empty() {
            inputs.send(Input::Files)?;
        }
    }
    Ok(())
}
