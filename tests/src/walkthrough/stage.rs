//! Performing the commands of an observation in a lab.

use std::io::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::page::Page;
use super::step::Step;
use crate::command::Capture;
use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::wait;

/// How long a watching command may go on after the last of the others has ended.
const WATCH_LIMIT: Duration = Duration::from_secs(5);

/// How long a change may take until it is seen.
const CHANGE_LIMIT: Duration = Duration::from_secs(5);

/// What tcpdump says when it has begun to listen.
const LISTENING: &str = "listening on";

/// What `curl -v` says when its answer begins.
const ANSWERED: &str = "< HTTP/";

/// How long something goes on in silence before it is said what is waited for.
const QUIET: Duration = Duration::from_secs(1);

/// Held while a command runs that changes something, so that what it changes is not put back before
/// it is through.
static PERFORMING: Mutex<()> = Mutex::new(());

/// Waits until no command of the walkthrough runs in this process, and none begins as long as the
/// answer lives.
pub(super) fn performing() -> MutexGuard<'static, ()> {
    PERFORMING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the steps of an observation printed, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outputs(pub Vec<String>);

impl Outputs {
    /// What step number `step` printed; the first is 0.
    pub fn of(&self, step: usize) -> &str {
        self.0.get(step).map_or("", String::as_str)
    }
}

/// Runs the steps, printing each with its output.
pub(super) fn perform<W: Write>(
    lab: &Lab,
    steps: &'static [Step],
    page: &mut Page<W>,
) -> Result<Outputs> {
    let mut outputs = vec![String::new(); steps.len()];
    let mut watching = Vec::new();
    for (number, step) in steps.iter().enumerate() {
        match *step {
            Step::Run { at, command } => {
                let command = fill(lab, command)?;
                printed(page.command(at, &command))?;
                let place = lab.place_of(at)?;
                let ran = {
                    let _performing = performing();
                    place.sh(&command)?
                };
                outputs[number] = ran.stdout + &ran.stderr;
                printed(page.output(&outputs[number]))?;
            }
            Step::Until { at, command, holds } => {
                let (place, command) = (lab.place_of(at)?, fill(lab, command)?);
                let seen = || place.sh(&command).is_ok_and(|ran| holds(&ran.stdout));
                wait::until(&format!("`{command}` on {at}"), CHANGE_LIMIT, seen)?;
            }
            Step::Watch { at, command } => {
                let command = fill(lab, command)?;
                printed(page.command(at, &format!("{command} &")))?;
                let begun = if command.starts_with("curl ") {
                    ANSWERED
                } else {
                    LISTENING
                };
                let capture = lab.place_of(at)?.capture(&command, begun)?;
                watching.push(Watching {
                    number,
                    at,
                    command,
                    capture,
                });
            }
            Step::Finish => finish(&mut watching, &mut outputs, page)?,
        }
    }
    finish(&mut watching, &mut outputs, page)?;
    Ok(Outputs(outputs))
}

/// A command that goes on.
struct Watching {
    /// The number of its step.
    number: usize,
    at: &'static str,
    command: String,
    capture: Capture,
}

/// Waits for what goes on, and prints what it saw.
fn finish<W: Write>(
    watching: &mut Vec<Watching>,
    outputs: &mut [String],
    page: &mut Page<W>,
) -> Result<()> {
    for mut one in watching.drain(..) {
        // It ends by itself; the limit is for the case that packets do not come.
        let begun = Instant::now();
        one.capture.until(QUIET, |_| false);
        if begun.elapsed() >= QUIET {
            printed(page.waiting(one.at, &one.command))?;
            one.capture.until(WATCH_LIMIT - QUIET, |_| false);
        }
        outputs[one.number] = one.capture.finish().join("\n");
        printed(page.watched(one.at, &one.command, &outputs[one.number]))?;
    }
    Ok(())
}

fn printed(result: std::io::Result<()>) -> Result<()> {
    result.map_err(Error::file("write", "the terminal"))
}

/// Replaces `{veth:POD}` by the name of the pod's link on its node.
fn fill(lab: &Lab, command: &str) -> Result<String> {
    let mut filled = String::new();
    let mut rest = command;
    while let Some((before, after)) = rest.split_once("{veth:") {
        let (pod, after) = after.split_once('}').unwrap_or((after, ""));
        filled.push_str(before);
        filled.push_str(&lab.pod(pod)?.host_link());
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled)
}
