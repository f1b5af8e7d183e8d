//! Scalars that take anything a manifest holds and remember what could not be understood.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::text::cut;

/// In bytes; of the fields that are read none can be as long in Kubernetes. A longer text is cut,
/// and marked, so that it is no valid value of anything.
const LONGEST: usize = 4096;

/// A string. Numbers and truth values, which YAML knows from strings by their looks, are taken as
/// they are written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Text(Option<Box<str>>);

impl Text {
    /// The text, if there is one.
    pub fn get(&self) -> Option<&str> {
        self.0.as_deref()
    }

    /// The text as a warning shows it.
    pub fn shown(&self) -> &str {
        self.0.as_deref().unwrap_or("null")
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(Some(Box::from(text)))
    }
}

/// A whole number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Number {
    /// Not given, or null.
    #[default]
    Absent,
    /// A number.
    Of(i64),
    /// Something else, as it was written.
    Bad(Box<str>),
}

impl Number {
    /// The number, if it is one.
    pub fn get(&self) -> Option<i64> {
        match self {
            Number::Of(value) => Some(*value),
            _ => None,
        }
    }

    /// True if it is absent or 0, which the API does not tell apart.
    pub fn is_unset(&self) -> bool {
        matches!(self, Number::Absent | Number::Of(0))
    }
}

/// A truth value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Flag {
    /// Not given, or null.
    #[default]
    Absent,
    /// True or false.
    Of(bool),
    /// Something else, as it was written.
    Bad(Box<str>),
}

/// Any scalar; lists and maps are skipped and remembered as such.
enum Any {
    Null,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Other(Box<str>),
}

/// As a selector has it, which is read by way of JSON: `2.0` is not 2 there.
fn written(value: f64) -> Box<str> {
    serde_json::Value::from(value).to_string().into()
}

/// A number that is written with a fraction, if that is 0: between YAML and the API server is JSON as Go
/// writes it, where `83.0` is 83.
pub fn whole(value: f64) -> Option<i64> {
    let text = format!("{value:.0}");
    text.parse().ok().filter(|_| value.fract() == 0.0)
}

struct AnyVisitor;

impl<'de> Visitor<'de> for AnyVisitor {
    type Value = Any;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a scalar")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Any, E> {
        Ok(Any::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Any, E> {
        Ok(Any::Integer(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Any, E> {
        Ok(
            i64::try_from(value)
                .map_or_else(|_| Any::Other(value.to_string().into()), Any::Integer),
        )
    }

    fn visit_i128<E>(self, value: i128) -> Result<Any, E> {
        Ok(Any::Other(value.to_string().into()))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Any, E> {
        Ok(Any::Other(value.to_string().into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Any, E> {
        Ok(Any::Float(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Any, E> {
        Ok(Any::Other(cut(value, LONGEST).into()))
    }

    fn visit_bytes<E: Error>(self, value: &[u8]) -> Result<Any, E> {
        self.visit_str(&String::from_utf8_lossy(value))
    }

    fn visit_unit<E>(self) -> Result<Any, E> {
        Ok(Any::Null)
    }

    fn visit_none<E>(self) -> Result<Any, E> {
        Ok(Any::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Any, D::Error> {
        deserializer.deserialize_any(AnyVisitor)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Any, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Any::Other("[a list]".into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Any, A::Error> {
        while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Any::Other("{a map}".into()))
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(match deserializer.deserialize_any(AnyVisitor)? {
            Any::Null => None,
            Any::Bool(value) => Some(value.to_string().into()),
            Any::Integer(value) => Some(value.to_string().into()),
            Any::Float(value) => Some(written(value)),
            Any::Other(text) => Some(text),
        }))
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match deserializer.deserialize_any(AnyVisitor)? {
            Any::Null => Number::Absent,
            Any::Integer(value) => Number::Of(value),
            Any::Float(value) => {
                whole(value).map_or_else(|| Number::Bad(written(value)), Number::Of)
            }
            Any::Bool(value) => Number::Bad(value.to_string().into()),
            Any::Other(text) => Number::Bad(text),
        })
    }
}

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match deserializer.deserialize_any(AnyVisitor)? {
            Any::Null => Flag::Absent,
            Any::Bool(value) => Flag::Of(value),
            Any::Integer(value) => Flag::Bad(value.to_string().into()),
            Any::Float(value) => Flag::Bad(written(value)),
            // YAML 1.1, as Kubernetes reads it.
            Any::Other(text) => match &*text.to_ascii_lowercase() {
                "y" | "yes" | "on" | "true" => Flag::Of(true),
                "n" | "no" | "off" | "false" => Flag::Of(false),
                _ => Flag::Bad(text),
            },
        })
    }
}
