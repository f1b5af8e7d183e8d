//! Reads a file of Kubernetes manifests: YAML or JSON, several documents, `List` kinds.
//!
//! One document at a time is in memory, and each is parsed straight into the slim types. Kinds
//! that Podwire does not use are passed over without being parsed.

mod advice;
mod documents;
mod kind;
mod parse;
mod slim;
mod unread;

use std::collections::BTreeMap;
use std::io::{self, BufRead};

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::snapshot::{Key, Object, ObjectName};
use crate::source::decode::documents::{Documents, starts_as_json};
use crate::source::decode::kind::{Item, Kind, Type, TypeMeta, classify, type_by_looks};
use crate::source::decode::parse::from_yaml;
use crate::source::decode::slim::Slim;
use crate::source::decode::unread::Unread;
use crate::source::objects::{self, Names};
use crate::text;

/// In bytes.
const LONGEST_PROBLEM: usize = 400;

/// What a file says.
#[derive(Debug, Default)]
pub struct Contents {
    /// The objects, in the order of the file.
    pub objects: Vec<Object>,
    /// Objects that are in the file but cannot be used as they are, and what is wrong with each.
    pub spoilt: Vec<(Key, String)>,
    /// What else is wrong, one sentence each.
    pub problems: Vec<String>,
    /// What is read as it is and will not do what was meant, one sentence each.
    pub notes: Vec<String>,
    /// True if some part could not be read at all, so that it is not known which objects it meant.
    pub unreadable: bool,
    /// How many documents there were, of any kind.
    pub documents: usize,
}

/// Which kinds of objects are read; the others are passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All that Podwire knows.
    All,
    /// All but those of which only policies ask.
    WithoutPolicies,
}

impl Scope {
    fn has(self, kind: Kind) -> bool {
        let of_policies = match kind {
            Kind::Pod | Kind::Namespace | Kind::NetworkPolicy | Kind::ClusterNetworkPolicy => true,
            Kind::Unread(what) => what.is_for_policies(),
            _ => false,
        };
        self == Scope::All || !of_policies
    }
}

/// Reads all documents of a file.
pub fn decode(mut input: impl BufRead, scope: Scope, names: &mut Names) -> io::Result<Contents> {
    let mut reader = Reader {
        names,
        scope,
        contents: Contents::default(),
        unread: BTreeMap::new(),
    };
    if starts_as_json(&mut input)? {
        let mut text = String::new();
        input.read_to_string(&mut text)?;
        reader.json(&text);
    } else {
        let mut documents = Documents::of(input);
        let mut text = String::new();
        while let Some(first_line) = documents.next(&mut text)? {
            reader.yaml(&text, first_line);
        }
    }
    reader.note_unread();
    Ok(reader.contents)
}

/// Turns documents into objects.
struct Reader<'a> {
    names: &'a mut Names,
    scope: Scope,
    contents: Contents,
    /// How many objects there were that are not read and ought to be.
    unread: BTreeMap<Unread, usize>,
}

impl Reader<'_> {
    fn yaml(&mut self, text: &str, first_line: usize) {
        self.contents.documents += 1;
        let kind = match type_by_looks(text) {
            Some(looks) => self.classify(looks),
            None => match from_yaml::<TypeMeta>(text, first_line) {
                Ok(meta) => match meta.type_of() {
                    Some(known) => self.classify(known),
                    None => return self.unreadable(meta.incomplete(&format!("line {first_line}"))),
                },
                Err(problem) => return self.unreadable(problem),
            },
        };
        match kind {
            Kind::Other => {}
            Kind::Unread(what) => self.pass_over(what),
            Kind::List(item) => match from_yaml::<ListOf<serde_json::Value>>(text, first_line) {
                Ok(list) => {
                    for (place, value) in list.items.into_iter().enumerate() {
                        self.item(value, item, &format!("line {first_line}, item {place}"));
                    }
                }
                Err(problem) => self.unreadable(problem),
            },
            single => {
                if let Err(problem) = self.object(single, |kind| kind.read_yaml(text, first_line)) {
                    self.spoilt(
                        from_yaml::<serde_json::Value>(text, first_line),
                        single,
                        problem,
                    );
                }
            }
        }
    }

    fn json(&mut self, text: &str) {
        // No line of JSON begins so: it is what YAML has between documents.
        for part in text.split("\n---") {
            for document in serde_json::Deserializer::from_str(part).into_iter::<&RawValue>() {
                self.contents.documents += 1;
                match document {
                    Ok(raw) => self.json_document(raw.get(), None, "document"),
                    Err(error) => {
                        let number = self.contents.documents;
                        self.unreadable(format!(
                            "document {number}: {error}; a file that begins with {{ is read as JSON \
                             to its end"
                        ));
                        break;
                    }
                }
            }
        }
    }

    /// `place` says in words where in the file the document stands.
    fn json_document(&mut self, text: &str, item: Option<Item>, place: &str) {
        let meta = serde_json::from_str::<TypeMeta>(text).unwrap_or_default();
        let Some(known) = meta.type_of().or(item) else {
            return self.unreadable(meta.incomplete(place));
        };
        match self.classify(known) {
            Kind::Other => {}
            Kind::Unread(what) => self.pass_over(what),
            // It would let a file choose how deep this recurses.
            Kind::List(_) if place.starts_with("item") => self.unreadable(list_in_list(place)),
            Kind::List(item) => match serde_json::from_str::<ListOf<&RawValue>>(text) {
                Ok(list) => {
                    for (number, raw) in list.items.into_iter().enumerate() {
                        self.json_document(raw.get(), item, &format!("item {number}"));
                    }
                }
                Err(error) => self.unreadable(format!("{place}: {error}")),
            },
            single => {
                if let Err(problem) = self.object(single, |kind| kind.read_json(text)) {
                    let value = serde_json::from_str(text).map_err(|error| error.to_string());
                    self.spoilt(value, single, format!("{place}: {problem}"));
                }
            }
        }
    }

    /// An item of a YAML list.
    fn item(&mut self, value: serde_json::Value, item: Option<Item>, place: &str) {
        let meta = TypeMeta::deserialize(&value).unwrap_or_default();
        let Some(known) = meta.type_of().or(item) else {
            return self.unreadable(meta.incomplete(place));
        };
        match self.classify(known) {
            Kind::Other => {}
            Kind::List(_) => self.unreadable(list_in_list(place)),
            Kind::Unread(what) => self.pass_over(what),
            single => {
                if let Err(problem) = self.object(single, |kind| kind.read_value(&value)) {
                    self.spoilt(Ok(value), single, format!("{place}: {problem}"));
                }
            }
        }
    }

    /// Takes one object in, read by `read`.
    fn object(
        &mut self,
        kind: Kind,
        read: impl FnOnce(Kind) -> Result<Slim, String>,
    ) -> Result<(), String> {
        if !self.scope.has(kind) {
            return Ok(());
        }
        let slim = read(kind)?;
        let advice = slim.advice(self.names).map_err(|error| error.to_string())?;
        let object = slim
            .into_object(self.names)
            .map_err(|error| error.to_string())?;
        self.contents.notes.extend(advice);
        self.contents.objects.extend(object);
        Ok(())
    }

    /// The kind of an object, which is noted if it has a version that no cluster has.
    fn classify(&mut self, (api_version, kind): Type) -> Kind {
        if let Some(odd) = unread::of_odd_version(api_version, kind) {
            self.pass_over(odd);
        }
        classify(api_version, kind)
    }

    fn pass_over(&mut self, what: Unread) {
        if self.scope.has(Kind::Unread(what)) {
            *self.unread.entry(what).or_default() += 1;
        }
    }

    /// In one sentence for all of a kind: `kubectl get` prints hundreds of them.
    fn note_unread(&mut self) {
        let unread = self.unread.iter();
        let notes = unread.map(|(what, count)| what.note(*count));
        self.contents.notes.extend(notes);
    }

    /// Notes an object that cannot be used, by its name if it has one.
    fn spoilt(&mut self, value: Result<serde_json::Value, String>, kind: Kind, problem: String) {
        let Ok(value) = value else {
            return self.unreadable(problem);
        };
        match self.key(&value, kind) {
            Some(key) => {
                let problem = cut(&format!("{key}: {problem}"));
                self.contents.spoilt.push((key, problem));
            }
            None => self.unreadable(problem),
        }
    }

    fn key(&mut self, value: &serde_json::Value, kind: Kind) -> Option<Key> {
        let metadata = value.get("metadata")?;
        let possible = |text| objects::possible(text).ok();
        let name = self.names.get(possible(metadata.get("name")?.as_str()?)?);
        let namespace = metadata.get("namespace").and_then(|value| value.as_str());
        let namespace = self
            .names
            .get(possible(objects::namespace_or_default(namespace))?);
        match kind {
            Kind::Node => Some(Key::Node(name)),
            Kind::Service => Some(Key::Service(ObjectName { namespace, name })),
            Kind::EndpointSlice => Some(Key::EndpointSlice(ObjectName { namespace, name })),
            Kind::ServiceCidr => Some(Key::ServiceCidr(name)),
            Kind::Pod => Some(Key::Pod(ObjectName { namespace, name })),
            Kind::Namespace => Some(Key::Namespace(name)),
            Kind::NetworkPolicy => Some(Key::NetworkPolicy(ObjectName { namespace, name })),
            Kind::ClusterNetworkPolicy => Some(Key::ClusterNetworkPolicy(name)),
            Kind::List(_) | Kind::Unread(_) | Kind::Other => None,
        }
    }

    fn unreadable(&mut self, problem: String) {
        self.contents.problems.push(cut(&problem));
        self.contents.unreadable = true;
    }
}

/// Parsers quote what they do not understand, however long it is.
fn cut(problem: &str) -> String {
    text::cut(problem, LONGEST_PROBLEM).into_owned()
}

fn list_in_list(place: &str) -> String {
    format!("{place}: is a list within a list, which is not read; write its items in its place")
}

/// The items of a list.
#[derive(Debug, Deserialize)]
#[serde(bound(deserialize = "T: Deserialize<'de>"))]
struct ListOf<T> {
    /// `null` is how Go writes an empty list of a kind of its own.
    #[serde(default = "Vec::new", deserialize_with = "objects::nullable")]
    items: Vec<T>,
}

#[cfg(test)]
mod tests;
