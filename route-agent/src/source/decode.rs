//! Reads a file of Kubernetes manifests: YAML or JSON, several documents, `List` kinds.
//!
//! One document at a time is in memory, and each is parsed straight into the slim types. Kinds
//! that Podwire does not use are passed over without being parsed.

mod advice;
mod unread;

use std::collections::BTreeMap;
use std::io::{self, BufRead};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::snapshot::{Key, Object, ObjectName};
use crate::source::decode::unread::Unread;
use crate::source::objects::{self, Metadata, Names, Unnamed};
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

/// A kind of object, by `apiVersion` and `kind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Node,
    Service,
    EndpointSlice,
    ServiceCidr,
    Pod,
    Namespace,
    NetworkPolicy,
    ClusterNetworkPolicy,
    /// Something that is not read and ought to be.
    Unread(Unread),
    /// A list; the kind of its items if the list's own kind says it.
    List(Option<Item>),
    /// Something that Podwire does not use.
    Other,
}

/// apiVersion and kind.
type Type<'a> = (&'a str, &'a str);

/// What a list such as `NodeList` holds.
type Item = Type<'static>;

/// The two fields that say what an object is.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct TypeMeta {
    api_version: objects::Text,
    kind: objects::Text,
}

impl TypeMeta {
    fn type_of(&self) -> Option<Type<'_>> {
        Some((self.api_version.get()?, self.kind.get()?))
    }

    /// That it does not say which kind it is.
    fn incomplete(&self, place: &str) -> String {
        let missing = match (self.api_version.get(), self.kind.get()) {
            (None, Some(_)) => "apiVersion is",
            (Some(_), None) => "kind is",
            _ => "apiVersion and kind are",
        };
        format!("{place}: is not a Kubernetes object: {missing} missing")
    }
}

/// The `kind` of an object in JSON.
pub fn kind_of(json: &str) -> objects::Text {
    let meta: TypeMeta = serde_json::from_str(json).unwrap_or_default();
    meta.kind
}

fn classify(api_version: &str, kind: &str) -> Kind {
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    match (group, kind) {
        ("", "Node") => Kind::Node,
        ("", "Service") => Kind::Service,
        ("", "Endpoints") => Kind::Unread(Unread::Endpoints),
        ("discovery.k8s.io", "EndpointSlice") => Kind::EndpointSlice,
        ("networking.k8s.io", "ServiceCIDR") => Kind::ServiceCidr,
        ("", "Pod") => Kind::Pod,
        ("", "Namespace") => Kind::Namespace,
        ("networking.k8s.io", "NetworkPolicy") => Kind::NetworkPolicy,
        ("policy.networking.k8s.io", "ClusterNetworkPolicy") => Kind::ClusterNetworkPolicy,
        ("", "List") => Kind::List(None),
        ("", "NodeList") => Kind::List(Some(("v1", "Node"))),
        ("", "ServiceList") => Kind::List(Some(("v1", "Service"))),
        ("", "EndpointsList") => Kind::List(Some(("v1", "Endpoints"))),
        ("discovery.k8s.io", "EndpointSliceList") => {
            Kind::List(Some(("discovery.k8s.io/v1", "EndpointSlice")))
        }
        ("networking.k8s.io", "ServiceCIDRList") => {
            Kind::List(Some(("networking.k8s.io/v1", "ServiceCIDR")))
        }
        ("", "PodList") => Kind::List(Some(("v1", "Pod"))),
        ("", "NamespaceList") => Kind::List(Some(("v1", "Namespace"))),
        ("networking.k8s.io", "NetworkPolicyList") => {
            Kind::List(Some(("networking.k8s.io/v1", "NetworkPolicy")))
        }
        ("policy.networking.k8s.io", "ClusterNetworkPolicyList") => Kind::List(Some((
            "policy.networking.k8s.io/v1beta1",
            "ClusterNetworkPolicy",
        ))),
        (_, other) if unread::is_policy(other) => Kind::Unread(Unread::Policy),
        (_, other) => unread::misspelt(group, other).map_or(Kind::Other, Kind::Unread),
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
        let mut documents = Documents {
            input,
            line: 0,
            pending: String::new(),
        };
        let mut text = String::new();
        while let Some(first_line) = documents.next(&mut text)? {
            reader.yaml(&text, first_line);
        }
    }
    reader.note_unread();
    Ok(reader.contents)
}

/// True if the first character that is not white space opens a JSON object.
///
/// YAML may start so as well (flow style), but then it is JSON but for rare cases, in which the
/// error says what is wrong.
fn starts_as_json(input: &mut impl BufRead) -> io::Result<bool> {
    loop {
        let buffer = input.fill_buf()?;
        let Some(place) = buffer.iter().position(|byte| !byte.is_ascii_whitespace()) else {
            let all = buffer.len();
            if all == 0 {
                return Ok(false);
            }
            input.consume(all);
            continue;
        };
        return Ok(buffer[place] == b'{');
    }
}

/// Splits a YAML stream at its document markers.
struct Documents<R> {
    input: R,
    /// Lines read so far.
    line: usize,
    /// What stood behind the marker that began the document to come.
    pending: String,
}

impl<R: BufRead> Documents<R> {
    /// Puts the next document that is not empty into `text`; returns the number of its first line.
    fn next(&mut self, text: &mut String) -> io::Result<Option<usize>> {
        loop {
            text.clear();
            text.push_str(&self.pending);
            self.pending.clear();
            let first_line = self.line + usize::from(text.is_empty());
            let more = self.read_until_marker(text)?;
            if !is_blank(text) {
                return Ok(Some(first_line));
            }
            if !more {
                return Ok(None);
            }
        }
    }

    /// True if a marker ended the document, false at the end of the input.
    fn read_until_marker(&mut self, text: &mut String) -> io::Result<bool> {
        loop {
            let start = text.len();
            if self.input.read_line(text)? == 0 {
                return Ok(false);
            }
            self.line += 1;
            let line = &text[start..];
            let Some(rest) = line
                .strip_prefix("---")
                .or_else(|| line.strip_prefix("..."))
            else {
                continue;
            };
            if !rest.is_empty() && !rest.starts_with([' ', '\t', '\r', '\n']) {
                continue;
            }
            self.pending = if is_blank(rest) {
                String::new()
            } else {
                rest.to_owned()
            };
            text.truncate(start);
            return Ok(true);
        }
    }
}

/// True if there is nothing but comments, directives and white space.
fn is_blank(text: &str) -> bool {
    text.trim_start_matches('\u{feff}').lines().all(|line| {
        line.starts_with('%') || line.trim_start().is_empty() || line.trim_start().starts_with('#')
    })
}

/// Finds `apiVersion:` and `kind:` at the start of a line, where most manifests have them.
fn type_by_looks(text: &str) -> Option<Type<'_>> {
    let find = |key: &str| {
        let mut values = text.lines().filter_map(|line| line.strip_prefix(key));
        let value = plain_value(values.next()?)?;
        values.next().is_none().then_some(value)
    };
    Some((find("apiVersion:")?, find("kind:")?))
}

/// The value behind a key, if it is one word, perhaps in quotes, with nothing but a comment behind it:
/// anything else may mean something that only a parser knows.
fn plain_value(text: &str) -> Option<&str> {
    let mut words = text.strip_prefix([' ', '\t'])?.split_ascii_whitespace();
    let mut value = words.next()?;
    for quote in ['"', '\''] {
        let inner = value.strip_prefix(quote);
        value = inner
            .and_then(|inner| inner.strip_suffix(quote))
            .unwrap_or(value);
    }
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"./-".contains(&byte);
    let ends = words.next().is_none_or(|word| word.starts_with('#'));
    (ends && !value.is_empty() && value.bytes().all(is_plain)).then_some(value)
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

/// One object of a kind that is used.
enum Slim {
    Node(Box<objects::Node>),
    Service(Box<objects::Service>),
    EndpointSlice(objects::EndpointSlice),
    ServiceCidr(objects::ServiceCidr),
    Pod(Box<objects::Pod>),
    Namespace(objects::Namespace),
    NetworkPolicy(objects::NetworkPolicy),
    ClusterNetworkPolicy(objects::ClusterNetworkPolicy),
}

impl Slim {
    fn metadata(&self) -> &Metadata {
        match self {
            Slim::Node(node) => &node.metadata,
            Slim::Service(service) => &service.metadata,
            Slim::EndpointSlice(slice) => &slice.metadata,
            Slim::ServiceCidr(cidr) => &cidr.metadata,
            Slim::Pod(pod) => &pod.metadata,
            Slim::Namespace(namespace) => &namespace.metadata,
            Slim::NetworkPolicy(policy) => &policy.metadata,
            Slim::ClusterNetworkPolicy(policy) => &policy.metadata,
        }
    }

    /// True if another proxy, or none, is to serve it.
    fn is_foreign(&self) -> bool {
        let proxied = matches!(self, Slim::Service(_) | Slim::EndpointSlice(_));
        proxied && self.metadata().is_foreign()
    }

    /// `None` for an object that another proxy serves, or none.
    fn into_object(self, names: &mut Names) -> Result<Option<Object>, Unnamed> {
        if self.is_foreign() {
            return Ok(None);
        }
        Ok(match self {
            Slim::Node(node) => Some(Object::Node(node.into_snapshot(names)?)),
            Slim::Service(service) => Some(Object::Service(service.into_snapshot(names)?)),
            Slim::EndpointSlice(slice) => slice.into_snapshot(names)?.map(Object::EndpointSlice),
            Slim::ServiceCidr(cidr) => Some(Object::ServiceCidr(cidr.into_snapshot(names)?)),
            Slim::Pod(pod) => Some(Object::Pod(pod.into_snapshot(names)?)),
            Slim::Namespace(one) => Some(Object::Namespace(one.into_snapshot(names)?)),
            Slim::NetworkPolicy(policy) => {
                Some(Object::NetworkPolicy(policy.into_snapshot(names)?))
            }
            Slim::ClusterNetworkPolicy(policy) => {
                Some(Object::ClusterNetworkPolicy(policy.into_snapshot(names)?))
            }
        })
    }
}

impl Kind {
    fn read_yaml(self, text: &str, first_line: usize) -> Result<Slim, String> {
        Ok(match self {
            Kind::Service => Slim::Service(Box::new(from_yaml(text, first_line)?)),
            Kind::EndpointSlice => Slim::EndpointSlice(from_yaml(text, first_line)?),
            Kind::ServiceCidr => Slim::ServiceCidr(from_yaml(text, first_line)?),
            Kind::Pod => Slim::Pod(Box::new(from_yaml(text, first_line)?)),
            Kind::Namespace => Slim::Namespace(from_yaml(text, first_line)?),
            Kind::NetworkPolicy => Slim::NetworkPolicy(from_yaml(text, first_line)?),
            Kind::ClusterNetworkPolicy => Slim::ClusterNetworkPolicy(from_yaml(text, first_line)?),
            _ => Slim::Node(Box::new(from_yaml(text, first_line)?)),
        })
    }

    fn read_json(self, text: &str) -> Result<Slim, String> {
        Ok(match self {
            Kind::Service => Slim::Service(Box::new(from_json(text)?)),
            Kind::EndpointSlice => Slim::EndpointSlice(from_json(text)?),
            Kind::ServiceCidr => Slim::ServiceCidr(from_json(text)?),
            Kind::Pod => Slim::Pod(Box::new(from_json(text)?)),
            Kind::Namespace => Slim::Namespace(from_json(text)?),
            Kind::NetworkPolicy => Slim::NetworkPolicy(from_json(text)?),
            Kind::ClusterNetworkPolicy => Slim::ClusterNetworkPolicy(from_json(text)?),
            _ => Slim::Node(Box::new(from_json(text)?)),
        })
    }

    /// By way of JSON text: a reader of its own for each type costs more room in the program than
    /// the detour costs time, which only an item of a YAML list takes.
    fn read_value(self, value: &serde_json::Value) -> Result<Slim, String> {
        let read = self.read_json(&value.to_string());
        read.map_err(|message| without_place(&message).to_owned())
    }
}

fn from_json<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

/// Parses one YAML document whose first line has this number in its file.
fn from_yaml<T: DeserializeOwned>(text: &str, first_line: usize) -> Result<T, String> {
    let options = serde_saphyr::options! {
        strict_booleans: true,
        with_snippet: false,
        // A List of 5,000 Nodes as `kubectl get -o yaml` prints it is a fair manifest. Aliases
        // cannot be used to blow it up: their expansion is limited separately.
        budget: serde_saphyr::budget! {
            max_events: 50_000_000,
            max_nodes: 50_000_000,
        },
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let line = error
            .location()
            .map_or(0, |location| location.line() as usize);
        let message = error.without_snippet().to_string();
        let message = message.lines().next().unwrap_or("cannot be parsed");
        let message = plain(without_place(message));
        format!("line {}: {message}", first_line + line.saturating_sub(1))
    })
}

/// A message of the parser in the words of who writes manifests, without advice for who calls it.
fn plain(message: &str) -> &str {
    if message.contains("budget") {
        return "it is too large or nested too deeply for a manifest";
    }
    let advice = [
        ", set DuplicateKeyPolicy",
        "; set DuplicateKeyPolicy",
        " (set DuplicateKeyPolicy",
    ];
    let ends = advice.iter().filter_map(|advice| message.find(advice));
    ends.min().map_or(message, |end| &message[..end])
}

/// A message of the parser without `at line 1, column 7` at its end: it counts from the start of
/// the document, and a file may have several.
fn without_place(message: &str) -> &str {
    let place = |text: &str| {
        let mut words = text.split(", column ");
        words.clone().count() == 2 && words.all(|word| word.parse::<u64>().is_ok())
    };
    match message.rsplit_once(" at line ") {
        Some((start, end)) if place(end) => start,
        _ => message,
    }
}

#[cfg(test)]
mod tests;
