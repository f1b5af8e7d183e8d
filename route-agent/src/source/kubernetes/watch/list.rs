//! Reading all objects of a kind, page by page.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::ops::ControlFlow;

use http_body_util::BodyExt;
use kube::core::Request;
use kube::core::params::ListParams;
use tokio::time::timeout;

use super::{Failure, PAGE, Update, Watch, silent, token};
use crate::snapshot::{Change, Key};
use crate::source::kubernetes::wire::Page;

/// More pages than this are no list: ten million objects.
const MOST_PAGES: usize = 20_000;

impl<F: FnMut(Update) -> ControlFlow<()>> Watch<'_, F> {
    /// Reads all objects, page by page, and returns the version from which to watch.
    pub(super) async fn list(&mut self) -> Result<String, Failure> {
        let most = self.server.limits().list_time;
        let mut seen = BTreeSet::new();
        let mut before = std::mem::take(&mut self.left_out);
        let all = timeout(most, self.pages(&mut seen));
        let found = all.await.unwrap_or_else(|_| {
            let seconds = most.as_secs();
            let why = format!("the list is not complete after {seconds} s");
            Err(Failure::Absurd(why))
        });
        match found {
            Ok(version) => {
                self.server.reached(self.path());
                self.forget(&before);
                self.retire(seen)?;
                Ok(version)
            }
            Err(failure) => {
                self.left_out.append(&mut before);
                // What a list that cannot be believed has brought must not pile up, try after try;
                // what another failure left over goes with the next list.
                if matches!(failure, Failure::Absurd(_)) {
                    let new = seen.difference(&self.known).cloned().map(Change::Gone);
                    let new: Vec<_> = new.collect();
                    if !new.is_empty() {
                        self.send(Update::Changes(new))?;
                    }
                } else {
                    self.known.append(&mut seen);
                }
                Err(failure)
            }
        }
    }

    /// The pages of a list, and which objects were on them.
    async fn pages(&mut self, seen: &mut BTreeSet<Key>) -> Result<String, Failure> {
        let limits = self.server.limits().clone();
        // Only their hashes: there may be many.
        let (random, mut tokens) = (RandomState::new(), BTreeSet::new());
        let mut next = String::new();
        let mut text = Vec::new();
        let mut bytes = 0;
        loop {
            let params = ListParams {
                label_selector: self.resource.labels.map(str::to_owned),
                limit: Some(self.page),
                continue_token: (!next.is_empty()).then(|| next.clone()),
                ..ListParams::default()
            };
            if !self.page(&params, &mut text).await? {
                self.take_fewer()?;
                continue;
            }
            if text.len() < limits.page_bytes / 8 {
                self.page = (self.page * 2).min(PAGE);
            }
            bytes += text.len();
            if bytes > limits.list_bytes {
                let why = format!("the list is longer than {} bytes", limits.list_bytes);
                return Err(Failure::Absurd(why));
            }
            // What is no UTF-8 is replaced, as API servers do: it costs the object that it is in at most.
            let text = String::from_utf8_lossy(&text);
            let page: Page = serde_json::from_str(&text).map_err(Failure::failed)?;
            let items = page.items(self.resource.kind).map_err(Failure::Failed)?;
            let mut changes = Vec::new();
            for item in items {
                if let Some(object) = self.decode(item) {
                    seen.insert(object.key());
                    changes.push(Change::Set(object));
                }
            }
            self.server.problems().tell();
            self.send(Update::Changes(changes))?;
            next = token(page.metadata.next)?;
            if next.is_empty() {
                return token(page.metadata.resource_version);
            }
            if tokens.len() >= MOST_PAGES || !tokens.insert(random.hash_one(&next)) {
                let why = "the list has no end: a `continue` token comes again, or ever more do";
                return Err(Failure::Absurd(why.to_owned()));
            }
        }
    }

    /// Reads one page into `text`; false if it is too long.
    async fn page(&mut self, params: &ListParams, text: &mut Vec<u8>) -> Result<bool, Failure> {
        let limits = self.server.limits().clone();
        text.clear();
        let request = Request::new(self.path())
            .list(params)
            .map_err(Failure::failed)?;
        let silence = self.server.timing().answer;
        let read = async {
            let mut body = self.ask(request).await?;
            while let Some(frame) = timeout(silence, body.frame()).await.map_err(silent)? {
                if let Ok(data) = frame.map_err(Failure::failed)?.into_data() {
                    if text.len() + data.len() > limits.page_bytes {
                        return Ok(false);
                    }
                    text.extend_from_slice(&data);
                }
            }
            Ok(true)
        };
        let seconds = limits.page_time.as_secs();
        let late = || Failure::Absurd(format!("a page of the list takes longer than {seconds} s"));
        timeout(limits.page_time, read).await.map_err(|_| late())?
    }

    /// Objects may be large: fewer of them at a time.
    fn take_fewer(&mut self) -> Result<(), Failure> {
        if self.page > 1 {
            self.page = (self.page / 8).max(1);
            return Ok(());
        }
        let most = self.server.limits().page_bytes;
        let why = format!("a page of one object is longer than {most} bytes");
        Err(Failure::Absurd(why))
    }
}
