//! What the API server sends, without the server: for the fuzzer only.

use serde_json::value::RawValue;

use crate::snapshot::Object;
use crate::source::kubernetes::watch::Resource;
use crate::source::kubernetes::wire::{Event, Head, Lines, Page, name_of};
use crate::source::kubernetes::{FOR_POLICIES, RESOURCES};
use crate::source::objects::Names;

/// How many resources there are; numbers start again behind the last.
pub const KINDS: usize = RESOURCES.len() + FOR_POLICIES.len();

/// The objects of a page of a list of the resource number `kind`, as far as they can be read.
pub fn page(kind: usize, body: &[u8]) -> Vec<Object> {
    let mut names = Names::default();
    let body = String::from_utf8_lossy(body);
    let Ok(page) = serde_json::from_str::<Page>(&body) else {
        return Vec::new();
    };
    let items = page.items(resource(kind).kind).unwrap_or_default();
    let items = items.iter();
    items
        .filter_map(|item| object(kind, item, &mut names))
        .collect()
}

/// The objects of a watch of the resource number `kind` that comes in these pieces, up to the first
/// line that cannot be read.
pub fn watch<'a>(kind: usize, pieces: impl Iterator<Item = &'a [u8]>) -> Vec<Object> {
    let (mut names, mut lines, mut found) = (Names::default(), Lines::default(), Vec::new());
    for piece in pieces {
        lines.push(piece);
        let read = lines.drain(|line| {
            let line = String::from_utf8_lossy(line);
            let event: Event = serde_json::from_str(&line)?;
            let head = Head::of(event.object);
            let _ = (head.kind(), head.version());
            found.extend(object(kind, event.object, &mut names));
            Ok::<(), serde_json::Error>(())
        });
        if read.is_err() {
            break;
        }
    }
    found
}

fn resource(kind: usize) -> &'static Resource {
    match kind % KINDS {
        one if one < RESOURCES.len() => &RESOURCES[one],
        one => &FOR_POLICIES[one - RESOURCES.len()],
    }
}

fn object(kind: usize, text: &RawValue, names: &mut Names) -> Option<Object> {
    let read = (resource(kind).decode)(text.get(), names);
    // What cannot be read is named.
    let named = |_| name_of(text);
    read.map_err(named).ok().flatten()
}
