//! Sets and maps, and their elements.

use std::collections::BTreeMap;
use std::time::Duration;

use ipnetwork::IpNetwork;

use super::basics::{Counter, Verdict};
use super::field::{Field, Fields};
use super::key::Key;
use super::text::Comment;

/// A named set, or map if it has data.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Set {
    /// The fields of a key; several make a concatenation.
    pub key: Vec<Field>,
    /// What an element leads to; none in a set.
    pub data: Option<Data>,
    /// Keys may be ranges.
    pub interval: bool,
    /// Elements may have a time-out.
    pub timeout: bool,
    /// Rules may change it. Its elements belong to the rules: [`super::diff`] leaves them alone.
    pub dynamic: bool,
    /// Every element counts the packets that hit it.
    pub counter: bool,
    /// The time-out of elements that have none of their own.
    pub default_timeout: Option<Duration>,
    /// How many elements it may have. Dynamic sets need it; others grow as they must.
    pub size: Option<u32>,
    /// What it is for.
    pub comment: Option<Comment>,
    /// The elements by key.
    pub elements: BTreeMap<Key, Element>,
    /// The kernel holds something in it that this crate cannot say, so it differs from any set that
    /// is wanted. False in sets that are wanted.
    pub foreign: bool,
}

/// What the elements of a map lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// A verdict.
    Verdict,
    /// A value of these fields.
    Fields(Vec<Field>),
}

/// An element; its key is the key in [`Set::elements`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Element {
    /// In a set of intervals, the last key of the range, itself included; none means one key only.
    pub key_end: Option<Key>,
    /// What it leads to.
    pub value: Value,
    /// It vanishes after this time.
    pub timeout: Option<Duration>,
    /// What is left of it; only what the kernel says, never compared.
    pub expires: Option<Duration>,
    /// What it stands for.
    pub comment: Option<Comment>,
    /// What hit it; only what the kernel says, never compared.
    pub counter: Option<Counter>,
}

/// What an element leads to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Value {
    /// Nothing: an element of a set.
    #[default]
    None,
    /// A value.
    Data(Key),
    /// A verdict.
    Verdict(Verdict),
}

/// An element that borrows everything: to write many without keeping any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ElementRef<'a> {
    /// Its key, or the first key of its range.
    pub key: &'a [u8],
    /// The last key of its range.
    pub key_end: Option<&'a [u8]>,
    /// What it leads to.
    pub value: ValueRef<'a>,
    /// It vanishes after this time.
    pub timeout: Option<Duration>,
    /// What it stands for; made to fit as [`Comment::new`] does.
    pub comment: Option<&'a str>,
}

/// A [`Value`] that borrows everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ValueRef<'a> {
    /// Nothing: an element of a set.
    #[default]
    None,
    /// A value.
    Data(&'a [u8]),
    /// A verdict.
    Verdict(&'a Verdict),
}

impl Set {
    /// A set with keys of these fields.
    pub fn of(key: &[Field]) -> Self {
        Self {
            key: key.to_vec(),
            ..Self::default()
        }
    }

    /// A map from these fields to verdicts.
    pub fn verdict_map(key: &[Field]) -> Self {
        Self {
            data: Some(Data::Verdict),
            ..Self::of(key)
        }
    }

    /// A map from these fields to values of `data`.
    pub fn map(key: &[Field], data: &[Field]) -> Self {
        Self {
            data: Some(Data::Fields(data.to_vec())),
            ..Self::of(key)
        }
    }

    /// Whose keys may be ranges. Only fields in network byte order (addresses, ports) have ranges
    /// that mean something: the kernel compares bytes.
    pub fn with_intervals(mut self) -> Self {
        self.interval = true;
        self
    }

    /// With a packet counter in each element.
    pub fn with_counters(mut self) -> Self {
        self.counter = true;
        self
    }

    /// Changed by rules; at most `size` elements.
    pub fn dynamic(mut self, size: u32) -> Self {
        (self.dynamic, self.size) = (true, Some(size));
        self
    }

    /// Whose elements may have time-outs.
    pub fn with_timeouts(mut self) -> Self {
        self.timeout = true;
        self
    }

    /// With a comment.
    pub fn with_comment(mut self, text: &str) -> Self {
        self.comment = Comment::new(text);
        self
    }

    /// With an element.
    pub fn with_element(mut self, key: impl Into<Key>, element: Element) -> Self {
        self.elements.insert(key.into(), element);
        self
    }

    /// With all addresses of a network, as one element of a set of intervals.
    pub fn with_network(self, network: IpNetwork, element: Element) -> Self {
        let (key, key_end) = Key::interval(network);
        self.with_element(key, Element { key_end, ..element })
    }

    /// The same without elements.
    pub fn header(&self) -> Self {
        Self {
            key: self.key.clone(),
            data: self.data.clone(),
            comment: self.comment.clone(),
            elements: BTreeMap::new(),
            ..*self
        }
    }

    /// Whether both are declared alike; elements aside.
    pub fn same_header(&self, other: &Self) -> bool {
        let plain = |set: &Self| {
            (
                set.interval,
                set.timeout,
                set.dynamic,
                set.counter,
                set.foreign,
            )
        };
        plain(self) == plain(other)
            && (self.default_timeout, self.size) == (other.default_timeout, other.size)
            && self.key == other.key
            && self.data == other.data
            && self.comment == other.comment
    }

    /// Prints a key as `nft` would.
    pub fn display_key<'a>(&'a self, key: &'a [u8]) -> impl std::fmt::Display + 'a {
        super::field::Display {
            fields: &self.key,
            key,
        }
    }

    pub(crate) fn layout(&self) -> Layout {
        let ranges = match (self.interval, self.key.len()) {
            (false, _) => Ranges::None,
            (true, 0 | 1) => Ranges::Pairs,
            (true, _) => Ranges::KeyEnd,
        };
        let data_len = match &self.data {
            Some(Data::Fields(fields)) => Fields(fields).len(),
            Some(Data::Verdict) | None => 0,
        };
        Layout {
            key_len: Fields(&self.key).len() as usize,
            data_len: data_len as usize,
            ranges,
        }
    }
}

/// What the encoder of elements must know of their set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    /// In bytes, as the kernel counts it.
    pub key_len: usize,
    /// In bytes; 0 for verdicts.
    pub data_len: usize,
    pub ranges: Ranges,
}

/// How a set holds ranges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ranges {
    /// Not at all.
    None,
    /// A lone field: one element where the range starts, one behind its end.
    Pairs,
    /// A concatenation: one element with two keys.
    KeyEnd,
}

impl Element {
    /// Of a set.
    pub fn member() -> Self {
        Self::default()
    }

    /// That leads to a verdict.
    pub fn verdict(verdict: Verdict) -> Self {
        Self {
            value: Value::Verdict(verdict),
            ..Self::default()
        }
    }

    /// That leads to a value.
    pub fn data(data: impl Into<Key>) -> Self {
        Self {
            value: Value::Data(data.into()),
            ..Self::default()
        }
    }

    /// With a comment.
    pub fn comment(mut self, text: &str) -> Self {
        self.comment = Comment::new(text);
        self
    }

    /// That ranges up to `key`, itself included.
    pub fn up_to(mut self, key: impl Into<Key>) -> Self {
        self.key_end = Some(key.into());
        self
    }

    /// With a time-out, in whole milliseconds.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Whether both say the same; what only the kernel knows (counter, expiry) does not matter.
    pub fn same_as(&self, other: &Self) -> bool {
        self.key_end == other.key_end
            && self.value == other.value
            && self.timeout == other.timeout
            && self.comment == other.comment
    }

    /// The same, borrowed.
    pub fn borrow<'a>(&'a self, key: &'a Key) -> ElementRef<'a> {
        ElementRef {
            key,
            key_end: self.key_end.as_deref(),
            value: match &self.value {
                Value::None => ValueRef::None,
                Value::Data(data) => ValueRef::Data(data),
                Value::Verdict(verdict) => ValueRef::Verdict(verdict),
            },
            timeout: self.timeout,
            comment: self.comment.as_ref().map(Comment::as_str),
        }
    }
}
