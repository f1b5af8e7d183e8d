//! One kind of object: list it, then watch it, until the agent ends.
//!
//! What goes in is a [`Resource`]; what comes out are [`Change`]s and, once, word that the first
//! list is complete. A watch is resumed where it ended; only when the API server no longer knows
//! that place (410 Gone), or has twice answered a watch from there with an error, is everything
//! listed again, and the difference reported.
//!
//! A server that is broken, or not the one that it should be, costs little: what it sends is limited
//! in size and in time ([`crate::source::kubernetes::server::Limits`]), and only a watch that lasts ends the growing of the pauses.

mod list;

use std::collections::BTreeSet;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::http::{self, StatusCode};
use kube::client::Body;
use kube::core::Request;
use kube::core::params::WatchParams;
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::debug;

use crate::backoff::{Backoff, Jitter, random_fraction};
use crate::error::chain;
use crate::snapshot::{Change, Key, Object, ObjectName};
use crate::source::kubernetes::server::ApiServer;
use crate::source::kubernetes::wire::{Event, Head, Lines, Status, name_of, names_of, start_of};
use crate::source::objects::{Names, Unnamed, namespace_or_default};

/// Objects per page of a list: keeps what is in memory at a time small, on both sides.
const PAGE: u32 = 500;

/// After this many watches that were answered and ended at once, with none between that lasted, that
/// is said. What never reached the server does not count: that is said by its own name.
const NOT_BY_CHANCE: u32 = 5;

/// In bytes; an honest `continue` token or resourceVersion is far shorter. They are kept, and go
/// into the address of a request.
const LONGEST_TOKEN: usize = 8 * 1024;

/// A longer error text from a server is cut.
const LONGEST_ERROR: usize = 64 * 1024;

/// What is to go into a request, unless it is longer than anything honest.
fn token(text: String) -> Result<String, Failure> {
    if text.len() <= LONGEST_TOKEN {
        return Ok(text);
    }
    let why = format!("a `continue` token or resourceVersion is longer than {LONGEST_TOKEN} bytes");
    Err(Failure::Absurd(why))
}

/// A kind of object, and how to read it.
#[derive(Clone)]
pub struct Resource {
    /// Its kind, for messages.
    pub kind: &'static str,
    /// Its path under the server's address; of several the first that the cluster has.
    pub paths: &'static [&'static str],
    /// The label selector that says which objects are read.
    pub labels: Option<&'static str>,
    /// True if a cluster may be without this API.
    pub optional: bool,
    /// Turns one object's JSON into a snapshot value; `None` for one that is to be left out.
    pub decode: Decode,
}

/// How an object's JSON becomes a snapshot value.
pub type Decode = fn(&str, &mut Names) -> Result<Option<Object>, Unreadable>;

/// Why an object cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// It is not the JSON that its kind asks for.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// It cannot be told apart from others.
    #[error("{0}")]
    Unnamed(#[from] Unnamed),
}

/// What a watch reports.
#[derive(Debug, PartialEq)]
pub enum Update {
    /// These objects changed, in this order.
    Changes(Vec<Change>),
    /// The first list of this kind is complete.
    Listed,
}

/// Why a list or a watch ended.
enum Failure {
    /// The receiver of the updates is gone.
    Closed,
    /// 410: the place where the watch should go on is no longer known.
    Expired,
    /// 404: the cluster does not have this API.
    Missing,
    /// The server is overloaded and says how long to wait.
    Busy(Duration),
    /// It sends more than anything honest can be, or takes longer, or an event that is none.
    Absurd(String),
    /// 403: it serves, but not this.
    Refused(String),
    /// It is reached, and answers with another error.
    Answered(String),
    /// Anything else.
    Failed(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the receiver is gone"),
            Self::Expired => f.write_str("410 Gone"),
            Self::Missing => f.write_str("404 Not Found"),
            Self::Busy(_) => f.write_str("429 Too Many Requests"),
            Self::Failed(why) | Self::Absurd(why) | Self::Refused(why) | Self::Answered(why) => {
                f.write_str(why)
            }
        }
    }
}

impl Failure {
    fn failed(error: impl fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }

    /// Whether another request of the same kind is likely to be answered the same way.
    fn is_an_answer(&self) -> bool {
        matches!(self, Self::Answered(_) | Self::Missing)
    }
}

/// Follows one kind of object until `out` returns `Break`.
pub async fn follow(
    resource: &Resource,
    server: &ApiServer,
    out: impl FnMut(Update) -> ControlFlow<()>,
) {
    let timing = server.timing();
    let mut watch = Watch {
        resource,
        server,
        out,
        names: Names::default(),
        known: BTreeSet::new(),
        left_out: BTreeSet::new(),
        listed: false,
        page: PAGE,
        place: 0,
        absences: 0,
        cut_short: 0,
        denied: None,
        unwatched: false,
    };
    // How long to wait before an API is asked for again that the cluster does not have.
    let mut absent = Backoff::new(timing.longest_pause, timing.missing, Jitter::Half);
    let mut pauses = Backoff::new(timing.first_pause, timing.longest_pause, Jitter::Half);
    let mut version: Option<String> = None;
    loop {
        let began = Instant::now();
        let generation = server.client().1;
        let mut progress = false;
        let end = match &mut version {
            None => {
                let listed = watch.list().await;
                if let Ok(found) = listed {
                    absent.reset();
                    watch.absences = 0;
                    // A list that succeeds says little: the watch must as well.
                    version = Some(found);
                    continue;
                }
                listed.map(drop)
            }
            Some(version) => watch.watch(version, &mut progress).await,
        };
        let lasted = began.elapsed() > timing.longest_pause;
        progress |= end.is_ok() && lasted;
        if progress && lasted {
            watch.lasted(&mut pauses);
        } else {
            watch.judge(&end, progress);
        }
        let pause = match end {
            Ok(()) if progress && lasted => None,
            // The server ended the watch at once: not again at once.
            Ok(()) => Some(pauses.pause()),
            Err(Failure::Closed) => return,
            Err(Failure::Expired) => {
                debug!(
                    kind = resource.kind,
                    "the watch is out of date: listing again"
                );
                version = None;
                Some(pauses.pause())
            }
            Err(Failure::Missing) if resource.optional => {
                version = None;
                server.missed(watch.path());
                match watch.missing() {
                    ControlFlow::Break(()) => return,
                    ControlFlow::Continue(true) => Some(absent.pause()),
                    ControlFlow::Continue(false) => None,
                }
            }
            Err(Failure::Refused(why)) => {
                server.refused(generation, watch.path(), &why).await;
                Some(pauses.pause())
            }
            Err(Failure::Busy(least)) => Some(pauses.pause().max(least.min(timing.longest_pause))),
            Err(failure) => {
                // A list goes past what is too long, or no event; a watch would meet it again.
                let absurd = matches!(failure, Failure::Absurd(_));
                let denied = version.is_some() && failure.is_an_answer();
                if absurd || denied && watch.denied_twice(version.as_deref()) {
                    version = None;
                }
                // A connection that breaks after it has served is what a restart of the server
                // looks like; that is reported only if it cannot be made again.
                if denied && !progress {
                    watch.cannot_watch(&failure);
                    server.leave(generation).await;
                } else if !progress || absurd {
                    server
                        .failed(generation, &format!("{}: {failure}", watch.path()))
                        .await;
                }
                Some(pauses.pause())
            }
        };
        if let Some(pause) = pause {
            sleep(pause).await;
        }
    }
}

struct Watch<'a, F> {
    resource: &'a Resource,
    server: &'a ApiServer,
    out: F,
    names: Names,
    /// What has been reported and is not gone: needed to find what vanished between two lists.
    known: BTreeSet<Key>,
    /// The titles of what cannot be read, and is named.
    left_out: BTreeSet<String>,
    /// True once the first list was complete.
    listed: bool,
    /// Objects per page of the next list.
    page: u32,
    /// Which of the paths is asked.
    place: usize,
    /// How often in a row a path was answered with 404.
    absences: usize,
    /// How many lists and watches were answered and ended at once since a watch lasted.
    cut_short: u32,
    /// From where the last watch was to begin that was answered with an error.
    denied: Option<String>,
    /// It was said that the watches are answered with errors.
    unwatched: bool,
}

impl<F: FnMut(Update) -> ControlFlow<()>> Watch<'_, F> {
    fn path(&self) -> &'static str {
        self.resource.paths[self.place]
    }

    /// The server is well: the next failure is the first.
    fn lasted(&mut self, pauses: &mut Backoff) {
        self.ends_no_longer();
        pauses.reset();
    }

    /// The server does not end every list or watch at once.
    fn ends_no_longer(&mut self) {
        if self.cut_short >= NOT_BY_CHANCE || self.unwatched {
            self.server.problems().clear(&self.subject());
        }
        self.cut_short = 0;
        self.unwatched = false;
    }

    /// A watch from this version was answered with an error. True if one was before: then a list
    /// may bring what that version never will.
    fn denied_twice(&mut self, version: Option<&str>) -> bool {
        let twice = self.denied.as_deref() == version;
        self.denied = version.filter(|_| !twice).map(str::to_owned);
        twice
    }

    /// Says that the watches are answered with errors; it holds until one brings something, however
    /// well the lists between them go.
    fn cannot_watch(&mut self, failure: &Failure) {
        let path = self.path();
        let text = format!(
            "{path} cannot be watched ({failure}): all are listed again and again, ever more \
             slowly, and changes are seen late: look at the log of the API server"
        );
        self.server.problems().raise(&self.subject(), text);
        self.unwatched = true;
    }

    /// Says that the server ends every watch at once, as soon as that cannot be chance.
    fn judge(&mut self, end: &Result<(), Failure>, progress: bool) {
        let how = match end {
            Err(Failure::Closed) => return,
            Err(Failure::Expired) => "410 Gone, so that all are listed again and again",
            Ok(()) => "no reason",
            Err(Failure::Busy(_)) => "429 Too Many Requests",
            // It served before it broke.
            Err(_) if progress => "a failure",
            Err(_) => return,
        };
        self.cut_short = self.cut_short.saturating_add(1);
        if self.cut_short >= NOT_BY_CHANCE {
            let text = format!(
                "the API server ends every list or watch at once, the last with {how}; it is asked ever \
                 more slowly, and changes are seen late: look at its log"
            );
            self.server.problems().raise(&self.subject(), text);
        }
    }

    /// The object of a warning about all of a kind.
    fn subject(&self) -> String {
        format!("{} objects", self.resource.kind)
    }

    /// After a complete list: what is known but was not seen is gone.
    fn retire(&mut self, seen: BTreeSet<Key>) -> Result<(), Failure> {
        let gone: Vec<_> = self
            .known
            .difference(&seen)
            .cloned()
            .map(Change::Gone)
            .collect();
        self.known = seen;
        if !gone.is_empty() {
            self.send(Update::Changes(gone))?;
        }
        if !self.listed {
            self.listed = true;
            self.send(Update::Listed)?;
        }
        Ok(())
    }

    /// The cluster does not have this kind of object by this path. True if it has it by none.
    fn missing(&mut self) -> ControlFlow<(), bool> {
        self.ends_no_longer();
        let paths = self.resource.paths.len();
        self.absences += 1;
        self.place = (self.place + 1) % paths;
        if !self.absences.is_multiple_of(paths) {
            return ControlFlow::Continue(false);
        }
        debug!(
            kind = self.resource.kind,
            "the cluster does not have this API"
        );
        // While an API server starts it may not know its own resources yet: what was read counts
        // until it says so twice.
        if !self.known.is_empty() && self.absences < 2 * paths {
            return ControlFlow::Continue(true);
        }
        let before = std::mem::take(&mut self.left_out);
        self.forget(&before);
        match self.retire(BTreeSet::new()) {
            Ok(()) => ControlFlow::Continue(true),
            Err(_) => ControlFlow::Break(()),
        }
    }

    /// Watches from `version` on and keeps it up to date; `progress` turns true with the first
    /// event.
    async fn watch(&mut self, version: &mut String, progress: &mut bool) -> Result<(), Failure> {
        let timing = self.server.timing();
        // Not all watches of all agents end at the same moment.
        let seconds = timing
            .watch
            .mul_f64(0.8 + 0.2 * random_fraction())
            .as_secs()
            .max(1);
        let params = WatchParams {
            label_selector: self.resource.labels.map(str::to_owned),
            timeout: u32::try_from(seconds).ok(),
            ..WatchParams::default()
        };
        let request = Request::new(self.path())
            .watch(&params, version)
            .map_err(Failure::failed)?;
        let mut body = self.ask(request).await?;
        self.server.reached(self.path());
        let began = Instant::now();
        let most = self.server.limits().event_bytes;
        let mut lines = Lines::default();
        // Of what does not make a whole line a server can send a byte now and then, and never end.
        let mut until = Instant::now() + timing.silence;
        while let Some(frame) = timeout_at(until, body.frame()).await.map_err(silent)? {
            let frame = frame.map_err(|error| {
                // What lies between may cut what is quiet for a while, as HAProxy does after 35 s in
                // kubeadm's example: bookmarks come once a minute.
                *progress |= began.elapsed() > timing.longest_pause;
                Failure::failed(error)
            })?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            lines.push(&data);
            let mut changes = Vec::new();
            let mut whole = false;
            let read = lines.drain(|line| {
                whole = true;
                self.event(line, version, &mut changes)
            });
            self.server.problems().tell();
            if !changes.is_empty() {
                self.send(Update::Changes(changes))?;
            }
            read?;
            if whole {
                if self.unwatched {
                    self.ends_no_longer();
                }
                *progress = true;
                until = Instant::now() + timing.silence;
            }
            if lines.pending() > most {
                let why = format!("an event of the watch is longer than {most} bytes");
                return Err(Failure::Absurd(why));
            }
        }
        if lines.pending() > 0 {
            debug!(kind = self.resource.kind, "the watch ended within an event");
        }
        Ok(())
    }

    /// One line of a watch.
    fn event(
        &mut self,
        line: &[u8],
        version: &mut String,
        changes: &mut Vec<Change>,
    ) -> Result<(), Failure> {
        let line = String::from_utf8_lossy(line);
        let event: Event = serde_json::from_str(&line).map_err(|error| {
            let why = "an event of the watch cannot be read, so that all are listed again";
            Failure::Absurd(format!("{why}: {error}"))
        })?;
        let head = Head::of(event.object);
        let own = head.kind();
        let kind = self.resource.kind;
        let foreign = own.get().filter(|own| *own != kind);
        match (&*event.kind, foreign) {
            ("ERROR", _) => {
                let status: Status = serde_json::from_str(event.object.get()).unwrap_or_default();
                return Err(match status.code {
                    410 => Failure::Expired,
                    _ => Failure::Answered(status.message),
                });
            }
            ("ADDED" | "MODIFIED" | "DELETED", Some(own)) => {
                let text = format!("came as an object of kind {own} and is left out");
                self.leave_out(event.object, text);
            }
            ("ADDED" | "MODIFIED", None) => match self.decode(event.object) {
                Some(object) => {
                    self.known.insert(object.key());
                    changes.push(Change::Set(object));
                }
                None => changes.extend(self.leave(event.object)),
            },
            ("DELETED", None) => {
                self.forgive(event.object);
                changes.extend(self.leave(event.object));
            }
            _ => {}
        }
        // Only after the event was taken: a watch that breaks here begins again with it.
        if foreign.is_none()
            && let Some(newer) = head.version()
        {
            *version = token(newer)?;
        }
        Ok(())
    }

    /// The end of an object for all who know it: it was deleted, cannot be read any more, or has
    /// become one that is left out. Nothing but its name is asked for.
    fn leave(&mut self, item: &RawValue) -> Option<Change> {
        let (namespace, name) = names_of(item)?;
        let namespace = namespace_or_default(Some(&namespace));
        let key = self.known.first()?.of_same_kind(ObjectName {
            namespace: Arc::from(namespace),
            name: Arc::from(name),
        });
        self.known.take(&key).map(Change::Gone)
    }

    /// An object that cannot be read is left out and named; the problem is cleared
    /// when it can be read again.
    fn decode(&mut self, item: &RawValue) -> Option<Object> {
        let most = self.server.limits().object_bytes;
        let text = if item.get().len() > most {
            format!("is longer than {most} bytes and is left out: make it smaller")
        } else {
            match (self.resource.decode)(item.get(), &mut self.names) {
                Ok(object) => {
                    self.forgive(item);
                    return object;
                }
                Err(error) => format!("cannot be read and is left out: {error}"),
            }
        };
        self.leave_out(item, text);
        None
    }

    /// Names an object that is not read.
    fn leave_out(&mut self, item: &RawValue, text: String) {
        let title = self.title(item);
        self.server.problems().note(&title, text);
        self.left_out.insert(title);
    }

    /// Nothing is wrong with an object any more.
    fn forgive(&mut self, item: &RawValue) {
        if self.left_out.is_empty() {
            return;
        }
        let title = self.title(item);
        if self.left_out.remove(&title) {
            self.server.problems().forget(&title);
        }
    }

    /// Nothing is wrong any more with what was left out before a list and is not on it.
    fn forget(&self, before: &BTreeSet<String>) {
        let problems = self.server.problems();
        let gone = before.difference(&self.left_out);
        gone.for_each(|title| problems.forget(title));
        problems.tell();
    }

    fn title(&self, item: &RawValue) -> String {
        format!("{} {}", self.resource.kind, name_of(item))
    }

    /// Sends a request and returns the answer's body if it is a good one.
    async fn ask(&self, request: http::Request<Vec<u8>>) -> Result<Body, Failure> {
        let (client, generation) = self.server.client();
        let answer = client.send(request.map(Body::from));
        let answer = timeout(self.server.timing().answer, answer)
            .await
            .map_err(silent)?;
        let answer = answer.map_err(|error| Failure::Failed(chain(&error)))?;
        match answer.status() {
            StatusCode::OK => {
                self.server.serves(generation, self.path());
                Ok(answer.into_body())
            }
            StatusCode::GONE => Err(Failure::Expired),
            StatusCode::NOT_FOUND => Err(Failure::Missing),
            StatusCode::TOO_MANY_REQUESTS => Err(Failure::Busy(retry_after(&answer))),
            code => {
                let text = self.refusal(answer.into_body()).await;
                let text = format!("{code}: {text}");
                Err(match code {
                    StatusCode::FORBIDDEN => Failure::Refused(text),
                    StatusCode::UNAUTHORIZED => Failure::Failed(text),
                    _ => Failure::Answered(text),
                })
            }
        }
    }

    /// What the server says about a request it refuses.
    async fn refusal(&self, body: Body) -> String {
        let text = timeout(self.server.timing().answer, start_of(body, LONGEST_ERROR)).await;
        let text = text.unwrap_or_default();
        let status: Status = serde_json::from_slice(&text).unwrap_or_default();
        status.message
    }

    fn send(&mut self, update: Update) -> Result<(), Failure> {
        match (self.out)(update) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Failure::Closed),
        }
    }
}

fn silent(_: tokio::time::error::Elapsed) -> Failure {
    Failure::Failed("no answer in time".to_owned())
}

/// `Retry-After` in seconds; the API server uses no other form.
fn retry_after(answer: &http::Response<Body>) -> Duration {
    let header = answer.headers().get(http::header::RETRY_AFTER);
    let seconds = header.and_then(|value| value.to_str().ok()?.parse().ok());
    Duration::from_secs(seconds.unwrap_or(1))
}

#[cfg(test)]
mod tests;
