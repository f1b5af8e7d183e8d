//! The API server's JSON: list pages and watch events, cut into single objects.
//!
//! Objects stay text until each is decoded by itself, so that one that does not fit our types
//! costs nothing but itself, and no page is ever held as anything larger than its own text.

use std::fmt;

use http_body_util::BodyExt;
use kube::client::Body;
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::source::objects::{Text, nullable};

/// What came in the place of a page of a list.
#[derive(Deserialize)]
pub struct Page<'a> {
    /// `NodeList` for Nodes: API servers say it of every list.
    #[serde(default)]
    kind: Text,
    /// Where the list stands.
    #[serde(default, deserialize_with = "nullable")]
    pub metadata: ListMeta,
    #[serde(borrow, default)]
    items: Items<'a>,
}

impl<'a> Page<'a> {
    /// The objects, each as its text, if this is a page of a list of objects of this kind: what is none
    /// must not be taken for an empty one.
    pub fn items(&self, kind: &str) -> Result<&[&'a RawValue], String> {
        let lacks = match (self.kind.get(), &self.items.0) {
            (None, _) => "it has no kind",
            (Some(own), _) if own.strip_suffix("List") != Some(kind) => {
                return Err(format!("no list of kind {kind} came: it is of kind {own}"));
            }
            (_, None) => "it has no items",
            _ if self.metadata.resource_version.is_empty() => "it has no resourceVersion",
            (_, Some(items)) => return Ok(items),
        };
        Err(format!("no list of kind {kind} came: {lacks}"))
    }
}

/// `items` of a page: empty if it is `null`, as Go writes an empty list; none if there is no such field.
#[derive(Default)]
struct Items<'a>(Option<Vec<&'a RawValue>>);

/// More objects are on no page of a list, not even of a server that knows no pages: a page of
/// nothing but `{}` would take more than five times its size.
const MOST_ITEMS: usize = 200_000;

impl<'de: 'a, 'a> Deserialize<'de> for Items<'a> {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        input.deserialize_any(ItemsVisitor)
    }
}

struct ItemsVisitor;

impl<'de> Visitor<'de> for ItemsVisitor {
    type Value = Items<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of objects")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Items(Some(Vec::new())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            if items.len() == MOST_ITEMS {
                let why = format!("a page of the list has more than {MOST_ITEMS} objects");
                return Err(A::Error::custom(why));
            }
            items.push(item);
        }
        Ok(Items(Some(items)))
    }
}

/// `metadata` of a list.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct ListMeta {
    /// The version of the whole list: a watch may start here.
    #[serde(deserialize_with = "nullable")]
    pub resource_version: String,
    /// The token of the next page; empty on the last one.
    #[serde(rename = "continue", deserialize_with = "nullable")]
    pub next: String,
}

/// One line of a watch.
#[derive(Deserialize)]
pub struct Event<'a> {
    /// ADDED, MODIFIED, DELETED, BOOKMARK or ERROR.
    #[serde(rename = "type")]
    pub kind: String,
    /// The object; of a BOOKMARK only its version, of an ERROR a Status.
    #[serde(borrow)]
    pub object: &'a RawValue,
}

/// What a watch asks of every object: its kind, and the version from which the watch can be resumed.
///
/// Both stay text until they are asked for: what is odd in one costs that one alone, and a version is
/// copied no sooner than it is needed.
#[derive(Deserialize, Default)]
#[serde(default)]
pub struct Head<'a> {
    #[serde(borrow)]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    metadata: Option<&'a RawValue>,
}

impl<'a> Head<'a> {
    /// Goes through `object` once.
    pub fn of(object: &'a RawValue) -> Self {
        serde_json::from_str(object.get()).unwrap_or_default()
    }

    /// The kind, if it says one.
    pub fn kind(&self) -> Text {
        let kind = self
            .kind
            .and_then(|kind| serde_json::from_str(kind.get()).ok());
        kind.unwrap_or_default()
    }

    /// The resourceVersion, if there is one.
    pub fn version(&self) -> Option<String> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Metadata {
            resource_version: String,
        }
        let metadata: Metadata = serde_json::from_str(self.metadata?.get()).ok()?;
        Some(metadata.resource_version)
    }
}

/// The namespace of `object`, which may be empty, and its name, whatever else it holds.
pub fn names_of(object: &RawValue) -> Option<(String, String)> {
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Named {
        #[serde(deserialize_with = "nullable")]
        metadata: Name,
    }
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Name {
        #[serde(deserialize_with = "nullable")]
        namespace: String,
        #[serde(deserialize_with = "nullable")]
        name: String,
    }
    let Named { metadata } = serde_json::from_str(object.get()).unwrap_or_default();
    (!metadata.name.is_empty()).then_some((metadata.namespace, metadata.name))
}

/// The name of `object` for a message: `namespace/name`, `name`, or what can be said without one.
pub fn name_of(object: &RawValue) -> String {
    match names_of(object) {
        None => "without a name".to_owned(),
        Some((namespace, name)) if namespace.is_empty() => name,
        Some((namespace, name)) => format!("{namespace}/{name}"),
    }
}

/// What an answer says, up to where it breaks off or is longer than `most` bytes.
pub async fn start_of(mut body: Body, most: usize) -> Vec<u8> {
    let mut text = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        if let Ok(data) = frame.into_data() {
            text.extend_from_slice(&data);
        }
        if text.len() > most {
            break;
        }
    }
    text
}

/// The API server's answer when it refuses.
#[derive(Deserialize, Default)]
#[serde(default)]
pub struct Status {
    /// The HTTP status code.
    #[serde(deserialize_with = "nullable")]
    pub code: u16,
    /// Why, for people.
    #[serde(deserialize_with = "nullable")]
    pub message: String,
}

/// Bytes of a watch that have not made a whole line yet.
#[derive(Default)]
pub struct Lines {
    pending: Vec<u8>,
    /// How much of `pending` is known to hold no line end.
    searched: usize,
}

/// More than this is given back to the allocator once a long line is done.
const KEEP: usize = 64 * 1024;

impl Lines {
    /// Adds what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// Calls `each` with every whole line, without its end and without empty lines.
    pub fn drain<E>(&mut self, mut each: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let mut start = 0;
        let mut from = self.searched;
        while let Some(end) = self.pending[from..].iter().position(|&b| b == b'\n') {
            let line = &self.pending[start..from + end];
            if !line.is_empty() {
                each(line)?;
            }
            start = from + end + 1;
            from = start;
        }
        self.pending.drain(..start);
        self.searched = self.pending.len();
        if self.pending.is_empty() && self.pending.capacity() > KEEP {
            self.pending = Vec::new();
        }
        Ok(())
    }

    /// The number of bytes that wait for the rest of their line.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    fn lines_of(chunks: &[&[u8]]) -> Vec<String> {
        let mut lines = Lines::default();
        let mut found = Vec::new();
        for chunk in chunks {
            lines.push(chunk);
            let Ok(()) = lines.drain(|line| {
                found.push(String::from_utf8_lossy(line).into_owned());
                Ok::<(), Infallible>(())
            });
        }
        found
    }

    #[test]
    fn a_page_gives_its_objects_as_text() {
        let text = r#"{"kind":"NodeList","metadata":{"resourceVersion":"7","continue":"tok"},
            "items":[{"metadata":{"name":"a"}},{"metadata":{"name":3}}]}"#;
        let page: Page = serde_json::from_str(text).unwrap();
        assert_eq!(page.metadata.resource_version, "7");
        assert_eq!(page.metadata.next, "tok");
        let items = page.items("Node").unwrap();
        assert_eq!(items[0].get(), r#"{"metadata":{"name":"a"}}"#);
        assert_eq!(name_of(items[0]), "a");
        assert_eq!(name_of(items[1]), "without a name");
    }

    #[test]
    fn an_empty_list_may_have_null_items() {
        let text = r#"{"kind":"PodList","metadata":{"resourceVersion":"1"},"items":null}"#;
        let page: Page = serde_json::from_str(text).unwrap();
        assert!(page.items("Pod").unwrap().is_empty());
        assert_eq!(page.metadata.next, "");
    }

    #[test]
    fn null_is_absent_wherever_the_server_may_write_it() {
        for metadata in ["null", r#"{"resourceVersion":null,"continue":null}"#] {
            let page = format!(r#"{{"metadata":{metadata},"items":[]}}"#);
            let page: Page = serde_json::from_str(&page).unwrap();
            assert_eq!(
                (&*page.metadata.resource_version, &*page.metadata.next),
                ("", "")
            );
        }
        let names = |text: &str| names_of(serde_json::from_str(text).unwrap());
        let of_cluster = Some((String::new(), "a".to_owned()));
        assert_eq!(
            names(r#"{"metadata":{"namespace":null,"name":"a"}}"#),
            of_cluster
        );
        assert_eq!(names(r#"{"metadata":{"namespace":"b","name":null}}"#), None);
        assert_eq!(names(r#"{"metadata":null}"#), None);
        let gone: Status = serde_json::from_str(r#"{"code":410,"message":null}"#).unwrap();
        assert_eq!((gone.code, &*gone.message), (410, ""));
        let status: Status = serde_json::from_str(r#"{"code":null,"message":"m"}"#).unwrap();
        assert_eq!((status.code, &*status.message), (0, "m"));
    }

    #[test]
    fn a_page_of_ever_more_objects_is_refused() {
        let page = |count: usize| {
            let items = vec!["{}"; count].join(",");
            let text = format!(r#"{{"metadata":{{}},"items":[{items}]}}"#);
            serde_json::from_str::<Page>(&text).map(|page| page.items.0.unwrap().len())
        };
        assert_eq!(page(MOST_ITEMS).unwrap(), MOST_ITEMS);
        let refused = page(MOST_ITEMS + 1).unwrap_err().to_string();
        assert!(refused.contains("more than 200000 objects"), "{refused}");
    }

    #[test]
    fn an_event_gives_kind_object_and_version() {
        let text = r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"99"}}}"#;
        let event: Event = serde_json::from_str(text).unwrap();
        assert_eq!(event.kind, "BOOKMARK");
        assert_eq!(Head::of(event.object).version().as_deref(), Some("99"));
    }

    #[test]
    fn of_kind_and_version_each_is_read_whatever_the_other_is() {
        let version = r#"{"resourceVersion":"9"}"#;
        for (kind, metadata, expected) in [
            (r#""Node""#, version, (Some("Node"), Some("9"))),
            (r#""N\u006fde""#, version, (Some("Node"), Some("9"))),
            (r#""\ud800""#, version, (None, Some("9"))),
            ("null", version, (None, Some("9"))),
            ("7", version, (Some("7"), Some("9"))),
            (r#""Node""#, "null", (Some("Node"), None)),
            (r#""Node""#, "[[]]", (Some("Node"), None)),
            (r#""Node""#, r#""text""#, (Some("Node"), None)),
            (r#""Node""#, r#"{"\udfff":1}"#, (Some("Node"), None)),
            (
                r#""Node""#,
                r#"{"resourceVersion":9}"#,
                (Some("Node"), None),
            ),
            (
                r#""Node""#,
                r#"{"a":1,"a":2,"resourceVersion":"\u0039"}"#,
                (Some("Node"), Some("9")),
            ),
        ] {
            for text in [
                format!(r#"{{"kind":{kind},"metadata":{metadata},"a":"\ud800"}}"#),
                format!(r#"{{"a":[{{}}],"metadata":{metadata},"kind":{kind}}}"#),
            ] {
                let object: &RawValue = serde_json::from_str(&text).unwrap();
                let head = Head::of(object);
                let found = (head.kind(), head.version());
                assert_eq!((found.0.get(), found.1.as_deref()), expected, "{text}");
            }
        }
        let none: &RawValue = serde_json::from_str("[]").unwrap();
        assert_eq!(Head::of(none).kind().get(), None);
        assert_eq!(Head::of(none).version(), None);
    }

    #[test]
    fn a_line_cut_in_pieces_is_put_together() {
        assert_eq!(lines_of(&[b"ab", b"c\nd", b"", b"\n\ne"]), ["abc", "d"]);
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_how_the_text_is_cut(
            words in prop::collection::vec("[a-z]{0,5}", 0..20),
            cuts in prop::collection::vec(0_usize..120, 0..10),
        ) {
            let text: String = words.iter().flat_map(|w| [w.as_str(), "\n"]).collect();
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|&c| c <= text.len()).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> =
                cuts.windows(2).map(|w| &text.as_bytes()[w[0]..w[1]]).collect();
            let wanted: Vec<String> = words.into_iter().filter(|w| !w.is_empty()).collect();
            prop_assert_eq!(lines_of(&chunks), wanted);
        }
    }
}
